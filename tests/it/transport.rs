//! What lies below the endpoints (`http-api.md` §1): origins, base path, compression, limits, slow clients, shutdown,
//! probes, request ids.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::events::events_project;
use crate::raw::Raw;
use crate::server::{LOAD, Project, Reply, SECRET, Server, pause, printed, run, sign, valid_token, wait_until};

const META: &str = "/cubejs-api/v1/meta";

fn project() -> Project {
    events_project(&["2024-01"], 30)
}

fn start(settings: &[(&str, &str)]) -> Server {
    Server::start_with(&project(), settings)
}

fn count() -> Value {
    json!({"query": {"measures": ["events.count"]}})
}

/// A POST with a body of this length, up to its body.
fn post_head(length: usize) -> String {
    let token = valid_token();
    format!(
        "POST {LOAD} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n"
    )
}

#[test]
fn every_origin_may_read_every_answer() {
    let server = start(&[]);
    let replies = [
        server.get(META),
        server.call("GET", META).send(),
        server.post(LOAD, &json!({"query": {"measures": ["events.nothing"]}})),
        server.call("GET", "/livez").send(),
        server.call("GET", "/nowhere").send(),
        server.call("POST", LOAD).token(&valid_token()).header("content-type", "application/json").raw("{").send(),
    ];
    for reply in replies {
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"), "{reply:?}");
        assert!(reply.header("vary").is_none_or(|vary| !vary.contains("origin")), "{reply:?}");
    }
    for path in [LOAD, META, "/", "/livez", "/nowhere", "/quarry/v1/jobs"] {
        let reply = server.call("OPTIONS", path).header("origin", "https://a.example").send();
        assert_eq!((reply.status, reply.body.as_str()), (204, ""), "{path}");
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
        assert_eq!(reply.header("access-control-allow-methods"), Some("GET,HEAD,PUT,PATCH,POST,DELETE"));
        assert_eq!(reply.header("access-control-allow-headers"), Some("authorization,content-type,x-request-id"));
        assert_eq!(reply.header("access-control-allow-credentials"), None);
    }
}

#[test]
fn named_origins_are_named_back_and_others_are_not() {
    let origins = "https://a.example, http://localhost:3000";
    let server = start(&[("QUARRY_CORS_ORIGINS", origins), ("QUARRY_CORS_CREDENTIALS", "true")]);
    let ask = |method: &str, origin: Option<&str>| -> Reply {
        let call = server.call(method, META).token(&valid_token());
        origin.into_iter().fold(call, |call, origin| call.header("origin", origin)).send()
    };
    for method in ["GET", "OPTIONS"] {
        for origin in ["https://a.example", "http://localhost:3000"] {
            let reply = ask(method, Some(origin));
            assert_eq!(reply.header("access-control-allow-origin"), Some(origin), "{method}");
            assert_eq!(reply.header("access-control-allow-credentials"), Some("true"));
            let varies = |(name, value): &(String, String)| name == "vary" && value.contains("origin");
            assert!(reply.headers.iter().any(varies), "{reply:?}");
        }
        for origin in [Some("https://b.example"), Some("https://a.example.evil"), Some("null"), None] {
            assert_eq!(ask(method, origin).header("access-control-allow-origin"), None, "{method} {origin:?}");
        }
    }
    assert_eq!(ask("OPTIONS", Some("https://b.example")).status, 204);
    for (origins, said) in [("*", "named origins"), ("a.example", "QUARRY_CORS_ORIGINS")] {
        let settings =
            [("CUBEJS_API_SECRET", SECRET), ("QUARRY_CORS_ORIGINS", origins), ("QUARRY_CORS_CREDENTIALS", "true")];
        let output = run(project().path(), &settings, &["serve", "--port", "0"]);
        assert!(!output.status.success() && printed(&output).contains(said), "{}", printed(&output));
    }
}

#[test]
fn the_base_path_moves_the_api_alone() {
    let server = start(&[("CUBEJS_BASE_PATH", "/api/")]);
    let reply = server.post("/api/v1/load", &count());
    assert_eq!((reply.status, &reply.value()["data"]), (200, &json!([{"events.count": "30"}])));
    for path in [LOAD, "/api/v1/nope", "/apix/v1/load", "/v1/load", "/api"] {
        let reply = server.post(path, &count());
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.body.contains(&format!("<pre>Cannot POST {path}</pre>")), "{}", reply.body);
    }
    assert_eq!(server.call("GET", "/livez").send().status, 200);
    assert_eq!(server.call("GET", "/api/livez").send().status, 404);
}

#[test]
fn long_answers_are_compressed_as_the_client_likes() {
    let server = start(&[]);
    let ask = |path: &str, accepted: &str| {
        let mut raw = Raw::connect(&server);
        let accepted = if accepted.is_empty() { String::new() } else { format!("Accept-Encoding: {accepted}\r\n") };
        raw.get(path, &format!("Authorization: {}\r\n{accepted}", valid_token()));
        raw.answer().expect("an answer")
    };
    let plain = ask(META, "");
    assert!(plain.body.len() > 1024, "the metadata are long enough to be compressed");
    for accepted in ["identity", "br", "gzip;q=0", "deflate", "gzip;q=0, zstd;q=0", "nonsense, ;q=x"] {
        let reply = ask(META, accepted);
        assert_eq!((reply.header("content-encoding"), &reply.body), (None, &plain.body), "{accepted}");
    }
    for (accepted, chosen, magic) in [
        ("gzip", "gzip", &[0x1f, 0x8b][..]),
        ("zstd", "zstd", &[0x28, 0xb5, 0x2f, 0xfd]),
        ("zstd;q=0, gzip", "gzip", &[0x1f, 0x8b]),
        ("gzip;q=0.5, zstd", "zstd", &[0x28, 0xb5, 0x2f, 0xfd]),
        ("br, gzip", "gzip", &[0x1f, 0x8b]),
    ] {
        let reply = ask(META, accepted);
        assert_eq!(reply.header("content-encoding"), Some(chosen), "{accepted}");
        assert!(reply.body.starts_with(magic) && reply.body.len() < plain.body.len(), "{accepted}");
        assert!(reply.header("vary").is_some_and(|vary| vary.contains("accept-encoding")), "{accepted}");
        if chosen == "gzip" {
            assert_eq!(unzip(&reply.body), plain.body, "{accepted}");
        }
    }
    let short = ask("/livez", "gzip, zstd");
    assert_eq!((short.header("content-encoding"), short.text().as_str()), (None, r#"{"health":"HEALTH"}"#));
}

fn unzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let gzip = Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut gzip = gzip.expect("gzip is there");
    let mut stdin = gzip.stdin.take().expect("a pipe");
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = gzip.wait_with_output().expect("gzip ends");
    writer.join().expect("the writer does not panic").expect("gzip reads its input");
    output.stdout
}

#[test]
fn heads_without_end_are_refused() {
    let server = start(&[]);
    let long = "x".repeat(70_000);
    let many: String = (0..150).map(|number| format!("X-Header-{number}: x\r\n")).collect();
    for (path, headers) in [
        ("/livez", format!("X-Long: {long}\r\n")),
        ("/livez", many),
        (format!("/livez?{long}").as_str(), String::new()),
    ] {
        let mut raw = Raw::connect(&server);
        raw.get(path, &headers);
        // What it does not read may be answered by a reset.
        if let Some(reply) = raw.answer() {
            assert!(matches!(reply.status, 414 | 431), "{}", reply.head);
        }
    }
    let query = format!("{LOAD}?query={}&x={}", "%7B%22measures%22%3A%5B%22events.count%22%5D%7D", "y".repeat(30_000));
    let reply = server.get(&query);
    assert_eq!(reply.status, 200, "long lines are fine: {}", reply.body);
    server.assert_alive();
}

#[test]
fn a_body_beyond_the_limit_is_refused_and_the_connection_lives() {
    let server = start(&[("CUBEJS_MAX_REQUEST_SIZE", "100kb")]);
    let mut raw = Raw::connect(&server);
    for (length, status) in [(200_000, 413), (150_000, 413), (40, 400)] {
        raw.send(&post_head(length));
        raw.send(&" ".repeat(length));
        let reply = raw.answer().expect("an answer");
        assert_eq!(reply.status, status, "{}", reply.text());
    }
    raw.send(&post_head(40).replace("Authorization", "X-Nothing"));
    raw.send(&" ".repeat(40));
    assert_eq!(raw.answer().expect("an answer").status, 403, "a refusal reads the body too");
    raw.get("/livez", "");
    assert_eq!(raw.answer().expect("an answer").status, 200, "and nothing of it is taken for the next request");
}

#[test]
fn who_dawdles_over_a_head_is_cut_off() {
    let server = start(&[("CUBEJS_SERVER_HEADERS_TIMEOUT", "700")]);
    let mut silent = Raw::connect(&server);
    let mut stopping = Raw::connect(&server);
    stopping.send("GET /livez HTTP/1.1\r\nHost: x\r\nX-Half");
    let mut dripping = Raw::connect(&server);
    let begun = Instant::now();
    for byte in "GET /livez HTTP/1.1\r\nX-Slow: xxxxxxxxxxxxxxxxxxxxxxx".chars() {
        dripping.send(&byte.to_string());
        assert_eq!(server.call("GET", "/livez").send().status, 200, "others are served meanwhile");
        pause(Duration::from_millis(20));
    }
    for raw in [&mut silent, &mut stopping, &mut dripping] {
        raw.wait_for_end();
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let mut used = Raw::connect(&server);
    for _ in 0..3 {
        pause(Duration::from_millis(300));
        used.get("/livez", "");
        assert_eq!(used.answer().expect("an answer").status, 200, "the time of each head counts, not that of all");
    }
    server.assert_alive();
}

#[test]
fn idle_connections_end_and_busy_ones_do_not() {
    let server = start(&[("CUBEJS_SERVER_KEEP_ALIVE_TIMEOUT", "600")]);
    let mut raw = Raw::connect(&server);
    for _ in 0..4 {
        raw.get("/livez", "");
        assert_eq!(raw.answer().expect("an answer").status, 200);
        pause(Duration::from_millis(200));
    }
    raw.wait_for_end();
    let mut slow = Raw::connect(&server);
    let body = count().to_string();
    slow.send(&post_head(body.len()));
    pause(Duration::from_millis(1500));
    slow.send(&body);
    assert_eq!(slow.answer().expect("an answer").status, 200, "a request that comes in is not idle");
}

#[test]
fn a_body_that_does_not_come_is_given_up() {
    let server = start(&[("QUARRY_BODY_TIMEOUT", "1")]);
    let mut raw = Raw::connect(&server);
    raw.send(&post_head(1000));
    raw.send("{\"query\"");
    let reply = raw.answer().expect("an answer");
    assert_eq!((reply.status, reply.header("connection")), (408, Some("close")), "{}", reply.text());
    assert!(reply.text().starts_with("{\"error\":\"BadRequestError: the request's body did not arrive"));
    raw.wait_for_end();
    server.assert_alive();
}

#[test]
fn connections_have_a_limit_and_others_wait_for_their_turn() {
    let server = start(&[("QUARRY_MAX_CONNECTIONS", "2")]);
    let (mut first, mut second) = (Raw::connect(&server), Raw::connect(&server));
    for raw in [&mut first, &mut second] {
        raw.get("/livez", "");
        assert_eq!(raw.answer().expect("an answer").status, 200);
    }
    let mut third = Raw::connect(&server);
    third.get("/livez", "");
    second.get("/livez", "");
    assert_eq!(second.answer().expect("an answer").status, 200, "who is in goes on");
    drop(first);
    assert_eq!(third.answer().expect("an answer").status, 200, "and makes room by leaving");
}

#[test]
fn a_reader_that_takes_nothing_is_cut_off() {
    // More than all buffers between the two take.
    let project = events_project(&["2024-01"], 300_000);
    let limits = [("CUBEJS_DB_QUERY_LIMIT", "300000"), ("QUARRY_WRITE_TIMEOUT", "1"), ("QUARRY_MAX_CONNECTIONS", "1")];
    let server = Server::start_with(&project, &limits);
    let query = json!({"query": {
        "ungrouped": true, "limit": 300_000, "dimensions": ["events.kind", "events.at"],
    }});
    let body = query.to_string();
    let mut stalled = Raw::connect(&server);
    stalled.send(&post_head(body.len()));
    stalled.send(&body);
    // There is one place, and it is taken until the reader is cut off.
    let mut next = Raw::connect(&server);
    next.get("/livez", "");
    assert_eq!(next.answer().expect("an answer").status, 200);
    drop(next);
    let reply = stalled.answer().expect("the begin of an answer");
    assert_eq!(reply.status, 200);
    let length = reply.header("content-length").map_or(usize::MAX, |length| length.parse().expect("a length"));
    assert!(reply.body.len() < length && !reply.text().ends_with("]}"), "all {length} bytes came");
    server.assert_alive();
}

#[test]
fn a_stopping_server_finishes_what_it_does_and_refuses_the_rest() {
    let project = project();
    let server = Server::start_with(&project, &[("CUBEJS_GRACEFUL_SHUTDOWN", "30")]);
    let body = count().to_string();
    let mut running = Raw::connect(&server);
    running.send(&post_head(body.len()));
    let mut idle = Raw::connect(&server);
    idle.get("/livez", "");
    assert_eq!(idle.answer().expect("an answer").status, 200);
    let silent = Raw::connect(&server);
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| server.stop());
        wait_until("the server to close", Duration::from_secs(30), || {
            server.log().contains("shutting down").then_some(())
        });
        // Also who was connected already and is only about to ask.
        for mut late in [silent, Raw::connect(&server)] {
            late.get("/livez", "");
            let reply = late.answer().expect("an answer");
            assert_eq!(
                (reply.status, reply.header("retry-after"), reply.header("connection")),
                (503, Some("30"), Some("close"))
            );
            let message = json!({"message": "Server unavailable, no new requests accepted during shutdown"});
            assert_eq!(serde_json::from_str::<Value>(&reply.text()).expect("JSON"), message);
        }
        idle.wait_for_end();
        assert!(!stopped.is_finished(), "it waits for the one that runs");
        running.send(&body);
        let reply = running.answer().expect("an answer");
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(reply.text().contains("\"events.count\":\"30\""), "{}", reply.text());
        assert!(stopped.join().expect("no panic").success());
    });
}

#[test]
fn a_stopping_server_does_not_wait_for_ever() {
    let project = project();
    let server = Server::start_with(&project, &[("CUBEJS_GRACEFUL_SHUTDOWN", "1")]);
    let mut running = Raw::connect(&server);
    running.send(&post_head(100));
    pause(Duration::from_millis(100));
    let begun = Instant::now();
    assert!(server.stop().success());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    running.wait_for_end();
}

#[test]
fn probes_tell_when_the_store_is_gone() {
    let project = project();
    let server = Server::start(&project);
    let probe = |path: &str| {
        let reply = server.call("GET", path).send();
        (reply.status, reply.value())
    };
    for path in ["/livez", "/readyz"] {
        assert_eq!(probe(path), (200, json!({"health": "HEALTH"})));
    }
    std::fs::rename(project.path().join(".quarry"), project.path().join("elsewhere")).expect("the store can be moved");
    for path in ["/livez", "/readyz"] {
        wait_until("the probe to notice", Duration::from_secs(30), || (probe(path).0 == 500).then_some(()));
        assert_eq!(probe(path), (500, json!({"health": "DOWN"})));
    }
    std::fs::rename(project.path().join("elsewhere"), project.path().join(".quarry")).expect("and back");
    for path in ["/livez", "/readyz"] {
        wait_until("the probe to notice", Duration::from_secs(30), || (probe(path).0 == 200).then_some(()));
    }
}

#[test]
fn request_ids_are_taken_as_they_are_and_not_sent_back() {
    let server = start(&[("CUBEJS_DEV_MODE", "true")]);
    let long = "x".repeat(5000);
    let given =
        [("a-span-1", "a-span-1"), ("a, b", "a"), ("#weird id (1)", "#weird id (1)"), (long.as_str(), &long[..256])];
    for (id, expected) in given {
        let reply =
            server.call("POST", LOAD).token(&sign(&json!({}), SECRET)).header("x-request-id", id).json(&count()).send();
        assert_eq!((reply.status, &reply.value()["requestId"]), (200, &json!(expected)), "{id}");
        assert_eq!(reply.header("x-request-id"), None);
    }
    let reply = server.call("POST", LOAD).header("traceparent", "00-abc-def-01").json(&count()).send();
    assert_eq!(reply.value()["requestId"], json!("00-abc-def-01"));
    let own = server.call("POST", LOAD).json(&count()).send().value()["requestId"].clone();
    let own = own.as_str().expect("a text").strip_suffix("-span-1").expect("the form of clients").to_owned();
    assert_eq!((own.len(), own.matches('-').count()), (36, 4), "{own}");
}
