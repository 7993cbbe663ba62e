//! Subscriptions: pushed when the answer has changed, within a second of the publish that changed it, and not
//! otherwise.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::Socket;
use super::{SOCKETS, built, count, monthly, months, refusal, started};
use crate::events::{Month, events_project, months_of, selector, write_events};
use crate::server::{Project, SECRET, Server, sign};

/// Longer than a publish takes to be told of.
const A_WHILE: Duration = Duration::from_millis(1500);
/// Longer than a cycle over what nobody tells changes of.
const A_CYCLE: Duration = Duration::from_millis(6500);

const NAMES: [&str; 3] = ["2024-01", "2024-02", "2024-03"];

fn write_generations(project: &Project, generations: [i64; 3]) {
    let months = [0, 1, 2].map(|at| Month { name: NAMES[at], rows: 90, generation: generations[at] });
    write_events(project, &months);
}

fn generations_of(message: &Value) -> Vec<i64> {
    months_of(&message["message"]["results"][0]).iter().map(|month| month.generation()).collect()
}

/// Reads answers until one tells these generations: partitions are published one by one.
#[track_caller]
fn check_pushed(socket: &mut Socket, generations: &[i64]) {
    for _ in 0..NAMES.len() {
        if generations_of(&socket.answer()) == generations {
            return;
        }
    }
    panic!("never told of {generations:?}");
}

/// Nothing but signs of life comes.
#[track_caller]
fn check_silence(socket: &mut Socket, why: &str) {
    if let Some(message) = socket.answer_within(A_WHILE) {
        panic!("pushed {why}: {message}");
    }
}

#[test]
fn a_rebuild_that_changes_the_answer_is_pushed_within_a_second_and_no_other() {
    let (project, server) = built();
    server.build(&selector(&json!({"preAggregations": ["visits.daily"]})));
    let february = selector(&json!({"preAggregations": ["events.monthly"], "dateRange": ["2024-02-01", "2024-02-29"]}));
    let mut socket = Socket::authorized(&server);
    socket.ask(1, "subscribe", &months());
    let first = socket.answer();
    assert_eq!((generations_of(&first), &first["messageId"]), (vec![1, 1, 1], &json!(1)));
    assert_eq!(socket.next(), json!({"messageProcessedId": 1}));

    // The rollup still answers as it did.
    write_generations(&project, [2, 2, 2]);
    check_silence(&mut socket, "though nothing was published");
    let tokens = server.post_jobs(&february);
    assert_eq!(server.wait_jobs(&tokens), ["done"]);
    let published = Instant::now();
    let pushed = socket.answer();
    let took = published.elapsed();
    assert!(took < Duration::from_secs(1), "pushed {took:?} after the publish");
    eprintln!("pushed at most {took:?} after the publish");
    assert_eq!(generations_of(&pushed), [1, 2, 1]);
    assert_eq!((&pushed["messageId"], &pushed["status"]), (&json!(1), &json!(200)));
    assert_eq!(socket.next(), json!({"messageProcessedId": 1}));

    server.build(&february);
    check_silence(&mut socket, "though the rebuild changed nothing");
    server.build(&selector(&json!({"preAggregations": ["visits.daily", "events.by_kind"]})));
    check_silence(&mut socket, "though others were built");

    // Every connection has its own first answer; equal questions are answered alike.
    let mut other = Socket::authorized(&server);
    other.ask(7, "subscribe", &months());
    let joined = other.answer();
    assert_eq!((generations_of(&joined), &joined["messageId"]), (vec![1, 2, 1], &json!(7)));

    other.send(&json!({"unsubscribe": 7}));
    server.build(&monthly());
    check_pushed(&mut socket, &[2, 2, 2]);
    check_silence(&mut other, "though nobody is subscribed");
    drop(socket);
    server.assert_alive();
}

#[test]
fn what_the_source_answers_is_looked_at_every_cycle() {
    let (project, server) = started(&[]);
    let mut socket = Socket::authorized(&server);
    socket.ask(1, "subscribe", &count());
    let counted = |message: &Value| message["message"]["data"][0]["events.count"].clone();
    assert_eq!(counted(&socket.answer()), json!("270"));
    write_events(&project, &[Month { name: "2024-01", rows: 91, generation: 1 }]);
    let pushed = socket.answer_within(A_CYCLE).expect("a push");
    assert_eq!((counted(&pushed), &pushed["messageId"]), (json!("91"), &json!(1)));
    assert_eq!(socket.next(), json!({"messageProcessedId": 1}));

    // Trap 43: a sign of life every cycle, and failures again.
    socket.ask(2, "subscribe", &json!({"query": {"measures": ["events.nope"]}}));
    let failed = socket.answer();
    assert_eq!((&failed["messageId"], &failed["status"]), (&json!(2), &json!(400)), "{failed}");
    assert_eq!(socket.next(), json!({"messageProcessedId": 2}));
    let mut seen = Vec::new();
    let until = Instant::now() + A_CYCLE;
    while seen.len() < 3 {
        seen.push(socket.within(until.saturating_duration_since(Instant::now())).expect("a message every cycle"));
    }
    assert!(seen.contains(&failed), "{seen:?}");
    for id in [1, 2] {
        assert!(seen.contains(&json!({ "messageProcessedId": id })), "{seen:?}");
    }
    server.assert_alive();
}

#[test]
fn the_cycle_is_a_setting() {
    let (project, server) = started(&[("QUARRY_SUBSCRIPTION_INTERVAL", "500ms")]);
    let mut socket = Socket::authorized(&server);
    socket.ask(1, "subscribe", &count());
    assert!(socket.answer()["message"]["data"].is_array());
    write_events(&project, &[Month { name: "2024-01", rows: 91, generation: 1 }]);
    assert!(socket.answer_within(A_CYCLE).is_some(), "a push");
    // In two cycles of the usual length there would be two signs of life.
    let until = Instant::now() + 2 * A_CYCLE;
    let signs = (0..8).take_while(|_| socket.within(until.saturating_duration_since(Instant::now())).is_some());
    assert_eq!(signs.count(), 8);
}

#[test]
fn repeating_a_subscription_is_harmless_and_another_question_replaces_it() {
    let (project, server) = built();
    let mut socket = Socket::authorized(&server);
    socket.ask(1, "subscribe", &months());
    assert_eq!(generations_of(&socket.answer()), [1, 1, 1]);
    assert_eq!(socket.next(), json!({"messageProcessedId": 1}));
    for _ in 0..3 {
        // As clients do every minute.
        socket.ask(1, "subscribe", &months());
        assert_eq!(socket.next(), json!({"messageProcessedId": 1}), "no answer that was sent before");
    }
    write_generations(&project, [2, 2, 2]);
    server.build(&monthly());
    check_pushed(&mut socket, &[2, 2, 2]);
    check_silence(&mut socket, "twice");

    let mut january = months();
    january["query"]["timeDimensions"][0]["dateRange"] = json!(["2024-01-01", "2024-01-31"]);
    socket.ask(1, "subscribe", &january);
    assert_eq!(generations_of(&socket.answer()), [2]);
    write_generations(&project, [3, 3, 3]);
    server.build(&monthly());
    assert_eq!(generations_of(&socket.answer()), [3]);
    check_silence(&mut socket, "for the question that was replaced");
}

#[test]
fn subscriptions_are_bounded() {
    let (_project, server) = built();
    let mut socket = Socket::authorized(&server);
    for id in 0..1000 {
        socket.ask(id, "subscribe", &months());
    }
    socket.ask(1000, "subscribe", &months());
    let mut refused = refusal("Too many subscriptions on this connection: at most 1000", 400);
    refused["messageId"] = json!(1000);
    let mut answered = 0;
    loop {
        let message = socket.answer();
        if message["messageId"] == 1000 {
            assert_eq!(message, refused);
            break;
        }
        answered += 1;
    }
    while answered < 1000 {
        assert_eq!(socket.answer()["status"], json!(200));
        answered += 1;
    }
}

const GUARDED: &str = "
cubes:
  - name: guarded
    sql_table: events
    dimensions: [{name: id, sql: id, type: number, primary_key: true}, {name: kind, sql: kind, type: string}]
    measures: [{name: count, type: count}]
    access_policy:
      - group: '*'
        row_level:
          filters: [{member: kind, operator: equals, values: ['{ securityContext.kind }']}]
";

#[test]
fn callers_see_what_is_theirs_and_a_new_token_makes_another_caller() {
    let project = events_project(&["2024-01"], 10);
    project.write("model/guarded.yml", GUARDED);
    let server = Server::start_with(&project, &[SOCKETS]);
    let token = |kind: &str| sign(&json!({ "kind": kind }), SECRET);
    let question = json!({"query": {"measures": ["guarded.count"]}});
    let counted = |message: &Value| message["message"]["data"][0]["guarded.count"].clone();
    let mut sockets = ["click", "view", "nothing"].map(|kind| {
        let mut socket = Socket::open(&server, "/");
        socket.send(&json!({"authorization": token(kind)}));
        assert_eq!(socket.next(), json!({"handshake": true}));
        socket.ask(1, "subscribe", &question);
        socket
    });
    let counts = sockets.each_mut().map(|socket| counted(&socket.answer()));
    assert_eq!(counts, ["4", "3", "0"].map(|count| json!(count)));
    sockets[2].send(&json!({"authorization": token("click")}));
    assert_eq!(sockets[2].answer(), json!({"handshake": true}));
    assert_eq!(counted(&sockets[2].answer()), json!("4"), "subscriptions pass over to the new caller");
    // A token that is refused ends them.
    sockets[0].send(&json!({"authorization": "nonsense"}));
    assert_eq!(sockets[0].answer(), refusal("Invalid token", 403));
    write_events(&project, &[Month { name: "2024-01", rows: 1, generation: 1 }]);
    assert_eq!(counted(&sockets[2].answer_within(A_CYCLE).expect("a push")), json!("1"));
    check_silence(&mut sockets[0], "to nobody");
}

#[test]
fn a_changed_model_is_told_too() {
    let project = events_project(&["2024-01"], 9);
    let server = Server::start_with(&project, &[SOCKETS, ("CUBEJS_DEV_MODE", "true")]);
    let mut socket = Socket::authorized(&server);
    socket.ask(1, "subscribe", &count());
    let title = |message: &Value| message["message"]["annotation"]["measures"]["events.count"]["shortTitle"].clone();
    assert_eq!(title(&socket.answer()), json!("Count"));
    let file = project.path().join("model/events.yml");
    let text = std::fs::read_to_string(&file).expect("the model");
    project.write(
        "model/events.yml",
        &text.replace("        type: count\n", "        type: count\n        title: Number\n"),
    );
    assert_eq!(title(&socket.answer()), json!("Number"));
}
