//! Custom granularities as they are written (`data-model.md` §4.3).

use chrono::{DateTime, NaiveDate, NaiveDateTime};

use super::cube::DataType;
use super::fields::{Fields, Place, Report, Text};
use super::granularity::{GranularityKind, Written, parts_of};
use super::yaml::{Mark, Node, Value};
use crate::names::{is_identifier, nearest};
use crate::time::{Bins, DAY_MICROS, Granularity, Interval, to_micros};

#[derive(Debug, Clone)]
pub(super) struct RawGranularity {
    pub(super) name: String,
    pub(super) title: Option<String>,
    pub(super) format: Option<String>,
    pub(super) kind: RawBuckets,
    pub(super) written: Written,
    pub(super) mark: Mark,
}

#[derive(Debug, Clone)]
pub(super) enum RawBuckets {
    Known(GranularityKind),
    Sql(Text),
}

/// Custom granularities from a list or from `{includes, excludes, custom}`, and the standard ones that are offered
/// (all when none).
pub(super) fn read_granularities(
    fields: &mut Fields,
    data_type: Option<DataType>,
    place: &Place,
    report: &mut Report,
) -> (Vec<RawGranularity>, Option<Vec<Granularity>>) {
    let Some(mark) = fields.mark_of("granularities") else { return Default::default() };
    if data_type.is_some_and(|data_type| data_type != DataType::Time) {
        report.error(place, mark, "'granularities' are for dimensions of type time");
    }
    let Some(node) = fields.take("granularities") else { return Default::default() };
    let (nodes, offered) = match node.value {
        Value::List(nodes) => (nodes, None),
        value @ Value::Map(_) => {
            let node = Node { mark: node.mark, value };
            let Some(mut dict) = Fields::open(node, "'granularities'", place, report) else {
                return Default::default();
            };
            dict.check_keys(&["includes", "excludes", "custom"], place, report);
            let offered = read_offered(&mut dict, place, report);
            (dict.list("custom", place, report), offered)
        }
        Value::Scalar(_) => {
            report.error(place, node.mark, "granularities must be defined as array");
            return Default::default();
        }
    };
    let mut found: Vec<RawGranularity> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let Some(granularity) = read_granularity(node, place, report) else { continue };
        if found.iter().any(|earlier| earlier.name == granularity.name) {
            let message = format!("Found duplicate granularity '{}'", granularity.name);
            report.error(place, granularity.mark, message);
            continue;
        }
        let replaces = matches!(granularity.kind, RawBuckets::Sql(_));
        if !replaces && Granularity::ALL.iter().any(|standard| standard.as_str() == granularity.name) {
            let message =
                format!("the granularity '{}' is never used: it is named like a standard one", granularity.name);
            report.warn(place, granularity.mark, message);
        }
        found.push(granularity);
    }
    (found, offered)
}

fn read_offered(dict: &mut Fields, place: &Place, report: &mut Report) -> Option<Vec<Granularity>> {
    let mark = dict.mark;
    let all = match dict.take("includes") {
        None => None,
        Some(Node { value: Value::Scalar(scalar), .. }) if scalar.text == "*" => None,
        Some(node) => Some(super::raw_member::texts_of(node, "includes", place, report)),
    };
    let excludes = dict.texts("excludes", place, report);
    if all.is_some() && !excludes.is_empty() {
        let message = "\"includes\" and \"excludes\" cannot be used together unless includes is \"*\"";
        report.error(place, mark, message);
    }
    let mut parse = |texts: &[Text]| -> Vec<Granularity> {
        let mut found = Vec::new();
        for text in texts {
            match Granularity::parse(&text.text) {
                Some(granularity) => found.push(granularity),
                None => {
                    let hint = nearest(&text.text, Granularity::ALL.map(Granularity::as_str));
                    report.error(place, text.mark, format!("'{}' is not a standard granularity", text.text)).hint =
                        hint.map(|near| format!("did you mean '{near}'?"));
                }
            }
        }
        found
    };
    let excluded = parse(&excludes);
    match all {
        Some(included) => Some(parse(&included)),
        None if excluded.is_empty() => None,
        None => Some(Granularity::ALL.into_iter().filter(|granularity| !excluded.contains(granularity)).collect()),
    }
}

fn read_granularity(node: Node, place: &Place, report: &mut Report) -> Option<RawGranularity> {
    let mut fields = Fields::open(node, "an entry of granularities", place, report)?;
    fields.check_keys(&["name", "title", "interval", "offset", "origin", "sql", "format"], place, report);
    let mark = fields.mark;
    let name = match fields.text("name", place, report) {
        Some(name) if is_identifier(&name.text) => name.text,
        Some(Text { text, mark, .. }) => {
            let message = format!("(name = {text}) with value \"{text}\" fails to match the identifier pattern");
            report.error(place, mark, message);
            return None;
        }
        None => {
            report.error(place, fields.mark, "name isn't defined for granularity");
            return None;
        }
    };
    let title = fields.plain("title", place, report);
    let format = fields.plain("format", place, report);
    let interval = fields.text("interval", place, report);
    let offset = fields.text("offset", place, report);
    let origin = fields.text("origin", place, report);
    let written = Written {
        interval: interval.as_ref().map(|text| text.text.clone()),
        offset: offset.as_ref().map(|text| text.text.clone()),
        origin: origin.as_ref().map(|text| text.text.clone()),
    };
    let kind = match (fields.text("sql", place, report), interval) {
        (Some(sql), None) => RawBuckets::Sql(sql),
        (Some(sql), Some(_)) => {
            report.error(place, sql.mark, "'sql' and 'interval' exclude each other");
            return None;
        }
        (None, None) => {
            report.error(place, mark, format!("({name}.interval) is required")).hint =
                Some("for example 'interval: 15 minutes'".to_owned());
            return None;
        }
        (None, Some(interval)) => {
            let parts = Parts { name: &name, interval, offset, origin };
            RawBuckets::Known(parts.buckets(place, report)?)
        }
    };
    Some(RawGranularity { name, title, format, kind, written, mark })
}

/// A granularity that the settings define.
#[derive(Debug, Clone, Copy)]
pub(super) struct NamedParts<'s> {
    pub(super) name: &'s str,
    pub(super) title: Option<&'s str>,
    pub(super) interval: &'s str,
    pub(super) offset: &'s Option<String>,
    pub(super) origin: &'s Option<String>,
}

impl NamedParts<'_> {
    pub(super) fn granularity(self, place: &Place, report: &mut Report) -> Option<RawGranularity> {
        let text = |text: &str| Text { text: text.to_owned(), mark: Mark::START, braces: Vec::new() };
        let parts = Parts {
            name: self.name,
            interval: text(self.interval),
            offset: self.offset.as_deref().map(text),
            origin: self.origin.as_deref().map(text),
        };
        let kind = RawBuckets::Known(parts.buckets(place, report)?);
        let written = Written {
            interval: Some(self.interval.to_owned()),
            offset: self.offset.clone(),
            origin: self.origin.clone(),
        };
        let title = self.title.map(str::to_owned);
        Some(RawGranularity { name: self.name.to_owned(), title, format: None, kind, written, mark: Mark::START })
    }
}

/// The words that say how times fall into buckets.
struct Parts<'n> {
    name: &'n str,
    interval: Text,
    offset: Option<Text>,
    origin: Option<Text>,
}

impl Parts<'_> {
    fn buckets(&self, place: &Place, report: &mut Report) -> Option<GranularityKind> {
        let (step, _) = self.length("interval", &self.interval, place, report)?;
        if step.months < 0 || step.micros < 0 || step == Interval::ZERO {
            report.error(place, self.interval.mark, format!("the interval '{}' is not positive", self.interval.text));
            return None;
        }
        if let (Some(_), Some(origin)) = (&self.offset, &self.origin) {
            report.error(place, origin.mark, "'offset' and 'origin' exclude each other");
            return None;
        }
        let offset = match &self.offset {
            Some(text) => self.length("offset", text, place, report)?.0,
            None => Interval::ZERO,
        };
        if let Some(origin) = &self.origin {
            let Some(at) = parse_origin(&origin.text) else {
                let message = "Origin should be valid date-only form: YYYY[-MM[-DD]] or date-time form: \
                               YYYY-MM-DD[T]HH:mm[:ss[.sss[Z]]]";
                report.error(place, origin.mark, message);
                return None;
            };
            let origin = to_micros(at);
            return Some(GranularityKind::Bins { bins: Bins { step, origin }, made_of: parts_of(step, origin) });
        }
        let mut words = self.interval.text.split_whitespace();
        let (count, unit) = (words.next()?.parse::<i64>().ok()?, words.next()?);
        let unit = Granularity::parse(unit.strip_suffix('s').unwrap_or(unit))?;
        if words.next().is_some() || !is_aligned(count, unit) {
            let message = "Arbitrary intervals cannot be used without origin point specified";
            report.error(place, self.interval.mark, message).hint =
                Some("add 'origin: 2024-01-01', a moment at which a bucket starts".to_owned());
            return None;
        }
        if count == 1 {
            return Some(GranularityKind::Moved { unit, offset });
        }
        // A fixed epoch, so that answers do not depend on the day of the question.
        let epoch = if unit == Granularity::Week { 4 * DAY_MICROS } else { 0 };
        let origin = to_micros(offset.after(crate::time::from_micros(epoch)));
        Some(GranularityKind::Bins { bins: Bins { step, origin }, made_of: parts_of(step, origin) })
    }

    fn length(&self, key: &str, text: &Text, place: &Place, report: &mut Report) -> Option<(Interval, Granularity)> {
        let parsed = Interval::parse(&text.text);
        if parsed.is_none() {
            let (dimension, value) = (place.owner().rsplit('.').next().unwrap_or_default(), &text.text);
            let message = format!(
                "(dimensions.{dimension}.granularities.{}.{key} = {value}) with value \"{value}\" fails to match the \
                 granularity interval pattern",
                self.name
            );
            report.error(place, text.mark, message).hint =
                Some("a number and a unit from second to year, for example '2 weeks'".to_owned());
        }
        parsed
    }
}

/// Whether so many units fill the next larger one, so that buckets need no origin.
fn is_aligned(count: i64, unit: Granularity) -> bool {
    let fills = match unit {
        Granularity::Second | Granularity::Minute => 60,
        Granularity::Hour => 24,
        Granularity::Day | Granularity::Week => 1,
        Granularity::Month => 12,
        Granularity::Quarter => 4,
        Granularity::Year => return count > 0,
    };
    count > 0 && fills % count == 0
}

/// `YYYY[-MM[-DD]]`, or `YYYY-MM-DD[T]HH:mm[:ss[.sss[Z]]]`.
fn parse_origin(text: &str) -> Option<NaiveDateTime> {
    let text = text.trim();
    let number = |part: &str| part.parse::<u32>().ok();
    let digits = |part: &str, count: usize| part.len() == count && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = text.split('-').collect();
    let date = match parts.as_slice() {
        [year] if digits(year, 4) => NaiveDate::from_ymd_opt(year.parse().ok()?, 1, 1),
        [year, month] if digits(year, 4) && digits(month, 2) => {
            NaiveDate::from_ymd_opt(year.parse().ok()?, number(month)?, 1)
        }
        [year, month, day] if digits(year, 4) && digits(month, 2) && digits(day, 2) => {
            NaiveDate::from_ymd_opt(year.parse().ok()?, number(month)?, number(day)?)
        }
        _ => None,
    };
    if let Some(date) = date {
        return Some(date.and_time(chrono::NaiveTime::MIN));
    }
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at.naive_utc());
    }
    let plain = text.replacen(' ', "T", 1);
    ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%.f"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(&plain, format).ok())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_one, shop};
    use super::*;

    #[test]
    fn origins_are_dates_and_times() {
        for (text, expected) in [
            ("2024", "2024-01-01T00:00:00"),
            ("2024-04", "2024-04-01T00:00:00"),
            ("2024-04-02", "2024-04-02T00:00:00"),
            ("2024-04-02 03:04", "2024-04-02T03:04:00"),
            ("2024-04-02T03:04:05", "2024-04-02T03:04:05"),
            ("2024-04-02T03:04:05.5", "2024-04-02T03:04:05.500"),
            ("2024-04-02T03:04:05Z", "2024-04-02T03:04:05"),
        ] {
            assert_eq!(parse_origin(text), Some(expected.parse().expect("a timestamp")), "{text}");
        }
        for wrong in ["", "24", "2024-13", "2024-02-30", "soon", "2024-04-02T25:00"] {
            assert_eq!(parse_origin(wrong), None, "{wrong}");
        }
    }

    #[track_caller]
    fn check(granularity: &str, expected: &str) {
        let dimension = format!("- {{name: at, type: time, sql: t, granularities: [{{name: g, {granularity}}}]}}");
        check_one(&shop("", &dimension, ""), expected);
    }

    #[test]
    fn granularities_are_checked() {
        for fine in
            ["interval: 15 minutes", "interval: 1 week, offset: -1 day", "interval: 1 year, origin: '2024-04-01'"]
        {
            check(fine, "");
        }
        let arbitrary = "error: orders.at: Arbitrary intervals cannot be used without origin point specified | \
                         add 'origin: 2024-01-01', a moment at which a bucket starts";
        for wrong in ["5 months", "2 days", "2 weeks", "7 minutes", "1 month 1 day", "5 hours"] {
            check(&format!("interval: {wrong}"), arbitrary);
            check(&format!("interval: {wrong}, origin: '2024-01-01'"), "");
        }
        check(
            "interval: soon",
            "error: orders.at: (dimensions.at.granularities.g.interval = soon) with value \"soon\" fails to match the \
             granularity interval pattern | a number and a unit from second to year, for example '2 weeks'",
        );
        check("interval: 0 days", "error: orders.at: the interval '0 days' is not positive");
        check(
            "interval: 1 day, origin: tomorrow",
            "error: orders.at: Origin should be valid date-only form: YYYY[-MM[-DD]] or date-time form: \
             YYYY-MM-DD[T]HH:mm[:ss[.sss[Z]]]",
        );
        check(
            "interval: 1 day, offset: 1 hour, origin: '2024'",
            "error: orders.at: 'offset' and 'origin' exclude each other",
        );
        check("title: x", "error: orders.at: (g.interval) is required | for example 'interval: 15 minutes'");
    }
}
