//! Cases 16–22 and what `data-model.md` §16 adds: ranges, zones, buckets.

use serde_json::{Value, json};

use super::{by, check, check_error, check_sql, over, shop, shop_and, sql_and_parameters, with};

fn in_january(more: &Value) -> Value {
    let times = json!([{"dimension": "orders.created_at", "dateRange": ["2024-01-01", "2024-01-31"]}]);
    with(&with(&by(&["orders.count"], &[]), &json!({"timeDimensions": times})), more)
}

#[test]
fn case_16_a_range_without_granularity_only_filters() {
    let server = shop();
    let query = in_january(&json!({}));
    check(&server, &query, &json!([["3"]]));
    check_sql(&server, &query, &["!group by", "!created_at_"]);
    let (_, parameters) = sql_and_parameters(&server, &query);
    assert_eq!(parameters, ["2024-01-01T00:00:00.000Z", "2024-02-01T00:00:00.000Z"], "first inside, first after");
    let answer = server.load(&query);
    let range = &answer["query"]["timeDimensions"][0]["dateRange"];
    assert_eq!(range, &json!(["2024-01-01T00:00:00.000", "2024-01-31T23:59:59.999"]));
}

#[test]
fn case_17_bounds_are_of_the_querys_zone() {
    let server = shop();
    let query = in_january(&json!({"timezone": "America/Los_Angeles"}));
    // Order 4, of the first of February 05:00 UTC, is in.
    check(&server, &query, &json!([["4"]]));
    let (_, parameters) = sql_and_parameters(&server, &query);
    assert_eq!(parameters, ["2024-01-01T08:00:00.000Z", "2024-02-01T08:00:00.000Z"]);
}

#[test]
fn case_18_weeks_start_on_monday() {
    let server = shop();
    let query = over(&["orders.count"], "orders.created_at", "week", ["2024-01-01", "2024-01-14"]);
    check(&server, &query, &json!([["2024-01-01T00:00:00.000", "1"], ["2024-01-08T00:00:00.000", "1"]]));
}

#[test]
fn case_19_two_granularities_are_two_columns_and_one_filter() {
    let server = shop();
    let range = json!(["2024-01-01", "2024-02-29"]);
    let query = json!({"measures": ["orders.count"], "timeDimensions": [
        {"dimension": "orders.created_at", "granularity": "day", "dateRange": range},
        {"dimension": "orders.created_at", "granularity": "month", "dateRange": range}]});
    let (january, february) = ("2024-01-01T00:00:00.000", "2024-02-01T00:00:00.000");
    let rows = json!([
        ["2024-01-07T00:00:00.000", january, "1"],
        ["2024-01-08T00:00:00.000", january, "1"],
        ["2024-01-31T00:00:00.000", january, "1"],
        [february, february, "1"]
    ]);
    check(&server, &query, &rows);
    check_sql(&server, &query, &["orders__created_at_day", "orders__created_at_month", "group by 1, 2"]);
    let (text, parameters) = sql_and_parameters(&server, &query);
    assert_eq!((text.matches("$1").count(), parameters.len()), (1, 2), "{text}");
}

#[test]
fn case_20_buckets_without_rows_are_absent() {
    let server = shop();
    let query = over(&["orders.count"], "orders.created_at", "month", ["2024-01-01", "2024-04-30"]);
    let rows =
        json!([["2024-01-01T00:00:00.000", "3"], ["2024-02-01T00:00:00.000", "1"], ["2024-04-01T00:00:00.000", "2"]]);
    check(&server, &query, &rows);
}

#[test]
fn case_21_weeks_can_start_on_sunday() {
    let server = shop();
    let query = over(&["orders.count"], "orders.created_at", "sunday_week", ["2024-01-01", "2024-01-20"]);
    check(&server, &query, &json!([["2024-01-07T00:00:00.000", "2"]]));
}

#[test]
fn case_22_years_can_start_in_april() {
    let server = shop();
    let query = over(&["orders.count"], "orders.created_at", "fiscal_year", ["2023-01-01", "2025-12-31"]);
    let rows =
        json!([["2022-04-01T00:00:00.000", "1"], ["2023-04-01T00:00:00.000", "4"], ["2024-04-01T00:00:00.000", "3"]]);
    check(&server, &query, &rows);
}

#[test]
fn an_unknown_granularity_is_named() {
    let server = shop();
    let query = over(&["orders.count"], "orders.created_at", "moon", ["2023-01-01", "2025-12-31"]);
    check_error(&server, &query, "Granularity \"moon\" does not exist in dimension orders.created_at");
}

const CLOCK: &str = r#"
cubes:
  - name: clock
    sql_table: clock
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true, public: true}
      - name: at
        sql: at
        type: time
        granularities:
          - {name: quarter_hour, interval: 15 minutes}
          - {name: half, interval: 6 months}
          - {name: ten_days, interval: 10 days, origin: "2024-02-25"}
          - {name: late_day, interval: 1 day, offset: 6 hours}
      - {name: month, sql: "{CUBE.at.month}", type: time}
      - {name: zoned, sql: "{SQL_UTILS.convertTz('at')}", type: string}
    measures:
      - {name: count, type: count}
      - {name: last, sql: "max({CUBE}.at)", type: time}
"#;

/// The clocks of Los Angeles went from 02:00 to 03:00 on the 10th of March 2024.
const CLOCK_DATA: &[(&str, &str)] = &[(
    "clock",
    "id,at
1,2024-01-01T00:14:59
2,2024-01-01T00:15:00
3,2024-03-10T09:59:00
4,2024-03-10T10:00:00
5,2024-07-01T00:00:00
",
)];

fn clock(granularity: &str, zone: &str, range: [&str; 2]) -> Value {
    with(&over(&["clock.count"], "clock.at", granularity, range), &json!({"timezone": zone}))
}

#[test]
fn custom_granularities_bin_by_calendar_months_and_given_origins() {
    let server = shop_and(CLOCK, CLOCK_DATA);
    let year = ["2024-01-01", "2024-12-31"];
    let quarter_hours = json!([["2024-01-01T00:00:00.000", "1"], ["2024-01-01T00:15:00.000", "1"]]);
    check(&server, &clock("quarter_hour", "UTC", ["2024-01-01", "2024-01-31"]), &quarter_hours);
    let halves = json!([["2024-01-01T00:00:00.000", "4"], ["2024-07-01T00:00:00.000", "1"]]);
    check(&server, &clock("half", "UTC", year), &halves);
    let tens = json!([["2024-03-06T00:00:00.000", "2"]]);
    check(&server, &clock("ten_days", "UTC", ["2024-03-01", "2024-03-31"]), &tens);
    let late = json!([["2023-12-31T06:00:00.000", "2"]]);
    check(&server, &clock("late_day", "UTC", ["2024-01-01", "2024-01-01"]), &late);
}

#[test]
fn buckets_follow_the_zones_clock() {
    let server = shop_and(CLOCK, CLOCK_DATA);
    // 09:59 UTC is 01:59 there, 10:00 UTC is 03:00.
    let hours = json!([["2024-03-10T01:00:00.000", "1"], ["2024-03-10T03:00:00.000", "1"]]);
    check(&server, &clock("hour", "America/Los_Angeles", ["2024-03-10", "2024-03-10"]), &hours);
    let months = json!([["2023-12-01T00:00:00.000", "2"]]);
    check(&server, &clock("month", "America/Los_Angeles", ["2023-12-01", "2024-01-31"]), &months);
}

#[test]
fn a_time_dimension_without_granularity_is_local_too() {
    let server = shop_and(CLOCK, CLOCK_DATA);
    let only = json!({"timezone": "Asia/Tokyo",
        "filters": [{"member": "clock.id", "operator": "equals", "values": ["5"]}]});
    check(&server, &with(&by(&[], &["clock.at"]), &only), &json!([["2024-07-01T09:00:00.000"]]));
    // A measure of type time is not converted.
    check(&server, &with(&by(&["clock.last"], &[]), &only), &json!([["2024-07-01T00:00:00.000"]]));
}
