//! Files of a project's `data/` folder, or another one, as tables (`design.md` §2, default source).
//!
//! Nothing is loaded at start: a statement's names are looked up in the folder as it is at that moment. What
//! is remembered is the columns of a file, for as long as its length and its time of change stay the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::common::{plan_datafusion_err, plan_err};
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::{DataFusionError, Result};
use datafusion::functions_table::all_default_table_functions;

use super::columns::{ColumnsCache, file_format, join_columns, partition_type, with_text_for_unknown};
use super::folder::{DataFile, Entry, Format, Kind, Tree, digest, entries};
use crate::engine::error::missing_relation;
use crate::names::nearest;

/// The schema of unqualified names.
const DEFAULT_SCHEMA: &str = "public";

/// Tables that the text about a missing one lists at most.
const LISTED_TABLES: usize = 20;

/// The tables of a folder; files are looked up when they are asked for and re-read when they change.
#[derive(Debug)]
pub struct FileCatalog {
    project: PathBuf,
    /// Relative to the project.
    folder: String,
    columns: ColumnsCache,
}

impl FileCatalog {
    /// Over `project/folder`; relative paths in SQL are relative to `project`.
    pub fn new(project: PathBuf, folder: &str) -> Self {
        let project = std::fs::canonicalize(&project).or_else(|_| std::path::absolute(&project)).unwrap_or(project);
        Self { project, folder: folder.to_owned(), columns: ColumnsCache::new() }
    }

    /// A digest of the data files as they are now.
    pub(super) fn digest(&self) -> u64 {
        digest(&self.data())
    }

    /// The view DataFusion resolves names in.
    pub fn provider(self: &Arc<Self>) -> Arc<dyn CatalogProvider> {
        Arc::new(CatalogView(Arc::clone(self)))
    }

    fn data(&self) -> PathBuf {
        self.project.join(&self.folder)
    }

    /// A path for texts: relative to the project where it lies inside, with forward slashes.
    fn display(&self, path: &Path) -> String {
        path.strip_prefix(&self.project).unwrap_or(path).to_string_lossy().replace('\\', "/")
    }

    /// The folders that hold the tables of a schema; names match without regard to case.
    fn schema_folders(&self, schema: &str) -> Result<Vec<PathBuf>> {
        let folders = self.subfolders()?.into_iter().filter(|(name, _)| name.eq_ignore_ascii_case(schema));
        let folders = folders.map(|(_, path)| path);
        if schema == DEFAULT_SCHEMA {
            return Ok(std::iter::once(self.data()).chain(folders).collect());
        }
        Ok(folders.collect())
    }

    fn subfolders(&self) -> Result<Vec<(String, PathBuf)>> {
        let folders = entries(&self.data())?.into_iter().filter_map(|(name, entry)| match entry {
            Entry::Folder(path) => Some((name, path)),
            Entry::File(_) => None,
        });
        Ok(folders.collect())
    }

    /// Everything in a schema that may be a table.
    fn schema_entries(&self, schema: &str) -> Result<Vec<(String, Entry)>> {
        let mut found = Vec::new();
        for folder in self.schema_folders(schema)? {
            found.extend(entries(&folder)?);
        }
        if schema == DEFAULT_SCHEMA {
            found.retain(|(name, entry)| matches!(entry, Entry::File(_)) || !name.eq_ignore_ascii_case(DEFAULT_SCHEMA));
        }
        Ok(found)
    }

    /// The table of a name.
    async fn named_table(&self, schema: &str, name: &str) -> Result<Arc<dyn TableProvider>> {
        let mut found = self.schema_entries(schema)?;
        found.retain(|(entry, _)| entry.eq_ignore_ascii_case(name));
        if found.is_empty() {
            return Err(self.missing_table(schema, name)?);
        }
        if let [_] = found.as_slice() {
            let (_, entry) = found.remove(0);
            return self.entry_table(entry).await;
        }
        // A folder of different tables is a schema and no rival of a table with its name.
        let mut rivals = Vec::new();
        for (_, entry) in found {
            match entry {
                Entry::Folder(folder) if self.folder_table(&folder).await.is_err() => {}
                entry => rivals.push(entry),
            }
        }
        match rivals.len() {
            0 => Err(self.missing_table(schema, name)?),
            1 => self.entry_table(rivals.remove(0)).await,
            _ => {
                let places: Vec<_> = rivals.iter().map(|entry| self.display(entry.path())).collect();
                plan_err!(
                    "table \"{name}\" is ambiguous: {} both hold it; remove or rename all but one",
                    places.join(" and ")
                )
            }
        }
    }

    async fn entry_table(&self, entry: Entry) -> Result<Arc<dyn TableProvider>> {
        match entry {
            Entry::File(file) => self.file_table(file).await,
            Entry::Folder(folder) => self.folder_table(&folder).await,
        }
    }

    async fn file_table(&self, file: DataFile) -> Result<Arc<dyn TableProvider>> {
        let columns = self.columns.of(&file).await.map_err(|error| self.unreadable(&file.path, &error))?;
        let options = ListingOptions::new(file_format(file.format, columns.json_array)).with_file_extension("");
        self.listing(vec![file_url(&file.path, "")?], options, &columns.schema)
    }

    /// A folder of files with one schema.
    async fn folder_table(&self, folder: &Path) -> Result<Arc<dyn TableProvider>> {
        let tree = Tree::read(folder)?;
        let Some(first) = tree.files.first() else {
            return Err(self.no_single_table(folder, "holds no data files of its own"));
        };
        let format = first.format;
        if tree.mixed || tree.files.iter().any(|file| file.format != format) {
            return Err(self.no_single_table(folder, "holds files of different kinds or folders"));
        }
        let mut columns = Vec::with_capacity(tree.files.len());
        for file in &tree.files {
            columns.push(self.columns.of(file).await.map_err(|error| self.unreadable(&file.path, &error))?);
        }
        let json_array = columns[0].json_array;
        let schema = join_columns(format.kind, columns.iter().map(|columns| &columns.schema))
            .filter(|_| columns.iter().all(|columns| columns.json_array == json_array));
        let Some(schema) = schema else {
            return Err(self.no_single_table(folder, "holds files with different columns"));
        };
        let options = ListingOptions::new(file_format(format, json_array));
        if tree.keys.is_empty() {
            let urls = tree.files.iter().map(|file| file_url(&file.path, "")).collect::<Result<_>>()?;
            return self.listing(urls, options.with_file_extension(""), &schema);
        }
        let schema = self.without_keys(folder, format.kind, &schema, &tree.keys)?;
        let keys = tree.keys.iter().zip(&tree.values).map(|(key, values)| (key.clone(), partition_type(values)));
        let options = options.with_table_partition_cols(keys.collect()).with_file_extension(extension(&tree.files));
        self.listing(vec![file_url(folder, "/")?], options, &schema)
    }

    /// The columns of the files without those that the folders' names give.
    fn without_keys(&self, folder: &Path, kind: Kind, schema: &SchemaRef, keys: &[String]) -> Result<SchemaRef> {
        let (kept, doubled): (Vec<_>, Vec<_>) =
            schema.fields().iter().cloned().partition(|field| !keys.contains(field.name()));
        match doubled.first() {
            None => Ok(Arc::clone(schema)),
            Some(field) if matches!(kind, Kind::Csv | Kind::Tsv | Kind::Arrow) => plan_err!(
                "{}: column \"{}\" stands in the files and in the folders' names; remove one",
                self.display(folder),
                field.name()
            ),
            Some(_) => Ok(Arc::new(Schema::new(kept))),
        }
    }

    fn listing(
        &self,
        urls: Vec<ListingTableUrl>,
        options: ListingOptions,
        schema: &Schema,
    ) -> Result<Arc<dyn TableProvider>> {
        let schema = with_text_for_unknown(schema);
        let config = ListingTableConfig::new_with_multi_paths(urls).with_listing_options(options).with_schema(schema);
        Ok(Arc::new(ListingTable::try_new(config)?.with_cache(self.columns.statistics_cache())))
    }

    /// The table of a quoted path.
    async fn path_table(&self, path: &str) -> Result<Arc<dyn TableProvider>> {
        let given = path.strip_prefix("file://").unwrap_or(path);
        if given.contains("://") {
            return plan_err!("\"{path}\" cannot be read: only files of this machine can");
        }
        let Ok(found) = std::fs::canonicalize(self.project.join(given)) else {
            return plan_err!("file \"{path}\" does not exist; relative paths start in the project folder");
        };
        if found.is_dir() {
            return self.folder_table(&found).await;
        }
        // The name as given tells the format: a link may point to a file that is named otherwise.
        let named = DataFile::at(self.project.join(given)).map_err(|error| self.unreadable(&found, &error.into()))?;
        match named {
            Some(file) => self.file_table(DataFile { path: found, ..file }).await,
            None => plan_err!("\"{path}\" is no data file: the name ends in none of the known formats"),
        }
    }

    fn unreadable(&self, path: &Path, error: &DataFusionError) -> DataFusionError {
        plan_datafusion_err!("{} cannot be read: {}", self.display(path), error.find_root().message())
    }

    /// The text about a folder that is a schema, or nothing at all.
    fn no_single_table(&self, folder: &Path, reason: &str) -> DataFusionError {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let tables = entries(folder).unwrap_or_default();
        let tables: BTreeSet<_> = tables.iter().map(|(table, _)| format!("{name}.{table}")).collect();
        let hint = if tables.is_empty() { String::new() } else { format!("; its tables are {}", listed(&tables)) };
        plan_datafusion_err!("{}/ {reason}, so it is no table{hint}", self.display(folder))
    }

    /// The text about a name that nothing has.
    fn missing_table(&self, schema: &str, name: &str) -> Result<DataFusionError> {
        let known: BTreeSet<String> =
            self.schema_entries(schema)?.into_iter().map(|(name, _)| name.to_lowercase()).collect();
        let mut text = missing_relation(&format!("{schema}.{name}"), &self.folder);
        if schema != DEFAULT_SCHEMA && known.is_empty() {
            let folders = self.subfolders()?;
            text.push_str(&format!(" (there is no folder {}/{schema}/)", self.folder));
            if let Some(near) = nearest(schema, folders.iter().map(|(name, _)| name.as_str())) {
                text.push_str(&format!("; did you mean schema \"{near}\"?"));
            }
            return Ok(plan_datafusion_err!("{text}"));
        }
        if let Some(near) = nearest(name, known.iter().map(String::as_str)) {
            text.push_str(&format!("; did you mean \"{near}\"?"));
        }
        text.push_str(&if known.is_empty() {
            "; it is empty".to_owned()
        } else {
            format!("; it holds {}", listed(&known))
        });
        Ok(plan_datafusion_err!("{text}"))
    }
}

fn listed(names: &BTreeSet<String>) -> String {
    let mut text = names.iter().take(LISTED_TABLES).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > LISTED_TABLES {
        text.push_str(&format!(" and {} more", names.len() - LISTED_TABLES));
    }
    text
}

/// The common end of the files' names, which a listing selects by; all have one format.
fn extension(files: &[DataFile]) -> String {
    let name = |file: &DataFile| file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let end_of = |name: &str| Format::parse(name).map_or_else(String::new, |(stem, _)| name[stem.len()..].to_owned());
    let mut ends = files.iter().map(|file| end_of(&name(file)));
    let first = ends.next().unwrap_or_default();
    if ends.all(|end| end == first) { first } else { String::new() }
}

/// The address of a file or (`end` is `/`) folder. Percent-encoded here because DataFusion reads `*`, `?` and
/// `[` of plain paths as patterns.
fn file_url(path: &Path, end: &str) -> Result<ListingTableUrl> {
    let mut url = "file://".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~=".contains(byte) {
            url.push(char::from(*byte));
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
    url.push_str(end);
    ListingTableUrl::parse(url)
}

/// Whether a table name is the path of a file.
fn is_path(name: &str) -> bool {
    name.contains('/') || Format::parse(name).is_some()
}

#[derive(Debug)]
struct CatalogView(Arc<FileCatalog>);

impl CatalogProvider for CatalogView {
    fn schema_names(&self) -> Vec<String> {
        let folders = self.0.subfolders().unwrap_or_default().into_iter().map(|(name, _)| name.to_lowercase());
        folders.chain([DEFAULT_SCHEMA.to_owned()]).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Every name is taken for a schema, so that its tables are missed with a text that helps.
    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        Some(Arc::new(SchemaView { catalog: Arc::clone(&self.0), name: name.to_lowercase() }))
    }
}

#[derive(Debug)]
struct SchemaView {
    catalog: Arc<FileCatalog>,
    name: String,
}

#[async_trait]
impl SchemaProvider for SchemaView {
    fn table_names(&self) -> Vec<String> {
        let entries = self.catalog.schema_entries(&self.name).unwrap_or_default();
        entries.into_iter().map(|(name, _)| name.to_lowercase()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if self.name == DEFAULT_SCHEMA {
            if is_path(name) {
                return self.catalog.path_table(name).await.map(Some);
            }
            // Functions in FROM are looked up here first.
            let known = self.catalog.schema_entries(&self.name)?;
            let is_known = known.iter().any(|(entry, _)| entry.eq_ignore_ascii_case(name));
            if !is_known && all_default_table_functions().iter().any(|function| function.name() == name) {
                return Ok(None);
            }
        }
        self.catalog.named_table(&self.name, name).await.map(Some)
    }

    fn table_exist(&self, name: &str) -> bool {
        let entries = self.catalog.schema_entries(&self.name).unwrap_or_default();
        entries.iter().any(|(entry, _)| entry.eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use arrow::array::{ArrayRef, Int32Array, Int64Array, StringArray, TimestampNanosecondArray};
    use arrow::record_batch::RecordBatch;
    use parquet::arrow::ArrowWriter;

    use super::*;
    use crate::engine::EngineError;
    use crate::engine::testing::{engine, rows};

    /// A project folder with files.
    struct Project {
        folder: tempfile::TempDir,
        catalog: Arc<FileCatalog>,
    }

    impl Project {
        fn new(files: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let catalog = Arc::new(FileCatalog::new(folder.path().to_owned(), "data"));
            let project = Self { folder, catalog };
            files.iter().for_each(|(path, text)| project.write(path, text.as_bytes()));
            project
        }

        fn path(&self, path: &str) -> PathBuf {
            let path = self.folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        }

        fn write(&self, path: &str, bytes: &[u8]) {
            fs::write(self.path(path), bytes).unwrap();
        }

        fn write_parquet(&self, path: &str, columns: Vec<(&str, ArrayRef)>) {
            let batch = RecordBatch::try_from_iter(columns).unwrap();
            let mut writer =
                ArrowWriter::try_new(fs::File::create(self.path(path)).unwrap(), batch.schema(), None).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
        }

        async fn rows(&self, sql: &str) -> Result<Vec<String>, EngineError> {
            rows(&engine(), sql, self.catalog.provider()).await
        }

        #[track_caller]
        fn check(&self, sql: &str, expected: &[&str]) {
            let found = tokio::runtime::Runtime::new().unwrap().block_on(self.rows(sql));
            assert_eq!(
                found.as_deref(),
                Ok(expected.iter().map(|row| (*row).to_owned()).collect::<Vec<_>>().as_slice()),
                "{sql}"
            );
        }

        #[track_caller]
        fn check_error(&self, sql: &str, expected: &str) {
            let found = tokio::runtime::Runtime::new().unwrap().block_on(self.rows(sql));
            assert_eq!(found.map_err(|error| error.to_string()), Err(expected.to_owned()), "{sql}");
        }
    }

    fn ints(values: &[i64]) -> ArrayRef {
        Arc::new(Int64Array::from(values.to_vec()))
    }

    #[test]
    fn every_text_format_is_a_table() {
        let project = Project::new(&[
            (
                "data/a.csv",
                "id,name,at,big,empty\n1,x,2024-01-02,9007199254740993,\n2,,2024-01-03,9223372036854775807,\n",
            ),
            ("data/b.tsv", "id\tname\n1\t\"x\ty\"\n"),
            ("data/c.json", "{\"id\": 1, \"name\": \"x\"}\n{\"id\": 9007199254740993}\n"),
            ("data/d.json", " [{\"id\": 1, \"name\": \"x\"},\n {\"id\": 2}]"),
            ("data/e.ndjson", "{\"id\": 1.5}\n"),
            ("data/f.csv", "text\n\"two\nlines\"\n\"a,b\"\n"),
            ("data/g.csv", "\u{feff}id,x\n1,2\n"),
        ]);
        project.check(
            "SELECT id, name, at, big, empty FROM a ORDER BY id",
            &["1|x|2024-01-02|9007199254740993|NULL", "2|NULL|2024-01-03|9223372036854775807|NULL"],
        );
        project.check("SELECT * FROM b", &["1|x\ty"]);
        project.check("SELECT * FROM c ORDER BY id", &["1|x", "9007199254740993|NULL"]);
        project.check("SELECT * FROM d ORDER BY id", &["1|x", "2|NULL"]);
        project.check("SELECT * FROM e", &["1.5"]);
        project.check("SELECT * FROM f ORDER BY 1", &["a,b", "two\nlines"]);
        project.check("SELECT id FROM g", &["1"]);
    }

    #[test]
    fn packed_files_and_binary_formats_are_tables() {
        let project = Project::new(&[]);
        let mut gzip = flate2_bytes("id,v\n1,2\n");
        project.write("data/a.csv.gz", &gzip);
        gzip = flate2_bytes("[{\"id\":1}]");
        project.write("data/j.json.gz", &gzip);
        let schema =
            Arc::new(Schema::new(vec![arrow::datatypes::Field::new("id", arrow::datatypes::DataType::Int64, true)]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![ints(&[5])]).unwrap();
        let mut writer =
            arrow::ipc::writer::FileWriter::try_new(fs::File::create(project.path("data/b.arrow")).unwrap(), &schema)
                .unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        let times: ArrayRef =
            Arc::new(TimestampNanosecondArray::from(vec![1_700_000_000_123_456_789]).with_timezone("+02:00"));
        project.write_parquet("data/c.parquet", vec![("id", ints(&[7])), ("at", times)]);
        project.check("SELECT * FROM a", &["1|2"]);
        project.check("SELECT * FROM j", &["1"]);
        project.check("SELECT * FROM b", &["5"]);
        project.check("SELECT id, utc_time(at) FROM c", &["7|2023-11-14T22:13:20.123456789"]);
    }

    /// Gzip with stored blocks: enough to be read back.
    fn flate2_bytes(text: &str) -> Vec<u8> {
        let bytes = text.as_bytes();
        let length = u16::try_from(bytes.len()).unwrap();
        let mut crc = !0_u32;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
            }
        }
        let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 1];
        packed.write_all(&length.to_le_bytes()).unwrap();
        packed.write_all(&(!length).to_le_bytes()).unwrap();
        packed.write_all(bytes).unwrap();
        packed.write_all(&(!crc).to_le_bytes()).unwrap();
        packed.write_all(&u32::from(length).to_le_bytes()).unwrap();
        packed
    }

    #[test]
    fn names_match_without_case_and_public_is_the_default() {
        let project = Project::new(&[("data/Orders.csv", "id\n1\n"), ("data/public/users.csv", "id\n2\n")]);
        project.check("SELECT * FROM orders", &["1"]);
        project.check("SELECT * FROM ORDERS", &["1"]);
        project.check("SELECT * FROM \"Orders\"", &["1"]);
        project.check("SELECT * FROM public.orders", &["1"]);
        project.check("SELECT * FROM users", &["2"]);
        project.check("SELECT * FROM public.users", &["2"]);
    }

    #[test]
    fn folders_of_one_schema_are_tables() {
        let project = Project::new(&[
            ("data/logs/1.csv", "id,v\n1,1\n"),
            ("data/logs/2.csv", "id,v\n2,1.5\n"),
            ("data/logs/3.csv", "id,v\n3,\n"),
            ("data/logs/_SUCCESS", ""),
            ("data/logs/.hidden.csv", "x\n1\n"),
        ]);
        project.write_parquet("data/p/a.parquet", vec![("x", ints(&[1])), ("y", ints(&[2]))]);
        project.write_parquet("data/p/b.parquet", vec![("y", Arc::new(Int32Array::from(vec![4]))), ("x", ints(&[3]))]);
        project.check("SELECT id, v FROM logs ORDER BY id", &["1|1.0", "2|1.5", "3|NULL"]);
        project.check("SELECT id FROM logs.\"2\"", &["2"]);
        project.check("SELECT x, y FROM p ORDER BY x", &["1|2", "3|4"]);
        project.check("SELECT x FROM p.b", &["3"]);
    }

    #[test]
    fn folders_of_different_tables_are_schemas() {
        let project = Project::new(&[
            ("data/Sales/orders.csv", "id\n1\n"),
            ("data/Sales/users.csv", "name\nann\n"),
            ("data/sales.csv", "total\n9\n"),
            ("data/other/a.csv", "id\n1\n"),
            ("data/other/b.json", "{\"id\":2}"),
            ("data/deep/parts/1.csv", "id\n1\n"),
            ("data/deep/parts/2.csv", "id\n2\n"),
            ("data/order/a.csv", "a,b\n1,2\n"),
            ("data/order/b.csv", "b,a\n3,4\n"),
        ]);
        project.check("SELECT * FROM sales.orders", &["1"]);
        project.check("SELECT * FROM Sales.Users", &["ann"]);
        project.check("SELECT * FROM sales", &["9"]);
        project.check("SELECT * FROM other.b", &["2"]);
        project.check("SELECT * FROM deep.parts ORDER BY id", &["1", "2"]);
        project.check_error(
            "SELECT * FROM other",
            "data/other/ holds files of different kinds or folders, so it is no table; its tables are other.a, other.b",
        );
        project.check_error(
            "SELECT * FROM \"order\"",
            "data/order/ holds files with different columns, so it is no table; its tables are order.a, order.b",
        );
    }

    #[test]
    fn hive_folders_give_columns() {
        let project = Project::new(&[]);
        for (year, day, value) in [(2023, "2023-05-01", 1), (2024, "2024-05-01", 2)] {
            project.write_parquet(
                &format!("data/h/year={year}/day={day}/kind=a b/f.parquet"),
                vec![("v", ints(&[value]))],
            );
        }
        project
            .check("SELECT v, year, day, kind FROM h ORDER BY v", &["1|2023|2023-05-01|a b", "2|2024|2024-05-01|a b"]);
        project.check("SELECT v FROM h WHERE year = 2024", &["2"]);
        project.check("SELECT v FROM h WHERE day < DATE '2024-01-01'", &["1"]);
        project.check("SELECT sum(year) FROM h WHERE kind = 'a b'", &["4047"]);
    }

    #[test]
    fn quoted_paths_are_tables() {
        let project = Project::new(&[("data/a.csv", "id\n1\n"), ("extra/odd [1]*.csv", "id\n2\n")]);
        let absolute = project.path("data/a.csv");
        project.check("SELECT * FROM 'data/a.csv'", &["1"]);
        project.check("SELECT * FROM \"./data/../data/a.csv\"", &["1"]);
        project.check(&format!("SELECT * FROM '{}'", absolute.display()), &["1"]);
        project.check(&format!("SELECT * FROM 'file://{}'", absolute.display()), &["1"]);
        project.check("SELECT * FROM 'extra/odd [1]*.csv'", &["2"]);
        project.check("SELECT * FROM 'data/'", &["1"]);
        project.check_error(
            "SELECT * FROM 'data/b.csv'",
            "file \"data/b.csv\" does not exist; relative paths start in the project folder",
        );
        project.check_error(
            "SELECT * FROM 's3://bucket/b.csv'",
            "\"s3://bucket/b.csv\" cannot be read: only files of this machine can",
        );
    }

    #[test]
    fn changed_files_are_read_again() {
        let project = Project::new(&[("data/a.csv", "id\n1\n")]);
        let other = Project::new(&[]);
        let engine = engine();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let check = |sql: &str, expected: &[&str]| {
            let found = runtime.block_on(rows(&engine, sql, project.catalog.provider()));
            assert_eq!(found.unwrap(), expected, "{sql}");
        };
        check("SELECT * FROM a", &["1"]);
        project.write("data/a.csv", b"id,name\n2,x\n");
        check("SELECT * FROM a", &["2|x"]);
        project.write_parquet("data/p.parquet", vec![("id", ints(&[1]))]);
        check("SELECT id, count(*) FROM p GROUP BY id", &["1|1"]);
        check("SELECT count(*) FROM p", &["1"]);
        other.write_parquet("p", vec![("id", ints(&[5, 6])), ("name", Arc::new(StringArray::from(vec!["a", "b"])))]);
        fs::rename(other.path("p"), project.path("data/p.parquet")).unwrap();
        check("SELECT id, name FROM p ORDER BY id", &["5|a", "6|b"]);
        check("SELECT count(*) FROM p", &["2"]);
        project.write("data/b/k=1/a.csv", b"id\n1\n");
        check("SELECT count(*) FROM b", &["1"]);
        project.write("data/b/k=2/a.csv", b"id\n1\n");
        check("SELECT count(*) FROM b", &["2"]);
        fs::remove_file(project.path("data/a.csv")).unwrap();
        assert!(runtime.block_on(rows(&engine, "SELECT * FROM a", project.catalog.provider())).is_err());
    }

    #[test]
    fn missing_tables_are_named_with_the_nearest() {
        let project =
            Project::new(&[("data/orders.csv", "id\n1\n"), ("data/users.csv", "id\n1\n"), ("data/s/a.csv", "x\n1\n")]);
        let lead =
            |name: &str| format!("relation \"{name}\" does not exist; tables come from the files of the data/ folder");
        project.check_error(
            "SELECT * FROM ordres",
            &format!("{}; did you mean \"orders\"?; it holds orders, s, users", lead("public.ordres")),
        );
        project.check_error("SELECT * FROM zzzzzzz", &format!("{}; it holds orders, s, users", lead("public.zzzzzzz")));
        project.check_error("SELECT * FROM s.b", &format!("{}; did you mean \"a\"?; it holds a", lead("s.b")));
        project.check_error(
            "SELECT * FROM nowhere.b",
            &format!("{} (there is no folder data/nowhere/)", lead("nowhere.b")),
        );
        Project::new(&[]).check_error("SELECT * FROM a", &format!("{}; it is empty", lead("public.a")));
        project.check("SELECT * FROM generate_series(1, 2)", &["1", "2"]);
        project.check("WITH orders2 AS (SELECT * FROM orders) SELECT * FROM orders2", &["1"]);
    }

    #[test]
    fn two_files_of_one_name_are_an_error() {
        let project = Project::new(&[
            ("data/a.csv", "id\n1\n"),
            ("data/a.json", "{\"id\":1}"),
            ("data/b.csv", "id\n1\n"),
            ("data/public/b.csv", "id\n1\n"),
        ]);
        project.check_error(
            "SELECT * FROM a",
            "table \"a\" is ambiguous: data/a.csv and data/a.json both hold it; remove or rename all but one",
        );
        project.check_error(
            "SELECT * FROM b",
            "table \"b\" is ambiguous: data/b.csv and data/public/b.csv both hold it; remove or rename all but one",
        );
    }

    #[test]
    fn unreadable_files_are_named() {
        let project = Project::new(&[("data/a.parquet", "no parquet")]);
        let error = tokio::runtime::Runtime::new().unwrap().block_on(project.rows("SELECT * FROM a")).unwrap_err();
        assert!(error.to_string().starts_with("data/a.parquet cannot be read: "), "{error}");
    }
}
