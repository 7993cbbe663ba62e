//! Pre-aggregations and refresh keys as they are written (`pre-aggregations.md` §2).

use std::time::Duration;

use super::fields::{Fields, Place, Report, Text, snake_case, without_references};
use super::raw::{About, read_about, warn_ignored};
use super::yaml::{Mark, Value};
use crate::names::nearest;

const ROLLUP_KEYS: [&str; 31] = [
    "name",
    "type",
    "measures",
    "dimensions",
    "segments",
    "time_dimension",
    "time_dimensions",
    "granularity",
    "partition_granularity",
    "build_range_start",
    "build_range_end",
    "refresh_range_start",
    "refresh_range_end",
    "refresh_key",
    "scheduled_refresh",
    "external",
    "indexes",
    "allow_non_strict_date_range_match",
    "use_original_sql_pre_aggregations",
    "unique_key_columns",
    "read_only",
    "stream_offset",
    "output_column_types",
    "sql_alias",
    "rollups",
    "union_with_source_data",
    "measure_references",
    "dimension_references",
    "segment_references",
    "time_dimension_reference",
    "rollup_references",
];
const DEPRECATED: [&str; 5] = [
    "time_dimension_reference",
    "rollup_references",
    "measure_references",
    "dimension_references",
    "segment_references",
];
const CURRENT: [&str; 6] = ["time_dimension", "time_dimensions", "rollups", "measures", "dimensions", "segments"];
/// Keys that only change where and how rows are kept, never an answer.
const SILENT: [&str; 6] =
    ["indexes", "unique_key_columns", "read_only", "stream_offset", "output_column_types", "sql_alias"];

#[derive(Debug, Clone)]
pub(super) struct RawRollup {
    pub(super) about: About,
    /// None when this version leaves it out.
    pub(super) body: Option<RollupBody>,
}

#[derive(Debug, Clone)]
pub(super) struct RollupBody {
    pub(super) measures: Vec<Text>,
    pub(super) dimensions: Vec<Text>,
    pub(super) segments: Vec<Text>,
    pub(super) time_dimension: Option<Text>,
    pub(super) granularity: Option<Text>,
    pub(super) partition_granularity: Option<Text>,
    pub(super) build_range_start: Option<String>,
    pub(super) build_range_end: Option<String>,
    pub(super) refresh: RawRefresh,
    pub(super) scheduled_refresh: bool,
    pub(super) external: bool,
}

/// A `refresh_key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RawRefresh {
    /// None given.
    Absent,
    /// Given in a form that this version does not follow.
    Unsupported,
    /// `every`.
    Every(Duration),
}

pub(super) fn read_rollup(mut fields: Fields, cube: &Place, report: &mut Report) -> RawRollup {
    let about = read_about(&mut fields, "preAggregation", &ROLLUP_KEYS, cube, report);
    let body = read_body(&mut fields, &about, report);
    RawRollup { about, body }
}

fn read_body(fields: &mut Fields, about: &About, report: &mut Report) -> Option<RollupBody> {
    let place = &about.place;
    if fields.is_empty() {
        report.error(place, about.mark, format!("(preAggregations.{}.type) is required", about.name));
        return None;
    }
    if !is_rollup(fields, about, report) {
        return None;
    }
    check_generations(fields, place, report);
    for key in SILENT {
        fields.take(key);
    }
    let ignored = ["allow_non_strict_date_range_match", "use_original_sql_pre_aggregations"];
    warn_ignored(fields, &ignored, place, report);
    for key in ["rollups", "rollup_references", "union_with_source_data"] {
        if let Some(mark) = fields.mark_of(key) {
            report.error(place, mark, format!("'{key}' is not for pre-aggregations of type rollup"));
        }
    }
    let (time_dimension, granularity) = read_time(fields, about, report)?;
    let path = format!("preAggregations.{}.refreshKey", about.name);
    let (build_range_start, build_range_end) =
        (read_range(fields, "start", place, report), read_range(fields, "end", place, report));
    Some(RollupBody {
        measures: references(fields, "measures", "measure_references", place, report),
        dimensions: references(fields, "dimensions", "dimension_references", place, report),
        segments: references(fields, "segments", "segment_references", place, report),
        time_dimension,
        granularity,
        partition_granularity: fields.text("partition_granularity", place, report),
        build_range_start,
        build_range_end,
        refresh: read_refresh_key(fields, &path, false, place, report),
        scheduled_refresh: fields.flag("scheduled_refresh", place, report).unwrap_or(true),
        external: fields.flag("external", place, report).unwrap_or(true),
    })
}

/// Whether its type is `rollup`; complains of other types.
fn is_rollup(fields: &mut Fields, about: &About, report: &mut Report) -> bool {
    let place = &about.place;
    let Some(Text { text, mark, .. }) = fields.text("type", place, report) else { return true };
    match snake_case(&text).as_str() {
        "rollup" => return true,
        "original_sql" | "rollup_join" | "rollup_lambda" => {
            let message = format!("type '{text}' is not supported by this version; this pre-aggregation is left out");
            report.warn(place, mark, message);
        }
        "auto_rollup" => {
            report.error(place, mark, "Auto rollups supported only in Enterprise version");
        }
        folded => {
            let message = format!(
                "(preAggregations.{}.type = {text}) must be one of [autoRollup, originalSql, rollupJoin, rollup]",
                about.name
            );
            let words = ["rollup", "original_sql", "rollup_join", "rollup_lambda"];
            let hint = nearest(folded, words).map(|near| format!("did you mean '{near}'?"));
            report.error(place, mark, message).hint = hint;
        }
    }
    false
}

/// Old and new names of keys do not mix.
fn check_generations(fields: &Fields, place: &Place, report: &mut Report) {
    let first = |keys: &[&str]| keys.iter().filter_map(|key| fields.mark_of(key)).min();
    if let (Some(mark), Some(_)) = (first(&DEPRECATED), first(&CURRENT)) {
        let message = "[timeDimensionReference, rollupReferences, measureReferences, dimensionReferences, \
                       segmentReferences] are deprecated, please, use [timeDimension, timeDimensions, rollups, \
                       measures, dimensions, segments] instead";
        report.error(place, mark, message);
    }
}

fn references(fields: &mut Fields, key: &str, deprecated: &str, place: &Place, report: &mut Report) -> Vec<Text> {
    let mut texts = fields.texts(key, place, report);
    texts.extend(fields.texts(deprecated, place, report));
    texts
}

/// The time dimension and its granularity, also from a list of one. None when the rollup is left out.
fn read_time(fields: &mut Fields, about: &About, report: &mut Report) -> Option<(Option<Text>, Option<Text>)> {
    let place = &about.place;
    let current = fields.text("time_dimension", place, report);
    let single = fields.text("time_dimension_reference", place, report).or(current);
    let granularity = fields.text("granularity", place, report);
    let Some(mark) = fields.mark_of("time_dimensions") else { return Some((single, granularity)) };
    if single.is_some() {
        let message = format!("(preAggregations.{}.timeDimensions) is not allowed", about.name);
        report.error(place, mark, message).hint =
            Some("'time_dimension' and 'time_dimensions' exclude each other".to_owned());
    }
    let mut nodes = fields.list("time_dimensions", place, report);
    if nodes.len() > 1 {
        let message = "several time dimensions are not supported by this version; this pre-aggregation is left out";
        report.warn(place, mark, message);
        return None;
    }
    let Some(node) = nodes.pop() else { return Some((single, granularity)) };
    let mut entry = Fields::open(node, "an entry of time_dimensions", place, report)?;
    entry.check_keys(&["dimension", "granularity"], place, report);
    let dimension = entry.text("dimension", place, report);
    if dimension.is_none() {
        report.error(
            place,
            entry.mark,
            format!("(preAggregations.{}.timeDimensions.dimension) is required", about.name),
        );
    }
    Some((dimension, entry.text("granularity", place, report)))
}

/// `build_range_…`, or its old name `refresh_range_…`.
fn read_range(fields: &mut Fields, end: &str, place: &Place, report: &mut Report) -> Option<String> {
    let (key, old) = (format!("build_range_{end}"), format!("refresh_range_{end}"));
    let old_mark = fields.mark_of(&old);
    let current = fields.sql_map(&key, place, report);
    let deprecated = fields.sql_map(&old, place, report);
    if let (Some(mark), Some(_)) = (old_mark, &current) {
        report.warn(place, mark, format!("'{old}' has no effect: '{key}' is given too"));
    }
    let text = current.or(deprecated)?;
    Some(without_references(&text, &key, place, report))
}

/// Reads `refresh_key`. Forms that are not followed here are warned of. `path` names it in messages.
pub(super) fn read_refresh_key(
    fields: &mut Fields,
    path: &str,
    of_cube: bool,
    place: &Place,
    report: &mut Report,
) -> RawRefresh {
    let Some(mark) = fields.mark_of("refresh_key") else { return RawRefresh::Absent };
    let Some(mut key) = fields.map("refresh_key", place, report) else { return RawRefresh::Unsupported };
    let known: &[&str] = if of_cube {
        &["every", "sql", "timezone", "incremental", "update_window", "immutable"]
    } else {
        &["every", "sql", "timezone", "incremental", "update_window"]
    };
    key.check_keys(known, place, report);
    let every = key.text("every", place, report).map(|every| parse_every(&every, path, place, report));
    for form in ["sql", "immutable"] {
        if let Some(at) = key.mark_of(form)
            && key.take(form).is_some_and(|node| !is_false(&node.value))
        {
            unfollowed(&format!("'refresh_key.{form}'"), at, place, report);
            return RawRefresh::Unsupported;
        }
    }
    for option in ["incremental", "update_window", "timezone"] {
        if let Some(at) = key.mark_of(option)
            && key.take(option).is_some_and(|node| !is_false(&node.value))
        {
            let message = format!("'refresh_key.{option}' has no effect in this version");
            let hint =
                (option == "incremental").then(|| "every partition is refreshed, not the latest only".to_owned());
            report.warn(place, at, message).hint = hint;
        }
    }
    every.unwrap_or_else(|| {
        report.error(place, mark, format!("({path}.every) is required")).hint =
            Some("for example 'every: 1 hour'".to_owned());
        RawRefresh::Unsupported
    })
}

fn is_false(value: &Value) -> bool {
    matches!(value, Value::Scalar(scalar) if scalar.text == "false")
}

fn unfollowed(what: &str, mark: Mark, place: &Place, report: &mut Report) {
    let message = format!("{what} is not followed by this version; rollups that rely on it are not refreshed by age");
    report.warn(place, mark, message).hint = Some("write 'every: 1 hour' or the like".to_owned());
}

fn parse_every(every: &Text, path: &str, place: &Place, report: &mut Report) -> RawRefresh {
    if let Some(duration) = parse_interval(&every.text) {
        return RawRefresh::Every(duration);
    }
    if looks_like_cron(&every.text) {
        unfollowed("a cron expression in 'refresh_key.every'", every.mark, place, report);
    } else {
        let message = format!(
            "({path}.every = {}) does not match regexp: /^(\\d+) (second|minute|hour|day|week)s?$/",
            every.text
        );
        report.error(place, every.mark, message).hint = Some("for example '30 minutes' or '1 day'".to_owned());
    }
    RawRefresh::Unsupported
}

/// `^\d+ (second|minute|hour|day|week)s?$`.
fn parse_interval(text: &str) -> Option<Duration> {
    let (count, unit) = text.split_once(' ')?;
    let seconds: u64 = match unit.strip_suffix('s').unwrap_or(unit) {
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
    count.parse::<u64>().ok()?.checked_mul(seconds).map(Duration::from_secs)
}

/// Five or six fields of digits, `*`, `/`, `,`, `-` and names.
fn looks_like_cron(text: &str) -> bool {
    let fields: Vec<&str> = text.split_whitespace().collect();
    matches!(fields.len(), 5 | 6)
        && fields.iter().all(|field| field.chars().all(|c| c.is_ascii_alphanumeric() || "*/,-?#".contains(c)))
        && fields[0].starts_with(|c: char| c.is_ascii_digit() || c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_a_count_and_a_unit() {
        for (text, seconds) in [
            ("1 second", Some(1)),
            ("30 minutes", Some(1_800)),
            ("1 hour", Some(3_600)),
            ("2 day", Some(172_800)),
            ("1 weeks", Some(604_800)),
            ("1 month", None),
            ("1  hour", None),
            (" 1 hour", None),
            ("+1 hour", None),
            ("-1 hour", None),
            ("hour", None),
            ("1 hourss", None),
            ("99999999999999999999 weeks", None),
            ("18446744073709551615 weeks", None),
        ] {
            assert_eq!(parse_interval(text), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn cron_expressions_are_told_from_typing_errors() {
        assert!(looks_like_cron("0 8 * * *"));
        assert!(looks_like_cron("*/5 0 8 * * MON-FRI"));
        assert!(!looks_like_cron("1 hour"));
        assert!(!looks_like_cron("every day at 8 o'clock"));
    }
}
