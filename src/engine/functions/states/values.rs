//! Values of any type in the one form that all equal values share, so that states of partitions that were built
//! apart can be put together.

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type, i256,
};
use arrow::row::{RowConverter, SortField};
use datafusion::common::Result;

/// What a value is. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A whole number that fits 64 bits with sign, of whatever numeric type.
    Integer = 1,
    Boolean = 2,
    /// The bits of a 64-bit float that is no whole number.
    Float = 3,
    /// Microseconds since 1970.
    Time = 4,
    /// Nanoseconds since 1970 that are no whole microseconds.
    FineTime = 5,
    /// Days since 1970.
    Date = 6,
    Text = 16,
    Bytes = 17,
    /// A decimal that is no [`Kind::Integer`]: its scale, then its digits as an integer, without zeros at the end.
    Decimal = 18,
    /// A value of another type, as a row of arrow's sortable format.
    Other = 19,
}

impl Kind {
    /// The kind of a stored number.
    pub(super) fn of(number: u8) -> Option<Self> {
        use Kind::{Boolean, Bytes, Date, Decimal, FineTime, Float, Integer, Other, Text, Time};
        let all = [Integer, Boolean, Float, Time, FineTime, Date, Text, Bytes, Decimal, Other];
        all.into_iter().find(|kind| *kind as u8 == number)
    }

    /// Whether its values are [`Value::Word`].
    pub(super) fn is_word(self) -> bool {
        (self as u8) < Self::Text as u8
    }
}

/// A value. Two are equal where their kinds and contents are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// 64 bits; of a signed number its two's complement.
    Word(Kind, u64),
    Bytes(Kind, &'a [u8]),
}

impl Value<'_> {
    fn integer(number: i64) -> Self {
        Self::Word(Kind::Integer, number.cast_unsigned())
    }
}

/// Calls `found` with the position and the value of every row that is not null.
///
/// # Errors
/// Those of `found`, or the type has no comparable values.
pub(super) fn visit(array: &ArrayRef, found: &mut dyn FnMut(usize, Value<'_>) -> Result<()>) -> Result<()> {
    match array.data_type() {
        DataType::Null => Ok(()),
        DataType::Int8 => integers::<Int8Type>(array, found),
        DataType::Int16 => integers::<Int16Type>(array, found),
        DataType::Int32 => integers::<Int32Type>(array, found),
        DataType::Int64 => integers::<Int64Type>(array, found),
        DataType::UInt8 => integers::<UInt8Type>(array, found),
        DataType::UInt16 => integers::<UInt16Type>(array, found),
        DataType::UInt32 => integers::<UInt32Type>(array, found),
        DataType::UInt64 => each(array.as_primitive::<UInt64Type>(), &mut |row, number| {
            decimal(i256::from_i128(number.into()), 0, row, found)
        }),
        DataType::Float16 => {
            each(array.as_primitive::<Float16Type>(), &mut |row, number| float(number.to_f64(), row, found))
        }
        DataType::Float32 => {
            each(array.as_primitive::<Float32Type>(), &mut |row, number| float(f64::from(number), row, found))
        }
        DataType::Float64 => each(array.as_primitive::<Float64Type>(), &mut |row, number| float(number, row, found)),
        DataType::Decimal32(_, scale) => decimals::<Decimal32Type>(array, *scale, found),
        DataType::Decimal64(_, scale) => decimals::<Decimal64Type>(array, *scale, found),
        DataType::Decimal128(_, scale) => decimals::<Decimal128Type>(array, *scale, found),
        DataType::Decimal256(_, scale) => {
            let scale = *scale;
            each(array.as_primitive::<Decimal256Type>(), &mut |row, digits| decimal(digits, scale, row, found))
        }
        DataType::Boolean => {
            let array = array.as_boolean();
            (0..array.len()).filter(|row| array.is_valid(*row)).try_for_each(|row| {
                let truth = array.value(row);
                found(row, Value::Word(Kind::Boolean, truth.into()))
            })
        }
        DataType::Timestamp(unit, _) => times(array, *unit, found),
        DataType::Date32 => each(array.as_primitive::<Date32Type>(), &mut |row, days| {
            found(row, Value::Word(Kind::Date, i64::from(days).cast_unsigned()))
        }),
        DataType::Date64 => each(array.as_primitive::<Date64Type>(), &mut |row, at| time(at, 1000, row, found)),
        DataType::Utf8 => texts(array.as_string::<i32>().iter().map(|text| text.map(str::as_bytes)), Kind::Text, found),
        DataType::LargeUtf8 => {
            texts(array.as_string::<i64>().iter().map(|text| text.map(str::as_bytes)), Kind::Text, found)
        }
        DataType::Utf8View => {
            texts(array.as_string_view().iter().map(|text| text.map(str::as_bytes)), Kind::Text, found)
        }
        DataType::Binary => texts(array.as_binary::<i32>().iter(), Kind::Bytes, found),
        DataType::LargeBinary => texts(array.as_binary::<i64>().iter(), Kind::Bytes, found),
        DataType::BinaryView => texts(array.as_binary_view().iter(), Kind::Bytes, found),
        DataType::FixedSizeBinary(_) => texts(array.as_fixed_size_binary().iter(), Kind::Bytes, found),
        DataType::Dictionary(_, values) => visit(&cast(array, values)?, found),
        _ => others(array, found),
    }
}

fn each<T: ArrowPrimitiveType>(
    array: &PrimitiveArray<T>,
    found: &mut dyn FnMut(usize, T::Native) -> Result<()>,
) -> Result<()> {
    match array.nulls() {
        None => array.values().iter().enumerate().try_for_each(|(row, value)| found(row, *value)),
        Some(nulls) => nulls.valid_indices().try_for_each(|row| found(row, array.value(row))),
    }
}

fn integers<T: ArrowPrimitiveType<Native: Into<i64>>>(
    array: &ArrayRef,
    found: &mut dyn FnMut(usize, Value<'_>) -> Result<()>,
) -> Result<()> {
    each(array.as_primitive::<T>(), &mut |row, number| found(row, Value::integer(number.into())))
}

fn decimals<T: ArrowPrimitiveType<Native: Into<i128>>>(
    array: &ArrayRef,
    scale: i8,
    found: &mut dyn FnMut(usize, Value<'_>) -> Result<()>,
) -> Result<()> {
    each(array.as_primitive::<T>(), &mut |row, digits| decimal(i256::from_i128(digits.into()), scale, row, found))
}

/// The sign of zero and the payload of what is no number tell nothing apart.
fn float(number: f64, row: usize, found: &mut dyn FnMut(usize, Value<'_>) -> Result<()>) -> Result<()> {
    // Exactly the floats from -2^63 up to, but not, 2^63 have their whole part in 64 bits.
    let limit = 9_223_372_036_854_775_808.0;
    if number.fract() == 0.0 && (-limit..limit).contains(&number) {
        #[expect(clippy::cast_possible_truncation, reason = "a whole number within the limits")]
        return found(row, Value::integer(number as i64));
    }
    let number = if number.is_nan() { f64::NAN } else { number };
    found(row, Value::Word(Kind::Float, number.to_bits()))
}

fn decimal(
    mut digits: i256,
    mut scale: i8,
    row: usize,
    found: &mut dyn FnMut(usize, Value<'_>) -> Result<()>,
) -> Result<()> {
    let (ten, zero) = (i256::from(10), i256::ZERO);
    if digits == zero {
        return found(row, Value::integer(0));
    }
    while scale != 0 {
        let (next, step) = if scale > 0 {
            ((digits.wrapping_rem(ten) == zero).then(|| digits.wrapping_div(ten)), -1)
        } else {
            (digits.checked_mul(ten), 1)
        };
        let Some(next) = next else { break };
        (digits, scale) = (next, scale + step);
    }
    match digits.to_i128().and_then(|whole| i64::try_from(whole).ok()).filter(|_| scale == 0) {
        Some(whole) => found(row, Value::integer(whole)),
        None => {
            let mut bytes = [0; 33];
            bytes[0] = scale.cast_unsigned();
            bytes[1..].copy_from_slice(&digits.to_le_bytes());
            found(row, Value::Bytes(Kind::Decimal, &bytes))
        }
    }
}

fn times(array: &ArrayRef, unit: TimeUnit, found: &mut dyn FnMut(usize, Value<'_>) -> Result<()>) -> Result<()> {
    match unit {
        TimeUnit::Second => {
            each(array.as_primitive::<TimestampSecondType>(), &mut |row, at| time(at, 1_000_000, row, found))
        }
        TimeUnit::Millisecond => {
            each(array.as_primitive::<TimestampMillisecondType>(), &mut |row, at| time(at, 1000, row, found))
        }
        TimeUnit::Microsecond => {
            each(array.as_primitive::<TimestampMicrosecondType>(), &mut |row, at| time(at, 1, row, found))
        }
        TimeUnit::Nanosecond => each(array.as_primitive::<TimestampNanosecondType>(), &mut |row, at| {
            if at % 1000 == 0 {
                return time(at / 1000, 1, row, found);
            }
            found(row, Value::Word(Kind::FineTime, at.cast_unsigned()))
        }),
    }
}

/// A time beyond 64 bits of microseconds keeps its own unit, as bytes.
fn time(at: i64, micros: i64, row: usize, found: &mut dyn FnMut(usize, Value<'_>) -> Result<()>) -> Result<()> {
    match at.checked_mul(micros) {
        Some(at) => found(row, Value::Word(Kind::Time, at.cast_unsigned())),
        None => found(row, Value::Bytes(Kind::Other, &(i128::from(at) * i128::from(micros)).to_le_bytes())),
    }
}

fn texts<'a>(
    values: impl Iterator<Item = Option<&'a [u8]>>,
    kind: Kind,
    found: &mut dyn FnMut(usize, Value<'_>) -> Result<()>,
) -> Result<()> {
    for (row, bytes) in values.enumerate() {
        if let Some(bytes) = bytes {
            found(row, Value::Bytes(kind, bytes))?;
        }
    }
    Ok(())
}

fn others(array: &ArrayRef, found: &mut dyn FnMut(usize, Value<'_>) -> Result<()>) -> Result<()> {
    let converter = RowConverter::new(vec![SortField::new(array.data_type().clone())])?;
    let rows = converter.convert_columns(std::slice::from_ref(array))?;
    let nulls = array.logical_nulls();
    let valid = |row: &usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(*row));
    (0..array.len()).filter(valid).try_for_each(|row| found(row, Value::Bytes(Kind::Other, rows.row(row).data())))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BinaryArray, BooleanArray, Date32Array, Decimal128Array, Decimal256Array, DictionaryArray, Float32Array,
        Float64Array, Int8Array, Int64Array, LargeStringArray, StringArray, StringViewArray, TimestampMicrosecondArray,
        TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt64Array,
    };
    use arrow::array::{DurationSecondArray, NullArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    /// The values of the rows, as text.
    fn shown(array: ArrayRef) -> Vec<String> {
        let mut all = Vec::new();
        visit(&array, &mut |row, value| {
            all.push(match value {
                Value::Word(kind, word) => format!("{row} {kind:?} {}", word.cast_signed()),
                Value::Bytes(kind, bytes) => format!("{row} {kind:?} {bytes:?}"),
            });
            Ok(())
        })
        .unwrap();
        all
    }

    #[track_caller]
    fn check_equal(arrays: Vec<ArrayRef>, expected: &[&str]) {
        for array in arrays {
            let data_type = array.data_type().clone();
            assert_eq!(shown(array), expected, "{data_type}");
        }
    }

    fn decimals(digits: Vec<Option<i128>>, scale: i8) -> ArrayRef {
        Arc::new(Decimal128Array::from(digits).with_precision_and_scale(38, scale).unwrap())
    }

    #[test]
    fn whole_numbers_are_one_kind_whatever_their_type() {
        check_equal(
            vec![
                Arc::new(Int8Array::from(vec![Some(7), None, Some(-1), Some(0)])),
                Arc::new(Int64Array::from(vec![Some(7), None, Some(-1), Some(0)])),
                Arc::new(Float32Array::from(vec![Some(7.0), None, Some(-1.0), Some(-0.0)])),
                Arc::new(Float64Array::from(vec![Some(7.0), None, Some(-1.0), Some(0.0)])),
                decimals(vec![Some(700), None, Some(-100), Some(0)], 2),
            ],
            &["0 Integer 7", "2 Integer -1", "3 Integer 0"],
        );
        check_equal(vec![decimals(vec![Some(7)], -2), Arc::new(UInt64Array::from(vec![700]))], &["0 Integer 700"]);
    }

    #[test]
    fn numbers_that_do_not_fit_keep_every_digit() {
        let large = shown(Arc::new(UInt64Array::from(vec![u64::MAX, u64::MAX - 1])));
        assert!(large[0].starts_with("0 Decimal [0, 255,") && large[0] != large[1], "{large:?}");
        let wide = Decimal256Array::from(vec![i256::from_i128(u64::MAX.into()).wrapping_mul(i256::from(1000))]);
        let wide: ArrayRef = Arc::new(wide.with_precision_and_scale(60, 3).unwrap());
        assert_eq!(shown(wide), large[..1]);
        // 1.50 and 1.5 are one value; 15 is another.
        assert_eq!(shown(decimals(vec![Some(150)], 2)), shown(decimals(vec![Some(15)], 1)));
        assert_ne!(shown(decimals(vec![Some(15)], 1)), shown(decimals(vec![Some(15)], 2)));
        let floats = shown(Arc::new(Float64Array::from(vec![0.5, f64::NAN, -f64::NAN, f64::INFINITY, 1e300])));
        assert_eq!(floats[1][1..], floats[2][1..]);
        assert!(floats.iter().all(|text| text.contains("Float")), "{floats:?}");
    }

    #[test]
    fn times_are_one_kind_whatever_their_unit() {
        check_equal(
            vec![
                Arc::new(TimestampSecondArray::from(vec![-1, 2])),
                Arc::new(TimestampMillisecondArray::from(vec![-1000, 2000])),
                Arc::new(TimestampMicrosecondArray::from(vec![-1_000_000, 2_000_000])),
                Arc::new(TimestampNanosecondArray::from(vec![-1_000_000_000, 2_000_000_000]).with_timezone("+00:00")),
            ],
            &["0 Time -1000000", "1 Time 2000000"],
        );
        check_equal(vec![Arc::new(TimestampNanosecondArray::from(vec![1]))], &["0 FineTime 1"]);
        check_equal(vec![Arc::new(Date32Array::from(vec![Some(-3)]))], &["0 Date -3"]);
        assert!(shown(Arc::new(TimestampSecondArray::from(vec![i64::MAX])))[0].contains("Other"));
    }

    #[test]
    fn texts_are_one_kind_whatever_their_layout() {
        let dictionary: DictionaryArray<Int32Type> = ["b", "", "b"].into_iter().collect();
        check_equal(
            vec![
                Arc::new(StringArray::from(vec!["b", "", "b"])),
                Arc::new(LargeStringArray::from(vec!["b", "", "b"])),
                Arc::new(StringViewArray::from(vec!["b", "", "b"])),
                Arc::new(dictionary),
            ],
            &["0 Text [98]", "1 Text []", "2 Text [98]"],
        );
        check_equal(vec![Arc::new(BinaryArray::from(vec![b"b".as_slice()]))], &["0 Bytes [98]"]);
        check_equal(
            vec![Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))],
            &["0 Boolean 1", "2 Boolean 0"],
        );
    }

    #[test]
    fn other_types_are_told_apart_and_nulls_are_no_values() {
        let lengths = shown(Arc::new(DurationSecondArray::from(vec![Some(5), None, Some(5), Some(6)])));
        assert_eq!(lengths.len(), 3);
        assert_eq!(lengths[0][1..], lengths[1][1..]);
        assert_ne!(lengths[1][1..], lengths[2][1..]);
        check_equal(vec![Arc::new(NullArray::new(3))], &[]);
    }
}
