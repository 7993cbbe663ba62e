//! A look at a store from outside: as it is on disk, without its lock, also while a server works in it.
//!
//! The catalog is read once, at the moment of [`Inspection::open`]. Files that it names may go away afterwards,
//! once they are replaced and their grace is over; whoever finds one missing looks again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use crate::catalog::{Catalog, Contents, PartitionRecord};
use crate::files::{Files, FoundFile};
use crate::footer::{Ending, read_ending};
use crate::gc::{Garbage, GarbageFile, GcPolicy, plan, versions};
use crate::hashing::{Extent, extent_of};
use crate::store::StoreOptions;
use crate::{FileId, GcFile, PartitionKey, Snapshot, StorageError, StoredVersion, Table};

/// A store as it was on disk at one moment.
#[derive(Debug)]
pub struct Inspection {
    pub(crate) catalog: Catalog,
    pub(crate) files: Files,
    snapshot: Snapshot,
    garbage: Garbage,
}

/// Something that is not as it should be, or worth knowing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: FindingSeverity,
    /// The file.
    pub path: PathBuf,
    /// The partition, where that is known.
    pub partition: Option<PartitionKey>,
    /// What is wrong, and what helps: a fragment.
    pub fault: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingSeverity {
    /// Nothing is lost.
    Note,
    /// A live partition cannot be read as it was written.
    Fault,
}

/// What a check has looked at and found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// Files read to their last byte.
    pub files: usize,
    /// Their bytes.
    pub size_bytes: u64,
    /// What is wrong; empty is well.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// How many live partitions are not as they were written.
    pub fn faults(&self) -> usize {
        self.findings.iter().filter(|finding| finding.severity == FindingSeverity::Fault).count()
    }

    pub(crate) fn add(&mut self, severity: FindingSeverity, path: &Path, key: Option<&PartitionKey>, fault: String) {
        self.findings.push(Finding { severity, path: path.to_owned(), partition: key.cloned(), fault });
    }
}

impl Inspection {
    /// Looks at the store in `dir`. Changes nothing there.
    ///
    /// # Errors
    /// `NotFound` when there is no store, `Refused` when it is of a newer format, `Corrupt` when the catalog is
    /// damaged, or is not there and partition files are, or what the file system says.
    pub fn open(dir: &Path) -> Result<Self, StorageError> {
        let dir = std::path::absolute(dir).map_err(|e| StorageError::io("find", dir, e))?;
        let (catalog_dir, files) = (dir.join("catalog"), Files::at(dir.join("partitions")));
        let nothing = || -> Result<StorageError, StorageError> {
            let found = if files.root().is_dir() { files.list()?.len() } else { 0 };
            Ok(match found {
                0 => StorageError::NoStore { dir: dir.clone() },
                files => StorageError::MissingCatalog { dir: dir.clone(), files },
            })
        };
        if !catalog_dir.join("CURRENT").is_file() {
            return Err(nothing()?);
        }
        let catalog = Catalog::open_read_only(&catalog_dir)?;
        if catalog.is_new()? {
            return Err(nothing()?);
        }
        let contents = catalog.load()?;
        let (snapshot, garbage) = view(contents, &files);
        Ok(Self { catalog, files, snapshot, garbage })
    }

    /// All partitions on record, also those whose file is not there.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The versions that can be gone back to, by partition, the newest first.
    pub fn versions(&self) -> Vec<StoredVersion> {
        versions(&self.garbage)
    }

    /// What a collection under these options would do at `now` (UTC microseconds), requests under way apart.
    pub fn plan_garbage(&self, options: &StoreOptions, now: i64) -> Vec<GcFile> {
        plan(&self.garbage, &self.snapshot, &self.files, GcPolicy::of(options), now)
    }

    /// Reads every file on record and compares it with the catalog, and looks for files that are not on record.
    ///
    /// # Errors
    /// What the file system says; damage is no error but a finding.
    pub fn check(&self) -> Result<CheckReport, StorageError> {
        let mut report = CheckReport::default();
        let found = if self.files.root().is_dir() { self.files.list()? } else { HashMap::new() };
        let mut on_record = std::collections::HashSet::new();
        for (table, live) in self.snapshot.tables() {
            for partition in live.partitions.values() {
                let key = PartitionKey { table: table.clone(), bucket: partition.bucket };
                on_record.insert(partition.path.clone());
                let record = PartitionRecord::of(partition);
                if let Some(fault) = self.check_file(&partition.path, &key, &record, &mut report)? {
                    let fault = format!(
                        "{fault}: rebuild the partition with `quarry build`, or go back to a version with `quarry rollback`"
                    );
                    report.add(FindingSeverity::Fault, &partition.path, Some(&key), fault);
                }
            }
        }
        for (id, garbage) in &self.garbage {
            let key = &garbage.record.partition;
            let path = self.files.path(key, *id);
            let is_there = found.contains_key(&path);
            on_record.insert(path.clone());
            let Some(version) = garbage.record.version.as_ref().filter(|_| is_there) else { continue };
            if let Some(fault) = self.check_file(&path, key, version, &mut report)? {
                report.add(FindingSeverity::Note, &path, Some(key), format!("a previous version: {fault}"));
            }
        }
        let mut strangers: Vec<(&PathBuf, &FoundFile)> =
            found.iter().filter(|(path, _)| !on_record.contains(*path)).collect();
        strangers.sort_by_key(|(path, _)| *path);
        for (path, _) in strangers {
            let (key, fault) = match read_ending(path) {
                Ok(Ending::None(_)) => (
                    None,
                    "unfinished: a build that is under way, or was cut off; the next start of the server removes it"
                        .to_owned(),
                ),
                Ok(Ending::Foreign) => (
                    None,
                    "not on record, and nothing in it says where it belongs: `quarry fsck --repair` sets it aside"
                        .to_owned(),
                ),
                Ok(Ending::Ours(footer)) => {
                    let fault = format!(
                        "published as number {} and not on record: `quarry fsck --repair` takes it in",
                        footer.sequence
                    );
                    (Some(footer.key), fault)
                }
                // Gone meanwhile.
                Err(error) if error.kind() == crate::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            report.add(FindingSeverity::Note, path, key.as_ref(), fault);
        }
        Ok(report)
    }

    /// What is wrong with a file on record; none when it is as it was written.
    fn check_file(
        &self,
        path: &Path,
        key: &PartitionKey,
        record: &PartitionRecord,
        report: &mut CheckReport,
    ) -> Result<Option<String>, StorageError> {
        let extent = match extent_of(path) {
            Ok(extent) => extent,
            Err(error) if error.kind() == crate::ErrorKind::NotFound => return Ok(Some("it is missing".to_owned())),
            Err(error) => return Err(error),
        };
        report.files += 1;
        report.size_bytes += extent.size_bytes;
        fault_of(path, key, record, extent)
    }
}

/// Compares a file with its record.
pub(crate) fn fault_of(
    path: &Path,
    key: &PartitionKey,
    record: &PartitionRecord,
    extent: Extent,
) -> Result<Option<String>, StorageError> {
    let expected = Extent { size_bytes: record.size_bytes, checksum: record.checksum };
    if extent.size_bytes != expected.size_bytes {
        let (found, written) = (extent.size_bytes, expected.size_bytes);
        return Ok(Some(format!("it has {found} bytes, and {written} were written")));
    }
    if extent != expected {
        return Ok(Some("its bytes are not those that were written".to_owned()));
    }
    Ok(match read_ending(path)? {
        Ending::None(fault) => Some(format!("its footer cannot be read ({fault})")),
        // Format 1.
        Ending::Foreign if record.sequence == 0 => None,
        Ending::Foreign => Some("its footer does not say what it is".to_owned()),
        Ending::Ours(footer) if footer.key == *key && PartitionRecord::of_footer(&footer, extent) == *record => None,
        Ending::Ours(footer) => Some(format!("its footer says that it is {} number {}", footer.key, footer.sequence)),
    })
}

/// The records as a snapshot and garbage, whether their files are there or not.
fn view(contents: Contents, files: &Files) -> (Snapshot, Garbage) {
    let mut snapshot = Snapshot { id: contents.snapshot, ..Snapshot::default() };
    for (id, state) in contents.tables {
        snapshot.tables.insert(id, Arc::new(Table { state, ..Table::default() }));
    }
    for (table, record) in contents.partitions {
        let key = PartitionKey { table, bucket: record.bucket };
        let path = files.path(&key, record.file);
        let table = Arc::make_mut(snapshot.tables.entry(key.table.clone()).or_default());
        table.partitions.insert(key.start(), Arc::new(record.into_partition(path)));
    }
    let garbage = contents.garbage.into_iter();
    let garbage = garbage.map(|(id, record): (FileId, _)| (id, GarbageFile { record, readers: Weak::new() })).collect();
    (snapshot, garbage)
}
