//! A query over a rollup's stored columns → SQL (`pre-aggregations.md` §10).

use std::collections::BTreeMap;

use super::expr::{Base, Scope, StoredColumns, average};
use super::filter::{Tested, in_range, predicate};
use super::source::{column_alias, measure_filters, tested_value};
use super::{Literals, Statement, group_by, quote, tail};
use crate::model::{AggKind, DimensionId, MeasureId, MeasureKind, Model, Preagg, SegmentId};
use crate::preagg::layout::{self, StateColumn};
use crate::query::members::{leaves, resolve_alias};
use crate::query::{Column, Query};
use crate::time::{Granularity, Zone, local_to_utc};

/// Name of the one table that a rollup statement reads.
pub const TABLE: &str = "rollup";

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
    /// Whether `ORDER BY`, `LIMIT` and `OFFSET` are written.
    pub tail: bool,
}

/// The statement of a query over the table [`TABLE`].
pub fn rollup_statement(scan: RollupScan<'_>) -> Statement {
    let RollupScan { model, query, .. } = scan;
    let literals = Literals::default();
    let columns = Columns::new(scan);
    let scope = Scope { model, zone: query.timezone, literals: &literals, base: Base::Stored(&columns) };
    let groups = query.group_columns();
    let selected = query.columns();
    let list: Vec<String> = selected
        .iter()
        .map(|column| format!("{} AS {}", scope.column(*column), quote(&column_alias(model, *column))))
        .collect();
    let mut sql = format!("SELECT {} FROM {TABLE}{}", list.join(", "), row_filters(&scope, &columns, query));
    sql.push_str(&group_by(groups.len()));
    if !query.measure_filters.is_empty() {
        sql.push_str(&format!(" HAVING {}", measure_filters(&scope, query)));
    }
    if scan.tail {
        sql.push_str(&tail(query));
    }
    Statement::new(sql, literals)
}

/// Where the members of a query stand in a rollup.
struct Columns<'a> {
    scan: RollupScan<'a>,
    dimensions: BTreeMap<DimensionId, String>,
}

impl<'a> Columns<'a> {
    fn new(scan: RollupScan<'a>) -> Self {
        let stored = scan.preagg.dimensions.iter();
        let dimensions = stored
            .map(|id| (resolve_alias(scan.model, *id), quote(&layout::dimension_column(scan.model, *id))))
            .collect();
        Self { scan, dimensions }
    }

    /// The stored time column, when `id` is the rollup's time dimension.
    fn time(&self, id: DimensionId) -> Option<(String, Granularity)> {
        let time = self.scan.preagg.time?;
        let same = resolve_alias(self.scan.model, time.dimension) == resolve_alias(self.scan.model, id);
        same.then(|| (quote(&layout::time_column(self.scan.model, time.dimension, time.granularity)), time.granularity))
    }

    /// A tested dimension: the time column, a stored one, or one computed from these.
    fn tested(&self, scope: &Scope<'_>, id: DimensionId) -> Tested {
        match self.time(id) {
            Some((column, _)) => {
                let (stored, zone) = (self.scan.zone, self.scan.query.timezone);
                Tested {
                    sql: column.clone(),
                    time_sql: column,
                    bound: Box::new(move |local| if stored == zone { local } else { local_to_utc(local, zone) }),
                }
            }
            None => tested_value(scope.dimension(id)),
        }
    }
}

impl StoredColumns for Columns<'_> {
    fn dimension(&self, id: DimensionId) -> Option<String> {
        self.dimensions.get(&resolve_alias(self.scan.model, id)).cloned()
    }

    fn segment(&self, id: SegmentId) -> Option<String> {
        self.scan.preagg.segments.contains(&id).then(|| quote(&layout::segment_column(self.scan.model, id)))
    }

    fn bucket(&self, id: DimensionId, granularity: Granularity) -> Option<String> {
        let (column, stored) = self.time(id)?;
        let same_zone = self.scan.zone == self.scan.query.timezone;
        Some(match (same_zone, stored == granularity) {
            (true, true) => column,
            (true, false) => format!("date_trunc('{granularity}', {column})"),
            (false, _) => {
                let zone = super::quote_text(self.scan.query.timezone.name());
                format!("date_trunc('{granularity}', local_time({column}, {zone}))")
            }
        })
    }

    fn measure(&self, id: MeasureId) -> Option<String> {
        let RollupScan { model, preagg, exact, .. } = self.scan;
        let stored = preagg.measures.contains(&id);
        let column = |state| quote(&layout::state_column(model, id, state));
        let count = |column: String| format!("CAST(COALESCE(exact_sum({column}), 0) AS BIGINT)");
        if !stored {
            return None;
        }
        match &model.measure(id).kind {
            MeasureKind::Aggregate { agg, .. } => Some(match agg {
                AggKind::Count => count(column(StateColumn::Count)),
                AggKind::Sum => format!("exact_sum({})", column(StateColumn::Sum)),
                AggKind::Min => format!("min({})", column(StateColumn::Min)),
                AggKind::Max => format!("max({})", column(StateColumn::Max)),
                AggKind::Avg => {
                    average(&format!("exact_sum({})", column(StateColumn::Sum)), &count(column(StateColumn::Count)))
                }
                // One stored row a group: its value is the answer, and no row is no value.
                AggKind::CountDistinct => format!("COALESCE(max({}), 0)", column(StateColumn::Value)),
            }),
            MeasureKind::Calculated { .. } => {
                let leaves = leaves(model, id);
                let evaluated = leaves != [id] && leaves.iter().all(|leaf| preagg.measures.contains(leaf));
                (exact && !evaluated).then(|| format!("max({})", column(StateColumn::Value)))
            }
        }
    }
}

fn row_filters(scope: &Scope<'_>, columns: &Columns<'_>, query: &Query) -> String {
    let mut conditions: Vec<String> = Vec::new();
    for time in &query.time_dimensions {
        if let Some(range) = time.range {
            let tested = columns.tested(scope, time.dimension);
            let condition = in_range(&tested, Some(range.start), Some(range.end), scope.literals);
            if !conditions.contains(&condition) {
                conditions.push(condition);
            }
        }
    }
    conditions.extend(query.segments.iter().map(|id| scope.segment(*id)));
    let tested = |column: Column| match column {
        Column::Dimension(id) => columns.tested(scope, id),
        Column::Segment(id) => tested_value(scope.segment(id)),
    };
    conditions.extend(query.filters.iter().map(|filter| predicate(filter, scope.literals, &tested)));
    if conditions.is_empty() {
        return String::new();
    }
    let conditions: Vec<String> = conditions.into_iter().map(|c| format!("({c})")).collect();
    format!(" WHERE {}", conditions.join(" AND "))
}
