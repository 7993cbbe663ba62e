//! The traps of `http-api.md` §15, by number: what a naive server gets wrong. Rows that other files test by name are not
//! repeated here: 2, 3 (`auth.rs`), 4, 6 (`keys.rs`), 7 (`description.rs`), 24, 25 (`multi.rs`), 31 (`conformance`),
//! 39 (`jobs.rs`), 45 (`transport.rs`).

use serde_json::{Value, json};

use crate::events::events_project;
use crate::server::{ALL_SCOPES, JOBS, LOAD, Reply, SECRET, Server, sign, valid_token};

const DRY_RUN: &str = "/cubejs-api/v1/dry-run";
const SQL: &str = "/cubejs-api/v1/sql";
const META: &str = "/cubejs-api/v1/meta";

/// A hidden measure and rows whose kind is not known.
const MORE: &str = "
cubes:
  - name: odd
    sql: \"SELECT id, CASE WHEN kind = 'view' THEN NULL ELSE kind END AS kind, at FROM events\"
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true, public: true}
      - {name: kind, sql: kind, type: string}
      - {name: at, sql: at, type: time}
    measures:
      - {name: count, type: count}
      - {name: secret, type: sum, sql: id, public: false}
";

fn start(settings: &[(&str, &str)]) -> Server {
    let project = events_project(&["2024-01", "2024-02"], 30);
    project.write("model/odd.yml", MORE);
    Server::start_with(&project, settings)
}

/// For the traps that need no settings. Each has its own: what is kept for ever is never stopped.
fn server() -> Server {
    start(&[("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES)])
}

fn ask(server: &Server, query: &Value) -> Reply {
    server.ask(query)
}

#[track_caller]
fn answer(server: &Server, query: &Value) -> Value {
    let reply = ask(server, query);
    assert_eq!(reply.status, 200, "{query}: {}", reply.body);
    reply.value()
}

#[track_caller]
fn refused(server: &Server, query: &Value, text: &str) {
    let reply = ask(server, query);
    assert_eq!(reply.status, 400, "{query}: {}", reply.body);
    assert!(reply.error().contains(text), "{query}: {}", reply.body);
}

fn by_day(more: &Value) -> Value {
    let mut query = json!({
        "measures": ["events.count"],
        "timeDimensions": [{"dimension": "events.at", "granularity": "day", "dateRange": ["2024-01-01", "2024-01-31"]}],
    });
    query.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    query
}

/// The range that a word is taken for.
fn range_of(server: &Server, word: &Value, more: &Value) -> Value {
    let mut query = json!({
        "measures": ["events.count"],
        "timeDimensions": [{"dimension": "events.at", "dateRange": word}],
    });
    query.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let reply = server.post(DRY_RUN, &json!({"query": query}));
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.value()["normalizedQueries"][0]["timeDimensions"][0]["dateRange"].clone()
}

#[test]
fn trap_05_development_mode_ignores_bad_tokens() {
    let server = start(&[("CUBEJS_DEV_MODE", "true")]);
    let body = json!({"query": {"measures": ["events.count"]}});
    for token in ["garbage", "", &sign(&json!({}), "another secret"), &sign(&json!({"exp": 1}), SECRET)] {
        let reply = server.call("POST", LOAD).token(token).json(&body).send();
        assert_eq!(reply.status, 200, "'{token}': {}", reply.body);
    }
}

#[test]
fn trap_08_a_limit_beyond_the_maximum_is_refused_with_cubes_text() {
    let server = server();
    // Cube answers 500; the fault is the client's.
    refused(
        &server,
        &json!({"measures": ["events.count"], "limit": 50_001}),
        "Error: The query limit has been exceeded.",
    );
    answer(&server, &json!({"measures": ["events.count"], "limit": 50_000}));
}

#[test]
fn trap_09_numeric_strings_are_no_numbers() {
    let server = server();
    refused(&server, &json!({"measures": ["events.count"], "limit": "10"}), "\"limit\" must be a number");
    refused(&server, &json!({"measures": ["events.count"], "offset": "1"}), "\"offset\" must be a number");
}

#[test]
fn trap_10_numbers_are_strings_in_rows_and_numbers_around_them() {
    let server = server();
    let answer = answer(&server, &json!({"measures": ["events.count"], "total": true}));
    assert_eq!(answer["data"], json!([{"events.count": "60"}]));
    assert_eq!(answer["total"], json!(1));
    server.build(
        &json!({"contexts": [{"securityContext": {}}], "timezones": ["UTC"], "preAggregations": ["events.by_kind"]}),
    );
    let answer = server.load(&json!({"measures": ["events.count"], "dimensions": ["events.kind"]}));
    let used = answer["usedPreAggregations"].as_object().expect("a rollup").values().next().expect("one");
    assert!(used["lastUpdatedAt"].is_u64(), "{used}");
}

#[test]
fn trap_11_times_in_rows_are_local_and_those_around_them_are_not() {
    let server = server();
    let answer = answer(&server, &by_day(&json!({"timezone": "Asia/Tokyo"})));
    let value = answer["data"][0]["events.at.day"].as_str().expect("a text");
    assert!(value.ends_with("T00:00:00.000") && value.len() == 23, "{value}");
    let refreshed = answer["lastRefreshTime"].as_str().expect("a text");
    assert!(refreshed.ends_with('Z') && refreshed.len() == 24, "{refreshed}");
}

#[test]
fn trap_12_a_time_dimension_yields_two_keys() {
    let server = server();
    let row = answer(&server, &by_day(&json!({"limit": 1})))["data"][0].clone();
    assert_eq!(row["events.at.day"], row["events.at"]);
    let keys: Vec<&String> = row.as_object().expect("a row").keys().collect();
    assert_eq!(keys, ["events.at.day", "events.count", "events.at"]);
    let rows = answer(&server, &by_day(&json!({"dimensions": ["events.at"]})))["data"].clone();
    let keeps = |row: &Value| row["events.at"].as_str().is_some_and(|text| !text.ends_with("T00:00:00.000"));
    assert!(rows.as_array().expect("rows").iter().any(keeps), "a dimension of that name keeps its value: {rows}");
}

#[test]
fn trap_13_the_bare_key_has_the_finest_granularity() {
    let server = server();
    let time = |granularity: &str| json!({"dimension": "events.at", "granularity": granularity, "dateRange": ["2024-01-01", "2024-01-31"]});
    let query = json!({"measures": ["events.count"], "timeDimensions": [time("month"), time("day")], "limit": 5});
    for row in answer(&server, &query)["data"].as_array().expect("rows") {
        assert_eq!(row["events.at"], row["events.at.day"], "{row}");
        assert_eq!(row["events.at.month"], json!("2024-01-01T00:00:00.000"));
    }
}

#[test]
fn trap_14_an_empty_order_is_no_order() {
    let server = server();
    let order = |more: Value| {
        let mut query = by_day(&json!({}));
        query.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        server.post(SQL, &json!({"query": query})).value()["sql"]["sql"][0].as_str().expect("SQL").to_owned()
    };
    assert!(order(json!({})).contains("ORDER BY"));
    for empty in [json!([]), json!({})] {
        assert!(!order(json!({"order": empty})).contains("ORDER BY"), "{empty}");
    }
}

#[test]
fn trap_15_the_default_order_is_time_then_measure_then_dimension() {
    let server = server();
    let order = |query: Value| server.post(SQL, &json!({"query": query})).value()["sql"]["order"].clone();
    assert_eq!(order(by_day(&json!({"dimensions": ["events.kind"]}))), json!({"events.at": "asc"}));
    let both = json!({"measures": ["events.count"], "dimensions": ["events.kind"]});
    assert_eq!(order(both), json!({"events.count": "desc"}));
    assert_eq!(order(json!({"dimensions": ["events.kind"]})), json!({"events.kind": "asc"}));
}

#[test]
fn trap_16_the_last_days_end_yesterday_and_from_to_ends_today() {
    let server = server();
    let last = range_of(&server, &json!("last 7 days"), &json!({}));
    let until = range_of(&server, &json!("from 7 days ago to now"), &json!({}));
    let yesterday = range_of(&server, &json!("yesterday"), &json!({}));
    let today = range_of(&server, &json!("today"), &json!({}));
    assert_eq!((&last[0], &last[1]), (&until[0], &yesterday[1]));
    assert_eq!(until[1], today[1]);
}

#[test]
fn trap_17_weeks_start_on_monday() {
    let server = server();
    let query = json!({"measures": ["events.count"], "timeDimensions": [
        {"dimension": "events.at", "granularity": "week", "dateRange": ["2024-01-08", "2024-01-14"]},
    ]});
    assert_eq!(answer(&server, &query)["data"][0]["events.at.week"], json!("2024-01-08T00:00:00.000"));
}

#[test]
fn trap_18_ends_are_inclusive() {
    let server = server();
    let range = range_of(&server, &json!(["2024-01-05", "2024-01-05"]), &json!({}));
    assert_eq!(range, json!(["2024-01-05T00:00:00.000", "2024-01-05T23:59:59.999"]));
    let rows = answer(&server, &by_day(&json!({})))["data"].as_array().expect("rows").len();
    assert!(rows > 1, "every day of the range has its row");
}

#[test]
fn trap_19_an_instant_is_read_as_a_clock_of_the_zone() {
    let server = server();
    let range = range_of(
        &server,
        &json!(["2024-03-01T10:00:00Z", "2024-03-01T12:00:00+02:00"]),
        &json!({"timezone": "Asia/Tokyo"}),
    );
    assert_eq!(range, json!(["2024-03-01T10:00:00.000", "2024-03-01T10:00:00.000"]));
}

#[test]
fn trap_20_words_are_understood_alone_and_in_filters_but_not_in_lists() {
    let server = server();
    let filter = |values: Value| {
        json!({"measures": ["events.count"], "filters": [
            {"member": "events.at", "operator": "inDateRange", "values": values},
        ]})
    };
    answer(&server, &filter(json!(["last week"])));
    refused(&server, &filter(json!(["last week", "today"])), "Relative-date strings are only supported");
    refused(&server, &by_day(&json!({"timeDimensions": [{"dimension": "events.at", "dateRange": ["last week"]}]})), "");
}

#[test]
fn trap_21_not_equals_keeps_what_is_not_known() {
    let server = server();
    let count = |values: Value| {
        let filter = json!({"member": "odd.kind", "operator": "notEquals", "values": values});
        answer(&server, &json!({"measures": ["odd.count"], "filters": [filter]}))["data"][0]["odd.count"].clone()
    };
    assert_eq!(count(json!(["click"])), json!("40"), "20 of another kind, 20 of none");
    assert_eq!(count(json!(["click", null])), json!("20"));
}

#[test]
fn trap_22_values_of_filters_are_echoed_as_texts() {
    let server = server();
    let filter = json!({"member": "events.count", "operator": "gt", "values": [10.5]});
    let answer =
        answer(&server, &json!({"measures": ["events.count"], "dimensions": ["events.kind"], "filters": [filter]}));
    assert_eq!(answer["query"]["filters"][0]["values"], json!(["10.5"]));
}

#[test]
fn trap_23_several_results_need_a_client_that_says_so() {
    let server = server();
    let compared = json!({"measures": ["events.count"], "timeDimensions": [{
        "dimension": "events.at",
        "compareDateRange": [["2024-01-01", "2024-01-31"], ["2024-02-01", "2024-02-29"]],
    }]});
    let reply = server.post(LOAD, &json!({"query": compared}));
    assert_eq!(reply.status, 400, "{}", reply.body);
    assert!(reply.error().starts_with("'compareDateRangeQuery' query type is not supported by the client."));
    let reply = server.post(LOAD, &json!({"query": compared, "queryType": "multi"}));
    assert_eq!((reply.status, reply.value()["results"].as_array().map(Vec::len)), (200, Some(2)));
}

#[test]
fn trap_26_and_27_the_echo_is_the_query_as_executed_in_its_own_form() {
    let server = server();
    let asked = json!({"measures": ["events.count"], "order": {"events.count": "desc"}});
    let echo = answer(&server, &asked)["query"].clone();
    let common = json!({"dimensions": [], "timeDimensions": [], "filters": [], "limit": 10_000, "rowLimit": 10_000});
    for (key, value) in common.as_object().expect("an object") {
        assert_eq!(&echo[key], value, "{key}");
    }
    assert_eq!((&echo["timezone"], echo.get("cacheMode")), (&json!("UTC"), None));
    assert_eq!(echo["order"], json!([{"id": "events.count", "desc": true}]));
    let planned = server.post(DRY_RUN, &json!({"query": asked})).value();
    assert_eq!(planned["normalizedQueries"][0]["cacheMode"], json!("stale-if-slow"));
    assert_eq!(planned["queryOrder"], json!([{"events.count": "desc"}]));
}

#[test]
fn trap_28_the_inside_is_for_development_alone() {
    let server = server();
    let inside = ["requestId", "refreshKeyValues", "transformedQuery"];
    let plain = answer(&server, &json!({"measures": ["events.count"]}));
    assert!(inside.iter().all(|key| plain.get(key).is_none()), "{plain}");
    let server = start(&[("CUBEJS_DEV_MODE", "true")]);
    let shown = server.load(&json!({"measures": ["events.count"]}));
    assert!(shown["requestId"].is_string(), "{shown}");
}

#[test]
fn trap_29_the_presence_of_extended_counts() {
    let server = server();
    for more in ["?extended", "?extended=false", "?extended=true"] {
        let meta = server.get(&format!("{META}{more}")).value();
        let events = meta["cubes"].as_array().expect("cubes").iter().find(|cube| cube["name"] == "events").cloned();
        assert!(events.expect("the cube")["preAggregations"].is_array(), "{more}");
    }
    let plain = server.get(META).value();
    assert!(plain["cubes"].as_array().expect("cubes").iter().all(|cube| cube.get("preAggregations").is_none()));
}

#[test]
fn trap_30_development_shows_hidden_members_as_hidden() {
    let server = server();
    let of = |meta: &Value| -> Option<Value> {
        let cube = meta["cubes"].as_array().expect("cubes").iter().find(|cube| cube["name"] == "odd")?.clone();
        cube["measures"].as_array().expect("measures").iter().find(|measure| measure["name"] == "odd.secret").cloned()
    };
    assert_eq!(of(&server.get(META).value()), None);
    let reply = ask(&server, &json!({"measures": ["odd.secret"]}));
    assert_eq!(reply.status, 500);
    assert!(reply.error().starts_with("Error: You requested hidden member: 'odd"), "{}", reply.body);
    let server = start(&[("CUBEJS_DEV_MODE", "true")]);
    assert_eq!(of(&server.get(META).value()).expect("shown")["isVisible"], json!(false));
}

#[test]
fn trap_36_and_37_tokens_come_at_once_and_jobs_always_build() {
    let server = server();
    let selector =
        json!({"contexts": [{"securityContext": {}}], "timezones": ["UTC"], "preAggregations": ["events.monthly"]});
    let first = server.post_jobs(&selector);
    assert_eq!(first.len(), 2);
    server.wait_jobs(&first);
    let again = server.post_jobs(&selector);
    assert!(again.iter().all(|token| !first.contains(token)), "what is fresh is built anew");
    assert_eq!(server.wait_jobs(&again), ["done", "done"]);
}

#[test]
fn trap_38_a_list_of_jobs_is_the_default_and_has_no_word() {
    let server = server();
    let reply = server.post(JOBS, &json!({"action": "get", "tokens": ["x"], "resType": "array"}));
    assert_eq!((reply.status, reply.error().as_str()), (400, "Invalid Job query format: \"resType\" must be [object]"));
    let listed = server.post(JOBS, &json!({"action": "get", "tokens": ["x"]})).value();
    assert_eq!(listed, json!([{"token": "x", "status": "not_found"}]));
    let keyed = server.post(JOBS, &json!({"action": "get", "tokens": ["x"], "resType": "object"})).value();
    assert_eq!(keyed, json!({"x": {"status": "not_found"}}));
}

#[test]
fn trap_40_and_41_empty_lists_restrict_nothing_and_cubes_are_those_that_define() {
    let server = server();
    let dry = |more: Value| -> usize {
        let mut selector = json!({"contexts": [{"securityContext": {}}], "timezones": ["UTC"]});
        selector.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let reply = server.post(JOBS, &json!({"action": "post", "dry_run": true, "selector": selector}));
        if reply.status == 200 { reply.value()["jobs"].as_array().expect("jobs").len() } else { 0 }
    };
    let all = dry(json!({}));
    assert!(all > 3, "{all}");
    assert_eq!(dry(json!({"cubes": [], "preAggregations": [], "dataSources": []})), all);
    assert_eq!(dry(json!({"cubes": ["events"]})), 3, "two months and the unpartitioned one");
    assert_eq!(dry(json!({"cubes": ["odd"]})), 0, "it has none of its own");
}

#[test]
fn trap_47_a_body_of_another_type_is_an_empty_one() {
    let server = server();
    let body = json!({"query": {"measures": ["events.count"]}}).to_string();
    for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let post = |path: &str| {
            server.call("POST", path).token(&valid_token()).header("content-type", kind).raw(body.clone()).send()
        };
        let reply = post(LOAD);
        assert_eq!((reply.status, reply.error().as_str()), (400, "Query param is required"), "{kind}");
        let reply = post(JOBS);
        assert_eq!((reply.status, reply.error().as_str()), (400, "No job description provided"), "{kind}");
    }
}

#[test]
fn trap_49_the_argument_wins_over_the_query() {
    let server = server();
    let query = json!({"measures": ["events.count"], "cache": "no-cache"});
    let mode = |body: Value| server.post(DRY_RUN, &body).value()["normalizedQueries"][0]["cacheMode"].clone();
    assert_eq!(mode(json!({"query": query})), json!("no-cache"));
    assert_eq!(mode(json!({"query": query, "cache": "must-revalidate"})), json!("must-revalidate"));
}

#[test]
fn trap_51_blanks_in_the_list_of_scopes_do_not_matter() {
    let server = start(&[("CUBEJS_DEFAULT_API_SCOPES", "meta, data ,, nonsense")]);
    assert_eq!(server.get(META).status, 200);
    assert_eq!(server.post(LOAD, &json!({"query": {"measures": ["events.count"]}})).status, 200);
    assert_eq!(server.post(SQL, &json!({"query": {"measures": ["events.count"]}})).status, 403);
}

#[test]
fn trap_52_errors_of_the_models_rules_have_a_type() {
    let server = server();
    let unknown = ask(&server, &json!({"measures": ["nothing.count"]})).value();
    assert_eq!(unknown, json!({"type": "UserError", "error": "Cube 'nothing' not found for path 'nothing.count'"}));
    let keys =
        |reply: &Reply| -> Vec<String> { reply.value().as_object().expect("an object").keys().cloned().collect() };
    assert_eq!(keys(&ask(&server, &json!({"measures": ["events.count"], "limit": -1}))), ["error"]);
    assert_eq!(keys(&server.call("GET", META).send()), ["error"]);
}
