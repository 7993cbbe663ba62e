//! A real server: the built binary as a child process on a free port, over a copy of a project.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The secret of every server here.
pub(crate) const SECRET: &str = "a secret of the acceptance tests, long enough for HS256";
/// Scopes of a server that takes jobs.
pub(crate) const ALL_SCOPES: &str = "meta,data,graphql,sql,jobs";
/// Path of the orchestration endpoint.
pub(crate) const JOBS: &str = "/cubejs-api/v1/pre-aggregations/jobs";
/// Path of the query endpoint.
pub(crate) const LOAD: &str = "/cubejs-api/v1/load";
/// How long a server may take to start in tests that do not measure it; the demo generates its data first.
const START: Duration = Duration::from_secs(300);

/// Polls until `probe` gives a value; fails with `what` when `patience` has passed.
#[track_caller]
pub(crate) fn wait_until<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(begun.elapsed() < patience, "waited {patience:?} in vain for: {what}");
        pause(Duration::from_millis(5));
    }
}

/// Lets `duration` pass; for [`wait_until`], and for picking a moment to kill a server.
#[expect(clippy::disallowed_methods, reason = "the one place of these tests that lets time pass")]
pub(crate) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// An environment variable of the test run.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var_os(name).and_then(|value| value.into_string().ok())
}

/// Seconds since 1970, for claims.
pub(crate) fn now_seconds() -> i64 {
    quarry::time::Clock::System.now() / 1_000_000
}

/// A signed HS256 token.
pub(crate) fn sign(claims: &Value, secret: &str) -> String {
    sign_with(Algorithm::HS256, claims, secret)
}

/// A token of any HMAC algorithm.
pub(crate) fn sign_with(algorithm: Algorithm, claims: &Value, secret: &str) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes()))
        .expect("claims of these tests can be signed")
}

/// A token that every server here takes.
pub(crate) fn valid_token() -> String {
    sign(&json!({"sub": "acceptance"}), SECRET)
}

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A project folder; it goes away with the last of the value and the servers started in it.
#[derive(Debug)]
pub(crate) struct Project {
    dir: Arc<TempDir>,
}

impl Project {
    /// An empty folder.
    pub(crate) fn empty() -> Self {
        let dir = tempfile::Builder::new().prefix("quarry-it-").tempdir().expect("a temporary folder");
        Self { dir: Arc::new(dir) }
    }

    /// A copy of `fixtures/NAME`.
    pub(crate) fn copy(name: &str) -> Self {
        let project = Self::empty();
        copy_tree(&root().join("fixtures").join(name), project.path());
        project
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a text file, with the folders above it.
    pub(crate) fn write(&self, relative: &str, text: &str) {
        let path = self.path().join(relative);
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("the folder can be created");
        fs::write(path, text).expect("the file can be written");
    }

    /// The model without rollups: every file is cut at its `pre_aggregations:` key, which comes last.
    pub(crate) fn drop_rollups(&self) {
        for entry in fs::read_dir(self.path().join("model")).expect("a model folder") {
            let path = entry.expect("a readable folder").path();
            let text = fs::read_to_string(&path).expect("a readable model file");
            if let Some((head, _)) = text.split_once("    pre_aggregations:\n") {
                fs::write(&path, head).expect("the file can be written");
            }
        }
    }

    /// The Parquet files of the store.
    pub(crate) fn stored_files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        list_files(&self.path().join(".quarry").join("partitions"), &mut found);
        found.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
        found.sort();
        found
    }
}

fn list_files(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() { list_files(&path, found) } else { found.push(path) }
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder can be created");
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
        let path = entry.expect("a readable folder").path();
        let target = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() {
            copy_tree(&path, &target);
        } else {
            fs::copy(&path, &target).expect("the file can be copied");
        }
    }
}

/// The built binary in `dir`, with an environment that holds nothing but `settings`.
pub(crate) fn quarry(dir: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quarry"));
    command.current_dir(dir).stdin(Stdio::null()).env_clear();
    for name in ["PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH"] {
        if let Some(value) = environment(name) {
            command.env(name, value);
        }
    }
    command.envs(settings.iter().copied());
    command
}

/// Runs a command of the binary to its end.
pub(crate) fn run(dir: &Path, settings: &[(&str, &str)], args: &[&str]) -> Output {
    quarry(dir, settings).args(args).output().expect("the binary can be started")
}

/// Everything a command printed.
pub(crate) fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A running server. Dropping it kills the process, by its own id.
#[derive(Debug)]
pub(crate) struct Server {
    child: Mutex<Child>,
    port: u16,
    log: PathBuf,
    agent: ureq::Agent,
    _logs: TempDir,
    /// Kept for as long as the server may read it.
    project: Option<Arc<TempDir>>,
}

impl Server {
    /// `quarry serve` with the secret, and no other settings.
    pub(crate) fn start(project: &Project) -> Self {
        Self::start_with(project, &[])
    }

    /// `quarry serve` that takes jobs.
    pub(crate) fn start_with_jobs(project: &Project) -> Self {
        Self::start_with(project, &[("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES)])
    }

    /// `quarry serve` with the secret and these settings.
    pub(crate) fn start_with(project: &Project, settings: &[(&str, &str)]) -> Self {
        let mut all = vec![("CUBEJS_API_SECRET", SECRET)];
        all.extend_from_slice(settings);
        let path = project.path().to_str().expect("temporary folders have plain names");
        let args = ["serve", "--project", path, "--host", "127.0.0.1", "--port", "0"];
        let mut server = Self::spawn(project.path(), &all, &args);
        server.project = Some(Arc::clone(&project.dir));
        server
    }

    /// Any command that ends up listening.
    pub(crate) fn spawn(dir: &Path, settings: &[(&str, &str)], args: &[&str]) -> Self {
        let logs = tempfile::tempdir().expect("a temporary folder");
        let log = logs.path().join("server.log");
        let file = File::create(&log).expect("a log file");
        let other = file.try_clone().expect("a second handle");
        let mut child =
            quarry(dir, settings).args(args).stdout(file).stderr(other).spawn().expect("the binary can be started");
        let port = wait_until("the server's line `listening on http://…`", START, || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            if let Some(status) = child.try_wait().expect("a child can be asked") {
                panic!("the server ended with {status}:\n{text}");
            }
            listening_port(&text)
        });
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .timeout_global(Some(Duration::from_secs(300)))
            .max_idle_connections(4)
            .build();
        Self { child: Mutex::new(child), port, log, agent: config.into(), _logs: logs, project: None }
    }

    /// The port it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The most memory that the process has had, in bytes.
    #[cfg(target_os = "linux")]
    pub(crate) fn greatest_memory(&self) -> u64 {
        let id = self.child.lock().expect("no test panics while it holds the lock").id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).expect("a process that runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a kernel that tells");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// The id of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.lock().expect("no test panics while it holds the lock").id()
    }

    /// What it has printed so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Starts a request without token.
    pub(crate) fn call(&self, method: &str, path: &str) -> Call<'_> {
        Call { server: self, method: method.to_owned(), path: path.to_owned(), headers: Vec::new(), body: None }
    }

    /// A GET with a valid token.
    pub(crate) fn get(&self, path: &str) -> Reply {
        self.call("GET", path).token(&valid_token()).send()
    }

    /// A POST of JSON with a valid token.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.call("POST", path).token(&valid_token()).json(body).send()
    }

    /// Asks a query; waits while the server says so.
    pub(crate) fn ask(&self, query: &Value) -> Reply {
        wait_until("an answer", Duration::from_secs(120), || {
            let reply = self.post(LOAD, &json!({"query": query}));
            (!reply.body.contains("Continue wait")).then_some(reply)
        })
    }

    /// The whole answer of a query that must succeed.
    #[track_caller]
    pub(crate) fn load(&self, query: &Value) -> Value {
        let reply = self.ask(query);
        assert_eq!(reply.status, 200, "{query} was answered {}", reply.body);
        reply.value()
    }

    /// The rows of a query that must succeed.
    #[track_caller]
    pub(crate) fn rows(&self, query: &Value) -> Vec<Value> {
        let answer = self.load(query);
        answer["data"].as_array().unwrap_or_else(|| panic!("no rows in {answer}")).clone()
    }

    /// Posts a job request that must succeed; gives the tokens.
    #[track_caller]
    pub(crate) fn post_jobs(&self, selector: &Value) -> Vec<String> {
        let reply = self.post(JOBS, &json!({"action": "post", "selector": selector}));
        assert_eq!(reply.status, 200, "{selector} was answered {}", reply.body);
        let tokens = reply.value();
        let tokens = tokens.as_array().unwrap_or_else(|| panic!("no list of tokens: {tokens}"));
        tokens.iter().map(|token| token.as_str().expect("a token is a text").to_owned()).collect()
    }

    /// The entries of these tokens, in order.
    #[track_caller]
    pub(crate) fn job_entries(&self, tokens: &[String]) -> Vec<Value> {
        let reply = self.post(JOBS, &json!({"action": "get", "tokens": tokens}));
        assert_eq!(reply.status, 200, "{}", reply.body);
        let entries = reply.value();
        entries.as_array().unwrap_or_else(|| panic!("no list of entries: {entries}")).clone()
    }

    /// Waits until every job has ended; gives the statuses, in order.
    #[track_caller]
    pub(crate) fn wait_jobs(&self, tokens: &[String]) -> Vec<String> {
        wait_until("all jobs to end", Duration::from_secs(300), || {
            let entries = self.job_entries(tokens);
            assert_eq!(entries.len(), tokens.len(), "one entry a token: {entries:?}");
            let statuses: Vec<String> =
                entries.iter().map(|entry| entry["status"].as_str().expect("a status is a text").to_owned()).collect();
            (!statuses.iter().any(|status| is_live(status))).then_some(statuses)
        })
    }

    /// Builds what a selector names, to the end; gives the number of jobs.
    #[track_caller]
    pub(crate) fn build(&self, selector: &Value) -> usize {
        let tokens = self.post_jobs(selector);
        let statuses = self.wait_jobs(&tokens);
        assert!(statuses.iter().all(|status| status == "done"), "not all were built: {statuses:?}\n{}", self.log());
        tokens.len()
    }

    /// Bytes of memory that the process holds.
    pub(crate) fn held_bytes(&self) -> usize {
        let id = self.child.lock().expect("no test panics while it holds the lock").id().to_string();
        let said = Command::new("ps").args(["-o", "rss=", "-p", &id]).output().expect("ps can be started");
        let kilobytes = String::from_utf8_lossy(&said.stdout).trim().parse::<usize>().expect("a number of kilobytes");
        kilobytes * 1024
    }

    /// Ends the process at once, as `kill -9` does.
    pub(crate) fn kill(&self) -> ExitStatus {
        let mut child = self.child.lock().expect("no test panics while it holds the lock");
        // An error means that it has ended already.
        child.kill().ok();
        child.wait().expect("a child can be waited for")
    }

    /// Asks the process to end, as `kill` does, and waits until it has.
    pub(crate) fn stop(&self) -> ExitStatus {
        let mut child = self.child.lock().expect("no test panics while it holds the lock");
        let told = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status();
        assert!(told.is_ok_and(|status| status.success()), "the server cannot be told to end");
        child.wait().expect("a child can be waited for")
    }

    /// Fails if the server has ended or a request made it panic.
    #[track_caller]
    pub(crate) fn assert_alive(&self) {
        let ended = self.child.lock().expect("no test panics while it holds the lock").try_wait().expect("a child");
        assert!(ended.is_none(), "the server ended with {ended:?}:\n{}", self.log());
        assert_eq!(self.call("GET", "/livez").send().status, 200);
        assert!(!self.log().contains("panicked"), "a request panicked:\n{}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the server on port {} ---\n{}", self.port, tail(&self.log(), 6000));
        }
        self.kill();
    }
}

/// Whether a job of this status may still change.
pub(crate) fn is_live(status: &str) -> bool {
    matches!(status, "scheduled" | "processing")
}

fn tail(text: &str, bytes: usize) -> &str {
    let mut from = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

/// What stands before the address: of `serve`, and of the demo when it is ready.
const BEFORE_ADDRESS: [&str; 2] = ["listening on http://", " at http://"];

/// The port of the address that the server prints, once the line is complete.
fn listening_port(log: &str) -> Option<u16> {
    let rest = BEFORE_ADDRESS.iter().find_map(|words| log.split_once(words))?.1;
    // What ends the address; without it the line may still grow.
    let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".:[]-".contains(c)))?;
    rest[..length].trim_end_matches('.').rsplit(':').next()?.parse().ok()
}

/// A request in the making.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    server: &'a Server,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Call<'_> {
    /// Adds `authorization: TOKEN`.
    pub(crate) fn token(self, token: &str) -> Self {
        self.header("authorization", token)
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A JSON body.
    pub(crate) fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").raw(body.to_string())
    }

    /// Any body.
    pub(crate) fn raw(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sends it; fails when no HTTP answer comes.
    #[track_caller]
    pub(crate) fn send(self) -> Reply {
        let what = format!("{} {}", self.method, self.path);
        self.try_send().unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// Sends it.
    pub(crate) fn try_send(self) -> Result<Reply, ureq::Error> {
        let (reply, body) = self.fetch()?;
        let body = String::from_utf8(body).map_err(|error| ureq::Error::Other(error.into()))?;
        Ok(Reply { body, ..reply })
    }

    /// Sends it; the body may be anything.
    #[track_caller]
    pub(crate) fn send_for_bytes(self) -> (Reply, Vec<u8>) {
        let what = format!("{} {}", self.method, self.path);
        let (reply, body) = self.fetch().unwrap_or_else(|error| panic!("{what}: {error}"));
        (Reply { body: String::from_utf8_lossy(&body).into_owned(), ..reply }, body)
    }

    /// The answer and, apart from it, its body.
    fn fetch(self) -> Result<(Reply, Vec<u8>), ureq::Error> {
        let uri = format!("http://127.0.0.1:{}{}", self.server.port, self.path);
        let mut builder = ureq::http::Request::builder().method(self.method.as_str()).uri(uri);
        for (name, value) in &self.headers {
            builder = builder.header(name, value);
        }
        let agent = &self.server.agent;
        let mut response = match self.body {
            Some(body) => agent.run(builder.body(body)?)?,
            None => agent.run(builder.body(())?)?,
        };
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(256 << 20).read_to_vec()?;
        Ok((Reply { status, headers, body: String::new() }, body))
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The status code.
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// The body as text.
    pub(crate) body: String,
}

impl Reply {
    /// The body as JSON.
    #[track_caller]
    pub(crate) fn value(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in the answer {:?}", self.body))
    }

    /// The text under `error`.
    #[track_caller]
    pub(crate) fn error(&self) -> String {
        self.value()["error"].as_str().unwrap_or_else(|| panic!("no error text in {:?}", self.body)).to_owned()
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

#[test]
fn the_port_is_read_from_a_complete_line_only() {
    assert_eq!(listening_port("starting\n"), None);
    assert_eq!(listening_port("listening on http://127.0.0.1:40"), None);
    assert_eq!(listening_port("INFO quarry: listening on http://127.0.0.1:4001\nmore"), Some(4001));
    assert_eq!(listening_port(r#"{"message":"listening on http://127.0.0.1:4001","level":"INFO"}"#), Some(4001));
    assert_eq!(listening_port("listening on http://[::1]:4001 (dev)\n"), Some(4001));
    assert_eq!(listening_port("Serving shop at http://127.0.0.1:4001 until Ctrl-C.\n"), Some(4001));
}

#[test]
fn a_projects_rollups_can_be_cut_off() {
    let project = Project::copy("property");
    project.drop_rollups();
    for entry in fs::read_dir(project.path().join("model")).expect("a model folder") {
        let text = fs::read_to_string(entry.expect("an entry").path()).expect("a model file");
        assert!(text.contains("measures:") && !text.contains("pre_aggregations"), "{text}");
    }
}
