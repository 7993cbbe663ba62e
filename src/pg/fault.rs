//! Errors as PostgreSQL's clients know them: SQLSTATE and text.

use pgwire::error::{ErrorInfo, PgWireError};

use crate::engine::EngineError;
use crate::query::QueryError;
use crate::sql::SqlError;

/// An error of that code.
pub(super) fn fault(code: &str, text: impl Into<String>) -> PgWireError {
    PgWireError::UserError(Box::new(ErrorInfo::new("ERROR".to_owned(), code.to_owned(), text.into())))
}

/// An error that ends the connection.
pub(super) fn fatal(code: &str, text: impl Into<String>) -> PgWireError {
    PgWireError::UserError(Box::new(ErrorInfo::new("FATAL".to_owned(), code.to_owned(), text.into())))
}

/// The code of an error that a value causes while a statement runs, by the engine's text.
fn of_value(text: &str) -> &'static str {
    if text == "division by zero" {
        "22012"
    } else if text.contains("Cannot cast string") || text.contains("Error parsing") {
        "22P02"
    } else if text.contains("verflow") {
        "22003"
    } else {
        "XX000"
    }
}

/// The code of an error of SQL.
fn code(error: &SqlError) -> &'static str {
    let of_text = |text: &str| {
        if text.starts_with("syntax error") {
            "42601"
        } else if text.contains("relation") && text.contains("does not exist") || text.contains("table '") {
            "42P01"
        } else if text.contains("No field named") || text.contains("column") {
            "42703"
        } else if text.starts_with("Invalid function") {
            "42883"
        } else if text.starts_with("not supported") {
            "0A000"
        } else {
            "42000"
        }
    };
    match error {
        SqlError::Syntax(_) => "42601",
        SqlError::Refused(_) => "0A000",
        SqlError::Engine(EngineError::Plan(text)) => of_text(text),
        SqlError::Engine(EngineError::Execution(text)) => of_value(text),
        SqlError::Engine(EngineError::ResourcesExhausted(_)) => "53200",
        SqlError::Query(QueryError::LimitExceeded) => "54000",
        SqlError::Query(QueryError::Engine(EngineError::ResourcesExhausted(_))) => "53200",
        SqlError::Query(QueryError::Engine(_)) => "XX000",
        SqlError::Query(_) => "42000",
    }
}

impl From<SqlError> for PgWireError {
    fn from(error: SqlError) -> Self {
        tracing::info!(%error, "statement refused");
        fault(code(&error), error.to_string())
    }
}
