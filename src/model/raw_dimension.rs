//! Dimensions as they are written.

use serde_json::Value as Json;

use super::cube::DataType;
use super::fields::{Fields, Place, Report, Text, scalar, without_references};
use super::format::FormatOf;
use super::raw::{About, read_about, warn_ignored};
use super::raw_granularity::{RawGranularity, read_granularities};
use super::raw_link::{RawLink, read_links};
use super::raw_measure::{RawShift, read_shift};
use super::raw_member::{RawMask, RawShown, read_format, read_mask, read_shown, read_sql};
use super::yaml::Value;
use crate::names::nearest;
use crate::time::Granularity;

const DIMENSION_KEYS: [&str; 33] = [
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
    "grain",
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
    "filters",
];

const TYPES: [&str; 6] = ["string", "number", "boolean", "time", "geo", "switch"];

#[derive(Debug, Clone)]
pub(super) struct RawDimension {
    pub(super) about: About,
    pub(super) format: Option<Json>,
    pub(super) shown: RawShown,
    /// None when the type is missing or unknown.
    pub(super) data_type: Option<DataType>,
    pub(super) primary_key: bool,
    pub(super) suggest_filter_values: bool,
    pub(super) granularities: Vec<RawGranularity>,
    /// Standard granularities that it offers; all when none.
    pub(super) offered: Option<Vec<Granularity>>,
    pub(super) sql: Option<Text>,
    pub(super) case: Option<RawCase>,
    /// Latitude and longitude.
    pub(super) point: Option<(Text, Text)>,
    /// Set for a switch.
    pub(super) values: Option<Vec<String>>,
    /// Set when it is computed by a query of its own.
    pub(super) sub_query: Option<RawSubQuery>,
    pub(super) mask: Option<RawMask>,
    pub(super) shifts: Vec<RawShift>,
    pub(super) links: Vec<RawLink>,
}

#[derive(Debug, Clone)]
pub(super) struct RawSubQuery {
    pub(super) propagate_filters: bool,
    /// Multi-stage, and no sub-query.
    pub(super) staged: bool,
    pub(super) by: Vec<Text>,
}

#[derive(Debug, Clone)]
pub(super) struct RawCase {
    pub(super) when: Vec<(Text, RawLabel)>,
    pub(super) otherwise: Option<RawLabel>,
}

#[derive(Debug, Clone)]
pub(super) enum RawLabel {
    Text(String),
    Sql(Text),
}

pub(super) fn read_dimension(mut fields: Fields, cube: &Place, report: &mut Report) -> RawDimension {
    let about = read_about(&mut fields, "dimension", &DIMENSION_KEYS, cube, report);
    let place = &about.place;
    let written = fields.text("type", place, report);
    if written.is_none() {
        let message = format!("({}) is required", about.path("dimensions", "type"));
        report.error(place, about.mark, message).hint = Some("one of string, number, boolean, time".to_owned());
    }
    let data_type = written.as_ref().and_then(|text| dimension_type(text, &about, report));
    let word = written.as_ref().map_or("", |text| text.text.as_str());
    let primary_key = fields.flag("primary_key", place, report).unwrap_or(false);
    let suggest_filter_values = fields.flag("suggest_filter_values", place, report).unwrap_or(true);
    let (granularities, offered) = read_granularities(&mut fields, data_type, place, report);
    warn_ignored(&mut fields, &["field_type", "filters"], place, report);
    for key in ["values_as_segments", "enable_suggestions"] {
        fields.take(key);
    }
    let sub_query = read_sub_query(&mut fields, place, report);
    let point = (word == "geo").then(|| read_point(&mut fields, &about, report)).flatten();
    for key in ["latitude", "longitude"] {
        if let Some(mark) = fields.mark_of(key) {
            report.error(place, mark, format!("'{key}' is for dimensions of type geo"));
        }
    }
    let values = (word == "switch").then(|| read_values(&mut fields, &about, report));
    let sql = read_sql(&mut fields, place, report);
    let case_mark = fields.mark_of("case");
    let case = fields.map("case", place, report).and_then(|case| read_case(case, place, report));
    match (sql.is_some(), case_mark) {
        (true, Some(mark)) => {
            report.error(place, mark, "'sql' and 'case' exclude each other");
        }
        (false, None) if !matches!(word, "geo" | "switch") => {
            report.error(place, about.mark, format!("({}) is required", about.path("dimensions", "sql")));
        }
        _ => {}
    }
    if let (Some(_), true) = (&sub_query, case_mark.is_some() || point.is_some() || values.is_some()) {
        report.error(place, about.mark, "a sub-query dimension is given by 'sql' alone");
    }
    let mut shifts = Vec::new();
    for node in fields.list("time_shift", place, report) {
        if let Some(shift) = Fields::open(node, "an entry of time_shift", place, report) {
            shifts.extend(read_shift(shift, place, report));
        }
    }
    let of = data_type.map(FormatOf::Dimension);
    let (links, written_links) = read_links(&mut fields, place, report);
    RawDimension {
        format: read_format(&mut fields, of, place, report),
        shown: RawShown { links: written_links, ..read_shown(&mut fields, of, place, report) },
        links,
        data_type,
        primary_key,
        suggest_filter_values,
        granularities,
        offered,
        sql,
        case,
        point,
        values,
        sub_query,
        mask: read_mask(&mut fields, place, report),
        shifts,
        about,
    }
}

fn dimension_type(text: &Text, about: &About, report: &mut Report) -> Option<DataType> {
    match text.text.as_str() {
        "string" | "geo" | "switch" => Some(DataType::String),
        "number" => Some(DataType::Number),
        "boolean" => Some(DataType::Boolean),
        "time" => Some(DataType::Time),
        other => {
            let message =
                format!("({} = {other}) must be one of [{}]", about.path("dimensions", "type"), TYPES.join(", "));
            let hint = nearest(other, TYPES).map(|near| format!("did you mean '{near}'?"));
            report.error(&about.place, text.mark, message).hint = hint;
            None
        }
    }
}

fn read_sub_query(fields: &mut Fields, place: &Place, report: &mut Report) -> Option<RawSubQuery> {
    let sub_query = fields.flag("sub_query", place, report).unwrap_or(false);
    let multi_stage = fields.flag("multi_stage", place, report).unwrap_or(false);
    let propagate_mark = fields.mark_of("propagate_filters_to_sub_query");
    let propagate = fields.flag("propagate_filters_to_sub_query", place, report).unwrap_or(false);
    let mut by = fields.texts("add_group_by", place, report);
    if let Some(mut grain) = fields.map("grain", place, report) {
        grain.check_keys(&["include"], place, report);
        by.extend(grain.texts("include", place, report));
    }
    if let (Some(mark), false, true) = (propagate_mark, sub_query, propagate) {
        report.warn(place, mark, "'propagate_filters_to_sub_query' has no effect without 'sub_query'");
    }
    // A multi-stage dimension sees the conditions of the query; its measures are grouped by what it adds.
    let staged = multi_stage && !sub_query;
    (sub_query || staged).then_some(RawSubQuery { propagate_filters: propagate || staged, staged, by })
}

fn read_point(fields: &mut Fields, about: &About, report: &mut Report) -> Option<(Text, Text)> {
    let place = &about.place;
    let latitude = fields.sql_map("latitude", place, report);
    let longitude = fields.sql_map("longitude", place, report);
    if latitude.is_none() || longitude.is_none() {
        let path = about.path("dimensions", "latitude");
        report.error(place, about.mark, format!("({path}) is required, and longitude")).hint =
            Some("for example 'latitude: {sql: lat}'".to_owned());
    }
    latitude.zip(longitude)
}

fn read_values(fields: &mut Fields, about: &About, report: &mut Report) -> Vec<String> {
    let place = &about.place;
    let values: Vec<String> =
        fields.texts("values", place, report).iter().map(|t| without_references(t, "values", place, report)).collect();
    if values.is_empty() {
        report.error(place, about.mark, format!("({}) is required", about.path("dimensions", "values"))).hint =
            Some("the list of values of the switch".to_owned());
    }
    values
}

fn read_case(mut fields: Fields, place: &Place, report: &mut Report) -> Option<RawCase> {
    if let Some(mark) = fields.mark_of("switch") {
        report.error(place, mark, "'case' with 'switch' is for measures").hint =
            Some("a dimension's 'case' has branches with 'sql' and 'label'".to_owned());
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
