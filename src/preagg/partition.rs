//! Time range ↔ partitions of a rollup. Pure calendar arithmetic.
//!
//! All times here are wall-clock microseconds of the rollup's own zone, so a day is a day also where
//! clocks change. A partition always holds its whole bucket: Cube clips the last one at the end of the
//! build range (`pre-aggregations.md` §6.3), we do not, because a rollup has to answer as its source does.

use chrono::{Datelike, NaiveDate, NaiveDateTime};
use quarry_storage::Bounds;

use crate::model::Preagg;
use crate::time::{Granularity, format_local, from_micros, to_micros};

/// The selection by date range takes a bucket's last millisecond as its inclusive end (§6.2).
const MILLISECOND: i64 = 1_000;

/// A range has more buckets than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{count} partitions where {max} are allowed")]
pub struct TooManyBuckets {
    /// Buckets in the range.
    pub count: usize,
    /// The most allowed.
    pub max: usize,
}

/// The granularity that cuts a rollup into partitions; none when it is one table.
pub fn granularity_of(preagg: &Preagg) -> Option<Granularity> {
    preagg.time.and(preagg.partition_granularity)
}

/// The bucket that holds `local`. Times before year 1 or after year 9999 count as the ends of that
/// range, so that every bucket has a name and the arithmetic cannot overflow.
pub fn bucket_of(granularity: Granularity, local: i64) -> Bounds {
    let local = clamp(local);
    Bounds { start: to_micros(granularity.truncate(local)), end: to_micros(granularity.next(local)) }
}

/// All buckets that hold some instant of `first ..= last`, ascending; none when `first > last`.
///
/// # Errors
/// There are more than `max`.
pub fn buckets(granularity: Granularity, first: i64, last: i64, max: usize) -> Result<Vec<Bounds>, TooManyBuckets> {
    if first > last {
        return Ok(Vec::new());
    }
    let count = count_buckets(granularity, clamp(first), clamp(last));
    if count > max {
        return Err(TooManyBuckets { count, max });
    }
    let mut found = Vec::with_capacity(count);
    let (mut bucket, last) = (bucket_of(granularity, first), to_micros(clamp(last)));
    while bucket.start <= last {
        found.push(bucket);
        bucket = Bounds { start: bucket.end, end: to_micros(granularity.next(from_micros(bucket.end))) };
    }
    Ok(found)
}

/// The buckets that make up a range of whole buckets, ascending.
///
/// # Errors
/// There are more than `max`.
pub fn buckets_within(granularity: Granularity, range: Bounds, max: usize) -> Result<Vec<Bounds>, TooManyBuckets> {
    // The range is half-open, `buckets` takes its last instant.
    buckets(granularity, range.start, range.end.saturating_sub(1), max)
}

/// What people see of a bucket behind the table's name: `YYYYMMDD`, with `HH` for hours (§6.3), and
/// further digits for what is finer still.
pub fn digits(granularity: Granularity, bucket: Bounds) -> String {
    let format = match granularity {
        Granularity::Second => "%Y%m%d%H%M%S",
        Granularity::Minute => "%Y%m%d%H%M",
        Granularity::Hour => "%Y%m%d%H",
        Granularity::Day | Granularity::Week | Granularity::Month | Granularity::Quarter | Granularity::Year => {
            "%Y%m%d"
        }
    };
    clamp(bucket.start).format(format).to_string()
}

/// Whether a job's date range, both ends inclusive, selects a partition (§17.3): always without range
/// or bucket; else when they share an instant. The bucket is whole, where Cube's last one is clipped.
pub fn is_selected(bucket: Option<Bounds>, range: Option<(i64, i64)>) -> bool {
    match (bucket, range) {
        (None, _) | (_, None) => true,
        (Some(bucket), Some((start, end))) => start <= end && start <= bucket.end - MILLISECOND && bucket.start <= end,
    }
}

/// Number of buckets from the one of `first` to the one of `last`, without walking them.
fn count_buckets(granularity: Granularity, first: NaiveDateTime, last: NaiveDateTime) -> usize {
    let (first, last) = (granularity.truncate(first), granularity.truncate(last));
    let months = |t: NaiveDateTime| i64::from(t.year()) * 12 + i64::from(t.month0());
    let passed = last - first;
    let steps = match granularity {
        Granularity::Second => passed.num_seconds(),
        Granularity::Minute => passed.num_minutes(),
        Granularity::Hour => passed.num_hours(),
        Granularity::Day => passed.num_days(),
        Granularity::Week => passed.num_weeks(),
        Granularity::Month => months(last) - months(first),
        Granularity::Quarter => (months(last) - months(first)) / 3,
        Granularity::Year => i64::from(last.year() - first.year()),
    };
    usize::try_from(steps.max(0)).unwrap_or(usize::MAX).saturating_add(1)
}

fn clamp(local: i64) -> NaiveDateTime {
    let year = |year, month, day| NaiveDate::from_ymd_opt(year, month, day).map(|d| d.and_time(chrono::NaiveTime::MIN));
    let first = year(1, 1, 1).unwrap_or(NaiveDateTime::MIN);
    let end = year(10_000, 1, 1).unwrap_or(NaiveDateTime::MAX);
    from_micros(local.clamp(to_micros(first), to_micros(end) - 1))
}

/// A bucket as people name it: its start, `2024-03-01` or `2024-03-01T06:00:00.000`, or `all`.
pub fn bucket_text(bucket: Option<Bounds>) -> String {
    match bucket {
        None => "all".to_owned(),
        Some(bucket) => {
            let text = format_local(bucket.start);
            text.strip_suffix("T00:00:00.000").unwrap_or(&text).to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{Zone, format_local, utc_to_local};

    fn at(text: &str) -> i64 {
        let text = if text.len() == 10 { format!("{text}T00:00:00") } else { text.to_owned() };
        to_micros(text.parse().expect("a timestamp"))
    }

    #[track_caller]
    fn check_buckets(granularity: Granularity, first: &str, last: &str, expected: &[&str]) {
        let found = buckets(granularity, at(first), at(last), 1_000).expect("few buckets");
        let names: Vec<String> = found.iter().map(|bucket| digits(granularity, *bucket)).collect();
        assert_eq!(names, expected, "{granularity} {first} {last}");
        assert!(found.windows(2).all(|pair| pair[0].end == pair[1].start), "without gaps");
        assert!(found.iter().all(|bucket| *bucket == bucket_of(granularity, bucket.end - 1)), "whole");
    }

    #[test]
    fn every_bucket_that_intersects_is_listed() {
        use Granularity::*;
        check_buckets(
            Hour,
            "2024-02-29T22:59:59",
            "2024-03-01T01:00:00",
            &["2024022922", "2024022923", "2024030100", "2024030101"],
        );
        check_buckets(Day, "2024-02-28T23:00:00", "2024-03-01", &["20240228", "20240229", "20240301"]);
        check_buckets(Week, "2023-11-19", "2023-11-20", &["20231113", "20231120"]);
        check_buckets(Month, "2023-12-31", "2024-02-01", &["20231201", "20240101", "20240201"]);
        check_buckets(Quarter, "2023-12-31", "2024-05-01", &["20231001", "20240101", "20240401"]);
        check_buckets(Year, "1968-05-01", "1970-01-01", &["19680101", "19690101", "19700101"]);
        check_buckets(Minute, "2024-01-01T00:00:59", "2024-01-01T00:01:00", &["202401010000", "202401010001"]);
        check_buckets(Second, "2024-01-01T23:59:59.5", "2024-01-02T00:00:00", &["20240101235959", "20240102000000"]);
    }

    #[test]
    fn one_instant_is_one_bucket_and_a_reversed_range_none() {
        check_buckets(Granularity::Month, "2024-02-01", "2024-02-01", &["20240201"]);
        check_buckets(Granularity::Month, "2024-02-02", "2024-02-01", &[]);
    }

    #[test]
    fn counting_agrees_with_walking() {
        let (first, last) = (at("1999-11-15T13:14:15"), at("2001-04-05T06:07:08"));
        for granularity in Granularity::ALL.into_iter().filter(|g| *g > Granularity::Second) {
            let found = buckets(granularity, first, last, usize::MAX).expect("no limit");
            assert_eq!(found.len(), count_buckets(granularity, clamp(first), clamp(last)), "{granularity}");
            assert!(found[0].start <= first && first < found[0].end);
            let end = found[found.len() - 1];
            assert!(end.start <= last && last < end.end);
        }
    }

    #[test]
    fn too_many_buckets_are_refused_with_their_number() {
        let years = buckets(Granularity::Second, at("2000-01-01"), at("2000-12-31T23:59:59"), 1_000);
        assert_eq!(years, Err(TooManyBuckets { count: 366 * 86_400, max: 1_000 }));
        assert!(buckets(Granularity::Day, at("2024-01-01"), at("2024-01-10"), 10).is_ok());
        assert!(buckets(Granularity::Day, at("2024-01-01"), at("2024-01-11"), 10).is_err());
    }

    #[test]
    fn times_beyond_the_calendar_are_clamped() {
        for granularity in Granularity::ALL {
            assert!(buckets(granularity, i64::MIN, i64::MAX, 40_000).is_ok() || granularity < Granularity::Quarter);
            let (least, greatest) = (bucket_of(granularity, i64::MIN), bucket_of(granularity, i64::MAX));
            assert!(least.start < least.end && greatest.start < greatest.end, "{granularity}");
        }
        assert_eq!(format_local(bucket_of(Granularity::Year, i64::MAX).start), "9999-01-01T00:00:00.000");
    }

    #[test]
    fn local_days_are_whole_where_clocks_change() {
        let zone: Zone = "America/New_York".parse().expect("a zone");
        // The night of 2024-11-03 has its hour from 1 to 2 twice; both instants lie in one local hour.
        let twice = [at("2024-11-03T05:30:00"), at("2024-11-03T06:30:00")].map(|utc| utc_to_local(utc, zone));
        assert_eq!(twice[0], twice[1]);
        // The instants 2024-03-10 .. 2024-03-11 of New York are 23 hours and one local day.
        let (first, last) = (at("2024-03-10T05:00:00"), at("2024-03-11T03:59:59"));
        let days = buckets(Granularity::Day, utc_to_local(first, zone), utc_to_local(last, zone), 10).expect("few");
        assert_eq!(days, [Bounds { start: at("2024-03-10"), end: at("2024-03-11") }]);
        // Before the zone's midnight it is still the day before.
        let day = bucket_of(Granularity::Day, utc_to_local(at("2024-03-10T04:59:59"), zone));
        assert_eq!(digits(Granularity::Day, day), "20240309");
    }

    /// Digits of the partitions that a job's range selects among those of the data `first ..= last`.
    #[track_caller]
    fn check_selection(granularity: Granularity, data: [&str; 2], range: [&str; 2], expected: &[&str]) {
        let found = buckets(granularity, at(data[0]), at(data[1]), 1_000).expect("few buckets");
        let range = (at(range[0]), at(range[1]));
        let selected: Vec<String> = found
            .iter()
            .filter(|bucket| is_selected(Some(**bucket), Some(range)))
            .map(|bucket| digits(granularity, *bucket))
            .collect();
        assert_eq!(selected, expected);
    }

    const THREE_MONTHS: [&str; 2] = ["2020-01-01", "2020-03-31T23:00:00"];

    #[test]
    fn a_range_that_ends_on_the_first_instant_of_a_month_selects_it() {
        let selected = ["20200101", "20200201"];
        check_selection(Granularity::Month, THREE_MONTHS, ["2020-01-01", "2020-02-01"], &selected);
    }

    #[test]
    fn a_range_within_a_month_selects_that_month() {
        check_selection(Granularity::Month, THREE_MONTHS, ["2020-01-01", "2020-01-31"], &["20200101"]);
    }

    #[test]
    fn a_range_before_the_data_of_its_first_month_selects_the_month() {
        let data = ["2020-01-15", "2020-03-31"];
        check_selection(Granularity::Month, data, ["2020-01-01", "2020-01-10"], &["20200101"]);
    }

    #[test]
    fn a_range_beyond_both_ends_selects_every_partition() {
        let selected = ["20200101", "20200201", "20200301"];
        check_selection(Granularity::Month, THREE_MONTHS, ["2010-01-01", "2030-01-01"], &selected);
    }

    #[test]
    fn a_range_inside_a_day_selects_the_day() {
        let range = ["2020-02-02T06:00:00", "2020-02-02T18:00:00"];
        check_selection(Granularity::Day, THREE_MONTHS, range, &["20200202"]);
    }

    #[test]
    fn a_range_of_dates_selects_both_end_days() {
        let selected = ["20200101", "20200102", "20200103"];
        check_selection(Granularity::Day, THREE_MONTHS, ["2020-01-01", "2020-01-03"], &selected);
    }

    #[test]
    fn a_range_of_one_date_selects_only_the_first_hour() {
        let data = ["2020-01-01", "2020-01-02T12:00:00"];
        check_selection(Granularity::Hour, data, ["2020-01-01", "2020-01-01"], &["2020010100"]);
    }

    #[test]
    fn a_whole_day_selects_its_24_hours() {
        let found = buckets(Granularity::Hour, at("2019-12-31"), at("2020-01-02"), 100).expect("few");
        let range = Some((at("2020-01-01"), at("2020-01-01T23:59:59.999")));
        assert_eq!(found.iter().filter(|bucket| is_selected(Some(**bucket), range)).count(), 24);
    }

    #[test]
    fn a_range_after_the_last_row_selects_its_month_as_partitions_are_whole() {
        // Deviation [D] of §17.3: Cube clips the partition at the last row and selects nothing.
        let data = ["2020-01-01", "2020-01-15T12:00:00"];
        check_selection(Granularity::Month, data, ["2020-01-20", "2020-01-31"], &["20200101"]);
    }

    #[test]
    fn a_range_that_starts_after_the_last_millisecond_does_not_select() {
        let january = Some(bucket_of(Granularity::Month, at("2020-01-01")));
        assert!(is_selected(january, Some((at("2020-01-31T23:59:59.999"), i64::MAX))));
        assert!(!is_selected(january, Some((at("2020-02-01"), i64::MAX))));
    }

    #[test]
    fn an_unpartitioned_rollup_is_always_selected() {
        assert!(is_selected(None, Some((at("1990-01-01"), at("1990-01-02")))));
        assert!(is_selected(None, Some((at("1990-01-02"), at("1990-01-01")))));
        assert!(is_selected(None, None));
    }

    #[test]
    fn a_reversed_range_selects_nothing() {
        check_selection(Granularity::Month, THREE_MONTHS, ["2020-02-10", "2020-02-01"], &[]);
        check_selection(Granularity::Month, THREE_MONTHS, ["2030-01-01", "2010-01-01"], &[]);
    }
}
