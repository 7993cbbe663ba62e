//! Subscriptions where `cube.js` has several models: each is asked with the model that its tenant has at that time, and
//! again when a table of that model is published.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::SOCKETS;
use super::client::Socket;
use crate::events::selector;
use crate::server::{ALL_SCOPES, Project, SECRET, Server, now_seconds, sign, wait_until};

/// Longer than a publish takes to be told of.
const A_WHILE: Duration = Duration::from_millis(1500);

/// Each tenant has a model of its own, with rows of its own.
const MODEL: &str = "
cubes:
  - name: orders
    sql: >
      SELECT * FROM orders WHERE tenant = '{{ COMPILE_CONTEXT.securityContext.tenant | default('nobody') | safe }}'
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: at, sql: at, type: time}
    measures:
      - {name: total, sql: amount, type: sum, title: Total}
    pre_aggregations:
      - name: monthly
        measures: [total]
        time_dimension: at
        granularity: month
        partition_granularity: month
";

const BY_TENANT: &str = "contextToAppId: ({ securityContext }) => `app_${securityContext.tenant}`,
  contextToOrchestratorId: ({ securityContext }) => `app_${securityContext.tenant}`,";

/// A project whose tenants have these amounts; each question of theirs is told in the server's log.
fn project(more: &str, acme: u32, bond: u32) -> Project {
    let project = Project::empty();
    write_orders(&project, acme, bond);
    project.write("model/orders.yml", MODEL);
    project.write(
        "cube.js",
        &format!(
            "module.exports = {{ {BY_TENANT} {more}
               queryRewrite: (query, {{ securityContext }}) => {{
                 console.info(`asked by ${{securityContext.tenant}}.`);
                 return query;
               }} }}"
        ),
    );
    project
}

fn write_orders(project: &Project, acme: u32, bond: u32) {
    let rows = format!("1,acme,{acme},2024-01-05T10:00:00\n2,bond,{bond},2024-01-06T10:00:00\n");
    project.write("data/orders.csv", &format!("id,tenant,amount,at\n{rows}"));
}

fn start(project: &Project, more: &[(&str, &str)]) -> Server {
    Server::start_with(project, &[&[SOCKETS, ("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES)], more].concat())
}

fn build(server: &Server, tenant: &str) {
    let contexts = json!([{"securityContext": {"tenant": tenant}}]);
    server.build(&selector(&json!({"contexts": contexts, "preAggregations": ["orders.monthly"]})));
}

fn subscribed(server: &Server, tenant: &str) -> Socket {
    let mut socket = Socket::open(server, "/");
    socket.send(&json!({"authorization": sign(&json!({"tenant": tenant}), SECRET)}));
    assert_eq!(socket.next(), json!({"handshake": true}));
    socket.ask(1, "subscribe", &question());
    socket
}

fn question() -> Value {
    json!({"query": {"measures": ["orders.total"], "timeDimensions":
        [{"dimension": "orders.at", "granularity": "month", "dateRange": ["2024-01-01", "2024-01-31"]}]}})
}

/// The title of the measure, its value, and whether a rollup answered.
fn told(message: &Value) -> (String, String, bool) {
    let body = &message["message"];
    let text = |value: &Value| value.as_str().map_or_else(|| message.to_string(), str::to_owned);
    let title = text(&body["annotation"]["measures"]["orders.total"]["shortTitle"]);
    (title, text(&body["data"][0]["orders.total"]), body["usedPreAggregations"].is_object())
}

fn stored(title: &str, total: &str) -> (String, String, bool) {
    (title.to_owned(), total.to_owned(), true)
}

#[track_caller]
fn check_silence(socket: &mut Socket, why: &str) {
    if let Some(message) = socket.answer_within(A_WHILE) {
        panic!("pushed {why}: {message}");
    }
}

/// Rebuilds the rollup of a tenant; what is pushed then comes within a second.
#[track_caller]
fn check_pushed(server: &Server, socket: &mut Socket, tenant: &str, expected: &(String, String, bool)) {
    build(server, tenant);
    let published = Instant::now();
    assert_eq!(told(&socket.answer()), *expected);
    let took = published.elapsed();
    assert!(took < Duration::from_secs(1), "pushed {took:?} after the publish");
}

#[test]
fn a_publish_is_pushed_to_the_tenant_whose_table_it_is() {
    let project = project("", 10, 20);
    let server = start(&project, &[]);
    build(&server, "acme");
    build(&server, "bond");
    let [mut acme, mut bond] = ["acme", "bond"].map(|tenant| subscribed(&server, tenant));
    assert_eq!(told(&acme.answer()), stored("Total", "10"));
    assert_eq!(told(&bond.answer()), stored("Total", "20"));
    let asked = |tenant: &str| server.log().matches(&format!("asked by {tenant}.")).count();

    write_orders(&project, 11, 21);
    check_silence(&mut acme, "though nothing was published");
    let before = asked("bond");
    check_pushed(&server, &mut acme, "acme", &stored("Total", "11"));
    check_silence(&mut bond, "though the table is another's");
    assert_eq!(asked("bond"), before, "nor is the question asked anew");
    let before = asked("acme");
    check_pushed(&server, &mut bond, "bond", &stored("Total", "21"));
    check_silence(&mut acme, "though the table is another's");
    assert_eq!(asked("acme"), before);
    server.assert_alive();
}

#[test]
fn a_tenants_changed_model_answers_from_then_on() {
    let project = project("", 10, 20);
    let server = start(&project, &[("CUBEJS_DEV_MODE", "true")]);
    build(&server, "acme");
    let mut acme = subscribed(&server, "acme");
    assert_eq!(told(&acme.answer()), stored("Total", "10"));
    project.write("model/orders.yml", &MODEL.replace("title: Total", "title: Sum"));
    assert_eq!(told(&acme.answer()), stored("Sum", "10"), "by the model as it is now");
    // What is asked once on the same socket sees it too.
    acme.ask(2, "load", &question());
    let once = acme.answer();
    assert_eq!((&once["messageId"], told(&once)), (&json!(2), stored("Sum", "10")));

    // The rollup of the new model is another table; that one is waited for from then on.
    let twice = MODEL.replace("sql: amount", "sql: amount * 2").replace("title: Total", "title: Double");
    project.write("model/orders.yml", &twice);
    let told_anew = told(&acme.answer());
    assert_eq!(told_anew, ("Double".to_owned(), "20".to_owned(), false), "nothing is built yet");
    build(&server, "acme");
    write_orders(&project, 11, 20);
    check_silence(&mut acme, "though the rollup says the same");
    check_pushed(&server, &mut acme, "acme", &stored("Double", "22"));
    server.assert_alive();
}

/// Nobody tells when a hook begins to give another version: that is looked at every cycle.
#[test]
fn a_new_version_of_a_tenants_schema_is_looked_for_every_cycle() {
    let at = (now_seconds() + 8) * 1000;
    let version = format!("schemaVersion: () => Date.now() < {at} ? 'old' : 'new',");
    let project = project(&version, 10, 20);
    let server = start(&project, &[("QUARRY_SUBSCRIPTION_INTERVAL", "500ms")]);
    build(&server, "acme");
    let mut acme = subscribed(&server, "acme");
    assert_eq!(told(&acme.answer()), stored("Total", "10"));
    check_silence(&mut acme, "twice");
    assert!(now_seconds() * 1000 < at, "the machine is too slow for this test");
    let asked = || server.log().matches("asked by acme.").count();
    let before = asked();
    project.write("model/orders.yml", &MODEL.replace("title: Total", "title: Sum"));
    assert_eq!(told(&acme.answer()), stored("Sum", "10"));
    assert!(now_seconds() * 1000 >= at, "not before the version is another");
    assert_eq!(asked(), before + 1, "asked when the version changed, and not every cycle");
    check_silence(&mut acme, "twice");
    server.assert_alive();
}

#[test]
fn a_tenants_faulty_model_is_told_until_it_is_mended() {
    let project = project("", 10, 20);
    let server = start(&project, &[("CUBEJS_DEV_MODE", "true"), ("QUARRY_SUBSCRIPTION_INTERVAL", "500ms")]);
    build(&server, "acme");
    let mut acme = subscribed(&server, "acme");
    assert_eq!(told(&acme.answer()), stored("Total", "10"));
    project.write("model/orders.yml", &MODEL.replace("type: sum", "type: sums"));
    let refused = acme.answer();
    let text = refused["message"]["error"].as_str().unwrap_or_default();
    assert!(refused["status"] == 500 && text.contains("orders.yml"), "{refused}");
    project.write("model/orders.yml", MODEL);
    wait_until("the model to be mended", Duration::from_secs(60), || (acme.answer()["status"] == 200).then_some(()));
    server.assert_alive();
}
