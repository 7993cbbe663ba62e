//! The rows that a source adds to rollups, gathered in memory with the columns of the stored ones.

use std::sync::Arc;

use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use futures::StreamExt as _;

use super::QueryError;
use super::lower::stored_columns;
use super::route::RollupRoute;
use crate::engine::{BatchStream, EngineError};
use crate::model::Model;

/// The columns of what the source adds to a route, of the types in which they are stored. A column that the stored
/// files lack is left to the source.
pub(super) fn rest_columns(
    model: &Model,
    route: &RollupRoute,
    stored: Option<&Schema>,
) -> Vec<(String, Option<Field>)> {
    let own = stored_columns(model, model.preagg(route.preagg));
    let like = route.scans.first().map(|scan| stored_columns(model, model.preagg(scan.preagg))).unwrap_or_default();
    let field = |name: &String| stored.and_then(|schema| schema.field_with_name(name).ok()).cloned();
    own.into_iter()
        .zip(&like)
        .map(|(name, like)| (name.clone(), field(like).map(|found| found.with_name(name))))
        .collect()
}

/// A table of all rows of a stream, in some columns of it.
pub(super) async fn gather(
    mut stream: BatchStream,
    columns: Vec<(String, Option<Field>)>,
    most_bytes: usize,
) -> Result<Arc<dyn TableProvider>, QueryError> {
    let own = |name: &String| stream.schema.field_with_name(name).ok().cloned();
    let fields: Vec<Field> = columns
        .into_iter()
        .map(|(name, field)| field.or_else(|| own(&name)).unwrap_or_else(|| Field::new(name, DataType::Null, true)))
        .map(|field| field.with_nullable(true))
        .collect();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let (mut batches, mut bytes) = (Vec::new(), 0_usize);
    while let Some(batch) = stream.batches.next().await {
        let batch = like(&schema, &batch?).map_err(|error| EngineError::Execution(error.to_string()))?;
        bytes = bytes.saturating_add(batch.get_array_memory_size());
        if bytes > most_bytes {
            return Err(EngineError::ResourcesExhausted(format!(
                "the source has more than {} MB to add to the rollup; build what it lacks, ask for a shorter range, or \
                 raise QUARRY_MEMORY",
                most_bytes >> 20
            ))
            .into());
        }
        batches.push(batch);
    }
    let table = MemTable::try_new(schema, vec![batches]);
    let table = table.map_err(|error| EngineError::Execution(error.to_string()))?;
    Ok(Arc::new(table))
}

fn like(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = schema.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) => cast(column, field.data_type()),
        None => Err(ArrowError::SchemaError(format!("the source gave no column '{}'", field.name()))),
    });
    RecordBatch::try_new(Arc::clone(schema), columns.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int32Array, StringArray};

    use super::*;

    fn stream() -> BatchStream {
        let columns: [(&str, ArrayRef); 2] = [
            ("n", Arc::new(Int32Array::from(vec![Some(1), None]))),
            ("city", Arc::new(StringArray::from(vec!["Rome", "Bonn"]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
        BatchStream { schema: batch.schema(), batches: futures::stream::iter([Ok(batch)]).boxed() }
    }

    #[tokio::test]
    async fn rows_take_the_types_of_the_stored_ones() {
        let wanted = vec![("city".to_owned(), None), ("n".to_owned(), Some(Field::new("n", DataType::Int64, false)))];
        let table = gather(stream(), wanted, 1 << 20).await.expect("a table");
        let types: Vec<_> = table.schema().fields().iter().map(|field| field.data_type().clone()).collect();
        assert_eq!(types, [DataType::Utf8, DataType::Int64]);
    }

    #[tokio::test]
    async fn what_is_missing_or_too_much_is_said() {
        let error = gather(stream(), vec![("x".to_owned(), None)], 1 << 20).await.expect_err("no such column");
        assert_eq!(error.to_string(), "Schema error: the source gave no column 'x'");
        let error = gather(stream(), vec![("n".to_owned(), None)], 1).await.expect_err("too much");
        assert!(error.to_string().contains("raise QUARRY_MEMORY"), "{error}");
    }
}
