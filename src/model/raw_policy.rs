//! Access policies as they are written (`data-model.md` §10).

use super::expression::Expr;
use super::fields::{Fields, Place, Report, Text};
use super::raw_member::{all_or_some, texts_of};
use super::yaml::{Mark, Node, Scalar, ScalarKind, Value};
use crate::names::nearest;

/// Operators that row filters may use.
const OPERATORS: [&str; 23] = [
    "equals",
    "notEquals",
    "in",
    "notIn",
    "contains",
    "notContains",
    "startsWith",
    "notStartsWith",
    "endsWith",
    "notEndsWith",
    "gt",
    "gte",
    "lt",
    "lte",
    "set",
    "notSet",
    "inDateRange",
    "notInDateRange",
    "onTheDate",
    "beforeDate",
    "beforeOrOnDate",
    "afterDate",
    "afterOrOnDate",
];

#[derive(Debug, Clone)]
pub(super) struct RawPolicy {
    pub(super) groups: Vec<String>,
    pub(super) conditions: Vec<Expr>,
    pub(super) members: Option<RawMembers>,
    pub(super) masked: Option<RawMembers>,
    pub(super) rows: Option<Vec<RawRowFilter>>,
}

#[derive(Debug, Clone)]
pub(super) struct RawMembers {
    /// All when none.
    pub(super) includes: Option<Vec<Text>>,
    pub(super) excludes: Vec<Text>,
}

#[derive(Debug, Clone)]
pub(super) enum RawRowFilter {
    And(Vec<RawRowFilter>),
    Or(Vec<RawRowFilter>),
    Leaf { member: Text, operator: String, values: Option<Vec<Expr>> },
}

pub(super) fn read_policies(fields: &mut Fields, place: &Place, report: &mut Report) -> Vec<RawPolicy> {
    let mut policies = Vec::new();
    for (index, node) in fields.list("access_policy", place, report).into_iter().enumerate() {
        if let Some(policy) = Fields::open(node, "an entry of access_policy", place, report) {
            policies.push(read_policy(policy, index, place, report));
        }
    }
    policies
}

fn read_policy(mut fields: Fields, index: usize, place: &Place, report: &mut Report) -> RawPolicy {
    let mark = fields.mark;
    if let Some(role) = fields.mark_of("role") {
        report.error(place, role, format!("\"accessPolicy[{index}].role\" is not allowed")).hint =
            Some("write 'group' instead".to_owned());
        fields.take("role");
    }
    let keys = ["group", "groups", "conditions", "member_level", "member_masking", "row_level"];
    fields.check_keys(&keys, place, report);
    let group = fields.text("group", place, report);
    let groups = match fields.take("groups") {
        None => Vec::new(),
        Some(Node { value: Value::Scalar(scalar), .. }) if scalar.text == "*" => vec![scalar.text],
        Some(node) => texts_of(node, "groups", place, report).into_iter().map(|text| text.text).collect(),
    };
    if group.is_none() && groups.is_empty() {
        let message = format!("\"accessPolicy[{index}]\" must contain at least one of [group, groups]");
        report.error(place, mark, message).hint = Some("\"*\" is everyone".to_owned());
    } else if group.is_some() && !groups.is_empty() {
        report.error(place, mark, "\"group\" must not exist simultaneously with [groups]");
    }
    let conditions = read_conditions(&mut fields, place, report);
    let members = read_members(&mut fields, "member_level", place, report);
    let masked = read_members(&mut fields, "member_masking", place, report);
    if masked.is_some() && members.is_none() {
        report.error(place, mark, "\"memberMasking\" missing required peer \"memberLevel\"");
    }
    RawPolicy {
        groups: group.into_iter().map(|text| text.text).chain(groups).collect(),
        conditions,
        members,
        masked,
        rows: read_rows(&mut fields, place, report),
    }
}

fn read_conditions(fields: &mut Fields, place: &Place, report: &mut Report) -> Vec<Expr> {
    let mut conditions = Vec::new();
    for node in fields.list("conditions", place, report) {
        let Some(mut condition) = Fields::open(node, "an entry of conditions", place, report) else { continue };
        condition.check_keys(&["if"], place, report);
        match condition.take("if") {
            Some(node) => conditions.extend(expression(node, place, report)),
            None => {
                report.error(place, condition.mark, "(conditions.if) is required");
            }
        }
    }
    conditions
}

fn read_members(fields: &mut Fields, key: &str, place: &Place, report: &mut Report) -> Option<RawMembers> {
    let mut map = fields.map(key, place, report)?;
    map.check_keys(&["includes", "excludes"], place, report);
    let includes = all_or_some(&mut map, "includes", place, report).flatten();
    // Excluding "*" leaves nothing.
    match all_or_some(&mut map, "excludes", place, report) {
        Some(None) => Some(RawMembers { includes: Some(Vec::new()), excludes: Vec::new() }),
        Some(Some(excludes)) => Some(RawMembers { includes, excludes }),
        None => Some(RawMembers { includes, excludes: Vec::new() }),
    }
}

fn read_rows(fields: &mut Fields, place: &Place, report: &mut Report) -> Option<Vec<RawRowFilter>> {
    let mut rows = fields.map("row_level", place, report)?;
    rows.check_keys(&["filters", "allow_all"], place, report);
    let given = rows.mark_of("filters").is_some();
    let allow_all = rows.flag("allow_all", place, report).unwrap_or(false);
    if given == allow_all {
        report.error(place, rows.mark, "'row_level' has either 'filters' or 'allow_all: true'");
    }
    let filters = read_row_filters(rows.list("filters", place, report), 0, place, report);
    (given && !filters.is_empty()).then_some(filters)
}

/// Deepest nesting of conditions.
const MAX_DEPTH: usize = 32;

fn read_row_filters(nodes: Vec<Node>, depth: usize, place: &Place, report: &mut Report) -> Vec<RawRowFilter> {
    let mut filters = Vec::with_capacity(nodes.len());
    for node in nodes {
        let Some(mut fields) = Fields::open(node, "an entry of filters", place, report) else { continue };
        if depth > MAX_DEPTH {
            report.error(place, fields.mark, format!("filters nest deeper than {MAX_DEPTH} levels"));
            continue;
        }
        fields.check_keys(&["member", "operator", "values", "and", "or"], place, report);
        let group = ["and", "or"].into_iter().find(|key| fields.mark_of(key).is_some());
        if let Some(key) = group {
            let inner = fields.list(key, place, report);
            let inner = read_row_filters(inner, depth + 1, place, report);
            filters.push(if key == "and" { RawRowFilter::And(inner) } else { RawRowFilter::Or(inner) });
        } else {
            filters.extend(read_row_filter(fields, place, report));
        }
    }
    filters
}

fn read_row_filter(mut fields: Fields, place: &Place, report: &mut Report) -> Option<RawRowFilter> {
    let mark = fields.mark;
    let member = fields.text("member", place, report);
    let operator = fields.text("operator", place, report);
    let values = fields.mark_of("values").map(|_| {
        let nodes = fields.list("values", place, report);
        nodes.into_iter().filter_map(|node| value(node, place, report)).collect::<Vec<_>>()
    });
    let (Some(member), Some(operator)) = (member, operator) else {
        report.error(place, mark, "a row filter needs 'member' and 'operator'");
        return None;
    };
    let Some(known) = OPERATORS.iter().find(|known| **known == operator.text) else {
        let message = format!("(operator = {}) must be one of [{}]", operator.text, OPERATORS.join(", "));
        let hint = nearest(&operator.text, OPERATORS).map(|near| format!("did you mean '{near}'?"));
        report.error(place, operator.mark, message).hint = hint;
        return None;
    };
    let needs_values = !matches!(*known, "set" | "notSet");
    if needs_values && values.as_ref().is_none_or(Vec::is_empty) {
        report.error(place, mark, "(values) is required").hint =
            Some("a list of values, or of texts like \"{ securityContext.region }\"".to_owned());
        return None;
    }
    Some(RawRowFilter::Leaf { member, operator: operator.text, values: values.filter(|_| needs_values) })
}

/// A bare expression, with or without one pair of braces.
fn expression(node: Node, place: &Place, report: &mut Report) -> Option<Expr> {
    let (mark, described) = (node.mark, node.describe());
    let Value::Scalar(Scalar { text, .. }) = node.value else {
        report.error(place, mark, format!("a condition must be a text, not {described}"));
        return None;
    };
    let bare = text.trim();
    let bare = bare.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(bare);
    parse(bare, mark, place, report)
}

/// A value: texts are f-strings, numbers and booleans stay what they are.
fn value(node: Node, place: &Place, report: &mut Report) -> Option<Expr> {
    let (mark, described) = (node.mark, node.describe());
    match node.value {
        Value::Scalar(Scalar { kind: ScalarKind::Null, .. }) => Some(Expr::Name("None".to_owned())),
        Value::Scalar(Scalar { kind: ScalarKind::Bool(truth), .. }) => {
            Some(Expr::Name(if truth { "True" } else { "False" }.to_owned()))
        }
        Value::Scalar(Scalar { kind: ScalarKind::Number, text, .. }) => Some(Expr::Number(text)),
        Value::Scalar(Scalar { text, .. }) => match Expr::format(&text) {
            Ok(parsed) => Some(parsed).inspect(|parsed| check_names(parsed, mark, place, report)),
            Err(error) => {
                report.error(place, mark, error.to_string());
                None
            }
        },
        Value::List(_) | Value::Map(_) => {
            report.error(place, mark, format!("a value cannot be {described}"));
            None
        }
    }
}

fn parse(text: &str, mark: Mark, place: &Place, report: &mut Report) -> Option<Expr> {
    match Expr::parse(text) {
        Ok(parsed) => Some(parsed).inspect(|parsed| check_names(parsed, mark, place, report)),
        Err(error) => {
            report.error(place, mark, error.to_string());
            None
        }
    }
}

/// Names that policies may use.
const ROOTS: [&str; 5] =
    ["securityContext", "security_context", "SECURITY_CONTEXT", "userAttributes", "user_attributes"];

fn check_names(expression: &Expr, mark: Mark, place: &Place, report: &mut Report) {
    for path in expression.paths() {
        let Some(head) = path.first() else { continue };
        if ROOTS.contains(head) || matches!(*head, "True" | "False" | "None" | "true" | "false" | "null") {
            continue;
        }
        let message = format!(
            "Cube references are not allowed when evaluating RLS conditions or filters. Found: {} in {}",
            path.join("."),
            place.owner()
        );
        report.error(place, mark, message).hint = Some("use securityContext or userAttributes".to_owned());
    }
}
