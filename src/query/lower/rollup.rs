//! A query over a rollup's stored columns → SQL (`pre-aggregations.md` §10).

use std::collections::BTreeMap;

use super::expr::{Base, Scope, StoredBucket, StoredColumns, average, interval};
use super::filter::Tested;
use super::source::{Output, column_alias, measure_filters, row_filters, tested_value};
use super::{Literals, group_by, quote};
use crate::model::quantile::Quantile;
use crate::model::{
    AggKind, DataType, DimensionId, Grain, MeasureId, MeasureKind, Model, Preagg, PreaggTime, SegmentId,
};
use crate::preagg::layout::{self, StateColumn};
use crate::query::members::{leaves, resolve_alias, resolve_segment};
use crate::query::stored_times::StoredTimes;
use crate::query::{Column, Query};
use crate::time::{Interval, Zone, local_to_utc};

/// A query and the rollup that answers it.
#[derive(Debug, Clone, Copy)]
pub struct RollupScan<'a> {
    /// The model.
    pub model: &'a Model,
    /// The query.
    pub query: &'a Query,
    /// The rollup.
    pub preagg: &'a Preagg,
    /// The zone it was built for: the query's, or UTC.
    pub zone: Zone,
    /// Whether every group of the answer is one stored row, so that finished values can be used.
    pub exact: bool,
    /// Name of the table that holds its rows.
    pub table: &'a str,
    /// Columns after the groups, in order.
    pub outputs: &'a [Output],
}

/// The text of a query over a rollup's table, without order and limit.
pub(super) fn rollup_sql(scan: RollupScan<'_>, literals: &Literals) -> String {
    let RollupScan { model, query, .. } = scan;
    let columns = Columns::new(scan);
    let scope = Scope { model, query, literals, base: Base::Stored(&columns) };
    let groups = query.group_columns();
    let mut list: Vec<String> = groups
        .iter()
        .map(|column| format!("{} AS {}", scope.column(*column), quote(&column_alias(model, *column))))
        .collect();
    list.extend(scan.outputs.iter().map(|output| {
        let sql = match output {
            Output::Measure(id) | Output::Argument(id) if query.ungrouped => scope.row_value(*id),
            Output::Measure(id) | Output::Argument(id) => scope.measure(*id),
            Output::State(id, state) => columns.state(*id, *state),
        };
        format!("{sql} AS {}", quote(&output.alias(model)))
    }));
    let filters = row_filters(&scope, &|column| columns.tested(&scope, column));
    let mut sql = format!("SELECT {} FROM {}{filters}", list.join(", "), scan.table);
    if query.ungrouped {
        return sql;
    }
    sql.push_str(&group_by(groups.len()));
    if !query.measure_filters.is_empty() {
        sql.push_str(&format!(" HAVING {}", measure_filters(&scope, query)));
    }
    sql
}

/// Where the members of a query stand in a rollup.
struct Columns<'a> {
    scan: RollupScan<'a>,
    times: StoredTimes<'a>,
    dimensions: BTreeMap<DimensionId, String>,
}

impl<'a> Columns<'a> {
    fn new(scan: RollupScan<'a>) -> Self {
        let RollupScan { model, query, preagg, zone, .. } = scan;
        let stored = scan.preagg.dimensions.iter();
        let dimensions = stored
            .map(|id| (resolve_alias(scan.model, *id), quote(&layout::dimension_column(scan.model, *id))))
            .collect();
        Self { scan, times: StoredTimes { model, query, preagg, zone }, dimensions }
    }

    fn time_column(&self, time: PreaggTime) -> String {
        quote(&layout::stored_time_column(self.scan.model, time))
    }

    /// A stored time in the query's zone.
    fn in_zone(&self, column: String) -> String {
        if self.times.same_zone() {
            return column;
        }
        format!("local_time({column}, {})", super::quote_text(self.scan.query.timezone.name()))
    }

    /// By how much the query moves a time.
    fn shift(&self, id: DimensionId) -> Option<Interval> {
        let wanted = resolve_alias(self.scan.model, id);
        self.scan.query.shifts.iter().find(|shift| shift.dimension == wanted).map(|shift| shift.interval)
    }

    /// A stored state, merged.
    fn state(&self, id: MeasureId, state: StateColumn) -> String {
        merged_state(state, &quote(&layout::state_column(self.scan.model, id, state)))
    }

    /// A tested dimension: a time column, a stored one, or one computed from these. What an access policy tests does
    /// not move with the times of the query.
    fn tested(&self, scope: &Scope<'_>, column: Column) -> Tested {
        let (id, shift) = match column {
            Column::Dimension(id) => (id, self.shift(id)),
            Column::Raw(id) => (id, None),
            Column::Segment(_) | Column::FiltersOf(_) => return tested_value("TRUE".to_owned()),
        };
        let bucket = self.times.for_conditions(id).map(|time| self.time_column(time));
        let is_time = self.scan.model.dimension(id).data_type == DataType::Time;
        let own = || self.dimension(id).filter(|_| is_time);
        match (bucket.or_else(own), shift) {
            (Some(stored), Some(by)) => {
                let moved = format!("({} + {})", self.in_zone(stored), interval(by));
                Tested { sql: moved.clone(), time_sql: moved, bound: Box::new(|local| local) }
            }
            (Some(stored), None) => {
                let (same, zone) = (self.times.same_zone(), self.scan.query.timezone);
                let bound = move |local| if same { local } else { local_to_utc(local, zone) };
                Tested { sql: stored.clone(), time_sql: stored, bound: Box::new(bound) }
            }
            (None, _) => tested_value(scope.raw_dimension(id)),
        }
    }
}

impl StoredColumns for Columns<'_> {
    fn dimension(&self, id: DimensionId) -> Option<String> {
        self.dimensions.get(&resolve_alias(self.scan.model, id)).cloned()
    }

    fn segment(&self, id: SegmentId) -> Option<String> {
        let model = self.scan.model;
        let id = resolve_segment(model, id);
        let stored = self.scan.preagg.segments.iter().find(|stored| resolve_segment(model, **stored) == id)?;
        Some(quote(&layout::segment_column(model, *stored)))
    }

    fn local(&self, id: DimensionId) -> Option<String> {
        Some(self.in_zone(self.dimension(id)?))
    }

    fn bucket(&self, id: DimensionId, grain: Grain) -> Option<StoredBucket> {
        let time = self.times.for_bucket(id, grain)?;
        let local = self.in_zone(self.time_column(time));
        Some(match self.shift(id) {
            Some(by) => StoredBucket::Local(format!("({local} + {})", interval(by))),
            None if self.times.same_zone() && self.times.is_same(time, id, grain) => StoredBucket::Done(local),
            None => StoredBucket::Local(local),
        })
    }

    fn row(&self, id: MeasureId) -> Option<String> {
        let RollupScan { model, preagg, .. } = self.scan;
        let MeasureKind::Aggregate { .. } = &model.measure(id).kind else { return None };
        let state = *layout::states(&model.measure(id).kind).first()?;
        let column = quote(&layout::state_column(model, id, state));
        let value = match state {
            // Of one row there is one, or none.
            StateColumn::Count => format!("NULLIF({column}, 0)"),
            _ => column,
        };
        preagg.measures.contains(&id).then_some(value)
    }

    fn measure(&self, id: MeasureId) -> Option<String> {
        let RollupScan { model, preagg, exact, .. } = self.scan;
        let stored = preagg.measures.contains(&id);
        let column = |state| quote(&layout::state_column(model, id, state));
        if !stored {
            return None;
        }
        match &model.measure(id).kind {
            MeasureKind::Aggregate { agg, .. } => Some(match agg {
                AggKind::Count => count(&column(StateColumn::Count)),
                AggKind::Sum => format!("exact_sum({})", column(StateColumn::Sum)),
                AggKind::Min => format!("min({})", column(StateColumn::Min)),
                AggKind::Max => format!("max({})", column(StateColumn::Max)),
                AggKind::Avg => {
                    average(&format!("exact_sum({})", column(StateColumn::Sum)), &count(&column(StateColumn::Count)))
                }
                AggKind::CountDistinct => format!("distinct_count({})", column(StateColumn::Distinct)),
                AggKind::CountDistinctApprox => format!("hll_count({})", column(StateColumn::Sketch)),
            }),
            MeasureKind::Calculated { sql, .. } => {
                if let Some(Quantile { at, .. }) = Quantile::of(sql) {
                    return Some(format!("quantile_value({}, {at})", column(StateColumn::Quantiles)));
                }
                let leaves = leaves(model, id);
                let evaluated = leaves != [id] && leaves.iter().all(|leaf| preagg.measures.contains(leaf));
                (exact && !evaluated).then(|| format!("max({})", column(StateColumn::Value)))
            }
            MeasureKind::Rank(_) | MeasureKind::Switch(_) => None,
        }
    }
}

/// The states in a quoted column, merged.
pub(super) fn merged_state(state: StateColumn, column: &str) -> String {
    match state {
        StateColumn::Count => count(column),
        StateColumn::Sum => format!("exact_sum({column})"),
        StateColumn::Min => format!("min({column})"),
        StateColumn::Max | StateColumn::Value => format!("max({column})"),
        StateColumn::Distinct => format!("distinct_union({column})"),
        StateColumn::Sketch => format!("hll_union({column})"),
        StateColumn::Quantiles => format!("quantile_union({column})"),
    }
}

/// Stored counts added up: a whole number, zero over no rows.
fn count(column: &str) -> String {
    format!("CAST(COALESCE(exact_sum({column}), 0) AS BIGINT)")
}
