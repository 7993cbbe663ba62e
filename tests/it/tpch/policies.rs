//! Access policies over the TPC-H project. `fixtures/*/policies/model` holds one more view, with policies;
//! `fixtures/tpch/policies/cases.json` says who asks what, and the SQL of what they may see.

use std::fs;

use serde_json::{Value, json};

use super::{Question, assert_none, expected_rows, project, text, way};
use crate::events::selector;
use crate::server::{LOAD, Project, Reply, SECRET, Server, root, sign, wait_until};

/// A question and who asks it.
struct Case {
    /// Claims of the token.
    context: Value,
    /// Whether nothing at all may be seen.
    denied: bool,
    question: Question,
}

fn cases() -> Vec<Case> {
    let text_of = fs::read_to_string(root().join("fixtures/tpch/policies/cases.json")).expect("the cases");
    let file: Value = serde_json::from_str(&text_of).expect("the cases are JSON");
    let case = |entry: &Value| {
        let mut request = entry.clone();
        request["way"] = entry["context"].to_string().into();
        let denied = entry["denied"] == json!(true);
        if denied {
            request["members"] = json!({});
            request["sql"] = "SELECT 1 WHERE 1 = 0".into();
        }
        let question = Question {
            name: text(&entry["name"]),
            sql: text(&request["sql"]),
            close: Vec::new(),
            ways: vec![way(&request)],
        };
        Case { context: entry["context"].clone(), denied, question }
    };
    file.as_array().expect("a list of cases").iter().map(case).collect()
}

/// The project with the view that has policies.
fn guarded(fixture: &str) -> Project {
    let project = project(fixture);
    for entry in fs::read_dir(project.path().join("policies/model")).expect("the policies") {
        let path = entry.expect("a readable folder").path();
        let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
        project.write(&format!("model/{name}"), &fs::read_to_string(&path).expect("a readable model file"));
    }
    project
}

fn ask(server: &Server, context: &Value, query: &Value) -> Reply {
    wait_until("an answer", std::time::Duration::from_secs(120), || {
        let call = server.call("POST", LOAD).token(&sign(context, SECRET));
        let reply = call.json(&json!({"query": query})).send();
        (!reply.body.contains("Continue wait")).then_some(reply)
    })
}

#[track_caller]
fn check_policies(fixture: &str) {
    let (contexts, questions): (Vec<_>, Vec<_>) =
        cases().into_iter().map(|case| ((case.context, case.denied), case.question)).unzip();
    let project = guarded(fixture);
    let expected = expected_rows(&questions, &project);
    let server = Server::start_with_jobs(&project);
    let ask_all = |with_rollups: bool| -> Vec<String> {
        let mut wrong = Vec::new();
        for ((question, expected), (context, denied)) in questions.iter().zip(&expected).zip(&contexts) {
            let way = &question.ways[0];
            let reply = ask(&server, context, &way.query);
            if *denied && reply.status != 200 {
                continue;
            }
            let rollup = way.rollup.as_deref().filter(|_| with_rollups);
            wrong.extend(question.check(way, &reply, expected, rollup).err());
        }
        wrong
    };
    assert_none(&ask_all(false));
    server.build(&selector(&json!({})));
    assert_none(&ask_all(true));
    server.assert_alive();
}

#[test]
fn policies_of_the_project_in_yaml_hold() {
    check_policies("tpch");
}

#[test]
fn policies_of_the_project_in_javascript_hold() {
    check_policies("tpch-js");
}
