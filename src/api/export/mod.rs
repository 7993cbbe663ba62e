//! `/v1/load` by `Accept`: NDJSON, CSV, Arrow and Parquet, streamed and without a limit of rows, for callers with the
//! scope `export`.
//!
//! Rows are encoded as they are read and read as they are sent: a slow client holds one encoded piece and what the
//! engine has read ahead, no more. An error in the middle breaks the connection off, so that a short answer is never
//! taken for a whole one.

mod encode;
mod format;
mod typed;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use futures::StreamExt as _;
use quarry_storage::Snapshot;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::encode::Encoder;
pub(super) use self::format::Format;
use super::access::permit;
use super::error::ApiError;
use super::load::row_keys;
use super::question::Question;
use super::{Access, ApiParts, Call, explain};
use crate::auth::scope::Scope;
use crate::engine::BatchStream;
use crate::query::expand::QueryType;
use crate::query::normalize::{Limits, Normalized};
use crate::query::request::ResponseFormat;
use crate::tasks::blocking;

/// Stands for no limit: more rows than there are, and the greatest number that hooks can hand on.
const UNLIMITED: u64 = (1 << 53) - 1;

/// What a request is to be answered in.
///
/// # Errors
/// [`ApiError::NotAcceptable`] when nothing that there is will do.
pub(super) fn wanted(headers: &HeaderMap) -> Result<Format, ApiError> {
    let listed: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    Format::accepted(&listed.join(",")).ok_or(ApiError::NotAcceptable)
}

/// Exports at the same time.
#[derive(Debug, Clone)]
pub struct Exports(Arc<Semaphore>);

impl Exports {
    /// At most so many.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most)))
    }

    async fn place(&self, patience: Duration) -> Result<OwnedSemaphorePermit, ApiError> {
        let place = tokio::time::timeout(patience, Arc::clone(&self.0).acquire_owned()).await;
        place.map_err(|_elapsed| ApiError::Timeout(patience))?.map_err(|closed| ApiError::Internal(closed.to_string()))
    }
}

/// Answers one query with all its rows.
///
/// # Errors
/// The caller lacks the scope, the request asks for more than rows, or the query fails before its first row.
pub(super) async fn export(parts: &ApiParts, call: &Call, format: Format) -> Result<Response<Body>, ApiError> {
    permit(parts, Access::Scoped(Scope::Export), &call.caller)?;
    let question = Question::read_for_client(&call.arguments, parts.options.max_queries)?;
    if explain::is_wanted(&call.arguments)? {
        return Err(refused("an explanation"));
    }
    let current = call.model(parts);
    let (rollups, snapshot) = (Arc::clone(&current.rollups), parts.store.snapshot());
    let model = Arc::clone(rollups.model());
    let limits = Limits { default_rows: UNLIMITED, max_rows: UNLIMITED, ..parts.limits.clone() };
    let mut asked = question.resolve_within(parts, call, &model, &limits, parts.clock.now()).await?;
    let (QueryType::Regular, Some(Normalized { mut query, echo })) = (question.kind, asked.pop()) else {
        return Err(refused("several queries"));
    };
    if query.total {
        return Err(refused("'total'"));
    }
    if echo.response_format.unwrap_or_default() != ResponseFormat::Default {
        return Err(refused("'responseFormat'"));
    }
    query.limit = query.limit.filter(|limit| *limit < UNLIMITED);
    let keys = row_keys(&model, &query, &echo, question.kind);
    let limit = parts.options.query_timeout;
    let place = parts.exports.place(limit).await?;
    let started = tokio::time::timeout(limit, parts.queries.stream(&rollups, &snapshot, &query)).await;
    let batches = started.map_err(|_elapsed| ApiError::Timeout(limit))??;
    let encoder = Encoder::new(format, keys, &batches.schema).map_err(|error| ApiError::Internal(error.to_string()))?;
    let mut rows = Rows { batches, encoder: Some(encoder), limit, _snapshot: snapshot, _place: place };
    // What fails at once has a status of its own.
    let first = rows.next().await.transpose()?;
    let id = call.id.clone();
    let rest = futures::stream::unfold((rows, id), |(mut rows, id)| async move {
        let next = rows.next().await?;
        if let Err(error) = &next {
            tracing::warn!(request_id = id, %error, "an export broke off");
        }
        Some((next, (rows, id)))
    });
    let body = futures::stream::iter(first.map(Ok)).chain(rest).map(|piece| piece.map_err(std::io::Error::other));
    let mut response = Response::new(Body::from_stream(body));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

fn refused(what: &str) -> ApiError {
    ApiError::Invalid(format!("{what} can be asked for in JSON answers only: an export is the rows of one query"))
}

/// Rows on their way.
struct Rows {
    batches: BatchStream,
    /// None once the last piece was made.
    encoder: Option<Encoder>,
    /// How long the next rows may take.
    limit: Duration,
    _snapshot: Arc<Snapshot>,
    _place: OwnedSemaphorePermit,
}

impl Rows {
    /// The next piece of the body; none after the last one, or after an error.
    async fn next(&mut self) -> Option<Result<Bytes, ApiError>> {
        loop {
            let mut encoder = self.encoder.take()?;
            let batch = match tokio::time::timeout(self.limit, self.batches.batches.next()).await {
                Err(_elapsed) => return Some(Err(ApiError::Timeout(self.limit))),
                Ok(Some(Err(error))) => return Some(Err(crate::query::QueryError::Engine(error).into())),
                Ok(Some(Ok(batch))) => Some(batch),
                Ok(None) => None,
            };
            // Encoding a batch takes longer than a thread of the network may be held.
            let (encoder, piece, last) = blocking(move || match batch {
                Some(batch) => {
                    let piece = encoder.add(&batch);
                    (Some(encoder), piece, false)
                }
                None => (None, encoder.finish(), true),
            })
            .await;
            match piece {
                Err(error) => return Some(Err(ApiError::Internal(error.to_string()))),
                Ok(piece) => {
                    self.encoder = encoder;
                    if !piece.is_empty() {
                        return Some(Ok(Bytes::from(piece)));
                    }
                    if last {
                        return None;
                    }
                }
            }
        }
    }
}
