//! Models in JavaScript and Jinja, through the built binary.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::events::events_project;
use crate::server::{Project, Server, pause, printed, run, wait_until};

const TABLES: &str = "exports.tables = ['events'];\n";
const SCRIPT: &str = "\
import { tables } from './tables';

for (const table of tables) {
  cube(`js_${table}`, {
    sql_table: table,
    dimensions: { kind: { sql: `${CUBE}.kind`, type: `string` } },
    measures: {
      count: { type: `count` },
      clicks: { type: `count`, filters: [{ sql: `${kind} = 'click'` }] },
    },
  });
}
";
const TEMPLATE: &str = "\
cubes:
{%- for table in [env_var('EVENTS_TABLE')] %}
  - name: jinja_{{ table | safe }}
    sql_table: {{ table }}
    dimensions: [{name: kind, sql: \"{CUBE}.kind\", type: string}]
    measures:
      - {name: count, type: count}
      - {name: clicks, type: count, filters: [{sql: \"{kind} = 'click'\"}]}
{%- endfor %}
";

fn project() -> Project {
    let project = events_project(&["2024-01"], 30);
    project.write("model/tables.js", TABLES);
    project.write("model/script.js", SCRIPT);
    project.write("model/template.yml", TEMPLATE);
    project
}

#[test]
fn scripts_and_templates_answer_like_yaml() {
    let server = Server::start_with(&project(), &[("EVENTS_TABLE", "events")]);
    for cube in ["js_events", "jinja_events"] {
        let query = json!({
            "measures": [format!("{cube}.count"), format!("{cube}.clicks")],
            "dimensions": [format!("{cube}.kind")],
            "order": [[format!("{cube}.kind"), "asc"]],
        });
        let rows = server.rows(&query);
        let counts: Vec<_> = rows.iter().map(|row| row[format!("{cube}.count")].to_string()).collect();
        let clicks: Vec<_> = rows.iter().map(|row| row[format!("{cube}.clicks")].to_string()).collect();
        assert_eq!((counts.len(), &clicks[0], &clicks[1]), (3, &counts[0], &"\"0\"".to_owned()), "{rows:?}");
    }
}

#[test]
fn runaway_scripts_are_told_of_with_their_place() {
    let project = project();
    project.write("model/deep.js", "const f = (n) => f(n + 1) + 1;\nf(0);");
    project.write("model/eat.js", "const all = [];\nfor (;;) {\n  all.push(new Array(10_000).fill(all.length));\n}");
    project.write("model/throw.js", "cube('lost', { sql_table: 'events' });\nthrow new Error('no luck');");
    project.write("model/wrong.js", "cube('wrong', {\n  sql_table: ,\n});");
    let output = run(project.path(), &[("EVENTS_TABLE", "events")], &["check"]);
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for expected in [
        "model/deep.js:1:23: error: the script calls too deep",
        "model/eat.js:3:",
        "error: the script uses more than 256 MB of memory",
        "model/throw.js:2:11: error: no luck",
        "model/wrong.js:2:14: error: Syntax error during 'model/wrong.js' parsing: ",
        "4 error(s)",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}

#[test]
fn a_server_lives_through_a_bad_script_and_serves_the_model_before() {
    let project = project();
    let server = Server::start_with(&project, &[("EVENTS_TABLE", "events"), ("CUBEJS_DEV_MODE", "true")]);
    let answers = || server.rows(&json!({"measures": ["js_events.count"]}))[0]["js_events.count"].clone();
    assert_eq!(answers(), json!("30"));

    project.write("model/throw.js", "throw new Error('no luck');");
    wait_until("the fault is told of", Duration::from_secs(20), || server.log().contains("no luck").then_some(()));
    assert_eq!(answers(), json!("30"));
    let told = server.get("/cubejs-api/v1/meta").value();
    let fault = &told["quarry"]["modelFaults"][0];
    assert_eq!(
        (&fault["severity"], &fault["file"], &fault["line"]),
        (&json!("error"), &json!("model/throw.js"), &json!(1))
    );
    assert_eq!(fault["message"], json!("no luck"));

    project.write("model/throw.js", "for (;;) {}");
    pause(Duration::from_secs(3));
    let start = Instant::now();
    assert_eq!(answers(), json!("30"));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());

    std::fs::remove_file(project.path().join("model/throw.js")).expect("the file is there");
    wait_until("the model is whole again", Duration::from_secs(60), || {
        server.get("/cubejs-api/v1/meta").value().get("quarry").is_none().then_some(())
    });
    server.assert_alive();
}
