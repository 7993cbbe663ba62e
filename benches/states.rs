//! What do stored states of distinct counts cost: bytes, the time to build them, and the time to merge them against
//! counting the rows again? One million rows of a year, a group a day.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use criterion::Criterion;
use datafusion::catalog::CatalogProvider;
use datafusion::datasource::MemTable;
use quarry::engine::partition_table::single_table_catalog;
use quarry::engine::{Batches, Engine, EngineOptions};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

const ROWS: usize = 1_000_000;
const SEED: u64 = 20_240_229;

fn catalog(batches: Vec<RecordBatch>) -> Arc<dyn CatalogProvider> {
    let schema = batches.first().expect("rows").schema();
    single_table_catalog("t", Arc::new(MemTable::try_new(schema, vec![batches]).expect("batches of one schema")))
}

fn rows() -> RecordBatch {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut numbers = |most: i64| (0..ROWS).map(|_| random.random_range(0..most)).collect::<Vec<i64>>();
    let days: ArrayRef = Arc::new(Int64Array::from(numbers(366)));
    let users = numbers(100_000);
    let names: ArrayRef = Arc::new(users.iter().map(|user| Some(format!("user-{user:06}"))).collect::<StringArray>());
    let columns = [("day", days), ("id", Arc::new(Int64Array::from(users)) as ArrayRef), ("name", names)];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let engine = Engine::new(EngineOptions { memory_bytes: 4 << 30, cores: 2 }).expect("an engine");
    let run = |sql: &str, catalog: &Arc<dyn CatalogProvider>| -> Batches {
        runtime.block_on(engine.collect(sql.to_owned(), Arc::clone(catalog))).expect("a statement that runs")
    };
    let rows = catalog(vec![rows()]);
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for (name, build, merge, count) in [
        ("exact ids", "distinct_set(id)", "distinct_count(s)", "count(DISTINCT id)"),
        ("exact names", "distinct_set(name)", "distinct_count(s)", "count(DISTINCT name)"),
        ("sketch of ids", "hll_sketch(id)", "hll_count(s)", "approx_count_distinct(id)"),
    ] {
        let build = format!("SELECT day, {build} AS s FROM t GROUP BY day");
        let stored = run(&build, &rows).batches;
        let bytes: usize =
            stored.iter().flat_map(|batch| batch.column(1).as_binary_view().lengths()).map(|n| n as usize).sum();
        let groups: usize = stored.iter().map(|batch| batch.column(1).len()).sum();
        eprintln!("{name}: {bytes} bytes in {groups} states, {} a state", bytes / groups.max(1));
        let states = catalog(stored);
        criterion.bench_function(&format!("{name}: build a state a day"), |b| b.iter(|| black_box(run(&build, &rows))));
        let merged = format!("SELECT {merge} FROM t");
        criterion.bench_function(&format!("{name}: merge the year"), |b| b.iter(|| black_box(run(&merged, &states))));
        let counted = format!("SELECT {count} FROM t");
        criterion
            .bench_function(&format!("{name}: count the rows again"), |b| b.iter(|| black_box(run(&counted, &rows))));
    }
    criterion.final_summary();
}
