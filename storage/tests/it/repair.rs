//! A store without its catalog, with an old one, or with a damaged one; backups.

use std::fs;
use std::path::Path;

use quarry_storage::{
    Copying, ErrorKind, Inspection, Partition, PartitionKey, Scope, StorageError, Store, StoreOptions, TableState,
    VersionChoice, backup, repair, restore,
};
use tempfile::TempDir;

use crate::support::*;

fn store_dir(dir: &TempDir) -> std::path::PathBuf {
    dir.path().join("store")
}

/// A store in which one partition was replaced, one rolled back and one is empty.
fn filled(dir: &TempDir) -> Vec<(PartitionKey, Partition)> {
    let store = Store::open(StoreOptions { keep_versions: 9, ..options(dir.path()) }).unwrap();
    let state = TableState { range: key("t", 1).bucket, complete: true };
    store.set_table_state(&table("t"), state).unwrap();
    publish(&store, &key("t", 1), 1, 10);
    publish(&store, &key("t", 1), 2, 20);
    publish(&store, &key("t", 2), 3, 30);
    publish(&store, &key("t", 2), 4, 40);
    store.rollback(&Scope::Partition(key("t", 2)), VersionChoice::Previous, 50).unwrap();
    publish(&store, &key("t", 3), 0, 60);
    let whole = PartitionKey { table: table("u"), bucket: None };
    let file = write(&store, &whole, 5);
    store.publish(publication(&whole, file, "a key", Vec::new()), 70).unwrap();
    everything(&store)
}

fn everything(store: &Store) -> Vec<(PartitionKey, Partition)> {
    let snapshot = store.snapshot();
    let of = |(id, table): (&quarry_storage::TableId, &std::sync::Arc<quarry_storage::Table>)| {
        let key = |live: &Partition| PartitionKey { table: id.clone(), bucket: live.bucket };
        table.partitions.values().map(|live| (key(live), live.as_ref().clone())).collect::<Vec<_>>()
    };
    snapshot.tables().flat_map(of).collect()
}

#[test]
fn a_lost_catalog_is_made_anew_from_the_files_alone() {
    let dir = tempfile::tempdir().unwrap();
    let before = filled(&dir);
    // A file that was never published, as a kill leaves it, is no part of it.
    let store = try_open(dir.path()).unwrap();
    std::mem::forget(write(&store, &key("t", 1), 9));
    drop(store);
    let count = files(dir.path()).len();
    fs::remove_dir_all(store_dir(&dir).join("catalog")).unwrap();
    // Started as it is, every file would be an orphan.
    let error = try_open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("quarry fsck --repair"), "{error}");
    assert_eq!(Inspection::open(&store_dir(&dir)).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(files(dir.path()).len(), count);

    let report = repair(&store_dir(&dir), 100).unwrap();
    assert!(report.is_rebuilt);
    assert_eq!((report.partitions, report.adopted.len(), report.versions), (4, 4, 3));
    assert_eq!(report.set_aside.len(), 1, "{report:?}");
    assert!(Inspection::open(&store_dir(&dir)).unwrap().check().unwrap().findings.is_empty());
    let store = try_open(dir.path()).unwrap();
    assert_eq!(everything(&store), before);
    let state = TableState { range: key("t", 1).bucket, complete: true };
    assert_eq!(store.snapshot().table(&table("t")).unwrap().state, state);
    // New names and numbers lie above all old ones.
    publish(&store, &key("t", 1), 7, 110);
    let newest = live(&store, &key("t", 1));
    assert!(before.iter().all(|(_, old)| old.sequence < newest.sequence && old.file < newest.file));
    // The second time there is nothing to do.
    drop(store);
    let report = repair(&store_dir(&dir), 120).unwrap();
    assert_eq!(
        (report.is_rebuilt, report.adopted.len(), report.dropped.len(), report.set_aside.len()),
        (false, 0, 0, 0)
    );
}

#[test]
fn a_damaged_catalog_is_kept_aside_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let before = filled(&dir);
    let catalog = store_dir(&dir).join("catalog");
    for entry in fs::read_dir(&catalog).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("MANIFEST") {
            fs::write(&path, "nonsense").unwrap();
        }
    }
    let error = try_open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("quarry fsck --repair"), "{error}");
    let report = repair(&store_dir(&dir), 100).unwrap();
    assert!(report.old_catalog.is_some_and(|old| old.is_dir()));
    assert_eq!(everything(&try_open(dir.path()).unwrap()), before);
}

#[test]
fn damaged_and_unknown_files_are_set_aside_and_the_rest_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let before = filled(&dir);
    let path = &before[0].1.path;
    let mut bytes = fs::read(path).unwrap();
    bytes[20] ^= 1;
    fs::write(path, bytes).unwrap();
    let report = repair(&store_dir(&dir), 100).unwrap();
    assert_eq!((report.partitions, report.dropped.len(), report.set_aside.len()), (3, 1, 1));
    assert!(report.set_aside[0].0.is_file() && !path.exists());
    assert_eq!(everything(&try_open(dir.path()).unwrap()), before[1..]);
}

#[test]
fn a_store_in_use_is_not_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    assert_eq!(repair(&store_dir(&dir), 1).unwrap_err().kind(), ErrorKind::Locked);
    drop(store);
    let nothing = tempfile::tempdir().unwrap();
    assert_eq!(repair(nothing.path(), 1).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(Inspection::open(nothing.path()).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn files_that_are_younger_than_the_catalog_stay_and_can_be_taken_in() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    publish(&store, &key("t", 1), 1, 0);
    let old = copy_of(dir.path());
    publish(&store, &key("t", 1), 2, 1);
    publish(&store, &key("t", 2), 3, 2);
    drop(store);
    let catalog = store_dir(&dir).join("catalog");
    fs::remove_dir_all(&catalog).unwrap();
    fs::rename(old.path().join("store/catalog"), &catalog).unwrap();
    // A start does not delete them, and gives no number twice.
    let store = open(&dir);
    assert_eq!(contents(&store), [("t 10".to_owned(), 1)]);
    assert_eq!(store.collect_garbage(5).unwrap().kept, 2);
    assert_eq!(store.versions().unwrap().len(), 2);
    assert!(store.snapshot().id().get() >= 3);
    drop(store);
    assert_eq!(files(dir.path()).len(), 3);
}

#[test]
fn partitions_whose_disk_is_away_come_back_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let before = filled(&dir);
    let (partitions, away) = (store_dir(&dir).join("partitions"), dir.path().join("away"));
    fs::rename(&partitions, &away).unwrap();
    let store = open(&dir);
    assert_eq!(everything(&store), []);
    store.collect_garbage(i64::MAX - 1).unwrap();
    drop(store);
    fs::remove_dir_all(&partitions).unwrap();
    fs::rename(&away, &partitions).unwrap();
    assert_eq!(everything(&open(&dir)), before);
}

#[test]
fn a_backup_taken_while_the_store_is_in_use_is_restored() {
    for copying in [Copying::LinkOrCopy, Copying::Copy] {
        let dir = tempfile::tempdir().unwrap();
        let before = filled(&dir);
        let store = open(&dir);
        let (saved, elsewhere) = (dir.path().join("saved"), tempfile::tempdir().unwrap());
        let report = backup(&store_dir(&dir), &saved, copying).unwrap();
        assert_eq!((report.files, report.linked), (4, if copying == Copying::Copy { 0 } else { 4 }));
        // Life goes on, and the backup does not notice.
        publish(&store, &key("t", 1), 8, 80);
        store.retain_tables(&|table| table.as_str() == "t", 81).unwrap();
        store.collect_garbage(i64::MAX - 1).unwrap();
        let report = restore(&saved, &elsewhere.path().join("store")).unwrap();
        assert_eq!((report.files, report.linked), (4, 0));
        let restored = try_open(elsewhere.path()).unwrap();
        let expected = before.iter().map(|(key, old)| {
            let path = elsewhere.path().join(old.path.strip_prefix(dir.path()).unwrap());
            (key.clone(), Partition { path, ..old.clone() })
        });
        assert_eq!(everything(&restored), expected.collect::<Vec<_>>());
        publish(&restored, &key("t", 1), 9, 90);
    }
}

#[track_caller]
fn check_restore(saved: &Path, to: &Path, kind: ErrorKind, text: &str) {
    let error: StorageError = restore(saved, to).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(text), "{error}");
    let siblings = fs::read_dir(to.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
    let left = siblings.filter(|name| name.to_str().unwrap().contains("restoring")).count();
    assert_eq!(left, 0, "something is left behind");
}

#[test]
fn only_whole_backups_go_into_empty_folders() {
    let dir = tempfile::tempdir().unwrap();
    let before = filled(&dir);
    let saved = dir.path().join("saved");
    backup(&store_dir(&dir), &saved, Copying::Copy).unwrap();
    assert_eq!(backup(&store_dir(&dir), &saved, Copying::Copy).unwrap_err().kind(), ErrorKind::Refused);
    check_restore(&saved, &store_dir(&dir), ErrorKind::Refused, "not empty");
    let to = dir.path().join("new");
    check_restore(&store_dir(&dir), &to, ErrorKind::Corrupt, "not a whole backup");
    let copied = saved.join(before[0].1.path.strip_prefix(store_dir(&dir)).unwrap());
    let bytes = fs::read(&copied).unwrap();
    let mut flipped = bytes.clone();
    flipped[20] ^= 1;
    fs::write(&copied, flipped).unwrap();
    check_restore(&saved, &to, ErrorKind::Corrupt, copied.to_str().unwrap());
    fs::remove_file(&copied).unwrap();
    check_restore(&saved, &to, ErrorKind::Corrupt, "is missing");
    assert!(!to.exists());
    fs::write(&copied, bytes).unwrap();
    restore(&saved, &to).unwrap();
    // What is damaged is not saved.
    fs::write(&before[0].1.path, "short").unwrap();
    let error = backup(&store_dir(&dir), &dir.path().join("second"), Copying::LinkOrCopy).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    check_restore(&dir.path().join("second"), &dir.path().join("third"), ErrorKind::Corrupt, "BACKUP");
}
