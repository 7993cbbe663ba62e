//! Runs a routed query and hands back its rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use quarry_storage::{FileId, Partition, Snapshot, TableId};
use quick_cache::sync::Cache;

use super::explain::told;
use super::fresh::KeyStatement;
use super::lower::{column_alias, first_rows};
use super::plan::{Plan, Shape, plan};
use super::planned::{Planned, rest_table, scan_table, single_count, whole_count};
use super::rest::{gather, rest_columns};
use super::rollups::Rollups;
use super::route::{Route, route};
use super::scan::{Scan, originals};
use super::serve::SourceAnswers;
use super::{OutputColumn, Query, QueryError};
use crate::engine::indexed::IndexedTable;
use crate::engine::partition_table::{PartitionFile, PartitionTable, read_schema, tables_catalog};
use crate::engine::resident::Resident;
use crate::engine::{BatchStream, Engine};
use crate::model::{MemberId, Model, PreaggId};
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
    /// The lines of the sources, and what they answered.
    pub answers: SourceAnswers,
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
    /// Whether the limit left rows out.
    pub truncated: bool,
    /// UTC microseconds: the oldest build used, or when the source was asked; none when that was just now.
    pub refreshed_at: Option<i64>,
    /// The newest time among the stored rows that were read, in the rollup's zone; as far as it is known.
    pub newest_time: Option<i64>,
    /// What the refresh keys of the source said when it was asked, as JSON.
    pub source_keys: Option<String>,
    /// Whether a source was asked for all of its rows, with or without stored rows for some cubes.
    pub from_asked_source: bool,
    /// Whether the answer is old because a new one takes too long.
    pub slow: bool,
    /// The times that the source answered for beside rollups, wall clock of the query's zone or UTC.
    pub from_source: Vec<LocalRange>,
    /// Name of the source.
    pub data_source: String,
    /// Kind of the source.
    pub db_type: &'static str,
}

impl Answer {
    /// Whether the state of the store alone decides it: no source had a part in it.
    pub fn is_stored(&self) -> bool {
        !self.used.is_empty() && self.from_source.is_empty() && !self.from_asked_source
    }
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
    /// The refresh keys of the query's cubes; none where rollups are used.
    pub keys: Vec<KeyStatement>,
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
        let wide = query.one_more();
        let planned = self.plan(rollups, snapshot, &wide)?;
        self.load_planned(rollups, &planned, &wide).await
    }

    /// Starts a query; its rows come as they are read, the columns in the order of [`Query::columns`]. Sources are
    /// asked at once, and nothing is kept. Whoever reads must hold `snapshot` to the end.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn stream(
        &self,
        rollups: &Rollups,
        snapshot: &Arc<Snapshot>,
        query: &Query,
    ) -> Result<BatchStream, QueryError> {
        let planned = self.plan(rollups, snapshot, query)?;
        let statement = planned.statement(rollups, true)?.inlined();
        let tables = self.tables(rollups, &planned).await?;
        if planned.rollups().next().is_some() {
            return Ok(self.engine.stream(statement, tables_catalog(tables)).await?);
        }
        Ok(planned.source.stream_over(statement, tables).await?)
    }

    /// Runs a planned query at once. `wide` asks for one row more than is wanted, which shows whether there are more.
    pub(super) async fn load_planned(
        &self,
        rollups: &Rollups,
        planned: &Planned<'_>,
        wide: &Query,
    ) -> Result<Answer, QueryError> {
        let statement = planned.statement(rollups, true)?.inlined();
        // Made once, so that rows and their number are of one state.
        let tables = self.tables(rollups, planned).await?;
        let batches = self.run(planned, statement, tables.clone()).await?;
        let total = match (wide.total, whole_count(wide, &batches)) {
            (false, _) => None,
            (true, Some(counted)) => Some(counted),
            (true, None) => {
                let counting = planned.statement(rollups, false)?.counted().inlined();
                Some(single_count(&self.run(planned, counting, tables).await?))
            }
        };
        Ok(planned.answer_of(rollups, wide, batches, total))
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
        let keys = self.key_statements(rollups, query, &planned)?;
        Ok(SqlPreview { text, params, used, keys, from_source, data_source: planned.data_source, aliases })
    }

    pub(super) fn plan(
        &self,
        rollups: &Rollups,
        snapshot: &Snapshot,
        query: &Query,
    ) -> Result<Planned<'_>, QueryError> {
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
            return Ok(Planned { plan, routes, originals: Vec::new(), source, data_source, asks_source: false });
        };
        let (originals, without) = originals(rollups, snapshot, &plan);
        // What is read from stored rows alone does not reach the source.
        let asks_source = originals.is_empty() || !without.is_empty();
        if self.rollup_only && asks_source {
            // The first level that no rollup answers is the last one that was looked at.
            let leaf = plan.leaves().into_iter().nth(looked_at);
            let explanation = leaf.map(|leaf| told(model, leaf, rejections)).unwrap_or_default();
            return Err(QueryError::NoRollup { explanation });
        }
        Ok(Planned { plan, routes, originals, source, data_source, asks_source })
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

    pub(super) async fn stored_table(&self, scan: &Scan) -> Result<Arc<dyn TableProvider>, QueryError> {
        // Another order is no help where all rows are in memory; fewer rows are.
        if scan.kept.iter().any(|kept| kept.columns.is_some()) {
            return self.indexed_table(scan);
        }
        match self.resident.table(scan.pinned()).await? {
            Some(table) => Ok(table),
            None if scan.kept.is_empty() => Ok(file_table(scan, self.schemas.of(&scan.sample)?)),
            None => self.indexed_table(scan),
        }
    }

    /// The rows of a scan, or the copy of them that a statement has to read least of.
    fn indexed_table(&self, scan: &Scan) -> Result<Arc<dyn TableProvider>, QueryError> {
        let schema = self.schemas.of(&scan.sample)?;
        Ok(Arc::new(IndexedTable::new(schema, scan.kept.clone(), self.resident.clone())))
    }
}

impl QueryService {
    /// The first rows of a partition as they are stored, at most `rows`.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub async fn stored_rows(&self, partition: &Partition, rows: usize) -> Result<Vec<RecordBatch>, QueryError> {
        let table = PartitionTable::new(self.schemas.of(partition)?, vec![PartitionFile::of(partition)]);
        let tables = tables_catalog(vec![("stored".to_owned(), Arc::new(table))]);
        Ok(self.engine.collect(first_rows("stored", rows), tables).await?.batches)
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
    let files = scan.pinned().iter().map(|partition| PartitionFile::of(partition));
    Arc::new(PartitionTable::new(schema, files.collect()))
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
