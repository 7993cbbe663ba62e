//! Stored table + wanted range → the partitions to read, or why they do not cover it.
//!
//! This is where "never an answer with days missing" is decided: a rollup may be used only for a
//! range all of whose buckets are published, and for time outside the table's range only when the
//! source is known to have nothing there.

use std::fmt;
use std::sync::Arc;

use quarry_storage::{Bounds, Partition, Table, TableState};

use super::partition::bucket_of;
use crate::time::{Granularity, format_local};

/// A half-open range of wall-clock microseconds of the rollup's zone; without an end it is open there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LocalRange {
    /// First microsecond inside.
    pub start: Option<i64>,
    /// First microsecond after.
    pub end: Option<i64>,
}

impl LocalRange {
    /// Whether no instant lies inside (also for a reversed range).
    pub fn is_empty(self) -> bool {
        matches!((self.start, self.end), (Some(start), Some(end)) if start >= end)
    }

    /// Whether a partition may hold something of it.
    pub fn meets(self, bucket: Option<Bounds>) -> bool {
        let is_before = |bucket: Bounds| self.end.is_some_and(|end| end <= bucket.start);
        let is_after = |bucket: Bounds| self.start.is_some_and(|start| bucket.end <= start);
        bucket.is_none_or(|bucket| !is_before(bucket) && !is_after(bucket))
    }
}

impl fmt::Display for LocalRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.start, self.end) {
            (Some(start), Some(end)) => write!(f, "from {} to {}", format_local(start), format_local(end)),
            (Some(start), None) => write!(f, "from {} on", format_local(start)),
            (None, Some(end)) => write!(f, "before {}", format_local(end)),
            (None, None) => f.write_str("of all rows"),
        }
    }
}

/// One of several tables that cover time together.
pub struct Layer<'a> {
    /// The table; none when nothing of it was ever published.
    pub table: Option<&'a Table>,
    /// How it is cut into partitions; none when it is one.
    pub granularity: Option<Granularity>,
    /// Which of its partitions may be used.
    pub usable: &'a dyn Fn(&Partition) -> bool,
    /// Whether the source has nothing before its first bucket.
    pub nothing_before: bool,
    /// Whether the source has nothing after its last bucket.
    pub nothing_after: bool,
}

/// What several tables give for the wanted ranges.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cover {
    /// The partitions to read, a list a layer, ascending. No two share an instant.
    pub partitions: Vec<Vec<Arc<Partition>>>,
    /// What no layer holds and the source may have rows in, ascending.
    pub gaps: Vec<LocalRange>,
}

impl fmt::Debug for Layer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer").field("granularity", &self.granularity).finish_non_exhaustive()
    }
}

/// Covers wanted ranges with the partitions of several tables: earlier tables win, and later ones add whole buckets
/// of their own where the earlier ones have none.
pub fn cover(layers: &[Layer<'_>], wanted: &[LocalRange]) -> Cover {
    let mut usable: Vec<Vec<&Arc<Partition>>> = Vec::with_capacity(layers.len());
    let mut spans = Vec::with_capacity(layers.len());
    for layer in layers {
        let (mut own, mut extents) = (Vec::new(), Vec::new());
        for partition in layer.table.into_iter().flat_map(|table| table.partitions.values()) {
            if let Some(extent) = extent(layer, partition).filter(|_| (layer.usable)(partition)) {
                own.push(partition);
                extents.push(extent);
            }
        }
        let range = layer.table.and_then(|table| table.state.range);
        let Layer { nothing_before, nothing_after, .. } = *layer;
        usable.push(own);
        spans.push(Span { extents, range, nothing_before, nothing_after });
    }
    let (picked, gaps) = assign(&spans, wanted);
    let partitions = picked.iter().zip(usable).map(|(picked, own)| {
        let own = picked.iter().filter_map(|at| own.get(*at));
        own.map(|partition| Arc::clone(partition)).collect()
    });
    Cover { partitions: partitions.collect(), gaps }
}

/// What a layer holds: one extent a partition.
struct Span {
    extents: Vec<(i64, i64)>,
    /// What it is meant to hold.
    range: Option<Bounds>,
    nothing_before: bool,
    nothing_after: bool,
}

/// The numbers of the extents that are wanted and not held by an earlier layer, and what is left.
fn assign(layers: &[Span], wanted: &[LocalRange]) -> (Vec<Vec<usize>>, Vec<LocalRange>) {
    let mut covered: Vec<(i64, i64)> = Vec::new();
    let mut picked = Vec::with_capacity(layers.len());
    for layer in layers {
        let is_new = |(start, end): (i64, i64)| {
            let asked = wanted.iter().any(|range| overlaps(*range, (start, end)));
            asked && covered.iter().all(|(from, to)| *to <= start || end <= *from)
        };
        let own: Vec<usize> = (0..layer.extents.len()).filter(|at| is_new(layer.extents[*at])).collect();
        covered.extend(own.iter().map(|at| layer.extents[*at]));
        picked.push(own);
    }
    let ranges = || layers.iter().filter_map(|layer| Some((layer, layer.range?)));
    if let Some((first, range)) = ranges().min_by_key(|(_, range)| range.start)
        && first.nothing_before
    {
        covered.push((i64::MIN, range.start));
    }
    if let Some((last, range)) = ranges().max_by_key(|(_, range)| range.end)
        && last.nothing_after
    {
        covered.push((range.end, i64::MAX));
    }
    covered.sort_unstable();
    (picked, wanted.iter().flat_map(|range| gaps_of(*range, &covered)).collect())
}

/// The time that a partition holds; none when it is not of the table as it is cut and planned now.
fn extent(layer: &Layer<'_>, partition: &Partition) -> Option<(i64, i64)> {
    match (layer.granularity, partition.bucket) {
        (None, None) => Some((i64::MIN, i64::MAX)),
        (Some(granularity), Some(bucket)) => {
            let planned = layer.table?.state.range?;
            let inside = planned.start <= bucket.start && bucket.end <= planned.end;
            (inside && bucket_of(granularity, bucket.start) == bucket).then_some((bucket.start, bucket.end))
        }
        (None, Some(_)) | (Some(_), None) => None,
    }
}

fn overlaps(range: LocalRange, (start, end): (i64, i64)) -> bool {
    !range.is_empty() && range.start.unwrap_or(i64::MIN) < end && start < range.end.unwrap_or(i64::MAX)
}

/// The parts of a range outside of sorted, disjoint ones.
fn gaps_of(range: LocalRange, covered: &[(i64, i64)]) -> Vec<LocalRange> {
    if range.is_empty() {
        return Vec::new();
    }
    let (mut next, end) = (range.start.unwrap_or(i64::MIN), range.end.unwrap_or(i64::MAX));
    let open = |at: i64| (at != i64::MIN && at != i64::MAX).then_some(at);
    let mut gaps = Vec::new();
    for (from, to) in covered {
        if *from >= end || next >= end {
            break;
        }
        if next < *from {
            gaps.push(LocalRange { start: open(next), end: open(*from) });
        }
        next = next.max(*to);
    }
    if next < end {
        gaps.push(LocalRange { start: open(next), end: open(end) });
    }
    gaps
}

/// Why a table cannot answer for a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Uncovered {
    /// Nothing of the table was ever planned or published.
    #[error("it has not been built yet")]
    NotBuilt,
    /// The wanted range needs a bucket that is not published.
    #[error("its partition from {} has not been built yet", format_local(.0.start))]
    MissingPartition(Bounds),
    /// Of several tables none holds this part of the wanted range, and the source may have rows there.
    #[error("none of its partitions holds the time {0}")]
    Gap(LocalRange),
    /// The source has, or may have, rows without time, and partitions hold none.
    #[error("it holds no rows without time, and the source may have some")]
    Untimed,
    /// The source has, or may have, rows in the wanted range that lie outside the table's.
    #[error("the query needs data outside of its build range, {} to {}", format_local(.0.start), format_local(.0.end))]
    OutsideBuildRange(Bounds),
}

/// The partitions of a table that hold every row the source had in the wanted range, ascending in
/// time. `granularity` is the rollup's partition granularity, none for an unpartitioned one.
///
/// Only buckets inside the table's range are read. A full rebuild may have shrunk that range, and
/// what was published outside of it before is then out of date.
///
/// # Errors
/// See [`Uncovered`].
pub fn covering(
    table: &Table,
    granularity: Option<Granularity>,
    wanted: LocalRange,
) -> Result<Vec<Arc<Partition>>, Uncovered> {
    let Some(granularity) = granularity else {
        let whole = table.partitions.values().find(|partition| partition.bucket.is_none());
        let whole = whole.ok_or(Uncovered::NotBuilt)?;
        return Ok(if wanted.is_empty() { Vec::new() } else { vec![Arc::clone(whole)] });
    };
    let mut found = Vec::new();
    for bucket in needed_buckets(table.state, granularity, wanted)? {
        // A partition of other bounds is of another granularity: it may lack rows, or repeat them.
        let published = table.partitions.get(&bucket.start).filter(|partition| partition.bucket == Some(bucket));
        found.push(Arc::clone(published.ok_or(Uncovered::MissingPartition(bucket))?));
    }
    Ok(found)
}

/// The buckets of a partitioned table that hold all the source has in the wanted range, ascending.
fn needed_buckets(state: TableState, granularity: Granularity, wanted: LocalRange) -> Result<Vec<Bounds>, Uncovered> {
    let built = state.range.ok_or(Uncovered::NotBuilt)?;
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let (start, end) = (wanted.start.unwrap_or(i64::MIN), wanted.end.unwrap_or(i64::MAX));
    if !state.complete && (start < built.start || built.end < end) {
        return Err(Uncovered::OutsideBuildRange(built));
    }
    let (mut next, end) = (start.max(built.start), end.min(built.end));
    let mut needed = Vec::new();
    while next < end {
        let bucket = bucket_of(granularity, next);
        if bucket.end <= next {
            // Beyond the calendar that buckets are cut from; a range planned by us never gets there.
            return Err(Uncovered::OutsideBuildRange(built));
        }
        next = bucket.end;
        needed.push(bucket);
    }
    Ok(needed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::to_micros;

    fn at(text: &str) -> i64 {
        to_micros(format!("{text}T00:00:00").parse().expect("a date"))
    }

    /// A table meant for January to March 2024, and whether the source has nothing else.
    fn state(complete: bool) -> TableState {
        TableState { range: Some(Bounds { start: at("2024-01-01"), end: at("2024-04-01") }), complete }
    }

    fn wanted(start: &str, end: &str) -> LocalRange {
        let side = |text: &str| (!text.is_empty()).then(|| at(text));
        LocalRange { start: side(start), end: side(end) }
    }

    /// The months needed, by number, for a range whose empty ends are open.
    #[track_caller]
    fn check(state: TableState, start: &str, end: &str, expected: &[usize]) {
        let months = ["2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01"].map(at);
        let needed = needed_buckets(state, Granularity::Month, wanted(start, end)).expect("covered");
        let expected: Vec<Bounds> =
            expected.iter().map(|month| Bounds { start: months[month - 1], end: months[*month] }).collect();
        assert_eq!(needed, expected, "{start} to {end}");
    }

    #[track_caller]
    fn check_refused(state: TableState, start: &str, end: &str, expected: Uncovered) {
        let needed = needed_buckets(state, Granularity::Month, wanted(start, end));
        assert_eq!(needed, Err(expected), "{start} to {end}");
    }

    #[test]
    fn buckets_that_share_an_instant_are_needed() {
        for complete in [false, true] {
            check(state(complete), "2024-01-01", "2024-04-01", &[1, 2, 3]);
            check(state(complete), "2024-01-31", "2024-02-01", &[1]);
            check(state(complete), "2024-01-31", "2024-02-02", &[1, 2]);
            check(state(complete), "2024-02-10", "2024-02-11", &[2]);
            check(state(complete), "2024-03-31", "2024-04-01", &[3]);
        }
    }

    #[test]
    fn time_outside_the_build_range_is_covered_only_when_the_source_has_nothing_there() {
        let outside = Uncovered::OutsideBuildRange(Bounds { start: at("2024-01-01"), end: at("2024-04-01") });
        for (start, end, needed) in [
            ("", "", &[1, 2, 3][..]),
            ("2024-03-05", "", &[3]),
            ("", "2024-01-05", &[1]),
            ("2023-12-31", "2024-01-02", &[1]),
            ("2024-03-01", "2024-04-02", &[3]),
            ("2030-01-01", "2030-02-01", &[]),
            ("", "2020-01-01", &[]),
            ("2024-04-01", "", &[]),
        ] {
            check(state(true), start, end, needed);
            check_refused(state(false), start, end, outside);
        }
    }

    #[test]
    fn a_range_that_holds_no_instant_needs_no_partition() {
        check(state(false), "2024-02-01", "2024-02-01", &[]);
        check(state(false), "2030-02-01", "2020-02-01", &[]);
    }

    #[test]
    fn a_table_never_planned_covers_nothing() {
        check_refused(TableState::default(), "2024-02-01", "2024-02-02", Uncovered::NotBuilt);
        let complete = TableState { range: None, complete: true };
        check_refused(complete, "2024-02-01", "2024-02-01", Uncovered::NotBuilt);
        let table = Table::default();
        assert_eq!(covering(&table, None, LocalRange::default()), Err(Uncovered::NotBuilt));
        assert_eq!(covering(&table, Some(Granularity::Day), LocalRange::default()), Err(Uncovered::NotBuilt));
    }

    #[test]
    fn a_planned_table_without_partitions_names_the_first_missing_one() {
        let table = Table { state: state(true), ..Table::default() };
        let february = Bounds { start: at("2024-02-01"), end: at("2024-03-01") };
        let found = covering(&table, Some(Granularity::Month), wanted("2024-02-10", ""));
        assert_eq!(found, Err(Uncovered::MissingPartition(february)));
        assert_eq!(covering(&table, Some(Granularity::Month), wanted("2025-01-01", "")), Ok(Vec::new()));
    }

    /// A layer of these months of 2024, planned for them and what lies between.
    fn months(published: &[i64], [nothing_before, nothing_after]: [bool; 2]) -> Span {
        let month = |number: i64| at(&format!("2024-{number:02}-01"));
        let extents: Vec<(i64, i64)> = published.iter().map(|number| (month(*number), month(*number + 1))).collect();
        let range = extents.first().zip(extents.last()).map(|(first, last)| Bounds { start: first.0, end: last.1 });
        Span { extents, range, nothing_before, nothing_after }
    }

    /// The extents taken of each layer, by number, and the gaps.
    #[track_caller]
    fn check_layers(layers: &[Span], start: &str, end: &str, expected: &str) {
        let (picked, gaps) = assign(layers, &[wanted(start, end)]);
        let gaps: Vec<String> = gaps.iter().map(|gap| gap.to_string().replace("T00:00:00.000", "")).collect();
        assert_eq!(format!("{picked:?} {}", gaps.join("; ")), expected, "{start} to {end}");
    }

    #[test]
    fn earlier_layers_win_and_what_none_holds_is_a_gap() {
        let open = [false, false];
        let both = |early: [bool; 2], late: [bool; 2]| [months(&[1, 2], early), months(&[2, 3], late)];
        check_layers(&both(open, open), "2024-01-10", "2024-03-20", "[[0, 1], [1]] ");
        check_layers(&[months(&[2, 3], open), months(&[1, 2], open)], "2024-01-10", "2024-03-20", "[[0, 1], [0]] ");
        check_layers(&both(open, open), "2024-03-05", "2024-03-06", "[[], [1]] ");
        let outside = "[[0, 1], [1]] before 2024-01-01; from 2024-04-01 on";
        check_layers(&both(open, open), "", "", outside);
        check_layers(&both([true, false], [false, true]), "", "", "[[0, 1], [1]] ");
        // It is the outermost layer that knows of what lies outside.
        check_layers(&both([false, true], [true, false]), "", "", outside);
        let holey = || months(&[1, 3], open);
        check_layers(&[holey()], "2024-01-01", "2024-04-01", "[[0, 1]] from 2024-02-01 to 2024-03-01");
        check_layers(&[holey(), months(&[2, 3], open)], "2024-01-01", "2024-04-01", "[[0, 1], [0]] ");
        check_layers(&[holey()], "2024-02-10", "2024-02-10", "[[]] ");
        check_layers(&[holey()], "2025-01-01", "2025-02-01", "[[]] from 2025-01-01 to 2025-02-01");
        check_layers(&[], "", "", "[] of all rows");
    }

    #[test]
    fn the_reasons_read_after_the_name_of_a_rollup() {
        let february = Bounds { start: at("2024-02-01"), end: at("2024-03-01") };
        let reason = Uncovered::MissingPartition(february).to_string();
        assert_eq!(reason, "its partition from 2024-02-01T00:00:00.000 has not been built yet");
    }
}
