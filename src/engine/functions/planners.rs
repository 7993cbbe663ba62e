//! Planners that give operators and type names of SQL the meaning they have in PostgreSQL.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::ExprSchemable as _;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr, TypePlanner};
use datafusion::sql::sqlparser::ast::{BinaryOperator, DataType as SqlType, TimezoneInfo};

use super::decimal::{decimal_type, exact_div, exact_mul};

/// Scale beyond which products are rounded, so that digits are left before the point.
const LONG_SCALE: i16 = 20;

/// Makes `/` of decimals exact division, and `*` of decimals with long scales a rounded product.
/// Integers divide as integers and floats as floats.
#[derive(Debug)]
pub struct DecimalPlanner;

impl ExprPlanner for DecimalPlanner {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let function = match expr.op {
            BinaryOperator::Divide => exact_div,
            BinaryOperator::Multiply => exact_mul,
            _ => return Ok(PlannerResult::Original(expr)),
        };
        // What has no type yet (a parameter, a column of an outer query) is left to the standard planner.
        let (Ok(left), Ok(right)) = (expr.left.get_type(schema), expr.right.get_type(schema)) else {
            return Ok(PlannerResult::Original(expr));
        };
        let is_decimal = |data_type: &DataType| data_type.is_decimal();
        let scale = |data_type: &DataType| match decimal_type(data_type) {
            Some(DataType::Decimal128(_, scale)) => Some(i16::from(scale)),
            _ => None,
        };
        let (Some(left_scale), Some(right_scale)) = (scale(&left), scale(&right)) else {
            return Ok(PlannerResult::Original(expr));
        };
        let short_product = expr.op == BinaryOperator::Multiply && left_scale + right_scale <= LONG_SCALE;
        if short_product || !(is_decimal(&left) || is_decimal(&right)) {
            return Ok(PlannerResult::Original(expr));
        }
        Ok(PlannerResult::Planned(function().call(vec![expr.left, expr.right])))
    }
}

/// Makes `timestamp` and `timestamptz` microseconds; the standard is nanoseconds, which end in 2262.
#[derive(Debug)]
pub struct MicrosecondPlanner;

impl TypePlanner for MicrosecondPlanner {
    fn plan_type_field(&self, sql_type: &SqlType) -> Result<Option<FieldRef>> {
        let zone = match sql_type {
            SqlType::Timestamp(None, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone)
            | SqlType::TimestampNtz(None)
            | SqlType::Datetime(None) => None,
            SqlType::Timestamp(None, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => Some(Arc::from("+00:00")),
            _ => return Ok(None),
        };
        let data_type = DataType::Timestamp(TimeUnit::Microsecond, zone);
        Ok(Some(Arc::new(Field::new("", data_type, true))))
    }
}
