//! SQL text → the tables and columns that it reads. The only place beside the engine that parses SQL.
//!
//! Names are followed through aliases, sub-selects and common table expressions to columns of tables. The tables
//! themselves are not looked at: a name that several of them may have leads nowhere, and nothing is guessed.

use std::ops::ControlFlow;
use std::rc::Rc;

use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, JoinConstraint, JoinOperator, ObjectName, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, SetExpr, TableAlias, TableFactor, TableWithJoins, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, PostgreSqlDialect};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

use super::{ColumnRef, TableRef};

/// Longer texts are not looked at: the tree of a chain of operators is as deep as the chain is long.
const MAX_BYTES: usize = 48 * 1024;
/// Most steps from name to name in one text: sub-selects may double them with every level.
const MAX_STEPS: usize = 100_000;
/// Names that begin so stand for something of the model.
pub(super) const PLACEHOLDER: &str = "__quarry_ref_";

/// What a name after FROM stands for.
#[derive(Debug, Clone)]
pub(super) enum Rows {
    /// A table of the source: it may have any column.
    Table(TableRef),
    /// The result of a query.
    Query(Rc<Outputs>),
    /// Something whose columns come from nowhere that is known.
    Unknown,
}

/// The columns of a result.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    named: Vec<(String, Vec<ColumnRef>)>,
    /// What `*` passes on.
    rest: Vec<Rows>,
}

/// A name in scope.
#[derive(Debug, Clone)]
pub(super) struct Relation {
    /// The alias, or the parts of the table's name.
    pub(super) name: Vec<String>,
    pub(super) rows: Rows,
    /// Whether columns without qualifier may be meant.
    pub(super) bare: bool,
}

/// What a query reads.
#[derive(Debug)]
pub(super) struct ReadQuery {
    pub(super) rows: Rows,
    /// In order of appearance, each once.
    pub(super) tables: Vec<TableRef>,
}

/// Reads a query; none when it does not parse. `known` gives the rows of placeholders.
pub(super) fn read_query(sql: &str, known: &dyn Fn(&str) -> Option<Rows>) -> Option<ReadQuery> {
    let query = parse(sql, |parser| parser.parse_query())?;
    let mut reader = Reader { known, tables: Vec::new(), steps: 0 };
    let (rows, _) = reader.query(&query, None, &[]);
    Some(ReadQuery { rows, tables: reader.tables })
}

/// The columns that an expression over some relations reads; none when it does not parse.
pub(super) fn read_expression(sql: &str, relations: Vec<Relation>) -> Option<Vec<ColumnRef>> {
    let expression = parse(sql, |parser| parser.parse_expr())?;
    let mut reader = Reader { known: &|_| None, tables: Vec::new(), steps: 0 };
    let scope = Scope { relations, outer: None };
    Some(reader.expression(&expression, &scope, &[]))
}

fn parse<T>(sql: &str, read: impl Fn(&mut Parser<'_>) -> Result<T, ParserError>) -> Option<T> {
    if sql.len() > MAX_BYTES {
        return None;
    }
    let whole = |dialect: &dyn Dialect| {
        let mut parser = Parser::new(dialect).try_with_sql(sql).ok()?;
        let read = read(&mut parser).ok()?;
        while parser.consume_token(&Token::SemiColon) {}
        (parser.peek_token().token == Token::EOF).then_some(read)
    };
    // The dialect of queries; then the one that takes most others' quotes and operators.
    whole(&PostgreSqlDialect {}).or_else(|| whole(&GenericDialect {}))
}

/// Adds what is not there yet.
pub(super) fn add_new<T: PartialEq>(list: &mut Vec<T>, new: impl IntoIterator<Item = T>) {
    for item in new {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

/// What a relation says of a column.
enum Found {
    /// It has no such column.
    No,
    /// A table, which may have it.
    Maybe(Vec<ColumnRef>),
    /// It has it.
    Sure(Vec<ColumnRef>),
}

/// Of several answers: the only sure one, else the only possible one; more than one is as good as none.
fn settle(answers: impl Iterator<Item = Found>) -> Found {
    let (mut sure, mut maybe) = (Vec::new(), Vec::new());
    for answer in answers {
        match answer {
            Found::No => {}
            Found::Maybe(columns) => maybe.push(columns),
            Found::Sure(columns) => sure.push(columns),
        }
    }
    match (sure.len(), maybe.len()) {
        (0, 0) => Found::No,
        (0, 1) => Found::Maybe(maybe.swap_remove(0)),
        (0, _) => Found::Maybe(Vec::new()),
        (1, _) => Found::Sure(sure.swap_remove(0)),
        (_, _) => Found::Sure(Vec::new()),
    }
}

/// The names that an expression may use, from the inside out.
struct Scope<'s> {
    relations: Vec<Relation>,
    outer: Option<&'s Scope<'s>>,
}

type Named = (String, Rows);

struct Reader<'k> {
    known: &'k dyn Fn(&str) -> Option<Rows>,
    tables: Vec<TableRef>,
    steps: usize,
}

impl Reader<'_> {
    /// The result of a query, and every column that it reads.
    fn query(&mut self, query: &Query, outer: Option<&Scope<'_>>, ctes: &[Named]) -> (Rows, Vec<ColumnRef>) {
        let mut ctes = ctes.to_vec();
        let mut used = Vec::new();
        if let Some(with) = &query.with {
            for cte in &with.cte_tables {
                let name = cte.alias.name.value.clone();
                if with.recursive {
                    ctes.push((name.clone(), Rows::Unknown));
                }
                let (rows, inner) = self.query(&cte.query, outer, &ctes);
                add_new(&mut used, inner);
                ctes.push((name, renamed(rows, &cte.alias)));
            }
        }
        // Unions lean to the left, as long as they are.
        let (mut body, mut parts) = (query.body.as_ref(), Vec::new());
        while let SetExpr::SetOperation { left, right, .. } = body {
            parts.push(right.as_ref());
            body = left;
        }
        parts.push(body);
        let mut rows: Option<Rows> = None;
        for part in parts.into_iter().rev() {
            let (next, inner) = match part {
                SetExpr::Select(select) => self.select(select, outer, &ctes),
                SetExpr::Query(query) => self.query(query, outer, &ctes),
                _ => (Rows::Unknown, Vec::new()),
            };
            add_new(&mut used, inner);
            rows = Some(match rows {
                None => next,
                Some(first) => united(first, &next),
            });
        }
        (rows.unwrap_or(Rows::Unknown), used)
    }

    fn select(&mut self, select: &Select, outer: Option<&Scope<'_>>, ctes: &[Named]) -> (Rows, Vec<ColumnRef>) {
        let mut scope = Scope { relations: Vec::new(), outer };
        let mut used = Vec::new();
        for tables in &select.from {
            self.joined(tables, &mut scope, ctes, &mut used);
        }
        let mut outputs = Outputs::default();
        for item in &select.projection {
            self.item(item, &scope, ctes, &mut outputs);
        }
        add_new(&mut used, outputs.named.iter().flat_map(|(_, columns)| columns.iter().cloned()));
        let mut conditions: Vec<&Expr> =
            select.selection.iter().chain(&select.prewhere).chain(&select.having).chain(&select.qualify).collect();
        if let GroupByExpr::Expressions(keys, _) = &select.group_by {
            conditions.extend(keys);
        }
        for condition in conditions {
            let columns = self.expression(condition, &scope, ctes);
            add_new(&mut used, columns);
        }
        (Rows::Query(Rc::new(outputs)), used)
    }

    fn item(&mut self, item: &SelectItem, scope: &Scope<'_>, ctes: &[Named], outputs: &mut Outputs) {
        match item {
            SelectItem::UnnamedExpr(expression) => {
                let name = match expression {
                    Expr::Identifier(name) => name.value.clone(),
                    Expr::CompoundIdentifier(path) => path.last().map_or_else(String::new, |name| name.value.clone()),
                    _ => String::new(),
                };
                outputs.named.push((name, self.expression(expression, scope, ctes)));
            }
            SelectItem::ExprWithAlias { expr, alias } => {
                outputs.named.push((alias.value.clone(), self.expression(expr, scope, ctes)));
            }
            SelectItem::ExprWithAliases { expr, aliases } => {
                let columns = self.expression(expr, scope, ctes);
                outputs.named.extend(aliases.iter().map(|alias| (alias.value.clone(), columns.clone())));
            }
            SelectItem::Wildcard(_) => {
                outputs.rest.extend(scope.relations.iter().map(|relation| relation.rows.clone()));
            }
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                let name = parts_of(name);
                let named = scope.relations.iter().find(|relation| is_called(&relation.name, &name));
                outputs.rest.push(named.map_or(Rows::Unknown, |relation| relation.rows.clone()));
            }
            SelectItem::QualifiedWildcard(..) => outputs.rest.push(Rows::Unknown),
        }
    }

    fn joined(&mut self, tables: &TableWithJoins, scope: &mut Scope<'_>, ctes: &[Named], used: &mut Vec<ColumnRef>) {
        let first = self.factor(&tables.relation, scope, ctes, used);
        scope.relations.extend(first);
        for join in &tables.joins {
            let next = self.factor(&join.relation, scope, ctes, used);
            scope.relations.extend(next);
            if let Some(condition) = condition_of(&join.join_operator) {
                let columns = self.expression(condition, scope, ctes);
                add_new(used, columns);
            }
        }
    }

    fn factor(
        &mut self,
        factor: &TableFactor,
        scope: &Scope<'_>,
        ctes: &[Named],
        used: &mut Vec<ColumnRef>,
    ) -> Vec<Relation> {
        let (name, rows, alias) = match factor {
            TableFactor::Table { name, alias, args, .. } => {
                let name = parts_of(name);
                let rows = if args.is_some() { Rows::Unknown } else { self.table(&name, ctes) };
                (name, rows, alias)
            }
            TableFactor::Derived { lateral, subquery, alias, .. } => {
                let (rows, inner) = self.query(subquery, if *lateral { Some(scope) } else { scope.outer }, ctes);
                add_new(used, inner);
                (Vec::new(), rows, alias)
            }
            TableFactor::NestedJoin { table_with_joins, alias } => {
                let mut inner = Scope { relations: Vec::new(), outer: scope.outer };
                self.joined(table_with_joins, &mut inner, ctes, used);
                if alias.is_none() {
                    return inner.relations;
                }
                let rest = inner.relations.into_iter().map(|relation| relation.rows).collect();
                (Vec::new(), Rows::Query(Rc::new(Outputs { named: Vec::new(), rest })), alias)
            }
            TableFactor::Pivot { table, alias, .. }
            | TableFactor::Unpivot { table, alias, .. }
            | TableFactor::MatchRecognize { table, alias, .. } => {
                self.factor(table, scope, ctes, used);
                (Vec::new(), Rows::Unknown, alias)
            }
            TableFactor::TableFunction { alias, .. }
            | TableFactor::Function { alias, .. }
            | TableFactor::UNNEST { alias, .. }
            | TableFactor::JsonTable { alias, .. }
            | TableFactor::OpenJsonTable { alias, .. }
            | TableFactor::XmlTable { alias, .. }
            | TableFactor::SemanticView { alias, .. } => (Vec::new(), Rows::Unknown, alias),
        };
        let (name, rows) = match alias {
            Some(alias) => (vec![alias.name.value.clone()], renamed(rows, alias)),
            None => (name, rows),
        };
        vec![Relation { name, rows, bare: true }]
    }

    fn table(&mut self, name: &[String], ctes: &[Named]) -> Rows {
        if let [name] = name {
            if let Some((_, rows)) = ctes.iter().rev().find(|(cte, _)| cte.eq_ignore_ascii_case(name)) {
                return rows.clone();
            }
            if let Some(rows) = (self.known)(name) {
                return rows;
            }
        }
        // What the name is depends on who asks.
        if name.iter().any(|part| part.contains(PLACEHOLDER)) {
            return Rows::Unknown;
        }
        let Some(table) = TableRef::of(name) else { return Rows::Unknown };
        add_new(&mut self.tables, [table.clone()]);
        Rows::Table(table)
    }

    /// The columns that an expression reads, those of its sub-selects included.
    fn expression(&mut self, expression: &Expr, scope: &Scope<'_>, ctes: &[Named]) -> Vec<ColumnRef> {
        let mut walk = Walk { reader: self, scope, ctes, depth: 0, found: Vec::new() };
        // The walk has no reason to stop.
        let _ = expression.visit(&mut walk);
        walk.found
    }

    /// The columns behind a name.
    fn resolve(&mut self, path: &[Ident], scope: &Scope<'_>) -> Vec<ColumnRef> {
        let [qualifier @ .., column] = path else { return Vec::new() };
        if column.value.starts_with(PLACEHOLDER) {
            return Vec::new();
        }
        let qualifier: Vec<String> = qualifier.iter().map(|part| part.value.clone()).collect();
        let mut next = Some(scope);
        while let Some(scope) = next {
            let relations = scope.relations.iter();
            let found = if qualifier.is_empty() {
                settle(relations.filter(|relation| relation.bare).map(|r| self.look_up(&r.rows, &column.value)))
            } else {
                match scope.relations.iter().find(|relation| is_called(&relation.name, &qualifier)) {
                    Some(relation) => settle(std::iter::once(self.look_up(&relation.rows, &column.value))),
                    None => Found::No,
                }
            };
            match found {
                Found::Sure(columns) | Found::Maybe(columns) => return columns,
                Found::No => next = scope.outer,
            }
        }
        // No relation is called so: a field of a column.
        if path.len() > 1 { self.resolve(&path[..1], scope) } else { Vec::new() }
    }

    fn look_up(&mut self, rows: &Rows, column: &str) -> Found {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Found::No;
        }
        match rows {
            Rows::Table(table) => Found::Maybe(vec![ColumnRef { table: table.clone(), column: column.to_owned() }]),
            Rows::Unknown => Found::Maybe(Vec::new()),
            Rows::Query(outputs) => match outputs.named.iter().find(|(name, _)| name.eq_ignore_ascii_case(column)) {
                Some((_, columns)) => Found::Sure(columns.clone()),
                None => settle(outputs.rest.iter().map(|rows| self.look_up(rows, column))),
            },
        }
    }
}

/// Goes through an expression; queries in it are read with scopes of their own.
struct Walk<'w, 'k, 's> {
    reader: &'w mut Reader<'k>,
    scope: &'w Scope<'s>,
    ctes: &'w [Named],
    depth: usize,
    found: Vec<ColumnRef>,
}

impl Visitor for Walk<'_, '_, '_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if self.depth == 0 {
            let (_, used) = self.reader.query(query, Some(self.scope), self.ctes);
            add_new(&mut self.found, used);
        }
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
        self.depth = self.depth.saturating_sub(1);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        if self.depth == 0 {
            let columns = match expression {
                Expr::Identifier(name) => self.reader.resolve(std::slice::from_ref(name), self.scope),
                Expr::CompoundIdentifier(path) => self.reader.resolve(path, self.scope),
                _ => Vec::new(),
            };
            add_new(&mut self.found, columns);
        }
        ControlFlow::Continue(())
    }
}

fn condition_of(operator: &JoinOperator) -> Option<&Expr> {
    let constraint = match operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint)
        | JoinOperator::CrossJoin(constraint)
        | JoinOperator::Semi(constraint)
        | JoinOperator::LeftSemi(constraint)
        | JoinOperator::RightSemi(constraint)
        | JoinOperator::Anti(constraint)
        | JoinOperator::LeftAnti(constraint)
        | JoinOperator::RightAnti(constraint)
        | JoinOperator::AsOf { constraint, .. }
        | JoinOperator::StraightJoin(constraint) => constraint,
        _ => return None,
    };
    match constraint {
        JoinConstraint::On(condition) => Some(condition),
        JoinConstraint::Using(_) | JoinConstraint::Natural | JoinConstraint::None => None,
    }
}

fn parts_of(name: &ObjectName) -> Vec<String> {
    name.0.iter().filter_map(|part| part.as_ident()).map(|part| part.value.clone()).collect()
}

/// Whether a relation is meant by a qualifier: by its whole name or the end of it.
fn is_called(name: &[String], qualifier: &[String]) -> bool {
    !qualifier.is_empty()
        && name.len() >= qualifier.len()
        && name[name.len() - qualifier.len()..].iter().zip(qualifier).all(|(a, b)| a.eq_ignore_ascii_case(b))
}

/// Rows whose columns the alias names anew.
fn renamed(rows: Rows, alias: &TableAlias) -> Rows {
    if alias.columns.is_empty() {
        return rows;
    }
    let names = alias.columns.iter().map(|column| column.name.value.clone());
    let old = match &rows {
        Rows::Query(outputs) if outputs.rest.is_empty() => outputs.named.as_slice(),
        _ => &[],
    };
    let columns = old.iter().map(|(_, columns)| columns.clone()).chain(std::iter::repeat(Vec::new()));
    Rows::Query(Rc::new(Outputs { named: names.zip(columns).collect(), rest: Vec::new() }))
}

/// The rows of both: named by the first, column by column.
fn united(first: Rows, second: &Rows) -> Rows {
    let (Rows::Query(first), Rows::Query(second)) = (&first, second) else { return first };
    let mut named = first.named.clone();
    for ((_, columns), (_, more)) in named.iter_mut().zip(&second.named) {
        add_new(columns, more.iter().cloned());
    }
    Rows::Query(Rc::new(Outputs { named, rest: first.rest.clone() }))
}
