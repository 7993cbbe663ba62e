//! The real server, in this process.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::api;
use crate::app::App;
use crate::config::{Config, Overrides};

/// How long a stopping server waits for what still runs.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server that listens. Dropping it tells the server to stop and does not wait.
pub(super) struct Running {
    /// Scheme, host and port.
    pub(super) origin: String,
    /// What the server verifies tokens with.
    pub(super) secret: String,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

/// Starts the server of a project on loopback; port 0 takes a free one.
///
/// # Errors
/// The settings or the model are not valid, the store is in use, or the port is taken.
pub(super) async fn start(project: &Path, port: u16) -> anyhow::Result<Running> {
    let overrides = Overrides { host: Some(Ipv4Addr::LOCALHOST.into()), port: Some(port), dev_mode: Some(false) };
    let config = Config::load(project, &overrides)?;
    let secret = config.secrets.first().cloned().context("the project has no secret")?;
    let listener = TcpListener::bind((config.host, config.port)).await;
    let listener = listener.with_context(|| format!("listen on port {port} (--port takes another one)"))?;
    let origin = format!("http://{}", listener.local_addr()?);
    let app = App::start(config)?;
    let api = app.api()?;
    let (stop, stopped) = oneshot::channel();
    // Ends when told to, and as well when the demo ended early and dropped the sender.
    let shutdown = async move { drop(stopped.await) };
    let server = tokio::spawn(async move {
        api::serve(listener, api, shutdown).await;
        app.stop(PATIENCE).await;
    });
    Ok(Running { origin, secret, stop, server })
}

impl Running {
    /// Stops the server and waits until it has.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        // A server that is gone already needs no telling; the line after says how it ended.
        let _ = self.stop.send(());
        Ok(self.server.await?)
    }

    /// Waits for Ctrl-C, then stops the server; also ends when the server does.
    pub(super) async fn until_interrupted(mut self) -> anyhow::Result<()> {
        // Losing either arm is harmless: a server that ended needs no signal, and after a signal it is
        // waited for below.
        tokio::select! {
            ended = &mut self.server => return Ok(ended?),
            interrupted = tokio::signal::ctrl_c() => interrupted?,
        }
        self.stop().await
    }
}
