//! Measures, dimensions and segments as the metadata show them.

use serde_json::{Value, json};

use super::{Item, Viewer};
use crate::api::annotation::{custom_granularity, drill_members};
use crate::api::shown::{Shown, dimension_type, links};
use crate::model::cube::{CaseLabel, SubQuery};
use crate::model::{Cube, Dimension, DimensionKind, Measure, MeasureKind, MemberId, Segment};

impl Viewer<'_> {
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

    pub(super) fn measure(&self, cube: &Cube, measure: &Measure) -> Value {
        let mut item = self.member(cube, &measure.name, &measure.short_title);
        let data_type = measure.kind.data_type();
        item.put_given("description", measure.description.clone().map(Value::from));
        let shown = Shown::of_measure(measure);
        item.put_given("format", shown.format);
        item.put_given("formatDescription", shown.description);
        item.put_given("currency", shown.currency);
        item.put("cumulativeTotal", json!(measure.cumulative));
        item.put("cumulative", json!(measure.cumulative));
        item.put("type", json!(data_type.as_str()));
        item.put("aggType", json!(self.agg_type(measure)));
        let (all, grouped) = drill_members(self.model, measure.id, &|member| self.granted(member));
        item.put("drillMembers", all);
        item.put("drillMembersGrouped", grouped);
        item.put_given("aliasMember", self.alias_member(MemberId::Measure(measure.id)));
        item.put_given("meta", measure.meta.clone());
        item.put_visibility(self.visible(cube, measure.public, MemberId::Measure(measure.id)));
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

    pub(super) fn dimension(&self, cube: &Cube, dimension: &Dimension) -> Value {
        let mut item = self.member(cube, &dimension.name, &dimension.short_title);
        item.put("type", json!(dimension_type(self.model, dimension)));
        item.put_given("description", dimension.description.clone().map(Value::from));
        item.put("suggestFilterValues", json!(dimension.suggest_filter_values));
        let shown = Shown::of_dimension(dimension);
        item.put_given("format", shown.format);
        item.put_given("formatDescription", shown.description);
        item.put_given("currency", shown.currency);
        item.put_given("meta", dimension.meta.clone());
        item.put_visibility(self.visible(cube, dimension.public, MemberId::Dimension(dimension.id)));
        item.put("primaryKey", json!(dimension.primary_key));
        item.put_given("order", dimension.shown.order.clone().map(Value::from));
        let key = dimension.shown.key.as_ref().map(|key| json!(format!("{}.{key}", cube.name)));
        item.put_given("key", key);
        item.put_given("links", dimension.shown.links.as_ref().map(links));
        item.put_given("synthetic", dimension.shown.synthetic.then(|| json!(true)));
        item.put_given("aliasMember", self.alias_member(MemberId::Dimension(dimension.id)));
        if !dimension.granularities.is_empty() {
            item.put("granularities", dimension.granularities.iter().map(custom_granularity).collect());
        }
        if self.extended {
            self.put_definition(cube, dimension, &mut item);
        }
        item.finish()
    }

    /// How a dimension is computed.
    fn put_definition(&self, cube: &Cube, dimension: &Dimension, item: &mut Item) {
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
                let when = case
                    .when
                    .iter()
                    .map(|branch| json!({"sql": self.sql(cube.id, &branch.condition), "label": label(&branch.label)}));
                let mut shown = json!({ "when": when.collect::<Vec<_>>() });
                if let Some(otherwise) = &case.otherwise {
                    shown["else"] = json!({ "label": label(otherwise) });
                }
                item.put("case", shown);
            }
        }
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

    pub(super) fn segment(&self, cube: &Cube, segment: &Segment) -> Value {
        let mut item = self.member(cube, &segment.name, &segment.short_title);
        item.put_given("description", segment.description.clone().map(Value::from));
        item.put_given("meta", segment.meta.clone());
        item.put_visibility(self.visible(cube, segment.public, MemberId::Segment(segment.id)));
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
}
