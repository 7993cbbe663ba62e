//! Views as they are written (`data-model.md` §8).

use serde_json::Value as Json;

use super::fields::{Fields, Place, Report, Text, scalar};
use super::raw::{About, read_about};
use super::raw_policy::{RawPolicy, read_policies};
use super::yaml::{Mark, Node, Value};

const VIEW_KEYS: [&str; 17] = [
    "name",
    "extends",
    "cubes",
    "folders",
    "default_filters",
    "filters",
    "access_policy",
    "title",
    "description",
    "meta",
    "public",
    "shown",
    "view_group",
    "view_groups",
    "includes",
    "data_source",
    "sql_alias",
];

#[derive(Debug, Clone)]
pub(super) struct RawView {
    pub(super) about: About,
    pub(super) sql_alias: Option<String>,
    pub(super) extends: Option<Text>,
    pub(super) parent_unknown: bool,
    pub(super) cubes: Vec<RawImport>,
    pub(super) folders: Vec<RawFolder>,
    pub(super) default_filters: Vec<RawDefaultFilter>,
    pub(super) policies: Vec<RawPolicy>,
    pub(super) groups: Vec<String>,
}

/// An entry of a view's `cubes`.
#[derive(Debug, Clone)]
pub(super) struct RawImport {
    pub(super) join_path: Text,
    /// All members when none.
    pub(super) includes: Option<Vec<RawInclude>>,
    pub(super) excludes: Vec<Text>,
    pub(super) prefix: bool,
    pub(super) alias: Option<String>,
    pub(super) split: bool,
    pub(super) mark: Mark,
}

/// A member that a view lists.
#[derive(Debug, Clone)]
pub(super) struct RawInclude {
    pub(super) name: Text,
    pub(super) alias: Option<String>,
    pub(super) title: Option<String>,
    pub(super) description: Option<String>,
    pub(super) format: Option<Json>,
    pub(super) meta: Option<Json>,
}

#[derive(Debug, Clone)]
pub(super) struct RawFolder {
    pub(super) name: String,
    /// All members when none.
    pub(super) includes: Option<Vec<RawFolderItem>>,
}

#[derive(Debug, Clone)]
pub(super) enum RawFolderItem {
    Member(Text),
    JoinPath(Text),
    Folder(RawFolder),
}

#[derive(Debug, Clone)]
pub(super) struct RawDefaultFilter {
    pub(super) filter: Json,
    pub(super) unless: Vec<Text>,
    pub(super) mark: Mark,
}

pub(super) fn read_view(mut fields: Fields, file: &Place, report: &mut Report) -> RawView {
    let about = read_about(&mut fields, "view", &VIEW_KEYS, file, report);
    let place = about.place.clone();
    let extends = fields.text("extends", &place, report);
    let mut cubes = Vec::new();
    for node in fields.list("cubes", &place, report) {
        if let Some(import) = Fields::open(node, "an entry of cubes", &place, report) {
            cubes.extend(read_import(import, &place, report));
        }
    }
    for node in fields.list("includes", &place, report) {
        report.error(&place, node.mark, "'includes' of a view itself is no longer supported").hint =
            Some("list the members under 'cubes', with a 'join_path'".to_owned());
    }
    let folders = fields.list("folders", &place, report);
    let mut default_filters = Vec::new();
    for key in ["default_filters", "filters"] {
        for node in fields.list(key, &place, report) {
            default_filters.extend(read_default_filter(node, &place, report));
        }
    }
    let mut groups: Vec<String> = fields.plain("view_group", &place, report).into_iter().collect();
    for text in fields.texts("view_groups", &place, report) {
        if !groups.contains(&text.text) {
            groups.push(text.text);
        }
    }
    fields.take("data_source");
    RawView {
        sql_alias: fields.plain("sql_alias", &place, report),
        extends,
        parent_unknown: false,
        cubes,
        folders: folders.into_iter().filter_map(|node| read_folder(node, 0, &place, report)).collect(),
        default_filters,
        policies: read_policies(&mut fields, &place, report),
        groups,
        about,
    }
}

fn read_import(mut fields: Fields, place: &Place, report: &mut Report) -> Option<RawImport> {
    let mark = fields.mark;
    fields.check_keys(&["join_path", "includes", "excludes", "prefix", "alias", "split"], place, report);
    let prefix = fields.flag("prefix", place, report).unwrap_or(false);
    let split = fields.flag("split", place, report).unwrap_or(false);
    let alias = fields.plain("alias", place, report);
    let excludes = fields.texts("excludes", place, report);
    for text in excludes.iter().filter(|text| text.text.contains('.')) {
        let message = format!("Paths aren't allowed in cube excludes but '{}' provided as exclude member", text.text);
        report.error(place, text.mark, message);
    }
    let includes = match fields.take("includes") {
        None => {
            report.error(place, mark, "(cubes.includes) is required").hint =
                Some("a list of members, or '*' for all".to_owned());
            Some(Vec::new())
        }
        Some(Node { value: Value::Scalar(scalar), .. }) if scalar.text == "*" => None,
        Some(Node { value: Value::List(nodes), .. }) => {
            Some(nodes.into_iter().filter_map(|node| read_include(node, place, report)).collect())
        }
        Some(node) => {
            report.error(place, node.mark, format!("'includes' must be a list or \"*\", not {}", node.describe()));
            Some(Vec::new())
        }
    };
    if prefix && split {
        report.error(place, mark, "Using split together with prefix is not supported");
    }
    let Some(join_path) = fields.text("join_path", place, report) else {
        report.error(place, mark, "(cubes.joinPath) is required").hint =
            Some("a cube, or cubes joined by dots: 'orders.users'".to_owned());
        return None;
    };
    Some(RawImport { join_path, includes, excludes, prefix, alias, split, mark })
}

fn read_include(node: Node, place: &Place, report: &mut Report) -> Option<RawInclude> {
    let plain = |name| RawInclude { name, alias: None, title: None, description: None, format: None, meta: None };
    let include = if matches!(node.value, Value::Map(_)) {
        let mut fields = Fields::open(node, "an entry of includes", place, report)?;
        fields.check_keys(&["name", "alias", "title", "description", "format", "meta"], place, report);
        let Some(name) = fields.text("name", place, report) else {
            report.error(place, fields.mark, "name isn't defined for an entry of includes");
            return None;
        };
        RawInclude {
            alias: fields.plain("alias", place, report),
            title: fields.plain("title", place, report),
            description: fields.plain("description", place, report),
            format: fields.take("format").map(|format| format.to_json()),
            meta: fields.take("meta").map(|meta| meta.to_json()),
            ..plain(name)
        }
    } else {
        plain(scalar(node, "an entry of includes", place, report)?)
    };
    if include.name.text.contains('.') {
        let message =
            format!("Paths aren't allowed in cube includes but '{}' provided as include member", include.name.text);
        report.error(place, include.name.mark, message);
        return None;
    }
    Some(include)
}

/// Deepest nesting of folders.
const MAX_FOLDERS: usize = 32;

fn read_folder(node: Node, depth: usize, place: &Place, report: &mut Report) -> Option<RawFolder> {
    let mut fields = Fields::open(node, "an entry of folders", place, report)?;
    let mark = fields.mark;
    fields.check_keys(&["name", "includes"], place, report);
    let Some(name) = fields.plain("name", place, report) else {
        report.error(place, mark, "name isn't defined for folder");
        return None;
    };
    if depth > MAX_FOLDERS {
        report.error(place, mark, format!("folders nest deeper than {MAX_FOLDERS} levels"));
        return None;
    }
    let includes = match fields.take("includes") {
        Some(Node { value: Value::Scalar(scalar), .. }) if scalar.text == "*" => None,
        Some(Node { value: Value::List(nodes), .. }) => {
            let items = nodes.into_iter().filter_map(|node| read_folder_item(node, depth, place, report));
            Some(items.collect())
        }
        _ => {
            report.error(place, mark, format!("(folders.{name}.includes) is required")).hint =
                Some("a list of members of the view, or '*' for all".to_owned());
            return None;
        }
    };
    Some(RawFolder { name, includes })
}

fn read_folder_item(node: Node, depth: usize, place: &Place, report: &mut Report) -> Option<RawFolderItem> {
    let Value::Map(entries) = &node.value else {
        return scalar(node, "an entry of includes", place, report).map(RawFolderItem::Member);
    };
    if !entries.iter().any(|entry| entry.key == "join_path" || entry.key == "joinPath") {
        return read_folder(node, depth + 1, place, report).map(RawFolderItem::Folder);
    }
    let mut fields = Fields::open(node, "an entry of includes", place, report)?;
    fields.check_keys(&["join_path"], place, report);
    fields.text("join_path", place, report).map(RawFolderItem::JoinPath)
}

fn read_default_filter(node: Node, place: &Place, report: &mut Report) -> Option<RawDefaultFilter> {
    let filter = node.to_json();
    let mut fields = Fields::open(node, "an entry of default_filters", place, report)?;
    let mark = fields.mark;
    fields.check_keys(&["member", "operator", "values", "unless", "and", "or"], place, report);
    let unless = fields.texts("unless", place, report);
    let mut filter = filter;
    if let Some(map) = filter.as_object_mut() {
        map.remove("unless");
    }
    Some(RawDefaultFilter { filter, unless, mark })
}
