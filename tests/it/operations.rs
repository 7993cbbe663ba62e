//! The operator's commands on a store, with and without a server: what is published, back, away, checked and saved.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::events::{Month, events_project, seen_months, selector, write_events};
use crate::server::{ALL_SCOPES, Project, SECRET, Server, printed, run};

const MONTHS: [&str; 2] = ["2024-01", "2024-02"];
const LAST_DAY: &str = "2024-02-29";

/// Runs a command in the project's folder, with its secret.
fn quarry(project: &Project, args: &[&str]) -> Output {
    run(project.path(), &[("CUBEJS_API_SECRET", SECRET)], args)
}

#[track_caller]
fn succeed(project: &Project, args: &[&str]) -> String {
    let output = quarry(project, args);
    assert!(output.status.success(), "{args:?}:\n{}", printed(&output));
    String::from_utf8(output.stdout).expect("plain text")
}

#[track_caller]
fn fail(project: &Project, args: &[&str], text: &str) {
    let output = quarry(project, args);
    let said = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{args:?}:\n{said}");
    assert!(said.contains(text) && !said.contains("panicked"), "{args:?} lacks '{text}':\n{said}");
}

fn write_generation(project: &Project, generation: i64) {
    write_events(project, &MONTHS.map(|name| Month { name, rows: 30, generation }));
}

/// A project whose monthly rollup was built in two generations.
fn built_twice() -> Project {
    let project = events_project(&MONTHS, 30);
    succeed(&project, &["build", "events.monthly"]);
    write_generation(&project, 2);
    succeed(&project, &["build", "events.monthly"]);
    project
}

fn partitions(project: &Project, more: &[&str]) -> Vec<Value> {
    let text = succeed(project, &[&["partitions", "events.monthly", "--json"], more].concat());
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    value.as_array().expect("an array").clone()
}

fn generations(server: &Server) -> Vec<i64> {
    seen_months(server, LAST_DAY).iter().map(|month| month.generation()).collect()
}

/// The stored files below a folder.
fn parquet_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            found.extend(parquet_files(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "parquet") {
            found.push(entry);
        }
    }
    found.sort();
    found
}

#[test]
fn every_command_teaches_itself() {
    let project = Project::empty();
    for command in ["partitions", "rollback", "gc", "fsck", "backup", "restore"] {
        let help = succeed(&project, &[command, "--help"]);
        assert!(help.contains("--project"), "{command}:\n{help}");
    }
    for command in [&["partitions"][..], &["fsck"], &["fsck", "--repair"], &["gc", "--dry-run"], &["backup", "saved"]] {
        fail(&project, command, "there is no store in");
    }
}

#[test]
fn partitions_are_listed_and_rolled_back_without_a_server() {
    let project = built_twice();
    let live = partitions(&project, &[]);
    let seen: Vec<_> = live.iter().map(|one| (one["partition"].clone(), one["state"].clone())).collect();
    assert_eq!(seen, [(json!("2024-01-01"), json!("live")), (json!("2024-02-01"), json!("live"))]);
    assert!(live.iter().all(|one| one["rows"].as_u64() > Some(0) && one["rollup"] == "events.monthly"));
    assert_eq!(partitions(&project, &["--versions"]).len(), 4);
    assert!(succeed(&project, &["partitions"]).contains("2024-02-01"));
    fail(&project, &["partitions", "events.nope"], "there is: events.monthly");

    let kept = succeed(&project, &["gc", "--dry-run"]);
    assert!(kept.contains("keep") && kept.contains("would delete 0 file(s)"), "{kept}");
    let said = succeed(&project, &["rollback", "events.monthly", "--partition", "2024-01-01"]);
    assert!(said.contains("2024-01-01") && said.contains("held"), "{said}");
    assert_eq!(partitions(&project, &[])[0]["state"], "held");
    fail(&project, &["rollback", "events.monthly", "--partition", "2024-01-01"], "quarry partitions --versions");
    fail(&project, &["rollback", "events.monthly", "--partition", "2023-01-01"], "has no partition");
    fail(&project, &["rollback", "events.nope"], "quarry partitions");
    let server = Server::start(&project);
    assert_eq!(generations(&server), [1, 2]);
    drop(server);
    // A build lets go of it.
    succeed(&project, &["build", "events.monthly"]);
    assert_eq!(partitions(&project, &[])[0]["state"], "live");
    let none = [("CUBEJS_API_SECRET", SECRET), ("QUARRY_KEEP_VERSIONS", "0"), ("QUARRY_GC_GRACE", "0")];
    let output = run(project.path(), &none, &["gc"]);
    assert!(output.status.success() && printed(&output).contains("; 0 stay"), "{}", printed(&output));
    assert_eq!(partitions(&project, &["--versions"]).len(), 2);
}

#[test]
fn a_running_server_rolls_back_and_collects_when_asked() {
    let project = built_twice();
    let server = Server::start_with_jobs(&project);
    let port = server.port().to_string();
    let settings = [("CUBEJS_API_SECRET", SECRET), ("PORT", port.as_str())];
    let output = run(project.path(), &settings, &["rollback", "events.monthly"]);
    assert!(output.status.success(), "{}", printed(&output));
    assert_eq!(generations(&server), [1, 1]);
    let output = run(project.path(), &settings, &["gc"]);
    assert!(output.status.success() && printed(&output).contains("deleted 0 file(s)"), "{}", printed(&output));
    // What a client gets wrong is told.
    let table = partitions(&project, &[])[0]["table"].clone();
    for (body, status, text) in [
        (json!({}), 400, "\"table\" is required"),
        (json!({"table": "../x"}), 400, "not a table's name"),
        (json!({"table": table, "bucket": 1}), 400, "\"bucket\" is not allowed"),
        (json!({"table": table, "partition": "2020-01-01"}), 400, "has no partition"),
        (json!({"table": table, "version": "x", "partition": "2024-01-01"}), 400, "not a version"),
        (json!({"table": table, "before": "yesterday"}), 400, "not a time"),
        (json!({"table": "nothing@UTC-0"}), 404, "no such version"),
    ] {
        let reply = server.post("/quarry/v1/rollback", &body);
        assert_eq!(reply.status, status, "{body}: {}", reply.body);
        assert!(reply.body.contains(text.replace('"', "\\\"").as_str()), "{body}: {}", reply.body);
    }
    // A job builds it again.
    server.build(&selector(&json!({"preAggregations": ["events.monthly"]})));
    assert_eq!(generations(&server), [2, 2]);
    server.assert_alive();
    // Without the scope the server says no, and the command why.
    drop(server);
    let server = Server::start_with(&project, &[("CUBEJS_DEFAULT_API_SCOPES", "meta,data")]);
    let port = server.port().to_string();
    let settings = [("CUBEJS_API_SECRET", SECRET), ("PORT", port.as_str())];
    let output = run(project.path(), &settings, &["gc"]);
    assert!(!output.status.success() && printed(&output).contains(ALL_SCOPES), "{}", printed(&output));
}

#[test]
fn damage_is_found_and_a_lost_catalog_is_made_anew() {
    let project = built_twice();
    let said = succeed(&project, &["fsck"]);
    assert!(said.contains("4 file(s) read") && said.contains("0 fault(s)"), "{said}");
    let store = project.path().join(".quarry");
    fs::remove_dir_all(store.join("catalog")).expect("a catalog");
    fail(&project, &["fsck"], "quarry fsck --repair");
    fail(&project, &["build", "events.monthly"], "quarry fsck --repair");
    assert_eq!(parquet_files(&store).len(), 4, "nothing was deleted");
    let said = succeed(&project, &["fsck", "--repair"]);
    assert!(said.contains("made anew: 2 partition(s) live, 2 previous version(s)"), "{said}");
    let server = Server::start(&project);
    assert_eq!(generations(&server), [2, 2]);
    drop(server);

    let newest = parquet_files(&store).pop().expect("a file");
    let mut bytes = fs::read(&newest).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&newest, bytes).expect("writable");
    fail(&project, &["fsck"], newest.to_str().expect("a plain name"));
    let said = succeed(&project, &["fsck", "--repair"]);
    assert!(said.contains("lost: ") && said.contains("set aside: "), "{said}");
    succeed(&project, &["build", "events.monthly"]);
    succeed(&project, &["fsck"]);
}

#[test]
fn a_backup_of_a_serving_store_is_restored_into_an_empty_one() {
    let project = built_twice();
    let server = Server::start_with_jobs(&project);
    let said = succeed(&project, &["backup", "saved"]);
    assert!(said.contains("all verified"), "{said}");
    fail(&project, &["backup", "saved"], "is not empty");
    fail(&project, &["fsck", "--repair"], "needs the server stopped");
    write_generation(&project, 3);
    server.build(&selector(&json!({"preAggregations": ["events.monthly"]})));
    assert_eq!(generations(&server), [3, 3]);
    drop(server);
    fail(&project, &["restore", "saved"], "is not empty");
    fs::remove_dir_all(project.path().join(".quarry")).expect("a store");
    let said = succeed(&project, &["restore", "saved"]);
    assert!(said.contains("restored snapshot"), "{said}");
    succeed(&project, &["fsck"]);
    let server = Server::start(&project);
    assert_eq!(generations(&server), [2, 2]);
}
