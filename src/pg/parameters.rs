//! Parameters of prepared statements → constants.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::scalar::ScalarValue;
use pgwire::api::Type;
use pgwire::error::{PgWireError, PgWireResult};

use super::encode::type_of;
use super::fault::fault;
use crate::sql::items;

/// Microseconds from 1970 to 2000.
const EPOCH: i64 = 946_684_800_000_000;
/// Days from 1970 to 2000.
const EPOCH_DAYS: i32 = 10_957;

/// The constant that a parameter is. `known` is its type as the statement uses it.
///
/// # Errors
/// The bytes are no value of the type.
pub(super) fn constant(
    bytes: Option<&[u8]>,
    binary: bool,
    given: &Type,
    known: Option<&DataType>,
) -> PgWireResult<ScalarValue> {
    if let Some(DataType::List(item)) = known {
        let items = match bytes {
            None => return ScalarValue::try_from(DataType::List(Arc::clone(item))).map_err(unexpected),
            Some(bytes) if binary => of_binary_array(bytes, item.data_type())?,
            Some(bytes) => of_text_array(bytes, item.data_type())?,
        };
        return Ok(ScalarValue::List(ScalarValue::new_list(&items, item.data_type(), true)));
    }
    let value = match bytes {
        None => ScalarValue::Null,
        Some(bytes) if binary => of_binary(bytes, given)?,
        Some(bytes) => of_text(bytes, given)?,
    };
    fitted(value, known)
}

/// A value as the statement uses it.
fn fitted(value: ScalarValue, known: Option<&DataType>) -> PgWireResult<ScalarValue> {
    let Some(known) = known.filter(|known| **known != DataType::Null) else { return Ok(value) };
    let value = match (value, known) {
        // PostgreSQL does not look at the zone of a text that is to be a time without one.
        (ScalarValue::Utf8(Some(text)), DataType::Timestamp(_, None)) => {
            ScalarValue::Utf8(Some(without_zone(&text).to_owned()))
        }
        (value, _) => value,
    };
    let name = type_of(known);
    value
        .cast_to(known)
        .map_err(|_unfit| fault("22P02", format!("invalid input syntax for type {}: \"{value}\"", name.name())))
}

/// The text of a time without the zone at its end: `Z`, `+02`, `-03:30`.
fn without_zone(text: &str) -> &str {
    let text = text.trim();
    let Some((_, clock)) = text.split_once(['T', ' ']) else { return text };
    let zone = clock.find(['Z', 'z', '+', '-']);
    zone.map_or(text, |at| text[..text.len() - clock.len() + at].trim_end())
}

/// An array in PostgreSQL's spelling.
fn of_text_array(bytes: &[u8], item: &DataType) -> PgWireResult<Vec<ScalarValue>> {
    let text =
        std::str::from_utf8(bytes).map_err(|_bad| fault("22021", "invalid byte sequence for encoding \"UTF8\""))?;
    let found = items(text).ok_or_else(|| fault("22P02", format!("malformed array literal: \"{text}\"")))?;
    let given = type_of(item);
    found
        .into_iter()
        .map(|found| match found {
            None => ScalarValue::try_from(item).map_err(unexpected),
            Some(text) => fitted(of_text(text.as_bytes(), &given)?, Some(item)),
        })
        .collect()
}

/// An array of one dimension in binary: dimensions, flags, the type of items, their number and first place, and each
/// item after its length.
fn of_binary_array(bytes: &[u8], item: &DataType) -> PgWireResult<Vec<ScalarValue>> {
    let malformed = || fault("22P03", "incorrect binary data format for an array");
    let mut rest = bytes;
    let mut number = || -> PgWireResult<i32> {
        let (head, tail) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
        rest = tail;
        Ok(i32::from_be_bytes(*head))
    };
    let (dimensions, _flags, kind) = (number()?, number()?, number()?);
    if dimensions == 0 {
        return Ok(Vec::new());
    }
    let (count, _first) = (number()?, number()?);
    let kind = u32::try_from(kind).ok().and_then(Type::from_oid);
    let (Some(kind), 1) = (kind, dimensions) else {
        return Err(fault(
            "0A000",
            "binary arrays of several dimensions, or of unknown types, are not supported: send text",
        ));
    };
    let mut items = Vec::new();
    for _ in 0..count {
        let (head, tail) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*head)) else {
            rest = tail;
            items.push(ScalarValue::try_from(item).map_err(unexpected)?);
            continue;
        };
        let (value, tail) = tail.split_at_checked(length).ok_or_else(malformed)?;
        rest = tail;
        items.push(fitted(of_binary(value, &kind)?, Some(item))?);
    }
    Ok(items)
}

fn unexpected(error: impl std::fmt::Display) -> PgWireError {
    fault("XX000", error.to_string())
}

fn of_text(bytes: &[u8], given: &Type) -> PgWireResult<ScalarValue> {
    let text =
        std::str::from_utf8(bytes).map_err(|_bad| fault("22021", "invalid byte sequence for encoding \"UTF8\""))?;
    let invalid = || fault("22P02", format!("invalid input syntax for type {}: \"{text}\"", given.name()));
    Ok(match *given {
        Type::BOOL => match text.to_ascii_lowercase().as_str() {
            "t" | "true" | "1" | "on" | "yes" => ScalarValue::Boolean(Some(true)),
            "f" | "false" | "0" | "off" | "no" => ScalarValue::Boolean(Some(false)),
            _ => return Err(invalid()),
        },
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => {
            ScalarValue::Int64(Some(text.trim().parse().map_err(|_bad| invalid())?))
        }
        Type::FLOAT4 | Type::FLOAT8 => ScalarValue::Float64(Some(text.trim().parse().map_err(|_bad| invalid())?)),
        Type::NUMERIC => match text.trim().parse::<i64>() {
            Ok(whole) => ScalarValue::Int64(Some(whole)),
            Err(_fraction) => ScalarValue::Float64(Some(text.trim().parse().map_err(|_bad| invalid())?)),
        },
        _ => ScalarValue::Utf8(Some(text.to_owned())),
    })
}

fn of_binary(bytes: &[u8], given: &Type) -> PgWireResult<ScalarValue> {
    let malformed = || fault("22P03", format!("incorrect binary data format for type {}", given.name()));
    macro_rules! number {
        ($kind:ty) => {
            <$kind>::from_be_bytes(bytes.try_into().map_err(|_length| malformed())?)
        };
    }
    Ok(match *given {
        Type::BOOL => ScalarValue::Boolean(Some(number!(u8) != 0)),
        Type::INT2 => ScalarValue::Int64(Some(number!(i16).into())),
        Type::INT4 => ScalarValue::Int64(Some(number!(i32).into())),
        Type::OID => ScalarValue::Int64(Some(number!(u32).into())),
        Type::INT8 => ScalarValue::Int64(Some(number!(i64))),
        Type::FLOAT4 => ScalarValue::Float64(Some(number!(f32).into())),
        Type::FLOAT8 => ScalarValue::Float64(Some(number!(f64))),
        Type::DATE => ScalarValue::Date32(Some(number!(i32).checked_add(EPOCH_DAYS).ok_or_else(malformed)?)),
        Type::TIMESTAMP | Type::TIMESTAMPTZ => {
            ScalarValue::TimestampMicrosecond(Some(number!(i64).checked_add(EPOCH).ok_or_else(malformed)?), None)
        }
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN => of_text(bytes, &Type::TEXT)?,
        _ => {
            return Err(fault(
                "0A000",
                format!("binary parameters of type {} are not supported: send text", given.name()),
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_by_their_types() {
        let text = |given: Type, text: &str| constant(Some(text.as_bytes()), false, &given, None).ok();
        assert_eq!(text(Type::INT4, "5"), Some(ScalarValue::Int64(Some(5))));
        assert_eq!(text(Type::INT4, "x"), None);
        assert_eq!(text(Type::BOOL, "t"), Some(ScalarValue::Boolean(Some(true))));
        assert_eq!(text(Type::UNKNOWN, "x"), Some(ScalarValue::Utf8(Some("x".to_owned()))));
        let binary = |given: Type, bytes: &[u8]| constant(Some(bytes), true, &given, None).ok();
        assert_eq!(binary(Type::INT2, &[0, 7]), Some(ScalarValue::Int64(Some(7))));
        assert_eq!(binary(Type::INT4, &[0, 7]), None);
        assert_eq!(binary(Type::DATE, &0_i32.to_be_bytes()), Some(ScalarValue::Date32(Some(10_957))));
        assert_eq!(binary(Type::TIMESTAMP, &i64::MAX.to_be_bytes()), None);
        let known = constant(Some(b"5"), false, &Type::UNKNOWN, Some(&DataType::Float64)).ok();
        assert_eq!(known, Some(ScalarValue::Float64(Some(5.0))));
        assert!(constant(Some(b"x"), false, &Type::UNKNOWN, Some(&DataType::Float64)).is_err());
        assert_eq!(constant(None, false, &Type::TEXT, None).ok(), Some(ScalarValue::Null));
    }

    #[test]
    fn times_without_a_zone_are_read_without_one() {
        for (text, plain) in [
            ("2024-01-05T11:00:00.000+01:00", "2024-01-05T11:00:00.000"),
            ("2024-01-05 11:00:00-03", "2024-01-05 11:00:00"),
            ("2024-01-05T11:00:00Z", "2024-01-05T11:00:00"),
            ("2024-01-05 11:00:00", "2024-01-05 11:00:00"),
            ("2024-01-05", "2024-01-05"),
        ] {
            assert_eq!(without_zone(text), plain);
        }
    }

    #[test]
    fn arrays_are_lists_of_the_type_that_is_looked_for() {
        use arrow::datatypes::Field;
        let list = |item: DataType| DataType::List(Arc::new(Field::new_list_field(item, true)));
        let numbers = |values: &[Option<f64>]| {
            let values: Vec<ScalarValue> = values.iter().map(|value| ScalarValue::Float64(*value)).collect();
            Some(ScalarValue::List(ScalarValue::new_list(&values, &DataType::Float64, true)))
        };
        let read = |bytes: &[u8], binary: bool, item: DataType| {
            constant(Some(bytes), binary, &Type::UNKNOWN, Some(&list(item))).map_err(|error| error.to_string())
        };
        assert_eq!(read(b"{1,2.5,NULL}", false, DataType::Float64).ok(), numbers(&[Some(1.0), Some(2.5), None]));
        assert_eq!(read(b"{}", false, DataType::Float64).ok(), numbers(&[]));
        assert!(read(b"{a}", false, DataType::Float64).is_err_and(|text| text.contains("float8: \"a\"")));
        assert!(read(b"a", false, DataType::Utf8).is_err_and(|text| text.contains("malformed array literal")));
        let mut binary: Vec<u8> = [1_i32, 1, 23, 2, 1].iter().flat_map(|number| number.to_be_bytes()).collect();
        binary.extend([4_i32, 7, -1].iter().flat_map(|number| number.to_be_bytes()));
        assert_eq!(read(&binary, true, DataType::Float64).ok(), numbers(&[Some(7.0), None]));
        assert_eq!(read(&[0; 12], true, DataType::Float64).ok(), numbers(&[]));
        binary.truncate(binary.len() - 1);
        assert!(read(&binary, true, DataType::Float64).is_err(), "cut off");
        binary[3] = 2;
        assert!(read(&binary, true, DataType::Float64).is_err(), "two dimensions");
    }
}
