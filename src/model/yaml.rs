//! YAML text → a small tree that keeps positions.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};
use serde_json::{Map, Number, Value as Json};

/// Deepest nesting of lists and maps that is read.
const MAX_DEPTH: usize = 64;
/// Most nodes a file may have once its aliases are replaced by what they stand for.
const MAX_NODES: usize = 1_000_000;

/// A place in a file: line and column in characters, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Mark {
    /// The first character of a file.
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

/// A value and the place where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    /// In order of appearance; keys differ.
    Map(Vec<Entry>),
}

/// One key of a map and its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_mark: Mark,
    pub(super) value: Node,
}

/// A text and what YAML takes it for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scalar {
    pub(super) text: String,
    pub(super) kind: ScalarKind,
    /// Where each `{` of the text stands, in order.
    pub(super) braces: Vec<Mark>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScalarKind {
    Null,
    Bool(bool),
    Number,
    Text,
}

/// The text is not YAML, or not of the kind that model files may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct YamlFault {
    pub(super) mark: Mark,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// What was read of a file: nothing when it is empty or its syntax is broken.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Document {
    pub(super) root: Option<Node>,
    pub(super) faults: Vec<YamlFault>,
    /// The syntax is broken, so what the file defines is not known.
    pub(super) broken: bool,
    /// Parents without a name of their own, which only scripts can make, by the name that `extends` uses.
    pub(super) anonymous: Vec<(String, Node)>,
}

impl Node {
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(Scalar { kind: ScalarKind::Null, .. }))
    }

    /// What it is, for messages.
    pub(super) fn describe(&self) -> &'static str {
        match &self.value {
            Value::Scalar(scalar) => match scalar.kind {
                ScalarKind::Null => "nothing",
                ScalarKind::Bool(_) => "a boolean",
                ScalarKind::Number => "a number",
                ScalarKind::Text => "a text",
            },
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// The same data without positions. Numbers that JSON cannot hold become null.
    pub(super) fn to_json(&self) -> Json {
        match &self.value {
            Value::Scalar(scalar) => match scalar.kind {
                ScalarKind::Null => Json::Null,
                ScalarKind::Bool(value) => Json::Bool(value),
                ScalarKind::Number => number(&scalar.text).map_or(Json::Null, Json::Number),
                ScalarKind::Text => Json::String(scalar.text.clone()),
            },
            Value::List(nodes) => Json::Array(nodes.iter().map(Self::to_json).collect()),
            Value::Map(entries) => {
                Json::Object(entries.iter().map(|e| (e.key.clone(), e.value.to_json())).collect::<Map<_, _>>())
            }
        }
    }

    /// All texts of the tree that are no keys.
    pub(super) fn for_each_text(&self, visit: &mut impl FnMut(&str)) {
        match &self.value {
            Value::Scalar(scalar) => visit(&scalar.text),
            Value::List(nodes) => nodes.iter().for_each(|node| node.for_each_text(visit)),
            Value::Map(entries) => entries.iter().for_each(|entry| entry.value.for_each_text(visit)),
        }
    }

    fn count(&self) -> usize {
        1 + match &self.value {
            Value::Scalar(_) => 0,
            Value::List(nodes) => nodes.iter().map(Self::count).sum(),
            Value::Map(entries) => entries.iter().map(|e| e.value.count()).sum(),
        }
    }
}

/// Reads the one document of a file. After a fault of syntax nothing more is read; duplicate keys are all found.
pub(super) fn parse(source: &str) -> Document {
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    let mut reader = Reader {
        events: Parser::new_from_str(source),
        lines: LineIndex::new(source),
        anchors: HashMap::new(),
        nodes: 0,
        faults: Vec::new(),
    };
    let (root, broken) = match reader.document() {
        Ok(root) => (root, false),
        Err(fault) => {
            reader.faults.push(fault);
            (None, true)
        }
    };
    Document { root, faults: reader.faults, broken, anonymous: Vec::new() }
}

struct Reader<'s> {
    events: Parser<'s, StrInput<'s>>,
    lines: LineIndex<'s>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    faults: Vec<YamlFault>,
}

impl<'s> Reader<'s> {
    fn document(&mut self) -> Result<Option<Node>, YamlFault> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root),
                Event::DocumentStart(_) if root.is_some() => {
                    return Err(fault(mark(span.start), "expected a single document in the file, but found more"));
                }
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                event => root = Some(self.node(event, span, 0)?),
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'s>, Span), YamlFault> {
        match self.events.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(YamlFault {
                mark: mark(*error.marker()),
                message: format!("invalid YAML: {}", error.info()),
                hint: None,
            }),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'s>, span: Span, depth: usize) -> Result<Node, YamlFault> {
        let at = mark(span.start);
        if depth > MAX_DEPTH {
            return Err(fault(at, format!("lists and maps nest deeper than {MAX_DEPTH} levels")));
        }
        self.spend(1, at)?;
        let (value, anchor) = match event {
            Event::Alias(anchor) => return self.alias(anchor, at),
            Event::Scalar(text, style, anchor, tag) => {
                let kind = self.scalar_kind(&text, style, tag.as_deref(), at);
                let count = text.matches('{').count();
                let braces = if count == 0 { Vec::new() } else { self.lines.braces(span.start, count) };
                (Value::Scalar(Scalar { text: text.into_owned(), kind, braces }), anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), at);
                (Value::List(self.list(depth)?), anchor)
            }
            Event::MappingStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), at);
                (Value::Map(self.map(depth)?), anchor)
            }
            other => return Err(fault(at, format!("invalid YAML: unexpected {other:?}"))),
        };
        let node = Node { mark: at, value };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    /// Copies what the alias stands for; the budget of nodes keeps nested aliases from exploding.
    fn alias(&mut self, anchor: usize, at: Mark) -> Result<Node, YamlFault> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(fault(at, "the alias stands inside the value it names"));
        };
        let node = node.clone();
        self.spend(node.count(), at)?;
        Ok(node)
    }

    fn spend(&mut self, nodes: usize, at: Mark) -> Result<(), YamlFault> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(fault(at, format!("the file holds more than {MAX_NODES} values")));
        }
        Ok(())
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, YamlFault> {
        let mut nodes = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(nodes),
                (event, span) => nodes.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry>, YamlFault> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut places: HashMap<String, Mark> = HashMap::new();
        let mut merged: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            let Value::Scalar(scalar) = key.value else {
                self.faults.push(fault(key.mark, "a key must be a text"));
                continue;
            };
            if scalar.text == "<<" {
                self.collect_merge(value, &mut merged);
            } else if let Some(first) = places.get(&scalar.text) {
                let hint = Some(format!("it was given on line {} already", first.line));
                self.faults.push(YamlFault {
                    mark: key.mark,
                    message: format!("duplicate key '{}'", scalar.text),
                    hint,
                });
            } else {
                places.insert(scalar.text.clone(), key.mark);
                entries.push(Entry { key: scalar.text, key_mark: key.mark, value });
            }
        }
        for entry in merged {
            if !places.contains_key(&entry.key) {
                places.insert(entry.key.clone(), entry.key_mark);
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    /// The value of a merge key `<<`: a map, or a list of maps of which the first wins.
    fn collect_merge(&mut self, value: Node, merged: &mut Vec<Entry>) {
        match value.value {
            Value::Map(entries) => merged.extend(entries),
            Value::List(nodes) if nodes.iter().all(|n| matches!(n.value, Value::Map(_))) => {
                nodes.into_iter().for_each(|node| self.collect_merge(node, merged));
            }
            Value::List(_) | Value::Scalar(_) => {
                self.faults.push(fault(value.mark, "'<<' takes a map or a list of maps"));
            }
        }
    }

    fn check_tag(&mut self, tag: Option<&Tag>, at: Mark) {
        if let Some(tag) = tag
            && !(tag.is_yaml_core_schema() && matches!(tag.suffix.as_str(), "seq" | "map"))
        {
            self.faults.push(fault(at, format!("the tag '{tag}' is not supported")));
        }
    }

    fn scalar_kind(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Mark) -> ScalarKind {
        match tag {
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => ScalarKind::Text,
            Some(tag)
                if !(tag.is_yaml_core_schema() && matches!(tag.suffix.as_str(), "null" | "bool" | "int" | "float")) =>
            {
                self.faults.push(fault(at, format!("the tag '{tag}' is not supported")));
                ScalarKind::Text
            }
            None if style != ScalarStyle::Plain => ScalarKind::Text,
            _ => plain_kind(text),
        }
    }
}

/// The core schema of YAML 1.2.
fn plain_kind(text: &str) -> ScalarKind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => ScalarKind::Null,
        "true" | "True" | "TRUE" => ScalarKind::Bool(true),
        "false" | "False" | "FALSE" => ScalarKind::Bool(false),
        _ if is_number(text) => ScalarKind::Number,
        _ => ScalarKind::Text,
    }
}

fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    if radix(unsigned).is_some() {
        return true;
    }
    // Rust's grammar of floats, less its words `inf` and `nan`.
    unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.contains(|c: char| c.is_ascii_digit())
        && unsigned.parse::<f64>().is_ok()
}

fn radix(unsigned: &str) -> Option<u64> {
    let hexadecimal = unsigned.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16));
    let octal = || unsigned.strip_prefix("0o").map(|digits| u64::from_str_radix(digits, 8));
    hexadecimal.or_else(octal).and_then(Result::ok)
}

fn number(text: &str) -> Option<Number> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    if let Some(value) = radix(unsigned) {
        return Some(value.into());
    }
    let whole = unsigned.parse::<i64>().map(Number::from).or_else(|_| unsigned.parse::<u64>().map(Number::from)).ok();
    whole.or_else(|| unsigned.parse::<f64>().ok().and_then(Number::from_f64))
}

fn mark(marker: Marker) -> Mark {
    Mark { line: marker.line().max(1), column: marker.col() + 1 }
}

fn fault(mark: Mark, message: impl Into<String>) -> YamlFault {
    YamlFault { mark, message: message.into(), hint: None }
}

/// Finds places in the text by line.
struct LineIndex<'s> {
    source: &'s str,
    /// Byte offset of each line's first character.
    starts: Vec<usize>,
}

impl<'s> LineIndex<'s> {
    fn new(source: &'s str) -> Self {
        let starts = std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { source, starts }
    }

    /// The places of the next `count` opening braces from `from` on. Braces survive quoting, folding and
    /// indentation in order, so the n-th of a scalar's text is the n-th of its source.
    fn braces(&self, from: Marker, count: usize) -> Vec<Mark> {
        let Some(start) = self.starts.get(from.line().saturating_sub(1)) else { return Vec::new() };
        let mut at = Mark { line: from.line(), column: 1 };
        let mut found = Vec::with_capacity(count);
        for c in self.source[*start..].chars() {
            if c == '{' && (at.line > from.line() || at.column > from.col()) {
                found.push(at);
                if found.len() == count {
                    break;
                }
            }
            if c == '\n' {
                at = Mark { line: at.line + 1, column: 1 };
            } else {
                at.column += 1;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(source: &str, expected: Json) {
        let document = parse(source);
        assert_eq!(document.faults, [], "{source}");
        assert_eq!(document.root.expect("a document").to_json(), expected, "{source}");
    }

    #[track_caller]
    fn check_fault(source: &str, expected: &str) {
        let document = parse(source);
        let faults: Vec<_> =
            document.faults.iter().map(|f| format!("{}:{}: {}", f.mark.line, f.mark.column, f.message)).collect();
        assert_eq!(faults.join("\n"), expected, "{source}");
    }

    #[test]
    fn plain_scalars_take_the_types_of_yaml_1_2() {
        check("[~, null, true, False, no, on]", json!([null, null, true, false, "no", "on"]));
        check("[1, -7, +3, 0x1F, 0o17, 018]", json!([1, -7, 3, 31, 15, 18]));
        check("[1.5, -.5, 1e3, 18446744073709551615]", json!([1.5, -0.5, 1000.0, 18_446_744_073_709_551_615_u64]));
        check("[.inf, .nan, ., 1_000, 1.2.3, inf, nan]", json!([null, null, ".", "1_000", "1.2.3", "inf", "nan"]));
        check("['1', \"true\", !!str 5, 2024-01-01]", json!(["1", "true", "5", "2024-01-01"]));
    }

    #[test]
    fn aliases_and_merge_keys_are_resolved() {
        check("a: &x {p: 1, q: 2}\nb: *x", json!({"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 2}}));
        check("a: &x {p: 1}\nb: {<<: *x, q: 3}", json!({"a": {"p": 1}, "b": {"q": 3, "p": 1}}));
        check("a: &x {p: 1}\nb: {p: 2, <<: *x}", json!({"a": {"p": 1}, "b": {"p": 2}}));
        check("a: &x {p: 1}\nb: {<<: [*x, {p: 5, r: 4}]}", json!({"a": {"p": 1}, "b": {"p": 1, "r": 4}}));
    }

    #[test]
    fn empty_files_hold_nothing() {
        for source in ["", "  \n\n", "# a comment\n", "\u{feff}"] {
            assert_eq!(parse(source), Document::default(), "{source:?}");
        }
    }

    #[test]
    fn faults_name_their_place() {
        check_fault("a: 1\nb: 2\na: 3\nb: 4", "3:1: duplicate key 'a'\n4:1: duplicate key 'b'");
        check_fault("a: [1,\nb: 2", "2:1: invalid YAML: invalid indentation in flow construct");
        check_fault("a: *nope", "1:4: invalid YAML: while parsing node, found unknown anchor");
        check_fault("a: 1\n---\nb: 1", "2:1: expected a single document in the file, but found more");
        check_fault("? [a]\n: 1", "1:3: a key must be a text");
        check_fault("a: !env X", "1:4: the tag '!env' is not supported");
        check_fault("a: {<<: 1}", "1:9: '<<' takes a map or a list of maps");
        check_fault("a: &x [*x]", "1:8: the alias stands inside the value it names");
    }

    #[test]
    fn hostile_files_are_refused() {
        check_fault(&"- ".repeat(100_000), "1:131: lists and maps nest deeper than 64 levels");
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let list = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{list}]\n"));
        }
        let faults = parse(&bomb).faults;
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].message, "the file holds more than 1000000 values");
    }

    #[track_caller]
    fn check_braces(source: &str, expected: &[(usize, usize)]) {
        let Some(Node { value: Value::Map(entries), .. }) = parse(source).root else { panic!("no map") };
        let Value::Scalar(scalar) = &entries[0].value.value else { panic!("no scalar") };
        let braces: Vec<_> = scalar.braces.iter().map(|b| (b.line, b.column)).collect();
        assert_eq!(braces, expected, "{source}");
    }

    #[test]
    fn braces_are_found_in_all_styles() {
        check_braces("a: x{b}{c}", &[(1, 5), (1, 8)]);
        check_braces("a: 'it''s {b}'", &[(1, 11)]);
        check_braces("a: \"é\\t{b}\"", &[(1, 8)]);
        check_braces("a: |\n  one\n  two {b}\n", &[(3, 7)]);
        check_braces("a: >-\n\n  é {b}\n  {c}\n", &[(3, 5), (4, 3)]);
        check_braces("a: no\nb: '{x}'", &[]);
    }

    #[test]
    fn positions_count_characters_from_one() {
        let Some(Node { value: Value::Map(entries), .. }) = parse("é: 1\nb:\n  - ü: x").root else {
            panic!("no map")
        };
        assert_eq!((entries[0].value.mark.line, entries[0].value.mark.column), (1, 4));
        assert_eq!((entries[1].key_mark.line, entries[1].key_mark.column), (2, 1));
        assert_eq!((entries[1].value.mark.line, entries[1].value.mark.column), (3, 3));
    }
}
