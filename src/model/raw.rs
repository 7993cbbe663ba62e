//! Model files as they are written: node tree → raw cubes with positions. Shapes, keys and words are checked here,
//! names are not resolved. Where something is missing or wrong a fault is noted and reading goes on.

use std::path::Path;

use serde_json::Value as Json;

use super::fields::{Fields, Place, Report, Text, snake_case};
use super::join::Relationship;
use super::raw_dimension::{RawDimension, read_dimension};
use super::raw_measure::{RawMeasure, read_measure};
use super::raw_member::{RawHierarchy, RawSegment, read_hierarchy, read_segment};
use super::raw_policy::{RawPolicy, read_policies};
use super::raw_refresh::{RawRefresh, read_refresh_key};
use super::raw_rollup::{RawRollup, read_rollup};
use super::raw_view::{RawView, read_view};
use super::view_groups::{RawViewGroup, read_view_group};
use super::yaml::{Document, Entry, Mark, Node, Scalar, ScalarKind, Value};
use crate::names::{is_identifier, nearest};

const CUBE_KEYS: [&str; 21] = [
    "name",
    "sql",
    "sql_table",
    "sql_alias",
    "data_source",
    "extends",
    "title",
    "description",
    "meta",
    "public",
    "shown",
    "refresh_key",
    "rewrite_queries",
    "calendar",
    "joins",
    "dimensions",
    "measures",
    "segments",
    "hierarchies",
    "pre_aggregations",
    "access_policy",
];
/// Keys of cubes that other versions of this model language act on.
const CUBE_IGNORED: [&str; 1] = ["rewrite_queries"];

/// What one file defines.
#[derive(Debug, Default)]
pub(super) struct RawFile {
    pub(super) cubes: Vec<RawCube>,
    /// Cubes that can only be parents.
    pub(super) anonymous: Vec<RawCube>,
    pub(super) views: Vec<RawView>,
    pub(super) view_groups: Vec<RawViewGroup>,
    /// Its syntax is broken, so what it defines is not known.
    pub(super) broken: bool,
}

/// What every definition has.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) place: Place,
    pub(super) mark: Mark,
    /// Empty when it is missing.
    pub(super) name: String,
    pub(super) title: Option<String>,
    pub(super) description: Option<String>,
    pub(super) meta: Option<Json>,
    pub(super) public: Option<bool>,
}

impl About {
    /// `measures.total.sql`: how messages name a property.
    pub(super) fn path(&self, list: &str, key: &str) -> String {
        let name = if self.name.is_empty() { "?" } else { &self.name };
        format!("{list}.{name}.{key}")
    }
}

#[derive(Debug, Clone)]
pub(super) struct RawCube {
    pub(super) about: About,
    pub(super) sql_alias: Option<String>,
    pub(super) data_source: Option<String>,
    pub(super) source: Option<RawSource>,
    pub(super) calendar: Option<bool>,
    pub(super) refresh: RawRefresh,
    pub(super) extends: Option<Text>,
    /// It inherits from something that is not known.
    pub(super) parent_unknown: bool,
    pub(super) joins: Vec<RawJoin>,
    /// Some join could not be read.
    pub(super) joins_broken: bool,
    pub(super) measures: Vec<RawMeasure>,
    pub(super) dimensions: Vec<RawDimension>,
    pub(super) segments: Vec<RawSegment>,
    pub(super) hierarchies: Vec<RawHierarchy>,
    pub(super) rollups: Vec<RawRollup>,
    pub(super) policies: Vec<RawPolicy>,
}

/// What stands after FROM.
#[derive(Debug, Clone)]
pub(super) enum RawSource {
    Table(Text),
    Query(Text),
}

#[derive(Debug, Clone)]
pub(super) struct RawJoin {
    pub(super) mark: Mark,
    pub(super) to: Text,
    pub(super) relationship: Relationship,
    pub(super) sql: Option<Text>,
}

/// Reads what one file defines.
pub(super) fn read_file(file: &Path, document: Document, report: &mut Report) -> RawFile {
    let place = Place::of_file(file);
    for fault in document.faults {
        report.error(&place, fault.mark, fault.message).hint = fault.hint;
    }
    let mut raw = RawFile { broken: document.broken, ..RawFile::default() };
    for (name, node) in document.anonymous {
        raw.anonymous.extend(read_anonymous(name, node, &place, report));
    }
    let Some(root) = document.root.filter(|root| !root.is_null()) else { return raw };
    let Some(mut fields) = Fields::open(root, "a model file", &place, report) else { return raw };
    for entry in fields.take_unknown(&["cubes", "views", "view_groups"]) {
        let message =
            format!("Unexpected YAML key: {}. Only 'cubes', 'views', and 'view_groups' are allowed here.", entry.key);
        let near = nearest(&entry.key, ["cubes", "views", "view_groups"]);
        report.error(&place, entry.key_mark, message).hint = near.map(|near| format!("did you mean '{near}'?"));
        entry.value.for_each_text(&mut |text| {
            report.doubtful.insert(text.to_owned());
        });
    }
    for node in fields.list("cubes", &place, report) {
        if let Some(cube) = Fields::open(node, "a cube", &place, report) {
            raw.cubes.push(read_cube(cube, &place, report));
        }
    }
    for node in fields.list("views", &place, report) {
        if let Some(view) = Fields::open(node, "a view", &place, report) {
            raw.views.push(read_view(view, &place, report));
        }
    }
    let groups = fields.list("view_groups", &place, report);
    raw.view_groups = groups.into_iter().filter_map(|node| read_view_group(node, 0, &place, report)).collect();
    raw
}

/// A cube that can only be a parent. Its name is made up, and no identifier.
fn read_anonymous(name: String, mut node: Node, file: &Place, report: &mut Report) -> Option<RawCube> {
    let mark = node.mark;
    if let Value::Map(entries) = &mut node.value {
        let text = Scalar { text: "anonymous".to_owned(), kind: ScalarKind::Text, braces: Vec::new() };
        let value = Node { mark, value: Value::Scalar(text) };
        entries.insert(0, Entry { key: "name".to_owned(), key_mark: mark, value });
    }
    let mut cube = read_cube(Fields::open(node, "a cube", file, report)?, file, report);
    cube.about.name = name;
    Some(cube)
}

fn read_cube(mut fields: Fields, file: &Place, report: &mut Report) -> RawCube {
    let about = read_about(&mut fields, "cube", &CUBE_KEYS, file, report);
    let place = about.place.clone();
    warn_ignored(&mut fields, &CUBE_IGNORED, &place, report);
    let extends = fields.text("extends", &place, report);
    let source = read_source(&mut fields, &place, report);
    let nodes = fields.list("joins", &place, report);
    let declared = nodes.len();
    let joins = read_joins(nodes, &place, report);
    RawCube {
        joins_broken: joins.len() < declared,
        sql_alias: fields.plain("sql_alias", &place, report),
        data_source: fields.plain("data_source", &place, report),
        source,
        calendar: fields.flag("calendar", &place, report),
        refresh: read_refresh_key(&mut fields, "refreshKey", true, &place, report),
        extends,
        parent_unknown: false,
        joins,
        measures: members(&mut fields, "measures", &place, report, read_measure),
        dimensions: members(&mut fields, "dimensions", &place, report, read_dimension),
        segments: members(&mut fields, "segments", &place, report, read_segment),
        hierarchies: members(&mut fields, "hierarchies", &place, report, read_hierarchy),
        rollups: members(&mut fields, "pre_aggregations", &place, report, read_rollup),
        policies: read_policies(&mut fields, &place, report),
        about,
    }
}

/// Reads the entries of a list of maps.
fn members<T>(
    fields: &mut Fields,
    key: &'static str,
    cube: &Place,
    report: &mut Report,
    read: impl Fn(Fields, &Place, &mut Report) -> T,
) -> Vec<T> {
    let what = format!("an entry of {key}");
    let nodes = fields.list(key, cube, report);
    nodes
        .into_iter()
        .filter_map(|node: Node| Fields::open(node, &what, cube, report).map(|fields| read(fields, cube, report)))
        .collect()
}

/// Reads the name and what else all definitions share, and complains of unknown keys. `kind` is `measure`…
pub(super) fn read_about(fields: &mut Fields, kind: &str, keys: &[&str], outer: &Place, report: &mut Report) -> About {
    let mark = fields.mark;
    let json = fields.to_json();
    let name = fields.text("name", outer, report);
    let place = name.as_ref().map_or_else(|| outer.clone(), |name| outer.within(&name.text));
    match &name {
        None => {
            report.error(&place, mark, format!("name isn't defined for {kind}: {}", shorten(&json)));
            fields.doubt(report);
        }
        Some(Text { text, mark, .. }) if !is_identifier(text) => {
            let message = format!("(name = {text}) with value \"{text}\" fails to match the identifier pattern");
            report.error(&place, *mark, message).hint =
                Some("a name is made of letters, digits and '_', and does not begin with a digit".to_owned());
        }
        Some(_) => {}
    }
    fields.check_keys(keys, &place, report);
    let title = fields.plain("title", &place, report);
    let description = fields.plain("description", &place, report);
    let public = fields.flag("public", &place, report);
    let shown = fields.flag("shown", &place, report);
    let visible = fields.flag("visible", &place, report);
    About {
        mark,
        name: name.map_or_else(String::new, |name| name.text),
        title,
        description,
        meta: fields.take("meta").map(|meta| meta.to_json()),
        public: public.or(shown).or(visible),
        place,
    }
}

/// Drops keys that have no effect here, with a warning each, unless they are set to `false`.
pub(super) fn warn_ignored(fields: &mut Fields, keys: &[&str], place: &Place, report: &mut Report) {
    for key in keys {
        let mark = fields.mark_of(key);
        if let (Some(mark), Some(node)) = (mark, fields.take(key))
            && node.to_json() != Json::Bool(false)
        {
            report.warn(place, mark, format!("'{key}' has no effect in this version"));
        }
    }
}

fn read_source(fields: &mut Fields, place: &Place, report: &mut Report) -> Option<RawSource> {
    let sql_mark = fields.mark_of("sql");
    let table = fields.text("sql_table", place, report);
    let sql = fields.text("sql", place, report);
    for (text, key) in [(&table, "sql_table"), (&sql, "sql")] {
        if let Some(text) = text.as_ref().filter(|text| text.text.trim().is_empty()) {
            report.error(place, text.mark, format!("'{key}' is empty"));
        }
    }
    match (sql, table) {
        (Some(_), Some(table)) => {
            let message = "You must use either sql or sqlTable within a model, but not both";
            report.error(place, sql_mark.unwrap_or(fields.mark), message);
            Some(RawSource::Table(table))
        }
        (None, None) => None,
        (None, Some(table)) => Some(RawSource::Table(table)),
        (Some(sql), None) => Some(match simple_table(&sql.text) {
            Some(table) => RawSource::Table(Text { text: table.to_owned(), ..sql }),
            None => RawSource::Query(sql),
        }),
    }
}

/// The table of `SELECT * FROM table` (`data-model.md` §3.1 rule 2).
fn simple_table(sql: &str) -> Option<&str> {
    let words: Vec<&str> = sql.split_whitespace().take(5).collect();
    let &[select, "*", from, table] = words.as_slice() else { return None };
    let is_path = table.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '"' | '`' | '-'))
        && !table.contains("--");
    (select.eq_ignore_ascii_case("select") && from.eq_ignore_ascii_case("from") && is_path).then_some(table)
}

fn read_joins(nodes: Vec<Node>, cube: &Place, report: &mut Report) -> Vec<RawJoin> {
    let mut joins = Vec::new();
    for (index, node) in nodes.into_iter().enumerate() {
        if let Some(join) = Fields::open(node, "an entry of joins", cube, report) {
            joins.extend(read_join(join, index, cube, report));
        }
    }
    joins
}

fn read_join(mut fields: Fields, index: usize, cube: &Place, report: &mut Report) -> Option<RawJoin> {
    let mark = fields.mark;
    let json = fields.to_json();
    fields.check_keys(&["name", "sql", "relationship"], cube, report);
    let to = fields.text("name", cube, report);
    let sql = fields.text("sql", cube, report);
    let relationship = fields.text("relationship", cube, report);
    if to.is_none() {
        report.error(cube, mark, format!("name isn't defined for join: {}", shorten(&json)));
    }
    if sql.is_none() {
        report.error(cube, mark, format!("(joins[{index}].sql) is required"));
    }
    let known = relationship.as_ref().and_then(|text| parse_relationship(&text.text));
    match &relationship {
        None => {
            report.error(cube, mark, format!("(joins[{index}].relationship) is required")).hint =
                Some("one of one_to_one, one_to_many, many_to_one".to_owned());
        }
        Some(Text { text, mark, .. }) if known.is_none() => {
            let message = format!(
                "(joins[{index}].relationship = {text}) must be one of [belongsTo, belongs_to, many_to_one, \
                 manyToOne, hasMany, has_many, one_to_many, oneToMany, hasOne, has_one, one_to_one, oneToOne]"
            );
            let words = ["many_to_one", "one_to_many", "one_to_one", "belongs_to", "has_many", "has_one"];
            let near = nearest(&snake_case(text), words).map(|near| format!("did you mean '{near}'?"));
            report.error(cube, *mark, message).hint = near;
        }
        Some(_) => {}
    }
    Some(RawJoin { mark, to: to?, relationship: known.unwrap_or(Relationship::OneToOne), sql })
}

fn parse_relationship(text: &str) -> Option<Relationship> {
    match snake_case(text).as_str() {
        "many_to_one" | "belongs_to" => Some(Relationship::ManyToOne),
        "one_to_many" | "has_many" => Some(Relationship::OneToMany),
        "one_to_one" | "has_one" => Some(Relationship::OneToOne),
        _ => None,
    }
}

/// JSON for messages: not longer than a line.
pub(super) fn shorten(json: &Json) -> String {
    const MAX_CHARS: usize = 120;
    let text = json.to_string();
    match text.char_indices().nth(MAX_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lone_select_star_is_a_table() {
        for (sql, table) in [
            ("SELECT * FROM public.orders", Some("public.orders")),
            ("  select  *\nfrom \"my\".\"orders\" ", Some("\"my\".\"orders\"")),
            ("SELECT * FROM orders WHERE x", None),
            ("SELECT a FROM orders", None),
            ("SELECT * FROM 'orders.parquet'", None),
            ("SELECT * FROM orders;", None),
            ("SELECT * FROM a, b", None),
            ("SELECT * FROM a--", None),
        ] {
            assert_eq!(simple_table(sql), table, "{sql}");
        }
    }

    #[test]
    fn relationships_have_twelve_spellings() {
        for (words, expected) in [
            (["belongsTo", "belongs_to", "many_to_one", "manyToOne"], Relationship::ManyToOne),
            (["hasMany", "has_many", "one_to_many", "oneToMany"], Relationship::OneToMany),
            (["hasOne", "has_one", "one_to_one", "oneToOne"], Relationship::OneToOne),
        ] {
            for word in words {
                assert_eq!(parse_relationship(word), Some(expected), "{word}");
            }
        }
        assert_eq!(parse_relationship("many_to_many"), None);
    }

    #[test]
    fn long_definitions_are_cut_in_messages() {
        let json = Json::String("é".repeat(500));
        assert_eq!(shorten(&json).chars().count(), 121);
        assert_eq!(shorten(&Json::from(1)), "1");
    }
}
