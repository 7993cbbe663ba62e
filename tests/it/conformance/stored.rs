//! Levels of a plan answered by rollups: the same rows as from the source.

use serde_json::{Value, json};

use super::{by, over, shop_with, table, with};
use crate::server::{ALL_SCOPES, Server};

const MODEL: &str = r#"
cubes:
  - name: stays
    sql_table: stays
    joins:
      - {name: towns, relationship: many_to_one, sql: "{CUBE}.town_id = {towns.id}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: kind, sql: kind, type: string}
      - {name: guest, sql: guest, type: number}
      - name: at
        sql: at
        type: time
        granularities:
          - {name: sunday_week, interval: 1 week, offset: -1 day}
    measures:
      - {name: count, type: count}
      - {name: total, sql: nights, type: sum}
      - {name: longest, sql: nights, type: max}
      - {name: mean, sql: nights, type: avg}
      - {name: week, sql: nights, type: sum, rolling_window: {trailing: 7 day}}
      - {name: week_mean, sql: nights, type: avg, rolling_window: {trailing: 7 day}}
      - {name: week_longest, sql: nights, type: max, rolling_window: {trailing: 7 day}}
      - {name: two_hours, sql: nights, type: sum, rolling_window: {trailing: 2 hour}}
      - {name: month_to_date, type: count, rolling_window: {type: to_date, granularity: month}}
      - {name: ever, type: count, rolling_window: {trailing: unbounded}}
      - {name: guests, sql: guest, type: count_distinct}
      - {name: guests_about, sql: guest, type: count_distinct_approx}
      - {name: guests_ever, sql: guest, type: count_distinct, rolling_window: {trailing: unbounded}}
      - {name: guests_of_week, sql: guest, type: count_distinct, rolling_window: {trailing: 7 day}}
      - {name: guests_of_month, sql: guest, type: count_distinct, rolling_window: {trailing: 1 month}}
      - {name: about_of_week, sql: guest, type: count_distinct_approx, rolling_window: {trailing: 7 day}}
      - {name: kinds_to_date, sql: kind, type: count_distinct, rolling_window: {type: to_date, granularity: year}}
      - {name: long_guests, sql: guest, type: count_distinct, filters: [{sql: "{CUBE}.nights > 3"}]}
      - {name: per_guest, sql: "{mean} * 1.0 / NULLIF({guests}, 0)", type: number}
      - {name: town_names, sql: "{towns.name}", type: count_distinct}
      - name: last_year
        multi_stage: true
        type: number
        sql: "{total}"
        time_shift: [{time_dimension: at, interval: 1 year, type: prior}]
      - {name: kind_total, multi_stage: true, type: sum, sql: "{total}", grain: {keep_only: [kind]}}
      - {name: share, multi_stage: true, type: number, sql: "1.0 * {total} / NULLIF({kind_total}, 0)"}
      - {name: place, multi_stage: true, type: rank, order_by: [{sql: "{total}", dir: desc}], grain: {exclude: [kind]}}
      - {name: best_kind, multi_stage: true, type: max, sql: "{total}", grain: {include: [kind]}}
      - {name: per_town, sql: "1.0 * {total} / {towns.count}", type: number}
    pre_aggregations:
      - name: hourly
        measures:
          [count, total, longest, mean, week, week_mean, week_longest, two_hours, month_to_date, ever, guests,
           guests_about, guests_ever, guests_of_week, guests_of_month, about_of_week, kinds_to_date, long_guests,
           town_names]
        dimensions: [kind, towns.name]
        time_dimension: at
        granularity: hour
        partition_granularity: month
  - name: towns
    sql_table: towns
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: name, sql: name, type: string}
    measures:
      - {name: count, type: count}
  - name: meals
    sql_table: meals
    joins:
      - {name: towns, relationship: many_to_one, sql: "{CUBE}.town_id = {towns.id}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
    measures:
      - {name: eaten, sql: plates, type: sum}
    pre_aggregations:
      - name: plates
        measures: [eaten]
        dimensions: [towns.name]
views:
  - name: travel
    cubes:
      - {join_path: stays, includes: [total, week, share, kind, at, mean, guests, guests_ever, per_guest]}
      - {join_path: stays.towns, includes: [{name: name, alias: town}]}
"#;

const TABLES: &[(&str, &str)] = &[
    (
        "stays",
        "id,kind,guest,town_id,nights,at
1,hotel,1,1,2,2023-03-01T10:00:00
2,tent,2,1,3,2023-03-02T23:30:00
3,hotel,1,2,1,2024-03-01T00:00:00
4,tent,3,,4,2024-03-03T12:15:00
5,,2,1,5,2024-03-08T09:59:00
6,hotel,1,2,6,2024-03-10T08:30:00
7,hotel,4,2,,2024-03-10T10:30:00
8,tent,2,1,7,2024-03-31T01:30:00
9,tent,5,2,8,2024-04-01T00:00:00
",
    ),
    ("towns", "id,name\n1,Oslo\n2,Rome\n3,Bern\n"),
    ("meals", "id,town_id,plates\n1,1,10\n2,1,20\n3,3,5\n4,,1\n"),
];

const MARCH: [&str; 2] = ["2024-03-01", "2024-03-31"];

fn queries() -> Vec<Value> {
    let kinds = json!({"dimensions": ["stays.kind"]});
    let los_angeles = json!({"timezone": "America/Los_Angeles"});
    let berlin = json!({"timezone": "Europe/Berlin"});
    let tents = json!({"filters": [{"member": "stays.kind", "operator": "equals", "values": ["tent"]}]});
    let many = json!({"filters": [{"member": "stays.week", "operator": "gt", "values": ["5"]}]});
    let daily = |measures: &[&str]| over(measures, "stays.at", "day", MARCH);
    let all =
        ["stays.week", "stays.week_mean", "stays.week_longest", "stays.month_to_date", "stays.ever", "stays.total"];
    vec![
        daily(&all),
        with(&daily(&all), &kinds),
        with(&daily(&all), &los_angeles),
        with(&daily(&all), &berlin),
        with(&daily(&["stays.week"]), &tents),
        with(&daily(&["stays.week", "stays.count"]), &many),
        with(
            &daily(&["stays.week"]),
            &json!({"order": [["stays.week", "desc"], ["stays.at", "asc"]], "limit": 3, "total": true}),
        ),
        over(&["stays.two_hours"], "stays.at", "hour", ["2024-03-10", "2024-03-10"]),
        with(&over(&["stays.two_hours"], "stays.at", "hour", ["2024-03-10", "2024-03-10"]), &los_angeles),
        over(&["stays.week"], "stays.at", "sunday_week", MARCH),
        over(&["stays.week", "stays.ever"], "stays.at", "week", MARCH),
        over(&["stays.month_to_date"], "stays.at", "quarter", MARCH),
        over(&["stays.total", "stays.last_year"], "stays.at", "month", ["2024-01-01", "2024-12-31"]),
        over(&["stays.total", "stays.last_year"], "stays.at", "day", MARCH),
        by(&["stays.share", "stays.kind_total"], &["stays.kind", "towns.name"]),
        by(&["stays.place", "stays.best_kind"], &["stays.kind", "towns.name"]),
        by(&["stays.best_kind"], &["towns.name"]),
        by(&["stays.mean", "stays.longest"], &["towns.name"]),
        by(&["stays.total", "meals.eaten"], &["towns.name"]),
        by(&["stays.total", "meals.eaten"], &[]),
        by(&["stays.per_town"], &["stays.kind"]),
        over(&["travel.week", "travel.total"], "travel.at", "day", MARCH),
        by(&["travel.share"], &["travel.kind", "travel.town"]),
        json!({"measures": ["stays.week"], "timeDimensions": [{"dimension": "stays.at", "dateRange": MARCH}]}),
        json!({"measures": ["stays.week", "stays.total"], "timeDimensions": [
            {"dimension": "stays.at", "granularity": "day", "dateRange": MARCH},
            {"dimension": "stays.at", "granularity": "month", "dateRange": MARCH}]}),
        json!({"measures": ["stays.ever"], "timeDimensions": [{"dimension": "stays.at", "granularity": "month"}]}),
        by(&["stays.guests", "stays.guests_about", "stays.long_guests", "stays.town_names"], &[]),
        by(&["stays.guests", "stays.guests_about", "stays.per_guest", "stays.town_names"], &["stays.kind"]),
        by(&["stays.guests", "stays.long_guests"], &["towns.name"]),
        with(&by(&["stays.guests", "stays.guests_about"], &["towns.name"]), &tents),
        with(&daily(&["stays.guests", "stays.guests_about", "stays.long_guests"]), &los_angeles),
        with(&over(&["stays.guests"], "stays.at", "month", ["2023-01-01", "2024-12-31"]), &berlin),
        with(
            &by(&["stays.count"], &["stays.kind"]),
            &json!({"filters": [{"member": "stays.guests", "operator": "gt", "values": ["1"]}]}),
        ),
        with(&daily(&["stays.guests_ever", "stays.guests_of_week", "stays.about_of_week", "stays.guests"]), &kinds),
        with(&daily(&["stays.guests_ever", "stays.guests_of_week", "stays.guests_of_month"]), &los_angeles),
        over(&["stays.guests_of_month"], "stays.at", "month", ["2024-02-01", "2024-04-30"]),
        over(&["stays.guests_of_month", "stays.kinds_to_date"], "stays.at", "week", MARCH),
        over(&["stays.guests_of_week"], "stays.at", "sunday_week", MARCH),
        json!({"measures": ["stays.guests_of_week"], "timeDimensions": [{"dimension": "stays.at", "dateRange": MARCH}]}),
        by(&["travel.guests", "travel.per_guest", "travel.mean"], &["travel.town"]),
        over(&["travel.guests_ever", "travel.guests"], "travel.at", "day", MARCH),
        with(
            &by(&["stays.guests"], &[]),
            &json!({"filters": [
            {"member": "stays.kind", "operator": "equals", "values": ["igloo"]}]}),
        ),
    ]
}

/// The rows of an answer as sorted texts, and whether rollups gave it.
fn answer(server: &Server, query: &Value) -> (Vec<String>, bool) {
    let answer = server.load(query);
    let rows = answer["data"].as_array().expect("rows");
    let table = table(query, rows);
    let mut rows: Vec<String> = table.as_array().into_iter().flatten().map(Value::to_string).collect();
    rows.sort();
    (rows, answer["usedPreAggregations"].as_object().is_some_and(|used| !used.is_empty()))
}

#[test]
fn levels_from_rollups_hold_what_the_source_holds() {
    let project = shop_with(&[MODEL], TABLES);
    let server = Server::start_with(&project, &[("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES)]);
    let queries = queries();
    let from_source: Vec<_> = queries.iter().map(|query| answer(&server, query)).collect();
    server.build(&json!({"preAggregations": ["stays.hourly", "meals.plates"],
        "timezones": ["UTC", "America/Los_Angeles", "Europe/Berlin"], "contexts": [{"securityContext": {}}]}));
    let mut by_rollups = 0;
    for (query, (rows, from_rollup)) in queries.iter().zip(&from_source) {
        assert!(!from_rollup && !rows.is_empty(), "{query} gave {rows:?}");
        let (stored, used) = answer(&server, query);
        assert_eq!(&stored, rows, "{query}");
        by_rollups += usize::from(used);
    }
    // Shifted times and measures of a second cube need the source.
    assert!(by_rollups >= queries.len() - 6, "rollups gave {by_rollups} of {} answers", queries.len());
    server.assert_alive();
}

#[test]
fn windows_cross_borders_of_months_years_and_clocks() {
    let project = shop_with(&[MODEL], TABLES);
    let server = Server::start(&project);
    let value = |query: &Value, at: &str, measure: &str| {
        let rows = server.rows(query);
        let row = rows.iter().find(|row| row["stays.at.day"] == json!(format!("{at}T00:00:00.000")));
        row.unwrap_or_else(|| panic!("{at} is not in {rows:?}"))[measure].clone()
    };
    let range = |from: &str, to: &str| over(&["stays.week"], "stays.at", "day", [from, to]);
    // 2024-03-31 01:30 UTC is 03:30 in Berlin, where the clock went forward at 02:00.
    let berlin = with(&range("2024-03-31", "2024-04-02"), &json!({"timezone": "Europe/Berlin"}));
    assert_eq!(value(&berlin, "2024-03-31", "stays.week"), json!("7"));
    assert_eq!(value(&berlin, "2024-04-01", "stays.week"), json!("15"));
    // The same instant is the 30th in Los Angeles, and 2024-04-01 00:00 UTC is the 31st.
    let west = with(&range("2024-03-30", "2024-04-07"), &json!({"timezone": "America/Los_Angeles"}));
    assert_eq!(value(&west, "2024-03-30", "stays.week"), json!("7"));
    assert_eq!(value(&west, "2024-03-31", "stays.week"), json!("15"));
    assert_eq!(value(&west, "2024-04-06", "stays.week"), json!("8"));
    assert_eq!(value(&west, "2024-04-07", "stays.week"), json!(null));
}
