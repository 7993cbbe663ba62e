//! Composition root: builds each part once, in floor order, by plain constructors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use quarry_storage::{ErrorKind, StorageError, Store};

use crate::api::{ApiOptions, ApiParts, ApiState, Cors, CorsError, Exports, Finished, GraphqlSchemas, Probes};
use crate::auth::jwt::{KeyError, Verifier};
use crate::auth::scope::Scopes;
use crate::config::Config;
use crate::engine::resident::Resident;
use crate::engine::{Engine, EngineError, EngineOptions};
use crate::hooks::{HookError, Hooks};
use crate::model::compile::compile_project;
use crate::model::{Diagnostic, Model};
use crate::pg::{PgParts, fixed_login, hooked_login, switch_user};
use crate::query::execute::{QueryService, Schemas};
use crate::query::normalize::Limits;
use crate::query::rollups::{CurrentModel, Rollups};
use crate::query::route::FromSource;
use crate::query::serve::{SourceAnswers, SourceOptions};
use crate::query::tenants::{KeptModels, Tenants};
use crate::refresh::{RefreshOptions, RefreshParts, Refresher};
use crate::sources::Source;
use crate::sql::{SqlOptions, SqlService};
use crate::tasks::Tasks;
use crate::time::Clock;

/// The part of the memory that decoded partitions may fill: one in so many.
const RESIDENT_SHARE: u64 = 4;
/// The share of the memory of queries that one level may take from the source beside a rollup.
const REST_SHARE: usize = 4;
/// Of so many shares of the builds' memory, one is for sorting rows and the others are for statements.
const BUILD_SHARES: usize = 4;
/// Less is not worth a portion of its own.
const MIN_SORT_BYTES: usize = 1 << 20;
/// Compiled models that are kept where each app has its own, unless `compilerCacheSize` says otherwise.
const MOST_MODELS: usize = 250;
/// Of so many parts of the memory for answers, one is for those that are ready to be sent.
const FINISHED_SHARE: usize = 4;
/// How often development mode looks for changed model files.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// Everything that runs, without the HTTP server.
pub struct App {
    config: Config,
    store: Store,
    model: Arc<ArcSwap<CurrentModel>>,
    hooks: Option<Hooks>,
    tenants: Option<Tenants>,
    queries: QueryService,
    refresher: Refresher,
    clock: Clock,
    tasks: Tasks,
}

/// Why the application does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The model has faults.
    #[error("the data model has faults:\n{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Model(Vec<Diagnostic>),
    /// The engine does not start.
    #[error("the query engine does not start: {0}")]
    Engine(#[from] EngineError),
    /// The store does not open.
    #[error("the store does not open: {0}")]
    Storage(#[from] StorageError),
    /// The keys of tokens cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The options of cross-origin requests cannot be served.
    #[error(transparent)]
    Cors(#[from] CorsError),
    /// `driverFactory` of `cube.js` fails.
    #[error("{0} ({place})", place = .0.place())]
    Driver(#[from] HookError),
}

impl StartError {
    /// Whether another process holds the store.
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::Storage(error) if error.kind() == ErrorKind::Locked)
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("config", &self.config).finish_non_exhaustive()
    }
}

impl App {
    /// Compiles the model, opens the store, starts the workers. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let clock = Clock::System;
        let hooks = config.cube.as_ref().map(Hooks::new);
        let tenants = hooks.as_ref().and_then(|hooks| tenants(&config, hooks, clock));
        let current = match load_model(&config, None) {
            Ok(current) => current,
            // Each app has its own, and nobody may have that of the empty context.
            Err(faults) if tenants.is_some() => without_model(faults),
            Err(faults) => return Err(StartError::Model(faults)),
        };
        for warning in &current.diagnostics {
            tracing::warn!("{warning}");
        }
        let engine = Engine::new(EngineOptions { memory_bytes: config.memory_bytes, cores: config.cores })?;
        let data_sources = current.rollups.model().cubes().iter().map(|cube| cube.data_source.clone());
        let names: BTreeSet<String> = data_sources.chain(["default".to_owned()]).collect();
        let sources = Arc::new(sources(&config, names, &engine)?);
        let builder = engine.with_memory(config.build_memory_bytes / BUILD_SHARES * (BUILD_SHARES - 1))?;
        let build_sources = sources.iter().map(|(name, source)| (name.clone(), source.on(builder.clone()))).collect();
        let store = Store::open(config.store_options())?;
        let model = Arc::new(ArcSwap::from_pointee(current));
        let tasks = Tasks::new();
        let source_options = SourceOptions {
            concurrency: sources.keys().map(|name| (name.clone(), config.waits.concurrency.on(name))).collect(),
            timeout: config.query_timeout,
            orphaned: config.waits.orphaned,
            greatest_pause: config.greatest_pause,
            background_renew: config.waits.background_renew,
            result_bytes: (config.waits.result_bytes - config.waits.result_bytes / FINISHED_SHARE) as u64,
            clock,
        };
        let queries = QueryService {
            engine,
            sources: Arc::clone(&sources),
            rollup_only: config.rollup_only,
            rest_bytes: config.memory_bytes / REST_SHARE,
            schemas: Schemas::default(),
            resident: Resident::new(config.memory_bytes as u64 / RESIDENT_SHARE),
            answers: SourceAnswers::new(&source_options, tasks.clone()),
        };
        let current_rollups = Arc::clone(&model);
        let parts = RefreshParts {
            store: store.clone(),
            sources: Arc::new(build_sources),
            rollups: Arc::new(move || Arc::clone(&current_rollups.load().rollups)),
            hooks: hooks.clone(),
            tenants: tenants.clone(),
            clock,
        };
        let builds: usize = sources.keys().map(|name| config.concurrency.on(name)).sum();
        let options = RefreshOptions {
            scheduled_at_once: config.scheduled_at_once.unwrap_or(2 * builds),
            concurrency: config.concurrency.clone(),
            scheduler: config.refresh_worker,
            tick: config.scheduler_tick,
            zones: config.refresh_zones.clone(),
            max_partitions: config.max_partitions,
            timeout: config.query_timeout,
            greatest_pause: config.greatest_pause,
            // Twice that is held for the moment of a sort.
            index_copies: config.index_copies,
            sort_bytes: (config.build_memory_bytes / BUILD_SHARES / builds / 2).max(MIN_SORT_BYTES),
        };
        let refresher = Refresher::start(parts, options);
        let app = Self { config, store, model, hooks, tenants, queries, refresher, clock, tasks };
        if app.config.dev_mode {
            app.spawn_reload();
        }
        Ok(app)
    }

    /// What the API needs.
    ///
    /// # Errors
    /// The keys of tokens, or the options of cross-origin requests, cannot be used.
    pub fn api(&self) -> Result<ApiState, StartError> {
        let config = &self.config;
        let verifier = Verifier::new(&config.secrets, &config.jwt)?;
        verifier.keep_fresh(&self.tasks);
        let sql = self.sql();
        Ok(ApiState::new(ApiParts {
            sql,
            model: Arc::clone(&self.model),
            store: self.store.clone(),
            queries: self.queries.clone(),
            exports: Exports::new(config.waits.concurrency.default),
            finished: Finished::new((config.waits.result_bytes / FINISHED_SHARE) as u64),
            refresher: self.refresher.clone(),
            tasks: self.tasks.clone(),
            clock: self.clock,
            hooks: self.hooks.clone(),
            tenants: self.tenants.clone(),
            verifier,
            scopes: Scopes::from_words(config.default_scopes.iter().map(String::as_str)),
            limits: self.limits(),
            graphql: GraphqlSchemas::default(),
            options: ApiOptions {
                dev_mode: config.dev_mode,
                max_request_bytes: config.max_request_bytes,
                query_timeout: config.query_timeout,
                continue_wait: config.waits.continue_wait,
                max_queries: config.max_queries,
                preagg_schema: config.preagg_schema.clone(),
                web_sockets: config.web_sockets,
                subscription_cycle: config.subscription_cycle,
                web_sockets_path: config.web_sockets_path.clone(),
                nested_folders_delimiter: config.nested_folders_delimiter.clone(),
                refresh_zones: config.refresh_zones.clone(),
                patience: config.patience,
                base_path: config.base_path.clone(),
                cors: Cors::new(&config.cors)?,
                connections: config.connections.clone(),
                body_timeout: config.body_timeout,
            },
            probes: Probes::default(),
        }))
    }

    /// Defaults and bounds of queries.
    fn limits(&self) -> Limits {
        let config = &self.config;
        Limits {
            ungrouped_without_key: config.ungrouped_without_key,
            default_rows: config.default_rows.min(config.max_rows),
            max_rows: config.max_rows,
            timezone: config.timezone,
            allow_hidden: config.dev_mode,
        }
    }

    /// Answers SQL.
    fn sql(&self) -> SqlService {
        SqlService {
            model: Arc::clone(&self.model),
            store: self.store.clone(),
            queries: self.queries.clone(),
            clock: self.clock,
            limits: self.limits(),
            options: SqlOptions { unbounded: self.config.pg.unbounded },
        }
    }

    /// Where PostgreSQL's protocol is spoken, if it is.
    pub fn pg_port(&self) -> Option<u16> {
        self.config.pg.port
    }

    /// What connections of PostgreSQL's protocol need; users are callers of the API as all others.
    pub fn pg(&self, api: &ApiState) -> PgParts {
        let (config, api) = (&self.config, api.clone());
        let fixed = fixed_login(config.pg.user.clone(), config.pg.password.clone());
        PgParts {
            sql: self.sql(),
            login: self
                .hooks
                .clone()
                .map_or_else(|| Arc::clone(&fixed), |hooks| hooked_login(hooks, Arc::clone(&fixed))),
            switch: switch_user(self.hooks.clone(), config.pg.superuser.clone(), config.pg.user.clone()),
            sessions: Arc::new(move |login| {
                let api = api.clone();
                Box::pin(async move { api.sql_session(login.user, login.context).await })
            }),
            max_sessions: config.pg.max_sessions,
            query_timeout: config.query_timeout,
            patience: config.patience,
        }
    }

    /// The rollups of the current model.
    pub fn rollups(&self) -> Arc<Rollups> {
        Arc::clone(&self.model.load().rollups)
    }

    /// The builder of rollups.
    pub fn refresher(&self) -> &Refresher {
        &self.refresher
    }

    /// Stops in order: no new builds, running ones get `patience`, then the store closes.
    pub async fn stop(self, patience: Duration) {
        self.refresher.shut_down(patience).await;
        self.tasks.drain(Duration::from_secs(1)).await;
    }

    /// Development mode: a changed model is taken over when it is whole; a faulty one is told of and the old
    /// one keeps serving.
    fn spawn_reload(&self) {
        let (config, model, stop) = (self.config.clone(), Arc::clone(&self.model), self.tasks.stop_signal());
        let tenants = self.tenants.clone();
        self.tasks.spawn("model reload", move || {
            let (config, model, stop) = (config.clone(), Arc::clone(&model), stop.clone());
            let tenants = tenants.clone();
            async move {
                let mut seen = stamp(&config.model_dir);
                while stop.run_until_cancelled(tokio::time::sleep(RELOAD_INTERVAL)).await.is_some() {
                    let now = stamp(&config.model_dir);
                    if now != seen {
                        seen = now;
                        if let Some(tenants) = &tenants {
                            tenants.forget();
                        }
                        // Scripts of a model may take their time.
                        let (config, model) = (config.clone(), Arc::clone(&model));
                        if let Err(error) = tokio::task::spawn_blocking(move || reload(&config, &model)).await {
                            tracing::error!("the data model was not loaded: {error}");
                        }
                    }
                }
            }
        });
    }
}

/// The sources of these names: the files below `data/`, or where `driverFactory` says.
fn sources(config: &Config, names: BTreeSet<String>, engine: &Engine) -> Result<BTreeMap<String, Source>, HookError> {
    let folders = config.drivers.as_ref().map(|cube| cube.folders(&names)).transpose()?.unwrap_or_default();
    for warning in &folders.warnings {
        tracing::warn!("{warning}");
    }
    let mut opened: BTreeMap<&str, Source> = BTreeMap::new();
    let source = |name: String| {
        let folder = folders.by_source.get(&name).map_or("data", String::as_str);
        let open = || Source::files_of(config.project.clone(), folder, engine.clone());
        let source = opened.entry(folder).or_insert_with(open).clone();
        (name, source)
    };
    Ok(names.into_iter().map(source).collect())
}

/// The models of several contexts, where `cube.js` asks for that.
fn tenants(config: &Config, hooks: &Hooks, clock: Clock) -> Option<Tenants> {
    let options = config.cube.as_ref()?.options();
    let most = options.number("compilerCacheSize").and_then(|most| usize::try_from(most).ok());
    let kept = KeptModels {
        most: most.filter(|most| *most > 0).unwrap_or(MOST_MODELS),
        longest: options.number("maxCompilerCacheKeepAlive").map(Duration::from_millis),
        renewed: options.flag("updateCompilerCacheKeepAlive").unwrap_or(false),
    };
    let config = config.clone();
    Tenants::of(hooks, kept, clock, move |context| load_model(&config, Some(context)))
}

/// Nothing to ask for; the faults are told as warnings.
fn without_model(faults: Vec<Diagnostic>) -> CurrentModel {
    let rollups = Rollups::new(Arc::new(Model::new(0, Vec::new())));
    CurrentModel { rollups: Arc::new(rollups), diagnostics: faults, preagg_schema: None }
}

/// The model for a security context; without one, for the empty context.
fn load_model(config: &Config, context: Option<&serde_json::Value>) -> Result<CurrentModel, Vec<Diagnostic>> {
    let mut compile_context = config.compile_context();
    if let Some(context) = context {
        compile_context.security_context.clone_from(context);
    }
    let compiled = compile_project(&config.project, &config.model_dir, &compile_context)?;
    let from_source = FromSource { never: config.rollup_only, gaps: config.fill_from_source };
    let mut rollups = Rollups::new(Arc::new(compiled.model)).with_source(from_source);
    if config.index_copies {
        rollups = rollups.with_index_copies();
    }
    Ok(CurrentModel { rollups: Arc::new(rollups), diagnostics: compiled.warnings, preagg_schema: None })
}

fn reload(config: &Config, model: &ArcSwap<CurrentModel>) {
    match load_model(config, None) {
        Ok(current) => {
            tracing::info!("the data model was loaded anew");
            model.store(Arc::new(current));
        }
        Err(faults) => {
            for fault in &faults {
                tracing::error!("{fault}");
            }
            tracing::error!("the changed data model has faults; the one before keeps serving");
            let kept = model.load();
            model.store(Arc::new(CurrentModel { diagnostics: faults, ..CurrentModel::clone(&kept) }));
        }
    }
}

/// What the model files look like from outside; differs when one was written.
fn stamp(dir: &Path) -> Vec<(PathBuf, u64, Option<SystemTime>)> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) => found.push((entry.path(), metadata.len(), metadata.modified().ok())),
                Err(_) => {}
            }
        }
    }
    found.sort();
    found
}
