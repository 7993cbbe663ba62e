//! Raw rollups → rollup definitions: members resolved, what can be stored checked (`pre-aggregations.md` §2).

use super::Model;
use super::cube::{Cube, CubeId, DataType, DimensionId, DimensionKind, Grain, MeasureId, MemberId, SegmentId};
use super::fields::{Place, Report, Text};
use super::graph::Graph;
use super::join::{Hint, JoinTree};
use super::preagg::{Preagg, PreaggId, PreaggKind, PreaggTime};
use super::raw::{About, RawCube};
use super::raw_preagg::RawKind;
use super::raw_refresh::RawRefresh;
use super::raw_rollup::{RawTime, RollupBody};
use super::refresh_key::{RefreshKey, applied_keys};
use super::symbols::{Reference, Symbols, Target, did_you_mean, report_unresolved};
use crate::names::nearest;
use crate::time::Granularity;

/// Builds the rollups of a project, once its cubes are there.
#[derive(Debug)]
pub(super) struct RollupBuilder<'r> {
    pub(super) raw: &'r [RawCube],
    pub(super) symbols: &'r Symbols<'r>,
    pub(super) cubes: &'r [Cube],
}

/// Members of a rollup as they are sorted out of its lists.
#[derive(Debug, Default)]
struct Stored {
    paths: Vec<Hint>,
    measures: Vec<MeasureId>,
    dimensions: Vec<DimensionId>,
    segments: Vec<SegmentId>,
}

impl RollupBuilder<'_> {
    /// The rollups of one cube that this version can build.
    pub(super) fn rollups(&self, cube: CubeId, report: &mut Report) -> Vec<Preagg> {
        let raw = &self.raw[cube.index()];
        let mut built = Vec::with_capacity(raw.rollups.len());
        for rollup in &raw.rollups {
            let Some(body) = &rollup.body else { continue };
            let index = u32::try_from(built.len()).expect("fewer than 2^32 definitions");
            built.extend(self.rollup(PreaggId { cube, index }, &rollup.about, body, report));
        }
        built
    }

    fn rollup(&self, id: PreaggId, about: &About, body: &RollupBody, report: &mut Report) -> Option<Preagg> {
        let place = &about.place;
        let mut paths = Vec::new();
        let measures = self.list(id.cube, &body.measures, MEASURES, &mut paths, (place, report));
        let dimensions = self.list(id.cube, &body.dimensions, DIMENSIONS, &mut paths, (place, report));
        let segments = self.list(id.cube, &body.segments, SEGMENTS, &mut paths, (place, report));
        let stored = Stored { paths, measures, dimensions, segments };
        let mut times = self.times(id.cube, about, body, report)?.into_iter();
        let (time, more_times) = (times.next(), times.collect());
        self.check_named(id.cube, body, place, report);
        if let Some(what) = self.not_storable(&stored) {
            report.warn(
                place,
                about.mark,
                format!("it lists {what}, which cannot be stored; this pre-aggregation is left out"),
            );
            return None;
        }
        let has_lists = !(body.measures.is_empty() && body.dimensions.is_empty() && body.segments.is_empty());
        let needs_members = matches!(body.kind, RawKind::Rollup | RawKind::Join(_));
        if needs_members && !has_lists && body.times.is_empty() {
            report.error(place, about.mark, "it stores nothing").hint =
                Some("list 'measures', 'dimensions' or a 'time_dimension'".to_owned());
        }
        let partition_granularity = partition_granularity(about, body, time, report);
        let (mut start, mut end) = (body.build_range_start.clone(), body.build_range_end.clone());
        if partition_granularity.is_none() && body.partition_granularity.is_none() && (start.is_some() || end.is_some())
        {
            report.warn(place, about.mark, "the build range has no effect without 'partition_granularity'");
            (start, end) = (None, None);
        }
        Some(Preagg {
            id,
            name: about.name.clone(),
            kind: kind_of_body(&body.kind),
            paths: stored.paths,
            measures: stored.measures,
            dimensions: stored.dimensions,
            segments: stored.segments,
            time,
            more_times,
            partition_granularity,
            build_range_start: start,
            build_range_end: end,
            refresh_key: self.refresh_key(id.cube, about, &body.refresh, partition_granularity.is_some(), report),
            scheduled_refresh: body.scheduled_refresh,
            external: body.external,
            strict: body.strict,
            use_original_sql: body.options.use_original_sql,
            indexes: Vec::new(),
            sql_alias: body.options.sql_alias.clone(),
            location: place.location(about.mark),
        })
    }

    /// Complains of options that name members which are not there.
    fn check_named(&self, owner: CubeId, body: &RollupBody, place: &Place, report: &mut Report) {
        let options = &body.options;
        for text in options.unique_key_columns.iter().chain(&options.typed_members) {
            self.member(owner, text, "member", place, report);
        }
    }

    /// The rollup's own key.
    fn refresh_key(
        &self,
        owner: CubeId,
        about: &About,
        raw: &RawRefresh,
        partitioned: bool,
        report: &mut Report,
    ) -> Option<RefreshKey> {
        if let RawRefresh::Time { key, mark } = raw
            && key.incremental
            && !partitioned
        {
            let message = format!(
                "Incremental refresh key can only be used for partitioned pre-aggregations but set for non-partitioned \
                 '{}.{}'",
                self.cubes[owner.index()].name,
                about.name
            );
            report.error(&about.place, *mark, message);
        }
        raw.resolve(owner, self.symbols, &about.place, report)
    }

    /// Resolves a list of members of one kind. What cannot be stored is reported.
    fn list<T: PartialEq>(
        &self,
        owner: CubeId,
        texts: &[Text],
        Kind { word: kind, pick }: Kind<T>,
        paths: &mut Vec<Hint>,
        (place, report): (&Place, &mut Report),
    ) -> Vec<T> {
        let mut members = Vec::with_capacity(texts.len());
        for text in texts {
            let Some((path, member)) = self.member(owner, text, kind, place, report) else { continue };
            if !path.is_empty() && !paths.contains(&path) {
                paths.push(path);
            }
            match pick(member) {
                Some(picked) if members.contains(&picked) => {
                    report.warn(place, text.mark, format!("'{}' is listed twice", text.text));
                }
                Some(picked) => members.push(picked),
                None => {
                    report.error(place, text.mark, format!("'{}' is not a {kind}", text.text)).hint =
                        Some(format!("it is a {}", kind_of(member)));
                }
            }
        }
        members
    }

    fn member(
        &self,
        owner: CubeId,
        text: &Text,
        kind: &str,
        place: &Place,
        report: &mut Report,
    ) -> Option<(Hint, MemberId)> {
        match self.symbols.reference(&text.text, owner) {
            Ok(Reference { path, target: Target::Member(member) }) => Some((path, member)),
            Ok(Reference { target: Target::Cube(_) | Target::Time(..), .. }) => {
                report.error(place, text.mark, format!("'{}' is not a {kind}", text.text));
                None
            }
            Err(why) => {
                report_unresolved(why, place, text.mark, report);
                None
            }
        }
    }

    /// A member that is computed over results or from a list, and so has no column to store.
    fn not_storable(&self, stored: &Stored) -> Option<String> {
        let name = |cube: &Cube, name: &str| format!("'{}.{name}'", cube.name);
        let measures = stored.measures.iter().map(|id| {
            let cube = &self.cubes[id.cube.index()];
            let measure = &cube.measures[id.index as usize];
            measure.stage.is_some().then(|| format!("the multi-stage measure {}", name(cube, &measure.name)))
        });
        let dimensions = stored.dimensions.iter().map(|id| {
            let cube = &self.cubes[id.cube.index()];
            let dimension = &cube.dimensions[id.index as usize];
            matches!(dimension.kind, DimensionKind::Switch(_))
                .then(|| format!("the switch dimension {}", name(cube, &dimension.name)))
        });
        measures.chain(dimensions).flatten().next()
    }

    /// The time dimensions; none when the rollup is faulty.
    fn times(&self, owner: CubeId, about: &About, body: &RollupBody, report: &mut Report) -> Option<Vec<PreaggTime>> {
        let place = &about.place;
        if let Some(mark) = body.lone_granularity {
            let message = if body.times.is_empty() {
                "'granularity' has no effect without 'time_dimension'"
            } else {
                "'granularity' has no effect beside 'time_dimensions': each entry has its own"
            };
            report.warn(place, mark, message);
        }
        let grouped = !matches!(body.kind, RawKind::OriginalSql);
        let mut times: Vec<PreaggTime> = Vec::with_capacity(body.times.len());
        let mut faulty = false;
        for raw in &body.times {
            match self.time(owner, about, (raw, grouped), report) {
                Some(time) if times.contains(&time) => {
                    report.warn(place, raw.dimension.mark, format!("'{}' is listed twice", raw.dimension.text));
                }
                Some(time) => times.push(time),
                None => faulty = true,
            }
        }
        (!faulty).then_some(times)
    }

    /// A time dimension; none when it is faulty.
    fn time(
        &self,
        owner: CubeId,
        about: &About,
        (body, grouped): (&RawTime, bool),
        report: &mut Report,
    ) -> Option<PreaggTime> {
        let (place, text) = (&about.place, &body.dimension);
        if body.granularity.is_none() && grouped {
            let message = format!("(preAggregations.{}.granularity) is required", about.name);
            report.error(place, text.mark, message).hint = Some("for example 'granularity: day'".to_owned());
        }
        let dimension = match self.member(owner, text, "time dimension", place, report)? {
            (_, MemberId::Dimension(dimension)) => dimension,
            (_, MemberId::Measure(_) | MemberId::Segment(_)) => {
                report.error(place, text.mark, format!("'{}' is not a time dimension", text.text));
                return None;
            }
        };
        let raw = self.symbols.raw_dimension(dimension);
        if raw.data_type.is_some_and(|data_type| data_type != DataType::Time) {
            report.error(place, text.mark, format!("'{}' is not a time dimension", text.text)).hint =
                Some("its type must be time".to_owned());
            return None;
        }
        if !grouped {
            // Rows keep their own times; what cuts them into partitions is made of seconds.
            return Some(PreaggTime::standard(dimension, Granularity::Second));
        }
        let granularity = body.granularity.as_ref()?;
        if let Some(parsed) = parse_granularity(&granularity.text) {
            return Some(PreaggTime::standard(dimension, parsed));
        }
        let known = &self.cubes[dimension.cube.index()].dimensions[dimension.index as usize].granularities;
        let Some(index) = known.iter().position(|custom| custom.name == granularity.text) else {
            let custom = known.iter().map(|custom| custom.name.as_str());
            let words = Granularity::ALL.map(Granularity::as_str).into_iter().chain(custom);
            let hint = nearest(&granularity.text, words).map(did_you_mean);
            let message = format!("'{}' is not a granularity of '{}'", granularity.text, text.text);
            report.error(place, granularity.mark, message).hint = hint;
            return None;
        };
        let kind = &known[index].kind;
        Some(PreaggTime {
            dimension,
            grain: Grain::Custom(u32::try_from(index).ok()?),
            // Of buckets that an expression gives nothing is known.
            granularity: kind.made_of().unwrap_or(Granularity::Second),
            fills: kind.fills(),
        })
    }
}

/// Without the rollups that it names: these are looked up when all are there.
fn kind_of_body(kind: &RawKind) -> PreaggKind {
    match kind {
        RawKind::Rollup => PreaggKind::Rollup,
        RawKind::OriginalSql => PreaggKind::OriginalSql,
        RawKind::Join(_) => PreaggKind::Join { rollups: Vec::new() },
        RawKind::Lambda { union_with_source, .. } => {
            PreaggKind::Lambda { rollups: Vec::new(), union_with_source: *union_with_source }
        }
    }
}

/// A kind of members that a rollup stores.
struct Kind<T> {
    /// What people call it.
    word: &'static str,
    /// The id, of a member of this kind.
    pick: fn(MemberId) -> Option<T>,
}

const MEASURES: Kind<MeasureId> = Kind { word: "measure", pick: as_measure };
const DIMENSIONS: Kind<DimensionId> = Kind { word: "dimension", pick: as_dimension };
const SEGMENTS: Kind<SegmentId> = Kind { word: "segment", pick: as_segment };

fn as_measure(member: MemberId) -> Option<MeasureId> {
    if let MemberId::Measure(id) = member { Some(id) } else { None }
}

fn as_dimension(member: MemberId) -> Option<DimensionId> {
    if let MemberId::Dimension(id) = member { Some(id) } else { None }
}

fn as_segment(member: MemberId) -> Option<SegmentId> {
    if let MemberId::Segment(id) = member { Some(id) } else { None }
}

fn kind_of(member: MemberId) -> &'static str {
    match member {
        MemberId::Measure(_) => "measure",
        MemberId::Dimension(_) => "dimension",
        MemberId::Segment(_) => "segment",
    }
}

/// Model files write granularities in lower case.
fn parse_granularity(text: &str) -> Option<Granularity> {
    Granularity::ALL.into_iter().find(|granularity| granularity.as_str() == text)
}

fn partition_granularity(
    about: &About,
    body: &RollupBody,
    time: Option<PreaggTime>,
    report: &mut Report,
) -> Option<Granularity> {
    let text = body.partition_granularity.as_ref()?;
    let place = &about.place;
    let Some(granularity) = parse_granularity(&text.text).filter(|granularity| *granularity >= Granularity::Hour)
    else {
        let message = format!(
            "(preAggregations.{}.partitionGranularity = {}) must be one of [hour, day, week, month, quarter, year]",
            about.name, text.text
        );
        let words = ["hour", "day", "week", "month", "quarter", "year"];
        report.error(place, text.mark, message).hint = nearest(&text.text, words).map(did_you_mean);
        return None;
    };
    let Some(time) = time else {
        if body.times.is_empty() {
            report.warn(place, text.mark, "'partition_granularity' has no effect without 'time_dimension'");
        }
        return None;
    };
    // Buckets of a custom granularity may lie in several partitions: their rows are put together again.
    if matches!(time.grain, Grain::Standard(_)) && granularity < time.granularity {
        let message = format!("partitions of a {granularity} are finer than the granularity, {}", time.granularity);
        report.error(place, text.mark, message).hint =
            Some(format!("use 'partition_granularity: {}' or a coarser one", time.granularity));
    }
    Some(granularity)
}

/// The cubes of each rollup must join, and lie in one data source.
pub(super) fn check_joins(model: &Model, raw: &[RawCube], graph: &Graph<'_>, report: &mut Report) {
    for cube in model.cubes() {
        for preagg in &cube.preaggs {
            let mut hints: Vec<Hint> = preagg.paths.clone();
            for member in preagg.members() {
                let read = std::iter::once(member.cube()).chain(graph.cubes_read(member).iter().copied());
                for cube in read.map(|cube| vec![cube]) {
                    if !hints.contains(&cube) {
                        hints.push(cube);
                    }
                }
            }
            // A join of rollups is looked at by itself; its cubes may lie apart.
            if hints.is_empty() || matches!(preagg.kind, PreaggKind::Join { .. }) {
                continue;
            }
            let Some(rollups) = raw.get(cube.id.index()).map(|raw| &raw.rollups) else { continue };
            let Some(about) = rollups.iter().map(|r| &r.about).find(|about| about.name == preagg.name) else {
                continue;
            };
            if preagg.kind == PreaggKind::OriginalSql && hints.iter().flatten().any(|used| *used != cube.id) {
                let message =
                    format!("the rows of '{}' cannot be cut by a time that is computed from other cubes", cube.name);
                report.error(&about.place, about.mark, message);
                continue;
            }
            let tree = match model.join_tree(&hints) {
                Ok(tree) => tree,
                Err(error) => {
                    report.error(&about.place, about.mark, error.to_string());
                    continue;
                }
            };
            if preagg.is_stored() {
                warn_of_keyless_cubes(model, preagg, &tree, about, report);
            }
            let mut sources: Vec<&str> = tree.cubes().map(|id| model.cube(id).data_source.as_str()).collect();
            sources.sort_unstable();
            sources.dedup();
            if sources.len() > 1 {
                let message = format!("its cubes lie in several data sources: {}", sources.join(", "));
                report.error(&about.place, about.mark, message);
            }
        }
    }
}

/// A cube without a key beside cubes with keys lets the rollup be rebuilt all the time (trap T11).
fn warn_of_keyless_cubes(model: &Model, preagg: &Preagg, tree: &JoinTree, about: &About, report: &mut Report) {
    let cubes: Vec<CubeId> = tree.cubes().collect();
    applied_keys(model, preagg, &cubes, &mut |cube| {
        let name = &model.cube(cube).name;
        let message = format!("it is refreshed every 10 seconds, because the cube '{name}' has no refresh_key");
        report.warn(&about.place, about.mark, message).hint =
            Some(format!("give a refresh_key to '{name}' or to this pre-aggregation"));
    });
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_one, compile, model, render, shop};
    use super::*;

    /// The first rollup of `orders` of a shop with this `pre_aggregations` entry.
    #[track_caller]
    fn rollup(entry: &str, more: &str) -> Preagg {
        let source = with_rollup(entry, more);
        let compiled = compile(&source).unwrap_or_else(|faults| panic!("{}", render(&faults)));
        let mut cubes = compiled.model;
        cubes.cubes.swap_remove(1).preaggs.swap_remove(0)
    }

    fn with_rollup(entry: &str, more: &str) -> String {
        shop("", "", &format!("pre_aggregations:\n  - {{name: main, {entry}}}\n{more}"))
    }

    const TIMED: &str = "measures: [total], time_dimension: created_at, granularity: day";

    #[test]
    fn members_may_be_written_in_every_form() {
        let source = with_rollup(
            "measures: [total, CUBE.count, users.user_count], dimensions: [orders.status, '{users.city}'], segments: [paid], \
             timeDimension: CUBE.created_at, granularity: day",
            "",
        );
        let model = model(&source);
        let rollup = &model.find_cube("orders").expect("orders").preaggs[0];
        let paths =
            |members: Vec<MemberId>| members.into_iter().map(|m| model.path_of(m)).collect::<Vec<_>>().join(" ");
        let measures = rollup.measures.iter().map(|id| MemberId::Measure(*id)).collect();
        let dimensions = rollup.dimensions.iter().map(|id| MemberId::Dimension(*id)).collect();
        assert_eq!(paths(measures), "orders.total orders.count users.user_count");
        assert_eq!(paths(dimensions), "orders.status users.city");
        assert_eq!(rollup.segments.len(), 1);
        let time = rollup.time.expect("a time dimension");
        assert_eq!(model.path_of(MemberId::Dimension(time.dimension)), "orders.created_at");
        assert_eq!(time.granularity, Granularity::Day);
        assert!(rollup.scheduled_refresh);
    }

    #[test]
    fn whether_it_is_scheduled_is_said_or_set() {
        assert!(rollup(TIMED, "").scheduled_refresh);
        assert!(!rollup(&format!("{TIMED}, scheduled_refresh: false"), "").scheduled_refresh);
        let compile = |entry: &str| {
            let files = [(std::path::PathBuf::from("m.yml"), with_rollup(entry, ""))];
            let context = crate::model::CompileContext { scheduled_refresh: false, ..Default::default() };
            super::super::compile::compile_sources(&files, &context).expect("a sound model").model
        };
        let is_scheduled = |model: &Model| model.find_cube("orders").expect("orders").preaggs[0].scheduled_refresh;
        assert!(!is_scheduled(&compile(TIMED)));
        assert!(is_scheduled(&compile(&format!("{TIMED}, scheduled_refresh: true"))));
    }

    #[test]
    fn a_keyless_cube_beside_keyed_ones_is_warned_of() {
        let warning = "warning: orders.main: it is refreshed every 10 seconds, because the cube 'users' has no \
                       refresh_key | give a refresh_key to 'users' or to this pre-aggregation";
        let joined = "measures: [total], dimensions: [users.city]";
        check_one(&with_rollup(joined, "refresh_key: {every: 1 day}"), warning);
        check_one(&with_rollup(&format!("{joined}, refresh_key: {{every: 1 day}}"), "refresh_key: {every: 1 day}"), "");
        check_one(&with_rollup(joined, ""), "");
    }

    #[test]
    fn ranges_and_partitions_are_kept() {
        let partitioned = format!(
            "{TIMED}, partition_granularity: month, build_range_start: {{sql: \"SELECT '2024-01-01'\"}}, \
             refresh_range_end: {{sql: SELECT NOW()}}"
        );
        let rollup = rollup(&partitioned, "");
        assert_eq!(rollup.partition_granularity, Some(Granularity::Month));
        assert_eq!(rollup.build_range_start.as_deref(), Some("SELECT '2024-01-01'"));
        assert_eq!(rollup.build_range_end.as_deref(), Some("SELECT NOW()"));
    }

    #[test]
    fn a_single_time_dimension_may_stand_in_a_list() {
        let rollup = rollup("measures: [total], timeDimensions: [{dimension: created_at, granularity: week}]", "");
        assert_eq!(rollup.time.map(|time| time.granularity), Some(Granularity::Week));
    }

    #[test]
    fn several_times_are_kept_and_the_first_one_leads() {
        let times = "time_dimensions: [{dimension: created_at, granularity: day}, \
                     {dimension: created_at, granularity: month}]";
        let rollup = rollup(&format!("measures: [total], {times}, partition_granularity: month"), "");
        let grains: Vec<Granularity> = rollup.times().map(|time| time.granularity).collect();
        assert_eq!(grains, [Granularity::Day, Granularity::Month]);
        assert!(!rollup.straddles());
    }

    #[test]
    fn strictness_is_read() {
        assert!(!rollup(TIMED, "").strict);
        assert!(rollup(&format!("{TIMED}, allow_non_strict_date_range_match: false"), "").strict);
    }

    #[test]
    fn the_old_names_of_keys_are_read() {
        let old = "measureReferences: [total], dimension_references: [status], segment_references: [paid], \
                   timeDimensionReference: created_at, granularity: day";
        let rollup = rollup(old, "");
        assert_eq!((rollup.measures.len(), rollup.dimensions.len(), rollup.segments.len()), (1, 1, 1));
        assert!(rollup.time.is_some());
    }

    #[track_caller]
    fn check(entry: &str, expected: &str) {
        check_one(&with_rollup(entry, ""), expected);
    }

    #[test]
    fn faulty_definitions_are_explained() {
        check(
            "type: rollup",
            "error: orders.main: it stores nothing | list 'measures', 'dimensions' or a 'time_dimension'",
        );
        check_one(
            &shop("", "", "pre_aggregations: [{name: main}]"),
            "error: orders.main: (preAggregations.main.type) is required",
        );
        check("measures: [totl]", "error: orders.main: totl is not defined | did you mean 'total'?");
        check("measures: [status]", "error: orders.main: 'status' is not a measure | it is a dimension");
        check("dimensions: [users]", "error: orders.main: 'users' is not a dimension");
        check(
            "dimensions: [main]",
            "error: orders.main: 'orders.main' is a pre-aggregation and cannot be referenced here",
        );
        check(
            "measures: [total], time_dimension: created_at",
            "error: orders.main: (preAggregations.main.granularity) is required | for example 'granularity: day'",
        );
        check(
            "measures: [total], time_dimension: status, granularity: day",
            "error: orders.main: 'status' is not a time dimension | its type must be time",
        );
        check(
            "measures: [total], time_dimension: created_at, granularity: mnth",
            "error: orders.main: 'mnth' is not a granularity of 'created_at' | did you mean 'month'?",
        );
        check(
            &format!("{TIMED}, partition_granularity: minute"),
            "error: orders.main: (preAggregations.main.partitionGranularity = minute) must be one of [hour, day, week, \
             month, quarter, year]",
        );
        check(
            "measures: [total], time_dimension: created_at, granularity: month, partition_granularity: day",
            "error: orders.main: partitions of a day are finer than the granularity, month | \
             use 'partition_granularity: month' or a coarser one",
        );
        check(
            "measures: [total], dimension_references: [status]",
            "error: orders.main: [timeDimensionReference, rollupReferences, measureReferences, dimensionReferences, \
             segmentReferences] are deprecated, please, use [timeDimension, timeDimensions, rollups, measures, \
             dimensions, segments] instead",
        );
        check(
            "type: auto_rollup, measures: [total]",
            "error: orders.main: Auto rollups supported only in Enterprise version",
        );
        check(
            "type: rolup, measures: [total]",
            "error: orders.main: (preAggregations.main.type = rolup) must be one of [autoRollup, originalSql, \
             rollupJoin, rollup] | did you mean 'rollup'?",
        );
    }

    #[test]
    fn what_is_left_out_or_without_effect_is_warned_of() {
        check(
            "measures: [total], partition_granularity: month, granularity: day",
            "warning: orders.main: 'partition_granularity' has no effect without 'time_dimension'\n\
             warning: orders.main: 'granularity' has no effect without 'time_dimension'",
        );
        check(
            &format!("{TIMED}, build_range_start: {{sql: SELECT 1}}"),
            "warning: orders.main: the build range has no effect without 'partition_granularity'",
        );
        check(&format!("{TIMED}, external: true, indexes: [{{name: i, columns: [orders__created_at_day]}}]"), "");
        check("measures: [total, orders.total]", "warning: orders.main: 'orders.total' is listed twice");
        check(
            "measures: [total], time_dimensions: [{dimension: created_at, granularity: day}, {dimension: created_at, granularity: day}]",
            "warning: orders.main: 'created_at' is listed twice",
        );
        check(
            "measures: [total], granularity: day, time_dimensions: [{dimension: created_at, granularity: day}]",
            "warning: orders.main: 'granularity' has no effect beside 'time_dimensions': each entry has its own",
        );
    }

    #[test]
    fn what_is_computed_over_results_cannot_be_stored() {
        let source = |measure: &str| shop(measure, "", "pre_aggregations: [{name: main, measures: [m]}]");
        check_one(&source("- {name: m, type: sum, sql: x, rolling_window: {trailing: unbounded}}"), "");
        check_one(
            &source("- {name: m, type: number, sql: '{total}', multi_stage: true}"),
            "warning: orders.main: it lists the multi-stage measure 'orders.m', which cannot be stored; this \
             pre-aggregation is left out",
        );
    }

    #[test]
    fn its_cubes_must_join_in_one_data_source() {
        let stranger = "  - name: items\n    sql_table: items\n    data_source: far\n    measures:\n      - {name: n, type: max, sql: x}\n";
        let source = format!("{}{stranger}", with_rollup("measures: [total, items.n]", ""));
        check_one(&source, "error: orders.main: Can't find join path to join 'orders', 'items'");
        let join = "    joins:\n      - {name: items, relationship: one_to_one, sql: x}\n";
        let joined = source.replacen("    joins:\n", join, 1);
        check_one(&joined, "error: orders.main: its cubes lie in several data sources: default, far");
        check_one(&joined.replace("far", "default"), "");
    }
}
