//! How one level of a query is computed from joined rows: the join tree, and where fan-out makes measures be
//! aggregated over distinct keys (`data-model.md` §17). Pure.

use super::{Plan, plan_sub_query};
use crate::model::{
    AggKind, CubeId, DimensionId, DimensionKind, Hint, JoinTree, MeasureId, MeasureKind, MemberId, Model,
};
use crate::query::members::{
    collect_hints, collect_template, cubes_of, leaves, resolve_measure, segment_members, templates, visit_members,
};
use crate::query::{Column, Filter, OutputColumn, Query, QueryError};

/// The joins of a query, and the leaf measures by where they are aggregated.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// The joins.
    pub tree: JoinTree,
    /// Leaf measures aggregated over the joined rows in place.
    pub regular: Vec<MeasureId>,
    /// Leaf measures of cubes whose rows repeat, by cube: aggregated over the cube's distinct keys.
    pub keyed: Vec<KeyedMeasures>,
    /// Dimensions that are queries of their own, joined to their cube's rows.
    pub sub_queries: Vec<SubQueryPlan>,
}

/// A sub-query dimension (`data-model.md` §18).
#[derive(Debug, Clone, PartialEq)]
pub struct SubQueryPlan {
    /// The dimension.
    pub dimension: DimensionId,
    /// What the sub-query is grouped by, and joined on.
    pub keys: Vec<OutputColumn>,
    /// Whether it has a value for each row of its cube, and not for each group of the query.
    pub by_row: bool,
    /// The sub-query.
    pub plan: Box<Plan>,
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
    let tree = closed_tree(model, hints(model, query))?;
    let sub_queries = sub_queries(model, query, &tree)?;
    let mut shape = Shape { tree, regular: Vec::new(), keyed: Vec::new(), sub_queries };
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

/// What a query needs joined, in hint order: its own hints, measures, dimensions, segments, row filters, measure
/// filters, time dimensions (`data-model.md` §7.2).
pub fn hints(model: &Model, query: &Query) -> Vec<Hint> {
    let mut hints = query.join_hints.clone();
    for member in members(query) {
        collect_hints(model, member, &mut hints);
    }
    for column in query.filters.iter().flat_map(members_of) {
        if let Column::FiltersOf(id) = column {
            let measure = model.measure(resolve_measure(model, id));
            measure.drill_filters.iter().for_each(|filter| collect_template(model, filter, &mut hints));
        }
    }
    for shift in &query.shifts {
        if let Some(sql) = &shift.sql {
            collect_template(model, sql, &mut hints);
        }
    }
    hints
}

/// The members that a query uses itself.
pub(super) fn members(query: &Query) -> Vec<MemberId> {
    let measures = query.measures.iter().map(|id| MemberId::Measure(*id));
    let dimensions = query.dimensions.iter().map(|id| MemberId::Dimension(*id));
    let segments = segment_members(&query.segment_columns).chain(segment_members(&query.segments));
    let filters = query.filters.iter().flat_map(members_of).map(Column::member);
    let measure_filters = query.measure_filters.iter().flat_map(members_of).map(MemberId::Measure);
    let times = query.time_dimensions.iter().filter(|t| t.granularity.is_some() || t.range.is_some());
    let times = times.map(|t| MemberId::Dimension(t.dimension));
    let masks = query.masks.iter().filter_map(|(_, unmasked)| match unmasked {
        super::super::Unmasked::Never => None,
        super::super::Unmasked::Where(filter) => Some(members_of(filter).into_iter().map(Column::member)),
    });
    let members = measures.chain(dimensions).chain(segments).chain(filters).chain(measure_filters).chain(times);
    members.chain(masks.flatten()).collect()
}

/// The join tree of the hints and of every cube that its own join predicates mention; those go right
/// after the first hint (`data-model.md` §7.2).
pub(super) fn closed_tree(model: &Model, mut hints: Vec<Hint>) -> Result<JoinTree, QueryError> {
    loop {
        let tree = model.join_tree(&hints)?;
        let mut mentioned = Vec::new();
        for edge in &tree.edges {
            collect_template(model, &model.cube(edge.from).joins[edge.join].sql, &mut mentioned);
        }
        // Each round adds a cube, so the loop ends.
        let missing = cubes_of(&mentioned).into_iter().find(|cube| !tree.cubes().any(|joined| joined == *cube));
        let Some(missing) = missing else {
            return check_order(model, tree);
        };
        hints.insert(1.min(hints.len()), vec![missing]);
    }
}

/// The predicate of a join may use only what is joined before it.
fn check_order(model: &Model, tree: JoinTree) -> Result<JoinTree, QueryError> {
    let mut joined = vec![tree.root];
    for edge in &tree.edges {
        joined.push(edge.to);
        let mut mentioned = Vec::new();
        collect_template(model, &model.cube(edge.from).joins[edge.join].sql, &mut mentioned);
        if let Some(later) = cubes_of(&mentioned).into_iter().find(|cube| !joined.contains(cube)) {
            let name = |cube: CubeId| &model.cube(cube).name;
            return Err(QueryError::Model(format!(
                "Can not construct joins for the query, potential loop detected: {}->{} vs {}->{}",
                name(edge.from),
                name(edge.to),
                name(edge.to),
                name(later)
            )));
        }
    }
    Ok(tree)
}

/// The sub-query dimensions under the members of a query, each once.
fn sub_queries(model: &Model, query: &Query, tree: &JoinTree) -> Result<Vec<SubQueryPlan>, QueryError> {
    let mut found: Vec<DimensionId> = Vec::new();
    let mut visit = |member: MemberId| {
        collect_sub_queries(model, member, &mut found);
    };
    members(query).into_iter().for_each(&mut visit);
    for edge in &tree.edges {
        model.cube(edge.from).joins[edge.join].sql.members().for_each(&mut visit);
    }
    found.into_iter().map(|dimension| plan_sub_query(model, query, dimension)).collect()
}

/// Sub-query dimensions under a member; what is inside of one belongs to its own plan.
fn collect_sub_queries(model: &Model, member: MemberId, found: &mut Vec<DimensionId>) {
    if let MemberId::Dimension(id) = member
        && let DimensionKind::SubQuery(sub_query) = &model.dimension(id).kind
    {
        if !found.contains(&id) {
            for (by, _) in &sub_query.by {
                collect_sub_queries(model, MemberId::Dimension(*by), found);
            }
            found.push(id);
        }
        return;
    }
    for template in templates(model, member) {
        for inner in template.members() {
            collect_sub_queries(model, inner, found);
        }
    }
}

/// Whether a member is, or is computed from, a sub-query dimension.
pub(super) fn uses_sub_query(model: &Model, member: MemberId) -> bool {
    let mut uses = false;
    visit_members(model, member, &mut |inner| {
        if let MemberId::Dimension(id) = inner {
            uses |= matches!(model.dimension(id).kind, DimensionKind::SubQuery(_));
        }
    });
    uses
}

/// Whether a member is, or is computed from, a multi-stage dimension.
pub(super) fn is_staged(model: &Model, member: MemberId) -> bool {
    let mut staged = false;
    visit_members(model, member, &mut |inner| {
        if let MemberId::Dimension(id) = inner {
            staged |= matches!(&model.dimension(id).kind, DimensionKind::SubQuery(sub_query) if sub_query.staged);
        }
    });
    staged
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
    ) || is_count_of_rows(model, leaf)
}

/// `number` with the SQL `count(*)`.
pub fn is_count_of_rows(model: &Model, leaf: MeasureId) -> bool {
    match &model.measure(leaf).kind {
        MeasureKind::Calculated { sql, .. } => {
            sql.as_text().is_some_and(|text| text.trim().eq_ignore_ascii_case("count(*)"))
        }
        _ => false,
    }
}

fn require_key_for_count(model: &Model, tree: &JoinTree, leaf: MeasureId) -> Result<(), QueryError> {
    let bare_count = matches!(model.measure(leaf).kind, MeasureKind::Aggregate { agg: AggKind::Count, sql: None });
    let counts_rows = is_count_of_rows(model, leaf) && tree.multiplies(leaf.cube);
    if counts_rows || bare_count && (leaf.cube != tree.root || tree.multiplies(leaf.cube)) {
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
    let mut needed: Vec<Hint> = vec![vec![leaf.cube]];
    collect_hints(model, MemberId::Measure(leaf), &mut needed);
    let known = keyed.iter().position(|k| k.cube == leaf.cube);
    if let Some(known) = known {
        for cube in keyed[known].tree.cubes() {
            if !needed.contains(&vec![cube]) {
                needed.push(vec![cube]);
            }
        }
    }
    let tree = model.join_tree(&needed)?;
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
