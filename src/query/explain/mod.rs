//! Why a query is answered from where it is: of every rollup the first rule that it breaks and the smallest edit that
//! would mend it, of the one that answers what it reads and what it beats (`pre-aggregations.md` §22 G14). Pure.

mod mend;
mod text;

use quarry_storage::{Bounds, Snapshot};

pub use self::mend::{Change, Edit};
use super::plan::{Leaf, plan};
use super::rollups::Rollups;
use super::route::{Candidate, Reason, Rejection, RollupRoute, best, candidates};
use super::scan::originals;
use super::{OutputColumn, Query, QueryError};
use crate::model::{MemberId, Model, PreaggId, PreaggKind};
use crate::preagg::coverage::{LocalRange, Uncovered};
use crate::time::format_local;

/// How a query is answered: one part a level of its plan.
#[derive(Debug)]
pub struct Explanation {
    /// Who answers all levels: an answer that mixes rollups and the source would mix two states.
    pub by: AnsweredBy,
    /// The pre-aggregations of type original_sql whose rows stand for their cubes, where no rollup answers.
    pub stored_rows: Vec<String>,
    /// The levels over joined rows.
    pub levels: Vec<Level>,
}

/// Who answers a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnsweredBy {
    /// Rollups.
    Rollups,
    /// Stored rows of all cubes.
    StoredRows,
    /// The source, with stored rows of some cubes or without.
    Source,
}

/// A level of a query's plan.
#[derive(Debug)]
pub struct Level {
    /// Its columns: `cube.member` or `cube.member.granularity`.
    pub columns: Vec<String>,
    /// The rollup that fits best.
    pub chosen: Option<Chosen>,
    /// All that were looked at, in the order in which ties are decided.
    pub verdicts: Vec<Verdict>,
    /// A rollup that would fit, as YAML, where none does.
    pub suggestion: Option<String>,
}

/// A rollup that fits best.
#[derive(Debug)]
pub struct Chosen {
    /// `cube.rollup`.
    pub rollup: String,
    /// The zone that its table was built for.
    pub zone: &'static str,
    /// Whether every group of the answer is one stored row.
    pub exact: bool,
    /// The buckets of the partitions to read; none for the one partition of a table without.
    pub partitions: Vec<Option<Bounds>>,
    /// The times that the source answers for.
    pub from_source: Vec<LocalRange>,
    /// Rows of the whole table.
    pub rows_before: u64,
    /// Rows of the partitions to read.
    pub rows_after: u64,
    /// The copies of these partitions that may be read in their place.
    pub copies: Vec<CopyAtHand>,
    /// Why it beats the others.
    pub why: String,
}

/// A copy of all partitions that are read, kept for an index.
#[derive(Debug)]
pub struct CopyAtHand {
    /// Name of the index.
    pub index: String,
    /// Whether it has rows put together, `type: aggregate`.
    pub aggregate: bool,
    /// Its rows.
    pub rows: u64,
}

/// What is said of one rollup.
#[derive(Debug)]
pub struct Verdict {
    /// `cube.rollup`.
    pub rollup: String,
    /// The rows that it would read, or what keeps it from answering.
    pub outcome: Result<u64, Misfit>,
}

/// Why a rollup does not answer.
#[derive(Debug)]
pub struct Misfit {
    /// The first rule that it breaks.
    pub reason: Reason,
    /// The edits that would make its definition match; none when no small edit would.
    pub edits: Option<Vec<Edit>>,
    /// What else can be done.
    pub remedy: Option<String>,
}

/// Explains a query.
///
/// # Errors
/// It cannot be planned.
pub fn explain(rollups: &Rollups, snapshot: &Snapshot, query: &Query) -> Result<Explanation, QueryError> {
    let plan = plan(rollups.model(), query)?;
    let levels: Vec<Level> = plan.leaves().into_iter().map(|leaf| level(rollups, snapshot, leaf)).collect();
    if levels.iter().all(|level| level.chosen.is_some()) {
        return Ok(Explanation { by: AnsweredBy::Rollups, stored_rows: Vec::new(), levels });
    }
    let (found, without) = originals(rollups, snapshot, &plan);
    let is_all_stored = without.is_empty() && !found.is_empty();
    let by = if is_all_stored { AnsweredBy::StoredRows } else { AnsweredBy::Source };
    let stored_rows = found.iter().map(|original| rollups.model().preagg_path(original.scan.preagg)).collect();
    Ok(Explanation { by, stored_rows, levels })
}

fn level(rollups: &Rollups, snapshot: &Snapshot, leaf: &Leaf) -> Level {
    let model = rollups.model();
    let found = candidates(rollups, snapshot, &leaf.query, &leaf.shape);
    let chosen = best(model, &found).map(|best| chosen(model, best, &found));
    let suggestion = if chosen.is_none() { mend::suggestion(model, leaf) } else { None };
    let verdicts = found
        .into_iter()
        .map(|Candidate { preagg, found }| Verdict {
            rollup: model.preagg_path(preagg),
            outcome: found.map(|route| route.rows()).map_err(|reason| misfit(model, leaf, preagg, reason)),
        })
        .collect();
    Level { columns: columns(model, &leaf.query), chosen, verdicts, suggestion }
}

fn chosen(model: &Model, best: &RollupRoute, found: &[Candidate]) -> Chosen {
    let others = found.iter().filter_map(|candidate| candidate.found.as_ref().ok());
    let others: Vec<&RollupRoute> = others.filter(|route| route.preagg != best.preagg).collect();
    let next = others.iter().min_by_key(|route| route.rows());
    let why = match next {
        None => "it is the only one that fits".to_owned(),
        Some(next) if is_part(model, next.preagg, best.preagg) => {
            format!("it puts {} and others together", model.preagg_path(next.preagg))
        }
        Some(next) if next.rest.is_some() && best.rest.is_none() => {
            format!("it needs nothing of the source, and {} does", model.preagg_path(next.preagg))
        }
        Some(next) if next.rows() == best.rows() => {
            format!("{} reads as many rows, and is defined later", model.preagg_path(next.preagg))
        }
        Some(next) => {
            let (name, more) = (model.preagg_path(next.preagg), next.rows());
            format!("it reads the fewest rows: {}, where {name} reads {more}", best.rows())
        }
    };
    let copies = best.scans.iter().flat_map(|scan| scan.kept.iter().skip(1));
    let copies = copies.map(|copy| CopyAtHand {
        index: copy.name.clone(),
        aggregate: copy.columns.is_some(),
        rows: copy.rows(),
    });
    Chosen {
        copies: copies.collect(),
        rollup: model.preagg_path(best.preagg),
        zone: best.zone.name(),
        exact: best.exact,
        partitions: best.scans.iter().flat_map(|scan| &scan.partitions).map(|partition| partition.bucket).collect(),
        from_source: best.rest.as_ref().map(|rest| rest.ranges.clone()).unwrap_or_default(),
        rows_before: best.held,
        rows_after: best.rows(),
        why,
    }
}

/// Whether a rollup is one of those that a lambda is made of.
fn is_part(model: &Model, rollup: PreaggId, whole: PreaggId) -> bool {
    matches!(&model.preagg(whole).kind, PreaggKind::Lambda { rollups, .. } if rollups.contains(&rollup))
}

fn misfit(model: &Model, leaf: &Leaf, preagg: PreaggId, reason: Reason) -> Misfit {
    // What has no partitions of its own is built by building what it is made of.
    let rollup = match &model.preagg(preagg).kind {
        PreaggKind::Lambda { rollups, .. } | PreaggKind::Join { rollups } => {
            rollups.iter().map(|id| model.preagg_path(*id)).collect::<Vec<_>>().join(" ")
        }
        PreaggKind::Rollup | PreaggKind::OriginalSql => model.preagg_path(preagg),
    };
    let remedy = match &reason {
        Reason::Uncovered(Uncovered::NotBuilt) => Some(format!("build it: quarry build {rollup}")),
        Reason::Uncovered(Uncovered::MissingPartition(bucket)) => {
            let day = |micros| format_local(micros).chars().take(10).collect::<String>();
            Some(format!("build it: quarry build {rollup} --from {} --to {}", day(bucket.start), day(bucket.end - 1)))
        }
        Reason::Uncovered(Uncovered::Gap(_)) => Some(format!(
            "build what is missing (quarry build {rollup}), or let the source add it: union_with_source_data"
        )),
        Reason::Uncovered(Uncovered::OutsideBuildRange(_)) => {
            Some("ask for a range inside of its build range, or widen build_range_start and build_range_end".to_owned())
        }
        Reason::Zone(zone) => Some(format!(
            "add {zone} to CUBEJS_SCHEDULED_REFRESH_TIMEZONES, or store it by an hour or less, so that UTC serves all \
             zones"
        )),
        _ => None,
    };
    let of_data = matches!(reason, Reason::Uncovered(_) | Reason::Zone(_));
    let is_rollup = model.preagg(preagg).kind == PreaggKind::Rollup;
    let edits = if of_data || !is_rollup { None } else { mend::edits(model, leaf, model.preagg(preagg)) };
    Misfit { reason, edits, remedy }
}

fn columns(model: &Model, query: &Query) -> Vec<String> {
    let name = |column: OutputColumn| match column {
        OutputColumn::Dimension(id) => model.path_of(MemberId::Dimension(id)),
        OutputColumn::Segment(id) => model.path_of(MemberId::Segment(id)),
        OutputColumn::Measure(id) => model.path_of(MemberId::Measure(id)),
        OutputColumn::Time(id, grain) => {
            format!("{}.{}", model.path_of(MemberId::Dimension(id)), model.dimension(id).grain_name(grain))
        }
    };
    query.columns().into_iter().map(name).collect()
}

/// Why rollups that were looked at do not answer, in a sentence each, with what would mend them.
pub fn told(model: &Model, leaf: &Leaf, rejections: &[Rejection]) -> String {
    if rejections.is_empty() {
        return " The query's cubes have no rollups.".to_owned();
    }
    let told = rejections.iter().map(|Rejection { preagg, reason, .. }| {
        let misfit = misfit(model, leaf, *preagg, reason.clone());
        format!(" {}: {misfit}.", model.preagg_path(*preagg))
    });
    told.collect()
}

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.reason)?;
        for (position, edit) in self.edits.iter().flatten().enumerate() {
            write!(f, "{} {edit}", if position == 0 { ";" } else { " and" })?;
        }
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}
