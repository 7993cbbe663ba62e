//! A running server, as the commands that talk to one see it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::auth::jwt;
use crate::config::{Config, Overrides};

/// Beyond what a request itself waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the server is and who asks.
#[derive(Debug, clap::Args)]
pub(super) struct ServerArgs {
    /// The running server [default: http://localhost with the project's PORT]
    #[arg(long, global = true)]
    url: Option<String>,
    /// Token to ask with [default: one signed with the project's secret]
    #[arg(long = "token", global = true, value_name = "JWT", id = "jwt")]
    token: Option<String>,
}

/// Talks to one server with one token.
pub(super) struct Server {
    origin: String,
    token: String,
}

impl Server {
    /// The server that the arguments name; what they leave out is the project's.
    pub(super) fn of(args: ServerArgs, project: &Path) -> anyhow::Result<Self> {
        let (origin, token) = match (args.url, args.token) {
            (Some(url), Some(token)) => (url, token),
            (url, token) => {
                // Only the settings are needed: what is wrong with the rest is the server's to say.
                let config = Config::load(project, &Overrides { dev_mode: Some(true), ..Overrides::default() })?;
                let url = url.unwrap_or_else(|| format!("http://localhost:{}", config.port));
                let token = token.map_or_else(|| sign(&config), Ok)?;
                (url, token)
            }
        };
        Ok(Self { origin: origin.trim_end_matches('/').to_owned(), token })
    }

    /// Sends a request without body; waits for `patience` more than usual. Gives the JSON of a good answer.
    ///
    /// # Errors
    /// No answer, or one that is an error: its text, with what to do where that is known.
    pub(super) fn ask(&self, method: &str, path: &str, patience: Duration) -> anyhow::Result<Value> {
        let config =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(patience + PATIENCE));
        let agent = ureq::Agent::new_with_config(config.build());
        let request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.origin));
        let request = request.header("Authorization", &self.token).body(()).context("not a URL")?;
        let mut response = agent.run(request).with_context(|| {
            format!("failed to reach {}: is the server running? (--url names another)", self.origin)
        })?;
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(1 << 28).read_to_string()?;
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        if status == 200 {
            return Ok(body);
        }
        let error = body["error"].as_str().unwrap_or(&text);
        let hint = match (status, error) {
            (403, text) if text.contains("API scope is missing") => {
                "\nAdd jobs to the server's CUBEJS_DEFAULT_API_SCOPES (meta,data,graphql,sql,jobs)"
            }
            (403, _) => {
                "\nThe token does not fit the server's secret: pass --token, or --project of the server's folder"
            }
            (404, text) if !text.starts_with("Job") => "\nIs that a Quarry server of this version?",
            _ => "",
        };
        bail!("{} answered {status}: {error}{hint}", self.origin)
    }
}

fn sign(config: &Config) -> anyhow::Result<String> {
    match config.secrets.first() {
        Some(secret) => Ok(jwt::sign(&json!({}), secret)?),
        // A server in development mode asks for none.
        None => Ok(String::new()),
    }
}
