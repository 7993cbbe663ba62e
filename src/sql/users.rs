//! Statements that name whom they are for: `WHERE __user = 'somebody'`.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Select, Value, Visit as _, Visitor};

use super::relation::USER;
use super::{Parsed, SqlError};

impl Parsed {
    /// Whom the statement is for, where its conditions say so.
    ///
    /// # Errors
    /// They name several.
    pub fn user(&self) -> Result<Option<String>, SqlError> {
        let EngineStatement::Statement(statement) = &self.0 else { return Ok(None) };
        let mut named = Named::default();
        let _done: ControlFlow<()> = statement.visit(&mut named);
        if named.0.len() > 1 {
            let names: Vec<String> = named.0.into_iter().collect();
            let names = names.join("', '");
            return Err(SqlError::Refused(format!("a statement is for one user, and this one is for '{names}'")));
        }
        Ok(named.0.pop_first())
    }
}

/// The users that conditions ask for.
#[derive(Default)]
struct Named(BTreeSet<String>);

impl Named {
    /// What must hold of all rows.
    fn look(&mut self, condition: &Expr) {
        match condition {
            Expr::Nested(inner) => self.look(inner),
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                self.look(left);
                self.look(right);
            }
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                let name = match (is_user(left), is_user(right)) {
                    (true, false) => text(right),
                    (false, true) => text(left),
                    _ => None,
                };
                self.0.extend(name);
            }
            _ => {}
        }
    }
}

impl Visitor for Named {
    type Break = ();

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        if let Some(condition) = &select.selection {
            self.look(condition);
        }
        ControlFlow::Continue(())
    }
}

fn is_user(expr: &Expr) -> bool {
    match expr {
        Expr::Identifier(name) => name.value == USER,
        Expr::CompoundIdentifier(names) => names.last().is_some_and(|name| name.value == USER),
        Expr::Nested(inner) => is_user(inner),
        _ => false,
    }
}

fn text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        Expr::Cast { expr, .. } | Expr::Nested(expr) => text(expr),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Command, commands};

    #[test]
    fn a_condition_that_all_rows_meet_names_the_user() {
        let of = |sql: &str| match commands(sql).expect("it parses").pop() {
            Some(Command::Query(parsed)) => parsed.user().map_err(|error| error.to_string()),
            other => panic!("{sql}: {other:?}"),
        };
        let named = |name: &str| Ok(Some(name.to_owned()));
        assert_eq!(of("SELECT 1 FROM a WHERE __user = 'x'"), named("x"));
        assert_eq!(of("SELECT 1 FROM a WHERE n > 1 AND ('x' = a.__user)"), named("x"));
        assert_eq!(of("SELECT 1 FROM (SELECT 1 FROM a WHERE __user = 'x') q JOIN b ON __user = 'y'"), named("x"));
        assert_eq!(of("SELECT 1 FROM a WHERE __user = 'x'::text AND __user = 'x'"), named("x"));
        for plain in ["__user = 'x' OR n = 1", "NOT __user = 'x'", "__user <> 'x'", "__user = status", "user = 'x'"] {
            assert_eq!(of(&format!("SELECT 1 FROM a WHERE {plain}")), Ok(None), "{plain}");
        }
        let several = of("SELECT 1 FROM a WHERE __user = 'x' AND __user = 'y'");
        assert!(several.is_err_and(|text| text.contains("'x', 'y'")));
    }
}
