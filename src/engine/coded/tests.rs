//! Plans over codes give the rows that DataFusion's own give: random tables, filters, keys and aggregates.

use std::fs::File;
use std::path::Path;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use datafusion::catalog::CatalogProvider as _;
use datafusion::catalog::memory::{MemoryCatalogProvider, MemorySchemaProvider};
use datafusion::common::config::ConfigNonZeroUsize;
use datafusion::physical_plan::{collect, displayable};
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

use super::super::EngineOptions;
use super::super::session::{SCHEMA, base_state};
use super::super::testing::texts;
use super::with_codes;

const KEYS: [&str; 16] = [
    "kind",
    "city",
    "upper(kind)",
    "coalesce(city, '?')",
    "kind || '-' || kind",
    "day",
    "date_trunc('month', day)",
    "extract(year from day)",
    "date_trunc('hour', at)",
    "date_trunc('month', local_time(at, 'Asia/Kolkata'))",
    "flag",
    "n % 7",
    "small",
    "length(city)",
    "CASE WHEN day < DATE '2024-02-01' THEN 'old' ELSE 'new' END",
    "city LIKE 'B%'",
];
/// Of several columns, of others than whole numbers, or of texts without a dictionary.
const OTHER_KEYS: [&str; 4] = ["url", "kind || coalesce(city, '')", "price", "url || kind"];
const AGGREGATES: [&str; 22] = [
    "count(*)",
    "count(city)",
    "exact_sum(price)",
    "exact_sum(n)",
    "sum(n)",
    "min(at)",
    "max(day)",
    "max(city)",
    "count(*) FILTER (WHERE kind = 'web')",
    "exact_sum(CASE WHEN city = 'Bonn' THEN price END)",
    "min(url)",
    "count(DISTINCT small)",
    "min(price)",
    "max(price)",
    "min(n)",
    "max(n) FILTER (WHERE city = 'Rome')",
    "exact_sum(fee)",
    "max(fee) FILTER (WHERE flag)",
    "exact_sum(wide)",
    "exact_sum(price) FILTER (WHERE kind = 'web')",
    "exact_sum(small)",
    "count(5) FILTER (WHERE n > 20)",
];
const FILTERS: [&str; 12] = [
    "day >= DATE '2024-01-20'",
    "day < DATE '2024-03-01' AND day >= DATE '2024-02-01'",
    "kind = 'web'",
    "kind <> 'app'",
    "city IN ('Rome', 'Bonn')",
    "city IS NULL",
    "at < TIMESTAMP '2024-02-10 12:00:00'",
    "n > 40",
    "flag",
    "kind = 'web' OR city = 'Rome'",
    "day IS NOT NULL OR n = 3",
    "price BETWEEN 10 AND 500",
];

fn rows(random: &mut ChaCha8Rng, count: usize) -> RecordBatch {
    let maybe = |random: &mut ChaCha8Rng| !random.random_bool(0.1);
    let texts = |random: &mut ChaCha8Rng, texts: &[&'static str], whole: bool| -> ArrayRef {
        let text = |_| (whole || maybe(random)).then(|| *texts.choose(random).expect("a text"));
        Arc::new((0..count).map(text).collect::<StringArray>())
    };
    let kind = texts(random, &["web", "app", "api"], true);
    let city = texts(random, &["Rome", "Bonn", "Berlin", "Oslo", ""], false);
    let url: ArrayRef =
        Arc::new((0..count).map(|_| Some(format!("/{}", random.random_range(0..500)))).collect::<StringArray>());
    let day: Date32Array = (0..count).map(|_| maybe(random).then(|| random.random_range(19_700..19_800))).collect();
    let first = 1_704_067_200_000_000_i64;
    let at = (0..count).map(|_| maybe(random).then(|| first + random.random_range(0..8_000_000_000_000)));
    let at: TimestampMicrosecondArray = at.collect();
    let n: Int64Array = (0..count).map(|_| maybe(random).then(|| random.random_range(-50..100))).collect();
    let small: Int32Array = (0..count).map(|_| Some(random.random_range(0..9))).collect();
    let flag: BooleanArray = (0..count).map(|_| maybe(random).then(|| random.random_bool(0.5))).collect();
    let price: Decimal128Array = (0..count).map(|_| maybe(random).then(|| random.random_range(-999..99_999))).collect();
    let price = price.with_precision_and_scale(15, 2).expect("15 digits");
    let fee: Decimal128Array = (0..count).map(|_| Some(random.random_range(0..9_999))).collect();
    let fee = fee.with_precision_and_scale(7, 3).expect("7 digits");
    let wide: Decimal128Array = (0..count).map(|_| maybe(random).then(|| random.random_range(-9..99))).collect();
    let wide = wide.with_precision_and_scale(20, 2).expect("20 digits");
    RecordBatch::try_from_iter_with_nullable([
        ("kind", kind, false),
        ("city", city, true),
        ("url", url, true),
        ("day", Arc::new(day) as ArrayRef, true),
        ("at", Arc::new(at), true),
        ("n", Arc::new(n), true),
        ("small", Arc::new(small), false),
        ("flag", Arc::new(flag), true),
        ("price", Arc::new(price), true),
        ("fee", Arc::new(fee), false),
        ("wide", Arc::new(wide), true),
    ])
    .expect("columns of one length")
}

/// Files with several row groups; `url` has no dictionary, and that of `city` may be too small for it.
fn write(folder: &Path, random: &mut ChaCha8Rng) {
    for number in 0..random.random_range(1..4) {
        let count = random.random_range(1..3_000);
        let batch = rows(random, count);
        let mut properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(random.random_range(100..2_000)))
            .set_data_page_row_count_limit(random.random_range(50..500))
            .set_write_batch_size(64)
            .set_column_dictionary_enabled(ColumnPath::from("url"), false);
        if random.random_bool(0.2) {
            properties = properties.set_dictionary_page_size_limit(16);
        }
        let file = File::create(folder.join(format!("{number}.parquet"))).expect("a file");
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties.build())).expect("a plain schema");
        writer.write(&batch).expect("rows");
        writer.close().expect("a finished file");
    }
}

async fn context(folder: &Path) -> SessionContext {
    let options = EngineOptions { memory_bytes: 256 << 20, cores: 2 };
    let mut state = base_state(&options).expect("a state");
    let settings = state.config_mut().options_mut();
    settings.optimizer.repartition_file_min_size = 1;
    settings.execution.batch_size = ConfigNonZeroUsize::try_new(700).expect("not zero");
    let context = SessionContext::new_with_state(state);
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(SCHEMA, Arc::new(MemorySchemaProvider::new())).expect("a new name");
    context.register_catalog("quarry", Arc::new(catalog));
    let path = folder.to_str().expect("a plain name");
    context.register_parquet("t", path, ParquetReadOptions::default()).await.expect("files");
    context
}

/// The rows of a statement planned by DataFusion, those of the plan over codes, and whether there is such a plan.
async fn both(context: &SessionContext, sql: &str) -> ([Vec<String>; 2], bool) {
    let state = context.state();
    let logical = state.create_logical_plan(sql).await.expect(sql);
    let plain = state.create_physical_plan(&logical).await.expect(sql);
    let coded = state.create_physical_plan(&logical).await.expect(sql);
    let coded = with_codes(coded, &state, 0).await.expect(sql);
    let is_coded = displayable(coded.as_ref()).indent(false).to_string().contains("CodedAggregate");
    assert_eq!(plain.schema(), coded.schema(), "{sql}");
    let mut answers = Vec::new();
    for plan in [plain, coded] {
        let mut rows = texts(&collect(plan, state.task_ctx()).await.expect(sql));
        rows.sort_unstable();
        answers.push(rows);
    }
    (answers.try_into().expect("two"), is_coded)
}

fn some<'a>(random: &mut ChaCha8Rng, of: &[&'a str], most: usize) -> Vec<&'a str> {
    let count = random.random_range(0..=most);
    of.iter().copied().choose_multiple(random, count)
}

#[tokio::test]
async fn plans_over_codes_give_the_same_rows() {
    let cases = 20;
    let mut coded = 0;
    for seed in 0..cases {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), random);
        let context = context(folder.path()).await;
        for _ in 0..10 {
            let mut keys = some(random, &KEYS, 3);
            if keys.is_empty() || random.random_bool(0.1) {
                keys.push(OTHER_KEYS.choose(random).expect("a key"));
            }
            let columns = [keys.clone(), some(random, &AGGREGATES, 4)].concat().join(", ");
            let filters = some(random, &FILTERS, 3).iter().map(|filter| format!("({filter})")).collect::<Vec<_>>();
            let filter = if filters.is_empty() { "TRUE".to_owned() } else { filters.join(" AND ") };
            let sql = format!("SELECT {columns} FROM t WHERE {filter} GROUP BY {}", keys.join(", "));
            let ([plain, over_codes], is_coded) = both(&context, &sql).await;
            assert_eq!(over_codes, plain, "seed {seed}: {sql}");
            coded += u64::from(is_coded);
        }
    }
    assert!(coded > cases * 5, "only {coded} of {} plans were over codes", cases * 10);
}

#[tokio::test]
async fn what_has_no_codes_stays_as_planned() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), &mut ChaCha8Rng::seed_from_u64(7));
    let context = context(folder.path()).await;
    for (sql, expected) in [
        ("SELECT kind, count(*) FROM t GROUP BY 1", true),
        ("SELECT kind, count(*) FROM (SELECT kind FROM t LIMIT 50) AS q GROUP BY 1", false),
        ("SELECT count(*) FROM t", false),
        ("SELECT url, count(*) FROM t GROUP BY 1", false),
        ("SELECT kind, random() < 2, count(*) FROM t GROUP BY 1, 2", false),
        ("SELECT a.kind, count(*) FROM t AS a JOIN t AS b ON a.n = b.n AND a.day = b.day GROUP BY 1", false),
        ("SELECT kind, city, count(*) FROM t GROUP BY ROLLUP (kind, city)", false),
    ] {
        let ([plain, over_codes], is_coded) = both(&context, sql).await;
        assert_eq!(is_coded, expected, "{sql}");
        if expected {
            assert_eq!(over_codes, plain, "{sql}");
        }
    }
}

#[tokio::test]
async fn values_that_are_filtered_out_are_not_evaluated() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), &mut ChaCha8Rng::seed_from_u64(11));
    let context = context(folder.path()).await;
    // Some cities are no dates; only those that pass the other filter are read as such.
    let sql =
        "SELECT CAST(replace(city, 'Oslo', '2024-01-01') AS DATE), count(*) FROM t WHERE city LIKE 'O%' GROUP BY 1";
    let ([plain, over_codes], is_coded) = both(&context, sql).await;
    assert!(is_coded && plain.len() == 1);
    assert_eq!(over_codes, plain);
}
