//! `/quarry/v1/rollback` and `/quarry/v1/gc`: what an operator asks of the store that this server holds. Scope jobs.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use quarry_storage::{FileId, PartitionKey, RolledBack, Scope, TableId, VersionChoice};
use serde_json::{Map, Value, json};

use super::error::{ApiError, json_response};
use super::wire::instant;
use super::{ApiParts, Call};
use crate::preagg::partition::bucket_text;
use crate::tasks::blocking;
use crate::time::to_micros;

/// `{"table": …, "partition"?: "2024-03-01" | "all", "version"?: …, "before"?: …}`; without `partition` the whole
/// table, without `version` and `before` the version that was built before the live one.
pub(super) async fn rollback(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let (scope, choice) = parse(parts, &call.arguments).await?;
    let rolled_back = parts.refresher.rollback(scope, choice).await?;
    tracing::info!(request_id = call.id, partitions = rolled_back.len(), "rolled back");
    let partitions: Vec<Value> = rolled_back.iter().map(describe_rollback).collect();
    Ok(json_response(StatusCode::OK, json!({"partitions": partitions}).to_string()))
}

/// Deletes replaced files that nobody needs, now and not at the next look.
pub(super) async fn collect_garbage(parts: &ApiParts) -> Result<Response<Body>, ApiError> {
    let (store, clock) = (parts.store.clone(), parts.clock);
    let report = blocking(move || store.collect_garbage(clock.now())).await?;
    let body = json!({"files": report.files, "bytes": report.size_bytes, "kept": report.kept});
    Ok(json_response(StatusCode::OK, body.to_string()))
}

/// A partition that was rolled back, as clients and the command line see it.
pub fn describe_rollback(rolled_back: &RolledBack) -> Value {
    json!({
        "table": rolled_back.partition.table.as_str(),
        "partition": bucket_text(rolled_back.partition.bucket),
        "rowsBefore": rolled_back.from.as_ref().map(|from| from.rows),
        "rows": rolled_back.to.rows,
        "builtAt": instant(rolled_back.to.built_at),
        "cancelledJobs": rolled_back.cancelled.iter().map(|job| job.as_str()).collect::<Vec<_>>(),
    })
}

async fn parse(parts: &ApiParts, body: &Map<String, Value>) -> Result<(Scope, VersionChoice), ApiError> {
    let fault = |text: String| ApiError::Invalid(format!("Invalid rollback: {text}"));
    if let Some(key) = body.keys().find(|key| !["table", "partition", "version", "before"].contains(&key.as_str())) {
        return Err(fault(format!("\"{key}\" is not allowed")));
    }
    let text = |name: &str| match body.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(fault(format!("\"{name}\" must be a string"))),
    };
    let name = text("table")?.ok_or_else(|| fault("\"table\" is required".to_owned()))?;
    let table = TableId::new(name).ok_or_else(|| fault(format!("\"table\" '{name}' is not a table's name")))?;
    let choice = match (text("version")?, text("before")?) {
        (Some(_), Some(_)) => return Err(fault("\"version\" and \"before\" exclude each other".to_owned())),
        (Some(version), None) => VersionChoice::File(
            FileId::parse(version).ok_or_else(|| fault(format!("\"version\" '{version}' is not a version")))?,
        ),
        (None, Some(time)) => {
            let parsed: Result<chrono::NaiveDateTime, _> = time.trim_end_matches('Z').parse();
            let parsed = parsed
                .map_err(|_invalid| fault(format!("\"before\" '{time}' is not a time such as 2024-03-09T06:00:00")))?;
            VersionChoice::BuiltBefore(to_micros(parsed))
        }
        (None, None) => VersionChoice::Previous,
    };
    let Some(wanted) = text("partition")? else {
        return match choice {
            VersionChoice::File(_) => Err(fault("\"version\" needs a \"partition\"".to_owned())),
            _ => Ok((Scope::Table(table), choice)),
        };
    };
    let key = find_partition(parts, &table, wanted).await?;
    let key = key.ok_or_else(|| fault(format!("{table} has no partition '{wanted}'")))?;
    Ok((Scope::Partition(key), choice))
}

/// Among the live ones, and those of which there is a version to go back to.
async fn find_partition(parts: &ApiParts, table: &TableId, wanted: &str) -> Result<Option<PartitionKey>, ApiError> {
    let store = parts.store.clone();
    let versions = blocking(move || store.versions()).await?;
    let snapshot = parts.store.snapshot();
    let live = snapshot.table(table).into_iter().flat_map(|table| table.partitions.values());
    let live = live.map(|partition| PartitionKey { table: table.clone(), bucket: partition.bucket });
    let previous = versions.into_iter().map(|version| version.partition).filter(|key| key.table == *table);
    Ok(live.chain(previous).find(|key| bucket_text(key.bucket) == wanted))
}
