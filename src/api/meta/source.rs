//! How cubes and members are defined, as `/v1/meta?extended` shows it: SQL as template literals, joins, rollups.

use std::path::Path;

use serde_json::{Value, json};

use super::{Item, Viewer};
use crate::model::refresh_key::Schedule;
use crate::model::template::FilterColumn;
use crate::model::{
    Cube, CubeId, CubeSource, Join, MemberId, Part, Preagg, PreaggId, PreaggIndex, PreaggKind, PreaggTime, RefreshKey,
    Relationship, Template,
};

impl Viewer<'_> {
    /// Where the rows of a cube come from.
    pub(super) fn put_source(&self, cube: &Cube, item: &mut Item) {
        if let CubeSource::Query(sql) = &cube.source {
            item.put("sql", self.sql(cube.id, sql));
        }
        item.put_given("extends", cube.extends.clone().map(Value::from));
        item.put("fileName", json!(file_name(&cube.location.file)));
        item.put_given("refreshKey", cube.refresh_key.as_ref().map(|key| self.refresh_key(cube.id, key)));
        item.put("joins", cube.joins.iter().map(|join| self.join(cube.id, join)).collect());
        item.put("preAggregations", cube.preaggs.iter().map(|rollup| self.rollup(cube, rollup)).collect());
    }

    fn join(&self, owner: CubeId, join: &Join) -> Value {
        let relationship = match join.relationship {
            Relationship::OneToOne => "hasOne",
            Relationship::OneToMany => "hasMany",
            Relationship::ManyToOne => "belongsTo",
        };
        let name = &self.model.cube(join.to).name;
        json!({"name": name, "sql": self.sql(owner, &join.sql), "relationship": relationship})
    }

    pub(in crate::api) fn rollup(&self, cube: &Cube, rollup: &Preagg) -> Value {
        let list = |members: Vec<MemberId>| -> Option<Value> {
            let names: Vec<String> = members.into_iter().map(|member| self.reference(cube.id, member)).collect();
            (!names.is_empty()).then(|| json!(format!("[{}]", names.join(", "))))
        };
        let mut item = Item::default();
        let grain = |time: PreaggTime| json!(self.model.dimension(time.dimension).grain_name(time.grain));
        item.put("name", json!(rollup.name));
        let kind = match rollup.kind {
            PreaggKind::Rollup => "rollup",
            PreaggKind::OriginalSql => "originalSql",
            PreaggKind::Join { .. } => "rollupJoin",
            PreaggKind::Lambda { .. } => "rollupLambda",
        };
        item.put("type", json!(kind));
        item.put("external", json!(rollup.external));
        item.put_given("granularity", rollup.time.map(grain));
        item.put_given("partitionGranularity", rollup.partition_granularity.map(|g| json!(g.as_str())));
        item.put_given("refreshKey", rollup.refresh_key.as_ref().map(|key| self.refresh_key(cube.id, key)));
        if rollup.time.is_some() {
            item.put("allowNonStrictDateRangeMatch", json!(!rollup.strict));
        }
        item.put("scheduledRefresh", json!(rollup.scheduled_refresh));
        let time = rollup.time.map(|time| json!(self.reference(cube.id, MemberId::Dimension(time.dimension))));
        item.put_given("timeDimensionReference", time);
        item.put_given(
            "dimensionReferences",
            list(rollup.dimensions.iter().copied().map(MemberId::Dimension).collect()),
        );
        item.put_given("measureReferences", list(rollup.measures.iter().copied().map(MemberId::Measure).collect()));
        item.put_given("segmentReferences", list(rollup.segments.iter().copied().map(MemberId::Segment).collect()));
        self.put_kind(rollup, &mut item);
        // Functions, there; only that they are given shows.
        item.put_given("refreshRangeStart", rollup.build_range_start.as_ref().map(|_| json!({})));
        item.put_given("refreshRangeEnd", rollup.build_range_end.as_ref().map(|_| json!({})));
        item.finish()
    }

    fn refresh_key(&self, owner: CubeId, key: &RefreshKey) -> Value {
        let mut item = Item::default();
        match key {
            RefreshKey::Sql { sql, every } => {
                item.put("sql", self.sql(owner, sql));
                item.put_given("every", every.as_ref().map(|every| json!(every.text)));
            }
            RefreshKey::Time(key) => {
                item.put("every", json!(key.schedule.text()));
                let zone = if let Schedule::Cron(cron) = &key.schedule { cron.timezone } else { None };
                item.put_given("timezone", zone.map(|zone| json!(zone.name())));
                item.put_given("incremental", key.incremental.then(|| json!(true)));
                item.put_given("updateWindow", key.update_window.as_ref().map(|window| json!(window.text)));
            }
            RefreshKey::Immutable => item.put("immutable", json!(true)),
        }
        item.finish()
    }

    /// What belongs to one kind alone, and the indexes.
    fn put_kind(&self, rollup: &Preagg, item: &mut Item) {
        let name = |id: &PreaggId| format!("{}.{}", self.model.cube(id.cube).name, self.model.preagg(*id).name);
        if let PreaggKind::Join { rollups } | PreaggKind::Lambda { rollups, .. } = &rollup.kind {
            let names: Vec<String> = rollups.iter().map(name).collect();
            item.put("rollupReferences", json!(format!("[{}]", names.join(", "))));
        }
        if let PreaggKind::Lambda { union_with_source: true, .. } = rollup.kind {
            item.put("unionWithSourceData", json!(true));
        }
        if rollup.use_original_sql {
            item.put("useOriginalSqlPreAggregations", json!(true));
        }
        if !rollup.indexes.is_empty() {
            let index = |index: &PreaggIndex| {
                let kind = if index.aggregate { "aggregate" } else { "regular" };
                (index.name.clone(), json!({"columns": index.columns, "type": kind}))
            };
            item.put("indexes", rollup.indexes.iter().map(index).collect::<serde_json::Map<_, _>>().into());
        }
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
    pub(super) fn sql(&self, owner: CubeId, template: &Template) -> Value {
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
                        let column = match &param.column {
                            FilterColumn::Column(sql) => format!("'{sql}'"),
                            FilterColumn::Function(..) => "…".to_owned(),
                        };
                        let member = self.model.path_of(param.member);
                        text.push_str(&format!("${{FILTER_PARAMS.{member}.filter({column})}}"));
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

/// A path below the model folder.
fn file_name(file: &Path) -> String {
    let below = ["model", "schema"].iter().find_map(|folder| file.strip_prefix(folder).ok()).unwrap_or(file);
    below.display().to_string()
}
