//! The memory of builds (`QUARRY_BUILD_MEMORY`): what does not fit is put aside on disk, and the process stays small.
//! `QUARRY_MEMORY_GROUPS` makes longer runs.

use serde_json::{Value, json};

use crate::events::selector;
use crate::server::{ALL_SCOPES, Project, Server, environment};

/// Groups of each rollup; what is not optimised takes much longer.
const GROUPS: u64 = if cfg!(debug_assertions) { 60_000 } else { 500_000 };
/// Rows of a group.
const ROWS: u64 = 3;
/// What a build may hold; without spilling these groups need several times that.
const BUILD_MEMORY: u64 = 32 << 20;
/// What a server needs beside: threads, catalog, caches of the engine, pages of the program.
const BESIDE: u64 = 512 << 20;

fn groups() -> u64 {
    environment("QUARRY_MEMORY_GROUPS").and_then(|text| text.parse().ok()).unwrap_or(GROUPS)
}

fn project(groups: u64) -> Project {
    let project = Project::empty();
    let rows = groups * ROWS;
    project.write(
        "model/wide.yml",
        &format!(
            "cubes:
  - name: wide
    sql: >
      SELECT value AS n, value % {groups} AS k, (value % {groups})::text || '-of-these-keys' AS name,
      arrow_cast(to_timestamp_seconds(1704067200 + value % 90 * 86400), 'Timestamp(Microsecond, None)') AS at
      FROM generate_series(1, {rows}) AS g(value)
    measures:
      - {{name: count, type: count}}
      - {{name: total, type: sum, sql: n}}
      - {{name: different, type: count_distinct, sql: n}}
      - {{name: about, type: count_distinct_approx, sql: \"n % 1000\"}}
      - {{name: median, type: number, sql: \"approx_percentile_cont({{CUBE}}.n % 100, 0.5)\"}}
    dimensions:
      - {{name: k, sql: k, type: number}}
      - {{name: name, sql: name, type: string}}
      - {{name: at, sql: at, type: time}}
    pre_aggregations:
      - {{name: sums, measures: [count, total], dimensions: [k, name]}}
      - {{name: states, measures: [count, different, about, median], dimensions: [k]}}
      - {{name: months, measures: [count, total, different], dimensions: [k], time_dimension: at, granularity: month,
          partition_granularity: month}}
"
        ),
    );
    project
}

#[test]
#[cfg(target_os = "linux")]
fn builds_larger_than_their_memory_spill_and_stay_small() {
    let groups = groups();
    let project = project(groups);
    let memory = BUILD_MEMORY.to_string();
    let settings = [
        ("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES),
        ("QUARRY_BUILD_MEMORY", memory.as_str()),
        ("CUBEJS_REFRESH_WORKER_CONCURRENCY", "1"),
    ];
    let server = Server::start_with(&project, &settings);
    for rollup in ["sums", "states", "months"] {
        let tokens = server.post_jobs(&selector(&json!({"preAggregations": [format!("wide.{rollup}")]})));
        assert!(server.wait_jobs(&tokens).iter().all(|status| status == "done"), "{rollup}: {}", server.log());
        let rows: u64 = server.job_entries(&tokens).iter().filter_map(|entry| entry["quarry"]["rows"].as_u64()).sum();
        assert!(rows >= groups, "{rollup}: {rows} rows");
        let most = server.greatest_memory();
        eprintln!("{rollup}: {rows} rows, at most {} MiB", most >> 20);
        assert!(most < BUILD_MEMORY * 2 + BESIDE, "{rollup}: {} MiB", most >> 20);
    }
    // Nothing was lost on the way over the disk.
    let rows = groups * ROWS;
    let ask = |measures: Value| server.load(&json!({"measures": measures, "dimensions": []}))["data"][0].clone();
    let total = u128::from(rows) * u128::from(rows + 1) / 2;
    let sums = ask(json!(["wide.count", "wide.total"]));
    assert_eq!(sums, json!({"wide.count": rows.to_string(), "wide.total": total.to_string()}));
    let one = server.load(&json!({"measures": ["wide.different", "wide.count"], "dimensions": ["wide.k"],
        "filters": [{"member": "wide.k", "operator": "equals", "values": ["17"]}]}));
    assert_eq!(one["data"][0]["wide.different"], json!(ROWS.to_string()), "{one}");
    server.assert_alive();
}
