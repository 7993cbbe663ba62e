//! Back to a version that was replaced.
//!
//! A rollback is a publish: the rows of the old version are written to a new file under a new name, with a
//! sequence of its own, and become live in one batch. So the newest sequence is always the live one, also for who
//! has nothing but the files; and the version that was live becomes one that can be gone back to. It costs one
//! read and one write of the partition.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::catalog::{Batch, PartitionRecord};
use crate::gc::publish_order;
use crate::publish::{NewVersion, check_overlap};
use crate::queue::cancelled_at;
use crate::{
    FileId, FinishedFile, JobId, JobRecord, Partition, PartitionKey, PartitionWriter, SnapshotId, StorageError, Store,
    TableId,
};

/// What to roll back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// One partition.
    Partition(PartitionKey),
    /// Every partition of a table that has the version asked for, all in one step.
    Table(TableId),
}

/// To which of the versions that are still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionChoice {
    /// The one that was published before the live one.
    Previous,
    /// The newest one that was built before this moment (UTC microseconds); a partition whose live version is
    /// that old stays as it is.
    BuiltBefore(i64),
    /// The one in this file.
    File(FileId),
}

/// A version that was replaced and is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredVersion {
    /// Of which partition.
    pub partition: PartitionKey,
    /// Its file.
    pub file: FileId,
    /// Its rows.
    pub rows: u64,
    /// Its bytes.
    pub size_bytes: u64,
    /// When it was built, in UTC microseconds.
    pub built_at: i64,
    /// When it was replaced, in UTC microseconds; none when it was found without a record.
    pub replaced_at: Option<i64>,
}

/// A partition that was rolled back.
#[derive(Debug, Clone)]
pub struct RolledBack {
    /// The partition.
    pub partition: PartitionKey,
    /// The version that was live; none when there was none.
    pub from: Option<Arc<Partition>>,
    /// The live version now. Held: no schedule replaces it, only who asks for the partition.
    pub to: Arc<Partition>,
    /// Jobs of the partition that were cancelled, as they would have replaced it again, with those of their groups.
    pub cancelled: Vec<JobId>,
}

/// A version that was chosen, with what keeps its file from being collected.
struct Chosen {
    key: PartitionKey,
    pinned: Arc<Partition>,
    /// The live version at the choice.
    live: Option<Arc<Partition>>,
}

impl Store {
    /// The versions that can be gone back to, by partition, the newest first.
    ///
    /// # Errors
    /// An earlier panic left the store in doubt.
    pub fn versions(&self) -> Result<Vec<StoredVersion>, StorageError> {
        let state = self.lock()?;
        Ok(crate::gc::versions(&state.garbage))
    }

    /// Goes back to versions that were replaced and are still there, all in one step. Jobs of the partitions are
    /// cancelled. Gives what was rolled back; a partition that is already as asked for is left out.
    ///
    /// # Errors
    /// Nothing has changed:
    /// - `NotFound`: there is no such version. `Corrupt`: its file is damaged.
    /// - `Conflict`: one of the partitions was published meanwhile.
    /// - `Full`, `Transient`: the copy or the catalog cannot be written.
    pub fn rollback(&self, scope: &Scope, choice: VersionChoice, now: i64) -> Result<Vec<RolledBack>, StorageError> {
        let chosen = self.choose(scope, choice)?;
        let mut copies = Vec::with_capacity(chosen.len());
        for chosen in chosen {
            let file = self.copy_version(&chosen)?;
            copies.push((chosen, file));
        }
        if copies.is_empty() {
            return Ok(Vec::new());
        }
        self.publish_copies(copies, now).map(|(_, rolled_back)| rolled_back)
    }

    /// Finds the versions and pins their files.
    fn choose(&self, scope: &Scope, choice: VersionChoice) -> Result<Vec<Chosen>, StorageError> {
        let mut state = self.lock()?;
        let snapshot = self.snapshot();
        let is_in_scope = |key: &PartitionKey| match scope {
            Scope::Partition(wanted) => key == wanted,
            Scope::Table(table) => key.table == *table,
        };
        let mut keys: Vec<PartitionKey> =
            state.garbage.values().map(|file| file.record.partition.clone()).filter(|key| is_in_scope(key)).collect();
        keys.sort();
        keys.dedup();
        let mut chosen = Vec::new();
        let mut is_settled = false;
        for key in keys {
            let live = snapshot.find(&key).cloned();
            if let (VersionChoice::BuiltBefore(limit), Some(live)) = (choice, &live)
                && live.built_at < limit
            {
                is_settled = true;
                continue;
            }
            let fits = |id: FileId, record: &PartitionRecord| match choice {
                VersionChoice::Previous => live.as_ref().is_none_or(|live| record.built_at < live.built_at),
                VersionChoice::BuiltBefore(limit) => record.built_at < limit,
                VersionChoice::File(file) => id == file,
            };
            let candidates = state.garbage.iter_mut().filter(|(id, file)| {
                file.record.partition == key && file.record.version.as_ref().is_some_and(|record| fits(**id, record))
            });
            let Some((_, file)) = candidates.max_by_key(|(id, file)| publish_order(**id, file)) else { continue };
            let Some(record) = file.record.version.clone() else { continue };
            // Shared with readers that have it still, or ours alone: either way no collection takes it now.
            let pinned = file.readers.upgrade().unwrap_or_else(|| {
                let path = self.inner.files.path(&key, record.file);
                Arc::new(record.into_partition(path))
            });
            file.readers = Arc::downgrade(&pinned);
            chosen.push(Chosen { key, pinned, live });
        }
        if chosen.is_empty() && !is_settled {
            let what = match scope {
                Scope::Partition(key) => key.to_string(),
                Scope::Table(table) => table.to_string(),
            };
            return Err(StorageError::NoVersion { what });
        }
        Ok(chosen)
    }

    /// Writes the rows of a version to a new file.
    fn copy_version(&self, chosen: &Chosen) -> Result<FinishedFile, StorageError> {
        let version = &chosen.pinned;
        let (path, partition) = (&version.path, &chosen.key);
        let corrupt =
            |fault: String| StorageError::CorruptFile { path: path.clone(), partition: partition.clone(), fault };
        if !version.is_intact()? {
            return Err(corrupt("its bytes are not those that were published".to_owned()));
        }
        let file = File::open(path).map_err(|e| StorageError::io("open", path, e))?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| corrupt(e.to_string()))?;
        // Without what the file says of itself, which the copy says anew.
        let schema: SchemaRef = Arc::new(Schema::new(reader.schema().fields().clone()));
        let mut writer: PartitionWriter = self.writer(partition, Arc::clone(&schema), None)?;
        for batch in reader.build().map_err(|e| corrupt(e.to_string()))? {
            let batch = batch.map_err(|e| corrupt(e.to_string()))?;
            let batch = RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec());
            writer.write(&batch.map_err(|e| corrupt(e.to_string()))?)?;
        }
        let copy = writer.finish()?;
        copy.check_data()?;
        Ok(copy)
    }

    fn publish_copies(
        &self,
        copies: Vec<(Chosen, FinishedFile)>,
        now: i64,
    ) -> Result<(SnapshotId, Vec<RolledBack>), StorageError> {
        let mut state = self.lock()?;
        let mut next = self.next_snapshot(&state);
        let (mut versions, mut changes) = (Vec::new(), Vec::new());
        let mut ended: HashMap<JobId, JobRecord> = HashMap::new();
        for (Chosen { key, pinned, live }, file) in copies {
            if next.snapshot.find(&key).map(|live| live.file) != live.as_ref().map(|live| live.file) {
                return Err(StorageError::Changed { partition: key });
            }
            next.snapshot.tables.get(&key.table).map_or(Ok(()), |table| check_overlap(table, &key))?;
            let mut cancelled: Vec<&JobRecord> = state.jobs.of(&key).collect();
            cancelled.extend(state.jobs.companions(&cancelled));
            cancelled.retain(|job| !ended.contains_key(&job.id));
            let cancelled: Vec<JobRecord> = cancelled.into_iter().map(|job| cancelled_at(job, now)).collect();
            versions.push(NewVersion {
                key: key.clone(),
                file,
                time_bounds: pinned.time_bounds,
                refresh_key: pinned.refresh_key.clone(),
                built_at: pinned.built_at,
                build_ms: pinned.build_ms,
                held: true,
            });
            changes.push((key, live, cancelled.iter().map(|job| job.id.clone()).collect()));
            ended.extend(cancelled.into_iter().map(|job| (job.id.clone(), job)));
        }
        let sealed = self.seal_all(&next, versions).into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut batch = Batch::default();
        let staged: Vec<_> =
            sealed.into_iter().map(|sealed| Self::stage(&state, &mut next, &mut batch, sealed, now)).collect();
        let rolled_back = changes.into_iter().zip(&staged).map(|((partition, from, cancelled), new)| RolledBack {
            partition,
            from,
            to: Arc::clone(&new.partition),
            cancelled,
        });
        let rolled_back = rolled_back.collect();
        let ended: Vec<JobRecord> = ended.into_values().collect();
        let id = self.commit_staged(&mut state, next, batch, staged, &ended)?;
        Ok((id, rolled_back))
    }
}
