//! SQL over PostgreSQL's wire protocol: drivers from PyPI and `psql`, unchanged, against a real server.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cubesql::sql_project;
use crate::python::{run_script, virtual_environment};
use crate::server::{Server, quarry, root, wait_until};

pub(super) const USER: &str = "cube";
pub(super) const PASSWORD: &str = "a password of these tests";
const LOGIN: [(&str, &str); 3] =
    [("CUBEJS_PG_SQL_PORT", "0"), ("CUBEJS_SQL_USER", USER), ("CUBEJS_SQL_PASSWORD", PASSWORD)];

/// The port for SQL that a server prints.
fn sql_port(server: &Server) -> u16 {
    wait_until("the line `SQL on postgres://…`", Duration::from_secs(30), || {
        let log = server.log();
        let rest = log.split_once("SQL on postgres://")?.1;
        rest.split_once('\n')?.0.trim().rsplit(':').next()?.parse().ok()
    })
}

pub(super) fn start(more: &[(&str, &str)]) -> (Server, u16) {
    let settings = [&LOGIN[..], more].concat();
    let server = Server::start_with(&sql_project(), &settings);
    let port = sql_port(&server);
    (server, port)
}

/// What `psql` prints for some commands, unaligned and without headers; none where it is not installed.
fn psql(port: u16, commands: &[&str]) -> Option<(bool, String)> {
    psql_as(USER, PASSWORD, port, commands)
}

fn psql_as(user: &str, password: &str, port: u16, commands: &[&str]) -> Option<(bool, String)> {
    let mut command = Command::new("psql");
    command.args(["-X", "-A", "-t", "-w", "-h", "127.0.0.1", "-p", &port.to_string(), "-U", user, "-d", "shop"]);
    for text in commands {
        command.args(["-c", text]);
    }
    match command.env("PGPASSWORD", password).env("PGCONNECT_TIMEOUT", "20").output() {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            Some((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("psql is not installed: not checked");
            None
        }
        Err(error) => panic!("psql cannot be started: {error}"),
    }
}

#[test]
fn drivers_of_python_work_unchanged() {
    let file = root().join("tests/checks/sql/drivers.txt");
    let pins = fs::read_to_string(&file).expect("a list of pinned packages");
    let arguments = ["--no-deps", "-r", file.to_str().expect("a plain name")];
    let python = virtual_environment("sql-drivers", &arguments, &pins);
    let (server, port) = start(&[]);
    let seen = run_script(&python, "sql/run_drivers.py", &json!({"port": port, "user": USER, "password": PASSWORD}));
    for format in ["text", "binary"] {
        let psycopg = &seen[format];
        assert_eq!(psycopg["measures"], json!([["done", 2, 160.1, "2024-02-14T12:00:00"]]), "{format}");
        assert_eq!(psycopg["numbers"], json!([[4.0], [5.0]]), "{format}");
        assert_eq!(psycopg["times"], json!([[4.0], [5.0]]), "{format}");
        assert_eq!(psycopg["types"], json!([[1.0, true, "2024-01-05T10:00:00"]]), "{format}");
        assert_eq!(psycopg["nulls"], json!([[Value::Null, Value::Null]]), "{format}");
        let text = "Measure aggregation type doesn't match. The aggregation type for 'count' is 'COUNT()' but 'SUM()' was provided";
        assert_eq!(psycopg["error"], json!(["0A000", text]), "{format}");
        assert_eq!(psycopg["after"], json!([[5]]), "{format}");
    }
    assert_eq!(seen["pg8000"]["rows"], json!([["done", 2], ["Open", 1]]));
    assert_eq!(seen["sqlalchemy"]["rows"], json!([["Oslo", 70.0], ["Rome", 125.85]]));
    assert_eq!(seen["sqlalchemy"]["zone"], "UTC");
    assert_eq!(seen["sqlalchemy"]["tables"], json!(["customers", "guarded", "orders", "sales"]));
    assert_eq!(seen["refused"], json!(true));
    server.assert_alive();
}

#[test]
fn psql_works_unchanged() {
    let (server, port) = start(&[]);
    let Some((good, said)) = psql(
        port,
        &[
            "SELECT status, COUNT(*) FROM orders WHERE paid GROUP BY 1 ORDER BY 1",
            "SET timezone = 'Europe/Berlin'",
            "SHOW timezone",
            "SELECT createdAt FROM orders WHERE id = 2",
            "BEGIN; SELECT 1 AS one; COMMIT",
        ],
    ) else {
        return;
    };
    assert!(good, "{said}");
    assert_eq!(said, "done|2\nopen|1\nSET\nEurope/Berlin\n2024-01-21 00:30:00\nBEGIN\n1\nCOMMIT\n");
    let (_, said) = psql(port, &["\\dt"]).expect("psql");
    for table in ["customers", "orders", "sales"] {
        assert!(said.contains(&format!("public|{table}|table|{USER}")), "\\dt: {said}");
    }
    let (good, said) = psql(port, &["\\d orders"]).expect("psql");
    assert!(good && said.contains("status|text|") && said.contains("total|double precision|"), "\\d orders: {said}");
    for (command, part) in [
        ("\\l", "shop|cube|UTF8"),
        ("\\du", "cube|"),
        ("\\dn+", "public|cube"),
        ("\\dt+", "public|orders|table|cube"),
        ("\\d+ orders", "status|text|"),
        ("\\df", ""),
        ("\\dx", ""),
        ("\\db", ""),
        ("EXPLAIN SELECT COUNT(*) FROM orders WHERE status = ANY('{done,open}')", "Question answered by the source"),
        ("SHOW ALL", "server_version|14.2|"),
    ] {
        let (good, said) = psql(port, &[command]).expect("psql");
        assert!(good && !said.contains("ERROR") && said.contains(part), "{command}: {said}");
    }
    let (good, said) = psql(port, &["SELECT nope FROM orders"]).expect("psql");
    assert!(!good && said.contains("ERROR:") && said.contains("nope"), "{said}");
    server.assert_alive();
}

/// Users, their contexts, rows and models by the hooks of a project, as over HTTP.
#[test]
fn the_hooks_of_a_project_decide_who_comes_in_and_sees_what() {
    let project = sql_project();
    project.write(
        "cube.js",
        "module.exports = {
           checkSqlAuth: async (req, user, password) => {
             if (req.protocol !== 'postgres') throw new Error(`protocol ${req.protocol}`);
             if (user === 'root') throw new Error('not here');
             return { password: `${user}'s`, securityContext: { status: user } };
           },
           extendContext: ({ securityContext }) => ({ securityContext: { ...securityContext, extended: true } }),
           queryRewrite: (query, { securityContext: { status, extended } }) => {
             if (!extended) throw new Error('not extended');
             query.filters.push({ member: 'orders.status', operator: 'equals', values: [status] });
             return query;
           } }",
    );
    let server = Server::start_with(&project, &[("CUBEJS_PG_SQL_PORT", "0")]);
    let port = sql_port(&server);
    let count = ["SELECT COUNT(*) FROM orders", "SELECT COUNT(*) FROM (SELECT id FROM orders LIMIT 10) q"];
    for (user, password, expected) in [
        ("done", "done's", Ok("2\n2\n")),
        ("open", "open's", Ok("1\n1\n")),
        ("nothing", "nothing's", Ok("0\n0\n")),
        ("done", "open's", Err("authentication failed")),
        ("done", "", Err("fe_sendauth: no password supplied")),
        ("root", "root's", Err("authentication failed")),
    ] {
        let Some((good, said)) = psql_as(user, password, port, &count) else { return };
        match expected {
            Ok(rows) => assert!(good && said == rows, "{user}: {said}"),
            Err(part) => assert!(!good && said.contains(part), "{user}: {said}"),
        }
    }
    server.assert_alive();
}

/// Users whose rows are those of their status, and who of them may act as whom.
fn start_with_roles(cube_js: &str, settings: &[(&str, &str)]) -> (Server, u16) {
    let project = sql_project();
    project.write(
        "cube.js",
        &format!(
            "module.exports = {{
               checkSqlAuth: async (req, user) => {{
                 if (user === 'nobody') throw new Error('not here');
                 return {{ password: 'x', superuser: user === 'root', securityContext: {{ status: user }} }};
               }},
               queryRewrite: (query, {{ securityContext: {{ status }} }}) => {{
                 if (!['root', 'boss'].includes(status))
                   query.filters.push({{ member: 'orders.status', operator: 'equals', values: [status] }});
                 return query;
               }},
               {cube_js} }}"
        ),
    );
    let server = Server::start_with(&project, &[&[("CUBEJS_PG_SQL_PORT", "0")], settings].concat());
    let port = sql_port(&server);
    (server, port)
}

#[test]
fn users_act_as_others_where_they_may() {
    let hook = "canSwitchSqlUser: async (current, next) => current === 'boss' && next !== 'root'";
    let (server, port) = start_with_roles(hook, &[]);
    let count = "SELECT COUNT(*) FROM orders";
    let who = "SELECT current_user";
    for user in ["root", "boss"] {
        let commands = [
            count,
            "SET user = 'done'",
            count,
            who,
            "SET SESSION AUTHORIZATION open",
            count,
            "SELECT COUNT(*) FROM orders WHERE __user = 'done' AND id > 3",
            "SELECT COUNT(*) FROM orders WHERE 'open' = orders.__user",
            "SET user TO DEFAULT",
            count,
            "SET user = 'open'; DISCARD ALL",
            count,
        ];
        let Some((good, said)) = psql_as(user, "x", port, &commands) else { return };
        let expected = "5\nSET\n2\ndone\nSET\n1\n1\n1\nSET\n5\nSET\nDISCARD ALL\n5\n";
        assert!(good && said == expected, "{user}: {said}");
    }
    for (user, command) in [
        ("boss", "SET user = 'root'"),
        ("open", "SET user = 'done'"),
        ("open", "SET SESSION AUTHORIZATION done"),
        ("open", "SELECT COUNT(*) FROM orders WHERE __user = 'done'"),
    ] {
        let (good, said) = psql_as(user, "x", port, &["\\set VERBOSITY verbose", command]).expect("psql");
        assert!(!good && said.contains("42501") && said.contains("may not act as"), "{user} {command}: {said}");
        let (good, said) = psql_as(user, "x", port, &[command, count]).expect("psql");
        let own = if user == "boss" { "5" } else { "1" };
        assert!(good && said.lines().any(|line| line == own), "what they are is what they stay: {said}");
    }
    let (good, said) = psql_as("boss", "x", port, &["SET user = 'nobody'"]).expect("psql");
    assert!(!good && said.contains("cannot act as 'nobody'") && said.contains("not here"), "{said}");
    let twice = "SELECT 1 FROM orders WHERE __user = 'done' AND __user = 'open'";
    let (good, said) = psql_as("boss", "x", port, &[twice]).expect("psql");
    assert!(!good && said.contains("a statement is for one user"), "{said}");
    server.assert_alive();
}

#[test]
fn the_superuser_of_the_settings_acts_as_others_where_no_hook_decides() {
    let (server, port) = start_with_roles("", &[("CUBEJS_SQL_SUPER_USER", "boss")]);
    let commands = ["SET user = 'done'", "SELECT COUNT(*) FROM orders"];
    let Some((good, said)) = psql_as("boss", "x", port, &commands) else { return };
    assert!(good && said == "SET\n2\n", "{said}");
    let (good, said) = psql_as("open", "x", port, &commands[..1]).expect("psql");
    assert!(!good && said.contains("user 'open' may not act as 'done'"), "{said}");
    server.assert_alive();
    let (plain, port) = start(&[("CUBEJS_SQL_SUPER_USER", USER)]);
    let (good, said) = psql(port, &["SET user = 'another'"]).expect("psql");
    assert!(!good && said.contains("user 'cube' may not act as 'another'"), "nobody knows them: {said}");
    plain.assert_alive();
}

/// Each connection sees the model of its user's app.
#[test]
fn every_app_has_its_own_tables() {
    let project = sql_project();
    project.write(
        "cube.js",
        "module.exports = {
           contextToAppId: ({ securityContext }) => `app_${securityContext.status}`,
           checkSqlAuth: async (req, user) => ({ password: 'x', securityContext: { status: user } }),
         }",
    );
    project.write(
        "model/mine.yml",
        "cubes:
  - name: of_{{ COMPILE_CONTEXT.securityContext.status | default('nobody') | safe }}
    sql: SELECT * FROM orders WHERE status = '{{ COMPILE_CONTEXT.securityContext.status | default('nobody') | safe }}'
    measures: [{name: count, type: count}]
",
    );
    let server = Server::start_with(&project, &[("CUBEJS_PG_SQL_PORT", "0")]);
    let port = sql_port(&server);
    let tables = "SELECT table_name FROM information_schema.tables WHERE table_name LIKE 'of_%'";
    for (user, count) in [("done", 2), ("open", 1), ("done", 2)] {
        let own = format!("SELECT MEASURE(count) FROM of_{user}");
        let Some((good, said)) = psql_as(user, "x", port, &[tables, &own]) else { return };
        assert!(good && said == format!("of_{user}\n{count}\n"), "{user}: {said}");
    }
    let Some((good, said)) = psql_as("done", "x", port, &["SELECT MEASURE(count) FROM of_open"]) else { return };
    assert!(!good && said.contains("of_open"), "another's: {said}");
}

#[test]
fn connections_are_bounded_and_end_with_the_server() {
    let (server, port) = start(&[("CUBEJS_MAX_SESSIONS", "1")]);
    let connect = || std::net::TcpStream::connect(("127.0.0.1", port)).expect("the port is open");
    // Not yet let in: no place is taken.
    let _waiting = [connect(), connect()];
    if let Some((good, said)) = psql(port, &["SELECT 1"]) {
        assert!(good, "{said}");
    }
    assert!(server.stop().success(), "{}", server.log());
}

#[test]
fn an_open_port_needs_a_user_and_a_password() {
    let project = sql_project();
    let settings = [("CUBEJS_API_SECRET", "x"), ("CUBEJS_PG_SQL_PORT", "0"), ("CUBEJS_SQL_USER", "cube")];
    let path = project.path().to_str().expect("a plain name");
    let output = quarry(project.path(), &settings)
        .args(["serve", "--project", path, "--port", "0"])
        .output()
        .expect("the binary can be started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("CUBEJS_SQL_PASSWORD is not set"), "{said}");
}
