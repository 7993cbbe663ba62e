//! How the rollups of a `rollup_join` are put together: which joins are still to be made, on which stored columns, and
//! where they repeat rows (`pre-aggregations.md` §12).

use super::cube::{CubeId, DimensionId, DimensionKind, MemberId};
use super::join::{Hint, JoinEdge, JoinTree};
use super::preagg::{Preagg, PreaggId, PreaggKind};
use super::template::{Part, Template};
use super::{Model, join};

/// What is wrong with a definition, and what may help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinFault(pub String, pub Option<String>);

/// The rollups of a join in the order in which they are joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollupJoin {
    /// All joins between the cubes involved.
    pub tree: JoinTree,
    /// The first one stands after FROM.
    pub steps: Vec<JoinStep>,
}

/// One rollup of a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinStep {
    /// The rollup.
    pub rollup: PreaggId,
    /// The join that leads to it, and the position of the step that it starts from; none for the first.
    pub edge: Option<(JoinEdge, usize)>,
    /// Whether its rows may appear several times in the joined rows.
    pub multiplied: bool,
}

/// Puts the rollups of a definition together.
///
/// # Errors
/// They cannot be.
pub fn plan(model: &Model, preagg: &Preagg) -> Result<RollupJoin, JoinFault> {
    let PreaggKind::Join { rollups } = &preagg.kind else { return Err(fault("it joins no rollups")) };
    let name = format!("{}.{}", model.cube(preagg.id.cube).name, preagg.name);
    let trees: Vec<JoinTree> =
        rollups.iter().map(|id| model.join_tree(&hints(model, model.preagg(*id)))).collect::<Result<_, _>>().map_err(
            |apart: join::JoinError| {
                JoinFault(format!("Can't build join tree for pre-aggregation {name}"), Some(apart.to_string()))
            },
        )?;
    let mut wanted = hints(model, preagg);
    for hint in rollups.iter().flat_map(|id| hints(model, model.preagg(*id))) {
        if !wanted.contains(&hint) {
            wanted.push(hint);
        }
    }
    let tree = join::build_tree(model, &wanted).map_err(|apart: join::JoinError| {
        JoinFault(format!("Can't build join tree for pre-aggregation {name}"), Some(apart.to_string()))
    })?;
    let missing: Vec<JoinEdge> =
        tree.edges.iter().copied().filter(|edge| !trees.iter().any(|own| own.edges.contains(edge))).collect();
    if missing.is_empty() {
        let edges: Vec<String> = tree.edges.iter().map(|edge| edge_name(model, *edge)).collect();
        return Err(fault(format!(
            "Nothing to join in rollup join. Target joins [{}] are included in existing rollup joins [{}]",
            edges.join(", "),
            rollups.iter().map(|id| path(model, *id)).collect::<Vec<_>>().join(", ")
        )));
    }
    let sides: Vec<Sides> =
        missing.iter().map(|edge| Sides::of(model, rollups, *edge)).collect::<Result<_, JoinFault>>()?;
    let steps = order(model, rollups, &tree, &sides)?;
    check_rows(model, &steps, &trees, rollups, &tree)?;
    let steps = with_multiplied(model, steps, &sides, (rollups, &trees));
    check_members(model, preagg, &steps)?;
    Ok(RollupJoin { tree, steps })
}

fn fault(text: impl Into<String>) -> JoinFault {
    JoinFault(text.into(), None)
}

fn path(model: &Model, id: PreaggId) -> String {
    format!("{}.{}", model.cube(id.cube).name, model.preagg(id).name)
}

fn edge_name(model: &Model, edge: JoinEdge) -> String {
    format!("{}->{}", model.cube(edge.from).name, model.cube(edge.to).name)
}

/// The cubes that a definition's members need, with the paths that they are written with first.
fn hints(model: &Model, preagg: &Preagg) -> Vec<Hint> {
    let mut hints = preagg.paths.clone();
    let mut cubes = Vec::new();
    preagg.members().for_each(|member| cubes_under(model, member, &mut cubes));
    for cube in cubes {
        if !hints.iter().any(|hint| hint.contains(&cube)) {
            hints.push(vec![cube]);
        }
    }
    hints
}

/// The cubes whose rows a member reads.
fn cubes_under(model: &Model, member: MemberId, found: &mut Vec<CubeId>) {
    if !found.contains(&member.cube()) {
        found.push(member.cube());
    }
    let templates: Vec<&Template> = match member {
        MemberId::Dimension(id) if matches!(model.dimension(id).kind, DimensionKind::SubQuery(_)) => return,
        MemberId::Dimension(id) => model.dimension(id).templates(),
        MemberId::Measure(id) => model.measure(id).templates(),
        MemberId::Segment(id) => vec![&model.segment(id).sql],
    };
    for inner in templates.iter().flat_map(|template| template.members()) {
        cubes_under(model, inner, found);
    }
}

/// The dimension that a pure reference stands for.
fn resolved(model: &Model, id: DimensionId) -> DimensionId {
    match &model.dimension(id).kind {
        DimensionKind::Sql(sql) => match sql.as_member() {
            Some(MemberId::Dimension(inner)) => resolved(model, inner),
            _ => id,
        },
        _ => id,
    }
}

/// Whether a rollup stores all of these as they are.
fn stores(model: &Model, rollup: PreaggId, dimensions: &[DimensionId]) -> bool {
    let stored = &model.preagg(rollup).dimensions;
    dimensions.iter().all(|id| stored.iter().any(|stored| resolved(model, *stored) == resolved(model, *id)))
}

/// A join that is to be made, with the rollups that store its keys.
struct Sides {
    edge: JoinEdge,
    from: (PreaggId, Vec<DimensionId>),
    to: (PreaggId, Vec<DimensionId>),
}

impl Sides {
    fn of(model: &Model, rollups: &[PreaggId], edge: JoinEdge) -> Result<Self, JoinFault> {
        let sql = &model.cube(edge.from).joins[edge.join].sql;
        let (mut from, mut to) = (Vec::new(), Vec::new());
        for member in sql.members() {
            let MemberId::Dimension(id) = member else { continue };
            let keys = match id.cube {
                cube if cube == edge.from => &mut from,
                cube if cube == edge.to => &mut to,
                _ => {
                    return Err(fault(format!(
                        "Members {} in join from '{}' to '{}' doesn't reference join cubes",
                        model.path_of(member),
                        model.cube(edge.from).name,
                        model.cube(edge.to).name
                    )));
                }
            };
            if !keys.contains(&id) {
                keys.push(id);
            }
        }
        let by_column = |cube: CubeId| sql.parts.iter().any(|part| matches!(part, Part::Cube(used) if *used == cube));
        for (word, cube, keys) in [("From", edge.from, &from), ("To", edge.to, &to)] {
            if keys.is_empty() || by_column(cube) {
                let names: Vec<String> = keys.iter().map(|id| model.path_of(MemberId::Dimension(*id))).collect();
                return Err(JoinFault(
                    format!(
                        "{word} members are not found in [{}] for join {}. Please make sure join fields are referencing \
                         dimensions instead of columns.",
                        names.join(", "),
                        edge_name(model, edge)
                    ),
                    Some(format!("write '{{{}.dimension}}' in the join's sql", model.cube(cube).name)),
                ));
            }
        }
        let from = (holder(model, rollups, &from)?, from);
        let to = (holder(model, rollups, &to)?, to);
        Ok(Self { edge, from, to })
    }
}

/// The one rollup that stores these keys.
fn holder(model: &Model, rollups: &[PreaggId], keys: &[DimensionId]) -> Result<PreaggId, JoinFault> {
    let names = || keys.iter().map(|id| model.path_of(MemberId::Dimension(*id))).collect::<Vec<_>>().join(", ");
    let found: Vec<PreaggId> = rollups.iter().copied().filter(|id| stores(model, *id, keys)).collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(JoinFault(
            format!("No rollups found that can be used for rollup join: {}", names()),
            Some("add the key to the dimensions of one of its rollups".to_owned()),
        )),
        many => Err(fault(format!(
            "Multiple rollups found that can be used for rollup join {}: {}",
            names(),
            many.iter().map(|id| path(model, *id)).collect::<Vec<_>>().join(", ")
        ))),
    }
}

/// The rollups as the joins lead from one to the next.
fn order(model: &Model, rollups: &[PreaggId], tree: &JoinTree, sides: &[Sides]) -> Result<Vec<JoinStep>, JoinFault> {
    let reached = |id: &PreaggId| sides.iter().any(|side| side.to.0 == *id);
    let first = rollups.iter().copied().find(|id| !reached(id));
    let Some(first) = first else {
        return Err(fault(format!("its rollups lead back to the first one, of '{}'", model.cube(tree.root).name)));
    };
    let mut steps = vec![JoinStep { rollup: first, edge: None, multiplied: false }];
    let mut open: Vec<&Sides> = sides.iter().collect();
    while !open.is_empty() {
        let next = open.iter().position(|side| steps.iter().any(|step| step.rollup == side.from.0));
        let Some(next) = next else { break };
        let side = open.remove(next);
        if steps.iter().any(|step| step.rollup == side.to.0) {
            return Err(fault(format!(
                "two of its joins lead to '{}': {}",
                path(model, side.to.0),
                edge_name(model, side.edge)
            )));
        }
        let from = steps.iter().position(|step| step.rollup == side.from.0).unwrap_or(0);
        steps.push(JoinStep { rollup: side.to.0, edge: Some((side.edge, from)), multiplied: false });
    }
    match rollups.iter().find(|id| !steps.iter().any(|step| step.rollup == **id)) {
        None => Ok(steps),
        Some(apart) => Err(fault(format!("no join leads to '{}'", path(model, *apart)))),
    }
}

/// Each rollup must hold the rows of the cube that it is joined as, joined on as the whole is.
fn check_rows(
    model: &Model,
    steps: &[JoinStep],
    trees: &[JoinTree],
    rollups: &[PreaggId],
    tree: &JoinTree,
) -> Result<(), JoinFault> {
    for step in steps {
        let Some(own) = rollups.iter().position(|id| *id == step.rollup).map(|at| &trees[at]) else { continue };
        let wanted = step.edge.map_or(tree.root, |(edge, _)| edge.to);
        if own.root != wanted || !own.edges.iter().all(|edge| tree.edges.contains(edge)) {
            return Err(JoinFault(
                format!(
                    "'{}' holds rows of '{}' with joins of their own, and the join needs those of '{}'",
                    path(model, step.rollup),
                    model.cube(own.root).name,
                    model.cube(wanted).name
                ),
                None,
            ));
        }
    }
    Ok(())
}

/// Whether a rollup has at most one row for each value of these keys.
fn is_unique(model: &Model, rollup: PreaggId, tree: &JoinTree, keys: &[DimensionId]) -> bool {
    let keys: Vec<DimensionId> = keys.iter().map(|id| resolved(model, *id)).collect();
    let preagg = model.preagg(rollup);
    let times = preagg.time.iter().chain(&preagg.more_times).count();
    let grouped_by_keys = times == 0
        && preagg.segments.is_empty()
        && preagg.dimensions.iter().all(|id| keys.contains(&resolved(model, *id)));
    let mut primary = model.cube(tree.root).primary_key().peekable();
    let has_primary = primary.peek().is_some();
    grouped_by_keys
        || has_primary && primary.all(|key| keys.contains(&resolved(model, key.id))) && !tree.multiplies(tree.root)
}

/// Marks the steps whose rows the other ones repeat: walking outward from one, some join finds several rows.
fn with_multiplied(
    model: &Model,
    mut steps: Vec<JoinStep>,
    sides: &[Sides],
    (rollups, trees): (&[PreaggId], &[JoinTree]),
) -> Vec<JoinStep> {
    let unique = |rollup: PreaggId, keys: &[DimensionId]| {
        let tree = rollups.iter().position(|id| *id == rollup).map(|at| &trees[at]);
        tree.is_some_and(|tree| is_unique(model, rollup, tree, keys))
    };
    let repeats = |from: PreaggId, to: PreaggId| {
        sides.iter().any(|side| {
            (side.from.0 == from && side.to.0 == to && !unique(to, &side.to.1))
                || (side.to.0 == from && side.from.0 == to && !unique(to, &side.from.1))
        })
    };
    let pairs: Vec<(PreaggId, PreaggId)> = sides.iter().map(|side| (side.from.0, side.to.0)).collect();
    for step in &mut steps {
        let mut seen = vec![step.rollup];
        let mut at = 0;
        while let Some(here) = seen.get(at).copied() {
            at += 1;
            for (a, b) in &pairs {
                let next = if *a == here {
                    *b
                } else if *b == here {
                    *a
                } else {
                    continue;
                };
                if !seen.contains(&next) {
                    step.multiplied |= repeats(here, next);
                    seen.push(next);
                }
            }
        }
    }
    steps
}

/// Every dimension, segment and time that the join lists must be stored in one of its rollups.
fn check_members(model: &Model, preagg: &Preagg, steps: &[JoinStep]) -> Result<(), JoinFault> {
    let stored = |found: &dyn Fn(&Preagg) -> bool| steps.iter().any(|step| found(model.preagg(step.rollup)));
    let names = || steps.iter().map(|step| path(model, step.rollup)).collect::<Vec<_>>().join(", ");
    for id in &preagg.dimensions {
        if !steps.iter().any(|step| stores(model, step.rollup, &[*id])) {
            let member = model.path_of(MemberId::Dimension(*id));
            return Err(fault(format!("dimension '{member}' is stored in none of its rollups: {}", names())));
        }
    }
    for id in &preagg.segments {
        if !stored(&|rollup| rollup.segments.contains(id)) {
            let member = model.path_of(MemberId::Segment(*id));
            return Err(fault(format!("segment '{member}' is stored in none of its rollups: {}", names())));
        }
    }
    for time in preagg.time.iter().chain(&preagg.more_times) {
        let same = |rollup: &Preagg| {
            let mut times = rollup.time.iter().chain(&rollup.more_times);
            times.any(|t| resolved(model, t.dimension) == resolved(model, time.dimension) && t.grain == time.grain)
        };
        if !stored(&same) {
            let dimension = model.dimension(time.dimension);
            let member = model.path_of(MemberId::Dimension(time.dimension));
            return Err(fault(format!(
                "time dimension '{member}' by {} is stored in none of its rollups: {}",
                dimension.grain_name(time.grain),
                names()
            )));
        }
    }
    Ok(())
}
