//! `quarry serve` and `quarry dev`.

use std::io::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use tokio::net::TcpListener;

use super::{PATIENCE, ProjectArgs, start_log};
use crate::app::App;
use crate::config::{Config, Overrides};

#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    project: ProjectArgs,
    /// Address to listen on [default: all; with dev: loopback]
    #[arg(long, value_name = "IP")]
    host: Option<IpAddr>,
    /// Port to listen on; 0 takes a free one [default: PORT, or 4000]
    #[arg(long)]
    port: Option<u16>,
}

pub(super) async fn run(args: ServeArgs, dev_mode: Option<bool>) -> anyhow::Result<ExitCode> {
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
