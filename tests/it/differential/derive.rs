//! A request → SQL of another engine, from the definitions alone: the joined rows of a tree, of these the distinct
//! keys in every group, over these the aggregates; no distinction of what fans out from what does not.

use std::fmt::Write as _;

use serde_json::Value;

use super::ask::{Ask, Filter, Group, Member};
use super::expression::{bucket, comparison, instant, local};
use super::model::{Agg, Form, Model, Special};
use super::tree::{Hint, Piece, Refusal, Tree};

/// SQL with one column for every column of the answer.
#[derive(Debug, Clone)]
pub(crate) struct Derived {
    pub(crate) sql: String,
    /// Columns that hold the results of divisions.
    pub(crate) close: Vec<String>,
}

/// A relation of the query's groups `g0`… with a column `v0`… for every unit.
pub(crate) struct Part {
    pub(crate) sql: String,
    pub(crate) units: Vec<Member>,
}

/// The SQL of a request.
pub(crate) fn derive(model: &Model, query: &Value) -> Result<Derived, Refusal> {
    let ask = model.ask(query)?;
    let mut sql = answer(model, &ask)?;
    let columns: Vec<&str> =
        ask.groups.iter().map(|g| g.column.as_str()).chain(ask.measures.iter().map(|m| m.0.as_str())).collect();
    let keys: Vec<String> = order(query, &ask)
        .into_iter()
        .filter_map(|(key, falling)| {
            let at = columns.iter().position(|column| *column == key)?;
            Some(format!("{} {}", at + 1, if falling { "DESC NULLS FIRST" } else { "ASC NULLS LAST" }))
        })
        .collect();
    if !keys.is_empty() {
        let _ = write!(sql, " ORDER BY {}", keys.join(", "));
    }
    let number = |key: &str, otherwise: u64| query[key].as_u64().unwrap_or(otherwise);
    let _ = write!(sql, " LIMIT {} OFFSET {}", number("limit", 10_000), number("offset", 0));
    let divided = |member: &Member| matches!(model.measure(member).agg, Agg::Avg | Agg::Number);
    let close = ask.measures.iter().filter(|(_, member)| divided(member)).map(|(name, _)| name.clone()).collect();
    Ok(Derived { sql, close })
}

fn order(query: &Value, ask: &Ask) -> Vec<(String, bool)> {
    let falling = |direction: &Value| direction == "desc";
    match &query["order"] {
        Value::Object(order) => order.iter().map(|(key, direction)| (key.clone(), falling(direction))).collect(),
        Value::Array(order) => {
            order.iter().map(|pair| (pair[0].as_str().unwrap_or_default().to_owned(), falling(&pair[1]))).collect()
        }
        _ => {
            let time = ask.groups.iter().find(|group| group.granularity.is_some()).map(|g| (g.column.clone(), false));
            let measure = ask.measures.first().filter(|_| !ask.groups.is_empty()).map(|m| (m.0.clone(), true));
            let group = ask.groups.first().map(|group| (group.column.clone(), false));
            time.or(measure).or(group).into_iter().collect()
        }
    }
}

/// The query without order and limit.
fn answer(model: &Model, ask: &Ask) -> Result<String, Refusal> {
    let parts = parts(model, ask)?;
    let width = ask.groups.len();
    let names = |table: &str| (0..width).map(|n| format!("{table}.g{n}")).collect::<Vec<_>>();
    let mut sql = String::from("WITH ");
    for (at, part) in parts.iter().enumerate() {
        let _ = write!(sql, "p{at} AS ({}), ", part.sql);
    }
    let keys = (0..parts.len()).map(|at| {
        let columns = if width == 0 { "1 AS one".to_owned() } else { names(&format!("p{at}")).join(", ") };
        format!("SELECT {columns} FROM p{at}")
    });
    let _ = write!(sql, "k AS ({}) SELECT ", keys.collect::<Vec<_>>().join(" UNION "));
    let value = |member: &Member| value(model, &parts, member);
    let mut columns: Vec<String> =
        ask.groups.iter().enumerate().map(|(n, group)| format!("k.g{n} AS {}", quote(&group.column))).collect();
    columns.extend(ask.measures.iter().map(|(name, member)| format!("{} AS {}", value(member), quote(name))));
    let _ = write!(sql, "{} FROM k", columns.join(", "));
    for at in 0..parts.len() {
        let on: Vec<String> = (0..width).map(|n| format!("k.g{n} IS NOT DISTINCT FROM p{at}.g{n}")).collect();
        let on = if on.is_empty() { "TRUE".to_owned() } else { on.join(" AND ") };
        let _ = write!(sql, " LEFT JOIN p{at} ON {on}");
    }
    for (position, filter) in ask.measure_filters.iter().enumerate() {
        let condition = condition(filter, &|member, operator, values| {
            comparison(&value(member), model.kind(member), operator, values, &ask.zone)
        })?;
        let _ = write!(sql, " {} ({condition})", if position == 0 { "WHERE" } else { "AND" });
    }
    Ok(sql)
}

/// A measure over the columns of the parts.
fn value(model: &Model, parts: &[Part], member: &Member) -> String {
    for (at, part) in parts.iter().enumerate() {
        let same = |unit: &Member| unit.cube() == member.cube() && unit.name == member.name;
        if let Some(position) = part.units.iter().position(same) {
            return format!("p{at}.v{position}");
        }
    }
    let sql = model.measure(member).sql.clone().expect("calculated measures have SQL");
    let mut out = String::from("(");
    for piece in model.pieces(member.cube(), &sql) {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Alias(_) => panic!("{sql} has columns"),
            Piece::Member(path, name) => out.push_str(&value(model, parts, &Member::new(path, name))),
        }
    }
    out + ")"
}

fn parts(model: &Model, ask: &Ask) -> Result<Vec<Part>, Refusal> {
    let mut units = Vec::new();
    let filtered = ask.measure_filters.iter().flat_map(|filter| filter.members());
    for member in ask.measures.iter().map(|(_, member)| member).chain(filtered) {
        model.units(member, &mut units);
    }
    let (plain, special): (Vec<Member>, Vec<Member>) =
        units.into_iter().partition(|unit| model.measure(unit).special == Special::No);
    let mut parts = Vec::new();
    if !plain.is_empty() || special.is_empty() {
        parts.extend(match facts(model, ask, &plain) {
            Err(Refusal::NoPath) if !special.is_empty() => {
                return Err(Refusal::Open("whether conditions on cubes out of reach are left out".to_owned()));
            }
            parts => parts?,
        });
    }
    for unit in special {
        parts.push(super::special::special(model, ask, &unit)?);
    }
    Ok(parts)
}

/// One part where all joins, else a part for every fact's tree.
fn facts(model: &Model, ask: &Ask, units: &[Member]) -> Result<Vec<Part>, Refusal> {
    match rows_part(model, ask, units) {
        Err(Refusal::NoPath) if units.len() > 1 => {}
        part => return Ok(vec![part?]),
    }
    let mut groups: Vec<(Tree, Ask, Vec<Member>)> = Vec::new();
    for unit in units {
        let ask = reachable(model, ask, unit)?;
        let tree = model.tree(&hints(model, &ask, std::slice::from_ref(unit)))?;
        let same = |known: &Ask| format!("{known:?}") == format!("{ask:?}");
        match groups.iter_mut().find(|(known, asked, _)| *known == tree && same(asked)) {
            Some((_, _, units)) => units.push(unit.clone()),
            None => groups.push((tree, ask, vec![unit.clone()])),
        }
    }
    // A condition that no fact reaches cannot hold anywhere: the query is refused.
    let kept = |shown: &dyn Fn(&Ask) -> Vec<String>| -> bool {
        shown(ask).iter().all(|condition| groups.iter().any(|(_, kept, _)| shown(kept).contains(condition)))
    };
    let filters = |ask: &Ask| ask.filters.iter().map(|filter| format!("{filter:?}")).collect();
    let segments = |ask: &Ask| ask.segments.iter().map(|segment| format!("{segment:?}")).collect();
    let times = |ask: &Ask| ask.times.iter().map(|time| format!("{time:?}")).collect();
    if !(kept(&filters) && kept(&segments) && kept(&times)) {
        return Err(Refusal::NoPath);
    }
    groups.into_iter().map(|(_, ask, units)| rows_part(model, &ask, &units)).collect()
}

/// The query with the conditions that a measure's joins reach (§21).
fn reachable(model: &Model, ask: &Ask, unit: &Member) -> Result<Ask, Refusal> {
    let unit = std::slice::from_ref(unit);
    let joins = |ask: &Ask| match model.tree(&hints(model, ask, unit)) {
        Err(Refusal::Open(text)) => Err(Refusal::Open(text)),
        tree => Ok(tree.is_ok()),
    };
    let mut kept = Ask { filters: Vec::new(), segments: Vec::new(), ..ask.clone() };
    kept.times.retain(|time| time.granularity.is_some());
    let bare = kept.clone();
    if !joins(&bare)? {
        return Err(Refusal::NoPath);
    }
    let mut alone = Vec::new();
    for time in ask.times.iter().filter(|time| time.granularity.is_none()) {
        let mut one = bare.clone();
        one.times.push(time.clone());
        if joins(&one)? {
            kept.times.push(time.clone());
        }
        alone.push(one);
    }
    for filter in &ask.filters {
        if joins(&Ask { filters: vec![filter.clone()], ..bare.clone() })? {
            kept.filters.push(filter.clone());
        }
    }
    for segment in &ask.segments {
        if joins(&Ask { segments: vec![segment.clone()], ..bare.clone() })? {
            kept.segments.push(segment.clone());
        }
    }
    if joins(&kept)? { Ok(kept) } else { Err(Refusal::Open("conditions exclude each other's joins".to_owned())) }
}

/// What a query needs joined, in the order of §7.2.
pub(crate) fn hints(model: &Model, ask: &Ask, units: &[Member]) -> Vec<Hint> {
    let mut hints = ask.first_hints.clone();
    let plain = ask.groups.iter().filter(|group| group.granularity.is_none()).map(|group| &group.member);
    let filtered = ask.filters.iter().flat_map(|filter| filter.members());
    let times = ask.times.iter().map(|time| &time.member);
    for member in units.iter().chain(plain).chain(&ask.segments).chain(filtered).chain(times) {
        hints.extend(member.under.iter().cloned());
        model.hints_of(&member.path, &member.name, &mut hints);
    }
    hints
}

fn rows_part(model: &Model, ask: &Ask, units: &[Member]) -> Result<Part, Refusal> {
    let tree = model.tree(&hints(model, ask, units))?;
    let rows = Rows { model, ask, tree, moved: None }.select(units, None, true)?;
    let names: Vec<String> = (0..ask.groups.len()).map(|n| format!("g{n}")).collect();
    Ok(Part { sql: aggregates(model, &rows, &names, units), units: units.to_vec() })
}

/// Every unit over the distinct keys in every group of `rows`.
pub(crate) fn aggregates(model: &Model, rows: &str, names: &[String], units: &[Member]) -> String {
    let list = names.join(", ");
    let base = if names.is_empty() { "SELECT 1 AS one".to_owned() } else { format!("SELECT DISTINCT {list} FROM r") };
    let mut sql = format!("WITH r AS ({rows}), b AS ({base})");
    for (n, unit) in units.iter().enumerate() {
        let keys = (0..model.cubes[unit.cube()].keys.len()).map(|key| format!("k{n}_{key}"));
        let mut distinct: Vec<String> = names.to_vec();
        distinct.extend(keys.chain([format!("a{n}")]));
        let mut selected = names.to_vec();
        selected.push(format!("{} AS v{n}", aggregate(model.measure(unit).agg, &format!("a{n}"))));
        let by = if names.is_empty() { String::new() } else { format!(" GROUP BY {list}") };
        let (distinct, selected) = (distinct.join(", "), selected.join(", "));
        let _ = write!(sql, ", u{n} AS (SELECT {selected} FROM (SELECT DISTINCT {distinct} FROM r){by})");
    }
    let mut columns: Vec<String> = names.iter().map(|name| format!("b.{name}")).collect();
    columns.extend((0..units.len()).map(|n| format!("u{n}.v{n}")));
    let _ = write!(sql, " SELECT {} FROM b", columns.join(", "));
    for n in 0..units.len() {
        let on: Vec<String> = names.iter().map(|name| format!("b.{name} IS NOT DISTINCT FROM u{n}.{name}")).collect();
        let on = if on.is_empty() { "TRUE".to_owned() } else { on.join(" AND ") };
        let _ = write!(sql, " LEFT JOIN u{n} ON {on}");
    }
    sql
}

/// An aggregate of a column.
pub(crate) fn aggregate(agg: Agg, column: &str) -> String {
    match agg {
        Agg::Count => format!("count({column})"),
        Agg::CountDistinct => format!("count(DISTINCT {column})"),
        Agg::Sum => format!("sum({column})"),
        Agg::Avg => format!("CAST(sum({column}) AS DOUBLE) / nullif(count({column}), 0)"),
        Agg::Min => format!("min({column})"),
        Agg::Max => format!("max({column})"),
        Agg::Number => panic!("calculated measures are no aggregates"),
    }
}

/// The joined rows of a tree.
pub(crate) struct Rows<'a> {
    pub(crate) model: &'a Model,
    pub(crate) ask: &'a Ask,
    pub(crate) tree: Tree,
    /// By how much all time dimensions of the query are later than their columns, in wall clock time.
    pub(crate) moved: Option<String>,
}

impl Rows<'_> {
    /// The groups, and keys and arguments of the units; `condition` besides those of the query.
    pub(crate) fn select(&self, units: &[Member], also: Option<&str>, ranges: bool) -> Result<String, Refusal> {
        let mut columns: Vec<String> = Vec::new();
        for (n, group) in self.ask.groups.iter().enumerate() {
            columns.push(format!("{} AS g{n}", self.group(group)?));
        }
        for (n, unit) in units.iter().enumerate() {
            columns.extend(self.unit(n, unit)?);
        }
        let mut conditions = self.conditions(ranges)?;
        if let Some(also) = also {
            let _ = write!(conditions, " {} {also}", if conditions.is_empty() { "WHERE" } else { "AND" });
        }
        Ok(format!("SELECT {} FROM {}{conditions}", columns.join(", "), self.from()?))
    }

    /// A fragment over the aliases of the cubes.
    pub(crate) fn text(&self, owner: usize, sql: &str) -> String {
        let bare = sql.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if bare {
            return format!("{}.{sql}", quote(&self.model.cubes[owner].name));
        }
        let mut out = String::new();
        for piece in self.model.pieces(owner, sql) {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Alias(cube) => out.push_str(&quote(&self.model.cubes[cube].name)),
                Piece::Member(path, name) => {
                    let member = Member::new(path, name);
                    let _ = write!(out, "({})", self.dimension(&member));
                }
            }
        }
        out
    }

    /// A dimension or a segment.
    pub(crate) fn dimension(&self, member: &Member) -> String {
        let cube = &self.model.cubes[member.cube()];
        if let Some(sql) = cube.segment(&member.name) {
            return self.text(member.cube(), sql);
        }
        let dimension = cube.dimension(&member.name).unwrap_or_else(|| panic!("{member:?} is no dimension"));
        match &dimension.form {
            Form::Sql(sql) => self.text(member.cube(), sql),
            Form::SubQuery(..) => format!("{}.value", sub_query_alias(self.model, member)),
            Form::Case(branches, otherwise) => {
                let mut sql = String::from("CASE");
                for (condition, label) in branches {
                    let _ = write!(sql, " WHEN {} THEN {}", self.text(member.cube(), condition), literal(label));
                }
                if let Some(label) = otherwise {
                    let _ = write!(sql, " ELSE {}", literal(label));
                }
                sql + " END"
            }
        }
    }

    /// What rows are grouped by.
    pub(crate) fn group(&self, group: &Group) -> Result<String, Refusal> {
        let sql = self.dimension(&group.member);
        if self.model.kind(&group.member) != super::model::Kind::Time {
            return Ok(sql);
        }
        let local = local(&sql, &self.ask.zone);
        match (&group.granularity, &self.moved) {
            (None, _) => Ok(local),
            (Some(name), None) => bucket(self.model, &group.member, name, &local),
            (Some(name), Some(by)) => bucket(self.model, &group.member, name, &format!("({local} + {by})")),
        }
    }

    /// Keys and argument of a measure.
    pub(crate) fn unit(&self, n: usize, unit: &Member) -> Result<Vec<String>, Refusal> {
        let (measure, cube) = (self.model.measure(unit), &self.model.cubes[unit.cube()]);
        self.foreign_dimensions_are_beside(unit)?;
        let keys: Vec<String> = cube.keys.iter().map(|key| self.text(unit.cube(), key)).collect();
        let mut conditions: Vec<String> =
            measure.filters.iter().map(|filter| format!("({})", self.text(unit.cube(), filter))).collect();
        let argument = match &measure.sql {
            Some(sql) => self.text(unit.cube(), sql),
            None => {
                conditions.push(format!("{} IS NOT NULL", keys[0]));
                "1".to_owned()
            }
        };
        let argument = match conditions.is_empty() {
            true => argument,
            false => format!("CASE WHEN {} THEN {argument} END", conditions.join(" AND ")),
        };
        let mut columns: Vec<String> =
            keys.iter().enumerate().map(|(key, sql)| format!("{sql} AS k{n}_{key}")).collect();
        columns.push(format!("{argument} AS a{n}"));
        Ok(columns)
    }

    /// Dimensions of other cubes in a measure belong to the row that the measure's own cube joins to (§17.4).
    fn foreign_dimensions_are_beside(&self, unit: &Member) -> Result<(), Refusal> {
        let mut own = Vec::new();
        self.model.hints_of(&[unit.cube()], &unit.name, &mut own);
        let needed = self.model.tree(&own)?;
        if needed.root == unit.cube() && needed.edges.iter().all(|edge| self.tree.edges.contains(edge)) {
            return Ok(());
        }
        Err(Refusal::Open("a measure's own joins are not those of the query".to_owned()))
    }

    pub(crate) fn from(&self) -> Result<String, Refusal> {
        let name = |cube: usize| quote(&self.model.cubes[cube].name);
        let mut sql = name(self.tree.root);
        for (from, join) in &self.tree.edges {
            let join = &self.model.cubes[*from].joins[*join];
            let _ = write!(sql, " LEFT JOIN {} ON {}", name(join.to), self.text(*from, &join.sql));
        }
        for dimension in self.used_sub_queries() {
            let _ = write!(sql, " LEFT JOIN {}", self.sub_query(&dimension)?);
        }
        Ok(sql)
    }

    fn used_sub_queries(&self) -> Vec<Member> {
        let ask = self.ask;
        let groups = ask.groups.iter().map(|group| &group.member);
        let filtered = ask.filters.iter().flat_map(|filter| filter.members());
        let measures = ask.measures.iter().map(|(_, member)| member);
        let measure_filters = ask.measure_filters.iter().flat_map(|filter| filter.members());
        let times = ask.times.iter().map(|time| &time.member);
        let mut found = Vec::new();
        for member in groups.chain(filtered).chain(measures).chain(measure_filters).chain(times).chain(&ask.segments) {
            self.model.sub_queries(member, &mut found);
        }
        let joined = |cube: usize| {
            cube == self.tree.root
                || self.tree.edges.iter().any(|(from, join)| self.model.cubes[*from].joins[*join].to == cube)
        };
        found.retain(|member| joined(member.cube()));
        found
    }

    fn sub_query(&self, dimension: &Member) -> Result<String, Refusal> {
        let cube = &self.model.cubes[dimension.cube()];
        let Some(Form::SubQuery(sql, propagated)) = cube.dimension(&dimension.name).map(|d| &d.form) else {
            panic!("{dimension:?} is no sub-query");
        };
        let reference = self.model.pieces(dimension.cube(), sql).into_iter().find_map(|piece| match piece {
            Piece::Member(path, name) => Some(Member::new(path, name)),
            Piece::Text(_) | Piece::Alias(_) => None,
        });
        let own = |name: &String| Member::new(vec![dimension.cube()], name);
        let group = |key: &String| Group { column: key.clone(), member: own(key), granularity: None };
        let mut inner = Ask {
            first_hints: vec![vec![dimension.cube()]],
            measures: vec![("value".to_owned(), reference.expect("a reference"))],
            groups: cube.keys.iter().map(group).collect(),
            zone: self.ask.zone.clone(),
            ..Ask::default()
        };
        if *propagated {
            self.propagate(&mut inner);
        }
        let alias = sub_query_alias(self.model, dimension);
        let on: Vec<String> = cube
            .keys
            .iter()
            .map(|key| format!("{alias}.{} = {}", quote(key), self.text(dimension.cube(), key)))
            .collect();
        Ok(format!("({}) AS {alias} ON {}", answer(self.model, &inner)?, on.join(" AND ")))
    }

    fn propagate(&self, inner: &mut Ask) {
        let plain = |member: &Member| {
            let mut found = Vec::new();
            self.model.sub_queries(member, &mut found);
            found.is_empty()
        };
        let leaf = |filter: &&Filter| matches!(filter, Filter::Leaf { member, .. } if plain(member));
        inner.filters = self.ask.filters.iter().filter(leaf).cloned().collect();
        inner.segments = self.ask.segments.iter().filter(|segment| plain(segment)).cloned().collect();
        inner.times =
            self.ask.times.iter().filter(|time| time.range.is_some() && plain(&time.member)).cloned().collect();
        inner.times.iter_mut().for_each(|time| time.granularity = None);
    }

    /// `WHERE`; with the ranges of time dimensions, or without.
    pub(crate) fn conditions(&self, ranges: bool) -> Result<String, Refusal> {
        let ask = self.ask;
        let mut found: Vec<String> = Vec::new();
        for time in ask.times.iter().filter(|_| ranges) {
            if let Some((from, to)) = &time.range {
                let (sql, zone) = (self.dimension(&time.member), &ask.zone);
                found.push(match &self.moved {
                    None => format!("({sql}) >= {} AND ({sql}) <= {}", instant(from, zone), instant(to, zone)),
                    Some(by) => {
                        let moved = format!("({} + {by})", local(&sql, zone));
                        format!("{moved} >= TIMESTAMP '{from}' AND {moved} <= TIMESTAMP '{to}'")
                    }
                });
            }
        }
        found.extend(ask.segments.iter().map(|segment| self.dimension(segment)));
        for filter in &ask.filters {
            found.push(condition(filter, &|member, operator, values| {
                let sql = format!("({})", self.dimension(member));
                comparison(&sql, self.model.kind(member), operator, values, &ask.zone)
            })?);
        }
        let found: Vec<String> = found.into_iter().map(|condition| format!("({condition})")).collect();
        Ok(if found.is_empty() { String::new() } else { format!(" WHERE {}", found.join(" AND ")) })
    }
}

type Compare<'a> = dyn Fn(&Member, &str, &[Option<String>]) -> Result<String, Refusal> + 'a;

fn condition(filter: &Filter, compare: &Compare<'_>) -> Result<String, Refusal> {
    let all = |parts: &[Filter], word: &str| -> Result<String, Refusal> {
        let parts: Result<Vec<String>, Refusal> =
            parts.iter().map(|part| Ok(format!("({})", condition(part, compare)?))).collect();
        Ok(parts?.join(word))
    };
    match filter {
        Filter::All(parts) => all(parts, " AND "),
        Filter::Any(parts) => all(parts, " OR "),
        Filter::Leaf { member, operator, values } => compare(member, operator, values),
    }
}

fn sub_query_alias(model: &Model, member: &Member) -> String {
    quote(&format!("sub {} {}", model.cubes[member.cube()].name, member.name))
}

/// A quoted name.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{name}\"")
}

/// A text literal.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
