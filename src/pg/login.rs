//! Lets clients in: a user and a password, in clear text inside of the connection.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use futures::Sink;
use futures::future::BoxFuture;
use pgwire::api::auth::cleartext::CleartextPasswordAuth;
use pgwire::api::auth::mechanism::AuthMechanismFactory as _;
use pgwire::api::auth::{
    AuthDriver, AuthOutcome, AuthSource, DefaultServerParameterProvider, LoginInfo, Password, StartupHandler,
    protocol_negotiation, save_startup_parameters_to_metadata,
};
use pgwire::api::{ClientInfo, ConnectionManager, METADATA_USER};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::fault::fatal;
use crate::hooks::{Hooks, SqlPassword, SqlUser};
use crate::sql::SERVER_VERSION;

/// Who was let in.
#[derive(Debug, Clone)]
pub struct Login {
    /// Their name.
    pub user: String,
    /// Their security context.
    pub context: Value,
    /// Whether they may act as anybody.
    pub superuser: bool,
}

impl Login {
    /// Nobody in particular, with an empty context.
    pub(super) fn nobody() -> Self {
        Self { user: String::new(), context: Value::Object(serde_json::Map::new()), superuser: false }
    }
}

/// The security context that `checkSqlAuth` gives a user.
pub(super) fn context_of(found: SqlUser) -> Value {
    if found.security_context.is_null() { json!({}) } else { found.security_context }
}

/// Checks a user and a password; none when they may not come in. `checkSqlAuth` of a `cube.js` is one.
pub type CheckSqlAuth = Arc<dyn Fn(String, String) -> BoxFuture<'static, Option<Login>> + Send + Sync>;

/// Lets in one user (any where none is set) with one password (any where none is set), with an empty context.
pub fn fixed_login(user: Option<String>, password: Option<String>) -> CheckSqlAuth {
    Arc::new(move |given_user, given_password| {
        let user_fits = user.as_ref().is_none_or(|user| *user == given_user);
        let password_fits = password.as_ref().is_none_or(|password| same(password, &given_password));
        let login = (user_fits && password_fits).then(|| Login { user: given_user, ..Login::nobody() });
        Box::pin(std::future::ready(login))
    })
}

/// Asks `checkSqlAuth` of the project; `without` where there is no such hook. A hook that fails lets nobody in.
pub fn hooked_login(hooks: Hooks, without: CheckSqlAuth) -> CheckSqlAuth {
    Arc::new(move |user, given| {
        let (hooks, without) = (hooks.clone(), Arc::clone(&without));
        Box::pin(async move {
            let request = json!({"protocol": "postgres", "method": "password"});
            let found = match hooks.check_sql_auth(&request, &user, Some(&given)).await {
                Ok(Some(found)) => found,
                Ok(None) => return without(user, given).await,
                Err(error) => {
                    tracing::info!(user, %error, "a user of SQL is not let in");
                    return None;
                }
            };
            let fits = match &found.password {
                SqlPassword::Any => true,
                SqlPassword::Is(password) => same(password, &given),
            };
            let superuser = found.superuser;
            fits.then(|| Login { user, context: context_of(found), superuser })
        })
    })
}

/// Compares in a time that does not tell how much is equal.
fn same(left: &str, right: &str) -> bool {
    let differ = left.bytes().zip(right.bytes()).fold(0_u8, |differ, (a, b)| differ | (a ^ b));
    left.len() == right.len() && differ == 0
}

/// A place among the connections.
struct Place(#[expect(dead_code, reason = "held as long as the connection")] OwnedSemaphorePermit);

struct Source(CheckSqlAuth);

impl Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

#[async_trait]
impl AuthSource<Login> for Source {
    async fn get_password(&self, login: &LoginInfo) -> PgWireResult<Password> {
        // Passwords are checked, never told.
        Err(PgWireError::InvalidPassword(login.user().unwrap_or_default().to_owned()))
    }

    async fn verify_password(&self, login: &LoginInfo, presented: &[u8]) -> PgWireResult<Option<Login>> {
        let user = login.user().unwrap_or_default().to_owned();
        let password = String::from_utf8_lossy(presented).into_owned();
        let checked = (self.0)(user.clone(), password).await;
        checked.map(Some).ok_or(PgWireError::InvalidPassword(user))
    }
}

/// The start of connections.
pub(super) struct LoginHandler {
    driver: AuthDriver<DefaultServerParameterProvider, Login>,
    factory: CleartextPasswordAuth<Source>,
    permits: Arc<Semaphore>,
}

impl LoginHandler {
    pub(super) fn new(check: CheckSqlAuth, connections: Arc<ConnectionManager>, permits: Arc<Semaphore>) -> Self {
        let mut told = DefaultServerParameterProvider::default();
        SERVER_VERSION.clone_into(&mut told.server_version);
        told.is_superuser = false;
        told.default_transaction_read_only = true;
        Self {
            driver: AuthDriver::new(told).with_connection_manager(connections),
            factory: CleartextPasswordAuth::new(Arc::new(Source(check))),
            permits,
        }
    }

    async fn proceed<C>(&self, client: &mut C, outcome: AuthOutcome<Login>) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match outcome {
            AuthOutcome::InProgress => Ok(()),
            AuthOutcome::Authenticated { final_message, identity, .. } => {
                let user = client.metadata().get(METADATA_USER).cloned().unwrap_or_default();
                let login = identity.ok_or(PgWireError::InvalidPassword(user))?;
                let permit = Arc::clone(&self.permits).try_acquire_owned();
                let permit = permit.map_err(|_full| fatal("53300", "sorry, too many clients already"))?;
                client.session_extensions().insert(Place(permit));
                client.session_extensions().insert(login);
                self.driver.complete_authentication(client, final_message).await
            }
        }
    }
}

#[async_trait]
impl StartupHandler for LoginHandler {
    async fn on_startup<C>(&self, client: &mut C, message: PgWireFrontendMessage) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match message {
            PgWireFrontendMessage::Startup(ref startup) => {
                protocol_negotiation(client, startup).await?;
                save_startup_parameters_to_metadata(client, startup);
                let outcome = self.driver.begin_authentication(client, self.factory.create()).await?;
                self.proceed(client, outcome).await
            }
            PgWireFrontendMessage::PasswordMessageFamily(message) => {
                let outcome = self.driver.advance_authentication(client, message).await?;
                self.proceed(client, outcome).await
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_with_one_password_is_let_in() {
        let check = |user: Option<&str>, password: Option<&str>, given: (&str, &str)| {
            let login = fixed_login(user.map(str::to_owned), password.map(str::to_owned));
            futures::executor::block_on(login(given.0.to_owned(), given.1.to_owned())).is_some()
        };
        assert!(check(Some("cube"), Some("secret"), ("cube", "secret")));
        assert!(!check(Some("cube"), Some("secret"), ("cube", "secre")));
        assert!(!check(Some("cube"), Some("secret"), ("cube", "secrex")));
        assert!(!check(Some("cube"), Some("secret"), ("other", "secret")));
        assert!(!check(Some("cube"), Some("secret"), ("cube", "")));
        assert!(check(None, None, ("anyone", "anything")));
    }
}
