//! `information_schema` and `pg_catalog`: what clients look at to find tables and columns. Small tables in memory,
//! made anew for each statement that reads them, of what its asker may see.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int32Array, Int64Array, StringArray, new_null_array};
use arrow::datatypes::{DataType as ArrowType, Field, Schema, TimeUnit};
use arrow::record_batch::RecordBatch;
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::error::Result;

use super::Session;
use super::catalog::PUBLIC;
use super::tables::CubeTable;

/// The first object id of cubes.
const FIRST_CUBE: i64 = 18_000;
/// Object id of the schema of cubes.
const PUBLIC_ID: i64 = 2200;
/// Object id of `pg_catalog`.
const CATALOG_ID: i64 = 11;
/// Object id of the one role.
const ROLE_ID: i64 = 10;
/// Object id of the one database.
const DATABASE_ID: i64 = 16_384;
/// What we say to be.
pub(crate) const SERVER_VERSION: &str = "14.2";

/// A table that an asker sees.
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) title: Option<String>,
    pub(super) table: CubeTable,
}

/// A value of a system table.
#[derive(Debug, Clone)]
enum Cell {
    Null,
    Int(i64),
    Bool(bool),
    Text(String),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Cell {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<bool> for Cell {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

/// Columns of system tables: a name with the first letter of its type (text, long, int, bool, array).
const TABLES: &[(&str, &str, &str)] = &[
    ("information_schema", "tables", "table_catalog:t table_schema:t table_name:t table_type:t is_insertable_into:t"),
    (
        "information_schema",
        "columns",
        "table_catalog:t table_schema:t table_name:t column_name:t ordinal_position:i column_default:t is_nullable:t \
         data_type:t character_maximum_length:i numeric_precision:i numeric_scale:i datetime_precision:i udt_schema:t \
         udt_name:t is_identity:t is_generated:t",
    ),
    ("information_schema", "schemata", "catalog_name:t schema_name:t schema_owner:t"),
    ("information_schema", "views", "table_catalog:t table_schema:t table_name:t view_definition:t"),
    (
        "information_schema",
        "table_constraints",
        "constraint_schema:t constraint_name:t table_schema:t table_name:t constraint_type:t",
    ),
    (
        "information_schema",
        "key_column_usage",
        "constraint_schema:t constraint_name:t table_schema:t table_name:t column_name:t ordinal_position:i",
    ),
    ("information_schema", "referential_constraints", "constraint_schema:t constraint_name:t unique_constraint_name:t"),
    ("pg_catalog", "pg_namespace", "oid:l nspname:t nspowner:l nspacl:a"),
    (
        "pg_catalog",
        "pg_class",
        "oid:l relname:t relnamespace:l reltype:l reloftype:l relowner:l relam:l relfilenode:l reltablespace:l relpages:i \
         reltuples:i relallvisible:i reltoastrelid:l relhasindex:b relisshared:b relpersistence:t relkind:t relnatts:i \
         relchecks:i relhasrules:b relhastriggers:b relhassubclass:b relrowsecurity:b relforcerowsecurity:b \
         relispopulated:b relreplident:t relispartition:b relhasoids:b reloptions:a relacl:a relpartbound:t",
    ),
    (
        "pg_catalog",
        "pg_attribute",
        "attrelid:l attname:t atttypid:l attstattarget:i attlen:i attnum:i attndims:i atttypmod:i attnotnull:b \
         atthasdef:b attidentity:t attgenerated:t attisdropped:b attislocal:b attcollation:l attoptions:a attcompression:t \
         attstorage:t attacl:a attfdwoptions:a",
    ),
    (
        "pg_catalog",
        "pg_type",
        "oid:l typname:t typnamespace:l typowner:l typlen:i typbyval:b typtype:t typcategory:t typisdefined:b typdelim:t \
         typrelid:l typelem:l typarray:l typbasetype:l typtypmod:i typnotnull:b typcollation:l typinput:t typreceive:t \
         typndims:i typdefault:t typacl:a",
    ),
    ("pg_catalog", "pg_attrdef", "oid:l adrelid:l adnum:i adbin:t"),
    (
        "pg_catalog",
        "pg_index",
        "indexrelid:l indrelid:l indnatts:i indnkeyatts:i indisunique:b indisprimary:b indisexclusion:b indimmediate:b \
         indisclustered:b indisvalid:b indisready:b indisreplident:b indkey:t indclass:t indoption:t indexprs:t indpred:t \
         indcollation:t indnullsnotdistinct:b",
    ),
    (
        "pg_catalog",
        "pg_constraint",
        "oid:l conname:t connamespace:l contype:t condeferrable:b condeferred:b convalidated:b conrelid:l contypid:l \
         conindid:l conparentid:l confrelid:l confupdtype:t confdeltype:t confmatchtype:t conislocal:b conkey:t confkey:t",
    ),
    ("pg_catalog", "pg_description", "objoid:l classoid:l objsubid:i description:t"),
    (
        "pg_catalog",
        "pg_roles",
        "oid:l rolname:t rolsuper:b rolinherit:b rolcreaterole:b rolcreatedb:b rolcanlogin:b rolreplication:b rolconnlimit:i rolvaliduntil:t rolbypassrls:b",
    ),
    ("pg_catalog", "pg_auth_members", "roleid:l member:l grantor:l admin_option:b"),
    ("pg_catalog", "pg_user", "usesysid:l usename:t usecreatedb:b usesuper:b"),
    (
        "pg_catalog",
        "pg_database",
        "oid:l datname:t datdba:l encoding:i datcollate:t datctype:t datistemplate:b datallowconn:b datconnlimit:i dattablespace:l datacl:a",
    ),
    ("pg_catalog", "pg_settings", "name:t setting:t unit:t category:t short_desc:t source:t vartype:t"),
    ("pg_catalog", "pg_am", "oid:l amname:t amtype:t"),
    ("pg_catalog", "pg_proc", "oid:l proname:t pronamespace:l proowner:l prorettype:l proargtypes:t prokind:t"),
    ("pg_catalog", "pg_enum", "oid:l enumtypid:l enumsortorder:i enumlabel:t"),
    ("pg_catalog", "pg_range", "rngtypid:l rngsubtype:l"),
    ("pg_catalog", "pg_inherits", "inhrelid:l inhparent:l inhseqno:i inhdetachpending:b"),
    (
        "pg_catalog",
        "pg_policy",
        "oid:l polname:t polrelid:l polcmd:t polpermissive:b polroles:t polqual:t polwithcheck:t",
    ),
    ("pg_catalog", "pg_statistic_ext", "oid:l stxrelid:l stxname:t stxnamespace:l stxkeys:t stxkind:a stxstattarget:i"),
    ("pg_catalog", "pg_publication", "oid:l pubname:t puballtables:b"),
    ("pg_catalog", "pg_publication_rel", "oid:l prpubid:l prrelid:l prqual:t prattrs:t"),
    ("pg_catalog", "pg_publication_namespace", "oid:l pnpubid:l pnnspid:l"),
    ("pg_catalog", "pg_trigger", "oid:l tgrelid:l tgname:t tgenabled:t tgisinternal:b tgparentid:l"),
    ("pg_catalog", "pg_rewrite", "oid:l rulename:t ev_class:l ev_type:t ev_enabled:t is_instead:b"),
    ("pg_catalog", "pg_foreign_table", "ftrelid:l ftserver:l ftoptions:t"),
    ("pg_catalog", "pg_foreign_server", "oid:l srvname:t"),
    ("pg_catalog", "pg_collation", "oid:l collname:t collnamespace:l collprovider:t collcollate:t collctype:t"),
    (
        "pg_catalog",
        "pg_sequence",
        "seqrelid:l seqtypid:l seqstart:l seqincrement:l seqmax:l seqmin:l seqcache:l seqcycle:b",
    ),
    ("pg_catalog", "pg_depend", "classid:l objid:l objsubid:i refclassid:l refobjid:l refobjsubid:i deptype:t"),
    ("pg_catalog", "pg_partitioned_table", "partrelid:l partstrat:t partnatts:i partattrs:t"),
    ("pg_catalog", "pg_extension", "oid:l extname:t extowner:l extnamespace:l extrelocatable:b extversion:t"),
    ("pg_catalog", "pg_tablespace", "oid:l spcname:t spcowner:l spcacl:a spcoptions:a"),
    (
        "pg_catalog",
        "pg_tables",
        "schemaname:t tablename:t tableowner:t tablespace:t hasindexes:b hasrules:b hastriggers:b rowsecurity:b",
    ),
    ("pg_catalog", "pg_views", "schemaname:t viewname:t viewowner:t definition:t"),
    ("pg_catalog", "pg_matviews", "schemaname:t matviewname:t matviewowner:t definition:t"),
    ("pg_catalog", "pg_stat_activity", "datid:l datname:t pid:i usename:t application_name:t state:t query:t"),
    ("pg_catalog", "pg_stat_user_tables", "relid:l schemaname:t relname:t n_live_tup:l"),
];

/// Tables of the catalog that have rows.
const FILLED: [&str; 11] = [
    "pg_namespace",
    "pg_class",
    "pg_attribute",
    "pg_type",
    "pg_description",
    "pg_roles",
    "pg_user",
    "pg_database",
    "pg_settings",
    "pg_am",
    "pg_tables",
];

/// Whether a table of the catalog never has rows.
pub(super) fn is_always_empty(name: &str) -> bool {
    TABLES.iter().any(|(schema, table, _)| *schema == "pg_catalog" && *table == name) && !FILLED.contains(&name)
}

/// The names of the tables of a schema.
pub(super) fn table_names(schema: &str) -> Vec<String> {
    TABLES.iter().filter(|(of, ..)| *of == schema).map(|(_, name, _)| (*name).to_owned()).collect()
}

/// A system table, if there is one of that name.
///
/// # Errors
/// Arrow's, on rows that do not fit their columns.
pub(super) fn table(
    schema: &str,
    name: &str,
    session: &Session,
    seen: &[Seen],
) -> Result<Option<Arc<dyn TableProvider>>> {
    let Some((.., columns)) = TABLES.iter().find(|(of, table, _)| *of == schema && *table == name) else {
        return Ok(None);
    };
    let columns: Vec<(&str, &str)> = columns.split_whitespace().filter_map(|column| column.split_once(':')).collect();
    let rows = rows(name, session, seen);
    let arrays: Vec<ArrayRef> =
        columns.iter().enumerate().map(|(at, (_, kind))| array(kind, rows.iter().map(|row| row.get(at)))).collect();
    let fields: Vec<Field> = columns
        .iter()
        .zip(&arrays)
        .map(|((name, _), array)| Field::new(*name, array.data_type().clone(), true))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), arrays)?;
    Ok(Some(Arc::new(MemTable::try_new(schema, vec![vec![batch]])?)))
}

fn array<'c>(kind: &str, cells: impl Iterator<Item = Option<&'c Cell>>) -> ArrayRef {
    let number = |cell: Option<&Cell>| match cell {
        Some(Cell::Int(number)) => Some(*number),
        _ => None,
    };
    match kind {
        "l" => Arc::new(cells.map(number).collect::<Int64Array>()),
        "i" => Arc::new(
            cells.map(|cell| number(cell).and_then(|number| i32::try_from(number).ok())).collect::<Int32Array>(),
        ),
        "a" => new_null_array(&ArrowType::new_list(ArrowType::Utf8, true), cells.count()),
        "b" => {
            let truth = |cell: Option<&Cell>| match cell {
                Some(Cell::Bool(truth)) => Some(*truth),
                _ => None,
            };
            Arc::new(cells.map(truth).collect::<BooleanArray>())
        }
        _ => {
            let text = |cell: Option<&Cell>| match cell {
                Some(Cell::Text(text)) => Some(text.clone()),
                _ => None,
            };
            Arc::new(cells.map(text).collect::<StringArray>())
        }
    }
}

macro_rules! row {
    ($($cell:expr),* $(,)?) => { vec![$(Cell::from($cell)),*] };
}

/// The types of columns: object id, PostgreSQL's name, SQL's name, category, length.
const TYPES: &[(i64, &str, &str, &str, i64)] = &[
    (16, "bool", "boolean", "B", 1),
    (17, "bytea", "bytea", "U", -1),
    (20, "int8", "bigint", "N", 8),
    (21, "int2", "smallint", "N", 2),
    (23, "int4", "integer", "N", 4),
    (25, "text", "text", "S", -1),
    (26, "oid", "oid", "N", 4),
    (700, "float4", "real", "N", 4),
    (701, "float8", "double precision", "N", 8),
    (1043, "varchar", "character varying", "S", -1),
    (1082, "date", "date", "D", 4),
    (1083, "time", "time without time zone", "D", 8),
    (1114, "timestamp", "timestamp without time zone", "D", 8),
    (1184, "timestamptz", "timestamp with time zone", "D", 8),
    (1186, "interval", "interval", "T", 16),
    (1700, "numeric", "numeric", "N", -1),
];

/// The object id of a type of columns.
fn type_id(data_type: &ArrowType) -> i64 {
    match data_type {
        ArrowType::Boolean => 16,
        ArrowType::Int64 => 20,
        ArrowType::Float64 => 701,
        ArrowType::Timestamp(TimeUnit::Microsecond, None) => 1114,
        _ => 25,
    }
}

/// PostgreSQL's and SQL's name of a type.
fn type_names(id: i64) -> (&'static str, &'static str) {
    TYPES.iter().find(|(of, ..)| *of == id).map_or(("text", "text"), |(_, name, sql, ..)| (*name, *sql))
}

/// SQL's name of a type.
pub(super) fn format_type(id: i64) -> Option<&'static str> {
    TYPES.iter().find(|(of, ..)| *of == id).map(|(_, _, sql, ..)| *sql)
}

/// The object id of a type, by PostgreSQL's or SQL's name.
pub(super) fn type_named(name: &str) -> Option<i64> {
    TYPES.iter().find(|(_, short, sql, ..)| [*short, *sql].contains(&name)).map(|(id, ..)| *id)
}

/// The object id of a table.
pub(super) fn object_id(position: usize) -> i64 {
    FIRST_CUBE + i64::try_from(position).unwrap_or(0)
}

fn columns_of(seen: &Seen) -> Vec<(i64, String, i64)> {
    let fields = seen.table.schema();
    let fields = fields.fields().iter().enumerate();
    fields
        .map(|(at, field)| (i64::try_from(at + 1).unwrap_or(0), field.name().clone(), type_id(field.data_type())))
        .collect()
}

fn rows(name: &str, session: &Session, seen: &[Seen]) -> Vec<Vec<Cell>> {
    let database = session.database.as_str();
    let user = session.user.as_deref().unwrap_or("cube");
    match name {
        "tables" => seen.iter().map(|seen| row![database, PUBLIC, seen.name.as_str(), "BASE TABLE", "NO"]).collect(),
        "columns" => seen.iter().flat_map(|seen| information_columns(database, seen)).collect(),
        "schemata" => ["information_schema", "pg_catalog", PUBLIC].map(|name| row![database, name, user]).into(),
        "pg_namespace" => vec![
            row![CATALOG_ID, "pg_catalog", ROLE_ID],
            row![PUBLIC_ID, PUBLIC, ROLE_ID],
            row![13_000_i64, "information_schema", ROLE_ID],
        ],
        "pg_class" => seen.iter().enumerate().map(|(at, seen)| class(at, seen)).collect(),
        "pg_attribute" => seen
            .iter()
            .enumerate()
            .flat_map(|(at, seen)| columns_of(seen).into_iter().map(move |column| attribute(object_id(at), column)))
            .collect(),
        "pg_type" => TYPES
            .iter()
            .map(|(id, name, _, category, length)| {
                row![
                    *id,
                    *name,
                    CATALOG_ID,
                    ROLE_ID,
                    *length,
                    *length > 0,
                    "b",
                    *category,
                    true,
                    ",",
                    0_i64,
                    0_i64,
                    0_i64,
                    0_i64,
                    -1_i64,
                    false,
                    0_i64,
                    format!("{name}in"),
                    format!("{name}recv"),
                    0_i64
                ]
            })
            .collect(),
        "pg_description" => seen
            .iter()
            .enumerate()
            .filter_map(|(at, seen)| Some(row![object_id(at), 1259_i64, 0_i64, seen.title.clone()?]))
            .collect(),
        "pg_roles" => vec![row![ROLE_ID, user, false, true, false, false, true, false, -1_i64, Cell::Null, false]],
        "pg_user" => vec![row![ROLE_ID, user, false, false]],
        "pg_database" => {
            vec![row![DATABASE_ID, database, ROLE_ID, 6_i64, "en_US.utf8", "en_US.utf8", false, true, -1_i64, 1663_i64]]
        }
        "pg_settings" => vec![
            row!["server_version", SERVER_VERSION, Cell::Null, "Preset Options", "", "default", "string"],
            row!["max_index_keys", "32", Cell::Null, "Preset Options", "", "default", "integer"],
            row!["standard_conforming_strings", "on", Cell::Null, "", "", "default", "bool"],
        ],
        "pg_am" => vec![row![2_i64, "heap", "t"]],
        "pg_tables" => seen
            .iter()
            .map(|seen| row![PUBLIC, seen.name.as_str(), user, Cell::Null, false, false, false, false])
            .collect(),
        _ => Vec::new(),
    }
}

fn information_columns(database: &str, seen: &Seen) -> Vec<Vec<Cell>> {
    let column = |(position, name, id): (i64, String, i64)| {
        let (short, long) = type_names(id);
        row![
            database,
            PUBLIC,
            seen.name.as_str(),
            name,
            position,
            Cell::Null,
            "YES",
            long,
            Cell::Null,
            Cell::Null,
            Cell::Null,
            Cell::Null,
            "pg_catalog",
            short,
            "NO",
            "NEVER"
        ]
    };
    columns_of(seen).into_iter().map(column).collect()
}

fn class(at: usize, seen: &Seen) -> Vec<Cell> {
    // Clients ask views for their definitions: to them, views of a model are tables too.
    let columns = i64::try_from(seen.table.columns.len()).unwrap_or(0);
    row![
        object_id(at),
        seen.name.as_str(),
        PUBLIC_ID,
        0_i64,
        0_i64,
        ROLE_ID,
        2_i64,
        0_i64,
        0_i64,
        0_i64,
        -1_i64,
        0_i64,
        0_i64,
        false,
        false,
        "p",
        "r",
        columns,
        0_i64,
        false,
        false,
        false,
        false,
        false,
        true,
        "p",
        false,
        false
    ]
}

fn attribute(table: i64, (position, name, id): (i64, String, i64)) -> Vec<Cell> {
    let length = TYPES.iter().find(|(of, ..)| *of == id).map_or(-1, |(.., length)| *length);
    row![
        table,
        name,
        id,
        -1_i64,
        length,
        position,
        0_i64,
        -1_i64,
        false,
        false,
        "",
        "",
        false,
        true,
        0_i64,
        Cell::Null,
        "",
        "p"
    ]
}
