//! Measures as they are written.

use serde_json::Value as Json;

use super::cube::{AggKind, DataType};
use super::fields::{Fields, Place, Report, Text, snake_case};
use super::format::FormatOf;
use super::policy::Mask;
use super::raw::{About, read_about};
use super::raw_member::{RawMask, RawShown, read_filters, read_format, read_mask, read_shown, read_sql};
use super::stage::{Extent, RollingWindow, WindowOffset};
use crate::names::nearest;
use crate::time::{Granularity, Interval};

const MEASURE_KEYS: [&str; 27] = [
    "name",
    "type",
    "sql",
    "filters",
    "title",
    "description",
    "format",
    "currency",
    "meta",
    "public",
    "shown",
    "visible",
    "drill_members",
    "drill_filters",
    "aliases",
    "cumulative",
    "mask",
    "rolling_window",
    "multi_stage",
    "time_shift",
    "case",
    "group_by",
    "reduce_by",
    "add_group_by",
    "grain",
    "filter",
    "order_by",
];

const TYPES: [&str; 13] = [
    "count",
    "count_distinct",
    "count_distinct_approx",
    "sum",
    "avg",
    "min",
    "max",
    "number",
    "number_agg",
    "string",
    "time",
    "boolean",
    "rank",
];

#[derive(Debug, Clone)]
pub(super) struct RawMeasure {
    pub(super) about: About,
    pub(super) format: Option<Json>,
    pub(super) shown: RawShown,
    /// None when the type is missing or unknown.
    pub(super) kind: Option<RawMeasureKind>,
    pub(super) sql: Option<Text>,
    pub(super) filters: Vec<Text>,
    pub(super) drill_filters: Vec<Text>,
    pub(super) drill_members: Vec<Text>,
    pub(super) cumulative: bool,
    pub(super) rolling: Option<RollingWindow>,
    pub(super) stage: Option<RawStage>,
    pub(super) case: Option<RawSwitch>,
    pub(super) order_by: Vec<(Text, bool)>,
    pub(super) mask: Option<RawMask>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RawMeasureKind {
    Aggregate(AggKind),
    Calculated(DataType),
    Rank,
}

/// How a multi-stage measure is computed.
#[derive(Debug, Clone, Default)]
pub(super) struct RawStage {
    pub(super) keep_only: Option<Vec<Text>>,
    pub(super) exclude: Vec<Text>,
    pub(super) include: Vec<Text>,
    pub(super) fixed: bool,
    pub(super) shifts: Vec<RawShift>,
    pub(super) filter: Option<RawFilterRule>,
}

#[derive(Debug, Clone)]
pub(super) struct RawShift {
    pub(super) time_dimension: Option<Text>,
    pub(super) name: Option<String>,
    /// Added to the times of rows.
    pub(super) interval: Option<Interval>,
    pub(super) sql: Option<Text>,
}

#[derive(Debug, Clone)]
pub(super) struct RawFilterRule {
    pub(super) exclude: Vec<Text>,
    pub(super) keep_only: Option<Vec<Text>>,
    pub(super) include: Vec<Json>,
    pub(super) fixed: bool,
}

impl RawStage {
    /// Whether it asks for nothing but what a `case` over this dimension does anyway.
    fn leaves_groups_of(&self, switch: &Text) -> bool {
        let name = |text: &Text| {
            let plain = text.text.trim_matches(['{', '}', ' ']);
            plain.rsplit('.').next().unwrap_or_default().to_owned()
        };
        self.keep_only.is_none()
            && self.exclude.is_empty()
            && self.include.iter().all(|member| name(member) == name(switch))
            && !self.fixed
            && self.shifts.is_empty()
            && self.filter.is_none()
    }
}

/// A `case` over a switch dimension.
#[derive(Debug, Clone)]
pub(super) struct RawSwitch {
    pub(super) switch: Text,
    pub(super) when: Vec<(String, Text)>,
    pub(super) otherwise: Option<Text>,
}

pub(super) fn read_measure(mut fields: Fields, cube: &Place, report: &mut Report) -> RawMeasure {
    let about = read_about(&mut fields, "measure", &MEASURE_KEYS, cube, report);
    let place = &about.place;
    let kind = match fields.text("type", place, report) {
        Some(text) => measure_kind(&text, &about, report),
        None => {
            let message = format!("({}) is required", about.path("measures", "type"));
            report.error(place, about.mark, message).hint = Some("for example 'type: count'".to_owned());
            None
        }
    };
    let cumulative = fields.flag("cumulative", place, report).unwrap_or(false);
    let rolling = read_rolling(&mut fields, &about, report);
    let rule = STAGE_KEYS.iter().find_map(|key| Some((*key, fields.mark_of(key)?)));
    let stage = read_stage(&mut fields, kind, &about, report);
    let case = fields.map("case", place, report).and_then(|case| read_switch(case, place, report));
    if let (Some(case), Some(stage), Some((key, mark))) = (&case, &stage, rule)
        && !stage.leaves_groups_of(&case.switch)
    {
        report.error(place, mark, format!("'{key}' and 'case' exclude each other in this version")).hint =
            Some(format!("put '{key}' on a measure over this one: {{multi_stage: true, sql: \"{{{}}}\"}}", about.name));
    }
    let order_by = read_order(&mut fields, place, report);
    let sql = read_sql(&mut fields, place, report);
    let needs_sql = !matches!(kind, None | Some(RawMeasureKind::Aggregate(AggKind::Count) | RawMeasureKind::Rank));
    if sql.is_none() && needs_sql && case.is_none() {
        report.error(place, about.mark, format!("({}) is required", about.path("measures", "sql")));
    }
    let of = kind.map(|kind| {
        FormatOf::Measure(match kind {
            RawMeasureKind::Calculated(data_type) => data_type,
            RawMeasureKind::Aggregate(_) | RawMeasureKind::Rank => DataType::Number,
        })
    });
    RawMeasure {
        format: read_format(&mut fields, of, place, report),
        shown: read_shown(&mut fields, of, place, report),
        kind,
        filters: read_filters(&mut fields, "filters", place, report),
        drill_filters: read_filters(&mut fields, "drill_filters", place, report),
        drill_members: fields.texts("drill_members", place, report),
        cumulative: cumulative || rolling.is_some(),
        rolling,
        stage,
        case,
        order_by,
        mask: read_mask(&mut fields, place, report),
        sql,
        about,
    }
}

fn measure_kind(text: &Text, about: &About, report: &mut Report) -> Option<RawMeasureKind> {
    use RawMeasureKind::{Aggregate, Calculated, Rank};
    Some(match snake_case(&text.text).as_str() {
        "count" => Aggregate(AggKind::Count),
        "count_distinct" => Aggregate(AggKind::CountDistinct),
        "count_distinct_approx" => Aggregate(AggKind::CountDistinctApprox),
        "sum" => Aggregate(AggKind::Sum),
        "avg" => Aggregate(AggKind::Avg),
        "min" => Aggregate(AggKind::Min),
        "max" => Aggregate(AggKind::Max),
        "number" | "number_agg" => Calculated(DataType::Number),
        "string" => Calculated(DataType::String),
        "time" => Calculated(DataType::Time),
        "boolean" => Calculated(DataType::Boolean),
        "rank" => Rank,
        other => {
            let message = format!(
                "({} = {}) must be one of [count, number, string, boolean, time, sum, avg, min, max, \
                 countDistinct, countDistinctApprox]",
                about.path("measures", "type"),
                text.text
            );
            let hint = nearest(other, TYPES).map(|near| format!("did you mean '{near}'?"));
            report.error(&about.place, text.mark, message).hint = hint;
            return None;
        }
    })
}

const ROLLING_UNITS: &str = "/^(-?\\d+) (minute|hour|day|week|month|quarter|year)s?$/";

fn read_rolling(fields: &mut Fields, about: &About, report: &mut Report) -> Option<RollingWindow> {
    let place = &about.place;
    let mut window = fields.map("rolling_window", place, report)?;
    window.check_keys(&["type", "trailing", "leading", "offset", "granularity"], place, report);
    let kind = window.text("type", place, report);
    let trailing = read_extent(&mut window, "trailing", about, report);
    let leading = read_extent(&mut window, "leading", about, report);
    let offset = window.text("offset", place, report);
    let granularity = window.text("granularity", place, report);
    let to_date = |granularity| Some(RollingWindow::ToDate(granularity));
    match kind.as_ref().map(|kind| kind.text.as_str()) {
        None | Some("fixed") => {}
        Some("year_to_date") => return to_date(Granularity::Year),
        Some("quarter_to_date") => return to_date(Granularity::Quarter),
        Some("month_to_date") => return to_date(Granularity::Month),
        Some("to_date") => {
            let parsed = granularity.as_ref().and_then(|text| Granularity::parse(&text.text));
            if parsed.is_none() {
                let mark = granularity.as_ref().map_or(window.mark, |text| text.mark);
                let path = about.path("measures", "rollingWindow.granularity");
                report.error(place, mark, format!("({path}) must be a standard granularity")).hint =
                    Some("for example 'granularity: year'".to_owned());
            }
            return parsed.and_then(to_date);
        }
        Some(other) => {
            let mark = kind.as_ref().map_or(window.mark, |text| text.mark);
            let path = about.path("measures", "rollingWindow.type");
            report.error(place, mark, format!("({path} = {other}) must be one of [fixed, to_date]"));
        }
    }
    let offset = match offset.as_ref().map(|text| text.text.as_str()) {
        None | Some("end") => WindowOffset::End,
        Some("start") => WindowOffset::Start,
        Some(other) => {
            let mark = offset.as_ref().map_or(window.mark, |text| text.mark);
            let path = about.path("measures", "rollingWindow.offset");
            report.error(place, mark, format!("({path} = {other}) must be one of [start, end]"));
            WindowOffset::End
        }
    };
    Some(RollingWindow::Fixed { trailing, leading, offset })
}

fn read_extent(fields: &mut Fields, key: &str, about: &About, report: &mut Report) -> Extent {
    let Some(text) = fields.text(key, &about.place, report) else { return Extent::NONE };
    if text.text.trim() == "unbounded" {
        return Extent::Unbounded;
    }
    match Interval::parse(&text.text) {
        Some((interval, unit)) if text.text.split_whitespace().count() == 2 && unit != Granularity::Second => {
            Extent::Interval(interval, unit)
        }
        _ => {
            let path = about.path("measures", &format!("rollingWindow.{key}"));
            let message = format!("({path} = {}) does not match regexp: {ROLLING_UNITS}", text.text);
            report.error(&about.place, text.mark, message).hint =
                Some("for example '7 day', or 'unbounded'".to_owned());
            Extent::NONE
        }
    }
}

const STAGE_KEYS: [&str; 6] = ["grain", "group_by", "reduce_by", "add_group_by", "time_shift", "filter"];

fn read_stage(
    fields: &mut Fields,
    kind: Option<RawMeasureKind>,
    about: &About,
    report: &mut Report,
) -> Option<RawStage> {
    let place = &about.place;
    let declared = fields.flag("multi_stage", place, report).unwrap_or(false);
    let given = STAGE_KEYS.iter().find_map(|key| Some((*key, fields.mark_of(key)?)));
    if !declared {
        if let Some((key, mark)) = given {
            report.error(place, mark, format!("'{key}' needs 'multi_stage: true'"));
            STAGE_KEYS.iter().for_each(|key| drop(fields.take(key)));
        } else if kind == Some(RawMeasureKind::Rank) {
            report.error(place, about.mark, "a measure of type rank needs 'multi_stage: true'");
        }
        return (kind == Some(RawMeasureKind::Rank)).then(RawStage::default);
    }
    let mut stage = RawStage::default();
    let legacy = (
        fields.mark_of("group_by").map(|_| fields.texts("group_by", place, report)),
        fields.texts("reduce_by", place, report),
        fields.texts("add_group_by", place, report),
    );
    match fields.map("grain", place, report) {
        Some(mut grain) => {
            grain.check_keys(&["keep_only", "exclude", "include", "mode"], place, report);
            stage.fixed = read_fixed(&mut grain, "grain", place, report);
            stage.keep_only = grain.mark_of("keep_only").map(|_| grain.texts("keep_only", place, report));
            stage.exclude = grain.texts("exclude", place, report);
            stage.include = grain.texts("include", place, report);
            if stage.keep_only.is_some() && !stage.exclude.is_empty() {
                report.error(place, grain.mark, "'keep_only' and 'exclude' exclude each other");
            }
        }
        None => (stage.keep_only, stage.exclude, stage.include) = legacy,
    }
    for node in fields.list("time_shift", place, report) {
        if let Some(shift) = Fields::open(node, "an entry of time_shift", place, report) {
            stage.shifts.extend(read_shift(shift, place, report));
        }
    }
    if stage.shifts.len() > 1 && stage.shifts.iter().any(|shift| shift.time_dimension.is_none()) {
        report.error(place, about.mark, "of several time shifts each must name its 'time_dimension'");
    }
    stage.filter = fields.map("filter", place, report).map(|filter| read_filter_rule(filter, place, report));
    Some(stage)
}

/// A shift of a measure, or one that a calendar's time dimension defines.
pub(super) fn read_shift(mut fields: Fields, place: &Place, report: &mut Report) -> Option<RawShift> {
    fields.check_keys(&["time_dimension", "name", "interval", "type", "sql"], place, report);
    let time_dimension = fields.text("time_dimension", place, report);
    let name = fields.plain("name", place, report);
    let sql = fields.text("sql", place, report);
    let kind = fields.text("type", place, report);
    let interval = fields.text("interval", place, report);
    let sign = match kind.as_ref().map(|kind| kind.text.as_str()) {
        Some("prior") => Some(1),
        Some("next") => Some(-1),
        Some(other) => {
            report.error(place, fields.mark, format!("(timeShift.type = {other}) must be one of [next, prior]"));
            return None;
        }
        None => None,
    };
    let interval = match (interval, sign) {
        (None, _) if name.is_some() => None,
        (None, _) => {
            report.error(place, fields.mark, "a time shift needs an 'interval' or a 'name'").hint =
                Some("for example 'interval: 1 year' and 'type: prior'".to_owned());
            return None;
        }
        (Some(_), None) => {
            report.error(place, fields.mark, "a time shift by 'interval' needs 'type: prior' or 'type: next'");
            return None;
        }
        (Some(text), Some(sign)) => match Interval::parse(&text.text) {
            Some((interval, _)) => Some(if sign > 0 { interval } else { interval.negated() }),
            None => {
                report.error(place, text.mark, format!("Invalid interval: {}", text.text));
                return None;
            }
        },
    };
    Some(RawShift { time_dimension, name, interval, sql })
}

fn read_filter_rule(mut fields: Fields, place: &Place, report: &mut Report) -> RawFilterRule {
    fields.check_keys(&["exclude", "keep_only", "include", "mode"], place, report);
    RawFilterRule {
        fixed: read_fixed(&mut fields, "filter", place, report),
        exclude: fields.texts("exclude", place, report),
        keep_only: fields.mark_of("keep_only").map(|_| fields.texts("keep_only", place, report)),
        include: fields.list("include", place, report).iter().map(super::yaml::Node::to_json).collect(),
    }
}

/// Whether `mode` is `fixed`.
fn read_fixed(fields: &mut Fields, of: &str, place: &Place, report: &mut Report) -> bool {
    let Some(mode) = fields.text("mode", place, report) else { return false };
    if !matches!(mode.text.as_str(), "relative" | "fixed") {
        report.error(place, mode.mark, format!("({of}.mode = {}) must be one of [relative, fixed]", mode.text));
    }
    mode.text == "fixed"
}

fn read_order(fields: &mut Fields, place: &Place, report: &mut Report) -> Vec<(Text, bool)> {
    let mut keys = Vec::new();
    for node in fields.list("order_by", place, report) {
        let Some(mut key) = Fields::open(node, "an entry of order_by", place, report) else { continue };
        key.check_keys(&["sql", "dir"], place, report);
        let direction = key.text("dir", place, report);
        let descending = match direction.as_ref().map(|dir| dir.text.as_str()) {
            None | Some("asc") => false,
            Some("desc") => true,
            Some(other) => {
                report.error(place, key.mark, format!("(orderBy.dir = {other}) must be one of [asc, desc]"));
                false
            }
        };
        match read_sql(&mut key, place, report) {
            Some(sql) => keys.push((sql, descending)),
            None => {
                report.error(place, key.mark, "(orderBy.sql) is required");
            }
        }
    }
    keys
}

/// `{switch, when: [{value, sql}], else: {sql}}`.
pub(super) fn read_switch(mut fields: Fields, place: &Place, report: &mut Report) -> Option<RawSwitch> {
    fields.check_keys(&["switch", "when", "else"], place, report);
    let Some(switch) = fields.text("switch", place, report) else {
        report.error(place, fields.mark, "(case.switch) is required").hint =
            Some("a reference to a dimension of type switch, like '{CUBE.currency}'".to_owned());
        return None;
    };
    let mut when = Vec::new();
    for node in fields.list("when", place, report) {
        let Some(mut branch) = Fields::open(node, "an entry of when", place, report) else { continue };
        branch.check_keys(&["value", "sql"], place, report);
        let value = branch.plain("value", place, report);
        let sql = read_sql(&mut branch, place, report);
        match (value, sql) {
            (Some(value), Some(sql)) => when.push((value, sql)),
            _ => {
                report.error(place, branch.mark, "a branch of 'case' with 'switch' needs 'value' and 'sql'");
            }
        }
    }
    Some(RawSwitch { switch, when, otherwise: fields.sql_map("else", place, report) })
}

/// A mask that is a literal.
pub(super) fn literal_mask(json: &Json) -> Option<Mask> {
    match json {
        Json::Bool(truth) => Some(Mask::Boolean(*truth)),
        Json::Number(number) => Some(Mask::Number(number.to_string())),
        _ => None,
    }
}
