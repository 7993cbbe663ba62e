//! Rollup definitions (`pre-aggregations.md` §2).

use super::cube::{CubeId, DimensionId, Grain, Location, MeasureId, MemberId, SegmentId};
use super::refresh_key::RefreshKey;
use crate::time::Granularity;

/// Names a rollup definition of one [`super::Model`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PreaggId {
    /// The cube that defines it.
    pub cube: CubeId,
    /// Position in the cube's list.
    pub index: u32,
}

/// A `pre_aggregations` entry.
#[derive(Debug, Clone)]
pub struct Preagg {
    /// Its id in the model.
    pub id: PreaggId,
    /// Name within the cube.
    pub name: String,
    /// What it is made of, and whether it has partitions of its own.
    pub kind: PreaggKind,
    /// Join paths that its members are written with.
    pub paths: Vec<super::join::Hint>,
    /// Stored measures; of any cube that joins.
    pub measures: Vec<MeasureId>,
    /// Stored dimensions.
    pub dimensions: Vec<DimensionId>,
    /// Stored segments, as boolean columns.
    pub segments: Vec<SegmentId>,
    /// The stored time dimension, if any; it decides partitions and build range.
    pub time: Option<PreaggTime>,
    /// The further entries of `time_dimensions`.
    pub more_times: Vec<PreaggTime>,
    /// One partition a bucket of this granularity; one in all when absent or without time dimension.
    pub partition_granularity: Option<Granularity>,
    /// SQL that gives the first instant to build; the least time of the data when absent.
    pub build_range_start: Option<String>,
    /// SQL that gives the last instant to build; the greatest time of the data when absent.
    pub build_range_end: Option<String>,
    /// What tells that its data have changed; its cubes' keys when it has none.
    pub refresh_key: Option<RefreshKey>,
    /// Whether the scheduler builds it.
    pub scheduled_refresh: bool,
    /// `allow_non_strict_date_range_match: false`.
    pub strict: bool,
    /// Whether it is built from the rows of its cube's `original_sql` table.
    pub use_original_sql: bool,
    /// Sort orders to keep, strongest column first; the first one is that of the files.
    pub indexes: Vec<PreaggIndex>,
    /// Stands for the name in names of stored tables (`sql_alias`).
    pub sql_alias: Option<String>,
    /// What answers say of where it is kept (`external`); Quarry keeps all rollups in its own store.
    pub external: bool,
    /// Where it is defined.
    pub location: Location,
}

impl Preagg {
    /// A rollup that stores nothing yet.
    pub fn empty(id: PreaggId, name: &str, location: Location) -> Self {
        Self {
            id,
            name: name.to_owned(),
            kind: PreaggKind::Rollup,
            paths: Vec::new(),
            measures: Vec::new(),
            dimensions: Vec::new(),
            segments: Vec::new(),
            time: None,
            more_times: Vec::new(),
            partition_granularity: None,
            build_range_start: None,
            build_range_end: None,
            refresh_key: None,
            scheduled_refresh: true,
            strict: false,
            use_original_sql: false,
            indexes: Vec::new(),
            sql_alias: None,
            external: true,
            location,
        }
    }

    /// Whether it is stored in partitions of its own, so that it can be built.
    pub fn is_stored(&self) -> bool {
        matches!(self.kind, PreaggKind::Rollup | PreaggKind::OriginalSql)
    }

    /// All members that it lists, in the order of its lists; the times last.
    pub fn members(&self) -> impl Iterator<Item = MemberId> {
        let measures = self.measures.iter().map(|id| MemberId::Measure(*id));
        let dimensions = self.dimensions.iter().map(|id| MemberId::Dimension(*id));
        let segments = self.segments.iter().map(|id| MemberId::Segment(*id));
        let times = self.times().map(|time| MemberId::Dimension(time.dimension));
        measures.chain(dimensions).chain(segments).chain(times)
    }

    /// Whether a stored bucket may lie in two partitions, with a row in each: weeks in months. Such rows
    /// bear a time before their partition's start.
    pub fn straddles(&self) -> bool {
        match (self.time, self.partition_granularity) {
            (Some(time), Some(partition)) => !time.fills.is_some_and(|filled| filled.serves(partition)),
            (None, _) | (_, None) => false,
        }
    }

    /// Its stored times; the first decides partitions and build range.
    pub fn times(&self) -> impl Iterator<Item = PreaggTime> {
        self.time.into_iter().chain(self.more_times.iter().copied())
    }
}

/// What a pre-aggregation is made of (`pre-aggregations.md` §2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PreaggKind {
    /// A stored aggregate.
    Rollup,
    /// The stored rows of its cube's own SQL.
    OriginalSql,
    /// Rollups joined when they are asked; has no partitions of its own.
    Join {
        /// What is joined, in the order given.
        rollups: Vec<PreaggId>,
    },
    /// Rollups put one after the other in time; has no partitions of its own.
    Lambda {
        /// Earlier ones win where several cover a bucket.
        rollups: Vec<PreaggId>,
        /// Whether the source answers for time after the last covered instant.
        union_with_source: bool,
    },
}

/// A declared index: an order that rows are sorted by (`pre-aggregations.md` §2.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreaggIndex {
    /// Its name.
    pub name: String,
    /// Stored columns, strongest first.
    pub columns: Vec<String>,
    /// `type: aggregate`: only these columns and the additive measures, grouped.
    pub aggregate: bool,
}

/// A time dimension of a rollup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreaggTime {
    /// The dimension.
    pub dimension: DimensionId,
    /// Its values are truncated to this.
    pub grain: Grain,
    /// The standard granularity of its buckets; of a custom one, the coarsest whose buckets make these up.
    pub granularity: Granularity,
    /// The finest standard granularity whose buckets are made of these; none when these lie across.
    pub fills: Option<Granularity>,
}

impl PreaggTime {
    /// Buckets of a standard granularity.
    pub fn standard(dimension: DimensionId, granularity: Granularity) -> Self {
        Self { dimension, grain: Grain::Standard(granularity), granularity, fills: Some(granularity) }
    }
}
