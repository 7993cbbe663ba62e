//! A query over a rollup's stored columns → SQL (`pre-aggregations.md` §10).

use std::collections::BTreeMap;

use super::expr::{Base, Scope, StoredColumns, average};
use super::filter::Tested;
use super::source::{Output, column_alias, measure_filters, row_filters, tested_value};
use super::{Literals, group_by, quote};
use crate::model::{AggKind, DimensionId, Grain, MeasureId, MeasureKind, Model, Preagg, SegmentId};
use crate::preagg::layout::{self, StateColumn};
use crate::query::Query;
use crate::query::members::{leaves, resolve_alias, resolve_segment};
use crate::time::{Granularity, Zone, local_to_utc};

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
            Output::Measure(id) | Output::Argument(id) => scope.measure(*id),
            Output::State(id, state) => columns.state(*id, *state),
        };
        format!("{sql} AS {}", quote(&output.alias(model)))
    }));
    let filters = row_filters(&scope, &|id| columns.tested(&scope, id));
    let mut sql = format!("SELECT {} FROM {}{filters}", list.join(", "), scan.table);
    sql.push_str(&group_by(groups.len()));
    if !query.measure_filters.is_empty() {
        sql.push_str(&format!(" HAVING {}", measure_filters(&scope, query)));
    }
    sql
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
        let name = || layout::time_column(self.scan.model, time.dimension, time.granularity.as_str());
        same.then(|| (quote(&name()), time.granularity))
    }

    /// A stored state, merged.
    fn state(&self, id: MeasureId, state: StateColumn) -> String {
        let column = quote(&layout::state_column(self.scan.model, id, state));
        match state {
            StateColumn::Count => count(&column),
            StateColumn::Sum => format!("exact_sum({column})"),
            StateColumn::Min => format!("min({column})"),
            StateColumn::Max | StateColumn::Value => format!("max({column})"),
        }
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
        let model = self.scan.model;
        let id = resolve_segment(model, id);
        let stored = self.scan.preagg.segments.iter().find(|stored| resolve_segment(model, **stored) == id)?;
        Some(quote(&layout::segment_column(model, *stored)))
    }

    fn local(&self, id: DimensionId) -> Option<String> {
        let (column, _) = self.time(id)?;
        if self.scan.zone == self.scan.query.timezone {
            return Some(column);
        }
        let zone = super::quote_text(self.scan.query.timezone.name());
        Some(format!("local_time({column}, {zone})"))
    }

    fn bucket(&self, id: DimensionId, grain: Grain) -> Option<String> {
        let (column, stored) = self.time(id)?;
        let same_zone = self.scan.zone == self.scan.query.timezone;
        (same_zone && grain == Grain::Standard(stored)).then_some(column)
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
                // One stored row a group: its value is the answer, and no row is no value.
                AggKind::CountDistinct | AggKind::CountDistinctApprox => {
                    format!("COALESCE(max({}), 0)", column(StateColumn::Value))
                }
            }),
            MeasureKind::Calculated { .. } => {
                let leaves = leaves(model, id);
                let evaluated = leaves != [id] && leaves.iter().all(|leaf| preagg.measures.contains(leaf));
                (exact && !evaluated).then(|| format!("max({})", column(StateColumn::Value)))
            }
            MeasureKind::Rank(_) | MeasureKind::Switch(_) => None,
        }
    }
}

/// Stored counts added up: a whole number, zero over no rows.
fn count(column: &str) -> String {
    format!("CAST(COALESCE(exact_sum({column}), 0) AS BIGINT)")
}
