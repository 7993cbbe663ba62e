//! Why a rollup does not answer a query.

use crate::preagg::coverage::Uncovered;
use crate::time::Granularity;

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
