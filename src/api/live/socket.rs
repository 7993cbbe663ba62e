//! One socket: reads messages, has them answered, writes answers and news.
//!
//! One task does it all, and writes one message at a time: who reads slowly is read from slowly, and holds no more
//! than the message that is being written. News are not queued: what is sent is the newest answer at that time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use axum::http::request::Parts;
use futures::future::{AbortHandle, Abortable, BoxFuture};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use serde_json::Map;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::super::access::{Caller, Entrant, admit};
use super::super::{Access, ApiState, Call};
use super::message::{self, Ask, Incoming, MessageId, Method};
use super::outcome::Outcome;
use super::topic::{Follower, Topic};

/// Questions of one socket that are answered at the same time; their answers may be held until they are read.
const MOST_RUNNING: usize = 16;
/// Further ones, which wait for their turn; more are not read before.
const MOST_WAITING: usize = 256;
/// Subscriptions of one socket.
const MOST_FOLLOWED: usize = 1000;
/// How long one message may take to be written.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);
/// Silence after which the other side is asked for a sign of life, and after which it counts as gone.
const PING_AFTER: Duration = Duration::from_secs(30);
const GONE_AFTER: Duration = Duration::from_secs(90);
/// How long a closed socket waits for the other side to have read why.
const LINGER: Duration = Duration::from_secs(1);
/// A question that is not ready is asked again after this long at the earliest; it is held while it is worked on.
const LEAST_HOLD: Duration = Duration::from_millis(500);

/// Serves a socket until either side closes it. `head` is that of the request that became it.
pub(super) async fn serve(socket: WebSocket, state: ApiState, head: Parts) {
    let connection = Connection {
        id: uuid::Uuid::new_v4().to_string(),
        state,
        head: Box::new(head),
        socket,
        heard: Instant::now(),
        caller: None,
        asked: HashMap::new(),
        waiting: VecDeque::new(),
        followed: HashMap::new(),
        running: FuturesUnordered::new(),
    };
    connection.run().await;
}

struct Connection {
    id: String,
    state: ApiState,
    head: Box<Parts>,
    socket: WebSocket,
    /// When the other side was last heard of.
    heard: Instant,
    /// Who is there, once a token was accepted; in development mode nobody may be.
    caller: Option<Caller>,
    asked: HashMap<MessageId, AbortHandle>,
    waiting: VecDeque<(Ask, Caller)>,
    followed: HashMap<MessageId, Followed>,
    running: FuturesUnordered<Abortable<BoxFuture<'static, Done>>>,
}

/// A subscription.
struct Followed {
    topic: Arc<Topic>,
    waiting: AbortHandle,
}

/// What a socket waits for.
enum Done {
    Answered(Ask, Outcome),
    News(MessageId, Follower),
}

/// The socket is closed, or nobody reads.
struct Gone;

impl Connection {
    async fn run(mut self) {
        let closing = self.state.0.closing.clone();
        let mut ticks = interval(self.state.0.parts.options.subscription_cycle);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        loop {
            // No arm loses anything: reading goes on where it stopped, and what is done stays so until it is taken.
            let served = tokio::select! {
                frame = self.socket.recv(), if self.waiting.len() < MOST_WAITING => self.read(frame).await,
                Some(done) = self.running.next() => match done {
                    Ok(done) => self.finish(done).await,
                    Err(_aborted) => Ok(()),
                },
                _ = ticks.tick() => self.tick().await,
                () = closing.cancelled() => break,
            };
            if served.is_err() {
                return;
            }
        }
        self.shut_down().await;
    }

    /// The server stops: what was asked is answered, nothing new is taken.
    async fn shut_down(mut self) {
        for (_, followed) in self.followed.drain() {
            followed.waiting.abort();
        }
        while !self.asked.is_empty() {
            match self.running.next().await {
                Some(Ok(Done::Answered(ask, outcome))) => {
                    self.asked.remove(&ask.id);
                    self.start_waiting();
                    if self.send(message::answer(Some(&ask.id), outcome.text(), outcome.status)).await.is_err() {
                        return;
                    }
                }
                Some(Ok(Done::News(..)) | Err(_)) => {}
                None => break,
            }
        }
        self.close(close_code::AWAY, "the server is shutting down").await;
    }

    /// Says why, and leaves the other side the time to read it.
    async fn close(&mut self, code: u16, reason: &'static str) {
        let frame = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        let closing = async {
            if self.socket.send(frame).await.is_ok() {
                while let Some(Ok(_)) = self.socket.recv().await {}
                if code == close_code::SIZE {
                    // What is left of the message is not read: the connection must not be reset by it at once.
                    tokio::time::sleep(LINGER).await;
                }
            }
        };
        // Nobody reads it any more: then nobody misses it.
        let _ = timeout(LINGER, closing).await;
    }

    async fn read(&mut self, frame: Option<Result<Message, axum::Error>>) -> Result<(), Gone> {
        self.heard = Instant::now();
        match frame {
            Some(Ok(Message::Text(text))) => self.take(&text).await,
            Some(Ok(Message::Binary(bytes))) => match std::str::from_utf8(&bytes) {
                Ok(text) => self.take(text).await,
                Err(error) => self.send(message::refusal(None, &error.to_string(), BAD_REQUEST)).await,
            },
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
            Some(Ok(Message::Close(_))) | None => Err(Gone),
            Some(Err(error)) => {
                // The library's one error about sizes.
                if error.to_string().starts_with("Space limit exceeded") {
                    self.close(close_code::SIZE, "the message is too big").await;
                }
                Err(Gone)
            }
        }
    }

    /// Takes a message.
    async fn take(&mut self, text: &str) -> Result<(), Gone> {
        match message::parse(text) {
            Err(malformed) => self.send(message::refusal(malformed.id.as_ref(), &malformed.text, BAD_REQUEST)).await,
            Ok(Incoming::Authorize(token)) => self.authorize(&token).await,
            Ok(Incoming::Unsubscribe(id)) => {
                self.waiting.retain(|(ask, _)| ask.id != id);
                if let Some(asked) = self.asked.remove(&id) {
                    asked.abort();
                    self.start_waiting();
                }
                if let Some(followed) = self.followed.remove(&id) {
                    followed.waiting.abort();
                }
                Ok(())
            }
            Ok(Incoming::Ask(ask)) => match self.caller.clone() {
                None => self.send(message::refusal(Some(&ask.id), "Not authorized", FORBIDDEN)).await,
                Some(caller) => self.ask(ask, caller).await,
            },
        }
    }

    /// Takes the token as it is: unlike over HTTP it has no word before it.
    async fn authorize(&mut self, token: &str) -> Result<(), Gone> {
        let parts = &self.state.0.parts;
        let id = format!("{}-span-{}", self.id, uuid::Uuid::new_v4());
        let token = Some(token).filter(|token| !token.is_empty());
        let Parts { method, uri, headers, .. } = self.head.as_ref();
        match admit(parts, Access::Authenticated, &Entrant { id: &id, method, uri, headers, token }).await {
            Ok(caller) => {
                let changed = self.caller.as_ref().is_some_and(|known| known.key() != caller.key());
                self.caller = Some(caller.clone());
                self.send(message::HANDSHAKE.to_owned()).await?;
                if changed {
                    // From here on answers are for the new caller.
                    for (id, followed) in std::mem::take(&mut self.followed) {
                        followed.waiting.abort();
                        self.follow(id, &caller, followed.topic.arguments().clone());
                    }
                }
                Ok(())
            }
            Err(error) => {
                self.caller = None;
                self.waiting.clear();
                self.followed.drain().for_each(|(_, followed)| followed.waiting.abort());
                let response = error.into_response(&id, parts.options.dev_mode);
                let outcome = Outcome::of(response).await;
                self.send(message::answer(None, outcome.text(), outcome.status)).await
            }
        }
    }

    async fn ask(&mut self, ask: Ask, caller: Caller) -> Result<(), Gone> {
        let is_open = self.asked.contains_key(&ask.id) || self.waiting.iter().any(|(open, _)| open.id == ask.id);
        let known = match (is_open, self.followed.get(&ask.id)) {
            (true, _) => true,
            (false, Some(followed)) => ask.method == Method::Subscribe && followed.topic.is_of(&caller, &ask.arguments),
            (false, None) => false,
        };
        if known {
            // Clients repeat what is open from time to time, and want any sign of life.
            return self.send(message::processed(&ask.id)).await;
        }
        if let Some(followed) = self.followed.remove(&ask.id) {
            followed.waiting.abort();
        }
        if ask.method != Method::Subscribe {
            self.waiting.push_back((ask, caller));
            self.start_waiting();
            return Ok(());
        }
        if self.followed.len() >= MOST_FOLLOWED {
            let text = format!("Too many subscriptions on this connection: at most {MOST_FOLLOWED}");
            return self.send(message::refusal(Some(&ask.id), &text, BAD_REQUEST)).await;
        }
        self.follow(ask.id, &caller, ask.arguments);
        Ok(())
    }

    /// Begins with the questions whose turn it is.
    fn start_waiting(&mut self) {
        while self.asked.len() < MOST_RUNNING {
            let Some((ask, caller)) = self.waiting.pop_front() else { return };
            self.start(ask, caller);
        }
    }

    /// Has a question answered.
    fn start(&mut self, ask: Ask, caller: Caller) {
        let state = self.state.clone();
        let call = Call { id: self.request_id(&ask), caller, arguments: ask.arguments.clone(), ..Call::default() };
        let id = ask.id.clone();
        let answering = async move {
            let earliest = Instant::now() + LEAST_HOLD;
            let (response, _) = super::ask(&state, ask.method.path(), call).await;
            let outcome = Outcome::of(response).await;
            if outcome.unfinished {
                tokio::time::sleep_until(earliest).await;
            }
            Done::Answered(ask, outcome)
        };
        let handle = self.spawn(answering.boxed());
        self.asked.insert(id, handle);
    }

    /// `<given or made>-span-<new>`.
    fn request_id(&self, ask: &Ask) -> String {
        let base = ask.request_id.clone().unwrap_or_else(|| format!("{}-{}", self.id, ask.id.as_word()));
        format!("{base}-span-{}", uuid::Uuid::new_v4())
    }

    fn follow(&mut self, id: MessageId, caller: &Caller, arguments: Map<String, serde_json::Value>) {
        let request_id = format!("{}-{}-span-{}", self.id, id.as_word(), uuid::Uuid::new_v4());
        let state = self.state.clone();
        let (topic, follower) = state.0.live.follow(&state, caller, arguments, request_id);
        let waiting = self.wait(id.clone(), follower);
        self.followed.insert(id, Followed { topic, waiting });
    }

    /// Waits for news of a topic.
    fn wait(&mut self, id: MessageId, mut follower: Follower) -> AbortHandle {
        let waiting = async move {
            if follower.changed().await.is_err() {
                // The topic has ended with the server.
                std::future::pending::<()>().await;
            }
            Done::News(id, follower)
        };
        self.spawn(waiting.boxed())
    }

    fn spawn(&self, work: BoxFuture<'static, Done>) -> AbortHandle {
        let (handle, registration) = AbortHandle::new_pair();
        self.running.push(Abortable::new(work, registration));
        handle
    }

    async fn finish(&mut self, done: Done) -> Result<(), Gone> {
        match done {
            Done::Answered(ask, outcome) => {
                let id = ask.id.clone();
                self.asked.remove(&id);
                if outcome.unfinished
                    && let Some(caller) = self.caller.clone()
                {
                    // The client waits for the next answer without asking again.
                    self.start(ask, caller);
                }
                self.start_waiting();
                self.send_all([message::answer(Some(&id), outcome.text(), outcome.status), message::processed(&id)])
                    .await
            }
            Done::News(id, mut follower) => {
                let latest = follower.borrow_and_update().clone();
                let waiting = self.wait(id.clone(), follower);
                match self.followed.get_mut(&id) {
                    Some(followed) => followed.waiting = waiting,
                    None => waiting.abort(),
                }
                let Some(outcome) = latest else { return Ok(()) };
                self.send_all([message::answer(Some(&id), outcome.text(), outcome.status), message::processed(&id)])
                    .await
            }
        }
    }

    /// A cycle: signs of life, and failures again for as long as they last.
    async fn tick(&mut self) -> Result<(), Gone> {
        let silence = self.heard.elapsed();
        if silence > GONE_AFTER {
            return Err(Gone);
        }
        let mut frames = Vec::new();
        for (id, followed) in &self.followed {
            if let Some(outcome) = followed.topic.latest().filter(|outcome| !outcome.is_answer()) {
                frames.push(message::answer(Some(id), outcome.text(), outcome.status));
            }
            frames.push(message::processed(id));
        }
        self.send_all(frames).await?;
        if silence > PING_AFTER {
            let ping = self.socket.send(Message::Ping(bytes::Bytes::new()));
            return timeout(WRITE_PATIENCE, ping).await.map_err(|_elapsed| Gone)?.map_err(|_closed| Gone);
        }
        Ok(())
    }

    async fn send(&mut self, text: String) -> Result<(), Gone> {
        self.send_all([text]).await
    }

    async fn send_all(&mut self, texts: impl IntoIterator<Item = String>) -> Result<(), Gone> {
        let writing = async {
            for text in texts {
                self.socket.feed(Message::Text(text.into())).await?;
            }
            self.socket.flush().await
        };
        match timeout(WRITE_PATIENCE, writing).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_closed)) => Err(Gone),
            Err(_elapsed) => {
                tracing::info!(connection = self.id, "a socket is closed, because nobody reads from it");
                Err(Gone)
            }
        }
    }
}

/// The statuses that a socket itself gives inside of messages, as the endpoints would.
const BAD_REQUEST: u16 = 400;
const FORBIDDEN: u16 = 403;
