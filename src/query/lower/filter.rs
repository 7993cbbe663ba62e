//! Conditions → SQL predicates, with their null semantics (`data-model.md` §15).

use super::{Literal, Literals};
use crate::query::{Filter, Place, Relation, Test, Value};
use crate::time::TimeRange;

/// How a tested expression and wall-clock bounds meet.
pub(super) struct Tested {
    /// The expression for values of the member's own type.
    pub(super) sql: String,
    /// The expression for time ranges.
    pub(super) time_sql: String,
    /// Wall-clock microseconds of the query's zone → microseconds comparable with `time_sql`.
    pub(super) bound: Box<dyn Fn(i64) -> i64>,
}

/// A condition tree as a predicate. `tested` gives the expression of a member.
pub(super) fn predicate<M: Copy>(filter: &Filter<M>, literals: &Literals, tested: &dyn Fn(M) -> Tested) -> String {
    let group = |parts: &[Filter<M>], word: &str| {
        let parts: Vec<String> = parts.iter().map(|part| format!("({})", predicate(part, literals, tested))).collect();
        parts.join(word)
    };
    match filter {
        Filter::And(parts) if parts.is_empty() => "TRUE".to_owned(),
        Filter::Or(parts) if parts.is_empty() => "FALSE".to_owned(),
        Filter::And(parts) => group(parts, " AND "),
        Filter::Or(parts) => group(parts, " OR "),
        Filter::Leaf { member, test } => test_sql(&tested(*member), test, literals),
    }
}

fn test_sql(tested: &Tested, test: &Test, literals: &Literals) -> String {
    let sql = &tested.sql;
    match test {
        Test::Set => format!("{sql} IS NOT NULL"),
        Test::NotSet => format!("{sql} IS NULL"),
        Test::In { values, null } => {
            let found = one_of(sql, values, literals, false);
            join_or(found, null.then(|| format!("{sql} IS NULL")), "FALSE")
        }
        Test::NotIn { values, null: true } => {
            join_or(one_of(sql, values, literals, true), (!values.is_empty()).then(|| format!("{sql} IS NULL")), "TRUE")
        }
        Test::NotIn { values, null: false } => {
            one_of(sql, values, literals, true).unwrap_or_else(|| format!("{sql} IS NOT NULL"))
        }
        Test::Like { place, values, null } => {
            let likes: Vec<String> = values.iter().map(|v| like(sql, *place, v, literals, false)).collect();
            let likes = (!likes.is_empty()).then(|| likes.join(" OR "));
            join_or(likes, null.then(|| format!("{sql} IS NULL")), "FALSE")
        }
        Test::NotLike { place, values, null } => {
            let likes: Vec<String> = values.iter().map(|v| like(sql, *place, v, literals, true)).collect();
            match (likes.is_empty(), null) {
                (true, true) => "TRUE".to_owned(),
                (true, false) => format!("{sql} IS NOT NULL"),
                (false, true) => format!("({}) OR {sql} IS NULL", likes.join(" AND ")),
                (false, false) => likes.join(" AND "),
            }
        }
        Test::Compare { relation, value } => {
            let relation = match relation {
                Relation::Gt => ">",
                Relation::Gte => ">=",
                Relation::Lt => "<",
                Relation::Lte => "<=",
            };
            let left = if matches!(value, Value::Time(_)) { &tested.time_sql } else { sql };
            format!("{left} {relation} {}", literals.place(value.into()))
        }
        Test::InRange { start, end } => in_range(tested, *start, *end, literals),
        Test::NotInRange(TimeRange { start, end }) => {
            let time = &tested.time_sql;
            let bound = |micros: i64| literals.place(Literal::Timestamp((tested.bound)(micros)));
            format!("{time} < {} OR {time} >= {}", bound(*start), bound(*end))
        }
    }
}

/// `start <= time < end`, either side open.
pub(super) fn in_range(tested: &Tested, start: Option<i64>, end: Option<i64>, literals: &Literals) -> String {
    let time = &tested.time_sql;
    let bound = |micros: i64| literals.place(Literal::Timestamp((tested.bound)(micros)));
    let start = start.map(|micros| format!("{time} >= {}", bound(micros)));
    let end = end.map(|micros| format!("{time} < {}", bound(micros)));
    match (start, end) {
        (Some(start), Some(end)) => format!("{start} AND {end}"),
        (Some(side), None) | (None, Some(side)) => side,
        (None, None) => format!("{time} IS NOT NULL"),
    }
}

/// `= v` or `IN (…)`, negated on request; none without values. Times compare with the time expression.
fn one_of(sql: &str, values: &[Value], literals: &Literals, negated: bool) -> Option<String> {
    let places: Vec<String> = values.iter().map(|value| literals.place(value.into())).collect();
    match (places.as_slice(), negated) {
        ([], _) => None,
        ([one], false) => Some(format!("{sql} = {one}")),
        ([one], true) => Some(format!("{sql} <> {one}")),
        (many, false) => Some(format!("{sql} IN ({})", many.join(", "))),
        (many, true) => Some(format!("{sql} NOT IN ({})", many.join(", "))),
    }
}

fn join_or(first: Option<String>, second: Option<String>, neither: &str) -> String {
    match (first, second) {
        (Some(first), Some(second)) => format!("{first} OR {second}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => neither.to_owned(),
    }
}

/// A case-insensitive pattern with the value's own wildcards escaped by a backslash.
fn like(sql: &str, place: Place, value: &str, literals: &Literals, negated: bool) -> String {
    let mut escaped = String::with_capacity(value.len() + 2);
    for c in value.chars() {
        if matches!(c, '\\' | '%' | '_') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    let pattern = match place {
        Place::Anywhere => format!("%{escaped}%"),
        Place::Start => format!("{escaped}%"),
        Place::End => format!("%{escaped}"),
    };
    let not = if negated { "NOT " } else { "" };
    format!("{sql} {not}ILIKE {}", literals.place(Literal::Text(pattern)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(test: Test, expected: &str) {
        let literals = Literals::default();
        let tested =
            |(): ()| Tested { sql: "c".to_owned(), time_sql: "t".to_owned(), bound: Box::new(|micros| micros) };
        let text = predicate(&Filter::Leaf { member: (), test }, &literals, &tested);
        assert_eq!(super::super::Statement::new(text, literals).inlined(), expected);
    }

    fn text(values: &[&str]) -> Vec<Value> {
        values.iter().map(|v| Value::Text((*v).to_owned())).collect()
    }

    #[test]
    fn nulls_pass_where_cube_lets_them() {
        check(Test::In { values: text(&["a"]), null: false }, "c = 'a'");
        check(Test::In { values: text(&["a", "b"]), null: true }, "c IN ('a', 'b') OR c IS NULL");
        check(Test::In { values: vec![], null: true }, "c IS NULL");
        check(Test::NotIn { values: text(&["a"]), null: true }, "c <> 'a' OR c IS NULL");
        check(Test::NotIn { values: text(&["a", "b"]), null: false }, "c NOT IN ('a', 'b')");
        check(Test::NotIn { values: vec![], null: false }, "c IS NOT NULL");
    }

    #[test]
    fn patterns_escape_wildcards_and_quotes() {
        let like = |place, value: &str| Test::Like { place, values: vec![value.to_owned()], null: false };
        check(like(Place::Anywhere, "50%"), r"c ILIKE '%50\%%'");
        check(like(Place::Start, "a_b"), r"c ILIKE 'a\_b%'");
        check(like(Place::End, r"x\y'"), r"c ILIKE '%x\\y'''");
        check(
            Test::NotLike { place: Place::Start, values: vec!["a".to_owned(), "b".to_owned()], null: true },
            "(c NOT ILIKE 'a%' AND c NOT ILIKE 'b%') OR c IS NULL",
        );
    }

    #[test]
    fn ranges_are_half_open() {
        check(Test::InRange { start: Some(0), end: None }, "t >= TIMESTAMP '1970-01-01T00:00:00.000000'");
        check(
            Test::NotInRange(TimeRange { start: 0, end: 1_000_000 }),
            "t < TIMESTAMP '1970-01-01T00:00:00.000000' OR t >= TIMESTAMP '1970-01-01T00:00:01.000000'",
        );
    }
}
