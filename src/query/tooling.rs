//! What tools that design rollups want to know of a query (`http-api.md` §7.2).

use super::Query;
use super::members::{leaves, resolve_alias};
use super::plan::{members_of, shape};
use super::{Column, TimeDimension};
use crate::model::granularity::{CustomGranularity, GranularityKind};
use crate::model::{AggKind, Dimension, DimensionId, Grain, MeasureId, MeasureKind, MemberId, Model};
use crate::time::{Granularity, Interval, from_micros};

/// Traits of a query that decide which rollups can answer it.
#[derive(Debug, Clone)]
pub struct Traits {
    /// Each measure with those that aggregate rows under it.
    pub leaves: Vec<(MeasureId, Vec<MeasureId>)>,
    /// Dimensions and segments that it selects or filters by, each once, in the order of their names.
    pub dimensions: Vec<MemberId>,
    /// Whether it filters by nothing but what it selects.
    pub filters_selected_only: bool,
    /// Time dimensions with the name of the granularity that their rollup must have at least.
    pub times: Vec<(DimensionId, String)>,
    /// Whether joins repeat the rows of a measure.
    pub multiplied: bool,
    /// Whether a measure is over windows of time.
    pub cumulative: bool,
    /// Whether a measure is over results of others.
    pub multi_stage: bool,
}

/// Looks at a query.
pub fn traits(model: &Model, query: &Query) -> Traits {
    let leaves: Vec<_> = query.measures.iter().map(|id| (*id, leaves(model, *id))).collect();
    let selected: Vec<MemberId> = query.dimensions.iter().map(|id| MemberId::Dimension(*id)).collect();
    let filtered = query.filters.iter().flat_map(members_of).map(Column::member);
    let filtered: Vec<MemberId> = filtered.chain(query.segments.iter().map(|id| MemberId::Segment(*id))).collect();
    let mut dimensions: Vec<MemberId> = selected.iter().chain(&filtered).copied().collect();
    dimensions.sort_by_key(|member| model.path_of(*member));
    dimensions.dedup();
    let all: Vec<MeasureId> = leaves.iter().flat_map(|(id, under)| under.iter().copied().chain([*id])).collect();
    Traits {
        filters_selected_only: filtered.iter().all(|member| selected.contains(member)),
        dimensions,
        times: query.time_dimensions.iter().map(|time| (time.dimension, rollup_granularity(model, time))).collect(),
        multiplied: shape(model, query).is_ok_and(|shape| !shape.keyed.is_empty()),
        cumulative: all.iter().any(|id| model.measure(*id).rolling.is_some()),
        multi_stage: all.iter().any(|id| model.measure(*id).stage.is_some()),
        leaves,
    }
}

/// The dimension under a view's.
pub fn owned(model: &Model, member: MemberId) -> MemberId {
    match member {
        MemberId::Dimension(id) => MemberId::Dimension(resolve_alias(model, id)),
        MemberId::Measure(_) | MemberId::Segment(_) => member,
    }
}

/// Whether values of a measure for parts add up to the value for the whole (`data-model.md` §24.1).
pub fn is_additive(model: &Model, id: MeasureId) -> bool {
    let measure = model.measure(id);
    let adds = |agg| !matches!(agg, AggKind::Avg | AggKind::CountDistinct);
    measure.stage.is_none() && matches!(measure.kind, MeasureKind::Aggregate { agg, .. } if adds(agg))
}

/// The granularity that a rollup must have for a time of a query: not coarser than asked, and one that both ends of
/// the range lie on.
fn rollup_granularity(model: &Model, time: &TimeDimension) -> String {
    let ends = time.range.map(|range| [from_micros(range.start), from_micros(range.end)]);
    let on_range = |unit: Granularity| ends.is_none_or(|ends| ends.iter().all(|end| unit.truncate(*end) == *end));
    match time.granularity {
        Some(grain @ Grain::Custom(_)) => model.dimension(time.dimension).grain_name(grain).to_owned(),
        Some(Grain::Standard(asked)) => coarsest(|unit| unit.serves(asked) && on_range(unit)),
        None => coarsest(|unit| unit != Granularity::Week && on_range(unit)),
    }
}

fn coarsest(fits: impl Fn(Granularity) -> bool) -> String {
    let found = Granularity::ALL.into_iter().rev().find(|unit| fits(*unit));
    found.unwrap_or(Granularity::Second).as_str().to_owned()
}

/// The granularities of a time dimension, each with those of rollups that serve it.
pub fn hierarchies(dimension: &Dimension) -> Vec<(String, Vec<String>)> {
    let serving = |coarser: Granularity| {
        let serving = Granularity::ALL.into_iter().rev().filter(move |unit| unit.serves(coarser));
        serving.map(|unit| unit.as_str().to_owned())
    };
    let standard = Granularity::ALL.into_iter().rev();
    let standard = standard.filter(|unit| dimension.offered.as_ref().is_none_or(|offered| offered.contains(unit)));
    let mut found: Vec<_> = standard.map(|unit| (unit.as_str().to_owned(), serving(unit).collect())).collect();
    for custom in &dimension.granularities {
        let own = std::iter::once(custom.name.clone());
        let parts = smallest_unit(custom).into_iter().flat_map(serving);
        found.push((custom.name.clone(), own.chain(parts).collect()));
    }
    found
}

/// The smallest unit in the definition of a granularity; none when an expression decides.
fn smallest_unit(custom: &CustomGranularity) -> Option<Granularity> {
    if matches!(custom.kind, GranularityKind::Sql(_)) {
        return None;
    }
    let written = &custom.written;
    let units = [&written.interval, &written.offset].into_iter().flatten();
    let units = units.filter_map(|text| Interval::parse(text)).map(|(_, unit)| unit);
    // An origin within a month, or within a day, cuts these.
    let origin = written.origin.as_ref().map(|text| match (text.get(8..10), text.get(11..)) {
        (_, Some(clock)) if clock.bytes().any(|b| (b'1'..=b'9').contains(&b)) => Granularity::Second,
        (None | Some("01"), _) => Granularity::Month,
        _ => Granularity::Day,
    });
    units.chain(origin).min()
}
