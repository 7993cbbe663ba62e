//! `original_sql`: the rows of a cube, stored, stand for its SQL (`pre-aggregations.md` §13, trap T32).

use serde_json::{Value, json};

use super::{orders, project, queries, rows, select, start, used};
use crate::server::{Project, Server};

const RAW: &str = "    pre_aggregations:
      - {name: raw, type: original_sql, time_dimension: at, partition_granularity: month}
";
const RAW_AND_DAILY: &str = "    pre_aggregations:
      - {name: daily, measures: [count, revenue, most, mean], dimensions: [status, users.city], time_dimension: at,
         granularity: day, partition_granularity: month, use_original_sql_pre_aggregations: true}
      - {name: raw, type: original_sql, time_dimension: at, partition_granularity: month, indexes: [{name: s, columns: [status]}]}
";

fn all_rows(server: &Server, queries: &[Value]) -> Vec<Vec<String>> {
    queries.iter().map(|query| rows(server, query)).collect()
}

#[test]
fn stored_rows_answer_as_the_source_did_when_they_were_built() {
    let project = project(RAW, "");
    let server = start(&project, &[]);
    let queries = queries();
    let more = [
        json!({"measures": ["orders.buyers", "users.credit"], "dimensions": ["orders.status"]}),
        json!({"measures": ["orders.count"], "timezone": "America/Los_Angeles", "timeDimensions": [
            {"dimension": "orders.at", "granularity": "hour", "dateRange": ["2024-01-30", "2024-02-02"]}]}),
        json!({"measures": ["orders.count"], "dimensions": ["orders.id", "orders.at"], "ungrouped": true}),
    ];
    let queries: Vec<Value> = queries.into_iter().chain(more).collect();
    let from_source = all_rows(&server, &queries);
    assert_eq!(server.build(&select(&["orders.raw"], &json!({}))), 3, "one partition a month");
    // Two zones want the same rows: one table.
    let zones = json!({"timezones": ["UTC", "Asia/Tokyo"]});
    assert_eq!(server.post_jobs(&select(&["orders.raw"], &zones)).len(), 3);
    for (query, expected) in queries.iter().zip(&from_source) {
        assert_eq!(used(&server, query), ["orders.raw originalSql"], "{query}");
        let told = server.post("/quarry/v1/explain", &json!({"query": query})).value()["results"][0].clone();
        // The rows of users are not stored.
        let by = if query.to_string().contains("users.") { "source" } else { "originalSql" };
        assert_eq!((&told["answeredBy"], &told["storedRows"]), (&json!(by), &json!(["orders.raw"])), "{query}");
        assert_eq!(&rows(&server, query), expected, "{query}");
    }
    // What changes in the source shows when the rows are built again, and not before.
    project.write("data/orders.csv", &orders(200, 3));
    assert_eq!(all_rows(&server, &queries), from_source);
    server.build(&select(&["orders.raw"], &json!({})));
    let total = |server: &Server| server.rows(&json!({"measures": ["orders.revenue"]}))[0]["orders.revenue"].clone();
    let before: f64 = 3.0 * sum(1);
    assert_eq!(total(&server).as_str().and_then(|text| text.parse::<f64>().ok()), Some(before));
    server.assert_alive();
}

/// The sum of all amounts.
fn sum(factor: usize) -> f64 {
    orders(200, factor).lines().skip(1).filter_map(|line| line.split(',').nth(3)?.parse::<f64>().ok()).sum()
}

#[test]
fn rows_that_are_not_all_published_are_not_used() {
    let server = start(&project(RAW, ""), &[]);
    let query = json!({"measures": ["orders.count"]});
    let february = json!({"dateRange": ["2024-02-01", "2024-02-28"]});
    assert_eq!(server.build(&select(&["orders.raw"], &february)), 1);
    assert!(used(&server, &query).is_empty(), "two months are missing");
    assert_eq!(server.rows(&query)[0]["orders.count"], json!("200"));
    assert_eq!(server.build(&select(&["orders.raw"], &json!({}))), 3);
    assert_eq!(used(&server, &query), ["orders.raw originalSql"]);
}

#[test]
fn rollups_are_built_from_stored_rows_that_are_made_ready_first() {
    let project = project(RAW_AND_DAILY, "");
    let server = start(&project, &[]);
    let queries = queries();
    let from_source = all_rows(&server, &queries);
    // Rows first, then the rollup, for each month.
    let tokens = server.post_jobs(&select(&["orders.daily"], &json!({})));
    let entries = server.job_entries(&tokens);
    let names: Vec<&str> =
        entries.iter().map(|entry| entry["selector"]["preAggregations"][0].as_str().expect("a name")).collect();
    assert_eq!(names, ["orders.raw", "orders.raw", "orders.raw", "orders.daily", "orders.daily", "orders.daily"]);
    assert_eq!(server.wait_jobs(&tokens), ["done"; 6]);
    for (query, expected) in queries.iter().zip(&from_source) {
        let used = used(&server, query);
        assert!(used == ["orders.daily rollup"] || used == ["orders.raw originalSql"], "{query} used {used:?}");
        assert_eq!(&rows(&server, query), expected, "{query}");
    }
    assert_eq!(used(&server, &queries[1]), ["orders.daily rollup"]);
    server.assert_alive();
}

#[test]
fn a_rollup_without_its_rows_builds_them() {
    let project =
        project(&RAW_AND_DAILY.replace("type: original_sql,", "type: original_sql, scheduled_refresh: false,"), "");
    // The scheduler builds the rollup alone, and what it is built from.
    let settings = [("CUBEJS_REFRESH_WORKER", "true")];
    let server = start(&project, &settings);
    let query = json!({"measures": ["orders.count"], "dimensions": ["orders.status"]});
    crate::server::wait_until("the rollup", std::time::Duration::from_secs(120), || {
        (used(&server, &query) == ["orders.daily rollup"]).then_some(())
    });
    assert_eq!(used(&server, &json!({"measures": ["orders.buyers"]})), ["orders.raw originalSql"]);
    server.assert_alive();
}

#[test]
fn a_rollup_is_built_from_the_stored_rows_and_not_from_the_source() {
    let project = project(RAW_AND_DAILY, "");
    let server = start(&project, &[]);
    server.build(&select(&["orders.raw"], &json!({})));
    server.kill();
    project.write("data/orders.csv", &orders(200, 5));
    // The rows are fresh for an hour; the scheduler finds the rollup missing.
    let server = start(&project, &[("CUBEJS_REFRESH_WORKER", "true")]);
    let query = json!({"measures": ["orders.revenue"]});
    crate::server::wait_until("the rollup", std::time::Duration::from_secs(120), || {
        (used(&server, &query) == ["orders.daily rollup"]).then_some(())
    });
    let revenue = server.rows(&query)[0]["orders.revenue"].as_str().and_then(|text| text.parse::<f64>().ok());
    assert_eq!(revenue, Some(sum(1)));
}

#[test]
fn rollup_only_mode_is_content_with_stored_rows_alone() {
    let server = start(&project(RAW, ""), &[("CUBEJS_ROLLUP_ONLY", "true")]);
    let alone = json!({"measures": ["orders.count"]});
    let joined = json!({"measures": ["orders.count"], "dimensions": ["users.city"]});
    for query in [&alone, &joined] {
        let reply = server.ask(query);
        assert_eq!(reply.status, 400, "{}", reply.body);
        assert!(
            reply.error().contains("No pre-aggregation table has been built for this query yet."),
            "{}",
            reply.body
        );
    }
    server.build(&select(&["orders.raw"], &json!({})));
    assert_eq!(server.rows(&alone)[0]["orders.count"], json!("200"));
    // The other cube would have to be asked at its source.
    let reply = server.ask(&joined);
    assert_eq!(reply.status, 400, "{}", reply.body);
    assert!(reply.error().contains("orders.raw"), "{}", reply.body);
}

#[test]
fn a_name_of_its_own_shows_in_the_names_of_tables() {
    let more = RAW.replace("name: raw,", "name: raw, sql_alias: rows,");
    let server = start(&project(&more, ""), &[]);
    server.build(&select(&["orders.raw"], &json!({})));
    let answer = server.load(&json!({"measures": ["orders.count"]}));
    let names: Vec<&String> = answer["usedPreAggregations"].as_object().expect("used").keys().collect();
    assert_eq!(names, ["prod_pre_aggregations.orders_rows"]);
}

/// Rows by month, a rollup by week: many a week is newer than the month that it is built from.
#[test]
fn a_rollup_is_built_after_the_rows_that_are_built_with_it() {
    let weekly = RAW_AND_DAILY.replace(
        "granularity: day, partition_granularity: month, use",
        "granularity: day, partition_granularity: week, use",
    );
    let project = project(&weekly, "");
    let server = start(&project, &[("CUBEJS_REFRESH_WORKER_CONCURRENCY", "2")]);
    let weeks = json!({"measures": ["orders.revenue"], "timeDimensions": [
        {"dimension": "orders.at", "granularity": "week", "dateRange": ["2024-01-01", "2024-03-31"]}]});
    for factor in 1..4 {
        project.write("data/orders.csv", &orders(200, factor));
        let all = select(&["orders.daily", "orders.raw"], &json!({}));
        assert!(server.build(&all) > 12);
        assert_eq!(used(&server, &weeks), ["orders.daily rollup"]);
        let found: f64 =
            server.rows(&weeks).iter().filter_map(|row| row["orders.revenue"].as_str()?.parse::<f64>().ok()).sum();
        assert_eq!(found, sum(factor), "built from rows of before");
    }
    server.assert_alive();
}

/// Only some builds are queued at the same time: the rollup must not come between its rows.
#[test]
fn the_scheduler_builds_a_stale_rollup_after_all_of_its_stale_rows() {
    let key = "refresh_key: {sql: SELECT SUM(amount) FROM orders}";
    let definitions = format!(
        "    pre_aggregations:
      - {{name: flat, measures: [revenue], dimensions: [status], use_original_sql_pre_aggregations: true, {key}}}
      - {{name: raw, type: original_sql, time_dimension: at, partition_granularity: month, {key}}}
"
    );
    let project = project(&definitions, "");
    let server = start(&project, &[]);
    let all = select(&["orders.flat"], &json!({}));
    assert_eq!(server.build(&all), 4);
    server.kill();
    project.write("data/orders.csv", &orders(200, 3));
    // Two builds are queued at the same time.
    let server = start(&project, &[("CUBEJS_REFRESH_WORKER", "true"), ("CUBEJS_REFRESH_WORKER_CONCURRENCY", "1")]);
    let dry_run = json!({"action": "post", "selector": all, "dry_run": true, "if_stale": true});
    crate::server::wait_until("nothing stale", std::time::Duration::from_secs(120), || {
        (server.post(crate::server::JOBS, &dry_run).value()["jobs"] == json!([])).then_some(())
    });
    let query = json!({"measures": ["orders.revenue"], "dimensions": ["orders.status"]});
    assert_eq!(used(&server, &query), ["orders.flat rollup"]);
    let revenue: f64 =
        server.rows(&query).iter().filter_map(|row| row["orders.revenue"].as_str()?.parse::<f64>().ok()).sum();
    assert_eq!(revenue, sum(3), "built from rows of before");
    server.assert_alive();
}

#[test]
fn a_rollup_of_rows_that_could_not_be_built_is_not_built_from_old_ones() {
    let project = Project::empty();
    project.write(
        "model/shop.yml",
        "cubes:
  - name: orders
    sql: SELECT id, at, 10 / divisor AS share FROM orders
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: at, sql: at, type: time}
    measures: [{name: shares, sql: share, type: sum}]
    pre_aggregations:
      - {name: daily, measures: [shares], time_dimension: at, granularity: day, partition_granularity: month,
         use_original_sql_pre_aggregations: true}
      - {name: raw, type: original_sql, time_dimension: at, partition_granularity: month}
",
    );
    let orders = |divisor: u32| format!("id,divisor,at\n1,5,2024-01-03T00:00:00\n2,{divisor},2024-02-03T00:00:00\n");
    project.write("data/orders.csv", &orders(2));
    let server = start(&project, &[]);
    let all = select(&["orders.daily"], &json!({}));
    assert_eq!(server.build(&all), 4);
    project.write("data/orders.csv", &orders(0));
    let tokens = server.post_jobs(&all);
    let statuses = server.wait_jobs(&tokens);
    let failed = |part: &str| statuses.iter().filter(|status| status.contains(part)).count();
    assert_eq!(failed("the rows of orders.raw, which it is built from, could not be built: "), 2, "{statuses:?}");
    assert_eq!(failed("failure: "), 3, "and those of February themselves: {statuses:?}");
    // What was published stays, and the next time all is well.
    let answer = |server: &Server| server.rows(&json!({"measures": ["orders.shares"]}))[0]["orders.shares"].clone();
    assert_eq!(answer(&server), json!("7"));
    project.write("data/orders.csv", &orders(1));
    assert_eq!(server.build(&all), 4);
    assert_eq!(answer(&server), json!("12"));
}

/// A rollup that the scheduler built from old rows, since the new ones failed, would be fresh by its key for good.
#[test]
fn the_scheduler_does_not_build_a_rollup_of_rows_that_it_could_not_build() {
    let project = Project::empty();
    let key = "refresh_key: {sql: SELECT version FROM versions}";
    project.write(
        "model/shop.yml",
        &format!(
            "cubes:
  - name: orders
    sql: SELECT id, at, 10 / divisor AS share FROM orders
    dimensions:
      - {{name: id, sql: id, type: number, primary_key: true}}
      - {{name: at, sql: at, type: time}}
    measures: [{{name: shares, sql: share, type: sum}}]
    pre_aggregations:
      - {{name: daily, measures: [shares], time_dimension: at, granularity: day, partition_granularity: month,
         use_original_sql_pre_aggregations: true, {key}}}
      - {{name: raw, type: original_sql, time_dimension: at, partition_granularity: month, {key}}}
"
        ),
    );
    let write = |divisor: u32, version: u32| {
        let orders = format!("id,divisor,at\n1,5,2024-01-03T00:00:00\n2,{divisor},2024-02-03T00:00:00\n");
        project.write("data/orders.csv", &orders);
        project.write("data/versions.csv", &format!("version\n{version}\n"));
    };
    write(2, 1);
    let settings = [("CUBEJS_REFRESH_WORKER", "true"), ("CUBEJS_SCHEDULED_REFRESH_TIMER", "1")];
    let server = start(&project, &settings);
    let stale = |server: &Server| -> Vec<String> {
        let selector = select(&["orders.daily"], &json!({}));
        let dry_run = json!({"action": "post", "selector": selector, "dry_run": true, "if_stale": true});
        let jobs = server.post(crate::server::JOBS, &dry_run).value()["jobs"].clone();
        let name = |job: &Value| format!("{} {}", job["preAggregation"], job["partition"]);
        let mut stale: Vec<String> = jobs.as_array().expect("a list").iter().map(name).collect();
        stale.sort();
        stale
    };
    let wait = |what: &str, expected: usize| {
        crate::server::wait_until(what, std::time::Duration::from_secs(120), || {
            (stale(&server).len() == expected).then_some(())
        });
    };
    let answer = |server: &Server| server.rows(&json!({"measures": ["orders.shares"]}))[0]["orders.shares"].clone();
    wait("all built", 0);
    assert_eq!(answer(&server), json!("7"));
    write(0, 2);
    wait("January to be built, rows and rollup", 2);
    let left = stale(&server);
    assert!(left.iter().all(|name| name.contains("2024-02")), "{left:?}");
    crate::server::wait_until("the reason", std::time::Duration::from_secs(60), || {
        server.log().contains("the rows of orders.raw, which it is built from, could not be built: ").then_some(())
    });
    assert_eq!(stale(&server), left);
    write(1, 2);
    wait("February to be built", 0);
    assert_eq!(answer(&server), json!("12"), "built from the rows of before");
    server.assert_alive();
}

/// A build that had its rows built first is cancelled: theirs is not left behind.
#[test]
fn rows_are_built_to_the_end_when_the_rollup_is_cancelled() {
    let project = Project::empty();
    project.write(
        "model/shop.yml",
        "cubes:
  - name: orders
    sql: >
      SELECT id, at FROM orders CROSS JOIN (SELECT count(*) AS n FROM generate_series(1, 1000) AS a(x)
      CROSS JOIN generate_series(1, 5000) AS b(y) WHERE (a.x * 31 + b.y) % 7 = 3) AS slow WHERE n > 0
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: at, sql: at, type: time}
    measures: [{name: count, type: count}]
    pre_aggregations:
      - {name: daily, measures: [count], time_dimension: at, granularity: day, partition_granularity: week,
         build_range_start: {sql: \"SELECT '2024-01-01'\"}, build_range_end: {sql: \"SELECT '2024-02-29'\"},
         use_original_sql_pre_aggregations: true}
      - {name: raw, type: original_sql, time_dimension: at, partition_granularity: month,
         build_range_start: {sql: \"SELECT '2024-01-01'\"}, build_range_end: {sql: \"SELECT '2024-02-29'\"}}
",
    );
    project.write("data/orders.csv", "id,at\n1,2024-01-03T00:00:00\n2,2024-02-28T00:00:00\n");
    let server = start(&project, &[("CUBEJS_REFRESH_WORKER_CONCURRENCY", "1")]);
    let tokens = server.post_jobs(&select(&["orders.daily"], &json!({})));
    let (rows, weeks): (Vec<_>, Vec<_>) = tokens
        .iter()
        .cloned()
        .zip(server.job_entries(&tokens))
        .partition(|(_, entry)| entry["selector"]["preAggregations"][0] == "orders.raw");
    let rows: Vec<String> = rows.into_iter().map(|(token, _)| token).collect();
    assert_eq!((rows.len(), weeks.len()), (2, 9));
    crate::server::wait_until("rows in the making", std::time::Duration::from_secs(60), || {
        server.job_entries(&rows).iter().any(|entry| entry["status"] != "scheduled").then_some(())
    });
    for (token, _) in &weeks {
        assert_eq!(server.post(&format!("/quarry/v1/jobs/{token}/cancel"), &json!({})).status, 200);
    }
    assert_eq!(server.wait_jobs(&rows), ["done"; 2]);
    assert_eq!(server.build(&select(&["orders.daily"], &json!({}))), 11, "and the workers are free");
}
