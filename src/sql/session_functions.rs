//! Functions about the session and the catalog, which PostgreSQL's clients call.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use datafusion::scalar::ScalarValue;

use super::system::{SERVER_VERSION, format_type, object_id, type_named};

/// What the functions tell of.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Facts {
    pub(super) database: String,
    pub(super) user: String,
    /// Names of the tables, in the order of their object ids.
    pub(super) tables: Vec<String>,
}

/// Functions whose values are texts.
const TEXTS: [&str; 29] = [
    "version",
    "current_database",
    "current_catalog",
    "current_schema",
    "current_user",
    "session_user",
    "current_role",
    "user",
    "pg_get_userbyid",
    "format_type",
    "pg_get_expr",
    "pg_get_indexdef",
    "pg_get_constraintdef",
    "pg_get_viewdef",
    "pg_get_statisticsobjdef_columns",
    "obj_description",
    "col_description",
    "shobj_description",
    "quote_ident",
    "pg_encoding_to_char",
    "current_setting",
    "set_config",
    "getdatabaseencoding",
    "regclass_name",
    "pg_size_pretty",
    "pg_get_function_arguments",
    "pg_get_function_result",
    "pg_get_functiondef",
    "pg_tablespace_location",
];
/// Functions whose values are truths.
const TRUTHS: [&str; 9] = [
    "pg_table_is_visible",
    "pg_type_is_visible",
    "pg_function_is_visible",
    "pg_relation_is_publishable",
    "pg_is_in_recovery",
    "has_table_privilege",
    "has_schema_privilege",
    "has_database_privilege",
    "has_column_privilege",
];
/// Functions whose values are numbers.
const NUMBERS: [&str; 9] = [
    "to_regclass",
    "to_regtype",
    "pg_backend_pid",
    "txid_current",
    "pg_total_relation_size",
    "pg_my_temp_schema",
    "pg_table_size",
    "pg_relation_size",
    "pg_database_size",
];

/// One of them.
#[derive(Debug, PartialEq, Eq, Hash)]
struct About {
    name: &'static str,
    facts: Arc<Facts>,
    signature: Signature,
}

/// The functions of a session.
pub(super) fn functions(facts: &Arc<Facts>) -> Vec<Arc<ScalarUDF>> {
    let any = || Signature::one_of(vec![TypeSignature::Nullary, TypeSignature::VariadicAny], Volatility::Stable);
    let names = TEXTS.into_iter().chain(TRUTHS).chain(NUMBERS);
    let about = |name| About { name, facts: Arc::clone(facts), signature: any() };
    names.map(|name| Arc::new(ScalarUDF::new_from_impl(about(name)))).collect()
}

impl About {
    fn value(&self, arguments: &[ScalarValue]) -> ScalarValue {
        let facts = &self.facts;
        let text = |at: usize| arguments.get(at).and_then(|value| value.try_as_str()).flatten();
        let number = || match arguments.first()?.cast_to(&DataType::Int64).ok()? {
            ScalarValue::Int64(number) => number,
            _ => None,
        };
        if NUMBERS.contains(&self.name) {
            return ScalarValue::Int64(match self.name {
                "to_regclass" => {
                    let given = text(0).map_or_else(|| number().map(|id| id.to_string()), |name| Some(name.to_owned()));
                    given.and_then(|given| self.table_id(&given))
                }
                "to_regtype" => text(0).and_then(type_named),
                _ => Some(0),
            });
        }
        if TRUTHS.contains(&self.name) {
            return ScalarValue::Boolean(Some(self.name != "pg_is_in_recovery"));
        }
        ScalarValue::Utf8(match self.name {
            "version" => Some(format!("PostgreSQL {SERVER_VERSION} (Quarry {})", env!("CARGO_PKG_VERSION"))),
            "current_database" | "current_catalog" => Some(facts.database.clone()),
            "current_schema" => Some(super::catalog::PUBLIC.to_owned()),
            "current_user" | "session_user" | "current_role" | "user" | "pg_get_userbyid" => Some(facts.user.clone()),
            "format_type" => number().and_then(format_type).map(str::to_owned),
            "quote_ident" => text(0).map(quoted),
            "pg_encoding_to_char" | "getdatabaseencoding" => Some("UTF8".to_owned()),
            "current_setting" => match text(0) {
                Some("server_version") => Some(SERVER_VERSION.to_owned()),
                Some("server_version_num") => Some("140002".to_owned()),
                Some("search_path") => Some(super::catalog::PUBLIC.to_owned()),
                _ => Some(String::new()),
            },
            "set_config" => text(1).map(str::to_owned),
            "pg_size_pretty" => number().map(|bytes| format!("{bytes} bytes")),
            "regclass_name" => number().map(|id| {
                let at = (0..facts.tables.len()).find(|at| object_id(*at) == id);
                at.and_then(|at| facts.tables.get(at)).map_or_else(|| id.to_string(), |name| quoted(name))
            }),
            _ => None,
        })
    }

    /// The object id of a table's name, which may be quoted and qualified.
    fn table_id(&self, name: &str) -> Option<i64> {
        if let Ok(id) = name.parse() {
            return Some(id);
        }
        let last = name.rsplit('.').next().unwrap_or(name);
        let plain = last.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let wanted = plain.map_or_else(|| last.to_lowercase(), str::to_owned);
        let exact = self.facts.tables.iter().position(|table| *table == wanted || *table == last);
        exact.map(object_id)
    }
}

/// A name as SQL writes it.
fn quoted(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

impl ScalarUDFImpl for About {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(if NUMBERS.contains(&self.name) {
            DataType::Int64
        } else if TRUTHS.contains(&self.name) {
            DataType::Boolean
        } else {
            DataType::Utf8
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let scalar = |value: &ColumnarValue| match value {
            ColumnarValue::Scalar(value) => Some(value.clone()),
            ColumnarValue::Array(_) => None,
        };
        if let Some(values) = args.args.iter().map(scalar).collect::<Option<Vec<ScalarValue>>>() {
            return Ok(ColumnarValue::Scalar(self.value(&values)));
        }
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let row = |row: usize| {
            let values = arrays.iter().map(|array| ScalarValue::try_from_array(array, row));
            Ok(self.value(&values.collect::<Result<Vec<_>>>()?))
        };
        let values: Vec<ScalarValue> = (0..args.number_rows).map(row).collect::<Result<_>>()?;
        if values.is_empty() {
            return Ok(ColumnarValue::Array(arrow::array::new_empty_array(&self.return_type(&[])?)));
        }
        Ok(ColumnarValue::Array(ScalarValue::iter_to_array(values)?))
    }
}
