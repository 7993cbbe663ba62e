//! The statement of a refresh key → SQL (`pre-aggregations.md` §6.4, §8.1).

use super::expr::{Base, Scope};
use super::{Literals, Statement};
use crate::model::{CubeId, Model, Template};
use crate::query::Query;

/// A refresh key of `owner`. Its `FILTER_PARAMS` are the ranges of the query's time dimensions.
pub fn key_statement(model: &Model, owner: CubeId, sql: &Template, query: &Query) -> Statement {
    let literals = Literals::default();
    let never = |_: CubeId| false;
    let scope = Scope { model, query, literals: &literals, base: Base::Rows { multiplied: &never } };
    let text = scope.template(owner, sql);
    Statement::new(text, literals)
}
