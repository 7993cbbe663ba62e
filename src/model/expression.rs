//! Expressions between braces: the part of Python that models use (`data-model.md` §1.2).
//!
//! Names, dots, calls with positional arguments, texts, f-strings, numbers, `lambda`, `not`, `and`, `or`, `==`, `!=`.

use std::fmt;

use serde_json::Value as Json;

use super::template::matching_brace;

/// Deepest nesting of an expression.
const MAX_DEPTH: usize = 64;

/// A parsed expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// A name.
    Name(String),
    /// `of.name`.
    Attribute(Box<Expr>, String),
    /// `function(arguments)`.
    Call(Box<Expr>, Vec<Expr>),
    /// A text.
    Text(String),
    /// An f-string.
    Format(Vec<FormatPart>),
    /// A number, as it is written.
    Number(String),
    /// `lambda names: body`.
    Lambda(Vec<String>, Box<Expr>),
    /// `not x`.
    Not(Box<Expr>),
    /// `a and b`.
    And(Box<Expr>, Box<Expr>),
    /// `a or b`.
    Or(Box<Expr>, Box<Expr>),
    /// `a == b`, or `a != b` when the flag is false.
    Equal(Box<Expr>, Box<Expr>, bool),
}

/// A piece of an f-string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FormatPart {
    /// Text.
    Text(String),
    /// `{…}`.
    Value(Expr),
}

/// A text that is not such an expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Can't parse python expression. Most likely this type of syntax isn't supported yet: {reason}")]
pub struct NotAnExpression {
    /// What is in the way.
    pub reason: String,
}

impl Expr {
    /// Reads one expression.
    ///
    /// # Errors
    /// Anything else stands in the text.
    pub fn parse(text: &str) -> Result<Self, NotAnExpression> {
        let tokens = tokens(text)?;
        let mut parser = Parser { tokens: &tokens, at: 0, depth: 0 };
        let expression = parser.lambda()?;
        match parser.peek() {
            Token::End => Ok(expression),
            other => Err(error(format!("unexpected {other} in '{}'", text.trim()))),
        }
    }

    /// Reads a text with `{…}` in it as an f-string; a text without is a text.
    ///
    /// # Errors
    /// Braces without partners, or something else than an expression between them.
    pub fn format(text: &str) -> Result<Self, NotAnExpression> {
        let parts = format_parts(text)?;
        Ok(match parts.as_slice() {
            [] => Self::Text(String::new()),
            [FormatPart::Text(plain)] => Self::Text(plain.clone()),
            _ => Self::Format(parts),
        })
    }

    /// All names joined by dots in it.
    pub fn paths(&self) -> Vec<Vec<&str>> {
        if let Some(path) = self.path() {
            return vec![path];
        }
        match self {
            Self::Name(_) | Self::Text(_) | Self::Number(_) => Vec::new(),
            Self::Attribute(of, _) | Self::Not(of) | Self::Lambda(_, of) => of.paths(),
            Self::Call(of, arguments) => of.paths().into_iter().chain(arguments.iter().flat_map(Self::paths)).collect(),
            Self::Format(parts) => parts
                .iter()
                .flat_map(|part| match part {
                    FormatPart::Text(_) => Vec::new(),
                    FormatPart::Value(value) => value.paths(),
                })
                .collect(),
            Self::And(a, b) | Self::Or(a, b) | Self::Equal(a, b, _) => a.paths().into_iter().chain(b.paths()).collect(),
        }
    }

    /// Names joined by dots, when it is nothing else: `a.b.c`.
    pub fn path(&self) -> Option<Vec<&str>> {
        match self {
            Self::Name(name) => Some(vec![name]),
            Self::Attribute(of, name) => {
                let mut path = of.path()?;
                path.push(name);
                Some(path)
            }
            _ => None,
        }
    }

    /// Evaluates it over data; `root` gives the value of a path, with whatever it cannot find as null.
    ///
    /// # Errors
    /// It calls something, or defines a function.
    pub fn evaluate(&self, root: &dyn Fn(&[&str]) -> Option<Json>) -> Result<Json, NotAnExpression> {
        let constant = |path: &[&str]| match path {
            ["True" | "true"] => Some(Json::Bool(true)),
            ["False" | "false"] => Some(Json::Bool(false)),
            ["None" | "null"] => Some(Json::Null),
            _ => None,
        };
        Ok(match self {
            Self::Name(_) | Self::Attribute(..) => match self.path() {
                Some(path) => constant(&path).or_else(|| root(&path)).unwrap_or(Json::Null),
                None => return Err(error("only names joined by dots can be looked up".to_owned())),
            },
            Self::Text(text) => Json::String(text.clone()),
            Self::Number(number) => serde_json::from_str(number).unwrap_or(Json::Null),
            Self::Format(parts) => {
                let mut text = String::new();
                for part in parts {
                    match part {
                        FormatPart::Text(plain) => text.push_str(plain),
                        FormatPart::Value(value) => text.push_str(&plain_text(&value.evaluate(root)?)),
                    }
                }
                Json::String(text)
            }
            Self::Not(value) => Json::Bool(!is_true(&value.evaluate(root)?)),
            Self::And(a, b) => {
                let a = a.evaluate(root)?;
                if is_true(&a) { b.evaluate(root)? } else { a }
            }
            Self::Or(a, b) => {
                let a = a.evaluate(root)?;
                if is_true(&a) { a } else { b.evaluate(root)? }
            }
            Self::Equal(a, b, equal) => Json::Bool((a.evaluate(root)? == b.evaluate(root)?) == *equal),
            Self::Call(..) => return Err(error("calls are not possible here".to_owned())),
            Self::Lambda(..) => return Err(error("functions are not possible here".to_owned())),
        })
    }
}

/// What counts as true: everything but false, null, zero, the empty text and the empty list.
pub fn is_true(value: &Json) -> bool {
    match value {
        Json::Null => false,
        Json::Bool(truth) => *truth,
        Json::Number(number) => number.as_f64() != Some(0.0),
        Json::String(text) => !text.is_empty(),
        Json::Array(list) => !list.is_empty(),
        Json::Object(_) => true,
    }
}

/// A value as it stands in a text: lists joined by commas, missing values as `undefined` (§10.1).
pub fn plain_text(value: &Json) -> String {
    match value {
        Json::Null => "undefined".to_owned(),
        Json::String(text) => text.clone(),
        Json::Array(list) => list.iter().map(plain_text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn error(reason: String) -> NotAnExpression {
    NotAnExpression { reason }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Name(String),
    Number(String),
    Text(String),
    Format(Vec<FormatPart>),
    Dot,
    Comma,
    Open,
    Close,
    Colon,
    Equal,
    NotEqual,
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "'{name}'"),
            Self::Number(number) => write!(f, "'{number}'"),
            Self::Text(_) | Self::Format(_) => f.write_str("a text"),
            Self::Dot => f.write_str("'.'"),
            Self::Comma => f.write_str("','"),
            Self::Open => f.write_str("'('"),
            Self::Close => f.write_str("')'"),
            Self::Colon => f.write_str("':'"),
            Self::Equal => f.write_str("'=='"),
            Self::NotEqual => f.write_str("'!='"),
            Self::End => f.write_str("end"),
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, NotAnExpression> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '.' => (Token::Dot, 1),
            ',' => (Token::Comma, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ':' => (Token::Colon, 1),
            '=' if rest.starts_with("==") => (Token::Equal, 2),
            '!' if rest.starts_with("!=") => (Token::NotEqual, 2),
            '\'' | '"' => {
                let (body, length) = quoted(rest)?;
                (Token::Text(unescape(body)), length)
            }
            'f' | 'F' if rest[1..].starts_with(['\'', '"']) => {
                let (body, length) = quoted(&rest[1..])?;
                (Token::Format(format_parts(body)?), length + 1)
            }
            c if c.is_ascii_digit() => {
                let length = rest.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(rest.len());
                (Token::Number(rest[..length].to_owned()), length)
            }
            c if c == '_' || c.is_ascii_alphabetic() => {
                let length = rest.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
                (Token::Name(rest[..length].to_owned()), length)
            }
            other => return Err(error(format!("'{other}' in '{}'", text.trim()))),
        };
        found.push(token);
        rest = rest[length..].trim_start();
    }
    found.push(Token::End);
    Ok(found)
}

/// The text between the quotes that `text` begins with, and the length with both quotes.
fn quoted(text: &str) -> Result<(&str, usize), NotAnExpression> {
    let quote = text.chars().next().unwrap_or('"');
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Ok((&text[1..at], at + 1)),
            _ => {}
        }
    }
    Err(error(format!("a text that does not end: {text}")))
}

fn unescape(body: &str) -> String {
    let mut text = String::with_capacity(body.len());
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => text.push('\n'),
                Some('r') => text.push('\r'),
                Some('t') => text.push('\t'),
                Some(c @ ('\\' | '\'' | '"' | '{' | '}')) => text.push(c),
                Some(other) => text.extend(['\\', other]),
                None => text.push('\\'),
            },
            (c, false) => text.push(c),
        }
    }
    text
}

/// Splits the body of an f-string. Braces are doubled or escaped by a backslash when they are text.
fn format_parts(body: &str) -> Result<Vec<FormatPart>, NotAnExpression> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = body;
    while let Some(at) = rest.find(['\\', '{', '}']) {
        plain.push_str(&rest[..at]);
        let tail = &rest[at..];
        let mut chars = tail.chars();
        match (chars.next(), chars.next()) {
            (Some('\\'), Some(next)) => {
                plain.push_str(&unescape(&tail[..1 + next.len_utf8()]));
                rest = &tail[1 + next.len_utf8()..];
            }
            (Some(brace @ ('{' | '}')), Some(next)) if brace == next => {
                plain.push(brace);
                rest = &tail[2..];
            }
            (Some('{'), _) => {
                let Some(end) = matching_brace(&tail[1..]) else { return Err(error("'{' without '}'".to_owned())) };
                if !plain.is_empty() {
                    parts.push(FormatPart::Text(std::mem::take(&mut plain)));
                }
                parts.push(FormatPart::Value(Expr::parse(&tail[1..=end])?));
                rest = &tail[end + 2..];
            }
            (Some('}'), _) => return Err(error("'}' without '{'".to_owned())),
            _ => {
                plain.push_str(&tail[..1]);
                rest = &tail[1..];
            }
        }
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        parts.push(FormatPart::Text(plain));
    }
    Ok(parts)
}

struct Parser<'t> {
    tokens: &'t [Token],
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).unwrap_or(&Token::End)
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn take_if(&mut self, wanted: &Token) -> bool {
        let found = self.peek() == wanted;
        self.at += usize::from(found);
        found
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Token::Name(name) if name == word);
        self.at += usize::from(found);
        found
    }

    fn lambda(&mut self) -> Result<Expr, NotAnExpression> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(error(format!("it nests deeper than {MAX_DEPTH} levels")));
        }
        let expression = if self.take_word("lambda") { self.lambda_rest() } else { self.or() };
        self.depth -= 1;
        expression
    }

    fn lambda_rest(&mut self) -> Result<Expr, NotAnExpression> {
        let mut names = Vec::new();
        if self.take_if(&Token::Colon) {
            return Ok(Expr::Lambda(names, Box::new(self.lambda()?)));
        }
        loop {
            match self.take() {
                Token::Name(name) => names.push(name),
                other => return Err(error(format!("a parameter's name was expected, not {other}"))),
            }
            match self.take() {
                Token::Comma => {}
                Token::Colon => return Ok(Expr::Lambda(names, Box::new(self.lambda()?))),
                other => return Err(error(format!("':' was expected after the parameters, not {other}"))),
            }
        }
    }

    fn or(&mut self) -> Result<Expr, NotAnExpression> {
        let mut left = self.and()?;
        while self.take_word("or") {
            left = Expr::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr, NotAnExpression> {
        let mut left = self.not()?;
        while self.take_word("and") {
            left = Expr::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expr, NotAnExpression> {
        let mut negations = 0_usize;
        while self.take_word("not") {
            negations += 1;
        }
        let value = self.comparison()?;
        Ok((0..negations.min(MAX_DEPTH)).fold(value, |value, _| Expr::Not(Box::new(value))))
    }

    fn comparison(&mut self) -> Result<Expr, NotAnExpression> {
        let left = self.call()?;
        let equal = match self.peek() {
            Token::Equal => true,
            Token::NotEqual => false,
            _ => return Ok(left),
        };
        self.at += 1;
        let right = self.call()?;
        if matches!(self.peek(), Token::Equal | Token::NotEqual) {
            return Err(error("a comparison of a comparison".to_owned()));
        }
        Ok(Expr::Equal(Box::new(left), Box::new(right), equal))
    }

    fn call(&mut self) -> Result<Expr, NotAnExpression> {
        let mut value = self.atom()?;
        let mut links = 0_usize;
        loop {
            links += 1;
            if links > MAX_DEPTH {
                return Err(error(format!("it is longer than {MAX_DEPTH} links")));
            }
            if self.take_if(&Token::Dot) {
                match self.take() {
                    Token::Name(name) => value = Expr::Attribute(Box::new(value), name),
                    other => return Err(error(format!("a name was expected after '.', not {other}"))),
                }
            } else if self.take_if(&Token::Open) {
                value = Expr::Call(Box::new(value), self.arguments()?);
            } else {
                return Ok(value);
            }
        }
    }

    fn arguments(&mut self) -> Result<Vec<Expr>, NotAnExpression> {
        let mut arguments = Vec::new();
        loop {
            if self.take_if(&Token::Close) {
                return Ok(arguments);
            }
            arguments.push(self.lambda()?);
            match self.take() {
                Token::Comma => {}
                Token::Close => return Ok(arguments),
                other => return Err(error(format!("',' or ')' was expected, not {other}"))),
            }
        }
    }

    fn atom(&mut self) -> Result<Expr, NotAnExpression> {
        match self.take() {
            Token::Name(name) if matches!(name.as_str(), "and" | "or" | "not" | "lambda" | "if" | "else" | "in") => {
                Err(error(format!("'{name}' stands where a value was expected")))
            }
            Token::Name(name) => Ok(Expr::Name(name)),
            Token::Number(number) => Ok(Expr::Number(number)),
            Token::Text(text) => Ok(Expr::Text(text)),
            Token::Format(parts) => Ok(Expr::Format(parts)),
            Token::Open => {
                let inner = self.lambda()?;
                if self.take_if(&Token::Close) { Ok(inner) } else { Err(error("'(' without ')'".to_owned())) }
            }
            other => Err(error(format!("a value was expected, not {other}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(expression: &Expr) -> String {
        let list = |items: &[Expr]| items.iter().map(show).collect::<Vec<_>>().join(" ");
        match expression {
            Expr::Name(name) => name.clone(),
            Expr::Attribute(of, name) => format!("{}.{name}", show(of)),
            Expr::Call(of, arguments) => format!("{}[{}]", show(of), list(arguments)),
            Expr::Text(text) => format!("«{text}»"),
            Expr::Number(number) => number.clone(),
            Expr::Lambda(names, body) => format!("λ{}→{}", names.join(","), show(body)),
            Expr::Not(value) => format!("!{}", show(value)),
            Expr::And(a, b) => format!("({} & {})", show(a), show(b)),
            Expr::Or(a, b) => format!("({} | {})", show(a), show(b)),
            Expr::Equal(a, b, equal) => format!("({} {} {})", show(a), if *equal { "=" } else { "#" }, show(b)),
            Expr::Format(parts) => parts.iter().fold("f".to_owned(), |text, part| match part {
                FormatPart::Text(plain) => format!("{text}‹{plain}›"),
                FormatPart::Value(value) => format!("{text}{}", show(value)),
            }),
        }
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(Expr::parse(text).map(|e| show(&e)).as_deref(), Ok(expected), "{text}");
    }

    #[test]
    fn the_python_of_models_is_read() {
        check(" orders.users.city ", "orders.users.city");
        check("products.sql()", "products.sql[]");
        check("FILTER_PARAMS.o.at.filter('event_ts')", "FILTER_PARAMS.o.at.filter[«event_ts»]");
        check("X.filter(lambda a, b: f\"t >= {a} AND t <= {b}\")", "X.filter[λa,b→f‹t >= ›a‹ AND t <= ›b]");
        check("g(a.filter(\"x\"), b.filter('y'),)", "g[a.filter[«x»] b.filter[«y»]]");
        check("not a and b or c == 'x'", "((!a & b) | (c = «x»))");
        check("a != 1.5", "(a # 1.5)");
        check("(a or b) and c", "((a | b) & c)");
        check("lambda: f'{{x}} \\{y\\} {z}'", "λ→f‹{x} {y} ›z");
        check(r#""it's \"so\" \\ \n""#, "«it's \"so\" \\ \n»");
        check("lambda from, to: f\"x >= {from} AND '\\{' < {to}\"", "λfrom,to→f‹x >= ›from‹ AND '{' < ›to");
        check("not (a.b == 'x') and (c or d)", "(!(a.b = «x») & (c | d))");
        check("f", "f");
        check("F.x", "F.x");
    }

    #[test]
    fn anything_else_is_refused() {
        let deep = format!("{}a{}", "(".repeat(100), ")".repeat(100));
        for wrong in [
            "",
            "a +",
            "a + b",
            "a < b",
            "a[0]",
            "a if b else c",
            "a == b == c",
            "f(x=1)",
            "'open",
            "a.",
            "(a",
            "f(a b)",
            "lambda 1: a",
            "lambda a",
            "a b",
            "not",
            "f'{a'",
            "f'}'",
            &deep,
        ] {
            assert!(Expr::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn values_are_looked_up_in_data() {
        let data = serde_json::json!({"team": "a", "tags": ["x", "y"], "level": 0});
        let root = |path: &[&str]| {
            let (first, rest) = path.split_first()?;
            (*first == "ctx").then(|| rest.iter().try_fold(&data, |value, key| value.get(key)).cloned())?
        };
        let run = |text: &str| Expr::parse(text).expect("an expression").evaluate(&root).expect("a value");
        assert_eq!(run("ctx.team == 'a'"), Json::Bool(true));
        assert_eq!(run("ctx.team != 'a' or not ctx.level"), Json::Bool(true));
        assert_eq!(run("f'{ctx.tags}/{ctx.none}'"), Json::from("x,y/undefined"));
        assert_eq!(run("ctx.level and True"), Json::from(0));
        assert_eq!(run("None"), Json::Null);
        assert!(Expr::parse("ctx.f()").expect("a call").evaluate(&root).is_err());
    }
}
