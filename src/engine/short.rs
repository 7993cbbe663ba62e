//! Short planning. Most questions to rollups are one scan of few rows in memory, filtered, grouped, sorted and cut off.
//! To plan that with all of DataFusion's rules takes longer than to run it, and what they look for is not there: on one
//! thread nothing is distributed, and without joins, unions, windows and sub-queries little can be moved. What is not
//! as plain as that is planned with all of them.

use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SessionState, SessionStateBuilder};
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

/// Plans a plain statement; none when it turns out that its plan needs more than that.
///
/// # Errors
/// DataFusion's.
pub(super) async fn plan(state: &SessionState, plan: &LogicalPlan) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if !is_plain(plan)? {
        return Ok(None);
    }
    let plan = state.create_physical_plan(plan).await?;
    Ok(runs_as_it_is(plan.as_ref()).then_some(plan))
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
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::datasource::MemTable;
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn only_what_is_one_scan_is_plain() {
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
        let plain = SessionContext::new();
        let table = MemTable::try_new(schema, vec![Vec::new()]).expect("a table");
        plain.register_table("t", Arc::new(table)).expect("a new name");
        for (sql, expected) in [
            (
                "SELECT id, count(*) FROM t WHERE id > 1 GROUP BY 1 HAVING count(*) > 2 ORDER BY 2 LIMIT 3 OFFSET 1",
                true,
            ),
            ("SELECT n + 1 FROM (SELECT count(*) AS n FROM t) AS q", true),
            ("SELECT id FROM t WHERE id IN (SELECT id FROM t)", false),
            ("SELECT (SELECT max(id) FROM t) FROM t", false),
            ("SELECT a.id FROM t AS a JOIN t AS b USING (id)", false),
            ("SELECT id FROM t UNION ALL SELECT id FROM t", false),
            ("SELECT DISTINCT id FROM t", false),
            ("SELECT id, sum(id) OVER () FROM t", false),
            ("EXPLAIN SELECT id FROM t", false),
        ] {
            let plan = plain.state().create_logical_plan(sql).await.expect(sql);
            assert_eq!(is_plain(&plan).expect(sql), expected, "{sql}");
        }
    }
}
