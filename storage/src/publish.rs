//! The commit.
//!
//! Order is everything here. The file's rows are synced and checked before anything is decided; when all checks
//! have said yes, it gets its footer, which is synced and read back before the catalog names the file; the
//! catalog is synced before memory shows it. A crash before the batch leaves an orphan file, a crash after it
//! leaves a garbage record; both are cleaned up later, and there is no third state.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Arc, Weak};

use crate::catalog::{Batch, PartitionRecord};
use crate::footer::Footer;
use crate::gc::GarbageFile;
use crate::hashing::Extent;
use crate::store::{NextSnapshot, RowBand, State, put_state, retire};
use crate::{
    Bounds, FileId, FinishedFile, JobOutput, JobRecord, JobState, Lease, Partition, PartitionKey, SnapshotId,
    StorageError, Store, Table, TableId, TableState,
};

/// Files that are synced at the same time: most of a sync is a wait, and the file system serves several at once.
const SYNCS_AT_ONCE: usize = 8;

/// Whether a result may replace one that looks saner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Refuse an empty result over a non-empty predecessor, and a row count outside of the store's
    /// [`RowBand`].
    Guarded,
    /// Anything goes.
    Open,
}

/// A partition to publish.
#[derive(Debug)]
pub struct Publish {
    /// The partition.
    pub key: PartitionKey,
    /// Its finished file.
    pub file: FinishedFile,
    /// The refresh key's value that the build saw.
    pub refresh_key: String,
    /// How long the build took, in milliseconds.
    pub build_ms: u64,
    /// The jobs that are done with it, as claimed; none when no job asked for the build.
    pub jobs: Vec<Lease>,
    /// The sanity gate.
    pub gate: Gate,
}

/// A version of a partition that is about to be published.
#[derive(Debug)]
pub(crate) struct NewVersion {
    pub(crate) key: PartitionKey,
    pub(crate) file: FinishedFile,
    pub(crate) time_bounds: Option<(i64, i64)>,
    pub(crate) refresh_key: String,
    pub(crate) built_at: i64,
    pub(crate) build_ms: u64,
    pub(crate) held: bool,
}

/// A version whose file has its footer, durably.
#[derive(Debug)]
pub(crate) struct Sealed {
    file: FinishedFile,
    footer: Footer,
    extent: Extent,
}

/// A version in a batch that is not written yet.
#[derive(Debug)]
pub(crate) struct Staged {
    file: FinishedFile,
    pub(crate) partition: Arc<Partition>,
    place: (TableId, i64),
    garbage: Option<(FileId, GarbageFile)>,
}

/// A publish that passed all checks, and the jobs that it ends.
struct Checked {
    version: NewVersion,
    running: Vec<JobRecord>,
}

impl Store {
    /// Checks the file, then commits it: partition, garbage and jobs in one synced batch; then the snapshot.
    ///
    /// Reads the whole file back, so it takes a while; other publishes wait only for the batch.
    ///
    /// # Errors
    /// Nothing has changed, and the new file is deleted:
    /// - `Corrupt`: the file on disk is not what was written; `NotFound`: it is gone.
    /// - `Refused`: rows outside of the bucket, the gate, or an overlap with another partition of the table.
    /// - `Conflict`: one of `jobs` does not run any more, or builds another partition. Jobs that were cancelled
    ///   meanwhile do no harm as long as one remains that wants the partition.
    ///
    /// The catalog cannot be written (`Full`, `Transient`): this process goes on with the old file, and the next
    /// open finds either the old one or the new one.
    pub fn publish(&self, publish: Publish, now: i64) -> Result<SnapshotId, StorageError> {
        self.publish_all(vec![publish], now)
    }

    /// As [`Store::publish`], several partitions in one step: every snapshot has all of them or none. What jobs of a
    /// group are for is published so, and no other way.
    ///
    /// # Errors
    /// As [`Store::publish`], of the first partition that cannot be published; `Conflict` also when a group lacks one
    /// of its jobs.
    pub fn publish_all(&self, publishes: Vec<Publish>, now: i64) -> Result<SnapshotId, StorageError> {
        self.publish_claiming(publishes, &|_, _| None, now)
    }

    /// As [`Store::publish_all`], and in the same step what is known of the tables changes, as
    /// [`Store::set_table_state`] does it. `claim` gives, by a table and what is known of it, what is to be known.
    ///
    /// # Errors
    /// As [`Store::publish_all`].
    pub fn publish_claiming(
        &self,
        publishes: Vec<Publish>,
        claim: &dyn Fn(&TableId, TableState) -> Option<TableState>,
        now: i64,
    ) -> Result<SnapshotId, StorageError> {
        // Long, and about files that are ours alone: before the lock.
        publishes.iter().try_for_each(|publish| self.check_file(&publish.key, &publish.file))?;

        let mut state = self.lock()?;
        let mut next = self.next_snapshot(&state);
        let (mut batch, mut dropped) = (Batch::default(), Vec::new());
        let tables: BTreeSet<TableId> = publishes.iter().map(|publish| publish.key.table.clone()).collect();
        for table in tables {
            let known = next.snapshot.tables.get(&table).map(|known| known.state).unwrap_or_default();
            if let Some(new) = claim(&table, known).filter(|new| *new != known) {
                dropped.extend(put_state(&mut next, &mut batch, &table, new));
            }
        }
        let mut checked: Vec<Checked> = Vec::with_capacity(publishes.len());
        for publish in publishes {
            let new = self.check(&state, &next, publish, &checked, now)?;
            checked.push(new);
        }
        check_groups(&state, checked.iter().flat_map(|checked| &checked.running))?;
        let (versions, running): (Vec<_>, Vec<_>) = checked.into_iter().map(|new| (new.version, new.running)).unzip();
        let sealed = self.seal_all(&next, versions).into_iter().collect::<Result<Vec<Sealed>, _>>()?;
        let id = self.commit_sealed(&mut state, next, batch, sealed.into_iter().zip(running), now)?;
        state.garbage.extend(dropped);
        Ok(id)
    }

    /// As [`Store::publish`], several partitions of which each succeeds or fails on its own, for little more than the
    /// price of one: they share the wait for the disk. Gives the outcomes in the order of `publishes`.
    ///
    /// # Errors
    /// Of each as [`Store::publish`]. What concerns them all, such as a catalog that cannot be written, is everyone's.
    pub fn publish_each(&self, publishes: Vec<Publish>, now: i64) -> Vec<Result<SnapshotId, Arc<StorageError>>> {
        let count = publishes.len();
        self.try_publish_each(publishes, now).unwrap_or_else(|error| {
            let error = Arc::new(error);
            vec![Err(error); count]
        })
    }

    fn try_publish_each(
        &self,
        publishes: Vec<Publish>,
        now: i64,
    ) -> Result<Vec<Result<SnapshotId, Arc<StorageError>>>, StorageError> {
        let files: Vec<_> = publishes.iter().map(|publish| self.check_file(&publish.key, &publish.file)).collect();
        let mut state = self.lock()?;
        let next = self.next_snapshot(&state);
        let id = next.id();
        let mut outcomes = Vec::with_capacity(publishes.len());
        // With their places in the order of `publishes`.
        let (mut places, mut checked) = (Vec::new(), Vec::new());
        for (publish, file) in publishes.into_iter().zip(files) {
            let new = file.and_then(|()| {
                let new = self.check(&state, &next, publish, &checked, now)?;
                check_groups(&state, new.running.iter())?;
                Ok(new)
            });
            let outcome = new.map(|new| {
                places.push(outcomes.len());
                checked.push(new);
                id
            });
            outcomes.push(outcome.map_err(Arc::new));
        }
        let (versions, running): (Vec<_>, Vec<_>) = checked.into_iter().map(|new| (new.version, new.running)).unzip();
        let mut sealed = Vec::with_capacity(versions.len());
        for ((file, running), place) in self.seal_all(&next, versions).into_iter().zip(running).zip(places) {
            match (file, outcomes.get_mut(place)) {
                (Ok(file), _) => sealed.push((file, running)),
                (Err(error), Some(outcome)) => *outcome = Err(Arc::new(error)),
                (Err(error), None) => return Err(error),
            }
        }
        if !sealed.is_empty() {
            self.commit_sealed(&mut state, next, Batch::default(), sealed.into_iter(), now)?;
        }
        Ok(outcomes)
    }

    /// All that can be said against a publish. `before` are published in the same step.
    fn check(
        &self,
        state: &State,
        next: &NextSnapshot,
        publish: Publish,
        before: &[Checked],
        now: i64,
    ) -> Result<Checked, StorageError> {
        let Publish { key, file, refresh_key, build_ms, jobs, gate } = publish;
        let running = self.leased_jobs(state, &key, &jobs)?;
        let before = before.iter().map(|checked| &checked.version.key).filter(|before| before.table == key.table);
        check_apart(&key, before.map(|before| before.bucket))?;
        next.snapshot.tables.get(&key.table).map_or(Ok(()), |table| check_overlap(table, &key))?;
        check_gate(gate, self.inner.row_band, &key, file.rows, next.snapshot.find(&key).map(Arc::as_ref))?;
        let time_bounds = file.time.and_then(|time| time.bounds);
        let version = NewVersion { key, file, time_bounds, refresh_key, built_at: now, build_ms, held: false };
        Ok(Checked { version, running })
    }

    /// Gives files their footers, durably. The caller holds the lock and has checked everything.
    pub(crate) fn seal_all(&self, next: &NextSnapshot, versions: Vec<NewVersion>) -> Vec<Result<Sealed, StorageError>> {
        let seal = |version: NewVersion| {
            let NewVersion { key, mut file, time_bounds, refresh_key, built_at, build_ms, held } = version;
            let footer = Footer {
                state: next.snapshot.tables.get(&key.table).map(|table| table.state).unwrap_or_default(),
                key,
                file: file.file.id,
                sequence: next.id().0,
                rows: file.rows,
                data: file.data,
                time_bounds,
                refresh_key,
                built_at,
                build_ms,
                held,
            };
            let extent = file.seal(&footer)?;
            Ok(Sealed { file, footer, extent })
        };
        in_parallel(versions, SYNCS_AT_ONCE, seal)
    }

    /// Puts a version into the next state and the batch.
    pub(crate) fn stage(state: &State, next: &mut NextSnapshot, batch: &mut Batch, sealed: Sealed, now: i64) -> Staged {
        let Sealed { file, footer, extent } = sealed;
        let key = footer.key.clone();
        let record = PartitionRecord::of_footer(&footer, extent);
        let is_new_table = !next.snapshot.tables.contains_key(&key.table);
        let table = next.table(&key.table);
        if is_new_table {
            batch.put_table(&key.table, &table.state);
        }
        batch.put_partition(&key.table, &record);
        let partition = Arc::new(record.into_partition(file.file.path.path().to_owned()));
        let place = (key.table.clone(), key.start());
        let old = table.partitions.insert(key.start(), Arc::clone(&partition));
        let old = match (old, state.missing.get(&place)) {
            (Some(old), _) => Some((PartitionRecord::of(&old), Arc::downgrade(&old))),
            // Its file may be back one day.
            (None, Some(missing)) => Some((missing.clone(), Weak::new())),
            (None, None) => None,
        };
        let garbage = old.map(|(old, readers)| retire(batch, key, old, readers, now));
        Staged { file, partition, place, garbage }
    }

    /// Commits versions that end jobs.
    fn commit_sealed(
        &self,
        state: &mut State,
        mut next: NextSnapshot,
        mut batch: Batch,
        sealed: impl Iterator<Item = (Sealed, Vec<JobRecord>)>,
        now: i64,
    ) -> Result<SnapshotId, StorageError> {
        let (mut staged, mut done) = (Vec::new(), Vec::new());
        for (sealed, running) in sealed {
            let new = Self::stage(state, &mut next, &mut batch, sealed, now);
            let output = Some(JobOutput { rows: new.partition.rows, size_bytes: new.partition.size_bytes });
            done.extend(running.into_iter().map(|job| {
                let state = JobState::Done { file: new.partition.file, output };
                JobRecord { state, ended_at: Some(now), ..job }
            }));
            staged.push(new);
        }
        self.commit_staged(state, next, batch, staged, &done)
    }

    /// Writes the batch; then memory, which cannot fail.
    pub(crate) fn commit_staged(
        &self,
        state: &mut State,
        next: NextSnapshot,
        mut batch: Batch,
        staged: Vec<Staged>,
        ended: &[JobRecord],
    ) -> Result<SnapshotId, StorageError> {
        // A file's own sync does not cover its name.
        let folders: BTreeSet<&Path> = staged.iter().filter_map(|new| new.partition.path.parent()).collect();
        folders.into_iter().try_for_each(|folder| self.inner.files.sync_folder(folder))?;
        ended.iter().for_each(|job| batch.put_job(job));
        let mut garbage = Vec::new();
        for staged in staged {
            // Should the write fail, the batch may be on disk all the same. So the file must stay from here on:
            // if the next open does not find the record, it puts the file among the garbage.
            staged.file.file.path.keep();
            garbage.push((staged.place, staged.garbage));
        }
        self.commit_next(state, &next, batch)?;
        ended.iter().for_each(|job| state.jobs.remove(&job.id));
        self.inner.leases.end(ended.iter().map(|job| &job.id));
        for (place, garbage) in garbage {
            state.missing.remove(&place);
            state.garbage.extend(garbage);
        }
        let id = next.id();
        self.swap(next);
        Ok(id)
    }

    /// The jobs of the leases. Each must run, in the attempt of its lease and for this partition: a worker whose
    /// job was ended by somebody else has lost the right to publish. Cancelled ones are left out, unless that
    /// leaves nobody who wants the partition.
    fn leased_jobs(&self, state: &State, key: &PartitionKey, leases: &[Lease]) -> Result<Vec<JobRecord>, StorageError> {
        let lost = |lease: &Lease| StorageError::LostLease { job: lease.job.clone(), partition: key.clone() };
        let mut running = Vec::with_capacity(leases.len());
        for lease in leases {
            if let Some(job) = state.jobs.find_leased(lease).filter(|job| job.partition == *key) {
                running.push(job.clone());
                continue;
            }
            match self.inner.catalog.find_job(&lease.job)? {
                Some(job) if job.state == JobState::Cancelled && job.partition == *key => {}
                _ => return Err(lost(lease)),
            }
        }
        match leases.first() {
            Some(first) if running.is_empty() => Err(lost(first)),
            _ => Ok(running),
        }
    }

    /// Checks all that can be checked about the file alone.
    fn check_file(&self, key: &PartitionKey, file: &FinishedFile) -> Result<(), StorageError> {
        let path = file.file.path.path();
        if file.file.key != *key || self.inner.files.path(key, file.file.id) != path {
            return Err(StorageError::ForeignFile { path: path.to_owned(), partition: key.clone() });
        }
        check_times(key, file)?;
        file.check_data()
    }
}

/// No job is left of the groups whose partitions are published.
fn check_groups<'a>(state: &State, running: impl Iterator<Item = &'a JobRecord>) -> Result<(), StorageError> {
    let running: Vec<&JobRecord> = running.collect();
    match state.jobs.companions(&running).first() {
        Some(missing) => Err(StorageError::PartOfGroup { partition: missing.partition.clone() }),
        None => Ok(()),
    }
}

/// All rows lie inside the partition's bucket.
fn check_times(key: &PartitionKey, file: &FinishedFile) -> Result<(), StorageError> {
    let (Some(bucket), Some(time)) = (key.bucket, file.time) else { return Ok(()) };
    if time.nulls > 0 {
        return Err(StorageError::NullTime { partition: key.clone(), rows: time.nulls });
    }
    match time.bounds {
        Some((min, max)) if min < bucket.start || max >= bucket.end => {
            Err(StorageError::OutsideBucket { partition: key.clone(), min, max })
        }
        _ => Ok(()),
    }
}

/// No other partition of the table shares a moment with this one.
pub(crate) fn check_overlap(table: &Table, key: &PartitionKey) -> Result<(), StorageError> {
    check_apart(key, table.partitions.values().map(|other| other.bucket))
}

/// No other bucket shares a moment with a partition's. One without bucket covers everything.
fn check_apart(key: &PartitionKey, mut others: impl Iterator<Item = Option<Bounds>>) -> Result<(), StorageError> {
    let everything = Bounds { start: i64::MIN, end: i64::MAX };
    let wanted = key.bucket.unwrap_or(everything);
    let clash = others.find(|other| {
        let live = other.unwrap_or(everything);
        *other != key.bucket && live.start < wanted.end && wanted.start < live.end
    });
    match clash {
        None => Ok(()),
        Some(bucket) => Err(StorageError::Overlap {
            partition: key.clone(),
            other: PartitionKey { table: key.table.clone(), bucket },
        }),
    }
}

/// An empty result over rows, or a count far from that of the version before, is more often a broken source
/// than the truth.
fn check_gate(
    gate: Gate,
    band: Option<RowBand>,
    key: &PartitionKey,
    rows: u64,
    old: Option<&Partition>,
) -> Result<(), StorageError> {
    let old_rows = old.map_or(0, |old| old.rows);
    if gate == Gate::Open || old_rows == 0 {
        return Ok(());
    }
    if rows == 0 {
        return Err(StorageError::EmptyOverRows { partition: key.clone(), rows: old_rows });
    }
    let ratio = rows as f64 / old_rows as f64;
    match band {
        Some(band) if ratio < band.least || ratio > band.most => {
            Err(StorageError::OutsideBand { partition: key.clone(), rows, old_rows, band })
        }
        _ => Ok(()),
    }
}

/// Does the same with all items, in so many threads at most: what waits for the disk waits for it once.
fn in_parallel<T: Send, R: Send>(items: Vec<T>, threads: usize, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let share = items.len().div_ceil(threads.max(1));
    if items.len() < 2 || share == 0 {
        return items.into_iter().map(work).collect();
    }
    let (mut items, mut shares) = (items.into_iter(), Vec::new());
    loop {
        let part: Vec<T> = items.by_ref().take(share).collect();
        if part.is_empty() {
            break;
        }
        shares.push(part);
    }
    std::thread::scope(|scope| {
        let work = &work;
        let running =
            shares.into_iter().map(|share| scope.spawn(move || share.into_iter().map(work).collect::<Vec<R>>()));
        let running: Vec<_> = running.collect();
        let done = running.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        done.flatten().collect()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ErrorKind;

    fn key(bucket: Option<(i64, i64)>) -> PartitionKey {
        let bucket = bucket.map(|(start, end)| Bounds { start, end });
        PartitionKey { table: TableId::new("t").unwrap(), bucket }
    }

    fn live(bucket: Option<(i64, i64)>, rows: u64) -> Partition {
        PartitionRecord {
            bucket: key(bucket).bucket,
            file: FileId(1),
            rows,
            size_bytes: 0,
            checksum: 0,
            time_bounds: None,
            refresh_key: String::new(),
            built_at: 0,
            build_ms: 0,
            sequence: 0,
            held: false,
        }
        .into_partition("f".into())
    }

    #[track_caller]
    fn check_overlaps(published: &[Option<(i64, i64)>], wanted: Option<(i64, i64)>, overlaps: bool) {
        let partitions: BTreeMap<_, _> =
            published.iter().map(|bucket| (key(*bucket).start(), Arc::new(live(*bucket, 1)))).collect();
        let result = check_overlap(&Table { state: TableState::default(), partitions }, &key(wanted));
        assert_eq!(result.map_err(|e| e.kind()), if overlaps { Err(ErrorKind::Refused) } else { Ok(()) });
    }

    #[test]
    fn partitions_may_touch_and_be_replaced_but_not_overlap() {
        let days = [Some((0, 10)), Some((10, 20)), Some((30, 40))];
        for free in [(10, 20), (20, 30), (-5, 0), (40, 41), (22, 25)] {
            check_overlaps(&days, Some(free), false);
        }
        for clash in [(10, 21), (0, 20), (20, 31), (-5, 1), (39, 41), (32, 33), (i64::MIN + 1, i64::MAX)] {
            check_overlaps(&days, Some(clash), true);
        }
        check_overlaps(&days, None, true);
        check_overlaps(&[None], Some((0, 1)), true);
        check_overlaps(&[None], None, false);
        check_overlaps(&[], None, false);
    }

    #[track_caller]
    fn check_opens(gate: Gate, band: Option<RowBand>, rows: u64, old: Option<u64>, opens: bool) {
        let old = old.map(|rows| live(None, rows));
        let found = check_gate(gate, band, &key(None), rows, old.as_ref());
        assert_eq!(found.map_err(|error| error.kind()), if opens { Ok(()) } else { Err(ErrorKind::Refused) });
    }

    #[test]
    fn the_gate_keeps_rows_from_being_replaced_by_nothing() {
        check_opens(Gate::Guarded, None, 0, Some(1), false);
        check_opens(Gate::Open, None, 0, Some(1), true);
        check_opens(Gate::Guarded, None, 1, Some(9), true);
        check_opens(Gate::Guarded, None, 0, Some(0), true);
        check_opens(Gate::Guarded, None, 0, None, true);
    }

    #[test]
    fn the_gate_keeps_to_the_band() {
        let band = Some(RowBand { least: 0.5, most: 2.0 });
        for (rows, old, opens) in [(50, 100, true), (49, 100, false), (200, 100, true), (201, 100, false)] {
            check_opens(Gate::Guarded, band, rows, Some(old), opens);
            check_opens(Gate::Open, band, rows, Some(old), true);
        }
        // There is nothing to compare with.
        check_opens(Gate::Guarded, band, 1_000, Some(0), true);
        check_opens(Gate::Guarded, band, 1_000, None, true);
        check_opens(Gate::Guarded, Some(RowBand { least: 0.5, most: f64::INFINITY }), 1_000, Some(1), true);
    }
}
