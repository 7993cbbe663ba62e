//! What a publish checks, changes and leaves alone.

use std::fs;
use std::sync::Arc;

use quarry_storage::{
    Bounds, CancelOutcome, ErrorKind, Gate, JobState, Lease, PartitionKey, Publish, StorageError, Store, TableState,
};
use tempfile::TempDir;

use crate::support::*;

fn setup() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    (dir, store)
}

/// A refused publish changes nothing and leaves no file.
#[track_caller]
fn check_refused(dir: &TempDir, store: &Store, publish: Publish, kind: ErrorKind, text: &str) -> StorageError {
    let (before, jobs) = (store.snapshot(), store.jobs().unwrap());
    let live_files = before.tables().map(|(_, table)| table.partitions.len()).sum::<usize>();
    let error = store.publish(publish, 1).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(text), "{error}");
    assert!(Arc::ptr_eq(&before, &store.snapshot()));
    assert_eq!(store.jobs().unwrap(), jobs);
    assert_eq!(files(dir.path()).len(), live_files);
    error
}

#[test]
fn a_published_partition_is_in_the_snapshot_with_all_that_is_known_of_it() {
    let (dir, store) = setup();
    let key = key("t", 1);
    let before = store.snapshot();
    let file = write_times(&store, &key, &[13, 11, 12]);
    let id = store.publish(publication(&key, file, "v1", Vec::new()), 77).unwrap();
    let (snapshot, partition) = (store.snapshot(), live(&store, &key));
    assert_eq!(snapshot.id(), id);
    assert!(id > before.id());
    assert_eq!(find(&before, &key), None);
    assert_eq!((partition.bucket, partition.rows, partition.time_bounds), (key.bucket, 3, Some((11, 13))));
    assert_eq!((partition.refresh_key.as_str(), partition.built_at, partition.build_ms), ("v1", 77, 1));
    let bytes = fs::read(&partition.path).unwrap();
    assert_eq!(partition.size_bytes, bytes.len() as u64);
    assert_eq!(partition.checksum, xxhash_rust::xxh3::xxh3_64(&bytes));
    assert!(partition.path.is_absolute());
    assert_eq!(files(dir.path()), std::slice::from_ref(&partition.path));
    // And so it is after the next start.
    drop(store);
    let store = open(&dir);
    assert_eq!(live(&store, &key), partition);
    assert_eq!(store.snapshot().id(), id);
}

#[test]
fn a_replaced_file_stays_until_its_grace_is_over_and_no_snapshot_holds_it() {
    let (dir, store) = setup();
    let key = key("t", 1);
    publish(&store, &key, 1, 1000);
    let held = store.snapshot();
    let old = live(&store, &key).path.clone();
    publish(&store, &key, 2, 2000);
    assert_eq!(find(&held, &key).unwrap().rows, 1);
    assert_eq!(live(&store, &key).rows, 2);

    let report = store.collect_garbage(2000 + 10 * GRACE_US).unwrap();
    assert_eq!((report.files, report.kept), (0, 1));
    assert!(old.exists());
    drop(held);
    assert_eq!(store.collect_garbage(2000 + GRACE_US - 1).unwrap().kept, 1);
    assert!(old.exists());
    let size_bytes = fs::metadata(&old).unwrap().len();
    let report = store.collect_garbage(2000 + GRACE_US).unwrap();
    assert_eq!((report.files, report.size_bytes, report.kept), (1, size_bytes, 0));
    assert_eq!(files(dir.path()), [live(&store, &key).path.clone()]);
    assert_eq!(store.collect_garbage(i64::MAX).unwrap(), quarry_storage::GcReport::default());
}

#[test]
fn a_partition_held_without_its_snapshot_keeps_its_file_too() {
    let (_dir, store) = setup();
    let key = key("t", 1);
    publish(&store, &key, 1, 0);
    let held = live(&store, &key);
    publish(&store, &key, 2, 0);
    assert_eq!(store.collect_garbage(i64::MAX).unwrap().kept, 1);
    assert!(held.path.exists());
}

#[test]
fn garbage_outlives_a_restart_and_an_interrupted_collection() {
    let (dir, store) = setup();
    let key = key("t", 1);
    (1..=3).for_each(|count| publish_at(&store, &key, count));
    let garbage: Vec<_> = files(dir.path()).into_iter().filter(|path| *path != live(&store, &key).path).collect();
    assert_eq!(garbage.len(), 2);
    drop(store);
    // The file is deleted, its record is not yet: a crash in the middle of a collection.
    fs::remove_file(&garbage[0]).unwrap();
    let store = open(&dir);
    assert_eq!(store.collect_garbage(0).unwrap().kept, 1);
    // Missing when it is to be deleted: fine as well.
    fs::remove_file(&garbage[1]).unwrap();
    let report = store.collect_garbage(i64::MAX).unwrap();
    assert_eq!((report.files, report.kept), (0, 0));
    assert_eq!(contents(&store), [("t 10".to_owned(), 3)]);
}

fn publish_at(store: &Store, key: &PartitionKey, count: usize) {
    publish(store, key, count, 0);
}

#[test]
fn a_file_that_changed_on_disk_is_refused() {
    let (dir, store) = setup();
    let key = key("t", 1);
    publish(&store, &key, 1, 0);
    let new_path = |store: &Store| {
        let live = live(store, &key).path.clone();
        files(dir.path()).into_iter().find(|path| *path != live).unwrap()
    };
    // Every region of the file: data, statistics, footer.
    for place in [0, 4, 40, 200, usize::MAX] {
        let file = write(&store, &key, 100);
        let path = new_path(&store);
        let mut bytes = fs::read(&path).unwrap();
        let place = place.min(bytes.len() - 1);
        bytes[place] ^= 0x10;
        fs::write(&path, bytes).unwrap();
        let publish = publication(&key, file, "", Vec::new());
        let error = check_refused(&dir, &store, publish, ErrorKind::Corrupt, "its checksum is not that");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert!(error.to_string().contains("rebuild the partition with `quarry build`"), "{error}");
    }
    let file = write(&store, &key, 100);
    let path = new_path(&store);
    fs::write(&path, "short").unwrap();
    check_refused(&dir, &store, publication(&key, file, "", Vec::new()), ErrorKind::Corrupt, "it has 5 bytes");
    let file = write(&store, &key, 100);
    fs::remove_file(new_path(&store)).unwrap();
    check_refused(&dir, &store, publication(&key, file, "", Vec::new()), ErrorKind::NotFound, "cannot open");
}

#[test]
fn rows_outside_of_the_bucket_are_refused() {
    let (dir, store) = setup();
    let key = key("t", 1);
    for times in [&[9, 10][..], &[10, 20], &[-1], &[i64::MAX]] {
        let publish = publication(&key, write_times(&store, &key, times), "", Vec::new());
        check_refused(&dir, &store, publish, ErrorKind::Refused, "lie outside of it");
    }
    let nulls = arrow::array::TimestampMicrosecondArray::from(vec![Some(10), None]);
    let numbers = arrow::array::Int64Array::from(vec![1, 2]);
    let batch = arrow::record_batch::RecordBatch::try_new(schema(), vec![Arc::new(nulls), Arc::new(numbers)]).unwrap();
    let mut writer = store.writer(&key, schema(), Some("t")).unwrap();
    writer.write(&batch).unwrap();
    let publish = publication(&key, writer.finish().unwrap(), "", Vec::new());
    check_refused(&dir, &store, publish, ErrorKind::Refused, "1 rows of t 19700101T000000.000010 have no time");

    let publish = publication(&key, write_times(&store, &key, &[10, 19]), "", Vec::new());
    store.publish(publish, 0).unwrap();
    // Without bucket every time is inside.
    let all = PartitionKey { table: table("u"), bucket: None };
    let publish = publication(&all, write_times(&store, &all, &[i64::MIN, i64::MAX]), "", Vec::new());
    store.publish(publish, 0).unwrap();
    assert_eq!(live(&store, &all).time_bounds, Some((i64::MIN, i64::MAX)));
}

#[test]
fn empty_over_rows_needs_the_gate_open() {
    let (dir, store) = setup();
    let key = key("t", 1);
    publish(&store, &key, 0, 0);
    assert_eq!(live(&store, &key).rows, 0);
    publish(&store, &key, 5, 0);
    store.collect_garbage(i64::MAX).unwrap();
    let empty = || publication(&key, write(&store, &key, 0), "", Vec::new());
    check_refused(&dir, &store, empty(), ErrorKind::Refused, "gave no rows for t 19700101T000000.000010, which has 5");
    store.publish(Publish { gate: Gate::Open, ..empty() }, 0).unwrap();
    assert_eq!(live(&store, &key).rows, 0);
}

#[test]
fn partitions_of_one_table_never_overlap() {
    let (dir, store) = setup();
    publish(&store, &key("t", 1), 1, 0);
    let wide =
        PartitionKey { table: table("t"), bucket: key("t", 1).bucket.map(|b| quarry_storage::Bounds { end: 30, ..b }) };
    let whole = PartitionKey { table: table("t"), bucket: None };
    for other in [wide, whole] {
        let publish = publication(&other, write_times(&store, &other, &[10]), "", Vec::new());
        check_refused(&dir, &store, publish, ErrorKind::Refused, "overlaps t 19700101T000000.000010");
    }
    publish(&store, &key("t", 2), 1, 0);
    publish(&store, &key("t", 0), 1, 0);
}

#[test]
fn a_file_is_published_only_as_what_it_was_written_for() {
    let (dir, store) = setup();
    let publish = publication(&key("t", 2), write(&store, &key("t", 1), 1), "", Vec::new());
    check_refused(&dir, &store, publish, ErrorKind::Bug, "does not belong to t 19700101T000000.000020");
    let (other_dir, other) = setup();
    let publish = publication(&key("t", 1), write(&other, &key("t", 1), 1), "", Vec::new());
    check_refused(&dir, &store, publish, ErrorKind::Bug, "does not belong");
    assert_eq!(files(other_dir.path()).len(), 0);
}

#[test]
fn buckets_must_be_ranges() {
    let (dir, store) = setup();
    for (start, end) in [(5, 5), (5, 4), (i64::MIN, 0)] {
        let bucket = Some(quarry_storage::Bounds { start, end });
        let error = store.writer(&PartitionKey { table: table("t"), bucket }, schema(), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bug, "{start}..{end}");
    }
    assert_eq!(files(dir.path()).len(), 0);
}

#[test]
fn jobs_are_done_in_the_batch_that_publishes() {
    let (_dir, store) = setup();
    let key = key("t", 1);
    let ids = store.enqueue(&[new_job(&key, "a"), new_job(&key, "b")], 1).unwrap();
    let jobs = store.claim(2).unwrap().unwrap();
    let file = write(&store, &key, 1);
    store.publish(publication(&key, file, "", leases(&jobs)), 9).unwrap();
    let done = done(&live(&store, &key));
    for id in &ids {
        let job = store.find_job(id).unwrap().unwrap();
        assert_eq!((job.state, job.ended_at), (done.clone(), Some(9)));
    }
}

#[test]
fn a_job_that_does_not_run_any_more_cannot_publish() {
    let (dir, store) = setup();
    let (key, other) = (key("t", 1), key("t", 2));
    let attempt = |jobs: &[Lease]| publication(&key, write(&store, &key, 1), "", jobs.to_vec());
    let text = "does not build t 19700101T000000.000010 any more";
    let ids = store.enqueue(&[new_job(&key, "a")], 1).unwrap();
    check_refused(&dir, &store, attempt(&first_leases(&ids)), ErrorKind::Conflict, text);
    let failed = leases(&store.claim(2).unwrap().unwrap());
    store.fail(&failed, "no", 3).unwrap();
    check_refused(&dir, &store, attempt(&failed), ErrorKind::Conflict, text);

    // One good job does not carry one of another partition, nor one that nobody knows.
    store.enqueue(&[new_job(&key, "a")], 4).unwrap();
    let good = leases(&store.claim(5).unwrap().unwrap());
    store.enqueue(&[new_job(&other, "a")], 6).unwrap();
    let foreign = leases(&store.claim(7).unwrap().unwrap());
    check_refused(&dir, &store, attempt(&[good.clone(), foreign].concat()), ErrorKind::Conflict, text);
    let unknown = first_leases(&[quarry_storage::JobId::from_token("nobody")]);
    check_refused(&dir, &store, attempt(&[good.clone(), unknown].concat()), ErrorKind::Conflict, "job nobody");
    let stale: Vec<Lease> = good.iter().map(|lease| Lease { attempt: 0, ..lease.clone() }).collect();
    check_refused(&dir, &store, attempt(&stale), ErrorKind::Conflict, text);
    store.publish(attempt(&good), 8).unwrap();
    assert!(store.publish(attempt(&good), 9).is_err());
}

#[test]
fn a_cancelled_job_cannot_publish_and_does_not_stop_the_others_of_its_build() {
    let (dir, store) = setup();
    let key = key("t", 1);
    let attempt = |jobs: &[Lease]| publication(&key, write(&store, &key, 1), "", jobs.to_vec());
    let ids = store.enqueue(&[new_job(&key, "a"), new_job(&key, "b")], 1).unwrap();
    let held = leases(&store.claim(2).unwrap().unwrap());
    let outcomes = store.cancel(&ids, 3).unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, CancelOutcome::WasRunning(_))), "{outcomes:?}");
    check_refused(&dir, &store, attempt(&held), ErrorKind::Conflict, "nothing was published");

    // The partition is free at once; the old worker cannot publish in the new one's place.
    let ids = store.enqueue(&[new_job(&key, "a"), new_job(&key, "b")], 4).unwrap();
    let next = leases(&store.claim(5).unwrap().unwrap());
    check_refused(&dir, &store, attempt(&held), ErrorKind::Conflict, "nothing was published");
    store.cancel(&ids[..1], 6).unwrap();
    store.publish(attempt(&next), 7).unwrap();
    let states = ids.iter().map(|id| store.find_job(id).unwrap().unwrap().state).collect::<Vec<_>>();
    assert_eq!(states, [JobState::Cancelled, done(&live(&store, &key))]);
}

#[test]
fn table_states_are_kept_and_repeating_one_is_free() {
    let (dir, store) = setup();
    let state = TableState { range: key("t", 1).bucket, complete: true };
    let id = store.snapshot().id();
    store.set_table_state(&table("t"), state).unwrap();
    let snapshot = store.snapshot();
    assert!(snapshot.id() > id);
    store.set_table_state(&table("t"), state).unwrap();
    assert!(Arc::ptr_eq(&snapshot, &store.snapshot()));
    // A table without partitions and with nothing known of it is a table, too.
    store.set_table_state(&table("u"), TableState::default()).unwrap();
    publish(&store, &key("t", 1), 1, 0);
    drop(store);
    let store = open(&dir);
    assert_eq!(store.snapshot().table(&table("t")).unwrap().state, state);
    assert_eq!(store.snapshot().tables().count(), 2);
}

#[test]
fn partitions_that_a_table_claims_no_more_are_dropped() {
    let (dir, store) = setup();
    for number in 1..=3 {
        publish(&store, &key("t", number), 1, 0);
    }
    let range = |first, last| {
        let bucket = |number| key("t", number).bucket.unwrap();
        Some(Bounds { start: bucket(first).start, end: bucket(last).end })
    };
    let starts = |store: &Store| store.snapshot().table(&table("t")).unwrap().partitions.len();
    store.set_table_state(&table("t"), TableState { range: range(1, 3), complete: true }).unwrap();
    assert_eq!(starts(&store), 3);
    let held = store.snapshot();
    store.set_table_state(&table("t"), TableState { range: range(2, 3), complete: true }).unwrap();
    assert_eq!(starts(&store), 2);
    assert_eq!(store.collect_garbage(GRACE_US).unwrap().kept, 1, "a reader has it still");
    drop(held);
    assert_eq!(store.collect_garbage(GRACE_US).unwrap().files, 1);
    // It does not come back with the range, nor after a restart.
    store.set_table_state(&table("t"), TableState { range: range(1, 3), complete: true }).unwrap();
    assert_eq!(starts(&store), 2);
    drop(store);
    assert_eq!(starts(&open(&dir)), 2);
    assert_eq!(files(dir.path()).len(), 2);
}

#[test]
fn dropped_tables_become_garbage() {
    let (dir, store) = setup();
    for name in ["a", "a.b", "b"] {
        publish(&store, &key(name, 1), 1, 0);
        publish(&store, &key(name, 2), 1, 0);
    }
    let held = store.snapshot();
    // The function may use the store.
    let keep = |id: &quarry_storage::TableId| store.snapshot().table(id).is_some() && id.as_str() != "a";
    assert_eq!(store.retain_tables(&keep, 5).unwrap(), 1);
    assert_eq!(store.retain_tables(&keep, 5).unwrap(), 0);
    assert_eq!(store.snapshot().tables().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["a.b", "b"]);
    assert!(store.snapshot().id() > held.id());
    assert_eq!(store.collect_garbage(5 + GRACE_US).unwrap().kept, 2);
    drop(held);
    assert_eq!(store.collect_garbage(5 + GRACE_US).unwrap().files, 2);
    assert_eq!(files(dir.path()).len(), 4);
    drop(store);
    assert_eq!(contents(&open(&dir)).len(), 4);
    assert!(!dir.path().join("store/partitions/a").exists());
}
