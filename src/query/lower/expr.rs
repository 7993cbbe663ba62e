//! Members → SQL expressions, over a source's rows or over a rollup's stored columns.

use std::collections::HashMap;

use super::{Literals, quote, quote_text};
use crate::model::cube::{Case, CaseLabel};
use crate::model::{
    AggKind, CubeId, DimensionId, DimensionKind, Measure, MeasureId, MeasureKind, MemberId, Model, Part, SegmentId,
    Template,
};
use crate::preagg::layout::StateColumn;
use crate::query::OutputColumn;
use crate::time::{Granularity, Zone};

/// Where expressions are evaluated.
pub(super) struct Scope<'a> {
    pub(super) model: &'a Model,
    pub(super) zone: Zone,
    pub(super) literals: &'a Literals,
    pub(super) base: Base<'a>,
}

/// What the rows are.
pub(super) enum Base<'a> {
    /// Joined rows of a source's tables. Cubes whose rows may repeat count their keys.
    Rows { multiplied: &'a dyn Fn(CubeId) -> bool },
    /// Groups that already hold the values of leaf measures, by column.
    Groups { leaves: &'a HashMap<MeasureId, String> },
    /// Rows of a rollup.
    Stored(&'a dyn StoredColumns),
}

/// The columns of a rollup, for [`Base::Stored`].
pub(super) trait StoredColumns {
    /// The column of a stored dimension.
    fn dimension(&self, id: DimensionId) -> Option<String>;
    /// The column of a stored segment.
    fn segment(&self, id: SegmentId) -> Option<String>;
    /// The stored time, as local time of the query's zone, truncated at least to `granularity`.
    fn bucket(&self, id: DimensionId, granularity: Granularity) -> Option<String>;
    /// A leaf measure, merged over the rows of a group.
    fn measure(&self, id: MeasureId) -> Option<String>;
}

impl Scope<'_> {
    /// An output column's expression.
    pub(super) fn column(&self, column: OutputColumn) -> String {
        match column {
            OutputColumn::Dimension(id) => self.selected_dimension(id),
            OutputColumn::Segment(id) => self.segment(id),
            OutputColumn::Time(id, granularity) => self.bucket(id, granularity),
            OutputColumn::Measure(id) => self.measure(id),
        }
    }

    /// A dimension as the answer shows it: times in the query's zone.
    fn selected_dimension(&self, id: DimensionId) -> String {
        let sql = self.dimension(id);
        let is_time = self.model.dimension(id).data_type == crate::model::DataType::Time;
        match self.base {
            Base::Rows { .. } if is_time => self.local_time(&sql),
            // Stored times are local already.
            Base::Rows { .. } | Base::Groups { .. } | Base::Stored(_) => sql,
        }
    }

    /// A dimension's own SQL.
    pub(super) fn dimension(&self, id: DimensionId) -> String {
        if let Base::Stored(stored) = self.base
            && let Some(column) = stored.dimension(id)
        {
            return column;
        }
        match &self.model.dimension(id).kind {
            DimensionKind::Sql(template) => self.template(id.cube, template),
            DimensionKind::Case(case) => self.case(id.cube, case),
        }
    }

    /// A segment's predicate.
    pub(super) fn segment(&self, id: SegmentId) -> String {
        if let Base::Stored(stored) = self.base
            && let Some(column) = stored.segment(id)
        {
            return column;
        }
        self.template(id.cube, &self.model.segment(id).sql)
    }

    /// A time dimension in the query's zone, truncated.
    pub(super) fn bucket(&self, id: DimensionId, granularity: Granularity) -> String {
        if let Base::Stored(stored) = self.base
            && let Some(column) = stored.bucket(id, granularity)
        {
            return column;
        }
        format!("date_trunc('{granularity}', {})", self.local_time(&self.dimension(id)))
    }

    fn local_time(&self, sql: &str) -> String {
        format!("local_time({sql}, {})", quote_text(self.zone.name()))
    }

    /// A measure, aggregated.
    pub(super) fn measure(&self, id: MeasureId) -> String {
        match self.base {
            Base::Groups { leaves } => {
                if let Some(column) = leaves.get(&id) {
                    return column.clone();
                }
            }
            Base::Stored(stored) => {
                if let Some(merged) = stored.measure(id) {
                    return merged;
                }
            }
            Base::Rows { .. } => {}
        }
        let measure = self.model.measure(id);
        match &measure.kind {
            MeasureKind::Calculated { sql, .. } => self.template(id.cube, sql),
            MeasureKind::Aggregate { agg, .. } => match agg {
                AggKind::Count => self.count(measure),
                AggKind::CountDistinct => format!("count(DISTINCT {})", self.argument(measure)),
                AggKind::Sum => format!("exact_sum({})", self.argument(measure)),
                AggKind::Avg => {
                    let argument = self.argument(measure);
                    average(&format!("exact_sum({argument})"), &format!("count({argument})"))
                }
                AggKind::Min => format!("min({})", self.argument(measure)),
                AggKind::Max => format!("max({})", self.argument(measure)),
            },
        }
    }

    /// A state that a rollup stores for a measure.
    pub(super) fn state(&self, id: MeasureId, state: StateColumn) -> String {
        let measure = self.model.measure(id);
        let is_avg = matches!(measure.kind, MeasureKind::Aggregate { agg: AggKind::Avg, .. });
        match state {
            StateColumn::Sum => format!("exact_sum({})", self.argument(measure)),
            StateColumn::Count if is_avg => format!("count({})", self.argument(measure)),
            StateColumn::Count | StateColumn::Min | StateColumn::Max | StateColumn::Value => self.measure(id),
        }
    }

    /// `count`: of keys, so that the NULL row of a LEFT JOIN does not count (`data-model.md` §5.1).
    fn count(&self, measure: &Measure) -> String {
        let repeats = match self.base {
            Base::Rows { multiplied } => multiplied(measure.id.cube),
            Base::Groups { .. } | Base::Stored(_) => false,
        };
        let own = matches!(&measure.kind, MeasureKind::Aggregate { sql: Some(_), .. });
        let key = self.key_text(measure.id.cube);
        match key {
            _ if own => format!("count({})", self.argument(measure)),
            Some(key) if repeats => format!("count(DISTINCT {})", self.filtered(measure, &key)),
            Some(key) => format!("count({})", self.filtered(measure, &key)),
            None if measure.filters.is_empty() => "count(*)".to_owned(),
            None => format!("count({})", self.filtered(measure, "1")),
        }
    }

    /// The primary key as one value: the column, or the columns as text.
    fn key_text(&self, cube: CubeId) -> Option<String> {
        let parts: Vec<String> = self.model.cube(cube).primary_key().map(|d| self.dimension(d.id)).collect();
        match parts.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            many => {
                let casts: Vec<String> = many.iter().map(|sql| format!("CAST({sql} AS VARCHAR)")).collect();
                Some(casts.join(" || chr(31) || "))
            }
        }
    }

    /// The argument of an aggregate, with the measure's filters wrapped around it.
    fn argument(&self, measure: &Measure) -> String {
        let sql = match &measure.kind {
            MeasureKind::Aggregate { sql: Some(sql), .. } | MeasureKind::Calculated { sql, .. } => {
                self.template(measure.id.cube, sql)
            }
            MeasureKind::Aggregate { sql: None, .. } => "1".to_owned(),
        };
        self.filtered(measure, &sql)
    }

    fn filtered(&self, measure: &Measure, sql: &str) -> String {
        if measure.filters.is_empty() {
            return sql.to_owned();
        }
        let conditions: Vec<String> =
            measure.filters.iter().map(|f| format!("({})", self.template(measure.id.cube, f))).collect();
        format!("CASE WHEN {} THEN {sql} END", conditions.join(" AND "))
    }

    fn case(&self, owner: CubeId, case: &Case) -> String {
        let label = |label: &CaseLabel| match label {
            CaseLabel::Text(text) => quote_text(text),
            CaseLabel::Sql(template) => self.template(owner, template),
        };
        let mut sql = "CASE".to_owned();
        for branch in &case.when {
            sql.push_str(&format!(" WHEN {} THEN {}", self.template(owner, &branch.condition), label(&branch.label)));
        }
        if let Some(otherwise) = &case.otherwise {
            sql.push_str(&format!(" ELSE {}", label(otherwise)));
        }
        sql.push_str(" END");
        sql
    }

    /// A fragment of `owner` with its references written out; a lone identifier is a column of the cube's table.
    pub(super) fn template(&self, owner: CubeId, template: &Template) -> String {
        if let Some(column) = template.as_column() {
            return format!("{}.{column}", self.alias(owner));
        }
        let alone = template.parts.len() == 1;
        let wrap = |sql: String| if alone || is_atomic(&sql) { sql } else { format!("({sql})") };
        let mut out = String::new();
        for part in &template.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Cube(cube) => out.push_str(&self.alias(*cube)),
                Part::Time(dimension, granularity) => out.push_str(&self.bucket(*dimension, *granularity)),
                Part::Member(MemberId::Dimension(id)) => out.push_str(&wrap(self.dimension(*id))),
                Part::Member(MemberId::Segment(id)) => out.push_str(&wrap(self.segment(*id))),
                Part::Member(MemberId::Measure(id)) => out.push_str(&wrap(self.measure(*id))),
            }
        }
        out
    }

    /// The alias of a cube's table.
    pub(super) fn alias(&self, cube: CubeId) -> String {
        quote(&self.model.cube(cube).name)
    }
}

/// Sum over count; null over no values.
pub(super) fn average(sum: &str, count: &str) -> String {
    format!("exact_div({sum}, NULLIF({count}, 0))")
}

/// Whether an expression can stand beside any operator without parentheses: a name, a literal, a call.
pub(super) fn is_atomic(sql: &str) -> bool {
    let mut depth = 0_usize;
    let mut quoted: Option<char> = None;
    for c in sql.trim().chars() {
        match quoted {
            Some(quote) if c == quote => quoted = None,
            Some(_) => {}
            None => match c {
                '\'' | '"' => quoted = Some(c),
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ if depth > 0 => {}
                '_' | '.' | super::MARK | super::MARK_END => {}
                c if c.is_alphanumeric() => {}
                _ => return false,
            },
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::is_atomic;

    #[test]
    fn compound_expressions_are_told_from_atoms() {
        for atom in ["\"t\".a", "sum(a + b)", "'a b'", "12.5", "CAST(a AS text)"] {
            assert!(is_atomic(atom), "{atom}");
        }
        for compound in ["a + b", "CASE WHEN a THEN b END", "-1", "a::text", "x OR y"] {
            assert!(!is_atomic(compound), "{compound}");
        }
    }
}
