//! Access policies: what of a query its asker may see (`data-model.md` §10.3, §10.4). Pure.

use std::sync::Arc;

use serde_json::Value as Json;

use super::filters;
use super::members::{resolve_alias, resolve_measure, visit_level, visit_members};
use super::request::{FilterLeaf, FilterNode, Operator};
use super::{Column, Filter, Query, QueryError, Relation, Test, Unmasked, Value};
use crate::model::expression::{Expr, is_true, plain_text};
use crate::model::policy::{Policy, RowFilter};
use crate::model::{CubeId, DimensionId, MeasureKind, MemberId, Model};

/// Who asks.
#[derive(Debug, Clone, Default)]
pub struct Asker {
    /// The security context: the claims of the token.
    pub context: Arc<Json>,
    /// What models see of it as `SECURITY_CONTEXT`.
    pub model_context: Arc<Json>,
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
        let context = Arc::new(context);
        Self { model_context: Arc::clone(&context), context, groups }
    }

    /// The asker of whom models see something else than policies do.
    #[must_use]
    pub fn seen_by_models(self, model_context: Json) -> Self {
        Self { model_context: Arc::new(model_context), ..self }
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
    query.context = Arc::clone(&asker.model_context);
    if !model.has_policies() {
        return Ok(query);
    }
    let touched = touched(&query, model);
    let level = level_cubes(&query, model);
    let through_view: Vec<CubeId> = cubes_behind_views(&query, model);
    let rows = Rows { model, asker, now, zone: query.timezone };
    let mut cubes: Vec<CubeId> = touched.iter().map(|member| member.cube()).collect();
    cubes.sort_unstable();
    cubes.dedup();
    cubes.retain(|cube| !model.cube(*cube).policies.is_empty());
    for cube in cubes {
        let policies: Vec<&Policy> = model.cube(cube).policies.iter().filter(|policy| asker.has(policy)).collect();
        let members: Vec<MemberId> = touched.iter().copied().filter(|member| member.cube() == cube).collect();
        let mut conditions: Vec<Filter<Column>> = Vec::new();
        for member in &members {
            let mut granting: Vec<&Policy> = policies.iter().copied().filter(|policy| policy.grants(*member)).collect();
            if granting.is_empty() {
                // The view is the boundary of the members that it shows; their rows still need someone's leave.
                if !through_view.contains(&cube) || policies.is_empty() {
                    query.denied = true;
                    continue;
                }
                granting.clone_from(&policies);
            } else if let Some(unmasked) = mask(&rows, &granting, *member)? {
                query.masks.push((*member, unmasked));
            }
            if let Some(condition) = rows.of(&granting)?
                && !conditions.contains(&condition)
            {
                conditions.push(condition);
            }
        }
        for condition in conditions {
            if level.contains(&cube) && !query.filters.contains(&condition) {
                query.filters.push(condition.clone());
            }
            query.rules.push((cube, condition));
        }
    }
    drop_implied(&mut query, model);
    for (member, unmasked) in std::mem::take(&mut query.masks) {
        hide(&mut query.masks, model, member, unmasked);
    }
    Ok(query)
}

/// Adds a mask. The rows of a condition pass into an aggregate; what is computed over results has no rows, and is
/// hidden whole.
fn hide(masks: &mut Vec<(MemberId, Unmasked)>, model: &Model, member: MemberId, unmasked: Unmasked) {
    let (member, unmasked) = match (member, unmasked) {
        (MemberId::Measure(id), Unmasked::Where(rows)) => {
            let own = resolve_measure(model, id);
            let measure = model.measure(own);
            let aggregates = matches!(measure.kind, MeasureKind::Aggregate { .. }) && measure.stage.is_none();
            match aggregates {
                true => (MemberId::Measure(own), Unmasked::Where(rows)),
                false => (member, Unmasked::Never),
            }
        }
        other => other,
    };
    match masks.iter_mut().find(|(masked, _)| *masked == member) {
        None => masks.push((member, unmasked)),
        Some((_, known)) => {
            *known = match (std::mem::replace(known, Unmasked::Never), unmasked) {
                (Unmasked::Where(a), Unmasked::Where(b)) => Unmasked::Where(Filter::And(vec![a, b])),
                _ => Unmasked::Never,
            };
        }
    }
}

/// Takes off the masks of members whose conditions hold for all rows of the query anyway.
fn drop_implied(query: &mut Query, model: &Model) {
    let masks = query.masks.clone();
    let hidden = |id: DimensionId| {
        let mut hidden = false;
        visit_members(model, MemberId::Dimension(id), &mut |inner| {
            hidden |= masks.iter().any(|(member, _)| *member == inner);
        });
        hidden
    };
    let filters = &query.filters;
    query.masks.retain(|(_, unmasked)| match unmasked {
        Unmasked::Never => true,
        Unmasked::Where(rows) => !implied(filters, rows, model, &hidden),
    });
}

/// Whether the conditions of a query leave only rows for which `rows` holds. Conditions on hidden values say nothing.
fn implied(
    filters: &[Filter<Column>],
    rows: &Filter<Column>,
    model: &Model,
    hidden: &dyn Fn(DimensionId) -> bool,
) -> bool {
    match rows {
        Filter::And(parts) => parts.iter().all(|part| implied(filters, part, model, hidden)),
        Filter::Or(parts) => parts.iter().any(|part| implied(filters, part, model, hidden)),
        Filter::Leaf { member, test } => filters.iter().any(|filter| match filter {
            Filter::And(parts) => implied(parts, rows, model, hidden),
            Filter::Or(_) => filter == rows,
            Filter::Leaf { member: asked, test: narrower } => {
                let same = match (*asked, *member) {
                    (Column::Raw(a), Column::Raw(b)) => a == b,
                    (Column::Dimension(a), Column::Raw(b)) => {
                        resolve_alias(model, a) == resolve_alias(model, b) && !hidden(a)
                    }
                    _ => false,
                };
                same && implies(narrower, test)
            }
        }),
    }
}

/// Whether every value that passes one test passes the other.
fn implies(narrower: &Test, wider: &Test) -> bool {
    match (narrower, wider) {
        _ if narrower == wider => true,
        (Test::In { values, null }, Test::In { values: all, null: all_null }) => {
            values.iter().all(|value| all.contains(value)) && (!null || *all_null)
        }
        (Test::In { null: false, .. } | Test::Compare { .. } | Test::InRange { .. }, Test::Set) => true,
        (
            Test::Compare { relation, value: Value::Number(a) },
            Test::Compare { relation: wider, value: Value::Number(b) },
        ) => {
            // Rounding keeps the order, so that a difference that is left is one.
            let (Ok(x), Ok(y)) = (a.parse::<f64>(), b.parse::<f64>()) else { return false };
            match (relation, wider) {
                (Relation::Gt | Relation::Gte, Relation::Gt | Relation::Gte) => {
                    x > y || a == b && *relation == Relation::Gt
                }
                (Relation::Lt | Relation::Lte, Relation::Lt | Relation::Lte) => {
                    x < y || a == b && *relation == Relation::Lt
                }
                _ => false,
            }
        }
        (Test::InRange { start, end }, Test::InRange { start: from, end: to }) => {
            let starts = from.is_none_or(|from| start.is_some_and(|start| start >= from));
            starts && to.is_none_or(|to| end.is_some_and(|end| end <= to))
        }
        _ => false,
    }
}

/// Everything that is reached while the query is written: its own members and all that these reference.
fn touched(query: &Query, model: &Model) -> Vec<MemberId> {
    let mut found = Vec::new();
    for member in query.own_members() {
        visit_members(model, member, &mut |inner| {
            push_new(&mut found, inner);
            // Results are computed a value of what the measure's grain adds.
            let MemberId::Measure(id) = inner else { return };
            for (dimension, _) in model.measure(id).stage.iter().flat_map(|stage| &stage.grain.include) {
                visit_members(model, MemberId::Dimension(*dimension), &mut |added| push_new(&mut found, added));
            }
        });
    }
    found
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// The cubes that the query reads itself, not in a sub-query dimension.
fn level_cubes(query: &Query, model: &Model) -> Vec<CubeId> {
    let mut cubes = Vec::new();
    for member in query.own_members() {
        visit_level(model, member, &mut |inner| {
            push_new(&mut cubes, inner.cube());
            let MemberId::Measure(id) = inner else { return };
            for (dimension, _) in model.measure(id).stage.iter().flat_map(|stage| &stage.grain.include) {
                visit_level(model, MemberId::Dimension(*dimension), &mut |added| push_new(&mut cubes, added.cube()));
            }
        });
    }
    cubes
}

/// Cubes that the query reaches through members of views only.
fn cubes_behind_views(query: &Query, model: &Model) -> Vec<CubeId> {
    let mut behind = Vec::new();
    let mut direct = Vec::new();
    for member in query.own_members() {
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
pub(super) fn raw(filter: Filter<Column>) -> Filter<Column> {
    match filter {
        Filter::Leaf { member: Column::Dimension(id), test } => Filter::Leaf { member: Column::Raw(id), test },
        Filter::Leaf { .. } => filter,
        Filter::And(parts) => Filter::And(parts.into_iter().map(raw).collect()),
        Filter::Or(parts) => Filter::Or(parts.into_iter().map(raw).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(relation: Relation, text: &str) -> Test {
        Test::Compare { relation, value: Value::Number(text.to_owned()) }
    }

    fn one_of(values: &[&str], null: bool) -> Test {
        Test::In { values: values.iter().map(|value| Value::Text((*value).to_owned())).collect(), null }
    }

    #[test]
    fn narrower_tests_imply_wider_ones() {
        let cases = [
            (one_of(&["a"], false), one_of(&["a", "b"], false)),
            (one_of(&["a"], false), one_of(&["a"], true)),
            (one_of(&["a"], false), Test::Set),
            (number(Relation::Gt, "5"), number(Relation::Gte, "5")),
            (number(Relation::Gte, "6"), number(Relation::Gt, "5.5")),
            (number(Relation::Lt, "1e2"), number(Relation::Lte, "100.5")),
            (Test::InRange { start: Some(3), end: Some(5) }, Test::InRange { start: Some(3), end: None }),
            (Test::NotSet, Test::NotSet),
        ];
        for (narrower, wider) in cases {
            assert!(implies(&narrower, &wider), "{narrower:?} {wider:?}");
        }
    }

    #[test]
    fn what_may_let_more_through_implies_nothing() {
        let cases = [
            (one_of(&["a", "c"], false), one_of(&["a", "b"], false)),
            (one_of(&["a"], true), one_of(&["a"], false)),
            (one_of(&["a"], true), Test::Set),
            (number(Relation::Gte, "5"), number(Relation::Gt, "5")),
            (number(Relation::Gt, "4"), number(Relation::Gt, "5")),
            (number(Relation::Gt, "6"), number(Relation::Lt, "5")),
            // Equal when they are rounded.
            (number(Relation::Gte, "9007199254740992"), number(Relation::Gte, "9007199254740993")),
            (Test::InRange { start: None, end: Some(5) }, Test::InRange { start: Some(3), end: None }),
            (Test::NotIn { values: Vec::new(), null: false }, one_of(&["a"], false)),
        ];
        for (narrower, wider) in cases {
            assert!(!implies(&narrower, &wider), "{narrower:?} {wider:?}");
        }
    }
}
