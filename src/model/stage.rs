//! Measures over time windows and over results of other measures (`data-model.md` §19, §20).

use super::cube::{DimensionId, Grain, MemberId};
use super::template::Template;
use crate::time::{Granularity, Interval};

/// The moving window of time that a measure takes in for each bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RollingWindow {
    /// So much before and after an end of the bucket.
    Fixed {
        /// Before.
        trailing: Extent,
        /// After.
        leading: Extent,
        /// Which end.
        offset: WindowOffset,
    },
    /// From the start of the bucket's month, year… to the bucket's end.
    ToDate(Granularity),
}

/// How far a window reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extent {
    /// So far; with the unit it was written in.
    Interval(Interval, Granularity),
    /// To the end of the data.
    Unbounded,
}

impl Extent {
    /// Not at all.
    pub const NONE: Self = Self::Interval(Interval::ZERO, Granularity::Year);
}

/// The end of the bucket that a window is counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WindowOffset {
    /// Its start.
    Start,
    /// Its end.
    End,
}

/// How a multi-stage measure is computed from those that it references.
#[derive(Debug, Clone, Default)]
pub struct MultiStage {
    /// What the referenced measures are grouped by.
    pub grain: GrainRule,
    /// Time shifts of what they take in.
    pub shifts: Vec<TimeShift>,
    /// Changes of the conditions that they inherit.
    pub filter: Option<FilterRule>,
}

/// A dimension, or buckets of it.
pub type GrainMember = (DimensionId, Option<Grain>);

/// The grain of a multi-stage measure against the query's (`data-model.md` §20.2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrainRule {
    /// `keep_only` or `group_by`: nothing else is grouped by.
    pub keep_only: Option<Vec<GrainMember>>,
    /// `exclude` or `reduce_by`: not grouped by.
    pub exclude: Vec<GrainMember>,
    /// `include` or `add_group_by`: grouped by too, then aggregated away.
    pub include: Vec<GrainMember>,
    /// `mode: fixed`: of the query's own groups, whatever measures over this one are grouped by; none of them unless
    /// they are kept.
    pub fixed: bool,
}

/// A shift of time (`data-model.md` §20.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeShift {
    /// Only where the query uses this dimension; all time dimensions when none.
    pub dimension: Option<DimensionId>,
    /// The name of a shift that a calendar cube defines.
    pub name: Option<String>,
    /// Added to the times of rows: positive for `prior`.
    pub interval: Option<Interval>,
    /// Replaces the shifted time (calendar cubes).
    pub sql: Option<Template>,
}

/// How a multi-stage measure changes the conditions of the query (`data-model.md` §20.4).
#[derive(Debug, Clone, Default)]
pub struct FilterRule {
    /// Conditions on these are dropped.
    pub exclude: Vec<MemberId>,
    /// Only conditions on these are kept.
    pub keep_only: Option<Vec<MemberId>>,
    /// Conditions to add, in the query's own format; resolved when a query is planned.
    pub include: Vec<serde_json::Value>,
    /// `mode: fixed`: the conditions that are changed are the query's own, not those of measures over this one.
    pub fixed: bool,
}

/// One key of a rank's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankOrder {
    /// What is ordered by: an expression over measures.
    pub sql: Template,
    /// Greatest first.
    pub descending: bool,
}
