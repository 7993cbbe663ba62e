//! Conditions as they are written in scripts → the same in the expression language of models, which is Python's.
//!
//! A condition on what is known per request only cannot be evaluated by running the script; its text can be read.

use super::tokens::{Kind, Token, tokens};

/// Deepest nesting that is read.
const MAX_DEPTH: usize = 32;

/// Reads names with dots, literals, `!`, `===`, `!==`, `==`, `!=`, `&&`, `||` and brackets, also as the body of an arrow
/// function. None for everything else, and when none of `names` occurs.
pub fn condition(source: &str, names: &[&str]) -> Option<String> {
    let tokens = tokens(source);
    let arrow = tokens.windows(2).position(|pair| pair[0].is_sign('=') && pair[1].is_sign('>'));
    let body = arrow.map_or(tokens.as_slice(), |at| &tokens[at + 2..]);
    let mut reader = Reader { tokens: body, at: 0, known: false, names };
    let read = reader.either(0)?;
    (reader.at == body.len() && reader.known).then_some(read.text)
}

/// An expression, and how strongly its parts hold together.
struct Read {
    text: String,
    strength: u8,
}

impl Read {
    fn within(self, strength: u8) -> String {
        if self.strength < strength { format!("({})", self.text) } else { self.text }
    }
}

struct Reader<'t, 's> {
    tokens: &'t [Token<'s>],
    at: usize,
    /// One of the names occurred.
    known: bool,
    names: &'t [&'t str],
}

impl Reader<'_, '_> {
    /// Takes these signs when they come next.
    fn take(&mut self, signs: &str) -> bool {
        let found = signs
            .chars()
            .enumerate()
            .all(|(offset, sign)| self.tokens.get(self.at + offset).is_some_and(|token| token.is_sign(sign)));
        self.at += if found { signs.len() } else { 0 };
        found
    }

    fn either(&mut self, depth: usize) -> Option<Read> {
        let mut read = self.both(depth)?;
        while self.take("||") {
            read = Read { text: format!("{} or {}", read.text, self.both(depth)?.text), strength: 0 };
        }
        Some(read)
    }

    fn both(&mut self, depth: usize) -> Option<Read> {
        let mut read = self.comparison(depth)?;
        while self.take("&&") {
            let right = self.comparison(depth)?.within(1);
            read = Read { text: format!("{} and {right}", read.within(1)), strength: 1 };
        }
        Some(read)
    }

    fn comparison(&mut self, depth: usize) -> Option<Read> {
        let left = self.operand(depth)?;
        let sign = if self.take("===") || self.take("==") {
            "=="
        } else if self.take("!==") || self.take("!=") {
            "!="
        } else {
            return Some(left);
        };
        let right = self.operand(depth)?.within(4);
        Some(Read { text: format!("{} {sign} {right}", left.within(4)), strength: 3 })
    }

    fn operand(&mut self, depth: usize) -> Option<Read> {
        if depth > MAX_DEPTH {
            return None;
        }
        if self.take("!") {
            let inner = self.operand(depth + 1)?;
            // Brackets also where they could be left out, around a comparison.
            let inner = if inner.strength == 2 { inner.text } else { inner.within(4) };
            return Some(Read { text: format!("not {inner}"), strength: 2 });
        }
        if self.take("(") {
            let inner = self.either(depth + 1)?;
            return self.take(")").then_some(inner);
        }
        let token = *self.tokens.get(self.at)?;
        self.at += 1;
        let text = match token.kind {
            Kind::Text => token.text.to_owned(),
            Kind::Number => token.text.to_owned(),
            Kind::Opaque if token.text.starts_with('`') && !token.text.contains("${") => {
                format!("'{}'", token.text.trim_matches('`').replace('\'', "\\'"))
            }
            Kind::Word => self.path(token.text)?,
            Kind::Opaque | Kind::Sign(_) => return None,
        };
        Some(Read { text, strength: 4 })
    }

    fn path(&mut self, first: &str) -> Option<String> {
        match first {
            "true" => return Some("True".to_owned()),
            "false" => return Some("False".to_owned()),
            "null" | "undefined" => return Some("None".to_owned()),
            "typeof" | "new" | "void" | "await" | "async" | "function" => return None,
            _ => {}
        }
        self.known |= self.names.contains(&first);
        let mut path = first.to_owned();
        while self.take("?.") || self.take(".") {
            let part = self.tokens.get(self.at).filter(|token| token.kind == Kind::Word)?;
            path.push('.');
            path.push_str(part.text);
            self.at += 1;
        }
        Some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expected: Option<&str>) {
        assert_eq!(condition(source, &["ctx"]).as_deref(), expected, "{source}");
    }

    #[test]
    fn conditions_are_written_anew() {
        check("ctx.active", Some("ctx.active"));
        check("ctx.role === 'admin'", Some("ctx.role == 'admin'"));
        check("`a` != ctx?.a?.b", Some("'a' != ctx.a.b"));
        check("!ctx.a && (ctx.b || ctx.c !== 1)", Some("not ctx.a and (ctx.b or ctx.c != 1)"));
        check("!(ctx.a === true) || ctx.b == null", Some("not (ctx.a == True) or ctx.b == None"));
        check("(ctx.a && ctx.b) || ctx.c", Some("ctx.a and ctx.b or ctx.c"));
        check("!!ctx.a", Some("not not ctx.a"));
        check("(ctx) => ctx.a === 2", Some("ctx.a == 2"));
        check("ctx => !ctx.a", Some("not ctx.a"));
    }

    #[test]
    fn other_texts_are_no_conditions() {
        for source in [
            "a.b",
            "'ctx'",
            "ctx.a > 1",
            "ctx.a + 1",
            "ctx.f()",
            "ctx[0]",
            "ctx.a ? 1 : 2",
            "() => { return ctx.a }",
            "ctx.a ===",
            "(ctx.a",
            "ctx.a)",
            "typeof ctx.a",
            "`${ctx.a}`",
            "",
            "ctx.a === ctx.b === ctx.c",
        ] {
            check(source, None);
        }
        check(&format!("{}ctx", "!".repeat(10_000)), None);
        check(&format!("{}ctx", "(".repeat(10_000)), None);
    }
}
