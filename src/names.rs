//! Names as they stand in model files and requests: parsed once, at the edge, into types.
//!
//! A name here says only that its text is well formed; whether the thing exists is the
//! [`crate::model::Model`]'s knowledge.

use std::fmt;
use std::sync::Arc;

/// The text is not a name of the expected shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not {expected}")]
pub struct InvalidName {
    /// What was given.
    pub text: String,
    /// What was expected, e.g. `cube.member`.
    pub expected: &'static str,
}

/// Whether `text` matches `^[_a-zA-Z][_a-zA-Z0-9]*$`, the identifier rule of model files
/// (`data-model.md` §1.1).
pub fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b == b'_' || b.is_ascii_alphabetic())
        && bytes.all(|b| b == b'_' || b.is_ascii_alphanumeric())
}

/// `cube.member`, both halves non-empty and of letters, digits and `_`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberPath {
    text: Arc<str>,
    dot: usize,
}

impl MemberPath {
    /// The only constructor from text.
    ///
    /// # Errors
    /// When the text is not exactly two words joined by a dot.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric());
        match text.split_once('.') {
            Some((cube, member)) if word(cube) && word(member) => Ok(Self { text: Arc::from(text), dot: cube.len() }),
            _ => Err(InvalidName { text: text.to_owned(), expected: "cube.member" }),
        }
    }

    /// The part before the dot.
    pub fn cube(&self) -> &str {
        &self.text[..self.dot]
    }

    /// The part after the dot.
    pub fn member(&self) -> &str {
        &self.text[self.dot + 1..]
    }

    /// Both parts with the dot.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for MemberPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for MemberPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemberPath({})", self.text)
    }
}

/// The nearest of `candidates` to a mistyped `text`, for "did you mean" hints; none when nothing is near.
pub fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (text.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&text.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The column alias of a member path (`data-model.md` §12.1): an underscore before every capital,
/// lower case, `__` for the dot.
pub fn alias(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 8);
    for c in path.chars() {
        match c {
            '.' => out.push_str("__"),
            c if c.is_ascii_uppercase() => {
                out.push('_');
                out.push(c.to_ascii_lowercase());
            }
            c => out.push(c),
        }
    }
    match out.strip_prefix('_') {
        Some(rest) => rest.to_owned(),
        None => out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, valid: bool) {
        let parsed = MemberPath::parse(text);
        assert_eq!(parsed.is_ok(), valid, "{text}");
        if let Ok(path) = parsed {
            assert_eq!(format!("{}.{}", path.cube(), path.member()), text);
        }
    }

    #[test]
    fn member_paths_have_two_words() {
        check("orders.count", true);
        check("Orders_2.total_7d", true);
        check("orders", false);
        check("orders.", false);
        check(".count", false);
        check("orders.created_at.day", false);
        check("orders.cou nt", false);
        check("örders.count", false);
    }

    #[test]
    fn nearest_finds_typos_and_not_strangers() {
        let known = ["sql_table", "sql", "dimensions", "measures"];
        assert_eq!(nearest("sql_tabel", known), Some("sql_table"));
        assert_eq!(nearest("Measures", known), Some("measures"));
        assert_eq!(nearest("colour", known), None);
    }
}
