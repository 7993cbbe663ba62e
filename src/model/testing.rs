//! Short cuts for this room's tests.

use std::path::PathBuf;

use super::compile::{Compiled, compile_sources};
use super::{CompileContext, Diagnostic, Model};

/// A cube with a key, `users` to join, and one member of each kind; `{more}` is put under `orders`.
const SHOP: &str = "\
cubes:
  - name: users
    sql_table: users
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: city, sql: city, type: string}
    measures:
      - {name: user_count, type: count}
  - name: orders
    sql_table: orders
    joins:
      - {name: users, relationship: many_to_one, sql: '{CUBE}.user_id = {users.id}'}
    segments:
      - {name: paid, sql: \"{CUBE}.status = 'paid'\"}
    measures:
      - {name: count, type: count}
      - {name: total, sql: amount, type: sum}
<measures>
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: status, sql: status, type: string}
      - {name: created_at, sql: created_at, type: time}
<dimensions>
<more>
";

/// [`SHOP`] with entries added to the lists of `orders`, one a line and without indentation, and `more` keys.
pub(crate) fn shop(measures: &str, dimensions: &str, more: &str) -> String {
    let indented =
        |text: &str, by: usize| text.lines().map(|line| format!("{:by$}{line}", "")).collect::<Vec<_>>().join("\n");
    SHOP.replace("<measures>", &indented(measures, 6))
        .replace("<dimensions>", &indented(dimensions, 6))
        .replace("<more>", &indented(more, 4))
}

pub(crate) fn compile(source: &str) -> Result<Compiled, Vec<Diagnostic>> {
    compile_files(&[("m.yml", source)])
}

pub(crate) fn compile_files(files: &[(&str, &str)]) -> Result<Compiled, Vec<Diagnostic>> {
    let files: Vec<_> = files.iter().map(|(path, source)| (PathBuf::from(path), (*source).to_owned())).collect();
    compile_sources(&files, &CompileContext::default())
}

pub(crate) fn render(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The model of a source that has no faults.
#[track_caller]
pub(crate) fn model(source: &str) -> Model {
    match compile(source) {
        Ok(compiled) => compiled.model,
        Err(diagnostics) => panic!("{}", render(&diagnostics)),
    }
}

/// All diagnostics of a source, without `m.yml:` and without hints.
#[track_caller]
pub(crate) fn diagnostics(source: &str) -> Vec<String> {
    let found = match compile(source) {
        Ok(compiled) => compiled.warnings,
        Err(diagnostics) => diagnostics,
    };
    found.iter().map(|d| d.to_string().lines().next().unwrap_or_default().replace("m.yml:", "")).collect()
}

/// Checks the one diagnostic that a changed shop has: everything behind the position, and the hint.
#[track_caller]
pub(crate) fn check_one(source: &str, expected: &str) {
    let found = match compile(source) {
        Ok(compiled) => compiled.warnings,
        Err(diagnostics) => diagnostics,
    };
    let shown: Vec<String> = found
        .iter()
        .map(|d| d.to_string().splitn(4, ':').nth(3).unwrap_or_default().trim_start().replace("\n    hint: ", " | "))
        .collect();
    assert_eq!(shown.join("\n"), expected, "\n{source}");
}
