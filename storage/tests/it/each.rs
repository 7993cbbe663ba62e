//! Several partitions published at one price: each succeeds or fails on its own.

use std::fs;
use std::sync::Arc;

use quarry_storage::{
    ErrorKind, Fault, Faults, JobState, NewJob, Publish, SnapshotId, StorageError, Store, StoreOptions,
};

use crate::support::*;

type Outcome = Result<SnapshotId, Arc<StorageError>>;

fn kinds(outcomes: &[Outcome]) -> Vec<Option<ErrorKind>> {
    outcomes.iter().map(|outcome| outcome.as_ref().err().map(|error| error.kind())).collect()
}

fn plain(store: &Store, bucket: i64, count: usize) -> Publish {
    let key = key("t", bucket);
    publication(&key, write(store, &key, count), "", Vec::new())
}

#[test]
fn what_is_refused_does_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    publish(&store, &key("t", 2), 5, 1);
    let wanted: Vec<NewJob> = (1..6).map(|bucket| new_job(&key("t", bucket), "a")).collect();
    let ids = store.enqueue(&wanted, 2).unwrap();
    let mut publishes = Vec::new();
    while publishes.len() < 5 {
        let jobs = store.claim(3).unwrap().unwrap();
        let wanted = jobs[0].partition.clone();
        // Nothing over five rows is for the gate to refuse.
        let file = write(&store, &wanted, if wanted == key("t", 2) { 0 } else { 3 });
        publishes.push(publication(&wanted, file, "k", leases(&jobs)));
    }
    publishes.sort_by(|one, other| one.key.cmp(&other.key));
    // One lost its lease, of one the file was touched.
    store.fail(&publishes[2].jobs, "somebody else", 4).unwrap();
    let path = fs::read_dir(dir.path().join("store/partitions/t")).unwrap().map(|entry| entry.unwrap().path());
    let path = path.max().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[9] ^= 1;
    fs::write(&path, bytes).unwrap();

    let before = store.snapshot().id();
    let outcomes = store.publish_each(publishes, 5);
    let expected = [None, Some(ErrorKind::Refused), Some(ErrorKind::Conflict), None, Some(ErrorKind::Corrupt)];
    assert_eq!(kinds(&outcomes), expected);
    assert_eq!(*outcomes[0].as_ref().unwrap(), store.snapshot().id());
    assert_eq!(outcomes[0].as_ref().unwrap(), outcomes[3].as_ref().unwrap(), "one state has both");
    assert!(before < store.snapshot().id());
    let rows = |bucket| find(&store.snapshot(), &key("t", bucket)).map(|live| live.rows);
    assert_eq!((1..6).map(rows).collect::<Vec<_>>(), [Some(3), Some(5), None, Some(3), None]);
    let state = |at: usize| store.find_job(&ids[at]).unwrap().unwrap().state;
    assert_eq!((state(0), state(3)), (done(&live(&store, &key("t", 1))), done(&live(&store, &key("t", 4)))));
    assert!(matches!((state(1), state(4)), (JobState::Running, JobState::Running)));
    // The files of those that failed are gone.
    assert_eq!(fs::read_dir(dir.path().join("store/partitions/t")).unwrap().count(), 3);
    drop(store);
    assert_eq!(contents(&open(&dir)), [("t 10".to_owned(), 3), ("t 20".to_owned(), 5), ("t 40".to_owned(), 3)]);
}

#[test]
fn two_that_overlap_are_not_both_published() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let whole = quarry_storage::PartitionKey { table: table("t"), bucket: None };
    let file = write(&store, &whole, 1);
    let outcomes = store.publish_each(vec![plain(&store, 1, 1), publication(&whole, file, "", Vec::new())], 1);
    assert_eq!(kinds(&outcomes), [None, Some(ErrorKind::Refused)]);
    assert_eq!(contents(&store), [("t 10".to_owned(), 1)]);
    assert!(store.publish_each(Vec::new(), 2).is_empty());
}

#[test]
fn a_partition_of_a_group_is_not_published_without_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let of_group = |bucket| NewJob { group: Some("g".to_owned()), ..new_job(&key("t", bucket), "a") };
    store.enqueue(&[of_group(1), of_group(2)], 1).unwrap();
    let jobs = store.claim(2).unwrap().unwrap();
    let wanted = jobs[0].partition.clone();
    let file = write(&store, &wanted, 1);
    let outcomes = store.publish_each(vec![publication(&wanted, file, "", leases(&jobs)), plain(&store, 7, 2)], 3);
    assert_eq!(kinds(&outcomes), [Some(ErrorKind::Conflict), None]);
    assert_eq!(contents(&store), [("t 70".to_owned(), 2)]);
}

/// The n-th operation fails, for every n: what was said to be published is, whatever else failed.
#[test]
fn a_fault_costs_those_that_it_hits() {
    for lasting in [false, true] {
        let mut after = 0;
        loop {
            let dir = tempfile::tempdir().unwrap();
            let faults = Faults::armable();
            let with_faults = || StoreOptions { faults: faults.clone(), ..options(dir.path()) };
            let store = Store::open(with_faults()).unwrap();
            for bucket in 0..20 {
                publish(&store, &key("t", bucket), 1, 1);
            }
            let publishes = (0..20).map(|bucket| plain(&store, bucket, 2)).collect();
            faults.arm(Some(Fault { after, errno: 28, lasting }));
            let outcomes = store.publish_each(publishes, 2);
            let has_struck = faults.has_struck();
            faults.arm(None);
            assert_eq!(outcomes.iter().all(Result::is_ok), !has_struck, "after {after}");
            let check = |store: &Store, may_be_newer: bool| {
                for (bucket, outcome) in (0..).zip(&outcomes) {
                    let partition = live(store, &key("t", bucket));
                    let bytes = fs::read(&partition.path).unwrap();
                    assert_eq!(partition.checksum, xxhash_rust::xxh3::xxh3_64(&bytes), "after {after}");
                    let is_new = partition.rows == 2;
                    assert!(is_new == outcome.is_ok() || (is_new && may_be_newer), "after {after}, bucket {bucket}");
                    let kind = outcome.as_ref().err().map(|error| error.kind());
                    assert!(kind.is_none_or(|kind| kind == ErrorKind::Full), "after {after}: {kind:?}");
                }
            };
            check(&store, false);
            drop(store);
            // What was written to the catalog and not acknowledged may be there.
            check(&Store::open(with_faults()).unwrap(), true);
            if !has_struck {
                break;
            }
            after += 1;
        }
        assert!(after > 20, "{after}");
    }
}
