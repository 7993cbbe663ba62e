//! The keys of an identity provider (`http-api.md` §2.3): fetched, kept for as long as it says, renewed in time.
//!
//! Who asks with a key that is known never waits. Who asks with another one waits for the one fetch that may be under
//! way, and fetches come no more often than the windows below allow, however many strange tokens arrive. Keys are used
//! until they expire and not beyond: a provider that stays away lets nobody in.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::Mutex as AsyncMutex;

use super::keys::{Key, KeyError, Rules};
use crate::tasks::{Tasks, blocking};

/// Longest document that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// Most keys of a document.
const MAX_KEYS: usize = 1000;
/// Longest time for one attempt.
const ATTEMPT: Duration = Duration::from_secs(4);
/// No further attempt begins later than this after the first.
const ATTEMPTS: Duration = Duration::from_secs(5);
/// Pause between attempts.
const PAUSE: Duration = Duration::from_millis(200);
/// While there are no keys: shortest time from one fetch to the next.
const FAILURE_PAUSE: Duration = Duration::from_secs(5);
/// Longest time from one renewal to the next.
const RENEWAL: Duration = Duration::from_secs(60);
/// Longest time that a document's own `max-age` counts.
const MAX_LIFE: Duration = Duration::from_secs(86_400);

/// Where the keys are, and how often to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySetOptions {
    /// The document's address.
    pub url: String,
    /// Attempts of one fetch.
    pub attempts: u32,
    /// How long a document lasts that does not say.
    pub default_life: Duration,
    /// A document younger than this is not fetched again for the sake of a key that it lacks.
    pub refetch_window: Duration,
}

impl KeySetOptions {
    /// With Cube's defaults.
    pub fn new(url: impl Into<String>) -> Self {
        let (default_life, refetch_window) = (Duration::from_secs(300), Duration::from_secs(60));
        Self { url: url.into(), attempts: 3, default_life, refetch_window }
    }
}

/// A key set that is kept up to date.
pub(super) struct KeySet {
    options: KeySetOptions,
    rules: Rules,
    agent: ureq::Agent,
    /// Held for moments, never across an `await`.
    state: Mutex<State>,
    /// Held by whoever fetches.
    fetching: AsyncMutex<()>,
}

#[derive(Default)]
struct State {
    document: Option<Arc<Document>>,
    /// When the last fetch began.
    attempted: Option<Instant>,
}

struct Document {
    keys: Vec<(String, Key)>,
    fetched: Instant,
    life: Duration,
}

impl Document {
    fn with_id<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Key> {
        self.keys.iter().filter(move |(own, _)| own == id).map(|(_, key)| key)
    }

    fn is_fresh(&self) -> bool {
        self.fetched.elapsed() < self.life
    }
}

impl KeySet {
    /// Nothing is fetched yet.
    ///
    /// # Errors
    /// The address is no URL of the web.
    pub(super) fn new(options: KeySetOptions, rules: Rules) -> Result<Arc<Self>, KeyError> {
        let is_url = options.url.parse::<ureq::http::Uri>().is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
        });
        if !is_url {
            return Err(KeyError::Url(options.url));
        }
        let config = ureq::Agent::config_builder().timeout_global(Some(ATTEMPT)).max_redirects(3).build();
        let agent = ureq::Agent::new_with_config(config);
        Ok(Arc::new(Self { options, rules, agent, state: Mutex::default(), fetching: AsyncMutex::new(()) }))
    }

    /// Fetches the keys now and renews them in time, until the group stops.
    pub(super) fn keep_fresh(self: &Arc<Self>, tasks: &Tasks) {
        let (set, stop) = (Arc::clone(self), tasks.stop_signal());
        tasks.spawn("key set", move || {
            let (set, stop) = (Arc::clone(&set), stop.clone());
            async move {
                // Losing a fetch is harmless: nobody asks any more.
                stop.run_until_cancelled(async move {
                    loop {
                        let fetched = {
                            let _turn = set.fetching.lock().await;
                            set.fetch().await
                        };
                        let pause = match (fetched, set.document()) {
                            (true, Some(document)) => (document.life / 2).clamp(Duration::from_secs(1), RENEWAL),
                            _ => FAILURE_PAUSE,
                        };
                        tokio::time::sleep(pause).await;
                    }
                })
                .await;
            }
        });
    }

    /// The keys with an id; why there are none otherwise, for the log.
    pub(super) async fn find(self: &Arc<Self>, id: &str) -> Result<Vec<Key>, String> {
        if let Some(keys) = self.known(id) {
            return Ok(keys);
        }
        let asked = Instant::now();
        let _turn = self.fetching.lock().await;
        // Whoever had the turn before may have brought it; if not, a fetch that began since is as good as another.
        if let Some(keys) = self.known(id) {
            return Ok(keys);
        }
        if self.may_fetch(asked) {
            self.fetch().await;
        }
        match (self.known(id), self.document()) {
            (Some(keys), _) => Ok(keys),
            (None, Some(_)) => Err("the key set has no key of the token's kid".to_owned()),
            (None, None) => Err("the key set cannot be fetched".to_owned()),
        }
    }

    fn known(&self, id: &str) -> Option<Vec<Key>> {
        let keys: Vec<Key> = self.document()?.with_id(id).cloned().collect();
        (!keys.is_empty()).then_some(keys)
    }

    /// The document, while it lasts.
    fn document(&self) -> Option<Arc<Document>> {
        self.state().document.clone().filter(|document| document.is_fresh())
    }

    fn may_fetch(&self, asked: Instant) -> bool {
        let window = if self.document().is_some() { self.options.refetch_window } else { FAILURE_PAUSE };
        self.state().attempted.is_none_or(|attempted| attempted < asked && attempted.elapsed() >= window)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Every change is one assignment: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives whether a new document came. One that cannot be had leaves the one before as it is.
    async fn fetch(self: &Arc<Self>) -> bool {
        let begun = Instant::now();
        // Said first: one whose asker leaves counts too.
        self.state().attempted = Some(begun);
        let mut cause = String::new();
        for attempt in 0..self.options.attempts.max(1) {
            if attempt > 0 {
                if begun.elapsed() > ATTEMPTS {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            let set = Arc::clone(self);
            // Stored by the one who has it: it is not lost when the asker leaves.
            match blocking(move || set.download().map(|document| set.state().document = Some(Arc::new(document)))).await
            {
                Ok(()) => return true,
                Err(error) => cause = error,
            }
        }
        tracing::warn!(url = self.options.url, cause, "the key set cannot be fetched");
        false
    }

    fn download(&self) -> Result<Document, String> {
        let fetched = Instant::now();
        let mut response = self.agent.get(&self.options.url).call().map_err(|error| error.to_string())?;
        let life = response.headers().get("cache-control").and_then(|value| max_age(value.to_str().ok()?));
        let life = life.unwrap_or(self.options.default_life).min(MAX_LIFE);
        let text = response.body_mut().with_config().limit(MAX_BYTES).read_to_string();
        let text = text.map_err(|error| error.to_string())?;
        let document: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let listed = document["keys"].as_array().ok_or("the document has no list of keys")?;
        let mut keys = Vec::new();
        for value in listed.iter().take(MAX_KEYS) {
            match self.rules.key_of_set(value) {
                Ok(key) => keys.push(key),
                Err(cause) => tracing::debug!(kid = %value["kid"], cause, "a key of the key set is left out"),
            }
        }
        Ok(Document { keys, fetched, life })
    }
}

/// The `max-age` of a `Cache-Control` header; none when it is absent or zero.
fn max_age(header: &str) -> Option<Duration> {
    let seconds = header.split(',').find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        let value = value.trim().trim_matches('"');
        name.trim().eq_ignore_ascii_case("max-age").then(|| value.parse::<u64>().ok()).flatten()
    })?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_say_how_long_they_last() {
        for (header, seconds) in [
            ("max-age=60", Some(60)),
            ("public, Max-Age = 3600, must-revalidate", Some(3600)),
            ("max-age=\"7\"", Some(7)),
            ("max-age=0", None),
            ("max-age=soon", None),
            ("s-maxage=60", None),
            ("no-store", None),
            ("", None),
        ] {
            assert_eq!(max_age(header), seconds.map(Duration::from_secs), "{header}");
        }
    }
}
