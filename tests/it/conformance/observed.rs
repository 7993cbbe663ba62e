//! Observed facts (`data-model.md` §29) and rules of views, inheritance and joins (§7–9) that the cases leave out.

use serde_json::{Value, json};

use super::{by, check, check_error, check_set, check_sql, over, shop_and, shop_with, with};
use crate::server::{printed, run};

const ODD: &str = r#"
cubes:
  - name: odd
    sql: select * from orders
    joins:
      - {name: users, relationship: many_to_one, sql: "{CUBE}.user_id = {users.id}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: f, sql: status, type: string}
      - {name: town, sql: "{users.city}", type: string}
      - {name: at, sql: created_at, type: time}
      - {name: month, sql: "date_part('month', {CUBE.at.month})", type: number}
    measures:
      - {name: count, type: count}
      - {name: revenue, sql: amount, type: sum}
      - {name: answer, sql: "42", type: number}
      - {name: per_user, sql: "1.0 * {revenue} / NULLIF({users.count}, 0)", type: number}
      - {name: towns, sql: "{users.city}", type: count_distinct}
      - {name: week, sql: amount, type: sum, rolling_window: {trailing: 7 day}}
      - {name: rich, sql: amount, type: sum, filters: [{sql: "{users.balance} > 150"}]}
"#;

#[test]
fn plain_facts_of_members() {
    let server = shop_and(ODD, &[]);
    // `select * from t` is a table.
    check_sql(&server, &by(&["odd.count"], &[]), &["from orders as \"odd\""]);
    check_set(&server, &by(&["odd.count"], &["odd.f"]), &json!([["new", "3"], ["paid", "4"], [null, "1"]]));
    // A proxy reads its own cube first.
    let towns = with(&by(&[], &["odd.town"]), &json!({"order": {"odd.town": "asc"}}));
    check(&server, &towns, &json!([["Oslo"], ["Rome"], [null]]));
    check_sql(&server, &towns, &["from orders as \"odd\" left join users as \"users\""]);
    // One row a source row, as there is nothing to group.
    assert_eq!(server.rows(&by(&["odd.answer"], &[])).len(), 8);
    // A measure across cubes stays one select where its leaves can be counted in place.
    check(&server, &by(&["odd.per_user"], &[]), &json!([["825"]]));
    check_sql(&server, &by(&["odd.per_user"], &[]), &["count(distinct \"users\".id)", "!\"keys\""]);
    check(&server, &by(&["odd.towns"], &[]), &json!([["2"]]));
    // Orders 3 and 4 are of user 2.
    check(&server, &by(&["odd.rich"], &[]), &json!([["1800"]]));
    let months = with(&by(&["odd.count"], &["odd.month"]), &json!({"order": {"odd.month": "asc"}}));
    check(&server, &months, &json!([["1", "4"], ["2", "1"], ["3", "1"], ["4", "2"]]));
}

#[test]
fn an_empty_bucket_is_a_row_without_group() {
    let server = shop_and(ODD, &[]);
    let query = with(
        &over(&["odd.week"], "odd.at", "day", ["2024-01-06", "2024-01-07"]),
        &json!({"dimensions": ["odd.f"], "total": true}),
    );
    let rows = json!([[null, "2024-01-06T00:00:00.000", null], ["paid", "2024-01-07T00:00:00.000", "100"]]);
    check(&server, &query, &rows);
    assert_eq!(server.load(&query)["total"], json!(2), "empty buckets count");
}

const VIEWS: &str = r#"
cubes:
  - name: buyers
    extends: users
    sql_alias: b
    joins:
      - {name: purchases, relationship: one_to_many, sql: "{CUBE}.id = {purchases}.user_id"}
    dimensions:
      - {name: bought, sql: "{purchases.count}", type: number, sub_query: true}
  - name: purchases
    sql_table: orders
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: hidden, sql: status, type: string, public: false}
      - {name: at, sql: created_at, type: time}
    measures:
      - {name: count, type: count}
      - {name: revenue, sql: amount, type: sum}
      - {name: ever, sql: amount, type: sum, rolling_window: {trailing: unbounded}}
      - {name: big, sql: amount, type: sum, filters: [{sql: "{CUBE}.amount > 1000"}]}
    segments:
      - {name: paid, sql: "{CUBE}.status = 'paid'"}
views:
  - name: people
    cubes:
      - {join_path: buyers, includes: [count, city, bought, total_balance]}
      - {join_path: buyers.purchases, prefix: true, alias: p, includes: "*"}
  - name: more_people
    extends: people
    cubes:
      - {join_path: buyers, includes: [{name: created_at, alias: since}]}
"#;

#[test]
fn views_show_prefixed_renamed_and_hidden_members() {
    let server = shop_and(VIEWS, &[]);
    let order = json!({"order": {"people.city": "asc"}});
    // The root's rows are all there: user 5 too.
    let query = with(&by(&["people.count", "people.p_count", "people.p_revenue"], &["people.city"]), &order);
    check(&server, &query, &json!([["Oslo", "2", "5", "3200"], ["Rome", "2", "1", null], [null, "1", "1", "60"]]));
    check_set(
        &server,
        &by(&["people.p_count"], &["people.p_hidden"]),
        &json!([["new", "2"], ["paid", "4"], [null, "1"]]),
    );
    check(&server, &with(&by(&["people.p_big"], &[]), &json!({"segments": ["people.p_paid"]})), &json!([["1500"]]));
    let bought = with(&by(&["people.count"], &["people.bought"]), &json!({"order": {"people.bought": "asc"}}));
    check(&server, &bought, &json!([["0", "1"], ["1", "2"], ["2", "1"], ["3", "1"]]));
    let ever = over(&["people.p_ever"], "people.p_at", "year", ["2023-01-01", "2024-12-31"]);
    check(&server, &ever, &json!([["2023-01-01T00:00:00.000", "60"], ["2024-01-01T00:00:00.000", "2160"]]));
    // Balances of users whose rows the purchases repeat.
    let filtered = with(
        &by(&["people.total_balance"], &[]),
        &json!({"filters": [
        {"member": "people.p_count", "operator": "gt", "values": ["0"]}]}),
    );
    check(&server, &filtered, &json!([["920"]]));
    let child = json!({"measures": ["more_people.count"],
        "timeDimensions": [{"dimension": "more_people.since", "granularity": "year"}]});
    check(&server, &child, &json!([["2023-01-01T00:00:00.000", "5"]]));
    check_sql(&server, &by(&["buyers.count"], &[]), &["from users as \"b\"", "\"b__count\""]);
    check_error(&server, &by(&["purchases.count"], &["purchases.hidden"]), "You requested hidden member: ");
}

/// Checks the diagnostics of a model beside the shop's.
#[track_caller]
fn check_fault(model: &str, expected: &str) {
    let project = shop_with(&[model], &[]);
    let output = run(project.path(), &[], &["check", "--project", project.path().to_str().expect("a plain name")]);
    let text = printed(&output);
    assert!(!output.status.success() && text.contains(expected), "{expected}\nis not in\n{text}");
}

fn view(cubes: &str) -> String {
    format!("views:\n  - name: v\n    cubes:\n{cubes}")
}

#[test]
fn faults_of_views_are_told() {
    check_fault(
        &view("      - {join_path: orders, includes: [nothing]}\n"),
        "Member 'nothing' is included in 'v' but not defined in any cube",
    );
    check_fault(
        &view("      - {join_path: orders, includes: [count]}\n      - {join_path: orders.users, includes: [count]}\n"),
        "Included member 'count' conflicts with existing member of 'v'. Please consider excluding this member or assigning it an alias.",
    );
    check_fault(
        &view("      - {join_path: orders, includes: [users.city]}\n"),
        "Paths aren't allowed in cube includes but 'users.city' provided as include member",
    );
    check_fault(&view("      - {join_path: nowhere, includes: \"*\"}\n"), "nowhere");
    let twice = "cubes:\n  - {name: orders, sql_table: x}\n";
    check_fault(twice, "Found duplicate cube name 'orders'.");
    check_fault("views:\n  - {name: orders, cubes: []}\n", "Found conflicting cube and view name 'orders'.");
}

#[test]
fn faults_of_members_and_joins_are_told() {
    let cube = |rest: &str| format!("cubes:\n  - name: c\n    sql_table: orders\n{rest}");
    check_fault(
        &cube("    dimensions:\n      - {name: x, sql: \"{users}.city\", type: string}\n"),
        "Member 'c.x' references foreign cubes: users. Please split and move this definition to corresponding cubes.",
    );
    check_fault(
        &cube("    joins:\n      - {name: nobody, relationship: many_to_one, sql: \"1 = 1\"}\n"),
        "Cube nobody doesn't exist",
    );
    check_fault(
        &cube(
            "    joins:\n      - {name: users, relationship: many_to_one, sql: \"{CUBE}.user_id = {users.id}\"}\n    measures:\n      - {name: count, type: count}\n",
        ),
        "primary key for 'c' is required when join is defined in order to make aggregates work properly",
    );
    check_fault(
        &cube(
            "    dimensions:\n      - {name: x, sql: \"{y}\", type: string}\n      - {name: y, sql: \"{x}\", type: string}\n",
        ),
        "c.x",
    );
    check_fault(
        &cube(
            "    dimensions:\n      - {name: x, sql: x, type: string}\n    measures:\n      - {name: x, type: count}\n",
        ),
        "defined more than once",
    );
    check_fault(
        &cube(
            "    dimensions:\n      - name: t\n        sql: t\n        type: time\n        granularities:\n          - {name: odd, interval: 5 days}\n",
        ),
        "Arbitrary intervals cannot be used without origin point specified",
    );
}

const LOOP: &str = r#"
cubes:
  - name: one
    sql_table: orders
    joins:
      - {name: two, relationship: one_to_one, sql: "{CUBE}.id = {two.id}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
    measures:
      - {name: count, type: count}
  - name: two
    sql_table: users
    joins:
      - {name: one, relationship: one_to_one, sql: "{CUBE}.id = {one.id}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: city, sql: city, type: string}
    measures:
      - {name: count, type: count}
"#;

#[test]
fn a_mutual_pair_of_joins_takes_the_first_hint_as_root() {
    let server = shop_and(LOOP, &[]);
    // Eight orders, five users: what is the root decides which rows are left.
    check(&server, &by(&["one.count", "two.count"], &[]), &json!([["8", "5"]]));
    check(&server, &by(&["two.count", "one.count"], &[]), &json!([["5", "5"]]));
    let by_city: Value = with(&by(&["one.count"], &["two.city"]), &json!({"order": {"two.city": "asc"}}));
    check(&server, &by_city, &json!([["Oslo", "2"], ["Rome", "2"], [null, "4"]]));
}
