//! Cases 41 and 42, and access policies (`data-model.md` §10): who sees which rows and values, by every way of asking,
//! before and after rollups are built.

use serde_json::{Value, json};

use super::{SQL, ask_as, by, check_set, rows_as, shop_with, sql, table, with};
use crate::server::{ALL_SCOPES, LOAD, SECRET, Server, sign};

const MODEL: &str = r#"
cubes:
  - name: deals
    sql_table: deals
    joins:
      - {name: owners, relationship: many_to_one, sql: "{CUBE}.owner_id = {owners.id}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true, public: true}
      - {name: region, sql: region, type: string}
      - {name: status, sql: status, type: string}
      - {name: amount, sql: amount, type: number}
      - {name: email, sql: email, type: string, mask: "'***'"}
      - {name: secret, sql: email, type: string}
      - {name: coded, sql: email, type: string, mask: {sql: "upper({CUBE}.region)"}}
      - {name: contact, sql: "{email} || '!'", type: string}
      - {name: owner_name, sql: "{owners.name}", type: string}
      - {name: at, sql: at, type: time}
      - name: writer
        sql: "{CUBE}.id"
        type: string
        links:
          - {name: mail, label: Mail, url: "'to:' || {email}"}
          - {name: page, label: Page, dashboard: people, params: [{key: who, value: "{secret}"}]}
      - name: size
        multi_stage: true
        type: string
        sql: "CASE WHEN {best} > 30 THEN 'big' ELSE 'small' END"
        add_group_by: [region]
    measures:
      - {name: count, type: count}
      - {name: total, sql: amount, type: sum, mask: -1}
      - {name: best, sql: amount, type: max}
      - {name: mean, sql: "1.0 * {total} / {count}", type: number}
      - {name: running, sql: amount, type: sum, rolling_window: {trailing: unbounded}}
      - {name: any_region, multi_stage: true, type: sum, sql: "{best}", filter: {exclude: [region, status]}}
      - {name: place, multi_stage: true, type: rank, order_by: [{sql: "{count}", dir: desc}]}
      - name: month_before
        multi_stage: true
        type: number
        sql: "{best}"
        time_shift: [{interval: 1 month, type: prior}]
    segments:
      - {name: big, sql: "{CUBE.amount} > 25"}
      - {name: named, sql: "{CUBE.email} = 'a@x'"}
    pre_aggregations:
      - name: daily
        measures: [count, total, best]
        dimensions: [region, status]
        time_dimension: at
        granularity: day
      - name: by_mail
        measures: [count, total, best]
        dimensions: [email, region, status, secret]
      - name: by_writer
        measures: [count]
        dimensions: [writer, writer___link_mail_url, writer___link_page_url, region]
    access_policy:
      - group: eu
        row_level: {filters: [{member: region, operator: equals, values: [EU]}]}
      - group: us
        row_level: {filters: [{member: region, operator: equals, values: [US]}]}
      - group: claims
        conditions: [{if: "{ securityContext.active }"}]
        row_level: {filters: [{member: region, operator: equals, values: ["{ securityContext.region }"]}]}
      - group: either
        row_level:
          filters:
            - or:
                - {member: region, operator: notSet}
                - and:
                    - {member: status, operator: equals, values: [won]}
                    - {member: amount, operator: gt, values: [30]}
      - group: statuses
        member_level: {includes: [status, count]}
        row_level: {filters: [{member: region, operator: equals, values: [EU]}]}
      - group: amounts
        member_level: {includes: [amount, total]}
        row_level: {filters: [{member: region, operator: equals, values: [US]}]}
      - group: masked
        member_level: {includes: "*", excludes: [email, total, secret, coded]}
        member_masking: {includes: "*"}
      - group: results
        member_level: {includes: "*", excludes: [mean, running, any_region, place, big]}
        member_masking: {includes: [mean, running, any_region, place, big]}
      - group: recent
        row_level: {filters: [{member: at, operator: afterOrOnDate, values: ["2024-02-01"]}]}
      - group: admin
        row_level: {allow_all: true}
  - name: owners
    sql_table: owners
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true, public: true}
      - {name: name, sql: name, type: string}
      - {name: best_deal, sql: "{deals.best}", type: number, sub_query: true}
    measures:
      - {name: count, type: count}
    pre_aggregations:
      - name: bests
        measures: [count]
        dimensions: [name, best_deal]
  - name: pushed
    sql: "SELECT * FROM deals WHERE {FILTER_PARAMS.pushed.email.filter('email')}"
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: email, sql: email, type: string, mask: "'***'"}
    measures:
      - {name: count, type: count}
    access_policy:
      - group: "*"
        member_level: {includes: [count]}
        member_masking: {includes: [email]}
  - name: notes
    sql_table: tickets
    joins:
      - {name: deals, relationship: many_to_one, sql: "{CUBE}.id = {deals.id}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
    measures:
      - {name: count, type: count}
  - name: tickets
    sql_table: tickets
    joins:
      - {name: owners, relationship: many_to_one, sql: "{CUBE}.owner_id = {owners.id}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
    measures:
      - {name: count, type: count}
  - name: keyed
    sql_table: owners
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true, public: true}
      - {name: name, sql: name, type: string}
    measures:
      - {name: count, type: count}
    access_policy:
      - group: "*"
        member_level: {includes: [name, count]}
        member_masking: {includes: [id]}
  - name: parcels
    sql_table: tickets
    joins:
      - {name: keyed, relationship: many_to_one, sql: "{CUBE}.owner_id = {keyed.id}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
    measures:
      - {name: count, type: count}
views:
  - name: open
    cubes:
      - {join_path: deals, includes: [count, total, best, status, amount, email, region]}
  - name: guarded
    cubes:
      - {join_path: deals, includes: [count, status, email, best]}
    access_policy:
      - group: eu
        member_level: {includes: [count, status]}
        row_level: {filters: [{member: status, operator: equals, values: [won]}]}
      - group: admin
        row_level: {allow_all: true}
  - name: both
    cubes:
      - {join_path: deals, includes: [count, region]}
      - {join_path: tickets, includes: [{name: count, alias: tickets}]}
    access_policy:
      - group: eu
        row_level: {filters: [{member: region, operator: equals, values: [EU]}]}
      - group: admin
        row_level: {allow_all: true}
"#;

const TABLES: &[(&str, &str)] = &[
    (
        "deals",
        "id,region,status,amount,email,owner_id,at
1,EU,open,10,a@x,1,2024-01-05T00:00:00
2,EU,won,20,b@x,1,2024-01-06T00:00:00
3,US,open,30,c@x,2,2024-01-07T00:00:00
4,US,won,40,d@x,2,2024-02-08T00:00:00
5,,won,50,e@x,1,2024-02-09T00:00:00
",
    ),
    ("owners", "id,name\n1,Ann\n2,Bob\n"),
    ("tickets", "id,owner_id\n1,1\n2,2\n3,2\n"),
];

/// What a request comes to.
enum Outcome {
    /// These rows, in any order.
    Rows(Value),
    /// The error of members that are hidden from who asks.
    Hidden,
    /// Some error, and no rows.
    Refused,
}

use Outcome::{Hidden, Refused, Rows};

fn groups(names: &[&str]) -> Value {
    json!({"groups": names})
}

fn only(member: &str, operator: &str, values: &[&str]) -> Value {
    json!({"filters": [{"member": member, "operator": operator, "values": values}]})
}

/// Who asks, what, and what comes of it.
type Pair = (Value, Value, Outcome);

fn pairs() -> Vec<Pair> {
    let parts = [of_rows(), of_members(), of_masks(), of_results(), of_derived(), of_views(), of_levels()];
    parts.into_iter().flatten().collect()
}

fn count() -> Value {
    by(&["deals.count"], &[])
}

fn statuses() -> Value {
    by(&["deals.count"], &["deals.status"])
}

fn emails() -> Value {
    by(&[], &["deals.id", "deals.email"])
}

fn monthly(from: &str, to: &str) -> Value {
    json!({"timeDimensions": [{"dimension": "deals.at", "granularity": "month", "dateRange": [from, to]}]})
}

const JANUARY: &str = "2024-01-01T00:00:00.000";
const FEBRUARY: &str = "2024-02-01T00:00:00.000";

/// Pairs about the rows of policies.
fn of_rows() -> Vec<Pair> {
    vec![
        (groups(&["eu"]), count(), Rows(json!([["2"]]))),
        (groups(&["eu"]), statuses(), Rows(json!([["open", "1"], ["won", "1"]]))),
        (groups(&["eu", "us"]), count(), Rows(json!([["4"]]))),
        (groups(&["either"]), by(&[], &["deals.id"]), Rows(json!([["4"], ["5"]]))),
        (groups(&["admin"]), count(), Rows(json!([["5"]]))),
        (groups(&["eu", "admin"]), count(), Rows(json!([["5"]]))),
        (groups(&["strangers"]), count(), Hidden),
        (json!({}), count(), Hidden),
        (json!({"groups": "eu"}), count(), Rows(json!([["2"]]))),
        (json!({"groups": ["claims"], "active": true, "region": "US"}), count(), Rows(json!([["2"]]))),
        (json!({"groups": ["claims"], "active": "yes", "region": "US"}), count(), Rows(json!([["2"]]))),
        (json!({"groups": ["claims"], "active": 0, "region": "US"}), count(), Hidden),
        (json!({"groups": ["claims"], "region": "US"}), count(), Hidden),
        (json!({"groups": ["claims"], "active": true}), count(), Rows(json!([["0"]]))),
        (json!({"groups": ["claims"], "active": true, "region": ["EU", "US"]}), count(), Rows(json!([["0"]]))),
        (json!({"groups": ["claims"], "active": true, "region": "x' OR 'a'='a"}), count(), Rows(json!([["0"]]))),
    ]
}

/// Pairs about members that are granted or not.
fn of_members() -> Vec<Pair> {
    vec![
        (groups(&["statuses"]), by(&[], &["deals.status"]), Rows(json!([["open"], ["won"]]))),
        (groups(&["statuses"]), by(&[], &["deals.amount"]), Hidden),
        (groups(&["statuses", "amounts"]), by(&[], &["deals.status", "deals.amount"]), Rows(json!([]))),
        (groups(&["statuses", "amounts"]), by(&[], &["deals.status"]), Rows(json!([["open"], ["won"]]))),
        (groups(&["amounts"]), by(&["deals.total"], &[]), Rows(json!([["70"]]))),
        (groups(&["statuses"]), with(&count(), &only("deals.amount", "gt", &["5"])), Rows(json!([["0"]]))),
        (groups(&["statuses"]), with(&count(), &only("deals.best", "gt", &["5"])), Rows(json!([]))),
        (groups(&["statuses"]), with(&count(), &json!({"segments": ["deals.big"]})), Rows(json!([["0"]]))),
        (
            groups(&["statuses"]),
            with(&statuses(), &json!({"order": {"deals.amount": "asc"}})),
            Rows(json!([["open", "1"], ["won", "1"]])),
        ),
        (groups(&["amounts"]), by(&["deals.mean"], &[]), Hidden),
    ]
}

/// Pairs about masks.
fn of_masks() -> Vec<Pair> {
    vec![
        (
            groups(&["masked"]),
            emails(),
            Rows(json!([["1", "***"], ["2", "***"], ["3", "***"], ["4", "***"], ["5", "***"]])),
        ),
        (groups(&["masked"]), by(&["deals.count"], &["deals.email"]), Rows(json!([["***", "5"]]))),
        (groups(&["masked"]), by(&["deals.count"], &["deals.secret"]), Rows(json!([[null, "5"]]))),
        (
            groups(&["masked"]),
            by(&["deals.count"], &["deals.coded"]),
            Rows(json!([["EU", "2"], ["US", "2"], [null, "1"]])),
        ),
        (groups(&["masked"]), by(&["deals.total"], &[]), Rows(json!([["-1"]]))),
        (groups(&["masked"]), by(&["deals.mean"], &[]), Rows(json!([["-0.2"]]))),
        (groups(&["masked"]), with(&count(), &only("deals.email", "equals", &["a@x"])), Rows(json!([["0"]]))),
        (groups(&["masked"]), with(&count(), &only("deals.email", "equals", &["***"])), Rows(json!([["5"]]))),
        (groups(&["masked"]), with(&count(), &only("deals.secret", "set", &[])), Rows(json!([["0"]]))),
        (groups(&["masked"]), with(&count(), &only("deals.total", "gt", &["0"])), Rows(json!([]))),
        (groups(&["masked"]), with(&count(), &json!({"segments": ["deals.named"]})), Rows(json!([["0"]]))),
        (groups(&["masked"]), by(&[], &["deals.contact"]), Rows(json!([["***!"]]))),
        (
            groups(&["masked", "eu"]),
            emails(),
            Rows(json!([["1", "a@x"], ["2", "b@x"], ["3", "***"], ["4", "***"], ["5", "***"]])),
        ),
        (
            groups(&["masked", "eu"]),
            with(&by(&[], &["deals.email"]), &only("deals.region", "equals", &["EU"])),
            Rows(json!([["a@x"], ["b@x"]])),
        ),
        (groups(&["masked", "eu"]), by(&["deals.total"], &[]), Rows(json!([["30"]]))),
        (groups(&["masked", "admin"]), by(&["deals.total"], &[]), Rows(json!([["150"]]))),
    ]
}

/// Pairs about masks of what is computed over results.
fn of_results() -> Vec<Pair> {
    vec![
        (
            groups(&["results"]),
            by(&["deals.mean", "deals.total"], &["deals.region"]),
            Rows(json!([["EU", null, "30"], ["US", null, "70"], [null, null, "50"]])),
        ),
        (groups(&["results"]), by(&["deals.mean", "notes.count"], &[]), Rows(json!([[null, "3"]]))),
        (
            groups(&["results"]),
            with(&by(&["deals.running", "deals.mean", "deals.count"], &[]), &monthly("2024-01-01", "2024-02-29")),
            Rows(json!([[JANUARY, null, null, "3"], [FEBRUARY, null, null, "2"]])),
        ),
        (groups(&["results"]), by(&["deals.any_region", "deals.best"], &[]), Rows(json!([[null, "50"]]))),
        (groups(&["results"]), by(&["deals.place"], &["deals.status"]), Rows(json!([["open", null], ["won", null]]))),
        (groups(&["results"]), with(&count(), &json!({"segments": ["deals.big"]})), Rows(json!([["0"]]))),
        (groups(&["results", "eu"]), by(&["deals.mean"], &[]), Rows(json!([[null]]))),
        (
            groups(&["results", "eu"]),
            with(&by(&["deals.mean"], &[]), &only("deals.region", "equals", &["EU"])),
            Rows(json!([["15"]])),
        ),
        (
            groups(&[]),
            with(&by(&["pushed.count"], &[]), &only("pushed.email", "notEquals", &["a@x"])),
            Rows(json!([["5"]])),
        ),
        (
            groups(&["recent"]),
            with(&by(&["deals.month_before"], &[]), &monthly("2024-02-01", "2024-03-31")),
            Rows(json!([["2024-03-01T00:00:00.000", "50"]])),
        ),
    ]
}

/// Pairs about dimensions that are made of others: links, and those computed over results.
fn of_derived() -> Vec<Pair> {
    let mails = || by(&["deals.count"], &["deals.writer___link_mail_url"]);
    let pages = || by(&["deals.count"], &["deals.writer___link_page_url"]);
    let page = |mail: &str| json!([format!("/dashboard/people?who={mail}%40x"), "1"]);
    let sizes = || by(&["deals.count"], &["deals.size"]);
    vec![
        (groups(&["eu"]), mails(), Rows(json!([["to:a@x", "1"], ["to:b@x", "1"]]))),
        (groups(&["eu"]), pages(), Rows(json!([page("a"), page("b")]))),
        (groups(&["masked"]), mails(), Rows(json!([["to:***", "5"]]))),
        (groups(&["masked"]), pages(), Rows(json!([["/dashboard/people?who=", "5"]]))),
        (groups(&["statuses"]), mails(), Hidden),
        (groups(&[]), mails(), Hidden),
        (
            groups(&["masked"]),
            with(&count(), &only("deals.writer___link_mail_url", "equals", &["to:a@x"])),
            Rows(json!([["0"]])),
        ),
        (
            groups(&["masked", "eu"]),
            with(&mails(), &only("deals.region", "equals", &["EU"])),
            Rows(json!([["to:a@x", "1"], ["to:b@x", "1"]])),
        ),
        (groups(&["admin"]), sizes(), Rows(json!([["big", "3"], ["small", "2"]]))),
        (groups(&["eu"]), sizes(), Rows(json!([["small", "2"]]))),
        (groups(&["us"]), with(&count(), &only("deals.size", "equals", &["small"])), Rows(json!([["0"]]))),
        (groups(&["statuses"]), sizes(), Hidden),
        (groups(&["statuses"]), with(&count(), &only("deals.size", "set", &[])), Rows(json!([["0"]]))),
    ]
}

/// Pairs about views.
fn of_views() -> Vec<Pair> {
    vec![
        (groups(&["eu"]), by(&["open.count"], &[]), Rows(json!([["2"]]))),
        (groups(&[]), by(&["open.count"], &[]), Rows(json!([["0"]]))),
        (groups(&[]), by(&[], &["open.email"]), Rows(json!([]))),
        (groups(&["statuses"]), by(&[], &["open.amount"]), Rows(json!([["10"], ["20"]]))),
        (groups(&["masked"]), by(&["open.count", "open.total"], &["open.email"]), Rows(json!([["***", "5", "-1"]]))),
        (groups(&["eu"]), by(&["guarded.count"], &["guarded.status"]), Rows(json!([["won", "1"]]))),
        (groups(&["eu"]), by(&["guarded.count"], &["guarded.email"]), Hidden),
        (groups(&["us"]), by(&["guarded.count"], &[]), Hidden),
        (groups(&["eu"]), with(&by(&["guarded.count"], &[]), &only("guarded.email", "set", &[])), Rows(json!([["0"]]))),
    ]
}

/// Pairs about queries of several levels, sub-queries, keys and facts.
fn of_levels() -> Vec<Pair> {
    vec![
        (
            groups(&["eu"]),
            with(&by(&["deals.running"], &[]), &monthly("2024-01-01", "2024-02-29")),
            Rows(json!([[JANUARY, "30"], [FEBRUARY, "30"]])),
        ),
        (groups(&["eu"]), by(&["deals.any_region"], &[]), Rows(json!([["20"]]))),
        (
            groups(&["eu"]),
            with(&by(&["deals.any_region"], &["deals.status"]), &only("deals.status", "equals", &["open"])),
            Rows(json!([["open", "10"]])),
        ),
        (groups(&["eu"]), by(&["deals.place"], &["deals.region"]), Rows(json!([["EU", "1"]]))),
        (groups(&["eu"]), with(&by(&[], &["deals.id"]), &json!({"ungrouped": true})), Rows(json!([["1"], ["2"]]))),
        (
            groups(&["masked"]),
            with(
                &by(&["deals.total"], &["deals.id"]),
                &json!({"ungrouped": true, "limit": 1,
            "order": {"deals.id": "asc"}}),
            ),
            Rows(json!([["1", "-1"]])),
        ),
        (groups(&["eu"]), by(&["deals.count"], &["deals.owner_name"]), Rows(json!([["Ann", "2"]]))),
        (
            groups(&["eu"]),
            by(&["owners.count", "deals.best"], &["deals.status"]),
            Rows(json!([["open", "1", "10"], ["won", "1", "20"]])),
        ),
        (groups(&["eu"]), by(&[], &["owners.name", "owners.best_deal"]), Rows(json!([["Ann", "20"], ["Bob", null]]))),
        (
            groups(&["admin"]),
            by(&[], &["owners.name", "owners.best_deal"]),
            Rows(json!([["Ann", "50"], ["Bob", "40"]])),
        ),
        (groups(&["eu"]), by(&["both.count"], &[]), Rows(json!([["2"]]))),
        (groups(&["eu"]), by(&["both.tickets"], &[]), Refused),
        (groups(&["eu"]), by(&["both.count", "both.tickets"], &[]), Refused),
        (groups(&["admin"]), by(&["both.count", "both.tickets"], &[]), Rows(json!([["5", "3"]]))),
        (
            groups(&[]),
            by(&["parcels.count"], &["keyed.id", "keyed.name"]),
            Rows(json!([[null, "Ann", "1"], [null, "Bob", "2"]])),
        ),
    ]
}

fn check_pairs(server: &Server, state: &str) {
    let mut faults = Vec::new();
    for (number, (claims, query, outcome)) in pairs().iter().enumerate() {
        let reply = ask_as(server, claims, LOAD, &json!({"query": query}));
        let given = match reply.status {
            200 => {
                let mut rows: Vec<String> = table(query, reply.value()["data"].as_array().expect("rows"))
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(Value::to_string)
                    .collect();
                rows.sort();
                rows.join(" ")
            }
            _ => reply.error(),
        };
        let right = match outcome {
            Rows(rows) => {
                let mut rows: Vec<String> = rows.as_array().into_iter().flatten().map(Value::to_string).collect();
                rows.sort();
                reply.status == 200 && rows.join(" ") == given
            }
            Hidden => reply.status == 500 && given.starts_with("Error: You requested hidden member: "),
            Refused => reply.status >= 400,
        };
        // The statement and the dry run say no more than the answer.
        let shown = ask_as(server, claims, SQL, &json!({"query": query}));
        let dry = ask_as(server, claims, "/cubejs-api/v1/dry-run", &json!({"query": query}));
        let alike = (shown.status == 200) == (reply.status == 200);
        let dry_alike = !matches!(outcome, Hidden) || dry.status == 500;
        if !(right && alike && dry_alike) {
            let (shown, dry) = (shown.body, dry.status);
            faults.push(format!("{state} {number}: {claims} {query}\n  gave {given}\n  {shown}\n  dry run {dry}"));
        }
    }
    assert!(faults.is_empty(), "{} pairs differ:\n{}", faults.len(), faults.join("\n"));
}

fn start() -> Server {
    Server::start_with(&shop_with(&[MODEL], TABLES), &[("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES)])
}

#[test]
fn who_asks_decides_rows_and_values_from_source_and_from_rollups() {
    let server = start();
    assert!(pairs().len() >= 30);
    check_pairs(&server, "source");
    server.build(&json!({"preAggregations": ["deals.daily", "deals.by_mail", "deals.by_writer", "owners.bests"], "timezones": ["UTC"],
        "contexts": [{"securityContext": {}}]}));
    // The rollups do answer where nothing is hidden.
    let reply = ask_as(&server, &groups(&["admin"]), LOAD, &json!({"query": by(&["deals.total"], &["deals.region"])}));
    assert!(!reply.value()["usedPreAggregations"].as_object().is_none_or(serde_json::Map::is_empty), "{}", reply.body);
    let reply = ask_as(&server, &groups(&["eu"]), LOAD, &json!({"query": by(&["deals.total"], &["deals.status"])}));
    assert!(!reply.value()["usedPreAggregations"].as_object().is_none_or(serde_json::Map::is_empty), "{}", reply.body);
    check_pairs(&server, "rollup");
    server.assert_alive();
}

#[test]
fn answers_for_one_are_never_given_to_another() {
    let server = start();
    let query = by(&["deals.count"], &[]);
    for _ in 0..3 {
        for (group, count) in [("admin", "5"), ("eu", "2"), ("us", "2"), ("admin", "5")] {
            assert_eq!(rows_as(&server, &groups(&[group]), &query), json!([[count]]), "{group}");
        }
        let reply = ask_as(&server, &json!({}), LOAD, &json!({"query": query, "cache": "stale-if-slow"}));
        assert_eq!(reply.status, 500, "{}", reply.body);
    }
}

#[test]
fn several_queries_in_one_request_are_all_restricted() {
    let server = start();
    let load =
        |claims: &Value, query: Value| ask_as(&server, claims, LOAD, &json!({"query": query, "queryType": "multi"}));
    let counts = |body: Value| -> Vec<Value> {
        body["results"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|result| result["data"][0]["deals.count"].clone())
            .collect()
    };
    let ranges = json!([["2024-01-01", "2024-01-31"], ["2024-02-01", "2024-02-29"]]);
    let compared = json!({"measures": ["deals.count"], "timeDimensions": [
        {"dimension": "deals.at", "compareDateRange": ranges}]});
    assert_eq!(counts(load(&groups(&["eu"]), compared.clone()).value()), [json!("2"), json!("0")]);
    assert_eq!(counts(load(&groups(&["admin"]), compared.clone()).value()), [json!("3"), json!("2")]);
    assert_eq!(load(&groups(&[]), compared).status, 500);
    let blended = json!([{"measures": ["deals.count"], "timeDimensions": [{"dimension": "deals.at", "granularity": "year"}]},
        {"measures": ["deals.count"], "timeDimensions": [{"dimension": "deals.at", "granularity": "year"}]}]);
    assert_eq!(counts(load(&groups(&["eu"]), blended.clone()).value()), [json!("2"), json!("2")]);
    assert_eq!(load(&groups(&[]), blended).status, 500);
    let total = with(&by(&[], &["deals.id"]), &json!({"total": true, "limit": 1}));
    let reply = ask_as(&server, &groups(&["eu"]), LOAD, &json!({"query": total}));
    assert_eq!(reply.value()["total"], json!(2), "{}", reply.body);
}

#[test]
fn case_41_members_of_two_policies_need_the_rows_of_both() {
    let server = start();
    let both = groups(&["statuses", "amounts"]);
    assert_eq!(rows_as(&server, &both, &by(&[], &["deals.status", "deals.amount"])), json!([]));
    assert_eq!(rows_as(&server, &both, &by(&[], &["deals.status"])), json!([["open"], ["won"]]));
    let body = json!({"query": by(&[], &["deals.status", "deals.amount"])});
    let text = ask_as(&server, &both, SQL, &body).value()["sql"]["sql"][0].to_string();
    assert!(text.matches("region = $").count() == 2 && text.contains(" AND "), "{text}");
}

#[test]
fn case_42_masks_fall_where_the_query_implies_the_condition() {
    let server = start();
    let who = groups(&["masked", "eu"]);
    let query = by(&[], &["deals.id", "deals.email"]);
    let text = |query: &Value| {
        let reply = ask_as(&server, &who, SQL, &json!({"query": query}));
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.value()["sql"]["sql"][0].as_str().expect("a text").to_owned()
    };
    let conditional = text(&query);
    assert!(conditional.contains("CASE WHEN") && conditional.contains("THEN \"deals\".email ELSE"), "{conditional}");
    for more in [
        only("deals.region", "equals", &["EU"]),
        json!({"filters": [{"and": [{"member": "deals.region", "operator": "equals", "values": ["EU"]}]}]}),
    ] {
        let plain = text(&with(&query, &more));
        assert!(!plain.contains("CASE WHEN"), "{plain}");
    }
    for more in [
        only("deals.region", "equals", &["EU", "US"]),
        only("deals.region", "notEquals", &["US"]),
        json!({"filters": [{"or": [{"member": "deals.region", "operator": "equals", "values": ["EU"]},
            {"member": "deals.status", "operator": "equals", "values": ["won"]}]}]}),
    ] {
        let masked = text(&with(&query, &more));
        assert!(masked.contains("CASE WHEN"), "{masked}");
    }
}

#[test]
fn without_policies_everyone_sees_all() {
    let server = start();
    check_set(&server, &by(&["tickets.count"], &["owners.name"]), &json!([["Ann", "1"], ["Bob", "2"]]));
    assert!(!sql(&server, &by(&["tickets.count"], &[])).contains("WHERE"));
    let reply = server
        .call("POST", LOAD)
        .token(&sign(&json!({}), SECRET))
        .json(&json!({"query": by(&["tickets.count"], &[])}))
        .send();
    assert_eq!(reply.status, 200, "{}", reply.body);
}
