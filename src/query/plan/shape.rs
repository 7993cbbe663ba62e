//! How a query is computed from joined rows: the join tree, and where fan-out makes measures be
//! aggregated over distinct keys (`data-model.md` §17). Pure.

use super::members::{collect_cubes, leaves, segment_members};
use super::{Column, Filter, Query, QueryError};
use crate::model::{AggKind, CubeId, JoinTree, MeasureId, MeasureKind, MemberId, Model, Part};

/// The joins of a query, and the leaf measures by where they are aggregated.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// The joins.
    pub tree: JoinTree,
    /// Leaf measures aggregated over the joined rows in place.
    pub regular: Vec<MeasureId>,
    /// Leaf measures of cubes whose rows repeat, by cube: aggregated over the cube's distinct keys.
    pub keyed: Vec<KeyedMeasures>,
}

/// Measures that one keys sub-query computes.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyedMeasures {
    /// The cube whose keys are distinct.
    pub cube: CubeId,
    /// Joins from that cube to others that its measures refer to.
    pub tree: JoinTree,
    /// The measures.
    pub measures: Vec<MeasureId>,
}

/// The shape of a query over its source.
///
/// # Errors
/// The cubes do not join, a key is missing, or a measure cannot be computed without double counting.
pub fn shape(model: &Model, query: &Query) -> Result<Shape, QueryError> {
    let measures: Vec<MeasureId> =
        query.measures.iter().copied().chain(query.measure_filters.iter().flat_map(members_of)).collect();
    let tree = closed_tree(model, hints(model, query)?)?;
    let mut shape = Shape { tree, regular: Vec::new(), keyed: Vec::new() };
    for leaf in measures.iter().flat_map(|id| leaves(model, *id)) {
        if shape.regular.contains(&leaf) || shape.keyed.iter().any(|keyed| keyed.measures.contains(&leaf)) {
            continue;
        }
        if !shape.tree.multiplies(leaf.cube) || counts_distinct(model, leaf) {
            require_key_for_count(model, &shape.tree, leaf)?;
            shape.regular.push(leaf);
        } else {
            add_keyed(model, &mut shape.keyed, leaf)?;
        }
    }
    Ok(shape)
}

/// The cubes of a query in hint order: measures, dimensions, segments, row filters, measure filters, time
/// dimensions (`data-model.md` §7.2).
///
/// # Errors
/// A member needs what this version does not compute.
pub fn hints(model: &Model, query: &Query) -> Result<Vec<CubeId>, QueryError> {
    let measures = query.measures.iter().map(|id| MemberId::Measure(*id));
    let dimensions = query.dimensions.iter().map(|id| MemberId::Dimension(*id));
    let segments = segment_members(&query.segment_columns).chain(segment_members(&query.segments));
    let filters = query.filters.iter().flat_map(members_of).map(|column| match column {
        Column::Dimension(id) => MemberId::Dimension(id),
        Column::Segment(id) => MemberId::Segment(id),
    });
    let measure_filters = query.measure_filters.iter().flat_map(members_of).map(MemberId::Measure);
    let times = query.time_dimensions.iter().filter(|t| t.granularity.is_some() || t.range.is_some());
    let times = times.map(|t| MemberId::Dimension(t.dimension));
    let members = measures.chain(dimensions).chain(segments).chain(filters).chain(measure_filters).chain(times);
    let mut cubes = Vec::new();
    for member in members {
        collect_cubes(model, member, &mut cubes)?;
    }
    Ok(cubes)
}

/// The join tree of the hints and of every cube that its own join predicates mention; those go right
/// after the first hint (`data-model.md` §7.2).
fn closed_tree(model: &Model, mut hints: Vec<CubeId>) -> Result<JoinTree, QueryError> {
    loop {
        let tree = model.join_tree(&hints)?;
        let mut mentioned = Vec::new();
        for edge in &tree.edges {
            for part in &model.cube(edge.from).joins[edge.join].sql.parts {
                match part {
                    Part::Cube(cube) if !mentioned.contains(cube) => mentioned.push(*cube),
                    Part::Member(member) => collect_cubes(model, *member, &mut mentioned)?,
                    Part::Cube(_) | Part::Text(_) | Part::Time(..) => {}
                }
            }
        }
        // Each round adds a cube, so the loop ends.
        let Some(missing) = mentioned.into_iter().find(|cube| !tree.cubes().any(|joined| joined == *cube)) else {
            return Ok(tree);
        };
        hints.insert(1, missing);
    }
}

/// The members of a condition tree, in order.
pub fn members_of<M: Copy>(filter: &Filter<M>) -> Vec<M> {
    match filter {
        Filter::Leaf { member, .. } => vec![*member],
        Filter::And(parts) | Filter::Or(parts) => parts.iter().flat_map(members_of).collect(),
    }
}

/// Whether a leaf stays right when rows repeat: it counts distinct values or keys.
fn counts_distinct(model: &Model, leaf: MeasureId) -> bool {
    matches!(
        model.measure(leaf).kind,
        MeasureKind::Aggregate { agg: AggKind::CountDistinct, .. }
            | MeasureKind::Aggregate { agg: AggKind::Count, sql: None }
    )
}

fn require_key_for_count(model: &Model, tree: &JoinTree, leaf: MeasureId) -> Result<(), QueryError> {
    let bare_count = matches!(model.measure(leaf).kind, MeasureKind::Aggregate { agg: AggKind::Count, sql: None });
    if bare_count && (leaf.cube != tree.root || tree.multiplies(leaf.cube)) {
        require_key(model, leaf.cube)?;
    }
    Ok(())
}

fn require_key(model: &Model, cube: CubeId) -> Result<(), QueryError> {
    match model.cube(cube).primary_key().next() {
        Some(_) => Ok(()),
        None => {
            Err(QueryError::Model(format!("One or more Primary key is required for '{}' cube", model.cube(cube).name)))
        }
    }
}

fn add_keyed(model: &Model, keyed: &mut Vec<KeyedMeasures>, leaf: MeasureId) -> Result<(), QueryError> {
    require_key(model, leaf.cube)?;
    let mut cubes = vec![leaf.cube];
    collect_cubes(model, MemberId::Measure(leaf), &mut cubes)?;
    let known = keyed.iter().position(|k| k.cube == leaf.cube);
    if let Some(known) = known {
        for cube in keyed[known].tree.cubes() {
            if !cubes.contains(&cube) {
                cubes.push(cube);
            }
        }
    }
    let tree = model.join_tree(&cubes)?;
    if tree.root != leaf.cube || tree.multiplies(leaf.cube) {
        let name = model.path_of(MemberId::Measure(leaf));
        return Err(QueryError::Model(format!(
            "'{name}' reference cubes that lead to row multiplication. Please rewrite it using sub query."
        )));
    }
    match known {
        Some(known) => {
            keyed[known].tree = tree;
            keyed[known].measures.push(leaf);
        }
        None => keyed.push(KeyedMeasures { cube: leaf.cube, tree, measures: vec![leaf] }),
    }
    Ok(())
}
