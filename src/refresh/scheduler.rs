//! The tick: compares what should be published with what is, and enqueues the difference.
//!
//! Level-triggered: nothing is remembered of what was enqueued before, so a lost event costs one tick
//! and never correctness.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use quarry_storage::{NewJob, Partition, PartitionKey, Snapshot, StorageError, TableId, TableState};
use serde_json::Value;

use super::jobs::{Details, SCHEDULER, has_ended};
use super::planning::{self, Target};
use super::staleness::{Freshness, freshness, greatest_age};
use super::worker::backoff_name;
use super::{Inner, RefreshError};
use crate::model::Preagg;
use crate::preagg::partition::buckets_within;
use crate::query::rollups::Rollups;
use crate::tasks::blocking;
use crate::time::Zone;

/// When the source of each table was last asked for its time range, in UTC microseconds.
type Looks = HashMap<TableId, i64>;

/// What a tick knows.
struct Tick<'a> {
    inner: &'a Inner,
    rollups: &'a Rollups,
    looks: &'a Looks,
    /// Partitions that a queued or running job builds anyway, whoever asked.
    live: &'a HashSet<PartitionKey>,
}

/// The body of the scheduler: ticks at once, then after every pause, until the stop signal.
pub(super) async fn schedule(inner: Arc<Inner>) {
    let stop = inner.tasks.stop_signal();
    let mut looks = Looks::new();
    loop {
        // Losing the tick is harmless: what it enqueued is durable, the rest is found missing again.
        tokio::select! {
            () = stop.cancelled() => return,
            () = tick(&inner, &mut looks) => {}
        }
        // Losing the pause is harmless.
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(inner.options.tick) => {}
        }
    }
}

/// Looks at every scheduled rollup in every zone. A failure is logged and costs its rollup a pause.
async fn tick(inner: &Inner, looks: &mut Looks) {
    let rollups = (inner.parts.rollups)();
    let live = match live_partitions(inner).await {
        Ok(live) => live,
        Err(error) => {
            tracing::warn!(%error, "failed to read the queue");
            return;
        }
    };
    let tick = Tick { inner, rollups: &rollups, looks, live: &live };
    let mut seen = Looks::new();
    for zone in &inner.options.zones {
        for preagg in rollups.model().cubes().iter().flat_map(|cube| &cube.preaggs) {
            if !preagg.scheduled_refresh {
                continue;
            }
            let name = format!("{}.{} {zone}", rollups.model().cube(preagg.id.cube).name, preagg.name);
            if !inner.backoff.is_ready(&name, inner.parts.clock.now()) {
                continue;
            }
            match tick.refresh(preagg, *zone).await {
                Ok((table, looked_at)) => {
                    inner.backoff.forget(&name);
                    seen.insert(table, looked_at);
                }
                Err(error) => {
                    tracing::warn!(rollup = name, %error, "failed to plan a scheduled refresh");
                    inner.backoff.note_failure(&name, inner.parts.clock.now());
                }
            }
        }
    }
    // Tables of former definitions are not kept.
    *looks = seen;
}

async fn live_partitions(inner: &Inner) -> Result<HashSet<PartitionKey>, StorageError> {
    let store = inner.parts.store.clone();
    let jobs = blocking(move || store.jobs()).await?;
    Ok(jobs.into_iter().filter(|job| !has_ended(job)).map(|job| job.partition).collect())
}

impl Tick<'_> {
    /// Enqueues what a rollup lacks; gives its table and when its source was last looked at.
    async fn refresh(&self, preagg: &Preagg, zone: Zone) -> Result<(TableId, i64), RefreshError> {
        let target = Target::new(self.rollups, preagg, zone)?;
        let now = self.inner.parts.clock.now();
        let age = greatest_age(self.rollups.model(), preagg);
        let stored = self.inner.stored_state(&target.table);
        // The range may be as old as the rows: new buckets are noticed within `refresh_key.every`.
        let looked_at = self.looks.get(&target.table).copied().filter(|at| at.saturating_add(age) > now);
        let (state, looked_at) = match looked_at {
            Some(looked_at) if target.granularity.is_none() || stored.range.is_some() => (stored, looked_at),
            _ => (planning::look(&self.inner.parts, self.rollups, &target).await?, now),
        };
        let wanted = wanted_partitions(&target, state, self.inner.options.max_partitions)?;
        let due = self.due_partitions(wanted, age);
        self.store_and_enqueue(&target, state, due).await?;
        Ok((target.table, looked_at))
    }

    /// The partitions that are missing or stale, that nobody builds and that did not just fail.
    fn due_partitions(&self, wanted: Vec<PartitionKey>, age: i64) -> Vec<PartitionKey> {
        let (now, snapshot) = (self.inner.parts.clock.now(), self.inner.parts.store.snapshot());
        let is_due = |key: &PartitionKey| {
            freshness(published(&snapshot, key), age, now) != Freshness::Fresh
                && !self.live.contains(key)
                && self.inner.backoff.is_ready(&backoff_name(key), now)
        };
        wanted.into_iter().filter(is_due).collect()
    }

    async fn store_and_enqueue(
        &self,
        target: &Target,
        state: TableState,
        due: Vec<PartitionKey>,
    ) -> Result<(), StorageError> {
        let inner = self.inner;
        let details = Details::new(target, Value::Object(serde_json::Map::new()), false).to_text();
        let job = |partition| NewJob { partition, details: details.clone(), context: SCHEDULER.to_owned() };
        let jobs: Vec<NewJob> = due.into_iter().map(job).collect();
        let is_new = target.granularity.is_some() && inner.stored_state(&target.table) != state;
        let state = is_new.then(|| (target.table.clone(), state));
        if state.is_none() && jobs.is_empty() {
            return Ok(());
        }
        let (store, clock) = (inner.parts.store.clone(), inner.parts.clock);
        blocking(move || {
            if let Some((table, state)) = state {
                store.set_table_state(&table, state)?;
            }
            if jobs.is_empty() { Ok(Vec::new()) } else { store.enqueue(&jobs, clock.now()) }
        })
        .await?;
        inner.pulse();
        Ok(())
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
