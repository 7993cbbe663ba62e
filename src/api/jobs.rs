//! `/v1/pre-aggregations/jobs`: starts builds of rollups and tells how they stand (`http-api.md` §8).

use axum::body::Body;
use axum::http::{Response, StatusCode};
use quarry_storage::JobId;
use serde_json::{Map, Value, json};

use super::error::{ApiError, json_response};
use super::load::logical_table;
use super::wire::{instant, parse_zone};
use super::{ApiParts, Call};
use crate::query::dates::parse_bounds;
use crate::refresh::{JobView, Selection};
use crate::time::{Zone, from_micros, to_micros};

/// Most tokens that one request may ask for.
const MAX_TOKENS: usize = 100_000;

/// What a request asks for.
#[derive(Debug)]
enum JobRequest {
    Post(Selection),
    Get { tokens: Vec<String>, as_object: bool },
}

/// Starts or lists.
pub(super) async fn jobs(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let body = match parse(&call.arguments)? {
        JobRequest::Post(selection) => {
            let tokens = Box::pin(parts.refresher.post(selection)).await?;
            tracing::info!(request_id = call.id, jobs = tokens.len(), "builds requested");
            tokens.iter().map(|token| json!(token.as_str())).collect()
        }
        JobRequest::Get { tokens, as_object } => {
            let mut entries = Vec::with_capacity(tokens.len());
            for token in tokens {
                let job = parts.refresher.find_job(&JobId::from_token(&token)).await?;
                entries.push((token, job.map(|job| describe(&job, &parts.options.preagg_schema))));
            }
            show(entries, as_object)
        }
    };
    Ok(json_response(StatusCode::OK, body.to_string()))
}

/// The entries in the order asked for, as an array or by token.
fn show(entries: Vec<(String, Option<Map<String, Value>>)>, as_object: bool) -> Value {
    let unknown = || Map::from_iter([("status".to_owned(), json!("not_found"))]);
    let entries = entries.into_iter().map(|(token, entry)| (token, entry.unwrap_or_else(unknown)));
    if as_object {
        return Value::Object(entries.map(|(token, entry)| (token, Value::Object(entry))).collect());
    }
    let with_token = |(token, entry): (String, Map<String, Value>)| {
        let mut item = Map::from_iter([("token".to_owned(), json!(token))]);
        item.extend(entry);
        Value::Object(item)
    };
    entries.map(with_token).collect()
}

fn describe(job: &JobView, schema: &str) -> Map<String, Value> {
    let cube = job.preagg.split('.').next().unwrap_or_default();
    let selector = json!({
        "cubes": [cube],
        "preAggregations": [job.preagg],
        "contexts": [{ "securityContext": job.context }],
        "timezones": [job.timezone],
        "dataSources": [job.data_source],
    });
    let record = &job.record;
    let ours = json!({
        "attempt": record.attempt,
        "createdAt": instant(record.created_at),
        "startedAt": record.started_at.map(instant),
        "endedAt": record.ended_at.map(instant),
    });
    Map::from_iter([
        ("table".to_owned(), json!(physical_table(job, schema))),
        ("status".to_owned(), json!(job.status)),
        ("selector".to_owned(), selector),
        ("quarry".to_owned(), ours),
    ])
}

/// `schema.cube_rollup20240101_digest_created`: shown to people, never read back.
fn physical_table(job: &JobView, schema: &str) -> String {
    let mut name = logical_table(schema, &job.preagg);
    if let Some(bucket) = job.record.partition.bucket {
        let start = from_micros(bucket.start);
        let format = if start.format("%H%M").to_string() == "0000" { "%Y%m%d" } else { "%Y%m%d%H%M" };
        name.push_str(&start.format(format).to_string());
    }
    let table = job.record.partition.table.as_str();
    let digest = table.rsplit('-').next().unwrap_or(table);
    format!("{name}_{digest}_{:x}", job.record.created_at.div_euclid(1_000_000))
}

fn fault(text: impl AsRef<str>) -> ApiError {
    ApiError::Invalid(format!("Invalid Job query format: {}", text.as_ref()))
}

fn parse(body: &Map<String, Value>) -> Result<JobRequest, ApiError> {
    if body.is_empty() {
        return Err(ApiError::Invalid("No job description provided".to_owned()));
    }
    let forbid = |keys: &[&str]| match keys.iter().find(|key| body.contains_key(**key)) {
        Some(key) => Err(fault(format!("\"{key}\" is not allowed"))),
        None => Ok(()),
    };
    let request = match body.get("action").map(Value::as_str) {
        None => return Err(fault("\"action\" is required")),
        Some(Some("post")) => {
            let selector = body.get("selector").ok_or_else(|| fault("\"selector\" is required"))?;
            let selection = parse_selector(selector)?;
            forbid(&["tokens", "resType"])?;
            JobRequest::Post(selection)
        }
        Some(Some("get")) => {
            forbid(&["selector"])?;
            let tokens = texts(body.get("tokens"), "tokens")?.ok_or_else(|| fault("\"tokens\" is required"))?;
            match tokens.len() {
                0 => return Err(fault("\"tokens\" must contain at least 1 items")),
                1..=MAX_TOKENS => {}
                _ => return Err(fault(format!("\"tokens\" must contain less than or equal to {MAX_TOKENS} items"))),
            }
            let as_object = match body.get("resType") {
                None => false,
                Some(Value::String(word)) if word == "object" => true,
                Some(_) => return Err(fault("\"resType\" must be [object]")),
            };
            JobRequest::Get { tokens, as_object }
        }
        Some(_) => return Err(fault("\"action\" must be one of [post, get]")),
    };
    check_keys(body, &["action", "selector", "tokens", "resType"], "")?;
    Ok(request)
}

fn check_keys(object: &Map<String, Value>, known: &[&str], prefix: &str) -> Result<(), ApiError> {
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(fault(format!("\"{prefix}{key}\" is not allowed"))),
        None => Ok(()),
    }
}

/// A list of texts; none when the key is absent.
fn texts(value: Option<&Value>, path: &str) -> Result<Option<Vec<String>>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    let items = value.as_array().ok_or_else(|| fault(format!("\"{path}\" must be an array")))?;
    let text = |(i, item): (usize, &Value)| {
        item.as_str().map(str::to_owned).ok_or_else(|| fault(format!("\"{path}[{i}]\" must be a string")))
    };
    items.iter().enumerate().map(text).collect::<Result<_, _>>().map(Some)
}

fn parse_selector(value: &Value) -> Result<Selection, ApiError> {
    let selector = value.as_object().ok_or_else(|| fault("\"selector\" must be of type object"))?;
    let list = |key: &str| texts(selector.get(key), &format!("selector.{key}"));
    let contexts = parse_contexts(selector.get("contexts"))?;
    let zones = list("timezones")?.ok_or_else(|| fault("\"selector.timezones\" is required"))?;
    if zones.is_empty() {
        return Err(fault("\"selector.timezones\" must contain at least 1 items"));
    }
    let zone = |(i, name): (usize, &String)| -> Result<Zone, ApiError> {
        let unknown = || fault(format!("\"selector.timezones[{i}]\" must be a valid IANA time zone, got \"{name}\""));
        parse_zone(name).ok_or_else(unknown)
    };
    let zones = zones.iter().enumerate().map(zone).collect::<Result<_, _>>()?;
    let selection = Selection {
        contexts,
        zones,
        data_sources: list("dataSources")?.unwrap_or_default(),
        cubes: list("cubes")?.unwrap_or_default(),
        preaggs: list("preAggregations")?.unwrap_or_default(),
        range: parse_range(list("dateRange")?)?,
    };
    let known = ["contexts", "timezones", "dataSources", "cubes", "preAggregations", "dateRange"];
    check_keys(selector, &known, "selector.")?;
    Ok(selection)
}

fn parse_contexts(value: Option<&Value>) -> Result<Vec<Value>, ApiError> {
    let value = value.ok_or_else(|| fault("\"selector.contexts\" is required"))?;
    let items = value.as_array().ok_or_else(|| fault("\"selector.contexts\" must be an array"))?;
    if items.is_empty() {
        return Err(fault("\"selector.contexts\" must contain at least 1 items"));
    }
    let context = |(i, item): (usize, &Value)| {
        let path = format!("selector.contexts[{i}]");
        let object = item.as_object().ok_or_else(|| fault(format!("\"{path}\" must be of type object")))?;
        let context = object.get("securityContext");
        let context = context.ok_or_else(|| fault(format!("\"{path}.securityContext\" is required")))?;
        check_keys(object, &["securityContext"], &format!("{path}."))?;
        Ok(context.clone())
    };
    items.iter().enumerate().map(context).collect()
}

/// Two wall-clock times, both inclusive; a bare date as the end is its whole day.
fn parse_range(texts: Option<Vec<String>>) -> Result<Option<(i64, i64)>, ApiError> {
    let Some(texts) = texts else { return Ok(None) };
    if texts.len() != 2 {
        return Err(fault("\"selector.dateRange\" must contain 2 items"));
    }
    let span = parse_bounds(&texts)
        .map_err(|_unparsable| ApiError::Invalid(format!("Cannot parse selector date range {}", texts.join(","))))?;
    Ok(Some((to_micros(span.first), to_micros(span.last))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_fails(body: Value, expected: &str) {
        let error = parse(body.as_object().expect("an object")).expect_err("a faulty request").to_string();
        assert_eq!(error.strip_prefix("Invalid Job query format: ").unwrap_or(&error), expected, "{body}");
    }

    fn post(key: &str, value: Value) -> Value {
        let mut selector = json!({"contexts": [{"securityContext": {}}], "timezones": ["UTC"]});
        selector[key] = value;
        json!({"action": "post", "selector": selector})
    }

    #[test]
    fn faulty_requests_are_told_as_recorded() {
        check_fails(json!({}), "No job description provided");
        check_fails(json!({"action": "zap"}), "\"action\" must be one of [post, get]");
        check_fails(json!({"selector": {}}), "\"action\" is required");
        check_fails(json!({"action": "post"}), "\"selector\" is required");
        check_fails(json!({"action": "get"}), "\"tokens\" is required");
        check_fails(json!({"action": "get", "tokens": []}), "\"tokens\" must contain at least 1 items");
        check_fails(json!({"action": "get", "tokens": [1]}), "\"tokens[0]\" must be a string");
        check_fails(json!({"action": "get", "tokens": ["a"], "resType": "array"}), "\"resType\" must be [object]");
        check_fails(json!({"action": "get", "tokens": ["a"], "selector": {}}), "\"selector\" is not allowed");
        check_fails(json!({"action": "get", "tokens": ["a"], "foo": 1}), "\"foo\" is not allowed");
    }

    #[test]
    fn faulty_selectors_are_told_by_path() {
        let contexts = json!([{"securityContext": {}}]);
        check_fails(json!({"action": "post", "selector": {}}), "\"selector.contexts\" is required");
        check_fails(
            json!({"action": "post", "selector": {"contexts": contexts}}),
            "\"selector.timezones\" is required",
        );
        check_fails(post("contexts", json!([])), "\"selector.contexts\" must contain at least 1 items");
        check_fails(post("contexts", json!([{}])), "\"selector.contexts[0].securityContext\" is required");
        check_fails(
            post("contexts", json!([{"securityContext": {}, "x": 1}])),
            "\"selector.contexts[0].x\" is not allowed",
        );
        check_fails(post("timezones", json!([])), "\"selector.timezones\" must contain at least 1 items");
        check_fails(
            post("timezones", json!(["Mars/Base"])),
            "\"selector.timezones[0]\" must be a valid IANA time zone, got \"Mars/Base\"",
        );
        check_fails(post("datasources", json!([])), "\"selector.datasources\" is not allowed");
        check_fails(post("cubes", json!("orders")), "\"selector.cubes\" must be an array");
        check_fails(post("dateRange", json!(["2024-01-01"])), "\"selector.dateRange\" must contain 2 items");
        check_fails(post("dateRange", json!(["x", "y"])), "Cannot parse selector date range x,y");
    }

    #[test]
    fn selections_are_read_whole() {
        let mut body = post("dateRange", json!(["1992-03-01", "1992-04-15"]));
        body["selector"]["preAggregations"] = json!(["lineitem.daily"]);
        body["selector"]["contexts"] = json!([{"securityContext": {"tenant": 7}}, {"securityContext": null}]);
        let Ok(JobRequest::Post(selection)) = parse(body.as_object().expect("an object")) else {
            panic!("a valid request");
        };
        assert_eq!(selection.contexts, [json!({"tenant": 7}), json!(null)]);
        assert_eq!((selection.zones.as_slice(), selection.cubes.len()), ([Zone::UTC].as_slice(), 0));
        let (first, last) = selection.range.expect("a range");
        assert_eq!(
            (instant(first), instant(last)),
            ("1992-03-01T00:00:00.000Z".into(), "1992-04-15T23:59:59.999Z".into())
        );
    }

    #[test]
    fn unknown_tokens_are_answered_in_both_forms() {
        let entries = || vec![("deadbeef".to_owned(), None)];
        assert_eq!(show(entries(), false), json!([{"token": "deadbeef", "status": "not_found"}]));
        assert_eq!(show(entries(), true), json!({"deadbeef": {"status": "not_found"}}));
    }
}
