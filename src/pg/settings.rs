//! Settings of a connection: what the client said at the start, what it has set since, and what holds by default.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgwire::api::ClientInfo;
use pgwire::error::PgWireResult;

use super::fault::fault;
use crate::sql::SERVER_VERSION;
use crate::time::Zone;

/// Settings that are told, and their values where nobody has set them.
const SETTINGS: [(&str, &str); 21] = [
    ("application_name", ""),
    ("bytea_output", "hex"),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "on"),
    ("extra_float_digits", "1"),
    ("idle_in_transaction_session_timeout", "0"),
    ("integer_datetimes", "on"),
    ("intervalstyle", "postgres"),
    ("is_superuser", "off"),
    ("lock_timeout", "0"),
    ("max_identifier_length", "63"),
    ("search_path", "public"),
    ("server_encoding", "UTF8"),
    ("server_version", SERVER_VERSION),
    ("server_version_num", "140002"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("timezone", "UTC"),
];
/// The same, of transactions.
const OF_TRANSACTIONS: [(&str, &str); 2] =
    [("transaction_isolation", "read committed"), ("transaction_read_only", "on")];
/// What a client says at the start that is no setting; and its zone, which drivers of Java send unasked: here it would
/// decide about the days and months of every answer. Who means it says `SET timezone`, or `-c timezone=…`.
const NO_SETTINGS: [&str; 6] = ["user", "database", "options", "replication", "timezone", "_pq_"];

/// The settings of one connection.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// As the client said at the start: what `RESET` goes back to.
    started: BTreeMap<String, String>,
    set: Mutex<BTreeMap<String, String>>,
}

impl Settings {
    /// Those of a client.
    pub(super) fn of<C: ClientInfo>(client: &C) -> Arc<Self> {
        client.session_extensions().get_or_insert_with(|| {
            let said = client.metadata().iter().map(|(name, value)| (name.as_str(), value.as_str()));
            Self { started: started(said), set: Mutex::default() }
        })
    }

    /// What holds of a setting.
    ///
    /// # Errors
    /// There is none of that name.
    pub(super) fn shown(&self, name: &str) -> PgWireResult<String> {
        let known = |name: &str| {
            let mut all = SETTINGS.iter().chain(&OF_TRANSACTIONS);
            all.find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let value = self.get(name).or_else(|| known(name));
        value.ok_or_else(|| fault("42704", format!("unrecognized configuration parameter \"{name}\"")))
    }

    /// All settings with their values, by name.
    pub(super) fn all(&self) -> BTreeMap<String, String> {
        let known = SETTINGS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        known.chain(self.started.clone()).chain(self.lock().clone()).collect()
    }

    /// Sets one; to what it was at the start where there is no value.
    ///
    /// # Errors
    /// The setting is one that is understood, and the value is not.
    pub(super) fn put(&self, name: &str, value: Option<&str>) -> PgWireResult<()> {
        match value {
            Some(value) => {
                let (shown, fits) = match name {
                    "timezone" => ("TimeZone", zone(value).is_some()),
                    "statement_timeout" => (name, duration(value).is_some()),
                    _ => (name, true),
                };
                if !fits {
                    return Err(fault("22023", format!("invalid value for parameter \"{shown}\": \"{value}\"")));
                }
                self.lock().insert(name.to_owned(), value.to_owned());
            }
            None => {
                self.lock().remove(name);
            }
        }
        Ok(())
    }

    /// Sets all to what they were at the start.
    pub(super) fn reset(&self) {
        self.lock().clear();
    }

    /// The zone of the connection's times.
    pub(super) fn zone(&self) -> Option<Zone> {
        self.get("timezone").and_then(|name| zone(&name))
    }

    /// How long a statement may run; none where that is not limited by the client.
    pub(super) fn statement_timeout(&self) -> Option<Duration> {
        let set = self.get("statement_timeout").and_then(|value| duration(&value));
        set.filter(|limit| !limit.is_zero())
    }

    fn get(&self, name: &str) -> Option<String> {
        self.lock().get(name).or_else(|| self.started.get(name)).cloned()
    }

    /// A map is whole after every statement here, also in a thread that panicked.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The settings among what a client says at the start.
fn started<'s>(said: impl Iterator<Item = (&'s str, &'s str)> + Clone) -> BTreeMap<String, String> {
    let own = said.clone().map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let own = own.filter(|(name, _)| !NO_SETTINGS.iter().any(|other| name.starts_with(other)));
    let options = said.filter(|(name, _)| *name == "options").flat_map(|(_, text)| of_options(text));
    own.chain(options).collect()
}

/// The settings of the command line that stands under `options`: `-c name=value`, or `--name=value`.
fn of_options(text: &str) -> Vec<(String, String)> {
    let mut words = text.split_ascii_whitespace();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            Some("") => words.next(),
            given => given,
        };
        if let Some((name, value)) = setting.and_then(|setting| setting.split_once('=')) {
            found.push((name.to_lowercase().replace('-', "_"), value.to_owned()));
        }
    }
    found
}

fn zone(name: &str) -> Option<Zone> {
    Zone::from_str_insensitive(name).ok()
}

/// A duration as PostgreSQL reads it: milliseconds, or a number with a unit.
fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(end)?;
    let number: u64 = digits.parse().ok()?;
    let factor = match unit.trim() {
        "us" => return Some(Duration::from_micros(number)),
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(factor).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_at_the_start_holds_until_it_is_set_and_again_after() {
        let said = [
            ("user", "cube"),
            ("Application_Name", "report"),
            ("TimeZone", "Asia/Tokyo"),
            ("options", "-c statement_timeout=5s --search-path=a -ctimezone=Europe/Berlin -d nothing"),
        ];
        let settings = Settings { started: started(said.into_iter()), set: Mutex::default() };
        let shown = |name: &str| settings.shown(name).map_err(|error| error.to_string()).unwrap_or_default();
        assert_eq!(shown("application_name"), "report");
        assert_eq!(shown("search_path"), "a");
        assert_eq!(settings.zone(), Some(Zone::Europe__Berlin));
        assert_eq!(settings.statement_timeout(), Some(Duration::from_secs(5)));
        assert!(settings.shown("user").is_err() && settings.shown("options").is_err());
        settings.put("search_path", Some("b")).expect("set");
        settings.put("statement_timeout", Some("0")).expect("set");
        assert_eq!((shown("search_path").as_str(), settings.statement_timeout()), ("b", None));
        settings.put("search_path", None).expect("set");
        assert_eq!(shown("search_path"), "a");
        settings.reset();
        assert_eq!(settings.statement_timeout(), Some(Duration::from_secs(5)));
        assert!(settings.put("timezone", Some("Mars/Base")).is_err());
        assert!(settings.put("statement_timeout", Some("soon")).is_err());
    }

    #[test]
    fn durations_have_units() {
        let check = |text: &str, millis: Option<u64>| assert_eq!(duration(text), millis.map(Duration::from_millis));
        check("0", Some(0));
        check("250", Some(250));
        check("2s", Some(2_000));
        check("1 min", Some(60_000));
        check("", None);
        check("-1", None);
        check("5 weeks", None);
        check("99999999999999999999", None);
    }
}
