//! What operators ask for: partitions of some rollups, and what is wrong with how they ask.

use serde_json::{Map, Value};

use super::super::error::ApiError;
use super::super::wire::parse_zone;
use crate::query::dates::parse_bounds;
use crate::refresh::Selection;
use crate::time::{Zone, to_micros};

/// Groups of a partition's facts.
const EXPANSIONS: [&str; 3] = ["partitions.details", "partitions.meta", "partitions.versions"];

/// What `partitions` and `build` are asked for.
#[derive(Debug)]
pub(super) struct Asked {
    /// Those of the background when empty.
    pub(super) zones: Vec<Zone>,
    pub(super) rollups: Vec<Wanted>,
    pub(super) expand: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) id: String,
    pub(super) cache_only: bool,
    /// Names of partitions' tables; all when empty.
    pub(super) tables: Vec<String>,
    range: Option<(i64, i64)>,
}

impl Wanted {
    /// The partitions, of the model of a security context.
    pub(super) fn selection(&self, context: &Value, zones: &[Zone]) -> Selection {
        Selection {
            contexts: vec![context.clone()],
            zones: zones.to_vec(),
            preaggs: vec![self.id.clone()],
            range: self.range,
            starts: self.tables.iter().filter_map(|table| start_of(table)).collect(),
            ..Selection::default()
        }
    }
}

/// When the partition of a table's name begins: its last digits.
fn start_of(table: &str) -> Option<i64> {
    let digits = table.len() - table.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let text = table.get(table.len() - digits..)?;
    let spread = match digits {
        8 => text.to_owned(),
        12 => format!("{}T{}:{}", &text[..8], &text[8..10], &text[10..]),
        _ => return None,
    };
    parse_bounds(&[spread]).ok().map(|span| to_micros(span.first))
}

pub(super) fn fault(text: impl AsRef<str>) -> ApiError {
    ApiError::Invalid(format!("Invalid query format: {}", text.as_ref()))
}

pub(super) fn no_zone(path: &str, given: impl std::fmt::Display) -> ApiError {
    fault(format!("\"{path}\" must be valid IANA time zones, got {given}"))
}

pub(super) fn object<'v>(value: Option<&'v Value>, path: &str) -> Result<&'v Map<String, Value>, ApiError> {
    let value = value.ok_or_else(|| fault(format!("\"{path}\" is required")))?;
    value.as_object().ok_or_else(|| fault(format!("\"{path}\" must be of type object")))
}

pub(super) fn texts(value: Option<&Value>, path: &str) -> Result<Vec<String>, ApiError> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let items = value.as_array().ok_or_else(|| fault(format!("\"{path}\" must be an array")))?;
    let text = |(at, item): (usize, &Value)| {
        item.as_str().map(str::to_owned).ok_or_else(|| fault(format!("\"{path}[{at}]\" must be a string")))
    };
    items.iter().enumerate().map(text).collect()
}

impl Asked {
    pub(super) fn read(arguments: &Map<String, Value>) -> Result<Self, ApiError> {
        let query = object(arguments.get("query"), "query")?;
        let known = ["timezone", "timezones", "preAggregations", "expand", "metadata"];
        if let Some(key) = query.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(fault(format!("\"{key}\" is not allowed")));
        }
        let mut names = texts(query.get("timezones"), "timezones")?;
        names.extend(query.get("timezone").and_then(Value::as_str).map(str::to_owned));
        let zone = |name: &String| parse_zone(name).ok_or_else(|| no_zone("timezones", format!("\"{name}\"")));
        let zones = names.iter().map(zone).collect::<Result<_, _>>()?;
        let expand = texts(query.get("expand"), "expand")?;
        if let Some(word) = expand.iter().find(|word| !EXPANSIONS.contains(&word.as_str())) {
            return Err(fault(format!("\"expand\" must be of [{}], got \"{word}\"", EXPANSIONS.join(", "))));
        }
        let listed = query.get("preAggregations").ok_or_else(|| fault("\"preAggregations\" is required"))?;
        let listed = listed.as_array().ok_or_else(|| fault("\"preAggregations\" must be an array"))?;
        let rollups = listed.iter().enumerate().map(|(at, entry)| Wanted::read(at, entry)).collect::<Result<_, _>>()?;
        Ok(Self { zones, rollups, expand })
    }
}

impl Wanted {
    fn read(at: usize, entry: &Value) -> Result<Self, ApiError> {
        let path = format!("preAggregations[{at}]");
        let entry = object(Some(entry), &path)?;
        let known = ["id", "cacheOnly", "metaOnly", "partitions", "refreshRange"];
        if let Some(key) = entry.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(fault(format!("\"{path}.{key}\" is not allowed")));
        }
        let id = entry.get("id").and_then(Value::as_str).ok_or_else(|| fault(format!("\"{path}.id\" is required")))?;
        let ends = texts(entry.get("refreshRange"), &format!("{path}.refreshRange"))?;
        let range = match ends.len() {
            0 => None,
            2 => {
                let span = parse_bounds(&ends).map_err(|_unparsable| {
                    fault(format!("\"{path}.refreshRange\" must hold two dates, got {}", ends.join(", ")))
                })?;
                Some((to_micros(span.first), to_micros(span.last)))
            }
            _ => return Err(fault(format!("\"{path}.refreshRange\" must contain 2 items"))),
        };
        let flag = |key: &str| entry.get(key).is_some_and(|value| value == true);
        let tables = texts(entry.get("partitions"), &format!("{path}.partitions"))?;
        Ok(Self { id: id.to_owned(), cache_only: flag("cacheOnly"), tables, range })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn partitions_are_named_by_their_tables() {
        let day = to_micros(parse_bounds(&["2024-03-01".to_owned()]).expect("a date").first);
        assert_eq!(start_of("prod_pre_aggregations.orders_monthly20240301"), Some(day));
        assert_eq!(start_of("prod_pre_aggregations.orders_hourly202403010600"), Some(day + 6 * 3_600_000_000));
        assert_eq!(start_of("prod_pre_aggregations.orders_all"), None);
        assert_eq!(start_of(""), None);
    }

    #[test]
    fn faulty_questions_are_told() {
        let told = |entry: Value| Wanted::read(0, &entry).map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(told(json!({"id": "orders.main", "refreshRange": ["2024-01-01", "2024-01-31"]})), Ok(()));
        for (entry, text) in [
            (json!(7), "\"preAggregations[0]\" must be of type object"),
            (json!({}), "\"preAggregations[0].id\" is required"),
            (json!({"id": "a.b", "x": 1}), "\"preAggregations[0].x\" is not allowed"),
            (json!({"id": "a.b", "partitions": "t"}), "\"preAggregations[0].partitions\" must be an array"),
            (
                json!({"id": "a.b", "refreshRange": ["2024-01-01"]}),
                "\"preAggregations[0].refreshRange\" must contain 2 items",
            ),
        ] {
            assert_eq!(told(entry), Err(format!("Invalid query format: {text}")));
        }
    }
}
