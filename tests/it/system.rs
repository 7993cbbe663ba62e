//! `/cubejs-system/v1` (`http-api.md` §9): what operators' tools of Cube ask, with a secret of their own.

use serde_json::{Value, json};

use crate::events::events_project;
use crate::server::{JOBS, Reply, SECRET, Server, sign, wait_until};
use std::time::Duration;

const OPERATORS: &str = "a secret of operators, long enough as well";
const BASE: &str = "/cubejs-system/v1";

fn start(more: &[(&str, &str)]) -> Server {
    let mut settings = vec![("CUBEJS_PLAYGROUND_AUTH_SECRET", OPERATORS)];
    settings.extend_from_slice(more);
    Server::start_with(&events_project(&["2024-01", "2024-02"], 30), &settings)
}

fn get(server: &Server, path: &str) -> Reply {
    server.call("GET", &format!("{BASE}{path}")).token(&sign(&json!({}), OPERATORS)).send()
}

fn post(server: &Server, path: &str, body: &Value) -> Reply {
    server.call("POST", &format!("{BASE}{path}")).token(&sign(&json!({}), OPERATORS)).json(body).send()
}

#[test]
fn operators_alone_are_let_in_and_only_where_they_have_a_secret() {
    let server = start(&[("CUBEJS_DEFAULT_API_SCOPES", "nothing")]);
    for path in ["/context", "/pre-aggregations", "/pre-aggregations/timezones", "/pre-aggregations/security-contexts"]
    {
        let full = format!("{BASE}{path}");
        assert_eq!(get(&server, path).status, 200, "{path}: no scope is needed");
        let reply = server.get(&full);
        assert_eq!((reply.status, reply.error().as_str()), (403, "Invalid token"), "{path}");
        let reply = server.call("GET", &full).send();
        assert_eq!((reply.status, reply.error().as_str()), (403, "Authorization header isn't set"), "{path}");
    }
    let without = Server::start(&events_project(&["2024-01"], 30));
    assert_eq!(without.get(&format!("{BASE}/context")).status, 404);
    assert_eq!(without.call("GET", &format!("{BASE}/context")).token(&sign(&json!({}), OPERATORS)).send().status, 404);
    let paths = without.call("GET", "/cubejs-api/v1/openapi.json").send().value()["paths"].clone();
    assert!(!paths.as_object().expect("paths").keys().any(|path| path.starts_with(BASE)), "nor are they described");
    let moved = start(&[("CUBEJS_BASE_PATH", "/api")]);
    assert_eq!(get(&moved, "/context").value()["basePath"], json!("/api"), "the base path does not move these");
}

#[test]
fn the_contexts_of_the_background_are_those_of_the_project() {
    let project = events_project(&["2024-01"], 30);
    let hook = "async () => [{ securityContext: { tenant: 'acme' } }, { securityContext: { tenant: 'bond' } }, null]";
    project.write("cube.js", &format!("module.exports = {{ scheduledRefreshContexts: {hook} }}"));
    let server = Server::start_with(&project, &[("CUBEJS_PLAYGROUND_AUTH_SECRET", OPERATORS)]);
    let contexts = get(&server, "/pre-aggregations/security-contexts").value();
    assert_eq!(contexts, json!({"securityContexts": [{"tenant": "acme"}, {"tenant": "bond"}, {}]}));
}

#[test]
fn definitions_partitions_and_builds() {
    let server = start(&[("CUBEJS_SCHEDULED_REFRESH_TIMEZONES", "UTC,Europe/Berlin")]);
    let zones = get(&server, "/pre-aggregations/timezones").value();
    assert_eq!(zones, json!({"timezones": ["UTC", "Europe/Berlin"]}));
    assert_eq!(get(&server, "/pre-aggregations/security-contexts").value(), json!({"securityContexts": [{}]}));
    let definitions = get(&server, "/pre-aggregations").value();
    let definitions = definitions["preAggregations"].as_array().expect("a list");
    let monthly = definitions.iter().find(|entry| entry["id"] == "events.monthly").expect("a definition");
    assert_eq!((&monthly["cube"], &monthly["preAggregationName"]), (&json!("events"), &json!("monthly")));
    assert_eq!(monthly["references"]["dimensions"], json!(["events.kind"]));
    assert_eq!(monthly["references"]["timeDimensions"], json!([{"dimension": "events.at", "granularity": "day"}]));

    let ask = |entry: Value| {
        let query = json!({"query": {"timezones": ["UTC"], "preAggregations": [entry]}});
        let reply = post(&server, "/pre-aggregations/partitions", &query);
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.value()["preAggregationPartitions"].clone()
    };
    let before = ask(json!({"id": "events.monthly"}));
    let tables: Vec<&Value> =
        before[0]["partitions"].as_array().expect("a list").iter().map(|p| &p["tableName"]).collect();
    let name = |month: &str| json!(format!("prod_pre_aggregations.events_monthly{month}01"));
    assert_eq!(tables, [&name("202401"), &name("202402")]);
    assert_eq!(before[0]["partitions"][0]["versionEntries"], json!([]), "nothing is built yet");
    assert_eq!(before[0]["partitions"][0]["buildRangeEnd"], json!("2024-01-31T23:59:59.999"));

    let february = json!({"query": {"timezones": ["UTC"], "preAggregations": [
        {"id": "events.monthly", "partitions": [name("202402")]},
    ]}});
    assert_eq!(post(&server, "/pre-aggregations/build", &february).value(), json!({"result": true}));
    let built = wait_until("the build", Duration::from_secs(60), || {
        let shown = ask(json!({"id": "events.monthly", "cacheOnly": true}));
        (shown[0]["partitions"].as_array().map(Vec::len) == Some(1)).then_some(shown)
    });
    let entry = &built[0]["partitions"][0];
    assert_eq!(entry["tableName"], name("202402"), "that one and no other");
    let version = &entry["versionEntries"][0];
    let table = version["table_name"].as_str().expect("a name");
    assert!(table.starts_with("prod_pre_aggregations.events_monthly20240201_"), "{table}");
    assert_eq!(version["structure_version"], entry["structureVersion"]);

    let show = |version: &Value| {
        let query =
            json!({"query": {"preAggregationId": "events.monthly", "timezone": "UTC", "versionEntry": version}});
        let reply = post(&server, "/pre-aggregations/preview", &query);
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.value()
    };
    let shown = show(version);
    let rows = shown["preview"]["data"].as_array().expect("rows");
    assert!(!rows.is_empty() && rows.iter().all(|row| row["events__kind"].is_string()), "{shown}");
    let count: u64 = rows.iter().filter_map(|row| row["events__count"].as_str()?.parse::<u64>().ok()).sum();
    assert_eq!(count, 30, "a month of events: {shown}");
    assert_eq!(show(&json!({"table_name": format!("{table}0")})), json!({}), "no such version");
    let ranged = ask(json!({"id": "events.monthly", "refreshRange": ["2024-01-10", "2024-01-20"]}));
    assert_eq!(ranged[0]["partitions"].as_array().map(Vec::len), Some(1));
    assert_eq!(ask(json!({"id": "events.nothing"})), json!([]));
}

#[test]
fn the_queue_shows_builds_that_can_be_cancelled() {
    let project = events_project(&["2024-01"], 30);
    crate::events::write_visits(&project, 300, 100);
    let settings = [
        ("CUBEJS_PLAYGROUND_AUTH_SECRET", OPERATORS),
        ("CUBEJS_DEFAULT_API_SCOPES", "jobs"),
        ("CUBEJS_REFRESH_WORKER_CONCURRENCY", "1"),
    ];
    let server = Server::start_with(&project, &settings);
    let selector = json!({"contexts": [{"securityContext": {}}], "timezones": ["UTC"], "cubes": ["visits"]});
    let tokens = server.call("POST", JOBS).token(&sign(&json!({}), SECRET));
    let tokens = tokens.json(&json!({"action": "post", "selector": selector})).send().value();
    let queue = post(&server, "/pre-aggregations/queue", &json!({})).value();
    let waiting: Vec<Value> = queue["result"].as_array().expect("a list").clone();
    assert!(waiting.len() > 10, "most of 300 wait: {}", waiting.len());
    assert_eq!(waiting[0]["query"]["preAggregationId"], json!("visits.daily"));
    assert!(waiting.iter().all(|entry| tokens.as_array().is_some_and(|all| all.contains(&entry["queryKey"]))));
    let keys: Vec<&Value> =
        waiting.iter().filter(|entry| entry["status"] == json!(["toProcess"])).map(|e| &e["queryKey"]).collect();
    let last = [keys[0], &json!("no such build")];
    let body = json!({"query": {"queryKeys": last, "dataSource": "default"}});
    assert_eq!(post(&server, "/pre-aggregations/cancel", &body).value(), json!({"result": [true, false]}));
}

#[test]
fn faulty_questions_are_told_by_path() {
    let server = start(&[]);
    for (query, text) in [
        (json!({}), "\"preAggregationId\" is required"),
        (json!({"preAggregationId": "a.b"}), "\"versionEntry\" is required"),
        (json!({"preAggregationId": "a.b", "versionEntry": {}}), "\"versionEntry.table_name\" is required"),
        (
            json!({"preAggregationId": "a.b", "timezone": "Mars/Base", "versionEntry": {"table_name": "t"}}),
            "\"timezone\" must be valid IANA time zones, got \"Mars/Base\"",
        ),
    ] {
        let reply = post(&server, "/pre-aggregations/preview", &json!({"query": query}));
        assert_eq!((reply.status, reply.error()), (400, format!("Invalid query format: {text}")), "{query}");
    }
    for (body, text) in [
        (json!({}), "\"query\" is required"),
        (json!({"query": []}), "\"query\" must be of type object"),
        (json!({"query": {}}), "\"preAggregations\" is required"),
        (json!({"query": {"preAggregations": [], "x": 1}}), "\"x\" is not allowed"),
        (json!({"query": {"preAggregations": [{}]}}), "\"preAggregations[0].id\" is required"),
        (
            json!({"query": {"preAggregations": [], "timezones": ["Mars/Base"]}}),
            "\"timezones\" must be valid IANA time zones, got \"Mars/Base\"",
        ),
    ] {
        for path in ["/pre-aggregations/partitions", "/pre-aggregations/build"] {
            let reply = post(&server, path, &body);
            assert_eq!((reply.status, reply.error()), (400, format!("Invalid query format: {text}")), "{path}");
        }
    }
    server.assert_alive();
}

#[test]
fn tools_are_told_whether_a_rollup_would_do() {
    let server = Server::start(&events_project(&["2024-01"], 30));
    let query = json!({"measures": ["events.count"], "dimensions": ["events.kind"],
        "timeDimensions": [{"dimension": "events.at", "granularity": "month", "dateRange": ["2024-01-01", "2024-01-31"]}]});
    let planned = server.post("/cubejs-api/v1/dry-run", &json!({"query": query})).value();
    let ask = |references: &Value| {
        let body = json!({"transformedQuery": planned["transformedQueries"][0], "references": references});
        let reply = server.post("/cubejs-api/v1/pre-aggregations/can-use", &body);
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.value()["canUsePreAggregationForTransformedQuery"].clone()
    };
    let rollup = |granularity: &str, dimensions: &[&str]| {
        json!({"measures": ["events.count"], "dimensions": dimensions,
            "timeDimensions": [{"dimension": "events.at", "granularity": granularity}]})
    };
    assert_eq!(ask(&rollup("day", &["events.kind"])), json!(true));
    assert_eq!(ask(&rollup("month", &["events.kind"])), json!(true));
    assert_eq!(ask(&rollup("year", &["events.kind"])), json!(false));
    assert_eq!(ask(&rollup("day", &[])), json!(false));
    assert_eq!(ask(&Value::Null), Value::Null, "there is nothing to look at");
    let reply = server.post("/cubejs-api/v1/pre-aggregations/can-use", &json!({"transformedQuery": {"measures": 7}}));
    assert_eq!(reply.status, 400);
    assert!(reply.error().starts_with("Invalid query format: \"transformedQuery\": "), "{}", reply.error());
}
