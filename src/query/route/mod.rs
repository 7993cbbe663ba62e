//! Which rollup answers a query, or why none does (`pre-aggregations.md` §4).
//!
//! A rollup is used only when its answer equals the source's: members and grain fit, the range is made
//! of whole stored buckets, and every bucket of it is published. Among those that fit the one with the
//! fewest rows to read wins, ties go to the earlier definition.

mod fit;
mod reason;
mod times;

use std::sync::Arc;

use quarry_storage::{Partition, Snapshot, TableId};

use self::fit::Fit;
pub use self::reason::Reason;
use super::plan::{Shape, hints};
use super::rollups::Rollups;
use super::{Query, QueryError};
use crate::model::{Preagg, PreaggId};
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
}

/// A candidate that does not fit, and why.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{rollup}: {reason}")]
pub struct Rejection {
    /// `cube.rollup`.
    pub rollup: String,
    /// The first rule it breaks.
    pub reason: Reason,
}

/// Picks the answer's origin. `shape` is the query's over the source.
///
/// # Errors
/// The query itself cannot be planned.
pub fn route(rollups: &Rollups, snapshot: &Snapshot, query: &Query, shape: &Shape) -> Result<Route, QueryError> {
    let model = rollups.model();
    let mut best: Option<(u64, RollupRoute)> = None;
    let mut rejections = Vec::new();
    let mut cubes = Vec::new();
    for cube in hints(model, query).into_iter().flatten() {
        if !cubes.contains(&cube) {
            cubes.push(cube);
        }
    }
    for cube in cubes {
        for preagg in &model.cube(cube).preaggs {
            match candidate(rollups, snapshot, query, shape, preagg) {
                Ok(found) => {
                    let rows = found.partitions.iter().map(|partition| partition.rows).sum();
                    if best.as_ref().is_none_or(|(least, _)| rows < *least) {
                        best = Some((rows, found));
                    }
                }
                Err(reason) => {
                    rejections.push(Rejection { rollup: format!("{}.{}", model.cube(cube).name, preagg.name), reason });
                }
            }
        }
    }
    Ok(best.map_or(Route::Source(rejections), |(_, found)| Route::Rollup(found)))
}

fn candidate(
    rollups: &Rollups,
    snapshot: &Snapshot,
    query: &Query,
    shape: &Shape,
    preagg: &Preagg,
) -> Result<RollupRoute, Reason> {
    let model = rollups.model();
    let fit = Fit::new(model, query, preagg);
    fit.check_kind()?;
    fit.check_sub_queries(shape)?;
    fit.check_grouping()?;
    fit.check_filters()?;
    let exact = fit.is_exact();
    fit.check_measures(exact)?;
    let stored = rollups.shape(preagg.id).map_err(|error| Reason::Faulty(error.to_string()))?;
    if rollups.reads_claims(preagg.id) {
        return Err(Reason::SecurityContext);
    }
    fit.check_joins(shape, stored, exact)?;

    let mut reason = None;
    for zone in times::zones(query, preagg) {
        match fit.find_partitions(rollups, snapshot, zone) {
            Ok(found) => return Ok(RollupRoute { exact, ..found }),
            Err(found) => reason = reason.or(Some(found)),
        }
    }
    Err(reason.unwrap_or(Reason::Uncovered(Uncovered::NotBuilt)))
}
