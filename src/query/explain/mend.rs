//! The smallest edits of a rollup's definition that make it match a query. Each is tried: what is proposed matches.

use std::fmt;

use crate::model::{
    DataType, DimensionId, DimensionKind, Grain, MemberId, Model, Preagg, PreaggId, PreaggKind, PreaggTime,
};
use crate::query::members::{leaves, resolve_alias, resolve_segment};
use crate::query::plan::{Leaf, members_of};
use crate::query::route::{Reason, check_definition};
use crate::query::stored_times::{StoredTimes, borders, made_of};
use crate::query::{Column, Query};
use crate::time::Granularity;

/// Most edits of one rollup.
const MOST_EDITS: usize = 12;

/// An edit of a rollup's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The key of the definition.
    pub key: &'static str,
    /// What is done to it.
    pub change: Change,
    /// The line, or lines, of YAML to add, or to put in the key's place.
    pub yaml: String,
}

/// What an edit does to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Its list gets one entry more.
    Add,
    /// It gets this value.
    Set,
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.yaml.replace('\n', ", ");
        match self.change {
            Change::Add => write!(f, "add '{line}' to its {}", self.key),
            Change::Set => write!(f, "set '{line}'"),
        }
    }
}

/// The edits that make a definition match, each needed; none when there are none that do.
pub(super) fn edits(model: &Model, leaf: &Leaf, preagg: &Preagg) -> Option<Vec<Edit>> {
    mended(model, leaf, preagg).map(|(_, edits)| edits)
}

fn mended(model: &Model, leaf: &Leaf, preagg: &Preagg) -> Option<(Preagg, Vec<Edit>)> {
    if preagg.kind != PreaggKind::Rollup {
        return None;
    }
    let mut mended = preagg.clone();
    let mut edits: Vec<Edit> = Vec::new();
    for _ in 0..MOST_EDITS {
        let reason = match check_definition(model, &leaf.query, &leaf.shape, &mended) {
            Ok(()) => return Some((mended, edits)),
            Err(reason) => reason,
        };
        let edit = mend(model, &leaf.query, &mut mended, &reason)?;
        // A later value takes the place of an earlier one.
        edits.retain(|known| edit.change == Change::Add || known.key != edit.key);
        edits.push(edit);
    }
    None
}

/// Mends one fault; none when no edit does.
fn mend(model: &Model, query: &Query, preagg: &mut Preagg, reason: &Reason) -> Option<Edit> {
    let owner = preagg.id;
    let added = |key, member| Edit { key, change: Change::Add, yaml: format!("- {}", reference(model, owner, member)) };
    let member = reason.culprit().map(|culprit| culprit.id);
    match (reason, member?) {
        (Reason::Filter(_), MemberId::Dimension(id)) if is_time(model, id) => {
            let granularity = fitting(model, query, preagg, id, Granularity::Year)?;
            Some(set_time(model, preagg, PreaggTime::standard(resolve_alias(model, id), granularity)))
        }
        (
            Reason::Dimension(_) | Reason::Filter(_) | Reason::TimeFilter(_) | Reason::UngroupedKey(_),
            MemberId::Dimension(id),
        ) => {
            let id = resolve_alias(model, id);
            if matches!(model.dimension(id).kind, DimensionKind::Switch(_)) || preagg.dimensions.contains(&id) {
                return None;
            }
            preagg.dimensions.push(id);
            Some(added("dimensions", MemberId::Dimension(id)))
        }
        (Reason::Segment(_), MemberId::Segment(id)) => {
            let id = resolve_segment(model, id);
            preagg.segments.push(id);
            Some(added("segments", MemberId::Segment(id)))
        }
        (Reason::Measure(_), MemberId::Measure(id)) if model.measure(id).stage.is_none() => {
            preagg.measures.push(id);
            Some(added("measures", MemberId::Measure(id)))
        }
        (Reason::Granularity { grain, .. }, MemberId::Dimension(id)) => {
            let time = match made_of(model, id, *grain) {
                Some(made_of) => {
                    PreaggTime::standard(resolve_alias(model, id), fitting(model, query, preagg, id, made_of)?)
                }
                // What an expression gives is made of nothing but itself.
                None => PreaggTime { dimension: id, grain: *grain, granularity: Granularity::Second, fills: None },
            };
            Some(set_time(model, preagg, time))
        }
        (Reason::Range { .. }, MemberId::Dimension(id)) => {
            let granularity = fitting(model, query, preagg, id, Granularity::Year)?;
            Some(set_time(model, preagg, PreaggTime::standard(resolve_alias(model, id), granularity)))
        }
        _ => None,
    }
}

/// The coarsest granularity that makes up `wanted` and all that is stored of a time, and whose borders the ends of the
/// query's conditions are.
fn fitting(model: &Model, query: &Query, preagg: &Preagg, id: DimensionId, wanted: Granularity) -> Option<Granularity> {
    let times = StoredTimes { model, query, preagg, zone: query.timezone };
    let borders = borders(model, query, id).unwrap_or_default();
    let asked =
        query.time_dimensions.iter().filter(|time| resolve_alias(model, time.dimension) == resolve_alias(model, id));
    let grains: Vec<Granularity> = asked.filter_map(|time| made_of(model, time.dimension, time.granularity?)).collect();
    Granularity::ALL.into_iter().rev().find(|granularity| {
        let time = PreaggTime::standard(id, *granularity);
        granularity.serves(wanted)
            && grains.iter().all(|grain| granularity.serves(*grain))
            && times.of(id).all(|stored| granularity.serves(stored.granularity))
            && borders.iter().all(|border| times.is_border(time, *border))
    })
}

/// Stores a time at another granularity, or beside the others.
fn set_time(model: &Model, preagg: &mut Preagg, time: PreaggTime) -> Edit {
    let owner = preagg.id;
    let name = |time: &PreaggTime| reference(model, owner, MemberId::Dimension(time.dimension));
    let grain = |time: &PreaggTime| model.dimension(time.dimension).grain_name(time.grain).to_owned();
    let same = |known: PreaggTime| resolve_alias(model, known.dimension) == resolve_alias(model, time.dimension);
    if preagg.more_times.is_empty() && preagg.time.is_none_or(same) {
        let only = preagg.time.is_some();
        let granularity = format!("granularity: {}", grain(&time));
        let yaml = if only { granularity } else { format!("time_dimension: {}\n{granularity}", name(&time)) };
        preagg.time = Some(time);
        let key = if only { "granularity" } else { "time_dimension" };
        return Edit { key, change: Change::Set, yaml };
    }
    let mut times: Vec<PreaggTime> = preagg.times().collect();
    match times.iter_mut().find(|known| same(**known)) {
        Some(known) => *known = time,
        None => times.push(time),
    }
    let entries: Vec<String> =
        times.iter().map(|time| format!("  - {{dimension: {}, granularity: {}}}", name(time), grain(time))).collect();
    let mut rest = times.into_iter();
    preagg.time = rest.next();
    preagg.more_times = rest.collect();
    Edit { key: "time_dimensions", change: Change::Set, yaml: format!("time_dimensions:\n{}", entries.join("\n")) }
}

/// A member as the files of the rollup's cube name it.
fn reference(model: &Model, owner: PreaggId, member: MemberId) -> String {
    let path = model.path_of(member);
    match path.split_once('.') {
        Some((_, name)) if member.cube() == owner.cube => name.to_owned(),
        _ => path,
    }
}

fn is_time(model: &Model, id: DimensionId) -> bool {
    model.dimension(id).data_type == DataType::Time
}

/// A rollup that stores just what a query needs, as an entry of `pre_aggregations` of the cube that its joins begin
/// with; none when not even that would match.
pub(super) fn suggestion(model: &Model, leaf: &Leaf) -> Option<String> {
    let query = &leaf.query;
    let cube = model.cube(leaf.shape.tree.root);
    let mut preagg = Preagg::empty(PreaggId { cube: cube.id, index: 0 }, "suggested", cube.location.clone());
    let mut push = |id: DimensionId| {
        let id = resolve_alias(model, id);
        if !preagg.dimensions.contains(&id) {
            preagg.dimensions.push(id);
        }
    };
    query.dimensions.iter().for_each(|id| push(*id));
    for column in query.filters.iter().flat_map(members_of) {
        match column {
            // Who asks need not know of the conditions of access policies.
            Column::Raw(id) if !query.dimensions.contains(&id) => return None,
            Column::Dimension(id) if !is_time(model, id) => push(id),
            Column::Dimension(_) | Column::Raw(_) | Column::Segment(_) | Column::FiltersOf(_) => {}
        }
    }
    for id in query.segments.iter().chain(&query.segment_columns).map(|id| resolve_segment(model, *id)) {
        if !preagg.segments.contains(&id) {
            preagg.segments.push(id);
        }
    }
    let filtered = query.measure_filters.iter().flat_map(members_of);
    for id in query.measures.iter().copied().chain(filtered).flat_map(|id| leaves(model, id)) {
        if !preagg.measures.contains(&id) {
            preagg.measures.push(id);
        }
    }
    for time in query.time_dimensions.iter().filter_map(|time| Some((time.dimension, time.granularity?))) {
        // As it is asked for, so that also what cannot be merged matches.
        if let Grain::Standard(granularity) = time.1
            && preagg.time.is_none()
        {
            preagg.time = Some(PreaggTime::standard(resolve_alias(model, time.0), granularity));
        }
    }
    let (fitting, _) = mended(model, leaf, &preagg)?;
    Some(written(model, &fitting))
}

fn written(model: &Model, preagg: &Preagg) -> String {
    let mut yaml = format!("- name: {}", preagg.name);
    let mut list = |key: &str, members: Vec<MemberId>| {
        let names: Vec<String> = members.into_iter().map(|member| reference(model, preagg.id, member)).collect();
        if !names.is_empty() {
            yaml.push_str(&format!("\n  {key}: [{}]", names.join(", ")));
        }
    };
    list("measures", preagg.measures.iter().map(|id| MemberId::Measure(*id)).collect());
    list("dimensions", preagg.dimensions.iter().map(|id| MemberId::Dimension(*id)).collect());
    list("segments", preagg.segments.iter().map(|id| MemberId::Segment(*id)).collect());
    let name = |time: &PreaggTime| reference(model, preagg.id, MemberId::Dimension(time.dimension));
    let grain = |time: &PreaggTime| model.dimension(time.dimension).grain_name(time.grain);
    match (preagg.time, preagg.more_times.is_empty()) {
        (None, _) => {}
        (Some(time), true) => {
            yaml.push_str(&format!("\n  time_dimension: {}\n  granularity: {}", name(&time), grain(&time)));
        }
        (Some(_), false) => {
            yaml.push_str("\n  time_dimensions:");
            for time in preagg.times() {
                let (name, grain) = (name(&time), grain(&time));
                yaml.push_str(&format!("\n    - {{dimension: {name}, granularity: {grain}}}"));
            }
        }
    }
    yaml
}
