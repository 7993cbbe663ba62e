//! Which rollup answers a query, or why none does (`pre-aggregations.md` §4).
//!
//! A rollup is used only when its answer equals the source's: members and grain fit, the range is made
//! of whole stored buckets, and every bucket of it is published. Among those that fit the one with the
//! fewest rows to read wins, ties go to the earlier definition.

mod compose;
mod fit;
mod raw_rows;
mod reason;
mod times;

use std::collections::BTreeSet;

use quarry_storage::Snapshot;

pub use self::compose::FromSource;
use self::fit::Fit;
pub use self::reason::{Culprit, Reason};
pub use self::times::zones;
use super::plan::{Shape, hints, plan};
use super::rollups::{Rollups, shape_of};
use super::scan::{Rest, Scan};
use super::{Query, QueryError};
use crate::model::{CubeId, Model, Preagg, PreaggId, PreaggKind};
use crate::preagg::coverage::Uncovered;
use crate::time::Zone;

/// Where a query is answered.
#[derive(Debug)]
pub enum Route {
    /// From a rollup.
    Rollup(RollupRoute),
    /// From the source: each candidate with the first rule that it breaks.
    Source(Vec<Rejection>),
}

/// A rollup that answers a query.
#[derive(Debug, Clone)]
pub struct RollupRoute {
    /// The definition.
    pub preagg: PreaggId,
    /// The zone that it was built for.
    pub zone: Zone,
    /// What is read: one table of a rollup, one a rollup of a lambda or a join.
    pub scans: Vec<Scan>,
    /// What the source adds.
    pub rest: Option<Rest>,
    /// Whether every group of the answer is one stored row.
    pub exact: bool,
    /// Rows of the whole table.
    pub held: u64,
}

impl RollupRoute {
    /// Rows to read.
    pub fn rows(&self) -> u64 {
        self.scans.iter().flat_map(|scan| &scan.partitions).map(|partition| partition.rows).sum()
    }
}

/// A candidate that does not fit, and why.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{rollup}: {reason}")]
pub struct Rejection {
    /// The definition.
    pub preagg: PreaggId,
    /// `cube.rollup`.
    pub rollup: String,
    /// The first rule it breaks.
    pub reason: Reason,
}

/// A rollup that was looked at: how it would answer, or why not.
#[derive(Debug)]
pub struct Candidate {
    /// The definition.
    pub preagg: PreaggId,
    /// How it would answer.
    pub found: Result<RollupRoute, Reason>,
}

/// Picks the answer's origin. `shape` is the query's over the source.
///
/// # Errors
/// The query itself cannot be planned.
pub fn route(rollups: &Rollups, snapshot: &Snapshot, query: &Query, shape: &Shape) -> Result<Route, QueryError> {
    let model = rollups.model();
    let candidates = candidates(rollups, snapshot, query, shape);
    if let Some(best) = best(model, &candidates) {
        return Ok(Route::Rollup(best.clone()));
    }
    let rejected = candidates.into_iter().filter_map(|Candidate { preagg, found }| {
        let reason = found.err()?;
        Some(Rejection { preagg, rollup: model.preagg_path(preagg), reason })
    });
    Ok(Route::Source(rejected.collect()))
}

/// The candidate that answers: the fewest rows to read, those first that need nothing of the source; ties go to the
/// earlier definition. A lambda stands for the rollups that it is made of.
pub fn best<'c>(model: &Model, candidates: &'c [Candidate]) -> Option<&'c RollupRoute> {
    let routes = || candidates.iter().filter_map(|candidate| candidate.found.as_ref().ok());
    let layers = |route: &RollupRoute| match &model.preagg(route.preagg).kind {
        PreaggKind::Lambda { rollups, .. } => rollups.clone(),
        PreaggKind::Rollup | PreaggKind::OriginalSql | PreaggKind::Join { .. } => Vec::new(),
    };
    let hidden: Vec<PreaggId> = routes().flat_map(layers).collect();
    let seen = routes().filter(|route| !hidden.contains(&route.preagg));
    seen.min_by_key(|route| (route.rest.is_some(), route.rows()))
}

/// Every rollup of the query's cubes, in the order in which ties are decided.
pub fn candidates(rollups: &Rollups, snapshot: &Snapshot, query: &Query, shape: &Shape) -> Vec<Candidate> {
    let model = rollups.model();
    let mut cubes = Vec::new();
    for cube in hints(model, query).into_iter().flatten() {
        if !cubes.contains(&cube) {
            cubes.push(cube);
        }
    }
    let preaggs = cubes.into_iter().flat_map(|cube| &model.cube(cube).preaggs);
    let look =
        |preagg: &Preagg| Candidate { preagg: preagg.id, found: candidate(rollups, snapshot, query, shape, preagg) };
    preaggs.map(look).collect()
}

/// Every rollup whose stored rows may come to have a part in the answer: those of all cubes of the query, and what they
/// are put together from.
///
/// # Errors
/// The query cannot be planned.
pub fn concerned(model: &Model, query: &Query) -> Result<BTreeSet<PreaggId>, QueryError> {
    let mut cubes = BTreeSet::new();
    for leaf in plan(model, query)?.leaves() {
        cubes.extend(hints(model, &leaf.query).into_iter().flatten());
        collect_cubes(&leaf.shape, &mut cubes);
    }
    let mut found = BTreeSet::new();
    for preagg in cubes.into_iter().flat_map(|cube| &model.cube(cube).preaggs) {
        found.insert(preagg.id);
        if let PreaggKind::Join { rollups } | PreaggKind::Lambda { rollups, .. } = &preagg.kind {
            found.extend(rollups);
        }
    }
    Ok(found)
}

fn collect_cubes(shape: &Shape, cubes: &mut BTreeSet<CubeId>) {
    cubes.extend(shape.tree.cubes());
    for leaf in shape.sub_queries.iter().flat_map(|sub_query| sub_query.plan.leaves()) {
        collect_cubes(&leaf.shape, cubes);
    }
}

fn candidate(
    rollups: &Rollups,
    snapshot: &Snapshot,
    query: &Query,
    shape: &Shape,
    preagg: &Preagg,
) -> Result<RollupRoute, Reason> {
    let stored = rollups.shape(preagg.id).map_err(|error| Reason::Faulty(error.to_string()))?;
    if rollups.reads_claims(preagg.id) {
        return Err(Reason::SecurityContext);
    }
    if preagg.kind == PreaggKind::OriginalSql {
        return Err(Reason::Rows);
    }
    let (preagg, from_source) = (rollups.definition(preagg.id), rollups.from_source());
    let mut reason: Option<Reason> = None;
    for zone in zones(query) {
        let fit = Fit::new(rollups.model(), query, preagg, zone);
        let found = fit.check(shape, stored).and_then(|exact| fit.find_rows(rollups, snapshot, exact, from_source));
        let stored = match &preagg.kind {
            PreaggKind::Join { rollups: parts } | PreaggKind::Lambda { rollups: parts, .. } => parts.as_slice(),
            PreaggKind::Rollup | PreaggKind::OriginalSql => std::slice::from_ref(&preagg.id),
        };
        let is_there = |id: &PreaggId, zone| rollups.table(*id, zone).is_ok_and(|id| snapshot.table(&id).is_some());
        let built = |zone| stored.iter().any(|id| is_there(id, zone));
        match found {
            Ok(found) => return Ok(found),
            // Where only UTC is built, it is UTC that says what is missing.
            Err(found) if reason == Some(Uncovered::NotBuilt.into()) && built(zone) => reason = Some(found),
            Err(found) => reason = reason.or(Some(found)),
        }
    }
    Err(reason.unwrap_or(Reason::Uncovered(Uncovered::NotBuilt)))
}

/// The first rule that a rollup breaks by its definition alone, in the query's own zone; the rollup need not be one of
/// the model.
pub fn check_definition(model: &Model, query: &Query, shape: &Shape, preagg: &Preagg) -> Result<(), Reason> {
    let stored = shape_of(model, preagg).map_err(|error| Reason::Faulty(error.to_string()))?;
    Fit::new(model, query, preagg, query.timezone).check(shape, &stored).map(|_| ())
}
