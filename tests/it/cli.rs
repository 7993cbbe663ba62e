//! The command line, through the built binary.

use serde_json::{Value, json};

use crate::answers::as_rows;
use crate::events::{events_project, seen_months, uses_rollup};
use crate::server::{Project, SECRET, Server, printed, run};

const MONTHS: [&str; 2] = ["2024-01", "2024-02"];
const SETTINGS: [(&str, &str); 1] = [("CUBEJS_API_SECRET", SECRET)];

#[test]
fn help_names_every_command() {
    let project = Project::empty();
    let output = run(project.path(), &[], &["--help"]);
    assert!(output.status.success());
    for command in ["serve", "dev", "demo", "build", "query", "explain", "check", "token"] {
        assert!(printed(&output).contains(command), "{command} is missing:\n{}", printed(&output));
        assert!(run(project.path(), &[], &[command, "--help"]).status.success(), "{command} --help");
    }
    let output = run(project.path(), &[], &["serv"]);
    assert!(!output.status.success());
    assert!(printed(&output).contains("serve"), "the nearest command is named:\n{}", printed(&output));
}

#[test]
fn check_prints_every_fault_with_its_place() {
    let project = Project::copy("broken");
    let output = run(project.path(), &[], &["check"]);
    assert_eq!(output.status.code(), Some(1));
    let text = printed(&output);
    let faults = [
        ("model/faults.yml:5:", "description"),
        ("model/faults.yml:7:", "nobody"),
        ("model/faults.yml:17:", "text"),
        ("model/faults.yml:18:", "id"),
        ("model/faults.yml:28:", "sum"),
        ("model/faults.yml:32:", "totals"),
        ("model/faults.yml:35:", "missing"),
        ("model/faults.yml:37:", "fortnight"),
        ("model/syntax.yml:", ""),
    ];
    for (place, word) in faults {
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(place)).collect();
        assert!(!lines.is_empty(), "no fault at {place}\n{text}");
        assert!(text.contains(word), "{word} is not named\n{text}");
        for line in lines {
            let column = line.split(place).nth(1).and_then(|rest| rest.split([':', ' ']).next()).unwrap_or_default();
            assert!(column.parse::<u32>().is_ok_and(|column| column > 0), "no column: {line}");
        }
    }
    assert!(!text.contains("panicked"), "{text}");
    let served = run(project.path(), &SETTINGS, &["serve", "--host", "127.0.0.1", "--port", "0"]);
    assert!(!served.status.success() && printed(&served).contains("model/faults.yml:5:"), "{}", printed(&served));
}

#[test]
fn check_accepts_good_projects() {
    for fixture in ["events", "property", "recorded/project"] {
        let project = Project::copy(fixture);
        let output = run(project.path(), &[], &["check"]);
        assert!(output.status.success(), "{fixture}:\n{}", printed(&output));
    }
    let empty = Project::empty();
    let output = run(empty.path(), &[], &["check"]);
    assert_eq!(output.status.code(), Some(1), "a folder without model is no project:\n{}", printed(&output));
}

#[test]
fn a_token_of_the_command_line_is_taken() {
    let project = events_project(&MONTHS, 30);
    let output = run(project.path(), &SETTINGS, &["token"]);
    assert!(output.status.success(), "{}", printed(&output));
    let token = String::from_utf8(output.stdout).expect("a token is plain text");
    assert_eq!(token.trim().split('.').count(), 3, "standard output holds the token alone: {token:?}");
    let server = Server::start(&project);
    assert_eq!(server.call("GET", "/cubejs-api/v1/meta").token(token.trim()).send().status, 200);
    let output = run(project.path(), &[], &["token"]);
    assert!(!output.status.success() && printed(&output).contains("CUBEJS_API_SECRET"), "{}", printed(&output));
}

#[test]
fn build_and_query_work_without_a_server() {
    let project = events_project(&MONTHS, 30);
    let output = run(project.path(), &SETTINGS, &["build", "events.monthly"]);
    assert!(output.status.success(), "{}", printed(&output));
    let query = json!({"measures": ["events.count"], "dimensions": ["events.kind"], "order": {"events.kind": "asc"}});
    let output = run(project.path(), &SETTINGS, &["query", &query.to_string()]);
    assert!(output.status.success(), "{}", printed(&output));
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let rows = if answer.get("data").is_some() { as_rows(&answer["data"]) } else { as_rows(&answer) };
    let expected = [("click", "20"), ("it's", "20"), ("view", "20")];
    assert_eq!(rows, expected.map(|(kind, count)| json!({"events.kind": kind, "events.count": count})));

    let output = run(project.path(), &SETTINGS, &["query", r#"{"measures": ["events.nope"]}"#]);
    assert!(!output.status.success() && printed(&output).contains("'nope' not found"), "{}", printed(&output));
    let output = run(project.path(), &SETTINGS, &["build", "events.nope"]);
    assert!(!output.status.success(), "{}", printed(&output));

    // What was built is served.
    let server = Server::start(&project);
    assert_eq!(seen_months(&server, "2024-02-29").len(), 2);
    let by_kind = server.load(&json!({"measures": ["events.count"], "dimensions": ["events.kind"], "limit": 1}));
    assert!(!uses_rollup(&by_kind, "events.by_kind"), "only the one named was built: {by_kind}");
}

#[test]
fn the_demo_runs_to_its_end() {
    let folder = Project::empty();
    let target = folder.path().join("demo");
    let path = target.to_str().expect("a plain name");
    let output = run(folder.path(), &[], &["demo", path]);
    let text = printed(&output);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    for place in ["model", "data"] {
        assert!(target.join(place).is_dir(), "the demo writes {place}");
    }
    assert!(run(&target, &[], &["check"]).status.success(), "its model is good");
}
