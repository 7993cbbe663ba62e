//! Brings memory, catalog and files into one state after a stop of any kind.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use crate::catalog::{Batch, Catalog, Contents, GarbageRecord, PartitionRecord};
use crate::files::{FileIds, Files, FoundFile};
use crate::footer::{Ending, Footer, read_ending};
use crate::gc::{Garbage, GarbageFile, SINCE_UNKNOWN, delete_orphans};
use crate::hashing::extent_of;
use crate::live_jobs::LiveJobs;
use crate::store::{Missing, State};
use crate::{FileId, JobState, PartitionKey, Snapshot, StorageError, Table, TableId};

/// The files that the catalog speaks of.
type Wanted = HashSet<PathBuf>;

/// Reads the catalog and mends what a stop has left.
///
/// The catalog goes first and files after it: a second crash in the middle leads here again.
pub(crate) fn recover(dir: &Path, catalog: &Catalog, files: &Files) -> Result<(Snapshot, State), StorageError> {
    let found = files.list()?;
    if catalog.is_new()? && !found.is_empty() {
        // All of them would be orphans, and deleted: by a catalog folder that somebody has moved away.
        return Err(StorageError::MissingCatalog { dir: dir.to_owned(), files: found.len() });
    }
    catalog.take_over()?;
    let mut contents = catalog.load()?;
    let file_ids = FileIds::new(contents.file_limit, seen_ids(&contents, &found));
    let stored_snapshot = contents.snapshot;
    let last_snapshot = sequences(&contents).fold(stored_snapshot, u64::max);
    let mut batch = Batch::default();
    let mut wanted = Wanted::with_capacity(contents.partitions.len());

    let (tables, missing) = live_tables(&mut contents, files, &found, &mut wanted);
    let mut snapshot = Snapshot { id: last_snapshot, tables };
    let mut garbage = known_garbage(contents.garbage, files, &found, &mut wanted, &mut batch);
    let jobs = live_jobs(contents.jobs, &mut batch);

    let orphans: Vec<&PathBuf> = found.keys().filter(|path| !wanted.contains(*path)).collect();
    let endings = orphans.into_iter().map(|path| Ok((path, read_ending(path)?)));
    let mut sealed = Vec::new();
    for (path, ending) in endings.collect::<Result<Vec<_>, StorageError>>()? {
        match ending {
            Ending::None(_) => continue,
            Ending::Ours(footer) if files.path(&footer.key, footer.file) == *path => sealed.push((path, footer)),
            // Whole, and not what we would have left: not ours to delete.
            Ending::Ours(_) | Ending::Foreign => {
                tracing::warn!(path = %path.display(), "a Parquet file that no record names: left alone");
            }
        }
        wanted.insert(path.clone());
    }
    let is_old = sealed.iter().any(|(_, footer)| footer.sequence > last_snapshot + 1);
    for (path, footer) in sealed {
        // Else its publish was cut off, which nobody ever saw: there is no going back to it.
        let was_live = is_old || missing.contains_key(&(footer.key.table.clone(), footer.key.start()));
        let record = sealed_orphan(path, &footer, was_live)?;
        snapshot.id = snapshot.id.max(footer.sequence);
        batch.put_garbage(footer.file, &record);
        garbage.insert(footer.file, GarbageFile { record, readers: Weak::new() });
    }
    if !missing.is_empty() {
        snapshot.id += 1;
    }
    if snapshot.id != stored_snapshot {
        batch.put_snapshot(snapshot.id());
    }
    catalog.commit(batch)?;
    delete_orphans(files, &found, &wanted);
    let last_snapshot = snapshot.id;
    Ok((snapshot, State { file_ids, garbage, jobs, missing, last_snapshot }))
}

/// The partitions whose files are there, and those whose files are not.
fn live_tables(
    contents: &mut Contents,
    files: &Files,
    found: &HashMap<PathBuf, FoundFile>,
    wanted: &mut Wanted,
) -> (BTreeMap<TableId, Arc<Table>>, Missing) {
    let table = |(id, state)| (id, Arc::new(Table { state, partitions: BTreeMap::new() }));
    let mut tables: BTreeMap<TableId, Arc<Table>> = contents.tables.drain(..).map(table).collect();
    let mut missing = Missing::new();
    for (table, record) in contents.partitions.drain(..) {
        let key = PartitionKey { table, bucket: record.bucket };
        let path = files.path(&key, record.file);
        // Also one that is cut short: it is on record.
        wanted.insert(path.clone());
        if is_intact(&path, &key, &record, found) {
            let table = Arc::make_mut(tables.entry(key.table.clone()).or_default());
            table.partitions.insert(key.start(), Arc::new(record.into_partition(path)));
        } else {
            // A partition without its file would fail every query that needs it. Left out, it is simply not
            // covered: queries go to the source, or say so, and the scheduler builds it again.
            tables.entry(key.table.clone()).or_default();
            missing.insert((key.table.clone(), key.start()), record);
        }
    }
    (tables, missing)
}

/// Replaced files that are still there; the records of others go.
fn known_garbage(
    records: Vec<(FileId, GarbageRecord)>,
    files: &Files,
    found: &HashMap<PathBuf, FoundFile>,
    wanted: &mut Wanted,
    batch: &mut Batch,
) -> Garbage {
    let mut garbage = Garbage::new();
    for (id, record) in records {
        let path = files.path(&record.partition, id);
        if found.contains_key(&path) {
            wanted.insert(path);
            // No snapshot of an earlier process can hold it, so only its grace is left to wait for.
            garbage.insert(id, GarbageFile { record, readers: Weak::new() });
        } else {
            batch.delete_garbage(id);
        }
    }
    garbage
}

/// Jobs that have not ended; those that ran wait again.
fn live_jobs(records: Vec<crate::JobRecord>, batch: &mut Batch) -> LiveJobs {
    let mut jobs = LiveJobs::default();
    for mut job in records {
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
    jobs
}

/// A file with a footer that no record names, as garbage. One publish that was cut off between footer and batch leaves
/// such files. Later ones come from a catalog that is older than the files: then all of them may be all that is left of
/// what was published, and must not go unseen; so may one whose partition has lost its file.
fn sealed_orphan(path: &Path, footer: &Footer, was_live: bool) -> Result<GarbageRecord, StorageError> {
    if was_live {
        tracing::warn!(
            "the catalog is older than the file {} of {}: it stays for a while; to publish it, stop the server and \
             run `quarry fsck --repair`",
            path.display(),
            footer.key
        );
    }
    let version = PartitionRecord::of_footer(footer, extent_of(path)?);
    let (partition, size_bytes) = (footer.key.clone(), version.size_bytes);
    Ok(GarbageRecord { partition, size_bytes, since: SINCE_UNKNOWN, version: Some(version).filter(|_| was_live) })
}

/// Every file id that something on disk knows.
fn seen_ids(contents: &Contents, found: &HashMap<PathBuf, FoundFile>) -> impl Iterator<Item = FileId> {
    let live = contents.partitions.iter().map(|(_, record)| record.file);
    live.chain(contents.garbage.iter().map(|(id, _)| *id)).chain(found.values().map(|file| file.id))
}

/// The sequences of all publishes that are on record.
fn sequences(contents: &Contents) -> impl Iterator<Item = u64> {
    let live = contents.partitions.iter().map(|(_, record)| record.sequence);
    live.chain(contents.garbage.iter().filter_map(|(_, record)| Some(record.version.as_ref()?.sequence)))
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
        "the file {} of {key} is {fault}: the partition is not used until it is rebuilt with `quarry build`, or its \
         file is back at a later start",
        path.display()
    );
    false
}
