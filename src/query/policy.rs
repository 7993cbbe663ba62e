//! Access policies: what of a query its asker may see (`data-model.md` §10.3, §10.4). Pure.

use std::sync::Arc;

use serde_json::Value as Json;

use super::filters;
use super::members::visit_members;
use super::plan::members_of;
use super::request::{FilterLeaf, FilterNode, Operator};
use super::{Column, Filter, Query, QueryError, Unmasked};
use crate::model::expression::{Expr, is_true, plain_text};
use crate::model::policy::{Policy, RowFilter};
use crate::model::{CubeId, MemberId, Model};

/// Who asks.
#[derive(Debug, Clone, Default)]
pub struct Asker {
    /// The security context: the claims of the token.
    pub context: Arc<Json>,
    /// The groups that the asker is in.
    pub groups: Vec<String>,
}

impl Asker {
    /// The asker of a security context. Groups are its claim `groups`, or else `cubeCloud.groups`.
    pub fn of(context: Json) -> Self {
        let listed = context.get("groups").or_else(|| context.get("cubeCloud").and_then(|cloud| cloud.get("groups")));
        let groups = match listed {
            Some(Json::Array(list)) => list.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
            Some(Json::String(one)) => vec![one.clone()],
            _ => Vec::new(),
        };
        Self { context: Arc::new(context), groups }
    }

    /// The value of names that a policy uses, from the security context inward.
    fn look_up(&self, path: &[&str]) -> Option<Json> {
        let (head, rest) = path.split_first()?;
        let root = match *head {
            "securityContext" | "security_context" | "SECURITY_CONTEXT" => self.context.as_ref(),
            "userAttributes" | "user_attributes" => self.context.get("cubeCloud")?.get("userAttributes")?,
            _ => return None,
        };
        rest.iter().try_fold(root, |value, name| value.get(name)).cloned()
    }

    /// Whether a policy is about the asker (§10.2).
    fn has(&self, policy: &Policy) -> bool {
        let member = policy.groups.iter().any(|group| group == "*" || self.groups.contains(group));
        let holds =
            |condition: &Expr| condition.evaluate(&|path| self.look_up(path)).is_ok_and(|value| is_true(&value));
        member && policy.conditions.iter().all(holds)
    }
}

/// Whether the asker may select a member of a cube at all: some policy of it grants the member. Members of cubes
/// without policies may be selected.
pub fn may_select(model: &Model, asker: &Asker, member: MemberId) -> bool {
    let policies = &model.cube(member.cube()).policies;
    policies.is_empty() || policies.iter().any(|policy| asker.has(policy) && policy.grants(member))
}

/// The query as its asker may ask it: with conditions on rows, hidden values, or denied.
///
/// # Errors
/// A condition of a policy does not fit its member.
pub fn restrict(mut query: Query, model: &Model, asker: &Asker, now: i64) -> Result<Query, QueryError> {
    query.context = Arc::clone(&asker.context);
    if !model.has_policies() {
        return Ok(query);
    }
    let touched = touched(&query, model);
    let through_view: Vec<CubeId> = cubes_behind_views(&query, model);
    let mut cubes: Vec<CubeId> = Vec::new();
    for member in &touched {
        if !cubes.contains(&member.cube()) && !model.cube(member.cube()).policies.is_empty() {
            cubes.push(member.cube());
        }
    }
    for cube in cubes {
        let policies: Vec<&Policy> = model.cube(cube).policies.iter().filter(|policy| asker.has(policy)).collect();
        let exempt = through_view.contains(&cube);
        let mut conditions: Vec<Filter<Column>> = Vec::new();
        for member in touched.iter().copied().filter(|member| member.cube() == cube) {
            let granting: Vec<&Policy> = policies.iter().copied().filter(|policy| policy.grants(member)).collect();
            if granting.is_empty() {
                // The view is the boundary of the members that it shows; their rows still need someone's leave.
                if !exempt || policies.is_empty() {
                    query.denied = true;
                }
                continue;
            }
            let rows = Rows { model, asker, now, zone: query.timezone };
            if let Some(condition) = rows.of(&granting)?
                && !conditions.contains(&condition)
            {
                conditions.push(condition);
            }
            if let Some(unmasked) = mask(&rows, &granting, member)? {
                query.masks.push((member, unmasked));
            }
        }
        if exempt {
            // Members that no policy names are exempt from grants, not from the rows of the cube's policies.
            let rows = Rows { model, asker, now, zone: query.timezone };
            if conditions.is_empty()
                && touched.iter().filter(|member| member.cube() == cube).all(|m| !policies.iter().any(|p| p.grants(*m)))
            {
                conditions.extend(rows.of(&policies)?);
            }
        }
        query.filters.extend(conditions);
    }
    Ok(query)
}

/// Everything that is reached while the query is written: its own members and all that these reference.
fn touched(query: &Query, model: &Model) -> Vec<MemberId> {
    let mut found = Vec::new();
    for member in own_members(query) {
        visit_members(model, member, &mut |inner| {
            if !found.contains(&inner) {
                found.push(inner);
            }
        });
    }
    found
}

fn own_members(query: &Query) -> Vec<MemberId> {
    let measures = query.measures.iter().map(|id| MemberId::Measure(*id));
    let dimensions = query.dimensions.iter().map(|id| MemberId::Dimension(*id));
    let segments = query.segment_columns.iter().chain(&query.segments).map(|id| MemberId::Segment(*id));
    let times = query.time_dimensions.iter().map(|time| MemberId::Dimension(time.dimension));
    let filters = query.filters.iter().flat_map(members_of).map(Column::member);
    let groups = query.measure_filters.iter().flat_map(members_of).map(MemberId::Measure);
    measures.chain(dimensions).chain(segments).chain(times).chain(filters).chain(groups).collect()
}

/// Cubes that the query reaches through members of views only.
fn cubes_behind_views(query: &Query, model: &Model) -> Vec<CubeId> {
    let mut behind = Vec::new();
    let mut direct = Vec::new();
    for member in own_members(query) {
        let is_view = model.cube(member.cube()).view().is_some();
        visit_members(model, member, &mut |inner| {
            if model.cube(inner.cube()).view().is_none() {
                if is_view { behind.push(inner.cube()) } else { direct.push(inner.cube()) }
            }
        });
    }
    behind.retain(|cube| !direct.contains(cube));
    behind
}

/// What hides a member: nothing when some policy grants its own value in all rows that it grants.
fn mask(rows: &Rows<'_>, granting: &[&Policy], member: MemberId) -> Result<Option<Unmasked>, QueryError> {
    if !granting.iter().any(|policy| !policy.grants_unmasked(member)) {
        return Ok(None);
    }
    let full: Vec<&Policy> = granting.iter().copied().filter(|policy| policy.grants_unmasked(member)).collect();
    if full.is_empty() {
        return Ok(Some(Unmasked::Never));
    }
    Ok(rows.of(&full)?.map(Unmasked::Where))
}

/// Conditions of policies on rows.
struct Rows<'a> {
    model: &'a Model,
    asker: &'a Asker,
    now: i64,
    zone: crate::time::Zone,
}

impl Rows<'_> {
    /// The rows that one of the policies grants; none when some policy grants all.
    fn of(&self, policies: &[&Policy]) -> Result<Option<Filter<Column>>, QueryError> {
        let mut granted = Vec::with_capacity(policies.len());
        for policy in policies {
            let Some(rows) = policy.rows.as_ref().filter(|rows| !rows.is_empty()) else { return Ok(None) };
            let nodes: Vec<FilterNode> = rows.iter().map(|row| self.node(row)).collect::<Result<_, _>>()?;
            let condition = self.resolve(FilterNode::And(nodes))?;
            if !granted.contains(&condition) {
                granted.push(condition);
            }
        }
        Ok(match granted.len() {
            0 => None,
            1 => granted.pop(),
            _ => Some(Filter::Or(granted)),
        })
    }

    fn node(&self, row: &RowFilter) -> Result<FilterNode, QueryError> {
        let nodes = |rows: &[RowFilter]| rows.iter().map(|row| self.node(row)).collect::<Result<Vec<_>, _>>();
        Ok(match row {
            RowFilter::And(rows) => FilterNode::And(nodes(rows)?),
            RowFilter::Or(rows) => FilterNode::Or(nodes(rows)?),
            RowFilter::Leaf { member, operator, values } => {
                let operator = Operator::parse(operator)
                    .ok_or_else(|| QueryError::Model(format!("unknown operator '{operator}' in an access policy")))?;
                let values = values.as_ref().map(|values| values.iter().map(|value| self.value(value)).collect());
                FilterNode::Leaf(FilterLeaf { member: self.model.path_of(*member), operator, values })
            }
        })
    }

    /// A missing claim is the text `undefined`: it matches nothing that is there.
    fn value(&self, value: &Expr) -> Option<String> {
        if matches!(value, Expr::Name(name) if name == "None") {
            return None;
        }
        Some(value.evaluate(&|path| self.asker.look_up(path)).map_or("undefined".to_owned(), |v| plain_text(&v)))
    }

    fn resolve(&self, node: FilterNode) -> Result<Filter<Column>, QueryError> {
        let nothing = Filter::Or(Vec::new());
        let mut nodes = [node];
        let now = super::dates::Now::at(self.now, self.zone);
        let resolved =
            filters::resolve_dates(&mut nodes, now).and_then(|()| filters::resolve(&nodes, self.model, self.zone));
        let conditions = match resolved {
            Ok(conditions) => conditions,
            // A value that does not fit its member, such as a missing claim for a number, matches nothing.
            Err(QueryError::Invalid(_)) => return Ok(nothing),
            Err(error) => return Err(error),
        };
        if !conditions.groups.is_empty() {
            return Err(QueryError::Model("an access policy cannot filter rows by a measure".to_owned()));
        }
        let mut rows: Vec<Filter<Column>> = conditions.rows.into_iter().map(raw).collect();
        Ok(match rows.len() {
            1 => rows.swap_remove(0),
            _ => Filter::And(rows),
        })
    }
}

/// The condition on values as they are, masked or not.
fn raw(filter: Filter<Column>) -> Filter<Column> {
    match filter {
        Filter::Leaf { member: Column::Dimension(id), test } => Filter::Leaf { member: Column::Raw(id), test },
        Filter::Leaf { .. } => filter,
        Filter::And(parts) => Filter::And(parts.into_iter().map(raw).collect()),
        Filter::Or(parts) => Filter::Or(parts.into_iter().map(raw).collect()),
    }
}
