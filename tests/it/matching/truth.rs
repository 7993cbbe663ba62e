//! Every row of the truth table (`pre-aggregations.md` §5), each against its one rollup: whether it matches, which rule
//! keeps it from matching, and that the answer is the source's in every case.
//!
//! Where Quarry decides otherwise than Cube, in favour of a right answer or of a rollup that Cube passes by, the row
//! says so; `README.md` lists these.

use serde_json::{Value, json};

use super::fixture::{answer, build, explain, serve};

/// Where a row's query is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// By the rollup.
    Rollup,
    /// By the rollup, every group being one stored row.
    Exactly,
    /// By the source, for the rule of this code.
    Source(&'static str),
}
use By::{Exactly, Rollup, Source};

/// Holds the rows `(number, query, by)` against a rollup that is built for UTC.
#[track_caller]
fn check(letter: &str, definition: &str, rows: &[(u8, Value, By)]) {
    let server = serve(&[&format!("{{name: {letter}, {definition}}}")]);
    let source: Vec<_> = rows.iter().map(|(_, query, _)| answer(&server, query)).collect();
    build(&server, &["UTC"]);
    let id = format!("orders.{letter}");
    for ((number, query, by), (expected, unused)) in rows.iter().zip(source) {
        assert!(unused.is_empty() && !expected.is_empty(), "row {number}: {expected:?}");
        let (given, used) = answer(&server, query);
        assert_eq!(given, expected, "row {number}: {query}");
        let told = explain(&server, query);
        let level = &told["levels"][0];
        match by {
            Rollup | Exactly => {
                assert_eq!(used, [id.as_str()], "row {number}: {told}");
                assert_eq!(level["chosen"]["exact"], json!(*by == Exactly), "row {number}: {told}");
                assert_eq!(told["answeredBy"], "rollup");
            }
            Source(rule) => {
                assert!(used.is_empty(), "row {number}: {used:?}");
                let candidates = level["candidates"].as_array().expect("candidates");
                let verdict = candidates.iter().find(|candidate| candidate["preAggregationId"] == json!(id));
                assert_eq!(verdict.expect("a verdict")["rule"], json!(rule), "row {number}: {told}");
                assert_eq!(told["answeredBy"], "source");
            }
        }
    }
    server.assert_alive();
}

/// Measures by dimensions.
fn by(measures: &[&str], dimensions: &[&str]) -> Value {
    let full = |names: &[&str]| -> Vec<String> {
        names
            .iter()
            .map(|name| if name.contains('.') { (*name).to_owned() } else { format!("orders.{name}") })
            .collect()
    };
    json!({"measures": full(measures), "dimensions": full(dimensions)})
}

/// The query with `created_at` by a granularity, maybe in a range.
fn at(mut query: Value, granularity: &str, range: &[&str]) -> Value {
    let mut time = json!({"dimension": "orders.created_at"});
    if !granularity.is_empty() {
        time["granularity"] = json!(granularity);
    }
    if !range.is_empty() {
        time["dateRange"] = json!(range);
    }
    query["timeDimensions"] = json!([time]);
    query
}

fn with(mut query: Value, key: &str, value: Value) -> Value {
    query[key] = value;
    query
}

fn equals(query: Value, member: &str, values: &[&str]) -> Value {
    with(query, "filters", json!([{"member": member, "operator": "equals", "values": values}]))
}

const YEAR: [&str; 2] = ["2024-01-01", "2024-12-31"];

#[test]
fn rows_1_to_19_and_47_and_48_of_rollup_a() {
    let either = json!([{"or": [
        {"member": "orders.status", "operator": "equals", "values": ["done"]},
        {"member": "orders.city", "operator": "equals", "values": ["NY"]},
    ]}]);
    let having = json!([{"member": "orders.revenue", "operator": "gt", "values": ["100"]}]);
    let view = json!({"measures": ["ov.count"], "dimensions": ["ov.status"],
        "timeDimensions": [{"dimension": "ov.created_at", "granularity": "day"}]});
    check(
        "a",
        "measures: [count, revenue, lo, hi, buyers_hll], dimensions: [status, city], time_dimension: created_at, \
         granularity: day, partition_granularity: month",
        &[
            (1, at(by(&["count", "revenue"], &["status", "city"]), "day", &[]), Exactly),
            (2, at(by(&["count"], &["status"]), "day", &[]), Rollup),
            (3, by(&["revenue", "lo", "hi"], &[]), Rollup),
            (4, at(by(&["aov"], &["city"]), "month", &[]), Rollup),
            (5, by(&["avg_amt"], &["status"]), Source("MEASURE")),
            (6, at(by(&["buyers_hll"], &[]), "month", &[]), Rollup),
            (7, at(by(&["buyers"], &["status", "city"]), "day", &[]), Source("MEASURE")),
            (8, equals(by(&["count"], &["status"]), "orders.city", &["NY"]), Rollup),
            (9, equals(by(&["count"], &["status"]), "users.country", &["US"]), Source("FILTER")),
            (10, at(by(&["count"], &[]), "hour", &[]), Source("GRANULARITY")),
            (11, at(by(&["count"], &[]), "week", &[]), Rollup),
            (12, with(at(by(&["count"], &[]), "quarter", &[]), "filters", either), Rollup),
            (13, with(by(&["count"], &["status"]), "filters", having), Rollup),
            (14, with(by(&["count"], &["status"]), "segments", json!(["orders.raw_done"])), Source("SEGMENT")),
            (15, with(by(&["count"], &["city"]), "segments", json!(["orders.done"])), Rollup),
            (16, by(&["count"], &["label"]), Rollup),
            (17, view, Rollup),
            // Cube answers without the first day and with the whole last one.
            (18, at(by(&["count"], &[]), "", &["2024-01-01T06:00:00", "2024-01-03T18:00:00"]), Source("GRANULARITY")),
            (19, with(by(&["count"], &["status"]), "ungrouped", json!(true)), Source("UNGROUPED")),
            // Cube fails, or builds the table of the zone first.
            (47, with(at(by(&["count"], &[]), "day", &[]), "timezone", json!("Asia/Kolkata")), Source("TIME_ZONE")),
            (48, at(by(&["last_year"], &[]), "month", &YEAR), Rollup),
        ],
    );
}

#[test]
fn rows_20_to_26_of_rollup_b() {
    let two = ["done", "new"];
    check(
        "b",
        "measures: [buyers, avg_amt], dimensions: [status], time_dimension: created_at, granularity: day",
        &[
            (20, at(by(&["buyers"], &["status"]), "day", &[]), Exactly),
            // Cube passes by: distinct values and averages do not add up there. Sets of values, sums and counts do.
            (21, at(by(&["buyers"], &[]), "day", &[]), Rollup),
            (21, at(by(&["avg_amt"], &[]), "day", &[]), Rollup),
            (22, at(by(&["buyers"], &["status"]), "month", &[]), Rollup),
            (23, equals(at(by(&["buyers"], &[]), "day", &[]), "orders.status", &["paid"]), Exactly),
            (24, equals(at(by(&["buyers"], &[]), "day", &[]), "orders.status", &two), Rollup),
            (25, equals(at(by(&["buyers"], &["status"]), "day", &[]), "orders.status", &two), Exactly),
            (26, at(by(&["buyers"], &["status"]), "", &YEAR), Rollup),
            // A range that is one stored bucket pins the time.
            (26, at(by(&["buyers"], &["status"]), "", &["2024-01-03", "2024-01-03"]), Exactly),
        ],
    );
}

#[test]
fn rows_27_to_29_of_rollup_c() {
    check(
        "c",
        "measures: [count], time_dimension: created_at, granularity: month",
        &[
            (27, at(by(&["count"], &[]), "year", &[]), Rollup),
            (28, at(by(&["count"], &[]), "week", &[]), Source("GRANULARITY")),
            // Cube answers without January and with the whole of February.
            (29, at(by(&["count"], &[]), "month", &["2024-01-10", "2024-02-20"]), Source("GRANULARITY")),
        ],
    );
}

#[test]
fn rows_30_to_32_of_rollup_d() {
    let revenue = || by(&["revenue"], &[]);
    check(
        "d",
        "measures: [revenue], dimensions: [status], time_dimension: created_at, granularity: day, \
         allow_non_strict_date_range_match: false",
        &[
            (30, at(revenue(), "month", &["2024-01-01", "2024-01-31"]), Rollup),
            (31, at(revenue(), "", &["2024-01-01T06:00:00", "2024-01-02T18:00:00"]), Source("GRANULARITY")),
            (32, at(revenue(), "day", &["2024-01-01T00:00:00.000", "2024-01-01T23:59:59.998"]), Source("GRANULARITY")),
            (32, at(revenue(), "day", &["2024-01-01T00:00:00.000", "2024-01-01T23:59:59.999"]), Rollup),
        ],
    );
}

#[test]
fn row_33_of_rollup_e() {
    let segmented = with(by(&["count"], &["city"]), "segments", json!(["orders.done"]));
    check(
        "e",
        "measures: [count], dimensions: [city], segments: [done]",
        &[(33, by(&["count"], &["city"]), Rollup), (33, segmented, Exactly)],
    );
}

#[test]
fn rows_34_and_35_of_rollup_f() {
    let country = || by(&["count"], &["users.country"]);
    check(
        "f",
        "measures: [count], dimensions: [users.country], time_dimension: created_at, granularity: day",
        &[
            (34, at(country(), "month", &[]), Rollup),
            (35, with(country(), "joinHints", json!([["orders", "stores", "users"]])), Source("JOIN_PATH")),
        ],
    );
}

#[test]
fn rows_36_and_37_of_rollup_g() {
    check(
        "g",
        "measures: [revenue], dimensions: [items.sku]",
        &[(36, by(&["revenue"], &["items.sku"]), Exactly), (37, by(&["revenue"], &[]), Source("MULTIPLIED_IN_ROLLUP"))],
    );
}

#[test]
fn rows_38_and_39_of_rollup_h() {
    check(
        "h",
        "measures: [aov], dimensions: [status]",
        &[(38, by(&["aov"], &["status"]), Exactly), (39, by(&["aov"], &[]), Source("MEASURE"))],
    );
}

#[test]
fn rows_40_and_41_of_rollup_i() {
    check(
        "i",
        "measures: [count], time_dimension: created_at, granularity: fiscal_month",
        &[
            (40, at(by(&["count"], &[]), "fiscal_month", &[]), Exactly),
            (41, at(by(&["count"], &[]), "month", &[]), Source("GRANULARITY")),
        ],
    );
}

#[test]
fn row_42_of_rollup_j() {
    // Cube takes January 1 for the start of a year, and passes by.
    check(
        "j",
        "measures: [count], time_dimension: created_at, granularity: week, allow_non_strict_date_range_match: false",
        &[(42, at(by(&["count"], &[]), "week", &["2024-01-01", "2024-01-07"]), Exactly)],
    );
}

#[test]
fn row_43_of_rollup_k() {
    let rows = |dimensions: &[&str]| with(by(&["count"], dimensions), "ungrouped", json!(true));
    check(
        "k",
        "measures: [count], dimensions: [id, status], time_dimension: created_at, granularity: second",
        &[(43, rows(&["id", "status"]), Rollup), (43, rows(&["status"]), Rollup)],
    );
}

#[test]
fn row_44_of_rollup_l() {
    check(
        "l",
        "measures: [roll7], dimensions: [status], time_dimension: created_at, granularity: day",
        &[(44, at(by(&["roll7"], &["status"]), "day", &["2024-01-01", "2024-01-31"]), Exactly)],
    );
}

#[test]
fn row_45_of_rollup_m() {
    check(
        "m",
        "measures: [p90, about_p90], dimensions: [status]",
        &[
            (45, by(&["p90"], &[]), Source("NOT_ADDITIVE")),
            (45, by(&["p90"], &["status"]), Exactly),
            // Who asks for an estimate gets one that merges; Cube passes by.
            (45, by(&["about_p90"], &[]), Rollup),
        ],
    );
}

#[test]
fn row_46_of_rollup_n() {
    let closed = json!({"measures": ["orders.revenue"], "timeDimensions": [
        {"dimension": "orders.closed_at", "granularity": "month"},
        {"dimension": "orders.created_at", "dateRange": ["2024-01-01", "2024-01-31"]},
    ]});
    let both = json!({"measures": ["orders.revenue"], "dimensions": ["orders.status"], "timeDimensions": [
        {"dimension": "orders.closed_at", "granularity": "month"},
        {"dimension": "orders.created_at", "granularity": "day"},
    ]});
    check(
        "n",
        "measures: [revenue], dimensions: [status], time_dimensions: [{dimension: created_at, granularity: day}, \
         {dimension: closed_at, granularity: month}], partition_granularity: month",
        &[
            // Cube matches, and fails on a column that is not there.
            (46, closed, Rollup),
            (46, both, Exactly),
            (46, at(by(&["revenue"], &[]), "week", &[]), Rollup),
            (
                46,
                with(
                    by(&["revenue"], &[]),
                    "timeDimensions",
                    json!([{"dimension": "orders.closed_at", "granularity": "day"}]),
                ),
                Source("GRANULARITY"),
            ),
        ],
    );
}
