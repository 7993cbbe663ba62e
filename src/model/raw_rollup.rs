//! Pre-aggregations as they are written (`pre-aggregations.md` §2).

use super::fields::{Fields, Place, Report, Text, without_references};
use super::raw::{About, read_about};
use super::raw_preagg::{RawKind, RawOptions, read_kind, read_options};
use super::raw_refresh::{RawRefresh, read_refresh_key};
use super::yaml::{Mark, Node};

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
#[derive(Debug, Clone)]
pub(super) struct RawRollup {
    pub(super) about: About,
    /// None when this version leaves it out.
    pub(super) body: Option<RollupBody>,
}

#[derive(Debug, Clone)]
pub(super) struct RollupBody {
    pub(super) kind: RawKind,
    pub(super) options: RawOptions,
    pub(super) measures: Vec<Text>,
    pub(super) dimensions: Vec<Text>,
    pub(super) segments: Vec<Text>,
    /// The first decides partitions and build range.
    pub(super) times: Vec<RawTime>,
    /// `granularity` without a time dimension to go with.
    pub(super) lone_granularity: Option<Mark>,
    pub(super) partition_granularity: Option<Text>,
    pub(super) build_range_start: Option<String>,
    pub(super) build_range_end: Option<String>,
    pub(super) refresh: RawRefresh,
    pub(super) scheduled_refresh: bool,
    pub(super) external: bool,
    /// `allow_non_strict_date_range_match: false`.
    pub(super) strict: bool,
}

/// A time dimension and how finely it is stored.
#[derive(Debug, Clone)]
pub(super) struct RawTime {
    pub(super) dimension: Text,
    pub(super) granularity: Option<Text>,
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
    check_generations(fields, place, report);
    let kind = read_kind(fields, about, report)?;
    let options = read_options(fields, about, report);
    let (times, lone_granularity) = read_times(fields, about, report);
    let path = format!("preAggregations.{}.refreshKey", about.name);
    let (build_range_start, build_range_end) =
        (read_range(fields, "start", place, report), read_range(fields, "end", place, report));
    Some(RollupBody {
        measures: references(fields, "measures", "measure_references", place, report),
        dimensions: references(fields, "dimensions", "dimension_references", place, report),
        segments: references(fields, "segments", "segment_references", place, report),
        times,
        lone_granularity,
        partition_granularity: fields.text("partition_granularity", place, report),
        build_range_start,
        build_range_end,
        refresh: read_refresh_key(fields, &path, false, place, report),
        scheduled_refresh: fields
            .flag("scheduled_refresh", place, report)
            .unwrap_or(kind.is_stored() && !report.unscheduled),
        external: fields.flag("external", place, report).unwrap_or(!matches!(kind, RawKind::OriginalSql)),
        strict: fields.flag("allow_non_strict_date_range_match", place, report) == Some(false),
        kind,
        options,
    })
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

/// The time dimensions with their granularities, of both ways to write them; and a granularity that belongs to none.
fn read_times(fields: &mut Fields, about: &About, report: &mut Report) -> (Vec<RawTime>, Option<Mark>) {
    let place = &about.place;
    let current = fields.text("time_dimension", place, report);
    let single = fields.text("time_dimension_reference", place, report).or(current);
    let granularity = fields.text("granularity", place, report);
    let listed = fields.mark_of("time_dimensions");
    if let (Some(mark), Some(_)) = (listed, &single) {
        let message = format!("(preAggregations.{}.timeDimensions) is not allowed", about.name);
        report.error(place, mark, message).hint =
            Some("'time_dimension' and 'time_dimensions' exclude each other".to_owned());
    }
    let mut times: Vec<RawTime> = Vec::new();
    for node in fields.list("time_dimensions", place, report) {
        times.extend(read_entry(node, about, report));
    }
    match single {
        Some(dimension) => {
            times.insert(0, RawTime { dimension, granularity });
            (times, None)
        }
        None => (times, granularity.map(|granularity| granularity.mark)),
    }
}

/// An entry of `time_dimensions`.
fn read_entry(node: Node, about: &About, report: &mut Report) -> Option<RawTime> {
    let place = &about.place;
    let mut entry = Fields::open(node, "an entry of time_dimensions", place, report)?;
    entry.check_keys(&["dimension", "granularity"], place, report);
    let dimension = entry.text("dimension", place, report);
    if dimension.is_none() {
        let message = format!("(preAggregations.{}.timeDimensions.dimension) is required", about.name);
        report.error(place, entry.mark, message);
    }
    Some(RawTime { dimension: dimension?, granularity: entry.text("granularity", place, report) })
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
