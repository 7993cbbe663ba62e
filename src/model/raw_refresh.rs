//! `refresh_key` as it is written: which forms there are, and what each of them may hold (`pre-aggregations.md` §2.3).

use chrono::{DateTime, TimeZone as _, Utc};
use croner::parser::{CronParser, Seconds, Year};

use super::cube::CubeId;
use super::fields::{Fields, Place, Report, Text};
use super::refresh_key::{CRON_ORIGIN, Cron, Every, RefreshKey, Schedule, TimeKey, Window};
use super::symbols::Symbols;
use super::yaml::Mark;
use crate::names::nearest;
use crate::time::{Interval, Zone};

const KEYS: [&str; 6] = ["every", "sql", "timezone", "incremental", "update_window", "immutable"];

/// A `refresh_key`.
#[derive(Debug, Clone)]
pub(super) enum RawRefresh {
    /// None given, or a faulty one.
    Absent,
    /// A statement.
    Sql { sql: Text, every: Option<Every> },
    /// Time alone.
    Time { key: TimeKey, mark: Mark },
    /// `immutable: true`.
    Immutable,
}

impl RawRefresh {
    /// The key with its references resolved.
    pub(super) fn resolve(
        &self,
        owner: CubeId,
        symbols: &Symbols<'_>,
        place: &Place,
        report: &mut Report,
    ) -> Option<RefreshKey> {
        match self {
            Self::Absent => None,
            Self::Sql { sql, every } => {
                let trimmed = Text { text: sql.text.trim().trim_end_matches(';').to_owned(), ..sql.clone() };
                let sql = symbols.template(&trimmed, owner, place, report).into_template();
                Some(RefreshKey::Sql { sql, every: every.clone() })
            }
            Self::Time { key, .. } => Some(RefreshKey::Time(key.clone())),
            Self::Immutable => Some(RefreshKey::Immutable),
        }
    }
}

/// Reads `refresh_key`. `path` names it in messages.
pub(super) fn read_refresh_key(
    fields: &mut Fields,
    path: &str,
    of_cube: bool,
    place: &Place,
    report: &mut Report,
) -> RawRefresh {
    let Some(mark) = fields.mark_of("refresh_key") else { return RawRefresh::Absent };
    let Some(key) = fields.map("refresh_key", place, report) else { return RawRefresh::Absent };
    Reader { key, mark, path, of_cube, place, report }.read().unwrap_or(RawRefresh::Absent)
}

struct Reader<'a> {
    key: Fields,
    mark: Mark,
    path: &'a str,
    of_cube: bool,
    place: &'a Place,
    report: &'a mut Report,
}

impl Reader<'_> {
    /// None after a fault.
    fn read(mut self) -> Option<RawRefresh> {
        for entry in self.key.take_unknown(&KEYS) {
            let near = nearest(&entry.key, KEYS).map(|near| format!("did you mean '{near}'?"));
            let message = format!("({}.{} = {}) is not allowed", self.path, camel(&entry.key), shown(&entry.value));
            self.report.error(self.place, entry.key_mark, message).hint = near;
        }
        if self.key.mark_of("sql").is_some() {
            return self.sql();
        }
        if self.key.mark_of("every").is_some() {
            return self.time();
        }
        if self.of_cube && self.key.mark_of("immutable").is_some() {
            self.forbid(&["timezone", "incremental", "update_window"]);
            let immutable = self.key.flag("immutable", self.place, self.report)?;
            return Some(if immutable { RawRefresh::Immutable } else { RawRefresh::Absent });
        }
        if self.key.mark_of("immutable").is_some() {
            self.forbid(&["immutable"]);
            return None;
        }
        let forms = if self.of_cube { "every, sql, immutable" } else { "sql, every" };
        let message = format!("({} = [object Object]) must contain at least one of [{forms}]", self.path);
        self.fault(self.mark, message).hint = Some("for example 'every: 1 hour'".to_owned());
        None
    }

    /// `sql`, and how often it may run.
    fn sql(mut self) -> Option<RawRefresh> {
        self.forbid(&["timezone", "incremental", "update_window", "immutable"]);
        let every = match self.key.text("every", self.place, self.report) {
            Some(text) => Some(self.interval(&text)?),
            None => None,
        };
        let sql = self.key.text("sql", self.place, self.report)?;
        if sql.text.trim().is_empty() {
            self.fault(sql.mark, format!("({}.sql) is not allowed to be empty", self.path));
            return None;
        }
        Some(RawRefresh::Sql { sql, every })
    }

    /// An interval or a cron expression, and what makes it incremental.
    fn time(mut self) -> Option<RawRefresh> {
        self.forbid(if self.of_cube { &["immutable", "incremental", "update_window"] } else { &["immutable"] });
        let zone = self.zone();
        let every = self.key.text("every", self.place, self.report)?;
        let schedule = if is_cron(&every.text) {
            Schedule::Cron(self.cron(&every, zone?)?)
        } else {
            if zone.flatten().is_some() {
                self.report.warn(self.place, self.mark, "'refresh_key.timezone' has no effect without cron");
            }
            Schedule::Interval(self.interval(&every)?)
        };
        let incremental = self.key.flag("incremental", self.place, self.report).unwrap_or(false);
        let update_window = match self.key.text("update_window", self.place, self.report) {
            Some(text) => Some(self.window(&text)?),
            None => None,
        };
        if update_window.is_some() && !incremental {
            let message = "'refresh_key.update_window' has no effect without 'incremental: true'";
            self.report.warn(self.place, self.mark, message);
        }
        Some(RawRefresh::Time { key: TimeKey { schedule, incremental, update_window }, mark: self.mark })
    }

    /// Complains of keys that do not go with the form.
    fn forbid(&mut self, keys: &[&str]) {
        for key in keys {
            let Some(mark) = self.key.mark_of(key) else { continue };
            let value = self.key.take(key).map(|node| shown(&node)).unwrap_or_default();
            self.fault(mark, format!("({}.{} = {value}) is not allowed", self.path, camel(key)));
        }
    }

    fn fault(&mut self, mark: Mark, message: String) -> &mut super::Diagnostic {
        self.report.error(self.place, mark, message)
    }

    fn interval(&mut self, text: &Text) -> Option<Every> {
        match parse_interval(&text.text) {
            Some(seconds) => Some(Every { text: text.text.clone(), seconds }),
            None => {
                let message = format!(
                    "({}.every = {}) does not match regexp: /^(\\d+) (second|minute|hour|day|week)s?$/",
                    self.path, text.text
                );
                self.fault(text.mark, message).hint = Some("for example '30 minutes' or '1 day'".to_owned());
                None
            }
        }
    }

    fn window(&mut self, text: &Text) -> Option<Window> {
        match parse_window(&text.text) {
            Some(length) => Some(Window { text: text.text.clone(), length }),
            None => {
                let message = format!(
                    "({}.updateWindow = {}) does not match regexp: \
                     /^(\\d+) (second|minute|hour|day|week|month|quarter|year)s?$/",
                    self.path, text.text
                );
                self.fault(text.mark, message).hint = Some("for example '7 days' or '3 months'".to_owned());
                None
            }
        }
    }

    /// The zone of a cron expression, if it is given; none after a fault.
    fn zone(&mut self) -> Option<Option<Zone>> {
        let Some(text) = self.key.text("timezone", self.place, self.report) else { return Some(None) };
        if let Ok(zone) = Zone::from_str_insensitive(&text.text) {
            return Some(Some(zone));
        }
        let message = format!(
            "({}.timezone = {}) unknown timezone. Take a look here \
             https://cube.dev/docs/schema/reference/cube#supported-timezones to get available time zones",
            self.path, text.text
        );
        self.fault(text.mark, message);
        None
    }

    fn cron(&mut self, text: &Text, timezone: Option<Zone>) -> Option<Cron> {
        match parse_cron(&text.text) {
            Ok((offset, seconds)) => Some(Cron { text: text.text.clone(), timezone, seconds, offset }),
            Err(CronFault::Syntax(why)) => {
                let message = format!("({}.every = {}) CronParser: Error: {why}", self.path, text.text);
                self.fault(text.mark, message);
                None
            }
            Err(CronFault::Unequal) => {
                let message =
                    format!("Your cron string ('{}') is correct, but we support only equal time intervals.", text.text);
                self.fault(text.mark, message).hint = Some(
                    "each field is a number or '*', those of days and months are '*'; 'every: 15 minutes' counts time"
                        .to_owned(),
                );
                None
            }
        }
    }
}

/// How messages name a key.
fn camel(key: &str) -> &str {
    if key == "update_window" { "updateWindow" } else { key }
}

fn shown(node: &super::yaml::Node) -> String {
    match node.to_json() {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    }
}

/// Seconds of `^\d+ (second|minute|hour|day|week)s?$`.
fn parse_interval(text: &str) -> Option<u32> {
    let (count, unit) = text.split_once(' ')?;
    let seconds: u32 = match unit.strip_suffix('s').unwrap_or(unit) {
        "second" => 1,
        "minute" => 60,
        "hour" => 3_600,
        "day" => 86_400,
        "week" => 604_800,
        _ => return None,
    };
    if !count.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    count.parse::<u32>().ok()?.checked_mul(seconds).filter(|seconds| *seconds > 0)
}

/// One count and one unit, up to years.
fn parse_window(text: &str) -> Option<Interval> {
    let (count, unit) = text.split_once(' ')?;
    let is_plain = count.bytes().all(|b| b.is_ascii_digit()) && !unit.contains(' ') && !unit.is_empty();
    Interval::parse(text).filter(|_| is_plain).map(|(interval, _)| interval)
}

/// What cannot be an interval and has the fields of a cron expression.
fn is_cron(text: &str) -> bool {
    parse_interval(text).is_none() && matches!(text.split_whitespace().count(), 5 | 6)
}

#[derive(Debug, PartialEq, Eq)]
enum CronFault {
    Syntax(String),
    Unequal,
}

/// Seconds from Monday, 0:00, to the first time, and from one time to the next.
fn parse_cron(text: &str) -> Result<(u32, u32), CronFault> {
    let syntax = |error: croner::errors::CronError| CronFault::Syntax(error.to_string());
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
    let cron = parser.parse(text).map_err(syntax)?;
    let fields: Vec<&str> = text.split_whitespace().collect();
    let is_single = |field: &&str| *field == "*" || field.bytes().all(|b| b.is_ascii_digit());
    let days_and_months = &fields[fields.len().saturating_sub(3)..fields.len().saturating_sub(1)];
    if !fields.iter().all(is_single) || days_and_months.iter().any(|field| *field != "*") {
        return Err(CronFault::Unequal);
    }
    let origin: DateTime<Utc> = Utc.timestamp_opt(CRON_ORIGIN, 0).single().unwrap_or_default();
    let first = cron.find_next_occurrence(&origin, true).map_err(syntax)?;
    let second = cron.find_next_occurrence(&first, false).map_err(syntax)?;
    let seconds = |from: DateTime<Utc>, to: DateTime<Utc>| u32::try_from((to - from).num_seconds()).unwrap_or(u32::MAX);
    Ok((seconds(origin, first), seconds(first, second).max(1)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_one, shop};
    use super::*;

    #[test]
    fn intervals_are_a_count_and_a_unit() {
        for (text, seconds) in [
            ("1 second", Some(1)),
            ("30 minutes", Some(1_800)),
            ("1 hour", Some(3_600)),
            ("2 day", Some(172_800)),
            ("1 weeks", Some(604_800)),
            ("0 hours", None),
            ("1 month", None),
            ("1  hour", None),
            (" 1 hour", None),
            ("+1 hour", None),
            ("-1 hour", None),
            ("hour", None),
            ("1 hourss", None),
            ("99999999999999999999 weeks", None),
            ("4294967295 weeks", None),
        ] {
            assert_eq!(parse_interval(text), seconds, "{text}");
        }
    }

    #[test]
    fn cron_must_describe_equal_intervals() {
        const DAY: u32 = 86_400;
        assert_eq!(parse_cron("0 8 * * *"), Ok((28_800, DAY)));
        assert_eq!(parse_cron("* * * * *"), Ok((0, 60)));
        assert_eq!(parse_cron("* * * * * *"), Ok((0, 1)));
        assert_eq!(parse_cron("30 5 * * 5"), Ok((4 * DAY + 5 * 3_600 + 1_800, 7 * DAY)));
        assert_eq!(parse_cron("0 0 * * 7"), Ok((6 * DAY, 7 * DAY)));
        for unequal in ["*/5 * * * *", "0 8 1 * *", "0 8 * 2 *", "0 8 * * 1,3", "0 8-9 * * *", "0 8 * * MON"] {
            assert_eq!(parse_cron(unequal), Err(CronFault::Unequal), "{unequal}");
        }
        for broken in ["99 8 * * *", "0 8 x * *", "0 8 * * 9", "0 8 * *"] {
            assert!(matches!(parse_cron(broken), Err(CronFault::Syntax(_))), "{broken}");
        }
    }

    /// A fault, or nothing, of a rollup's key; then of a cube's.
    #[track_caller]
    fn check(key: &str, of_rollup: &str, of_cube: &str) {
        let rollup = "measures: [total], time_dimension: created_at, granularity: day, partition_granularity: month";
        let rollup = format!("pre_aggregations:\n  - {{name: main, {rollup}, refresh_key: {{{key}}}}}");
        let path = "preAggregations.main.refreshKey";
        check_one(&shop("", "", &rollup), &of_rollup.replace("PATH", path).replace("AT", "orders.main"));
        let cube = format!("refresh_key: {{{key}}}");
        check_one(&shop("", "", &cube), &of_cube.replace("PATH", "refreshKey").replace("AT", "orders"));
    }

    #[test]
    fn every_form_has_keys_of_its_own() {
        let only = |text: &str| format!("error: AT: (PATH.{text}) is not allowed");
        let both = |key: &str, text: &str| check(key, text, text);
        both("every: 1 hour", "");
        both("sql: SELECT 1", "");
        both("sql: SELECT 1, every: 5 minutes", "");
        both("every: 0 8 * * *, timezone: Europe/Berlin", "");
        check("immutable: true", &only("immutable = true"), "");
        check("every: 1 hour, incremental: true", "", &only("incremental = true"));
        check(
            "every: 1 hour, incremental: true, updateWindow: 3 months",
            "",
            &[only("incremental = true"), only("updateWindow = 3 months")].join("\n"),
        );
        both("sql: SELECT 1, incremental: true", &only("incremental = true"));
        both("sql: SELECT 1, update_window: 1 day", &only("updateWindow = 1 day"));
        both("sql: SELECT 1, timezone: UTC", &only("timezone = UTC"));
        both("every: 1 hour, immutable: true", &only("immutable = true"));
        both("every: 1 hour, evry: 2", &format!("{} | did you mean 'every'?", only("evry = 2")));
        check("timezone: UTC", &missing("sql, every"), &missing("every, sql, immutable"));
    }

    fn missing(forms: &str) -> String {
        format!(
            "error: AT: (PATH = [object Object]) must contain at least one of [{forms}] | for example 'every: 1 hour'"
        )
    }

    #[test]
    fn faulty_values_are_told_in_the_words_of_cube() {
        let both = |key: &str, text: &str| check(key, text, text);
        let interval = |value: &str| {
            format!(
                "error: AT: (PATH.every = {value}) does not match regexp: /^(\\d+) (second|minute|hour|day|week)s?$/ | \
                 for example '30 minutes' or '1 day'"
            )
        };
        both("every: 1 month", &interval("1 month"));
        both("every: often", &interval("often"));
        both("sql: SELECT 1, every: 0 8 * * *", &interval("0 8 * * *"));
        let unequal = "error: AT: Your cron string ('*/5 * * * *') is correct, but we support only equal time intervals. | \
                       each field is a number or '*', those of days and months are '*'; 'every: 15 minutes' counts time";
        both("every: '*/5 * * * *'", unequal);
        let zone = "error: AT: (PATH.timezone = Mars/Base) unknown timezone. Take a look here \
                    https://cube.dev/docs/schema/reference/cube#supported-timezones to get available time zones";
        both("every: 0 8 * * *, timezone: Mars/Base", zone);
        let window = "error: AT: (PATH.updateWindow = 1 fortnight) does not match regexp: \
                      /^(\\d+) (second|minute|hour|day|week|month|quarter|year)s?$/ | for example '7 days' or '3 months'";
        check_one(
            &shop(
                "",
                "",
                "pre_aggregations: [{name: main, measures: [total], time_dimension: created_at, granularity: day, \
                 partition_granularity: month, refresh_key: {every: 1 day, incremental: true, update_window: 1 fortnight}}]",
            ),
            &window.replace("PATH", "preAggregations.main.refreshKey").replace("AT", "orders.main"),
        );
        let warned = "warning: AT: 'refresh_key.timezone' has no effect without cron";
        both("every: 1 day, timezone: UTC", warned);
        check(
            "every: 1 day, update_window: 1 day",
            "warning: AT: 'refresh_key.update_window' has no effect without 'incremental: true'",
            "error: AT: (PATH.updateWindow = 1 day) is not allowed",
        );
    }

    #[test]
    fn only_partitions_can_be_refreshed_incrementally() {
        check_one(
            &shop(
                "",
                "",
                "pre_aggregations: [{name: main, measures: [total], refresh_key: {every: 1 day, incremental: true}}]",
            ),
            "error: orders.main: Incremental refresh key can only be used for partitioned pre-aggregations but set for \
             non-partitioned 'orders.main'",
        );
    }
}
