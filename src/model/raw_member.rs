//! What measures, dimensions and segments have alike as they are written; segments and hierarchies.

use serde_json::Value as Json;

use super::cube::DataType;
use super::fields::{Fields, Place, Report, Text, scalar};
use super::format::{FormatOf, is_currency};
use super::policy::Mask;
use super::raw::{About, read_about, warn_ignored};
use super::raw_measure::literal_mask;
use super::yaml::{Node, Scalar, ScalarKind, Value};

const SEGMENT_KEYS: [&str; 9] =
    ["name", "sql", "title", "description", "meta", "public", "shown", "visible", "aliases"];
const HIERARCHY_KEYS: [&str; 8] = ["name", "title", "description", "meta", "public", "shown", "visible", "levels"];

#[derive(Debug, Clone)]
pub(super) struct RawSegment {
    pub(super) about: About,
    pub(super) sql: Option<Text>,
}

#[derive(Debug, Clone)]
pub(super) struct RawHierarchy {
    pub(super) about: About,
    pub(super) levels: Vec<Text>,
}

/// See [`Mask`].
#[derive(Debug, Clone)]
pub(super) enum RawMask {
    Literal(Mask),
    Sql(Text),
}

/// See [`super::cube::Shown`].
#[derive(Debug, Clone, Default)]
pub(super) struct RawShown {
    pub(super) currency: Option<String>,
    pub(super) order: Option<String>,
    pub(super) key: Option<Text>,
    pub(super) aliases: Vec<String>,
    pub(super) links: Option<Json>,
    pub(super) synthetic: bool,
}

/// The `sql` of a member; an empty one is a fault.
pub(super) fn read_sql(fields: &mut Fields, place: &Place, report: &mut Report) -> Option<Text> {
    let sql = fields.text("sql", place, report)?;
    if sql.text.trim().is_empty() {
        report.error(place, sql.mark, "'sql' is empty");
    }
    Some(sql)
}

/// The list of `{sql: …}` under `key`: `filters` or `drill_filters`.
pub(super) fn read_filters(fields: &mut Fields, key: &str, place: &Place, report: &mut Report) -> Vec<Text> {
    let mut filters = Vec::new();
    for node in fields.list(key, place, report) {
        let Some(mut filter) = Fields::open(node, &format!("an entry of {key}"), place, report) else { continue };
        filter.check_keys(&["sql"], place, report);
        match read_sql(&mut filter, place, report) {
            Some(sql) => filters.push(sql),
            None => {
                report.error(place, filter.mark, format!("({key}.sql) is required"));
            }
        }
    }
    filters
}

/// A literal, or `{sql: …}`. A text needs inner quotes, as an expression of texts does (`data-model.md` §1.2).
pub(super) fn read_mask(fields: &mut Fields, place: &Place, report: &mut Report) -> Option<RawMask> {
    let node = fields.take("mask")?;
    let mark = node.mark;
    match node.value {
        Value::Map(_) => {
            let mut map = Fields::open(node, "'mask'", place, report)?;
            map.check_keys(&["sql"], place, report);
            let sql = read_sql(&mut map, place, report);
            if sql.is_none() {
                report.error(place, mark, "(mask.sql) is required");
            }
            sql.map(RawMask::Sql)
        }
        Value::Scalar(Scalar { kind: ScalarKind::Text, ref text, .. }) => {
            let inner = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
            match inner('\'').or_else(|| inner('"')) {
                Some(inner) => Some(RawMask::Literal(Mask::Text(inner.to_owned()))),
                None => {
                    let message = format!("the mask '{text}' is neither a literal nor a map with 'sql'");
                    report.error(place, mark, message).hint =
                        Some("a text needs quotes of its own: mask: \"'***'\"".to_owned());
                    None
                }
            }
        }
        _ => {
            let mask = literal_mask(&node.to_json());
            if mask.is_none() {
                report.error(place, mark, format!("a mask cannot be {}", node.describe()));
            }
            mask.map(RawMask::Literal)
        }
    }
}

/// A display format; a fault when it does not fit. `of` is none when the type is not known.
pub(super) fn read_format(
    fields: &mut Fields,
    of: Option<FormatOf>,
    place: &Place,
    report: &mut Report,
) -> Option<Json> {
    let node = fields.take("format")?;
    let (mark, format) = (node.mark, node.to_json());
    if let Some(fault) = of.and_then(|of| of.fault(&format)) {
        report.error(place, mark, fault);
    }
    Some(format)
}

pub(super) fn read_shown(fields: &mut Fields, of: Option<FormatOf>, place: &Place, report: &mut Report) -> RawShown {
    let currency = fields.text("currency", place, report);
    if let (Some(currency), Some(of)) = (&currency, of)
        && of.data_type() != DataType::Number
    {
        let message = match of {
            FormatOf::Dimension(_) => {
                "\"currency\" property can only be used with dimensions of type \"number\"".to_owned()
            }
            FormatOf::Measure(data_type) => format!(
                "\"currency\" property can only be used with numeric measures, actual type: {}",
                data_type.as_str()
            ),
        };
        report.error(place, currency.mark, message);
    }
    if let Some(Text { text, mark, .. }) = &currency
        && !is_currency(text)
    {
        let message =
            format!("\"{text}\" is not a valid currency code. Expected a valid 3-letter ISO 4217 code (e.g. USD, EUR)");
        report.error(place, *mark, message);
    }
    let order = fields.text("order", place, report);
    if let Some(Text { text, mark, .. }) = &order
        && !matches!(text.as_str(), "asc" | "desc")
    {
        report.error(place, *mark, format!("(order = {text}) must be one of [asc, desc]"));
    }
    RawShown {
        currency: currency.map(|text| text.text.to_uppercase()),
        order: order.map(|text| text.text),
        key: fields.text("key", place, report),
        aliases: fields.texts("aliases", place, report).into_iter().map(|text| text.text).collect(),
        links: None,
        synthetic: false,
    }
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

pub(super) fn read_hierarchy(mut fields: Fields, cube: &Place, report: &mut Report) -> RawHierarchy {
    let about = read_about(&mut fields, "hierarchy", &HIERARCHY_KEYS, cube, report);
    let levels = fields.texts("levels", &about.place, report);
    if levels.is_empty() {
        report.error(&about.place, about.mark, format!("({}) is required", about.path("hierarchies", "levels")));
    }
    RawHierarchy { about, levels }
}

/// The texts of a list.
pub(super) fn texts_of(node: Node, key: &str, place: &Place, report: &mut Report) -> Vec<Text> {
    let (mark, described) = (node.mark, node.describe());
    match node.value {
        Value::List(nodes) => {
            nodes.into_iter().filter_map(|node| scalar(node, &format!("an entry of {key}"), place, report)).collect()
        }
        Value::Scalar(_) | Value::Map(_) => {
            report.error(place, mark, format!("{key} must be defined as array")).hint =
                Some(format!("write a list, one '- ' an entry; this is {described}"));
            Vec::new()
        }
    }
}

/// `"*"`, or the texts of a list; none for `"*"`.
pub(super) fn all_or_some(
    fields: &mut Fields,
    key: &str,
    place: &Place,
    report: &mut Report,
) -> Option<Option<Vec<Text>>> {
    let node = fields.take(key)?;
    Some(match &node.value {
        Value::Scalar(scalar) if scalar.text == "*" => None,
        _ => Some(texts_of(node, key, place, report)),
    })
}
