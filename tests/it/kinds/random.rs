//! Random questions, answered by a server with every kind of pre-aggregation and by one without any: the same rows.
//! `QUARRY_SEED` and `QUARRY_CASES` make longer runs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{project, rows, select, start, used};
use crate::differential::random::Random;
use crate::server::environment;

const CASES: usize = 250;
const SEED: u64 = 11;

/// Months to the middle of February, days from there on, the source from 10 March on; joined with users; rows of users.
const ORDERS: &str = "    pre_aggregations:
      - {name: whole, type: rollup_lambda, rollups: [months, days], union_with_source_data: true}
      - {name: months, measures: [count, revenue, most, mean, buyers], dimensions: [status, user_id], segments: [paid],
         time_dimension: at, granularity: day, partition_granularity: month,
         build_range_end: {sql: \"SELECT '2024-02-10'\"}}
      - {name: days, measures: [count, revenue, most, mean, buyers], dimensions: [status, user_id], segments: [paid],
         time_dimension: at, granularity: day, partition_granularity: day,
         build_range_end: {sql: \"SELECT '2024-03-10'\"}}
      - {name: flat, measures: [count, revenue, most, mean], dimensions: [status, user_id]}
      - {name: with_users, type: rollup_join, measures: [count, revenue, most, mean, per_order, users.credit],
         dimensions: [status, users.city], rollups: [flat, users.people]}
";
const USERS: &str = "    pre_aggregations:
      - {name: people, measures: [count, credit], dimensions: [id, city]}
      - {name: raw, type: original_sql}
";

const MEASURES: [&str; 8] = [
    "orders.count",
    "orders.revenue",
    "orders.most",
    "orders.mean",
    "orders.per_order",
    "orders.buyers",
    "users.count",
    "users.credit",
];
const DIMENSIONS: [&str; 4] = ["orders.status", "orders.user_id", "users.city", "orders.paid"];
const DAYS: [&str; 7] =
    ["2023-12-31", "2024-01-01", "2024-01-31", "2024-02-14", "2024-03-01", "2024-03-10", "2024-04-02"];

fn query(random: &mut Random) -> Value {
    let measures = random.some(&MEASURES, 1, 3);
    let mut query = json!({"measures": measures, "dimensions": random.some(&DIMENSIONS, 0, 2)});
    if random.chance(65) {
        let mut range = [random.pick(&DAYS), random.pick(&DAYS)];
        range.sort_unstable();
        let mut time = json!({"dimension": "orders.at"});
        if random.chance(80) {
            time["dateRange"] = json!(range);
        }
        if let Some(granularity) = random.maybe(20, |random| random.pick(&["day", "week", "month", "year"])) {
            time["granularity"] = json!(granularity);
        }
        query["timeDimensions"] = json!([time]);
    }
    match random.between(0, 6) {
        0 => query["segments"] = json!(["orders.paid"]),
        1 => {
            let city = random.pick(&["Oslo", "Rome"]);
            query["filters"] = json!([{"member": "users.city", "operator": "notEquals", "values": [city]}]);
        }
        2 => {
            query["filters"] = json!([{"or": [
                {"member": "orders.status", "operator": "equals", "values": ["paid"]},
                {"member": "orders.user_id", "operator": "notSet"}]}]);
        }
        _ => {}
    }
    query
}

#[test]
fn random_questions_are_answered_as_by_the_source() {
    let number = |name: &str| environment(name).and_then(|text| text.parse::<u64>().ok());
    let seed = number("QUARRY_SEED").unwrap_or(SEED);
    let cases = number("QUARRY_CASES").map_or(CASES, |cases| usize::try_from(cases).unwrap_or(CASES));
    eprintln!("kinds: seed {seed} (QUARRY_SEED), {cases} cases (QUARRY_CASES)");
    let (plain, stored) = (project("", ""), project(ORDERS, USERS));
    let (source, server) = (start(&plain, &[]), start(&stored, &[]));
    server.build(&select(&[], &json!({})));
    let mut random = Random::new(seed);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..cases {
        let query = query(&mut random);
        let used = used(&server, &query);
        assert_eq!(rows(&server, &query), rows(&source, &query), "seed {seed}: {query} used {used:?}");
        *seen.entry(used.join(" + ")).or_default() += 1;
    }
    eprintln!("{seen:#?}");
    let times = |part: &str| seen.iter().filter(|(used, _)| used.contains(part)).map(|(_, times)| times).sum::<usize>();
    for (part, share) in
        [("orders.months", 20), ("orders.days", 20), ("users.raw", 20), ("orders.flat rollup + users.people", 50)]
    {
        assert!(times(part) * share >= cases, "{part} answered {} of {cases}", times(part));
    }
    server.assert_alive();
}
