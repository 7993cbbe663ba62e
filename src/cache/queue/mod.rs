//! Work for a source, in line (`http-api.md` §6): equal work is done once, only so much at the same time, and what
//! somebody waits for comes before what nobody does.
//!
//! Who asks waits for as long as he likes and may come again: running work goes on without him, and its result lies
//! ready for his return. Work that stands in line and that nobody has asked for in a while is dropped.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::tasks::Tasks;

/// Ids of requests that are remembered of one piece of work.
const MOST_REQUESTS: usize = 64;

/// Bounds of a queue.
#[derive(Debug, Clone, Copy)]
pub struct QueueOptions {
    /// Pieces of work that run at the same time.
    pub concurrency: usize,
    /// How long one may run.
    pub timeout: Duration,
    /// How long one stays in line, or its result lies ready, without anybody asking for it.
    pub orphaned: Duration,
    /// Most pieces in line.
    pub most: usize,
    /// Most bytes of results that lie ready; the last one may be larger by itself.
    pub ready_bytes: usize,
}

/// How much work matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nobody waits for it.
    Background,
    /// Somebody does.
    Asked,
}

/// Who asks for what, until when.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Equal keys, equal results.
    pub key: u128,
    /// Id of the request; the part before the last `-span-` is its client's.
    pub request_id: &'a str,
    /// When to come back without a result.
    pub until: Instant,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<T> {
    /// The result.
    Done(T),
    /// Not yet.
    Waiting(Stage),
    /// It ran too long and was stopped.
    TimedOut,
    /// Somebody cancelled it.
    Cancelled,
    /// It ended without a result: a mistake of ours.
    Lost,
    /// The line is too long.
    Full,
}

/// How far work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// In line, at this place; the first is 1.
    InLine(usize),
    /// It has run for so long.
    Running(Duration),
}

/// A piece of work that was cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cancelled {
    /// Its key.
    pub key: u128,
    /// How far it was.
    pub stage: Stage,
    /// The ids of the requests that had asked for it.
    pub requests: Vec<String>,
}

type Work<T> = Box<dyn FnOnce() -> BoxFuture<'static, T> + Send>;

/// The line of one source; clones are handles.
pub struct Queue<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    options: QueueOptions,
    tasks: Tasks,
    /// Bytes of a result.
    weigh: fn(&T) -> usize,
    line: Mutex<Line<T>>,
}

struct Line<T> {
    entries: HashMap<u128, Entry<T>>,
    arrivals: u64,
    running: usize,
    ready_bytes: usize,
}

struct Entry<T> {
    /// Tells entries of one key apart, and who came first.
    number: u64,
    urgency: Urgency,
    asked_at: Instant,
    /// Who waits now.
    present: usize,
    requests: Vec<String>,
    state: State<T>,
    end: Arc<End<T>>,
}

enum State<T> {
    InLine(Work<T>),
    Running {
        since: Instant,
        stop: CancellationToken,
    },
    /// The result lies ready, and is of so many bytes.
    Ready(usize),
}

/// How a piece of work ended, for all who wait for it.
struct End<T> {
    how: OnceLock<Outcome<T>>,
    told: CancellationToken,
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl<T: Clone + Send + Sync + 'static> Queue<T> {
    /// An empty line whose work runs in `tasks`.
    pub fn new(options: QueueOptions, tasks: Tasks, weigh: fn(&T) -> usize) -> Self {
        let line = Line { entries: HashMap::new(), arrivals: 0, running: 0, ready_bytes: 0 };
        Self { shared: Arc::new(Shared { options, tasks, weigh, line: Mutex::new(line) }) }
    }

    /// Joins the work of this key, or puts it in line; waits for it. When the waiting ends, or the future is dropped,
    /// the work goes on. Must be called within a tokio runtime.
    pub async fn ask<F>(&self, ask: Ask<'_>, work: F) -> Outcome<T>
    where
        F: FnOnce() -> BoxFuture<'static, T> + Send + 'static,
    {
        let present = match self.join(ask, Box::new(work)) {
            Ok(present) => present,
            Err(outcome) => return outcome,
        };
        let end = Arc::clone(&present.end);
        // Losing the wait is harmless: what ended is looked at below.
        let _ = tokio::time::timeout_at(ask.until, end.told.cancelled()).await;
        let stage = present.leave();
        end.how.get().cloned().unwrap_or(Outcome::Waiting(stage))
    }

    /// Puts work in line that nobody waits for, unless it is there.
    pub fn start<F>(&self, key: u128, work: F)
    where
        F: FnOnce() -> BoxFuture<'static, T> + Send + 'static,
    {
        let mut line = self.shared.lock();
        line.sweep(self.shared.options.orphaned);
        if !line.entries.contains_key(&key) && line.in_line() < self.shared.options.most {
            line.add(key, Urgency::Background, Box::new(work));
            let begin = self.shared.next(&mut line);
            drop(line);
            self.shared.launch(begin);
        }
    }

    /// Forgets a result that lies ready: whoever it was for has been answered.
    pub fn forget_ready(&self, key: u128) {
        let mut line = self.shared.lock();
        if line.entries.get(&key).is_some_and(|entry| matches!(entry.state, State::Ready(_))) {
            line.remove(key);
        }
    }

    /// Takes back what the request of this id asked for: work that no other client asked for too is cancelled.
    pub fn cancel(&self, request_id: &str) -> Vec<Cancelled> {
        let mut line = self.shared.lock();
        let asked = |entry: &Entry<T>| entry.requests.iter().any(|known| known == request_id);
        let keys: Vec<u128> = line.entries.iter().filter(|(_, entry)| asked(entry)).map(|(key, _)| *key).collect();
        let mut cancelled = Vec::new();
        for key in keys {
            let stage = line.stage(key);
            let Some(entry) = line.entries.get_mut(&key) else { continue };
            let others = entry.requests.iter().any(|known| client_of(known) != client_of(request_id));
            if others {
                entry.requests.retain(|known| client_of(known) != client_of(request_id));
                continue;
            }
            let Some(entry) = line.remove(key) else { continue };
            // Who waits is told before the task sees the signal.
            let _first = entry.end.how.set(Outcome::Cancelled);
            entry.end.told.cancel();
            match entry.state {
                State::Running { stop, .. } => stop.cancel(),
                // A result that nobody fetched is no query any more.
                State::Ready(_) => continue,
                State::InLine(_) => {}
            }
            cancelled.push(Cancelled { key, stage, requests: entry.requests });
        }
        cancelled
    }

    /// What to wait for; or the outcome, where it is known at once.
    fn join(&self, ask: Ask<'_>, work: Work<T>) -> Result<Present<T>, Outcome<T>> {
        let mut line = self.shared.lock();
        line.sweep(self.shared.options.orphaned);
        if line.entries.get(&ask.key).is_some_and(|entry| matches!(entry.state, State::Ready(_))) {
            let ready = line.remove(ask.key).and_then(|entry| entry.end.how.get().cloned());
            return Err(ready.unwrap_or(Outcome::Lost));
        }
        if !line.entries.contains_key(&ask.key) {
            if line.in_line() >= self.shared.options.most {
                return Err(Outcome::Full);
            }
            line.add(ask.key, Urgency::Asked, work);
        }
        let entry = line.entries.get_mut(&ask.key).expect("it was there, or was added just now");
        entry.urgency = Urgency::Asked;
        entry.asked_at = Instant::now();
        entry.present += 1;
        if !entry.requests.iter().any(|known| known == ask.request_id) {
            if entry.requests.len() >= MOST_REQUESTS {
                entry.requests.remove(0);
            }
            entry.requests.push(ask.request_id.to_owned());
        }
        let (end, number) = (Arc::clone(&entry.end), entry.number);
        let begin = self.shared.next(&mut line);
        drop(line);
        self.shared.launch(begin);
        Ok(Present { shared: Arc::clone(&self.shared), key: ask.key, number, end, left: false })
    }
}

/// The part of a request's id that stays the same while its client asks again.
fn client_of(request_id: &str) -> &str {
    request_id.rsplit_once("-span-").map_or(request_id, |(client, _)| client)
}

impl<T> Line<T> {
    fn in_line(&self) -> usize {
        self.entries.values().filter(|entry| matches!(entry.state, State::InLine(_))).count()
    }

    fn add(&mut self, key: u128, urgency: Urgency, work: Work<T>) {
        self.arrivals += 1;
        let end = Arc::new(End { how: OnceLock::new(), told: CancellationToken::new() });
        let entry = Entry {
            number: self.arrivals,
            urgency,
            asked_at: Instant::now(),
            present: 0,
            requests: Vec::new(),
            state: State::InLine(work),
            end,
        };
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: u128) -> Option<Entry<T>> {
        let entry = self.entries.remove(&key)?;
        if let State::Ready(bytes) = entry.state {
            self.ready_bytes = self.ready_bytes.saturating_sub(bytes);
        }
        Some(entry)
    }

    /// Drops what stands in line and was not asked for in a while.
    fn sweep(&mut self, orphaned: Duration) {
        let now = Instant::now();
        self.entries.retain(|_, entry| {
            let waits = matches!(entry.state, State::InLine(_));
            !waits || entry.present > 0 || entry.asked_at + orphaned > now
        });
    }

    /// The place in the order of what is to run.
    fn rank(entry: &Entry<T>) -> (std::cmp::Reverse<Urgency>, u64) {
        (std::cmp::Reverse(entry.urgency), entry.number)
    }

    fn stage(&self, key: u128) -> Stage {
        match self.entries.get(&key) {
            Some(Entry { state: State::Running { since, .. }, .. }) => Stage::Running(since.elapsed()),
            Some(own) if matches!(own.state, State::InLine(_)) => {
                let before =
                    |entry: &&Entry<T>| matches!(entry.state, State::InLine(_)) && Self::rank(entry) < Self::rank(own);
                Stage::InLine(self.entries.values().filter(before).count() + 1)
            }
            Some(_) | None => Stage::Running(Duration::ZERO),
        }
    }

    /// Makes room for a result of so many bytes among those that lie ready.
    fn make_room(&mut self, bytes: usize, most: usize) {
        while self.ready_bytes > 0 && self.ready_bytes.saturating_add(bytes) > most {
            let ready = self.entries.iter().filter(|(_, entry)| matches!(entry.state, State::Ready(_)));
            let Some(oldest) = ready.min_by_key(|(_, entry)| entry.asked_at).map(|(key, _)| *key) else { break };
            self.remove(oldest);
        }
    }
}

impl<T: Clone + Send + Sync + 'static> Shared<T> {
    /// A line is whole after every statement here, also in a thread that panicked.
    fn lock(&self) -> MutexGuard<'_, Line<T>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What comes next, as long as there is room; to be launched once the line is let go, as a runtime that shuts down
    /// drops it at once, and with it the place.
    fn next(self: &Arc<Self>, line: &mut Line<T>) -> Vec<Begin<T>> {
        line.sweep(self.options.orphaned);
        let mut begin = Vec::new();
        while line.running < self.options.concurrency && !self.tasks.stop_signal().is_cancelled() {
            let waiting = line.entries.iter_mut().filter(|(_, entry)| matches!(entry.state, State::InLine(_)));
            let Some((key, entry)) = waiting.min_by_key(|(_, entry)| Line::rank(entry)) else { break };
            let stop = CancellationToken::new();
            let running = State::Running { since: Instant::now(), stop: stop.clone() };
            let State::InLine(work) = std::mem::replace(&mut entry.state, running) else { break };
            let place = Place { shared: Arc::clone(self), key: *key, number: entry.number, ended: false };
            line.running += 1;
            begin.push(Begin { place, work, stop });
        }
        begin
    }

    fn launch(&self, begin: Vec<Begin<T>>) {
        for Begin { place, work, stop } in begin {
            self.tasks.start("source query", place.run(work, stop));
        }
    }
}

/// Work that is to run now.
struct Begin<T: Clone + Send + Sync + 'static> {
    place: Place<T>,
    work: Work<T>,
    stop: CancellationToken,
}

/// A place among what runs, until it is dropped.
struct Place<T: Clone + Send + Sync + 'static> {
    shared: Arc<Shared<T>>,
    key: u128,
    number: u64,
    ended: bool,
}

impl<T: Clone + Send + Sync + 'static> Place<T> {
    async fn run(mut self, work: Work<T>, stop: CancellationToken) {
        let limit = self.shared.options.timeout;
        // Losing either arm is harmless: a query changes nothing.
        let outcome = tokio::select! {
            done = tokio::time::timeout(limit, work()) => done.map_or(Outcome::TimedOut, Outcome::Done),
            () = stop.cancelled() => Outcome::Cancelled,
        };
        if self.end(outcome) {
            let stopping = self.shared.tasks.stop_signal();
            stopping.run_until_cancelled(tokio::time::sleep(self.shared.options.orphaned)).await;
            let mut line = self.shared.lock();
            if line.entries.get(&self.key).is_some_and(|entry| entry.number == self.number) {
                line.remove(self.key);
            }
        }
    }

    /// Hands the outcome to those who wait; gives whether it lies ready because nobody did.
    fn end(&mut self, outcome: Outcome<T>) -> bool {
        self.ended = true;
        let bytes = if let Outcome::Done(result) = &outcome { (self.shared.weigh)(result) } else { 0 };
        let most = self.shared.options.ready_bytes;
        let mut line = self.shared.lock();
        line.running = line.running.saturating_sub(1);
        let own = line.entries.get(&self.key).filter(|entry| entry.number == self.number);
        let mut stays = false;
        if let Some(entry) = own {
            let end = Arc::clone(&entry.end);
            stays = entry.present == 0 && entry.urgency == Urgency::Asked;
            if stays {
                line.make_room(bytes, most);
                line.ready_bytes = line.ready_bytes.saturating_add(bytes);
                if let Some(entry) = line.entries.get_mut(&self.key) {
                    entry.state = State::Ready(bytes);
                }
            } else {
                line.remove(self.key);
            }
            // The only other one who sets it has removed the entry.
            let _only = end.how.set(outcome);
            end.told.cancel();
        }
        let begin = self.shared.next(&mut line);
        drop(line);
        self.shared.launch(begin);
        stays
    }
}

impl<T: Clone + Send + Sync + 'static> Drop for Place<T> {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Outcome::Lost);
        }
    }
}

/// Somebody who waits.
struct Present<T: Clone + Send + Sync + 'static> {
    shared: Arc<Shared<T>>,
    key: u128,
    number: u64,
    end: Arc<End<T>>,
    left: bool,
}

impl<T: Clone + Send + Sync + 'static> Present<T> {
    /// Stops to wait; says how far the work is.
    fn leave(mut self) -> Stage {
        self.left = true;
        let mut line = self.shared.lock();
        self.go(&mut line);
        line.stage(self.key)
    }

    fn go(&self, line: &mut Line<T>) {
        if let Some(entry) = line.entries.get_mut(&self.key).filter(|entry| entry.number == self.number) {
            entry.present = entry.present.saturating_sub(1);
            entry.asked_at = Instant::now();
        }
    }
}

impl<T: Clone + Send + Sync + 'static> Drop for Present<T> {
    fn drop(&mut self) {
        if !self.left {
            let mut line = self.shared.lock();
            self.go(&mut line);
        }
    }
}

#[cfg(test)]
mod tests;
