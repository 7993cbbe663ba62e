//! Tells a URL that the jobs of a request have ended.
//!
//! Who waits is part of the durable job, so that a restart does not lose it. The call is tried a few times; a
//! receiver that stays away is given up, and the jobs' tokens still tell the truth.

use std::time::Duration;

use quarry_storage::JobId;
use serde_json::{Value, json};

use super::super::ApiParts;
use super::super::error::ApiError;
use super::entry::describe_with_token;
use super::parse::fault;
use crate::refresh::{JobView, Refresher, Webhook};
use crate::tasks::{Tasks, blocking};

/// Tries of one call.
const TRIES: u32 = 5;
/// Pause before the second try; doubles.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest time for one try.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads the URL of a job request.
pub(super) fn parse(value: &Value) -> Result<Webhook, ApiError> {
    let url = value.as_str().ok_or_else(|| fault("\"webhook\" must be a string"))?;
    let is_url = url.parse::<ureq::http::Uri>().is_ok_and(|uri| {
        // There is no TLS in this process: it stands behind a proxy, and so do its receivers.
        uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty())
    });
    if !is_url {
        return Err(fault("\"webhook\" must be a URL that begins with http://"));
    }
    Ok(Webhook { url: url.to_owned(), request: uuid::Uuid::new_v4().simple().to_string() })
}

/// Waits for the jobs in the background and tells of their end.
pub(super) fn watch(parts: &ApiParts, webhook: Webhook, ids: Vec<JobId>) {
    spawn(&parts.tasks, &parts.refresher, &parts.options.preagg_schema, webhook, ids);
}

/// Goes on waiting for jobs that had not ended when the process stopped last.
pub(in super::super) async fn resume(parts: &ApiParts) {
    match parts.refresher.unfinished_webhooks().await {
        Ok(found) => found.into_iter().for_each(|(webhook, ids)| watch(parts, webhook, ids)),
        Err(error) => tracing::error!(%error, "failed to find the webhooks of unfinished jobs"),
    }
}

fn spawn(tasks: &Tasks, refresher: &Refresher, schema: &str, webhook: Webhook, ids: Vec<JobId>) {
    let (refresher, schema, stop) = (refresher.clone(), schema.to_owned(), tasks.stop_signal());
    tasks.spawn("webhook", move || {
        let (refresher, schema, stop) = (refresher.clone(), schema.clone(), stop.clone());
        let (webhook, ids) = (webhook.clone(), ids.clone());
        async move {
            // Losing the work is harmless: unfinished jobs are watched again after the next start.
            stop.run_until_cancelled(async move {
                match refresher.wait(&ids).await {
                    Ok(jobs) if jobs.iter().all(|job| job.record.state.has_ended()) => {
                        deliver(&webhook, &message(&webhook, &jobs, &schema)).await;
                    }
                    // The server is stopping.
                    Ok(_) => {}
                    Err(error) => tracing::error!(%error, url = webhook.url, "failed to wait for jobs"),
                }
            })
            .await;
        }
    });
}

fn message(webhook: &Webhook, jobs: &[JobView], schema: &str) -> String {
    let all_done = jobs.iter().all(|job| job.status == "done");
    let entries: Vec<Value> = jobs.iter().map(|job| describe_with_token(job, schema)).collect();
    let status = if all_done { "done" } else { "failure" };
    json!({"event": "jobs.ended", "request": webhook.request, "status": status, "jobs": entries}).to_string()
}

async fn deliver(webhook: &Webhook, body: &str) {
    let mut pause = PAUSE;
    for remaining in (0..TRIES).rev() {
        let (url, text) = (webhook.url.clone(), body.to_owned());
        match blocking(move || send(&url, &text)).await {
            Ok(status) if (200..300).contains(&status) => return,
            // A receiver that refuses will refuse again; one that is busy may not.
            Ok(status) if status < 500 && status != 429 && status != 408 => {
                tracing::warn!(url = webhook.url, status, "a webhook was refused");
                return;
            }
            outcome if remaining == 0 => {
                let cause = outcome.map_or_else(|error| error.to_string(), |status| format!("status {status}"));
                tracing::warn!(url = webhook.url, cause, "a webhook was given up");
            }
            _ => tokio::time::sleep(pause).await,
        }
        pause *= 2;
    }
}

fn send(url: &str, body: &str) -> Result<u16, ureq::Error> {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_global(Some(PATIENCE))
        .build();
    let agent = ureq::Agent::new_with_config(config);
    let response = agent.post(url).header("Content-Type", "application/json").send(body)?;
    Ok(response.status().as_u16())
}
