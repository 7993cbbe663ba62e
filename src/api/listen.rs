//! The listener (`http-api.md` §1.1, §1.5): connections with limits on everything a client can be slow at.
//!
//! A connection is idle, sends the head of a request, or is being answered; each state may last only so long. Bodies have
//! their own limits (`extract.rs`). A reader that stops reading is cut off, so that what waits for it is freed.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::tasks::Tasks;

/// Longest head of a request, in bytes; a query may stand in its first line.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Most headers of a request.
const MAX_HEADERS: usize = 100;
/// What of an answer waits in memory for a slow reader, in bytes.
const MAX_BUFFER_BYTES: usize = 256 * 1024;
/// Pause after a failed accept: file handles may have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a stopping server waits for the first request of a connection that it has just accepted: it was on its way,
/// and is told that the server stops.
const LATE: Duration = Duration::from_secs(1);
/// Shortest and longest time between two looks at a connection.
const LOOKS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));

/// How long a connection may stay in each state, and how many there may be.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// For the head of a request, from its first byte; also from the connection's begin to its first byte.
    pub head: Duration,
    /// From the end of an answer to the next request.
    pub idle: Duration,
    /// While the client takes nothing of its answer.
    pub stalled: Duration,
    /// Connections at the same time; others wait to be accepted.
    pub most: usize,
}

/// Accepts connections until `closing` ends; then lets the requests that run come to their end, for `patience`. Whoever
/// comes meanwhile is answered by the router too, which knows that the server is closing.
pub(super) async fn serve(
    listener: TcpListener,
    router: axum::Router,
    limits: &ConnectionLimits,
    closing: impl Future<Output = ()>,
    patience: Duration,
) {
    let permits = Arc::new(Semaphore::new(limits.most));
    let (serving, late) = (Tasks::new(), Tasks::new());
    // Losing the accept loop is harmless: a connection that it has accepted is a task already.
    tokio::select! {
        () = accept(&listener, &router, limits, &permits, &serving) => {}
        () = closing => {}
    }
    late.stop();
    // Losing the accept loop is harmless here too: who comes later than the end is refused by the system.
    let drained = tokio::select! {
        drained = serving.drain(patience) => drained,
        () = accept(&listener, &router, limits, &permits, &late) => true,
    };
    if !drained {
        tracing::warn!("some requests did not end in time");
    }
    late.drain(Duration::from_secs(1)).await;
}

async fn accept(
    listener: &TcpListener,
    router: &axum::Router,
    limits: &ConnectionLimits,
    permits: &Arc<Semaphore>,
    connections: &Tasks,
) {
    loop {
        // Nobody closes the semaphore.
        let Ok(permit) = Arc::clone(permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (router, limits, stop) = (router.clone(), limits.clone(), connections.stop_signal());
                connections.start("connection", async move {
                    let stop = stop.cancelled_owned();
                    connection(stream, router, &limits, stop).await;
                    drop(permit);
                });
            }
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                tracing::error!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn connection(
    stream: TcpStream,
    router: axum::Router,
    limits: &ConnectionLimits,
    stop: impl Future<Output = ()> + Send,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let activity = Arc::new(Activity::new());
    let io = TokioIo::new(Watched { stream, activity: Arc::clone(&activity) });
    let service = Service { inner: TowerToHyperService::new(router), activity: Arc::clone(&activity) };
    let mut server = http1::Builder::new();
    // The states of a connection are watched here, more finely than by one timer for idling and for heads.
    server.header_read_timeout(None).max_headers(MAX_HEADERS).max_header_size(MAX_HEAD_BYTES);
    server.max_buf_size(MAX_BUFFER_BYTES);
    let mut connection = std::pin::pin!(server.serve_connection(io, service).with_upgrades());
    let stop = async {
        stop.await;
        if activity.is_new() {
            tokio::time::sleep(LATE).await;
        }
    };
    let mut stop = std::pin::pin!(stop.fuse());
    let looks = limits.head.min(limits.idle).min(limits.stalled) / 4;
    let mut look = tokio::time::interval(looks.clamp(LOOKS.0, LOOKS.1));
    loop {
        // Losing an arm is harmless: each goes on where it was when it is polled again.
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection broke");
                }
                return;
            }
            () = &mut stop => connection.as_mut().graceful_shutdown(),
            _ = look.tick() => match activity.verdict(limits) {
                Verdict::Fine => {}
                Verdict::Close => connection.as_mut().graceful_shutdown(),
                Verdict::Cut(cause) => {
                    tracing::debug!(cause, "a connection is cut off");
                    return;
                }
            },
        }
    }
}

/// What a connection is doing, since when.
struct Activity(Mutex<Doing>);

struct Doing {
    phase: Phase,
    since: Instant,
    /// When the client began to take nothing.
    stalled: Option<Instant>,
}

#[derive(PartialEq, Eq)]
enum Phase {
    /// No byte yet.
    New,
    /// Between two requests.
    Idle,
    /// The head of a request is coming in.
    Head,
    /// A request is being read or answered.
    Busy,
}

enum Verdict {
    Fine,
    /// What is under way may end.
    Close,
    /// For this reason, at once.
    Cut(&'static str),
}

impl Activity {
    fn new() -> Self {
        Self(Mutex::new(Doing { phase: Phase::New, since: Instant::now(), stalled: None }))
    }

    fn doing(&self) -> MutexGuard<'_, Doing> {
        // Every change is whole: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_new(&self) -> bool {
        self.doing().phase == Phase::New
    }

    fn enter(&self, phase: Phase) {
        let mut doing = self.doing();
        doing.phase = phase;
        doing.since = Instant::now();
    }

    fn has_read(&self) {
        let mut doing = self.doing();
        if doing.phase == Phase::Idle || doing.phase == Phase::New {
            // A client that says nothing at first does not gain time by that.
            if doing.phase == Phase::Idle {
                doing.since = Instant::now();
            }
            doing.phase = Phase::Head;
        }
    }

    fn has_written(&self, done: bool) {
        let mut doing = self.doing();
        doing.stalled = match (done, doing.stalled) {
            (true, _) => None,
            (false, None) => Some(Instant::now()),
            (false, since) => since,
        };
    }

    fn verdict(&self, limits: &ConnectionLimits) -> Verdict {
        let doing = self.doing();
        let lasted = doing.since.elapsed();
        match doing.phase {
            _ if doing.stalled.is_some_and(|since| since.elapsed() > limits.stalled) => {
                Verdict::Cut("the client takes nothing of its answer")
            }
            Phase::New | Phase::Head if lasted > limits.head => Verdict::Cut("the head of a request takes too long"),
            Phase::Idle if lasted > limits.idle => Verdict::Close,
            Phase::New | Phase::Head | Phase::Idle | Phase::Busy => Verdict::Fine,
        }
    }
}

/// The socket, watched.
struct Watched {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, into);
        if into.filled().len() > before {
            self.activity.has_read();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.activity.has_written(written.is_ready());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.activity.has_written(written.is_ready());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The router, which tells when a request begins and when its answer has ended.
struct Service {
    inner: TowerToHyperService<axum::Router>,
    activity: Arc<Activity>,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.activity.enter(Phase::Busy);
        let ending = Ending(Arc::clone(&self.activity));
        let answered = hyper::service::Service::call(&self.inner, request);
        async move { Ok(answered.await?.map(|body| Body::new(Answer { body, _ending: ending }))) }.boxed()
    }
}

/// Makes the connection idle when it goes.
struct Ending(Arc<Activity>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle);
    }
}

/// An answer's body, which is gone once it is sent.
struct Answer {
    body: Body,
    _ending: Ending,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
