//! Which stored time column of a rollup gives a query's buckets, and which one its conditions can be put to
//! (`pre-aggregations.md` §4.4, §4.5). Matching asks whether there is one, lowering reads it: both ask here.

use super::members::resolve_alias;
use super::{Column, Filter, Query, Test};
use crate::model::granularity::GranularityKind;
use crate::model::{DimensionId, Grain, Model, Preagg, PreaggTime};
use crate::time::{Bins, DAY_MICROS, Granularity, Interval, TimeRange, Zone, from_micros, is_within_change, to_micros};

/// The stored times of a rollup, of the table that was built for a zone, and the query that reads them.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredTimes<'a> {
    pub(super) model: &'a Model,
    pub(super) query: &'a Query,
    pub(super) preagg: &'a Preagg,
    /// The zone that the table was built for: the query's, or UTC.
    pub(super) zone: Zone,
}

impl StoredTimes<'_> {
    /// Whether the table holds wall clock of the query's own zone.
    pub(super) fn same_zone(self) -> bool {
        self.zone == self.query.timezone
    }

    /// The stored times of a dimension, whether or not the zone lets them be used.
    pub(super) fn of(self, id: DimensionId) -> impl Iterator<Item = PreaggTime> {
        let wanted = resolve_alias(self.model, id);
        self.preagg.times().filter(move |time| resolve_alias(self.model, time.dimension) == wanted)
    }

    /// Those that the zone lets be used: in another zone than their own, buckets that divide its offsets.
    fn usable(self, id: DimensionId) -> impl Iterator<Item = PreaggTime> {
        self.of(id).filter(move |time| self.same_zone() || self.divisor(*time).is_some())
    }

    /// The time whose buckets make up the buckets asked for: the same ones, or the first that serves.
    pub(super) fn for_bucket(self, id: DimensionId, grain: Grain) -> Option<PreaggTime> {
        let same = self.usable(id).find(|time| self.is_same(*time, id, grain));
        same.or_else(|| self.usable(id).find(|time| self.serves(*time, id, grain)))
    }

    /// The time that every condition on a dimension can be put to: all their ends are borders of its buckets.
    pub(super) fn for_conditions(self, id: DimensionId) -> Option<PreaggTime> {
        let borders = borders(self.model, self.query, id)?;
        // What is shown twice by a clock, or never, is not a border of wall-clock times.
        let odd = |border: &i64| self.same_zone() && is_within_change(*border, self.zone);
        if borders.iter().any(odd) {
            return None;
        }
        self.usable(id).find(|time| borders.iter().all(|border| self.is_border(*time, *border)))
    }

    /// Whether buckets asked for are the stored ones.
    pub(super) fn is_same(self, time: PreaggTime, id: DimensionId, grain: Grain) -> bool {
        match (time.grain, grain) {
            (Grain::Standard(stored), Grain::Standard(asked)) => stored == asked,
            (Grain::Custom(_), Grain::Custom(_)) => {
                let stored = custom(self.model, time.dimension, time.grain);
                stored.is_some() && stored == custom(self.model, id, grain)
            }
            (Grain::Standard(_), Grain::Custom(_)) | (Grain::Custom(_), Grain::Standard(_)) => false,
        }
    }

    /// Whether stored buckets make up the buckets asked for.
    fn serves(self, time: PreaggTime, id: DimensionId, grain: Grain) -> bool {
        let made_of = made_of(self.model, id, grain);
        time.fills.zip(made_of).is_some_and(|(filled, made_of)| filled.serves(made_of))
    }

    /// Whether a bucket begins at a wall-clock time of the query's zone.
    pub(super) fn is_border(self, time: PreaggTime, local: i64) -> bool {
        let at = from_micros(local);
        match time.grain {
            Grain::Standard(granularity) => to_micros(granularity.truncate(at)) == local,
            Grain::Custom(_) => self.bins(time).is_some_and(|(bins, moved)| {
                let back = moved.negated().after(at);
                bins.truncate(back) == back && to_micros(moved.after(back)) == local
            }),
        }
    }

    /// Whether a range of wall-clock times is one bucket.
    pub(super) fn is_one_bucket(self, time: PreaggTime, range: TimeRange) -> bool {
        let next = match time.grain {
            Grain::Standard(granularity) => Some(granularity.next(from_micros(range.start))),
            Grain::Custom(_) => self
                .bins(time)
                .map(|(bins, moved)| moved.after(bins.next(moved.negated().after(from_micros(range.start))))),
        };
        self.is_border(time, range.start) && next.map(to_micros) == Some(range.end)
    }

    /// Whether buckets that are moved by a length are buckets again, so that moving what is stored moves all in it.
    pub(super) fn keeps(self, time: PreaggTime, by: Interval) -> bool {
        let step = match time.grain {
            Grain::Standard(granularity) => Interval::of(granularity),
            Grain::Custom(_) => match self.bins(time) {
                // Moved buckets lie as the calendar does only where they make up days.
                Some((bins, _)) if time.fills.is_some_and(|filled| filled <= Granularity::Day) => bins.step,
                _ => return false,
            },
        };
        if step.months > 0 {
            by.micros == 0 && by.months % step.months == 0
        } else {
            by.micros % step.micros == 0 && (by.months == 0 || step.micros <= DAY_MICROS)
        }
    }

    fn bins(self, time: PreaggTime) -> Option<(Bins, Interval)> {
        custom(self.model, time.dimension, time.grain)?.bins()
    }

    /// The length of buckets that make up hours, in microseconds: in UTC these are buckets of every zone whose
    /// offset is a multiple.
    pub(super) fn divisor(self, time: PreaggTime) -> Option<i64> {
        let step = match time.grain {
            Grain::Standard(granularity) => Interval::of(granularity),
            Grain::Custom(_) => self.bins(time)?.0.step,
        };
        time.fills.is_some_and(|filled| filled <= Granularity::Hour).then_some(step.micros)
    }
}

/// A custom granularity of a dimension.
fn custom(model: &Model, id: DimensionId, grain: Grain) -> Option<&GranularityKind> {
    match grain {
        Grain::Standard(_) => None,
        Grain::Custom(index) => model.dimension(id).granularities.get(index as usize).map(|custom| &custom.kind),
    }
}

/// The coarsest standard granularity whose buckets make up those of a granularity; none when an expression decides.
pub(super) fn made_of(model: &Model, id: DimensionId, grain: Grain) -> Option<Granularity> {
    match grain {
        Grain::Standard(granularity) => Some(granularity),
        Grain::Custom(_) => custom(model, id, grain)?.made_of(),
    }
}

/// The ends of all conditions on a time, wall clock of the query's zone; none when one of them looks at more.
pub(super) fn borders(model: &Model, query: &Query, id: DimensionId) -> Option<Vec<i64>> {
    let wanted = resolve_alias(model, id);
    let same = |other: DimensionId| resolve_alias(model, other) == wanted;
    let ranges = query.time_dimensions.iter().filter(|time| same(time.dimension)).filter_map(|time| time.range);
    let mut borders: Vec<i64> = ranges.flat_map(|range| [range.start, range.end]).collect();
    let mut exact = true;
    for filter in &query.filters {
        tests(filter, &mut |column, test| {
            let (Column::Dimension(id) | Column::Raw(id)) = column else { return };
            if !same(id) {
                return;
            }
            match test {
                Test::Set | Test::NotSet => {}
                Test::InRange { start, end } => borders.extend(start.iter().chain(end)),
                Test::NotInRange(range) => borders.extend([range.start, range.end]),
                Test::In { .. } | Test::NotIn { .. } | Test::Like { .. } | Test::NotLike { .. } => exact = false,
                Test::Compare { .. } => exact = false,
            }
        });
    }
    exact.then_some(borders)
}

/// Calls `found` for every condition of a tree.
fn tests(filter: &Filter<Column>, found: &mut dyn FnMut(Column, &Test)) {
    match filter {
        Filter::Leaf { member, test } => found(*member, test),
        Filter::And(parts) | Filter::Or(parts) => parts.iter().for_each(|part| tests(part, found)),
    }
}
