//! The groups of a part of the rows, and their aggregates.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{FilterBuilder, cast, prep_null_mask_filter};
use arrow::datatypes::{SchemaRef, UInt32Type};
use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::PhysicalExpr;

use super::columns::Coder;
use super::folds::{Fold, RowGroups};
use super::groups::{Groups, RowCodes};
use super::keys::{Key, KeyPlan, OfColumn};

/// What is done to the rows of a scan.
#[derive(Debug)]
pub(super) struct Work {
    /// The groups: keys, then the state of each aggregate.
    pub(super) groups: SchemaRef,
    /// Places of the coded columns in the scan's rows.
    pub(super) coded: Vec<usize>,
    /// Places, in the scan's rows, of the columns that are needed as they are, and these columns: in the table's types,
    /// but for those that are read in fewer bits for the aggregates.
    pub(super) plain: (Vec<usize>, SchemaRef),
    /// Rows for which one of these is not true are left out.
    pub(super) tests: Vec<OfColumn>,
    /// As the tests, over the plain columns.
    pub(super) predicate: Option<Arc<dyn PhysicalExpr>>,
    pub(super) keys: Vec<KeyPlan>,
    pub(super) aggregates: Vec<Aggregate>,
}

/// An aggregate, over the plain columns.
#[derive(Debug)]
pub(super) struct Aggregate {
    pub(super) function: Arc<AggregateFunctionExpr>,
    pub(super) arguments: Vec<Arc<dyn PhysicalExpr>>,
    /// Only rows for which this is true are aggregated.
    pub(super) filter: Option<Arc<dyn PhysicalExpr>>,
}

impl Aggregate {
    /// Its states, of no groups. `plain` are the columns that it is over.
    fn fold(&self, plain: &SchemaRef) -> Result<Fold> {
        let types: Result<Vec<_>> = self.arguments.iter().map(|argument| argument.data_type(plain)).collect();
        Fold::new(&self.function, &self.arguments, &types?)
    }

    /// All that is evaluated for it.
    pub(super) fn expressions(&self) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
        self.arguments.iter().chain(&self.filter)
    }
}

/// What the rows so far came to.
pub(super) struct State {
    coders: Vec<Coder>,
    /// By test.
    verdicts: Vec<Verdicts>,
    keys: Vec<Key>,
    groups: Groups,
    aggregates: Vec<Fold>,
}

impl Work {
    /// The plain columns of a scan's rows.
    fn plain(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let (places, schema) = &self.plain;
        let columns = places.iter().zip(schema.fields());
        let columns = columns.map(|(place, field)| Ok(cast(rows.column(*place), field.data_type())?));
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect::<Result<_>>()?, &options)?)
    }
}

impl State {
    /// Of no rows. `read` are the columns of the scan's rows.
    ///
    /// # Errors
    /// DataFusion's, on aggregates that it does not know.
    pub(super) fn new(work: &Work, read: &SchemaRef) -> Result<Self> {
        let key = |(plan, field): (&KeyPlan, &Arc<_>)| Key::new(plan, arrow::datatypes::Field::data_type(field));
        Ok(Self {
            coders: work.coded.iter().map(|place| Coder::new(read.field(*place).data_type())).collect(),
            verdicts: work.tests.iter().map(|_| Verdicts::default()).collect(),
            keys: work.keys.iter().zip(work.groups.fields()).map(key).collect::<Result<_>>()?,
            groups: Groups::new(work.keys.len()),
            aggregates: work.aggregates.iter().map(|aggregate| aggregate.fold(&work.plain.1)).collect::<Result<_>>()?,
        })
    }

    /// How many groups there are.
    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    /// Bytes in memory, about.
    pub(super) fn size(&self) -> usize {
        self.coders.iter().map(Coder::size).sum::<usize>()
            + self.keys.iter().map(Key::size).sum::<usize>()
            + self.groups.size()
            + self.aggregates.iter().map(Fold::size).sum::<usize>()
    }

    /// Adds rows.
    ///
    /// # Errors
    /// Those of the expressions and the aggregates.
    pub(super) fn push(&mut self, work: &Work, rows: &RecordBatch) -> Result<()> {
        // Of the columns that are not tested only the rows that are left are looked at.
        let mut codes: Vec<Option<Vec<u32>>> = vec![None; self.coders.len()];
        for test in &work.tests {
            self.encode(work, rows, test.column, &mut codes)?;
        }
        let mut rows = rows.clone();
        if let Some(kept) = self.tested(work, &codes)? {
            rows = keep(&kept, &rows, &mut codes)?;
        }
        let mut plain = work.plain(&rows)?;
        if let Some(predicate) = &work.predicate
            && rows.num_rows() > 0
        {
            let passed = value_of(predicate, &plain)?;
            let passed = passed.as_boolean();
            let kept = if passed.null_count() > 0 { prep_null_mask_filter(passed) } else { passed.clone() };
            if kept.true_count() < kept.len() {
                rows = keep(&kept, &rows, &mut codes)?;
                plain = work.plain(&rows)?;
            }
        }
        if rows.num_rows() == 0 {
            return Ok(());
        }
        for column in 0..self.coders.len() {
            self.encode(work, &rows, column, &mut codes)?;
        }
        let codes: Vec<Vec<u32>> = codes.into_iter().map(Option::unwrap_or_default).collect();
        let groups = RowGroups::new(self.groups_of(work, &codes, &plain)?);
        for (aggregate, planned) in self.aggregates.iter_mut().zip(&work.aggregates) {
            let arguments = planned.arguments.iter().filter(|_| aggregate.takes_values());
            let arguments = arguments.map(|argument| value_of(argument, &plain));
            let arguments: Vec<ArrayRef> = arguments.collect::<Result<_>>()?;
            let filter = planned.filter.as_ref().map(|filter| value_of(filter, &plain)).transpose()?;
            let filter = filter.as_ref().map(|filter| filter.as_boolean());
            aggregate.update(&arguments, &groups, filter, self.groups.len())?;
        }
        Ok(())
    }

    /// The group of each row.
    fn groups_of(&mut self, work: &Work, codes: &[Vec<u32>], plain: &RecordBatch) -> Result<Vec<u32>> {
        let mut of_rows = Vec::new();
        for pair in self.keys.iter_mut().zip(&work.keys) {
            match pair {
                (Key::OfColumn(key), KeyPlan::OfColumn(plan)) => {
                    key.learn(plan, &self.coders[plan.column], &codes[plan.column])?;
                }
                (Key::OfRows(integers), KeyPlan::OfRows(expression)) => {
                    of_rows.push(integers.encode(&value_of(expression, plain)?)?);
                }
                _ => return internal_err!("a key is not of the kind that was planned"),
            }
        }
        let mut of_rows = of_rows.iter();
        let row_codes = self.keys.iter().zip(&work.keys).filter_map(|(key, plan)| match (key, plan) {
            (Key::OfColumn(key), KeyPlan::OfColumn(plan)) => {
                Some(RowCodes { codes: &codes[plan.column], of_column: Some(key.codes()) })
            }
            _ => of_rows.next().map(|codes| RowCodes { codes, of_column: None }),
        });
        let row_codes: Vec<RowCodes<'_>> = row_codes.collect();
        let counts: Vec<usize> = self.keys.iter().map(Key::len).collect();
        Ok(self.groups.assign(&row_codes, &counts))
    }

    /// Makes the codes of a coded column, unless they are there.
    fn encode(&mut self, work: &Work, rows: &RecordBatch, column: usize, codes: &mut [Option<Vec<u32>>]) -> Result<()> {
        if codes[column].is_none() {
            codes[column] = Some(self.coders[column].encode(rows.column(work.coded[column]))?);
        }
        Ok(())
    }

    /// Which rows pass the tests; none when all do. A value is tested only where its row passed the tests before.
    fn tested(&mut self, work: &Work, codes: &[Option<Vec<u32>>]) -> Result<Option<BooleanArray>> {
        let mut kept: Option<BooleanBuffer> = None;
        for (test, verdicts) in work.tests.iter().zip(&mut self.verdicts) {
            let codes = codes[test.column].as_deref().unwrap_or_default();
            let passed = verdicts.of(test, &self.coders[test.column], codes, kept.as_ref())?;
            kept = passed.or(kept);
        }
        let kept = kept.map(|kept| BooleanArray::new(kept, None));
        Ok(kept.filter(|kept| kept.true_count() < kept.len()))
    }

    /// All groups, with the states of their aggregates.
    ///
    /// # Errors
    /// Those of the aggregates.
    pub(super) fn finish(self, work: &Work) -> Result<RecordBatch> {
        let mut columns = Vec::with_capacity(work.groups.fields().len());
        for ((key, codes), field) in self.keys.iter().zip(self.groups.members()).zip(work.groups.fields()) {
            columns.push(key.values(codes.clone(), field.data_type())?);
        }
        for aggregate in self.aggregates {
            let next = work.groups.field(columns.len()).data_type();
            columns.extend(aggregate.finish(next)?);
        }
        Ok(RecordBatch::try_new(Arc::clone(&work.groups), columns)?)
    }
}

/// What a test says of the values of its column.
#[derive(Default)]
struct Verdicts {
    /// By code; none where no row needed it.
    passed: Vec<Option<bool>>,
    /// How many are known.
    known: usize,
    /// Whether there are some of these that do not pass.
    some_fail: bool,
}

impl Verdicts {
    /// Which of the rows that are kept so far pass the test; none when all do.
    ///
    /// # Errors
    /// Those of the test.
    fn of(
        &mut self,
        test: &OfColumn,
        coder: &Coder,
        codes: &[u32],
        kept: Option<&BooleanBuffer>,
    ) -> Result<Option<BooleanBuffer>> {
        self.passed.resize(coder.len(), None);
        if self.known < coder.len() {
            let mut fresh = Vec::new();
            for (row, code) in codes.iter().enumerate() {
                let passed = &mut self.passed[*code as usize];
                if passed.is_none() && kept.is_none_or(|kept| kept.value(row)) {
                    fresh.push(*code);
                    // Listed once; the true one follows.
                    *passed = Some(false);
                }
            }
            if !fresh.is_empty() {
                let values = test.evaluate(coder, &fresh)?;
                for (code, passed) in fresh.iter().zip(values.as_boolean()) {
                    let passed = passed == Some(true);
                    self.passed[*code as usize] = Some(passed);
                    self.some_fail |= !passed;
                }
                self.known += fresh.len();
            }
        }
        if !self.some_fail {
            return Ok(None);
        }
        let passes = |row: usize| self.passed[codes[row] as usize] == Some(true);
        let passed = BooleanBuffer::collect_bool(codes.len(), passes);
        Ok(Some(kept.map_or_else(|| passed.clone(), |kept| kept & &passed)))
    }
}

/// The rows that are kept, and their codes.
fn keep(kept: &BooleanArray, rows: &RecordBatch, codes: &mut [Option<Vec<u32>>]) -> Result<RecordBatch> {
    let kept = FilterBuilder::new(kept).optimize().build();
    for codes in codes.iter_mut().flatten() {
        let all = UInt32Array::from(std::mem::take(codes));
        *codes = kept.filter(&all)?.as_primitive::<UInt32Type>().values().to_vec();
    }
    Ok(kept.filter_record_batch(rows)?)
}

fn value_of(expression: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<ArrayRef> {
    expression.evaluate(rows)?.into_array(rows.num_rows())
}
