//! Runs a bound statement: asks its questions, and does what is left on their rows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType as ArrowType, Field, Schema};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::TableReference;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable as _, FetchType, LogicalPlan, LogicalPlanBuilder, Operator, cast,
};
use futures::stream::{BoxStream, StreamExt as _};
use tokio::time::Instant;

use super::aggregate::unmergeable_text;
use super::leaf::{LeafTable, columns_of};
use super::relation::{Column, Relation};
use super::rewrite::Leaf;
use super::scope::LEAF;
use super::{Bound, OutputField, Rewriting, SqlError, SqlService, Work, ask};
use crate::query::execute::{Answer, SqlPreview, UsedRollup};
use crate::query::merge::unmergeable;
use crate::query::normalize::{Limits, Normalized, normalize};
use crate::query::serve::Asking;
use crate::query::{Query, QueryError};

/// Most rows of one question whose rows are worked on.
const MOST_LEAF_ROWS: u64 = 10_000_000;

/// Who asks without patience of their own is bounded by the time that statements have.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

/// Rows of a statement.
pub struct SqlAnswer {
    /// The columns.
    pub fields: Vec<OutputField>,
    /// The rows. Numbers may be of other types than the columns say: they are as exact as they can be.
    pub batches: BoxStream<'static, Result<RecordBatch, SqlError>>,
    /// The rollups used.
    pub used: Vec<UsedRollup>,
    /// UTC microseconds: the oldest build used; none where only sources were.
    pub refreshed_at: Option<i64>,
}

impl std::fmt::Debug for SqlAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqlAnswer").field("fields", &self.fields).finish_non_exhaustive()
    }
}

/// What a statement would run.
#[derive(Debug)]
pub enum Preview {
    /// One question: its SQL.
    Question(Box<SqlPreview>),
    /// Questions, and work on their rows.
    Above,
}

impl SqlService {
    /// Runs a statement.
    ///
    /// # Errors
    /// See [`SqlError`].
    pub async fn run(&self, bound: &Bound) -> Result<SqlAnswer, SqlError> {
        match &bound.work {
            Work::Question(relation) => self.answer(bound, relation).await,
            Work::Above(plan, leaves) => self.work(bound, plan, leaves).await,
        }
    }

    /// What a statement would run.
    ///
    /// # Errors
    /// See [`SqlError`].
    pub async fn preview(&self, bound: &Bound) -> Result<Preview, SqlError> {
        let Work::Question(relation) = &bound.work else { return Ok(Preview::Above) };
        Ok(Preview::Question(Box::new(self.preview_of(bound, relation, &relation.columns).await?)))
    }

    /// What the question that a relation is would run.
    pub(super) async fn preview_of(
        &self,
        bound: &Bound,
        relation: &Relation,
        wanted: &[Column],
    ) -> Result<SqlPreview, SqlError> {
        let mut query = self.query(bound, relation, wanted).await?;
        query.limit = query.limit.or((!self.options.unbounded).then_some(self.limits.max_rows));
        Ok(self.queries.preview(&bound.current, &bound.snapshot, &query)?)
    }

    /// The columns of each leaf that a plan reads, by position; none for leaves that it does not read.
    pub(super) async fn needed(
        &self,
        bound: &Bound,
        plan: &LogicalPlan,
        leaves: &[Leaf],
    ) -> Result<Vec<Option<BTreeSet<usize>>>, SqlError> {
        if leaves.is_empty() {
            return Ok(Vec::new());
        }
        let (state, plan, leaves) = (Arc::clone(&bound.state), plan.clone(), leaves.len());
        self.queries.engine.on_threads(async move { needed_columns(&state, &plan, leaves) }).await?
    }

    /// The question that a relation is. Its limit is the relation's own, or that of who changes questions.
    async fn query(&self, bound: &Bound, relation: &Relation, wanted: &[Column]) -> Result<Query, SqlError> {
        let model = bound.current.model();
        let request = ask::request(model, relation, wanted, bound.zone, bound.cache);
        let limits = Limits { max_rows: u64::MAX, ..self.limits.clone() };
        let now = self.clock.now();
        let Normalized { mut query, echo } = normalize(&request, model, &limits, &bound.asker, now)?;
        query.limit = relation.limit;
        // Who finds nothing anyway is not rewritten.
        if let Some(Rewriting(rewrite)) = bound.rewriting.as_ref().filter(|_| !query.denied) {
            let shown = echo.limit;
            let changed = rewrite(echo).await?;
            query = normalize(&changed, model, &limits, &bound.asker, now)?.query;
            if changed.limit == shown {
                query.limit = relation.limit;
            }
        }
        Ok(query)
    }

    /// Answers a statement that is one question.
    async fn answer(&self, bound: &Bound, relation: &Relation) -> Result<SqlAnswer, SqlError> {
        self.check_limit(relation.limit)?;
        let mut query = self.query(bound, relation, &relation.columns).await?;
        let most = self.most_rows();
        if query.limit.is_none() {
            query.limit = most.map(|most| most + 1);
        }
        let answer = self.fetch(bound, &query).await?;
        let rows: usize = answer.batches.iter().map(RecordBatch::num_rows).sum();
        if most.is_some_and(|most| rows as u64 > most) {
            return Err(self.too_many());
        }
        let model = bound.current.model();
        let columns = columns_of(model, &answer, &relation.columns, bound.user.as_deref())?;
        let batches = columns
            .into_iter()
            .zip(&answer.batches)
            .map(|(columns, batch)| Ok(named_batch(&bound.fields, columns, batch.num_rows())?));
        let batches: Vec<Result<RecordBatch, SqlError>> = batches.collect();
        Ok(SqlAnswer {
            fields: bound.fields.clone(),
            batches: futures::stream::iter(batches).boxed(),
            used: answer.used,
            refreshed_at: answer.refreshed_at,
        })
    }

    /// Asks the questions of a plan, and runs it over their rows.
    async fn work(&self, bound: &Bound, plan: &LogicalPlan, leaves: &[Leaf]) -> Result<SqlAnswer, SqlError> {
        self.check_limit(top_limit(plan))?;
        let needed = self.needed(bound, plan, leaves).await?;
        let asked = needed.iter().enumerate().filter_map(|(id, columns)| Some((leaves.get(id)?, columns.as_ref()?)));
        let asked = asked.map(|(leaf, columns)| Box::pin(self.ask(bound, leaf, columns)));
        let answers = futures::future::try_join_all(asked).await?;
        let mut tables = Vec::with_capacity(leaves.len());
        let (mut used, mut refreshed_at) = (Vec::<UsedRollup>::new(), None);
        let mut answers = answers.into_iter();
        for (id, leaf) in leaves.iter().enumerate() {
            let table = LeafTable::planned(id, bound.current.model(), &leaf.columns);
            let Some(answer) = needed.get(id).and_then(Option::as_ref).and_then(|_| answers.next()) else {
                tables.push(Arc::new(table));
                continue;
            };
            let columns = columns_of(bound.current.model(), &answer, &leaf.columns, bound.user.as_deref())?;
            let rows: Vec<usize> = answer.batches.iter().map(RecordBatch::num_rows).collect();
            tables.push(Arc::new(table.answered(columns, &rows)?));
            for rollup in answer.used {
                if !used.iter().any(|known| known.table == rollup.table) {
                    used.push(rollup);
                }
            }
            refreshed_at = [refreshed_at, answer.refreshed_at].into_iter().flatten().min();
        }
        let planned = plan.clone();
        let filled = self.queries.engine.on_threads(async move { fill(planned, &tables) }).await??;
        let stream = self.queries.engine.stream_plan(Arc::clone(&bound.state), filled).await?;
        let (most, too_many) = (self.most_rows(), self.too_many().to_string());
        let mut rows = 0_u64;
        let batches = stream.batches.map(move |batch| {
            let batch = batch?;
            rows += batch.num_rows() as u64;
            if most.is_some_and(|most| rows > most) {
                return Err(SqlError::Refused(too_many.clone()));
            }
            Ok(batch)
        });
        Ok(SqlAnswer { fields: bound.fields.clone(), batches: batches.boxed(), used, refreshed_at })
    }

    /// The answer to a leaf's question.
    async fn ask(&self, bound: &Bound, leaf: &Leaf, needed: &BTreeSet<usize>) -> Result<Answer, SqlError> {
        let model = bound.current.model();
        let wanted: Vec<Column> = needed.iter().filter_map(|at| leaf.columns.get(*at).copied()).collect();
        let mut query = self.query(bound, &leaf.relation, &wanted).await?;
        if !leaf.merged.is_empty()
            && let Some(id) = unmergeable(model, &query)?
        {
            return Err(unmergeable_text(model, id));
        }
        let own = query.limit.is_some();
        query.limit.get_or_insert(MOST_LEAF_ROWS + 1);
        let answer = self.fetch(bound, &query).await?;
        let rows: usize = answer.batches.iter().map(RecordBatch::num_rows).sum();
        if !own && rows as u64 > MOST_LEAF_ROWS {
            return Err(SqlError::Refused(format!(
                "The query works on more than {MOST_LEAF_ROWS} rows of a cube: group or filter by members of the cube"
            )));
        }
        Ok(answer)
    }

    async fn fetch(&self, bound: &Bound, query: &Query) -> Result<Answer, SqlError> {
        let asking = Asking {
            mode: bound.cache.unwrap_or_default(),
            until: bound.until.unwrap_or_else(|| Instant::now() + LONGEST_WAIT),
            request_id: &bound.request_id,
        };
        Ok(Box::pin(self.queries.answer(&bound.current, &bound.snapshot, query, asking)).await?)
    }

    fn most_rows(&self) -> Option<u64> {
        (!self.options.unbounded).then_some(self.limits.max_rows)
    }

    fn check_limit(&self, limit: Option<u64>) -> Result<(), SqlError> {
        match (limit, self.most_rows()) {
            (Some(limit), Some(most)) if limit > most => Err(QueryError::LimitExceeded.into()),
            _ => Ok(()),
        }
    }

    fn too_many(&self) -> SqlError {
        SqlError::Refused(format!(
            "The query limit has been exceeded: the result has more than {} rows. Add a LIMIT, or raise \
             CUBEJS_DB_QUERY_LIMIT",
            self.limits.max_rows
        ))
    }
}

/// The limit of a plan as a whole.
fn top_limit(plan: &LogicalPlan) -> Option<u64> {
    match plan {
        LogicalPlan::Limit(limit) => match limit.get_fetch_type() {
            Ok(FetchType::Literal(rows)) => rows.map(|rows| rows as u64),
            _ => None,
        },
        LogicalPlan::Projection(projection) => top_limit(&projection.input),
        _ => None,
    }
}

fn named_batch(fields: &[OutputField], columns: Vec<Option<ArrayRef>>, rows: usize) -> PlanResult<RecordBatch> {
    let missing = || DataFusionError::Internal("a column was not answered".to_owned());
    let arrays: Vec<ArrayRef> =
        columns.into_iter().map(|array| array.ok_or_else(missing)).collect::<PlanResult<_>>()?;
    let fields = fields.iter().zip(&arrays);
    let fields: Vec<Field> =
        fields.map(|(field, array)| Field::new(&field.name, array.data_type().clone(), true)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?)
}

/// The columns of each leaf that a plan reads, by position; none for leaves that it does not read.
fn needed_columns(
    state: &SessionState,
    plan: &LogicalPlan,
    leaves: usize,
) -> Result<Vec<Option<BTreeSet<usize>>>, SqlError> {
    let mut needed: Vec<Option<BTreeSet<usize>>> = vec![None; leaves];
    let optimized = state.optimize(plan)?;
    optimized.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Some(table) = source_as_provider(&scan.source)?.downcast_ref::<LeafTable>()
            && let Some(columns) = needed.get_mut(table.id)
        {
            let all = || (0..scan.source.schema().fields().len()).collect();
            columns.get_or_insert_default().extend(scan.projection.clone().unwrap_or_else(all));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(needed)
}

/// The plan over tables with rows. Their columns may be of more exact types than it was made with.
fn fill(plan: LogicalPlan, tables: &[Arc<LeafTable>]) -> Result<LogicalPlan, SqlError> {
    let filled = plan.transform_up_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = &node
            && let Some(table) = source_as_provider(&scan.source)?.downcast_ref::<LeafTable>()
        {
            let Some(table) = tables.get(table.id) else { return Ok(Transformed::no(node)) };
            let source = provider_as_source(Arc::clone(table) as _);
            let scan = LogicalPlanBuilder::scan(TableReference::bare(LEAF), source, None)?.build()?;
            return Ok(Transformed::yes(scan));
        }
        divide_as_floats(node)?.map_data(LogicalPlan::recompute_schema)
    })?;
    Ok(filled.data)
}

/// Decimals of sources are divided as the floats that they were planned as: a quotient has no exact scale.
fn divide_as_floats(node: LogicalPlan) -> PlanResult<Transformed<LogicalPlan>> {
    let schema = merge_schema(&node.inputs());
    let names = NamePreserver::new(&node);
    node.map_expressions(|expr| {
        let saved = names.save(&expr);
        let divided = expr.transform_up(|inner| {
            let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Divide, right }) = inner else {
                return Ok(Transformed::no(inner));
            };
            let exact = |side: &Expr| side.get_type(&schema).is_ok_and(|data_type| data_type.is_decimal());
            if !exact(&left) && !exact(&right) {
                return Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op: Operator::Divide, right })));
            }
            let float = |side: Box<Expr>| Box::new(cast(*side, ArrowType::Float64));
            let divided = BinaryExpr { left: float(left), op: Operator::Divide, right: float(right) };
            Ok(Transformed::yes(Expr::BinaryExpr(divided)))
        })?;
        Ok(divided.update_data(|expr| saved.restore(expr)))
    })
}
