//! Runs a routed query and hands back its rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray as _;
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use quarry_storage::{FileId, Partition, Snapshot, TableId};
use quick_cache::sync::Cache;

use super::explain::told;
use super::lower::{
    LeafSource, Origins, Statement, column_alias, join_table, plan_statement, rollup_table, union_table,
};
use super::plan::{Plan, Shape, plan};
use super::rest::{gather, rest_columns};
use super::rollups::Rollups;
use super::route::{RollupRoute, Route, route};
use super::scan::{Original, Scan, originals};
use super::{OutputColumn, Query, QueryError};
use crate::engine::Engine;
use crate::engine::partition_table::{PartitionFile, PartitionTable, read_schema, tables_catalog};
use crate::engine::resident::Resident;
use crate::model::{MemberId, Model, PreaggId, PreaggKind};
use crate::preagg::coverage::LocalRange;
use crate::sources::{Brought, Source};

/// What queries are answered from.
#[derive(Debug, Clone)]
pub struct QueryService {
    /// Runs rollup queries.
    pub engine: Engine,
    /// Sources by name.
    pub sources: Arc<BTreeMap<String, Source>>,
    /// `CUBEJS_ROLLUP_ONLY`: never ask a source.
    pub rollup_only: bool,
    /// Most bytes that the source may add to the rows of rollups.
    pub rest_bytes: usize,
    /// Columns of stored files, remembered.
    pub schemas: Schemas,
    /// Partitions kept in memory.
    pub resident: Resident,
}

/// An answered query.
#[derive(Debug)]
pub struct Answer {
    /// The columns, as [`Query::columns`].
    pub columns: Vec<OutputColumn>,
    /// The rows; arrays in the order of `columns`. Times are local wall clock without zone.
    pub batches: Vec<RecordBatch>,
    /// Number of rows without limit and offset, when asked for.
    pub total: Option<u64>,
    /// The rollups used; none for an answer from the source.
    pub used: Vec<UsedRollup>,
    /// UTC microseconds: the oldest build used; none for an answer from the source (that is: now).
    pub refreshed_at: Option<i64>,
    /// The times that the source answered for beside rollups, wall clock of the query's zone or UTC.
    pub from_source: Vec<LocalRange>,
    /// Name of the source.
    pub data_source: String,
    /// Kind of the source.
    pub db_type: &'static str,
}

/// A rollup that took part in an answer.
#[derive(Debug, Clone)]
pub struct UsedRollup {
    /// The definition.
    pub preagg: PreaggId,
    /// `cube.rollup`.
    pub id: String,
    /// As `id`, with `sql_alias` for the rollup's name where it has one.
    pub logical: String,
    /// `rollup` or `originalSql`.
    pub kind: &'static str,
    /// The stored table.
    pub table: TableId,
    /// Whether the definition calls it external.
    pub external: bool,
    /// UTC microseconds of the newest build used.
    pub last_updated_at: i64,
    /// Partitions read, after pruning.
    pub partitions: usize,
    /// What the refresh keys said when they were built, each partition's as JSON.
    pub refresh_keys: Vec<String>,
}

/// The statement that a query would run.
#[derive(Debug, Clone)]
pub struct SqlPreview {
    /// SQL with `$1`… for request values.
    pub text: String,
    /// The request values.
    pub params: Vec<String>,
    /// The rollups that would be used.
    pub used: Vec<UsedRollup>,
    /// Name of the source.
    pub data_source: String,
    /// Tables that the source fills, by name: the statement of each and its request values.
    pub from_source: Vec<(String, String, Vec<String>)>,
    /// `(alias, member)` of every column; a time dimension's member has three parts.
    pub aliases: Vec<(String, String)>,
}

impl QueryService {
    /// Answers a query from the state `snapshot`.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn load(&self, rollups: &Rollups, snapshot: &Arc<Snapshot>, query: &Query) -> Result<Answer, QueryError> {
        let planned = self.plan(rollups, snapshot, query)?;
        let statement = planned.statement(rollups, true)?.inlined();
        // Made once, so that rows and their number are of one state.
        let tables = self.tables(rollups, &planned).await?;
        let batches = self.run(&planned, statement, tables.clone()).await?;
        let total = match (query.total, whole_count(query, &batches)) {
            (false, _) => None,
            (true, Some(counted)) => Some(counted),
            (true, None) => {
                let counting = planned.statement(rollups, false)?.counted().inlined();
                Some(single_count(&self.run(&planned, counting, tables).await?))
            }
        };
        let used = planned.used(rollups);
        let refreshed_at = planned.scans().map(Scan::oldest).min();
        let source = planned.source;
        Ok(Answer {
            columns: query.columns(),
            batches,
            total,
            used,
            refreshed_at,
            from_source: planned.source_ranges(),
            data_source: planned.data_source,
            db_type: source.db_type(),
        })
    }

    /// Plans a query without running it.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn preview(
        &self,
        rollups: &Rollups,
        snapshot: &Arc<Snapshot>,
        query: &Query,
    ) -> Result<SqlPreview, QueryError> {
        let planned = self.plan(rollups, snapshot, query)?;
        let model = rollups.model();
        let (text, params) = planned.statement(rollups, true)?.bound();
        let aliases = query.columns().into_iter().map(|column| {
            let path = match column {
                OutputColumn::Dimension(id) => model.path_of(MemberId::Dimension(id)),
                OutputColumn::Segment(id) => model.path_of(MemberId::Segment(id)),
                OutputColumn::Measure(id) => model.path_of(MemberId::Measure(id)),
                OutputColumn::Time(id, grain) => {
                    format!("{}.{}", model.path_of(MemberId::Dimension(id)), model.dimension(id).grain_name(grain))
                }
            };
            (column_alias(model, column), path)
        });
        let aliases = aliases.collect();
        let used = planned.used(rollups);
        let mut from_source = Vec::new();
        for (level, route) in planned.rollups() {
            if let Some(rest) = &route.rest {
                let query = planned.level(level);
                let statement = rollups.rest_statement(route.preagg, route.zone, rest, query)?.checked()?;
                let (text, params) = statement.bound();
                from_source.push((rest_table(level), text, params));
            }
        }
        Ok(SqlPreview { text, params, used, from_source, data_source: planned.data_source, aliases })
    }

    fn plan(&self, rollups: &Rollups, snapshot: &Snapshot, query: &Query) -> Result<Planned<'_>, QueryError> {
        let model = rollups.model();
        let plan = plan(model, query)?;
        let (routes, looked_at) = self.routes(rollups, snapshot, &plan)?;
        let by_rollups = routes.iter().all(|route| matches!(route, Route::Rollup(_)));
        let data_source = if by_rollups { first_data_source(model, &plan) } else { one_data_source(model, &plan)? };
        let source = self.source(&data_source)?;
        let rejections = routes.iter().find_map(|route| match route {
            Route::Source(rejections) => Some(rejections),
            Route::Rollup(_) => None,
        });
        let Some(rejections) = rejections else {
            return Ok(Planned { plan, routes, originals: Vec::new(), source, data_source });
        };
        let (originals, without) = originals(rollups, snapshot, &plan);
        // What is read from stored rows alone does not reach the source.
        if self.rollup_only && (originals.is_empty() || !without.is_empty()) {
            // The first level that no rollup answers is the last one that was looked at.
            let leaf = plan.leaves().into_iter().nth(looked_at);
            let explanation = leaf.map(|leaf| told(model, leaf, rejections)).unwrap_or_default();
            return Err(QueryError::NoRollup { explanation });
        }
        Ok(Planned { plan, routes, originals, source, data_source })
    }

    /// A rollup for every level, or the source for all of them: an answer that mixes both would mix two states.
    /// Also gives the number of the level that decided.
    fn routes(&self, rollups: &Rollups, snapshot: &Snapshot, plan: &Plan) -> Result<(Vec<Route>, usize), QueryError> {
        let mut found = Vec::new();
        for (level, leaf) in plan.leaves().into_iter().enumerate() {
            match route(rollups, snapshot, &leaf.query, &leaf.shape)? {
                Route::Rollup(rollup) => found.push(Route::Rollup(rollup)),
                Route::Source(rejections) => return Ok((vec![Route::Source(rejections)], level)),
            }
        }
        let last = found.len().saturating_sub(1);
        Ok((found, last))
    }

    fn source(&self, name: &str) -> Result<&Source, QueryError> {
        self.sources.get(name).ok_or_else(|| QueryError::Model(format!("data source '{name}' is not configured")))
    }

    /// The tables that the statements of a plan read, beside those of the source.
    async fn tables(&self, rollups: &Rollups, planned: &Planned<'_>) -> Result<Brought, QueryError> {
        let model = rollups.model();
        let mut tables = Brought::new();
        for (level, route) in planned.rollups() {
            for (position, scan) in route.scans.iter().enumerate() {
                tables.push((scan_table(level, position), self.stored_table(scan).await?));
            }
            if let Some(rest) = &route.rest {
                let statement = rollups.rest_statement(route.preagg, route.zone, rest, planned.level(level))?;
                let source = self.source(&model.cube(route.preagg.cube).data_source)?;
                let stream = source.stream_over(statement.checked()?.inlined(), Brought::new()).await?;
                let like = route.scans.first().map(|scan| self.schemas.of(&scan.sample)).transpose()?;
                let columns = rest_columns(model, route, like.as_deref());
                tables.push((rest_table(level), gather(stream, columns, self.rest_bytes).await?));
            }
        }
        for original in &planned.originals {
            tables.push((original.table_name(model), self.stored_table(&original.scan).await?));
        }
        Ok(tables)
    }

    /// Runs a statement of a plan where its levels are answered.
    async fn run(&self, planned: &Planned<'_>, sql: String, tables: Brought) -> Result<Vec<RecordBatch>, QueryError> {
        if planned.rollups().next().is_some() {
            return Ok(self.engine.collect(sql, tables_catalog(tables)).await?.batches);
        }
        Ok(planned.source.collect_over(sql, tables).await?.batches)
    }

    async fn stored_table(&self, scan: &Scan) -> Result<Arc<dyn TableProvider>, QueryError> {
        match self.resident.table(scan.pinned()).await? {
            Some(table) => Ok(table),
            None => Ok(file_table(scan, self.schemas.of(&scan.sample)?)),
        }
    }
}

/// Stored rows as a table over their files.
///
/// # Errors
/// The sample cannot be read.
pub fn table_of(scan: &Scan) -> Result<Arc<dyn TableProvider>, QueryError> {
    Ok(file_table(scan, read_schema(&scan.sample.path)?))
}

fn file_table(scan: &Scan, schema: SchemaRef) -> Arc<dyn TableProvider> {
    let files = scan.pinned().iter().map(|partition| PartitionFile {
        path: partition.path.clone(),
        size_bytes: partition.size_bytes,
        rows: partition.rows,
    });
    Arc::new(PartitionTable::new(schema, files.collect()))
}

/// A query with its routes: a rollup a level, or the source.
struct Planned<'a> {
    plan: Plan,
    routes: Vec<Route>,
    /// Stored rows that stand for cubes at the source.
    originals: Vec<Original>,
    source: &'a Source,
    data_source: String,
}

impl Planned<'_> {
    /// The rollups used, with their levels.
    fn rollups(&self) -> impl Iterator<Item = (usize, &RollupRoute)> {
        self.routes.iter().enumerate().filter_map(|(level, route)| match route {
            Route::Rollup(rollup) => Some((level, rollup)),
            Route::Source(_) => None,
        })
    }

    /// All stored rows that are read.
    fn scans(&self) -> impl Iterator<Item = &Scan> {
        let rollups = self.rollups().flat_map(|(_, rollup)| &rollup.scans);
        rollups.chain(self.originals.iter().map(|original| &original.scan))
    }

    /// The times that the source answers for beside rollups.
    fn source_ranges(&self) -> Vec<LocalRange> {
        let rests = self.rollups().filter_map(|(_, route)| route.rest.as_ref());
        rests.flat_map(|rest| rest.ranges.iter().copied()).collect()
    }

    /// What a level asks.
    fn level(&self, level: usize) -> &Query {
        let leaf = self.plan.leaves().into_iter().nth(level);
        leaf.map_or_else(|| self.plan.query(), |leaf| &leaf.query)
    }

    fn statement(&self, rollups: &Rollups, tail: bool) -> Result<Statement, QueryError> {
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

    fn used(&self, rollups: &Rollups) -> Vec<UsedRollup> {
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
fn scan_table(level: usize, position: usize) -> String {
    let table = rollup_table(level);
    if position == 0 { table } else { format!("{table}_part_{position}") }
}

/// Name of the table that the source fills for a level.
fn rest_table(level: usize) -> String {
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

/// Most files whose columns are remembered.
const REMEMBERED_FILES: usize = 4096;

/// The columns of stored files, remembered: files never change.
#[derive(Clone)]
pub struct Schemas(Arc<Cache<FileId, SchemaRef>>);

impl Default for Schemas {
    fn default() -> Self {
        Self(Arc::new(Cache::new(REMEMBERED_FILES)))
    }
}

impl std::fmt::Debug for Schemas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Schemas").field("files", &self.0.len()).finish()
    }
}

impl Schemas {
    fn of(&self, partition: &Partition) -> Result<SchemaRef, QueryError> {
        Ok(self.0.get_or_insert_with(&partition.file, || read_schema(&partition.path))?)
    }
}

/// The names of the sources of a plan, in the order of its cubes.
fn data_sources<'m>(model: &'m Model, plan: &Plan) -> Vec<&'m str> {
    let mut names: Vec<&str> = Vec::new();
    for leaf in plan.leaves() {
        collect_sources(model, &leaf.shape, &mut names);
    }
    if names.is_empty() {
        names.push("default");
    }
    names
}

/// The source that an answer from rollups is said to be of.
fn first_data_source(model: &Model, plan: &Plan) -> String {
    data_sources(model, plan).first().copied().unwrap_or("default").to_owned()
}

fn one_data_source(model: &Model, plan: &Plan) -> Result<String, QueryError> {
    let mut names = data_sources(model, plan);
    names.sort_unstable();
    names.dedup();
    match names.as_slice() {
        [one] => Ok((*one).to_owned()),
        many => Err(QueryError::Model(format!(
            "To join across data sources use rollupJoin with Cube Store. If rollupJoin is defined, this error indicates it \
             doesn't match the query. Please use Rollup Designer to verify it's definition. Found data sources: {}",
            many.join(", ")
        ))),
    }
}

fn collect_sources<'m>(model: &'m Model, shape: &Shape, names: &mut Vec<&'m str>) {
    names.extend(shape.tree.cubes().map(|cube| model.cube(cube).data_source.as_str()));
    for leaf in shape.sub_queries.iter().flat_map(|sub_query| sub_query.plan.leaves()) {
        collect_sources(model, &leaf.shape, names);
    }
}

/// The number of rows without limit and offset, when the rows at hand tell it: the last page is short.
fn whole_count(query: &Query, batches: &[RecordBatch]) -> Option<u64> {
    let rows = batches.iter().map(RecordBatch::num_rows).sum::<usize>() as u64;
    let short = query.limit.is_none_or(|limit| rows < limit);
    (short && (rows > 0 || query.offset == 0)).then_some(query.offset + rows)
}

/// The number in the one row of a counting statement.
fn single_count(batches: &[RecordBatch]) -> u64 {
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
