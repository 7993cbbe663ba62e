//! Requests with several results: compared date ranges, blended queries, `queryType=multi`; what `/v1/dry-run` and
//! `/v1/sql` say of them; and the bounds of one request (`http-api.md` §5.14, §7.1, §7.2).

use serde_json::{Value, json};

use crate::events::{Month, events_project, selector, write_events};
use crate::server::{LOAD, Project, Reply, SECRET, Server, is_live, printed, run, valid_token};

const DRY_RUN: &str = "/cubejs-api/v1/dry-run";
const SQL: &str = "/cubejs-api/v1/sql";
const SUBSCRIBE: &str = "/cubejs-api/v1/subscribe";

/// 30 events from the 5th to the 24th of January 2024 (2, 1, 2, 1… a day), 3 visits on each of its first 10 days.
fn start() -> Server {
    Server::start(&project())
}

fn project() -> Project {
    events_project(&["2024-01"], 30)
}

fn by_day(cube: &str, range: &Value) -> Value {
    json!({"measures": [format!("{cube}.count")],
        "timeDimensions": [{"dimension": format!("{cube}.at"), "granularity": "day", "dateRange": range}]})
}

fn comparing(ranges: &Value) -> Value {
    json!({"measures": ["events.count"],
        "timeDimensions": [{"dimension": "events.at", "granularity": "day", "compareDateRange": ranges}]})
}

/// Copies `query` with more keys.
fn with(query: &Value, more: &Value) -> Value {
    let mut query = query.clone();
    for (key, value) in more.as_object().into_iter().flatten() {
        query[key.as_str()] = value.clone();
    }
    query
}

fn post(server: &Server, query: &Value) -> Reply {
    server.post(LOAD, &json!({"query": query, "queryType": "multi"}))
}

#[track_caller]
fn load(server: &Server, query: &Value) -> Value {
    let reply = post(server, query);
    assert_eq!(reply.status, 200, "{query} was answered {}", reply.body);
    reply.value()
}

/// A value for the query part of a URL.
fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// An answer without what differs from moment to moment.
fn timeless(mut answer: Value) -> Value {
    for result in answer["results"].as_array_mut().into_iter().flatten() {
        result["lastRefreshTime"] = Value::Null;
    }
    answer
}

#[test]
fn blended_queries_are_answered_side_by_side() {
    let server = start();
    let range = json!(["2024-01-05", "2024-01-06"]);
    let visits = with(&by_day("visits", &range), &json!({"order": {"visits.at": "desc"}, "limit": 1, "total": true}));
    let reply = post(&server, &json!([by_day("events", &range), visits]));
    let keys = concat!(
        r#"{"events.at.day":"2024-01-05T00:00:00.000","events.count":"2","events.at":"2024-01-05T00:00:00.000","#,
        r#""time.day":"2024-01-05T00:00:00.000"}"#
    );
    assert!(reply.body.contains(keys), "{}", reply.body);
    let answer = reply.value();
    assert_eq!(
        (reply.status, &answer["queryType"], &answer["slowQuery"]),
        (200, &json!("blendingQuery"), &json!(false))
    );
    let outer: Vec<&String> = answer.as_object().expect("an object").keys().collect();
    assert_eq!(outer, ["queryType", "results", "pivotQuery", "slowQuery"]);
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results.len(), 2);
    assert_eq!(results[0]["data"].as_array().map(Vec::len), Some(2));
    let last = json!({"visits.at.day": "2024-01-06T00:00:00.000", "visits.at": "2024-01-06T00:00:00.000",
        "visits.count": "3", "time.day": "2024-01-06T00:00:00.000"});
    assert_eq!(results[1]["data"], json!([last]), "order and limit act on each query");
    assert_eq!((results[0].get("total"), &results[1]["total"]), (None, &json!(2)), "total too");
    assert_eq!((&results[0]["query"]["limit"], &results[1]["query"]["limit"]), (&json!(10_000), &json!(1)));
    let times = results[1]["annotation"]["timeDimensions"].as_object().expect("an object");
    assert_eq!(times.keys().collect::<Vec<_>>(), ["visits.at.day", "visits.at"]);
    let pivot = &answer["pivotQuery"];
    assert_eq!(pivot["measures"], json!(["events.count", "visits.count"]));
    assert_eq!(pivot["timeDimensions"], json!([{"dimension": "time", "granularity": "day"}]));
    assert_eq!((&pivot["queryType"], pivot.get("dimensions")), (&json!("blendingQuery"), None));
    server.assert_alive();
}

#[test]
fn one_query_in_an_array_is_a_blend() {
    let server = start();
    let answer = load(&server, &json!([by_day("events", &json!("2024-01-05"))]));
    assert_eq!((&answer["queryType"], answer["results"].as_array().map(Vec::len)), (&json!("blendingQuery"), Some(1)));
    assert_eq!(answer["results"][0]["data"][0]["time.day"], json!("2024-01-05T00:00:00.000"));
    // A granularity may also stand in a dimension's name; comparing has no effect in a blend, and is echoed.
    let three_parts = json!({"measures": ["events.count"], "dimensions": ["events.at.month"]});
    let mut idle = comparing(&json!(["today"]));
    idle["timeDimensions"][0]["granularity"] = json!("month");
    let answer = load(&server, &json!([three_parts, idle]));
    for result in answer["results"].as_array().expect("results") {
        assert_eq!(result["data"][0]["time.month"], json!("2024-01-01T00:00:00.000"));
        assert_eq!(result["data"][0]["events.count"], json!("30"));
    }
    assert_eq!(answer["results"][1]["query"]["timeDimensions"][0]["compareDateRange"], json!(["today"]));
}

#[test]
fn compared_ranges_are_answered_in_order() {
    let server = start();
    let query = with(
        &comparing(&json!([["2024-01-06"], ["2024-01-04", "2024-01-05T12:00:00"], "2024-01-07"])),
        &json!({"total": true}),
    );
    let answer = load(&server, &query);
    assert_eq!(answer["queryType"], json!("compareDateRangeQuery"));
    let label = |first: &str, last: &str| format!("{first}.000 - {last}");
    let expected = [
        ("2024-01-06", "1", label("2024-01-06T00:00:00", "2024-01-06T23:59:59.999")),
        ("2024-01-05", "1", label("2024-01-04T00:00:00", "2024-01-05T12:00:00.000")),
        ("2024-01-07", "2", label("2024-01-07T00:00:00", "2024-01-07T23:59:59.999")),
    ];
    for (result, (day, count, label)) in answer["results"].as_array().expect("results").iter().zip(&expected) {
        let bucket = format!("{day}T00:00:00.000");
        let row =
            json!({"events.at.day": bucket, "events.count": count, "events.at": bucket, "compareDateRange": label});
        assert_eq!((&result["data"], &result["total"]), (&json!([row]), &json!(1)));
        let time = &result["query"]["timeDimensions"][0];
        let bounds: Vec<&str> = label.split(" - ").collect();
        assert_eq!((&time["dateRange"], time.get("compareDateRange")), (&json!(bounds), None));
        assert_eq!(result["query"]["dimensions"], json!([]));
    }
    assert_eq!(answer["results"].as_array().map(Vec::len), Some(3));
    assert_eq!(answer["pivotQuery"]["dimensions"], json!(["compareDateRange"]));
    assert_eq!(answer["pivotQuery"]["timeDimensions"], answer["results"][0]["query"]["timeDimensions"]);
    server.assert_alive();
}

#[test]
fn ranges_without_granularity_are_one_row_each() {
    let server = start();
    let mut query = comparing(&json!([["2024-01-05", "2024-01-06"], ["2023-01-01"]]));
    query["timeDimensions"][0].as_object_mut().map(|time| time.remove("granularity"));
    // The compared time dimension need not be the first; its range is the one that is shown.
    let other = json!({"dimension": "events.at", "dateRange": ["2023-01-01", "2024-12-31"]});
    query["timeDimensions"].as_array_mut().expect("a list").insert(0, other);
    let answer = load(&server, &query);
    let rows: Vec<&Value> = answer["results"].as_array().expect("results").iter().map(|r| &r["data"][0]).collect();
    let row = |count: &str, first: &str, last: &str| json!({"events.count": count, "compareDateRange": format!("{first}T00:00:00.000 - {last}T23:59:59.999")});
    assert_eq!(rows, [&row("3", "2024-01-05", "2024-01-06"), &row("0", "2023-01-01", "2023-01-01")]);
}

#[test]
fn every_response_format_carries_the_same_cells() {
    let server = start();
    let blend = |format: &Value| {
        let first = with(&by_day("events", &json!(["2024-01-05", "2024-01-07"])), &json!({"responseFormat": format}));
        json!([
            first,
            with(&by_day("visits", &json!(["2024-01-05", "2024-01-09"])), &json!({"responseFormat": format}))
        ])
    };
    let compare = |format: &Value| {
        let ranges = json!([["2024-01-05", "2024-01-07"], "2024-01-08", ["2023-01-01"]]);
        with(&comparing(&ranges), &json!({"responseFormat": format, "dimensions": ["events.kind"]}))
    };
    let plain = |format: &Value| with(&by_day("events", &json!("2024-01-05")), &json!({"responseFormat": format}));
    let queries: [&dyn Fn(&Value) -> Value; 3] = [&blend, &compare, &plain];
    for query in queries {
        let expected = load(&server, &query(&json!("default")));
        for format in ["compact", "columnar"] {
            let given = load(&server, &query(&json!(format)));
            let pairs = expected["results"]
                .as_array()
                .expect("results")
                .iter()
                .zip(given["results"].as_array().expect("results"));
            for (expected, given) in pairs {
                assert_eq!(given["query"]["responseFormat"], json!(format), "never another format than is echoed");
                let members = given["data"]["members"].as_array().expect("members");
                if expected["data"] == json!([]) {
                    assert!(members.is_empty(), "{given}");
                }
                let cells = &given["data"][if format == "compact" { "dataset" } else { "columns" }];
                let rows: Vec<Value> = (0..expected["data"].as_array().map_or(0, Vec::len))
                    .map(|row| {
                        let cell = |at: usize| if format == "compact" { &cells[row][at] } else { &cells[at][row] };
                        let entry = |(at, member): (usize, &Value)| {
                            (member.as_str().expect("a name").to_owned(), cell(at).clone())
                        };
                        members.iter().enumerate().map(entry).collect::<serde_json::Map<_, _>>().into()
                    })
                    .collect();
                assert_eq!(json!(rows), expected["data"], "{format}");
            }
        }
    }
    // Each query of a blend has its own.
    let mut mixed = blend(&json!("compact"));
    mixed[1]["responseFormat"] = json!("columnar");
    let answer = load(&server, &mixed);
    assert_eq!(
        answer["results"][0]["data"]["members"],
        json!(["events.at.day", "events.count", "events.at", "time.day"])
    );
    assert_eq!(answer["results"][1]["data"]["columns"].as_array().map(Vec::len), Some(4));
    server.assert_alive();
}

#[test]
fn get_and_post_are_equal() {
    let server = start();
    let queries = [
        comparing(&json!([["2024-01-05"], ["2024-01-06"]])),
        json!([by_day("events", &json!("2024-01-05")), by_day("visits", &json!("2024-01-05"))]),
        by_day("events", &json!("2024-01-05")),
    ];
    for query in queries {
        let encoded = encode(&query.to_string());
        let got = server.get(&format!("{LOAD}?queryType=multi&query={encoded}"));
        assert_eq!(got.status, 200, "{}", got.body);
        assert_eq!(timeless(got.value()), timeless(load(&server, &query)));
        let text = server.post(LOAD, &json!({"query": query.to_string(), "queryType": "multi"}));
        assert_eq!(timeless(text.value()), timeless(got.value()), "JSON text in a body");
        let subscribed = server.get(&format!("{SUBSCRIBE}?queryType=multi&query={encoded}"));
        assert_eq!(timeless(subscribed.value()), timeless(got.value()));
        for path in [DRY_RUN, SQL] {
            let got = server.get(&format!("{path}?query={encoded}"));
            assert_eq!(got.status, 200, "{path}: {}", got.body);
            assert_eq!(got.value(), server.post(path, &json!({ "query": query })).value());
        }
    }
}

#[test]
fn clients_that_do_not_say_multi_get_the_first_result() {
    let server = start();
    let ask = |query: &Value, query_type: Value| server.post(LOAD, &json!({"query": query, "queryType": query_type}));
    let compare = comparing(&json!([["2024-01-05"], ["2024-01-06"]]));
    let blend = json!([by_day("events", &json!("2024-01-05")), by_day("visits", &json!("2024-01-05"))]);
    for (query, key) in [(&compare, "compareDateRange"), (&blend, "time.day")] {
        let answer = ask(query, json!("regular")).value();
        assert_eq!(answer["data"][0]["events.count"], json!("2"));
        assert!(answer["data"][0].get(key).is_some() && answer.get("results").is_none(), "{answer}");
        let reply = ask(query, json!(null));
        assert_eq!(reply.status, 400);
        assert!(reply.error().ends_with("query type is not supported by the client.Please update the client."));
    }
    let plain = ask(&by_day("events", &json!("2024-01-05")), json!("multi")).value();
    assert_eq!(plain["queryType"], json!("regularQuery"));
    assert_eq!(plain["results"][0]["data"][0]["events.count"], json!("2"));
    assert_eq!(plain["pivotQuery"]["queryType"], json!("regularQuery"));
    assert!(plain["results"][0]["query"].get("queryType").is_none());
}

#[test]
fn faults_of_several_queries_are_told() {
    let server = start();
    let day = by_day("events", &json!("2024-01-05"));
    let counting = json!({"measures": ["events.count"]});
    let mut month = by_day("visits", &json!("2024-01-05"));
    month["timeDimensions"][0]["granularity"] = json!("month");
    let mut two = comparing(&json!(["today"]));
    two["timeDimensions"] = json!([two["timeDimensions"][0], two["timeDimensions"][0]]);
    let mut both = comparing(&json!(["today"]));
    both["timeDimensions"][0]["dateRange"] = json!("today");
    let cases = [
        (json!([]), "Data blending query without granularity is not supported"),
        (json!([counting, counting]), "Data blending query without granularity is not supported"),
        (json!([day, counting]), "Data blending query without granularity is not supported"),
        (json!([day, month]), "Data blending query granularities must match"),
        (json!([day, with(&day, &json!({"foo": 1}))]), "Invalid query format: \"foo\" is not allowed"),
        (json!([day, 7]), "Invalid query format: \"value\" must be of type object"),
        (json!([day, with(&day, &json!({"measures": ["events.nope"]}))]), "'nope' not found for path 'events.nope'"),
        (json!([day, with(&day, &json!({"limit": 50_001}))]), "Error: The query limit has been exceeded."),
        (two, "compareDateRange can only exist for one timeDimension"),
        (
            both,
            "Invalid query format: \"timeDimensions[0]\" contains a conflict between optional exclusive peers [dateRange, compareDateRange]",
        ),
        (comparing(&json!(["today", "garbage"])), "Can't parse date: 'garbage'"),
        (
            comparing(&json!([])),
            "Invalid query format: \"timeDimensions[0].compareDateRange\" must contain at least 1 items",
        ),
        (comparing(&json!("today")), "Invalid query format: \"timeDimensions[0].compareDateRange\" must be an array"),
    ];
    for (query, text) in cases {
        for path in [LOAD, DRY_RUN, SQL] {
            let reply = server.post(path, &json!({"query": query, "queryType": "multi"}));
            assert_eq!((reply.status, reply.error().as_str()), (400, text), "{path}: {query}");
        }
    }
    // An error while running fails the whole request.
    let filter = json!({"filters": [{"member": "events.id", "operator": "gt", "values": ["abc"]}]});
    let reply = post(&server, &json!([day, with(&day, &filter), day]));
    assert_eq!(reply.status, 400, "{}", reply.body);
    assert!(reply.error().contains("abc"), "{}", reply.body);
    server.assert_alive();
}

#[test]
fn the_number_of_queries_is_bounded() {
    let project = project();
    let server = Server::start_with(&project, &[("QUARRY_MAX_QUERIES", "3")]);
    let day = by_day("events", &json!("2024-01-05"));
    assert_eq!(load(&server, &json!([day, day, day]))["results"].as_array().map(Vec::len), Some(3));
    assert_eq!(
        load(&server, &comparing(&json!(["today", "today", "today"])))["results"].as_array().map(Vec::len),
        Some(3)
    );
    let cases = [
        (json!([day, day, day, day]), "Too many queries: 4 given, at most 3 are answered in one request"),
        (
            comparing(&json!(["today", "today", "today", "today"])),
            "Too many ranges in compareDateRange: 4 given, at most 3 are answered in one request",
        ),
    ];
    for (query, text) in cases {
        for path in [LOAD, DRY_RUN, SQL] {
            let reply = server.post(path, &json!({"query": query, "queryType": "multi"}));
            assert_eq!((reply.status, reply.error().as_str()), (400, text));
        }
    }
    drop(server);
    // Without the setting there is a bound too.
    let server = Server::start(&project);
    let many: Vec<&Value> = std::iter::repeat_n(&day, 100).collect();
    assert_eq!(load(&server, &json!(many))["results"].as_array().map(Vec::len), Some(100));
    let many: Vec<&Value> = std::iter::repeat_n(&day, 20_000).collect();
    assert_eq!(post(&server, &json!(many)).status, 400);
    server.assert_alive();
}

#[test]
fn row_limits_come_from_the_environment() {
    let project = project();
    let settings = [("CUBEJS_DB_QUERY_DEFAULT_LIMIT", "5"), ("CUBEJS_DB_QUERY_LIMIT", "7")];
    let server = Server::start_with(&project, &settings);
    let rows = |query: &Value| server.load(query)["data"].as_array().map(Vec::len);
    let times = json!({"measures": ["events.count"], "dimensions": ["events.at"]});
    assert_eq!(rows(&times), Some(5));
    assert_eq!(server.load(&times)["query"]["limit"], json!(5));
    assert_eq!(rows(&with(&times, &json!({"limit": 7}))), Some(7));
    assert_eq!(rows(&with(&times, &json!({"limit": 0}))), Some(0));
    let reply = server.ask(&with(&times, &json!({"limit": 8})));
    assert_eq!((reply.status, reply.error().as_str()), (400, "Error: The query limit has been exceeded."));
    assert_eq!(server.post(DRY_RUN, &json!({ "query": times })).value()["normalizedQueries"][0]["rowLimit"], json!(5));
    drop(server);
    let settings = [("CUBEJS_DB_QUERY_DEFAULT_LIMIT", "20"), ("CUBEJS_DB_QUERY_LIMIT", "7")];
    let server = Server::start_with(&project, &settings);
    assert_eq!(server.load(&times)["query"]["limit"], json!(7), "the smaller one counts");
}

#[test]
fn dry_runs_tell_what_a_request_is_taken_for() {
    let server = start();
    let dry_run = |query: &Value| {
        let reply = server.post(DRY_RUN, &json!({ "query": query }));
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.value()
    };
    let plain = dry_run(&with(&by_day("events", &json!(["2024-01-05"])), &json!({"cache": "no-cache"})));
    let range = json!(["2024-01-05T00:00:00.000", "2024-01-05T23:59:59.999"]);
    let query = json!({
        "measures": ["events.count"], "dimensions": [], "filters": [], "limit": 10_000, "rowLimit": 10_000,
        "timeDimensions": [{"dimension": "events.at", "granularity": "day", "dateRange": range}],
        "timezone": "UTC", "cacheMode": "no-cache", "queryType": "regularQuery",
    });
    assert_eq!(plain["queryType"], json!("regularQuery"));
    assert_eq!((&plain["normalizedQueries"], &plain["pivotQuery"]), (&json!([query]), &query));
    assert_eq!(plain["queryOrder"], json!([{"events.at": "asc"}]));

    let compare = dry_run(&comparing(&json!([["2024-01-05"], "last month"])));
    assert_eq!(compare["queryType"], json!("compareDateRangeQuery"));
    assert_eq!(compare["normalizedQueries"].as_array().map(Vec::len), Some(2));
    assert_eq!(compare["queryOrder"], json!([{"events.at": "asc"}, {"events.at": "asc"}]));
    assert_eq!(compare["transformedQueries"].as_array().map(Vec::len), Some(2));
    assert_eq!(compare["pivotQuery"], compare["normalizedQueries"][0]);

    let blend = dry_run(&json!([by_day("events", &range), by_day("visits", &range)]));
    let pivot = json!({"queryType": "blendingQuery", "measures": ["events.count", "visits.count"], "dimensions": [],
        "timeDimensions": [{"dimension": "time", "granularity": "day"}]});
    assert_eq!((&blend["queryType"], &blend["pivotQuery"]), (&json!("blendingQuery"), &pivot));

    let joined = server.post(DRY_RUN, &json!({"query": {"measures": ["events.count"], "dimensions": ["visits.at"]}}));
    assert_eq!(joined.status, 400, "queries are planned: {}", joined.body);
    assert!(joined.error().contains("Can't find join path"), "{}", joined.body);
    let missing = server.get(DRY_RUN);
    assert_eq!((missing.status, missing.error().as_str()), (400, "Query param is required"));
    assert_eq!(server.call("POST", DRY_RUN).json(&json!({"query": {}})).send().status, 403, "without a token");
    server.assert_alive();
}

#[test]
fn dry_runs_and_subscriptions_need_the_data_scope() {
    let project = project();
    let server = Server::start_with(&project, &[("CUBEJS_DEFAULT_API_SCOPES", "meta,sql")]);
    for (method, path) in [("GET", DRY_RUN), ("POST", DRY_RUN), ("GET", SUBSCRIBE), ("POST", SUBSCRIBE)] {
        let reply = server.call(method, path).token(&valid_token()).send();
        assert_eq!((reply.status, reply.error().as_str()), (403, "API scope is missing: data"), "{method} {path}");
    }
}

#[test]
fn sql_of_several_queries_is_an_array() {
    let server = start();
    let sql = |query: &Value| {
        let reply = server.post(SQL, &json!({ "query": query }));
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.value()
    };
    let range = json!("2024-01-05");
    let one = sql(&by_day("events", &range));
    assert!(one["sql"]["sql"][0].is_string() && one["dataSource"] == "default", "{one}");
    let blend = sql(&json!([by_day("events", &range), by_day("visits", &range)]));
    assert_eq!((&blend[0], blend.as_array().map(Vec::len)), (&one, Some(2)));
    assert_eq!(blend[1]["sql"]["memberNames"], json!(["visits.count", "visits.id", "visits.at"]));
    let compare = sql(&comparing(&json!([range, ["2024-02-01"]])));
    assert_eq!((&compare[0], compare.as_array().map(Vec::len)), (&one, Some(2)));
    assert_ne!(compare[1]["sql"]["sql"], compare[0]["sql"]["sql"]);
}

#[test]
fn the_old_flag_and_cache_modes_are_taken() {
    let server = start();
    let day = by_day("events", &json!("2024-01-05"));
    for more in [json!({"renewQuery": true}), json!({"renewQuery": false}), json!({"cache": "no-cache"})] {
        let answer = server.load(&with(&day, &more));
        assert_eq!(answer["data"][0]["events.count"], json!("2"));
        assert!(answer["query"].get("cacheMode").is_none() && answer["query"].get("renewQuery").is_none());
    }
    let mode = |query: &Value, cache: Value| {
        let body = server.post(DRY_RUN, &json!({"query": query, "cache": cache})).value();
        body["normalizedQueries"][0]["cacheMode"].clone()
    };
    assert_eq!(mode(&day, json!(null)), json!("stale-if-slow"));
    assert_eq!(mode(&with(&day, &json!({"renewQuery": true})), json!(null)), json!("must-revalidate"));
    assert_eq!(mode(&with(&day, &json!({"cache": "no-cache"})), json!("must-revalidate")), json!("must-revalidate"));
}

#[test]
fn the_command_line_prints_every_result() {
    let project = project();
    let print = |query: &Value, more: &[&str]| {
        let query = query.to_string();
        let args: Vec<&str> = ["query", &query].into_iter().chain(more.iter().copied()).collect();
        let output = run(project.path(), &[("CUBEJS_API_SECRET", SECRET)], &args);
        assert!(output.status.success(), "{}", printed(&output));
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", printed(&output)))
    };
    let day = by_day("events", &json!("2024-01-05"));
    let plain = print(&day, &[]);
    assert_eq!(plain[0]["events.count"], json!("2"));
    assert_eq!(print(&day, &["--full"])["data"], plain);
    let series = print(&comparing(&json!([["2024-01-05"], ["2024-01-06"]])), &[]);
    assert_eq!((&series[0][0]["events.count"], &series[1][0]["events.count"]), (&json!("2"), &json!("1")));
    assert_eq!(print(&json!([day]), &["--full"])["queryType"], json!("blendingQuery"));
}

#[test]
fn all_queries_of_a_request_see_one_state() {
    let project = events_project(&["2024-01", "2024-02"], 40);
    let server = Server::start_with_jobs(&project);
    let months = json!({"preAggregations": ["events.monthly"]});
    server.build(&selector(&months));
    let query = json!({"measures": ["events.count", "events.generations"],
        "timeDimensions": [{"dimension": "events.at", "granularity": "month", "dateRange": ["2024-01-05", "2024-02-20"]}]});
    let blend = json!([query, query, query, query, query, query]);
    let mut seen = std::collections::BTreeSet::new();
    for generation in 2..6 {
        let month = |name| Month { name, rows: 40, generation };
        write_events(&project, &[month("2024-01"), month("2024-02")]);
        let tokens = server.post_jobs(&selector(&months));
        loop {
            let live =
                server.job_entries(&tokens).iter().any(|entry| is_live(entry["status"].as_str().unwrap_or_default()));
            let answer = load(&server, &blend);
            let results = answer["results"].as_array().expect("results");
            for result in results {
                assert_eq!(result["data"][0]["events.count"], json!("40"), "{result}");
                assert_eq!((&result["data"], &result["quarry"]), (&results[0]["data"], &results[0]["quarry"]));
                assert!(!result["usedPreAggregations"].is_null(), "{result}");
            }
            seen.insert(results[0]["quarry"]["snapshot"].as_u64());
            if !live {
                break;
            }
        }
    }
    assert!(seen.len() > 1, "states changed meanwhile: {seen:?}");
    server.assert_alive();
}
