//! Partitions of one rollup that are due together, built from one scan (`design.md` D9).
//!
//! To read files once for all of them costs no more than to read them for one, unless they are sorted by time. The
//! statement gives the rows of all, those of the latest time first: so they are parted where the bucket changes, only
//! one partition is gathered at a time, and the newest is published while the others are still made. The sort is the
//! engine's, within the memory of builds.
//!
//! Each partition has a file and an end of its own; those that are finished at the same time share the syncs of one
//! publish. What the scan did not get to when it failed is tried again in two halves, down to single partitions: one bad
//! row fails its own partition, and what is too much for one scan takes several.

use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema, TimeUnit, TimestampMicrosecondType};
use futures::{StreamExt as _, stream};
use quarry_storage::{Bounds, FinishedFile, JobPhase, Lease, PartitionKey, Progress, Publish};
use tokio::sync::mpsc;

use super::Inner;
use super::build::{BuildError, Encoder, Feed, channel, cut_off, feed_batches};
use super::planning::{Target, find_source};
use super::worker::{
    Built, Claim, WorkError, layout_of, process, publication, publish, refresh_key, report, rollups_of, settle,
    target_of, until_cancelled,
};
use crate::engine::EngineError;
use crate::query::rollups::Rollups;
use crate::sources::Source;
use crate::tasks::{TaskFailure, blocking};

/// Most partitions of one scan.
pub(super) const MAX_TOGETHER: usize = 256;
/// Rows that the partitions of one scan had when they were built last, together: more would be sorted on disk.
const MAX_ROWS: u64 = 8_000_000;
/// Partitions that are published in one go: others wait for the store meanwhile.
const PUBLISHED_AT_ONCE: usize = 64;
/// Refresh keys that are asked at the same time.
const KEYS_AT_ONCE: usize = 4;

/// Whether one scan can give several partitions of a target.
pub(super) fn is_one_scan(inner: &Inner, rollups: &Rollups, target: &Target) -> bool {
    let is_scanned = find_source(&inner.parts, &target.data_source).is_ok_and(Source::is_scanned);
    is_scanned && rollups.builds_together(target.preagg)
}

/// Claims what is due of the same table, when one scan can give it all.
pub(super) async fn companions(inner: &Arc<Inner>, first: &Claim) -> Vec<Claim> {
    let Ok(rollups) = rollups_of(inner, first).await else { return Vec::new() };
    let target = match target_of(&rollups, first) {
        Ok(target) if is_one_scan(inner, &rollups, &target) => target,
        Ok(_) | Err(_) => return Vec::new(),
    };
    let (store, clock, table) = (inner.parts.store.clone(), inner.parts.clock, target.table);
    let first = first.key.clone();
    let claimed = blocking(move || {
        let snapshot = store.snapshot();
        let rows_of = |key: &PartitionKey| snapshot.find(key).map_or(0, |partition| partition.rows);
        let (mut count, mut rows) = (1, rows_of(&first));
        let mut takes = |key: &PartitionKey| {
            (count, rows) = (count + 1, rows + rows_of(key));
            count <= MAX_TOGETHER && rows <= MAX_ROWS
        };
        store.claim_more(&table, clock.now(), &mut takes)
    });
    match claimed.await {
        Ok(claimed) => claimed.iter().filter_map(|jobs| Claim::new(jobs)).collect(),
        Err(error) => {
            tracing::warn!(%error, "failed to claim further jobs");
            Vec::new()
        }
    }
}

/// Builds the partitions of all claims and ends their jobs, one way or the other.
pub(super) async fn process_all(inner: &Arc<Inner>, first: Claim, mut more: Vec<Claim>) {
    more.push(first);
    let (mut scans, stop) = (vec![more], inner.tasks.stop_signal());
    while let Some(mut claims) = scans.pop() {
        if stop.is_cancelled() {
            // As below: what is not built yet is queued again.
            return;
        }
        if claims.len() < 2 {
            for claim in claims {
                process(inner, claim).await;
            }
            continue;
        }
        tracing::info!(table = %claims[0].key.table, partitions = claims.len(), "building from one scan");
        // A task of its own: a panic in it costs one try.
        let building = build_all(Arc::clone(inner), claims.clone());
        match inner.tasks.run(building).await.unwrap_or_else(|failure| Err(failure.into())) {
            // The records say "running"; the next start queues them again.
            Err(WorkError::Task(TaskFailure::Aborted)) => return,
            Ok(()) | Err(WorkError::Cancelled) => {}
            Err(error) => {
                tracing::warn!(table = %claims[0].key.table, %error, "a scan for several partitions failed");
                if error.is_of_statement() {
                    fail_all(inner, &claims, error).await;
                }
            }
        }
        claims.retain(|claim| claim.is_unbuilt(inner));
        if !claims.is_empty() {
            let half = claims.split_off(claims.len() / 2);
            scans.extend([half, claims].into_iter().filter(|claims| !claims.is_empty()));
        }
    }
}

/// Ends the jobs of all partitions that are not built: none of them alone would end otherwise.
async fn fail_all(inner: &Inner, claims: &[Claim], error: WorkError) {
    let error = Arc::new(error);
    for claim in claims.iter().filter(|claim| claim.is_unbuilt(inner)) {
        settle(inner, claim, Err(WorkError::Scan(Arc::clone(&error)))).await;
    }
}

/// A partition of a scan.
struct Part {
    claim: Claim,
    bucket: Bounds,
    /// What its refresh keys said before the source was read.
    refresh_key: String,
}

/// A partition with all its rows, by its place among the parts.
type Whole = (usize, Encoder);

/// A partition that is to be published.
struct Finished {
    /// Its place among the parts.
    at: usize,
    file: FinishedFile,
    build_ms: u64,
}

/// Runs one scan and publishes what it gives. A partition whose jobs hold their leases afterwards was not built.
async fn build_all(inner: Arc<Inner>, claims: Vec<Claim>) -> Result<(), WorkError> {
    let Some(first) = claims.first() else { return Ok(()) };
    let rollups = rollups_of(&inner, first).await?;
    let target = target_of(&rollups, first)?;
    let started_at = inner.parts.clock.now();
    let parts: Arc<[Part]> = prepare(&inner, &rollups, claims).await.into();
    let leases: Arc<[Lease]> = parts.iter().flat_map(|part| part.claim.leases.iter().cloned()).collect();
    report(&inner, &leases, Progress { phase: JobPhase::Querying, ..Progress::default() });
    let at_once = inner.options.concurrency.on(&target.data_source);
    let (give, mut taken) = mpsc::channel(1);
    let parting = Parting {
        inner: Arc::clone(&inner),
        rollups,
        target,
        parts: Arc::clone(&parts),
        // One waits in the channel, one to be put there.
        held_bytes: inner.options.sort_bytes / (at_once + 2),
        give,
    };
    let limit = inner.options.timeout;
    let scan = async {
        // Losing the scan leaves no file behind and ends its query; losing the other arm is harmless.
        tokio::select! {
            scanned = tokio::time::timeout(limit, parting.scan()) => scanned.unwrap_or(Err(WorkError::TimedOut(limit))),
            () = until_cancelled(&inner, &leases) => Err(WorkError::Cancelled),
        }
    };
    let shares = i64::try_from(parts.len()).unwrap_or(i64::MAX);
    let wholes = stream::poll_fn(|context| taken.poll_recv(context));
    let (done, mut finished) = mpsc::channel(PUBLISHED_AT_ONCE);
    let encoding = async {
        let encoded = wholes.for_each_concurrent(at_once, |(at, encoder)| {
            let (inner, done) = (&inner, &done);
            let part = &parts[at];
            async move {
                match encode(inner, part, encoder).await {
                    Ok(file) => {
                        let spent = (inner.parts.clock.now() - started_at) / 1_000 / shares.max(1);
                        let finished = Finished { at, file, build_ms: u64::try_from(spent).unwrap_or(0) };
                        // Whoever takes them does so to the end.
                        let _ = done.send(finished).await;
                    }
                    Err(error) => settle(inner, &part.claim, Err(error)).await,
                }
            }
        });
        encoded.await;
        drop(done);
    };
    let publishing = async {
        let mut some = Vec::new();
        // As many as have come meanwhile: the first is not kept waiting, and those behind it share a sync of the disk.
        while finished.recv_many(&mut some, PUBLISHED_AT_ONCE).await > 0 {
            publish_finished(&inner, &parts, std::mem::take(&mut some)).await;
            // Who waits for one of these need not wait for the others.
            inner.pulse();
        }
    };
    let (scanned, (), ()) = futures::join!(scan, encoding, publishing);
    scanned
}

/// What is still wanted and possible, the latest first, each with what its refresh keys say.
async fn prepare(inner: &Inner, rollups: &Rollups, claims: Vec<Claim>) -> Vec<Part> {
    let asked: Vec<_> = claims
        .into_iter()
        .map(|claim| async move {
            let found =
                target_of(rollups, &claim).and_then(|target| Ok((target, claim.key.bucket.ok_or(WorkError::Gone)?)));
            match found {
                Ok((target, bucket)) => {
                    let refresh_key = refresh_key(inner, rollups, &target, Some(bucket), claim.since()).await;
                    Some(Part { claim, bucket, refresh_key })
                }
                Err(error) => {
                    settle(inner, &claim, Err(error)).await;
                    None
                }
            }
        })
        .collect();
    let mut parts: Vec<Part> =
        stream::iter(asked).buffered(KEYS_AT_ONCE).filter_map(std::future::ready).collect().await;
    parts.sort_unstable_by_key(|part| std::cmp::Reverse(part.bucket.start));
    parts
}

/// The file of one partition.
async fn encode(inner: &Inner, part: &Part, encoder: Encoder) -> Result<FinishedFile, WorkError> {
    if !inner.parts.store.holds_any(&part.claim.leases) {
        return Err(WorkError::Cancelled);
    }
    Ok(blocking(move || encoder.finish()).await?)
}

/// Publishes partitions, and ends their jobs.
async fn publish_finished(inner: &Inner, parts: &[Part], finished: Vec<Finished>) {
    let (grouped, single): (Vec<_>, Vec<_>) =
        finished.into_iter().partition(|finished| parts[finished.at].claim.group.is_some());
    for Finished { at, file, build_ms } in grouped {
        let Part { claim, refresh_key, .. } = &parts[at];
        let outcome = publish(inner, claim, file, refresh_key.clone(), build_ms).await;
        settle(inner, claim, outcome).await;
    }
    let whose: Vec<(&Claim, u64)> =
        single.iter().map(|finished| (&parts[finished.at].claim, finished.file.rows())).collect();
    let publishes = single.into_iter().map(|Finished { at, file, build_ms }| {
        let Part { claim, refresh_key, .. } = &parts[at];
        publication(inner, claim, file, refresh_key.clone(), build_ms)
    });
    let publishes: Vec<Publish> = publishes.collect();
    let (store, clock) = (inner.parts.store.clone(), inner.parts.clock);
    let outcomes = blocking(move || store.publish_each(publishes, clock.now())).await;
    for ((claim, rows), outcome) in whose.into_iter().zip(outcomes) {
        settle(inner, claim, outcome.map(|_| Built::Published(rows)).map_err(WorkError::Publish)).await;
    }
}

/// One scan and where its rows go.
struct Parting {
    inner: Arc<Inner>,
    rollups: Arc<Rollups>,
    target: Target,
    /// The latest first.
    parts: Arc<[Part]>,
    /// A complete partition that holds more rows than that is encoded before the next one is gathered.
    held_bytes: usize,
    give: mpsc::Sender<Whole>,
}

impl Parting {
    /// Until all partitions are given away. When the future is dropped no more are.
    async fn scan(self) -> Result<(), WorkError> {
        let buckets: Vec<Bounds> = self.parts.iter().map(|part| part.bucket).collect();
        if buckets.is_empty() {
            return Ok(());
        }
        let (target, source) = (&self.target, find_source(&self.inner.parts, &self.target.data_source)?);
        let statement = self.rollups.build_sql_of_several(target.preagg, target.zone, &buckets)?;
        let stream = source.stream_over(statement, Vec::new()).await.map_err(BuildError::from)?;
        let (feed, rows) = channel();
        let schema = Arc::clone(&stream.schema);
        let (fed, parted) = futures::join!(feed_batches(stream, feed), blocking(move || self.part_rows(&schema, rows)));
        // The encoder's error comes first: when it fails, the feed merely finds the channel closed.
        parted?;
        Ok(fed.map_err(BuildError::from)?)
    }

    /// Runs on a blocking thread.
    fn part_rows(&self, schema: &Schema, mut rows: mpsc::Receiver<Feed>) -> Result<(), BuildError> {
        let column = self.rollups.time_column(self.target.preagg).unwrap_or_default();
        let found = schema.column_with_name(&column).map(|(position, _)| position);
        let column = found.ok_or(BuildError::MissingColumn(column))?;
        let (mut at, mut encoder) = (0, self.encoder(schema, 0)?);
        loop {
            match rows.blocking_recv() {
                None => return Err(cut_off()),
                Some(Feed::Batch(batch)) => {
                    let times = times_of(&batch, column)?;
                    let mut first = 0;
                    while first < times.len() {
                        let Some(part) = self.parts.get(at) else { return Err(disordered()) };
                        let rest = &times[first..];
                        let count = rest.partition_point(|time| part.bucket.start <= *time);
                        if rest[..count].iter().any(|time| part.bucket.end <= *time) {
                            return Err(disordered());
                        }
                        if count > 0 {
                            encoder.push(batch.slice(first, count))?;
                            report(&self.inner, &part.claim.leases, encoder.progress());
                        }
                        first += count;
                        if first < times.len() {
                            self.give_away(at, encoder)?;
                            at += 1;
                            encoder = self.encoder(schema, at.min(self.parts.len() - 1))?;
                        }
                    }
                }
                Some(Feed::End) => {
                    self.give_away(at, encoder)?;
                    return (at + 1..self.parts.len()).try_for_each(|at| self.give_away(at, self.encoder(schema, at)?));
                }
            }
        }
    }

    fn encoder(&self, schema: &Schema, at: usize) -> Result<Encoder, BuildError> {
        let layout = layout_of(&self.inner, &self.rollups, &self.target, &self.parts[at].claim.key);
        Encoder::new(&self.inner.parts.store, schema, layout)
    }

    fn give_away(&self, at: usize, mut encoder: Encoder) -> Result<(), BuildError> {
        if encoder.held_bytes() > self.held_bytes {
            encoder.write()?;
        }
        self.give.blocking_send((at, encoder)).map_err(|_gone| cut_off())
    }
}

/// The times of a batch, in microseconds.
fn times_of(batch: &RecordBatch, column: usize) -> Result<Vec<i64>, BuildError> {
    let times = cast(batch.column(column), &DataType::Timestamp(TimeUnit::Microsecond, None))?;
    let times = times.as_primitive::<TimestampMicrosecondType>();
    if times.null_count() > 0 {
        return Err(disordered());
    }
    Ok(times.values().to_vec())
}

/// Each partition is then asked for alone.
fn disordered() -> BuildError {
    BuildError::Engine(EngineError::Execution("the rows of several partitions are not in the order of time".to_owned()))
}
