//! Lambdas, and rollups that the source completes: whole buckets from each, none twice, none missing
//! (`pre-aggregations.md` §11, conformance 35 and 36).

use serde_json::{Value, json};

use super::{orders, project, queries, rows, select, start, used};
use crate::server::{Project, Server};

const MEMBERS: &str = "measures: [count, revenue, most, mean], dimensions: [status, users.city], time_dimension: at, \
                       granularity: day";

/// A lambda of months and days, each with more of its definition.
fn lambda(lambda_more: &str, months_more: &str, days_more: &str) -> String {
    format!(
        "    pre_aggregations:
      - {{name: whole, type: rollup_lambda, rollups: [months, CUBE.days]{lambda_more}}}
      - {{name: months, {MEMBERS}, partition_granularity: month{months_more}}}
      - {{name: days, {MEMBERS}, partition_granularity: day{days_more}}}
"
    )
}

fn all_rows(server: &Server, queries: &[Value]) -> Vec<Vec<String>> {
    queries.iter().map(|query| rows(server, query)).collect()
}

/// Queries that a rollup by day and status and city can answer.
fn stored() -> Vec<Value> {
    queries().into_iter().filter(|query| query.get("segments").is_none()).collect()
}

#[track_caller]
fn check(server: &Server, from_source: &[Vec<String>], queries: &[Value]) {
    for (query, expected) in queries.iter().zip(from_source) {
        assert_eq!(&rows(server, query), expected, "{query} used {:?}", used(server, query));
    }
}

fn count(server: &Server, from: &str, to: &str) -> u64 {
    let query = json!({"measures": ["orders.count"], "timeDimensions": [
        {"dimension": "orders.at", "dateRange": [from, to]}]});
    server.rows(&query)[0]["orders.count"].as_str().and_then(|text| text.parse().ok()).expect("a count")
}

fn used_in(server: &Server, from: &str, to: &str) -> Vec<String> {
    let query = json!({"measures": ["orders.count"], "timeDimensions": [
        {"dimension": "orders.at", "dateRange": [from, to]}]});
    used(server, &query)
}

fn build(server: &Server, rollup: &str, from: &str, to: &str) -> usize {
    server.build(&select(&[rollup], &json!({"dateRange": [from, to]})))
}

#[test]
fn conformance_35_earlier_rollups_win_and_later_ones_go_on_at_the_next_bucket() {
    let project = project(&lambda("", ", build_range_end: {sql: \"SELECT '2024-02-10'\"}", ""), "");
    let server = start(&project, &[]);
    let queries = stored();
    let from_source = all_rows(&server, &queries);
    // Only the days of February are built: January and March are nobody's.
    assert_eq!(build(&server, "orders.days", "2024-02-01", "2024-02-29"), 29);
    assert_eq!(used_in(&server, "2024-02-03", "2024-02-10"), ["orders.days rollup"]);
    assert!(used_in(&server, "2024-01-01", "2024-02-10").is_empty(), "never a part");
    check(&server, &from_source, &queries);

    // Months of January and February, days of February and March: February is not counted twice.
    server.build(&select(&["orders.months"], &json!({})));
    build(&server, "orders.days", "2024-03-01", "2024-03-31");
    assert_eq!(used_in(&server, "2024-01-20", "2024-02-20"), ["orders.months rollup"]);
    assert_eq!(used_in(&server, "2024-02-20", "2024-03-05"), ["orders.days rollup", "orders.months rollup"]);
    assert_eq!(used_in(&server, "2024-03-02", "2024-03-05"), ["orders.days rollup"]);
    check(&server, &from_source, &queries);

    // The ones that win are those of the earlier rollup, also where the later one is newer.
    project.write("data/orders.csv", &(orders(200, 1) + "900,1,paid,1000,2024-02-05T01:00:00\n"));
    let before = count(&server, "2024-02-01", "2024-03-05");
    build(&server, "orders.days", "2024-02-05", "2024-02-05");
    assert_eq!(count(&server, "2024-02-01", "2024-03-05"), before);
    build(&server, "orders.months", "2024-02-05", "2024-02-05");
    assert_eq!(count(&server, "2024-02-01", "2024-03-05"), before + 1);
    server.assert_alive();
}

#[test]
fn conformance_36_the_source_adds_what_came_after_the_last_bucket_once() {
    let end = ", build_range_end: {sql: \"SELECT '2024-02-20'\"}";
    let end_of_days = ", build_range_end: {sql: \"SELECT '2024-03-10'\"}";
    let project = project(&lambda(", union_with_source_data: true", end, end_of_days), "");
    let server = start(&project, &[]);
    let queries = stored();
    let from_source = all_rows(&server, &queries);
    server.build(&select(&["orders.months", "orders.days"], &json!({})));
    for query in &queries {
        assert!(!used(&server, query).is_empty(), "{query}");
    }
    check(&server, &from_source, &queries);
    assert!(used_in(&server, "2024-03-11", "2024-03-20").is_empty(), "the source alone");

    // Rows exactly at the seam and after it: each once. What came before it waits for a build.
    let more = "901,1,paid,5,2024-03-11T00:00:00\n902,1,paid,5,2024-03-10T23:59:59.999\n903,,new,7,2024-03-31T10:00:00\n904,,,7,2025-01-01T00:00:00\n";
    let all = count(&server, "2024-03-01", "2024-03-31");
    project.write("data/orders.csv", &(orders(200, 1) + more));
    assert_eq!(count(&server, "2024-03-01", "2024-03-31"), all + 2);
    let answer = server.load(&json!({"measures": ["orders.count"]}));
    assert_eq!(answer["data"][0]["orders.count"], json!("203"));
    assert_eq!(answer["quarry"]["fromSource"], json!(["from 2024-03-11T00:00:00.000 on"]));
    build(&server, "orders.days", "2024-03-10", "2024-03-10");
    assert_eq!(count(&server, "2024-03-01", "2024-03-31"), all + 3);
    // Rows without time are nobody's bucket: the source has them.
    project.write("data/orders.csv", &(orders(200, 1) + more + "905,1,paid,1,\n"));
    assert_eq!(server.rows(&json!({"measures": ["orders.count"]}))[0]["orders.count"], json!("205"));
    server.assert_alive();
}

#[test]
fn holes_in_the_middle_are_filled_and_sql_shows_by_what() {
    let project = project(
        &lambda(", union_with_source_data: true", "", ", build_range_start: {sql: \"SELECT '2024-03-01'\"}"),
        "",
    );
    let server = start(&project, &[]);
    let queries = stored();
    let from_source = all_rows(&server, &queries);
    build(&server, "orders.months", "2024-01-01", "2024-01-31");
    build(&server, "orders.days", "2024-03-01", "2024-03-31");
    check(&server, &from_source, &queries);
    let query = json!({"measures": ["orders.revenue"], "timeDimensions": [
        {"dimension": "orders.at", "granularity": "month", "dateRange": ["2024-01-01", "2024-03-31"]}]});
    assert_eq!(used(&server, &query), ["orders.days rollup", "orders.months rollup"]);
    let reply = server.post("/cubejs-api/v1/sql", &json!({"query": query}));
    let sql = &reply.value()["sql"];
    assert!(sql["sql"][0].as_str().is_some_and(|text| text.contains("UNION ALL")), "{sql}");
    let rest = sql["lambdaQueries"]["rollup_source"]["sql"][0].as_str().expect("the source's part");
    assert!(rest.contains("FROM orders") && rest.contains("GROUP BY"), "{rest}");
    // In another zone that hours are not built for, nothing of it serves: the source does.
    let tokyo = json!({"measures": ["orders.count"], "timezone": "Asia/Tokyo", "timeDimensions": [
        {"dimension": "orders.at", "granularity": "day", "dateRange": ["2024-01-01", "2024-03-31"]}]});
    assert!(used(&server, &tokyo).is_empty());
}

#[test]
fn a_lambda_may_put_rollups_of_two_cubes_together() {
    let project = Project::empty();
    let cube = |name: &str, more: &str| {
        format!(
            "  - name: {name}\n    sql_table: {name}\n    dimensions:\n      - {{name: id, sql: id, type: number, \
             primary_key: true}}\n      - {{name: status, sql: status, type: string}}\n      - {{name: at, sql: at, type: \
             time}}\n    measures:\n      - {{name: count, type: count}}\n      - {{name: revenue, sql: amount, type: \
             sum}}\n    pre_aggregations:\n{more}"
        )
    };
    let stored = "measures: [count, revenue], dimensions: [status], time_dimension: at, granularity: day";
    let batch = format!(
        "      - {{name: both, type: rollup_lambda, rollups: [batch.months, live.days]}}\n      - {{name: months, {stored}, \
         partition_granularity: month}}\n"
    );
    let live = format!("      - {{name: days, {stored}, partition_granularity: day}}\n");
    project.write("model/m.yml", &format!("cubes:\n{}{}", cube("batch", &batch), cube("live", &live)));
    project.write("data/batch.csv", "id,status,amount,at\n1,a,10,2024-01-05T00:00:00\n2,b,20,2024-02-05T00:00:00\n");
    project.write("data/live.csv", "id,status,amount,at\n3,a,1,2024-02-28T00:00:00\n4,a,2,2024-03-01T00:00:00\n");
    let server = start(&project, &[]);
    server.build(&select(&["batch.months", "live.days"], &json!({})));
    let query = json!({"measures": ["batch.count", "batch.revenue"], "dimensions": ["batch.status"], "timeDimensions": [
        {"dimension": "batch.at", "granularity": "month", "dateRange": ["2024-01-01", "2024-03-31"]}]});
    assert_eq!(used(&server, &query), ["batch.months rollup", "live.days rollup"]);
    let rows = rows(&server, &query);
    assert_eq!(rows.len(), 3, "{rows:?}");
    // The month of February is the batch's; the live day in it is hidden by it.
    assert!(rows.iter().any(|row| row.contains("2024-03-01") && row.contains("\"batch.revenue\":\"2\"")), "{rows:?}");
    assert!(rows.iter().all(|row| !row.contains("\"batch.revenue\":\"1\"")), "{rows:?}");
    server.assert_alive();
}

#[test]
fn a_rollup_is_completed_by_the_source_when_that_is_set() {
    let daily = format!("    pre_aggregations:\n      - {{name: daily, {MEMBERS}, partition_granularity: month}}\n");
    let project = project(&daily, "");
    let server = start(&project, &[("QUARRY_FILL_FROM_SOURCE", "true")]);
    let queries = stored();
    let from_source = all_rows(&server, &queries);
    build(&server, "orders.daily", "2024-01-01", "2024-01-31");
    let january = ["orders.daily rollup"];
    assert_eq!(used_in(&server, "2024-01-20", "2024-02-10"), january);
    check(&server, &from_source, &queries);
    let reply = server.load(&json!({"measures": ["orders.count"], "timeDimensions": [
        {"dimension": "orders.at", "dateRange": ["2024-01-20", "2024-02-10"]}]}));
    let gap = "from 2024-02-01T00:00:00.000 to 2024-02-11T00:00:00.000";
    assert_eq!(reply["quarry"]["fromSource"], json!([gap]));
    assert!(used_in(&server, "2024-02-01", "2024-02-10").is_empty(), "nothing of it is stored");
    // Rollups that cover everything come first, and the source is not asked.
    server.build(&select(&["orders.daily"], &json!({})));
    let answer = server.load(&json!({"measures": ["orders.count"]}));
    assert_eq!((answer["data"][0]["orders.count"].clone(), answer["quarry"].get("fromSource")), (json!("200"), None));
    check(&server, &from_source, &queries);

    // Without the setting the source answers alone; in rollup-only mode no one does.
    server.kill();
    let server = start(&project, &[("QUARRY_FILL_FROM_SOURCE", "true"), ("CUBEJS_ROLLUP_ONLY", "true")]);
    let beyond = json!({"measures": ["orders.count"], "timeDimensions": [
        {"dimension": "orders.at", "dateRange": ["2024-01-20", "2024-02-10"]}]});
    assert_eq!(used(&server, &beyond), january);
}

#[test]
fn conformance_31_and_39_lambdas_have_no_partitions_and_are_never_named() {
    let server = start(&project(&lambda("", "", ""), ""), &[]);
    let reply = server.post(
        "/cubejs-api/v1/pre-aggregations/jobs",
        &json!({"action": "post", "selector": select(&["orders.whole"], &json!({}))}),
    );
    assert_eq!(reply.status, 400, "{}", reply.body);
    assert!(reply.error().contains("doesn't match any of the pre-aggregations"), "{}", reply.body);
}

#[test]
fn a_table_without_partitions_is_whole_and_the_source_adds_nothing() {
    let definitions = format!(
        "    pre_aggregations:
      - {{name: whole, type: rollup_lambda, rollups: [CUBE.all], union_with_source_data: true}}
      - {{name: all, {MEMBERS}}}
"
    );
    let project = project(&definitions, "");
    let server = start(&project, &[]);
    let queries = stored();
    let from_source = all_rows(&server, &queries);
    server.build(&select(&["orders.all"], &json!({})));
    check(&server, &from_source, &queries);
    let count = json!({"measures": ["orders.count"]});
    let answer = server.load(&count);
    assert!(!used(&server, &count).is_empty() && answer["quarry"].get("fromSource").is_none(), "{answer}");
}
