//! `/cubejs-system/v1`: rollups as operators' tools of Cube see them (`http-api.md` §9). There only with
//! `CUBEJS_PLAYGROUND_AUTH_SECRET`, for tokens that it signed.

use arrow::record_batch::RecordBatch;
use axum::body::Body;
use axum::http::{Response, StatusCode};
use quarry_storage::{CancelOutcome, JobId, Partition};
use serde_json::{Map, Value, json};

use super::error::{ApiError, json_response};
use super::load::logical_table;
use super::meta::Viewer;
use super::rows::{RowKey, Values, write_data};
use super::wire::parse_zone;
use super::{ApiParts, Call};
use crate::model::{Cube, MemberId, Preagg, PreaggTime};
use crate::query::dates::parse_bounds;
use crate::query::request::ResponseFormat;
use crate::refresh::{JobFilter, Preview, Selection};
use crate::time::{Zone, format_local, from_micros, to_micros};

/// Most rows that are shown of a stored table.
const MOST_ROWS: usize = 1000;
/// Most jobs that a queue shows.
const MOST_JOBS: usize = 10_000;
/// Groups of a partition's facts.
const EXPANSIONS: [&str; 3] = ["partitions.details", "partitions.meta", "partitions.versions"];

/// `GET /context`.
pub(super) fn context(parts: &ApiParts) -> Response<Body> {
    let base = if parts.options.base_path.is_empty() { "/" } else { &parts.options.base_path };
    answer(&json!({"basePath": base, "dockerVersion": null, "serverCoreVersion": env!("CARGO_PKG_VERSION")}))
}

/// `GET /pre-aggregations`: all definitions.
pub(super) fn definitions(parts: &ApiParts, call: &Call) -> Response<Body> {
    let current = parts.model.load_full();
    let asker = call.asker(parts);
    let viewer = Viewer::new(parts, call, current.rollups.model(), &asker);
    let all = viewer.model.cubes().iter().flat_map(|cube| cube.preaggs.iter().map(move |rollup| (cube, rollup)));
    answer(&json!({"preAggregations": all.map(|(cube, rollup)| definition(&viewer, cube, rollup)).collect::<Vec<_>>()}))
}

/// `GET /pre-aggregations/security-contexts`: whom the background builds for.
pub(super) async fn contexts(parts: &ApiParts) -> Result<Response<Body>, ApiError> {
    let contexts = match &parts.hooks {
        Some(hooks) => hooks.background_contexts().await?,
        None => vec![json!({})],
    };
    Ok(answer(&json!({"securityContexts": contexts})))
}

/// `GET /pre-aggregations/timezones`: the zones that the background builds for.
pub(super) fn zones(parts: &ApiParts) -> Response<Body> {
    let zones: Vec<&str> = parts.options.refresh_zones.iter().map(|zone| zone.name()).collect();
    answer(&json!({"timezones": zones}))
}

/// `POST /pre-aggregations/partitions`: the partitions of some rollups, built or not.
pub(super) async fn partitions(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let asked = Asked::read(parts, &call.arguments)?;
    let current = parts.model.load_full();
    let asker = call.asker(parts);
    let viewer = Viewer::new(parts, call, current.rollups.model(), &asker);
    let mut shown = Vec::new();
    for wanted in &asked.rollups {
        let Some((cube, rollup)) = find(&viewer, &wanted.id) else { continue };
        let previews = match rollup.is_stored() {
            true => parts.refresher.preview(&wanted.selection(&asked.zones)).await?,
            false => Vec::new(),
        };
        let partitions: Vec<Value> = previews
            .iter()
            .filter(|preview| !wanted.cache_only || preview.published.is_some())
            .map(|preview| partition(parts, cube, rollup, preview, &asked.expand))
            .filter(|entry| wanted.tables.is_empty() || wanted.tables.iter().any(|table| entry["tableName"] == **table))
            .collect();
        shown.push(json!({
            "errors": [],
            "invalidateKeyQueries": [],
            "preAggregation": definition(&viewer, cube, rollup),
            "timezones": asked.zones.iter().map(|zone| zone.name()).collect::<Vec<_>>(),
            "partitions": partitions,
        }));
    }
    Ok(answer(&json!({"preAggregationPartitions": shown})))
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
    // What is in the snapshot stays on the disk for as long.
    let snapshot = parts.store.snapshot();
    let selection =
        Selection { contexts: vec![json!({})], zones: vec![zone], preaggs: vec![id], ..Selection::default() };
    let previews = parts.refresher.preview(&selection).await?;
    let found = previews.iter().find_map(|preview| {
        let published = preview.published.as_ref()?;
        (version_name(&table_name(parts, preview), preview, published) == wanted).then_some(published)
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
    let asked = Asked::read(parts, &call.arguments)?;
    for wanted in &asked.rollups {
        let jobs = parts.refresher.post(wanted.selection(&asked.zones)).await?;
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
fn table_name(parts: &ApiParts, preview: &Preview) -> String {
    let mut table = logical_table(&parts.options.preagg_schema, &preview.preagg);
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

fn partition(parts: &ApiParts, cube: &Cube, rollup: &Preagg, preview: &Preview, expand: &[String]) -> Value {
    let wants = |group: &str| expand.is_empty() || expand.iter().any(|word| word == group);
    let table = table_name(parts, preview);
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
        let version = |published: &std::sync::Arc<Partition>| {
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

/// What `partitions` and `build` are asked for.
#[derive(Debug)]
struct Asked {
    zones: Vec<Zone>,
    rollups: Vec<Wanted>,
    expand: Vec<String>,
}

#[derive(Debug)]
struct Wanted {
    id: String,
    cache_only: bool,
    /// Names of partitions' tables; all when empty.
    tables: Vec<String>,
    range: Option<(i64, i64)>,
}

impl Wanted {
    fn selection(&self, zones: &[Zone]) -> Selection {
        Selection {
            contexts: vec![json!({})],
            zones: zones.to_vec(),
            preaggs: vec![self.id.clone()],
            range: self.range,
            starts: self.tables.iter().filter_map(|table| start_of(table)).collect(),
            ..Selection::default()
        }
    }
}

/// When the partition of a table's name begins: its last digits.
fn start_of(table: &str) -> Option<i64> {
    let digits = table.len() - table.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let text = table.get(table.len() - digits..)?;
    let spread = match digits {
        8 => text.to_owned(),
        12 => format!("{}T{}:{}", &text[..8], &text[8..10], &text[10..]),
        _ => return None,
    };
    parse_bounds(&[spread]).ok().map(|span| to_micros(span.first))
}

fn fault(text: impl AsRef<str>) -> ApiError {
    ApiError::Invalid(format!("Invalid query format: {}", text.as_ref()))
}

fn no_zone(path: &str, given: impl std::fmt::Display) -> ApiError {
    fault(format!("\"{path}\" must be valid IANA time zones, got {given}"))
}

fn object<'v>(value: Option<&'v Value>, path: &str) -> Result<&'v Map<String, Value>, ApiError> {
    let value = value.ok_or_else(|| fault(format!("\"{path}\" is required")))?;
    value.as_object().ok_or_else(|| fault(format!("\"{path}\" must be of type object")))
}

fn texts(value: Option<&Value>, path: &str) -> Result<Vec<String>, ApiError> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let items = value.as_array().ok_or_else(|| fault(format!("\"{path}\" must be an array")))?;
    let text = |(at, item): (usize, &Value)| {
        item.as_str().map(str::to_owned).ok_or_else(|| fault(format!("\"{path}[{at}]\" must be a string")))
    };
    items.iter().enumerate().map(text).collect()
}

impl Asked {
    fn read(parts: &ApiParts, arguments: &Map<String, Value>) -> Result<Self, ApiError> {
        let query = object(arguments.get("query"), "query")?;
        let known = ["timezone", "timezones", "preAggregations", "expand", "metadata"];
        if let Some(key) = query.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(fault(format!("\"{key}\" is not allowed")));
        }
        let mut names = texts(query.get("timezones"), "timezones")?;
        names.extend(query.get("timezone").and_then(Value::as_str).map(str::to_owned));
        let zone = |name: &String| parse_zone(name).ok_or_else(|| no_zone("timezones", format!("\"{name}\"")));
        let mut zones: Vec<Zone> = names.iter().map(zone).collect::<Result<_, _>>()?;
        if zones.is_empty() {
            zones.clone_from(&parts.options.refresh_zones);
        }
        let expand = texts(query.get("expand"), "expand")?;
        if let Some(word) = expand.iter().find(|word| !EXPANSIONS.contains(&word.as_str())) {
            return Err(fault(format!("\"expand\" must be of [{}], got \"{word}\"", EXPANSIONS.join(", "))));
        }
        let listed = query.get("preAggregations").ok_or_else(|| fault("\"preAggregations\" is required"))?;
        let listed = listed.as_array().ok_or_else(|| fault("\"preAggregations\" must be an array"))?;
        let rollups = listed.iter().enumerate().map(|(at, entry)| Wanted::read(at, entry)).collect::<Result<_, _>>()?;
        Ok(Self { zones, rollups, expand })
    }
}

impl Wanted {
    fn read(at: usize, entry: &Value) -> Result<Self, ApiError> {
        let path = format!("preAggregations[{at}]");
        let entry = object(Some(entry), &path)?;
        let known = ["id", "cacheOnly", "metaOnly", "partitions", "refreshRange"];
        if let Some(key) = entry.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(fault(format!("\"{path}.{key}\" is not allowed")));
        }
        let id = entry.get("id").and_then(Value::as_str).ok_or_else(|| fault(format!("\"{path}.id\" is required")))?;
        let ends = texts(entry.get("refreshRange"), &format!("{path}.refreshRange"))?;
        let range = match ends.len() {
            0 => None,
            2 => {
                let span = parse_bounds(&ends).map_err(|_unparsable| {
                    fault(format!("\"{path}.refreshRange\" must hold two dates, got {}", ends.join(", ")))
                })?;
                Some((to_micros(span.first), to_micros(span.last)))
            }
            _ => return Err(fault(format!("\"{path}.refreshRange\" must contain 2 items"))),
        };
        let flag = |key: &str| entry.get(key).is_some_and(|value| value == true);
        let tables = texts(entry.get("partitions"), &format!("{path}.partitions"))?;
        Ok(Self { id: id.to_owned(), cache_only: flag("cacheOnly"), tables, range })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_named_by_their_tables() {
        let day = to_micros(parse_bounds(&["2024-03-01".to_owned()]).expect("a date").first);
        assert_eq!(start_of("prod_pre_aggregations.orders_monthly20240301"), Some(day));
        assert_eq!(start_of("prod_pre_aggregations.orders_hourly202403010600"), Some(day + 6 * 3_600_000_000));
        assert_eq!(start_of("prod_pre_aggregations.orders_all"), None);
        assert_eq!(start_of(""), None);
    }

    #[test]
    fn faulty_questions_are_told() {
        let told = |entry: Value| Wanted::read(0, &entry).map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(told(json!({"id": "orders.main", "refreshRange": ["2024-01-01", "2024-01-31"]})), Ok(()));
        for (entry, text) in [
            (json!(7), "\"preAggregations[0]\" must be of type object"),
            (json!({}), "\"preAggregations[0].id\" is required"),
            (json!({"id": "a.b", "x": 1}), "\"preAggregations[0].x\" is not allowed"),
            (json!({"id": "a.b", "partitions": "t"}), "\"preAggregations[0].partitions\" must be an array"),
            (
                json!({"id": "a.b", "refreshRange": ["2024-01-01"]}),
                "\"preAggregations[0].refreshRange\" must contain 2 items",
            ),
        ] {
            assert_eq!(told(entry), Err(format!("Invalid query format: {text}")));
        }
    }
}
