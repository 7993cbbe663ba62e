//! The truth on disk: typed records over RocksDB.
//!
//! Every change is one [`Batch`], synced before [`Catalog::commit`] returns. Who may change what, and when,
//! is decided by the callers, one at a time (see `Store`). Nothing here touches partition files.

mod key;
mod record;

use std::path::{Path, PathBuf};

use rocksdb::{DB, Direction, IteratorMode, Options, WriteBatch, WriteOptions};

pub(crate) use record::{GarbageRecord, PartitionRecord};

use crate::catalog::key::Prefix;
use crate::catalog::record::RecordFault;
use crate::faults::Faults;
use crate::{FileId, JobId, JobRecord, PartitionKey, SnapshotId, StorageError, TableId, TableState};

/// The newest format of the store as a whole: layout of folders, kinds of keys, meaning of records.
///
/// 2: jobs may be cancelled, and tell what they published; files tell what they are in their footers; replaced
/// files can be published again. 3: jobs may be of a group.
const FORMAT: u32 = 3;

/// The open catalog; it holds RocksDB's lock.
#[derive(Debug)]
pub(crate) struct Catalog {
    db: DB,
    dir: PathBuf,
    faults: Faults,
}

/// All that a store keeps in memory, as found on disk.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) snapshot: u64,
    pub(crate) file_limit: u64,
    pub(crate) tables: Vec<(TableId, TableState)>,
    pub(crate) partitions: Vec<(TableId, PartitionRecord)>,
    pub(crate) garbage: Vec<(FileId, GarbageRecord)>,
    pub(crate) jobs: Vec<JobRecord>,
}

impl Catalog {
    /// Opens or creates the catalog in `dir`, whose parent exists. Before anything else is done with it, one that
    /// is not [new](Self::is_new), or is to stay, is [taken over](Self::take_over).
    ///
    /// # Errors
    /// `Locked`, `Corrupt`, or `Refused` for one of a later release.
    pub(crate) fn open(dir: &Path, faults: Faults) -> Result<Self, StorageError> {
        let mut options = Self::options();
        options.create_if_missing(true);
        let db = DB::open(&options, dir).map_err(|e| StorageError::catalog("open", dir, e))?;
        let catalog = Self { db, dir: dir.to_owned(), faults };
        catalog.format()?;
        Ok(catalog)
    }

    /// Opens the catalog as it is now, to be read only, also while another process has it open. Nothing on disk
    /// is touched.
    pub(crate) fn open_read_only(dir: &Path) -> Result<Self, StorageError> {
        let db = DB::open_for_read_only(&Self::options(), dir, false);
        let db = db.map_err(|e| StorageError::catalog("read", dir, e))?;
        let catalog = Self { db, dir: dir.to_owned(), faults: Faults::default() };
        catalog.format()?;
        Ok(catalog)
    }

    fn options() -> Options {
        let mut options = Options::default();
        // A catalog is a few megabytes at most: small buffers, few files and threads, no statistics.
        options.set_write_buffer_size(4 << 20);
        options.set_keep_log_file_num(2);
        options.set_max_file_opening_threads(1);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options.set_compression_type(rocksdb::DBCompressionType::Lz4);
        options
    }

    /// Whether nothing was ever written to it.
    pub(crate) fn is_new(&self) -> Result<bool, StorageError> {
        Ok(self.format()?.is_none())
    }

    /// The format that it is in; one of a later release is refused.
    pub(crate) fn format(&self) -> Result<Option<u32>, StorageError> {
        match self.number(key::FORMAT)?.map(|found| u32::try_from(found).unwrap_or(u32::MAX)) {
            Some(found) if found > FORMAT => {
                let dir = self.dir.parent().unwrap_or(&self.dir).to_owned();
                Err(StorageError::NewerFormat { dir, found, known: FORMAT })
            }
            found => Ok(found),
        }
    }

    /// Brings a new catalog, or one of an earlier release, to our format.
    ///
    /// Nothing is rewritten: records carry versions of their own, and those of every earlier format are read.
    /// The number is raised before the first new record is written, so that an earlier release says why it does
    /// not open the store, instead of meeting records that it takes for damaged.
    pub(crate) fn take_over(&self) -> Result<(), StorageError> {
        match self.format()? {
            Some(FORMAT) => return Ok(()),
            Some(found) => tracing::info!(from = found, to = FORMAT, "the store is taken over from an earlier format"),
            None => {}
        }
        let mut batch = Batch::default();
        batch.0.put(key::FORMAT, record::encode_number(u64::from(FORMAT)));
        self.commit(batch)
    }

    /// Writes a batch as a whole and syncs it. An error leaves open whether a later start will find it.
    ///
    /// After a full disk RocksDB takes no writes until it sees free space again, which it looks for every
    /// five seconds; nothing needs to be restarted.
    pub(crate) fn commit(&self, batch: Batch) -> Result<(), StorageError> {
        if batch.0.is_empty() {
            return Ok(());
        }
        self.faults.check("write", &self.dir)?;
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(batch.0, &options).map_err(|e| StorageError::catalog("write", &self.dir, e))?;
        // As a disk does that has taken the bytes and then fails to say so.
        self.faults.check("write", &self.dir)
    }

    /// Copies all records, but those of replaced files, into a new catalog in `dir`.
    ///
    /// # Errors
    /// Either catalog's.
    pub(crate) fn copy_to(&self, dir: &Path) -> Result<(), StorageError> {
        let target = Self::open(dir, Faults::default())?;
        let mut batch = Batch::default();
        for entry in self.db.iterator(IteratorMode::Start) {
            let (key, value) = entry.map_err(|e| StorageError::catalog("read", &self.dir, e))?;
            if key.first() != Some(&Prefix::Garbage.byte()) {
                batch.0.put(key, value);
            }
        }
        target.commit(batch)
    }

    /// Reads everything.
    pub(crate) fn load(&self) -> Result<Contents, StorageError> {
        let mut contents = Contents {
            snapshot: self.number(key::SNAPSHOT)?.unwrap_or(0),
            file_limit: self.number(key::FILE_LIMIT)?.unwrap_or(0),
            ..Contents::default()
        };
        self.scan(Prefix::Table, |key, value| {
            contents.tables.push((key::decode_table(key)?, record::decode_table(value)?));
            Ok(())
        })?;
        self.scan(Prefix::Partition, |key, value| {
            let (table, start) = key::decode_partition(key)?;
            let record = record::decode_partition(value)?;
            if record.bucket.map_or(i64::MIN, |bucket| bucket.start) != start {
                return Err(RecordFault::Key);
            }
            contents.partitions.push((table, record));
            Ok(())
        })?;
        self.scan(Prefix::Garbage, |key, value| {
            contents.garbage.push((key::decode_garbage(key)?, record::decode_garbage(value)?));
            Ok(())
        })?;
        contents.jobs = self.jobs()?;
        Ok(contents)
    }

    /// All jobs, in no useful order.
    pub(crate) fn jobs(&self) -> Result<Vec<JobRecord>, StorageError> {
        let mut jobs = Vec::new();
        self.scan(Prefix::Job, |key, value| {
            jobs.push(record::decode_job(key::decode_job(key)?, value)?);
            Ok(())
        })?;
        Ok(jobs)
    }

    pub(crate) fn find_job(&self, id: &JobId) -> Result<Option<JobRecord>, StorageError> {
        let key = key::job(id);
        let Some(value) = self.get(&key)? else { return Ok(None) };
        record::decode_job(id.clone(), &value).map(Some).map_err(|fault| self.corrupt(&key, fault))
    }

    /// Calls `each` with the keys and values of a kind, in the order of keys.
    fn scan(
        &self,
        prefix: Prefix,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), RecordFault>,
    ) -> Result<(), StorageError> {
        for entry in self.db.iterator(IteratorMode::From(&[prefix.byte()], Direction::Forward)) {
            let (key, value) = entry.map_err(|e| StorageError::catalog("read", &self.dir, e))?;
            if key.first() != Some(&prefix.byte()) {
                break;
            }
            each(&key, &value).map_err(|fault| self.corrupt(&key, fault))?;
        }
        Ok(())
    }

    fn number(&self, key: &[u8]) -> Result<Option<u64>, StorageError> {
        let Some(value) = self.get(key)? else { return Ok(None) };
        record::decode_number(&value).map(Some).map_err(|fault| self.corrupt(key, fault))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.db.get(key).map_err(|e| StorageError::catalog("read", &self.dir, e))
    }

    fn corrupt(&self, key: &[u8], fault: RecordFault) -> StorageError {
        StorageError::CorruptRecord { dir: self.dir.clone(), record: key.escape_ascii().to_string(), fault }
    }
}

/// Changes that happen together or not at all.
#[derive(Default)]
pub(crate) struct Batch(WriteBatch);

impl Batch {
    pub(crate) fn put_snapshot(&mut self, id: SnapshotId) {
        self.0.put(key::SNAPSHOT, record::encode_number(id.0));
    }

    pub(crate) fn put_file_limit(&mut self, limit: u64) {
        self.0.put(key::FILE_LIMIT, record::encode_number(limit));
    }

    pub(crate) fn put_table(&mut self, id: &TableId, state: &TableState) {
        self.0.put(key::table(id), record::encode_table(state));
    }

    pub(crate) fn delete_table(&mut self, id: &TableId) {
        self.0.delete(key::table(id));
    }

    pub(crate) fn put_partition(&mut self, table: &TableId, record: &PartitionRecord) {
        let key = PartitionKey { table: table.clone(), bucket: record.bucket };
        self.0.put(key::partition(&key), record::encode_partition(record));
    }

    pub(crate) fn delete_partition(&mut self, key: &PartitionKey) {
        self.0.delete(key::partition(key));
    }

    pub(crate) fn put_garbage(&mut self, file: FileId, record: &GarbageRecord) {
        self.0.put(key::garbage(file), record::encode_garbage(record));
    }

    pub(crate) fn delete_garbage(&mut self, file: FileId) {
        self.0.delete(key::garbage(file));
    }

    pub(crate) fn put_job(&mut self, job: &JobRecord) {
        self.0.put(key::job(&job.id), record::encode_job(job));
    }

    pub(crate) fn delete_job(&mut self, id: &JobId) {
        self.0.delete(key::job(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bounds, ErrorKind};

    fn open(dir: &Path) -> Result<Catalog, StorageError> {
        let catalog = Catalog::open(&dir.join("catalog"), Faults::default())?;
        catalog.take_over()?;
        Ok(catalog)
    }

    fn table(name: &str) -> TableId {
        TableId::new(name).unwrap()
    }

    #[test]
    fn what_was_committed_is_loaded_after_reopen() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = Some(Bounds { start: -10, end: 10 });
        let partition = PartitionRecord {
            bucket,
            file: FileId(5),
            rows: 1,
            size_bytes: 2,
            checksum: 3,
            time_bounds: None,
            refresh_key: "k".into(),
            built_at: 4,
            build_ms: 5,
            sequence: 6,
            held: true,
        };
        let key = PartitionKey { table: table("a"), bucket };
        let garbage =
            GarbageRecord { partition: key.clone(), size_bytes: 7, since: 8, version: Some(partition.clone()) };
        let state = TableState { range: bucket, complete: true };
        let catalog = open(dir.path()).unwrap();
        let mut batch = Batch::default();
        batch.put_snapshot(SnapshotId(9));
        batch.put_file_limit(64);
        batch.put_table(&table("a"), &state);
        batch.put_table(&table("b"), &TableState::default());
        batch.put_partition(&table("a"), &partition);
        batch.put_garbage(FileId(4), &garbage);
        catalog.commit(batch).unwrap();
        drop(catalog);

        let catalog = open(dir.path()).unwrap();
        let found = catalog.load().unwrap();
        assert_eq!((found.snapshot, found.file_limit), (9, 64));
        assert_eq!(found.tables, [(table("a"), state), (table("b"), TableState::default())]);
        assert_eq!(found.partitions, [(table("a"), partition)]);
        assert_eq!(found.garbage, [(FileId(4), garbage)]);

        let mut batch = Batch::default();
        batch.delete_table(&table("b"));
        batch.delete_partition(&key);
        batch.delete_garbage(FileId(4));
        catalog.commit(batch).unwrap();
        let found = catalog.load().unwrap();
        assert_eq!((found.tables.len(), found.partitions.len(), found.garbage.len()), (1, 0, 0));
    }

    #[test]
    fn a_newer_format_is_refused_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = open(dir.path()).unwrap();
        catalog.db.put(key::FORMAT, record::encode_number(u64::from(FORMAT) + 1)).unwrap();
        drop(catalog);
        let error = open(dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains("has format 4, and this program knows formats up to 3"), "{error}");
    }

    #[test]
    fn damaged_records_are_errors_that_name_them() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = open(dir.path()).unwrap();
        for (key, value, text) in [
            (&b"tx\0"[..], &[][..], "the tx\\x00 record"),
            (b"px\0\x80\0\0\0\0\0\0\x01", &[9], "(unknown version 9)"),
            (b"g\0\0\0\0\0\0\0\0", &[1], "(too short)"),
            (b"jabc", &[1], "the jabc record"),
        ] {
            catalog.db.put(key, value).unwrap();
            let error = catalog.load().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(text), "{error}");
            assert!(error.to_string().contains("quarry fsck --repair"), "{error}");
            catalog.db.delete(key).unwrap();
        }
        catalog.load().unwrap();
    }

    #[test]
    fn a_partition_whose_key_and_value_differ_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = open(dir.path()).unwrap();
        let record = PartitionRecord {
            bucket: Some(Bounds { start: 1, end: 2 }),
            file: FileId(1),
            rows: 0,
            size_bytes: 0,
            checksum: 0,
            time_bounds: None,
            refresh_key: String::new(),
            built_at: 0,
            build_ms: 0,
            sequence: 0,
            held: false,
        };
        let other = PartitionKey { table: table("a"), bucket: None };
        catalog.db.put(key::partition(&other), record::encode_partition(&record)).unwrap();
        assert!(matches!(catalog.load(), Err(StorageError::CorruptRecord { fault: RecordFault::Key, .. })));
    }
}
