//! The API's description (OpenAPI 3.1), put together from the route table and `shapes.json`, and a page that shows it.
//!
//! The table says which endpoints there are and who may use them; the file says what goes in and comes out. A test fails
//! for an endpoint that the file does not describe.

use std::sync::OnceLock;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Response, StatusCode, header};
use serde_json::{Map, Value, json};

use super::error::{html_response, json_response};
use super::{Access, ApiParts, BASE_PATH, ROUTES, Route};

/// What goes in and comes out, by method and path; the schemas that this is told with.
const SHAPES: &str = include_str!("shapes.json");
/// Lists operations, their parameters and schemas, and sends requests. Loads nothing from elsewhere.
const PAGE: &str = include_str!("page.html");
/// The page may talk to this server alone, and be shown in no frame.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                           connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /v1/openapi.json`.
pub(super) fn document(parts: &ApiParts) -> Response<Body> {
    static TEXT: OnceLock<String> = OnceLock::new();
    // One process has one base path.
    let text = TEXT.get_or_init(|| describe(&parts.options.base_path, &|route| route.is_there(parts)).to_string());
    json_response(StatusCode::OK, text.clone())
}

/// `GET /quarry/docs`.
pub(super) fn page(parts: &ApiParts) -> Response<Body> {
    let place = format!("{}/v1/openapi.json", parts.options.base_path);
    let mut response = html_response(StatusCode::OK, PAGE.replace("OPENAPI_PLACE", &place));
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    response
}

/// The document of those endpoints that are there; `base` stands for [`BASE_PATH`].
fn describe(base: &str, is_there: &dyn Fn(&Route) -> bool) -> Value {
    let shapes: Value = serde_json::from_str(SHAPES).unwrap_or_default();
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES.iter().filter(|route| is_there(route)) {
        let path = route.path.strip_prefix(BASE_PATH).map_or(route.path.to_owned(), |rest| format!("{base}{rest}"));
        let entry = paths.entry(path).or_insert_with(|| json!({}));
        for method in route.methods {
            let shape = &shapes["operations"][key(method, route.path)];
            entry[method.as_str().to_ascii_lowercase()] = operation(method, route.path, route.access, shape);
        }
    }
    let scopes = "HS256, or what the settings say. `Bearer` may stand before it. Scopes come from the settings, or from \
                  `contextToApiScopes`.";
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Quarry",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Cube's REST and Orchestration API over pre-aggregated data. Paths below `/quarry` are our own.",
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "Queries"}, {"name": "Model"}, {"name": "Rollups"}, {"name": "Server"}, {"name": "Operators"},
        ],
        "paths": paths,
        "components": {
            "schemas": shapes["schemas"],
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "Authorization", "description": scopes},
                "operator": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "HS256, signed with `CUBEJS_PLAYGROUND_AUTH_SECRET`.",
                },
            },
        },
    })
}

fn key(method: &Method, path: &str) -> String {
    format!("{method} {path}")
}

fn operation(method: &Method, path: &str, access: Access, shape: &Value) -> Value {
    let mut operation = Map::new();
    operation.insert("operationId".to_owned(), json!(operation_id(method, path)));
    operation.insert("tags".to_owned(), json!([shape["tag"]]));
    for name in ["summary", "description"] {
        operation.extend(shape.get(name).map(|value| (name.to_owned(), value.clone())));
    }
    let mut parameters: Vec<Value> = shape["parameters"].as_array().cloned().unwrap_or_default();
    if path.contains("{name}") {
        let schema = json!({"type": "string", "minLength": 1, "pattern": "^[^/]+$"});
        parameters.insert(0, json!({"name": "name", "in": "path", "required": true, "schema": schema}));
    }
    if !parameters.is_empty() {
        operation.insert("parameters".to_owned(), json!(parameters));
    }
    if let Some(body) = shape.get("body") {
        let mut content = json!({"schema": body["schema"]});
        if let Some(example) = body.get("example") {
            content["example"] = example.clone();
        }
        let required = body.get("optional").is_none();
        let body = json!({"required": required, "content": {"application/json": content}});
        operation.insert("requestBody".to_owned(), body);
    }
    operation.insert("responses".to_owned(), responses(method, access, shape));
    let security = if access == Access::Public {
        json!([])
    } else if access == Access::Operator {
        json!([{"operator": []}])
    } else {
        json!([{"token": []}])
    };
    operation.insert("security".to_owned(), security);
    if let Access::Scoped(scope) = access {
        operation.insert("x-scope".to_owned(), json!(scope.as_str()));
    }
    Value::Object(operation)
}

/// `GET /cubejs-api/v1/entities/{name}` → `getCubejsApiV1EntitiesName`.
fn operation_id(method: &Method, path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let upper = words.map(|word| format!("{}{}", word[..1].to_ascii_uppercase(), &word[1..]));
    format!("{}{}", method.as_str().to_ascii_lowercase(), upper.collect::<String>())
}

fn responses(method: &Method, access: Access, shape: &Value) -> Value {
    let answer = &shape["answer"];
    let content = match answer["type"].as_str() {
        // Several values in lines, which no schema describes.
        Some(kind @ "application/json") => json!({kind: {}}),
        Some(kind) => json!({kind: {"schema": {"type": "string"}}}),
        None => json!({"application/json": {"schema": answer["schema"]}}),
    };
    let mut all =
        Map::from_iter([("200".to_owned(), json!({"description": "What was asked for.", "content": content}))]);
    let further: Vec<u64> = shape["statuses"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    // GraphQL has a form of its own for what is wrong.
    let refused = shape["refused"].as_str().unwrap_or("Error");
    let mut add = |status: u64, description: &str| {
        let refused = if status == 413 || status == 408 { "Error" } else { refused };
        let schema = if status == 500 && access == Access::Public { "Health" } else { refused };
        let content = json!({"application/json": {"schema": {"$ref": format!("#/components/schemas/{schema}")}}});
        all.insert(status.to_string(), json!({"description": description, "content": content}));
    };
    if access != Access::Public {
        add(400, "The request is wrong; the text says what, and where.");
        add(403, "No token, a bad one, or one without the scope.");
    }
    if further.contains(&404) {
        add(404, "There is no such thing.");
    }
    if further.contains(&406) {
        add(406, "None of the formats that are accepted is there.");
    }
    if method != Method::GET {
        add(408, "The body did not arrive in time.");
    }
    if further.contains(&409) {
        add(409, "That does not fit the state that things are in.");
    }
    if method != Method::GET {
        add(413, "The body is longer than allowed.");
    }
    if access != Access::Public || further.contains(&500) {
        add(
            500,
            if access == Access::Public {
                "Something is not there."
            } else {
                "A fault of the server, or a hidden member."
            },
        );
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described() {
        let shapes: Value = serde_json::from_str(SHAPES).expect("shapes.json is JSON");
        let described: Vec<&String> = shapes["operations"].as_object().expect("operations").keys().collect();
        let keys: Vec<String> =
            ROUTES.iter().flat_map(|route| route.methods.iter().map(|method| key(method, route.path))).collect();
        let missing: Vec<&String> = keys.iter().filter(|key| !described.contains(key)).collect();
        assert!(missing.is_empty(), "shapes.json does not describe {missing:?}");
        let document = describe(BASE_PATH, &|_| true);
        for (path, operations) in document["paths"].as_object().expect("paths") {
            for (method, operation) in operations.as_object().expect("operations") {
                assert!(operation["summary"].is_string() && operation["tags"][0].is_string(), "{method} {path}");
            }
        }
    }

    #[test]
    fn every_schema_that_is_named_is_there_and_used() {
        fn named(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    map.values().for_each(|value| named(value, found));
                }
                Value::Array(list) => list.iter().for_each(|value| named(value, found)),
                _ => {}
            }
        }
        let document = describe(BASE_PATH, &|_| true);
        let mut found = Vec::new();
        named(&document, &mut found);
        named(&serde_json::from_str(SHAPES).expect("JSON"), &mut found);
        found.push("#/components/schemas/GraphqlRefusal".to_owned());
        for reference in &found {
            let there = document.pointer(reference.trim_start_matches('#')).is_some();
            assert!(there, "{reference} is not there");
        }
        for name in document["components"]["schemas"].as_object().expect("schemas").keys() {
            assert!(found.contains(&format!("#/components/schemas/{name}")), "{name} is not used");
        }
    }

    #[test]
    fn ids_are_distinct_and_the_base_path_is_the_servers() {
        let mut ids: Vec<String> = ROUTES
            .iter()
            .flat_map(|route| route.methods.iter().map(|method| operation_id(method, route.path)))
            .collect();
        let all = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all);
        let moved = describe("/api", &|_| true);
        assert!(moved["paths"]["/api/v1/load"]["get"].is_object() && moved["paths"]["/cubejs-api/v1/load"].is_null());
        assert!(moved["paths"]["/quarry/v1/jobs"]["post"].is_object());
    }
}
