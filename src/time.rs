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

/// A length of calendar time: months, then exact microseconds. `1 quarter` is three months, `1 week` seven days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Interval {
    /// Calendar months, maybe negative.
    pub months: i64,
    /// Exact microseconds, maybe negative.
    pub micros: i64,
}

/// Microseconds of a day.
pub const DAY_MICROS: i64 = 86_400_000_000;

impl Interval {
    /// Nothing.
    pub const ZERO: Self = Self { months: 0, micros: 0 };

    /// One bucket of a standard granularity.
    pub fn of(granularity: Granularity) -> Self {
        let micros = |micros| Self { months: 0, micros };
        let months = |months| Self { months, micros: 0 };
        match granularity {
            Granularity::Second => micros(1_000_000),
            Granularity::Minute => micros(60_000_000),
            Granularity::Hour => micros(3_600_000_000),
            Granularity::Day => micros(DAY_MICROS),
            Granularity::Week => micros(7 * DAY_MICROS),
            Granularity::Month => months(1),
            Granularity::Quarter => months(3),
            Granularity::Year => months(12),
        }
    }

    /// Reads `N unit` repeated (`1 month 15 days`, `-1 day`), units second to year, plural allowed
    /// (`data-model.md` §4.3). The smallest unit named comes with it.
    pub fn parse(text: &str) -> Option<(Self, Granularity)> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let mut sum = Self::ZERO;
        let mut smallest = Granularity::Year;
        if words.is_empty() || words.len() % 2 == 1 || words.len() > 16 {
            return None;
        }
        for pair in words.chunks_exact(2) {
            let [number, unit] = pair else { return None };
            let digits = number.strip_prefix('-').unwrap_or(number);
            if digits.is_empty() || digits.len() > 9 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            let count: i64 = number.parse().ok()?;
            let unit = Granularity::ALL.into_iter().find(|g| unit.strip_suffix('s').unwrap_or(unit) == g.as_str())?;
            let step = Self::of(unit);
            sum.months = sum.months.checked_add(step.months.checked_mul(count)?)?;
            sum.micros = sum.micros.checked_add(step.micros.checked_mul(count)?)?;
            smallest = smallest.min(unit);
        }
        Some((sum, smallest))
    }

    /// The opposite length.
    pub fn negated(self) -> Self {
        Self { months: -self.months, micros: -self.micros }
    }

    /// The moment so much later; a day that the month does not have becomes its last one. Stays in the calendar.
    pub fn after(self, local: NaiveDateTime) -> NaiveDateTime {
        let months = u32::try_from(self.months.unsigned_abs().min(u64::from(u32::MAX))).unwrap_or(u32::MAX);
        let months = chrono::Months::new(months);
        let (moved, far) = if self.months < 0 {
            (local.checked_sub_months(months), NaiveDateTime::MIN)
        } else {
            (local.checked_add_months(months), NaiveDateTime::MAX)
        };
        let moved = moved.unwrap_or(far);
        let far = if self.micros < 0 { NaiveDateTime::MIN } else { NaiveDateTime::MAX };
        moved.checked_add_signed(Duration::microseconds(self.micros)).unwrap_or(far)
    }

    /// About so many microseconds, to compare lengths and to estimate.
    pub fn approximate_micros(self) -> i64 {
        // 30.436875 days: a month of the Gregorian calendar on average.
        self.months.saturating_mul(2_629_746_000_000).saturating_add(self.micros)
    }
}

/// Buckets of one length, counted from an origin (`data-model.md` §16.4, target: calendar months, fixed origin).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bins {
    /// Length of a bucket; longer than nothing.
    pub step: Interval,
    /// Local microseconds at which a bucket starts.
    pub origin: i64,
}

impl Bins {
    /// The buckets of a standard granularity.
    pub fn of(granularity: Granularity) -> Self {
        // The epoch was a Thursday; ISO weeks start on Monday.
        let origin = if granularity == Granularity::Week { 4 * DAY_MICROS } else { 0 };
        Self { step: Interval::of(granularity), origin }
    }

    /// Start of the bucket of this number, counted from the origin.
    fn start(self, number: i64) -> NaiveDateTime {
        let step = Interval {
            months: self.step.months.saturating_mul(number),
            micros: self.step.micros.saturating_mul(number),
        };
        step.after(from_micros(self.origin))
    }

    fn number(self, local: NaiveDateTime) -> i64 {
        let passed = to_micros(local).saturating_sub(self.origin);
        let mut number = passed.div_euclid(self.step.approximate_micros().max(1));
        while self.start(number) > local && number > i64::MIN / 2 {
            number -= 1;
        }
        while self.start(number + 1) <= local && self.start(number + 1) > self.start(number) {
            number += 1;
        }
        number
    }

    /// Start of the bucket that holds `local`.
    pub fn truncate(self, local: NaiveDateTime) -> NaiveDateTime {
        self.start(self.number(local))
    }

    /// Start of the bucket after the one that holds `local`.
    pub fn next(self, local: NaiveDateTime) -> NaiveDateTime {
        self.start(self.number(local) + 1)
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

/// Whether wall-clock times right before and at `local` are both shown twice, or both never: a border there does not
/// part instants as it parts wall-clock times.
pub fn is_within_change(local: i64, zone: Zone) -> bool {
    let odd = |micros: i64| match zone.from_local_datetime(&from_micros(micros)) {
        LocalResult::Single(_) => 0,
        LocalResult::Ambiguous(..) => 1,
        LocalResult::None => 2,
    };
    zone != Zone::UTC && odd(local) != 0 && odd(local) == odd(local - 1)
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

/// Whole microseconds; `i64::MAX` for what does not fit.
pub fn micros(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// `10 min`, or seconds where it is no whole minute: how Cube's texts say durations.
pub fn spoken_duration(length: std::time::Duration) -> String {
    let seconds = length.as_secs();
    if seconds > 0 && seconds.is_multiple_of(60) {
        format!("{} min", seconds / 60)
    } else {
        format!("{} s", length.as_secs_f64())
    }
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

    #[test]
    fn intervals_are_read_and_added_by_the_calendar() {
        let read = |text: &str| Interval::parse(text).map(|(i, unit)| (i.months, i.micros, unit));
        assert_eq!(read("1 month 15 days"), Some((1, 15 * DAY_MICROS, Granularity::Day)));
        assert_eq!(read("-2 quarters"), Some((-6, 0, Granularity::Quarter)));
        assert_eq!(read("1 year 1 week"), Some((12, 7 * DAY_MICROS, Granularity::Week)));
        for wrong in ["", "day", "1", "1 fortnight", "one day", "1.5 days", "1 day 2", "--1 day", "9999999999 days"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        let after = |text: &str, from: &str| {
            let (interval, _) = Interval::parse(text).expect("an interval");
            format_local(to_micros(interval.after(from_micros(at(from)))))
        };
        assert_eq!(after("1 month", "2024-01-31T10:00:00"), "2024-02-29T10:00:00.000");
        assert_eq!(after("-1 year", "2024-02-29T10:00:00"), "2023-02-28T10:00:00.000");
        assert_eq!(after("1 month -1 day", "2024-01-31T00:00:00"), "2024-02-28T00:00:00.000");
    }

    #[track_caller]
    fn check_bin(interval: &str, origin: &str, text: &str, start: &str, next: &str) {
        let (step, _) = Interval::parse(interval).expect("an interval");
        let bins = Bins { step, origin: at(origin) };
        let t = from_micros(at(text));
        assert_eq!(to_micros(bins.truncate(t)), at(start), "{interval} start of {text}");
        assert_eq!(to_micros(bins.next(t)), at(next), "{interval} after {text}");
    }

    #[test]
    fn bins_count_from_their_origin() {
        let day = |d: &str| format!("{d}T00:00:00");
        let check = |interval: &str, origin: &str, t: &str, start: &str, next: &str| {
            check_bin(interval, &day(origin), t, &day(start), &day(next));
        };
        check("1 year", "2024-04-01", "2025-03-31T23:59:59", "2024-04-01", "2025-04-01");
        check("1 year", "2024-04-01", "1969-03-31T23:59:59", "1968-04-01", "1969-04-01");
        check("6 months", "1995-01-01", "1996-12-31T12:00:00", "1996-07-01", "1997-01-01");
        check("1 week", "2024-01-07", "2024-01-06T12:00:00", "2023-12-31", "2024-01-07");
        check("2 weeks", "1970-01-05", "2024-01-10T00:00:00", "2024-01-08", "2024-01-22");
        check("1 month 1 day", "2024-01-01", "2024-02-01T00:00:00", "2024-01-01", "2024-02-02");
        check("1 month", "2024-01-31", "2024-03-01T00:00:00", "2024-02-29", "2024-03-31");
        check_bin(
            "15 minutes",
            "1970-01-01T00:05:00",
            "2024-01-01T00:04:59",
            "2023-12-31T23:50:00",
            "2024-01-01T00:05:00",
        );
        for granularity in Granularity::ALL {
            for text in ["1969-12-31T23:59:59", "1970-01-01T00:00:00", "2024-02-29T13:14:15", "2025-01-01T00:00:00"] {
                let t = from_micros(at(text));
                assert_eq!(Bins::of(granularity).truncate(t), granularity.truncate(t), "{granularity} {text}");
                assert_eq!(Bins::of(granularity).next(t), granularity.next(t), "{granularity} {text}");
            }
        }
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

    #[test]
    fn endless_durations_are_endless() {
        assert_eq!(micros(std::time::Duration::MAX), i64::MAX);
    }
}
