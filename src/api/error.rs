//! Every error → status, body, log line. The only place with status codes (`http-api.md` §4).

use std::time::Duration;

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use quarry_storage::{ErrorKind, StorageError};
use serde_json::{Map, Value};

use crate::auth::AuthError;
use crate::cache::queue::Stage;
use crate::hooks::HookError;
use crate::query::QueryError;
use crate::query::tenants::TenantError;
use crate::refresh::RefreshError;
use crate::sql::SqlError;
use crate::time::spoken_duration;

/// Why a request is not answered with what it asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// Not let in.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The request's arguments are wrong; the text is complete.
    #[error("{0}")]
    Invalid(String),
    /// The body is not JSON.
    #[error("SyntaxError: {0}")]
    Syntax(String),
    /// The body is longer than allowed.
    #[error("PayloadTooLargeError: request entity too large")]
    TooLarge,
    /// The connection broke while the body was read.
    #[error("BadRequestError: request aborted")]
    Aborted,
    /// The body did not arrive in time.
    #[error("BadRequestError: the request's body did not arrive in time")]
    Slow,
    /// No cube or view of that name is shown to the caller.
    #[error("Entity '{0}' not found")]
    NoEntity(String),
    /// No job of that token is known.
    #[error("Job '{0}' not found")]
    NoJob(String),
    /// What is asked for does not fit the state that things are in; the text is complete.
    #[error("{0}")]
    Conflict(String),
    /// A hook of `cube.js` failed.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The caller has no model.
    #[error(transparent)]
    Tenant(#[from] TenantError),
    /// The client takes none of the formats that there are.
    #[error(
        "None of the accepted types is available: application/json, application/x-ndjson, text/csv, \
         application/vnd.apache.arrow.stream, application/vnd.apache.parquet"
    )]
    NotAcceptable,
    /// The query cannot be answered.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The SQL statement cannot be answered.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// The job request was not taken.
    #[error(transparent)]
    Refresh(#[from] RefreshError),
    /// The store cannot do that.
    #[error(transparent)]
    Store(#[from] StorageError),
    /// The query ran too long.
    #[error("Error: Query execution timeout after {} of waiting", spoken_duration(*.0))]
    Timeout(Duration),
    /// A mistake of ours. The text is for the log only.
    #[error("{0}")]
    Internal(String),
}

/// What clients see of an error.
#[derive(Debug, PartialEq, Eq)]
struct Face {
    status: StatusCode,
    /// Errors of the data model's rules carry `type: UserError`.
    user_error: bool,
    text: String,
    /// How far the query is, where the client is to ask again.
    stage: Option<Stage>,
}

impl Face {
    fn new(status: StatusCode, text: &dyn ToString) -> Self {
        Self { status, user_error: false, text: text.to_string(), stage: None }
    }

    fn user_error(text: &dyn ToString) -> Self {
        Self { user_error: true, ..Self::new(StatusCode::BAD_REQUEST, text) }
    }

    /// Nothing of the inside is shown.
    fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, &"Error: Internal Server Error")
    }
}

impl ApiError {
    fn face(&self) -> Face {
        let bad = |text: &dyn ToString| Face::new(StatusCode::BAD_REQUEST, text);
        match self {
            Self::Auth(error @ (AuthError::Missing | AuthError::Invalid { .. } | AuthError::Scope(_))) => {
                Face::new(StatusCode::FORBIDDEN, error)
            }
            Self::Invalid(_) | Self::Syntax(_) | Self::Aborted | Self::Timeout(_) => bad(self),
            Self::Slow => Face::new(StatusCode::REQUEST_TIMEOUT, self),
            Self::NoEntity(_) | Self::NoJob(_) => Face::new(StatusCode::NOT_FOUND, self),
            Self::NotAcceptable => Face::new(StatusCode::NOT_ACCEPTABLE, self),
            Self::Conflict(_) => Face::new(StatusCode::CONFLICT, self),
            Self::TooLarge => Face::new(StatusCode::PAYLOAD_TOO_LARGE, self),
            Self::Hook(error) => hook_face(error),
            Self::Tenant(error) => tenant_face(error),
            Self::Query(error) | Self::Sql(SqlError::Query(error)) => query_face(error),
            // Cube answers 500; the fault is the client's.
            Self::Sql(error) => bad(&format!("Error: {error}")),
            Self::Refresh(error) => match error {
                RefreshError::NothingSelected
                | RefreshError::NoPartition(_)
                | RefreshError::TooManyPartitions { .. } => bad(error),
                RefreshError::Timeout(_) => bad(&format!("Error: {error}")),
                RefreshError::Query(error) => query_face(error),
                RefreshError::Tenant(error) => tenant_face(error),
                RefreshError::Storage(error) => store_face(error),
            },
            Self::Store(error) => store_face(error),
            Self::Internal(_) => Face::internal(),
        }
    }

    /// What the client may read of it, for answers that are not JSON errors.
    ///
    /// # Errors
    /// It is a mistake of ours, of which nothing is shown.
    pub(super) fn public_text(self) -> Result<String, Self> {
        match self {
            Self::Internal(_) => Err(self),
            shown => Ok(shown.face().text),
        }
    }

    /// The answer; errors of ours are logged with the request's id. `show_request_id` is for
    /// development mode and operators.
    pub(super) fn into_response(self, request_id: &str, show_request_id: bool) -> Response<Body> {
        let face = self.face();
        if let Self::Hook(error) = &self {
            tracing::warn!(request_id, hook = error.place(), %error, "a hook of cube.js failed");
        }
        if face.stage.is_some() {
            tracing::debug!(request_id, stage = ?face.stage, "the client is to ask again");
        } else if face.status.is_server_error() {
            tracing::error!(request_id, status = face.status.as_u16(), error = %self, "request failed");
        } else {
            tracing::info!(request_id, status = face.status.as_u16(), error = %self, "request refused");
        }
        let mut body = Map::new();
        if face.user_error {
            body.insert("type".to_owned(), Value::from("UserError"));
        }
        body.insert("error".to_owned(), Value::from(face.text));
        match face.stage {
            None => {}
            Some(Stage::InLine(place)) => _ = body.insert("stage".to_owned(), format!("#{place} in queue").into()),
            Some(Stage::Running(elapsed)) => {
                body.insert("stage".to_owned(), Value::from("Executing query"));
                let milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
                body.insert("timeElapsed".to_owned(), milliseconds.into());
            }
        }
        if show_request_id {
            body.insert("requestId".to_owned(), Value::from(request_id));
        }
        let mut response = json_response(face.status, Value::Object(body).to_string());
        if face.status == StatusCode::REQUEST_TIMEOUT {
            // The rest of the body may still come; it must not be taken for the next request.
            response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
        response
    }
}

/// What concerns the request is shown; what names files of this machine is not.
fn store_face(error: &StorageError) -> Face {
    match error {
        StorageError::NoVersion { .. } => Face::new(StatusCode::NOT_FOUND, error),
        StorageError::Changed { .. } => Face::new(StatusCode::CONFLICT, error),
        error if error.kind() == ErrorKind::Refused => Face::new(StatusCode::BAD_REQUEST, error),
        _ => Face::internal(),
    }
}

/// A hook may choose the status by an error of Cube's gateway.
fn hook_face(error: &HookError) -> Face {
    match error {
        HookError::Thrown { status: Some(status), message: Some(message), .. } => {
            let chosen = StatusCode::from_u16(*status).ok().filter(|status| status.as_u16() >= 400);
            Face::new(chosen.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), message)
        }
        error => Face::new(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

/// A model with faults is nothing that the client could mend.
fn tenant_face(error: &TenantError) -> Face {
    match error {
        TenantError::Hook(error) => hook_face(error),
        TenantError::Model(_) => Face::new(StatusCode::INTERNAL_SERVER_ERROR, &format!("Error: {error}")),
    }
}

fn query_face(error: &QueryError) -> Face {
    match error {
        QueryError::Invalid(_) => Face::new(StatusCode::BAD_REQUEST, error),
        QueryError::UnknownMember(_) | QueryError::Join(_) | QueryError::Model(_) => Face::user_error(error),
        QueryError::HiddenMember { .. } => Face::new(StatusCode::INTERNAL_SERVER_ERROR, &format!("Error: {error}")),
        // Not an error: the client is to ask again (§6.1).
        QueryError::ContinueWait(stage) => Face { stage: Some(*stage), ..Face::new(StatusCode::OK, error) },
        // Cube answers 500 to the first two; the fault is the client's.
        QueryError::LimitExceeded | QueryError::Engine(_) | QueryError::NoRollup { .. } | QueryError::Timeout(_) => {
            Face::new(StatusCode::BAD_REQUEST, &format!("Error: {error}"))
        }
    }
}

/// An answer in JSON.
pub(super) fn json_response(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// A page in HTML.
pub(super) fn html_response(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let html = header::HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, html);
    response
}

/// What a request to an unknown route gets.
pub(super) fn unknown_route(method: &str, path: &str) -> Response<Body> {
    let path: String = path.chars().take(2000).collect();
    let path = path.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    html_response(
        StatusCode::NOT_FOUND,
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>Error</title>\n</head>\n\
             <body>\n<pre>Cannot {method} {path}</pre>\n</body>\n</html>\n"
        ),
    )
}

/// What a request during shutdown gets (`http-api.md` §1.5).
pub(super) fn shutting_down(patience: Duration) -> Response<Body> {
    let text = r#"{"message":"Server unavailable, no new requests accepted during shutdown"}"#;
    let mut response = json_response(StatusCode::SERVICE_UNAVAILABLE, text);
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    headers.insert(header::RETRY_AFTER, header::HeaderValue::from(patience.as_secs().max(5)));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::scope::Scope;
    use crate::engine::EngineError;
    use crate::model::{JoinError, UnknownMember};

    #[track_caller]
    fn check(error: impl Into<ApiError>, status: u16, body: &str) {
        let face = error.into().face();
        let kind = if face.user_error { "UserError " } else { "" };
        assert_eq!((face.status.as_u16(), format!("{kind}{}", face.text).as_str()), (status, body));
    }

    #[test]
    fn errors_have_the_recorded_status_and_text() {
        check(AuthError::Missing, 403, "Authorization header isn't set");
        check(AuthError::Invalid { cause: "secret".to_owned() }, 403, "Invalid token");
        check(AuthError::Scope(Scope::Jobs), 403, "API scope is missing: jobs");
        check(ApiError::TooLarge, 413, "PayloadTooLargeError: request entity too large");
        check(ApiError::Syntax("x".to_owned()), 400, "SyntaxError: x");
        check(
            ApiError::Timeout(Duration::from_secs(600)),
            400,
            "Error: Query execution timeout after 10 min of waiting",
        );
        check(
            ApiError::Timeout(Duration::from_millis(1500)),
            400,
            "Error: Query execution timeout after 1.5 s of waiting",
        );
        check(QueryError::LimitExceeded, 400, "Error: The query limit has been exceeded.");
        check(QueryError::Model("m".to_owned()), 400, "UserError m");
        check(
            QueryError::Join(JoinError { cubes: vec!["a".into(), "b".into()] }),
            400,
            "UserError Can't find join path to join 'a', 'b'",
        );
        let unknown = UnknownMember::Cube { cube: "c".into(), path: "c.m".into(), near: None };
        check(QueryError::UnknownMember(unknown), 400, "UserError Cube 'c' not found for path 'c.m'");
        check(QueryError::Engine(EngineError::Execution("divide by zero".into())), 400, "Error: divide by zero");
        check(ApiError::Internal("lost the key".to_owned()), 500, "Error: Internal Server Error");
        check(
            RefreshError::NothingSelected,
            400,
            "A user's selector doesn't match any of the pre-aggregations defined in the data model.",
        );
        let hidden = QueryError::HiddenMember { member: "orders__id".into() };
        let face = ApiError::from(hidden).face();
        assert_eq!(face.status.as_u16(), 500);
        assert!(face.text.starts_with("Error: You requested hidden member: 'orders__id'."), "{}", face.text);
    }

    #[tokio::test]
    async fn asking_again_is_no_error() {
        let body = async |stage| {
            let response = ApiError::from(QueryError::ContinueWait(stage)).into_response("r", false);
            assert_eq!(response.status(), StatusCode::OK);
            let bytes = axum::body::to_bytes(response.into_body(), 1000).await.expect("a body");
            String::from_utf8(bytes.to_vec()).expect("text")
        };
        let running = r#"{"error":"Continue wait","stage":"Executing query","timeElapsed":5002}"#;
        assert_eq!(body(Stage::Running(Duration::from_millis(5002))).await, running);
        assert_eq!(body(Stage::InLine(2)).await, r##"{"error":"Continue wait","stage":"#2 in queue"}"##);
    }

    #[test]
    fn paths_of_unknown_routes_are_escaped() {
        let response = unknown_route("GET", "/<script>");
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
    }
}
