//! Acceptance 1: the JavaScript clients of npm run unchanged, over HTTP and over a socket, with exact results.
//!
//! `tests/checks/clients` pins them and holds the script that runs them.

use serde_json::{Value, json};

use crate::events::{Month, events_project, selector, write_events};
use crate::node::run_script;
use crate::server::{ALL_SCOPES, Project, Server, valid_token};

const MONTHS: [&str; 3] = ["2024-01", "2024-02", "2024-03"];

fn started() -> (Project, Server) {
    let project = events_project(&MONTHS, 90);
    let file = project.path().join("model/events.yml");
    let text = std::fs::read_to_string(&file).expect("the model");
    let drilling =
        text.replacen("        type: count\n", "        type: count\n        drill_members: [kind, at]\n", 1);
    project.write("model/events.yml", &drilling);
    let server =
        Server::start_with(&project, &[("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES), ("CUBEJS_WEB_SOCKETS", "true")]);
    (project, server)
}

/// Runs steps; every one over HTTP, then every one over a socket.
#[track_caller]
fn run(server: &Server, zone: &str, steps: &[Value]) -> Vec<Value> {
    let by_socket = steps.iter().map(|step| {
        let mut step = step.clone();
        step["socket"] = json!(true);
        step
    });
    let task = json!({
        "api": format!("http://127.0.0.1:{}/cubejs-api/v1", server.port()),
        "socket": format!("ws://127.0.0.1:{}/", server.port()),
        "token": valid_token(),
        "steps": steps.iter().cloned().chain(by_socket).collect::<Vec<_>>(),
    });
    let results = run_script("clients", "run_clients.cjs", zone, &task);
    let results = results.as_array().unwrap_or_else(|| panic!("no results: {results}")).clone();
    assert_eq!(results.len(), 2 * steps.len());
    server.assert_alive();
    results
}

/// What each step gives, both ways.
#[track_caller]
fn check(server: &Server, zone: &str, cases: &[(Value, Value)]) {
    let steps: Vec<Value> = cases.iter().map(|(step, _)| step.clone()).collect();
    let results = run(server, zone, &steps);
    let expected = cases.iter().chain(cases).map(|(_, expected)| expected);
    for ((result, expected), step) in results.iter().zip(expected).zip(steps.iter().chain(&steps)) {
        assert_eq!(result, expected, "{step}");
    }
}

fn by_kind() -> Value {
    json!({"measures": ["events.count"], "dimensions": ["events.kind"], "order": [["events.kind", "asc"]]})
}

fn kinds(count: &Value) -> Value {
    json!(["click", "it's", "view"].map(|kind| json!({"events.kind": kind, "events.count": count})))
}

#[test]
fn results_have_rows_series_and_pivots() {
    let (_project, server) = started();
    let mut compact = by_kind();
    compact["responseFormat"] = json!("compact");
    let mut columnar = by_kind();
    columnar["responseFormat"] = json!("columnar");
    let mut paged = by_kind();
    paged["total"] = json!(true);
    paged["limit"] = json!(2);
    let by_month = json!({"measures": ["events.count"], "dimensions": ["events.kind"],
        "timeDimensions": [{"dimension": "events.at", "granularity": "month", "dateRange": ["2024-01-01", "2024-02-29"]}],
        "filters": [{"member": "events.kind", "operator": "equals", "values": ["click"]}]});
    let (january, february) = ("2024-01-01T00:00:00.000", "2024-02-01T00:00:00.000");
    let series = json!([{"title": "click, Events Count", "shortTitle": "click, Count", "key": "click,events.count",
        "series": [{"value": 30, "x": january}, {"value": 30, "x": february}]}]);
    let chart = json!([{"x": january, "xValues": [january], "click,events.count": 30},
        {"x": february, "xValues": [february], "click,events.count": 30}]);
    let table = json!([{"events.at.month": january, "events.kind": "click", "events.count": "30"},
        {"events.at.month": february, "events.kind": "click", "events.count": "30"}]);
    let by_day = json!({"measures": ["visits.count"], "timeDimensions": [
        {"dimension": "visits.at", "granularity": "day", "dateRange": ["2024-01-09", "2024-01-12"]}]});
    let filled = [(9, 3), (10, 3), (11, 0), (12, 0)].map(|(day, count)| {
        let x = format!("2024-01-{day:02}T00:00:00.000");
        json!({"x": x, "xValues": [x], "visits.count": count})
    });
    let cast = json!({"castNumerics": true});
    let cases = [
        (json!({"do": "load", "query": by_kind(), "views": [["rawData"]]}), json!({"views": [kinds(&json!("90"))]})),
        (
            json!({"do": "load", "query": by_kind(), "options": cast, "views": [["rawData"], ["tablePivot"]]}),
            json!({"views": [kinds(&json!(90)), kinds(&json!(90))]}),
        ),
        (json!({"do": "load", "query": compact, "views": [["rawData"]]}), json!({"views": [kinds(&json!("90"))]})),
        (json!({"do": "load", "query": columnar, "views": [["rawData"]]}), json!({"views": [kinds(&json!("90"))]})),
        (json!({"do": "load", "query": paged, "views": [["totalRows"]]}), json!({"views": [3]})),
        (
            json!({"do": "load", "query": by_month, "views": [["series"], ["chartPivot"], ["tablePivot"]]}),
            json!({"views": [series, chart, table]}),
        ),
        (json!({"do": "load", "query": by_day, "views": [["chartPivot"]]}), json!({"views": [filled]})),
    ];
    // Series of dates are made by the client's own clock.
    for zone in ["UTC", "America/Los_Angeles"] {
        check(&server, zone, &cases);
    }
}

#[test]
fn ranges_are_compared_and_queries_blended() {
    let (_project, server) = started();
    let (first, second) =
        ("2024-01-01T00:00:00.000 - 2024-01-31T23:59:59.999", "2024-02-01T00:00:00.000 - 2024-02-29T23:59:59.999");
    let month = |range: &str, at: &str| json!([[{"events.at.month": at, "events.at": at, "events.count": "90", "compareDateRange": range}]]);
    let (january, february) = ("2024-01-01T00:00:00.000", "2024-02-01T00:00:00.000");
    let compared = json!({"measures": ["events.count"], "timeDimensions": [{"dimension": "events.at",
        "granularity": "month", "compareDateRange": [["2024-01-01", "2024-01-31"], ["2024-02-01", "2024-02-29"]]}]});
    let chart = json!([{"x": january, "xValues": [january], format!("{first},events.count"): 90,
        format!("{second},events.count"): 90}]);
    let of = |measure: &str, time: &str| {
        json!({"measures": [measure], "timeDimensions": [
            {"dimension": time, "granularity": "month", "dateRange": ["2024-01-01", "2024-01-31"]}]})
    };
    let row = |measure: &str, time: &str, count: &str| json!([[{format!("{time}.month"): january, time: january, measure: count, "time.month": january}]]);
    let blend = json!([of("events.count", "events.at"), of("visits.count", "visits.at")]);
    let blended = json!([{"time.month": january, "events.count": "90", "visits.count": "30"}]);
    check(
        &server,
        "UTC",
        &[
            (
                json!({"do": "load", "query": compared, "views": [["chartPivot"]], "decompose": [["rawData"]]}),
                json!({"views": [chart], "parts": [month(first, january), month(second, february)]}),
            ),
            (
                json!({"do": "load", "query": blend, "views": [["tablePivot"]], "decompose": [["rawData"]]}),
                json!({"views": [blended], "parts": [
                    row("events.count", "events.at", "90"), row("visits.count", "visits.at", "30")]}),
            ),
        ],
    );
}

#[test]
fn a_point_of_a_chart_is_drilled_into() {
    let (_project, server) = started();
    let by_month = json!({"measures": ["events.count"], "dimensions": ["events.kind"],
        "timeDimensions": [{"dimension": "events.at", "granularity": "month", "dateRange": ["2024-01-01", "2024-02-29"]}]});
    let point = json!({"xValues": ["2024-02-01T00:00:00.000"], "yValues": ["click", "events.count"]});
    for result in run(&server, "UTC", &[json!({"do": "load", "query": by_month, "drill": point})]) {
        let filters = json!([{"member": "events.count", "operator": "measureFilter"},
            {"member": "events.kind", "operator": "equals", "values": ["click"]}]);
        assert_eq!(result["drill"]["filters"], filters);
        let rows = result["drilled"].as_array().unwrap_or_else(|| panic!("no rows: {result}"));
        assert_eq!(rows.len(), 30, "every row behind the point");
        assert!(rows.iter().all(|row| row["events.kind"] == "click"));
        assert!(rows.iter().all(|row| row["events.at"].as_str().is_some_and(|at| at.starts_with("2024-02-"))));
    }
}

#[test]
fn other_methods_and_errors_are_as_the_clients_expect() {
    let (_project, server) = started();
    let plain = json!({"measures": ["events.count"]});
    let error = |message: &str, status: u16, response: Value| json!({"error": {"name": "RequestError", "message": message, "status": status, "response": response}});
    let unknown = "'nope' not found for path 'events.nope'";
    let malformed = "Invalid query format: \"foo\" is not allowed";
    let query = json!({"measures": ["events.count"], "dimensions": [], "timeDimensions": [], "filters": [],
        "limit": 10000, "rowLimit": 10000, "timezone": "UTC", "cacheMode": "stale-if-slow", "queryType": "regularQuery"});
    check(
        &server,
        "UTC",
        &[
            (
                json!({"do": "meta"}),
                json!({"cubes": ["events", "visits"], "time": "events.at", "title": "Events Kind",
                    "measures": ["events.count", "events.generations", "events.newest", "events.oldest", "visits.count"],
                    "operators": ["equals", "notEquals", "set", "notSet", "gt", "gte", "lt", "lte"]}),
            ),
            (
                json!({"do": "dryRun", "query": plain}),
                json!({"queryType": "regularQuery", "queries": 1, "queryOrder": [{"events.count": "desc"}],
                    "pivot": query}),
            ),
            (
                json!({"do": "load", "query": {"measures": ["events.nope"]}}),
                error(unknown, 400, json!({"type": "UserError", "error": unknown})),
            ),
            (
                json!({"do": "load", "query": {"measures": ["events.count"], "foo": 1}}),
                error(malformed, 400, json!({ "error": malformed })),
            ),
        ],
    );
    let results = run(&server, "UTC", &[json!({"do": "sql", "query": plain})]);
    for result in &results {
        assert!(result["sql"].as_str().is_some_and(|sql| sql.starts_with("SELECT count(")), "{result}");
    }
    // A refused token: over a socket the message that was waiting for it is refused.
    let results = run(&server, "UTC", &[json!({"do": "load", "query": plain, "token": "nonsense"})]);
    assert_eq!(results[0], error("Invalid token", 403, json!({"error": "Invalid token"})));
    assert_eq!(results[1], error("Not authorized", 403, json!({"error": "Not authorized"})));
    // Giving up is for HTTP; over a socket it does not stop the answer.
    let results = run(&server, "UTC", &[json!({"do": "abort", "query": by_kind(), "views": [["rawData"]]})]);
    assert_eq!(results[0]["error"]["message"], json!("aborted"), "{results:?}");
    assert_eq!(results[1], json!({"views": [kinds(&json!("90"))]}));
}

#[test]
fn a_subscription_gets_what_a_rebuild_changes() {
    let (project, server) = started();
    let rollup = selector(&json!({"preAggregations": ["events.monthly"]}));
    let january = selector(&json!({"preAggregations": ["events.monthly"], "dateRange": ["2024-01-01", "2024-01-31"]}));
    let generations = json!({"measures": ["events.newest"], "timeDimensions": [
        {"dimension": "events.at", "granularity": "month", "dateRange": ["2024-01-01", "2024-03-31"]}]});
    let step = json!({"do": "subscribe", "query": generations, "views": [["series"]], "jobs": january,
        "options": {"pollInterval": 1}});
    let newest = |result: &Value, at: usize| -> Vec<Value> {
        let series = result["seen"][at][0][0]["series"].as_array().cloned();
        series.unwrap_or_else(|| panic!("no series: {result}")).iter().map(|point| point["value"].clone()).collect()
    };
    for (generation, socket) in [(2, true), (3, false)] {
        let old = generation - 1;
        write_events(&project, &MONTHS.map(|name| Month { name, rows: 90, generation: old }));
        server.build(&rollup);
        write_events(&project, &MONTHS.map(|name| Month { name, rows: 90, generation }));
        let mut step = step.clone();
        step["socket"] = json!(socket);
        let task = json!({
            "api": format!("http://127.0.0.1:{}/cubejs-api/v1", server.port()),
            "socket": format!("ws://127.0.0.1:{}/", server.port()),
            "token": valid_token(), "steps": [step],
        });
        let result = run_script("clients", "run_clients.cjs", "UTC", &task)[0].clone();
        assert_eq!(newest(&result, 0), vec![json!(old); 3], "{result}");
        if socket {
            assert_eq!(newest(&result, 1), [generation, old, old].map(|newest| json!(newest)), "pushed: {result}");
            assert!(result["milliseconds"].as_u64().is_some_and(|took| took < 1000), "{result}");
        } else {
            // Over HTTP the client asks again, whether there is something new or not.
            let second = newest(&result, 1);
            assert!([json!(old), json!(generation)].contains(&second[0]) && second[1] == json!(old), "{result}");
        }
    }
    server.assert_alive();
}

/// Cubes over ever more pairs of rows: one of them takes longer than a request waits, whatever the machine.
fn slow_cubes() -> String {
    let cube = |power: u32| {
        let rows = 1_u64 << power;
        format!(
            "  - name: slow_{power}
    sql: SELECT a.value AS n, b.value AS m FROM generate_series(1, {rows}) AS a(value) CROSS JOIN generate_series(1, {rows}) AS b(value)
    measures: [{{name: total, type: count, filters: [{{sql: '({{CUBE}}.n * 31 + {{CUBE}}.m) % 7 = 3'}}]}}]
    dimensions: [{{name: n, sql: '{{CUBE}}.n % 3', type: number}}]
"
        )
    };
    format!("cubes:\n{}", SIDES.into_iter().map(cube).collect::<String>())
}

const SIDES: [u32; 10] = [10, 11, 12, 13, 14, 15, 16, 17, 18, 19];

/// Over HTTP the client asks again; over a socket the answer comes by itself, before the client's next heartbeat.
#[test]
fn a_query_that_takes_its_time_is_waited_for() {
    let project = Project::empty();
    project.write("model/cubes.yml", &slow_cubes());
    let server = Server::start_with(&project, &[("QUARRY_CONTINUE_WAIT", "1"), ("CUBEJS_WEB_SOCKETS", "true")]);
    for socket in [false, true] {
        let waited = SIDES.into_iter().any(|power| {
            let total = format!("slow_{power}.total");
            // The ways ask different things, so that neither finds the answer of the other.
            let by = if socket { json!([format!("slow_{power}.n")]) } else { json!([]) };
            let query = json!({"measures": [total], "dimensions": by});
            let step = json!({"do": "wait", "query": query, "views": [["rawData"]], "socket": socket});
            let task = json!({
                "api": format!("http://127.0.0.1:{}/cubejs-api/v1", server.port()),
                "socket": format!("ws://127.0.0.1:{}/", server.port()),
                "token": valid_token(), "steps": [step],
            });
            let result = run_script("clients", "run_clients.cjs", "UTC", &task)[0].clone();
            let rows = result["views"][0].as_array().unwrap_or_else(|| panic!("no rows: {result}")).clone();
            let counted: u64 = rows
                .iter()
                .map(|row| row[&total].as_str().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0))
                .sum();
            let pairs = 1_u64 << (2 * power);
            assert!(counted.abs_diff(pairs / 7) <= 1 << power, "{counted} of {pairs} pairs: {result}");
            assert!(result["milliseconds"].as_u64().is_some_and(|took| took < 55_000), "{result}");
            result["waits"].as_u64().is_some_and(|waits| waits > 0)
        });
        assert!(waited, "no query took longer than a request waits (socket: {socket})");
    }
    server.assert_alive();
}
