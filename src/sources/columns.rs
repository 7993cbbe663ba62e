//! The columns of data files: inferred once a state of the file, and joined over the files of a folder.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::plan_datafusion_err;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::arrow::ArrowFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::error::Result;
use datafusion::execution::cache::cache_manager::FileStatisticsCache;
use datafusion::execution::{SessionState, SessionStateBuilder};
use object_store::{ObjectStore, ObjectStoreExt as _};

use super::folder::{Compression, DataFile, Format, Kind, Stamp};
use crate::engine::pinned_files::PinnedFiles;

/// Rows of a text file that types are inferred from. A later row that does not fit fails the statement, so
/// this is generous; the result is kept until the file changes.
const INFERENCE_ROWS: usize = 1_000_000;

/// Files whose columns are kept.
const KEPT_FILES: usize = 10_000;

/// What is known of a file's content.
#[derive(Debug, Clone)]
pub(super) struct FileColumns {
    pub(super) schema: SchemaRef,
    /// The file is one JSON array instead of a value a line.
    pub(super) json_array: bool,
}

/// Columns by file, remembered as long as the file is the same.
pub(super) struct ColumnsCache {
    /// What DataFusion's inference wants to be handed.
    state: SessionState,
    known: Mutex<HashMap<PathBuf, (Stamp, FileColumns)>>,
}

impl std::fmt::Debug for ColumnsCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ColumnsCache").finish_non_exhaustive()
    }
}

impl ColumnsCache {
    pub(super) fn new() -> Self {
        Self { state: SessionStateBuilder::new().build(), known: Mutex::default() }
    }

    /// Row counts and ranges of Parquet files, shared by the tables of one catalog.
    pub(super) fn statistics_cache(&self) -> Option<Arc<FileStatisticsCache>> {
        self.state.runtime_env().cache_manager.get_file_statistic_cache()
    }

    /// The columns of `file`.
    ///
    /// # Errors
    /// The file cannot be read as its format.
    pub(super) async fn of(&self, file: &DataFile) -> Result<FileColumns> {
        if let Some((stamp, columns)) = self.lock().get(&file.path)
            && *stamp == file.stamp
        {
            return Ok(columns.clone());
        }
        let columns = self.infer(file).await?;
        let mut known = self.lock();
        if known.len() >= KEPT_FILES {
            known.clear();
        }
        known.insert(file.path.clone(), (file.stamp, columns.clone()));
        Ok(columns)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, (Stamp, FileColumns)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn infer(&self, file: &DataFile) -> Result<FileColumns> {
        let json_array = file.format.kind == Kind::Json && starts_with_bracket(&file.path, file.format.compression)?;
        let store: Arc<dyn ObjectStore> = Arc::new(PinnedFiles::default());
        let location = object_store::path::Path::from_absolute_path(&file.path)
            .map_err(|error| plan_datafusion_err!("{error}"))?;
        let meta = store.head(&location).await?;
        let schema = file_format(file.format, json_array).infer_schema(&self.state, &store, &[meta]).await?;
        Ok(FileColumns { schema: tidy(&schema), json_array })
    }
}

/// The reader of a format.
pub(super) fn file_format(format: Format, json_array: bool) -> Arc<dyn FileFormat> {
    let compression = compression_type(format.compression);
    let csv = |delimiter: u8| {
        CsvFormat::default()
            .with_has_header(true)
            .with_delimiter(delimiter)
            .with_schema_infer_max_rec(INFERENCE_ROWS)
            // Quoted line breaks are legal; splitting a file between threads would cut rows at them.
            .with_newlines_in_values(true)
            .with_file_compression_type(compression)
    };
    match format.kind {
        Kind::Parquet => Arc::new(
            ParquetFormat::default()
                // Writers before 2014 left strings unmarked.
                .with_binary_as_string(true)
                .with_coerce_int96(Some("us".to_owned())),
        ),
        Kind::Csv => Arc::new(csv(b',')),
        Kind::Tsv => Arc::new(csv(b'\t')),
        Kind::Json => Arc::new(
            JsonFormat::default()
                .with_schema_infer_max_rec(INFERENCE_ROWS)
                .with_newline_delimited(!json_array)
                .with_file_compression_type(compression),
        ),
        Kind::Arrow => Arc::new(ArrowFormat),
    }
}

fn compression_type(compression: Compression) -> FileCompressionType {
    match compression {
        Compression::None => FileCompressionType::UNCOMPRESSED,
        Compression::Gzip => FileCompressionType::GZIP,
        Compression::Zstd => FileCompressionType::ZSTD,
    }
}

/// Whether the first character of a JSON file is `[`.
fn starts_with_bracket(path: &Path, compression: Compression) -> Result<bool> {
    let reader = compression_type(compression).convert_read(BufReader::new(File::open(path)?))?;
    for byte in BufReader::new(reader).bytes() {
        match byte {
            Ok(byte) if byte.is_ascii_whitespace() || b"\xef\xbb\xbf".contains(&byte) => {}
            Ok(byte) => return Ok(byte == b'['),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// A byte order mark is no part of the first name, and any column may hold nothing.
fn tidy(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().enumerate().map(|(index, field)| {
        let name = if index == 0 { field.name().trim_start_matches('\u{feff}') } else { field.name() };
        Field::new(name, field.data_type().clone(), true)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The schema of a table: columns of which no value was seen are text.
pub(super) fn with_text_for_unknown(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Null => Field::new(field.name(), DataType::Utf8, true),
        _ => field.as_ref().clone(),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// One schema for files of one format; none when their columns differ. Where the same column was read as
/// different types, the type that holds both.
pub(super) fn join_columns<'a>(kind: Kind, schemas: impl IntoIterator<Item = &'a SchemaRef>) -> Option<SchemaRef> {
    let mut schemas = schemas.into_iter();
    let first = Arc::clone(schemas.next()?);
    schemas.try_fold(first, |joined, schema| {
        if joined == *schema {
            return Some(joined);
        }
        if joined.fields().len() != schema.fields().len() {
            return None;
        }
        let fields = joined.fields().iter().enumerate().map(|(index, field)| {
            let (position, other) = schema.fields().find(field.name())?;
            // These are read by position, so another order would mix the columns up.
            let by_position = matches!(kind, Kind::Csv | Kind::Tsv | Kind::Arrow);
            if by_position && position != index {
                return None;
            }
            let data_type = join_types(kind, field.data_type(), other.data_type())?;
            Some(Field::new(field.name(), data_type, true))
        });
        Some(Arc::new(Schema::new(fields.collect::<Option<Vec<_>>>()?)))
    })
}

fn join_types(kind: Kind, a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{Date32, Float64, Int64, Null, Timestamp, Utf8};
    match (a, b) {
        (Null, other) | (other, Null) => return Some(other.clone()),
        _ if a == b => return Some(a.clone()),
        _ => {}
    }
    match kind {
        Kind::Csv | Kind::Tsv | Kind::Json => Some(match (a, b) {
            (Int64, Float64) | (Float64, Int64) => Float64,
            (Date32, Timestamp(unit, None)) | (Timestamp(unit, None), Date32) => Timestamp(*unit, None),
            (Timestamp(a, None), Timestamp(b, None)) => Timestamp(finer(*a, *b), None),
            _ if a.is_nested() || b.is_nested() => return None,
            _ => Utf8,
        }),
        Kind::Parquet if a.is_signed_integer() && b.is_signed_integer() => Some(Int64),
        Kind::Parquet if a.is_floating() && b.is_floating() => Some(Float64),
        Kind::Parquet | Kind::Arrow => None,
    }
}

fn finer(a: TimeUnit, b: TimeUnit) -> TimeUnit {
    let digits = |unit: TimeUnit| match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    };
    if digits(a) >= digits(b) { a } else { b }
}

/// The type of a partition column: whole numbers, dates, else text.
pub(super) fn partition_type(values: &[String]) -> DataType {
    let is_date = |value: &String| chrono::NaiveDate::parse_from_str(value, "%Y-%m-%d").is_ok() && value.len() == 10;
    if values.iter().all(|value| value.parse::<i64>().is_ok()) {
        DataType::Int64
    } else if values.iter().all(is_date) {
        DataType::Date32
    } else {
        DataType::Utf8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
        Arc::new(Schema::new(
            fields.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true)).collect::<Vec<_>>(),
        ))
    }

    #[track_caller]
    fn check(kind: Kind, a: &[(&str, DataType)], b: &[(&str, DataType)], expected: Option<&[(&str, DataType)]>) {
        assert_eq!(join_columns(kind, [&schema(a), &schema(b)]), expected.map(schema));
    }

    #[test]
    fn columns_of_one_name_join_to_a_type_that_holds_both() {
        use DataType::{Boolean, Date32, Float64, Int32, Int64, Utf8};
        let seconds = DataType::Timestamp(TimeUnit::Second, None);
        check(Kind::Csv, &[("a", Int64)], &[("a", Float64)], Some(&[("a", Float64)]));
        check(Kind::Csv, &[("a", Int64)], &[("a", Boolean)], Some(&[("a", Utf8)]));
        check(Kind::Csv, &[("a", DataType::Null)], &[("a", Int64)], Some(&[("a", Int64)]));
        check(Kind::Json, &[("a", Date32)], &[("a", seconds.clone())], Some(&[("a", seconds)]));
        check(Kind::Csv, &[("a", Int64), ("b", Int64)], &[("b", Int64), ("a", Int64)], None);
        check(
            Kind::Json,
            &[("a", Int64), ("b", Utf8)],
            &[("b", Utf8), ("a", Int64)],
            Some(&[("a", Int64), ("b", Utf8)]),
        );
        check(Kind::Parquet, &[("a", Int64)], &[("a", Int32)], Some(&[("a", Int64)]));
        check(Kind::Parquet, &[("a", Int64)], &[("a", Utf8)], None);
        check(Kind::Parquet, &[("a", Int64)], &[("b", Int64)], None);
        check(Kind::Parquet, &[("a", Int64)], &[("a", Int64), ("b", Int64)], None);
    }

    #[test]
    fn partition_values_have_types() {
        let values =
            |values: &[&str]| partition_type(&values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>());
        assert_eq!(values(&["2024", "01"]), DataType::Int64);
        assert_eq!(values(&["2024-01-01", "2024-12-31"]), DataType::Date32);
        assert_eq!(values(&["2024-01-01", "2024"]), DataType::Utf8);
        assert_eq!(values(&["a"]), DataType::Utf8);
    }
}
