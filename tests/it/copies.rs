//! Copies that rollups have for their further indexes (`QUARRY_INDEX_COPIES`): made of what is published, never of the
//! source; read in the place of the rollup where that is less to read; right, or not read at all.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::events::selector;
use crate::server::{ALL_SCOPES, JOBS, Project, SECRET, Server, printed, run, wait_until};

const COPIES: [(&str, &str); 2] = [("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES), ("QUARRY_INDEX_COPIES", "true")];
const NO_COPIES: [(&str, &str); 1] = [("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES)];
const MONTHS: [&str; 3] = ["2024-01", "2024-02", "2024-03"];
const PATIENCE: Duration = Duration::from_secs(60);

const MODEL: &str = "cubes:
  - name: sales
    sql_table: sales
    dimensions:
      - {name: city, sql: city, type: string}
      - {name: kind, sql: kind, type: string}
      - {name: at, sql: at, type: time}
    measures:
      - {name: count, type: count}
      - {name: total, type: sum, sql: amount}
      - {name: mean, type: avg, sql: amount}
      - {name: buyers, type: count_distinct, sql: buyer}
    pre_aggregations:
      - name: main
        measures: [count, total, mean, buyers]
        dimensions: [city, kind]
        time_dimension: at
        granularity: day
        partition_granularity: month
        indexes:
          - {name: by_city, columns: [city]}
          - {name: by_day, columns: [sales__at_day, city]}
          - {name: kinds, columns: [kind], type: aggregate}
";

/// The project, its source in the given state.
fn project(factor: usize) -> Project {
    let project = Project::empty();
    project.write("model/sales.yml", MODEL);
    write_sales(&project, factor);
    project
}

/// 20 days of three months, 10 cities a day, of two kinds; each row has its own amount.
fn write_sales(project: &Project, factor: usize) {
    let mut rows = "at,city,kind,buyer,amount\n".to_owned();
    for (number, month) in MONTHS.iter().enumerate() {
        for n in 0..200 {
            let (day, city, kind) = (n % 20 + 1, n / 20, if n % 3 == 0 { "web" } else { "shop" });
            rows.push_str(&format!("{month}-{day:02},city {city},{kind},{},{}\n", n % 7, factor * n + number));
        }
    }
    project.write("data/sales.csv", &rows);
}

fn quarry(project: &Project, settings: &[(&str, &str)], args: &[&str]) -> String {
    let output = run(project.path(), &[&[("CUBEJS_API_SECRET", SECRET)], settings].concat(), args);
    assert!(output.status.success(), "{args:?}:\n{}", printed(&output));
    String::from_utf8(output.stdout).expect("plain text")
}

/// What is stored: whether of a copy, the partition, and its state.
fn stored(project: &Project) -> Vec<(bool, String, String)> {
    let text = quarry(project, &[], &["partitions", "sales.main", "--json"]);
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let texts =
        |one: &Value| ["table", "partition", "state"].map(|name| one[name].as_str().expect("a text").to_owned());
    let lines = value.as_array().expect("an array").iter().map(texts);
    lines
        .map(|[table, partition, state]| (table.contains(".by_day") || table.contains(".kinds"), partition, state))
        .collect()
}

/// How many copies are those of what is live.
fn count_copies(project: &Project) -> usize {
    let stored = stored(project);
    stored.iter().filter(|(is_copy, _, state)| *is_copy && state == "copy").count()
}

fn wait_for_copies(project: &Project, count: usize) {
    wait_until("the copies", PATIENCE, || (count_copies(project) == count).then_some(()));
}

fn build(server: &Server, more: &Value) {
    server.build(&selector(more));
}

/// A question that `kinds` answers; made anew for each `limit`.
fn kinds(limit: u64) -> Value {
    json!({
        "measures": ["sales.count", "sales.total", "sales.mean", "sales.buyers"], "dimensions": ["sales.kind"],
        "order": {"sales.kind": "asc"}, "limit": limit,
    })
}

/// What the source says to [`kinds`].
fn expected_kinds(factors: [usize; 3]) -> Vec<Value> {
    let of = |kind: &str| {
        let amounts = factors.iter().enumerate().flat_map(|(number, factor)| {
            (0..200).filter(|n| (n % 3 == 0) == (kind == "web")).map(move |n| factor * n + number)
        });
        let (count, total) = amounts.fold((0, 0), |(count, total), amount| (count + 1, total + amount));
        (kind.to_owned(), count.to_string(), total, "7".to_owned())
    };
    ["shop", "web"]
        .map(of)
        .iter()
        .map(|(kind, count, total, buyers)| json!([kind, count, total.to_string(), buyers]))
        .collect()
}

#[track_caller]
fn check_kinds(server: &Server, limit: u64, factors: [usize; 3]) {
    let rows = server.rows(&kinds(limit));
    let told = rows.iter().map(|row| {
        let (count, total) = (number(&row["sales.count"]), number(&row["sales.total"]));
        assert!((number(&row["sales.mean"]) - total / count).abs() < 1e-9, "{row}");
        json!([row["sales.kind"], row["sales.count"], row["sales.total"], row["sales.buyers"]])
    });
    assert_eq!(told.collect::<Vec<_>>(), expected_kinds(factors));
}

fn number(value: &Value) -> f64 {
    value.as_str().expect("numbers are texts").parse().expect("a number")
}

fn copies_at_hand(server: &Server, query: &Value) -> Vec<Value> {
    let told = server.post("/quarry/v1/explain", &json!({"query": query})).value();
    told["results"][0]["levels"][0]["chosen"]["indexCopies"].as_array().cloned().unwrap_or_default()
}

/// Removes the files of the rollup itself, from below a running server.
fn remove_own_files(project: &Project) {
    for path in project.stored_files() {
        let folder = path.parent().and_then(|folder| folder.file_name()).expect("in a folder").to_string_lossy();
        if !folder.contains(".by_day") && !folder.contains(".kinds") {
            fs::remove_file(path).expect("removable");
        }
    }
}

#[test]
fn a_copy_answers_in_the_place_of_its_rollup() {
    let project = project(1);
    let server = Server::start_with(&project, &COPIES);
    build(&server, &json!({}));
    wait_for_copies(&project, 6);
    let at_hand = copies_at_hand(&server, &kinds(9));
    let six = json!({"index": "kinds", "type": "aggregate", "rows": 6});
    assert!(at_hand.len() == 2 && at_hand.contains(&six), "{at_hand:?}");
    check_kinds(&server, 10, [1; 3]);
    // The rows of a join, and rows as they are, are never put together beforehand.
    let raw = json!({"dimensions": ["sales.kind", "sales.city"], "measures": ["sales.total"], "ungrouped": true});
    assert!(copies_at_hand(&server, &raw).iter().all(|copy| copy["type"] == "regular"));
    // Only what the copy does not hold needs the rollup's own files.
    let cities = json!({"measures": ["sales.total"], "dimensions": ["sales.city"]});
    remove_own_files(&project);
    check_kinds(&server, 11, [1; 3]);
    let reply = server.ask(&cities);
    assert!(reply.status != 200 && reply.body.contains("rebuild the partition"), "{}: {}", reply.status, reply.body);
    build(&server, &json!({}));
    assert_eq!(server.rows(&cities).len(), 10);
    server.assert_alive();
}

#[test]
fn copies_follow_what_they_are_copies_of() {
    let project = project(1);
    let server = Server::start_with(&project, &COPIES);
    build(&server, &json!({}));
    wait_for_copies(&project, 6);
    for (factor, atomic) in [(2, false), (3, true)] {
        write_sales(&project, factor);
        let february = json!({"dateRange": ["2024-02-01", "2024-02-29"]});
        if atomic {
            let request = json!({"action": "post", "selector": selector(&february), "atomic": "per-preaggregation"});
            let tokens = server.post(JOBS, &request).value();
            let tokens: Vec<String> = serde_json::from_value(tokens).expect("tokens");
            assert_eq!(server.wait_jobs(&tokens), ["done"]);
        } else {
            build(&server, &february);
        }
        // At once, whether the copy is there yet or not.
        check_kinds(&server, 10 + factor as u64, [1, factor, 1]);
        wait_for_copies(&project, 6);
        check_kinds(&server, 20 + factor as u64, [1, factor, 1]);
    }
    let port = server.port().to_string();
    let back = quarry(&project, &[("PORT", &port)], &["rollback", "sales.main", "--partition", "2024-02-01"]);
    assert!(back.contains("2024-02-01"), "{back}");
    check_kinds(&server, 30, [1, 2, 1]);
    wait_for_copies(&project, 6);
    check_kinds(&server, 31, [1, 2, 1]);
    server.assert_alive();
}

#[test]
fn copies_are_made_only_when_asked_for_and_without_the_source() {
    let project = project(1);
    let server = Server::start_with(&project, &NO_COPIES);
    // Also in a zone that the background does not look after.
    build(&server, &json!({"timezones": ["UTC", "Europe/Berlin"]}));
    drop(server);
    assert_eq!(stored(&project).len(), 6);
    fs::remove_file(project.path().join("data/sales.csv")).expect("removable");
    // Killed at some moment: what is made stays, what is missing is made at the next start.
    for _ in 0..3 {
        Server::start_with(&project, &COPIES).kill();
    }
    let server = Server::start_with(&project, &COPIES);
    wait_for_copies(&project, 12);
    check_kinds(&server, 10, [1; 3]);
    let said = quarry(&project, &[], &["fsck"]);
    assert!(said.contains("18 file(s) read") && said.contains("0 fault(s)"), "{said}");
    drop(server);
    // Files alone are enough here, too.
    fs::remove_dir_all(project.path().join(".quarry/catalog")).expect("removable");
    quarry(&project, &[], &["fsck", "--repair"]);
    assert_eq!(count_copies(&project), 12);
    // Who does not ask for them does not read them.
    let server = Server::start_with(&project, &NO_COPIES);
    assert_eq!(copies_at_hand(&server, &kinds(9)), [json!(null); 0]);
    check_kinds(&server, 10, [1; 3]);
}

#[test]
fn a_build_at_the_command_line_waits_for_the_copies() {
    let project = project(1);
    quarry(&project, &COPIES, &["build"]);
    assert_eq!(count_copies(&project), 6);
}

#[test]
fn copies_are_verified_with_what_they_are_copies_of() {
    let project = project(1);
    quarry(&project, &COPIES, &["build"]);
    let said = quarry(&project, &COPIES, &["verify"]);
    assert!(said.contains("3 of 3 partition(s) equal their source"), "{said}");
    let is_copy = |path: &&std::path::PathBuf| path.to_string_lossy().contains(".kinds");
    let file = project.stored_files().iter().find(is_copy).expect("a copy").clone();
    let mut bytes = fs::read(&file).expect("readable");
    bytes[40] ^= 1;
    fs::write(&file, bytes).expect("writable");
    let output = run(project.path(), &[("CUBEJS_API_SECRET", SECRET), COPIES[1]], &["verify"]);
    let said = printed(&output);
    assert!(!output.status.success() && said.contains("2 of 3 partition(s)") && said.contains(".kinds"), "{said}");
}

#[test]
fn a_damaged_copy_is_left_aside() {
    let project = project(1);
    quarry(&project, &COPIES, &["build"]);
    let server = Server::start_with(&project, &COPIES);
    for (file, missing) in
        project.stored_files().iter().filter(|path| path.to_string_lossy().contains(".kinds")).zip([true, false])
    {
        let mut bytes = fs::read(file).expect("readable");
        bytes[40] ^= 1;
        if missing {
            fs::remove_file(file).expect("removable")
        } else {
            fs::write(file, bytes).expect("writable")
        }
        check_kinds(&server, if missing { 10 } else { 11 }, [1; 3]);
    }
    assert_eq!(server.log().matches("a copy for an index cannot be read").count(), 2, "{}", server.log());
}

#[test]
fn damage_is_not_copied() {
    let project = project(1);
    quarry(&project, &NO_COPIES, &["build"]);
    let file = project.stored_files().first().expect("three files").clone();
    let mut bytes = fs::read(&file).expect("readable");
    bytes[40] ^= 1;
    fs::write(&file, bytes).expect("writable");
    let server = Server::start_with(&project, &COPIES);
    wait_until("a warning", PATIENCE, || server.log().contains("failed to copy a partition").then_some(()));
    wait_for_copies(&project, 4);
    let reply = server.ask(&kinds(9));
    assert!(reply.status != 200 && reply.body.contains("rebuild the partition"), "{}: {}", reply.status, reply.body);
    build(&server, &json!({"dateRange": ["2024-01-01", "2024-01-31"]}));
    wait_for_copies(&project, 6);
    check_kinds(&server, 10, [1; 3]);
}
