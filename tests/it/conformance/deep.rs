//! Rules that meet: results over repeated rows, results of results, facts with windows, claims and pushed filters in
//! members (`data-model.md` §5, §11, §17, §19–21).

use serde_json::{Value, json};

use super::{by, check, check_error, check_sql, over, rows_as, shop_and, with};

const DEEP: &str = r#"
cubes:
  - name: heads
    sql_table: heads
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true, public: true}
      - {name: country, sql: country, type: string}
      - {name: city, sql: city, type: string}
      - {name: at, sql: at, type: time}
    measures:
      - {name: count, type: count}
      - {name: total, sql: amount, type: sum}
      - {name: least, sql: amount, type: min}
      - {name: amounts, sql: amount, type: count}
      - {name: large, sql: amount, type: count, filters: [{sql: "{CUBE}.amount > 15"}]}
      - {name: cities, sql: city, type: count_distinct}
      - {name: about, sql: city, type: count_distinct_approx}
      - {name: rows, sql: "count(*)", type: number}
      - {name: spread, sql: "max({CUBE}.amount) - min({CUBE}.amount)", type: number}
      - {name: latest, sql: "max({CUBE}.at)", type: time}
      - {name: names, sql: "string_agg({CUBE}.city, ',' ORDER BY {CUBE}.city)", type: string}
      - {name: mean, sql: "1.0 * {total} / {count}", type: number}
      - {name: country_total, multi_stage: true, type: sum, sql: "{total}", grain: {keep_only: [country]}}
      - {name: share, multi_stage: true, type: number, sql: "1.0 * {total} / {country_total}"}
      - {name: best_share, multi_stage: true, type: max, sql: "{share}", grain: {include: [city]}}
      - {name: share_place, multi_stage: true, type: rank, order_by: [{sql: "{share}", dir: desc}], grain: {exclude: [city]}}
      - {name: month_total, multi_stage: true, type: sum, sql: "{total}", grain: {keep_only: [at.month]}}
      - {name: best_month, multi_stage: true, type: max, sql: "{total}", grain: {include: [at.month]}}
      - {name: country_count, multi_stage: true, type: count, sql: "{total}", grain: {include: [country]}}
      - {name: running, sql: amount, type: sum, rolling_window: {trailing: unbounded}}
      - {name: running_share, multi_stage: true, type: number, sql: "1.0 * {running} / {all_running}"}
      - {name: all_running, multi_stage: true, type: sum, sql: "{running}", grain: {exclude: [country]}}
  - name: lines
    sql_table: lines
    joins:
      - {name: heads, relationship: many_to_one, sql: "{CUBE}.head_id = {heads.id}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: tag, sql: tag, type: string}
    measures:
      - {name: count, type: count}
      - {name: qty, sql: qty, type: sum}
      - {name: per_line, sql: "1.0 * {heads.total} / {count}", type: number}
      - {name: tag_qty, multi_stage: true, type: sum, sql: "{qty}", grain: {keep_only: [tag]}}
    segments:
      - {name: some, sql: "{CUBE}.qty > 1"}
  - name: visits
    sql_table: visits
    joins:
      - {name: dates, relationship: many_to_one, sql: "{CUBE}.day = {dates.id}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
    measures:
      - {name: count, type: count}
      - {name: ever, type: count, rolling_window: {trailing: unbounded}}
      - {name: before, multi_stage: true, type: number, sql: "{count}", time_shift: [{interval: 1 day, type: prior}]}
  - name: calls
    sql_table: calls
    joins:
      - {name: dates, relationship: many_to_one, sql: "{CUBE}.day = {dates.id}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
    measures:
      - {name: length, sql: length, type: sum}
      - {name: per_visit, multi_stage: true, type: number, sql: "1.0 * {length} / {visits.count}"}
  - name: dates
    sql_table: dates
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: day, sql: day, type: time}
views:
  - name: seen
    cubes:
      - {join_path: lines, includes: [tag, qty, tag_qty]}
      - {join_path: lines.heads, prefix: true, includes: [country, city, total, share, share_place, at, running, mean, month_total]}
"#;

/// NO: Oslo 10 and 30, Bergen 40; SE: Lund 20. Head 1 has two lines of tag x, 2 one of x, 3 one of y, 4 none.
const DEEP_DATA: &[(&str, &str)] = &[
    (
        "heads",
        "id,country,city,amount,at
1,NO,Oslo,10,2024-01-10T00:00:00
2,NO,Oslo,30,2024-02-10T00:00:00
3,NO,Bergen,40,2024-02-11T00:00:00
4,SE,Lund,20,2024-02-12T00:00:00
",
    ),
    ("lines", "id,head_id,tag,qty\n1,1,x,1\n2,1,x,2\n3,2,x,3\n4,3,y,4\n"),
    ("visits", "id,day\n1,1\n2,1\n3,2\n"),
    ("calls", "id,day,length\n1,2,10\n2,3,20\n"),
    ("dates", "id,day\n1,2024-01-01T00:00:00\n2,2024-01-02T00:00:00\n3,2024-01-03T00:00:00\n"),
];

#[test]
fn aggregates_of_every_kind_over_repeated_rows() {
    let server = shop_and(DEEP, DEEP_DATA);
    let order = json!({"order": {"lines.tag": "asc"}});
    let measures = [
        "heads.count",
        "heads.total",
        "heads.least",
        "heads.amounts",
        "heads.large",
        "heads.cities",
        "heads.about",
        "heads.rows",
        "heads.spread",
        "heads.mean",
        "lines.qty",
        "lines.per_line",
    ];
    let query = with(&by(&measures, &["lines.tag"]), &order);
    // x: heads 1 and 2; y: head 3.
    let rows = server.rows(&query);
    assert_eq!(rows.len(), 2);
    let expected = [
        ["2", "40", "10", "2", "1", "1", "1", "2", "20", "20", "6"],
        ["1", "40", "40", "1", "1", "1", "1", "1", "0", "40", "4"],
    ];
    for (row, values) in rows.iter().zip(expected) {
        let given: Vec<Value> = measures[..11].iter().map(|name| super::cell(&row[*name])).collect();
        assert_eq!(json!(given), json!(values), "{row}");
    }
    let per_line: f64 = rows[0]["lines.per_line"].as_str().expect("a text").parse().expect("a number");
    assert!((per_line - 40.0 / 3.0).abs() < 1e-6, "{per_line}");
    let texts = with(&by(&["heads.names", "heads.latest"], &["lines.tag"]), &order);
    let rows = json!([["x", "Oslo,Oslo", "2024-02-10T00:00:00.000"], ["y", "Bergen", "2024-02-11T00:00:00.000"]]);
    check(&server, &texts, &rows);
    // Segments and conditions stand inside of the keys query.
    let some = with(&with(&by(&["heads.total"], &["lines.tag"]), &order), &json!({"segments": ["lines.some"]}));
    check(&server, &some, &json!([["x", "40"], ["y", "40"]]));
    check_sql(&server, &some, &["\"keys\"", "where (\"lines\".qty > 1)"]);
}

#[test]
fn results_are_taken_of_results_and_of_repeated_rows() {
    let server = shop_and(DEEP, DEEP_DATA);
    let order = json!({"order": [["heads.country", "asc"], ["heads.city", "asc"]]});
    let query = with(&by(&["heads.share", "heads.share_place"], &["heads.country", "heads.city"]), &order);
    check(
        &server,
        &query,
        &json!([["NO", "Bergen", "0.5", "1"], ["NO", "Oslo", "0.5", "1"], ["SE", "Lund", "1", "1"]]),
    );
    let best = with(&by(&["heads.best_share"], &["heads.country"]), &json!({"order": {"heads.country": "asc"}}));
    check(&server, &best, &json!([["NO", "0.5"], ["SE", "1"]]));
    check(&server, &by(&["heads.country_count"], &[]), &json!([["2"]]));
    // Over repeated rows: x has heads 1 and 2, y head 3. The whole keeps no group, so that it is read from heads alone.
    let tags = with(
        &by(&["heads.share", "lines.tag_qty"], &["lines.tag", "heads.city"]),
        &json!({"order": [["lines.tag", "asc"], ["heads.city", "asc"]]}),
    );
    check(&server, &tags, &json!([["x", "Oslo", "0.4", "6"], ["y", "Bergen", "0.4", "4"]]));
}

#[test]
fn grains_name_buckets_of_time() {
    let server = shop_and(DEEP, DEEP_DATA);
    let range = ["2024-01-01", "2024-02-29"];
    let (january, february) = ("2024-01-01T00:00:00.000", "2024-02-01T00:00:00.000");
    let query = with(
        &over(&["heads.total", "heads.month_total"], "heads.at", "month", range),
        &json!({"dimensions": ["heads.country"], "order": [["heads.at", "asc"], ["heads.country", "asc"]]}),
    );
    let rows = json!([["NO", january, "10", "10"], ["NO", february, "70", "90"], ["SE", february, "20", "90"]]);
    check(&server, &query, &rows);
    let best = with(&by(&["heads.best_month"], &["heads.country"]), &json!({"order": {"heads.country": "asc"}}));
    check(&server, &best, &json!([["NO", "70"], ["SE", "20"]]));
    // A window in a result, and its share of all.
    let running = with(
        &over(&["heads.running", "heads.running_share"], "heads.at", "month", ["2024-02-01", "2024-02-29"]),
        &json!({"dimensions": ["heads.country"], "order": {"heads.country": "asc"}}),
    );
    check(&server, &running, &json!([["NO", february, "80", "0.8"], ["SE", february, "20", "0.2"]]));
}

#[test]
fn views_of_results_find_their_grains_by_alias() {
    let server = shop_and(DEEP, DEEP_DATA);
    let order = json!({"order": [["seen.heads_country", "asc"], ["seen.heads_city", "asc"]]});
    let query = with(
        &by(&["seen.heads_share", "seen.heads_share_place", "seen.qty"], &["seen.heads_country", "seen.heads_city"]),
        &order,
    );
    // The view starts from lines: head 4 has none.
    check(&server, &query, &json!([["NO", "Bergen", "0.5", "1", "4"], ["NO", "Oslo", "0.5", "1", "6"]]));
    let monthly =
        over(&["seen.heads_total", "seen.heads_running"], "seen.heads_at", "month", ["2024-01-01", "2024-02-29"]);
    let rows = json!([["2024-01-01T00:00:00.000", "10", "10"], ["2024-02-01T00:00:00.000", "70", "80"]]);
    check(&server, &monthly, &rows);
}

#[test]
fn facts_meet_with_their_windows_and_shifts() {
    let server = shop_and(DEEP, DEEP_DATA);
    let range = ["2024-01-01", "2024-01-03"];
    let query = over(
        &["visits.count", "visits.ever", "visits.before", "calls.length", "calls.per_visit"],
        "dates.day",
        "day",
        range,
    );
    let rows = json!([
        ["2024-01-01T00:00:00.000", "2", "2", null, null, null],
        ["2024-01-02T00:00:00.000", "1", "3", "2", "10", "10"],
        ["2024-01-03T00:00:00.000", null, "3", "1", "20", null]
    ]);
    check(&server, &query, &rows);
    check_error(&server, &with(&query, &json!({"ungrouped": true})), "Ungrouped queries over several facts");
}

const CONTEXT: &str = r#"
cubes:
  - name: asked
    sql: >
      SELECT * FROM orders WHERE {FILTER_PARAMS.asked.status.filter(lambda v: f"status = {v} OR status IS NULL")}
    joins:
      - {name: users, relationship: many_to_one, sql: "{CUBE}.user_id = {users.id}"}
      - {name: parts, relationship: one_to_many, sql: "{CUBE}.id = {parts}.order_id"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: status, sql: status, type: string}
      - {name: mine, sql: "CASE WHEN {SECURITY_CONTEXT.user_id.filter('user_id')} THEN 'mine' ELSE 'other' END", type: string}
      - {name: seen, sql: "{FILTER_PARAMS.asked.status.filter('status')}", type: boolean}
      - {name: at, sql: created_at, type: time}
      - {name: local, sql: "date_part('hour', {SQL_UTILS.convertTz('created_at')})", type: number}
    measures:
      - {name: count, type: count}
      - {name: total, sql: amount, type: sum}
  - name: parts
    sql_table: line_items
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
    measures:
      - {name: count, type: count}
  - name: wrapped
    sql: "SELECT * FROM {asked.sql()} AS inner_orders WHERE amount > 50"
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
    measures:
      - {name: count, type: count}
"#;

#[test]
fn context_reaches_members_repeated_rows_and_cubes_of_cubes() {
    let server = shop_and(CONTEXT, &[]);
    let paid = json!({"filters": [{"member": "asked.status", "operator": "equals", "values": ["paid"]}]});
    check(&server, &with(&by(&["asked.total", "parts.count"], &[]), &paid), &json!([["1660", "6"]]));
    let text = super::sql(&server, &with(&by(&["asked.total", "parts.count"], &[]), &paid));
    assert!(text.matches("OR status IS NULL").count() >= 2, "in every place of the cube: {text}");
    check(&server, &with(&by(&["asked.count"], &["asked.seen"]), &paid), &json!([[true, "4"]]));
    check(&server, &by(&["wrapped.count"], &[]), &json!([["6"]]));
    let claims = json!({"user_id": 1});
    let query = with(&by(&["asked.count"], &["asked.mine"]), &json!({"order": {"asked.mine": "asc"}}));
    assert_eq!(rows_as(&server, &claims, &query), json!([["mine", "3"], ["other", "5"]]));
    // 2024-01-31 23:30 UTC is 00:30 in Berlin.
    let late = json!({"timezone": "Europe/Berlin", "filters": [{"member": "asked.local", "operator": "equals", "values": ["0"]}]});
    check(&server, &with(&by(&["asked.count"], &[]), &late), &json!([["1"]]));
}
