//! The bounded pool: each worker claims the jobs of one partition, builds it and publishes it.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use quarry_storage::{
    Bounds, ErrorKind, FinishedFile, Gate, JobPhase, JobRecord, Lease, PartitionKey, Progress, Publish, StorageError,
};

use super::Inner;
use super::build::{self, BuildError, Layout};
use super::groups::Member;
use super::jobs::Details;
use super::keys::Span;
use super::originals::{finish_originals, make_ready};
use super::permits::Permit;
use super::planning::{Target, find_source};
use super::together;
use crate::engine::EngineError;
use crate::names::MemberPath;
use crate::preagg::indexes::sort_columns;
use crate::preagg::partition::bucket_of;
use crate::query::QueryError;
use crate::query::keys::timed_out;
use crate::query::rollups::Rollups;
use crate::tasks::{TaskFailure, blocking};
use crate::time::micros;

/// Pause after the store failed; doubles up to [`GREATEST_PAUSE`].
const LEAST_PAUSE: Duration = Duration::from_millis(500);
const GREATEST_PAUSE: Duration = Duration::from_secs(60);
/// Tries to record that jobs failed.
const RECORD_TRIES: u32 = 5;

/// Why a partition was not built. The text is what clients see behind `failure: `.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkError {
    /// All its jobs were cancelled, or ended by somebody else.
    #[error("the job was cancelled")]
    Cancelled,
    /// The definition was removed or changed since the job was made.
    #[error("pre-aggregation is no longer in the data model")]
    Gone,
    /// The definition cannot be planned, or its source is not there.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// What it is built from was to be built before it, and was not.
    #[error("the rows of {rollup}, which it is built from, could not be built: {cause}")]
    Rows {
        /// `cube.rollup` of type original_sql.
        rollup: String,
        /// Why.
        cause: String,
    },
    /// It took too long.
    #[error("{}", timed_out(*.0))]
    TimedOut(Duration),
    /// What it is built from cannot be planned.
    #[error(transparent)]
    Refresh(#[from] super::RefreshError),
    /// No file was written.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// What is copied is not what was written.
    #[error("the file of the partition is damaged: rebuild the partition")]
    Damaged,
    /// The file was not published.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// As above, of several that were to be published in one go.
    #[error(transparent)]
    Publish(Arc<StorageError>),
    /// The scan that was to give it, and others.
    #[error(transparent)]
    Scan(Arc<WorkError>),
    /// A mistake of ours; the server was stopped.
    #[error(transparent)]
    Task(#[from] TaskFailure),
}

impl WorkError {
    /// Whether the statement is at fault, and not the rows that it met.
    pub(super) fn is_of_statement(&self) -> bool {
        matches!(self, Self::Query(_) | Self::Build(BuildError::Engine(EngineError::Plan(_))))
    }
}

/// The body of one worker: until the stop signal, which it obeys between two builds.
pub(super) async fn work(inner: Arc<Inner>) {
    let stop = inner.tasks.stop_signal();
    let mut pulse = inner.pulse.subscribe();
    let mut pause = LEAST_PAUSE;
    while !stop.is_cancelled() {
        inner.groups.sweep(&inner.parts.store);
        // Marked as seen before the claim, so that what comes after it is not slept through.
        pulse.borrow_and_update();
        match claim(&inner).await {
            Ok(Some((jobs, mut permit))) => {
                pause = LEAST_PAUSE;
                if let Some(claim) = Claim::new(&jobs) {
                    let more = together::companions(&inner, &claim).await;
                    permit.end_gathering();
                    inner.pulse();
                    build_all_claimed(&inner, claim, more).await;
                }
                // Given back before the others are woken, so that they find the room.
                drop(permit);
                inner.pulse();
            }
            // Losing either arm is harmless: the loop looks at both again.
            Ok(None) => tokio::select! {
                () = stop.cancelled() => {}
                _ = pulse.changed() => {}
            },
            Err(error) => {
                tracing::error!(%error, "failed to claim a job");
                // As above.
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(GREATEST_PAUSE);
            }
        }
    }
}

/// Builds the partition of a claim, and what is due of the same table where one scan gives it all.
pub(super) fn build_claimed(inner: &Arc<Inner>, claim: Claim) -> BoxFuture<'_, ()> {
    // Boxed: a build may have another one done first.
    async move {
        let more = together::companions(inner, &claim).await;
        build_all_claimed(inner, claim, more).await;
    }
    .boxed()
}

async fn build_all_claimed(inner: &Arc<Inner>, claim: Claim, more: Vec<Claim>) {
    if more.is_empty() {
        process(inner, claim).await;
    } else {
        together::process_all(inner, claim, more).await;
    }
}

async fn claim(inner: &Inner) -> Result<Option<(Vec<JobRecord>, Permit)>, StorageError> {
    let (store, clock) = (inner.parts.store.clone(), inner.parts.clock);
    let permits = Arc::clone(&inner.permits);
    blocking(move || permits.claim(&store, clock.now())).await
}

/// The jobs of one partition, claimed.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) key: PartitionKey,
    pub(super) leases: Arc<[Lease]>,
    /// As one of the jobs has it: what is built.
    pub(super) details: Option<Details>,
    /// What a client asked for, and when first: it is stored with what the keys said since. None when only the
    /// scheduler asked; then an empty result is not trusted.
    pub(super) asked_at: Option<i64>,
    pub(super) attempt: u32,
    /// That of its jobs, when it is published with others.
    pub(super) group: Option<String>,
}

/// What became of a partition that was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Built {
    /// It is published, with so many rows.
    Published(u64),
    /// It waits for the rest of its group.
    Waiting,
}

impl Claim {
    /// None of no jobs.
    pub(super) fn new(jobs: &[JobRecord]) -> Option<Self> {
        let first = jobs.first()?;
        let is_forced = |job: &&JobRecord| Details::parse(&job.details).is_none_or(|details| details.forced);
        Some(Self {
            key: first.partition.clone(),
            leases: jobs.iter().map(JobRecord::lease).collect(),
            details: Details::parse(&first.details),
            asked_at: jobs.iter().filter(is_forced).map(|job| job.created_at).min(),
            attempt: first.attempt,
            group: first.group.clone(),
        })
    }

    /// Refresh keys must not be older than that.
    pub(super) fn since(&self) -> i64 {
        self.asked_at.unwrap_or(i64::MIN)
    }

    /// Whether there is something to build: the jobs have not ended, and the file does not wait for others.
    pub(super) fn is_unbuilt(&self, inner: &Inner) -> bool {
        let waits = self.group.as_ref().is_some_and(|group| inner.groups.has(group, &self.key));
        inner.parts.store.holds_any(&self.leases) && !waits
    }
}

/// Builds the partition of a claim and ends its jobs, one way or the other.
pub(super) async fn process(inner: &Arc<Inner>, claim: Claim) {
    let jobs = claim.leases.len();
    tracing::info!(partition = %PartitionName(&claim.key), jobs, attempt = claim.attempt, "building");
    // A task of its own: a panic in it fails the jobs and not the worker.
    let building = build_and_publish(Arc::clone(inner), claim.clone());
    let outcome = inner.tasks.run(building).await.unwrap_or_else(|failure| Err(failure.into()));
    settle(inner, &claim, outcome).await;
}

/// Ends the jobs of a claim that are not ended yet, after the build of their partition.
pub(super) async fn settle(inner: &Inner, claim: &Claim, outcome: Result<Built, WorkError>) {
    let key = &claim.key;
    if let (true, Ok(_), Some(details)) = (inner.options.index_copies, &outcome, &claim.details) {
        inner.copied.note(&key.table, details);
    }
    match outcome {
        Ok(Built::Published(rows)) => {
            inner.backoff.forget(&backoff_name(key));
            tracing::info!(partition = %PartitionName(key), rows, "published");
        }
        Ok(Built::Waiting) => tracing::info!(partition = %PartitionName(key), "built; the rest of its group is not"),
        // The records say "running"; the next start queues them again.
        Err(WorkError::Task(TaskFailure::Aborted)) => {}
        // Who cancelled it has ended the jobs.
        Err(WorkError::Cancelled | WorkError::Storage(StorageError::LostLease { .. })) => {
            tracing::info!(partition = %PartitionName(key), "the build was cancelled");
        }
        Err(WorkError::Publish(error)) if matches!(*error, StorageError::LostLease { .. }) => {
            tracing::info!(partition = %PartitionName(key), "the build was cancelled");
        }
        Err(error) => {
            tracing::warn!(partition = %PartitionName(key), %error, "failed to build a partition");
            inner.backoff.note_failure(&backoff_name(key), inner.parts.clock.now());
            record_failure(inner, Arc::clone(&claim.leases), cause_of(&error)).await;
        }
    }
}

async fn build_and_publish(inner: Arc<Inner>, claim: Claim) -> Result<Built, WorkError> {
    // Losing the build leaves no file behind and ends its query; losing the other arm is harmless.
    let (file, refresh_key, build_ms) = tokio::select! {
        built = build(&inner, &claim) => built?,
        () = until_cancelled(&inner, &claim.leases) => return Err(WorkError::Cancelled),
    };
    publish(&inner, &claim, file, refresh_key, build_ms).await
}

/// Publishes the file of a claim's partition: the jobs are done with it. One of a group waits until the group is whole.
pub(super) async fn publish(
    inner: &Inner,
    claim: &Claim,
    file: FinishedFile,
    refresh_key: String,
    build_ms: u64,
) -> Result<Built, WorkError> {
    let rows = file.rows();
    let publish = publication(inner, claim, file, refresh_key, build_ms);
    let (store, clock) = (inner.parts.store.clone(), inner.parts.clock);
    let Some(group) = claim.group.clone() else {
        blocking(move || store.publish(publish, clock.now())).await?;
        return Ok(Built::Published(rows));
    };
    let groups = Arc::clone(&inner.groups);
    let member = Member { publish, claim: claim.details.as_ref().and_then(|details| details.claim) };
    let published = blocking(move || groups.publish(&store, &group, member, clock.now())).await?;
    published.iter().for_each(|key| inner.backoff.forget(&backoff_name(key)));
    Ok(if published.is_empty() { Built::Waiting } else { Built::Published(rows) })
}

/// What the store is asked to publish for a claim; its jobs show that.
pub(super) fn publication(
    inner: &Inner,
    claim: &Claim,
    file: FinishedFile,
    refresh_key: String,
    build_ms: u64,
) -> Publish {
    let (rows, size_bytes) = (file.rows(), file.size_bytes());
    let phase = if claim.group.is_some() { JobPhase::Waiting } else { JobPhase::Publishing };
    report(inner, &claim.leases, Progress { phase, rows, size_bytes, ..Progress::default() });
    let gate = if claim.asked_at.is_some() { Gate::Open } else { Gate::Guarded };
    Publish { key: claim.key.clone(), file, refresh_key, build_ms, jobs: claim.leases.to_vec(), gate }
}

/// Ends once nobody wants the build any more. Whoever cancels a job moves the pulse.
pub(super) async fn until_cancelled(inner: &Inner, leases: &[Lease]) {
    let mut pulse = inner.pulse.subscribe();
    loop {
        pulse.borrow_and_update();
        if !inner.parts.store.holds_any(leases) || pulse.changed().await.is_err() {
            return;
        }
    }
}

pub(super) fn report(inner: &Inner, leases: &[Lease], progress: Progress) {
    // Whether the leases are still held is for `until_cancelled` to see.
    let _ = inner.parts.store.report(leases, Progress { updated_at: inner.parts.clock.now(), ..progress });
}

/// Builds the file of a claim's partition by the model as it is now. With it comes what the refresh keys said before
/// the source was read, so that what changes meanwhile is seen as a change later, and the milliseconds that it took.
async fn build(inner: &Arc<Inner>, claim: &Claim) -> Result<(FinishedFile, String, u64), WorkError> {
    let rollups = rollups_of(inner, claim).await?;
    let target = target_of(&rollups, claim)?;
    let refresh_key = refresh_key(inner, &rollups, &target, claim.key.bucket, claim.since()).await;
    finish_originals(inner, &rollups, &target, claim.key.bucket, claim.since()).await?;
    let (started_at, limit) = (inner.parts.clock.now(), inner.options.timeout);
    let building = tokio::time::timeout(limit, build_file(inner, &rollups, &target, (&claim.key, &claim.leases)));
    let file = building.await.unwrap_or(Err(WorkError::TimedOut(limit)))?;
    let build_ms = u64::try_from((inner.parts.clock.now() - started_at) / 1_000).unwrap_or(0);
    Ok((file, refresh_key, build_ms))
}

/// The model that a claim is of.
///
/// # Errors
/// There is none for its context.
pub(super) async fn rollups_of(inner: &Inner, claim: &Claim) -> Result<Arc<Rollups>, WorkError> {
    let details = claim.details.as_ref().ok_or(WorkError::Gone)?;
    Ok(inner.parts.rollups_of(&details.context).await.map_err(super::RefreshError::from)?)
}

/// What is built for a claim.
///
/// # Errors
/// The model has no such partition any more.
pub(super) fn target_of(rollups: &Rollups, claim: &Claim) -> Result<Target, WorkError> {
    let details = claim.details.as_ref().ok_or(WorkError::Gone)?;
    let zone = details.zone().ok_or(WorkError::Gone)?;
    let path = MemberPath::parse(&details.preagg).ok();
    let preagg = path.and_then(|path| rollups.model().find_preagg(&path)).ok_or(WorkError::Gone)?;
    let target = Target::new(rollups, rollups.model().preagg(preagg), zone)?;
    let is_bucket_of_now = match (target.granularity, claim.key.bucket) {
        (None, None) => true,
        (Some(granularity), Some(bucket)) => bucket_of(granularity, bucket.start) == bucket,
        (None, Some(_)) | (Some(_), None) => false,
    };
    if target.table != claim.key.table || !is_bucket_of_now {
        return Err(WorkError::Gone);
    }
    Ok(target)
}

/// Builds the file of a partition.
pub(super) async fn build_file(
    inner: &Arc<Inner>,
    rollups: &Rollups,
    target: &Target,
    (key, leases): (&PartitionKey, &Arc<[Lease]>),
) -> Result<FinishedFile, WorkError> {
    let source = find_source(&inner.parts, &target.data_source)?;
    let ready = make_ready(inner, rollups, target, key.bucket).await?;
    let statement = rollups.build_sql(target.preagg, target.zone, key.bucket, &ready.cubes(rollups))?;
    report(inner, leases, Progress { phase: JobPhase::Querying, ..Progress::default() });
    let stream = source.stream_over(statement, ready.tables(rollups)?).await.map_err(BuildError::from)?;
    let (shared, held) = (Arc::clone(inner), Arc::clone(leases));
    let written = move |progress| report(&shared, &held, progress);
    let layout = layout_of(inner, rollups, target, key);
    Ok(build::write_partition(&inner.parts.store, stream, layout, written).await?)
}

/// How a partition of a target is laid out.
pub(super) fn layout_of(inner: &Inner, rollups: &Rollups, target: &Target, key: &PartitionKey) -> Layout {
    let (model, preagg) = (rollups.model(), target.preagg);
    Layout {
        key: key.clone(),
        time_column: rollups.time_column(preagg),
        bounded: !model.preagg(preagg).straddles(),
        sort_by: sort_columns(model, preagg),
        sort_bytes: inner.options.sort_bytes,
    }
}

/// What the refresh keys of a partition say; nothing when they cannot be evaluated, so that the partition is rebuilt as
/// soon as they can.
pub(super) async fn refresh_key(
    inner: &Inner,
    rollups: &Rollups,
    target: &Target,
    bucket: Option<Bounds>,
    since: i64,
) -> String {
    match inner.keys.value(&inner.parts, rollups, target, Span::Partition(bucket), since).await {
        Ok(value) => {
            inner.key_errors.forget(&target.table);
            value
        }
        Err(error) => {
            inner.key_errors.note(&target.table, &error);
            String::new()
        }
    }
}

/// Ends jobs as failed. A store that cannot even record that is asked again a few times; then the jobs
/// stay "running" until the next start queues them again.
async fn record_failure(inner: &Inner, leases: Arc<[Lease]>, cause: String) {
    let mut pause = LEAST_PAUSE;
    for remaining in (0..RECORD_TRIES).rev() {
        let (store, clock) = (inner.parts.store.clone(), inner.parts.clock);
        let (leases, cause) = (Arc::clone(&leases), cause.clone());
        match blocking(move || store.fail(&leases, &cause, clock.now())).await {
            Ok(()) => return,
            Err(error) if remaining == 0 => tracing::error!(%error, "failed to record a failure"),
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause *= 2;
    }
}

/// What clients see of a failure. The store's own troubles name files of the server: those are for its log.
fn cause_of(error: &WorkError) -> String {
    let text = match error {
        WorkError::Storage(fault) | WorkError::Build(BuildError::Storage(fault)) => cause_of_fault(fault),
        WorkError::Publish(fault) => cause_of_fault(fault),
        WorkError::Cancelled
        | WorkError::Gone
        | WorkError::Rows { .. }
        | WorkError::TimedOut(_)
        | WorkError::Query(_)
        | WorkError::Refresh(_)
        | WorkError::Build(_)
        | WorkError::Damaged
        | WorkError::Scan(_)
        | WorkError::Task(_) => error.to_string(),
    };
    if text.trim().is_empty() { "the build failed without a reason".to_owned() } else { text }
}

fn cause_of_fault(fault: &StorageError) -> String {
    match fault.kind() {
        ErrorKind::Refused => fault.to_string(),
        ErrorKind::Full => "no space left to store the partition".to_owned(),
        ErrorKind::NotFound
        | ErrorKind::Conflict
        | ErrorKind::Transient
        | ErrorKind::Corrupt
        | ErrorKind::Locked
        | ErrorKind::Bug => "the partition could not be stored; the server's log says why".to_owned(),
    }
}

/// What the scheduler's back-off calls a partition.
pub(super) fn backoff_name(key: &PartitionKey) -> String {
    PartitionName(key).to_string()
}

/// A partition in the log: its table and the start of its bucket.
struct PartitionName<'a>(&'a PartitionKey);

impl std::fmt::Display for PartitionName<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.bucket {
            Some(bucket) => write!(f, "{} {}", self.0.table, crate::time::format_local(bucket.start)),
            None => write!(f, "{}", self.0.table),
        }
    }
}

/// Exponential back-off by name, for what the scheduler would else try at every tick.
#[derive(Debug)]
pub(super) struct Backoff {
    greatest: Duration,
    names: std::sync::Mutex<std::collections::HashMap<String, Pause>>,
}

#[derive(Debug, Clone, Copy)]
struct Pause {
    until: i64,
    length: i64,
}

impl Backoff {
    const LEAST: Duration = Duration::from_secs(15);

    /// With pauses of `greatest` at most.
    pub(super) fn new(greatest: Duration) -> Self {
        Self { greatest, names: std::sync::Mutex::default() }
    }

    /// Whether there is no pause at `now`.
    pub(super) fn is_ready(&self, name: &str, now: i64) -> bool {
        self.lock().get(name).is_none_or(|pause| pause.until <= now)
    }

    /// Begins a pause, twice as long as the last one. A failure within a pause changes nothing: it is of
    /// work that was started before.
    pub(super) fn note_failure(&self, name: &str, now: i64) {
        let mut names = self.lock();
        // Bounds the map: what has not failed again for so long is forgotten.
        names.retain(|_, pause| now < pause.until.saturating_add(micros(self.greatest)));
        let pause = names.entry(name.to_owned()).or_insert(Pause { until: now, length: 0 });
        if pause.until <= now {
            pause.length = (pause.length * 2).max(micros(Self::LEAST)).min(micros(self.greatest));
            pause.until = now.saturating_add(pause.length);
        }
    }

    /// Ends all pauses of a name.
    pub(super) fn forget(&self, name: &str) {
        self.lock().remove(name);
    }

    /// A map is whole after every statement here, also in a thread that panicked.
    fn lock(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<String, Pause>> {
        self.names.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn pauses_double_up_to_ten_minutes_and_end_with_success() {
        let backoff = Backoff::new(Duration::from_secs(600));
        let mut now = 0;
        for length in [15, 30, 60, 120, 240, 480, 600, 600] {
            assert!(backoff.is_ready("a", now));
            backoff.note_failure("a", now);
            // Failures of work that was under way do not count.
            backoff.note_failure("a", now + SECOND);
            assert!(!backoff.is_ready("a", now + length * SECOND - 1), "{length}");
            now += length * SECOND;
            assert!(backoff.is_ready("a", now) && backoff.is_ready("b", now));
        }
        backoff.note_failure("a", now);
        backoff.forget("a");
        assert!(backoff.is_ready("a", now));
    }

    #[test]
    fn names_that_no_longer_fail_are_dropped() {
        let backoff = Backoff::new(Duration::from_secs(600));
        backoff.note_failure("old", 0);
        backoff.note_failure("new", 3_600 * SECOND);
        assert_eq!(backoff.lock().len(), 1);
    }

    #[test]
    fn causes_are_plain_text() {
        assert_eq!(cause_of(&WorkError::Gone), "pre-aggregation is no longer in the data model");
        let engine = BuildError::Engine(crate::engine::EngineError::Plan("table 'x' not found".to_owned()));
        assert_eq!(cause_of(&WorkError::Build(engine)), "table 'x' not found");
        let silent = BuildError::Engine(crate::engine::EngineError::Execution(" ".to_owned()));
        assert_eq!(cause_of(&WorkError::Build(silent)), "the build failed without a reason");
    }
}
