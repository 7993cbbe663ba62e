//! Finds the parts of a plan that ask cubes one question, and puts a leaf in place of each.
//!
//! From the scans upward: a node whose meaning a request has is taken into the [`Relation`] below it; the first that
//! has none makes a leaf of that relation, and it and all above stay what they are: work on the leaf's rows. A
//! condition without a filter of its kind stays beside its relation (`residual`) until something is built on it.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{DFSchemaRef, JoinType, TableReference};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    Distinct, DistinctOn, Expr, FetchType, Filter, Join, Limit, LogicalPlan, LogicalPlanBuilder, Projection, SkipType,
    Sort, Subquery,
};

use super::SqlError;
use super::filter::Conditions;
use super::functions::MEASURE;
use super::leaf::LeafTable;
use super::relation::{Column, Relation};
use super::scope::{LEAF, Scope, leaf_column};
use super::tables::CubeTable;
use crate::model::{MeasureId, Model};
use crate::query::merge::is_plain;
use crate::query::request::FilterNode;
use crate::time::Zone;

/// A relation that stands in a plan as a table.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    /// What it asks.
    pub(super) relation: Relation,
    /// The table's columns.
    pub(super) columns: Vec<Column>,
    /// Measures whose values are merged above it.
    pub(super) merged: Vec<MeasureId>,
}

/// A condition that no filter says.
#[derive(Debug, Clone)]
pub(super) struct Residual {
    /// Over keys of columns.
    pub(super) expr: Expr,
    /// These columns.
    pub(super) columns: Vec<Column>,
}

/// A relation in the making.
#[derive(Debug, Clone)]
pub(super) struct Open {
    pub(super) relation: Relation,
    /// Further conditions on its rows.
    pub(super) residual: Vec<Residual>,
    /// Names of the columns.
    pub(super) schema: DFSchemaRef,
}

/// What a node became.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A relation, still open to what stands above.
    Open(Box<Open>),
    /// A plan over leaves; and which of its columns hold measures of single rows.
    Closed(LogicalPlan, Vec<bool>),
}

/// Rewrites one plan.
pub(super) struct Rewriter<'a> {
    pub(super) model: &'a Model,
    pub(super) state: &'a SessionState,
    pub(super) zone: Zone,
    /// The leaves made so far; a leaf's table has its position.
    pub(super) leaves: Vec<Leaf>,
}

impl Rewriter<'_> {
    /// Rewrites a plan and all below it.
    ///
    /// # Errors
    /// It aggregates measures in a way that would give wrong numbers; or the engine's.
    pub(super) fn rewrite(&mut self, plan: LogicalPlan) -> Result<Outcome, SqlError> {
        let plan = self.rewrite_queries(plan)?;
        match plan {
            LogicalPlan::TableScan(scan) => {
                let provider = source_as_provider(&scan.source)?;
                let Some(table) = provider.downcast_ref::<CubeTable>().filter(|_| scan.projection.is_none()) else {
                    let columns = scan.projected_schema.fields().len();
                    return Ok(Outcome::Closed(LogicalPlan::TableScan(scan), vec![false; columns]));
                };
                let relation = Relation::of_cube(table.cube, table.columns.clone());
                Ok(Outcome::Open(Box::new(Open { relation, residual: Vec::new(), schema: scan.projected_schema })))
            }
            LogicalPlan::SubqueryAlias(alias) => match self.rewrite(Arc::unwrap_or_clone(alias.input))? {
                Outcome::Open(open) => Ok(Outcome::Open(Box::new(Open { schema: alias.schema, ..*open }))),
                Outcome::Closed(input, raw) => {
                    let aliased = LogicalPlanBuilder::from(input).alias(alias.alias)?.build()?;
                    Ok(Outcome::Closed(aliased, raw))
                }
            },
            LogicalPlan::Projection(projection) => self.projection(projection),
            LogicalPlan::Filter(filter) => self.filter(filter),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Distinct(Distinct::All(input)) => self.distinct(Arc::unwrap_or_clone(input)),
            LogicalPlan::Distinct(Distinct::On(distinct)) => {
                let DistinctOn { on_expr, select_expr, sort_expr, input, .. } = distinct;
                let (input, raw) = self.closed(Arc::unwrap_or_clone(input))?;
                let raw = select_expr.iter().map(|expr| uses_raw(expr, &input, &raw)).collect();
                let distinct = DistinctOn::try_new(on_expr, select_expr, sort_expr, Arc::new(input))?;
                Ok(Outcome::Closed(LogicalPlan::Distinct(Distinct::On(distinct)), raw))
            }
            LogicalPlan::Sort(sort) => self.sort(sort),
            LogicalPlan::Limit(limit) => self.limit(limit),
            LogicalPlan::Join(join) => self.join(join),
            other => self.other(other),
        }
    }

    /// Rewrites the queries in a node's expressions.
    fn rewrite_queries(&mut self, plan: LogicalPlan) -> Result<LogicalPlan, SqlError> {
        let mut refused = None;
        let rewritten = plan.map_subqueries(|query| {
            let LogicalPlan::Subquery(subquery) = query else { return Ok(Transformed::no(query)) };
            match self.closed(Arc::unwrap_or_clone(subquery.subquery)) {
                Ok((plan, _)) => {
                    let subquery = Subquery { subquery: Arc::new(plan), ..subquery };
                    Ok(Transformed::new(LogicalPlan::Subquery(subquery), true, TreeNodeRecursion::Jump))
                }
                Err(error) => {
                    refused = Some(error);
                    Err(DataFusionError::Plan(String::new()))
                }
            }
        });
        match (refused, rewritten) {
            (Some(error), _) => Err(error),
            (None, rewritten) => Ok(rewritten?.data),
        }
    }

    /// Rewrites a plan to one over leaves.
    pub(super) fn closed(&mut self, plan: LogicalPlan) -> Result<(LogicalPlan, Vec<bool>), SqlError> {
        match self.rewrite(plan)? {
            Outcome::Open(open) => self.close(*open),
            Outcome::Closed(plan, raw) => Ok((plan, raw)),
        }
    }

    /// Puts a leaf in place of a relation.
    pub(super) fn close(&mut self, open: Open) -> Result<(LogicalPlan, Vec<bool>), SqlError> {
        let Open { relation, residual, schema } = open;
        let raw = relation.columns.iter();
        let raw = raw.map(|column| relation.groups.is_none() && matches!(column, Column::Measure(_))).collect();
        let exprs = relation.columns.iter().zip(schema.iter());
        let exprs: Vec<Expr> = exprs
            .map(|(column, (qualifier, field))| {
                leaf_column(self.model, *column).alias_qualified(qualifier.cloned(), field.name())
            })
            .collect();
        let plan = self.leaf(relation, &residual, Vec::new())?;
        Ok((LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?), raw))
    }

    /// A table for a relation, and conditions on its rows.
    pub(super) fn leaf(
        &mut self,
        relation: Relation,
        residual: &[Residual],
        merged: Vec<MeasureId>,
    ) -> Result<LogicalPlan, SqlError> {
        let mut columns: Vec<Column> = Vec::new();
        let groups = relation.groups.iter().flatten();
        let used = residual.iter().flat_map(|condition| &condition.columns);
        for column in relation.columns.iter().chain(groups).chain(used) {
            if !columns.contains(column) {
                columns.push(*column);
            }
        }
        let table = LeafTable::planned(self.leaves.len(), self.model, &columns);
        self.leaves.push(Leaf { relation, columns, merged });
        let source = provider_as_source(Arc::new(table));
        let mut plan = LogicalPlanBuilder::scan(TableReference::bare(LEAF), source, None)?.build()?;
        for condition in residual {
            plan = LogicalPlan::Filter(Filter::try_new(condition.expr.clone(), Arc::new(plan))?);
        }
        Ok(plan)
    }

    pub(super) fn scope<'s>(&'s self, open: &'s Open) -> Scope<'s> {
        Scope {
            model: self.model,
            state: self.state,
            schema: &open.schema,
            columns: &open.relation.columns,
            fixed: open.relation.groups.is_some() || open.relation.is_cut(),
        }
    }

    fn projection(&mut self, projection: Projection) -> Result<Outcome, SqlError> {
        let open = match self.rewrite(Arc::unwrap_or_clone(projection.input))? {
            Outcome::Open(open) => open,
            Outcome::Closed(input, raw) => return projected(projection.expr, input, &raw),
        };
        let scope = self.scope(&open);
        let columns: Option<Vec<Column>> = projection.expr.iter().map(|expr| scope.column(expr)).collect();
        match columns {
            Some(columns) => {
                let relation = Relation { columns, ..open.relation };
                Ok(Outcome::Open(Box::new(Open { relation, residual: open.residual, schema: projection.schema })))
            }
            None => {
                let (input, raw) = self.close(*open)?;
                projected(projection.expr, input, &raw)
            }
        }
    }

    fn filter(&mut self, filter: Filter) -> Result<Outcome, SqlError> {
        let mut open = match self.rewrite(Arc::unwrap_or_clone(filter.input))? {
            Outcome::Open(open) if !open.relation.is_cut() => open,
            Outcome::Open(open) => {
                let (input, raw) = self.close(*open)?;
                return filtered(filter.predicate, input, raw);
            }
            Outcome::Closed(input, raw) => return filtered(filter.predicate, input, raw),
        };
        let (mut mapped, mut residual, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        {
            let scope = self.scope(&open);
            let conditions = Conditions { scope: &scope, zone: self.zone };
            for part in split_conjunction(&filter.predicate) {
                let used = scope.columns_in(part);
                let measure = used.iter().find_map(|column| match column {
                    Column::Measure(id) => Some(*id),
                    _ => None,
                });
                if let (Some(id), true) = (measure, open.relation.groups.is_none()) {
                    let name = &self.model.measure(id).name;
                    return Err(SqlError::Refused(format!(
                        "Measure '{name}' cannot stand in WHERE, where there are no groups yet: use HAVING"
                    )));
                }
                // Windows of time look past conditions on groups.
                let moves = open.relation.groups.is_none() || measure.is_some() || self.all_plain(&open.relation);
                let found = if moves { conditions.filter(part) } else { None };
                match (found, scope.constant(part), scope.canonical(part)) {
                    (Some(found), ..) => mapped.push(found),
                    (None, Some(datafusion::scalar::ScalarValue::Boolean(Some(true))), _) => {}
                    (None, _, Some(condition)) => residual.push(condition),
                    (None, _, None) => rest.push(part.clone()),
                }
            }
        }
        for node in mapped {
            match node {
                FilterNode::And(parts) => open.relation.conditions.extend(parts),
                other => open.relation.conditions.push(other),
            }
        }
        open.residual.extend(residual);
        let Some(predicate) = rest.into_iter().reduce(Expr::and) else { return Ok(Outcome::Open(open)) };
        let (input, raw) = self.close(*open)?;
        filtered(predicate, input, raw)
    }

    fn all_plain(&self, relation: &Relation) -> bool {
        relation.columns.iter().all(|column| match column {
            Column::Measure(id) => is_plain(self.model, *id),
            _ => true,
        })
    }

    fn distinct(&mut self, input: LogicalPlan) -> Result<Outcome, SqlError> {
        let mut open = match self.rewrite(input)? {
            Outcome::Open(open) => open,
            Outcome::Closed(input, raw) => {
                return Ok(Outcome::Closed(LogicalPlan::Distinct(Distinct::All(Arc::new(input))), raw));
            }
        };
        let columns = open.relation.columns.clone();
        let done = match &open.relation.groups {
            Some(groups) => groups.iter().all(|group| columns.contains(group)),
            None => {
                let kept = |condition: &Residual| condition.columns.iter().all(|column| columns.contains(column));
                let groups = columns.iter().all(|column| column.is_group());
                let becomes = groups && !open.relation.is_cut() && open.residual.iter().all(kept);
                if becomes {
                    let mut groups = columns.clone();
                    let mut known = std::collections::HashSet::new();
                    groups.retain(|column| known.insert(*column));
                    open.relation.groups = Some(groups);
                    open.relation.order.retain(|(column, _)| columns.contains(column));
                }
                becomes
            }
        };
        if done {
            return Ok(Outcome::Open(open));
        }
        let (input, raw) = self.close(*open)?;
        Ok(Outcome::Closed(LogicalPlan::Distinct(Distinct::All(Arc::new(input))), raw))
    }

    fn sort(&mut self, sort: Sort) -> Result<Outcome, SqlError> {
        let (input, raw) = match self.rewrite(Arc::unwrap_or_clone(sort.input))? {
            Outcome::Open(mut open) => {
                let scope = self.scope(&open);
                let key = |key: &datafusion::logical_expr::SortExpr| {
                    // PostgreSQL's order of nulls is that of requests.
                    let usual = key.nulls_first != key.asc;
                    let column = scope.column(&key.expr).filter(|column| open.relation.columns.contains(column))?;
                    (usual && column.output().is_some()).then_some((column, !key.asc))
                };
                let keys: Option<Vec<(Column, bool)>> = sort.expr.iter().map(key).collect();
                let simple = !open.relation.is_cut() && open.residual.is_empty() && sort.fetch.is_none();
                if let (Some(keys), true) = (keys, simple) {
                    open.relation.order = keys;
                    return Ok(Outcome::Open(open));
                }
                self.close(*open)?
            }
            Outcome::Closed(input, raw) => (input, raw),
        };
        Ok(Outcome::Closed(LogicalPlan::Sort(Sort { input: Arc::new(input), ..sort }), raw))
    }

    fn limit(&mut self, limit: Limit) -> Result<Outcome, SqlError> {
        let skip = match limit.get_skip_type()? {
            SkipType::Literal(rows) => Some(rows as u64),
            SkipType::UnsupportedExpr => self.rows(limit.skip.as_deref()),
        };
        let fetch = match limit.get_fetch_type()? {
            FetchType::Literal(rows) => Some(rows.map(|rows| rows as u64)),
            FetchType::UnsupportedExpr => self.rows(limit.fetch.as_deref()).map(Some),
        };
        let (input, raw) = match (self.rewrite(Arc::unwrap_or_clone(Arc::clone(&limit.input)))?, skip, fetch) {
            (Outcome::Open(mut open), Some(skip), Some(fetch)) if open.residual.is_empty() => {
                let left = open.relation.limit.map(|limit| limit.saturating_sub(skip));
                open.relation.offset = open.relation.offset.saturating_add(skip);
                open.relation.limit = match (left, fetch) {
                    (Some(left), Some(fetch)) => Some(left.min(fetch)),
                    (left, fetch) => left.or(fetch),
                };
                return Ok(Outcome::Open(open));
            }
            (Outcome::Open(open), ..) => self.close(*open)?,
            (Outcome::Closed(input, raw), ..) => (input, raw),
        };
        Ok(Outcome::Closed(LogicalPlan::Limit(Limit { input: Arc::new(input), ..limit }), raw))
    }

    /// A number of rows that is not written as a plain number.
    fn rows(&self, expr: Option<&Expr>) -> Option<u64> {
        let schema = datafusion::common::DFSchema::empty();
        let scope = Scope { model: self.model, state: self.state, schema: &schema, columns: &[], fixed: true };
        let value = scope.constant(expr?)?.cast_to(&arrow::datatypes::DataType::UInt64).ok()?;
        match value {
            datafusion::scalar::ScalarValue::UInt64(rows) => rows,
            _ => None,
        }
    }

    fn join(&mut self, join: Join) -> Result<Outcome, SqlError> {
        let left = self.rewrite(Arc::unwrap_or_clone(Arc::clone(&join.left)))?;
        let right = self.rewrite(Arc::unwrap_or_clone(Arc::clone(&join.right)))?;
        let (left, right) = match (left, right) {
            (Outcome::Open(left), Outcome::Open(right)) => match self.modelled(&join, *left, *right)? {
                Modelled::Joined(open) => return Ok(Outcome::Open(open)),
                Modelled::Apart(sides) => {
                    let (left, right) = *sides;
                    (self.close(left)?, self.close(right)?)
                }
            },
            (left, right) => (self.settled(left)?, self.settled(right)?),
        };
        let by_field = join.on.iter().any(|(left, right)| is_join_field(left) || is_join_field(right))
            || join
                .filter
                .iter()
                .any(|filter| filter.column_refs().iter().any(|c| c.name == super::relation::JOIN_FIELD));
        if by_field {
            return Err(SqlError::Refused(
                "__cubeJoinField joins cubes themselves: join before grouping, with no other condition".to_owned(),
            ));
        }
        let (left, right) = ((Arc::new(left.0), left.1), (Arc::new(right.0), right.1));
        let raw = match join.join_type {
            JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => [left.1, right.1].concat(),
            _ => vec![left.1.iter().chain(&right.1).any(|raw| *raw); join.schema.fields().len()],
        };
        Ok(Outcome::Closed(LogicalPlan::Join(Join { left: left.0, right: right.0, ..join }), raw))
    }

    fn settled(&mut self, outcome: Outcome) -> Result<(LogicalPlan, Vec<bool>), SqlError> {
        match outcome {
            Outcome::Open(open) => self.close(*open),
            Outcome::Closed(plan, raw) => Ok((plan, raw)),
        }
    }

    /// Joins two relations as the data model does, where the query says so.
    fn modelled(&self, join: &Join, left: Open, right: Open) -> Result<Modelled, SqlError> {
        let of_rows =
            |open: &Open| open.relation.groups.is_none() && !open.relation.is_cut() && open.relation.order.is_empty();
        let crossed = join.on.is_empty() && join.filter.is_none() && join.join_type == JoinType::Inner;
        let fields = |pair: (&Expr, &Expr)| is_join_field(pair.0) && is_join_field(pair.1);
        let outward = matches!(join.join_type, JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full);
        let mut pairs: Vec<(&Expr, &Expr)> = join.on.iter().map(|(left, right)| (left, right)).collect();
        let mut only_fields = true;
        for part in join.filter.iter().flat_map(|filter| split_conjunction(filter)) {
            match part {
                Expr::BinaryExpr(equal) if equal.op == datafusion::logical_expr::Operator::Eq => {
                    pairs.push((&equal.left, &equal.right));
                }
                _ => only_fields = false,
            }
        }
        let by_field = outward && only_fields && !pairs.is_empty() && pairs.into_iter().all(fields);
        if !(crossed || by_field) || !of_rows(&left) || !of_rows(&right) {
            return Ok(Modelled::Apart(Box::new((left, right))));
        }
        let again = left.relation.cubes.iter().find(|cube| right.relation.cubes.contains(cube));
        if let Some(cube) = again {
            let name = &self.model.cube(*cube).name;
            return Err(SqlError::Refused(format!("'{name}' cannot be joined to itself by the data model")));
        }
        let mut relation = left.relation;
        relation.cubes.extend(right.relation.cubes);
        relation.columns.extend(right.relation.columns);
        relation.conditions.extend(right.relation.conditions);
        let mut residual = left.residual;
        residual.extend(right.residual);
        Ok(Modelled::Joined(Box::new(Open { relation, residual, schema: Arc::clone(&join.schema) })))
    }

    /// A node that is always work on rows.
    fn other(&mut self, plan: LogicalPlan) -> Result<Outcome, SqlError> {
        let mut inputs = Vec::new();
        let mut raws = Vec::new();
        for input in plan.inputs() {
            let (input, raw) = self.closed(input.clone())?;
            inputs.push(input);
            raws.push(raw);
        }
        let raw = match (&plan, raws.as_slice()) {
            (LogicalPlan::Window(window), [input]) => {
                let mut raw = input.clone();
                raw.extend(window.window_expr.iter().map(|expr| uses_raw(expr, &window.input, input)));
                raw
            }
            (LogicalPlan::Union(_), _) => {
                let width = plan.schema().fields().len();
                (0..width).map(|at| raws.iter().any(|raw| raw.get(at) == Some(&true))).collect()
            }
            _ => vec![raws.iter().flatten().any(|raw| *raw); plan.schema().fields().len()],
        };
        if inputs.is_empty() {
            return Ok(Outcome::Closed(plan, raw));
        }
        let exprs = plan.expressions();
        Ok(Outcome::Closed(plan.with_new_exprs(exprs, inputs)?, raw))
    }
}

enum Modelled {
    Joined(Box<Open>),
    Apart(Box<(Open, Open)>),
}

fn is_join_field(expr: &Expr) -> bool {
    matches!(expr, Expr::Column(column) if column.name == super::relation::JOIN_FIELD)
}

fn projected(exprs: Vec<Expr>, input: LogicalPlan, raw: &[bool]) -> Result<Outcome, SqlError> {
    let raw = exprs.iter().map(|expr| uses_raw(expr, &input, raw)).collect();
    Ok(Outcome::Closed(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?), raw))
}

fn filtered(predicate: Expr, input: LogicalPlan, raw: Vec<bool>) -> Result<Outcome, SqlError> {
    Ok(Outcome::Closed(LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(input))?), raw))
}

/// Whether an expression uses measures of single rows.
pub(super) fn uses_raw(expr: &Expr, input: &LogicalPlan, raw: &[bool]) -> bool {
    let at = |column| input.schema().index_of_column(column).ok();
    expr.column_refs().into_iter().filter_map(at).any(|at| raw.get(at) == Some(&true))
}

/// The aggregate that an expression is.
pub(super) fn aggregate_of(expr: &Expr) -> Option<&AggregateFunction> {
    match expr {
        Expr::Alias(alias) => aggregate_of(&alias.expr),
        Expr::AggregateFunction(function) => Some(function),
        _ => None,
    }
}

/// Whether an expression is `MEASURE(…)`.
pub(super) fn is_measure_call(expr: &Expr) -> bool {
    aggregate_of(expr).is_some_and(|function| function.func.name() == MEASURE)
}
