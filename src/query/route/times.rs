//! A query's times held against a rollup's: whole buckets, zones, and the partitions that cover them
//! (`pre-aggregations.md` §4.5, §6.5).

use std::sync::Arc;

use quarry_storage::{Partition, Snapshot};

use super::fit::Fit;
use super::{Reason, RollupRoute};
use crate::model::{DimensionId, Grain, PreaggTime};
use crate::preagg::coverage::{LocalRange, Uncovered, covering};
use crate::preagg::partition::granularity_of;
use crate::query::members::resolve_alias;
use crate::query::rollups::Rollups;
use crate::query::scan::Scan;
use crate::query::stored_times::borders;
use crate::query::{Column, Filter, Query, Shift, Test};
use crate::time::{Zone, from_micros, local_to_utc, to_micros, utc_to_local};

/// Most ranges that partitions are looked up for one by one.
const MOST_RANGES: usize = 64;

/// The zones whose tables may serve: the query's own, and UTC.
pub fn zones(query: &Query) -> impl Iterator<Item = Zone> {
    let utc = (query.timezone != Zone::UTC).then_some(Zone::UTC);
    std::iter::once(query.timezone).chain(utc)
}

impl Fit<'_> {
    /// Buckets asked for must be made of stored ones.
    pub(super) fn check_bucket(&self, id: DimensionId, grain: Grain) -> Result<(), Reason> {
        if let Some(found) = self.times.for_bucket(id, grain) {
            self.read.borrow_mut().push(found);
            return self.check_shift(id, found);
        }
        let dimension = self.model.dimension(id);
        let asked = dimension.grain_name(grain).to_owned();
        let fault = Reason::Granularity { member: self.dimension(id), asked, grain };
        Err(self.unless_of_zone(id, fault))
    }

    /// Where a table of UTC does not have what its definition has, it is for the zone.
    fn unless_of_zone(&self, id: DimensionId, fault: Reason) -> Reason {
        let unusable = !self.times.same_zone() && self.times.of(id).any(|time| self.times.divisor(time).is_none());
        if unusable { self.wrong_zone() } else { fault }
    }

    /// The ends of all conditions on a time must be borders of buckets of one stored column.
    pub(super) fn check_conditions(&self, id: DimensionId) -> Result<(), Reason> {
        if let Some(found) = self.times.for_conditions(id) {
            self.read.borrow_mut().push(found);
            return self.check_shift(id, found);
        }
        if self.is_stored(id) {
            // Its own column holds exact times.
            let inexact = borders(self.model, self.query, id).is_none();
            let fault = if inexact { Reason::TimeFilter } else { Reason::Shifted };
            return if inexact || self.is_shifted(id) { Err(fault(self.dimension(id))) } else { Ok(()) };
        }
        if borders(self.model, self.query, id).is_none() {
            return Err(Reason::TimeFilter(self.dimension(id)));
        }
        let grains = self.times.of(id).map(|time| self.model.dimension(time.dimension).grain_name(time.grain));
        let stored = grains.collect::<Vec<_>>().join(" or ");
        Err(self.unless_of_zone(id, Reason::Range { member: self.dimension(id), stored }))
    }

    pub(super) fn is_shifted(&self, id: DimensionId) -> bool {
        self.shift(id).is_some()
    }

    fn shift(&self, id: DimensionId) -> Option<&Shift> {
        let wanted = resolve_alias(self.model, id);
        self.query.shifts.iter().find(|shift| shift.dimension == wanted)
    }

    /// Buckets that are moved must be buckets again.
    fn check_shift(&self, id: DimensionId, time: PreaggTime) -> Result<(), Reason> {
        match self.shift(id) {
            Some(shift) if shift.sql.is_some() || !self.times.keeps(time, shift.interval) => {
                Err(Reason::Shifted(self.dimension(id)))
            }
            _ => Ok(()),
        }
    }

    /// Whether stored rows of different buckets do not meet in one group: the buckets are selected as they are, or
    /// only one of them is asked for.
    pub(super) fn is_told_apart(&self, time: PreaggTime) -> bool {
        if !self.times.same_zone() || self.is_shifted(time.dimension) {
            return false;
        }
        let wanted = resolve_alias(self.model, time.dimension);
        let same = |id: DimensionId| resolve_alias(self.model, id) == wanted;
        let mut own = self.query.time_dimensions.iter().filter(|asked| same(asked.dimension));
        own.any(|asked| match (asked.granularity, asked.range) {
            (Some(grain), _) if self.times.is_same(time, asked.dimension, grain) => true,
            (_, Some(range)) => self.times.is_one_bucket(time, range),
            (_, None) => false,
        })
    }

    pub(super) fn find_partitions(
        &self,
        rollups: &Rollups,
        snapshot: &Snapshot,
        exact: bool,
    ) -> Result<RollupRoute, Reason> {
        let zone = self.zone;
        let id = rollups.table(self.preagg.id, zone).map_err(|error| Reason::Faulty(error.to_string()))?;
        let table = snapshot.table(&id).ok_or(Uncovered::NotBuilt)?;
        let granularity = granularity_of(self.preagg);
        let nothing = LocalRange { start: Some(0), end: Some(0) };
        let mut partitions: Vec<Arc<Partition>> = covering(table, granularity, nothing)?;
        for range in self.wanted() {
            for partition in covering(table, granularity, self.to_stored_zone(range))? {
                if !partitions.iter().any(|known| known.bucket == partition.bucket) {
                    partitions.push(partition);
                }
            }
        }
        partitions.sort_by_key(|partition| partition.bucket.map(|bucket| bucket.start));
        if !self.times.same_zone() && !self.divides(&partitions, &[]) {
            return Err(self.wrong_zone());
        }
        let sample = partitions.first().or_else(|| table.partitions.values().next()).ok_or(Uncovered::NotBuilt)?;
        let sample = Arc::clone(sample);
        let held = table.partitions.values().map(|partition| partition.rows).sum();
        let scan = Scan { preagg: self.preagg.id, table: id, partitions, sample, kept: Vec::new() };
        let scans = vec![scan.with_copies(rollups, snapshot, !self.query.ungrouped)];
        Ok(RollupRoute { preagg: self.preagg.id, zone, scans, rest: None, exact, held })
    }

    /// What must be covered: every row that passes lies in one of these ranges of the partitions' time.
    pub(super) fn wanted(&self) -> Vec<LocalRange> {
        let mut wanted = vec![LocalRange::default()];
        let mut narrow = |ranges: Vec<LocalRange>| wanted = intersection(&wanted, &ranges);
        for time in &self.query.time_dimensions {
            if let (true, Some(range)) = (self.leads(time.dimension), time.range) {
                let range = LocalRange { start: Some(range.start), end: Some(range.end) };
                narrow(vec![self.unshifted(time.dimension, range)]);
            }
        }
        for filter in &self.query.filters {
            if let Some(ranges) = self.ranges_of(filter) {
                narrow(ranges);
            }
        }
        wanted
    }

    /// Whether a dimension is the one that partitions are cut by.
    fn leads(&self, id: DimensionId) -> bool {
        self.preagg.time.is_some_and(|t| resolve_alias(self.model, t.dimension) == resolve_alias(self.model, id))
    }

    /// Ranges outside of which a condition never holds; none when it says nothing of the partitions' time.
    fn ranges_of(&self, filter: &Filter<Column>) -> Option<Vec<LocalRange>> {
        match filter {
            Filter::And(parts) => {
                let known: Vec<Vec<LocalRange>> = parts.iter().filter_map(|part| self.ranges_of(part)).collect();
                known.into_iter().reduce(|a, b| intersection(&a, &b))
            }
            Filter::Or(parts) => {
                let all: Option<Vec<Vec<LocalRange>>> = parts.iter().map(|part| self.ranges_of(part)).collect();
                Some(all?.concat())
            }
            Filter::Leaf { member: column @ (Column::Dimension(id) | Column::Raw(id)), test } if self.leads(*id) => {
                let ranges = match test {
                    Test::InRange { start, end } => vec![LocalRange { start: *start, end: *end }],
                    Test::NotInRange(range) => vec![
                        LocalRange { start: None, end: Some(range.start) },
                        LocalRange { start: Some(range.end), end: None },
                    ],
                    _ => return None,
                };
                let moved = matches!(column, Column::Dimension(_));
                Some(ranges.into_iter().map(|range| if moved { self.unshifted(*id, range) } else { range }).collect())
            }
            Filter::Leaf { .. } => None,
        }
    }

    /// The times that lie in a range after the query has moved them.
    fn unshifted(&self, id: DimensionId, range: LocalRange) -> LocalRange {
        let Some(shift) = self.shift(id) else { return range };
        let back = |at: i64| to_micros(shift.interval.negated().after(from_micros(at)));
        // A day that the month does not have becomes its last: going back leads to the first of several such days.
        let margin = if shift.interval.months == 0 { 0 } else { 4 * crate::time::DAY_MICROS };
        LocalRange { start: range.start.map(|at| back(at) - margin), end: range.end.map(|at| back(at) + margin) }
    }

    pub(super) fn to_stored_zone(&self, wanted: LocalRange) -> LocalRange {
        if self.times.same_zone() {
            return wanted;
        }
        let convert = |micros: i64| utc_to_local(local_to_utc(micros, self.query.timezone), self.zone);
        LocalRange { start: wanted.start.map(convert), end: wanted.end.map(convert) }
    }

    /// Whether buckets stored in UTC make up buckets of the query's zone: its offset is a multiple of the
    /// buckets read, at all times of the partitions read and at `more` times.
    pub(super) fn divides(&self, partitions: &[Arc<Partition>], more: &[(i64, i64)]) -> bool {
        debug_assert_eq!(self.zone, Zone::UTC, "only UTC serves other zones");
        let read = self.read.borrow();
        let Some(bucket) = read.iter().filter_map(|time| self.times.divisor(*time)).max() else { return true };
        if bucket <= 1_000_000 {
            return true;
        }
        // Only of the time that partitions are cut by the bounds are known.
        if !read.iter().all(|time| self.leads(time.dimension)) {
            return false;
        }
        let bounds = partitions.iter().filter_map(|partition| partition.time_bounds).chain(more.iter().copied());
        let Some((first, last)) = bounds.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) else { return true };
        // Offsets change at most a few times a year; no odd one has lasted less than a fortnight since 1970.
        let fortnight = 14 * crate::time::DAY_MICROS;
        let mut at = first;
        loop {
            if (utc_to_local(at, self.query.timezone) - at) % bucket != 0 {
                return false;
            }
            if at >= last {
                return true;
            }
            at = (at + fortnight).min(last);
        }
    }
}

/// What lies in a range of each list. Many ranges are put together to one that holds them.
fn intersection(a: &[LocalRange], b: &[LocalRange]) -> Vec<LocalRange> {
    let both = |a: &LocalRange, b: &LocalRange| LocalRange {
        start: a.start.max(b.start),
        end: match (a.end, b.end) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        },
    };
    let pairs = a.iter().flat_map(|a| b.iter().map(move |b| both(a, b)));
    let mut found: Vec<LocalRange> = pairs.filter(|range| !range.is_empty()).collect();
    if found.len() > MOST_RANGES {
        let start = found.iter().map(|range| range.start).min().flatten();
        let open = found.iter().any(|range| range.end.is_none());
        let end = if open { None } else { found.iter().filter_map(|range| range.end).max() };
        found = vec![LocalRange { start, end }];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: Option<i64>, end: Option<i64>) -> LocalRange {
        LocalRange { start, end }
    }

    #[test]
    fn ranges_are_intersected_pair_by_pair() {
        let all = [LocalRange::default()];
        let two = [range(Some(0), Some(10)), range(Some(20), None)];
        assert_eq!(intersection(&all, &two), two);
        assert_eq!(
            intersection(&two, &[range(Some(5), Some(25))]),
            [range(Some(5), Some(10)), range(Some(20), Some(25))]
        );
        assert_eq!(intersection(&two, &[range(Some(10), Some(20))]), []);
        assert_eq!(intersection(&two, &[]), [], "what holds nowhere");
    }

    #[test]
    fn many_ranges_become_one() {
        let many: Vec<LocalRange> = (0..100).map(|n| range(Some(n * 10), Some(n * 10 + 5))).collect();
        assert_eq!(intersection(&[LocalRange::default()], &many), [range(Some(0), Some(995))]);
        let open: Vec<LocalRange> = many.iter().map(|r| range(r.start, None)).collect();
        assert_eq!(intersection(&[LocalRange::default()], &open), [range(Some(0), None)]);
    }
}
