//! What can go wrong, and what a caller can do about it.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use parquet::errors::ParquetError;

use crate::{JobId, PartitionKey, RowBand};

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The thing asked for is not there.
    NotFound,
    /// Somebody else was faster; look again.
    Conflict,
    /// Try again later.
    Transient,
    /// Stored bytes are not what was written.
    Corrupt,
    /// No space left.
    Full,
    /// A safety check said no.
    Refused,
    /// Another process holds the store.
    Locked,
    /// A mistake of ours.
    Bug,
}

/// What went wrong. The text is for a person who runs the server: it names the file and the cure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The RocksDB lock is taken.
    #[error(
        "another process holds the store {dir}: stop the other quarry that uses this folder, or give this one a folder of its own"
    )]
    Locked {
        /// The store's folder.
        dir: PathBuf,
    },
    /// Written by a later release.
    #[error(
        "the store {dir} has format {found}, and this program knows formats up to {known}: use a newer quarry, or move the folder away and rebuild with `quarry build`"
    )]
    NewerFormat {
        /// The store's folder.
        dir: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// Partition files without a catalog that names them.
    #[error(
        "the store {dir} has {files} partition files and no catalog: bring its catalog folder back, or make a new catalog from the files with `quarry fsck --repair`; nothing was changed"
    )]
    MissingCatalog {
        /// The store's folder.
        dir: PathBuf,
        /// How many files.
        files: usize,
    },
    /// There is no store to look at.
    #[error("there is no store in {dir}: build something first, or name another folder")]
    NoStore {
        /// The folder.
        dir: PathBuf,
    },
    /// A folder that must be new or empty is not.
    #[error("the folder {dir} is not empty: name one that is empty or does not exist yet; nothing was changed")]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
    },
    /// A folder that is no whole backup.
    #[error("{dir} is not a whole backup ({fault}): take another one; nothing was restored")]
    BadBackup {
        /// The folder.
        dir: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// The store changed faster than it could be copied.
    #[error("files of the store {dir} went away while they were copied, {tries} times over: try again")]
    Unsteady {
        /// The store's folder.
        dir: PathBuf,
        /// How often it was tried.
        tries: usize,
    },
    /// The disk is full, or the quota is used up.
    #[error("no space left to {action} {path}: free some space, then try again")]
    Full {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A file or folder cannot be used.
    #[error("cannot {action} {path}: {source}; {}", cure(source.kind()))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The catalog cannot be used.
    #[error("cannot {action} the catalog {dir}: {source}; look after the disk, then try again")]
    Catalog {
        /// What was tried.
        action: &'static str,
        /// The catalog's folder.
        dir: PathBuf,
        /// What RocksDB said.
        #[source]
        source: rocksdb::Error,
    },
    /// RocksDB found damage.
    #[error(
        "the catalog {dir} is damaged ({source}): restore a backup, or make a new one from the partition files with `quarry fsck --repair`"
    )]
    CorruptCatalog {
        /// The catalog's folder.
        dir: PathBuf,
        /// What RocksDB said.
        #[source]
        source: rocksdb::Error,
    },
    /// A record of the catalog is not what we wrote.
    #[error(
        "the {record} record in the catalog {dir} is damaged ({fault}): restore a backup, or make a new one from the partition files with `quarry fsck --repair`"
    )]
    CorruptRecord {
        /// The catalog's folder.
        dir: PathBuf,
        /// Which record.
        record: String,
        /// What is wrong with it.
        #[source]
        fault: RecordFault,
    },
    /// A file is not what was written.
    #[error("the file {path} of {partition} is damaged ({fault}): rebuild the partition with `quarry build`")]
    CorruptFile {
        /// The file.
        path: PathBuf,
        /// Its partition.
        partition: PartitionKey,
        /// What is wrong with it.
        fault: String,
    },
    /// Rows cannot be encoded.
    #[error("cannot encode rows of {path}: {source}")]
    Encode {
        /// The file.
        path: PathBuf,
        /// What the encoder said.
        #[source]
        source: ParquetError,
    },
    /// A batch of other columns than the file's.
    #[error("rows for {path} have the columns ({found}), not ({expected})")]
    Schema {
        /// The file.
        path: PathBuf,
        /// The file's columns.
        expected: String,
        /// The batch's columns.
        found: String,
    },
    /// The time column is not there, or not of a time type.
    #[error("the time column `{column}` of {partition} is {fault}")]
    TimeColumn {
        /// The partition.
        partition: PartitionKey,
        /// The column.
        column: String,
        /// What is wrong with it.
        fault: String,
    },
    /// A bucket without a moment inside, or from the beginning of time, which stands for "no bucket".
    #[error("the bucket of {0} is not a range of time")]
    BadBucket(PartitionKey),
    /// The writer failed before; its file is incomplete.
    #[error("the file {0} is incomplete after a failed write: build the partition again")]
    Broken(PathBuf),
    /// A file written for another partition or by another store.
    #[error("the file {path} does not belong to {partition} of this store")]
    ForeignFile {
        /// The file.
        path: PathBuf,
        /// What it was to be published as.
        partition: PartitionKey,
    },
    /// Rows outside of their partition.
    #[error("rows of {partition} lie outside of it, between {min} and {max} (microseconds): nothing was published")]
    OutsideBucket {
        /// The partition.
        partition: PartitionKey,
        /// Least time of the rows.
        min: i64,
        /// Greatest time of the rows.
        max: i64,
    },
    /// Rows without time in a partition of a bucket.
    #[error("{rows} rows of {partition} have no time and so belong to no partition: nothing was published")]
    NullTime {
        /// The partition.
        partition: PartitionKey,
        /// How many.
        rows: u64,
    },
    /// The gate: nothing may replace something.
    #[error(
        "the source gave no rows for {partition}, which has {rows} rows now: the old rows stay; build with the gate open if empty is right"
    )]
    EmptyOverRows {
        /// The partition.
        partition: PartitionKey,
        /// Rows that it has and keeps.
        rows: u64,
    },
    /// The gate: a row count that is hard to believe.
    #[error(
        "the source gave {rows} rows for {partition}, which has {old_rows} rows now; that is outside of the allowed {} to {} times as many: the old rows stay; build with the gate open if the count is right", .band.least, .band.most
    )]
    OutsideBand {
        /// The partition.
        partition: PartitionKey,
        /// Rows of the build.
        rows: u64,
        /// Rows that it has and keeps.
        old_rows: u64,
        /// What is allowed.
        band: RowBand,
    },
    /// Nothing to go back to.
    #[error("{what} has no such version to go back to: `quarry partitions --versions` shows what there is")]
    NoVersion {
        /// The partition or table.
        what: String,
    },
    /// Somebody published, or collected, between the choice of versions and the rollback.
    #[error("{partition} changed while it was rolled back: nothing was changed; look at it and try again")]
    Changed {
        /// The partition.
        partition: PartitionKey,
    },
    /// Two live partitions of a table must not share a moment: its rows would count twice.
    #[error("{partition} overlaps {other}, which is published: another partition size needs another table")]
    Overlap {
        /// The partition to publish.
        partition: PartitionKey,
        /// The one in the way.
        other: PartitionKey,
    },
    /// The job has ended, or was never this partition's.
    #[error("the job {job} does not build {partition} any more: nothing was published")]
    LostLease {
        /// The job.
        job: JobId,
        /// The partition.
        partition: PartitionKey,
    },
    /// Jobs of a group were to be published without this one.
    #[error("{partition} is published with others, and is not there: nothing was published")]
    PartOfGroup {
        /// The partition that is missing.
        partition: PartitionKey,
    },
    /// More jobs than the store keeps waiting.
    #[error("{limit} jobs are waiting or running already: ask again when some have ended")]
    TooManyJobs {
        /// The bound.
        limit: usize,
    },
    /// A thread panicked while it changed the catalog.
    #[error("an earlier panic left the store in doubt: restart the server")]
    Poisoned,
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// Its first byte names a version that we do not know.
    #[error("unknown version {0}")]
    Version(u8),
    /// It ends too early.
    #[error("too short")]
    Short,
    /// It goes on after its end.
    #[error("too long")]
    Long,
    /// A text is not UTF-8, or a name has characters that names do not have.
    #[error("bad text")]
    Text,
    /// A tag byte has no meaning.
    #[error("unknown tag {0}")]
    Tag(u8),
    /// Key and value contradict each other.
    #[error("key and value differ")]
    Key,
}

impl StorageError {
    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Locked { .. } => ErrorKind::Locked,
            Self::Full { .. } => ErrorKind::Full,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorKind::NotFound,
            Self::NoStore { .. } | Self::NoVersion { .. } => ErrorKind::NotFound,
            Self::Io { .. } | Self::TooManyJobs { .. } | Self::Unsteady { .. } => ErrorKind::Transient,
            Self::Catalog { source, .. } => match source.kind() {
                rocksdb::ErrorKind::InvalidArgument | rocksdb::ErrorKind::NotSupported => ErrorKind::Bug,
                _ => ErrorKind::Transient,
            },
            Self::CorruptCatalog { .. }
            | Self::CorruptRecord { .. }
            | Self::CorruptFile { .. }
            | Self::MissingCatalog { .. }
            | Self::BadBackup { .. } => ErrorKind::Corrupt,
            Self::LostLease { .. } | Self::Changed { .. } | Self::PartOfGroup { .. } => ErrorKind::Conflict,
            Self::NewerFormat { .. }
            | Self::OutsideBucket { .. }
            | Self::NullTime { .. }
            | Self::EmptyOverRows { .. }
            | Self::OutsideBand { .. }
            | Self::NotEmpty { .. }
            | Self::Overlap { .. } => ErrorKind::Refused,
            Self::Encode { .. }
            | Self::Schema { .. }
            | Self::TimeColumn { .. }
            | Self::BadBucket(_)
            | Self::Broken(_)
            | Self::ForeignFile { .. }
            | Self::Poisoned => ErrorKind::Bug,
        }
    }

    /// A failed call to the file system; a full disk is told apart.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if is_full(source.kind()) {
            return Self::Full { action, path, source: Box::new(source) };
        }
        Self::Io { action, path, source }
    }

    /// A failed call to the Parquet writer, whose cause may be the disk.
    pub(crate) fn parquet(action: &'static str, path: &Path, source: ParquetError) -> Self {
        let path = path.to_owned();
        match find_io_kind(&source) {
            Some(kind) if is_full(kind) => Self::Full { action, path, source: Box::new(source) },
            Some(kind) => Self::Io { action, path, source: io::Error::new(kind, source) },
            None => Self::Encode { path, source },
        }
    }

    /// A failed call to RocksDB, which tells cases apart by text only.
    pub(crate) fn catalog(action: &'static str, dir: &Path, source: rocksdb::Error) -> Self {
        let text: &str = source.as_ref();
        if text.contains("While lock file") || text.contains("lock hold by current process") {
            // The catalog is a folder of the store.
            return Self::Locked { dir: dir.parent().unwrap_or(dir).to_owned() };
        }
        let dir = dir.to_owned();
        if text.contains("No space left on device") || text.contains("Disk quota exceeded") {
            return Self::Full { action, path: dir, source: Box::new(source) };
        }
        match source.kind() {
            rocksdb::ErrorKind::Corruption => Self::CorruptCatalog { dir, source },
            _ => Self::Catalog { action, dir, source },
        }
    }
}

/// What an operator can do about a fault of the file system.
fn cure(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::PermissionDenied => "give the user of this process the right to do so",
        io::ErrorKind::ReadOnlyFilesystem => "mount the file system for writing",
        io::ErrorKind::NotFound => "bring it back, or rebuild what is lost with `quarry build`",
        _ => "look after the disk, then try again",
    }
}

fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The kind of the first [`io::Error`] in a chain of causes.
fn find_io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: &StorageError, kind: ErrorKind, text: &str) {
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "`{error}` lacks `{text}`");
    }

    #[test]
    fn a_full_disk_is_told_apart_from_other_faults() {
        let path = Path::new("p/x.parquet");
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        check(&StorageError::io("write", path, full()), ErrorKind::Full, "p/x.parquet");
        check(&StorageError::parquet("write", path, full().into()), ErrorKind::Full, "free some space");
        check(&StorageError::io("write", path, io::ErrorKind::QuotaExceeded.into()), ErrorKind::Full, "no space left");
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        check(&StorageError::io("write", path, denied()), ErrorKind::Transient, "cannot write p/x.parquet");
        check(&StorageError::parquet("write", path, denied().into()), ErrorKind::Transient, "cannot write");
        check(&StorageError::parquet("write", path, ParquetError::General("odd".into())), ErrorKind::Bug, "odd");
        check(&StorageError::io("read", path, io::ErrorKind::NotFound.into()), ErrorKind::NotFound, "read");
    }
}
