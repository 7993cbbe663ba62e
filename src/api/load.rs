//! `/v1/load`: answers a query with rows (`http-api.md` §5).

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::annotation::{annotation, time_key};
use super::error::{ApiError, json_response};
use super::rows::{RowKey, write_data};
use super::{ApiParts, Call, extract, wire};
use crate::model::{DataType, DimensionId, MemberId, Model};
use crate::query::execute::{Answer, UsedRollup};
use crate::query::normalize::{Normalized, normalize};
use crate::query::request::Request;
use crate::query::{OutputColumn, Query};

/// Answers with more rows than this are written on a thread that may block.
const MANY_ROWS: usize = 4096;

/// Reads, answers, writes.
pub(super) async fn load(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let query = extract::query_argument(&call.arguments)?;
    let query_type = call.arguments.get("queryType").filter(|value| !value.is_null());
    check_query_type(&query, query_type.is_some())?;
    if let Some(mode) = call.arguments.get("cache").filter(|value| !value.is_null()) {
        wire::check_cache_mode(mode)?;
    }
    let request = wire::parse_request(&query)?;
    let current = parts.model.load_full();
    let model = Arc::clone(current.rollups.model());
    let snapshot = parts.store.snapshot();
    let now = parts.clock.now();
    let Normalized { query, echo } = normalize(&request, &model, &parts.limits, now)?;
    let limit = parts.options.query_timeout;
    let answered = tokio::time::timeout(limit, Box::pin(parts.queries.load(&current.rollups, &snapshot, &query)));
    let answer = answered.await.map_err(|_elapsed| ApiError::Timeout(limit))??;
    let multi = query_type.and_then(Value::as_str) == Some("multi");
    let frame = Frame {
        head: head(parts, call, &Answered { model: &model, query: &query, echo: &echo, answer: &answer, now }),
        tail: tail(&answer, snapshot.id().get()),
        pivot: multi.then(|| pivot_query(&echo)),
        keys: row_keys(&model, &query, &echo, &answer.columns),
        echo,
        answer,
    };
    let rows: usize = frame.answer.batches.iter().map(arrow::record_batch::RecordBatch::num_rows).sum();
    let body = if rows > MANY_ROWS {
        let written = tokio::task::spawn_blocking(move || frame.write()).await;
        written.map_err(|error| ApiError::Internal(error.to_string()))??
    } else {
        frame.write()?
    };
    Ok(json_response(StatusCode::OK, body))
}

/// Refuses what is more than one query. Cube's own checks come first, in their order (§5.14).
///
/// # Errors
/// The query is an array, or compares date ranges.
pub(super) fn check_query_type(query: &Value, client_knows_types: bool) -> Result<(), ApiError> {
    let invalid = |text: &str| Err(ApiError::Invalid(text.to_owned()));
    let times = |query: &Value| query.get("timeDimensions").and_then(Value::as_array).cloned().unwrap_or_default();
    let kind = match query {
        Value::Array(_) => "blendingQuery",
        query if times(query).iter().any(|time| time.get("compareDateRange").is_some()) => "compareDateRangeQuery",
        _ => return Ok(()),
    };
    if !client_knows_types {
        let text = format!("'{kind}' query type is not supported by the client.Please update the client.");
        return Err(ApiError::Invalid(text));
    }
    let Some(queries) = query.as_array() else {
        // Faults of shape are told before the general refusal.
        wire::parse_request(query)?;
        return invalid("compareDateRange is not supported by this version");
    };
    let granularity = |query: &Value| times(query).first().and_then(|time| time.get("granularity")).cloned();
    let granularities: Option<Vec<Value>> = queries.iter().map(granularity).collect();
    match granularities.as_deref() {
        None | Some([]) => invalid("Data blending query without granularity is not supported"),
        Some([first, rest @ ..]) if rest.iter().any(|other| other != first) => {
            invalid("Data blending query granularities must match")
        }
        Some(_) => invalid("data blending (an array of queries) is not supported by this version"),
    }
}

/// Everything of an answer but its rows.
struct Frame {
    /// Keys before `data`, `query` left out.
    head: Map<String, Value>,
    /// Keys after `data`.
    tail: Map<String, Value>,
    /// `pivotQuery`, when the answer is to be wrapped.
    pivot: Option<Value>,
    keys: Vec<RowKey>,
    echo: Request,
    answer: Answer,
}

impl Frame {
    fn write(self) -> Result<Vec<u8>, ApiError> {
        let mut out = Vec::with_capacity(4096);
        if self.pivot.is_some() {
            out.extend_from_slice(br#"{"queryType":"regularQuery","results":["#);
        }
        out.extend_from_slice(b"{\"query\":");
        out.extend_from_slice(wire::echo(&self.echo).to_string().as_bytes());
        write_entries(&mut out, &self.head);
        out.extend_from_slice(b",\"data\":");
        let format = self.echo.response_format.unwrap_or_default();
        write_data(&mut out, format, &self.keys, &self.answer.batches)
            .map_err(|error| ApiError::Internal(error.to_string()))?;
        write_entries(&mut out, &self.tail);
        out.push(b'}');
        if let Some(pivot) = self.pivot {
            out.extend_from_slice(format!("],\"pivotQuery\":{pivot},\"slowQuery\":false}}").as_bytes());
        }
        Ok(out)
    }
}

fn write_entries(out: &mut Vec<u8>, entries: &Map<String, Value>) {
    for (key, value) in entries {
        out.extend_from_slice(format!(",{}:{value}", Value::from(key.as_str())).as_bytes());
    }
}

fn pivot_query(echo: &Request) -> Value {
    let mut pivot = wire::echo(echo);
    pivot["queryType"] = json!("regularQuery");
    pivot
}

/// What the head of an answer tells about.
struct Answered<'a> {
    model: &'a Model,
    query: &'a Query,
    echo: &'a Request,
    answer: &'a Answer,
    now: i64,
}

fn head(parts: &ApiParts, call: &Call, answered: &Answered<'_>) -> Map<String, Value> {
    let Answered { model, query, echo, answer, now } = *answered;
    let mut head = Map::new();
    let mut put = |key: &str, value: Value| {
        head.insert(key.to_owned(), value);
    };
    put("lastRefreshTime", json!(wire::instant(answer.refreshed_at.unwrap_or(now))));
    if !answer.used.is_empty() {
        let schema = &parts.options.preagg_schema;
        let entries = answer.used.iter().map(|used| used_rollup(schema, used, parts.options.dev_mode));
        put("usedPreAggregations", Value::Object(entries.collect()));
    }
    if parts.options.dev_mode {
        put("requestId", json!(call.id));
    }
    put("annotation", annotation(model, query, echo));
    put("dataSource", json!(answer.data_source));
    put("dbType", json!(answer.db_type));
    put("external", json!(answer.used.iter().any(|used| used.external)));
    put("slowQuery", json!(false));
    if let Some(total) = answer.total {
        put("total", json!(total));
    }
    head
}

/// Our own additions: the state that was read, and how much of it. Only where rollups were.
fn tail(answer: &Answer, snapshot: u64) -> Map<String, Value> {
    let mut tail = Map::new();
    if !answer.used.is_empty() {
        let partitions: usize = answer.used.iter().map(|used| used.partitions).sum();
        tail.insert("quarry".to_owned(), json!({"snapshot": snapshot, "partitions": partitions}));
    }
    tail
}

/// An entry of `usedPreAggregations` (§5.12): the logical table's name, and what is known of it.
fn used_rollup(schema: &str, used: &UsedRollup, dev_mode: bool) -> (String, Value) {
    let mut entry = json!({
        "lastUpdatedAt": used.last_updated_at.div_euclid(1000),
        "preAggregationId": used.id,
        "type": "rollup",
    });
    if dev_mode {
        entry["targetTableName"] = json!(used.table.as_str());
        entry["refreshKeyValues"] = json!([]);
    }
    (logical_table(schema, &used.id), entry)
}

/// `prod_pre_aggregations.orders_main` for `orders.main`.
pub(super) fn logical_table(schema: &str, id: &str) -> String {
    format!("{schema}.{}", id.replacen('.', "_", 1))
}

/// The keys of a row: the columns, then the bare name of every time dimension that is not a dimension
/// itself, with the value of its finest granularity (§5.13).
fn row_keys(model: &Model, query: &Query, echo: &Request, columns: &[OutputColumn]) -> Vec<RowKey> {
    let mut keys: Vec<RowKey> = Vec::with_capacity(columns.len() + 1);
    let mut bare: Vec<(DimensionId, crate::time::Granularity, usize)> = Vec::new();
    for (column, output) in columns.iter().enumerate() {
        let (name, time) = match *output {
            OutputColumn::Dimension(id) => {
                (model.path_of(MemberId::Dimension(id)), model.dimension(id).data_type == DataType::Time)
            }
            OutputColumn::Segment(id) => (model.path_of(MemberId::Segment(id)), false),
            OutputColumn::Measure(id) => {
                (model.path_of(MemberId::Measure(id)), model.measure(id).kind.data_type() == DataType::Time)
            }
            OutputColumn::Time(id, granularity) => {
                match bare.iter_mut().find(|(dimension, ..)| *dimension == id) {
                    Some(entry) if granularity < entry.1 => *entry = (id, granularity, column),
                    Some(_) => {}
                    None if query.dimensions.contains(&id) => {}
                    None => bare.push((id, granularity, column)),
                }
                (time_key(model, echo, id, granularity), true)
            }
        };
        keys.push(RowKey { name, column, time });
    }
    let bare = bare.into_iter().map(|(id, _, column)| RowKey {
        name: model.path_of(MemberId::Dimension(id)),
        column,
        time: true,
    });
    keys.extend(bare);
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::normalize::Limits;
    use crate::query::sample;
    use crate::time::Zone;

    #[track_caller]
    fn check_keys(query: &Value, expected: &[(&str, usize)]) {
        let model = sample::model();
        let request = wire::parse_request(query).expect("a valid query");
        let limits = Limits { default_rows: 10, max_rows: 10, timezone: Zone::UTC, allow_hidden: false };
        let Normalized { query, echo } = normalize(&request, &model, &limits, 0).expect("a valid query");
        let keys = row_keys(&model, &query, &echo, &query.columns());
        let keys: Vec<(&str, usize)> = keys.iter().map(|key| (key.name.as_str(), key.column)).collect();
        assert_eq!(keys, expected);
    }

    #[test]
    fn bare_time_keys_take_the_finest_granularity() {
        let times = json!([
            {"dimension": "orders.created_at", "granularity": "month"},
            {"dimension": "orders.created_at", "granularity": "Day"},
        ]);
        check_keys(
            &json!({"measures": ["orders.count"], "timeDimensions": times}),
            &[
                ("orders.created_at.month", 0),
                ("orders.created_at.Day", 1),
                ("orders.count", 2),
                ("orders.created_at", 1),
            ],
        );
        check_keys(
            &json!({"dimensions": ["orders.created_at"], "timeDimensions": times}),
            &[("orders.created_at", 0), ("orders.created_at.month", 1), ("orders.created_at.Day", 2)],
        );
    }

    #[track_caller]
    fn check_type(query: &Value, client_knows: bool, expected: &str) {
        let error = check_query_type(query, client_knows).expect_err("more than one query");
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn more_than_one_query_is_refused_in_cubes_order() {
        let by = |granularity: &str| json!({"timeDimensions": [{"dimension": "a.t", "granularity": granularity}]});
        let old = "'blendingQuery' query type is not supported by the client.Please update the client.";
        check_type(&json!([by("day")]), false, old);
        check_type(&json!([]), true, "Data blending query without granularity is not supported");
        check_type(&json!([by("day"), {}]), true, "Data blending query without granularity is not supported");
        check_type(&json!([by("day"), by("month")]), true, "Data blending query granularities must match");
        check_type(&json!([by("day")]), true, "data blending (an array of queries) is not supported by this version");
        let compare = json!({"timeDimensions": [{"dimension": "a.t", "compareDateRange": ["today"]}]});
        let old = "'compareDateRangeQuery' query type is not supported by the client.Please update the client.";
        check_type(&compare, false, old);
        check_type(&compare, true, "compareDateRange is not supported by this version");
        assert!(check_query_type(&json!({"measures": []}), false).is_ok());
    }

    #[test]
    fn logical_tables_are_named_as_recorded() {
        assert_eq!(logical_table("prod_pre_aggregations", "lineitem.daily"), "prod_pre_aggregations.lineitem_daily");
    }
}
