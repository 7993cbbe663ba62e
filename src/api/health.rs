//! Probes and the front page (`http-api.md` §1.4).

use std::future::Future;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Response, StatusCode};
use quarry_storage::JobId;
use tokio::sync::Mutex;

use super::ApiParts;
use super::error::{html_response, json_response};
use crate::tasks::blocking;

/// How long an outcome counts.
const LIFE: Duration = Duration::from_secs(1);
/// A part that takes longer is down.
const PATIENCE: Duration = Duration::from_secs(5);

/// The outcomes of the last probes. Who asks while one is under way waits for that one.
#[derive(Debug, Default)]
pub struct Probes {
    live: Mutex<Option<(Instant, bool)>>,
    ready: Mutex<Option<(Instant, bool)>>,
}

/// `GET /livez`: the store, which holds the jobs, is there.
pub(super) async fn live(parts: &ApiParts) -> Response<Body> {
    answer(&parts.probes.live, store_is_there(parts)).await
}

/// `GET /readyz`: so is the default source, unless only rollups are asked.
pub(super) async fn ready(parts: &ApiParts) -> Response<Body> {
    let check = async { store_is_there(parts).await && (parts.queries.rollup_only || source_answers(parts).await) };
    answer(&parts.probes.ready, check).await
}

async fn answer(last: &Mutex<Option<(Instant, bool)>>, check: impl Future<Output = bool>) -> Response<Body> {
    let mut last = last.lock().await;
    let is_well = match *last {
        Some((at, outcome)) if at.elapsed() < LIFE => outcome,
        _ => tokio::time::timeout(PATIENCE, check).await.unwrap_or(false),
    };
    if last.is_none_or(|(at, _)| at.elapsed() >= LIFE) {
        *last = Some((Instant::now(), is_well));
    }
    match is_well {
        true => json_response(StatusCode::OK, r#"{"health":"HEALTH"}"#),
        false => json_response(StatusCode::INTERNAL_SERVER_ERROR, r#"{"health":"DOWN"}"#),
    }
}

async fn store_is_there(parts: &ApiParts) -> bool {
    let store = parts.store.clone();
    blocking(move || {
        let reached = std::fs::metadata(store.dir()).map_err(|error| error.to_string());
        // Any look-up tells whether the catalog can be read.
        let read = reached.and_then(|_| store.find_job(&JobId::from_token("probe")).map_err(|error| error.to_string()));
        if let Err(error) = &read {
            tracing::error!(error, "the store cannot be reached");
        }
        read.is_ok()
    })
    .await
}

async fn source_answers(parts: &ApiParts) -> bool {
    let Some(source) = parts.queries.sources.get("default") else { return true };
    match source.probe().await {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(%error, "the default data source does not answer");
            false
        }
    }
}

/// `GET /`.
pub(super) fn root(parts: &ApiParts) -> Response<Body> {
    let mode = if parts.options.dev_mode { "development" } else { "production" };
    let text = format!("<html><body>Quarry is running in {mode} mode.</body></html>");
    html_response(StatusCode::OK, text)
}
