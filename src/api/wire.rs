//! Query objects on the wire: JSON → [`Request`] with the validator texts of Cube (`http-api.md` §5.2).

use serde_json::{Map, Value, json};

use crate::query::QueryError;
use crate::query::expand::Asked;
use crate::query::request::{
    CacheMode, DateRange, FilterLeaf, FilterNode, Operator, OrderRequest, Request, ResponseFormat, TimeDimensionRequest,
};
use crate::time::{Zone, format_local};

/// Deepest nesting of filter groups.
const MAX_FILTER_DEPTH: usize = 50;
/// Greatest integer that a JSON number of a client may be: beyond it JavaScript rounds.
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

const MEMBER_PATTERN: &str = r"/^[a-zA-Z0-9_]+\.[a-zA-Z0-9_]+$/";
const DIMENSION_PATTERN: &str = r"/^[a-zA-Z0-9_]+\.[a-zA-Z0-9_]+(\.[a-zA-Z0-9_]+)?$/";

/// The keys of a query object, in the order in which their faults are reported.
const QUERY_KEYS: [&str; 18] = [
    "measures",
    "dimensions",
    "filters",
    "timeDimensions",
    "order",
    "segments",
    "timezone",
    "limit",
    "offset",
    "total",
    "renewQuery",
    "cacheMode",
    "cache",
    "ungrouped",
    "responseFormat",
    "joinHints",
    "subqueryJoins",
    "maskedMembers",
];

type Fault = QueryError;

fn fault(text: impl AsRef<str>) -> Fault {
    QueryError::Invalid(format!("Invalid query format: {}", text.as_ref()))
}

/// Reads the `query` of a request: an object, or an array of them.
///
/// # Errors
/// As [`parse_request`], for the first query that has a fault.
pub(super) fn parse_asked(query: &Value) -> Result<Asked, QueryError> {
    match query {
        Value::Array(queries) => queries.iter().map(parse_request).collect::<Result<_, _>>().map(Asked::Many),
        query => parse_request(query).map(Asked::One),
    }
}

/// Whether `query`, read or not, compares date ranges.
pub(super) fn compares_ranges(query: &Value) -> bool {
    let times = query.get("timeDimensions").and_then(Value::as_array).into_iter().flatten();
    times.filter_map(|time| time.get("compareDateRange")).any(is_given)
}

/// What JavaScript takes for true.
fn is_given(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Bool(true) | Value::Array(_) | Value::Object(_) => true,
    }
}

/// Reads a query object.
///
/// # Errors
/// [`QueryError::Invalid`] with the first fault, its path in quotes.
pub fn parse_request(query: &Value) -> Result<Request, QueryError> {
    let Value::Object(object) = query else {
        return Err(fault("\"value\" must be of type object"));
    };
    let mut request = Request::default();
    for key in QUERY_KEYS {
        if let Some(value) = object.get(key) {
            read_key(&mut request, key, value)?;
        }
    }
    match object.keys().find(|key| !QUERY_KEYS.contains(&key.as_str())) {
        Some(key) => Err(fault(format!("\"{key}\" is not allowed"))),
        None => Ok(request),
    }
}

fn read_key(request: &mut Request, key: &str, value: &Value) -> Result<(), Fault> {
    match key {
        "measures" => request.measures = Some(members(value, key, false)?),
        "dimensions" => request.dimensions = members(value, key, true)?,
        "segments" => request.segments = Some(members(value, key, false)?),
        "filters" => request.filters = filters(value)?,
        "timeDimensions" => request.time_dimensions = time_dimensions(value)?,
        "order" => request.order = Some(order(value)?),
        "timezone" => request.timezone = timezone(value)?,
        "limit" => request.limit = Some(count(value, key)?),
        "offset" => request.offset = Some(count(value, key)?),
        "total" => request.total = Some(boolean(value, key)?),
        "renewQuery" => request.cache = boolean(value, key)?.then_some(CacheMode::MustRevalidate),
        // Taken for compatibility; it has never had an effect.
        "cacheMode" => _ = cache_mode(value)?,
        "cache" => request.cache = Some(cache_mode(value)?),
        "ungrouped" => request.ungrouped = Some(boolean(value, key)?),
        "responseFormat" => request.response_format = Some(response_format(value)?),
        "joinHints" => request.join_hints = join_hints(value)?,
        "subqueryJoins" => check_subquery_joins(value)?,
        "maskedMembers" if is_given(value) => {
            return Err(QueryError::Invalid("maskedMembers cannot be provided in the query".to_owned()));
        }
        _ => {}
    }
    Ok(())
}

/// Reads a cache mode, of a query or of the request beside it.
///
/// # Errors
/// [`QueryError::Invalid`]: no such mode.
pub(super) fn cache_mode(value: &Value) -> Result<CacheMode, QueryError> {
    value.as_str().and_then(CacheMode::parse).ok_or_else(|| {
        let modes = CacheMode::ALL.map(CacheMode::as_str).join(", ");
        fault(format!("\"cacheMode\" must be one of [{modes}]"))
    })
}

fn array<'a>(value: &'a Value, path: &str) -> Result<&'a [Value], Fault> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| fault(format!("\"{path}\" must be an array")))
}

fn object<'a>(value: &'a Value, path: &str) -> Result<&'a Map<String, Value>, Fault> {
    value.as_object().ok_or_else(|| fault(format!("\"{path}\" must be of type object")))
}

fn boolean(value: &Value, path: &str) -> Result<bool, Fault> {
    match value {
        Value::Bool(value) => Ok(*value),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        _ => Err(fault(format!("\"{path}\" must be a boolean"))),
    }
}

/// A non-empty text.
fn text<'a>(value: &'a Value, path: &str) -> Result<&'a str, Fault> {
    match value.as_str() {
        Some("") => Err(fault(format!("\"{path}\" is not allowed to be empty"))),
        Some(text) => Ok(text),
        None => Err(fault(format!("\"{path}\" must be a string"))),
    }
}

/// A whole number from 0; only a JSON number counts.
fn count(value: &Value, path: &str) -> Result<u64, Fault> {
    let Value::Number(number) = value else {
        return Err(fault(format!("\"{path}\" must be a number")));
    };
    let unsafe_number = || fault(format!("\"{path}\" must be a safe number"));
    let below_zero = || fault(format!("\"{path}\" must be greater than or equal to 0"));
    if let Some(number) = number.as_u64() {
        return if number > MAX_SAFE_INTEGER { Err(unsafe_number()) } else { Ok(number) };
    }
    let float = number.as_f64().unwrap_or(f64::NAN);
    if number.as_i64().is_some() {
        Err(below_zero())
    } else if float.fract() != 0.0 {
        Err(fault(format!("\"{path}\" must be an integer")))
    } else if float < 0.0 {
        Err(below_zero())
    } else {
        // A whole float such as `10.0`: its shortest text has digits only.
        let whole: Option<u64> = format!("{float}").parse().ok();
        whole.filter(|whole| *whole <= MAX_SAFE_INTEGER).ok_or_else(unsafe_number)
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric())
}

/// `cube.member`, or `cube.member.granularity` where `parts` allows three.
fn is_member(text: &str, three_parts: bool) -> bool {
    let parts = text.split('.').count();
    text.split('.').all(is_word) && (parts == 2 || (three_parts && parts == 3))
}

fn member(value: &Value, path: &str, three_parts: bool) -> Result<String, Fault> {
    let text = match value {
        Value::String(text) if text.is_empty() => return Err(fault(format!("\"{path}\" is not allowed to be empty"))),
        Value::String(text) => text,
        Value::Object(_) => return Err(expression()),
        _ => return Err(fault(format!("\"{path}\" must be one of [string, object]"))),
    };
    if text.starts_with('{') {
        return Err(expression());
    }
    if is_member(text, three_parts) {
        return Ok(text.clone());
    }
    let pattern = if three_parts { DIMENSION_PATTERN } else { MEMBER_PATTERN };
    Err(fault(format!("\"{path}\" with value \"{text}\" fails to match the required pattern: {pattern}")))
}

fn expression() -> Fault {
    QueryError::Invalid("Error: Expressions are not allowed in this context".to_owned())
}

fn members(value: &Value, path: &str, three_parts: bool) -> Result<Vec<String>, Fault> {
    let items = array(value, path)?.iter().enumerate();
    items.map(|(i, item)| member(item, &format!("{path}[{i}]"), three_parts)).collect()
}

fn timezone(value: &Value) -> Result<Option<Zone>, Fault> {
    let Value::String(name) = value else {
        return Err(fault("\"timezone\" must be a string"));
    };
    if name.is_empty() {
        return Ok(None);
    }
    parse_zone(name)
        .map(Some)
        .ok_or_else(|| fault(format!("\"timezone\" must be a valid IANA time zone, got \"{name}\"")))
}

/// An IANA zone by name, without regard to case.
pub fn parse_zone(name: &str) -> Option<Zone> {
    Zone::from_str_insensitive(name).ok()
}

fn response_format(value: &Value) -> Result<ResponseFormat, Fault> {
    match value.as_str() {
        Some("default") => Ok(ResponseFormat::Default),
        Some("compact") => Ok(ResponseFormat::Compact),
        Some("columnar") => Ok(ResponseFormat::Columnar),
        _ => Err(fault("\"responseFormat\" must be one of [default, compact, columnar]")),
    }
}

fn join_hints(value: &Value) -> Result<Vec<Vec<String>>, Fault> {
    let mut hints = Vec::new();
    for (i, hint) in array(value, "joinHints")?.iter().enumerate() {
        let path = format!("joinHints[{i}]");
        let cubes = array(hint, &path)?.iter().enumerate();
        let cubes = cubes.map(|(j, cube)| text(cube, &format!("{path}[{j}]")).map(str::to_owned));
        hints.push(cubes.collect::<Result<Vec<_>, _>>()?);
    }
    // A path without cubes says nothing.
    hints.retain(|hint| !hint.is_empty());
    Ok(hints)
}

/// Only the SQL API makes such joins; here they are refused, after their shape was checked.
fn check_subquery_joins(value: &Value) -> Result<(), Fault> {
    let joins = array(value, "subqueryJoins")?;
    for (i, join) in joins.iter().enumerate() {
        let path = format!("subqueryJoins[{i}]");
        for (key, value) in object(join, &path)? {
            match (key.as_str(), value) {
                ("sql" | "alias", Value::String(_)) | ("on", Value::String(_) | Value::Object(_)) => {}
                ("joinType", Value::String(word)) if matches!(word.as_str(), "LEFT" | "INNER") => {}
                ("joinType", _) => return Err(fault(format!("\"{path}.joinType\" must be one of [LEFT, INNER]"))),
                ("sql" | "alias", _) => return Err(fault(format!("\"{path}.{key}\" must be a string"))),
                ("on", _) => return Err(fault(format!("\"{path}.on\" must be one of [string, object]"))),
                _ => return Err(fault(format!("\"{path}.{key}\" is not allowed"))),
            }
        }
    }
    if joins.is_empty() {
        return Ok(());
    }
    Err(QueryError::Invalid("subqueryJoins are only supported in the SQL API".to_owned()))
}

fn filters(value: &Value) -> Result<Vec<FilterNode>, Fault> {
    let mut nodes = Vec::new();
    for (i, item) in array(value, "filters")?.iter().enumerate() {
        let node = filter(item, 1).map_err(|error| match error {
            FilterFault::Shape => fault(format!("\"filters[{i}]\" does not match any of the allowed types")),
            FilterFault::Depth => {
                fault(format!("\"filters[{i}]\" is nested too deeply: at most {MAX_FILTER_DEPTH} levels"))
            }
        })?;
        nodes.push(node);
    }
    Ok(nodes)
}

enum FilterFault {
    Shape,
    Depth,
}

fn filter(value: &Value, depth: usize) -> Result<FilterNode, FilterFault> {
    let object = value.as_object().ok_or(FilterFault::Shape)?;
    if depth > MAX_FILTER_DEPTH {
        return Err(FilterFault::Depth);
    }
    let group = |key: &str| -> Option<Result<Vec<FilterNode>, FilterFault>> {
        let children = object.get(key)?.as_array();
        Some(children.ok_or(FilterFault::Shape).and_then(|c| c.iter().map(|child| filter(child, depth + 1)).collect()))
    };
    match (group("and"), group("or")) {
        (Some(children), None) if object.len() == 1 => children.map(FilterNode::And),
        (None, Some(children)) if object.len() == 1 => children.map(FilterNode::Or),
        (None, None) => filter_leaf(object).map(FilterNode::Leaf).ok_or(FilterFault::Shape),
        _ => Err(FilterFault::Shape),
    }
}

fn filter_leaf(object: &Map<String, Value>) -> Option<FilterLeaf> {
    let known = |key: &String| matches!(key.as_str(), "member" | "dimension" | "operator" | "values");
    let member = match (object.get("member"), object.get("dimension")) {
        (Some(member), None) | (None, Some(member)) => member.as_str()?,
        _ => return None,
    };
    let operator = Operator::parse(object.get("operator")?.as_str()?)?;
    let values = match object.get("values") {
        None => None,
        Some(values) => Some(values.as_array()?.iter().map(filter_value).collect::<Option<Vec<_>>>()?),
    };
    let valid = object.keys().all(known) && is_member(member, false);
    valid.then(|| FilterLeaf { member: member.to_owned(), operator, values })
}

/// Everything but null becomes text, numbers as JavaScript writes them.
fn filter_value(value: &Value) -> Option<Option<String>> {
    match value {
        Value::Null => Some(None),
        Value::Bool(value) => Some(Some(value.to_string())),
        Value::String(text) => Some(Some(text.clone())),
        Value::Number(number) => {
            let whole = number.as_i64().map(i64::unsigned_abs).or(number.as_u64());
            let float = number.as_f64()?;
            match whole {
                Some(whole) => (whole <= MAX_SAFE_INTEGER).then(|| Some(number.to_string())),
                // 2^53 is exact as a float.
                None => (float.abs() < 9_007_199_254_740_992.0).then(|| Some(format!("{float}"))),
            }
        }
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn time_dimensions(value: &Value) -> Result<Vec<TimeDimensionRequest>, Fault> {
    let items = array(value, "timeDimensions")?.iter().enumerate();
    items.map(|(i, item)| time_dimension(item, &format!("timeDimensions[{i}]"))).collect()
}

fn time_dimension(value: &Value, path: &str) -> Result<TimeDimensionRequest, Fault> {
    let object = object(value, path)?;
    let at = |key: &str| format!("{path}.{key}");
    let mut time = TimeDimensionRequest::default();
    match object.get("dimension") {
        None => return Err(fault(format!("\"{}\" is required", at("dimension")))),
        Some(Value::String(text)) => time.dimension = member(&json!(text), &at("dimension"), false)?,
        Some(_) => return Err(fault(format!("\"{}\" must be a string", at("dimension")))),
    }
    if let Some(granularity) = object.get("granularity") {
        let granularity = text(granularity, &at("granularity"))?;
        if granularity.len() > 128 {
            let path = at("granularity");
            return Err(fault(format!("\"{path}\" length must be less than or equal to 128 characters long")));
        }
        time.granularity = Some(granularity.to_owned());
    }
    if let Some(range) = object.get("dateRange") {
        time.date_range = Some(date_range(range, &at("dateRange"))?);
    }
    if let Some(ranges) = object.get("compareDateRange") {
        let path = at("compareDateRange");
        let ranges = array(ranges, &path)?.iter().enumerate();
        let ranges = ranges.map(|(i, range)| date_range(range, &format!("{path}[{i}]")));
        time.compare_date_range = Some(ranges.collect::<Result<_, _>>()?);
    }
    let known = ["dimension", "granularity", "dateRange", "compareDateRange"];
    if let Some(key) = object.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(fault(format!("\"{}\" is not allowed", at(key))));
    }
    if time.date_range.is_some() && time.compare_date_range.is_some() {
        let peers = "contains a conflict between optional exclusive peers [dateRange, compareDateRange]";
        return Err(fault(format!("\"{path}\" {peers}")));
    }
    Ok(time)
}

fn date_range(value: &Value, path: &str) -> Result<DateRange, Fault> {
    match value {
        Value::String(_) => Ok(DateRange::Text(text(value, path)?.to_owned())),
        Value::Array(items) if items.is_empty() => Err(fault(format!("\"{path}\" must contain at least 1 items"))),
        Value::Array(items) if items.len() > 2 => {
            Err(fault(format!("\"{path}\" must contain less than or equal to 2 items")))
        }
        Value::Array(items) => {
            let item = |(i, item)| text(item, &format!("{path}[{i}]")).map(str::to_owned);
            Ok(DateRange::Bounds(items.iter().enumerate().map(item).collect::<Result<_, _>>()?))
        }
        _ => Err(fault(format!("\"{path}\" must be one of [array, string]"))),
    }
}

fn order(value: &Value) -> Result<Vec<OrderRequest>, Fault> {
    match value {
        Value::Object(entries) => {
            entries.iter().map(|(member, value)| order_entry(member, value, &format!("order.{member}"))).collect()
        }
        Value::Array(items) => items.iter().enumerate().map(|(i, item)| order_pair(item, i)).collect(),
        _ => Err(fault("\"order\" must be one of [object, array]")),
    }
}

fn order_pair(item: &Value, i: usize) -> Result<OrderRequest, Fault> {
    let path = format!("order[{i}]");
    match array(item, &path)? {
        [] | [_] => Err(fault(format!("\"{path}\" must contain at least 2 items"))),
        [member, direction] => {
            let member = text(member, &format!("{path}[0]"))?;
            order_entry(member, direction, &format!("{path}[1]"))
        }
        _ => Err(fault(format!("\"{path}\" must contain at most 2 items"))),
    }
}

fn order_entry(member: &str, direction: &Value, path: &str) -> Result<OrderRequest, Fault> {
    let descending = match direction.as_str() {
        Some("asc") => false,
        Some("desc") => true,
        _ => return Err(fault(format!("\"{path}\" must be one of [asc, desc]"))),
    };
    Ok(OrderRequest { member: member.to_owned(), descending })
}

/// `2024-05-15T10:19:02.118Z`, for instants in UTC microseconds.
pub(super) fn instant(micros: i64) -> String {
    format!("{}Z", format_local(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_fails(query: Value, expected: &str) {
        let error = parse_request(&query).expect_err("a faulty query").to_string();
        let error = error.strip_prefix("Invalid query format: ").unwrap_or(&error);
        assert_eq!(error, expected, "{query}");
    }

    #[track_caller]
    fn check(query: Value) -> Request {
        parse_request(&query).unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    #[test]
    fn limits_are_json_numbers() {
        check_fails(json!({"limit": "10"}), "\"limit\" must be a number");
        check_fails(json!({"limit": null}), "\"limit\" must be a number");
        check_fails(json!({"limit": 1.5}), "\"limit\" must be an integer");
        check_fails(json!({"limit": -1}), "\"limit\" must be greater than or equal to 0");
        check_fails(json!({"limit": -1.0}), "\"limit\" must be greater than or equal to 0");
        check_fails(json!({"limit": 1e300}), "\"limit\" must be a safe number");
        check_fails(json!({"limit": u64::MAX}), "\"limit\" must be a safe number");
        check_fails(json!({"offset": "1"}), "\"offset\" must be a number");
        check_fails(json!({"offset": null}), "\"offset\" must be a number");
        assert_eq!(check(json!({"limit": 10.0, "offset": 0})).limit, Some(10));
    }

    #[test]
    fn unknown_keys_are_refused_last() {
        check_fails(json!({"foo": 1}), "\"foo\" is not allowed");
        check_fails(json!({"rowLimit": 1}), "\"rowLimit\" is not allowed");
        check_fails(json!({"foo": 1, "limit": "x"}), "\"limit\" must be a number");
        check_fails(json!([1]), "\"value\" must be of type object");
    }

    #[test]
    fn members_have_two_parts_and_dimensions_up_to_three() {
        let pattern = r"fails to match the required pattern: /^[a-zA-Z0-9_]+\.[a-zA-Z0-9_]+$/";
        check_fails(json!({"measures": ["orders"]}), &format!("\"measures[0]\" with value \"orders\" {pattern}"));
        check_fails(json!({"measures": ["a.b", "a.b.c"]}), &format!("\"measures[1]\" with value \"a.b.c\" {pattern}"));
        check_fails(json!({"segments": ["ä.b"]}), &format!("\"segments[0]\" with value \"ä.b\" {pattern}"));
        check_fails(json!({"measures": "a.b"}), "\"measures\" must be an array");
        check_fails(json!({"measures": [1]}), "\"measures[0]\" must be one of [string, object]");
        check_fails(json!({"measures": ["{\"expression\":1}"]}), "Error: Expressions are not allowed in this context");
        assert_eq!(check(json!({"dimensions": ["a.b", "a.b.day"]})).dimensions, ["a.b", "a.b.day"]);
        assert_eq!(check(json!({})).measures, None);
    }

    #[test]
    fn zones_are_canonical_names() {
        let zone = |name: &str| check(json!({"timezone": name})).timezone.map(|zone| zone.name());
        assert_eq!(zone("utc"), Some("UTC"));
        assert_eq!(zone("america/los_angeles"), Some("America/Los_Angeles"));
        assert_eq!(zone("US/Pacific"), Some("US/Pacific"));
        assert_eq!(zone("Etc/GMT+5"), Some("Etc/GMT+5"));
        assert_eq!(zone(""), None);
        for bad in ["Mars/Base", "+02:00"] {
            let text = format!("\"timezone\" must be a valid IANA time zone, got \"{bad}\"");
            check_fails(json!({"timezone": bad}), &text);
        }
    }

    #[test]
    fn modes_and_formats_are_enumerated() {
        let modes = "\"cacheMode\" must be one of [stale-if-slow, stale-while-revalidate, must-revalidate, no-cache]";
        check_fails(json!({"cache": "always"}), modes);
        check_fails(json!({"cacheMode": 1}), modes);
        check_fails(json!({"cacheMode": "always"}), modes);
        check(json!({"cache": "no-cache", "cacheMode": "stale-if-slow", "renewQuery": true, "ungrouped": false}));
        check_fails(json!({"responseFormat": "csv"}), "\"responseFormat\" must be one of [default, compact, columnar]");
        assert_eq!(check(json!({"responseFormat": "compact"})).response_format, Some(ResponseFormat::Compact));
        check_fails(json!({"total": 1}), "\"total\" must be a boolean");
        for given in [json!(["a"]), json!([]), json!("a"), json!(1), json!(true)] {
            check_fails(json!({"maskedMembers": given}), "maskedMembers cannot be provided in the query");
        }
        for absent in [json!(null), json!(false), json!(""), json!(0)] {
            check(json!({"maskedMembers": absent}));
        }
    }

    #[test]
    fn the_cache_mode_is_the_querys_own_or_the_old_flags() {
        let mode = |query: Value| check(query).cache.map(CacheMode::as_str);
        assert_eq!(mode(json!({})), None);
        assert_eq!(mode(json!({"cache": "no-cache"})), Some("no-cache"));
        assert_eq!(mode(json!({"cacheMode": "no-cache"})), None);
        assert_eq!(mode(json!({"renewQuery": true})), Some("must-revalidate"));
        assert_eq!(mode(json!({"renewQuery": false})), None);
        assert_eq!(mode(json!({"renewQuery": true, "cache": "stale-if-slow"})), Some("stale-if-slow"));
        check_fails(json!({"renewQuery": 1}), "\"renewQuery\" must be a boolean");
    }

    #[test]
    fn join_hints_are_paths_of_cubes() {
        assert_eq!(check(json!({"joinHints": [["a", "b"], ["c"], []]})).join_hints, [vec!["a", "b"], vec!["c"]]);
        assert!(check(json!({"joinHints": []})).join_hints.is_empty());
        check_fails(json!({"joinHints": {}}), "\"joinHints\" must be an array");
        check_fails(json!({"joinHints": ["orders"]}), "\"joinHints[0]\" must be an array");
        check_fails(json!({"joinHints": [["a"], [1]]}), "\"joinHints[1][0]\" must be a string");
        check_fails(json!({"joinHints": [[""]]}), "\"joinHints[0][0]\" is not allowed to be empty");
    }

    #[test]
    fn subquery_joins_are_the_sql_apis() {
        check(json!({"subqueryJoins": []}));
        let whole = json!({"sql": "SELECT 1", "on": {"expression": "x"}, "joinType": "LEFT", "alias": "j"});
        check_fails(json!({"subqueryJoins": [whole]}), "subqueryJoins are only supported in the SQL API");
        check_fails(json!({"subqueryJoins": {}}), "\"subqueryJoins\" must be an array");
        check_fails(json!({"subqueryJoins": ["x"]}), "\"subqueryJoins[0]\" must be of type object");
        let outer = "\"subqueryJoins[1].joinType\" must be one of [LEFT, INNER]";
        check_fails(json!({"subqueryJoins": [{}, {"joinType": "OUTER"}]}), outer);
        check_fails(json!({"subqueryJoins": [{"sql": 1}]}), "\"subqueryJoins[0].sql\" must be a string");
        check_fails(json!({"subqueryJoins": [{"on": 1}]}), "\"subqueryJoins[0].on\" must be one of [string, object]");
        check_fails(json!({"subqueryJoins": [{"x": 1}]}), "\"subqueryJoins[0].x\" is not allowed");
    }

    #[test]
    fn a_query_is_an_object_or_an_array_of_objects() {
        assert!(matches!(parse_asked(&json!({"limit": 1})), Ok(Asked::One(request)) if request.limit == Some(1)));
        assert!(matches!(parse_asked(&json!([{}, {}])), Ok(Asked::Many(requests)) if requests.len() == 2));
        assert!(matches!(parse_asked(&json!([])), Ok(Asked::Many(requests)) if requests.is_empty()));
        for bad in [json!(7), json!([{}, 7]), json!([[{}]])] {
            let text = "Invalid query format: \"value\" must be of type object";
            assert_eq!(parse_asked(&bad).expect_err("no object").to_string(), text, "{bad}");
        }
    }

    #[test]
    fn comparing_is_seen_before_the_query_is_read() {
        let compares = |given: Value| compares_ranges(&json!({"timeDimensions": [{}, {"compareDateRange": given}]}));
        assert!(compares(json!([])) && compares(json!("last month")) && compares(json!([["a", "b"]])));
        assert!(!compares(json!(null)) && !compares(json!("")) && !compares(json!(false)) && !compares(json!(0)));
        assert!(!compares_ranges(&json!({"timeDimensions": 7})) && !compares_ranges(&json!([])));
    }

    #[test]
    fn order_takes_objects_and_pairs() {
        let keys = |order: Value| -> Vec<(String, bool)> {
            let order = check(json!({"order": order})).order.expect("an order");
            order.into_iter().map(|key| (key.member, key.descending)).collect()
        };
        let expected = [("b.x".to_owned(), true), ("a.x".to_owned(), false)];
        assert_eq!(keys(json!({"b.x": "desc", "a.x": "asc"})), expected);
        assert_eq!(keys(json!([["b.x", "desc"], ["a.x", "asc"]])), expected);
        assert_eq!(keys(json!({})), []);
        check_fails(json!({"order": null}), "\"order\" must be one of [object, array]");
        check_fails(json!({"order": "a.x"}), "\"order\" must be one of [object, array]");
        check_fails(json!({"order": [["a.x", "ASC"]]}), "\"order[0][1]\" must be one of [asc, desc]");
        check_fails(json!({"order": {"a.x": "none"}}), "\"order.a.x\" must be one of [asc, desc]");
        check_fails(json!({"order": [["a.b"]]}), "\"order[0]\" must contain at least 2 items");
        check_fails(json!({"order": [{"a.b": "asc"}]}), "\"order[0]\" must be an array");
    }

    #[test]
    fn time_dimensions_are_checked_key_by_key() {
        let check = |time: Value, expected: &str| check_fails(json!({"timeDimensions": [time]}), expected);
        let with = |key: &str, value: Value| json!({"dimension": "a.t", key: value});
        check(json!({}), "\"timeDimensions[0].dimension\" is required");
        check(json!("a.t"), "\"timeDimensions[0]\" must be of type object");
        check(with("granularity", json!(null)), "\"timeDimensions[0].granularity\" must be a string");
        check(with("granularity", json!("")), "\"timeDimensions[0].granularity\" is not allowed to be empty");
        check(with("foo", json!("")), "\"timeDimensions[0].foo\" is not allowed");
        check(with("dateRange", json!([])), "\"timeDimensions[0].dateRange\" must contain at least 1 items");
        check(
            with("dateRange", json!(["a", "b", "c"])),
            "\"timeDimensions[0].dateRange\" must contain less than or equal to 2 items",
        );
        check(with("dateRange", json!(null)), "\"timeDimensions[0].dateRange\" must be one of [array, string]");
        check(with("dateRange", json!("")), "\"timeDimensions[0].dateRange\" is not allowed to be empty");
        check(with("dateRange", json!([1])), "\"timeDimensions[0].dateRange[0]\" must be a string");
        check(with("compareDateRange", json!("last month")), "\"timeDimensions[0].compareDateRange\" must be an array");
        check(with("compareDateRange", json!(null)), "\"timeDimensions[0].compareDateRange\" must be an array");
        check(
            with("compareDateRange", json!(["today", []])),
            "\"timeDimensions[0].compareDateRange[1]\" must contain at least 1 items",
        );
        check(
            json!({"dimension": "a.t", "dateRange": "today", "compareDateRange": ["today"]}),
            "\"timeDimensions[0]\" contains a conflict between optional exclusive peers [dateRange, compareDateRange]",
        );
    }

    #[test]
    fn malformed_filters_are_told_by_their_index() {
        let bad = [
            json!({"member": "a.b", "dimension": "a.b", "operator": "set"}),
            json!({"operator": "set"}),
            json!({"member": "a.b", "operator": "like", "values": ["x"]}),
            json!({"member": "a.b"}),
            json!({"member": "a.b", "operator": "equals", "values": "x"}),
            json!({"member": "a.b", "operator": "equals", "values": [{"x": 1}]}),
            json!({"member": "a.b", "operator": "equals", "values": [9_007_199_254_740_993_u64]}),
            json!({"member": "a.b", "operator": "equals", "values": [1e300]}),
            json!({"member": "a.b", "operator": "set", "foo": 1}),
            json!({"member": "a", "operator": "set"}),
            json!({"or": [], "and": []}),
            json!({"or": [{"and": [7]}]}),
            json!({"or": {}}),
            json!("x"),
        ];
        for filter in bad {
            let good = json!({"member": "a.b", "operator": "set"});
            check_fails(json!({"filters": [good, filter]}), "\"filters[1]\" does not match any of the allowed types");
        }
        check_fails(json!({"filters": {}}), "\"filters\" must be an array");
    }

    #[test]
    fn filter_values_become_text() {
        let values = json!(["x", "", 10.5, 100_000, -7, 1.0, true, null]);
        let request = check(json!({"filters": [{"dimension": "a.b", "operator": "equals", "values": values}]}));
        let expected = json!([{"member": "a.b", "operator": "equals",
            "values": ["x", "", "10.5", "100000", "-7", "1", "true", null]}]);
        let filters: Value = request.filters.iter().map(FilterNode::to_json).collect();
        assert_eq!(filters, expected);
    }

    #[test]
    fn deep_and_wide_filters_are_safe() {
        let mut deep = json!({"member": "a.b", "operator": "set"});
        for _ in 0..MAX_FILTER_DEPTH - 1 {
            deep = json!({"and": [deep]});
        }
        check(json!({"filters": [deep]}));
        let deeper = json!({"and": [deep]});
        check_fails(json!({"filters": [deeper]}), "\"filters[0]\" is nested too deeply: at most 50 levels");
        let wide = vec![json!({"member": "a.b", "operator": "set"}); 2000];
        assert_eq!(check(json!({"filters": wide})).filters.len(), 2000);
    }

    #[test]
    fn instants_are_utc_with_milliseconds() {
        assert_eq!(instant(1_715_768_342_118_999), "2024-05-15T10:19:02.118Z");
    }
}
