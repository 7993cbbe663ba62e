//! Deletes files that nothing needs. Nothing else in this crate deletes one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::{fs, io};

use crate::catalog::{Batch, GarbageRecord};
use crate::files::{Files, FoundFile};
use crate::{FileId, Partition, StorageError, Store};

/// What a collection did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GcReport {
    /// Files deleted.
    pub files: usize,
    /// Bytes freed.
    pub size_bytes: u64,
    /// Files still held by a snapshot or within grace.
    pub kept: usize,
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

impl Store {
    /// Deletes files that no snapshot holds and whose grace has passed at `now` (UTC microseconds).
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
        for (&id, garbage) in &state.garbage {
            let in_grace = now.saturating_sub(garbage.record.since) < self.inner.gc_grace_us;
            if in_grace || garbage.readers.strong_count() > 0 {
                report.kept += 1;
                continue;
            }
            // First the file, then its record: after a crash between the two the record leads here again.
            // The other way round the file would be an orphan until the next open.
            let path = self.inner.files.path(&garbage.record.partition, id);
            match delete_file(&path) {
                Ok(true) => {
                    report.files += 1;
                    report.size_bytes += garbage.record.size_bytes;
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot delete a replaced file");
                    report.kept += 1;
                    continue;
                }
            }
            batch.delete_garbage(id);
            gone.push(id);
        }
        self.inner.catalog.commit(batch)?;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use arrow::datatypes::Schema;

    use super::*;
    use crate::{Gate, PartitionKey, Publish, StoreOptions, TableId};

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
        let options = StoreOptions { dir: dir.path().to_owned(), gc_grace: Duration::ZERO };
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
