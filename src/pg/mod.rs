//! Speaks PostgreSQL's wire protocol: sessions, statements, rows. What SQL means is [`crate::sql`]'s.
//!
//! Start with [`serve`]; `login` lets in, `session` answers, `encode` writes rows.

mod encode;
mod fault;
mod login;
mod parameters;
mod session;
mod settings;
mod switch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use pgwire::api::cancel::{CancelHandler, DefaultCancelHandler};
use pgwire::api::{ConnectionManager, PgWireServerHandlers};
use pgwire::tokio::process_socket;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use self::login::LoginHandler;
pub use self::login::{CheckSqlAuth, Login, fixed_login, hooked_login};
use self::session::SessionHandler;
pub use self::switch::{SwitchUser, switch_user};
use crate::sql::{Session, SqlError, SqlService};

/// What somebody who was let in sees, asked anew for each statement.
pub type Sessions = Arc<dyn Fn(Login) -> BoxFuture<'static, Result<Session, SqlError>> + Send + Sync>;

/// What connections are served with.
#[derive(Clone)]
pub struct PgParts {
    /// Answers SQL.
    pub sql: SqlService,
    /// Lets in.
    pub login: CheckSqlAuth,
    /// Lets users act as others.
    pub switch: SwitchUser,
    /// Makes the sessions of who was let in.
    pub sessions: Sessions,
    /// `CUBEJS_MAX_SESSIONS`: most connections at the same time.
    pub max_sessions: usize,
    /// How long a statement may run.
    pub query_timeout: Duration,
    /// How long a stopping server waits for what it is doing.
    pub patience: Duration,
}

impl fmt::Debug for PgParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgParts").field("max_sessions", &self.max_sessions).finish_non_exhaustive()
    }
}

/// The handlers of all connections.
struct Handlers {
    login: Arc<LoginHandler>,
    session: Arc<SessionHandler>,
    connections: Arc<ConnectionManager>,
}

impl PgWireServerHandlers for Handlers {
    fn simple_query_handler(&self) -> Arc<impl pgwire::api::query::SimpleQueryHandler> {
        Arc::clone(&self.session)
    }

    fn extended_query_handler(&self) -> Arc<impl pgwire::api::query::ExtendedQueryHandler> {
        Arc::clone(&self.session)
    }

    fn startup_handler(&self) -> Arc<impl pgwire::api::auth::StartupHandler> {
        Arc::clone(&self.login)
    }

    fn cancel_handler(&self) -> Arc<impl CancelHandler> {
        Arc::new(DefaultCancelHandler::new(Arc::clone(&self.connections)))
    }
}

/// Serves connections until `shutdown` ends, then lets running statements end for as long as patience lasts.
pub async fn serve(listener: TcpListener, parts: PgParts, shutdown: impl Future<Output = ()> + Send) {
    let connections = Arc::new(ConnectionManager::new());
    let permits = Arc::new(Semaphore::new(parts.max_sessions));
    let handlers = Arc::new(Handlers {
        login: Arc::new(LoginHandler::new(Arc::clone(&parts.login), Arc::clone(&connections), Arc::clone(&permits))),
        session: Arc::new(SessionHandler::new(parts.clone())),
        connections,
    });
    let tracker = TaskTracker::new();
    let stop = tokio_util::sync::CancellationToken::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "a SQL connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (handlers, stop) = (Arc::clone(&handlers), stop.clone());
        tracker.spawn(async move {
            let served = stop.run_until_cancelled(process_socket(socket, None, handlers)).await;
            if let Some(Err(error)) = served {
                tracing::debug!(%error, "a SQL connection broke");
            }
        });
    }
    tracker.close();
    handlers.session.close();
    if tokio::time::timeout(parts.patience, handlers.session.idle()).await.is_err() {
        tracing::warn!("some SQL statements did not end in time");
    }
    stop.cancel();
    tracker.wait().await;
}
