//! Groups: jobs whose partitions are published in one step, or not at all.

use std::sync::atomic::{AtomicBool, Ordering};

use quarry_storage::{
    Bounds, ErrorKind, Fault, Faults, JobId, JobRecord, JobState, Lease, NewJob, Publish, Scope, Store, StoreOptions,
    TableState, VersionChoice,
};

use crate::support::*;

/// Jobs for these buckets of `t`, of one group.
fn group(name: &str, buckets: impl IntoIterator<Item = i64>) -> Vec<NewJob> {
    let job = |bucket| NewJob { group: Some(name.to_owned()), ..new_job(&key("t", bucket), name) };
    buckets.into_iter().map(job).collect()
}

/// Claims all that can be claimed, partition by partition.
fn claim_all(store: &Store, now: i64) -> Vec<Vec<JobRecord>> {
    std::iter::from_fn(|| store.claim(now).unwrap()).collect()
}

/// A partition of so many rows for each claim.
fn built(store: &Store, claims: &[Vec<JobRecord>], rows: usize) -> Vec<Publish> {
    let build = |jobs: &Vec<JobRecord>| {
        let key = jobs[0].partition.clone();
        let file = write(store, &key, rows);
        publication(&key, file, "", leases(jobs))
    };
    claims.iter().map(build).collect()
}

fn states(store: &Store, ids: &[JobId]) -> Vec<JobState> {
    ids.iter().map(|id| store.find_job(id).unwrap().unwrap().state).collect()
}

fn held(claims: &[Vec<JobRecord>]) -> Vec<Lease> {
    claims.iter().flat_map(|jobs| leases(jobs)).collect()
}

#[test]
fn readers_see_all_of_a_thousand_partitions_replaced_or_none() {
    const BUCKETS: i64 = 1_000;
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let mut now = 1;
    for rows in 1..=3 {
        let ids = store.enqueue(&group(&format!("round {rows}"), 0..BUCKETS), now).unwrap();
        let claims = claim_all(&store, now + 1);
        let built = built(&store, &claims, rows);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = Vec::new();
                while !is_over.load(Ordering::SeqCst) {
                    let sum: u64 = contents(&store).iter().map(|(_, rows)| rows).sum();
                    if seen.last() != Some(&sum) {
                        seen.push(sum);
                    }
                }
                seen
            });
            store.publish_all(built, now + 2).unwrap();
            is_over.store(true, Ordering::SeqCst);
            let (old, new) = ((rows as u64 - 1) * 1_000, rows as u64 * 1_000);
            let seen = reader.join().unwrap();
            assert!([vec![old], vec![new], vec![old, new]].contains(&seen), "{seen:?}");
        });
        assert!(states(&store, &ids).iter().all(|state| matches!(state, JobState::Done { .. })));
        now += 10;
    }
    drop(store);
    assert_eq!(contents(&open(&dir)).iter().map(|(_, rows)| rows).sum::<u64>(), 3_000);
}

#[test]
fn a_group_is_not_published_in_part() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    store.enqueue(&group("g", 1..4), 1).unwrap();
    let claims = claim_all(&store, 2);
    assert!(store.completes_group("g", &held(&claims)).unwrap());
    assert!(!store.completes_group("g", &held(&claims[1..])).unwrap());
    for part in [built(&store, &claims[..1], 1), built(&store, &claims[1..], 1)] {
        let error = store.publish_all(part, 3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    }
    let alone = built(&store, &claims[..1], 1).remove(0);
    assert_eq!(store.publish(alone, 3).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!((contents(&store), files(dir.path())), (Vec::new(), Vec::new()));
    store.publish_all(built(&store, &claims, 1), 4).unwrap();
    assert_eq!(contents(&store).len(), 3);
    assert!(!store.completes_group("g", &held(&claims)).unwrap(), "the leases are over");
}

#[test]
fn the_jobs_of_a_group_end_together_whatever_ends_one() {
    for end in ["fail", "cancel a queued one", "cancel a running one", "roll back"] {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { keep_versions: 1, ..options(dir.path()) };
        let store = Store::open(options).unwrap();
        publish(&store, &key("t", 3), 1, 1);
        publish(&store, &key("t", 3), 2, 2);
        let alone = store.enqueue(&[new_job(&key("t", 3), "alone"), new_job(&key("t", 9), "alone")], 9).unwrap();
        let ids = store.enqueue(&group("g", 1..4), 3).unwrap();
        let (first, second) = (store.claim(4).unwrap().unwrap(), store.claim(4).unwrap().unwrap());
        let waiting = built(&store, std::slice::from_ref(&first), 5);
        match end {
            "fail" => store.fail(&leases(&second), "no such table", 5).unwrap(),
            "cancel a queued one" => drop(store.cancel(&ids[..1], 5).unwrap()),
            "cancel a running one" => drop(store.cancel(&ids[2..], 5).unwrap()),
            _ => {
                let mut rolled = store.rollback(&Scope::Partition(key("t", 3)), VersionChoice::Previous, 5).unwrap();
                let cancelled = rolled.remove(0).cancelled;
                assert_eq!(cancelled.len(), 4, "{cancelled:?}");
                assert!(ids.iter().chain(&alone[..1]).all(|id| cancelled.contains(id)));
            }
        }
        let because = "a partition that was to be published with it was not built: no such table";
        let failed = |cause: &str| JobState::Failed { cause: cause.to_owned() };
        let expected = match end {
            "fail" => [failed(because), failed("no such table"), failed(because)],
            _ => [JobState::Cancelled, JobState::Cancelled, JobState::Cancelled],
        };
        assert_eq!(states(&store, &ids), expected, "{end}");
        assert!(!store.holds_any(&[leases(&first), leases(&second)].concat()), "{end}");
        let error = store.publish_all(waiting, 6).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{end}: {error}");
        let left: Vec<_> = claim_all(&store, 7).iter().map(|jobs| jobs[0].partition.clone()).collect();
        let expected = if end == "roll back" { vec![key("t", 9)] } else { vec![key("t", 9), key("t", 3)] };
        assert_eq!(left, expected, "{end}: others go on");
    }
}

#[test]
fn a_claim_is_of_one_group_and_the_oldest_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    store.enqueue(&group("older", [1, 2]), 1).unwrap();
    store.enqueue(&[new_job(&key("t", 2), "a"), new_job(&key("t", 2), "b")], 2).unwrap();
    store.enqueue(&group("younger", [2, 3]), 3).unwrap();
    store.enqueue(&[new_job(&key("t", 2), "c")], 4).unwrap();
    let order = |claims: &[Vec<JobRecord>]| -> Vec<String> {
        let name = |jobs: &Vec<JobRecord>| {
            let contexts: Vec<&str> = jobs.iter().map(|job| job.context.as_str()).collect();
            format!("{} {}", jobs[0].partition.bucket.unwrap().start / WIDTH, contexts.join("+"))
        };
        claims.iter().map(name).collect()
    };
    let mut claims = claim_all(&store, 5);
    assert_eq!(order(&claims), ["2 older", "1 older", "3 younger"]);
    let rest = claims.split_off(2);
    store.publish_all(built(&store, &claims, 1), 6).unwrap();
    let alone = claim_all(&store, 7);
    assert_eq!(order(&alone), ["2 a+b+c"]);
    store.publish_all(built(&store, &alone, 1), 8).unwrap();
    let last = claim_all(&store, 9);
    assert_eq!(order(&last), ["2 younger"]);
    store.publish_all(built(&store, &[rest, last].concat(), 2), 10).unwrap();
    assert_eq!(contents(&store).iter().map(|(_, rows)| *rows).collect::<Vec<_>>(), [1, 2, 2]);
}

#[test]
fn a_group_that_was_cut_off_begins_anew_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let ids = store.enqueue(&group("g", 1..4), 1).unwrap();
    let claims = claim_all(&store, 2);
    let waiting = built(&store, &claims[..2], 1);
    let copy = copy_of(dir.path());
    drop((waiting, store));
    for dir in [dir, copy] {
        let store = open(&dir);
        assert_eq!(files(dir.path()).len(), 0, "what was never published is gone");
        assert_eq!(states(&store, &ids), [JobState::Queued, JobState::Queued, JobState::Queued]);
        let claims = claim_all(&store, 3);
        store.publish_all(built(&store, &claims, 1), 4).unwrap();
        assert_eq!(contents(&store).len(), 3);
    }
}

/// The n-th operation of the publish of a group fails, for all n: nothing of it is seen, and nothing is left of it.
/// What the table is meant to hold changes with the partitions, and not before.
#[test]
fn a_group_changes_what_is_known_of_its_table_in_the_same_step() {
    let range = |from: i64, to: i64| TableState {
        range: Some(Bounds { start: from * WIDTH, end: to * WIDTH }),
        complete: true,
    };
    for after in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let faults = Faults::armable();
        let store = Store::open(StoreOptions { faults: faults.clone(), ..options(dir.path()) }).unwrap();
        store.set_table_state(&table("t"), range(1, 3)).unwrap();
        publish(&store, &key("t", 1), 1, 1);
        publish(&store, &key("t", 2), 1, 1);
        let waiting =
            [2, 3].map(|bucket| publication(&key("t", bucket), write(&store, &key("t", bucket), 2), "", Vec::new()));
        let claim = |id: &quarry_storage::TableId, known: TableState| {
            assert_eq!((id, known), (&table("t"), range(1, 3)));
            Some(range(2, 4))
        };
        let seen = |store: &Store| (store.snapshot().table(&table("t")).unwrap().state, contents(store));
        let (old, new) = (
            (range(1, 3), vec![("t 10".to_owned(), 1), ("t 20".to_owned(), 1)]),
            (range(2, 4), vec![("t 20".to_owned(), 2), ("t 30".to_owned(), 2)]),
        );
        faults.arm(Some(Fault { after, errno: 28, lasting: false }));
        let result = store.publish_claiming(waiting.into(), &claim, 4);
        let has_struck = faults.has_struck();
        faults.arm(None);
        assert_eq!(seen(&store), if has_struck { old.clone() } else { new.clone() }, "operation {after}");
        assert_eq!(result.is_err(), has_struck);
        drop(store);
        let store = open(&dir);
        assert!(seen(&store) == new || (has_struck && seen(&store) == old), "operation {after}: {:?}", seen(&store));
        if !has_struck {
            // The file that went with the range is collected.
            store.collect_garbage(i64::MAX - 1).unwrap();
            assert_eq!(std::fs::read_dir(dir.path().join("store/partitions/t")).unwrap().count(), 2);
            return;
        }
    }
}

#[test]
fn a_publish_that_fails_half_way_publishes_nothing() {
    for after in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let faults = Faults::armable();
        let store = Store::open(StoreOptions { faults: faults.clone(), ..options(dir.path()) }).unwrap();
        publish(&store, &key("t", 2), 1, 1);
        let before = contents(&store);
        let ids = store.enqueue(&group("g", 1..4), 2).unwrap();
        let claims = claim_all(&store, 3);
        let waiting = built(&store, &claims, 2);
        faults.arm(Some(Fault { after, errno: 28, lasting: false }));
        let result = store.publish_all(waiting, 4);
        let has_struck = faults.has_struck();
        faults.arm(None);
        if !has_struck {
            result.unwrap();
            assert!(after > 6, "three footers and a batch take more operations than {after}");
            return;
        }
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Full, "operation {after}");
        assert_eq!(contents(&store), before, "operation {after}");
        assert!(store.completes_group("g", &held(&claims)).unwrap(), "operation {after}: all of them still run");
        store.fail(&held(&claims[..1]), "no space left", 5).unwrap();
        assert!(states(&store, &ids).iter().all(|state| matches!(state, JobState::Failed { .. })));
        drop(store);
        // The last fault strikes when the batch is on disk already: then the next start finds all of it.
        let store = open(&dir);
        let rows: Vec<u64> = contents(&store).iter().map(|(_, rows)| *rows).collect();
        assert!([vec![1], vec![2, 2, 2]].contains(&rows), "operation {after}: {rows:?}");
    }
}
