//! The Metadata API: data sources, and cubes and views with their lineage.
//!
//! An entity is what `/v1/meta?extended` shows of a cube, its members under their short names, with
//! `table_references`, `cube_references`, `member_references` and `column_references`.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::Viewer;
use crate::api::error::{ApiError, json_response};
use crate::api::{ApiParts, Call};
use crate::model::{Cube, MemberId};
use crate::query::lineage::{ColumnRef, CubeLineage, Lineage, MemberLineage, TableRef};
use crate::query::rollups::Rollups;

/// Entities of a page when the request does not say.
const DEFAULT_LIMIT: usize = 100;
/// Most entities of a page.
const MAX_LIMIT: usize = 10_000;

/// `/v1/data-sources`: the sources of the cubes that the caller sees.
pub(in crate::api) fn data_sources(parts: &ApiParts, call: &Call) -> Response<Body> {
    let current = call.model(parts);
    let asker = call.asker(parts);
    let viewer = Viewer::new(parts, call, current.rollups.model(), &asker);
    let seen = viewer.model.cubes().iter().filter(|cube| viewer.sees(cube));
    let names: BTreeSet<&str> = seen.map(|cube| cube.data_source.as_str()).collect();
    let describe = |name: &str| match parts.queries.sources.get(name) {
        Some(source) => json!({"name": name, "type": source.db_type()}),
        None => json!({ "name": name }),
    };
    let sources: Vec<Value> = names.into_iter().map(describe).collect();
    json_response(StatusCode::OK, json!({"data": {"data_sources": sources}}).to_string())
}

/// `/v1/entities`: cubes and views without their members.
///
/// # Errors
/// `offset` or `limit` is no number that fits.
pub(in crate::api) fn entities(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let current = call.model(parts);
    let asker = call.asker(parts);
    let viewer = Viewer::new(parts, call, current.rollups.model(), &asker);
    page(&viewer, call, |cube| {
        let mut item = viewer.head(cube);
        item.put("data_source", json!(cube.data_source));
        item.finish()
    })
}

/// `/v1/entities/all`: cubes and views with all that is known of them.
///
/// # Errors
/// As [`entities`].
pub(in crate::api) async fn all_entities(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let rollups = Arc::clone(&call.model(parts).rollups);
    let lineage = lineage_of(&rollups).await?;
    let asker = call.asker(parts);
    let viewer = Viewer { extended: true, ..Viewer::new(parts, call, rollups.model(), &asker) };
    page(&viewer, call, |cube| entity(&viewer, cube, lineage))
}

/// `/v1/entities/{name}`: one cube or view.
///
/// # Errors
/// There is no such entity that the caller sees.
pub(in crate::api) async fn one_entity(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let rollups = Arc::clone(&call.model(parts).rollups);
    let lineage = lineage_of(&rollups).await?;
    let asker = call.asker(parts);
    let viewer = Viewer { extended: true, ..Viewer::new(parts, call, rollups.model(), &asker) };
    let name = call.name.as_deref().unwrap_or_default();
    let found = viewer.model.find_cube(name).filter(|cube| viewer.sees(cube));
    let cube = found.ok_or_else(|| ApiError::NoEntity(name.to_owned()))?;
    Ok(json_response(StatusCode::OK, json!({ "data": entity(&viewer, cube, lineage) }).to_string()))
}

/// The model's lineage. It is read once a model, on a thread that may take its time.
async fn lineage_of(rollups: &Arc<Rollups>) -> Result<&Lineage, ApiError> {
    let reader = Arc::clone(rollups);
    let read = tokio::task::spawn_blocking(move || {
        reader.lineage();
    });
    read.await.map_err(|error| ApiError::Internal(format!("lineage: {error}")))?;
    Ok(rollups.lineage())
}

/// Answers with the entities that the caller sees, from `offset`, at most `limit`.
fn page(viewer: &Viewer<'_>, call: &Call, show: impl Fn(&Cube) -> Value) -> Result<Response<Body>, ApiError> {
    let offset = number(call, "offset", 0..=usize::MAX)?.unwrap_or(0);
    let limit = number(call, "limit", 1..=MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT);
    let seen: Vec<&Cube> = viewer.model.cubes().iter().filter(|cube| viewer.sees(cube)).collect();
    let data: Vec<Value> = seen.iter().skip(offset).take(limit).map(|cube| show(cube)).collect();
    let pagination = json!({"offset": offset, "limit": limit, "total": seen.len()});
    Ok(json_response(StatusCode::OK, json!({"data": data, "pagination": pagination}).to_string()))
}

/// A number of the URL or the body.
fn number(call: &Call, key: &str, range: std::ops::RangeInclusive<usize>) -> Result<Option<usize>, ApiError> {
    let given = match call.url.get(key).or_else(|| call.arguments.get(key)) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => value.as_u64().and_then(|value| usize::try_from(value).ok()),
    };
    match given.filter(|number| range.contains(number)) {
        Some(number) => Ok(Some(number)),
        None if *range.end() == usize::MAX => {
            Err(ApiError::Invalid(format!("\"{key}\" must be a number from {}", range.start())))
        }
        None => {
            let (least, most) = range.into_inner();
            Err(ApiError::Invalid(format!("\"{key}\" must be a number from {least} to {most}")))
        }
    }
}

fn entity(viewer: &Viewer<'_>, cube: &Cube, lineage: &Lineage) -> Value {
    let own = lineage.cube(cube.id);
    let mut item = viewer.cube(cube);
    item.put("data_source", json!(cube.data_source));
    item.put("table_references", own.tables.iter().map(table).collect());
    let cubes = own.cubes.iter().map(|id| json!({ "cube": viewer.model.cube(*id).name }));
    item.put("cube_references", cubes.collect());
    let mut entity = item.finish();
    add_to_members(viewer, cube, own, &mut entity);
    for (join, columns) in list(&mut entity, "joins").zip(&own.joins) {
        join.insert("column_references".to_owned(), columns.iter().map(column).collect());
    }
    entity
}

/// Adds lineage to the members of an entity, which stand in the order in which the viewer sees them.
fn add_to_members(viewer: &Viewer<'_>, cube: &Cube, own: &CubeLineage, entity: &mut Value) {
    for (item, measure) in list(entity, "measures").zip(viewer.measures(cube)) {
        add_lineage(viewer, item, &measure.name, &own.measures[measure.id.index as usize]);
    }
    for (item, dimension) in list(entity, "dimensions").zip(viewer.dimensions(cube)) {
        item.insert("is_primary_key".to_owned(), json!(dimension.primary_key));
        add_lineage(viewer, item, &dimension.name, &own.dimensions[dimension.id.index as usize]);
    }
    for (item, segment) in list(entity, "segments").zip(viewer.segments(cube)) {
        add_lineage(viewer, item, &segment.name, &own.segments[segment.id.index as usize]);
    }
}

/// Policies hold for references too; a member that only is not public may be named.
fn add_lineage(viewer: &Viewer<'_>, item: &mut Map<String, Value>, name: &str, lineage: &MemberLineage) {
    item.insert("name".to_owned(), json!(name));
    let members = lineage.members.iter().filter(|member| viewer.all || viewer.granted(**member));
    item.insert("member_references".to_owned(), members.map(|id| member(viewer, *id)).collect());
    item.insert("column_references".to_owned(), lineage.columns.iter().map(column).collect());
}

fn list<'v>(entity: &'v mut Value, key: &str) -> impl Iterator<Item = &'v mut Map<String, Value>> {
    let items = entity.get_mut(key).and_then(Value::as_array_mut);
    items.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn member(viewer: &Viewer<'_>, id: MemberId) -> Value {
    let path = viewer.model.path_of(id);
    let (cube, name) = path.split_once('.').unwrap_or_default();
    json!({"cube": cube, "member": name})
}

fn table(table: &TableRef) -> Value {
    let mut item = json!({});
    for (key, value) in [("database", &table.database), ("schema", &table.schema)] {
        if let Some(value) = value {
            item[key] = json!(value);
        }
    }
    item["table"] = json!(table.table);
    item
}

fn column(reference: &ColumnRef) -> Value {
    let mut item = table(&reference.table);
    item["column"] = json!(reference.column);
    item
}
