//! Keeps the copies that further indexes of rollups ask for (`pre-aggregations.md` §2.4).
//!
//! A copy is made of the published file of a partition, never of the source: it comes a moment after the partition, and
//! until then queries read the partition itself. A failure costs nothing but the copy, and is tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quarry_storage::{FinishedFile, Gate, Partition, PartitionKey, Publish, TableId};
use tokio::time::Instant;

use super::Inner;
use super::build::{self, BuildError, Layout};
use super::contexts::Charge;
use super::jobs::Details;
use super::originals::with_originals;
use super::planning::{Target, find_source};
use super::worker::{WorkError, backoff_name};
use crate::engine::partition_table::{PartitionFile, PartitionTable, read_schema};
use crate::engine::{Batches, EngineError};
use crate::model::{Model, Preagg};
use crate::names::MemberPath;
use crate::preagg::indexes::{IndexCopy, is_of, mark_of};
use crate::query::QueryError;
use crate::query::lower::{copy_statement, qualified};
use crate::query::rollups::Rollups;
use crate::sources::{BROUGHT_SCHEMA, Brought, Source};
use crate::tasks::blocking;
use crate::time::Zone;

/// Pause between two passes: what is published in quick succession is one.
const PAUSE: Duration = Duration::from_millis(100);
/// Tables and models of former definitions go when there are that many.
const MOST_TABLES: usize = 10_000;
/// Name of the partition in the statement that gives its copy.
const PARTITION: &str = "partition";

/// The tables that may lack copies.
#[derive(Debug, Default)]
pub(super) struct Copied {
    /// By table, of what it is a variant.
    tables: Mutex<BTreeMap<TableId, Details>>,
    /// Models whose tables were looked through.
    surveyed: Mutex<BTreeSet<u64>>,
    /// Held by the pass that runs.
    pass: tokio::sync::Mutex<()>,
}

impl Copied {
    /// Something of a table was published, or may have been.
    pub(super) fn note(&self, table: &TableId, details: &Details) {
        // A map is whole after every statement here, also in a thread that panicked.
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if tables.len() >= MOST_TABLES {
            tables.clear();
        }
        tables.entry(table.clone()).or_insert_with(|| details.clone());
    }

    /// Whether the tables of a model were not looked through yet; they are from now on.
    fn is_new(&self, rollups: &Rollups) -> bool {
        let mut surveyed = self.surveyed.lock().unwrap_or_else(PoisonError::into_inner);
        if surveyed.len() >= MOST_TABLES {
            surveyed.clear();
        }
        surveyed.insert(rollups.instance())
    }

    fn noted(&self) -> Vec<(TableId, Details)> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.iter().map(|(table, details)| (table.clone(), details.clone())).collect()
    }
}

/// The body of the task: until the stop signal.
pub(super) async fn keep_copies(inner: Arc<Inner>) {
    let stop = inner.tasks.stop_signal();
    let mut pulse = inner.pulse.subscribe();
    let mut next = Instant::now();
    while !stop.is_cancelled() {
        if next <= Instant::now() {
            // What was published before this process started.
            survey(&inner).await;
            next = Instant::now() + inner.options.tick;
        }
        pulse.borrow_and_update();
        make_missing(&inner).await;
        // Losing any arm is harmless: the loop looks again.
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep_until(next) => {}
            _ = pulse.changed() => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Notes what is stored of the models that the background looks after, in whatever zone: once a model, as what is
/// published later is noted then.
pub(super) async fn survey(inner: &Inner) {
    for Charge { context, rollups, .. } in inner.parts.charges(&[], &inner.options.zones).await {
        if !inner.copied.is_new(&rollups) {
            continue;
        }
        let snapshot = inner.parts.store.snapshot();
        let found = blocking(move || -> Vec<Target> {
            let preaggs = rollups.model().cubes().iter().flat_map(|cube| &cube.preaggs);
            let copied: Vec<&Preagg> = preaggs.filter(|preagg| !rollups.copies(preagg.id).is_empty()).collect();
            let targets = |zone: Zone| {
                copied.iter().filter_map(|preagg| Target::new(&rollups, preagg, zone).ok()).collect::<Vec<_>>()
            };
            let all = chrono_tz::TZ_VARIANTS.into_iter().flat_map(targets);
            all.filter(|target| snapshot.table(&target.table).is_some()).collect()
        });
        for target in found.await {
            inner.copied.note(&target.table, &Details::new(&target, context.clone(), false));
        }
    }
}

/// Makes all copies that are missing. One pass at a time does this: what it has made the next one finds.
pub(super) async fn make_missing(inner: &Inner) {
    let _alone = inner.copied.pass.lock().await;
    for (table, details) in inner.copied.noted() {
        let Ok(rollups) = inner.parts.rollups_of(&details.context).await else { continue };
        let Some(target) = target_of(&rollups, &details).filter(|target| target.table == table) else { continue };
        // Rows that it is built from may have been published with it.
        for preagg in with_originals(&rollups, target.preagg) {
            let preagg = rollups.model().preagg(preagg);
            let Ok(target) = Target::new(&rollups, preagg, target.zone) else { continue };
            for copy in rollups.copies(preagg.id) {
                copy_table(inner, &rollups, (&target, copy)).await;
            }
        }
    }
}

fn target_of(rollups: &Rollups, details: &Details) -> Option<Target> {
    let preagg = rollups.model().find_preagg(&MemberPath::parse(&details.preagg).ok()?)?;
    Target::new(rollups, rollups.model().preagg(preagg), details.zone()?).ok()
}

/// Makes the copies of a table's partitions that are missing, the latest first.
async fn copy_table(inner: &Inner, rollups: &Rollups, (target, copy): (&Target, &IndexCopy)) {
    let stop = inner.tasks.stop_signal();
    let copies = copy.table(&target.table);
    let buckets: Vec<i64> = match inner.parts.store.snapshot().table(&target.table) {
        Some(table) => table.partitions.keys().rev().copied().collect(),
        None => return,
    };
    for start in buckets {
        // Taken for each: none is held longer than it is read.
        let snapshot = inner.parts.store.snapshot();
        let find = |table| snapshot.table(table)?.partitions.get(&start);
        let Some(partition) = find(&target.table) else { continue };
        if find(&copies).is_some_and(|copy| is_of(copy, partition)) {
            continue;
        }
        let key = PartitionKey { table: copies.clone(), bucket: partition.bucket };
        // What was built anew is tried at once.
        let name = format!("{} of {}", backoff_name(&key), partition.file);
        if !inner.backoff.is_ready(&name, inner.parts.clock.now()) {
            continue;
        }
        // Losing it leaves no file.
        let made = tokio::select! {
            () = stop.cancelled() => return,
            made = make(inner, rollups, (target, copy), (partition, &key)) => made,
        };
        match made {
            Ok(rows) => {
                inner.backoff.forget(&name);
                tracing::debug!(copy = name, rows, "copied");
            }
            Err(error) => {
                tracing::warn!(copy = name, %error, "failed to copy a partition for an index; it is read as it is");
                inner.backoff.note_failure(&name, inner.parts.clock.now());
            }
        }
    }
}

/// Makes one copy, and publishes it. Gives its rows.
async fn make(
    inner: &Inner,
    rollups: &Rollups,
    (target, copy): (&Target, &IndexCopy),
    (partition, key): (&Arc<Partition>, &PartitionKey),
) -> Result<u64, WorkError> {
    let (started_at, limit) = (inner.parts.clock.now(), inner.options.timeout);
    let writing = write(inner, rollups, (target, copy), (partition, key));
    let file = tokio::time::timeout(limit, writing).await.unwrap_or(Err(WorkError::TimedOut(limit)))?;
    let rows = file.rows();
    let build_ms = u64::try_from((inner.parts.clock.now() - started_at) / 1_000).unwrap_or(0);
    let refresh_key = mark_of(partition.file);
    let publish = Publish { key: key.clone(), file, refresh_key, build_ms, jobs: Vec::new(), gate: Gate::Open };
    let (store, clock) = (inner.parts.store.clone(), inner.parts.clock);
    blocking(move || store.publish(publish, clock.now())).await?;
    Ok(rows)
}

async fn write(
    inner: &Inner,
    rollups: &Rollups,
    (target, copy): (&Target, &IndexCopy),
    (partition, key): (&Arc<Partition>, &PartitionKey),
) -> Result<FinishedFile, WorkError> {
    let read = Arc::clone(partition);
    // Damage that is copied would be damage that nobody finds.
    if !blocking(move || read.is_intact()).await? {
        return Err(WorkError::Damaged);
    }
    let source = find_source(&inner.parts, &target.data_source)?;
    let (statement, tables) = statement_of(rollups.model(), copy, partition)?;
    let stream = source.stream_over(statement, tables).await.map_err(BuildError::from)?;
    // The rows come sorted.
    let layout = Layout {
        key: key.clone(),
        time_column: None,
        bounded: false,
        sort_by: Vec::new(),
        sort_bytes: inner.options.sort_bytes,
    };
    Ok(build::write_partition(&inner.parts.store, stream, layout, |_| {}).await?)
}

/// What gives the rows of a copy, and the table that it reads.
fn statement_of(model: &Model, copy: &IndexCopy, partition: &Partition) -> Result<(String, Brought), BuildError> {
    let table = PartitionTable::new(read_schema(&partition.path)?, vec![PartitionFile::of(partition)]);
    let statement = copy_statement(model, copy, &qualified(BROUGHT_SCHEMA, PARTITION));
    Ok((statement, vec![(PARTITION.to_owned(), Arc::new(table))]))
}

/// The rows that a copy of a partition should have.
///
/// # Errors
/// The partition cannot be read.
pub(super) async fn copied_rows(
    source: &Source,
    model: &Model,
    copy: &IndexCopy,
    partition: &Partition,
) -> Result<Batches, QueryError> {
    let (statement, tables) = statement_of(model, copy, partition)
        .map_err(|error| QueryError::Engine(EngineError::Execution(error.to_string())))?;
    Ok(source.collect_over(statement, tables).await?)
}
