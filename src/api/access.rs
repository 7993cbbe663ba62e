//! Who is let in (`http-api.md` §2, §3): the one door of every transport. A token comes in, a [`Caller`] goes out;
//! between them are the hooks of `cube.js`, where there are any.

use std::sync::Arc;

use axum::http::{HeaderMap, Method, Uri};
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::{Access, ApiParts, extract};
use crate::auth::scope::{Scope, Scopes};
use crate::auth::{AuthError, SecurityContext, token_of};
use crate::hooks::{Admission, Entry, HookError, Hooks, RequestHead};
use crate::query::policy::Asker;
use crate::query::rollups::CurrentModel;

/// Somebody at the door.
#[derive(Debug)]
pub(super) struct Entrant<'a> {
    /// The request's id.
    pub(super) id: &'a str,
    pub(super) method: &'a Method,
    pub(super) uri: &'a Uri,
    pub(super) headers: &'a HeaderMap,
    /// The token; over HTTP that of the headers.
    pub(super) token: Option<&'a str>,
}

impl<'a> Entrant<'a> {
    /// Of an HTTP request.
    pub(super) fn of_request(id: &'a str, method: &'a Method, uri: &'a Uri, headers: &'a HeaderMap) -> Self {
        let header = |name| extract::header_text(headers, name);
        let token = token_of(header("x-cube-authorization"), header("authorization"));
        Self { id, method, uri, headers, token }
    }

    fn head(&self) -> RequestHead {
        let text = |value: &axum::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let mut head = RequestHead {
            method: self.method.to_string(),
            url: self.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            query: extract::url_arguments(self.uri),
            ..RequestHead::default()
        };
        for (name, value) in self.headers {
            let known = head.headers.entry(name.to_string()).or_default();
            if !known.is_empty() {
                known.push_str(", ");
            }
            known.push_str(&text(value));
        }
        head
    }
}

/// Who calls; the default is nobody in particular.
#[derive(Debug, Clone, Default)]
pub(super) struct Caller {
    /// The verified payload; none in development mode without a valid token, and on public endpoints.
    pub(super) context: Option<SecurityContext>,
    /// The operators' secret signed a token that asks for the inside of answers (§2.6).
    pub(super) signed_by_playground: bool,
    /// What the caller may do; the settings say it where no hook does.
    scopes: Option<Scopes>,
    /// What hooks are handed; none where there are no hooks.
    request: Option<Value>,
    /// The groups that a hook has put the caller in.
    groups: Option<Vec<String>>,
    /// The caller's own model, where there are several.
    pub(super) model: Option<Arc<CurrentModel>>,
}

impl Caller {
    /// Somebody with this payload, as hooks would leave it.
    #[cfg(test)]
    pub(super) fn with(context: SecurityContext) -> Self {
        Self { context: Some(context), ..Self::default() }
    }

    /// Whether hidden members, request ids and names of tables are for this caller's eyes.
    pub(super) fn sees_inside(&self, parts: &ApiParts) -> bool {
        parts.options.dev_mode || self.signed_by_playground
    }

    /// The caller, as questions know it.
    pub(super) fn asker(&self, parts: &ApiParts) -> Asker {
        let asker = match &self.context {
            None => Asker::of(Value::Null),
            Some(context) => Asker::of(context.0.clone()).seen_by_models(parts.verifier.model_context(context)),
        };
        self.in_groups(asker)
    }

    fn in_groups(&self, asker: Asker) -> Asker {
        match &self.groups {
            Some(groups) => Asker { groups: groups.clone(), ..asker },
            None => asker,
        }
    }

    /// Equal for callers to whom every question is answered alike.
    pub(super) fn key(&self) -> String {
        let mut request = self.request.clone().unwrap_or_default();
        if let Some(request) = request.as_object_mut() {
            request.remove("requestId");
        }
        let context = self.context.as_ref().map(|context| &context.0);
        let scopes = self.scopes.as_ref().map(Scopes::words);
        let mut key = json!([context, self.signed_by_playground, scopes, request, self.groups]);
        key.sort_all_objects();
        key.to_string()
    }

    /// The request context that hooks are handed.
    pub(super) fn request(&self) -> Value {
        self.request.clone().unwrap_or_else(|| Value::Object(Map::new()))
    }

    /// The same caller a while later, with the model and the groups that are theirs now: who stays connected is not let
    /// in anew for each question.
    ///
    /// # Errors
    /// A hook fails, or the model has faults for this context.
    pub(super) async fn renewed(&self, parts: &ApiParts) -> Result<Self, ApiError> {
        let (Some(hooks), Some(request)) = (&parts.hooks, &self.request) else { return Ok(self.clone()) };
        let (model, groups) = belonging(parts, hooks, request).await?;
        Ok(Self { model, groups, ..self.clone() })
    }

    /// Whether both see one model and are in the same groups.
    pub(super) fn sees_as(&self, other: &Self) -> bool {
        let instance = |caller: &Self| caller.model.as_ref().map(|model| model.rollups.instance());
        instance(self) == instance(other) && self.groups == other.groups
    }
}

/// Authentication comes before scopes: who has neither hears of the token.
///
/// # Errors
/// The caller is not known or lacks the scope, or a hook fails.
pub(super) async fn admit(parts: &ApiParts, access: Access, entrant: &Entrant<'_>) -> Result<Caller, ApiError> {
    match (access, &parts.hooks) {
        (Access::Public, _) => Ok(Caller::default()),
        (Access::Operator, hooks) => {
            let token = entrant.token.ok_or(AuthError::Missing);
            let verified = token.and_then(|token| parts.verifier.verify_playground(token));
            let operator = or_developer(parts, verified.map(playground))?;
            match hooks {
                Some(hooks) => Box::pin(extend(hooks, entrant, operator)).await,
                None => Ok(operator),
            }
        }
        (access, Some(hooks)) => Box::pin(admit_by_hooks(parts, hooks, entrant, access)).await,
        (access, None) => {
            let caller = authenticate(parts, entrant.token).await?;
            permit(parts, access, &caller)?;
            Ok(caller)
        }
    }
}

/// Lets a caller to an endpoint who was admitted before.
pub(super) fn permit(parts: &ApiParts, access: Access, caller: &Caller) -> Result<(), AuthError> {
    match access {
        Access::Public | Access::Authenticated => Ok(()),
        Access::Scoped(scope) => caller.scopes.as_ref().unwrap_or(&parts.scopes).check(scope),
        // Their secret is asked for at the door alone.
        Access::Operator => Err(AuthError::Invalid { cause: "the endpoint is for operators".to_owned() }),
    }
}

/// An operator with the context that hooks make of theirs. Whether operators may come in is not for hooks to say, and
/// their model is looked for only where it is needed ([`Caller::renewed`]): some tokens tell of no tenant.
async fn extend(hooks: &Hooks, entrant: &Entrant<'_>, operator: Caller) -> Result<Caller, ApiError> {
    let entry = Entry {
        id: entrant.id,
        token: entrant.token,
        context: operator.context.as_ref().map(|context| &context.0),
        signed_by_playground: operator.signed_by_playground,
        ..Entry::default()
    };
    let admission = hooks.admit(&entrant.head(), entry).await?;
    let context = admission.security_context().cloned().map(SecurityContext);
    Ok(Caller { context, request: Some(admission.request), ..operator })
}

async fn admit_by_hooks(
    parts: &ApiParts,
    hooks: &Hooks,
    entrant: &Entrant<'_>,
    access: Access,
) -> Result<Caller, ApiError> {
    let operator = entrant.token.and_then(|token| parts.verifier.verify_playground(token).ok()).map(playground);
    let checks = hooks.has("checkAuth") && operator.is_none();
    let caller = match operator {
        _ if checks => Caller::default(),
        Some(operator) => operator,
        None => authenticate(parts, entrant.token).await?,
    };
    let entry = Entry {
        id: entrant.id,
        token: entrant.token,
        checks,
        context: caller.context.as_ref().map(|context| &context.0),
        signed_by_playground: caller.signed_by_playground,
        scopes: Some(parts.scopes.words()),
    };
    let admission = hooks.admit(&entrant.head(), entry).await?;
    let scopes = admission.scopes.as_deref().map(of_hook).transpose()?;
    let caller = Caller { scopes, ..caller };
    permit(parts, access, &caller)?;
    settle(parts, hooks, admission, caller).await
}

/// A caller whose security context another door has found: a user of SQL.
///
/// # Errors
/// A hook fails, or the model has faults for this context.
pub(super) async fn admit_known(parts: &ApiParts, id: &str, context: Value) -> Result<Caller, ApiError> {
    let Some(hooks) = &parts.hooks else {
        return Ok(Caller { context: Some(SecurityContext(context)), ..Caller::default() });
    };
    let head = RequestHead { method: "password".to_owned(), ..RequestHead::default() };
    let entry = Entry { id, context: Some(&context), ..Entry::default() };
    let admission = hooks.admit(&head, entry).await?;
    settle(parts, hooks, admission, Caller::default()).await
}

/// The caller with what belongs to the context that the hooks have left.
async fn settle(parts: &ApiParts, hooks: &Hooks, admission: Admission, caller: Caller) -> Result<Caller, ApiError> {
    let context = admission.security_context().cloned().map(SecurityContext);
    if let Some(SecurityContext(odd)) = context.as_ref().filter(|context| !context.0.is_object()) {
        tracing::warn!(request_id = %admission.request["requestId"], "the security context is no object but {odd}");
    }
    let (model, groups) = belonging(parts, hooks, &admission.request).await?;
    Ok(Caller { context, request: Some(admission.request), groups, model, ..caller })
}

/// The model of a request context, where there are several, and the groups that a hook puts it in.
async fn belonging(
    parts: &ApiParts,
    hooks: &Hooks,
    request: &Value,
) -> Result<(Option<Arc<CurrentModel>>, Option<Vec<String>>), ApiError> {
    let belongings = hooks.belongings(request).await?;
    let model = match &parts.tenants {
        Some(tenants) => Some(tenants.model(&belongings, request).await?),
        None => None,
    };
    Ok((model, belongings.groups))
}

/// The scopes that `contextToApiScopes` gave.
fn of_hook(words: &[String]) -> Result<Scopes, HookError> {
    match words.iter().find(|word| Scope::parse(word).is_none()) {
        None => Ok(Scopes::from_words(words.iter().map(String::as_str))),
        Some(wrong) => Err(HookError::Nonsense(format!(
            "A user-defined contextToApiScopes function returns a wrong scope: {wrong}"
        ))),
    }
}

/// In development mode a missing or bad token is no obstacle, and gives no context.
async fn authenticate(parts: &ApiParts, token: Option<&str>) -> Result<Caller, AuthError> {
    let verified = match token {
        None => Err(AuthError::Missing),
        Some(token) => match parts.verifier.verify(token).await {
            Ok(context) => Ok(Caller { context: Some(context), ..Caller::default() }),
            // The first refusal counts, whatever the second key says.
            Err(error) => parts.verifier.verify_playground(token).map(playground).map_err(|_second| error),
        },
    };
    or_developer(parts, verified)
}

fn or_developer(parts: &ApiParts, verified: Result<Caller, AuthError>) -> Result<Caller, AuthError> {
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
    Caller { context: Some(context), signed_by_playground, ..Caller::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_hook_gives_known_scopes_only() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert!(of_hook(&words(&["meta", "jobs"])).expect("known").check(Scope::Jobs).is_ok());
        assert!(of_hook(&[]).expect("none").check(Scope::Meta).is_err());
        let wrong = of_hook(&words(&["meta", "everything"])).expect_err("unknown").to_string();
        assert_eq!(wrong, "Error: A user-defined contextToApiScopes function returns a wrong scope: everything");
    }

    #[test]
    fn hooks_see_the_head_of_a_request() {
        let headers = HeaderMap::from_iter([
            ("x-tenant".parse().expect("a name"), "acme".parse().expect("a value")),
            ("authorization".parse().expect("a name"), "Bearer t".parse().expect("a value")),
        ]);
        let uri = Uri::from_static("/cubejs-api/v1/meta?a=1");
        let entrant = Entrant::of_request("r", &Method::GET, &uri, &headers);
        assert_eq!(entrant.token, Some("t"));
        let head = entrant.head();
        assert_eq!((head.method.as_str(), head.url.as_str()), ("GET", "/cubejs-api/v1/meta?a=1"));
        assert_eq!(head.headers["x-tenant"], "acme");
        assert_eq!(head.query["a"], "1");
    }

    #[test]
    fn groups_of_a_hook_are_stronger_than_claims() {
        let claimed = || Asker::of(json!({"groups": ["claimed"]}));
        assert_eq!(Caller::default().in_groups(claimed()).groups, ["claimed"]);
        let caller = Caller { groups: Some(Vec::new()), ..Caller::default() };
        assert_eq!(caller.in_groups(claimed()).groups, [""; 0]);
    }
}
