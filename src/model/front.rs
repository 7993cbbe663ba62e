//! All files of a model folder → a tree each, whatever language they are written in.
//!
//! YAML is read as it stands, templates are rendered first (`jinja`), JavaScript is run (`js`). What comes out has the
//! shape of a YAML file, so that nothing further on knows the difference.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::fields::{Place, Report};
use super::jinja::{self, Templates};
use super::js::{self, Script};
use super::settings::ModelSettings;
use super::yaml::{self, Document, Mark};
use crate::script::Limits;

/// What model files may ask while they are compiled (`data-model.md` §11.1).
#[derive(Debug, Clone, PartialEq)]
pub struct CompileContext {
    /// `COMPILE_CONTEXT.securityContext`: an object.
    pub security_context: Json,
    /// What `env_var` and `process.env` read.
    pub env: BTreeMap<String, String>,
    /// Whether the scheduler refreshes rollups that do not say.
    pub scheduled_refresh: bool,
    /// What the project's settings say.
    pub settings: ModelSettings,
}

impl Default for CompileContext {
    fn default() -> Self {
        Self {
            security_context: Json::Object(serde_json::Map::new()),
            env: BTreeMap::new(),
            scheduled_refresh: true,
            settings: ModelSettings::default(),
        }
    }
}

/// What a file is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    /// Rendered first when its text looks like a template.
    Yaml,
    /// YAML that is always rendered.
    Template,
    JavaScript,
    /// Macros, for templates to import.
    Library,
    /// Data, for scripts to import.
    Data,
    /// `globals.py`.
    Python,
    /// Something else.
    Other,
}

impl Language {
    pub(super) fn of(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| name.ends_with(suffix));
        match () {
            () if ends(&[".yml.jinja", ".yaml.jinja"]) => Self::Template,
            () if ends(&[".yml", ".yaml"]) => Self::Yaml,
            () if ends(&[".js"]) => Self::JavaScript,
            () if ends(&[".jinja"]) => Self::Library,
            () if ends(&[".json"]) => Self::Data,
            () if name == "globals.py" => Self::Python,
            () => Self::Other,
        }
    }

    /// Whether such a file defines cubes itself.
    pub(super) fn defines(self) -> bool {
        matches!(self, Self::Yaml | Self::Template | Self::JavaScript)
    }
}

/// Whether what a file defines depends on more than its text.
pub(super) fn asks(path: &Path, source: &str) -> bool {
    match Language::of(path) {
        Language::Yaml => jinja::is_template(source),
        language => language.defines(),
    }
}

/// Reads all files: a document for each that defines cubes, in their order. `root` is the model folder, as the paths
/// show it.
pub(super) fn read(
    files: &[(PathBuf, String)],
    root: &Path,
    context: &CompileContext,
    report: &mut Report,
) -> Vec<Option<Document>> {
    read_within(files, root, context, Limits::default(), report)
}

fn read_within(
    files: &[(PathBuf, String)],
    root: &Path,
    context: &CompileContext,
    limits: Limits,
    report: &mut Report,
) -> Vec<Option<Document>> {
    let mut scripts = run_scripts(files, root, context, limits, report);
    let mut templates = None;
    let mut documents = Vec::with_capacity(files.len());
    for (path, source) in files {
        let document = match Language::of(path) {
            Language::Yaml if !jinja::is_template(source) => Some(yaml::parse(source)),
            Language::Yaml | Language::Template => {
                let templates = templates.get_or_insert_with(|| Templates::new(files, root, context));
                Some(render(templates, path, source, report))
            }
            Language::JavaScript => Some(scripts.remove(&name_of(path)).unwrap_or_default()),
            Language::Python => {
                let message = "functions and variables of globals.py are not available: Python is not run";
                report.warn(&Place::of_file(path), Mark::START, message);
                None
            }
            Language::Library | Language::Data | Language::Other => None,
        };
        documents.push(document);
    }
    documents
}

fn render(templates: &Templates, path: &Path, source: &str, report: &mut Report) -> Document {
    templates.document(path, source).unwrap_or_else(|fault| {
        let place = Place::of_file(&fault.file);
        let known = report
            .diagnostics
            .iter()
            .any(|known| known.location == place.location(fault.mark) && known.message == fault.message);
        // A file that fails in each that imports it is told of once.
        if !known {
            report.error(&place, fault.mark, fault.message).hint = fault.hint;
        }
        Document { broken: true, ..Document::default() }
    })
}

/// Documents of all JavaScript files, by name. The engine is not started when there are none.
fn run_scripts(
    files: &[(PathBuf, String)],
    root: &Path,
    context: &CompileContext,
    limits: Limits,
    report: &mut Report,
) -> BTreeMap<String, Document> {
    let importable = |path: &Path| matches!(Language::of(path), Language::JavaScript | Language::Data);
    let paths: BTreeMap<String, &Path> =
        files.iter().filter(|(path, _)| importable(path)).map(|(path, _)| (name_of(path), path.as_path())).collect();
    let is_model = |path: &Path| Language::of(path) == Language::JavaScript;
    if !files.iter().any(|(path, _)| is_model(path)) {
        return BTreeMap::new();
    }
    let names: Vec<(String, &str)> =
        files.iter().filter(|(path, _)| importable(path)).map(|(path, text)| (name_of(path), text.as_str())).collect();
    let scripts: Vec<Script<'_>> = names.iter().map(|(name, text)| Script { name, text }).collect();
    let models: Vec<&str> = scripts.iter().map(|script| script.name).filter(|name| is_model(Path::new(name))).collect();
    let outcome = js::evaluate(&models, &scripts, &name_of(root), context, limits);
    let mut documents = outcome.documents;
    for finding in outcome.findings {
        let file = paths.get(&finding.file).copied().unwrap_or(Path::new(&finding.file));
        let place = finding.owner.iter().fold(Place::of_file(file), |place, name| place.within(name));
        report.doubtful.extend(finding.owner);
        let told = if finding.is_warning {
            report.warn(&place, finding.mark, finding.message)
        } else {
            report.error(&place, finding.mark, finding.message)
        };
        told.hint = finding.hint;
    }
    for name in outcome.broken {
        documents.insert(name, Document { broken: true, ..Document::default() });
    }
    documents
}

/// The path with `/`, whatever the system's separator is.
fn name_of(path: &Path) -> String {
    let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    parts.join("/").replacen("//", "/", 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::super::testing::{compile_files, render};
    use super::super::yaml::{Node, Value};
    use super::*;

    const LIMITS: Limits = Limits { time: Duration::from_millis(400), memory: 32 << 20, stack: 512 << 10 };

    fn context() -> CompileContext {
        CompileContext {
            scheduled_refresh: true,
            security_context: json!({"admin": true}),
            env: [("SCHEMA".to_owned(), "shop".to_owned())].into(),
            ..CompileContext::default()
        }
    }

    /// All documents as one tree, and what was told.
    fn read_all(files: &[(&str, &str)]) -> (Vec<Document>, Report) {
        let files: Vec<_> = files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
        let mut report = Report::default();
        let documents = read_within(&files, Path::new("model"), &context(), LIMITS, &mut report);
        (documents.into_iter().flatten().collect(), report)
    }

    #[track_caller]
    fn check(script: &str, expected: Json) {
        let (documents, report) = read_all(&[("model/m.js", script)]);
        assert_eq!(render(&report.diagnostics), "", "{script}");
        let root = documents[0].root.as_ref().expect("something defined");
        assert_eq!(root.to_json(), expected, "{script}");
    }

    /// Checks one property of a cube.
    #[track_caller]
    fn check_property(property: &str, expected: Json) {
        let script = format!("cube('a', {{ {property} }})");
        let (documents, report) = read_all(&[("model/m.js", &script)]);
        assert_eq!(render(&report.diagnostics), "", "{script}");
        let mut found = documents[0].root.as_ref().expect("a cube").to_json();
        let mut found = found["cubes"][0].take();
        let found =
            found.as_object_mut().expect("a map").shift_remove_entry("name").and_then(|_| found.as_object_mut());
        let value = found.and_then(|entries| entries.values().next().cloned());
        assert_eq!(value, Some(expected), "{script}");
    }

    #[track_caller]
    fn check_told(files: &[(&str, &str)], expected: &str) {
        let (_, report) = read_all(files);
        assert_eq!(render(&report.diagnostics), expected, "{files:?}");
    }

    #[test]
    fn references_become_braces() {
        check_property("sql: `${CUBE}.user_id = ${users.id}`", json!("{CUBE}.user_id = {users.id}"));
        check_property("sql: 'a ' + CUBE + '.b'", json!("a {CUBE}.b"));
        check_property("sql: users.name", json!("{users.name}"));
        check_property("sql: `SELECT * FROM ${users.sql()}`", json!("SELECT * FROM {users.sql()}"));
        check_property("sql: `x = '{a}'`", json!("x = '\\{a\\}'"));
        check_property("sql: [CUBE, users.id].join(' = ')", json!("{CUBE} = {users.id}"));
        check_property("sql: (CUBE, users) => `${CUBE}.a = ${users.b}`", json!("{CUBE}.a = {users.b}"));
        check_property("sql() { return `${CUBE}.a` }", json!("{CUBE}.a"));
        check_property("sql: function (TABLE) { return TABLE + '.a' }", json!("{TABLE}.a"));
        check_property("sql: 5", json!(5));
        check_property("title: `A {b} ${process.env.SCHEMA}`", json!("A \\{b\\} shop"));
    }

    #[test]
    fn calls_become_expressions() {
        check_property(
            "sql: `${FILTER_PARAMS.orders.at.filter('created_at')}`",
            json!("{FILTER_PARAMS.orders.at.filter('created_at')}"),
        );
        check_property(
            "sql: `${FILTER_PARAMS.o.at.filter((from, to) => `x >= ${from} AND y < ${to} -- \"{}\"`)}`",
            json!("{FILTER_PARAMS.o.at.filter(lambda from, to: f\"x >= {from} AND y < {to} -- \\\"\\{\\}\\\"\")}"),
        );
        check_property(
            "sql: `${FILTER_PARAMS.o.at.filter(x => x)}`",
            json!("{FILTER_PARAMS.o.at.filter(lambda x: x)}"),
        );
        check_property(
            "sql: `${SQL_UTILS.convertTz(`${CUBE}.created_at`)}`",
            json!("{SQL_UTILS.convertTz(f\"{CUBE}.created_at\")}"),
        );
        check_property(
            "sql: `${FILTER_GROUP(FILTER_PARAMS.o.a.filter('a'), FILTER_PARAMS.o.b.filter(\"it's\"))}`",
            json!("{FILTER_GROUP(FILTER_PARAMS.o.a.filter('a'), FILTER_PARAMS.o.b.filter('it\\'s'))}"),
        );
        check_property("sql: `${SECURITY_CONTEXT.a.b.unsafeValue()}`", json!("{SECURITY_CONTEXT.a.b.unsafeValue()}"));
        check_property("sql: `${f(1, true, CUBE.x)}`", json!("{f(1, True, CUBE.x)}"));
    }

    #[test]
    fn references_in_their_own_positions_have_no_braces() {
        check_property("extends: users", json!("users"));
        check_property(
            "dimensions: { a: { type: 'time', drillMembers: [users.city, `id`, `${CUBE}.x`] } }",
            json!([{"name": "a", "type": "time", "drillMembers": ["users.city", "id", "CUBE.x"]}]),
        );
        check_property(
            "pre_aggregations: { p: { measures: [CUBE.n], dimensions: (CUBE) => [CUBE.a, users.b], time_dimension: at } }",
            json!([{"name": "p", "measures": ["CUBE.n"], "dimensions": ["CUBE.a", "users.b"], "time_dimension": "at"}]),
        );
        check_property(
            "access_policy: [{ conditions: [{ if: `securityContext.role == 'x'` }], values: [securityContext.a] }]",
            json!([{"conditions": [{"if": "securityContext.role == 'x'"}], "values": ["{securityContext.a}"]}]),
        );
        check_property(
            "dimensions: { a: { mask: '***' }, b: { mask: -1 }, c: { mask: { sql: `f(${CUBE})` } } }",
            json!([{"name": "a", "mask": "\"***\""}, {"name": "b", "mask": -1}, {"name": "c", "mask": {"sql": "f({CUBE})"}}]),
        );
    }

    #[test]
    fn maps_by_name_become_lists() {
        check_property(
            "measures: { b: { type: 'count' }, a: {} }",
            json!([{"name": "b", "type": "count"}, {"name": "a"}]),
        );
        check_property("joins: [{ name: 'b', sql: `x` }]", json!([{"name": "b", "sql": "x"}]));
        check_property(
            "dimensions: { meta: { sql: () => `m` }, sql: { sql: CUBE.x } }",
            json!([{"name": "meta", "sql": "m"}, {"name": "sql", "sql": "{CUBE.x}"}]),
        );
        check_property(
            "dimensions: { t: { granularities: { w: { interval: '1 week' } } } }",
            json!([{"name": "t", "granularities": [{"name": "w", "interval": "1 week"}]}]),
        );
        check_property(
            "dimensions: { t: { granularities: { includes: ['day'], custom: { w: {} } } } }",
            json!([{"name": "t", "granularities": {"includes": ["day"], "custom": [{"name": "w"}]}}]),
        );
        check_property("measures: null", json!(null));
        check_property("measures: { a: undefined, b: { x: undefined } }", json!([{"name": "b"}]));
        check_property("measures: {2: {}, 1: {}}", json!([{"name": "1"}, {"name": "2"}]));
        check_property(
            "meta: { a: '{x}', sql: [1, null], measures: { b: {} }, at: new Date(0) }",
            json!({"a": "{x}", "sql": [1, null], "measures": {"b": {}}, "at": "1970-01-01T00:00:00.000Z"}),
        );
    }

    #[test]
    fn definitions_are_made_by_all_means() {
        check(
            "const o = { sql_table: 't' };\nfor (const n of ['a', 'b']) cube(n, { ...o, title: n })",
            json!({"cubes": [{"name": "a", "sql_table": "t", "title": "a"}, {"name": "b", "sql_table": "t", "title": "b"}]}),
        );
        check(
            "asyncModule(async () => { await null; cube('a', {}) }); asyncModule(() => cube('b', {})); cube('c', {})",
            json!({"cubes": [{"name": "c"}, {"name": "a"}, {"name": "b"}]}),
        );
        check(
            "view('v', { cubes: [{ join_path: () => a.b, includes: '*' }] }); viewGroup('g', { views: ['v'] })",
            json!({"views": [{"name": "v", "cubes": [{"join_path": "a.b", "includes": "*"}]}], "view_groups": [{"name": "g", "views": ["v"]}]}),
        );
        check(
            "const p = cube('p', {}); cube('c', { extends: p })",
            json!({"cubes": [{"name": "p"}, {"name": "c", "extends": "p"}]}),
        );
        check(
            "cube('a', { public: COMPILE_CONTEXT.securityContext.admin, title: COMPILE_CONTEXT.security_context.x })",
            json!({"cubes": [{"name": "a", "public": true}]}),
        );
        check(
            "export const x = 1;\ncube('a', { sql: `${CUBE}.x` })",
            json!({"cubes": [{"name": "a", "sql": "{CUBE}.x"}]}),
        );
    }

    #[test]
    fn parents_without_a_name_stand_apart() {
        let script = "const base = cube({ dimensions: { a: { sql: `${CUBE}.a` } } }); cube('c', { extends: base })";
        let (documents, report) = read_all(&[("model/m.js", script)]);
        assert_eq!(render(&report.diagnostics), "");
        let document = &documents[0];
        let cubes = document.root.as_ref().map(Node::to_json);
        assert_eq!(cubes, Some(json!({"cubes": [{"name": "c", "extends": "anonymous 1"}]})));
        let [(name, parent)] = document.anonymous.as_slice() else { panic!("one parent") };
        assert_eq!(name, "anonymous 1");
        assert_eq!(parent.to_json(), json!({"dimensions": [{"name": "a", "sql": "{CUBE}.a"}]}));
    }

    #[test]
    fn scripts_and_templates_give_the_same_trees() {
        let read = |folder: &str| {
            let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/languages").join(folder);
            let mut report = Report::default();
            let files = super::super::files::read_sources(&project, &project, &mut report);
            let documents = read_within(&files, Path::new(""), &context(), LIMITS, &mut report);
            assert_eq!(render(&report.diagnostics), "", "{folder}");
            let roots = documents.into_iter().flatten().filter_map(|document| document.root);
            let mut trees: Vec<Json> = roots.map(|root| root.to_json()).collect();
            trees.sort_by_key(|tree| tree["cubes"][0]["name"].to_string());
            trees
        };
        let (scripts, templates) = (read("javascript"), read("yaml"));
        for (script, template) in scripts.iter().zip(&templates) {
            let (script, template) = (format!("{script:#}"), format!("{template:#}"));
            let difference: Vec<_> = script.lines().zip(template.lines()).filter(|(a, b)| a != b).take(3).collect();
            assert_eq!(difference, [], "script, template");
            assert_eq!(script, template);
        }
        assert_eq!((scripts.len(), templates.len()), (3, 3));
    }

    #[test]
    fn places_are_found_in_the_text() {
        let script = "const x = 1;\ncube(`orders`, {\n  sql_table: `t`,\n  measures: {\n    total: { type: `sum`,\n      sql: `a` },\n  },\n});";
        let (documents, _) = read_all(&[("model/m.js", script)]);
        let mut node = documents[0].root.clone().expect("a cube");
        let mut seen = Vec::new();
        for step in ["cubes", "0", "measures", "0", "sql"] {
            node = match node.value {
                Value::Map(entries) => entries.into_iter().find(|entry| entry.key == step).expect("a key").value,
                Value::List(nodes) => nodes.into_iter().next().expect("an item"),
                Value::Scalar(_) => panic!("no more steps"),
            };
            seen.push((node.mark.line, node.mark.column));
        }
        assert_eq!(seen, [(2, 1), (2, 1), (4, 13), (5, 5), (6, 12)]);
    }

    #[test]
    fn faults_of_scripts_name_their_place_and_the_way_out() {
        check_told(&[("model/m.js", "\nthrow new Error('no luck')")], "model/m.js:2:11: error: no luck");
        check_told(
            &[("model/m.js", "cube('a', {\n  sql: ,\n})")],
            "model/m.js:2:8: error: Syntax error during 'model/m.js' parsing: unexpected token in expression: ','\n      sql: ,\n           ^",
        );
        check_told(
            &[("model/m.js", "const a = await f();")],
            "model/m.js:1:17: error: Syntax error during 'model/m.js' parsing: expecting ';'\n    const a = await f();\n                    ^\n    hint: wait inside a function: asyncModule(async () => { … })",
        );
        check_told(
            &[("model/m.js", "for (;;) {}")],
            "model/m.js:1:1: error: the script did not end within 400 ms\n    hint: look for a loop without end here; a model file has to come to its end by itself",
        );
        check_told(
            &[("model/m.js", "const f = () => 1 + f(); f()")],
            "model/m.js:1:20: error: the script calls too deep: it seems to call itself without end\n    hint: look for a function that calls itself without a condition to stop",
        );
        check_told(
            &[("model/m.js", "const { a } = require('lodash')")],
            "model/m.js:1:23: error: Package 'lodash' not found\n    hint: packages are not installed for model files: copy what is needed into the model folder and import it with './'",
        );
        check_told(
            &[("model/m.js", "import x from '../secret'")],
            "model/m.js:1:15: error: '../secret' restricted\n    hint: model files import from the model folder only",
        );
        check_told(
            &[("model/m.js", "asyncModule(async () => {\n  await null;\n  throw new Error('late')\n})")],
            "model/m.js:3:13: error: late",
        );
        check_told(
            &[("model/m.js", "asyncModule(() => new Promise(() => {}))")],
            "model/m.js:1:1: error: the script waits for a promise that nothing will settle\n    hint: there are no timers and no network here: settle the promise from code that runs",
        );
        check_told(&[("model/m.js", "cube(1, {})")], "model/m.js:1:1: error: TypeError: the name of a cube is a text");
    }

    #[test]
    fn memory_without_end_is_told_of() {
        let (_, report) =
            read_all(&[("model/m.js", "const a = [];\nfor (;;) a.push(new Array(10000).fill(a.length));")]);
        let told = render(&report.diagnostics);
        assert!(told.starts_with("model/m.js:2:"), "told: {told}");
        assert!(told.contains("uses more than 32 MB of memory\n    hint: "), "{told}");
    }

    #[test]
    fn what_cannot_be_data_is_told_of_where_it_stands() {
        check_told(
            &[("model/m.js", "cube('a', {\n  measures: {\n    n: {\n      meta: { f: () => 1 },\n    },\n  },\n})")],
            "model/m.js:4:18: error: a.n: 'f' is no data: data cannot hold a function",
        );
        check_told(
            &[("model/m.js", "const o = {}; o.o = o;\ncube('a', { meta: o })")],
            "model/m.js:2:19: error: a: 'o' is no data: the value contains itself",
        );
        check_told(
            &[("model/m.js", "cube('a', { title: Symbol('x') })")],
            "model/m.js:1:20: error: a: 'title' is no data: a symbol is not something that a model can hold",
        );
        check_told(
            &[("model/m.js", "cube('a', { meta: { r: users.x } })")],
            "model/m.js:1:24: error: a: 'r' is no data: users.x has no value while the model is compiled, so that data cannot hold it",
        );
        check_told(
            &[("model/m.js", "cube('a', {\n  sql: () => {\n    throw new Error('oh') },\n})")],
            "model/m.js:3:15: error: a: oh",
        );
        check_told(
            &[("model/m.js", "cube('a', { sql: async () => 'x' })")],
            "model/m.js:1:18: error: a: 'sql' is no data: a promise is not a value: wait for it inside asyncModule(async () => …)",
        );
        check_told(
            &[("model/m.js", "cube('a', { sql: `${CUBE * 2}` })")],
            "model/m.js:1:27: error: TypeError: CUBE has no value while the model is compiled: write the calculation in the SQL text",
        );
    }

    #[test]
    fn comparing_what_is_asked_per_request_is_a_fault() {
        let hint = "put it into a text, where it is evaluated for each request: `… ${securityContext.role} …`, or as a condition `if: 'securityContext.role == 1'`";
        check_told(
            &[("model/m.js", "cube('a', {\n  x: [{ on: securityContext.role === 'x' }] })")],
            &format!(
                "model/m.js:2:13: error: securityContext.role has a value only when someone asks: here it is compared, tested or left unused\n    hint: {hint}"
            ),
        );
        let (_, report) =
            read_all(&[("model/m.js", "cube('a', { sql: `${SECURITY_CONTEXT.x.unsafeValue() ? 1 : 2}` })")]);
        assert_eq!(report.diagnostics.len(), 1, "{}", render(&report.diagnostics));
        check_property(
            "sql: (SECURITY_CONTEXT) => `${SECURITY_CONTEXT.x.filter('x')}`",
            json!("{SECURITY_CONTEXT.x.filter('x')}"),
        );
    }

    #[test]
    fn hostile_models_are_told_of_and_nothing_worse() {
        for script in [
            "cube('a', { get sql() { for (;;) {} } })",
            "cube('a', new Proxy({}, { ownKeys() { throw new Error('x') } }))",
            "cube('a', { sql: { toString() { for (;;) {} } }, x: { toJSON: 1 } }); null.x",
            "cube('\\ud800', { sql: '\\ud800' }); null.x",
            "cube('a', { sql: () => () => () => () => () => () => () => () => () => () => 1 })",
            "let o = {}; for (let i = 0; i < 1e5; i++) o = { o }; cube('a', o)",
            "cube('a', { sql: users[Symbol.iterator]() })",
            "cube('a', { sql: `${users['a b']}` })",
            "users.x = 1",
            "new users()",
            "cube('a', { sql: ({ a }) => a })",
            "cube('a', { sql: (...a) => a })",
            "Array.prototype.push = null; cube('a', {})",
            "Object.keys = () => { throw new Error('x') }; cube('a', {})",
            "globalThis.__dump = null; cube('a', {})",
            "globalThis.__definitions = () => 1; null.x",
            "cube()",
            "view({})",
            "asyncModule(1)",
        ] {
            let (_, report) = read_all(&[("model/m.js", script)]);
            assert!(!report.diagnostics.is_empty(), "{script}");
        }
        for template in ["{{ ".to_owned() + &"(".repeat(50_000), "{% if 1 %}".repeat(50_000), "{{ [".repeat(50_000)] {
            let (_, report) = read_all(&[("model/m.yml", &template)]);
            assert!(!report.diagnostics.is_empty());
        }
        let (_, report) = read_all(&[("model/m.yml", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")]);
        assert_eq!(report.diagnostics.len(), 1, "{}", render(&report.diagnostics));
    }

    #[test]
    fn conditions_are_read_from_their_text() {
        let policy =
            |condition: &str| format!("access_policy: [{{ group: 'x', conditions: [{{ if: {condition} }}] }}]");
        let expected = |condition: &str| json!([{"group": "x", "conditions": [{"if": condition}]}]);
        for (written, read) in [
            ("securityContext.active", "securityContext.active"),
            ("securityContext.role === 'admin'", "securityContext.role == 'admin'"),
            ("!securityContext.a && security_context.b !== 1", "not securityContext.a and security_context.b != 1"),
            ("(securityContext) => securityContext.role === `x`", "securityContext.role == 'x'"),
            ("((of) => (securityContext) => !securityContext.x)(1)", "not securityContext.x"),
        ] {
            check_property(&policy(written), expected(read));
        }
        check_property(
            &policy("COMPILE_CONTEXT.securityContext.admin === true"),
            json!([{"group": "x", "conditions": [{"if": true}]}]),
        );
        check_told(
            &[("model/m.js", "cube('a', { conditions: [{ if: (securityContext) => securityContext.level > 3 }] })")],
            "model/m.js:1:32: error: a: the condition cannot be read: it may hold names with dots, texts, numbers, ===, !==, !, && and ||",
        );
        let (_, report) = read_all(&[("model/m.js", "cube('a', { conditions: [{ if: securityContext.level > 3 }] })")]);
        assert_eq!(report.diagnostics.len(), 1, "{}", render(&report.diagnostics));
    }

    #[test]
    fn a_file_that_fails_leaves_the_others() {
        let files = [
            ("model/bad.js", "cube('x', {}); nope.a.b(); null.c"),
            ("model/good.js", "cube('good', { sql_table: 't' })"),
            ("model/good.yml", "cubes: [{name: other, sql_table: t}]"),
        ];
        let (documents, report) = read_all(&files);
        assert_eq!(
            render(&report.diagnostics),
            "model/bad.js:1:27: error: TypeError: cannot read property 'c' of null"
        );
        assert!(documents[0].broken && documents[0].root.is_none());
        assert_eq!(
            documents[1].root.as_ref().map(Node::to_json),
            Some(json!({"cubes": [{"name": "good", "sql_table": "t"}]}))
        );
        assert!(documents[2].root.is_some());
    }

    #[test]
    fn a_helper_that_fails_is_told_of_once() {
        let files = [
            ("model/a.js", "import { x } from './helper'; cube('a', {})"),
            ("model/b.js", "require('./helper')"),
            ("model/helper.js", "export const x = 1;\nnull.c"),
        ];
        check_told(&files, "model/helper.js:2:1: error: TypeError: cannot read property 'c' of null");
    }

    #[test]
    fn definitions_of_helpers_stand_where_they_are_written() {
        let files = [
            ("model/make.js", "exports.make = (name) =>\n  cube(name, { sql_table: name });"),
            ("model/use.js", "const { make } = require('./make');\nmake('a'); make('b');"),
        ];
        let (documents, report) = read_all(&files);
        assert_eq!(render(&report.diagnostics), "");
        let names = |document: &Document| {
            document.root.as_ref().map(|root| root.to_json()["cubes"].as_array().map_or(0, Vec::len))
        };
        assert_eq!((names(&documents[0]), names(&documents[1])), (Some(2), None));
    }

    #[test]
    fn compiled_models_show_faults_where_scripts_have_them() {
        let script = "cube('a', {\n  sql_table: 't',\n  measures: {\n    n: { type: 'smu', sql: 'x' },\n    m: { type: 'number', sql: `${n} + ${missing}` },\n  },\n});";
        let found = compile_files(&[("a.js", script)]).expect_err("faults");
        let told: Vec<String> =
            found.iter().map(|d| d.to_string().lines().next().unwrap_or_default().chars().take(60).collect()).collect();
        assert_eq!(
            told,
            [
                "a.js:4:16: error: a.n: (measures.n.type = smu) must be one o",
                "a.js:5:31: error: a.m: missing is not defined"
            ]
        );
    }
}
