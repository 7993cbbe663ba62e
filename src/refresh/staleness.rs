//! Published partition + now → missing, stale or fresh.

use std::time::Duration;

use quarry_storage::Partition;

use crate::model::refresh_key::{Schedule, TimeKey, applied_keys};
use crate::model::{Model, Preagg, RefreshKey};

/// `refresh_key.every` of a rollup where neither it nor its cube has one (`pre-aggregations.md` §8.1).
const DEFAULT_EVERY: Duration = Duration::from_secs(3_600);

/// What a partition needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// It was never published.
    Missing,
    /// It is as old as its refresh key allows, or older.
    Stale,
    /// Nothing.
    Fresh,
}

/// The age, in microseconds, at which partitions of a rollup are stale.
pub(super) fn greatest_age(model: &Model, preagg: &Preagg) -> i64 {
    let seconds = applied_keys(model, preagg, &[preagg.id.cube], &mut |_| {}).into_iter().map(|key| match key.key {
        RefreshKey::Time(TimeKey { schedule: Schedule::Interval(every), .. }) => u64::from(every.seconds),
        RefreshKey::Time(TimeKey { schedule: Schedule::Cron(cron), .. }) => u64::from(cron.seconds),
        RefreshKey::Sql { .. } | RefreshKey::Immutable => DEFAULT_EVERY.as_secs(),
    });
    micros(seconds.min().map_or(Duration::MAX, Duration::from_secs))
}

/// How fresh a partition is at `now`, in UTC microseconds. A clock that was set back makes nothing stale.
pub(super) fn freshness(published: Option<&Partition>, greatest_age: i64, now: i64) -> Freshness {
    age_at(published.map(|partition| partition.built_at), greatest_age, now)
}

fn age_at(built_at: Option<i64>, greatest_age: i64, now: i64) -> Freshness {
    match built_at {
        None => Freshness::Missing,
        Some(built_at) if built_at.saturating_add(greatest_age) <= now => Freshness::Stale,
        Some(_) => Freshness::Fresh,
    }
}

/// Whole microseconds; `i64::MAX` for what does not fit.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(built_at: Option<i64>, every: Duration, now: i64, expected: Freshness) {
        assert_eq!(age_at(built_at, micros(every), now), expected, "{built_at:?} {every:?} {now}");
    }

    #[test]
    fn a_partition_is_stale_from_the_moment_its_age_is_reached() {
        let minute = Duration::from_secs(60);
        check(None, minute, 0, Freshness::Missing);
        check(Some(1_000_000), minute, 1_000_000, Freshness::Fresh);
        check(Some(1_000_000), minute, 60_999_999, Freshness::Fresh);
        check(Some(1_000_000), minute, 61_000_000, Freshness::Stale);
        check(Some(1_000_000), minute, i64::MAX, Freshness::Stale);
    }

    #[test]
    fn a_clock_set_back_and_an_endless_age_make_nothing_stale() {
        check(Some(5_000_000), Duration::from_secs(1), 1_000_000, Freshness::Fresh);
        check(Some(5_000_000), Duration::MAX, i64::MAX - 1, Freshness::Fresh);
    }
}
