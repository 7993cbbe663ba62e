//! Which rollup answers a query, or why none does (`pre-aggregations.md` §4).
//!
//! A rollup is used only when its answer equals the source's: members and grain fit, the range is made
//! of whole stored buckets, and every bucket of it is published. Among those that fit the one with the
//! fewest rows to read wins, ties go to the earlier definition.

mod fit;
mod raw_rows;
mod reason;
mod times;

use std::sync::Arc;

use quarry_storage::{Partition, Snapshot, TableId};

use self::fit::Fit;
pub use self::reason::{Culprit, Reason};
use super::plan::{Shape, hints};
use super::rollups::{Rollups, shape_of};
use super::{Query, QueryError};
use crate::model::{Model, Preagg, PreaggId};
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
    /// The stored table.
    pub table: TableId,
    /// The partitions to read, maybe none.
    pub partitions: Vec<Arc<Partition>>,
    /// A published partition to take the columns from.
    pub sample: Arc<Partition>,
    /// Whether every group of the answer is one stored row.
    pub exact: bool,
    /// Rows of the whole table.
    pub held: u64,
}

impl RollupRoute {
    /// Rows to read.
    pub fn rows(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.rows).sum()
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
    let mut best: Option<RollupRoute> = None;
    let mut rejections = Vec::new();
    for Candidate { preagg, found } in candidates(rollups, snapshot, query, shape) {
        match found {
            Ok(found) if best.as_ref().is_none_or(|best| found.rows() < best.rows()) => best = Some(found),
            Ok(_) => {}
            Err(reason) => rejections.push(Rejection { preagg, rollup: model.preagg_path(preagg), reason }),
        }
    }
    Ok(best.map_or(Route::Source(rejections), Route::Rollup))
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
    let mut reason: Option<Reason> = None;
    for zone in times::zones(query) {
        let fit = Fit::new(rollups.model(), query, preagg, zone);
        let found = fit.check(shape, stored).and_then(|exact| fit.find_partitions(rollups, snapshot, exact));
        let built = |zone| rollups.table(preagg.id, zone).is_ok_and(|id| snapshot.table(&id).is_some());
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
