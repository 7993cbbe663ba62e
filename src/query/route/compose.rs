//! Definitions without partitions of their own: lambdas, joins, and rollups that the source completes
//! (`pre-aggregations.md` §11, §12). All of them find the partitions that they are made of here.

use std::sync::Arc;

use quarry_storage::{Partition, Snapshot};

use super::fit::Fit;
use super::reason::Culprit;
use super::times::zones;
use super::{Reason, RollupRoute};
use crate::model::rollup_join::RollupJoin;
use crate::model::{AggKind, DataType, MeasureId, MeasureKind, Preagg, PreaggId, PreaggKind};
use crate::preagg::coverage::{Cover, Layer, LocalRange, Uncovered, cover, covering};
use crate::preagg::partition::granularity_of;
use crate::query::lower::stored_time;
use crate::query::members::leaves;
use crate::query::plan::members_of;
use crate::query::rollups::Rollups;
use crate::query::scan::{Rest, Scan};
use crate::time::{DAY_MICROS, Zone, local_to_utc};

/// When the source may add to what rollups hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FromSource {
    /// Never, whatever definitions say.
    pub never: bool,
    /// Also where a rollup's definition does not say so: the time that no published partition of it holds.
    pub gaps: bool,
}

/// What the source adds to the rollups of one candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Adds {
    Nothing,
    /// What no partition holds.
    Gaps,
    /// Also what may have come since the last partitions were built.
    News,
}

impl Fit<'_> {
    /// The partitions of a definition of any kind.
    pub(super) fn find_rows(
        &self,
        rollups: &Rollups,
        snapshot: &Snapshot,
        exact: bool,
        from_source: FromSource,
    ) -> Result<RollupRoute, Reason> {
        let own = [self.preagg.id];
        if self.query.ungrouped && self.preagg.kind != PreaggKind::Rollup {
            return Err(Reason::Ungrouped("it puts groups of several rollups together".to_owned()));
        }
        match &self.preagg.kind {
            PreaggKind::OriginalSql => Err(Reason::Rows),
            PreaggKind::Join { .. } => self.find_join(rollups, snapshot),
            PreaggKind::Lambda { rollups: layers, union_with_source } => {
                let adds = match (from_source.never, union_with_source, from_source.gaps) {
                    (true, ..) | (false, false, false) => Adds::Nothing,
                    (false, false, true) => Adds::Gaps,
                    (false, true, _) => Adds::News,
                };
                self.find_union(rollups, snapshot, (layers, adds), exact)
            }
            PreaggKind::Rollup => {
                let whole = self.find_partitions(rollups, snapshot, exact);
                let fills = from_source.gaps && !from_source.never && granularity_of(self.preagg).is_some();
                match whole {
                    Err(Reason::Uncovered(reason)) if fills && reason != Uncovered::NotBuilt => {
                        self.find_union(rollups, snapshot, (&own, Adds::Gaps), exact)
                    }
                    whole => whole,
                }
            }
        }
    }

    /// Rollups put one after the other in time, and what the source adds.
    fn find_union(
        &self,
        rollups: &Rollups,
        snapshot: &Snapshot,
        (layers, adds): (&[PreaggId], Adds),
        exact: bool,
    ) -> Result<RollupRoute, Reason> {
        let (model, zone) = (self.model, self.zone);
        let wanted: Vec<LocalRange> = self.wanted().into_iter().map(|range| self.to_stored_zone(range)).collect();
        let tables = layers
            .iter()
            .map(|id| Ok((*id, rollups.table(*id, zone).map_err(|error| Reason::Faulty(error.to_string()))?)))
            .collect::<Result<Vec<_>, Reason>>()?;
        // What was built before its bucket was over lacks the rest of it.
        let settled = |partition: &Partition| {
            let seen_at = partition.built_at.saturating_sub_unsigned(partition.build_ms.saturating_mul(1_000));
            partition.bucket.is_none_or(|bucket| local_to_utc(bucket.end, zone) <= seen_at)
        };
        let any = |_: &Partition| true;
        let count = layers.len();
        let layers: Vec<Layer<'_>> = tables
            .iter()
            .enumerate()
            .map(|(position, (id, table))| {
                let (preagg, table) = (model.preagg(*id), snapshot.table(table).map(|table| &**table));
                let complete = table.is_some_and(|table| table.state.complete);
                let whole = position + 1 == count && adds != Adds::News;
                Layer {
                    table,
                    granularity: granularity_of(preagg),
                    usable: if whole { &any } else { &settled },
                    nothing_before: complete || preagg.build_range_start.is_none(),
                    nothing_after: adds != Adds::News && (complete || preagg.build_range_end.is_none()),
                }
            })
            .collect();
        let Cover { partitions, gaps } = cover(&layers, &wanted);
        // What a table knows of the rows without time it knows of its cube's.
        let complete = tables.iter().all(|(id, _)| {
            let own = tables.iter().zip(&layers).filter(|((other, _), _)| other.cube == id.cube);
            own.into_iter().any(|(_, layer)| layer.table.is_some_and(|table| table.state.complete))
        });
        let partitioned = layers.iter().any(|layer| layer.granularity.is_some());
        let all = wanted.contains(&LocalRange::default());
        let untimed = partitioned && all && (!complete || adds == Adds::News);
        let mut scans = Vec::with_capacity(partitions.len());
        let mut spare: Option<Scan> = None;
        for (((preagg, table), layer), partitions) in tables.into_iter().zip(&layers).zip(partitions) {
            let known = layer.table.and_then(|table| table.partitions.values().next());
            let Some(sample) = partitions.first().or(known).map(Arc::clone) else { continue };
            let scan = Scan { preagg, table, partitions, sample, kept: Vec::new() };
            let scan = scan.with_copies(rollups, snapshot, !self.query.ungrouped);
            if scan.partitions.is_empty() {
                spare.get_or_insert(scan);
            } else {
                scans.push(scan);
            }
        }
        let missing = gaps.first().map(|gap| Uncovered::Gap(*gap)).or(untimed.then_some(Uncovered::Untimed));
        let rest = match missing {
            None => None,
            Some(reason) if adds == Adds::Nothing => return Err(reason.into()),
            // The source alone answers as well.
            Some(_) if scans.is_empty() => return Err(Uncovered::NotBuilt.into()),
            Some(_) => Some(Rest { ranges: gaps, untimed }),
        };
        if scans.is_empty() {
            // No row is wanted: the columns are.
            scans.push(spare.ok_or(Uncovered::NotBuilt)?);
        }
        if !self.times.same_zone() {
            let read: Vec<Arc<Partition>> = scans.iter().flat_map(|scan| scan.partitions.iter().cloned()).collect();
            if !self.divides(&read, &times_of(rest.as_ref())) {
                return Err(self.wrong_zone());
            }
        }
        let held = scans.iter().flat_map(|scan| &scan.partitions).map(|partition| partition.rows).sum();
        Ok(RollupRoute { preagg: self.preagg.id, zone, scans, rest, exact, held })
    }

    /// Rollups joined: each side has partitions of its own.
    fn find_join(&self, rollups: &Rollups, snapshot: &Snapshot) -> Result<RollupRoute, Reason> {
        let Some(join) = rollups.joined(self.preagg.id) else {
            return Err(Reason::Faulty("its rollups cannot be joined".to_owned()));
        };
        self.check_fan_out(&join.plan)?;
        let mut scans = Vec::with_capacity(join.plan.steps.len());
        for step in &join.plan.steps {
            scans.push(self.find_side(rollups, snapshot, self.model.preagg(step.rollup))?);
        }
        let held = scans.iter().flat_map(|scan| &scan.partitions).map(|partition| partition.rows).sum();
        Ok(RollupRoute { preagg: self.preagg.id, zone: self.zone, scans, rest: None, exact: false, held })
    }

    /// Measures of rows that the join repeats cannot be put together.
    fn check_fan_out(&self, join: &RollupJoin) -> Result<(), Reason> {
        let filtered = self.query.measure_filters.iter().flat_map(members_of);
        for leaf in self.query.measures.iter().copied().chain(filtered).flat_map(|id| leaves(self.model, id)) {
            let owner = join.steps.iter().find(|step| self.model.preagg(step.rollup).measures.contains(&leaf));
            if owner.is_none_or(|step| step.multiplied) && !self.is_repeatable(leaf) {
                return Err(Reason::Multiplied(Culprit::measure(self.model, leaf)));
            }
        }
        Ok(())
    }

    /// Whether a measure is the same however often its rows come.
    fn is_repeatable(&self, leaf: MeasureId) -> bool {
        matches!(self.model.measure(leaf).kind, MeasureKind::Aggregate { agg: AggKind::Min | AggKind::Max, .. })
    }

    /// The partitions of one side of a join: those of the query's range where it is the side's own time that is asked
    /// for, else all.
    fn find_side(&self, rollups: &Rollups, snapshot: &Snapshot, side: &Preagg) -> Result<Scan, Reason> {
        let model = self.model;
        let leads =
            side.time.is_some() && self.preagg.time.is_some_and(|time| stored_time(model, side, time) == side.time);
        let timed =
            side.time.is_some() && self.preagg.time.is_some_and(|time| stored_time(model, side, time).is_some());
        let is_time = |id: &crate::model::DimensionId| model.dimension(*id).data_type == DataType::Time;
        let bound = timed || side.dimensions.iter().any(is_time);
        let mut reason = Reason::Uncovered(Uncovered::NotBuilt);
        // Rows without times are the same in every zone.
        for zone in zones(self.query).filter(|zone| !bound || *zone == self.zone) {
            let wanted = if leads { self.wanted() } else { vec![LocalRange::default()] };
            match self.side_in(rollups, snapshot, (side, zone), &wanted) {
                Ok(scan) => return Ok(scan),
                Err(found) => reason = found,
            }
        }
        Err(reason)
    }

    fn side_in(
        &self,
        rollups: &Rollups,
        snapshot: &Snapshot,
        (side, zone): (&Preagg, Zone),
        wanted: &[LocalRange],
    ) -> Result<Scan, Reason> {
        let id = rollups.table(side.id, zone).map_err(|error| Reason::Faulty(error.to_string()))?;
        let table = snapshot.table(&id).ok_or(Uncovered::NotBuilt)?;
        let mut partitions: Vec<Arc<Partition>> = Vec::new();
        for range in wanted {
            for partition in covering(table, granularity_of(side), self.to_stored_zone(*range))? {
                if !partitions.iter().any(|known| known.bucket == partition.bucket) {
                    partitions.push(partition);
                }
            }
        }
        if zone == self.zone && !self.times.same_zone() && !self.divides(&partitions, &[]) {
            return Err(self.wrong_zone());
        }
        let sample = partitions.first().or_else(|| table.partitions.values().next()).ok_or(Uncovered::NotBuilt)?;
        let sample = Arc::clone(sample);
        let scan = Scan { preagg: side.id, table: id, partitions, sample, kept: Vec::new() };
        // Each row of a side is joined with rows of the others before any are put together.
        Ok(scan.with_copies(rollups, snapshot, false))
    }
}

/// The times that the source's rows may have, for the rules of a zone: twenty years where there is no end.
fn times_of(rest: Option<&Rest>) -> Vec<(i64, i64)> {
    let ranges = rest.map_or(&[][..], |rest| rest.ranges.as_slice());
    let years = 20 * 366 * DAY_MICROS;
    let bounds = |range: &LocalRange| match (range.start, range.end) {
        (Some(start), Some(end)) => (start, end),
        (Some(start), None) => (start, start.saturating_add(years)),
        (None, Some(end)) => (end.saturating_sub(5 * years), end),
        (None, None) => (-5 * years, 5 * years),
    };
    ranges.iter().map(bounds).collect()
}
