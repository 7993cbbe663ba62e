//! `exact_div(a, b)` and `exact_mul(a, b)`: decimal arithmetic that rounds half away from zero at a known
//! scale, computed in 256 bits where 128 are not enough. Floats stay floats.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Float64Array, PrimitiveArray};
use arrow::datatypes::{ArrowPrimitiveType, DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, Float64Type, i256};
use datafusion::common::{Result, exec_datafusion_err, exec_err, internal_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// Digits after the point that a quotient has at least: what PostgreSQL's `numeric` division gives.
const MIN_SCALE: i8 = 16;

/// Largest absolute value of 38 digits.
const MAX_DECIMAL: i128 = 10_i128.pow(DECIMAL128_MAX_PRECISION as u32) - 1;

/// Whether the unscaled value has at most 38 digits.
pub(super) fn fits_decimal(value: i128) -> bool {
    value.unsigned_abs() <= MAX_DECIMAL.unsigned_abs()
}

/// The function `exact_div`.
pub(super) fn exact_div() -> Arc<ScalarUDF> {
    static UDF: LazyLock<Arc<ScalarUDF>> =
        LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(DecimalFunction::new(Operation::Divide))));
    Arc::clone(&UDF)
}

/// The function `exact_mul`.
pub(super) fn exact_mul() -> Arc<ScalarUDF> {
    static UDF: LazyLock<Arc<ScalarUDF>> =
        LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(DecimalFunction::new(Operation::Multiply))));
    Arc::clone(&UDF)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Operation {
    Divide,
    Multiply,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DecimalFunction {
    operation: Operation,
    signature: Signature,
}

impl DecimalFunction {
    fn new(operation: Operation) -> Self {
        Self { operation, signature: Signature::user_defined(Volatility::Immutable) }
    }

    /// Digits after the point of the result.
    fn scale(&self, left: i8, right: i8) -> i8 {
        match self.operation {
            Operation::Divide => left.max(MIN_SCALE),
            Operation::Multiply => left.max(right).max(MIN_SCALE),
        }
    }
}

/// The decimal type that holds every value of a number type; none for floats and for what is no number.
pub(super) fn decimal_type(data_type: &DataType) -> Option<DataType> {
    use DataType::{
        Decimal32, Decimal64, Decimal128, Decimal256, Int8, Int16, Int32, Int64, Null, UInt8, UInt16, UInt32, UInt64,
    };
    Some(match data_type {
        Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 | Null => Decimal128(20, 0),
        Decimal32(precision, scale) | Decimal64(precision, scale) | Decimal128(precision, scale) => {
            Decimal128(*precision, *scale)
        }
        Decimal256(_, scale) if *scale <= 38 => Decimal128(DECIMAL128_MAX_PRECISION, *scale),
        _ => return None,
    })
}

impl ScalarUDFImpl for DecimalFunction {
    fn name(&self) -> &'static str {
        match self.operation {
            Operation::Divide => "exact_div",
            Operation::Multiply => "exact_mul",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let [left, right] = arg_types else {
            return plan_err!("{} takes two arguments, {} were given", self.name(), arg_types.len());
        };
        if left.is_floating() || right.is_floating() {
            let other = if left.is_floating() { right } else { left };
            if other.is_floating() || decimal_type(other).is_some() {
                return Ok(vec![DataType::Float64, DataType::Float64]);
            }
        } else if let (Some(left), Some(right)) = (decimal_type(left), decimal_type(right)) {
            return Ok(vec![left, right]);
        }
        plan_err!("{} takes numbers, not {left} and {right}", self.name())
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match self.coerce_types(arg_types)?.as_slice() {
            [DataType::Decimal128(_, left), DataType::Decimal128(_, right)] => {
                Ok(DataType::Decimal128(DECIMAL128_MAX_PRECISION, self.scale(*left, *right)))
            }
            _ => Ok(DataType::Float64),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let all_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if all_scalar { 1 } else { args.number_rows };
        let [left, right] = args.args.as_slice() else {
            return internal_err!("{} takes two arguments", self.name());
        };
        let result: ArrayRef = match args.return_field.data_type() {
            DataType::Float64 => {
                let (left, right) = (Operand::<Float64Type>::new(left)?, Operand::new(right)?);
                Arc::new(self.floats(&left, &right, rows)?)
            }
            DataType::Decimal128(_, scale) => {
                let kernel = self.kernel(scale_of(left)?, scale_of(right)?, *scale);
                let (left, right) = (Operand::<Decimal128Type>::new(left)?, Operand::new(right)?);
                let values: Decimal128Array = combine(&left, &right, rows, |a, b| kernel.apply(a, b))?;
                Arc::new(values.with_data_type(args.return_field.data_type().clone()))
            }
            other => return internal_err!("{} has no result type {other}", self.name()),
        };
        if all_scalar {
            return Ok(ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

impl DecimalFunction {
    fn floats(&self, left: &Operand<Float64Type>, right: &Operand<Float64Type>, rows: usize) -> Result<Float64Array> {
        match self.operation {
            Operation::Divide => {
                combine(
                    left,
                    right,
                    rows,
                    |a: f64, b: f64| {
                        if b == 0.0 { exec_err!("division by zero") } else { Ok(a / b) }
                    },
                )
            }
            Operation::Multiply => combine(left, right, rows, |a: f64, b: f64| Ok(a * b)),
        }
    }

    fn kernel(&self, left: i8, right: i8, result: i8) -> Kernel {
        let (left, right, result) = (i32::from(left), i32::from(right), i32::from(result));
        match self.operation {
            Operation::Divide => {
                let shift = result - left + right;
                Kernel::Divide { up: shift.max(0).unsigned_abs(), down: shift.min(0).unsigned_abs() }
            }
            Operation::Multiply => {
                let shift = result - left - right;
                Kernel::Multiply { up: shift.max(0).unsigned_abs(), down: shift.min(0).unsigned_abs() }
            }
        }
    }
}

fn scale_of(value: &ColumnarValue) -> Result<i8> {
    match value.data_type() {
        DataType::Decimal128(_, scale) => Ok(scale),
        other => internal_err!("expected a decimal, got {other}"),
    }
}

/// An argument: one value for all rows, or a value a row.
enum Operand<T: ArrowPrimitiveType> {
    One(Option<T::Native>),
    Many(PrimitiveArray<T>),
}

impl<T: ArrowPrimitiveType> Operand<T> {
    fn new(value: &ColumnarValue) -> Result<Self> {
        Ok(match value {
            ColumnarValue::Scalar(scalar) => {
                let array = scalar.to_array_of_size(1)?;
                let array = array.as_primitive::<T>();
                Self::One(array.is_valid(0).then(|| array.value(0)))
            }
            ColumnarValue::Array(array) => Self::Many(array.as_primitive::<T>().clone()),
        })
    }
}

/// Applies `operation` where both values are there.
fn combine<T: ArrowPrimitiveType>(
    left: &Operand<T>,
    right: &Operand<T>,
    rows: usize,
    operation: impl Fn(T::Native, T::Native) -> Result<T::Native>,
) -> Result<PrimitiveArray<T>> {
    match (left, right) {
        (Operand::One(None), _) | (_, Operand::One(None)) => Ok(PrimitiveArray::new_null(rows)),
        (Operand::One(Some(a)), Operand::One(Some(b))) => Ok(PrimitiveArray::from_value(operation(*a, *b)?, rows)),
        (Operand::Many(a), Operand::One(Some(b))) => a.try_unary(|a| operation(a, *b)),
        (Operand::One(Some(a)), Operand::Many(b)) => b.try_unary(|b| operation(*a, b)),
        (Operand::Many(a), Operand::Many(b)) => {
            let pairs = a.iter().zip(b.iter());
            pairs.map(|pair| if let (Some(a), Some(b)) = pair { operation(a, b).map(Some) } else { Ok(None) }).collect()
        }
    }
}

/// An operation on unscaled values; `up` and `down` are powers of ten that bring the result to its scale.
enum Kernel {
    Divide { up: u32, down: u32 },
    Multiply { up: u32, down: u32 },
}

impl Kernel {
    fn apply(&self, a: i128, b: i128) -> Result<i128> {
        match self {
            Self::Divide { .. } if b == 0 => exec_err!("division by zero"),
            Self::Divide { up, down } => ratio((a, *up), (b, *down)),
            Self::Multiply { up, down } => match a.checked_mul(b) {
                Some(product) => ratio((product, *up), (1, *down)),
                None => wide_result(wide_ratio(
                    i256::from_i128(a).checked_mul(i256::from_i128(b)).and_then(|product| scaled(product, *up)),
                    scaled(i256::ONE, *down),
                )),
            },
        }
    }
}

/// `a·10^p / b·10^q`, rounded half away from zero.
fn ratio((a, p): (i128, u32), (b, q): (i128, u32)) -> Result<i128> {
    let narrow = |value: i128, power: u32| 10_i128.checked_pow(power).and_then(|factor| value.checked_mul(factor));
    if let (Some(a), Some(b)) = (narrow(a, p), narrow(b, q)) {
        // Overflows only for i128::MIN / -1, which is no decimal.
        if let (Some(quotient), Some(rest)) = (a.checked_div(b), a.checked_rem(b)) {
            let (rest, divisor) = (rest.unsigned_abs(), b.unsigned_abs());
            let up = if rest >= divisor - rest { if (a < 0) == (b < 0) { 1 } else { -1 } } else { 0 };
            return narrow_result(quotient.checked_add(up));
        }
    }
    // A product beyond 256 bits means a quotient beyond 38 digits, since the divisor has at most 38 of 76.
    wide_result(wide_ratio(scaled(i256::from_i128(a), p), scaled(i256::from_i128(b), q)))
}

fn scaled(value: i256, power: u32) -> Option<i256> {
    value.checked_mul(i256::from_i128(10).checked_pow(power)?)
}

fn wide_ratio(a: Option<i256>, b: Option<i256>) -> Option<i256> {
    let Some(b) = b else { return Some(i256::ZERO) };
    let a = a?;
    let (quotient, rest) = (a.checked_div(b)?, a.checked_rem(b)?.wrapping_abs());
    if rest >= b.wrapping_abs().wrapping_sub(rest) {
        let same_sign = a.is_negative() == b.is_negative();
        return quotient.checked_add(if same_sign { i256::ONE } else { i256::MINUS_ONE });
    }
    Some(quotient)
}

fn wide_result(value: Option<i256>) -> Result<i128> {
    narrow_result(value.and_then(i256::to_i128))
}

fn narrow_result(value: Option<i128>) -> Result<i128> {
    value.filter(|value| fits_decimal(*value)).ok_or_else(|| {
        exec_datafusion_err!("numeric value out of range: a result has more than {DECIMAL128_MAX_PRECISION} digits")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: i128 = MAX_DECIMAL;

    fn divide(a: (i128, i8), b: (i128, i8)) -> Option<i128> {
        let function = DecimalFunction::new(Operation::Divide);
        function.kernel(a.1, b.1, function.scale(a.1, b.1)).apply(a.0, b.0).ok()
    }

    fn multiply(a: (i128, i8), b: (i128, i8)) -> Option<i128> {
        let function = DecimalFunction::new(Operation::Multiply);
        function.kernel(a.1, b.1, function.scale(a.1, b.1)).apply(a.0, b.0).ok()
    }

    #[track_caller]
    fn check(found: Option<i128>, expected: Option<i128>) {
        assert_eq!(found, expected);
    }

    #[test]
    fn quotients_round_half_away_from_zero() {
        check(divide((2, 0), (3, 0)), Some(6_666_666_666_666_667));
        check(divide((-2, 0), (3, 0)), Some(-6_666_666_666_666_667));
        check(divide((1, 0), (3, 0)), Some(3_333_333_333_333_333));
        // 0.00000000000000005 has its five in the seventeenth place.
        check(divide((1, 0), (20_000_000_000_000_000, 0)), Some(1));
        check(divide((-1, 0), (20_000_000_000_000_000, 0)), Some(-1));
        check(divide((1, 0), (-20_000_000_000_000_000, 0)), Some(-1));
        check(divide((1, 0), (20_000_000_000_000_001, 0)), Some(0));
        check(divide((10, 1), (4, 2)), Some(250_000_000_000_000_000));
        check(divide((1, 20), (2, 0)), Some(1));
        check(divide((5, -2), (1, 0)), Some(5_000_000_000_000_000_000));
        check(divide((0, 0), (7, 38)), Some(0));
    }

    #[test]
    fn quotients_beyond_128_bits_are_exact() {
        // 10^30 / 4 with 16 digits needs 10^46 in between.
        check(divide((4 * 10_i128.pow(20), 0), (8 * 10_i128.pow(30), 20)), Some(50 * 10_i128.pow(24)));
        check(divide((FULL, 38), (FULL, 38)), Some(10_i128.pow(38)).filter(|value| fits_decimal(*value)));
        check(divide((FULL, 37), (FULL, 37)), Some(10_i128.pow(37)));
        check(divide((FULL, 0), (FULL, 0)), Some(10_i128.pow(16)));
        check(divide((FULL, 0), (3, 38)), None);
        check(divide((FULL, 0), (1, 0)), None);
        check(divide((10_i128.pow(22) - 1, 0), (1, 0)), Some((10_i128.pow(22) - 1) * 10_i128.pow(16)));
        check(divide((10_i128.pow(22), 0), (1, 0)), None);
    }

    #[test]
    fn zero_divides_nothing() {
        check(divide((1, 0), (0, 0)), None);
        check(divide((0, 0), (0, 5)), None);
    }

    #[test]
    fn products_round_half_away_from_zero() {
        check(multiply((3_333_333_333_333_333, 16), (3_333_333_333_333_333, 16)), Some(1_111_111_111_111_111));
        check(multiply((5, 16), (1, 1)), Some(1));
        check(multiply((-5, 16), (1, 1)), Some(-1));
        check(multiply((4, 16), (1, 1)), Some(0));
        check(multiply((3, 0), (4, 0)), Some(12 * 10_i128.pow(16)));
        check(
            multiply((10_i128.pow(30), 16), (10_i128.pow(24), 16)),
            Some(10_i128.pow(38)).filter(|value| fits_decimal(*value)),
        );
        check(multiply((10_i128.pow(30), 16), (10_i128.pow(23), 16)), Some(10_i128.pow(37)));
        check(multiply((FULL, 0), (FULL, 0)), None);
        check(multiply((-FULL, 38), (FULL, 38)), Some(-FULL + 1));
    }

    #[test]
    fn nulls_and_types_pass_through_sql() {
        use crate::engine::testing::{engine, rows};
        let run = |sql: &str| {
            let catalog = Arc::new(datafusion::catalog::memory::MemoryCatalogProvider::new());
            tokio::runtime::Runtime::new()
                .unwrap()
                .block_on(rows(&engine(), sql, catalog))
                .map_err(|error| error.to_string())
        };
        let check = |sql: &str, expected: Result<&[&str], &str>| {
            let expected = expected.map(|rows| rows.iter().map(|row| (*row).to_owned()).collect::<Vec<_>>());
            assert_eq!(run(sql), expected.map_err(str::to_owned), "{sql}");
        };
        check("SELECT exact_div(NULL, 0), exact_div(1, NULL), exact_div(NULL, NULL)", Ok(&["NULL|NULL|NULL"]));
        check("SELECT exact_div(1, 3), arrow_typeof(exact_div(1, 3))", Ok(&["0.3333333333333333|Decimal128(38, 16)"]));
        check("SELECT arrow_typeof(exact_div(1.12345678901234567890, 3))", Ok(&["Decimal128(38, 20)"]));
        check(
            "SELECT exact_div(1::double, 4) AS a, exact_div(1::float, 4.0) AS b, exact_div(1, 4::real) AS c",
            Ok(&["0.25|0.25|0.25"]),
        );
        check("SELECT exact_div(1, 0)", Err("division by zero"));
        check("SELECT exact_div(1::double, 0)", Err("division by zero"));
        check("SELECT exact_div('a', 1)", Err("exact_div takes numbers, not Utf8 and Int64"));
        check("SELECT exact_div(1)", Err("exact_div takes two arguments, 1 were given"));
        check(
            "SELECT exact_div(a, b), exact_div(a, 2), exact_div(2, b), exact_mul(a, b) FROM (VALUES (1, 4), (NULL, 0), (3, NULL)) AS v(a, b) ORDER BY a",
            Err("division by zero"),
        );
        check(
            "SELECT exact_div(a, b), exact_div(a, 2) FROM (VALUES (1, 4), (NULL, 0), (3, NULL)) AS v(a, b) ORDER BY a",
            Ok(&["0.2500000000000000|0.5000000000000000", "NULL|1.5000000000000000", "NULL|NULL"]),
        );
    }
}
