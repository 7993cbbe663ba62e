//! The whole walk, from a CSV file to published partitions, over a real store and engine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use quarry_storage::{Bounds, CancelOutcome, FileId, JobPhase, NewJob, PartitionKey, StoreOptions, Table};

use super::*;
use crate::engine::{Engine, EngineOptions};
use crate::model::compile::compile_sources;
use crate::model::{CompileContext, Model};
use crate::preagg::coverage::{LocalRange, Uncovered, covering};
use crate::time::{Granularity, to_micros};

const PATIENCE: Duration = Duration::from_secs(60);
const WINTER: &str = "city,created,amount\nRome,2024-01-05T10:00:00,1\nBonn,2024-01-31T23:59:59,2\n\
                      Rome,2024-02-01T00:00:00,4\nBonn,2024-02-10T00:00:00,8\n";

fn at(date: &str) -> i64 {
    to_micros(format!("{date}T00:00:00").parse().expect("a date"))
}

const MODEL: &str = "
cubes:
  - name: orders
    sql_table: orders
    measures: [{name: total, type: sum, sql: amount}]
    dimensions: [{name: city, sql: city, type: string}, {name: created, sql: created, type: time}]
    pre_aggregations:
      - name: monthly
        measures: [total]
        dimensions: [city]
        time_dimension: created
        granularity: day
        partition_granularity: month
        refresh_key: {every: 1 hour}
      - {name: whole, measures: [total], dimensions: [city], time_dimension: created, granularity: day,
         refresh_key: {every: 1 hour}}
";

/// One cube over `data/orders.csv`, with a rollup of monthly partitions and one that is a single table.
fn model(text: &str) -> Model {
    let compiled = compile_sources(&[(PathBuf::from("model/orders.yml"), text.to_owned())], &CompileContext::default());
    compiled.expect("a sound model").model
}

/// A project folder with a running refresher.
struct Project {
    dir: tempfile::TempDir,
    store: Store,
    refresher: Refresher,
}

impl Project {
    fn start(data: &str, scheduler: bool) -> Self {
        Self::start_with(MODEL, data, scheduler)
    }

    fn start_with(text: &str, data: &str, scheduler: bool) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("data")).expect("a folder");
        std::fs::write(dir.path().join("data/orders.csv"), data).expect("a file");
        let options = StoreOptions { gc_grace: Duration::ZERO, ..StoreOptions::new(dir.path().join(".quarry")) };
        let store = Store::open(options).expect("an empty folder");
        let engine = Engine::new(EngineOptions { memory_bytes: 64 << 20, cores: 1 }).expect("an engine");
        let source = Source::files(dir.path().to_owned(), engine);
        let rollups = Arc::new(Rollups::new(Arc::new(model(text))));
        let parts = RefreshParts {
            store: store.clone(),
            sources: Arc::new(BTreeMap::from([("default".to_owned(), source)])),
            rollups: Arc::new(move || Arc::clone(&rollups)),
            hooks: None,
            tenants: None,
            clock: Clock::Fixed(at("2026-01-01")),
        };
        let options = RefreshOptions { scheduler, max_partitions: 100, ..self::options(2) };
        Self { refresher: Refresher::start(parts, options), dir, store }
    }

    fn replace_data(&self, data: &str) {
        let next = self.dir.path().join("next.csv");
        std::fs::write(&next, data).expect("a file");
        std::fs::rename(next, self.dir.path().join("data/orders.csv")).expect("one folder tree");
    }

    /// Posts a selection of one rollup and waits; gives the statuses.
    async fn build(&self, rollup: &str, range: Option<[&str; 2]>) -> Vec<String> {
        let ids = self.refresher.post(select(rollup, range)).await.expect("taken");
        let ended = tokio::time::timeout(PATIENCE, self.refresher.wait(&ids)).await.expect("in time");
        ended.expect("the store works").into_iter().map(|job| job.status).collect()
    }

    fn table(&self, rollup: &str) -> Arc<Table> {
        let snapshot = self.store.snapshot();
        let mut tables = snapshot.tables().filter(|(id, _)| id.as_str().starts_with(&format!("orders.{rollup}@")));
        Arc::clone(tables.next().expect("a table").1)
    }

    /// Start and rows and file of every partition.
    fn partitions(&self, rollup: &str) -> Vec<(i64, u64, FileId)> {
        let table = self.table(rollup);
        table.partitions.iter().map(|(start, partition)| (*start, partition.rows, partition.file)).collect()
    }
}

fn select(rollup: &str, range: Option<[&str; 2]>) -> Selection {
    Selection {
        preaggs: vec![format!("orders.{rollup}")],
        range: range.map(|[start, end]| (at(start), at(end))),
        ..Selection::default()
    }
}

fn months(start: &str, end: &str, complete: bool) -> TableState {
    TableState { range: Some(Bounds { start: at(start), end: at(end) }), complete }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_builds_every_partition_and_the_table_covers_all_time() {
    let project = Project::start(WINTER, false);
    assert_eq!(project.build("monthly", None).await, ["done", "done"]);
    let rows: Vec<(i64, u64)> = project.partitions("monthly").into_iter().map(|(at, rows, _)| (at, rows)).collect();
    assert_eq!(rows, [(at("2024-01-01"), 2), (at("2024-02-01"), 2)]);
    let table = project.table("monthly");
    assert_eq!(table.state, months("2024-01-01", "2024-03-01", true));
    let all = covering(&table, Some(Granularity::Month), LocalRange::default()).expect("covered");
    assert_eq!(all.len(), 2);
    assert_eq!(project.build("whole", Some(["1990-01-01", "1990-01-02"])).await, ["done"]);
    assert_eq!(covering(&project.table("whole"), None, LocalRange::default()).expect("covered")[0].rows, 4);
    project.refresher.shut_down(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_date_range_rebuilds_only_what_it_selects() {
    let project = Project::start(WINTER, false);
    project.build("monthly", None).await;
    let before = project.partitions("monthly");
    project.replace_data(&format!("{WINTER}Oslo,2024-01-06T00:00:00,16\nOslo,2024-02-06T00:00:00,32\n"));
    assert_eq!(project.build("monthly", Some(["2024-01-01", "2024-01-31"])).await, ["done"]);
    let after = project.partitions("monthly");
    assert_eq!((after[0].1, after[1]), (3, before[1]), "January is new, February as it was");
    assert_ne!(after[0].2, before[0].2);
    project.refresher.shut_down(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_that_is_built_by_range_joins_the_table() {
    let project = Project::start(WINTER, false);
    project.build("monthly", None).await;
    project.replace_data(&format!("{WINTER}Oslo,2024-03-06T00:00:00,16\nOslo,2024-05-06T00:00:00,32\n"));
    assert_eq!(project.build("monthly", Some(["2024-03-01", "2024-03-31"])).await, ["done"]);
    assert_eq!(project.table("monthly").state, months("2024-01-01", "2024-04-01", true));
    // A full post plans all that the source has now.
    assert_eq!(project.build("monthly", None).await, ["done"; 5]);
    assert_eq!(project.table("monthly").state, months("2024-01-01", "2024-06-01", true));
    assert_eq!(project.partitions("monthly")[3].1, 0, "April is published as empty");
    project.refresher.shut_down(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_outside_a_shrunken_range_are_not_read() {
    let project = Project::start(WINTER, false);
    project.build("monthly", None).await;
    project.replace_data("city,created,amount\nRome,2024-02-01T00:00:00,4\n");
    assert_eq!(project.build("monthly", None).await, ["done"]);
    let table = project.table("monthly");
    assert_eq!(table.state, months("2024-02-01", "2024-03-01", true));
    let read = covering(&table, Some(Granularity::Month), LocalRange::default()).expect("covered");
    assert_eq!(read.iter().map(|partition| partition.rows).collect::<Vec<_>>(), [1]);
    project.refresher.shut_down(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_time_leave_a_table_incomplete() {
    let project = Project::start(&format!("{WINTER}Oslo,,1\n"), false);
    project.build("monthly", None).await;
    let (table, month) = (project.table("monthly"), Some(Granularity::Month));
    let built = months("2024-01-01", "2024-03-01", false);
    assert_eq!(table.state, built);
    let refused = covering(&table, month, LocalRange::default());
    assert_eq!(refused, Err(Uncovered::OutsideBuildRange(built.range.expect("a range"))));
    let january = LocalRange { start: Some(at("2024-01-01")), end: Some(at("2024-02-01")) };
    assert_eq!(covering(&table, month, january).expect("covered").len(), 1);
    project.refresher.shut_down(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_live_posts_have_equal_tokens() {
    let project = Project::start(WINTER, false);
    // Nobody builds any more, so that the jobs stay live.
    project.refresher.shut_down(PATIENCE).await;
    let context = |tenant: u32| serde_json::json!({ "tenant": tenant });
    let of = |tenants: &[u32]| Selection {
        contexts: tenants.iter().map(|tenant| context(*tenant)).collect(),
        zones: vec![Zone::UTC, Zone::Asia__Tokyo],
        ..Selection::default()
    };
    let both = project.refresher.post(of(&[1, 2])).await.expect("taken");
    // Per context and zone two months and the unpartitioned one.
    assert_eq!(both.len(), 2 * 2 * 3);
    assert_eq!(both.iter().collect::<BTreeSet<_>>().len(), both.len(), "all different");
    assert_eq!(project.refresher.post(of(&[2])).await.expect("taken"), both[6..]);
    let last = project.refresher.find_job(&both[11]).await.expect("the store works").expect("a job");
    assert_eq!((last.preagg.as_str(), last.timezone.as_str()), ("orders.whole", "Asia/Tokyo"));
    assert_eq!((last.context, last.data_source, last.status), (context(2), "default".into(), "scheduled".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_fails_its_jobs_and_keeps_what_is_published() {
    let project = Project::start(WINTER, false);
    project.build("whole", None).await;
    let before = project.partitions("whole");
    std::fs::remove_file(project.dir.path().join("data/orders.csv")).expect("a file");
    let statuses = project.build("whole", None).await;
    assert!(statuses[0].starts_with("failure: ") && statuses[0].contains("orders"), "{statuses:?}");
    assert_eq!(project.partitions("whole"), before);
    assert!(project.refresher.post(select("monthly", None)).await.is_err(), "its range cannot be seen");
    project.refresher.shut_down(PATIENCE).await;
}

/// A rollup over more rows than anybody waits for.
const ENDLESS: &str = "
cubes:
  - name: orders
    sql: SELECT value AS amount FROM generate_series(1, 1000000000000)
    measures: [{name: total, type: sum, sql: amount}]
    dimensions: [{name: parity, sql: 'amount % 2', type: number}]
    pre_aggregations:
      - {name: whole, measures: [total], dimensions: [parity]}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_build_stops_and_leaves_nothing() {
    let project = Project::start_with(ENDLESS, WINTER, false);
    let (refresher, store) = (&project.refresher, &project.store);
    let ids = refresher.post(select("whole", None)).await.expect("taken");
    let querying = async {
        while store.progress(&ids[0]).is_none_or(|progress| progress.phase != JobPhase::Querying) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, querying).await.expect("in time");
    let running = refresher.find_job(&ids[0]).await.expect("the store works").expect("a job");
    assert_eq!((running.status.as_str(), running.progress.is_some()), ("processing", true));
    let outcomes = refresher.cancel(ids.clone()).await.expect("the store works");
    assert!(matches!(&outcomes[..], [CancelOutcome::WasRunning(_)]), "{outcomes:?}");
    let ended = refresher.wait(&ids).await.expect("the store works").remove(0);
    assert_eq!((ended.status.as_str(), ended.progress), ("failure: the job was cancelled", None));
    // Would wait for ever, did the build go on.
    refresher.shut_down(Duration::MAX).await;
    assert_eq!(store.snapshot().tables().map(|(_, table)| table.partitions.len()).sum::<usize>(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scheduler_builds_what_is_missing() {
    let project = Project::start(WINTER, true);
    let mut pulse = project.refresher.inner.pulse.subscribe();
    let built = async {
        loop {
            pulse.borrow_and_update();
            let snapshot = project.store.snapshot();
            if snapshot.tables().map(|(_, table)| table.partitions.len()).sum::<usize>() == 3 {
                return;
            }
            pulse.changed().await.expect("the refresher runs");
        }
    };
    tokio::time::timeout(PATIENCE, built).await.expect("in time");
    project.refresher.shut_down(PATIENCE).await;
    assert_eq!(project.table("monthly").state, months("2024-01-01", "2024-03-01", true));
    let jobs = project.store.jobs().expect("the store works");
    assert_eq!(jobs.len(), 3);
    assert!(jobs.iter().all(|job| job.context == jobs::SCHEDULER));
}

/// The stored rows of every partition, as text.
fn stored_rows(project: &Project, rollup: &str) -> Vec<Vec<String>> {
    let table = project.table(rollup);
    let files = table.partitions.values().map(|partition| std::fs::File::open(&*partition.path).expect("a file"));
    let read = |file| {
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet");
        let batches: Vec<_> = reader.build().expect("a reader").map(|batch| batch.expect("rows")).collect();
        crate::engine::testing::texts(&batches)
    };
    files.map(read).collect()
}

/// Rows of three months, and none in a fourth between them.
const SPRING: &str = "city,created,amount\nRome,2024-01-05T10:00:00,1\nBonn,2024-01-31T23:59:59,2\n\
                      Rome,2024-02-01T00:00:00,4\nBonn,2024-02-10T00:00:00,8\nBonn,2024-04-30T00:00:00,16\n\
                      Rome,2024-04-30T00:00:00,32\nOslo,2024-05-01T00:00:00,64\n";

/// D9: partitions that are due together come from one scan, and are what each would be alone.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_of_one_scan_are_what_each_is_alone() {
    let project = Project::start(SPRING, false);
    let spring = Some(["2024-01-01", "2024-05-31"]);
    assert_eq!(project.build("monthly", spring).await, ["done"; 5]);
    let together = stored_rows(&project, "monthly");
    assert_eq!(together.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 0, 2, 1]);
    let jobs = project.store.jobs().expect("the store works");
    let files = project.partitions("monthly");
    for month in ["2024-05-01", "2024-01-01", "2024-03-01", "2024-04-01", "2024-02-01"] {
        assert_eq!(project.build("monthly", Some([month, month])).await, ["done"]);
    }
    assert_eq!(stored_rows(&project, "monthly"), together);
    let rebuilt = project.partitions("monthly");
    assert!(files.iter().zip(&rebuilt).all(|(old, new)| old.0 == new.0 && old.2 != new.2), "{files:?} {rebuilt:?}");
    assert!(jobs.iter().all(|job| job.attempt == 1), "{jobs:?}");
    // Some that do not adjoin, of a source that has changed.
    project.replace_data(&format!("{SPRING}Rome,2024-01-01T00:00:00,128\nRome,2024-05-31T23:59:59,256\n"));
    let starts = vec![at("2024-01-01"), at("2024-05-01")];
    let ids = project.refresher.post(Selection { starts, ..select("monthly", None) }).await.expect("taken");
    let ended = project.refresher.wait(&ids).await.expect("the store works");
    assert!(ended.len() == 2 && ended.iter().all(|job| job.status == "done"), "{ended:?}");
    let rows: Vec<u64> = project.partitions("monthly").iter().map(|(_, rows, _)| *rows).collect();
    assert_eq!(rows, [3, 2, 0, 2, 2]);
    project.refresher.shut_down(PATIENCE).await;
}

/// A bad row fails its own partition; the others of its scan are published.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_fails_does_not_fail_the_others_of_its_scan() {
    let cast = MODEL.replace("sql: amount}", "sql: \"CAST({CUBE}.amount AS BIGINT)\"}");
    let project = Project::start_with(&cast, SPRING, false);
    assert_eq!(project.build("monthly", None).await, ["done"; 5]);
    let before = project.partitions("monthly");
    project.replace_data(&format!("{SPRING}Rome,2024-02-20T00:00:00,many\nRome,2024-01-20T00:00:00,128\n"));
    let statuses = project.build("monthly", None).await;
    let failed: Vec<bool> = statuses.iter().map(|status| status.starts_with("failure: ")).collect();
    assert_eq!(failed, [false, true, false, false, false], "{statuses:?}");
    assert!(statuses[1].contains("many"), "{statuses:?}");
    let after = project.partitions("monthly");
    assert_eq!(after[1], before[1], "what was published serves on");
    assert_eq!(after[0].1, 3);
    assert!([0, 2, 3, 4].into_iter().all(|month| after[month].2 != before[month].2), "{before:?} {after:?}");
    project.refresher.shut_down(PATIENCE).await;
}

/// More rows than anybody waits for, in partitions of a day.
const ENDLESS_DAYS: &str = "
cubes:
  - name: orders
    sql: >
      SELECT value AS amount, arrow_cast(to_timestamp_seconds(1704067200 + value % 3 * 86400),
      'Timestamp(Microsecond, None)') AS created
      FROM generate_series(1, 1000000000000)
    measures: [{name: total, type: sum, sql: amount}]
    dimensions: [{name: created, sql: created, type: time}]
    pre_aggregations:
      - {name: daily, measures: [total], time_dimension: created, granularity: day, partition_granularity: day}
";

/// One of a scan's partitions can be cancelled alone; the scan stops when nobody wants any of it.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_one_scan_are_cancelled_one_by_one() {
    let project = Project::start_with(ENDLESS_DAYS, WINTER, false);
    let (refresher, store) = (&project.refresher, &project.store);
    // Its range cannot be asked for.
    let rollups = (refresher.inner.parts.rollups)();
    let daily = rollups.all().next().expect("a rollup");
    let table = rollups.table(daily, Zone::UTC).expect("a table");
    let details = serde_json::json!({ "preagg": "orders.daily", "timezone": "UTC", "context": {},
        "data_source": "default", "forced": true });
    let day = |day: i64| {
        let start = at("2024-01-01") + day * 86_400_000_000;
        let bucket = Some(Bounds { start, end: start + 86_400_000_000 });
        let partition = PartitionKey { table: table.clone(), bucket };
        NewJob { partition, details: details.to_string(), context: String::new(), group: None }
    };
    let ids = store.enqueue(&[day(0), day(1), day(2)], 1).expect("enqueued");
    refresher.inner.pulse();
    let is_querying = |id: &JobId| store.progress(id).is_some_and(|progress| progress.phase == JobPhase::Querying);
    let querying = async {
        while !ids.iter().all(is_querying) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, querying).await.expect("in time");
    refresher.cancel(vec![ids[1].clone()]).await.expect("the store works");
    assert!(is_querying(&ids[0]) && !is_querying(&ids[1]) && is_querying(&ids[2]), "the others go on");
    refresher.cancel(vec![ids[0].clone(), ids[2].clone()]).await.expect("the store works");
    // Would wait for ever, did the scan go on.
    refresher.shut_down(Duration::MAX).await;
    assert_eq!(store.snapshot().tables().map(|(_, table)| table.partitions.len()).sum::<usize>(), 0);
}

/// A refresher of a project that defines nothing, over a store of its own.
fn empty_parts(dir: &tempfile::TempDir) -> RefreshParts {
    let options = StoreOptions::new(dir.path().to_owned());
    let rollups = Arc::new(Rollups::new(Arc::new(Model::new(1, Vec::new()))));
    RefreshParts {
        store: Store::open(options).expect("an empty folder"),
        sources: Arc::default(),
        rollups: Arc::new(move || Arc::clone(&rollups)),
        hooks: None,
        tenants: None,
        clock: Clock::Fixed(1_000_000),
    }
}

fn options(workers: usize) -> RefreshOptions {
    RefreshOptions {
        index_copies: true,
        concurrency: Concurrency::of_all(workers),
        scheduler: true,
        tick: Duration::from_secs(3_600),
        scheduled_at_once: 2,
        zones: vec![Zone::UTC],
        max_partitions: 10,
        timeout: PATIENCE,
        greatest_pause: Duration::from_secs(600),
        sort_bytes: 1 << 20,
    }
}

/// A job for a rollup that was removed from the model.
fn orphan(context: &str) -> NewJob {
    let target = serde_json::json!({ "preagg": "orders.daily", "timezone": "UTC", "context": {},
        "data_source": "default", "forced": true });
    let table = TableId::new("orders.daily@UTC-0").expect("a name");
    NewJob {
        partition: PartitionKey { table, bucket: None },
        details: target.to_string(),
        context: context.to_owned(),
        group: None,
    }
}

#[tokio::test]
async fn jobs_of_a_former_process_are_taken_up_and_waiting_ends_with_them() {
    let dir = tempfile::tempdir().expect("a folder");
    let parts = empty_parts(&dir);
    let store = parts.store.clone();
    let before = store.enqueue(&[orphan("a"), orphan("b")], 1).expect("enqueued");
    let refresher = Refresher::start(parts, options(2));
    let unknown = JobId::from_token("00");
    let ids = [before[0].clone(), unknown.clone(), before[1].clone()];
    let ended = refresher.wait(&ids).await.expect("the store works");
    let statuses: Vec<&str> = ended.iter().map(|job| job.status.as_str()).collect();
    assert_eq!(statuses, ["failure: pre-aggregation is no longer in the data model"; 2]);
    assert_eq!(ended[1].record.id, before[1]);
    assert!(refresher.find_job(&unknown).await.expect("the store works").is_none());
    refresher.shut_down(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn nothing_is_claimed_after_shutdown_and_waiting_gives_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let parts = empty_parts(&dir);
    let store = parts.store.clone();
    let refresher = Refresher::start(parts, options(1));
    refresher.shut_down(Duration::from_secs(60)).await;
    let ids = store.enqueue(&[orphan("a")], 1).expect("enqueued");
    let left = refresher.wait(&ids).await.expect("the store works");
    assert_eq!(left[0].record.state, quarry_storage::JobState::Queued);
    assert_eq!(left[0].status, "pre_agg_not_found");
}

#[tokio::test]
async fn a_selection_that_matches_nothing_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let refresher = Refresher::start(empty_parts(&dir), options(1));
    let error = refresher.post(Selection::default()).await.expect_err("there are no rollups");
    assert!(matches!(error, RefreshError::NothingSelected), "{error}");
    refresher.shut_down(Duration::from_secs(60)).await;
}
