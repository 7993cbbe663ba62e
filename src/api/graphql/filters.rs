//! Conditions of GraphQL → filters of a query (`http-api.md` §11.4).

use async_graphql::Value as Literal;
use serde_json::{Map, Value, json};

use super::names::{CubeNames, Kind};

/// A literal as JSON, with its keys in written order.
pub(super) fn to_json(value: &Literal) -> Value {
    match value {
        Literal::Null => Value::Null,
        Literal::Number(number) => Value::Number(number.clone()),
        Literal::String(text) => Value::from(text.as_str()),
        Literal::Boolean(flag) => Value::Bool(*flag),
        Literal::Enum(name) => Value::from(name.as_str()),
        Literal::Binary(bytes) => Value::from(String::from_utf8_lossy(bytes)),
        Literal::List(items) => items.iter().map(to_json).collect(),
        Literal::Object(entries) => {
            entries.iter().map(|(name, value)| (name.to_string(), to_json(value))).collect::<Map<_, _>>().into()
        }
    }
}

/// The filters of a condition, which must all hold. `of_key` says what keys other than `AND` and `OR` mean.
pub(super) fn conditions(value: &Value, of_key: &dyn Fn(&str, &Value) -> Vec<Value>) -> Vec<Value> {
    let mut found = Vec::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        match key.as_str() {
            "AND" => found.extend(as_list(value).iter().flat_map(|part| conditions(part, of_key))),
            "OR" => {
                let mut parts: Vec<Value> = as_list(value)
                    .iter()
                    .map(|part| conditions(part, of_key))
                    .filter(|part| !part.is_empty())
                    .map(|mut part| if part.len() == 1 { part.remove(0) } else { json!({ "and": part }) })
                    .collect();
                match parts.len() {
                    0 => {}
                    1 => found.append(&mut parts),
                    _ => found.push(json!({ "or": parts })),
                }
            }
            key => found.extend(of_key(key, value)),
        }
    }
    found
}

/// The filters of a cube's condition.
pub(super) fn filters_of(cube: &CubeNames, value: &Value) -> Vec<Value> {
    conditions(value, &|name, tests| {
        let Some(member) = cube.find(name) else { return Vec::new() };
        let tests = tests.as_object().into_iter().flatten();
        tests.filter_map(|(operator, value)| filter(&member.path, member.kind, operator, value)).collect()
    })
}

fn filter(member: &str, kind: Kind, operator: &str, value: &Value) -> Option<Value> {
    if operator == "set" {
        let operator = if value.as_bool()? { "set" } else { "notSet" };
        return Some(json!({"member": member, "operator": operator}));
    }
    let operator = match operator {
        "in" => "equals",
        "notIn" => "notEquals",
        other => other,
    };
    let values: Vec<Value> = as_list(value).iter().map(|value| text_of(kind, value)).collect();
    Some(json!({"member": member, "operator": operator, "values": values}))
}

/// One value stands for a list of one.
fn as_list(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        one => std::slice::from_ref(one),
    }
}

/// Values are texts; a number that is whole has no point.
fn text_of(kind: Kind, value: &Value) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::String(text) => json!(text),
        Value::Number(number) if kind == Kind::Number => json!(super::values::plain_number(number).to_string()),
        other => json!(other.to_string()),
    }
}

/// Ranges of selected time dimensions become their `dateRange`; the other filters stay. Where no time dimension is
/// selected, the first range makes one that only filters.
pub(super) fn ranges_to_times(filters: Vec<Value>, times: &mut Vec<Value>) -> Vec<Value> {
    let grouped = !times.is_empty();
    filters
        .into_iter()
        .filter(|filter| {
            if filter["operator"] != "inDateRange" {
                return true;
            }
            let Some(range) = range_of(&filter["values"]) else { return true };
            let member = &filter["member"];
            let mut free = false;
            for time in times.iter_mut().filter(|time| time["dimension"] == *member && time.get("dateRange").is_none())
            {
                time["dateRange"] = range.clone();
                free = true;
            }
            if !free && !grouped && times.is_empty() {
                times.push(json!({"dimension": member, "dateRange": range}));
                free = true;
            }
            !free
        })
        .collect()
}

/// One text that is no date speaks of a range in words.
fn range_of(values: &Value) -> Option<Value> {
    let values = values.as_array().filter(|values| !values.is_empty() && values.iter().all(Value::is_string))?;
    match values.as_slice() {
        [one] if !one.as_str().is_some_and(is_date) => Some(one.clone()),
        _ => Some(json!(values)),
    }
}

/// `2024-01-31`, and what may follow.
fn is_date(text: &str) -> bool {
    let digits =
        |range: std::ops::Range<usize>| text.get(range).is_some_and(|part| part.bytes().all(|b| b.is_ascii_digit()));
    digits(0..4) && text.get(4..5) == Some("-") && digits(5..7) && text.get(7..8) == Some("-") && digits(8..10)
}

#[cfg(test)]
mod tests {
    use super::super::names::MemberNames;
    use super::*;

    fn orders() -> CubeNames {
        let member = |name: &str, is_measure, kind| MemberNames {
            name: name.to_owned(),
            path: format!("orders.{name}"),
            is_measure,
            kind,
            description: None,
        };
        CubeNames {
            field: "orders".to_owned(),
            stem: "Orders".to_owned(),
            description: None,
            members: vec![
                member("count", true, Kind::Number),
                member("status", false, Kind::Text),
                member("created_at", false, Kind::Time),
            ],
        }
    }

    #[track_caller]
    fn check(condition: &Value, expected: &Value) {
        assert_eq!(json!(filters_of(&orders(), condition)), *expected, "{condition}");
    }

    #[test]
    fn conditions_become_filters() {
        let leaf = |member: &str, operator: &str, values: Value| json!({"member": format!("orders.{member}"), "operator": operator, "values": values});
        check(
            &json!({"status": {"in": ["new", "shipped"]}}),
            &json!([leaf("status", "equals", json!(["new", "shipped"]))]),
        );
        check(&json!({"status": {"notIn": "new"}}), &json!([leaf("status", "notEquals", json!(["new"]))]));
        check(&json!({"status": {"equals": null}}), &json!([leaf("status", "equals", json!([null]))]));
        check(&json!({"status": {"set": true}}), &json!([{"member": "orders.status", "operator": "set"}]));
        check(&json!({"status": {"set": false}}), &json!([{"member": "orders.status", "operator": "notSet"}]));
        check(
            &json!({"count": {"gt": 10.0, "lte": 10.5}, "status": {"contains": ["x"]}}),
            &json!([
                leaf("count", "gt", json!(["10"])),
                leaf("count", "lte", json!(["10.5"])),
                leaf("status", "contains", json!(["x"])),
            ]),
        );
        let (new, old) = (leaf("status", "equals", json!(["new"])), leaf("status", "equals", json!(["old"])));
        let (is_new, is_old) = (json!({"status": {"equals": "new"}}), json!({"status": {"equals": "old"}}));
        check(&json!({"OR": [is_new, is_old]}), &json!([{"or": [new, old]}]));
        check(&json!({"AND": [is_new, is_old]}), &json!([new, old]));
        check(&json!({"OR": [{"AND": [is_new, is_old]}, is_old, {}]}), &json!([{"or": [{"and": [new, old]}, old]}]));
        check(&json!({"OR": [is_new]}), &json!([new]));
    }

    #[test]
    fn ranges_go_to_the_time_dimensions_that_are_selected() {
        let range = |values: Value| json!({"member": "orders.created_at", "operator": "inDateRange", "values": values});
        let by_day = || json!({"dimension": "orders.created_at", "granularity": "day"});
        let run = |filters: Vec<Value>, mut times: Vec<Value>| {
            let filters = ranges_to_times(filters, &mut times);
            (filters, times)
        };
        let week = range(json!(["last week"]));
        let (filters, times) = run(vec![week.clone()], vec![by_day()]);
        assert_eq!((filters, times[0]["dateRange"].clone()), (vec![], json!("last week")));
        let days = range(json!(["2024-01-01", "2024-01-31"]));
        let (filters, times) = run(vec![days.clone(), week.clone()], vec![]);
        let only = json!({"dimension": "orders.created_at", "dateRange": ["2024-01-01", "2024-01-31"]});
        assert_eq!((filters, times), (vec![week], vec![only]), "of two ranges one stays a filter");
        let (_, times) = run(vec![range(json!(["2024-01-01"]))], vec![]);
        assert_eq!(times[0]["dateRange"], json!(["2024-01-01"]));
        let other = json!({"dimension": "orders.paid_at", "granularity": "day"});
        let (filters, times) = run(vec![days.clone()], vec![other.clone()]);
        assert_eq!((filters, times), (vec![days], vec![other]), "a range of what is not selected stays a filter");
    }
}
