//! What answers and partitions are made of: rows of the fact as one state has them, with the places of one state.
//!
//! The two need not be one state: a rollup of stored rows joins them with the places of today, a join of rollups puts
//! together what each of them was built from.

use quarry::time::{Zone, local_to_utc, utc_to_local};

use super::state::{Row, State};

/// A row as it is seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) row: &'a Row,
    /// Of the row.
    pub(super) version: usize,
    pub(super) place: Option<&'a str>,
}

/// Some time, in UTC microseconds, and whether rows without time are meant too.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Within {
    pub(super) from: i64,
    pub(super) until: i64,
    pub(super) untimed: bool,
}

/// Rows of one version with the places of another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Slice {
    pub(super) sales: usize,
    pub(super) places: usize,
    pub(super) within: Within,
}

/// Rows that were read together; no row is in two of the slices.
pub(super) type Content = Vec<Slice>;

impl Within {
    /// All rows.
    pub(super) const ALL: Self = Self { from: i64::MIN, until: i64::MAX, untimed: true };

    /// A range of a zone's wall clock; the ends of the numbers stand for open ones.
    pub(super) fn local((from, until): (i64, i64), zone: Zone) -> Self {
        let utc = |at: i64| if at == i64::MIN || at == i64::MAX { at } else { local_to_utc(at, zone) };
        Self { from: utc(from), until: utc(until), untimed: false }
    }

    /// What is in both.
    pub(super) fn and(self, other: Self) -> Self {
        let (from, until) = (self.from.max(other.from), self.until.min(other.until));
        Self { from, until, untimed: self.untimed && other.untimed }
    }

    fn holds(self, at: Option<i64>) -> bool {
        at.map_or(self.untimed, |at| self.from <= at && at < self.until)
    }
}

impl Slice {
    /// Rows and places of one version.
    pub(super) fn of(version: usize, within: Within) -> Self {
        Self { sales: version, places: version, within }
    }

    fn rows(self, states: &[State]) -> impl Iterator<Item = Seen<'_>> {
        let (sales, places) = (&states[self.sales], &states[self.places].places);
        let rows = sales.rows.iter().filter(move |row| self.within.holds(row.at));
        rows.map(move |row| Seen { row, version: self.sales, place: places.get(row.place).map(String::as_str) })
    }
}

/// The rows of some slices.
pub(super) fn rows_of<'a>(slices: &'a [Slice], states: &'a [State]) -> impl Iterator<Item = Seen<'a>> {
    slices.iter().flat_map(|slice| slice.rows(states))
}

impl Seen<'_> {
    /// Wall-clock microseconds.
    pub(super) fn local(&self, zone: Zone) -> Option<i64> {
        self.row.at.map(|at| utc_to_local(at, zone))
    }
}
