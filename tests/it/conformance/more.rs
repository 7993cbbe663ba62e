//! Sub-queries, keys of several columns, calendars, measures across cubes, and faults of joins
//! (`data-model.md` §4.3, §7, §17, §18, §20.5).

use serde_json::{Value, json};

use super::{by, check, check_error, check_set, check_sql, over, shop_and, with};

const SUB_QUERIES: &str = r#"
cubes:
  - name: clients
    sql_table: users
    joins:
      - {name: buys, relationship: one_to_many, sql: "{CUBE}.id = {buys}.user_id"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: city, sql: city, type: string}
      - {name: spent, type: number, sql: "{buys.spent}", sub_query: true}
      - {name: spent_then, type: number, sql: "{buys.spent}", sub_query: true, propagate_filters_to_sub_query: true}
      - {name: class, type: string, sql: "CASE WHEN {spent} > 1000 THEN 'big' ELSE 'small' END"}
      - {name: per_order, type: number, sql: "{buys.spent} / NULLIF({buys.count}, 0)", sub_query: true}
    measures:
      - {name: count, type: count}
      - {name: mean_spent, type: avg, sql: "{spent}"}
      - {name: most, type: max, sql: "{spent_then}"}
    segments:
      - {name: spenders, sql: "{spent} > 100"}
  - name: buys
    sql_table: orders
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: status, sql: status, type: string}
      - {name: at, sql: created_at, type: time}
    measures:
      - {name: count, type: count}
      - {name: spent, sql: amount, type: sum}
views:
  - name: people
    cubes:
      - {join_path: clients, includes: [count, city, spent, class, mean_spent]}
"#;

#[test]
fn sub_query_dimensions_group_filter_and_feed_other_members() {
    let server = shop_and(SUB_QUERIES, &[]);
    // Spent: 1400, 1800, null (an order without amount), 60, none.
    let classes = with(&by(&["clients.count"], &["clients.class"]), &json!({"order": {"clients.class": "asc"}}));
    check(&server, &classes, &json!([["big", "2"], ["small", "3"]]));
    let rich = json!({"filters": [{"member": "clients.spent", "operator": "gt", "values": ["1500"]}]});
    check(&server, &with(&by(&["clients.count"], &[]), &rich), &json!([["1"]]));
    check(&server, &with(&by(&["clients.count"], &[]), &json!({"segments": ["clients.spenders"]})), &json!([["2"]]));
    let order = json!({"order": {"clients.city": "asc"}});
    let means = with(&by(&["clients.mean_spent"], &["clients.city"]), &order);
    check(&server, &means, &json!([["Oslo", "1600"], ["Rome", null], [null, "60"]]));
    check_set(
        &server,
        &by(&["people.count"], &["people.class", "people.city"]),
        &json!([["big", "Oslo", "2"], ["small", "Rome", "2"], ["small", null, "1"]]),
    );
    let averages = with(
        &by(&[], &["clients.id", "clients.per_order"]),
        &json!({"filters": [
        {"member": "clients.id", "operator": "equals", "values": ["2"]}]}),
    );
    let rows = server.ask(&averages);
    assert_eq!(rows.status, 500, "keys are hidden by default: {}", rows.body);
    let averages = with(
        &by(&[], &["clients.per_order"]),
        &json!({"filters": [
        {"member": "clients.id", "operator": "equals", "values": ["2"]}]}),
    );
    check(&server, &averages, &json!([["900"]]));
}

#[test]
fn sub_queries_take_the_outer_filters_where_they_say_so() {
    let server = shop_and(SUB_QUERIES, &[]);
    let oslo = json!({"filters": [{"member": "clients.city", "operator": "equals", "values": ["Oslo"]}]});
    check(&server, &with(&by(&["clients.most"], &[]), &oslo), &json!([["1800"]]));
    check_sql(&server, &with(&by(&["clients.most"], &[]), &oslo), &["city = $1", "group by 1"]);
    // Orders of the year: 1, 3 paid; the filter of the joined cube acts inside too.
    let paid = json!({"filters": [{"member": "buys.status", "operator": "equals", "values": ["new"]}]});
    check(&server, &with(&by(&["clients.most"], &[]), &paid), &json!([["1300"]]));
    check(&server, &with(&by(&["clients.mean_spent"], &[]), &paid), &json!([["1400"]]));
    let times = json!({"timeDimensions": [{"dimension": "buys.at", "dateRange": ["2024-01-01", "2024-01-31"]}]});
    check(&server, &with(&by(&["clients.most"], &[]), &times), &json!([["1500"]]));
}

const KEYS: &str = r#"
cubes:
  - name: shelves
    sql_table: shelves
    dimensions:
      - {name: a, sql: a, type: number, primary_key: true}
      - {name: b, sql: b, type: number, primary_key: true}
      - {name: label, sql: label, type: string}
      - {name: boxes, type: number, sql: "{boxes.weight}", sub_query: true}
    measures:
      - {name: count, type: count}
      - {name: size, sql: size, type: sum}
      - {name: heavy, sql: "{CUBE.boxes}", type: sum}
  - name: boxes
    sql_table: boxes
    joins:
      - name: shelves
        relationship: many_to_one
        sql: "{CUBE}.a = {shelves}.a AND {CUBE}.b = {shelves}.b"
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: kind, sql: kind, type: string}
    measures:
      - {name: count, type: count}
      - {name: weight, sql: weight, type: sum}
      - {name: density, sql: "1.0 * {weight} / NULLIF({shelves.size}, 0)", type: number}
      - {name: per_shelf, sql: "1.0 * {count} / {shelves.count}", type: number}
"#;

/// Keys 1, 11 and 11, 1 read alike when they are glued together.
const KEYS_DATA: &[(&str, &str)] = &[
    ("shelves", "a,b,label,size\n1,11,low,5\n11,1,low,7\n2,2,high,9\n"),
    ("boxes", "id,a,b,kind,weight\n1,1,11,red,10\n2,11,1,red,20\n3,1,11,red,30\n4,2,2,blue,40\n5,,,blue,50\n"),
];

#[test]
fn keys_of_several_columns_are_told_apart() {
    let server = shop_and(KEYS, KEYS_DATA);
    let order = json!({"order": {"boxes.kind": "asc"}});
    let query = with(&by(&["shelves.count", "shelves.size", "boxes.weight"], &["boxes.kind"]), &order);
    check(&server, &query, &json!([["blue", "1", "9", "90"], ["red", "2", "12", "60"]]));
    let ratios = with(&by(&["boxes.density", "boxes.per_shelf"], &["boxes.kind"]), &order);
    check(&server, &ratios, &json!([["blue", "10", "2"], ["red", "5", "1.5"]]));
    let heavy = with(&by(&["shelves.heavy"], &["shelves.label"]), &json!({"order": {"shelves.label": "asc"}}));
    check(&server, &heavy, &json!([["high", "40"], ["low", "60"]]));
}

const CALENDAR: &str = r#"
cubes:
  - name: calendar
    calendar: true
    sql_table: calendar
    dimensions:
      - name: day
        sql: day
        type: time
        primary_key: true
        public: true
        granularities:
          - {name: month, sql: "{CUBE}.retail_month"}
          - {name: season, sql: "{CUBE}.season"}
        time_shift:
          - {name: retail_year, sql: "{CUBE}.year_after"}
          - {interval: 1 year, type: prior, sql: "{CUBE}.year_after"}
  - name: sold
    sql_table: sold
    joins:
      - {name: calendar, relationship: many_to_one, sql: "{CUBE}.day = {calendar.day}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
    measures:
      - {name: total, sql: amount, type: sum}
      - name: year_before
        multi_stage: true
        type: number
        sql: "{total}"
        time_shift: [{time_dimension: calendar.day, name: retail_year}]
      - name: year_before_too
        multi_stage: true
        type: number
        sql: "{total}"
        time_shift: [{time_dimension: calendar.day, interval: 1 year, type: prior}]
"#;

/// The retail year has 364 days.
const CALENDAR_DATA: &[(&str, &str)] = &[
    (
        "calendar",
        "day,retail_month,season,year_after
2023-02-05T00:00:00,2023-02-05T00:00:00,2023-01-01T00:00:00,2024-02-04T00:00:00
2023-02-06T00:00:00,2023-02-05T00:00:00,2023-01-01T00:00:00,2024-02-05T00:00:00
2024-02-03T00:00:00,2024-01-07T00:00:00,2024-01-01T00:00:00,2025-02-01T00:00:00
2024-02-04T00:00:00,2024-02-04T00:00:00,2024-01-01T00:00:00,2025-02-02T00:00:00
2024-02-05T00:00:00,2024-02-04T00:00:00,2024-01-01T00:00:00,2025-02-03T00:00:00
",
    ),
    (
        "sold",
        "id,day,amount
1,2023-02-05T00:00:00,1
2,2023-02-06T00:00:00,2
3,2024-02-03T00:00:00,4
4,2024-02-04T00:00:00,8
5,2024-02-05T00:00:00,16
",
    ),
];

#[test]
fn calendars_bring_their_own_buckets_and_shifts() {
    let server = shop_and(CALENDAR, CALENDAR_DATA);
    let year = ["2024-01-01", "2024-12-31"];
    let seasons = over(&["sold.total"], "calendar.day", "season", year);
    check(&server, &seasons, &json!([["2024-01-01T00:00:00.000", "28"]]));
    let days = over(&["sold.total", "sold.year_before", "sold.year_before_too"], "calendar.day", "day", year);
    let rows = json!([
        ["2024-02-03T00:00:00.000", "4", null, null],
        ["2024-02-04T00:00:00.000", "8", "1", "1"],
        ["2024-02-05T00:00:00.000", "16", "2", "2"]
    ]);
    check(&server, &days, &rows);
}

const ROLES: &str = r#"
cubes:
  - name: trips
    sql_table: trips
    joins:
      - {name: start, relationship: many_to_one, sql: "{CUBE}.from_id = {start.id}"}
      - {name: finish, relationship: many_to_one, sql: "{CUBE}.to_id = {finish.id}"}
      - {name: log, relationship: one_to_one, sql: "{CUBE}.id = {log}.trip_id"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: way, sql: "{start.name} || '-' || {finish.name}", type: string}
      - {name: fare, sql: fare, type: number}
    measures:
      - {name: count, type: count}
      - {name: fares, sql: fare, type: sum}
      - {name: far, sql: "{CUBE}.fare * {start.zone}", type: sum}
      - {name: noted, sql: "{log.length}", type: sum}
  - name: start
    sql_table: places
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: name, sql: name, type: string}
      - {name: zone, sql: zone, type: number}
    measures:
      - {name: count, type: count}
  - {name: finish, extends: start}
  - name: log
    sql_table: logs
    dimensions:
      - {name: trip_id, sql: trip_id, type: number, primary_key: true}
      - {name: length, sql: length, type: number}
    measures:
      - {name: count, type: count}
  - name: riders
    sql_table: riders
    joins:
      - {name: trips, relationship: many_to_one, sql: "{CUBE}.trip_id = {trips.id}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: name, sql: name, type: string}
    measures:
      - {name: count, type: count}
"#;

const ROLES_DATA: &[(&str, &str)] = &[
    ("trips", "id,from_id,to_id,fare\n1,1,2,10\n2,2,1,20\n3,1,,30\n"),
    ("places", "id,name,zone\n1,A,1\n2,B,3\n"),
    ("logs", "trip_id,length\n1,5\n3,7\n"),
    ("riders", "id,trip_id,name\n1,1,x\n2,1,x\n3,2,x\n4,3,y\n5,3,x\n"),
];

#[test]
fn one_table_plays_two_roles_and_multiplied_measures_read_other_cubes() {
    let server = shop_and(ROLES, ROLES_DATA);
    let ways = with(&by(&["trips.fares"], &["trips.way"]), &json!({"order": {"trips.way": "asc"}}));
    check(&server, &ways, &json!([["A-B", "10"], ["B-A", "20"], [null, "30"]]));
    let order = json!({"order": {"riders.name": "asc"}});
    // Riders multiply trips: x rides 1, 2 and 3, y rides 3.
    let query = with(&by(&["trips.fares", "trips.far", "trips.noted", "riders.count"], &["riders.name"]), &order);
    check(&server, &query, &json!([["x", "60", "100", "12", "4"], ["y", "30", "30", "7", "1"]]));
    check_sql(&server, &query, &["\"keys\"", "left join places as \"start\""]);
    // One to one multiplies nothing.
    check(&server, &by(&["trips.fares", "log.count"], &[]), &json!([["60", "2"]]));
    check_sql(&server, &by(&["trips.fares", "log.count"], &[]), &["!\"keys\""]);
    let unknown: Value = by(&["trips.fares"], &["trips.nothing"]);
    check_error(&server, &unknown, "'nothing' not found for path 'trips.nothing'");
}

#[test]
fn names_with_a_granularity_among_the_dimensions() {
    let server = shop_and("cubes: []\n", &[]);
    let query = json!({"measures": ["orders.count"], "dimensions": ["orders.created_at.year"],
        "order": [["orders.created_at.year", "desc"]], "limit": 2});
    let rows = server.rows(&query);
    let given: Vec<Value> =
        rows.iter().map(|row| json!([row["orders.created_at.year"], row["orders.count"]])).collect();
    assert_eq!(given, [json!(["2025-01-01T00:00:00.000", "1"]), json!(["2024-01-01T00:00:00.000", "6"])]);
}

#[test]
fn ungrouped_rows_keep_granularities_and_refuse_conditions_on_groups() {
    let server = shop_and("cubes: []\n", &[]);
    let query = json!({"dimensions": ["orders.id"], "ungrouped": true, "order": {"orders.id": "asc"}, "limit": 1,
        "timeDimensions": [{"dimension": "orders.created_at", "granularity": "month"}]});
    check(&server, &query, &json!([["1", "2024-01-01T00:00:00.000"]]));
    let filtered = with(&query, &json!({"filters": [{"member": "orders.count", "operator": "gt", "values": ["1"]}]}));
    check_error(&server, &filtered, "Measure filters aren't allowed in ungrouped query");
    // Repeated rows, and what the measures take in.
    let items = json!({"measures": ["users.total_balance"], "dimensions": ["orders.id"], "ungrouped": true,
        "filters": [{"member": "orders.id", "operator": "lte", "values": ["2"]}], "order": {"orders.id": "asc"}});
    check(&server, &items, &json!([["1", "100"], ["2", "100"]]));
    let both = with(&items, &json!({"measures": ["users.total_balance", "orders.revenue"]}));
    check(&server, &both, &json!([["1", "100", "100"], ["2", "100", "200"]]));
}
