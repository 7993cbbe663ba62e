//! A copy of a store that can be restored, taken while the store is in use.
//!
//! Published files never change, so a copy is right as soon as it is complete; the catalog is read at one moment
//! (see `inspect`). Should a file be collected between the two, which takes a publish and the end of its grace,
//! the copy is brought up to a later moment. A backup is whole once it has its `BACKUP` file, written last.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::faults::Faults;
use crate::files::{Files, create_folder, sync_folder};
use crate::gc::{DoomedFolder, remove_unwanted};
use crate::{Inspection, Partition, PartitionKey, Snapshot, StorageError};

/// The name of the file that makes a backup whole.
const MARK: &str = "BACKUP";
/// How often a backup is brought up to a later moment before it gives up.
const TRIES: usize = 5;

/// How the files get into a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copying {
    /// As further names of the same bytes where the file system allows it: at once, and without space of their
    /// own. Enough against mistakes; a failing disk takes both.
    LinkOrCopy,
    /// As bytes of their own.
    Copy,
}

/// What a backup or a restore has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BackupReport {
    /// Partition files, all read back and compared with the catalog.
    pub files: usize,
    /// Their bytes.
    pub size_bytes: u64,
    /// Files that share their bytes with the store.
    pub linked: usize,
    /// The number of the snapshot.
    pub snapshot: u64,
}

/// Copies the live partitions and the catalog of the store in `dir` to `to`, which is empty or not there.
/// Previous versions are left out. Needs no lock: a server may use the store.
///
/// # Errors
/// `to` holds no whole backup then. `Corrupt` and `NotFound` name a file of the store that is damaged or missing;
/// `Refused` when `to` is not empty; `Full`; what the file system says.
pub fn backup(dir: &Path, to: &Path, copying: Copying) -> Result<BackupReport, StorageError> {
    let to = std::path::absolute(to).map_err(|e| StorageError::io("find", to, e))?;
    check_empty(&to)?;
    let mut source = Inspection::open(dir)?;
    fs::create_dir_all(&to).map_err(|e| StorageError::io("create", &to, e))?;
    let files = Files::open(to.join("partitions"), Faults::default())?;
    for _ in 0..TRIES {
        let mut report = BackupReport { snapshot: source.snapshot().id().get(), ..BackupReport::default() };
        match copy_all(source.snapshot(), &files, copying, &mut report)? {
            None => {
                let wanted: HashSet<PathBuf> = live(source.snapshot(), &files).map(|(_, _, path)| path).collect();
                remove_unwanted(&files, |path| wanted.contains(path))?;
                let catalog = to.join("catalog");
                create_folder(&catalog, &Faults::default())?;
                source.catalog.copy_to(&catalog)?;
                write_mark(&to, &report)?;
                return Ok(report);
            }
            Some((key, missing)) => {
                source = Inspection::open(dir)?;
                if source.snapshot().find(&key).is_some_and(|live| live.file == missing.file) {
                    let source = io::Error::from(io::ErrorKind::NotFound);
                    return Err(StorageError::io("read", &missing.path, source));
                }
            }
        }
    }
    Err(StorageError::Unsteady { dir: dir.to_owned(), tries: TRIES })
}

/// Makes a store in `to`, which is empty or not there, from a backup. Every file is compared with the catalog.
///
/// # Errors
/// `to` is as it was. `Corrupt` when the backup is not whole or damaged; `Refused` when `to` is not empty; `Full`;
/// what the file system says.
pub fn restore(from: &Path, to: &Path) -> Result<BackupReport, StorageError> {
    let to = std::path::absolute(to).map_err(|e| StorageError::io("find", to, e))?;
    if !from.join(MARK).is_file() {
        let fault = format!("it has no file {MARK}, which is written last");
        return Err(StorageError::BadBackup { dir: from.to_owned(), fault });
    }
    let source = Inspection::open(from)?;
    check_empty(&to)?;
    let Some(parent) = to.parent() else { return Err(StorageError::NotEmpty { dir: to.clone() }) };
    fs::create_dir_all(parent).map_err(|e| StorageError::io("create", parent, e))?;
    // Beside its place, so that a restore that is cut off is never taken for a store.
    let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let half = DoomedFolder::new(parent.join(format!("{name}.restoring-{}", uuid::Uuid::new_v4().simple())));
    create_folder(half.path(), &Faults::default())?;
    let files = Files::open(half.path().join("partitions"), Faults::default())?;
    let mut report = BackupReport { snapshot: source.snapshot().id().get(), ..BackupReport::default() };
    if let Some((key, missing)) = copy_all(source.snapshot(), &files, Copying::Copy, &mut report)? {
        let fault = format!("the file {} of {key} is missing", missing.path.display());
        return Err(StorageError::BadBackup { dir: from.to_owned(), fault });
    }
    let catalog = half.path().join("catalog");
    create_folder(&catalog, &Faults::default())?;
    source.catalog.copy_to(&catalog)?;
    if to.is_dir() {
        fs::remove_dir(&to).map_err(|e| StorageError::io("replace", &to, e))?;
    }
    half.rename(&to)?;
    sync_folder(parent, &Faults::default())?;
    Ok(report)
}

fn check_empty(dir: &Path) -> Result<(), StorageError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(StorageError::NotEmpty { dir: dir.to_owned() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StorageError::io("list", dir, error)),
    }
}

/// The live partitions and where their copies belong.
fn live<'a>(
    snapshot: &'a Snapshot,
    files: &'a Files,
) -> impl Iterator<Item = (PartitionKey, &'a Arc<Partition>, PathBuf)> {
    snapshot.tables().flat_map(move |(table, state)| {
        state.partitions.values().map(move |partition| {
            let key = PartitionKey { table: table.clone(), bucket: partition.bucket };
            let path = files.path(&key, partition.file);
            (key, partition, path)
        })
    })
}

/// Copies what is not there yet and checks everything; gives the first partition whose file is not there any more.
fn copy_all(
    snapshot: &Snapshot,
    files: &Files,
    copying: Copying,
    report: &mut BackupReport,
) -> Result<Option<(PartitionKey, Arc<Partition>)>, StorageError> {
    for (key, partition, to) in live(snapshot, files) {
        files.create_folder(&key.table)?;
        match place(&partition.path, &to, copying) {
            Ok(is_linked) => report.linked += usize::from(is_linked),
            Err(error) if error.kind() == crate::ErrorKind::NotFound => return Ok(Some((key, Arc::clone(partition)))),
            Err(error) => return Err(error),
        }
        let copy = Partition { path: to, ..partition.as_ref().clone() };
        if !copy.is_intact()? {
            let fault = "its bytes are not those that were published".to_owned();
            return Err(StorageError::CorruptFile { path: partition.path.clone(), partition: key, fault });
        }
        report.files += 1;
        report.size_bytes += partition.size_bytes;
    }
    for (table, _) in snapshot.tables() {
        let folder = files.root().join(table.as_str());
        if folder.is_dir() {
            files.sync_folder(&folder)?;
        }
    }
    Ok(None)
}

/// Whether the file shares its bytes with the original. One that is there already, from an earlier try, stays.
fn place(from: &Path, to: &Path, copying: Copying) -> Result<bool, StorageError> {
    if copying == Copying::LinkOrCopy {
        match fs::hard_link(from, to) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StorageError::io("read", from, error)),
            // Another disk, or a file system without links.
            Err(_) => {}
        }
    }
    if to.exists() {
        return Ok(false);
    }
    let mut source = File::open(from).map_err(|e| StorageError::io("read", from, e))?;
    let mut copy = File::create_new(to).map_err(|e| StorageError::io("create", to, e))?;
    io::copy(&mut source, &mut copy).map_err(|e| StorageError::io("write", to, e))?;
    copy.sync_all().map_err(|e| StorageError::io("sync", to, e))?;
    Ok(false)
}

fn write_mark(to: &Path, report: &BackupReport) -> Result<(), StorageError> {
    let path = to.join(MARK);
    let BackupReport { files, size_bytes, snapshot, .. } = report;
    let text = format!(
        "A backup of a quarry store: snapshot {snapshot}, {files} files, {size_bytes} bytes.\n\
         `quarry restore` makes a store from it.\n"
    );
    let write = || -> io::Result<()> {
        let mut file = File::create_new(&path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|e| StorageError::io("write", &path, e))?;
    sync_folder(to, &Faults::default())
}
