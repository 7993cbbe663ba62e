//! Answers one question: request in, plan, batches out. Never changes stored state.
//!
//! Rooms in order of the walk: [`request`] (what a client asked, names still text) →
//! [`normalize`] (names to ids, dates to ranges, defaults, limits) → [`route`] (which rollup, or the
//! source, with reasons) → [`plan`] (a small typed tree) → [`lower`] (SQL text; the only place that
//! writes SQL) → [`execute`] (batches). All but the last are pure functions. [`serve`] puts what goes to a source in
//! line and keeps what it answers.

mod date_words;
pub mod dates;
pub mod execute;
pub mod expand;
pub mod explain;
mod filters;
pub mod fresh;
#[cfg(test)]
mod golden;
pub mod keys;
pub mod lineage;
pub mod lower;
mod members;
pub mod merge;
pub mod normalize;
pub mod plan;
mod planned;
pub mod policy;
pub mod request;
mod rest;
pub mod rollups;
pub mod route;
#[cfg(test)]
pub(crate) mod sample;
pub mod scan;
pub mod serve;
mod stored_times;
pub mod tenants;
pub mod tooling;

use std::sync::Arc;
use std::time::Duration;

use crate::cache::queue::Stage;
use crate::model::quantile::Quantile;
use crate::model::{
    AggKind, CubeId, DimensionId, Grain, Hint, MeasureId, MeasureKind, MemberId, Model, SegmentId, Template,
};
use crate::time::{Interval, TimeRange, Zone, spoken_duration};

/// A resolved, valid question about one [`crate::model::Model`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Query {
    /// Selected measures, in order, without repetitions.
    pub measures: Vec<MeasureId>,
    /// Selected dimensions, in order, without repetitions.
    pub dimensions: Vec<DimensionId>,
    /// Segments selected as boolean columns (a segment listed in `dimensions`).
    pub segment_columns: Vec<SegmentId>,
    /// Time dimensions: grouped by where they have a granularity, filtering where they have a range.
    pub time_dimensions: Vec<TimeDimension>,
    /// Segments that filter.
    pub segments: Vec<SegmentId>,
    /// Conditions on rows, before aggregation; all must hold.
    pub filters: Vec<Filter<Column>>,
    /// Conditions on groups, after aggregation; all must hold.
    pub measure_filters: Vec<Filter<MeasureId>>,
    /// Sort keys, first is strongest; positions in [`Query::columns`].
    pub order: Vec<OrderKey>,
    /// Greatest number of rows; none for builds.
    pub limit: Option<u64>,
    /// Rows to skip.
    pub offset: u64,
    /// Whether the number of rows without limit and offset is wanted too.
    pub total: bool,
    /// Zone of buckets, ranges and time values.
    pub timezone: Zone,
    /// Rows of the joined tables instead of groups.
    pub ungrouped: bool,
    /// Joins that the client asks for, before those that members need.
    pub join_hints: Vec<Hint>,
    /// Times that are moved before anything looks at them.
    pub shifts: Vec<Shift>,
    /// Members whose values are hidden.
    pub masks: Vec<(MemberId, Unmasked)>,
    /// Conditions of access policies by cube, for sub-query dimensions that read the cube: the query's own level has
    /// its conditions among `filters`.
    pub rules: Vec<(CubeId, Filter<Column>)>,
    /// Nothing may be seen: no row passes.
    pub denied: bool,
    /// Who asks: the security context, for SQL that depends on it.
    pub context: Arc<serde_json::Value>,
}

/// A time dimension whose times are moved (`data-model.md` §20.5).
#[derive(Debug, Clone, PartialEq)]
pub struct Shift {
    /// The dimension, aliases followed.
    pub dimension: DimensionId,
    /// Added to its local times.
    pub interval: Interval,
    /// Stands for the moved time instead (calendar cubes).
    pub sql: Option<Template>,
}

/// Where a masked member shows its own value after all.
#[derive(Debug, Clone, PartialEq)]
pub enum Unmasked {
    /// Nowhere.
    Never,
    /// In rows for which one of these holds.
    Where(Filter<Column>),
}

/// A use of a time dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeDimension {
    /// The dimension.
    pub dimension: DimensionId,
    /// Group by buckets of this size.
    pub granularity: Option<Grain>,
    /// Keep only these instants: wall-clock times of the query's zone, half-open.
    pub range: Option<TimeRange>,
}

/// What a row filter looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Column {
    /// A dimension's value.
    Dimension(DimensionId),
    /// A segment's truth.
    Segment(SegmentId),
    /// A dimension's value even where it is masked: conditions of access policies.
    Raw(DimensionId),
    /// Whether a row passes the filters of a measure (`measureFilter`).
    FiltersOf(MeasureId),
}

impl Column {
    /// The member that it looks at.
    pub fn member(self) -> MemberId {
        match self {
            Self::Dimension(id) | Self::Raw(id) => MemberId::Dimension(id),
            Self::Segment(id) => MemberId::Segment(id),
            Self::FiltersOf(id) => MemberId::Measure(id),
        }
    }
}

/// A condition tree over members of type `M`. Empty groups do not occur.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter<M> {
    /// One condition.
    Leaf {
        /// The member.
        member: M,
        /// The condition on its value.
        test: Test,
    },
    /// All must hold.
    And(Vec<Filter<M>>),
    /// One must hold.
    Or(Vec<Filter<M>>),
}

/// A condition on one value. Null semantics are spelled out (`data-model.md` §15).
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// `equals`, `in`: one of the values, or null if `null` is set.
    In {
        /// Values, maybe none.
        values: Vec<Value>,
        /// Whether null passes.
        null: bool,
    },
    /// `notEquals`, `notIn`: none of the values; null passes if `null` is set.
    NotIn {
        /// Values, maybe none.
        values: Vec<Value>,
        /// Whether null passes.
        null: bool,
    },
    /// `contains`, `startsWith`, `endsWith`, without regard to case.
    Like {
        /// Where the text must stand.
        place: Place,
        /// Any of these.
        values: Vec<String>,
        /// Whether null passes.
        null: bool,
    },
    /// The negations of [`Test::Like`]: none of the values.
    NotLike {
        /// Where the text must not stand.
        place: Place,
        /// None of these.
        values: Vec<String>,
        /// Whether null passes.
        null: bool,
    },
    /// `gt`, `gte`, `lt`, `lte`.
    Compare {
        /// The relation.
        relation: Relation,
        /// The right-hand side.
        value: Value,
    },
    /// `set`.
    Set,
    /// `notSet`.
    NotSet,
    /// `inDateRange`, `onTheDate`, `beforeDate`…: a half-open range of wall-clock times of the query's
    /// zone; an open side is none.
    InRange {
        /// First microsecond inside.
        start: Option<i64>,
        /// First microsecond after.
        end: Option<i64>,
    },
    /// `notInDateRange`: outside of the range, nulls dropped.
    NotInRange(TimeRange),
}

/// Where a text must stand in a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Anywhere.
    Anywhere,
    /// At the start.
    Start,
    /// At the end.
    End,
}

/// An order relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relation {
    /// `>`
    Gt,
    /// `>=`
    Gte,
    /// `<`
    Lt,
    /// `<=`
    Lte,
}

/// A typed constant of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A number as it was written: `-?digits[.digits][e±digits]`, checked.
    Number(String),
    /// A truth value.
    Boolean(bool),
    /// A wall-clock time of the query's zone, in microseconds.
    Time(i64),
}

/// A sort key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderKey {
    /// Position in [`Query::columns`].
    pub column: usize,
    /// Greatest first, nulls first; else least first, nulls last (PostgreSQL's defaults).
    pub descending: bool,
}

/// A column of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputColumn {
    /// A dimension.
    Dimension(DimensionId),
    /// A segment as a boolean.
    Segment(SegmentId),
    /// Buckets of a time dimension.
    Time(DimensionId, Grain),
    /// A measure.
    Measure(MeasureId),
}

impl OutputColumn {
    /// The member whose column it is.
    pub fn member(self) -> MemberId {
        match self {
            Self::Dimension(id) | Self::Time(id, _) => MemberId::Dimension(id),
            Self::Segment(id) => MemberId::Segment(id),
            Self::Measure(id) => MemberId::Measure(id),
        }
    }
}

impl Query {
    /// The answer's columns: dimensions, segments, time dimensions with granularity, measures.
    pub fn columns(&self) -> Vec<OutputColumn> {
        let mut columns: Vec<OutputColumn> = self.group_columns();
        columns.extend(self.measures.iter().map(|id| OutputColumn::Measure(*id)));
        columns
    }

    /// The members that it names itself: what it selects, then what it filters by, then its time dimensions.
    pub fn own_members(&self) -> Vec<MemberId> {
        let measures = self.measures.iter().map(|id| MemberId::Measure(*id));
        let dimensions = self.dimensions.iter().map(|id| MemberId::Dimension(*id));
        let segments = self.segment_columns.iter().chain(&self.segments).map(|id| MemberId::Segment(*id));
        let filters = self.filters.iter().flat_map(plan::members_of).map(Column::member);
        let groups = self.measure_filters.iter().flat_map(plan::members_of).map(MemberId::Measure);
        let times = self.time_dimensions.iter().map(|time| MemberId::Dimension(time.dimension));
        measures.chain(dimensions).chain(segments).chain(filters).chain(groups).chain(times).collect()
    }

    /// Its own members and all that these are computed from, each once; a count of rows reads their keys.
    pub fn read_members(&self, model: &Model) -> Vec<MemberId> {
        let mut read: Vec<MemberId> = Vec::new();
        let mut add = |member| {
            if !read.contains(&member) {
                read.push(member);
            }
        };
        for member in self.own_members() {
            members::visit_members(model, member, &mut |inner| {
                add(inner);
                if let MemberId::Measure(id) = inner
                    && let MeasureKind::Aggregate { agg: AggKind::Count, sql: None } = model.measure(id).kind
                {
                    model.cube(inner.cube()).primary_key().for_each(|key| add(MemberId::Dimension(key.id)));
                }
            });
        }
        read
    }

    /// The same with one row more than wanted: it shows whether the limit leaves rows out.
    pub fn one_more(&self) -> Self {
        Self { limit: self.limit.map(|limit| limit.saturating_add(1)), ..self.clone() }
    }

    /// The selected measures whose values are estimates.
    pub fn approximate(&self, model: &Model) -> Vec<MeasureId> {
        let estimates = |id: &MeasureId| {
            let mut found = false;
            members::visit_members(model, MemberId::Measure(*id), &mut |member| {
                if let MemberId::Measure(inner) = member {
                    found |= match &model.measure(inner).kind {
                        MeasureKind::Aggregate { agg, .. } => *agg == AggKind::CountDistinctApprox,
                        MeasureKind::Calculated { sql, .. } => Quantile::of(sql).is_some(),
                        MeasureKind::Rank(_) | MeasureKind::Switch(_) => false,
                    };
                }
            });
            found
        };
        self.measures.iter().copied().filter(estimates).collect()
    }

    /// The dimensions of [`Query::group_columns`], with their granularities.
    pub fn set_groups(&mut self, groups: &[OutputColumn]) {
        self.dimensions.clear();
        self.segment_columns.clear();
        let ranges: Vec<TimeDimension> =
            self.time_dimensions.iter().filter(|time| time.range.is_some()).copied().collect();
        self.time_dimensions = ranges.into_iter().map(|time| TimeDimension { granularity: None, ..time }).collect();
        self.time_dimensions.dedup();
        for column in groups {
            match column {
                OutputColumn::Dimension(id) => self.dimensions.push(*id),
                OutputColumn::Segment(id) => self.segment_columns.push(*id),
                OutputColumn::Time(dimension, grain) => {
                    let range = None;
                    self.time_dimensions.push(TimeDimension {
                        dimension: *dimension,
                        granularity: Some(*grain),
                        range,
                    });
                }
                OutputColumn::Measure(_) => {}
            }
        }
    }

    /// The columns grouped by: [`Query::columns`] without the measures. A time dimension asked for
    /// twice with one granularity is one column.
    pub fn group_columns(&self) -> Vec<OutputColumn> {
        let mut columns: Vec<OutputColumn> = self.dimensions.iter().map(|id| OutputColumn::Dimension(*id)).collect();
        columns.extend(self.segment_columns.iter().map(|id| OutputColumn::Segment(*id)));
        for time in &self.time_dimensions {
            if let Some(granularity) = time.granularity {
                let column = OutputColumn::Time(time.dimension, granularity);
                if !columns.contains(&column) {
                    columns.push(column);
                }
            }
        }
        columns
    }
}

/// Everything that can go wrong between a request and its rows. The texts are for clients.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The request's shape is wrong. The text is complete (`Invalid query format: "limit" must be…`).
    #[error("{0}")]
    Invalid(String),
    /// A member does not exist.
    #[error(transparent)]
    UnknownMember(#[from] crate::model::UnknownMember),
    /// The cubes cannot be joined.
    #[error(transparent)]
    Join(#[from] crate::model::JoinError),
    /// A rule of the data model forbids the query; the text says which (compiler `UserError`s).
    #[error("{0}")]
    Model(String),
    /// A selected member is not public. Cube's text; HTTP status 500 (`http-api.md` §4).
    #[error(
        "You requested hidden member: '{member}'. Please make it visible using `public: true`. Please note primaryKey fields are `public: false` by default: https://cube.dev/docs/schema/reference/joins#setting-a-primary-key."
    )]
    HiddenMember {
        /// `cube.member`.
        member: String,
    },
    /// `limit` is above the configured maximum.
    #[error("The query limit has been exceeded.")]
    LimitExceeded,
    /// Rollup-only mode and no rollup serves the query; the reasons of each candidate follow.
    #[error(
        "No pre-aggregation table has been built for this query yet. Please check your refresh worker configuration if it persists.{explanation}"
    )]
    NoRollup {
        /// Why each candidate lost.
        explanation: String,
    },
    /// The source needs longer than the request waits; the same request gets the answer later (`http-api.md` §6).
    #[error("Continue wait")]
    ContinueWait(Stage),
    /// It ran too long. Cube's text.
    #[error("Query execution timeout after {} of waiting", spoken_duration(*.0))]
    Timeout(Duration),
    /// The source or the engine failed.
    #[error("{0}")]
    Engine(#[from] crate::engine::EngineError),
}
