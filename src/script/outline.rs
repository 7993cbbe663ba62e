//! What a file's text shows without running it: where its loops and imports stand, and the keys of the object literals
//! that it hands to functions. Tolerant: what is not understood is left out.

use super::tokens::{Kind, Lines, Position, Token, tokens};

/// Deepest nesting of literals that is looked into.
const MAX_DEPTH: usize = 64;

/// Where a value and the parts of it stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Where it begins.
    pub at: Position,
    /// Its bytes in the text; empty for what has no value of its own there.
    pub text: std::ops::Range<usize>,
    /// What is inside.
    pub parts: Parts,
}

/// The parts of a literal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parts {
    /// An object literal: keys, their places and values; computed keys and spread objects are left out.
    Object(Vec<(String, Position, Shape)>),
    /// A list literal; spread lists are left out.
    List(Vec<Shape>),
    /// Something else.
    Other,
}

impl Shape {
    /// The place and value of a key.
    pub fn key(&self, key: &str) -> Option<(Position, &Self)> {
        match &self.parts {
            Parts::Object(keys) => keys.iter().rev().find(|(k, _, _)| k == key).map(|(_, at, shape)| (*at, shape)),
            Parts::List(_) | Parts::Other => None,
        }
    }

    /// An item of a list.
    pub fn item(&self, index: usize) -> Option<&Self> {
        match &self.parts {
            Parts::List(items) => items.get(index),
            Parts::Object(_) | Parts::Other => None,
        }
    }
}

/// A call as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The function's name.
    pub function: String,
    /// Where the name stands.
    pub at: Position,
    /// Where its closing bracket stands.
    pub end: Position,
    /// Its arguments.
    pub arguments: Vec<Shape>,
}

/// Calls of functions of these names, in the order of the text.
pub fn calls(source: &str, functions: &[&str]) -> Vec<Call> {
    let (tokens, lines) = (tokens(source), Lines::new(source));
    let reader = Reader { tokens: &tokens, lines: &lines };
    let mut found = Vec::new();
    for (index, pair) in tokens.windows(2).enumerate() {
        let is_member = index > 0 && (tokens[index - 1].is_sign('.') || tokens[index - 1].is_word("function"));
        if pair[0].kind == Kind::Word && pair[1].is_sign('(') && functions.contains(&pair[0].text) && !is_member {
            let (arguments, behind) = reader.list(index + 2, ')', 0);
            let at = lines.position(pair[0].at);
            found.push(Call { function: pair[0].text.to_owned(), at, end: reader.place(behind - 1), arguments });
        }
    }
    found
}

/// The place of a byte.
pub fn position(source: &str, at: usize) -> Position {
    Lines::new(source).position(at)
}

/// Where a text literal of this content stands, after `import`, `from` or `require(` when there is such a place.
pub(super) fn import_of(source: &str, specifier: &str) -> Option<Position> {
    let (tokens, lines) = (tokens(source), Lines::new(source));
    let is_it = |token: &Token<'_>| match token.kind {
        Kind::Text | Kind::Opaque => token.text.get(1..token.text.len() - 1) == Some(specifier),
        _ => false,
    };
    let imported = (1..tokens.len()).find(|&index| {
        let before = &tokens[index - 1];
        is_it(&tokens[index]) && (before.is_word("from") || before.is_word("import") || before.is_sign('('))
    });
    let at = imported.or_else(|| tokens.iter().position(is_it))?;
    Some(lines.position(tokens[at].at))
}

/// The loop that a script which stopped at `at` is in, as far as its text shows: the engine knows places of calls only,
/// so that it names the last one before a loop without any.
pub(super) fn loop_behind(source: &str, at: Position) -> Option<Position> {
    let loops = loops(source);
    let is_inside = loops.iter().any(|(start, end)| (*start..=*end).contains(&at));
    loops.into_iter().map(|(start, _)| start).find(|start| *start >= at).filter(|_| !is_inside)
}

/// Where the loop begins, when there is only one.
pub(super) fn only_loop(source: &str) -> Option<Position> {
    match loops(source).as_slice() {
        [(start, _)] => Some(*start),
        _ => None,
    }
}

/// Where loops begin and end.
fn loops(source: &str) -> Vec<(Position, Position)> {
    let (tokens, lines) = (tokens(source), Lines::new(source));
    let reader = Reader { tokens: &tokens, lines: &lines };
    let is_loop = |index: &usize| {
        let is_property = *index > 0 && tokens[index - 1].is_sign('.') || reader.is_sign(index + 1, ':');
        ["for", "while", "do"].iter().any(|word| tokens[*index].is_word(word)) && !is_property
    };
    let place = |index: usize| (lines.position(tokens[index].at), reader.place(reader.end_of_loop(index)));
    (0..tokens.len()).filter(is_loop).map(place).collect()
}

struct Reader<'t, 's> {
    tokens: &'t [Token<'s>],
    lines: &'t Lines<'s>,
}

impl Reader<'_, '_> {
    fn place(&self, index: usize) -> Position {
        let at = self.tokens.get(index).or(self.tokens.last()).map_or(0, |token| token.at);
        self.lines.position(at)
    }

    fn is_sign(&self, index: usize, sign: char) -> bool {
        self.tokens.get(index).is_some_and(|token| token.is_sign(sign))
    }

    /// The last token of a loop: its head in brackets and one statement.
    fn end_of_loop(&self, index: usize) -> usize {
        let mut depth = 0_usize;
        for (at, token) in self.tokens.iter().enumerate().skip(index + 1) {
            match token.kind {
                Kind::Sign('{' | '(' | '[') => depth += 1,
                Kind::Sign('}') if depth <= 1 => return at,
                Kind::Sign('}' | ')' | ']') => depth = depth.saturating_sub(1),
                Kind::Sign(';') if depth == 0 => return at,
                _ => {}
            }
        }
        self.tokens.len()
    }

    /// The value that begins here, and the index behind it: of a comma, a closing sign, or the end.
    fn value(&self, index: usize, depth: usize) -> (Shape, usize) {
        let at = self.place(index);
        let (parts, inner) = match self.tokens.get(index).map(|token| token.kind) {
            Some(Kind::Sign('{')) if depth < MAX_DEPTH => self.object(index + 1, depth + 1),
            Some(Kind::Sign('[')) if depth < MAX_DEPTH => {
                let (items, end) = self.list(index + 1, ']', depth + 1);
                (Parts::List(items), end)
            }
            _ => (Parts::Other, index),
        };
        let end = self.skip(inner);
        // `{…}.x` or `[…].map(…)`: not the literal itself.
        let parts = if end > inner { Parts::Other } else { parts };
        let last = self.tokens.get(end.saturating_sub(1)).filter(|_| end > index);
        let start = self.tokens.get(index).map_or(0, |token| token.at);
        let text = start..last.map_or(start, |token| token.at + token.text.len());
        (Shape { at, text, parts }, end)
    }

    /// Passes over the rest of a value.
    fn skip(&self, mut index: usize) -> usize {
        let mut depth = 0_usize;
        while let Some(token) = self.tokens.get(index) {
            match token.kind {
                Kind::Sign(',' | '}' | ')' | ']') if depth == 0 => break,
                Kind::Sign('{' | '(' | '[') => depth += 1,
                Kind::Sign('}' | ')' | ']') => depth -= 1,
                _ => {}
            }
            index += 1;
        }
        index
    }

    /// The items up to the closing sign, and the index behind it.
    fn list(&self, mut index: usize, close: char, depth: usize) -> (Vec<Shape>, usize) {
        let mut items = Vec::new();
        while index < self.tokens.len() && !self.is_sign(index, close) {
            let spread = self.is_sign(index, '.');
            let (item, end) = self.value(index, depth);
            if !spread {
                items.push(item);
            }
            // A stray closing sign ends the list too.
            index = if self.is_sign(end, ',') { end + 1 } else { end };
            if !self.is_sign(end, ',') {
                break;
            }
        }
        (items, index + usize::from(self.is_sign(index, close)))
    }

    /// The keys of an object literal whose `{` was read, and the index behind its `}`.
    fn object(&self, mut index: usize, depth: usize) -> (Parts, usize) {
        let mut keys = Vec::new();
        while let Some(token) = self.tokens.get(index) {
            if token.is_sign('}') {
                return (Parts::Object(keys), index + 1);
            }
            // `async`, `get`, `set` and `*` in front of a key.
            let next = self.tokens.get(index + 1).map(|next| next.kind);
            let modifies =
                token.kind == Kind::Word && matches!(next, Some(Kind::Word | Kind::Text | Kind::Sign('[' | '*')));
            if modifies || token.is_sign('*') {
                index += 1;
                continue;
            }
            let key = match token.kind {
                Kind::Word | Kind::Number => Some(token.text.to_owned()),
                Kind::Text => token.text.get(1..token.text.len().saturating_sub(1)).map(str::to_owned),
                _ => None,
            };
            let at = self.lines.position(token.at);
            let (shape, end) = match key {
                Some(_) if self.is_sign(index + 1, ':') => self.value(index + 2, depth),
                _ => (Shape { at, text: token.at..token.at, parts: Parts::Other }, self.skip(index)),
            };
            if let Some(key) = key {
                keys.push((key, at, shape));
            }
            if self.is_sign(end, ',') {
                index = end + 1;
            } else if self.is_sign(end, '}') {
                index = end;
            } else {
                return (Parts::Object(keys), end);
            }
        }
        (Parts::Object(keys), index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(shape: &Shape) -> String {
        let at = format!("{}:{}", shape.at.line, shape.at.column);
        match &shape.parts {
            Parts::Other => at,
            Parts::List(items) => format!("{at}[{}]", items.iter().map(render).collect::<Vec<_>>().join(" ")),
            Parts::Object(keys) => {
                let keys: Vec<_> =
                    keys.iter().map(|(k, at, v)| format!("{k}@{}:{}={}", at.line, at.column, render(v))).collect();
                format!("{at}{{{}}}", keys.join(" "))
            }
        }
    }

    #[track_caller]
    fn check(source: &str, expected: &str) {
        let found: Vec<_> = calls(source, &["cube", "view"])
            .iter()
            .map(|call| {
                let arguments: Vec<_> = call.arguments.iter().map(render).collect();
                format!("{}@{}:{}({})", call.function, call.at.line, call.at.column, arguments.join(", "))
            })
            .collect();
        assert_eq!(found.join("\n"), expected, "{source}");
    }

    #[test]
    fn keys_of_literals_have_their_places() {
        check(
            "cube(`a`, {\n  sql: `x`,\n  m: { n: { type: 'c' } },\n});",
            "cube@1:1(1:6, 1:11{sql@2:3=2:8 m@3:3=3:6{n@3:8=3:11{type@3:13=3:19}}})",
        );
        check("view('v', {a: [1, {b: 2}, ...x]})", "view@1:1(1:6, 1:11{a@1:12=1:15[1:16 1:19{b@1:20=1:23}]})");
        check(
            "cube({ 'a b': 1, c, d() { return {x: 1}; }, ...e, [f]: {g: 2}, async h() {}, i: 3 })",
            "cube@1:1(1:6{a b@1:8=1:15 c@1:18=1:18 d@1:21=1:21 h@1:70=1:70 i@1:78=1:81})",
        );
        check(
            "cube('a', { f: (a, b) => ({ x: 1 }), g: {...h}.i, j: [1].map(k) })",
            "cube@1:1(1:6, 1:11{f@1:13=1:16 g@1:38=1:41 j@1:51=1:54})",
        );
    }

    #[test]
    fn other_calls_and_texts_are_passed_over() {
        check("x.cube('a', {b: 1}); function cube(a) {} // cube('c', {})\n'cube(1)'", "");
        check("[1].map((n) => cube(n, { a: 1 }))", "cube@1:16(1:21, 1:24{a@1:26=1:29})");
    }

    #[test]
    fn broken_literals_are_read_as_far_as_they_go() {
        check("cube('a', { b: { c: 1", "cube@1:1(1:6, 1:11{b@1:13=1:16{c@1:18=1:21}})");
        check("cube(", "cube@1:1()");
        check("cube('a', { b: ] })", "cube@1:1(1:6, 1:11{b@1:13=1:16})");
        let deep = format!("cube({}", "{a:".repeat(10_000));
        assert_eq!(calls(&deep, &["cube"]).len(), 1);
    }

    #[test]
    fn loops_without_calls_are_found_behind_the_last_place() {
        let behind =
            |source, line, column| loop_behind(source, Position { line, column }).map(|at| (at.line, at.column));
        assert_eq!(behind("let n = f();\nwhile (true) { n += 1 }", 1, 9), Some((2, 1)));
        assert_eq!(behind("for (;;) { f() }\nfor (;;) {}", 1, 12), None);
        assert_eq!(behind("x.for(1); f({ while: 1 })", 1, 1), None);
        assert_eq!(behind("for (;;) n++;\nf(); do { } while (1)", 2, 1), Some((2, 6)));
    }

    #[test]
    fn imports_are_found_by_what_they_name() {
        let at = |source, specifier| import_of(source, specifier).map(|at| (at.line, at.column));
        assert_eq!(at("const x = './a';\nimport y from './a'", "./a"), Some((2, 15)));
        assert_eq!(at("\n  require(`./a`)", "./a"), Some((2, 11)));
        assert_eq!(at("const x = './a'", "./a"), Some((1, 11)));
        assert_eq!(at("x", "./a"), None);
    }
}
