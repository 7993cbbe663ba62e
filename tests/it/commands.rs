//! The commands about builds, through the built binary: `jobs`, `verify`, `build --dry-run`.

use serde_json::{Value, json};

use crate::events::{Month, events_project, selector, write_events};
use crate::orchestrators::TROUBLES;
use crate::server::{Project, SECRET, Server, printed, run};

const MONTHS: [&str; 2] = ["2024-01", "2024-02"];
const SETTINGS: [(&str, &str); 1] = [("CUBEJS_API_SECRET", SECRET)];

#[test]
fn jobs_of_a_running_server_are_listed_awaited_cancelled_and_retried() {
    let project = events_project(&MONTHS, 30);
    project.write("model/troubles.yml", TROUBLES);
    let server = Server::start_with_jobs(&project);
    let url = format!("http://127.0.0.1:{}", server.port());
    let jobs = |args: &[&str]| {
        let output = run(project.path(), &SETTINGS, &[&["jobs"][..], args, &["--url", &url][..]].concat());
        (output.status.code(), printed(&output))
    };
    let done = server.post_jobs(&selector(&json!({"preAggregations": ["events.monthly"]})));
    let (code, text) = jobs(&["wait", &done[0], &done[1]]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("done") && text.contains("events.monthly  2024-01-01  UTC  30 rows"), "{text}");
    let failed = server.post_jobs(&selector(&json!({"cubes": ["broken"]})));
    let (code, text) = jobs(&["wait", &failed[0], "--timeout", "60"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("failed") && text.contains("division by zero"), "{text}");
    let endless = server.post_jobs(&selector(&json!({"cubes": ["endless"]})));
    let (code, text) = jobs(&["wait", &endless[0], "--timeout", "1"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("running"), "{text}");
    let (code, text) = jobs(&["cancel", &endless[0]]);
    assert_eq!((code, text.contains("cancelled")), (Some(0), true), "{text}");
    let (code, text) = jobs(&["retry", &failed[0]]);
    assert_eq!((code, text.contains(&failed[0])), (Some(0), false), "a new token: {text}");
    let (code, text) = jobs(&["list", "--state", "done,cancelled", "--limit", "2"]);
    assert_eq!((code, text.lines().last()), (Some(0), Some("2 of 3 job(s)")), "{text}");
    assert!(text.starts_with(&endless[0]), "newest first: {text}");
    let (code, text) = jobs(&["show", &done[0], "--json"]);
    let shown: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!((code, &shown[0]["status"]), (Some(0), &json!("done")));

    for (args, expected) in [
        (vec!["show", "nobody"], "404: Job 'nobody' not found"),
        (vec!["show", "../x"], "'../x' is no token of a job"),
        (vec!["retry", done[0].as_str()], "409: Job"),
        (vec!["list", "--state", "lost"], "400: 'lost' is no state of a job"),
        (vec!["list", "--token", "forged"], "The token does not fit the server's secret"),
    ] {
        let (code, text) = jobs(&args);
        assert_eq!((code, text.contains(expected)), (Some(1), true), "{args:?}: {text}");
    }
    let closed = Server::start(&events_project(&MONTHS, 3));
    let url = format!("http://127.0.0.1:{}", closed.port());
    let output = run(project.path(), &SETTINGS, &["jobs", "list", "--url", &url]);
    assert!(printed(&output).contains("Add jobs to the server's CUBEJS_DEFAULT_API_SCOPES"), "{}", printed(&output));
    let output = run(project.path(), &SETTINGS, &["jobs", "list", "--url", "http://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(printed(&output).contains("is the server running?"), "{}", printed(&output));
}

#[test]
fn verify_tells_partition_group_and_measure_that_differ() {
    let project = events_project(&MONTHS, 30);
    let verify = |args: &[&str]| {
        let output = run(project.path(), &SETTINGS, &[&["verify"][..], args].concat());
        (output.status.code(), printed(&output))
    };
    let (code, text) = verify(&[]);
    assert_eq!((code, text.contains("quarry build")), (Some(1), true), "nothing is built yet: {text}");
    let built = run(project.path(), &SETTINGS, &["build", "events.monthly", "events.by_kind"]);
    assert!(built.status.success(), "{}", printed(&built));
    let (code, text) = verify(&[]);
    assert_eq!((code, text.as_str()), (Some(0), "3 of 3 partition(s) equal their source, 63 row(s) compared\n"));
    let (code, text) = verify(&["events.monthly", "--sample", "1"]);
    assert_eq!((code, text.starts_with("1 of 1 partition(s)")), (Some(0), true), "{text}");

    let month = |name, generation| Month { name, rows: 30, generation };
    write_events(&project, &[month("2024-01", 1), month("2024-02", 7)]);
    let (code, text) = verify(&["events.monthly"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("events.monthly 2024-02-01T00:00:00.000 UTC: "), "{text}");
    assert!(!text.contains("events.monthly 2024-01-01"), "{text}");
    assert!(text.contains("events__generations is ") && text.contains("events__kind=click, "), "{text}");
    assert!(text.ends_with("1 of 2 partition(s) equal their source, 60 row(s) compared\n"), "{text}");
    let (code, text) = verify(&["events.monthly", "--from", "2024-01-01", "--to", "2024-01-31"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = verify(&["events.nobody"]);
    assert_eq!((code, text.contains("there is no rollup 'events.nobody'")), (Some(1), true), "{text}");
}

#[test]
fn verify_names_a_damaged_file_and_goes_on() {
    let project = events_project(&MONTHS, 30);
    let built = run(project.path(), &SETTINGS, &["build", "events.monthly"]);
    assert!(built.status.success(), "{}", printed(&built));
    let files = project.stored_files();
    let mut bytes = std::fs::read(&files[0]).expect("a file");
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    std::fs::write(&files[0], bytes).expect("written");
    let output = run(project.path(), &SETTINGS, &["verify"]);
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let name = files[0].file_name().and_then(|name| name.to_str()).expect("a plain name");
    assert!(text.contains(name) && text.contains("rebuild the partition with `quarry build`"), "{text}");
    assert!(
        text.ends_with(&format!(
            "{} of {} partition(s) equal their source, 30 row(s) compared\n",
            files.len() - 1,
            files.len()
        )),
        "{text}"
    );
}

const STATES: &str = "
cubes:
  - name: sales
    sql_table: sales
    measures:
      - {name: count, type: count}
      - {name: buyers, sql: buyer, type: count_distinct}
      - {name: about, sql: buyer, type: count_distinct_approx}
      - {name: median, sql: \"approx_percentile_cont({CUBE}.amount, 0.5)\", type: number}
      - {name: mean, sql: amount, type: avg}
    dimensions: [{name: at, sql: at, type: time}, {name: city, sql: city, type: string}]
    pre_aggregations:
      - {name: both, type: rollup_lambda, rollups: [CUBE.states]}
      - {name: rows, type: original_sql, time_dimension: at, partition_granularity: month}
      - {name: states, measures: [count, buyers, about, median, mean], dimensions: [city], time_dimension: at,
         granularity: month, partition_granularity: month}
";

/// What is compared of a stored set or sketch is what it holds; rows are compared one by one; a lambda is as right as
/// its rollups.
#[test]
fn verify_looks_into_states_rows_and_parts() {
    let project = Project::empty();
    project.write("model/sales.yml", STATES);
    // Twice the same row: rows are counted.
    const ROWS: &str = "at,city,buyer,amount\n2024-01-05T00:00:00,Rome,ann,1.5\n2024-01-06T00:00:00,Rome,bob,2.5\n\
                        2024-01-06T00:00:00,Rome,bob,2.5\n2024-02-01T00:00:00,,ann,4\n";
    project.write("data/sales.csv", ROWS);
    let built = run(project.path(), &SETTINGS, &["build"]);
    assert!(built.status.success(), "{}", printed(&built));
    let verify = |args: &[&str]| {
        let output = run(project.path(), &SETTINGS, &[&["verify"][..], args].concat());
        (output.status.code(), printed(&output))
    };
    assert_eq!(verify(&[]), (Some(0), "4 of 4 partition(s) equal their source, 6 row(s) compared\n".to_owned()));
    assert_eq!(
        verify(&["sales.both"]),
        (Some(0), "2 of 2 partition(s) equal their source, 2 row(s) compared\n".into())
    );
    // What the sets and sketches take is shown by name.
    let shown = run(project.path(), &SETTINGS, &["partitions", "sales.states", "--columns"]);
    let text = printed(&shown);
    let line =
        |name: &str| text.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("no {name}: {text}"));
    for (name, kind) in [("sales__buyers", "distinct/1"), ("sales__about", "hll/14"), ("sales__city", "Utf8")] {
        assert!(line(name).contains(kind) && line(name).ends_with(" %"), "{text}");
    }
    let shown = run(project.path(), &SETTINGS, &["partitions", "sales.states", "--columns", "--json"]);
    let columns: Value = serde_json::from_str(&printed(&shown)).unwrap_or_else(|error| panic!("{error}: {text}"));
    let buyers = columns.as_array().and_then(|all| all.iter().find(|column| column["storedAs"] == "distinct/1"));
    assert!(buyers.is_some_and(|column| column["bytes"].as_u64() > Some(0)), "{columns}");
    // As many rows and buyers as before, but another buyer; sums and counts do not tell.
    project.write("data/sales.csv", &ROWS.replace("Rome,bob", "Rome,eve"));
    let (code, text) = verify(&["sales.both"]);
    let group = "sales__city=Rome, sales__at_month=2024-01-01T00:00:00";
    let told = [
        format!("{group}: sales__buyers is 2 different values, the source says 2 different values, other ones\n"),
        format!("{group}: sales__about is about 2 different values, the source says about 2 different values, other"),
        "sales.states 2024-01-01T00:00:00.000 UTC: 2 difference(s)".to_owned(),
        "1 of 2 partition(s) equal their source".to_owned(),
    ];
    assert!(code == Some(1) && told.iter().all(|told| text.contains(told)), "{text}");
    let (code, text) = verify(&["sales.rows"]);
    let told = [
        "sales.rows 2024-01-01T00:00:00.000 UTC: 4 difference(s)",
        "buyer=bob, amount=2.5: the rollup has a row, the source nothing",
        "buyer=eve, amount=2.5: the rollup has nothing, the source a row",
        "1 of 2 partition(s) equal their source, 4 row(s) compared",
    ];
    assert!(code == Some(1) && told.iter().all(|told| text.contains(told)), "{text}");
}

#[test]
fn a_dry_run_of_build_prints_partitions_rows_and_cost() {
    let project = events_project(&MONTHS, 30);
    let build = |args: &[&str]| {
        let output = run(project.path(), &SETTINGS, &[&["build", "events.monthly"][..], args].concat());
        assert!(output.status.success(), "{}", printed(&output));
        printed(&output)
    };
    let text = build(&["--dry-run"]);
    assert!(text.contains("events.monthly  2024-01-01T00:00:00.000  UTC  missing\n"), "{text}");
    assert!(text.contains("2 partition(s) would be built; the last builds gave 0 rows in 0 ms"), "{text}");
    assert!(project.stored_files().is_empty());
    assert!(build(&["--if-stale"]).contains("2 of 2 partition(s) built"));
    assert!(build(&["--if-stale"]).contains("0 of 0 partition(s) built"));
    let text = build(&["--dry-run", "--from", "2024-02-01", "--to", "2024-02-05"]);
    assert!(text.contains("UTC  fresh  30 rows in ") && text.contains("1 partition(s) would be built"), "{text}");
}
