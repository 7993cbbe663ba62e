//! Files with `import` and `export` statements → the body of a function with `require` and `exports`.
//!
//! All files are of one kind then, which may import each other in circles. Lines and columns stay: statements become
//! blanks, and what they mean goes into a prologue that stands in front of the first line.

use super::tokens::{Kind, Token, tokens};

/// A file as the body of a function.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Body {
    /// Without a line break.
    pub(super) prologue: String,
    pub(super) text: String,
    /// It imports or exports by statement.
    pub(super) is_module: bool,
}

/// Rewrites a file; one without such statements stays as it is.
pub(super) fn body(source: &str) -> Body {
    if !source.contains("import") && !source.contains("export") {
        return Body { prologue: String::new(), text: source.to_owned(), is_module: false };
    }
    let tokens = tokens(source);
    let mut rewriter = Rewriter {
        tokens: &tokens,
        prologue: String::new(),
        imports: String::new(),
        changes: Vec::new(),
        is_module: false,
    };
    rewriter.statements();
    let Rewriter { prologue, imports, changes, is_module, .. } = rewriter;
    Body { prologue: prologue + &imports, text: apply(source, &changes), is_module }
}

/// A range of bytes and what takes its place; it is filled up with blanks to the same length.
type Change = (usize, usize, &'static str);

fn apply(source: &str, changes: &[Change]) -> String {
    let mut text = String::with_capacity(source.len());
    let mut done = 0;
    for (start, end, replacement) in changes {
        text.push_str(&source[done..*start]);
        let mut replacement = replacement.chars();
        for c in source[*start..*end].chars() {
            text.push(if c == '\n' { c } else { replacement.next().unwrap_or(' ') });
        }
        text.extend(replacement);
        done = *end;
    }
    text.push_str(&source[done..]);
    text
}

struct Rewriter<'t, 's> {
    tokens: &'t [Token<'s>],
    /// Exports: they are there before anything runs.
    prologue: String,
    imports: String,
    changes: Vec<Change>,
    is_module: bool,
}

impl<'s> Rewriter<'_, 's> {
    fn statements(&mut self) {
        let (mut depth, mut index) = (0_usize, 0);
        while let Some(token) = self.tokens.get(index) {
            let is_property = index > 0 && self.tokens[index - 1].is_sign('.');
            let mut next = index + 1;
            match token.kind {
                Kind::Sign('{' | '(' | '[') => depth += 1,
                Kind::Sign('}' | ')' | ']') => depth = depth.saturating_sub(1),
                Kind::Word if token.text == "import" && self.is_sign(index + 1, '(') && !is_property => {
                    self.changes.push((token.at, end(token), "__dyn_"));
                }
                Kind::Word if depth == 0 && !is_property => {
                    let behind = match token.text {
                        "import" => self.import(index),
                        "export" => self.export(index),
                        _ => None,
                    };
                    self.is_module |= behind.is_some();
                    next = behind.unwrap_or(next);
                }
                _ => {}
            }
            index = next;
        }
    }

    fn token(&self, index: usize) -> Option<Token<'s>> {
        self.tokens.get(index).copied()
    }

    fn is_sign(&self, index: usize, sign: char) -> bool {
        self.token(index).is_some_and(|token| token.is_sign(sign))
    }

    fn is_word(&self, index: usize, word: &str) -> bool {
        self.token(index).is_some_and(|token| token.is_word(word))
    }

    fn word(&self, index: usize) -> Option<&'s str> {
        self.token(index).filter(|token| token.kind == Kind::Word).map(|token| token.text)
    }

    /// A text literal as it is written.
    fn literal(&self, index: usize) -> Option<&'s str> {
        self.token(index).filter(|token| token.kind == Kind::Text).map(|token| token.text)
    }

    /// Makes blanks of the tokens from one to before another; a `;` keeps what stands around them apart.
    fn blank(&mut self, from: usize, to: usize) {
        let (Some(first), Some(last)) = (self.token(from), self.token(to - 1)) else { return };
        self.changes.push((first.at, end(&last), ";"));
    }

    /// Behind a statement that ends here: attributes and a semicolon belong to it.
    fn statement_end(&self, mut index: usize) -> usize {
        if (self.is_word(index, "with") || self.is_word(index, "assert")) && self.is_sign(index + 1, '{') {
            while index < self.tokens.len() && !self.is_sign(index, '}') {
                index += 1;
            }
            index += 1;
        }
        if self.is_sign(index, ';') { index + 1 } else { index.min(self.tokens.len()) }
    }

    fn import(&mut self, start: usize) -> Option<usize> {
        let mut index = start + 1;
        let mut bindings = Vec::new();
        let mut names = Vec::new();
        let mut space = None;
        while self.literal(index).is_none() {
            if self.is_sign(index, '*') {
                space = Some(self.word(index + 2)?);
                index += 3;
            } else if self.is_sign(index, '{') {
                let (pairs, behind) = self.names(index)?;
                for (from, to) in pairs {
                    names.push(quoted(from));
                    bindings.push(format!("{}: {to}", quoted(from)));
                }
                index = behind;
            } else if self.is_sign(index, ',') || self.is_word(index, "from") {
                index += 1;
            } else {
                bindings.push(format!("default: {}", self.word(index)?));
                index += 1;
            }
        }
        let wanted = self.literal(index)?;
        let call = format!("__import({wanted}, [{}])", names.join(", "));
        self.imports.push_str(&match (space, bindings.as_slice()) {
            (None, []) => format!("{call};"),
            (None, _) => format!("const {{ {} }} = {call};", bindings.join(", ")),
            (Some(space), []) => format!("const {space} = {call};"),
            (Some(space), _) => format!("const {space} = {call}, {{ {} }} = {space};", bindings.join(", ")),
        });
        let behind = self.statement_end(index + 1);
        self.blank(start, behind);
        Some(behind)
    }

    /// `{ a, b as c }`: pairs of names, outside to inside for imports; and the index behind it.
    fn names(&self, open: usize) -> Option<(Vec<(&'s str, &'s str)>, usize)> {
        let mut pairs = Vec::new();
        let mut index = open + 1;
        while !self.is_sign(index, '}') {
            if self.is_sign(index, ',') {
                index += 1;
                continue;
            }
            let first = self.word(index).or_else(|| self.literal(index))?;
            if self.is_word(index + 1, "as") {
                pairs.push((first, self.word(index + 2).or_else(|| self.literal(index + 2))?));
                index += 3;
            } else {
                pairs.push((first, first));
                index += 1;
            }
        }
        Some((pairs, index + 1))
    }

    fn export(&mut self, start: usize) -> Option<usize> {
        let next = self.token(start + 1)?;
        match (next.kind, next.text) {
            (Kind::Word, "default") => self.export_default(start),
            (Kind::Word, "const" | "let" | "var") => {
                for name in self.declared(start + 2) {
                    self.getter(name, name);
                }
                self.blank(start, start + 1);
                Some(start + 2)
            }
            (Kind::Word, "function" | "async" | "class") => {
                let name = self.declared_name(start + 1)?;
                self.getter(name, name);
                self.blank(start, start + 1);
                Some(start + 2)
            }
            (Kind::Sign('{'), _) => {
                let (pairs, behind) = self.names(start + 1)?;
                let from = self.literal(behind + 1).filter(|_| self.is_word(behind, "from"));
                for (inside, outside) in pairs {
                    match from {
                        Some(wanted) => {
                            let inside = quoted(inside);
                            self.getter(outside, &format!("__import({wanted}, [{inside}])[{inside}]"));
                        }
                        None => self.getter(outside, inside),
                    }
                }
                if let Some(wanted) = from {
                    self.imports.push_str(&format!("__import({wanted});"));
                }
                let behind = self.statement_end(if from.is_some() { behind + 2 } else { behind });
                self.blank(start, behind);
                Some(behind)
            }
            (Kind::Sign('*'), _) => {
                let named = self.is_word(start + 2, "as");
                let from = if named { start + 4 } else { start + 2 };
                let wanted = self.literal(from + 1).filter(|_| self.is_word(from, "from"))?;
                match self.word(start + 3).filter(|_| named) {
                    Some(name) => self.getter(name, &format!("__import({wanted})")),
                    None => self.imports.push_str(&format!("__import.all(__e, {wanted});")),
                }
                let behind = self.statement_end(from + 2);
                self.blank(start, behind);
                Some(behind)
            }
            _ => None,
        }
    }

    fn export_default(&mut self, start: usize) -> Option<usize> {
        let declares = ["function", "async", "class"].iter().any(|word| self.is_word(start + 2, word));
        if let Some(name) = self.declared_name(start + 2).filter(|_| declares) {
            self.getter("default", name);
            self.blank(start, start + 2);
        } else {
            let (first, last) = (self.token(start)?, self.token(start + 1)?);
            self.changes.push((first.at, end(&last), "__e.default ="));
        }
        Some(start + 2)
    }

    fn getter(&mut self, name: &str, value: &str) {
        self.prologue.push_str(&format!("__import.get(__e, {}, () => {value});", quoted(name)));
    }

    /// The name of a function or class that is declared here.
    fn declared_name(&self, start: usize) -> Option<&'s str> {
        let mut index = start;
        while self.is_sign(index, '*') || ["async", "function", "class"].iter().any(|word| self.is_word(index, word)) {
            index += 1;
        }
        self.word(index).filter(|name| *name != "extends")
    }

    /// The names that `const` and the like declare.
    fn declared(&self, mut index: usize) -> Vec<&'s str> {
        let mut names = Vec::new();
        loop {
            index = self.pattern(index, &mut names);
            let mut depth = 0_usize;
            while let Some(token) = self.token(index) {
                match token.kind {
                    Kind::Sign('{' | '(' | '[') => depth += 1,
                    Kind::Sign('}' | ')' | ']') => depth = depth.saturating_sub(1),
                    Kind::Sign(',') if depth == 0 => break,
                    Kind::Sign(';') if depth == 0 => return names,
                    Kind::Word if depth == 0 && self.begins_statement(index) => return names,
                    _ => {}
                }
                index += 1;
            }
            if !self.is_sign(index, ',') {
                return names;
            }
            index += 1;
        }
    }

    /// Adds the names that a pattern binds; the index behind it.
    fn pattern(&self, start: usize, names: &mut Vec<&'s str>) -> usize {
        if let Some(name) = self.word(start) {
            names.push(name);
            return start + 1;
        }
        let (mut depth, mut index) = (0_usize, start);
        while let Some(token) = self.token(index) {
            match token.kind {
                Kind::Sign('{' | '[') => depth += 1,
                Kind::Sign('}' | ']') => depth = depth.saturating_sub(1),
                // Not a key, and not part of a default value.
                Kind::Word if !self.is_sign(index + 1, ':') && !self.is_sign(index - 1, '=') => names.push(token.text),
                _ => {}
            }
            index += 1;
            if depth == 0 {
                break;
            }
        }
        index
    }

    /// Whether a word at this place begins a statement, where no semicolon ended the one before: two values do not
    /// stand side by side in one.
    fn begins_statement(&self, index: usize) -> bool {
        const BETWEEN: [&str; 3] = ["in", "of", "instanceof"];
        const IN_FRONT: [&str; 10] =
            ["async", "new", "typeof", "await", "void", "delete", "yield", "function", "class", "extends"];
        let before = index.checked_sub(1).and_then(|before| self.token(before));
        let ended = before.is_some_and(|before| match before.kind {
            Kind::Sign(sign) => matches!(sign, ')' | ']' | '}'),
            Kind::Word => !IN_FRONT.contains(&before.text) && !BETWEEN.contains(&before.text),
            Kind::Number | Kind::Text | Kind::Opaque => true,
        });
        ended && !BETWEEN.iter().chain(&["extends"]).any(|word| self.is_word(index, word))
    }
}

fn end(token: &Token<'_>) -> usize {
    token.at + token.text.len()
}

/// A name as a key; texts are written as they are.
fn quoted(name: &str) -> String {
    if name.starts_with(['"', '\'']) { name.to_owned() } else { format!("\"{name}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, prologue: &str, text: &str) {
        let found = body(source);
        assert_eq!((found.prologue.as_str(), found.text.as_str()), (prologue, text), "{source}");
    }

    #[test]
    fn imports_go_to_the_prologue() {
        check("import a from './a';\nx", "const { default: a } = __import('./a', []);", ";                   \nx");
        check("import './a'", "__import('./a', []);", ";           ");
        check("import * as n from './a'", "const n = __import('./a', []);", ";                       ");
        check(
            "import d, {\n a, b as c,\n} from \"./a\" with { type: 'json' };x",
            "const { default: d, \"a\": a, \"b\": c } = __import(\"./a\", [\"a\", \"b\"]);",
            ";          \n           \n                                   x",
        );
        check("const a = 1\nimport('./a')", "", "const a = 1\n__dyn_('./a')");
    }

    #[test]
    fn exports_are_getters() {
        let get = |name: &str| format!("__import.get(__e, \"{name}\", () => {name});");
        check("export const a = 1, b = f(x, y);", &(get("a") + &get("b")), ";      const a = 1, b = f(x, y);");
        check(
            "export const { a, b: c, d: [e], f = g } = x",
            &(get("a") + &get("c") + &get("e") + &get("f")),
            ";      const { a, b: c, d: [e], f = g } = x",
        );
        check(
            "export const a = () => 1\nexport const b = function () {}\nf(1), g",
            &(get("a") + &get("b")),
            ";      const a = () => 1\n;      const b = function () {}\nf(1), g",
        );
        check("export async function f() {}", &get("f"), ";      async function f() {}");
        check("export class C {}", &get("C"), ";      class C {}");
        check(
            "export { a, b as default };",
            "__import.get(__e, \"a\", () => a);__import.get(__e, \"default\", () => b);",
            ";                          ",
        );
        check("export default {}", "", "__e.default =  {}");
        check(
            "export default function f() {}",
            "__import.get(__e, \"default\", () => f);",
            ";              function f() {}",
        );
        check("export default class extends A {}", "", "__e.default =  class extends A {}");
        check("export * from './a'", "__import.all(__e, './a');", ";                  ");
        check(
            "export { a as b } from './a'",
            "__import.get(__e, \"b\", () => __import('./a', [\"a\"])[\"a\"]);__import('./a');",
            ";                           ",
        );
    }

    #[test]
    fn other_words_stay() {
        for source in
            ["x.import; y.export", "cube('a', { export: 1, import: 2 })", "'import a'; // export b", "if (x) { f() }"]
        {
            check(source, "", source);
        }
        for broken in [
            "import",
            "import {",
            "export",
            "export {",
            "export default",
            "import a from",
            "export const",
            "import * as",
            "export * as x",
        ] {
            body(broken);
        }
    }
}
