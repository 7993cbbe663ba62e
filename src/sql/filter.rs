//! Conditions of SQL → filters of requests, with the meaning that SQL gives them: what is unknown does not pass.

use arrow::datatypes::{DataType as ArrowType, TimeUnit};
use datafusion::logical_expr::expr::{InList, Like};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator as Relation};
use datafusion::scalar::ScalarValue;

use super::relation::Column;
use super::scope::Scope;
use crate::model::{DataType, DimensionId, MemberId};
use crate::query::request::{FilterLeaf, FilterNode, Operator};
use crate::time::{Granularity, Zone, format_local, from_micros, local_to_utc, to_micros, utc_to_local};

/// Longest spelling of a number that is handed on.
const MAX_NUMBER: usize = 100;
/// Microseconds of a millisecond, which times of requests are exact to.
const MILLISECOND: i64 = 1000;

/// Reads conditions on the columns of a scope.
pub(super) struct Conditions<'a> {
    pub(super) scope: &'a Scope<'a>,
    /// The zone of the columns' times.
    pub(super) zone: Zone,
}

impl Conditions<'_> {
    /// The filter that passes where a condition is true; none when no filter says the same.
    pub(super) fn filter(&self, expr: &Expr) -> Option<FilterNode> {
        self.where_it_is(true, expr)
    }

    /// The filter that passes where a condition is true, or where it is false.
    fn where_it_is(&self, wanted: bool, expr: &Expr) -> Option<FilterNode> {
        match expr {
            Expr::Alias(alias) => self.where_it_is(wanted, &alias.expr),
            Expr::Not(inner) => self.where_it_is(!wanted, inner),
            Expr::BinaryExpr(BinaryExpr { left, op: op @ (Relation::And | Relation::Or), right }) => {
                let parts = [self.where_it_is(wanted, left)?, self.where_it_is(wanted, right)?];
                self.joined((*op == Relation::And) == wanted, parts)
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                let op = if wanted { *op } else { op.negate()? };
                match (self.scope.compared(left), self.scope.compared(right)) {
                    (Some(column), None) => self.compare(column, op, &self.scope.constant(right)?),
                    (None, Some(column)) => self.compare(column, op.swap()?, &self.scope.constant(left)?),
                    _ => None,
                }
            }
            Expr::Between(between) => {
                let side = |op, bound: &Expr| {
                    self.compare(self.scope.compared(&between.expr)?, op, &self.scope.constant(bound)?)
                };
                if between.negated == wanted {
                    self.joined(false, [side(Relation::Lt, &between.low)?, side(Relation::Gt, &between.high)?])
                } else {
                    self.joined(true, [side(Relation::GtEq, &between.low)?, side(Relation::LtEq, &between.high)?])
                }
            }
            Expr::InList(list) => self.in_list(list, list.negated != wanted),
            Expr::Like(like) => self.like(like, like.negated != wanted),
            Expr::IsNull(inner) => self.is_set(inner, !wanted),
            Expr::IsNotNull(inner) => self.is_set(inner, wanted),
            Expr::IsTrue(inner) => self.is_truth(inner, true, wanted),
            Expr::IsNotTrue(inner) => self.is_truth(inner, true, !wanted),
            Expr::IsFalse(inner) => self.is_truth(inner, false, wanted),
            Expr::IsNotFalse(inner) => self.is_truth(inner, false, !wanted),
            Expr::IsUnknown(inner) => self.is_set(inner, !wanted),
            Expr::IsNotUnknown(inner) => self.is_set(inner, wanted),
            Expr::Column(_) => self.truth(self.scope.column(expr)?, wanted),
            _ => None,
        }
    }

    /// Both conditions, or one of them; none when they are about groups and rows at once.
    fn joined(&self, all: bool, parts: [FilterNode; 2]) -> Option<FilterNode> {
        let [left, right] = &parts;
        if !all && (self.on_measures(left) != self.on_measures(right)) {
            return None;
        }
        let mut flat = Vec::new();
        for part in parts {
            match part {
                FilterNode::And(inner) if all => flat.extend(inner),
                FilterNode::Or(inner) if !all => flat.extend(inner),
                other => flat.push(other),
            }
        }
        Some(if all { FilterNode::And(flat) } else { FilterNode::Or(flat) })
    }

    fn on_measures(&self, node: &FilterNode) -> bool {
        match node {
            FilterNode::And(parts) | FilterNode::Or(parts) => parts.iter().any(|part| self.on_measures(part)),
            FilterNode::Leaf(leaf) => crate::names::MemberPath::parse(&leaf.member)
                .ok()
                .and_then(|path| self.scope.model.resolve_member(&path).ok())
                .is_some_and(|member| matches!(member, MemberId::Measure(_))),
        }
    }

    fn data_type(&self, column: Column) -> Option<DataType> {
        let model = self.scope.model;
        match column.member()? {
            MemberId::Dimension(id) => Some(model.dimension(id).data_type),
            MemberId::Measure(id) => Some(model.measure(id).kind.data_type()),
            MemberId::Segment(_) => Some(DataType::Boolean),
        }
    }

    fn leaf(&self, column: Column, operator: Operator, values: Vec<String>) -> Option<FilterNode> {
        let member = self.scope.model.path_of(column.member()?);
        let values = (!values.is_empty()).then(|| values.into_iter().map(Some).collect());
        Some(FilterNode::Leaf(FilterLeaf { member, operator, values }))
    }

    /// None of the values, and not null.
    fn none_of(&self, column: Column, values: Vec<String>) -> Option<FilterNode> {
        let differs = self.leaf(column, Operator::NotEquals, values)?;
        self.joined(true, [differs, self.leaf(column, Operator::Set, Vec::new())?])
    }

    fn compare(&self, column: Column, op: Relation, value: &ScalarValue) -> Option<FilterNode> {
        if value.is_null() {
            return None;
        }
        let data_type = self.data_type(column)?;
        match (column, data_type) {
            (Column::Time(id, grain), _) => self.compare_bucket(id, grain.standard()?, op, self.micros(value)?),
            (Column::Dimension(_), DataType::Time) => self.compare_time(column, op, self.micros(value)?),
            _ => {
                let text = text_of(value, data_type)?;
                match op {
                    Relation::Eq => self.leaf(column, Operator::Equals, vec![text]),
                    Relation::NotEq => self.none_of(column, vec![text]),
                    _ if data_type == DataType::Boolean => None,
                    Relation::Gt => self.leaf(column, Operator::Gt, vec![text]),
                    Relation::GtEq => self.leaf(column, Operator::Gte, vec![text]),
                    Relation::Lt => self.leaf(column, Operator::Lt, vec![text]),
                    Relation::LtEq => self.leaf(column, Operator::Lte, vec![text]),
                    _ => None,
                }
            }
        }
    }

    /// A time as wall clock of the zone, in microseconds.
    fn micros(&self, value: &ScalarValue) -> Option<i64> {
        let zoned = matches!(value.data_type(), ArrowType::Timestamp(_, Some(_)));
        let micros = value.cast_to(&ArrowType::Timestamp(TimeUnit::Microsecond, None)).ok()?;
        let ScalarValue::TimestampMicrosecond(Some(micros), None) = micros else { return None };
        let micros = if zoned { utc_to_local(micros, self.zone) } else { micros };
        (micros % MILLISECOND == 0).then_some(micros)
    }

    fn compare_time(&self, column: Column, op: Relation, local: i64) -> Option<FilterNode> {
        match op {
            Relation::GtEq => self.leaf(column, Operator::AfterOrOnDate, vec![format_local(local)]),
            Relation::Lt => self.leaf(column, Operator::BeforeDate, vec![format_local(local)]),
            // So the ends of periods are written that are meant whole.
            Relation::LtEq if local.rem_euclid(1_000_000) == 1_000_000 - MILLISECOND => {
                self.leaf(column, Operator::BeforeDate, vec![format_local(local + MILLISECOND)])
            }
            Relation::Gt | Relation::LtEq | Relation::Eq | Relation::NotEq => {
                // Values outside of date operators are UTC.
                let utc = local_to_utc(local, self.zone);
                if utc_to_local(utc, self.zone) != local {
                    return None;
                }
                let text = vec![format_local(utc)];
                match op {
                    Relation::Gt => self.leaf(column, Operator::Gt, text),
                    Relation::LtEq => self.leaf(column, Operator::Lte, text),
                    Relation::Eq => self.leaf(column, Operator::Equals, text),
                    _ => self.none_of(column, text),
                }
            }
            _ => None,
        }
    }

    /// A condition on the start of a bucket as one on the time itself.
    fn compare_bucket(&self, id: DimensionId, size: Granularity, op: Relation, local: i64) -> Option<FilterNode> {
        let column = Column::Dimension(id);
        let start = from_micros(local);
        let aligned = size.truncate(start) == start;
        let (floor, next) = (to_micros(size.truncate(start)), to_micros(size.next(size.truncate(start))));
        let from = |micros| self.leaf(column, Operator::AfterOrOnDate, vec![format_local(micros)]);
        let until = |micros| self.leaf(column, Operator::BeforeDate, vec![format_local(micros)]);
        match op {
            Relation::Eq if aligned => self.joined(true, [from(floor)?, until(next)?]),
            Relation::NotEq if aligned => self.joined(false, [until(floor)?, from(next)?]),
            Relation::GtEq if aligned => from(floor),
            Relation::Lt if aligned => until(floor),
            Relation::GtEq | Relation::Gt => from(next),
            Relation::Lt | Relation::LtEq => until(next),
            _ => None,
        }
    }

    fn in_list(&self, list: &InList, inside: bool) -> Option<FilterNode> {
        let column = self.scope.compared(&list.expr)?;
        let values: Vec<ScalarValue> =
            list.list.iter().map(|value| self.scope.constant(value)).collect::<Option<_>>()?;
        let known: Vec<&ScalarValue> = values.iter().filter(|value| !value.is_null()).collect();
        if known.is_empty() || !inside && known.len() < values.len() {
            return None;
        }
        let data_type = self.data_type(column)?;
        if data_type == DataType::Time {
            let op = if inside { Relation::Eq } else { Relation::NotEq };
            let mut parts = known.into_iter().map(|value| self.compare(column, op, value));
            let first = parts.next()??;
            return parts.try_fold(first, |all, part| self.joined(!inside, [all, part?]));
        }
        let texts: Vec<String> = known.into_iter().map(|value| text_of(value, data_type)).collect::<Option<_>>()?;
        if inside { self.leaf(column, Operator::Equals, texts) } else { self.none_of(column, texts) }
    }

    /// Filters of requests do not tell small letters from capitals: `LIKE` maps only where there are no letters.
    fn like(&self, like: &Like, matches: bool) -> Option<FilterNode> {
        let column = self.scope.column(&like.expr).filter(|column| matches!(column, Column::Dimension(_)))?;
        if self.data_type(column)? != DataType::String {
            return None;
        }
        let pattern = self.scope.constant(&like.pattern)?;
        let (place, text) = placed(pattern.try_as_str()??, like.escape_char.unwrap_or('\\'))?;
        if place == Place::Whole && !like.case_insensitive {
            return if matches {
                self.leaf(column, Operator::Equals, vec![text])
            } else {
                self.none_of(column, vec![text])
            };
        }
        if !like.case_insensitive && text.to_lowercase() != text.to_uppercase() {
            return None;
        }
        let (found, missing) = match place {
            Place::Whole => return None,
            Place::Anywhere => (Operator::Contains, Operator::NotContains),
            Place::Start => (Operator::StartsWith, Operator::NotStartsWith),
            Place::End => (Operator::EndsWith, Operator::NotEndsWith),
        };
        if matches {
            return self.leaf(column, found, vec![text]);
        }
        let differs = self.leaf(column, missing, vec![text])?;
        self.joined(true, [differs, self.leaf(column, Operator::Set, Vec::new())?])
    }

    fn is_set(&self, expr: &Expr, set: bool) -> Option<FilterNode> {
        let column = match self.scope.column(expr)? {
            Column::Time(id, _) => Column::Dimension(id),
            column => column,
        };
        self.leaf(column, if set { Operator::Set } else { Operator::NotSet }, Vec::new())
    }

    fn is_boolean(&self, column: Column) -> bool {
        self.data_type(column) == Some(DataType::Boolean)
    }

    fn truth(&self, column: Column, value: bool) -> Option<FilterNode> {
        self.is_boolean(column).then(|| self.leaf(column, Operator::Equals, vec![value.to_string()]))?
    }

    /// `expr IS value`, or `expr IS NOT value`.
    fn is_truth(&self, expr: &Expr, value: bool, is: bool) -> Option<FilterNode> {
        if is {
            return self.where_it_is(value, expr);
        }
        let column = self.scope.column(expr).filter(|column| self.is_boolean(*column))?;
        let other = self.truth(column, !value)?;
        self.joined(false, [other, self.leaf(column, Operator::NotSet, Vec::new())?])
    }
}

/// Where the text of a pattern stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Whole,
    Anywhere,
    Start,
    End,
}

/// The place and the text of a pattern that has no wildcards but at its ends.
fn placed(pattern: &str, escape: char) -> Option<(Place, String)> {
    let (opened, rest) = pattern.strip_prefix('%').map_or((false, pattern), |rest| (true, rest));
    let (mut text, mut closed) = (String::new(), false);
    let mut letters = rest.chars();
    while let Some(letter) = letters.next() {
        match letter {
            _ if closed => return None,
            '%' => closed = true,
            '_' => return None,
            letter if letter == escape => text.push(letters.next()?),
            letter => text.push(letter),
        }
    }
    let place = match (opened, closed) {
        (false, false) => Place::Whole,
        (true, true) => Place::Anywhere,
        (false, true) => Place::Start,
        (true, false) => Place::End,
    };
    // A lone `%` is a condition of another kind: not null.
    (!text.is_empty() || place == Place::Whole).then_some((place, text))
}

/// A constant as requests write it; none when it is of another type than the member.
fn text_of(value: &ScalarValue, data_type: DataType) -> Option<String> {
    let text = || match value.cast_to(&ArrowType::Utf8).ok()? {
        ScalarValue::Utf8(text) => text,
        _ => None,
    };
    let given = value.data_type();
    let is_text = matches!(given, ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View);
    match data_type {
        DataType::String => is_text.then(text)?,
        DataType::Boolean => match value {
            ScalarValue::Boolean(Some(truth)) => Some(truth.to_string()),
            _ => None,
        },
        DataType::Number => {
            let spelled = match value {
                ScalarValue::Float64(Some(number)) if number.is_finite() => number.to_string(),
                ScalarValue::Float32(Some(number)) if number.is_finite() => f64::from(*number).to_string(),
                _ if given.is_integer() || given.is_decimal() || is_text => text()?,
                _ => return None,
            };
            let spelled = spelled.trim();
            let plain = spelled.strip_prefix('-').unwrap_or(spelled);
            let digits = plain.bytes().all(|b| b.is_ascii_digit() || b == b'.') && plain.matches('.').count() < 2;
            let has_digit = plain.bytes().any(|b| b.is_ascii_digit());
            (digits && has_digit && spelled.len() <= MAX_NUMBER).then(|| spelled.to_owned())
        }
        DataType::Time => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_with_wildcards_at_their_ends_have_a_place() {
        let check = |pattern: &str, expected: Option<(Place, &str)>| {
            let expected = expected.map(|(place, text)| (place, text.to_owned()));
            assert_eq!(placed(pattern, '\\'), expected, "{pattern}");
        };
        check("abc", Some((Place::Whole, "abc")));
        check("%abc%", Some((Place::Anywhere, "abc")));
        check("abc%", Some((Place::Start, "abc")));
        check("%abc", Some((Place::End, "abc")));
        check(r"%50\%%", Some((Place::Anywhere, "50%")));
        check(r"a\_b", Some((Place::Whole, "a_b")));
        for pattern in ["a%b", "a_b", "%", "%%", r"a\"] {
            check(pattern, None);
        }
        check("", Some((Place::Whole, "")));
    }

    #[test]
    fn constants_of_another_type_are_not_mapped() {
        let text = |value: ScalarValue, data_type| text_of(&value, data_type);
        assert_eq!(text(ScalarValue::from("x"), DataType::String), Some("x".to_owned()));
        assert_eq!(text(ScalarValue::from(5_i64), DataType::String), None);
        assert_eq!(text(ScalarValue::from(5_i64), DataType::Number), Some("5".to_owned()));
        assert_eq!(text(ScalarValue::from(-0.25), DataType::Number), Some("-0.25".to_owned()));
        assert_eq!(text(ScalarValue::from("12.50"), DataType::Number), Some("12.50".to_owned()));
        assert_eq!(text(ScalarValue::Decimal128(Some(150), 5, 2), DataType::Number), Some("1.50".to_owned()));
        for bad in ["", "x", "1.2.3", "-", "1e5"] {
            assert_eq!(text(ScalarValue::from(bad), DataType::Number), None, "{bad}");
        }
        assert_eq!(text(ScalarValue::from(f64::NAN), DataType::Number), None);
        assert_eq!(text(ScalarValue::from("true"), DataType::Boolean), None);
    }
}
