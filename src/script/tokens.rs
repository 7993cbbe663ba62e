//! JavaScript text → tokens with their places. No parser: what is not understood is passed over, never a fault.

/// A line and a column in characters, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A name or a keyword.
    Word,
    /// A number.
    Number,
    /// A text in quotes, with them.
    Text,
    /// A template literal with its backquotes, or a regular expression.
    Opaque,
    /// One character of anything else.
    Sign(char),
}

/// A piece of the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'s> {
    pub(super) kind: Kind,
    pub(super) text: &'s str,
    /// Its first byte.
    pub(super) at: usize,
}

impl Token<'_> {
    pub(super) fn is_word(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text == word
    }

    pub(super) fn is_sign(&self, sign: char) -> bool {
        self.kind == Kind::Sign(sign)
    }
}

/// Finds the place of a byte.
#[derive(Debug)]
pub(super) struct Lines<'s> {
    source: &'s str,
    starts: Vec<usize>,
    is_ascii: bool,
}

impl<'s> Lines<'s> {
    pub(super) fn new(source: &'s str) -> Self {
        let starts = std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { source, starts, is_ascii: source.is_ascii() }
    }

    pub(super) fn position(&self, at: usize) -> Position {
        let line = self.starts.partition_point(|start| *start <= at);
        let start = self.starts[line.saturating_sub(1)];
        let before = if self.is_ascii { at - start } else { self.source[start..at].chars().count() };
        Position { line, column: before + 1 }
    }
}

/// Keywords after which `/` begins a regular expression.
const BEFORE_VALUES: [&str; 14] = [
    "return",
    "typeof",
    "case",
    "in",
    "of",
    "delete",
    "void",
    "throw",
    "new",
    "else",
    "do",
    "await",
    "yield",
    "instanceof",
];

/// All tokens; comments and blanks are left out.
pub(super) fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut found: Vec<Token<'_>> = Vec::new();
    let mut at = 0;
    while let Some(c) = source[at..].chars().next() {
        let rest = &source[at..];
        if let Some(length) = blank(rest, c) {
            at += length;
            continue;
        }
        let (kind, length) = match c {
            '"' | '\'' => (Kind::Text, quoted(rest, c)),
            '`' => (Kind::Opaque, template(rest)),
            '/' if begins_value(found.last()) => (Kind::Opaque, regex(rest)),
            _ if is_name(c) => (Kind::Word, run(rest, is_name)),
            _ if c.is_ascii_digit() => (Kind::Number, run(rest, |c| is_name(c) || c == '.')),
            _ => (Kind::Sign(c), c.len_utf8()),
        };
        found.push(Token { kind, text: &source[at..at + length], at });
        at += length;
    }
    found
}

/// Length of the blank or comment that the text begins with.
fn blank(rest: &str, c: char) -> Option<usize> {
    if rest.starts_with("//") || rest.starts_with("#!") {
        Some(rest.find('\n').unwrap_or(rest.len()))
    } else if let Some(inside) = rest.strip_prefix("/*") {
        Some(inside.find("*/").map_or(rest.len(), |end| end + 4))
    } else {
        (c.is_whitespace() || c == '\u{feff}').then_some(c.len_utf8())
    }
}

fn is_name(c: char) -> bool {
    c == '_' || c == '$' || c.is_alphanumeric()
}

fn run(rest: &str, belongs: impl Fn(char) -> bool) -> usize {
    rest.find(|c| !belongs(c)).unwrap_or(rest.len())
}

/// Whether a `/` behind this token begins a regular expression, not a division.
fn begins_value(before: Option<&Token<'_>>) -> bool {
    match before {
        None => true,
        Some(token) => match token.kind {
            Kind::Word => BEFORE_VALUES.contains(&token.text),
            Kind::Number | Kind::Text | Kind::Opaque => false,
            Kind::Sign(sign) => !matches!(sign, ')' | ']' | '}'),
        },
    }
}

/// Length of a quoted text; one that is not closed ends with its line.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\n' => return at,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Length of a regular expression with its flags; one that is not closed ends with its line.
fn regex(rest: &str) -> usize {
    let (mut escaped, mut in_class) = (false, false);
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => in_class = true,
            ']' => in_class = false,
            '\n' => return at,
            '/' if !in_class => return at + 1 + run(&rest[at + 1..], is_name),
            _ => {}
        }
    }
    rest.len()
}

/// Length of a template literal, the expressions inside included. A stack of its own: nesting costs no recursion.
fn template(rest: &str) -> usize {
    // Of each open template: how many braces of the expression in it are open; none while in its text.
    let mut open: Vec<Option<usize>> = vec![None];
    let mut at = 1;
    while let Some(c) = rest[at..].chars().next() {
        let here = &rest[at..];
        let Some(state) = open.last_mut() else { return at };
        let step = match (state, c) {
            (None, '\\') => 1 + here[1..].chars().next().map_or(0, char::len_utf8),
            (None, '`') => {
                open.pop();
                1
            }
            (state @ None, '$') if here.starts_with("${") => {
                *state = Some(0);
                2
            }
            (None, _) => c.len_utf8(),
            (Some(_), '`') => {
                open.push(None);
                1
            }
            (Some(_), '"' | '\'') => quoted(here, c),
            (Some(depth), '{') => {
                *depth += 1;
                1
            }
            (state @ Some(0), '}') => {
                *state = None;
                1
            }
            (Some(depth), '}') => {
                *depth -= 1;
                1
            }
            (Some(_), _) => {
                let comment = here.starts_with("//") || here.starts_with("/*");
                if comment { blank(here, c).unwrap_or(1) } else { c.len_utf8() }
            }
        };
        at += step;
    }
    at.min(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expected: &[&str]) {
        let found: Vec<&str> = tokens(source).iter().map(|token| token.text).collect();
        assert_eq!(found, expected, "{source}");
    }

    #[test]
    fn texts_comments_and_expressions_are_taken_whole() {
        check("a.b(1, 'x)') // c\n/* d */ e", &["a", ".", "b", "(", "1", ",", "'x)'", ")", "e"]);
        check("`a ${b(`c ${`}`} d`)} e` + f", &["`a ${b(`c ${`}`} d`)} e`", "+", "f"]);
        check("`${ {a: {}} }` x", &["`${ {a: {}} }`", "x"]);
        check("`\\`${'`'}` x", &["`\\`${'`'}`", "x"]);
        check("x = /[/`'\"]+\\//gi.test(y) / 2", &["x", "=", "/[/`'\"]+\\//gi", ".", "test", "(", "y", ")", "/", "2"]);
        check("return /a`/", &["return", "/a`/"]);
        check("#!/usr/bin/env node\na", &["a"]);
        check("'it\\'s' \"\\\"\"", &["'it\\'s'", "\"\\\"\""]);
    }

    #[test]
    fn broken_texts_end_somewhere() {
        for source in ["'abc", "`abc ${", "/* x", "/abc", "`a ${'", "\"é", "`é\\"] {
            assert_eq!(
                tokens(source).iter().map(|t| t.text).collect::<String>().trim(),
                source.trim_start_matches("/* x")
            );
        }
    }

    #[test]
    fn positions_count_characters() {
        let lines = Lines::new("é = 1\nx");
        assert_eq!(lines.position(0), Position { line: 1, column: 1 });
        assert_eq!(lines.position(3), Position { line: 1, column: 3 });
        assert_eq!(lines.position(7), Position { line: 2, column: 1 });
    }
}
