//! Acceptance 3, second half: fixed queries are answered as another SQL engine answers hand-written SQL.
//!
//! `fixtures/duckdb/cases.json` holds requests and SQL side by side; `tests/checks/duckdb/answers.py` runs the SQL
//! (Python package `duckdb`, a tool of the tests only).

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

use crate::answers::{Numbers, RowOrder, as_rows, compare_rows};
use crate::events::selector;
use crate::property::property_project;
use crate::python::{run_script, virtual_environment};
use crate::server::{Project, Server, root};

const SEED: u64 = 1;

/// A Python that has the package, of the machine or of the cache folder.
fn python() -> PathBuf {
    let system = PathBuf::from("python3");
    let import = Command::new(&system).args(["-c", "import duckdb"]).stderr(Stdio::null()).status();
    if import.is_ok_and(|status| status.success()) { system } else { virtual_environment("venv", &["duckdb"], "") }
}

/// What `tests/checks/duckdb/answers.py` says to a task.
pub(crate) fn second_opinion(task: &Value) -> Value {
    run_script(&python(), "duckdb/answers.py", task)
}

fn cases() -> Vec<Value> {
    let text = fs::read_to_string(root().join("fixtures/duckdb/cases.json")).expect("the cases");
    let cases: Value = serde_json::from_str(&text).expect("the cases are JSON");
    cases.as_array().expect("a list of cases").clone()
}

/// The engine's rows under the members of our answer, by position; our answer repeats times under bare names after
/// all real columns.
fn rows_under(members: &[String], answer: &Value) -> Vec<Value> {
    let named = |row: &Value| -> Value {
        let cells = row.as_array().expect("a row is a list");
        members.iter().zip(cells).map(|(name, cell)| (name.clone(), cell.clone())).collect::<Map<_, _>>().into()
    };
    answer["rows"].as_array().expect("rows").iter().map(named).collect()
}

/// What differs in one case.
pub(crate) fn check(server: &Server, case: &Value, opinion: &Value) -> Result<(), String> {
    if let Some(error) = opinion["error"].as_str() {
        return Err(format!("the SQL does not run: {error}"));
    }
    let mut query = case["query"].clone();
    query["responseFormat"] = json!("compact");
    let reply = server.ask(&query);
    if reply.status != 200 {
        return Err(format!("refused: {}", reply.body));
    }
    let answer = reply.value();
    let members = crate::answers::texts(&answer["data"]["members"]);
    let width = opinion["columns"].as_array().map_or(0, Vec::len);
    // Without rows there are no columns in this form; then the row counts are compared below.
    let width = if members.is_empty() { 0 } else { width };
    if members.len() < width {
        return Err(format!("{width} columns expected, {members:?} given"));
    }
    let columns = &members[..width];
    let expected = rows_under(columns, opinion);
    let mut given = as_rows(&answer["data"]);
    for row in given.iter_mut().filter_map(Value::as_object_mut) {
        row.retain(|name, _| columns.contains(name));
    }
    let close = crate::answers::texts(&case["close"]);
    let numbers = |name: &str| if close.iter().any(|close| close == name) { Numbers::Close } else { Numbers::Exact };
    compare_rows(&expected, &given, &RowOrder::of(&query), &numbers)?;
    if case["total"] != answer.get("total").cloned().unwrap_or(Value::Null) {
        return Err(format!("total {} expected, {:?} given", case["total"], answer.get("total")));
    }
    let used = answer.get("usedPreAggregations").is_some();
    match case["rollup"].as_bool() {
        Some(expected) if expected != used => Err(format!("rollup used: {used}")),
        _ => Ok(()),
    }
}

#[test]
fn another_engine_gives_the_same_answers() {
    let cases = cases();
    assert!(cases.len() >= 50, "only {} cases", cases.len());
    let (tpch, property) = (Project::copy("recorded/project"), property_project(SEED));
    let task = json!({"projects": {"tpch": tpch.path(), "property": property.path()}, "cases": cases});
    let opinions = second_opinion(&task);

    let servers = [("tpch", Server::start_with_jobs(&tpch)), ("property", Server::start_with_jobs(&property))];
    for (_, server) in &servers {
        server.build(&selector(&json!({})));
    }
    let mut wrong = Vec::new();
    for case in &cases {
        let (_, server) = servers.iter().find(|(name, _)| case["project"] == *name).expect("a known project");
        let opinion = &opinions[case["name"].as_str().expect("a name")];
        if let Err(text) = check(server, case, opinion) {
            wrong.push(format!("{}: {text}\n    sql: {}\n    query: {}", case["name"], case["sql"], case["query"]));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
