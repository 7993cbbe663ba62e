//! Plan → SQL text. The only place that writes SQL.
//!
//! Model SQL is trusted text and is passed through. A value of a request reaches the text only as a
//! [`Literal`]: kept beside the text, and written either as `$n` (for people, `/v1/sql`) or as a typed,
//! escaped literal (for the engine).

mod compose;
mod context;
mod copy;
mod expr;
mod filter;
mod key;
mod rollup;
mod source;
mod stages;
mod windows;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

pub use compose::{join_table, stored_columns, stored_time, union_table};
pub use copy::copy_statement;
pub use key::{clock_statement, key_statement};
pub use rollup::RollupScan;
pub use source::{Output, SourceSelect, column_alias, range_statement, rows_statement, source_statement};
pub use stages::{LeafSource, Origins, plan_statement, rollup_table};

use super::Value;
use crate::model::CubeId;
use crate::time::from_micros;

/// Tables that stand for cubes' own SQL, as they are written after FROM.
pub type CubeTables = BTreeMap<CubeId, String>;

/// A constant of a request, typed.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// Text.
    Text(String),
    /// A checked number, as written.
    Number(String),
    /// A truth value.
    Boolean(bool),
    /// A timestamp without zone, in microseconds.
    Timestamp(i64),
}

impl From<&Value> for Literal {
    fn from(value: &Value) -> Self {
        match value {
            Value::Text(text) => Self::Text(text.clone()),
            Value::Number(number) => Self::Number(number.clone()),
            Value::Boolean(truth) => Self::Boolean(*truth),
            Value::Time(micros) => Self::Timestamp(*micros),
        }
    }
}

impl Literal {
    /// The SQL literal.
    fn to_sql(&self) -> String {
        match self {
            Self::Text(text) => format!("'{}'", text.replace('\'', "''")),
            // A sign would glue to a preceding minus and start a comment.
            Self::Number(number) if number.starts_with('-') => format!("({number})"),
            Self::Number(number) => number.clone(),
            Self::Boolean(true) => "TRUE".to_owned(),
            Self::Boolean(false) => "FALSE".to_owned(),
            Self::Timestamp(micros) => {
                let text = from_micros(*micros).format("%Y-%m-%dT%H:%M:%S%.6f");
                // Plain literals are nanoseconds, which end in 2262.
                let nanoseconds = 9_223_372_036_854_775;
                if (-nanoseconds..nanoseconds).contains(micros) {
                    format!("TIMESTAMP '{text}'")
                } else {
                    format!("arrow_cast({micros}, 'Timestamp(Microsecond, None)')")
                }
            }
        }
    }

    /// The parameter as `/v1/sql` shows it.
    fn to_param(&self) -> String {
        match self {
            Self::Text(text) | Self::Number(text) => text.clone(),
            Self::Boolean(truth) => truth.to_string(),
            Self::Timestamp(micros) => format!("{}Z", crate::time::format_local(*micros)),
        }
    }
}

/// A statement with its literals beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    text: String,
    literals: Vec<Literal>,
    /// Why it must not run.
    fault: Option<String>,
}

/// Starts a literal's place in a text under construction; the literal's number and [`MARK_END`] follow.
/// YAML does not allow these characters, so model SQL cannot hold them.
const MARK: char = '\u{1}';
const MARK_END: char = '\u{2}';

impl Statement {
    fn new(text: String, literals: Literals) -> Self {
        Self { text, literals: literals.list.into_inner(), fault: literals.fault.into_inner() }
    }

    /// The statement, when it may run.
    ///
    /// # Errors
    /// A value that the model requires is missing from the security context.
    pub fn checked(self) -> Result<Self, super::QueryError> {
        match &self.fault {
            Some(fault) => Err(super::QueryError::Model(fault.clone())),
            None => Ok(self),
        }
    }

    /// The text with every literal written out, for the engine.
    pub fn inlined(&self) -> String {
        self.render(|index| self.literals.get(index).map(Literal::to_sql).unwrap_or_default())
    }

    /// The text with `$1`… and the parameters, for people.
    pub fn bound(&self) -> (String, Vec<String>) {
        (self.render(|index| format!("${}", index + 1)), self.literals.iter().map(Literal::to_param).collect())
    }

    /// The same rows counted, without order and limit: `self` must have been made without them.
    pub fn counted(&self) -> Self {
        Self {
            text: format!("SELECT count(*) AS \"total_count\" FROM ({}) AS \"original_query\"", self.text),
            literals: self.literals.clone(),
            fault: self.fault.clone(),
        }
    }

    /// The same rows, those of the latest time first; `column` is one of the statement's.
    pub fn latest_first(&self, column: &str) -> Self {
        let text = format!("SELECT * FROM ({}) AS \"rows\" ORDER BY {} DESC", self.text, quote(column));
        Self { text, literals: self.literals.clone(), fault: self.fault.clone() }
    }

    fn render(&self, write: impl Fn(usize) -> String) -> String {
        let mut out = String::with_capacity(self.text.len() + 64);
        let mut rest = self.text.as_str();
        while let Some((before, after)) = rest.split_once(MARK) {
            out.push_str(before);
            let (number, after) = after.split_once(MARK_END).unwrap_or((after, ""));
            if let Ok(index) = number.parse() {
                out.push_str(&write(index));
            }
            rest = after;
        }
        out.push_str(rest);
        out
    }
}

/// The first rows of a table as they are, at most `rows`.
pub fn first_rows(table: &str, rows: usize) -> String {
    format!("SELECT * FROM {table} LIMIT {rows}")
}

/// A table of a schema, quoted.
pub fn qualified(schema: &str, table: &str) -> String {
    format!("{}.{}", quote(schema), quote(table))
}

/// The literals of a statement under construction.
#[derive(Debug, Default)]
struct Literals {
    list: RefCell<Vec<Literal>>,
    /// Tables that stand for cubes' own SQL.
    cubes: CubeTables,
    /// The first thing that makes the statement one that must not run.
    fault: RefCell<Option<String>>,
    /// In how many plans stands what is being written.
    depth: Cell<usize>,
}

impl Literals {
    fn over(cubes: &CubeTables) -> Self {
        Self { cubes: cubes.clone(), ..Self::default() }
    }

    /// A place for the literal in the text; equal literals share a number.
    fn place(&self, literal: Literal) -> String {
        let mut literals = self.list.borrow_mut();
        let index = literals.iter().position(|known| *known == literal).unwrap_or_else(|| {
            literals.push(literal);
            literals.len() - 1
        });
        format!("{MARK}{index}{MARK_END}")
    }

    /// Makes the statement one that must not run.
    fn fail(&self, fault: String) {
        self.fault.borrow_mut().get_or_insert(fault);
    }
}

/// A quoted identifier.
fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// A quoted text of the model or a zone's name.
fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Equal, or both NULL. In parentheses: the engine's parser takes what follows for a part of the right side.
fn same(left: &str, right: &str) -> String {
    format!("({left} IS NOT DISTINCT FROM {right})")
}

/// `ORDER BY`, `LIMIT`, `OFFSET` of a query. One row needs no order.
fn tail(query: &super::Query) -> String {
    use std::fmt::Write as _;
    let mut sql = String::new();
    let one_row = !query.ungrouped && query.group_columns().is_empty();
    for (position, key) in query.order.iter().filter(|_| !one_row).enumerate() {
        sql.push_str(if position == 0 { " ORDER BY " } else { ", " });
        let direction = if key.descending { "DESC NULLS FIRST" } else { "ASC NULLS LAST" };
        let _ = write!(sql, "{} {direction}", key.column + 1);
    }
    if let Some(limit) = query.limit {
        let _ = write!(sql, " LIMIT {limit}");
    }
    if query.offset > 0 {
        let _ = write!(sql, " OFFSET {}", query.offset);
    }
    sql
}

/// `GROUP BY 1, 2…`; nothing without columns.
fn group_by(columns: usize) -> String {
    if columns == 0 {
        return String::new();
    }
    let ordinals: Vec<String> = (1..=columns).map(|n| n.to_string()).collect();
    format!(" GROUP BY {}", ordinals.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_escaped_or_numbered() {
        let literals = Literals::default();
        let a = literals.place(Literal::Text("O'Brien $1".to_owned()));
        let b = literals.place(Literal::Number("-5".to_owned()));
        let again = literals.place(Literal::Text("O'Brien $1".to_owned()));
        let statement = Statement::new(format!("a = {a} AND b = 3-{b} AND c = {again}"), literals);
        assert_eq!(statement.inlined(), "a = 'O''Brien $1' AND b = 3-(-5) AND c = 'O''Brien $1'");
        let (text, params) = statement.bound();
        assert_eq!(text, "a = $1 AND b = 3-$2 AND c = $1");
        assert_eq!(params, ["O'Brien $1", "-5"]);
    }

    #[test]
    fn timestamps_beyond_nanoseconds_are_cast() {
        assert_eq!(Literal::Timestamp(0).to_sql(), "TIMESTAMP '1970-01-01T00:00:00.000000'");
        assert!(Literal::Timestamp(253_402_300_799_000_000).to_sql().starts_with("arrow_cast("));
    }
}
