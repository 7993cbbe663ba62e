//! Probes and the front page (`http-api.md` §1.4).

use axum::body::Body;
use axum::http::{Response, StatusCode};

use super::ApiParts;
use super::error::{html_response, json_response};

/// Both probes. A server that answers has a model, an open store and its sources: they are parts of
/// this process, made before it listens.
pub(super) fn alive() -> Response<Body> {
    json_response(StatusCode::OK, r#"{"health":"HEALTH"}"#)
}

/// `GET /`.
pub(super) fn root(parts: &ApiParts) -> Response<Body> {
    let mode = if parts.options.dev_mode { "development" } else { "production" };
    let text = format!("<html><body>Quarry is running in {mode} mode.</body></html>");
    html_response(StatusCode::OK, text)
}
