//! SQL fragments of the model with references in braces, parsed once (`data-model.md` §2).
//!
//! [`pieces`] splits the text; [`super::symbols`] gives the references their meaning.

use super::cube::{CubeId, DimensionId, Grain, MemberId};

/// A fragment whose references are resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template {
    /// Text and references in order.
    pub parts: Vec<Part>,
}

/// A piece of a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// SQL text, taken over as it is.
    Text(String),
    /// `{CUBE}`, `{TABLE}` or `{other_cube}`: the alias of that cube's table. Another cube than the
    /// owner's joins that cube.
    Cube(CubeId),
    /// The cubes along which the member that follows is reached (`{orders.users.city}`); writes nothing.
    Path(Vec<CubeId>),
    /// `{member}`, `{CUBE.member}` or `{cube.member}`: the member's own SQL (a measure's: aggregated).
    Member(MemberId),
    /// `{time_dimension.granularity}`: converted to the query's zone and truncated.
    Time(DimensionId, Grain),
    /// `{cube.sql()}`: the cube's table, or its query in parentheses.
    Source(CubeId),
    /// `{FILTER_PARAMS…}` or `{FILTER_GROUP(…)}`: the query's conditions on these members, all at once.
    Filters(Vec<FilterParam>),
    /// `{SECURITY_CONTEXT…}`: something of who asks.
    Claim(Claim),
    /// `{SQL_UTILS.convertTz(…)}`: a time in the query's zone.
    Local(Box<Template>),
    /// A parameter of the function that the fragment is the body of.
    Parameter(usize),
}

/// One `FILTER_PARAMS.cube.member.filter(…)` (`data-model.md` §11.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterParam {
    /// The member whose conditions are meant.
    pub member: MemberId,
    /// What they are put on.
    pub column: FilterColumn,
}

/// The left side of a pushed condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterColumn {
    /// SQL text of a column.
    Column(String),
    /// A function of so many values; its body refers to them by [`Part::Parameter`].
    Function(usize, Template),
}

/// A use of `SECURITY_CONTEXT` (`data-model.md` §11.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Names from the context inward.
    pub path: Vec<String>,
    /// What is made of the value.
    pub usage: ClaimUse,
}

/// What is made of a value of the security context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimUse {
    /// The value, as a literal.
    Value,
    /// The value, as text of the statement: `unsafeValue()`.
    Unsafe,
    /// A condition: `filter(…)`, or `requiredFilter(…)` when set.
    Filter {
        /// What is compared.
        column: FilterColumn,
        /// Whether a missing value is an error.
        required: bool,
    },
}

impl Template {
    /// Plain SQL text.
    pub fn text(text: &str) -> Self {
        Self { parts: vec![Part::Text(text.to_owned())] }
    }

    /// The text when the whole fragment is one bare identifier: such a fragment is a column of the
    /// owning cube's table (`data-model.md` §2.2).
    pub fn as_column(&self) -> Option<&str> {
        self.as_text().map(str::trim).filter(|text| crate::names::is_identifier(text))
    }

    /// The text when the whole fragment is text.
    pub fn as_text(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [Part::Text(text)] => Some(text),
            [] => Some(""),
            _ => None,
        }
    }

    /// The member when the whole fragment is one reference.
    pub fn as_member(&self) -> Option<MemberId> {
        match self.parts.as_slice() {
            [Part::Member(member)] | [Part::Path(_), Part::Member(member)] => Some(*member),
            _ => None,
        }
    }

    /// The members referenced, in order.
    pub fn members(&self) -> impl Iterator<Item = MemberId> {
        self.parts.iter().flat_map(|part| match part {
            Part::Member(member) => vec![*member],
            Part::Time(dimension, _) => vec![MemberId::Dimension(*dimension)],
            Part::Local(inner) => inner.members().collect(),
            Part::Text(_)
            | Part::Cube(_)
            | Part::Path(_)
            | Part::Source(_)
            | Part::Filters(_)
            | Part::Claim(_)
            | Part::Parameter(_) => Vec::new(),
        })
    }

    /// Whether conditions of a query are written into its SQL (`FILTER_PARAMS`, `FILTER_GROUP`).
    pub fn reads_filters(&self) -> bool {
        self.parts.iter().any(|part| match part {
            Part::Filters(_) => true,
            Part::Local(inner) => inner.reads_filters(),
            _ => false,
        })
    }

    /// Whether its SQL depends on who asks.
    pub fn reads_claims(&self) -> bool {
        self.parts.iter().any(|part| match part {
            Part::Claim(_) => true,
            Part::Local(inner) => inner.reads_claims(),
            Part::Filters(params) => params.iter().any(|param| match &param.column {
                FilterColumn::Column(_) => false,
                FilterColumn::Function(_, body) => body.reads_claims(),
            }),
            _ => false,
        })
    }
}

/// A piece of a fragment before its names are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// SQL text with its escapes resolved.
    Text(String),
    /// `{…}`.
    Braced(Braced),
}

/// What stands between a pair of braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Braced {
    /// The text inside, trimmed.
    pub(super) content: String,
    /// How many opening braces, escaped ones too, stand before it in the fragment.
    pub(super) brace: usize,
}

/// Why a fragment cannot be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unbalanced {
    /// The opening brace of this number has no partner.
    Open(usize),
    /// A closing brace comes after this many opening ones, without a partner.
    Close(usize),
}

impl Unbalanced {
    /// The brace to point at.
    pub(super) fn brace(self) -> usize {
        match self {
            Self::Open(brace) => brace,
            Self::Close(braces) => braces.saturating_sub(1),
        }
    }

    /// What is wrong.
    pub(super) fn message(self) -> &'static str {
        match self {
            Self::Open(_) => "'{' without '}'",
            Self::Close(_) => "'}' without '{'",
        }
    }
}

/// Splits a fragment into text and braced references. `\\{` and `\\}` are braces of the text.
///
/// # Errors
/// Braces without partners.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece>, Unbalanced> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut braces = 0;
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '{', '}']) {
        plain.push_str(&rest[..at]);
        let tail = &rest[at..];
        if let Some(escaped) = tail.strip_prefix('\\') {
            let brace = escaped.chars().next().filter(|c| matches!(c, '{' | '}'));
            plain.push(brace.unwrap_or('\\'));
            braces += usize::from(brace == Some('{'));
            rest = &escaped[brace.map_or(0, char::len_utf8)..];
        } else if let Some(inner) = tail.strip_prefix('{') {
            let length = matching_brace(inner).ok_or(Unbalanced::Open(braces))?;
            let content = &inner[..length];
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Braced(Braced { content: content.trim().to_owned(), brace: braces }));
            braces += 1 + content.matches('{').count();
            rest = &inner[length + 1..];
        } else {
            return Err(Unbalanced::Close(braces));
        }
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(pieces)
}

/// Why a text that may hold no references is not plain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotPlain {
    /// It holds a reference.
    Reference(Braced),
    /// A brace has no partner.
    Unbalanced(Unbalanced),
}

/// The text with escapes resolved.
///
/// # Errors
/// The first brace that is not escaped.
pub(super) fn plain_text(text: &str) -> Result<String, NotPlain> {
    let mut plain = String::with_capacity(text.len());
    for piece in pieces(text).map_err(NotPlain::Unbalanced)? {
        match piece {
            Piece::Text(text) => plain.push_str(&text),
            Piece::Braced(braced) => return Err(NotPlain::Reference(braced)),
        }
    }
    Ok(plain)
}

/// Bytes before the brace that closes a group whose opening brace was just read. Braces in quoted texts inside do not
/// count.
pub(super) fn matching_brace(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            '\'' | '"' => at += quoted_length(&text[at..]).unwrap_or(1) - 1,
            _ => {}
        }
        at += c.len_utf8();
    }
    None
}

/// Bytes of a quoted text with both of its quotes, which `text` begins with.
fn quoted_length(text: &str) -> Option<usize> {
    let mut chars = text.char_indices();
    let (_, quote) = chars.next()?;
    let mut escaped = false;
    for (at, c) in chars {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// References in «…», so that braces of the text stay visible.
    #[track_caller]
    fn check(text: &str, expected: Result<&str, Unbalanced>) {
        let shown = pieces(text).map(|pieces| {
            let show = |piece: &Piece| match piece {
                Piece::Text(text) => text.clone(),
                Piece::Braced(braced) => format!("«{}:{}»", braced.brace, braced.content),
            };
            pieces.iter().map(show).collect::<String>()
        });
        assert_eq!(shown.as_deref().map_err(|e| *e), expected, "{text}");
    }

    #[test]
    fn fragments_split_at_braces() {
        check("amount", Ok("amount"));
        check("", Ok(""));
        check("{CUBE}.a + { users.id }", Ok("«0:CUBE».a + «1:users.id»"));
        check("{a}{b}", Ok("«0:a»«1:b»"));
        check("é {ü} é", Ok("é «0:ü» é"));
        check("{}", Ok("«0:»"));
    }

    #[test]
    fn escaped_braces_are_text_and_other_backslashes_stay() {
        check(r"'\{1,2\}' ~ {a}", Ok("'{1,2}' ~ «1:a»"));
        check(r"a \d {b} \", Ok(r"a \d «0:b» \"));
        check(r"\\{a}", Ok(r"\{a}").and(Err(Unbalanced::Close(1))));
    }

    #[test]
    fn braces_inside_references_pair_up() {
        check("{f({a}, {b})} {c}", Ok("«0:f({a}, {b})» «3:c»"));
        check(r#"{f(lambda x: f"a \} {x}")} b"#, Ok(r#"«0:f(lambda x: f"a \} {x}")» b"#));
        check("{f('}')}", Ok("«0:f('}')»"));
        check("{it's} {x}", Ok("«0:it's» «1:x»"));
    }

    #[test]
    fn braces_without_partners_are_faults() {
        check("a {b", Err(Unbalanced::Open(0)));
        check("{a} {b", Err(Unbalanced::Open(1)));
        check("a} {b}", Err(Unbalanced::Close(0)));
        check("{a} b}", Err(Unbalanced::Close(1)));
    }

    #[test]
    fn plain_texts_hold_no_references() {
        assert_eq!(plain_text(r"SELECT '\{\}'"), Ok("SELECT '{}'".to_owned()));
        assert_eq!(plain_text(r"\{ {x}"), Err(NotPlain::Reference(Braced { content: "x".to_owned(), brace: 1 })));
        assert_eq!(plain_text("a }"), Err(NotPlain::Unbalanced(Unbalanced::Close(0))));
    }

    fn template(parts: Vec<Part>) -> Template {
        Template { parts }
    }

    #[test]
    fn columns_and_lone_members_are_recognised() {
        let text = |text: &str| template(vec![Part::Text(text.to_owned())]);
        assert_eq!(text(" amount\n").as_column(), Some("amount"));
        assert_eq!(text("a + b").as_column(), None);
        assert_eq!(text("1a").as_column(), None);
        let member = MemberId::Measure(super::super::cube::MeasureId { cube: CubeId(0), index: 1 });
        assert_eq!(template(vec![Part::Member(member)]).as_member(), Some(member));
        assert_eq!(template(vec![Part::Member(member), Part::Text("*2".to_owned())]).as_member(), None);
        assert_eq!(template(vec![Part::Cube(CubeId(0)), Part::Text(".x".to_owned())]).as_column(), None);
    }
}
