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
use super::lower::{LeafSource, Statement, column_alias, plan_statement, rollup_table};
use super::plan::{Plan, Shape, plan};
use super::rollups::Rollups;
use super::route::{RollupRoute, Route, route};
use super::{OutputColumn, Query, QueryError};
use crate::engine::Engine;
use crate::engine::partition_table::{PartitionFile, PartitionTable, read_schema, tables_catalog};
use crate::engine::resident::Resident;
use crate::model::{MemberId, Model, PreaggId};
use crate::sources::Source;

/// What queries are answered from.
#[derive(Debug, Clone)]
pub struct QueryService {
    /// Runs rollup queries.
    pub engine: Engine,
    /// Sources by name.
    pub sources: Arc<BTreeMap<String, Source>>,
    /// `CUBEJS_ROLLUP_ONLY`: never ask a source.
    pub rollup_only: bool,
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
        let batches = self.run(&planned, statement).await?;
        let total = match (query.total, whole_count(query, &batches)) {
            (false, _) => None,
            (true, Some(counted)) => Some(counted),
            (true, None) => {
                let counting = planned.statement(rollups, false)?.counted().inlined();
                Some(single_count(&self.run(&planned, counting).await?))
            }
        };
        let used = planned.used(rollups);
        let oldest = |rollup: &RollupRoute| {
            rollup.partitions.iter().map(|partition| partition.built_at).min().unwrap_or(rollup.sample.built_at)
        };
        let refreshed_at = planned.rollups().map(|(_, rollup)| oldest(rollup)).min();
        let source = planned.source;
        Ok(Answer {
            columns: query.columns(),
            batches,
            total,
            used,
            refreshed_at,
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
        Ok(SqlPreview { text, params, used, data_source: planned.data_source, aliases })
    }

    fn plan(&self, rollups: &Rollups, snapshot: &Snapshot, query: &Query) -> Result<Planned<'_>, QueryError> {
        let model = rollups.model();
        let plan = plan(model, query)?;
        let data_source = one_data_source(model, &plan)?;
        let source = self
            .sources
            .get(&data_source)
            .ok_or_else(|| QueryError::Model(format!("data source '{data_source}' is not configured")))?;
        let routes = self.routes(rollups, snapshot, &plan)?;
        Ok(Planned { plan, routes, source, data_source })
    }

    /// A rollup for every level, or the source for all of them: an answer that mixes both would mix two states.
    fn routes(&self, rollups: &Rollups, snapshot: &Snapshot, plan: &Plan) -> Result<Vec<Route>, QueryError> {
        let mut found = Vec::new();
        for leaf in plan.leaves() {
            match route(rollups, snapshot, &leaf.query, &leaf.shape)? {
                Route::Rollup(rollup) => found.push(Route::Rollup(rollup)),
                Route::Source(rejections) if self.rollup_only => {
                    return Err(QueryError::NoRollup { explanation: told(rollups.model(), leaf, &rejections) });
                }
                Route::Source(rejections) => return Ok(vec![Route::Source(rejections)]),
            }
        }
        Ok(found)
    }

    /// Runs a statement of a plan where its levels are answered.
    async fn run(&self, planned: &Planned<'_>, sql: String) -> Result<Vec<RecordBatch>, QueryError> {
        let mut tables: Vec<(String, Arc<dyn TableProvider>)> = Vec::new();
        for (level, rollup) in planned.rollups() {
            tables.push((planned.table_name(level), self.rollup_table(rollup).await?));
        }
        if tables.is_empty() {
            return Ok(planned.source.collect(sql).await?.batches);
        }
        Ok(self.engine.collect(sql, tables_catalog(tables)).await?.batches)
    }

    async fn rollup_table(&self, rollup: &RollupRoute) -> Result<Arc<dyn TableProvider>, QueryError> {
        // A range without stored rows still needs the columns: the conditions leave nothing of the sample.
        let pinned =
            if rollup.partitions.is_empty() { std::slice::from_ref(&rollup.sample) } else { &rollup.partitions };
        if let Some(table) = self.resident.table(pinned).await? {
            return Ok(table);
        }
        let schema = self.schemas.of(&rollup.sample)?;
        let files = pinned.iter().map(|partition| PartitionFile {
            path: partition.path.clone(),
            size_bytes: partition.size_bytes,
            rows: partition.rows,
        });
        Ok(Arc::new(PartitionTable::new(schema, files.collect())))
    }
}

/// A query with its routes: a rollup a level, or the source.
struct Planned<'a> {
    plan: Plan,
    routes: Vec<Route>,
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

    fn table_name(&self, level: usize) -> String {
        rollup_table(level)
    }

    fn statement(&self, rollups: &Rollups, tail: bool) -> Result<Statement, QueryError> {
        let sources: Vec<LeafSource> = self
            .routes
            .iter()
            .enumerate()
            .map(|(level, route)| match route {
                Route::Source(_) => LeafSource::Source,
                Route::Rollup(RollupRoute { preagg, zone, exact, .. }) => {
                    LeafSource::Rollup { preagg: *preagg, zone: *zone, exact: *exact, table: self.table_name(level) }
                }
            })
            .collect();
        plan_statement(rollups.model(), &self.plan, &sources, tail).checked()
    }

    fn used(&self, rollups: &Rollups) -> Vec<UsedRollup> {
        let model = rollups.model();
        let mut used: Vec<UsedRollup> = Vec::new();
        for (_, rollup) in self.rollups() {
            if used.iter().any(|known| known.table == rollup.table) {
                continue;
            }
            let newest = rollup.partitions.iter().map(|partition| partition.built_at).max();
            used.push(UsedRollup {
                preagg: rollup.preagg,
                id: format!("{}.{}", model.cube(rollup.preagg.cube).name, model.preagg(rollup.preagg).name),
                table: rollup.table.clone(),
                external: model.preagg(rollup.preagg).external,
                last_updated_at: newest.unwrap_or(rollup.sample.built_at),
                partitions: rollup.partitions.len(),
                refresh_keys: rollup.partitions.iter().map(|partition| partition.refresh_key.clone()).collect(),
            });
        }
        used
    }
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

fn one_data_source(model: &Model, plan: &Plan) -> Result<String, QueryError> {
    let mut names: Vec<&str> = Vec::new();
    for leaf in plan.leaves() {
        collect_sources(model, &leaf.shape, &mut names);
    }
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        names.push("default");
    }
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
