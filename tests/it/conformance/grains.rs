//! What `data-model.md` §20 says of grains: dimensions over results, fixed grains and conditions, formulas by value.

use serde_json::json;

use super::{by, check, check_error, over, shop_and, with};
use crate::server::Server;

const BUYS: &str = r#"
cubes:
  - name: buyers
    sql_table: buyers
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: city, sql: city, type: string}
  - name: buys
    sql_table: buys
    joins: [{name: buyers, relationship: many_to_one, sql: "{CUBE}.buyer_id = {buyers.id}"}]
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: buyer_id, sql: buyer_id, type: number}
      - {name: status, sql: status, type: string}
      - {name: category, sql: category, type: string}
      - {name: at, sql: at, type: time}
      - {name: city, multi_stage: true, type: string, sql: "{buyers.city}", add_group_by: [buyers.id]}
      - name: size
        multi_stage: true
        type: string
        sql: "CASE WHEN {revenue} >= 40 THEN 'big' ELSE 'small' END"
        add_group_by: [buyer_id]
      - name: trend
        multi_stage: true
        type: string
        sql: >
          CASE WHEN {year_before} IS NULL THEN 'new' WHEN {revenue} > {year_before} THEN 'up' ELSE 'down' END
        add_group_by: [buyer_id]
      - {name: trend_shown, multi_stage: true, type: string, sql: "CONCAT({trend}, '!')"}
    measures:
      - {name: revenue, sql: amount, type: sum}
      - name: year_before
        multi_stage: true
        type: number
        sql: "{revenue}"
        time_shift: [{time_dimension: at, interval: 1 year, type: prior}]
      - {name: total, multi_stage: true, type: sum, sql: "{revenue}", grain: {mode: fixed}}
      - {name: of_status, multi_stage: true, type: sum, sql: "{revenue}", grain: {mode: fixed, keep_only: [status]}}
      - {name: a_here, multi_stage: true, type: number, sql: "{revenue}",
         filter: {include: [{member: category, operator: equals, values: [a]}]}}
      - {name: a_anyway, multi_stage: true, type: number, sql: "{revenue}",
         filter: {mode: fixed, include: [{member: category, operator: equals, values: [a]}]}}
      - {name: done_a_here, multi_stage: true, type: number, sql: "{a_here}",
         filter: {include: [{member: status, operator: equals, values: [done]}]}}
      - {name: done_a_anyway, multi_stage: true, type: number, sql: "{a_anyway}",
         filter: {include: [{member: status, operator: equals, values: [done]}]}}
      - name: weighted
        multi_stage: true
        type: sum
        case:
          switch: "{CUBE.status}"
          when: [{value: done, sql: "{revenue}"}]
          else: {sql: "{revenue} * 0"}
views:
  - name: shown_buys
    cubes: [{join_path: buys, includes: [trend, at, revenue, year_before]}]
"#;

/// Buyer 1: 10, then 35; buyer 2: 50, then 20; nobody: 7 in the second year.
const BUYS_DATA: &[(&str, &str)] = &[
    ("buyers", "id,city\n1,Oslo\n2,Rome\n"),
    (
        "buys",
        "id,buyer_id,status,category,amount,at
1,1,done,a,10,2023-05-01T00:00:00
2,1,done,a,30,2024-05-01T00:00:00
3,1,open,b,5,2024-06-01T00:00:00
4,2,done,b,50,2023-07-01T00:00:00
5,2,open,a,20,2024-07-01T00:00:00
6,,done,a,7,2024-08-01T00:00:00
",
    ),
];

fn buys() -> Server {
    shop_and(BUYS, BUYS_DATA)
}

#[test]
fn dimensions_over_results_are_of_the_groups_of_the_query() {
    let server = buys();
    let by_size = |more| with(&by(&["buys.revenue"], &["buys.size"]), &more);
    check(&server, &by_size(json!({"order": {"buys.size": "asc"}})), &json!([["big", "115"], ["small", "7"]]));
    let open = json!({"filters": [{"member": "buys.status", "operator": "equals", "values": ["open"]}]});
    check(&server, &by_size(open), &json!([["small", "25"]]));
    let some = json!({"filters": [{"or": [
        {"member": "buys.status", "operator": "equals", "values": ["open"]},
        {"member": "buys.buyer_id", "operator": "equals", "values": ["2"]}]}]});
    check(
        &server,
        &by_size(with(&some, &json!({"order": {"buys.size": "asc"}}))),
        &json!([["big", "70"], ["small", "5"]]),
    );
    let order = json!({"order": [["buys.size", "asc"], ["buys.status", "asc"]]});
    let query = with(&by(&["buys.revenue"], &["buys.size", "buys.status"]), &order);
    check(&server, &query, &json!([["big", "done", "90"], ["small", "done", "7"], ["small", "open", "25"]]));
    let order = json!({"order": {"buys.city": "asc"}});
    let query = with(&by(&["buys.revenue"], &["buys.city"]), &order);
    check(&server, &query, &json!([["Oslo", "45"], ["Rome", "70"], [null, "7"]]));
}

#[test]
fn dimensions_over_moved_times_follow_the_buckets_of_the_query() {
    let server = buys();
    let year = ["2024-01-01", "2024-12-31"];
    let start = "2024-01-01T00:00:00.000";
    let expected = |end: &str| {
        let rows = [("down", "20", json!("50")), ("new", "7", json!(null)), ("up", "35", json!("10"))];
        json!(rows.map(|(trend, now, before)| json!([format!("{trend}{end}"), start, now, before])))
    };
    for (dimension, end) in [("trend", ""), ("trend_shown", "!")] {
        let dimension = format!("buys.{dimension}");
        let query = over(&["buys.revenue", "buys.year_before"], "buys.at", "year", year);
        let more = json!({"dimensions": [dimension], "order": {dimension.clone(): "asc"}});
        check(&server, &with(&query, &more), &expected(end));
    }
    let query = over(&["shown_buys.revenue", "shown_buys.year_before"], "shown_buys.at", "year", year);
    let more = json!({"dimensions": ["shown_buys.trend"], "order": {"shown_buys.trend": "asc"}});
    check(&server, &with(&query, &more), &expected(""));
}

#[test]
fn fixed_grains_are_those_of_the_query() {
    let server = buys();
    let order = json!({"order": {"buys.status": "asc"}});
    let query = with(&by(&["buys.revenue", "buys.total", "buys.of_status"], &["buys.status"]), &order);
    check(&server, &query, &json!([["done", "97", "122", "97"], ["open", "25", "122", "25"]]));
    let order = json!({"order": {"buys.category": "asc"}});
    let query = with(&by(&["buys.total", "buys.of_status"], &["buys.category"]), &order);
    check(&server, &query, &json!([["a", "122", "122"], ["b", "122", "122"]]));
}

#[test]
fn fixed_conditions_forget_those_of_measures_above() {
    let server = buys();
    let order = json!({"order": {"buys.status": "asc"}});
    let query = with(&by(&["buys.done_a_here", "buys.done_a_anyway"], &["buys.status"]), &order);
    check(&server, &query, &json!([["done", "47", "47"], ["open", null, "20"]]));
    let of_one = json!({"filters": [{"member": "buys.buyer_id", "operator": "equals", "values": ["1"]}]});
    check(&server, &with(&query, &of_one), &json!([["done", "40", "40"], ["open", null, null]]));
}

#[test]
fn formulas_go_by_the_values_of_any_dimension() {
    let server = buys();
    let query = with(&by(&["buys.weighted"], &["buys.category"]), &json!({"order": {"buys.category": "asc"}}));
    check(&server, &query, &json!([["a", "47"], ["b", "50"]]));
    let query = with(&by(&["buys.weighted"], &["buys.status"]), &json!({"order": {"buys.status": "asc"}}));
    check(&server, &query, &json!([["done", "97"], ["open", "0"]]));
    check(&server, &by(&["buys.weighted"], &[]), &json!([["97"]]));
}

#[test]
fn calendars_replace_standard_buckets() {
    let model = r#"
cubes:
  - name: fiscal
    calendar: true
    sql_table: fiscal
    dimensions:
      - name: day
        sql: "{CUBE}.day"
        type: time
        primary_key: true
        public: true
        granularities: [{name: year, sql: "{CUBE}.year_begin"}]
  - name: sold
    sql_table: sold
    joins: [{name: fiscal, relationship: many_to_one, sql: "{CUBE}.day = {fiscal.day}"}]
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: day, sql: "{CUBE}.day", type: time}
    measures:
      - {name: total, sql: n, type: sum}
      - {name: so_far, sql: n, type: sum, rolling_window: {type: to_date, granularity: year}}
"#;
    let tables = [
        (
            "fiscal",
            "day,year_begin
2024-09-30T00:00:00,2023-10-01T00:00:00
2024-10-01T00:00:00,2024-10-01T00:00:00
2025-01-01T00:00:00,2024-10-01T00:00:00
",
        ),
        ("sold", "id,day,n\n1,2024-09-30T00:00:00,1\n2,2024-10-01T00:00:00,10\n3,2025-01-01T00:00:00,100\n"),
    ];
    let server = shop_and(model, &tables);
    let range = ["2024-01-01", "2025-12-31"];
    for name in ["year", "Year"] {
        let query = over(&["sold.total"], "fiscal.day", name, range);
        check(&server, &query, &json!([["2023-10-01T00:00:00.000", "1"], ["2024-10-01T00:00:00.000", "110"]]));
    }
    let so_far = over(&["sold.so_far"], "fiscal.day", "month", range);
    check_error(&server, &so_far, "to_date by the year of 'fiscal.day' is not possible");
    let plain = over(&["sold.total"], "sold.day", "year", range);
    check(&server, &plain, &json!([["2024-01-01T00:00:00.000", "11"], ["2025-01-01T00:00:00.000", "100"]]));
}
