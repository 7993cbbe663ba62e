//! Record batches as clients of Arrow and Parquet get them: named by the keys of rows, in types that are widely read.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use super::super::rows::{RowKey, Values};

/// The way from an engine's batches to those of clients.
#[derive(Debug)]
pub(super) struct Typed {
    keys: Vec<RowKey>,
    pub(super) schema: SchemaRef,
}

impl Typed {
    /// For batches of the engine's columns.
    ///
    /// # Errors
    /// A key has no column.
    pub(super) fn new(keys: Vec<RowKey>, columns: &Schema) -> Result<Self, ArrowError> {
        let fields = keys.iter().map(|key| {
            let shown = match &key.values {
                Values::Same(_) => DataType::Utf8,
                Values::Column(column) => {
                    let field = columns.fields().get(*column);
                    let missing = || ArrowError::SchemaError(format!("the result lacks the column of {}", key.name));
                    shown_type(field.ok_or_else(missing)?.data_type())
                }
            };
            Ok(Field::new(&key.name, shown, true))
        });
        let schema = Arc::new(Schema::new(fields.collect::<Result<Vec<_>, ArrowError>>()?));
        Ok(Self { keys, schema })
    }

    /// The rows of a batch.
    ///
    /// # Errors
    /// The batch is of other columns.
    pub(super) fn convert(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let columns = self.keys.iter().zip(self.schema.fields()).map(|(key, field)| -> Result<ArrayRef, ArrowError> {
            match &key.values {
                Values::Same(text) => {
                    Ok(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text.as_str(), batch.num_rows()))))
                }
                Values::Column(column) => match batch.columns().get(*column) {
                    Some(array) => cast(array, field.data_type()),
                    None => Err(ArrowError::SchemaError(format!("the result lacks the column of {}", key.name))),
                },
            }
        });
        RecordBatch::try_new(Arc::clone(&self.schema), columns.collect::<Result<_, _>>()?)
    }
}

/// The type that clients see: one of text, one of whole numbers, one of times.
fn shown_type(engine: &DataType) -> DataType {
    match engine {
        DataType::Dictionary(_, values) => shown_type(values),
        DataType::Null | DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => {
            DataType::Int64
        }
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
            DataType::Timestamp(TimeUnit::Microsecond, None)
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, DictionaryArray, Int32Array, StringViewArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn columns_are_named_and_typed_for_clients() {
        let words: DictionaryArray<Int32Type> = vec![Some("a"), None].into_iter().collect();
        let batch = RecordBatch::try_from_iter([
            ("x", Arc::new(words) as ArrayRef),
            ("y", Arc::new(Int32Array::from(vec![Some(7), None])) as ArrayRef),
            ("z", Arc::new(Date32Array::from(vec![Some(1), None])) as ArrayRef),
            ("w", Arc::new(StringViewArray::from(vec![Some("b"), None])) as ArrayRef),
        ])
        .expect("columns of one length");
        let key = |name: &str, values| RowKey { name: name.to_owned(), values, time: false };
        let keys = vec![
            key("o.day", Values::Column(2)),
            key("o.word", Values::Column(0)),
            key("o.n", Values::Column(1)),
            key("o.view", Values::Column(3)),
            key("o.same", Values::Same("s".to_owned())),
        ];
        let typed = Typed::new(keys.clone(), &batch.schema()).expect("all columns");
        let shown = typed.convert(&batch).expect("these columns");
        let types: Vec<String> =
            shown.schema().fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
        assert_eq!(types, ["o.day Timestamp(µs)", "o.word Utf8", "o.n Int64", "o.view Utf8", "o.same Utf8"]);
        assert_eq!(shown.columns().iter().map(|column| column.null_count()).collect::<Vec<_>>(), [1, 1, 1, 1, 0]);
        let none = RecordBatch::new_empty(Arc::new(Schema::empty()));
        assert!(Typed::new(keys, &none.schema()).is_err() && typed.convert(&none).is_err());
    }
}
