//! `utc_time(x)`: any time value as a UTC timestamp without zone.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, TimestampMicrosecondArray, new_null_array};
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{
    DataType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use chrono::Utc;
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, internal_err, plan_err};
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility, cast as cast_expr,
};

/// The scalar function.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct UtcTime {
    signature: Signature,
}

impl UtcTime {
    pub(super) fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

const MICROSECONDS: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

/// The type of `utc_time` of a value of `data_type`.
///
/// # Errors
/// The type holds no times.
pub(super) fn utc_type(data_type: &DataType) -> Result<DataType> {
    match data_type {
        DataType::Timestamp(unit, _) => Ok(DataType::Timestamp(*unit, None)),
        DataType::Date32
        | DataType::Date64
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Null => Ok(MICROSECONDS),
        DataType::Dictionary(_, value) => utc_type(value),
        other => plan_err!("a value of type {other} is not a time"),
    }
}

/// The UTC instants of a column of time values, without zone.
///
/// # Errors
/// A string is no time, or a date is out of range.
pub(super) fn utc_array(array: &ArrayRef) -> Result<ArrayRef> {
    match array.data_type() {
        DataType::Timestamp(_, None) => Ok(Arc::clone(array)),
        DataType::Timestamp(unit, Some(_)) => Ok(without_zone(array, *unit)),
        DataType::Date32 | DataType::Date64 => {
            let strict = CastOptions { safe: false, ..CastOptions::default() };
            Ok(cast_with_options(array, &MICROSECONDS, &strict)?)
        }
        DataType::Utf8 => parse_all(array.as_string::<i32>().iter()),
        DataType::LargeUtf8 => parse_all(array.as_string::<i64>().iter()),
        DataType::Utf8View => parse_all(array.as_string_view().iter()),
        DataType::Dictionary(_, value) => utc_array(&cast(array, value)?),
        DataType::Null => Ok(new_null_array(&MICROSECONDS, array.len())),
        other => internal_err!("a value of type {other} is not a time"),
    }
}

/// The same instants. A cast would turn them into wall clock of the zone.
fn without_zone(array: &ArrayRef, unit: TimeUnit) -> ArrayRef {
    match unit {
        TimeUnit::Second => {
            Arc::new(array.as_primitive::<TimestampSecondType>().clone().with_timezone_opt(None::<&str>))
        }
        TimeUnit::Millisecond => {
            Arc::new(array.as_primitive::<TimestampMillisecondType>().clone().with_timezone_opt(None::<&str>))
        }
        TimeUnit::Microsecond => {
            Arc::new(array.as_primitive::<TimestampMicrosecondType>().clone().with_timezone_opt(None::<&str>))
        }
        TimeUnit::Nanosecond => {
            Arc::new(array.as_primitive::<TimestampNanosecondType>().clone().with_timezone_opt(None::<&str>))
        }
    }
}

fn parse_all<'a>(texts: impl Iterator<Item = Option<&'a str>>) -> Result<ArrayRef> {
    let times: TimestampMicrosecondArray = texts.map(|text| text.map(parse).transpose()).collect::<Result<_>>()?;
    Ok(Arc::new(times))
}

/// Reads the ISO forms, with an optional offset from UTC.
fn parse(text: &str) -> Result<i64> {
    let trimmed = text.trim();
    let time = string_to_datetime(&Utc, trimmed).or_else(|error| match with_seconds(trimmed) {
        Some(longer) => string_to_datetime(&Utc, &longer),
        None => Err(error),
    });
    match time {
        Ok(time) => Ok(time.timestamp_micros()),
        Err(_) => Err(exec_datafusion_err!("invalid input syntax for type timestamp: \"{text}\"")),
    }
}

/// `2024-01-02 03:04`, maybe followed by an offset, with the seconds that Arrow's parser insists on.
fn with_seconds(text: &str) -> Option<String> {
    let (minutes, rest) = text.split_at_checked("2024-01-02 03:04".len())?;
    (!rest.starts_with(':')).then(|| format!("{minutes}:00{rest}"))
}

/// Applies an array function to an argument; a scalar stays a scalar.
pub(super) fn map_value(
    value: &ColumnarValue,
    function: impl FnOnce(&ArrayRef) -> Result<ArrayRef>,
) -> Result<ColumnarValue> {
    match value {
        ColumnarValue::Array(array) => Ok(ColumnarValue::Array(function(array)?)),
        ColumnarValue::Scalar(scalar) => {
            let array = function(&scalar.to_array_of_size(1)?)?;
            Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?))
        }
    }
}

impl ScalarUDFImpl for UtcTime {
    fn name(&self) -> &'static str {
        "utc_time"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types {
            [arg] => utc_type(arg),
            _ => plan_err!("utc_time takes one argument, {} were given", arg_types.len()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [value] => map_value(value, utc_array),
            _ => internal_err!("utc_time takes one argument"),
        }
    }

    /// Removes the call where it changes nothing, so that the column alone is compared and statistics of
    /// files can rule them out.
    fn simplify(&self, mut args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let simplified = match args.as_slice() {
            [arg] => match info.get_data_type(arg)? {
                DataType::Timestamp(_, None) => args.pop(),
                DataType::Date32 => args.pop().map(|arg| cast_expr(arg, MICROSECONDS)),
                _ => None,
            },
            _ => None,
        };
        Ok(simplified.map_or_else(|| ExprSimplifyResult::Original(args), ExprSimplifyResult::Simplified))
    }

    /// `utc_time(x) = t` for an `x` with zone holds exactly where `x` is that instant, so comparisons move to
    /// the bare column here too.
    fn preimage(&self, args: &[Expr], lit_expr: &Expr, info: &SimplifyContext) -> Result<PreimageResult> {
        let ([arg], Expr::Literal(literal, _)) = (args, lit_expr) else { return Ok(PreimageResult::None) };
        let DataType::Timestamp(_, zone @ Some(_)) = info.get_data_type(arg)? else { return Ok(PreimageResult::None) };
        let bounds = |value: &Option<i64>| value.and_then(|value| Some((value, value.checked_add(1)?)));
        let (lower, upper) = match literal {
            ScalarValue::TimestampSecond(value, None) => match bounds(value) {
                Some((a, b)) => {
                    (ScalarValue::TimestampSecond(Some(a), zone.clone()), ScalarValue::TimestampSecond(Some(b), zone))
                }
                None => return Ok(PreimageResult::None),
            },
            ScalarValue::TimestampMillisecond(value, None) => match bounds(value) {
                Some((a, b)) => (
                    ScalarValue::TimestampMillisecond(Some(a), zone.clone()),
                    ScalarValue::TimestampMillisecond(Some(b), zone),
                ),
                None => return Ok(PreimageResult::None),
            },
            ScalarValue::TimestampMicrosecond(value, None) => match bounds(value) {
                Some((a, b)) => (
                    ScalarValue::TimestampMicrosecond(Some(a), zone.clone()),
                    ScalarValue::TimestampMicrosecond(Some(b), zone),
                ),
                None => return Ok(PreimageResult::None),
            },
            ScalarValue::TimestampNanosecond(value, None) => match bounds(value) {
                Some((a, b)) => (
                    ScalarValue::TimestampNanosecond(Some(a), zone.clone()),
                    ScalarValue::TimestampNanosecond(Some(b), zone),
                ),
                None => return Ok(PreimageResult::None),
            },
            _ => return Ok(PreimageResult::None),
        };
        if info.get_data_type(arg)? != lower.data_type() {
            return Ok(PreimageResult::None);
        }
        Ok(PreimageResult::Range { expr: arg.clone(), interval: Box::new(Interval::try_new(lower, upper)?) })
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, DictionaryArray, RecordBatch, StringArray, TimestampSecondArray};
    use arrow::datatypes::Int32Type;
    use datafusion::datasource::MemTable;

    use super::*;
    use crate::engine::EngineError;
    use crate::engine::partition_table::single_table_catalog;
    use crate::engine::testing::{engine, rows};

    fn run(x: ArrayRef, sql: &str) -> Result<Vec<String>, EngineError> {
        let batch = RecordBatch::try_from_iter(vec![("x", x)]).unwrap();
        let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap();
        let catalog = single_table_catalog("t", Arc::new(table));
        tokio::runtime::Runtime::new().unwrap().block_on(rows(&engine(), sql, catalog))
    }

    #[track_caller]
    fn check(x: ArrayRef, expected: &[&str]) {
        let found = run(x, "SELECT utc_time(x) FROM t");
        assert_eq!(found, Ok(expected.iter().map(|row| (*row).to_owned()).collect()));
    }

    fn texts(texts: &[Option<&str>]) -> ArrayRef {
        Arc::new(StringArray::from(texts.to_vec()))
    }

    #[test]
    fn every_time_type_becomes_utc() {
        let seconds = || TimestampSecondArray::from(vec![Some(1_704_067_200), None, Some(-1)]);
        let expected = ["2024-01-01T00:00:00", "NULL", "1969-12-31T23:59:59"];
        check(Arc::new(seconds()), &expected);
        check(Arc::new(seconds().with_timezone("Asia/Tokyo")), &expected);
        check(Arc::new(seconds().with_timezone("-05:30")), &expected);
        check(
            Arc::new(Date32Array::from(vec![Some(0), None, Some(-1)])),
            &["1970-01-01T00:00:00", "NULL", "1969-12-31T00:00:00"],
        );
        let words: DictionaryArray<Int32Type> = vec![Some("2024-01-01"), None].into_iter().collect();
        check(Arc::new(words), &["2024-01-01T00:00:00", "NULL"]);
    }

    #[test]
    fn strings_are_read_with_and_without_offset() {
        check(
            texts(&[
                Some("2024-01-02"),
                Some("2024-01-02 03:04"),
                Some("2024-01-02T03:04Z"),
                Some("2024-01-02T03:04:05"),
                Some(" 2024-01-02T03:04:05.678901 "),
                Some("2024-01-02T03:04:05Z"),
                Some("2024-01-02T03:04:05+02:00"),
                Some("2024-01-02 03:04:05.5-0130"),
                None,
            ]),
            &[
                "2024-01-02T00:00:00",
                "2024-01-02T03:04:00",
                "2024-01-02T03:04:00",
                "2024-01-02T03:04:05",
                "2024-01-02T03:04:05.678901",
                "2024-01-02T03:04:05",
                "2024-01-02T01:04:05",
                "2024-01-02T04:34:05.500",
                "NULL",
            ],
        );
        let error = |text: &str| EngineError::Execution(format!("invalid input syntax for type timestamp: \"{text}\""));
        for text in ["", "yesterday", "2024-13-01", "2024-02-30T00:00:00"] {
            assert_eq!(run(texts(&[Some(text)]), "SELECT utc_time(x) FROM t"), Err(error(text)));
        }
        let numbers: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![1]));
        assert_eq!(
            run(numbers, "SELECT utc_time(x) FROM t"),
            Err(EngineError::Plan("a value of type Int64 is not a time".into()))
        );
    }

    #[test]
    fn comparisons_reach_the_bare_column() {
        let plan = |x: ArrayRef| {
            let sql = "EXPLAIN FORMAT INDENT SELECT * FROM t WHERE utc_time(x) >= TIMESTAMP '2024-01-01 00:00:00'";
            run(x, sql).unwrap().join("\n")
        };
        let seconds = TimestampSecondArray::from(vec![1]);
        assert!(!plan(Arc::new(seconds.clone())).contains("utc_time"));
        let micros = TimestampMicrosecondArray::from(vec![1]).with_timezone("UTC");
        assert!(!plan(Arc::new(micros)).contains("utc_time"));
        assert!(!plan(Arc::new(Date32Array::from(vec![1]))).contains("utc_time"));
        let zoned: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![0, 10, 20]).with_timezone("Asia/Tokyo"));
        for (condition, expected) in [("= ", 1), ("< ", 1), ("<= ", 2), ("> ", 1), (">= ", 2), ("<> ", 2)] {
            let sql = format!("SELECT x FROM t WHERE utc_time(x) {condition} TIMESTAMP '1970-01-01 00:00:00.00001'");
            assert_eq!(run(Arc::clone(&zoned), &sql).unwrap().len(), expected, "{condition}");
        }
    }
}
