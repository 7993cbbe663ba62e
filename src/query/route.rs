//! Which rollup answers a query, or why none does (`pre-aggregations.md` §4).
//!
//! A rollup is used only when its answer equals the source's: members and grain fit, the range is made
//! of whole stored buckets, and every bucket of it is published. Among those that fit the one with the
//! fewest rows to read wins, ties go to the earlier definition.

use std::collections::BTreeSet;
use std::sync::Arc;

use quarry_storage::{Partition, Snapshot, TableId};

use super::members::{is_derivable, is_leaf, leaves, resolve_alias, resolve_segment};
use super::plan::{Shape, hints, members_of};
use super::rollups::Rollups;
use super::{Column, Filter, Query, QueryError, Test};
use crate::model::{
    AggKind, DataType, DimensionId, DimensionKind, Grain, MeasureId, MeasureKind, MemberId, Model, Preagg, PreaggId,
};
use crate::preagg::coverage::{LocalRange, Uncovered, covering};
use crate::preagg::layout::{StateColumn, states};
use crate::time::{Granularity, TimeRange, Zone, from_micros, local_to_utc, to_micros, utc_to_local};

/// Where a query is answered.
#[derive(Debug)]
pub enum Route {
    /// From a rollup.
    Rollup(RollupRoute),
    /// From the source: each candidate with the first rule that it breaks.
    Source(Vec<Rejection>),
}

/// A rollup that answers a query.
#[derive(Debug, Clone)]
pub struct RollupRoute {
    /// The definition.
    pub preagg: PreaggId,
    /// The zone that it was built for.
    pub zone: Zone,
    /// The stored table.
    pub table: TableId,
    /// The partitions to read, maybe none.
    pub partitions: Vec<Arc<Partition>>,
    /// A published partition to take the columns from.
    pub sample: Arc<Partition>,
    /// Whether every group of the answer is one stored row.
    pub exact: bool,
}

/// A candidate that does not fit, and why.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{rollup}: {reason}")]
pub struct Rejection {
    /// `cube.rollup`.
    pub rollup: String,
    /// The first rule it breaks.
    pub reason: Reason,
}

/// A rule of matching that a rollup breaks.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Reason {
    /// A selected or filtered dimension is neither stored nor computable from stored ones.
    #[error("dimension {0} is not stored")]
    Dimension(String),
    /// A segment is neither stored nor computable.
    #[error("segment {0} is not stored")]
    Segment(String),
    /// A time dimension is not the stored one, or is asked for finer than it is stored.
    #[error("time dimension {member} by {asked} cannot be made from what is stored")]
    Granularity {
        /// The dimension.
        member: String,
        /// The granularity asked for.
        asked: String,
    },
    /// A time condition does not begin and end with stored buckets.
    #[error("the range of {member} is not made of whole buckets of a {stored}")]
    Range {
        /// The dimension.
        member: String,
        /// The stored granularity.
        stored: Granularity,
    },
    /// A condition on the stored time that needs the exact value.
    #[error("the filter on {0} needs exact times, and only buckets are stored")]
    TimeFilter(String),
    /// A measure is not stored, nor all that it is computed from.
    #[error("measure {0} is not stored")]
    Measure(String),
    /// A measure cannot be merged, and the query is coarser than the rollup.
    #[error("measure {0} cannot be merged, and the query is coarser than the rollup")]
    NotAdditive(String),
    /// Joins repeat the rows of a measure in one of both and not in the other.
    #[error("joins multiply the rows of measure {0}")]
    Multiplied(String),
    /// The rollup joins its cubes in another way than the query does.
    #[error("its joins differ from the query's")]
    JoinPath,
    /// Not built for the query's zone, and its buckets do not divide the zone's offset.
    #[error("its buckets in UTC do not make up buckets of zone {0}")]
    Zone(String),
    /// The range is not published.
    #[error(transparent)]
    Uncovered(#[from] Uncovered),
    /// Some values are hidden from who asks.
    #[error("values of {0} are hidden from who asks")]
    Masked(String),
    /// What its sub-queries store covers other rows than the query's.
    #[error("the sub-query dimension {0} depends on the query's conditions or on who asks")]
    SubQuery(String),
    /// A time dimension is moved.
    #[error("the times of {0} are moved")]
    Shifted(String),
    /// The query wants rows, not groups.
    #[error("the query is not grouped, and only groups are stored")]
    Ungrouped,
    /// A condition by the filters of a measure.
    #[error("the filters of measure {0} need rows, and only groups are stored")]
    MeasureFilters(String),
    /// What it stores depends on who asks.
    #[error("its SQL depends on the security context")]
    SecurityContext,
    /// Its definition cannot be planned.
    #[error("its definition is faulty: {0}")]
    Faulty(String),
}

/// Picks the answer's origin. `shape` is the query's over the source.
///
/// # Errors
/// The query itself cannot be planned.
pub fn route(rollups: &Rollups, snapshot: &Snapshot, query: &Query, shape: &Shape) -> Result<Route, QueryError> {
    let model = rollups.model();
    let mut best: Option<(u64, RollupRoute)> = None;
    let mut rejections = Vec::new();
    let mut cubes = Vec::new();
    for cube in hints(model, query).into_iter().flatten() {
        if !cubes.contains(&cube) {
            cubes.push(cube);
        }
    }
    for cube in cubes {
        for preagg in &model.cube(cube).preaggs {
            match candidate(rollups, snapshot, query, shape, preagg) {
                Ok(found) => {
                    let rows = found.partitions.iter().map(|partition| partition.rows).sum();
                    if best.as_ref().is_none_or(|(least, _)| rows < *least) {
                        best = Some((rows, found));
                    }
                }
                Err(reason) => {
                    rejections.push(Rejection { rollup: format!("{}.{}", model.cube(cube).name, preagg.name), reason });
                }
            }
        }
    }
    Ok(best.map_or(Route::Source(rejections), |(_, found)| Route::Rollup(found)))
}

fn candidate(
    rollups: &Rollups,
    snapshot: &Snapshot,
    query: &Query,
    shape: &Shape,
    preagg: &Preagg,
) -> Result<RollupRoute, Reason> {
    let model = rollups.model();
    let fit = Fit::new(model, query, preagg);
    fit.check_kind()?;
    fit.check_sub_queries(shape)?;
    fit.check_grouping()?;
    fit.check_filters()?;
    let exact = fit.is_exact();
    fit.check_measures(exact)?;
    let stored = rollups.shape(preagg.id).map_err(|error| Reason::Faulty(error.to_string()))?;
    if rollups.reads_claims(preagg.id) {
        return Err(Reason::SecurityContext);
    }
    fit.check_joins(shape, stored, exact)?;

    let mut reason = None;
    for zone in zones(query, preagg) {
        match fit.find_partitions(rollups, snapshot, zone) {
            Ok(found) => return Ok(RollupRoute { exact, ..found }),
            Err(found) => reason = reason.or(Some(found)),
        }
    }
    Err(reason.unwrap_or(Reason::Uncovered(Uncovered::NotBuilt)))
}

/// The zones whose tables may serve: the query's; UTC when stored buckets may divide the zone's offset or
/// when time plays no part.
fn zones(query: &Query, preagg: &Preagg) -> impl Iterator<Item = Zone> {
    let fine = preagg.time.is_none_or(|time| time.granularity <= Granularity::Hour);
    let utc = (fine && query.timezone != Zone::UTC).then_some(Zone::UTC);
    std::iter::once(query.timezone).chain(utc)
}

/// A query held against a rollup.
struct Fit<'a> {
    model: &'a Model,
    query: &'a Query,
    preagg: &'a Preagg,
    /// Stored dimensions, aliases followed.
    stored: BTreeSet<DimensionId>,
}

impl<'a> Fit<'a> {
    fn new(model: &'a Model, query: &'a Query, preagg: &'a Preagg) -> Self {
        let stored = preagg.dimensions.iter().map(|id| resolve_alias(model, *id)).collect();
        Self { model, query, preagg, stored }
    }

    fn name(&self, member: MemberId) -> String {
        self.model.path_of(member)
    }

    fn is_time(&self, id: DimensionId) -> bool {
        self.preagg.time.is_some_and(|t| resolve_alias(self.model, t.dimension) == resolve_alias(self.model, id))
    }

    /// What no rollup can answer.
    fn check_kind(&self) -> Result<(), Reason> {
        if self.query.ungrouped {
            return Err(Reason::Ungrouped);
        }
        if let Some((member, _)) = self.query.masks.first() {
            return Err(Reason::Masked(self.name(*member)));
        }
        match self.query.shifts.first() {
            Some(shift) => Err(Reason::Shifted(self.name(MemberId::Dimension(shift.dimension)))),
            None => Ok(()),
        }
    }

    /// Stored sub-query dimensions were computed over all rows.
    fn check_sub_queries(&self, shape: &Shape) -> Result<(), Reason> {
        let query = self.query;
        let conditions = !query.filters.is_empty()
            || !query.segments.is_empty()
            || query.time_dimensions.iter().any(|time| time.range.is_some());
        let differs = |id: DimensionId| match &self.model.dimension(id).kind {
            DimensionKind::SubQuery(sub_query) => {
                !query.rules.is_empty() || query.denied || conditions && sub_query.propagate_filters
            }
            _ => false,
        };
        match shape.sub_queries.iter().find(|sub_query| differs(sub_query.dimension)) {
            Some(sub_query) => Err(Reason::SubQuery(self.name(MemberId::Dimension(sub_query.dimension)))),
            None => Ok(()),
        }
    }

    fn check_grouping(&self) -> Result<(), Reason> {
        for id in &self.query.dimensions {
            self.check_dimension(*id)?;
        }
        for id in self.query.segment_columns.iter().chain(&self.query.segments) {
            self.check_segment(*id)?;
        }
        for time in &self.query.time_dimensions {
            let member = || self.name(MemberId::Dimension(time.dimension));
            if let Some(grain) = time.granularity {
                let dimension = self.model.dimension(time.dimension);
                let made_of = match grain {
                    Grain::Standard(granularity) => Some(granularity),
                    Grain::Custom(index) => {
                        dimension.granularities.get(index as usize).and_then(|custom| custom.kind.made_of())
                    }
                };
                let stored = self.preagg.time.map(|time| time.granularity);
                let serves = stored.zip(made_of).is_some_and(|(stored, made_of)| stored.serves(made_of));
                if !self.is_time(time.dimension) || !serves {
                    let asked = dimension.grain_name(grain).to_owned();
                    return Err(Reason::Granularity { member: member(), asked });
                }
            }
            if let Some(range) = time.range {
                if !self.is_time(time.dimension) {
                    return Err(Reason::Dimension(member()));
                }
                self.check_aligned(time.dimension, Some(range.start), Some(range.end))?;
            }
        }
        Ok(())
    }

    fn check_dimension(&self, id: DimensionId) -> Result<(), Reason> {
        let resolved = resolve_alias(self.model, id);
        let served =
            self.stored.contains(&resolved) || is_derivable(self.model, MemberId::Dimension(resolved), &self.stored);
        if served { Ok(()) } else { Err(Reason::Dimension(self.name(MemberId::Dimension(id)))) }
    }

    fn check_segment(&self, id: crate::model::SegmentId) -> Result<(), Reason> {
        let id = resolve_segment(self.model, id);
        let stored = self.preagg.segments.iter().any(|stored| resolve_segment(self.model, *stored) == id);
        let served = stored || is_derivable(self.model, MemberId::Segment(id), &self.stored);
        if served { Ok(()) } else { Err(Reason::Segment(self.name(MemberId::Segment(id)))) }
    }

    /// Both ends must be borders of stored buckets, in wall-clock time of the query's zone.
    fn check_aligned(&self, id: DimensionId, start: Option<i64>, end: Option<i64>) -> Result<(), Reason> {
        let Some(time) = self.preagg.time else {
            return Err(Reason::Dimension(self.name(MemberId::Dimension(id))));
        };
        let aligned = |micros: i64| to_micros(time.granularity.truncate(from_micros(micros))) == micros;
        if start.into_iter().chain(end).all(aligned) {
            return Ok(());
        }
        Err(Reason::Range { member: self.name(MemberId::Dimension(id)), stored: time.granularity })
    }

    fn check_filters(&self) -> Result<(), Reason> {
        self.query.filters.iter().try_for_each(|filter| self.check_filter(filter))
    }

    fn check_filter(&self, filter: &Filter<Column>) -> Result<(), Reason> {
        match filter {
            Filter::And(parts) | Filter::Or(parts) => parts.iter().try_for_each(|part| self.check_filter(part)),
            Filter::Leaf { member: Column::Segment(id), .. } => self.check_segment(*id),
            Filter::Leaf { member: Column::FiltersOf(id), .. } => {
                Err(Reason::MeasureFilters(self.name(MemberId::Measure(*id))))
            }
            Filter::Leaf { member: Column::Dimension(id) | Column::Raw(id), test } => {
                if self.is_time(*id) {
                    return match test {
                        Test::Set | Test::NotSet => Ok(()),
                        Test::InRange { start, end } => self.check_aligned(*id, *start, *end),
                        Test::NotInRange(range) => self.check_aligned(*id, Some(range.start), Some(range.end)),
                        _ => Err(Reason::TimeFilter(self.name(MemberId::Dimension(*id)))),
                    };
                }
                self.check_dimension(*id)?;
                // Times stored as plain dimensions are wall clock of the build's zone; conditions are not.
                let is_time = self.model.dimension(*id).data_type == DataType::Time;
                if is_time && !matches!(test, Test::Set | Test::NotSet) {
                    return Err(Reason::TimeFilter(self.name(MemberId::Dimension(*id))));
                }
                Ok(())
            }
        }
    }

    /// Whether no two stored rows fall into one group: every stored grouping member is selected, or pinned
    /// to one value.
    fn is_exact(&self) -> bool {
        let mut covered: BTreeSet<DimensionId> =
            self.query.dimensions.iter().map(|id| resolve_alias(self.model, *id)).collect();
        for filter in &self.query.filters {
            pinned(filter, &mut |id| {
                covered.insert(resolve_alias(self.model, id));
            });
        }
        let times = &self.query.time_dimensions;
        let time_selected = self.preagg.time.is_none_or(|stored| {
            times
                .iter()
                .any(|t| self.is_time(t.dimension) && t.granularity == Some(Grain::Standard(stored.granularity)))
        });
        let segments = &self.preagg.segments;
        let same_zone_grain = self.preagg.time.is_none_or(|t| t.granularity >= Granularity::Day);
        // A wall-clock hour or less may hold two stored rows on the day when clocks are set back.
        let unfolded = same_zone_grain || self.query.timezone == Zone::UTC;
        time_selected
            && unfolded
            && !self.preagg.straddles()
            && self.stored.iter().all(|id| covered.contains(id))
            && segments.iter().all(|id| {
                let id = resolve_segment(self.model, *id);
                self.query.segment_columns.iter().any(|column| resolve_segment(self.model, *column) == id)
            })
    }

    fn check_measures(&self, exact: bool) -> Result<(), Reason> {
        let filtered = self.query.measure_filters.iter().flat_map(members_of);
        for id in self.query.measures.iter().copied().chain(filtered) {
            self.check_measure(id, exact)?;
        }
        Ok(())
    }

    fn check_measure(&self, id: MeasureId, exact: bool) -> Result<(), Reason> {
        let leaves = leaves(self.model, id);
        let mut result = leaves.iter().try_for_each(|leaf| self.check_leaf(*leaf, exact));
        if result.is_err() && exact && self.preagg.measures.contains(&id) && !is_leaf(self.model, id) {
            result = Ok(());
        }
        result
    }

    fn check_leaf(&self, leaf: MeasureId, exact: bool) -> Result<(), Reason> {
        if !self.preagg.measures.contains(&leaf) {
            return Err(Reason::Measure(self.name(MemberId::Measure(leaf))));
        }
        let merges = !states(&self.model.measure(leaf).kind).contains(&StateColumn::Value);
        if merges || exact { Ok(()) } else { Err(Reason::NotAdditive(self.name(MemberId::Measure(leaf)))) }
    }

    /// The rollup's rows must be the query's: same root, and every join of the query among the rollup's.
    /// Further joins of the rollup are harmless unless they repeat rows of a measure.
    fn check_joins(&self, shape: &Shape, stored: &Shape, exact: bool) -> Result<(), Reason> {
        let same_root = shape.tree.root == stored.tree.root;
        if !same_root || !shape.tree.edges.iter().all(|edge| stored.tree.edges.contains(edge)) {
            return Err(Reason::JoinPath);
        }
        let filtered = self.query.measure_filters.iter().flat_map(members_of);
        for leaf in self.query.measures.iter().copied().chain(filtered).flat_map(|id| leaves(self.model, id)) {
            let (asked, kept) = (shape.tree.multiplies(leaf.cube), stored.tree.multiplies(leaf.cube));
            let any_order = matches!(
                self.model.measure(leaf).kind,
                MeasureKind::Aggregate { agg: AggKind::Min | AggKind::Max, .. }
            );
            if (asked || kept) && !any_order && !(asked == kept && exact) {
                return Err(Reason::Multiplied(self.name(MemberId::Measure(leaf))));
            }
        }
        Ok(())
    }

    fn find_partitions(&self, rollups: &Rollups, snapshot: &Snapshot, zone: Zone) -> Result<RollupRoute, Reason> {
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

/// Calls `found` for every dimension that a condition pins to one value: `equals` with a single value,
/// under AND only.
fn pinned(filter: &Filter<Column>, found: &mut impl FnMut(DimensionId)) {
    conjuncts(filter, &mut |column, test| {
        if let (Column::Dimension(id) | Column::Raw(id), Test::In { values, null }) = (column, test)
            && values.len() + usize::from(*null) == 1
        {
            found(id);
        }
    });
}

/// Calls `found` for every leaf that must hold: those under AND only.
fn conjuncts(filter: &Filter<Column>, found: &mut impl FnMut(Column, &Test)) {
    match filter {
        Filter::Leaf { member, test } => found(*member, test),
        Filter::And(parts) => {
            for part in parts {
                conjuncts(part, found);
            }
        }
        Filter::Or(_) => {}
    }
}
