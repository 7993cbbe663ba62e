//! The body of a job request → what it asks for, with Cube's texts where it asks wrongly.

use std::time::Duration;

use serde_json::{Map, Value};

use super::super::error::ApiError;
use super::super::wire::parse_zone;
use super::webhook;
use crate::query::dates::parse_bounds;
use crate::refresh::{Atomic, Selection};
use crate::time::{Zone, to_micros};

/// Most tokens that one request may ask for.
const MAX_TOKENS: usize = 100_000;
/// Longest time that a request waits for its jobs, in seconds.
pub(super) const MAX_WAIT_SECONDS: u64 = 3_600;

/// What a request asks for.
#[derive(Debug)]
pub(super) enum JobRequest {
    /// Build what is selected.
    Post {
        /// What.
        selection: Box<Selection>,
        /// Only tell what would be built.
        dry_run: bool,
        /// Answer when the jobs have ended, or after this time.
        wait: Option<Duration>,
    },
    /// Tell how jobs stand.
    Get {
        /// Their tokens.
        tokens: Vec<String>,
        /// Keyed by token.
        as_object: bool,
    },
}

pub(super) fn fault(text: impl AsRef<str>) -> ApiError {
    ApiError::Invalid(format!("Invalid Job query format: {}", text.as_ref()))
}

/// Reads a body.
///
/// # Errors
/// The text says what is wrong with which key.
pub(super) fn parse(body: &Map<String, Value>) -> Result<JobRequest, ApiError> {
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
            parse_post(body, selection)?
        }
        Some(Some("get")) => {
            forbid(&["selector"])?;
            forbid(&OURS)?;
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
    check_keys(body, &[&["action", "selector", "tokens", "resType"][..], &OURS[..]].concat(), "")?;
    Ok(request)
}

/// What a request to build may say beyond Cube's keys.
const OURS: [&str; 6] = ["dry_run", "if_stale", "force", "atomic", "wait", "webhook"];

fn parse_post(body: &Map<String, Value>, mut selection: Selection) -> Result<JobRequest, ApiError> {
    let flag = |key: &str| match body.get(key) {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(fault(format!("\"{key}\" must be a boolean"))),
    };
    let dry_run = flag("dry_run")?.unwrap_or(false);
    selection.if_stale = flag("if_stale")?.unwrap_or(false);
    selection.gated = !flag("force")?.unwrap_or(true);
    selection.atomic = match body.get("atomic").map(Value::as_str) {
        None => None,
        Some(Some("per-preaggregation")) => Some(Atomic::PerPreaggregation),
        Some(Some("all")) => Some(Atomic::All),
        Some(_) => return Err(fault("\"atomic\" must be one of [per-preaggregation, all]")),
    };
    selection.webhook = body.get("webhook").map(webhook::parse).transpose()?;
    let wait = match body.get("wait") {
        None | Some(Value::Bool(false)) => None,
        Some(Value::Bool(true)) => Some(Duration::from_secs(MAX_WAIT_SECONDS)),
        Some(value) => Some(seconds(value.as_f64(), "wait")?),
    };
    if dry_run && (wait.is_some() || selection.webhook.is_some()) {
        return Err(fault("\"dry_run\" builds nothing that \"wait\" or \"webhook\" could tell of"));
    }
    Ok(JobRequest::Post { selection: Box::new(selection), dry_run, wait })
}

/// A time to wait, in seconds.
pub(super) fn seconds(value: Option<f64>, key: &str) -> Result<Duration, ApiError> {
    let in_bounds = value.filter(|seconds| (0.0..=MAX_WAIT_SECONDS as f64).contains(seconds));
    in_bounds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| fault(format!("\"{key}\" must be a number of seconds from 0 to {MAX_WAIT_SECONDS}")))
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
        starts: parse_starts(&list("partitions")?.unwrap_or_default())?,
        ..Selection::default()
    };
    let known = ["contexts", "timezones", "dataSources", "cubes", "preAggregations", "dateRange", "partitions"];
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

/// Where partitions begin: dates or times, also as their digits stand in table names (`20240101`, `2024010106`).
fn parse_starts(texts: &[String]) -> Result<Vec<i64>, ApiError> {
    let start = |(i, text): (usize, &String)| {
        let digits = text.len() > 8 && text.bytes().all(|byte| byte.is_ascii_digit());
        let spread = match text.len() {
            _ if !digits => text.clone(),
            10 => format!("{}T{}:00", &text[..8], &text[8..]),
            12 => format!("{}T{}:{}", &text[..8], &text[8..10], &text[10..]),
            14 => format!("{}T{}:{}:{}", &text[..8], &text[8..10], &text[10..12], &text[12..]),
            _ => text.clone(),
        };
        let span = parse_bounds(&[spread]);
        let no_time =
            || fault(format!("\"selector.partitions[{i}]\" must be the time a partition begins at, got \"{text}\""));
        span.map(|span| to_micros(span.first)).map_err(|_unparsable| no_time())
    };
    texts.iter().enumerate().map(start).collect()
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
    use serde_json::json;

    use super::super::super::wire::instant;
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
    fn what_we_add_to_cube_s_keys_is_checked_as_strictly() {
        let with = |key: &str, value: Value| {
            let mut body = post("cubes", json!([]));
            body[key] = value;
            body
        };
        check_fails(with("dry_run", json!("yes")), "\"dry_run\" must be a boolean");
        check_fails(with("if_stale", json!(1)), "\"if_stale\" must be a boolean");
        check_fails(with("force", json!(null)), "\"force\" must be a boolean");
        for value in [json!(true), json!("some"), json!(null)] {
            check_fails(with("atomic", value), "\"atomic\" must be one of [per-preaggregation, all]");
        }
        check_fails(with("wait", json!(-1)), "\"wait\" must be a number of seconds from 0 to 3600");
        check_fails(with("wait", json!("long")), "\"wait\" must be a number of seconds from 0 to 3600");
        check_fails(with("webhook", json!(1)), "\"webhook\" must be a string");
        check_fails(with("webhook", json!("ftp://x/y")), "\"webhook\" must be a URL that begins with http://");
        check_fails(with("webhook", json!("http:// x")), "\"webhook\" must be a URL that begins with http://");
        check_fails(with("later", json!(true)), "\"later\" is not allowed");
        let get = json!({"action": "get", "tokens": ["a"], "wait": true});
        check_fails(get, "\"wait\" is not allowed");
        check_fails(
            post("partitions", json!(["soon"])),
            "\"selector.partitions[0]\" must be the time a partition begins at, got \"soon\"",
        );
    }

    #[test]
    fn partitions_are_named_by_dates_times_or_digits() {
        let texts = ["2024-02-01", "20240201", "2024020106", "202402010630", "2024-02-01T06:30:00"];
        let found = parse_starts(&texts.map(str::to_owned)).expect("times");
        let shown: Vec<String> = found.into_iter().map(instant).collect();
        let day = "2024-02-01T00:00:00.000Z";
        let half_past = "2024-02-01T06:30:00.000Z";
        assert_eq!(shown, [day, day, "2024-02-01T06:00:00.000Z", half_past, half_past]);
    }

    #[test]
    fn selections_are_read_whole() {
        let mut body = post("dateRange", json!(["1992-03-01", "1992-04-15"]));
        body["selector"]["preAggregations"] = json!(["lineitem.daily"]);
        body["selector"]["contexts"] = json!([{"securityContext": {"tenant": 7}}, {"securityContext": null}]);
        let Ok(JobRequest::Post { selection, dry_run: false, wait: None }) =
            parse(body.as_object().expect("an object"))
        else {
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
}
