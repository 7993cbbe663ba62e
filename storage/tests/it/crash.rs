//! Stops at every step, by a copy of the folder and by a real kill: the old state or the new one, never both.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use quarry_storage::{ErrorKind, JobState, Store};

use crate::support::*;

/// Opens what a crash left: nothing but what the records name is there, and the store works.
#[track_caller]
fn check(crashed: &Path, rows: u64, expected_files: usize, job: &JobState) {
    let store = try_open(crashed).unwrap();
    assert_eq!(contents(&store), [("t 10".to_owned(), rows)]);
    assert_eq!(files(crashed).len(), expected_files);
    assert_eq!(&store.jobs().unwrap()[0].state, job);
    assert_eq!(fs::metadata(&live(&store, &key("t", 1)).path).unwrap().len(), live(&store, &key("t", 1)).size_bytes);
    // The job that was running is taken up again; a new file gets a new name.
    let before = files(crashed);
    if let Some(jobs) = store.claim(50).unwrap() {
        let file = write(&store, &key("t", 1), 7);
        store.publish(publication(&key("t", 1), file, "", leases(&jobs)), 51).unwrap();
        assert!(!before.contains(&live(&store, &key("t", 1)).path));
    }
    store.collect_garbage(i64::MAX).unwrap();
    assert_eq!(files(crashed), [live(&store, &key("t", 1)).path.clone()]);
}

#[test]
fn a_crash_at_any_step_of_a_build_leaves_the_old_or_the_new_state() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let key = key("t", 1);
    publish(&store, &key, 1, 0);
    store.enqueue(&[new_job(&key, "a")], 1).unwrap();
    let queued = copy_of(dir.path());
    let jobs = store.claim(2).unwrap().unwrap();
    let claimed = copy_of(dir.path());
    let mut writer = store.writer(&key, schema(), Some("t")).unwrap();
    let created = copy_of(dir.path());
    writer.write(&rows(&[10, 11])).unwrap();
    let written = copy_of(dir.path());
    let file = writer.finish().unwrap();
    let finished = copy_of(dir.path());
    store.publish(publication(&key, file, "", leases(&jobs)), 3).unwrap();
    let published = copy_of(dir.path());
    let held = store.snapshot();
    assert_eq!(store.collect_garbage(2 * GRACE_US).unwrap().files, 1);
    let collected = copy_of(dir.path());

    for crashed in [queued, claimed, created, written, finished] {
        check(crashed.path(), 1, 1, &JobState::Queued);
    }
    let done = done(&find(&held, &key).unwrap());
    check(published.path(), 2, 2, &done);
    check(collected.path(), 2, 1, &done);
}

#[test]
fn a_file_finished_and_then_forgotten_is_collected_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let writer = store.writer(&key("t", 1), schema(), None).unwrap();
    let file = write(&store, &key("t", 1), 1);
    // As a killed process would: no destructor runs.
    std::mem::forget((writer, file));
    assert_eq!(files(dir.path()).len(), 2);
    drop(store);
    let store = open(&dir);
    assert_eq!(files(dir.path()), Vec::<PathBuf>::new());
    assert_eq!(store.snapshot().tables().count(), 0);
}

#[test]
fn a_restored_old_catalog_never_reuses_a_name_of_a_younger_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    publish(&store, &key("t", 1), 1, 0);
    let backup = copy_of(dir.path());
    // More files than one block of reserved ids.
    (0..70).for_each(|count| drop(write(&store, &key("t", 1), count)));
    publish(&store, &key("t", 1), 2, 0);
    let young = live(&store, &key("t", 1)).path.clone();
    drop(store);
    fs::remove_dir_all(dir.path().join("store/catalog")).unwrap();
    fs::rename(backup.path().join("store/catalog"), dir.path().join("store/catalog")).unwrap();
    let store = open(&dir);
    assert_eq!(contents(&store), [("t 10".to_owned(), 1)]);
    assert!(young.exists(), "it may be all that is left of what was published");
    publish(&store, &key("t", 1), 3, 0);
    assert!(live(&store, &key("t", 1)).path > young);
}

/// Names the folder for [`child_process`].
const CHILD_DIR: &str = "QUARRY_STORAGE_CRASH_TEST_DIR";

/// Not a test of its own: what the killed process runs. Publishes generation after generation of three
/// partitions, a job each, and says so.
#[test]
fn child_process() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let store = try_open(Path::new(&dir)).unwrap();
    let mut out = std::io::stdout();
    writeln!(out, "\nopened").unwrap();
    let first = 1 + store
        .snapshot()
        .tables()
        .flat_map(|(_, table)| table.partitions.values())
        .map(|p| generation(&p.refresh_key))
        .max()
        .unwrap_or(0);
    for now in first.. {
        for bucket in 0..3 {
            let key = key("t", bucket);
            store.enqueue(&[new_job(&key, "a")], now).unwrap();
            let jobs = store.claim(now).unwrap().unwrap();
            let key = jobs[0].partition.clone();
            let file = write(&store, &key, 100);
            let publish = publication(&key, file, &now.to_string(), leases(&jobs));
            store.publish(publish, now).unwrap();
            writeln!(out, "published {now}").unwrap();
        }
        store.collect_garbage(now).unwrap();
    }
}

fn generation(refresh_key: &str) -> i64 {
    refresh_key.parse().unwrap()
}

#[test]
fn a_killed_process_loses_nothing_that_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_process", "--nocapture", "--test-threads=1"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.by_ref().any(|line| line == "opened"), "the child could not open the store");
        assert_eq!(try_open(dir.path()).unwrap_err().kind(), ErrorKind::Locked);
        let published = |line: &String| line.strip_prefix("published ").map(generation);
        // A different number of steps each time, and somewhere inside of the next one.
        lines.by_ref().filter_map(|line| published(&line)).nth(3 + round * 2).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died, but after we stopped listening, counts as well.
        let acknowledged = lines.filter_map(|line| published(&line)).last();

        let store: Store = open(&dir);
        let snapshot = store.snapshot();
        let partitions: Vec<_> = snapshot.table(&table("t")).unwrap().partitions.values().collect();
        assert_eq!(partitions.len(), 3);
        for partition in &partitions {
            let bytes = fs::read(&partition.path).unwrap();
            assert_eq!(partition.checksum, xxhash_rust::xxh3::xxh3_64(&bytes));
            assert_eq!(partition.rows, 100);
        }
        let newest = partitions.iter().map(|partition| generation(&partition.refresh_key)).max();
        assert!(newest >= acknowledged, "{newest:?} is older than {acknowledged:?}");
        // Each job is done, or waits again; none is lost in between.
        for job in store.jobs().unwrap() {
            assert!(matches!(job.state, JobState::Done { .. } | JobState::Queued), "{job:?}");
        }
        store.collect_garbage(i64::MAX).unwrap();
        assert_eq!(files(dir.path()).len(), 3, "an orphan is left");
    }
}
