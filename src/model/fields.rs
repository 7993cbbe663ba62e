//! Reading maps of model files: typed access by key; wrong shapes and unknown keys become diagnostics.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::cube::Location;
use super::diagnostic::{Diagnostic, Severity};
use super::expression::{Expr, is_true, plain_text as shown};
use super::template::{NotPlain, Piece, pieces, plain_text};
use super::yaml::{Entry, Mark, Node, Scalar, ScalarKind, Value};
use crate::names::nearest;

/// How to write braces that are no references.
pub(super) const ESCAPE_HINT: &str = "write \\{ and \\} for braces that are meant as text";

/// Whose definition is being looked at, for diagnostics.
#[derive(Debug, Clone)]
pub(super) struct Place {
    file: Arc<Path>,
    /// `cube` or `cube.member`.
    owner: Option<String>,
}

impl Place {
    pub(super) fn of_file(file: &Path) -> Self {
        Self { file: Arc::from(file), owner: None }
    }

    /// The same file, one name further in.
    pub(super) fn within(&self, name: &str) -> Self {
        let owner = match &self.owner {
            Some(owner) => format!("{owner}.{name}"),
            None => name.to_owned(),
        };
        Self { file: Arc::clone(&self.file), owner: Some(owner) }
    }

    /// `cube` or `cube.member`; empty for a file.
    pub(super) fn owner(&self) -> &str {
        self.owner.as_deref().unwrap_or_default()
    }

    pub(super) fn location(&self, mark: Mark) -> Location {
        Location { file: self.file.to_path_buf(), line: mark.line, column: mark.column }
    }
}

/// Collects diagnostics.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) diagnostics: Vec<Diagnostic>,
    /// Words of what could not be read: they may be names of cubes and members, so that they are not called unknown.
    pub(super) doubtful: HashSet<String>,
    /// A file could not be read at all.
    pub(super) doubt_all: bool,
    /// `COMPILE_CONTEXT.securityContext`.
    pub(super) context: serde_json::Value,
    /// Rollups that do not say are not refreshed by the scheduler.
    pub(super) unscheduled: bool,
}

impl Report {
    /// Something of `COMPILE_CONTEXT`; none when the path begins elsewhere.
    fn compile_context(&self, path: &[&str]) -> Option<serde_json::Value> {
        let ["COMPILE_CONTEXT", "securityContext" | "security_context", rest @ ..] = path else { return None };
        let found = rest.iter().try_fold(&self.context, |value, name| value.get(name));
        Some(found.cloned().unwrap_or(serde_json::Value::Null))
    }

    /// The value of an expression over `COMPILE_CONTEXT`; none for anything else.
    fn evaluate(&self, text: &str) -> Option<serde_json::Value> {
        let parsed = Expr::parse(text).ok()?;
        let paths = parsed.paths();
        let known = |path: &Vec<&str>| {
            matches!(path.first(), Some(&("COMPILE_CONTEXT" | "True" | "False" | "None" | "true" | "false" | "null")))
        };
        if paths.is_empty() || !paths.iter().all(known) {
            return None;
        }
        parsed.evaluate(&|path| self.compile_context(path)).ok()
    }

    pub(super) fn error(&mut self, place: &Place, mark: Mark, message: impl Into<String>) -> &mut Diagnostic {
        self.push(Severity::Error, place, mark, message.into())
    }

    pub(super) fn warn(&mut self, place: &Place, mark: Mark, message: impl Into<String>) -> &mut Diagnostic {
        self.push(Severity::Warning, place, mark, message.into())
    }

    fn push(&mut self, severity: Severity, place: &Place, mark: Mark, message: String) -> &mut Diagnostic {
        let location = place.location(mark);
        let diagnostic = Diagnostic { severity, location, member: place.owner.clone(), message, hint: None };
        self.diagnostics.push(diagnostic);
        self.diagnostics.last_mut().expect("just pushed")
    }
}

/// A text with the places of its braces, in the order of its text.
#[derive(Debug, Clone)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) mark: Mark,
    pub(super) braces: Vec<Mark>,
}

impl Text {
    fn of(scalar: Scalar, mark: Mark) -> Self {
        Self { text: scalar.text, mark, braces: scalar.braces }
    }

    /// The place of the n-th opening brace; of the text when it is not known.
    pub(super) fn brace(&self, n: usize) -> Mark {
        self.braces.get(n).copied().unwrap_or(self.mark)
    }
}

/// The keys of one map. Take what is known; [`Fields::open`] has complained of the rest.
#[derive(Debug)]
pub(super) struct Fields {
    pub(super) mark: Mark,
    entries: Vec<Entry>,
}

impl Fields {
    /// The entries of a map; none, with a fault, when the node is something else. Keys are folded to snake case.
    pub(super) fn open(node: Node, what: &str, place: &Place, report: &mut Report) -> Option<Self> {
        let mark = node.mark;
        let described = node.describe();
        let Value::Map(mut entries) = node.value else {
            report.error(place, mark, format!("{what} must be a map, not {described}"));
            return None;
        };
        for entry in &mut entries {
            entry.key = snake_case(&entry.key);
        }
        Some(Self { mark, entries })
    }

    /// Complains of keys that are not among `known`, and of a key given in both spellings.
    pub(super) fn check_keys(&mut self, known: &[&str], place: &Place, report: &mut Report) {
        let mut kept: Vec<Entry> = Vec::with_capacity(self.entries.len());
        for entry in self.entries.drain(..) {
            if kept.iter().any(|e| e.key == entry.key) {
                report.error(place, entry.key_mark, format!("duplicate key '{}'", entry.key));
            } else if known.contains(&entry.key.as_str()) {
                kept.push(entry);
            } else {
                let hint = match nearest(&entry.key, known.iter().copied()) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => format!("known keys here: {}", known.join(", ")),
                };
                report.error(place, entry.key_mark, format!("unknown key '{}'", entry.key)).hint = Some(hint);
            }
        }
        self.entries = kept;
    }

    /// Drops keys that are not among `known` and returns their entries.
    pub(super) fn take_unknown(&mut self, known: &[&str]) -> Vec<Entry> {
        self.entries.extract_if(.., |entry| !known.contains(&entry.key.as_str())).collect()
    }

    /// Marks the texts of this map as names that may exist.
    pub(super) fn doubt(&self, report: &mut Report) {
        for entry in &self.entries {
            if let Value::Scalar(scalar) = &entry.value.value {
                report.doubtful.insert(scalar.text.clone());
            }
        }
    }

    /// The data as JSON, for messages.
    pub(super) fn to_json(&self) -> serde_json::Value {
        serde_json::Value::Object(self.entries.iter().map(|e| (e.key.clone(), e.value.to_json())).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Where the key stands, when it is there and not null.
    pub(super) fn mark_of(&self, key: &str) -> Option<Mark> {
        self.entries.iter().find(|e| e.key == key && !e.value.is_null()).map(|e| e.key_mark)
    }

    /// The value of a key as JSON; it is left there.
    pub(super) fn json_of(&self, key: &str) -> Option<serde_json::Value> {
        self.entries.iter().find(|e| e.key == key && !e.value.is_null()).map(|e| e.value.to_json())
    }

    /// The value of a key; none when it is absent or null.
    pub(super) fn take(&mut self, key: &str) -> Option<Node> {
        let at = self.entries.iter().position(|e| e.key == key)?;
        let entry = self.entries.remove(at);
        (!entry.value.is_null()).then_some(entry.value)
    }

    /// A text; numbers and booleans are taken as written.
    pub(super) fn text(&mut self, key: &str, place: &Place, report: &mut Report) -> Option<Text> {
        let node = self.take(key)?;
        scalar(node, key, place, report)
    }

    /// A text in which references are not possible; escapes of braces are resolved.
    pub(super) fn plain(&mut self, key: &str, place: &Place, report: &mut Report) -> Option<String> {
        let text = self.text(key, place, report)?;
        Some(without_references(&text, key, place, report))
    }

    /// A boolean, also as a quoted text.
    pub(super) fn flag(&mut self, key: &str, place: &Place, report: &mut Report) -> Option<bool> {
        let node = self.take(key)?;
        match &node.value {
            Value::Scalar(Scalar { kind: ScalarKind::Bool(value), .. }) => return Some(*value),
            Value::Scalar(Scalar { text, .. }) if text == "true" => return Some(true),
            Value::Scalar(Scalar { text, .. }) if text == "false" => return Some(false),
            Value::Scalar(Scalar { text, .. }) => {
                let bare = text.trim();
                let bare = bare.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(bare);
                if let Some(value) = report.evaluate(bare) {
                    return Some(is_true(&value));
                }
                let message = format!("'{key}' must be true or false, not '{text}'");
                report.error(place, node.mark, message).hint = Some("or an expression over COMPILE_CONTEXT".to_owned());
            }
            Value::List(_) | Value::Map(_) => {
                report.error(place, node.mark, format!("'{key}' must be true or false, not {}", node.describe()));
            }
        }
        None
    }

    /// A list; empty when absent.
    pub(super) fn list(&mut self, key: &str, place: &Place, report: &mut Report) -> Vec<Node> {
        let Some(node) = self.take(key) else { return Vec::new() };
        let (mark, described) = (node.mark, node.describe());
        if let Value::List(nodes) = node.value {
            return nodes;
        }
        report.error(place, mark, format!("{key} must be defined as array")).hint =
            Some(format!("write a list, one '- ' an entry; this is {described}"));
        Vec::new()
    }

    /// A list of texts; empty when absent.
    pub(super) fn texts(&mut self, key: &str, place: &Place, report: &mut Report) -> Vec<Text> {
        let nodes = self.list(key, place, report);
        nodes.into_iter().filter_map(|node| scalar(node, &format!("an entry of {key}"), place, report)).collect()
    }

    /// A map.
    pub(super) fn map(&mut self, key: &str, place: &Place, report: &mut Report) -> Option<Self> {
        let node = self.take(key)?;
        Self::open(node, &format!("'{key}'"), place, report)
    }

    /// `{sql: …}` and nothing else.
    pub(super) fn sql_map(&mut self, key: &str, place: &Place, report: &mut Report) -> Option<Text> {
        let mut fields = self.map(key, place, report)?;
        fields.check_keys(&["sql"], place, report);
        let sql = fields.text("sql", place, report);
        if sql.is_none() {
            report.error(place, fields.mark, format!("({key}.sql) is required"));
        }
        sql
    }
}

/// The text of a scalar; a fault when it is something else.
pub(super) fn scalar(node: Node, what: &str, place: &Place, report: &mut Report) -> Option<Text> {
    let (mark, described) = (node.mark, node.describe());
    match node.value {
        Value::Scalar(scalar) if scalar.kind != ScalarKind::Null => Some(Text::of(scalar, mark)),
        _ => {
            let what = if what.contains(' ') { what.to_owned() } else { format!("'{what}'") };
            report.error(place, mark, format!("{what} must be a text, not {described}"));
            None
        }
    }
}

/// The text with its escapes resolved; a fault when it holds `{…}`.
pub(super) fn without_references(text: &Text, what: &str, place: &Place, report: &mut Report) -> String {
    let evaluated = pieces(&text.text).ok().and_then(|pieces| {
        let show = |piece: Piece| match piece {
            Piece::Text(text) => Some(text),
            Piece::Braced(braced) => report.evaluate(&braced.content).map(|value| shown(&value)),
        };
        pieces.into_iter().map(show).collect::<Option<String>>()
    });
    if let Some(evaluated) = evaluated {
        return evaluated;
    }
    plain_text(&text.text).unwrap_or_else(|fault| {
        let (brace, message) = match fault {
            NotPlain::Reference(braced) => {
                (braced.brace, format!("{} is not defined", braced.content.split('.').next().unwrap_or_default()))
            }
            NotPlain::Unbalanced(fault) => (fault.brace(), format!("{} in '{what}'", fault.message())),
        };
        report.error(place, text.brace(brace), message).hint = Some(ESCAPE_HINT.to_owned());
        String::new()
    })
}

/// `primaryKey` → `primary_key`; other spellings stay as they are.
pub(super) fn snake_case(key: &str) -> String {
    if !key.starts_with(|c: char| c.is_ascii_lowercase()) {
        return key.to_owned();
    }
    let mut folded = String::with_capacity(key.len() + 4);
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            folded.push('_');
        }
        folded.push(c.to_ascii_lowercase());
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_fold_to_snake_case() {
        for (key, folded) in [("sqlTable", "sql_table"), ("sql_table", "sql_table"), ("SQL", "SQL"), ("Name", "Name")] {
            assert_eq!(snake_case(key), folded);
        }
    }

    fn open(source: &str, report: &mut Report) -> (Fields, Place) {
        let place = Place::of_file(Path::new("m.yml")).within("c");
        let node = super::super::yaml::parse(source).root.expect("a document");
        (Fields::open(node, "it", &place, report).expect("a map"), place)
    }

    #[track_caller]
    fn check_rendered(report: &Report, expected: &str) {
        let text: Vec<_> = report.diagnostics.iter().map(ToString::to_string).collect();
        assert_eq!(text.join("\n"), expected);
    }

    #[test]
    fn unknown_keys_come_with_the_nearest_known_one() {
        let mut report = Report::default();
        let (mut fields, place) = open("tpye: a\nsqlTable: b\nsql_table: c\nzebra: 1", &mut report);
        fields.check_keys(&["type", "sql_table"], &place, &mut report);
        check_rendered(
            &report,
            "m.yml:1:1: error: c: unknown key 'tpye'\n    hint: did you mean 'type'?\n\
             m.yml:3:1: error: c: duplicate key 'sql_table'\n\
             m.yml:4:1: error: c: unknown key 'zebra'\n    hint: known keys here: type, sql_table",
        );
    }

    #[test]
    fn wrong_shapes_are_faults_where_they_stand() {
        let mut report = Report::default();
        let (mut fields, place) = open("a: [1]\nb: {x: 1}\nc: yes\nd:\n  - {}\n  - ok\ne: 'x {y}'", &mut report);
        assert!(fields.text("a", &place, &mut report).is_none());
        assert!(fields.list("b", &place, &mut report).is_empty());
        assert_eq!(fields.flag("c", &place, &mut report), None);
        assert_eq!(fields.texts("d", &place, &mut report).len(), 1);
        fields.plain("e", &place, &mut report);
        check_rendered(
            &report,
            "m.yml:1:4: error: c: 'a' must be a text, not a list\n\
             m.yml:2:4: error: c: b must be defined as array\n    hint: write a list, one '- ' an entry; this is a map\n\
             m.yml:3:4: error: c: 'c' must be true or false, not 'yes'\n    hint: or an expression over COMPILE_CONTEXT\n\
             m.yml:5:5: error: c: an entry of d must be a text, not a map\n\
             m.yml:7:7: error: c: y is not defined\n    hint: write \\{ and \\} for braces that are meant as text",
        );
    }
}
