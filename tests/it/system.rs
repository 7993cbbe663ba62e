//! `/cubejs-system/v1` (`http-api.md` §9): what operators' tools of Cube ask, with a secret of their own.

use serde_json::{Value, json};

use crate::events::events_project;
use crate::server::{Call, JOBS, Project, Reply, SECRET, Server, sign, wait_until};
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
    let hook = "async () => [{ securityContext: { tenant: 'acme' } }, { securityContext: {} }, null]";
    project.write("cube.js", &format!("module.exports = {{ scheduledRefreshContexts: {hook} }}"));
    let server = Server::start_with(&project, &[("CUBEJS_PLAYGROUND_AUTH_SECRET", OPERATORS)]);
    let contexts = get(&server, "/pre-aggregations/security-contexts").value();
    assert_eq!(contexts, json!({"securityContexts": [{"tenant": "acme"}, {}]}));
}

#[test]
fn definitions_partitions_and_builds() {
    let server = start(&[("CUBEJS_SCHEDULED_REFRESH_TIMEZONES", "UTC,Europe/Berlin")]);
    let zones = get(&server, "/pre-aggregations/timezones").value();
    assert_eq!(zones, json!({"timezones": ["UTC", "Europe/Berlin"]}));
    assert_eq!(get(&server, "/pre-aggregations/security-contexts").value(), json!({"securityContexts": []}));
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

const OF_TENANTS: &str = "
cubes:
  - name: orders
    sql: >
      SELECT * FROM orders WHERE tenant = '{{ COMPILE_CONTEXT.securityContext.tenant | default('nobody') | safe }}'
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: at, sql: at, type: time}
    measures:
      - {name: total, sql: amount, type: sum}
    pre_aggregations:
      - name: of_{{ COMPILE_CONTEXT.securityContext.tenant | default('nobody') | safe }}
        measures: [total]
        time_dimension: at
        granularity: day
        partition_granularity: month
";

/// A server with a model for each tenant.
fn start_of_tenants() -> Server {
    let project = Project::empty();
    let orders = "id,tenant,amount,at\n1,acme,10,2024-01-05T10:00:00\n2,bond,20,2024-01-06T10:00:00\n";
    project.write("data/orders.csv", orders);
    project.write("model/orders.yml", OF_TENANTS);
    project.write(
        "cube.js",
        "module.exports = {
           extendContext: (req) => req.headers['x-tenant'] ? { securityContext: { tenant: req.headers['x-tenant'] } } : {},
           contextToAppId: ({ securityContext }) => {
             if (!securityContext.tenant) throw new Error('no tenant');
             return `app_${securityContext.tenant}`;
           },
           preAggregationsSchema: ({ securityContext }) => `stored_${securityContext.tenant}`,
           scheduledRefreshContexts: () => ['acme', 'bond'].map((tenant) => ({ securityContext: { tenant } })),
           scheduledRefreshTimeZones: ({ securityContext }) =>
             securityContext.tenant === 'acme' ? ['Europe/Berlin'] : ['Mars/Base'],
         }",
    );
    Server::start_with(&project, &[("CUBEJS_PLAYGROUND_AUTH_SECRET", OPERATORS)])
}

/// A call of an operator whose token tells this context.
fn call_as<'s>(server: &'s Server, context: &Value, method: &str, path: &str) -> Call<'s> {
    server.call(method, &format!("{BASE}{path}")).token(&sign(context, OPERATORS))
}

/// The context of an operator's token decides which model is seen and built, as it does for every other caller.
#[test]
fn operators_build_the_model_of_the_context_that_their_token_tells() {
    let server = start_of_tenants();
    for (tenant, other, total) in [("acme", "bond", "10"), ("bond", "acme", "20")] {
        let post = |path: &str, query: &Value| {
            let path = format!("/pre-aggregations{path}");
            call_as(&server, &json!({ "tenant": tenant }), "POST", &path).json(&json!({ "query": query })).send()
        };
        let told = |path: &str, query: &Value| {
            let reply = post(path, query);
            assert_eq!(reply.status, 200, "{tenant} {path}: {}", reply.body);
            reply.value()
        };
        let id = format!("orders.of_{tenant}");
        let rollup = json!({"timezones": ["UTC"], "preAggregations": [{ "id": id }]});
        let partition = || told("/partitions", &rollup)["preAggregationPartitions"][0]["partitions"][0].clone();
        let before = partition();
        assert_eq!(before["tableName"], json!(format!("stored_{tenant}.orders_of_{tenant}20240101")));
        assert_eq!(before["versionEntries"], json!([]));
        assert_eq!(told("/build", &rollup), json!({"result": true}));
        let version = wait_until("the build", Duration::from_secs(60), || {
            let version = partition()["versionEntries"][0].clone();
            version.is_object().then_some(version)
        });
        let shown = told("/preview", &json!({"preAggregationId": id, "timezone": "UTC", "versionEntry": version}));
        assert_eq!(shown["preview"]["data"][0]["orders__total"], json!(total), "{shown}");

        let others = json!({"timezones": ["UTC"], "preAggregations": [{"id": format!("orders.of_{other}")}]});
        assert_eq!(told("/partitions", &others)["preAggregationPartitions"], json!([]));
        let reply = post("/build", &others);
        let nothing = "A user's selector doesn't match any of the pre-aggregations defined in the data model.";
        assert_eq!((reply.status, reply.error().as_str()), (400, nothing));
    }
}

#[test]
fn operators_see_the_rollups_and_zones_of_their_context() {
    let server = start_of_tenants();
    let get = |context: &Value, path: &str| call_as(&server, context, "GET", path).send();
    // What needs no model is there for every operator.
    let contexts = get(&json!({}), "/pre-aggregations/security-contexts").value();
    assert_eq!(contexts, json!({"securityContexts": [{"tenant": "acme"}, {"tenant": "bond"}]}));
    assert_eq!(get(&json!({}), "/context").status, 200);
    let reply = get(&json!({}), "/pre-aggregations");
    assert_eq!((reply.status, reply.error().as_str()), (500, "Error: no tenant"));

    let ids = |definitions: &Value| -> Vec<Value> {
        definitions["preAggregations"].as_array().into_iter().flatten().map(|entry| entry["id"].clone()).collect()
    };
    for tenant in ["acme", "bond"] {
        let expected = [json!(format!("orders.of_{tenant}"))];
        assert_eq!(ids(&get(&json!({ "tenant": tenant }), "/pre-aggregations").value()), expected);
        let extended = call_as(&server, &json!({}), "GET", "/pre-aggregations").header("x-tenant", tenant).send();
        assert_eq!(ids(&extended.value()), expected, "as the hook extends the context");
    }

    let zones = |tenant: &str| get(&json!({ "tenant": tenant }), "/pre-aggregations/timezones");
    assert_eq!(zones("acme").value(), json!({"timezones": ["Europe/Berlin"]}));
    let unzoned = json!({"query": {"preAggregations": [{"id": "orders.of_acme"}]}});
    let shown = call_as(&server, &json!({"tenant": "acme"}), "POST", "/pre-aggregations/partitions").json(&unzoned);
    assert_eq!(shown.send().value()["preAggregationPartitions"][0]["timezones"], json!(["Europe/Berlin"]));
    let text = "Error: scheduledRefreshTimeZones of cube.js gave 'Mars/Base', which is no time zone";
    assert_eq!((zones("bond").status, zones("bond").error().as_str()), (500, text));
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
