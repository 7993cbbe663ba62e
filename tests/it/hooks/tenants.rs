//! Several models, contexts and zones: `contextToAppId`, `contextToOrchestratorId`, `schemaVersion`,
//! `preAggregationsSchema`, `scheduledRefreshContexts`, `scheduledRefreshTimeZones`.

use std::time::Duration;

use serde_json::{Value, json};

use super::{ORDERS, ask, count, project, token};
use crate::server::{ALL_SCOPES, JOBS, Project, SECRET, Server, printed, run, wait_until};

/// Each tenant has a model of its own, with rows of its own.
const MODEL: &str = "
cubes:
  - name: orders
    sql: >
      SELECT * FROM orders WHERE tenant = '{{ COMPILE_CONTEXT.securityContext.tenant | safe }}'
    title: Orders of {{ COMPILE_CONTEXT.securityContext.tenant | safe }}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: status, sql: status, type: string}
      - {name: at, sql: at, type: time}
    measures:
      - {name: count, type: count}
    pre_aggregations:
      - name: daily
        measures: [count]
        dimensions: [status]
        time_dimension: at
        granularity: day
        partition_granularity: month
";

const BY_TENANT: &str = "
  contextToAppId: ({ securityContext }) => `app_${securityContext.tenant}`,
  contextToOrchestratorId: ({ securityContext }) => `app_${securityContext.tenant}`,
";

fn tenants(more: &str) -> Project {
    let project = project(&format!("module.exports = {{ {BY_TENANT} {more} }}"));
    project.write("model/orders.yml", MODEL);
    project
}

#[test]
fn every_app_has_its_own_model() {
    let server = Server::start(&tenants(""));
    for _ in 0..2 {
        assert_eq!(count(&server, &json!({"tenant": "acme"})), "3");
        assert_eq!(count(&server, &json!({"tenant": "bond"})), "2");
    }
    let meta = |claims: Value| server.call("GET", "/cubejs-api/v1/meta").token(&token(&claims)).send().value();
    assert_eq!(meta(json!({"tenant": "acme"}))["cubes"][0]["title"], "Orders of acme");
    assert_eq!(meta(json!({"tenant": "bond"}))["cubes"][0]["title"], "Orders of bond");
    // A model that cannot be compiled for somebody is an error of theirs.
    let nobody = count(&server, &json!({"tenant": "no: body"}));
    assert!(nobody.starts_with("500 Error: Compile errors:\n"), "{nobody}");
    assert!(nobody.contains("orders.yml"), "{nobody}");
    assert_eq!(count(&server, &json!({"tenant": "acme"})), "3");
}

#[test]
fn the_models_that_are_kept_are_bounded() {
    let project = tenants("compilerCacheSize: 2");
    let server = Server::start(&project);
    let title = |tenant: &str| {
        let reply = server.call("GET", "/cubejs-api/v1/meta").token(&token(&json!({ "tenant": tenant }))).send();
        reply.value()["cubes"][0]["title"].as_str().unwrap_or_default().to_owned()
    };
    for tenant in ["acme", "bond", "cora", "bond"] {
        assert_eq!(title(tenant), format!("Orders of {tenant}"));
    }
    project.write("model/orders.yml", &MODEL.replace("Orders of", "New orders of"));
    // The oldest went for the third one, and is compiled anew; the others stay as they were compiled.
    assert_eq!(title("bond"), "Orders of bond");
    assert_eq!(title("acme"), "New orders of acme");
    assert_eq!(title("bond"), "Orders of bond");
    assert_eq!(title("cora"), "New orders of cora");
}

#[test]
fn models_are_kept_for_a_time() {
    let project = tenants("maxCompilerCacheKeepAlive: 1");
    let server = Server::start(&project);
    assert_eq!(count(&server, &json!({"tenant": "acme"})), "3");
    project.write("model/orders.yml", &MODEL.replace("WHERE tenant", "WHERE tenant <>").replace("<> =", "<>"));
    assert_eq!(count(&server, &json!({"tenant": "acme"})), "2");
}

#[test]
fn a_new_version_of_the_schema_is_a_new_model() {
    let project = project(
        "module.exports = { schemaVersion: ({ securityContext }) => securityContext.version,
           preAggregationsSchema: ({ securityContext }) => `aggregates_${securityContext.version}` }",
    );
    project.write("model/orders.yml", &MODEL.replace("{{ COMPILE_CONTEXT.securityContext.tenant | safe }}", "acme"));
    let server = Server::start(&project);
    assert_eq!(count(&server, &json!({"version": 1})), "3");
    project.write("model/orders.yml", &MODEL.replace("{{ COMPILE_CONTEXT.securityContext.tenant | safe }}", "bond"));
    assert_eq!(count(&server, &json!({"version": 1})), "3");
    assert_eq!(count(&server, &json!({"version": "2"})), "2");
    assert_eq!(count(&server, &json!({"version": 1})), "3");
    assert_eq!(count(&server, &json!({})), "500 Error: schemaVersion of cube.js gave nothing, not a string");
}

#[test]
fn ids_that_make_no_sense_are_errors() {
    let server = Server::start(&project(
        "module.exports = { contextToAppId: async ({ securityContext: { id } }) => { if (id === 'throw') throw new Error('no app'); return id; } }",
    ));
    for (id, expected) in [
        (json!("a"), "5"),
        (json!(7), "5"),
        (json!("throw"), "500 Error: no app"),
        (Value::Null, "500 Error: contextToAppId of cube.js gave nothing, not a string"),
        (json!({"a": 1}), "500 Error: contextToAppId of cube.js gave {\"a\":1}, not a string"),
    ] {
        assert_eq!(count(&server, &json!({ "id": id })), expected, "{id}");
    }
}

#[test]
fn jobs_are_of_the_model_of_their_context() {
    let project = tenants("preAggregationsSchema: ({ securityContext }) => `of_${securityContext.tenant}`,");
    let server = Server::start_with(&project, &[("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES)]);
    let claims = json!({"tenant": "acme"});
    let post = |body: Value| server.call("POST", JOBS).token(&token(&claims)).json(&body).send();
    let contexts = json!([{"securityContext": {"tenant": "acme"}}, {"securityContext": {"tenant": "bond"}}]);
    let reply = post(json!({"action": "post", "selector": {"contexts": contexts, "timezones": ["UTC"]}}));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let tokens: Vec<String> = serde_json::from_str(&reply.body).expect("tokens");
    assert_eq!(tokens.len(), 4, "two months of each");
    wait_until("all jobs to end", Duration::from_secs(60), || {
        let entries = post(json!({"action": "get", "tokens": tokens})).value();
        let statuses: Vec<&str> =
            entries.as_array().into_iter().flatten().filter_map(|entry| entry["status"].as_str()).collect();
        assert!(!statuses.iter().any(|status| status.starts_with("failure")), "{entries}");
        statuses.iter().all(|status| *status == "done").then_some(())
    });
    let query = json!({"measures": ["orders.count"], "timeDimensions":
        [{"dimension": "orders.at", "granularity": "month", "dateRange": ["2024-01-01", "2024-02-29"]}]});
    for (tenant, counts) in [("acme", ["2", "1"]), ("bond", ["1", "1"])] {
        let answer = ask(&server, &json!({ "tenant": tenant }), &query).value();
        let found: Vec<&Value> =
            answer["data"].as_array().into_iter().flatten().map(|row| &row["orders.count"]).collect();
        assert_eq!(found, counts, "{tenant}");
        let used = &answer["usedPreAggregations"][format!("of_{tenant}.orders_daily")];
        assert!(used.is_object(), "{tenant}: {answer}");
    }
    let reply = post(json!({"action": "post", "selector":
        {"contexts": [{"securityContext": {"tenant": "no: body"}}], "timezones": ["UTC"]}}));
    assert!(reply.status == 500 && reply.error().starts_with("Error: Compile errors:"), "{}", reply.body);
}

/// Rollups of one name, one of each tenant: builds and garbage of the one leave those of the other alone.
#[test]
fn conformance_40_tenants_keep_tables_of_their_own() {
    let project = tenants("");
    let server = Server::start_with(&project, &[("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES)]);
    let call = |path: &str, body: &Value| {
        let reply = server.call("POST", path).token(&token(&json!({"tenant": "acme"}))).json(body).send();
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.value()
    };
    let build = |tenant: &str| {
        let selector = json!({"contexts": [{"securityContext": {"tenant": tenant}}], "timezones": ["UTC"]});
        let tokens = call(JOBS, &json!({"action": "post", "selector": selector}));
        wait_until("all jobs to end", Duration::from_secs(60), || {
            let entries = call(JOBS, &json!({"action": "get", "tokens": tokens}));
            entries.as_array().into_iter().flatten().all(|entry| entry["status"] == "done").then_some(())
        });
    };
    let answer = |tenant: &str| {
        let query = json!({"measures": ["orders.count"], "dimensions": ["orders.status"]});
        let answer = ask(&server, &json!({ "tenant": tenant }), &query).value();
        assert!(answer["usedPreAggregations"].is_object(), "{tenant}: {answer}");
        (answer["data"].clone(), answer["lastRefreshTime"].clone())
    };
    build("acme");
    build("bond");
    let (acme, bond) = (answer("acme"), answer("bond"));
    assert_ne!(acme.0, bond.0);
    for _ in 0..3 {
        build("acme");
        call("/quarry/v1/gc", &json!({}));
        assert_eq!(answer("bond"), bond, "neither rebuilt nor collected");
    }
    assert_eq!(answer("acme").0, acme.0);
    assert!(answer("acme").1 != acme.1, "built again");
}

#[test]
fn the_background_builds_for_every_context_in_its_zones() {
    let project = tenants(
        "scheduledRefreshContexts: async () => [{ securityContext: { tenant: 'acme' } }, { securityContext: { tenant: 'bond' } },
           { securityContext: { tenant: 'no: body' } }],
         scheduledRefreshTimeZones: ({ securityContext }) => securityContext.tenant === 'acme' ? ['America/New_York'] : [],
         scheduledRefreshTimer: 1,",
    );
    let server = Server::start(&project);
    let used = |tenant: &str, zone: &str| {
        let query = json!({"measures": ["orders.count"], "timezone": zone, "timeDimensions":
            [{"dimension": "orders.at", "granularity": "month", "dateRange": ["2024-01-01", "2024-02-29"]}]});
        let answer = ask(&server, &json!({ "tenant": tenant }), &query).value();
        answer["usedPreAggregations"].is_object()
    };
    wait_until("the rollup of acme", Duration::from_secs(60), || used("acme", "America/New_York").then_some(()));
    wait_until("the rollup of bond", Duration::from_secs(60), || used("bond", "UTC").then_some(()));
    assert!(!used("acme", "Asia/Tokyo") && !used("bond", "America/New_York"), "days of other zones are not stored");
    assert!(server.log().contains("the background cannot build for a context"), "{}", server.log());
}

#[test]
fn zones_of_a_list_are_stronger_than_those_of_the_environment() {
    let project =
        project("module.exports = { scheduledRefreshTimeZones: ['America/New_York'], scheduledRefreshTimer: 1 }");
    project.write(
        "model/orders.yml",
        &MODEL
            .replace("WHERE tenant = '{{ COMPILE_CONTEXT.securityContext.tenant | safe }}'", "")
            .replace("{{ COMPILE_CONTEXT.securityContext.tenant | safe }}", "all"),
    );
    let server = Server::start_with(&project, &[("CUBEJS_SCHEDULED_REFRESH_TIMEZONES", "Asia/Tokyo")]);
    let used = |zone: &str| {
        let query = json!({"measures": ["orders.count"], "timezone": zone, "timeDimensions":
            [{"dimension": "orders.at", "granularity": "day", "dateRange": ["2024-01-01", "2024-02-29"]}]});
        ask(&server, &json!({}), &query).value()["usedPreAggregations"].is_object()
    };
    wait_until("the rollup", Duration::from_secs(60), || used("America/New_York").then_some(()));
    assert!(!used("Asia/Tokyo"));
}

#[test]
fn contexts_that_make_no_sense_cost_the_background_and_not_the_server() {
    for (hook, expected) in [
        ("() => { throw new Error('no contexts') }", "no contexts"),
        ("() => 'all'", "not a list of contexts"),
        ("() => { for (;;) {} }", "did not end within 1 s"),
    ] {
        let project =
            project(&format!("module.exports = {{ scheduledRefreshContexts: {hook}, scheduledRefreshTimer: 1 }}"));
        let server = Server::start_with(&project, &[("QUARRY_HOOK_TIMEOUT", "1")]);
        wait_until("the warning", Duration::from_secs(60), || server.log().contains(expected).then_some(()));
        assert_eq!(count(&server, &json!({})), "5");
    }
}

#[test]
fn sources_of_tenants_are_not_mixed_up() {
    let project =
        tenants("driverFactory: ({ securityContext }) => ({ type: 'postgres', database: securityContext.tenant })");
    project.write("data/orders.csv", ORDERS);
    let output = run(project.path(), &[("CUBEJS_API_SECRET", SECRET)], &["serve", "--port", "0"]);
    let text = printed(&output);
    assert!(!output.status.success() && text.contains("\"driverFactory\" beside contextToOrchestratorId"), "{text}");
}
