//! Who is let in (`http-api.md` §2, §3): the one door of every transport. A token comes in, a [`Caller`] goes out.

use serde_json::Value;

use super::{Access, ApiParts};
use crate::auth::{AuthError, SecurityContext};
use crate::query::policy::Asker;

/// Who calls.
#[derive(Debug, Clone, Default)]
pub(super) struct Caller {
    /// The verified payload; none in development mode without a valid token, and on public endpoints.
    pub(super) context: Option<SecurityContext>,
    /// The operators' secret signed a token that asks for the inside of answers (§2.6).
    pub(super) signed_by_playground: bool,
}

impl Caller {
    /// Whether hidden members, request ids and names of tables are for this caller's eyes.
    pub(super) fn sees_inside(&self, parts: &ApiParts) -> bool {
        parts.options.dev_mode || self.signed_by_playground
    }

    /// The caller, as questions know it.
    pub(super) fn asker(&self, parts: &ApiParts) -> Asker {
        match &self.context {
            None => Asker::of(Value::Null),
            Some(context) => Asker::of(context.0.clone()).seen_by_models(parts.verifier.model_context(context)),
        }
    }
}

/// Authentication comes before scopes: who has neither hears of the token.
pub(super) async fn admit(parts: &ApiParts, access: Access, token: Option<&str>) -> Result<Caller, AuthError> {
    match access {
        Access::Public => Ok(Caller::default()),
        Access::Scoped(scope) => {
            let caller = authenticate(parts, token).await?;
            parts.scopes.check(scope)?;
            Ok(caller)
        }
    }
}

/// In development mode a missing or bad token is no obstacle, and gives no context.
pub(super) async fn authenticate(parts: &ApiParts, token: Option<&str>) -> Result<Caller, AuthError> {
    let verified = match token {
        None => Err(AuthError::Missing),
        Some(token) => match parts.verifier.verify(token).await {
            Ok(context) => Ok(Caller { context: Some(context), signed_by_playground: false }),
            // The first refusal counts, whatever the second key says.
            Err(error) => parts.verifier.verify_playground(token).map(playground).map_err(|_second| error),
        },
    };
    verified.or_else(|error| {
        if parts.options.dev_mode {
            return Ok(Caller::default());
        }
        if let AuthError::Invalid { cause } = &error {
            tracing::info!(cause, "token refused");
        }
        Err(error)
    })
}

fn playground(context: SecurityContext) -> Caller {
    let words = context.0.get("scope").and_then(Value::as_array);
    let signed_by_playground = words.is_some_and(|words| words.iter().any(|word| word == "dev-token"));
    Caller { context: Some(context), signed_by_playground }
}
