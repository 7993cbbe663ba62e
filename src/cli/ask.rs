//! Asking a server of the project from the command line.

use std::net::Ipv4Addr;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{PATIENCE, ProjectArgs, start_for_command};
use crate::auth::jwt;
use crate::config::{Config, Overrides};

/// A query, and whom to ask it.
#[derive(Debug, clap::Args)]
pub(super) struct AskedArgs {
    #[command(flatten)]
    project: ProjectArgs,
    /// The query, in Cube's JSON query format
    #[arg(value_name = "JSON")]
    query: String,
    /// Ask a running server, for example http://localhost:4000
    #[arg(long)]
    url: Option<String>,
    /// Token for --url [default: one signed with the project's secret]
    #[arg(long, requires = "url")]
    token: Option<String>,
}

/// Asks a running server, or one of the project's own for as long as it takes. `body` is what goes beside the query.
pub(super) async fn ask(args: AskedArgs, path: &str, mut body: Value) -> anyhow::Result<Value> {
    body["query"] = serde_json::from_str(&args.query).context("the query is not JSON")?;
    let answer = match &args.url {
        Some(url) => {
            let token = match args.token {
                Some(token) => token,
                None => {
                    let config = Config::load(&args.project.project, &Overrides::default())?;
                    let secret =
                        config.secrets.first().context("no --token given, and the project has no CUBEJS_API_SECRET")?;
                    jwt::sign(&json!({}), secret)?
                }
            };
            post(url.trim_end_matches('/').to_owned(), path, token, body).await?
        }
        None => {
            let held = "A running server holds it: ask that one with --url http://localhost:4000";
            let (_, app) = start_for_command(&args.project.project, held)?;
            // The same way as every client: over HTTP, on a port that nobody else knows.
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let url = format!("http://{}", listener.local_addr()?);
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let server = crate::api::serve(listener, app.api()?, async { drop(stopped.await) });
            let client = async {
                let answer = post(url, path, String::new(), body).await;
                drop(stop);
                answer
            };
            let ((), answer) = tokio::join!(server, client);
            app.stop(PATIENCE).await;
            answer?
        }
    };
    match answer.get("error") {
        Some(error) => bail!("{}", error.as_str().unwrap_or("the server gave no reason")),
        None => Ok(answer),
    }
}

/// Asks until the answer is there; the body also of an error.
async fn post(origin: String, path: &str, token: String, body: Value) -> anyhow::Result<Value> {
    let url = format!("{origin}{path}");
    let work = move || -> anyhow::Result<Value> {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        loop {
            let request = agent.post(&url).header("Authorization", &token);
            let mut response = request.send_json(&body).with_context(|| format!("failed to reach {origin}"))?;
            let answer: Value = response
                .body_mut()
                .with_config()
                .limit(1 << 30)
                .read_json()
                .context("the server's answer is not JSON")?;
            if answer.get("error").and_then(Value::as_str) != Some("Continue wait") {
                return Ok(answer);
            }
        }
    };
    tokio::task::spawn_blocking(work).await.context("the request was interrupted")?
}
