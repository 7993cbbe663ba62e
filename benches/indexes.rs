//! What do copies for indexes save? The same questions to one rollup, too large to be kept in memory, with its copies and
//! without: a filter that its files are not sorted by, and an overview that an index of type aggregate holds.

mod served;

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use parquet::arrow::ArrowWriter;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use served::{Server, median, only_a_test};

const SEED: u64 = 20_240_229;
const CUSTOMERS: i64 = 200_000;
const PRODUCTS: i64 = 20_000;
const DAYS: i64 = 90;

const MODEL: &str = "
cubes:
  - name: sales
    sql_table: sales
    dimensions:
      - {name: customer, sql: customer, type: number}
      - {name: product, sql: product, type: number}
      - {name: at, sql: at, type: time}
    measures:
      - {name: count, type: count}
      - {name: total, sql: amount, type: sum}
    pre_aggregations:
      - name: main
        measures: [count, total]
        dimensions: [customer, product]
        time_dimension: at
        granularity: day
        indexes:
          - {name: by_customer, columns: [customer]}
          - {name: by_product, columns: [product]}
          - {name: products, columns: [product], type: aggregate}
";

fn write(dir: &Path, rows: usize) {
    fs::create_dir_all(dir.join("model")).expect("a folder");
    fs::create_dir_all(dir.join("data")).expect("a folder");
    fs::write(dir.join("model/sales.yml"), MODEL).expect("the model");
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let start = 1_704_067_200_i64; // 2024-01-01
    let mut numbers = |most: i64| (0..rows).map(|_| random.random_range(0..most)).collect::<Vec<_>>();
    let times = numbers(DAYS).into_iter().map(|day| (start + day * 86_400) * 1_000_000);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("at", Arc::new(TimestampMicrosecondArray::from_iter_values(times))),
        ("customer", Arc::new(Int64Array::from(numbers(CUSTOMERS)))),
        ("product", Arc::new(Int64Array::from(numbers(PRODUCTS)))),
        ("amount", Arc::new(Int64Array::from(numbers(1_000)))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let file = File::create(dir.join("data/sales.parquet")).expect("a file");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("a plain schema");
    writer.write(&batch).expect("rows");
    writer.close().expect("a finished file");
}

/// Questions with a name each; made anew each time they are asked.
fn questions() -> [(&'static str, Value); 2] {
    let filter = json!({"member": "sales.product", "operator": "equals", "values": ["4711"]});
    [
        (
            "one product by customer",
            json!({"measures": ["sales.total"], "dimensions": ["sales.customer"], "filters": [filter],
                "order": {"sales.customer": "asc"}}),
        ),
        (
            "the ten best products",
            json!({"measures": ["sales.total"], "dimensions": ["sales.product"], "limit": 10,
                "order": [["sales.total", "desc"], ["sales.product", "asc"]]}),
        ),
    ]
}

/// An answer, the median time that it takes, and the bytes that it reads.
struct Asked {
    rows: Vec<Value>,
    time: Duration,
    read: Option<u64>,
}

/// Asks all questions, each `runs` times after the first.
fn ask(server: &Server, runs: u32) -> Vec<Asked> {
    let asked = questions().map(|(_, question)| {
        let rows = server.load(&question);
        assert!(!rows.is_empty(), "{question} found nothing");
        let anew = json!({"query": question, "cache": "no-cache"});
        let before = server.io();
        let times = (0..runs).map(|_| {
            let begun = Instant::now();
            server.post("/cubejs-api/v1/load", &anew);
            begun.elapsed()
        });
        let time = median(times.collect());
        let read = before.zip(server.io()).map(|(before, after)| (after.read - before.read) / u64::from(runs));
        Asked { rows, time, read }
    });
    asked.into()
}

fn main() {
    let (rows, runs) = if only_a_test() { (20_000, 1) } else { (5_000_000, 25) };
    let dir = tempfile::tempdir().expect("a temporary folder");
    write(dir.path(), rows);
    let server = Server::start(dir.path());
    server.wait(&server.request(None));
    let without = ask(&server, runs);
    drop(server);
    let begun = Instant::now();
    let server = Server::start_with(dir.path(), &[("QUARRY_INDEX_COPIES", "true")]);
    let overview = json!({"query": questions()[1].1});
    let are_there = || {
        let told = server.post("/quarry/v1/explain", &overview);
        told["results"][0]["levels"][0]["chosen"]["indexCopies"].as_array().is_some_and(|copies| copies.len() == 2)
    };
    while !are_there() {
        std::thread::park_timeout(Duration::from_millis(10));
    }
    let (made, making) = (begun.elapsed(), server.io());
    let with = ask(&server, runs);
    eprintln!("{rows} source rows, one rollup of customer, product and day; medians of {runs} runs");
    eprintln!("  two copies made after a start         {:9.1} ms", made.as_secs_f64() * 1e3);
    if let Some(io) = making {
        eprintln!("  for them                              {} bytes read, {} written", io.read, io.written);
    }
    for (((name, _), without), with) in questions().iter().zip(without).zip(with) {
        assert_eq!(without.rows, with.rows, "{name}: other rows");
        let (before, after) = (without.time.as_secs_f64() * 1e3, with.time.as_secs_f64() * 1e3);
        eprintln!("  {name:<36}  {after:9.2} ms, without copies {before:9.2} ms: {:.3}", after / before);
        if let Some((before, after)) = without.read.zip(with.read) {
            eprintln!("  {:<36}  {after} bytes read, without copies {before}", "");
        }
    }
}
