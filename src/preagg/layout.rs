//! Rollup definition → stored columns and [`TableId`].

use quarry_storage::TableId;

use crate::model::quantile::Quantile;
use crate::model::{AggKind, DimensionId, MeasureId, MeasureKind, MemberId, Model, PreaggId, PreaggTime, SegmentId};
pub use crate::names::alias;
use crate::time::Zone;

/// Changes whenever the meaning of stored columns changes, so that old tables are not read by mistake.
const LAYOUT_VERSION: u32 = 1;

/// A stored state of a measure, and how rows of it merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StateColumn {
    /// Row or value count; merges by sum. A BIGINT.
    Count,
    /// Sum; merges by sum.
    Sum,
    /// Least value; merges by minimum.
    Min,
    /// Greatest value; merges by maximum.
    Max,
    /// Set of distinct values; merges by union.
    Distinct,
    /// Sketch of a number of distinct values; merges by union.
    Sketch,
    /// Counted values of an approximate percentile; merges by addition.
    Quantiles,
    /// A finished value that cannot be merged: usable only where no rows are put together.
    Value,
}

/// The states stored for one measure, in column order.
pub fn states(kind: &MeasureKind) -> &'static [StateColumn] {
    match kind {
        MeasureKind::Aggregate { agg, .. } => match agg {
            AggKind::Count => &[StateColumn::Count],
            AggKind::Sum => &[StateColumn::Sum],
            AggKind::Min => &[StateColumn::Min],
            AggKind::Max => &[StateColumn::Max],
            AggKind::Avg => &[StateColumn::Sum, StateColumn::Count],
            AggKind::CountDistinct => &[StateColumn::Distinct],
            AggKind::CountDistinctApprox => &[StateColumn::Sketch],
        },
        MeasureKind::Calculated { sql, .. } if Quantile::of(sql).is_some() => &[StateColumn::Quantiles],
        MeasureKind::Calculated { .. } | MeasureKind::Rank(_) | MeasureKind::Switch(_) => &[StateColumn::Value],
    }
}

/// Name of the stored column of a state: `orders__total`, and `orders__price__count` for the second of two.
pub fn state_column(model: &Model, measure: MeasureId, state: StateColumn) -> String {
    let base = measure_column(model, measure);
    match (&model.measure(measure).kind, state) {
        (MeasureKind::Aggregate { agg: AggKind::Avg, .. }, StateColumn::Sum) => format!("{base}__sum"),
        (MeasureKind::Aggregate { agg: AggKind::Avg, .. }, StateColumn::Count) => format!("{base}__count"),
        _ => base,
    }
}

/// Name of the column of a measure.
pub fn measure_column(model: &Model, measure: MeasureId) -> String {
    alias(&model.alias_path(MemberId::Measure(measure)))
}

/// Name of the stored column of a dimension.
pub fn dimension_column(model: &Model, dimension: DimensionId) -> String {
    alias(&model.alias_path(MemberId::Dimension(dimension)))
}

/// Name of the stored column of a segment.
pub fn segment_column(model: &Model, segment: SegmentId) -> String {
    alias(&model.alias_path(MemberId::Segment(segment)))
}

/// Name of the column of a time dimension at a granularity: `orders__created_at_day`.
pub fn time_column(model: &Model, dimension: DimensionId, granularity: &str) -> String {
    format!("{}_{granularity}", dimension_column(model, dimension))
}

/// Name of the column of a stored time, at its own granularity.
pub fn stored_time_column(model: &Model, time: PreaggTime) -> String {
    time_column(model, time.dimension, model.dimension(time.dimension).grain_name(time.grain))
}

/// The stored table of one variant of a rollup: `cube.rollup@zone-digest`, where the digest covers
/// everything that decides the table's content: the SQL of all members, cubes and joins involved.
///
/// `definition` is that text; callers pass the build statement without partition bounds.
pub fn table_id(model: &Model, preagg: PreaggId, zone: Zone, definition: &str) -> TableId {
    let (cube, rollup) = (model.cube(preagg.cube), model.preagg(preagg));
    let digest = xxhash_rust::xxh3::xxh3_64(format!("{LAYOUT_VERSION}\n{zone}\n{definition}").as_bytes());
    let zone: String = zone.name().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let text = format!("{}@{zone}-{digest:016x}", stem(&cube.name, &rollup.name));
    TableId::new(&text).expect("identifiers, a zone's letters and a digest are allowed characters")
}

/// What the names of all tables of a rollup begin with, whatever their zone and content.
fn stem(cube: &str, rollup: &str) -> String {
    let mut name = format!("{cube}.{rollup}");
    name.truncate(130);
    name.trim_start_matches('.').to_owned()
}
