//! Runs a routed query and hands back its rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray as _;
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use quarry_storage::{FileId, Partition, Snapshot, TableId};
use quick_cache::sync::Cache;

use super::lower::{
    Output, ROLLUP_TABLE, RollupScan, SourceSelect, Statement, column_alias, rollup_statement, source_statement,
};
use super::plan::{Shape, shape};
use super::rollups::Rollups;
use super::route::{RollupRoute, Route, route};
use super::{OutputColumn, Query, QueryError};
use crate::engine::Engine;
use crate::engine::partition_table::{PartitionFile, PartitionTable, read_schema, single_table_catalog};
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
        let source = planned.source;
        let rows = async {
            let sql = planned.statement(rollups, query, true).inlined();
            match &planned.route {
                Route::Rollup(rollup) => self.read_rollup(rollup, sql).await,
                Route::Source(_) => Ok(source.collect(sql).await?.batches),
            }
        };
        let total = async {
            if !query.total {
                return Ok(None);
            }
            let sql = planned.statement(rollups, query, false).counted().inlined();
            let batches = match &planned.route {
                Route::Rollup(rollup) => self.read_rollup(rollup, sql).await?,
                Route::Source(_) => source.collect(sql).await?.batches,
            };
            Ok::<_, QueryError>(Some(single_count(&batches)))
        };
        let (batches, total) = futures::try_join!(rows, total)?;
        let used: Vec<UsedRollup> = planned.used(rollups).into_iter().collect();
        let refreshed_at = match &planned.route {
            Route::Rollup(rollup) => {
                let oldest = rollup.partitions.iter().map(|partition| partition.built_at).min();
                Some(oldest.unwrap_or(rollup.sample.built_at))
            }
            Route::Source(_) => None,
        };
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
        let (text, params) = planned.statement(rollups, query, true).bound();
        let aliases = query.columns().into_iter().map(|column| {
            let path = match column {
                OutputColumn::Dimension(id) => model.path_of(MemberId::Dimension(id)),
                OutputColumn::Segment(id) => model.path_of(MemberId::Segment(id)),
                OutputColumn::Measure(id) => model.path_of(MemberId::Measure(id)),
                OutputColumn::Time(id, granularity) => {
                    format!("{}.{granularity}", model.path_of(MemberId::Dimension(id)))
                }
            };
            (column_alias(model, column), path)
        });
        let aliases = aliases.collect();
        let used = planned.used(rollups).into_iter().collect();
        Ok(SqlPreview { text, params, used, data_source: planned.data_source, aliases })
    }

    fn plan(&self, rollups: &Rollups, snapshot: &Snapshot, query: &Query) -> Result<Planned<'_>, QueryError> {
        let model = rollups.model();
        let shape = shape(model, query)?;
        let data_source = one_data_source(model, &shape)?;
        let source = self
            .sources
            .get(&data_source)
            .ok_or_else(|| QueryError::Model(format!("data source '{data_source}' is not configured")))?;
        let route = route(rollups, snapshot, query, &shape)?;
        if let (Route::Source(rejections), true) = (&route, self.rollup_only) {
            let reasons = rejections.iter().map(|rejection| format!(" {rejection}."));
            return Err(QueryError::NoRollup { explanation: reasons.collect() });
        }
        Ok(Planned { shape, route, source, data_source })
    }

    async fn read_rollup(&self, rollup: &RollupRoute, sql: String) -> Result<Vec<RecordBatch>, QueryError> {
        // A range without stored rows still needs the columns: the conditions leave nothing of the sample.
        let pinned =
            if rollup.partitions.is_empty() { std::slice::from_ref(&rollup.sample) } else { &rollup.partitions };
        if let Some(table) = self.resident.table(pinned).await? {
            return Ok(self.engine.collect(sql, single_table_catalog(ROLLUP_TABLE, table)).await?.batches);
        }
        let schema = self.schemas.of(&rollup.sample)?;
        let files = pinned.iter().map(|partition| PartitionFile {
            path: partition.path.clone(),
            size_bytes: partition.size_bytes,
            rows: partition.rows,
        });
        let table = Arc::new(PartitionTable::new(schema, files.collect()));
        Ok(self.engine.collect(sql, single_table_catalog(ROLLUP_TABLE, table)).await?.batches)
    }
}

/// A query with its route.
struct Planned<'a> {
    shape: Shape,
    route: Route,
    source: &'a Source,
    data_source: String,
}

impl Planned<'_> {
    fn statement(&self, rollups: &Rollups, query: &Query, tail: bool) -> Statement {
        let model = rollups.model();
        match &self.route {
            Route::Rollup(RollupRoute { preagg, zone, exact, .. }) => rollup_statement(RollupScan {
                model,
                query,
                preagg: model.preagg(*preagg),
                zone: *zone,
                exact: *exact,
                tail,
            }),
            Route::Source(_) => {
                let outputs: Vec<Output> = query.measures.iter().map(|id| Output::Measure(*id)).collect();
                source_statement(SourceSelect { model, query, shape: &self.shape, outputs: &outputs, tail })
            }
        }
    }

    fn used(&self, rollups: &Rollups) -> Option<UsedRollup> {
        let Route::Rollup(rollup) = &self.route else { return None };
        let model = rollups.model();
        let newest = rollup.partitions.iter().map(|partition| partition.built_at).max();
        Some(UsedRollup {
            preagg: rollup.preagg,
            id: format!("{}.{}", model.cube(rollup.preagg.cube).name, model.preagg(rollup.preagg).name),
            table: rollup.table.clone(),
            external: model.preagg(rollup.preagg).external,
            last_updated_at: newest.unwrap_or(rollup.sample.built_at),
            partitions: rollup.partitions.len(),
        })
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

fn one_data_source(model: &Model, shape: &Shape) -> Result<String, QueryError> {
    let mut names: Vec<&str> = shape.tree.cubes().map(|cube| model.cube(cube).data_source.as_str()).collect();
    names.dedup();
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

/// The number in the one row of a counting statement.
fn single_count(batches: &[RecordBatch]) -> u64 {
    let counts = batches
        .iter()
        .filter(|batch| batch.num_rows() > 0)
        .filter_map(|batch| batch.columns().first()?.as_primitive_opt::<Int64Type>().map(|column| column.value(0)));
    counts.map(|count| u64::try_from(count).unwrap_or(0)).next().unwrap_or(0)
}
