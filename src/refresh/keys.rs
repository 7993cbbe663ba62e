//! Refresh keys → their values at a moment (`pre-aggregations.md` §8.2, §8.3).
//!
//! Keys of time are counted from the clock. A key that is SQL runs on the source, once for all that ask at the same
//! time, and again only when its threshold has passed. One that fails is left alone for a while, ever longer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::StreamExt as _;
use quarry_storage::Bounds;
use quick_cache::sync::Cache;
use serde_json::{Map, Value, json};

use super::RefreshParts;
use super::planning::{Target, find_source};
use super::staleness::micros;
use crate::engine::EngineError;
use crate::model::RefreshKey;
use crate::model::refresh_key::TimeKey;
use crate::query::QueryError;
use crate::query::rollups::Rollups;
use crate::sources::Source;
use crate::time::{DAY_MICROS, Zone, from_micros, local_to_utc, spoken_duration, to_micros};

/// Statements whose results are remembered.
const MAX_ANSWERS: usize = 10_000;
/// How long a result is good where the key does not say.
const DEFAULT_THRESHOLD: Duration = Duration::from_secs(10);
/// Most rows that a key may give.
const MAX_ROWS: usize = 1_000;
/// A longer value is kept as its digest.
const MAX_VALUE_BYTES: usize = 4_096;
/// Pause after a first failure; it doubles with each further one.
const LEAST_PAUSE: Duration = Duration::from_secs(15);
/// Where the ranges of a table's edges end: timestamps in nanoseconds do not reach further.
const FAR: i64 = 100_000 * DAY_MICROS;

/// A key could not be evaluated; in the source's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct KeyError(String);

impl From<QueryError> for KeyError {
    fn from(error: QueryError) -> Self {
        Self(error.to_string())
    }
}

/// What of a rollup a key is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    /// A partition; the whole rollup when it has none.
    Partition(Option<Bounds>),
    /// A bucket and all time before it.
    Until(Bounds),
    /// A bucket and all time after it.
    From(Bounds),
}

impl Span {
    /// The times that the statement's conditions are put on.
    fn bounds(self) -> Option<Bounds> {
        match self {
            Self::Partition(bucket) => bucket,
            Self::Until(bucket) => Some(Bounds { start: (-FAR).min(bucket.start), ..bucket }),
            Self::From(bucket) => Some(Bounds { end: FAR.max(bucket.end), ..bucket }),
        }
    }
}

/// Settings of the evaluation.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyOptions {
    /// How long a statement may run.
    pub(super) timeout: Duration,
    /// Longest pause after failures.
    pub(super) greatest_pause: Duration,
}

/// Evaluates keys.
pub(super) struct Keys {
    options: KeyOptions,
    answers: Cache<Question, Arc<tokio::sync::Mutex<Option<Answer>>>>,
}

/// A statement of a source.
type Question = (String, String);

/// What is known of a statement.
#[derive(Debug, Clone)]
struct Answer {
    /// When it was asked, in UTC microseconds.
    asked_at: i64,
    rows: Result<Value, KeyError>,
    /// After a failure: how long it is left alone.
    pause: Duration,
}

impl Keys {
    pub(super) fn new(options: KeyOptions) -> Self {
        Self { options, answers: Cache::new(MAX_ANSWERS) }
    }

    /// The value of a rollup's keys: a list of rows a key, as JSON text. An answer that is older than `since` is not
    /// good enough, whatever its threshold.
    ///
    /// # Errors
    /// The source, or a statement, failed.
    pub(super) async fn value(
        &self,
        parts: &RefreshParts,
        rollups: &Rollups,
        target: &Target,
        span: Span,
        since: i64,
    ) -> Result<String, KeyError> {
        let mut values = Vec::new();
        for applied in rollups.keys(target.preagg)? {
            values.push(match &applied.key {
                RefreshKey::Immutable => continue,
                RefreshKey::Time(key) => {
                    let counter = time_value(key, target.zone, span, parts.clock.now());
                    json!([{ "refresh_key": counter.map(|counter| counter.to_string()) }])
                }
                RefreshKey::Sql { sql, every } => {
                    let source = find_source(parts, &target.data_source)?;
                    let statement = rollups.key_sql(target.preagg, (applied.owner, sql), target.zone, span.bounds())?;
                    let threshold = every.as_ref().map(|every| Duration::from_secs(u64::from(every.seconds)));
                    let asked =
                        Asked { since, threshold: threshold.unwrap_or(DEFAULT_THRESHOLD), now: parts.clock.now() };
                    self.rows((target.data_source.clone(), statement), source, asked).await?
                }
            });
        }
        let text = Value::Array(values).to_string();
        if text.len() <= MAX_VALUE_BYTES {
            return Ok(text);
        }
        let digest = xxhash_rust::xxh3::xxh3_128(text.as_bytes());
        Ok(json!([[{ "digest": format!("{digest:032x}") }]]).to_string())
    }

    /// The rows of a statement: as remembered, or asked for anew. All who ask meanwhile wait for the one.
    async fn rows(&self, question: Question, source: &Source, asked: Asked) -> Result<Value, KeyError> {
        let made = self.answers.get_or_insert_with(&question, || Ok::<_, Infallible>(Arc::default()));
        let slot = made.unwrap_or_else(|never| match never {});
        let mut slot = slot.lock().await;
        let before = slot.take();
        if let Some(known) = before.as_ref().filter(|known| asked.is_answered_by(known)) {
            let rows = known.rows.clone();
            *slot = before;
            return rows;
        }
        let rows = self.ask(source, question.1).await;
        let pause = match (&rows, before.map(|before| before.pause)) {
            (Ok(_), _) => Duration::ZERO,
            (Err(_), Some(pause)) if !pause.is_zero() => (pause * 2).min(self.options.greatest_pause),
            (Err(_), _) => LEAST_PAUSE.min(self.options.greatest_pause),
        };
        *slot = Some(Answer { asked_at: asked.now, rows: rows.clone(), pause });
        rows
    }

    async fn ask(&self, source: &Source, statement: String) -> Result<Value, KeyError> {
        let limit = self.options.timeout;
        match tokio::time::timeout(limit, collect_rows(source, statement)).await {
            Ok(rows) => rows,
            Err(_elapsed) => Err(KeyError(timed_out(limit))),
        }
    }
}

/// Cube's text for what ran too long.
pub(super) fn timed_out(limit: Duration) -> String {
    format!("Query execution timeout after {} of waiting", spoken_duration(limit))
}

/// Who asks when, and how old an answer may be.
#[derive(Debug, Clone, Copy)]
struct Asked {
    since: i64,
    threshold: Duration,
    now: i64,
}

impl Asked {
    fn is_answered_by(self, known: &Answer) -> bool {
        let good_for = if known.rows.is_ok() { self.threshold } else { known.pause };
        known.asked_at >= self.since && self.now < known.asked_at.saturating_add(micros(good_for))
    }
}

/// The number of the interval; none for a partition that is not refreshed any more (§8.2).
fn time_value(key: &TimeKey, zone: Zone, span: Span, now: i64) -> Option<i64> {
    if let (true, Span::Partition(Some(bucket))) = (key.incremental, span) {
        let window = key.update_window.as_ref().map(|window| window.length).unwrap_or_default();
        let closes = to_micros(window.after(from_micros(bucket.end)));
        if now >= local_to_utc(closes, zone) {
            return None;
        }
    }
    Some(key.schedule.counter(zone, now))
}

async fn collect_rows(source: &Source, statement: String) -> Result<Value, KeyError> {
    let fault = |error: EngineError| KeyError(error.to_string());
    let mut stream = source.stream_over(statement, Vec::new()).await.map_err(fault)?;
    let mut rows = Vec::new();
    while let Some(batch) = stream.batches.next().await {
        let batch = batch.map_err(fault)?;
        if rows.len() + batch.num_rows() > MAX_ROWS {
            return Err(KeyError(format!("a refresh key must give at most {MAX_ROWS} rows")));
        }
        add_rows(&batch, &mut rows).map_err(|error| KeyError(error.to_string()))?;
    }
    Ok(Value::Array(rows))
}

/// Adds the rows of a batch: columns by name, values as text.
fn add_rows(batch: &RecordBatch, rows: &mut Vec<Value>) -> Result<(), arrow::error::ArrowError> {
    let options = FormatOptions::default();
    let schema = batch.schema();
    let columns: Vec<(&String, ArrayFormatter<'_>)> = schema
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(field, column)| Ok((field.name(), ArrayFormatter::try_new(column.as_ref(), &options)?)))
        .collect::<Result<_, arrow::error::ArrowError>>()?;
    for row in 0..batch.num_rows() {
        let values = columns.iter().zip(batch.columns()).map(|((name, formatter), column)| {
            let value = if column.is_null(row) { Value::Null } else { json!(formatter.value(row).to_string()) };
            ((*name).clone(), value)
        });
        rows.push(Value::Object(values.collect::<Map<_, _>>()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::engine;
    use crate::model::refresh_key::{Every, Schedule, Window};
    use crate::time::Interval;

    fn at(text: &str) -> i64 {
        to_micros(text.parse().expect("a timestamp"))
    }

    fn hourly(window: Option<&str>) -> TimeKey {
        let window =
            window.map(|text| Window { text: text.to_owned(), length: Interval::parse(text).expect("an interval").0 });
        TimeKey {
            schedule: Schedule::Interval(Every { text: "1 hour".to_owned(), seconds: 3_600 }),
            incremental: true,
            update_window: window,
        }
    }

    /// `closes` is the local time from which a partition of that end is not refreshed any more.
    #[track_caller]
    fn check_window(window: Option<&str>, zone: &str, end: &str, closes: &str) {
        let zone: Zone = zone.parse().expect("a zone");
        let bucket = Bounds { start: at("2024-01-01T00:00:00"), end: at(end) };
        let value = |now: i64| time_value(&hourly(window), zone, Span::Partition(Some(bucket)), now);
        let closes = local_to_utc(at(closes), zone);
        assert_eq!(value(closes - 1), Some(hourly(None).schedule.counter(zone, closes - 1)), "{window:?} is open");
        assert_eq!(value(closes), None, "{window:?} is closed");
        assert_eq!(value(i64::MAX / 4), None);
    }

    /// T19 and conformance case 23: a partition is refreshed until its window closes, by the calendar of the zone.
    #[test]
    fn partitions_freeze_when_their_window_closes() {
        let midnight = "2024-02-01T00:00:00";
        check_window(None, "UTC", midnight, midnight);
        check_window(Some("1 day"), "UTC", midnight, "2024-02-02T00:00:00");
        check_window(Some("90 seconds"), "UTC", midnight, "2024-02-01T00:01:30");
        check_window(Some("7 days"), "America/Los_Angeles", midnight, "2024-02-08T00:00:00");
        check_window(Some("1 month"), "UTC", midnight, "2024-03-01T00:00:00");
        check_window(Some("1 quarter"), "Asia/Tokyo", midnight, "2024-05-01T00:00:00");
        check_window(Some("1 year"), "UTC", "2024-02-29T00:00:00", "2025-02-28T00:00:00");
        // A week over the change of clocks still ends at midnight.
        check_window(Some("1 week"), "America/New_York", "2024-03-05T00:00:00", "2024-03-12T00:00:00");
    }

    #[test]
    fn what_is_not_incremental_and_the_edges_of_a_table_never_freeze() {
        let bucket = Bounds { start: at("2024-01-01T00:00:00"), end: at("2024-02-01T00:00:00") };
        let now = at("2026-01-01T00:00:00");
        let plain = TimeKey { incremental: false, ..hourly(None) };
        assert!(time_value(&plain, Zone::UTC, Span::Partition(Some(bucket)), now).is_some());
        assert!(time_value(&hourly(None), Zone::UTC, Span::Partition(None), now).is_some());
        for edge in [Span::From(bucket), Span::Until(bucket)] {
            assert!(time_value(&hourly(None), Zone::UTC, edge, now).is_some());
        }
        assert_eq!(Span::Until(bucket).bounds().map(|b| b.end), Some(bucket.end));
        assert!(Span::Until(bucket).bounds().is_some_and(|b| b.start < at("1800-01-01T00:00:00")));
        assert_eq!(Span::From(bucket).bounds().map(|b| b.start), Some(bucket.start));
        assert!(Span::From(bucket).bounds().is_some_and(|b| b.end > at("2200-01-01T00:00:00")));
    }

    fn keys(timeout: Duration) -> Keys {
        Keys::new(KeyOptions { timeout, greatest_pause: Duration::from_secs(40) })
    }

    fn source(dir: &tempfile::TempDir) -> Source {
        std::fs::create_dir_all(dir.path().join("data")).expect("a folder");
        Source::files(dir.path().to_owned(), engine())
    }

    fn question(sql: &str) -> Question {
        ("default".to_owned(), sql.to_owned())
    }

    #[tokio::test]
    async fn a_result_is_good_until_its_threshold_or_until_somebody_wants_a_newer_one() {
        let dir = tempfile::tempdir().expect("a folder");
        let (keys, source) = (keys(Duration::from_secs(60)), source(&dir));
        let write =
            |value: &str| std::fs::write(dir.path().join("data/t.csv"), format!("a,b\n{value},\n")).expect("a file");
        let ask = async |since: i64, now: i64| {
            let asked = Asked { since, threshold: Duration::from_secs(10), now };
            keys.rows(question("SELECT a, b FROM t"), &source, asked).await.map(|rows| rows[0]["a"].clone())
        };
        const SECOND: i64 = 1_000_000;
        write("1");
        assert_eq!(ask(i64::MIN, 0).await, Ok(json!("1")));
        write("22");
        assert_eq!(ask(i64::MIN, 9 * SECOND).await, Ok(json!("1")));
        assert_eq!(ask(i64::MIN, 10 * SECOND).await, Ok(json!("22")));
        write("333");
        assert_eq!(ask(10 * SECOND, 11 * SECOND).await, Ok(json!("22")));
        assert_eq!(ask(11 * SECOND, 11 * SECOND).await, Ok(json!("333")));
    }

    #[tokio::test]
    async fn a_failing_key_is_left_alone_ever_longer() {
        let dir = tempfile::tempdir().expect("a folder");
        let (keys, source) = (keys(Duration::from_secs(60)), source(&dir));
        const SECOND: i64 = 1_000_000;
        let ask = async |now: i64| {
            let asked = Asked { since: i64::MIN, threshold: Duration::from_secs(10), now };
            keys.rows(question("SELECT a FROM t"), &source, asked).await
        };
        // Asked at 0, then after 15, 30, 40 and 40 seconds: the file that appears meanwhile is not looked for.
        let mut now = 0;
        for pause in [15, 30, 40] {
            let error = ask(now).await.expect_err("no such table");
            assert!(error.to_string().contains("does not exist"), "{error}");
            std::fs::write(dir.path().join("data/t.csv"), "a\n1\n").expect("a file");
            assert!(ask(now + pause * SECOND - 1).await.is_err(), "{pause}");
            std::fs::remove_file(dir.path().join("data/t.csv")).expect("a file");
            now += pause * SECOND;
        }
        std::fs::write(dir.path().join("data/t.csv"), "a\n1\n").expect("a file");
        assert_eq!(ask(now).await, Ok(json!([{ "a": "1" }])));
    }

    #[tokio::test]
    async fn a_key_has_bounds_in_time_and_rows() {
        let dir = tempfile::tempdir().expect("a folder");
        let source = source(&dir);
        let asked = Asked { since: i64::MIN, threshold: Duration::ZERO, now: 0 };
        let slow = "SELECT count(*) FROM generate_series(1, 9000000000000)";
        let error = keys(Duration::from_millis(100)).rows(question(slow), &source, asked).await;
        assert_eq!(error, Err(KeyError("Query execution timeout after 0.1 s of waiting".to_owned())));
        let long = "SELECT * FROM generate_series(1, 5000)";
        let error = keys(Duration::from_secs(60)).rows(question(long), &source, asked).await;
        assert_eq!(error, Err(KeyError("a refresh key must give at most 1000 rows".to_owned())));
    }
}
