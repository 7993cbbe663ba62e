//! A folder, a store in it, and short ways to fill it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use quarry_storage::{
    Bounds, FinishedFile, Gate, JobId, JobOutput, JobRecord, JobState, Lease, NewJob, Partition, PartitionKey, Publish,
    Snapshot, SnapshotId, StorageError, Store, StoreOptions, TableId,
};
use tempfile::TempDir;

/// Width of a test bucket: bucket 3 is `30 <= t < 40`.
pub(crate) const WIDTH: i64 = 10;
/// A replaced file stays for so many microseconds.
pub(crate) const GRACE_US: i64 = 100;

/// Short grace, and no version kept for a rollback.
pub(crate) fn options(dir: &Path) -> StoreOptions {
    let gc_grace = Duration::from_micros(GRACE_US.unsigned_abs());
    StoreOptions { gc_grace, keep_versions: 0, ..StoreOptions::new(dir.join("store")) }
}

pub(crate) fn try_open(dir: &Path) -> Result<Store, StorageError> {
    Store::open(options(dir))
}

pub(crate) fn open(dir: &TempDir) -> Store {
    try_open(dir.path()).unwrap()
}

pub(crate) fn table(name: &str) -> TableId {
    TableId::new(name).unwrap()
}

pub(crate) fn key(name: &str, bucket: i64) -> PartitionKey {
    let bounds = Bounds { start: bucket * WIDTH, end: (bucket + 1) * WIDTH };
    PartitionKey { table: table(name), bucket: Some(bounds) }
}

pub(crate) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("t", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("n", DataType::Int64, false),
    ]))
}

pub(crate) fn rows(times: &[i64]) -> RecordBatch {
    let numbers = Int64Array::from_iter_values(0..i64::try_from(times.len()).unwrap());
    let times = TimestampMicrosecondArray::from(times.to_vec());
    RecordBatch::try_new(schema(), vec![Arc::new(times), Arc::new(numbers)]).unwrap()
}

/// A finished file with so many rows, all at the start of the bucket.
pub(crate) fn write(store: &Store, key: &PartitionKey, count: usize) -> FinishedFile {
    let start = key.bucket.map_or(0, |bucket| bucket.start);
    write_times(store, key, &vec![start; count])
}

pub(crate) fn write_times(store: &Store, key: &PartitionKey, times: &[i64]) -> FinishedFile {
    let mut writer = store.writer(key, schema(), Some("t")).unwrap();
    writer.write(&rows(times)).unwrap();
    writer.finish().unwrap()
}

pub(crate) fn publication(key: &PartitionKey, file: FinishedFile, refresh_key: &str, jobs: Vec<Lease>) -> Publish {
    let refresh_key = refresh_key.to_owned();
    Publish { key: key.clone(), file, refresh_key, build_ms: 1, jobs, gate: Gate::Guarded }
}

/// Publishes a partition with so many rows, without a job.
pub(crate) fn publish(store: &Store, key: &PartitionKey, count: usize, now: i64) -> SnapshotId {
    let file = write(store, key, count);
    store.publish(publication(key, file, "", Vec::new()), now).unwrap()
}

pub(crate) fn new_job(key: &PartitionKey, context: &str) -> NewJob {
    NewJob {
        partition: key.clone(),
        details: format!("{{\"for\":\"{context}\"}}"),
        context: context.to_owned(),
        group: None,
    }
}

/// The leases of jobs as claimed.
pub(crate) fn leases(jobs: &[JobRecord]) -> Vec<Lease> {
    jobs.iter().map(JobRecord::lease).collect()
}

/// The leases of jobs that were claimed for the first time.
pub(crate) fn first_leases(ids: &[JobId]) -> Vec<Lease> {
    ids.iter().map(|id| Lease { job: id.clone(), attempt: 1 }).collect()
}

/// The state of a job that published this partition.
pub(crate) fn done(partition: &Partition) -> JobState {
    let output = Some(JobOutput { rows: partition.rows, size_bytes: partition.size_bytes });
    JobState::Done { file: partition.file, output }
}

pub(crate) fn find(snapshot: &Snapshot, key: &PartitionKey) -> Option<Arc<Partition>> {
    snapshot.table(&key.table)?.partitions.get(&key.bucket.map_or(i64::MIN, |bucket| bucket.start)).cloned()
}

pub(crate) fn live(store: &Store, key: &PartitionKey) -> Arc<Partition> {
    find(&store.snapshot(), key).unwrap()
}

/// Rows of all live partitions, by `table start`.
pub(crate) fn contents(store: &Store) -> Vec<(String, u64)> {
    let snapshot = store.snapshot();
    let rows = |(id, table): (&TableId, &Arc<quarry_storage::Table>)| {
        table.partitions.iter().map(|(start, partition)| (format!("{id} {start}"), partition.rows)).collect::<Vec<_>>()
    };
    snapshot.tables().flat_map(rows).collect()
}

/// All files below `partitions/`, sorted.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![dir.join("store/partitions")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

/// Copies a store as it is on disk at this moment: what a crash would leave.
pub(crate) fn copy_of(dir: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let to = to.join(path.file_name().unwrap());
            if path.is_dir() {
                copy(&path, &to);
            } else {
                fs::copy(&path, &to).unwrap();
            }
        }
    }
    let copied = tempfile::tempdir().unwrap();
    copy(&dir.join("store"), &copied.path().join("store"));
    copied
}
