//! Leaves: relations as tables of a plan, first without rows, then with those that were answered.

use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::datatypes::{DataType as ArrowType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::relation::{Column, schema_of};
use crate::model::Model;
use crate::query::execute::Answer;

/// A leaf as a table.
#[derive(Debug)]
pub(super) struct LeafTable {
    /// Position among the leaves of the plan.
    pub(super) id: usize,
    schema: SchemaRef,
    rows: Option<Rows>,
}

/// Rows of a leaf.
#[derive(Debug)]
struct Rows {
    batches: Vec<RecordBatch>,
    /// Whether the column at a position was asked for; others are empty.
    asked: Vec<bool>,
}

impl LeafTable {
    /// To plan with.
    pub(super) fn planned(id: usize, model: &Model, columns: &[Column]) -> Self {
        Self { id, schema: schema_of(model, columns), rows: None }
    }

    /// With rows: `values` has one array a batch for every column that was asked for.
    ///
    /// # Errors
    /// The arrays do not fit together.
    pub(super) fn answered(&self, mut batches: Vec<Vec<Option<ArrayRef>>>, rows: &[usize]) -> Result<Self> {
        let width = self.schema.fields().len();
        let asked: Vec<bool> =
            (0..width).map(|at| batches.iter().any(|columns| columns.get(at).is_some_and(Option::is_some))).collect();
        let types: Vec<Field> = self
            .schema
            .fields()
            .iter()
            .enumerate()
            .map(|(at, field)| {
                let given = batches.iter().find_map(|columns| columns.get(at)?.as_ref());
                let data_type = given.map_or_else(|| field.data_type().clone(), |array| array.data_type().clone());
                Field::new(field.name(), data_type, true)
            })
            .collect();
        let schema = Arc::new(Schema::new(types));
        let batches: Vec<RecordBatch> = batches
            .iter_mut()
            .zip(rows)
            .map(|(columns, rows)| {
                let arrays = columns.iter_mut().zip(schema.fields());
                let arrays: Vec<ArrayRef> = arrays
                    // Unasked columns are never read; an empty type costs no bytes.
                    .map(|(array, field)| array.take().unwrap_or_else(|| new_null_array(field.data_type(), *rows)))
                    .collect();
                let options = RecordBatchOptions::new().with_row_count(Some(*rows));
                RecordBatch::try_new_with_options(Arc::clone(&schema), arrays, &options)
            })
            .collect::<std::result::Result<_, _>>()?;
        let asked = if batches.is_empty() { vec![true; width] } else { asked };
        Ok(Self { id: self.id, schema, rows: Some(Rows { batches, asked }) })
    }
}

#[async_trait]
impl TableProvider for LeafTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(rows) = &self.rows else {
            return Err(DataFusionError::Internal("a cube was not asked".to_owned()));
        };
        let wanted: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..rows.asked.len()).collect());
        if wanted.iter().any(|at| !rows.asked.get(*at).copied().unwrap_or(false)) {
            return Err(DataFusionError::Internal("a column of a cube was not asked for".to_owned()));
        }
        let source = MemorySourceConfig::try_new_exec(
            std::slice::from_ref(&rows.batches),
            Arc::clone(&self.schema),
            Some(wanted),
        )?;
        Ok(source)
    }
}

/// The columns of an answer that a leaf's table has, batch by batch: texts, truth values and times of the types that
/// were planned with, numbers as they came.
///
/// # Errors
/// A value does not fit the type of its member.
pub(super) fn columns_of(
    model: &Model,
    answer: &Answer,
    columns: &[Column],
    user: Option<&str>,
) -> Result<Vec<Vec<Option<ArrayRef>>>> {
    let positions: Vec<Option<usize>> = columns
        .iter()
        .map(|column| column.output().and_then(|output| answer.columns.iter().position(|found| *found == output)))
        .collect();
    // Batches of one column may differ in type; a table's may not.
    let targets: Vec<ArrowType> = columns
        .iter()
        .zip(&positions)
        .map(|(column, position)| {
            let given =
                position.and_then(|at| answer.batches.first().map(|batch| batch.column(at).data_type().clone()));
            target(column.arrow_type(model), given)
        })
        .collect();
    answer
        .batches
        .iter()
        .map(|batch| {
            columns
                .iter()
                .zip(&positions)
                .zip(&targets)
                .map(|((column, position), target)| match (column, position) {
                    (_, Some(at)) => {
                        let array = batch.column(*at);
                        if array.data_type() == target {
                            return Ok(Some(Arc::clone(array)));
                        }
                        Ok(Some(arrow::compute::cast(array, target)?))
                    }
                    (Column::User, None) => {
                        let names: arrow::array::StringArray = (0..batch.num_rows()).map(|_| user).collect();
                        Ok(Some(Arc::new(names) as ArrayRef))
                    }
                    (Column::JoinField(_), None) => Ok(Some(new_null_array(&ArrowType::Utf8, batch.num_rows()))),
                    (_, None) => Ok(None),
                })
                .collect()
        })
        .collect()
}

/// The type that values become which came as `given`.
fn target(planned: ArrowType, given: Option<ArrowType>) -> ArrowType {
    match (&planned, given) {
        (ArrowType::Utf8, Some(given @ (ArrowType::Utf8View | ArrowType::LargeUtf8))) => given,
        (ArrowType::Float64 | ArrowType::Int64, Some(given)) if given.is_numeric() => given,
        (ArrowType::Timestamp(TimeUnit::Microsecond, None), _) | (_, _) => planned,
    }
}
