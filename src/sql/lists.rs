//! Lists in conditions as drivers write them: `x = ANY($1)` with an array for the parameter, `x = ANY('{a,b}')` and
//! `x = ANY(ARRAY['a', 'b'])`. All become the list of an `IN`, which questions can say.

use std::sync::Arc;

use arrow::array::Array as _;
use arrow::datatypes::{DataType as ArrowType, Field};
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{InList, Placeholder, ScalarFunction};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable as _, LogicalPlan, lit};
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr as Parsed, UnaryOperator, Value};

/// What the engine makes of `ANY` over an array.
const HAS: &str = "array_has";
/// What it makes of `ARRAY[...]`.
const MAKE: &str = "make_array";

/// The list that an array of constants in a text is: `x = ANY('{a,b}')` → `x IN ('a', 'b')`.
pub(super) fn in_list(expr: &Parsed) -> Option<Parsed> {
    let Parsed::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } = expr else { return None };
    let mut inner = right.as_ref();
    while let Parsed::Cast { expr, .. } | Parsed::Nested(expr) = inner {
        inner = expr;
    }
    let Parsed::Value(value) = inner else { return None };
    let Value::SingleQuotedString(text) = &value.value else { return None };
    let word = |item: Option<String>| item.map_or(Value::Null, Value::SingleQuotedString);
    let list = items(text)?.into_iter().map(|item| Parsed::Value(word(item).into())).collect();
    Some(Parsed::InList { expr: left.clone(), list, negated: false })
}

/// `x <> ALL(...)` as what it means: `NOT (x = ANY(...))`.
pub(super) fn not_any(expr: &Parsed) -> Option<Parsed> {
    let Parsed::AllOp { left, compare_op: BinaryOperator::NotEq, right } = expr else { return None };
    let (left, right) = (left.clone(), right.clone());
    let any = Parsed::AnyOp { left, compare_op: BinaryOperator::Eq, right, is_some: false };
    Some(Parsed::UnaryOp { op: UnaryOperator::Not, expr: Box::new(Parsed::Nested(Box::new(any))) })
}

/// The items of an array as PostgreSQL writes it in one dimension: `{a,"b c",NULL}`; none when it is none.
pub fn items(text: &str) -> Option<Vec<Option<String>>> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut items = Vec::new();
    let mut rest = inner.trim_start();
    if rest.is_empty() {
        return Some(items);
    }
    loop {
        let (item, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (item, after) = unquoted(quoted)?;
                (Some(item), after)
            }
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (word, after) = rest.split_at_checked(end)?;
                let word = word.trim_end();
                if word.is_empty() || word.contains(['{', '}', '"', '\\']) {
                    return None;
                }
                ((!word.eq_ignore_ascii_case("null")).then(|| word.to_owned()), after)
            }
        };
        items.push(item);
        match after.trim_start().strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None => return after.trim().is_empty().then_some(items),
        }
    }
}

/// A quoted item, whose first quote was taken, and what comes after its last.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut item = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((item, text.get(at + 1..)?)),
            '\\' => item.push(letters.next()?.1),
            letter => item.push(letter),
        }
    }
    None
}

/// The parameters that stand for arrays, by name, with the types of the arrays.
///
/// # Errors
/// The plan is not whole.
pub(super) fn array_parameters(plan: &LogicalPlan) -> Result<Vec<(String, ArrowType)>> {
    let mut found = Vec::new();
    plan.apply_with_subqueries(|node| {
        let schema = merge_schema(&node.inputs());
        node.apply_expressions(|expr| {
            expr.apply(|inner| {
                if let Some((Expr::Placeholder(Placeholder { id, .. }), sought)) = searched(inner)
                    && let Ok(item) = sought.get_type(&schema)
                {
                    found.push((id.clone(), ArrowType::List(Arc::new(Field::new_list_field(item, true)))));
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(found)
}

/// The array in which a condition looks for a value, and the value.
fn searched(expr: &Expr) -> Option<(&Expr, &Expr)> {
    match expr {
        Expr::ScalarFunction(ScalarFunction { func, args }) if func.name() == HAS => match args.as_slice() {
            [array, sought] => Some((array, sought)),
            _ => None,
        },
        _ => None,
    }
}

/// The plan with an `IN` for each search in an array of constants.
///
/// # Errors
/// A constant cannot be taken out of its array.
pub(super) fn spread(plan: LogicalPlan) -> Result<LogicalPlan> {
    let spread = plan.transform_up_with_subqueries(|node| {
        node.map_expressions(|expr| {
            expr.transform_up(|inner| {
                let Some((array, sought)) = searched(&inner) else { return Ok(Transformed::no(inner)) };
                let list = match array {
                    Expr::Literal(ScalarValue::List(array), _) => {
                        let constants = array.value(0);
                        let item = |at: usize| Ok(lit(ScalarValue::try_from_array(&constants, at)?));
                        (0..constants.len()).map(item).collect::<Result<Vec<Expr>>>()?
                    }
                    Expr::ScalarFunction(ScalarFunction { func, args })
                        if func.name() == MAKE && args.iter().all(|item| matches!(item, Expr::Literal(..))) =>
                    {
                        args.clone()
                    }
                    _ => return Ok(Transformed::no(inner)),
                };
                // Nothing is in a list without items, not even what is unknown.
                Ok(Transformed::yes(match list.is_empty() {
                    true => lit(false),
                    false => Expr::InList(InList::new(Box::new(sought.clone()), list, false)),
                }))
            })
        })
    })?;
    Ok(spread.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_read_as_postgresql_writes_them() {
        let check = |text: &str, expected: Option<&[Option<&str>]>| {
            let found = items(text);
            let found = found.as_ref().map(|items| items.iter().map(Option::as_deref).collect::<Vec<_>>());
            assert_eq!(found.as_deref(), expected, "{text}");
        };
        check("{}", Some(&[]));
        check("{1,2}", Some(&[Some("1"), Some("2")]));
        check(" { a , NULL,\"NULL\" } ", Some(&[Some("a"), None, Some("NULL")]));
        check(r#"{"a,\"b\" \\ c","",ü}"#, Some(&[Some(r#"a,"b" \ c"#), Some(""), Some("ü")]));
        for odd in ["", "1,2", "{1,}", "{,1}", "{{1},{2}}", "{\"a}", "{\"a\"b}", "{a\"b\"}", "{1}2"] {
            check(odd, None);
        }
    }
}
