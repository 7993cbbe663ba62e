//! `/quarry/v1/jobs`: what Cube's endpoint has not. Lists jobs, waits for them, cancels and retries them.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use quarry_storage::{CancelOutcome, JobId};
use serde_json::{Map, Value, json};

use super::super::error::{ApiError, json_response};
use super::super::{ApiParts, Call};
use super::entry::describe_with_token;
use super::parse::seconds;
use crate::refresh::{JobFilter, JobView};

/// Jobs on a page, without `limit` and at most.
const DEFAULT_PAGE: usize = 100;
const LARGEST_PAGE: usize = 10_000;
/// How long a wait lasts that does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);
/// What a list may be filtered by.
const STATES: [&str; 5] = ["queued", "running", "done", "failed", "cancelled"];

/// A page of jobs, newest first. `state`, `preAggregation`, `cube`, `timezone`, `group` hold words divided by commas.
pub(in super::super) async fn list(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let filter = parse_filter(&call.url)?;
    let page = parts.refresher.list(&filter).await?;
    let jobs: Vec<Value> = page.jobs.iter().map(|job| describe_with_token(job, call.preagg_schema(parts))).collect();
    let body = json!({"jobs": jobs, "total": page.total, "offset": filter.offset, "limit": filter.limit});
    Ok(json_response(StatusCode::OK, body.to_string()))
}

/// Builds, as Cube's endpoint does with `action` `post`.
pub(in super::super) async fn start(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let mut arguments = call.arguments.clone();
    if !arguments.is_empty() {
        arguments.entry("action").or_insert_with(|| json!("post"));
    }
    let call = Call {
        id: call.id.clone(),
        caller: call.caller.clone(),
        headers: call.headers.clone(),
        url: call.url.clone(),
        arguments,
        ..Call::default()
    };
    super::jobs(parts, &call).await
}

/// One job.
pub(in super::super) async fn show(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let job = find(parts, &token(call)).await?;
    Ok(answer(parts, call, &job))
}

/// One job, once it has ended or `timeout` seconds have passed: its state tells which.
pub(in super::super) async fn wait(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let patience = match call.url.get("timeout").and_then(Value::as_str) {
        None => DEFAULT_WAIT,
        Some(text) => seconds(text.parse().ok(), "timeout")?,
    };
    let id = token(call);
    find(parts, &id).await?;
    if let Ok(waited) = tokio::time::timeout(patience, parts.refresher.wait(std::slice::from_ref(&id))).await {
        waited?;
    }
    Ok(answer(parts, call, &find(parts, &id).await?))
}

/// Cancels a job that has not ended; to cancel it twice is no fault.
pub(in super::super) async fn cancel(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let id = token(call);
    let outcome = parts.refresher.cancel(vec![id.clone()]).await?.pop();
    if matches!(outcome, None | Some(CancelOutcome::Unknown)) {
        return Err(unknown(&id));
    }
    let job = find(parts, &id).await?;
    if job.state_word() != "cancelled" {
        return Err(ApiError::Conflict(format!("Job '{id}' has ended already: {}", job.status)));
    }
    tracing::info!(request_id = call.id, job = %id, "cancelled");
    Ok(answer(parts, call, &job))
}

/// Builds again what a failed or cancelled job was for, with its group. The answer is the new job: the old one stays as
/// it ended.
pub(in super::super) async fn retry(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let id = token(call);
    let old = find(parts, &id).await?;
    let Some(new) = parts.refresher.retry(&id).await? else {
        let text = format!("Job '{id}' is {}: only failed and cancelled jobs are retried", old.state_word());
        return Err(ApiError::Conflict(text));
    };
    if let Some(webhook) = old.webhook {
        super::webhook::watch(parts, webhook, vec![new.clone()]);
    }
    tracing::info!(request_id = call.id, job = %new, retry_of = %id, "retried");
    Ok(answer(parts, call, &find(parts, &new).await?))
}

fn token(call: &Call) -> JobId {
    JobId::from_token(call.name.as_deref().unwrap_or_default())
}

async fn find(parts: &ApiParts, id: &JobId) -> Result<JobView, ApiError> {
    parts.refresher.find_job(id).await?.ok_or_else(|| unknown(id))
}

fn unknown(id: &JobId) -> ApiError {
    let shown: String = id.as_str().chars().take(64).collect();
    ApiError::NoJob(shown)
}

fn answer(parts: &ApiParts, call: &Call, job: &JobView) -> Response<Body> {
    json_response(StatusCode::OK, describe_with_token(job, call.preagg_schema(parts)).to_string())
}

fn parse_filter(url: &Map<String, Value>) -> Result<JobFilter, ApiError> {
    let known = ["state", "preAggregation", "cube", "timezone", "group", "offset", "limit"];
    if let Some(key) = url.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(ApiError::Invalid(format!("Unknown parameter '{key}'; a list takes {}", known.join(", "))));
    }
    let words = |key: &str| -> Vec<String> {
        let text = url.get(key).and_then(Value::as_str).unwrap_or_default();
        text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let number = |key: &str, default: usize, most: usize| match url.get(key).and_then(Value::as_str) {
        None => Ok(default),
        Some(text) => match text.parse() {
            Ok(number) if number <= most => Ok(number),
            _ => Err(ApiError::Invalid(format!("'{key}' must be a whole number from 0 to {most}, not '{text}'"))),
        },
    };
    let states = words("state");
    if let Some(word) = states.iter().find(|word| !STATES.contains(&word.as_str())) {
        return Err(ApiError::Invalid(format!("'{word}' is no state of a job; there are {}", STATES.join(", "))));
    }
    Ok(JobFilter {
        states,
        preaggs: words("preAggregation"),
        cubes: words("cube"),
        timezones: words("timezone"),
        groups: words("group"),
        offset: number("offset", 0, usize::MAX)?,
        limit: number("limit", DEFAULT_PAGE, LARGEST_PAGE)?,
    })
}
