//! Compares rows of two answers: numbers by value, rows in order only where the query decides the order.

use serde_json::{Map, Value, json};

/// How exactly numbers must agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// The same decimal number; `1.50` is `1.5`.
    Exact,
    /// Up to a relative difference of 1e-9, for averages and floats.
    Close,
}

/// Which order a query asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowOrder {
    /// Row keys, strongest first.
    pub(crate) keys: Vec<String>,
    /// Whether no two rows can tie.
    pub(crate) total: bool,
    /// Whether `offset` may have cut through ties at the start.
    pub(crate) cut_before: bool,
    /// The limit, which may have cut through ties at the end.
    pub(crate) limit: usize,
}

/// The names of a query's grouping columns, as in rows.
pub(crate) fn group_columns(query: &Value) -> Vec<String> {
    let mut columns = texts(&query["dimensions"]);
    for time in query["timeDimensions"].as_array().into_iter().flatten() {
        if let (Some(dimension), Some(granularity)) = (time["dimension"].as_str(), time["granularity"].as_str()) {
            columns.push(format!("{dimension}.{granularity}"));
        }
    }
    columns
}

/// The texts of a list.
pub(crate) fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

impl RowOrder {
    /// The order that a request asks for (`http-api.md` §5.6).
    pub(crate) fn of(query: &Value) -> Self {
        let groups = group_columns(query);
        let measures = texts(&query["measures"]);
        let asked: Vec<String> = match &query["order"] {
            Value::Object(order) => order.keys().cloned().collect(),
            Value::Array(order) => order.iter().filter_map(|pair| pair[0].as_str().map(str::to_owned)).collect(),
            _ => default_order(query, &groups, &measures).into_iter().collect(),
        };
        let keys: Vec<String> = asked.into_iter().filter_map(|key| column_of(&key, &groups, &measures)).collect();
        let total = groups.iter().all(|group| keys.contains(group));
        let limit = query["limit"].as_u64().and_then(|limit| usize::try_from(limit).ok()).unwrap_or(10_000);
        Self { keys, total, cut_before: query["offset"].as_u64().unwrap_or(0) > 0, limit }
    }
}

fn default_order(query: &Value, groups: &[String], measures: &[String]) -> Option<String> {
    let dimensions = texts(&query["dimensions"]).len();
    let time = groups.get(dimensions).cloned();
    let measure = (!groups.is_empty()).then(|| measures.first().cloned()).flatten();
    time.or(measure).or_else(|| groups.first().cloned())
}

/// The row column that an order key sorts by; none when nothing of that name is selected.
fn column_of(key: &str, groups: &[String], measures: &[String]) -> Option<String> {
    if groups.iter().chain(measures).any(|column| column == key) {
        return Some(key.to_owned());
    }
    const FINEST_FIRST: [&str; 8] = ["second", "minute", "hour", "day", "week", "month", "quarter", "year"];
    FINEST_FIRST.iter().map(|granularity| format!("{key}.{granularity}")).find(|column| groups.contains(column))
}

/// What differs between two lists of rows, if anything. Rows are objects.
pub(crate) fn compare_rows(
    expected: &[Value],
    actual: &[Value],
    order: &RowOrder,
    numbers: &dyn Fn(&str) -> Numbers,
) -> Result<(), String> {
    if expected.len() != actual.len() {
        return Err(format!("{} rows expected, {} given", expected.len(), actual.len()));
    }
    for (index, (left, right)) in expected.iter().zip(actual).enumerate() {
        let keys = |row: &Value| row.as_object().map(|row| row.keys().cloned().collect::<Vec<_>>());
        let (mut left_keys, mut right_keys) = (keys(left), keys(right));
        left_keys.iter_mut().for_each(|keys| keys.sort());
        right_keys.iter_mut().for_each(|keys| keys.sort());
        if left_keys.is_none() || left_keys != right_keys {
            return Err(format!("row {index}: keys {left_keys:?} expected, {right_keys:?} given"));
        }
    }
    if order.total {
        return compare_pairs(expected, actual, numbers);
    }
    let key_of = |row: &Value| -> Value {
        order.keys.iter().map(|key| (key.clone(), row[key.as_str()].clone())).collect::<Map<_, _>>().into()
    };
    let key_columns = |rows: &[Value]| rows.iter().map(key_of).collect::<Vec<_>>();
    let (left_keys, right_keys) = (key_columns(expected), key_columns(actual));
    compare_pairs(&left_keys, &right_keys, numbers).map_err(|text| format!("order: {text}"))?;
    // Ties at a cut may be resolved either way: only rows off the cut must be the same.
    let cut_after = expected.len() >= order.limit;
    let (first, last) = (left_keys.first().cloned(), left_keys.last().cloned());
    let comparable = |rows: &[Value]| -> Vec<Value> {
        let at_cut = |key: &Value| {
            (order.cut_before && same_row(key, first.as_ref(), numbers))
                || (cut_after && same_row(key, last.as_ref(), numbers))
        };
        rows.iter().filter(|row| !at_cut(&key_of(row))).cloned().collect()
    };
    compare_pairs(&sorted(comparable(expected), numbers), &sorted(comparable(actual), numbers), numbers)
}

fn same_row(left: &Value, right: Option<&Value>, numbers: &dyn Fn(&str) -> Numbers) -> bool {
    right.is_some_and(|right| compare_row(left, right, numbers).is_ok())
}

/// Rows by their exact cells first: groups are unique, so close numbers never decide.
fn sorted(mut rows: Vec<Value>, numbers: &dyn Fn(&str) -> Numbers) -> Vec<Value> {
    // A null is no text, not even `null`.
    let key = |row: &Value| -> (Vec<Option<String>>, Vec<Option<String>>) {
        let mut cells: Vec<(&String, &Value)> = row.as_object().into_iter().flatten().collect();
        cells.sort_by_key(|(name, _)| *name);
        let (close, exact): (Vec<_>, Vec<_>) = cells.into_iter().partition(|(name, _)| numbers(name) == Numbers::Close);
        let text = |(_, cell): &(&String, &Value)| {
            (!cell.is_null()).then(|| cell_text(cell).unwrap_or_else(|| cell.to_string()))
        };
        (exact.iter().map(text).collect(), close.iter().map(text).collect())
    };
    rows.sort_by_cached_key(key);
    rows
}

fn compare_pairs(expected: &[Value], actual: &[Value], numbers: &dyn Fn(&str) -> Numbers) -> Result<(), String> {
    if expected.len() != actual.len() {
        return Err(format!("{} rows expected off the cut, {} given", expected.len(), actual.len()));
    }
    for (index, (left, right)) in expected.iter().zip(actual).enumerate() {
        compare_row(left, right, numbers).map_err(|text| format!("row {index}: {text}"))?;
    }
    Ok(())
}

fn compare_row(expected: &Value, actual: &Value, numbers: &dyn Fn(&str) -> Numbers) -> Result<(), String> {
    for (name, left) in expected.as_object().into_iter().flatten() {
        let right = &actual[name.as_str()];
        if !same_cell(left, right, numbers(name)) {
            return Err(format!("{name}: {left} expected, {right} given (in {expected} and {actual})"));
        }
    }
    Ok(())
}

/// Whether two cells mean the same.
pub(crate) fn same_cell(left: &Value, right: &Value, numbers: Numbers) -> bool {
    if left == right {
        return true;
    }
    let (Some(left), Some(right)) = (cell_text(left), cell_text(right)) else { return false };
    if left == right {
        return true;
    }
    let as_number = |text: &str| decimal(text).and_then(|_| text.parse::<f64>().ok());
    match (numbers, as_number(&left), as_number(&right)) {
        (Numbers::Close, Some(left), Some(right)) => (left - right).abs() <= 1e-9 * left.abs().max(right.abs()),
        _ => false,
    }
}

/// A number or numeric text in canonical form; any other text as it is.
fn cell_text(cell: &Value) -> Option<String> {
    match cell {
        Value::Number(number) => decimal(&number.to_string()),
        Value::String(text) => Some(decimal(text).unwrap_or_else(|| text.clone())),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// `-1.50` as `-1.5`, `-0.0` as `0`; none for what is not a plain decimal number.
pub(crate) fn decimal(text: &str) -> Option<String> {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !plain(whole) || !plain(fraction) || digits.ends_with('.') {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let fraction = fraction.trim_end_matches('0');
    let sign = if whole == "0" && fraction.is_empty() { "" } else { sign };
    Some(if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") })
}

/// Compact or columnar data as rows; rows as they are.
pub(crate) fn as_rows(data: &Value) -> Vec<Value> {
    let members = texts(&data["members"]);
    let row = |cells: &dyn Fn(usize) -> Value| -> Value {
        members.iter().enumerate().map(|(index, name)| (name.clone(), cells(index))).collect::<Map<_, _>>().into()
    };
    if let Some(dataset) = data["dataset"].as_array() {
        return dataset.iter().map(|cells| row(&|index| cells[index].clone())).collect();
    }
    if let Some(columns) = data["columns"].as_array() {
        let count = columns.first().and_then(Value::as_array).map_or(0, Vec::len);
        return (0..count).map(|line| row(&|index| columns[index][line].clone())).collect();
    }
    data.as_array().cloned().unwrap_or_default()
}

/// The value of a cell that holds a number.
pub(crate) fn number(cell: &Value) -> f64 {
    let text = cell_text(cell).unwrap_or_else(|| panic!("{cell} is not a number"));
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[track_caller]
fn check(query: &Value, left: &Value, right: &Value, agrees: bool) {
    let rows = |value: &Value| value.as_array().expect("rows").clone();
    let result = compare_rows(&rows(left), &rows(right), &RowOrder::of(query), &|name| {
        if name == "o.avg" { Numbers::Close } else { Numbers::Exact }
    });
    assert_eq!(result.is_ok(), agrees, "{result:?}");
}

#[test]
fn decimals_are_compared_by_value() {
    assert_eq!(decimal("-001.500").as_deref(), Some("-1.5"));
    assert_eq!(decimal("-0.00").as_deref(), Some("0"));
    assert_eq!(decimal("9007199254740993").as_deref(), Some("9007199254740993"));
    for text in ["", "-", "1.", ".5", "1e5", "abc", "1-URGENT", "2024-01-01"] {
        assert_eq!(decimal(text), None, "{text}");
    }
    assert!(same_cell(&json!("1.50"), &json!("1.5"), Numbers::Exact));
    assert!(!same_cell(&json!("9007199254740993"), &json!("9007199254740992"), Numbers::Exact));
    assert!(!same_cell(&json!("1"), &Value::Null, Numbers::Close));
    assert!(!same_cell(&json!("true"), &json!(true), Numbers::Close));
    assert!(same_cell(&json!("0.3333333333333333"), &json!("0.33333333333"), Numbers::Close));
    assert!(!same_cell(&json!("0.3333333333333333"), &json!("0.33333333333"), Numbers::Exact));
}

#[test]
fn rows_are_compared_in_order_only_where_it_is_decided() {
    let by_status = json!({"measures": ["o.count"], "dimensions": ["o.status"], "order": {"o.status": "asc"}});
    let by_count = json!({"measures": ["o.count"], "dimensions": ["o.status"]});
    let two = json!([{"o.status": "a", "o.count": "1"}, {"o.status": "b", "o.count": "1"}]);
    let swapped = json!([{"o.status": "b", "o.count": "1"}, {"o.status": "a", "o.count": "1.0"}]);
    check(&by_status, &two, &two, true);
    check(&by_status, &two, &swapped, false);
    check(&by_count, &two, &swapped, true);
    let falling = json!([{"o.status": "a", "o.count": "2"}, {"o.status": "b", "o.count": "1"}]);
    let rising = json!([{"o.status": "b", "o.count": "1"}, {"o.status": "a", "o.count": "2"}]);
    check(&by_count, &falling, &rising, false);
}

#[test]
fn ties_at_a_limit_may_be_resolved_either_way() {
    let cut = json!({"measures": ["o.count"], "dimensions": ["o.status"], "limit": 2});
    let left = json!([{"o.status": "a", "o.count": "2"}, {"o.status": "b", "o.count": "1"}]);
    let right = json!([{"o.status": "a", "o.count": "2"}, {"o.status": "c", "o.count": "1"}]);
    let wrong = json!([{"o.status": "d", "o.count": "2"}, {"o.status": "c", "o.count": "1"}]);
    check(&cut, &left, &right, true);
    check(&cut, &left, &wrong, false);
    let uncut = json!({"measures": ["o.count"], "dimensions": ["o.status"], "limit": 3});
    check(&uncut, &left, &right, false);
}

#[test]
fn other_shapes_of_data_are_the_same_rows() {
    let rows = json!([{"a": "1", "b": null}, {"a": "2", "b": "x"}]);
    let compact = json!({"members": ["a", "b"], "dataset": [["1", null], ["2", "x"]]});
    let columnar = json!({"members": ["a", "b"], "columns": [["1", "2"], [null, "x"]]});
    assert_eq!(Value::from(as_rows(&compact)), rows);
    assert_eq!(Value::from(as_rows(&columnar)), rows);
    assert_eq!(Value::from(as_rows(&rows)), rows);
}

#[test]
fn a_bare_time_key_sorts_by_its_finest_granularity() {
    let query = json!({"dimensions": ["o.s"], "order": [["o.t", "asc"], ["o.nope", "asc"]],
        "timeDimensions": [{"dimension": "o.t", "granularity": "month"}, {"dimension": "o.t", "granularity": "day"}]});
    let order = RowOrder::of(&query);
    assert_eq!(order.keys, ["o.t.day"]);
    assert!(!order.total);
}
