//! SQL that depends on the question and on who asks: `FILTER_PARAMS`, `FILTER_GROUP`, `SECURITY_CONTEXT`
//! (`data-model.md` §11).

use serde_json::Value as Json;

use super::expr::Scope;
use super::filter::{Tested, predicate};
use super::{Literal, Literals};
use crate::model::template::{Claim, ClaimUse, FilterColumn, FilterParam};
use crate::model::{CubeId, DimensionId, MemberId, Part, Template};
use crate::query::members::{resolve_alias, visit_members};
use crate::query::{Column, Filter, Relation, Test, Value};
use crate::time::local_to_utc;

/// What stands where there is no condition.
const ALWAYS: &str = "1 = 1";

/// The query's conditions on the members of `params`, on their columns; always in parentheses.
pub(super) fn pushed_filters(scope: &Scope<'_>, owner: CubeId, params: &[FilterParam]) -> String {
    let ranges = scope.query.time_dimensions.iter().filter_map(|time| {
        let range = time.range?;
        let test = Test::InRange { start: Some(range.start), end: Some(range.end) };
        Some(Filter::Leaf { member: Column::Dimension(time.dimension), test })
    });
    let mut found: Vec<Filter<Column>> = Vec::new();
    for filter in ranges.chain(scope.query.filters.iter().cloned()) {
        if let Some(kept) = matching(scope, &filter, params)
            && !found.contains(&kept)
        {
            found.push(kept);
        }
    }
    // A moved time dimension has other rows behind its conditions.
    if found.is_empty() || !scope.query.shifts.is_empty() {
        return format!("({ALWAYS})");
    }
    let conditions: Vec<String> = found.iter().map(|filter| written(scope, owner, filter, params)).collect();
    match conditions.as_slice() {
        [one] => format!("({one})"),
        many => format!("({})", many.iter().map(|c| format!("({c})")).collect::<Vec<_>>().join(" AND ")),
    }
}

/// The largest part of a condition that is about the members alone.
fn matching(scope: &Scope<'_>, filter: &Filter<Column>, params: &[FilterParam]) -> Option<Filter<Column>> {
    match filter {
        Filter::Leaf { member, .. } => param_of(scope, *member, params).map(|_| filter.clone()),
        Filter::And(parts) => {
            let kept: Vec<Filter<Column>> = parts.iter().filter_map(|part| matching(scope, part, params)).collect();
            (!kept.is_empty()).then_some(Filter::And(kept))
        }
        Filter::Or(parts) => {
            let kept: Vec<Filter<Column>> = parts.iter().filter_map(|part| matching(scope, part, params)).collect();
            // All of it, in full: a choice that has lost something would let too few rows through.
            (kept == *parts).then_some(Filter::Or(kept))
        }
    }
}

fn param_of<'p>(scope: &Scope<'_>, column: Column, params: &'p [FilterParam]) -> Option<&'p FilterParam> {
    let dimension = |id: DimensionId| resolve_alias(scope.model, id);
    let id = match column {
        // Inside of a cube's SQL values are not masked, so that a condition there would tell of them.
        Column::Dimension(id) if is_masked(scope, id) => return None,
        Column::Dimension(id) | Column::Raw(id) => dimension(id),
        Column::Segment(_) | Column::FiltersOf(_) => return None,
    };
    params.iter().find(|param| matches!(param.member, MemberId::Dimension(other) if dimension(other) == id))
}

/// Whether a dimension is masked, or computed from one that is.
fn is_masked(scope: &Scope<'_>, id: DimensionId) -> bool {
    let mut masked = false;
    if !scope.query.masks.is_empty() {
        visit_members(scope.model, MemberId::Dimension(id), &mut |inner| {
            masked |= scope.query.masks.iter().any(|(member, _)| *member == inner);
        });
    }
    masked
}

fn written(scope: &Scope<'_>, owner: CubeId, filter: &Filter<Column>, params: &[FilterParam]) -> String {
    let group = |parts: &[Filter<Column>], word: &str| {
        let parts: Vec<String> =
            parts.iter().map(|part| format!("({})", written(scope, owner, part, params))).collect();
        parts.join(word)
    };
    let (member, test) = match filter {
        Filter::And(parts) => return group(parts, " AND "),
        Filter::Or(parts) => return group(parts, " OR "),
        Filter::Leaf { member, test } => (*member, test),
    };
    let Some(param) = param_of(scope, member, params) else { return ALWAYS.to_owned() };
    let zone = scope.zone();
    match &param.column {
        FilterColumn::Column(text) => {
            let tested = |_: Column| Tested {
                sql: text.clone(),
                time_sql: text.clone(),
                bound: Box::new(move |local| local_to_utc(local, zone)),
            };
            predicate(filter, scope.literals, &tested)
        }
        FilterColumn::Function(parameters, body) => {
            let utc = |local: i64| Literal::Timestamp(local_to_utc(local, zone));
            let values = arguments(test, &utc);
            if values.is_empty() {
                return ALWAYS.to_owned();
            }
            let places: Vec<String> =
                values.into_iter().take(*parameters).map(|value| scope.literals.place(value)).collect();
            call(scope, owner, body, &places)
        }
    }
}

/// What a condition hands to a function: its values; a range's first and last millisecond.
fn arguments(test: &Test, utc: &dyn Fn(i64) -> Literal) -> Vec<Literal> {
    let literals = |values: &[Value]| values.iter().map(Literal::from).collect();
    match test {
        Test::In { values, .. } | Test::NotIn { values, .. } => literals(values),
        Test::Like { values, .. } | Test::NotLike { values, .. } => {
            values.iter().map(|value| Literal::Text(value.clone())).collect()
        }
        Test::Compare { value, relation: Relation::Gt | Relation::Gte | Relation::Lt | Relation::Lte } => {
            vec![Literal::from(value)]
        }
        Test::Set | Test::NotSet => Vec::new(),
        Test::InRange { start, end } => {
            start.iter().map(|at| utc(*at)).chain(end.iter().map(|at| utc(*at - 1000))).collect()
        }
        Test::NotInRange(range) => vec![utc(range.start), utc(range.end - 1000)],
    }
}

/// The body of a function with its parameters replaced; one without value is NULL.
fn call(scope: &Scope<'_>, owner: CubeId, body: &Template, arguments: &[String]) -> String {
    let mut out = String::new();
    for part in &body.parts {
        match part {
            Part::Parameter(index) => out.push_str(arguments.get(*index).map_or("NULL", String::as_str)),
            other => {
                let rest = Template { parts: vec![other.clone()] };
                match other {
                    Part::Text(text) => out.push_str(text),
                    _ => out.push_str(&scope.template(owner, &rest)),
                }
            }
        }
    }
    out
}

/// Something of the security context.
pub(super) fn claim(scope: &Scope<'_>, owner: CubeId, claim: &Claim) -> String {
    let value = claim.path.iter().try_fold(scope.query.context.as_ref(), |value, name| value.get(name));
    let value = value.filter(|value| !value.is_null());
    match &claim.usage {
        ClaimUse::Unsafe => value.map_or("undefined".to_owned(), crate::model::expression::plain_text),
        ClaimUse::Value => match value {
            // Nothing equals NULL: who lacks the claim sees nothing.
            None => "NULL".to_owned(),
            Some(Json::Array(list)) => places(scope.literals, list).join(", "),
            Some(value) => place(scope.literals, value),
        },
        ClaimUse::Filter { column, required } => {
            let Some(value) = value.filter(|value| is_given(value)) else {
                if *required {
                    scope.literals.fail(format!("Filter for {} is required", claim.path.join(".")));
                }
                return ALWAYS.to_owned();
            };
            match (column, value) {
                (FilterColumn::Column(_), Json::Array(list)) if list.is_empty() => "1 = 0".to_owned(),
                (FilterColumn::Column(text), Json::Array(list)) => {
                    format!("{text} IN ({})", places(scope.literals, list).join(", "))
                }
                (FilterColumn::Column(text), value) => format!("{text} = {}", place(scope.literals, value)),
                (FilterColumn::Function(_, body), Json::Array(list)) => {
                    call(scope, owner, body, &[places(scope.literals, list).join(", ")])
                }
                (FilterColumn::Function(_, body), value) => call(scope, owner, body, &[place(scope.literals, value)]),
            }
        }
    }
}

/// False, zero and the empty text count as missing (§11.2).
fn is_given(value: &Json) -> bool {
    matches!(value, Json::Array(_)) || crate::model::expression::is_true(value)
}

fn places(literals: &Literals, list: &[Json]) -> Vec<String> {
    list.iter().map(|value| place(literals, value)).collect()
}

fn place(literals: &Literals, value: &Json) -> String {
    let literal = match value {
        Json::Bool(truth) => Literal::Boolean(*truth),
        Json::Number(number) => Literal::Number(number.to_string()),
        Json::String(text) => Literal::Text(text.clone()),
        other => Literal::Text(other.to_string()),
    };
    literals.place(literal)
}
