//! Users who act as others: `SET user`, `WHERE __user = …`, and who may (`canSwitchSqlUser`, `CUBEJS_SQL_SUPER_USER`).

use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use pgwire::api::ClientInfo;
use pgwire::error::PgWireResult;
use serde_json::json;

use super::fault::{fatal, fault};
use super::login::context_of;
use super::{Login, PgParts};
use crate::hooks::{HookError, Hooks};

/// Whom a user becomes who acts as another one; none when they may not.
pub type SwitchUser = Arc<dyn Fn(Login, String) -> BoxFuture<'static, Result<Option<Login>, HookError>> + Send + Sync>;

/// Lets switch who is a superuser by `checkSqlAuth`, whom `canSwitchSqlUser` lets, or, where there is no such hook, the
/// one user of that name. Without a project's hooks there is nobody else to become than `known`, if that is said.
pub fn switch_user(hooks: Option<Hooks>, superuser: Option<String>, known: Option<String>) -> SwitchUser {
    Arc::new(move |login, next| {
        let (hooks, superuser, known) = (hooks.clone(), superuser.clone(), known.clone());
        Box::pin(async move {
            let by_hook = match &hooks {
                Some(hooks) if !login.superuser => hooks.can_switch_sql_user(&login.user, &next).await?,
                _ => None,
            };
            let may = login.superuser || by_hook.unwrap_or_else(|| superuser.as_ref() == Some(&login.user));
            if !may {
                return Ok(None);
            }
            let request = json!({"protocol": "postgres", "method": "switch"});
            let found = match &hooks {
                Some(hooks) => hooks.check_sql_auth(&request, &next, None).await?,
                None => None,
            };
            Ok(match found {
                Some(found) => Some(Login { user: next, context: context_of(found), superuser: false }),
                None if known.as_ref().is_none_or(|known| *known == next) => {
                    Some(Login { user: next, ..Login::nobody() })
                }
                None => None,
            })
        })
    })
}

/// Whom the user of a connection acts as.
#[derive(Debug, Default)]
struct Acting(Mutex<Option<Login>>);

impl Acting {
    fn of<C: ClientInfo>(client: &C) -> Arc<Self> {
        client.session_extensions().get_or_insert_with(Self::default)
    }

    fn get(&self) -> Option<Login> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, login: Option<Login>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = login;
    }
}

/// Who was let in on a connection.
fn login_of<C: ClientInfo>(client: &C) -> PgWireResult<Login> {
    let login = client.session_extensions().get::<Login>();
    login.map(|login| Login::clone(&login)).ok_or_else(|| fatal("28000", "the connection was not let in"))
}

/// Who asks on a connection now: who was let in, or whom they act as; `named` for one statement alone. Whether they may
/// is asked of who was let in.
pub(super) async fn asker<C: ClientInfo + Sync>(
    parts: &PgParts,
    client: &C,
    named: Option<String>,
) -> PgWireResult<Login> {
    let current = match Acting::of(client).get() {
        Some(acting) => acting,
        None => login_of(client)?,
    };
    match named {
        Some(named) if named != current.user => become_user(parts, client, &named).await,
        _ => Ok(current),
    }
}

/// Acts as another user from now on.
pub(super) async fn act_as<C: ClientInfo + Sync>(parts: &PgParts, client: &C, user: &str) -> PgWireResult<()> {
    let acting = become_user(parts, client, user).await?;
    Acting::of(client).put(Some(acting));
    Ok(())
}

/// Is who was let in again.
pub(super) fn act_as_oneself<C: ClientInfo>(client: &C) {
    Acting::of(client).put(None);
}

async fn become_user<C: ClientInfo + Sync>(parts: &PgParts, client: &C, user: &str) -> PgWireResult<Login> {
    let login = login_of(client)?;
    if login.user == user {
        return Ok(login);
    }
    let name = login.user.clone();
    let found = (parts.switch)(login, user.to_owned()).await;
    let found = found.map_err(|error| {
        tracing::info!(user = name, next = user, %error, "a user of SQL may not act as another");
        fault("42501", format!("user '{name}' cannot act as '{user}': {error}"))
    })?;
    found.ok_or_else(|| {
        let text =
            format!("user '{name}' may not act as '{user}': canSwitchSqlUser or CUBEJS_SQL_SUPER_USER lets users");
        fault("42501", text)
    })
}
