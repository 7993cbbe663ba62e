//! What clients see of a job: Cube's words, and ours under `quarry`.

use quarry_storage::{Bounds, JobPhase, JobState};
use serde_json::{Map, Value, json};

use super::super::load::logical_table;
use super::super::wire::instant;
use crate::refresh::JobView;
use crate::time::{format_local, from_micros};

/// The entry of a job, without its token.
pub(super) fn describe(job: &JobView, schema: &str) -> Map<String, Value> {
    let cube = job.preagg.split('.').next().unwrap_or_default();
    let selector = json!({
        "cubes": [cube],
        "preAggregations": [job.preagg],
        "contexts": [{ "securityContext": job.context }],
        "timezones": [job.timezone],
        "dataSources": [job.data_source],
    });
    Map::from_iter([
        ("table".to_owned(), json!(physical_table(job, schema))),
        ("status".to_owned(), json!(job.status)),
        ("selector".to_owned(), selector),
        ("quarry".to_owned(), ours(job)),
    ])
}

/// The entry of a job with its token, as lists hold it.
pub(super) fn describe_with_token(job: &JobView, schema: &str) -> Value {
    with_token(job.record.id.as_str(), describe(job, schema))
}

/// An entry with its token in front.
pub(super) fn with_token(token: &str, entry: Map<String, Value>) -> Value {
    let mut item = Map::from_iter([("token".to_owned(), json!(token))]);
    item.extend(entry);
    Value::Object(item)
}

fn ours(job: &JobView) -> Value {
    let record = &job.record;
    let (mut rows, mut size_bytes, mut phase) = (None, None, None);
    if let Some(progress) = job.progress {
        (rows, size_bytes) = (Some(progress.rows), Some(progress.size_bytes));
        phase = Some(match progress.phase {
            JobPhase::Planning => "planning",
            JobPhase::Querying => "querying",
            JobPhase::Writing => "writing",
            JobPhase::Waiting => "waiting",
            JobPhase::Publishing => "publishing",
        });
    }
    let mut cause = None;
    match &record.state {
        JobState::Done { output: Some(output), .. } => {
            (rows, size_bytes) = (Some(output.rows), Some(output.size_bytes));
        }
        JobState::Failed { cause: text } => cause = Some(text),
        JobState::Done { output: None, .. } | JobState::Queued | JobState::Running | JobState::Cancelled => {}
    }
    json!({
        "state": job.state_word(),
        "cause": cause,
        "phase": phase,
        "rows": rows,
        "sizeBytes": size_bytes,
        "progressAt": job.progress.map(|progress| instant(progress.updated_at)),
        "partition": partition(record.partition.bucket),
        "attempt": record.attempt,
        "createdAt": instant(record.created_at),
        "startedAt": record.started_at.map(instant),
        "endedAt": record.ended_at.map(instant),
        "group": record.group,
    })
}

/// A bucket in the rollup's local time, its end exclusive; null for an unpartitioned rollup.
pub(super) fn partition(bucket: Option<Bounds>) -> Value {
    bucket.map_or(Value::Null, |bucket| json!({"start": format_local(bucket.start), "end": format_local(bucket.end)}))
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
