//! Conformance cases of `pre-aggregations.md` §24 about what is stored, by number; those with tests of their own are
//! listed in `tests/tidy.rs`.

use serde_json::{Value, json};

use crate::events::selector;
use crate::server::{ALL_SCOPES, JOBS, Project, Server};

/// A cube over `data/sales.csv`; `rollups` are lines of its `pre_aggregations`.
fn project(rollups: &[&str], rows: &str) -> Project {
    let project = Project::empty();
    let mut listed: String = rollups.iter().map(|rollup| format!("      - {{{rollup}}}\n")).collect();
    if !listed.is_empty() {
        listed.insert_str(0, "    pre_aggregations:\n");
    }
    project.write(
        "model/sales.yml",
        &format!(
            "cubes:
  - name: sales
    sql_table: sales
    measures:
      - {{name: count, type: count}}
      - {{name: total, type: sum, sql: amount}}
      - {{name: mean, type: avg, sql: amount}}
      - {{name: week, type: sum, sql: amount, rolling_window: {{trailing: 7 day}}}}
    dimensions: [{{name: at, sql: at, type: time}}, {{name: city, sql: city, type: string}}]
{listed}"
        ),
    );
    project.write("data/sales.csv", &format!("at,city,amount\n{rows}"));
    project
}

const MONTHLY: &str = "name: monthly, measures: [count, total, mean, week], dimensions: [city], time_dimension: at, \
                       granularity: day, partition_granularity: month";
const ROWS: &str = "2024-01-15T00:00:00,Rome,1\n2024-01-31T23:59:59,Bonn,\n2024-02-10T12:00:00,Rome,4\n\
                    2024-03-10T05:00:00,Rome,8\n";

fn serve(project: &Project, more: &[(&str, &str)]) -> Server {
    let settings = [&[("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES)][..], more].concat();
    Server::start_with(project, &settings)
}

/// The rows of an answer, sorted.
fn rows(answer: &Value) -> Vec<String> {
    let mut rows: Vec<String> = answer["data"].as_array().expect("rows").iter().map(Value::to_string).collect();
    rows.sort();
    rows
}

/// Local starts of the partitions that tokens stand for.
fn starts(server: &Server, tokens: &[String]) -> Vec<String> {
    let start = |entry: Value| entry["quarry"]["partition"]["start"].as_str().unwrap_or("all").to_owned();
    server.job_entries(tokens).into_iter().map(start).collect()
}

/// The answer of rollups alone, and that it is the source's, which a server without any gives.
#[track_caller]
fn same_as_source(server: &Server, plain: &Server, query: &Value) -> Value {
    let answer = server.load(query);
    assert!(answer["usedPreAggregations"].as_object().is_some_and(|used| !used.is_empty()), "{query}: {answer}");
    assert_eq!(rows(&answer), rows(&plain.load(query)), "{query}");
    answer
}

fn by(granularity: Option<&str>, range: Option<[&str; 2]>, measures: &[&str]) -> Value {
    let mut time = json!({"dimension": "sales.at"});
    if let Some(granularity) = granularity {
        time["granularity"] = json!(granularity);
    }
    if let Some(range) = range {
        time["dateRange"] = json!(range);
    }
    let measures: Vec<String> = measures.iter().map(|name| format!("sales.{name}")).collect();
    json!({"measures": measures, "timeDimensions": [time]})
}

#[test]
fn conformance_1_3_and_42_partitions_hold_whole_buckets() {
    let project = project(
        &[
            MONTHLY,
            &format!(
                "{}, build_range_start: {{sql: \"SELECT TIMESTAMP '2024-01-20'\"}}",
                MONTHLY.replace("monthly", "later")
            ),
        ],
        ROWS,
    );
    let server = serve(&project, &[]);
    let monthly = |more: &Value| {
        let mut wanted = selector(&json!({"preAggregations": ["sales.monthly"]}));
        wanted.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        server.post_jobs(&wanted)
    };
    // Three days of a month are asked for first: the stored bucket holds the month.
    let first = monthly(&json!({"dateRange": ["2024-01-10", "2024-01-16"]}));
    assert_eq!(starts(&server, &first), ["2024-01-01T00:00:00.000"]);
    server.wait_jobs(&first);
    let january = server.load(&by(None, Some(["2024-01-01", "2024-01-31"]), &["count"]));
    assert_eq!((&january["data"][0]["sales.count"], &january["quarry"]["partitions"]), (&json!("2"), &json!(1)));
    let all = monthly(&json!({}));
    let months = ["2024-01-01T00:00:00.000", "2024-02-01T00:00:00.000", "2024-03-01T00:00:00.000"];
    assert_eq!(starts(&server, &all), months);
    server.wait_jobs(&all);
    // A build range that begins within a bucket does not trim it.
    let later = server.post_jobs(&selector(&json!({"preAggregations": ["sales.later"]})));
    assert_eq!(starts(&server, &later), months);
    server.wait_jobs(&later);
    let entries = server.job_entries(&later);
    assert_eq!(entries[0]["quarry"]["rows"], json!(2), "{entries:?}");
}

#[test]
fn conformance_2_and_43_an_empty_source_counts_zero() {
    let empty = project(&[MONTHLY, "name: whole, measures: [count, total], dimensions: [city]"], "");
    // Without rows the types of a text file are unknown: the same columns, and no row.
    empty.write(
        "model/sales.yml",
        &std::fs::read_to_string(empty.path().join("model/sales.yml")).expect("a model").replace(
            "sql_table: sales",
            "sql: \"SELECT CAST(at AS TIMESTAMP) AS at, city, CAST(amount AS BIGINT) AS amount FROM sales\"",
        ),
    );
    let plain = serve(&empty, &[]);
    let queries = [
        json!({"measures": ["sales.count", "sales.total"]}),
        by(Some("month"), None, &["count", "total"]),
        by(None, Some(["2020-01-01", "2020-01-31"]), &["count"]),
    ];
    let expected: Vec<Value> = queries.iter().map(|query| plain.load(query)["data"].clone()).collect();
    assert_eq!(expected[0], json!([{"sales.count": "0", "sales.total": null}]));
    drop(plain);
    let server = serve(&empty, &[("CUBEJS_ROLLUP_ONLY", "true")]);
    for rollup in ["monthly", "whole"] {
        let tokens = server.post_jobs(&selector(&json!({"preAggregations": [format!("sales.{rollup}")]})));
        assert_eq!(tokens.len(), 1, "the bucket of now, or the whole");
        assert_eq!(server.wait_jobs(&tokens), ["done"]);
        assert_eq!(server.job_entries(&tokens)[0]["quarry"]["rows"], json!(0));
        for (query, expected) in queries.iter().zip(&expected) {
            if rollup == "monthly" || query["timeDimensions"].is_null() {
                assert_eq!(&server.load(query)["data"], expected, "{rollup}: {query}");
            }
        }
    }
}

#[test]
fn conformance_4_too_many_partitions_are_refused() {
    let project = project(&[&MONTHLY.replace("month", "day").replace("dayly", "daily")], ROWS);
    let server = serve(&project, &[("CUBEJS_MAX_PARTITIONS_PER_CUBE", "55"), ("CUBEJS_REFRESH_WORKER", "true")]);
    let body = |more: &Value| json!({"action": "post", "selector": selector(more)});
    let reply = server.post(JOBS, &body(&json!({})));
    let text = "Pre-aggregation 'sales.daily' requested to build 56 partitions which exceeds the maximum number of \
                partitions per pre-aggregation of 55";
    assert_eq!((reply.status, reply.error().as_str()), (400, text), "{}", reply.body);
    crate::server::wait_until("the background to say so too", std::time::Duration::from_secs(60), || {
        server.log().contains("requested to build 56 partitions").then_some(())
    });
    assert!(project.stored_files().is_empty());
    assert_eq!(server.load(&by(None, None, &["count"]))["data"][0]["sales.count"], "4", "the source answers");
}

#[test]
fn conformance_20_a_window_reads_the_rows_before_its_range_and_no_more() {
    let project = project(&[MONTHLY], ROWS);
    let plain = serve(&project, &[]);
    let query = by(Some("day"), Some(["2024-02-01", "2024-02-03"]), &["week"]);
    let expected = rows(&plain.load(&query));
    plain.build(&selector(&json!({})));
    let answer = plain.load(&query);
    assert_eq!(rows(&answer), expected);
    assert_eq!(answer["quarry"]["partitions"], json!(2), "January for the days before, and February: {answer}");
    let far = plain.load(&by(Some("day"), Some(["2024-03-20", "2024-03-22"]), &["week"]));
    assert_eq!(far["quarry"]["partitions"], json!(1), "{far}");
}

#[test]
fn conformance_32_what_is_not_scheduled_is_built_by_jobs_and_kept() {
    let unscheduled = format!("{MONTHLY}, scheduled_refresh: false");
    let project = project(&[&unscheduled, "name: whole, measures: [count]"], ROWS);
    let settings =
        [("CUBEJS_REFRESH_WORKER", "true"), ("CUBEJS_SCHEDULED_REFRESH_TIMER", "1"), ("QUARRY_GC_GRACE", "0s")];
    let server = serve(&project, &settings);
    crate::server::wait_until("the scheduled one", std::time::Duration::from_secs(60), || {
        (project.stored_files().len() == 1).then_some(())
    });
    assert_eq!(server.build(&selector(&json!({"preAggregations": ["sales.monthly"]}))), 3);
    drop(server);
    let server = serve(&project, &settings);
    let reply = server.post("/quarry/v1/gc", &json!({}));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let answer = server.load(&by(Some("month"), None, &["count"]));
    assert_eq!(answer["quarry"]["partitions"], json!(3), "{answer}");
}

#[test]
fn conformance_41_zones_on_both_sides_have_whole_edges() {
    // The first and the last row are in another day, and another month, in both zones.
    let edges = "2024-01-01T03:00:00,Rome,1\n2024-01-31T20:00:00,Bonn,2\n2024-03-01T02:00:00,Rome,4\n\
                 2024-03-31T22:30:00,Oslo,8\n";
    let hourly = "name: hourly, measures: [count, total], time_dimension: at, granularity: hour, \
                  partition_granularity: hour, build_range_start: {sql: \"SELECT TIMESTAMP '2024-03-31T20:00:00'\"}";
    let daily = MONTHLY.replace("partition_granularity: month", "partition_granularity: day");
    let rollups = project(&[&daily, hourly], edges);
    let (server, plain) = (serve(&rollups, &[]), serve(&project(&[], edges), &[]));
    for (zone, first, last) in [
        ("America/Los_Angeles", "2023-12-31T00:00:00.000", "2024-03-31T00:00:00.000"),
        ("Asia/Tokyo", "2024-01-01T00:00:00.000", "2024-04-01T00:00:00.000"),
    ] {
        let of_zone = |rollup: &str| selector(&json!({"preAggregations": [rollup], "timezones": [zone]}));
        let tokens = server.post_jobs(&of_zone("sales.monthly"));
        let days = starts(&server, &tokens);
        assert_eq!((days.first().map(String::as_str), days.last().map(String::as_str)), (Some(first), Some(last)));
        assert!(server.wait_jobs(&tokens).iter().all(|status| status == "done"));
        server.build(&of_zone("sales.hourly"));
        for granularity in ["day", "month", "year"] {
            let mut query = by(Some(granularity), None, &["count", "total"]);
            query["timezone"] = json!(zone);
            same_as_source(&server, &plain, &query);
        }
        let mut hours = by(Some("hour"), Some(["2024-03-31T00:00:00", "2024-04-02T00:59:59.999"]), &["count", "total"]);
        hours["timezone"] = json!(zone);
        assert_eq!(rows(&server.load(&hours)), rows(&plain.load(&hours)), "{zone}");
        // The last local day can be selected.
        let mut last_day = of_zone("sales.monthly");
        last_day["dateRange"] = json!([&last[..10], &last[..10]]);
        assert_eq!(starts(&server, &server.post_jobs(&last_day)), [last]);
    }
}

#[test]
fn conformance_45_and_46_one_table_for_all_zones_and_builds_within_a_second() {
    let project = project(&["name: whole, measures: [count, total, mean], dimensions: [city]"], ROWS);
    let server = serve(&project, &[]);
    let both = selector(&json!({"timezones": ["UTC", "Asia/Tokyo"]}));
    let tokens = server.post_jobs(&both);
    assert_eq!(tokens.len(), 2);
    assert_eq!(server.wait_jobs(&tokens), ["done"; 2]);
    assert_eq!(project.stored_files().len(), 1, "{:?}", project.stored_files());
    for zone in ["UTC", "Asia/Tokyo", "America/New_York"] {
        let answer = server.load(&json!({"measures": ["sales.count"], "dimensions": ["sales.city"], "timezone": zone}));
        assert_eq!(answer["quarry"]["partitions"], json!(1), "{zone}: {answer}");
    }
    let twice = [server.post_jobs(&both), server.post_jobs(&both)].concat();
    assert_eq!(server.wait_jobs(&twice), ["done"; 4]);
    server.assert_alive();
}
