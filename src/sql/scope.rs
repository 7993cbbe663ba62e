//! Reads expressions of a plan: which are columns of cubes, which are constants.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column as PlanColumn, DFSchema};
use datafusion::execution::SessionState;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::scalar::ScalarValue;

use super::relation::Column;
use super::rewrite::Residual;
use crate::model::{DataType, Grain, Model};
use crate::time::Granularity;

/// The relation that columns of members belong to, inside of rewritten expressions.
pub(super) const LEAF: &str = "__cube";

/// What expressions of a plan mean.
pub(super) struct Scope<'a> {
    pub(super) model: &'a Model,
    pub(super) state: &'a SessionState,
    /// The columns of the plan's input.
    pub(super) schema: &'a DFSchema,
    /// Their members, one a column.
    pub(super) columns: &'a [Column],
    /// There are no others: of groups, and of rows that are cut.
    pub(super) fixed: bool,
}

impl Scope<'_> {
    fn named(&self, column: &PlanColumn) -> Option<Column> {
        self.columns.get(self.schema.index_of_column(column).ok()?).copied()
    }

    fn is_time(&self, column: Column) -> bool {
        match column {
            Column::Dimension(id) => self.model.dimension(id).data_type == DataType::Time,
            Column::Time(..) => true,
            _ => false,
        }
    }

    /// The column that an expression is: of a name, of a type it has anyway, or a bucket of one.
    pub(super) fn column(&self, expr: &Expr) -> Option<Column> {
        match expr {
            Expr::Alias(alias) => self.column(&alias.expr),
            Expr::Column(column) => self.named(column),
            Expr::Cast(cast) => {
                let column = self.column(&cast.expr)?;
                let target = cast.field.data_type();
                let same = *target == column.arrow_type(self.model)
                    || self.is_time(column) && matches!(target, arrow::datatypes::DataType::Timestamp(_, None));
                same.then_some(column)
            }
            Expr::ScalarFunction(function) if function.name() == "date_trunc" => {
                let [size, time] = function.args.as_slice() else { return None };
                let Expr::Literal(size, _) = size else { return None };
                let size = Granularity::parse(&size.try_as_str()??.to_ascii_lowercase())?;
                self.bucket(self.column(time)?, size).filter(|found| !self.fixed || self.columns.contains(found))
            }
            _ => None,
        }
    }

    /// The buckets of that size of a time column.
    fn bucket(&self, column: Column, size: Granularity) -> Option<Column> {
        match column {
            Column::Dimension(id) if self.is_time(column) => {
                let offered = self.model.dimension(id).offered.as_ref();
                offered.is_none_or(|offered| offered.contains(&size)).then_some(Column::Time(id, Grain::Standard(size)))
            }
            Column::Time(id, grain) if grain.standard()?.serves(size) => Some(Column::Time(id, Grain::Standard(size))),
            _ => None,
        }
    }

    /// The column that an expression compares by: as [`Scope::column`], and days for casts to dates.
    pub(super) fn compared(&self, expr: &Expr) -> Option<Column> {
        match expr {
            Expr::Cast(cast) if *cast.field.data_type() == arrow::datatypes::DataType::Date32 => {
                self.bucket(self.column(&cast.expr)?, Granularity::Day)
            }
            _ => self.column(expr),
        }
    }

    /// The value of an expression without columns.
    pub(super) fn constant(&self, expr: &Expr) -> Option<ScalarValue> {
        if let Expr::Literal(value, _) = expr {
            return Some(value.clone());
        }
        let mut open = false;
        let _seen = expr.apply(|inner| {
            open |= matches!(
                inner,
                Expr::Column(_)
                    | Expr::OuterReferenceColumn(..)
                    | Expr::AggregateFunction(_)
                    | Expr::WindowFunction(_)
                    | Expr::Exists(_)
                    | Expr::InSubquery(_)
                    | Expr::ScalarSubquery(_)
                    | Expr::SetComparison(_)
                    | Expr::Placeholder(_)
            );
            Ok(if open { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        });
        if open {
            return None;
        }
        let schema = DFSchema::empty();
        let context = SimplifyContext::builder()
            .with_config_options(Arc::clone(self.state.config_options()))
            .with_schema(Arc::new(schema.clone()))
            .with_current_time()
            .build();
        let simplifier = ExprSimplifier::new(context);
        let coerced = simplifier.coerce(expr.clone(), &schema).ok()?;
        match simplifier.simplify(coerced).ok()? {
            Expr::Literal(value, _) => Some(value),
            _ => None,
        }
    }

    /// The expression over columns by their keys, and these columns. None when it reaches out of its plan.
    pub(super) fn canonical(&self, expr: &Expr) -> Option<Residual> {
        let mut columns = Vec::new();
        let mut closed = true;
        let rewritten = expr
            .clone()
            .transform_down(|inner| {
                closed &= !reaches_out(&inner);
                let column = match &inner {
                    Expr::Column(_) | Expr::ScalarFunction(_) => self.column(&inner),
                    _ => None,
                };
                let Some(column) = column else {
                    closed &= !matches!(inner, Expr::Column(_));
                    return Ok(Transformed::no(inner));
                };
                if !columns.contains(&column) {
                    columns.push(column);
                }
                Ok(Transformed::new(leaf_column(self.model, column), true, TreeNodeRecursion::Jump))
            })
            .ok()?;
        closed.then_some(Residual { expr: rewritten.data, columns })
    }

    /// The columns that an expression uses.
    pub(super) fn columns_in(&self, expr: &Expr) -> Vec<Column> {
        expr.column_refs().into_iter().filter_map(|column| self.named(column)).collect()
    }
}

/// The column of a leaf.
pub(super) fn leaf_column(model: &Model, column: Column) -> Expr {
    Expr::Column(PlanColumn::new(Some(LEAF), column.key(model)))
}

/// Whether an expression holds a query that uses columns of the plan around it.
pub(super) fn reaches_out(expr: &Expr) -> bool {
    let outer = |plan: &[Expr]| !plan.is_empty();
    match expr {
        Expr::Exists(exists) => outer(&exists.subquery.outer_ref_columns),
        Expr::InSubquery(query) => outer(&query.subquery.outer_ref_columns),
        Expr::ScalarSubquery(query) => outer(&query.outer_ref_columns),
        Expr::SetComparison(query) => outer(&query.subquery.outer_ref_columns),
        Expr::OuterReferenceColumn(..) => true,
        _ => false,
    }
}
