//! `GROUP BY` over cubes: measures that the cubes aggregate themselves, and what is left for above.
//!
//! Where keys of groups or conditions are more than members, groups are asked for by the members below them, and
//! merged above. That gives true numbers only for measures whose values merge; others are refused in words.

use std::sync::Arc;

use datafusion::common::{Column as PlanColumn, DFSchemaRef};
use datafusion::functions::expr_fn::coalesce;
use datafusion::functions_aggregate::expr_fn::{max, min, sum};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, Projection, lit};

use super::SqlError;
use super::functions::MEASURE;
use super::relation::{Column, Relation};
use super::rewrite::{Open, Outcome, Residual, Rewriter, aggregate_of, is_measure_call, uses_raw};
use super::scope::{Scope, leaf_column};
use crate::model::{MeasureId, Model};
use crate::query::merge::{Merge, merge_of, row_count};

/// Aggregates that see no difference between one row and many equal ones.
const INDIFFERENT: [&str; 5] = ["min", "max", "bool_and", "bool_or", "approx_distinct"];

/// An aggregate expression over a relation.
enum Aggregated {
    /// A measure by its own aggregate.
    Measure(MeasureId),
    /// The number of rows.
    Rows,
    /// Of other values.
    Values(Residual),
}

/// What an aggregation is about, over keys of columns.
struct Parts {
    /// One a group expression.
    groups: Vec<Residual>,
    /// Those that are columns.
    plain: Vec<Column>,
    aggregates: Vec<Aggregated>,
}

impl Rewriter<'_> {
    pub(super) fn aggregate(&mut self, aggregate: Aggregate) -> Result<Outcome, SqlError> {
        let Aggregate { input, group_expr, aggr_expr, schema, .. } = aggregate;
        // An aggregation has one column for equal ones.
        let mut groups = Vec::with_capacity(group_expr.len());
        group_expr.into_iter().for_each(|group| {
            if !groups.contains(&group) {
                groups.push(group)
            }
        });
        let group_expr = groups;
        let open = match self.rewrite(Arc::unwrap_or_clone(input))? {
            Outcome::Open(open) if open.relation.groups.is_none() && !open.relation.is_cut() => open,
            Outcome::Open(open) => {
                let (input, raw) = self.close(*open)?;
                return above(input, &raw, group_expr, aggr_expr);
            }
            Outcome::Closed(input, raw) => return above(input, &raw, group_expr, aggr_expr),
        };
        let Some(parts) = self.parts(&open, &group_expr, &aggr_expr)? else {
            let (input, raw) = self.close(*open)?;
            return above(input, &raw, group_expr, aggr_expr);
        };
        let counted = self.counted(&open.relation);
        let has_values = parts.aggregates.iter().any(|one| matches!(one, Aggregated::Values(_)));
        let has_measures = parts.aggregates.iter().any(|one| matches!(one, Aggregated::Measure(_)));
        let counts_rows = parts.aggregates.iter().any(|one| matches!(one, Aggregated::Rows));
        // Rows are counted by the measure that counts them, or one by one.
        let one_by_one = counts_rows && (counted.is_none() || has_values && !has_measures);
        if !has_values && !one_by_one {
            return self.by_measures(*open, &parts, counted, schema);
        }
        if has_measures && one_by_one {
            return Err(SqlError::Refused(
                "COUNT(*) beside measures is for one cube, with a measure of type count without filters".to_owned(),
            ));
        }
        self.with_values(*open, &parts, counted, &aggr_expr, &schema)
    }

    /// The measure that counts the rows of a relation.
    fn counted(&self, relation: &Relation) -> Option<MeasureId> {
        let [_] = relation.cubes.as_slice() else { return None };
        let measures = relation.columns.iter().filter_map(|column| match column {
            Column::Measure(id) => Some(*id),
            _ => None,
        });
        row_count(self.model, measures)
    }

    /// Takes an aggregation apart; none when something reaches out of it.
    fn parts(&self, open: &Open, groups: &[Expr], aggregates: &[Expr]) -> Result<Option<Parts>, SqlError> {
        let scope = self.scope(open);
        let mut parts = Parts { groups: Vec::new(), plain: Vec::new(), aggregates: Vec::new() };
        for expr in groups {
            if let Some(column) = scope.column(expr).filter(|column| column.is_group()) {
                if !parts.plain.contains(&column) {
                    parts.plain.push(column);
                }
                parts.groups.push(Residual { expr: leaf_column(self.model, column), columns: vec![column] });
                continue;
            }
            if matches!(expr, Expr::GroupingSet(_)) {
                return self.only_without_measures(&scope, aggregates);
            }
            let Some(group) = scope.canonical(unaliased(expr)) else {
                return self.only_without_measures(&scope, aggregates);
            };
            if let Some(Column::Measure(id)) = group.columns.iter().find(|column| matches!(column, Column::Measure(_)))
            {
                let name = &self.model.measure(*id).name;
                return Err(SqlError::Refused(format!(
                    "Measure '{name}' cannot stand in GROUP BY: aggregate it, by MEASURE({name})"
                )));
            }
            parts.groups.push(group);
        }
        for expr in aggregates {
            let Some(function) = aggregate_of(expr) else { return Ok(None) };
            match aggregated(self.model, &scope, function)? {
                Some(one) => parts.aggregates.push(one),
                None => return self.only_without_measures(&scope, aggregates),
            }
        }
        Ok(Some(parts))
    }

    /// What cannot be taken apart is computed from single rows, which have no measures.
    fn only_without_measures(&self, scope: &Scope<'_>, aggregates: &[Expr]) -> Result<Option<Parts>, SqlError> {
        for expr in aggregates {
            let used = scope.columns_in(expr);
            if let Some(Column::Measure(id)) = used.iter().find(|column| matches!(column, Column::Measure(_))) {
                let name = &self.model.measure(*id).name;
                return Err(SqlError::Refused(format!(
                    "Measure '{name}' cannot be aggregated here: group by members of the cube in a sub-query first"
                )));
            }
        }
        Ok(None)
    }

    /// Measures only: the cubes aggregate.
    fn by_measures(
        &mut self,
        open: Open,
        parts: &Parts,
        counted: Option<MeasureId>,
        schema: DFSchemaRef,
    ) -> Result<Outcome, SqlError> {
        let measures: Vec<MeasureId> = parts
            .aggregates
            .iter()
            .filter_map(|one| match one {
                Aggregated::Measure(id) => Some(*id),
                Aggregated::Rows => counted,
                Aggregated::Values(_) => None,
            })
            .collect();
        let all_plain = parts.plain.len() == distinct(parts.groups.iter().flat_map(|group| &group.columns)).len()
            && parts.groups.iter().all(|group| matches!(&group.expr, Expr::Column(_)));
        let Open { mut relation, residual, .. } = open;
        relation.order.clear();
        if all_plain && residual.is_empty() {
            relation.columns = parts.groups.iter().flat_map(|group| group.columns.iter().copied()).collect();
            relation.columns.extend(measures.iter().map(|id| Column::Measure(*id)));
            relation.groups = Some(parts.plain.clone());
            return Ok(Outcome::Open(Box::new(Open { relation, residual, schema })));
        }
        let below =
            |columns: &[Column]| columns.iter().all(|column| !column.is_group() || parts.plain.contains(column));
        let follows = parts.groups.iter().all(|group| below(&group.columns));
        let after = residual.iter().all(|condition| below(&condition.columns));
        if follows && after && (!parts.plain.is_empty() || residual.is_empty()) {
            // Each group is one group of the members: conditions and keys are computed from its keys.
            relation.columns =
                parts.plain.iter().copied().chain(measures.iter().map(|id| Column::Measure(*id))).collect();
            relation.groups = Some(parts.plain.clone());
            let input = self.leaf(relation, &residual, Vec::new())?;
            let keys = parts.groups.iter().map(|group| group.expr.clone());
            let values = measures.iter().map(|id| leaf_column(self.model, Column::Measure(*id)));
            return closed(keys.chain(values).collect(), input, &schema);
        }
        self.merged(relation, &residual, parts, &measures, &schema)
    }

    /// Groups by all members below the keys and conditions, merged.
    fn merged(
        &mut self,
        mut relation: Relation,
        residual: &[Residual],
        parts: &Parts,
        measures: &[MeasureId],
        schema: &DFSchemaRef,
    ) -> Result<Outcome, SqlError> {
        let values = parts.aggregates.iter().filter_map(|one| match one {
            Aggregated::Values(value) => Some(value),
            _ => None,
        });
        let used = parts.groups.iter().chain(residual).chain(values).flat_map(|part| &part.columns);
        let groups: Vec<Column> = distinct(used).into_iter().filter(|column| column.is_group()).collect();
        relation.columns = groups.iter().copied().chain(measures.iter().map(|id| Column::Measure(*id))).collect();
        relation.groups = Some(groups);
        let mut merging = Vec::with_capacity(parts.aggregates.len());
        let mut counts = Vec::with_capacity(parts.aggregates.len());
        let mut next = measures.iter();
        for one in &parts.aggregates {
            let merged = match one {
                Aggregated::Values(value) => {
                    counts.push(false);
                    value.expr.clone()
                }
                Aggregated::Measure(_) | Aggregated::Rows => {
                    let Some(id) = next.next() else { continue };
                    let value = leaf_column(self.model, Column::Measure(*id));
                    let merge = merge_of(self.model, *id).ok_or_else(|| unmergeable_text(self.model, *id))?;
                    counts.push(merge == Merge::Count);
                    match merge {
                        Merge::Count | Merge::Sum => sum(value),
                        Merge::Min => min(value),
                        Merge::Max => max(value),
                    }
                }
            };
            // Names tell equal aggregates apart.
            merging.push(merged.alias(format!("#{}", merging.len())));
        }
        let input = self.leaf(relation, residual, measures.to_vec())?;
        let groups: Vec<Expr> = parts.groups.iter().map(|group| group.expr.clone()).collect();
        aggregated_above(input, groups, merging, &counts, schema)
    }

    /// Aggregates of values that are no measures, from rows; or, where that makes no difference or measures stand
    /// beside them, from groups.
    fn with_values(
        &mut self,
        open: Open,
        parts: &Parts,
        counted: Option<MeasureId>,
        exprs: &[Expr],
        schema: &DFSchemaRef,
    ) -> Result<Outcome, SqlError> {
        let indifferent = |expr: &Expr| {
            aggregate_of(expr).is_some_and(|function| {
                let name = function.func.name();
                INDIFFERENT.contains(&name) || name == "count" && function.params.distinct
            })
        };
        let mut measures = Vec::new();
        let mut sensitive = false;
        for (one, expr) in parts.aggregates.iter().zip(exprs) {
            match one {
                Aggregated::Measure(id) => measures.push(*id),
                Aggregated::Rows => {
                    sensitive |= counted.is_none();
                    measures.extend(counted);
                }
                Aggregated::Values(_) => sensitive |= !indifferent(expr),
            }
        }
        let Open { mut relation, residual, .. } = open;
        relation.order.clear();
        let explicit = parts.aggregates.iter().any(|one| matches!(one, Aggregated::Measure(_)));
        if !sensitive && (explicit || measures.is_empty()) {
            return self.merged(relation, &residual, parts, &measures, schema);
        }
        if let (true, Some(id)) = (explicit, measures.first()) {
            let name = &self.model.measure(*id).name;
            return Err(SqlError::Refused(format!(
                "Measure '{name}' and an aggregate of single rows cannot stand in one query: take them from two sub-queries"
            )));
        }
        let used = parts.aggregates.iter().filter_map(|one| match one {
            Aggregated::Values(value) => Some(value),
            _ => None,
        });
        let used = parts.groups.iter().chain(used).flat_map(|part| &part.columns);
        relation.columns = distinct(used);
        let input = self.leaf(relation, &residual, Vec::new())?;
        let groups: Vec<Expr> = parts.groups.iter().map(|group| group.expr.clone()).collect();
        let mut values = Vec::with_capacity(exprs.len());
        for (one, expr) in parts.aggregates.iter().zip(exprs) {
            let value = match one {
                Aggregated::Values(value) => value.expr.clone(),
                _ => unaliased(expr).clone(),
            };
            values.push(value.alias(format!("#{}", values.len())));
        }
        let counts = vec![false; values.len()];
        aggregated_above(input, groups, values, &counts, schema)
    }
}

/// What an aggregate function is of; none when it reaches out of its plan.
fn aggregated(model: &Model, scope: &Scope<'_>, function: &AggregateFunction) -> Result<Option<Aggregated>, SqlError> {
    let (name, params) = (function.func.name(), &function.params);
    let argument = match params.args.as_slice() {
        [one] => scope.column(one),
        _ => None,
    };
    if let Some(Column::Measure(id)) = argument {
        check_type(model, id, name, params.distinct)?;
        if params.filter.is_some() {
            let name = &model.measure(id).name;
            return Err(SqlError::Refused(format!(
                "FILTER cannot be applied to measure '{name}', which takes in its rows in the cube: use WHERE"
            )));
        }
        return Ok(Some(Aggregated::Measure(id)));
    }
    if name == MEASURE {
        return Err(SqlError::Refused("MEASURE() takes a measure of a cube or view".to_owned()));
    }
    let constant = |expr: &Expr| scope.constant(expr).is_some_and(|value| !value.is_null());
    if name == "count" && !params.distinct && params.filter.is_none() && params.args.iter().all(constant) {
        return Ok(Some(Aggregated::Rows));
    }
    let Some(value) = scope.canonical(&Expr::AggregateFunction(function.clone())) else { return Ok(None) };
    if let Some(Column::Measure(id)) = value.columns.iter().find(|column| matches!(column, Column::Measure(_))) {
        let measure = &model.measure(*id).name;
        return Err(SqlError::Refused(format!(
            "Measure '{measure}' is aggregated already: aggregate an expression over it in an outer query, from \
             MEASURE({measure}) in a sub-query"
        )));
    }
    Ok(Some(Aggregated::Values(value)))
}

/// Whether a function fits the type of a measure.
fn check_type(model: &Model, id: MeasureId, function: &str, distinct: bool) -> Result<(), SqlError> {
    let measure = model.measure(id);
    let kind = aggregate_type(model, id);
    let given = if distinct && function == "count" { "count distinct" } else { function };
    let fits = match (kind, given) {
        (_, MEASURE) | ("number" | "rank", _) => true,
        ("countDistinct" | "countDistinctApprox", given) => matches!(given, "count distinct" | "approx_distinct"),
        ("time", given) => matches!(given, "min" | "max"),
        ("string", given) => given == "string_agg",
        (kind, given) => kind == given,
    };
    if fits {
        return Ok(());
    }
    let wanted = match kind {
        "countDistinct" | "countDistinctApprox" => "COUNT(DISTINCT)".to_owned(),
        "string" | "time" | "boolean" => "MEASURE()".to_owned(),
        kind => format!("{}()", kind.to_uppercase()),
    };
    let given =
        if given == "count distinct" { "COUNT(DISTINCT)".to_owned() } else { format!("{}()", given.to_uppercase()) };
    Err(SqlError::Refused(format!(
        "Measure aggregation type doesn't match. The aggregation type for '{}' is '{wanted}' but '{given}' was provided",
        measure.name
    )))
}

/// `count`, `sum`… of a measure or of the one that it refers to.
fn aggregate_type(model: &Model, id: MeasureId) -> &'static str {
    model.measure(crate::query::merge::referred(model, id)).kind.agg_type()
}

/// Why a measure's groups cannot be put together.
pub(super) fn unmergeable_text(model: &Model, id: MeasureId) -> SqlError {
    let name = &model.measure(id).name;
    SqlError::Refused(format!(
        "Measure '{name}' cannot be put together from smaller groups, which these groups or conditions would need: group by \
         members of the cube and use conditions that filters of the data model can express"
    ))
}

/// An aggregation of what is no relation any more.
fn above(input: LogicalPlan, raw: &[bool], groups: Vec<Expr>, aggregates: Vec<Expr>) -> Result<Outcome, SqlError> {
    if aggregates.iter().any(is_measure_call) {
        return Err(SqlError::Refused(
            "MEASURE() takes a measure of a cube or view, and the query below it gives rows that are no cube's any more"
                .to_owned(),
        ));
    }
    if groups.iter().chain(&aggregates).any(|expr| uses_raw(expr, &input, raw)) {
        return Err(SqlError::Refused(
            "A measure cannot be aggregated after expressions, limits or joins: aggregate it with MEASURE() in the query \
             that selects from the cube"
                .to_owned(),
        ));
    }
    let plan = Aggregate::try_new(Arc::new(input), groups, aggregates)?;
    let columns = plan.schema.fields().len();
    Ok(Outcome::Closed(LogicalPlan::Aggregate(plan), vec![false; columns]))
}

/// Aggregates a leaf and gives the columns the names of a schema; counts of nothing are 0.
fn aggregated_above(
    input: LogicalPlan,
    groups: Vec<Expr>,
    aggregates: Vec<Expr>,
    counts: &[bool],
    schema: &DFSchemaRef,
) -> Result<Outcome, SqlError> {
    let keys = groups.len();
    let groups = groups.into_iter().enumerate().map(|(at, group)| group.alias(format!("#group {at}"))).collect();
    let plan = LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(input), groups, aggregates)?);
    let columns = plan.schema().iter().enumerate().map(|(at, (qualifier, field))| {
        let column = Expr::Column(PlanColumn::new(qualifier.cloned(), field.name()));
        let counts = at.checked_sub(keys).and_then(|at| counts.get(at)) == Some(&true);
        if counts { coalesce(vec![column, lit(0_i64)]) } else { column }
    });
    closed(columns.collect(), plan, schema)
}

/// A projection that gives expressions the names of a schema.
fn closed(exprs: Vec<Expr>, input: LogicalPlan, schema: &DFSchemaRef) -> Result<Outcome, SqlError> {
    let named = exprs.into_iter().zip(schema.iter());
    let named: Vec<Expr> =
        named.map(|(expr, (qualifier, field))| expr.alias_qualified(qualifier.cloned(), field.name())).collect();
    let columns = named.len();
    let plan = Projection::try_new(named, Arc::new(input))?;
    Ok(Outcome::Closed(LogicalPlan::Projection(plan), vec![false; columns]))
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        expr => expr,
    }
}

fn distinct<'c>(columns: impl Iterator<Item = &'c Column>) -> Vec<Column> {
    let mut found = Vec::new();
    for column in columns {
        if !found.contains(column) {
            found.push(*column);
        }
    }
    found
}
