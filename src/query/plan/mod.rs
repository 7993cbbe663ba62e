//! Query → plan: one level over joined rows, or several levels put together (`data-model.md` §14–21). Pure.
//!
//! [`shape`] plans one level: the join tree, and which measures are aggregated over distinct keys. [`stages`] plans
//! what takes more: facts that do not join, rolling windows, measures over results of other measures.

mod groups;
mod rolling;
mod shape;
mod stages;

use crate::model::{DimensionId, DimensionKind, Grain, JoinTree, MeasureId, MemberId, Model, RollingWindow};
use crate::query::members::{visit_level, visit_members};
use crate::query::{Column, Filter, OutputColumn, Query, QueryError};

pub(in crate::query) use rolling::bins_of;
pub use rolling::{Series, SeriesRange};
pub use shape::{KeyedMeasures, Shape, SubQueryPlan, hints, is_count_of_rows, members_of, shape};

/// How a query is computed.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// In one level.
    Leaf(Box<Leaf>),
    /// In several; the last node gives the answer's columns.
    Stages(Box<Stages>),
}

/// One level: it can be answered by a rollup, or by the source.
#[derive(Debug, Clone, PartialEq)]
pub struct Leaf {
    /// What is asked; of the whole query, or of a part of it.
    pub query: Query,
    /// Its joins.
    pub shape: Shape,
    /// Whether values come out as states that can be merged further.
    pub merged: bool,
    /// Whether rows come out, with what the measures aggregate.
    pub arguments: bool,
}

/// Several levels.
#[derive(Debug, Clone, PartialEq)]
pub struct Stages {
    /// Each refers to earlier ones only.
    pub nodes: Vec<Node>,
    /// The node that holds the query's groups and all measures that it needs.
    pub root: usize,
    /// The query: its columns, conditions on groups, order and limit.
    pub query: Query,
}

/// A relation: groups and values.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its columns before the values.
    pub groups: Vec<OutputColumn>,
    /// Its values.
    pub values: Vec<MeasureId>,
    /// Where they come from.
    pub kind: NodeKind,
}

/// How a relation is made. Numbers are positions in [`Stages::nodes`].
#[derive(Debug, Clone, PartialEq)]
pub enum NodeKind {
    /// Rows of a rollup or a source.
    Leaf(Box<Leaf>),
    /// All groups of all inputs, joined null-safely; each value from the input that has it.
    Join(Vec<usize>),
    /// The same groups, values computed from the input's.
    Evaluate(usize),
    /// Fewer groups: the values are aggregates, by their own types, of expressions over the input's.
    Aggregate(usize),
    /// The groups of `rows`, each with the values of its coarser group in `values`.
    Spread {
        /// Gives the groups.
        rows: usize,
        /// Gives the values.
        values: usize,
    },
    /// The same groups with their rank among those that share the `partition`.
    Rank {
        /// Gives the groups and what is ordered by.
        input: usize,
        /// Groups that are ranked among each other share these.
        partition: Vec<OutputColumn>,
    },
    /// Every bucket of a series with the rows of its window.
    Rolling {
        /// The rows.
        base: usize,
        /// The buckets.
        series: Series,
        /// The window.
        window: RollingWindow,
    },
    /// The groups of the input crossed with the values of switch dimensions, where their conditions hold.
    Switch {
        /// The input, if anything but switches is asked for.
        input: Option<usize>,
        /// The dimensions.
        switches: Vec<DimensionId>,
        /// Conditions on them.
        filters: Vec<Filter<Column>>,
    },
}

impl Plan {
    /// The query that it computes.
    pub fn query(&self) -> &Query {
        match self {
            Self::Leaf(leaf) => &leaf.query,
            Self::Stages(stages) => &stages.query,
        }
    }

    /// Its levels over joined rows, in order.
    pub fn leaves(&self) -> Vec<&Leaf> {
        match self {
            Self::Leaf(leaf) => vec![leaf],
            Self::Stages(stages) => stages
                .nodes
                .iter()
                .filter_map(|node| match &node.kind {
                    NodeKind::Leaf(leaf) => Some(leaf.as_ref()),
                    _ => None,
                })
                .collect(),
        }
    }
}

/// The joins of a query that takes one level.
///
/// # Errors
/// Its cubes do not join.
pub fn tree_of(model: &Model, query: &Query) -> Result<JoinTree, QueryError> {
    shape::closed_tree(model, hints(model, query))
}

/// The plan of a query.
///
/// # Errors
/// The cubes do not join, a key is missing, or a rule of the data model forbids the query.
pub fn plan(model: &Model, query: &Query) -> Result<Plan, QueryError> {
    stages::plan(model, query)
}

/// Whether one of the columns is, or is computed from, a member.
fn reads_member(model: &Model, columns: &[OutputColumn], member: MemberId) -> bool {
    let mut reads = false;
    for column in columns {
        visit_members(model, column.member(), &mut |inner| reads |= inner == member);
    }
    reads
}

/// The plan of a sub-query dimension that `outer` uses.
pub(super) fn plan_sub_query(model: &Model, outer: &Query, dimension: DimensionId) -> Result<SubQueryPlan, QueryError> {
    let DimensionKind::SubQuery(sub_query) = &model.dimension(dimension).kind else {
        return Err(QueryError::Model(format!(
            "'{}' is not a sub-query",
            model.path_of(MemberId::Dimension(dimension))
        )));
    };
    let cube = model.cube(dimension.cube);
    let mut keys: Vec<OutputColumn> = sub_query.by.iter().map(|(id, grain)| column_of(*id, *grain)).collect();
    if sub_query.staged {
        for column in outer.group_columns() {
            if !keys.contains(&column) && !shape::is_staged(model, column.member()) {
                keys.push(column);
            }
        }
    } else if keys.is_empty() {
        keys = cube.primary_key().map(|key| OutputColumn::Dimension(key.id)).collect();
    }
    if keys.is_empty() && !sub_query.staged {
        return Err(QueryError::Model(format!("One or more Primary key is required for '{}' cube", cube.name)));
    }
    let mut measures: Vec<MeasureId> = Vec::new();
    for member in sub_query.sql.members() {
        if let MemberId::Measure(id) = member
            && !measures.contains(&id)
        {
            measures.push(id);
        }
    }
    let mut inner = Query {
        measures,
        timezone: outer.timezone,
        // The owner's rows come first: where it can be the root, rows without a match count too.
        join_hints: vec![vec![dimension.cube]],
        context: std::sync::Arc::clone(&outer.context),
        // Its keys are compared, not shown.
        masks: outer.masks.iter().filter(|(member, _)| !reads_member(model, &keys, *member)).cloned().collect(),
        rules: outer.rules.clone(),
        denied: outer.denied,
        ..Query::default()
    };
    if sub_query.staged {
        inner.filters = outer.filters.iter().filter(|filter| all_plain(model, filter)).cloned().collect();
        inner.segments.clone_from(&outer.segments);
        inner.time_dimensions.clone_from(&outer.time_dimensions);
    } else if sub_query.propagate_filters {
        let plain = |member: MemberId| !shape::uses_sub_query(model, member);
        inner.filters = outer
            .filters
            .iter()
            .filter(|filter| matches!(filter, Filter::Leaf { member, .. } if plain(member.member())))
            .cloned()
            .collect();
        inner.segments = outer.segments.iter().copied().filter(|id| plain(MemberId::Segment(*id))).collect();
        let ranges = outer.time_dimensions.iter().filter(|time| time.range.is_some());
        let ranges = ranges.filter(|time| plain(MemberId::Dimension(time.dimension)));
        inner.time_dimensions = ranges.map(|time| crate::query::TimeDimension { granularity: None, ..*time }).collect();
    }
    inner.set_groups(&keys);
    let mut read = Vec::new();
    for member in shape::members(&inner) {
        visit_level(model, member, &mut |found| read.push(found.cube()));
    }
    let rules = outer.rules.iter().filter(|(cube, _)| read.contains(cube)).map(|(_, rule)| rule.clone());
    let rules: Vec<Filter<Column>> = rules.filter(|rule| !inner.filters.contains(rule)).collect();
    inner.filters.extend(rules);
    Ok(SubQueryPlan { dimension, keys, by_row: !sub_query.staged, plan: Box::new(plan(model, &inner)?) })
}

/// Whether a condition reads no multi-stage dimension.
fn all_plain(model: &Model, filter: &Filter<Column>) -> bool {
    members_of(filter).into_iter().all(|column| !shape::is_staged(model, column.member()))
}

fn column_of(id: DimensionId, grain: Option<Grain>) -> OutputColumn {
    grain.map_or(OutputColumn::Dimension(id), |grain| OutputColumn::Time(id, grain))
}
