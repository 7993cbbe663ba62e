//! Cells of rows → values of GraphQL, which differ from those of REST (`http-api.md` §11.6).

use serde_json::{Number, Value, json};

use super::names::Kind;
use crate::time::{Zone, from_micros, local_to_utc, to_micros};

/// A cell of a member: numbers as numbers, times as instants, the rest as text.
pub(super) fn shown(kind: Kind, cell: &Value, zone: Zone) -> Value {
    match (kind, cell) {
        (_, Value::Null) => Value::Null,
        (Kind::Number, Value::String(text)) => number(text),
        (Kind::Number, Value::Number(number)) => Value::Number(plain_number(number)),
        (Kind::Time, Value::String(text)) => json!(instant(text, zone)),
        (_, Value::String(text)) => json!(text),
        (_, other) => json!(other.to_string()),
    }
}

/// A text that is no number is none.
fn number(text: &str) -> Value {
    let whole = text.parse::<i64>().ok().map(Number::from);
    let number = whole.or_else(|| Number::from_f64(text.parse().ok()?).map(|number| plain_number(&number)));
    number.map_or(Value::Null, Value::Number)
}

/// Without a point where it is whole.
pub(super) fn plain_number(number: &Number) -> Number {
    /// Beyond it not every whole number is a float.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match number.as_f64() {
        #[expect(clippy::cast_possible_truncation, reason = "whole, and small enough")]
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() <= EXACT => Number::from(float as i64),
        _ => number.clone(),
    }
}

/// The instant of a wall-clock time; a text that is none stays as it is.
fn instant(text: &str, zone: Zone) -> String {
    text.parse().map_or_else(
        |_no_time| text.to_owned(),
        |local| format!("{}Z", from_micros(local_to_utc(to_micros(local), zone)).format("%Y-%m-%dT%H:%M:%S%.3f")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: Kind, cell: &Value, expected: &Value) {
        let zone = Zone::from_str_insensitive("America/Los_Angeles").expect("a zone");
        assert_eq!(shown(kind, cell, zone), *expected, "{cell}");
    }

    #[test]
    fn cells_are_typed() {
        for (cell, expected) in [
            (json!("42"), json!(42)),
            (json!("-1"), json!(-1)),
            (json!("2.50"), json!(2.5)),
            (json!("151219.537631640000"), json!(151_219.537_631_64)),
            (json!("3.0000"), json!(3)),
            (json!("9007199254740993"), json!(9_007_199_254_740_993_i64)),
            (json!("NaN"), Value::Null),
            (Value::Null, Value::Null),
        ] {
            check(Kind::Number, &cell, &expected);
        }
        check(Kind::Time, &json!("2024-05-01T00:00:00.000"), &json!("2024-05-01T07:00:00.000Z"));
        check(Kind::Time, &json!("2024-01-01T00:00:00.125"), &json!("2024-01-01T08:00:00.125Z"));
        check(Kind::Time, &json!("Invalid date"), &json!("Invalid date"));
        check(Kind::Text, &json!(true), &json!("true"));
        check(Kind::Text, &json!("x"), &json!("x"));
        check(Kind::Text, &json!({"a": 1}), &json!("{\"a\":1}"));
    }
}
