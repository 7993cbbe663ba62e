//! A query over a source's tables → SQL (`data-model.md` §14, §17.2, §18, §22.1).

use std::collections::HashMap;

use super::expr::{Base, Scope, sub_query_alias};
use super::filter::{Tested, in_range, predicate};
use super::stages::sub_query_sql;
use super::{CubeTables, Literals, Statement, group_by, quote, same, tail};
use crate::model::cube::CubeSource;
use crate::model::{CubeId, DataType, DimensionId, JoinTree, MeasureId, Model};
use crate::preagg::layout::{self, StateColumn};
use crate::query::plan::{KeyedMeasures, Shape, SubQueryPlan, members_of};
use crate::query::{Column, Filter, OutputColumn, Query};
use crate::time::{Zone, local_to_utc};

/// A column that is selected after the groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Output {
    /// A measure's value.
    Measure(MeasureId),
    /// A state of a measure, to be merged further.
    State(MeasureId, StateColumn),
    /// What a measure aggregates, of one row.
    Argument(MeasureId),
}

impl Output {
    pub(super) fn measure(self) -> MeasureId {
        match self {
            Self::Measure(id) | Self::State(id, _) | Self::Argument(id) => id,
        }
    }

    pub(super) fn alias(self, model: &Model) -> String {
        match self {
            Self::Measure(id) | Self::Argument(id) => layout::measure_column(model, id),
            Self::State(id, state) => layout::state_column(model, id, state),
        }
    }
}

/// What to select.
#[derive(Debug, Clone, Copy)]
pub struct SourceSelect<'a> {
    /// The model.
    pub model: &'a Model,
    /// The query; its measures are replaced by `outputs`.
    pub query: &'a Query,
    /// Its shape.
    pub shape: &'a Shape,
    /// Columns after the groups, in order.
    pub outputs: &'a [Output],
    /// Whether `ORDER BY`, `LIMIT` and `OFFSET` are written.
    pub tail: bool,
}

/// The alias of an output column.
pub fn column_alias(model: &Model, column: OutputColumn) -> String {
    match column {
        OutputColumn::Dimension(id) => layout::dimension_column(model, id),
        OutputColumn::Segment(id) => layout::segment_column(model, id),
        OutputColumn::Time(id, grain) => layout::time_column(model, id, model.dimension(id).grain_name(grain)),
        OutputColumn::Measure(id) => layout::measure_column(model, id),
    }
}

/// The statement of a query over its source; `cubes` stand for cubes' own SQL.
pub fn source_statement(select: SourceSelect<'_>, cubes: &CubeTables) -> Statement {
    let literals = Literals::over(cubes);
    let mut sql = source_sql(select, &literals);
    if select.tail {
        sql.push_str(&tail(select.query));
    }
    Statement::new(sql, literals)
}

/// The text of a query over its source, without order and limit.
pub(super) fn source_sql(select: SourceSelect<'_>, literals: &Literals) -> String {
    if select.shape.keyed.is_empty() { simple(select, literals) } else { fanned_out(select, literals) }
}

/// Least and greatest local time of a dimension, and the number of rows without: columns
/// [`crate::query::rollups::RANGE_COLUMNS`].
pub fn range_statement(model: &Model, tree: &JoinTree, dimension: DimensionId, zone: Zone) -> Statement {
    let literals = Literals::default();
    let never = |_: CubeId| false;
    let query = Query { timezone: zone, ..Query::default() };
    let scope = Scope { model, query: &query, literals: &literals, base: Base::Rows { multiplied: &never } };
    let time = scope.dimension(dimension);
    let local = |sql: &str| scope.local_time(sql);
    let sql = format!(
        "SELECT {} AS \"first\", {} AS \"last\", count(*) - count(\"t\") AS \"rows_without_time\" \
         FROM (SELECT utc_time({time}) AS \"t\" FROM {}) AS \"times\"",
        local("min(\"t\")"),
        local("max(\"t\")"),
        from(&scope, tree, &[])
    );
    Statement::new(sql, literals)
}

/// A cube's own rows, all their columns, where the query's conditions hold.
pub fn rows_statement(model: &Model, cube: CubeId, query: &Query) -> Statement {
    let literals = Literals::default();
    let never = |_: CubeId| false;
    let scope = Scope { model, query, literals: &literals, base: Base::Rows { multiplied: &never } };
    let filters = row_filters(&scope, &|column| tested_column(&scope, column));
    let sql = format!("SELECT {}.* FROM {}{filters}", scope.alias(cube), table(&scope, cube));
    Statement::new(sql, literals)
}

fn simple(select: SourceSelect<'_>, literals: &Literals) -> String {
    let SourceSelect { model, query, shape, outputs, .. } = select;
    let multiplied = |cube: CubeId| shape.tree.multiplies(cube);
    let scope = Scope { model, query, literals, base: Base::Rows { multiplied: &multiplied } };
    let groups = query.group_columns();
    let mut columns = group_list(&scope, &groups);
    columns
        .extend(outputs.iter().map(|output| format!("{} AS {}", value(&scope, *output), quote(&output.alias(model)))));
    let mut sql = format!(
        "SELECT {} FROM {}{}",
        columns.join(", "),
        from(&scope, &shape.tree, &shape.sub_queries),
        row_filters(&scope, &|column| tested_column(&scope, column))
    );
    if query.ungrouped {
        return sql;
    }
    sql.push_str(&group_by(groups.len()));
    if !query.measure_filters.is_empty() {
        sql.push_str(&format!(" HAVING {}", measure_filters(&scope, query)));
    }
    sql
}

fn value(scope: &Scope<'_>, output: Output) -> String {
    match output {
        Output::Measure(id) if scope.query.ungrouped => scope.row_value(id),
        Output::Measure(id) => scope.measure(id),
        Output::Argument(id) => scope.row_argument(id),
        Output::State(id, state) => scope.state(id, state),
    }
}

/// A sub-query and what it gives after the groups.
struct SubQuery {
    sql: String,
    outputs: Vec<Output>,
}

/// One sub-query over the joined rows, one a multiplied cube over its distinct keys, joined on the groups.
fn fanned_out(select: SourceSelect<'_>, literals: &Literals) -> String {
    let SourceSelect { query, shape, .. } = select;
    let mut parts: Vec<SubQuery> = Vec::new();
    if !shape.regular.is_empty() {
        let outputs = asked(select.outputs, &shape.regular);
        let main = Shape { keyed: Vec::new(), ..shape.clone() };
        let bare = Query { measure_filters: Vec::new(), ..query.clone() };
        let sql = simple(SourceSelect { query: &bare, shape: &main, outputs: &outputs, ..select }, literals);
        parts.push(SubQuery { sql, outputs });
    }
    for keyed in &shape.keyed {
        let outputs = asked(select.outputs, &keyed.measures);
        parts.push(SubQuery { sql: keys_query(select, keyed, &outputs, literals), outputs });
    }
    combine(select, &parts, literals)
}

/// What a sub-query gives for its measures: states where states are wanted, else whole values.
fn asked(outputs: &[Output], measures: &[MeasureId]) -> Vec<Output> {
    let states = outputs.iter().copied().filter(|output| match output {
        Output::State(id, state) => *state != StateColumn::Value && measures.contains(id),
        Output::Measure(_) | Output::Argument(_) => false,
    });
    let mut inner: Vec<Output> = states.collect();
    for id in measures {
        if !inner.iter().any(|output| output.measure() == *id) {
            inner.push(Output::Measure(*id));
        }
    }
    inner
}

/// Joins the sub-queries on the groups, which all of them have alike, and evaluates calculated measures.
fn combine(select: SourceSelect<'_>, parts: &[SubQuery], literals: &Literals) -> String {
    let SourceSelect { model, query, .. } = select;
    let mut leaves = HashMap::new();
    let mut states = HashMap::new();
    for (position, part) in parts.iter().enumerate() {
        for output in &part.outputs {
            let column = format!("\"q_{position}\".{}", quote(&output.alias(model)));
            match output {
                Output::Measure(id) | Output::Argument(id) => leaves.insert(*id, column),
                Output::State(id, state) => states.insert((*id, *state), column),
            };
        }
    }
    let no_groups = HashMap::new();
    let scope = Scope { model, query, literals, base: Base::Groups { leaves: &leaves, groups: &no_groups } };
    let groups: Vec<String> = query.group_columns().iter().map(|c| quote(&column_alias(model, *c))).collect();
    let mut columns: Vec<String> = groups.iter().map(|c| format!("\"q_0\".{c} AS {c}")).collect();
    for output in select.outputs {
        let state = match output {
            Output::State(id, state) => states.get(&(*id, *state)).cloned(),
            Output::Measure(_) | Output::Argument(_) => None,
        };
        let sql = state.unwrap_or_else(|| scope.measure(output.measure()));
        columns.push(format!("{sql} AS {}", quote(&output.alias(model))));
    }
    let mut sql = format!("SELECT {} FROM ", columns.join(", "));
    for (position, part) in parts.iter().enumerate() {
        let table = format!("({}) AS \"q_{position}\"", part.sql);
        let equal: Vec<String> =
            groups.iter().map(|c| same(&format!("\"q_0\".{c}"), &format!("\"q_{position}\".{c}"))).collect();
        match (position, equal.is_empty()) {
            (0, _) => sql.push_str(&table),
            (_, true) => sql.push_str(&format!(" CROSS JOIN {table}")),
            (_, false) => sql.push_str(&format!(" INNER JOIN {table} ON {}", equal.join(" AND "))),
        }
    }
    if !query.measure_filters.is_empty() {
        sql.push_str(&format!(" WHERE {}", measure_filters(&scope, query)));
    }
    sql
}

/// The measures of a multiplied cube: groups and distinct keys over all joins and filters, then the cube
/// once a key.
fn keys_query(select: SourceSelect<'_>, keyed: &KeyedMeasures, outputs: &[Output], literals: &Literals) -> String {
    let SourceSelect { model, query, shape, .. } = select;
    let never = |_: CubeId| false;
    let scope = Scope { model, query, literals, base: Base::Rows { multiplied: &never } };
    let groups = query.group_columns();
    let keys: Vec<String> = scope
        .with_own_values(&|scope| model.cube(keyed.cube).primary_key().map(|d| scope.raw_dimension(d.id)).collect());
    let mut inner = group_list(&scope, &groups);
    inner.extend(keys.iter().enumerate().map(|(n, key)| format!("{key} AS \"key_{n}\"")));
    let mut columns: Vec<String> = groups
        .iter()
        .map(|column| quote(&column_alias(model, *column)))
        .map(|c| format!("\"keys\".{c} AS {c}"))
        .collect();
    columns
        .extend(outputs.iter().map(|output| format!("{} AS {}", value(&scope, *output), quote(&output.alias(model)))));
    let on: Vec<String> = keys.iter().enumerate().map(|(n, key)| format!("\"keys\".\"key_{n}\" = {key}")).collect();
    format!(
        "SELECT {} FROM (SELECT DISTINCT {} FROM {}{}) AS \"keys\" LEFT JOIN {} ON {}{}{}",
        columns.join(", "),
        inner.join(", "),
        from(&scope, &shape.tree, &shape.sub_queries),
        row_filters(&scope, &|column| tested_column(&scope, column)),
        table_and_sub_queries(&scope, keyed.cube, &shape.sub_queries),
        on.join(" AND "),
        joins(&scope, &keyed.tree, &shape.sub_queries),
        if query.ungrouped { String::new() } else { group_by(groups.len()) }
    )
}

fn group_list(scope: &Scope<'_>, groups: &[OutputColumn]) -> Vec<String> {
    let list = groups.iter();
    list.map(|column| format!("{} AS {}", scope.column(*column), quote(&column_alias(scope.model, *column)))).collect()
}

fn table(scope: &Scope<'_>, cube: CubeId) -> String {
    format!("{} AS {}", source_text(scope, cube), scope.alias(cube))
}

/// The cube's table, or its query in parentheses.
pub(super) fn source_text(scope: &Scope<'_>, cube: CubeId) -> String {
    let text = |template: &crate::model::Template| match template.as_text() {
        Some(text) => text.to_owned(),
        None => scope.template(cube, template),
    };
    if let Some(stored) = scope.literals.cubes.get(&cube) {
        return stored.clone();
    }
    match &scope.model.cube(cube).source {
        CubeSource::Table(name) => text(name),
        // The line break ends a comment that the text may end in.
        CubeSource::Query(sql) => format!("({}\n)", text(sql).trim().trim_end_matches(';')),
        CubeSource::View(_) => String::new(),
    }
}

/// A cube's table with its sub-query dimensions joined to it, as one side of a join.
fn table_and_sub_queries(scope: &Scope<'_>, cube: CubeId, sub_queries: &[SubQueryPlan]) -> String {
    let joined = sub_query_joins(scope, Some(cube), sub_queries);
    if joined.is_empty() { table(scope, cube) } else { format!("({}{joined})", table(scope, cube)) }
}

fn from(scope: &Scope<'_>, tree: &JoinTree, sub_queries: &[SubQueryPlan]) -> String {
    let mut sql = table(scope, tree.root);
    sql.push_str(&sub_query_joins(scope, Some(tree.root), sub_queries));
    sql.push_str(&joins(scope, tree, sub_queries));
    sql.push_str(&sub_query_joins(scope, None, sub_queries));
    sql
}

fn joins(scope: &Scope<'_>, tree: &JoinTree, sub_queries: &[SubQueryPlan]) -> String {
    let mut sql = String::new();
    for edge in &tree.edges {
        let on = &scope.model.cube(edge.from).joins[edge.join].sql;
        let on = scope.with_own_values(&|scope| scope.template(edge.from, on));
        sql.push_str(&format!(" LEFT JOIN {} ON {on}", table(scope, edge.to)));
        sql.push_str(&sub_query_joins(scope, Some(edge.to), sub_queries));
    }
    sql
}

/// Sub-query dimensions of a cube that are keyed by its rows; those of the query's groups when no cube is given, after
/// all joins.
fn sub_query_joins(scope: &Scope<'_>, cube: Option<CubeId>, sub_queries: &[SubQueryPlan]) -> String {
    let mut sql = String::new();
    for plan in sub_queries {
        let own = plan.by_row && plan.keys.iter().all(|key| key.member().cube() == plan.dimension.cube);
        if cube != own.then_some(plan.dimension.cube) {
            continue;
        }
        let alias = quote(&sub_query_alias(scope.model, plan.dimension));
        let on = plan.keys.iter().map(|key| {
            let own = scope.with_own_values(&|scope| scope.key(*key));
            // A primary key is never NULL; a row that a LEFT JOIN filled up has no value.
            let column = format!("{alias}.{}", quote(&column_alias(scope.model, *key)));
            if cube.is_some() { format!("{column} = {own}") } else { same(&column, &own) }
        });
        let on: Vec<String> = on.collect();
        let on = if on.is_empty() { "TRUE".to_owned() } else { on.join(" AND ") };
        sql.push_str(&format!(" LEFT JOIN ({}) AS {alias} ON {on}", sub_query_sql(scope, plan)));
    }
    sql
}

/// `WHERE`: ranges, then segments, then filters; nothing when there are none. `tested` gives the expression of a
/// dimension, [`Column::Dimension`] or [`Column::Raw`].
pub(super) fn row_filters(scope: &Scope<'_>, tested: &dyn Fn(Column) -> Tested) -> String {
    let query = scope.query;
    let mut conditions: Vec<String> = Vec::new();
    if query.denied {
        conditions.push("1 = 0".to_owned());
    }
    for time in &query.time_dimensions {
        if let Some(range) = time.range {
            let condition = in_range(
                &tested(Column::Dimension(time.dimension)),
                Some(range.start),
                Some(range.end),
                scope.literals,
            );
            if !conditions.contains(&condition) {
                conditions.push(condition);
            }
        }
    }
    conditions.extend(query.segments.iter().map(|id| scope.segment(*id)));
    conditions.extend(query.filters.iter().map(|filter| row_condition(scope, filter, tested)));
    if conditions.is_empty() {
        return String::new();
    }
    let conditions: Vec<String> = conditions.into_iter().map(|c| format!("({c})")).collect();
    format!(" WHERE {}", conditions.join(" AND "))
}

fn row_condition(scope: &Scope<'_>, filter: &Filter<Column>, tested: &dyn Fn(Column) -> Tested) -> String {
    let tested = |column: Column| match column {
        Column::Dimension(_) | Column::Raw(_) => tested(column),
        Column::Segment(id) => tested_value(scope.segment(id)),
        Column::FiltersOf(id) => tested_value(scope.filters_of(id).unwrap_or_else(|| "TRUE".to_owned())),
    };
    predicate(filter, scope.literals, &tested)
}

/// A condition on rows of joined tables.
pub(super) fn condition(scope: &Scope<'_>, filter: &Filter<Column>) -> String {
    row_condition(scope, filter, &|column| tested_column(scope, column))
}

fn tested_column(scope: &Scope<'_>, column: Column) -> Tested {
    match column {
        Column::Raw(id) => tested_raw(scope, id),
        Column::Dimension(id) => tested_dimension(scope, id),
        Column::Segment(_) | Column::FiltersOf(_) => tested_value("TRUE".to_owned()),
    }
}

/// The rows that someone may see do not move with the times of a question.
fn tested_raw(scope: &Scope<'_>, id: DimensionId) -> Tested {
    tested_sql(scope, id, scope.with_own_values(&|scope| scope.raw_dimension(id)))
}

fn tested_dimension(scope: &Scope<'_>, id: DimensionId) -> Tested {
    if scope.model.dimension(id).data_type == DataType::Time && scope.is_shifted(id) {
        let local = scope.local(id);
        return Tested { sql: local.clone(), time_sql: local, bound: Box::new(|local| local) };
    }
    tested_sql(scope, id, scope.dimension(id))
}

fn tested_sql(scope: &Scope<'_>, id: DimensionId, sql: String) -> Tested {
    let zone = scope.zone();
    let is_time = scope.model.dimension(id).data_type == DataType::Time;
    // Values of a time member are instants in UTC; bounds are wall clock of the query's zone.
    let time_sql = format!("utc_time({sql})");
    Tested {
        sql: if is_time { time_sql.clone() } else { compound(sql) },
        time_sql,
        bound: Box::new(move |local| local_to_utc(local, zone)),
    }
}

/// A tested expression that is not a time of a zone.
pub(super) fn tested_value(sql: String) -> Tested {
    let sql = compound(sql);
    Tested { time_sql: sql.clone(), sql, bound: Box::new(|micros| micros) }
}

/// Parenthesised, so that any operator may follow.
fn compound(sql: String) -> String {
    if super::expr::is_atomic(&sql) { sql } else { format!("({sql})") }
}

/// The conditions on groups, joined by AND.
pub(super) fn measure_filters(scope: &Scope<'_>, query: &Query) -> String {
    let tested = |id: MeasureId| tested_value(scope.measure(id));
    let conditions: Vec<String> = query
        .measure_filters
        .iter()
        .map(|filter| format!("({})", predicate(filter, scope.literals, &tested)))
        .collect();
    debug_assert!(query.measure_filters.iter().all(|filter| !members_of(filter).is_empty()), "empty groups vanish");
    conditions.join(" AND ")
}
