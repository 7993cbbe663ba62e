//! The immutable view of all live partitions that a request takes once and keeps.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::StorageError;
use crate::hashing::{Extent, extent_of};
use crate::ids::{FileId, PartitionKey, SnapshotId, TableId};

/// Half-open `start <= t < end`, microseconds since 1970-01-01T00:00:00.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bounds {
    /// First microsecond inside.
    pub start: i64,
    /// First microsecond after.
    pub end: i64,
}

/// Everything that is live, at one moment. Holding it keeps its files from being deleted.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub(crate) id: u64,
    pub(crate) tables: BTreeMap<TableId, Arc<Table>>,
}

impl Snapshot {
    /// Which state this is.
    pub fn id(&self) -> SnapshotId {
        SnapshotId(self.id)
    }

    /// The table of that name, when anything of it was ever published or planned.
    pub fn table(&self, id: &TableId) -> Option<&Arc<Table>> {
        self.tables.get(id)
    }

    /// The live version of a partition.
    pub fn find(&self, key: &PartitionKey) -> Option<&Arc<Partition>> {
        let found = self.tables.get(&key.table)?.partitions.get(&key.start())?;
        (found.bucket == key.bucket).then_some(found)
    }

    /// All tables, sorted by name.
    pub fn tables(&self) -> impl Iterator<Item = (&TableId, &Arc<Table>)> {
        self.tables.iter()
    }
}

/// The live partitions of one table.
#[derive(Debug, Default, Clone)]
pub struct Table {
    /// What the builder last said about the table as a whole.
    pub state: TableState,
    /// Live partitions by the start of their bucket (`i64::MIN` for the one of an unpartitioned table).
    pub partitions: BTreeMap<i64, Arc<Partition>>,
}

/// What a builder knows about a table as a whole; replaced by [`crate::Store::set_table_state`].
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct TableState {
    /// The range that the table is meant to cover, whole buckets of its local time; none when it is
    /// unpartitioned or not yet known.
    pub range: Option<Bounds>,
    /// The source had no rows outside of `range` (nor without time) when it was looked at.
    pub complete: bool,
}

impl Partition {
    /// Whether the file's bytes are those that were published. Reads the whole file.
    ///
    /// # Errors
    /// The file is missing or cannot be read.
    pub fn is_intact(&self) -> Result<bool, StorageError> {
        Ok(extent_of(&self.path)? == Extent { size_bytes: self.size_bytes, checksum: self.checksum })
    }
}

/// One published partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its bucket in the table's local time; none when the table is unpartitioned.
    pub bucket: Option<Bounds>,
    /// The file that holds it.
    pub file: FileId,
    /// Absolute path of the file.
    pub path: PathBuf,
    /// Rows; 0 for a partition published as empty.
    pub rows: u64,
    /// Bytes of the file.
    pub size_bytes: u64,
    /// XXH3 of the file's bytes.
    pub checksum: u64,
    /// Least and greatest value of the time column, in the table's local time; none without time column or rows.
    pub time_bounds: Option<(i64, i64)>,
    /// The refresh key's value that the build saw.
    pub refresh_key: String,
    /// When it was published, in UTC microseconds.
    pub built_at: i64,
    /// How long the build took, in milliseconds.
    pub build_ms: u64,
    /// The number of the snapshot that its publish made; 0 when it was published under format 1 of the store.
    pub sequence: u64,
    /// An operator went back to this version: only who asks for this partition replaces it, no schedule does.
    pub held: bool,
}
