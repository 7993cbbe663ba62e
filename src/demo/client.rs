//! The demo's HTTP client: questions and jobs, as any client of the server sends them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};

/// Between two looks at the jobs.
const POLL_EVERY: Duration = Duration::from_millis(50);
/// Longest wait for all jobs of a request.
const JOBS_PATIENCE: Duration = Duration::from_secs(600);
/// Longest wait for one answer of the server.
const HTTP_PATIENCE: Duration = Duration::from_secs(120);
/// Most repetitions of a question that the server answers with `Continue wait`.
const MOST_WAITS: usize = 60;

/// Talks to one server with one token.
#[derive(Clone)]
pub(super) struct Client {
    base: String,
    token: String,
    agent: ureq::Agent,
}

/// A finished `/v1/load`.
pub(super) struct Answer {
    /// The rows.
    pub(super) rows: Vec<Map<String, Value>>,
    /// `cube.rollup` of each rollup used.
    pub(super) rollups: Vec<String>,
    /// From sending the question to having parsed the answer.
    pub(super) took: Duration,
}

impl Answer {
    /// The text of a value, empty for null.
    ///
    /// # Errors
    /// The row lacks the member, or its value is no text, number or boolean.
    pub(super) fn text(row: &Map<String, Value>, member: &str) -> anyhow::Result<String> {
        match row.get(member) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Null) => Ok(String::new()),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
            _ => bail!("the answer lacks {member}: {}", Value::Object(row.clone())),
        }
    }
}

impl Client {
    /// A client of the server at `origin`, e.g. `http://127.0.0.1:4000`.
    pub(super) fn new(origin: &str, token: String) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(HTTP_PATIENCE));
        Self { base: format!("{origin}/cubejs-api/v1"), token, agent: ureq::Agent::new_with_config(config.build()) }
    }

    /// Asks a question and waits for its answer.
    ///
    /// # Errors
    /// The server cannot be reached or refuses the question.
    pub(super) async fn load(&self, query: &Value) -> anyhow::Result<Answer> {
        let started = Instant::now();
        for _ in 0..MOST_WAITS {
            let body = self.post("load", json!({ "query": query })).await?;
            if body["error"] == "Continue wait" {
                continue;
            }
            let took = started.elapsed();
            let used = body["usedPreAggregations"].as_object().into_iter().flat_map(Map::values);
            let rollups = used.filter_map(|entry| entry["preAggregationId"].as_str().map(str::to_owned)).collect();
            let rows = body["data"].as_array().context("the answer has no rows")?;
            let rows = rows.iter().map(|row| row.as_object().cloned().context("a row is no object"));
            return Ok(Answer { rows: rows.collect::<anyhow::Result<_>>()?, rollups, took });
        }
        bail!("the server keeps answering 'Continue wait'")
    }

    /// Asks for builds; gives their tokens.
    ///
    /// # Errors
    /// The server cannot be reached or refuses the request.
    pub(super) async fn post_jobs(&self, selector: &Value) -> anyhow::Result<Vec<String>> {
        let body = self.post("pre-aggregations/jobs", json!({ "action": "post", "selector": selector })).await?;
        serde_json::from_value(body).context("the jobs endpoint answered no list of tokens")
    }

    /// Waits until all jobs are done; `progress` is told how many are.
    ///
    /// # Errors
    /// The server cannot be reached, a job failed or got lost, or it takes too long.
    pub(super) async fn wait_for_jobs(&self, tokens: &[String], progress: impl Fn(u64)) -> anyhow::Result<()> {
        let started = Instant::now();
        while started.elapsed() < JOBS_PATIENCE {
            let body = self.post("pre-aggregations/jobs", json!({ "action": "get", "tokens": tokens })).await?;
            let jobs = body.as_array().context("the jobs endpoint answered no list")?;
            let mut done = 0;
            for job in jobs {
                match job["status"].as_str().unwrap_or_default() {
                    "done" => done += 1,
                    "scheduled" | "processing" => {}
                    status => bail!("job {} of table {}: {status}", job["token"], job["table"]),
                }
            }
            progress(done as u64);
            if done == tokens.len() {
                return Ok(());
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        bail!("the jobs are not done after {} s", JOBS_PATIENCE.as_secs())
    }

    async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        let url = format!("{}/{path}", self.base);
        let client = self.clone();
        let send = move || {
            let mut response = client.agent.post(&url).header("Authorization", &client.token).send_json(body)?;
            let status = response.status();
            let answer: Value = response.body_mut().read_json()?;
            Ok::<_, ureq::Error>((status, answer, url))
        };
        let (status, answer, url) = tokio::task::spawn_blocking(send).await?.context("ask the server")?;
        if status != 200 {
            bail!("{url} answered {status}: {}", answer["error"].as_str().unwrap_or("no reason given"));
        }
        Ok(answer)
    }
}
