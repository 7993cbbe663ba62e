//! Stored table + wanted range → the partitions to read, or why they do not cover it.
//!
//! This is where "never an answer with days missing" is decided: a rollup may be used only for a
//! range all of whose buckets are published, and for time outside the table's range only when the
//! source is known to have nothing there.

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

    #[test]
    fn the_reasons_read_after_the_name_of_a_rollup() {
        let february = Bounds { start: at("2024-02-01"), end: at("2024-03-01") };
        let reason = Uncovered::MissingPartition(february).to_string();
        assert_eq!(reason, "its partition from 2024-02-01T00:00:00.000 has not been built yet");
    }
}
