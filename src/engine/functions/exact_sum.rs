//! `exact_sum(x)`: sums of integers and decimals as `Decimal128(38, s)`, of floats as `Float64`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, PrimitiveArray};
use arrow::compute;
use arrow::datatypes::{
    ArrowPrimitiveType, DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, Field, FieldRef, Int64Type, UInt64Type,
};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, internal_err, not_impl_err, plan_err};
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF, Signature, Volatility,
};
use datafusion::physical_expr::NullState;

use super::decimal::fits_decimal;

/// The aggregate function.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ExactSum {
    signature: Signature,
}

impl ExactSum {
    pub(super) fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for ExactSum {
    fn name(&self) -> &'static str {
        "exact_sum"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        use DataType::{
            Decimal32, Decimal64, Decimal128, Decimal256, Dictionary, Float16, Float32, Float64, Int8, Int16, Int32,
            Int64, Null, UInt8, UInt16, UInt32, UInt64,
        };
        let [arg] = arg_types else {
            return plan_err!("exact_sum takes one argument, {} were given", arg_types.len());
        };
        let arg = if let Dictionary(_, value) = arg { value.as_ref() } else { arg };
        Ok(vec![match arg {
            Int8 | Int16 | Int32 | Int64 | Null => Int64,
            UInt8 | UInt16 | UInt32 | UInt64 => UInt64,
            Float16 | Float32 | Float64 => Float64,
            Decimal32(precision, scale) | Decimal64(precision, scale) | Decimal128(precision, scale) => {
                Decimal128(*precision, *scale)
            }
            Decimal256(_, scale) => Decimal128(DECIMAL128_MAX_PRECISION, *scale),
            other => return plan_err!("exact_sum cannot add values of type {other}"),
        }])
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(match &self.coerce_types(arg_types)?[0] {
            DataType::Float64 => DataType::Float64,
            DataType::Decimal128(_, scale) => DataType::Decimal128(DECIMAL128_MAX_PRECISION, *scale),
            _ => DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0),
        })
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return not_impl_err!("exact_sum(DISTINCT …) is not supported");
        }
        match args.return_field.data_type() {
            DataType::Float64 => sum_udaf().accumulator(args),
            DataType::Decimal128(_, scale) => Ok(Box::new(SumAccumulator { scale: *scale, sum: None })),
            other => internal_err!("exact_sum has no result type {other}"),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let data_type = args.return_field.data_type().clone();
        Ok(vec![Arc::new(Field::new(format_state_name(args.name, "sum"), data_type, true))])
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        !args.is_distinct
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        match args.return_field.data_type() {
            DataType::Float64 => sum_udaf().create_groups_accumulator(args),
            DataType::Decimal128(_, scale) => Ok(Box::new(SumGroups::new(*scale))),
            other => internal_err!("exact_sum has no result type {other}"),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

fn overflow() -> DataFusionError {
    exec_datafusion_err!("numeric value out of range: a sum has more than {DECIMAL128_MAX_PRECISION} digits")
}

fn sum_type(scale: i8) -> DataType {
    DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale)
}

/// Runs `$body` with `$values` as the typed array of a sum's input.
macro_rules! with_values {
    ($array:expr, $values:ident => $body:expr) => {
        match $array.data_type() {
            DataType::Int64 => {
                let $values = $array.as_primitive::<Int64Type>();
                $body
            }
            DataType::UInt64 => {
                let $values = $array.as_primitive::<UInt64Type>();
                $body
            }
            DataType::Decimal128(..) => {
                let $values = $array.as_primitive::<Decimal128Type>();
                $body
            }
            other => internal_err!("exact_sum got values of type {other}"),
        }
    };
}

/// One sum.
#[derive(Debug)]
struct SumAccumulator {
    scale: i8,
    sum: Option<i128>,
}

impl SumAccumulator {
    fn add<T: ArrowPrimitiveType<Native: Into<i128>>>(&mut self, values: &PrimitiveArray<T>) -> Result<()> {
        if values.null_count() == values.len() {
            return Ok(());
        }
        let add = |sum: i128, value: T::Native| sum.checked_add(value.into());
        let start = self.sum.unwrap_or(0);
        let sum = if values.null_count() == 0 {
            values.values().iter().copied().try_fold(start, add)
        } else {
            values.iter().flatten().try_fold(start, add)
        };
        self.sum = Some(sum.ok_or_else(overflow)?);
        Ok(())
    }

    fn value(&self) -> ScalarValue {
        ScalarValue::Decimal128(self.sum, DECIMAL128_MAX_PRECISION, self.scale)
    }
}

impl Accumulator for SumAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        with_values!(values[0], values => self.add(values))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.sum.is_some_and(|sum| !fits_decimal(sum)) {
            return Err(overflow());
        }
        Ok(self.value())
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.value()])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }
}

/// One sum a group.
struct SumGroups {
    scale: i8,
    sums: Vec<i128>,
    seen: NullState,
    overflowed: bool,
}

impl SumGroups {
    fn new(scale: i8) -> Self {
        Self { scale, sums: Vec::new(), seen: NullState::new(), overflowed: false }
    }

    fn add<T: ArrowPrimitiveType<Native: Into<i128>> + Send>(
        &mut self,
        values: &PrimitiveArray<T>,
        groups: &[usize],
        filter: Option<&BooleanArray>,
        group_count: usize,
    ) -> Result<()> {
        self.sums.resize(group_count, 0);
        let (sums, overflowed) = (&mut self.sums, &mut self.overflowed);
        self.seen.accumulate(groups, values, filter, group_count, |group, value| {
            let (sum, wrapped) = sums[group].overflowing_add(value.into());
            sums[group] = sum;
            *overflowed |= wrapped;
        });
        if self.overflowed { Err(overflow()) } else { Ok(()) }
    }

    fn take(&mut self, emit_to: EmitTo) -> Result<Decimal128Array> {
        let sums = emit_to.take_needed(&mut self.sums);
        let nulls = self.seen.build(emit_to);
        Ok(Decimal128Array::new(sums.into(), nulls).with_data_type(sum_type(self.scale)))
    }
}

impl GroupsAccumulator for SumGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        with_values!(values[0], values => self.add(values, group_indices, opt_filter, total_num_groups))
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = self.take(emit_to)?;
        // A group that saw no value holds zero, so null slots need no look.
        if sums.values().iter().any(|sum| !fits_decimal(*sum)) {
            return Err(overflow());
        }
        Ok(Arc::new(sums))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![Arc::new(self.take(emit_to)?)])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.update_batch(values, group_indices, None, total_num_groups)
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        fn widen<T: ArrowPrimitiveType<Native: Into<i128>>>(values: &PrimitiveArray<T>) -> Result<Decimal128Array> {
            Ok(values.unary(Into::into))
        }
        let sums = with_values!(values[0], values => widen(values))?.with_data_type(sum_type(self.scale));
        let Some(filter) = opt_filter else { return Ok(vec![Arc::new(sums)]) };
        // `nullif` blanks where its mask is true: everything that the filter does not let pass.
        let mask: BooleanArray = filter.iter().map(|keep| Some(keep != Some(true))).collect();
        Ok(vec![compute::nullif(&sums, &mask)?])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<i128>() + self.seen.size()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Decimal256Array, Float32Array, Int8Array, Int64Array, RecordBatch, StringArray, UInt16Array, UInt64Array,
    };
    use arrow::datatypes::i256;
    use datafusion::datasource::MemTable;

    use super::*;
    use crate::engine::partition_table::single_table_catalog;
    use crate::engine::testing::{engine, rows};
    use crate::engine::{EngineError, EngineOptions};

    /// `SELECT g, exact_sum(x), arrow_typeof(exact_sum(x))` over `x`, alone and grouped by parity of the row.
    fn sums(x: ArrayRef) -> Result<(String, Vec<String>), EngineError> {
        let groups: ArrayRef =
            Arc::new((0..x.len()).map(|row| Some(i64::try_from(row % 2).unwrap())).collect::<Int64Array>());
        let batch = RecordBatch::try_from_iter(vec![("g", groups), ("x", x)]).unwrap();
        // Two partitions, so that partial sums are merged.
        let table = MemTable::try_new(
            batch.schema(),
            vec![vec![batch.slice(0, 1)], vec![batch.slice(1, batch.num_rows() - 1)]],
        );
        let catalog = single_table_catalog("t", Arc::new(table.unwrap()));
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let engine = engine();
            let one =
                rows(&engine, "SELECT exact_sum(x), arrow_typeof(exact_sum(x)) FROM t", Arc::clone(&catalog)).await?;
            let grouped = "SELECT exact_sum(x) FROM t GROUP BY g ORDER BY g";
            Ok((one.join(";"), rows(&engine, grouped, catalog).await?))
        })
    }

    #[track_caller]
    fn check(x: ArrayRef, all: &str, grouped: [&str; 2]) {
        assert_eq!(sums(x), Ok((all.to_owned(), grouped.map(str::to_owned).to_vec())));
    }

    fn decimals(values: Vec<Option<i128>>, precision: u8, scale: i8) -> ArrayRef {
        Arc::new(Decimal128Array::from(values).with_precision_and_scale(precision, scale).unwrap())
    }

    #[test]
    fn sums_keep_every_digit() {
        let big = i64::MAX;
        check(
            Arc::new(Int64Array::from(vec![Some(big), Some(big), None, Some(1)])),
            "18446744073709551615|Decimal128(38, 0)",
            ["9223372036854775807", "9223372036854775808"],
        );
        check(Arc::new(Int8Array::from(vec![-128, 127, 1])), "0|Decimal128(38, 0)", ["-127", "127"]);
        check(
            Arc::new(UInt64Array::from(vec![u64::MAX, 1, u64::MAX])),
            "36893488147419103231|Decimal128(38, 0)",
            ["36893488147419103230", "1"],
        );
        check(Arc::new(UInt16Array::from(vec![1, 2, 3])), "6|Decimal128(38, 0)", ["4", "2"]);
        check(Arc::new(Float32Array::from(vec![0.5, 1.0, 2.0])), "3.5|Float64", ["2.5", "1.0"]);
        check(decimals(vec![Some(101), Some(-1), None], 10, 2), "1.00|Decimal128(38, 2)", ["1.01", "-0.01"]);
        check(
            decimals(vec![Some(10_i128.pow(37)), Some(5)], 38, 2),
            "100000000000000000000000000000000000.05|Decimal128(38, 2)",
            ["100000000000000000000000000000000000.00", "0.05"],
        );
        let wide = Decimal256Array::from(vec![Some(i256::from(5)), None]).with_precision_and_scale(50, 3).unwrap();
        check(Arc::new(wide), "0.005|Decimal128(38, 3)", ["0.005", "NULL"]);
    }

    #[test]
    fn sums_of_nothing_are_null() {
        check(Arc::new(Int64Array::from(vec![None, None])), "NULL|Decimal128(38, 0)", ["NULL", "NULL"]);
        check(Arc::new(Int64Array::from(vec![None, Some(2), None])), "2|Decimal128(38, 0)", ["NULL", "2"]);
    }

    #[test]
    fn overflow_is_an_error() {
        let full = 10_i128.pow(38) - 1;
        let error = EngineError::Execution("numeric value out of range: a sum has more than 38 digits".into());
        assert_eq!(sums(decimals(vec![Some(full), Some(0), Some(1)], 38, 0)), Err(error.clone()));
        assert_eq!(sums(decimals(vec![Some(full); 5], 38, 0)), Err(error.clone()));
        assert_eq!(sums(decimals(vec![Some(-full), Some(-1), None], 38, 4)), Err(error));
        check(
            decimals(vec![Some(full), Some(-full), Some(0)], 38, 0),
            "0|Decimal128(38, 0)",
            [&full.to_string(), &(-full).to_string()],
        );
    }

    #[test]
    fn only_numbers_have_sums() {
        let error = sums(Arc::new(StringArray::from(vec!["1", "2"])));
        assert_eq!(error, Err(EngineError::Plan("exact_sum cannot add values of type Utf8".into())));
    }

    #[test]
    fn groups_are_emitted_in_parts_and_converted_with_filters() {
        let mut groups = SumGroups::new(0);
        let values: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3), Some(4)]));
        let filter = BooleanArray::from(vec![Some(true), Some(true), None, Some(true)]);
        groups.update_batch(&[Arc::clone(&values)], &[0, 1, 2, 0], Some(&filter), 3).unwrap();
        let first = groups.evaluate(EmitTo::First(2)).unwrap();
        assert_eq!(first.as_primitive::<Decimal128Type>().iter().collect::<Vec<_>>(), [Some(5), None]);
        groups.update_batch(&[Arc::clone(&values)], &[0, 0, 1, 1], None, 2).unwrap();
        let rest = groups.evaluate(EmitTo::All).unwrap();
        assert_eq!(rest.as_primitive::<Decimal128Type>().iter().collect::<Vec<_>>(), [Some(1), Some(7)]);
        let state = groups.convert_to_state(&[values], Some(&filter)).unwrap();
        assert_eq!(state[0].data_type(), &sum_type(0));
        assert_eq!(
            state[0].as_primitive::<Decimal128Type>().iter().collect::<Vec<_>>(),
            [Some(1), None, None, Some(4)]
        );
    }

    #[test]
    fn many_groups_and_rows_add_up() {
        let engine = crate::engine::Engine::new(EngineOptions { memory_bytes: 1 << 28, cores: 3 }).unwrap();
        let sql = "SELECT count(*), exact_sum(s) FROM (SELECT value % 150000 AS g, exact_sum(value) AS s \
                   FROM generate_series(1, 300000) AS v(value) GROUP BY 1) AS q";
        let catalog = single_table_catalog(
            "t",
            Arc::new(
                datafusion::catalog::memory::MemTable::try_new(
                    Arc::new(arrow::datatypes::Schema::empty()),
                    vec![vec![]],
                )
                .unwrap(),
            ),
        );
        let found = tokio::runtime::Runtime::new().unwrap().block_on(rows(&engine, sql, catalog));
        assert_eq!(found, Ok(vec!["150000|45000150000".to_owned()]));
    }
}
