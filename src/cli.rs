//! The command line: flags → settings → parts of the library. Exit codes: 0 well, 1 failed, 2 wrong usage.

use std::io::{IsTerminal as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::app::App;
use crate::auth::jwt;
use crate::config::{Config, Overrides, parse_duration};
use crate::model::{Severity, compile};
use crate::refresh::Selection;
use crate::time::{Clock, Zone, to_micros};

/// How long a finished command waits for what still runs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Analytics API server over pre-aggregated columnar data.
#[derive(Debug, Parser)]
#[command(
    name = "quarry",
    version,
    after_help = "Examples:\n  quarry demo --serve                  a sample project, built and served\n  \
                  quarry dev                           serve the project in this folder for your own machine\n  \
                  quarry check --project shop          validate shop/model\n  \
                  quarry build orders.daily            build one rollup and wait for it\n  \
                  quarry query '{\"measures\":[\"orders.count\"]}'"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a Cube project folder over HTTP
    Serve(ServeArgs),
    /// Serve for development: no token needed, loopback only, model reloaded on change
    Dev(ServeArgs),
    /// Write a sample project, build its rollups, ask it questions
    Demo(crate::demo::DemoArgs),
    /// Build rollups of a project and wait for them
    Build(BuildArgs),
    /// Answer one query and print its rows as JSON
    Query(QueryArgs),
    /// Validate the data model; exit code 1 when it has faults
    Check(ProjectArgs),
    /// Print a token signed with the project's secret
    Token(TokenArgs),
}

#[derive(Debug, clap::Args)]
struct ProjectArgs {
    /// The project folder, with model/, data/ and .env
    #[arg(long, value_name = "DIR", default_value = ".")]
    project: PathBuf,
}

#[derive(Debug, clap::Args)]
struct ServeArgs {
    #[command(flatten)]
    project: ProjectArgs,
    /// Address to listen on [default: all; with dev: loopback]
    #[arg(long, value_name = "IP")]
    host: Option<IpAddr>,
    /// Port to listen on; 0 takes a free one [default: PORT, or 4000]
    #[arg(long)]
    port: Option<u16>,
}

#[derive(Debug, clap::Args)]
struct BuildArgs {
    #[command(flatten)]
    project: ProjectArgs,
    /// Rollups to build, as cube.rollup; all when none is named
    rollups: Vec<String>,
    /// Build only partitions that reach this day or time, or later
    #[arg(long, value_name = "DATE", requires = "to")]
    from: Option<String>,
    /// Build only partitions that begin on this day or time, or earlier
    #[arg(long, value_name = "DATE", requires = "from")]
    to: Option<String>,
    /// Time zones to build for [default: CUBEJS_SCHEDULED_REFRESH_TIMEZONES, or UTC]
    #[arg(long, value_name = "ZONE")]
    timezone: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct QueryArgs {
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

#[derive(Debug, clap::Args)]
struct TokenArgs {
    #[command(flatten)]
    project: ProjectArgs,
    /// How long it is valid, such as 30m, 12h or 7d
    #[arg(long, default_value = "24h")]
    expires: String,
    /// Further claims: the security context, as a JSON object
    #[arg(long, value_name = "JSON", default_value = "{}")]
    payload: String,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            // The last resort: if even this cannot be written, the exit code still tells.
            drop(writeln!(std::io::stderr().lock(), "quarry: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Check(args) => check(&args.project),
        Command::Token(args) => token(&args),
        Command::Serve(args) => in_runtime(serve(args, None)),
        Command::Dev(args) => in_runtime(serve(args, Some(true))),
        Command::Build(args) => in_runtime(build(args)),
        Command::Query(args) => in_runtime(query(args)),
        Command::Demo(args) => in_runtime(async {
            start_log("warn");
            crate::demo::run(args).await?;
            Ok(ExitCode::SUCCESS)
        }),
    }
}

fn in_runtime(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("quarry-io").build()?;
    let result = runtime.block_on(Box::pin(work));
    runtime.shutdown_timeout(Duration::from_secs(5));
    result
}

fn start_log(filter: &str) {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).unwrap_or_else(|_| "info".into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start in one process keeps the first, which is as good.
    drop(if std::io::stderr().is_terminal() { log.try_init() } else { log.json().try_init() });
}

async fn serve(args: ServeArgs, dev_mode: Option<bool>) -> anyhow::Result<ExitCode> {
    let overrides = Overrides { host: args.host, port: args.port, dev_mode };
    let config = Config::load(&args.project.project, &overrides)?;
    start_log(&config.log_filter);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let address = (config.host, config.port);
    let app = App::start(config)?;
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("failed to listen on {}:{}", address.0, address.1))?;
    // For people and for scripts that took port 0; not part of the log.
    writeln!(std::io::stderr().lock(), "listening on http://{}", listener.local_addr()?)?;
    crate::api::serve(listener, app.api()?, stop_requested()).await?;
    app.stop(PATIENCE).await;
    Ok(ExitCode::SUCCESS)
}

/// Ends on Ctrl-C or SIGTERM.
async fn stop_requested() {
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        // Whichever comes first ends the server; the other one has nothing left to end.
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

fn check(project: &Path) -> anyhow::Result<ExitCode> {
    // The model alone is checked: no secret is needed for that.
    let overrides = Overrides { dev_mode: Some(true), ..Overrides::default() };
    let config = Config::load(project, &overrides)?;
    let mut out = std::io::stdout().lock();
    let compiled = compile::compile_project(&config.project, &config.model_dir, &config.compile_context());
    let (diagnostics, summary) = match compiled {
        Ok(compiled) => {
            let model = &compiled.model;
            let members = |cube: &crate::model::Cube| cube.measures.len() + cube.dimensions.len() + cube.segments.len();
            let count: usize = model.cubes().iter().map(members).sum();
            let rollups: usize = model.cubes().iter().map(|cube| cube.preaggs.len()).sum();
            let cubes = model.cubes().len();
            (compiled.warnings, format!("{cubes} cube(s), {count} member(s), {rollups} rollup(s)"))
        }
        Err(faults) => (faults, String::new()),
    };
    for diagnostic in &diagnostics {
        writeln!(out, "{diagnostic}")?;
    }
    let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
    let warnings = diagnostics.len() - errors;
    if errors > 0 {
        writeln!(out, "{errors} error(s), {warnings} warning(s)")?;
        return Ok(ExitCode::FAILURE);
    }
    writeln!(out, "the data model is valid: {summary}, {warnings} warning(s)")?;
    Ok(ExitCode::SUCCESS)
}

fn token(args: &TokenArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.project.project, &Overrides::default())?;
    let Some(secret) = config.secrets.first() else { bail!("the project has no CUBEJS_API_SECRET to sign with") };
    let expires =
        parse_duration(&args.expires).with_context(|| format!("--expires '{}' is not a duration", args.expires))?;
    let mut claims: Value = serde_json::from_str(&args.payload).context("--payload is not JSON")?;
    let Some(object) = claims.as_object_mut() else { bail!("--payload must be a JSON object") };
    let now = Clock::System.now() / 1_000_000;
    object.insert("iat".to_owned(), json!(now));
    object.insert("exp".to_owned(), json!(now.saturating_add_unsigned(expires.as_secs())));
    writeln!(std::io::stdout().lock(), "{}", jwt::sign(&claims, secret)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the parts of a project for one command, without scheduler.
fn start_for_command(project: &Path, held: &str) -> anyhow::Result<(Config, App)> {
    let overrides = Overrides { dev_mode: Some(true), host: Some(Ipv4Addr::LOCALHOST.into()), port: Some(0) };
    let mut config = Config::load(project, &overrides)?;
    start_log("warn");
    config.refresh_worker = false;
    match App::start(config.clone()) {
        Ok(app) => Ok((config, app)),
        Err(error) if error.is_locked() => bail!("{error}\n{held}"),
        Err(error) => Err(error.into()),
    }
}

async fn build(args: BuildArgs) -> anyhow::Result<ExitCode> {
    let held = "A running server holds it. Ask that one:\n  curl -H \"Authorization: $(quarry token)\" -H 'Content-Type: application/json' \\\n    \
                -d '{\"action\":\"post\",\"selector\":{\"contexts\":[{\"securityContext\":{}}],\"timezones\":[\"UTC\"]}}' \\\n    \
                http://localhost:4000/cubejs-api/v1/pre-aggregations/jobs";
    let (config, app) = start_for_command(&args.project.project, held)?;
    let mut zones = Vec::new();
    for name in &args.timezone {
        zones.push(
            Zone::from_str_insensitive(name)
                .map_err(|fault| anyhow::anyhow!("'{name}' is not an IANA time zone: {fault}"))?,
        );
    }
    check_rollup_names(&app, &args.rollups)?;
    let range = match (&args.from, &args.to) {
        (Some(from), Some(to)) => Some((parse_date(from)?, parse_date(to)?)),
        _ => None,
    };
    let selection = Selection {
        contexts: vec![json!({})],
        zones: if zones.is_empty() { config.refresh_zones } else { zones },
        preaggs: args.rollups,
        range,
        ..Selection::default()
    };
    let tokens = app.refresher().post(selection).await?;
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} partitions {elapsed}")?;
    let bar = ProgressBar::new(tokens.len() as u64).with_style(style);
    let mut failures = Vec::new();
    for token in &tokens {
        for job in app.refresher().wait(std::slice::from_ref(token)).await? {
            if job.status != "done" {
                failures.push(format!("{}: {}", job.preagg, job.status));
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    app.stop(PATIENCE).await;
    let built = tokens.len() - failures.len();
    writeln!(std::io::stdout().lock(), "{built} of {} partition(s) built", tokens.len())?;
    failures.dedup();
    if failures.is_empty() { Ok(ExitCode::SUCCESS) } else { bail!("{}", failures.join("\n")) }
}

fn check_rollup_names(app: &App, names: &[String]) -> anyhow::Result<()> {
    let rollups = app.rollups();
    let model = rollups.model();
    let known: Vec<String> =
        rollups.all().map(|id| format!("{}.{}", model.cube(id.cube).name, model.preagg(id).name)).collect();
    for name in names {
        if !known.contains(name) {
            let near = crate::names::nearest(name, known.iter().map(String::as_str));
            let hint = near.map_or_else(
                || format!("the model has: {}", known.join(", ")),
                |near| format!("did you mean '{near}'?"),
            );
            bail!("there is no rollup '{name}'; {hint}");
        }
    }
    Ok(())
}

/// `YYYY-MM-DD` (its midnight) or a timestamp, as local microseconds.
fn parse_date(text: &str) -> anyhow::Result<i64> {
    let midnight = || text.parse::<chrono::NaiveDate>().map(|date| date.and_time(chrono::NaiveTime::MIN));
    let time = text.parse::<chrono::NaiveDateTime>().or_else(|_| midnight());
    Ok(to_micros(time.with_context(|| format!("'{text}' is not a date such as 2024-03-01"))?))
}

async fn query(args: QueryArgs) -> anyhow::Result<ExitCode> {
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
