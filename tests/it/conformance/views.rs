//! Cases 40 and 43 and what `data-model.md` §8, §9 and §11 add: views, inheritance, pushed filters, claims.

use serde_json::{Value, json};

use super::{by, check, check_error, check_sql, over, rows_as, shop_and, with};

const SALES: &str = r#"
views:
  - name: sales
    cubes:
      - join_path: orders
        includes: [count, revenue, created_at, big, {name: status, alias: state}]
      - join_path: orders.users
        prefix: true
        includes: "*"
        excludes: [balance]
  - name: euro
    cubes:
      - join_path: orders
        includes: [count, status, amount]
    default_filters:
      - {member: status, operator: equals, values: [paid], unless: [status]}
      - {member: amount, operator: set}
"#;

#[test]
fn case_40_a_view_starts_from_its_root() {
    let server = shop_and(SALES, &[]);
    let query = by(&[], &["sales.users_city"]);
    check(&server, &query, &json!([["Oslo"], ["Rome"], [null]]));
    check_sql(&server, &query, &["from orders as \"orders\" left join users as \"users\"", "\"sales__users_city\""]);
    // Users without orders are not there: user 5.
    let users =
        with(&by(&["sales.users_count"], &["sales.users_city"]), &json!({"order": {"sales.users_city": "asc"}}));
    check(&server, &users, &json!([["Oslo", "2"], ["Rome", "1"], [null, "1"]]));
    let grouped = by(&["sales.revenue", "sales.users_total_balance"], &["sales.state"]);
    check(&server, &grouped, &json!([["paid", "1660", "420"], ["new", "1340", "100"], [null, "300", "200"]]));
    let big = with(&by(&["sales.count"], &[]), &json!({"segments": ["sales.big"]}));
    check(&server, &big, &json!([["2"]]));
    let monthly = over(&["sales.count"], "sales.created_at", "fiscal_year", ["2024-04-01", "2025-03-31"]);
    check(&server, &monthly, &json!([["2024-04-01T00:00:00.000", "3"]]));
    check_error(
        &server,
        &by(&[], &["sales.users_balance"]),
        "'users_balance' not found for path 'sales.users_balance'",
    );
}

#[test]
fn default_filters_yield_to_filters_only() {
    let server = shop_and(SALES, &[]);
    // Paid with an amount: 1, 3, 7.
    check(&server, &by(&["euro.count"], &[]), &json!([["3"]]));
    check(&server, &by(&["euro.count"], &["euro.status"]), &json!([["paid", "3"]]));
    let new = json!({"filters": [{"member": "euro.status", "operator": "equals", "values": ["new"]}]});
    check(&server, &with(&by(&["euro.count"], &[]), &new), &json!([["3"]]));
    let amounts = json!({"filters": [{"member": "euro.amount", "operator": "gt", "values": ["90"]}]});
    check(&server, &with(&by(&["euro.count"], &[]), &amounts), &json!([["2"]]));
}

const PUSHED: &str = r#"
cubes:
  - name: pushed
    sql: >
      SELECT * FROM orders WHERE {FILTER_PARAMS.pushed.created_at.filter('created_at')}
      AND {FILTER_PARAMS.pushed.status.filter('status')}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: status, sql: status, type: string}
      - {name: amount, sql: amount, type: number}
      - {name: created_at, sql: created_at, type: time}
    measures:
      - {name: count, type: count}
  - name: called
    sql: >
      SELECT * FROM orders WHERE {FILTER_PARAMS.called.created_at.filter(lambda x, y: f"created_at >= {x} AND created_at <= {y}")}
      AND {FILTER_GROUP(FILTER_PARAMS.called.status.filter("status"), FILTER_PARAMS.called.amount.filter("amount"))}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: status, sql: status, type: string}
      - {name: amount, sql: amount, type: number}
      - {name: created_at, sql: created_at, type: time}
    measures:
      - {name: count, type: count}
views:
  - name: over_pushed
    cubes:
      - {join_path: pushed, includes: [count, {name: status, alias: state}]}
"#;

#[test]
fn case_43_filters_reach_into_the_cubes_own_sql() {
    let server = shop_and(PUSHED, &[]);
    let bare = by(&["pushed.count"], &[]);
    check(&server, &bare, &json!([["8"]]));
    check_sql(&server, &bare, &["where (1 = 1) and (1 = 1)"]);
    let january =
        json!({"timeDimensions": [{"dimension": "pushed.created_at", "dateRange": ["2024-01-01", "2024-01-31"]}]});
    let query = with(&bare, &january);
    check(&server, &query, &json!([["3"]]));
    check_sql(&server, &query, &["where (created_at >= $1 and created_at < $2) and (1 = 1)", "\"pushed\".created_at"]);
    // A choice between members says nothing about one of them.
    let either = json!({"filters": [{"or": [
        {"member": "pushed.status", "operator": "equals", "values": ["paid"]},
        {"member": "pushed.amount", "operator": "gt", "values": ["1000"]}]}]});
    check(&server, &with(&bare, &either), &json!([["5"]]));
    check_sql(&server, &with(&bare, &either), &["where (1 = 1) and (1 = 1)"]);
    let both = json!({"filters": [{"or": [
        {"member": "pushed.status", "operator": "equals", "values": ["paid"]},
        {"member": "pushed.status", "operator": "notSet"}]}]});
    check(&server, &with(&bare, &both), &json!([["5"]]));
    check_sql(&server, &with(&bare, &both), &["((status = $1) or (status is null))"]);
    let view = json!({"measures": ["over_pushed.count"],
        "filters": [{"member": "over_pushed.state", "operator": "equals", "values": ["new"]}]});
    check(&server, &view, &json!([["3"]]));
    check_sql(&server, &view, &["and (status = $1)"]);
}

#[test]
fn filter_functions_and_groups_take_values_and_choices() {
    let server = shop_and(PUSHED, &[]);
    let bare = by(&["called.count"], &[]);
    check(&server, &bare, &json!([["8"]]));
    let january =
        json!({"timeDimensions": [{"dimension": "called.created_at", "dateRange": ["2024-01-01", "2024-01-31"]}]});
    check(&server, &with(&bare, &january), &json!([["3"]]));
    check_sql(&server, &with(&bare, &january), &["created_at >= $", "created_at <= $"]);
    let either = json!({"filters": [{"or": [
        {"member": "called.status", "operator": "equals", "values": ["paid"]},
        {"member": "called.amount", "operator": "gt", "values": ["1000"]}]}]});
    check(&server, &with(&bare, &either), &json!([["5"]]));
    check_sql(&server, &with(&bare, &either), &["(status = $1) or (amount > $2)"]);
}

const CLAIMS: &str = r#"
cubes:
  - name: mine
    sql: "SELECT * FROM orders WHERE {SECURITY_CONTEXT.user.ids.filter('user_id')}"
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
    measures:
      - {name: count, type: count}
  - name: strictly
    sql: "SELECT * FROM orders WHERE {SECURITY_CONTEXT.status.requiredFilter('status')}"
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
    measures:
      - {name: count, type: count}
  - name: spliced
    sql: "SELECT * FROM {SECURITY_CONTEXT.table.unsafeValue()}"
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
    measures:
      - {name: count, type: count}
"#;

#[test]
fn claims_filter_rows() {
    let server = shop_and(CLAIMS, &[]);
    let count = |cube: &str, claims: Value| rows_as(&server, &claims, &by(&[&format!("{cube}.count")], &[]));
    assert_eq!(count("mine", json!({})), json!([["8"]]), "a missing claim matches all");
    assert_eq!(count("mine", json!({"user": {"ids": 1}})), json!([["3"]]));
    assert_eq!(count("mine", json!({"user": {"ids": [1, 2]}})), json!([["5"]]));
    assert_eq!(count("mine", json!({"user": {"ids": []}})), json!([["0"]]), "an empty list matches nothing");
    assert_eq!(count("strictly", json!({"status": "paid"})), json!([["4"]]));
    assert_eq!(count("spliced", json!({"table": "users"})), json!([["5"]]));
    check_error(&server, &by(&["strictly.count"], &[]), "Filter for status is required");
}

const CHILD: &str = r#"
cubes:
  - name: big_orders
    extends: orders
    sql: "SELECT * FROM orders WHERE amount >= 200"
    measures:
      - {name: revenue, sql: "{CUBE}.amount * 10", type: sum}
      - {name: mean, sql: "1.0 * {revenue} / {count}", type: number}
"#;

#[test]
fn a_child_replaces_members_and_inherits_the_rest() {
    let server = shop_and(CHILD, &[]);
    let query = by(&["big_orders.revenue", "big_orders.count"], &["users.city"]);
    // Orders 2, 3, 4 and 8, all of Oslo.
    check(&server, &query, &json!([["Oslo", "31000", "4"]]));
    check(&server, &by(&["big_orders.mean"], &[]), &json!([["7750"]]));
    let big = with(&by(&["big_orders.count"], &[]), &json!({"segments": ["big_orders.big"]}));
    check(&server, &big, &json!([["2"]]));
    check(&server, &by(&["orders.revenue"], &[]), &json!([["3300"]]));
}
