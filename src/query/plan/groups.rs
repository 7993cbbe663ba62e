//! Groups and conditions of the parts of a query of several levels: switches, grains, fixed conditions.

use super::shape::members_of;
use crate::model::stage::{GrainMember, GrainRule};
use crate::model::{DataType, DimensionId, DimensionKind, MemberId, Model};
use crate::query::members::resolve_alias;
use crate::query::{Column, Filter, OutputColumn, Query};

/// The switch dimensions that a query selects or filters by.
pub(super) fn switches(model: &Model, query: &Query) -> Vec<DimensionId> {
    let filtered = query.filters.iter().flat_map(members_of).map(Column::member);
    let selected = query.dimensions.iter().map(|id| MemberId::Dimension(*id));
    let mut found = Vec::new();
    for member in selected.chain(filtered) {
        if let MemberId::Dimension(id) = member
            && is_switch(model, id)
            && !found.contains(&id)
        {
            found.push(id);
        }
    }
    found
}

pub(super) fn is_switch(model: &Model, id: DimensionId) -> bool {
    matches!(model.dimension(resolve_alias(model, id)).kind, DimensionKind::Switch(_))
}

/// Whether a condition is one of an access policy.
pub(super) fn is_rule(filter: &Filter<Column>) -> bool {
    let members = members_of(filter);
    members.is_empty() || members.into_iter().any(|column| matches!(column, Column::Raw(_)))
}

/// A query with the conditions of another.
pub(super) fn under_conditions_of(asked: &Query, mut query: Query) -> Query {
    query.filters.clone_from(&asked.filters);
    query.segments.clone_from(&asked.segments);
    let groups = query.group_columns();
    query.time_dimensions.clone_from(&asked.time_dimensions);
    query.set_groups(&groups);
    query
}

/// The query without its switch dimensions and the conditions on them.
pub(super) fn without_switches(model: &Model, ask: &Query) -> Query {
    let mut query = ask.clone();
    query.dimensions.retain(|id| !is_switch(model, *id));
    query.filters.retain(|filter| {
        !members_of(filter)
            .into_iter()
            .any(|column| matches!(column.member(), MemberId::Dimension(id) if is_switch(model, id)))
    });
    query
}

/// The conditions of a query that are about these switches alone.
pub(super) fn switch_filters(model: &Model, ask: &Query, switches: &[DimensionId]) -> Vec<Filter<Column>> {
    let wanted: Vec<DimensionId> = switches.iter().map(|id| resolve_alias(model, *id)).collect();
    let about = |filter: &&Filter<Column>| {
        let members = members_of(filter);
        !members.is_empty()
            && members.into_iter().all(|column| match column.member() {
                MemberId::Dimension(id) => wanted.contains(&resolve_alias(model, id)),
                MemberId::Measure(_) | MemberId::Segment(_) => false,
            })
    };
    let nothing = ask.denied.then(|| Filter::Or(Vec::new()));
    ask.filters.iter().filter(about).cloned().chain(nothing).collect()
}

/// The groups that a grain rule adds.
pub(super) fn finer(model: &Model, rule: &GrainRule) -> Vec<OutputColumn> {
    rule.include
        .iter()
        .map(|(dimension, grain)| match grain {
            Some(grain) => OutputColumn::Time(*dimension, *grain),
            None if model.dimension(*dimension).data_type == DataType::Time => OutputColumn::Dimension(*dimension),
            None => OutputColumn::Dimension(*dimension),
        })
        .collect()
}

/// Whether a listed dimension means a column: by itself, or at its granularity.
pub(super) fn names(model: &Model, (dimension, grain): &GrainMember, column: &OutputColumn) -> bool {
    let same = |id: &DimensionId| resolve_alias(model, *id) == resolve_alias(model, *dimension);
    match column {
        OutputColumn::Dimension(id) => grain.is_none() && same(id),
        OutputColumn::Time(id, asked) => grain.is_none_or(|grain| grain == *asked) && same(id),
        OutputColumn::Segment(_) | OutputColumn::Measure(_) => false,
    }
}
