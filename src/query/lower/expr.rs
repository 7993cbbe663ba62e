//! Members → SQL expressions, over a source's rows or over a rollup's stored columns.

use std::collections::HashMap;

use super::context::{claim, pushed_filters};
use super::{Literal, Literals, quote, quote_text};
use crate::model::cube::{Case, CaseLabel, SwitchMeasure};
use crate::model::granularity::GranularityKind;
use crate::model::policy::Mask;
use crate::model::quantile::Quantile;
use crate::model::{
    AggKind, CubeId, DataType, DimensionId, DimensionKind, Grain, Measure, MeasureId, MeasureKind, MemberId, Model,
    Part, SegmentId, Template,
};
use crate::preagg::layout::{self, StateColumn};
use crate::query::members::{resolve_alias, resolve_measure};
use crate::query::plan::is_count_of_rows;
use crate::query::{OutputColumn, Query, Unmasked};
use crate::time::{Interval, Zone};

/// Where expressions are evaluated.
pub(super) struct Scope<'a> {
    pub(super) model: &'a Model,
    pub(super) query: &'a Query,
    pub(super) literals: &'a Literals,
    pub(super) base: Base<'a>,
}

/// What the rows are.
pub(super) enum Base<'a> {
    /// Joined rows of a source's tables. Cubes whose rows may repeat count their keys.
    Rows { multiplied: &'a dyn Fn(CubeId) -> bool },
    /// Groups that already hold the values of leaf measures, by column.
    Groups { leaves: &'a HashMap<MeasureId, String>, groups: &'a HashMap<OutputColumn, String> },
    /// Rows of a rollup.
    Stored(&'a dyn StoredColumns),
}

/// The columns of a rollup, for [`Base::Stored`].
pub(super) trait StoredColumns {
    /// The column of a stored dimension.
    fn dimension(&self, id: DimensionId) -> Option<String>;
    /// The column of a stored segment.
    fn segment(&self, id: SegmentId) -> Option<String>;
    /// The column of a stored dimension of type time, as local time of the query's zone.
    fn local(&self, id: DimensionId) -> Option<String>;
    /// A stored time that buckets of a granularity are made from.
    fn bucket(&self, id: DimensionId, grain: Grain) -> Option<StoredBucket>;
    /// A leaf measure, merged over the rows of a group.
    fn measure(&self, id: MeasureId) -> Option<String>;
    /// A leaf measure of the one row that a stored row stands for.
    fn row(&self, id: MeasureId) -> Option<String>;
}

/// A stored time, in the query's zone.
pub(super) enum StoredBucket {
    /// Truncated as asked.
    Done(String),
    /// To be truncated.
    Local(String),
}

impl Scope<'_> {
    /// An output column's expression.
    pub(super) fn column(&self, column: OutputColumn) -> String {
        match column {
            OutputColumn::Dimension(id) => self.selected_dimension(id),
            OutputColumn::Segment(id) => self.segment(id),
            OutputColumn::Time(id, grain) => self.bucket(id, grain),
            OutputColumn::Measure(id) => self.measure(id),
        }
    }

    /// A group's value before masks, as it is compared with that of another query.
    pub(super) fn key(&self, column: OutputColumn) -> String {
        match column {
            OutputColumn::Dimension(id) if self.model.dimension(id).data_type != DataType::Time => {
                self.raw_dimension(id)
            }
            OutputColumn::Dimension(id) => self.local(id),
            _ => self.column(column),
        }
    }

    pub(super) fn zone(&self) -> Zone {
        self.query.timezone
    }

    /// A dimension as the answer shows it: times in the query's zone.
    fn selected_dimension(&self, id: DimensionId) -> String {
        let is_time = self.model.dimension(id).data_type == DataType::Time;
        match self.base {
            Base::Rows { .. } if is_time => self.local(id),
            Base::Stored(stored) if is_time => stored.local(id).unwrap_or_else(|| self.local_time(&self.dimension(id))),
            Base::Rows { .. } | Base::Groups { .. } | Base::Stored(_) => self.dimension(id),
        }
    }

    /// A dimension's value, or its mask.
    pub(super) fn dimension(&self, id: DimensionId) -> String {
        let own = self.raw_dimension(id);
        let Some(unmasked) = self.unmasked(MemberId::Dimension(id)) else { return own };
        let dimension = self.model.dimension(id);
        let mask = self.mask(id.cube, dimension.mask.as_ref(), dimension.data_type);
        match unmasked {
            Unmasked::Never => mask,
            Unmasked::Where(filter) => {
                format!("CASE WHEN {} THEN {own} ELSE {mask} END", super::source::condition(self, filter))
            }
        }
    }

    /// Writes with the own values of masked members: joins, keys and conditions of policies compare these.
    pub(super) fn with_own_values<T>(&self, write: &dyn Fn(&Scope<'_>) -> T) -> T {
        let Base::Rows { multiplied } = self.base else { return write(self) };
        if self.query.masks.is_empty() {
            return write(self);
        }
        let query = Query { masks: Vec::new(), ..self.query.clone() };
        let Scope { model, literals, .. } = *self;
        write(&Scope { model, query: &query, literals, base: Base::Rows { multiplied } })
    }

    /// A dimension's own SQL.
    pub(super) fn raw_dimension(&self, id: DimensionId) -> String {
        match self.base {
            Base::Stored(stored) => {
                if let Some(column) = stored.dimension(id) {
                    return column;
                }
            }
            Base::Groups { groups, .. } => {
                let same = |other: &DimensionId| resolve_alias(self.model, *other) == resolve_alias(self.model, id);
                let found = groups.iter().find(|(column, _)| matches!(column, OutputColumn::Dimension(d) if same(d)));
                if let Some((_, column)) = found {
                    return column.clone();
                }
            }
            Base::Rows { .. } => {}
        }
        match &self.model.dimension(id).kind {
            DimensionKind::Sql(template) => self.template(id.cube, template),
            DimensionKind::Case(case) => self.case(id.cube, case),
            DimensionKind::Geo { latitude, longitude } => {
                let text = |template| format!("CAST({} AS VARCHAR)", self.template(id.cube, template));
                format!("{} || ',' || {}", text(latitude), text(longitude))
            }
            DimensionKind::SubQuery(_) => format!("{}.\"value\"", quote(&sub_query_alias(self.model, id))),
            DimensionKind::Switch(_) => quote(&layout::dimension_column(self.model, id)),
        }
    }

    /// Where a masked member shows its own value; none when it is not masked.
    fn unmasked(&self, member: MemberId) -> Option<&Unmasked> {
        // Groups and rollups hold what was masked, or not, when they were made.
        if !matches!(self.base, Base::Rows { .. }) {
            return None;
        }
        self.query.masks.iter().find(|(masked, _)| *masked == member).map(|(_, unmasked)| unmasked)
    }

    fn mask(&self, owner: CubeId, mask: Option<&Mask>, data_type: DataType) -> String {
        match mask {
            Some(Mask::Text(text)) => self.literals.place(Literal::Text(text.clone())),
            Some(Mask::Number(number)) => self.literals.place(Literal::Number(number.clone())),
            Some(Mask::Boolean(truth)) => self.literals.place(Literal::Boolean(*truth)),
            Some(Mask::Sql(template)) => self.template(owner, template),
            None => self.default_mask(owner, data_type),
        }
    }

    /// What the settings put in place of masked values, or NULL.
    fn default_mask(&self, owner: CubeId, data_type: DataType) -> String {
        let masks = self.model.default_masks();
        match (masks.of(data_type), masks.time.filter(|_| data_type == DataType::Time)) {
            (Some(mask), _) => self.mask(owner, Some(&mask), data_type),
            (None, Some(time)) => self.literals.place(Literal::Timestamp(time)),
            (None, None) => match data_type {
                // Not `CAST`, which the engine leaves out of a column's name: two such groups would have one name.
                DataType::String => "arrow_cast(NULL, 'Utf8')".to_owned(),
                DataType::Number => "arrow_cast(NULL, 'Int64')".to_owned(),
                DataType::Boolean => "arrow_cast(NULL, 'Boolean')".to_owned(),
                DataType::Time => "arrow_cast(NULL, 'Timestamp(Microsecond, None)')".to_owned(),
            },
        }
    }

    /// A segment's predicate.
    pub(super) fn segment(&self, id: SegmentId) -> String {
        if let Base::Stored(stored) = self.base
            && let Some(column) = stored.segment(id)
        {
            return column;
        }
        let own = self.template(id.cube, &self.model.segment(id).sql);
        match self.unmasked(MemberId::Segment(id)) {
            None => own,
            Some(Unmasked::Never) => "arrow_cast(NULL, 'Boolean')".to_owned(),
            Some(Unmasked::Where(rows)) => format!("CASE WHEN {} THEN {own} END", super::source::condition(self, rows)),
        }
    }

    /// A time dimension in the query's zone, moved where the query moves it.
    pub(super) fn local(&self, id: DimensionId) -> String {
        match self.query.shifts.iter().find(|shift| shift.dimension == resolve_alias(self.model, id)) {
            None => self.local_time(&self.dimension(id)),
            Some(_) if self.unmasked(MemberId::Dimension(id)).is_some() => self.local_time(&self.dimension(id)),
            Some(shift) => match &shift.sql {
                Some(sql) => self.local_time(&self.template(shift.dimension.cube, sql)),
                None => format!("({} + {})", self.local_time(&self.dimension(id)), interval(shift.interval)),
            },
        }
    }

    /// Whether the query moves a time dimension.
    pub(super) fn is_shifted(&self, id: DimensionId) -> bool {
        self.query.shifts.iter().any(|shift| shift.dimension == resolve_alias(self.model, id))
    }

    /// A time dimension in the query's zone, truncated.
    pub(super) fn bucket(&self, id: DimensionId, grain: Grain) -> String {
        match self.base {
            Base::Stored(stored) => match stored.bucket(id, grain) {
                Some(StoredBucket::Done(column)) => return column,
                Some(StoredBucket::Local(local)) => return self.truncated(id, grain, &local),
                None => {}
            },
            Base::Groups { groups, .. } => {
                let same = |other: &DimensionId| resolve_alias(self.model, *other) == resolve_alias(self.model, id);
                let found = groups
                    .iter()
                    .find(|(column, _)| matches!(column, OutputColumn::Time(d, g) if *g == grain && same(d)));
                if let Some((_, column)) = found {
                    return column.clone();
                }
            }
            Base::Rows { .. } => {}
        }
        // Of a masked time there is nothing but the mask to truncate.
        if let Some(GranularityKind::Sql(template)) = self.custom(id, grain)
            && self.unmasked(MemberId::Dimension(resolve_alias(self.model, id))).is_none()
            && self.unmasked(MemberId::Dimension(id)).is_none()
        {
            return self.template(resolve_alias(self.model, id).cube, template);
        }
        self.truncated(id, grain, &self.local(id))
    }

    fn custom(&self, id: DimensionId, grain: Grain) -> Option<&GranularityKind> {
        match grain {
            Grain::Standard(_) => None,
            Grain::Custom(index) => self.model.dimension(id).granularities.get(index as usize).map(|g| &g.kind),
        }
    }

    /// A local time truncated to a granularity of a dimension.
    pub(super) fn truncated(&self, id: DimensionId, grain: Grain, local: &str) -> String {
        match (grain, self.custom(id, grain)) {
            (Grain::Standard(granularity), _) => format!("date_trunc('{granularity}', {local})"),
            (_, Some(GranularityKind::Moved { unit, offset })) if *offset == Interval::ZERO => {
                format!("date_trunc('{unit}', {local})")
            }
            (_, Some(GranularityKind::Moved { unit, offset })) => {
                let by = interval(*offset);
                format!("(date_trunc('{unit}', {local} - {by}) + {by})")
            }
            (_, Some(GranularityKind::Bins { bins, .. })) => {
                format!("time_bucket({local}, {}, {}, {})", bins.step.months, bins.step.micros, bins.origin)
            }
            (_, Some(GranularityKind::Sql(_)) | None) => local.to_owned(),
        }
    }

    pub(super) fn local_time(&self, sql: &str) -> String {
        format!("local_time({sql}, {})", quote_text(self.zone().name()))
    }

    /// A measure, aggregated, or its mask.
    pub(super) fn measure(&self, id: MeasureId) -> String {
        let measure = self.model.measure(id);
        if let Some(mask) = self.measure_mask(measure) {
            return mask;
        }
        match self.base {
            Base::Groups { leaves, .. } => {
                if let Some(column) = leaves.get(&id) {
                    return column.clone();
                }
                if measure.stage.is_some() {
                    return self.staged(measure);
                }
            }
            Base::Stored(stored) => {
                if let Some(merged) = stored.measure(id) {
                    return merged;
                }
            }
            Base::Rows { multiplied } => {
                if multiplied(id.cube)
                    && is_count_of_rows(self.model, id)
                    && let Some(key) = self.key_text(id.cube)
                {
                    return format!("count(DISTINCT {key})");
                }
            }
        }
        match &measure.kind {
            MeasureKind::Calculated { sql, .. } => match Quantile::of(sql) {
                Some(Quantile { argument, at }) => {
                    format!("approx_quantile({}, {at})", self.template(id.cube, &argument))
                }
                None => self.template(id.cube, sql),
            },
            MeasureKind::Switch(switch) => self.switch(id.cube, switch),
            MeasureKind::Rank(_) => "rank()".to_owned(),
            MeasureKind::Aggregate { agg, .. } => match agg {
                AggKind::Count => self.count(measure),
                _ => aggregate(*agg, &self.argument(measure)),
            },
        }
    }

    /// What stands for a measure that is masked everywhere; none when it is not. Rollups answer no one from whom
    /// values are hidden.
    fn measure_mask(&self, measure: &Measure) -> Option<String> {
        let member = MemberId::Measure(measure.id);
        if !self.query.masks.iter().any(|(masked, unmasked)| *masked == member && *unmasked == Unmasked::Never) {
            return None;
        }
        let data_type = measure.kind.data_type();
        let is_sql = matches!(measure.mask, Some(Mask::Sql(_)));
        match self.base {
            Base::Stored(_) => None,
            Base::Groups { leaves, .. } if is_sql => {
                // Groups hold the mask where it was written in the measure's place; elsewhere there are no rows for it.
                let plain = matches!(measure.kind, MeasureKind::Aggregate { .. }) && measure.rolling.is_none();
                let written = leaves.get(&measure.id).filter(|_| plain && measure.stage.is_none()).cloned();
                Some(written.unwrap_or_else(|| self.mask(measure.id.cube, None, data_type)))
            }
            // An aggregate cannot be shown for one row.
            Base::Rows { .. } if is_sql && self.query.ungrouped => Some(self.mask(measure.id.cube, None, data_type)),
            Base::Rows { .. } if !is_sql && !self.query.ungrouped && self.query.group_columns().is_empty() => {
                let mask = self.mask(measure.id.cube, measure.mask.as_ref(), data_type);
                // An aggregate, so that all rows make one.
                Some(format!("COALESCE(max({mask}), {mask})"))
            }
            Base::Groups { .. } | Base::Rows { .. } => {
                Some(self.mask(measure.id.cube, measure.mask.as_ref(), data_type))
            }
        }
    }

    /// A multi-stage measure over groups of its own grain: an aggregate of one value is that value.
    fn staged(&self, measure: &Measure) -> String {
        let expression = self.stage_argument(measure);
        match &measure.kind {
            MeasureKind::Aggregate {
                agg: AggKind::Count | AggKind::CountDistinct | AggKind::CountDistinctApprox,
                ..
            } => {
                format!("CASE WHEN {expression} IS NULL THEN 0 ELSE 1 END")
            }
            _ => expression,
        }
    }

    /// What a multi-stage measure is computed from, over groups.
    pub(super) fn stage_argument(&self, measure: &Measure) -> String {
        match &measure.kind {
            MeasureKind::Aggregate { sql: Some(sql), .. } | MeasureKind::Calculated { sql, .. } => {
                self.template(measure.id.cube, sql)
            }
            MeasureKind::Aggregate { sql: None, .. } => "1".to_owned(),
            MeasureKind::Switch(switch) => self.switch(measure.id.cube, switch),
            MeasureKind::Rank(_) => "rank()".to_owned(),
        }
    }

    /// The formula of the switch's value.
    fn switch(&self, owner: CubeId, switch: &SwitchMeasure) -> String {
        let value = self.raw_dimension(switch.switch);
        let mut sql = "CASE".to_owned();
        for (case, formula) in &switch.when {
            sql.push_str(&format!(" WHEN {value} = {} THEN {}", quote_text(case), self.template(owner, formula)));
        }
        if let Some(otherwise) = &switch.otherwise {
            sql.push_str(&format!(" ELSE {}", self.template(owner, otherwise)));
        }
        if switch.when.is_empty() {
            return switch.otherwise.as_ref().map_or("NULL".to_owned(), |sql| self.template(owner, sql));
        }
        sql.push_str(" END");
        sql
    }

    /// A measure's value for one row of an ungrouped query (`data-model.md` §22.1).
    pub(super) fn row_value(&self, id: MeasureId) -> String {
        let measure = self.model.measure(id);
        if let Some(mask) = self.measure_mask(measure) {
            return mask;
        }
        if let Base::Stored(stored) = self.base
            && let Some(value) = stored.row(id)
        {
            return value;
        }
        match &measure.kind {
            MeasureKind::Aggregate { agg: AggKind::Count, sql: None } => {
                let key = self.key_text(id.cube).unwrap_or_else(|| "1".to_owned());
                let counted = self.filtered(measure, &key);
                if counted == "1" { counted } else { format!("CASE WHEN ({counted}) IS NOT NULL THEN 1 END") }
            }
            MeasureKind::Aggregate {
                agg: AggKind::Count | AggKind::CountDistinct | AggKind::CountDistinctApprox,
                ..
            } => format!("CASE WHEN ({}) IS NOT NULL THEN 1 END", self.argument(measure)),
            MeasureKind::Aggregate { .. } => self.argument(measure),
            _ => self.measure_of_row(measure),
        }
    }

    /// A calculated measure for one row: over the row values of what it references.
    fn measure_of_row(&self, measure: &Measure) -> String {
        match &measure.kind {
            MeasureKind::Calculated { sql, .. } => self.write(measure.id.cube, sql, &|member| match member {
                MemberId::Measure(id) => Some(self.row_value(id)),
                MemberId::Dimension(_) | MemberId::Segment(_) => None,
            }),
            _ => "NULL".to_owned(),
        }
    }

    /// The argument of an aggregate before it is aggregated, for windows over rows.
    pub(super) fn row_argument(&self, id: MeasureId) -> String {
        let measure = self.model.measure(id);
        match &measure.kind {
            MeasureKind::Aggregate { agg: AggKind::Count, sql: None } => {
                let key = self.key_text(id.cube).unwrap_or_else(|| "1".to_owned());
                self.filtered(measure, &key)
            }
            _ => self.argument(measure),
        }
    }

    /// A state that a rollup stores for a measure.
    pub(super) fn state(&self, id: MeasureId, state: StateColumn) -> String {
        let measure = self.model.measure(id);
        let is_avg = matches!(measure.kind, MeasureKind::Aggregate { agg: AggKind::Avg, .. });
        match state {
            StateColumn::Sum => format!("exact_sum({})", self.argument(measure)),
            StateColumn::Count if is_avg => format!("count({})", self.argument(measure)),
            StateColumn::Distinct => format!("distinct_set({})", self.argument(measure)),
            StateColumn::Sketch => format!("hll_sketch({})", self.argument(measure)),
            StateColumn::Quantiles => {
                let quantile = match &measure.kind {
                    MeasureKind::Calculated { sql, .. } => Quantile::of(sql),
                    _ => None,
                };
                let argument = quantile.map(|quantile| self.template(id.cube, &quantile.argument));
                format!("quantile_sketch({})", argument.unwrap_or_default())
            }
            StateColumn::Count | StateColumn::Min | StateColumn::Max | StateColumn::Value => self.measure(id),
        }
    }

    /// `count`: of keys, so that the NULL row of a LEFT JOIN does not count (`data-model.md` §5.1).
    fn count(&self, measure: &Measure) -> String {
        let repeats = match self.base {
            Base::Rows { multiplied } => multiplied(measure.id.cube),
            Base::Groups { .. } | Base::Stored(_) => false,
        };
        let own = matches!(&measure.kind, MeasureKind::Aggregate { sql: Some(_), .. });
        let key = self.key_text(measure.id.cube);
        match key {
            _ if own => format!("count({})", self.argument(measure)),
            Some(key) if repeats => format!("count(DISTINCT {})", self.filtered(measure, &key)),
            Some(key) => format!("count({})", self.filtered(measure, &key)),
            None => match self.filtered(measure, "1").as_str() {
                "1" => "count(*)".to_owned(),
                filtered => format!("count({filtered})"),
            },
        }
    }

    /// The primary key as one value: the column, or the columns as text.
    fn key_text(&self, cube: CubeId) -> Option<String> {
        let key = |scope: &Scope<'_>| self.model.cube(cube).primary_key().map(|d| scope.raw_dimension(d.id)).collect();
        let parts: Vec<String> = self.with_own_values(&key);
        match parts.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            many => {
                let casts: Vec<String> = many.iter().map(|sql| format!("CAST({sql} AS VARCHAR)")).collect();
                Some(casts.join(" || chr(31) || "))
            }
        }
    }

    /// The argument of an aggregate, with the measure's filters wrapped around it.
    fn argument(&self, measure: &Measure) -> String {
        let sql = match &measure.kind {
            MeasureKind::Aggregate { sql: Some(sql), .. } | MeasureKind::Calculated { sql, .. } => {
                self.template(measure.id.cube, sql)
            }
            _ => "1".to_owned(),
        };
        self.filtered(measure, &sql)
    }

    fn filtered(&self, measure: &Measure, sql: &str) -> String {
        let mut conditions: Vec<String> =
            measure.filters.iter().map(|f| format!("({})", self.template(measure.id.cube, f))).collect();
        // A measure that is masked but in some rows takes in these rows only.
        if let Some(Unmasked::Where(filter)) = self.unmasked(MemberId::Measure(measure.id)) {
            conditions.push(format!("({})", super::source::condition(self, filter)));
        }
        if conditions.is_empty() {
            return sql.to_owned();
        }
        format!("CASE WHEN {} THEN {sql} END", conditions.join(" AND "))
    }

    /// Whether a row passes the filters and drill filters of a measure; none when it has none.
    pub(super) fn filters_of(&self, id: MeasureId) -> Option<String> {
        let measure = self.model.measure(resolve_measure(self.model, id));
        let hidden = |id: MeasureId| self.query.masks.iter().any(|(member, _)| *member == MemberId::Measure(id));
        if hidden(id) || hidden(measure.id) {
            return Some("FALSE".to_owned());
        }
        let filters = measure.filters.iter().chain(&measure.drill_filters);
        let conditions: Vec<String> = filters.map(|f| format!("({})", self.template(measure.id.cube, f))).collect();
        (!conditions.is_empty()).then(|| conditions.join(" AND "))
    }

    fn case(&self, owner: CubeId, case: &Case) -> String {
        let label = |label: &CaseLabel| match label {
            CaseLabel::Text(text) => quote_text(text),
            CaseLabel::Sql(template) => self.template(owner, template),
        };
        let mut sql = "CASE".to_owned();
        for branch in &case.when {
            sql.push_str(&format!(" WHEN {} THEN {}", self.template(owner, &branch.condition), label(&branch.label)));
        }
        if let Some(otherwise) = &case.otherwise {
            sql.push_str(&format!(" ELSE {}", label(otherwise)));
        }
        sql.push_str(" END");
        sql
    }

    /// A fragment of `owner` with its references written out; a lone identifier is a column of the cube's table.
    pub(super) fn template(&self, owner: CubeId, template: &Template) -> String {
        self.write(owner, template, &|_| None)
    }

    /// As [`Scope::template`], with some references written in another way.
    fn write(&self, owner: CubeId, template: &Template, other: &dyn Fn(MemberId) -> Option<String>) -> String {
        if let Some(column) = template.as_column() {
            return format!("{}.{column}", self.alias(owner));
        }
        let alone = template.as_member().is_some() || template.parts.len() == 1;
        let wrap = |sql: String| if alone || is_atomic(&sql) { sql } else { format!("({sql})") };
        let mut out = String::new();
        for part in &template.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Path(_) => {}
                Part::Cube(cube) => out.push_str(&self.alias(*cube)),
                Part::Time(dimension, grain) => out.push_str(&self.bucket(*dimension, *grain)),
                Part::Member(member) => {
                    let own = || match member {
                        MemberId::Dimension(id) => self.dimension(*id),
                        MemberId::Segment(id) => self.segment(*id),
                        MemberId::Measure(id) => self.measure(*id),
                    };
                    out.push_str(&wrap(other(*member).unwrap_or_else(own)));
                }
                Part::Source(cube) => out.push_str(&super::source::source_text(self, *cube)),
                Part::Filters(params) => out.push_str(&pushed_filters(self, owner, params)),
                Part::Claim(value) => out.push_str(&claim(self, owner, value)),
                Part::Local(inner) => out.push_str(&self.local_time(&self.template(owner, inner))),
                Part::Parameter(_) => {}
            }
        }
        out
    }

    /// The alias of a cube's table.
    pub(super) fn alias(&self, cube: CubeId) -> String {
        let cube = self.model.cube(cube);
        quote(cube.sql_alias.as_deref().unwrap_or(&cube.name))
    }
}

/// The alias of a sub-query dimension's table.
pub(super) fn sub_query_alias(model: &Model, id: DimensionId) -> String {
    format!("{}_subquery", layout::dimension_column(model, id))
}

/// An aggregate of an argument; a bare count is [`Scope::count`].
pub(super) fn aggregate(agg: AggKind, argument: &str) -> String {
    match agg {
        AggKind::Count => format!("count({argument})"),
        AggKind::CountDistinct => format!("count(DISTINCT {argument})"),
        AggKind::CountDistinctApprox => format!("approx_count_distinct({argument})"),
        AggKind::Sum => format!("exact_sum({argument})"),
        AggKind::Avg => average(&format!("exact_sum({argument})"), &format!("count({argument})")),
        AggKind::Min => format!("min({argument})"),
        AggKind::Max => format!("max({argument})"),
    }
}

/// A length of time as SQL.
pub(super) fn interval(length: Interval) -> String {
    let (seconds, micros) = (length.micros.div_euclid(1_000_000), length.micros.rem_euclid(1_000_000));
    let mut words = Vec::new();
    if length.months != 0 {
        words.push(format!("{} months", length.months));
    }
    if seconds != 0 || (words.is_empty() && micros == 0) {
        words.push(format!("{seconds} seconds"));
    }
    if micros != 0 {
        words.push(format!("{micros} microseconds"));
    }
    format!("INTERVAL '{}'", words.join(" "))
}

/// Sum over count; null over no values.
pub(super) fn average(sum: &str, count: &str) -> String {
    format!("exact_div({sum}, NULLIF({count}, 0))")
}

/// Whether an expression can stand beside any operator without parentheses: a name, a literal, a call.
pub(super) fn is_atomic(sql: &str) -> bool {
    let mut depth = 0_usize;
    let mut quoted: Option<char> = None;
    for c in sql.trim().chars() {
        match quoted {
            Some(quote) if c == quote => quoted = None,
            Some(_) => {}
            None => match c {
                '\'' | '"' => quoted = Some(c),
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ if depth > 0 => {}
                '_' | '.' | super::MARK | super::MARK_END => {}
                c if c.is_alphanumeric() => {}
                _ => return false,
            },
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::is_atomic;

    #[test]
    fn compound_expressions_are_told_from_atoms() {
        for atom in ["\"t\".a", "sum(a + b)", "'a b'", "12.5", "CAST(a AS text)"] {
            assert!(is_atomic(atom), "{atom}");
        }
        for compound in ["a + b", "CASE WHEN a THEN b END", "-1", "a::text", "x OR y"] {
            assert!(!is_atomic(compound), "{compound}");
        }
    }
}
