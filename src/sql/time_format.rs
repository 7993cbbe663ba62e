//! Patterns of `to_char`: PostgreSQL's, which the engine spells as `strftime` does.

use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::scalar::ScalarValue;

/// Parts of patterns, longer ones before their starts.
const PARTS: [(&str, &str); 27] = [
    ("FMMonth", "%B"),
    ("FMDay", "%A"),
    ("FMMM", "%-m"),
    ("FMDD", "%-d"),
    ("FMHH24", "%-H"),
    ("FMHH12", "%-I"),
    ("IYYY", "%G"),
    ("YYYY", "%Y"),
    ("HH24", "%H"),
    ("HH12", "%I"),
    ("DDD", "%j"),
    ("Mon", "%b"),
    ("Dy", "%a"),
    ("YY", "%y"),
    ("MM", "%m"),
    ("DD", "%d"),
    ("HH", "%I"),
    ("MI", "%M"),
    ("SS", "%S"),
    ("MS", "%3f"),
    ("US", "%6f"),
    ("IW", "%V"),
    ("ID", "%u"),
    ("AM", "%p"),
    ("PM", "%p"),
    ("yyyy", "%Y"),
    ("dd", "%d"),
];

/// `to_char` with the engine's pattern.
///
/// # Errors
/// The pattern is no constant, or has parts that are not known: rather no answer than a wrong text.
pub(super) fn respelled(expr: Expr) -> Result<Expr> {
    let Expr::ScalarFunction(function) = &expr else { return Ok(expr) };
    if function.name() != "to_char" {
        return Ok(expr);
    }
    let [value, Expr::Literal(pattern, _)] = function.args.as_slice() else {
        return Err(DataFusionError::Plan("to_char takes a time and a constant pattern".to_owned()));
    };
    let Some(Some(pattern)) = pattern.try_as_str() else {
        return Err(DataFusionError::Plan("to_char takes a time and a constant pattern".to_owned()));
    };
    // Set already: a node is looked at once, but its columns may carry the expression of another.
    if pattern.contains('%') {
        return Ok(expr);
    }
    let spelled = spell(pattern).ok_or_else(|| {
        DataFusionError::Plan(format!("the pattern '{pattern}' of to_char has parts that are not supported"))
    })?;
    let pattern = Expr::Literal(ScalarValue::Utf8(Some(spelled)), None);
    Ok(Expr::ScalarFunction(ScalarFunction {
        func: std::sync::Arc::clone(&function.func),
        args: vec![value.clone(), pattern],
    }))
}

fn spell(pattern: &str) -> Option<String> {
    let (mut spelled, mut rest) = (String::new(), pattern);
    while let Some(letter) = rest.chars().next() {
        if let Some((part, meaning)) = PARTS.iter().find(|(part, _)| rest.starts_with(part)) {
            spelled.push_str(meaning);
            rest = &rest[part.len()..];
        } else if let Some(quoted) = rest.strip_prefix('"') {
            let end = quoted.find('"')?;
            spelled.push_str(&quoted[..end]);
            rest = &quoted[end + 1..];
        } else if letter.is_alphanumeric() && letter != 'T' {
            return None;
        } else {
            spelled.push(letter);
            rest = &rest[letter.len_utf8()..];
        }
    }
    Some(spelled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_respelled_or_refused() {
        let check =
            |pattern: &str, expected: Option<&str>| assert_eq!(spell(pattern).as_deref(), expected, "{pattern}");
        check("YYYY-MM-DD HH24:MI:SS.MS", Some("%Y-%m-%d %H:%M:%S.%3f"));
        check("YYYY-MM-DDTHH24:MI", Some("%Y-%m-%dT%H:%M"));
        check("\"W\"IW IYYY", Some("W%V %G"));
        check("FMMonth YY", Some("%B %y"));
        check("Month", None);
        check("Q", None);
        check("\"open", None);
    }
}
