//! The store: one folder, one owner.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use arrow::datatypes::SchemaRef;

use crate::catalog::{Batch, Catalog, GarbageRecord, PartitionRecord};
use crate::faults::Faults;
use crate::files::{FileIds, Files, create_folder};
use crate::gc::{Garbage, GarbageFile, GcPolicy};
use crate::live_jobs::LiveJobs;
use crate::progress::Leases;
use crate::recover::recover;
use crate::{
    FileId, Partition, PartitionKey, PartitionWriter, Snapshot, SnapshotId, StorageError, Table, TableId, TableState,
};

/// Where a store is and how it behaves.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The folder; created when it is not there.
    pub dir: PathBuf,
    /// How long a replaced file stays at least.
    pub gc_grace: Duration,
    /// How many previous versions of every live partition stay for a rollback, the newest ones.
    pub keep_versions: usize,
    /// For how long they stay.
    pub rollback_window: Duration,
    /// The row counts, relative to those of the version before, that a publish through the gate may have.
    pub row_band: Option<RowBand>,
    /// For tests: what is to go wrong.
    pub faults: Faults,
}

impl StoreOptions {
    /// A store in `dir` that keeps a replaced file for a minute, and the previous version of every partition for
    /// a day.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            gc_grace: Duration::from_secs(60),
            keep_versions: 1,
            rollback_window: Duration::from_secs(86_400),
            row_band: None,
            faults: Faults::default(),
        }
    }
}

/// How many rows a new version may have for each row of the one before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowBand {
    /// At least.
    pub least: f64,
    /// At most; `f64::INFINITY` for no bound.
    pub most: f64,
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
    pub(crate) policy: GcPolicy,
    pub(crate) row_band: Option<RowBand>,
    pub(crate) files: Files,
    pub(crate) catalog: Catalog,
    snapshot: ArcSwap<Snapshot>,
    state: Mutex<State>,
    pub(crate) leases: Leases,
}

/// Partitions by table and start.
pub(crate) type Missing = BTreeMap<(TableId, i64), PartitionRecord>;

/// What changes with the catalog. Holding its lock is the right to change both.
///
/// One lock for everything is enough: changes are rare (a few a second while rollups are built), each
/// costs one sync of the disk, and readers do not take it. It makes every check-then-write of this crate
/// (lease, gate, one job a partition) plainly correct.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) file_ids: FileIds,
    pub(crate) garbage: Garbage,
    pub(crate) jobs: LiveJobs,
    /// Partitions of the catalog whose file was not there, or not whole, when the store was opened. They are not live, and come back at the next open should their files do: a disk that was not
    /// mounted must not cost what is on it.
    pub(crate) missing: Missing,
    /// The newest id that a snapshot was ever given, or was to get in a change whose write failed.
    pub(crate) last_snapshot: u64,
}

impl Store {
    /// Opens or creates a store.
    ///
    /// Jobs that were running wait again, with their attempt kept. Files of builds that were never published
    /// are deleted. A partition whose file is missing or cut short is not live, with a warning in the log; it is
    /// again when the file is back at a later start.
    ///
    /// # Errors
    /// `Locked` when another process (or another `Store` of this one) holds it, `Refused` when it is of a newer
    /// format, `Corrupt` when the catalog is damaged, or is not there and partition files are, or what the file
    /// system says.
    pub fn open(options: StoreOptions) -> Result<Self, StorageError> {
        let policy = GcPolicy::of(&options);
        let StoreOptions { dir, row_band, faults, .. } = options;
        let dir = std::path::absolute(&dir).map_err(|e| StorageError::io("find", &dir, e))?;
        fs::create_dir_all(&dir).map_err(|e| StorageError::io("create", &dir, e))?;
        let catalog_dir = dir.join("catalog");
        create_folder(&catalog_dir, &faults)?;
        // From here on we hold the lock: nobody else writes files, so that what no record names is an orphan.
        let catalog = Catalog::open(&catalog_dir, faults.clone())?;
        let files = Files::open(dir.join("partitions"), faults)?;
        let (snapshot, state) = recover(&dir, &catalog, &files)?;
        let inner = Inner {
            dir,
            policy,
            row_band,
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
        if self.snapshot().tables.get(table).is_some_and(|known| known.state == state) {
            return Ok(());
        }
        let mut next = self.next_snapshot(&locked);
        let mut batch = Batch::default();
        let garbage = put_state(&mut next, &mut batch, table, state);
        self.commit_next(&mut locked, &next, batch)?;
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
        PartitionWriter::create(key.clone(), id, &self.inner.files, schema, time_column)
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
        let mut next = self.next_snapshot(&state);
        let mut batch = Batch::default();
        let mut garbage = Vec::new();
        let mut missing = Vec::new();
        let mut dropped = 0;
        for id in candidates {
            let Some(table) = next.snapshot.tables.remove(&id) else { continue };
            dropped += 1;
            batch.delete_table(&id);
            for partition in table.partitions.values() {
                let key = PartitionKey { table: id.clone(), bucket: partition.bucket };
                batch.delete_partition(&key);
                garbage.push(retire(&mut batch, key, PartitionRecord::of(partition), Arc::downgrade(partition), now));
            }
            for (place, record) in state.missing.range((id.clone(), i64::MIN)..=(id.clone(), i64::MAX)) {
                let key = PartitionKey { table: id.clone(), bucket: record.bucket };
                batch.delete_partition(&key);
                garbage.push(retire(&mut batch, key, record.clone(), Weak::new(), now));
                missing.push(place.clone());
            }
        }
        if dropped == 0 {
            return Ok(0);
        }
        self.commit_next(&mut state, &next, batch)?;
        state.garbage.extend(garbage);
        missing.iter().for_each(|place| drop(state.missing.remove(place)));
        self.swap(next);
        Ok(dropped)
    }

    /// The right to change the catalog.
    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, State>, StorageError> {
        // A panic between the write of the catalog and the change of memory leaves the two apart; going on
        // could hand a partition to two workers.
        self.inner.state.lock().map_err(|_poisoned| StorageError::Poisoned)
    }

    /// The next state in the making, under an id that no state has or was to have before. One that is not committed
    /// leaves its id to the next: files of a later id than that look like publishes that the catalog has lost.
    pub(crate) fn next_snapshot(&self, state: &State) -> NextSnapshot {
        let current = self.snapshot();
        let id = state.last_snapshot.max(current.id) + 1;
        NextSnapshot { snapshot: Snapshot { id, tables: current.tables.clone() } }
    }

    /// Writes the batch that makes the next state. Should that fail, the batch may be on disk all the same.
    pub(crate) fn commit_next(
        &self,
        state: &mut State,
        next: &NextSnapshot,
        mut batch: Batch,
    ) -> Result<(), StorageError> {
        batch.put_snapshot(next.id());
        state.last_snapshot = next.id().0;
        self.inner.catalog.commit(batch)
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
    pub(crate) fn id(&self) -> SnapshotId {
        self.snapshot.id()
    }

    /// The table, to be changed; made when it is not there.
    pub(crate) fn table(&mut self, id: &TableId) -> &mut Table {
        Arc::make_mut(self.snapshot.tables.entry(id.clone()).or_default())
    }
}

/// Puts what is known of a table into the next state and the batch; gives the partitions that it has no more, as
/// garbage.
pub(crate) fn put_state(
    next: &mut NextSnapshot,
    batch: &mut Batch,
    table: &TableId,
    state: TableState,
) -> Vec<(FileId, GarbageFile)> {
    batch.put_table(table, &state);
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
            let (record, readers) = (PartitionRecord::of(partition), Arc::downgrade(partition));
            garbage.push(retire(batch, key, record, readers, partition.built_at));
            false
        });
    }
    garbage
}

/// Puts a partition's file on the garbage list: in the batch, and as what to remember once that is written.
pub(crate) fn retire(
    batch: &mut Batch,
    key: PartitionKey,
    version: PartitionRecord,
    readers: Weak<Partition>,
    now: i64,
) -> (FileId, GarbageFile) {
    let file = version.file;
    let record = GarbageRecord { partition: key, size_bytes: version.size_bytes, since: now, version: Some(version) };
    batch.put_garbage(file, &record);
    (file, GarbageFile { record, readers })
}
