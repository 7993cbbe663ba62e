//! Where partition files are and how they are called: `partitions/<table>/<bucket>-<file id>.parquet`.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::catalog::{Batch, Catalog};
use crate::faults::Faults;
use crate::ids::BucketName;
use crate::{FileId, PartitionKey, StorageError, TableId};

/// How many file ids one synced write reserves. After a crash the rest of a block is lost, which costs nothing.
const RESERVED_IDS: u64 = 64;

/// The folder of partition files.
#[derive(Debug)]
pub(crate) struct Files {
    root: PathBuf,
    faults: Faults,
}

/// A partition file on disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FoundFile {
    pub(crate) id: FileId,
    pub(crate) size_bytes: u64,
}

impl Files {
    /// Makes the folder when it is not there.
    pub(crate) fn open(root: PathBuf, faults: Faults) -> Result<Self, StorageError> {
        create_folder(&root, &faults)?;
        Ok(Self { root, faults })
    }

    /// The folder as it is; nothing is made.
    pub(crate) fn at(root: PathBuf) -> Self {
        Self { root, faults: Faults::default() }
    }

    /// What is to go wrong.
    pub(crate) fn faults(&self) -> &Faults {
        &self.faults
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The path of a file. This is a part of the store's format: records do not repeat it.
    pub(crate) fn path(&self, key: &PartitionKey, file: FileId) -> PathBuf {
        self.folder(&key.table).join(format!("{}-{file}.parquet", BucketName(key.bucket)))
    }

    fn folder(&self, table: &TableId) -> PathBuf {
        self.root.join(table.as_str())
    }

    /// Makes the folder of a table when it is not there.
    pub(crate) fn create_folder(&self, table: &TableId) -> Result<(), StorageError> {
        create_folder(&self.folder(table), &self.faults)
    }

    /// Makes entries of a folder durable: a file's own sync does not cover its name.
    pub(crate) fn sync_folder(&self, folder: &Path) -> Result<(), StorageError> {
        sync_folder(folder, &self.faults)
    }

    /// Removes folders of tables that have no file left. Only at open: later a writer may be about to use one.
    pub(crate) fn remove_empty_folders(&self) {
        for folder in self.folders().unwrap_or_default() {
            if let Err(error) = fs::remove_dir(&folder)
                && error.kind() != io::ErrorKind::DirectoryNotEmpty
            {
                tracing::debug!(folder = %folder.display(), %error, "cannot remove an empty folder");
            }
        }
    }

    /// The folders of tables.
    fn folders(&self) -> Result<Vec<PathBuf>, StorageError> {
        let mut folders = Vec::new();
        for (name, path) in entries(&self.root)? {
            if name.to_str().is_some_and(|name| TableId::new(name).is_some()) && path.is_dir() {
                folders.push(path);
            } else {
                tracing::warn!(path = %path.display(), "not a table's folder: left alone");
            }
        }
        Ok(folders)
    }

    /// All partition files. Files with names that we would not give are left alone.
    pub(crate) fn list(&self) -> Result<HashMap<PathBuf, FoundFile>, StorageError> {
        let mut files = HashMap::new();
        for folder in self.folders()? {
            for (name, path) in entries(&folder)? {
                let Some(id) = file_id(&name) else {
                    tracing::warn!(path = %path.display(), "not a partition file: left alone");
                    continue;
                };
                // Follows links: an operator may have moved files to another disk.
                match fs::metadata(&path) {
                    Ok(metadata) => files.insert(path, FoundFile { id, size_bytes: metadata.len() }),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(StorageError::io("read", &path, error)),
                };
            }
        }
        Ok(files)
    }
}

/// Gives file ids out. None is given twice, whatever happens between: blocks are reserved on disk first.
#[derive(Debug)]
pub(crate) struct FileIds {
    next: u64,
    limit: u64,
}

impl FileIds {
    /// Starts above the reserved block, and above every id `seen` on disk, should the catalog have been
    /// restored from an older copy.
    pub(crate) fn new(limit: u64, seen: impl Iterator<Item = FileId>) -> Self {
        let next = seen.map(|id| id.0.saturating_add(1)).fold(limit.max(1), u64::max);
        Self { next, limit: next }
    }

    pub(crate) fn take(&mut self, catalog: &Catalog) -> Result<FileId, StorageError> {
        if self.next >= self.limit {
            let limit = self.next.saturating_add(RESERVED_IDS);
            let mut batch = Batch::default();
            batch.put_file_limit(limit);
            catalog.commit(batch)?;
            self.limit = limit;
        }
        let id = FileId(self.next);
        self.next = self.next.saturating_add(1);
        Ok(id)
    }
}

pub(crate) fn sync_folder(folder: &Path, faults: &Faults) -> Result<(), StorageError> {
    faults.check("sync", folder)?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| StorageError::io("sync", folder, e))
}

/// Makes a folder, durably, when it is not there. Its parent exists.
pub(crate) fn create_folder(folder: &Path, faults: &Faults) -> Result<(), StorageError> {
    match faults.strike().and_then(|()| fs::create_dir(folder)) {
        Ok(()) => folder.parent().map_or(Ok(()), |parent| sync_folder(parent, faults)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => Err(StorageError::io("create", folder, error)),
    }
}

fn entries(folder: &Path) -> Result<Vec<(OsString, PathBuf)>, StorageError> {
    let list = |entries: fs::ReadDir| entries.map(|e| e.map(|e| (e.file_name(), e.path()))).collect();
    fs::read_dir(folder).and_then(list).map_err(|e| StorageError::io("list", folder, e))
}

/// The id in a file name: 16 lower-case hexadecimal digits between the last `-` and `.parquet`.
fn file_id(name: &OsStr) -> Option<FileId> {
    let (_, digits) = name.to_str()?.strip_suffix(".parquet")?.rsplit_once('-')?;
    let valid = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if valid { u64::from_str_radix(digits, 16).ok().map(FileId) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bounds;

    fn key(bucket: Option<Bounds>) -> PartitionKey {
        PartitionKey { table: TableId::new("t").unwrap(), bucket }
    }

    #[test]
    fn paths_are_pinned() {
        let files = Files::at(PathBuf::from("/s/partitions"));
        let day = Some(Bounds { start: 86_400_000_000, end: 2 * 86_400_000_000 });
        let path = |bucket, id| files.path(&key(bucket), FileId(id));
        assert_eq!(path(None, 255), Path::new("/s/partitions/t/all-00000000000000ff.parquet"));
        assert_eq!(path(day, 1), Path::new("/s/partitions/t/19700102-0000000000000001.parquet"));
        assert_eq!(file_id(path(day, u64::MAX).file_name().unwrap()), Some(FileId(u64::MAX)));
    }

    #[test]
    fn foreign_names_have_no_id() {
        for name in ["a.parquet", "all-1.parquet", "all-00000000000000FF.parquet", "all-00000000000000ff", "README"] {
            assert_eq!(file_id(OsStr::new(name)), None, "{name}");
        }
    }

    #[test]
    fn listing_finds_our_files_and_skips_others() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path().join("partitions"), Faults::default()).unwrap();
        files.create_folder(&key(None).table).unwrap();
        files.create_folder(&key(None).table).unwrap();
        let ours = files.path(&key(None), FileId(3));
        fs::write(&ours, "12345").unwrap();
        fs::write(files.root.join("t/notes.txt"), "").unwrap();
        fs::write(files.root.join("stray"), "").unwrap();
        let found = files.list().unwrap();
        assert_eq!(found.len(), 1);
        let file = found.get(&ours).unwrap();
        assert_eq!((file.id, file.size_bytes), (FileId(3), 5));
    }

    #[test]
    fn ids_are_never_given_twice_even_when_a_block_was_not_used_up() {
        let dir = tempfile::tempdir().unwrap();
        let mut last = 0;
        for _ in 0..3 {
            let catalog = Catalog::open(&dir.path().join("catalog"), Faults::default()).unwrap();
            let mut ids = FileIds::new(catalog.load().unwrap().file_limit, std::iter::empty());
            for _ in 0..RESERVED_IDS + 1 {
                let id = ids.take(&catalog).unwrap().0;
                assert!(id > last, "{id} after {last}");
                last = id;
            }
        }
        let catalog = Catalog::open(&dir.path().join("catalog"), Faults::default()).unwrap();
        let mut ids = FileIds::new(catalog.load().unwrap().file_limit, [FileId(5000), FileId(7)].into_iter());
        assert_eq!(ids.take(&catalog).unwrap(), FileId(5001));
        assert!(catalog.load().unwrap().file_limit > 5001);
    }
}
