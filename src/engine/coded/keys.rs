//! Keys: what rows are grouped by, as codes.

use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{concat, take};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::error::Result;
use datafusion::physical_plan::PhysicalExpr;
use hashbrown::HashMap;

use super::columns::{Coder, Integers, NONE};

/// An expression over one coded column.
#[derive(Debug, Clone)]
pub(super) struct OfColumn {
    /// Which of the coded columns.
    pub(super) column: usize,
    /// Over a row of that column alone, in the table's type.
    pub(super) expression: Arc<dyn PhysicalExpr>,
    /// The columns of that row: one.
    pub(super) schema: SchemaRef,
}

impl OfColumn {
    /// The expression's values for the column's values with these codes.
    ///
    /// # Errors
    /// Those of the expression.
    pub(super) fn evaluate(&self, coder: &Coder, codes: &[u32]) -> Result<ArrayRef> {
        let values = coder.values(codes, self.schema.field(0).data_type())?;
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), vec![values])?;
        self.expression.evaluate(&batch)?.into_array(codes.len())
    }
}

/// How a key's codes are made.
#[derive(Debug, Clone)]
pub(super) enum KeyPlan {
    /// The expression is evaluated once for each distinct value of a coded column that passes the filter.
    OfColumn(OfColumn),
    /// The expression is evaluated for each row; its values are whole numbers.
    OfRows(Arc<dyn PhysicalExpr>),
}

/// The codes of a key's values.
pub(super) enum Key {
    OfColumn(ColumnKey),
    OfRows(Integers),
}

/// Codes of the values of an expression over a coded column.
pub(super) struct ColumnKey {
    /// By code of the column: the key's code; [`NONE`] where no row needed it.
    codes: Vec<u32>,
    converter: RowConverter,
    known: HashMap<Vec<u8>, u32>,
    /// For how many codes of the column the key's is known.
    learnt: usize,
    /// The distinct values in portions, in the order of their codes.
    values: Vec<ArrayRef>,
    size_bytes: usize,
}

impl Key {
    /// No codes of a key with values of a type.
    ///
    /// # Errors
    /// Values of the type cannot be compared.
    pub(super) fn new(plan: &KeyPlan, data_type: &DataType) -> Result<Self> {
        Ok(match plan {
            KeyPlan::OfRows(_) => Self::OfRows(Integers::default()),
            KeyPlan::OfColumn(_) => Self::OfColumn(ColumnKey {
                codes: Vec::new(),
                learnt: 0,
                converter: RowConverter::new(vec![SortField::new(data_type.clone())])?,
                known: HashMap::new(),
                values: Vec::new(),
                size_bytes: 0,
            }),
        })
    }

    /// How many codes there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::OfColumn(key) => key.known.len(),
            Self::OfRows(integers) => integers.len(),
        }
    }

    /// The values with these codes.
    ///
    /// # Errors
    /// There are more than a column can hold.
    pub(super) fn values(&self, codes: Vec<u32>, data_type: &DataType) -> Result<ArrayRef> {
        match self {
            Self::OfRows(integers) => integers.values(&codes, data_type),
            Self::OfColumn(key) => {
                let values: Vec<_> = key.values.iter().map(AsRef::as_ref).collect();
                Ok(take(&concat(&values)?, &UInt32Array::from(codes), None)?)
            }
        }
    }

    /// Bytes in memory, about.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::OfColumn(key) => key.size_bytes + key.codes.capacity() * size_of::<u32>(),
            Self::OfRows(integers) => integers.size(),
        }
    }
}

impl ColumnKey {
    /// Learns the key's codes for rows with these codes of the column; [`ColumnKey::codes`] has them then.
    ///
    /// # Errors
    /// Those of the expression.
    pub(super) fn learn(&mut self, plan: &OfColumn, coder: &Coder, column: &[u32]) -> Result<()> {
        self.codes.resize(coder.len(), NONE);
        if self.learnt == coder.len() {
            return Ok(());
        }
        let mut fresh = Vec::new();
        for code in column {
            let known = &mut self.codes[*code as usize];
            if *known == NONE {
                fresh.push(*code);
                // Listed once; any code does until the true one is known.
                *known = 0;
            }
        }
        if !fresh.is_empty() {
            let values = plan.evaluate(coder, &fresh)?;
            self.learnt += fresh.len();
            for (code, known) in fresh.into_iter().zip(self.intern(&values)?) {
                self.codes[code as usize] = known;
            }
        }
        Ok(())
    }

    /// By code of the column: the key's code, where a row needed it.
    pub(super) fn codes(&self) -> &[u32] {
        &self.codes
    }

    /// The codes of some values: of one value there is one code.
    fn intern(&mut self, values: &ArrayRef) -> Result<Vec<u32>> {
        let rows = self.converter.convert_columns(std::slice::from_ref(values))?;
        let (mut codes, mut new) = (Vec::with_capacity(values.len()), Vec::new());
        for (row, at) in rows.iter().zip(0_u32..) {
            let next = u32::try_from(self.known.len()).unwrap_or(NONE);
            let code = *self.known.entry_ref(row.as_ref()).or_insert(next);
            if code == next {
                new.push(at);
                self.size_bytes += 2 * (row.as_ref().len() + size_of::<(Vec<u8>, u32)>());
            }
            codes.push(code);
        }
        self.values.push(take(values, &UInt32Array::from(new), None)?);
        Ok(codes)
    }
}
