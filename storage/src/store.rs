//! The store: one folder, one owner.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use arrow::datatypes::SchemaRef;

use crate::catalog::{Batch, Catalog, Contents, GarbageRecord, PartitionRecord};
use crate::files::{FileIds, Files, FoundFile, create_folder};
use crate::gc::{Garbage, GarbageFile, delete_orphans};
use crate::live_jobs::LiveJobs;
use crate::progress::Leases;
use crate::{
    FileId, JobState, Partition, PartitionKey, PartitionWriter, Snapshot, SnapshotId, StorageError, Table, TableId,
    TableState,
};

/// Where a store is and how it behaves.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The folder; created when it is not there.
    pub dir: PathBuf,
    /// How long a replaced file stays.
    pub gc_grace: Duration,
}

/// A handle; clones share one store.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

/// What all handles share.
#[derive(Debug)]
pub(crate) struct Inner {
    dir: PathBuf,
    pub(crate) gc_grace_us: i64,
    pub(crate) files: Files,
    pub(crate) catalog: Catalog,
    snapshot: ArcSwap<Snapshot>,
    state: Mutex<State>,
    pub(crate) leases: Leases,
}

/// What changes with the catalog. Holding its lock is the right to change both.
///
/// One lock for everything is enough: changes are rare (a few a second while rollups are built), each
/// costs one sync of the disk, and readers do not take it. It makes every check-then-write of this crate
/// (lease, gate, one job a partition) plainly correct.
#[derive(Debug)]
pub(crate) struct State {
    file_ids: FileIds,
    pub(crate) garbage: Garbage,
    pub(crate) jobs: LiveJobs,
}

impl Store {
    /// Opens or creates a store.
    ///
    /// Jobs that were running wait again, with their attempt kept. Files of builds that were never published
    /// are deleted. A partition whose file is missing or cut short is dropped, with a warning in the log.
    ///
    /// # Errors
    /// `Locked` when another process (or another `Store` of this one) holds it, `Refused` when it is of a newer
    /// format, `Corrupt` when the catalog is damaged, or what the file system says.
    pub fn open(options: StoreOptions) -> Result<Self, StorageError> {
        let StoreOptions { dir, gc_grace } = options;
        let dir = std::path::absolute(&dir).map_err(|e| StorageError::io("find", &dir, e))?;
        fs::create_dir_all(&dir).map_err(|e| StorageError::io("create", &dir, e))?;
        let catalog_dir = dir.join("catalog");
        create_folder(&catalog_dir)?;
        // From here on we hold the lock: nobody else writes files, so that what no record names is an orphan.
        let catalog = Catalog::open(&catalog_dir)?;
        let files = Files::open(dir.join("partitions"))?;
        let (snapshot, state) = recover(&catalog, &files)?;
        let inner = Inner {
            dir,
            gc_grace_us: i64::try_from(gc_grace.as_micros()).unwrap_or(i64::MAX),
            files,
            catalog,
            snapshot: ArcSwap::from_pointee(snapshot),
            state: Mutex::new(state),
            leases: Leases::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The store's folder, as an absolute path.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The state as of the last publish. Never waits.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.inner.snapshot.load_full()
    }

    /// Replaces what is known about a table as a whole. Saying the same again costs nothing.
    ///
    /// Partitions outside of the new range are dropped: the source was seen to have nothing there, and should the range
    /// grow again, rows of before must not come back.
    ///
    /// # Errors
    /// The catalog cannot be written; nothing has changed then.
    pub fn set_table_state(&self, table: &TableId, state: TableState) -> Result<(), StorageError> {
        let mut locked = self.lock()?;
        let mut next = NextSnapshot::after(&self.snapshot());
        if next.snapshot.tables.get(table).is_some_and(|known| known.state == state) {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.put_table(table, &state);
        batch.put_snapshot(next.id());
        let changed = next.table(table);
        changed.state = state;
        let mut garbage = Vec::new();
        if let Some(range) = state.range {
            changed.partitions.retain(|_, partition| {
                let Some(bucket) = partition.bucket else { return true };
                if range.start <= bucket.start && bucket.end <= range.end {
                    return true;
                }
                let key = PartitionKey { table: table.clone(), bucket: partition.bucket };
                batch.delete_partition(&key);
                // Nobody says what time it is; who still reads the file keeps it all the same.
                garbage.push(retire(&mut batch, key, partition, partition.built_at));
                false
            });
        }
        self.inner.catalog.commit(batch)?;
        locked.garbage.extend(garbage);
        self.swap(next);
        Ok(())
    }

    /// Starts the file of a partition. It, its writes and its finish block.
    ///
    /// `time_column` is the column of a timestamp type or `Date32` that decides which partition a row belongs to.
    ///
    /// # Errors
    /// The file cannot be created. The bucket is no range, or there is no such time column: kind `Bug`.
    pub fn writer(
        &self,
        key: &PartitionKey,
        schema: SchemaRef,
        time_column: Option<&str>,
    ) -> Result<PartitionWriter, StorageError> {
        if key.bucket.is_some_and(|bucket| bucket.start >= bucket.end || bucket.start == i64::MIN) {
            return Err(StorageError::BadBucket(key.clone()));
        }
        let id = {
            // Under the lock also the folder: a second writer must not go on before its name is synced.
            let mut state = self.lock()?;
            self.inner.files.create_folder(&key.table)?;
            state.file_ids.take(&self.inner.catalog)?
        };
        PartitionWriter::create(key.clone(), id, self.inner.files.path(key, id), schema, time_column)
    }

    /// Drops the tables for which `keep` is false; gives their number. Their files become garbage.
    ///
    /// # Errors
    /// The catalog cannot be written; nothing has changed then.
    pub fn retain_tables(&self, keep: &dyn Fn(&TableId) -> bool, now: i64) -> Result<usize, StorageError> {
        // The caller's function runs outside of the lock, as it may use the store.
        let candidates: Vec<TableId> =
            self.snapshot().tables().map(|(id, _)| id).filter(|id| !keep(id)).cloned().collect();
        let mut state = self.lock()?;
        let mut next = NextSnapshot::after(&self.snapshot());
        let mut batch = Batch::default();
        let mut garbage = Vec::new();
        let mut dropped = 0;
        for id in candidates {
            let Some(table) = next.snapshot.tables.remove(&id) else { continue };
            dropped += 1;
            batch.delete_table(&id);
            for partition in table.partitions.values() {
                let key = PartitionKey { table: id.clone(), bucket: partition.bucket };
                batch.delete_partition(&key);
                garbage.push(retire(&mut batch, key, partition, now));
            }
        }
        if dropped == 0 {
            return Ok(0);
        }
        batch.put_snapshot(next.id());
        self.inner.catalog.commit(batch)?;
        state.garbage.extend(garbage);
        self.swap(next);
        Ok(dropped)
    }

    /// The right to change the catalog.
    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, State>, StorageError> {
        // A panic between the write of the catalog and the change of memory leaves the two apart; going on
        // could hand a partition to two workers.
        self.inner.state.lock().map_err(|_poisoned| StorageError::Poisoned)
    }

    /// Makes the next state the current one. The caller holds the lock and has committed it.
    pub(crate) fn swap(&self, next: NextSnapshot) {
        self.inner.snapshot.store(Arc::new(next.snapshot));
    }
}

/// A snapshot in the making: a cheap copy of the current one that shares all tables it does not change.
#[derive(Debug)]
pub(crate) struct NextSnapshot {
    pub(crate) snapshot: Snapshot,
}

impl NextSnapshot {
    pub(crate) fn after(current: &Snapshot) -> Self {
        Self { snapshot: Snapshot { id: current.id + 1, tables: current.tables.clone() } }
    }

    pub(crate) fn id(&self) -> SnapshotId {
        self.snapshot.id()
    }

    /// The table, to be changed; made when it is not there.
    pub(crate) fn table(&mut self, id: &TableId) -> &mut Table {
        Arc::make_mut(self.snapshot.tables.entry(id.clone()).or_default())
    }
}

/// Puts a partition's file on the garbage list: in the batch, and as what to remember once that is written.
pub(crate) fn retire(
    batch: &mut Batch,
    key: PartitionKey,
    partition: &Arc<Partition>,
    now: i64,
) -> (FileId, GarbageFile) {
    let record = GarbageRecord { partition: key, size_bytes: partition.size_bytes, since: now };
    batch.put_garbage(partition.file, &record);
    (partition.file, GarbageFile { record, readers: Arc::downgrade(partition) })
}

/// Brings memory, catalog and files into one state after a stop of any kind.
///
/// The catalog goes first and files after it: a second crash in the middle leads here again.
fn recover(catalog: &Catalog, files: &Files) -> Result<(Snapshot, State), StorageError> {
    let contents = catalog.load()?;
    let found = files.list()?;
    let file_ids = FileIds::new(contents.file_limit, seen_ids(&contents, &found));
    let mut batch = Batch::default();

    let mut snapshot = Snapshot { id: contents.snapshot, tables: BTreeMap::new() };
    for (id, state) in contents.tables {
        snapshot.tables.insert(id, Arc::new(Table { state, partitions: BTreeMap::new() }));
    }
    let mut dropped = false;
    let mut wanted = HashSet::with_capacity(contents.partitions.len());
    for (table, record) in contents.partitions {
        let key = PartitionKey { table, bucket: record.bucket };
        let path = files.path(&key, record.file);
        if is_intact(&path, &key, &record, &found) {
            wanted.insert(path.clone());
            let table = Arc::make_mut(snapshot.tables.entry(key.table.clone()).or_default());
            table.partitions.insert(key.start(), Arc::new(record.into_partition(path)));
        } else {
            // A partition without its file would fail every query that needs it. Dropped, it is simply not
            // covered: queries go to the source, or say so, and the scheduler builds it again.
            batch.delete_partition(&key);
            dropped = true;
        }
    }
    if dropped {
        snapshot.id += 1;
        batch.put_snapshot(snapshot.id());
    }

    let mut garbage = Garbage::new();
    for (id, record) in contents.garbage {
        let path = files.path(&record.partition, id);
        if found.contains_key(&path) {
            wanted.insert(path);
            // No snapshot of an earlier process can hold it, so only its grace is left to wait for.
            garbage.insert(id, GarbageFile { record, readers: Weak::new() });
        } else {
            batch.delete_garbage(id);
        }
    }

    let mut jobs = LiveJobs::default();
    for mut job in contents.jobs {
        match job.state {
            JobState::Queued => {}
            JobState::Running => {
                job.state = JobState::Queued;
                batch.put_job(&job);
            }
            JobState::Done { .. } | JobState::Failed { .. } | JobState::Cancelled => continue,
        }
        jobs.put(job);
    }

    catalog.commit(batch)?;
    delete_orphans(files, &found, &wanted);
    Ok((snapshot, State { file_ids, garbage, jobs }))
}

/// Every file id that something on disk knows.
fn seen_ids(contents: &Contents, found: &HashMap<PathBuf, FoundFile>) -> impl Iterator<Item = FileId> {
    let live = contents.partitions.iter().map(|(_, record)| record.file);
    live.chain(contents.garbage.iter().map(|(id, _)| *id)).chain(found.values().map(|file| file.id))
}

/// Whether the file is there with its size. Its bytes were checked when it was published; reading all files
/// again at every start would take too long.
fn is_intact(path: &Path, key: &PartitionKey, record: &PartitionRecord, found: &HashMap<PathBuf, FoundFile>) -> bool {
    let size_bytes = found.get(path).map(|file| file.size_bytes);
    if size_bytes == Some(record.size_bytes) {
        return true;
    }
    let fault = if size_bytes.is_some() { "of the wrong size" } else { "missing" };
    tracing::warn!(
        "the file {} of {key} is {fault}: the partition is dropped; rebuild it with `quarry build`",
        path.display()
    );
    false
}
