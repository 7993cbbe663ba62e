//! Record batches → JSON rows, written straight into a byte buffer (`http-api.md` §5.13).
//!
//! A column's writer is chosen once a batch, not once a cell. Numbers become JSON strings, times
//! `YYYY-MM-DDTHH:mm:ss.SSS`, truth values JSON booleans.

use std::borrow::Cow;
use std::io::Write as _;

use arrow::array::{
    Array, AsArray, BooleanArray, Decimal128Array, Float64Array, Int64Array, LargeStringArray, PrimitiveArray,
    StringArray, StringViewArray, UInt64Array,
};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal128Type, Float32Type, Float64Type, Int8Type,
    Int16Type, Int32Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::query::request::ResponseFormat;
use crate::time::format_local;

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// A key of the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RowKey {
    /// `cube.member` or `cube.member.granularity`, or what rows of compared ranges and blends carry.
    pub(super) name: String,
    /// Where its values are.
    pub(super) values: Values,
    /// Whether its member is of type time: texts in a database's spelling of time are rewritten.
    pub(super) time: bool,
}

/// Where the values of a key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Values {
    /// In the column at this position of the batches.
    Column(usize),
    /// In every row this text.
    Same(String),
}

/// The rows cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("column {column} of the result cannot be written: {cause}")]
pub(super) struct RowError {
    /// The key.
    pub(super) column: String,
    /// Why.
    pub(super) cause: String,
}

/// Appends the value of `data`.
///
/// # Errors
/// A batch lacks a column, or has one of a type that has no text.
pub(super) fn write_data(
    out: &mut Vec<u8>,
    format: ResponseFormat,
    keys: &[RowKey],
    batches: &[RecordBatch],
) -> Result<(), RowError> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    match format {
        ResponseFormat::Default => write_objects(out, keys, batches, rows),
        ResponseFormat::Compact if rows == 0 => {
            out.extend_from_slice(br#"{"members":[],"dataset":[]}"#);
            Ok(())
        }
        ResponseFormat::Columnar if rows == 0 => {
            out.extend_from_slice(br#"{"members":[],"columns":[]}"#);
            Ok(())
        }
        ResponseFormat::Compact => write_dataset(out, keys, batches, rows),
        ResponseFormat::Columnar => write_columns(out, keys, batches),
    }
}

fn write_objects(out: &mut Vec<u8>, keys: &[RowKey], batches: &[RecordBatch], rows: usize) -> Result<(), RowError> {
    let prefixes: Vec<Vec<u8>> = keys
        .iter()
        .enumerate()
        .map(|(i, key)| {
            let mut prefix = vec![if i == 0 { b'{' } else { b',' }];
            write_text(&mut prefix, &key.name);
            prefix.push(b':');
            prefix
        })
        .collect();
    out.reserve(rows.saturating_mul(prefixes.iter().map(|p| p.len() + 16).sum()));
    out.push(b'[');
    let mut first = true;
    for batch in batches {
        let cells = cells(keys, batch)?;
        for row in 0..batch.num_rows() {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            for (prefix, cell) in prefixes.iter().zip(&cells) {
                out.extend_from_slice(prefix);
                cell.write(out, row);
            }
            out.extend_from_slice(if cells.is_empty() { b"{}" } else { b"}" });
        }
    }
    out.push(b']');
    Ok(())
}

fn write_members(out: &mut Vec<u8>, keys: &[RowKey]) {
    out.extend_from_slice(br#"{"members":["#);
    for (i, key) in keys.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_text(out, &key.name);
    }
    out.push(b']');
}

fn write_dataset(out: &mut Vec<u8>, keys: &[RowKey], batches: &[RecordBatch], rows: usize) -> Result<(), RowError> {
    out.reserve(rows.saturating_mul(keys.len() * 16));
    write_members(out, keys);
    out.extend_from_slice(br#","dataset":["#);
    let mut first = true;
    for batch in batches {
        let cells = cells(keys, batch)?;
        for row in 0..batch.num_rows() {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            out.push(b'[');
            for (i, cell) in cells.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                cell.write(out, row);
            }
            out.push(b']');
        }
    }
    out.extend_from_slice(b"]}");
    Ok(())
}

/// Appends the rows of a batch as an array of arrays.
///
/// # Errors
/// As [`write_data`].
pub(super) fn write_arrays(out: &mut Vec<u8>, keys: &[RowKey], batch: &RecordBatch) -> Result<(), RowError> {
    let cells = cells(keys, batch)?;
    out.push(b'[');
    for row in 0..batch.num_rows() {
        out.extend_from_slice(if row > 0 { b",[" } else { b"[" });
        for (i, cell) in cells.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            cell.write(out, row);
        }
        out.push(b']');
    }
    out.push(b']');
    Ok(())
}

fn write_columns(out: &mut Vec<u8>, keys: &[RowKey], batches: &[RecordBatch]) -> Result<(), RowError> {
    write_members(out, keys);
    out.extend_from_slice(br#","columns":["#);
    for (i, key) in keys.iter().enumerate() {
        out.extend_from_slice(if i > 0 { b",[" } else { b"[" });
        let mut first = true;
        for batch in batches {
            let cell = cell(key, batch)?;
            for row in 0..batch.num_rows() {
                if !std::mem::take(&mut first) {
                    out.push(b',');
                }
                cell.write(out, row);
            }
        }
        out.push(b']');
    }
    out.extend_from_slice(b"]}");
    Ok(())
}

/// The columns of the keys in a batch.
///
/// # Errors
/// As [`write_data`].
pub(super) fn cells<'a>(keys: &[RowKey], batch: &'a RecordBatch) -> Result<Vec<Cell<'a>>, RowError> {
    keys.iter().map(|key| cell(key, batch)).collect()
}

fn cell<'a>(key: &RowKey, batch: &'a RecordBatch) -> Result<Cell<'a>, RowError> {
    let error = |cause: String| RowError { column: key.name.clone(), cause };
    let column = match &key.values {
        Values::Column(column) => *column,
        Values::Same(text) => {
            let mut json = Vec::with_capacity(text.len() + 2);
            write_text(&mut json, text);
            return Ok(Cell::Same(json));
        }
    };
    let array = batch.columns().get(column).ok_or_else(|| error("the result lacks it".to_owned()))?;
    Cell::new(array.as_ref(), key.time).map_err(error)
}

/// A column with the way its cells are written.
pub(super) enum Cell<'a> {
    Null,
    /// The same JSON in every row.
    Same(Vec<u8>),
    Utf8(&'a StringArray),
    LargeUtf8(&'a LargeStringArray),
    Utf8View(&'a StringViewArray),
    /// Texts of a member of type time.
    TimeText(Box<Cell<'a>>),
    Boolean(&'a BooleanArray),
    Int64(&'a Int64Array),
    UInt64(&'a UInt64Array),
    Float64(&'a Float64Array),
    Decimal(&'a Decimal128Array, i8),
    /// Narrow types, looked up through a function.
    Signed(&'a dyn Array, fn(&dyn Array, usize) -> i64),
    Float32(&'a PrimitiveArray<Float32Type>),
    /// Times, as microseconds since 1970.
    Time(&'a dyn Array, fn(&dyn Array, usize) -> i64),
    Dictionary(&'a dyn Array, Vec<usize>, Box<Cell<'a>>),
    Other(ArrayFormatter<'a>, &'a dyn Array),
}

/// The value of a primitive array as a 64-bit integer.
fn wide<T: ArrowPrimitiveType<Native: Into<i64>>>(array: &dyn Array, row: usize) -> i64 {
    array.as_primitive::<T>().value(row).into()
}

impl<'a> Cell<'a> {
    fn new(array: &'a dyn Array, time: bool) -> Result<Self, String> {
        let text = |cell: Self| if time { Self::TimeText(Box::new(cell)) } else { cell };
        Ok(match array.data_type() {
            DataType::Null => Self::Null,
            DataType::Utf8 => text(Self::Utf8(array.as_string())),
            DataType::LargeUtf8 => text(Self::LargeUtf8(array.as_string())),
            DataType::Utf8View => text(Self::Utf8View(array.as_string_view())),
            DataType::Boolean => Self::Boolean(array.as_boolean()),
            DataType::Int64 => Self::Int64(array.as_primitive()),
            DataType::UInt64 => Self::UInt64(array.as_primitive()),
            DataType::Int32 => Self::Signed(array, wide::<Int32Type>),
            DataType::Int16 => Self::Signed(array, wide::<Int16Type>),
            DataType::Int8 => Self::Signed(array, wide::<Int8Type>),
            DataType::UInt32 => Self::Signed(array, wide::<UInt32Type>),
            DataType::UInt16 => Self::Signed(array, wide::<UInt16Type>),
            DataType::UInt8 => Self::Signed(array, wide::<UInt8Type>),
            DataType::Float64 => Self::Float64(array.as_primitive::<Float64Type>()),
            DataType::Float32 => Self::Float32(array.as_primitive()),
            DataType::Decimal128(_, scale) => Self::Decimal(array.as_primitive::<Decimal128Type>(), *scale),
            DataType::Timestamp(unit, _) => Self::Time(array, timestamp_reader(*unit)),
            DataType::Date32 => {
                Self::Time(array, |array, row| wide::<Date32Type>(array, row).saturating_mul(MICROS_PER_DAY))
            }
            DataType::Date64 => Self::Time(array, |array, row| wide::<Date64Type>(array, row).saturating_mul(1000)),
            DataType::Dictionary(..) => Self::dictionary(array, time)?,
            _ => {
                let options = FormatOptions::default();
                // The options are constants; only the array is borrowed.
                let formatter = ArrayFormatter::try_new(array, &options).map_err(|error| error.to_string())?;
                Self::Other(formatter, array)
            }
        })
    }

    fn dictionary(array: &'a dyn Array, time: bool) -> Result<Self, String> {
        let dictionary = array.as_any_dictionary();
        if dictionary.values().is_empty() {
            return Ok(Self::Null);
        }
        let values = Self::new(dictionary.values().as_ref(), time)?;
        Ok(Self::Dictionary(array, dictionary.normalized_keys(), Box::new(values)))
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Null => true,
            Self::Same(_) => false,
            Self::Utf8(array) => array.is_null(row),
            Self::LargeUtf8(array) => array.is_null(row),
            Self::Utf8View(array) => array.is_null(row),
            Self::TimeText(cell) => cell.is_null(row),
            Self::Boolean(array) => array.is_null(row),
            Self::Int64(array) => array.is_null(row),
            Self::UInt64(array) => array.is_null(row),
            Self::Float64(array) => array.is_null(row),
            Self::Float32(array) => array.is_null(row),
            Self::Decimal(array, _) => array.is_null(row),
            Self::Signed(array, _) | Self::Time(array, _) | Self::Dictionary(array, ..) | Self::Other(_, array) => {
                array.is_null(row)
            }
        }
    }

    fn text(&self, row: usize) -> Option<&str> {
        match self {
            Self::Utf8(array) => Some(array.value(row)),
            Self::LargeUtf8(array) => Some(array.value(row)),
            Self::Utf8View(array) => Some(array.value(row)),
            _ => None,
        }
    }

    /// The text of a cell, without quotes and escapes; none for NULL.
    pub(super) fn plain(&self, row: usize) -> Option<Cow<'_, str>> {
        if self.is_null(row) {
            return None;
        }
        match self {
            Self::Utf8(_) | Self::LargeUtf8(_) | Self::Utf8View(_) => self.text(row).map(Cow::Borrowed),
            Self::TimeText(cell) => {
                let text = cell.text(row).unwrap_or_default();
                Some(time_text(text).map_or(Cow::Borrowed(text), Cow::Owned))
            }
            Self::Dictionary(_, keys, values) => values.plain(keys[row]),
            Self::Other(formatter, _) => Some(formatter.value(row).to_string().into()),
            Self::Same(json) => serde_json::from_slice::<String>(json).ok().map(Cow::Owned),
            // What they write holds nothing to be escaped.
            Self::Null
            | Self::Boolean(_)
            | Self::Int64(_)
            | Self::UInt64(_)
            | Self::Signed(..)
            | Self::Float64(_)
            | Self::Float32(_)
            | Self::Decimal(..)
            | Self::Time(..) => {
                let mut json = Vec::with_capacity(32);
                self.write(&mut json, row);
                Some(String::from_utf8_lossy(&json).trim_matches('"').to_owned().into())
            }
        }
    }

    /// Appends a cell as JSON.
    pub(super) fn write(&self, out: &mut Vec<u8>, row: usize) {
        if self.is_null(row) {
            out.extend_from_slice(b"null");
            return;
        }
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Same(json) => out.extend_from_slice(json),
            Self::Utf8(_) | Self::LargeUtf8(_) | Self::Utf8View(_) => {
                write_text(out, self.text(row).unwrap_or_default());
            }
            Self::TimeText(cell) => {
                let text = cell.text(row).unwrap_or_default();
                match time_text(text) {
                    Some(time) => write_text(out, &time),
                    None => write_text(out, text),
                }
            }
            Self::Boolean(array) => out.extend_from_slice(if array.value(row) { b"true" } else { b"false" }),
            Self::Int64(array) => write_integer(out, array.value(row)),
            Self::UInt64(array) => write_integer(out, array.value(row)),
            Self::Signed(array, read) => write_integer(out, read(*array, row)),
            Self::Float64(array) => write_float(out, array.value(row)),
            Self::Float32(array) => {
                // Through its own shortest text: 0.1_f32 is "0.1", not "0.10000000149011612".
                let value = array.value(row);
                write_float(out, format!("{value}").parse().unwrap_or(f64::from(value)));
            }
            Self::Decimal(array, scale) => write_decimal(out, array.value(row), *scale),
            Self::Time(array, read) => write_time(out, read(*array, row)),
            Self::Dictionary(_, keys, values) => values.write(out, keys[row]),
            Self::Other(formatter, _) => write_text(out, &formatter.value(row).to_string()),
        }
    }
}

fn timestamp_reader(unit: TimeUnit) -> fn(&dyn Array, usize) -> i64 {
    match unit {
        TimeUnit::Second => |array, row| wide::<TimestampSecondType>(array, row).saturating_mul(1_000_000),
        TimeUnit::Millisecond => |array, row| wide::<TimestampMillisecondType>(array, row).saturating_mul(1000),
        TimeUnit::Microsecond => wide::<TimestampMicrosecondType>,
        TimeUnit::Nanosecond => |array, row| wide::<TimestampNanosecondType>(array, row).div_euclid(1000),
    }
}

/// Appends a JSON string.
pub(super) fn write_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut written = 0;
    for (i, byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0x00..=0x1f => b"",
            _ => continue,
        };
        out.extend_from_slice(&bytes[written..i]);
        if escape.is_empty() {
            write!(out, "\\u{byte:04x}").expect("writing to memory does not fail");
        } else {
            out.extend_from_slice(escape);
        }
        written = i + 1;
    }
    out.extend_from_slice(&bytes[written..]);
    out.push(b'"');
}

fn write_integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.push(b'"');
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    out.push(b'"');
}

/// The shortest text that reads back as the same float; never with an exponent.
fn write_float(out: &mut Vec<u8>, value: f64) {
    let value = if value == 0.0 { 0.0 } else { value };
    let text = |out: &mut Vec<u8>, text: &[u8]| out.extend_from_slice(text);
    if value.is_nan() {
        text(out, b"\"NaN\"");
    } else if value.is_infinite() {
        text(out, if value > 0.0 { b"\"Infinity\"" } else { b"\"-Infinity\"" });
    } else {
        write!(out, "\"{value}\"").expect("writing to memory does not fail");
    }
}

/// Exact, with all digits of its scale.
fn write_decimal(out: &mut Vec<u8>, value: i128, scale: i8) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value.unsigned_abs()).as_bytes();
    out.extend_from_slice(if value < 0 { b"\"-" } else { b"\"" });
    let places = usize::from(scale.unsigned_abs());
    if scale <= 0 {
        out.extend_from_slice(digits);
        if value != 0 {
            out.resize(out.len() + places, b'0');
        }
    } else if digits.len() > places {
        let (whole, fraction) = digits.split_at(digits.len() - places);
        out.extend_from_slice(whole);
        out.push(b'.');
        out.extend_from_slice(fraction);
    } else {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + places - digits.len(), b'0');
        out.extend_from_slice(digits);
    }
    out.push(b'"');
}

/// `"YYYY-MM-DDTHH:mm:ss.SSS"`; digits after milliseconds are cut.
fn write_time(out: &mut Vec<u8>, micros: i64) {
    let days = micros.div_euclid(MICROS_PER_DAY);
    let (year, month, day) = civil(days);
    if !(0..=9999).contains(&year) {
        write_text(out, &format_local(micros));
        return;
    }
    let milliseconds = micros.rem_euclid(MICROS_PER_DAY) / 1000;
    let seconds = milliseconds / 1000;
    let mut text = *b"\"0000-00-00T00:00:00.000\"";
    let mut put = |at: usize, width: usize, mut value: i64| {
        for digit in text[at..at + width].iter_mut().rev() {
            // A remainder of 10 fits.
            *digit = b'0' + u8::try_from(value.rem_euclid(10)).unwrap_or(0);
            value /= 10;
        }
    };
    put(1, 4, year);
    put(6, 2, month);
    put(9, 2, day);
    put(12, 2, seconds / 3600);
    put(15, 2, seconds / 60 % 60);
    put(18, 2, seconds % 60);
    put(21, 3, milliseconds % 1000);
    out.extend_from_slice(&text);
}

/// Days since 1970-01-01 → year, month, day of the Gregorian calendar. Howard Hinnant's
/// `civil_from_days` (<https://howardhinnant.github.io/date_algorithms.html>).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The wire form of a database's spelling of a time: `YYYY-MM-DD[ T]HH:MM:SS[.f…]` with or without
/// offset; the wall clock as written is kept. None for any other text.
fn time_text(text: &str) -> Option<String> {
    let shape = b"dddd-dd-dd?dd:dd:dd";
    let bytes = text.as_bytes();
    let matches = bytes.len() >= shape.len()
        && shape.iter().zip(bytes).all(|(shape, byte)| match shape {
            b'd' => byte.is_ascii_digit(),
            b'?' => matches!(byte, b' ' | b'T'),
            _ => byte == shape,
        });
    if !matches {
        return None;
    }
    let (head, rest) = text.split_at(shape.len());
    let fraction = rest.strip_prefix('.').unwrap_or_default();
    let digits: String = fraction.chars().take_while(char::is_ascii_digit).take(3).collect();
    let suffix = rest.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit()).trim();
    let zone = suffix.is_empty() || suffix == "Z" || suffix == "UTC" || suffix.starts_with(['+', '-']);
    zone.then(|| format!("{}T{}.{digits:0<3}", &head[..10], &head[11..]))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, Date32Array, DictionaryArray, Float32Array, Int32Array, TimestampMicrosecondArray,
        TimestampNanosecondArray,
    };

    use super::*;

    fn write(format: ResponseFormat, arrays: Vec<(&str, ArrayRef)>, time: bool) -> String {
        let keys: Vec<RowKey> = arrays
            .iter()
            .enumerate()
            .map(|(column, (name, _))| RowKey { name: (*name).to_owned(), values: Values::Column(column), time })
            .collect();
        let batch = RecordBatch::try_from_iter(arrays).expect("equal lengths");
        let mut out = Vec::new();
        write_data(&mut out, format, &keys, &[batch]).expect("writable");
        String::from_utf8(out).expect("text")
    }

    #[track_caller]
    fn check(array: impl Array + 'static, expected: &str) {
        let json = write(ResponseFormat::Columnar, vec![("x", Arc::new(array))], false);
        assert_eq!(json, format!(r#"{{"members":["x"],"columns":[[{expected}]]}}"#));
    }

    #[test]
    fn numbers_are_exact_strings() {
        check(Int64Array::from(vec![Some(9_007_199_254_740_993), None, Some(-1)]), r#""9007199254740993",null,"-1""#);
        check(UInt64Array::from(vec![u64::MAX]), r#""18446744073709551615""#);
        check(Int32Array::from(vec![7]), r#""7""#);
        check(
            Float64Array::from(vec![1.0, 0.1, 1e21, 1e-7, -0.0]),
            r#""1","0.1","1000000000000000000000","0.0000001","0""#,
        );
        check(Float64Array::from(vec![f64::NAN, f64::NEG_INFINITY]), r#""NaN","-Infinity""#);
        check(Float32Array::from(vec![0.1_f32]), r#""0.1""#);
    }

    #[track_caller]
    fn check_decimal(value: i128, scale: i8, expected: &str) {
        let mut out = Vec::new();
        write_decimal(&mut out, value, scale);
        assert_eq!(String::from_utf8(out).expect("text"), format!("\"{expected}\""));
    }

    #[test]
    fn decimals_keep_all_digits_of_their_scale() {
        check_decimal(250, 2, "2.50");
        check_decimal(-5, 2, "-0.05");
        check_decimal(0, 2, "0.00");
        check_decimal(7, 0, "7");
        check_decimal(7, -2, "700");
        check_decimal(i128::MIN, 38, "-1.70141183460469231731687303715884105728");
    }

    #[test]
    fn times_are_local_with_milliseconds() {
        let day = 86_400_000_000;
        check(
            TimestampMicrosecondArray::from(vec![Some(0), Some(-1), Some(19_782 * day + 3_600_000_999), None]),
            r#""1970-01-01T00:00:00.000","1969-12-31T23:59:59.999","2024-02-29T01:00:00.000",null"#,
        );
        check(TimestampNanosecondArray::from(vec![-1]), r#""1969-12-31T23:59:59.999""#);
        check(Date32Array::from(vec![19_782, -719_468]), r#""2024-02-29T00:00:00.000","0000-03-01T00:00:00.000""#);
        check(BooleanArray::from(vec![Some(true), Some(false), None]), "true,false,null");
    }

    #[test]
    fn civil_dates_agree_with_chrono() {
        for days in (-700_000..2_900_000).step_by(97) {
            let mut out = Vec::new();
            write_time(&mut out, days * MICROS_PER_DAY);
            assert_eq!(String::from_utf8(out).expect("text"), format!("\"{}\"", format_local(days * MICROS_PER_DAY)));
        }
    }

    #[test]
    fn texts_are_escaped() {
        check(StringArray::from(vec![Some("a\"b\\c\n\u{1}ü😀"), None]), r#""a\"b\\c\n\u0001ü😀",null"#);
        check(LargeStringArray::from(vec!["x"]), r#""x""#);
        check(
            StringViewArray::from(vec!["a text that is longer than a view"]),
            r#""a text that is longer than a view""#,
        );
    }

    #[test]
    fn dictionaries_show_their_values() {
        let array: DictionaryArray<Int32Type> = vec![Some("a"), None, Some("b"), Some("a")].into_iter().collect();
        check(array, r#""a",null,"b","a""#);
        let empty: DictionaryArray<Int32Type> = vec![None::<&str>].into_iter().collect();
        check(empty, "null");
    }

    #[track_caller]
    fn check_time_text(text: &str, expected: &str) {
        let json = write(ResponseFormat::Columnar, vec![("x", Arc::new(StringArray::from(vec![text])))], true);
        assert_eq!(json, format!(r#"{{"members":["x"],"columns":[["{expected}"]]}}"#));
    }

    #[test]
    fn database_spellings_of_time_are_rewritten() {
        check_time_text("2024-01-02 03:04:05", "2024-01-02T03:04:05.000");
        check_time_text("2024-01-02 03:04:05.1239 UTC", "2024-01-02T03:04:05.123");
        check_time_text("2024-01-02T03:04:05+02:00", "2024-01-02T03:04:05.000");
        check_time_text("2024-01-02", "2024-01-02");
        check_time_text("noon", "noon");
    }

    #[test]
    fn formats_differ_in_shape_only() {
        let arrays = || -> Vec<(&str, ArrayRef)> {
            vec![("a.s", Arc::new(StringArray::from(vec!["x", "y"]))), ("a.n", Arc::new(Int64Array::from(vec![1, 2])))]
        };
        let run = |format| write(format, arrays(), false);
        assert_eq!(run(ResponseFormat::Default), r#"[{"a.s":"x","a.n":"1"},{"a.s":"y","a.n":"2"}]"#);
        assert_eq!(run(ResponseFormat::Compact), r#"{"members":["a.s","a.n"],"dataset":[["x","1"],["y","2"]]}"#);
        assert_eq!(run(ResponseFormat::Columnar), r#"{"members":["a.s","a.n"],"columns":[["x","y"],["1","2"]]}"#);
    }

    #[test]
    fn empty_results_have_no_members() {
        let run = |format| {
            let mut out = Vec::new();
            write_data(&mut out, format, &[RowKey { name: "x".into(), values: Values::Column(0), time: false }], &[])
                .expect("writable");
            String::from_utf8(out).expect("text")
        };
        assert_eq!(run(ResponseFormat::Default), "[]");
        assert_eq!(run(ResponseFormat::Compact), r#"{"members":[],"dataset":[]}"#);
        assert_eq!(run(ResponseFormat::Columnar), r#"{"members":[],"columns":[]}"#);
    }

    #[test]
    fn every_row_carries_a_text_that_is_the_same() {
        let batch =
            RecordBatch::try_from_iter([("x", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef)]).expect("a batch");
        let keys = [
            RowKey { name: "x".into(), values: Values::Column(0), time: false },
            RowKey { name: "same".into(), values: Values::Same("a \"b\"".into()), time: false },
        ];
        let run = |format| {
            let mut out = Vec::new();
            write_data(&mut out, format, &keys, &[batch.clone(), batch.slice(1, 1)]).expect("writable");
            String::from_utf8(out).expect("text")
        };
        let rows = r#"[{"x":"1","same":"a \"b\""},{"x":"2","same":"a \"b\""},{"x":"2","same":"a \"b\""}]"#;
        assert_eq!(run(ResponseFormat::Default), rows);
        let dataset = r#"{"members":["x","same"],"dataset":[["1","a \"b\""],["2","a \"b\""],["2","a \"b\""]]}"#;
        assert_eq!(run(ResponseFormat::Compact), dataset);
        let columns = r#"{"members":["x","same"],"columns":[["1","2","2"],["a \"b\"","a \"b\"","a \"b\""]]}"#;
        assert_eq!(run(ResponseFormat::Columnar), columns);
    }

    #[test]
    fn missing_columns_are_errors() {
        let batch =
            RecordBatch::try_from_iter([("x", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).expect("a batch");
        let key = RowKey { name: "a.b".into(), values: Values::Column(1), time: false };
        let error = write_data(&mut Vec::new(), ResponseFormat::Default, &[key], &[batch]).expect_err("no column");
        assert_eq!(error.to_string(), "column a.b of the result cannot be written: the result lacks it");
    }
}
