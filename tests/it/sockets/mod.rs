//! The API over sockets (`http-api.md` §10, `clients.md` §4): messages, refusals, limits, shutdown.

pub(crate) mod client;
mod many;
mod subscriptions;
mod tenants;

use serde_json::{Value, json};

use self::client::Socket;
use crate::events::{events_project, months_query, selector};
use crate::server::{Project, SECRET, Server, now_seconds, sign, valid_token};

/// Settings of a server with sockets.
const SOCKETS: (&str, &str) = ("CUBEJS_WEB_SOCKETS", "true");

fn started(settings: &[(&str, &str)]) -> (Project, Server) {
    let project = events_project(&["2024-01", "2024-02", "2024-03"], 90);
    let mut all = vec![SOCKETS];
    all.extend_from_slice(settings);
    let server = Server::start_with(&project, &all);
    (project, server)
}

/// With the rollup of months built.
fn built() -> (Project, Server) {
    let (project, server) = started(&[("CUBEJS_DEFAULT_API_SCOPES", "meta,data,graphql,sql,jobs")]);
    server.build(&monthly());
    (project, server)
}

fn monthly() -> Value {
    selector(&json!({"preAggregations": ["events.monthly"]}))
}

fn months() -> Value {
    json!({"query": months_query("2024-03-31"), "queryType": "multi"})
}

fn count() -> Value {
    json!({"query": {"measures": ["events.count"]}})
}

fn refusal(error: &str, status: u16) -> Value {
    json!({"message": {"error": error}, "status": status})
}

/// Trap 42: any path is a socket's.
#[test]
fn sockets_are_opened_on_every_path_when_they_are_on() {
    let (_project, server) = started(&[]);
    for path in ["/", "/cubejs-api/v1/ws", "/cubejs-api/v1/load", "/anything?x=1"] {
        let mut socket = Socket::open(&server, path);
        socket.send(&json!({"authorization": valid_token()}));
        assert_eq!(socket.next(), json!({"handshake": true}), "{path}");
    }
    let reply = server.call("GET", "/").header("upgrade", "websocket").send();
    assert_eq!(reply.status, 400, "half a handshake: {}", reply.body);
    assert_eq!(server.get("/cubejs-api/v1/meta").status, 200);

    let (project, one) = started(&[("QUARRY_WEB_SOCKETS_BASE_PATH", "/ws/")]);
    assert!(Socket::try_open(&one, "/cubejs-api/v1/ws").is_err(), "one path alone");
    let mut socket = Socket::open(&one, "/ws");
    socket.send(&json!({"authorization": valid_token()}));
    assert_eq!(socket.next(), json!({"handshake": true}));
    drop((socket, one));
    project.write("cube.js", "module.exports = { webSocketsBasePath: '/of-cube-js' }");
    let of_file = Server::start_with(&project, &[("CUBEJS_WEB_SOCKETS", "true")]);
    assert!(Socket::try_open(&of_file, "/ws").is_err() && Socket::try_open(&of_file, "/of-cube-js").is_ok());

    let project = events_project(&["2024-01"], 3);
    let off = Server::start(&project);
    let refused = Socket::try_open(&off, "/cubejs-api/v1/ws").expect_err("no sockets unless asked for");
    assert!(refused.contains("404"), "{refused}");
}

#[test]
fn who_asks_is_said_first() {
    let (_project, server) = started(&[]);
    let mut socket = Socket::open(&server, "/");
    socket.ask(1, "load", &count());
    let mut not_authorized = refusal("Not authorized", 403);
    not_authorized["messageId"] = json!(1);
    assert_eq!(socket.next(), not_authorized);
    let expired = sign(&json!({"exp": now_seconds() - 60}), SECRET);
    for (token, text) in [
        ("nonsense".to_owned(), "Invalid token"),
        (expired, "Invalid token"),
        // Trap 3: no word is stripped here.
        (format!("Bearer {}", valid_token()), "Invalid token"),
        (String::new(), "Authorization header isn't set"),
    ] {
        socket.send(&json!({ "authorization": token }));
        assert_eq!(socket.next(), refusal(text, 403), "{token}");
        socket.ask(1, "load", &count());
        assert_eq!(socket.next(), not_authorized, "{token}");
    }
    // The socket is still open, and may try again.
    socket.send(&json!({"authorization": valid_token()}));
    assert_eq!(socket.next(), json!({"handshake": true}));
    socket.ask(1, "load", &count());
    assert_eq!(socket.answer()["message"]["data"], json!([{"events.count": "270"}]));
    // A token that fails takes away what the one before gave.
    socket.send(&json!({"authorization": "nonsense"}));
    assert_eq!(socket.answer(), refusal("Invalid token", 403));
    socket.ask(2, "meta", &json!({}));
    assert_eq!(socket.next()["message"], json!({"error": "Not authorized"}));
}

#[test]
fn in_development_mode_nobody_need_be_there() {
    let (_project, server) = started(&[("CUBEJS_DEV_MODE", "true")]);
    for token in ["", "nonsense"] {
        let mut socket = Socket::open(&server, "/");
        socket.send(&json!({ "authorization": token }));
        assert_eq!(socket.next(), json!({"handshake": true}));
        socket.ask(1, "load", &count());
        let answer = socket.answer();
        assert_eq!(answer["message"]["data"], json!([{"events.count": "270"}]));
        // Trap 44.
        let id = answer["message"]["requestId"].as_str().expect("shown in development mode").to_owned();
        assert!(id.starts_with("r-span-") && id.len() == "r-span-".len() + 36, "{id}");
    }
}

#[test]
fn methods_answer_as_the_endpoints_do() {
    let (_project, server) = built();
    let mut socket = Socket::authorized(&server);
    let steady = |mut body: Value| {
        if let Some(results) = body.get_mut("results").and_then(Value::as_array_mut) {
            results.iter_mut().for_each(|result| result["lastRefreshTime"] = json!("some time"));
        }
        body
    };
    let compare = json!({"query": {"measures": ["events.count"], "timeDimensions": [{"dimension": "events.at",
        "compareDateRange": [["2024-01-01", "2024-01-31"], ["2024-02-01", "2024-02-29"]]}]}});
    let unknown = json!({"query": {"measures": ["events.nope"]}, "queryType": "multi"});
    let cases = [
        ("load", months()),
        ("load", unknown.clone()),
        ("load", compare.clone()),
        ("load", json!({})),
        ("load", json!({"query": {"measures": ["events.count"]}, "cache": "bogus"})),
        ("subscribe", months()),
        ("subscribe", unknown),
        ("sql", months()["query"].clone()),
        ("dry-run", compare),
        ("dry-run", json!({"query": {"measures": ["events.count"], "foo": 1}})),
        ("meta", json!({})),
        ("meta", json!({"onlyViews": true})),
    ];
    for (id, (method, params)) in (1..).zip(cases) {
        let params = if method == "sql" { json!({ "query": params }) } else { params };
        let path = format!("/cubejs-api/v1/{method}");
        let over_http = match method {
            "meta" if params.get("onlyViews").is_some() => server.get(&format!("{path}?onlyViews=true")),
            "meta" => server.get(&path),
            _ => server.post(&path, &params),
        };
        socket.ask(id, method, &params);
        let answer = socket.answer();
        assert_eq!((&answer["messageId"], &answer["status"]), (&json!(id), &json!(over_http.status)), "{answer}");
        assert_eq!(steady(answer["message"].clone()), steady(over_http.value()), "{method} {params}");
        assert_eq!(socket.next(), json!({ "messageProcessedId": id }));
        // Clients end every message so, subscribed to or not.
        socket.send(&json!({ "unsubscribe": id }));
    }
    socket.send(&json!({"messageId": "a text", "method": "load", "params": count()}));
    assert_eq!(socket.answer()["messageId"], json!("a text"));
    server.assert_alive();
}

#[test]
fn scopes_hold_for_sockets() {
    let (_project, server) = started(&[("CUBEJS_DEFAULT_API_SCOPES", "meta")]);
    let mut socket = Socket::authorized(&server);
    for (id, method, scope) in
        [(1, "load", "data"), (2, "subscribe", "data"), (3, "dry-run", "data"), (4, "sql", "sql")]
    {
        socket.ask(id, method, &count());
        let mut expected = refusal(&format!("API scope is missing: {scope}"), 403);
        expected["messageId"] = json!(id);
        assert_eq!(socket.answer(), expected, "{method}");
        socket.send(&json!({ "unsubscribe": id }));
    }
    socket.ask(5, "meta", &json!({}));
    assert_eq!(socket.answer()["status"], json!(200));
}

#[test]
fn what_is_no_message_is_refused_and_the_socket_stays() {
    let (_project, server) = started(&[]);
    let mut socket = Socket::authorized(&server);
    for (text, id, error) in [
        (r#"{"messageId": 1, "method": "nope"}"#, Some(json!(1)), "Unsupported method: nope"),
        (r#"{"method": "meta"}"#, None, "messageId is required"),
        (r#"{"messageId": 7}"#, Some(json!(7)), "Method is required"),
        (r#"{"messageId": 7, "method": "meta", "foo": 1}"#, Some(json!(7)), "\"foo\" is not allowed"),
        (
            r#"{"messageId": 7, "method": "load", "params": {"limit": 1}}"#,
            Some(json!(7)),
            "params: \"limit\" is not allowed",
        ),
        (
            r#"{"messageId": "12345678901234567", "method": "meta"}"#,
            None,
            "messageId: must be an integer or a text of at most 16 characters",
        ),
        ("[1]", None, "a message must be a JSON object"),
        ("{}", None, "messageId is required, Method is required"),
    ] {
        socket.send_text(text);
        let answer = socket.next();
        let expected = (&json!({ "error": error }), &json!(400), id.as_ref());
        assert_eq!((&answer["message"], &answer["status"], answer.get("messageId")), expected, "{text}");
    }
    for text in ["", "{", "nonsense", "\u{0}", "{\"messageId\": 1, \"method\": \"load\", \"params\": {\"query\": {}"] {
        socket.send_text(text);
        let answer = socket.next();
        assert_eq!((&answer["status"], answer.get("messageId")), (&json!(400), None), "{text:?}: {answer}");
    }
    socket.ask(1, "meta", &json!({}));
    assert_eq!(socket.answer()["status"], json!(200));
    server.assert_alive();
}

#[test]
fn a_message_that_is_too_big_closes_with_1009() {
    let (_project, server) = started(&[("CUBEJS_MAX_REQUEST_SIZE", "100kb")]);
    let mut socket = Socket::authorized(&server);
    let mut large = count();
    large["query"]["filters"] =
        json!([{"member": "events.kind", "operator": "equals", "values": ["x".repeat(200_000)]}]);
    socket.ask(1, "load", &large);
    assert_eq!(socket.closed(), 1009);
    // One that fits goes through.
    let mut socket = Socket::authorized(&server);
    large["query"]["filters"][0]["values"] = json!(["x".repeat(90_000)]);
    socket.ask(1, "load", &large);
    assert_eq!(socket.answer()["message"]["data"], json!([{"events.count": "0"}]));
    server.assert_alive();
}

#[test]
fn a_stopping_server_answers_what_runs_and_says_goodbye() {
    let (_project, server) = started(&[]);
    let mut idle = Socket::authorized(&server);
    let mut subscribed = Socket::authorized(&server);
    subscribed.ask(1, "subscribe", &count());
    assert_eq!(subscribed.answer()["status"], json!(200));
    let mut nobody = Socket::open(&server, "/");
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| server.stop());
        for socket in [&mut idle, &mut subscribed, &mut nobody] {
            assert_eq!(socket.closed(), 1001);
        }
        let status = stopped.join().expect("the server ends");
        assert!(status.success(), "{status}");
    });
}

#[test]
fn a_reader_who_does_not_read_holds_little() {
    const QUESTIONS: u64 = 100;
    let project = events_project(&["2024-01"], 50_000);
    let server = Server::start_with(&project, &[SOCKETS]);
    let wide = json!({"query": {"dimensions": ["events.kind", "events.at"], "ungrouped": true, "limit": 50_000}});
    let mut lazy = Socket::authorized(&server);
    lazy.ask(0, "load", &wide);
    let size = lazy.answer().to_string().len();
    let before = server.held_bytes();
    for id in 1..=QUESTIONS {
        lazy.ask(id, "load", &wide);
    }
    assert!(size > 2 << 20, "the answers together are too much to be held: {size} bytes each");
    for id in 0..5 {
        let mut other = Socket::authorized(&server);
        other.ask(id, "load", &count());
        assert_eq!(other.answer()["status"], json!(200), "others are served");
    }
    let held = server.held_bytes().saturating_sub(before);
    eprintln!("{} MB are held for one who does not read", held >> 20);
    assert!(held < 160 << 20, "{} MB are held for one who does not read", held >> 20);
    // It was not forgotten either.
    for id in 1..=QUESTIONS {
        assert_eq!(lazy.answer()["status"], json!(200), "{id}");
    }
    server.assert_alive();
}
