//! Selection + source's time range → which partitions of which tables to build.
//!
//! A look at the source gives the table's state: the range of whole buckets from its first to its
//! last row, and whether nothing lies outside. What to store of it and what to build is then decided
//! by the pure [`choose`].

use std::time::Duration;

use arrow::array::{Array as _, ArrayRef, AsArray as _};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMicrosecondType};
use quarry_storage::{Bounds, TableId, TableState};

use super::originals::with_originals;
use super::{RefreshError, RefreshParts, Selection};
use crate::engine::Batches;
use crate::model::{Preagg, PreaggId, PreaggKind};
use crate::preagg::partition::{self, TooManyBuckets, bucket_of, buckets_within};
use crate::query::QueryError;
use crate::query::rollups::Rollups;
use crate::sources::Source;
use crate::time::{Granularity, Zone, utc_to_local};

/// A rollup in a time zone.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) preagg: PreaggId,
    /// `cube.rollup`.
    pub(super) path: String,
    pub(super) zone: Zone,
    pub(super) table: TableId,
    /// The defining cube's.
    pub(super) data_source: String,
    /// None when it is unpartitioned.
    pub(super) granularity: Option<Granularity>,
}

impl Target {
    /// The target of a rollup in a zone.
    pub(super) fn new(rollups: &Rollups, preagg: &Preagg, zone: Zone) -> Result<Self, QueryError> {
        let cube = rollups.model().cube(preagg.id.cube);
        Ok(Self {
            preagg: preagg.id,
            path: format!("{}.{}", cube.name, preagg.name),
            zone: rollups.stored_zone(preagg.id, zone),
            table: rollups.table(preagg.id, zone)?,
            data_source: cube.data_source.clone(),
            granularity: partition::granularity_of(preagg),
        })
    }
}

/// What a selection's names select, by zone, then in the order of the model. Unknown names match nothing.
pub(super) fn targets(rollups: &Rollups, selection: &Selection, zones: &[Zone]) -> Result<Vec<Target>, QueryError> {
    let admits = |names: &[String], name: &str| names.is_empty() || names.iter().any(|n| n == name);
    let mut found = Vec::new();
    for zone in zones {
        for cube in rollups.model().cubes() {
            if !admits(&selection.cubes, &cube.name) || !admits(&selection.data_sources, &cube.data_source) {
                continue;
            }
            let selected = cube.preaggs.iter().filter(|preagg| {
                preagg.is_stored() && admits(&selection.preaggs, &format!("{}.{}", cube.name, preagg.name))
            });
            for preagg in selected.flat_map(|preagg| with_originals(rollups, preagg.id)) {
                let preagg = rollups.model().preagg(preagg);
                let target = Target::new(rollups, preagg, *zone)?;
                // The rows of a cube are one table in all zones, and may be wanted by several.
                let shared = preagg.kind == PreaggKind::OriginalSql;
                if !shared || !found.iter().any(|known: &Target| known.table == target.table) {
                    found.push(target);
                }
            }
        }
    }
    Ok(found)
}

/// What is to be built of a table, and what is known of it from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chosen {
    /// The partitions, ascending; a single none for an unpartitioned table.
    pub(super) buckets: Vec<Option<Bounds>>,
    /// What is known now.
    pub(super) before: TableState,
    /// To be stored.
    pub(super) state: TableState,
}

/// Which partitions of a table a request is about.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted<'a> {
    /// A date range, both ends inclusive.
    pub(super) range: Option<(i64, i64)>,
    /// Where partitions begin; empty for all.
    pub(super) starts: &'a [i64],
}

impl Wanted<'_> {
    fn is_everything(&self) -> bool {
        self.range.is_none() && self.starts.is_empty()
    }

    fn admits(&self, bucket: Bounds) -> bool {
        partition::is_selected(Some(bucket), self.range)
            && (self.starts.is_empty() || self.starts.contains(&bucket.start))
    }
}

/// Chooses what a job request builds. `seen` is what the source has now, `stored` what is known of the
/// table, `wanted` what the request asks for.
///
/// Without restriction everything is built and the state is what was seen. With one, a table that is
/// known keeps its state, but for selected buckets next to its range: they are built now, so the table
/// may claim them. It must not claim new buckets that were not selected: nobody builds them, and the
/// table would be unusable for want of them.
pub(super) fn choose(
    granularity: Option<Granularity>,
    seen: TableState,
    stored: TableState,
    wanted: Wanted<'_>,
    max: usize,
) -> Result<Chosen, TooManyBuckets> {
    let Some(granularity) = granularity else {
        // It has no partition that could be named; a date range always means it.
        let buckets = if wanted.starts.is_empty() { vec![None] } else { Vec::new() };
        return Ok(Chosen { buckets, before: stored, state: seen });
    };
    let cut = |range: Option<Bounds>| match range {
        Some(range) => buckets_within(granularity, range, max),
        None => Ok(Vec::new()),
    };
    let known = if wanted.is_everything() { TableState::default() } else { stored };
    let mut buckets = cut(seen.range)?;
    buckets.extend(cut(known.range)?);
    buckets.sort_unstable_by_key(|bucket| (bucket.start, bucket.end));
    buckets.dedup();
    if buckets.len() > max {
        return Err(TooManyBuckets { count: buckets.len(), max });
    }
    buckets.retain(|bucket| wanted.admits(*bucket));
    let state = match known.range {
        None => seen,
        Some(range) => extended(TableState { range: Some(range), ..known }, seen, &buckets),
    };
    Ok(Chosen { buckets: buckets.into_iter().map(Some).collect(), before: stored, state })
}

/// `stored` with the buckets of `built` that adjoin its range.
pub(super) fn extended(stored: TableState, seen: TableState, built: &[Bounds]) -> TableState {
    let Some(mut range) = stored.range else { return stored };
    for bucket in built {
        if bucket.start == range.end {
            range.end = bucket.end;
        }
    }
    for bucket in built.iter().rev() {
        if bucket.end == range.start {
            range.start = bucket.start;
        }
    }
    let holds_all = seen.range.is_some_and(|seen| range.start <= seen.start && seen.end <= range.end);
    TableState { range: Some(range), complete: stored.complete || (seen.complete && holds_all) }
}

/// Asks the source for the range of a table's data, for `limit` at most.
pub(super) async fn look(
    parts: &RefreshParts,
    rollups: &Rollups,
    target: &Target,
    limit: Duration,
) -> Result<TableState, RefreshError> {
    tokio::time::timeout(limit, ask(parts, rollups, target)).await.unwrap_or(Err(RefreshError::Timeout(limit)))
}

async fn ask(parts: &RefreshParts, rollups: &Rollups, target: &Target) -> Result<TableState, RefreshError> {
    let Some(granularity) = target.granularity else {
        return Ok(TableState { range: None, complete: true });
    };
    let source = find_source(parts, &target.data_source)?;
    let statement = rollups.range_sql(target.preagg, target.zone)?;
    let statement = statement.ok_or_else(|| QueryError::Model(format!("'{}' has no time dimension", target.path)))?;
    let seen = read_times(&source.collect(statement).await.map_err(QueryError::from)?)?;
    let preagg = rollups.model().preagg(target.preagg);
    let zone = target.zone;
    let given = Given {
        start: read_given(source, preagg.build_range_start.as_deref(), zone).await?,
        end: read_given(source, preagg.build_range_end.as_deref(), zone).await?,
    };
    let now = utc_to_local(parts.clock.now(), zone);
    Ok(plan_state(granularity, seen, given, now))
}

/// The source of that name.
pub(super) fn find_source<'a>(parts: &'a RefreshParts, name: &str) -> Result<&'a Source, QueryError> {
    parts.sources.get(name).ok_or_else(|| QueryError::Model(format!("Data source '{name}' is not configured")))
}

/// What [`Rollups::range_sql`] says, in local microseconds.
#[derive(Debug, Clone, Copy, Default)]
struct SourceTimes {
    first: Option<i64>,
    last: Option<i64>,
    rows_without_time: i64,
}

/// What `build_range_start` and `build_range_end` say, in local microseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Given {
    start: Option<i64>,
    end: Option<i64>,
}

/// The range of whole buckets that a table is meant for (`pre-aggregations.md` §6.1): as given, else as
/// seen; one end stands for the other when that is unknown, and now for both. None when the given start
/// is after the end: there is nothing to build.
fn plan_state(granularity: Granularity, seen: SourceTimes, given: Given, now: i64) -> TableState {
    let (first, last) = match (given.start.or(seen.first), given.end.or(seen.last)) {
        (Some(first), Some(last)) => (first, last),
        (Some(one), None) | (None, Some(one)) => (one, one),
        (None, None) => (now, now),
    };
    if first > last {
        return TableState { range: None, complete: false };
    }
    let range = Bounds { start: bucket_of(granularity, first).start, end: bucket_of(granularity, last).end };
    let holds = |time: Option<i64>| time.is_none_or(|time| range.start <= time && time < range.end);
    let complete = seen.rows_without_time == 0 && holds(seen.first) && holds(seen.last);
    TableState { range: Some(range), complete }
}

fn read_times(batches: &Batches) -> Result<SourceTimes, QueryError> {
    let local = DataType::Timestamp(TimeUnit::Microsecond, None);
    let Some(row) = batches.batches.iter().find(|batch| batch.num_rows() > 0) else {
        return Ok(SourceTimes::default());
    };
    let [first, last, without] = row.columns() else {
        return Err(QueryError::Model("the statement for a rollup's time range gave other columns".to_owned()));
    };
    let without = cast(without, &DataType::Int64).map_err(|e| QueryError::Model(e.to_string()))?;
    let without = without.as_primitive::<Int64Type>();
    Ok(SourceTimes {
        first: read_time(first, &local)?,
        last: read_time(last, &local)?,
        rows_without_time: if without.is_null(0) { 0 } else { without.value(0) },
    })
}

/// Runs the SQL of a build range's end. A value with a zone means what it says, one without is UTC.
async fn read_given(source: &Source, sql: Option<&str>, zone: Zone) -> Result<Option<i64>, QueryError> {
    let Some(sql) = sql else { return Ok(None) };
    let batches = source.collect(sql.to_owned()).await?;
    Ok(read_instant(&batches)?.map(|instant| utc_to_local(instant, zone)))
}

fn read_instant(batches: &Batches) -> Result<Option<i64>, QueryError> {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
    match batches.batches.iter().find(|batch| batch.num_rows() > 0).and_then(|batch| batch.columns().first()) {
        Some(column) => read_time(column, &utc),
        None => Ok(None),
    }
}

/// The first value of a column of times, dates or texts of such, as a timestamp in microseconds.
fn read_time(column: &ArrayRef, wanted: &DataType) -> Result<Option<i64>, QueryError> {
    let is_time = matches!(
        column.data_type(),
        DataType::Timestamp(..)
            | DataType::Date32
            | DataType::Date64
            | DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Null
    );
    if !is_time {
        let found = column.data_type();
        return Err(QueryError::Model(format!("the build range of a rollup must be a time, not {found}")));
    }
    let value = column.slice(0, 1);
    let time = cast(&value, wanted).map_err(|e| QueryError::Model(e.to_string()))?;
    if time.is_null(0) {
        // A cast of text answers null for what it cannot read.
        return if value.is_null(0) || value.data_type() == &DataType::Null {
            Ok(None)
        } else {
            Err(QueryError::Model("the build range of a rollup is not a readable time".to_owned()))
        };
    }
    Ok(Some(time.as_primitive::<TimestampMicrosecondType>().value(0)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Date32Array, Int32Array, Int64Array, NullArray, StringArray, TimestampNanosecondArray};
    use arrow::record_batch::RecordBatch;

    use super::*;
    use crate::time::to_micros;

    fn at(text: &str) -> i64 {
        let text = if text.len() == 10 { format!("{text}T00:00:00") } else { text.to_owned() };
        to_micros(text.parse().expect("a timestamp"))
    }

    fn state(start: &str, end: &str, complete: bool) -> TableState {
        TableState { range: Some(Bounds { start: at(start), end: at(end) }), complete }
    }

    fn seen(first: &str, last: &str) -> SourceTimes {
        SourceTimes { first: Some(at(first)), last: Some(at(last)), rows_without_time: 0 }
    }

    fn given(start: &str, end: &str) -> Given {
        let side = |text: &str| (!text.is_empty()).then(|| at(text));
        Given { start: side(start), end: side(end) }
    }

    #[track_caller]
    fn check_state(seen: SourceTimes, given: Given, expected: TableState) {
        assert_eq!(plan_state(Granularity::Month, seen, given, at("2026-05-06")), expected);
    }

    #[test]
    fn the_range_of_a_table_is_whole_buckets_around_its_data() {
        let data = seen("2024-01-15T10:00:00", "2024-03-01");
        check_state(data, given("", ""), state("2024-01-01", "2024-04-01", true));
        let nameless = SourceTimes { rows_without_time: 1, ..data };
        check_state(nameless, given("", ""), state("2024-01-01", "2024-04-01", false));
    }

    #[test]
    fn a_given_range_wins_and_is_complete_only_when_it_holds_all_rows() {
        let data = seen("2024-01-15", "2024-03-02");
        check_state(data, given("2024-02-10", "2024-02-11"), state("2024-02-01", "2024-03-01", false));
        check_state(data, given("2024-01-20", ""), state("2024-01-01", "2024-04-01", true));
        check_state(data, given("", "2024-02-29"), state("2024-01-01", "2024-03-01", false));
        check_state(data, given("2020-01-01", "2024-12-31"), state("2020-01-01", "2025-01-01", true));
    }

    #[test]
    fn an_empty_source_has_the_current_bucket() {
        check_state(SourceTimes::default(), given("", ""), state("2026-05-01", "2026-06-01", true));
        check_state(SourceTimes::default(), given("2024-02-10", ""), state("2024-02-01", "2024-03-01", true));
        let nameless = SourceTimes { rows_without_time: 3, ..SourceTimes::default() };
        check_state(nameless, given("", ""), state("2026-05-01", "2026-06-01", false));
    }

    #[test]
    fn a_given_range_that_ends_before_it_starts_has_no_buckets() {
        let nothing = TableState { range: None, complete: false };
        check_state(seen("2024-01-15", "2024-03-02"), given("2025-01-01", ""), nothing);
        let chosen =
            choose(Some(Granularity::Month), nothing, TableState::default(), Wanted::default(), 10).expect("few");
        assert_eq!(chosen, Chosen { buckets: vec![], before: TableState::default(), state: nothing });
    }

    #[test]
    fn rows_beyond_the_calendar_make_a_table_incomplete() {
        let data = SourceTimes { first: Some(at("2024-01-15")), last: Some(i64::MAX), rows_without_time: 0 };
        let planned = plan_state(Granularity::Year, data, Given::default(), 0);
        assert!(!planned.complete);
        assert_eq!(planned.range.map(|range| range.start), Some(at("2024-01-01")));
    }

    /// Months built, by their starts.
    #[track_caller]
    fn check_choice(
        seen: TableState,
        stored: TableState,
        range: Option<[&str; 2]>,
        built: &[&str],
        expected: TableState,
    ) {
        let range = range.map(|[start, end]| (at(start), at(end)));
        let wanted = Wanted { range, starts: &[] };
        let chosen = choose(Some(Granularity::Month), seen, stored, wanted, 100).expect("few buckets");
        let starts: Vec<i64> = chosen.buckets.iter().flatten().map(|bucket| bucket.start).collect();
        assert_eq!(starts, built.iter().map(|text| at(text)).collect::<Vec<_>>());
        assert_eq!(chosen.state, expected);
    }

    #[test]
    fn a_selection_without_range_builds_what_was_seen_and_forgets_what_was_stored() {
        let now = state("2024-02-01", "2024-04-01", true);
        let before = state("2024-01-01", "2024-03-01", false);
        check_choice(now, before, None, &["2024-02-01", "2024-03-01"], now);
    }

    #[test]
    fn a_range_on_an_unknown_table_builds_only_the_range_of_all_that_was_seen() {
        let now = state("2024-01-01", "2024-04-01", true);
        check_choice(now, TableState::default(), Some(["2024-02-01", "2024-02-05"]), &["2024-02-01"], now);
    }

    #[test]
    fn a_range_on_a_known_table_leaves_its_state() {
        let (now, before) = (state("2024-01-01", "2024-05-01", true), state("2024-01-01", "2024-03-01", true));
        check_choice(now, before, Some(["2024-01-01", "2024-01-31"]), &["2024-01-01"], before);
        // April is built but March is not: claiming it would leave the table with a hole.
        check_choice(now, before, Some(["2024-04-01", "2024-04-30"]), &["2024-04-01"], before);
    }

    #[test]
    fn a_range_may_select_new_buckets_and_those_next_to_the_table_join_it() {
        let (now, before) = (state("2023-12-01", "2024-05-01", true), state("2024-01-01", "2024-03-01", false));
        let after = state("2024-01-01", "2024-04-01", false);
        check_choice(now, before, Some(["2024-02-10", "2024-03-10"]), &["2024-02-01", "2024-03-01"], after);
        let all = ["2023-12-01", "2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01"];
        check_choice(now, before, Some(["2000-01-01", "2030-01-01"]), &all, now);
    }

    #[test]
    fn named_partitions_are_chosen_by_their_start_and_an_unpartitioned_table_has_none() {
        let (now, before) = (state("2024-01-01", "2024-05-01", true), state("2024-01-01", "2024-03-01", true));
        let starts = [at("2024-02-01"), at("2024-03-01"), at("2024-03-02")];
        let wanted = Wanted { range: None, starts: &starts };
        let chosen = choose(Some(Granularity::Month), now, before, wanted, 100).expect("few buckets");
        let found: Vec<i64> = chosen.buckets.iter().flatten().map(|bucket| bucket.start).collect();
        assert_eq!(found, starts[..2]);
        assert_eq!(chosen.state, state("2024-01-01", "2024-04-01", true), "March joins the table");
        let both = Wanted { range: Some((at("2024-01-01"), at("2024-02-05"))), starts: &starts };
        let chosen = choose(Some(Granularity::Month), now, before, both, 100).expect("few buckets");
        assert_eq!((chosen.buckets.len(), chosen.state), (1, before));
        let whole = TableState { range: None, complete: true };
        let chosen = choose(None, whole, whole, wanted, 100).expect("none");
        assert!(chosen.buckets.is_empty());
    }

    #[test]
    fn buckets_that_the_source_has_lost_can_still_be_selected() {
        let (now, before) = (state("2024-03-01", "2024-04-01", true), state("2024-01-01", "2024-03-01", true));
        check_choice(now, before, Some(["2024-01-05", "2024-01-06"]), &["2024-01-01"], before);
    }

    #[test]
    fn an_unpartitioned_table_is_one_build_and_too_many_buckets_are_refused() {
        let whole = TableState { range: None, complete: true };
        let chosen =
            choose(None, whole, TableState::default(), Wanted { range: Some((1, 0)), starts: &[] }, 1).expect("one");
        assert_eq!(chosen.buckets, [None]);
        let (now, before) = (state("2024-03-01", "2024-05-01", true), state("2024-01-01", "2024-03-01", true));
        let range = Some((at("2024-01-01"), at("2024-01-02")));
        let wanted = Wanted { range, starts: &[] };
        let error = choose(Some(Granularity::Month), now, before, wanted, 3).expect_err("four buckets");
        assert_eq!(error, TooManyBuckets { count: 4, max: 3 });
        assert!(choose(Some(Granularity::Month), now, before, Wanted::default(), 3).is_ok(), "only two are wanted");
    }

    fn one(columns: Vec<ArrayRef>) -> Batches {
        let names = ["a", "b", "c"];
        let batch = RecordBatch::try_from_iter(names.into_iter().zip(columns)).expect("columns of one row");
        Batches { schema: batch.schema(), batches: vec![batch.slice(0, 0), batch] }
    }

    #[test]
    fn the_source_s_times_are_read_as_they_are() {
        let nanos: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![at("2024-01-15") * 1_000]));
        let text: ArrayRef = Arc::new(StringArray::from(vec!["2024-01-15T01:02:03"]));
        let count: ArrayRef = Arc::new(Int64Array::from(vec![7]));
        let times = read_times(&one(vec![nanos, text, Arc::clone(&count)])).expect("times");
        assert_eq!((times.first, times.last), (Some(at("2024-01-15")), Some(at("2024-01-15T01:02:03"))));
        assert_eq!(times.rows_without_time, 7);
        let nothing: ArrayRef = Arc::new(NullArray::new(1));
        let times = read_times(&one(vec![Arc::clone(&nothing), nothing, count])).expect("times");
        assert_eq!((times.first, times.last), (None, None));
    }

    #[track_caller]
    fn check_instant(column: ArrayRef, expected: Option<&str>) {
        let found = read_instant(&one(vec![column])).expect("a time");
        assert_eq!(found, expected.map(at));
    }

    #[test]
    fn a_build_range_without_zone_is_utc_and_with_one_is_honoured() {
        let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text])) };
        check_instant(text("2024-01-01"), Some("2024-01-01"));
        check_instant(text("2024-01-01 02:00:00"), Some("2024-01-01T02:00:00"));
        check_instant(text("2024-01-01T02:00:00+05:30"), Some("2023-12-31T20:30:00"));
        check_instant(text("2024-01-01T02:00:00Z"), Some("2024-01-01T02:00:00"));
        let nanos = TimestampNanosecondArray::from(vec![at("2024-01-15") * 1_000]);
        check_instant(Arc::new(nanos.clone()), Some("2024-01-15"));
        check_instant(Arc::new(nanos.with_timezone("-08:00")), Some("2024-01-15"));
        check_instant(Arc::new(Date32Array::from(vec![19_723])), Some("2024-01-01"));
        check_instant(Arc::new(NullArray::new(1)), None);
        check_instant(Arc::new(StringArray::from(vec![None::<&str>])), None);
    }

    #[test]
    fn a_build_range_that_is_no_time_is_a_fault_of_the_model() {
        let number: ArrayRef = Arc::new(Int32Array::from(vec![20_240_101]));
        let word: ArrayRef = Arc::new(StringArray::from(vec!["yesterday"]));
        for column in [number, word] {
            let error = read_instant(&one(vec![column])).expect_err("no time");
            assert!(error.to_string().contains("build range of a rollup"), "{error}");
        }
    }
}
