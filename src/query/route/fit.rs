//! A query held against one rollup: members, filters, measures and joins (`pre-aggregations.md` §4.6).

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::Reason;
use super::reason::Culprit;
use crate::model::{
    AggKind, DataType, DimensionId, DimensionKind, MeasureId, MeasureKind, MemberId, Model, Preagg, PreaggKind,
    PreaggTime, SegmentId,
};
use crate::preagg::layout::{StateColumn, states};
use crate::query::members::{Given, is_derivable, is_leaf, is_of_zone, leaves, resolve_alias, resolve_segment};
use crate::query::plan::{Shape, members_of};
use crate::query::stored_times::StoredTimes;
use crate::query::{Column, Filter, Query, Test};
use crate::time::Zone;

/// A query held against the table of a rollup that is built for a zone.
pub(super) struct Fit<'a> {
    pub(super) model: &'a Model,
    pub(super) query: &'a Query,
    pub(super) preagg: &'a Preagg,
    pub(super) zone: Zone,
    pub(super) times: StoredTimes<'a>,
    /// Stored dimensions, aliases followed.
    pub(super) stored: BTreeSet<DimensionId>,
    segments: BTreeSet<SegmentId>,
    /// Stored times that the query reads.
    pub(super) read: RefCell<Vec<PreaggTime>>,
}

impl<'a> Fit<'a> {
    pub(super) fn new(model: &'a Model, query: &'a Query, preagg: &'a Preagg, zone: Zone) -> Self {
        let stored = preagg.dimensions.iter().map(|id| resolve_alias(model, *id)).collect();
        let segments = preagg.segments.iter().map(|id| resolve_segment(model, *id)).collect();
        let times = StoredTimes { model, query, preagg, zone };
        Self { model, query, preagg, zone, times, stored, segments, read: RefCell::default() }
    }

    pub(super) fn dimension(&self, id: DimensionId) -> Culprit {
        Culprit::dimension(self.model, id)
    }

    fn measure(&self, id: MeasureId) -> Culprit {
        Culprit::measure(self.model, id)
    }

    /// Everything but partitions; whether every group of the answer is one stored row.
    pub(super) fn check(&self, shape: &Shape, stored: &Shape) -> Result<bool, Reason> {
        self.check_kind()?;
        self.check_sub_queries(shape)?;
        self.check_grouping()?;
        self.check_filters()?;
        self.check_zone(shape)?;
        if self.query.ungrouped {
            self.check_measures(false)?;
            self.check_rows(shape, stored)?;
            return Ok(false);
        }
        let exact = self.is_exact();
        self.check_measures(exact)?;
        self.check_joins(shape, stored, exact)?;
        Ok(exact)
    }

    /// What no rollup can answer.
    fn check_kind(&self) -> Result<(), Reason> {
        match self.query.masks.first() {
            Some((member, _)) => Err(Reason::Masked(Culprit::of(self.model, *member))),
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
            // Those of multi-stage dimensions are of the groups that they were stored with.
            DimensionKind::SubQuery(sub_query) => {
                sub_query.staged || !query.rules.is_empty() || query.denied || conditions && sub_query.propagate_filters
            }
            _ => false,
        };
        match shape.sub_queries.iter().find(|sub_query| differs(sub_query.dimension)) {
            Some(sub_query) => Err(Reason::SubQuery(self.dimension(sub_query.dimension))),
            None => Ok(()),
        }
    }

    fn check_grouping(&self) -> Result<(), Reason> {
        for id in &self.query.dimensions {
            if !self.covers(*id) {
                return Err(Reason::Dimension(self.dimension(*id)));
            }
            if self.is_shifted(*id) {
                return Err(Reason::Shifted(self.dimension(*id)));
            }
        }
        for id in self.query.segment_columns.iter().chain(&self.query.segments) {
            self.check_segment(*id)?;
        }
        for time in &self.query.time_dimensions {
            if let Some(grain) = time.granularity {
                self.check_bucket(time.dimension, grain)?;
            }
            if time.range.is_some() {
                if self.times.of(time.dimension).next().is_none() && !self.is_stored(time.dimension) {
                    return Err(Reason::Filter(self.dimension(time.dimension)));
                }
                self.check_conditions(time.dimension)?;
            }
        }
        Ok(())
    }

    /// Whether a dimension has a column of its own.
    pub(super) fn is_stored(&self, id: DimensionId) -> bool {
        self.stored.contains(&resolve_alias(self.model, id))
    }

    /// Whether a dimension is stored, or computable from what is.
    fn covers(&self, id: DimensionId) -> bool {
        self.is_stored(id) || self.derives(MemberId::Dimension(resolve_alias(self.model, id)))
    }

    /// Whether a member can be computed from what is stored.
    fn derives(&self, member: MemberId) -> bool {
        // Stored times are wall clock of the table's zone, the SQL of members means instants.
        let usable = |id: &DimensionId| self.zone == Zone::UTC || self.model.dimension(*id).data_type != DataType::Time;
        let given = Given {
            dimension: &|id| self.stored.contains(&id) && usable(&id),
            segment: &|id| self.segments.contains(&resolve_segment(self.model, id)),
            bucket: &|id, grain| {
                let found = self.times.for_bucket(id, grain);
                self.read.borrow_mut().extend(found);
                found.is_some() && !self.is_shifted(id)
            },
        };
        is_derivable(self.model, member, &given)
    }

    fn check_segment(&self, id: SegmentId) -> Result<(), Reason> {
        let id = resolve_segment(self.model, id);
        let served = self.segments.contains(&id) || self.derives(MemberId::Segment(id));
        if served { Ok(()) } else { Err(Reason::Segment(Culprit::segment(self.model, id))) }
    }

    fn check_filters(&self) -> Result<(), Reason> {
        self.query.filters.iter().try_for_each(|filter| self.check_filter(filter))
    }

    fn check_filter(&self, filter: &Filter<Column>) -> Result<(), Reason> {
        let (id, test) = match filter {
            Filter::And(parts) | Filter::Or(parts) => {
                return parts.iter().try_for_each(|part| self.check_filter(part));
            }
            Filter::Leaf { member: Column::Segment(id), .. } => return self.check_segment(*id),
            Filter::Leaf { member: Column::FiltersOf(id), .. } => {
                return Err(Reason::MeasureFilters(self.measure(*id)));
            }
            Filter::Leaf { member: Column::Raw(id), test } => {
                return self.check_tested(*id, test).map_err(|_hidden| Reason::Policy);
            }
            Filter::Leaf { member: Column::Dimension(id), test } => (*id, test),
        };
        self.check_tested(id, test)
    }

    fn check_tested(&self, id: DimensionId, test: &Test) -> Result<(), Reason> {
        if self.times.of(id).next().is_some() && !self.is_stored(id) {
            return self.check_conditions(id);
        }
        if !self.covers(id) {
            return Err(Reason::Filter(self.dimension(id)));
        }
        if self.model.dimension(id).data_type != DataType::Time {
            return Ok(());
        }
        match test {
            Test::Set | Test::NotSet => Ok(()),
            Test::InRange { .. } | Test::NotInRange(_) if self.is_stored(id) => self.check_conditions(id),
            // Computed times are not known to the zone's clock.
            _ => Err(Reason::TimeFilter(self.dimension(id))),
        }
    }

    /// Whether no two stored rows fall into one group: every stored grouping member is selected, or pinned
    /// to one value.
    fn is_exact(&self) -> bool {
        // Rows of a join are told apart by more than it lists.
        let merged = match &self.preagg.kind {
            PreaggKind::Join { .. } => true,
            PreaggKind::Lambda { rollups, .. } => rollups.iter().any(|id| self.model.preagg(*id).straddles()),
            PreaggKind::Rollup | PreaggKind::OriginalSql => false,
        };
        if merged {
            return false;
        }
        let mut covered: BTreeSet<DimensionId> =
            self.query.dimensions.iter().map(|id| resolve_alias(self.model, *id)).collect();
        for filter in &self.query.filters {
            pinned(filter, &mut |id| {
                covered.insert(resolve_alias(self.model, id));
            });
        }
        // In another zone two instants may have one wall-clock time.
        let kept = |id: &DimensionId| self.times.same_zone() || self.model.dimension(*id).data_type != DataType::Time;
        let filtered = self.query.segments.iter().chain(&self.query.segment_columns);
        let filtered: BTreeSet<SegmentId> = filtered.map(|id| resolve_segment(self.model, *id)).collect();
        self.preagg.times().all(|time| self.is_told_apart(time))
            && !self.preagg.straddles()
            && self.stored.iter().all(|id| covered.contains(id) && kept(id))
            && self.segments.is_subset(&filtered)
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
            return Err(Reason::Measure(self.measure(leaf)));
        }
        let merges = !states(&self.model.measure(leaf).kind).contains(&StateColumn::Value);
        if merges || exact { Ok(()) } else { Err(Reason::NotAdditive(self.measure(leaf))) }
    }

    /// The leaf measures that a query needs.
    pub(super) fn leaves(&self) -> Vec<MeasureId> {
        let filtered = self.query.measure_filters.iter().flat_map(members_of);
        self.query.measures.iter().copied().chain(filtered).flat_map(|id| leaves(self.model, id)).collect()
    }

    /// The rollup's rows must be the query's: same root, and every join of the query among the rollup's.
    /// Further joins of the rollup are harmless unless they repeat rows of a measure.
    fn check_joins(&self, shape: &Shape, stored: &Shape, exact: bool) -> Result<(), Reason> {
        self.check_tree(shape, stored)?;
        for leaf in self.leaves() {
            let (asked, kept) = (shape.tree.multiplies(leaf.cube), stored.tree.multiplies(leaf.cube));
            // The same values, however often they come.
            let repeatable = matches!(
                self.model.measure(leaf).kind,
                MeasureKind::Aggregate {
                    agg: AggKind::Min | AggKind::Max | AggKind::CountDistinct | AggKind::CountDistinctApprox,
                    ..
                }
            );
            if repeatable || !(asked || kept) || (asked == kept && exact) {
                continue;
            }
            let culprit = self.measure(leaf);
            return Err(if asked { Reason::Multiplied(culprit) } else { Reason::MultipliedInRollup(culprit) });
        }
        Ok(())
    }

    pub(super) fn check_tree(&self, shape: &Shape, stored: &Shape) -> Result<(), Reason> {
        let same_root = shape.tree.root == stored.tree.root;
        if !same_root || !shape.tree.edges.iter().all(|edge| stored.tree.edges.contains(edge)) {
            return Err(Reason::JoinPath);
        }
        Ok(())
    }

    /// What is stored for UTC serves another zone only where the zone plays no part in it.
    fn check_zone(&self, shape: &Shape) -> Result<(), Reason> {
        if self.times.same_zone() {
            return Ok(());
        }
        let query = self.query;
        let dimensions = query.dimensions.iter().map(|id| MemberId::Dimension(resolve_alias(self.model, *id)));
        let segments = query.segments.iter().chain(&query.segment_columns).map(|id| MemberId::Segment(*id));
        let filters = query.filters.iter().flat_map(members_of).map(Column::member);
        let measures = self.leaves().into_iter().map(MemberId::Measure);
        let mut members = dimensions.chain(segments).chain(filters).chain(measures);
        let edges = &shape.tree.edges;
        let joined = edges.iter().any(|edge| is_of_zone(self.model, &self.model.cube(edge.from).joins[edge.join].sql));
        let bound = |member: MemberId| {
            let templates = crate::query::members::templates(self.model, member);
            templates.into_iter().any(|template| is_of_zone(self.model, template))
        };
        if joined || members.any(bound) { Err(self.wrong_zone()) } else { Ok(()) }
    }

    pub(super) fn wrong_zone(&self) -> Reason {
        Reason::Zone(self.query.timezone.name().to_owned())
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
pub(super) fn conjuncts(filter: &Filter<Column>, found: &mut impl FnMut(Column, &Test)) {
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
