//! Time: granularities, half-open ranges, time zones, and the one clock.
//!
//! Instants are UTC microseconds. "Local" values are wall-clock times in some zone, also kept as
//! microseconds, of a timestamp without zone; the type [`TimeRange`] is used for both and the field
//! that holds it says which.

use std::fmt;

use chrono::{DateTime, Datelike, Duration, LocalResult, NaiveDate, NaiveDateTime, TimeZone as _, Timelike, Utc};

/// An IANA time zone.
pub type Zone = chrono_tz::Tz;

/// The standard granularities, finest first. Weeks are ISO weeks (Monday).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Granularity {
    /// One second.
    Second,
    /// One minute.
    Minute,
    /// One hour.
    Hour,
    /// One calendar day.
    Day,
    /// One ISO week, Monday first.
    Week,
    /// One calendar month.
    Month,
    /// One calendar quarter.
    Quarter,
    /// One calendar year.
    Year,
}

impl Granularity {
    /// All of them, finest first.
    pub const ALL: [Self; 8] =
        [Self::Second, Self::Minute, Self::Hour, Self::Day, Self::Week, Self::Month, Self::Quarter, Self::Year];

    /// The lower-case word; also the unit name of SQL's `date_trunc`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Quarter => "quarter",
            Self::Year => "year",
        }
    }

    /// Reads the word, without regard to case (`http-api.md` §17 row 5).
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|g| g.as_str().eq_ignore_ascii_case(text))
    }

    /// Whether buckets of `self` can be added up to buckets of `coarser`: the lattice of
    /// `pre-aggregations.md` §4.4 (weeks do not add up to months).
    pub fn serves(self, coarser: Self) -> bool {
        self == coarser || (self < coarser && self != Self::Week)
    }

    /// Start of the bucket that holds `local`.
    pub fn truncate(self, local: NaiveDateTime) -> NaiveDateTime {
        let date = local.date();
        let midnight = |d: NaiveDate| d.and_time(chrono::NaiveTime::MIN);
        let first = |d: NaiveDate, month: u32| NaiveDate::from_ymd_opt(d.year(), month, 1).unwrap_or(d);
        match self {
            Self::Second => local.with_nanosecond(0).unwrap_or(local),
            Self::Minute => local.with_nanosecond(0).and_then(|t| t.with_second(0)).unwrap_or(local),
            Self::Hour => midnight(date) + Duration::hours(i64::from(local.hour())),
            Self::Day => midnight(date),
            Self::Week => midnight(date - Duration::days(i64::from(date.weekday().num_days_from_monday()))),
            Self::Month => midnight(first(date, date.month())),
            Self::Quarter => midnight(first(date, (date.month0() / 3) * 3 + 1)),
            Self::Year => midnight(first(date, 1)),
        }
    }

    /// Start of the bucket after the one that holds `local`.
    pub fn next(self, local: NaiveDateTime) -> NaiveDateTime {
        let start = self.truncate(local);
        let months = |n: u32| start.checked_add_months(chrono::Months::new(n)).unwrap_or(NaiveDateTime::MAX);
        let plus = |d: Duration| start.checked_add_signed(d).unwrap_or(NaiveDateTime::MAX);
        match self {
            Self::Second => plus(Duration::seconds(1)),
            Self::Minute => plus(Duration::minutes(1)),
            Self::Hour => plus(Duration::hours(1)),
            Self::Day => plus(Duration::days(1)),
            Self::Week => plus(Duration::weeks(1)),
            Self::Month => months(1),
            Self::Quarter => months(3),
            Self::Year => months(12),
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A half-open range `start <= t < end` in microseconds since 1970-01-01T00:00:00.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimeRange {
    /// First microsecond inside.
    pub start: i64,
    /// First microsecond after.
    pub end: i64,
}

impl TimeRange {
    /// Whether some instant lies in both.
    pub fn intersects(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Whether all of `other` lies inside.
    pub fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// What lies in both; an empty range when nothing does.
    pub fn intersection(self, other: Self) -> Self {
        let start = self.start.max(other.start);
        Self { start, end: self.end.min(other.end).max(start) }
    }

    /// Whether nothing lies inside (also for a reversed range).
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }
}

/// Microseconds of a timestamp without zone.
pub fn to_micros(t: NaiveDateTime) -> i64 {
    t.and_utc().timestamp_micros()
}

/// The timestamp of so many microseconds; clamped to the calendar of `chrono`.
pub fn from_micros(micros: i64) -> NaiveDateTime {
    DateTime::from_timestamp_micros(micros)
        .map_or(if micros < 0 { NaiveDateTime::MIN } else { NaiveDateTime::MAX }, |t| t.naive_utc())
}

/// Local wall clock to the UTC instant, both in microseconds.
///
/// Ambiguous times (clocks set back) take the earlier instant, times that do not exist (clocks set
/// forward) are shifted forward by the gap (`data-model.md` §16.1, target).
pub fn local_to_utc(local: i64, zone: Zone) -> i64 {
    if zone == Zone::UTC {
        return local;
    }
    let naive = from_micros(local);
    match zone.from_local_datetime(&naive) {
        LocalResult::Single(t) | LocalResult::Ambiguous(t, _) => t.timestamp_micros(),
        LocalResult::None => {
            // In a gap the offset from before it maps the wall clock to the shifted-forward instant.
            let before = naive.checked_sub_signed(Duration::days(1)).unwrap_or(naive);
            match zone.from_local_datetime(&before) {
                LocalResult::Single(t) | LocalResult::Ambiguous(t, _) => {
                    let offset = to_micros(t.naive_local()) - t.timestamp_micros();
                    local - offset
                }
                LocalResult::None => local,
            }
        }
    }
}

/// UTC instant to local wall clock, both in microseconds.
pub fn utc_to_local(utc: i64, zone: Zone) -> i64 {
    if zone == Zone::UTC {
        return utc;
    }
    to_micros(zone.from_utc_datetime(&from_micros(utc)).naive_local())
}

/// `YYYY-MM-DDTHH:mm:ss.SSS`, the wire form of local times (`http-api.md` §5.13); truncated to milliseconds.
pub fn format_local(micros: i64) -> String {
    from_micros(micros).format("%Y-%m-%dT%H:%M:%S%.3f").to_string()
}

/// Where "now" comes from; tests pass a fixed one.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// The machine's clock.
    System,
    /// Always the same instant, in UTC microseconds.
    Fixed(i64),
}

impl Clock {
    /// UTC microseconds.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    pub fn now(self) -> i64 {
        match self {
            Self::System => Utc::now().timestamp_micros(),
            Self::Fixed(micros) => micros,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        to_micros(text.parse().expect("a timestamp"))
    }

    #[track_caller]
    fn check_bucket(granularity: Granularity, text: &str, start: &str, next: &str) {
        let t = from_micros(at(text));
        assert_eq!(to_micros(granularity.truncate(t)), at(start), "{granularity} start of {text}");
        assert_eq!(to_micros(granularity.next(t)), at(next), "{granularity} after {text}");
    }

    #[test]
    fn buckets_start_and_end_where_calendars_say() {
        use Granularity::*;
        check_bucket(Second, "2024-02-29T13:14:15.5", "2024-02-29T13:14:15", "2024-02-29T13:14:16");
        check_bucket(Minute, "2024-02-29T13:14:15", "2024-02-29T13:14:00", "2024-02-29T13:15:00");
        check_bucket(Hour, "2024-02-29T23:14:15", "2024-02-29T23:00:00", "2024-03-01T00:00:00");
        check_bucket(Day, "2024-02-29T23:14:15", "2024-02-29T00:00:00", "2024-03-01T00:00:00");
        check_bucket(Week, "2024-03-03T23:14:15", "2024-02-26T00:00:00", "2024-03-04T00:00:00");
        check_bucket(Month, "2024-12-31T23:14:15", "2024-12-01T00:00:00", "2025-01-01T00:00:00");
        check_bucket(Quarter, "2024-05-31T23:14:15", "2024-04-01T00:00:00", "2024-07-01T00:00:00");
        check_bucket(Year, "1969-05-31T23:14:15", "1969-01-01T00:00:00", "1970-01-01T00:00:00");
    }

    #[test]
    fn weeks_serve_only_weeks() {
        assert!(Granularity::Week.serves(Granularity::Week));
        assert!(!Granularity::Week.serves(Granularity::Month));
        assert!(!Granularity::Week.serves(Granularity::Year));
        assert!(Granularity::Day.serves(Granularity::Week));
        assert!(Granularity::Month.serves(Granularity::Year));
        assert!(!Granularity::Day.serves(Granularity::Hour));
    }

    #[track_caller]
    fn check_zone(zone: &str, local: &str, utc: &str) {
        let zone: Zone = zone.parse().expect("a zone");
        assert_eq!(format_local(local_to_utc(at(local), zone)), format!("{utc}.000"), "{local} in {zone}");
    }

    #[test]
    fn clock_changes_take_the_earlier_or_the_later_side() {
        check_zone("America/Los_Angeles", "2024-01-01T00:00:00", "2024-01-01T08:00:00");
        check_zone("America/Los_Angeles", "2024-03-10T02:30:00", "2024-03-10T10:30:00");
        check_zone("America/Los_Angeles", "2024-03-10T03:00:00", "2024-03-10T10:00:00");
        check_zone("America/Los_Angeles", "2024-11-03T01:30:00", "2024-11-03T08:30:00");
        check_zone("Europe/Berlin", "2024-03-31T02:30:00", "2024-03-31T01:30:00");
        check_zone("Asia/Kolkata", "2024-03-31T00:00:00", "2024-03-30T18:30:00");
        let berlin: Zone = "Europe/Berlin".parse().expect("a zone");
        assert_eq!(utc_to_local(at("2024-10-27T00:30:00"), berlin), at("2024-10-27T02:30:00"));
        assert_eq!(utc_to_local(at("2024-10-27T01:30:00"), berlin), at("2024-10-27T02:30:00"));
    }
}
