//! What a client of PostgreSQL's protocol may say beside queries: settings of the session, and transactions, which
//! change nothing here.

use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{
    DiscardObject, Expr, Reset, Set, SetSessionAuthorizationParamKind, Statement, Value,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::SqlError;

/// One statement of a client.
#[derive(Debug, Clone)]
pub enum Command {
    /// A query; everything that is none of the others is tried as one.
    Query(Box<Parsed>),
    /// `EXPLAIN query`
    Explain(Box<Parsed>),
    /// `SET name = value`; the default where none.
    Set(String, Option<String>),
    /// `SHOW name`
    Show(String),
    /// `RESET name`; all where none.
    Reset(Option<String>),
    /// `DISCARD ALL`
    Discard,
    /// `BEGIN`
    Begin,
    /// `COMMIT`
    Commit,
    /// `ROLLBACK`
    Rollback,
    /// `ROLLBACK TO SAVEPOINT name`
    RollBackTo,
    /// A command without effect here: its word.
    Idle(&'static str),
}

/// A query that was parsed.
#[derive(Debug, Clone)]
pub struct Parsed(pub(super) EngineStatement);

/// Most statements of one text.
const MOST_STATEMENTS: usize = 100;
/// Nesting that the parser follows.
const DEPTH: usize = 256;

/// The statements of a text.
///
/// # Errors
/// It does not parse, or holds too many.
pub fn commands(text: &str) -> Result<Vec<Command>, SqlError> {
    let dialect = PostgreSqlDialect {};
    let parsed = Parser::new(&dialect)
        .with_recursion_limit(DEPTH)
        .try_with_sql(text)
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|error| {
            let text = error.to_string();
            SqlError::Syntax(format!("syntax error: {}", text.trim_start_matches("sql parser error: ")))
        })?;
    if parsed.len() > MOST_STATEMENTS {
        return Err(SqlError::Refused(format!("at most {MOST_STATEMENTS} statements are taken at once")));
    }
    parsed.into_iter().map(command).collect()
}

fn command(statement: Statement) -> Result<Command, SqlError> {
    Ok(match statement {
        Statement::Explain { analyze, options, format, statement, .. } => {
            if analyze || format.is_some() || options.is_some() {
                let text =
                    "EXPLAIN is taken without ANALYZE, FORMAT and options: it tells where the answer would come from";
                return Err(SqlError::Refused(text.to_owned()));
            }
            Command::Explain(Box::new(Parsed(EngineStatement::Statement(statement))))
        }
        Statement::Set(set) => match set {
            Set::SingleAssignment { variable, values, .. } => {
                let values: Vec<String> = values.iter().map(text_of).collect();
                let value = values.join(", ");
                Command::Set(
                    variable.to_string().to_lowercase(),
                    (!value.eq_ignore_ascii_case("default")).then_some(value),
                )
            }
            Set::SetTimeZone { value, .. } => {
                let value = text_of(&value);
                Command::Set("timezone".to_owned(), (!value.eq_ignore_ascii_case("default")).then_some(value))
            }
            Set::SetSessionAuthorization(authorization) => Command::Set(
                "session_authorization".to_owned(),
                match authorization.kind {
                    SetSessionAuthorizationParamKind::Default => None,
                    SetSessionAuthorizationParamKind::User(name) => Some(name.value),
                },
            ),
            _ => Command::Idle("SET"),
        },
        Statement::ShowVariable { variable } => {
            let words: Vec<String> = variable.iter().map(|word| word.value.to_lowercase()).collect();
            let name = words.join("_");
            Command::Show(match name.as_str() {
                "time_zone" => "timezone".to_owned(),
                "transaction_isolation_level" => "transaction_isolation".to_owned(),
                _ => name,
            })
        }
        Statement::Reset(reset) => Command::Reset(match reset.reset {
            Reset::ALL => None,
            Reset::ConfigurationParameter(name) => Some(name.to_string().to_lowercase()),
        }),
        Statement::StartTransaction { .. } => Command::Begin,
        Statement::Commit { .. } => Command::Commit,
        Statement::Rollback { savepoint: Some(_), .. } => Command::RollBackTo,
        Statement::Rollback { .. } => Command::Rollback,
        Statement::Savepoint { .. } => Command::Idle("SAVEPOINT"),
        Statement::ReleaseSavepoint { .. } => Command::Idle("RELEASE"),
        Statement::Discard { object_type: DiscardObject::ALL } => Command::Discard,
        Statement::Discard { .. } => Command::Idle("DISCARD"),
        Statement::Deallocate { .. } => Command::Idle("DEALLOCATE"),
        Statement::Close { .. } => Command::Idle("CLOSE CURSOR"),
        Statement::LISTEN { .. } => Command::Idle("LISTEN"),
        Statement::UNLISTEN { .. } => Command::Idle("UNLISTEN"),
        other => Command::Query(Box::new(Parsed(EngineStatement::Statement(Box::new(other))))),
    })
}

/// A value of a setting, without quotes.
fn text_of(value: &Expr) -> String {
    match value {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) => text.clone(),
            other => other.to_string(),
        },
        Expr::Identifier(name) => name.value.clone(),
        other => other.to_string(),
    }
}

/// Whether a statement is a query.
pub(super) fn is_query(statement: &EngineStatement) -> bool {
    matches!(statement, EngineStatement::Statement(statement) if matches!(statement.as_ref(), Statement::Query(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_taken_apart() {
        let said = |text: &str| {
            let words = commands(text).expect("it parses").into_iter().map(|command| match command {
                Command::Query(_) => "query".to_owned(),
                Command::Explain(_) => "explain".to_owned(),
                Command::Set(name, value) => format!("{name}={}", value.unwrap_or_default()),
                Command::Show(name) => format!("show {name}"),
                Command::Reset(name) => format!("reset {}", name.unwrap_or_default()),
                Command::Discard => "discard".to_owned(),
                Command::Begin => "begin".to_owned(),
                Command::Commit => "commit".to_owned(),
                Command::Rollback => "rollback".to_owned(),
                Command::RollBackTo => "back to".to_owned(),
                Command::Idle(word) => word.to_owned(),
            });
            words.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(said("SELECT 1; SELECT ';'"), "query query");
        assert_eq!(said("BEGIN; SELECT 1; COMMIT"), "begin query commit");
        assert_eq!(said("BEGIN ISOLATION LEVEL READ COMMITTED; ROLLBACK"), "begin rollback");
        assert_eq!(said("SET TIME ZONE 'Europe/Berlin'"), "timezone=Europe/Berlin");
        assert_eq!(
            said("SHOW TRANSACTION ISOLATION LEVEL; SHOW TIME ZONE"),
            "show transaction_isolation show timezone"
        );
        assert_eq!(said("SET timezone TO 'UTC'; SET extra_float_digits = 3"), "timezone=UTC extra_float_digits=3");
        assert_eq!(said("SET user = 'other'; SET USER TO other; SET user TO DEFAULT"), "user=other user=other user=");
        assert_eq!(
            said("SET SESSION AUTHORIZATION other; SET SESSION AUTHORIZATION DEFAULT"),
            "session_authorization=other session_authorization="
        );
        assert_eq!(said("SET search_path TO DEFAULT"), "search_path=");
        assert_eq!(said("SHOW TIME ZONE; DISCARD ALL; "), "show timezone discard");
        assert_eq!(said("SAVEPOINT a; ROLLBACK TO SAVEPOINT a; ROLLBACK TO a"), "SAVEPOINT back to back to");
        assert_eq!(said("RESET Search_Path; RESET ALL; DISCARD PLANS"), "reset search_path reset  DISCARD");
        assert_eq!(said("EXPLAIN SELECT 1; DEALLOCATE ALL; SHOW ALL"), "explain DEALLOCATE show all");
        for refused in ["EXPLAIN ANALYZE SELECT 1", "EXPLAIN (ANALYZE) SELECT 1", "EXPLAIN FORMAT JSON SELECT 1"] {
            assert!(commands(refused).is_err(), "{refused}");
        }
        assert!(commands("SELEC 1").is_err());
        assert!(commands(&"SELECT 1;".repeat(101)).is_err());
    }
}
