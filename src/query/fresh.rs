//! Whether the data behind a query have changed: what the refresh keys of its cubes say (`http-api.md` §5.9).

use std::time::Duration;

use serde_json::{Value, json};

use super::keys::{Asked, DEFAULT_THRESHOLD, KeyAnswers, KeyError};
use super::lower::key_statement;
use super::{Query, QueryError};
use crate::model::{CubeId, Model, RefreshKey};
use crate::sources::Source;

/// Where a cube has no key, answers are this old at most; younger ones are taken only while the source is seen to be
/// the same.
const DEFAULT_SECONDS: i64 = 10;
const SECOND: i64 = 1_000_000;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::{model, shop};
    use crate::time::{Zone, to_micros};

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
}
