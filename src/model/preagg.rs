//! Rollup definitions (`pre-aggregations.md` §2).

use std::time::Duration;

use super::cube::{CubeId, DimensionId, Location, MeasureId, SegmentId};
use crate::time::Granularity;

/// Names a rollup definition of one [`super::Model`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PreaggId {
    /// The cube that defines it.
    pub cube: CubeId,
    /// Position in the cube's list.
    pub index: u32,
}

/// A `pre_aggregations` entry of type `rollup`.
#[derive(Debug)]
pub struct Preagg {
    /// Its id in the model.
    pub id: PreaggId,
    /// Name within the cube.
    pub name: String,
    /// Join paths that its members are written with.
    pub paths: Vec<super::join::Hint>,
    /// Stored measures; of any cube that joins.
    pub measures: Vec<MeasureId>,
    /// Stored dimensions.
    pub dimensions: Vec<DimensionId>,
    /// Stored segments, as boolean columns.
    pub segments: Vec<SegmentId>,
    /// The stored time dimension, if any.
    pub time: Option<PreaggTime>,
    /// One partition a bucket of this granularity; one in all when absent or without time dimension.
    pub partition_granularity: Option<Granularity>,
    /// SQL that gives the first instant to build; the least time of the data when absent.
    pub build_range_start: Option<String>,
    /// SQL that gives the last instant to build; the greatest time of the data when absent.
    pub build_range_end: Option<String>,
    /// Age after which a partition is stale; the cube's when the rollup has none.
    pub refresh_every: Option<Duration>,
    /// Whether the scheduler builds it.
    pub scheduled_refresh: bool,
    /// What answers say of where it is kept (`external`); Quarry keeps all rollups in its own store.
    pub external: bool,
    /// Where it is defined.
    pub location: Location,
}

impl Preagg {
    /// Whether a stored bucket may lie in two partitions, with a row in each: weeks in months. Such rows
    /// bear a time before their partition's start.
    pub fn straddles(&self) -> bool {
        match (self.time, self.partition_granularity) {
            (Some(time), Some(partition)) => !time.granularity.serves(partition),
            (None, _) | (_, None) => false,
        }
    }
}

/// The time dimension of a rollup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreaggTime {
    /// The dimension.
    pub dimension: DimensionId,
    /// Its values are truncated to this.
    pub granularity: Granularity,
}
