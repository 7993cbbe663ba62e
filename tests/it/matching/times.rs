//! Several stored times, custom granularities, zones, pruning and the choice among rollups that fit.

use serde_json::{Value, json};

use super::fixture::{answer, build, explain, serve};
use crate::server::Server;

/// Asks before and after the rollups are built for these zones; the answers must be alike. Gives the rollups used.
#[track_caller]
fn used(server: &Server, zones: &[&str], queries: &[Value]) -> Vec<String> {
    let source: Vec<_> = queries.iter().map(|query| answer(server, query)).collect();
    build(server, zones);
    let mut all = Vec::new();
    for (query, (expected, _)) in queries.iter().zip(source) {
        assert!(!expected.is_empty(), "{query} finds nothing");
        let (given, used) = answer(server, query);
        assert_eq!(given, expected, "{query}\n{}", explain(server, query));
        all.push(used.join(" "));
    }
    server.assert_alive();
    all
}

fn by(granularity: &str, zone: &str) -> Value {
    json!({"measures": ["orders.count", "orders.revenue"], "timezone": zone,
        "timeDimensions": [{"dimension": "orders.created_at", "granularity": granularity}]})
}

fn ranged(granularity: &str, range: [&str; 2]) -> Value {
    json!({"measures": ["orders.count", "orders.revenue"],
        "timeDimensions": [{"dimension": "orders.created_at", "granularity": granularity, "dateRange": range}]})
}

/// Conformance case 44.
#[test]
fn each_of_several_times_is_read_by_its_own_granularity() {
    let server = serve(&["{name: two, measures: [count, revenue], partition_granularity: month, time_dimensions: \
                          [{dimension: created_at, granularity: day}, {dimension: closed_at, granularity: week}]}"]);
    let closed = |granularity: &str| {
        json!({"measures": ["orders.count"],
            "timeDimensions": [{"dimension": "orders.closed_at", "granularity": granularity}]})
    };
    let together = json!({"measures": ["orders.revenue"], "timeDimensions": [
        {"dimension": "orders.created_at", "granularity": "month", "dateRange": ["2024-01-01", "2024-02-29"]},
        {"dimension": "orders.closed_at", "granularity": "week", "dateRange": ["2024-01-01", "2024-03-03"]},
    ]});
    let found = used(&server, &["UTC"], &[by("day", "UTC"), closed("week"), together, closed("month")]);
    assert_eq!(found, ["orders.two", "orders.two", "orders.two", ""]);
}

#[test]
fn a_time_stored_twice_serves_by_whichever_fits() {
    let server = serve(&["{name: twice, measures: [count, revenue], time_dimensions: [{dimension: created_at, \
                          granularity: week}, {dimension: created_at, granularity: month}]}"]);
    let weeks = ranged("week", ["2024-01-01", "2024-01-14"]);
    let months = ranged("month", ["2024-01-01", "2024-01-31"]);
    let days = ranged("month", ["2024-01-01", "2024-01-14"]);
    let found = used(&server, &["UTC"], &[weeks, months, by("quarter", "UTC"), days, by("day", "UTC")]);
    // By month, the range of the last but one is one of weeks: both are whole.
    assert_eq!(found, ["orders.twice", "orders.twice", "orders.twice", "orders.twice", ""]);
}

#[test]
fn custom_granularities_are_stored_and_serve_what_they_fill() {
    let store = |granularity: &str, partitions: &str| {
        format!(
            "{{name: {granularity}, measures: [count, revenue], dimensions: [status], time_dimension: created_at, \
             granularity: {granularity}{partitions}}}"
        )
    };
    let month = ", partition_granularity: month";
    let check = |entry: &str, queries: &[(Value, bool)]| {
        let server = serve(&[entry]);
        let asked: Vec<Value> = queries.iter().map(|(query, _)| query.clone()).collect();
        let found = used(&server, &["UTC"], &asked);
        for ((query, fits), used) in queries.iter().zip(found) {
            assert_eq!(!used.is_empty(), *fits, "{entry}: {query}");
        }
    };
    check(
        &store("fiscal_month", month),
        &[
            (by("fiscal_month", "UTC"), true),
            (ranged("fiscal_month", ["2024-01-15", "2024-02-14"]), true),
            (ranged("fiscal_month", ["2024-01-01", "2024-01-31"]), false),
            (by("month", "UTC"), false),
            (by("year", "UTC"), false),
        ],
    );
    check(
        &store("half_year", ""),
        &[(by("half_year", "UTC"), true), (by("year", "UTC"), true), (by("quarter", "UTC"), false)],
    );
    check(&store("sunday_week", month), &[(by("sunday_week", "UTC"), true), (by("week", "UTC"), false)]);
    check(
        &store("quarter_hour", month),
        &[
            (by("quarter_hour", "UTC"), true),
            (by("hour", "UTC"), true),
            (by("sunday_week", "UTC"), true),
            (by("minute", "UTC"), false),
        ],
    );
    check(&store("month", ""), &[(by("half_year", "UTC"), true), (by("fiscal_month", "UTC"), false)]);
}

/// Conformance cases 8 and 9.
#[test]
fn one_table_of_utc_serves_every_zone_that_its_buckets_divide() {
    let zones = ["Asia/Kolkata", "Asia/Kathmandu", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"];
    let mut queries = Vec::new();
    for zone in zones {
        for granularity in ["hour", "day", "week", "fiscal_month"] {
            queries.push(by(granularity, zone));
        }
        let mut day = ranged("hour", ["2023-11-05", "2023-11-05"]);
        day["timezone"] = json!(zone);
        queries.push(day.clone());
        day["timeDimensions"][0]["dateRange"] = json!(["2024-03-10", "2024-03-10"]);
        queries.push(day);
    }
    let entry = |granularity: &str| {
        format!(
            "{{name: fine, measures: [count, revenue], dimensions: [status], time_dimension: created_at, \
             granularity: {granularity}, partition_granularity: month}}"
        )
    };
    let quarters = serve(&[&entry("quarter_hour")]);
    let found = used(&quarters, &["UTC"], &queries);
    assert!(found.iter().all(|used| used == "orders.fine"), "{found:?}");
    let hours = serve(&[&entry("hour")]);
    for (query, used) in queries.iter().zip(used(&hours, &["UTC"], &queries)) {
        // Lord Howe is off by half an hour in winter only.
        let summer = query["timeDimensions"][0].get("dateRange").is_some();
        let whole = match query["timezone"].as_str() {
            Some("America/New_York" | "Pacific/Apia") => true,
            zone => zone == Some("Australia/Lord_Howe") && summer,
        };
        assert_eq!(used == "orders.fine", whole, "{query}");
    }
    let odd = explain(&hours, &by("day", "Asia/Kolkata"));
    assert_eq!(odd["levels"][0]["candidates"][0]["rule"], "TIME_ZONE", "{odd}");
}

/// Conformance case 7, and times that are stored as they are.
#[test]
fn what_has_no_buckets_serves_every_zone() {
    let server = serve(&[
        "{name: plain, measures: [count], dimensions: [status]}",
        "{name: instants, measures: [revenue], dimensions: [created_at]}",
        "{name: daily, measures: [hi], dimensions: [city], time_dimension: created_at, granularity: day}",
    ]);
    let tokyo = |mut query: Value| {
        query["timezone"] = json!("Asia/Tokyo");
        query
    };
    let instants = json!({"measures": ["orders.revenue"], "dimensions": ["orders.created_at"]});
    let mut some = instants.clone();
    some["filters"] = json!([{"member": "orders.created_at", "operator": "inDateRange",
        "values": ["2024-01-02T03:04:05", "2024-01-20"]}]);
    let found = used(
        &server,
        &["UTC"],
        &[
            tokyo(json!({"measures": ["orders.count"], "dimensions": ["orders.status"]})),
            tokyo(instants),
            tokyo(some),
            tokyo(json!({"measures": ["orders.hi"], "dimensions": ["orders.city"]})),
            tokyo(json!({"measures": ["orders.hi"], "timeDimensions":
                [{"dimension": "orders.created_at", "granularity": "month"}]})),
        ],
    );
    assert_eq!(found, ["orders.plain", "orders.instants", "orders.instants", "orders.daily", ""]);
}

#[test]
fn members_over_stored_members_are_computed() {
    let server = serve(&["{name: main, measures: [count], dimensions: [status, city, users.country], \
                          time_dimension: created_at, granularity: day}"]);
    let filtered = json!({"measures": ["orders.count"], "dimensions": ["users.country"],
        "filters": [{"member": "orders.label", "operator": "contains", "values": ["done"]}]});
    let months = json!({"measures": ["ov.count"], "dimensions": ["ov.month_name", "ov.country"],
        "segments": ["ov.done"]});
    let found = used(
        &server,
        &["UTC", "America/New_York"],
        &[filtered, months.clone(), {
            let mut west = months;
            west["timezone"] = json!("America/New_York");
            west
        }],
    );
    assert_eq!(found, ["orders.main"; 3]);
}

/// §6.5: all conditions that every row must meet narrow the partitions, and alternatives add up.
#[test]
fn all_conditions_on_the_partitions_time_prune() {
    let server = serve(&["{name: main, measures: [count], time_dimension: created_at, granularity: day, \
                          partition_granularity: month}"]);
    build(&server, &["UTC"]);
    let all = |operator: &str, values: &[&str]| json!({"member": "orders.created_at", "operator": operator, "values": values});
    let check = |filters: Value, range: &[&str], partitions: u64| {
        let mut query = json!({"measures": ["orders.count"], "filters": filters});
        if !range.is_empty() {
            query["timeDimensions"] = json!([{"dimension": "orders.created_at", "dateRange": range}]);
        }
        let answer = server.load(&query);
        assert_eq!(answer["quarry"]["partitions"], json!(partitions), "{query}: {answer}");
        answer["data"][0]["orders.count"].as_str().expect("a count").parse::<u64>().expect("a number")
    };
    let january = ["2024-01-01", "2024-01-31"];
    let whole = check(json!([]), &["2023-01-01", "2024-12-31"], 15);
    let days = check(json!([all("inDateRange", &["2024-01-20", "2024-02-10"])]), &january, 1);
    assert_eq!(days, check(json!([]), &["2024-01-20", "2024-01-31"], 1));
    check(json!([all("inDateRange", &january), all("afterDate", &["2024-01-10"])]), &["2023-06-01", "2024-12-31"], 1);
    check(json!([all("onTheDate", &["2024-02-01"])]), &[], 1);
    check(json!([all("beforeDate", &["2023-02-01"])]), &[], 1);
    let either = json!([{"or": [all("onTheDate", &["2023-01-05"]), all("onTheDate", &["2024-03-05"])]}]);
    check(either, &[], 2);
    check(json!([all("notInDateRange", &["2023-02-01", "2024-02-29"])]), &[], 2);
    let nothing = check(json!([all("onTheDate", &["2024-02-01"])]), &january, 0);
    assert!(nothing == 0 && whole > 0, "no row, and not null");
}

/// Conformance case 6, with the choice by cost.
#[test]
fn the_rollup_with_the_fewest_rows_wins_and_ties_go_to_the_first() {
    let broad =
        "{name: broad, measures: [count], dimensions: [status, city], time_dimension: created_at, granularity: day}";
    let tight = "{name: tight, measures: [count], dimensions: [status]}";
    let twin = "{name: twin, measures: [count], dimensions: [status]}";
    let query = json!({"measures": ["orders.count"], "dimensions": ["orders.status"]});
    for (order, chosen) in [([broad, tight, twin], "orders.tight"), ([twin, broad, tight], "orders.twin")] {
        let server = serve(&order);
        assert_eq!(used(&server, &["UTC"], std::slice::from_ref(&query)), [chosen]);
        let why = explain(&server, &query)["levels"][0]["chosen"]["why"].clone();
        assert!(why.as_str().is_some_and(|why| why.contains("as many rows, and is defined later")), "{why}");
    }
}

/// §4.9: rows of their own for every row of the source, over joins too.
#[test]
fn rows_come_from_rollups_that_hold_their_keys() {
    let server = serve(&[
        "{name: rows, measures: [count, revenue, hi], dimensions: [id, status, users.country], \
         time_dimension: created_at, granularity: second, partition_granularity: month}",
        "{name: pairs, measures: [items.pieces], dimensions: [id, items.id, items.sku]}",
    ]);
    let raw =
        |measures: Value, dimensions: Value| json!({"measures": measures, "dimensions": dimensions, "ungrouped": true});
    let mut some = raw(json!(["orders.count", "orders.revenue", "orders.aov"]), json!(["orders.id", "users.country"]));
    some["timeDimensions"] = json!([{"dimension": "orders.created_at", "granularity": "second",
        "dateRange": ["2024-01-01", "2024-01-31"]}]);
    some["filters"] = json!([{"member": "orders.status", "operator": "notEquals", "values": ["new"]}]);
    let found = used(
        &server,
        &["UTC"],
        &[
            raw(json!(["orders.hi"]), json!(["orders.status"])),
            some,
            raw(json!(["items.pieces"]), json!(["orders.id", "items.id", "items.sku"])),
            raw(json!(["orders.buyers"]), json!(["orders.status"])),
            raw(json!(["orders.revenue"]), json!(["items.sku"])),
        ],
    );
    assert_eq!(found[..2], ["orders.rows", "orders.rows"]);
    assert_eq!(found[3], "", "a distinct count of a row is not stored");
    assert_eq!(found[4], "", "an order's revenue stands in several rows");
}

/// Data model §20.5, truth table row 48: moved times are moved buckets where the move is made of buckets.
#[test]
fn moved_times_come_from_rollups_whose_buckets_move_as_a_whole() {
    let entry = |granularity: &str| {
        format!(
            "{{name: main, measures: [revenue], dimensions: [status], time_dimension: created_at, granularity: \
             {granularity}, partition_granularity: year}}"
        )
    };
    let query = |granularity: &str, range: [&str; 2]| {
        json!({"measures": ["orders.last_year", "orders.revenue"], "dimensions": ["orders.status"],
            "timeDimensions": [{"dimension": "orders.created_at", "granularity": granularity, "dateRange": range}]})
    };
    let queries = [
        query("month", ["2024-01-01", "2024-12-31"]),
        query("day", ["2024-01-15", "2024-03-10"]),
        query("quarter", ["2024-01-01", "2024-03-31"]),
    ];
    let days = serve(&[&entry("day")]);
    assert_eq!(used(&days, &["UTC"], &queries), ["orders.main"; 3]);
    let weeks = serve(&[&entry("week")]);
    assert_eq!(used(&weeks, &["UTC"], &[query("week", ["2024-01-01", "2024-03-31"])]), [""]);
}
