//! Queries of several levels (`data-model.md` §19–21): each measure is computed where its kind asks for, as a relation
//! over the query's groups; the relations are joined on the groups.

use std::collections::HashMap;

use super::groups::{
    finer, is_rule, is_switch, names, switch_filters, switches, under_conditions_of, without_switches,
};
use super::rolling::rolling;
use super::shape::{closed_tree, hints, members_of, shape};
use super::{Leaf, Node, NodeKind, Plan, Stages};
use crate::model::stage::{GrainMember, GrainRule, MultiStage, TimeShift};
use crate::model::{DimensionId, Hint, JoinTree, MeasureId, MeasureKind, MemberId, Model, Part};
use crate::query::members::{
    collect_hints, cubes_of, is_leaf, resolve_alias, resolve_measure, templates, visit_members,
};
use crate::query::{Column, Filter, OutputColumn, Query, QueryError, Shift};

/// Most relations of one plan.
const MAX_NODES: usize = 200;
/// Deepest nesting of measures over results.
const MAX_DEPTH: usize = 16;

/// The plan of a query: one level where that is enough.
pub(super) fn plan(model: &Model, query: &Query) -> Result<Plan, QueryError> {
    let wanted = wanted(query);
    let mut units = Vec::new();
    wanted.iter().for_each(|id| collect_units(model, *id, &mut units));
    let asked = bare(query);
    let mut planner = Planner { model, asked: &asked, nodes: Vec::new(), depth: 0, paths: HashMap::new() };
    let plain = units.iter().all(|unit| is_plain(model, *unit)) && switches(model, query).is_empty();
    if plain {
        let joined = shape(model, query);
        match joined {
            Err(QueryError::Join(_)) if units.len() > 1 && !query.ungrouped => {}
            joined => {
                units.iter().try_for_each(|unit| planner.check_leaf(*unit))?;
                return Ok(Plan::Leaf(Box::new(Leaf {
                    query: query.clone(),
                    shape: joined?,
                    merged: false,
                    arguments: false,
                })));
            }
        }
    } else if query.ungrouped {
        let text = "Ungrouped queries over several facts, rolling windows or multi-stage measures are not possible";
        return Err(QueryError::Model(text.to_owned()));
    }
    let root = planner.evaluate(&asked, &wanted)?;
    check_reached(model, query, &planner.nodes)?;
    Ok(Plan::Stages(Box::new(Stages { nodes: planner.nodes, root, query: query.clone() })))
}

/// A fact leaves out conditions on cubes that it does not reach; one that no level reaches is a fault of the query.
fn check_reached(model: &Model, query: &Query, nodes: &[Node]) -> Result<(), QueryError> {
    let filters = query.filters.iter().map(|filter| members_of(filter).into_iter().map(Column::member).collect());
    let segments = query.segments.iter().map(|id| vec![MemberId::Segment(*id)]);
    let times = query.time_dimensions.iter().filter(|time| time.range.is_some());
    let times = times.map(|time| vec![MemberId::Dimension(time.dimension)]);
    let conditions: Vec<Vec<MemberId>> = filters.chain(segments).chain(times).collect();
    for members in conditions {
        if members.iter().any(|member| matches!(member, MemberId::Dimension(id) if is_switch(model, *id))) {
            continue;
        }
        let mut needed = Vec::new();
        for member in members {
            collect_hints(model, member, &mut needed);
        }
        let needed = cubes_of(&needed);
        let reaches = |node: &Node| match &node.kind {
            NodeKind::Leaf(leaf) => needed.iter().all(|cube| leaf.shape.tree.cubes().any(|joined| joined == *cube)),
            _ => false,
        };
        if !nodes.iter().any(reaches) {
            closed_tree(model, hints(model, query))?;
        }
    }
    Ok(())
}

/// All measures that a query needs: selected or in conditions on groups.
fn wanted(query: &Query) -> Vec<MeasureId> {
    let mut wanted = query.measures.clone();
    for id in query.measure_filters.iter().flat_map(members_of) {
        if !wanted.contains(&id) {
            wanted.push(id);
        }
    }
    wanted
}

/// The query without what belongs to its last level.
fn bare(query: &Query) -> Query {
    Query {
        measures: Vec::new(),
        measure_filters: Vec::new(),
        order: Vec::new(),
        limit: None,
        offset: 0,
        total: false,
        ..query.clone()
    }
}

/// The measures under a measure that are computed one by one: aggregates over rows, windows, stages, switches.
/// Calculated measures over them are evaluated from their values.
fn collect_units(model: &Model, measure: MeasureId, units: &mut Vec<MeasureId>) {
    let id = resolve_measure(model, measure);
    let found = model.measure(id);
    let own = found.stage.is_some() || found.rolling.is_some() || matches!(found.kind, MeasureKind::Switch(_));
    if own || is_leaf(model, id) {
        if !units.contains(&id) {
            units.push(id);
        }
        return;
    }
    for inner in measures_under(model, id) {
        collect_units(model, inner, units);
    }
}

/// The join paths by which a measure leads to its units: those of a view's members, or written in the SQL of others.
fn collect_paths(model: &Model, id: MeasureId, path: &[Hint], found: &mut HashMap<MeasureId, Vec<Hint>>) {
    let measure = model.measure(id);
    let own = measure.stage.is_some() || measure.rolling.is_some() || matches!(measure.kind, MeasureKind::Switch(_));
    if own || is_leaf(model, id) {
        let known = found.entry(id).or_default();
        for hint in path {
            if !known.contains(hint) {
                known.push(hint.clone());
            }
        }
        return;
    }
    for template in templates(model, MemberId::Measure(id)) {
        let mut way = path.to_vec();
        for part in &template.parts {
            match part {
                // It stands right before the member that it leads to.
                Part::Path(hint) => way.push(hint.clone()),
                Part::Member(MemberId::Measure(inner)) => {
                    collect_paths(model, *inner, &way, found);
                    way.truncate(path.len());
                }
                _ => way.truncate(path.len()),
            }
        }
    }
}

/// The measures that a measure references itself.
pub(super) fn measures_under(model: &Model, id: MeasureId) -> Vec<MeasureId> {
    let mut found = Vec::new();
    for template in templates(model, MemberId::Measure(id)) {
        for member in template.members() {
            if let MemberId::Measure(inner) = member
                && !found.contains(&inner)
            {
                found.push(inner);
            }
        }
    }
    found
}

/// Whether a unit is an aggregate over rows.
fn is_plain(model: &Model, unit: MeasureId) -> bool {
    let measure = model.measure(unit);
    measure.stage.is_none() && measure.rolling.is_none() && !matches!(measure.kind, MeasureKind::Switch(_))
}

pub(super) struct Planner<'a> {
    pub(super) model: &'a Model,
    /// The query, without what belongs to its last level.
    asked: &'a Query,
    pub(super) nodes: Vec<Node>,
    depth: usize,
    /// Join paths that lead to measures computed one by one.
    paths: HashMap<MeasureId, Vec<Hint>>,
}

impl Planner<'_> {
    pub(super) fn push(&mut self, groups: Vec<OutputColumn>, values: Vec<MeasureId>, kind: NodeKind) -> usize {
        let node = Node { groups, values, kind };
        // Equal relations are computed once.
        if let Some(known) = self.nodes.iter().position(|known| *known == node) {
            return known;
        }
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// The relation of the query's groups with the values of `wanted`.
    pub(super) fn evaluate(&mut self, ask: &Query, wanted: &[MeasureId]) -> Result<usize, QueryError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH || self.nodes.len() > MAX_NODES {
            let text = format!("measures over results of measures nest deeper than {MAX_DEPTH} levels");
            return Err(QueryError::Model(text));
        }
        let mut units = Vec::new();
        for id in wanted {
            collect_units(self.model, *id, &mut units);
            collect_paths(self.model, *id, &[], &mut self.paths);
        }
        let (plain, special): (Vec<MeasureId>, Vec<MeasureId>) =
            units.into_iter().partition(|unit| is_plain(self.model, *unit));
        let mut parts = Vec::new();
        if !plain.is_empty() || special.is_empty() {
            parts.extend(self.plain(ask, &plain)?);
        }
        for unit in special {
            let along = self.along(ask, &[unit]);
            let part = match &self.model.measure(unit) {
                measure if measure.stage.is_some() && !matches!(measure.kind, MeasureKind::Switch(_)) => {
                    self.staged(&along, unit)?
                }
                measure if matches!(measure.kind, MeasureKind::Switch(_)) => self.switched(&along, unit)?,
                _ => {
                    let inner = without_switches(self.model, &along);
                    let part = rolling(self, &inner, unit)?;
                    self.cross(ask, part)
                }
            };
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        let groups = ask.group_columns();
        let joined = match parts.as_slice() {
            [one] => *one,
            many => {
                let values = many.iter().flat_map(|part| self.nodes[*part].values.clone()).collect();
                self.push(groups.clone(), values, NodeKind::Join(many.to_vec()))
            }
        };
        self.depth -= 1;
        if self.nodes[joined].values == wanted && self.nodes[joined].groups == groups {
            return Ok(joined);
        }
        Ok(self.push(groups, wanted.to_vec(), NodeKind::Evaluate(joined)))
    }

    /// The query with the join paths of some measures.
    fn along(&self, ask: &Query, units: &[MeasureId]) -> Query {
        let mut query = ask.clone();
        for hint in units.iter().filter_map(|unit| self.paths.get(unit)).flatten() {
            if !query.join_hints.contains(hint) {
                query.join_hints.push(hint.clone());
            }
        }
        query
    }

    /// A leaf measure whose SQL mixes columns with results of other levels cannot be computed.
    fn check_leaf(&self, unit: MeasureId) -> Result<(), QueryError> {
        let mut fault = None;
        for inner in measures_under(self.model, unit) {
            visit_members(self.model, MemberId::Measure(inner), &mut |member| {
                if let MemberId::Measure(id) = member
                    && !is_plain(self.model, id)
                {
                    fault = Some(id);
                }
            });
        }
        match fault {
            None => Ok(()),
            Some(inner) => {
                let name = |id| self.model.path_of(MemberId::Measure(id));
                Err(QueryError::Model(format!(
                    "'{}' combines columns with '{}', which is computed over results; compute with measures only",
                    name(unit),
                    name(inner)
                )))
            }
        }
    }

    /// Aggregates over rows: in one level when their cubes join, else a level a fact (`data-model.md` §21).
    pub(super) fn plain(&mut self, ask: &Query, units: &[MeasureId]) -> Result<Vec<usize>, QueryError> {
        units.iter().try_for_each(|unit| self.check_leaf(*unit))?;
        let inner = without_switches(self.model, ask);
        let no_rows = inner.group_columns().is_empty() && units.is_empty();
        if no_rows {
            return Ok(vec![self.cross_alone(ask)]);
        }
        let leaves = match self.leaf(&inner, units) {
            Err(QueryError::Join(error)) if units.len() > 1 => {
                self.facts(&inner, units).map_err(|_apart| QueryError::Join(error))?
            }
            Err(QueryError::Join(error)) => {
                let reachable = self.reachable(&inner, units)?;
                if reachable == inner {
                    return Err(QueryError::Join(error));
                }
                vec![self.leaf(&reachable, units)?]
            }
            leaf => vec![leaf?],
        };
        Ok(leaves.into_iter().map(|leaf| self.cross(ask, leaf)).collect())
    }

    pub(super) fn leaf(&mut self, ask: &Query, units: &[MeasureId]) -> Result<usize, QueryError> {
        let query = Query { measures: units.to_vec(), ..self.along(ask, units) };
        let shape = shape(self.model, &query)?;
        let groups = query.group_columns();
        Ok(self.push(
            groups,
            units.to_vec(),
            NodeKind::Leaf(Box::new(Leaf { query, shape, merged: false, arguments: false })),
        ))
    }

    /// One leaf for the units of each join tree.
    fn facts(&mut self, ask: &Query, units: &[MeasureId]) -> Result<Vec<usize>, QueryError> {
        let mut facts: Vec<(JoinTree, Query, Vec<MeasureId>)> = Vec::new();
        for unit in units {
            let query = self.reachable(ask, &[*unit])?;
            let own = Query { measures: vec![*unit], ..self.along(&query, &[*unit]) };
            let tree = closed_tree(self.model, hints(self.model, &own))?;
            match facts.iter_mut().find(|(known, asked, _)| *known == tree && *asked == query) {
                Some((_, _, units)) => units.push(*unit),
                None => facts.push((tree, query, vec![*unit])),
            }
        }
        facts.into_iter().map(|(_, query, units)| self.leaf(&query, &units)).collect()
    }

    /// The query without the conditions on cubes that the units' cubes do not reach.
    fn reachable(&self, ask: &Query, units: &[MeasureId]) -> Result<Query, QueryError> {
        let mut kept = Query { measures: units.to_vec(), ..self.along(ask, units) };
        if closed_tree(self.model, hints(self.model, &kept)).is_ok() {
            return Ok(Query { measures: Vec::new(), ..ask.clone() });
        }
        let (rules, filters) = std::mem::take(&mut kept.filters).into_iter().partition(is_rule);
        // What an access policy demands is never left out.
        kept.filters = rules;
        let filters: Vec<Filter<Column>> = filters;
        let segments = std::mem::take(&mut kept.segments);
        let times = std::mem::take(&mut kept.time_dimensions);
        kept.time_dimensions = times.iter().copied().filter(|time| time.granularity.is_some()).collect();
        closed_tree(self.model, hints(self.model, &kept))?;
        let joins = |candidate: &Query| closed_tree(self.model, hints(self.model, candidate)).is_ok();
        for time in times.iter().filter(|time| time.granularity.is_none()) {
            kept.time_dimensions.push(*time);
            if !joins(&kept) {
                kept.time_dimensions.pop();
            }
        }
        for filter in filters {
            kept.filters.push(filter);
            if !joins(&kept) {
                kept.filters.pop();
            }
        }
        for segment in segments {
            kept.segments.push(segment);
            if !joins(&kept) {
                kept.segments.pop();
            }
        }
        Ok(Query { measures: Vec::new(), join_hints: ask.join_hints.clone(), ..kept })
    }

    /// Crosses a relation with the values of the switch dimensions that the query selects.
    fn cross(&mut self, ask: &Query, input: usize) -> usize {
        let selected: Vec<DimensionId> =
            ask.dimensions.iter().copied().filter(|id| is_switch(self.model, *id)).collect();
        if selected.is_empty() {
            return input;
        }
        let filters = switch_filters(self.model, ask, &selected);
        let values = self.nodes[input].values.clone();
        self.push(ask.group_columns(), values, NodeKind::Switch { input: Some(input), switches: selected, filters })
    }

    fn cross_alone(&mut self, ask: &Query) -> usize {
        let switches = ask.dimensions.clone();
        let filters = switch_filters(self.model, ask, &switches);
        self.push(ask.group_columns(), Vec::new(), NodeKind::Switch { input: None, switches, filters })
    }

    /// A measure with a formula a value of a switch.
    fn switched(&mut self, ask: &Query, unit: MeasureId) -> Result<usize, QueryError> {
        let MeasureKind::Switch(switch) = &self.model.measure(unit).kind else {
            return Err(QueryError::Model("not a switch".to_owned()));
        };
        let selected = ask.dimensions.iter().copied().find(|id| resolve_alias(self.model, *id) == switch.switch);
        let column = selected.unwrap_or(switch.switch);
        let inner = without_switches(self.model, ask);
        let references = measures_under(self.model, unit);
        if references.is_empty() {
            let name = self.model.path_of(MemberId::Measure(unit));
            return Err(QueryError::Model(format!("the formulas of '{name}' must reference measures")));
        }
        let mut crossed = ask.clone();
        if selected.is_none() {
            crossed.dimensions.push(column);
        }
        if !is_switch(self.model, switch.switch) {
            let base = self.evaluate(&crossed, &references)?;
            let kind = if selected.is_some() { NodeKind::Evaluate(base) } else { NodeKind::Aggregate(base) };
            return Ok(self.push(ask.group_columns(), vec![unit], kind));
        }
        let base = self.evaluate(&inner, &references)?;
        let filters = switch_filters(self.model, ask, &[column]);
        let others: Vec<DimensionId> =
            crossed.dimensions.iter().copied().filter(|id| is_switch(self.model, *id)).collect();
        let kind = NodeKind::Switch { input: Some(base), switches: others, filters };
        let crossed = self.push(crossed.group_columns(), references, kind);
        let kind = if selected.is_some() { NodeKind::Evaluate(crossed) } else { NodeKind::Aggregate(crossed) };
        Ok(self.push(ask.group_columns(), vec![unit], kind))
    }

    /// A measure over results of other measures.
    fn staged(&mut self, ask: &Query, unit: MeasureId) -> Result<usize, QueryError> {
        let measure = self.model.measure(unit);
        let Some(stage) = measure.stage.as_deref() else {
            return Err(QueryError::Model("not a stage".to_owned()));
        };
        let references = measures_under(self.model, unit);
        if references.is_empty() {
            let name = self.model.path_of(MemberId::Measure(unit));
            return Err(QueryError::Model(format!("the multi-stage measure '{name}' references no measure")));
        }
        let shifted = self.shifted(ask, stage)?;
        let base = match &stage.filter {
            Some(rule) if rule.fixed => under_conditions_of(self.asked, shifted),
            _ => shifted,
        };
        let inner = Query { filters: self.rewritten(&base, stage)?, ..self.rewritten_ranges(&base, stage) };
        let groups = ask.group_columns();
        if let MeasureKind::Rank(_) = measure.kind {
            let input = self.evaluate(&inner, &references)?;
            let partition =
                if stage.grain == GrainRule::default() { Vec::new() } else { self.coarser(&groups, &stage.grain) };
            return Ok(self.push(groups, vec![unit], NodeKind::Rank { input, partition }));
        }
        let kept = self.coarser(&groups, &stage.grain);
        let added: Vec<OutputColumn> =
            finer(self.model, &stage.grain).into_iter().filter(|c| !kept.contains(c)).collect();
        let value = if !added.is_empty() && matches!(measure.kind, MeasureKind::Aggregate { .. }) {
            let mut finer = inner.clone();
            finer.set_groups(&[kept.as_slice(), added.as_slice()].concat());
            let input = self.evaluate(&finer, &references)?;
            self.push(kept.clone(), vec![unit], NodeKind::Aggregate(input))
        } else {
            let mut coarse = inner.clone();
            if kept != groups {
                coarse.set_groups(&kept);
            }
            let input = self.evaluate(&coarse, &references)?;
            self.push(kept.clone(), vec![unit], NodeKind::Evaluate(input))
        };
        if kept == groups && stage.filter.is_none() {
            return Ok(value);
        }
        let rows = self.evaluate(&base, &references)?;
        Ok(self.push(groups, vec![unit], NodeKind::Spread { rows, values: value }))
    }

    /// The groups that a grain rule keeps.
    fn coarser(&self, groups: &[OutputColumn], rule: &GrainRule) -> Vec<OutputColumn> {
        let model = self.model;
        let listed =
            |members: &[GrainMember], column: &OutputColumn| members.iter().any(|member| names(model, member, column));
        let asked = self.asked.group_columns();
        let own = |column: &OutputColumn| !rule.fixed || asked.contains(column);
        // Fixed to nothing that is named: one value for the whole answer.
        let all = !rule.fixed || !rule.exclude.is_empty();
        let kept = groups.iter().filter(|column| {
            own(column)
                && rule.keep_only.as_ref().map_or(all, |kept| listed(kept, column))
                && !listed(&rule.exclude, column)
        });
        kept.copied().collect()
    }

    /// The query with the stage's time shifts.
    fn shifted(&self, ask: &Query, stage: &MultiStage) -> Result<Query, QueryError> {
        let mut query = ask.clone();
        let mut used: Vec<DimensionId> = Vec::new();
        for time in &ask.time_dimensions {
            let dimension = resolve_alias(self.model, time.dimension);
            if !used.contains(&dimension) {
                used.push(dimension);
            }
        }
        for shift in &stage.shifts {
            let wanted = shift.dimension.map(|id| resolve_alias(self.model, id));
            for dimension in used.iter().copied().filter(|id| wanted.is_none_or(|wanted| wanted == *id)) {
                let resolved = self.resolve_shift(shift, dimension)?;
                if query.shifts.iter().any(|known| known.dimension == dimension) {
                    let name = self.model.path_of(MemberId::Dimension(dimension));
                    return Err(QueryError::Model(format!(
                        "Hierarchical time shift is not supported but was provided for '{name}'. Give the measure one \
                         shift of the whole length"
                    )));
                }
                query.shifts.push(resolved);
            }
        }
        Ok(query)
    }

    /// A shift by name, or by a length that a calendar replaces, is looked up in the dimension.
    fn resolve_shift(&self, shift: &TimeShift, dimension: DimensionId) -> Result<Shift, QueryError> {
        let defined = &self.model.dimension(dimension).shifts;
        let found = match &shift.name {
            Some(name) => {
                let found = defined.iter().find(|known| known.name.as_ref() == Some(name));
                if found.is_none() {
                    let path = self.model.path_of(MemberId::Dimension(dimension));
                    return Err(QueryError::Model(format!("Time shift '{name}' is not defined on '{path}'")));
                }
                found
            }
            None => defined.iter().find(|known| known.name.is_none() && known.interval == shift.interval),
        };
        let interval = found.and_then(|found| found.interval).or(shift.interval).unwrap_or_default();
        Ok(Shift { dimension, interval, sql: found.and_then(|found| found.sql.clone()) })
    }

    /// The conditions that the stage's measures inherit.
    fn rewritten(&self, ask: &Query, stage: &MultiStage) -> Result<Vec<Filter<Column>>, QueryError> {
        let Some(rule) = &stage.filter else { return Ok(ask.filters.clone()) };
        let mut filters: Vec<Filter<Column>> =
            ask.filters.iter().filter_map(|filter| self.keep(filter, stage)).collect();
        filters.extend(crate::query::normalize::stage_filters(self.model, &rule.include, ask.timezone)?);
        Ok(filters)
    }

    /// A condition without its parts on members that the stage drops; none when nothing is left.
    fn keep(&self, filter: &Filter<Column>, stage: &MultiStage) -> Option<Filter<Column>> {
        let group = |parts: &[Filter<Column>]| -> Vec<Filter<Column>> {
            parts.iter().filter_map(|part| self.keep(part, stage)).collect()
        };
        match filter {
            // A condition of an access policy is never dropped.
            Filter::Leaf { member: Column::Raw(_), .. } => Some(filter.clone()),
            Filter::Leaf { member, .. } => self.inherits(member.member(), stage).then(|| filter.clone()),
            Filter::And(parts) => {
                let parts = group(parts);
                (!parts.is_empty()).then_some(Filter::And(parts))
            }
            Filter::Or(parts) => {
                let kept = group(parts);
                // A choice that has lost a part is no condition any more.
                (kept.len() == parts.len()).then_some(Filter::Or(kept))
            }
        }
    }

    fn inherits(&self, member: MemberId, stage: &MultiStage) -> bool {
        let Some(rule) = &stage.filter else { return true };
        let same = |other: &MemberId| match (member, *other) {
            (MemberId::Dimension(a), MemberId::Dimension(b)) => {
                resolve_alias(self.model, a) == resolve_alias(self.model, b)
            }
            (a, b) => a == b,
        };
        !rule.exclude.iter().any(same) && rule.keep_only.as_ref().is_none_or(|kept| kept.iter().any(same))
    }

    /// Ranges and segments follow the same rule.
    fn rewritten_ranges(&self, ask: &Query, stage: &MultiStage) -> Query {
        let mut query = ask.clone();
        if stage.filter.is_some() {
            query.segments.retain(|id| self.inherits(MemberId::Segment(*id), stage));
            for time in &mut query.time_dimensions {
                if !self.inherits(MemberId::Dimension(time.dimension), stage) {
                    time.range = None;
                }
            }
            query.time_dimensions.retain(|time| time.granularity.is_some() || time.range.is_some());
        }
        query
    }
}
