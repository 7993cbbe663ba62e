//! What a partition file says about itself, in the key-value metadata of its Parquet footer.
//!
//! A file gets its footer at its publish and not before: under the store's lock, after every check has said
//! yes, and before the catalog batch. So without the catalog, from the files alone:
//!
//! - A file without a footer was never published: its build was cut off, refused, or cancelled.
//! - A file with a footer was published, or the process stopped between its footer and its batch. Its publish
//!   had been decided then and nobody had been told otherwise, so that either answer is right.
//! - Of several files of one partition the one with the greatest sequence is live. The sequence is the id of the
//!   snapshot that the publish made; the lock is held from taking it to the batch, it grows with every attempt,
//!   and none is given twice. A rollback writes a new file with a sequence of its own, so it is no exception.
//! - The state of a table is the one in its file with the greatest sequence. It may have been replaced since
//!   without a publish; then it is an older truth about the same source, and the next look renews it.
//!
//! Files of the store's format 1 do not have these values.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use parquet::file::metadata::{KeyValue, ParquetMetaData, ParquetMetaDataReader};

use crate::hashing::{Extent, read_extent};
use crate::{Bounds, FileId, PartitionKey, StorageError, TableId, TableState};

/// The version of the set of values below.
const VERSION: &str = "1";

/// All that the catalog knows of a published partition and its table, but the checksum of the whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) key: PartitionKey,
    pub(crate) file: FileId,
    /// The snapshot that the publish made.
    pub(crate) sequence: u64,
    pub(crate) rows: u64,
    /// All bytes before the footer.
    pub(crate) data: Extent,
    pub(crate) time_bounds: Option<(i64, i64)>,
    pub(crate) refresh_key: String,
    pub(crate) built_at: i64,
    pub(crate) build_ms: u64,
    pub(crate) held: bool,
    /// The table's state at the publish.
    pub(crate) state: TableState,
}

/// What is at the end of a file.
#[derive(Debug)]
pub(crate) enum Ending {
    /// Our footer.
    Ours(Box<Footer>),
    /// A Parquet footer without our values: of format 1, or not of ours.
    Foreign,
    /// No footer that can be read, and why.
    None(String),
}

impl Footer {
    /// As key-value metadata.
    pub(crate) fn to_values(&self) -> Vec<KeyValue> {
        let pair = |(start, end): (i64, i64)| format!("{start}..{end}");
        let bounds = |bounds: Option<Bounds>| bounds.map(|bounds| pair((bounds.start, bounds.end)));
        let values = [
            ("format", Some(VERSION.to_owned())),
            ("table", Some(self.key.table.to_string())),
            ("bucket", bounds(self.key.bucket)),
            ("file", Some(self.file.to_string())),
            ("sequence", Some(self.sequence.to_string())),
            ("rows", Some(self.rows.to_string())),
            ("data_bytes", Some(self.data.size_bytes.to_string())),
            ("data_checksum", Some(format!("{:016x}", self.data.checksum))),
            ("time_bounds", self.time_bounds.map(pair)),
            ("refresh_key", Some(self.refresh_key.clone())),
            ("built_at", Some(self.built_at.to_string())),
            ("build_ms", Some(self.build_ms.to_string())),
            ("held", Some(self.held.to_string())),
            ("table_range", bounds(self.state.range)),
            ("table_complete", Some(self.state.complete.to_string())),
        ];
        let given = values.into_iter().filter_map(|(name, value)| Some((name, value?)));
        given.map(|(name, value)| KeyValue::new(format!("quarry.{name}"), value)).collect()
    }

    /// Reads what [`Footer::to_values`] made.
    pub(crate) fn parse(metadata: &ParquetMetaData) -> Option<Self> {
        let pairs = metadata.file_metadata().key_value_metadata()?;
        let values: HashMap<&str, &str> =
            pairs.iter().filter_map(|pair| Some((pair.key.strip_prefix("quarry.")?, pair.value.as_deref()?))).collect();
        let text = |name: &str| values.get(name).copied();
        if text("format")? != VERSION {
            return None;
        }
        // Absent is a value of its own; present and unreadable is not ours.
        let pair = |name: &str| match text(name) {
            None => Some(None),
            Some(value) => {
                let (start, end) = value.split_once("..")?;
                Some(Some((start.parse().ok()?, end.parse().ok()?)))
            }
        };
        let bounds = |name: &str| Some(pair(name)?.map(|(start, end)| Bounds { start, end }));
        let hex = |name: &str| u64::from_str_radix(text(name)?, 16).ok();
        Some(Self {
            key: PartitionKey { table: TableId::new(text("table")?)?, bucket: bounds("bucket")? },
            file: FileId(hex("file")?),
            sequence: text("sequence")?.parse().ok()?,
            rows: text("rows")?.parse().ok()?,
            data: Extent { size_bytes: text("data_bytes")?.parse().ok()?, checksum: hex("data_checksum")? },
            time_bounds: pair("time_bounds")?,
            refresh_key: text("refresh_key")?.to_owned(),
            built_at: text("built_at")?.parse().ok()?,
            build_ms: text("build_ms")?.parse().ok()?,
            held: text("held")?.parse().ok()?,
            state: TableState { range: bounds("table_range")?, complete: text("table_complete")?.parse().ok()? },
        })
    }

    /// Reads the whole file and compares it with what the footer says of it.
    ///
    /// # Errors
    /// `Corrupt` when they differ, or what the file system says.
    pub(crate) fn check_data(&self, path: &Path) -> Result<(), StorageError> {
        let mut file = File::open(path).map_err(|e| StorageError::io("open", path, e))?;
        let found = read_extent(&mut file, 0, self.data.size_bytes).map_err(|e| StorageError::io("read", path, e))?;
        if found != self.data {
            let fault = "its rows are not what its footer says".to_owned();
            return Err(StorageError::CorruptFile { path: path.to_owned(), partition: self.key.clone(), fault });
        }
        Ok(())
    }
}

/// Looks at the end of a file; reads no rows.
///
/// # Errors
/// What the file system says.
pub(crate) fn read_ending(path: &Path) -> Result<Ending, StorageError> {
    let file = File::open(path).map_err(|e| StorageError::io("open", path, e))?;
    Ok(match ParquetMetaDataReader::new().parse_and_finish(&file) {
        Err(error) => Ending::None(error.to_string()),
        Ok(metadata) => match Footer::parse(&metadata) {
            Some(footer) if u64::try_from(metadata.file_metadata().num_rows()) == Ok(footer.rows) => {
                Ending::Ours(Box::new(footer))
            }
            Some(_) => Ending::None("its footer contradicts itself".to_owned()),
            None => Ending::Foreign,
        },
    })
}
