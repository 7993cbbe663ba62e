//! Acceptance 7: replays the exchanges of a real Cube (`fixtures/recorded/`) and compares status and body.
//!
//! Everything that differs stands in [`DEVIATIONS`] with its reason: an unlisted difference fails the test, and so
//! does an entry that no longer differs.

use std::collections::{BTreeMap, BTreeSet};

use quarry::query::dates::{Now, parse_text};
use quarry::time::{Zone, to_micros};
use serde_json::{Value, json};

use crate::answers::{Numbers, RowOrder, as_rows, compare_rows};
use crate::auth::unsigned_token;
use crate::events::selector;
use crate::server::{ALL_SCOPES, Call, Project, Reply, SECRET, Server, now_seconds, root, sign, valid_token};

/// Exchanges that are answered differently on purpose.
const DEVIATIONS: &[(&str, &str)] = &[
    ("convert_query", SQL_OFF),
    ("cubesql", SQL_OFF),
    ("jobs_no_selector", "a client's fault: 400 with a text instead of 500 `TypeError`"),
    ("limit_too_large", "a client's fault: 400 with the same text instead of 500"),
    ("load_multifact", "the newer planner's way (data-model.md, 21): facts that do not join are put side by side"),
    ("load_post_bad_json", "a client's fault: 400 and our parser's text instead of 500 `SyntaxError`"),
    ("load_renewquery", "accepted for old clients, as the contract asks (http-api.md, 5.2)"),
    ("run_scheduled_refresh", "kept for old cron jobs (http-api.md, 7.6), in scope jobs; gone in that release"),
    ("td_dimension_not_time", "the text is the source's own; ours names the member"),
];

/// Exchanges about what is that product's alone.
const OUT_OF_SCOPE: &[(&str, &str)] = &[("root", "a page about that product")];
const SQL_OFF: &str = "the recorded server had no SQL; ours always has, and answers";

/// One line of `responses.jsonl`.
#[derive(Debug)]
struct Exchange(Value);

impl Exchange {
    fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.text("name")
    }

    /// The query object of the request, if it has one.
    fn query(&self) -> Value {
        let body = &self.0["body"]["query"];
        if !body.is_null() {
            return body.clone();
        }
        let encoded = self.text("path").split_once("query=").map_or("", |(_, rest)| rest);
        let encoded = encoded.split('&').next().unwrap_or_default();
        serde_json::from_str(&percent_decode(encoded)).unwrap_or(Value::Null)
    }

    fn scopes(&self) -> Scopes {
        match self.text("auth") {
            "jobs scope" => Scopes::All,
            "scopes_meta_only" | "scopes_none" => Scopes::MetaOnly,
            "meta_scope_denied" => Scopes::DataOnly,
            _ => Scopes::Default,
        }
    }
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = (*first == b'%').then(|| tail.get(..2)).flatten().and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => (bytes.push(byte), rest = &tail[2..]).1,
            None => (bytes.push(*first), rest = tail).1,
        }
    }
    String::from_utf8(bytes).expect("recorded paths are UTF-8")
}

/// Which server an exchange goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scopes {
    Default,
    All,
    MetaOnly,
    DataOnly,
}

fn exchanges() -> Vec<Exchange> {
    let text = std::fs::read_to_string(root().join("fixtures/recorded/responses.jsonl")).expect("the recording");
    text.lines().map(|line| Exchange(serde_json::from_str(line).expect("a line of JSON"))).collect()
}

fn send(server: &Server, exchange: &Exchange, tokens: &[String]) -> Reply {
    let mut call = server.call(exchange.text("method"), exchange.text("path"));
    call = with_auth(call, exchange.text("auth"));
    for (name, value) in exchange.0["headers"].as_object().into_iter().flatten() {
        let value = value.as_str().expect("a header is a text");
        let value = if name == "x-cube-authorization" { valid_token() } else { value.to_owned() };
        call = call.header(name, &value);
    }
    match &exchange.0["body"] {
        Value::Null => call.send(),
        Value::String(raw) if exchange.name() == "load_post_text_plain" => {
            call.header("content-type", "text/plain").raw(raw.as_str()).send()
        }
        Value::String(raw) => call.header("content-type", "application/json").raw(raw.as_str()).send(),
        body if exchange.name() == "jobs_get_00" => {
            let mut body = body.clone();
            body["tokens"] = json!(tokens);
            call.json(&body).send()
        }
        body => call.json(body).send(),
    }
}

fn with_auth<'a>(call: Call<'a>, auth: &str) -> Call<'a> {
    let token = valid_token();
    match auth {
        "none" => call,
        "" => call.token(""),
        "Basic dTpw" => call.token(auth),
        "garbage" => call.token("garbage"),
        "alg_none" => call.token(&unsigned_token()),
        "bearer_lower" => call.token(&format!("bearer {token}")),
        "bearer_prefix" => call.token(&format!("Bearer {token}")),
        "expired" => call.token(&sign(&json!({"exp": now_seconds() - 60}), SECRET)),
        "nbf_future" => call.token(&sign(&json!({"nbf": now_seconds() + 3600}), SECRET)),
        "wrong_secret" => call.token(&sign(&json!({}), "another secret")),
        "bearer-less valid token" | "jobs scope" | "meta_scope_denied" | "scopes_meta_only" | "scopes_none" => {
            call.token(&token)
        }
        other => panic!("the recording has a new kind of token: {other}"),
    }
}

/// What differs between the recorded answer and ours.
fn differences(exchange: &Exchange, reply: &Reply) -> Vec<String> {
    let mut found = Vec::new();
    let recorded = &exchange.0["response"];
    if exchange.0["status"] != reply.status {
        found.push(format!("status {} recorded, {} given: {}", exchange.0["status"], reply.status, cut(&reply.body)));
    }
    for name in ["access-control-allow-origin", "access-control-allow-methods", "access-control-allow-headers"] {
        let expected = exchange.0["response_headers"][name].as_str();
        if expected.is_some() && expected != reply.header(name) {
            found.push(format!("header {name}: {expected:?} recorded, {:?} given", reply.header(name)));
        }
    }
    if let Value::String(text) = recorded {
        if *text != reply.body {
            found.push(format!("body {text:?} recorded, {:?} given", cut(&reply.body)));
        }
        return found;
    }
    let Ok(given) = serde_json::from_str::<Value>(&reply.body) else {
        found.push(format!("no JSON: {}", cut(&reply.body)));
        return found;
    };
    let query = exchange.query();
    match exchange.name() {
        name if reply.status != 200 || name.starts_with("auth_") && recorded.get("data").is_none() => {
            compare("", recorded, &given, &mut found);
        }
        "graphql" => {
            let parts = [recorded, &given].map(|answer| {
                let mut answer = answer.clone();
                let moment = &mut answer["extensions"]["lastRefreshTime"];
                *moment = json!(moment.as_str().map(shape_of));
                answer
            });
            compare("", &parts[0], &parts[1], &mut found);
        }
        name if name.starts_with("sql_") => compare_sql(recorded, &given, &mut found),
        name if name.starts_with("meta") => {
            compare("", &meta_by_meaning(recorded), &meta_by_meaning(&given), &mut found)
        }
        "jobs_post_again" => compare("", &token_shapes(recorded), &token_shapes(&given), &mut found),
        "jobs_get_00" => compare("", &job_shapes(recorded), &job_shapes(&given), &mut found),
        name if name.starts_with("dry_run_") => {
            compare("", recorded, &given, &mut found);
        }
        _ if recorded.get("results").is_some() => compare_multi(&query, recorded, &given, &mut found),
        name if is_relative(name) => {
            let recorded = moved_to_the_moment_of(&given, &query, recorded, &mut found);
            compare_load(&query, &recorded, &given, &mut found);
        }
        _ if recorded.get("data").is_some() => compare_load(&query, recorded, &given, &mut found),
        _ => compare("", recorded, &given, &mut found),
    }
    found
}

fn cut(text: &str) -> String {
    text.chars().take(300).collect()
}

/// Compares two values key by key; paths of differences go to `found`.
fn compare(path: &str, recorded: &Value, given: &Value, found: &mut Vec<String>) {
    match (recorded, given) {
        (Value::Object(left), Value::Object(right)) => {
            let keys: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            for key in keys {
                let path = format!("{path}/{key}");
                match (left.get(key), right.get(key)) {
                    (Some(left), Some(right)) => compare(&path, left, right, found),
                    (Some(left), None) => found.push(format!("{path}: {} recorded, missing", cut(&left.to_string()))),
                    (None, right) => found.push(format!("{path}: not recorded, {right:?} given")),
                }
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (index, (left, right)) in left.iter().zip(right).enumerate() {
                compare(&format!("{path}/{index}"), left, right, found);
            }
        }
        (left, right) if left == right => {}
        (left, right) => {
            found.push(format!("{path}: {} recorded, {} given", cut(&left.to_string()), cut(&right.to_string())));
        }
    }
}

/// An answer of `/v1/load`: rows by meaning, moments by form, the rest as it is.
fn compare_load(query: &Value, recorded: &Value, given: &Value, found: &mut Vec<String>) {
    let members = |answer: &Value| answer["data"]["members"].clone();
    compare("/data/members", &members(recorded), &members(given), found);
    let rows =
        compare_rows(&as_rows(&recorded["data"]), &as_rows(&given["data"]), &RowOrder::of(query), &|_| Numbers::Close);
    found.extend(rows.err().map(|text| format!("/data: {text}")));
    compare("", &without_moments(recorded), &without_moments(given), found);
    let keys = |answer: &Value| {
        answer.as_object().map(|answer| answer.keys().filter(|key| *key != "quarry").cloned().collect::<Vec<_>>())
    };
    let (mut left, mut right) = (keys(recorded), keys(given));
    if left != right {
        left.iter_mut().chain(right.iter_mut()).for_each(|keys| keys.sort());
        if left == right {
            found.push(format!("the keys come in another order: {:?}", keys(given)));
        }
    }
}

/// An answer with several results: each as an answer of its own, what is around them as it is.
fn compare_multi(query: &Value, recorded: &Value, given: &Value, found: &mut Vec<String>) {
    let mut parts = [recorded.clone(), given.clone()];
    let [left, right] = parts.each_mut().map(|part| part["results"].take().as_array().cloned().unwrap_or_default());
    compare("", &parts[0], &parts[1], found);
    if left.len() != right.len() {
        found.push(format!("/results: {} recorded, {} given", left.len(), right.len()));
    }
    for (left, right) in left.iter().zip(&right) {
        compare_load(query, left, right, found);
    }
}

fn is_relative(name: &str) -> bool {
    name.starts_with("td_rel_") || name == "td_range_last_year"
}

/// The recorded answer as it would have been at the moment of ours. What stands in it must be what our reading of the
/// words gives for the moment of the recording; then that is exchanged for what it gives for ours.
fn moved_to_the_moment_of(given: &Value, query: &Value, recorded: &Value, found: &mut Vec<String>) -> Value {
    let words = query["timeDimensions"][0]["dateRange"].as_str().expect("a range in words");
    let range_at = |answer: &Value| {
        let moment = answer["lastRefreshTime"].as_str().and_then(|text| text.strip_suffix('Z'))?;
        let utc = to_micros(moment.parse().ok()?);
        Some(json!(parse_text(words, Now::at(utc, Zone::UTC)).ok()?.echo()))
    };
    let mut moved = recorded.clone();
    let range = &mut moved["query"]["timeDimensions"][0]["dateRange"];
    compare("/the range of the recorded moment", range, &json!(range_at(recorded)), found);
    *range = json!(range_at(given));
    moved
}

fn without_moments(answer: &Value) -> Value {
    let mut answer = answer.clone();
    let Some(object) = answer.as_object_mut() else { return answer };
    // Our own additions.
    object.remove("quarry");
    // Where the rollup lies: the recorded model keeps it in the source's database, ours is in a store beside it.
    if object.contains_key("usedPreAggregations") {
        object.insert("external".to_owned(), json!("where rollups lie"));
    }
    object.insert("data".to_owned(), Value::Null);
    object.insert("dbType".to_owned(), json!("the kind of source"));
    if let Some(time) = object.get_mut("lastRefreshTime") {
        *time = json!(time.as_str().map(shape_of));
    }
    for used in object.get_mut("usedPreAggregations").and_then(Value::as_object_mut).into_iter().flatten() {
        let moment = &mut used.1["lastUpdatedAt"];
        *moment = json!(moment.as_i64().map(|at| at > 1_600_000_000_000));
    }
    answer
}

/// `2024-01-31T10:00:00.000Z` as `9999-99-99T99:99:99.999Z`.
fn shape_of(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect()
}

/// An answer of `/v1/sql`: its envelope. Texts of statements and build descriptions are ours.
fn compare_sql(recorded: &Value, given: &Value, found: &mut Vec<String>) {
    for key in [
        "external",
        "order",
        "aliasNameToMember",
        "dataSource",
        "timeDimensionAlias",
        "timeDimensionField",
        "memberNames",
        "lambdaQueries",
        "canUseTransformedQuery",
        "cacheKeyQueries",
    ] {
        compare(&format!("/sql/{key}"), &recorded["sql"][key], &given["sql"][key], found);
    }
    let parts = given["sql"]["sql"].as_array().map(|pair| (pair.len(), pair[0].is_string(), pair[1].is_array()));
    if parts != Some((2, true, true)) {
        found.push(format!("/sql/sql: no pair of text and parameters: {}", given["sql"]["sql"]));
    }
    let rollups = |answer: &Value| -> Vec<Value> {
        let list = answer["sql"]["preAggregations"].as_array().cloned().unwrap_or_default();
        list.iter().map(|entry| json!([entry["preAggregationId"], entry["tableName"], entry["type"]])).collect()
    };
    compare("/sql/preAggregations", &json!(rollups(recorded)), &json!(rollups(given)), found);
    let rest = |answer: &Value| {
        let mut answer = answer.clone();
        answer.as_object_mut().map(|answer| answer.remove("sql"));
        answer
    };
    compare("", &rest(recorded), &rest(given), found);
}

/// Metadata with cubes by name; the numbers of connected components in order of appearance, since only their equality
/// means anything.
fn meta_by_meaning(meta: &Value) -> Value {
    let mut cubes: BTreeMap<String, Value> = BTreeMap::new();
    for cube in meta["cubes"].as_array().into_iter().flatten() {
        cubes.insert(cube["name"].as_str().unwrap_or_default().to_owned(), cube.clone());
    }
    let mut components = Vec::new();
    for cube in cubes.values_mut().filter(|cube| !cube["connectedComponent"].is_null()) {
        let component = cube["connectedComponent"].clone();
        if !components.contains(&component) {
            components.push(component.clone());
        }
        cube["connectedComponent"] = json!(components.iter().position(|known| *known == component));
    }
    json!(cubes)
}

fn token_shapes(tokens: &Value) -> Value {
    let shape = |token: &Value| json!(token.as_str().is_some_and(|text| !text.is_empty()));
    tokens.as_array().map_or(tokens.clone(), |tokens| tokens.iter().map(shape).collect())
}

/// Entries of job states without tokens, hashes in table names, and the moment's status.
fn job_shapes(entries: &Value) -> Value {
    let mut entries = entries.clone();
    for entry in entries.as_array_mut().into_iter().flatten() {
        entry.as_object_mut().map(|entry| entry.remove("quarry"));
        entry["token"] = json!(entry["token"].is_string());
        let status = entry["status"].as_str().unwrap_or_default();
        entry["status"] = json!(["scheduled", "processing", "done"].contains(&status));
        let table = entry["table"].as_str().unwrap_or_default();
        // schema.cube_rollupYYYYMMDD, then hashes.
        entry["table"] = json!(table.split('_').take(4).collect::<Vec<_>>().join("_"));
    }
    entries
}

/// Servers by scope, each over its own copy of the project; the one that answers queries has the rollup built for
/// the zones that were asked for.
fn start_servers(projects: &[Project; 4]) -> BTreeMap<Scopes, Server> {
    let builder = Server::start_with_jobs(&projects[0]);
    let zones = json!({"timezones": ["UTC", "America/Los_Angeles"], "preAggregations": ["lineitem.daily"]});
    assert!(builder.build(&selector(&zones)) >= 168, "84 months in two zones");
    builder.kill();
    drop(builder);
    let limited = |project, scopes| Server::start_with(project, &[("CUBEJS_DEFAULT_API_SCOPES", scopes)]);
    BTreeMap::from([
        (Scopes::Default, Server::start(&projects[0])),
        (Scopes::All, limited(&projects[1], ALL_SCOPES)),
        (Scopes::MetaOnly, limited(&projects[2], "meta")),
        (Scopes::DataOnly, limited(&projects[3], "data")),
    ])
}

#[test]
fn recorded_exchanges_are_answered_alike() {
    let exchanges = exchanges();
    let names: BTreeSet<&str> = exchanges.iter().map(Exchange::name).collect();
    for (name, _) in DEVIATIONS.iter().chain(OUT_OF_SCOPE) {
        assert!(names.contains(name), "the recording has no {name}");
    }
    let projects = [(); 4].map(|()| Project::copy("recorded/project"));
    let servers = start_servers(&projects);
    let tokens = servers[&Scopes::All].post_jobs(&selector(
        &json!({"preAggregations": ["lineitem.daily"], "dateRange": ["1992-03-01", "1992-04-15"]}),
    ));

    let listed = |table: &[(&str, &str)], name: &str| table.iter().any(|(listed, _)| *listed == name);
    let (mut wrong, mut stale, mut replayed) = (Vec::new(), Vec::new(), 0);
    for exchange in exchanges.iter().filter(|exchange| !listed(OUT_OF_SCOPE, exchange.name())) {
        let reply = send(&servers[&exchange.scopes()], exchange, &tokens);
        let found = differences(exchange, &reply);
        match (found.is_empty(), listed(DEVIATIONS, exchange.name())) {
            (true, true) => stale.push(exchange.name()),
            (false, false) => wrong.push(format!("{}:\n    {}", exchange.name(), found.join("\n    "))),
            (true, false) | (false, true) => {}
        }
        replayed += 1;
    }
    for server in servers.values() {
        server.assert_alive();
    }
    eprintln!(
        "{replayed} exchanges replayed, {} deviations known, {} out of scope",
        DEVIATIONS.len(),
        OUT_OF_SCOPE.len()
    );
    assert!(
        wrong.is_empty() && stale.is_empty(),
        "{} of {replayed} exchanges differ:\n{}\nlisted as deviations, but they agree: {stale:?}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn the_recording_is_whole() {
    let exchanges = exchanges();
    assert_eq!(exchanges.len(), 170);
    let sql = exchanges.iter().find(|exchange| exchange.name() == "sql_get").expect("an exchange with GET");
    assert_eq!(sql.query()["measures"], json!(["orders.count"]));
    assert_eq!(percent_decode("%7B%22a%22%3A1%7D%"), "{\"a\":1}%");
}

#[test]
fn every_recorded_answer_agrees_with_itself() {
    for exchange in exchanges() {
        let headers = exchange.0["response_headers"].as_object().into_iter().flatten();
        let reply = Reply {
            status: exchange.0["status"].as_u64().and_then(|status| u16::try_from(status).ok()).expect("a status"),
            headers: headers
                .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
                .collect(),
            body: exchange.0["response"].as_str().map_or_else(|| exchange.0["response"].to_string(), str::to_owned),
        };
        assert_eq!(differences(&exchange, &reply), Vec::<String>::new(), "{}", exchange.name());
    }
}

#[test]
fn differences_are_seen() {
    let exchange = |response: Value| {
        Exchange(json!({"name": "x", "status": 200, "response_headers": {}, "response": response,
            "body": {"query": {"measures": ["o.n"]}}}))
    };
    let load = |n: &str, at: &str| json!({"lastRefreshTime": at, "dbType": "x", "data": [{"o.n": n}]});
    let reply = |body: &Value| Reply { status: 200, headers: Vec::new(), body: body.to_string() };
    let recorded = exchange(load("1.50", "2026-11-20T12:59:29.439Z"));
    assert_eq!(differences(&recorded, &reply(&load("1.5", "2027-01-01T00:00:00.000Z"))), Vec::<String>::new());
    assert_eq!(differences(&recorded, &reply(&load("1.6", "2027-01-01T00:00:00.000Z"))).len(), 1);
    assert_eq!(differences(&recorded, &reply(&load("1.5", "2027-01-01"))).len(), 1);
    let mut swapped = json!({"data": [{"o.n": "1.5"}], "dbType": "x"});
    swapped["lastRefreshTime"] = json!("2026-11-20T12:59:29.439Z");
    assert_eq!(differences(&recorded, &reply(&swapped)).len(), 1, "the order of keys");
    let mut relative = exchange(json!({"lastRefreshTime": "2026-11-20T12:59:29.439Z", "data": [],
        "query": {"timeDimensions": [{"dateRange": ["2026-11-19T00:00:00.000", "2026-11-19T23:59:59.999"]}]}}));
    relative.0["name"] = json!("td_rel_yesterday");
    relative.0["body"] = json!({"query": {"timeDimensions": [{"dateRange": "yesterday"}]}});
    let on = |day: &str| {
        json!({"lastRefreshTime": "2027-01-01T00:00:00.000Z", "data": [],
            "query": {"timeDimensions": [{"dateRange": [format!("{day}T00:00:00.000"), format!("{day}T23:59:59.999")]}]}})
    };
    assert_eq!(differences(&relative, &reply(&on("2026-12-31"))), Vec::<String>::new());
    assert_eq!(differences(&relative, &reply(&on("2026-11-19"))).len(), 2, "both ends of yesterday");
    relative.0["body"] = json!({"query": {"timeDimensions": [{"dateRange": "today"}]}});
    assert_eq!(differences(&relative, &reply(&on("2027-01-01"))).len(), 2, "not what was recorded");
    let error = exchange(json!({"error": "x"}));
    let refused = Reply { status: 400, headers: Vec::new(), body: json!({"error": "y"}).to_string() };
    assert_eq!(differences(&error, &refused).len(), 2);
}
