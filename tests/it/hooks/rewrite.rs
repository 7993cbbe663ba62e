//! `queryRewrite`: what it sees, what it may change, and where it is asked.

use serde_json::{Value, json};

use super::{ask, count, counted, project, token};
use crate::server::{LOAD, Server};

const BY_TENANT: &str = "module.exports = {
  queryRewrite: (query, { securityContext }) => {
    query.filters.push({ member: 'orders.tenant', operator: 'equals', values: [String(securityContext.tenant)] });
    return query;
  },
};";

#[test]
fn a_condition_is_added_to_every_way_of_asking() {
    let server = Server::start(&project(BY_TENANT));
    assert_eq!(count(&server, &json!({"tenant": "acme"})), "3");
    assert_eq!(count(&server, &json!({"tenant": "bond"})), "2");
    assert_eq!(count(&server, &json!({})), "0");
    let post = |path: &str, body: Value| {
        let reply = server.call("POST", path).token(&token(&json!({"tenant": "bond"}))).json(&body).send();
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        reply.value()
    };
    for sql in ["SELECT COUNT(*) FROM orders", "SELECT SUM(n) FROM (SELECT COUNT(*) AS n FROM orders) q"] {
        let asked = server.call("POST", "/cubejs-api/v1/cubesql").token(&token(&json!({"tenant": "bond"})));
        let reply = asked.json(&json!({ "query": sql })).send();
        assert!(reply.body.contains("{\"data\":[[\"2\"]]}"), "{sql}: {}", reply.body);
    }
    let condition = json!([{"member": "orders.tenant", "operator": "equals", "values": ["bond"]}]);
    let query = json!({"measures": ["orders.count"], "timeDimensions":
        [{"dimension": "orders.at", "granularity": "month", "dateRange": ["2024-01-01", "2024-02-29"]}]});
    let answer = post(LOAD, json!({ "query": query }));
    assert_eq!(answer["query"]["filters"], condition, "the echo shows the rewritten query");
    assert_eq!(answer["data"].as_array().map(Vec::len), Some(2));
    let dry = post("/cubejs-api/v1/dry-run", json!({ "query": query }));
    assert_eq!(dry["normalizedQueries"][0]["filters"], condition);
    let sql = post("/cubejs-api/v1/sql", json!({ "query": query }));
    assert!(sql["sql"]["sql"].to_string().contains("bond"), "{sql}");
    let compared = json!({"measures": ["orders.count"], "timeDimensions": [{"dimension": "orders.at",
        "compareDateRange": [["2024-01-01", "2024-01-31"], ["2024-02-01", "2024-02-29"]]}]});
    let answer = post(LOAD, json!({"query": compared, "queryType": "multi"}));
    for result in answer["results"].as_array().expect("two results") {
        assert_eq!((&result["query"]["filters"], &result["data"][0]["orders.count"]), (&condition, &json!("1")));
    }
    let blend = post(LOAD, json!({"query": [query, query], "queryType": "multi"}));
    for result in blend["results"].as_array().expect("two results") {
        assert_eq!(result["query"]["filters"], condition);
    }
}

#[test]
fn the_hook_sees_the_normalized_query() {
    let server = Server::start(&project(
        "module.exports = { queryRewrite: (query) => { throw new Error(JSON.stringify(query)) } }",
    ));
    let seen = |query: Value| -> Value {
        let error = ask(&server, &json!({}), &query).error();
        serde_json::from_str(error.strip_prefix("Error: ").expect("what was thrown")).expect("a query")
    };
    assert_eq!(
        seen(json!({"measures": ["orders.count"]})),
        json!({"measures": ["orders.count"], "dimensions": [], "timeDimensions": [], "segments": [], "filters": [],
            "limit": 10000, "timezone": "UTC"})
    );
    let query = seen(json!({
        "dimensions": ["orders.status", "orders.at.day"], "order": {"orders.status": "desc"}, "offset": 1,
        "filters": [{"member": "orders.id", "operator": "gt", "values": [2]}], "timezone": "Europe/Berlin",
        "timeDimensions": [{"dimension": "orders.at", "dateRange": "2024-01-01"}],
    }));
    assert_eq!(query["order"], json!([["orders.status", "desc"]]));
    assert_eq!(query["filters"][0]["values"], json!(["2"]));
    let range = json!(["2024-01-01T00:00:00.000", "2024-01-01T23:59:59.999"]);
    assert_eq!(query["timeDimensions"][0]["dateRange"], range);
    assert_eq!(query["timeDimensions"][1], json!({"dimension": "orders.at", "granularity": "day"}));
}

#[test]
fn everything_may_be_rewritten_and_is_checked_again() {
    let server = Server::start(&project(
        "module.exports = { queryTransformer: async (query, { securityContext }) => {
           await null;
           const change = securityContext.change;
           if (change === 'nothing') return;
           if (change === 'null') return null;
           if (change === 'text') return 'orders.count';
           return { ...query, ...change };
         } }",
    ));
    let rows = |change: Value| {
        let query = json!({"measures": ["orders.count"], "dimensions": ["orders.status"]});
        let reply = ask(&server, &json!({ "change": change }), &query);
        if reply.status == 200 {
            reply.value()["data"].to_string()
        } else {
            format!("{} {}", reply.status, reply.error())
        }
    };
    let cases = [
        (json!({}), r#"[{"orders.status":"paid","orders.count":"3"},{"orders.status":"new","orders.count":"2"}]"#),
        (json!({"limit": 1}), r#"[{"orders.status":"paid","orders.count":"3"}]"#),
        (json!({"order": [["orders.status", "asc"]], "limit": 1}), r#"[{"orders.status":"new","orders.count":"2"}]"#),
        (json!({"dimensions": []}), r#"[{"orders.count":"5"}]"#),
        (
            json!({"dimensions": [], "timeDimensions": [{"dimension": "orders.at", "dateRange": "2024-01-01"}]}),
            r#"[{"orders.count":"2"}]"#,
        ),
        (json!({"measures": ["orders.nope"]}), "400 'nope' not found for path 'orders.nope'"),
        (json!({"limit": 1_000_000}), "400 Error: The query limit has been exceeded."),
        (json!({"foo": 1}), "400 Invalid query format: \"foo\" is not allowed"),
        (json!("nothing"), "500 Error: queryTransformer of cube.js gave undefined, not a query"),
        (json!("null"), "500 Error: queryTransformer of cube.js gave null, not a query"),
        (json!("text"), "500 Error: queryTransformer of cube.js gave string, not a query"),
    ];
    for (change, expected) in cases {
        assert_eq!(rows(change.clone()), expected, "{change}");
    }
}

#[test]
fn hooks_that_do_not_end_cost_their_own_request() {
    let server = Server::start_with(
        &project(
            "const kept = [];
             module.exports = { queryRewrite: (query, { securityContext }) => {
               switch (securityContext.way) {
                 case 'loop': for (;;) {}
                 case 'eat': { const all = []; for (;;) all.push(new Array(1000).fill(all.length)); }
                 case 'keep': for (;;) kept.push(new Array(1000).fill(kept.length));
                 case 'deep': return (function deeper() { return deeper() + 1; })();
                 case 'never': return new Promise(() => {});
               }
               return query;
             } }",
        ),
        &[("QUARRY_HOOK_TIMEOUT", "1"), ("QUARRY_HOOK_MEMORY", "16mb")],
    );
    let ways = ["loop", "eat", "keep", "deep", "never"];
    std::thread::scope(|scope| {
        for way in ways.into_iter().cycle().take(15) {
            let server = &server;
            scope.spawn(move || {
                let text = count(server, &json!({ "way": way }));
                assert!(text.starts_with("500 Error: "), "{way}: {text}");
            });
        }
    });
    for way in ways {
        let text = count(&server, &json!({ "way": way }));
        assert!(text.starts_with("500 Error: queryRewrite of cube.js failed: the script "), "{way}: {text}");
        assert_eq!(count(&server, &json!({})), "5", "after {way}");
    }
    let reply =
        server.call("POST", LOAD).token(&token(&json!({}))).json(&json!({"query": {"measures": ["orders.count"]}}));
    assert_eq!(counted(&reply.send()), "5");
}
