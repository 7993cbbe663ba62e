//! GraphQL (`http-api.md` §11): the schema, what a selection asks, values, errors, bounds.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::events::events_project;
use crate::server::{LOAD, Project, Reply, SECRET, Server, sign, wait_until};

const GRAPHQL: &str = "/cubejs-api/graphql";

fn started() -> (Project, Server) {
    let project = events_project(&["2024-01", "2024-02", "2024-03"], 90);
    project.write("model/kinds.yml", KINDS);
    let server = Server::start(&project);
    (project, server)
}

/// Every kind of value, under a name that is written otherwise in GraphQL.
const KINDS: &str = "
cubes:
  - name: Odd_things
    description: Things of every kind
    sql: >
      SELECT 1 AS id, 2.50 AS price, true AS flag, TIMESTAMP '2024-07-01 12:30:00' AS at, 'a' AS name
      UNION ALL SELECT 2, NULL, NULL, NULL, NULL
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true, public: true}
      - {name: price, sql: price, type: number, description: What it costs}
      - {name: flag, sql: flag, type: boolean}
      - {name: at, sql: at, type: time}
      - {name: name, sql: name, type: string}
      - {name: secret, sql: name, type: string, public: false}
    measures:
      - {name: count, type: count}
      - {name: last_at, sql: 'max(at)', type: time}
";

/// Asks a document; waits while the server says so.
fn ask(server: &Server, document: &str, variables: &Value) -> Reply {
    wait_until("an answer", Duration::from_secs(120), || {
        let reply = server.post(GRAPHQL, &json!({"query": document, "variables": variables}));
        (!reply.body.contains("Continue wait")).then_some(reply)
    })
}

/// The data of a document that must succeed.
#[track_caller]
fn data(server: &Server, document: &str) -> Value {
    let reply = ask(server, document, &json!({}));
    assert_eq!(reply.status, 200, "{document}: {}", reply.body);
    reply.value()["data"].clone()
}

#[test]
fn a_selection_is_answered_with_typed_values() {
    let (_project, server) = started();
    let document = r#"{ cube(limit: 3, timezone: "America/Los_Angeles", where: {events: {kind: {in: ["click", "view"]}}}) {
        events(orderBy: {kind: asc, at: desc}) { kind count at { month } } } }"#;
    let row = |month: u32| json!({"events": {"kind": "click", "count": 30, "at": {"month": format!("2024-{month:02}-01T08:00:00.000Z")}}});
    let reply = ask(&server, document, &Value::Null);
    assert_eq!(reply.status, 200, "{}", reply.body);
    let body = reply.value();
    assert_eq!(body["data"], json!({"cube": [row(3), row(2), row(1)]}));
    let keys: Vec<&String> = body["extensions"]["annotation"].as_object().expect("an annotation").keys().collect();
    assert_eq!(keys, ["measures", "dimensions", "segments", "timeDimensions"]);
    assert!(body["extensions"]["lastRefreshTime"].as_str().is_some_and(|at| at.ends_with('Z')), "{body}");

    let document = r#"{ cube(timezone: "Europe/Berlin") { odd_things(orderBy: {id: asc}) {
        id price flag name at { value hour year } } } }"#;
    let first = json!({"id": 1, "price": 2.5, "flag": "true", "name": "a", "at": {
        "value": "2024-07-01T12:30:00.000Z", "hour": "2024-07-01T12:00:00.000Z", "year": "2023-12-31T23:00:00.000Z"}});
    let second = json!({"id": 2, "price": null, "flag": null, "name": null,
        "at": {"value": null, "hour": null, "year": null}});
    assert_eq!(data(&server, document), json!({"cube": [{"odd_things": first}, {"odd_things": second}]}));
    let document = "{ cube { odd_things { count last_at { value } } } }";
    let last = json!({"count": 2, "last_at": {"value": "2024-07-01T12:30:00.000Z"}});
    assert_eq!(data(&server, document), json!({"cube": [{"odd_things": last}]}));
}

/// Documents, variables and queries: members, order, conditions.
fn plain_selections() -> Vec<(&'static str, Value, Value)> {
    let by_month = json!([{"dimension": "events.at", "granularity": "month"}]);
    let filter = |member: &str, operator: &str, values: Value| json!({"member": format!("events.{member}"), "operator": operator, "values": values});
    vec![
        (
            "{ cube { events { count kind } } }",
            json!({}),
            json!({"measures": ["events.count"], "dimensions": ["events.kind"]}),
        ),
        (
            "{ cube(limit: 5, offset: 2, timezone: \"Asia/Kolkata\", ungrouped: true) { events { kind } } }",
            json!({}),
            json!({"dimensions": ["events.kind"], "limit": 5, "offset": 2, "timezone": "Asia/Kolkata", "ungrouped": true}),
        ),
        (
            "{ cube { events { count at { month value } } } }",
            json!({}),
            json!({"measures": ["events.count"], "dimensions": ["events.at"], "timeDimensions": by_month}),
        ),
        (
            "{ cube(orderBy: {events: {count: desc}}) { events(orderBy: {kind: asc, count: asc}) { count kind } } }",
            json!({}),
            json!({"measures": ["events.count"], "dimensions": ["events.kind"], "order":
                [["events.count", "desc"], ["events.kind", "asc"], ["events.count", "asc"]]}),
        ),
        (
            "{ cube(where: {events: {count: {gt: 10}}}) { events(where: {kind: {notIn: [\"a\"], set: true}}) { count } } }",
            json!({}),
            json!({"measures": ["events.count"], "filters": [filter("count", "gt", json!(["10"])),
                filter("kind", "notEquals", json!(["a"])), {"member": "events.kind", "operator": "set"}]}),
        ),
        (
            "{ cube(where: {OR: [{events: {kind: {equals: \"a\"}}}, {events: {kind: {endsWith: \"w\"}}}]}) { events { count } } }",
            json!({}),
            json!({"measures": ["events.count"], "filters": [
                {"or": [filter("kind", "equals", json!(["a"])), filter("kind", "endsWith", json!(["w"]))]}]}),
        ),
    ]
}

/// The same: times, variables, fragments, and what is no query.
fn other_selections() -> Vec<(&'static str, Value, Value)> {
    let by_month = json!([{"dimension": "events.at", "granularity": "month"}]);
    let filter = |member: &str, operator: &str, values: Value| json!({"member": format!("events.{member}"), "operator": operator, "values": values});
    let ranged = |range: Value| json!([{"dimension": "events.at", "granularity": "month", "dateRange": range}]);
    vec![
        (
            "{ cube(where: {events: {at: {inDateRange: \"last week\"}}}) { events { count at { month } } } }",
            json!({}),
            json!({"measures": ["events.count"], "timeDimensions": ranged(json!("last week"))}),
        ),
        (
            "{ cube { events(where: {at: {inDateRange: [\"2024-01-01\", \"2024-01-31\"]}}) { count } } }",
            json!({}),
            json!({"measures": ["events.count"],
                "timeDimensions": [{"dimension": "events.at", "dateRange": ["2024-01-01", "2024-01-31"]}]}),
        ),
        (
            "{ cube(where: {events: {at: {afterDate: \"2024-01-05\"}}}) { events { count } } }",
            json!({}),
            json!({"measures": ["events.count"], "filters": [filter("at", "afterDate", json!(["2024-01-05"]))]}),
        ),
        (
            "query Q($kinds: [String], $more: Boolean = false) { cube(where: {events: {kind: {in: $kinds}}}) {
               events { count kind @include(if: $more) at @skip(if: true) { month } } } }",
            json!({"kinds": ["a", "b"]}),
            json!({"measures": ["events.count"], "filters": [filter("kind", "equals", json!(["a", "b"]))]}),
        ),
        (
            "{ cube { things: events { ...counts ... on EventsMembers { n: kind } } } }
             fragment counts on EventsMembers { count ...times } fragment times on EventsMembers { at { month } }",
            json!({}),
            json!({"measures": ["events.count"], "dimensions": ["events.kind"], "timeDimensions": by_month}),
        ),
        (
            "{ cube { events { count } visits { at { month } } } }",
            json!({}),
            json!({"measures": ["events.count"], "timeDimensions": [{"dimension": "visits.at", "granularity": "month"}]}),
        ),
        (
            "{ cube(renewQuery: true, cache: \"no-cache\") { events { count } } }",
            json!({}),
            json!({"measures": ["events.count"], "renewQuery": true, "cache": "no-cache"}),
        ),
        ("{ cube { nothing { count } } }", json!({}), Value::Null),
        ("{", json!({}), Value::Null),
    ]
}

/// `POST /v1/graphql-to-json`, which runs nothing.
#[test]
fn selections_become_queries() {
    let (_project, server) = started();
    for (document, variables, expected) in plain_selections().into_iter().chain(other_selections()) {
        let request = json!({"query": document, "variables": variables});
        let reply = server.post("/cubejs-api/v1/graphql-to-json", &request);
        assert_eq!((reply.status, reply.value()), (200, json!({ "jsonQuery": expected })), "{document}");
        if expected.is_null() || document.contains("visits") {
            continue;
        }
        // What GraphQL answers is what the query answers.
        let (told, given) = (server.post(LOAD, &json!({ "query": expected })), server.post(GRAPHQL, &request));
        assert_eq!((told.status, given.status), (200, 200), "{document}: {} {}", told.body, given.body);
        let rows = |reply: &Value, path: &str| reply.pointer(path).and_then(Value::as_array).map(Vec::len);
        assert_eq!(rows(&told.value(), "/data"), rows(&given.value(), "/data/cube"), "{document}");
    }
}

#[test]
fn aliases_and_fragments_shape_the_answer() {
    let (_project, server) = started();
    let document =
        "query Both { january: cube { e: events(where: {at: {inDateRange: [\"2024-01-01\", \"2024-01-31\"]}}) {
        __typename n: count m: count } } all: cube { events { ...c } } }
        fragment c on EventsMembers { count }
        query Other { cube { events { count } } }";
    let body = json!({"query": document, "operationName": "Both"});
    let reply = server.post(GRAPHQL, &body);
    let january = json!([{"e": {"__typename": "EventsMembers", "n": 90, "m": 90}}]);
    assert_eq!(
        reply.value()["data"],
        json!({"january": january, "all": [{"events": {"count": 270}}]}),
        "{}",
        reply.body
    );
    let other = server.post(GRAPHQL, &json!({"query": document, "operationName": "Other"}));
    assert_eq!(other.value()["data"], json!({"cube": [{"events": {"count": 270}}]}));
    // Two fields of one name are one.
    let merged = data(&server, "{ cube { events { count } } cube { events { generations } } }");
    assert_eq!(merged, json!({"cube": [{"events": {"count": 270, "generations": 270}}]}));
}

#[test]
fn documents_come_by_get_and_by_post() {
    let (_project, server) = started();
    let path = "?query=query%20Q(%24n%3AInt)%7Bcube(limit%3A%24n)%7Bevents%7Bkind%7D%7D%7D&variables=%7B%22n%22%3A1%7D";
    let reply = server.get(&format!("{GRAPHQL}{path}&operationName=Q"));
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.value()["data"]["cube"].as_array().map(Vec::len), Some(1));
    let text = json!({"query": "query Q($n: Int) { cube(limit: $n) { events { kind } } }", "variables": "{\"n\": 2}"});
    assert_eq!(server.post(GRAPHQL, &text).value()["data"]["cube"].as_array().map(Vec::len), Some(2));
}

#[test]
fn errors_have_their_forms() {
    let (_project, server) = started();
    // Who is not let in is told as everywhere.
    let reply = server.call("POST", GRAPHQL).json(&json!({"query": "{ cube { events { count } } }"})).send();
    assert_eq!((reply.status, reply.error().as_str()), (403, "Authorization header isn't set"));
    let project = events_project(&["2024-01"], 3);
    let closed = Server::start_with(&project, &[("CUBEJS_DEFAULT_API_SCOPES", "meta,data")]);
    let reply = ask(&closed, "{ cube { events { count } } }", &json!({}));
    assert_eq!((reply.status, reply.error().as_str()), (403, "API scope is missing: graphql"));
    let to_json = closed.post("/cubejs-api/v1/graphql-to-json", &json!({"query": "{ cube { events { count } } }"}));
    assert_eq!(to_json.status, 200, "needs no scope: {}", to_json.body);

    for (document, variables) in [
        ("{ cube { events { count }", json!({})),
        ("{ cube { events { nope } } }", json!({})),
        ("{ cube { events { at } } }", json!({})),
        ("{ cube { events { count { x } } } }", json!({})),
        ("{ cube(limit: \"x\") { events { count } } }", json!({})),
        ("{ cube(where: {events: {kind: {like: 1}}}) { events { count } } }", json!({})),
        ("query Q($n: Int!) { cube(limit: $n) { events { count } } }", json!({})),
        ("{ cube { events(orderBy: {count: up}) { count } } }", json!({})),
        ("mutation { cube { events { count } } }", json!({})),
        ("subscription { cube { events { count } } }", json!({})),
    ] {
        let reply = ask(&server, document, &variables);
        let body = reply.value();
        assert_eq!(reply.status, 400, "{document}: {body}");
        assert!(body["errors"][0]["message"].is_string() && body.get("data").is_none(), "{document}: {body}");
    }
    let reply = ask(&server, "{ cube { events { nope } } }", &json!({}));
    assert_eq!(reply.value()["errors"][0]["locations"], json!([{"line": 1, "column": 19}]), "{}", reply.body);
    for request in [json!({}), json!({"query": ""}), json!({"query": 7})] {
        let reply = server.post(GRAPHQL, &request);
        assert_eq!(
            (reply.status, reply.value()),
            (400, json!({"errors": [{"message": "Must provide query string."}]}))
        );
    }
    let reply = ask(&server, "{ cube { events { count } } }", &json!([1]));
    assert_eq!(reply.value()["errors"][0]["message"], json!("Variables must be an object."));

    // What the query is refused for is an error of execution: `cube` may not be null.
    for (document, message) in [
        ("{ cube(limit: 50001) { events { count } } }", "Error: The query limit has been exceeded."),
        (
            "{ cube(timezone: \"Mars\") { events { count } } }",
            "Invalid query format: \"timezone\" must be a valid IANA time zone, got \"Mars\"",
        ),
        (
            "{ cube { events { __typename } } }",
            "Query should contain either measures, dimensions or timeDimensions with granularities in order to be valid",
        ),
        ("{ cube { odd_things { last_at { day } } } }", "'Odd_things.last_at' is a measure: it has a value and no day"),
    ] {
        let reply = ask(&server, document, &json!({}));
        let expected = json!({"errors": [{"message": message, "locations": [{"line": 1, "column": 3}], "path": ["cube"]}],
            "data": null});
        assert_eq!((reply.status, reply.value()), (500, expected), "{document}");
    }
    server.assert_alive();
}

const INTROSPECTION: &str =
    "query IntrospectionQuery { __schema { queryType { name } mutationType { name } types { ...FullType }
  directives { name locations args { ...InputValue } } } }
  fragment FullType on __Type { kind name description fields(includeDeprecated: true) { name description
    args { ...InputValue } type { ...TypeRef } isDeprecated deprecationReason } inputFields { ...InputValue }
    interfaces { ...TypeRef } enumValues(includeDeprecated: true) { name } possibleTypes { ...TypeRef } }
  fragment InputValue on __InputValue { name description type { ...TypeRef } defaultValue }
  fragment TypeRef on __Type { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name
    ofType { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name } } } } } } } } } }";

/// A type as GraphQL writes it.
fn written(kind: &Value) -> String {
    match kind["kind"].as_str() {
        Some("NON_NULL") => format!("{}!", written(&kind["ofType"])),
        Some("LIST") => format!("[{}]", written(&kind["ofType"])),
        _ => kind["name"].as_str().unwrap_or_default().to_owned(),
    }
}

/// The types of the schema.
fn types() -> Vec<Value> {
    let (_project, server) = started();
    data(&server, INTROSPECTION)["__schema"]["types"].as_array().expect("types").clone()
}

/// The entries of a list of a type, as `name: type`.
#[track_caller]
fn entries(list: &Value) -> String {
    let list = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    let entry = |field: &Value| format!("{}: {}", field["name"].as_str().unwrap_or_default(), written(&field["type"]));
    list.iter().map(entry).collect::<Vec<_>>().join(", ")
}

#[test]
fn the_schema_is_made_from_the_model() {
    let types = types();
    let find =
        |name: &str| types.iter().find(|found| found["name"] == name).unwrap_or_else(|| panic!("no type {name}"));
    for (name, list, expected) in [
        ("Query", "fields", "cube: [Result!]!"),
        ("Result", "fields", "events: EventsMembers!, odd_things: OddThingsMembers!, visits: VisitsMembers!"),
        (
            "OddThingsMembers",
            "fields",
            "count: Float, last_at: TimeDimension, id: Float, price: Float, flag: String, at: TimeDimension, name: String",
        ),
        (
            "TimeDimension",
            "fields",
            "value: DateTime, second: DateTime, minute: DateTime, hour: DateTime, day: DateTime, week: DateTime, \
             month: DateTime, quarter: DateTime, year: DateTime",
        ),
        (
            "VisitsWhereInput",
            "inputFields",
            "AND: [VisitsWhereInput!], OR: [VisitsWhereInput!], count: FloatFilter, at: DateTimeFilter",
        ),
        ("VisitsOrderByInput", "inputFields", "count: OrderBy, at: OrderBy"),
        (
            "FloatFilter",
            "inputFields",
            "equals: Float, notEquals: Float, gt: Float, gte: Float, lt: Float, lte: Float, in: [Float], notIn: [Float], \
             set: Boolean",
        ),
        (
            "StringFilter",
            "inputFields",
            "equals: String, notEquals: String, in: [String], notIn: [String], contains: [String], \
             notContains: [String], startsWith: [String], notStartsWith: [String], endsWith: [String], \
             notEndsWith: [String], set: Boolean",
        ),
        (
            "DateTimeFilter",
            "inputFields",
            "beforeDate: String, beforeOrOnDate: String, afterDate: String, afterOrOnDate: String, equals: [String], \
             notEquals: [String], in: [String], notIn: [String], inDateRange: [String], notInDateRange: [String], \
             set: Boolean",
        ),
    ] {
        assert_eq!(entries(&find(name)[list]), expected, "{name}");
    }
    let arguments = "where: RootWhereInput, limit: Int, offset: Int, timezone: String, renewQuery: Boolean, cache: String, \
                     ungrouped: Boolean, orderBy: RootOrderByInput";
    assert_eq!(entries(&find("Query")["fields"][0]["args"]), arguments);
    let things = find("OddThingsMembers");
    assert_eq!(things["description"], json!("Things of every kind"));
    assert_eq!(things["fields"][3]["description"], json!("What it costs"));
}

const GUARDED: &str = "
cubes:
  - name: guarded
    sql_table: events
    dimensions: [{name: id, sql: id, type: number, primary_key: true}, {name: kind, sql: kind, type: string},
      {name: generation, sql: generation, type: number}]
    measures: [{name: count, type: count}]
    access_policy:
      - group: '*'
        conditions: [{if: '{ securityContext.kind }'}]
        member_level: {includes: [count, kind]}
        row_level:
          filters: [{member: kind, operator: equals, values: ['{ securityContext.kind }']}]
      - group: boss
        row_level: {allow_all: true}
";

#[test]
fn policies_decide_what_there_is_and_which_rows_are_seen() {
    let project = events_project(&["2024-01"], 10);
    project.write("model/guarded.yml", GUARDED);
    let server = Server::start(&project);
    let run = |claims: Value, document: &str| {
        let token = sign(&claims, SECRET);
        server.call("POST", GRAPHQL).token(&token).json(&json!({ "query": document })).send()
    };
    let (clicks, boss, nobody) = (json!({"kind": "click"}), json!({"groups": ["boss"]}), json!({}));
    let members = "{ __type(name: \"GuardedMembers\") { fields { name } } }";
    let names = |claims: &Value| -> Vec<String> {
        let fields = run(claims.clone(), members).value()["data"]["__type"]["fields"].clone();
        let fields = fields.as_array().cloned().unwrap_or_default();
        fields.iter().map(|field| field["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    for _ in 0..2 {
        assert_eq!(names(&clicks), ["count", "kind"]);
        assert_eq!(names(&boss), ["count", "kind", "generation"]);
        assert_eq!(names(&nobody), Vec::<String>::new());
    }
    let count = "{ cube { guarded { count } } }";
    let counted = |reply: &Reply| reply.value()["data"]["cube"][0]["guarded"]["count"].clone();
    assert_eq!(counted(&run(clicks.clone(), count)), json!(4));
    assert_eq!(counted(&run(boss.clone(), count)), json!(10));
    assert_eq!(run(nobody, count).status, 400, "there is no such field for them");
    // Neither a condition nor an order reaches what is hidden, and no condition widens the rows.
    for hidden in [
        "{ cube { guarded { count generation } } }",
        "{ cube(where: {guarded: {generation: {gt: 0}}}) { guarded { count } } }",
        "{ cube { guarded(orderBy: {generation: asc}) { count } } }",
        "{ cube(where: {guarded: {OR: [{generation: {set: true}}]}}) { guarded { count } } }",
    ] {
        let reply = run(clicks.clone(), hidden);
        assert_eq!(reply.status, 400, "{hidden}: {}", reply.body);
        assert_eq!(run(boss.clone(), hidden).status, 200, "{hidden}");
    }
    let widened = "{ cube(where: {OR: [{guarded: {kind: {set: true}}}, {guarded: {kind: {set: false}}}]}) { guarded { count } } }";
    assert_eq!(counted(&run(clicks.clone(), widened)), json!(4));
    let others = "{ cube(where: {guarded: {kind: {equals: \"view\"}}}) { guarded { count } } }";
    assert_eq!(counted(&run(clicks, others)), json!(0));
}

#[test]
fn deep_and_huge_documents_are_refused_quickly() {
    use std::fmt::Write as _;
    let (_project, server) = started();
    let mut bomb = "{ ...f0 }".to_owned();
    for level in 0..40 {
        write!(bomb, " fragment f{level} on Query {{ ...f{next} ...f{next} }}", next = level + 1).expect("a text");
    }
    bomb.push_str(" fragment f40 on Query { __typename }");
    let queries: String = (0..101).fold(String::new(), |mut text, at| {
        write!(text, "q{at}: cube {{ events {{ count }} }} ").expect("a text");
        text
    });
    for (what, document) in [
        ("braces", "{a".repeat(100_000)),
        ("lists", format!("{{ cube(where: {{AND: {}", "[".repeat(100_000))),
        ("conditions", format!("{{ cube(where: {}", "{OR:".repeat(100_000))),
        ("a long text", format!("{{ cube {{ events {{ count }} }} }} #{}", " ".repeat(2 << 20))),
        ("fragments", bomb),
        ("a circle", "{ ...a } fragment a on Query { ...b } fragment b on Query { ...a }".to_owned()),
        ("fields", format!("{{ {} }}", "__typename ".repeat(10_000))),
        (
            "the schema of the schema",
            "{ __schema { types { fields { type { fields { type { fields { name } } } } } } } }".to_owned(),
        ),
        ("queries", format!("{{ {queries} }}")),
    ] {
        let began = Instant::now();
        let reply = ask(&server, &document, &json!({}));
        let took = began.elapsed();
        assert_eq!(reply.status, 400, "{what}: {}", reply.body);
        assert!(reply.value()["errors"][0]["message"].is_string(), "{what}");
        assert!(took < Duration::from_secs(1), "{what} took {took:?}");
    }
    let values: Vec<String> = (0..5000).map(|value| format!("\"{value}\"")).collect();
    let long =
        format!("{{ cube(where: {{events: {{kind: {{in: [{}]}}}}}}) {{ events {{ count }} }} }}", values.join(","));
    assert_eq!(data(&server, &long), json!({"cube": [{"events": {"count": 0}}]}), "long lists of values are no fault");
    server.assert_alive();
}
