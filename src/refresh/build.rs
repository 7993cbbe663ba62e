//! Builds the file of one partition: statement → stream → sort → writer.
//!
//! Batches flow from the source through a bounded channel to a blocking thread, which sorts and
//! encodes. At most [`SORT_ROWS`] rows or [`Layout::sort_bytes`] are held for sorting (twice that for the
//! moment of the sort), so the memory of a build has a bound whatever the partition's size.

use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::compute::{SortColumn, cast, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use futures::StreamExt as _;
use quarry_storage::{FinishedFile, JobPhase, PartitionKey, PartitionWriter, Progress, StorageError, Store};
use tokio::sync::mpsc;

use crate::engine::functions::states::STATE_KEY;
use crate::engine::{BatchStream, EngineError};
use crate::tasks::blocking;

/// A partition up to this size is sorted as a whole: one row group of its file.
const SORT_ROWS: usize = 1_000_000;
/// Batches between the source and the encoder.
const CHANNEL_BATCHES: usize = 4;

/// How a partition is laid out in its file.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) key: PartitionKey,
    /// Name of the time column, if any.
    pub(super) time_column: Option<String>,
    /// Whether all times lie inside the partition's bucket, so that the store can check them.
    pub(super) bounded: bool,
    /// Names of the columns to sort by, strongest first.
    pub(super) sort_by: Vec<String>,
    /// Wide rows are sorted in portions of that many bytes.
    pub(super) sort_bytes: usize,
}

/// Why no file was written.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildError {
    /// The source failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The rows cannot be sorted or stored.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
    /// The disk or the catalog failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The statement gave other columns than the rollup has.
    #[error("the build statement gave no column '{0}'")]
    MissingColumn(String),
}

/// Writes the rows of `stream` into a new file, which is complete and synced but not published; calls `report`
/// after every batch. Dropping the future, or an error, leaves no file.
pub(super) async fn write_partition(
    store: &Store,
    stream: BatchStream,
    layout: Layout,
    report: impl Fn(Progress) + Send + 'static,
) -> Result<FinishedFile, BuildError> {
    let (feed, rows) = channel();
    let encoder = Encoder::new(store, &stream.schema, layout)?;
    let encoding = blocking(move || encode(encoder, rows, &report));
    let (fed, encoded) = futures::join!(feed_batches(stream, feed), encoding);
    // The encoder's error comes first: when it fails, the feed merely finds the channel closed.
    let file = encoded?;
    fed?;
    file.ok_or_else(cut_off)
}

/// The feed ended before its end.
pub(super) fn cut_off() -> BuildError {
    BuildError::Engine(EngineError::Execution("the build was cut off".to_owned()))
}

/// A channel for the batches of one statement.
pub(super) fn channel() -> (mpsc::Sender<Feed>, mpsc::Receiver<Feed>) {
    mpsc::channel(CHANNEL_BATCHES)
}

/// What goes through the channel. The end is said, not implied by a closed channel: a feed that was
/// dropped half-way must not look like a small partition.
pub(super) enum Feed {
    Batch(RecordBatch),
    End,
}

pub(super) async fn feed_batches(mut stream: BatchStream, feed: mpsc::Sender<Feed>) -> Result<(), EngineError> {
    while let Some(batch) = stream.batches.next().await {
        if feed.send(Feed::Batch(batch?)).await.is_err() {
            // The encoder gave up and says why.
            return Ok(());
        }
    }
    // As above.
    let _ = feed.send(Feed::End).await;
    Ok(())
}

/// Runs on a blocking thread. None when the feed was cut off; the unfinished file is deleted then.
fn encode(
    mut encoder: Encoder,
    mut rows: mpsc::Receiver<Feed>,
    report: &dyn Fn(Progress),
) -> Result<Option<FinishedFile>, BuildError> {
    // At once: a disk that takes nothing is better known before the rows are made.
    encoder.writer = Some(encoder.open()?);
    while let Some(message) = rows.blocking_recv() {
        match message {
            Feed::Batch(batch) => {
                encoder.push(batch)?;
                report(encoder.progress());
            }
            Feed::End => return Ok(Some(encoder.finish()?)),
        }
    }
    Ok(None)
}

/// The file of a partition in the making: takes rows as they come, writes them sorted. Dropping it leaves no file.
#[derive(Debug)]
pub(super) struct Encoder {
    store: Store,
    layout: Layout,
    sorter: Sorter,
    /// Made when there is something to write, so that what waits for its rows takes no file.
    writer: Option<PartitionWriter>,
    rows: u64,
}

impl Encoder {
    /// For rows of the source's columns.
    pub(super) fn new(store: &Store, source: &Schema, layout: Layout) -> Result<Self, BuildError> {
        let schema = plain_schema(source, layout.time_column.as_deref());
        let sorter = Sorter::new(schema, &layout.sort_by, layout.sort_bytes)?;
        Ok(Self { store: store.clone(), layout, sorter, writer: None, rows: 0 })
    }

    /// Takes rows; writes what is held when that is much.
    pub(super) fn push(&mut self, batch: RecordBatch) -> Result<(), BuildError> {
        self.rows += batch.num_rows() as u64;
        for portion in portions(batch, self.layout.sort_bytes) {
            self.sorter.push(&portion)?;
            if self.sorter.is_full() {
                self.write()?;
            }
        }
        Ok(())
    }

    /// Bytes of the rows that are held.
    pub(super) fn held_bytes(&self) -> usize {
        self.sorter.size_bytes
    }

    /// How far it has come.
    pub(super) fn progress(&self) -> Progress {
        let size_bytes = self.writer.as_ref().map_or(0, PartitionWriter::size_bytes);
        Progress { phase: JobPhase::Writing, rows: self.rows, size_bytes, ..Progress::default() }
    }

    /// The complete file, also of no rows.
    pub(super) fn finish(mut self) -> Result<FinishedFile, BuildError> {
        self.write()?;
        let writer = self.writer.take().map_or_else(|| self.open(), Ok)?;
        Ok(writer.finish()?)
    }

    /// Writes what is held.
    pub(super) fn write(&mut self) -> Result<(), BuildError> {
        let Some(sorted) = self.sorter.take_sorted()? else { return Ok(()) };
        let mut writer = self.writer.take().map_or_else(|| self.open(), Ok)?;
        writer.write(&sorted)?;
        self.writer = Some(writer);
        Ok(())
    }

    fn open(&self) -> Result<PartitionWriter, StorageError> {
        let checked = self.layout.time_column.as_deref().filter(|_| self.layout.bounded);
        self.store.writer(&self.layout.key, Arc::clone(&self.sorter.schema), checked)
    }
}

/// Gathers rows and hands them back sorted.
#[derive(Debug)]
struct Sorter {
    schema: SchemaRef,
    /// Positions of the columns to sort by.
    keys: Vec<usize>,
    most_bytes: usize,
    batches: Vec<RecordBatch>,
    rows: usize,
    size_bytes: usize,
}

impl Sorter {
    fn new(schema: SchemaRef, sort_by: &[String], most_bytes: usize) -> Result<Self, BuildError> {
        let position = |name: &String| {
            let found = schema.column_with_name(name).map(|(position, _)| position);
            found.ok_or_else(|| BuildError::MissingColumn(name.clone()))
        };
        let keys = sort_by.iter().map(position).collect::<Result<_, _>>()?;
        Ok(Self { schema, keys, most_bytes, batches: Vec::new(), rows: 0, size_bytes: 0 })
    }

    /// Takes rows of the source's columns.
    fn push(&mut self, batch: &RecordBatch) -> Result<(), BuildError> {
        let columns = batch.columns().iter().zip(self.schema.fields());
        let columns = columns.map(|(column, field)| cast(column, field.data_type())).collect::<Result<_, _>>()?;
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        self.rows += batch.num_rows();
        self.size_bytes += size_of(&batch)?;
        self.batches.push(batch);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.rows >= SORT_ROWS || self.size_bytes >= self.most_bytes
    }

    /// All rows since the last call, sorted, nulls first; none when there are none.
    fn take_sorted(&mut self) -> Result<Option<RecordBatch>, BuildError> {
        let batches = std::mem::take(&mut self.batches);
        (self.rows, self.size_bytes) = (0, 0);
        if batches.iter().all(|batch| batch.num_rows() == 0) {
            return Ok(None);
        }
        let whole = concat_batches(&self.schema, &batches)?;
        drop(batches);
        if self.keys.is_empty() {
            return Ok(Some(whole));
        }
        let keys: Vec<SortColumn> =
            self.keys.iter().map(|key| SortColumn { values: Arc::clone(whole.column(*key)), options: None }).collect();
        let order = lexsort_to_indices(&keys, None)?;
        Ok(Some(take_record_batch(&whole, &order)?))
    }
}

/// The rows in portions of no more than so many bytes of views, as far as single rows allow: stored columns count
/// their bytes in 31 bits, views in more.
fn portions(batch: RecordBatch, most_bytes: usize) -> Vec<RecordBatch> {
    let rows = batch.num_rows();
    if rows < 2 || wide_bytes(&batch) <= most_bytes {
        return vec![batch];
    }
    let halves = [batch.slice(0, rows / 2), batch.slice(rows / 2, rows - rows / 2)];
    halves.into_iter().flat_map(|half| portions(half, most_bytes)).collect()
}

/// Bytes of the columns of binary views.
fn wide_bytes(batch: &RecordBatch) -> usize {
    let views = batch.columns().iter().filter_map(|column| column.as_binary_view_opt());
    views.flat_map(|column| column.lengths()).map(|length| length as usize).sum()
}

fn size_of(batch: &RecordBatch) -> Result<usize, ArrowError> {
    batch.columns().iter().map(|column| column.to_data().get_slice_memory_size()).sum()
}

/// The columns as stored: no views, dictionaries or metadata of the source's making, but what says of which kind
/// stored states are; all nullable, so that every partition of a table has one schema; the time column in
/// microseconds, as its bounds are.
fn plain_schema(source: &Schema, time_column: Option<&str>) -> SchemaRef {
    let plain = |field: &Arc<Field>| {
        let data_type = if time_column == Some(field.name().as_str()) {
            DataType::Timestamp(TimeUnit::Microsecond, None)
        } else {
            plain_type(field.data_type())
        };
        let state = field.metadata().get(STATE_KEY).map(|kind| (STATE_KEY.to_owned(), kind.clone()));
        Field::new(field.name(), data_type, true).with_metadata(state.into_iter().collect())
    };
    Arc::new(Schema::new(source.fields().iter().map(plain).collect::<Vec<_>>()))
}

fn plain_type(source: &DataType) -> DataType {
    match source {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, value) => plain_type(value),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        ArrayRef, BinaryViewArray, DictionaryArray, Int64Array, StringArray, StringViewArray, TimestampNanosecondArray,
    };
    use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
    use quarry_storage::{Bounds, Gate, Publish, StoreOptions, TableId};

    use super::*;

    /// Rows of a rollup as an engine gives them: views, dictionaries, nanoseconds.
    fn rows(cities: &[Option<&str>], hours: &[i64], counts: &[i64]) -> RecordBatch {
        let kinds: DictionaryArray<Int32Type> = cities.iter().map(|_| "web").collect();
        let columns: [(&str, ArrayRef); 4] = [
            ("city", Arc::new(StringViewArray::from_iter(cities.iter().copied()))),
            ("kind", Arc::new(kinds)),
            ("time", Arc::new(TimestampNanosecondArray::from_iter_values(hours.iter().map(|h| h * 3_600_000_000_000)))),
            ("count", Arc::new(Int64Array::from(counts.to_vec()))),
        ];
        RecordBatch::try_from_iter(columns).expect("columns of one length")
    }

    fn sorter(like: &RecordBatch, sort_by: &[&str]) -> Sorter {
        let names: Vec<String> = sort_by.iter().map(|name| (*name).to_owned()).collect();
        Sorter::new(plain_schema(&like.schema(), Some("time")), &names, 1 << 20).expect("columns that exist")
    }

    #[test]
    fn rows_of_all_batches_are_sorted_by_dimension_then_time() {
        let first = rows(&[Some("Rome"), Some("Bonn"), Some("Rome")], &[2, 9, 1], &[1, 2, 3]);
        let second = rows(&[None, Some("Bonn")], &[5, 3], &[4, 5]);
        let mut sorter = sorter(&first, &["city", "kind", "time"]);
        sorter.push(&first).expect("rows");
        sorter.push(&second).expect("rows");
        let sorted = sorter.take_sorted().expect("sortable").expect("rows");
        assert_eq!(sorted.column(3).as_primitive::<Int64Type>().values(), &[4, 5, 2, 3, 1]);
        let times = sorted.column(2).as_primitive::<TimestampMicrosecondType>();
        assert_eq!(times.values(), &[5, 3, 9, 1, 2].map(|hour| hour * 3_600_000_000));
        assert!(sorter.take_sorted().expect("nothing").is_none(), "rows are handed out once");
    }

    #[test]
    fn stored_columns_are_plain_and_nullable() {
        let schema = plain_schema(&rows(&[], &[], &[]).schema(), Some("time"));
        let types: Vec<&DataType> = schema.fields().iter().map(|field| field.data_type()).collect();
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        assert_eq!(types, [&DataType::Utf8, &DataType::Utf8, &micros, &DataType::Int64]);
        assert!(schema.fields().iter().all(|field| field.is_nullable()));
    }

    #[test]
    fn wide_rows_come_in_portions_and_states_keep_their_kind() {
        let values: BinaryViewArray = [10, 40, 30, 200, 5].map(|length| Some(vec![7_u8; length])).into_iter().collect();
        let state = Field::new("s", DataType::BinaryView, true)
            .with_metadata([(STATE_KEY.to_owned(), "hll/14".to_owned()), ("other".to_owned(), "x".to_owned())].into());
        let schema = Arc::new(Schema::new(vec![state]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(values)]).expect("one column");
        let rows: Vec<usize> = portions(batch, 100).iter().map(RecordBatch::num_rows).collect();
        assert_eq!(rows, [2, 1, 1, 1]);
        let stored = plain_schema(&schema, None);
        assert_eq!(stored.field(0).data_type(), &DataType::Binary);
        let kept: Vec<_> = stored.field(0).metadata().iter().collect();
        assert_eq!(kept, [(&STATE_KEY.to_owned(), &"hll/14".to_owned())]);
    }

    #[test]
    fn a_missing_sort_column_is_an_error() {
        let like = rows(&[], &[], &[]);
        let error = Sorter::new(like.schema(), &["nowhere".to_owned()], 1 << 20).expect_err("no such column");
        assert_eq!(error.to_string(), "the build statement gave no column 'nowhere'");
    }

    #[test]
    fn a_rollup_without_dimensions_keeps_its_one_row() {
        let like = rows(&[Some("Rome")], &[2], &[1]);
        let mut sorter = sorter(&like, &[]);
        sorter.push(&like).expect("rows");
        let whole = sorter.take_sorted().expect("nothing to sort").expect("rows");
        assert_eq!(whole.num_rows(), 1);
        assert_eq!(whole.column(0).as_string::<i32>(), &StringArray::from(vec!["Rome"]));
    }

    fn store(dir: &tempfile::TempDir) -> Store {
        let options = StoreOptions::new(dir.path().to_owned());
        Store::open(options).expect("an empty folder")
    }

    fn layout() -> Layout {
        let table = TableId::new("orders.daily@UTC-0").expect("a name");
        let bucket = Some(Bounds { start: 0, end: 86_400_000_000 });
        Layout {
            key: PartitionKey { table, bucket },
            time_column: Some("time".to_owned()),
            bounded: true,
            sort_by: vec!["city".to_owned(), "time".to_owned()],
            sort_bytes: 1 << 20,
        }
    }

    fn stream(batches: Vec<Result<RecordBatch, EngineError>>) -> BatchStream {
        let schema = rows(&[], &[], &[]).schema();
        BatchStream { schema, batches: futures::stream::iter(batches).boxed() }
    }

    fn files_under(dir: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path());
        entries.map(|path| if path.is_dir() { files_under(&path) } else { 1 }).sum()
    }

    #[tokio::test]
    async fn a_stream_becomes_a_published_partition() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = store(&dir);
        let batches = vec![
            Ok(rows(&[Some("Rome"), None], &[2, 9], &[1, 2])),
            Ok(rows(&[], &[], &[])),
            Ok(rows(&[Some("Bonn")], &[3], &[3])),
        ];
        let file = write_partition(&store, stream(batches), layout(), drop).await.expect("written");
        assert_eq!(file.rows(), 3);
        let publish = Publish {
            key: layout().key,
            file,
            refresh_key: String::new(),
            build_ms: 1,
            jobs: Vec::new(),
            gate: Gate::Open,
        };
        store.publish(publish, 7).expect("published");
        let snapshot = store.snapshot();
        let table = snapshot.table(&layout().key.table).expect("a table");
        let partition = table.partitions.values().next().expect("a partition");
        assert_eq!((partition.rows, partition.bucket), (3, layout().key.bucket));
        assert_eq!(partition.time_bounds, Some((2 * 3_600_000_000, 9 * 3_600_000_000)));
    }

    #[tokio::test]
    async fn no_rows_are_a_partition_too() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = store(&dir);
        let file = write_partition(&store, stream(Vec::new()), layout(), drop).await.expect("written");
        assert_eq!((file.rows(), file.schema().fields().len()), (0, 4));
    }

    #[tokio::test]
    async fn a_source_that_fails_half_way_leaves_no_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = store(&dir);
        let batches =
            vec![Ok(rows(&[Some("Rome")], &[2], &[1])), Err(EngineError::Execution("division by zero".to_owned()))];
        let before = files_under(&dir.path().join("partitions"));
        let error = write_partition(&store, stream(batches), layout(), drop).await.expect_err("the source failed");
        assert_eq!(error.to_string(), "division by zero");
        assert_eq!(files_under(&dir.path().join("partitions")), before);
    }
}
