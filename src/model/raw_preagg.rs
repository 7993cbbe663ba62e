//! The kinds of pre-aggregations and their options as they are written (`pre-aggregations.md` §2.1, §2.4, §2.5).

use super::fields::{Fields, Place, Report, Text, scalar, snake_case};
use super::raw::About;
use super::yaml::{Mark, Value};
use crate::names::{is_identifier, nearest};

/// What a definition calls itself, with what belongs to that kind alone.
#[derive(Debug, Clone)]
pub(super) enum RawKind {
    Rollup,
    OriginalSql,
    Join(Vec<Text>),
    Lambda { rollups: Vec<Text>, union_with_source: bool },
}

impl RawKind {
    /// The word of the model language.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Rollup => "rollup",
            Self::OriginalSql => "original_sql",
            Self::Join(_) => "rollup_join",
            Self::Lambda { .. } => "rollup_lambda",
        }
    }

    /// Whether it has partitions of its own.
    pub(super) fn is_stored(&self) -> bool {
        matches!(self, Self::Rollup | Self::OriginalSql)
    }
}

/// What says how rows are kept, and never changes an answer.
#[derive(Debug, Clone, Default)]
pub(super) struct RawOptions {
    pub(super) use_original_sql: bool,
    pub(super) indexes: Vec<RawIndex>,
    /// Names of columns that tell rows apart.
    pub(super) unique_key_columns: Vec<Text>,
    /// Members whose stored type is given.
    pub(super) typed_members: Vec<Text>,
    pub(super) sql_alias: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) struct RawIndex {
    pub(super) name: String,
    pub(super) columns: Vec<Text>,
    pub(super) aggregate: bool,
}

/// Lists of members, which the rows of a cube's own SQL do not have.
const MEMBER_KEYS: [&str; 7] = [
    "measures",
    "dimensions",
    "segments",
    "measure_references",
    "dimension_references",
    "segment_references",
    "time_dimensions",
];
const ROLLUP_LISTS: [&str; 3] = ["rollups", "rollup_references", "union_with_source_data"];
/// What is said where rows are stored.
const STORED_KEYS: [&str; 9] = [
    "partition_granularity",
    "build_range_start",
    "build_range_end",
    "refresh_range_start",
    "refresh_range_end",
    "refresh_key",
    "indexes",
    "read_only",
    "stream_offset",
];

/// Reads `type` and what goes with it; none, with a fault, when there is no such kind. Keys that the kind does not
/// take are taken out and told of.
pub(super) fn read_kind(fields: &mut Fields, about: &About, report: &mut Report) -> Option<RawKind> {
    let place = &about.place;
    let kind = match fields.text("type", place, report) {
        None => RawKind::Rollup,
        Some(text) => match snake_case(&text.text).as_str() {
            "rollup" => RawKind::Rollup,
            "original_sql" => RawKind::OriginalSql,
            "rollup_join" => RawKind::Join(read_rollups(fields, place, report)),
            "rollup_lambda" => {
                let union_with_source = fields.flag("union_with_source_data", place, report).unwrap_or(false);
                RawKind::Lambda { rollups: read_rollups(fields, place, report), union_with_source }
            }
            "auto_rollup" => {
                report.error(place, text.mark, "Auto rollups supported only in Enterprise version");
                return None;
            }
            folded => {
                let message = format!(
                    "(preAggregations.{}.type = {}) must be one of [autoRollup, originalSql, rollupJoin, rollup]",
                    about.name, text.text
                );
                let words = ["rollup", "original_sql", "rollup_join", "rollup_lambda"];
                let hint = nearest(folded, words).map(|near| format!("did you mean '{near}'?"));
                report.error(place, text.mark, message).hint = hint;
                return None;
            }
        },
    };
    check_keys(&kind, fields, about, report);
    Some(kind)
}

fn read_rollups(fields: &mut Fields, place: &Place, report: &mut Report) -> Vec<Text> {
    let mut rollups = fields.texts("rollups", place, report);
    rollups.extend(fields.texts("rollup_references", place, report));
    rollups
}

fn check_keys(kind: &RawKind, fields: &mut Fields, about: &About, report: &mut Report) {
    match kind {
        RawKind::Rollup => refuse(fields, &ROLLUP_LISTS, about, report),
        RawKind::OriginalSql => {
            refuse(fields, &MEMBER_KEYS, about, report);
            refuse(fields, &ROLLUP_LISTS, about, report);
            let others = ["use_original_sql_pre_aggregations", "output_column_types"];
            refuse(fields, &others, about, report);
            drop_idle(kind, fields, &["granularity"], "its rows are not grouped", about, report);
        }
        RawKind::Join(_) | RawKind::Lambda { .. } => {
            let lambda = matches!(kind, RawKind::Lambda { .. });
            refuse(fields, &["output_column_types", "unique_key_columns"], about, report);
            refuse(fields, &["time_dimensions"], about, report);
            let of_kind = if lambda { "allow_non_strict_date_range_match" } else { "union_with_source_data" };
            refuse(fields, &[of_kind], about, report);
            check_scheduled(fields, lambda, about, report);
            let idle = "it has no partitions of its own";
            drop_idle(kind, fields, &STORED_KEYS, idle, about, report);
            drop_idle(kind, fields, &["use_original_sql_pre_aggregations"], idle, about, report);
        }
    }
}

/// What has no partitions is never refreshed; saying so is allowed for joins.
fn check_scheduled(fields: &mut Fields, lambda: bool, about: &About, report: &mut Report) {
    let Some(mark) = fields.mark_of("scheduled_refresh") else { return };
    let wanted = fields.flag("scheduled_refresh", &about.place, report);
    if wanted == Some(true) || lambda {
        let kind = if lambda { "rollupLambda" } else { "rollupJoin" };
        let message = format!("Scheduled refresh is unsupported for {kind} of {}", about.place.owner());
        report.error(&about.place, mark, message).hint = Some("its rollups are refreshed by themselves".to_owned());
    }
}

/// Keys that a kind does not take.
fn refuse(fields: &mut Fields, keys: &[&str], about: &About, report: &mut Report) {
    for key in keys {
        let Some(mark) = fields.mark_of(key) else { continue };
        let value = fields.take(key).map(|node| node.to_json()).unwrap_or_default();
        let shown = match value {
            serde_json::Value::Array(_) | serde_json::Value::Object(_) => String::new(),
            serde_json::Value::String(text) => format!(" = {text}"),
            other => format!(" = {other}"),
        };
        let message = format!("(preAggregations.{}.{}{shown}) is not allowed", about.name, camel_case(key));
        report.error(&about.place, mark, message);
    }
}

/// Keys that are allowed and mean nothing.
fn drop_idle(kind: &RawKind, fields: &mut Fields, keys: &[&str], why: &str, about: &About, report: &mut Report) {
    for key in keys {
        if let Some(mark) = fields.mark_of(key) {
            fields.take(key);
            let message = format!("'{key}' has no effect in a pre-aggregation of type {}: {why}", kind.word());
            report.warn(&about.place, mark, message);
        }
    }
}

/// `time_dimension` → `timeDimension`, as messages name keys.
fn camel_case(key: &str) -> String {
    let mut words = key.split('_');
    let mut out = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        out.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        out.push_str(letters.as_str());
    }
    out
}

/// Reads the options; those without effect here are said to be so.
pub(super) fn read_options(fields: &mut Fields, about: &About, report: &mut Report) -> RawOptions {
    let place = &about.place;
    let use_original_sql = fields.flag("use_original_sql_pre_aggregations", place, report).unwrap_or(false);
    let indexes = read_indexes(fields, about, report);
    let key_mark = fields.mark_of("unique_key_columns");
    let unique_key_columns = fields.texts("unique_key_columns", place, report);
    if let Some(mark) = key_mark {
        report.warn(place, mark, "'unique_key_columns' has no effect: partitions are replaced as a whole");
    }
    if let Some(mark) = fields.mark_of("read_only")
        && fields.flag("read_only", place, report) == Some(false)
    {
        report.warn(place, mark, "'read_only: false' has no effect: builds never write into a source");
    }
    if let Some(offset) = fields.text("stream_offset", place, report) {
        if ["earliest", "latest"].contains(&offset.text.as_str()) {
            report.warn(place, offset.mark, "'stream_offset' has no effect: no source here is a stream");
        } else {
            let message = format!(
                "(preAggregations.{}.streamOffset = {}) must be one of [earliest, latest]",
                about.name, offset.text
            );
            report.error(place, offset.mark, message);
        }
    }
    let typed_members = read_column_types(fields, about, report);
    RawOptions {
        use_original_sql,
        indexes,
        unique_key_columns,
        typed_members,
        sql_alias: read_alias(fields, about, report),
    }
}

fn read_alias(fields: &mut Fields, about: &About, report: &mut Report) -> Option<String> {
    let alias = fields.text("sql_alias", &about.place, report)?;
    if is_identifier(&alias.text) {
        return Some(alias.text);
    }
    let message =
        format!("(preAggregations.{}.sqlAlias = {}) fails to match the identifier pattern", about.name, alias.text);
    report.error(&about.place, alias.mark, message).hint =
        Some("a name is made of letters, digits and '_', and does not begin with a digit".to_owned());
    None
}

fn read_column_types(fields: &mut Fields, about: &About, report: &mut Report) -> Vec<Text> {
    let place = &about.place;
    let mark = fields.mark_of("output_column_types");
    let mut members = Vec::new();
    for node in fields.list("output_column_types", place, report) {
        let Some(mut entry) = Fields::open(node, "an entry of output_column_types", place, report) else { continue };
        entry.check_keys(&["member", "type"], place, report);
        let (member, data_type) = (entry.text("member", place, report), entry.text("type", place, report));
        for (key, given) in [("member", member.is_some()), ("type", data_type.is_some())] {
            if !given {
                let path = format!("preAggregations.{}.outputColumnTypes.{key}", about.name);
                report.error(place, entry.mark, format!("({path}) is required"));
            }
        }
        members.extend(member);
    }
    if let Some(mark) = mark {
        report.warn(place, mark, "'output_column_types' has no effect: columns keep the types that the source gives");
    }
    members
}

/// `indexes`: a list with names, or a map by name.
fn read_indexes(fields: &mut Fields, about: &About, report: &mut Report) -> Vec<RawIndex> {
    let place = &about.place;
    let Some(node) = fields.take("indexes") else { return Vec::new() };
    let (mark, described) = (node.mark, node.describe());
    let entries: Vec<(Option<(String, Mark)>, super::yaml::Node)> = match node.value {
        Value::List(nodes) => nodes.into_iter().map(|node| (None, node)).collect(),
        Value::Map(entries) => entries.into_iter().map(|e| (Some((e.key, e.key_mark)), e.value)).collect(),
        Value::Scalar(_) => {
            report.error(place, mark, "indexes must be defined as array").hint =
                Some(format!("write a list, one '- ' an entry; this is {described}"));
            return Vec::new();
        }
    };
    let mut indexes: Vec<RawIndex> = Vec::with_capacity(entries.len());
    for (name, node) in entries {
        let Some(entry) = Fields::open(node, "an entry of indexes", place, report) else { continue };
        if let Some(index) = read_index(name, entry, about, report) {
            if indexes.iter().any(|known| known.name == index.name) {
                report.error(place, mark, format!("the index '{}' is defined twice", index.name));
            } else {
                indexes.push(index);
            }
        }
    }
    indexes
}

fn read_index(name: Option<(String, Mark)>, mut entry: Fields, about: &About, report: &mut Report) -> Option<RawIndex> {
    let place = &about.place;
    entry.check_keys(&["name", "columns", "type", "sql"], place, report);
    let written = entry.text("name", place, report).map(|text| (text.text, text.mark));
    let Some((name, name_mark)) = name.or(written) else {
        report.error(place, entry.mark, format!("(preAggregations.{}.indexes.name) is required", about.name));
        return None;
    };
    if !is_identifier(&name) {
        let message = format!("(name = {name}) with value \"{name}\" fails to match the identifier pattern");
        report.error(place, name_mark, message);
    }
    let path = format!("preAggregations.{}.indexes.{name}", about.name);
    if let Some(mark) = entry.mark_of("sql") {
        report.error(place, mark, format!("({path}.sql) is not allowed: Index SQL support is not implemented")).hint =
            Some("list 'columns' instead".to_owned());
        return None;
    }
    let aggregate = match entry.text("type", place, report) {
        None => false,
        Some(text) if text.text == "regular" => false,
        Some(text) if text.text == "aggregate" => true,
        Some(text) => {
            let message = format!("({path}.type = {}) must be one of [regular, aggregate]", text.text);
            report.error(place, text.mark, message).hint =
                nearest(&text.text, ["regular", "aggregate"]).map(|near| format!("did you mean '{near}'?"));
            false
        }
    };
    let columns = match entry.take("columns") {
        None => Vec::new(),
        // The model language takes one reference for a list of one.
        Some(node) if matches!(node.value, Value::Scalar(_)) => {
            scalar(node, "columns", place, report).into_iter().collect()
        }
        Some(node) => {
            let (mark, described) = (node.mark, node.describe());
            if let Value::List(nodes) = node.value {
                nodes.into_iter().filter_map(|node| scalar(node, "an entry of columns", place, report)).collect()
            } else {
                report.error(place, mark, format!("'columns' must be a list, not {described}"));
                Vec::new()
            }
        }
    };
    if columns.is_empty() {
        report.error(place, entry.mark, format!("({path}.columns) is required"));
        return None;
    }
    Some(RawIndex { name, columns, aggregate })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_one, shop};

    #[track_caller]
    fn check(entry: &str, expected: &str) {
        check_one(&shop("", "", &format!("pre_aggregations:\n  - {{name: main, {entry}}}\n")), expected);
    }

    #[test]
    fn keys_belong_to_kinds() {
        let orders = "error: orders.main: (preAggregations.main";
        check(
            "measures: [total], rollups: [a.b], union_with_source_data: true",
            &format!("{orders}.rollups) is not allowed\n{orders}.unionWithSourceData = true) is not allowed"),
        );
        check("type: original_sql, measures: [total]", &format!("{orders}.measures) is not allowed"));
        check(
            "type: originalSql, use_original_sql_pre_aggregations: true",
            &format!("{orders}.useOriginalSqlPreAggregations = true) is not allowed"),
        );
        check(
            "type: original_sql, time_dimension: created_at, granularity: day, partition_granularity: month",
            "warning: orders.main: 'granularity' has no effect in a pre-aggregation of type original_sql: its rows are \
             not grouped",
        );
    }

    #[test]
    fn options_are_checked_and_said_to_have_no_effect() {
        let main = "measures: [total], dimensions: [status]";
        let no_effect = |what: &str| format!("warning: orders.main: '{what}");
        check(
            &format!("{main}, unique_key_columns: [status]"),
            &no_effect("unique_key_columns' has no effect: partitions are replaced as a whole"),
        );
        check(
            &format!("{main}, unique_key_columns: [stats]"),
            &format!(
                "{}\nerror: orders.main: stats is not defined | did you mean 'status'?",
                no_effect("unique_key_columns' has no effect: partitions are replaced as a whole")
            ),
        );
        check(&format!("{main}, read_only: true"), "");
        check(
            &format!("{main}, read_only: false"),
            &no_effect("read_only: false' has no effect: builds never write into a source"),
        );
        check(
            &format!("{main}, stream_offset: latest"),
            &no_effect("stream_offset' has no effect: no source here is a stream"),
        );
        check(
            &format!("{main}, stream_offset: middle"),
            "error: orders.main: (preAggregations.main.streamOffset = middle) must be one of [earliest, latest]",
        );
        let types = "output_column_types' has no effect: columns keep the types that the source gives";
        check(&format!("{main}, output_column_types: [{{member: total, type: bigint}}]"), &no_effect(types));
        check(
            &format!("{main}, output_column_types: [{{member: total}}]"),
            &format!(
                "{}\nerror: orders.main: (preAggregations.main.outputColumnTypes.type) is required",
                no_effect(types)
            ),
        );
        check(
            &format!("{main}, sql_alias: 2x"),
            "error: orders.main: (preAggregations.main.sqlAlias = 2x) fails to match the identifier pattern | a name is \
             made of letters, digits and '_', and does not begin with a digit",
        );
    }

    #[test]
    fn indexes_name_stored_columns() {
        let main = "measures: [total], dimensions: [status, users.city], time_dimension: created_at, granularity: day";
        let index = |index: &str| format!("{main}, indexes: [{index}]");
        check(&index("{name: a, columns: [status]}"), "");
        check(&index("{name: a, columns: [CUBE.status, orders__created_at_day], type: aggregate}"), "");
        check(&format!("{main}, indexes: {{a: {{columns: [users.city]}}, b: {{columns: status}}}}"), "");
        check(
            &index("{name: a, columns: [id]}"),
            "error: orders.main: the index 'a' lists 'id', which is not stored | stored columns: orders__status, \
             users__city, orders__created_at_day, orders__total",
        );
        check(
            &index("{name: a, columns: [orders__status, orders__creatd_at_day]}"),
            "error: orders.main: the index 'a' lists 'orders__creatd_at_day', which is not stored | did you mean \
             'orders__created_at_day'?",
        );
        check(
            &index("{name: a, sql: SELECT 1}"),
            "error: orders.main: (preAggregations.main.indexes.a.sql) is not allowed: Index SQL support is not \
             implemented | list 'columns' instead",
        );
        check(&index("{name: a}"), "error: orders.main: (preAggregations.main.indexes.a.columns) is required");
        check(
            &index("{name: a, columns: [status], type: aggregat}"),
            "error: orders.main: (preAggregations.main.indexes.a.type = aggregat) must be one of [regular, aggregate] | \
             did you mean 'aggregate'?",
        );
        check(&index("{columns: [status]}"), "error: orders.main: (preAggregations.main.indexes.name) is required");
    }
}
