//! Statements of refresh keys → their rows, as good as remembered for as long as their thresholds say.
//!
//! A statement runs once for all that ask at the same time, and again only when its threshold has passed. One that
//! fails is left alone for a while, ever longer. Keys of rollups are put together by the refresher, those of queries
//! in [`super::fresh`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::StreamExt as _;
use quick_cache::sync::Cache;
use serde_json::{Map, Value, json};

use super::QueryError;
use crate::engine::EngineError;
use crate::sources::Source;
use crate::time::{micros, spoken_duration};

/// Statements whose results are remembered.
const MAX_ANSWERS: usize = 10_000;
/// How long a result is good where the key does not say.
pub const DEFAULT_THRESHOLD: Duration = Duration::from_secs(10);
/// Most rows that a key may give.
const MAX_ROWS: usize = 1_000;
/// Pause after a first failure; it doubles with each further one.
const LEAST_PAUSE: Duration = Duration::from_secs(15);

/// A key could not be evaluated; in the source's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(String);

impl KeyError {
    /// In these words.
    pub fn new(text: String) -> Self {
        Self(text)
    }
}

impl From<QueryError> for KeyError {
    fn from(error: QueryError) -> Self {
        Self(error.to_string())
    }
}

/// Settings of the evaluation.
#[derive(Debug, Clone, Copy)]
pub struct KeyOptions {
    /// How long a statement may run.
    pub timeout: Duration,
    /// Longest pause after failures.
    pub greatest_pause: Duration,
}

/// Asks sources for the rows of keys, and remembers them.
#[derive(Debug)]
pub struct KeyAnswers {
    options: KeyOptions,
    answers: Cache<Question, Arc<tokio::sync::Mutex<Option<Answer>>>>,
}

/// A statement of a source.
pub type Question = (String, String);

/// What is known of a statement.
#[derive(Debug, Clone)]
struct Answer {
    /// When it was asked, in UTC microseconds.
    asked_at: i64,
    rows: Result<Value, KeyError>,
    /// After a failure: how long it is left alone.
    pause: Duration,
}

impl KeyAnswers {
    /// Nothing is known yet.
    pub fn new(options: KeyOptions) -> Self {
        Self { options, answers: Cache::new(MAX_ANSWERS) }
    }

    /// The rows of a statement: as remembered, or asked for anew. All who ask meanwhile wait for the one.
    ///
    /// # Errors
    /// The source, or the statement, failed; maybe a while ago.
    pub async fn rows(&self, question: Question, source: &Source, asked: Asked) -> Result<Value, KeyError> {
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
pub fn timed_out(limit: Duration) -> String {
    format!("Query execution timeout after {} of waiting", spoken_duration(limit))
}

/// Who asks when, and how old an answer may be.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// An answer that was asked for before, in UTC microseconds, is not good enough, whatever its threshold.
    pub since: i64,
    /// How long an answer is good.
    pub threshold: Duration,
    /// The present, in UTC microseconds.
    pub now: i64,
}

impl Asked {
    fn is_answered_by(self, known: &Answer) -> bool {
        let good_for = if known.rows.is_ok() { self.threshold } else { known.pause };
        known.asked_at >= self.since && self.now < known.asked_at.saturating_add(micros(good_for))
    }
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

    fn keys(timeout: Duration) -> KeyAnswers {
        KeyAnswers::new(KeyOptions { timeout, greatest_pause: Duration::from_secs(40) })
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
