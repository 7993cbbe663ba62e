//! A query held against one rollup: members, filters, measures and joins (`pre-aggregations.md` §4.6).

use std::collections::BTreeSet;

use super::Reason;
use crate::model::{
    AggKind, DataType, DimensionId, DimensionKind, Grain, MeasureId, MeasureKind, MemberId, Model, Preagg, SegmentId,
};
use crate::preagg::layout::{StateColumn, states};
use crate::query::members::{is_derivable, is_leaf, leaves, resolve_alias, resolve_segment};
use crate::query::plan::{Shape, members_of};
use crate::query::{Column, Filter, Query, Test};
use crate::time::{Granularity, Zone};

/// A query held against a rollup.
pub(super) struct Fit<'a> {
    pub(super) model: &'a Model,
    pub(super) query: &'a Query,
    pub(super) preagg: &'a Preagg,
    /// Stored dimensions, aliases followed.
    stored: BTreeSet<DimensionId>,
}

impl<'a> Fit<'a> {
    pub(super) fn new(model: &'a Model, query: &'a Query, preagg: &'a Preagg) -> Self {
        let stored = preagg.dimensions.iter().map(|id| resolve_alias(model, *id)).collect();
        Self { model, query, preagg, stored }
    }

    pub(super) fn name(&self, member: MemberId) -> String {
        self.model.path_of(member)
    }

    pub(super) fn is_time(&self, id: DimensionId) -> bool {
        self.preagg.time.is_some_and(|t| resolve_alias(self.model, t.dimension) == resolve_alias(self.model, id))
    }

    /// What no rollup can answer.
    pub(super) fn check_kind(&self) -> Result<(), Reason> {
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
    pub(super) fn check_sub_queries(&self, shape: &Shape) -> Result<(), Reason> {
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

    pub(super) fn check_grouping(&self) -> Result<(), Reason> {
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

    fn check_segment(&self, id: SegmentId) -> Result<(), Reason> {
        let id = resolve_segment(self.model, id);
        let stored = self.preagg.segments.iter().any(|stored| resolve_segment(self.model, *stored) == id);
        let served = stored || is_derivable(self.model, MemberId::Segment(id), &self.stored);
        if served { Ok(()) } else { Err(Reason::Segment(self.name(MemberId::Segment(id)))) }
    }

    pub(super) fn check_filters(&self) -> Result<(), Reason> {
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
    pub(super) fn is_exact(&self) -> bool {
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

    pub(super) fn check_measures(&self, exact: bool) -> Result<(), Reason> {
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
    pub(super) fn check_joins(&self, shape: &Shape, stored: &Shape, exact: bool) -> Result<(), Reason> {
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
