//! Why a rollup does not answer a query.

use std::fmt;

use crate::model::{DimensionId, Grain, MeasureId, MemberId, Model, SegmentId};
use crate::preagg::coverage::Uncovered;

/// A member at fault; shown as `cube.member`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Culprit {
    /// The member.
    pub id: MemberId,
    path: String,
}

impl Culprit {
    pub(super) fn of(model: &Model, id: MemberId) -> Self {
        Self { id, path: model.path_of(id) }
    }

    pub(super) fn dimension(model: &Model, id: DimensionId) -> Self {
        Self::of(model, MemberId::Dimension(id))
    }

    pub(super) fn measure(model: &Model, id: MeasureId) -> Self {
        Self::of(model, MemberId::Measure(id))
    }

    pub(super) fn segment(model: &Model, id: SegmentId) -> Self {
        Self::of(model, MemberId::Segment(id))
    }
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

/// A rule of matching that a rollup breaks.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Reason {
    /// A selected dimension is neither stored nor computable from stored ones.
    #[error("dimension {0} is not stored")]
    Dimension(Culprit),
    /// A dimension that is only filtered by is neither stored nor computable.
    #[error("dimension {0} is not stored, and the query has a condition on it")]
    Filter(Culprit),
    /// A condition of an access policy needs a dimension that is not stored. Who asks need not know of it.
    #[error("a condition of the access policy looks at what is not stored")]
    Policy,
    /// A segment is neither stored nor computable.
    #[error("segment {0} is not stored")]
    Segment(Culprit),
    /// A time dimension is not stored at all, or cannot be made from the granularities that are.
    #[error("time dimension {member} by {asked} cannot be made from what is stored")]
    Granularity {
        /// The dimension.
        member: Culprit,
        /// The granularity's name.
        asked: String,
        /// The granularity.
        grain: Grain,
    },
    /// A time condition does not begin and end with stored buckets.
    #[error("the range of {member} is not made of whole buckets of a {stored}")]
    Range {
        /// The dimension.
        member: Culprit,
        /// The stored granularities.
        stored: String,
    },
    /// A condition on the stored time that needs the exact value.
    #[error("the filter on {0} needs exact times, and only buckets are stored")]
    TimeFilter(Culprit),
    /// A measure is not stored, nor all that it is computed from.
    #[error("measure {0} is not stored")]
    Measure(Culprit),
    /// A measure cannot be merged, and the query is coarser than the rollup.
    #[error("measure {0} cannot be merged, and the query is coarser than the rollup")]
    NotAdditive(Culprit),
    /// Joins of the query repeat the rows of a measure.
    #[error("joins multiply the rows of measure {0}")]
    Multiplied(Culprit),
    /// Joins of the rollup repeat the rows of a measure, those of the query do not.
    #[error("joins of the rollup multiply the rows of measure {0}, those of the query do not")]
    MultipliedInRollup(Culprit),
    /// The rollup joins its cubes in another way than the query does.
    #[error("its joins differ from the query's")]
    JoinPath,
    /// Not built for the query's zone, and what is stored in UTC does not serve it.
    #[error("what it stores in UTC does not serve zone {0}")]
    Zone(String),
    /// The range is not published.
    #[error(transparent)]
    Uncovered(#[from] Uncovered),
    /// Some values are hidden from who asks.
    #[error("values of {0} are hidden from who asks")]
    Masked(Culprit),
    /// What its sub-queries store covers other rows than the query's.
    #[error("the sub-query dimension {0} depends on the query's conditions or on who asks")]
    SubQuery(Culprit),
    /// A time dimension is moved by a length that stored buckets do not follow.
    #[error("the times of {0} are moved in a way that stored buckets do not follow")]
    Shifted(Culprit),
    /// The query wants rows, and a key that tells them apart is not stored.
    #[error("the query is not grouped, and key {0} is not stored")]
    UngroupedKey(Culprit),
    /// The query wants rows, and several of them lie in a stored row, or a stored row has none.
    #[error("the query is not grouped, and stored rows are not its rows: {0}")]
    Ungrouped(String),
    /// A condition by the filters of a measure.
    #[error("the filters of measure {0} need rows, and only groups are stored")]
    MeasureFilters(Culprit),
    /// What it stores depends on who asks.
    #[error("its SQL depends on the security context")]
    SecurityContext,
    /// It is of type `original_sql`.
    #[error("it holds the rows of its cube, which stand for the cube's SQL where no rollup answers")]
    Rows,
    /// Its definition cannot be planned.
    #[error("its definition is faulty: {0}")]
    Faulty(String),
}

impl Reason {
    /// The rule's name, for machines (`pre-aggregations.md` §4.6).
    pub fn code(&self) -> &'static str {
        match self {
            Self::Dimension(_) => "DIMENSION",
            Self::Filter(_) | Self::TimeFilter(_) | Self::Policy => "FILTER",
            Self::Segment(_) => "SEGMENT",
            Self::Granularity { .. } | Self::Range { .. } => "GRANULARITY",
            Self::Measure(_) => "MEASURE",
            Self::NotAdditive(_) => "NOT_ADDITIVE",
            Self::Multiplied(_) => "MULTIPLIED",
            Self::MultipliedInRollup(_) => "MULTIPLIED_IN_ROLLUP",
            Self::JoinPath => "JOIN_PATH",
            Self::Zone(_) => "TIME_ZONE",
            Self::Uncovered(Uncovered::NotBuilt) => "NOT_BUILT",
            Self::Uncovered(Uncovered::MissingPartition(_)) => "PARTITION_NOT_BUILT",
            Self::Uncovered(Uncovered::OutsideBuildRange(_)) => "OUTSIDE_BUILD_RANGE",
            Self::Uncovered(Uncovered::Gap(_) | Uncovered::Untimed) => "NOT_COVERED",
            Self::Rows => "NOT_GROUPED",
            Self::Masked(_) => "MASKED",
            Self::SubQuery(_) => "SUB_QUERY",
            Self::Shifted(_) => "TIME_SHIFT",
            Self::UngroupedKey(_) | Self::Ungrouped(_) => "UNGROUPED",
            Self::MeasureFilters(_) => "MEASURE_FILTERS",
            Self::SecurityContext => "SECURITY_CONTEXT",
            Self::Faulty(_) => "FAULTY",
        }
    }

    /// The member at fault, if one is.
    pub fn culprit(&self) -> Option<&Culprit> {
        match self {
            Self::Dimension(culprit)
            | Self::Filter(culprit)
            | Self::Segment(culprit)
            | Self::Granularity { member: culprit, .. }
            | Self::Range { member: culprit, .. }
            | Self::TimeFilter(culprit)
            | Self::Measure(culprit)
            | Self::NotAdditive(culprit)
            | Self::Multiplied(culprit)
            | Self::MultipliedInRollup(culprit)
            | Self::Masked(culprit)
            | Self::SubQuery(culprit)
            | Self::Shifted(culprit)
            | Self::UngroupedKey(culprit)
            | Self::MeasureFilters(culprit) => Some(culprit),
            Self::Policy
            | Self::JoinPath
            | Self::Zone(_)
            | Self::Uncovered(_)
            | Self::Ungrouped(_)
            | Self::SecurityContext
            | Self::Rows
            | Self::Faulty(_) => None,
        }
    }
}
