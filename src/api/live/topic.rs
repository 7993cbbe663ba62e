//! A question that somebody waits for changes of. Equal ones of equal callers are one topic, which is answered once
//! for all of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until};

use super::super::access::Caller;
use super::super::{ApiParts, ApiState, Call};
use super::changes::{Change, Changed, Changes};
use super::message::Method;
use super::outcome::Outcome;

/// Everything is looked at this often: words such as `last week` mean something else after a midnight, and all
/// midnights of the world are at quarter hours.
const QUARTER_HOUR: Duration = Duration::from_secs(900);
/// The time that an unfinished answer takes at least; questions are held while they are worked on.
const LEAST_HOLD: Duration = Duration::from_millis(500);
/// Topics over stored rows alone that are answered at the same time.
const STORED_AT_ONCE: usize = 4;
/// Other topics that are answered at the same time.
const OTHERS_AT_ONCE: usize = 16;

/// What makes two questions one: who asks, and what, in one spelling.
type Key = (String, String);

/// All topics.
#[derive(Debug)]
pub(in crate::api) struct Topics {
    /// Told of what is stored.
    pub(super) changes: Changes,
    open: Mutex<BTreeMap<Key, Arc<Topic>>>,
    stored: Semaphore,
    others: Semaphore,
}

impl Default for Topics {
    fn default() -> Self {
        Self {
            changes: Changes::default(),
            open: Mutex::default(),
            stored: Semaphore::new(STORED_AT_ONCE),
            others: Semaphore::new(OTHERS_AT_ONCE),
        }
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct Topic {
    key: Key,
    caller: Caller,
    arguments: Map<String, Value>,
    request_id: String,
    /// The newest answer; none before the first.
    latest: watch::Sender<Option<Arc<Outcome>>>,
}

/// Somebody's interest in a topic; ends when it is dropped.
pub(super) type Follower = watch::Receiver<Option<Arc<Outcome>>>;

impl Topics {
    /// Follows the topic of a question; starts it when it is new. An answer that is there already counts as new.
    pub(super) fn follow(
        &self,
        state: &ApiState,
        caller: &Caller,
        arguments: Map<String, Value>,
        request_id: String,
    ) -> (Arc<Topic>, Follower) {
        let key = key_of(caller, &arguments);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(topic) = open.get(&key) {
            let mut follower = topic.latest.subscribe();
            if follower.borrow().is_some() {
                follower.mark_changed();
            }
            return (Arc::clone(topic), follower);
        }
        let (latest, follower) = watch::channel(None);
        let topic = Arc::new(Topic { key: key.clone(), caller: caller.clone(), arguments, request_id, latest });
        open.insert(key, Arc::clone(&topic));
        drop(open);
        topic.start(state);
        (topic, follower)
    }

    /// Forgets a topic unless somebody follows it after all.
    fn close(&self, topic: &Topic) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = topic.latest.receiver_count() == 0;
        if idle {
            open.remove(&topic.key);
        }
        idle
    }
}

/// Keys of objects come in one order, so that clients may write them in any.
fn key_of(caller: &Caller, arguments: &Map<String, Value>) -> Key {
    (caller.key(), sorted(&Value::Object(arguments.clone())).to_string())
}

/// The value with the keys of its objects sorted; but for `order`, where they are a sequence.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let entries: BTreeMap<&String, &Value> = map.iter().collect();
            let entry = |(key, value): (&String, &Value)| {
                let value = if key == "order" { value.clone() } else { sorted(value) };
                (key.clone(), value)
            };
            Value::Object(entries.into_iter().map(entry).collect())
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        plain => plain.clone(),
    }
}

impl Topic {
    /// Whether this is the topic of a question.
    pub(super) fn is_of(&self, caller: &Caller, arguments: &Map<String, Value>) -> bool {
        self.key == key_of(caller, arguments)
    }

    /// What is asked.
    pub(super) fn arguments(&self) -> &Map<String, Value> {
        &self.arguments
    }

    /// The newest answer.
    pub(super) fn latest(&self) -> Option<Arc<Outcome>> {
        self.latest.borrow().clone()
    }

    fn start(self: &Arc<Self>, state: &ApiState) {
        let (topic, state) = (Arc::clone(self), state.clone());
        state.0.parts.tasks.clone().spawn("subscription", move || Arc::clone(&topic).serve(state.clone()));
    }

    /// Answers until nobody follows, or the server stops.
    async fn serve(self: Arc<Self>, state: ApiState) {
        let topics = &state.0.live;
        // Before the first look, so that nothing is missed in between.
        let mut changed = topics.changes.subscribe();
        let stop = state.0.closing.clone();
        let mut stored = false;
        loop {
            let began = Instant::now();
            let limit = if stored { &topics.stored } else { &topics.others };
            let answering = async {
                let _permit = limit.acquire().await;
                self.answer(&state).await
            };
            // Losing an answer that nobody waits for is the point.
            let (outcome, caller) = tokio::select! {
                (outcome, caller) = answering => (Arc::new(outcome), caller),
                () = self.latest.closed() => {
                    if topics.close(&self) { return }
                    continue;
                }
                () = stop.cancelled() => return,
            };
            stored = outcome.footprint.as_ref().is_some_and(|footprint| !footprint.from_source);
            self.latest.send_if_modified(|latest| {
                let news = !latest.as_ref().is_some_and(|known| outcome.says_the_same_as(known));
                // The later one of two that say the same is kept: it is what who comes now should see.
                *latest = Some(Arc::clone(&outcome));
                news
            });
            let due = began + self.patience(&outcome, &state.0.parts);
            // Losing any arm is harmless: the question is asked anew from the start, or nobody asks any more.
            tokio::select! {
                () = concerning(&mut changed, &outcome) => {}
                () = sleep_until(due) => {}
                () = self.outgrown(&state.0.parts, caller.as_ref()) => {}
                () = self.latest.closed() => if topics.close(&self) { return },
                () = stop.cancelled() => return,
            }
        }
    }

    /// The answer, and the caller whose it is.
    async fn answer(&self, state: &ApiState) -> (Outcome, Option<Caller>) {
        let followed = Arc::default();
        let call = Call {
            id: self.request_id.clone(),
            caller: self.caller.clone(),
            arguments: self.arguments.clone(),
            followed: Some(Arc::clone(&followed)),
            ..Call::default()
        };
        let (response, caller) = super::ask(state, Method::Subscribe.path(), call).await;
        (Outcome::printed(response, followed.get().cloned()).await, caller)
    }

    /// Waits until the caller has another model than the one that was answered from, or is in other groups: hooks decide
    /// about both anew at any time, and nobody tells.
    async fn outgrown(&self, parts: &ApiParts, answered: Option<&Caller>) {
        let Some(answered) = answered.filter(|_| parts.hooks.is_some()) else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(parts.options.subscription_cycle).await;
            // Who cannot be told is asked anew as well, so that the failure is.
            if !self.caller.renewed(parts).await.is_ok_and(|now| now.sees_as(answered)) {
                return;
            }
        }
    }

    /// After how long the question is asked anew when no change is told (`http-api.md` §10.4).
    fn patience(&self, outcome: &Outcome, parts: &ApiParts) -> Duration {
        let now = parts.clock.now();
        let stored = outcome.footprint.as_ref().is_some_and(|footprint| !footprint.from_source);
        match stored {
            _ if outcome.unfinished => LEAST_HOLD,
            true if !names_moments(&self.arguments) => {
                let since = now.rem_euclid(QUARTER_HOUR.as_micros().try_into().unwrap_or(i64::MAX));
                QUARTER_HOUR - Duration::from_micros(since.unsigned_abs())
            }
            _ => parts.options.subscription_cycle,
        }
    }
}

/// Waits for a change that may concern an answer.
async fn concerning(changed: &mut Changed, outcome: &Outcome) {
    loop {
        match (changed.next().await, &outcome.footprint) {
            (Change::Everything, _) | (_, None) => return,
            (Change::Stored(tables), Some(footprint)) if !tables.is_disjoint(&footprint.tables) => return,
            (Change::Stored(_), Some(_)) => {}
        }
    }
}

/// Whether a request may speak of times that move on within a quarter hour: `last 10 minutes`.
fn names_moments(arguments: &Map<String, Value>) -> bool {
    fn search(value: &Value, is_time: bool) -> bool {
        match value {
            Value::String(text) => {
                let text = text.to_ascii_lowercase();
                is_time && ["second", "minute", "hour"].iter().any(|unit| text.contains(unit))
            }
            Value::Array(items) => items.iter().any(|item| search(item, is_time)),
            Value::Object(map) => map.iter().any(|(key, value)| {
                // A query that came as a text is not taken apart.
                let is_time = ["query", "dateRange", "compareDateRange", "values"].contains(&key.as_str());
                search(value, is_time)
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
    arguments.iter().any(|(key, value)| search(value, key == "query"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::SecurityContext;

    fn key(context: Value, query: Value) -> Key {
        let arguments = json!({ "query": query });
        let caller = Caller::with(SecurityContext(context));
        key_of(&caller, arguments.as_object().expect("an object"))
    }

    #[test]
    fn equal_questions_of_equal_callers_are_one() {
        let one = key(json!({"a": 1, "b": 2}), json!({"measures": ["x"], "limit": 1}));
        assert_eq!(one, key(json!({"b": 2, "a": 1}), json!({"limit": 1, "measures": ["x"]})));
        assert_ne!(one, key(json!({"a": 1, "b": 3}), json!({"measures": ["x"], "limit": 1})));
        assert_ne!(one, key(json!({"a": 1, "b": 2}), json!({"measures": ["x"], "limit": 2})));
        let ordered = |first: &str, second: &str| key(json!({}), json!({"order": {first: "asc", second: "asc"}}));
        assert_ne!(ordered("a", "b"), ordered("b", "a"), "of an order the sequence counts");
    }

    #[test]
    fn moments_are_named_by_their_units() {
        let moving = |query: Value| names_moments(json!({ "query": query }).as_object().expect("an object"));
        let ranged = |range: Value| json!({"timeDimensions": [{"granularity": "hour", "dateRange": range}]});
        assert!(moving(ranged(json!("last 5 Minutes"))));
        assert!(moving(json!({"filters": [{"or": [{"values": ["from 1 hour ago to now"]}]}]})));
        assert!(moving(json!(r#"{"timeDimensions": [{"dateRange": "last 2 seconds"}]}"#)));
        assert!(!moving(ranged(json!("last 7 days"))) && !moving(ranged(json!(["2024-01-01", "2024-01-02"]))));
    }
}
