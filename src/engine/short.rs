//! Short planning. Most questions to rollups are one scan of few rows in memory, filtered, grouped, sorted and cut off.
//! To plan that with all of DataFusion's rules takes longer than to run it, and what they look for is not there: on one
//! thread nothing is distributed, and without joins, unions, windows and sub-queries little can be moved. What is not
//! as plain as that is planned with all of them.

use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SessionState, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::OptimizerRule;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::push_down_limit::PushDownLimit;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties as _};

/// A state as `whole`, with the rules for plain statements: constants are computed once (`now()` must be), a sort keeps
/// no more rows than are asked for, and only columns that are needed are read.
pub(super) fn state(whole: &SessionState) -> SessionState {
    let rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![
        Arc::new(SimplifyExpressions::new()),
        Arc::new(PushDownLimit::new()),
        Arc::new(OptimizeProjections::new()),
    ];
    let mut config = whole.config().clone();
    let settings = config.options_mut();
    (settings.execution.target_partitions, settings.optimizer.max_passes) = (1, 1);
    SessionStateBuilder::new_from_existing(whole.clone())
        .with_config(config)
        .with_optimizer_rules(rules)
        .with_physical_optimizer_rules(Vec::new())
        .build()
}

/// A plan and what it runs in.
type Planned = (Arc<dyn ExecutionPlan>, Arc<TaskContext>);

/// Plans a plain statement from [`state`]; none when it is not plain, or its plan turns out to need more than that.
///
/// # Errors
/// DataFusion's.
pub(super) async fn plan(base: &SessionState, plan: &LogicalPlan) -> Result<Option<Planned>> {
    if !is_plain(plan)? {
        return Ok(None);
    }
    let mut state = base.clone();
    state.mark_start_execution();
    let plan = state.create_physical_plan(plan).await?;
    Ok(runs_as_it_is(plan.as_ref()).then(|| (plan, state.task_ctx())))
}

/// Whether a plan is one scan and what is done to its rows, step by step.
fn is_plain(plan: &LogicalPlan) -> Result<bool> {
    let mut plain = true;
    plan.apply_with_subqueries(|node| {
        plain &= matches!(
            node,
            LogicalPlan::TableScan(_)
                | LogicalPlan::SubqueryAlias(_)
                | LogicalPlan::Filter(_)
                | LogicalPlan::Projection(_)
                | LogicalPlan::Aggregate(_)
                | LogicalPlan::Sort(_)
                | LogicalPlan::Limit(_)
        );
        Ok(if plain { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(plain)
}

/// Whether nothing must be put between the steps: each gives one stream, and none wants its input in an order, which is
/// what rules would see to.
fn runs_as_it_is(plan: &dyn ExecutionPlan) -> bool {
    plan.output_partitioning().partition_count() == 1
        && plan.required_input_ordering().iter().all(Option::is_none)
        && plan.children().into_iter().all(|child| runs_as_it_is(child.as_ref()))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, RecordBatch, StringArray};
    use datafusion::datasource::MemTable;
    use datafusion::physical_plan::collect;
    use datafusion::prelude::SessionContext;

    use super::super::testing::texts;
    use super::*;

    /// `t(id, name)` with four rows.
    fn context() -> SessionContext {
        let ids = Arc::new(Int64Array::from(vec![Some(3), Some(1), None, Some(2)])) as _;
        let names = Arc::new(StringArray::from(vec!["a", "b", "a", "c"])) as _;
        let batch = RecordBatch::try_from_iter([("id", ids), ("name", names)]).expect("columns of one length");
        let context = SessionContext::new();
        let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).expect("a table");
        context.register_table("t", Arc::new(table)).expect("a new name");
        context
    }

    /// The rows of a statement that is planned shortly, after those of the same one planned with all rules.
    async fn both(sql: &str) -> Option<[Vec<String>; 2]> {
        let whole = context().state();
        let logical = whole.create_logical_plan(sql).await.expect(sql);
        let (plan, context) = plan(&state(&whole), &logical).await.expect(sql)?;
        let short = collect(plan, context).await.expect(sql);
        let plan = whole.create_physical_plan(&logical).await.expect(sql);
        Some([texts(&collect(plan, whole.task_ctx()).await.expect(sql)), texts(&short)])
    }

    #[tokio::test]
    async fn what_is_one_scan_gives_the_rows_that_all_rules_give() {
        for sql in [
            "SELECT name, sum(id) FROM t WHERE id > 0 OR id IS NULL GROUP BY 1 HAVING count(*) > 0 ORDER BY 1 LIMIT 2 OFFSET 1",
            "SELECT n + 1 FROM (SELECT count(*) AS n FROM t WHERE now() > TIMESTAMP '2020-01-01') AS q",
            "SELECT id FROM t ORDER BY id DESC NULLS LAST LIMIT 2",
            "SELECT count(DISTINCT name), max(id) FROM t WHERE 1 = 0",
            "SELECT max(id) FILTER (WHERE name = 'a') FROM t",
            "SELECT name FROM t LIMIT 1",
        ] {
            let [whole, short] = both(sql).await.expect(sql);
            assert_eq!(short, whole, "{sql}");
        }
    }

    #[tokio::test]
    async fn what_is_more_than_that_needs_all_rules() {
        for sql in [
            "SELECT id FROM t WHERE id IN (SELECT id FROM t)",
            "SELECT (SELECT max(id) FROM t) FROM t",
            "SELECT a.id FROM t AS a JOIN t AS b USING (id)",
            "SELECT id FROM t UNION ALL SELECT id FROM t",
            "SELECT DISTINCT id FROM t",
            "SELECT id, sum(id) OVER () FROM t",
            "SELECT array_agg(id ORDER BY id DESC) FROM t",
            "EXPLAIN SELECT id FROM t",
        ] {
            assert_eq!(both(sql).await, None, "{sql}");
        }
    }
}
