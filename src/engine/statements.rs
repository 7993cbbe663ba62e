//! Tests of the SQL that callers rely on: the shapes that planning produces, and PostgreSQL's meanings.

use arrow::array::{
    ArrayRef, AsArray as _, BooleanArray, Decimal128Array, Float64Array, Int64Array, StringArray,
    TimestampMicrosecondArray, TimestampNanosecondArray,
};
use datafusion::datasource::MemTable;

use super::partition_table::single_table_catalog;
use super::testing::{engine, rows, texts};
use super::*;

/// `t(id, name, price, ratio, at, nanos, flag)` with three rows.
fn table() -> Arc<dyn CatalogProvider> {
    let midnight = 1_704_067_200_000_000_i64; // 2024-01-01
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![Some(1), Some(2), None]))),
        ("name", Arc::new(StringArray::from(vec![Some("100%_a\\b"), Some("Ann"), None]))),
        (
            "price",
            Arc::new(
                Decimal128Array::from(vec![Some(1050), Some(-299), None]).with_precision_and_scale(10, 2).unwrap(),
            ),
        ),
        ("ratio", Arc::new(Float64Array::from(vec![Some(0.5), Some(2.0), None]))),
        ("at", Arc::new(TimestampMicrosecondArray::from(vec![Some(midnight), Some(midnight + 86_400_000_000), None]))),
        (
            "nanos",
            Arc::new(TimestampNanosecondArray::from(vec![Some(midnight * 1000 + 1), Some(midnight * 1000), None])),
        ),
        ("flag", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    single_table_catalog("t", Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap()))
}

fn run(sql: &str) -> Result<Vec<String>, EngineError> {
    tokio::runtime::Runtime::new().unwrap().block_on(rows(&engine(), sql, table()))
}

#[track_caller]
fn check(sql: &str, expected: &[&str]) {
    assert_eq!(run(sql), Ok(expected.iter().map(|row| (*row).to_owned()).collect()), "{sql}");
}

#[track_caller]
fn check_error(sql: &str, expected: &EngineError) {
    assert_eq!(run(sql).as_ref(), Err(expected), "{sql}");
}

#[track_caller]
fn check_type(expression: &str, expected: &str) {
    check(&format!("SELECT arrow_typeof({expression}) FROM t LIMIT 1"), &[expected]);
}

#[test]
fn shapes_of_the_planner_run() {
    check("SELECT count(*), count(DISTINCT name), exact_sum(price), min(at) FROM t", &["3|2|7.51|2024-01-01T00:00:00"]);
    check(
        "SELECT a.id, b.name FROM t a LEFT JOIN t b ON a.id = b.id ORDER BY 1 ASC NULLS FIRST, 2 DESC NULLS LAST",
        &["NULL|NULL", "1|100%_a\\b", "2|Ann"],
    );
    check("SELECT id FROM t ORDER BY 1 DESC NULLS LAST LIMIT 2 OFFSET 1", &["1", "NULL"]);
    check("SELECT id FROM t ORDER BY 1 DESC", &["NULL", "2", "1"]);
    check("SELECT sum(CASE WHEN flag THEN 1 END) AS n FROM t", &["1"]);
    check("SELECT id::text || '-' || name::text FROM t ORDER BY 1", &["1-100%_a\\b", "2-Ann", "NULL"]);
    check("SELECT q.n FROM (SELECT count(*) AS n FROM (SELECT * FROM t WHERE id = 1) AS i) AS q", &["1"]);
    check(
        "SELECT date_trunc('week', local_time(at, 'Europe/Berlin')) AS w, count(*) FROM t GROUP BY 1 ORDER BY 1",
        &["2024-01-01T00:00:00|2", "NULL|1"],
    );
    check("SELECT EXTRACT(YEAR FROM at), at + INTERVAL '1 day' FROM t WHERE id = 1", &["2024|2024-01-02T00:00:00"]);
    check("SELECT \"id\" AS \"T.Id\" FROM public.t WHERE \"id\" IN (1, 2) ORDER BY \"T.Id\"", &["1", "2"]);
    check("WITH a AS (SELECT id FROM t), b AS (SELECT id FROM t) SELECT count(*) FROM a JOIN b USING (id)", &["2"]);
    check("VALUES (1), (2)", &["1", "2"]);
    check("SELECT count(*) FROM t GROUP BY flag HAVING count(*) > 0 AND flag", &["1"]);
}

#[test]
fn columns_of_one_name_are_told_apart_below_filters() {
    let tables = "WITH sales(id, goods_id, firms_id, n, kind) AS (VALUES (1, 1, 1, 5, 'a'), (2, 2, NULL, 1, 'b'), \
                  (3, 1, 2, 2, NULL), (4, NULL, 1, 7, 'c'), (5, 1, 1, 3, 'a'), (6, 2, 2, 1, NULL)), \
                  goods(id, n) AS (VALUES (1, 10), (2, 20)), firms(id, made_at) AS (VALUES (1, 100), (2, 200))";
    let joined = "FROM sales LEFT JOIN goods ON sales.goods_id = goods.id LEFT JOIN firms ON sales.firms_id = firms.id \
                  WHERE firms.id <> 2 OR firms.id IS NULL ORDER BY 1, 2, 3";
    let kind = "CASE WHEN sales.n >= 3 THEN 'bulk' WHEN sales.kind IS NOT NULL THEN 'small' ELSE 'rest' END";
    check(
        &format!("{tables} SELECT firms.made_at + 1, {kind}, goods.id {joined}"),
        &["101|bulk|1", "101|bulk|1", "101|bulk|NULL", "NULL|small|2"],
    );
    check(
        &format!("{tables} SELECT goods.id, {kind}, firms.made_at + 1 {joined}"),
        &["1|bulk|101", "1|bulk|101", "2|small|NULL", "NULL|bulk|101"],
    );
}

#[test]
fn null_safe_joins_are_hash_joins() {
    let join = "SELECT count(*) FROM t a JOIN t b ON a.id IS NOT DISTINCT FROM b.id";
    check(join, &["3"]);
    let plan = run(&format!("EXPLAIN FORMAT INDENT {join}")).unwrap().join("\n");
    assert!(plan.contains("HashJoinExec") && !plan.contains("NestedLoopJoinExec"), "{plan}");
}

#[test]
fn like_escapes() {
    check("SELECT name FROM t WHERE name ILIKE '%0\\%\\_A%'", &["100%_a\\b"]);
    check("SELECT name FROM t WHERE name ILIKE '%a\\\\b'", &["100%_a\\b"]);
    check("SELECT name FROM t WHERE name ILIKE '%0\\%%' ESCAPE '\\'", &["100%_a\\b"]);
    check("SELECT name FROM t WHERE name ILIKE '%0\\_%'", &[]);
    check("SELECT name FROM t WHERE name ILIKE '%n%' OR name IS NULL ORDER BY 1", &["Ann", "NULL"]);
    check("SELECT name FROM t WHERE name NOT ILIKE 'a%'", &["100%_a\\b"]);
}

#[test]
fn times_are_microseconds_and_compare_across_units() {
    check_type("TIMESTAMP '2024-01-01 00:00:00'", "Timestamp(µs)");
    check_type("'2024-01-01'::timestamp", "Timestamp(µs)");
    check_type("'2024-01-01T00:00:00Z'::timestamptz", "Timestamp(µs, \"+00:00\")");
    check_type("date_trunc('month', at)", "Timestamp(µs)");
    check_type("utc_time(nanos)", "Timestamp(ns)");
    check("SELECT TIMESTAMP '9999-12-31 23:59:59.999999'", &["9999-12-31T23:59:59.999999"]);
    check("SELECT id FROM t WHERE nanos > TIMESTAMP '2024-01-01 00:00:00'", &["1"]);
    check("SELECT id FROM t WHERE nanos <= TIMESTAMP '2024-01-01 00:00:00'", &["2"]);
    check("SELECT id FROM t WHERE nanos = at", &[]);
    check("SELECT id FROM t WHERE at >= '2024-01-02'", &["2"]);
    check("SELECT id FROM t WHERE at < DATE '2024-01-02'", &["1"]);
    check("SELECT id FROM t WHERE at < TIMESTAMP '9999-12-31 00:00:00' ORDER BY id", &["1", "2"]);
    // A column of nanoseconds is compared in nanoseconds, and those end in 2262.
    assert!(matches!(run("SELECT id FROM t WHERE nanos < TIMESTAMP '9999-12-31 00:00:00'"), Err(EngineError::Plan(_))));
}

#[test]
fn division_and_products_keep_their_digits() {
    check_type("1.5", "Decimal128(2, 1)");
    check_type("id * 100.0", "Decimal128(25, 1)");
    check("SELECT id * 100.0 / NULLIF(3, 0) FROM t WHERE id = 1", &["33.3333333333333333"]);
    check("SELECT sum(id) * 100.0 / NULLIF(count(*), 0) FROM t", &["100.0000000000000000"]);
    check("SELECT 2.0 / 3", &["0.6666666666666667"]);
    check("SELECT 7 / 2, -7 / 2", &["3|-3"]);
    check("SELECT ratio / 2, price / ratio FROM t WHERE id = 1", &["0.25|21.0"]);
    check("SELECT price / NULLIF(id - 1, 0) FROM t ORDER BY id", &["NULL", "-2.9900000000000000", "NULL"]);
    check("SELECT exact_sum(id) * 1.5, exact_sum(price) / count(*) FROM t", &["4.5|2.5033333333333333"]);
    check("SELECT (1.0 / 3) * (1.0 / 3) * 1000000000", &["111111111.1111111000000000"]);
    check(
        "SELECT exact_sum(id) * 100.0 FROM (VALUES (9223372036854775807), (9223372036854775807)) AS v(id)",
        &["1844674407370955161400.0"],
    );
    check(
        "SELECT CASE WHEN id = 1 THEN 0 ELSE 10.0 / (id - 1) END FROM t WHERE id IS NOT NULL ORDER BY id",
        &["0.0000000000000000", "10.0000000000000000"],
    );
    check_error("SELECT price / 0 FROM t", &EngineError::Execution("division by zero".into()));
    check_error("SELECT id / 0 FROM t", &EngineError::Execution("division by zero".into()));
    check_error(
        "SELECT a * a FROM (SELECT exact_sum(id) * 100000000000000000000.0 AS a FROM t) AS q",
        &EngineError::Execution("numeric value out of range".into()),
    );
}

#[test]
fn strings_numbers_and_booleans_compare() {
    check("SELECT id FROM t WHERE id = '2'", &["2"]);
    check("SELECT id FROM t WHERE flag = true", &["1"]);
    check("SELECT id FROM t WHERE flag IS NOT TRUE ORDER BY id NULLS LAST", &["2", "NULL"]);
    check("SELECT id FROM t WHERE price > '5'", &["1"]);
    // Text compared with a number is read as a number.
    assert!(matches!(run("SELECT id FROM t WHERE name = 5"), Err(EngineError::Execution(_))));
    // A boolean compares with booleans only.
    assert!(matches!(run("SELECT id FROM t WHERE flag = 'true'"), Err(EngineError::Plan(_))));
    check("SELECT id FROM t WHERE ratio >= 0.5 ORDER BY id", &["1", "2"]);
}

#[test]
fn only_queries_are_allowed() {
    let refused = EngineError::Plan("only queries are allowed: SELECT, WITH or VALUES".into());
    for sql in [
        "CREATE TABLE a AS SELECT 1",
        "CREATE EXTERNAL TABLE a STORED AS CSV LOCATION 'x'",
        "DROP TABLE t",
        "INSERT INTO t VALUES (1)",
        "DELETE FROM t",
        "COPY t TO 'x.csv'",
        "SET datafusion.execution.batch_size = 1",
        "SHOW TABLES",
        "EXPLAIN COPY t TO 'x.csv'",
        "BEGIN",
    ] {
        check_error(sql, &refused);
    }
    assert!(matches!(run("SELECT 1 INTO a"), Err(EngineError::Plan(_))));
    assert!(matches!(run("SELECT 1; SELECT 2"), Err(EngineError::Plan(_))));
    assert!(matches!(run(""), Err(EngineError::Plan(_))));
    check("SELECT 1;", &["1"]);
}

#[test]
fn errors_have_clean_texts() {
    let plan = |text: &str| EngineError::Plan(text.to_owned());
    check_error(
        "SELECT * FROM nothing",
        &plan("relation \"public.nothing\" does not exist; tables come from the files of the data/ folder"),
    );
    check_error(
        "SELECT * FROM information_schema.tables",
        &plan("relation \"information_schema.tables\" does not exist; tables come from the files of the data/ folder"),
    );
    check_error(
        "SELECT idd FROM t",
        &plan(
            "No field named idd. Did you mean 't.id'? Valid fields are t.id, t.name, t.price, t.ratio, t.at, t.nanos, t.flag.",
        ),
    );
    check_error("SELEC 1", &plan("syntax error: Expected: an SQL statement, found: SELEC at Line: 1, Column: 1"));
    check_error("SELECT nofunction(1)", &plan("Invalid function 'nofunction'."));
    check_error("SELECT exact_sum(name) FROM t", &plan("exact_sum cannot add values of type Utf8"));
    check_error("SELECT local_time(at, 'Mars/Base') FROM t", &plan("time zone \"Mars/Base\" not recognized"));
    check_error(
        "SELECT name::int FROM t WHERE id = 2",
        &EngineError::Execution("Cannot cast string 'Ann' to value of Int32 type".to_owned()),
    );
}

#[test]
fn long_filters_and_deep_expressions_plan() {
    let any = (0..1000).map(|n| format!("id = {n}")).collect::<Vec<_>>().join(" OR ");
    check(&format!("SELECT count(*) FROM t WHERE ({any})"), &["2"]);
    let deep = format!("{}id{}", "(".repeat(60), ")".repeat(60));
    check(&format!("SELECT count(*) FROM t WHERE {deep} = 1"), &["1"]);
}

#[tokio::test]
async fn streams_end_cancel_and_report_errors() {
    let engine = engine();
    let mut stream = engine.stream("SELECT * FROM generate_series(1, 100000)".into(), table()).await.unwrap();
    assert_eq!(stream.schema.fields().len(), 1);
    let mut count = 0;
    while let Some(batch) = stream.batches.next().await {
        count += batch.unwrap().num_rows();
    }
    assert_eq!(count, 100_000);

    let sql = "SELECT 1.0 / (value - 50000) FROM generate_series(1, 100000) AS g(value)";
    let stream = engine.stream(sql.into(), table()).await.unwrap();
    let results: Vec<_> = stream.batches.collect().await;
    assert_eq!(
        results.last().map(|last| last.as_ref().err().cloned()),
        Some(Some(EngineError::Execution("division by zero".into())))
    );
    assert!(engine.stream("SELECT * FROM nothing".into(), table()).await.is_err());

    // The stream keeps the engine alive; dropping it stops the endless statement.
    let endless = engine.stream("SELECT * FROM generate_series(1, 9000000000000)".into(), table()).await.unwrap();
    let weak = Arc::downgrade(&engine.inner);
    drop(engine);
    let mut batches = endless.batches;
    assert!(batches.next().await.is_some_and(|batch| batch.is_ok()));
    assert!(weak.upgrade().is_some());
    drop(batches);
    assert!(weak.upgrade().is_none());
}

#[tokio::test]
async fn a_dropped_future_cancels_its_statement() {
    let engine = engine();
    let endless = engine.collect("SELECT count(*) FROM generate_series(1, 9000000000000)".into(), table());
    assert!(tokio::time::timeout(std::time::Duration::from_millis(50), endless).await.is_err());
    assert_eq!(texts(&engine.collect("SELECT 1".into(), table()).await.unwrap().batches), ["1"]);
}

/// A table that cannot even be scanned.
#[derive(Debug)]
struct Panicking;

#[async_trait::async_trait]
impl datafusion::catalog::TableProvider for Panicking {
    fn schema(&self) -> SchemaRef {
        Arc::new(arrow::datatypes::Schema::empty())
    }

    fn table_type(&self) -> datafusion::logical_expr::TableType {
        datafusion::logical_expr::TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn datafusion::catalog::Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[datafusion::logical_expr::Expr],
        _limit: Option<usize>,
    ) -> datafusion::error::Result<Arc<dyn datafusion::physical_plan::ExecutionPlan>> {
        panic!("out of cheese")
    }
}

#[tokio::test]
async fn a_panic_costs_one_statement() {
    let engine = engine();
    let failed = EngineError::Execution("the query engine failed: out of cheese".into());
    let catalog = || single_table_catalog("t", Arc::new(Panicking));
    assert_eq!(engine.collect("SELECT count(*) FROM t".into(), catalog()).await.err(), Some(failed.clone()));
    assert_eq!(engine.stream("SELECT count(*) FROM t".into(), catalog()).await.err(), Some(failed));
    assert_eq!(texts(&engine.collect("SELECT 1".into(), table()).await.unwrap().batches), ["1"]);
}

#[test]
fn whole_numbers_wrap() {
    // PostgreSQL says "bigint out of range". DataFusion's integer arithmetic has no check; sums are safe through
    // `exact_sum`, products of two columns are not.
    check("SELECT (id + 9223372036854775806) * 2 FROM t WHERE id = 1", &["-2"]);
}

#[tokio::test]
async fn a_group_by_larger_than_its_memory_spills() {
    let engine = engine().with_memory(32 << 20).unwrap();
    let sql = "SELECT value % 600000 AS k, (value % 600000)::text || '-of-these-keys' AS name, count(*), exact_sum(value), \
               max(value) FROM generate_series(1, 1200000) AS g(value) GROUP BY 1, 2";
    let mut stream = engine.stream(sql.into(), table()).await.unwrap();
    let (mut groups, mut rows, mut spilled) = (0, 0, 0);
    while let Some(batch) = stream.batches.next().await {
        let batch = batch.unwrap();
        spilled = spilled.max(engine.inner.base.whole.runtime_env().disk_manager.used_disk_space());
        groups += batch.num_rows();
        rows += batch.column(2).as_primitive::<arrow::datatypes::Int64Type>().values().iter().sum::<i64>();
    }
    assert_eq!((groups, rows), (600_000, 1_200_000));
    assert!(spilled > 0, "nothing was spilled: the test shows nothing");
}

#[tokio::test]
async fn memory_is_bounded() {
    let engine = Engine::new(EngineOptions { memory_bytes: 1024 * 1024, cores: 1 }).unwrap();
    let sql =
        "SELECT count(*) FROM generate_series(1, 300000) a JOIN generate_series(1, 300000) b ON a.value = b.value";
    let error = engine.collect(sql.into(), table()).await.unwrap_err();
    assert!(matches!(error, EngineError::ResourcesExhausted(_)), "{error:?}");
}
