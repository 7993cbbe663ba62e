//! Acceptance 6: bad input is answered with a text that names the fault; nothing panics; the log names the request.

use std::time::Duration;

use serde_json::{Value, json};

use crate::events::events_project;
use crate::server::{LOAD, Reply, Server, valid_token, wait_until};

fn start() -> Server {
    Server::start(&events_project(&["2024-01"], 30))
}

fn post_raw(server: &Server, body: impl Into<Vec<u8>>) -> Reply {
    server.call("POST", LOAD).token(&valid_token()).header("content-type", "application/json").raw(body).send()
}

fn ask(server: &Server, query: &Value) -> Reply {
    server.ask(query)
}

/// A query whose keys are a good query's, with `more` put over them.
fn query(more: &Value) -> Value {
    let mut query = json!({"measures": ["events.count"]});
    for (key, value) in more.as_object().into_iter().flatten() {
        query[key.as_str()] = value.clone();
    }
    query
}

#[track_caller]
fn check_refused(reply: &Reply, fault: &str) {
    assert!((400..500).contains(&reply.status), "{} {}", reply.status, reply.body);
    assert!(reply.error().contains(fault), "the text does not name {fault:?}: {}", reply.body);
}

#[test]
fn malformed_bodies_are_client_errors() {
    let server = start();
    for body in [
        "{\"query\": {",
        "{\"query\": {\"measures\": [\"events.count\"]}",
        "nope",
        "{]",
        "\"",
        "{\"a\":1}x",
        "\0",
        "null",
        "1",
    ] {
        let reply = post_raw(&server, body);
        assert!((400..500).contains(&reply.status), "{body:?}: {} {}", reply.status, reply.body);
        assert!(!reply.error().is_empty());
    }
    for body in [&b"\xff\xfe{\"query\":1}"[..], b"{\"query\": \"\xc3\x28\"}"] {
        assert!((400..500).contains(&post_raw(&server, body).status), "text that is not UTF-8");
    }
    for body in ["", "{}", "[]", "{\"query\": null}", "{\"query\": \"\"}", "{\"query\": \"undefined\"}"] {
        check_refused(&post_raw(&server, body), "Query param is required");
    }
    check_refused(&post_raw(&server, r#"{"query": "{nope"}"#), "Unable to decode query param as JSON");
    let plain = server.call("POST", LOAD).token(&valid_token()).header("content-type", "text/plain");
    check_refused(&plain.raw(r#"{"query":{"measures":["events.count"]}}"#).send(), "Query param is required");
    check_refused(&server.get("/cubejs-api/v1/load?query=%7Bnope"), "Unable to decode query param as JSON");
    check_refused(&server.get("/cubejs-api/v1/load?query=%ff%fe"), "");
    check_refused(&server.get(LOAD), "Query param is required");
    server.assert_alive();
}

#[test]
fn unknown_names_are_named() {
    let server = start();
    let cases = [
        (json!({"measures": ["events.nope"]}), "'nope' not found for path 'events.nope'"),
        (json!({"measures": ["nope.count"]}), "Cube 'nope' not found for path 'nope.count'"),
        (query(&json!({"dimensions": ["events.nope"]})), "'nope' not found for path 'events.nope'"),
        (query(&json!({"segments": ["events.nope"]})), "'nope' not found for path 'events.nope'"),
        (query(&json!({"dimensions": ["events.count"]})), "'count' not found"),
        (query(&json!({"filters": [{"member": "events.nope", "operator": "set"}]})), "'nope' not found"),
        (query(&json!({"timeDimensions": [{"dimension": "events.nope"}]})), "'nope' not found"),
        (query(&json!({"timeDimensions": [{"dimension": "events.at", "granularity": "fortnight"}]})), "fortnight"),
        (query(&json!({"timezone": "Mars/Base"})), r#""timezone" must be a valid IANA time zone, got "Mars/Base""#),
        (query(&json!({"timezone": "+02:00"})), "+02:00"),
        (json!({}), "Query should contain either measures, dimensions or timeDimensions"),
        (json!({"measures": ["events.count"], "dimensions": ["visits.at"]}), "Can't find join path"),
    ];
    for (query, fault) in cases {
        check_refused(&ask(&server, &query), fault);
    }
    server.assert_alive();
}

#[test]
fn wrong_types_are_told_by_path() {
    let server = start();
    let leaf = |more: Value| {
        let mut leaf = json!({"member": "events.kind", "operator": "equals", "values": ["x"]});
        for (key, value) in more.as_object().into_iter().flatten() {
            leaf[key.as_str()] = value.clone();
        }
        json!({"filters": [leaf]})
    };
    let time = |more: Value| {
        let mut time = json!({"dimension": "events.at"});
        for (key, value) in more.as_object().into_iter().flatten() {
            time[key.as_str()] = value.clone();
        }
        json!({"timeDimensions": [time]})
    };
    let cases = [
        (json!({"foo": 1}), r#""foo" is not allowed"#),
        (json!({"rowLimit": 1}), r#""rowLimit" is not allowed"#),
        (json!({"limit": "10"}), r#""limit" must be a number"#),
        (json!({"limit": null}), r#""limit" must be a number"#),
        (json!({"limit": 1.5}), r#""limit" must be an integer"#),
        (json!({"limit": -1}), r#""limit" must be greater than or equal to 0"#),
        (json!({"limit": 50_001}), "The query limit has been exceeded."),
        (json!({"limit": 1e300}), "limit"),
        (json!({"offset": -1}), r#""offset" must be greater than or equal to 0"#),
        (json!({"measures": "events.count"}), r#""measures""#),
        (json!({"measures": ["count"]}), r#""measures[0]" with value "count" fails to match the required pattern"#),
        (json!({"measures": [1]}), r#""measures[0]""#),
        (json!({"measures": [null]}), r#""measures[0]""#),
        (json!({"dimensions": {}}), r#""dimensions""#),
        (json!({"filters": {}}), r#""filters""#),
        (json!({"filters": ["x"]}), r#""filters[0]""#),
        (leaf(json!({"operator": "like"})), r#""filters[0]" does not match any of the allowed types"#),
        (leaf(json!({"values": "x"})), r#""filters[0]" does not match any of the allowed types"#),
        (leaf(json!({"values": [{}]})), r#""filters[0]" does not match any of the allowed types"#),
        (leaf(json!({"extra": 1})), r#""filters[0]" does not match any of the allowed types"#),
        (leaf(json!({"values": []})), "Values required for filter"),
        (leaf(json!({"member": "events.id", "operator": "gt", "values": ["abc"]})), "abc"),
        (leaf(json!({"member": "events.at", "operator": "afterDate", "values": ["2024-02-30x"]})), "2024-02-30x"),
        (json!({"order": "asc"}), r#""order" must be one of [object, array]"#),
        (json!({"order": {"events.count": "up"}}), r#""order.events.count" must be one of [asc, desc]"#),
        (json!({"order": [["events.count"]]}), r#""order[0]" must contain at least 2 items"#),
        (json!({"timeDimensions": [{}]}), r#""timeDimensions[0].dimension" is required"#),
        (time(json!({"granularity": null})), r#""timeDimensions[0].granularity" must be a string"#),
        (time(json!({"dateRange": []})), r#""timeDimensions[0].dateRange""#),
        (
            time(json!({"dateRange": ["2024-01-01", "2024-01-02", "2024-01-03"]})),
            "must contain less than or equal to 2",
        ),
        (time(json!({"dateRange": [1, 2]})), r#""timeDimensions[0].dateRange"#),
        (time(json!({"dateRange": ["x", "y"]})), "date"),
        (json!({"total": "yes"}), r#""total""#),
        (json!({"timezone": 1}), r#""timezone""#),
        (json!({"responseFormat": "xml"}), r#""responseFormat""#),
    ];
    for (more, fault) in cases {
        check_refused(&ask(&server, &query(&more)), fault);
    }
    server.assert_alive();
}

#[test]
fn rare_keys_are_checked_too() {
    let server = start();
    let cases = [
        (json!({"ungrouped": "maybe"}), r#""ungrouped" must be a boolean"#),
        (json!({"renewQuery": 7}), r#""renewQuery" must be a boolean"#),
        (json!({"cache": "always"}), r#""cacheMode" must be one of [stale-if-slow"#),
        (json!({"joinHints": ["events"]}), r#""joinHints[0]" must be an array"#),
        (json!({"joinHints": [["events", 1]]}), r#""joinHints[0][1]" must be a string"#),
        (
            json!({"subqueryJoins": [{"joinType": "OUTER"}]}),
            r#""subqueryJoins[0].joinType" must be one of [LEFT, INNER]"#,
        ),
        (json!({"subqueryJoins": [{"sql": "SELECT 1"}]}), "subqueryJoins are only supported in the SQL API"),
        (json!({"maskedMembers": ["events.id"]}), "maskedMembers cannot be provided in the query"),
        (json!({"measures": [{"expression": "1"}]}), "Expressions are not allowed in this context"),
        (json!({"measures": ["{\"expression\": 1}"]}), "Expressions are not allowed in this context"),
        (json!({"segments": [{"expression": "1"}]}), "Expressions are not allowed in this context"),
    ];
    for (more, fault) in cases {
        check_refused(&ask(&server, &query(&more)), fault);
    }
    server.assert_alive();
}

#[test]
fn large_and_deep_requests_are_bounded() {
    let project = events_project(&["2024-01"], 30);
    let server = Server::start_with(&project, &[("CUBEJS_MAX_REQUEST_SIZE", "11mb")]);
    let ten_megabytes = "x".repeat(10 << 20);
    check_refused(&ask(&server, &json!({"measures": [ten_megabytes]})), "measures[0]");
    check_refused(&post_raw(&server, ten_megabytes), "");
    let reply = post_raw(&server, format!("{{\"query\": \"{}\"}}", "x".repeat(12 << 20)));
    check_refused(&reply, "too large");
    server.assert_alive();

    let leaf = |member: &str| json!({"member": member, "operator": "notEquals", "values": ["nothing"]});
    let many: Vec<_> = (0..2000).map(|_| leaf("events.kind")).collect();
    let reply = ask(&server, &query(&json!({"filters": many})));
    if reply.status == 200 {
        assert_eq!(reply.value()["data"], json!([{"events.count": "30"}]));
    } else {
        check_refused(&reply, "filters");
    }
    let mut wrong = many.clone();
    wrong.push(leaf("events.nope"));
    assert!((400..500).contains(&ask(&server, &query(&json!({"filters": wrong}))).status));
    server.assert_alive();

    for depth in [200, 100_000] {
        let filters = format!("{}{}{}", r#"{"and":["#.repeat(depth), leaf("events.kind"), "]}".repeat(depth));
        let body = format!(r#"{{"query":{{"measures":["events.count"],"filters":[{filters}]}}}}"#);
        let reply = post_raw(&server, body);
        assert!((400..500).contains(&reply.status), "depth {depth}: {} {}", reply.status, reply.body);
        let arrays = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!((400..500).contains(&post_raw(&server, arrays).status));
    }
    let nested = (0..20).fold(leaf("events.kind"), |inner, _| json!({"or": [inner]}));
    assert_eq!(server.rows(&query(&json!({"filters": [nested]}))), [json!({"events.count": "30"})]);
    server.assert_alive();
}

#[test]
fn sql_in_values_is_a_value() {
    let server = start();
    let hostile = [
        "'; DROP TABLE events; --",
        "x' OR '1'='1",
        "it's",
        "\\' OR 1=1 --",
        "\"; SELECT 1; --",
        "$1",
        "{CUBE}.kind",
        "%",
        "\u{0}",
        "'||(SELECT 1)||'",
    ];
    for operator in ["equals", "contains", "startsWith", "notEquals", "notContains"] {
        for value in hostile {
            let filter = json!({"member": "events.kind", "operator": operator, "values": [value]});
            let reply = ask(&server, &query(&json!({"filters": [filter]})));
            assert_eq!(reply.status, 200, "{operator} {value:?}: {}", reply.body);
            let found = if value == "it's" { "10" } else { "0" };
            let rest = if value == "it's" { "20" } else { "30" };
            let expected = if operator.starts_with("not") { rest } else { found };
            assert_eq!(reply.value()["data"], json!([{"events.count": expected}]), "{operator} {value:?}");
        }
    }
    let cases = [
        json!({"order": {"events.count; DROP TABLE events": "asc"}}),
        json!({"dimensions": ["events.kind\"; DROP TABLE events; --"]}),
        json!({"timezone": "UTC'; DROP TABLE events; --"}),
        json!({"timeDimensions": [{"dimension": "events.at", "granularity": "day'); --"}]}),
        json!({"timeDimensions": [{"dimension": "events.at", "dateRange": ["2024-01-01'; --", "2024-01-02"]}]}),
    ];
    for more in cases {
        let status = ask(&server, &query(&more)).status;
        assert!(status < 500, "{more}: {status}");
    }
    assert_eq!(server.rows(&query(&json!({}))), [json!({"events.count": "30"})], "the table is still there");
    server.assert_alive();
}

#[test]
fn a_reversed_range_is_empty() {
    let server = start();
    let time = json!({"dimension": "events.at", "granularity": "day", "dateRange": ["2024-02-01", "2024-01-01"]});
    let answer = server.load(&query(&json!({"timeDimensions": [time]})));
    assert_eq!(answer["data"], json!([]));
    assert_eq!(
        answer["query"]["timeDimensions"][0]["dateRange"],
        json!(["2024-02-01T00:00:00.000", "2024-01-01T23:59:59.999"])
    );
    let time = json!({"dimension": "events.at", "dateRange": ["2024-02-01", "2024-01-01"]});
    assert_eq!(server.rows(&query(&json!({"timeDimensions": [time]}))), [json!({"events.count": "0"})]);
    server.assert_alive();
}

#[test]
fn unknown_paths_and_methods_are_not_found() {
    let server = start();
    let cases = [
        ("GET", "/cubejs-api/v1/nope"),
        ("GET", "/cubejs-api/v2/load"),
        ("GET", "/nope"),
        ("GET", "/cubejs-api/v1/load/x"),
        ("DELETE", LOAD),
        ("PUT", LOAD),
        ("PATCH", LOAD),
        ("POST", "/cubejs-api/v1/meta"),
        ("GET", "/cubejs-api/v1/pre-aggregations/jobs"),
        ("BREW", LOAD),
    ];
    for (method, path) in cases {
        let reply = server.call(method, path).token(&valid_token()).send();
        assert!(matches!(reply.status, 404 | 405), "{method} {path}: {} {}", reply.status, reply.body);
    }
    server.assert_alive();
}

#[test]
fn the_log_names_the_request_that_failed() {
    let server = start();
    let body = json!({"query": {"measures": ["events.nope"]}});
    let call = |id: &str| server.call("POST", LOAD).token(&valid_token()).header("x-request-id", id);
    assert_eq!(call("acceptance-17-span-1").json(&body).send().status, 400);
    let broken = call("acceptance-18-span-1").header("content-type", "application/json").raw("{\"query\": {").send();
    assert!((400..500).contains(&broken.status));
    for id in ["acceptance-17-span-1", "acceptance-18-span-1"] {
        wait_until("the log to name the failed request", Duration::from_secs(10), || {
            server.log().contains(id).then_some(())
        });
    }
    // Without an id of the client's the server makes one; odd ids do no harm.
    for id in ["", " ", "#,;'\"", &"x".repeat(5000)] {
        assert_eq!(call(id).json(&body).send().status, 400, "{id:?}");
    }
    server.assert_alive();
}
