//! `/v1/pre-aggregations/jobs`: starts builds of rollups and tells how they stand (`http-api.md` §8). What Cube has
//! not (lists, progress, cancel, retry, waiting) is in [`manage`], under `/quarry/v1/jobs`.

mod entry;
pub(super) mod manage;
mod parse;
pub(super) mod webhook;

use std::time::Duration;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use quarry_storage::JobId;
use serde_json::{Map, Value, json};

use self::entry::{describe, partition, with_token};
use self::parse::{JobRequest, parse};
use super::error::{ApiError, json_response};
use super::wire::instant;
use super::{ApiParts, Call};
use crate::refresh::{Freshness, Preview, Selection};

/// Starts or lists.
pub(super) async fn jobs(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let body = match parse(&call.arguments)? {
        JobRequest::Post { selection, dry_run: true, .. } => {
            preview(&Box::pin(parts.refresher.preview(&selection)).await?)
        }
        JobRequest::Post { selection, wait, .. } => start(parts, call, *selection, wait).await?,
        JobRequest::Get { tokens, as_object } => show(entries(parts, call, tokens).await?, as_object),
    };
    Ok(json_response(StatusCode::OK, body.to_string()))
}

/// The tokens, as Cube answers; the jobs themselves for who has waited for them.
async fn start(parts: &ApiParts, call: &Call, selection: Selection, wait: Option<Duration>) -> Result<Value, ApiError> {
    let webhook = selection.webhook.clone();
    let ids = Box::pin(parts.refresher.post(selection)).await?;
    tracing::info!(request_id = call.id, jobs = ids.len(), "builds requested");
    if let Some(webhook) = webhook {
        webhook::watch(parts, webhook, ids.clone());
    }
    let tokens: Vec<String> = ids.iter().map(|id| id.as_str().to_owned()).collect();
    let Some(wait) = wait else { return Ok(json!(tokens)) };
    // When time is up the entries say how far the jobs are.
    if let Ok(waited) = tokio::time::timeout(wait, parts.refresher.wait(&ids)).await {
        waited?;
    }
    Ok(show(entries(parts, call, tokens).await?, false))
}

async fn entries(
    parts: &ApiParts,
    call: &Call,
    tokens: Vec<String>,
) -> Result<Vec<(String, Option<Map<String, Value>>)>, ApiError> {
    let mut entries = Vec::with_capacity(tokens.len());
    for token in tokens {
        let job = parts.refresher.find_job(&JobId::from_token(&token)).await?;
        entries.push((token, job.map(|job| describe(&job, call.preagg_schema(parts)))));
    }
    Ok(entries)
}

/// The entries in the order asked for, as an array or by token.
fn show(entries: Vec<(String, Option<Map<String, Value>>)>, as_object: bool) -> Value {
    let unknown = || Map::from_iter([("status".to_owned(), json!("not_found"))]);
    let entries = entries.into_iter().map(|(token, entry)| (token, entry.unwrap_or_else(unknown)));
    if as_object {
        return Value::Object(entries.map(|(token, entry)| (token, Value::Object(entry))).collect());
    }
    entries.map(|(token, entry)| with_token(&token, entry)).collect()
}

/// What a dry run tells: every partition, and what all of them are likely to cost.
fn preview(previews: &[Preview]) -> Value {
    let known = |number: fn(&quarry_storage::Partition) -> u64| -> u64 {
        previews.iter().filter_map(|preview| preview.published.as_deref()).map(number).sum()
    };
    let describe = |preview: &Preview| {
        let published = preview.published.as_deref();
        json!({
            "preAggregation": preview.preagg,
            "timezone": preview.timezone,
            "securityContext": preview.context,
            "partition": partition(preview.bucket),
            "freshness": match preview.freshness {
                Freshness::Missing => "missing",
                Freshness::Stale => "stale",
                Freshness::Fresh => "fresh",
            },
            "rows": published.map(|partition| partition.rows),
            "sizeBytes": published.map(|partition| partition.size_bytes),
            "lastBuildMs": published.map(|partition| partition.build_ms),
            "builtAt": published.map(|partition| instant(partition.built_at)),
        })
    };
    json!({
        "dryRun": true,
        "jobs": previews.iter().map(describe).collect::<Vec<_>>(),
        "total": {
            "jobs": previews.len(),
            "neverBuilt": previews.iter().filter(|preview| preview.published.is_none()).count(),
            "rows": known(|partition| partition.rows),
            "sizeBytes": known(|partition| partition.size_bytes),
            "lastBuildMs": known(|partition| partition.build_ms),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_tokens_are_answered_in_both_forms() {
        let entries = || vec![("deadbeef".to_owned(), None)];
        assert_eq!(show(entries(), false), json!([{"token": "deadbeef", "status": "not_found"}]));
        assert_eq!(show(entries(), true), json!({"deadbeef": {"status": "not_found"}}));
    }
}
