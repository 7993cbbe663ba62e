//! Refresh keys → their values at a moment (`pre-aggregations.md` §8.2, §8.3).
//!
//! Keys of time are counted from the clock; a key that is SQL is asked of the source ([`KeyAnswers`]).

use std::time::Duration;

use quarry_storage::Bounds;
use serde_json::{Value, json};

use super::RefreshParts;
use super::planning::{Target, find_source};
use crate::model::RefreshKey;
use crate::model::refresh_key::TimeKey;
use crate::query::keys::{Asked, DEFAULT_THRESHOLD, KeyAnswers, KeyError, KeyOptions};
use crate::query::rollups::Rollups;
use crate::time::{DAY_MICROS, Zone, from_micros, local_to_utc, to_micros};

/// A longer value is kept as its digest.
const MAX_VALUE_BYTES: usize = 4_096;
/// Where the ranges of a table's edges end: timestamps in nanoseconds do not reach further.
const FAR: i64 = 100_000 * DAY_MICROS;

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

/// Evaluates the keys of rollups.
pub(super) struct Keys {
    answers: KeyAnswers,
}

impl Keys {
    pub(super) fn new(options: KeyOptions) -> Self {
        Self { answers: KeyAnswers::new(options) }
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
                    self.answers.rows((target.data_source.clone(), statement), source, asked).await?
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

#[cfg(test)]
mod tests {
    use super::*;
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
}
