//! Dates and date words of requests → wall-clock ranges (`http-api.md` §5.4).
//!
//! Three forms: a list of bounds ([`parse_bounds`]), one text with words such as `last week`
//! ([`parse_text`], in a file of its own), and a single stamp ([`parse_stamp`]). All results are
//! wall-clock times of the query's zone; "now" is an argument.

use chrono::{Datelike, Duration, NaiveDate, NaiveDateTime, NaiveTime, Weekday};

pub use super::date_words::{Now, parse_text};
use crate::time::{Granularity, TimeRange, format_local, to_micros};

/// Longest text that is looked at; longer ones are no dates.
pub(super) const MAX_TEXT_BYTES: usize = 200;

/// A text that is no date.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Can't parse date: '{text}'")]
pub struct UnparsableDate {
    /// What was given.
    pub text: String,
}

impl UnparsableDate {
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.chars().take(MAX_TEXT_BYTES).collect() }
    }
}

/// A closed range of wall-clock times with millisecond precision; reversed ends are kept as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First moment inside.
    pub first: NaiveDateTime,
    /// Last millisecond inside.
    pub last: NaiveDateTime,
}

impl Span {
    /// Half-open microseconds: the whole last millisecond belongs to it.
    pub fn range(self) -> TimeRange {
        TimeRange { start: to_micros(self.first), end: to_micros(self.last).saturating_add(1000) }
    }

    /// Both ends as they are echoed.
    pub fn echo(self) -> [String; 2] {
        [format_local(to_micros(self.first)), format_local(to_micros(self.last))]
    }

    /// Whether it ends before it begins.
    pub fn is_reversed(self) -> bool {
        self.first > self.last
    }

    pub(super) fn of(unit: Granularity, from: NaiveDateTime, to: NaiveDateTime) -> Self {
        Self { first: unit.truncate(from), last: last_millisecond(unit, to) }
    }
}

fn last_millisecond(unit: Granularity, t: NaiveDateTime) -> NaiveDateTime {
    unit.next(t) - Duration::milliseconds(1)
}

/// A date with or without a time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The moment, cut to milliseconds; one with an offset is shifted to UTC and then read as wall clock.
    pub time: NaiveDateTime,
    /// It was written `YYYY-MM-DD`.
    pub whole_day: bool,
    /// It names a full date `YYYY-MM-DD`, with or without time.
    pub absolute: bool,
}

impl Stamp {
    /// The last millisecond it stands for as the end of a range.
    pub fn last(self) -> NaiveDateTime {
        if self.whole_day { last_millisecond(Granularity::Day, self.time) } else { self.time }
    }
}

/// Reads the list form: one or two stamps, both inclusive.
///
/// # Errors
/// A text is no date. Words such as `today` are not understood here.
pub fn parse_bounds(texts: &[String]) -> Result<Span, UnparsableDate> {
    let stamp = |text: &String| parse_stamp(text).ok_or_else(|| UnparsableDate::new(text));
    let (Some(first), Some(last)) = (texts.first(), texts.get(1).or(texts.first())) else {
        return Err(UnparsableDate::new(""));
    };
    Ok(Span { first: stamp(first)?.time, last: stamp(last)?.last() })
}

/// Years of four digits only: everything else has no place on the wire.
pub(super) fn in_calendar(t: NaiveDateTime) -> bool {
    (1..=9999).contains(&t.year())
}

/// Reads `YYYY[-MM[-DD]]`, `YYYYMMDD` or `YYYY-Www`, each with an optional time and offset.
pub fn parse_stamp(text: &str) -> Option<Stamp> {
    let text = text.trim();
    if text.len() > 64 || !text.is_ascii() {
        return None;
    }
    let (date_text, time_text) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let date = parse_date(date_text)?;
    let iso = date_text.len() == 10 && date_text.as_bytes()[4] == b'-';
    let time = match time_text {
        None => date.and_time(NaiveTime::MIN),
        Some(time) => parse_time(date, time.trim_start())?,
    };
    in_calendar(time).then_some(Stamp { time, whole_day: iso && time_text.is_none(), absolute: iso })
}

fn digits(text: &str, lengths: std::ops::RangeInclusive<usize>) -> Option<u32> {
    let valid = lengths.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    valid.then(|| text.parse().ok()).flatten()
}

fn parse_date(text: &str) -> Option<NaiveDate> {
    let parts: Vec<&str> = text.split('-').collect();
    if let [packed] = parts.as_slice()
        && packed.len() == 8
    {
        digits(packed, 8..=8)?;
        return NaiveDate::from_ymd_opt(
            packed[..4].parse().ok()?,
            packed[4..6].parse().ok()?,
            packed[6..].parse().ok()?,
        );
    }
    let year = i32::try_from(digits(parts.first()?, 4..=4)?).ok()?;
    match parts.as_slice() {
        [_] => NaiveDate::from_ymd_opt(year, 1, 1),
        [_, week] if week.starts_with(['W', 'w']) => {
            NaiveDate::from_isoywd_opt(year, digits(&week[1..], 2..=2)?, Weekday::Mon)
        }
        [_, month] => NaiveDate::from_ymd_opt(year, digits(month, 2..=2)?, 1),
        [_, month, day] => NaiveDate::from_ymd_opt(year, digits(month, 1..=2)?, digits(day, 1..=2)?),
        _ => None,
    }
}

/// `HH[:mm[:ss[.f…]]][Z|±HH[[:]mm]]`; 24:00 is the next midnight, digits after milliseconds are cut.
fn parse_time(date: NaiveDate, text: &str) -> Option<NaiveDateTime> {
    let (clock, offset_minutes) = match text.find(['Z', 'z', '+', '-']) {
        None => (text, 0),
        Some(at) => (text[..at].trim_end(), parse_offset(&text[at..])?),
    };
    let (clock, fraction) = clock.split_once('.').map_or((clock, None), |(clock, fraction)| (clock, Some(fraction)));
    let parts: Vec<&str> = clock.split(':').collect();
    let part = |i: usize| parts.get(i).map_or(Some(0), |text| digits(text, 2..=2));
    let (hour, minute, second) = (part(0)?, part(1)?, part(2)?);
    if parts.len() > 3 || (fraction.is_some() && parts.len() < 3) {
        return None;
    }
    let milliseconds = match fraction {
        None => 0,
        Some(fraction) => {
            let valid = !fraction.is_empty() && fraction.bytes().all(|b| b.is_ascii_digit());
            valid.then(|| digits(&format!("{fraction:0<3}")[..3], 3..=3)).flatten()?
        }
    };
    let local = if (hour, minute, second, milliseconds) == (24, 0, 0, 0) {
        date.succ_opt()?.and_time(NaiveTime::MIN)
    } else {
        date.and_hms_milli_opt(hour, minute, second, milliseconds)?
    };
    local.checked_sub_signed(Duration::minutes(offset_minutes))
}

fn parse_offset(text: &str) -> Option<i64> {
    if text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = match &text[1..] {
        hh if hh.len() == 2 => (digits(hh, 2..=2)?, 0),
        hhmm if hhmm.len() == 4 => (digits(&hhmm[..2], 2..=2)?, digits(&hhmm[2..], 2..=2)?),
        other => {
            let (hh, mm) = other.split_once(':')?;
            (digits(hh, 2..=2)?, digits(mm, 2..=2)?)
        }
    };
    (hours <= 18 && minutes < 60).then(|| sign * (i64::from(hours) * 60 + i64::from(minutes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_bounds(texts: &[&str], first: &str, last: &str) {
        let texts: Vec<String> = texts.iter().map(|t| (*t).to_owned()).collect();
        let [from, to] = parse_bounds(&texts).expect("bounds").echo();
        assert_eq!((from.as_str(), to.as_str()), (first, last), "{texts:?}");
    }

    #[test]
    fn bounds_are_padded_shifted_and_cut() {
        check_bounds(&["1995-01-05"], "1995-01-05T00:00:00.000", "1995-01-05T23:59:59.999");
        check_bounds(
            &["1995-01-01T00:00:00.000", "1995-01-02T12:00:00"],
            "1995-01-01T00:00:00.000",
            "1995-01-02T12:00:00.000",
        );
        check_bounds(
            &["2024-03-01T10:00:00Z", "2024-03-01T10:00:00+02:00"],
            "2024-03-01T10:00:00.000",
            "2024-03-01T08:00:00.000",
        );
        check_bounds(
            &["2024-03-01T10:00:00.9999", "2024-03-01T24:00:00"],
            "2024-03-01T10:00:00.999",
            "2024-03-02T00:00:00.000",
        );
        check_bounds(&["2024-01", "2024"], "2024-01-01T00:00:00.000", "2024-01-01T00:00:00.000");
        check_bounds(&["2024-W05", "20240105"], "2024-01-29T00:00:00.000", "2024-01-05T00:00:00.000");
        check_bounds(&["2024-1-5", "2024-01-05 10:30"], "2024-01-05T00:00:00.000", "2024-01-05T10:30:00.000");
    }

    #[test]
    fn bounds_refuse_words_and_impossible_days() {
        for text in
            ["last week", "2024-02-30", "2024-13-01", "x", "2024-01-01T25:00", "2024-01-01T10:00+99:00", "٢٠٢٤-01-01"]
        {
            let error = parse_bounds(&[text.to_owned()]).expect_err(text);
            assert_eq!(error.to_string(), format!("Can't parse date: '{text}'"));
        }
    }

    #[test]
    fn ranges_are_half_open_and_keep_reversal() {
        let whole = parse_bounds(&["2024-01-01".into(), "2024-01-02".into()]).expect("bounds").range();
        assert_eq!(whole.end - whole.start, 2 * 86_400_000_000);
        let reversed = parse_bounds(&["2024-02-01".into(), "2024-01-01".into()]).expect("bounds").range();
        assert!(reversed.is_empty() && reversed.start > reversed.end);
    }
}
