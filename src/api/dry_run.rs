//! `/v1/dry-run`: what a request would be taken for (`http-api.md` §7.2). Plans, and runs nothing.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::echo::{echo, pivot_query};
use super::error::{ApiError, json_response};
use super::question::Question;
use super::transformed::transformed;
use super::{ApiParts, Call, sql};
use crate::model::Model;
use crate::query::QueryError;
use crate::query::expand::QueryType;
use crate::query::normalize::Normalized;
use crate::query::request::Request;

/// Normalises and plans every query of the request.
pub(super) async fn dry_run(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let question = Question::read(&call.arguments, parts.options.max_queries)?;
    let current = call.model(parts);
    let snapshot = parts.store.snapshot();
    let model = current.rollups.model();
    let asked = question.resolve(parts, call, model, parts.clock.now()).await?;
    for part in &asked {
        match parts.queries.preview(&current.rollups, &snapshot, &part.query) {
            // Whether a rollup is there matters to what runs, not to what is asked.
            Ok(_) | Err(QueryError::NoRollup { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let orders: Vec<Value> = asked.iter().map(|part| sql::order(model, &part.query, &part.echo)).collect();
    Ok(json_response(StatusCode::OK, describe(model, question.kind, &asked, &orders).to_string()))
}

fn describe(model: &Model, kind: QueryType, asked: &[Normalized], orders: &[Value]) -> Value {
    let echoes: Vec<&Request> = asked.iter().map(|part| &part.echo).collect();
    let mut normalized: Vec<Map<String, Value>> = echoes.iter().map(|request| planned_echo(request)).collect();
    let first = normalized.first().cloned().unwrap_or_default();
    let mut pivot = pivot_query(kind, first, &echoes);
    match (kind, normalized.first_mut()) {
        // Of a blend only what is common is shown; both lists are there even when they are empty.
        (QueryType::Blending, _) => {
            pivot.retain(|key, _| matches!(key.as_str(), "measures" | "dimensions" | "timeDimensions" | "queryType"));
            for key in ["measures", "dimensions"] {
                pivot.entry(key).or_insert_with(|| json!([]));
            }
        }
        // Else the first query is shown as the pivot query is.
        (_, Some(first)) => *first = pivot.clone(),
        (_, None) => {}
    }
    let transformed: Vec<Value> = asked.iter().map(|part| transformed(model, &part.query)).collect();
    json!({
        "queryType": kind.as_str(),
        "normalizedQueries": normalized,
        "queryOrder": orders,
        "transformedQueries": transformed,
        "pivotQuery": pivot,
    })
}

/// The echo with the cache mode, which answers with rows do not show.
fn planned_echo(request: &Request) -> Map<String, Value> {
    let mut shown = echo(request);
    shown.insert("cacheMode".to_owned(), json!(request.cache.unwrap_or_default().as_str()));
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::normalize::Limits;
    use crate::query::sample;
    use crate::time::Zone;

    fn run(query: &Value) -> Value {
        let Value::Object(arguments) = json!({ "query": query }) else { unreachable!("an object") };
        let question = Question::read(&arguments, 10).expect("a valid query");
        let model = sample::model();
        let limits = Limits {
            default_rows: 10,
            max_rows: 10,
            timezone: Zone::UTC,
            allow_hidden: false,
            ungrouped_without_key: true,
        };
        let asked =
            question.normalize(&model, &limits, &crate::query::policy::Asker::default(), 0).expect("a valid query");
        let orders: Vec<Value> = asked.iter().map(|part| sql::order(&model, &part.query, &part.echo)).collect();
        describe(&model, question.kind, &asked, &orders)
    }

    #[test]
    fn a_plain_query_is_shown_as_recorded() {
        let body = run(&json!({"measures": ["orders.count"], "cache": "no-cache"}));
        let query = json!({"measures": ["orders.count"], "dimensions": [], "timeDimensions": [], "limit": 10,
            "timezone": "UTC", "filters": [], "rowLimit": 10, "cacheMode": "no-cache", "queryType": "regularQuery"});
        let expected = json!({"queryType": "regularQuery", "normalizedQueries": [query],
            "queryOrder": [{"orders.count": "desc"}], "pivotQuery": query});
        let mut body = body;
        let transformed = body.as_object_mut().and_then(|body| body.remove("transformedQueries")).expect("a list");
        assert_eq!(body, expected);
        assert_eq!(transformed[0]["leafMeasures"], json!(["orders.count"]));
        assert_eq!(transformed[0]["isAdditive"], json!(true));
    }

    #[test]
    fn the_first_compared_query_is_the_pivot_query() {
        let times = json!([{"dimension": "orders.created_at", "granularity": "day",
            "compareDateRange": ["1970-01-05", "1970-01-06"]}]);
        let body = run(&json!({"measures": ["orders.count"], "timeDimensions": times}));
        assert_eq!(body["queryType"], json!("compareDateRangeQuery"));
        assert_eq!(body["normalizedQueries"][0], body["pivotQuery"]);
        assert_eq!(body["pivotQuery"]["dimensions"], json!(["compareDateRange"]));
        assert_eq!(body["pivotQuery"]["queryType"], json!("compareDateRangeQuery"));
        let second = &body["normalizedQueries"][1];
        assert_eq!((&second["dimensions"], second.get("queryType")), (&json!([]), None));
        let range = json!(["1970-01-06T00:00:00.000", "1970-01-06T23:59:59.999"]);
        assert_eq!(second["timeDimensions"][0]["dateRange"], range);
        assert_eq!(second["cacheMode"], json!("stale-if-slow"));
        assert_eq!(body["queryOrder"], json!([{"orders.created_at": "asc"}, {"orders.created_at": "asc"}]));
        let times = json!([["orders.created_at", "day"]]);
        for transformed in body["transformedQueries"].as_array().expect("a list") {
            assert_eq!(transformed["timeDimensions"], times);
        }
    }

    #[test]
    fn of_a_blend_only_the_common_is_shown() {
        let by_day = json!([{"dimension": "orders.created_at", "granularity": "day"}]);
        let body = run(&json!([
            {"measures": ["orders.count"], "timeDimensions": by_day},
            {"measures": ["orders.total"], "timeDimensions": by_day, "order": []},
        ]));
        let pivot = json!({"measures": ["orders.count", "orders.total"], "dimensions": [],
            "timeDimensions": [{"dimension": "time", "granularity": "day"}], "queryType": "blendingQuery"});
        assert_eq!(body["pivotQuery"], pivot);
        assert_eq!(body["normalizedQueries"][0].get("queryType"), None);
        assert_eq!(body["normalizedQueries"][0]["timeDimensions"], by_day);
        assert_eq!(body["queryOrder"], json!([{"orders.created_at": "asc"}, {}]));
    }
}
