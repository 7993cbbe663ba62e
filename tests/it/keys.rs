//! Tokens signed with private keys (`http-api.md` §2.2–2.6): families of algorithms, key sets and their rotation,
//! providers that fail, and everything that must not get in.

use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::auth::unsigned_token;
use crate::events::events_project;
use crate::key_server::{KeyServer, Mode, pem, private_key, public_part, sign_as};
use crate::server::{LOAD, Project, Reply, SECRET, Server, now_seconds, printed, run, sign, wait_until};

/// A document that lasts for the whole test.
const LONG: &str = "public, max-age=3600";

fn project() -> Project {
    events_project(&["2024-01"], 30)
}

fn ask(server: &Server, token: &str) -> Reply {
    server.call("POST", LOAD).token(token).json(&json!({"query": {"measures": ["events.count"]}})).send()
}

#[track_caller]
fn taken(server: &Server, token: &str, what: &str) {
    let reply = ask(server, token);
    assert_eq!((reply.status, &reply.value()["data"]), (200, &json!([{"events.count": "30"}])), "{what}");
}

#[track_caller]
fn refused(server: &Server, token: &str, what: &str) {
    let reply = ask(server, token);
    assert_eq!((reply.status, reply.value()), (403, json!({"error": "Invalid token"})), "{what}");
}

/// Every key of the fixtures, under its file's name as id.
fn all_keys() -> Value {
    json!({"keys": [
        public_part("rsa", Algorithm::RS256, "rsa"),
        public_part("p256", Algorithm::ES256, "p256"),
        public_part("p384", Algorithm::ES384, "p384"),
        public_part("ed25519", Algorithm::EdDSA, "ed25519"),
    ]})
}

fn start(project: &Project, keys: &KeyServer, more: &[(&str, &str)]) -> Server {
    let mut settings = vec![("CUBEJS_JWK_URL", keys.url.as_str())];
    settings.extend_from_slice(more);
    Server::start_with(project, &settings)
}

/// Until the first fetch has come back, nobody is let in.
#[track_caller]
fn wait_for_keys(server: &Server, token: &str) {
    wait_until("the keys", Duration::from_secs(60), || (ask(server, token).status == 200).then_some(()));
}

const PAIRS: [(&str, Algorithm); 9] = [
    ("rsa", Algorithm::RS256),
    ("rsa", Algorithm::RS384),
    ("rsa", Algorithm::RS512),
    ("rsa", Algorithm::PS256),
    ("rsa", Algorithm::PS384),
    ("rsa", Algorithm::PS512),
    ("p256", Algorithm::ES256),
    ("p384", Algorithm::ES384),
    ("ed25519", Algorithm::EdDSA),
];

#[test]
fn every_family_is_taken_from_a_key_set() {
    let keys = KeyServer::start(Mode::Answer(all_keys(), LONG));
    let server = start(&project(), &keys, &[]);
    for (name, algorithm) in PAIRS {
        taken(&server, &sign_as(name, algorithm, Some(name), &json!({"tenant": 7})), &format!("{algorithm:?}"));
    }
    let bearer = sign_as("rsa", Algorithm::RS256, Some("rsa"), &json!({}));
    taken(&server, &format!("Bearer {bearer}"), "with a scheme");
    for claims in [json!({"exp": now_seconds() - 1}), json!({"exp": now_seconds()}), json!({"nbf": now_seconds() + 60})]
    {
        refused(&server, &sign_as("p256", Algorithm::ES256, Some("p256"), &claims), &claims.to_string());
    }
    assert_eq!(keys.asked(), 1, "one document serves all");
}

#[test]
fn a_public_key_of_the_settings_verifies() {
    let of_kind = [("rsa", Algorithm::PS384), ("p256", Algorithm::ES256), ("p384", Algorithm::ES384)];
    for (name, algorithm) in of_kind.into_iter().chain([("ed25519", Algorithm::EdDSA)]) {
        // As it stands in a `.env` of one line.
        let key = pem(&format!("{name}.pub.pem")).replace('\n', "\\n");
        let server = Server::start_with(&project(), &[("CUBEJS_JWT_KEY", &key)]);
        taken(&server, &sign_as(name, algorithm, None, &json!({})), name);
        refused(&server, &sign(&json!({}), &pem(&format!("{name}.pub.pem"))), "the public key as a shared secret");
        refused(&server, &sign(&json!({}), &key), "its text as a shared secret");
        refused(&server, &sign(&json!({}), SECRET), "another secret of the settings");
    }
    for (key, said) in [(pem("rsa.pem"), "private"), (pem("rsa-short.pub.pem"), "fewer than 2048 bits")] {
        let settings = [("CUBEJS_JWT_KEY", key.as_str())];
        let output = run(project().path(), &settings, &["serve", "--port", "0"]);
        assert!(!output.status.success() && printed(&output).contains(said), "{}", printed(&output));
    }
}

#[test]
fn no_algorithm_stands_for_another() {
    let secret_key = json!({"kty": "oct", "kid": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQ"});
    let mut other_use = public_part("rsa-other", Algorithm::RS256, "enc");
    other_use["use"] = json!("enc");
    let mut bound = public_part("rsa-other", Algorithm::RS256, "bound");
    bound["alg"] = json!("RS512");
    let mut document = all_keys();
    let listed = document["keys"].as_array_mut().expect("keys");
    let short = public_part("rsa-short", Algorithm::RS256, "short");
    listed.extend([secret_key, other_use, bound, short, json!({"kty": "new"}), json!(7)]);
    let modulus = document["keys"][0]["n"].as_str().expect("a modulus").to_owned();
    let keys = KeyServer::start(Mode::Answer(document, LONG));
    let server = start(&project(), &keys, &[]);
    let id = Some("rsa");
    let good = sign_as("rsa", Algorithm::RS256, id, &json!({}));
    taken(&server, &good, "the good one");

    let hmac = |secret: &[u8], kid: &str| {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, &json!({}), &EncodingKey::from_secret(secret)).expect("signed")
    };
    refused(&server, &hmac(pem("rsa.pub.pem").as_bytes(), "rsa"), "the public key as a shared secret");
    refused(&server, &hmac(pem("rsa.pub.pem").trim().as_bytes(), "rsa"), "the same without its last line's end");
    refused(&server, &hmac(modulus.as_bytes(), "rsa"), "the modulus as a shared secret");
    refused(&server, &hmac(b"secret-secret-secret", "oct"), "a shared secret that the key set publishes");
    refused(&server, &sign(&json!({}), SECRET), "the secret of the settings beside a key set");
    refused(&server, &unsigned_token(), "no signature");
    refused(&server, &sign_as("rsa-other", Algorithm::RS256, id, &json!({})), "somebody else's key");
    refused(&server, &sign_as("rsa", Algorithm::RS256, None, &json!({})), "no kid");
    refused(&server, &sign_as("rsa", Algorithm::RS256, Some("p256"), &json!({})), "the id of another family's key");
    refused(&server, &sign_as("p256", Algorithm::ES256, Some("p384"), &json!({})), "the id of another curve's key");
    refused(&server, &sign_as("rsa-other", Algorithm::RS256, Some("enc"), &json!({})), "a key for encryption");
    refused(&server, &sign_as("rsa-other", Algorithm::RS256, Some("bound"), &json!({})), "not the key's algorithm");
    taken(&server, &sign_as("rsa-other", Algorithm::RS512, Some("bound"), &json!({})), "the key's algorithm");
    refused(&server, &sign_as("rsa-short", Algorithm::RS256, Some("short"), &json!({})), "a short key");

    let jwk = serde_json::from_value(public_part("rsa-other", Algorithm::RS256, "rsa")).expect("a key");
    let key = private_key("rsa-other", Algorithm::RS256);
    let kid = Some("rsa".to_owned());
    let carries = Header { kid: kid.clone(), jwk: Some(jwk), ..Header::new(Algorithm::RS256) };
    let points = Header { kid: kid.clone(), jku: Some(keys.url.clone()), ..Header::new(Algorithm::RS256) };
    for header in [carries, points] {
        let token = jsonwebtoken::encode(&header, &json!({}), &key).expect("signed");
        refused(&server, &token, "a token that brings its own key");
    }
    let critical = Header { kid, crit: Some(vec!["exp".to_owned()]), ..Header::new(Algorithm::RS256) };
    let token = jsonwebtoken::encode(&critical, &json!({}), &private_key("rsa", Algorithm::RS256)).expect("signed");
    refused(&server, &token, "an extension that is not understood");

    let parts: Vec<&str> = good.split('.').collect();
    let payload = sign(&json!({"admin": true}), SECRET);
    let payload = payload.split('.').nth(1).expect("a payload");
    for token in [
        format!("{}.{payload}.{}", parts[0], parts[2]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{good}.{}", parts[2]),
        format!("..{}", parts[2]),
        "a".repeat(60_000),
    ] {
        refused(&server, &token, "a token put together from parts");
    }
    server.assert_alive();
}

#[test]
fn only_named_algorithms_and_claims_are_taken() {
    let keys = KeyServer::start(Mode::Answer(all_keys(), LONG));
    let settings = [
        ("CUBEJS_JWT_ALGS", "RS256, ES384"),
        ("CUBEJS_JWT_ISSUER", "https://a.example/, https://b.example/"),
        ("CUBEJS_JWT_AUDIENCE", "quarry"),
        ("CUBEJS_JWT_SUBJECT", "reports"),
    ];
    let server = start(&project(), &keys, &settings);
    let claims = json!({"iss": "https://b.example/", "aud": ["other", "quarry"], "sub": "reports"});
    taken(&server, &sign_as("rsa", Algorithm::RS256, Some("rsa"), &claims), "as the settings say");
    taken(&server, &sign_as("p384", Algorithm::ES384, Some("p384"), &claims), "the other algorithm");
    for (name, algorithm) in PAIRS {
        if !matches!(algorithm, Algorithm::RS256 | Algorithm::ES384) {
            refused(&server, &sign_as(name, algorithm, Some(name), &claims), &format!("{algorithm:?}"));
        }
    }
    for (claim, value) in [
        ("iss", json!("https://c.example/")),
        ("iss", json!("https://b.example")),
        ("aud", json!("other")),
        ("aud", json!([])),
        ("sub", json!("others")),
        ("sub", json!(7)),
    ] {
        let mut bad = claims.clone();
        bad[claim] = value;
        refused(&server, &sign_as("rsa", Algorithm::RS256, Some("rsa"), &bad), &bad.to_string());
        bad.as_object_mut().expect("an object").remove(claim);
        refused(&server, &sign_as("rsa", Algorithm::RS256, Some("rsa"), &bad), &format!("without {claim}"));
    }
}

#[test]
fn keys_rotate_and_strange_ids_do_not_make_it_fetch() {
    let first = json!({"keys": [public_part("rsa", Algorithm::RS256, "first")]});
    let both = json!({"keys": [
        public_part("rsa", Algorithm::RS256, "first"), public_part("p256", Algorithm::ES256, "second"),
    ]});
    let keys = KeyServer::start(Mode::Answer(first, LONG));
    let server = start(&project(), &keys, &[("QUARRY_JWK_REFETCH_WINDOW", "3")]);
    let (old, new) = (
        sign_as("rsa", Algorithm::RS256, Some("first"), &json!({})),
        sign_as("p256", Algorithm::ES256, Some("second"), &json!({})),
    );
    wait_for_keys(&server, &old);
    keys.set(Mode::Answer(both, LONG));
    let begun = Instant::now();
    wait_until("the new key", Duration::from_secs(60), || (ask(&server, &new).status == 200).then_some(()));
    taken(&server, &old, "the old key is still listed");
    let before = keys.asked();
    for number in 0..200 {
        refused(&server, &sign_as("rsa", Algorithm::RS256, Some(&format!("strange-{number}")), &json!({})), "strange");
    }
    let windows = begun.elapsed().as_secs() / 3 + 1;
    assert!(before <= 3, "{before} fetches for one rotation");
    assert!((keys.asked() - before) as u64 <= windows, "{} fetches in {windows} windows", keys.asked() - before);

    keys.set(Mode::Answer(json!({"keys": [public_part("p256", Algorithm::ES256, "second")]}), LONG));
    wait_until("the old key to go", Duration::from_secs(60), || {
        ask(&server, &sign_as("rsa", Algorithm::RS256, Some("strange"), &json!({})));
        (ask(&server, &old).status == 403).then_some(())
    });
    taken(&server, &new, "the one that stays");
}

#[test]
fn a_provider_that_is_silent_blocks_nobody_else() {
    let keys = KeyServer::start(Mode::Answer(all_keys(), LONG));
    let server = start(&project(), &keys, &[("QUARRY_JWK_REFETCH_WINDOW", "0")]);
    let good = sign_as("rsa", Algorithm::RS256, Some("rsa"), &json!({}));
    wait_for_keys(&server, &good);
    keys.set(Mode::Silent);
    std::thread::scope(|scope| {
        let strange: Vec<_> = (0..20)
            .map(|number| {
                let token = sign_as("rsa", Algorithm::RS256, Some(&format!("strange-{number}")), &json!({}));
                let server = &server;
                scope.spawn(move || refused(server, &token, "an id that the silent provider may know"))
            })
            .collect();
        let slowest = (0..50).map(|_| {
            let begun = Instant::now();
            taken(&server, &good, "an id that is known");
            begun.elapsed()
        });
        let slowest = slowest.max().expect("some");
        assert!(slowest < Duration::from_secs(2), "who is known waited {slowest:?}");
        assert_eq!(server.call("GET", "/livez").send().status, 200);
        assert!(strange.iter().any(|thread| !thread.is_finished()), "meanwhile the others wait");
    });
}

#[test]
fn a_dead_provider_lets_nobody_in_until_it_is_back() {
    let keys = KeyServer::start(Mode::Status(503));
    let server = start(&project(), &keys, &[]);
    let good = sign_as("rsa", Algorithm::RS256, Some("rsa"), &json!({}));
    for _ in 0..20 {
        refused(&server, &good, "the provider is dead");
    }
    for mode in [Mode::Answer(json!({"message": "no keys here"}), LONG), Mode::Answer(json!([]), LONG)] {
        keys.set(mode);
        refused(&server, &good, "the provider talks of something else");
    }
    assert!(keys.asked() < 20, "{} fetches", keys.asked());
    assert_eq!(server.call("GET", "/readyz").send().status, 200);
    keys.set(Mode::Answer(all_keys(), "max-age=2"));
    wait_for_keys(&server, &good);
    // Keys are good for as long as the provider says, and not a moment longer.
    keys.set(Mode::Status(500));
    wait_until("the keys to expire", Duration::from_secs(60), || (ask(&server, &good).status == 403).then_some(()));
    keys.set(Mode::Answer(all_keys(), LONG));
    wait_for_keys(&server, &good);
    server.assert_alive();
}

#[test]
fn models_see_the_claims_of_the_namespace_and_nothing_else_changes() {
    let model = "cubes:\n  - name: mine\n    sql: \"SELECT * FROM events WHERE {SECURITY_CONTEXT.kind.filter('kind')}\"\n    \
                 measures: [{name: count, type: count}]\n    access_policy:\n      - group: readers\n        member_level: {includes: '*'}\n";
    let project = project();
    project.write("model/mine.yml", model);
    let count = |server: &Server, claims: &Value| {
        let body = json!({"query": {"measures": ["mine.count"]}});
        let reply = server.call("POST", LOAD).token(&sign(claims, SECRET)).json(&body).send();
        if reply.status == 200 { reply.value()["data"][0]["mine.count"].clone() } else { json!(reply.error()) }
    };
    let server = Server::start(&project);
    let of_payload = count(&server, &json!({"groups": ["readers"], "kind": "click"}));
    assert_eq!(of_payload, json!("10"));
    assert_eq!(count(&server, &json!({"groups": ["readers"], "u": {"kind": "click"}})), of_payload, "an old token");
    server.stop();
    let server = Server::start_with(&project, &[("CUBEJS_JWT_CLAIMS_NAMESPACE", "https://x/claims")]);
    let inside = json!({"groups": ["readers"], "kind": "nothing", "https://x/claims": {"kind": "click"}});
    assert_eq!(count(&server, &inside), of_payload, "models see the namespace, policies the payload");
    assert_eq!(count(&server, &json!({"groups": ["readers"], "kind": "click"})), json!("30"), "no claim, no filter");
    let groups_inside = json!({"https://x/claims": {"groups": ["readers"], "kind": "click"}});
    assert_ne!(count(&server, &groups_inside), of_payload, "policies do not look into the namespace");
}

#[test]
fn operators_see_the_inside_with_their_own_secret() {
    const OPERATORS: &str = "a secret of operators, long enough as well";
    let server = Server::start_with(&project(), &[("CUBEJS_PLAYGROUND_AUTH_SECRET", OPERATORS)]);
    let body = json!({"query": {"measures": ["events.count"]}});
    let asked =
        |token: &str| server.call("POST", LOAD).token(token).header("x-request-id", "r-span-1").json(&body).send();
    let own = asked(&sign(&json!({}), SECRET));
    assert_eq!((own.status, own.value().get("requestId")), (200, None));
    let plain = asked(&sign(&json!({}), OPERATORS));
    assert_eq!((plain.status, plain.value().get("requestId")), (200, None), "without the scope of a tool");
    let tool = sign(&json!({"scope": ["dev-token"]}), OPERATORS);
    let reply = asked(&tool);
    assert_eq!((reply.status, &reply.value()["requestId"]), (200, &json!("r-span-1")));
    let bad = json!({"query": {"measures": ["events.nothing"]}});
    let reply = server.call("POST", LOAD).token(&tool).header("x-request-id", "r-span-2").json(&bad).send();
    assert_eq!((reply.status, &reply.value()["requestId"]), (400, &json!("r-span-2")), "errors too");
    refused(&server, &sign(&json!({"scope": ["dev-token"]}), "neither"), "signed with neither");
    let own = asked(&sign(&json!({"scope": ["dev-token"]}), SECRET));
    assert_eq!(own.value().get("requestId"), None, "the word alone opens nothing");
}
