//! Previous versions: how long they stay, and how to go back to one.

use std::fs;
use std::time::Duration;

use quarry_storage::{ErrorKind, Fate, JobState, Scope, Store, StoreOptions, VersionChoice};
use tempfile::TempDir;

use crate::support::*;

const WINDOW_US: i64 = 10 * GRACE_US;

/// A store that keeps one version for ten times the grace.
fn keeping(dir: &TempDir, keep_versions: usize) -> Store {
    let rollback_window = Duration::from_micros(WINDOW_US.unsigned_abs());
    Store::open(StoreOptions { keep_versions, rollback_window, ..options(dir.path()) }).unwrap()
}

fn partition(bucket: i64) -> Scope {
    Scope::Partition(key("t", bucket))
}

#[test]
fn the_newest_previous_version_stays_for_its_window_and_older_ones_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = keeping(&dir, 1);
    for count in 1..=3 {
        publish(&store, &key("t", 1), count, i64::try_from(count).unwrap());
    }
    let fates = |now| store.plan_garbage(now).unwrap().iter().map(|file| file.fate).collect::<Vec<_>>();
    let in_grace = |since| Fate::InGrace { until: since + GRACE_US };
    assert_eq!(fates(4), [in_grace(2), in_grace(3)]);
    let kept = Fate::Version { until: 3 + WINDOW_US };
    assert_eq!(fates(3 + GRACE_US), [Fate::Superseded, kept]);
    let held = store.snapshot();
    let rows: Vec<u64> = store.versions().unwrap().iter().map(|version| version.rows).collect();
    assert_eq!(rows, [2, 1]);
    let report = store.collect_garbage(3 + GRACE_US).unwrap();
    assert_eq!((report.files, report.kept), (1, 1));
    publish(&store, &key("t", 1), 4, 4 + WINDOW_US);
    assert_eq!(fates(3 + 3 * WINDOW_US)[1], Fate::Read);
    drop(held);
    assert_eq!(fates(3 + 3 * WINDOW_US), [Fate::Superseded; 2]);
    // Of a table that is gone nothing is kept.
    store.retain_tables(&|_| false, 5).unwrap();
    assert_eq!(fates(4 + WINDOW_US + GRACE_US), [Fate::Dropped; 3]);
}

#[test]
fn a_rollback_walks_back_and_is_held_until_a_publish() {
    let dir = tempfile::tempdir().unwrap();
    let store = keeping(&dir, 3);
    let key = key("t", 1);
    for (count, now) in [(1, 10), (2, 20), (3, 30)] {
        let file = write(&store, &key, count);
        store.publish(publication(&key, file, &format!("key {count}"), Vec::new()), now).unwrap();
    }
    let before = live(&store, &key);
    let ids = store.enqueue(&[new_job(&key, "a")], 31).unwrap();
    let rolled_back = store.rollback(&partition(1), VersionChoice::Previous, 40).unwrap().remove(0);
    let now = live(&store, &key);
    assert_eq!((rolled_back.from.as_deref(), &rolled_back.to), (Some(&*before), &now));
    assert_eq!((now.rows, now.refresh_key.as_str(), now.built_at, now.held), (2, "key 2", 20, true));
    assert!(now.sequence > before.sequence && now.file > before.file);
    assert_eq!(rolled_back.cancelled, ids);
    assert_eq!(store.find_job(&ids[0]).unwrap().unwrap().state, JobState::Cancelled);
    // Once more; and all of it is still so after a restart.
    assert_eq!(store.rollback(&partition(1), VersionChoice::Previous, 41).unwrap()[0].to.rows, 1);
    let error = store.rollback(&partition(1), VersionChoice::Previous, 42).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("quarry partitions --versions"), "{error}");
    drop(store);
    let store = keeping(&dir, 3);
    assert_eq!((live(&store, &key).rows, live(&store, &key).held), (1, true));
    // Forward again, by name.
    let newest = store.versions().unwrap().into_iter().find(|version| version.rows == 3).unwrap();
    assert_eq!((newest.built_at, newest.replaced_at), (30, Some(40)));
    store.rollback(&partition(1), VersionChoice::File(newest.file), 43).unwrap();
    assert_eq!(live(&store, &key).rows, 3);
    publish(&store, &key, 4, 44);
    assert!(!live(&store, &key).held);
}

#[test]
fn a_table_goes_back_to_a_moment_in_one_step() {
    let dir = tempfile::tempdir().unwrap();
    let store = keeping(&dir, 1);
    for bucket in 1..=3 {
        publish(&store, &key("t", bucket), 1, 10);
    }
    publish(&store, &key("t", 1), 2, 20);
    publish(&store, &key("t", 2), 2, 30);
    let table = Scope::Table(table("t"));
    let id = store.snapshot().id();
    assert_eq!(store.rollback(&table, VersionChoice::BuiltBefore(40), 50).unwrap().len(), 0);
    assert_eq!(store.snapshot().id(), id);
    let rolled_back = store.rollback(&table, VersionChoice::BuiltBefore(25), 51).unwrap();
    assert_eq!(rolled_back.iter().map(|one| &one.partition).collect::<Vec<_>>(), [&key("t", 2)]);
    assert_eq!(contents(&store).iter().map(|(_, rows)| *rows).collect::<Vec<_>>(), [2, 1, 1]);
    let rolled_back = store.rollback(&table, VersionChoice::BuiltBefore(15), 52).unwrap();
    assert_eq!(rolled_back.len(), 1);
    assert!(contents(&store).iter().all(|(_, rows)| *rows == 1));
    let unknown = Scope::Table(crate::support::table("u"));
    assert_eq!(store.rollback(&unknown, VersionChoice::Previous, 53).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_damaged_version_is_not_gone_back_to() {
    let dir = tempfile::tempdir().unwrap();
    let store = keeping(&dir, 1);
    publish(&store, &key("t", 1), 100, 1);
    let old = live(&store, &key("t", 1)).path.clone();
    publish(&store, &key("t", 1), 2, 2);
    let mut bytes = fs::read(&old).unwrap();
    bytes[20] ^= 1;
    fs::write(&old, bytes).unwrap();
    let error = store.rollback(&partition(1), VersionChoice::Previous, 3).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(old.to_str().unwrap()), "{error}");
    assert_eq!(live(&store, &key("t", 1)).rows, 2);
    assert_eq!(files(dir.path()).len(), 2, "no copy is left");
}
