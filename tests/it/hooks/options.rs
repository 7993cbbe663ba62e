//! Options of `cube.js` that are values: they overrule the environment.

use std::time::Duration;

use serde_json::json;

use super::{MODEL, ask, count, counted, project};
use crate::server::{LOAD, SECRET, Server, printed, run, sign, wait_until};

#[test]
fn options_are_stronger_than_the_environment_and_weaker_than_flags() {
    let project = project(
        "module.exports = {
           schemaPath: process.env.SCHEMAS,
           jwt: { key: 'a key of cube.js', issuer: ['us'] },
           allowUngroupedWithoutPrimaryKey: false,
           orchestratorOptions: { rollupOnlyMode: false },
           telemetry: false,
           semanticLayerSync: () => [],
         }",
    );
    project.write("models/orders.yml", &MODEL.replace("name: orders", "name: moved"));
    let settings = [
        ("SCHEMAS", "models"),
        ("CUBEJS_SCHEMA_PATH", "model"),
        ("CUBEJS_JWT_KEY", "another key"),
        ("CUBEJS_ROLLUP_ONLY", "true"),
    ];
    let server = Server::start_with(&project, &settings);
    let query = json!({"query": {"measures": ["moved.count"]}});
    let with = |claims, secret: &str| server.call("POST", LOAD).token(&sign(&claims, secret)).json(&query).send();
    let reply = with(json!({"iss": "us"}), "a key of cube.js");
    assert_eq!((reply.status, &reply.value()["data"][0]["moved.count"]), (200, &json!("5")), "{}", reply.body);
    for (claims, secret) in
        [(json!({"iss": "us"}), "another key"), (json!({"iss": "us"}), SECRET), (json!({}), "a key of cube.js")]
    {
        assert_eq!(with(claims, secret).error(), "Invalid token", "{secret}");
    }
    let raw = json!({"query": {"dimensions": ["moved.status"], "ungrouped": true}});
    let reply = server.call("POST", LOAD).token(&sign(&json!({"iss": "us"}), "a key of cube.js")).json(&raw).send();
    assert!(reply.error().contains("Ungrouped query requires primary keys"), "{}", reply.body);
    assert!(server.log().contains("semanticLayerSync have no effect"), "{}", server.log());
    assert!(!server.log().contains("telemetry"), "{}", server.log());
}

#[test]
fn the_api_moves_with_its_base_path() {
    let server = Server::start(&project("module.exports = { basePath: '/api/' }"));
    let query = json!({"query": {"measures": ["orders.count"]}});
    let post = |path: &str| server.post(path, &query);
    assert_eq!(counted(&post("/api/v1/load")), "5");
    assert_eq!(post(LOAD).status, 404);
    assert_eq!(server.get("/api/v1/meta").status, 200);
    assert_eq!(server.get("/cubejs-api/v1/meta").status, 404);
    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(server.get("/quarry/v1/jobs").error(), "API scope is missing: jobs");
}

#[test]
fn code_of_the_project_is_used_as_it_is() {
    let project = project(
        "const path = require('./lib');
         import { column } from './lib/columns';
         export default { queryRewrite: (query) => { console.log('rewriting', query.measures); return path.add(query, column); } }",
    );
    project.write("lib/index.js", "exports.add = (query, dimension) => ({ ...query, dimensions: [dimension] });");
    project.write("lib/columns.js", "export const column = 'orders.tenant';");
    let server = Server::start(&project);
    let reply = ask(&server, &json!({}), &json!({"measures": ["orders.count"]}));
    assert_eq!(reply.value()["data"][0]["orders.tenant"], "acme", "{}", reply.body);
    assert!(server.log().contains("rewriting"), "{}", server.log());
    assert_eq!(count(&server, &json!({})), "3");
}

#[test]
fn cross_origin_requests_are_those_of_the_options() {
    let server = Server::start_with(
        &project(
            "module.exports = { http: { cors: { origin: ['https://app.example.com'], credentials: true, maxAge: 600,
               allowedHeaders: 'authorization,x-own', methods: ['GET', 'POST'] } } }",
        ),
        &[("QUARRY_CORS_ORIGINS", "https://other.example.com")],
    );
    let preflight = |origin: &str| {
        let call = server.call("OPTIONS", LOAD).header("origin", origin);
        call.header("access-control-request-method", "POST").send()
    };
    let reply = preflight("https://app.example.com");
    let header = |name: &str| reply.header(name).unwrap_or_default();
    assert_eq!(reply.status, 204);
    assert_eq!(header("access-control-allow-origin"), "https://app.example.com");
    assert_eq!(header("access-control-allow-credentials"), "true");
    assert_eq!(header("access-control-max-age"), "600");
    assert_eq!(header("access-control-allow-headers"), "authorization,x-own");
    assert_eq!(header("access-control-allow-methods"), "GET,POST");
    let refused = preflight("https://other.example.com");
    assert_eq!(refused.header("access-control-allow-origin"), None);
}

#[test]
fn the_logger_is_told_and_changes_nothing() {
    let server = Server::start(&project(
        "module.exports = { logger: (message, params) => {
           console.warn(message, params.method, params.path, params.status);
           throw new Error('no log');
         } }",
    ));
    assert_eq!(count(&server, &json!({})), "5");
    let line = "REST API Request POST /cubejs-api/v1/load 200";
    wait_until("the logger's line", Duration::from_secs(10), || server.log().contains(line).then_some(()));
    assert_eq!(count(&server, &json!({})), "5");
}

#[test]
fn options_of_the_orchestrator_may_be_a_function() {
    let options = "async () => ({ rollupOnlyMode: true, continueWaitTimeout: 5 })";
    let server = Server::start(&project(&format!("module.exports = {{ orchestratorOptions: {options} }}")));
    let refused = count(&server, &json!({}));
    assert!(refused.starts_with("400 ") && refused.contains("No pre-aggregation"), "{refused}");
    let by_caller = "({ securityContext }) => ({ rollupOnlyMode: securityContext.strict })";
    let server = Server::start(&project(&format!("module.exports = {{ orchestratorOptions: {by_caller} }}")));
    assert_eq!(count(&server, &json!({})), "5");
    assert!(server.log().contains("orchestratorOptions have no effect"), "{}", server.log());
}

/// What `driverFactory` gives decides where a data source lies; what this version does not have is told.
#[test]
fn a_driver_factory_chooses_the_folder_of_a_data_source() {
    let project = project(
        "module.exports = {
           driverFactory: ({ dataSource, securityContext }) =>
             dataSource === 'archive' ? { type: 'files', path: `data/${process.env.ARCHIVE}` } : { type: process.env.KIND },
         }",
    );
    let old = MODEL.replace("name: orders", "name: old").replace("sql_table:", "data_source: archive\n    sql_table:");
    project.write("model/old.yml", &old);
    project.write("data/years/orders.csv", "id,status,amount\n1,open,1\n2,open,2\n");
    let settings = [("ARCHIVE", "years"), ("KIND", "files")];
    let server = Server::start_with(&project, &settings);
    let both = |server: &Server| {
        ["orders", "old"].map(|cube| {
            let reply = server.post(LOAD, &json!({"query": {"measures": [format!("{cube}.count")]}}));
            reply.value()["data"][0][format!("{cube}.count")].as_str().map(str::to_owned)
        })
    };
    assert_eq!(both(&server), [Some("5".to_owned()), Some("2".to_owned())]);
    drop(server);
    // A type that is not there is told of, and leaves the others alone.
    let settings = [("ARCHIVE", "years"), ("KIND", "postgres"), ("CUBEJS_API_SECRET", SECRET)];
    let server = Server::start_with(&project, &settings);
    assert_eq!(both(&server), [Some("5".to_owned()), Some("2".to_owned())]);
    let told = "driverFactory gives postgres for the data source 'default'";
    assert!(server.log().contains(told), "{}", server.log());
    drop(server);
    let checked = run(project.path(), &settings, &["check"]);
    assert!(checked.status.success() && printed(&checked).contains(told), "{}", printed(&checked));
    // Nobody is served from another folder than the one that was meant.
    let settings = [("ARCHIVE", "../.."), ("KIND", "files"), ("CUBEJS_API_SECRET", SECRET)];
    for command in [&["check"][..], &["query", "{\"measures\": [\"old.count\"]}"]] {
        let output = run(project.path(), &settings, command);
        let said = printed(&output);
        assert!(!output.status.success() && said.contains("a folder of the project"), "{command:?}: {said}");
    }
    project.write("cube.js", "module.exports = { driverFactory: () => { throw new Error('no such driver'); } }");
    let output = run(project.path(), &settings, &["serve", "--port", "0"]);
    let said = printed(&output);
    assert!(!output.status.success() && said.contains("no such driver") && said.contains("driverFactory"), "{said}");
}
