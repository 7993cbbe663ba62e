//! Stores of earlier formats are opened; those of later ones are refused. `storage/fixtures/` holds them as they were.

use std::fs;
use std::path::Path;

use quarry_storage::{ErrorKind, Inspection, JobState, NewJob, PartitionKey, TableState, repair};
use tempfile::TempDir;

use crate::support::*;

/// A copy of a stored fixture.
fn fixture(name: &str) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let to = to.join(path.file_name().unwrap());
            if path.is_dir() { copy(&path, &to) } else { assert!(fs::copy(&path, &to).is_ok()) }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name), &dir.path().join("store"));
    dir
}

#[test]
fn a_store_of_format_1_is_taken_over_with_all_that_it_holds() {
    let dir = fixture("format-1");
    // To look at it changes nothing.
    let inspection = Inspection::open(&dir.path().join("store")).unwrap();
    assert!(inspection.check().unwrap().findings.is_empty());
    drop(inspection);
    let store = open(&dir);
    let rows = [("t 10", 3), ("t 20", 0), ("t 30", 4), (&format!("u {}", i64::MIN), 5)];
    assert_eq!(contents(&store), rows.map(|(name, rows)| (name.to_owned(), rows)));
    let state = TableState { range: Some(quarry_storage::Bounds { start: 10, end: 40 }), complete: true };
    assert_eq!(store.snapshot().table(&table("t")).unwrap().state, state);
    let whole = live(&store, &PartitionKey { table: table("u"), bucket: None });
    assert_eq!((whole.refresh_key.as_str(), whole.built_at, whole.sequence, whole.held), ("key 7", 400, 0, false));
    let jobs = store.jobs().unwrap();
    let states: Vec<_> = jobs.iter().map(|job| (job.created_at, &job.state)).collect();
    let done = JobState::Done { file: live(&store, &key("t", 3)).file, output: None };
    let failed = JobState::Failed { cause: "no such table".into() };
    assert_eq!(states, [(530, &JobState::Queued), (520, &JobState::Queued), (510, &failed), (500, &done)]);
    // The replaced file is garbage as before, and no version, as too little is known of it.
    assert_eq!((store.versions().unwrap().len(), store.plan_garbage(700).unwrap().len()), (0, 1));
    // It works, and what is written from now on is of the new format.
    let taken = store.claim(600).unwrap().unwrap();
    publish(&store, &key("t", 1), 7, 601);
    assert_eq!(taken[0].attempt, 2);
    assert_eq!(store.versions().unwrap().len(), 1);
    drop(store);
    let store = open(&dir);
    assert_eq!(live(&store, &key("t", 1)).rows, 7);
    assert!(live(&store, &key("t", 1)).sequence > 0);
}

#[test]
fn a_store_of_format_2_is_taken_over_with_all_that_it_holds() {
    let dir = fixture("format-2");
    let store = open(&dir);
    assert_eq!(contents(&store), [("t 20".to_owned(), 4)]);
    let partition = live(&store, &key("t", 2));
    assert_eq!((partition.refresh_key.as_str(), partition.built_at, partition.held), ("key", 502, false));
    let jobs = store.jobs().unwrap();
    let states: Vec<_> = jobs.iter().map(|job| (job.created_at, job.state.clone(), job.group.is_some())).collect();
    let failed = JobState::Failed { cause: "no such table".into() };
    let expected = [
        (530, JobState::Queued, false),
        // It ran when the store was closed.
        (520, JobState::Queued, false),
        (510, JobState::Cancelled, false),
        (500, failed, false),
        (500, done(&partition), false),
    ];
    assert_eq!(states, expected);
    let grouped = NewJob { group: Some("g".into()), ..new_job(&key("t", 9), "g") };
    let id = store.enqueue(&[grouped], 600).unwrap().remove(0);
    drop(store);
    assert_eq!(open(&dir).find_job(&id).unwrap().unwrap().group.as_deref(), Some("g"));
}

#[test]
fn files_of_format_1_cannot_be_placed_without_their_catalog_and_are_set_aside() {
    let dir = fixture("format-1");
    fs::remove_dir_all(dir.path().join("store/catalog")).unwrap();
    assert_eq!(try_open(dir.path()).unwrap_err().kind(), ErrorKind::Corrupt);
    let report = repair(&dir.path().join("store"), 1).unwrap();
    assert_eq!((report.partitions, report.set_aside.len()), (0, 5));
    assert!(report.set_aside.iter().all(|(path, why)| path.is_file() && why.contains("older release")), "{report:?}");
    assert_eq!(contents(&open(&dir)), []);
}
