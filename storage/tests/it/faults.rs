//! What happens when the n-th operation of a build fails, for every n and several kinds of fault; and to files that
//! were changed behind the store's back.

use std::fs;

use quarry_storage::{ErrorKind, Fault, Faults, JobState, StorageError, Store, StoreOptions};

use crate::support::*;

/// A full disk, a missing right, a failing disk.
const ERRNOS: [(i32, ErrorKind); 3] = [(28, ErrorKind::Full), (13, ErrorKind::Transient), (5, ErrorKind::Transient)];

/// One build: a job, a file, a publish. Ends the job as failed when it can.
fn build(store: &Store, count: usize, now: i64) -> Result<(), StorageError> {
    let key = key("t", 1);
    store.enqueue(&[new_job(&key, "a")], now)?;
    let Some(jobs) = store.claim(now)? else { return Ok(()) };
    let attempt = || -> Result<(), StorageError> {
        let mut writer = store.writer(&key, schema(), Some("t"))?;
        writer.write(&rows(&vec![10; count]))?;
        let file = writer.finish()?;
        store.publish(publication(&key, file, "", leases(&jobs)), now).map(drop)
    };
    attempt().inspect_err(|error| drop(store.fail(&leases(&jobs), &error.to_string(), now)))
}

/// The live partition is whole, and of the old or the new build.
#[track_caller]
fn check_whole(store: &Store, builds: &[u64]) -> u64 {
    let partition = live(store, &key("t", 1));
    let bytes = fs::read(&partition.path).unwrap();
    assert_eq!(partition.checksum, xxhash_rust::xxh3::xxh3_64(&bytes));
    assert!(builds.contains(&partition.rows), "{} rows", partition.rows);
    partition.rows
}

#[track_caller]
fn check_fault(fault: Fault, kind: ErrorKind) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::armable();
    let with_faults = || StoreOptions { faults: faults.clone(), ..options(dir.path()) };
    let store = Store::open(with_faults()).unwrap();
    publish(&store, &key("t", 1), 1, 1);
    faults.arm(Some(fault));
    let result = build(&store, 2, 10);
    let has_struck = faults.has_struck();
    faults.arm(None);
    let seen = match &result {
        Ok(()) => check_whole(&store, &[2]),
        Err(error) => {
            let text = error.to_string();
            assert_eq!(error.kind(), kind, "{fault:?}: {text}");
            // The file or folder, and what to do.
            assert!(text.contains(dir.path().to_str().unwrap()), "{fault:?}: {text}");
            let cures = ["free some space", "give the user", "look after the disk"];
            assert!(cures.iter().any(|cure| text.contains(cure)), "{fault:?}: {text}");
            check_whole(&store, &[1])
        }
    };
    // Once the trouble is over, the same process goes on.
    drop(store.claim(11).unwrap());
    publish(&store, &key("t", 2), 3, 12);
    assert_eq!(check_whole(&store, &[seen]), seen);
    drop(store);

    // And so does the next one, with the old state or the new one, and nothing that no record names.
    let store = Store::open(with_faults()).unwrap();
    let after = check_whole(&store, &[1, 2]);
    assert!(after >= seen, "{fault:?}: what was acknowledged is gone");
    for job in store.jobs().unwrap() {
        match job.state {
            JobState::Done { .. } => assert_eq!(after, 2, "{fault:?}: done and not published"),
            JobState::Queued | JobState::Failed { .. } => {}
            other => panic!("{fault:?}: {other:?}"),
        }
    }
    drop(store.claim(13).unwrap());
    publish(&store, &key("t", 1), 4, 14);
    store.collect_garbage(20).unwrap();
    store.collect_garbage(i64::MAX - 1).unwrap();
    assert_eq!(files(dir.path()).len(), 2, "{fault:?}: an orphan is left");
    has_struck
}

#[test]
fn a_fault_at_any_operation_leaves_the_old_or_the_new_state() {
    for (errno, kind) in ERRNOS {
        for lasting in [false, true] {
            let mut after = 0;
            while check_fault(Fault { after, errno, lasting }, kind) {
                after += 1;
            }
            // Writes of the catalog, the file, its rows, its footer, two syncs.
            assert!(after > 8, "only {after} operations were seen");
        }
    }
}

#[test]
fn a_rollback_that_fails_changes_nothing() {
    let key = key("t", 1);
    for after in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let faults = Faults::armable();
        let options = StoreOptions { faults: faults.clone(), keep_versions: 1, ..options(dir.path()) };
        let store = Store::open(options).unwrap();
        publish(&store, &key, 1, 1);
        publish(&store, &key, 2, 2);
        faults.arm(Some(Fault { after, errno: 28, lasting: true }));
        let scope = quarry_storage::Scope::Partition(key.clone());
        let result = store.rollback(&scope, quarry_storage::VersionChoice::Previous, 3);
        let has_struck = faults.has_struck();
        faults.arm(None);
        match result {
            Ok(_) => assert_eq!(live(&store, &key).rows, 1),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Full, "{error}");
                assert_eq!(live(&store, &key).rows, 2);
            }
        }
        assert_eq!(store.snapshot().tables().count(), 1);
        if !has_struck {
            return;
        }
    }
}

#[test]
fn a_publish_that_was_cut_off_is_no_version_to_go_back_to() {
    let key = key("t", 1);
    let mut cut_off = 0;
    for after in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let faults = Faults::armable();
        let with_faults =
            || StoreOptions { faults: faults.clone(), keep_versions: 1, ..StoreOptions::new(dir.path().join("store")) };
        let store = Store::open(with_faults()).unwrap();
        publish(&store, &key, 1, 1);
        // What was refused before must not look like publishes that the catalog has lost.
        for file in [write(&store, &key, 0), write(&store, &key, 0)] {
            let refused = store.publish(publication(&key, file, "", Vec::new()), 2);
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Refused);
        }
        faults.arm(Some(Fault { after, errno: 5, lasting: true }));
        let published = build(&store, 2, 10);
        let has_struck = faults.has_struck();
        drop(store);
        faults.arm(None);
        let store = Store::open(with_faults()).unwrap();
        if published.is_err() && live(&store, &key).rows == 1 {
            cut_off += usize::from(files(dir.path()).len() == 2);
            publish(&store, &key, 3, 20);
            // Past the grace the version that is kept must be the one that was live.
            store.collect_garbage(21).unwrap();
            store.collect_garbage(100_000_000).unwrap();
            let scope = quarry_storage::Scope::Partition(key.clone());
            store.rollback(&scope, quarry_storage::VersionChoice::Previous, 100_000_001).unwrap();
            assert_eq!(live(&store, &key).rows, 1, "after {after} operations");
        }
        if !has_struck {
            break;
        }
    }
    assert!(cut_off > 0, "no file was left between its footer and its batch");
}

/// Damages the only live file, then says what a check finds and whether a start goes well.
#[track_caller]
fn check_damage(damage: impl Fn(&std::path::Path), fault: &str) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    publish(&store, &key("t", 1), 100, 0);
    let path = live(&store, &key("t", 1)).path.clone();
    damage(&path);
    let inspection = quarry_storage::Inspection::open(&dir.path().join("store")).unwrap();
    let report = inspection.check().unwrap();
    assert_eq!(report.faults(), 1, "{report:?}");
    let finding = &report.findings[0];
    assert_eq!((&finding.path, &finding.partition), (&path, &Some(key("t", 1))));
    assert!(finding.fault.contains(fault) && finding.fault.contains("quarry build"), "{}", finding.fault);
    drop(store);
    // A start with it goes well, and a rebuild cures it.
    let store = open(&dir);
    publish(&store, &key("t", 1), 5, 1);
    assert_eq!(check_whole(&store, &[5]), 5);
    let inspection = quarry_storage::Inspection::open(&dir.path().join("store")).unwrap();
    assert_eq!(inspection.check().unwrap().faults(), 0);
}

#[test]
fn damaged_files_are_found_named_and_cured_by_a_rebuild() {
    check_damage(|path| fs::remove_file(path).unwrap(), "it is missing");
    check_damage(|path| fs::write(path, "short").unwrap(), "it has 5 bytes");
    let flip = |place: fn(usize) -> usize| {
        move |path: &std::path::Path| {
            let mut bytes = fs::read(path).unwrap();
            let place = place(bytes.len());
            bytes[place] ^= 4;
            fs::write(path, bytes).unwrap();
        }
    };
    // Magic, rows, footer.
    for place in [|_| 0, |length| length / 8, |length| length - 9] {
        check_damage(flip(place), "its bytes are not those that were written");
    }
}
