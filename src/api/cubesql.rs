//! `/v1/cubesql`: rows of an SQL statement, line by line as they are made (`http-api.md` §7.4); and what the SQL of
//! cubes means to other endpoints: `/v1/sql?format=sql` (§7.1) and `/v1/convert-query` (§7.5).

use std::time::Duration;

use arrow::datatypes::DataType as ArrowType;
use arrow::record_batch::RecordBatch;
use axum::body::{Body, Bytes};
use axum::http::{Response, StatusCode};
use futures::stream::{BoxStream, StreamExt as _};
use serde_json::{Map, Value, json};

use super::error::{ApiError, json_response};
use super::load::used_rollup;
use super::rows::{RowKey, Values, write_arrays};
use super::shown::Shown;
use super::{ApiParts, ApiState, Call, access, echo, rewrite, wire};
use crate::model::{MemberId, Model};
use crate::query::request::{FilterNode, Request};
use crate::sql::{OutputField, Preview, Session, SqlAnswer, SqlError};
use crate::time::spoken_duration;

/// Most rows of a line.
const ROWS_A_LINE: usize = 1000;

/// Runs a statement. Its faults are lines of an answer whose status was given before.
pub(super) async fn cubesql(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let invalid = |text: &str| ApiError::Invalid(format!("Invalid query format: {text}"));
    let query = match call.arguments.get("query") {
        None | Some(Value::Null) => return Err(invalid("\"query\" is required")),
        Some(Value::String(text)) if text.is_empty() => {
            return Err(invalid("\"query\" is not allowed to be empty"));
        }
        Some(Value::String(text)) => text.clone(),
        Some(_) => return Err(invalid("\"query\" must be a string")),
    };
    let given = |key: &str| call.arguments.get(key).filter(|value| !value.is_null());
    let mut session = session(parts, call);
    if let Some(zone) = given("timezone") {
        let name = zone.as_str().ok_or_else(|| invalid("\"timezone\" must be a string"))?;
        session.zone = Some(wire::parse_zone(name).ok_or_else(|| invalid("\"timezone\" is no IANA time zone"))?);
    }
    session.cache = given("cache").map(wire::cache_mode).transpose()?;
    match given("throwContinueWait") {
        None | Some(Value::Bool(false)) => {}
        // Whoever is told to come again is not kept waiting.
        Some(Value::Bool(true)) => session.patience = Some(parts.options.continue_wait),
        Some(_) => return Err(invalid("\"throwContinueWait\" must be a boolean")),
    }
    let limit = parts.options.query_timeout;
    let answered = tokio::time::timeout(limit, start(parts, &session, query)).await;
    let body = match answered {
        Ok(Ok(answer)) => {
            let first = schema_line(parts, call, &answer);
            Body::from_stream(lines(first, answer, call.id.clone(), limit))
        }
        Ok(Err(error)) => {
            tracing::info!(request_id = call.id, %error, "statement refused");
            Body::from(error_line(&error.to_string(), &call.id))
        }
        Err(_elapsed) => Body::from(error_line(&timeout_text(limit), &call.id)),
    };
    Ok(json_response(StatusCode::OK, body))
}

impl ApiState {
    /// The session of a user who was let in with this security context, as the hooks of `cube.js` leave it.
    ///
    /// # Errors
    /// A hook fails, or the model has faults for this context.
    pub async fn sql_session(&self, user: String, context: Value) -> Result<Session, SqlError> {
        let parts = &self.0.parts;
        let id = format!("{}-span-1", uuid::Uuid::new_v4());
        let caller = access::admit_known(parts, &id, context).await;
        let caller = caller.map_err(|error| SqlError::Refused(error.to_string()))?;
        let call = Call { id, caller, ..Call::default() };
        Ok(Session { user: Some(user), ..session(parts, &call) })
    }
}

/// The session of a call.
fn session(parts: &ApiParts, call: &Call) -> Session {
    Session {
        asker: call.asker(parts),
        database: "db".to_owned(),
        rewriting: rewrite::rewriting(parts, call),
        model: Some(call.model(parts)),
        request_id: call.id.clone(),
        ..Session::default()
    }
}

async fn start(parts: &ApiParts, session: &Session, query: String) -> Result<SqlAnswer, SqlError> {
    let prepared = parts.sql.prepare(session, query).await?;
    let bound = parts.sql.bind(session, &prepared, Vec::new()).await?;
    parts.sql.run(&bound).await
}

fn timeout_text(limit: Duration) -> String {
    format!("Error: Query execution timeout after {} of waiting", spoken_duration(limit))
}

fn error_line(text: &str, id: &str) -> String {
    format!("{}\n", json!({"error": text, "requestId": id}))
}

/// The first line: the columns, and how fresh the rows are.
fn schema_line(parts: &ApiParts, call: &Call, answer: &SqlAnswer) -> Vec<u8> {
    let sees_inside = call.caller.sees_inside(parts);
    let current = call.model(parts);
    let model = current.rollups.model();
    let mut line = Map::new();
    line.insert("schema".to_owned(), answer.fields.iter().map(|field| column(model, field)).collect());
    line.insert("lastRefreshTime".to_owned(), json!(wire::instant(answer.refreshed_at.unwrap_or(parts.clock.now()))));
    if answer.used.iter().any(|used| used.external) {
        line.insert("external".to_owned(), json!(true));
    }
    if !answer.used.is_empty() {
        let entries = answer.used.iter().map(|used| {
            let key_error = parts.refresher.key_error(&used.table);
            used_rollup(call.preagg_schema(parts), used, key_error, sees_inside)
        });
        line.insert("usedPreAggregations".to_owned(), Value::Object(entries.collect()));
    }
    let mut bytes = Value::Object(line).to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

fn column(model: &Model, field: &OutputField) -> Value {
    let mut column = json!({"name": field.name, "column_type": column_type(&field.data_type)});
    let shown = match field.member {
        Some(MemberId::Measure(id)) => Some(Shown::of_measure(model.measure(id))),
        Some(MemberId::Dimension(id)) => Some(Shown::of_dimension(model.dimension(id))),
        Some(MemberId::Segment(_)) | None => None,
    };
    if let Some(shown) = shown {
        if let Some(format) = shown.format {
            column["format"] = format;
        }
        if let Some(currency) = shown.currency {
            column["currency"] = currency;
        }
    }
    column
}

/// The word for the type of a column.
fn column_type(data_type: &ArrowType) -> &'static str {
    match data_type {
        ArrowType::Boolean => "Boolean",
        ArrowType::Int8 | ArrowType::Int16 | ArrowType::Int32 | ArrowType::UInt8 | ArrowType::UInt16 => "Int32",
        ArrowType::Int64 | ArrowType::UInt32 | ArrowType::UInt64 => "Int64",
        ArrowType::Float16 | ArrowType::Float32 | ArrowType::Float64 => "Double",
        ArrowType::Decimal32(..) | ArrowType::Decimal64(..) | ArrowType::Decimal128(..) | ArrowType::Decimal256(..) => {
            "Decimal"
        }
        ArrowType::Timestamp(..) => "Timestamp",
        ArrowType::Date32 | ArrowType::Date64 => "Date",
        ArrowType::Interval(_) | ArrowType::Duration(_) => "Interval",
        ArrowType::Binary | ArrowType::LargeBinary | ArrowType::BinaryView | ArrowType::FixedSizeBinary(_) => "Blob",
        ArrowType::List(_) | ArrowType::LargeList(_) | ArrowType::FixedSizeList(..) => "List",
        _ => "String",
    }
}

/// What is left to send.
struct Sending {
    first: Option<Vec<u8>>,
    batches: BoxStream<'static, Result<RecordBatch, SqlError>>,
    keys: Vec<RowKey>,
    /// Whether a line with rows was sent.
    rows: bool,
    ended: bool,
    id: String,
    limit: Duration,
}

/// The lines of an answer, made as they are taken.
fn lines(
    first: Vec<u8>,
    answer: SqlAnswer,
    id: String,
    limit: Duration,
) -> impl futures::Stream<Item = Result<Bytes, std::convert::Infallible>> + Send + 'static {
    let key = |(at, field): (usize, &OutputField)| RowKey {
        name: field.name.clone(),
        values: Values::Column(at),
        time: false,
    };
    let keys = answer.fields.iter().enumerate().map(key).collect();
    let sending = Sending { first: Some(first), batches: answer.batches, keys, rows: false, ended: false, id, limit };
    futures::stream::unfold(sending, |mut sending| async move {
        let line = sending.next().await?;
        Some((Ok(Bytes::from(line)), sending))
    })
}

impl Sending {
    async fn next(&mut self) -> Option<Vec<u8>> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        while !self.ended {
            match tokio::time::timeout(self.limit, self.batches.next()).await {
                Ok(Some(Ok(batch))) if batch.num_rows() == 0 => {}
                Ok(Some(Ok(batch))) => match data_lines(&self.keys, &batch) {
                    Ok(lines) => {
                        self.rows = true;
                        return Some(lines);
                    }
                    Err(text) => return Some(self.fail(&text)),
                },
                Ok(Some(Err(error))) => return Some(self.fail(&error.to_string())),
                Err(_elapsed) => return Some(self.fail(&timeout_text(self.limit))),
                Ok(None) => {
                    self.ended = true;
                    // Clients tell an answer from an error by its second line.
                    return (!self.rows).then(|| b"{\"data\":[]}\n".to_vec());
                }
            }
        }
        None
    }

    fn fail(&mut self, text: &str) -> Vec<u8> {
        self.ended = true;
        tracing::info!(request_id = self.id, error = text, "statement failed");
        error_line(text, &self.id).into_bytes()
    }
}

fn data_lines(keys: &[RowKey], batch: &RecordBatch) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(64 * batch.num_rows());
    for start in (0..batch.num_rows()).step_by(ROWS_A_LINE) {
        let rows = batch.slice(start, ROWS_A_LINE.min(batch.num_rows() - start));
        out.extend_from_slice(b"{\"data\":");
        write_arrays(&mut out, keys, &rows).map_err(|error| error.to_string())?;
        out.extend_from_slice(b"}\n");
    }
    Ok(out)
}

/// `format=sql`: the SQL of a statement that is one question.
pub(super) async fn preview(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let query = match call.arguments.get("query") {
        Some(Value::String(text)) if !text.trim().is_empty() => text.clone(),
        None | Some(Value::Null | Value::String(_)) => {
            return Err(ApiError::Invalid("Query param is required".to_owned()));
        }
        Some(_) => return Err(ApiError::Invalid("Query param must be SQL text for format=sql".to_owned())),
    };
    let session = session(parts, call);
    let prepared = parts.sql.prepare(&session, query).await?;
    let bound = parts.sql.bind(&session, &prepared, Vec::new()).await?;
    let body = match parts.sql.preview(&bound).await? {
        Preview::Question(preview) => {
            json!({"status": "ok", "sql": [preview.text, preview.params], "query_type": "regular"})
        }
        Preview::Above => json!({
            "status": "error",
            "error": "Provided query can not be executed without post-processing.",
            "query_type": "post_processing",
        }),
    };
    Ok(json_response(StatusCode::OK, json!({ "sql": body }).to_string()))
}

/// `/v1/convert-query`: a statement as a query object.
pub(super) async fn convert(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    for (key, wanted) in [("input", "sql"), ("output", "rest")] {
        let given = call.arguments.get(key).unwrap_or(&Value::Null);
        if given != wanted {
            let text = given.as_str().map_or_else(|| given.to_string(), str::to_owned);
            return Err(ApiError::Invalid(format!("Error: Unexpected {key} parameter value '{text}'")));
        }
    }
    let query = match call.arguments.get("query") {
        Some(Value::String(text)) if !text.trim().is_empty() => text.clone(),
        _ => return Err(ApiError::Invalid("Error: query parameter must be a non-empty string".to_owned())),
    };
    let session = session(parts, call);
    let prepared = parts.sql.prepare(&session, query).await?;
    let bound = parts.sql.bind(&session, &prepared, Vec::new()).await?;
    let body = match bound.request() {
        Some(request) => json!({"status": "ok", "query": query_object(&request)}),
        None => json!({"status": "error", "error": "Provided sql query can not be converted to rest query."}),
    };
    Ok(json_response(StatusCode::OK, body.to_string()))
}

/// A request as a client would write it.
fn query_object(request: &Request) -> Value {
    let mut query = Map::new();
    let mut put = |key: &str, value: Value| {
        query.insert(key.to_owned(), value);
    };
    put("measures", json!(request.measures.as_deref().unwrap_or_default()));
    put("dimensions", json!(request.dimensions));
    put("segments", json!(request.segments.as_deref().unwrap_or_default()));
    if !request.time_dimensions.is_empty() {
        put("timeDimensions", request.time_dimensions.iter().map(echo::time_dimension).collect());
    }
    put("filters", request.filters.iter().map(FilterNode::to_json).collect());
    let order = request.order.iter().flatten();
    let order = order.map(|key| json!([key.member, if key.descending { "desc" } else { "asc" }]));
    put("order", order.collect());
    if let Some(limit) = request.limit {
        put("limit", json!(limit));
    }
    if let Some(offset) = request.offset {
        put("offset", json!(offset));
    }
    if let Some(ungrouped) = request.ungrouped {
        put("ungrouped", json!(ungrouped));
    }
    if !request.join_hints.is_empty() {
        put("joinHints", json!(request.join_hints));
    }
    Value::Object(query)
}
