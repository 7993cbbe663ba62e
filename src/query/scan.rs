//! Stored rows that an answer or a build reads: partitions of one table, held by the snapshot they came from.

use std::sync::Arc;

use quarry_storage::{Bounds, Partition, Snapshot, TableId};

use super::QueryError;
use super::lower::qualified;
use super::members::resolve_alias;
use super::plan::{Plan, Shape};
use super::rollups::{Rollups, original_of};
use crate::engine::indexed::Sorted;
use crate::model::{CubeId, CubeSource, Model, Part, PreaggId, Template};
use crate::preagg::coverage::{LocalRange, Uncovered, covering};
use crate::preagg::indexes::sort_columns;
use crate::preagg::partition::granularity_of;
use crate::sources::BROUGHT_SCHEMA;
use crate::time::{Zone, local_to_utc};

/// Partitions of one stored table.
#[derive(Debug, Clone)]
pub struct Scan {
    /// The definition.
    pub preagg: PreaggId,
    /// The stored table.
    pub table: TableId,
    /// The partitions to read, maybe none.
    pub partitions: Vec<Arc<Partition>>,
    /// A published partition to take the columns from.
    pub sample: Arc<Partition>,
    /// The partitions and their copies, where there are any: what can be read in their place.
    pub kept: Vec<Sorted>,
}

impl Scan {
    /// With the copies that `snapshot` has of its partitions. `regroups` says that the rows are only read to be put
    /// together, so that some of them may be put together already.
    pub fn with_copies(self, rollups: &Rollups, snapshot: &Snapshot, regroups: bool) -> Self {
        let model = rollups.model();
        let copies = rollups.copies(self.preagg).iter().filter(|copy| regroups || copy.states.is_none());
        let found = copies.filter(|_| !self.partitions.is_empty()).filter_map(|copy| {
            Some(Sorted {
                name: copy.index.clone(),
                sort_by: copy.sort_by.clone(),
                columns: copy.columns(model),
                partitions: copy.find(snapshot, &self.table, &self.partitions)?,
            })
        });
        let mut kept: Vec<Sorted> = found.collect();
        if !kept.is_empty() {
            let (sort_by, partitions) = (sort_columns(model, self.preagg), self.partitions.clone());
            kept.insert(0, Sorted { name: self.table.to_string(), sort_by, columns: None, partitions });
        }
        Self { kept, ..self }
    }

    /// UTC microseconds of the oldest build read.
    pub fn oldest(&self) -> i64 {
        self.partitions.iter().map(|partition| partition.built_at).min().unwrap_or(self.sample.built_at)
    }

    /// UTC microseconds of the newest build read.
    pub fn newest(&self) -> i64 {
        self.partitions.iter().map(|partition| partition.built_at).max().unwrap_or(self.sample.built_at)
    }

    /// What there is to read: the sample where no partition is, so that there are columns; the conditions of a
    /// query leave nothing of it then.
    pub fn pinned(&self) -> &[Arc<Partition>] {
        if self.partitions.is_empty() { std::slice::from_ref(&self.sample) } else { &self.partitions }
    }
}

/// What the source adds to the stored rows of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rest {
    /// The times that no partition holds, wall clock of the table's zone.
    pub ranges: Vec<LocalRange>,
    /// Whether rows without time are among them.
    pub untimed: bool,
}

/// The stored rows of a cube, which stand for its own SQL (`pre-aggregations.md` §13).
#[derive(Debug, Clone)]
pub struct Original {
    /// The cube.
    pub cube: CubeId,
    /// Its rows.
    pub scan: Scan,
}

impl Original {
    /// Name of its table in [`BROUGHT_SCHEMA`].
    pub fn table_name(&self, model: &Model) -> String {
        model.cube(self.cube).name.clone()
    }

    /// How it is written after FROM.
    pub fn sql(&self, model: &Model) -> String {
        qualified(BROUGHT_SCHEMA, &self.table_name(model))
    }
}

/// The stored rows of a cube in a range of its partitions' time, in UTC.
///
/// # Errors
/// They are not all published.
pub fn find_original(
    rollups: &Rollups,
    snapshot: &Snapshot,
    preagg: PreaggId,
    wanted: LocalRange,
) -> Result<Original, Uncovered> {
    // What cannot be planned was never built.
    let id = rollups.table(preagg, Zone::UTC).ok().ok_or(Uncovered::NotBuilt)?;
    let table = snapshot.table(&id).ok_or(Uncovered::NotBuilt)?;
    let partitions = covering(table, granularity_of(rollups.model().preagg(preagg)), wanted)?;
    let sample = partitions.first().or_else(|| table.partitions.values().next()).ok_or(Uncovered::NotBuilt)?;
    let sample = Arc::clone(sample);
    let scan = Scan { preagg, table: id, partitions, sample, kept: Vec::new() };
    Ok(Original { cube: preagg.cube, scan: scan.with_copies(rollups, snapshot, false) })
}

/// The stored rows that stand for the cubes of a plan that no rollup answers, and the cubes that have none. Rows of a
/// cube are used only as a whole.
pub fn originals(rollups: &Rollups, snapshot: &Snapshot, plan: &Plan) -> (Vec<Original>, Vec<CubeId>) {
    let model = rollups.model();
    let (mut found, mut without): (Vec<Original>, Vec<CubeId>) = (Vec::new(), Vec::new());
    let mut open: Vec<CubeId> = Vec::new();
    for leaf in plan.leaves() {
        collect_cubes(&leaf.shape, &mut open);
    }
    let mut at = 0;
    while let Some(cube) = open.get(at).copied() {
        at += 1;
        let stored = original_of(model, cube).filter(|preagg| !rollups.reads_claims(*preagg));
        match stored.map(|preagg| find_original(rollups, snapshot, preagg, LocalRange::default())) {
            Some(Ok(original)) => found.push(original),
            Some(Err(_)) | None => {
                without.push(cube);
                // Its SQL may read the rows of others.
                if let CubeSource::Table(sql) | CubeSource::Query(sql) = &model.cube(cube).source {
                    sources_in(sql).for_each(|inner| push_new(&mut open, inner));
                }
            }
        }
    }
    (found, without)
}

/// Adds the cubes that a level reads.
pub(super) fn collect_cubes(shape: &Shape, found: &mut Vec<CubeId>) {
    shape.tree.cubes().for_each(|cube| push_new(found, cube));
    for keyed in &shape.keyed {
        keyed.tree.cubes().for_each(|cube| push_new(found, cube));
    }
    for leaf in shape.sub_queries.iter().flat_map(|sub_query| sub_query.plan.leaves()) {
        collect_cubes(&leaf.shape, found);
    }
}

fn push_new(found: &mut Vec<CubeId>, cube: CubeId) {
    if !found.contains(&cube) {
        found.push(cube);
    }
}

fn sources_in(sql: &Template) -> impl Iterator<Item = CubeId> {
    sql.parts.iter().filter_map(|part| match part {
        Part::Source(cube) => Some(*cube),
        _ => None,
    })
}

/// The range of a cube's stored rows that a build of a rollup's partition needs, in UTC: the partition's where both
/// are cut by the same time, else all.
///
/// # Errors
/// The rollup cannot be planned.
pub fn build_range(
    rollups: &Rollups,
    preagg: PreaggId,
    original: PreaggId,
    (zone, bucket): (Zone, Option<Bounds>),
) -> Result<LocalRange, QueryError> {
    let model = rollups.model();
    let time = |id: PreaggId| model.preagg(id).time.map(|time| resolve_alias(model, time.dimension));
    let shape = rollups.shape(preagg)?;
    let in_place = shape.keyed.is_empty() && shape.sub_queries.is_empty();
    Ok(match bucket.filter(|_| in_place && time(preagg) == time(original)) {
        Some(Bounds { start, end }) => {
            LocalRange { start: Some(local_to_utc(start, zone)), end: Some(local_to_utc(end, zone)) }
        }
        None => LocalRange::default(),
    })
}
