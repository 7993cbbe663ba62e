//! The API's description, and what it promises held against the server: every endpoint with every scope, and random
//! requests of another tool (Schemathesis, a Python package of the tests only).

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::events::events_project;
use crate::python::virtual_environment;
use crate::server::{ALL_SCOPES, Project, Reply, SECRET, Server, environment, root, sign, valid_token};

const PLACE: &str = "/cubejs-api/v1/openapi.json";
const SCOPES: [&str; 5] = ["meta", "data", "graphql", "sql", "jobs"];
/// Needs no token: probes, the front page, and what tells how to ask.
const PUBLIC: [&str; 5] = ["GET /", "GET /livez", "GET /readyz", "GET /cubejs-api/v1/openapi.json", "GET /quarry/docs"];

fn project() -> Project {
    events_project(&["2024-01"], 30)
}

/// An endpoint as the document has it.
#[derive(Debug)]
struct Operation {
    method: String,
    path: String,
    /// None for those without token; empty for those without scope.
    scope: Option<String>,
}

fn document(server: &Server) -> Value {
    let reply = server.call("GET", PLACE).send();
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.value()
}

/// A change of the API shows as a change of this file. `QUARRY_BLESS=1` writes it anew.
#[test]
fn the_document_is_the_recorded_one() {
    let server = Server::start(&project());
    let file = root().join("fixtures/openapi.json");
    let mut given = serde_json::to_string_pretty(&document(&server)).expect("JSON");
    given.push('\n');
    if environment("QUARRY_BLESS").is_some() {
        fs::write(&file, &given).expect("the document can be written");
    }
    let recorded = fs::read_to_string(&file).expect("the document is recorded");
    let differs = given.lines().zip(recorded.lines()).enumerate().find(|(_, (given, recorded))| given != recorded);
    assert!(
        given == recorded,
        "the document is another than fixtures/openapi.json, first at {differs:?}: if that is meant, run this test with \
         QUARRY_BLESS=1"
    );
}

fn operations(document: &Value) -> Vec<Operation> {
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let is_open = operation["security"].as_array().expect("a list").is_empty();
            let scope = operation["x-scope"].as_str().unwrap_or_default().to_owned();
            all.push(Operation {
                method: method.to_ascii_uppercase(),
                path: path.clone(),
                scope: (!is_open).then_some(scope),
            });
        }
    }
    all
}

/// A request that does no harm, with these claims, or without token.
fn ask(server: &Server, operation: &Operation, token: Option<&str>) -> Reply {
    let path = operation.path.replace("{name}", "nothing-of-that-name");
    let call = server.call(&operation.method, &path);
    let call = if operation.method == "GET" { call } else { call.json(&json!({})) };
    token.into_iter().fold(call, |call, token| call.token(token)).send()
}

/// http-api.md §3: scopes × endpoints, over the whole route table.
#[test]
fn every_endpoint_asks_for_its_scope_and_for_no_other() {
    let project = project();
    let mut settings: Vec<Option<&str>> = vec![None, Some(ALL_SCOPES), Some("nothing")];
    settings.extend(SCOPES.map(Some));
    let mut seen = 0;
    for scopes in settings {
        let server = match scopes {
            None => Server::start(&project),
            Some(scopes) => Server::start_with(&project, &[("CUBEJS_DEFAULT_API_SCOPES", scopes)]),
        };
        let granted: Vec<&str> = scopes.unwrap_or("meta,data,graphql,sql").split(',').collect();
        let contexts =
            [json!({}), json!({"scope": "jobs", "scopes": ["jobs"], "role": "admin"}), json!({"u": {"id": 1}})];
        for operation in operations(&document(&server)) {
            let name = format!("{} {}", operation.method, operation.path);
            let Some(scope) = &operation.scope else {
                assert!(PUBLIC.contains(&name.as_str()), "{name} needs no token");
                assert_eq!(ask(&server, &operation, None).status, 200, "{name}");
                continue;
            };
            let reply = ask(&server, &operation, None);
            assert_eq!((reply.status, reply.error().as_str()), (403, "Authorization header isn't set"), "{name}");
            let reply = ask(&server, &operation, Some(&sign(&json!({}), "another secret")));
            assert_eq!((reply.status, reply.error().as_str()), (403, "Invalid token"), "{name}");
            for context in &contexts {
                let reply = ask(&server, &operation, Some(&sign(context, SECRET)));
                if scope.is_empty() || granted.contains(&scope.as_str()) {
                    assert_ne!(reply.status, 403, "{name} with {scopes:?} for {context}: {}", reply.body);
                } else {
                    let expected = (403, format!("API scope is missing: {scope}"));
                    assert_eq!((reply.status, reply.error()), expected, "{name} with {scopes:?} for {context}");
                }
                seen += 1;
            }
        }
        server.assert_alive();
    }
    assert!(seen > 500, "only {seen} combinations");
}

#[test]
fn the_page_shows_the_description_and_loads_nothing_else() {
    let server = Server::start_with(&project(), &[("CUBEJS_BASE_PATH", "/api")]);
    let page = server.call("GET", "/quarry/docs").send();
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.body.contains("\"/api/v1/openapi.json\"") && !page.body.contains("OPENAPI_PLACE"), "the place");
    assert_eq!(server.call("GET", "/api/v1/openapi.json").send().status, 200);
    for foreign in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!page.body.contains(foreign), "the page refers to {foreign}");
    }
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'") && policy.contains("connect-src 'self'"), "{policy}");
}

/// Random requests after the description, good and bad: no fault of the server, and every answer as described.
#[test]
fn another_tool_finds_no_fault_with_the_description() {
    let server = Server::start_with(&project(), &[("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES)]);
    let pins = root().join("tests/checks/schemathesis/requirements.txt");
    let pins_text = fs::read_to_string(&pins).expect("the pins");
    let arguments = ["-r", pins.to_str().expect("a plain path")];
    let python = virtual_environment("schemathesis", &arguments, &pins_text);
    let seed = environment("QUARRY_SEED").unwrap_or_else(|| "1".to_owned());
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(python.with_file_name("st"))
        .current_dir(folder.path())
        .args(["--no-color", "run"])
        .arg(format!("http://127.0.0.1:{}{PLACE}", server.port()))
        .arg("--header")
        .arg(format!("Authorization: {}", valid_token()))
        .args(["--seed", &seed, "--max-examples", "25", "--max-time", "45", "--request-timeout", "20"])
        .args(["--phases", "examples,coverage,fuzzing", "--workers", "2"])
        // Methods that are not there are 404, as in Cube.
        .args(["--checks", CHECKS])
        .env("HYPOTHESIS_STORAGE_DIRECTORY", folder.path().join("hypothesis"))
        .output()
        .expect("Schemathesis can be started");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "seed {seed}:\n{said}");
    server.assert_alive();
}

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,ignored_auth";
