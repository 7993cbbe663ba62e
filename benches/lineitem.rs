//! How long does it take to build 84 monthly partitions from TPC-H's `lineitem`, and how much less for some of them? Against
//! DuckDB, which aggregates the same and writes partitioned Parquet, in one run. `ARGS="--scale 10"` for the large one.

mod served;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Date32Array, Decimal128Array, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use served::{Server, median, only_a_test};

const SEED: u64 = 19_920_101;
/// Rows at scale 1.
const ROWS: usize = 6_000_000;
/// Rows made at a time.
const PORTION: usize = 200_000;
const PARTITIONS: usize = 84;

const MODEL: &str = "
cubes:
  - name: lineitem
    sql_table: lineitem
    dimensions:
      - {name: shipdate, sql: l_shipdate, type: time}
      - {name: returnflag, sql: l_returnflag, type: string}
      - {name: linestatus, sql: l_linestatus, type: string}
      - {name: shipmode, sql: l_shipmode, type: string}
    measures:
      - {name: count, type: count}
      - {name: quantity, sql: l_quantity, type: sum}
      - {name: price, sql: l_extendedprice, type: sum}
      - {name: most, sql: l_discount, type: max}
    pre_aggregations:
      - name: daily
        measures: [count, quantity, price, most]
        dimensions: [returnflag, linestatus, shipmode]
        time_dimension: shipdate
        granularity: day
        partition_granularity: month
";

fn money(values: Vec<i128>) -> ArrayRef {
    Arc::new(Decimal128Array::from(values).with_precision_and_scale(15, 2).expect("15 digits"))
}

/// Rows as the specification makes them (clause 4.2.3), not in the order of their dates.
fn portion(random: &mut ChaCha8Rng, first: usize, rows: usize) -> RecordBatch {
    const MODES: [&str; 7] = ["REG AIR", "AIR", "RAIL", "SHIP", "TRUCK", "MAIL", "FOB"];
    const INSTRUCTIONS: [&str; 4] = ["DELIVER IN PERSON", "COLLECT COD", "NONE", "TAKE BACK RETURN"];
    const WORDS: [&str; 6] = ["carefully ", "final ", "requests ", "sleep ", "furiously ", "deposits "];
    const FIRST: i32 = 8036; // 1992-01-02
    const DAYS: i32 = 2526; // to 1998-12-01
    const TODAY: i32 = 9298; // 1995-06-17
    let mut numbers =
        |range: std::ops::Range<i64>| (0..rows).map(|_| random.random_range(range.clone())).collect::<Vec<i64>>();
    let (parts, suppliers) = (numbers(1..200_001), numbers(1..10_001));
    let (quantities, prices) = (numbers(1..51), numbers(90_000..200_000));
    let (discounts, taxes) = (numbers(0..11), numbers(0..9));
    let shipped: Vec<i32> = (0..rows).map(|_| FIRST + random.random_range(0..DAYS)).collect();
    let received: Vec<i32> = shipped.iter().map(|day| day + random.random_range(1..31)).collect();
    let committed: Vec<i32> = shipped.iter().map(|day| day + random.random_range(-30..60)).collect();
    let flags: Vec<&str> = received
        .iter()
        .map(|day| {
            if *day > TODAY {
                "N"
            } else if random.random_bool(0.5) {
                "R"
            } else {
                "A"
            }
        })
        .collect();
    let statuses: Vec<&str> = shipped.iter().map(|day| if *day > TODAY { "O" } else { "F" }).collect();
    let mut words =
        |list: &[&'static str]| (0..rows).map(|_| *list.choose(random).expect("a word")).collect::<Vec<&str>>();
    let (modes, instructions) = (words(&MODES), words(&INSTRUCTIONS));
    let comments: Vec<String> =
        (0..rows).map(|_| (0..3).filter_map(|_| WORDS.choose(random).copied()).collect()).collect();
    let hundred = |values: &[i64]| money(values.iter().map(|value| i128::from(*value) * 100).collect());
    let plain = |values: &[i64]| money(values.iter().map(|value| i128::from(*value)).collect());
    let totals: Vec<i64> = prices.iter().zip(&quantities).map(|(price, quantity)| price * quantity).collect();
    let keys = i64::try_from(first).expect("a small number");
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("l_orderkey", Arc::new((keys..).map(|row| row / 4 + 1).take(rows).collect::<Int64Array>())),
        ("l_partkey", Arc::new(Int64Array::from(parts))),
        ("l_suppkey", Arc::new(Int64Array::from(suppliers))),
        ("l_linenumber", Arc::new((keys..).map(|row| row % 4 + 1).take(rows).collect::<Int64Array>())),
        ("l_quantity", hundred(&quantities)),
        ("l_extendedprice", plain(&totals)),
        ("l_discount", plain(&discounts)),
        ("l_tax", plain(&taxes)),
        ("l_returnflag", Arc::new(StringArray::from(flags))),
        ("l_linestatus", Arc::new(StringArray::from(statuses))),
        ("l_shipdate", Arc::new(Date32Array::from(shipped))),
        ("l_commitdate", Arc::new(Date32Array::from(committed))),
        ("l_receiptdate", Arc::new(Date32Array::from(received))),
        ("l_shipinstruct", Arc::new(StringArray::from(instructions))),
        ("l_shipmode", Arc::new(StringArray::from(modes))),
        ("l_comment", Arc::new(StringArray::from(comments))),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

fn write(dir: &Path, rows: usize) {
    fs::create_dir_all(dir.join("model")).expect("a folder");
    fs::create_dir_all(dir.join("data")).expect("a folder");
    fs::write(dir.join("model/lineitem.yml"), MODEL).expect("the model");
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let file = File::create(dir.join("data/lineitem.parquet")).expect("a file");
    let mut writer = ArrowWriter::try_new(file, portion(&mut random, 0, 1).schema(), None).expect("a plain schema");
    let mut written = 0;
    while written < rows {
        let count = PORTION.min(rows - written);
        writer.write(&portion(&mut random, written, count)).expect("rows");
        written += count;
    }
    writer.close().expect("a finished file");
}

/// Seconds that DuckDB takes, median of some runs, and the rows it counted; none when there is no Python with it.
fn duckdb(dir: &Path, runs: usize) -> Option<(f64, u64)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/lineitem/partitioned.py");
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    for python in [PathBuf::from("python3"), home.join(".cache/quarry/venv/bin/python")] {
        let output = Command::new(python).arg(&script).arg(dir).arg(runs.to_string()).output();
        let Some(output) = output.ok().filter(|output| output.status.success()) else { continue };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut words = text.split_whitespace();
        return Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?));
    }
    None
}

fn scale() -> usize {
    let arguments: Vec<String> = std::env::args().collect();
    let given = arguments.iter().position(|argument| argument == "--scale").and_then(|at| arguments.get(at + 1));
    given.map_or(1, |text| text.parse().expect("--scale takes a whole number"))
}

fn main() {
    let scale = scale();
    let (rows, runs) = if only_a_test() { (50_000, 1) } else { (ROWS * scale, 3) };
    let dir = tempfile::tempdir().expect("a temporary folder");
    write(dir.path(), rows);
    let server = Server::start(dir.path());
    let build = |range: Option<[&str; 2]>, partitions: usize| {
        let time = || {
            let begun = Instant::now();
            let tokens = server.request(range);
            assert_eq!(tokens.len(), partitions);
            server.wait(&tokens);
            begun.elapsed()
        };
        median((0..runs).map(|_| time()).collect::<Vec<Duration>>())
    };
    let before = server.io();
    let whole = build(None, PARTITIONS);
    let io = before.zip(server.io()).map(|(before, after)| {
        let share = |before: u64, after: u64| (after - before) / runs as u64;
        format!("; bytes read {}, written {}", share(before.read, after.read), share(before.written, after.written))
    });
    let year = build(Some(["1995-01-05", "1995-12-05"]), 12);
    let month = build(Some(["1995-06-05", "1995-06-05"]), 1);
    let counted = server.load(&json!({"measures": ["lineitem.count"]}))[0]["lineitem.count"].clone();
    assert_eq!(counted, json!(rows.to_string()), "the rollup does not hold all rows");

    let size = fs::metadata(dir.path().join("data/lineitem.parquet")).expect("a file").len();
    eprintln!("lineitem, {rows} rows, {size} bytes, unsorted; medians of {runs} runs");
    eprintln!("  {PARTITIONS} partitions   {whole:?}{}", io.unwrap_or_default());
    eprintln!("  12 of them      {year:?}   share {:.2}", year.div_duration_f64(whole));
    eprintln!("  1 of them       {month:?}   share {:.2}", month.div_duration_f64(whole));
    match duckdb(dir.path(), runs) {
        Some((seconds, counted)) => {
            assert_eq!(counted, rows as u64, "DuckDB counts other rows");
            eprintln!("  DuckDB, all     {seconds:.3}s   ratio {:.2}", whole.as_secs_f64() / seconds);
        }
        None => eprintln!("  DuckDB          not measured: no Python with the package `duckdb`"),
    }
}
