//! A query's times held against a rollup's: whole buckets, zones, and the partitions that cover them
//! (`pre-aggregations.md` §4.5, §6.5).

use std::sync::Arc;

use quarry_storage::{Partition, Snapshot};

use super::fit::{Fit, conjuncts};
use super::{Reason, RollupRoute};
use crate::model::{DimensionId, MemberId, Preagg};
use crate::preagg::coverage::{LocalRange, Uncovered, covering};
use crate::query::rollups::Rollups;
use crate::query::{Column, Query, Test};
use crate::time::{Granularity, TimeRange, Zone, from_micros, local_to_utc, to_micros, utc_to_local};

/// The zones whose tables may serve: the query's; UTC when stored buckets may divide the zone's offset or
/// when time plays no part.
pub(super) fn zones(query: &Query, preagg: &Preagg) -> impl Iterator<Item = Zone> {
    let fine = preagg.time.is_none_or(|time| time.granularity <= Granularity::Hour);
    let utc = (fine && query.timezone != Zone::UTC).then_some(Zone::UTC);
    std::iter::once(query.timezone).chain(utc)
}

impl Fit<'_> {
    /// Both ends must be borders of stored buckets, in wall-clock time of the query's zone.
    pub(super) fn check_aligned(&self, id: DimensionId, start: Option<i64>, end: Option<i64>) -> Result<(), Reason> {
        let Some(time) = self.preagg.time else {
            return Err(Reason::Dimension(self.name(MemberId::Dimension(id))));
        };
        let aligned = |micros: i64| to_micros(time.granularity.truncate(from_micros(micros))) == micros;
        if start.into_iter().chain(end).all(aligned) {
            return Ok(());
        }
        Err(Reason::Range { member: self.name(MemberId::Dimension(id)), stored: time.granularity })
    }

    pub(super) fn find_partitions(
        &self,
        rollups: &Rollups,
        snapshot: &Snapshot,
        zone: Zone,
    ) -> Result<RollupRoute, Reason> {
        let id = rollups.table(self.preagg.id, zone).map_err(|error| Reason::Faulty(error.to_string()))?;
        let table = snapshot.table(&id).ok_or(Uncovered::NotBuilt)?;
        let wanted = self.wanted();
        let stored_wanted = self.to_stored_zone(wanted, zone);
        let granularity = self.preagg.time.and(self.preagg.partition_granularity);
        let partitions = covering(table, granularity, stored_wanted)?;
        if zone != self.query.timezone && !self.divides(&partitions, zone) {
            return Err(Reason::Zone(self.query.timezone.name().to_owned()));
        }
        let sample = partitions.first().or_else(|| table.partitions.values().next()).ok_or(Uncovered::NotBuilt)?;
        let sample = Arc::clone(sample);
        Ok(RollupRoute { preagg: self.preagg.id, zone, table: id, partitions, sample, exact: false })
    }

    /// What must be covered: the intersection of all ranges that every row must lie in.
    fn wanted(&self) -> LocalRange {
        let mut wanted = LocalRange { start: None, end: None };
        let mut narrow = |start: Option<i64>, end: Option<i64>| {
            wanted.start = wanted.start.max(start);
            wanted.end = match (wanted.end, end) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        };
        for time in &self.query.time_dimensions {
            if let (true, Some(TimeRange { start, end })) = (self.is_time(time.dimension), time.range) {
                narrow(Some(start), Some(end));
            }
        }
        for filter in &self.query.filters {
            conjuncts(filter, &mut |column, test| {
                if let (Column::Dimension(id) | Column::Raw(id), Test::InRange { start, end }) = (column, test)
                    && self.is_time(id)
                {
                    narrow(*start, *end);
                }
            });
        }
        wanted
    }

    fn to_stored_zone(&self, wanted: LocalRange, zone: Zone) -> LocalRange {
        if zone == self.query.timezone {
            return wanted;
        }
        let convert = |micros: i64| utc_to_local(local_to_utc(micros, self.query.timezone), zone);
        LocalRange { start: wanted.start.map(convert), end: wanted.end.map(convert) }
    }

    /// Whether buckets stored in UTC make up buckets of the query's zone: its offset is a multiple of the
    /// bucket at all times of the partitions read.
    fn divides(&self, partitions: &[Arc<Partition>], zone: Zone) -> bool {
        let Some(time) = self.preagg.time else { return true };
        let bucket = match time.granularity {
            Granularity::Second => 1_000_000,
            Granularity::Minute => 60_000_000,
            Granularity::Hour => 3_600_000_000,
            _ => return false,
        };
        debug_assert_eq!(zone, Zone::UTC, "only UTC serves other zones");
        let bounds = partitions.iter().filter_map(|partition| partition.time_bounds);
        let Some((first, last)) = bounds.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) else { return true };
        // Offsets change at most a few times a year; no odd one has lasted less than a fortnight since 1970.
        let fortnight = 14 * 86_400_000_000;
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
