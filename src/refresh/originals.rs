//! What a rollup is built from when that is the stored rows of its cubes (`pre-aggregations.md` §13): they are made
//! ready first.

use std::collections::HashSet;
use std::sync::Arc;

use quarry_storage::{
    Bounds, Gate, JobRecord, JobState, Lease, PartitionKey, Publish, Snapshot, StorageError, TableId,
};

use super::Inner;
use super::keys::Span;
use super::planning::{self, Target};
use super::staleness::{Freshness, freshness};
use super::worker::{Claim, WorkError, build_claimed, build_file, refresh_key};
use crate::model::PreaggId;
use crate::preagg::partition::buckets_within;
use crate::query::execute::table_of;
use crate::query::lower::CubeTables;
use crate::query::rollups::Rollups;
use crate::query::scan::{Original, build_range, find_original};
use crate::sources::Brought;
use crate::tasks::blocking;
use crate::time::Zone;

/// Stored rows that a build reads instead of cubes' own SQL.
#[derive(Debug, Default)]
pub(super) struct Ready {
    originals: Vec<Original>,
    /// Keep the files that are read.
    pinned: Vec<Arc<Snapshot>>,
}

impl Ready {
    /// What stands for the cubes in the build's statement.
    pub(super) fn cubes(&self, rollups: &Rollups) -> CubeTables {
        self.originals.iter().map(|original| (original.cube, original.sql(rollups.model()))).collect()
    }

    /// The tables that the statement names.
    pub(super) fn tables(&self, rollups: &Rollups) -> Result<Brought, WorkError> {
        let table = |original: &Original| Ok((original.table_name(rollups.model()), table_of(&original.scan)?));
        self.originals.iter().map(table).collect()
    }
}

/// Waits for the jobs of the rows that a partition of a rollup is built from.
///
/// # Errors
/// One has failed, so that the build would show what was asked to be replaced: one that was made at `since` or later, if
/// that is a moment. Else, when only the scheduler asks, one of rows that the partition reads and that are stale still:
/// built from these it would be taken for fresh.
pub(super) async fn finish_originals(
    inner: &Arc<Inner>,
    rollups: &Rollups,
    target: &Target,
    bucket: Option<Bounds>,
    since: i64,
) -> Result<(), WorkError> {
    for original in rollups.originals_of(target.preagg) {
        let source = Target::new(rollups, rollups.model().preagg(original), Zone::UTC)?;
        let wanted = build_range(rollups, target.preagg, original, (target.zone, bucket))?;
        for failure in finish_jobs(inner, &source).await? {
            let counts = if since == i64::MIN {
                wanted.meets(failure.bucket) && is_stale(inner, rollups, &source, failure.bucket).await
            } else {
                since <= failure.created_at
            };
            if counts {
                return Err(WorkError::Rows { rollup: source.path, cause: failure.cause });
            }
        }
    }
    Ok(())
}

/// Whether a partition is published, and its refresh keys say something else now, or nothing.
async fn is_stale(inner: &Inner, rollups: &Rollups, target: &Target, bucket: Option<Bounds>) -> bool {
    let snapshot = inner.parts.store.snapshot();
    let key = PartitionKey { table: target.table.clone(), bucket };
    let Some(published) = snapshot.find(&key) else { return false };
    let value = inner.keys.value(&inner.parts, rollups, target, Span::Partition(bucket), i64::MIN).await;
    value.map_or(true, |value| freshness(Some(published), &value) == Freshness::Stale)
}

/// The stored rows for a build of a partition: builds what is not published. A cube whose stored rows cannot hold what
/// the build needs is read at its source.
pub(super) async fn make_ready(
    inner: &Arc<Inner>,
    rollups: &Rollups,
    target: &Target,
    bucket: Option<Bounds>,
) -> Result<Ready, WorkError> {
    let mut ready = Ready::default();
    for original in rollups.originals_of(target.preagg) {
        let source = Target::new(rollups, rollups.model().preagg(original), Zone::UTC)?;
        let wanted = build_range(rollups, target.preagg, original, (target.zone, bucket))?;
        let mut snapshot = inner.parts.store.snapshot();
        let mut found = find_original(rollups, &snapshot, original, wanted);
        if found.is_err() {
            build_missing(inner, rollups, &source).await?;
            snapshot = inner.parts.store.snapshot();
            found = find_original(rollups, &snapshot, original, wanted);
        }
        match found {
            Ok(original) => {
                ready.originals.push(original);
                ready.pinned.push(snapshot);
            }
            Err(reason) => {
                tracing::warn!(rollup = target.path, original = source.path, %reason, "the cube's own SQL is read");
            }
        }
    }
    Ok(ready)
}

/// The last word on a partition: it could not be built.
struct Failure {
    bucket: Option<Bounds>,
    /// UTC microseconds.
    created_at: i64,
    cause: String,
}

/// Waits until no job of a cube's rows is live. Those that are queued are built here, as the other workers may all wait
/// for the same; a build that is begun goes on when nobody waits any more. Gives the partitions whose last job failed.
async fn finish_jobs(inner: &Arc<Inner>, source: &Target) -> Result<Vec<Failure>, WorkError> {
    let mut pulse = inner.pulse.subscribe();
    let stop = inner.tasks.stop_signal();
    loop {
        pulse.borrow_and_update();
        if inner.tasks.run(build_next(Arc::clone(inner), source.table.clone())).await?? {
            continue;
        }
        let store = inner.parts.store.clone();
        let jobs = blocking(move || -> Result<_, StorageError> { store.jobs() }).await?;
        let jobs = jobs.iter().filter(|job| job.partition.table == source.table);
        if stop.is_cancelled() || !jobs.clone().any(|job| !job.state.has_ended()) {
            // Newest first: of each partition the last word counts.
            let mut known = HashSet::new();
            let last = jobs.filter(|job| known.insert(job.partition.bucket));
            let failed = |job: &JobRecord| match &job.state {
                JobState::Failed { cause } => {
                    let (bucket, created_at) = (job.partition.bucket, job.created_at);
                    Some(Failure { bucket, created_at, cause: cause.clone() })
                }
                _ => None,
            };
            return Ok(last.filter_map(failed).collect());
        }
        // Losing either arm is harmless: the loop looks at both again.
        tokio::select! {
            () = stop.cancelled() => {}
            _ = pulse.changed() => {}
        }
    }
}

/// Builds a partition of a table that is queued; says whether there was one.
async fn build_next(inner: Arc<Inner>, table: TableId) -> Result<bool, StorageError> {
    let (store, clock) = (inner.parts.store.clone(), inner.parts.clock);
    let claimed = blocking(move || {
        let mut first = true;
        store.claim_more(&table, clock.now(), &mut |_| std::mem::take(&mut first))
    });
    let claimed = claimed.await?;
    let Some(claim) = claimed.first().and_then(|jobs| Claim::new(jobs)) else { return Ok(false) };
    build_claimed(&inner, claim).await;
    inner.pulse();
    Ok(true)
}

/// Builds and publishes the partitions of a cube's rows that are not published. One build at a time does this: what it
/// has published the next one finds.
async fn build_missing(inner: &Arc<Inner>, rollups: &Rollups, source: &Target) -> Result<(), WorkError> {
    let _alone = inner.originals.lock().await;
    let seen = planning::look(&inner.parts, rollups, source, inner.options.timeout).await?;
    let buckets = match (source.granularity, seen.range) {
        (None, _) => vec![None],
        (Some(_), None) => Vec::new(),
        (Some(granularity), Some(range)) => {
            let buckets = buckets_within(granularity, range, inner.options.max_partitions);
            let buckets = buckets.map_err(|error| super::RefreshError::too_many(&source.path, error))?;
            buckets.into_iter().map(Some).collect()
        }
    };
    if source.granularity.is_some() {
        let (store, table) = (inner.parts.store.clone(), source.table.clone());
        blocking(move || store.set_table_state(&table, seen)).await?;
    }
    // No job asks for it.
    let nobody: Arc<[Lease]> = Arc::from([]);
    for bucket in buckets {
        let key = PartitionKey { table: source.table.clone(), bucket };
        let start = bucket.map_or(i64::MIN, |bucket| bucket.start);
        let snapshot = inner.parts.store.snapshot();
        let known = snapshot.table(&source.table).and_then(|table| table.partitions.get(&start));
        if known.is_some_and(|known| known.bucket == bucket) {
            continue;
        }
        let started_at = inner.parts.clock.now();
        let refresh_key = refresh_key(inner, rollups, source, bucket, i64::MIN).await;
        // Boxed: a build may make rows ready, and this is a build.
        let file = Box::pin(build_file(inner, rollups, source, (&key, &nobody))).await?;
        let build_ms = u64::try_from((inner.parts.clock.now() - started_at) / 1_000).unwrap_or(0);
        let publish = Publish { key, file, refresh_key, build_ms, jobs: Vec::new(), gate: Gate::Open };
        let (store, clock) = (inner.parts.store.clone(), inner.parts.clock);
        blocking(move || store.publish(publish, clock.now())).await?;
    }
    Ok(())
}

/// A rollup's definition and what must be built before it, in that order: rows first.
pub(super) fn with_originals(rollups: &Rollups, preagg: PreaggId) -> impl Iterator<Item = PreaggId> {
    rollups.originals_of(preagg).into_iter().chain([preagg])
}
