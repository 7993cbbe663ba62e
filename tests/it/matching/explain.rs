//! `quarry explain`, `/quarry/v1/explain` and `"explain": true`: the same account everywhere, and no more than who asks
//! may know.

use serde_json::{Value, json};

use super::fixture::{answer, build, explain, project, serve, serve_with};
use crate::server::{LOAD, SECRET, Server, printed, run, sign, valid_token};

const EXPLAIN: &str = "/quarry/v1/explain";
const SQL: &str = "/cubejs-api/v1/sql";
const DAILY: &str = "{name: daily, measures: [count, revenue], dimensions: [status, city], time_dimension: created_at, \
                     granularity: day, partition_granularity: month}";
const MONTHLY: &str = "{name: monthly, measures: [count], dimensions: [status], time_dimension: created_at, \
                       granularity: month}";

fn months() -> Value {
    json!({"measures": ["orders.count"], "dimensions": ["orders.status"], "timeDimensions": [
        {"dimension": "orders.created_at", "granularity": "month", "dateRange": ["2024-01-01", "2024-01-31"]}]})
}

/// The texts that the command prints before anything is built, after it, and where nothing fits.
#[test]
fn the_command_tells_what_is_used_and_what_each_other_lacks() {
    let project = project(&[DAILY, MONTHLY]);
    let settings = [("CUBEJS_API_SECRET", SECRET)];
    let told = |query: &Value, more: &[&str]| {
        let text = query.to_string();
        let mut args = vec!["explain", text.as_str()];
        args.extend_from_slice(more);
        let output = run(project.path(), &settings, &args);
        assert!(output.status.success(), "{}", printed(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let unbuilt = told(&months(), &[]);
    let expected = "answered by the source\n  \
        passes by orders.daily: it has not been built yet [NOT_BUILT]\n            \
        build it: quarry build orders.daily\n  \
        passes by orders.monthly: it has not been built yet [NOT_BUILT]\n            \
        build it: quarry build orders.monthly\n  \
        this pre-aggregation would fit:\n      \
        - name: suggested\n        measures: [count]\n        dimensions: [status]\n        \
        time_dimension: created_at\n        granularity: month\n";
    assert_eq!(unbuilt, expected);
    assert!(run(project.path(), &settings, &["build"]).status.success());
    let built = told(&months(), &[]);
    assert!(
        built.starts_with(
            "answered by pre-aggregations\n  uses      orders.monthly of zone UTC, one stored row a group\n"
        ),
        "{built}"
    );
    assert!(
        built.contains("why: it reads the fewest rows: ") && built.contains("where orders.daily reads "),
        "{built}"
    );
    assert!(built.contains("  fits too  orders.daily: would read "), "{built}");
    let country = json!({"measures": ["orders.hi"], "dimensions": ["users.country"], "timeDimensions": [
        {"dimension": "orders.created_at", "granularity": "hour"}]});
    let lacking = told(&country, &[]);
    let expected = "answered by the source\n  \
        passes by orders.daily: dimension users.country is not stored [DIMENSION]\n            \
        add to dimensions: - users.country\n            \
        set: granularity: hour\n            \
        add to measures: - hi\n  \
        passes by orders.monthly: dimension users.country is not stored [DIMENSION]\n            \
        add to dimensions: - users.country\n            \
        set: granularity: hour\n            \
        add to measures: - hi\n  \
        this pre-aggregation would fit:\n      \
        - name: suggested\n        measures: [hi]\n        dimensions: [users.country]\n        \
        time_dimension: created_at\n        granularity: hour\n";
    assert_eq!(lacking, expected);
    let as_json: Value = serde_json::from_str(&told(&country, &["--json"])).expect("JSON");
    assert_eq!(as_json["levels"][0]["candidates"][0]["rule"], "DIMENSION");
    let wrong = run(project.path(), &settings, &["explain", "{\"measures\": [\"orders.nope\"]}"]);
    assert!(!wrong.status.success() && printed(&wrong).contains("'nope' not found"), "{}", printed(&wrong));
}

/// Every edit that is told, made in the model, makes the rollup match.
#[test]
fn what_is_proposed_matches_when_it_is_written() {
    let query = |body: &str| -> Value { serde_json::from_str(body).expect("JSON") };
    let cases = [
        (
            query(r#"{"measures": ["orders.count"], "dimensions": ["users.country"]}"#),
            vec![("dimensions: [status, city]", "dimensions: [status, city, users.country]")],
        ),
        (
            query(r#"{"measures": ["orders.hi"], "segments": ["orders.raw_done"]}"#),
            vec![
                ("[count, revenue]", "[count, revenue, hi]"),
                ("time_dimension", "segments: [raw_done], time_dimension"),
            ],
        ),
        (
            query(
                r#"{"measures": ["orders.count"], "timeDimensions": [{"dimension": "orders.created_at",
            "dateRange": ["2024-01-01T06:00:00.000", "2024-01-02T17:59:59.999"]}]}"#,
            ),
            vec![("granularity: day", "granularity: hour")],
        ),
        (
            query(
                r#"{"measures": ["orders.count"], "timeDimensions": [{"dimension": "orders.closed_at", "granularity": "quarter"}]}"#,
            ),
            vec![(
                "time_dimension: created_at, granularity: day",
                "time_dimensions: [{dimension: created_at, granularity: day}, {dimension: closed_at, granularity: quarter}]",
            )],
        ),
        (
            query(r#"{"measures": ["orders.count"], "dimensions": ["orders.status"], "ungrouped": true}"#),
            vec![("dimensions: [status", "dimensions: [id, status")],
        ),
    ];
    let expected = [
        json!([{"key": "dimensions", "change": "add", "yaml": "- users.country"}]),
        json!([{"key": "segments", "change": "add", "yaml": "- raw_done"}, {"key": "measures", "change": "add", "yaml": "- hi"}]),
        json!([{"key": "granularity", "change": "set", "yaml": "granularity: hour"}]),
        json!([{"key": "time_dimensions", "change": "set", "yaml": "time_dimensions:\n  - {dimension: created_at, \
            granularity: day}\n  - {dimension: closed_at, granularity: quarter}"}]),
        json!([{"key": "dimensions", "change": "add", "yaml": "- id"}]),
    ];
    let before = serve(&[DAILY]);
    build(&before, &["UTC"]);
    for ((query, changes), expected) in cases.iter().zip(expected) {
        let told = explain(&before, query);
        assert_eq!(told["levels"][0]["candidates"][0]["edits"], expected, "{told}");
        let entry = changes.iter().fold(DAILY.to_owned(), |entry, (from, to)| entry.replace(from, to));
        let after = serve(&[&entry]);
        let (source, _) = answer(&before, query);
        build(&after, &["UTC"]);
        assert_eq!(answer(&after, query), (source, vec!["orders.daily".to_owned()]), "{entry}");
    }
}

#[test]
fn a_missing_partition_and_a_faulty_request_are_named() {
    let server = serve(&[DAILY]);
    server.build(&json!({"contexts": [{"securityContext": {}}], "timezones": ["UTC"],
        "dateRange": ["2024-02-01", "2024-02-10"]}));
    let told = explain(&server, &months());
    let verdict = &told["levels"][0]["candidates"][0];
    assert_eq!(verdict["rule"], "PARTITION_NOT_BUILT", "{told}");
    assert_eq!(verdict["remedy"], "build it: quarry build orders.daily --from 2024-01-01 --to 2024-01-31", "{told}");
    let mut february = months();
    february["timeDimensions"][0]["dateRange"] = json!(["2024-02-01", "2024-02-29"]);
    let chosen = &explain(&server, &february)["levels"][0]["chosen"];
    assert_eq!(chosen["partitionRanges"], json!([["2024-02-01T00:00:00.000", "2024-02-29T23:59:59.999"]]));
    assert_eq!(chosen["why"], "it is the only one that fits");
    let fault = |body: Value, text: &str| {
        let reply = server.post(EXPLAIN, &body);
        assert_eq!(reply.status, 400, "{}", reply.body);
        assert!(reply.error().contains(text), "{}", reply.body);
    };
    fault(json!({}), "Query param is required");
    fault(json!({"query": {"measures": ["orders.count"], "wrong": 1}}), "\"wrong\" is not allowed");
    fault(json!({"query": months(), "format": "yaml"}), "\"format\" must be one of [json, text]");
    assert_eq!(server.call("POST", EXPLAIN).json(&json!({"query": months()})).send().status, 403, "no token");
    let closed = serve_with(&[DAILY], &[("CUBEJS_DEFAULT_API_SCOPES", "meta")]);
    let reply = closed.post(EXPLAIN, &json!({"query": months()}));
    assert_eq!((reply.status, reply.error().contains("API scope is missing: data")), (403, true), "{}", reply.body);
}

#[test]
fn an_answer_explains_itself_when_asked_to() {
    let server = serve(&[DAILY]);
    let load = |server: &Server, more: &[(&str, Value)]| {
        let mut body = json!({"query": months()});
        more.iter().for_each(|(key, value)| body[*key] = value.clone());
        server.post(LOAD, &body)
    };
    let answer = load(&server, &[("explain", json!(true))]).value();
    assert_eq!(answer["quarry"]["explain"], explain(&server, &months()), "{answer}");
    assert_eq!(answer["quarry"]["explain"]["answeredBy"], "source");
    assert!(load(&server, &[]).value().get("quarry").is_none());
    build(&server, &["UTC"]);
    let answer = load(&server, &[("explain", json!(true)), ("queryType", json!("multi"))]).value();
    let own = &answer["results"][0]["quarry"];
    assert_eq!(own["explain"]["levels"][0]["chosen"]["partitions"], own["partitions"], "{answer}");
    assert_eq!(load(&server, &[("explain", json!("maybe"))]).status, 400);
    let previewed = server.post(SQL, &json!({"query": months(), "explain": "preAggregations"})).value();
    assert_eq!(previewed["quarry"]["explain"], own["explain"], "{previewed}");
    let url = format!("{LOAD}?explain=true&query={}", months().to_string().replace('"', "%22").replace(' ', "%20"));
    let by_get = server.call("GET", &url).token(&valid_token()).send();
    assert_eq!(by_get.value()["quarry"]["explain"]["answeredBy"], "rollup", "{}", by_get.body);
}

/// §4.12: the error of a query that nothing serves says what is lacking.
#[test]
fn where_only_rollups_answer_the_error_explains() {
    let server = serve_with(&[DAILY], &[("CUBEJS_ROLLUP_ONLY", "true")]);
    let query = json!({"measures": ["orders.hi"], "dimensions": ["orders.status"]});
    let reply = server.ask(&query);
    assert_eq!(reply.status, 400);
    let text = "Error: No pre-aggregation table has been built for this query yet. Please check your refresh worker \
                configuration if it persists. orders.daily: measure orders.hi is not stored; add '- hi' to its measures.";
    assert_eq!(reply.error(), text);
    let none = server.ask(&json!({"dimensions": ["stores.town"]}));
    assert!(none.error().ends_with("persists. The query's cubes have no rollups."), "{}", none.body);
}

/// What an access policy adds to a query is not told to who asks.
#[test]
fn conditions_of_access_policies_are_not_told() {
    let project = project(&[DAILY]);
    let path = project.path().join("model/orders.yml");
    let model = std::fs::read_to_string(&path).expect("the model");
    let policy = "    access_policy:\n      - {group: '*', member_level: {includes: '*'}, row_level: {filters: \
                  [{member: id, operator: notEquals, values: ['1']}]}}\n    pre_aggregations:\n";
    project.write("model/orders.yml", &model.replacen("    pre_aggregations:\n", policy, 1));
    let server = Server::start(&project);
    let token = sign(&json!({"sub": "someone"}), SECRET);
    let ask = |path: &str, body: Value| server.call("POST", path).token(&token).json(&body).send();
    let told = ask(EXPLAIN, json!({"query": {"measures": ["orders.count"], "dimensions": ["orders.status"]}}));
    assert_eq!(told.status, 200, "{}", told.body);
    let verdict = told.value()["results"][0]["levels"][0].clone();
    assert_eq!(verdict["candidates"][0]["rule"], "FILTER", "{verdict}");
    assert!(verdict["candidates"][0].get("member").is_none() && verdict.get("suggestion").is_none(), "{verdict}");
    assert!(!told.body.contains("orders.id"), "{}", told.body);
}
