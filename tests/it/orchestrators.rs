//! Acceptance 5: the packages for Airflow, Dagster and Prefect run unchanged: success, the text of a failure, a
//! timeout, several tokens.
//!
//! Each package is installed with its orchestrator, pinned in `tests/checks/orchestrators/NAME.txt`, into an
//! environment of the cache folder; the scripts beside run it.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::events::{Month, events_project, seen_months, selector, uses_rollup, write_events};
use crate::python::{run_script, virtual_environment};
use crate::server::{Project, SECRET, Server, root, valid_token};

const MONTHS: [&str; 3] = ["2024-01", "2024-02", "2024-03"];

/// A rollup that fails, and one over more rows than anybody waits for.
pub(crate) const TROUBLES: &str = "
cubes:
  - name: broken
    sql: SELECT 1 / 0 AS n
    measures: [{name: n, type: sum, sql: n}]
    pre_aggregations: [{name: whole, measures: [n]}]
  - name: endless
    sql: SELECT value AS n FROM generate_series(1, 1000000000000)
    measures: [{name: n, type: sum, sql: n}]
    pre_aggregations: [{name: whole, measures: [n]}]
";

fn python_with(orchestrator: &str) -> PathBuf {
    let file = root().join("tests/checks/orchestrators").join(format!("{orchestrator}.txt"));
    let pins = fs::read_to_string(&file).expect("a list of pinned packages");
    // The list is whole, so that nothing is left for pip to resolve.
    let arguments = ["--no-deps", "-r", file.to_str().expect("a plain name")];
    virtual_environment(&format!("orchestrator-{orchestrator}"), &arguments, &pins)
}

/// A server whose rollups are built, over a source that has changed since.
fn started() -> (Project, Server) {
    let project = events_project(&MONTHS, 90);
    project.write("model/troubles.yml", TROUBLES);
    let server = Server::start_with_jobs(&project);
    server.build(&monthly(None));
    write_events(&project, &MONTHS.map(|name| Month { name, rows: 90, generation: 2 }));
    (project, server)
}

fn monthly(range: Option<[&str; 2]>) -> Value {
    match range {
        None => selector(&json!({"preAggregations": ["events.monthly"]})),
        Some(range) => selector(&json!({"preAggregations": ["events.monthly"], "dateRange": range})),
    }
}

/// February and March.
fn selected() -> Value {
    monthly(Some(["2024-02-01", "2024-03-31"]))
}

/// What was selected was rebuilt, and nothing else; the build that nobody waited out still runs.
#[track_caller]
fn check_server(server: &Server) {
    let generations: Vec<i64> = seen_months(server, "2024-03-31").iter().map(|month| month.generation()).collect();
    assert_eq!(generations, [1, 2, 2]);
    let endless = server.post_jobs(&selector(&json!({"cubes": ["endless"]})));
    let entry = &server.job_entries(&endless)[0];
    assert_eq!((&entry["status"], &entry["quarry"]["attempt"]), (&json!("processing"), &json!(1)), "{entry}");
    server.assert_alive();
}

#[track_caller]
fn error(result: &Value) -> &str {
    result["error"].as_str().unwrap_or_else(|| panic!("no failure: {result}"))
}

#[track_caller]
fn check_tokens(result: &Value) {
    let tokens = result["result"].as_array().unwrap_or_else(|| panic!("no tokens: {result}"));
    assert_eq!(tokens.len(), 2, "one a partition: {result}");
    assert!(tokens.iter().all(|token| token.as_str().is_some_and(|token| token.len() == 32)), "{result}");
}

#[test]
fn airflow_provider_cube_runs_unchanged() {
    let (_project, server) = started();
    let build = |selector: Value, complete: bool| {
        let arguments = json!({"selector": selector, "complete": complete, "wait": 0.1});
        json!({"operator": "CubeBuildOperator", "arguments": arguments})
    };
    let mut late = build(selector(&json!({"cubes": ["endless"]})), true);
    late["limit"] = json!(3);
    let query = json!({"operator": "CubeQueryOperator", "arguments": {"query": {"measures": ["events.generations"]}}});
    let task = json!({
        "host": format!("http://127.0.0.1:{}", server.port()), "secret": SECRET, "context": {"tenant": 1},
        "steps": [
            build(selected(), false),
            build(selected(), true),
            query,
            build(selector(&json!({"cubes": ["broken"]})), true),
            build(selector(&json!({"cubes": ["nobody"]})), true),
            late,
        ],
    });
    let results = run_script(&python_with("airflow"), "orchestrators/run_airflow.py", &task);
    check_tokens(&results[0]);
    assert_eq!(results[1]["result"], true, "{results}");
    assert_eq!(results[2]["result"]["data"], json!([{"events.generations": "450"}]), "{results}");
    assert!(uses_rollup(&results[2]["result"], "events.monthly"), "{results}");
    assert_eq!(error(&results[3]), "Exception: Cube pre-aggregations build failed: failure: division by zero.");
    assert!(error(&results[4]).ends_with("failed with the reason: Bad Request"), "{results}");
    assert!(error(&results[5]).starts_with("AirflowTaskTimeout"), "{results}");
    check_server(&server);
}

#[test]
fn dagster_cube_runs_unchanged() {
    let (_project, server) = started();
    let query = json!({"query": json!({"measures": ["events.generations"]}).to_string()});
    let task = json!({
        "host": format!("http://127.0.0.1:{}/cubejs-api/v1/", server.port()), "token": valid_token(),
        "steps": [
            {"method": "POST", "endpoint": "pre-aggregations/jobs", "data": {"action": "post", "selector": selected()}},
            {"selector": selected()},
            {"method": "GET", "endpoint": "load", "data": query},
            {"selector": selector(&json!({"cubes": ["broken"]}))},
            {"selector": selector(&json!({"cubes": ["nobody"]}))},
            {"selector": selector(&json!({"cubes": ["endless"]})), "limit": 3},
        ],
    });
    let results = run_script(&python_with("dagster"), "orchestrators/run_dagster.py", &task);
    check_tokens(&results[0]);
    assert_eq!(results[1]["result"], json!(["done", "done"]), "{results}");
    assert_eq!(results[2]["result"]["data"], json!([{"events.generations": "450"}]), "{results}");
    assert_eq!(error(&results[3]), "failure: division by zero");
    assert_eq!(error(&results[4]), "the request was refused");
    assert_eq!(error(&results[5]), "still ['processing'] at the deadline");
    check_server(&server);
}

#[test]
fn prefect_cubejs_runs_unchanged() {
    let (_project, server) = started();
    let build = |selector: Value, complete: bool| {
        json!({
            "task": "build_pre_aggregations",
            "arguments": {
                "selector": selector, "wait_for_job_run_completion": complete, "wait_time_between_api_calls": 1,
            },
        })
    };
    let mut late = build(selector(&json!({"cubes": ["endless"]})), true);
    late["limit"] = json!(3);
    let query = json!({"query": {"measures": ["events.generations"]}, "include_generated_sql": true});
    let task = json!({
        "url": format!("http://127.0.0.1:{}/cubejs-api", server.port()), "secret": SECRET, "context": {"tenant": 1},
        "steps": [
            build(selected(), false),
            build(selected(), true),
            {"task": "run_query", "arguments": query},
            build(selector(&json!({"cubes": ["broken"]})), true),
            build(selector(&json!({"cubes": ["nobody"]})), true),
            late,
        ],
    });
    let results = run_script(&python_with("prefect"), "orchestrators/run_prefect.py", &task);
    check_tokens(&results[0]);
    assert_eq!(results[1]["result"], true, "{results}");
    assert_eq!(results[2]["result"]["data"], json!([{"events.generations": "450"}]), "{results}");
    assert!(results[2]["result"]["sql"]["sql"].is_array(), "{results}");
    assert!(error(&results[3]).contains("build failed: failure: division by zero"), "{results}");
    assert!(error(&results[4]).contains("API failed: Bad Request"), "{results}");
    // What it says differs with the place where the time runs out.
    let late = error(&results[5]);
    assert!(late.contains("3.0 second(s)") && late.contains("Timeout"), "{results}");
    check_server(&server);
}
