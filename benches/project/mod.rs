//! The project that the benches ask: orders of one year, some hundred thousand rows, one rollup by day.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use parquet::arrow::ArrowWriter;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Rows of the source.
pub(crate) const ROWS: usize = 1_000_000;
const SEED: u64 = 20_240_229;
const SECRET: &str = "a secret of the benches, long enough for HS256";

const MODEL: &str = "
cubes:
  - name: orders
    sql_table: orders
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: city, sql: city, type: string}
      - {name: status, sql: status, type: string}
      - {name: created_at, sql: created_at, type: time}
    measures:
      - {name: count, type: count}
      - {name: revenue, sql: amount, type: sum}
    pre_aggregations:
      - name: daily
        measures: [count, revenue]
        dimensions: [city, status]
        time_dimension: created_at
        granularity: day
        partition_granularity: month
";

/// Writes model and data below `dir`.
pub(crate) fn write(dir: &Path) {
    fs::create_dir_all(dir.join("model")).expect("a folder");
    fs::create_dir_all(dir.join("data")).expect("a folder");
    fs::write(dir.join("model/orders.yml"), MODEL).expect("the model");
    fs::write(dir.join(".env"), format!("CUBEJS_API_SECRET={SECRET}\n")).expect("the settings");
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let start = 1_704_067_200_000_000_i64; // 2024-01-01
    let times: Vec<i64> = (0..ROWS).map(|_| start + random.random_range(0..366 * 86_400_i64) * 1_000_000).collect();
    let cities: Vec<String> = (0..ROWS).map(|_| format!("city {}", random.random_range(0..40))).collect();
    let statuses = ["new", "shipped", "returned"];
    let status: Vec<&str> = (0..ROWS).map(|_| statuses[random.random_range(0..3)]).collect();
    let amounts: Vec<i128> = (0..ROWS).map(|_| random.random_range(1..1_000_000)).collect();
    let ids: Vec<i64> = (1_i64..).take(ROWS).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(ids))),
        ("city", Arc::new(StringArray::from(cities))),
        ("status", Arc::new(StringArray::from(status))),
        ("created_at", Arc::new(TimestampMicrosecondArray::from(times))),
        ("amount", Arc::new(Decimal128Array::from(amounts).with_precision_and_scale(12, 2).expect("12 digits"))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let file = File::create(dir.join("data/orders.parquet")).expect("a file");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("a plain schema");
    writer.write(&batch).expect("rows");
    writer.close().expect("a finished file");
}

/// Runs `quarry build` to its end.
pub(crate) fn build(dir: &Path) {
    let status = quarry(dir, &["build"]).stdout(Stdio::null()).status().expect("the binary can be started");
    assert!(status.success(), "quarry build: {status}");
}

/// A command of the built binary in `dir`.
pub(crate) fn quarry(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quarry"));
    command.current_dir(dir).args(args).stdin(Stdio::null());
    command
}

/// The median time of `runs` calls, after some to warm up.
pub(crate) fn median(runs: usize, mut call: impl FnMut()) -> Duration {
    for _ in 0..runs / 10 + 1 {
        call();
    }
    let mut times: Vec<Duration> = (0..runs)
        .map(|_| {
            let begun = Instant::now();
            call();
            begun.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

/// Whether this run only proves that the bench works (`cargo bench -- --test`).
pub(crate) fn only_a_test() -> bool {
    std::env::args().any(|argument| argument == "--test")
}
