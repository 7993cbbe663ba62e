//! The `events` project: every row carries the generation of the source it was written in, so that an answer
//! tells which state each partition was built from.

use std::sync::Arc;

use arrow::array::{Int64Array, StringArray};
use serde_json::{Value, json};

use crate::answers::number;
use crate::server::{Project, Server};
use crate::tables::{DAY, micros, timestamps, write_table};

/// Where the rows of a month lie: from its 5th day, so that no zone moves one into another month.
const FIRST_DAY: i64 = 4;

/// A month's rows in the source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Month {
    /// `2024-01`.
    pub(crate) name: &'static str,
    /// Rows.
    pub(crate) rows: i64,
    /// The generation in each of them.
    pub(crate) generation: i64,
}

/// Replaces the source table `events`.
pub(crate) fn write_events(project: &Project, months: &[Month]) {
    let mut times = Vec::new();
    let mut generations = Vec::new();
    for month in months {
        let start = micros(&format!("{}-01", month.name)) + FIRST_DAY * DAY;
        // Spread over 20 days, each row at another instant.
        times.extend((0..month.rows).map(|row| Some(start + row * 20 * DAY / month.rows)));
        generations.extend((0..month.rows).map(|_| Some(month.generation)));
    }
    let kinds = ["click", "view", "it's"];
    let kind: StringArray = (0..times.len()).map(|row| Some(kinds[row % kinds.len()])).collect();
    let ids = (1_i64..).take(times.len()).collect::<Vec<_>>();
    let columns: Vec<(&str, arrow::array::ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(ids))),
        ("at", timestamps(times)),
        ("generation", Arc::new(Int64Array::from(generations))),
        ("kind", Arc::new(kind)),
    ];
    write_table(project.path(), "events", columns);
}

/// Replaces the source table `visits`: some rows on each of the first `days` days of 2024.
pub(crate) fn write_visits(project: &Project, days: i64, rows_a_day: i64) {
    let start = micros("2024-01-01") + DAY / 2;
    let times: Vec<_> = (0..days * rows_a_day).map(|row| Some(start + (row / rows_a_day) * DAY)).collect();
    let ids = (1_i64..).take(times.len()).collect::<Vec<_>>();
    write_table(project.path(), "visits", vec![("id", Arc::new(Int64Array::from(ids))), ("at", timestamps(times))]);
}

/// The project with both tables, generation 1 everywhere.
pub(crate) fn events_project(months: &[&'static str], rows: i64) -> Project {
    let project = Project::copy("events");
    let months: Vec<_> = months.iter().map(|name| Month { name, rows, generation: 1 }).collect();
    write_events(&project, &months);
    write_visits(&project, 10, 3);
    project
}

/// What an answer says about one month.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SeenMonth {
    /// `2024-01`.
    pub(crate) name: String,
    /// Rows.
    pub(crate) count: i64,
    /// Least generation.
    pub(crate) oldest: i64,
    /// Greatest generation.
    pub(crate) newest: i64,
    /// Sum of the generations.
    pub(crate) generations: i64,
}

impl SeenMonth {
    /// The one generation that all rows of the month have; fails when they are of several.
    #[track_caller]
    pub(crate) fn generation(&self) -> i64 {
        assert_eq!(self.oldest, self.newest, "a partition mixes old and new rows: {self:?}");
        assert_eq!(self.generations, self.count * self.newest, "the sum does not fit: {self:?}");
        self.newest
    }
}

/// What happened from 2024 up to a day, month by month. The day must not lie beyond what is built: there the source answers.
pub(crate) fn months_query(last_day: &str) -> Value {
    json!({
        "measures": ["events.count", "events.oldest", "events.newest", "events.generations"],
        "timeDimensions": [
            {"dimension": "events.at", "granularity": "month", "dateRange": ["2024-01-01", last_day]}
        ],
    })
}

/// The months from 2024 up to `last_day` as answered from the rollup; fails when the rollup was not used.
#[track_caller]
pub(crate) fn seen_months(server: &Server, last_day: &str) -> Vec<SeenMonth> {
    months_of(&server.load(&months_query(last_day)))
}

/// The months of an answer to [`months_query`]; fails when the rollup was not used.
#[track_caller]
pub(crate) fn months_of(answer: &Value) -> Vec<SeenMonth> {
    assert!(uses_rollup(answer, "events.monthly"), "not from the rollup: {answer}");
    let rows = answer["data"].as_array().expect("rows");
    rows.iter()
        .map(|row| {
            #[expect(clippy::cast_possible_truncation, reason = "small whole numbers")]
            let whole = |member: &str| number(&row[member]) as i64;
            SeenMonth {
                name: row["events.at.month"].as_str().expect("a time")[..7].to_owned(),
                count: whole("events.count"),
                oldest: whole("events.oldest"),
                newest: whole("events.newest"),
                generations: whole("events.generations"),
            }
        })
        .collect()
}

/// Whether an answer names this rollup as used.
pub(crate) fn uses_rollup(answer: &Value, id: &str) -> bool {
    answer["usedPreAggregations"]
        .as_object()
        .is_some_and(|used| used.values().any(|entry| entry["preAggregationId"] == id))
}

/// A selector of one context and UTC, with more keys.
pub(crate) fn selector(more: &Value) -> Value {
    let mut selector = json!({"contexts": [{"securityContext": {}}], "timezones": ["UTC"]});
    for (key, value) in more.as_object().into_iter().flatten() {
        selector[key.as_str()] = value.clone();
    }
    selector
}
