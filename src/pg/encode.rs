//! Batches → rows of the wire, in text or binary.

use std::fmt::Write as _;

use arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, Float64Array, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::{BufMut as _, BytesMut};
use pgwire::api::Type;
use pgwire::api::portal::Format;
use pgwire::api::results::{FieldFormat, FieldInfo};
use pgwire::messages::data::DataRow;

use crate::sql::OutputField;
use crate::time::from_micros;

/// Microseconds from 1970 to 2000, where PostgreSQL's times begin.
const EPOCH: i64 = 946_684_800_000_000;
const MICROS_PER_DAY: i64 = 86_400_000_000;
/// Digits of a group of binary numerics.
const GROUP: usize = 4;

/// The type of a column on the wire.
pub(super) fn type_of(data_type: &DataType) -> Type {
    match data_type {
        DataType::Boolean => Type::BOOL,
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => Type::INT2,
        DataType::Int32 | DataType::UInt16 => Type::INT4,
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => Type::INT8,
        DataType::Float16 | DataType::Float32 => Type::FLOAT4,
        DataType::Float64 => Type::FLOAT8,
        data_type if data_type.is_decimal() => Type::NUMERIC,
        DataType::Timestamp(_, None) => Type::TIMESTAMP,
        DataType::Timestamp(_, Some(_)) => Type::TIMESTAMPTZ,
        DataType::Date32 | DataType::Date64 => Type::DATE,
        _ => Type::TEXT,
    }
}

/// The type of a parameter on the wire. Arrays are taken, and given as texts only.
pub(super) fn type_of_parameter(data_type: &DataType) -> Type {
    let DataType::List(item) = data_type else { return type_of(data_type) };
    match type_of(item.data_type()) {
        Type::BOOL => Type::BOOL_ARRAY,
        Type::INT2 => Type::INT2_ARRAY,
        Type::INT4 => Type::INT4_ARRAY,
        Type::INT8 => Type::INT8_ARRAY,
        Type::FLOAT4 => Type::FLOAT4_ARRAY,
        Type::FLOAT8 => Type::FLOAT8_ARRAY,
        Type::NUMERIC => Type::NUMERIC_ARRAY,
        Type::TIMESTAMP => Type::TIMESTAMP_ARRAY,
        Type::TIMESTAMPTZ => Type::TIMESTAMPTZ_ARRAY,
        Type::DATE => Type::DATE_ARRAY,
        _ => Type::TEXT_ARRAY,
    }
}

fn size_of(pg_type: &Type) -> i16 {
    match *pg_type {
        Type::BOOL => 1,
        Type::INT2 => 2,
        Type::INT4 | Type::FLOAT4 | Type::DATE => 4,
        Type::INT8 | Type::FLOAT8 | Type::TIMESTAMP | Type::TIMESTAMPTZ => 8,
        _ => -1,
    }
}

/// The description of columns.
pub(super) fn described(fields: &[OutputField], format: &Format) -> Vec<FieldInfo> {
    let info = |(at, field): (usize, &OutputField)| {
        let pg_type = type_of(&field.data_type);
        let size = size_of(&pg_type);
        FieldInfo::new(field.name.clone(), None, None, pg_type, format.format_for(at)).with_type_size(size)
    };
    fields.iter().enumerate().map(info).collect()
}

/// The values of a column.
enum Values {
    Bool(BooleanArray),
    Int(Int64Array),
    Float(Float64Array),
    /// Microseconds since 1970.
    Micros(Int64Array),
    Text(StringArray),
}

/// A column with the way its cells are written.
struct Column<'f> {
    field: &'f FieldInfo,
    values: Values,
}

impl<'f> Column<'f> {
    fn new(array: &ArrayRef, field: &'f FieldInfo) -> Result<Self, ArrowError> {
        let to = |data_type: DataType| cast(array, &data_type);
        let micros = || -> Result<Values, ArrowError> {
            let times = to(DataType::Timestamp(TimeUnit::Microsecond, None))?;
            Ok(Values::Micros(times.as_primitive::<TimestampMicrosecondType>().reinterpret_cast()))
        };
        let text = field.format() == FieldFormat::Text;
        let exact = array.data_type().is_decimal() || array.data_type().is_integer();
        let values = match *field.datatype() {
            Type::BOOL => Values::Bool(to(DataType::Boolean)?.as_boolean().clone()),
            Type::INT2 | Type::INT4 | Type::INT8 => Values::Int(to(DataType::Int64)?.as_primitive().clone()),
            // As exact as they came.
            Type::FLOAT4 | Type::FLOAT8 if text && exact => Values::Text(to(DataType::Utf8)?.as_string().clone()),
            Type::FLOAT4 | Type::FLOAT8 => Values::Float(to(DataType::Float64)?.as_primitive().clone()),
            Type::TIMESTAMP | Type::TIMESTAMPTZ | Type::DATE => micros()?,
            _ => Values::Text(texts(array)?),
        };
        Ok(Self { field, values })
    }

    fn is_null(&self, row: usize) -> bool {
        match &self.values {
            Values::Bool(array) => array.is_null(row),
            Values::Int(array) | Values::Micros(array) => array.is_null(row),
            Values::Float(array) => array.is_null(row),
            Values::Text(array) => array.is_null(row),
        }
    }

    /// Appends length and bytes.
    fn write(&self, out: &mut BytesMut, text: &mut String, row: usize) -> Result<(), ArrowError> {
        if self.is_null(row) {
            out.put_i32(-1);
            return Ok(());
        }
        let start = out.len();
        out.put_i32(0);
        if self.field.format() == FieldFormat::Binary {
            self.write_binary(out, row)?;
        } else {
            text.clear();
            self.write_text(text, row);
            out.put_slice(text.as_bytes());
        }
        let length = i32::try_from(out.len() - start - 4)
            .map_err(|_large| ArrowError::ComputeError("a value is too long for the protocol".to_owned()))?;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    fn write_text(&self, text: &mut String, row: usize) {
        // Writing to a text cannot fail.
        let _written = match &self.values {
            Values::Bool(array) => text.write_str(if array.value(row) { "t" } else { "f" }),
            Values::Int(array) => write!(text, "{}", array.value(row)),
            Values::Float(array) => match array.value(row) {
                value if value.is_nan() => text.write_str("NaN"),
                value if value.is_infinite() => text.write_str(if value > 0.0 { "Infinity" } else { "-Infinity" }),
                value => write!(text, "{value}"),
            },
            Values::Micros(array) => {
                let micros = array.value(row);
                let time = from_micros(micros);
                if *self.field.datatype() == Type::DATE {
                    write!(text, "{}", time.format("%Y-%m-%d"))
                } else {
                    let fraction = if micros.rem_euclid(1_000_000) == 0 { "" } else { "%.6f" };
                    let zone = if *self.field.datatype() == Type::TIMESTAMPTZ { "+00" } else { "" };
                    write!(text, "{}{zone}", time.format(&format!("%Y-%m-%d %H:%M:%S{fraction}")))
                }
            }
            Values::Text(array) => text.write_str(array.value(row)),
        };
    }

    fn write_binary(&self, out: &mut BytesMut, row: usize) -> Result<(), ArrowError> {
        let too_large = |_| ArrowError::ComputeError("numeric value out of range".to_owned());
        match &self.values {
            Values::Bool(array) => out.put_u8(array.value(row).into()),
            Values::Int(array) => match *self.field.datatype() {
                Type::INT2 => out.put_i16(array.value(row).try_into().map_err(too_large)?),
                Type::INT4 => out.put_i32(array.value(row).try_into().map_err(too_large)?),
                _ => out.put_i64(array.value(row)),
            },
            Values::Float(array) if *self.field.datatype() == Type::FLOAT4 => {
                #[expect(clippy::cast_possible_truncation, reason = "the column was told to be of that precision")]
                out.put_f32(array.value(row) as f32);
            }
            Values::Float(array) => out.put_f64(array.value(row)),
            Values::Micros(array) => {
                let since = array.value(row).saturating_sub(EPOCH);
                if *self.field.datatype() == Type::DATE {
                    out.put_i32(since.div_euclid(MICROS_PER_DAY).try_into().map_err(too_large)?);
                } else {
                    out.put_i64(since);
                }
            }
            Values::Text(array) if *self.field.datatype() == Type::NUMERIC => put_numeric(out, array.value(row)),
            Values::Text(array) => out.put_slice(array.value(row).as_bytes()),
        }
        Ok(())
    }
}

/// Any values as texts.
fn texts(array: &ArrayRef) -> Result<StringArray, ArrowError> {
    if let Ok(texts) = cast(array, &DataType::Utf8)
        && !matches!(array.data_type(), DataType::List(_) | DataType::Struct(_))
    {
        return Ok(texts.as_string().clone());
    }
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(array, &options)?;
    let text = |row| (!array.is_null(row)).then(|| formatter.value(row).to_string());
    Ok((0..array.len()).map(text).collect())
}

/// A number in digits as PostgreSQL's binary numeric: groups of four digits, the point after the first `weight + 1`.
fn put_numeric(out: &mut BytesMut, text: &str) {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole = whole.trim_start_matches('0');
    let digits = |text: String| -> Vec<u16> {
        let groups = text.as_bytes().chunks(GROUP);
        groups
            .map(|group| group.iter().fold(0, |value, digit| value * 10 + u16::from(digit.saturating_sub(b'0'))))
            .collect()
    };
    let padding = (GROUP - whole.len() % GROUP) % GROUP;
    let mut groups = digits("0".repeat(padding) + whole);
    let mut weight = i16::try_from(groups.len()).unwrap_or(i16::MAX) - 1;
    let padding = (GROUP - fraction.len() % GROUP) % GROUP;
    groups.extend(digits(fraction.to_owned() + &"0".repeat(padding)));
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let leading = groups.iter().take_while(|group| **group == 0).count();
    groups.drain(..leading);
    weight -= i16::try_from(leading).unwrap_or(0);
    out.put_u16(u16::try_from(groups.len()).unwrap_or(0));
    out.put_i16(if groups.is_empty() { 0 } else { weight });
    out.put_u16(if negative && !groups.is_empty() { 0x4000 } else { 0 });
    out.put_u16(u16::try_from(fraction.len()).unwrap_or(0));
    groups.into_iter().for_each(|group| out.put_u16(group));
}

/// The rows of a batch.
///
/// # Errors
/// A value does not fit the type of its column.
pub(super) fn rows(batch: &RecordBatch, fields: &[FieldInfo]) -> Result<Vec<DataRow>, ArrowError> {
    let columns: Vec<Column<'_>> =
        batch.columns().iter().zip(fields).map(|(array, field)| Column::new(array, field)).collect::<Result<_, _>>()?;
    let count = i16::try_from(columns.len())
        .map_err(|_many| ArrowError::ComputeError("there are too many columns for the protocol".to_owned()))?;
    let mut text = String::new();
    (0..batch.num_rows())
        .map(|row| {
            let mut data = BytesMut::with_capacity(columns.len() * 16);
            columns.iter().try_for_each(|column| column.write(&mut data, &mut text, row))?;
            Ok(DataRow::new(data, count))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Decimal128Array;

    use super::*;

    #[test]
    fn numerics_are_groups_of_four_digits() {
        let check = |text: &str, expected: &[u16]| {
            let mut out = BytesMut::new();
            put_numeric(&mut out, text);
            let given: Vec<u16> = out.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            assert_eq!(given, expected, "{text}");
        };
        check("0", &[0, 0, 0, 0]);
        check("0.00", &[0, 0, 0, 2]);
        check("12345.678", &[3, 1, 0, 3, 1, 2345, 6780]);
        check("-1.5", &[2, 0, 0x4000, 1, 1, 5000]);
        check("0.00012", &[2, u16::MAX, 0, 5, 1, 2000]);
        check("10000", &[1, 1, 0, 0, 1]);
    }

    #[test]
    fn decimals_keep_their_digits_in_text_and_become_floats_in_binary() {
        let array: ArrayRef =
            Arc::new(Decimal128Array::from(vec![Some(1050), None]).with_precision_and_scale(10, 2).expect("a scale"));
        let batch = RecordBatch::try_from_iter([("n", array)]).expect("a batch");
        let field = |format| vec![FieldInfo::new("n".to_owned(), None, None, Type::FLOAT8, format)];
        let text = rows(&batch, &field(FieldFormat::Text)).expect("rows");
        assert_eq!(&text[0].data[..], b"\x00\x00\x00\x0510.50");
        assert_eq!(&text[1].data[..], (-1_i32).to_be_bytes());
        let binary = rows(&batch, &field(FieldFormat::Binary)).expect("rows");
        assert_eq!(binary[0].data[4..], 10.5_f64.to_be_bytes());
    }
}
