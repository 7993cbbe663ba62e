//! Cases 31–37 and what `data-model.md` §19 and §20 add: rolling windows, measures over results of measures.

use serde_json::{Value, json};

use super::{by, check, check_error, over, shop_and, with};
use crate::server::Server;

const VISITS: &str = r#"
cubes:
  - name: visits
    sql_table: visits
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: user_id, sql: user_id, type: number}
      - {name: page, sql: page, type: string}
      - {name: at, sql: at, type: time}
    measures:
      - {name: count, type: count}
      - {name: total, sql: amount, type: sum}
      - {name: week, sql: amount, type: sum, rolling_window: {trailing: 7 day}}
      - {name: week_count, type: count, rolling_window: {trailing: 7 day}}
      - {name: next_day, sql: amount, type: sum, rolling_window: {leading: 1 day}}
      - {name: coming, sql: amount, type: sum, rolling_window: {leading: 2 day, offset: start}}
      - {name: before, sql: amount, type: sum, rolling_window: {trailing: unbounded, offset: start}}
      - {name: month_to_date, sql: amount, type: sum, rolling_window: {type: to_date, granularity: month}}
      - {name: all_users, sql: user_id, type: count_distinct, rolling_window: {trailing: unbounded}}
      - {name: grand, sql: amount, type: sum, rolling_window: {trailing: unbounded, leading: unbounded}}
      - {name: mean_week, sql: amount, type: avg, rolling_window: {trailing: 7 day}}
      - {name: month_row, sql: amount, type: sum, rolling_window: {trailing: 1 month}}
      - {name: share_of_week, sql: "1.0 * {total} / {week}", type: number}
      - name: last_year
        multi_stage: true
        type: number
        sql: "{total}"
        time_shift: [{time_dimension: at, interval: 1 year, type: prior}]
      - name: next_year
        multi_stage: true
        type: number
        sql: "{total}"
        time_shift: [{interval: 1 year, type: next}]
      - name: mtd_last_year
        multi_stage: true
        type: number
        sql: "{month_to_date}"
        time_shift: [{interval: 1 year, type: prior}]
      - {name: growth, multi_stage: true, type: number, sql: "{total} - {last_year}"}
      - name: twice
        multi_stage: true
        type: number
        sql: "{last_year}"
        time_shift: [{interval: 1 year, type: prior}]
"#;

const VISITS_DATA: &[(&str, &str)] = &[(
    "visits",
    "id,at,user_id,page,amount
1,2024-01-03T23:00:00,1,home,1
2,2024-01-04T00:00:00,2,home,10
3,2024-01-10T12:00:00,1,home,100
4,2024-01-11T08:00:00,3,cart,1000
5,2024-02-01T09:00:00,1,home,10000
6,2024-02-03T09:00:00,2,cart,100000
7,2023-03-05T00:00:00,1,home,5
8,2023-01-15T00:00:00,1,home,7
",
)];

fn visits() -> Server {
    shop_and(VISITS, VISITS_DATA)
}

/// Days of January 2024, by their numbers.
fn days(values: &[(u32, Value)]) -> Value {
    values.iter().map(|(day, value)| json!([format!("2024-01-{day:02}T00:00:00.000"), value])).collect()
}

fn daily(measure: &str, range: [&str; 2]) -> Value {
    over(&[measure], "visits.at", "day", range)
}

const MID_JANUARY: [&str; 2] = ["2024-01-10", "2024-01-12"];

#[test]
fn case_31_windows_read_rows_before_the_range() {
    let server = visits();
    let expected = days(&[(10, json!("110")), (11, json!("1100")), (12, json!("1100"))]);
    check(&server, &daily("visits.week", MID_JANUARY), &expected);
}

#[test]
fn case_32_windows_to_date_start_again_each_month() {
    let server = visits();
    let rows = server.rows(&daily("visits.month_to_date", ["2024-01-10", "2024-02-05"]));
    let values: Vec<&str> = rows.iter().map(|row| row["visits.month_to_date"].as_str().expect("a text")).collect();
    let expected: Vec<&str> = [vec!["111"], vec!["1111"; 21], vec!["10000"; 2], vec!["110000"; 3]].concat();
    assert_eq!(values, expected);
    assert_eq!(rows[0]["visits.at.day"], json!("2024-01-10T00:00:00.000"));
}

#[test]
fn case_33_cumulative_distinct_counts_are_over_rows() {
    let server = visits();
    let expected = days(&[(10, json!("2")), (11, json!("3")), (12, json!("3"))]);
    check(&server, &daily("visits.all_users", MID_JANUARY), &expected);
}

#[test]
fn case_34_months_of_one_side_only_are_listed() {
    let server = visits();
    let query = over(&["visits.total", "visits.last_year"], "visits.at", "month", ["2024-01-01", "2024-03-31"]);
    let rows = json!([
        ["2024-01-01T00:00:00.000", "1111", "7"],
        ["2024-02-01T00:00:00.000", "110000", null],
        ["2024-03-01T00:00:00.000", null, "5"]
    ]);
    check(&server, &query, &rows);
}

#[test]
fn rolling_windows_of_every_kind() {
    let server = visits();
    let cases: &[(&str, [Value; 3])] = &[
        ("visits.week_count", [json!("2"), json!("2"), json!("2")]),
        ("visits.next_day", [json!("1000"), json!(null), json!(null)]),
        ("visits.coming", [json!("1100"), json!("1000"), json!(null)]),
        ("visits.before", [json!("23"), json!("123"), json!("1123")]),
        ("visits.grand", [json!("111123"), json!("111123"), json!("111123")]),
        ("visits.mean_week", [json!("55"), json!("550"), json!("550")]),
    ];
    for (measure, values) in cases {
        let expected: Vec<(u32, Value)> = (10..).zip(values.iter().cloned()).collect();
        check(&server, &daily(measure, MID_JANUARY), &days(&expected));
    }
    // The first windows after nothing: null, also of a count.
    let expected = days(&[(29, json!(null)), (30, json!(null))]);
    check(&server, &daily("visits.week_count", ["2024-01-29", "2024-01-30"]), &expected);
}

#[test]
fn a_months_window_by_months_is_that_month() {
    let server = visits();
    let query = over(&["visits.month_row"], "visits.at", "month", ["2024-02-01", "2024-02-29"]);
    check(&server, &query, &json!([["2024-02-01T00:00:00.000", "110000"]]));
}

#[test]
fn windows_without_granularity_end_with_the_range() {
    let server = visits();
    let ranged = |measure: &str, range: Value| {
        let times = json!([{"dimension": "visits.at", "dateRange": range}]);
        json!({"measures": [measure], "timeDimensions": times})
    };
    check(&server, &ranged("visits.week", json!(["2024-01-11", "2024-01-11"])), &json!([["1100"]]));
    check(&server, &ranged("visits.month_to_date", json!(["2024-01-04", "2024-01-10"])), &json!([["111"]]));
    check(&server, &ranged("visits.before", json!(["2024-01-04", "2024-01-10"])), &json!([["13"]]));
    check(&server, &json!({"measures": ["visits.week"]}), &json!([["111123"]]));
}

#[test]
fn windows_without_range_cover_the_rows() {
    let server = visits();
    let only = json!({"filters": [{"member": "visits.page", "operator": "equals", "values": ["cart"]}]});
    let times = json!({"timeDimensions": [{"dimension": "visits.at", "granularity": "month"}]});
    let query = with(&with(&by(&["visits.before"], &[]), &times), &only);
    check(&server, &query, &json!([["2024-01-01T00:00:00.000", null], ["2024-02-01T00:00:00.000", "1000"]]));
}

#[test]
fn windows_stand_beside_plain_measures_and_other_groups() {
    let server = visits();
    let query = over(&["visits.week", "visits.total"], "visits.at", "day", MID_JANUARY);
    let rows = json!([
        ["2024-01-10T00:00:00.000", "110", "100"],
        ["2024-01-11T00:00:00.000", "1100", "1000"],
        ["2024-01-12T00:00:00.000", "1100", null]
    ]);
    check(&server, &query, &rows);
    let share = over(&["visits.share_of_week"], "visits.at", "day", ["2024-01-10", "2024-01-10"]);
    let rows = server.rows(&share);
    let value: f64 = rows[0]["visits.share_of_week"].as_str().expect("a text").parse().expect("a number");
    assert!((value - 100.0 / 110.0).abs() < 1e-9, "{rows:?}");
    let paged = with(
        &daily("visits.week", MID_JANUARY),
        &json!({"dimensions": ["visits.page"],
        "order": [["visits.at", "asc"], ["visits.page", "asc"]]}),
    );
    let rows = json!([
        ["home", "2024-01-10T00:00:00.000", "110"],
        ["cart", "2024-01-11T00:00:00.000", "1000"],
        ["home", "2024-01-11T00:00:00.000", "100"],
        ["cart", "2024-01-12T00:00:00.000", "1000"],
        ["home", "2024-01-12T00:00:00.000", "100"]
    ]);
    check(&server, &paged, &rows);
    let total = with(&daily("visits.week", MID_JANUARY), &json!({"total": true, "limit": 1}));
    assert_eq!(server.load(&total)["total"], json!(3));
}

#[test]
fn windows_keep_the_other_filters_and_the_zone() {
    let server = visits();
    let only = json!({"filters": [{"member": "visits.page", "operator": "equals", "values": ["home"]}]});
    let expected = days(&[(10, json!("110")), (11, json!("100")), (12, json!("100"))]);
    check(&server, &with(&daily("visits.week", MID_JANUARY), &only), &expected);
    // 2024-01-11 08:00 UTC is the first instant of that day in Los Angeles.
    let zone = json!({"timezone": "America/Los_Angeles"});
    let expected = days(&[(10, json!("100")), (11, json!("1100")), (12, json!("1100"))]);
    check(&server, &with(&daily("visits.week", MID_JANUARY), &zone), &expected);
}

#[test]
fn ranges_of_two_lengths_on_one_time_make_no_series() {
    let server = visits();
    let query = json!({"measures": ["visits.week"], "timeDimensions": [
        {"dimension": "visits.at", "granularity": "day", "dateRange": ["2024-01-01", "2024-01-02"]},
        {"dimension": "visits.at", "granularity": "month", "dateRange": ["2024-01-01", "2024-01-31"]}]});
    check_error(&server, &query, "Can't build query for time dimensions with different date ranges");
}

#[test]
fn times_are_shifted_both_ways_and_through_windows() {
    let server = visits();
    let next = over(&["visits.next_year"], "visits.at", "month", ["2023-01-01", "2023-03-31"]);
    check(&server, &next, &json!([["2023-01-01T00:00:00.000", "1111"], ["2023-02-01T00:00:00.000", "110000"]]));
    let shifted = over(&["visits.mtd_last_year"], "visits.at", "day", ["2024-01-14", "2024-01-16"]);
    let expected = days(&[(14, json!(null)), (15, json!("7")), (16, json!("7"))]);
    check(&server, &shifted, &expected);
    let growth = over(&["visits.growth"], "visits.at", "month", ["2024-01-01", "2024-01-31"]);
    check(&server, &growth, &json!([["2024-01-01T00:00:00.000", "1104"]]));
    let twice = over(&["visits.twice"], "visits.at", "month", ["2024-01-01", "2024-01-31"]);
    check_error(&server, &twice, "Hierarchical time shift is not supported but was provided for 'visits.at'");
    // A range alone is shifted too.
    let times = json!([{"dimension": "visits.at", "dateRange": ["2024-01-01", "2024-03-31"]}]);
    check(&server, &json!({"measures": ["visits.last_year"], "timeDimensions": times}), &json!([["12"]]));
}

const SALES: &str = r#"
cubes:
  - name: sales
    sql_table: sales
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: country, sql: country, type: string}
      - {name: product, sql: product, type: string}
      - {name: user_id, sql: user_id, type: number}
      - {name: user_class, type: string, multi_stage: true, sql: "CASE WHEN {revenue} >= 80 THEN 'big' ELSE 'small' END", add_group_by: [user_id]}
    measures:
      - {name: count, type: count}
      - {name: revenue, sql: amount, type: sum}
      - {name: country_rev, multi_stage: true, type: sum, sql: "{revenue}", grain: {keep_only: [country]}}
      - {name: country_rev_old, multi_stage: true, type: sum, sql: "{revenue}", group_by: [country]}
      - {name: all_products, multi_stage: true, type: sum, sql: "{revenue}", grain: {exclude: [product]}}
      - {name: share, multi_stage: true, type: number, sql: "1.0 * {revenue} / NULLIF({country_rev}, 0)"}
      - {name: avg_user_rev, multi_stage: true, type: avg, sql: "{revenue}", grain: {include: [user_id]}}
      - {name: max_user_rev, multi_stage: true, type: max, sql: "{revenue}", add_group_by: [user_id]}
      - {name: place, multi_stage: true, type: rank, order_by: [{sql: "{revenue}", dir: desc}], grain: {exclude: [product]}}
      - {name: overall, multi_stage: true, type: rank, order_by: [{sql: "{revenue}", dir: desc}]}
      - {name: any_product, multi_stage: true, type: sum, sql: "{revenue}", filter: {exclude: [product]}}
      - {name: by_country_filter, multi_stage: true, type: sum, sql: "{revenue}", filter: {keep_only: [country]}}
      - name: pens
        multi_stage: true
        type: sum
        sql: "{revenue}"
        filter: {include: [{member: product, operator: equals, values: [pen]}]}
views:
  - name: shown
    cubes:
      - {join_path: sales, includes: [country, product, share, place, revenue]}
"#;

/// NO: pen 30 of two users, ink 70; SE: pen 40, ink 60, cap 100.
const SALES_DATA: &[(&str, &str)] = &[(
    "sales",
    "id,country,product,user_id,amount
1,NO,pen,1,10
2,NO,pen,2,20
3,NO,ink,1,70
4,SE,pen,3,40
5,SE,ink,3,60
6,SE,cap,4,100
",
)];

fn sales() -> Server {
    shop_and(SALES, SALES_DATA)
}

fn by_product(measure: &str) -> Value {
    let order = json!({"order": [["sales.country", "asc"], ["sales.product", "asc"]]});
    with(&by(&[measure], &["sales.country", "sales.product"]), &order)
}

/// One value for each of NO ink, NO pen, SE cap, SE ink, SE pen.
fn five(values: [&str; 5]) -> Value {
    let groups = [("NO", "ink"), ("NO", "pen"), ("SE", "cap"), ("SE", "ink"), ("SE", "pen")];
    groups.iter().zip(values).map(|((country, product), value)| json!([country, product, value])).collect()
}

#[test]
fn case_35_shares_add_up_to_one_in_each_country() {
    let server = sales();
    check(&server, &by_product("sales.share"), &five(["0.7", "0.3", "0.5", "0.3", "0.2"]));
    for measure in ["sales.country_rev", "sales.country_rev_old", "sales.all_products"] {
        check(&server, &by_product(measure), &five(["100", "100", "200", "200", "200"]));
    }
    let order = json!({"order": [["shown.country", "asc"], ["shown.product", "asc"]]});
    let view = with(&by(&["shown.share"], &["shown.country", "shown.product"]), &order);
    check(&server, &view, &five(["0.7", "0.3", "0.5", "0.3", "0.2"]));
}

#[test]
fn case_36_averages_of_sums_are_taken_a_user() {
    let server = sales();
    let order = json!({"order": {"sales.country": "asc"}});
    let query = with(&by(&["sales.avg_user_rev", "sales.max_user_rev"], &["sales.country"]), &order);
    check(&server, &query, &json!([["NO", "50", "80"], ["SE", "100", "100"]]));
    check(&server, &by(&["sales.avg_user_rev"], &[]), &json!([["75"]]));
}

#[test]
fn case_37_ranks_count_within_a_country() {
    let server = sales();
    check(&server, &by_product("sales.place"), &five(["1", "2", "1", "2", "3"]));
    check(&server, &by_product("sales.overall"), &five(["2", "5", "1", "3", "4"]));
    let order = json!({"order": [["shown.country", "asc"], ["shown.product", "asc"]]});
    let view = with(&by(&["shown.place"], &["shown.country", "shown.product"]), &order);
    check(&server, &view, &five(["1", "2", "1", "2", "3"]));
    // A filter on the rank acts on what was ranked.
    let first = json!({"filters": [{"member": "sales.place", "operator": "equals", "values": ["1"]}]});
    let query = with(&by_product("sales.revenue"), &first);
    check(&server, &query, &json!([["NO", "ink", "70"], ["SE", "cap", "100"]]));
}

#[test]
fn filter_directives_widen_values_and_not_rows() {
    let server = sales();
    let ink = json!({"filters": [{"member": "sales.product", "operator": "equals", "values": ["ink"]}],
        "order": {"sales.country": "asc"}});
    let query = with(&by(&["sales.revenue", "sales.any_product"], &["sales.country"]), &ink);
    check(&server, &query, &json!([["NO", "70", "100"], ["SE", "60", "200"]]));
    let cap = json!({"filters": [{"member": "sales.product", "operator": "equals", "values": ["cap"]}]});
    let query = with(&by(&["sales.any_product"], &["sales.country"]), &cap);
    check(&server, &query, &json!([["SE", "200"]]));
    let query = with(&by(&["sales.by_country_filter"], &["sales.country"]), &cap);
    check(&server, &query, &json!([["SE", "200"]]));
    let query =
        with(&by(&["sales.revenue", "sales.pens"], &["sales.country"]), &json!({"order": {"sales.country": "asc"}}));
    check(&server, &query, &json!([["NO", "100", "30"], ["SE", "200", "40"]]));
}

#[test]
fn a_multi_stage_dimension_groups_by_results() {
    let server = sales();
    let order = json!({"order": {"sales.user_class": "asc"}});
    // Users 1 (80), 3 and 4 (100) are big, user 2 (20) is small.
    let query = with(&by(&["sales.revenue"], &["sales.user_class"]), &order);
    check(&server, &query, &json!([["big", "280"], ["small", "20"]]));
}
