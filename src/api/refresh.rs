//! `/v1/run-scheduled-refresh`: one pass of the scheduler, for those who call it from outside (`http-api.md` §7.6).

use std::time::Duration;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::error::{ApiError, json_response};
use super::wire::parse_zone;
use super::{ApiParts, Call};
use crate::time::Zone;

/// How long a call waits for the builds that it found; then the caller asks again.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a call asks for.
#[derive(Debug, PartialEq, Eq, Default)]
struct Options {
    /// The scheduler's own when empty.
    zones: Vec<Zone>,
    /// Most builds at the same time.
    concurrency: Option<usize>,
}

/// Builds what is missing or stale.
pub(super) async fn run(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let options = parse(&call.arguments)?;
    let work = Box::pin(parts.refresher.run_scheduled(&options.zones, options.concurrency, PATIENCE));
    let body = if work.await? { json!({"finished": true}) } else { json!({"error": "Continue wait"}) };
    Ok(json_response(StatusCode::OK, body.to_string()))
}

fn fault(text: impl AsRef<str>) -> ApiError {
    ApiError::Invalid(format!("Invalid queryingOptions: {}", text.as_ref()))
}

fn parse(arguments: &Map<String, Value>) -> Result<Options, ApiError> {
    let given = match arguments.get("queryingOptions") {
        None | Some(Value::Null) => return Ok(Options::default()),
        Some(Value::String(text)) => {
            serde_json::from_str(text).map_err(|error| fault(format!("it is not JSON: {error}")))?
        }
        Some(value) => value.clone(),
    };
    let given = given.as_object().ok_or_else(|| fault("\"queryingOptions\" must be of type object"))?;
    if let Some(key) = given.keys().find(|key| !["timezone", "timezones", "concurrency"].contains(&key.as_str())) {
        return Err(fault(format!("\"{key}\" is not allowed")));
    }
    let zone = |path: &str, value: &Value| {
        let zone = value.as_str().and_then(parse_zone);
        zone.ok_or_else(|| fault(format!("\"{path}\" must be a valid IANA time zone, got {value}")))
    };
    let mut zones = Vec::new();
    if let Some(value) = given.get("timezone") {
        zones.push(zone("timezone", value)?);
    }
    if let Some(value) = given.get("timezones") {
        let list = value.as_array().ok_or_else(|| fault("\"timezones\" must be an array"))?;
        for (i, value) in list.iter().enumerate() {
            let zone = zone(&format!("timezones[{i}]"), value)?;
            if !zones.contains(&zone) {
                zones.push(zone);
            }
        }
    }
    let concurrency = match given.get("concurrency") {
        None => None,
        Some(value) => {
            let number = value.as_u64().and_then(|number| usize::try_from(number).ok()).filter(|number| *number > 0);
            Some(number.ok_or_else(|| fault("\"concurrency\" must be a number greater than 0"))?)
        }
    };
    Ok(Options { zones, concurrency })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &Value) -> Result<Options, String> {
        parse(&Map::from_iter([("queryingOptions".to_owned(), options.clone())])).map_err(|error| error.to_string())
    }

    #[test]
    fn options_are_json_or_text_of_json() {
        assert_eq!(parse(&Map::new()).expect("nothing is needed"), Options::default());
        let tokyo = || Options { zones: vec![Zone::Asia__Tokyo], concurrency: None };
        assert_eq!(read(&json!({"timezone": "Asia/Tokyo"})), Ok(tokyo()));
        assert_eq!(read(&json!("{\"timezones\": [\"Asia/Tokyo\"]}")), Ok(tokyo()));
        let both = json!({"timezones": ["UTC", "Asia/Tokyo", "UTC"], "concurrency": 2});
        assert_eq!(read(&both), Ok(Options { zones: vec![Zone::UTC, Zone::Asia__Tokyo], concurrency: Some(2) }));
    }

    #[test]
    fn faulty_options_are_told() {
        let check = |options: Value, expected: &str| {
            let told = read(&options).expect_err("faulty");
            assert_eq!(told, format!("Invalid queryingOptions: {expected}"));
        };
        check(json!([1]), "\"queryingOptions\" must be of type object");
        check(json!({"zone": 1}), "\"zone\" is not allowed");
        check(json!({"timezone": "Mars/Base"}), "\"timezone\" must be a valid IANA time zone, got \"Mars/Base\"");
        check(json!({"timezones": [7]}), "\"timezones[0]\" must be a valid IANA time zone, got 7");
        check(json!({"timezones": "UTC"}), "\"timezones\" must be an array");
        check(json!({"concurrency": 0}), "\"concurrency\" must be a number greater than 0");
        assert!(read(&json!("{")).expect_err("no JSON").starts_with("Invalid queryingOptions: it is not JSON: "));
    }
}
