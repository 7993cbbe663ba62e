//! What scripts handed to `cube` and `view`, as JSON → the tree that a YAML file would have given.

use serde_json::Value as Json;

use super::super::fields::snake_case;
use super::super::yaml::{Document, Entry, Mark, Node, Scalar, ScalarKind, Value};
use super::{Definition, mark};
use crate::script::condition;
use crate::script::outline::{Call, Shape};

/// Marks around a reference in a text; the ones of `prelude.js`.
const OPEN: char = '\u{E5F0}';
const CLOSE: char = '\u{E5F1}';

/// Maps keyed by name, which YAML files write as lists.
const NAMED: [&str; 9] = [
    "measures",
    "dimensions",
    "segments",
    "joins",
    "hierarchies",
    "granularities",
    "custom",
    "indexes",
    "pre_aggregations",
];

/// Properties that hold references without braces (`data-model.md` §1.2); further ones end in `_references`.
const REFERENCES: [&str; 22] = [
    "extends",
    "join_path",
    "levels",
    "drill_members",
    "group_by",
    "reduce_by",
    "add_group_by",
    "time_dimension",
    "member",
    "measures",
    "dimensions",
    "segments",
    "rollups",
    "columns",
    "if",
    "includes",
    "excludes",
    "include",
    "exclude",
    "keep_only",
    "key",
    "context_members",
];

/// Properties whose text is an expression without braces.
const FLAGS: [&str; 14] = [
    "public",
    "shown",
    "visible",
    "primary_key",
    "sub_query",
    "propagate_filters_to_sub_query",
    "rewrite_queries",
    "incremental",
    "external",
    "scheduled_refresh",
    "read_only",
    "prefix",
    "union_with_source_data",
    "mask",
];

/// Whether a property's map is keyed by name.
pub(super) fn is_named(key: &str) -> bool {
    NAMED.contains(&snake_case(key).as_str())
}

/// Names of what is known per request only, in conditions.
const PER_REQUEST: [&str; 4] = ["securityContext", "security_context", "userAttributes", "user_attributes"];

/// A definition as a tree.
pub(super) struct Tree {
    pub(super) node: Node,
    /// What only the tree shows.
    pub(super) faults: Vec<(Mark, String)>,
    /// Conditions whose text was read, from where to where: what they compare is not compared before a request.
    pub(super) conditions: Vec<std::ops::Range<usize>>,
}

/// The tree of a definition, with its name as first key unless that is ours. `source` is the text of its file.
pub(super) fn definition(definition: &Definition, call: Option<&Call>, source: &str) -> Tree {
    let at = mark(call.map_or(definition.place.at, |call| call.at));
    let shape = call.and_then(|call| call.arguments.last());
    let mut builder = Builder { source, faults: Vec::new(), conditions: Vec::new() };
    let inside = shape.map_or(at, |shape| mark(shape.at));
    let mut node = builder.map(&definition.body, Spot::TOP, shape, inside);
    node.mark = at;
    if let Value::Map(entries) = &mut node.value
        && !definition.generated
    {
        let name_at = call.and_then(|call| call.arguments.first()).map_or(at, |name| mark(name.at));
        entries.insert(0, named(&definition.name, name_at));
    }
    Tree { node, faults: builder.faults, conditions: builder.conditions }
}

/// Adds a definition to the lists of a document.
pub(super) fn add(document: &mut Document, kind: &str, node: Node) {
    let key = match kind {
        "cube" => "cubes",
        "view" => "views",
        _ => "view_groups",
    };
    let root = document.root.get_or_insert_with(|| Node { mark: Mark::START, value: Value::Map(Vec::new()) });
    let Value::Map(entries) = &mut root.value else { return };
    if let Some(entry) = entries.iter_mut().find(|entry| entry.key == key) {
        if let Value::List(nodes) = &mut entry.value.value {
            nodes.push(node);
        }
    } else {
        let value = Node { mark: node.mark, value: Value::List(vec![node]) };
        entries.push(Entry { key: key.to_owned(), key_mark: Mark::START, value });
    }
}

fn named(name: &str, at: Mark) -> Entry {
    let value = Node { mark: at, value: Value::Scalar(text(name.to_owned())) };
    Entry { key: "name".to_owned(), key_mark: at, value }
}

fn text(text: String) -> Scalar {
    Scalar { text, kind: ScalarKind::Text, braces: Vec::new() }
}

/// Which property is looked at: what a text means depends on it.
#[derive(Debug, Clone, Copy)]
struct Spot<'a> {
    /// In snake case; empty for an entry of a map keyed by name.
    key: &'a str,
    /// The property around it.
    outer: &'a str,
    /// Below `meta`: taken as it is.
    in_data: bool,
}

impl Spot<'_> {
    const TOP: Self = Spot { key: "", outer: "", in_data: false };

    fn is_reference(self) -> bool {
        let in_link = self.outer == "params";
        let is_rollup_time = self.key == "dimension" && self.outer == "time_dimensions";
        is_rollup_time || self.key.ends_with("_references") || REFERENCES.contains(&self.key) && !in_link
    }
}

struct Builder<'s> {
    source: &'s str,
    faults: Vec<(Mark, String)>,
    conditions: Vec<std::ops::Range<usize>>,
}

impl Builder<'_> {
    /// A condition, when the text of the value is one.
    fn condition(&mut self, value: &Json, spot: Spot<'_>, shape: Option<&Shape>, at: Mark) -> Option<String> {
        if spot.key != "if" || spot.in_data {
            return None;
        }
        if let Some(function) = value.as_str().and_then(|tagged| tagged.strip_prefix('f')) {
            let read = condition(function, &PER_REQUEST);
            if read.is_none() {
                let message =
                    "the condition cannot be read: it may hold names with dots, texts, numbers, ===, !==, !, && and ||";
                self.faults.push((at, message.to_owned()));
            }
            return Some(read.unwrap_or_default());
        }
        let shape = shape?;
        let read = condition(self.source.get(shape.text.clone())?, &PER_REQUEST)?;
        self.conditions.push(shape.text.clone());
        Some(read)
    }

    fn node(&mut self, value: &Json, spot: Spot<'_>, shape: Option<&Shape>, at: Mark) -> Node {
        if let Some(read) = self.condition(value, spot, shape, at) {
            return Node { mark: at, value: Value::Scalar(text(read)) };
        }
        let scalar = |text: String, kind| Value::Scalar(Scalar { text, kind, braces: Vec::new() });
        let value = match value {
            Json::Null => scalar("null".to_owned(), ScalarKind::Null),
            Json::Bool(flag) => scalar(flag.to_string(), ScalarKind::Bool(*flag)),
            Json::Number(number) => scalar(number.to_string(), ScalarKind::Number),
            Json::String(tagged) => Value::Scalar(text(self.text(tagged, spot, at))),
            Json::Array(items) => {
                let item = |(index, item): (usize, &Json)| {
                    let shape = shape.and_then(|shape| shape.item(index));
                    let at = shape.map_or(at, |shape| mark(shape.at));
                    match item {
                        Json::Object(_) => self.map(item, spot, shape, at),
                        _ => self.node(item, spot, shape, at),
                    }
                };
                Value::List(items.iter().enumerate().map(item).collect())
            }
            Json::Object(_) if !spot.in_data && is_keyed_by_name(value, spot) => self.by_name(value, spot, shape, at),
            Json::Object(_) => return self.map(value, spot, shape, at),
        };
        Node { mark: at, value }
    }

    fn map(&mut self, value: &Json, spot: Spot<'_>, shape: Option<&Shape>, at: Mark) -> Node {
        let mut entries = Vec::new();
        for (key, value) in value.as_object().into_iter().flatten() {
            let key = self.key(key, at);
            let folded = snake_case(&key);
            let inner = Spot { key: &folded, outer: spot.key, in_data: spot.in_data || folded == "meta" };
            let (key_mark, shape, mark) = part(shape, &key, at);
            let value = self.node(value, inner, shape, mark);
            entries.push(Entry { key, key_mark, value });
        }
        Node { mark: at, value: Value::Map(entries) }
    }

    /// A map keyed by name as a list of maps with names.
    fn by_name(&mut self, value: &Json, spot: Spot<'_>, shape: Option<&Shape>, at: Mark) -> Value {
        let mut nodes = Vec::new();
        for (key, value) in value.as_object().into_iter().flatten() {
            let name = self.key(key, at);
            let (key_mark, shape, mark) = part(shape, &name, at);
            let inner = Spot { key: "", outer: spot.key, in_data: false };
            let mut node = match value {
                Json::Object(_) => self.map(value, inner, shape, mark),
                other => self.node(other, inner, shape, mark),
            };
            node.mark = key_mark;
            if let Value::Map(entries) = &mut node.value {
                entries.insert(0, named(&name, key_mark));
            }
            nodes.push(node);
        }
        Value::List(nodes)
    }

    /// Without the tag; a reference as a key is its text.
    fn key(&mut self, tagged: &str, at: Mark) -> String {
        let key = tagged.strip_prefix('k').unwrap_or(tagged);
        if key.contains(OPEN) {
            self.faults.push((at, format!("a reference cannot be a key: '{}'", key.replace([OPEN, CLOSE], ""))));
        }
        key.replace([OPEN, CLOSE], "")
    }

    fn text(&mut self, tagged: &str, spot: Spot<'_>, at: Mark) -> String {
        let content = tagged.get(1..).unwrap_or_default();
        if tagged.starts_with('r') {
            let bare = spot.is_reference() || FLAGS.contains(&spot.key);
            return if bare { content.to_owned() } else { format!("{{{content}}}") };
        }
        if spot.in_data {
            if content.contains(OPEN) {
                let message = "data cannot hold a reference: it has no value while the model is compiled";
                self.faults.push((at, message.to_owned()));
            }
            return content.replace([OPEN, CLOSE], "");
        }
        if spot.is_reference() {
            return content.replace([OPEN, CLOSE], "");
        }
        if spot.key == "mask" {
            return format!("\"{}\"", braced(&content.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")));
        }
        braced(content)
    }
}

/// `granularities` also has a form with lists in it.
fn is_keyed_by_name(value: &Json, spot: Spot<'_>) -> bool {
    let lists = ["kincludes", "kexcludes", "kcustom"];
    let is_lists = spot.key == "granularities" && lists.iter().any(|key| value.get(key).is_some());
    NAMED.contains(&spot.key) && !is_lists
}

/// Where a key stands, and its value; what is not in the text of the call stands where its surroundings do.
fn part<'s>(shape: Option<&'s Shape>, key: &str, at: Mark) -> (Mark, Option<&'s Shape>, Mark) {
    match shape.and_then(|shape| shape.key(key)) {
        Some((key_at, shape)) => (mark(key_at), Some(shape), mark(shape.at)),
        None => (at, None, at),
    }
}

/// A text with marks as a text with braces; braces of the text itself are escaped.
fn braced(content: &str) -> String {
    if !content.contains(['{', '}', OPEN]) {
        return content.to_owned();
    }
    let mut written = String::with_capacity(content.len() + 8);
    let mut in_reference = false;
    for c in content.chars() {
        match c {
            OPEN => {
                // A backslash in front of the brace would make it one of the text.
                if written.ends_with('\\') {
                    written.pop();
                    written.push_str("{'\\\\'}");
                }
                written.push('{');
                in_reference = true;
            }
            CLOSE => {
                written.push('}');
                in_reference = false;
            }
            '{' | '}' if !in_reference => {
                written.push('\\');
                written.push(c);
            }
            _ => written.push(c),
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_of_texts_are_escaped_and_marks_become_braces() {
        for (content, expected) in [
            ("amount", "amount"),
            ("'{\"a\": 1}'", "'\\{\"a\": 1\\}'"),
            ("\u{E5F0}CUBE\u{E5F1}.x", "{CUBE}.x"),
            ("\u{E5F0}f(f\"{a}\")\u{E5F1}}", "{f(f\"{a}\")}\\}"),
            ("a\\\u{E5F0}b\u{E5F1}", "a{'\\\\'}{b}"),
        ] {
            assert_eq!(braced(content), expected);
        }
    }
}
