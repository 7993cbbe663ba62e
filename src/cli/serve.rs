//! `quarry serve` and `quarry dev`.

use std::io::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use futures::FutureExt as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

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
    // From here on a signal is a request to stop, also one that comes while the store is opened.
    let stop = stop_requested()?;
    let address = (config.host, config.port);
    let app = App::start(config)?;
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("failed to listen on {}:{}", address.0, address.1))?;
    // For people and for scripts that took port 0; not part of the log.
    writeln!(std::io::stderr().lock(), "listening on http://{}", listener.local_addr()?)?;
    let api = app.api()?;
    let sql_port = app.pg_port();
    let sql = match sql_port {
        Some(port) => {
            let listener = TcpListener::bind((address.0, port))
                .await
                .with_context(|| format!("failed to listen for SQL on {}:{port}", address.0))?;
            writeln!(std::io::stderr().lock(), "SQL on postgres://{}", listener.local_addr()?)?;
            Some(listener)
        }
        None => None,
    };
    let stop = stop.shared();
    let pg = app.pg(&api);
    let spoken = async {
        if let Some(listener) = sql {
            crate::pg::serve(listener, pg, stop.clone()).await;
        }
    };
    tokio::join!(crate::api::serve(listener, api, stop.clone()), spoken);
    app.stop(PATIENCE).await;
    Ok(ExitCode::SUCCESS)
}

/// Ends on Ctrl-C or SIGTERM, also one that came since the call.
///
/// # Errors
/// The system does not let signals be listened to.
fn stop_requested() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            // Whichever comes first ends the server; the other one has nothing left to end.
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
