//! Filters of a request → typed conditions (`http-api.md` §5.5, `data-model.md` §15).
//!
//! Two walks: [`resolve_dates`] replaces date words by dates, as the echo shows them; [`resolve`]
//! turns names into ids and texts into values.

use super::dates::{Now, Span, Stamp, UnparsableDate, parse_bounds, parse_stamp, parse_text};
use super::members::resolve_measure;
use super::request::{FilterLeaf, FilterNode, Operator};
use super::{Column, Filter, Place, QueryError, Relation, Test, Value};
use crate::model::{DataType, MeasureId, MemberId, Model};
use crate::names::MemberPath;
use crate::time::{Zone, to_micros, utc_to_local};

/// Most digits of a number in a filter.
const MAX_DIGITS: usize = 200;
/// Greatest decimal exponent of a number in a filter.
const MAX_EXPONENT: u32 = 300;

impl From<UnparsableDate> for QueryError {
    fn from(error: UnparsableDate) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// The two lists of conditions that a request's filters become.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    /// On rows.
    pub(super) rows: Vec<Filter<Column>>,
    /// On groups.
    pub(super) groups: Vec<Filter<MeasureId>>,
}

/// Checks that every operator has the values it needs.
///
/// # Errors
/// [`QueryError::Invalid`] with the filter in its text.
pub(super) fn check_values(nodes: &[FilterNode]) -> Result<(), QueryError> {
    for node in nodes {
        match node {
            FilterNode::And(children) | FilterNode::Or(children) => check_values(children)?,
            FilterNode::Leaf(leaf) => {
                let needs = !matches!(leaf.operator, Operator::Set | Operator::NotSet | Operator::MeasureFilter);
                if needs && leaf.values.as_ref().is_none_or(Vec::is_empty) {
                    return Err(QueryError::Invalid(format!("Values required for filter: {}", leaf.to_json())));
                }
            }
        }
    }
    Ok(())
}

/// Replaces date words in the values of date operators by dates.
///
/// # Errors
/// [`QueryError::Invalid`]: a value is no date.
pub(super) fn resolve_dates(nodes: &mut [FilterNode], now: Now) -> Result<(), QueryError> {
    for node in nodes {
        match node {
            FilterNode::And(children) | FilterNode::Or(children) => resolve_dates(children, now)?,
            FilterNode::Leaf(leaf) => resolve_leaf_dates(leaf, now)?,
        }
    }
    Ok(())
}

fn resolve_leaf_dates(leaf: &mut FilterLeaf, now: Now) -> Result<(), QueryError> {
    use Operator::{AfterDate, AfterOrOnDate, BeforeDate, BeforeOrOnDate, InDateRange, NotInDateRange, OnTheDate};
    let ranged = matches!(leaf.operator, InDateRange | NotInDateRange | OnTheDate);
    if !ranged && !matches!(leaf.operator, BeforeDate | BeforeOrOnDate | AfterDate | AfterOrOnDate) {
        return Ok(());
    }
    let values = leaf.values.as_deref().unwrap_or_default();
    let texts: Vec<&str> = values.iter().flatten().map(String::as_str).collect();
    let Some(first) = texts.first().filter(|_| texts.len() == values.len()) else {
        let text = format!("null is no date for operator {}: {}", leaf.operator.as_str(), leaf.to_json());
        return Err(QueryError::Invalid(text));
    };
    let resolved: Vec<String> = if ranged && texts.len() == 1 {
        parse_text(first, now)?.echo().into()
    } else if texts.iter().all(|text| absolute(text).is_some()) {
        return Ok(());
    } else if texts.len() > 1 {
        let given = serde_json::json!(texts);
        let operator = leaf.operator.as_str();
        return Err(QueryError::Invalid(format!(
            "Relative-date strings are only supported when `values` has a single element for operator `{operator}`. Got: {given}"
        )));
    } else {
        let [start, end] = parse_text(first, now)?.echo();
        vec![if matches!(leaf.operator, BeforeDate | AfterOrOnDate) { start } else { end }]
    };
    leaf.values = Some(resolved.into_iter().map(Some).collect());
    Ok(())
}

fn absolute(text: &str) -> Option<Stamp> {
    parse_stamp(text).filter(|stamp| stamp.absolute)
}

/// Resolves filters whose values were checked and whose dates were resolved. Values of time members
/// that are not in a date operator are UTC, as the columns are; they become times of `zone`.
///
/// # Errors
/// Every [`QueryError`] of a faulty filter.
pub(super) fn resolve(nodes: &[FilterNode], model: &Model, zone: Zone) -> Result<Conditions, QueryError> {
    let mut conditions = Conditions::default();
    for node in nodes {
        match (Resolver { model, zone, whole: node }).node(node)? {
            Outcome::Nothing | Outcome::True => {}
            Outcome::Rows(filter) => conditions.rows.push(filter),
            Outcome::Groups(filter) => conditions.groups.push(filter),
        }
    }
    Ok(conditions)
}

enum Outcome {
    /// An empty group: not there.
    Nothing,
    /// Always holds.
    True,
    Rows(Filter<Column>),
    Groups(Filter<MeasureId>),
}

struct Resolver<'a> {
    model: &'a Model,
    zone: Zone,
    /// The outermost filter, for the text of the mixed-group error.
    whole: &'a FilterNode,
}

impl Resolver<'_> {
    fn node(&self, node: &FilterNode) -> Result<Outcome, QueryError> {
        match node {
            FilterNode::Leaf(leaf) => self.leaf(leaf),
            FilterNode::And(children) => self.group(children, true),
            FilterNode::Or(children) => self.group(children, false),
        }
    }

    fn group(&self, children: &[FilterNode], all: bool) -> Result<Outcome, QueryError> {
        let (mut rows, mut groups, mut always) = (Vec::new(), Vec::new(), 0);
        for child in children {
            match self.node(child)? {
                Outcome::Nothing => {}
                Outcome::True => always += 1,
                Outcome::Rows(filter) => rows.push(filter),
                Outcome::Groups(filter) => groups.push(filter),
            }
        }
        if !rows.is_empty() && !groups.is_empty() {
            let whole = self.whole.to_json();
            let text = format!("You cannot use dimension and measure in same condition: {whole}");
            return Err(QueryError::Model(text));
        }
        if always > 0 && (!all || (rows.is_empty() && groups.is_empty())) {
            return Ok(Outcome::True);
        }
        let rows = join(rows, all).map(Outcome::Rows);
        Ok(rows.or_else(|| join(groups, all).map(Outcome::Groups)).unwrap_or(Outcome::Nothing))
    }

    fn leaf(&self, leaf: &FilterLeaf) -> Result<Outcome, QueryError> {
        let path = MemberPath::parse(&leaf.member).map_err(|error| QueryError::Invalid(error.to_string()))?;
        let member = self.model.resolve_member(&path)?;
        if leaf.operator == Operator::MeasureFilter {
            return self.measure_filter(&leaf.member, member);
        }
        let data_type = match member {
            MemberId::Measure(id) => self.model.measure(id).kind.data_type(),
            MemberId::Dimension(id) => self.model.dimension(id).data_type,
            MemberId::Segment(_) => DataType::Boolean,
        };
        let test = test(leaf, data_type, self.zone)?;
        Ok(match member {
            MemberId::Measure(member) => Outcome::Groups(Filter::Leaf { member, test }),
            MemberId::Dimension(id) => Outcome::Rows(Filter::Leaf { member: Column::Dimension(id), test }),
            MemberId::Segment(id) => Outcome::Rows(Filter::Leaf { member: Column::Segment(id), test }),
        })
    }

    /// `measureFilter` applies the measure's own filters and drill filters to the rows: always true when it has none.
    fn measure_filter(&self, name: &str, member: MemberId) -> Result<Outcome, QueryError> {
        let idle = |id: MeasureId| {
            let measure = self.model.measure(resolve_measure(self.model, id));
            measure.filters.is_empty() && measure.drill_filters.is_empty()
        };
        match member {
            MemberId::Measure(id) if idle(id) => Ok(Outcome::True),
            MemberId::Measure(id) => Ok(Outcome::Rows(Filter::Leaf {
                member: Column::FiltersOf(id),
                test: Test::In { values: vec![Value::Boolean(true)], null: false },
            })),
            MemberId::Dimension(_) | MemberId::Segment(_) => {
                Err(QueryError::Invalid(format!("Operator measureFilter needs a measure, and '{name}' is none")))
            }
        }
    }
}

fn join<M>(mut filters: Vec<Filter<M>>, all: bool) -> Option<Filter<M>> {
    match filters.len() {
        0 => None,
        1 => filters.pop(),
        _ if all => Some(Filter::And(filters)),
        _ => Some(Filter::Or(filters)),
    }
}

fn test(leaf: &FilterLeaf, data_type: DataType, zone: Zone) -> Result<Test, QueryError> {
    let given = leaf.values.as_deref().unwrap_or_default();
    let has_null = given.iter().any(Option::is_none);
    let texts: Vec<&str> = given.iter().flatten().map(String::as_str).collect();
    let values = || texts.iter().map(|text| value(text, data_type, zone)).collect::<Result<Vec<_>, _>>();
    let like = |place| like(leaf, data_type, place, &texts, has_null);
    let compare = |relation| match given.first() {
        Some(Some(text)) => Ok(Test::Compare { relation, value: value(text, data_type, zone)? }),
        _ => Err(QueryError::Invalid("Error: Expected one parameter but nothing found".to_owned())),
    };
    match leaf.operator {
        Operator::Set => Ok(Test::Set),
        Operator::NotSet => Ok(Test::NotSet),
        Operator::Equals | Operator::In if texts.is_empty() => Ok(Test::NotSet),
        Operator::NotEquals | Operator::NotIn if texts.is_empty() => Ok(Test::Set),
        Operator::Equals | Operator::In => Ok(Test::In { values: values()?, null: has_null }),
        Operator::NotEquals | Operator::NotIn => Ok(Test::NotIn { values: values()?, null: !has_null }),
        Operator::Contains | Operator::NotContains => like(Place::Anywhere),
        Operator::StartsWith | Operator::NotStartsWith => like(Place::Start),
        Operator::EndsWith | Operator::NotEndsWith => like(Place::End),
        Operator::Gt => compare(Relation::Gt),
        Operator::Gte => compare(Relation::Gte),
        Operator::Lt => compare(Relation::Lt),
        Operator::Lte => compare(Relation::Lte),
        Operator::InDateRange
        | Operator::NotInDateRange
        | Operator::OnTheDate
        | Operator::BeforeDate
        | Operator::BeforeOrOnDate
        | Operator::AfterDate
        | Operator::AfterOrOnDate
        | Operator::MeasureFilter => date_test(leaf, data_type, &texts),
    }
}

fn like(
    leaf: &FilterLeaf,
    data_type: DataType,
    place: Place,
    texts: &[&str],
    has_null: bool,
) -> Result<Test, QueryError> {
    if data_type != DataType::String {
        return Err(wrong_type(leaf, data_type, "text"));
    }
    let negated = matches!(leaf.operator, Operator::NotContains | Operator::NotStartsWith | Operator::NotEndsWith);
    let values: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    Ok(match (negated, values.is_empty()) {
        (false, true) => Test::NotSet,
        (true, true) => Test::Set,
        (false, false) => Test::Like { place, values, null: has_null },
        (true, false) => Test::NotLike { place, values, null: !has_null },
    })
}

/// Date operators; words were replaced by dates before. Bare dates stand for their whole day.
fn date_test(leaf: &FilterLeaf, data_type: DataType, texts: &[&str]) -> Result<Test, QueryError> {
    if data_type != DataType::Time {
        return Err(wrong_type(leaf, data_type, "time"));
    }
    let texts: Vec<String> = texts.iter().take(2).map(|text| (*text).to_owned()).collect();
    let span = parse_bounds(&texts)?;
    let one = parse_bounds(&texts[..1])?;
    let range = |span: Span| span.range();
    Ok(match leaf.operator {
        Operator::NotInDateRange => Test::NotInRange(range(span)),
        Operator::BeforeDate => Test::InRange { start: None, end: Some(range(one).start) },
        Operator::BeforeOrOnDate => Test::InRange { start: None, end: Some(range(one).end) },
        Operator::AfterDate => Test::InRange { start: Some(range(one).end), end: None },
        Operator::AfterOrOnDate => Test::InRange { start: Some(range(one).start), end: None },
        _ => Test::InRange { start: Some(range(span).start), end: Some(range(span).end) },
    })
}

fn wrong_type(leaf: &FilterLeaf, data_type: DataType, wanted: &str) -> QueryError {
    let (operator, member) = (leaf.operator.as_str(), &leaf.member);
    QueryError::Invalid(format!(
        "Operator {operator} needs a member of type {wanted}, and '{member}' is of type {}",
        data_type.as_str()
    ))
}

/// A typed constant. The texts of its errors are PostgreSQL's, which Cube's clients know.
fn value(text: &str, data_type: DataType, zone: Zone) -> Result<Value, QueryError> {
    let invalid = |kind: &str| QueryError::Invalid(format!("Error: invalid input syntax for type {kind}: \"{text}\""));
    match data_type {
        DataType::String => Ok(Value::Text(text.to_owned())),
        DataType::Number => number(text).map(Value::Number).ok_or_else(|| invalid("numeric")),
        DataType::Boolean => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "t" | "1" | "yes" | "on" => Ok(Value::Boolean(true)),
            "false" | "f" | "0" | "no" | "off" => Ok(Value::Boolean(false)),
            _ => Err(invalid("boolean")),
        },
        DataType::Time => {
            let stamp = parse_stamp(text).ok_or_else(|| invalid("timestamp"))?;
            Ok(Value::Time(utc_to_local(to_micros(stamp.time), zone)))
        }
    }
}

/// A number in the one spelling of [`Value::Number`]; none for anything else, also for monsters.
fn number(text: &str) -> Option<String> {
    let text = text.trim();
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() + fraction.len() == 0 || mantissa.len() > MAX_DIGITS {
        return None;
    }
    let mut number = String::with_capacity(text.len() + 2);
    number.push_str(if negative { "-" } else { "" });
    number.push_str(if whole.is_empty() { "0" } else { whole });
    if !fraction.is_empty() {
        number.push('.');
        number.push_str(fraction);
    }
    if let Some(exponent) = exponent {
        let size = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if !digits(size) || size.parse::<u32>().ok()? > MAX_EXPONENT {
            return None;
        }
        number.push('e');
        number.push_str(exponent);
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(operator: Operator, values: &[Option<&str>]) -> FilterLeaf {
        let values = Some(values.iter().map(|v| v.map(str::to_owned)).collect());
        FilterLeaf { member: "orders.x".to_owned(), operator, values }
    }

    #[track_caller]
    fn check(operator: Operator, values: &[Option<&str>], data_type: DataType, expected: &Test) {
        let mut node = leaf(operator, values);
        let now = Now::at(to_micros("2024-05-15T10:20:00".parse().expect("a timestamp")), Zone::UTC);
        resolve_leaf_dates(&mut node, now).expect("dates resolve");
        assert_eq!(&test(&node, data_type, Zone::UTC).expect("a valid filter"), expected);
    }

    #[track_caller]
    fn check_fails(operator: Operator, values: &[Option<&str>], data_type: DataType, expected: &str) {
        let mut node = leaf(operator, values);
        let now = Now::at(to_micros("2024-05-15T10:20:00".parse().expect("a timestamp")), Zone::UTC);
        let result = resolve_leaf_dates(&mut node, now).and_then(|()| test(&node, data_type, Zone::UTC));
        assert_eq!(result.expect_err("a faulty filter").to_string(), expected);
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    fn at(text: &str) -> i64 {
        to_micros(parse_stamp(text).expect(text).time)
    }

    #[test]
    fn null_in_lists_means_is_null() {
        use DataType::String as S;
        use Operator::*;
        check(Equals, &[Some("a"), None], S, &Test::In { values: vec![text("a")], null: true });
        check(Equals, &[Some("a")], S, &Test::In { values: vec![text("a")], null: false });
        check(NotEquals, &[Some("a")], S, &Test::NotIn { values: vec![text("a")], null: true });
        check(NotIn, &[Some("a"), None], S, &Test::NotIn { values: vec![text("a")], null: false });
        check(In, &[None], S, &Test::NotSet);
        check(Equals, &[None, None], S, &Test::NotSet);
        check(NotIn, &[None], S, &Test::Set);
        check(Contains, &[None], S, &Test::NotSet);
        check(NotContains, &[None], S, &Test::Set);
        let values = || vec!["a".to_owned()];
        check(StartsWith, &[Some("a"), None], S, &Test::Like { place: Place::Start, values: values(), null: true });
        check(NotEndsWith, &[Some("a")], S, &Test::NotLike { place: Place::End, values: values(), null: true });
        check(
            NotContains,
            &[Some("a"), None],
            S,
            &Test::NotLike { place: Place::Anywhere, values: values(), null: false },
        );
    }

    #[test]
    fn values_are_typed_by_their_member() {
        use Operator::*;
        let compare = |value| Test::Compare { relation: Relation::Gt, value };
        check(Gt, &[Some(" +.50e2 ")], DataType::Number, &compare(Value::Number("0.50e2".into())));
        check(Gt, &[Some("-7"), Some("ignored")], DataType::Number, &compare(Value::Number("-7".into())));
        check(Gt, &[Some("9007199254740993")], DataType::Number, &compare(Value::Number("9007199254740993".into())));
        check(Gt, &[Some("T")], DataType::Boolean, &compare(Value::Boolean(true)));
        check(Gt, &[Some("2024-01-01")], DataType::Time, &compare(Value::Time(at("2024-01-01"))));
        check_fails(Gt, &[Some("abc")], DataType::Number, "Error: invalid input syntax for type numeric: \"abc\"");
        check_fails(
            Gt,
            &[Some("1e999999999")],
            DataType::Number,
            "Error: invalid input syntax for type numeric: \"1e999999999\"",
        );
        check_fails(Gt, &[Some("")], DataType::Number, "Error: invalid input syntax for type numeric: \"\"");
        check_fails(
            Equals,
            &[Some("maybe")],
            DataType::Boolean,
            "Error: invalid input syntax for type boolean: \"maybe\"",
        );
        check_fails(Equals, &[Some("x")], DataType::Time, "Error: invalid input syntax for type timestamp: \"x\"");
        check_fails(Gt, &[None], DataType::Number, "Error: Expected one parameter but nothing found");
        check_fails(
            Contains,
            &[Some("1")],
            DataType::Number,
            "Operator contains needs a member of type text, and 'orders.x' is of type number",
        );
        check_fails(
            InDateRange,
            &[Some("2024-01-01")],
            DataType::String,
            "Operator inDateRange needs a member of type time, and 'orders.x' is of type string",
        );
    }

    #[test]
    fn times_outside_of_date_operators_are_utc() {
        let berlin: Zone = "Europe/Berlin".parse().expect("a zone");
        let value = value("2024-01-01T00:00:00", DataType::Time, berlin).expect("a time");
        assert_eq!(value, Value::Time(at("2024-01-01T01:00:00")));
    }

    #[test]
    fn date_operators_take_whole_days() {
        use Operator::*;
        let time = DataType::Time;
        let (jan1, jan2, jan3) = (at("2024-01-01"), at("2024-01-02"), at("2024-01-03"));
        let inside = |start, end| Test::InRange { start, end };
        check(InDateRange, &[Some("2024-01-01"), Some("2024-01-02")], time, &inside(Some(jan1), Some(jan3)));
        check(OnTheDate, &[Some("2024-01-01T10:00:00")], time, &inside(Some(jan1), Some(jan2)));
        check(BeforeDate, &[Some("2024-01-01")], time, &inside(None, Some(jan1)));
        check(BeforeOrOnDate, &[Some("2024-01-01")], time, &inside(None, Some(jan2)));
        check(AfterDate, &[Some("2024-01-01")], time, &inside(Some(jan2), None));
        check(AfterOrOnDate, &[Some("2024-01-01")], time, &inside(Some(jan1), None));
        check(AfterDate, &[Some("2024-01-01T10:00:00")], time, &inside(Some(at("2024-01-01T10:00:00.001")), None));
        check(BeforeDate, &[Some("today")], time, &inside(None, Some(at("2024-05-15"))));
        check(AfterDate, &[Some("last week")], time, &inside(Some(at("2024-05-13")), None));
        check(InDateRange, &[Some("last week")], time, &inside(Some(at("2024-05-06")), Some(at("2024-05-13"))));
        let outside = Test::NotInRange(crate::time::TimeRange { start: jan1, end: jan3 });
        check(NotInDateRange, &[Some("2024-01-01"), Some("2024-01-02")], time, &outside);
    }

    #[test]
    fn faulty_dates_are_named() {
        use Operator::*;
        let time = DataType::Time;
        check_fails(BeforeDate, &[Some("2024")], time, "Can't parse date: '2024'");
        check_fails(
            InDateRange,
            &[Some("last week"), Some("2024-01-01")],
            time,
            "Relative-date strings are only supported when `values` has a single element for operator `inDateRange`. Got: [\"last week\",\"2024-01-01\"]",
        );
        check_fails(
            AfterDate,
            &[None],
            time,
            "null is no date for operator afterDate: {\"member\":\"orders.x\",\"operator\":\"afterDate\",\"values\":[null]}",
        );
    }
}
