//! `/v1/load`: answers a query with rows (`http-api.md` §5).

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Extensions, HeaderName, HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::TryStreamExt as _;
use quarry_storage::Snapshot;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::annotation::{annotation, time_key};
use super::echo::{COMPARED_KEY, echo, pivot_query};
use super::error::{ApiError, json_response};
use super::explain::{describe, is_wanted};
use super::export::{self, Format};
use super::finished::{Asked, Kept, send_encoded};
use super::live::Footprint;
use super::question::{Question, query_type};
use super::rows::{RowKey, Values, write_data};
use super::running::preferred_wait;
use super::{ApiParts, Call, extract, wire};
use crate::model::{DataType, DimensionId, MemberId, Model};
use crate::query::execute::{Answer, UsedRollup};
use crate::query::expand::QueryType;
use crate::query::explain::explain;
use crate::query::normalize::Normalized;
use crate::query::request::{CacheMode, DateRange, Request};
use crate::query::rollups::Rollups;
use crate::query::serve::Asking;
use crate::query::{OutputColumn, Query, QueryError};
use crate::time::format_local;

/// Answers with more rows than this are written on a thread that may block.
const MANY_ROWS: usize = 4096;
/// Tells a client that its wish was heard (RFC 7240).
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// Queries of one request that run at the same time.
const PARALLEL_QUERIES: usize = 4;

/// Answers over HTTP, in the format that the client likes best; tells it when it is waited for as it prefers.
pub(super) async fn load(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    match export::wanted(&call.headers)? {
        Format::Json => load_json(parts, call).await,
        format => export::export(parts, call, format).await,
    }
}

async fn load_json(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let preferred = preferred_wait(&call.headers);
    let mut response = match answer(parts, call).await {
        Ok(Loaded { body, kept }) => {
            let mut response = json_response(StatusCode::OK, body);
            let accepted = extract::header_text(&call.headers, header::ACCEPT_ENCODING.as_str()).unwrap_or_default();
            match kept.as_ref().and_then(|kept| kept.encoded(accepted)) {
                Some(encoded) => send_encoded(&mut response, encoded),
                None => response.extensions_mut().extend(kept_beside(kept)),
            }
            response
        }
        Err(error) if preferred.is_none() => return Err(error),
        Err(error) => error.into_response(&call.id, call.caller.sees_inside(parts)),
    };
    if let Some(preferred) = preferred {
        let applied = HeaderValue::try_from(format!("wait={}", preferred.as_secs()));
        response.headers_mut().extend(applied.ok().map(|applied| (PREFERENCE_APPLIED, applied)));
    }
    Ok(response)
}

/// Has the compressed form kept, when it is made.
fn kept_beside(kept: Option<Arc<Kept>>) -> Extensions {
    let mut extensions = Extensions::new();
    if let Some(kept) = kept {
        extensions.insert(kept);
    }
    extensions
}

/// An answer.
#[derive(Debug)]
pub(super) struct Loaded {
    /// In JSON.
    pub(super) body: Bytes,
    /// Where it is kept, if it is.
    kept: Option<Arc<Kept>>,
}

/// The JSON that answers a load request, whatever way it came: `query`, `queryType` and `cache` are read from the
/// call's arguments, for its context. All queries of a request see one model, one snapshot and one moment.
///
/// # Errors
/// The request is refused, or cannot be answered now; [`crate::query::QueryError::ContinueWait`] when it should come
/// again.
pub(super) async fn answer(parts: &ApiParts, call: &Call) -> Result<Loaded, ApiError> {
    let patience = preferred_wait(&call.headers).unwrap_or(parts.options.continue_wait);
    let until = Instant::now() + patience;
    let question = Question::read_for_client(&call.arguments, parts.options.max_queries)?;
    let explained = is_wanted(&call.arguments)?;
    let current = call.model(parts);
    let model = Arc::clone(current.rollups.model());
    let snapshot = parts.store.snapshot();
    let now = parts.clock.now();
    let mut asked = question.resolve(parts, call, &model, now).await?;
    let follow = |is_stored: bool, asked: &[Normalized]| -> Result<(), ApiError> {
        if let Some(place) = &call.followed {
            // Whoever looked before us looked at the same.
            let _ = place.set(Footprint::of(&current.rollups, asked, is_stored)?);
        }
        Ok(())
    };
    let multi = query_type(&call.arguments).and_then(Value::as_str) == Some("multi");
    // Who sees inside sees the request's id, and an explanation is made for one request.
    let may_keep = !explained && !call.caller.sees_inside(parts);
    let key = may_keep.then(|| {
        let shape = format!("{:?} {multi}", question.kind);
        let key_errors = parts.refresher.key_error_changes();
        Asked { rollups: &current.rollups, key_errors, shape: &shape }.key(&asked)
    });
    let fresh = |part: &Normalized| part.echo.cache == Some(CacheMode::NoCache);
    if let Some(kept) = key.filter(|_| !asked.iter().any(fresh)).and_then(|key| parts.finished.find(key, &snapshot)) {
        follow(true, &asked)?;
        return Ok(Loaded { body: kept.plain(), kept: Some(kept) });
    }
    let pivot = multi.then(|| {
        let echoes: Vec<&Request> = asked.iter().map(|part| &part.echo).collect();
        pivot_query(question.kind, echoes.first().map(|first| echo(first)).unwrap_or_default(), &echoes)
    });
    if !multi {
        // Such clients see the first result only.
        asked.truncate(1);
    }
    let state = (&*current.rollups, &snapshot);
    let answers = answer_all(parts, state, &asked, (until, &call.id)).await?;
    let is_stored = answers.iter().all(Answer::is_stored);
    follow(is_stored, &asked)?;
    let rests_on = |key| Ok::<_, QueryError>((key, Footprint::of(&current.rollups, &asked, true)?));
    let keeping = key.filter(|_| is_stored).map(rests_on).transpose()?;
    let mut explanations = Vec::with_capacity(asked.len());
    for part in &asked {
        let found = if explained { Some(explain(&current.rollups, &snapshot, &part.query)?) } else { None };
        explanations.push(found.as_ref().map(describe));
    }
    let results: Vec<ResultFrame> = asked
        .into_iter()
        .zip(answers)
        .zip(explanations)
        .map(|((Normalized { query, echo }, answer), explanation)| ResultFrame {
            head: head(parts, call, &Answered { model: &model, query: &query, echo: &echo, answer: &answer, now }),
            tail: tail(&answer, snapshot.id().get(), &estimates(&model, &query), explanation),
            keys: row_keys(&model, &query, &echo, question.kind),
            echo,
            answer,
        })
        .collect();
    let body = write_all(question.kind, results, pivot).await?;
    let kept = keeping.and_then(|(key, footprint)| parts.finished.keep(key, &footprint, &snapshot, body.clone()));
    Ok(Loaded { body, kept })
}

/// Runs the queries, some at a time; the error of the first that fails ends them all.
async fn answer_all(
    parts: &ApiParts,
    (rollups, snapshot): (&Rollups, &Arc<Snapshot>),
    asked: &[Normalized],
    (until, request_id): (Instant, &str),
) -> Result<Vec<Answer>, ApiError> {
    let limit = parts.options.query_timeout;
    let running: Vec<_> = asked
        .iter()
        .map(|part| {
            let asking = Asking { mode: part.echo.cache.unwrap_or_default(), until, request_id };
            Box::pin(parts.queries.answer(rollups, snapshot, &part.query, asking))
        })
        .collect();
    let answers = futures::stream::iter(running).buffered(PARALLEL_QUERIES).try_collect::<Vec<Answer>>();
    let answers = tokio::time::timeout(limit, answers).await.map_err(|_elapsed| ApiError::Timeout(limit))?;
    Ok(answers?)
}

/// A result in the making.
struct ResultFrame {
    /// Keys before `data`, `query` left out.
    head: Map<String, Value>,
    /// Keys after `data`.
    tail: Map<String, Value>,
    keys: Vec<RowKey>,
    echo: Request,
    answer: Answer,
}

impl ResultFrame {
    fn rows(&self) -> usize {
        self.answer.batches.iter().map(arrow::record_batch::RecordBatch::num_rows).sum()
    }

    fn write(self, out: &mut Vec<u8>) -> Result<(), ApiError> {
        out.extend_from_slice(b"{\"query\":");
        out.extend_from_slice(Value::Object(echo(&self.echo)).to_string().as_bytes());
        write_entries(out, &self.head);
        out.extend_from_slice(b",\"data\":");
        let format = self.echo.response_format.unwrap_or_default();
        write_data(out, format, &self.keys, &self.answer.batches)
            .map_err(|error| ApiError::Internal(error.to_string()))?;
        write_entries(out, &self.tail);
        out.push(b'}');
        Ok(())
    }
}

/// Many rows are written where nobody waits for the thread.
async fn write_all(
    kind: QueryType,
    results: Vec<ResultFrame>,
    pivot: Option<Map<String, Value>>,
) -> Result<Bytes, ApiError> {
    let rows: usize = results.iter().map(ResultFrame::rows).sum();
    let write = move || match pivot {
        Some(pivot) => write_wrapped(kind, results, pivot),
        None => write_bare(results),
    };
    let body = if rows > MANY_ROWS {
        tokio::task::spawn_blocking(write).await.map_err(|error| ApiError::Internal(error.to_string()))??
    } else {
        write()?
    };
    Ok(Bytes::from(body))
}

/// The one result, as it is.
fn write_bare(results: Vec<ResultFrame>) -> Result<Vec<u8>, ApiError> {
    let mut out = Vec::with_capacity(4096);
    for result in results {
        result.write(&mut out)?;
    }
    Ok(out)
}

/// All results, as `queryType=multi` asks for.
fn write_wrapped(kind: QueryType, results: Vec<ResultFrame>, pivot: Map<String, Value>) -> Result<Vec<u8>, ApiError> {
    let mut out = Vec::with_capacity(4096);
    let slow = results.iter().any(|result| result.answer.slow);
    out.extend_from_slice(format!("{{\"queryType\":\"{}\",\"results\":[", kind.as_str()).as_bytes());
    for (i, result) in results.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        result.write(&mut out)?;
    }
    out.extend_from_slice(format!("],\"pivotQuery\":{},\"slowQuery\":{slow}}}", Value::Object(pivot)).as_bytes());
    Ok(out)
}

fn write_entries(out: &mut Vec<u8>, entries: &Map<String, Value>) {
    for (key, value) in entries {
        out.extend_from_slice(format!(",{}:{value}", Value::from(key.as_str())).as_bytes());
    }
}

/// What the head of an answer tells about.
struct Answered<'a> {
    model: &'a Model,
    query: &'a Query,
    echo: &'a Request,
    answer: &'a Answer,
    now: i64,
}

fn head(parts: &ApiParts, call: &Call, answered: &Answered<'_>) -> Map<String, Value> {
    let Answered { model, query, echo, answer, now } = *answered;
    let sees_inside = call.caller.sees_inside(parts);
    let mut head = Map::new();
    let mut put = |key: &str, value: Value| {
        head.insert(key.to_owned(), value);
    };
    put("lastRefreshTime", json!(wire::instant(answer.refreshed_at.unwrap_or(now))));
    let keys = answer.source_keys.as_ref().filter(|_| sees_inside);
    if let Some(keys) = keys.and_then(|text| serde_json::from_str(text).ok()) {
        put("refreshKeyValues", keys);
    }
    if !answer.used.is_empty() {
        let schema = call.preagg_schema(parts);
        let entries = answer.used.iter().map(|used| {
            let key_error = parts.refresher.key_error(&used.table);
            used_rollup(schema, used, key_error, sees_inside)
        });
        put("usedPreAggregations", Value::Object(entries.collect()));
    }
    if sees_inside {
        put("requestId", json!(call.id));
    }
    put("annotation", annotation(model, query, echo));
    put("dataSource", json!(answer.data_source));
    put("dbType", json!(answer.db_type));
    put("external", json!(answer.used.iter().any(|used| used.external)));
    put("slowQuery", json!(answer.slow));
    if let Some(total) = answer.total {
        put("total", json!(total));
    }
    head
}

/// Our own additions: whether the limit left rows out; the state that was read, how old it is, and how much of it,
/// where rollups were; the measures that are estimates,
/// wherever they come from; the explanation where it is wanted.
fn tail(answer: &Answer, snapshot: u64, estimates: &[String], explanation: Option<Value>) -> Map<String, Value> {
    let mut own = Map::new();
    if answer.truncated {
        own.insert("truncated".to_owned(), json!(true));
    }
    if !answer.used.is_empty() {
        own.extend(answer.refreshed_at.map(|built| ("builtAt".to_owned(), json!(wire::instant(built)))));
        own.extend(answer.newest_time.map(|newest| ("sourceMaxTime".to_owned(), json!(format_local(newest)))));
        let partitions: usize = answer.used.iter().map(|used| used.partitions).sum();
        own.insert("snapshot".to_owned(), json!(snapshot));
        own.insert("partitions".to_owned(), json!(partitions));
        if !answer.from_source.is_empty() {
            let ranges = answer.from_source.iter().map(|range| json!(range.to_string()));
            own.insert("fromSource".to_owned(), ranges.collect());
        }
    }
    if !estimates.is_empty() {
        own.insert("approximate".to_owned(), json!(estimates));
    }
    own.extend(explanation.map(|explanation| ("explain".to_owned(), explanation)));
    let mut tail = Map::new();
    if !own.is_empty() {
        tail.insert("quarry".to_owned(), Value::Object(own));
    }
    tail
}

/// Names of the selected measures that are estimates.
fn estimates(model: &Model, query: &Query) -> Vec<String> {
    query.approximate(model).into_iter().map(|id| model.path_of(MemberId::Measure(id))).collect()
}

/// An entry of `usedPreAggregations` (§5.12): the logical table's name, and what is known of it.
pub(super) fn used_rollup(
    schema: &str,
    used: &UsedRollup,
    key_error: Option<String>,
    sees_inside: bool,
) -> (String, Value) {
    let mut entry = json!({
        "lastUpdatedAt": used.last_updated_at.div_euclid(1000),
        "preAggregationId": used.id,
        "type": used.kind,
    });
    if sees_inside {
        entry["targetTableName"] = json!(used.table.as_str());
        let values = used.refresh_keys.iter().map(|text| serde_json::from_str(text).unwrap_or_else(|_| json!([])));
        entry["refreshKeyValues"] = values.collect();
    }
    // Ours: what is stored may be out of date, and nobody can tell.
    if let Some(error) = key_error {
        entry["refreshKeyError"] = json!(error);
    }
    (logical_table(schema, &used.logical), entry)
}

/// `prod_pre_aggregations.orders_main` for `orders.main`.
pub(super) fn logical_table(schema: &str, id: &str) -> String {
    format!("{schema}.{}", id.replacen('.', "_", 1))
}

/// The keys of a row: the columns, then the bare name of every time dimension that is not a dimension
/// itself, with the value of its finest granularity (§5.13), then what tells results apart or joins them
/// (§5.14).
pub(super) fn row_keys(model: &Model, query: &Query, echo: &Request, kind: QueryType) -> Vec<RowKey> {
    let columns = query.columns();
    let mut keys: Vec<RowKey> = Vec::with_capacity(columns.len() + 2);
    let mut bare: Vec<(DimensionId, crate::model::Grain, usize)> = Vec::new();
    for (column, output) in columns.iter().enumerate() {
        let (name, time) = match *output {
            OutputColumn::Dimension(id) => {
                (model.path_of(MemberId::Dimension(id)), model.dimension(id).data_type == DataType::Time)
            }
            OutputColumn::Segment(id) => (model.path_of(MemberId::Segment(id)), false),
            OutputColumn::Measure(id) => {
                (model.path_of(MemberId::Measure(id)), model.measure(id).kind.data_type() == DataType::Time)
            }
            OutputColumn::Time(id, granularity) => {
                match bare.iter_mut().find(|(dimension, ..)| *dimension == id) {
                    Some(entry) if granularity < entry.1 => *entry = (id, granularity, column),
                    Some(_) => {}
                    None if query.dimensions.contains(&id) => {}
                    None => bare.push((id, granularity, column)),
                }
                (time_key(model, echo, id, granularity), true)
            }
        };
        keys.push(RowKey { name, values: Values::Column(column), time });
    }
    let bare = bare.into_iter().map(|(id, _, column)| RowKey {
        name: model.path_of(MemberId::Dimension(id)),
        values: Values::Column(column),
        time: true,
    });
    keys.extend(bare);
    keys.extend(series_key(echo, &columns, kind));
    keys
}

/// The key that rows of one result among several carry.
fn series_key(echo: &Request, columns: &[OutputColumn], kind: QueryType) -> Option<RowKey> {
    match kind {
        QueryType::Regular => None,
        QueryType::CompareDateRange { time_dimension } => {
            let DateRange::Bounds(bounds) = echo.time_dimensions.get(time_dimension)?.date_range.as_ref()? else {
                return None;
            };
            Some(RowKey { name: COMPARED_KEY.to_owned(), values: Values::Same(bounds.join(" - ")), time: false })
        }
        QueryType::Blending => {
            let granularity = echo.time_dimensions.first()?.granularity.as_deref()?;
            // The first time dimension has a granularity, so its buckets are the first.
            let column = columns.iter().position(|column| matches!(column, OutputColumn::Time(..)))?;
            Some(RowKey { name: format!("time.{granularity}"), values: Values::Column(column), time: true })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::normalize::{Limits, normalize};
    use crate::query::policy::Asker;
    use crate::query::sample;
    use crate::time::Zone;

    #[track_caller]
    fn check_keys(query: &Value, expected: &[(&str, usize)]) {
        let keys = keys_of(query, QueryType::Regular);
        let keys: Vec<(&str, usize)> = keys
            .iter()
            .map(|key| match &key.values {
                Values::Column(column) => (key.name.as_str(), *column),
                Values::Same(text) => panic!("{}: {text}", key.name),
            })
            .collect();
        assert_eq!(keys, expected);
    }

    fn keys_of(query: &Value, kind: QueryType) -> Vec<RowKey> {
        let model = sample::model();
        let request = wire::parse_request(query).expect("a valid query");
        let limits = Limits {
            default_rows: 10,
            max_rows: 10,
            timezone: Zone::UTC,
            allow_hidden: false,
            ungrouped_without_key: true,
        };
        let Normalized { query, echo } =
            normalize(&request, &model, &limits, &Asker::default(), 0).expect("a valid query");
        row_keys(&model, &query, &echo, kind)
    }

    #[test]
    fn bare_time_keys_take_the_finest_granularity() {
        let times = json!([
            {"dimension": "orders.created_at", "granularity": "month"},
            {"dimension": "orders.created_at", "granularity": "Day"},
        ]);
        check_keys(
            &json!({"measures": ["orders.count"], "timeDimensions": times}),
            &[
                ("orders.created_at.month", 0),
                ("orders.created_at.Day", 1),
                ("orders.count", 2),
                ("orders.created_at", 1),
            ],
        );
        check_keys(
            &json!({"dimensions": ["orders.created_at"], "timeDimensions": times}),
            &[("orders.created_at", 0), ("orders.created_at.month", 1), ("orders.created_at.Day", 2)],
        );
    }

    #[test]
    fn results_among_several_have_one_more_key() {
        let times = json!([
            {"dimension": "orders.created_at", "granularity": "month"},
            {"dimension": "orders.created_at", "granularity": "day", "dateRange": ["1970-01-05", "1970-01-06"]},
        ]);
        let query = json!({"measures": ["orders.count"], "dimensions": ["orders.status"], "timeDimensions": times});
        let last = |kind| keys_of(&query, kind).pop().expect("keys");
        let range = "1970-01-05T00:00:00.000 - 1970-01-06T23:59:59.999".to_owned();
        assert_eq!(
            last(QueryType::CompareDateRange { time_dimension: 1 }),
            RowKey { name: "compareDateRange".to_owned(), values: Values::Same(range), time: false },
            "the range is that of the time dimension that is compared"
        );
        assert_eq!(
            last(QueryType::Blending),
            RowKey { name: "time.month".to_owned(), values: Values::Column(1), time: true }
        );
    }

    #[test]
    fn logical_tables_are_named_as_recorded() {
        assert_eq!(logical_table("prod_pre_aggregations", "lineitem.daily"), "prod_pre_aggregations.lineitem_daily");
    }
}
