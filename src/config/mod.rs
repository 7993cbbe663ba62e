//! `.env`, environment and flags → validated [`Config`]; reports every fault at once.
//!
//! Names are Cube's with Cube's meaning (`http-api.md` §13), own ones begin with `QUARRY_`. A Cube name
//! that has no effect here is warned about, never ignored in silence.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

mod cube;
mod identity;
mod reader;
mod sql;
mod transport;
mod waits;

use quarry_storage::{RowBand, StoreOptions};

use self::reader::Reader;
pub use self::reader::parse_duration;
pub use self::sql::PgOptions;
pub use self::waits::WaitSettings;
use crate::api::{ConnectionLimits, CorsOptions};
use crate::auth::jwt::JwtOptions;
use crate::hooks::{CubeJs, foreign};
use crate::model::{CompileContext, ModelSettings};
use crate::refresh::Concurrency;
use crate::script::Limits;
use crate::time::Zone;

/// The settings, validated.
#[derive(Debug, Clone)]
pub struct Config {
    /// The project folder.
    pub project: PathBuf,
    /// Folder of the model files (`CUBEJS_SCHEMA_PATH`, `model`, or `schema`).
    pub model_dir: PathBuf,
    /// Folder of the store (`QUARRY_DATA_DIR`, `.quarry`).
    pub store_dir: PathBuf,
    /// Address to listen on.
    pub host: IpAddr,
    /// Port to listen on (`PORT`, 4000); 0 takes a free one.
    pub port: u16,
    /// Development mode (`CUBEJS_DEV_MODE`).
    pub dev_mode: bool,
    /// Secrets that verify tokens, in order (`CUBEJS_JWT_KEY`, `CUBEJS_API_SECRETS`, `CUBEJS_API_SECRET`).
    pub secrets: Vec<String>,
    /// What tokens must have besides (`CUBEJS_JWT_ALGS`, `_ISSUER`, `_AUDIENCE`, `_SUBJECT`), and whose keys verify
    /// them (`CUBEJS_JWK_URL`, `CUBEJS_PLAYGROUND_AUTH_SECRET`).
    pub jwt: JwtOptions,
    /// `CUBEJS_DEFAULT_API_SCOPES`, or all but `jobs`.
    pub default_scopes: Vec<String>,
    /// `CUBEJS_DB_QUERY_DEFAULT_LIMIT`; where it is greater, `max_rows` counts.
    pub default_rows: u64,
    /// `CUBEJS_ALLOW_UNGROUPED_WITHOUT_PRIMARY_KEY`.
    pub ungrouped_without_key: bool,
    /// `CUBEJS_DB_QUERY_LIMIT`.
    pub max_rows: u64,
    /// `CUBEJS_DEFAULT_TIMEZONE`.
    pub timezone: Zone,
    /// `CUBEJS_MAX_REQUEST_SIZE`, in bytes.
    pub max_request_bytes: usize,
    /// `CUBEJS_DB_QUERY_TIMEOUT`.
    pub query_timeout: Duration,
    /// How queries wait for sources, and what is kept of their answers.
    pub waits: WaitSettings,
    /// `QUARRY_MAX_QUERIES`: most queries of one request.
    pub max_queries: usize,
    /// `QUARRY_FILL_FROM_SOURCE`: the source answers for what a rollup does not cover.
    pub fill_from_source: bool,
    /// `CUBEJS_ROLLUP_ONLY`.
    pub rollup_only: bool,
    /// `CUBEJS_REFRESH_WORKER`; in development mode on by default.
    pub refresh_worker: bool,
    /// SQL over cubes, and PostgreSQL's wire protocol.
    pub pg: PgOptions,
    /// `CUBEJS_SCHEDULED_REFRESH_DEFAULT`: whether rollups that do not say are refreshed by the scheduler.
    pub scheduled_refresh: bool,
    /// `CUBEJS_SCHEDULED_REFRESH_TIMEZONES`, or UTC.
    pub refresh_zones: Vec<Zone>,
    /// `CUBEJS_REFRESH_WORKER_CONCURRENCY`, `CUBEJS_DS_<NAME>_CONCURRENCY`, `CUBEJS_CONCURRENCY`, or the number of cores:
    /// partitions built at the same time, by data source.
    pub concurrency: Concurrency,
    /// `CUBEJS_SCHEDULED_REFRESH_TIMER`: how often the scheduler looks; `false` switches it off.
    pub scheduler_tick: Duration,
    /// `CUBEJS_SCHEDULED_REFRESH_QUERIES_PER_APP_ID`: most builds that the scheduler has queued or running.
    pub scheduled_at_once: Option<usize>,
    /// `CUBEJS_PRE_AGGREGATIONS_BACKOFF_MAX_TIME`: longest pause after failed builds.
    pub greatest_pause: Duration,
    /// `QUARRY_BUILD_MEMORY`: bytes that running builds may hold; beyond it they spill.
    pub build_memory_bytes: usize,
    /// `QUARRY_INDEX_COPIES`: whether rollups are also kept as their further indexes say.
    pub index_copies: bool,
    /// `CUBEJS_MAX_PARTITIONS_PER_CUBE`.
    pub max_partitions: usize,
    /// How long a replaced partition file stays at least (`QUARRY_GC_GRACE`).
    pub gc_grace: Duration,
    /// Previous versions of a partition that stay for a rollback (`QUARRY_KEEP_VERSIONS`).
    pub keep_versions: usize,
    /// For how long they stay (`QUARRY_ROLLBACK_WINDOW`).
    pub rollback_window: Duration,
    /// Row counts, relative to the version before, that a scheduled build may have (`QUARRY_ROW_BAND`).
    pub row_band: Option<RowBand>,
    /// `CUBEJS_PRE_AGGREGATIONS_SCHEMA`: prefix of table names shown to clients.
    pub preagg_schema: String,
    /// `CUBEJS_NESTED_FOLDERS_DELIMITER`: how `folders` of the metadata name nested folders; they are merged without.
    pub nested_folders_delimiter: String,
    /// `CUBEJS_WEB_SOCKETS`: whether requests may become sockets.
    pub web_sockets: bool,
    /// `QUARRY_WEB_SOCKETS_BASE_PATH`: the one path that may become a socket; any may without.
    pub web_sockets_path: Option<String>,
    /// `QUARRY_SUBSCRIPTION_INTERVAL`: between two looks at answers of sources that are subscribed to.
    pub subscription_cycle: Duration,
    /// `CUBEJS_GRACEFUL_SHUTDOWN`: how long a stopping server waits for what it is doing.
    pub patience: Duration,
    /// `CUBEJS_BASE_PATH`: what the paths of Cube's endpoints begin with.
    pub base_path: String,
    /// `QUARRY_CORS_ORIGINS`, `QUARRY_CORS_CREDENTIALS`: who may read answers in a browser.
    pub cors: CorsOptions,
    /// `CUBEJS_SERVER_HEADERS_TIMEOUT`, `CUBEJS_SERVER_KEEP_ALIVE_TIMEOUT`, `QUARRY_WRITE_TIMEOUT`,
    /// `QUARRY_MAX_CONNECTIONS`: what connections may take their time for, and how many there may be.
    pub connections: ConnectionLimits,
    /// `QUARRY_BODY_TIMEOUT`: longest time for a request's body.
    pub body_timeout: Duration,
    /// `QUARRY_MEMORY`: bytes that running queries may hold.
    pub memory_bytes: usize,
    /// `QUARRY_CORES`: threads for queries and builds.
    pub cores: usize,
    /// `CUBEJS_LOG_LEVEL` or `RUST_LOG`: a filter of `tracing`.
    pub log_filter: String,
    /// Settings without effect here, as lines for the log.
    pub warnings: Vec<String>,
    /// Settings that change what the model means (`CUBEJS_GRANULARITIES`, `CUBEJS_ACCESS_POLICY_MASK_…`).
    pub model: ModelSettings,
    /// `cube.js`: its options and hooks. What it says of settings is in them already.
    pub cube: Option<CubeJs>,
    /// The same, for where data sources lie (`driverFactory`): commands ask that, and no other hook.
    pub drivers: Option<CubeJs>,
    /// All variables of `.env` and the environment: model files may ask for any.
    pub variables: BTreeMap<String, String>,
}

/// What flags say; absent ones leave the environment's say.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--host`.
    pub host: Option<IpAddr>,
    /// `--port`.
    pub port: Option<u16>,
    /// `quarry dev`.
    pub dev_mode: Option<bool>,
}

/// Everything that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the settings have {} fault(s):\n{}", .0.len(), .0.iter().map(|fault| format!("  {fault}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// How often the scheduler compares what is with what should be.
const SCHEDULER_TICK: Duration = Duration::from_secs(30);
/// Shorter cycles of subscriptions would only make work.
const LEAST_CYCLE: Duration = Duration::from_millis(500);

/// Cube's settings that are known and have no effect in this version.
const WITHOUT_EFFECT: &[&str] = &[
    "CUBEJS_APP",
    "CUBEJS_CACHE_AND_QUEUE_DRIVER",
    "CUBEJS_CUBESTORE_HOST",
    "CUBEJS_CUBESTORE_PORT",
    "CUBEJS_DATASOURCES",
    "CUBEJS_DB_HOST",
    "CUBEJS_DB_NAME",
    "CUBEJS_DB_PASS",
    "CUBEJS_DB_PORT",
    "CUBEJS_DB_USER",
    "CUBEJS_DROP_PRE_AGG_WITHOUT_TOUCH",
    "CUBEJS_EXTERNAL_DEFAULT",
    "CUBEJS_LOG_REDACTION",
    "CUBEJS_PRE_AGGREGATIONS_ALLOW_NON_STRICT_DATE_RANGE_MATCH",
    "CUBEJS_PRE_AGGREGATIONS_BUILDER",
    "CUBEJS_REFRESH_KEY_LOCAL_TIME",
    "CUBEJS_SCHEDULED_REFRESH_BATCH_SIZE",
    "CUBEJS_TESSERACT_SQL_PLANNER",
    "CUBEJS_TOUCH_PRE_AGG_TIMEOUT",
];

impl Config {
    /// The settings of the store.
    pub fn store_options(&self) -> StoreOptions {
        StoreOptions {
            gc_grace: self.gc_grace,
            keep_versions: self.keep_versions,
            rollback_window: self.rollback_window,
            row_band: self.row_band,
            ..StoreOptions::new(self.store_dir.clone())
        }
    }

    /// Reads `project/.env`, then this process's environment over it, then the flags over both.
    ///
    /// # Errors
    /// All faults.
    pub fn load(project: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        let mut values = BTreeMap::new();
        let mut faults = Vec::new();
        let file = project.join(".env");
        match std::fs::read_to_string(&file) {
            Ok(text) => {
                let (found, unread) = read_env_file(&text);
                values.extend(found);
                faults.extend(unread.into_iter().map(|fault| format!("{}:{fault}", file.display())));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => faults.push(format!("{}: {error}", file.display())),
        }
        values.extend(
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        );
        if !project.is_dir() {
            faults.push(format!("the project folder {} does not exist", project.display()));
        }
        Self::from_values(project, values, overrides, faults)
    }

    /// The settings from names and values; pure, for tests.
    ///
    /// # Errors
    /// All faults, after those given.
    pub fn from_values(
        project: &Path,
        values: BTreeMap<String, String>,
        overrides: &Overrides,
        faults: Vec<String>,
    ) -> Result<Self, ConfigError> {
        let mut read = Reader { values, faults };
        let project = project.to_path_buf();
        let variables = read.values.clone();
        let cube = read.cube_js(&project);
        let dev_mode = overrides.dev_mode.unwrap_or(read.boolean("CUBEJS_DEV_MODE", false));
        let cores = read.cores();
        let (is_timed, timer) = read.timer();
        let config = Self {
            model_dir: model_dir(&project, read.text("CUBEJS_SCHEMA_PATH")),
            store_dir: project.join(read.text("QUARRY_DATA_DIR").unwrap_or(".quarry".to_owned())),
            host: overrides.host.unwrap_or_else(|| read.host(dev_mode)),
            port: overrides.port.unwrap_or(read.number("PORT", 4000_u16, 0..=u16::MAX)),
            dev_mode,
            secrets: read.secrets(),
            jwt: read.jwt(),
            default_scopes: read.list("CUBEJS_DEFAULT_API_SCOPES").unwrap_or_else(default_scopes),
            default_rows: read.number("CUBEJS_DB_QUERY_DEFAULT_LIMIT", 10_000, 1..=u64::from(u32::MAX)),
            ungrouped_without_key: read.boolean("CUBEJS_ALLOW_UNGROUPED_WITHOUT_PRIMARY_KEY", true),
            max_rows: read.number("CUBEJS_DB_QUERY_LIMIT", 50_000, 1..=u64::from(u32::MAX)),
            timezone: read.zone("CUBEJS_DEFAULT_TIMEZONE"),
            max_request_bytes: read.bytes("CUBEJS_MAX_REQUEST_SIZE", 50 << 20, (100 << 10)..=(64 << 20)),
            query_timeout: read.duration("CUBEJS_DB_QUERY_TIMEOUT", Duration::from_secs(600)),
            waits: read.waits(cores),
            max_queries: read.number("QUARRY_MAX_QUERIES", 100, 1..=10_000),
            fill_from_source: read.boolean("QUARRY_FILL_FROM_SOURCE", false),
            rollup_only: read.boolean("CUBEJS_ROLLUP_ONLY", false),
            refresh_worker: read.boolean("CUBEJS_REFRESH_WORKER", is_timed.unwrap_or(dev_mode)),
            pg: read.pg(dev_mode, cube.as_ref().is_some_and(sql::checks_users)),
            scheduled_refresh: read.boolean("CUBEJS_SCHEDULED_REFRESH_DEFAULT", true),
            refresh_zones: read.zones("CUBEJS_SCHEDULED_REFRESH_TIMEZONES"),
            concurrency: read.concurrency(cores),
            scheduler_tick: timer.unwrap_or(SCHEDULER_TICK),
            scheduled_at_once: read.scheduled_at_once(),
            greatest_pause: read.duration("CUBEJS_PRE_AGGREGATIONS_BACKOFF_MAX_TIME", Duration::from_secs(600)),
            build_memory_bytes: read.bytes("QUARRY_BUILD_MEMORY", 1 << 30, (16 << 20)..=usize::MAX),
            index_copies: read.boolean("QUARRY_INDEX_COPIES", false),
            max_partitions: read.number("CUBEJS_MAX_PARTITIONS_PER_CUBE", 10_000, 1..=1_000_000),
            gc_grace: read.duration("QUARRY_GC_GRACE", Duration::from_secs(60)),
            keep_versions: read.number("QUARRY_KEEP_VERSIONS", 1, 0..=1_000),
            rollback_window: read.duration("QUARRY_ROLLBACK_WINDOW", Duration::from_secs(86_400)),
            row_band: read.row_band("QUARRY_ROW_BAND"),
            preagg_schema: read.text("CUBEJS_PRE_AGGREGATIONS_SCHEMA").unwrap_or_else(|| {
                let stage = if dev_mode { "dev" } else { "prod" };
                format!("{stage}_pre_aggregations")
            }),
            nested_folders_delimiter: read.values.get("CUBEJS_NESTED_FOLDERS_DELIMITER").cloned().unwrap_or_default(),
            memory_bytes: read.bytes("QUARRY_MEMORY", 2 << 30, (64 << 20)..=usize::MAX),
            web_sockets: read.boolean("CUBEJS_WEB_SOCKETS", false),
            web_sockets_path: read.web_sockets_path(),
            subscription_cycle: read.duration("QUARRY_SUBSCRIPTION_INTERVAL", Duration::from_secs(5)).max(LEAST_CYCLE),
            patience: read.duration("CUBEJS_GRACEFUL_SHUTDOWN", Duration::from_secs(10)),
            base_path: read.base_path(),
            cors: read.cors(cube.as_ref()),
            connections: read.connections(),
            body_timeout: read.duration("QUARRY_BODY_TIMEOUT", Duration::from_secs(300)),
            cores,
            log_filter: read.log_filter(),
            warnings: read.warnings(cube.as_ref()),
            model: ModelSettings::read(&read.values, &mut read.faults),
            variables,
            drivers: cube.clone(),
            cube,
            project,
        };
        read.check_safe(&config);
        if read.faults.is_empty() { Ok(config) } else { Err(ConfigError(read.faults)) }
    }

    /// What model files may ask while they are compiled.
    pub fn compile_context(&self) -> CompileContext {
        CompileContext {
            env: self.variables.clone(),
            scheduled_refresh: self.scheduled_refresh,
            settings: self.model.clone(),
            ..CompileContext::default()
        }
    }
}

/// The names and values of a `.env` file, and what of it cannot be read. Where a line is not to the
/// library's strict taste (a value with blanks and without quotes), it is read as Node's dotenv does:
/// everything after the sign, up to a ` #`.
fn read_env_file(text: &str) -> (Vec<(String, String)>, Vec<String>) {
    if let Ok(found) = dotenvy::from_read_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>() {
        return (found, Vec::new());
    }
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Ok(strict) = dotenvy::from_read_iter(line.as_bytes()).collect::<Result<Vec<_>, _>>() {
            found.extend(strict);
            continue;
        }
        match line.strip_prefix("export ").unwrap_or(line).split_once('=') {
            Some((name, value)) if crate::names::is_identifier(name.trim()) => {
                let value = value.split(" #").next().unwrap_or_default().trim();
                found.push((name.trim().to_owned(), value.to_owned()));
            }
            _ => faults.push(format!("{number}: '{line}' is not of the form NAME=VALUE")),
        }
    }
    (found, faults)
}

fn default_scopes() -> Vec<String> {
    ["meta", "data", "graphql", "sql"].map(str::to_owned).to_vec()
}

/// `CUBEJS_SCHEMA_PATH`, else `model`, else an old project's `schema`.
fn model_dir(project: &Path, named: Option<String>) -> PathBuf {
    match named {
        Some(name) => project.join(name),
        None if !project.join("model").is_dir() && project.join("schema").is_dir() => project.join("schema"),
        None => project.join("model"),
    }
}

impl Reader {
    fn cores(&mut self) -> usize {
        let all = std::thread::available_parallelism().map_or(2, usize::from);
        self.number("QUARRY_CORES", all, 1..=1024)
    }

    /// Whether the scheduler is switched, and how often it looks: true, false, seconds, or a duration.
    fn timer(&mut self) -> (Option<bool>, Option<Duration>) {
        const NAME: &str = "CUBEJS_SCHEDULED_REFRESH_TIMER";
        let Some(text) = self.text(NAME) else { return (None, None) };
        match (text.to_ascii_lowercase().as_str(), parse_duration(&text)) {
            ("true" | "yes", _) => (Some(true), None),
            ("false" | "no", _) => (Some(false), None),
            (_, Some(tick)) if tick.is_zero() => (Some(false), None),
            (_, Some(tick)) => (Some(true), Some(tick)),
            (_, None) => {
                self.fault(NAME, &text, "true, false, seconds, or a duration such as 30s or 5m");
                (None, None)
            }
        }
    }

    /// The setting for builds alone wins, then that of a data source, then that of all.
    fn concurrency(&mut self, cores: usize) -> Concurrency {
        const OF_BUILDS: &str = "CUBEJS_REFRESH_WORKER_CONCURRENCY";
        let of_sources = self.source_concurrency(cores);
        match self.text(OF_BUILDS) {
            Some(_) => Concurrency::of_all(self.number(OF_BUILDS, of_sources.default, 1..=256)),
            None => of_sources,
        }
    }

    fn source_concurrency(&mut self, default: usize) -> Concurrency {
        let of_all = self.number("CUBEJS_CONCURRENCY", default, 1..=256);
        let names: Vec<(String, String)> = self
            .values
            .keys()
            .filter_map(|name| {
                let source = name.strip_prefix("CUBEJS_DS_")?.strip_suffix("_CONCURRENCY")?;
                Some((source.to_ascii_lowercase(), name.clone()))
            })
            .collect();
        let by_source = names.into_iter().map(|(source, name)| (source, self.number(&name, of_all, 1..=256))).collect();
        Concurrency { default: of_all, by_source }
    }

    /// Also by its old name.
    fn scheduled_at_once(&mut self) -> Option<usize> {
        let names = ["CUBEJS_SCHEDULED_REFRESH_QUERIES_PER_APP_ID", "CUBEJS_SCHEDULED_REFRESH_CONCURRENCY"];
        let name = names.into_iter().find(|name| self.text(name).is_some())?;
        Some(self.number(name, 1, 1..=10_000))
    }

    /// `quarry dev` is for one person at one machine.
    fn host(&mut self, dev_mode: bool) -> IpAddr {
        let default = if dev_mode { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
        let Some(text) = self.text("QUARRY_HOST") else { return default.into() };
        text.parse().unwrap_or_else(|_| {
            self.fault("QUARRY_HOST", &text, "an IP address");
            default.into()
        })
    }

    fn log_filter(&mut self) -> String {
        if let Some(filter) = self.text("RUST_LOG") {
            return filter;
        }
        match self.text("CUBEJS_LOG_LEVEL").as_deref() {
            None => "info".to_owned(),
            Some(level @ ("error" | "warn" | "info" | "debug" | "trace")) => level.to_owned(),
            Some(other) => {
                let other = other.to_owned();
                self.fault("CUBEJS_LOG_LEVEL", &other, "error, warn, info, debug or trace");
                "info".to_owned()
            }
        }
    }

    fn warnings(&self, cube: Option<&CubeJs>) -> Vec<String> {
        let mut warnings: Vec<String> = WITHOUT_EFFECT
            .iter()
            .filter(|name| self.text(name).is_some())
            .map(|name| format!("{name} has no effect in this version of Quarry"))
            .collect();
        if let Some(kind) = self.text("CUBEJS_DB_TYPE") {
            warnings.push(format!(
                "CUBEJS_DB_TYPE is '{kind}', but this version of Quarry reads the files under data/ only"
            ));
        }
        warnings.extend(cube.into_iter().flat_map(CubeJs::warnings));
        warnings
    }

    /// Runs `cube.js`; what it says of settings overrules the environment.
    fn cube_js(&mut self, project: &Path) -> Option<CubeJs> {
        if let Some(file) = foreign(project) {
            self.faults.push(format!(
                "{} is not run by this version of Quarry, and what it restricts would be open: write it as cube.js, or \
                 remove it to serve without",
                file.display()
            ));
        }
        let limits = Limits {
            time: self.duration("QUARRY_HOOK_TIMEOUT", Duration::from_secs(5)),
            memory: self.bytes("QUARRY_HOOK_MEMORY", 64 << 20, (4 << 20)..=(4 << 30)),
            ..Limits::default()
        };
        match CubeJs::load(project, &self.values, limits) {
            Ok(Some(cube)) => {
                self.values.extend(cube.settings().into_iter().map(|(name, value)| (name.to_owned(), value)));
                Some(cube)
            }
            Ok(None) => None,
            Err(faults) => {
                self.faults.extend(faults);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn load(values: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::from_values(Path::new("project"), values, &Overrides::default(), Vec::new())
    }

    #[test]
    fn a_secret_is_enough() {
        let config = load(&[("CUBEJS_API_SECRET", "s")]).expect("valid");
        assert_eq!((config.port, config.default_rows, config.max_rows), (4000, 10_000, 50_000));
        assert_eq!(config.default_scopes, ["meta", "data", "graphql", "sql"]);
        assert!(!config.refresh_worker && !config.dev_mode);
        assert_eq!(config.store_dir, Path::new("project/.quarry"));
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let faults = load(&[("PORT", "x"), ("CUBEJS_DEV_MODE", "maybe"), ("CUBEJS_DEFAULT_TIMEZONE", "Mars/Base")])
            .expect_err("three faults and no secret")
            .0;
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(faults.iter().any(|fault| fault.contains("\n    CUBEJS_API_SECRET=")), "{faults:?}");
    }

    #[test]
    fn development_needs_no_secret_and_listens_on_loopback() {
        let config = load(&[("CUBEJS_DEV_MODE", "true")]).expect("valid");
        assert!(config.host.is_loopback() && config.refresh_worker);
        assert_eq!(config.preagg_schema, "dev_pre_aggregations");
    }

    #[test]
    fn settings_without_effect_are_warned_about() {
        let config = load(&[("CUBEJS_API_SECRET", "s"), ("CUBEJS_APP", "shop")]).expect("valid");
        assert_eq!(config.warnings, ["CUBEJS_APP has no effect in this version of Quarry"]);
    }

    #[test]
    fn the_scheduler_has_a_switch_and_a_timer() {
        let scheduler = |values: &[(&str, &str)]| {
            let all: Vec<_> = [("CUBEJS_API_SECRET", "s")].into_iter().chain(values.iter().copied()).collect();
            let config = load(&all).expect("valid");
            (config.refresh_worker, config.scheduler_tick.as_secs())
        };
        const TIMER: &str = "CUBEJS_SCHEDULED_REFRESH_TIMER";
        assert_eq!(scheduler(&[]), (false, 30));
        assert_eq!(scheduler(&[(TIMER, "true")]), (true, 30));
        assert_eq!(scheduler(&[(TIMER, "5")]), (true, 5));
        assert_eq!(scheduler(&[(TIMER, "5"), ("CUBEJS_REFRESH_WORKER", "false")]), (false, 5));
        assert_eq!(scheduler(&[(TIMER, "false"), ("CUBEJS_DEV_MODE", "true")]), (false, 30));
        let faults = load(&[("CUBEJS_API_SECRET", "s"), (TIMER, "often")]).expect_err("no duration").0;
        assert!(faults[0].starts_with(TIMER), "{faults:?}");
    }

    #[test]
    fn builds_are_counted_by_data_source() {
        let of = |values: &[(&str, &str)]| {
            let all: Vec<_> =
                [("CUBEJS_API_SECRET", "s"), ("QUARRY_CORES", "3")].into_iter().chain(values.iter().copied()).collect();
            let config = load(&all).expect("valid");
            (config.concurrency.on("default"), config.concurrency.on("Far"), config.scheduled_at_once)
        };
        assert_eq!(of(&[]), (3, 3, None));
        let both = [("CUBEJS_CONCURRENCY", "4"), ("CUBEJS_DS_FAR_CONCURRENCY", "2")];
        assert_eq!(of(&both), (4, 2, None));
        assert_eq!(of(&[both[0], both[1], ("CUBEJS_REFRESH_WORKER_CONCURRENCY", "7")]), (7, 7, None));
        let queries = |values: &[(&str, &str)]| {
            let all: Vec<_> =
                [("CUBEJS_API_SECRET", "s"), ("QUARRY_CORES", "3")].iter().chain(values).copied().collect();
            let config = load(&all).expect("valid");
            (config.waits.concurrency.on("default"), config.waits.concurrency.on("Far"))
        };
        assert_eq!(queries(&[]), (5, 5));
        assert_eq!(queries(&[both[0], both[1], ("CUBEJS_REFRESH_WORKER_CONCURRENCY", "7")]), (4, 2));
        assert_eq!(queries(&[both[0], both[1], ("QUARRY_QUERY_CONCURRENCY", "9")]), (9, 9));
        let faults = load(&[("CUBEJS_API_SECRET", "s"), ("CUBEJS_CONCURRENCY", "0")]).expect_err("none at all").0;
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(of(&[("CUBEJS_SCHEDULED_REFRESH_QUERIES_PER_APP_ID", "5")]).2, Some(5));
        assert_eq!(of(&[("CUBEJS_SCHEDULED_REFRESH_CONCURRENCY", "6")]).2, Some(6));
    }

    #[test]
    fn env_files_are_read_as_node_reads_them() {
        let text = "# a comment\nA=1\nB=\"two words\"\nC=an open secret # not this\nexport D='x'\nwhat is this\n";
        let (found, faults) = read_env_file(text);
        let found: Vec<(&str, &str)> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, [("A", "1"), ("B", "two words"), ("C", "an open secret"), ("D", "x")]);
        assert_eq!(faults, ["6: 'what is this' is not of the form NAME=VALUE"]);
    }
}
