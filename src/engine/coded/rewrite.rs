//! Finds the aggregations in a plan that can go over codes.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::datasource::physical_plan::{FileScanConfig, FileSource as _, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::utils::{collect_columns, conjunction, conjunction_opt, split_conjunction};
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ExecutionPlan, InputOrderMode, PhysicalExpr, replace_children_if_necessary};
use futures::future::{BoxFuture, FutureExt as _};

use super::columns::Integers;
use super::exec::CodedAggregate;
use super::folds::Whole;
use super::keys::{KeyPlan, OfColumn};
use super::scan::{Dictionaries, dictionaries};
use super::state::{Aggregate, Work};

type Expression = Arc<dyn PhysicalExpr>;

/// The plan with all aggregations over codes that can be, of scans of `least_rows` or more.
///
/// # Errors
/// DataFusion's.
pub(in crate::engine) fn with_codes(
    plan: Arc<dyn ExecutionPlan>,
    state: &SessionState,
    least_rows: u64,
) -> BoxFuture<'_, Result<Arc<dyn ExecutionPlan>>> {
    async move {
        if let Some(aggregation) = plan.downcast_ref::<AggregateExec>()
            && let Some(fused) = Fused::of(aggregation)?
            && let Some(dictionaries) = dictionaries(fused.scan, state, least_rows).await
            && let Some(coded) = fused.coded(aggregation.schema(), &dictionaries)?
        {
            return Ok(Arc::new(coded) as Arc<dyn ExecutionPlan>);
        }
        let mut children = Vec::new();
        for child in plan.children() {
            children.push(with_codes(Arc::clone(child), state, least_rows).await?);
        }
        replace_children_if_necessary(plan, children)
    }
    .boxed()
}

/// A partial aggregation of a scan, with all between them, over the columns of the scan's table.
struct Fused<'a> {
    scan: &'a FileScanConfig,
    parquet: &'a ParquetSource,
    conditions: Vec<Expression>,
    keys: Vec<Expression>,
    aggregates: Vec<Aggregate>,
}

impl<'a> Fused<'a> {
    fn of(aggregation: &'a AggregateExec) -> Result<Option<Self>> {
        let groups = aggregation.group_expr();
        let is_plain = *aggregation.mode() == AggregateMode::Partial
            && groups.is_single()
            && !groups.is_empty()
            && *aggregation.input_order_mode() == InputOrderMode::Linear
            && aggregation.properties().output_ordering().is_none()
            && aggregation.limit_options().is_none()
            && aggregation
                .aggr_expr()
                .iter()
                .all(|function| function.groups_accumulator_supported() && function.order_bys().is_empty());
        if !is_plain {
            return Ok(None);
        }
        let functions = aggregation.aggr_expr().iter().zip(aggregation.filter_expr());
        let aggregates = functions.map(|(function, filter)| Aggregate {
            function: Arc::clone(function),
            arguments: function.expressions(),
            filter: filter.clone(),
        });
        let mut over = Over {
            conditions: Vec::new(),
            keys: groups.expr().iter().map(|(key, _)| Arc::clone(key)).collect(),
            aggregates: aggregates.collect(),
        };
        let Some((scan, parquet)) = over.descend(aggregation.input())? else { return Ok(None) };
        let Over { conditions, keys, aggregates } = over;
        let fused = Self { scan, parquet, conditions, keys, aggregates };
        let is_constant = !fused.expressions().any(is_volatile);
        Ok(is_constant.then_some(fused))
    }

    fn expressions(&self) -> impl Iterator<Item = &Expression> {
        let aggregates = self.aggregates.iter().flat_map(Aggregate::expressions);
        self.conditions.iter().chain(&self.keys).chain(aggregates)
    }

    /// The operator; none where a key is of no kind that has codes.
    fn coded(self, groups: SchemaRef, dictionaries: &Dictionaries) -> Result<Option<CodedAggregate>> {
        let table = self.parquet.table_schema().table_schema();
        let needed: Vec<usize> = self.expressions().flat_map(columns_of).collect::<BTreeSet<_>>().into_iter().collect();
        let coded: Vec<usize> =
            needed.iter().copied().filter(|column| dictionaries.hold(table.field(*column))).collect();
        let of_column = |expression: &Expression| -> Result<Option<OfColumn>> {
            let columns = columns_of(expression);
            let Some(column) = columns.first().filter(|_| columns.len() == 1) else { return Ok(None) };
            let Some(place) = coded.iter().position(|coded| coded == column) else { return Ok(None) };
            let schema = Arc::new(Schema::new(vec![table.field(*column).clone()]));
            Ok(Some(OfColumn { column: place, expression: placed(expression, &[*column])?, schema }))
        };
        let (mut tests, mut conditions) = (Vec::new(), Vec::new());
        for condition in by_columns(&self.conditions) {
            match of_column(&condition)? {
                Some(test) => tests.push(test),
                None => conditions.push(condition),
            }
        }
        let mut keys = Vec::new();
        for (key, field) in self.keys.iter().zip(groups.fields()) {
            keys.push(match of_column(key)? {
                Some(key) => KeyPlan::OfColumn(key),
                None if Integers::hold(field.data_type()) => KeyPlan::OfRows(Arc::clone(key)),
                None => return Ok(None),
            });
        }
        let aggregated = self.aggregates.iter().flat_map(Aggregate::expressions);
        let plain = conditions.iter().chain(of_rows_of(&keys)).chain(aggregated).flat_map(columns_of);
        let plain: Vec<usize> = plain.collect::<BTreeSet<_>>().into_iter().collect();
        let place = |expression: &Expression| placed(expression, &plain);
        let place_key = |key| match key {
            KeyPlan::OfRows(key) => Ok(KeyPlan::OfRows(place(&key)?)),
            key @ KeyPlan::OfColumn(_) => Ok(key),
        };
        let place_aggregate = |aggregate: &Aggregate| {
            let arguments = aggregate.arguments.iter().map(place).collect::<Result<_>>()?;
            let filter = aggregate.filter.as_ref().map(place).transpose()?;
            Ok(Aggregate { function: Arc::clone(&aggregate.function), arguments, filter })
        };
        let places = |columns: &[usize]| {
            columns.iter().filter_map(|column| needed.iter().position(|needed| needed == column)).collect::<Vec<_>>()
        };
        let narrow = self.narrow(table, dictionaries, conditions.iter().chain(of_rows_of(&keys)));
        let work = Work {
            coded: places(&coded),
            plain: (places(&plain), Arc::new(narrowed(table, &plain, &narrow, dictionaries))),
            tests,
            predicate: conjunction_opt(conditions).as_ref().map(place).transpose()?,
            keys: keys.into_iter().map(place_key).collect::<Result<_>>()?,
            aggregates: self.aggregates.iter().map(place_aggregate).collect::<Result<_>>()?,
            groups,
        };
        let scan = dictionaries.scan(self.scan, self.parquet, &needed, &narrow)?;
        Ok(Some(CodedAggregate::new(scan, Arc::new(work))))
    }

    /// The columns that nothing takes but aggregates of whole numbers, as they are. `rows` is evaluated over rows, too.
    fn narrow<'e>(
        &self,
        table: &Schema,
        dictionaries: &Dictionaries,
        rows: impl Iterator<Item = &'e Expression>,
    ) -> BTreeSet<usize> {
        let mut narrow = BTreeSet::new();
        let mut others: BTreeSet<usize> = rows.flat_map(columns_of).collect();
        for aggregate in &self.aggregates {
            let is_whole = Whole::of(&aggregate.function).is_some();
            for argument in &aggregate.arguments {
                match argument.downcast_ref::<Column>().filter(|_| is_whole) {
                    Some(column) => drop(narrow.insert(column.index())),
                    None => others.extend(columns_of(argument)),
                }
            }
            others.extend(aggregate.filter.iter().flat_map(columns_of));
        }
        narrow.retain(|column| !others.contains(column) && dictionaries.narrow(table.field(*column)).is_some());
        narrow
    }
}

/// The keys that are evaluated for each row.
fn of_rows_of(keys: &[KeyPlan]) -> impl Iterator<Item = &Expression> {
    keys.iter().filter_map(|key| if let KeyPlan::OfRows(key) = key { Some(key) } else { None })
}

/// Some columns of a table, the narrow ones of these as they are read.
fn narrowed(table: &Schema, columns: &[usize], narrow: &BTreeSet<usize>, dictionaries: &Dictionaries) -> Schema {
    let fields = columns.iter().map(|column| {
        let field = table.field(*column).clone();
        match dictionaries.narrow(&field).filter(|_| narrow.contains(column)) {
            Some(narrow) => field.with_data_type(narrow),
            None => field,
        }
    });
    Schema::new(fields.collect::<Vec<_>>())
}

/// Expressions on the way down to the scan, over the columns of the plan at hand.
struct Over {
    conditions: Vec<Expression>,
    keys: Vec<Expression>,
    aggregates: Vec<Aggregate>,
}

impl Over {
    /// Down through filters and projections to a scan of Parquet files; none when there is anything else.
    fn descend<'a>(
        &mut self,
        mut plan: &'a Arc<dyn ExecutionPlan>,
    ) -> Result<Option<(&'a FileScanConfig, &'a ParquetSource)>> {
        loop {
            if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
                self.replace(&ProjectionExprs::new(projection.expr().iter().cloned()))?;
                plan = projection.input();
            } else if let Some(filter) = plan.downcast_ref::<FilterExec>().filter(|filter| filter.fetch().is_none()) {
                if let Some(columns) = filter.projection() {
                    self.replace(&ProjectionExprs::from_indices(columns, &filter.input().schema()))?;
                }
                self.conditions.extend(split_conjunction(filter.predicate()).into_iter().cloned());
                plan = filter.input();
            } else if let Some(wrapper) = plan.downcast_ref::<CooperativeExec>() {
                plan = wrapper.input();
            } else {
                let Some(source) = plan.downcast_ref::<DataSourceExec>() else { return Ok(None) };
                let Some((scan, parquet)) = source.downcast_to_file_source::<ParquetSource>() else { return Ok(None) };
                let Some(projection) = parquet.projection().filter(|_| scan.limit.is_none()) else { return Ok(None) };
                self.replace(projection)?;
                return Ok(Some((scan, parquet)));
            }
        }
    }

    /// Puts what a projection makes in the place of its columns.
    fn replace(&mut self, projection: &ProjectionExprs) -> Result<()> {
        let aggregates = self.aggregates.iter_mut().flat_map(|a| a.arguments.iter_mut().chain(&mut a.filter));
        for expression in self.conditions.iter_mut().chain(&mut self.keys).chain(aggregates) {
            *expression = projection.unproject_expr(expression)?;
        }
        Ok(())
    }
}

/// The columns of an expression, by place.
fn columns_of(expression: &Expression) -> Vec<usize> {
    let columns: BTreeSet<usize> = collect_columns(expression).iter().map(Column::index).collect();
    columns.into_iter().collect()
}

/// An expression over these columns of what it was over.
fn placed(expression: &Expression, columns: &[usize]) -> Result<Expression> {
    let replaced = Arc::clone(expression).transform(|node| {
        let Some(column) = node.downcast_ref::<Column>() else { return Ok(Transformed::no(node)) };
        let Some(place) = columns.iter().position(|kept| *kept == column.index()) else {
            return internal_err!("a column was lost: {column}");
        };
        Ok(Transformed::yes(Arc::new(Column::new(column.name(), place)) as Expression))
    });
    Ok(replaced?.data)
}

/// The same conditions, those of one column as one.
fn by_columns(conditions: &[Expression]) -> Vec<Expression> {
    let mut found: Vec<(Vec<usize>, Vec<Expression>)> = Vec::new();
    for condition in conditions {
        let columns = columns_of(condition);
        match found.iter_mut().find(|(of, _)| columns.len() == 1 && *of == columns) {
            Some((_, conditions)) => conditions.push(Arc::clone(condition)),
            None => found.push((columns, vec![Arc::clone(condition)])),
        }
    }
    found.into_iter().map(|(_, conditions)| conjunction(conditions)).collect()
}
