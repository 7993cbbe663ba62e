//! The command line: flags → settings → parts of the library. Exit codes: 0 well, 1 failed, 2 wrong usage.

mod ask;
mod build;
mod check;
mod explain;
mod jobs;
mod query;
mod serve;
mod server;
mod store;
mod token;
mod verify;

use std::io::{IsTerminal as _, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Parser, Subcommand};

use crate::app::App;
use crate::config::{Config, Overrides};

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
    Serve(serve::ServeArgs),
    /// Serve for development: no token needed, loopback only, model reloaded on change
    Dev(serve::ServeArgs),
    /// Write a sample project, build its rollups, ask it questions
    Demo(crate::demo::DemoArgs),
    /// Build rollups of a project and wait for them
    Build(build::BuildArgs),
    /// Compare built rollups with their source; exit code 1 when they differ
    Verify(verify::VerifyArgs),
    /// List, show, await, cancel and retry the build jobs of a running server
    Jobs(jobs::JobsArgs),
    /// Answer one query and print its rows as JSON
    Query(query::QueryArgs),
    /// Tell which pre-aggregation answers a query, and why the others do not
    Explain(explain::ExplainArgs),
    /// Validate the data model; exit code 1 when it has faults
    Check(ProjectArgs),
    /// List what is published, and the versions that can be gone back to
    Partitions(store::PartitionsArgs),
    /// Go back to versions that were published before
    Rollback(store::RollbackArgs),
    /// Delete replaced files that nobody needs
    Gc(store::GcArgs),
    /// Check every stored file, and mend the store; exit code 1 when something is damaged
    Fsck(store::FsckArgs),
    /// Save the store into a folder, while it is in use
    Backup(store::BackupArgs),
    /// Make the store from a backup
    Restore(store::RestoreArgs),
    /// Print a token signed with the project's secret
    Token(token::TokenArgs),
}

#[derive(Debug, clap::Args)]
struct ProjectArgs {
    /// The project folder, with model/, data/ and .env
    #[arg(long, value_name = "DIR", default_value = ".", global = true)]
    project: PathBuf,
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
        Command::Check(args) => check::run(&args.project),
        Command::Token(args) => token::run(&args),
        Command::Partitions(args) => store::partitions(&args),
        Command::Rollback(args) => store::rollback(&args),
        Command::Gc(args) => store::gc(&args),
        Command::Fsck(args) => store::fsck(&args),
        Command::Backup(args) => store::backup(&args),
        Command::Restore(args) => store::restore(&args),
        Command::Serve(args) => in_runtime(serve::run(args, None)),
        Command::Dev(args) => in_runtime(serve::run(args, Some(true))),
        Command::Build(args) => in_runtime(build::run(args)),
        Command::Verify(args) => in_runtime(verify::run(args)),
        Command::Jobs(args) => jobs::run(args),
        Command::Query(args) => in_runtime(query::run(args)),
        Command::Explain(args) => in_runtime(explain::run(args)),
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

/// Starts the parts of a project for one command, without scheduler.
fn start_for_command(project: &Path, held: &str) -> anyhow::Result<(Config, App)> {
    let overrides = Overrides { dev_mode: Some(true), host: Some(Ipv4Addr::LOCALHOST.into()), port: Some(0) };
    let mut config = Config::load(project, &overrides)?;
    start_log("warn");
    config.refresh_worker = false;
    // Who may run commands on the store needs nobody's leave.
    config.cube = None;
    crate::api::BASE_PATH.clone_into(&mut config.base_path);
    match App::start(config.clone()) {
        Ok(app) => Ok((config, app)),
        Err(error) if error.is_locked() => bail!("{error}\n{held}"),
        Err(error) => Err(error.into()),
    }
}
