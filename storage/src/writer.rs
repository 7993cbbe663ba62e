//! Record batches → a Parquet file.
//!
//! The file gets its final name at once: names are never reused, and nothing reads a file that the
//! catalog does not name, so that there is no temporary name and no renaming. It gets its footer at its
//! publish: a file that was never published is told by that (see `footer`).

use std::fs::File;
use std::sync::Arc;

use arrow::array::{Array, ArrowPrimitiveType, AsArray};
use arrow::compute::{max, min};
use arrow::datatypes::{
    DataType, Date32Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use crate::files::Files;
use crate::footer::Footer;
use crate::gc::DoomedFile;
use crate::hashing::{Extent, HashingFile, read_extent};
use crate::{FileId, PartitionKey, StorageError};

/// A partition of ordinary size is one row group, so that a scan has one dictionary a column.
const ROW_GROUP_ROWS: usize = 1_000_000;
/// A file of that many bytes is synced before its publish.
const LARGE_BYTES: u64 = 1 << 20;
/// Small pages let a filter on a sorted dimension skip most of the file.
const PAGE_ROWS: usize = 4096;

/// A file being written; dropping it unfinished deletes it.
#[derive(Debug)]
pub struct PartitionWriter {
    file: FileName,
    schema: SchemaRef,
    /// None after a failed write, as the encoder is in an unknown state then.
    encoder: Option<ArrowWriter<HashingFile>>,
    rows: u64,
    time: Option<TimeSpan>,
}

/// A file with all its rows that waits for its publish; dropping it unpublished deletes it.
#[derive(Debug)]
pub struct FinishedFile {
    pub(crate) file: FileName,
    pub(crate) schema: SchemaRef,
    pub(crate) rows: u64,
    /// All that is written, which is all but the footer.
    pub(crate) data: Extent,
    /// None without time column.
    pub(crate) time: Option<TimeSpan>,
    encoder: ArrowWriter<HashingFile>,
}

/// Which file of which partition; deletes it when dropped.
#[derive(Debug)]
pub(crate) struct FileName {
    pub(crate) key: PartitionKey,
    pub(crate) id: FileId,
    pub(crate) path: DoomedFile,
}

/// What was seen of the time column, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeSpan {
    column: usize,
    pub(crate) bounds: Option<(i64, i64)>,
    pub(crate) nulls: u64,
}

impl PartitionWriter {
    /// Creates the file, which must not exist.
    pub(crate) fn create(
        key: PartitionKey,
        id: FileId,
        files: &Files,
        schema: SchemaRef,
        time_column: Option<&str>,
    ) -> Result<Self, StorageError> {
        let time = time_column.map(|name| TimeSpan::find(&key, &schema, name)).transpose()?;
        let path = files.path(&key, id);
        files.faults().check("create", &path)?;
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|e| StorageError::io("create", &path, e))?;
        let file_name = FileName { key, id, path: DoomedFile::new(path) };
        let encoder = ArrowWriter::try_new(
            HashingFile::new(file_name.path.path(), file, files.faults().clone()),
            Arc::clone(&schema),
            Some(properties()),
        )
        .map_err(|e| StorageError::parquet("write", file_name.path.path(), e))?;
        Ok(Self { file: file_name, schema, encoder: Some(encoder), rows: 0, time })
    }

    /// Appends rows. Their columns are those of the writer's schema, in its order.
    ///
    /// # Errors
    /// The disk is full or the file cannot be written; the writer is of no use then.
    /// Other columns are an error of kind `Bug`, and nothing is written.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), StorageError> {
        let path = self.file.path.path();
        check_columns(path, &self.schema, batch)?;
        let mut encoder = self.encoder.take().ok_or_else(|| StorageError::Broken(path.to_owned()))?;
        encoder.write(batch).map_err(|e| StorageError::parquet("write", path, e))?;
        self.encoder = Some(encoder);
        self.rows += batch.num_rows() as u64;
        if let Some(time) = &mut self.time {
            time.add(batch);
        }
        Ok(())
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes so far, those that wait to be compressed included; 0 after a failed write.
    pub fn size_bytes(&self) -> u64 {
        self.encoder.as_ref().map_or(0, |encoder| (encoder.bytes_written() + encoder.in_progress_size()) as u64)
    }

    /// Writes all rows. A file without rows is a valid one.
    ///
    /// # Errors
    /// As [`PartitionWriter::write`].
    pub fn finish(self) -> Result<FinishedFile, StorageError> {
        let path = self.file.path.path();
        let mut encoder = self.encoder.ok_or_else(|| StorageError::Broken(path.to_owned()))?;
        encoder.flush().map_err(|e| StorageError::parquet("write", path, e))?;
        encoder.sync().map_err(|e| StorageError::io("write", path, e))?;
        // Here and not at the publish, which others wait for. Few bytes are synced with the footer, at one price.
        if encoder.inner().extent().size_bytes >= LARGE_BYTES {
            encoder.inner_mut().sync().map_err(|e| StorageError::io("sync", path, e))?;
        }
        encoder.inner_mut().close();
        Ok(FinishedFile {
            rows: self.rows,
            data: encoder.inner().extent(),
            time: self.time,
            schema: self.schema,
            file: self.file,
            encoder,
        })
    }
}

impl FinishedFile {
    /// Bytes so far; the footer comes at the publish.
    pub fn size_bytes(&self) -> u64 {
        self.data.size_bytes
    }

    /// What is on disk is what was written. Reads the whole file.
    pub(crate) fn check_data(&self) -> Result<(), StorageError> {
        let path = self.file.path.path();
        let mut file = File::open(path).map_err(|e| StorageError::io("open", path, e))?;
        let found = read_extent(&mut file, 0, u64::MAX).map_err(|e| StorageError::io("read", path, e))?;
        if found.size_bytes != self.data.size_bytes {
            return Err(
                self.corrupt(format!("it has {} bytes, and {} were written", found.size_bytes, self.data.size_bytes))
            );
        }
        if found.checksum != self.data.checksum {
            return Err(self.corrupt("its checksum is not that of the bytes written".to_owned()));
        }
        Ok(())
    }

    /// Writes the footer, syncs the file, and reads the footer back; gives the whole file's extent. The file's name is
    /// not synced.
    ///
    /// # Errors
    /// `Full`, `Transient`, or `Corrupt`: the file is of no use then.
    pub(crate) fn seal(&mut self, footer: &Footer) -> Result<Extent, StorageError> {
        let path = self.file.path.path();
        self.encoder.inner_mut().mark();
        footer.to_values().into_iter().for_each(|value| self.encoder.append_key_value_metadata(value));
        // Not `into_inner`, which turns a full disk into mere text.
        self.encoder.finish().map_err(|e| StorageError::parquet("write", path, e))?;
        // Before the catalog is written: a record must never name a file that a power cut can take away.
        self.encoder.inner_mut().sync().map_err(|e| StorageError::io("sync", path, e))?;
        let mut file = File::open(path).map_err(|e| StorageError::io("open", path, e))?;
        let tail = read_extent(&mut file, self.data.size_bytes, u64::MAX);
        let tail = tail.map_err(|e| StorageError::io("read", path, e))?;
        let out = self.encoder.inner();
        if Some(tail.checksum) != out.tail_checksum() {
            return Err(self.corrupt("its footer is not what was written".to_owned()));
        }
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&file).map_err(|e| self.corrupt(e.to_string()))?;
        if Footer::parse(&metadata).as_ref() != Some(footer) {
            return Err(self.corrupt("its footer does not say what it should".to_owned()));
        }
        let rows = metadata.file_metadata().num_rows();
        if u64::try_from(rows) != Ok(self.rows) {
            return Err(self.corrupt(format!("its footer counts {rows} rows, and {} were written", self.rows)));
        }
        Ok(out.extent())
    }

    fn corrupt(&self, fault: String) -> StorageError {
        let path = self.file.path.path().to_owned();
        StorageError::CorruptFile { path, partition: self.file.key.clone(), fault }
    }

    /// Rows in it.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Its columns.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

impl TimeSpan {
    fn find(key: &PartitionKey, schema: &Schema, name: &str) -> Result<Self, StorageError> {
        let fault = |fault: String| StorageError::TimeColumn { partition: key.clone(), column: name.to_owned(), fault };
        let (column, field) = schema.column_with_name(name).ok_or_else(|| fault("not among the columns".to_owned()))?;
        match field.data_type() {
            DataType::Timestamp(..) | DataType::Date32 => Ok(Self { column, bounds: None, nulls: 0 }),
            other => Err(fault(format!("a {other}, not a timestamp or date"))),
        }
    }

    fn add(&mut self, batch: &RecordBatch) {
        let Some(column) = batch.columns().get(self.column) else { return };
        self.nulls += column.null_count() as u64;
        if let Some((low, high)) = micros_bounds(column) {
            self.bounds = Some(self.bounds.map_or((low, high), |(min, max)| (min.min(low), max.max(high))));
        }
    }
}

/// Least and greatest time in microseconds; none when all are null. Nanoseconds are rounded down, which keeps
/// "inside of a bucket" as it is, since buckets start at whole microseconds.
fn micros_bounds(times: &dyn Array) -> Option<(i64, i64)> {
    const DAY: i64 = 86_400_000_000;
    match times.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => {
            bounds_of::<TimestampSecondType>(times, |t| t.saturating_mul(1_000_000))
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            bounds_of::<TimestampMillisecondType>(times, |t| t.saturating_mul(1000))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => bounds_of::<TimestampMicrosecondType>(times, |t| t),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            bounds_of::<TimestampNanosecondType>(times, |t| t.div_euclid(1000))
        }
        DataType::Date32 => bounds_of::<Date32Type>(times, |days| i64::from(days) * DAY),
        _ => None,
    }
}

fn bounds_of<T: ArrowPrimitiveType>(times: &dyn Array, micros: impl Fn(T::Native) -> i64) -> Option<(i64, i64)> {
    let times = times.as_primitive_opt::<T>()?;
    Some((micros(min(times)?), micros(max(times)?)))
}

/// The encoder itself trusts its caller about the columns.
fn check_columns(path: &std::path::Path, schema: &Schema, batch: &RecordBatch) -> Result<(), StorageError> {
    let found = batch.schema_ref();
    let fits = found.fields().len() == schema.fields().len()
        && schema.fields().iter().zip(found.fields()).zip(batch.columns()).all(|((field, found), column)| {
            field.name() == found.name()
                && field.data_type() == found.data_type()
                && (field.is_nullable() || column.null_count() == 0)
        });
    if fits {
        return Ok(());
    }
    let describe = |schema: &Schema| {
        let columns = schema.fields().iter().map(|field| {
            format!("{} {}{}", field.name(), field.data_type(), if field.is_nullable() { "" } else { " not null" })
        });
        columns.collect::<Vec<_>>().join(", ")
    };
    Err(StorageError::Schema { path: path.to_owned(), expected: describe(schema), found: describe(found) })
}

/// Measured in the performance guide, section 5: fast to decode, good at skipping.
fn properties() -> WriterProperties {
    WriterProperties::builder()
        .set_created_by(concat!("quarry ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::LZ4_RAW)
        .set_dictionary_enabled(true)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_statistics_enabled(EnabledStatistics::Page)
        .build()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use arrow::array::{
        ArrayRef, Date32Array, Int64Array, StringArray, TimestampMicrosecondArray, TimestampMillisecondArray,
        TimestampNanosecondArray, TimestampSecondArray,
    };
    use arrow::datatypes::Field;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::basic::PageType;
    use parquet::file::metadata::PageIndexPolicy;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use tempfile::TempDir;

    use super::*;
    use crate::faults::Faults;
    use crate::footer::{Ending, read_ending};
    use crate::{Bounds, ErrorKind, TableId, TableState};

    fn key() -> PartitionKey {
        PartitionKey { table: TableId::new("t").unwrap(), bucket: None }
    }

    fn files(dir: &TempDir) -> Files {
        let files = Files::open(dir.path().to_owned(), Faults::default()).unwrap();
        files.create_folder(&key().table).unwrap();
        files
    }

    fn create(dir: &TempDir, schema: SchemaRef, time_column: Option<&str>) -> Result<PartitionWriter, StorageError> {
        PartitionWriter::create(key(), FileId(1), &files(dir), schema, time_column)
    }

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn finish(dir: &TempDir, batches: &[RecordBatch], time_column: Option<&str>) -> FinishedFile {
        let mut writer = create(dir, batches.first().unwrap().schema(), time_column).unwrap();
        batches.iter().for_each(|batch| writer.write(batch).unwrap());
        writer.finish().unwrap()
    }

    fn seal(file: &mut FinishedFile) -> (Footer, Extent) {
        let state = TableState { range: Some(Bounds { start: -5, end: 5 }), complete: true };
        let footer = Footer {
            key: key(),
            file: FileId(1),
            sequence: 7,
            rows: file.rows,
            data: file.data,
            time_bounds: Some((-1, 2)),
            refresh_key: "a = \"ä\"".to_owned(),
            built_at: -3,
            build_ms: 4,
            held: true,
            state,
        };
        let extent = file.seal(&footer).unwrap();
        (footer, extent)
    }

    fn names(dir: &TempDir) -> usize {
        fs::read_dir(dir.path().join("t")).map_or(0, Iterator::count)
    }

    #[test]
    fn rows_come_back_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let city: ArrayRef = Arc::new(StringArray::from(vec![Some("Köln"), None, Some("")]));
        let batch = batch(vec![("city", city), ("n", Arc::new(Int64Array::from(vec![1, -2, i64::MAX])))]);
        let mut file = finish(&dir, &[batch.clone(), batch.slice(1, 2)], None);
        assert_eq!((file.rows(), file.schema()), (5, batch.schema()));
        file.check_data().unwrap();
        let (_, extent) = seal(&mut file);
        let bytes = fs::read(file.file.path.path()).unwrap();
        assert_eq!(extent.size_bytes, bytes.len() as u64);
        assert_eq!(extent.checksum, xxhash_rust::xxh3::xxh3_64(&bytes));
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(file.file.path.path()).unwrap()).unwrap();
        let read: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
        let read = arrow::compute::concat_batches(&batch.schema(), &read).unwrap();
        let written = arrow::compute::concat_batches(&batch.schema(), &[batch.clone(), batch.slice(1, 2)]).unwrap();
        assert_eq!(read.columns(), written.columns());
    }

    #[test]
    fn a_file_tells_what_it_is_once_it_is_published_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let rows = batch(vec![("n", Arc::new(Int64Array::from(vec![1, 2])) as _)]);
        let mut file = finish(&dir, &[rows], None);
        let path = file.file.path.path().to_owned();
        assert!(matches!(read_ending(&path).unwrap(), Ending::None(_)));
        let (footer, _) = seal(&mut file);
        let Ending::Ours(found) = read_ending(&path).unwrap() else { panic!("no footer of ours") };
        assert_eq!(*found, footer);
        found.check_data(&path).unwrap();
        // A flipped byte among the rows is seen without the catalog.
        let mut bytes = fs::read(&path).unwrap();
        *bytes.get_mut(10).unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(found.check_data(&path).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn files_have_the_layout_that_scans_want() {
        let dir = tempfile::tempdir().unwrap();
        let text: ArrayRef = Arc::new(StringArray::from_iter_values((0..10_000).map(|i| format!("brand {}", i % 50))));
        let mut file = finish(&dir, &[batch(vec![("brand", text)])], None);
        seal(&mut file);
        let path = file.file.path.path();
        let metadata = ParquetMetaDataReader::new()
            .with_page_index_policy(PageIndexPolicy::Required)
            .parse_and_finish(&File::open(path).unwrap())
            .unwrap();
        assert_eq!(metadata.num_row_groups(), 1);
        let column = metadata.row_group(0).column(0);
        assert_eq!(column.compression(), Compression::LZ4_RAW);
        assert!(column.dictionary_page_offset().is_some());
        assert!(column.bloom_filter_offset().is_none());
        let pages = metadata.offset_index().and_then(|index| index.first()?.first()).unwrap().page_locations();
        let starts: Vec<_> = pages.iter().map(|page| page.first_row_index).collect();
        assert_eq!(starts, [0, 4096, 8192]);
        assert!(metadata.column_index().is_some());
        let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
        let types: Vec<_> = reader
            .get_row_group(0)
            .unwrap()
            .get_column_page_reader(0)
            .unwrap()
            .map(|page| page.unwrap().page_type())
            .collect();
        let data = PageType::DATA_PAGE;
        assert_eq!(types, [PageType::DICTIONARY_PAGE, data, data, data]);
    }

    #[test]
    fn a_file_without_rows_is_valid() {
        let dir = tempfile::tempdir().unwrap();
        let empty = batch(vec![("n", Arc::new(Int64Array::from(Vec::<i64>::new())) as _)]);
        let mut file = finish(&dir, &[empty], None);
        seal(&mut file);
        let reader = SerializedFileReader::new(File::open(file.file.path.path()).unwrap()).unwrap();
        assert_eq!((file.rows(), reader.metadata().file_metadata().num_rows()), (0, 0));
    }

    #[track_caller]
    fn check_time(times: ArrayRef, bounds: Option<(i64, i64)>, nulls: u64) {
        let dir = tempfile::tempdir().unwrap();
        let file = finish(&dir, &[batch(vec![("n", Arc::clone(&times)), ("t", times)])], Some("t"));
        assert_eq!(file.time.map(|time| (time.bounds, time.nulls)), Some((bounds, nulls)));
    }

    #[test]
    fn the_time_column_is_tracked_in_microseconds() {
        check_time(Arc::new(TimestampSecondArray::from(vec![3, -1, 2])), Some((-1_000_000, 3_000_000)), 0);
        check_time(Arc::new(TimestampSecondArray::from(vec![i64::MAX])), Some((i64::MAX, i64::MAX)), 0);
        check_time(Arc::new(TimestampMillisecondArray::from(vec![Some(5), None])), Some((5000, 5000)), 1);
        check_time(Arc::new(TimestampMicrosecondArray::from(vec![7, 6])), Some((6, 7)), 0);
        check_time(Arc::new(TimestampMicrosecondArray::from(vec![7]).with_timezone("Europe/Berlin")), Some((7, 7)), 0);
        check_time(Arc::new(TimestampNanosecondArray::from(vec![-1, 1999])), Some((-1, 1)), 0);
        check_time(Arc::new(Date32Array::from(vec![-1, 1])), Some((-86_400_000_000, 86_400_000_000)), 0);
        check_time(Arc::new(Date32Array::from(vec![None, None])), None, 2);
        check_time(Arc::new(Date32Array::from(Vec::<i32>::new())), None, 0);
    }

    #[test]
    fn time_bounds_span_all_batches() {
        let dir = tempfile::tempdir().unwrap();
        let day = |day: i32| batch(vec![("t", Arc::new(Date32Array::from(vec![day])) as _)]);
        let file = finish(&dir, &[day(5), day(-2), day(3)], Some("t"));
        assert_eq!(file.time.unwrap().bounds, Some((-2 * 86_400_000_000, 5 * 86_400_000_000)));
    }

    #[track_caller]
    fn check_refused(result: Result<impl std::fmt::Debug, StorageError>, text: &str) {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bug);
        assert!(error.to_string().contains(text), "{error}");
    }

    #[test]
    fn a_time_column_must_be_there_and_of_a_time_type() {
        let dir = tempfile::tempdir().unwrap();
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        check_refused(create(&dir, Arc::clone(&schema), Some("t")), "`t` of t all is not among the columns");
        check_refused(create(&dir, schema, Some("n")), "a Int64, not a timestamp or date");
        assert_eq!(names(&dir), 0);
    }

    #[test]
    fn rows_with_other_columns_are_refused_and_the_writer_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let mut writer = create(&dir, schema, None).unwrap();
        let number: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let text: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
        let null: ArrayRef = Arc::new(Int64Array::from(vec![None]));
        check_refused(
            writer.write(&batch(vec![("m", Arc::clone(&number))])),
            "(m Int64 not null), not (n Int64 not null)",
        );
        check_refused(writer.write(&batch(vec![("n", text)])), "(n Utf8 not null)");
        check_refused(writer.write(&batch(vec![("n", null)])), "(n Int64), not");
        check_refused(writer.write(&batch(vec![("n", Arc::clone(&number)), ("m", Arc::clone(&number))])), "m Int64");
        writer.write(&batch(vec![("n", number)])).unwrap();
        assert_eq!(writer.rows(), 1);
        assert_eq!(writer.finish().unwrap().rows(), 1);
    }

    #[test]
    fn what_is_not_published_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let rows = batch(vec![("n", Arc::new(Int64Array::from(vec![1])) as _)]);
        let mut writer = create(&dir, rows.schema(), None).unwrap();
        writer.write(&rows).unwrap();
        assert_eq!(names(&dir), 1);
        drop(writer);
        assert_eq!(names(&dir), 0);
        let file = finish(&dir, &[rows], None);
        assert_eq!(names(&dir), 1);
        drop(file);
        assert_eq!(names(&dir), 0);
    }

    #[test]
    fn a_file_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = files(&dir).path(&key(), FileId(1));
        fs::write(&path, "precious").unwrap();
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        assert!(matches!(create(&dir, schema, None), Err(StorageError::Io { .. })));
        assert_eq!(fs::read_to_string(path).unwrap(), "precious");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_breaks_the_writer_but_nothing_else() {
        let device = Path::new("/dev/full");
        let full = || HashingFile::new(device, File::options().write(true).open(device).unwrap(), Faults::default());
        let dir = tempfile::tempdir().unwrap();
        // Random bytes, so that a row group overflows the buffers between us and the disk.
        let numbers = (0..ROW_GROUP_ROWS as u64).map(|i| xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes()).cast_signed());
        let rows = batch(vec![("n", Arc::new(Int64Array::from_iter_values(numbers)) as _)]);
        let mut writer = create(&dir, rows.schema(), None).unwrap();
        writer.encoder = Some(ArrowWriter::try_new(full(), rows.schema(), Some(properties())).unwrap());
        let error = writer.write(&rows).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full);
        check_refused(writer.write(&rows), "incomplete after a failed write");
        check_refused(writer.finish(), "incomplete after a failed write");
        assert_eq!(names(&dir), 0);
        // Few rows reach the disk only at the end.
        let mut writer = create(&dir, rows.schema(), None).unwrap();
        writer.encoder = Some(ArrowWriter::try_new(full(), rows.schema(), Some(properties())).unwrap());
        writer.write(&rows.slice(0, 3)).unwrap();
        assert_eq!(writer.finish().unwrap_err().kind(), ErrorKind::Full);
        assert_eq!(names(&dir), 0);
    }
}
