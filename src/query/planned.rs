//! A query that was planned and routed: its statements, where they run, and the answer of their rows.

use std::sync::Arc;

use arrow::array::AsArray as _;
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use quarry_storage::Snapshot;

use super::execute::{Answer, QueryService, UsedRollup};
use super::lower::{LeafSource, Origins, Statement, join_table, plan_statement, rollup_table, union_table};
use super::plan::Plan;
use super::rollups::Rollups;
use super::route::{RollupRoute, Route};
use super::scan::{Original, Scan, collect_cubes};
use super::serve::Fetched;
use super::{Query, QueryError};
use crate::engine::EngineError;
use crate::model::{CubeId, PreaggKind};
use crate::preagg::coverage::LocalRange;
use crate::sources::{Brought, Source};

/// A query with its routes: a rollup a level, or the source.
pub(super) struct Planned<'a> {
    pub(super) plan: Plan,
    pub(super) routes: Vec<Route>,
    /// Stored rows that stand for cubes at the source.
    pub(super) originals: Vec<Original>,
    pub(super) source: &'a Source,
    pub(super) data_source: String,
    /// Whether it reads rows that are not stored and no rollup's.
    pub(super) asks_source: bool,
}

/// Statements for a source, with all that it takes to run them later.
#[derive(Debug, Clone)]
pub(super) struct SourceWork {
    service: QueryService,
    source: Source,
    /// The rows.
    pub(super) sql: String,
    /// Their number, when it is asked for.
    pub(super) counting: Option<String>,
    wide: Query,
    stored: Vec<(String, Scan)>,
    /// Keeps the files of `stored`.
    _snapshot: Arc<Snapshot>,
}

impl SourceWork {
    /// The rows, and their number without limit and offset.
    pub(super) async fn run(&self) -> Result<(Vec<RecordBatch>, Option<u64>), EngineError> {
        let mut tables = Brought::new();
        for (name, scan) in &self.stored {
            tables.push((name.clone(), self.service.stored_table(scan).await.map_err(engine_fault)?));
        }
        let batches = self.source.collect_over(self.sql.clone(), tables.clone()).await?.batches;
        let total = match (&self.counting, whole_count(&self.wide, &batches)) {
            (None, _) => None,
            (Some(_), Some(counted)) => Some(counted),
            (Some(counting), None) => {
                Some(single_count(&self.source.collect_over(counting.clone(), tables).await?.batches))
            }
        };
        Ok((batches, total))
    }
}

fn engine_fault(error: QueryError) -> EngineError {
    match error {
        QueryError::Engine(error) => error,
        other => EngineError::Execution(other.to_string()),
    }
}

impl Planned<'_> {
    /// The answer of these rows.
    pub(super) fn answer_of(
        &self,
        rollups: &Rollups,
        wide: &Query,
        batches: Vec<RecordBatch>,
        total: Option<u64>,
    ) -> Answer {
        let wanted = wide.limit.map(|limit| usize::try_from(limit.saturating_sub(1)).unwrap_or(usize::MAX));
        let (batches, truncated) = first_rows(batches, wanted);
        let bounds = self.scans().flat_map(|scan| &scan.partitions).filter_map(|partition| partition.time_bounds);
        Answer {
            columns: wide.columns(),
            batches,
            total,
            used: self.used(rollups),
            truncated,
            refreshed_at: self.scans().map(Scan::oldest).min(),
            newest_time: bounds.map(|(_, newest)| newest).max(),
            source_keys: None,
            from_asked_source: self.asks_source,
            slow: false,
            from_source: self.source_ranges(),
            data_source: self.data_source.clone(),
            db_type: self.source.db_type(),
        }
    }

    /// The answer of what the source said.
    pub(super) fn answer(&self, rollups: &Rollups, wide: &Query, fetched: &Fetched, slow: bool) -> Answer {
        let answer = self.answer_of(rollups, wide, fetched.batches.clone(), fetched.total);
        let refreshed_at = answer.refreshed_at.map_or(fetched.asked_at, |built| built.min(fetched.asked_at));
        Answer { refreshed_at: Some(refreshed_at), source_keys: fetched.keys.clone(), slow, ..answer }
    }

    /// What the source is to be asked.
    pub(super) fn work(
        &self,
        service: &QueryService,
        rollups: &Rollups,
        snapshot: &Arc<Snapshot>,
        wide: &Query,
    ) -> Result<SourceWork, QueryError> {
        let model = rollups.model();
        let counting = wide.total.then(|| self.statement(rollups, false)).transpose()?;
        Ok(SourceWork {
            service: service.clone(),
            source: self.source.clone(),
            sql: self.statement(rollups, true)?.inlined(),
            counting: counting.map(|statement| statement.counted().inlined()),
            wide: wide.clone(),
            stored: self.originals.iter().map(|stored| (stored.table_name(model), stored.scan.clone())).collect(),
            _snapshot: Arc::clone(snapshot),
        })
    }

    /// The cubes that it reads.
    pub(super) fn cubes(&self) -> Vec<CubeId> {
        let mut cubes = Vec::new();
        for leaf in self.plan.leaves() {
            collect_cubes(&leaf.shape, &mut cubes);
        }
        cubes
    }

    /// The rollups used, with their levels.
    pub(super) fn rollups(&self) -> impl Iterator<Item = (usize, &RollupRoute)> {
        self.routes.iter().enumerate().filter_map(|(level, route)| match route {
            Route::Rollup(rollup) => Some((level, rollup)),
            Route::Source(_) => None,
        })
    }

    /// All stored rows that are read.
    pub(super) fn scans(&self) -> impl Iterator<Item = &Scan> {
        let rollups = self.rollups().flat_map(|(_, rollup)| &rollup.scans);
        rollups.chain(self.originals.iter().map(|original| &original.scan))
    }

    /// The times that the source answers for beside rollups.
    pub(super) fn source_ranges(&self) -> Vec<LocalRange> {
        let rests = self.rollups().filter_map(|(_, route)| route.rest.as_ref());
        rests.flat_map(|rest| rest.ranges.iter().copied()).collect()
    }

    /// What a level asks.
    pub(super) fn level(&self, level: usize) -> &Query {
        let leaf = self.plan.leaves().into_iter().nth(level);
        leaf.map_or_else(|| self.plan.query(), |leaf| &leaf.query)
    }

    pub(super) fn statement(&self, rollups: &Rollups, tail: bool) -> Result<Statement, QueryError> {
        let model = rollups.model();
        let leaves: Vec<LeafSource<'_>> = self
            .routes
            .iter()
            .enumerate()
            .map(|(level, route)| match route {
                Route::Source(_) => LeafSource::Source,
                Route::Rollup(route) => LeafSource::Rollup {
                    preagg: rollups.definition(route.preagg),
                    zone: route.zone,
                    exact: route.exact,
                    table: from_text(rollups, level, route),
                },
            })
            .collect();
        let cubes = self.originals.iter().map(|original| (original.cube, original.sql(model))).collect();
        plan_statement(model, &self.plan, &Origins { leaves, cubes }, tail).checked()
    }

    pub(super) fn used(&self, rollups: &Rollups) -> Vec<UsedRollup> {
        let model = rollups.model();
        let mut used: Vec<UsedRollup> = Vec::new();
        for scan in self.scans() {
            if used.iter().any(|known| known.table == scan.table) {
                continue;
            }
            let (cube, preagg) = (model.cube(scan.preagg.cube), model.preagg(scan.preagg));
            used.push(UsedRollup {
                preagg: scan.preagg,
                id: format!("{}.{}", cube.name, preagg.name),
                logical: format!("{}.{}", cube.name, preagg.sql_alias.as_ref().unwrap_or(&preagg.name)),
                kind: if preagg.kind == PreaggKind::OriginalSql { "originalSql" } else { "rollup" },
                table: scan.table.clone(),
                external: preagg.external,
                last_updated_at: scan.newest(),
                partitions: scan.partitions.len(),
                refresh_keys: scan.partitions.iter().map(|partition| partition.refresh_key.clone()).collect(),
            });
        }
        used
    }
}

/// Name of the table of the n-th rollup of a level.
pub(super) fn scan_table(level: usize, position: usize) -> String {
    let table = rollup_table(level);
    if position == 0 { table } else { format!("{table}_part_{position}") }
}

/// Name of the table that the source fills for a level.
pub(super) fn rest_table(level: usize) -> String {
    format!("{}_source", rollup_table(level))
}

/// What stands after FROM for the rows of a level.
fn from_text(rollups: &Rollups, level: usize, route: &RollupRoute) -> String {
    let (model, whole) = (rollups.model(), rollups.definition(route.preagg));
    let tables: Vec<String> = (0..route.scans.len()).map(|position| scan_table(level, position)).collect();
    if let Some(join) = rollups.joined(route.preagg) {
        return join_table(model, whole, &join.plan, &tables);
    }
    let plain = whole.kind == PreaggKind::Rollup && route.rest.is_none();
    if let ([table], true) = (tables.as_slice(), plain) {
        return table.clone();
    }
    let stored = route.scans.iter().zip(tables).map(|(scan, table)| (model.preagg(scan.preagg), table));
    let rest = route.rest.iter().map(|_| (whole, rest_table(level)));
    union_table(model, whole, &stored.chain(rest).collect::<Vec<_>>())
}

/// No more rows than wanted, and whether some were left out.
fn first_rows(mut batches: Vec<RecordBatch>, wanted: Option<usize>) -> (Vec<RecordBatch>, bool) {
    let Some(mut room) = wanted else { return (batches, false) };
    let mut truncated = false;
    for batch in &mut batches {
        if batch.num_rows() > room {
            *batch = batch.slice(0, room);
            truncated = true;
        }
        room -= batch.num_rows();
    }
    (batches, truncated)
}

/// The number of rows without limit and offset, when the rows at hand tell it: the last page is short.
pub(super) fn whole_count(query: &Query, batches: &[RecordBatch]) -> Option<u64> {
    let rows = batches.iter().map(RecordBatch::num_rows).sum::<usize>() as u64;
    let short = query.limit.is_none_or(|limit| rows < limit);
    (short && (rows > 0 || query.offset == 0)).then_some(query.offset + rows)
}

/// The number in the one row of a counting statement.
pub(super) fn single_count(batches: &[RecordBatch]) -> u64 {
    let counts = batches
        .iter()
        .filter(|batch| batch.num_rows() > 0)
        .filter_map(|batch| batch.columns().first()?.as_primitive_opt::<Int64Type>().map(|column| column.value(0)));
    counts.map(|count| u64::try_from(count).unwrap_or(0)).next().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;

    use super::*;

    #[test]
    fn rows_beyond_the_limit_are_left_out_and_told() {
        let batch = |rows: i64| {
            let column: arrow::array::ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
            RecordBatch::try_from_iter([("n", column)]).expect("one column")
        };
        let check = |wanted, expected: &[usize], truncated| {
            let (batches, told) = first_rows(vec![batch(3), batch(0), batch(2)], wanted);
            assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), expected);
            assert_eq!(told, truncated, "{wanted:?}");
        };
        check(None, &[3, 0, 2], false);
        check(Some(5), &[3, 0, 2], false);
        check(Some(4), &[3, 0, 1], true);
        check(Some(3), &[3, 0, 0], true);
        check(Some(0), &[0, 0, 0], true);
    }

    #[test]
    fn a_short_page_tells_the_total() {
        let page = |rows: i64| {
            let column: arrow::array::ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
            vec![RecordBatch::try_from_iter([("n", column)]).expect("one column")]
        };
        let asked = |limit, offset| Query { limit, offset, ..Query::default() };
        assert_eq!(whole_count(&asked(Some(10), 0), &page(3)), Some(3));
        assert_eq!(whole_count(&asked(Some(10), 20), &page(3)), Some(23));
        assert_eq!(whole_count(&asked(Some(10), 0), &page(0)), Some(0));
        assert_eq!(whole_count(&asked(None, 0), &page(30)), Some(30));
        // A full page, or a page beyond the end, tells nothing.
        assert_eq!(whole_count(&asked(Some(10), 0), &page(10)), None);
        assert_eq!(whole_count(&asked(Some(10), 20), &page(0)), None);
        assert_eq!(whole_count(&asked(Some(0), 0), &page(0)), None);
    }
}
