//! Jobs: joined when equal, claimed by one, ended truthfully.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use quarry_storage::{
    CancelOutcome, ErrorKind, JobId, JobPhase, JobRecord, JobState, Lease, PartitionKey, Progress, Store,
};

use crate::support::*;

fn state(store: &Store, id: &JobId) -> JobState {
    store.find_job(id).unwrap().unwrap().state
}

fn claim(store: &Store, now: i64) -> Vec<JobRecord> {
    store.claim(now).unwrap().unwrap_or_default()
}

fn ids(jobs: &[JobRecord]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id.clone()).collect()
}

#[test]
fn equal_live_jobs_are_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let (one, two) = (key("t", 1), key("t", 2));
    let jobs = [new_job(&one, "a"), new_job(&two, "a"), new_job(&one, "b"), new_job(&one, "a")];
    let first = store.enqueue(&jobs, 1).unwrap();
    assert_eq!(first.iter().collect::<HashSet<_>>().len(), 3);
    assert_eq!(first[0], first[3]);
    assert_eq!(store.enqueue(&jobs, 2).unwrap(), first);
    for id in &first {
        assert!(id.as_str().len() == 32 && id.as_str().bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    }
    // A running one is joined, too; an ended one is not.
    let running = claim(&store, 3);
    assert_eq!(store.enqueue(&jobs, 4).unwrap(), first);
    store.fail(&leases(&running), "no", 5).unwrap();
    let second = store.enqueue(&jobs, 6).unwrap();
    assert_eq!(second.iter().filter(|id| first.contains(id)).count(), jobs.len() - 1);
    assert_eq!(store.jobs().unwrap().len(), 4);
    assert_eq!(store.enqueue(&[], 7).unwrap(), []);
}

#[test]
fn a_job_keeps_what_it_was_given_and_tells_what_happened() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let key = key("t", 1);
    let id = store.enqueue(&[new_job(&key, "a")], 10).unwrap().remove(0);
    let queued = JobRecord {
        id: id.clone(),
        partition: key,
        details: "{\"for\":\"a\"}".into(),
        context: "a".into(),
        state: JobState::Queued,
        attempt: 0,
        created_at: 10,
        started_at: None,
        ended_at: None,
        group: None,
    };
    assert_eq!(store.find_job(&id).unwrap().as_ref(), Some(&queued));
    let running = JobRecord { state: JobState::Running, attempt: 1, started_at: Some(20), ..queued.clone() };
    assert_eq!(store.claim(20).unwrap(), Some(vec![running.clone()]));
    assert_eq!(store.claim(21).unwrap(), None);
    // A stop in the middle: the job waits again, and its attempt counts.
    drop(store);
    let store = open(&dir);
    let waiting = JobRecord { state: JobState::Queued, ..running.clone() };
    assert_eq!(store.find_job(&id).unwrap(), Some(waiting));
    let again = JobRecord { attempt: 2, started_at: Some(30), ..running };
    assert_eq!(store.claim(30).unwrap(), Some(vec![again.clone()]));
    // The lease of the attempt that the stop has cut off is of no use.
    store.fail(&first_leases(std::slice::from_ref(&id)), "late", 35).unwrap();
    let unknown = Lease { job: JobId::from_token("nobody"), attempt: 2 };
    store.fail(&[again.lease(), again.lease(), unknown], "source is gone", 40).unwrap();
    let failed = JobRecord { state: JobState::Failed { cause: "source is gone".into() }, ended_at: Some(40), ..again };
    assert_eq!(store.jobs().unwrap(), std::slice::from_ref(&failed));
    // Ended is ended.
    store.fail(&[failed.lease()], "again", 50).unwrap();
    drop(store);
    let store = open(&dir);
    assert_eq!(store.find_job(&id).unwrap(), Some(failed));
    assert_eq!(store.claim(60).unwrap(), None);
    assert_eq!(store.find_job(&JobId::from_token("nobody")).unwrap(), None);
}

#[test]
fn all_queued_jobs_of_a_partition_share_a_build_and_later_ones_wait() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let one = key("t", 1);
    let first = store.enqueue(&[new_job(&one, "a"), new_job(&one, "b")], 1).unwrap();
    let claimed = claim(&store, 2);
    assert_eq!(ids(&claimed).into_iter().collect::<HashSet<_>>(), first.iter().cloned().collect());
    let late = store.enqueue(&[new_job(&one, "c")], 3).unwrap();
    assert_eq!(store.claim(4).unwrap(), None);
    // One of the two is cancelled: the partition is still being built.
    store.cancel(&first[..1], 5).unwrap();
    assert_eq!(store.claim(6).unwrap(), None);
    let file = write(&store, &one, 1);
    store.publish(publication(&one, file, "", first_leases(&first[1..])), 7).unwrap();
    assert_eq!(state(&store, &late[0]), JobState::Queued);
    assert_eq!(ids(&claim(&store, 8)), late);
}

#[test]
fn cancelled_is_an_end_for_queued_and_running_jobs_alike() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    store.enqueue(&[new_job(&key("t", 1), "a")], 1).unwrap();
    let running = claim(&store, 2).remove(0);
    let queued = store.enqueue(&[new_job(&key("t", 2), "a")], 3).unwrap().remove(0);
    let unknown = JobId::from_token("nobody");
    let cancelled = |job: &JobRecord| JobRecord { state: JobState::Cancelled, ended_at: Some(4), ..job.clone() };
    let queued = store.find_job(&queued).unwrap().unwrap();
    let asked = [running.id.clone(), queued.id.clone(), unknown, queued.id.clone()];
    let outcomes = store.cancel(&asked, 4).unwrap();
    let expected = [
        CancelOutcome::WasRunning(cancelled(&running)),
        CancelOutcome::WasQueued(cancelled(&queued)),
        CancelOutcome::Unknown,
        CancelOutcome::HadEnded(cancelled(&queued)),
    ];
    assert_eq!(outcomes, expected);
    assert_eq!(store.claim(5).unwrap(), None);
    store.fail(&[running.lease()], "late", 6).unwrap();
    drop(store);
    // And so it is after the next start.
    let store = open(&dir);
    for job in [&running, &queued] {
        assert_eq!(store.find_job(&job.id).unwrap(), Some(cancelled(job)));
    }
    assert_eq!(store.cancel(&asked[..1], 7).unwrap(), [CancelOutcome::HadEnded(cancelled(&running))]);
    assert_eq!(store.claim(8).unwrap(), None);
    assert_eq!(store.forget_jobs(5).unwrap(), 2);
    assert_eq!(store.cancel(&asked[..1], 9).unwrap(), [CancelOutcome::Unknown]);
    assert_eq!(store.cancel(&[], 9).unwrap(), []);
}

#[test]
fn a_running_job_tells_how_far_it_is_until_it_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let one = key("t", 1);
    let ids = store.enqueue(&[new_job(&one, "a"), new_job(&one, "b")], 1).unwrap();
    assert_eq!(store.progress(&ids[0]), None);
    let held = leases(&claim(&store, 2));
    assert_eq!(store.progress(&ids[0]), Some(Progress { updated_at: 2, ..Progress::default() }));
    let progress = Progress { phase: JobPhase::Writing, rows: 5, size_bytes: 6, updated_at: 3 };
    assert!(store.report(&held, progress));
    assert_eq!([&ids[0], &ids[1]].map(|id| store.progress(id)), [Some(progress); 2]);
    // A report for another attempt changes nothing, and says so.
    let stale: Vec<Lease> = held.iter().map(|lease| Lease { attempt: 9, ..lease.clone() }).collect();
    assert!(!store.report(&stale, Progress::default()) && !store.holds_any(&stale));
    assert_eq!(store.progress(&ids[0]), Some(progress));
    store.cancel(&ids[..1], 4).unwrap();
    assert!(store.report(&held, progress), "the other job still wants it");
    assert_eq!(store.progress(&ids[0]), None);
    store.cancel(&ids[1..], 5).unwrap();
    assert!(!store.report(&held, progress) && !store.holds_any(&held));
    // So it is after the other ends.
    for end in ["done", "failed"] {
        let ids = store.enqueue(&[new_job(&one, end)], 6).unwrap();
        let held = leases(&claim(&store, 7));
        match end {
            "done" => drop(store.publish(publication(&one, write(&store, &one, 1), "", held.clone()), 8).unwrap()),
            _ => store.fail(&held, "no", 8).unwrap(),
        }
        assert_eq!((store.progress(&ids[0]), store.holds_any(&held)), (None, false));
    }
    assert!(!store.holds_any(&[]));
}

#[test]
fn the_oldest_job_is_claimed_first_and_at_equal_age_the_newest_bucket() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    store.enqueue(&[new_job(&key("t", 5), "a")], 2).unwrap();
    store.enqueue(&[new_job(&key("t", 1), "a"), new_job(&key("t", 3), "a"), new_job(&key("t", -2), "a")], 1).unwrap();
    // Asked for again later, and still as old as before.
    store.enqueue(&[new_job(&key("t", -2), "b")], 9).unwrap();
    drop(store);
    let store = open(&dir);
    let starts: Vec<i64> = std::iter::from_fn(|| store.claim(10).unwrap())
        .map(|jobs| jobs[0].partition.bucket.unwrap().start / WIDTH)
        .collect();
    assert_eq!(starts, [3, 1, -2, 5]);
}

#[test]
fn jobs_are_listed_newest_first_and_forgotten_when_ended_long_ago() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    for now in [1, 3, 2] {
        store.enqueue(&[new_job(&key("t", now), "a")], now).unwrap();
    }
    let created = || store.jobs().unwrap().iter().map(|job| job.created_at).collect::<Vec<_>>();
    assert_eq!(created(), [3, 2, 1]);
    store.fail(&leases(&claim(&store, 4)), "no", 10).unwrap();
    store.fail(&leases(&claim(&store, 4)), "no", 11).unwrap();
    assert_eq!(store.forget_jobs(10).unwrap(), 0);
    assert_eq!(store.forget_jobs(11).unwrap(), 1);
    assert_eq!(created(), [3, 2]);
    assert_eq!(store.forget_jobs(i64::MAX).unwrap(), 1);
    assert_eq!(created(), [3]);
}

#[test]
fn the_queue_has_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let jobs: Vec<_> = (0..=100_000).map(|bucket| new_job(&key("t", bucket), "")).collect();
    let error = store.enqueue(&jobs, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.to_string().contains("100000 jobs"), "{error}");
    assert_eq!(store.claim(1).unwrap(), None);
}

#[test]
fn workers_in_parallel_never_build_one_partition_twice_at_a_time() {
    const PARTITIONS: i64 = 6;
    const ROUNDS: i64 = 12;
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let building = Mutex::new(HashSet::new());
    let (ended, asked) = (AtomicUsize::new(0), Mutex::new(HashSet::new()));
    let producers_left = AtomicUsize::new(2);
    std::thread::scope(|scope| {
        for producer in 0..2 {
            let (store, asked, ended, producers_left) = (&store, &asked, &ended, &producers_left);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    // Asks while partitions are being built, and not all at once before. Some job always ends:
                    // the last round left six of them.
                    while ended.load(Ordering::SeqCst) < 2 * usize::try_from(round).unwrap() {
                        std::thread::yield_now();
                    }
                    let context = format!("{}", (round + producer) % 3);
                    let jobs: Vec<_> = (0..PARTITIONS).map(|bucket| new_job(&key("t", bucket), &context)).collect();
                    let ids = store.enqueue(&jobs, round).unwrap();
                    asked.lock().unwrap().extend(ids);
                }
                producers_left.fetch_sub(1, Ordering::SeqCst);
            });
        }
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    // Before the claim: whoever sees no producer and then no job has seen the last job.
                    let is_last = producers_left.load(Ordering::SeqCst) == 0;
                    let jobs = claim(&store, 100);
                    let Some(first) = jobs.first() else {
                        if is_last {
                            return;
                        }
                        std::thread::yield_now();
                        continue;
                    };
                    let partition = first.partition.clone();
                    assert!(jobs.iter().all(|job| job.partition == partition && job.state == JobState::Running));
                    assert!(building.lock().unwrap().insert(partition.clone()), "{partition} is built twice");
                    let file = write(&store, &partition, 1);
                    // Released before the publish, after which another worker may take it.
                    building.lock().unwrap().remove(&partition);
                    store.publish(publication(&partition, file, "", leases(&jobs)), 101).unwrap();
                    ended.fetch_add(jobs.len(), Ordering::SeqCst);
                }
            });
        }
    });
    let mut by_state: BTreeMap<bool, usize> = BTreeMap::new();
    for job in store.jobs().unwrap() {
        *by_state.entry(matches!(job.state, JobState::Done { .. })).or_default() += 1;
    }
    let all = asked.lock().unwrap().len();
    assert_eq!(by_state, BTreeMap::from([(true, all)]));
    assert_eq!(ended.load(Ordering::SeqCst), all);
    assert_eq!(contents(&store).len(), usize::try_from(PARTITIONS).unwrap());
    store.collect_garbage(i64::MAX).unwrap();
    assert_eq!(files(dir.path()).len(), usize::try_from(PARTITIONS).unwrap());
}

#[test]
fn further_partitions_of_a_table_are_claimed_together() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let job = |name: &str, bucket: i64, context: &str| new_job(&key(name, bucket), context);
    let jobs =
        [job("t", 1, "a"), job("t", 2, "a"), job("t", 2, "b"), job("u", 9, "a"), job("t", 3, "a"), job("t", 4, "a")];
    store.enqueue(&jobs, 0).unwrap();
    let claimed = |jobs: &[JobRecord]| (jobs[0].partition.clone(), jobs.len());
    let first = store.claim_if(1, &|job| job.partition.table == table("t")).unwrap().unwrap();
    assert_eq!(claimed(&first), (key("t", 4), 1));
    // The newest first, until it is enough; all jobs of a partition go together.
    let mut left = 2;
    let mut two = |_: &PartitionKey| {
        left -= 1;
        left >= 0
    };
    let more = store.claim_more(&table("t"), 1, &mut two).unwrap();
    assert_eq!(more.iter().map(|jobs| claimed(jobs)).collect::<Vec<_>>(), [(key("t", 3), 1), (key("t", 2), 2)]);
    assert!(more.iter().flatten().all(|job| job.state == JobState::Running && job.attempt == 1));
    assert!(more.iter().flatten().all(|job| store.holds_any(&[job.lease()])));
    let rest = store.claim_more(&table("t"), 1, &mut |_| true).unwrap();
    assert_eq!(rest.iter().map(|jobs| claimed(jobs)).collect::<Vec<_>>(), [(key("t", 1), 1)]);
    assert!(store.claim_more(&table("t"), 1, &mut |_| true).unwrap().is_empty());
    assert_eq!(claim(&store, 1)[0].partition, key("u", 9), "the other table was not touched");
    drop(store);
    // Whoever opens the store next finds them queued again.
    let store = open(&dir);
    assert_eq!(store.claim_more(&table("t"), 2, &mut |_| true).unwrap().len(), 4);
}

#[test]
fn who_hears_that_a_job_is_done_sees_what_it_published() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let key = key("t", 1);
    for round in 0..100 {
        let id = store.enqueue(&[new_job(&key, "a")], round).unwrap().remove(0);
        let jobs = store.claim(round).unwrap().expect("a job waits");
        let file = write(&store, &key, 1);
        std::thread::scope(|scope| {
            scope.spawn(|| store.publish(publication(&key, file, "", leases(&jobs)), round).unwrap());
            let by_list = || store.jobs().unwrap().into_iter().find(|job| job.id == id);
            loop {
                let job = if round % 2 == 0 { store.find_job(&id).unwrap() } else { by_list() };
                if let JobState::Done { file, .. } = job.expect("it is known").state {
                    assert_eq!(live(&store, &key).file, file, "round {round}");
                    break;
                }
            }
        });
    }
}
