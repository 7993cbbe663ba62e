//! PostgreSQL's spellings that the engine does not know, and names with capitals: rewritten before planning.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Array, BinaryOperator, CastKind, DataType, ExactNumberInfo, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentList, FunctionArguments, Ident, Join, JoinOperator, ObjectName, ObjectNamePart, Query, SelectItem,
    SetExpr, Statement as SqlStatement, TableFactor, Value, VisitMut as _, VisitorMut,
};

use super::{lists, system};

/// Rewrites a statement. Unquoted names that are known with capitals keep them.
pub(super) fn rewrite(statement: &mut Statement, known: &HashSet<String>) {
    if let Statement::Statement(statement) = statement {
        let _done: ControlFlow<()> = SqlStatement::visit(statement, &mut Rewriter { known });
    }
}

struct Rewriter<'k> {
    known: &'k HashSet<String>,
}

impl Rewriter<'_> {
    fn keep(&self, name: &mut Ident) {
        if name.quote_style.is_none() && self.known.contains(&name.value) {
            name.quote_style = Some('"');
        }
    }
}

fn last_name(name: &ObjectName) -> Option<String> {
    match name.0.last()? {
        ObjectNamePart::Identifier(name) => Some(name.value.to_ascii_lowercase()),
        ObjectNamePart::Function(_) => None,
    }
}

fn is_catalog(part: &ObjectNamePart) -> bool {
    matches!(part, ObjectNamePart::Identifier(name) if name.value.eq_ignore_ascii_case("pg_catalog"))
}

/// A call of a function of one argument.
fn call(name: &str, argument: Expr) -> Expr {
    Expr::Function(Function {
        name: ObjectName(vec![ObjectNamePart::Identifier(Ident::new(name))]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))],
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// A type of the catalog by a type that the engine knows.
fn plain_type(name: &str) -> Option<DataType> {
    Some(match name {
        "text" | "name" | "regproc" | "regtype" | "regnamespace" | "char" | "bpchar" | "varchar" | "aclitem"
        | "unknown" => DataType::Text,
        "oid" | "xid" | "int8" => DataType::BigInt(None),
        "int2" => DataType::SmallInt(None),
        "int4" => DataType::Integer(None),
        "bool" => DataType::Boolean,
        "float4" => DataType::Real,
        "float8" => DataType::Double(ExactNumberInfo::None),
        _ => return None,
    })
}

/// Puts an array of nothing in the place of each `ARRAY(SELECT ...)`, which the engine does not know.
struct NoArrays;

impl VisitorMut for NoArrays {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if array_of(expr).is_some() {
            *expr = nothing();
        }
        ControlFlow::Continue(())
    }
}

/// The query of `ARRAY(SELECT ...)`.
fn array_of(expr: &Expr) -> Option<&Query> {
    match expr {
        Expr::Function(Function { name, args: FunctionArguments::Subquery(query), .. })
            if last_name(name).is_some_and(|name| name == "array") =>
        {
            Some(query)
        }
        _ => None,
    }
}

/// An array of nothing.
fn nothing() -> Expr {
    Expr::Array(Array { elem: vec![no_text()], named: true })
}

/// The expression that is cast.
fn uncast(expr: &Expr) -> &Expr {
    match expr {
        Expr::Cast { expr, .. } => uncast(expr),
        expr => expr,
    }
}

/// Divides the name of a column from what tells it apart from another one of that name.
const APART: char = '\u{2}';

/// The name that a column was given in the statement.
pub(super) fn given_name(name: &str) -> &str {
    name.split(APART).next().unwrap_or(name)
}

/// A name as the engine takes it.
fn spelled(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

/// Tells columns of one name apart: the engine wants no name twice, and names what has none by what it says, without
/// casts.
fn name_apart(body: &mut SetExpr) {
    let select = match body {
        SetExpr::Select(select) => select,
        SetExpr::SetOperation { left, right, .. } => {
            name_apart(left);
            return name_apart(right);
        }
        _ => return,
    };
    let (mut names, mut texts) = (HashSet::new(), HashSet::new());
    for (at, item) in select.projection.iter_mut().enumerate() {
        let (expr, name) = match item {
            SelectItem::ExprWithAlias { expr, alias } => (expr, spelled(alias)),
            SelectItem::UnnamedExpr(expr) => {
                let name = match expr {
                    Expr::Identifier(name) => Some(spelled(name)),
                    Expr::CompoundIdentifier(path) => path.last().map(spelled),
                    _ => None,
                };
                match name {
                    Some(name) => (expr, name),
                    None if texts.insert(uncast(expr).to_string()) => continue,
                    None => {
                        let alias = Ident::with_quote('"', format!("?column? {}", at + 1));
                        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
                        continue;
                    }
                }
            }
            _ => continue,
        };
        if !names.insert(name.clone()) {
            let alias = Ident::with_quote('"', format!("{name}{APART}{}", at + 1));
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
        }
    }
}

/// A text that is null.
fn no_text() -> Expr {
    Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(Expr::Value(Value::Null.into())),
        data_type: DataType::Text,
        array: false,
        format: None,
    }
}

/// Whether a query has no rows, because it joins others to a table of the catalog that is always empty, or to the options
/// of tables, which have none.
fn reads_nothing(query: &Query) -> bool {
    let SetExpr::Select(select) = query.body.as_ref() else { return false };
    let empty = |factor: &TableFactor| match factor {
        TableFactor::Table { name, .. } => {
            let is_empty = |name: String| system::is_always_empty(&name) || name == "unnest";
            name.0.first().is_some_and(is_catalog) && last_name(name).is_some_and(is_empty)
        }
        _ => false,
    };
    let inner = |join: &Join| {
        matches!(join.join_operator, JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::Left(_))
    };
    select.from.iter().any(|from| empty(&from.relation) && from.joins.iter().all(inner))
}

impl VisitorMut for Rewriter<'_> {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &mut ObjectName) -> ControlFlow<()> {
        // There is one database, whatever clients call it.
        if relation.0.len() == 3 {
            relation.0.remove(0);
        }
        for part in &mut relation.0 {
            if let ObjectNamePart::Identifier(name) = part {
                self.keep(name);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if reads_nothing(query) {
            // Without rows it does not matter what they would say.
            let _done: ControlFlow<()> = query.visit(&mut NoArrays);
        }
        if let SetExpr::Select(select) = query.body.as_mut() {
            for item in &mut select.projection {
                if let SelectItem::ExprWithAlias { alias, .. } = item {
                    self.keep(alias);
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        name_apart(&mut query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(name) => self.keep(name),
            Expr::CompoundIdentifier(names) => names.iter_mut().for_each(|name| self.keep(name)),
            Expr::Function(function) if function.name.0.len() == 2 && is_catalog(&function.name.0[0]) => {
                function.name.0.remove(0);
            }
            Expr::BinaryOp { op, .. } => {
                if let BinaryOperator::PGCustomBinaryOperator(parts) = op {
                    let plain = match parts.last().map(String::as_str) {
                        Some("~") => Some(BinaryOperator::PGRegexMatch),
                        Some("!~") => Some(BinaryOperator::PGRegexNotMatch),
                        Some("~*") => Some(BinaryOperator::PGRegexIMatch),
                        Some("!~*") => Some(BinaryOperator::PGRegexNotIMatch),
                        Some("=") => Some(BinaryOperator::Eq),
                        Some("<>") => Some(BinaryOperator::NotEq),
                        _ => None,
                    };
                    if let Some(plain) = plain {
                        *op = plain;
                    }
                }
            }
            Expr::Subquery(query) if reads_nothing(query) => {
                *expr = no_text();
            }
            Expr::AnyOp { .. } | Expr::AllOp { .. } => {
                if let Some(plain) = lists::in_list(expr).or_else(|| lists::not_any(expr)) {
                    *expr = plain;
                }
            }
            expr if array_of(expr).is_some_and(reads_nothing) => *expr = nothing(),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Collate { expr: inner, .. } => {
                let inner = std::mem::replace(inner.as_mut(), Expr::Value(Value::Null.into()));
                *expr = inner;
            }
            Expr::Cast { expr: inner, data_type, .. } => {
                let name = match data_type {
                    DataType::Regclass => Some("regclass".to_owned()),
                    DataType::Custom(name, _) => last_name(name),
                    _ => None,
                };
                match name.as_deref() {
                    Some("regclass") => {
                        let inner = std::mem::replace(inner.as_mut(), Expr::Value(Value::Null.into()));
                        let function = if matches!(inner, Expr::Value(_)) { "to_regclass" } else { "regclass_name" };
                        *expr = call(function, inner);
                    }
                    Some(name) => {
                        if let Some(plain) = plain_type(name) {
                            *data_type = plain;
                        }
                    }
                    None => {}
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
