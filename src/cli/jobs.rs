//! `quarry jobs`: looks at the build jobs of a running server, waits for them, cancels and retries them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Subcommand;
use serde_json::Value;

use super::ProjectArgs;
use super::server::{Server, ServerArgs};

/// Longest wait of one request; a longer wait asks again.
const WAIT_SECONDS: u64 = 60;

#[derive(Debug, clap::Args)]
pub(super) struct JobsArgs {
    #[command(flatten)]
    project: ProjectArgs,
    #[command(flatten)]
    server: ServerArgs,
    /// Print the server's JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List jobs, newest first
    List {
        /// Only jobs in these states: queued, running, done, failed, cancelled
        #[arg(long, value_delimiter = ',')]
        state: Vec<String>,
        /// Only jobs of these rollups, as cube.rollup
        #[arg(long, value_delimiter = ',', value_name = "ROLLUP")]
        rollup: Vec<String>,
        /// Jobs to show at most
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Jobs to skip
        #[arg(long, default_value_t = 0)]
        offset: u32,
    },
    /// Show one job
    Show {
        /// Its token
        token: String,
    },
    /// Wait until jobs have ended; exit code 1 when one was not built
    Wait {
        /// Their tokens
        #[arg(required = true)]
        tokens: Vec<String>,
        /// Longest wait, in seconds [default: without end]
        #[arg(long)]
        timeout: Option<u64>,
    },
    /// Cancel jobs: waiting ones are not built, running ones stop
    Cancel {
        /// Their tokens
        #[arg(required = true)]
        tokens: Vec<String>,
    },
    /// Build again what failed or cancelled jobs were for; prints the new jobs
    Retry {
        /// Their tokens
        #[arg(required = true)]
        tokens: Vec<String>,
    },
}

pub(super) fn run(args: JobsArgs) -> anyhow::Result<ExitCode> {
    let server = Server::of(args.server, &args.project.project)?;
    let (jobs, ended_well) = match args.action {
        Action::List { state, rollup, limit, offset } => {
            let path = list_path(&state, &rollup, limit, offset);
            let page = server.ask("GET", &path, Duration::ZERO)?;
            if args.json {
                return print(&format!("{}\n", serde_json::to_string_pretty(&page)?));
            }
            let jobs = page["jobs"].as_array().cloned().unwrap_or_default();
            let mut text = table(&jobs);
            writeln!(text, "{} of {} job(s)", jobs.len(), page["total"])?;
            return print(&text);
        }
        Action::Show { token } => (vec![server.ask("GET", &one(&token, "")?, Duration::ZERO)?], true),
        Action::Cancel { tokens } => (each(&server, "POST", &tokens, "/cancel")?, true),
        Action::Retry { tokens } => (each(&server, "POST", &tokens, "/retry")?, true),
        Action::Wait { tokens, timeout } => {
            let jobs = wait(&server, &tokens, timeout.map(Duration::from_secs))?;
            let done = jobs.iter().all(|job| job["status"] == "done");
            (jobs, done)
        }
    };
    print(&if args.json { format!("{}\n", serde_json::to_string_pretty(&jobs)?) } else { table(&jobs) })?;
    Ok(if ended_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(text: &str) -> anyhow::Result<ExitCode> {
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The path of a job. A token is one word: anything else would be another path.
fn one(token: &str, action: &str) -> anyhow::Result<String> {
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        bail!("'{token}' is no token of a job");
    }
    Ok(format!("/quarry/v1/jobs/{token}{action}"))
}

fn list_path(states: &[String], rollups: &[String], limit: u32, offset: u32) -> String {
    // Words of states and rollups are identifiers; what else was typed is encoded, and refused by the server.
    let encode = |words: &[String]| -> String {
        let text = words.join(",");
        text.bytes().fold(String::new(), |mut encoded, byte| {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b',' | b'-' => encoded.push(byte.into()),
                _ => drop(write!(encoded, "%{byte:02X}")),
            }
            encoded
        })
    };
    let (state, rollup) = (encode(states), encode(rollups));
    format!("/quarry/v1/jobs?limit={limit}&offset={offset}&state={state}&preAggregation={rollup}")
}

fn each(server: &Server, method: &str, tokens: &[String], action: &str) -> anyhow::Result<Vec<Value>> {
    tokens.iter().map(|token| server.ask(method, &one(token, action)?, Duration::ZERO)).collect()
}

/// The jobs once all have ended, or at the deadline as they are then.
fn wait(server: &Server, tokens: &[String], timeout: Option<Duration>) -> anyhow::Result<Vec<Value>> {
    let begun = Instant::now();
    let mut jobs = Vec::with_capacity(tokens.len());
    for token in tokens {
        loop {
            let left = timeout.map(|timeout| timeout.saturating_sub(begun.elapsed()));
            let patience = left.unwrap_or(Duration::MAX).min(Duration::from_secs(WAIT_SECONDS));
            let path = one(token, &format!("/wait?timeout={}", patience.as_secs_f64()))?;
            let job = server.ask("GET", &path, patience)?;
            let has_ended = !matches!(job["quarry"]["state"].as_str(), Some("queued" | "running"));
            if has_ended || left.is_some_and(|left| left <= patience) {
                jobs.push(job);
                break;
            }
        }
    }
    Ok(jobs)
}

/// A line a job.
fn table(jobs: &[Value]) -> String {
    let mut text = String::new();
    for job in jobs {
        let ours = &job["quarry"];
        let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let partition = ours["partition"]["start"].as_str().map_or("whole", |start| &start[..start.len().min(10)]);
        let mut parts = vec![
            word(&job["token"]),
            format!("{:<9}", word(&ours["state"])),
            word(&job["selector"]["preAggregations"][0]),
            partition.to_owned(),
            word(&job["selector"]["timezones"][0]),
        ];
        parts.extend(ours["phase"].as_str().map(str::to_owned));
        if let (Some(rows), Some(bytes)) = (ours["rows"].as_u64(), ours["sizeBytes"].as_u64()) {
            parts.push(format!("{rows} rows, {bytes} bytes"));
        }
        parts.extend(ours["cause"].as_str().and_then(|cause| cause.lines().next()).map(str::to_owned));
        text.push_str(&parts.join("  "));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_filters_stay_in_their_places() {
        assert_eq!(one("a1b2", "/wait").expect("a token"), "/quarry/v1/jobs/a1b2/wait");
        assert!(one("", "").is_err() && one("../x", "").is_err() && one("a?b", "").is_err());
        let path = list_path(&["failed".to_owned()], &["a.b&c".to_owned()], 5, 1);
        assert_eq!(path, "/quarry/v1/jobs?limit=5&offset=1&state=failed&preAggregation=a.b%26c");
    }
}
