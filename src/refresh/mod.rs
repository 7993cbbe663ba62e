//! Keeps rollups fresh: decides, queues, builds, publishes. Answers no one.
//!
//! [`Refresher`] is the handle that the application starts and the API commands. A job is a durable
//! row of the store; a worker claims it, builds its partition and publishes it (`design.md` D2, D3).
//!
//! Rooms in order of the walk: `scheduler` and `posting` → `planning` (which partitions) →
//! `keys` and `staleness` → `jobs` (records and what clients see of them) → `worker` (`together` for several partitions
//! of one scan, `groups` for those that are published in one step) → `build` (one file);
//! `housekeeping` forgets what nobody needs. No SQL is written here, and no HTTP is known.

mod build;
mod contexts;
mod copies;
mod groups;
mod housekeeping;
mod jobs;
mod keys;
mod originals;
mod permits;
mod planning;
mod posting;
mod scheduler;
mod staleness;
#[cfg(test)]
mod tests;
mod together;
mod verify;
mod worker;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quarry_storage::{
    CancelOutcome, JobId, JobRecord, Progress, RolledBack, Scope, StorageError, Store, TableId, TableState,
    VersionChoice,
};
use tokio::sync::watch;

pub use self::jobs::Webhook;
pub use self::permits::Concurrency;
pub use self::posting::{JobFilter, JobPage, Preview};
pub use self::staleness::Freshness;
pub use self::verify::{Difference, Stored, Verification};
use crate::hooks::Hooks;
use crate::preagg::partition::TooManyBuckets;
use crate::query::QueryError;
use crate::query::keys::{KeyError, KeyOptions};
use crate::query::rollups::Rollups;
use crate::query::tenants::{TenantError, Tenants};
use crate::sources::Source;
use crate::tasks::{Tasks, blocking};
use crate::time::{Clock, Zone, spoken_duration};

/// Most builds at the same time, whatever the sources allow.
const MAX_WORKERS: usize = 256;
/// Time ranges of sources that one request asks for at the same time.
const LOOKS_AT_ONCE: usize = 4;

/// Settings of the refresher.
#[derive(Debug, Clone)]
pub struct RefreshOptions {
    /// Partitions built at the same time.
    pub concurrency: Concurrency,
    /// Whether the scheduler runs: builds what is missing or whose refresh keys have changed.
    pub scheduler: bool,
    /// How often the scheduler looks.
    pub tick: Duration,
    /// Most jobs of the scheduler that are queued or running.
    pub scheduled_at_once: usize,
    /// Zones that the scheduler builds for.
    pub zones: Vec<Zone>,
    /// Most partitions that one rollup may have (`CUBEJS_MAX_PARTITIONS_PER_CUBE`).
    pub max_partitions: usize,
    /// How long a build, or a look at a source, may take (`CUBEJS_DB_QUERY_TIMEOUT`).
    pub timeout: Duration,
    /// Longest pause after failures (`CUBEJS_PRE_AGGREGATIONS_BACKOFF_MAX_TIME`).
    pub greatest_pause: Duration,
    /// Bytes that the rows of one build may take while they are sorted.
    pub sort_bytes: usize,
    /// Whether copies are kept for further indexes of rollups (`QUARRY_INDEX_COPIES`).
    pub index_copies: bool,
}

/// What a job request selects; empty lists select everything (`http-api.md` §8.2).
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Security contexts, as sent.
    pub contexts: Vec<serde_json::Value>,
    /// Zones to build for.
    pub zones: Vec<Zone>,
    /// Names of data sources of the defining cubes.
    pub data_sources: Vec<String>,
    /// Names of the defining cubes.
    pub cubes: Vec<String>,
    /// `cube.rollup`.
    pub preaggs: Vec<String>,
    /// Only partitions that intersect: wall-clock microseconds of each rollup zone, both ends inclusive.
    pub range: Option<(i64, i64)>,
    /// Only partitions that begin at one of these: wall-clock microseconds of each rollup zone.
    pub starts: Vec<i64>,
    /// Only partitions that are missing or stale.
    pub if_stale: bool,
    /// An empty result must not replace a partition with rows.
    pub gated: bool,
    /// What of it is published in one step.
    pub atomic: Option<Atomic>,
    /// Who wants to hear of the end of these jobs.
    pub webhook: Option<Webhook>,
}

/// What of a selection is published in one step (`pre-aggregations.md` §21.4): no reader sees a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Atomic {
    /// The partitions of each rollup, in each zone.
    PerPreaggregation,
    /// Everything.
    All,
}

/// Why a job request was not taken, or a build failed.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// Nothing matches. Cube's text.
    #[error("A user's selector doesn't match any of the pre-aggregations defined in the data model.")]
    NothingSelected,
    /// A rollup has more partitions than allowed.
    #[error(
        "Pre-aggregation '{rollup}' requested to build {count} partitions which exceeds the maximum number of partitions per pre-aggregation of {max}"
    )]
    TooManyPartitions {
        /// `cube.rollup`.
        rollup: String,
        /// Partitions it would have.
        count: usize,
        /// The maximum.
        max: usize,
    },
    /// A look at the source took too long. Cube's text.
    #[error("Query execution timeout after {} of waiting", spoken_duration(*.0))]
    Timeout(Duration),
    /// A partition was named that no selected rollup has.
    #[error("No selected pre-aggregation has a partition that begins at {0}")]
    NoPartition(String),
    /// The definition cannot be planned, or the source failed.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// There is no model for the security context.
    #[error(transparent)]
    Tenant(#[from] TenantError),
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl RefreshError {
    fn too_many(rollup: &str, error: TooManyBuckets) -> Self {
        Self::TooManyPartitions { rollup: rollup.to_owned(), count: error.count, max: error.max }
    }
}

/// A job as clients see it.
#[derive(Debug, Clone)]
pub struct JobView {
    /// The record.
    pub record: JobRecord,
    /// The wire word or text: `scheduled`, `processing`, `done`, `failure: …`, `missing_partition`, `pre_agg_not_found`.
    pub status: String,
    /// `cube.rollup`.
    pub preagg: String,
    /// The defining cube's data source.
    pub data_source: String,
    /// The zone's name.
    pub timezone: String,
    /// The security context, as sent.
    pub context: serde_json::Value,
    /// How far it has come; none when it does not run.
    pub progress: Option<Progress>,
    /// Who wants to hear of the end of the jobs of its request.
    pub webhook: Option<Webhook>,
}

/// What the refresher works with.
pub struct RefreshParts {
    /// The store.
    pub store: Store,
    /// Sources by name.
    pub sources: Arc<std::collections::BTreeMap<String, Source>>,
    /// The current model's rollups; asked for at each use, so that a reloaded model is seen.
    pub rollups: Arc<dyn Fn() -> Arc<Rollups> + Send + Sync>,
    /// The hooks of `cube.js`: whom and which zones the background builds for.
    pub hooks: Option<Hooks>,
    /// The models by security context, where there are several.
    pub tenants: Option<Tenants>,
    /// The clock.
    pub clock: Clock,
}

impl fmt::Debug for RefreshParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshParts").field("store", &self.store).field("clock", &self.clock).finish_non_exhaustive()
    }
}

/// A handle; clones share one refresher.
#[derive(Clone)]
pub struct Refresher {
    inner: Arc<Inner>,
}

impl fmt::Debug for Refresher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refresher").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

/// What the handle, the workers and the scheduler share.
struct Inner {
    parts: RefreshParts,
    options: RefreshOptions,
    tasks: Tasks,
    /// Changes whenever jobs were enqueued or have ended. Who waits marks the value as seen, looks at
    /// the store, and only then waits for another value: nothing is missed in between.
    pulse: watch::Sender<u64>,
    backoff: worker::Backoff,
    keys: keys::Keys,
    /// By table, why its refresh keys could not be evaluated last.
    key_errors: KeyErrors,
    permits: Arc<permits::Permits>,
    looks: tokio::sync::Mutex<scheduler::Looks>,
    /// What is built and waits for the rest of its group.
    groups: Arc<groups::Groups>,
    /// Held while the rows that a rollup is built from are made ready.
    originals: tokio::sync::Mutex<()>,
    copied: copies::Copied,
}

/// By table, why its refresh keys could not be evaluated last.
#[derive(Debug, Default)]
struct KeyErrors {
    texts: std::sync::Mutex<HashMap<TableId, String>>,
    /// How often one came, went or changed.
    changes: AtomicU64,
}

impl KeyErrors {
    /// Tables of former definitions go when there are that many.
    const MAX: usize = 10_000;

    fn note(&self, table: &TableId, error: &KeyError) {
        let mut errors = self.lock();
        if errors.len() >= Self::MAX {
            errors.clear();
        }
        let text = error.to_string();
        if errors.get(table) != Some(&text) {
            tracing::warn!(%table, error = text, "failed to evaluate a refresh key; what is published serves on");
            errors.insert(table.clone(), text);
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn forget(&self, table: &TableId) {
        if self.lock().remove(table).is_some() {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn find(&self, table: &TableId) -> Option<String> {
        self.lock().get(table).cloned()
    }

    /// A map is whole after every statement here, also in a thread that panicked.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TableId, String>> {
        self.texts.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Inner {
    fn pulse(&self) {
        self.pulse.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// The rollups of the only model; none where there are several.
    fn only_rollups(&self) -> Option<Arc<Rollups>> {
        self.parts.tenants.is_none().then(|| (self.parts.rollups)())
    }

    /// What is known of a table; nothing for one that is not there.
    fn stored_state(&self, table: &TableId) -> TableState {
        self.parts.store.snapshot().table(table).map(|table| table.state).unwrap_or_default()
    }
}

impl Refresher {
    /// Starts the workers, and the scheduler when it is on. Jobs that were not ended when the process
    /// stopped last are built first. Must be called within a tokio runtime.
    pub fn start(parts: RefreshParts, options: RefreshOptions) -> Self {
        let workers = parts.sources.keys().map(|source| options.concurrency.on(source)).sum::<usize>();
        let (timeout, greatest_pause) = (options.timeout, options.greatest_pause);
        let inner = Arc::new(Inner {
            backoff: worker::Backoff::new(greatest_pause),
            keys: keys::Keys::new(KeyOptions { timeout, greatest_pause }),
            key_errors: KeyErrors::default(),
            permits: Arc::new(permits::Permits::new(options.concurrency.clone())),
            looks: tokio::sync::Mutex::default(),
            parts,
            options,
            tasks: Tasks::new(),
            pulse: watch::Sender::new(0),
            groups: Arc::default(),
            originals: tokio::sync::Mutex::new(()),
            copied: copies::Copied::default(),
        });
        for _ in 0..workers.clamp(1, MAX_WORKERS) {
            let shared = Arc::clone(&inner);
            inner.tasks.spawn("refresh worker", move || worker::work(Arc::clone(&shared)));
        }
        if inner.options.scheduler {
            let shared = Arc::clone(&inner);
            inner.tasks.spawn("refresh scheduler", move || scheduler::schedule(Arc::clone(&shared)));
        }
        if inner.options.index_copies {
            let shared = Arc::clone(&inner);
            inner.tasks.spawn("index copies", move || copies::keep_copies(Arc::clone(&shared)));
        }
        let shared = Arc::clone(&inner);
        inner.tasks.spawn("housekeeping", move || housekeeping::keep_house(Arc::clone(&shared)));
        Self { inner }
    }

    /// The state of a job; none for a token that is not known.
    ///
    /// # Errors
    /// The store failed.
    pub async fn find_job(&self, id: &JobId) -> Result<Option<JobView>, RefreshError> {
        let (store, wanted) = (self.inner.parts.store.clone(), id.clone());
        let record = blocking(move || store.find_job(&wanted)).await?;
        let progress = self.inner.parts.store.progress(id);
        let rollups = self.inner.only_rollups();
        Ok(record.map(|record| JobView { progress, ..jobs::view(record, rollups.as_deref().map(Rollups::model)) }))
    }

    /// Cancels jobs, queued and running ones, all at once; the outcomes are in the order of `ids`. A build whose
    /// last job was cancelled stops soon; what was published before it stays. The scheduler leaves the partition
    /// alone for a while, or it would ask for the same build at its next look. With a job all of its group are cancelled.
    ///
    /// # Errors
    /// The store failed; no job was cancelled then.
    pub async fn cancel(&self, ids: Vec<JobId>) -> Result<Vec<CancelOutcome>, RefreshError> {
        let inner = &self.inner;
        let (store, clock) = (inner.parts.store.clone(), inner.parts.clock);
        let (outcomes, cancelled) = blocking(move || -> Result<_, StorageError> {
            let outcomes = store.cancel(&ids, clock.now())?;
            let cancelled = outcomes.iter().filter_map(|outcome| match outcome {
                CancelOutcome::WasQueued(job) | CancelOutcome::WasRunning(job) => Some(job.clone()),
                CancelOutcome::HadEnded(_) | CancelOutcome::Unknown => None,
            });
            let mut cancelled: Vec<JobRecord> = cancelled.collect();
            let groups: HashSet<String> = cancelled.iter().filter_map(|job| job.group.clone()).collect();
            if !groups.is_empty() {
                let is_of_them = |job: &JobRecord| job.group.as_ref().is_some_and(|group| groups.contains(group));
                cancelled.extend(store.jobs()?.into_iter().filter(is_of_them));
            }
            Ok((outcomes, cancelled))
        })
        .await?;
        for job in cancelled {
            inner.backoff.note_failure(&worker::backoff_name(&job.partition), inner.parts.clock.now());
        }
        inner.pulse();
        Ok(outcomes)
    }

    /// Waits until all of these have ended, or until the refresher is shut down. Gives the jobs in the
    /// order of `ids`, without those that are not known.
    ///
    /// # Errors
    /// The store failed.
    pub async fn wait(&self, ids: &[JobId]) -> Result<Vec<JobView>, RefreshError> {
        let stop = self.inner.tasks.stop_signal();
        let mut pulse = self.inner.pulse.subscribe();
        let mut ended = Vec::with_capacity(ids.len());
        for id in ids {
            loop {
                pulse.borrow_and_update();
                let Some(view) = self.find_job(id).await? else { break };
                if view.record.state.has_ended() || stop.is_cancelled() {
                    ended.push(view);
                    break;
                }
                // Losing either arm is harmless: the loop looks at both again.
                tokio::select! {
                    () = stop.cancelled() => {}
                    _ = pulse.changed() => {}
                }
            }
        }
        Ok(ended)
    }

    /// Runs one pass of the scheduler over these zones (its own when there are none), and builds what it finds, at most
    /// `at_once` partitions at the same time. Gives whether nothing was left to do when `patience` was over.
    ///
    /// # Errors
    /// The store failed.
    pub async fn run_scheduled(
        &self,
        zones: &[Zone],
        at_once: Option<usize>,
        patience: Duration,
    ) -> Result<bool, RefreshError> {
        let options = &self.inner.options;
        let at_once = at_once.unwrap_or(options.scheduled_at_once).min(options.scheduled_at_once);
        let until = tokio::time::Instant::now() + patience;
        Ok(scheduler::pass(&self.inner, zones, at_once, until).await?)
    }

    /// Whether copies are kept for further indexes.
    pub fn keeps_index_copies(&self) -> bool {
        self.inner.options.index_copies
    }

    /// Waits for the copies for further indexes that are missing, if such are kept. They are made without that, too; this
    /// is for who must not stop before.
    pub async fn wait_for_index_copies(&self) {
        if self.keeps_index_copies() {
            copies::survey(&self.inner).await;
            // What the background is at is awaited; what it has left is made here.
            copies::make_missing(&self.inner).await;
        }
    }

    /// Why the refresh keys of a table could not be evaluated last; none when they could.
    pub fn key_error(&self, table: &TableId) -> Option<String> {
        self.inner.key_errors.find(table)
    }

    /// How often what [`Refresher::key_error`] tells has changed.
    pub fn key_error_changes(&self) -> u64 {
        self.inner.key_errors.changes.load(Ordering::Relaxed)
    }

    /// Goes back to versions that were published before; see [`Store::rollback`]. What is rolled back is held: the
    /// scheduler leaves it alone until somebody posts a job for it.
    ///
    /// # Errors
    /// The store failed, or has no such version; nothing has changed then.
    pub async fn rollback(&self, scope: Scope, choice: VersionChoice) -> Result<Vec<RolledBack>, RefreshError> {
        let (store, clock) = (self.inner.parts.store.clone(), self.inner.parts.clock);
        let rolled_back = blocking(move || store.rollback(&scope, choice, clock.now())).await?;
        self.inner.pulse();
        Ok(rolled_back)
    }

    /// Stops claiming; waits for running builds up to `patience`. What is not built by then stays in the
    /// queue for the next start.
    pub async fn shut_down(&self, patience: Duration) {
        if !self.inner.tasks.drain(patience).await {
            tracing::warn!(?patience, "builds were cut off; their jobs resume at the next start");
        }
    }
}
