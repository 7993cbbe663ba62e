//! Refresh keys at work: what a change of the source has rebuilt, and what is left alone.

use std::time::Duration;

use serde_json::{Value, json};

use crate::events::selector;
use crate::server::{ALL_SCOPES, Project, Server, wait_until};

const RUN: &str = "/cubejs-api/v1/run-scheduled-refresh";
const LONG: Duration = Duration::from_secs(120);

/// Some days of some months: `day,amount,changed`.
const ROWS: &str = "at,amount,changed\n2024-01-05T10:00:00,1,1\n2024-02-05T10:00:00,2,1\n2024-03-05T10:00:00,4,1\n";

/// A project of one cube with one rollup by month.
fn project(refresh_key: &str, more: &str) -> Project {
    let project = Project::empty();
    project.write(
        "model/sales.yml",
        &format!(
            "cubes:
  - name: sales
    sql_table: sales
    measures: [{{name: total, type: sum, sql: amount}}]
    dimensions: [{{name: at, sql: at, type: time}}]
    pre_aggregations:
      - name: monthly
        measures: [total]
        time_dimension: at
        granularity: day
        partition_granularity: month
        refresh_key: {{{refresh_key}}}
{more}"
        ),
    );
    project.write("data/sales.csv", ROWS);
    project
}

fn start(project: &Project, more: &[(&str, &str)]) -> Server {
    let mut settings = vec![("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES), ("CUBEJS_LOG_LEVEL", "info")];
    settings.extend_from_slice(more);
    Server::start_with(project, &settings)
}

/// Calls for passes of the scheduler until nothing is left to do.
#[track_caller]
fn run(server: &Server) {
    wait_until("a finished pass", LONG, || {
        let reply = server.get(RUN);
        assert_eq!(reply.status, 200, "{}", reply.body);
        let body = reply.value();
        assert!(body == json!({"finished": true}) || body == json!({"error": "Continue wait"}), "{body}");
        body["finished"].as_bool()
    });
}

/// Names of the stored files that are not among `before`.
fn new_files(project: &Project, before: &[std::path::PathBuf]) -> usize {
    project.stored_files().iter().filter(|file| !before.contains(file)).count()
}

fn totals(server: &Server) -> (Vec<String>, Value) {
    let answer = server.load(&json!({
        "measures": ["sales.total"],
        "timeDimensions": [{"dimension": "sales.at", "granularity": "month", "dateRange": ["2024-01-01", "2024-03-31"]}],
        "order": {"sales.at": "asc"},
    }));
    let rows = answer["data"].as_array().expect("rows");
    let totals = rows.iter().map(|row| row["sales.total"].as_str().expect("a number").to_owned()).collect();
    (totals, answer["usedPreAggregations"].clone())
}

const BY_PARTITION: &str =
    "sql: \"SELECT max(changed), count(*) FROM sales WHERE {FILTER_PARAMS.sales.at.filter('at')}\", every: 1 second";
const AT_ALL: &str = "sql: \"SELECT max(changed), count(*) FROM sales\", every: 1 second";

/// Conformance case 22, trap T20.
#[track_caller]
fn check_rebuilt(key: &str, expected: usize) {
    let project = project(key, "");
    let server = start(&project, &[]);
    run(&server);
    let first = project.stored_files();
    assert_eq!(first.len(), 3, "one file a month");
    assert_eq!(totals(&server).0, ["1", "2", "4"]);
    project.write("data/sales.csv", &format!("{ROWS}2024-02-06T00:00:00,16,2\n"));
    wait_until("the change to be seen", LONG, || {
        run(&server);
        (totals(&server).0[1] == "18").then_some(())
    });
    run(&server);
    assert_eq!(totals(&server).0, ["1", "18", "4"]);
    assert_eq!(new_files(&project, &first), expected, "{key}");
    // Nothing has changed since: nothing is built.
    let second = project.stored_files();
    crate::server::pause(Duration::from_millis(1_100));
    run(&server);
    assert_eq!(new_files(&project, &second), 0);
}

#[test]
fn a_changed_row_has_its_own_partition_rebuilt() {
    check_rebuilt(BY_PARTITION, 1);
}

#[test]
fn a_key_without_filters_has_all_partitions_rebuilt() {
    check_rebuilt(AT_ALL, 3);
}

/// Trap T21: rows after the last partition are outside of what its own key looks at.
#[test]
fn a_new_month_is_noticed_though_keys_are_of_partitions() {
    let project = project(BY_PARTITION, "");
    let server = start(&project, &[]);
    run(&server);
    let first = project.stored_files();
    assert_eq!(first.len(), 3);
    project.write("data/sales.csv", &format!("{ROWS}2024-05-01T00:00:00,16,2\n"));
    wait_until("April, empty, and May", LONG, || {
        run(&server);
        (new_files(&project, &first) == 2).then_some(())
    });
    let answer = server.load(&json!({"measures": ["sales.total"]}));
    assert_eq!(answer["data"], json!([{"sales.total": "23"}]));
    assert!(answer["usedPreAggregations"].is_object(), "{answer}");
}

/// Conformance case 23: closed partitions are frozen, and late rows do not thaw them.
#[test]
fn closed_partitions_stay_as_they_are() {
    let project = project("every: 1 second, incremental: true, update_window: 1 day", "");
    let server = start(&project, &[]);
    run(&server);
    let first = project.stored_files();
    project.write("data/sales.csv", &format!("{ROWS}2024-02-06T00:00:00,16,2\n"));
    crate::server::pause(Duration::from_millis(1_100));
    run(&server);
    assert_eq!((new_files(&project, &first), totals(&server).0), (0, vec!["1".into(), "2".into(), "4".into()]));
    // A window that is open lets them be refreshed.
    let open = project_like("every: 1 second, incremental: true, update_window: 100 years");
    let server = start(&open, &[]);
    run(&server);
    let first = open.stored_files();
    crate::server::pause(Duration::from_millis(1_100));
    run(&server);
    assert_eq!(new_files(&open, &first), 3);
}

fn project_like(key: &str) -> Project {
    project(key, "")
}

#[test]
fn a_failing_key_leaves_what_is_published_and_says_so() {
    let project = project("sql: SELECT max(changed) FROM changes, every: 1 second", "");
    project.write("data/changes.csv", "changed\n1\n");
    let server = start(&project, &[]);
    run(&server);
    let first = project.stored_files();
    assert_eq!(first.len(), 3);
    std::fs::remove_file(project.path().join("data/changes.csv")).expect("the file is there");
    let told = wait_until("the failure to be told", LONG, || {
        run(&server);
        let (rows, used) = totals(&server);
        assert_eq!(rows, ["1", "2", "4"]);
        used.as_object().and_then(|used| used.values().next()?["refreshKeyError"].as_str().map(str::to_owned))
    });
    assert!(told.contains("\"public.changes\" does not exist"), "{told}");
    assert_eq!(new_files(&project, &first), 0);
    server.assert_alive();
}

#[test]
fn rollups_are_built_in_the_background_newest_partition_first() {
    let project = project(
        "every: 1 day",
        "        indexes: []\n      - {name: other, measures: [total], time_dimension: at, granularity: day, partition_granularity: month}\n      - {name: by_hand, measures: [total], scheduled_refresh: false}\n",
    );
    let settings = [
        ("CUBEJS_REFRESH_WORKER", "true"),
        ("CUBEJS_CONCURRENCY", "1"),
        ("CUBEJS_ROLLUP_ONLY", "true"),
        ("CUBEJS_SCHEDULED_REFRESH_CONCURRENCY", "1"),
    ];
    let server = start(&project, &settings);
    wait_until("six partitions", LONG, || (project.stored_files().len() == 6).then_some(()));
    wait_until("six publications", LONG, || (server.log().matches("published").count() == 6).then_some(()));
    assert_eq!(totals(&server).0, ["1", "2", "4"]);
    let log = server.log();
    let published = log.lines().filter(|line| line.contains("\"published\"")).map(|line| {
        let rollup = if line.contains("sales.monthly@") { "monthly" } else { "other" };
        let month = ["2024-01", "2024-02", "2024-03"].into_iter().find(|month| line.contains(month));
        format!("{rollup} {}", month.unwrap_or("?"))
    });
    // Partitions of one rollup come from one scan, the newest of them first.
    let expected =
        ["monthly 2024-03", "monthly 2024-02", "monthly 2024-01", "other 2024-03", "other 2024-02", "other 2024-01"];
    assert_eq!(published.collect::<Vec<_>>(), expected, "{log}");
    assert_eq!(log.matches("building from one scan").count(), 2, "{log}");
}

/// What no partition alone could do either is tried once, and all of its jobs tell why.
#[test]
fn a_statement_that_cannot_be_planned_is_not_tried_in_parts() {
    let project = project("every: 1 day", "");
    let model = std::fs::read_to_string(project.path().join("model/sales.yml")).expect("it was written");
    project.write("model/sales.yml", &model.replace("sql: amount", "sql: nothing"));
    let server = start(&project, &[]);
    let tokens = server.post_jobs(&json!({"contexts": [{"securityContext": {}}], "timezones": ["UTC"]}));
    let statuses = server.wait_jobs(&tokens);
    assert_eq!(statuses.len(), 3);
    let is_told = |status: &String| status.starts_with("failure: ") && status.contains("No field named sales.nothing");
    assert!(statuses.iter().all(is_told), "{statuses:?}");
    assert_eq!(server.log().matches("a scan for several partitions failed").count(), 1, "{}", server.log());
}

#[test]
fn a_build_that_lasts_too_long_fails_and_leaves_nothing() {
    let project = project("every: 1 day", "");
    project.write(
        "model/slow.yml",
        "cubes:
  - name: slow
    sql: SELECT a.value % 7 AS x FROM generate_series(1, 9000000000000) AS a(value)
    measures: [{name: count, type: count}]
    dimensions: [{name: x, sql: x, type: number}]
    pre_aggregations: [{name: all, measures: [count], dimensions: [x]}]
",
    );
    let server = start(&project, &[("CUBEJS_DB_QUERY_TIMEOUT", "8")]);
    let tokens = server.post_jobs(&selector(&json!({"preAggregations": ["slow.all"]})));
    assert_eq!(server.wait_jobs(&tokens), ["failure: Query execution timeout after 8 s of waiting"]);
    assert!(project.stored_files().is_empty());
    assert_eq!(server.build(&selector(&json!({"preAggregations": ["sales.monthly"]}))), 3);
    server.assert_alive();
}

#[test]
fn passes_on_request_have_a_scope_and_options() {
    let project = project("every: 1 day", "");
    let server = start(&project, &[]);
    let reply = server.post(RUN, &json!({"queryingOptions": {"timezones": ["Asia/Tokyo"], "concurrency": 1}}));
    assert_eq!(reply.status, 200, "{}", reply.body);
    wait_until("the passes to finish", LONG, || {
        let reply = server.get(&format!("{RUN}?queryingOptions=%7B%22timezone%22%3A%22Asia%2FTokyo%22%7D"));
        reply.value()["finished"].as_bool()
    });
    assert_eq!(project.stored_files().len(), 3);
    assert!(project.stored_files().iter().all(|file| file.display().to_string().contains("Asia_Tokyo")));
    let reply = server.get(&format!("{RUN}?queryingOptions=%7B%22zone%22%3A1%7D"));
    assert_eq!((reply.status, reply.error().as_str()), (400, "Invalid queryingOptions: \"zone\" is not allowed"));
    let closed = Server::start(&project_like("every: 1 day"));
    let reply = closed.get(RUN);
    assert_eq!((reply.status, reply.error().as_str()), (403, "API scope is missing: jobs"));
}

/// Conformance case 24: what the keys said is told with an answer.
#[test]
fn development_shows_what_the_keys_said() {
    let project = project(BY_PARTITION, "");
    let server = start(&project, &[("CUBEJS_DEV_MODE", "true"), ("CUBEJS_REFRESH_WORKER", "false")]);
    assert_eq!(server.build(&selector(&json!({}))), 3);
    let (_, used) = totals(&server);
    let values = &used.as_object().expect("a rollup").values().next().expect("a rollup")["refreshKeyValues"];
    let lists = values.as_array().expect("a list a partition");
    assert_eq!(lists.len(), 3, "{values}");
    for list in lists {
        let row: Vec<&str> = list[0][0].as_object().expect("a row").values().filter_map(Value::as_str).collect();
        assert_eq!(row, ["1", "1"], "the newest change and the number of rows of the month: {values}");
    }
}
