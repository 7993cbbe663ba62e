//! Approximate percentiles among calculated measures: `approx_percentile_cont(x, 0.9)`,
//! `approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY x)`, `approx_median(x)`.
//!
//! Whoever writes one of these has asked for an estimate, so that it may be merged from stored sketches. An exact
//! percentile (`percentile_cont`, `median`) is another measure and stays what it is.

use super::template::{Part, Template};

/// An approximate percentile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantile {
    /// Of which values.
    pub argument: Template,
    /// How far through them, from 0 to 1, as it is written.
    pub at: String,
}

/// Stands for a part that is no text. YAML does not allow it, so that no text holds it.
const PLACE: char = '\u{1}';

impl Quantile {
    /// What a fragment asks for, when it is nothing but one of these calls.
    pub fn of(sql: &Template) -> Option<Self> {
        let flat: String = sql
            .parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.clone(),
                _ => PLACE.to_string(),
            })
            .collect();
        let (name, rest) = flat.trim().split_once('(')?;
        let (arguments, rest) = inside(rest)?;
        let (argument, at) = match (name.trim().to_ascii_lowercase().as_str(), arguments.as_slice()) {
            ("approx_median", [argument]) if rest.is_empty() => (*argument, "0.5"),
            ("approx_percentile_cont", [argument, at]) if rest.is_empty() => (*argument, *at),
            ("approx_percentile_cont", [at]) => (within_group(rest)?, *at),
            _ => return None,
        };
        let at = at.trim();
        let share: f64 = at.parse().ok()?;
        if !(0.0..=1.0).contains(&share) || at.starts_with(['-', '+']) {
            return None;
        }
        Some(Self { argument: rebuild(sql, &flat, argument)?, at: at.to_owned() })
    }
}

/// The arguments up to the parenthesis that closes them, and what follows it.
fn inside(text: &str) -> Option<(Vec<&str>, &str)> {
    let (mut depth, mut start, mut quote) = (0_usize, 0, None);
    let mut arguments = Vec::new();
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') if depth == 0 => {
                arguments.push(&text[start..at]);
                return Some((arguments, text[at + 1..].trim()));
            }
            (None, ')') => depth -= 1,
            (None, ',') if depth == 0 => {
                arguments.push(&text[start..at]);
                start = at + 1;
            }
            // What follows is no part of the expression.
            (None, '-') if text[at..].starts_with("--") => return None,
            (None, _) => {}
        }
    }
    None
}

/// `x` of `WITHIN GROUP (ORDER BY x)`.
fn within_group(text: &str) -> Option<&str> {
    let (words, rest) = text.split_once('(')?;
    let (arguments, rest) = inside(rest)?;
    let [ordered] = arguments.as_slice() else { return None };
    let group = words.split_whitespace().map(str::to_ascii_lowercase).collect::<Vec<_>>() == ["within", "group"];
    let ordered = keyword(keyword(ordered.trim_start(), "order")?, "by")?.trim();
    // A direction would turn the percentile around.
    let last = ordered.rsplit(|c: char| c.is_whitespace() || c == ')').next().unwrap_or_default();
    let plain = !["asc", "desc", "first", "last"].contains(&last.to_ascii_lowercase().as_str());
    (group && rest.is_empty() && plain).then_some(ordered)
}

/// The text after a word and blanks.
fn keyword<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(word.len())?;
    (head.eq_ignore_ascii_case(word) && rest.starts_with(char::is_whitespace)).then(|| rest.trim_start())
}

/// The parts of a piece of the text.
fn rebuild(sql: &Template, flat: &str, piece: &str) -> Option<Template> {
    let start = piece.as_ptr().addr().checked_sub(flat.as_ptr().addr())?;
    let before = flat.get(..start)?.chars().filter(|c| *c == PLACE).count();
    let mut others = sql.parts.iter().filter(|part| !matches!(part, Part::Text(_))).skip(before);
    let mut parts = Vec::new();
    for (position, text) in piece.trim().split(PLACE).enumerate() {
        if position > 0 {
            parts.push(others.next()?.clone());
        }
        if !text.is_empty() {
            parts.push(Part::Text(text.to_owned()));
        }
    }
    (!parts.is_empty()).then_some(Template { parts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CubeId;

    fn text(sql: &str) -> Option<(String, String)> {
        let found = Quantile::of(&Template::text(sql))?;
        Some((found.argument.as_text()?.to_owned(), found.at))
    }

    #[track_caller]
    fn check(sql: &str, argument: &str, at: &str) {
        assert_eq!(text(sql), Some((argument.to_owned(), at.to_owned())), "{sql}");
    }

    #[test]
    fn approximate_percentiles_are_recognised() {
        check("approx_percentile_cont(price, 0.9)", "price", "0.9");
        check("  APPROX_PERCENTILE_CONT( coalesce(price, 0) * 2 , 0.25 ) ", "coalesce(price, 0) * 2", "0.25");
        check("approx_percentile_cont(0.5) within group (order by price)", "price", "0.5");
        check("approx_percentile_cont(1) WITHIN  GROUP (ORDER BY (a + b))", "(a + b)", "1");
        check("approx_median(\"odd, name)\")", "\"odd, name)\"", "0.5");
    }

    #[test]
    fn references_stay_references() {
        let cube = |text: &str| vec![Part::Cube(CubeId(1)), Part::Text(text.to_owned())];
        let mut parts = vec![Part::Text("approx_percentile_cont(".to_owned())];
        parts.extend(cube(".price * "));
        parts.extend(cube(".rate, 0.9)"));
        let found = Quantile::of(&Template { parts }).expect("a percentile");
        assert_eq!(found.argument.parts, [cube(".price * "), cube(".rate")].concat());
    }

    #[test]
    fn everything_else_is_not() {
        for sql in [
            "percentile_cont(0.9) WITHIN GROUP (ORDER BY price)",
            "median(price)",
            "approx_percentile_cont(price, 0.9) + 1",
            "approx_percentile_cont(price, 0.9, 100)",
            "approx_percentile_cont(price, 1.5)",
            "approx_percentile_cont(price, -0)",
            "approx_percentile_cont(price, share)",
            "approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY price DESC)",
            "approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY a, b)",
            "approx_percentile_cont(0.9) FILTER (WHERE x)",
            "approx_median(price) -- the middle",
            "approx_median(",
            "",
        ] {
            assert_eq!(text(sql), None, "{sql}");
        }
    }
}
