//! Queries that a source answers slowly, or has answered before: Continue wait, the line, cache modes (`http-api.md`
//! §5.9, §6, §7.7). A query is slow because its cube joins generated rows with each other.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::{ALL_SCOPES, LOAD, Project, Reply, Server, pause, valid_token, wait_until};

const LONG: Duration = Duration::from_secs(120);

/// A cube over all pairs of so many rows with so many others.
fn pairs(name: &str, left: u64, right: u64) -> String {
    format!(
        "  - name: {name}
    sql: SELECT a.value AS n, b.value AS m FROM generate_series(1, {left}) AS a(value) CROSS JOIN generate_series(1, {right}) AS b(value)
    measures: [{{name: total, type: count, filters: [{{sql: '({{CUBE}}.n * 31 + {{CUBE}}.m) % 7 = 3'}}]}}]
    dimensions: [{{name: n, sql: '{{CUBE}}.n % 3', type: number}}]
"
    )
}

/// Rows whose pairs with some others keep a machine busy for longer than any test lasts; and of cubes of growing size.
const ENDLESS: u64 = 9_000_000_000_000;
const SIDES: [u32; 10] = [10, 11, 12, 13, 14, 15, 16, 17, 18, 19];

/// A cube that is endless, some that take ever longer, and a quick one with a rollup, to which a test adds keys.
fn project(more: &str) -> Project {
    let project = Project::empty();
    let slow: String = SIDES.iter().map(|power| pairs(&format!("slow_{power}"), 1 << power, 1 << power)).collect();
    project.write(
        "model/cubes.yml",
        &format!(
            "cubes:
{endless}{slow}  - name: sales
    sql_table: sales
    measures: [{{name: total, type: sum, sql: amount}}]
    dimensions: [{{name: city, sql: city, type: string}}]
{more}
    pre_aggregations:
      - {{name: by_city, measures: [total], dimensions: [city]}}
",
            endless = pairs("endless", 1000, ENDLESS)
        ),
    );
    project.write("data/sales.csv", "city,amount\nBonn,1\nKiel,2\n");
    project
}

fn endless() -> Value {
    json!({"measures": ["endless.total"]})
}

fn start(project: &Project, more: &[(&str, &str)]) -> Server {
    let mut settings = vec![("QUARRY_CONTINUE_WAIT", "1"), ("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES)];
    settings.extend_from_slice(more);
    Server::start_with(project, &settings)
}

fn ask_as(server: &Server, id: &str, body: &Value, headers: &[(&str, &str)]) -> Reply {
    let mut call = server.call("POST", LOAD).token(&valid_token()).header("x-request-id", id);
    for (name, value) in headers {
        call = call.header(name, value);
    }
    call.json(body).send()
}

#[track_caller]
fn check_waits(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.body);
    let body = reply.value();
    assert_eq!(body["error"], "Continue wait", "{body}");
    assert!(reply.header("content-type").is_some_and(|kind| kind.starts_with("application/json")));
    body
}

/// Trap 1, §6.1 to §6.3: 200 with the words, after the window and not before; the same request gets the result.
#[test]
fn a_slow_query_is_answered_in_the_end() {
    let project = project("");
    let server = start(&project, &[]);
    // How quick this machine is nobody knows: the first that is too slow will do.
    let (power, body) = SIDES
        .into_iter()
        .find_map(|power| {
            let begun = Instant::now();
            let query = json!({"measures": [format!("slow_{power}.total")]});
            let reply = ask_as(&server, "a-span-1", &json!({"query": query}), &[]);
            let waits = reply.body.contains("Continue wait");
            assert!(waits || begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
            waits.then(|| {
                assert!(begun.elapsed() >= Duration::from_millis(990), "{:?}", begun.elapsed());
                (power, check_waits(&reply))
            })
        })
        .expect("one of them is slow");
    assert_eq!(body["stage"], "Executing query", "{body}");
    assert!(body["timeElapsed"].as_u64().is_some_and(|elapsed| elapsed >= 900), "{body}");
    assert!(body.get("requestId").is_none(), "{body}");
    // By GET it is the same request.
    let url = format!("{LOAD}?query=%7B%22measures%22%3A%5B%22slow_{power}.total%22%5D%7D");
    let answer = wait_until("the result", LONG, || {
        let body = server.get(&url).value();
        body.get("error").is_none().then_some(body)
    });
    let rows: u64 =
        answer["data"][0][format!("slow_{power}.total")].as_str().expect("a text").parse().expect("a number");
    let pairs = 1_u64 << (2 * power);
    assert!(rows.abs_diff(pairs / 7) < pairs / 1000, "{answer}");
    assert_eq!(answer["slowQuery"], false);
    assert!(answer["lastRefreshTime"].is_string());
}

/// §6.4: one at a time; the second waits in line, and a query that a rollup answers does not.
#[test]
fn rollups_do_not_wait_in_line() {
    let project = project("");
    let server = start(&project, &[("CUBEJS_CONCURRENCY", "1")]);
    server.build(&json!({"contexts": [{"securityContext": {}}], "timezones": ["UTC"]}));
    let running = check_waits(&ask_as(&server, "a-span-1", &json!({"query": endless()}), &[]));
    assert_eq!(running["stage"], "Executing query");
    let other = json!({"query": {"measures": ["endless.total"], "dimensions": ["endless.n"]}, "queryType": "multi"});
    let waiting = check_waits(&ask_as(&server, "b-span-1", &other, &[]));
    assert_eq!((&waiting["stage"], waiting.get("timeElapsed")), (&json!("#1 in queue"), None));
    let quick = json!({"query": {"measures": ["sales.total"]}});
    let begun = Instant::now();
    let reply = ask_as(&server, "c-span-1", &quick, &[]);
    assert!(reply.value().get("usedPreAggregations").is_some(), "{}", reply.body);
    assert!(begun.elapsed() < Duration::from_secs(60), "a rollup query waited {:?}", begun.elapsed());
    // §7.7: the id must be the whole one.
    let cancel = |id: &str| server.call("DELETE", &format!("/cubejs-api/v1/running-query/{id}")).token(&valid_token());
    assert_eq!(cancel("a").send().value(), json!({"result": []}));
    let cancelled = cancel("a-span-1").send().value();
    assert_eq!(cancelled["result"][0]["requestId"], "a-span-1", "{cancelled}");
    assert_eq!(
        (&cancelled["result"][0]["dataSource"], cancelled["result"].as_array().map(Vec::len)),
        (&json!("default"), Some(1))
    );
    let next = check_waits(&ask_as(&server, "b-span-2", &other, &[]));
    assert_eq!(next["stage"], "Executing query", "the second one has its place");
    assert_eq!(cancel("b-span-2").send().value()["result"].as_array().map(Vec::len), Some(1));
    assert_eq!(server.call("DELETE", "/cubejs-api/v1/running-query/x").send().status, 403, "a token is needed");
    server.assert_alive();
}

/// §6.4: a query that waits in line and that nobody asks for again is dropped; its next request starts anew.
#[test]
fn orphans_are_dropped() {
    let project = project("");
    let server = start(&project, &[("CUBEJS_CONCURRENCY", "1"), ("QUARRY_ORPHANED_TIMEOUT", "1")]);
    check_waits(&ask_as(&server, "a-span-1", &json!({"query": endless()}), &[]));
    let other = |n: usize| json!({"query": {"measures": ["endless.total"], "limit": n}});
    let stage = |n: usize| check_waits(&ask_as(&server, "b-span-1", &other(n), &[]))["stage"].clone();
    assert_eq!(stage(1), "#1 in queue");
    // The first one has become an orphan while the others were asked for, each for a second.
    wait_until("the first place", LONG, || (stage(2) == "#1 in queue").then_some(()));
}

/// RFC 7240: who would rather wait says for how long, and is told that it was heard.
#[test]
fn clients_may_prefer_to_wait() {
    let project = project("");
    let server = start(&project, &[]);
    let begun = Instant::now();
    let reply = ask_as(&server, "a-span-1", &json!({"query": endless()}), &[("prefer", "wait=3")]);
    check_waits(&reply);
    assert!(begun.elapsed() >= Duration::from_millis(2_990), "{:?}", begun.elapsed());
    assert_eq!(reply.header("preference-applied"), Some("wait=3"));
    let quick =
        ask_as(&server, "b-span-1", &json!({"query": {"measures": ["sales.total"]}}), &[("prefer", "wait=200")]);
    assert_eq!((quick.status, quick.header("preference-applied")), (200, Some("wait=90")));
    let bad = ask_as(&server, "b-span-1", &json!({"query": {"measures": ["no.such"]}}), &[("prefer", "wait=2")]);
    assert_eq!((bad.status, bad.header("preference-applied")), (400, Some("wait=2")));
    let plain = server.post(LOAD, &json!({"query": {"measures": ["sales.total"]}}));
    assert_eq!(plain.header("preference-applied"), None);
}

/// §4: what runs too long is stopped, and both who waits and who comes back are told.
#[test]
fn a_query_has_a_timeout() {
    let project = project("");
    let server = start(&project, &[("CUBEJS_DB_QUERY_TIMEOUT", "2")]);
    check_waits(&ask_as(&server, "a-span-1", &json!({"query": endless()}), &[]));
    let reply = wait_until("the timeout", LONG, || {
        let reply = ask_as(&server, "a-span-2", &json!({"query": endless()}), &[]);
        (reply.status != 200).then_some(reply)
    });
    assert_eq!((reply.status, reply.error()), (400, "Error: Query execution timeout after 2 s of waiting".to_owned()));
}

fn city(n: u32) -> String {
    format!("city,amount\nBonn,{n}\n")
}

/// Asks for the sum of one city: the rows of the source, and when it was asked.
fn sum(server: &Server, cache: Option<&str>) -> (String, String, Value) {
    let query =
        json!({"measures": ["sales.total"], "filters": [{"member": "sales.total", "operator": "gt", "values": ["0"]}]});
    let mut body = json!({"query": query});
    if let Some(mode) = cache {
        body["cache"] = json!(mode);
    }
    let answer = server.post(LOAD, &body).value();
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("no text in {answer}")).to_owned();
    (text(&answer["data"][0]["sales.total"]), text(&answer["lastRefreshTime"]), answer["slowQuery"].clone())
}

/// §5.9, the modes with a refresh key that has not changed and one that has.
#[test]
fn modes_say_how_fresh_an_answer_must_be() {
    let key = "    refresh_key: {sql: SELECT max(version) FROM versions, every: 1 second}";
    let project = project(key);
    project.write("data/versions.csv", "version\n1\n");
    project.write("data/sales.csv", &city(1));
    let server = start(&project, &[]);
    let first = sum(&server, None);
    assert_eq!(first.0, "1");
    // The rows change and the key does not: only who does not want what was kept sees it.
    project.write("data/sales.csv", &city(22));
    for mode in [None, Some("stale-if-slow"), Some("stale-while-revalidate"), Some("must-revalidate")] {
        assert_eq!(sum(&server, mode), first, "{mode:?}");
    }
    let run = sum(&server, Some("no-cache"));
    assert_eq!(run.0, "22");
    assert!(run.1 > first.1, "{run:?} is not newer than {first:?}");
    assert_eq!(sum(&server, None), run, "what was asked for last is what is kept");
    // The old flag.
    let renew = json!({"measures": ["sales.total"], "renewQuery": true});
    assert_eq!(server.load(&renew)["data"][0]["sales.total"], "22");
    // The key changes. Within its second nobody knows yet.
    project.write("data/sales.csv", &city(333));
    project.write("data/versions.csv", "version\n2\n");
    wait_until("the key to be asked again", LONG, || {
        (sum(&server, Some("stale-while-revalidate")).0 == "333").then_some(())
    });
    project.write("data/sales.csv", &city(4444));
    project.write("data/versions.csv", "version\n3\n");
    wait_until("a fresh answer", LONG, || (sum(&server, Some("must-revalidate")).0 == "4444").then_some(()));
    project.write("data/sales.csv", &city(55555));
    project.write("data/versions.csv", "version\n4\n");
    wait_until("a fresh answer", LONG, || (sum(&server, None).0 == "55555").then_some(()));
    let bad = server.post(LOAD, &json!({"query": {"measures": ["sales.total"]}, "cache": "always"}));
    assert_eq!(bad.status, 400, "{}", bad.body);
}

/// `backgroundRenew` of `cube.js`: who does not say how fresh an answer must be is given the old one while a new one is
/// made.
#[test]
fn a_project_may_have_answers_renewed_in_the_background() {
    let key = "    refresh_key: {sql: SELECT max(version) FROM versions, every: 1 second}";
    let changed = |settings: &[(&str, &str)], cube_js: Option<&str>, ask: &dyn Fn(&Server) -> String| {
        let project = project(key);
        project.write("data/versions.csv", "version\n1\n");
        project.write("data/sales.csv", &city(1));
        if let Some(text) = cube_js {
            project.write("cube.js", text);
        }
        // Nobody is asked to come again, however slow the machine.
        let server = start(&project, &[&[("QUARRY_CONTINUE_WAIT", "90")], settings].concat());
        assert_eq!(sum(&server, None).0, "1");
        project.write("data/sales.csv", &city(22));
        project.write("data/versions.csv", "version\n2\n");
        // Longer than the key's answer is good.
        pause(Duration::from_millis(1100));
        let first = ask(&server);
        wait_until("the new answer", LONG, || (sum(&server, None).0 == "22").then_some(()));
        assert!(!server.log().contains("backgroundRenew"), "{}", server.log());
        first
    };
    let plainly = |server: &Server| sum(server, None).0;
    let option = "module.exports = { orchestratorOptions: { queryCacheOptions: { backgroundRenew: true } } }";
    assert_eq!(changed(&[], None, &plainly), "22", "not unless it is asked for");
    assert_eq!(changed(&[], Some(option), &plainly), "1");
    assert_eq!(changed(&[("QUARRY_BACKGROUND_RENEW", "true")], None, &plainly), "1");
    // Who says so waits all the same.
    for mode in ["must-revalidate", "no-cache"] {
        assert_eq!(changed(&[], Some(option), &|server| sum(server, Some(mode)).0), "22", "{mode}");
    }
}

/// §5.9: what was kept stands in for an answer that takes longer than the window; who insists on a fresh one waits.
#[test]
fn conformance_38_what_was_kept_stands_in_for_a_slow_answer() {
    let project = Project::empty();
    project.write(
        "model/cubes.yml",
        "cubes:
  - name: sales
    sql: SELECT s.amount AS n, b.value AS m FROM sales AS s CROSS JOIN generate_series(1, 20000) AS b(value)
    refresh_key: {sql: SELECT max(version) FROM versions, every: 1 second}
    measures: [{name: total, type: count, filters: [{sql: '({CUBE}.n * 31 + {CUBE}.m) % 7 >= 0'}]}]
",
    );
    project.write("data/versions.csv", "version\n1\n");
    project.write("data/sales.csv", &city(1));
    let server = start(&project, &[]);
    let first = sum(&server, None);
    assert_eq!((first.0.as_str(), &first.2), ("20000", &json!(false)));
    let many: String = (0..1_000_000).map(|n| format!("Bonn,{n}\n")).collect();
    project.write("data/sales.csv", &format!("city,amount\n{many}"));
    project.write("data/versions.csv", "version\n2\n");
    let stale = wait_until("the old answer, marked", LONG, || {
        let answer = sum(&server, Some("stale-if-slow"));
        (answer.2 == json!(true)).then_some(answer)
    });
    assert_eq!((&stale.0, &stale.1), (&first.0, &first.1));
    let fresh = json!({"query": {"measures": ["sales.total"], "filters": [
        {"member": "sales.total", "operator": "gt", "values": ["0"]}]}, "cache": "must-revalidate"});
    check_waits(&ask_as(&server, "b-span-1", &fresh, &[]));
}

/// Without a refresh key an answer is kept for ten seconds at most, and never when the files have changed.
#[test]
fn files_that_change_are_seen_at_once() {
    let project = project("");
    let server = start(&project, &[]);
    for n in 1..6 {
        project.write("data/sales.csv", &city(10_u32.pow(n)));
        assert_eq!(sum(&server, None).0, 10_u32.pow(n).to_string());
    }
}

/// §5.9: a refresh key that fails is an error, and is told in the source's words.
#[test]
fn a_failing_key_is_told() {
    let project = project("    refresh_key: {sql: SELECT max(version) FROM nothing}");
    let server = start(&project, &[]);
    let reply = server.post(LOAD, &json!({"query": {"measures": ["sales.total"]}}));
    assert_eq!(reply.status, 400);
    assert!(reply.error().contains("the refresh key of a cube failed: relation \"public.nothing\""), "{}", reply.body);
    let reply = server.post(LOAD, &json!({"query": {"measures": ["sales.total"]}, "cache": "no-cache"}));
    assert_eq!(reply.value()["data"][0]["sales.total"], "3", "keys are not consulted: {}", reply.body);
}

/// What is kept goes to those alone whose rights make the same statement (trap 50).
#[test]
fn kept_answers_do_not_cross_policies() {
    let project = project(
        "    refresh_key: {every: 1 hour}
    access_policy:
      - group: '*'
        row_level: {filters: [{member: city, operator: equals, values: ['{securityContext.city}']}]}",
    );
    let server = start(&project, &[]);
    let token = |city: &str| crate::server::sign(&json!({"city": city}), crate::server::SECRET);
    for _ in 0..3 {
        for (city, expected) in [("Bonn", "1"), ("Kiel", "2")] {
            let call =
                server.call("POST", LOAD).token(&token(city)).json(&json!({"query": {"measures": ["sales.total"]}}));
            assert_eq!(call.send().value()["data"][0]["sales.total"], expected, "{city}");
        }
    }
}

/// §5.10, §5.12: development mode shows what the keys said.
#[test]
fn development_shows_the_keys() {
    let project = project("    refresh_key: {sql: SELECT count(*) AS n FROM sales}");
    let server = start(&project, &[("CUBEJS_DEV_MODE", "true"), ("CUBEJS_REFRESH_WORKER", "false")]);
    let answer = server.load(&json!({"measures": ["sales.total"]}));
    assert_eq!(answer["refreshKeyValues"], json!([[{"n": "2"}]]), "{answer}");
    let production = start(&project_copy(&project), &[]);
    assert!(production.load(&json!({"measures": ["sales.total"]})).get("refreshKeyValues").is_none());
}

fn project_copy(of: &Project) -> Project {
    let copy = Project::empty();
    for file in ["model/cubes.yml", "data/sales.csv"] {
        copy.write(file, &std::fs::read_to_string(of.path().join(file)).expect("a file"));
    }
    copy
}

/// The answer says when its limit left rows out, and only then.
#[test]
fn limits_that_cut_are_told() {
    let project = project("");
    let server = start(&project, &[]);
    let told = |limit: u64, more: Value| {
        let mut query = json!({"dimensions": ["sales.city"], "limit": limit});
        query.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let answer = server.load(&query);
        (answer["data"].as_array().map(Vec::len), answer["quarry"]["truncated"].clone(), answer["total"].clone())
    };
    assert_eq!(told(1, json!({})), (Some(1), json!(true), json!(null)));
    assert_eq!(told(2, json!({})), (Some(2), json!(null), json!(null)));
    assert_eq!(told(1, json!({"offset": 1, "total": true})), (Some(1), json!(null), json!(2)));
    assert_eq!(told(1, json!({"total": true})), (Some(1), json!(true), json!(2)));
    assert_eq!(told(0, json!({"total": true})), (Some(0), json!(true), json!(2)));
    server.build(&json!({"contexts": [{"securityContext": {}}], "timezones": ["UTC"]}));
    let answer = server.load(&json!({"measures": ["sales.total"], "dimensions": ["sales.city"], "limit": 1}));
    assert_eq!(answer["quarry"]["truncated"], true);
    assert_eq!(answer["quarry"]["builtAt"], answer["lastRefreshTime"], "{answer}");
}
