//! The commit.
//!
//! Order is everything here. The file is complete, synced and checked before the catalog names it; the
//! catalog is synced before memory shows it. A crash before the batch leaves an orphan file, a crash after it
//! leaves a garbage record; both are cleaned up later, and there is no third state.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use parquet::file::metadata::ParquetMetaDataReader;

use crate::catalog::{Batch, PartitionRecord};
use crate::store::{NextSnapshot, State, retire};
use crate::writer::Hash;
use crate::{
    Bounds, FinishedFile, JobOutput, JobRecord, JobState, Lease, Partition, PartitionKey, SnapshotId, StorageError,
    Store, Table,
};

/// Whether an empty result may replace a non-empty one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Refuse an empty result over a non-empty predecessor.
    RefuseEmpty,
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
        let Publish { key, file, refresh_key, build_ms, jobs, gate } = publish;
        // Long, and about a file that is ours alone: before the lock.
        self.check_file(&key, &file)?;

        let mut state = self.lock()?;
        let done = self.done_jobs(&state, &key, &jobs, &file, now)?;
        let mut next = NextSnapshot::after(&self.snapshot());
        let is_new_table = !next.snapshot.tables.contains_key(&key.table);
        let table = next.table(&key.table);
        let old = table.partitions.get(&key.start()).cloned();
        check_overlap(table, &key)?;
        check_gate(gate, &key, file.rows, old.as_deref())?;

        let record = PartitionRecord {
            bucket: key.bucket,
            file: file.file.id,
            rows: file.rows,
            size_bytes: file.size_bytes,
            checksum: file.checksum,
            time_bounds: file.time.and_then(|time| time.bounds),
            refresh_key,
            built_at: now,
            build_ms,
        };
        let mut batch = Batch::default();
        if is_new_table {
            batch.put_table(&key.table, &table.state);
        }
        batch.put_partition(&key.table, &record);
        let garbage = old.map(|old| retire(&mut batch, key.clone(), &old, now));
        done.iter().for_each(|job| batch.put_job(job));
        // Should the write fail, the batch may be on disk all the same. So the file must stay from here on:
        // if the next open does not find the record, it deletes the file as an orphan.
        let path = file.file.path.keep();
        table.partitions.insert(key.start(), Arc::new(record.into_partition(path)));
        batch.put_snapshot(next.id());
        self.inner.catalog.commit(batch)?;

        // On disk; now memory, which cannot fail.
        done.iter().for_each(|job| state.jobs.remove(&job.id));
        self.inner.leases.end(done.iter().map(|job| &job.id));
        state.garbage.extend(garbage);
        let id = next.id();
        self.swap(next);
        Ok(id)
    }

    /// The jobs as they will be. Each must run, in the attempt of its lease and for this partition: a worker whose
    /// job was ended by somebody else has lost the right to publish. Cancelled ones are left out, unless that
    /// leaves nobody who wants the partition.
    fn done_jobs(
        &self,
        state: &State,
        key: &PartitionKey,
        leases: &[Lease],
        file: &FinishedFile,
        now: i64,
    ) -> Result<Vec<JobRecord>, StorageError> {
        let output = Some(JobOutput { rows: file.rows, size_bytes: file.size_bytes });
        let lost = |lease: &Lease| StorageError::LostLease { job: lease.job.clone(), partition: key.clone() };
        let mut done = Vec::with_capacity(leases.len());
        for lease in leases {
            if let Some(job) = state.jobs.find_leased(lease).filter(|job| job.partition == *key) {
                let state = JobState::Done { file: file.file.id, output };
                done.push(JobRecord { state, ended_at: Some(now), ..job.clone() });
                continue;
            }
            match self.inner.catalog.find_job(&lease.job)? {
                Some(job) if job.state == JobState::Cancelled && job.partition == *key => {}
                _ => return Err(lost(lease)),
            }
        }
        match leases.first() {
            Some(first) if done.is_empty() => Err(lost(first)),
            _ => Ok(done),
        }
    }

    /// Checks all that can be checked about the file alone.
    fn check_file(&self, key: &PartitionKey, file: &FinishedFile) -> Result<(), StorageError> {
        let path = file.file.path.path();
        if file.file.key != *key || self.inner.files.path(key, file.file.id) != path {
            return Err(StorageError::ForeignFile { path: path.to_owned(), partition: key.clone() });
        }
        check_times(key, file)?;
        check_bytes(key, path, file)
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

/// What is on disk is what was written: size, checksum, and the row count in the Parquet footer.
fn check_bytes(key: &PartitionKey, path: &Path, written: &FinishedFile) -> Result<(), StorageError> {
    let corrupt = |fault: String| StorageError::CorruptFile { path: path.to_owned(), partition: key.clone(), fault };
    let mut file = File::open(path).map_err(|e| StorageError::io("open", path, e))?;
    let size_bytes = file.metadata().map_err(|e| StorageError::io("read", path, e))?.len();
    if size_bytes != written.size_bytes {
        return Err(corrupt(format!("it has {size_bytes} bytes, and {} were written", written.size_bytes)));
    }
    if checksum(&mut file).map_err(|e| StorageError::io("read", path, e))? != written.checksum {
        return Err(corrupt("its checksum is not that of the bytes written".to_owned()));
    }
    let footer = ParquetMetaDataReader::new().parse_and_finish(&file).map_err(|e| corrupt(e.to_string()))?;
    let rows = footer.file_metadata().num_rows();
    if u64::try_from(rows) != Ok(written.rows) {
        return Err(corrupt(format!("its footer counts {rows} rows, and {} were written", written.rows)));
    }
    Ok(())
}

fn checksum(file: &mut File) -> std::io::Result<u64> {
    let mut hash = Hash::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.digest()),
            read => hash.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}

/// No other partition of the table shares a moment with this one. One without bucket covers everything.
fn check_overlap(table: &Table, key: &PartitionKey) -> Result<(), StorageError> {
    let everything = Bounds { start: i64::MIN, end: i64::MAX };
    let wanted = key.bucket.unwrap_or(everything);
    let clash = table.partitions.values().find(|other| {
        let live = other.bucket.unwrap_or(everything);
        other.bucket != key.bucket && live.start < wanted.end && wanted.start < live.end
    });
    match clash {
        None => Ok(()),
        Some(other) => Err(StorageError::Overlap {
            partition: key.clone(),
            other: PartitionKey { table: key.table.clone(), bucket: other.bucket },
        }),
    }
}

/// An empty result over rows is more often a broken source than the truth.
fn check_gate(gate: Gate, key: &PartitionKey, rows: u64, old: Option<&Partition>) -> Result<(), StorageError> {
    match (gate, old) {
        (Gate::RefuseEmpty, Some(old)) if rows == 0 && old.rows > 0 => {
            Err(StorageError::EmptyOverRows { partition: key.clone(), rows: old.rows })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{ErrorKind, FileId, TableId, TableState};

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
    fn check_opens(gate: Gate, rows: u64, old: Option<u64>, opens: bool) {
        let old = old.map(|rows| live(None, rows));
        assert_eq!(check_gate(gate, &key(None), rows, old.as_ref()).is_ok(), opens);
    }

    #[test]
    fn the_gate_keeps_rows_from_being_replaced_by_nothing() {
        check_opens(Gate::RefuseEmpty, 0, Some(1), false);
        check_opens(Gate::Open, 0, Some(1), true);
        check_opens(Gate::RefuseEmpty, 1, Some(9), true);
        check_opens(Gate::RefuseEmpty, 0, Some(0), true);
        check_opens(Gate::RefuseEmpty, 0, None, true);
    }
}
