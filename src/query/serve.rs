//! Answers that may have to wait: queries that go to a source stand in its line, and what it answered is kept
//! (`http-api.md` §5.9, §6). What rollups answer neither waits nor is kept here.
//!
//! What is kept is found by the statement that the source was asked, so that two askers share it only where their
//! rights make the same statement; and by the state of the store where stored rows stand for cubes in it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use quarry_storage::Snapshot;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_128;

use super::execute::{Answer, QueryService};
use super::fresh::{KeyStatement, QueryKeys, key_statements};
use super::keys::{KeyAnswers, KeyError, KeyOptions};
use super::planned::{Planned, SourceWork};
use super::request::CacheMode;
use super::rollups::Rollups;
use super::{Query, QueryError};
use crate::cache::memory::Memory;
use crate::cache::queue::{Ask, Cancelled, Outcome, Queue, QueueOptions, Stage};
use crate::engine::EngineError;
use crate::sources::Source;
use crate::tasks::Tasks;
use crate::time::{Clock, DAY_MICROS};

/// Most queries in the line of a source.
const MOST_IN_LINE: usize = 10_000;
/// Results that lie ready for who asked may take as much of the memory for results as this part of it, and at least so
/// many bytes.
const READY_SHARE: u64 = 4;
const READY_BYTES: usize = 16 << 20;
/// What was answered longer ago is not looked at (`http-api.md` §5.9).
const LIFETIME: i64 = DAY_MICROS;

/// Settings of what is asked of sources.
#[derive(Debug, Clone)]
pub struct SourceOptions {
    /// Queries that run at the same time, by source.
    pub concurrency: BTreeMap<String, usize>,
    /// How long a query may run.
    pub timeout: Duration,
    /// How long a query waits in line without anybody asking for it.
    pub orphaned: Duration,
    /// Longest pause after a refresh key failed.
    pub greatest_pause: Duration,
    /// Whether who does not say is given what was kept at once, with a renewal behind it.
    pub background_renew: bool,
    /// Memory for what sources answered, in bytes.
    pub result_bytes: u64,
    /// The clock.
    pub clock: Clock,
}

/// The lines of the sources and what they answered; clones share them.
#[derive(Clone)]
pub struct SourceAnswers {
    inner: Arc<Inner>,
}

struct Inner {
    queues: BTreeMap<String, Queue<Fetch>>,
    results: Memory<Arc<Fetched>>,
    keys: KeyAnswers,
    tasks: Tasks,
    timeout: Duration,
    background_renew: bool,
    clock: Clock,
}

type Fetch = Result<Arc<Fetched>, EngineError>;

/// What a source answered.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) batches: Vec<RecordBatch>,
    pub(super) total: Option<u64>,
    /// When it was asked, in UTC microseconds.
    pub(super) asked_at: i64,
    /// What the refresh keys said just before; none when they could not be asked.
    pub(super) keys: Option<String>,
}

/// How an answer may come about.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// How fresh it must be.
    pub mode: CacheMode,
    /// Until when a source is waited for.
    pub until: Instant,
    /// Id of the request.
    pub request_id: &'a str,
}

/// A query of a source that was cancelled.
#[derive(Debug, Clone)]
pub struct CancelledQuery {
    /// Name of the source.
    pub data_source: String,
    /// What it was.
    pub query: Cancelled,
}

impl fmt::Debug for SourceAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceAnswers").field("queues", &self.inner.queues).finish_non_exhaustive()
    }
}

impl SourceAnswers {
    /// Empty lines; queries run in `tasks`.
    pub fn new(options: &SourceOptions, tasks: Tasks) -> Self {
        let ready = usize::try_from(options.result_bytes / READY_SHARE).unwrap_or(usize::MAX).max(READY_BYTES);
        let queues = options.concurrency.iter().map(|(name, concurrency)| {
            let bounds = QueueOptions {
                concurrency: *concurrency,
                timeout: options.timeout,
                orphaned: options.orphaned,
                most: MOST_IN_LINE,
                ready_bytes: ready,
            };
            (name.clone(), Queue::new(bounds, tasks.clone(), weigh))
        });
        let keys = KeyOptions { timeout: options.timeout, greatest_pause: options.greatest_pause };
        let inner = Inner {
            queues: queues.collect(),
            results: Memory::new(options.result_bytes),
            keys: KeyAnswers::new(keys),
            timeout: options.timeout,
            background_renew: options.background_renew,
            clock: options.clock,
            tasks,
        };
        Self { inner: Arc::new(inner) }
    }
}

fn weigh(fetch: &Fetch) -> usize {
    fetch.as_ref().map_or(0, |fetched| fetched.bytes())
}

impl Fetched {
    fn bytes(&self) -> usize {
        let arrays: usize = self.batches.iter().map(RecordBatch::get_array_memory_size).sum();
        arrays + self.keys.as_ref().map_or(0, String::len)
    }
}

impl QueryService {
    /// Answers a query from the state `snapshot`; where it goes to a source, as `asking` says.
    ///
    /// # Errors
    /// See [`QueryError`]; [`QueryError::ContinueWait`] when the source needs longer.
    pub async fn answer(
        &self,
        rollups: &Rollups,
        snapshot: &Arc<Snapshot>,
        query: &Query,
        asking: Asking<'_>,
    ) -> Result<Answer, QueryError> {
        let wide = query.one_more();
        let planned = self.plan(rollups, snapshot, &wide)?;
        if !planned.asks_source {
            return self.load_planned(rollups, &planned, &wide).await;
        }
        let now = self.answers.inner.clock.now();
        let keys = QueryKeys::of(rollups.model(), query, &planned.cubes(), now)?;
        let work = planned.work(self, rollups, snapshot, &wide)?;
        let wanted = Wanted {
            key: key_of(rollups, snapshot, &planned, &work),
            answers: self.answers.clone(),
            source: (planned.data_source.clone(), planned.source.clone()),
            keys,
            work,
            keyless: asking.mode == CacheMode::NoCache,
        };
        let (fetched, slow) = wanted.fetch(asking, now).await?;
        Ok(planned.answer(rollups, &wide, &fetched, slow))
    }

    /// The statements that tell whether an answer of the source would be good; none where rollups answer.
    ///
    /// # Errors
    /// A statement needs to know who asks, and nobody does.
    pub(super) fn key_statements(
        &self,
        rollups: &Rollups,
        query: &Query,
        planned: &Planned<'_>,
    ) -> Result<Vec<KeyStatement>, QueryError> {
        if planned.rollups().next().is_some() {
            return Ok(Vec::new());
        }
        key_statements(rollups.model(), query, &planned.cubes(), self.answers.inner.clock.now())
    }

    /// Cancels the queries of sources that the request of this id asked for, and nobody else did.
    pub fn cancel(&self, request_id: &str) -> Vec<CancelledQuery> {
        let queues = self.answers.inner.queues.iter();
        let cancelled = queues.flat_map(|(name, queue)| {
            let of_source = queue.cancel(request_id).into_iter();
            of_source.map(|query| CancelledQuery { data_source: name.clone(), query })
        });
        cancelled.collect()
    }
}

/// What decides a result, but for the source's state.
fn key_of(rollups: &Rollups, snapshot: &Snapshot, planned: &Planned<'_>, work: &SourceWork) -> u128 {
    let state = if planned.originals.is_empty() { 0 } else { snapshot.id().get() };
    let counting = work.counting.as_deref().unwrap_or_default();
    let parts =
        [&rollups.instance().to_string(), &state.to_string(), &planned.data_source, work.sql.as_str(), counting];
    xxh3_128(parts.join("\0").as_bytes())
}

/// A question for a source, with all that it takes to ask it.
#[derive(Clone)]
struct Wanted {
    key: u128,
    answers: SourceAnswers,
    source: (String, Source),
    keys: QueryKeys,
    work: SourceWork,
    /// Refresh keys that fail are no obstacle.
    keyless: bool,
}

impl Wanted {
    /// The rows, and whether they are old because new ones take too long.
    async fn fetch(self, asking: Asking<'_>, now: i64) -> Result<(Arc<Fetched>, bool), QueryError> {
        let inner = Arc::clone(&self.answers.inner);
        let queue = inner.queues.get(&self.source.0).ok_or_else(|| {
            QueryError::Model(format!("data source '{}' has no line of queries: it is not configured", self.source.0))
        })?;
        let asking = match asking.mode {
            CacheMode::StaleIfSlow if inner.background_renew => {
                Asking { mode: CacheMode::StaleWhileRevalidate, ..asking }
            }
            _ => asking,
        };
        let may_be_stale = matches!(asking.mode, CacheMode::StaleIfSlow | CacheMode::StaleWhileRevalidate);
        if let Some(known) = self.known(now).filter(|_| asking.mode != CacheMode::NoCache) {
            match self.value_now(asking.until, now).await {
                None if may_be_stale => return Ok((known, true)),
                None => return Err(QueryError::ContinueWait(Stage::Running(Duration::ZERO))),
                Some(Err(error)) => {
                    inner.results.forget(self.key);
                    return Err(key_fault(&error).into());
                }
                Some(Ok(value)) if known.keys.as_ref() == Some(&value) => {
                    queue.forget_ready(self.key);
                    return Ok((known, false));
                }
                Some(Ok(_)) if asking.mode == CacheMode::StaleWhileRevalidate => {
                    let wanted = self.clone();
                    queue.forget_ready(self.key);
                    queue.start(self.key, move || wanted.run());
                    return Ok((known, false));
                }
                Some(Ok(_)) => {}
            }
        }
        let ask = Ask { key: self.key, request_id: asking.request_id, until: asking.until };
        let wanted = self.clone();
        match queue.ask(ask, move || wanted.run()).await {
            Outcome::Done(fetch) => Ok((fetch?, false)),
            Outcome::Waiting(stage) => match self.known(now).filter(|_| may_be_stale) {
                Some(known) => Ok((known, true)),
                None => Err(QueryError::ContinueWait(stage)),
            },
            Outcome::TimedOut => {
                inner.results.forget(self.key);
                Err(QueryError::Timeout(inner.timeout))
            }
            Outcome::Cancelled => Err(EngineError::Execution("the query was cancelled".to_owned()).into()),
            Outcome::Lost => Err(EngineError::Execution("the query engine failed".to_owned()).into()),
            Outcome::Full => {
                let text = format!("too many queries wait for data source '{}': ask again later", self.source.0);
                Err(EngineError::ResourcesExhausted(text).into())
            }
        }
    }

    /// What the source answered before, when that is not too long ago.
    fn known(&self, now: i64) -> Option<Arc<Fetched>> {
        self.answers.inner.results.get(self.key).filter(|known| now - known.asked_at < LIFETIME)
    }

    /// What the refresh keys say; none when that takes too long. The source is asked to the end in any case, so that
    /// somebody gets to know.
    async fn value_now(&self, until: Instant, now: i64) -> Option<Result<String, KeyError>> {
        if self.keys.are_quick() {
            return Some(self.value(now).await);
        }
        let (inner, wanted) = (Arc::clone(&self.answers.inner), self.clone());
        let value = inner.tasks.run(async move { wanted.value(now).await });
        match tokio::time::timeout_at(until, value).await {
            Ok(value) => Some(value.unwrap_or_else(|failure| Err(KeyError::new(failure.to_string())))),
            Err(_elapsed) => None,
        }
    }

    async fn value(&self, now: i64) -> Result<String, KeyError> {
        self.keys.value(&self.answers.inner.keys, (&self.source.0, &self.source.1), now).await
    }

    /// Asks the keys, then the source, so that a change in between is seen next time; keeps what it answers.
    fn run(self) -> BoxFuture<'static, Fetch> {
        async move {
            let inner = Arc::clone(&self.answers.inner);
            let fetch = self.ask_source(&inner).await;
            match &fetch {
                Ok(fetched) => inner.results.put(self.key, Arc::clone(fetched), fetched.bytes()),
                Err(_) => inner.results.forget(self.key),
            }
            fetch
        }
        .boxed()
    }

    async fn ask_source(&self, inner: &Inner) -> Fetch {
        let asked_at = inner.clock.now();
        let keys = match self.value(asked_at).await {
            Ok(value) => Some(value),
            Err(_) if self.keyless => None,
            Err(error) => return Err(key_fault(&error)),
        };
        let (batches, total) = self.work.run().await?;
        Ok(Arc::new(Fetched { batches, total, asked_at, keys }))
    }
}

fn key_fault(error: &KeyError) -> EngineError {
    EngineError::Execution(format!("the refresh key of a cube failed: {error}"))
}
