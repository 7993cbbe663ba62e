//! `/v1/meta`: describes the model (`http-api.md` §7.3); [`entities`] describes it with its lineage.

pub(super) mod entities;
mod members;
mod source;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::error::json_response;
use super::{ApiParts, Call};
use crate::model::cube::Hierarchy;
use crate::model::view::{Folder, FolderItem, ViewGroup, ViewGroupItem};
use crate::model::{Cube, CubeId, Diagnostic, Dimension, Measure, MemberId, Model, Segment, Severity};
use crate::query::policy::{Asker, may_select};

/// Reads nothing but `extended` (its presence counts) and `onlyViews` (exactly `true`).
pub(super) fn meta(parts: &ApiParts, call: &Call) -> Response<Body> {
    let current = call.model(parts);
    let extended = call.arguments.contains_key("extended");
    let only_views = call.arguments.get("onlyViews").and_then(Value::as_str) == Some("true");
    let asker = call.asker(parts);
    let viewer = Viewer { extended, ..Viewer::new(parts, call, current.rollups.model(), &asker) };
    let shown = viewer.model.cubes().iter().filter(|cube| viewer.sees(cube));
    let cubes: Vec<Value> =
        shown.filter(|cube| !only_views || cube.view().is_some()).map(|cube| viewer.cube(cube).finish()).collect();
    let mut body = json!({ "cubes": cubes });
    let groups = viewer.groups();
    if !extended && !groups.is_empty() {
        body["viewGroups"] = json!(groups);
    }
    if parts.options.dev_mode && current.diagnostics.iter().any(|found| found.severity == Severity::Error) {
        body["quarry"] = json!({ "modelFaults": current.diagnostics.iter().map(fault).collect::<Vec<_>>() });
    }
    json_response(StatusCode::OK, body.to_string())
}

/// What is wrong with the model files, which have changed since the model was compiled that is served.
fn fault(found: &Diagnostic) -> Value {
    let mut item = Item::default();
    item.put("severity", json!(if found.severity == Severity::Error { "error" } else { "warning" }));
    item.put("file", json!(found.location.file.display().to_string()));
    item.put("line", json!(found.location.line));
    item.put("column", json!(found.location.column));
    item.put_given("member", found.member.clone().map(Value::from));
    item.put("message", json!(found.message));
    item.put_given("hint", found.hint.clone().map(Value::from));
    item.finish()
}

/// A model in the eyes of one caller.
pub(super) struct Viewer<'a> {
    pub(super) model: &'a Model,
    asker: &'a Asker,
    /// With SQL, joins and rollups.
    extended: bool,
    /// What is not visible too, with `isVisible: false`.
    all: bool,
    /// `CUBEJS_NESTED_FOLDERS_DELIMITER`: between the names of nested folders in `folders`; merged when empty.
    delimiter: &'a str,
}

impl<'a> Viewer<'a> {
    pub(super) fn new(parts: &'a ApiParts, call: &Call, model: &'a Model, asker: &'a Asker) -> Self {
        let all = call.caller.sees_inside(parts);
        Self { model, asker, extended: false, all, delimiter: &parts.options.nested_folders_delimiter }
    }

    /// Whether some policy lets the caller have a member.
    fn granted(&self, member: MemberId) -> bool {
        may_select(self.model, self.asker, member)
    }

    fn visible(&self, cube: &Cube, public: bool, member: MemberId) -> bool {
        cube.public && public && self.granted(member)
    }

    fn measures<'m>(&'m self, cube: &'m Cube) -> impl Iterator<Item = &'m Measure> {
        let shown = |m: &&Measure| self.all || self.visible(cube, m.public, MemberId::Measure(m.id));
        cube.measures.iter().filter(shown)
    }

    fn dimensions<'m>(&'m self, cube: &'m Cube) -> impl Iterator<Item = &'m Dimension> {
        let shown = |d: &&Dimension| self.all || self.visible(cube, d.public, MemberId::Dimension(d.id));
        cube.dimensions.iter().filter(shown)
    }

    fn segments<'m>(&'m self, cube: &'m Cube) -> impl Iterator<Item = &'m Segment> {
        let shown = |s: &&Segment| self.all || self.visible(cube, s.public, MemberId::Segment(s.id));
        cube.segments.iter().filter(shown)
    }

    /// Whether there is anything to show of a cube.
    fn sees(&self, cube: &Cube) -> bool {
        self.measures(cube).next().is_some()
            || self.dimensions(cube).next().is_some()
            || self.segments(cube).next().is_some()
    }

    /// What describes a cube as a whole.
    fn head(&self, cube: &Cube) -> Item {
        let mut item = Item::default();
        item.put("name", json!(cube.name));
        item.put("type", json!(if cube.view().is_some() { "view" } else { "cube" }));
        item.put("title", json!(cube.title));
        item.put_visibility(cube.public);
        item.put_given("description", cube.description.clone().map(Value::from));
        let groups: Vec<&str> = match cube.view() {
            Some(_) => self.model.view_groups().iter().flat_map(|group| group.names_of(cube.id)).collect(),
            None => Vec::new(),
        };
        item.put_given("viewGroups", (!groups.is_empty()).then(|| json!(groups)));
        let component = match cube.view() {
            None => self.model.connected_component(cube.id),
            Some(_) => None,
        };
        item.put_given("connectedComponent", component.map(Value::from));
        item.put_given("meta", cube.meta.clone());
        item
    }

    fn cube(&self, cube: &Cube) -> Item {
        let mut item = self.head(cube);
        item.put("measures", self.measures(cube).map(|measure| self.measure(cube, measure)).collect());
        item.put("dimensions", self.dimensions(cube).map(|dimension| self.dimension(cube, dimension)).collect());
        item.put("segments", self.segments(cube).map(|segment| self.segment(cube, segment)).collect());
        item.put("hierarchies", cube.hierarchies.iter().filter_map(|h| self.hierarchy(cube, h)).collect());
        let folders = cube.view().map_or(&[][..], |view| view.folders.as_slice());
        let mut flat = Vec::new();
        for folder in folders {
            self.flat_folder(folder, "", &mut flat);
        }
        item.put("folders", json!(flat));
        item.put("nestedFolders", folders.iter().filter_map(|folder| self.nested_folder(folder)).collect());
        if self.extended {
            self.put_source(cube, &mut item);
        }
        item
    }

    fn hierarchy(&self, cube: &Cube, hierarchy: &Hierarchy) -> Option<Value> {
        let levels = hierarchy.levels.iter().map(|level| MemberId::Dimension(*level));
        let levels: Vec<String> =
            levels.filter(|level| self.granted(*level)).map(|level| self.model.path_of(level)).collect();
        if levels.is_empty() || !(self.all || hierarchy.public && cube.public) {
            return None;
        }
        let mut item = Item::default();
        item.put("name", json!(format!("{}.{}", cube.name, hierarchy.name)));
        item.put_given("title", hierarchy.title.clone().map(Value::from));
        item.put("public", json!(hierarchy.public));
        item.put("levels", json!(levels));
        Some(item.finish())
    }

    /// A folder as a tree; none when nothing of it may be seen.
    fn nested_folder(&self, folder: &Folder) -> Option<Value> {
        let members = folder.items.iter().filter_map(|item| match item {
            FolderItem::Member(member) => self.granted(*member).then(|| json!(self.model.path_of(*member))),
            FolderItem::Folder(inner) => self.nested_folder(inner),
        });
        let members: Vec<Value> = members.collect();
        (!members.is_empty()).then(|| json!({"name": folder.name, "members": members}))
    }

    /// Adds a folder to a list without nesting: its inner folders before it, each with the path as its name; or, where
    /// no delimiter is set, their members merged into it.
    fn flat_folder(&self, folder: &Folder, parent: &str, flat: &mut Vec<Value>) {
        let name = if parent.is_empty() { folder.name.clone() } else { [parent, &folder.name].join(self.delimiter) };
        let mut members = Vec::new();
        if self.delimiter.is_empty() {
            self.merged(folder, &mut members);
        } else {
            for item in &folder.items {
                match item {
                    FolderItem::Member(member) => self.add_member(*member, &mut members),
                    FolderItem::Folder(inner) => self.flat_folder(inner, &name, flat),
                }
            }
        }
        if !members.is_empty() {
            flat.push(json!({"name": name, "members": members}));
        }
    }

    fn merged(&self, folder: &Folder, members: &mut Vec<String>) {
        for item in &folder.items {
            match item {
                FolderItem::Member(member) => self.add_member(*member, members),
                FolderItem::Folder(inner) => self.merged(inner, members),
            }
        }
    }

    fn add_member(&self, member: MemberId, members: &mut Vec<String>) {
        let path = self.model.path_of(member);
        if self.granted(member) && !members.contains(&path) {
            members.push(path);
        }
    }

    /// Groups of views with what the caller may see of them.
    fn groups(&self) -> Vec<Value> {
        self.model.view_groups().iter().filter_map(|group| self.group(group)).collect()
    }

    fn group(&self, group: &ViewGroup) -> Option<Value> {
        let name = |id: CubeId| {
            let view = self.model.cube(id);
            self.sees(view).then(|| view.name.clone())
        };
        let includes = group.items.iter().filter_map(|item| match item {
            ViewGroupItem::View(view) => name(*view).map(Value::from),
            ViewGroupItem::Group(inner) => self.group(inner),
        });
        let includes: Vec<Value> = includes.collect();
        if includes.is_empty() {
            return None;
        }
        let mut item = Item::default();
        item.put("name", json!(group.name));
        item.put_given("title", group.title.clone().map(Value::from));
        item.put_given("description", group.description.clone().map(Value::from));
        item.put("views", json!(group.views().filter_map(name).collect::<Vec<_>>()));
        item.put("includes", json!(includes));
        Some(item.finish())
    }
}

/// An object whose keys keep their order.
#[derive(Default)]
struct Item(Map<String, Value>);

impl Item {
    fn put(&mut self, key: &str, value: Value) {
        self.0.insert(key.to_owned(), value);
    }

    fn put_given(&mut self, key: &str, value: Option<Value>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }

    /// Both keys say the same; clients look at one or the other.
    fn put_visibility(&mut self, visible: bool) {
        self.put("isVisible", json!(visible));
        self.put("public", json!(visible));
    }

    fn finish(self) -> Value {
        Value::Object(self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::model::CompileContext;
    use crate::model::compile::compile_sources;
    use crate::query::sample;

    fn cubes(model: &Model, extended: bool, all: bool) -> Vec<Value> {
        let asker = Asker::default();
        let viewer = Viewer { model, asker: &asker, extended, all, delimiter: "" };
        model.cubes().iter().filter(|cube| viewer.sees(cube)).map(|cube| viewer.cube(cube).finish()).collect()
    }

    fn names(cube: &Value, key: &str) -> Vec<String> {
        let items = cube[key].as_array().expect("an array").iter();
        items.map(|item| item["name"].as_str().expect("a name").to_owned()).collect()
    }

    #[test]
    fn hidden_members_and_empty_cubes_are_left_out() {
        let cubes = cubes(&sample::model(), false, false);
        assert_eq!(cubes.len(), 1);
        let dimensions = ["orders.status", "orders.created_at", "orders.amount", "orders.paid"];
        assert_eq!(names(&cubes[0], "dimensions"), dimensions);
    }

    #[test]
    fn development_mode_shows_everything_and_says_so() {
        let cubes = cubes(&sample::model(), false, true);
        assert_eq!(cubes.len(), 2);
        assert_eq!(cubes[0]["dimensions"][0]["isVisible"], json!(false));
        // A public member of a hidden cube is not visible.
        assert_eq!(cubes[1]["dimensions"][0]["isVisible"], json!(false));
    }

    #[test]
    fn members_have_the_recorded_keys() {
        let cubes = cubes(&sample::model(), false, false);
        let count = r#"{"name":"orders.count","title":"Orders Count","shortTitle":"Count","formatDescription":{"name":"number","specifier":",.2~f"},"cumulativeTotal":false,"cumulative":false,"type":"number","aggType":"count","drillMembers":["orders.status"],"drillMembersGrouped":{"measures":[],"dimensions":["orders.status"]},"isVisible":true,"public":true}"#;
        assert_eq!(cubes[0]["measures"][0].to_string(), count);
        let amount = r#"{"name":"orders.amount","title":"Orders Amount","shortTitle":"Amount","type":"number","suggestFilterValues":true,"format":"currency","formatDescription":{"name":"currency","specifier":"$,.2~f"},"isVisible":true,"public":true,"primaryKey":false}"#;
        assert_eq!(cubes[0]["dimensions"][2].to_string(), amount);
        assert!(cubes[0]["measures"][2].get("formatDescription").is_none());
    }

    #[test]
    fn extended_shows_sql_and_rollups() {
        let cubes = cubes(&sample::model(), true, false);
        assert_eq!(cubes[0]["fileName"], json!("cubes/orders.yml"));
        assert_eq!(cubes[0]["segments"][0]["sql"], json!("`${CUBE}.status = 'open'`"));
        let rollup = json!([{"name": "main", "type": "rollup", "external": true, "granularity": "day",
            "partitionGranularity": "month", "refreshKey": {"every": "1 hour"}, "allowNonStrictDateRangeMatch": true,
            "scheduledRefresh": true, "timeDimensionReference": "created_at", "dimensionReferences": "[status]",
            "measureReferences": "[count]"}]);
        assert_eq!(cubes[0]["preAggregations"], rollup);
    }

    const POLICIES: &str = "
cubes:
  - name: orders
    sql: SELECT * FROM shop.orders WHERE {FILTER_PARAMS.orders.city.filter('city')}
    refresh_key: {every: 90 second}
    measures:
      - {name: count, type: count, drill_members: [city, email]}
      - {name: total, type: sum, sql: amount}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: city, sql: city, type: string}
      - {name: email, sql: email, type: string}
      - {name: place, type: geo, latitude: {sql: lat}, longitude: {sql: lon}}
    hierarchies:
      - {name: geo, levels: [city, email]}
      - {name: secret, title: Secret, levels: [email]}
    access_policy:
      - {group: sales, member_level: {excludes: [email]}, member_masking: {includes: [place]}}
      - {group: admin}
  - {name: late, extends: orders}
views:
  - name: shop
    cubes: [{join_path: orders, includes: [count, city, email, place]}]
    folders: [{name: A, includes: [city, {name: B, includes: [email, city]}]}, {name: C, includes: [email]}]
    view_group: g
    access_policy:
      - {group: sales, member_level: {includes: [count, city, place]}}
";

    fn policy_model() -> Model {
        let files = [(PathBuf::from("m.yml"), POLICIES.to_owned())];
        compile_sources(&files, &CompileContext::default()).expect("a sound model").model
    }

    fn asker(group: &str) -> Asker {
        Asker::of(json!({ "groups": [group] }))
    }

    #[test]
    fn what_policies_do_not_grant_is_nowhere() {
        let (model, sales) = (policy_model(), asker("sales"));
        let viewer = Viewer { model: &model, asker: &sales, extended: true, all: false, delimiter: "" };
        let cubes: Vec<Value> = model.cubes().iter().map(|cube| viewer.cube(cube).finish()).collect();
        assert_eq!(names(&cubes[0], "dimensions"), ["orders.city", "orders.place"]);
        assert_eq!(cubes[0]["measures"][0]["drillMembers"], json!(["orders.city"]));
        let geo = json!([{"name": "orders.geo", "public": true, "levels": ["orders.city"]}]);
        assert_eq!(cubes[0]["hierarchies"], geo);
        assert_eq!(names(&cubes[2], "dimensions"), ["shop.city", "shop.place"]);
        assert_eq!(cubes[2]["folders"], json!([{"name": "A", "members": ["shop.city"]}]));
        let nested = json!([{"name": "A", "members": ["shop.city", {"name": "B", "members": ["shop.city"]}]}]);
        assert_eq!(cubes[2]["nestedFolders"], nested);
        assert_eq!(viewer.groups(), [json!({"name": "g", "views": ["shop"], "includes": ["shop"]})]);
        assert_eq!(cubes[2]["viewGroups"], json!(["g"]));
        assert_eq!(cubes[2]["dimensions"][1]["type"], json!("geo"));

        let admin = asker("admin");
        let viewer = Viewer { asker: &admin, ..viewer };
        assert_eq!(viewer.dimensions(&model.cubes()[0]).count(), 3);
        assert!(!viewer.sees(&model.cubes()[2]) && viewer.groups().is_empty());
        let nobody = asker("nobody");
        let viewer = Viewer { asker: &nobody, ..viewer };
        assert!(!model.cubes().iter().any(|cube| viewer.sees(cube)));
        // Development mode shows it, and says that it is not visible.
        let viewer = Viewer { all: true, ..viewer };
        let cube = viewer.cube(&model.cubes()[0]).finish();
        assert_eq!(names(&cube, "dimensions").len(), 4);
        assert_eq!(cube["dimensions"][1]["isVisible"], json!(false));
    }

    #[test]
    fn folders_take_the_delimiter() {
        let (model, asker) = (policy_model(), asker("sales"));
        let viewer = Viewer { model: &model, asker: &asker, extended: false, all: false, delimiter: " / " };
        let shop = viewer.cube(model.find_cube("shop").expect("shop")).finish();
        let folders = json!([{"name": "A / B", "members": ["shop.city"]}, {"name": "A", "members": ["shop.city"]}]);
        assert_eq!(shop["folders"], folders);
    }

    #[test]
    fn extended_shows_refresh_keys_as_they_are_written() {
        let shown = |key: &str| {
            let source = format!(
                "cubes:\n  - name: orders\n    sql_table: orders\n    refresh_key: {{{key}}}\n    dimensions: [{{name: at, sql: at, type: time}}]\n"
            );
            let files = [(PathBuf::from("m.yml"), source)];
            let model = compile_sources(&files, &CompileContext::default()).expect("a sound model").model;
            let asker = asker("admin");
            let viewer = Viewer { model: &model, asker: &asker, extended: true, all: false, delimiter: "" };
            viewer.cube(&model.cubes()[0]).finish()["refreshKey"].clone()
        };
        assert_eq!(shown("every: 90 seconds"), json!({"every": "90 seconds"}));
        let cron = json!({"every": "0 8 * * *", "timezone": "Asia/Tokyo"});
        assert_eq!(shown("every: 0 8 * * *, timezone: asia/tokyo"), cron);
        assert_eq!(shown("immutable: true"), json!({"immutable": true}));
        let sql =
            "sql: \"SELECT max(x) FROM {orders.sql()} WHERE {FILTER_PARAMS.orders.at.filter('at')}\", every: 5 minutes";
        let text = "`SELECT max(x) FROM ${orders.sql()} WHERE ${FILTER_PARAMS.orders.at.filter('at')}`";
        assert_eq!(shown(sql), json!({"sql": text, "every": "5 minutes"}));
    }

    #[test]
    fn extended_shows_where_a_cube_comes_from() {
        let (model, asker) = (policy_model(), asker("admin"));
        let viewer = Viewer { model: &model, asker: &asker, extended: true, all: false, delimiter: "" };
        let orders = viewer.cube(&model.cubes()[0]).finish();
        let sql = "`SELECT * FROM shop.orders WHERE ${FILTER_PARAMS.orders.city.filter('city')}`";
        assert_eq!(orders["sql"], json!(sql));
        assert_eq!(orders["refreshKey"], json!({"every": "90 second"}));
        assert!(orders.get("extends").is_none());
        let late = viewer.cube(&model.cubes()[1]).finish();
        assert_eq!(late["extends"], json!("orders"));
    }
}
