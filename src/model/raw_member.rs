//! Measures, dimensions and segments as they are written.

use serde_json::Value as Json;

use super::cube::{AggKind, DataType};
use super::fields::{Fields, Place, Report, Text, scalar, snake_case, without_references};
use super::raw::{
    About, RawCase, RawDimension, RawLabel, RawMeasure, RawMeasureKind, RawSegment, read_about, warn_ignored,
};
use super::yaml::{Mark, Node, Value};
use crate::names::{is_identifier, nearest};

const MEASURE_KEYS: [&str; 27] = [
    "name",
    "type",
    "sql",
    "filters",
    "title",
    "description",
    "format",
    "currency",
    "meta",
    "public",
    "shown",
    "visible",
    "drill_members",
    "drill_filters",
    "aliases",
    "cumulative",
    "mask",
    "rolling_window",
    "multi_stage",
    "time_shift",
    "case",
    "group_by",
    "reduce_by",
    "add_group_by",
    "grain",
    "filter",
    "order_by",
];
/// Keys that change a measure's values in ways that are not computed here.
const MEASURE_BLOCKERS: [&str; 10] = [
    "rolling_window",
    "multi_stage",
    "time_shift",
    "case",
    "group_by",
    "reduce_by",
    "add_group_by",
    "grain",
    "filter",
    "order_by",
];
const MEASURE_IGNORED: [&str; 4] = ["mask", "currency", "drill_filters", "aliases"];

const DIMENSION_KEYS: [&str; 31] = [
    "name",
    "type",
    "sql",
    "case",
    "primary_key",
    "title",
    "description",
    "format",
    "currency",
    "meta",
    "public",
    "shown",
    "visible",
    "suggest_filter_values",
    "granularities",
    "sub_query",
    "propagate_filters_to_sub_query",
    "multi_stage",
    "add_group_by",
    "latitude",
    "longitude",
    "key",
    "values",
    "time_shift",
    "mask",
    "order",
    "aliases",
    "links",
    "field_type",
    "values_as_segments",
    "enable_suggestions",
];
/// Keys that change a dimension's values in ways that are not computed here.
const DIMENSION_BLOCKERS: [&str; 6] = ["sub_query", "multi_stage", "add_group_by", "latitude", "longitude", "key"];
const DIMENSION_IGNORED: [&str; 7] = ["mask", "currency", "time_shift", "order", "aliases", "links", "field_type"];

const SEGMENT_KEYS: [&str; 9] =
    ["name", "sql", "title", "description", "meta", "public", "shown", "visible", "aliases"];

pub(super) fn read_measure(mut fields: Fields, cube: &Place, report: &mut Report) -> RawMeasure {
    let about = read_about(&mut fields, "measure", &MEASURE_KEYS, cube, report);
    let place = &about.place;
    let (kind, unknown_type) = match fields.text("type", place, report) {
        Some(text) => measure_kind(&text, &about, report),
        None => {
            let message = format!("({}) is required", about.path("measures", "type"));
            report.error(place, about.mark, message).hint = Some("for example 'type: count'".to_owned());
            (None, None)
        }
    };
    let cumulative_hint = fields.flag("cumulative", place, report).unwrap_or(false);
    let cumulative = cumulative_hint || fields.mark_of("rolling_window").is_some();
    let unsupported = take_blockers(&mut fields, unknown_type, &MEASURE_BLOCKERS, place, report);
    warn_ignored(&mut fields, &MEASURE_IGNORED, place, report);
    let sql = read_sql(&mut fields, place, report);
    let needs_sql = !matches!(kind, None | Some(RawMeasureKind::Aggregate(AggKind::Count)));
    if sql.is_none() && needs_sql && !matches!(unsupported, Some("rank" | "case" | "multi_stage")) {
        report.error(place, about.mark, format!("({}) is required", about.path("measures", "sql")));
    }
    let filters = read_filters(&mut fields, place, report);
    let drill_members = fields.texts("drill_members", place, report);
    let format = fields.take("format").map(|format| format.to_json());
    RawMeasure { format, unsupported, kind, sql, filters, drill_members, cumulative, about }
}

/// The kind of a measure, and the type's name when it is one that is not computed here.
fn measure_kind(text: &Text, about: &About, report: &mut Report) -> (Option<RawMeasureKind>, Option<&'static str>) {
    use RawMeasureKind::{Aggregate, Calculated};
    let unsupported = |kind, word| (Some(kind), Some(word));
    let (kind, unsupported) = match snake_case(&text.text).as_str() {
        "count" => (Some(Aggregate(AggKind::Count)), None),
        "count_distinct" => (Some(Aggregate(AggKind::CountDistinct)), None),
        "sum" => (Some(Aggregate(AggKind::Sum)), None),
        "avg" => (Some(Aggregate(AggKind::Avg)), None),
        "min" => (Some(Aggregate(AggKind::Min)), None),
        "max" => (Some(Aggregate(AggKind::Max)), None),
        "number" => (Some(Calculated(DataType::Number)), None),
        "string" => (Some(Calculated(DataType::String)), None),
        "time" => (Some(Calculated(DataType::Time)), None),
        "boolean" => (Some(Calculated(DataType::Boolean)), None),
        "count_distinct_approx" => unsupported(Aggregate(AggKind::CountDistinct), "count_distinct_approx"),
        "number_agg" => unsupported(Calculated(DataType::Number), "number_agg"),
        "rank" => unsupported(Calculated(DataType::Number), "rank"),
        _ => {
            let message = format!(
                "({} = {}) must be one of [count, number, string, boolean, time, sum, avg, min, max, \
                 countDistinct, countDistinctApprox]",
                about.path("measures", "type"),
                text.text
            );
            let words = ["count", "count_distinct", "sum", "avg", "min", "max", "number", "string", "time", "boolean"];
            let hint = nearest(&snake_case(&text.text), words).map(|near| format!("did you mean '{near}'?"));
            report.error(&about.place, text.mark, message).hint = hint;
            (None, None)
        }
    };
    if let Some(word) = unsupported {
        warn_uncomputed(&format!("type '{word}'"), text.mark, &about.place, report);
    }
    (kind, unsupported)
}

fn warn_uncomputed(what: &str, mark: Mark, place: &Place, report: &mut Report) {
    let message = format!("{what} is not computed by this version; queries that ask for this member fail");
    report.warn(place, mark, message);
}

/// Takes keys that make a member one that is not computed here; warns of the first, unless the type does so already.
fn take_blockers(
    fields: &mut Fields,
    by_type: Option<&'static str>,
    keys: &[&'static str],
    place: &Place,
    report: &mut Report,
) -> Option<&'static str> {
    let mut blocker = by_type;
    for key in keys {
        let mark = fields.mark_of(key);
        if let (Some(mark), Some(node)) = (mark, fields.take(key))
            && blocker.is_none()
            && node.to_json() != Json::Bool(false)
        {
            blocker = Some(*key);
            warn_uncomputed(&format!("'{key}'"), mark, place, report);
        }
    }
    blocker
}

/// The `sql` of a member; an empty one is a fault.
fn read_sql(fields: &mut Fields, place: &Place, report: &mut Report) -> Option<Text> {
    let sql = fields.text("sql", place, report)?;
    if sql.text.trim().is_empty() {
        report.error(place, sql.mark, "'sql' is empty");
    }
    Some(sql)
}

fn read_filters(fields: &mut Fields, place: &Place, report: &mut Report) -> Vec<Text> {
    let mut filters = Vec::new();
    for node in fields.list("filters", place, report) {
        let Some(mut filter) = Fields::open(node, "an entry of filters", place, report) else { continue };
        filter.check_keys(&["sql"], place, report);
        match read_sql(&mut filter, place, report) {
            Some(sql) => filters.push(sql),
            None => {
                report.error(place, filter.mark, "(filters.sql) is required");
            }
        }
    }
    filters
}

pub(super) fn read_dimension(mut fields: Fields, cube: &Place, report: &mut Report) -> RawDimension {
    let about = read_about(&mut fields, "dimension", &DIMENSION_KEYS, cube, report);
    let place = &about.place;
    let (data_type, unknown_type) = match fields.text("type", place, report) {
        Some(text) => dimension_type(&text, &about, report),
        None => {
            let message = format!("({}) is required", about.path("dimensions", "type"));
            report.error(place, about.mark, message).hint = Some("one of string, number, boolean, time".to_owned());
            (None, None)
        }
    };
    let mut unsupported = take_blockers(&mut fields, unknown_type, &DIMENSION_BLOCKERS, place, report);
    warn_ignored(&mut fields, &DIMENSION_IGNORED, place, report);
    let primary_key = fields.flag("primary_key", place, report).unwrap_or(false);
    let suggest_filter_values = fields.flag("suggest_filter_values", place, report).unwrap_or(true);
    let custom_granularities = read_granularities(&mut fields, data_type, place, report);
    let sql = read_sql(&mut fields, place, report);
    let case_mark = fields.mark_of("case");
    let case = fields.map("case", place, report).and_then(|case| read_case(case, &mut unsupported, place, report));
    match (sql.is_some(), case_mark) {
        (true, Some(mark)) => {
            report.error(place, mark, "'sql' and 'case' exclude each other");
        }
        (false, None) if !matches!(unsupported, Some("geo" | "switch")) => {
            report.error(place, about.mark, format!("({}) is required", about.path("dimensions", "sql")));
        }
        _ => {}
    }
    let format = fields.take("format").map(|format| format.to_json());
    RawDimension {
        format,
        unsupported,
        data_type,
        primary_key,
        suggest_filter_values,
        custom_granularities,
        sql,
        case,
        about,
    }
}

fn dimension_type(text: &Text, about: &About, report: &mut Report) -> (Option<DataType>, Option<&'static str>) {
    let unsupported = match text.text.as_str() {
        "string" => return (Some(DataType::String), None),
        "number" => return (Some(DataType::Number), None),
        "boolean" => return (Some(DataType::Boolean), None),
        "time" => return (Some(DataType::Time), None),
        "geo" => "geo",
        "switch" => "switch",
        other => {
            let words = ["string", "number", "boolean", "time", "geo", "switch"];
            let message =
                format!("({} = {other}) must be one of [{}]", about.path("dimensions", "type"), words.join(", "));
            let hint = nearest(other, words).map(|near| format!("did you mean '{near}'?"));
            report.error(&about.place, text.mark, message).hint = hint;
            return (None, None);
        }
    };
    warn_uncomputed(&format!("type '{unsupported}'"), text.mark, &about.place, report);
    (Some(DataType::String), Some(unsupported))
}

/// Names of custom granularities, from a list or from `{includes, excludes, custom}`.
fn read_granularities(
    fields: &mut Fields,
    data_type: Option<DataType>,
    place: &Place,
    report: &mut Report,
) -> Vec<String> {
    let Some(mark) = fields.mark_of("granularities") else { return Vec::new() };
    if data_type.is_some_and(|data_type| data_type != DataType::Time) {
        report.error(place, mark, "'granularities' are for dimensions of type time");
    }
    let Some(node) = fields.take("granularities") else { return Vec::new() };
    let nodes = match node.value {
        Value::List(nodes) => nodes,
        value @ Value::Map(_) => {
            let node = Node { mark: node.mark, value };
            let Some(mut dict) = Fields::open(node, "'granularities'", place, report) else { return Vec::new() };
            dict.check_keys(&["includes", "excludes", "custom"], place, report);
            warn_ignored(&mut dict, &["includes", "excludes"], place, report);
            dict.list("custom", place, report)
        }
        Value::Scalar(_) => {
            report.error(place, node.mark, "granularities must be defined as array");
            return Vec::new();
        }
    };
    let names: Vec<String> = nodes.into_iter().filter_map(|node| granularity_name(node, place, report)).collect();
    if !names.is_empty() {
        let message = format!("custom granularities are not computed by this version: {}", names.join(", "));
        report.warn(place, mark, message);
    }
    names
}

fn granularity_name(node: Node, place: &Place, report: &mut Report) -> Option<String> {
    let mut fields = Fields::open(node, "an entry of granularities", place, report)?;
    fields.check_keys(&["name", "title", "interval", "offset", "origin", "sql", "format"], place, report);
    match fields.text("name", place, report) {
        Some(name) if is_identifier(&name.text) => Some(name.text),
        Some(Text { text, mark, .. }) => {
            let message = format!("(name = {text}) with value \"{text}\" fails to match the identifier pattern");
            report.error(place, mark, message);
            None
        }
        None => {
            report.error(place, fields.mark, "name isn't defined for granularity");
            None
        }
    }
}

fn read_case(
    mut fields: Fields,
    unsupported: &mut Option<&'static str>,
    place: &Place,
    report: &mut Report,
) -> Option<RawCase> {
    if let Some(mark) = fields.mark_of("switch") {
        unsupported.get_or_insert("case");
        warn_uncomputed("'case' with 'switch'", mark, place, report);
        return None;
    }
    fields.check_keys(&["when", "else", "switch"], place, report);
    let mut when = Vec::new();
    let nodes = fields.list("when", place, report);
    if nodes.is_empty() {
        report.error(place, fields.mark, "(case.when) is required").hint =
            Some("a list of entries with 'sql' and 'label'".to_owned());
    }
    for node in nodes {
        let Some(mut branch) = Fields::open(node, "an entry of when", place, report) else { continue };
        branch.check_keys(&["sql", "label"], place, report);
        let sql = read_sql(&mut branch, place, report);
        if sql.is_none() {
            report.error(place, branch.mark, "(case.when.sql) is required");
        }
        let label = read_label(&mut branch, "(case.when.label) is required", place, report);
        when.extend(sql.zip(label));
    }
    let otherwise = fields.map("else", place, report).and_then(|mut otherwise| {
        otherwise.check_keys(&["label"], place, report);
        read_label(&mut otherwise, "(case.else.label) is required", place, report)
    });
    Some(RawCase { when, otherwise })
}

fn read_label(fields: &mut Fields, missing: &str, place: &Place, report: &mut Report) -> Option<RawLabel> {
    let Some(node) = fields.take("label") else {
        report.error(place, fields.mark, missing);
        return None;
    };
    if !matches!(node.value, Value::Map(_)) {
        let text = scalar(node, "label", place, report)?;
        return Some(RawLabel::Text(without_references(&text, "label", place, report)));
    }
    let mut label = Fields::open(node, "'label'", place, report)?;
    label.check_keys(&["sql"], place, report);
    let sql = read_sql(&mut label, place, report);
    if sql.is_none() {
        report.error(place, label.mark, "(label.sql) is required");
    }
    sql.map(RawLabel::Sql)
}

pub(super) fn read_segment(mut fields: Fields, cube: &Place, report: &mut Report) -> RawSegment {
    let about = read_about(&mut fields, "segment", &SEGMENT_KEYS, cube, report);
    warn_ignored(&mut fields, &["aliases"], &about.place, report);
    let sql = read_sql(&mut fields, &about.place, report);
    if sql.is_none() {
        report.error(&about.place, about.mark, format!("({}) is required", about.path("segments", "sql")));
    }
    RawSegment { about, sql }
}
