//! `MEASURE()`, and the clock: functions that planning resolves.

use std::sync::Arc;

use arrow::datatypes::DataType;
use chrono::NaiveDateTime;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::scalar::ScalarValue;

use crate::time::{from_micros, to_micros};

/// Name of the function that stands for a measure's own aggregate.
pub(super) const MEASURE: &str = "measure";

/// `MEASURE(x)`: gone once a plan was rewritten.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Measure(Signature);

/// The function.
pub(super) fn measure() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::new_from_impl(Measure(Signature::any(1, Volatility::Immutable))))
}

impl AggregateUDFImpl for Measure {
    fn name(&self) -> &str {
        MEASURE
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments.first().cloned().unwrap_or(DataType::Null))
    }

    fn accumulator(&self, _args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Err(DataFusionError::Plan("MEASURE() takes a measure of a cube or view".to_owned()))
    }
}

/// Names of the clock that the engine does not know by itself.
const CLOCK_NAMES: [&str; 5] =
    ["localtimestamp", "transaction_timestamp", "statement_timestamp", "clock_timestamp", "localtime"];

/// A name of the clock; gone once [`set_clock`] was there.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ClockName(&'static str, Signature);

impl ScalarUDFImpl for ClockName {
    fn name(&self) -> &str {
        self.0
    }

    fn signature(&self) -> &Signature {
        &self.1
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(moment(self.0, NaiveDateTime::default()).map_or(DataType::Null, |value| value.data_type()))
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Err(DataFusionError::Internal("the clock was not set".to_owned()))
    }
}

/// The functions for [`CLOCK_NAMES`].
pub(super) fn clock_names() -> Vec<Arc<ScalarUDF>> {
    let name = |name| ScalarUDF::new_from_impl(ClockName(name, Signature::any(0, Volatility::Stable)));
    CLOCK_NAMES.into_iter().map(|text| Arc::new(name(text))).collect()
}

/// What a function of the clock says at a wall-clock time.
fn moment(function: &str, now: NaiveDateTime) -> Option<ScalarValue> {
    let micros = to_micros(now);
    match function {
        "now"
        | "current_timestamp"
        | "localtimestamp"
        | "transaction_timestamp"
        | "statement_timestamp"
        | "clock_timestamp" => Some(ScalarValue::TimestampMicrosecond(Some(micros), None)),
        "current_date" | "today" => Some(ScalarValue::Date32(i32::try_from(micros.div_euclid(86_400_000_000)).ok())),
        "current_time" | "localtime" => Some(ScalarValue::Time64Microsecond(Some(micros.rem_euclid(86_400_000_000)))),
        _ => None,
    }
}

/// Puts the present, wall clock of the session's zone, in place of every function of the clock.
///
/// # Errors
/// The engine's, on putting the plan together again.
pub(super) fn set_clock(plan: LogicalPlan, local_now: i64) -> Result<LogicalPlan> {
    let now = from_micros(local_now);
    let plan = plan.transform_up_with_subqueries(|node| {
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let saved = names.save(&expr);
            let set = expr.transform_up(|inner| {
                let inner = super::time_format::respelled(inner)?;
                let value = match &inner {
                    Expr::ScalarFunction(function) if function.args.is_empty() => moment(function.name(), now),
                    _ => None,
                };
                Ok(value.map_or_else(|| Transformed::yes(inner), |value| Transformed::yes(Expr::Literal(value, None))))
            })?;
            Ok(set.update_data(|expr| saved.restore(expr)))
        })?
        .map_data(LogicalPlan::recompute_schema)
    })?;
    Ok(plan.data)
}
