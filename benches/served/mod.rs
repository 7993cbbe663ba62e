//! A server over a folder, as the benches of builds use it: jobs, questions, and what the process read and wrote.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const SECRET: &str = "a secret of the benches, long enough for HS256";

const JOBS: &str = "/cubejs-api/v1/pre-aggregations/jobs";

/// A running server; dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    url: String,
    token: String,
    agent: ureq::Agent,
}

/// Bytes that a process has read and written so far, by system calls: from the page cache, too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Io {
    pub(crate) read: u64,
    pub(crate) written: u64,
}

fn quarry(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quarry"));
    command.current_dir(dir).args(args).stdin(Stdio::null());
    command.env("CUBEJS_API_SECRET", SECRET).env("CUBEJS_DEFAULT_API_SCOPES", "meta,data,jobs");
    command
}

impl Server {
    /// Starts `quarry serve` on a free port.
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[])
    }

    /// The same with some settings.
    pub(crate) fn start_with(dir: &Path, settings: &[(&str, &str)]) -> Self {
        let token = quarry(dir, &["token"]).output().expect("the binary can be started");
        let token = String::from_utf8(token.stdout).expect("plain text").trim().to_owned();
        let log = dir.join("server.log");
        let child = quarry(dir, &["serve", "--host", "127.0.0.1", "--port", "0"])
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log file"))
            .envs(settings.iter().copied())
            .spawn()
            .expect("the binary can be started");
        let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(600))).build();
        let mut server = Self { child, url: String::new(), token, agent: config.into() };
        let begun = Instant::now();
        while server.url.is_empty() {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let rest = text.split_once("listening on http://127.0.0.1:").map_or("", |(_, rest)| rest);
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            if digits.len() < rest.len() {
                server.url = format!("http://127.0.0.1:{digits}");
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "the server does not start:\n{text}");
            std::thread::yield_now();
        }
        server
    }

    /// Posts JSON to a path; gives the answer's.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        let request = self.agent.post(format!("{}{path}", self.url)).header("authorization", &self.token);
        let request = request.header("content-type", "application/json");
        let mut response = request.send(body.to_string()).expect("an answer");
        let text = response.body_mut().with_config().limit(64 << 20).read_to_string().expect("a body");
        serde_json::from_str(&text).expect("JSON")
    }

    /// The rows of a question that a rollup answers.
    pub(crate) fn load(&self, query: &Value) -> Vec<Value> {
        let answer = self.post("/cubejs-api/v1/load", &json!({"query": query}));
        assert!(answer.get("usedPreAggregations").is_some(), "not from a rollup: {answer}");
        answer["data"].as_array().expect("rows").clone()
    }

    /// Asks for the partitions of a date range, or all; gives the tokens.
    pub(crate) fn request(&self, range: Option<[&str; 2]>) -> Vec<String> {
        let mut selector = json!({"contexts": [{"securityContext": {}}], "timezones": ["UTC"]});
        if let Some(range) = range {
            selector["dateRange"] = json!(range);
        }
        let tokens = self.post(JOBS, &json!({"action": "post", "selector": selector}));
        serde_json::from_value(tokens).expect("tokens")
    }

    /// Waits until all jobs are done.
    pub(crate) fn wait(&self, tokens: &[String]) {
        loop {
            let entries = self.post(JOBS, &json!({"action": "get", "tokens": tokens}));
            let statuses: Vec<&str> =
                entries.as_array().expect("entries").iter().filter_map(|entry| entry["status"].as_str()).collect();
            if statuses.iter().all(|status| *status == "done") {
                return;
            }
            let live = statuses.iter().all(|status| ["done", "scheduled", "processing"].contains(status));
            assert!(live, "a build failed: {statuses:?}");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// What the process has read and written; none where the system does not tell.
    pub(crate) fn io(&self) -> Option<Io> {
        let text = fs::read_to_string(format!("/proc/{}/io", self.child.id())).ok()?;
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Some(Io { read: value("rchar:")?, written: value("wchar:")? })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The middle one.
pub(crate) fn median<T: Copy + PartialOrd>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).expect("comparable"));
    values[values.len() / 2]
}

/// Whether this run only proves that the bench works (`cargo bench -- --test`).
pub(crate) fn only_a_test() -> bool {
    std::env::args().any(|argument| argument == "--test")
}
