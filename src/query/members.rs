//! What a member is computed from: the cubes it touches, the leaf measures under a calculated one,
//! whether its SQL can be evaluated over stored columns.

use std::collections::BTreeSet;

use crate::model::{
    CubeId, DimensionId, DimensionKind, Grain, Hint, MeasureId, MeasureKind, MemberId, Model, Part, SegmentId, Template,
};

/// The templates of a member's own SQL.
pub(super) fn templates(model: &Model, member: MemberId) -> Vec<&Template> {
    match member {
        MemberId::Dimension(id) => model.dimension(id).templates(),
        MemberId::Segment(id) => vec![&model.segment(id).sql],
        MemberId::Measure(id) => model.measure(id).templates(),
    }
}

/// Appends what a member needs joined to `hints`, the member's own cube first, without repetitions
/// (`data-model.md` §7.2). A view has no rows: its members need the paths that they came by.
pub(super) fn collect_hints(model: &Model, member: MemberId, hints: &mut Vec<Hint>) {
    if model.cube(member.cube()).view().is_none() {
        push_new(hints, vec![member.cube()]);
    }
    collect_inner(model, member, hints);
}

/// What the references of a member need joined. A sub-query dimension joins for itself.
fn collect_inner(model: &Model, member: MemberId, hints: &mut Vec<Hint>) {
    if let MemberId::Dimension(id) = member
        && let DimensionKind::SubQuery(sub_query) = &model.dimension(id).kind
    {
        for (by, _) in &sub_query.by {
            collect_hints(model, MemberId::Dimension(*by), hints);
        }
        return;
    }
    for template in templates(model, member) {
        collect_template(model, template, hints);
    }
}

/// What a fragment needs joined.
pub(super) fn collect_template(model: &Model, template: &Template, hints: &mut Vec<Hint>) {
    // The path stands right before the member that it leads to.
    let mut by_path = false;
    for part in &template.parts {
        let came_by = std::mem::take(&mut by_path);
        let inner = match part {
            Part::Path(path) => {
                push_new(hints, path.clone());
                by_path = true;
                continue;
            }
            Part::Cube(cube) => {
                push_new(hints, vec![*cube]);
                continue;
            }
            Part::Local(inner) => {
                collect_template(model, inner, hints);
                continue;
            }
            Part::Member(inner) => *inner,
            Part::Time(dimension, _) => MemberId::Dimension(*dimension),
            Part::Text(_) | Part::Source(_) | Part::Filters(_) | Part::Claim(_) | Part::Parameter(_) => continue,
        };
        if came_by {
            collect_inner(model, inner, hints);
        } else {
            collect_hints(model, inner, hints);
        }
    }
}

fn push_new(hints: &mut Vec<Hint>, hint: Hint) {
    if !hints.contains(&hint) {
        hints.push(hint);
    }
}

/// All cubes of some hints.
pub(super) fn cubes_of(hints: &[Hint]) -> BTreeSet<CubeId> {
    hints.iter().flatten().copied().collect()
}

/// Calls `found` for a member and everything under it.
pub(super) fn visit_members(model: &Model, member: MemberId, found: &mut dyn FnMut(MemberId)) {
    found(member);
    for template in templates(model, member) {
        for inner in template.members() {
            visit_members(model, inner, found);
        }
    }
}

/// As [`visit_members`], but not into sub-query dimensions: what these read belongs to queries of their own.
pub(super) fn visit_level(model: &Model, member: MemberId, found: &mut dyn FnMut(MemberId)) {
    found(member);
    if let MemberId::Dimension(id) = member
        && let DimensionKind::SubQuery(sub_query) = &model.dimension(id).kind
    {
        sub_query.by.iter().for_each(|(by, _)| visit_level(model, MemberId::Dimension(*by), found));
        return;
    }
    for template in templates(model, member) {
        for inner in template.members() {
            visit_level(model, inner, found);
        }
    }
}

/// The leaf measures under a measure, in order of appearance: those that aggregate rows themselves.
/// A calculated measure over other measures is evaluated from its leaves after they are merged
/// (`data-model.md` §17.5).
pub(super) fn leaves(model: &Model, measure: MeasureId) -> Vec<MeasureId> {
    let mut found = Vec::new();
    collect_leaves(model, measure, &mut found);
    found
}

fn collect_leaves(model: &Model, measure: MeasureId, found: &mut Vec<MeasureId>) {
    if is_leaf(model, measure) {
        if !found.contains(&measure) {
            found.push(measure);
        }
        return;
    }
    for template in templates(model, MemberId::Measure(measure)) {
        for member in template.members() {
            if let MemberId::Measure(inner) = member {
                collect_leaves(model, inner, found);
            }
        }
    }
}

/// Whether a measure aggregates rows itself. A calculated measure does so when its SQL holds anything
/// but references to measures, constants and operators.
pub(super) fn is_leaf(model: &Model, measure: MeasureId) -> bool {
    match &model.measure(measure).kind {
        MeasureKind::Aggregate { .. } => true,
        // Computed over results: its leaves are those of what it references.
        MeasureKind::Rank(_) | MeasureKind::Switch(_) => false,
        MeasureKind::Calculated { sql, .. } => {
            let over_measures = sql.parts.iter().all(|part| match part {
                Part::Member(MemberId::Measure(_)) | Part::Path(_) => true,
                Part::Text(text) => !names_columns(text) && !calls_aggregate(text),
                _ => false,
            });
            let refers = sql.members().any(|member| matches!(member, MemberId::Measure(_)));
            !(over_measures && refers)
        }
    }
}

/// The measure that a pure reference (`{orders.total}`) stands for, followed to its end.
pub(super) fn resolve_measure(model: &Model, id: MeasureId) -> MeasureId {
    let measure = model.measure(id);
    match &measure.kind {
        MeasureKind::Calculated { sql, .. } if measure.stage.is_none() && measure.filters.is_empty() => {
            match sql.as_member() {
                Some(MemberId::Measure(inner)) => resolve_measure(model, inner),
                _ => id,
            }
        }
        _ => id,
    }
}

/// Whether a dimension or segment that is not among `stored` can be computed from those that are: its
/// SQL only refers to dimensions that are stored or computable themselves (`pre-aggregations.md` §4.6,
/// `cover`).
pub(super) fn is_derivable(model: &Model, member: MemberId, given: &Given<'_>) -> bool {
    let templates = templates(model, member);
    let refers = templates.iter().any(|template| template.members().next().is_some());
    let own_query = match member {
        MemberId::Dimension(id) => matches!(model.dimension(id).kind, DimensionKind::SubQuery(_)),
        MemberId::Measure(_) | MemberId::Segment(_) => false,
    };
    refers
        && !own_query
        && templates.iter().all(|template| {
            template.parts.iter().all(|part| match part {
                Part::Text(text) => !names_columns(text),
                Part::Member(MemberId::Dimension(id)) => {
                    (given.dimension)(*id) || is_derivable(model, MemberId::Dimension(*id), given)
                }
                Part::Member(MemberId::Segment(id)) => {
                    (given.segment)(*id) || is_derivable(model, MemberId::Segment(*id), given)
                }
                Part::Time(id, grain) => (given.bucket)(*id, *grain),
                Part::Path(_) => true,
                _ => false,
            })
        })
}

/// What is stored, for [`is_derivable`].
pub(super) struct Given<'a> {
    /// Whether the value of a dimension is.
    pub(super) dimension: &'a dyn Fn(DimensionId) -> bool,
    /// Whether the truth of a segment is.
    pub(super) segment: &'a dyn Fn(SegmentId) -> bool,
    /// Whether buckets of a time dimension can be made.
    pub(super) bucket: &'a dyn Fn(DimensionId, Grain) -> bool,
}

/// Whether SQL gives other values in another zone.
pub(super) fn is_of_zone(model: &Model, template: &Template) -> bool {
    template.parts.iter().any(|part| match part {
        Part::Time(..) | Part::Local(_) => true,
        Part::Member(member) => templates(model, *member).into_iter().any(|inner| is_of_zone(model, inner)),
        _ => false,
    })
}

/// The dimension that a pure reference (`{users.name}`) stands for, followed to its end.
pub(super) fn resolve_alias(model: &Model, id: DimensionId) -> DimensionId {
    match &model.dimension(id).kind {
        DimensionKind::Sql(template) => match template.as_member() {
            Some(MemberId::Dimension(inner)) => resolve_alias(model, inner),
            _ => id,
        },
        _ => id,
    }
}

/// The segment that a pure reference stands for, followed to its end.
pub(super) fn resolve_segment(model: &Model, id: SegmentId) -> SegmentId {
    match model.segment(id).sql.as_member() {
        Some(MemberId::Segment(inner)) => resolve_segment(model, inner),
        _ => id,
    }
}

/// The members of a set of segments, for hints.
pub(super) fn segment_members(segments: &[SegmentId]) -> impl Iterator<Item = MemberId> {
    segments.iter().map(|id| MemberId::Segment(*id))
}

/// Words that may stand in SQL text without naming a column.
const KEYWORDS: &[&str] = &[
    "and",
    "as",
    "bigint",
    "between",
    "boolean",
    "by",
    "case",
    "date",
    "day",
    "decimal",
    "double",
    "else",
    "end",
    "escape",
    "false",
    "float",
    "from",
    "hour",
    "ilike",
    "in",
    "int",
    "integer",
    "interval",
    "is",
    "like",
    "minute",
    "month",
    "not",
    "null",
    "numeric",
    "or",
    "precision",
    "quarter",
    "real",
    "second",
    "similar",
    "smallint",
    "text",
    "then",
    "timestamp",
    "to",
    "true",
    "varchar",
    "week",
    "when",
    "year",
];

/// Aggregate functions of the engine that people write in calculated measures.
const AGGREGATES: &[&str] = &[
    "any_value",
    "approx_count_distinct",
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
    "approx_quantile",
    "array_agg",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "exact_sum",
    "first_value",
    "last_value",
    "max",
    "mean",
    "median",
    "min",
    "nth_value",
    "regr_slope",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "string_agg",
    "sum",
    "var",
    "var_pop",
    "var_samp",
    "percentile_cont",
];

/// The words of SQL text outside of string literals, with whether a `(` follows.
fn words(text: &str) -> Vec<(String, bool)> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        if c == '\'' {
            at += 1;
            while at < chars.len() && chars[at] != '\'' {
                at += 1;
            }
            at += 1;
        } else if c == '"' || c == '_' || c.is_alphabetic() {
            let start = at;
            if c == '"' {
                at += 1;
                while at < chars.len() && chars[at] != '"' {
                    at += 1;
                }
                at += 1;
            } else {
                while at < chars.len() && (chars[at] == '_' || chars[at].is_alphanumeric()) {
                    at += 1;
                }
            }
            let word: String = chars[start..at.min(chars.len())].iter().collect();
            let called = chars[at.min(chars.len())..].iter().find(|c| !c.is_whitespace()) == Some(&'(');
            found.push((word.to_lowercase(), called));
        } else if c.is_ascii_digit() {
            // A number, with exponent or suffix, is not a word.
            while at < chars.len() && (chars[at] == '.' || chars[at].is_alphanumeric()) {
                at += 1;
            }
        } else {
            at += 1;
        }
    }
    found
}

/// Whether SQL text seems to name a column: a word that is neither keyword nor called as a function.
/// Errs on the side of yes, which only costs a rollup match.
fn names_columns(text: &str) -> bool {
    words(text).iter().any(|(word, called)| !called && !KEYWORDS.contains(&word.as_str()))
}

fn calls_aggregate(text: &str) -> bool {
    words(text).iter().any(|(word, called)| *called && AGGREGATES.contains(&word.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_columns(text: &str, expected: bool) {
        assert_eq!(names_columns(text), expected, "{text}");
    }

    #[test]
    fn text_with_a_free_word_names_a_column() {
        check_columns(" * 100.0 / NULLIF(", false);
        check_columns("upper(", false);
        check_columns(" = 'paid' AND ", false);
        check_columns("CASE WHEN ", false);
        check_columns(" + amount", true);
        check_columns("\"Amount\"", true);
        check_columns(".col", true);
        check_columns(" 1e5 ", false);
        check_columns("'unclosed", false);
    }

    #[test]
    fn aggregates_are_seen_when_called() {
        assert!(calls_aggregate("SUM (x)"));
        assert!(!calls_aggregate("coalesce("));
        assert!(!calls_aggregate("'sum(' "));
    }
}
