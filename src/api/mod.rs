//! Speaks HTTP: the one room that knows routes, status codes and the JSON shapes of the wire.
//!
//! [`ROUTES`] is the whole surface: an endpoint exists only with a declared [`Access`]. Every request
//! walks the same way ([`dispatch`]): id → route → token → scope → arguments → handler → answer.
//! A request takes one model and one snapshot and keeps them.

mod accept;
mod access;
mod annotation;
mod can_use;
mod cors;
mod cubesql;
mod dry_run;
mod echo;
mod error;
mod explain;
mod export;
mod extract;
mod finished;
mod graphql;
mod health;
mod jobs;
mod listen;
mod live;
mod load;
mod meta;
mod openapi;
mod question;
mod refresh;
mod rewrite;
mod rows;
mod running;
mod shown;
mod sql;
mod store;
mod system;
mod transformed;
mod wire;

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use quarry_storage::Store;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};

use self::access::{Caller, Entrant};
use self::error::ApiError;
use crate::auth::jwt::Verifier;
use crate::auth::scope::{Scope, Scopes};
use crate::hooks::Hooks;
use crate::query::execute::QueryService;
use crate::query::normalize::Limits;
use crate::query::policy::Asker;
use crate::query::rollups::CurrentModel;
use crate::query::tenants::Tenants;
use crate::refresh::Refresher;
use crate::sql::SqlService;
use crate::tasks::Tasks;
use crate::time::{Clock, Zone};

pub use self::cors::{Cors, CorsError, CorsOptions, CorsOrigin};
pub use self::export::Exports;
pub use self::finished::Finished;
pub use self::graphql::Schemas as GraphqlSchemas;
pub use self::health::Probes;
pub use self::listen::ConnectionLimits;
pub use self::store::describe_rollback;
pub use self::wire::{parse_request, parse_zone};

/// Answers shorter than this are not compressed, in bytes.
const MIN_COMPRESSED_BYTES: u64 = 1024;

/// What the paths of Cube's endpoints begin with, unless the settings say otherwise.
pub const BASE_PATH: &str = "/cubejs-api";

/// What an endpoint asks of its callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Nothing: no token is looked at.
    Public,
    /// A valid token, whatever its caller may do.
    Authenticated,
    /// A valid token whose caller has the scope.
    Scoped(Scope),
    /// A token of the operators' secret; without that secret the endpoint does not exist.
    Operator,
}

impl Route {
    fn is_there(&self, parts: &ApiParts) -> bool {
        self.access != Access::Operator || parts.verifier.has_playground()
    }

    /// Whether the path is this endpoint's, and what stands for `{name}` in it.
    fn matches<'p>(&self, path: &'p str) -> Option<Option<&'p str>> {
        match self.path.split_once("{name}") {
            None => (path == self.path).then_some(None),
            Some((start, end)) => {
                let name = path.strip_prefix(start)?.strip_suffix(end)?;
                (!name.is_empty() && !name.contains('/')).then_some(Some(name))
            }
        }
    }
}

type Handler = for<'a> fn(&'a ApiParts, &'a Call) -> BoxFuture<'a, Result<Response<Body>, ApiError>>;

/// An endpoint.
struct Route {
    methods: &'static [Method],
    /// As clients write it; a part `{name}` stands for any one word.
    path: &'static str,
    access: Access,
    handle: Handler,
}

/// Every endpoint there is. `HEAD` is answered where `GET` is; `OPTIONS` everywhere (see [`cors`]).
static ROUTES: &[Route] = &[
    Route {
        methods: &[Method::GET],
        path: "/",
        access: Access::Public,
        handle: |parts, _| async { Ok(health::root(parts)) }.boxed(),
    },
    Route {
        methods: &[Method::GET],
        path: "/livez",
        access: Access::Public,
        handle: |parts, _| async { Ok(health::live(parts).await) }.boxed(),
    },
    Route {
        methods: &[Method::GET],
        path: "/readyz",
        access: Access::Public,
        handle: |parts, _| async { Ok(health::ready(parts).await) }.boxed(),
    },
    Route {
        methods: &[Method::GET, Method::POST],
        path: "/cubejs-api/v1/load",
        access: Access::Scoped(Scope::Data),
        handle: |parts, call| load::load(parts, call).boxed(),
    },
    Route {
        methods: &[Method::DELETE],
        path: "/cubejs-api/v1/running-query/{name}",
        access: Access::Authenticated,
        handle: |parts, call| async { Ok(running::cancel(parts, call)) }.boxed(),
    },
    // Over HTTP a subscription is a client that asks again.
    Route {
        methods: &[Method::GET, Method::POST],
        path: "/cubejs-api/v1/subscribe",
        access: Access::Scoped(Scope::Data),
        handle: |parts, call| load::load(parts, call).boxed(),
    },
    Route {
        methods: &[Method::GET, Method::POST],
        path: "/cubejs-api/v1/sql",
        access: Access::Scoped(Scope::Sql),
        handle: |parts, call| sql::sql(parts, call).boxed(),
    },
    Route {
        methods: &[Method::POST],
        path: "/cubejs-api/v1/cubesql",
        access: Access::Scoped(Scope::Data),
        handle: |parts, call| cubesql::cubesql(parts, call).boxed(),
    },
    Route {
        methods: &[Method::POST],
        path: "/cubejs-api/v1/convert-query",
        access: Access::Scoped(Scope::Sql),
        handle: |parts, call| cubesql::convert(parts, call).boxed(),
    },
    Route {
        methods: &[Method::GET, Method::POST],
        path: "/cubejs-api/v1/dry-run",
        access: Access::Scoped(Scope::Data),
        handle: |parts, call| dry_run::dry_run(parts, call).boxed(),
    },
    Route {
        methods: &[Method::GET, Method::POST],
        path: "/quarry/v1/explain",
        access: Access::Scoped(Scope::Data),
        handle: |parts, call| explain::explain_query(parts, call).boxed(),
    },
    Route {
        methods: &[Method::GET, Method::POST],
        path: "/cubejs-api/graphql",
        access: Access::Scoped(Scope::Graphql),
        handle: |parts, call| graphql::graphql(parts, call).boxed(),
    },
    Route {
        methods: &[Method::POST],
        path: "/cubejs-api/v1/graphql-to-json",
        access: Access::Authenticated,
        handle: |parts, call| graphql::to_json(parts, call).boxed(),
    },
    Route {
        methods: &[Method::GET],
        path: "/cubejs-api/v1/meta",
        access: Access::Scoped(Scope::Meta),
        handle: |parts, call| async { Ok(meta::meta(parts, call)) }.boxed(),
    },
    Route {
        methods: &[Method::GET],
        path: "/cubejs-api/v1/data-sources",
        access: Access::Scoped(Scope::Meta),
        handle: |parts, call| async { Ok(meta::entities::data_sources(parts, call)) }.boxed(),
    },
    Route {
        methods: &[Method::GET, Method::POST],
        path: "/cubejs-api/v1/entities",
        access: Access::Scoped(Scope::Meta),
        handle: |parts, call| async { meta::entities::entities(parts, call) }.boxed(),
    },
    Route {
        methods: &[Method::GET, Method::POST],
        path: "/cubejs-api/v1/entities/all",
        access: Access::Scoped(Scope::Meta),
        handle: |parts, call| meta::entities::all_entities(parts, call).boxed(),
    },
    Route {
        methods: &[Method::GET],
        path: "/cubejs-api/v1/entities/{name}",
        access: Access::Scoped(Scope::Meta),
        handle: |parts, call| meta::entities::one_entity(parts, call).boxed(),
    },
    Route {
        methods: &[Method::POST],
        path: "/cubejs-api/v1/pre-aggregations/jobs",
        access: Access::Scoped(Scope::Jobs),
        handle: |parts, call| jobs::jobs(parts, call).boxed(),
    },
    Route {
        methods: &[Method::POST],
        path: "/cubejs-api/v1/pre-aggregations/can-use",
        access: Access::Scoped(Scope::Meta),
        handle: |_, call| async { can_use::answer(call) }.boxed(),
    },
    Route {
        methods: &[Method::GET, Method::POST],
        path: "/cubejs-api/v1/run-scheduled-refresh",
        access: Access::Scoped(Scope::Jobs),
        handle: |parts, call| refresh::run(parts, call).boxed(),
    },
    Route {
        methods: &[Method::GET],
        path: "/quarry/v1/jobs",
        access: Access::Scoped(Scope::Jobs),
        handle: |parts, call| jobs::manage::list(parts, call).boxed(),
    },
    Route {
        methods: &[Method::POST],
        path: "/quarry/v1/jobs",
        access: Access::Scoped(Scope::Jobs),
        handle: |parts, call| jobs::manage::start(parts, call).boxed(),
    },
    Route {
        methods: &[Method::GET],
        path: "/quarry/v1/jobs/{name}",
        access: Access::Scoped(Scope::Jobs),
        handle: |parts, call| jobs::manage::show(parts, call).boxed(),
    },
    Route {
        methods: &[Method::DELETE],
        path: "/quarry/v1/jobs/{name}",
        access: Access::Scoped(Scope::Jobs),
        handle: |parts, call| jobs::manage::cancel(parts, call).boxed(),
    },
    Route {
        methods: &[Method::GET],
        path: "/quarry/v1/jobs/{name}/wait",
        access: Access::Scoped(Scope::Jobs),
        handle: |parts, call| jobs::manage::wait(parts, call).boxed(),
    },
    Route {
        methods: &[Method::POST],
        path: "/quarry/v1/jobs/{name}/cancel",
        access: Access::Scoped(Scope::Jobs),
        handle: |parts, call| jobs::manage::cancel(parts, call).boxed(),
    },
    Route {
        methods: &[Method::POST],
        path: "/quarry/v1/jobs/{name}/retry",
        access: Access::Scoped(Scope::Jobs),
        handle: |parts, call| jobs::manage::retry(parts, call).boxed(),
    },
    Route {
        methods: &[Method::GET],
        path: "/cubejs-api/v1/openapi.json",
        access: Access::Public,
        handle: |parts, _| async { Ok(openapi::document(parts)) }.boxed(),
    },
    Route {
        methods: &[Method::GET],
        path: "/quarry/docs",
        access: Access::Public,
        handle: |parts, _| async { Ok(openapi::page(parts)) }.boxed(),
    },
    Route {
        methods: &[Method::GET],
        path: "/cubejs-system/v1/context",
        access: Access::Operator,
        handle: |parts, _| async { Ok(system::context(parts)) }.boxed(),
    },
    Route {
        methods: &[Method::GET],
        path: "/cubejs-system/v1/pre-aggregations",
        access: Access::Operator,
        handle: |parts, call| system::definitions(parts, call).boxed(),
    },
    Route {
        methods: &[Method::GET],
        path: "/cubejs-system/v1/pre-aggregations/security-contexts",
        access: Access::Operator,
        handle: |parts, _| system::contexts(parts).boxed(),
    },
    Route {
        methods: &[Method::GET],
        path: "/cubejs-system/v1/pre-aggregations/timezones",
        access: Access::Operator,
        handle: |parts, call| system::zones(parts, call).boxed(),
    },
    Route {
        methods: &[Method::POST],
        path: "/cubejs-system/v1/pre-aggregations/partitions",
        access: Access::Operator,
        handle: |parts, call| system::partitions(parts, call).boxed(),
    },
    Route {
        methods: &[Method::POST],
        path: "/cubejs-system/v1/pre-aggregations/preview",
        access: Access::Operator,
        handle: |parts, call| system::preview(parts, call).boxed(),
    },
    Route {
        methods: &[Method::POST],
        path: "/cubejs-system/v1/pre-aggregations/build",
        access: Access::Operator,
        handle: |parts, call| system::build(parts, call).boxed(),
    },
    Route {
        methods: &[Method::POST],
        path: "/cubejs-system/v1/pre-aggregations/queue",
        access: Access::Operator,
        handle: |parts, _| system::queue(parts).boxed(),
    },
    Route {
        methods: &[Method::POST],
        path: "/cubejs-system/v1/pre-aggregations/cancel",
        access: Access::Operator,
        handle: |parts, call| system::cancel(parts, call).boxed(),
    },
    Route {
        methods: &[Method::POST],
        path: "/quarry/v1/rollback",
        access: Access::Scoped(Scope::Jobs),
        handle: |parts, call| store::rollback(parts, call).boxed(),
    },
    Route {
        methods: &[Method::POST],
        path: "/quarry/v1/gc",
        access: Access::Scoped(Scope::Jobs),
        handle: |parts, _| store::collect_garbage(parts).boxed(),
    },
];

/// Settings of the surface.
#[derive(Debug, Clone)]
pub struct ApiOptions {
    /// Development mode: tokens are not needed, hidden members and request ids are shown.
    pub dev_mode: bool,
    /// Longest body that is taken, in bytes.
    pub max_request_bytes: usize,
    /// How long the queries of a request may run.
    pub query_timeout: Duration,
    /// How long a request waits for a source before the client is to ask again.
    pub continue_wait: Duration,
    /// Most queries of one request: of an array, or of ranges that are compared.
    pub max_queries: usize,
    /// Prefix of table names shown to clients.
    pub preagg_schema: String,
    /// Whether requests may become sockets.
    pub web_sockets: bool,
    /// Between two looks at answers of sources that are subscribed to, and between two signs of life of a socket.
    pub subscription_cycle: Duration,
    /// The one path that may become a socket, without `/` at its end; any may without.
    pub web_sockets_path: Option<String>,
    /// Between the names of nested folders in metadata without nesting; their members are merged when it is empty.
    pub nested_folders_delimiter: String,
    /// Zones that the background builds for.
    pub refresh_zones: Vec<Zone>,
    /// How long a stopping server waits for what it is doing.
    pub patience: Duration,
    /// What the paths of Cube's endpoints begin with, without `/` at its end.
    pub base_path: String,
    /// Who may read answers in a browser.
    pub cors: Cors,
    /// What connections may take their time for.
    pub connections: ConnectionLimits,
    /// Longest time for a request's body.
    pub body_timeout: Duration,
}

/// What requests are answered with.
pub struct ApiParts {
    /// The model as it is now.
    pub model: Arc<ArcSwap<CurrentModel>>,
    /// The store, for snapshots.
    pub store: Store,
    /// Answers queries.
    pub queries: QueryService,
    /// Answers that are ready to be sent.
    pub finished: Finished,
    /// Exports at the same time.
    pub exports: Exports,
    /// Answers SQL.
    pub sql: SqlService,
    /// Builds rollups.
    pub refresher: Refresher,
    /// What the API does in the background.
    pub tasks: Tasks,
    /// The clock.
    pub clock: Clock,
    /// The hooks of `cube.js`, where there is one.
    pub hooks: Option<Hooks>,
    /// The models by who asks, where there are several.
    pub tenants: Option<Tenants>,
    /// Checks tokens.
    pub verifier: Verifier,
    /// The scopes of callers.
    pub scopes: Scopes,
    /// Defaults and bounds of queries.
    pub limits: Limits,
    /// What GraphQL knows of the model.
    pub graphql: graphql::Schemas,
    /// Settings.
    pub options: ApiOptions,
    /// What the probes found last.
    pub probes: Probes,
}

impl fmt::Debug for ApiParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiParts").field("options", &self.options).finish_non_exhaustive()
    }
}

/// A handle that requests share.
#[derive(Clone)]
pub struct ApiState(Arc<Shared>);

struct Shared {
    parts: ApiParts,
    /// Fires when nothing new is taken any more.
    closing: CancellationToken,
    /// Open sockets.
    sockets: TaskTracker,
    /// What is subscribed to.
    live: live::Topics,
}

impl ApiState {
    /// Over its parts.
    pub fn new(parts: ApiParts) -> Self {
        let (closing, sockets) = (CancellationToken::new(), TaskTracker::new());
        Self(Arc::new(Shared { parts, closing, sockets, live: live::Topics::default() }))
    }

    /// What an endpoint answers to a call that did not come over HTTP.
    async fn perform(&self, path: &str, call: Call) -> Response<Body> {
        let parts = &self.0.parts;
        let (id, sees_inside) = (call.id.clone(), call.caller.sees_inside(parts));
        let answering = async {
            let route = ROUTES.iter().find(|route| route.path == path);
            let route = route.ok_or_else(|| ApiError::Internal(format!("no endpoint {path}")))?;
            access::permit(parts, route.access, &call.caller)?;
            (route.handle)(parts, &call).await
        };
        guarded(answering).await.unwrap_or_else(|error| error.into_response(&id, sees_inside))
    }
}

impl fmt::Debug for ApiState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiState").field("options", &self.0.parts.options).finish_non_exhaustive()
    }
}

/// A request that was let in.
#[derive(Default)]
struct Call {
    id: String,
    caller: Caller,
    /// What stands for `{name}` in the path.
    name: Option<String>,
    /// What it says of itself; none where it did not come over HTTP.
    headers: HeaderMap,
    /// The URL's query.
    url: Map<String, Value>,
    /// The URL's query on GET, the body's keys on POST.
    arguments: Map<String, Value>,
    /// Where to say what the answer rests on, for callers who will ask again.
    followed: Option<Arc<OnceLock<live::Footprint>>>,
}

/// Serves until `shutdown` ends, then finishes running requests and builds, as long as
/// [`ApiOptions::patience`] lasts.
pub async fn serve(listener: TcpListener, state: ApiState, shutdown: impl Future<Output = ()> + Send + 'static) {
    let options = &state.0.parts.options;
    jobs::webhook::resume(&state.0.parts).await;
    if options.web_sockets {
        live::start(&state);
    }
    let closing = async {
        shutdown.await;
        tracing::info!("shutting down");
        state.0.closing.cancel();
    };
    let serving = listen::serve(listener, router(state.clone()), &options.connections, closing, options.patience);
    // Sockets are no connections of the listener any more: they end by themselves when it closes.
    let sockets = async {
        state.0.closing.cancelled().await;
        state.0.sockets.close();
        if tokio::time::timeout(options.patience, state.0.sockets.wait()).await.is_err() {
            tracing::warn!("some sockets did not end in time");
        }
    };
    tokio::join!(serving, sockets);
    state.0.parts.refresher.shut_down(options.patience).await;
}

/// The surface as a service.
fn router(state: ApiState) -> axum::Router {
    let cors = state.0.parts.options.cors.clone();
    let compression = CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(worth_compressing());
    let router = axum::Router::new().fallback(dispatch).with_state(state).layer(compression);
    cors.wrap(router.layer(axum::middleware::from_fn(finished::keep_compressed)))
}

/// The endpoint of a path, and what stands for `{name}` in it. `base` stands for [`BASE_PATH`].
fn find_route(method: &Method, path: &str, base: &str) -> Option<(&'static Route, Option<String>)> {
    let wanted = if method == Method::HEAD { &Method::GET } else { method };
    let find = |path: &str| {
        let mut found = ROUTES.iter().filter(|route| route.methods.contains(wanted));
        found.find_map(|route| Some((route, route.matches(path)?.map(str::to_owned))))
    };
    if base == BASE_PATH {
        return find(path);
    }
    let moved = path.strip_prefix(base).filter(|rest| rest.starts_with('/'));
    let moved = moved.and_then(|rest| find(&format!("{BASE_PATH}{rest}")));
    moved.or_else(|| if path.starts_with(BASE_PATH) { None } else { find(path) })
}

/// What is long, or as long as nobody knows, and not compressed by itself.
fn worth_compressing() -> impl Predicate {
    SizeAbove::new(MIN_COMPRESSED_BYTES).and(NotForContentType::const_new("application/vnd.apache.parquet"))
}

async fn dispatch(State(state): State<ApiState>, request: Request) -> Response<Body> {
    let started = Instant::now();
    let parts = &state.0.parts;
    let id = extract::request_id(request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if state.0.closing.is_cancelled() {
        return error::shutting_down(parts.options.patience);
    }
    let only = parts.options.web_sockets_path.as_deref();
    let may_be_socket = || only.is_none_or(|only| only == path.trim_end_matches('/'));
    if parts.options.web_sockets && live::is_wanted(request.headers()) && may_be_socket() {
        let upgraded = guarded(live::upgrade(state.clone(), request)).await;
        return upgraded.unwrap_or_else(|error| error.into_response(&id, parts.options.dev_mode));
    }
    let found = find_route(&method, &path, &parts.options.base_path);
    let Some((route, name)) = found.filter(|(route, _)| route.is_there(parts)) else {
        return error::unknown_route(method.as_str(), &path);
    };
    let (head, body) = request.into_parts();
    let entrant = Entrant::of_request(&id, &head.method, &head.uri, &head.headers);
    let in_dev_mode = parts.options.dev_mode;
    let work = async {
        let caller = match access::admit(parts, route.access, &entrant).await {
            Ok(caller) => caller,
            Err(error) => {
                extract::discard(body).await;
                return Err((error, in_dev_mode));
            }
        };
        let sees_inside = caller.sees_inside(parts);
        let limits = (parts.options.max_request_bytes, parts.options.body_timeout);
        let answered = async {
            let arguments = extract::arguments(&head.method, &head.uri, &head.headers, body, limits).await?;
            let url = extract::url_arguments(&head.uri);
            let call =
                Call { id: id.clone(), caller, name, headers: head.headers.clone(), url, arguments, followed: None };
            (route.handle)(parts, &call).await
        };
        answered.await.map_err(|error| (error, sees_inside))
    };
    // A panic is a mistake of ours: this request fails, the others go on.
    let answered = AssertUnwindSafe(work).catch_unwind().await;
    let result = answered.unwrap_or_else(|panic| Err((ApiError::Internal(panic_text(&*panic)), in_dev_mode)));
    let response = result.unwrap_or_else(|(error, sees_inside)| error.into_response(&id, sees_inside));
    let elapsed = started.elapsed();
    if let Some(hooks) = &parts.hooks {
        let (method, status) = (method.as_str(), response.status().as_u16());
        let told =
            json!({"requestId": id, "method": method, "path": path, "status": status, "duration": elapsed.as_millis()});
        hooks.log("REST API Request", &told);
    }
    tracing::debug!(request_id = id, %method, path, status = response.status().as_u16(), ?elapsed, "answered");
    response
}

/// The work, or what its panic says: that is a mistake of ours, which costs one call and no others.
async fn guarded(work: impl Future<Output = Result<Response<Body>, ApiError>>) -> Result<Response<Body>, ApiError> {
    let worked = AssertUnwindSafe(work).catch_unwind().await;
    worked.unwrap_or_else(|panic| Err(ApiError::Internal(panic_text(&*panic))))
}

impl Call {
    /// Who asks.
    fn asker(&self, parts: &ApiParts) -> Asker {
        self.caller.asker(parts)
    }

    /// The model that the caller sees, as it is now.
    fn model(&self, parts: &ApiParts) -> Arc<CurrentModel> {
        self.caller.model.clone().unwrap_or_else(|| parts.model.load_full())
    }

    /// Prefix of table names shown to the caller.
    fn preagg_schema<'a>(&'a self, parts: &'a ApiParts) -> &'a str {
        let own = self.caller.model.as_ref().and_then(|model| model.preagg_schema.as_deref());
        own.unwrap_or(&parts.options.preagg_schema)
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.unwrap_or_else(|| "no message".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_but_the_probes_needs_a_scope() {
        let public: Vec<&str> =
            ROUTES.iter().filter(|route| route.access == Access::Public).map(|route| route.path).collect();
        assert_eq!(public, ["/", "/livez", "/readyz", "/cubejs-api/v1/openapi.json", "/quarry/docs"]);
        let open = ROUTES.iter().filter(|route| route.access == Access::Authenticated).map(|route| route.path);
        assert_eq!(open.collect::<Vec<_>>(), ["/cubejs-api/v1/running-query/{name}", "/cubejs-api/v1/graphql-to-json"]);
    }

    #[test]
    fn names_in_paths_are_one_word_and_whole_paths_come_first() {
        fn find(path: &str) -> Option<(&'static str, Option<&str>)> {
            ROUTES.iter().find_map(|route| Some((route.path, route.matches(path)?)))
        }
        let base = "/cubejs-api/v1/entities";
        assert_eq!(find(base), Some(("/cubejs-api/v1/entities", None)));
        assert_eq!(find(&format!("{base}/all")), Some(("/cubejs-api/v1/entities/all", None)));
        assert_eq!(find(&format!("{base}/orders")), Some(("/cubejs-api/v1/entities/{name}", Some("orders"))));
        assert_eq!(find("/quarry/v1/jobs/a1/wait"), Some(("/quarry/v1/jobs/{name}/wait", Some("a1"))));
        for path in [format!("{base}/"), format!("{base}/a/b"), format!("{base}x"), "/quarry/v1/jobs//wait".to_owned()]
        {
            assert_eq!(find(&path), None, "{path}");
        }
    }

    #[test]
    fn the_base_path_moves_cubes_endpoints_and_no_others() {
        let find = |path: &str, base: &str| find_route(&Method::GET, path, base).map(|(route, _)| route.path);
        let load = Some("/cubejs-api/v1/load");
        assert_eq!(find("/cubejs-api/v1/load", BASE_PATH), load);
        for base in ["/api", "", "/deep/er", "/cubejs-api/v1"] {
            assert_eq!(find(&format!("{base}/v1/load"), base), load, "{base}");
            assert_eq!(find("/livez", base), Some("/livez"), "{base}");
            assert_eq!(find("/quarry/v1/jobs", base), Some("/quarry/v1/jobs"), "{base}");
            assert_eq!(find("/cubejs-api/v1/load", base), None, "{base}");
            assert_eq!(find(&format!("{base}x/v1/load"), base), None, "{base}");
        }
    }

    #[test]
    fn routes_are_distinct() {
        for (i, a) in ROUTES.iter().enumerate() {
            for b in &ROUTES[i + 1..] {
                let apart = a.methods.iter().all(|method| !b.methods.contains(method));
                assert!(a.path != b.path || apart, "{} stands twice", a.path);
            }
        }
    }
}
