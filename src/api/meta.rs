//! `/v1/meta`: describes the model (`http-api.md` §7.3).

use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::annotation::{custom_granularity, drill_members};
use super::error::json_response;
use super::{ApiParts, Call};
use crate::model::cube::{CaseLabel, Hierarchy, SubQuery};
use crate::model::view::{Folder, FolderItem};
use crate::model::{
    Cube, CubeId, DataType, Dimension, DimensionKind, Measure, MeasureKind, MemberId, Model, Part, Preagg,
    Relationship, Segment, Template,
};

/// Reads nothing but `extended` (its presence counts) and `onlyViews` (exactly `true`).
pub(super) fn meta(parts: &ApiParts, call: &Call) -> Response<Body> {
    let current = parts.model.load_full();
    let extended = call.arguments.contains_key("extended");
    let only_views = call.arguments.get("onlyViews").and_then(Value::as_str) == Some("true");
    let view = View { model: current.rollups.model(), extended, all: parts.options.dev_mode };
    let mut cubes = view.cubes();
    cubes.retain(|cube| !only_views || cube["type"] == "view");
    json_response(StatusCode::OK, json!({ "cubes": cubes }).to_string())
}

/// How a model is shown to one caller.
struct View<'a> {
    model: &'a Model,
    /// With SQL, joins and rollups.
    extended: bool,
    /// Hidden members too, with `isVisible: false`.
    all: bool,
}

impl View<'_> {
    /// A cube without anything to show is left out.
    fn cubes(&self) -> Vec<Value> {
        let shown = |item: &Value| {
            ["measures", "dimensions", "segments"].iter().any(|key| item[key].as_array().is_some_and(|a| !a.is_empty()))
        };
        self.model.cubes().iter().map(|cube| self.cube(cube)).filter(shown).collect()
    }

    fn cube(&self, cube: &Cube) -> Value {
        let mut item = Item::default();
        item.put("name", json!(cube.name));
        item.put("type", json!(if cube.view().is_some() { "view" } else { "cube" }));
        item.put("title", json!(cube.title));
        item.put("isVisible", json!(cube.public));
        item.put("public", json!(cube.public));
        item.put_given("description", cube.description.clone().map(Value::from));
        item.put_given("connectedComponent", self.model.connected_component(cube.id).map(Value::from));
        item.put_given("meta", cube.meta.clone());
        let visible = |public: bool| self.all || (public && cube.public);
        let measures = cube.measures.iter().filter(|m| visible(m.public)).map(|m| self.measure(cube, m));
        item.put("measures", measures.collect());
        let dimensions = cube.dimensions.iter().filter(|d| visible(d.public)).map(|d| self.dimension(cube, d));
        item.put("dimensions", dimensions.collect());
        let segments = cube.segments.iter().filter(|s| visible(s.public)).map(|s| self.segment(cube, s));
        item.put("segments", segments.collect());
        item.put("hierarchies", cube.hierarchies.iter().map(|hierarchy| self.hierarchy(cube, hierarchy)).collect());
        let folders = cube.view().map_or(&[][..], |view| view.folders.as_slice());
        item.put("folders", folders.iter().map(|folder| self.folder(folder, false)).collect());
        item.put("nestedFolders", folders.iter().map(|folder| self.folder(folder, true)).collect());
        if self.extended {
            item.put("fileName", json!(file_name(&cube.location.file)));
            item.put("joins", cube.joins.iter().map(|join| self.join(cube.id, join)).collect());
            item.put("preAggregations", cube.preaggs.iter().map(|rollup| self.rollup(cube, rollup)).collect());
        }
        item.finish()
    }

    fn hierarchy(&self, cube: &Cube, hierarchy: &Hierarchy) -> Value {
        let levels = hierarchy.levels.iter().map(|level| json!(self.model.path_of(MemberId::Dimension(*level))));
        json!({
            "name": format!("{}.{}", cube.name, hierarchy.name),
            "title": hierarchy.title,
            "public": hierarchy.public,
            "isVisible": hierarchy.public,
            "levels": levels.collect::<Vec<_>>(),
        })
    }

    /// A folder as a tree, or with the members of its folders put into it, each once.
    fn folder(&self, folder: &Folder, nested: bool) -> Value {
        let mut members: Vec<Value> = Vec::with_capacity(folder.items.len());
        for item in &folder.items {
            let found = match item {
                FolderItem::Member(member) => vec![json!(self.model.path_of(*member))],
                FolderItem::Folder(inner) if nested => vec![self.folder(inner, true)],
                FolderItem::Folder(inner) => match &self.folder(inner, false)["members"] {
                    Value::Array(members) => members.clone(),
                    _ => Vec::new(),
                },
            };
            for member in found {
                if !members.contains(&member) {
                    members.push(member);
                }
            }
        }
        json!({"name": folder.name, "members": members})
    }

    /// The member of a cube that a view's member stands for.
    fn alias_member(&self, member: MemberId) -> Option<Value> {
        self.model.cube(member.cube()).view()?;
        let templates = match member {
            MemberId::Measure(id) => self.model.measure(id).templates(),
            MemberId::Dimension(id) => self.model.dimension(id).templates(),
            MemberId::Segment(id) => vec![&self.model.segment(id).sql],
        };
        let source = templates.first()?.as_member()?;
        Some(json!(self.model.path_of(source)))
    }

    fn measure(&self, cube: &Cube, measure: &Measure) -> Value {
        let mut item = self.member(cube, &measure.name, &measure.short_title);
        let data_type = measure.kind.data_type();
        item.put_given("description", measure.description.clone().map(Value::from));
        item.put_given("format", measure.format.clone());
        item.put_given("formatDescription", format_description(data_type, measure.format.as_ref()));
        item.put("cumulativeTotal", json!(measure.cumulative));
        item.put("cumulative", json!(measure.cumulative));
        item.put("type", json!(data_type.as_str()));
        item.put("aggType", json!(self.agg_type(measure)));
        let (all, grouped) = drill_members(self.model, measure.id);
        item.put("drillMembers", all);
        item.put("drillMembersGrouped", grouped);
        item.put_given("currency", measure.shown.currency.clone().map(Value::from));
        item.put_given("aliasMember", self.alias_member(MemberId::Measure(measure.id)));
        item.put_given("meta", measure.meta.clone());
        item.put_visibility(cube.public && measure.public, measure.public);
        if self.extended {
            let sql = match &measure.kind {
                _ if cube.view().is_some() => None,
                MeasureKind::Aggregate { sql, .. } => sql.as_ref(),
                MeasureKind::Calculated { sql, .. } => Some(sql),
                MeasureKind::Rank(_) | MeasureKind::Switch(_) => None,
            };
            item.put_given("sql", sql.map(|sql| self.sql(cube.id, sql)));
            if !measure.filters.is_empty() {
                let filters = measure.filters.iter().map(|filter| json!({ "sql": self.sql(cube.id, filter) }));
                item.put("filters", filters.collect());
            }
        }
        item.finish()
    }

    fn dimension(&self, cube: &Cube, dimension: &Dimension) -> Value {
        let mut item = self.member(cube, &dimension.name, &dimension.short_title);
        item.put("type", json!(dimension.data_type.as_str()));
        item.put_given("description", dimension.description.clone().map(Value::from));
        item.put("suggestFilterValues", json!(dimension.suggest_filter_values));
        item.put_given("format", dimension.format.clone());
        if dimension.data_type == DataType::Number {
            let description = format_description(dimension.data_type, dimension.format.as_ref());
            item.put_given("formatDescription", description);
        }
        item.put_given("meta", dimension.meta.clone());
        item.put_visibility(cube.public && dimension.public, dimension.public);
        item.put("primaryKey", json!(dimension.primary_key));
        item.put_given("currency", dimension.shown.currency.clone().map(Value::from));
        item.put_given("order", dimension.shown.order.clone().map(Value::from));
        let key = dimension.shown.key.as_ref().map(|key| json!(format!("{}.{key}", cube.name)));
        item.put_given("key", key);
        item.put_given("links", dimension.shown.links.clone());
        item.put_given("aliasMember", self.alias_member(MemberId::Dimension(dimension.id)));
        if !dimension.granularities.is_empty() {
            item.put("granularities", dimension.granularities.iter().map(custom_granularity).collect());
        }
        if self.extended {
            match &dimension.kind {
                DimensionKind::Sql(_) if cube.view().is_some() => {}
                DimensionKind::Sql(sql) | DimensionKind::SubQuery(SubQuery { sql, .. }) => {
                    item.put("sql", self.sql(cube.id, sql));
                }
                DimensionKind::Geo { latitude, longitude } => {
                    item.put("latitude", json!({ "sql": self.sql(cube.id, latitude) }));
                    item.put("longitude", json!({ "sql": self.sql(cube.id, longitude) }));
                }
                DimensionKind::Switch(values) => item.put("values", json!(values)),
                DimensionKind::Case(case) => {
                    let label = |label: &CaseLabel| match label {
                        CaseLabel::Text(text) => json!(text),
                        CaseLabel::Sql(sql) => json!({ "sql": self.sql(cube.id, sql) }),
                    };
                    let when = case.when.iter().map(
                        |branch| json!({"sql": self.sql(cube.id, &branch.condition), "label": label(&branch.label)}),
                    );
                    let mut shown = json!({ "when": when.collect::<Vec<_>>() });
                    if let Some(otherwise) = &case.otherwise {
                        shown["else"] = json!({ "label": label(otherwise) });
                    }
                    item.put("case", shown);
                }
            }
        }
        item.finish()
    }

    /// The aggregate under a view's measure.
    fn agg_type(&self, measure: &Measure) -> &'static str {
        let source = match &measure.kind {
            MeasureKind::Calculated { sql, .. } if self.model.cube(measure.id.cube).view().is_some() => sql.as_member(),
            _ => None,
        };
        match source {
            Some(MemberId::Measure(id)) => self.agg_type(self.model.measure(id)),
            _ => measure.kind.agg_type(),
        }
    }

    fn segment(&self, cube: &Cube, segment: &Segment) -> Value {
        let mut item = self.member(cube, &segment.name, &segment.short_title);
        item.put_given("description", segment.description.clone().map(Value::from));
        item.put_given("meta", segment.meta.clone());
        item.put_visibility(cube.public && segment.public, segment.public);
        item.put_given("aliasMember", self.alias_member(MemberId::Segment(segment.id)));
        if self.extended && cube.view().is_none() {
            item.put("sql", self.sql(cube.id, &segment.sql));
        }
        item.finish()
    }

    fn member(&self, cube: &Cube, name: &str, short_title: &str) -> Item {
        let mut item = Item::default();
        item.put("name", json!(format!("{}.{name}", cube.name)));
        item.put("title", json!(format!("{} {short_title}", cube.title)));
        item.put("shortTitle", json!(short_title));
        item
    }

    fn join(&self, owner: CubeId, join: &crate::model::Join) -> Value {
        let relationship = match join.relationship {
            Relationship::OneToOne => "hasOne",
            Relationship::OneToMany => "hasMany",
            Relationship::ManyToOne => "belongsTo",
        };
        let name = &self.model.cube(join.to).name;
        json!({"name": name, "sql": self.sql(owner, &join.sql), "relationship": relationship})
    }

    fn rollup(&self, cube: &Cube, rollup: &Preagg) -> Value {
        let list = |members: Vec<MemberId>| -> Option<Value> {
            let names: Vec<String> = members.into_iter().map(|member| self.reference(cube.id, member)).collect();
            (!names.is_empty()).then(|| json!(format!("[{}]", names.join(", "))))
        };
        let mut item = Item::default();
        item.put("name", json!(rollup.name));
        item.put("type", json!("rollup"));
        item.put_given("granularity", rollup.time.map(|time| json!(time.granularity.as_str())));
        item.put_given("partitionGranularity", rollup.partition_granularity.map(|g| json!(g.as_str())));
        item.put_given("refreshKey", rollup.refresh_every.map(|every| json!({ "every": duration_text(every) })));
        item.put("scheduledRefresh", json!(rollup.scheduled_refresh));
        let time = rollup.time.map(|time| json!(self.reference(cube.id, MemberId::Dimension(time.dimension))));
        item.put_given("timeDimensionReference", time);
        item.put_given(
            "dimensionReferences",
            list(rollup.dimensions.iter().copied().map(MemberId::Dimension).collect()),
        );
        item.put_given("measureReferences", list(rollup.measures.iter().copied().map(MemberId::Measure).collect()));
        item.put_given("segmentReferences", list(rollup.segments.iter().copied().map(MemberId::Segment).collect()));
        item.finish()
    }

    /// A member as its own cube's files would name it.
    fn reference(&self, owner: CubeId, member: MemberId) -> String {
        let path = self.model.path_of(member);
        match path.split_once('.') {
            Some((_, name)) if member.cube() == owner => name.to_owned(),
            _ => path,
        }
    }

    /// The source text of a fragment, as recorded: a template literal.
    fn sql(&self, owner: CubeId, template: &Template) -> Value {
        let mut text = String::from("`");
        for part in &template.parts {
            match part {
                Part::Text(sql) => text.push_str(sql),
                Part::Cube(id) if *id == owner => text.push_str("${CUBE}"),
                Part::Cube(id) => text.push_str(&format!("${{{}}}", self.model.cube(*id).name)),
                Part::Member(member) => text.push_str(&format!("${{{}}}", self.reference(owner, *member))),
                Part::Time(id, grain) => {
                    let name = self.reference(owner, MemberId::Dimension(*id));
                    let grain = self.model.dimension(*id).grain_name(*grain);
                    text.push_str(&format!("${{{name}.{grain}}}"));
                }
                Part::Source(id) => text.push_str(&format!("${{{}.sql()}}", self.model.cube(*id).name)),
                Part::Filters(params) => {
                    for param in params {
                        text.push_str(&format!("${{FILTER_PARAMS.{}.filter(…)}}", self.model.path_of(param.member)));
                    }
                }
                Part::Claim(claim) => text.push_str(&format!("${{SECURITY_CONTEXT.{}}}", claim.path.join("."))),
                Part::Local(inner) => {
                    let inner = self.sql(owner, inner);
                    let inner = inner.as_str().unwrap_or_default().trim_matches('`');
                    text.push_str(&format!("${{SQL_UTILS.convertTz(`{inner}`)}}"));
                }
                Part::Path(_) | Part::Parameter(_) => {}
            }
        }
        text.push('`');
        json!(text)
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

    fn put_visibility(&mut self, visible: bool, public: bool) {
        self.put("isVisible", json!(visible));
        self.put("public", json!(public));
    }

    fn finish(self) -> Value {
        Value::Object(self.0)
    }
}

/// `formatDescription`: how a front end writes the values (d3 notation).
fn format_description(data_type: DataType, format: Option<&Value>) -> Option<Value> {
    if data_type != DataType::Number {
        return None;
    }
    let (name, specifier) = match format.and_then(Value::as_str) {
        Some("percent") => ("percent", ".2~%"),
        Some("currency") => ("currency", "$,.2~f"),
        Some("abbr") => ("abbr", ".2~s"),
        Some("id") => ("id", ".0f"),
        _ => ("number", ",.2~f"),
    };
    Some(json!({"name": name, "specifier": specifier}))
}

/// A path below the model folder.
fn file_name(file: &Path) -> String {
    let below = ["model", "schema"].iter().find_map(|folder| file.strip_prefix(folder).ok()).unwrap_or(file);
    below.display().to_string()
}

/// `1 hour`, `90 second`: in the greatest unit that fits without a rest.
fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(604_800, "week"), (86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")];
    let fits = units.into_iter().find(|(length, _)| seconds >= *length && seconds.is_multiple_of(*length));
    let (length, unit) = fits.unwrap_or((1, "second"));
    format!("{} {unit}", seconds / length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::sample;

    fn cubes(extended: bool, all: bool) -> Vec<Value> {
        View { model: &sample::model(), extended, all }.cubes()
    }

    fn names(cube: &Value, key: &str) -> Vec<String> {
        let items = cube[key].as_array().expect("an array").iter();
        items.map(|item| item["name"].as_str().expect("a name").to_owned()).collect()
    }

    #[test]
    fn hidden_members_and_empty_cubes_are_left_out() {
        let cubes = cubes(false, false);
        assert_eq!(cubes.len(), 1);
        let dimensions = ["orders.status", "orders.created_at", "orders.amount", "orders.paid"];
        assert_eq!(names(&cubes[0], "dimensions"), dimensions);
    }

    #[test]
    fn development_mode_shows_everything_and_says_so() {
        let cubes = cubes(false, true);
        assert_eq!(cubes.len(), 2);
        assert_eq!(cubes[0]["dimensions"][0]["isVisible"], json!(false));
        // A public member of a hidden cube is public and still not visible.
        assert_eq!(cubes[1]["dimensions"][0]["isVisible"], json!(false));
        assert_eq!(cubes[1]["dimensions"][0]["public"], json!(true));
    }

    #[test]
    fn members_have_the_recorded_keys() {
        let cubes = cubes(false, false);
        let count = r#"{"name":"orders.count","title":"Orders Count","shortTitle":"Count","formatDescription":{"name":"number","specifier":",.2~f"},"cumulativeTotal":false,"cumulative":false,"type":"number","aggType":"count","drillMembers":["orders.status"],"drillMembersGrouped":{"measures":[],"dimensions":["orders.status"]},"isVisible":true,"public":true}"#;
        assert_eq!(cubes[0]["measures"][0].to_string(), count);
        let amount = r#"{"name":"orders.amount","title":"Orders Amount","shortTitle":"Amount","type":"number","suggestFilterValues":true,"format":"currency","formatDescription":{"name":"currency","specifier":"$,.2~f"},"isVisible":true,"public":true,"primaryKey":false}"#;
        assert_eq!(cubes[0]["dimensions"][2].to_string(), amount);
        assert!(cubes[0]["measures"][2].get("formatDescription").is_none());
    }

    #[test]
    fn extended_shows_sql_and_rollups() {
        let cubes = cubes(true, false);
        assert_eq!(cubes[0]["fileName"], json!("cubes/orders.yml"));
        assert_eq!(cubes[0]["segments"][0]["sql"], json!("`${CUBE}.status = 'open'`"));
        let rollup = json!([{"name": "main", "type": "rollup", "granularity": "day", "partitionGranularity": "month",
            "refreshKey": {"every": "1 hour"}, "scheduledRefresh": true, "timeDimensionReference": "created_at",
            "dimensionReferences": "[status]", "measureReferences": "[count]"}]);
        assert_eq!(cubes[0]["preAggregations"], rollup);
    }

    #[test]
    fn durations_take_the_greatest_unit() {
        assert_eq!(duration_text(Duration::from_secs(3600)), "1 hour");
        assert_eq!(duration_text(Duration::from_secs(90)), "90 second");
        assert_eq!(duration_text(Duration::ZERO), "0 second");
    }
}
