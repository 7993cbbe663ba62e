//! Who may ask: tokens, scopes, development mode, safe start.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::events::events_project;
use crate::server::{LOAD, Project, Reply, SECRET, Server, now_seconds, printed, run, sign, sign_with, valid_token};

fn project() -> Project {
    events_project(&["2024-01"], 30)
}

fn query() -> Value {
    json!({"query": {"measures": ["events.count"]}})
}

fn ask_with(server: &Server, header: &str, value: &str) -> Reply {
    server.call("POST", LOAD).header(header, value).json(&query()).send()
}

/// Base64 for URLs, without padding.
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = (0..3).fold(0_usize, |word, index| word << 8 | usize::from(*chunk.get(index).unwrap_or(&0)));
        for position in 0..=chunk.len() {
            out.push(char::from(ALPHABET[word >> (18 - 6 * position) & 63]));
        }
    }
    out
}

/// A token that claims to need no signature.
pub(crate) fn unsigned_token() -> String {
    format!("{}.{}.", base64url(br#"{"alg":"none","typ":"JWT"}"#), base64url(br#"{"sub":"nobody"}"#))
}

#[test]
fn a_good_token_is_taken_in_every_usual_form() {
    let server = Server::start(&project());
    let token = valid_token();
    let in_an_hour = sign(&json!({"exp": now_seconds() + 3600, "nbf": now_seconds() - 60}), SECRET);
    let good = [
        ("authorization", token.clone()),
        ("authorization", format!("Bearer {token}")),
        ("authorization", format!("bearer {token}")),
        ("authorization", format!("Anything {token}")),
        ("x-cube-authorization", token.clone()),
        ("x-cube-authorization", format!("Bearer {token}")),
        ("authorization", in_an_hour),
        ("authorization", sign_with(Algorithm::HS512, &json!({}), SECRET)),
    ];
    for (header, value) in good {
        let reply = ask_with(&server, header, &value);
        assert_eq!(reply.status, 200, "{header}: {value}: {}", reply.body);
        assert_eq!(reply.value()["data"], json!([{"events.count": "30"}]));
    }
    let both = server.call("POST", LOAD).token("garbage").header("x-cube-authorization", &token).json(&query()).send();
    assert_eq!(both.status, 200, "x-cube-authorization comes first: {}", both.body);
}

#[test]
fn a_bad_token_is_refused() {
    let server = Server::start(&project());
    let (past, future) = (now_seconds() - 3600, now_seconds() + 3600);
    let mut tampered = valid_token();
    tampered.pop();
    let bad = [
        "garbage".to_owned(),
        "Bearer garbage".to_owned(),
        "Basic dTpw".to_owned(),
        "a.b.c".to_owned(),
        sign(&json!({"exp": past}), SECRET),
        sign(&json!({"nbf": future}), SECRET),
        sign(&json!({"exp": "tomorrow"}), SECRET),
        sign(&json!({}), "another secret"),
        unsigned_token(),
        tampered,
    ];
    for value in bad {
        let reply = ask_with(&server, "authorization", &value);
        assert_eq!((reply.status, reply.value()), (403, json!({"error": "Invalid token"})), "{value}");
    }
    for reply in [ask_with(&server, "authorization", ""), server.call("POST", LOAD).json(&query()).send()] {
        assert_eq!((reply.status, reply.value()), (403, json!({"error": "Authorization header isn't set"})));
    }
    for path in ["/cubejs-api/v1/meta", "/cubejs-api/v1/sql", LOAD] {
        assert_eq!(server.call("GET", path).send().status, 403, "{path}");
    }
    for path in ["/livez", "/readyz"] {
        let reply = server.call("GET", path).send();
        assert_eq!((reply.status, reply.value()), (200, json!({"health": "HEALTH"})), "{path} needs no token");
    }
}

#[test]
fn scopes_open_and_close_endpoints() {
    let project = project();
    let server = Server::start_with(&project, &[("CUBEJS_DEFAULT_API_SCOPES", "meta")]);
    assert_eq!(server.get("/cubejs-api/v1/meta").status, 200);
    let reply = server.post(LOAD, &query());
    assert_eq!((reply.status, reply.value()), (403, json!({"error": "API scope is missing: data"})));
    let reply = server.post("/cubejs-api/v1/sql", &query());
    assert_eq!((reply.status, reply.error().as_str()), (403, "API scope is missing: sql"));
    // Authentication comes before scopes.
    let reply = server.call("POST", LOAD).json(&query()).send();
    assert_eq!(reply.error(), "Authorization header isn't set");
}

#[test]
fn rotated_secrets_are_all_taken() {
    let server = Server::start_with(&project(), &[("CUBEJS_API_SECRETS", "first, second ,")]);
    for secret in ["first", "second"] {
        assert_eq!(ask_with(&server, "authorization", &sign(&json!({}), secret)).status, 200, "{secret}");
    }
    assert_eq!(ask_with(&server, "authorization", &sign(&json!({}), "third")).status, 403);
    let expired = sign(&json!({"exp": now_seconds() - 3600}), "second");
    assert_eq!(ask_with(&server, "authorization", &expired).status, 403);
}

#[test]
fn development_mode_needs_no_token() {
    let server = Server::start_with(&project(), &[("CUBEJS_DEV_MODE", "true")]);
    for reply in [
        server.call("POST", LOAD).json(&query()).send(),
        ask_with(&server, "authorization", "garbage"),
        server.call("GET", "/cubejs-api/v1/meta").send(),
    ] {
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
    let reply = server.call("POST", LOAD).header("x-request-id", "dev-span-1").json(&query()).send();
    assert_eq!(reply.value()["requestId"], "dev-span-1", "development mode shows the request id");
}

#[test]
fn without_a_secret_the_server_does_not_start() {
    let project = project();
    let output = run(project.path(), &[], &["serve", "--host", "127.0.0.1", "--port", "0"]);
    assert!(!output.status.success());
    let text = printed(&output);
    assert!(text.contains("CUBEJS_API_SECRET"), "the missing setting is named: {text}");
    assert!(!text.contains("listening on"), "{text}");
}

#[test]
fn the_secret_may_stand_in_the_env_file() {
    let project = project();
    project.write(".env", "CUBEJS_API_SECRET=from-the-file\nPORT=1\n");
    let server = Server::spawn(project.path(), &[], &["serve", "--host", "127.0.0.1", "--port", "0"]);
    assert_ne!(server.port(), 1, "a flag is stronger than the file");
    assert_eq!(ask_with(&server, "authorization", &sign(&json!({}), "from-the-file")).status, 200);
    drop(server);
    let settings = [("CUBEJS_API_SECRET", "from-the-environment")];
    let server = Server::spawn(project.path(), &settings, &["serve", "--host", "127.0.0.1", "--port", "0"]);
    assert_eq!(ask_with(&server, "authorization", &sign(&json!({}), "from-the-environment")).status, 200);
    assert_eq!(ask_with(&server, "authorization", &sign(&json!({}), "from-the-file")).status, 403);
}

#[test]
fn base64_for_urls() {
    assert_eq!(base64url(b"{}"), "e30");
    assert_eq!(base64url(&[0xfb, 0xff, 0xfe]), "-__-");
    assert_eq!(base64url(b"a"), "YQ");
}
