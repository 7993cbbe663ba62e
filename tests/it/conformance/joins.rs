//! Cases 5–12, 14, 15, 26, 38 and 44: joins, rows that joins repeat, sub-query dimensions, paths.

use serde_json::json;

use super::{by, check, check_error, check_sql, shop, shop_and, with};

#[test]
fn case_05_rows_without_a_match_form_the_null_group() {
    let server = shop();
    let query = by(&["orders.revenue"], &["users.city"]);
    check(&server, &query, &json!([["Rome", null], ["Oslo", "3200"], [null, "100"]]));
    let on = "from orders as \"orders\" left join users as \"users\" on \"orders\".user_id = \"users\".id";
    check_sql(&server, &query, &[on, "sum(\"orders\".amount)", "!distinct"]);
}

#[test]
fn case_06_a_count_of_repeated_rows_counts_distinct_keys_in_place() {
    let server = shop();
    let order = json!({"order": [["users.count", "desc"], ["orders.status", "asc"]]});
    let query = with(&by(&["users.count"], &["orders.status"]), &order);
    check(&server, &query, &json!([["paid", "4"], ["new", "1"], [null, "1"]]));
    check_sql(&server, &query, &["count(distinct \"users\".id)", "from orders as", "!\"keys\""]);
}

#[test]
fn case_07_users_balance_by_status_goes_through_distinct_keys() {
    let server = shop();
    let query = by(&["users.total_balance"], &["orders.status"]);
    check(&server, &query, &json!([["paid", "420"], [null, "200"], ["new", "100"]]));
    check_sql(&server, &query, &["select distinct", "\"keys\"", "left join users"]);
}

#[test]
fn case_08_two_cubes_measures_are_joined_null_safely() {
    let server = shop();
    let query = by(&["users.total_balance", "orders.revenue"], &["orders.status"]);
    check(&server, &query, &json!([["paid", "420", "1660"], [null, "200", "300"], ["new", "100", "1340"]]));
    check_sql(&server, &query, &["is not distinct from", "\"keys\""]);
}

#[test]
fn case_09_two_cubes_measures_without_groups_are_crossed() {
    let server = shop();
    let query = by(&["users.total_balance", "orders.revenue"], &[]);
    check(&server, &query, &json!([["420", "3300"]]));
    check_sql(&server, &query, &["cross join"]);
}

#[test]
fn case_10_revenue_by_product_counts_each_order_once_a_product() {
    let server = shop();
    let query = by(&["orders.revenue", "line_items.qty_sum"], &["products.name"]);
    check(&server, &query, &json!([["pen", "1800", "7"], ["ink", "1600", "11"], [null, "300", "2"]]));
    check_sql(&server, &query, &["from line_items as \"line_items\"", "\"keys\""]);
}

#[test]
fn case_11_distinct_counts_stay_in_one_plain_select() {
    let server = shop();
    let query = by(&["orders.buyers", "line_items.count"], &["products.name"]);
    check(&server, &query, &json!([["pen", "3", "5"], ["ink", "2", "3"], [null, "1", "1"]]));
    check_sql(&server, &query, &["count(distinct \"orders\".user_id)", "!\"keys\"", "!select distinct"]);
}

#[test]
fn case_12_averages_are_over_distinct_pairs() {
    let server = shop();
    let query = by(&["orders.avg_amount", "line_items.count"], &["products.name"]);
    check(&server, &query, &json!([["ink", "800", "3"], ["pen", "600", "5"], [null, "300", "1"]]));
    check_sql(&server, &query, &["\"keys\""]);
}

#[test]
fn case_14_a_filter_decides_the_root() {
    let server = shop();
    let filter = json!({"filters": [{"member": "line_items.qty", "operator": "gt", "values": ["1"]}]});
    let query = with(&by(&[], &["users.city"]), &filter);
    check(&server, &query, &json!([["Oslo"], [null]]));
    check_sql(&server, &query, &["from line_items as", "left join orders as", "left join users as"]);
}

#[test]
fn case_15_only_cubes_of_the_query_can_be_the_root() {
    let server = shop();
    check_error(
        &server,
        &by(&[], &["products.name", "users.city"]),
        "Can't find join path to join 'products', 'users'",
    );
    check_error(
        &server,
        &by(&["orders.revenue"], &["products.name"]),
        "Can't find join path to join 'orders', 'products'",
    );
}

#[test]
fn case_26_an_or_over_two_cubes_joins_both() {
    let server = shop();
    let filter = json!({"filters": [{"or": [
        {"member": "orders.status", "operator": "equals", "values": ["paid"]},
        {"member": "users.city", "operator": "equals", "values": ["Oslo"]}]}]});
    let query = with(&by(&["orders.count"], &[]), &filter);
    // Orders 1, 3, 5, 7 are paid; 1, 2, 3, 4, 8 are of Oslo.
    check(&server, &query, &json!([["7"]]));
    check_sql(&server, &query, &["where ((\"orders\".status = $1) or (\"users\".city = $2))", "left join users"]);
}

const ORDER_COUNT: &str = r#"
cubes:
  - name: people
    extends: users
    dimensions:
      - {name: order_count, type: number, sql: "{orders.count}", sub_query: true}
    measures:
      - {name: mean_orders, type: avg, sql: "{order_count}"}
"#;

#[test]
fn case_38_sub_query_dimensions_are_measures_by_row() {
    // Orders of the users: 3, 2, 1, 1 and none.
    let far = "cubes:\n  - name: buys\n    extends: orders\n    joins:\n      - {name: people, relationship: many_to_one, \
               sql: \"{CUBE}.user_id = {people.id}\"}\n";
    let inner = ORDER_COUNT.replace("{orders.count}", "{buys.count}");
    let server = shop_and(&(inner.clone() + far.trim_start_matches("cubes:\n")), &[]);
    let order = json!({"order": {"people.city": "asc"}});
    let query = with(&by(&["people.mean_orders"], &["people.city"]), &order);
    check(&server, &query, &json!([["Oslo", "2.5"], ["Rome", "1"], [null, "1"]]));
    check_sql(&server, &query, &["from users as \"people\" left join (", "\"people__order_count"]);
    let grouped =
        with(&by(&["people.count"], &["people.order_count"]), &json!({"order": {"people.order_count": "asc"}}));
    check(&server, &grouped, &json!([["1", "2"], ["2", "1"], ["3", "1"], [null, "1"]]));
    // Once users reach their orders the inner root is users, and one without orders counts 0.
    let reach = "    joins:\n      - {name: buys, relationship: one_to_many, sql: \"{CUBE}.id = {buys.user_id}\"}\n";
    let reaching = inner.replace("    dimensions:\n", &format!("{reach}    dimensions:\n"));
    let server = shop_and(&(reaching + far.trim_start_matches("cubes:\n")), &[]);
    check(&server, &query, &json!([["Oslo", "2.5"], ["Rome", "0.5"], [null, "1"]]));
}

const DIAMOND: &str = r#"
cubes:
  - name: a
    sql_table: a
    joins:
      - {name: b, relationship: many_to_one, sql: "{CUBE}.b_id = {b.id}"}
      - {name: c, relationship: many_to_one, sql: "{CUBE}.c_id = {c.id}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: d_by_c, sql: "{c.d.name}", type: string}
      - {name: d_by_b, sql: "{b.d.name}", type: string}
    measures:
      - {name: count, type: count}
  - name: b
    sql_table: b
    joins:
      - {name: d, relationship: many_to_one, sql: "{CUBE}.d_id = {d.id}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
  - name: c
    sql_table: c
    joins:
      - {name: d, relationship: many_to_one, sql: "{CUBE}.d_id = {d.id}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: label, sql: label, type: string}
  - name: d
    sql_table: d
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: name, sql: name, type: string}
views:
  - name: through_c
    cubes:
      - {join_path: a, includes: [count]}
      - {join_path: a.c.d, includes: [name]}
"#;

const DIAMOND_DATA: &[(&str, &str)] = &[
    ("a", "id,b_id,c_id\n1,1,1\n2,1,2\n3,2,\n"),
    ("b", "id,d_id\n1,1\n2,2\n"),
    ("c", "id,d_id,label\n1,2,x\n2,3,y\n"),
    ("d", "id,name\n1,one\n2,two\n3,three\n"),
];

#[test]
fn case_44_a_path_chooses_between_two_ways() {
    let server = shop_and(DIAMOND, DIAMOND_DATA);
    let order = |member: &str| json!({"order": {member: "asc"}});
    let by_c = with(&by(&["a.count"], &["a.d_by_c"]), &order("a.d_by_c"));
    check(&server, &by_c, &json!([["three", "1"], ["two", "1"], [null, "1"]]));
    check_sql(&server, &by_c, &["left join c as", "!left join b as"]);
    let by_b = with(&by(&["a.count"], &["a.d_by_b"]), &order("a.d_by_b"));
    check(&server, &by_b, &json!([["one", "2"], ["two", "1"]]));
    check_sql(&server, &by_b, &["left join b as", "!left join c as"]);
    // The way that is declared first, also when the other's cube is in the query.
    let bare = with(&by(&["a.count"], &["d.name"]), &order("d.name"));
    check(&server, &bare, &json!([["one", "2"], ["two", "1"]]));
    let with_c = with(&by(&["a.count"], &["d.name", "c.label"]), &json!({"order": {"c.label": "asc"}}));
    check(&server, &with_c, &json!([["one", "x", "1"], ["one", "y", "1"], ["two", null, "1"]]));
    let view = with(&by(&["through_c.count"], &["through_c.name"]), &order("through_c.name"));
    check(&server, &view, &json!([["three", "1"], ["two", "1"], [null, "1"]]));
    let hinted = with(&bare, &json!({"joinHints": [["a", "c", "d"]]}));
    check(&server, &hinted, &json!([["three", "1"], ["two", "1"], [null, "1"]]));
}
