//! YAML files that are templates: Jinja by minijinja (`data-model.md` §1.4).

mod lines;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};
use serde_json::Value as Json;

use super::front::CompileContext;
use super::yaml::{self, Document, Mark};
use crate::names::nearest;

/// Most steps of the template engine for one file.
const MAX_STEPS: u64 = 20_000_000;
/// Most bytes that one template may render to.
const MAX_OUTPUT: usize = 20 << 20;
/// What every template can use.
const GLOBALS: [&str; 8] = ["COMPILE_CONTEXT", "env_var", "range", "dict", "namespace", "debug", "loop", "caller"];

/// Why a template cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TemplateFault {
    /// The file, which may be one that the template imports.
    pub(super) file: PathBuf,
    pub(super) mark: Mark,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// The templates of a model folder.
pub(super) struct Templates {
    engine: Environment<'static>,
    /// Names below the model folder, as templates import them.
    names: Vec<String>,
    root: PathBuf,
    /// Functions are defined in Python there; they are not run.
    globals: Option<PathBuf>,
}

/// Whether a YAML file is a template, by its text.
pub(super) fn is_template(source: &str) -> bool {
    ["{%", "%}", "{{", "}}"].iter().any(|sign| source.contains(sign))
}

impl Templates {
    /// All files below `root` can be imported.
    pub(super) fn new(files: &[(PathBuf, String)], root: &Path, context: &CompileContext) -> Self {
        let is_python = |path: &Path| path.file_name().is_some_and(|name| name == "globals.py");
        let globals = files.iter().map(|(path, _)| path).find(|path| is_python(path)).cloned();
        let texts: BTreeMap<String, String> = files
            .iter()
            .filter(|(path, _)| !is_python(path))
            .map(|(path, source)| (name_of(path, root), source.clone()))
            .collect();
        let names = texts.keys().cloned().collect();
        let mut engine = Environment::new();
        engine.set_loader(move |name| Ok(texts.get(name).cloned()));
        engine.set_path_join_callback(|name, _parent| name.trim_start_matches("./").to_owned().into());
        engine.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        engine.set_auto_escape_callback(|_name| AutoEscape::Json);
        engine.set_fuel(Some(MAX_STEPS));
        engine.set_debug(true);
        let env = Arc::new(context.env.clone());
        engine.add_function("env_var", move |name: String, default: Option<Value>| match (env.get(&name), default) {
            (Some(value), _) => Ok(Value::from(value.as_str())),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(Error::new(ErrorKind::InvalidOperation, format!("unknown env variable {name}"))),
        });
        let security = value(&context.security_context);
        let compile = [("securityContext", security.clone()), ("security_context", security)];
        engine.add_global("COMPILE_CONTEXT", Value::from_pairs(compile));
        engine.add_global("null", Value::from(()));
        Self { engine, names, root: root.to_path_buf(), globals }
    }

    /// Renders a file and reads the YAML that comes out. Places are those of the template.
    ///
    /// # Errors
    /// The template cannot be rendered.
    pub(super) fn document(&self, path: &Path, source: &str) -> Result<Document, TemplateFault> {
        let source = source.strip_prefix('\u{feff}').unwrap_or(source);
        let marked = lines::marked(source);
        let name = name_of(path, &self.root);
        let output = match render(&self.engine, &name, &marked) {
            Err(error) if self.lacks_only_parts(&error, &marked) => {
                let mut lenient = self.engine.clone();
                lenient.set_undefined_behavior(UndefinedBehavior::Lenient);
                render(&lenient, &name, &marked)
            }
            output => output,
        };
        let output = output.map_err(|error| self.fault(path, &name, &error))?;
        let rendered = lines::unmarked(&String::from_utf8_lossy(&output));
        let mut document = yaml::parse(&rendered.text);
        rendered.locate(&mut document, source);
        Ok(document)
    }

    /// Whether an expression failed because a value lacks an entry that others of its kind may have. Such entries are
    /// null, as in Cube; a name that nothing defines stays a fault.
    fn lacks_only_parts(&self, error: &Error, source: &str) -> bool {
        let cause = cause_of(error);
        let expression = expression_of(cause);
        let root = root_of(expression);
        let names = self.engine.template_from_str(source).map(|template| template.undeclared_variables(false));
        cause.kind() == ErrorKind::UndefinedError
            && root.len() < expression.len()
            && self.is_known(cause, root)
            && names.is_ok_and(|names| names.iter().all(|name| name == "null" || GLOBALS.contains(&name.as_str())))
    }

    fn fault(&self, path: &Path, name: &str, error: &Error) -> TemplateFault {
        let cause = cause_of(error);
        let located = [cause, error].into_iter().find(|error| error.line().is_some()).unwrap_or(cause);
        let file = match located.name() {
            Some(other) if other != name && self.names.iter().any(|known| known == other) => self.root.join(other),
            _ => path.to_path_buf(),
        };
        let mark = mark_of(located);
        let (message, hint) = self.explain(cause);
        TemplateFault { file, mark, message, hint }
    }

    fn explain(&self, cause: &Error) -> (String, Option<String>) {
        let detail = cause.detail().unwrap_or_default();
        match cause.kind() {
            ErrorKind::OutOfFuel => (
                format!("the template does not end within {MAX_STEPS} steps"),
                Some("look for loops within loops here".to_owned()),
            ),
            ErrorKind::WriteFailure => (
                format!("the template renders to more than {} MB", MAX_OUTPUT >> 20),
                Some("look for a loop that writes too often".to_owned()),
            ),
            ErrorKind::UndefinedError => {
                let expression = expression_of(cause);
                let root = root_of(expression);
                let is_part = root.len() < expression.len() && self.is_known(cause, root);
                let shown = if is_part { expression } else { root };
                let message = if shown.is_empty() {
                    "a value is not defined".to_owned()
                } else {
                    format!("'{shown}' is not defined")
                };
                (message, self.hint(cause, root).filter(|_| !is_part))
            }
            ErrorKind::UnknownFunction | ErrorKind::UnknownFilter | ErrorKind::UnknownTest => {
                let unknown = detail.split_whitespace().nth(1).unwrap_or_default();
                (format!("the template uses what there is not: {detail}"), self.hint(cause, unknown))
            }
            ErrorKind::TemplateNotFound => {
                let wanted = detail.split(['"', '\'']).nth(1).unwrap_or_default();
                let near = nearest(wanted, self.names.iter().map(String::as_str));
                let hint = near.map_or("paths are relative to the model folder".to_owned(), |near| {
                    format!("did you mean '{near}'?")
                });
                (format!("the template '{wanted}' is not there"), Some(hint))
            }
            ErrorKind::InvalidOperation if detail.starts_with("unknown env variable") => {
                (detail.to_owned(), Some("set it, or give a default: env_var('NAME', 'default')".to_owned()))
            }
            ErrorKind::SyntaxError => (format!("the template is not valid: {detail}"), None),
            kind if detail.is_empty() => (format!("the template fails: {kind}"), None),
            kind => (format!("the template fails: {kind}: {detail}"), None),
        }
    }

    /// What else could be meant.
    fn hint(&self, cause: &Error, unknown: &str) -> Option<String> {
        let source = cause.template_source().unwrap_or_default();
        let names = names_in(source).into_iter().filter(|name| *name != unknown);
        if let Some(near) = nearest(unknown, names.chain(GLOBALS)) {
            return Some(format!("did you mean '{near}'?"));
        }
        let file = self.globals.as_ref()?;
        Some(format!("functions and variables of {} are not available: Python is not run", file.display()))
    }

    fn is_known(&self, cause: &Error, name: &str) -> bool {
        GLOBALS.contains(&name) || names_in(cause.template_source().unwrap_or_default()).contains(&name)
    }
}

/// JSON as templates see it.
fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Value::from(whole),
            (None, Some(whole)) => Value::from(whole),
            (None, None) => number.as_f64().map_or(Value::from(()), Value::from),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(value).collect::<Vec<_>>()),
        Json::Object(entries) => Value::from_pairs(entries.iter().map(|(key, json)| (key.as_str(), value(json)))),
    }
}

/// The name by which templates import a file.
fn name_of(path: &Path, root: &Path) -> String {
    let below = path.strip_prefix(root).unwrap_or(path);
    let parts: Vec<_> = below.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    parts.join("/")
}

fn mark_of(error: &Error) -> Mark {
    let column = failing(error).map_or(1, |(source, at, _)| {
        let line = source[..at].rsplit('\n').next().unwrap_or_default();
        line.chars().count() + 1
    });
    Mark { line: error.line().unwrap_or(1).max(1), column }
}

fn render(engine: &Environment<'_>, name: &str, source: &str) -> Result<Vec<u8>, Error> {
    let mut output = Bounded(Vec::new());
    engine.template_from_named_str(name, source)?.render_captured_to((), &mut output)?;
    Ok(output.0)
}

/// The innermost error; those around it say through which import it came.
fn cause_of(error: &Error) -> &Error {
    let mut cause = error;
    while let Some(inner) = std::error::Error::source(cause).and_then(|source| source.downcast_ref::<Error>()) {
        cause = inner;
    }
    cause
}

/// The name that an expression begins with.
fn root_of(expression: &str) -> &str {
    let end = expression.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(expression.len());
    &expression[..end]
}

/// The text of the expression that failed.
fn expression_of(error: &Error) -> &str {
    let text = failing(error).map_or("", |(source, at, end)| &source[at..end]);
    text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '{' | '}' | '-'))
}

/// The template, and where the expression that failed begins and ends. The engine points at the last step of a path;
/// its beginning belongs to it.
fn failing(error: &Error) -> Option<(&str, usize, usize)> {
    let (range, source) = (error.range()?, error.template_source()?);
    source.get(range.clone())?;
    let is_path = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
    let begins_inside = source[range.clone()].starts_with(['.', '[']);
    let start = if begins_inside { source[..range.start].trim_end_matches(is_path).len() } else { range.start };
    Some((source, start, range.end))
}

/// Names that a template defines.
fn names_in(source: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut names = Vec::new();
    for tag in source.split("{%").skip(1).filter_map(|rest| rest.split("%}").next()) {
        let mut words = tag.split(|c: char| !is_name(c)).filter(|word| !word.is_empty());
        match words.next() {
            Some("set" | "macro") => names.extend(words),
            Some("for") => names.extend(words.take_while(|word| *word != "in")),
            Some("import" | "from" | "with") => names.extend(words),
            _ => {}
        }
    }
    names
}

/// Takes so many bytes and no more.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::Error::other("too much output"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn context() -> CompileContext {
        CompileContext {
            scheduled_refresh: true,
            security_context: json!({"tenant": "acme", "plan": null}),
            env: [("SCHEMA".to_owned(), "shop".to_owned())].into(),
            ..CompileContext::default()
        }
    }

    fn document(source: &str, libraries: &[(&str, &str)]) -> Result<Document, TemplateFault> {
        let files: Vec<_> =
            libraries.iter().map(|(path, text)| (PathBuf::from(format!("model/{path}")), (*text).to_owned())).collect();
        let templates = Templates::new(&files, Path::new("model"), &context());
        templates.document(Path::new("model/m.yml"), source)
    }

    #[track_caller]
    fn check(source: &str, expected: Json) {
        check_with(source, &[("macros.jinja", LIBRARY)], expected);
    }

    #[track_caller]
    fn check_with(source: &str, libraries: &[(&str, &str)], expected: Json) {
        let document = document(source, libraries).unwrap_or_else(|fault| panic!("{fault:?}\n{source}"));
        assert_eq!(document.faults, [], "{source}");
        assert_eq!(document.root.map(|root| root.to_json()), Some(expected), "{source}");
    }

    #[track_caller]
    fn check_fault(source: &str, expected: &str) {
        let fault = match document(source, &[("macros.jinja", LIBRARY), ("bad.jinja", "a\n{{ nope }}")]) {
            Err(fault) => fault,
            Ok(document) => panic!("{document:?}"),
        };
        let hint = fault.hint.map(|hint| format!(" | {hint}")).unwrap_or_default();
        let shown =
            format!("{}:{}:{}: {}{hint}", fault.file.display(), fault.mark.line, fault.mark.column, fault.message);
        assert_eq!(shown, expected, "{source}");
    }

    const LIBRARY: &str = "{% macro col(name, type='string', pk=False) -%}
- {name: {{ name }}, type: {{ type }}{% if pk %}, primary_key: true{% endif %} }
{%- endmacro %}
{% set schema = 'lib' %}";

    #[test]
    fn statements_and_macros_render() {
        check(
            "{% for k, v in {'b': 1, 'a': 2} | items %}\n{{ k | safe }}: {{ v }}\n{% endfor %}",
            json!({"a": 2, "b": 1}),
        );
        check("{% if x is defined %}a: 1{% elif 1 == 2 %}b: 1{% else %}c: 1{% endif %}", json!({"c": 1}));
        check("{% set t = 'or' ~ 'ders' %}a: {{ t }}", json!({"a": "orders"}));
        check(
            "{% import 'macros.jinja' as m %}a:\n{{ m.col('id', pk=True) }}\n{{ m.col('x', type='time') }}",
            json!({"a": [{"name": "id", "type": "string", "primary_key": true}, {"name": "x", "type": "time"}]}),
        );
        check(
            "{% from './macros.jinja' import col, schema %}a: [{{ schema }}]\nb:\n{{ col('x') }}",
            json!({"a": ["lib"], "b": [{"name": "x", "type": "string"}]}),
        );
        check_with("{% include 'part.jinja' %}", &[("part.jinja", "a: {{ 1 + 1 }}")], json!({"a": 2}));
        check("{# c #}a: {% raw %}'{{ x }}'{% endraw %}", json!({"a": "{{ x }}"}));
        check("a:\n  {%- for i in range(2) %}\n  - {{ loop.index }}\n  {%- endfor %}", json!({"a": [1, 2]}));
        check(
            "a: [{{ True }}, {{ False }}, {{ None }}, {{ null }}]",
            json!([true, false, null, null]).as_array().map_or(Json::Null, |a| json!({"a": a})),
        );
        check("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}a: {{ i }}{% endfor %}", json!({"a": 1}));
        check("a: \"{CUBE}.x = {users.id}\" {% set y = 1 %}", json!({"a": "{CUBE}.x = {users.id}"}));
    }

    #[test]
    fn filters_and_tests_work() {
        check("a: {{ ['x', 'y'] | length }}", json!({"a": 2}));
        check("a: {{ ['x', 'y'] | join(', ') }}", json!({"a": "x, y"}));
        check("a: {{ 'Xy' | lower }}{% set u = 'x' | upper %}\nb: {{ u }}", json!({"a": "xy", "b": "X"}));
        check("a: {{ 'a-b' | replace('-', '_') }}", json!({"a": "a_b"}));
        check(
            "a: {{ missing | default('d') }}\nb: {{ [{'n': 1}] | map(attribute='n') | list }}",
            json!({"a": "d", "b": [1]}),
        );
        check("a: {{ none is none }}\nb: {{ x is not defined }}", json!({"a": true, "b": true}));
    }

    #[test]
    fn values_are_escaped_as_json_unless_they_are_safe() {
        check("a: {{ 'it''s' }}", json!({"a": "its"}));
        check("a: {{ 'x: \"y\"' }}", json!({"a": "x: \"y\""}));
        check("a: {{ [1, 'b'] }}", json!({"a": [1, "b"]}));
        check("a: sum_{{ 'b' | safe }}", json!({"a": "sum_b"}));
        check("a: sum_{{ 'b' }}", json!({"a": "sum_\"b\""}));
    }

    #[test]
    fn contexts_can_be_asked() {
        check("a: {{ COMPILE_CONTEXT.securityContext.tenant }}", json!({"a": "acme"}));
        check("a: {{ COMPILE_CONTEXT['security_context']['plan'] }}", json!({"a": null}));
        check("a: {{ env_var('SCHEMA') | safe }}.{{ env_var('X', 'd') | safe }}", json!({"a": "shop.d"}));
    }

    #[test]
    fn entries_that_a_value_lacks_are_null() {
        check(
            "{% set rows = [{'n': 'x', 't': 'X'}, {'n': 'y'}] %}\na:\n{% for row in rows %}\n  - {name: {{ row.n }}, title: {{ row.t }} }\n{%- endfor %}",
            json!({"a": [{"name": "x", "title": "X"}, {"name": "y", "title": null}]}),
        );
        check("{% set row = {} %}\na: [{% for x in row.filters %}{{ x }},{% endfor %}]", json!({"a": []}));
        check("a: {{ COMPILE_CONTEXT.securityContext.nope }}", json!({"a": null}));
        check_fault("{% set row = {} %}\na: {{ row.t }}{{ rov }}", "model/m.yml:2:7: 'row.t' is not defined");
    }

    #[test]
    fn plain_files_with_double_braces_are_read_as_they_are() {
        check("a: {name: a, x: {y: {z: 1}}}", json!({"a": {"name": "a", "x": {"y": {"z": 1}}}}));
        assert!(is_template("a: {x: {y: 1}}") && is_template("%}") && !is_template("a: {x: {y: 1} }"));
    }

    #[test]
    fn faults_of_templates_have_their_place() {
        check_fault(
            "a: 1\nb: {{ scheme }}\n{% set schema = 1 %}",
            "model/m.yml:2:7: 'scheme' is not defined | did you mean 'schema'?",
        );
        check_fault(
            "a: {{ COMPILE_CONTEXT.securityContext.nope.x }}",
            "model/m.yml:1:7: 'COMPILE_CONTEXT.securityContext.nope.x' is not defined",
        );
        check_fault(
            "a: {{ env_var('NOPE') }}",
            "model/m.yml:1:7: unknown env variable NOPE | set it, or give a default: env_var('NAME', 'default')",
        );
        check_fault("\n{% for x in %}", "model/m.yml:2:13: the template is not valid: unexpected end of block");
        check_fault(
            "a: {{ load_data() }}",
            "model/m.yml:1:7: the template uses what there is not: load_data is unknown",
        );
        check_fault(
            "{% import 'macro.jinja' as m %}",
            "model/m.yml:1:4: the template 'macro.jinja' is not there | did you mean 'macros.jinja'?",
        );
        check_fault("a: 1\n{% include 'bad.jinja' %}", "model/bad.jinja:2:4: 'nope' is not defined");
    }

    #[test]
    fn python_is_named_where_it_is_missed() {
        let fault = document("a: {{ load_data() }}", &[("globals.py", "def load_data(): ...")]).expect_err("unknown");
        let hint = "functions and variables of model/globals.py are not available: Python is not run";
        assert_eq!(fault.hint.as_deref(), Some(hint));
    }

    #[test]
    fn runaway_templates_are_stopped() {
        let steps = "{% for a in range(9999) %}{% for b in range(9999) %}{% set x = a * b %}{% endfor %}{% endfor %}";
        check_fault(
            steps,
            "model/m.yml:1:64: the template does not end within 20000000 steps | look for loops within loops here",
        );
        let bytes = "{% for a in range(9999) %}{% for b in range(9999) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}";
        check_fault(
            bytes,
            "model/m.yml:1:1: the template renders to more than 20 MB | look for a loop that writes too often",
        );
    }

    #[test]
    fn faults_of_the_yaml_point_into_the_template() {
        let marks = |source: &str| -> Vec<(usize, usize)> {
            let document = document(source, &[("macros.jinja", LIBRARY)]).expect("rendered");
            document.faults.iter().map(|fault| (fault.mark.line, fault.mark.column)).collect()
        };
        assert_eq!(
            marks("{% set x = 1 %}\n{% for i in range(3) %}\n# {{ i }}\n{% endfor %}\na: 1\na: {{ x }}"),
            [(6, 1)]
        );
        assert_eq!(marks("{% for i in range(2) -%}\n\nk:   {{ i }}\n{% endfor %}\n"), [(3, 1)]);
        assert_eq!(marks("{% if true %}\na: {b: 1, {{ 'b' }}: 2}\n{% endif %}"), [(2, 11)]);
    }

    #[test]
    fn places_of_values_are_those_of_the_template() {
        let document = document("{% set x = 'é' %}\n\na: \"{b} {{ x | safe }} {c}\"\n", &[]).expect("rendered");
        let Some(yaml::Node { value: yaml::Value::Map(entries), .. }) = document.root else { panic!("no map") };
        assert_eq!((entries[0].key_mark.line, entries[0].key_mark.column), (3, 1));
        let yaml::Value::Scalar(scalar) = &entries[0].value.value else { panic!("no text") };
        assert_eq!((scalar.braces[0].line, scalar.braces[0].column), (3, 5));
    }
}
