//! Whether the data behind a query have changed: what the refresh keys of its cubes say (`http-api.md` §5.9).

use std::time::Duration;

use serde_json::{Value, json};

use super::keys::{Asked, DEFAULT_THRESHOLD, KeyAnswers, KeyError};
use super::lower::{clock_statement, key_statement};
use super::{Query, QueryError};
use crate::model::{CubeId, Model, RefreshKey};
use crate::sources::Source;
use crate::time::{Zone, utc_to_local};

/// Where a cube has no key, answers are this old at most; younger ones are taken only while the source is seen to be
/// the same.
const DEFAULT_SECONDS: i64 = 10;
const SECOND: i64 = 1_000_000;
/// Cube's threshold of keys that the clock gives is a tenth of their interval, and this at most.
const MOST_SECONDS: u64 = 300;

/// The keys of a query, apart from the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueryKeys(Vec<QueryKey>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum QueryKey {
    /// A number of the clock, as of the moment that the query was asked at.
    Time(i64),
    /// The same where a cube has no key; here the source is looked at, too.
    Default(i64),
    /// A statement for the source, and how long its rows are good.
    Sql(String, Duration),
}

impl QueryKeys {
    /// The keys of the cubes that a query reads from its source at `now` (UTC microseconds).
    ///
    /// # Errors
    /// The statement of a key needs to know who asks, and nobody does.
    pub(super) fn of(model: &Model, query: &Query, cubes: &[CubeId], now: i64) -> Result<Self, QueryError> {
        let mut keys = Vec::new();
        for cube in cubes {
            let key = match &model.cube(*cube).refresh_key {
                Some(RefreshKey::Immutable) => continue,
                None => QueryKey::Default(now.div_euclid(DEFAULT_SECONDS * SECOND)),
                Some(RefreshKey::Time(key)) => QueryKey::Time(key.schedule.counter(query.timezone, now)),
                Some(RefreshKey::Sql { sql, every }) => {
                    let statement = key_statement(model, *cube, sql, query).checked()?.inlined();
                    let every = every.as_ref().map(|every| Duration::from_secs(u64::from(every.seconds)));
                    QueryKey::Sql(statement, every.unwrap_or(DEFAULT_THRESHOLD))
                }
            };
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        Ok(Self(keys))
    }

    /// Whether they are known without a statement.
    pub(super) fn are_quick(&self) -> bool {
        self.0.iter().all(|key| matches!(key, QueryKey::Time(_) | QueryKey::Default(_)))
    }

    /// What they say: a list of rows each, as JSON text.
    ///
    /// # Errors
    /// The source, or a statement, failed.
    pub(super) async fn value(
        &self,
        answers: &KeyAnswers,
        (name, source): (&str, &Source),
        now: i64,
    ) -> Result<String, KeyError> {
        let mut values = Vec::with_capacity(self.0.len());
        for key in &self.0 {
            values.push(match key {
                QueryKey::Time(number) => json!([{ "refresh_key": number.to_string() }]),
                QueryKey::Default(number) => {
                    let state = format!("{:016x}", source.state().await);
                    json!([{ "refresh_key": number.to_string(), "state": state }])
                }
                QueryKey::Sql(statement, threshold) => {
                    let asked = Asked { since: i64::MIN, threshold: *threshold, now };
                    answers.rows((name.to_owned(), statement.clone()), source, asked).await?
                }
            });
        }
        Ok(Value::Array(values).to_string())
    }
}

/// A refresh key of a cube as the statement that asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStatement {
    /// SQL with `$1`… for request values.
    pub text: String,
    /// The request values.
    pub params: Vec<String>,
    /// How long its result is good, in seconds.
    pub threshold: u64,
}

/// The statements of the keys of the cubes that a query reads from its source at `now` (UTC microseconds), one a cube.
///
/// # Errors
/// As [`QueryKeys::of`].
pub(super) fn key_statements(
    model: &Model,
    query: &Query,
    cubes: &[CubeId],
    now: i64,
) -> Result<Vec<KeyStatement>, QueryError> {
    let of_clock = |interval: (i64, i64), zone: Zone, threshold: u64| {
        let ahead = (utc_to_local(now, zone) - now) / SECOND;
        KeyStatement { text: clock_statement(interval, ahead), params: Vec::new(), threshold }
    };
    let mut statements = Vec::new();
    for cube in cubes {
        statements.push(match &model.cube(*cube).refresh_key {
            Some(RefreshKey::Immutable) => continue,
            // It is the same in every zone.
            None => of_clock((DEFAULT_SECONDS, 0), Zone::UTC, DEFAULT_THRESHOLD.as_secs()),
            Some(RefreshKey::Time(key)) => {
                let (seconds, start) = key.schedule.interval();
                let threshold = u64::try_from(seconds / 10).unwrap_or_default().clamp(1, MOST_SECONDS);
                of_clock((seconds, start), key.schedule.zone(query.timezone), threshold)
            }
            Some(RefreshKey::Sql { sql, every }) => {
                let (text, params) = key_statement(model, *cube, sql, query).checked()?.bound();
                let threshold = every.as_ref().map_or(DEFAULT_THRESHOLD.as_secs(), |every| every.seconds.into());
                KeyStatement { text, params, threshold }
            }
        });
    }
    Ok(statements)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::{model, shop};
    use crate::time::to_micros;

    #[track_caller]
    fn check(orders: &str, users: &str, zone: &str, expected: &[QueryKey]) {
        let users_key = format!("    sql_table: users\n    {users}\n");
        let source = shop("", "", orders).replacen("    sql_table: users\n", &users_key, 1);
        let model = model(&source);
        let cubes: Vec<CubeId> =
            ["orders", "users"].iter().map(|name| model.find_cube(name).expect("a cube").id).collect();
        let query = Query { timezone: zone.parse::<Zone>().expect("a zone"), ..Query::default() };
        let now = to_micros("1970-01-02T00:00:25".parse().expect("a timestamp"));
        assert_eq!(QueryKeys::of(&model, &query, &cubes, now).expect("keys").0, expected, "{orders} and {users}");
    }

    /// §17, row 26: the default is ten seconds; `every` counts in the query's zone.
    #[test]
    fn keys_are_those_of_the_cubes() {
        let sql = |text: &str, seconds| QueryKey::Sql(text.to_owned(), Duration::from_secs(seconds));
        check("", "", "UTC", &[QueryKey::Default(8_642)]);
        check("refresh_key: {every: 1 hour}", "", "UTC", &[QueryKey::Time(24), QueryKey::Default(8_642)]);
        check("refresh_key: {every: 1 hour}", "", "Asia/Tokyo", &[QueryKey::Time(33), QueryKey::Default(8_642)]);
        check("refresh_key: {immutable: true}", "refresh_key: {immutable: true}", "UTC", &[]);
        check(
            "refresh_key: {sql: SELECT 1}",
            "refresh_key: {sql: SELECT 2, every: 5 minutes}",
            "UTC",
            &[sql("SELECT 1", 10), sql("SELECT 2", 300)],
        );
    }

    #[test]
    fn keys_are_shown_one_a_cube() {
        let check = |orders: &str, zone: &str, expected: &[(&str, u64)]| {
            let model = model(&shop("", "", orders));
            let cubes: Vec<CubeId> =
                ["orders", "users"].iter().map(|name| model.find_cube(name).expect("a cube").id).collect();
            let query = Query { timezone: zone.parse::<Zone>().expect("a zone"), ..Query::default() };
            let now = to_micros("2024-01-02T00:00:25".parse().expect("a timestamp"));
            let shown = key_statements(&model, &query, &cubes, now).expect("keys");
            let shown: Vec<(&str, u64)> = shown.iter().map(|key| (key.text.as_str(), key.threshold)).collect();
            assert_eq!(shown, expected, "{orders}");
        };
        let default = ("SELECT FLOOR((EXTRACT(EPOCH FROM NOW())) / 10) as refresh_key", 10);
        check("", "Asia/Tokyo", &[default, default]);
        let hourly = ("SELECT FLOOR((EXTRACT(EPOCH FROM NOW())) / 3600) as refresh_key", 300);
        check("refresh_key: {every: 1 hour}", "UTC", &[hourly, default]);
        let daily = ("SELECT FLOOR((32400 + EXTRACT(EPOCH FROM NOW()) - 28800) / 86400) as refresh_key", 300);
        check("refresh_key: {every: 0 8 * * *}", "Asia/Tokyo", &[daily, default]);
        check("refresh_key: {sql: SELECT 1}", "UTC", &[("SELECT 1", 10), default]);
        check("refresh_key: {sql: SELECT 1, every: 5 minutes}", "UTC", &[("SELECT 1", 300), default]);
        check("refresh_key: {immutable: true}", "UTC", &[default]);
    }
}
