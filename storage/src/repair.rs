//! A new catalog from the files, or a mended one.
//!
//! Why the files are enough is said in `footer`. Nothing is deleted here: a damaged catalog is renamed, a file that
//! cannot be placed goes to `set-aside/`. What only the catalog knew is lost with it: jobs, and which of the
//! replaced files had been replaced when.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::catalog::{Batch, Catalog, Contents, GarbageRecord, PartitionRecord};
use crate::faults::Faults;
use crate::files::{Files, FoundFile, create_folder, sync_folder};
use crate::footer::{Ending, Footer, read_ending};
use crate::hashing::extent_of;
use crate::inspect::fault_of;
use crate::{ErrorKind, PartitionKey, SnapshotId, StorageError, TableId, TableState};

/// What a repair did.
#[derive(Debug, Default)]
pub struct RepairReport {
    /// Where the damaged catalog is now; none when the catalog was sound, or was not there.
    pub old_catalog: Option<PathBuf>,
    /// Whether the catalog was made anew.
    pub is_rebuilt: bool,
    /// Live partitions now.
    pub partitions: usize,
    /// Of these, the ones that were not on record before.
    pub adopted: Vec<PartitionKey>,
    /// Partitions that are not live any more, and why.
    pub dropped: Vec<(PartitionKey, String)>,
    /// Previous versions that can be gone back to now.
    pub versions: usize,
    /// Files that were moved to `set-aside/`: where they are now, and why.
    pub set_aside: Vec<(PathBuf, String)>,
}

/// A version that can be live, with its table's state where a footer tells it.
struct Candidate {
    key: PartitionKey,
    record: PartitionRecord,
    state: Option<TableState>,
    was_live: bool,
}

/// Mends the store in `dir`, which nobody may have open: makes the catalog anew from the files when it is damaged
/// or gone, takes in published files that it does not know, and drops partitions whose files are damaged.
///
/// # Errors
/// `Locked` when somebody has the store open, `NotFound` when there is none, `Refused` when it is of a newer format,
/// or what the file system says. A repair that was cut off can be run again.
pub fn repair(dir: &Path, now: i64) -> Result<RepairReport, StorageError> {
    let dir = std::path::absolute(dir).map_err(|e| StorageError::io("find", dir, e))?;
    if !dir.join("catalog").is_dir() && !dir.join("partitions").is_dir() {
        return Err(StorageError::NoStore { dir });
    }
    let files = Files::open(dir.join("partitions"), Faults::default())?;
    let mut report = RepairReport::default();
    let (catalog, contents) = open_catalog(&dir, &mut report)?;
    let found = files.list()?;
    let mut aside = Aside { dir: &dir, files: &files, moved: Vec::new() };
    let candidates = candidates(&contents, &files, &found, &mut aside, &mut report)?;
    let batch = decide(contents, candidates, &found, &mut report, now);
    aside.sync()?;
    report.set_aside = aside.moved;
    catalog.take_over()?;
    catalog.commit(batch)?;
    Ok(report)
}

/// The catalog and what it says; an empty new one in place of one that is damaged.
fn open_catalog(dir: &Path, report: &mut RepairReport) -> Result<(Catalog, Contents), StorageError> {
    let path = dir.join("catalog");
    let open = || -> Result<(Catalog, Contents), StorageError> {
        create_folder(&path, &Faults::default())?;
        let catalog = Catalog::open(&path, Faults::default())?;
        let contents = catalog.load()?;
        Ok((catalog, contents))
    };
    let is_damage = |error: &StorageError| match error {
        // RocksDB says so of a file that its manifest names.
        StorageError::Catalog { source, .. } => source.as_ref().contains("No such file"),
        other => other.kind() == ErrorKind::Corrupt,
    };
    let (catalog, contents) = match open() {
        Err(error) if is_damage(&error) => {
            let mut number = 1;
            let old = loop {
                let old = dir.join(format!("catalog.damaged-{number}"));
                if !old.exists() {
                    break old;
                }
                number += 1;
            };
            fs::rename(&path, &old).map_err(|e| StorageError::io("rename", &path, e))?;
            report.old_catalog = Some(old);
            open()?
        }
        other => other?,
    };
    report.is_rebuilt = catalog.is_new()?;
    Ok((catalog, contents))
}

/// All versions that can be live. What is damaged or unknown is set aside.
fn candidates(
    contents: &Contents,
    files: &Files,
    found: &HashMap<PathBuf, FoundFile>,
    aside: &mut Aside<'_>,
    report: &mut RepairReport,
) -> Result<Vec<Candidate>, StorageError> {
    let mut candidates = Vec::new();
    let mut on_record: HashSet<PathBuf> = HashSet::new();
    for (id, garbage) in &contents.garbage {
        on_record.insert(files.path(&garbage.partition, *id));
    }
    for (table, record) in &contents.partitions {
        let key = PartitionKey { table: table.clone(), bucket: record.bucket };
        let path = files.path(&key, record.file);
        on_record.insert(path.clone());
        let fault = match found.contains_key(&path) {
            true => fault_of(&path, &key, record, extent_of(&path)?)?,
            false => Some("its file is missing".to_owned()),
        };
        match fault {
            None => candidates.push(Candidate { key, record: record.clone(), state: None, was_live: true }),
            Some(fault) => {
                if found.contains_key(&path) {
                    aside.take(&path, fault.clone())?;
                }
                report.dropped.push((key, fault));
            }
        }
    }
    let mut strangers: Vec<&PathBuf> = found.keys().filter(|path| !on_record.contains(*path)).collect();
    strangers.sort();
    for path in strangers {
        match adoptable(path, files)? {
            Ok(footer) => {
                let record = PartitionRecord::of_footer(&footer, extent_of(path)?);
                candidates.push(Candidate { key: footer.key, record, state: Some(footer.state), was_live: false });
            }
            // A build that was cut off, which the next start removes; without the old catalog nobody knows.
            Err(Unfit::Unfinished) if !report.is_rebuilt => {}
            Err(Unfit::Unfinished) => aside.take(path, "it has no footer: unfinished, or damaged".to_owned())?,
            Err(Unfit::Unknown(why)) => aside.take(path, why)?,
        }
    }
    Ok(candidates)
}

/// Why a file cannot be taken in.
enum Unfit {
    Unfinished,
    Unknown(String),
}

fn adoptable(path: &Path, files: &Files) -> Result<Result<Footer, Unfit>, StorageError> {
    let unknown = |why: &str| Ok(Err(Unfit::Unknown(why.to_owned())));
    let footer = match read_ending(path)? {
        Ending::None(_) => return Ok(Err(Unfit::Unfinished)),
        Ending::Foreign => return unknown("nothing in it says where it belongs: written by an older release"),
        Ending::Ours(footer) => *footer,
    };
    if files.path(&footer.key, footer.file) != path {
        return unknown("it says that it belongs elsewhere");
    }
    match footer.check_data(path) {
        Ok(()) => Ok(Ok(footer)),
        Err(error) if error.kind() == ErrorKind::Corrupt => unknown("its rows are damaged"),
        Err(error) => Err(error),
    }
}

/// Chooses the live versions, the greatest sequences first, and writes down everything else as replaced.
fn decide(
    contents: Contents,
    mut candidates: Vec<Candidate>,
    found: &HashMap<PathBuf, FoundFile>,
    report: &mut RepairReport,
    now: i64,
) -> Batch {
    let mut batch = Batch::default();
    candidates.sort_by_key(|candidate| std::cmp::Reverse((candidate.record.sequence, candidate.record.file)));
    let sequences = candidates.iter().map(|candidate| candidate.record.sequence);
    let snapshot = sequences.fold(contents.snapshot, u64::max) + 1;
    let greatest_file = found.values().map(|file| file.id.0).max().unwrap_or(0);

    let mut states: BTreeMap<TableId, TableState> = contents.tables.into_iter().collect();
    for (key, _) in &report.dropped {
        batch.delete_partition(key);
    }
    let mut live: BTreeMap<(TableId, i64), PartitionKey> = BTreeMap::new();
    for Candidate { key, record, state, was_live } in candidates {
        // The newest file of a table comes first.
        let known = states.entry(key.table.clone()).or_insert_with(|| state.unwrap_or_default());
        batch.put_table(&key.table, known);
        if live.values().any(|other| other.table == key.table && other.overlaps(&key)) {
            let (file, partition) = (record.file, key.clone());
            if was_live && !live.contains_key(&(key.table.clone(), key.start())) {
                batch.delete_partition(&key);
            }
            let size_bytes = record.size_bytes;
            batch.put_garbage(file, &GarbageRecord { partition, size_bytes, since: now, version: Some(record) });
            report.versions += 1;
            continue;
        }
        batch.put_partition(&key.table, &record);
        if !was_live {
            report.adopted.push(key.clone());
        }
        live.insert((key.table.clone(), key.start()), key);
    }
    report.adopted.sort();
    report.dropped.retain(|(key, _)| !live.contains_key(&(key.table.clone(), key.start())));
    report.partitions = live.len();
    report.versions += contents.garbage.iter().filter(|(_, garbage)| garbage.version.is_some()).count();
    batch.put_snapshot(SnapshotId(snapshot));
    batch.put_file_limit(contents.file_limit.max(greatest_file + 1));
    batch
}

/// The folder for files that cannot be placed.
struct Aside<'a> {
    dir: &'a Path,
    files: &'a Files,
    moved: Vec<(PathBuf, String)>,
}

impl Aside<'_> {
    fn take(&mut self, path: &Path, why: String) -> Result<(), StorageError> {
        let relative = path.strip_prefix(self.files.root()).unwrap_or(path);
        let to = self.dir.join("set-aside").join(relative);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).map_err(|e| StorageError::io("create", folder, e))?;
        }
        fs::rename(path, &to).map_err(|e| StorageError::io("move", path, e))?;
        self.moved.push((to, why));
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        let mut folders = self.moved.iter().filter_map(|(path, _)| path.parent());
        folders.try_for_each(|folder| sync_folder(folder, &Faults::default()))
    }
}
