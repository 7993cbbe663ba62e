//! The passes: each compares what should be published with what is, and feeds the difference to the queue.
//!
//! Level-triggered: nothing is remembered of what was enqueued before, so a lost event costs one pass and never
//! correctness. The queue gets only as much as is built soon, so that what a client asks for waits for little.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use futures::{StreamExt as _, stream};
use quarry_storage::{
    Bounds, JobId, JobRecord, NewJob, Partition, PartitionKey, Snapshot, StorageError, TableId, TableState,
};
use serde_json::Value;
use tokio::time::Instant;

use super::jobs::{Details, SCHEDULER, context_digest};
use super::keys::Span;
use super::planning::{self, Target};
use super::staleness::{Freshness, freshness};
use super::together::{MAX_TOGETHER, is_one_scan};
use super::worker::backoff_name;
use super::{Inner, RefreshError};
use crate::model::{Model, Preagg, PreaggKind};
use crate::preagg::partition::{bucket_of, buckets_within};
use crate::query::keys::KeyError;
use crate::query::rollups::Rollups;
use crate::tasks::blocking;
use crate::time::{DAY_MICROS, Granularity, Zone};

/// Jobs that are built in one go.
type Unit = Vec<NewJob>;

/// Refresh keys of one rollup that are asked at the same time.
const KEYS_AT_ONCE: usize = 4;

/// What was seen when the source of each table was last asked for its time range.
pub(super) type Looks = HashMap<TableId, Look>;

/// A look at a source's time range (§6.1).
#[derive(Debug, Clone)]
pub(super) struct Look {
    /// UTC microseconds.
    at: i64,
    /// What the refresh keys said of both ends of the table; empty when that is not known.
    edges: String,
}

/// What a pass knows.
struct Pass<'a> {
    inner: &'a Inner,
    rollups: &'a Rollups,
    /// Partitions that a queued or running job builds anyway, whoever asked.
    live: &'a HashSet<PartitionKey>,
    /// Whose model it is.
    context: &'a Value,
}

/// The body of the scheduler: a pass at once, then one every tick, until the stop signal.
pub(super) async fn schedule(inner: Arc<Inner>) {
    let stop = inner.tasks.stop_signal();
    loop {
        let next = Instant::now() + inner.options.tick;
        // Losing the pass is harmless: what it enqueued is durable, the rest is found missing again.
        let outcome = tokio::select! {
            () = stop.cancelled() => return,
            outcome = pass(&inner, &[], inner.options.scheduled_at_once, next) => outcome,
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "a pass of the scheduler failed");
        }
        // Losing the pause is harmless.
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// Looks at every scheduled rollup in every zone (those of the settings when there are none) and has built what is missing or stale, at most `at_once` jobs at the
/// same time. Gives whether nothing was left to do at `until`.
pub(super) async fn pass(inner: &Inner, zones: &[Zone], at_once: usize, until: Instant) -> Result<bool, StorageError> {
    // Who comes meanwhile waits, and then finds the answers of this pass.
    let Ok(mut looks) = tokio::time::timeout_at(until, inner.looks.lock()).await else { return Ok(false) };
    let live = live_jobs(inner).await?;
    let due = due_jobs(inner, zones, &live, &mut looks).await;
    drop(looks);
    let scheduled = live.into_iter().filter(|job| job.context == SCHEDULER).map(|job| vec![job.id]).collect();
    feed(inner, due, scheduled, at_once.max(1), until).await
}

/// Keeps jobs for `at_once` scheduled builds in the queue until all have ended.
async fn feed(
    inner: &Inner,
    mut due: VecDeque<Unit>,
    mut live: Vec<Vec<JobId>>,
    at_once: usize,
    until: Instant,
) -> Result<bool, StorageError> {
    let stop = inner.tasks.stop_signal();
    let mut pulse = inner.pulse.subscribe();
    loop {
        // Marked as seen before the look, so that what comes after it is not slept through.
        pulse.borrow_and_update();
        live = still_live(inner, live).await?;
        let room = at_once.saturating_sub(live.len()).min(due.len());
        if room > 0 {
            let units: Vec<Unit> = due.drain(..room).collect();
            let (store, clock) = (inner.parts.store.clone(), inner.parts.clock);
            let enqueue = move || units.iter().map(|jobs| store.enqueue(jobs, clock.now())).collect();
            live.extend(blocking::<Result<Vec<Vec<JobId>>, StorageError>, _>(enqueue).await?);
            inner.pulse();
            continue;
        }
        if live.is_empty() {
            return Ok(true);
        }
        // Losing any arm is harmless: the loop looks again.
        tokio::select! {
            () = stop.cancelled() => return Ok(false),
            () = tokio::time::sleep_until(until) => return Ok(false),
            _ = pulse.changed() => {}
        }
    }
}

async fn live_jobs(inner: &Inner) -> Result<Vec<JobRecord>, StorageError> {
    let store = inner.parts.store.clone();
    let jobs = blocking(move || store.jobs()).await?;
    Ok(jobs.into_iter().filter(|job| !job.state.has_ended()).collect())
}

/// The builds of which some job has not ended.
async fn still_live(inner: &Inner, builds: Vec<Vec<JobId>>) -> Result<Vec<Vec<JobId>>, StorageError> {
    let store = inner.parts.store.clone();
    blocking(move || {
        let mut live = Vec::with_capacity(builds.len());
        for jobs in builds {
            let ended = |id| Ok::<_, StorageError>(store.find_job(id)?.is_none_or(|job| job.state.has_ended()));
            if !jobs.iter().map(ended).collect::<Result<Vec<bool>, _>>()?.into_iter().all(|ended| ended) {
                live.push(jobs);
            }
        }
        Ok(live)
    })
    .await
}

/// What is to be built: the newest partition of each rollup in the first zone, the same in the next zone, then the
/// next older ones (§16); partitions that one scan gives go with the newest of them. What is built from stored rows comes
/// after all that is not. A failure is logged and costs its rollup a pause.
async fn due_jobs(inner: &Inner, zones: &[Zone], live: &[JobRecord], looks: &mut Looks) -> VecDeque<Unit> {
    let live: HashSet<PartitionKey> = live.iter().map(|job| job.partition.clone()).collect();
    let mut lists = Lists::default();
    for charge in inner.parts.charges(zones, &inner.options.zones).await {
        let pass = Pass { inner, rollups: &charge.rollups, live: &live, context: &charge.context };
        pass.all(&charge.zones, looks, &mut lists).await;
    }
    // Tables of former definitions are not kept.
    let now = inner.parts.clock.now();
    looks.retain(|_, look| now < look.at.saturating_add(2 * DAY_MICROS));
    lists.in_order()
}

/// What is to be built, a list for each rollup and zone.
#[derive(Default)]
struct Lists {
    of_sources: Vec<VecDeque<Unit>>,
    /// Built from the stored rows of cubes. A partition may need many of those, each a build of its own: one that came
    /// between them would show old rows, and be taken for fresh.
    of_rows: Vec<VecDeque<Unit>>,
}

impl Lists {
    fn in_order(self) -> VecDeque<Unit> {
        let mut all = in_turns(self.of_sources);
        all.extend(in_turns(self.of_rows));
        all
    }
}

/// The first of each list, then the second of each, and so on.
fn in_turns<T>(mut lists: Vec<VecDeque<T>>) -> VecDeque<T> {
    let mut all = VecDeque::with_capacity(lists.iter().map(VecDeque::len).sum());
    while lists.iter().any(|list| !list.is_empty()) {
        all.extend(lists.iter_mut().filter_map(VecDeque::pop_front));
    }
    all
}

/// All definitions; rows that rollups may be built from come first.
fn in_order(model: &Model) -> impl Iterator<Item = &Preagg> {
    let all = || model.cubes().iter().flat_map(|cube| &cube.preaggs);
    let rows = |preagg: &&Preagg| preagg.kind == PreaggKind::OriginalSql;
    all().filter(rows).chain(all().filter(move |preagg| !rows(preagg)))
}

impl Pass<'_> {
    /// Adds a list of jobs for each rollup and zone.
    async fn all(&self, zones: &[Zone], looks: &mut Looks, lists: &mut Lists) {
        let Self { inner, rollups, context, .. } = *self;
        let whose = if inner.parts.tenants.is_some() { format!(" {}", context_digest(context)) } else { String::new() };
        for (position, zone) in zones.iter().enumerate() {
            for preagg in in_order(rollups.model()) {
                // What is the same in every zone is one table.
                let stored = |zone: &Zone| rollups.stored_zone(preagg.id, *zone);
                let again = zones[..position].iter().any(|before| stored(before) == stored(zone));
                if !preagg.scheduled_refresh || !preagg.is_stored() || again {
                    continue;
                }
                let name = format!("{}.{} {zone}{whose}", rollups.model().cube(preagg.id.cube).name, preagg.name);
                if !inner.backoff.is_ready(&name, inner.parts.clock.now()) {
                    continue;
                }
                match self.refresh(preagg, *zone, looks).await {
                    Ok(due) => {
                        inner.backoff.forget(&name);
                        let from_rows = !rollups.originals_of(preagg.id).is_empty();
                        if from_rows { &mut lists.of_rows } else { &mut lists.of_sources }.push(due);
                    }
                    Err(error) => {
                        tracing::warn!(rollup = name, %error, "failed to plan a scheduled refresh");
                        inner.backoff.note_failure(&name, inner.parts.clock.now());
                    }
                }
            }
        }
    }

    /// What a rollup lacks, newest first. Stores what is known of its table from now on.
    async fn refresh(&self, preagg: &Preagg, zone: Zone, looks: &mut Looks) -> Result<VecDeque<Unit>, RefreshError> {
        let target = Target::new(self.rollups, preagg, zone)?;
        let stored = self.inner.stored_state(&target.table);
        let (state, look) = self.look(&target, stored, looks.get(&target.table)).await?;
        let wanted = wanted_partitions(&target, state, self.inner.options.max_partitions)?;
        let due = self.due_partitions(&target, wanted).await;
        if target.granularity.is_some() && stored != state {
            let (store, table) = (self.inner.parts.store.clone(), target.table.clone());
            blocking(move || store.set_table_state(&table, state)).await?;
        }
        looks.insert(target.table.clone(), look);
        let details = Details::new(&target, self.context.clone(), false).to_text();
        let job =
            |partition| NewJob { partition, details: details.clone(), context: SCHEDULER.to_owned(), group: None };
        let most = if is_one_scan(self.inner, self.rollups, &target) { MAX_TOGETHER } else { 1 };
        let jobs: Vec<NewJob> = due.into_iter().map(job).collect();
        Ok(jobs.chunks(most).map(<[NewJob]>::to_vec).collect())
    }

    /// The table's range: as known, unless the refresh keys of its ends have changed or a day has passed.
    async fn look(
        &self,
        target: &Target,
        stored: TableState,
        known: Option<&Look>,
    ) -> Result<(TableState, Look), RefreshError> {
        let now = self.inner.parts.clock.now();
        let edges = match (target.granularity, stored.range) {
            (Some(granularity), Some(range)) => match self.edges(target, granularity, range).await {
                Ok(edges) => edges,
                Err(error) => {
                    // What is known serves until the keys can be evaluated.
                    self.inner.key_errors.note(&target.table, &error);
                    return Ok((stored, known.cloned().unwrap_or(Look { at: now, edges: String::new() })));
                }
            },
            (None, _) | (Some(_), None) => String::new(),
        };
        let is_current = |look: &&Look| look.edges == edges && now < look.at.saturating_add(DAY_MICROS);
        if let Some(look) = known.filter(is_current)
            && stored.range.is_some()
        {
            return Ok((stored, look.clone()));
        }
        let state = planning::look(&self.inner.parts, self.rollups, target, self.inner.options.timeout).await?;
        // Other ends have other keys: they are asked for in the next pass.
        let edges = if state.range == stored.range { edges } else { String::new() };
        Ok((state, Look { at: now, edges }))
    }

    /// What the refresh keys say of both ends of a table, and of all time beyond.
    async fn edges(&self, target: &Target, granularity: Granularity, range: Bounds) -> Result<String, KeyError> {
        let first = self.value(target, Span::Until(bucket_of(granularity, range.start))).await?;
        let last = self.value(target, Span::From(bucket_of(granularity, range.end - 1))).await?;
        Ok(format!("{first}\n{last}"))
    }

    async fn value(&self, target: &Target, span: Span) -> Result<String, KeyError> {
        self.inner.keys.value(&self.inner.parts, self.rollups, target, span, i64::MIN).await
    }

    /// The partitions that are missing or stale, that nobody builds and that did not just fail; newest first. Where the
    /// keys cannot be evaluated what is published stays.
    async fn due_partitions(&self, target: &Target, wanted: Vec<PartitionKey>) -> VecDeque<PartitionKey> {
        let (now, snapshot) = (self.inner.parts.clock.now(), self.inner.parts.store.snapshot());
        // An operator went back to it: to build it again is for who asks for it.
        let is_held = |key: &PartitionKey| snapshot.find(key).is_some_and(|live| live.held);
        let idle = wanted.into_iter().rev().filter(|key| !self.live.contains(key) && !is_held(key));
        let checks = idle.map(|key| {
            let published = published(&snapshot, &key).cloned();
            async move {
                let fresh = match &published {
                    None => Ok(Freshness::Missing),
                    Some(partition) => {
                        let value = self.value(target, Span::Partition(key.bucket)).await;
                        value.map(|value| freshness(Some(partition), &value))
                    }
                };
                (key, fresh)
            }
        });
        let mut checks = stream::iter(checks).buffered(KEYS_AT_ONCE);
        let (mut due, mut failed) = (VecDeque::new(), false);
        while let Some((key, fresh)) = checks.next().await {
            match fresh {
                Ok(Freshness::Fresh) => {}
                Ok(Freshness::Missing | Freshness::Stale) => {
                    if self.inner.backoff.is_ready(&backoff_name(&key), now) {
                        due.push_back(key);
                    }
                }
                Err(error) => {
                    failed = true;
                    self.inner.key_errors.note(&target.table, &error);
                }
            }
        }
        if !failed {
            self.inner.key_errors.forget(&target.table);
        }
        due
    }
}

/// All partitions a table of that state should have, ascending.
fn wanted_partitions(target: &Target, state: TableState, max: usize) -> Result<Vec<PartitionKey>, RefreshError> {
    let key = |bucket| PartitionKey { table: target.table.clone(), bucket };
    match (target.granularity, state.range) {
        (None, _) => Ok(vec![key(None)]),
        (Some(_), None) => Ok(Vec::new()),
        (Some(granularity), Some(range)) => {
            let buckets = buckets_within(granularity, range, max);
            let buckets = buckets.map_err(|error| RefreshError::too_many(&target.path, error))?;
            Ok(buckets.into_iter().map(|bucket| key(Some(bucket))).collect())
        }
    }
}

fn published<'a>(snapshot: &'a Snapshot, key: &PartitionKey) -> Option<&'a Partition> {
    let start = key.bucket.map_or(i64::MIN, |bucket| bucket.start);
    let found = snapshot.table(&key.table)?.partitions.get(&start)?;
    (found.bucket == key.bucket).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_each_rollup_come_before_the_next_older_ones() {
        let list = |items: &[&'static str]| items.iter().copied().collect::<VecDeque<_>>();
        let all = in_turns(vec![list(&["a3", "a2", "a1"]), list(&[]), list(&["b2", "b1"]), list(&["c9"])]);
        assert_eq!(all, ["a3", "b2", "c9", "a2", "b1", "a1"]);
    }
}
