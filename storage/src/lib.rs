//! Keeps the bytes of rollup partitions and the truth about them: tables, partitions, files, jobs.
//!
//! A store is one folder: a RocksDB catalog in `catalog/` and Parquet files in `partitions/`.
//! Files are written once, under names that are never reused; a partition is replaced by one synced
//! catalog batch followed by the swap of an in-memory [`Snapshot`]. Readers never touch the catalog.
//!
//! Deliberately not here: cubes, SQL, HTTP, DataFusion. A table is a name somebody else gave.
//!
//! Start reading at [`Store::open`].
#![warn(missing_docs, clippy::indexing_slicing)]

mod backup;
mod catalog;
mod error;
mod faults;
mod files;
mod footer;
mod gc;
mod hashing;
mod ids;
mod inspect;
mod live_jobs;
mod progress;
mod publish;
mod queue;
mod recover;
mod repair;
mod rollback;
mod snapshot;
mod store;
mod writer;

pub use backup::{BackupReport, Copying, backup, restore};
pub use error::{ErrorKind, RecordFault, StorageError};
pub use faults::{Fault, Faults};
pub use gc::{Fate, GcFile, GcReport};
pub use ids::{FileId, JobId, PartitionKey, SnapshotId, TableId};
pub use inspect::{CheckReport, Finding, FindingSeverity, Inspection};
pub use progress::{JobPhase, Lease, Progress};
pub use publish::{Gate, Publish};
pub use queue::{CancelOutcome, JobOutput, JobRecord, JobState, NewJob};
pub use repair::{RepairReport, repair};
pub use rollback::{RolledBack, Scope, StoredVersion, VersionChoice};
pub use snapshot::{Bounds, Partition, Snapshot, Table, TableState};
pub use store::{RowBand, Store, StoreOptions};
pub use writer::{FinishedFile, PartitionWriter};
