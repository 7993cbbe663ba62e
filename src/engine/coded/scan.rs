//! Scans that read columns as codes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{Result, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfig, FileScanConfigBuilder, FileSource as _, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::SessionState;
use datafusion::physical_expr::utils::{collect_columns, conjunction_opt, split_conjunction};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use object_store::path::Path;
use parquet::arrow::parquet_to_arrow_schema;
use parquet::basic::{Encoding, Type};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};

use super::folds::narrow_type;

/// Files whose footers are looked at.
const MOST_FILES: usize = 4096;

/// What the footers of a scan's files say of their columns.
pub(super) struct Dictionaries {
    /// Columns of texts that all files hold as dictionaries.
    texts: BTreeSet<String>,
    /// Columns of decimals that all files hold in 64 bits or fewer.
    decimals: BTreeSet<String>,
    /// The columns of each file.
    files: HashMap<Path, SchemaRef>,
}

/// Reads the footers of a scan's files, which mostly are in memory; none when they have fewer rows or cannot be read.
pub(super) async fn dictionaries(scan: &FileScanConfig, state: &SessionState, least_rows: u64) -> Option<Dictionaries> {
    let runtime = state.runtime_env();
    let store = runtime.object_store(&scan.object_store_url).ok()?;
    let mut footers: HashMap<Path, Arc<ParquetMetaData>> = HashMap::new();
    for file in scan.file_groups.iter().flat_map(FileGroup::iter) {
        let location = &file.object_meta.location;
        if footers.contains_key(location) {
            continue;
        }
        if footers.len() == MOST_FILES {
            return None;
        }
        let reader = DFParquetMetadata::new(store.as_ref(), &file.object_meta)
            .with_page_index_policy(Some(PageIndexPolicy::Skip))
            .with_file_metadata_cache(Some(runtime.cache_manager.get_file_metadata_cache()));
        footers.insert(location.clone(), reader.fetch_metadata().await.ok()?);
    }
    let rows = footers.values().map(|footer| u64::try_from(footer.file_metadata().num_rows()).unwrap_or(0));
    if rows.sum::<u64>() < least_rows {
        return None;
    }
    let mut files = HashMap::new();
    for (location, footer) in &footers {
        let about = footer.file_metadata();
        let schema = parquet_to_arrow_schema(about.schema_descr(), about.key_value_metadata()).ok()?;
        files.insert(location.clone(), Arc::new(schema));
    }
    let is_text_in_all = |name: &str| {
        files.values().all(|schema| schema.field_with_name(name).is_ok_and(|field| is_text(field.data_type())))
            && footers.values().all(|footer| is_dictionary(footer, name))
    };
    // Of other digits in some file they are another type there.
    let is_narrow_in_all = |field: &Field| {
        let is_same = |file: &SchemaRef| {
            file.field_with_name(field.name()).is_ok_and(|found| found.data_type() == field.data_type())
        };
        narrow_type(field.data_type()).is_some()
            && files.values().all(is_same)
            && footers.values().all(|footer| is_integer(footer, field.name()))
    };
    let fields = || scan.file_schema().fields().iter();
    let texts = fields().map(|field| field.name()).filter(|name| is_text_in_all(name)).cloned().collect();
    let decimals = fields().filter(|field| is_narrow_in_all(field)).map(|field| field.name().clone()).collect();
    Some(Dictionaries { texts, decimals, files })
}

/// Whether a column is stored as integers.
fn is_integer(footer: &ParquetMetaData, name: &str) -> bool {
    let columns = footer.file_metadata().schema_descr().columns();
    let column = columns.iter().find(|column| matches!(column.path().parts(), [part] if part == name));
    column.is_some_and(|column| matches!(column.physical_type(), Type::INT32 | Type::INT64))
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Whether all of a column is stored as a dictionary and numbers, as far as the footer tells.
fn is_dictionary(footer: &ParquetMetaData, name: &str) -> bool {
    footer.row_groups().iter().all(|group| {
        let chunk = group.columns().iter().find(|chunk| matches!(chunk.column_path().parts(), [part] if part == name));
        chunk.is_some_and(|chunk| {
            chunk.dictionary_page_offset().is_some()
                && chunk.page_encoding_stats_mask().is_none_or(|mask| !mask.is_set(Encoding::PLAIN))
        })
    })
}

impl Dictionaries {
    /// Whether a column of the table is read as codes.
    pub(super) fn hold(&self, column: &Field) -> bool {
        match column.data_type() {
            DataType::Date32 => true,
            data_type => is_text(data_type) && self.texts.contains(column.name()),
        }
    }

    /// The type that a column of the table can be read as, if it is stored in fewer bits.
    pub(super) fn narrow(&self, column: &Field) -> Option<DataType> {
        narrow_type(column.data_type()).filter(|_| self.decimals.contains(column.name()))
    }

    /// The scan of these columns of the table: texts that are dictionaries as such, `narrow` ones in fewer bits.
    ///
    /// # Errors
    /// DataFusion's, on columns that the table does not have.
    pub(super) fn scan(
        &self,
        scan: &FileScanConfig,
        parquet: &ParquetSource,
        columns: &[usize],
        narrow: &BTreeSet<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let table = parquet.table_schema();
        let mut read: HashMap<&str, DataType> = HashMap::new();
        for column in columns {
            let field = table.table_schema().field(*column);
            if self.texts.contains(field.name()) {
                let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
                read.insert(field.name(), dictionary);
            } else if narrow.contains(column) {
                read.extend(self.narrow(field).map(|narrow| (field.name().as_str(), narrow)));
            }
        }
        let schema = TableSchema::builder(with_types(table.file_schema(), &read))
            .with_table_partition_cols(table.table_partition_cols().to_vec())
            .build();
        let mut source = ParquetSource::new(schema).with_table_parquet_options(parquet.table_parquet_options().clone());
        if let Some(factory) = parquet.parquet_file_reader_factory() {
            source = source.with_parquet_file_reader_factory(Arc::clone(factory));
        }
        // Conditions skip parts of files. Those on a column that is read otherwise would need other types, too.
        let of_read = |column: &str| read.contains_key(column);
        let conditions = parquet.filter().map(|predicate| {
            let conditions = split_conjunction(&predicate).into_iter();
            conditions.filter(|c| !collect_columns(c).iter().any(|c| of_read(c.name()))).cloned().collect::<Vec<_>>()
        });
        if let Some(predicate) = conditions.and_then(conjunction_opt) {
            source = source.with_predicate(predicate);
        }
        let statistics = Statistics::new_unknown(source.table_schema().table_schema());
        let groups = scan
            .file_groups
            .iter()
            .map(|group| group.iter().map(|file| self.with_columns(file, &read)).collect::<Vec<_>>().into());
        let scan = FileScanConfigBuilder::from(scan.clone())
            .with_source(Arc::new(source))
            .with_file_groups(groups.collect())
            .with_statistics(statistics)
            .with_output_ordering(Vec::new())
            .with_output_partitioning(None)
            .with_projection_indices(Some(columns.to_vec()))?;
        let scan = DataSourceExec::from_data_source(scan.build());
        Ok(Arc::new(CooperativeExec::new(scan)))
    }

    /// A file, to be read with its own columns, but for those that are read as another type.
    fn with_columns(&self, file: &PartitionedFile, read: &HashMap<&str, DataType>) -> PartitionedFile {
        let mut file = file.clone();
        // They are of the table's types.
        file.statistics = None;
        file.arrow_schema = self.files.get(&file.object_meta.location).map(|columns| with_types(columns, read));
        file
    }
}

/// Columns, those with these names as other types.
fn with_types(columns: &SchemaRef, read: &HashMap<&str, DataType>) -> SchemaRef {
    let fields = columns.fields().iter().map(|field| match read.get(field.name().as_str()) {
        Some(data_type) => Arc::new(field.as_ref().clone().with_data_type(data_type.clone())),
        None => Arc::clone(field),
    });
    Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), columns.metadata().clone()))
}
