//! Relations → requests, and their answers.

use super::relation::{Column, Relation};
use crate::model::{MemberId, Model};
use crate::query::dates::parse_stamp;
use crate::query::request::{CacheMode, DateRange, FilterNode, Operator, OrderRequest, Request, TimeDimensionRequest};
use crate::time::{Zone, format_local, to_micros};

/// The request that a relation is, for these of its columns.
pub(super) fn request(
    model: &Model,
    relation: &Relation,
    wanted: &[Column],
    zone: Zone,
    cache: Option<CacheMode>,
) -> Request {
    let mut selected: Vec<Column> = match &relation.groups {
        // All groups, or there would be fewer of them.
        Some(groups) => groups.clone(),
        None => Vec::new(),
    };
    let sorted = relation.order.iter().map(|(column, _)| column);
    for column in wanted.iter().chain(sorted) {
        if column.output().is_some() && !selected.contains(column) {
            selected.push(*column);
        }
    }
    if selected.is_empty() {
        selected.extend(any_column(model, relation));
    }
    let mut request = Request {
        measures: Some(Vec::new()),
        segments: Some(Vec::new()),
        order: Some(
            relation
                .order
                .iter()
                .map(|(column, descending)| OrderRequest { member: column.key(model), descending: *descending })
                .collect(),
        ),
        limit: relation.limit,
        offset: (relation.offset > 0).then_some(relation.offset),
        timezone: Some(zone),
        ungrouped: relation.groups.is_none().then_some(true),
        cache,
        ..Request::default()
    };
    for column in selected {
        let name = column.key(model);
        match column {
            Column::Measure(_) => request.measures.get_or_insert_default().push(name),
            Column::Dimension(_) | Column::Segment(_) => request.dimensions.push(name),
            Column::Time(id, grain) => request.time_dimensions.push(TimeDimensionRequest {
                dimension: model.path_of(MemberId::Dimension(id)),
                granularity: Some(model.dimension(id).grain_name(grain).to_owned()),
                ..TimeDimensionRequest::default()
            }),
            Column::User | Column::JoinField(_) => {}
        }
    }
    request.filters.clone_from(&relation.conditions);
    take_segments(model, &mut request);
    take_ranges(&mut request);
    if relation.cubes.len() > 1 {
        let cubes = relation.cubes.iter().map(|cube| model.cube(*cube)).filter(|cube| cube.view().is_none());
        request.join_hints = cubes.map(|cube| vec![cube.name.clone()]).collect();
    }
    request
}

/// What is selected when only the number of rows matters.
fn any_column(model: &Model, relation: &Relation) -> Option<Column> {
    let known = relation.columns.iter().copied();
    let first = |found: fn(&Column) -> bool| known.clone().find(found);
    first(|column| matches!(column, Column::Dimension(_)))
        .or_else(|| first(|column| column.output().is_some()))
        .or_else(|| {
            let cube = model.cube(*relation.cubes.first()?);
            let dimension = cube.dimensions.iter().find(|dimension| dimension.public);
            dimension.map(|dimension| Column::Dimension(dimension.id))
        })
}

/// Conditions that are a segment become one.
fn take_segments(model: &Model, request: &mut Request) {
    let mut segments = Vec::new();
    request.filters.retain(|node| {
        let FilterNode::Leaf(leaf) = node else { return true };
        let holds = leaf.operator == Operator::Equals && leaf.values.as_deref() == Some(&[Some("true".to_owned())]);
        let path = crate::names::MemberPath::parse(&leaf.member).ok();
        let member = path.and_then(|path| model.resolve_member(&path).ok());
        let is_segment = holds && matches!(member, Some(MemberId::Segment(_)));
        if is_segment {
            segments.push(leaf.member.clone());
        }
        !is_segment
    });
    request.segments.get_or_insert_default().extend(segments);
}

/// A lower and an upper bound of one time become its date range: rollups are cut by these.
fn take_ranges(request: &mut Request) {
    let bound = |node: &FilterNode, operator: Operator| match node {
        FilterNode::Leaf(leaf) if leaf.operator == operator => {
            let text = leaf.values.as_ref()?.first()?.as_ref()?;
            Some((leaf.member.clone(), to_micros(parse_stamp(text)?.time)))
        }
        _ => None,
    };
    let starts: Vec<(String, i64)> =
        request.filters.iter().filter_map(|node| bound(node, Operator::AfterOrOnDate)).collect();
    for (member, _) in &starts {
        let of = |operator| {
            let bounds = request.filters.iter().filter_map(move |node| bound(node, operator));
            bounds.filter(|(found, _)| found == member).map(|(_, micros)| micros)
        };
        let (start, end) = (of(Operator::AfterOrOnDate).max(), of(Operator::BeforeDate).min());
        let (Some(start), Some(end)) = (start, end) else { continue };
        if start >= end {
            continue;
        }
        let range = DateRange::Bounds(vec![format_local(start), format_local(end - 1000)]);
        request.filters.retain(|node| {
            let of = |operator| bound(node, operator).is_some_and(|(found, _)| found == *member);
            !of(Operator::AfterOrOnDate) && !of(Operator::BeforeDate)
        });
        match request.time_dimensions.iter_mut().find(|time| time.dimension == *member) {
            Some(time) => time.date_range = Some(range),
            None => request.time_dimensions.push(TimeDimensionRequest {
                dimension: member.clone(),
                date_range: Some(range),
                ..TimeDimensionRequest::default()
            }),
        }
    }
}
