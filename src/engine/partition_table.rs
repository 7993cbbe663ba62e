//! Pinned partitions of a rollup seen as one DataFusion table.
//!
//! The files are chosen and their schema is known before: nothing is listed and nothing inferred here.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use chrono::DateTime;
use datafusion::catalog::memory::{MemoryCatalogProvider, MemorySchemaProvider};
use datafusion::catalog::{CatalogProvider, SchemaProvider, Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{Result, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use object_store::ObjectMeta;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use quarry_storage::Partition;

use super::error::{EngineError, PartitionFileError};
use super::session::SCHEMA;

/// Rows from which a scan is worth several threads.
pub(super) const PARALLEL_ROWS: u64 = 100_000;

/// Bytes read at the end of a file in the hope that they hold the whole footer.
const FOOTER_BYTES: usize = 64 * 1024;

/// One Parquet file of a partition. Its name is never used for other content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// Its exact number of rows.
    pub rows: u64,
}

impl PartitionFile {
    /// The file of a partition.
    pub fn of(partition: &Partition) -> Self {
        Self { path: partition.path.clone(), size_bytes: partition.size_bytes, rows: partition.rows }
    }
}

/// A table over Parquet files that are already chosen.
#[derive(Debug, Clone)]
pub struct PartitionTable {
    schema: SchemaRef,
    files: Vec<PartitionFile>,
}

impl PartitionTable {
    /// Over `files`, each with the columns of `schema`; no files make an empty table.
    pub fn new(schema: SchemaRef, files: Vec<PartitionFile>) -> Self {
        Self { schema, files }
    }

    /// Number of rows of all files.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.rows).sum()
    }

    /// The first file that cannot be read to its end. Reads everything: for the moment after a failure.
    pub(super) fn find_broken_file(&self) -> Option<PartitionFileError> {
        self.files.iter().find_map(|file| {
            let cause = read_all(&file.path).err()?;
            let file = file.path.file_name().unwrap_or(file.path.as_os_str()).to_string_lossy().into_owned();
            Some(PartitionFileError { file, cause })
        })
    }

    /// Files in as many groups as there are threads to use.
    fn groups(&self, threads: usize) -> Result<Vec<FileGroup>> {
        let files = self.files.iter().filter(|file| file.rows > 0);
        let files = files.map(|file| self.partitioned_file(file)).collect::<Result<Vec<_>>>()?;
        let group = FileGroup::new(files);
        if threads <= 1 || self.rows() < PARALLEL_ROWS { Ok(vec![group]) } else { Ok(group.split_files(threads)) }
    }

    fn partitioned_file(&self, file: &PartitionFile) -> Result<PartitionedFile> {
        let location = object_store::path::Path::from_absolute_path(std::path::absolute(&file.path)?)
            .map_err(|error| datafusion::error::DataFusionError::ObjectStore(Box::new(error.into())))?;
        // The name stands for the content, so cached footers never go stale and the time does not matter.
        let meta = ObjectMeta {
            location,
            last_modified: DateTime::UNIX_EPOCH,
            size: file.size_bytes,
            e_tag: None,
            version: None,
        };
        Ok(PartitionedFile::new_from_meta(meta).with_statistics(Arc::new(self.statistics_of([file]))))
    }

    fn statistics_of<'a>(&self, files: impl IntoIterator<Item = &'a PartitionFile>) -> Statistics {
        let (rows, bytes) =
            files.into_iter().fold((0_u64, 0_u64), |(rows, bytes), file| (rows + file.rows, bytes + file.size_bytes));
        let count = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        Statistics {
            num_rows: Precision::Exact(count(rows)),
            total_byte_size: Precision::Inexact(count(bytes)),
            ..Statistics::new_unknown(&self.schema)
        }
    }
}

#[async_trait]
impl TableProvider for PartitionTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        // Filters arrive later, as physical expressions pushed into the source, and rule out row groups and pages.
        let store_url = ObjectStoreUrl::local_filesystem();
        let runtime = state.runtime_env();
        let reader = CachedParquetFileReaderFactory::new(
            runtime.object_store(&store_url)?,
            runtime.cache_manager.get_file_metadata_cache(),
        );
        let source = ParquetSource::new(Arc::clone(&self.schema))
            .with_table_parquet_options(state.table_options().parquet.clone())
            .with_parquet_file_reader_factory(Arc::new(reader))
            .with_metadata_size_hint(FOOTER_BYTES)
            .with_pushdown_filters(false);
        let config = FileScanConfigBuilder::new(store_url, Arc::new(source))
            .with_file_groups(self.groups(state.config().target_partitions())?)
            .with_statistics(self.statistics_of(&self.files))
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    fn statistics(&self) -> Option<Statistics> {
        Some(self.statistics_of(&self.files))
    }
}

/// A catalog with one table: `SELECT … FROM name`.
pub fn single_table_catalog(name: &str, table: Arc<dyn TableProvider>) -> Arc<dyn CatalogProvider> {
    tables_catalog(vec![(name.to_owned(), table)])
}

/// A catalog with some tables, by name.
pub fn tables_catalog(tables: Vec<(String, Arc<dyn TableProvider>)>) -> Arc<dyn CatalogProvider> {
    let schema = MemorySchemaProvider::new();
    let catalog = MemoryCatalogProvider::new();
    // Registrations fail only for names that are taken, and everything here is new.
    for (name, table) in tables {
        let _new = schema.register_table(name, table);
    }
    let _new = catalog.register_schema(SCHEMA, Arc::new(schema));
    Arc::new(catalog)
}

/// A catalog with one more schema, which hides one of the same name.
pub fn with_schema(
    catalog: Arc<dyn CatalogProvider>,
    name: &str,
    tables: Vec<(String, Arc<dyn TableProvider>)>,
) -> Arc<dyn CatalogProvider> {
    let schema = MemorySchemaProvider::new();
    for (name, table) in tables {
        // As in `tables_catalog`.
        let _new = schema.register_table(name, table);
    }
    Arc::new(WithSchema { catalog, name: name.to_owned(), schema: Arc::new(schema) })
}

#[derive(Debug)]
struct WithSchema {
    catalog: Arc<dyn CatalogProvider>,
    name: String,
    schema: Arc<dyn SchemaProvider>,
}

impl CatalogProvider for WithSchema {
    fn schema_names(&self) -> Vec<String> {
        self.catalog.schema_names()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        if name == self.name { Some(Arc::clone(&self.schema)) } else { self.catalog.schema(name) }
    }
}

/// The schema that a Parquet file was written with.
///
/// # Errors
/// The file is missing or not Parquet: [`EngineError::Execution`].
pub fn read_schema(path: &Path) -> Result<SchemaRef, EngineError> {
    // Without what the file says of itself, which differs from file to file.
    open(path).map(|reader| Arc::new(Schema::new(reader.schema().fields().clone()))).map_err(|cause| {
        let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        EngineError::Execution(PartitionFileError { file, cause }.to_string())
    })
}

fn open(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>, String> {
    let file = File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "it is missing".to_owned(),
        kind => kind.to_string(),
    })?;
    ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| format!("it is damaged: {error}"))
}

fn read_all(path: &Path) -> Result<(), String> {
    let reader = open(path)?.build().map_err(|error| format!("it is damaged: {error}"))?;
    for batch in reader {
        batch.map_err(|error| format!("it is damaged: {error}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use arrow::record_batch::RecordBatch;
    use parquet::arrow::ArrowWriter;

    use super::*;
    use crate::engine::testing::{engine, rows};

    struct Store {
        folder: tempfile::TempDir,
    }

    impl Store {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap() }
        }

        /// Writes `id = start..start + rows` and `half = id / 2`.
        fn write(&self, name: &str, start: i64, rows: i64) -> PartitionFile {
            let path = self.folder.path().join(name);
            let ids: ArrayRef = Arc::new((start..start + rows).collect::<Int64Array>());
            let halves: ArrayRef = Arc::new((start..start + rows).map(|id| id / 2).collect::<Int64Array>());
            let batch = RecordBatch::try_from_iter(vec![("id", ids), ("half", halves)]).unwrap();
            let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
            let size_bytes = std::fs::metadata(&path).unwrap().len();
            PartitionFile { path, size_bytes, rows: rows.unsigned_abs() }
        }
    }

    fn catalog(files: &[PartitionFile]) -> Arc<dyn CatalogProvider> {
        let schema = read_schema(&files[0].path).unwrap();
        single_table_catalog("rollup", Arc::new(PartitionTable::new(schema, files.to_vec())))
    }

    fn run(sql: &str, files: &[PartitionFile]) -> Result<Vec<String>, EngineError> {
        tokio::runtime::Runtime::new().unwrap().block_on(rows(&engine(), sql, catalog(files)))
    }

    #[test]
    fn files_are_one_table() {
        let store = Store::new();
        let files = [store.write("a.parquet", 0, 10), store.write("b.parquet", 10, 5), store.write("c.parquet", 0, 0)];
        let check = |sql: &str, expected: &[&str]| assert_eq!(run(sql, &files).unwrap(), expected, "{sql}");
        check("SELECT count(*), exact_sum(id), max(half) FROM rollup", &["15|105|7"]);
        check("SELECT half FROM rollup WHERE id = 12", &["6"]);
        check("SELECT id FROM rollup WHERE id > 8 ORDER BY id DESC LIMIT 2", &["14", "13"]);
        check("SELECT count(*) FROM (SELECT id FROM rollup LIMIT 12) AS l", &["12"]);
        check("SELECT count(*) FROM public.rollup WHERE half = 3 AND id < 7", &["1"]);
        check("SELECT half, count(*) FROM rollup GROUP BY half ORDER BY 2, 1 LIMIT 1", &["7|1"]);
        let schema = read_schema(&files[0].path).unwrap();
        let empty = single_table_catalog("rollup", Arc::new(PartitionTable::new(schema, vec![])));
        let found = tokio::runtime::Runtime::new().unwrap().block_on(rows(
            &engine(),
            "SELECT count(*), exact_sum(id) FROM rollup",
            empty,
        ));
        assert_eq!(found.unwrap(), ["0|NULL"]);
    }

    #[test]
    fn counts_come_from_what_is_known_and_filters_reach_the_scan() {
        let store = Store::new();
        let files = [store.write("a.parquet", 0, 10), store.write("b.parquet", 100, 10)];
        let plan = |sql: &str| run(&format!("EXPLAIN FORMAT INDENT {sql}"), &files).unwrap().join("\n");
        assert!(!plan("SELECT count(*) FROM rollup").contains("DataSourceExec"));
        let filtered = plan("SELECT half FROM rollup WHERE id = 5");
        assert!(filtered.contains("predicate=id@0 = 5") && filtered.contains("FilterExec"), "{filtered}");
        assert!(filtered.contains("file_groups={1 group"), "{filtered}");
        assert!(!plan("SELECT half, count(*) FROM rollup GROUP BY half").contains("RepartitionExec"));
    }

    #[test]
    fn large_tables_use_every_thread() {
        let store = Store::new();
        let files = [store.write("a.parquet", 0, 60_000), store.write("b.parquet", 60_000, 60_000)];
        let plan = run("EXPLAIN FORMAT INDENT SELECT half, exact_sum(id) FROM rollup GROUP BY half", &files)
            .unwrap()
            .join("\n");
        assert!(plan.contains("file_groups={2 groups"), "{plan}");
        assert_eq!(
            run("SELECT exact_sum(id), count(DISTINCT half) FROM rollup", &files).unwrap(),
            ["7199940000|60000"]
        );
    }

    #[test]
    fn broken_files_are_named() {
        let store = Store::new();
        let files = [store.write("a.parquet", 0, 10), store.write("b.parquet", 10, 50_000)];
        let sql = "SELECT exact_sum(id), exact_sum(half) FROM rollup";
        let error = |files: &[PartitionFile]| match run(sql, files) {
            Err(EngineError::Execution(text)) => text,
            other => format!("{other:?}"),
        };
        let mut bytes = std::fs::read(&files[1].path).unwrap();
        // The header of the first page. Damage inside a page goes unnoticed: pages carry no checksums.
        bytes[4..40].fill(0xff);
        std::fs::write(&files[1].path, &bytes).unwrap();
        let text = error(&files);
        assert!(text.starts_with("partition file \"b.parquet\" cannot be read (it is damaged: "), "{text}");
        std::fs::write(&files[1].path, &bytes[..bytes.len() - 100]).unwrap();
        let text = error(&files);
        assert!(text.starts_with("partition file \"b.parquet\" cannot be read (it is damaged: "), "{text}");
        std::fs::remove_file(&files[1].path).unwrap();
        assert_eq!(error(&files), "partition file \"b.parquet\" cannot be read (it is missing): rebuild the partition");
        let missing = read_schema(&files[1].path).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "partition file \"b.parquet\" cannot be read (it is missing): rebuild the partition"
        );
    }

    #[test]
    fn a_file_that_vanishes_after_its_footer_was_kept_is_named() {
        let store = Store::new();
        let files = [store.write("a.parquet", 0, 10)];
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let engine = engine();
        let sql = "SELECT exact_sum(id) FROM rollup";
        let catalog = catalog(&files);
        assert_eq!(runtime.block_on(rows(&engine, sql, Arc::clone(&catalog))).unwrap(), ["45"]);
        std::fs::remove_file(&files[0].path).unwrap();
        let error = runtime.block_on(rows(&engine, sql, catalog)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "partition file \"a.parquet\" cannot be read (it is missing): rebuild the partition"
        );
    }
}
