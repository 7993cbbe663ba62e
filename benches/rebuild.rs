//! What does it cost to restate two months of a rollup of three years? Time from the request to the first answer that
//! shows the new rows, bytes read and written, and what readers notice of it.

mod served;

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use chrono::{Months, NaiveDate, NaiveDateTime};
use parquet::arrow::ArrowWriter;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use served::{Server, median, only_a_test};

const SEED: u64 = 20_240_229;
const MONTHS: u32 = 36;
/// The months that are written again, counted from the first.
const RESTATED: [u32; 2] = [16, 17];
const READERS: u32 = 2;
/// One question of each reader in so much time, whether the one before was answered or not.
const EVERY: Duration = Duration::from_millis(10);

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
      - {name: generation, sql: generation, type: max}
    pre_aggregations:
      - name: daily
        measures: [count, revenue, generation]
        dimensions: [city, status]
        time_dimension: created_at
        granularity: day
        partition_granularity: month
";

fn first_of(month: u32) -> NaiveDateTime {
    let first = NaiveDate::from_ymd_opt(2022, 1, 1).expect("a date") + Months::new(month);
    first.and_time(chrono::NaiveTime::MIN)
}

/// Puts a file with the rows of a month in the place of the one before.
fn write_month(dir: &Path, month: u32, rows: usize, generation: i64) {
    let mut random = ChaCha8Rng::seed_from_u64(SEED + u64::from(month));
    let (start, end) = (first_of(month).and_utc().timestamp(), first_of(month + 1).and_utc().timestamp());
    let times: Vec<i64> = (0..rows).map(|_| random.random_range(start..end) * 1_000_000).collect();
    let cities: Vec<String> = (0..rows).map(|_| format!("city {}", random.random_range(0..40))).collect();
    let statuses = ["new", "shipped", "returned"];
    let status: Vec<&str> = (0..rows).map(|_| statuses[random.random_range(0..3)]).collect();
    let amounts: Vec<i128> = (0..rows).map(|_| random.random_range(1..1_000_000)).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new((1_i64..).take(rows).collect::<Int64Array>())),
        ("city", Arc::new(StringArray::from(cities))),
        ("status", Arc::new(StringArray::from(status))),
        ("created_at", Arc::new(TimestampMicrosecondArray::from(times))),
        ("amount", Arc::new(Decimal128Array::from(amounts).with_precision_and_scale(12, 2).expect("12 digits"))),
        ("generation", Arc::new(std::iter::repeat_n(generation, rows).collect::<Int64Array>())),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let unfinished = dir.join("unfinished");
    let mut writer =
        ArrowWriter::try_new(File::create(&unfinished).expect("a file"), batch.schema(), None).expect("a plain schema");
    writer.write(&batch).expect("rows");
    writer.close().expect("a finished file");
    fs::rename(unfinished, dir.join(format!("data/orders/{}.parquet", first_of(month).format("%Y-%m"))))
        .expect("one disk");
}

fn day(month: u32) -> String {
    first_of(month).format("%Y-%m-%d").to_string()
}

/// What readers ask: a year by month, the restated months among them.
fn question() -> Value {
    let last = (first_of(RESTATED[0] + 8) - chrono::Duration::days(1)).format("%Y-%m-%d").to_string();
    json!({
        "measures": ["orders.count", "orders.revenue", "orders.generation"], "dimensions": ["orders.city"],
        "timeDimensions": [{"dimension": "orders.created_at", "granularity": "month",
            "dateRange": [day(RESTATED[0] - 4), last]}],
    })
}

/// Whether every group of the restated months is of this generation; mixed ones fail.
fn shows(server: &Server, generation: i64) -> bool {
    let names = RESTATED.map(|month| format!("{}T00:00:00.000", day(month)));
    let rows = server.load(&question());
    let seen = rows.iter().filter(|row| names.iter().any(|name| row["orders.created_at.month"] == name.as_str()));
    seen.clone().count() > 0 && seen.into_iter().all(|row| row["orders.generation"] == generation.to_string().as_str())
}

/// Latencies of readers that ask at fixed times until the end, counted from those times; only of questions that fell due
/// while `counts` was set.
fn read(server: &Server, ended: &AtomicBool, counts: &AtomicBool, offset: Duration) -> Vec<Duration> {
    let (begun, question) = (Instant::now() + offset, question());
    let mut latencies = Vec::new();
    for number in 0.. {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        let due = begun + EVERY * number;
        std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
        let is_counted = counts.load(Ordering::Relaxed);
        server.load(&question);
        if is_counted {
            latencies.push(due.elapsed());
        }
    }
    latencies
}

/// Runs `work` under readers; gives their latencies, sorted.
fn under_load(server: &Server, work: impl FnOnce(&AtomicBool)) -> Vec<Duration> {
    let (ended, counts) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut all = std::thread::scope(|scope| {
        let reader = |number| {
            scope.spawn({
                let (ended, counts) = (&ended, &counts);
                move || read(server, ended, counts, EVERY / READERS * number)
            })
        };
        let readers: Vec<_> = (0..READERS).map(reader).collect();
        work(&counts);
        ended.store(true, Ordering::Relaxed);
        readers.into_iter().flat_map(|reader| reader.join().expect("no reader fails")).collect::<Vec<_>>()
    });
    all.sort();
    all
}

fn percentile(sorted: &[Duration], hundredths: usize) -> Duration {
    sorted.get(sorted.len() * hundredths / 100).or(sorted.last()).copied().unwrap_or_default()
}

fn main() {
    let (rows, runs, idle) =
        if only_a_test() { (2_000, 1, Duration::from_millis(200)) } else { (200_000, 15, Duration::from_secs(10)) };
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir_all(dir.path().join("model")).expect("a folder");
    fs::create_dir_all(dir.path().join("data/orders")).expect("a folder");
    fs::write(dir.path().join("model/orders.yml"), MODEL).expect("the model");
    (0..MONTHS).for_each(|month| write_month(dir.path(), month, rows, 1));
    let files = fs::read_dir(dir.path().join("data/orders")).expect("a folder");
    let source_bytes: u64 = files.map(|file| file.and_then(|file| file.metadata()).expect("a file").len()).sum();
    let server = Server::start(dir.path());
    let begun = Instant::now();
    let tokens = server.request(None);
    assert_eq!(tokens.len(), MONTHS as usize);
    server.wait(&tokens);
    let whole = begun.elapsed();
    assert!(shows(&server, 1), "the first build is not visible");

    let mut generation = 1;
    let mut restate = |counts: &AtomicBool| {
        generation += 1;
        RESTATED.iter().for_each(|month| write_month(dir.path(), *month, rows, generation));
        counts.store(true, Ordering::Relaxed);
        let (before, begun) = (server.io(), Instant::now());
        let tokens = server.request(Some([&day(RESTATED[0]), &day(RESTATED[1])]));
        assert_eq!(tokens.len(), RESTATED.len());
        while !shows(&server, generation) {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        let visible = begun.elapsed();
        server.wait(&tokens);
        counts.store(false, Ordering::Relaxed);
        let io =
            before.zip(server.io()).map(|(before, after)| (after.read - before.read, after.written - before.written));
        (visible, io)
    };
    let unheard = AtomicBool::new(false);
    let alone: Vec<_> = (0..runs).map(|_| restate(&unheard)).collect();
    let quiet = under_load(&server, |counts| {
        counts.store(true, Ordering::Relaxed);
        std::thread::park_timeout(idle);
    });
    let mut meanwhile = Vec::new();
    let busy = under_load(&server, |counts| meanwhile.extend((0..runs).map(|_| restate(counts).0)));

    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    eprintln!("{MONTHS} monthly partitions of {rows} source rows, {source_bytes} bytes in all; medians of {runs} runs");
    eprintln!("  whole build                           {:9.1} ms", millis(whole));
    eprintln!(
        "  2 months, request to visible          {:9.1} ms",
        millis(median(alone.iter().map(|run| run.0).collect()))
    );
    eprintln!("  the same under readers                {:9.1} ms", millis(median(meanwhile)));
    if let Some(io) = alone.iter().map(|run| run.1).collect::<Option<Vec<_>>>() {
        let read = median(io.iter().map(|io| io.0).collect());
        let written = median(io.iter().map(|io| io.1).collect());
        eprintln!(
            "  bytes read {read} of {source_bytes}, for 2 of {MONTHS} months ({} source rows); written {written}",
            2 * rows
        );
    }
    for (name, latencies) in [("idle", &quiet), ("while two months are rebuilt", &busy)] {
        let at = |hundredths| millis(percentile(latencies, hundredths));
        let count = latencies.len();
        eprintln!("  readers, {name}: p50 {:.2} ms, p99 {:.2} ms of {count} answers", at(50), at(99));
    }
}
