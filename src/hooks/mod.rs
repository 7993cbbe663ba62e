//! `cube.js`: the options that it gives, and its hooks (`http-api.md` §14).
//!
//! [`CubeJs`] is the file, read and checked; [`Hooks`] calls its functions on threads of their own ([`pool`]), each
//! within limits of memory, stack and time. Nothing is cached between calls: hooks may look at the clock or keep state.
//! A hook that fails is an error of the request that needs it; it never lets anybody in.

mod drivers;
mod options;
mod pool;
mod project;
mod settings;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

pub use self::drivers::Folders;
pub use self::options::Options;
use self::pool::{Call, Engine, Pool, Program};
pub use self::project::foreign;
use self::project::{MAIN, ProjectFiles};
use crate::script::{Fault, Limits, on_own_stack};

/// Why a hook did not say what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// It threw.
    #[error("{text}")]
    Thrown {
        /// Its name.
        hook: String,
        /// What was thrown, as a text: `Error: Access denied`.
        text: String,
        /// Where; empty when that is not known.
        place: String,
        /// The status that an error of Cube's gateway chose.
        status: Option<u16>,
        /// The bare message of such an error.
        message: Option<String>,
    },
    /// It did not come to its end, or what it gave cannot be read.
    #[error("Error: {} of cube.js failed: {}", name_of(.hook), .fault.message)]
    Failed {
        /// Its name; empty when none was called yet.
        hook: String,
        /// What happened.
        fault: Fault,
    },
    /// It gave something that makes no sense; the text is complete.
    #[error("Error: {0}")]
    Nonsense(String),
    /// Too many calls wait.
    #[error("Error: the hooks of cube.js are busy: too many requests wait for them")]
    Busy,
    /// The thread that ran it is gone.
    #[error("Error: a hook of cube.js was lost; the server's log says why")]
    Lost,
}

impl HookError {
    /// Where it happened, for the log.
    pub fn place(&self) -> String {
        match self {
            Self::Thrown { hook, place, .. } => format!("{hook} {place}"),
            Self::Failed { hook, fault } => format!("{hook} {fault}"),
            Self::Nonsense(_) | Self::Busy | Self::Lost => String::new(),
        }
    }
}

fn name_of(hook: &str) -> &str {
    if hook.is_empty() { "the file" } else { hook }
}

impl From<Fault> for HookError {
    fn from(fault: Fault) -> Self {
        Self::Failed { hook: String::new(), fault }
    }
}

/// A `cube.js` that was read and checked.
#[derive(Debug, Clone)]
pub struct CubeJs {
    program: Arc<Program>,
    options: Arc<Options>,
}

impl CubeJs {
    /// Runs the file of a project once; none when there is none.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(project: &Path, env: &BTreeMap<String, String>, limits: Limits) -> Result<Option<Self>, Vec<String>> {
        let file = project.join(MAIN);
        if !file.is_file() {
            return Ok(None);
        }
        let program = Program { files: ProjectFiles::read(project), env: json!(env), limits };
        let ran = on_own_stack(limits, || Engine::start(&program).map(|(_, exported)| exported));
        let exported = match ran {
            Ok(Ok(exported)) => exported,
            Ok(Err(fault)) => return Err(vec![fault.to_string()]),
            Err(error) => return Err(vec![format!("{MAIN} cannot be run: {error}")]),
        };
        let (options, mut faults) = Options::check(exported);
        if options.has("driverFactory") && options.has("contextToOrchestratorId") {
            faults.push(
                "\"driverFactory\" beside contextToOrchestratorId is not allowed: in this version of Quarry a data source \
                 is the same for all callers"
                    .to_owned(),
            );
        }
        if !faults.is_empty() {
            let name = |fault| format!("{MAIN}: Invalid cube-server-core options: {fault}");
            return Err(faults.into_iter().map(name).collect());
        }
        Ok(Some(Self { program: Arc::new(program), options: Arc::new(options) }))
    }

    /// The options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The options that stand for a setting of the environment, which they overrule: its name and value.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        settings::settings(&self.options)
    }

    /// What is there and has no effect, in words for the log.
    pub fn warnings(&self) -> Vec<String> {
        let ignored = self.options.ignored();
        let mut warnings: Vec<String> = Vec::new();
        if !ignored.is_empty() {
            warnings.push(format!("{MAIN}: {} have no effect in this version of Quarry", ignored.join(", ")));
        }
        if self.options.has("contextToAppId") && !self.options.has("scheduledRefreshContexts") {
            warnings.push(format!(
                "{MAIN}: contextToAppId without scheduledRefreshContexts: the background builds for the empty context only"
            ));
        }
        warnings
    }
}

/// The head of a request, as hooks see it.
#[derive(Debug, Clone, Default)]
pub struct RequestHead {
    /// `GET`, `POST`…
    pub method: String,
    /// The path with its query.
    pub url: String,
    /// By lower-case name.
    pub headers: BTreeMap<String, String>,
    /// The query of the URL.
    pub query: Map<String, Json>,
}

/// What decides who asks.
#[derive(Debug, Default)]
pub struct Entry<'a> {
    /// The request's id.
    pub id: &'a str,
    /// The token, as it was sent.
    pub token: Option<&'a str>,
    /// Whether `checkAuth` is asked.
    pub checks: bool,
    /// The security context that the token has already given; `checkAuth` gives its own.
    pub context: Option<&'a Json>,
    /// Whether the operators' secret signed the token.
    pub signed_by_playground: bool,
    /// The scopes by default, where scopes matter.
    pub scopes: Option<Vec<&'static str>>,
}

/// Who was let in.
#[derive(Debug, Clone, PartialEq)]
pub struct Admission {
    /// The request context: what further hooks are handed.
    pub request: Json,
    /// The scopes that `contextToApiScopes` gives; none without that hook.
    pub scopes: Option<Vec<String>>,
}

impl Admission {
    /// The security context; none when nobody gave one.
    pub fn security_context(&self) -> Option<&Json> {
        self.request.get("securityContext").filter(|context| !context.is_null())
    }
}

/// What a request context belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Belongings {
    /// The compiled model (`contextToAppId`).
    pub app: Option<String>,
    /// Connections, queues and jobs (`contextToOrchestratorId`).
    pub orchestrator: Option<String>,
    /// The version of the model (`schemaVersion`).
    pub schema_version: Option<String>,
    /// Groups of access policies (`contextToGroups`, or the older `contextToRoles`).
    pub groups: Option<Vec<String>>,
}

/// A user of the SQL API, as `checkSqlAuth` describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct SqlUser {
    /// What the client must prove to know.
    pub password: SqlPassword,
    /// Whether the user may act as anybody.
    pub superuser: bool,
    /// Who asks; null when the hook does not say.
    pub security_context: Json,
}

/// What a client of the SQL API must prove to know.
#[derive(Clone, PartialEq, Eq)]
pub enum SqlPassword {
    /// This text.
    Is(String),
    /// Nothing: the hook has seen to it.
    Any,
}

impl fmt::Debug for SqlPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Is(_) => "Is(_)",
            Self::Any => "Any",
        })
    }
}

/// The request context of a security context that comes from no request.
fn context_of(security_context: &Json) -> Json {
    json!({"securityContext": security_context, "authInfo": security_context})
}

/// Calls the functions of a `cube.js`. Clones share its threads.
#[derive(Clone)]
pub struct Hooks {
    pool: Arc<Pool>,
    options: Arc<Options>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Hooks {
    /// Over a file. Threads are started when they are needed.
    pub fn new(cube: &CubeJs) -> Self {
        Self { pool: Arc::new(Pool::new(Program::clone(&cube.program))), options: Arc::clone(&cube.options) }
    }

    /// Whether there is a function of that name.
    pub fn has(&self, name: &str) -> bool {
        self.options.has(name)
    }

    /// Authentication, request context and scopes, in that order; without such hooks what there is already.
    ///
    /// # Errors
    /// One of the hooks fails, or makes no sense.
    pub async fn admit(&self, head: &RequestHead, entry: Entry<'_>) -> Result<Admission, HookError> {
        if !["checkAuth", "extendContext", "contextToApiScopes"].iter().any(|name| self.has(name)) {
            let mut request =
                json!({"requestId": entry.id, "signedWithPlaygroundAuthSecret": entry.signed_by_playground});
            if let Some(context) = entry.context {
                request["securityContext"] = context.clone();
                request["authInfo"] = context.clone();
            }
            return Ok(Admission { request, scopes: None });
        }
        let path = head.url.split('?').next().unwrap_or_default();
        let input = json!({
            "request": {"method": head.method, "url": head.url, "path": path, "headers": head.headers, "query": head.query},
            "requestId": entry.id,
            "token": entry.token,
            "checks": entry.checks,
            "signedByPlayground": entry.signed_by_playground,
            "context": entry.context,
            "scopes": entry.scopes,
        });
        let mut found = self.call("__admit", vec![input]).await?;
        let scopes = match found["scopes"].take() {
            Json::Null => None,
            Json::Array(list) => Some(list.iter().filter_map(Json::as_str).map(str::to_owned).collect()),
            _ => {
                return Err(HookError::Nonsense(
                    "A user-defined contextToApiScopes function returns an inconsistent type.".to_owned(),
                ));
            }
        };
        Ok(Admission { request: found["context"].take(), scopes })
    }

    /// What a request context belongs to.
    ///
    /// # Errors
    /// One of the hooks fails, or makes no sense.
    pub async fn belongings(&self, request: &Json) -> Result<Belongings, HookError> {
        let groups = ["contextToGroups", "contextToRoles"].into_iter().find(|name| self.has(name));
        let named = ["contextToAppId", "contextToOrchestratorId", "schemaVersion"];
        let names: Vec<&str> = named.into_iter().filter(|name| self.has(name)).chain(groups).collect();
        if names.is_empty() {
            return Ok(Belongings::default());
        }
        let found = self.call("__belongings", vec![request.clone(), json!(names)]).await?;
        let id = |name: &str| match &found[name] {
            _ if !self.has(name) => Ok(None),
            Json::String(id) => Ok(Some(id.clone())),
            Json::Number(id) => Ok(Some(id.to_string())),
            Json::Null => Err(HookError::Nonsense(format!("{name} of cube.js gave nothing, not a string"))),
            other => Err(HookError::Nonsense(format!("{name} of cube.js gave {other}, not a string"))),
        };
        let groups = match groups.map(|name| (name, &found[name])) {
            None => None,
            Some((_, Json::Array(list))) if list.iter().all(Json::is_string) => {
                Some(list.iter().filter_map(Json::as_str).map(str::to_owned).collect())
            }
            Some((name, other)) => {
                return Err(HookError::Nonsense(format!("{name} of cube.js gave {other}, not an array of strings")));
            }
        };
        Ok(Belongings {
            app: id("contextToAppId")?,
            orchestrator: id("contextToOrchestratorId")?,
            schema_version: id("schemaVersion")?,
            groups,
        })
    }

    /// Prefix of table names (`preAggregationsSchema`), where it is a function.
    ///
    /// # Errors
    /// It fails, or gives no text.
    pub async fn preagg_schema(&self, request: &Json) -> Result<Option<String>, HookError> {
        let Some(given) = self.given("preAggregationsSchema", vec![request.clone()]).await? else { return Ok(None) };
        match given {
            Json::String(schema) => Ok(Some(schema)),
            other => Err(HookError::Nonsense(format!("preAggregationsSchema of cube.js gave {other}, not a string"))),
        }
    }

    /// The security contexts that the background builds for; the empty one for entries without, and without that hook.
    ///
    /// # Errors
    /// It fails, or gives no list of contexts.
    pub async fn background_contexts(&self) -> Result<Vec<Json>, HookError> {
        let given = self.given_contexts().await?.unwrap_or_else(|| vec![None]);
        Ok(given.into_iter().map(|context| context.unwrap_or_else(|| Json::Object(Map::new()))).collect())
    }

    /// The security contexts of the entries that `scheduledRefreshContexts` gives; none without that hook.
    ///
    /// # Errors
    /// It fails, or gives no list of contexts.
    pub async fn given_contexts(&self) -> Result<Option<Vec<Option<Json>>>, HookError> {
        const NAME: &str = "scheduledRefreshContexts";
        let Some(given) = self.given(NAME, Vec::new()).await? else { return Ok(None) };
        let odd = |what: &Json| HookError::Nonsense(format!("{NAME} of cube.js gave {what}, not a list of contexts"));
        let list = given.as_array().ok_or_else(|| odd(&given))?;
        let context = |entry: &Json| match entry {
            Json::Null => Ok(None),
            Json::Object(fields) => Ok(fields.get("securityContext").filter(|context| !context.is_null()).cloned()),
            other => Err(odd(other)),
        };
        list.iter().map(context).collect::<Result<_, _>>().map(Some)
    }

    /// The names of the zones that the background builds for (`scheduledRefreshTimeZones`), where it is a function.
    ///
    /// # Errors
    /// It fails, or gives no list of texts.
    pub async fn background_zones(&self, security_context: &Json) -> Result<Option<Vec<String>>, HookError> {
        const NAME: &str = "scheduledRefreshTimeZones";
        let Some(given) = self.given(NAME, vec![context_of(security_context)]).await? else { return Ok(None) };
        let zones = given.as_array().filter(|list| list.iter().all(Json::is_string));
        let zones = zones.map(|list| list.iter().filter_map(Json::as_str).map(str::to_owned).collect());
        zones
            .map(Some)
            .ok_or_else(|| HookError::Nonsense(format!("{NAME} of cube.js gave {given}, not a list of zones")))
    }

    /// What belongs to a security context that comes from no request.
    ///
    /// # Errors
    /// As [`Hooks::belongings`].
    pub async fn belongings_of(&self, security_context: &Json) -> Result<(Belongings, Json), HookError> {
        let request = context_of(security_context);
        Ok((self.belongings(&request).await?, request))
    }

    /// What `checkSqlAuth` says of a user of the SQL API; none without that hook.
    ///
    /// # Errors
    /// It fails, or does not say what it has to.
    pub async fn check_sql_auth(
        &self,
        request: &Json,
        user: &str,
        password: Option<&str>,
    ) -> Result<Option<SqlUser>, HookError> {
        const NAME: &str = "checkSqlAuth";
        let arguments = vec![request.clone(), user.into(), json!(password)];
        let Some(given) = self.given(NAME, arguments).await? else { return Ok(None) };
        let password = match &given["password"] {
            Json::Null => None,
            Json::String(text) => Some(text.clone()),
            other => {
                return Err(HookError::Nonsense(format!("{NAME} of cube.js gave the password {other}, not a string")));
            }
        };
        if !given.is_object() {
            return Err(HookError::Nonsense(format!("{NAME} of cube.js gave {given}, not a user")));
        }
        let field = |names: [&str; 2]| names.iter().find_map(|name| given.get(*name)).cloned().unwrap_or_default();
        Ok(Some(SqlUser {
            // Cube lets a user in whose password the hook does not give and does not ask to skip: nobody could be told
            // from anybody then.
            password: match (password, field(["skipPasswordCheck", "skip_password_check"]) == Json::Bool(true)) {
                (_, true) => SqlPassword::Any,
                (Some(text), false) => SqlPassword::Is(text),
                (None, false) => {
                    return Err(HookError::Nonsense(format!(
                        "{NAME} of cube.js gave no password, and no skipPasswordCheck"
                    )));
                }
            },
            superuser: given["superuser"] == Json::Bool(true),
            security_context: field(["securityContext", "security_context"]),
        }))
    }

    /// Whether a user of the SQL API may act as another one (`canSwitchSqlUser`); none without that hook.
    ///
    /// # Errors
    /// It fails.
    pub async fn can_switch_sql_user(&self, current: &str, next: &str) -> Result<Option<bool>, HookError> {
        let given = self.given("canSwitchSqlUser", vec![current.into(), next.into()]).await?;
        Ok(given.map(|given| given == Json::Bool(true)))
    }

    /// Tells the project's `logger`; nobody waits for it, and nothing depends on it.
    pub fn log(&self, message: &'static str, params: &Json) {
        if self.has("logger") {
            self.pool.tell(Call { function: "__call", arguments: vec!["logger".into(), json!([message, params])] });
        }
    }

    /// What a hook gives; none when it is not there.
    async fn given(&self, name: &str, arguments: Vec<Json>) -> Result<Option<Json>, HookError> {
        if !self.has(name) {
            return Ok(None);
        }
        let mut answer = self.call("__call", vec![name.into(), Json::Array(arguments)]).await?;
        Ok(Some(answer["given"].take()))
    }

    /// Whether queries are rewritten.
    pub fn rewrites(&self) -> bool {
        self.rewriter().is_some()
    }

    fn rewriter(&self) -> Option<&'static str> {
        ["queryRewrite", "queryTransformer"].into_iter().find(|name| self.has(name))
    }

    /// `queryRewrite` of every query; the queries themselves without that hook.
    ///
    /// # Errors
    /// The hook fails, or gives something else than a query.
    pub async fn rewrite(&self, queries: Vec<Json>, request: &Json) -> Result<Vec<Json>, HookError> {
        let Some(name) = self.rewriter() else { return Ok(queries) };
        let expected = queries.len();
        match self.call("__rewrite", vec![name.into(), Json::Array(queries), request.clone()]).await? {
            Json::Array(rewritten) if rewritten.len() == expected => Ok(rewritten),
            other => Err(HookError::Nonsense(format!("{name} of cube.js gave {other}"))),
        }
    }

    async fn call(&self, function: &'static str, arguments: Vec<Json>) -> Result<Json, HookError> {
        self.pool.call(Call { function, arguments }).await
    }
}

#[cfg(test)]
mod tests;
