//! Cases 1–4, 13, 23–25, 27–30, 39 and 45: one cube, filters, order, rows without groups.

use serde_json::json;

use super::{by, check, check_error, check_set, check_sql, shop, shop_with, sql_and_parameters, with};
use crate::server::Server;

#[test]
fn case_01_a_measure_alone_has_no_groups_and_no_order() {
    let server = shop();
    let query = by(&["orders.count"], &[]);
    check(&server, &query, &json!([["8"]]));
    let parts = ["count(\"orders\".id)", "from orders as \"orders\"", "!group by", "!order by", "limit 10000", "!join"];
    check_sql(&server, &query, &parts);
}

#[test]
fn case_02_dimensions_alone_are_distinct_and_ascending() {
    let server = shop();
    let query = by(&[], &["orders.status"]);
    check(&server, &query, &json!([["new"], ["paid"], [null]]));
    check_sql(&server, &query, &["group by 1", "order by 1 asc"]);
}

#[test]
fn case_03_a_null_group_is_a_row_of_its_own() {
    let server = shop();
    let query = by(&["orders.revenue"], &["orders.status"]);
    check(&server, &query, &json!([["paid", "1660"], ["new", "1340"], [null, "300"]]));
    check_sql(&server, &query, &["group by 1", "order by 2 desc"]);
}

#[test]
fn case_04_an_empty_order_is_no_order() {
    let server = shop();
    for order in [json!({}), json!([])] {
        let query = with(&by(&["orders.revenue"], &["orders.status"]), &json!({"order": order}));
        check_set(&server, &query, &json!([["paid", "1660"], ["new", "1340"], [null, "300"]]));
        check_sql(&server, &query, &["!order by"]);
    }
}

#[test]
fn case_13_measure_filters_keep_groups_without_matches() {
    let server = shop();
    let order = json!({"order": [["orders.paid_count", "desc"], ["orders.status", "asc"]]});
    let query = with(&by(&["orders.paid_count"], &["orders.status"]), &order);
    check(&server, &query, &json!([["paid", "4"], ["new", "0"], [null, "0"]]));
    check_sql(&server, &query, &["case when", "!where"]);
}

#[test]
fn case_23_not_equals_keeps_nulls() {
    let server = shop();
    let filter = json!({"filters": [{"member": "orders.status", "operator": "notEquals", "values": ["paid"]}]});
    let query = with(&by(&["orders.count"], &["orders.status"]), &filter);
    check(&server, &query, &json!([["new", "3"], [null, "1"]]));
    check_sql(&server, &query, &["\"orders\".status <> $1 or \"orders\".status is null"]);
}

#[test]
fn case_24_equals_a_value_or_null() {
    let server = shop();
    let filter = json!({"filters": [{"member": "orders.status", "operator": "equals", "values": ["paid", null]}]});
    let query = with(&by(&["orders.count"], &["orders.status"]), &filter);
    check(&server, &query, &json!([["paid", "4"], [null, "1"]]));
    check_sql(&server, &query, &["or \"orders\".status is null"]);
}

#[test]
fn case_25_contains_escapes_its_wildcards() {
    let server = shop();
    let filter = json!({"filters": [{"member": "products.name", "operator": "contains", "values": ["NIB 50%_"]}]});
    let query = with(&by(&[], &["products.name"]), &filter);
    check(&server, &query, &json!([["Nib 50%_ off"]]));
    let (text, parameters) = sql_and_parameters(&server, &query);
    assert!(text.contains("ILIKE $1"), "{text}");
    assert_eq!(parameters, [r"%NIB 50\%\_%"]);
}

#[test]
fn case_27_a_condition_on_a_dimension_or_a_measure_is_refused() {
    let server = shop();
    let filter = json!({"filters": [{"or": [
        {"member": "orders.count", "operator": "gt", "values": ["5"]},
        {"member": "orders.status", "operator": "equals", "values": ["x"]}]}]});
    let query = with(&by(&["orders.count"], &[]), &filter);
    check_error(&server, &query, "You cannot use dimension and measure in same condition: ");
}

#[test]
fn case_28_a_filter_on_a_measure_need_not_select_it() {
    let server = shop();
    let filter = json!({"filters": [{"member": "orders.count", "operator": "gt", "values": ["1"]}]});
    let query = with(&by(&[], &["users.city"]), &filter);
    // 5 orders of Oslo, 1 of Rome, 2 of no city.
    check(&server, &query, &json!([["Oslo"], [null]]));
    check_sql(&server, &query, &["having (count(\"orders\".id) > $1)", "from orders as \"orders\""]);
}

#[test]
fn case_29_whole_days_bound_date_filters() {
    let server = shop();
    for (operator, count) in
        [("beforeOrOnDate", "6"), ("afterDate", "2"), ("beforeDate", "5"), ("afterOrOnDate", "3"), ("onTheDate", "1")]
    {
        let filter =
            json!({"filters": [{"member": "orders.created_at", "operator": operator, "values": ["2024-04-10"]}]});
        check(&server, &with(&by(&["orders.count"], &[]), &filter), &json!([[count]]));
    }
}

#[test]
fn case_30_segments_stand_in_parentheses_before_filters() {
    let server = shop();
    let more = json!({"segments": ["orders.big"],
        "filters": [{"member": "orders.status", "operator": "equals", "values": ["paid"]}]});
    let query = with(&by(&["orders.count"], &[]), &more);
    check(&server, &query, &json!([["1"]]));
    check_sql(&server, &query, &["where (\"orders\".amount > 1000) and (\"orders\".status = $1)"]);
}

#[test]
fn case_39_ungrouped_rows_show_what_measures_take_in() {
    let strict = [("CUBEJS_ALLOW_UNGROUPED_WITHOUT_PRIMARY_KEY", "false")];
    let server = Server::start_with(&shop_with(&[], &[]), &strict);
    let more = json!({"ungrouped": true, "order": {"orders.id": "asc"}, "limit": 5});
    let query = with(&by(&["orders.count", "orders.revenue", "orders.paid_count"], &["orders.id"]), &more);
    let rows = json!([
        ["1", "1", "100", "1"],
        ["2", "1", "200", null],
        ["3", "1", "1500", "1"],
        ["4", "1", "300", null],
        ["5", "1", null, "1"]
    ]);
    check(&server, &query, &rows);
    let parts = ["case when (\"orders\".id) is not null then 1 end", "\"orders\".amount as", "!group by"];
    check_sql(&server, &query, &parts);
    let keyless = with(&by(&["orders.count"], &["orders.status"]), &json!({"ungrouped": true}));
    let fault = "Ungrouped query requires primary keys to be present in dimensions: 'orders.id'. Pass \
                 allowUngroupedWithoutPrimaryKey option to disable this check.";
    check_error(&server, &keyless, fault);
    let relaxed = Server::start(&shop_with(&[], &[]));
    let keyless = with(&keyless, &json!({"order": {"orders.status": "desc"}}));
    let statuses = [json!(null), json!("paid"), json!("paid"), json!("paid"), json!("paid"), json!("new")];
    let rows = relaxed.rows(&keyless);
    assert_eq!(rows.len(), 8, "rows, not groups");
    let given: Vec<_> = rows.iter().take(6).map(|row| row["orders.status"].clone()).collect();
    assert_eq!(given, statuses);
}

#[test]
fn case_45_the_total_counts_all_groups() {
    let server = shop();
    let query = with(&by(&["orders.revenue"], &["orders.status"]), &json!({"limit": 1, "total": true}));
    let answer = server.load(&query);
    assert_eq!((&answer["total"], answer["data"].as_array().map(Vec::len)), (&json!(3), Some(1)), "{answer}");
}
