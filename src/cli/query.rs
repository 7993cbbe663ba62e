//! `quarry query`: answers one query on the terminal.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{PATIENCE, ProjectArgs, start_for_command};
use crate::auth::jwt;
use crate::config::{Config, Overrides};

#[derive(Debug, clap::Args)]
pub(super) struct QueryArgs {
    #[command(flatten)]
    project: ProjectArgs,
    /// The query, in Cube's JSON query format
    json: String,
    /// Print the whole answer and not only its rows
    #[arg(long)]
    full: bool,
    /// Ask a running server, for example http://localhost:4000
    #[arg(long)]
    url: Option<String>,
    /// Token for --url [default: one signed with the project's secret]
    #[arg(long, requires = "url")]
    token: Option<String>,
}

pub(super) async fn run(args: QueryArgs) -> anyhow::Result<ExitCode> {
    let parsed: Value = serde_json::from_str(&args.json).context("the query is not JSON")?;
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
            ask(url.trim_end_matches('/').to_owned(), token, parsed).await?
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
                let answer = ask(url, String::new(), parsed).await;
                drop(stop);
                answer
            };
            let (served, answer) = tokio::join!(server, client);
            served?;
            app.stop(PATIENCE).await;
            answer?
        }
    };
    if let Some(error) = answer.get("error") {
        bail!("{}", error.as_str().unwrap_or("the server gave no reason"));
    }
    writeln!(std::io::stdout().lock(), "{}", serde_json::to_string_pretty(&shown(answer, args.full))?)?;
    Ok(ExitCode::SUCCESS)
}

/// What is printed: of one query its result, of several all of them; without `full` only the rows.
fn shown(mut answer: Value, full: bool) -> Value {
    let several = answer["queryType"] != "regularQuery";
    if several && full {
        return answer;
    }
    let Some(Value::Array(mut results)) = answer.get_mut("results").map(Value::take) else {
        return answer["data"].take();
    };
    if !full {
        results.iter_mut().for_each(|result| *result = result["data"].take());
    }
    if several { Value::Array(results) } else { results.pop().unwrap_or_default() }
}

/// Asks until the answer is there; the body also of an error.
async fn ask(origin: String, token: String, query: Value) -> anyhow::Result<Value> {
    let work = move || -> anyhow::Result<Value> {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let url = format!("{origin}/cubejs-api/v1/load");
        loop {
            let request = agent.post(&url).header("Authorization", &token);
            let mut response = request
                .send_json(json!({"query": query, "queryType": "multi"}))
                .with_context(|| format!("failed to reach {origin}"))?;
            let body: Value = response
                .body_mut()
                .with_config()
                .limit(1 << 30)
                .read_json()
                .context("the server's answer is not JSON")?;
            if body.get("error").and_then(Value::as_str) != Some("Continue wait") {
                return Ok(body);
            }
        }
    };
    tokio::task::spawn_blocking(work).await.context("the request was interrupted")?
}
