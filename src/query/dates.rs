//! Dates and date words of requests → wall-clock ranges (`http-api.md` §5.4).
//!
//! Three forms: a list of bounds ([`parse_bounds`]), one text with words such as `last week`
//! ([`parse_text`]), and a single stamp ([`parse_stamp`]). All results are wall-clock times of the
//! query's zone; "now" is an argument.

use chrono::{Datelike, Duration, Months, NaiveDate, NaiveDateTime, NaiveTime, Weekday};

use crate::time::{Granularity, TimeRange, format_local, to_micros};

/// Longest text that is looked at; longer ones are no dates.
const MAX_TEXT_BYTES: usize = 200;

/// A text that is no date.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Can't parse date: '{text}'")]
pub struct UnparsableDate {
    /// What was given.
    pub text: String,
}

impl UnparsableDate {
    fn new(text: &str) -> Self {
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

    fn of(unit: Granularity, from: NaiveDateTime, to: NaiveDateTime) -> Self {
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

/// Reads the text form: date words, a date, or two dates. The first pattern of §5.4 that is found
/// anywhere in the text wins.
///
/// # Errors
/// Nothing in it is a date; the text is quoted in lower case.
pub fn parse_text(text: &str, now: NaiveDateTime) -> Result<Span, UnparsableDate> {
    let lower = text.to_lowercase();
    let error = || UnparsableDate::new(&lower);
    if lower.len() > MAX_TEXT_BYTES {
        return Err(error());
    }
    let words = lower.split_whitespace().collect::<Vec<_>>().join(" ");
    let span = match find_pattern(&words, now) {
        Some(span) => span,
        None => find_points(&words, now),
    };
    span.filter(|span| in_calendar(span.first) && in_calendar(span.last)).ok_or_else(error)
}

/// Years of four digits only: everything else has no place on the wire.
fn in_calendar(t: NaiveDateTime) -> bool {
    (1..=9999).contains(&t.year())
}

/// Patterns 1 to 3; the inner option is none for one that matches but leaves the calendar.
fn find_pattern(words: &str, now: NaiveDateTime) -> Option<Option<Span>> {
    if let Some((word, unit)) = find_unit(words) {
        let step = match word {
            "last" => -1,
            "next" => 1,
            _ => 0,
        };
        return Some(shift(unit.truncate(now), unit, step).map(|at| Span::of(unit, at, at)));
    }
    if let Some((word, count, unit)) = find_counted(words) {
        let (from, to) = if word == "last" { (-count, -1) } else { (1, count) };
        return Some(shift(now, unit, from).zip(shift(now, unit, to)).map(|(from, to)| Span::of(unit, from, to)));
    }
    let days = [("today", 0), ("yesterday", -1), ("tomorrow", 1)];
    let (_, days) = days.into_iter().find(|(word, _)| words.contains(word))?;
    Some(shift(now, Granularity::Day, days).map(|day| Span::of(Granularity::Day, day, day)))
}

/// Pattern 1: `this|last|next UNIT`, leftmost.
fn find_unit(words: &str) -> Option<(&'static str, Granularity)> {
    positions(words, &["this ", "last ", "next "]).find_map(|(word, rest)| Some((word, leading_unit(rest)?)))
}

/// Pattern 2: `last|next N UNIT`, leftmost.
fn find_counted(words: &str) -> Option<(&'static str, i64, Granularity)> {
    positions(words, &["last ", "next "]).find_map(|(word, rest)| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: i64 = rest[..digits].parse().ok()?;
        Some((word, count, leading_unit(rest[digits..].strip_prefix(' ')?)?))
    })
}

/// Every place where one of `keys` stands, with the text after it, leftmost first.
fn positions<'a>(text: &'a str, keys: &'static [&'static str]) -> impl Iterator<Item = (&'static str, &'a str)> {
    text.char_indices().filter_map(move |(at, _)| {
        let key = keys.iter().find(|key| text[at..].starts_with(**key))?;
        Some((key.trim_end(), &text[at + key.len()..]))
    })
}

fn leading_unit(text: &str) -> Option<Granularity> {
    Granularity::ALL.into_iter().find(|unit| text.starts_with(unit.as_str()))
}

/// A whole word: `day` or `days`.
fn unit_word(word: &str) -> Option<Granularity> {
    Granularity::parse(word.strip_suffix('s').unwrap_or(word))
}

/// `count` units later; none when that leaves the calendar.
fn shift(t: NaiveDateTime, unit: Granularity, count: i64) -> Option<NaiveDateTime> {
    let months = |each: i64| -> Option<NaiveDateTime> {
        let months = count.checked_mul(each)?;
        let distance = Months::new(u32::try_from(months.unsigned_abs()).ok()?);
        if months < 0 { t.checked_sub_months(distance) } else { t.checked_add_months(distance) }
    };
    let plus = |duration: Option<Duration>| t.checked_add_signed(duration?);
    match unit {
        Granularity::Second => plus(Duration::try_seconds(count)),
        Granularity::Minute => plus(Duration::try_minutes(count)),
        Granularity::Hour => plus(Duration::try_hours(count)),
        Granularity::Day => plus(Duration::try_days(count)),
        Granularity::Week => plus(Duration::try_weeks(count)),
        Granularity::Month => months(1),
        Granularity::Quarter => months(3),
        Granularity::Year => months(12),
    }
}

/// Patterns 4 and 5: one or two points in time, rounded to the unit that the text names, else to days.
fn find_points(words: &str, now: NaiveDateTime) -> Option<Span> {
    let unit = [Granularity::Second, Granularity::Minute, Granularity::Hour]
        .into_iter()
        .find(|unit| words.contains(unit.as_str()))
        .unwrap_or(Granularity::Day);
    let (from, to) = match words.strip_prefix("from ").and_then(|rest| rest.rsplit_once(" to ")) {
        Some((from, to)) if from.chars().count() <= 50 && to.chars().count() <= 50 => (from, to),
        _ => [" to ", " - ", " – "].into_iter().find_map(|by| words.split_once(by)).unwrap_or((words, words)),
    };
    Some(Span::of(unit, parse_point(from, now)?, parse_point(to, now)?))
}

/// One point in time in words or digits.
fn parse_point(text: &str, now: NaiveDateTime) -> Option<NaiveDateTime> {
    let text = text.trim();
    match text {
        "now" => return Some(now),
        "today" => return shift(now, Granularity::Day, 0),
        "yesterday" => return shift(now, Granularity::Day, -1),
        "tomorrow" => return shift(now, Granularity::Day, 1),
        _ => {}
    }
    let stamp = parse_stamp(text).filter(|stamp| stamp.absolute).map(|stamp| stamp.time);
    stamp.or_else(|| parse_distance(text, now)).or_else(|| parse_weekday(text, now)).or_else(|| parse_month_date(text))
}

/// `3 days ago`, `in 2 weeks`, `an hour from now`, `past 7 days`, `last seven days`.
fn parse_distance(text: &str, now: NaiveDateTime) -> Option<NaiveDateTime> {
    let words: Vec<&str> = text.split(' ').collect();
    let (count, unit, sign) = match words.as_slice() {
        [count, unit, "ago"] => (count, unit, -1),
        ["past" | "last", count, unit] => (count, unit, -1),
        ["in" | "next", count, unit] => (count, unit, 1),
        [count, unit, "from", "now"] => (count, unit, 1),
        _ => return None,
    };
    shift(now, unit_word(unit)?, number_word(count)?.checked_mul(sign)?)
}

fn number_word(word: &str) -> Option<i64> {
    const WORDS: [&str; 12] =
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
    match word {
        "a" | "an" => Some(1),
        _ => WORDS.iter().position(|w| *w == word).and_then(|i| i64::try_from(i + 1).ok()).or_else(|| {
            let digits = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| word.parse().ok()).flatten()
        }),
    }
}

/// A weekday is the coming one, today included; with `last` the one before.
fn parse_weekday(text: &str, now: NaiveDateTime) -> Option<NaiveDateTime> {
    let (last, name) = match text.split_once(' ') {
        Some(("last", name)) => (true, name),
        Some(("this" | "next", name)) => (false, name),
        _ => (false, text),
    };
    // The parser of `chrono` knows full names and three letters only.
    let wanted: Weekday = name.parse().ok()?;
    let ahead = i64::from(wanted.days_since(now.weekday()));
    shift(now, Granularity::Day, if last { ahead - 7 } else { ahead })
}

/// `jan 31 2024`, `january 31, 2024`, `31 jan 2024`, `march 2024` (its first day), `1/31/2024`.
fn parse_month_date(text: &str) -> Option<NaiveDateTime> {
    let words: Vec<&str> = text.split([' ', ',', '/']).filter(|word| !word.is_empty()).collect();
    let number = |word: &str| word.bytes().all(|b| b.is_ascii_digit()).then(|| word.parse::<u32>().ok()).flatten();
    let month = |word: &str| word.parse::<chrono::Month>().ok().map(|m| m.number_from_month());
    let (year, month, day) = match words.as_slice() {
        [m, year] => (year, month(m)?, 1),
        [a, b, year] if text.contains('/') => (year, number(a)?, number(b)?),
        [a, b, year] => match month(a) {
            Some(m) => (year, m, number(b)?),
            None => (year, month(b)?, number(a)?),
        },
        _ => return None,
    };
    let year = number(year).filter(|_| year.len() == 4)?;
    NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, day).map(|date| date.and_time(NaiveTime::MIN))
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

    /// Wednesday.
    fn now() -> NaiveDateTime {
        "2024-05-15T10:20:00".parse().expect("a timestamp")
    }

    #[track_caller]
    fn check(text: &str, first: &str, last: &str) {
        let [from, to] = parse_text(text, now()).expect(text).echo();
        let pad = |t: &str, rest: &str| if t.len() == 10 { format!("{t}T{rest}") } else { t.to_owned() };
        assert_eq!((from, to), (pad(first, "00:00:00.000"), pad(last, "23:59:59.999")), "{text}");
    }

    #[track_caller]
    fn check_fails(text: &str) {
        let error = parse_text(text, now()).expect_err(text);
        assert_eq!(error.to_string(), format!("Can't parse date: '{}'", text.to_lowercase()));
    }

    #[test]
    fn words_of_the_table_resolve() {
        check("today", "2024-05-15", "2024-05-15");
        check("this week", "2024-05-13", "2024-05-19");
        check("last week", "2024-05-06", "2024-05-12");
        check("last 7 days", "2024-05-08", "2024-05-14");
        check("last 2 quarters", "2023-10-01", "2024-03-31");
        check("next month", "2024-06-01", "2024-06-30");
        check("last 1440 minutes", "2024-05-14T10:20:00.000", "2024-05-15T10:19:59.999");
        check("from 7 days ago to now", "2024-05-08", "2024-05-15");
        check("from 1 hour ago to now", "2024-05-15T09:00:00.000", "2024-05-15T10:59:59.999");
        check("2024-02-01", "2024-02-01", "2024-02-01");
        check("March 2024", "2024-03-01", "2024-03-01");
        check("past 7 days", "2024-05-08", "2024-05-08");
        check("last seven days", "2024-05-08", "2024-05-08");
        check("2 hours ago", "2024-05-15T08:00:00.000", "2024-05-15T08:59:59.999");
        check("2 days ago", "2024-05-13", "2024-05-13");
        check("last weekend", "2024-05-06", "2024-05-12");
        check("this quarter to date", "2024-04-01", "2024-06-30");
        check("in the last 7 days please", "2024-05-08", "2024-05-14");
        check("last 0 days", "2024-05-15", "2024-05-14");
        check("now", "2024-05-15", "2024-05-15");
        check("2024-01-01T10:20:30Z", "2024-01-01", "2024-01-01");
        check("2024-02-01 to 2024-03-01", "2024-02-01", "2024-03-01");
        check("Jan 1 2024 - Jan 31 2024", "2024-01-01", "2024-01-31");
    }

    #[test]
    fn case_blanks_and_plurals_do_not_matter() {
        check("LAST   Week", "2024-05-06", "2024-05-12");
        check("  next 2 Years ", "2025-01-01", "2026-12-31");
        check("last 3 months", "2024-02-01", "2024-04-30");
    }

    #[test]
    fn a_day_word_swallows_ranges() {
        check("from yesterday to tomorrow", "2024-05-14", "2024-05-14");
        check("from 3 days ago to yesterday", "2024-05-14", "2024-05-14");
        check("yesterday to today", "2024-05-15", "2024-05-15");
    }

    #[test]
    fn weekdays_are_the_coming_ones() {
        check("wednesday", "2024-05-15", "2024-05-15");
        check("monday", "2024-05-20", "2024-05-20");
        check("last monday", "2024-05-13", "2024-05-13");
    }

    #[test]
    fn other_words_are_refused() {
        for text in
            ["garbage", "2024", "2024-01", "Q1 2024", "week", "previous month", "ytd", "this decade", "", "2024-02-30"]
        {
            check_fails(text);
        }
        check_fails("last 99999999999999999999 days");
        check_fails("last 9999999999 years");
        check_fails("9999999999999 seconds ago");
    }

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
