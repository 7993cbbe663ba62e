//! `/cubejs-system/v1`: rollups as operators' tools of Cube see them (`http-api.md` §9). There only with
//! `CUBEJS_PLAYGROUND_AUTH_SECRET`, for tokens that it signed. Where `cube.js` has several models, the one that is seen
//! and built is that of the security context that the operator's token tells.

mod asked;

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use axum::body::Body;
use axum::http::{Response, StatusCode};
use quarry_storage::{CancelOutcome, JobId, Partition};
use serde_json::{Map, Value, json};

use self::asked::{Asked, fault, no_zone, object, texts};
use super::access::Caller;
use super::error::{ApiError, json_response};
use super::load::logical_table;
use super::meta::Viewer;
use super::rows::{RowKey, Values, write_data};
use super::wire::parse_zone;
use super::{ApiParts, Call};
use crate::hooks::HookError;
use crate::model::{Cube, MemberId, Preagg, PreaggTime};
use crate::query::policy::Asker;
use crate::query::request::ResponseFormat;
use crate::query::rollups::CurrentModel;
use crate::refresh::{JobFilter, Preview, Selection};
use crate::time::{Zone, format_local, from_micros};

/// Most rows that are shown of a stored table.
const MOST_ROWS: usize = 1000;
/// Most jobs that a queue shows.
const MOST_JOBS: usize = 10_000;

/// `GET /context`.
pub(super) fn context(parts: &ApiParts) -> Response<Body> {
    let base = if parts.options.base_path.is_empty() { "/" } else { &parts.options.base_path };
    answer(&json!({"basePath": base, "dockerVersion": null, "serverCoreVersion": env!("CARGO_PKG_VERSION")}))
}

/// What an operator looks at.
struct Sight {
    current: Arc<CurrentModel>,
    asker: Asker,
    /// The security context that it is the model of.
    context: Value,
    /// Prefix of table names.
    schema: String,
}

impl Sight {
    /// The model of the caller's context, as it is now.
    async fn of(parts: &ApiParts, call: &Call) -> Result<Self, ApiError> {
        let caller = call.caller.renewed(parts).await?;
        let call = Call { caller, ..Call::default() };
        Ok(Self {
            current: call.model(parts),
            asker: call.asker(parts),
            context: context_of(&call.caller),
            schema: call.preagg_schema(parts).to_owned(),
        })
    }

    fn viewer<'a>(&'a self, parts: &'a ApiParts, call: &Call) -> Viewer<'a> {
        Viewer::new(parts, call, self.current.rollups.model(), &self.asker)
    }
}

/// The security context of a caller; the empty one where nobody in particular is there.
fn context_of(caller: &Caller) -> Value {
    caller.context.as_ref().map_or_else(|| json!({}), |context| context.0.clone())
}

/// The zones that the background builds for in the caller's context.
async fn background_zones(parts: &ApiParts, call: &Call) -> Result<Vec<Zone>, HookError> {
    parts.refresher.zones_of(&context_of(&call.caller)).await
}

/// `GET /pre-aggregations`: all definitions.
pub(super) async fn definitions(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let sight = Sight::of(parts, call).await?;
    let viewer = sight.viewer(parts, call);
    let all = viewer.model.cubes().iter().flat_map(|cube| cube.preaggs.iter().map(move |rollup| (cube, rollup)));
    let all: Vec<Value> = all.map(|(cube, rollup)| definition(&viewer, cube, rollup)).collect();
    Ok(answer(&json!({"preAggregations": all})))
}

/// `GET /pre-aggregations/security-contexts`: whom the background builds for, where the project says so.
pub(super) async fn contexts(parts: &ApiParts) -> Result<Response<Body>, ApiError> {
    let given = match &parts.hooks {
        Some(hooks) => hooks.given_contexts().await?,
        None => None,
    };
    let contexts: Vec<Value> = given.into_iter().flatten().flatten().collect();
    Ok(answer(&json!({"securityContexts": contexts})))
}

/// `GET /pre-aggregations/timezones`: the zones that the background builds for.
pub(super) async fn zones(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let zones = background_zones(parts, call).await?;
    Ok(answer(&json!({"timezones": zones.iter().map(|zone| zone.name()).collect::<Vec<_>>()})))
}

/// `POST /pre-aggregations/partitions`: the partitions of some rollups, built or not.
pub(super) async fn partitions(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let asked = Asked::read(&call.arguments)?;
    let zones = asked_zones(parts, call, &asked).await?;
    let sight = Sight::of(parts, call).await?;
    let viewer = sight.viewer(parts, call);
    let mut shown = Vec::new();
    for wanted in &asked.rollups {
        let Some((cube, rollup)) = find(&viewer, &wanted.id) else { continue };
        let previews = match rollup.is_stored() {
            true => parts.refresher.preview(&wanted.selection(&sight.context, &zones)).await?,
            false => Vec::new(),
        };
        let partitions: Vec<Value> = previews
            .iter()
            .filter(|preview| !wanted.cache_only || preview.published.is_some())
            .map(|preview| partition(&sight.schema, cube, rollup, preview, &asked.expand))
            .filter(|entry| wanted.tables.is_empty() || wanted.tables.iter().any(|table| entry["tableName"] == **table))
            .collect();
        shown.push(json!({
            "errors": [],
            "invalidateKeyQueries": [],
            "preAggregation": definition(&viewer, cube, rollup),
            "timezones": zones.iter().map(|zone| zone.name()).collect::<Vec<_>>(),
            "partitions": partitions,
        }));
    }
    Ok(answer(&json!({"preAggregationPartitions": shown})))
}

/// The zones that are asked for, or those of the background.
async fn asked_zones(parts: &ApiParts, call: &Call, asked: &Asked) -> Result<Vec<Zone>, HookError> {
    if asked.zones.is_empty() { background_zones(parts, call).await } else { Ok(asked.zones.clone()) }
}

/// `POST /pre-aggregations/preview`: the first rows of a built partition, which is named by one of its
/// `versionEntries`; nothing when that version is not there.
pub(super) async fn preview(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let query = object(call.arguments.get("query"), "query")?;
    let text = |holder: &Map<String, Value>, key: &str, path: &str| {
        let value = holder.get(key).and_then(Value::as_str).map(str::to_owned);
        value.ok_or_else(|| fault(format!("\"{path}\" is required")))
    };
    let id = text(query, "preAggregationId", "preAggregationId")?;
    let zone = match query.get("timezone") {
        None => Zone::UTC,
        Some(name) => name.as_str().and_then(parse_zone).ok_or_else(|| no_zone("timezone", name))?,
    };
    let entry = object(query.get("versionEntry"), "versionEntry")?;
    let wanted = text(entry, "table_name", "versionEntry.table_name")?;
    let sight = Sight::of(parts, call).await?;
    // What is in the snapshot stays on the disk for as long.
    let snapshot = parts.store.snapshot();
    let contexts = vec![sight.context.clone()];
    let selection = Selection { contexts, zones: vec![zone], preaggs: vec![id], ..Selection::default() };
    let previews = parts.refresher.preview(&selection).await?;
    let found = previews.iter().find_map(|preview| {
        let published = preview.published.as_ref()?;
        (version_name(&table_name(&sight.schema, preview), preview, published) == wanted).then_some(published)
    });
    let Some(published) = found else { return Ok(answer(&json!({}))) };
    let batches = parts.queries.stored_rows(published, MOST_ROWS).await?;
    drop(snapshot);
    let columns = batches.first().map(RecordBatch::schema);
    let key =
        |(column, name): (usize, &String)| RowKey { name: name.clone(), values: Values::Column(column), time: false };
    let keys: Vec<RowKey> =
        columns.iter().flat_map(|columns| columns.fields()).map(|field| field.name()).enumerate().map(key).collect();
    let mut body = br#"{"preview":{"data":"#.to_vec();
    write_data(&mut body, ResponseFormat::Default, &keys, &batches)
        .map_err(|error| ApiError::Internal(error.to_string()))?;
    body.extend_from_slice(b"}}");
    Ok(json_response(StatusCode::OK, body))
}

/// `POST /pre-aggregations/build`: builds some partitions, in the background.
pub(super) async fn build(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let asked = Asked::read(&call.arguments)?;
    let zones = asked_zones(parts, call, &asked).await?;
    let context = context_of(&call.caller);
    for wanted in &asked.rollups {
        let jobs = parts.refresher.post(wanted.selection(&context, &zones)).await?;
        tracing::info!(request_id = call.id, rollup = wanted.id, jobs = jobs.len(), "builds are asked for");
    }
    Ok(answer(&json!({"result": true})))
}

/// `POST /pre-aggregations/queue`: the builds that wait or run.
pub(super) async fn queue(parts: &ApiParts) -> Result<Response<Body>, ApiError> {
    let states = ["queued", "running"].map(str::to_owned).to_vec();
    let page = parts.refresher.list(&JobFilter { states, limit: MOST_JOBS, ..JobFilter::default() }).await?;
    let entry = |job: &crate::refresh::JobView| {
        let bucket = job.record.partition.bucket;
        json!({
            "queryKey": job.record.id.as_str(),
            "query": {
                "preAggregationId": job.preagg,
                "timezone": job.timezone,
                "dataSource": job.data_source,
                "buildRangeStart": bucket.map(|bucket| format_local(bucket.start)),
                "buildRangeEnd": bucket.map(|bucket| format_local(bucket.end - 1)),
            },
            "status": [if job.state_word() == "running" { "active" } else { "toProcess" }],
        })
    };
    Ok(answer(&json!({"result": page.jobs.iter().map(entry).collect::<Vec<_>>()})))
}

/// `POST /pre-aggregations/cancel`: cancels builds by their keys in the queue.
pub(super) async fn cancel(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let query = object(call.arguments.get("query"), "query")?;
    let keys = texts(query.get("queryKeys"), "queryKeys")?;
    let ids: Vec<JobId> = keys.iter().map(|key| JobId::from_token(key)).collect();
    let outcomes = parts.refresher.cancel(ids).await?;
    let ended = |outcome: &CancelOutcome| matches!(outcome, CancelOutcome::WasQueued(_) | CancelOutcome::WasRunning(_));
    let cancelled: Vec<bool> = outcomes.iter().map(ended).collect();
    Ok(answer(&json!({"result": cancelled})))
}

fn answer(body: &Value) -> Response<Body> {
    json_response(StatusCode::OK, body.to_string())
}

fn find<'m>(viewer: &Viewer<'m>, id: &str) -> Option<(&'m Cube, &'m Preagg)> {
    let (cube, name) = id.split_once('.')?;
    let cube = viewer.model.find_cube(cube)?;
    Some((cube, cube.preaggs.iter().find(|rollup| rollup.name == name)?))
}

fn definition(viewer: &Viewer<'_>, cube: &Cube, rollup: &Preagg) -> Value {
    let shown = viewer.rollup(cube, rollup);
    let path = |member: MemberId| viewer.model.path_of(member);
    let time = |time: PreaggTime| {
        let grain = viewer.model.dimension(time.dimension).grain_name(time.grain);
        json!({"dimension": path(MemberId::Dimension(time.dimension)), "granularity": grain})
    };
    let indexes: Map<String, Value> =
        rollup.indexes.iter().map(|index| (index.name.clone(), json!({"columns": index.columns}))).collect();
    json!({
        "id": format!("{}.{}", cube.name, rollup.name),
        "preAggregationName": rollup.name,
        "cube": cube.name,
        "references": {
            "measures": rollup.measures.iter().map(|id| path(MemberId::Measure(*id))).collect::<Vec<_>>(),
            "dimensions": rollup.dimensions.iter().map(|id| path(MemberId::Dimension(*id))).collect::<Vec<_>>(),
            "timeDimensions": rollup.times().map(time).collect::<Vec<_>>(),
            "rollups": [],
        },
        "refreshKey": shown.get("refreshKey"),
        "indexesReferences": indexes,
        "preAggregation": shown,
    })
}

/// The name of a partition's table, as Cube would give it.
fn table_name(schema: &str, preview: &Preview) -> String {
    let mut table = logical_table(schema, &preview.preagg);
    if let Some(bucket) = preview.bucket {
        let start = from_micros(bucket.start);
        let format = if start.format("%H%M").to_string() == "0000" { "%Y%m%d" } else { "%Y%m%d%H%M" };
        table.push_str(&start.format(format).to_string());
    }
    table
}

/// What a table's structure is known by.
fn structure_of(preview: &Preview) -> &str {
    preview.table.as_str().rsplit('-').next().unwrap_or_default()
}

/// What the rows of a published partition are known by.
fn content_of(published: &Partition) -> String {
    format!("{:016x}", published.checksum)
}

/// The name of one version of a partition's table.
fn version_name(table: &str, preview: &Preview, published: &Partition) -> String {
    let built = published.built_at.div_euclid(1_000_000);
    format!("{table}_{}_{}_{built:x}", content_of(published), structure_of(preview))
}

fn partition(schema: &str, cube: &Cube, rollup: &Preagg, preview: &Preview, expand: &[String]) -> Value {
    let wants = |group: &str| expand.is_empty() || expand.iter().any(|word| word == group);
    let table = table_name(schema, preview);
    let mut entry = json!({
        "dataSource": cube.data_source,
        "preAggregationId": preview.preagg,
        "tableName": table,
        "type": kind_of(rollup),
    });
    if wants("partitions.details") {
        entry["timezone"] = json!(preview.timezone);
        entry["buildRangeStart"] = json!(preview.bucket.map(|bucket| format_local(bucket.start)));
        entry["buildRangeEnd"] = json!(preview.bucket.map(|bucket| format_local(bucket.end - 1000)));
    }
    if wants("partitions.meta") {
        entry["structureVersion"] = json!(structure_of(preview));
    }
    if wants("partitions.versions") {
        let version = |published: &Arc<Partition>| {
            json!({
                "table_name": version_name(&table, preview, published),
                "structure_version": structure_of(preview),
                "content_version": content_of(published),
                "last_updated_at": published.built_at.div_euclid(1000),
                "naming_version": 2,
            })
        };
        entry["versionEntries"] = preview.published.iter().map(version).collect();
    }
    entry
}

fn kind_of(rollup: &Preagg) -> &'static str {
    use crate::model::PreaggKind::{Join, Lambda, OriginalSql, Rollup};
    match rollup.kind {
        Rollup => "rollup",
        OriginalSql => "originalSql",
        Join { .. } => "rollupJoin",
        Lambda { .. } => "rollupLambda",
    }
}
