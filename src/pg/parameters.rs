//! Parameters of prepared statements → constants.

use arrow::datatypes::DataType;
use datafusion::scalar::ScalarValue;
use pgwire::api::Type;
use pgwire::error::PgWireResult;

use super::fault::fault;

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
    let value = match bytes {
        None => ScalarValue::Null,
        Some(bytes) if binary => of_binary(bytes, given)?,
        Some(bytes) => of_text(bytes, given)?,
    };
    match known {
        Some(known) if *known != DataType::Null => value
            .cast_to(known)
            .map_err(|_unfit| fault("22P02", format!("invalid input syntax for type {known}: \"{value}\""))),
        _ => Ok(value),
    }
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
}
