//! How long is a rollup query on the way? Over HTTP, against `/livez` (what HTTP costs by itself) and against the same
//! question asked straight to DataFusion over the raw Parquet file.

mod project;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use criterion::Criterion;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The query, as a client writes it; `plan.rs` has the same in parts.
const QUERY: &str = r#"{"measures":["orders.revenue","orders.count"],"dimensions":["orders.city"],
"timeDimensions":[{"dimension":"orders.created_at","granularity":"month","dateRange":["2024-03-01","2024-08-31"]}],
"filters":[{"member":"orders.status","operator":"equals","values":["shipped"]}]}"#;

/// The same question in SQL over the source.
const SQL: &str = "SELECT city, date_trunc('month', created_at) AS month, sum(amount), count(*) FROM orders \
WHERE created_at >= TIMESTAMP '2024-03-01' AND created_at < TIMESTAMP '2024-09-01' AND status = 'shipped' \
GROUP BY city, month ORDER BY month LIMIT 10000";

/// A server of the project; dropping it ends the process.
#[derive(Debug)]
struct Server {
    child: Child,
    /// `http://127.0.0.1:PORT`.
    url: String,
    /// A valid token.
    token: String,
}

impl Server {
    /// Starts `quarry serve` on a free port.
    fn start(dir: &Path) -> Self {
        let token = project::quarry(dir, &["token"]).output().expect("the binary can be started");
        let token = String::from_utf8(token.stdout).expect("plain text").trim().to_owned();
        let log = dir.join("server.log");
        let child = project::quarry(dir, &["serve", "--host", "127.0.0.1", "--port", "0"])
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log file"))
            .spawn()
            .expect("the binary can be started");
        let mut server = Self { child, url: String::new(), token };
        let begun = Instant::now();
        while server.url.is_empty() {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let rest = text.split_once("listening on http://127.0.0.1:").map_or("", |(_, rest)| rest);
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            if digits.len() < rest.len() {
                server.url = format!("http://127.0.0.1:{digits}");
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "the server does not start:\n{text}");
            std::thread::yield_now();
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What is asked, and of whom.
struct Bench {
    agent: ureq::Agent,
    server: Server,
    body: String,
    body_anew: String,
    runtime: tokio::runtime::Runtime,
    context: SessionContext,
    _dir: TempDir,
}

impl Bench {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        project::write(dir.path());
        project::build(dir.path());
        let server = Server::start(dir.path());
        let query: Value = serde_json::from_str(QUERY).expect("the query is JSON");
        let runtime = tokio::runtime::Builder::new_multi_thread().build().expect("a runtime");
        let context = SessionContext::new();
        let path = dir.path().join("data/orders.parquet");
        let path = path.to_str().expect("a plain name");
        runtime.block_on(context.register_parquet("orders", path, ParquetReadOptions::default())).expect("the table");
        let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(60))).build();
        let body = json!({"query": query}).to_string();
        let body_anew = json!({"query": query, "cache": "no-cache"}).to_string();
        Self { agent: config.into(), server, body, body_anew, runtime, context, _dir: dir }
    }

    /// The query over HTTP, answered from the rollup: as it is kept ready to be sent.
    fn load(&self) -> String {
        self.post(&self.body)
    }

    /// The same, made anew each time.
    fn load_anew(&self) -> String {
        self.post(&self.body_anew)
    }

    fn post(&self, body: &str) -> String {
        let url = format!("{}/cubejs-api/v1/load", self.server.url);
        let request = self.agent.post(url).header("authorization", &self.server.token);
        let mut response = request.header("content-type", "application/json").send(body).expect("an answer");
        response.body_mut().read_to_string().expect("a body")
    }

    /// The least that HTTP costs.
    fn livez(&self) -> String {
        let mut response = self.agent.get(format!("{}/livez", self.server.url)).call().expect("an answer");
        response.body_mut().read_to_string().expect("a body")
    }

    /// The question without Quarry.
    fn source(&self) -> usize {
        let rows = self.runtime.block_on(async { self.context.sql(SQL).await?.collect().await });
        rows.expect("rows").iter().map(|batch| batch.num_rows()).sum()
    }

    /// Both ways must answer alike before a time means anything; the cities of a month come in any order.
    fn assert_comparable(&self) {
        let kept = rows(&self.load());
        assert_eq!(kept.len(), self.source());
        assert_eq!(kept, rows(&self.load_anew()));
    }
}

/// The rows of an answer from the rollup, each as text, in an order of their own.
fn rows(answer: &str) -> Vec<String> {
    let answer: Value = serde_json::from_str(answer).expect("JSON");
    assert!(answer.get("usedPreAggregations").is_some(), "not from the rollup: {answer}");
    let mut rows: Vec<_> = answer["data"].as_array().expect("rows").iter().map(Value::to_string).collect();
    rows.sort_unstable();
    rows
}

fn main() {
    let bench = Bench::start();
    bench.assert_comparable();
    let mut criterion = Criterion::default().configure_from_args();
    criterion.bench_function("load/rollup query over HTTP", |b| b.iter(|| bench.load()));
    criterion.bench_function("load/rollup query over HTTP, made anew", |b| b.iter(|| bench.load_anew()));
    criterion.bench_function("load/livez over HTTP", |b| b.iter(|| bench.livez()));
    criterion.bench_function("load/DataFusion over raw Parquet", |b| b.iter(|| bench.source()));
    criterion.final_summary();
    if project::only_a_test() {
        return;
    }
    let rollup = project::median(1000, || drop(bench.load()));
    let anew = project::median(1000, || drop(bench.load_anew()));
    let livez = project::median(1000, || drop(bench.livez()));
    let source = project::median(50, || assert!(bench.source() > 0));
    eprintln!("medians over {} source rows:", project::ROWS);
    eprintln!("  rollup query over HTTP          {rollup:?}");
    eprintln!("  the same, made anew              {anew:?}   ratio {:.2}", anew.div_duration_f64(livez));
    eprintln!("  /livez over HTTP                {livez:?}   ratio {:.2}", rollup.div_duration_f64(livez));
    eprintln!("  DataFusion over raw Parquet     {source:?}   ratio {:.3}", rollup.div_duration_f64(source));
}
