//! Whether values of groups can be put together to those of fewer groups. Pure.

use super::members::resolve_measure;
use super::plan::{Plan, plan};
use super::{Query, QueryError};
use crate::model::{AggKind, MeasureId, MeasureKind, MemberId, Model};

/// How values of groups become the value of all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// Their sum, 0 of none.
    Count,
    /// Their sum.
    Sum,
    /// Their least.
    Min,
    /// Their greatest.
    Max,
}

/// How values of a measure merge, if they do at all.
pub fn merge_of(model: &Model, id: MeasureId) -> Option<Merge> {
    let measure = model.measure(resolve_measure(model, id));
    if measure.rolling.is_some() || measure.stage.is_some() {
        return None;
    }
    match &measure.kind {
        MeasureKind::Aggregate { agg, .. } => match agg {
            AggKind::Count => Some(Merge::Count),
            AggKind::Sum => Some(Merge::Sum),
            AggKind::Min => Some(Merge::Min),
            AggKind::Max => Some(Merge::Max),
            AggKind::Avg | AggKind::CountDistinct | AggKind::CountDistinctApprox => None,
        },
        MeasureKind::Calculated { .. } | MeasureKind::Rank(_) | MeasureKind::Switch(_) => None,
    }
}

/// The first measure of a query whose values do not merge over its groups: by its kind, because its rows repeat in
/// several groups, or because it is masked.
///
/// # Errors
/// The query cannot be planned.
pub fn unmergeable(model: &Model, query: &Query) -> Result<Option<MeasureId>, QueryError> {
    let planned = plan(model, query)?;
    let keyed: &[_] = match &planned {
        Plan::Leaf(leaf) => &leaf.shape.keyed,
        Plan::Stages(_) => return Ok(query.measures.first().copied()),
    };
    let merges = |id: MeasureId| {
        let leaf = resolve_measure(model, id);
        let masked = query.masks.iter().any(|(member, _)| *member == MemberId::Measure(id));
        merge_of(model, id).is_some() && !masked && !keyed.iter().any(|keyed| keyed.measures.contains(&leaf))
    };
    Ok(query.measures.iter().copied().find(|id| !merges(*id)))
}

/// The measure that counts the rows of a cube, nothing left out.
pub fn row_count(model: &Model, candidates: impl IntoIterator<Item = MeasureId>) -> Option<MeasureId> {
    candidates.into_iter().find(|id| {
        let measure = model.measure(resolve_measure(model, *id));
        let counts = matches!(&measure.kind, MeasureKind::Aggregate { agg: AggKind::Count, sql: None });
        counts && measure.filters.is_empty() && measure.rolling.is_none() && measure.stage.is_none()
    })
}

/// Whether a measure is an aggregate of the rows of its group and of nothing else.
pub fn is_plain(model: &Model, id: MeasureId) -> bool {
    let measure = model.measure(resolve_measure(model, id));
    matches!(measure.kind, MeasureKind::Aggregate { .. }) && measure.rolling.is_none() && measure.stage.is_none()
}

/// The measure that a pure reference stands for, followed to its end.
pub fn referred(model: &Model, id: MeasureId) -> MeasureId {
    resolve_measure(model, id)
}
