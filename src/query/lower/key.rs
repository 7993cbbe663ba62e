//! The statement of a refresh key → SQL (`pre-aggregations.md` §6.4, §8.1).

use std::fmt::Write as _;

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

/// A key that the clock gives, in the words in which Cube asks a database for it. All are in seconds: the length of the
/// intervals, how long after 1970 one of them begins, and how far the zone is ahead of UTC.
pub fn clock_statement((seconds, start): (i64, i64), ahead: i64) -> String {
    let mut passed = "EXTRACT(EPOCH FROM NOW())".to_owned();
    if ahead != 0 {
        passed.insert_str(0, &format!("{ahead} + "));
    }
    if start != 0 {
        // Writing to a text does not fail.
        let _ = write!(passed, " - {start}");
    }
    format!("SELECT FLOOR(({passed}) / {seconds}) as refresh_key")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As recorded of Cube.
    #[test]
    fn keys_of_the_clock_are_written_as_cube_does() {
        let now = "EXTRACT(EPOCH FROM NOW())";
        let check = |interval, ahead, expected: String| {
            assert_eq!(clock_statement(interval, ahead), format!("SELECT FLOOR({expected}) as refresh_key"));
        };
        check((10, 0), 0, format!("({now}) / 10"));
        check((3600, 0), 0, format!("({now}) / 3600"));
        check((86400, 0), 19800, format!("(19800 + {now}) / 86400"));
        check((86400, 28800), -18000, format!("(-18000 + {now} - 28800) / 86400"));
    }
}
