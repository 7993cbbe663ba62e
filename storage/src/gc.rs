//! Deletes files that nothing needs. Nothing else in this crate deletes one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::{fs, io};

use crate::catalog::{Batch, GarbageRecord, PartitionRecord};
use crate::files::{Files, FoundFile};
use crate::{FileId, Partition, PartitionKey, Snapshot, StorageError, Store, StoreOptions, StoredVersion};

/// Stands for "when it was replaced" where nobody knows: the first collection that sees it sets it.
pub(crate) const SINCE_UNKNOWN: i64 = i64::MAX;

/// What a collection did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GcReport {
    /// Files deleted.
    pub files: usize,
    /// Bytes freed.
    pub size_bytes: u64,
    /// Files that stay for now.
    pub kept: usize,
}

/// A replaced file, and what a collection would do with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcFile {
    /// The partition that it was a version of.
    pub partition: PartitionKey,
    /// The file.
    pub file: FileId,
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub size_bytes: u64,
    /// When it was replaced, in UTC microseconds; none when it was found without a record.
    pub since: Option<i64>,
    /// What becomes of it.
    pub fate: Fate,
}

/// What a collection does with a replaced file, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes: its partition has a newer version, and nobody needs this one.
    Superseded,
    /// It goes: its table, or its partition, is not there any more.
    Dropped,
    /// It stays: it was replaced a moment ago, and may go from then on (UTC microseconds).
    InGrace {
        /// The end of its grace.
        until: i64,
    },
    /// It stays: somebody still reads it.
    Read,
    /// It stays for a rollback, and may go from then on (UTC microseconds), or once there are newer versions.
    Version {
        /// The end of the window.
        until: i64,
    },
}

impl Fate {
    /// Whether the file is to be deleted.
    pub fn is_deleted(self) -> bool {
        match self {
            Self::Superseded | Self::Dropped => true,
            Self::InGrace { .. } | Self::Read | Self::Version { .. } => false,
        }
    }
}

/// How long replaced files stay.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GcPolicy {
    pub(crate) grace_us: i64,
    pub(crate) keep_versions: usize,
    pub(crate) window_us: i64,
}

impl GcPolicy {
    pub(crate) fn of(options: &StoreOptions) -> Self {
        let micros = |duration: std::time::Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self {
            grace_us: micros(options.gc_grace),
            keep_versions: options.keep_versions,
            window_us: micros(options.rollback_window),
        }
    }
}

/// Replaced files, by id.
pub(crate) type Garbage = BTreeMap<FileId, GarbageFile>;

/// A replaced file.
#[derive(Debug)]
pub(crate) struct GarbageFile {
    pub(crate) record: GarbageRecord,
    /// The partition as older snapshots know it. All strong references come from snapshots: once there is
    /// none, no request can reach the file any more, as the current snapshot does not have it.
    pub(crate) readers: Weak<Partition>,
}

/// The order in which versions of a partition were published: sequence, then file for those without one.
pub(crate) fn publish_order(id: FileId, garbage: &GarbageFile) -> (u64, FileId) {
    (garbage.record.version.as_ref().map_or(0, |version| version.sequence), id)
}

/// The versions that can be published again, by partition, the newest first.
pub(crate) fn versions(garbage: &Garbage) -> Vec<StoredVersion> {
    let mut versions: Vec<_> = garbage
        .iter()
        .filter_map(|(id, file)| Some((publish_order(*id, file), file.record.version.as_ref()?, &file.record)))
        .collect();
    versions.sort_by(|(a, _, one), (b, _, other)| (&one.partition, b).cmp(&(&other.partition, a)));
    let version = |(_, version, record): (_, &PartitionRecord, &GarbageRecord)| StoredVersion {
        partition: record.partition.clone(),
        file: version.file,
        rows: version.rows,
        size_bytes: version.size_bytes,
        built_at: version.built_at,
        replaced_at: (record.since != SINCE_UNKNOWN).then_some(record.since),
    };
    versions.into_iter().map(version).collect()
}

/// Decides about every replaced file, in the order of ids.
pub(crate) fn plan(garbage: &Garbage, snapshot: &Snapshot, files: &Files, policy: GcPolicy, now: i64) -> Vec<GcFile> {
    let mut newest: HashMap<&PartitionKey, Vec<(u64, FileId)>> = HashMap::new();
    for (id, file) in garbage.iter().filter(|(_, file)| file.record.version.is_some()) {
        newest.entry(&file.record.partition).or_default().push(publish_order(*id, file));
    }
    for versions in newest.values_mut() {
        versions.sort_unstable_by(|a, b| b.cmp(a));
        versions.truncate(policy.keep_versions);
    }
    let decide = |(&file, garbage): (&FileId, &GarbageFile)| {
        let GarbageRecord { partition, size_bytes, since, .. } = &garbage.record;
        let since = (*since != SINCE_UNKNOWN).then_some(*since);
        let stays_until = |length: i64| Some(since.unwrap_or(now).saturating_add(length)).filter(|until| now < *until);
        let is_live = snapshot.find(partition).is_some();
        let is_kept = newest.get(partition).is_some_and(|kept| kept.iter().any(|(_, id)| *id == file));
        let fate = if garbage.readers.strong_count() > 0 {
            Fate::Read
        } else if let Some(until) = stays_until(policy.grace_us) {
            Fate::InGrace { until }
        } else if let Some(until) = stays_until(policy.window_us).filter(|_| is_live && is_kept) {
            Fate::Version { until }
        } else if is_live {
            Fate::Superseded
        } else {
            Fate::Dropped
        };
        GcFile {
            partition: partition.clone(),
            file,
            path: files.path(partition, file),
            size_bytes: *size_bytes,
            since,
            fate,
        }
    };
    garbage.iter().map(decide).collect()
}

impl Store {
    /// What [`Store::collect_garbage`] would do at `now` (UTC microseconds).
    ///
    /// # Errors
    /// An earlier panic left the store in doubt.
    pub fn plan_garbage(&self, now: i64) -> Result<Vec<GcFile>, StorageError> {
        let state = self.lock()?;
        Ok(plan(&state.garbage, &self.snapshot(), &self.inner.files, self.inner.policy, now))
    }

    /// Deletes files that no snapshot holds, whose grace has passed at `now` (UTC microseconds), and that are not
    /// kept for a rollback.
    ///
    /// A file that cannot be deleted is reported in the log and kept for the next time.
    ///
    /// # Errors
    /// The catalog cannot be written; the deleted files are found missing the next time, which is no error.
    pub fn collect_garbage(&self, now: i64) -> Result<GcReport, StorageError> {
        let mut state = self.lock()?;
        let mut report = GcReport::default();
        let mut batch = Batch::default();
        let mut gone = Vec::new();
        for GcFile { file, path, size_bytes, fate, .. } in
            plan(&state.garbage, &self.snapshot(), &self.inner.files, self.inner.policy, now)
        {
            if !fate.is_deleted() {
                report.kept += 1;
                continue;
            }
            // First the file, then its record: after a crash between the two the record leads here again.
            // The other way round the file would be an orphan until the next open.
            match delete_file(&path) {
                Ok(true) => {
                    report.files += 1;
                    report.size_bytes += size_bytes;
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot delete a replaced file");
                    report.kept += 1;
                    continue;
                }
            }
            batch.delete_garbage(file);
            gone.push(file);
        }
        let dated: Vec<(FileId, GarbageRecord)> = state
            .garbage
            .iter()
            .filter(|(_, file)| file.record.since == SINCE_UNKNOWN)
            .map(|(id, file)| (*id, GarbageRecord { since: now, ..file.record.clone() }))
            .collect();
        dated.iter().for_each(|(id, record)| batch.put_garbage(*id, record));
        self.inner.catalog.commit(batch)?;
        for (id, record) in dated {
            if let Some(file) = state.garbage.get_mut(&id) {
                file.record = record;
            }
        }
        for id in gone {
            state.garbage.remove(&id);
        }
        Ok(report)
    }
}

/// Deletes the files that are not `wanted`: their publish never happened. Called before anyone can write.
pub(crate) fn delete_orphans(files: &Files, found: &HashMap<PathBuf, FoundFile>, wanted: &HashSet<PathBuf>) {
    for path in found.keys().filter(|path| !wanted.contains(*path)) {
        match delete_file(path) {
            Ok(_) => tracing::info!(path = %path.display(), "deleted the file of an unfinished build"),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot delete the file of an unfinished build")
            }
        }
    }
    files.remove_empty_folders();
}

/// Whether there was a file to delete.
fn delete_file(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A file that is deleted when this is dropped, unless it was kept.
#[derive(Debug)]
pub(crate) struct DoomedFile {
    path: PathBuf,
    doomed: bool,
}

impl DoomedFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, doomed: true }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Lets the file stay.
    pub(crate) fn keep(mut self) -> PathBuf {
        self.doomed = false;
        std::mem::take(&mut self.path)
    }
}

impl Drop for DoomedFile {
    fn drop(&mut self) {
        if self.doomed
            && let Err(error) = delete_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot delete an unpublished file");
        }
    }
}

/// Deletes partition files of a copy in the making that it does not need after all.
pub(crate) fn remove_unwanted(files: &Files, is_wanted: impl Fn(&PathBuf) -> bool) -> Result<(), StorageError> {
    for path in files.list()?.keys().filter(|path| !is_wanted(path)) {
        delete_file(path).map_err(|e| StorageError::io("delete", path, e))?;
    }
    Ok(())
}

/// A folder in the making that is deleted when this is dropped, unless it was renamed.
#[derive(Debug)]
pub(crate) struct DoomedFolder(PathBuf);

impl DoomedFolder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Gives the finished folder its name.
    pub(crate) fn rename(mut self, to: &Path) -> Result<(), StorageError> {
        fs::rename(&self.0, to).map_err(|e| StorageError::io("rename", &self.0, e))?;
        self.0 = PathBuf::new();
        Ok(())
    }
}

impl Drop for DoomedFolder {
    fn drop(&mut self) {
        if self.0.is_dir()
            && let Err(error) = fs::remove_dir_all(&self.0)
        {
            tracing::warn!(path = %self.0.display(), %error, "cannot delete an unfinished folder");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use arrow::datatypes::Schema;

    use super::*;
    use crate::{Gate, Publish, TableId};

    fn publish(store: &Store) -> PathBuf {
        let key = PartitionKey { table: TableId::new("t").unwrap(), bucket: None };
        let file = store.writer(&key, Arc::new(Schema::empty()), None).unwrap().finish().unwrap();
        let path = file.file.path.path().to_owned();
        let refresh_key = String::new();
        store.publish(Publish { key, file, refresh_key, build_ms: 0, jobs: Vec::new(), gate: Gate::Open }, 0).unwrap();
        path
    }

    #[test]
    fn records_of_deleted_files_do_not_pile_up() {
        let dir = tempfile::tempdir().unwrap();
        let options =
            StoreOptions { gc_grace: Duration::ZERO, keep_versions: 0, ..StoreOptions::new(dir.path().to_owned()) };
        let records = |store: &Store| store.inner.catalog.load().unwrap().garbage.len();
        let store = Store::open(options.clone()).unwrap();
        publish(&store);
        let old = publish(&store);
        assert_eq!(records(&store), 1);
        store.collect_garbage(0).unwrap();
        assert_eq!(records(&store), 0);
        // Also when the file went before its record, and the process stopped between the two.
        publish(&store);
        fs::remove_file(&old).unwrap();
        drop(store);
        assert_eq!(records(&Store::open(options).unwrap()), 0);
    }

    #[test]
    fn a_doomed_file_is_deleted_unless_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "").unwrap();
        assert_eq!(DoomedFile::new(path.clone()).keep(), path);
        assert!(path.exists());
        drop(DoomedFile::new(path.clone()));
        assert!(!path.exists());
        // Nothing to delete is nothing to complain about.
        drop(DoomedFile::new(path.clone()));
        assert!(!delete_file(&path).unwrap());
    }
}
