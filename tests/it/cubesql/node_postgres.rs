//! SQL over PostgreSQL's wire protocol: node-postgres from npm, unchanged, against a real server.
//!
//! `tests/checks/node-postgres` pins it and holds the script that runs it.

use serde_json::{Value, json};

use crate::cubesql::pg::{PASSWORD, USER, start};
use crate::node::run_script;

/// Object ids of types, as PostgreSQL gives them.
const BOOL: u32 = 16;
const INT8: u32 = 20;
const TEXT: u32 = 25;
const FLOAT8: u32 = 701;
const TIMESTAMP: u32 = 1114;

/// What each step gives, in a time zone of the client.
#[track_caller]
fn run(port: u16, zone: &str, steps: &[Value]) -> Vec<Value> {
    let task = json!({"port": port, "user": USER, "password": PASSWORD, "steps": steps});
    let results = run_script("node-postgres", "run_pg.cjs", zone, &task);
    let results = results.as_array().unwrap_or_else(|| panic!("no results: {results}")).clone();
    assert_eq!(results.len(), steps.len());
    results
}

/// Queries of one connection, and what each gives.
#[track_caller]
fn check(port: u16, zone: &str, cases: &[(Value, Value)]) {
    let queries: Vec<&Value> = cases.iter().map(|(query, _)| query).collect();
    let results = run(port, zone, &[json!({"do": "queries", "queries": queries})]);
    for (at, (query, expected)) in cases.iter().enumerate() {
        assert_eq!(&results[0][at], expected, "{query}");
    }
}

fn text(sql: &str) -> Value {
    json!({ "text": sql })
}

fn with(sql: &str, values: Value) -> Value {
    Value::from_iter([("text", Value::from(sql)), ("values", values)])
}

fn selected(types: &[u32], rows: Value) -> Value {
    let count = rows.as_array().map(Vec::len);
    Value::from_iter([
        ("command", Value::from("SELECT")),
        ("count", Value::from(count)),
        ("types", Value::from(types)),
        ("rows", rows),
    ])
}

fn done(command: &str) -> Value {
    json!({"command": command, "count": null, "types": [], "rows": []})
}

fn failed(code: &str, message: &str) -> Value {
    json!({"error": {"code": code, "severity": "ERROR", "message": message}})
}

#[test]
fn values_have_the_types_of_the_driver() {
    let (server, port) = start(&[]);
    let row = "SELECT id, status, amount, paid, createdAt FROM orders WHERE id = 1";
    let types = [FLOAT8, TEXT, FLOAT8, BOOL, TIMESTAMP];
    let at =
        |time: &str| json!([{"id": 1, "status": "open", "amount": 10.5, "paid": true, "createdAt": {"date": time}}]);
    for (zone, time) in [("UTC", "2024-01-05T10:00:00.000Z"), ("Europe/Berlin", "2024-01-05T09:00:00.000Z")] {
        let binary = json!({"text": row, "binary": true});
        check(
            port,
            zone,
            &[
                // Times have no zone: the driver takes them for those of its own.
                (text(row), selected(&types, at(time))),
                (with(row, json!([])), selected(&types, at(time))),
                (binary, selected(&types, at(time))),
                (
                    with("SELECT id FROM orders WHERE createdAt = $1", json!([{"date": time}])),
                    selected(&[FLOAT8], json!([{"id": 1}])),
                ),
            ],
        );
    }
    check(
        port,
        "UTC",
        &[
            (
                text(
                    "SELECT status, MEASURE(count) AS n, SUM(total) AS total, MAX(last) AS last FROM orders WHERE status = 'done' GROUP BY 1",
                ),
                selected(
                    &[TEXT, INT8, FLOAT8, TIMESTAMP],
                    json!([{"status": "done", "n": "2", "total": 160.1, "last": {"date": "2024-02-14T12:00:00.000Z"}}]),
                ),
            ),
            (
                text("SELECT status, paid FROM orders WHERE id = 5"),
                selected(&[TEXT, BOOL], json!([{"status": null, "paid": null}])),
            ),
            (
                json!({"text": "SELECT status, id FROM orders WHERE id = 3", "rowMode": "array"}),
                selected(&[TEXT, FLOAT8], json!([["done", 3]])),
            ),
            (text("SELECT id FROM orders WHERE id > 5"), selected(&[FLOAT8], json!([]))),
        ],
    );
    server.assert_alive();
}

#[test]
fn queries_take_parameters_and_names() {
    let (server, port) = start(&[]);
    let ids = |ids: &[u32]| selected(&[FLOAT8], ids.iter().map(|id| json!({ "id": id })).collect());
    let by =
        |condition: &str, values: Value| with(&format!("SELECT id FROM orders WHERE {condition} ORDER BY id"), values);
    let named = |status: &str| {
        let sql = "SELECT COUNT(*) AS n FROM orders WHERE status = $1";
        json!({"name": "of status", "text": sql, "values": [status]})
    };
    let counted = |n: &str| selected(&[INT8], json!([{ "n": n }]));
    check(
        port,
        "UTC",
        &[
            (by("status = $1", json!(["done"])), ids(&[3, 4])),
            (by("id >= $1 AND amount < $2", json!([2, 70.5])), ids(&[2, 3, 5])),
            (by("id = $1", json!(["4"])), ids(&[4])),
            (by("paid = $1", json!([true])), ids(&[1, 3, 4])),
            (by("status IN ($1, $2)", json!(["open", "Open"])), ids(&[1, 2])),
            (by("status = ANY($1)", json!([["open", "Open"]])), ids(&[1, 2])),
            (by("id = ANY($1)", json!([[1, 5]])), ids(&[1, 5])),
            (
                by("createdAt >= $1 AND createdAt < $2", json!(["2024-01-20", {"date": "2024-02-14T12:00:00.000Z"}])),
                ids(&[2, 3]),
            ),
            (by("status <> ALL($1)", json!([["open", "Open"]])), ids(&[3, 4])),
            (by("id = ANY('{1,2}') AND status = ANY(ARRAY['open', 'x'])", json!([])), ids(&[1])),
            (by("$1 = status AND status = $1", json!(["done"])), ids(&[3, 4])),
            (by("status = $1", json!([null])), ids(&[])),
            (by("status = $1", json!(["it's"])), ids(&[])),
            (
                with("SELECT id FROM orders WHERE id > $1 ORDER BY id LIMIT $2 OFFSET $3", json!([1, 2, 1])),
                ids(&[3, 4]),
            ),
            (
                with("SELECT $1::int AS a, $2::text AS b, $3::float8 AS c, $4::bool AS d", json!([7, "x", 1.5, false])),
                selected(&[23, TEXT, FLOAT8, BOOL], json!([{"a": 7, "b": "x", "c": 1.5, "d": false}])),
            ),
            (with("SELECT $1 AS echo", json!(["x"])), selected(&[TEXT], json!([{"echo": "x"}]))),
            (named("done"), counted("2")),
            (named("open"), counted("1")),
            (named("done"), counted("2")),
            (
                with("SELECT id FROM orders WHERE id = $1", json!(["one"])),
                failed("22P02", "invalid input syntax for type float8: \"one\""),
            ),
            (
                with("SELECT id FROM orders WHERE id = $1 AND status = $2", json!([1])),
                failed("08P01", "bind message supplies 1 parameters, but the prepared statement requires 2"),
            ),
            (by("status = $1", json!(["done"])), ids(&[3, 4])),
        ],
    );
    server.assert_alive();
}

#[test]
fn failures_have_the_codes_of_postgresql() {
    let (server, port) = start(&[]);
    let queries = [
        ("SELECT nope FROM orders", "42703"),
        ("SELECT 1 FROM nothing", "42P01"),
        ("SELEC 1", "42601"),
        ("SELECT 1 / 0", "22012"),
        ("SELECT nope(1)", "42883"),
        ("INSERT INTO orders VALUES (1)", "0A000"),
        ("DROP TABLE orders", "0A000"),
        ("SELECT SUM(count) FROM orders", "0A000"),
        ("SELECT CAST('x' AS INT)", "22P02"),
        ("SHOW nothing", "42704"),
        ("SET timezone = 'Mars/Base'", "22023"),
        ("EXPLAIN ANALYZE SELECT 1", "0A000"),
    ];
    for values in [None, Some(json!([]))] {
        let asked: Vec<Value> = queries.iter().map(|(sql, _)| json!({"text": sql, "values": values})).collect();
        let found = run(port, "UTC", &[json!({"do": "queries", "queries": asked})]);
        for (at, (sql, code)) in queries.iter().enumerate() {
            let error = &found[0][at]["error"];
            assert_eq!((&error["code"], &error["severity"]), (&json!(code), &json!("ERROR")), "{sql}: {error}");
        }
    }
    let refused = json!({"do": "queries", "queries": [], "login": {"password": "wrong"}});
    assert_eq!(run(port, "UTC", &[refused])[0]["error"]["code"], json!("28P01"));
    let (_crowded, port) = start(&[("CUBEJS_MAX_SESSIONS", "2")]);
    let pool = json!({"do": "pool", "size": 3, "queries": [text("SELECT 1"), text("SELECT 2"), text("SELECT 3")]});
    let found = run(port, "UTC", &[pool])[0]["found"].clone();
    let codes: Vec<&Value> = found.as_array().into_iter().flatten().map(|one| &one["error"]["code"]).collect();
    assert_eq!(codes.iter().filter(|code| ***code == json!("53300")).count(), 1, "{found}");
    server.assert_alive();
}

#[test]
fn sessions_have_settings_and_transactions() {
    let (server, port) = start(&[]);
    let shown = |name: &str, value: &str| {
        (
            text(&format!("SHOW {name}")),
            json!({"command": "SHOW", "count": 1, "types": [TEXT], "rows": [{ name: value }]}),
        )
    };
    let aborted = "current transaction is aborted, commands ignored until end of transaction block";
    let one = || selected(&[INT8], json!([{"one": "1"}]));
    check(
        port,
        "UTC",
        &[
            shown("timezone", "UTC"),
            (text("SET timezone = 'Europe/Berlin'"), done("SET")),
            shown("timezone", "Europe/Berlin"),
            (text("SET application_name TO 'a report'"), done("SET")),
            (text("RESET timezone"), done("RESET")),
            shown("timezone", "UTC"),
            shown("application_name", "a report"),
            (text("DISCARD ALL"), done("DISCARD")),
            shown("application_name", ""),
            (text("DEALLOCATE ALL"), done("DEALLOCATE")),
            (text("BEGIN"), done("BEGIN")),
            (text("SELECT 1 AS one"), one()),
            (text("COMMIT"), done("COMMIT")),
            (text("START TRANSACTION READ ONLY"), done("BEGIN")),
            (text("SAVEPOINT here"), done("SAVEPOINT")),
            (text("SHOW nothing"), failed("42704", "unrecognized configuration parameter \"nothing\"")),
            (text("SELECT 1 AS one"), failed("25P02", aborted)),
            (text("ROLLBACK TO SAVEPOINT here"), done("ROLLBACK")),
            (text("SELECT 1 AS one"), one()),
            (text("SHOW nothing"), failed("42704", "unrecognized configuration parameter \"nothing\"")),
            (text("COMMIT"), done("ROLLBACK")),
            (text("SELECT 1 AS one"), one()),
            (text("BEGIN; SELECT 1 AS one; COMMIT"), json!([done("BEGIN"), one(), done("COMMIT")])),
            (text(""), json!({"command": null, "count": null, "types": [], "rows": []})),
            (with("SET timezone = 'Asia/Tokyo'", json!([])), done("SET")),
            (with("SHOW timezone", json!([])), shown("timezone", "Asia/Tokyo").1),
            (text("SET statement_timeout = '100ms'"), done("SET")),
            (
                text("SELECT COUNT(*) FROM generate_series(1, 9000000000000)"),
                failed("57014", "canceling statement due to statement timeout after 0.1 s"),
            ),
            (text("SET statement_timeout = 0"), done("SET")),
            (text("SELECT 1 AS one"), one()),
        ],
    );
    let named = json!({"do": "queries", "queries": [text("SHOW application_name"), text("SHOW timezone"), text("SHOW statement_timeout")],
        "login": {"application_name": "dashboard", "options": "-c timezone=Asia/Tokyo", "statement_timeout": 5000}});
    let found = run(port, "UTC", &[named])[0].clone();
    let values: Vec<&Value> = ["application_name", "timezone", "statement_timeout"]
        .iter()
        .enumerate()
        .map(|(at, name)| &found[at]["rows"][0][*name])
        .collect();
    assert_eq!(values, ["dashboard", "Asia/Tokyo", "5000"], "{found}");
    server.assert_alive();
}

#[test]
fn statements_are_explained() {
    let (server, port) = start(&[]);
    let queries = [
        text("EXPLAIN SELECT status, COUNT(*) FROM orders WHERE amount > 5 GROUP BY 1"),
        with("EXPLAIN SELECT id FROM orders WHERE status = $1", json!(["done"])),
        text("EXPLAIN SELECT lower(status), COUNT(*) FROM orders GROUP BY 1"),
    ];
    let found = run(port, "UTC", &[json!({"do": "queries", "queries": queries})])[0].clone();
    for (at, part) in ["Question answered by the source 'default'", "'done'", "Aggregate"].iter().enumerate() {
        let told = &found[at];
        assert_eq!((&told["command"], &told["types"]), (&json!("EXPLAIN"), &json!([TEXT])), "{told}");
        let lines: Vec<&str> =
            told["rows"].as_array().into_iter().flatten().filter_map(|row| row["QUERY PLAN"].as_str()).collect();
        assert!(lines.iter().any(|line| line.contains(part)), "{part}: {lines:#?}");
        assert!(lines.iter().any(|line| line.trim_start().starts_with("SELECT")), "{lines:#?}");
    }
    server.assert_alive();
}

#[test]
fn pools_pipelines_and_cursors_work() {
    let (server, port) = start(&[]);
    let sql = "SELECT $1::text AS mark, COUNT(*) AS n FROM orders WHERE id <= $2";
    let asked = |at: usize| with(sql, json!([format!("query {at}"), at % 6]));
    let queries: Vec<Value> = (0..60).map(asked).collect();
    let expected: Vec<Value> = (0..60)
        .map(|at| selected(&[TEXT, INT8], json!([{"mark": format!("query {at}"), "n": (at % 6).min(5).to_string()}])))
        .collect();
    let many = "SELECT value FROM generate_series(1, 2500)";
    let found = run(
        port,
        "UTC",
        &[
            json!({"do": "pool", "size": 8, "queries": queries}),
            json!({"do": "pipeline", "queries": queries}),
            json!({"do": "cursor", "text": many, "rows": 1000}),
            json!({"do": "cursor", "text": many, "rows": 1000, "most": 1}),
        ],
    );
    assert_eq!(found[0], json!({"connections": 8, "found": expected}));
    assert_eq!(found[1], json!(expected));
    let after = selected(&[INT8], json!([{"one": "1"}]));
    assert_eq!(found[2], json!({"sizes": [1000, 1000, 500], "after": after}));
    assert_eq!(found[3], json!({"sizes": [1000], "after": after}));
    server.assert_alive();
}

#[test]
fn a_running_statement_is_cancelled() {
    let (server, port) = start(&[]);
    let found =
        run(port, "UTC", &[json!({"do": "cancel", "text": "SELECT COUNT(*) FROM generate_series(1, 9000000000000)"})]);
    let ended = &found[0]["ended"];
    assert_eq!((&ended["code"], &ended["severity"]), (&json!("57014"), &json!("ERROR")), "{ended}");
    assert_eq!(found[0]["after"], selected(&[INT8], json!([{"one": "1"}])), "the connection goes on");
    server.assert_alive();
}
