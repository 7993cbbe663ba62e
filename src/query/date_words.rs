//! Date words of requests → wall-clock ranges: the text form of `dateRange` (`http-api.md` §5.4).

use chrono::{Datelike, Duration, Months, NaiveDate, NaiveDateTime, NaiveTime, Weekday};

use super::dates::{MAX_TEXT_BYTES, Span, UnparsableDate, in_calendar, parse_stamp};
use crate::time::{Granularity, Zone, from_micros, to_micros, utc_to_local};

/// The present moment in the zone of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    utc: i64,
    zone: Zone,
    local: NaiveDateTime,
}

impl Now {
    /// The instant `utc`, in microseconds, as the clocks of `zone` show it.
    pub fn at(utc: i64, zone: Zone) -> Self {
        Self { utc, zone, local: from_micros(utc_to_local(utc, zone)) }
    }

    /// The same wall clock, in a zone whose clocks are never changed.
    fn without_changes(self) -> Self {
        Self::at(to_micros(self.local), Zone::UTC)
    }

    /// The wall clock `count` units later; none when that leaves the calendar. Hours and shorter units are
    /// counted as they pass, also where clocks are changed; days and longer ones on the calendar.
    fn later(self, unit: Granularity, count: i64) -> Option<NaiveDateTime> {
        if unit > Granularity::Hour {
            return shift(self.local, unit, count).filter(|local| in_calendar(*local));
        }
        let utc = shift(from_micros(self.utc), unit, count).filter(|utc| in_calendar(*utc))?;
        Some(from_micros(utc_to_local(to_micros(utc), self.zone)))
    }
}

/// Reads the text form: date words, a date, or two dates. The first pattern of §5.4 that is found
/// anywhere in the text wins.
///
/// # Errors
/// Nothing in it is a date; the text is quoted in lower case.
pub fn parse_text(text: &str, now: Now) -> Result<Span, UnparsableDate> {
    let lower = text.to_lowercase();
    let error = || UnparsableDate::new(&lower);
    if lower.len() > MAX_TEXT_BYTES {
        return Err(error());
    }
    let words = lower.split_whitespace().collect::<Vec<_>>().join(" ");
    let find = |now: Now| match find_pattern(&words, now) {
        Some(span) => span,
        None => find_points(&words, now),
    };
    let mut span = find(now);
    if span.is_some_and(Span::is_reversed) {
        // In an hour that comes twice the wall clock runs back between two moments.
        span = find(now.without_changes());
    }
    span.filter(|span| in_calendar(span.first) && in_calendar(span.last)).ok_or_else(error)
}

/// Patterns 1 to 3; the inner option is none for one that matches but leaves the calendar.
fn find_pattern(words: &str, now: Now) -> Option<Option<Span>> {
    if let Some((word, unit)) = find_unit(words) {
        let step = match word {
            "last" => -1,
            "next" => 1,
            _ => 0,
        };
        return Some(now.later(unit, step).map(|at| Span::of(unit, at, at)));
    }
    if let Some((word, count, unit)) = find_counted(words) {
        let (from, to) = if word == "last" { (-count, -1) } else { (1, count) };
        let ends = now.later(unit, from).zip(now.later(unit, to));
        return Some(ends.map(|(from, to)| Span::of(unit, from, to)));
    }
    let days = [("today", 0), ("yesterday", -1), ("tomorrow", 1)];
    let (_, days) = days.into_iter().find(|(word, _)| words.contains(word))?;
    Some(now.later(Granularity::Day, days).map(|day| Span::of(Granularity::Day, day, day)))
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
fn find_points(words: &str, now: Now) -> Option<Span> {
    let unit = [Granularity::Second, Granularity::Minute, Granularity::Hour]
        .into_iter()
        .find(|unit| words.contains(unit.as_str()))
        .unwrap_or(Granularity::Day);
    let (from, to) = match words.strip_prefix("from ").and_then(|rest| rest.rsplit_once(" to ")) {
        Some((from, to)) if from.chars().count() <= 50 && to.chars().count() <= 50 => (from, to),
        _ => RANGE_WORDS.into_iter().find_map(|by| words.split_once(by)).unwrap_or((words, words)),
    };
    Some(Span::of(unit, parse_point(from, now)?, parse_point(to, now)?))
}

/// What stands between the two ends of a range.
const RANGE_WORDS: [&str; 6] = [" to ", " - ", " – ", " until ", " till ", " through "];

/// One point in time in words or digits.
fn parse_point(text: &str, now: Now) -> Option<NaiveDateTime> {
    let text = text.trim();
    match text {
        "now" => return Some(now.local),
        "today" => return now.later(Granularity::Day, 0),
        "yesterday" => return now.later(Granularity::Day, -1),
        "tomorrow" => return now.later(Granularity::Day, 1),
        _ => {}
    }
    let stamp = parse_stamp(text).filter(|stamp| stamp.absolute).map(|stamp| stamp.time);
    stamp
        .or_else(|| parse_distance(text, now))
        .or_else(|| parse_weekday(text, now.local))
        .or_else(|| parse_month_date(text, now.local.date()))
}

/// `3 days ago`, `in 2 weeks`, `an hour from now`, `past 7 days`, `last seven days`.
fn parse_distance(text: &str, now: Now) -> Option<NaiveDateTime> {
    let words: Vec<&str> = text.split(' ').collect();
    let (count, unit, sign) = match words.as_slice() {
        [count, unit, "ago"] => (count, unit, -1),
        ["past" | "last", count, unit] => (count, unit, -1),
        ["in" | "next", count, unit] => (count, unit, 1),
        [count, unit, "from", "now"] => (count, unit, 1),
        _ => return None,
    };
    now.later(unit_word(unit)?, number_word(count)?.checked_mul(sign)?)
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

/// A weekday is the coming one, today included; with `last` the one before today, with `next` that of the
/// following week (Monday first).
fn parse_weekday(text: &str, now: NaiveDateTime) -> Option<NaiveDateTime> {
    let (word, name) = match text.split_once(' ') {
        Some((word @ ("last" | "this" | "next" | "on"), name)) => (word, name),
        _ => ("", text),
    };
    // The parser of `chrono` knows full names and three letters only.
    let wanted: Weekday = name.parse().ok()?;
    let ahead = i64::from(wanted.days_since(now.weekday()));
    let days = match word {
        "last" => ahead - 7,
        "next" => {
            let of_week = |day: Weekday| i64::from(day.num_days_from_monday());
            7 + of_week(wanted) - of_week(now.weekday())
        }
        _ => ahead,
    };
    shift(now, Granularity::Day, days)
}

/// `jan 31 2024`, `january 31st, 2024`, `31 jan 2024`, `march 2024` (its first day), `1/31/2024`,
/// `2024/01/31`; without a year (`jan 31`, `march`) the one nearest to today.
fn parse_month_date(text: &str, today: NaiveDate) -> Option<NaiveDateTime> {
    let words: Vec<&str> = text.split([' ', ',', '/']).filter(|word| !word.is_empty() && *word != "of").collect();
    let is_year = |word: &str| word.len() == 4;
    let (year, month, day) = match words.as_slice() {
        [m] => (None, month_word(m)?, 1),
        [m, year] if is_year(year) => (Some(*year), month_word(m)?, 1),
        [a, b] if !text.contains('/') => {
            let (month, day) = month_and_day(a, b)?;
            (None, month, day)
        }
        [year, m, d] if text.contains('/') && is_year(year) => (Some(*year), number(m)?, number(d)?),
        [m, d, year] if text.contains('/') => (Some(*year), number(m)?, number(d)?),
        [a, b, year] => {
            let (month, day) = month_and_day(a, b)?;
            (Some(*year), month, day)
        }
        _ => return None,
    };
    let date = match year {
        Some(year) => NaiveDate::from_ymd_opt(i32::try_from(number(year).filter(|_| is_year(year))?).ok()?, month, day),
        None => (-1..=1)
            .filter_map(|years| NaiveDate::from_ymd_opt(today.year() + years, month, day))
            .min_by_key(|date| date.signed_duration_since(today).num_days().abs()),
    };
    date.map(|date| date.and_time(NaiveTime::MIN))
}

/// `jan 31` or `31st jan`.
fn month_and_day(a: &str, b: &str) -> Option<(u32, u32)> {
    let day = |word: &str| {
        let digits = ["st", "nd", "rd", "th"].into_iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word);
        number(digits).filter(|_| digits.len() <= 2)
    };
    match month_word(a) {
        Some(month) => Some((month, day(b)?)),
        None => Some((month_word(b)?, day(a)?)),
    }
}

fn month_word(word: &str) -> Option<u32> {
    if word == "sept" {
        return Some(9);
    }
    word.parse::<chrono::Month>().ok().map(|month| month.number_from_month())
}

fn number(word: &str) -> Option<u32> {
    let valid = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    valid.then(|| word.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::local_to_utc;

    /// The moment at which clocks of `zone` show `local`; of two the earlier.
    fn now_in(zone: &str, local: &str) -> Now {
        let zone: Zone = zone.parse().expect("a zone");
        Now::at(local_to_utc(to_micros(local.parse().expect("a timestamp")), zone), zone)
    }

    /// Wednesday.
    fn now() -> Now {
        now_in("UTC", "2024-05-15T10:20:00")
    }

    #[track_caller]
    fn check_at(now: Now, text: &str, first: &str, last: &str) {
        let [from, to] = parse_text(text, now).expect(text).echo();
        let pad = |t: &str, rest: &str| if t.len() == 10 { format!("{t}T{rest}") } else { t.to_owned() };
        assert_eq!((from, to), (pad(first, "00:00:00.000"), pad(last, "23:59:59.999")), "{text} at {now:?}");
    }

    #[track_caller]
    fn check(text: &str, first: &str, last: &str) {
        check_at(now(), text, first, last);
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
        check("on sunday", "2024-05-19", "2024-05-19");
        check("this friday", "2024-05-17", "2024-05-17");
        check("last monday", "2024-05-13", "2024-05-13");
        check("last wednesday", "2024-05-08", "2024-05-08");
    }

    #[test]
    fn next_weekdays_are_those_of_the_following_week() {
        check("next monday", "2024-05-20", "2024-05-20");
        check("next wednesday", "2024-05-22", "2024-05-22");
        check("next sunday", "2024-05-26", "2024-05-26");
        check_at(now_in("UTC", "2024-05-18T10:00:00"), "next saturday", "2024-05-25", "2024-05-25");
        check_at(now_in("UTC", "2024-05-19T10:00:00"), "next monday", "2024-05-20", "2024-05-20");
        check_at(now_in("UTC", "2024-05-19T10:00:00"), "next sunday", "2024-05-26", "2024-05-26");
    }

    #[test]
    fn whole_units_are_this_last_and_next() {
        check("this second", "2024-05-15T10:20:00.000", "2024-05-15T10:20:00.999");
        check("last second", "2024-05-15T10:19:59.000", "2024-05-15T10:19:59.999");
        check("next minute", "2024-05-15T10:21:00.000", "2024-05-15T10:21:59.999");
        check("last hour", "2024-05-15T09:00:00.000", "2024-05-15T09:59:59.999");
        check("this day", "2024-05-15", "2024-05-15");
        check("last day", "2024-05-14", "2024-05-14");
        check("next week", "2024-05-20", "2024-05-26");
        check("this month", "2024-05-01", "2024-05-31");
        check("last month", "2024-04-01", "2024-04-30");
        check("this quarter", "2024-04-01", "2024-06-30");
        check("last quarter", "2024-01-01", "2024-03-31");
        check("next quarter", "2024-07-01", "2024-09-30");
        check("this year", "2024-01-01", "2024-12-31");
        check("last year", "2023-01-01", "2023-12-31");
        check("next year", "2025-01-01", "2025-12-31");
    }

    #[test]
    fn counted_units_leave_out_the_current_one() {
        check("last 1 day", "2024-05-14", "2024-05-14");
        check("next 3 days", "2024-05-16", "2024-05-18");
        check("last 2 weeks", "2024-04-29", "2024-05-12");
        check("next 2 weeks", "2024-05-20", "2024-06-02");
        check("last 12 months", "2023-05-01", "2024-04-30");
        check("next 2 quarters", "2024-07-01", "2024-12-31");
        check("last 5 years", "2019-01-01", "2023-12-31");
        check("last 2 hours", "2024-05-15T08:00:00.000", "2024-05-15T09:59:59.999");
        check("next 90 seconds", "2024-05-15T10:20:01.000", "2024-05-15T10:21:30.999");
    }

    #[test]
    fn months_are_counted_from_the_end_of_longer_ones() {
        check_at(now_in("UTC", "2024-03-31T10:00:00"), "last month", "2024-02-01", "2024-02-29");
        check_at(now_in("UTC", "2024-03-31T10:00:00"), "last 1 month", "2024-02-01", "2024-02-29");
        check_at(now_in("UTC", "2023-12-31T10:00:00"), "next 2 months", "2024-01-01", "2024-02-29");
        check_at(now_in("UTC", "2024-01-31T10:00:00"), "1 month ago", "2023-12-31", "2023-12-31");
        check_at(now_in("UTC", "2024-01-01T00:00:00"), "last week", "2023-12-25", "2023-12-31");
        check_at(now_in("UTC", "2024-12-30T00:00:00"), "this week", "2024-12-30", "2025-01-05");
    }

    #[test]
    fn two_points_make_a_range() {
        check("from 2 weeks ago to now", "2024-05-01", "2024-05-15");
        check("from 1 month ago to in 2 weeks", "2024-04-15", "2024-05-29");
        check("from 30 minutes ago to now", "2024-05-15T09:50:00.000", "2024-05-15T10:20:59.999");
        check("from 2024-05-01 to now", "2024-05-01", "2024-05-15");
        check("from last monday to friday", "2024-05-13", "2024-05-17");
        check("3 days ago to now", "2024-05-12", "2024-05-15");
        check("2024-02-01 - 2024-03-01", "2024-02-01", "2024-03-01");
        check("feb 1 until mar 1", "2024-02-01", "2024-03-01");
        check("jan 2024 through mar 2024", "2024-01-01", "2024-03-01");
        check("from now to 3 days ago", "2024-05-15", "2024-05-12");
    }

    #[test]
    fn dates_are_read_in_usual_spellings() {
        for text in
            ["Jan 31 2024", "January 31st, 2024", "31 jan 2024", "31st of January 2024", "1/31/2024", "2024/1/31"]
        {
            check(text, "2024-01-31", "2024-01-31");
        }
        check("sept 3, 2024", "2024-09-03", "2024-09-03");
        check("in 2 weeks", "2024-05-29", "2024-05-29");
        check("a week ago", "2024-05-08", "2024-05-08");
        check("an hour from now", "2024-05-15T11:00:00.000", "2024-05-15T11:59:59.999");
        for text in ["jan 32 2024", "13/1/2024", "2024/13/1", "jan 5 24", "1/5", "feb 30"] {
            check_fails(text);
        }
    }

    #[test]
    fn a_date_without_year_is_the_nearest() {
        check("june 1", "2024-06-01", "2024-06-01");
        check("march", "2024-03-01", "2024-03-01");
        check("30 december", "2023-12-30", "2023-12-30");
        check("feb 29", "2024-02-29", "2024-02-29");
        check_at(now_in("UTC", "2024-12-30T10:00:00"), "jan 2", "2025-01-02", "2025-01-02");
    }

    #[test]
    fn today_is_that_of_the_zone() {
        // The same moment: the 15th in Tokyo, still the 14th in Los Angeles.
        let utc = to_micros("2024-05-15T03:00:00".parse().expect("a timestamp"));
        let at = |zone: &str| Now::at(utc, zone.parse().expect("a zone"));
        check_at(at("Asia/Tokyo"), "today", "2024-05-15", "2024-05-15");
        check_at(at("America/Los_Angeles"), "today", "2024-05-14", "2024-05-14");
        check_at(at("America/Los_Angeles"), "last hour", "2024-05-14T19:00:00.000", "2024-05-14T19:59:59.999");
        check_at(at("Asia/Kolkata"), "this hour", "2024-05-15T08:00:00.000", "2024-05-15T08:59:59.999");
    }

    #[test]
    fn days_keep_their_borders_where_clocks_are_changed() {
        for (zone, day) in
            [("Europe/Berlin", "2024-03-31"), ("Europe/Berlin", "2024-10-27"), ("America/Los_Angeles", "2024-03-10")]
        {
            for time in ["00:30:00", "01:59:59", "03:30:00", "23:59:59"] {
                let now = now_in(zone, &format!("{day}T{time}"));
                check_at(now, "today", day, day);
                check_at(now, "this day", day, day);
            }
        }
        check_at(now_in("Europe/Berlin", "2024-04-01T00:10:00"), "last 1 day", "2024-03-31", "2024-03-31");
        check_at(now_in("Europe/Berlin", "2024-03-30T02:30:00"), "tomorrow", "2024-03-31", "2024-03-31");
    }

    #[test]
    fn hours_are_counted_as_they_pass() {
        // At 03:30 of that night the hour from 02:00 has not been.
        let spring = now_in("Europe/Berlin", "2024-03-31T03:30:00");
        check_at(spring, "last hour", "2024-03-31T01:00:00.000", "2024-03-31T01:59:59.999");
        check_at(spring, "last 2 hours", "2024-03-31T00:00:00.000", "2024-03-31T01:59:59.999");
        check_at(spring, "1 hour ago", "2024-03-31T01:00:00.000", "2024-03-31T01:59:59.999");
        // At the second 02:10 of that night half an hour ago it was 02:40.
        let autumn = Now::at(now_in("UTC", "2024-10-27T01:10:00").utc, "Europe/Berlin".parse().expect("a zone"));
        check_at(autumn, "last hour", "2024-10-27T02:00:00.000", "2024-10-27T02:59:59.999");
        check_at(autumn, "from 30 minutes ago to now", "2024-10-27T01:40:00.000", "2024-10-27T02:10:59.999");
    }

    #[test]
    fn sane_words_never_run_backwards() {
        let words = [
            "this {}",
            "last {}",
            "next {}",
            "last 1 {}",
            "last 3 {}s",
            "next 2 {}s",
            "from 2 {}s ago to now",
            "from now to 2 {}s from now",
            "3 {}s ago",
            "today",
            "yesterday",
            "tomorrow",
            "now",
            "from 1 {} ago to tomorrow",
        ];
        let zones =
            ["UTC", "Europe/Berlin", "America/Los_Angeles", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia"];
        let start = to_micros("2023-12-30T00:00:00".parse().expect("a timestamp"));
        let sparse = (0..100).map(|step| start + step * (89 * 60 + 13) * 60 * 1_000_000);
        let nights = ["2024-03-31", "2024-10-27", "2024-03-10", "2024-11-03", "2024-04-06", "2024-10-05"];
        let close = nights.into_iter().flat_map(|night| {
            let from = to_micros(format!("{night}T00:10:00").parse().expect("a timestamp"));
            (-24..48).map(move |step| from + step * 30 * 60 * 1_000_000)
        });
        let moments: Vec<i64> = sparse.chain(close).collect();
        for zone in zones.map(|zone| zone.parse::<Zone>().expect("a zone")) {
            for utc in &moments {
                let now = Now::at(*utc, zone);
                for (template, unit) in words.iter().flat_map(|w| Granularity::ALL.map(|unit| (*w, unit))) {
                    let text = template.replace("{}", unit.as_str());
                    let span = parse_text(&text, now).expect(&text);
                    assert!(!span.is_reversed(), "{text} at {now:?} is {span:?}");
                }
            }
        }
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
        for count in [7_977, 264_166, 264_167] {
            check_fails(&format!("last {count} years"));
            check_fails(&format!("in {} weeks", count * 53));
        }
        for count in 13_784_100..13_784_250 {
            check_fails(&format!("last {count} weeks"));
        }
    }
}
