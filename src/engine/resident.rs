//! Partitions kept decoded in memory, bounded in bytes.
//!
//! Opening a Parquet file costs more than reading a small one (`performance.md` §1), so the partitions of
//! rollups that are asked for stay decoded. A file never changes under its name, so nothing is ever
//! invalidated; a rebuilt partition is another file, and the old one ages out. A file is checked against its
//! recorded length and checksum when it is decoded, or, where it is too large for that, before it is first read from.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::MemTable;
use datafusion::error::Result as PlanResult;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use quarry_storage::{FileId, Partition};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::error::{EngineError, PartitionFileError};
use super::partition_table::PARALLEL_ROWS;
use crate::tasks::blocking;

/// Rows of a decoded batch.
const BATCH_ROWS: usize = 32 * 1024;
/// Files that the cache expects; a hint for its tables.
const EXPECTED_FILES: usize = 1024;
/// How much larger than its file a decoded partition may be; decides before decoding whether it is worth it.
const GROWTH: u64 = 8;
/// Most files that are remembered as whole.
const CHECKED_FILES: usize = 65_536;
/// Bytes read at a time where a file is only checked.
const CHECK_BYTES: usize = 1 << 20;
/// The share of the budget that one query may fill: a scan of everything must not push out what others use.
const QUERY_SHARE: u64 = 4;

/// Decoded partitions; clones share one memory.
#[derive(Debug, Clone)]
pub struct Resident {
    cache: Arc<Cache<FileId, Arc<Decoded>, ByBytes>>,
    /// Files that are read from where they lie, and are what was written.
    checked: Arc<Cache<FileId, ()>>,
    budget_bytes: u64,
}

/// One partition in memory.
#[derive(Debug)]
struct Decoded {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    size_bytes: u64,
}

/// Decoded partitions as one table, whose size is known.
#[derive(Debug)]
pub(super) struct ResidentTable {
    batches: MemTable,
    rows: u64,
}

impl ResidentTable {
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }
}

#[async_trait]
impl TableProvider for ResidentTable {
    fn schema(&self) -> SchemaRef {
        self.batches.schema()
    }

    fn table_type(&self) -> TableType {
        self.batches.table_type()
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        self.batches.scan(state, projection, filters, limit).await
    }
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<FileId, Arc<Decoded>> for ByBytes {
    fn weight(&self, _file: &FileId, decoded: &Arc<Decoded>) -> u64 {
        decoded.size_bytes.max(1)
    }
}

impl Resident {
    /// Holds at most `budget_bytes`.
    pub fn new(budget_bytes: u64) -> Self {
        Self {
            cache: Arc::new(Cache::with_weighter(EXPECTED_FILES, budget_bytes, ByBytes)),
            checked: Arc::new(Cache::new(CHECKED_FILES)),
            budget_bytes,
        }
    }

    /// A table over the partitions, decoded now where they are not yet; none when they are too large to keep
    /// or their columns differ.
    ///
    /// # Errors
    /// A file is missing, cut short or damaged.
    pub async fn table(&self, partitions: &[Arc<Partition>]) -> Result<Option<Arc<dyn TableProvider>>, EngineError> {
        let known: Option<Vec<_>> = partitions.iter().map(|partition| self.cache.get(&partition.file)).collect();
        let decoded = match known {
            Some(decoded) => decoded,
            None => {
                let size_bytes: u64 = partitions.iter().map(|partition| partition.size_bytes).sum();
                if size_bytes.saturating_mul(GROWTH) > self.budget_bytes / QUERY_SHARE {
                    self.check(partitions).await?;
                    return Ok(None);
                }
                let (cache, partitions) = (Arc::clone(&self.cache), partitions.to_vec());
                let decode_all = move || -> Result<Vec<_>, EngineError> {
                    partitions.iter().map(|p| cache.get_or_insert_with(&p.file, || decode(p).map(Arc::new))).collect()
                };
                blocking(decode_all).await?
            }
        };
        let Some(schema) = decoded.first().map(|first| Arc::clone(&first.schema)) else { return Ok(None) };
        // Partitions built before and after a column of the source changed its type differ: those are read from
        // their files, where columns are converted.
        let table = MemTable::try_new(schema, lanes(&decoded)).ok();
        let rows = partitions.iter().map(|partition| partition.rows).sum();
        Ok(table.map(|batches| Arc::new(ResidentTable { batches, rows }) as Arc<dyn TableProvider>))
    }

    /// Checks files that will be read from where they lie; each once, as it costs a pass over it. A flipped bit in
    /// a column that is not compressed would else be a wrong number, and nobody would know.
    async fn check(&self, partitions: &[Arc<Partition>]) -> Result<(), EngineError> {
        let unknown = partitions.iter().filter(|partition| self.checked.get(&partition.file).is_none());
        let unknown: Vec<_> = unknown.cloned().collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let checked = Arc::clone(&self.checked);
        blocking(move || {
            unknown.iter().try_for_each(|partition| {
                let sum = File::open(&partition.path).and_then(|mut file| sum_of(&mut file));
                let (checksum, length) = sum.map_err(|error| unreadable(partition, &error))?;
                compare(partition, length, checksum)?;
                checked.insert(partition.file, ());
                Ok(())
            })
        })
        .await
    }
}

/// The sum over a file's bytes and their number, without holding it in memory.
fn sum_of(file: &mut File) -> io::Result<(u64, u64)> {
    let (mut hasher, mut length, mut portion) = (Xxh3::new(), 0, vec![0; CHECK_BYTES]);
    loop {
        let read = file.read(&mut portion)?;
        if read == 0 {
            return Ok((hasher.digest(), length));
        }
        hasher.update(&portion[..read]);
        length += read as u64;
    }
}

/// The batches, on one lane while they are few: waking a second thread costs more than it saves then.
fn lanes(decoded: &[Arc<Decoded>]) -> Vec<Vec<RecordBatch>> {
    let batches: Vec<RecordBatch> = decoded.iter().flat_map(|one| one.batches.iter().cloned()).collect();
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if rows as u64 <= PARALLEL_ROWS {
        return vec![batches];
    }
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let mut lanes = vec![Vec::new(); count];
    for (position, batch) in batches.into_iter().enumerate() {
        lanes[position % count].push(batch);
    }
    lanes
}

/// What is wrong with the file of a partition.
fn fault_of(partition: &Partition, cause: String) -> EngineError {
    let file = partition.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    EngineError::Execution(PartitionFileError { file, cause }.to_string())
}

fn unreadable(partition: &Partition, error: &io::Error) -> EngineError {
    let missing = error.kind() == io::ErrorKind::NotFound;
    fault_of(partition, if missing { "it is missing".to_owned() } else { error.to_string() })
}

/// That the bytes of a file, by their number and checksum, are those that were published.
fn compare(partition: &Partition, length: u64, checksum: u64) -> Result<(), EngineError> {
    if length == partition.size_bytes && checksum == partition.checksum {
        return Ok(());
    }
    Err(fault_of(partition, "its content is not what was written".to_owned()))
}

fn decode(partition: &Partition) -> Result<Decoded, EngineError> {
    let fault = |cause: String| fault_of(partition, cause);
    let bytes = std::fs::read(&partition.path).map_err(|error| unreadable(partition, &error))?;
    compare(partition, bytes.len() as u64, xxh3_64(&bytes))?;
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes)).map_err(|error| fault(error.to_string()))?;
    // Without what the file says of itself, which differs from file to file.
    let schema: SchemaRef = Arc::new(Schema::new(reader.schema().fields().clone()));
    let reader = reader.with_batch_size(BATCH_ROWS).build().map_err(|error| fault(error.to_string()))?;
    let plain = |batch: RecordBatch| RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec());
    let batches = reader.map(|batch| batch.and_then(plain)).collect::<Result<Vec<RecordBatch>, _>>();
    let batches = batches.map_err(|error| fault(error.to_string()))?;
    let size_bytes = batches.iter().map(|batch| batch.get_array_memory_size() as u64).sum();
    Ok(Decoded { schema, batches, size_bytes })
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field};
    use quarry_storage::{Gate, PartitionKey, Publish, Store, StoreOptions, TableId};

    use super::*;

    fn store(dir: &std::path::Path) -> Store {
        Store::open(StoreOptions::new(dir.to_owned())).expect("a store")
    }

    fn publish(store: &Store, table: &str, numbers: Vec<i64>) -> Arc<Partition> {
        let key = PartitionKey { table: TableId::new(table).expect("a name"), bucket: None };
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(numbers))]).expect("fits");
        let mut writer = store.writer(&key, schema, None).expect("a file");
        writer.write(&batch).expect("written");
        let file = writer.finish().expect("finished");
        let publish = Publish {
            key: key.clone(),
            file,
            refresh_key: String::new(),
            build_ms: 0,
            jobs: Vec::new(),
            gate: Gate::Open,
        };
        store.publish(publish, 0).expect("published");
        let snapshot = store.snapshot();
        let table = snapshot.table(&key.table).expect("the table");
        Arc::clone(table.partitions.values().next().expect("the partition"))
    }

    #[tokio::test]
    async fn what_was_decoded_needs_its_file_no_more() {
        let dir = tempfile::tempdir().expect("a folder");
        let partition = publish(&store(dir.path()), "a.b", vec![1, 2, 3]);
        let resident = Resident::new(1 << 20);
        let partitions = [Arc::clone(&partition)];
        assert!(resident.table(&partitions).await.expect("readable").is_some());
        std::fs::remove_file(&partition.path).expect("deleted");
        assert!(resident.table(&partitions).await.expect("in memory").is_some());
        let stranger = Resident::new(1 << 20);
        let error = stranger.table(&partitions).await.expect_err("the file is gone").to_string();
        assert!(error.contains("it is missing") && error.contains("rebuild the partition"), "{error}");
    }

    #[tokio::test]
    async fn a_flipped_byte_is_an_error_and_not_an_answer() {
        let dir = tempfile::tempdir().expect("a folder");
        let partition = publish(&store(dir.path()), "a.b", (0..1000).collect());
        let mut bytes = std::fs::read(&partition.path).expect("readable");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&partition.path, bytes).expect("writable");
        let error = Resident::new(1 << 20).table(&[partition]).await.expect_err("damaged").to_string();
        assert!(error.contains("not what was written"), "{error}");
    }

    #[tokio::test]
    async fn what_is_too_large_is_left_in_its_file_and_checked_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let partition = publish(&store(dir.path()), "a.b", (0..1000).collect());
        let small = Resident::new(1024);
        assert!(small.table(&[Arc::clone(&partition)]).await.expect("no fault").is_none());
        let mut bytes = std::fs::read(&partition.path).expect("readable");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&partition.path, bytes).expect("writable");
        assert!(small.table(&[Arc::clone(&partition)]).await.expect("checked before").is_none());
        let error = Resident::new(1024).table(&[partition]).await.expect_err("damaged").to_string();
        assert!(error.contains("not what was written") && error.contains("rebuild the partition"), "{error}");
    }
}
