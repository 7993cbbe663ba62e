//! A long random life of a store, step by step next to a plain model of what it should hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use quarry_storage::{
    CancelOutcome, ErrorKind, Gate, JobId, JobRecord, JobState, Lease, PartitionKey, Publish, Snapshot, Store, TableId,
    TableState,
};
use tempfile::TempDir;

use crate::support::*;

const STEPS: usize = 300;

/// xorshift64*: enough for a test, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }

    fn key(&mut self) -> PartitionKey {
        let name = ["a", "a.b", "b"][usize::try_from(self.below(3)).unwrap()];
        key(name, i64::try_from(self.below(5)).unwrap() - 2)
    }
}

/// What the store should hold.
#[derive(Default)]
struct Model {
    tables: BTreeMap<TableId, ModelTable>,
    jobs: BTreeMap<JobId, JobRecord>,
    /// Replaced files: path and when.
    garbage: BTreeMap<PathBuf, i64>,
}

#[derive(Default, Clone, PartialEq, Debug)]
struct ModelTable {
    state: TableState,
    /// Rows, refresh key and path by start.
    partitions: BTreeMap<i64, (u64, String, PathBuf)>,
}

struct Life {
    dir: TempDir,
    store: Option<Store>,
    model: Model,
    /// Snapshots that a slow request holds, with what they showed when they were taken.
    held: Vec<(Arc<Snapshot>, BTreeMap<TableId, ModelTable>)>,
    used_paths: BTreeSet<PathBuf>,
    now: i64,
}

impl Life {
    fn store(&self) -> Store {
        self.store.clone().unwrap()
    }

    fn step(&mut self, random: &mut Random) {
        self.now += i64::try_from(random.below(40)).unwrap();
        match random.below(21) {
            0..4 => self.enqueue(random),
            4..9 => self.build(random),
            9..11 => self.publish(random.key(), random, Vec::new()),
            11 => self.abandon(random),
            12 => self.set_state(random),
            13 => self.retain(random),
            14..16 => self.collect(),
            16 => self.held.push((self.store().snapshot(), self.model.tables.clone())),
            17 => {
                let count = self.held.len() as u64;
                if count > 0 {
                    self.held.swap_remove(usize::try_from(random.below(count)).unwrap());
                }
            }
            18 => self.forget(random),
            19 => self.cancel(random),
            _ => self.reopen(),
        }
    }

    fn enqueue(&mut self, random: &mut Random) {
        let jobs: Vec<_> = (0..random.below(4))
            .map(|_| new_job(&random.key(), ["x", "y"][usize::from(random.below(2) > 0)]))
            .collect();
        let ids = self.store().enqueue(&jobs, self.now).unwrap();
        assert_eq!(ids.len(), jobs.len());
        for (id, job) in ids.into_iter().zip(jobs) {
            let equal = self
                .model
                .jobs
                .values()
                .find(|known| is_live(known) && known.partition == job.partition && known.context == job.context);
            if let Some(equal) = equal {
                assert_eq!(id, equal.id);
                continue;
            }
            let record = JobRecord {
                id: id.clone(),
                partition: job.partition,
                details: job.details,
                context: job.context,
                state: JobState::Queued,
                attempt: 0,
                created_at: self.now,
                started_at: None,
                ended_at: None,
                group: None,
            };
            assert!(self.model.jobs.insert(id, record).is_none(), "a token was given twice");
        }
    }

    /// Claims, and then publishes, fails, or forgets about it, like a worker that hangs.
    fn build(&mut self, random: &mut Random) {
        let claimed = self.store().claim(self.now).unwrap();
        let expected = self.expected_claim();
        let found = claimed.as_ref().and_then(|jobs| jobs.first()).map(|job| job.partition.clone());
        assert_eq!(found, expected);
        let Some(key) = expected else { return };
        let mut held = Vec::new();
        for job in self.model.jobs.values_mut().filter(|job| job.partition == key && job.state == JobState::Queued) {
            (job.state, job.started_at) = (JobState::Running, Some(self.now));
            job.attempt += 1;
            held.push(job.lease());
        }
        let claimed: BTreeSet<_> = claimed.unwrap().into_iter().map(|job| job.id).collect();
        assert_eq!(claimed, held.iter().map(|lease| lease.job.clone()).collect());
        assert!(self.store().holds_any(&held));
        match random.below(4) {
            0 => {
                self.store().fail(&held, "bad luck", self.now).unwrap();
                for lease in held {
                    let job = self.model.jobs.get_mut(&lease.job).unwrap();
                    (job.state, job.ended_at) = (JobState::Failed { cause: "bad luck".into() }, Some(self.now));
                }
            }
            1 => {}
            _ => self.publish(key, random, held),
        }
    }

    fn expected_claim(&self) -> Option<PartitionKey> {
        let running: BTreeSet<_> =
            self.model.jobs.values().filter(|job| job.state == JobState::Running).map(|job| &job.partition).collect();
        let queued = self.model.jobs.values().filter(|job| job.state == JobState::Queued);
        let ready = queued.filter(|job| !running.contains(&job.partition));
        let order = |job: &&JobRecord| (job.created_at, -job.partition.bucket.unwrap().start, job.partition.clone());
        ready.min_by_key(order).map(|job| job.partition.clone())
    }

    fn publish(&mut self, key: PartitionKey, random: &mut Random, jobs: Vec<Lease>) {
        let store = self.store();
        let count = random.below(4);
        let gate = if random.below(2) == 0 { Gate::Open } else { Gate::Guarded };
        let file = write(&store, &key, usize::try_from(count).unwrap());
        let refresh_key = format!("{}", self.now);
        let publish = Publish { gate, ..publication(&key, file, &refresh_key, jobs.clone()) };
        let start = key.bucket.unwrap().start;
        let old = self.model.tables.get(&key.table).and_then(|table| table.partitions.get(&start)).cloned();
        let result = store.publish(publish, self.now);
        if gate == Gate::Guarded && count == 0 && old.as_ref().is_some_and(|old| old.0 > 0) {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Refused);
            return;
        }
        assert_eq!(result.unwrap(), store.snapshot().id());
        let partition = live(&store, &key);
        assert!(self.used_paths.insert(partition.path.clone()), "a file name was used twice");
        for lease in jobs {
            let job = self.model.jobs.get_mut(&lease.job).unwrap();
            (job.state, job.ended_at) = (done(&partition), Some(self.now));
        }
        if let Some((_, _, path)) = old {
            self.model.garbage.insert(path, self.now);
        }
        let table = self.model.tables.entry(key.table).or_default();
        table.partitions.insert(start, (count, refresh_key, partition.path.clone()));
    }

    /// Cancels some jobs, in whatever state they are; a hanging worker among them loses its right to publish.
    fn cancel(&mut self, random: &mut Random) {
        let ids: Vec<JobId> = self.model.jobs.keys().filter(|_| random.below(8) == 0).cloned().collect();
        let outcomes = self.store().cancel(&ids, self.now).unwrap();
        assert_eq!(outcomes.len(), ids.len());
        for (id, outcome) in ids.into_iter().zip(outcomes) {
            let job = self.model.jobs.get_mut(&id).unwrap();
            let before = job.clone();
            if is_live(job) {
                (job.state, job.ended_at) = (JobState::Cancelled, Some(self.now));
            }
            let expected = match before.state {
                JobState::Queued => CancelOutcome::WasQueued(job.clone()),
                JobState::Running => CancelOutcome::WasRunning(job.clone()),
                _ => CancelOutcome::HadEnded(before.clone()),
            };
            assert_eq!(outcome, expected);
            if before.state == JobState::Running {
                assert!(!self.store().holds_any(&[before.lease()]));
                let file = write(&self.store(), &before.partition, 1);
                let late = publication(&before.partition, file, "", vec![before.lease()]);
                assert_eq!(self.store().publish(late, self.now).unwrap_err().kind(), ErrorKind::Conflict);
            }
        }
    }

    /// A build that stops half-way, or just before its publish.
    fn abandon(&mut self, random: &mut Random) {
        let key = random.key();
        if random.below(2) == 0 {
            drop(self.store().writer(&key, schema(), None).unwrap());
        } else {
            drop(write(&self.store(), &key, 2));
        }
    }

    fn set_state(&mut self, random: &mut Random) {
        let key = random.key();
        let state = TableState { range: key.bucket, complete: random.below(2) == 0 };
        self.store().set_table_state(&key.table, state).unwrap();
        let table = self.model.tables.entry(key.table).or_default();
        if table.state != state {
            table.state = state;
            // What lies outside is dropped; its refresh key is the time of its build.
            let kept = key.bucket.unwrap().start;
            for (_, (_, built_at, path)) in table.partitions.extract_if(.., |start, _| *start != kept) {
                self.model.garbage.insert(path, built_at.parse().unwrap());
            }
        }
    }

    fn retain(&mut self, random: &mut Random) {
        let doomed = random.key().table;
        let dropped = self.store().retain_tables(&|id| *id != doomed, self.now).unwrap();
        let table = self.model.tables.remove(&doomed);
        assert_eq!(dropped, usize::from(table.is_some()));
        for (_, (_, _, path)) in table.unwrap_or_default().partitions {
            self.model.garbage.insert(path, self.now);
        }
    }

    fn collect(&mut self) {
        let report = self.store().collect_garbage(self.now).unwrap();
        let held: BTreeSet<&PathBuf> = self
            .held
            .iter()
            .flat_map(|(_, tables)| tables.values())
            .flat_map(|table| table.partitions.values().map(|(_, _, path)| path))
            .collect();
        let before = self.model.garbage.len();
        self.model.garbage.retain(|path, since| self.now - *since < GRACE_US || held.contains(path));
        assert_eq!((report.kept, report.files), (self.model.garbage.len(), before - self.model.garbage.len()));
    }

    fn forget(&mut self, random: &mut Random) {
        let cut = self.now - i64::try_from(random.below(500)).unwrap();
        let before = self.model.jobs.len();
        self.model.jobs.retain(|_, job| job.ended_at.is_none_or(|ended_at| ended_at >= cut));
        assert_eq!(self.store().forget_jobs(cut).unwrap(), before - self.model.jobs.len());
    }

    fn reopen(&mut self) {
        let id = self.store().snapshot().id();
        self.held.clear();
        self.store = None;
        self.store = Some(open(&self.dir));
        assert_eq!(self.store().snapshot().id(), id);
        for job in self.model.jobs.values_mut().filter(|job| job.state == JobState::Running) {
            job.state = JobState::Queued;
        }
    }

    fn check(&self) {
        let store = self.store();
        assert_eq!(tables_of(&store.snapshot()), self.model.tables);
        for (snapshot, tables) in &self.held {
            assert_eq!(&tables_of(snapshot), tables, "a snapshot changed under its holder");
        }
        let jobs: BTreeMap<_, _> = store.jobs().unwrap().into_iter().map(|job| (job.id.clone(), job)).collect();
        assert_eq!(jobs, self.model.jobs);
        let mut wanted: Vec<PathBuf> = self.model.garbage.keys().cloned().collect();
        wanted.extend(self.model.tables.values().flat_map(|table| table.partitions.values().map(|p| p.2.clone())));
        wanted.sort();
        assert_eq!(files(self.dir.path()), wanted);
    }
}

fn is_live(job: &JobRecord) -> bool {
    matches!(job.state, JobState::Queued | JobState::Running)
}

fn tables_of(snapshot: &Snapshot) -> BTreeMap<TableId, ModelTable> {
    let table_of = |table: &quarry_storage::Table| ModelTable {
        state: table.state,
        partitions: table
            .partitions
            .iter()
            .map(|(start, p)| (*start, (p.rows, p.refresh_key.clone(), p.path.clone())))
            .collect(),
    };
    snapshot.tables().map(|(id, table)| (id.clone(), table_of(table))).collect()
}

#[track_caller]
fn check(seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let store = Some(open(&dir));
    let mut life = Life { dir, store, model: Model::default(), held: Vec::new(), used_paths: BTreeSet::new(), now: 0 };
    let mut random = Random(seed);
    for _ in 0..STEPS {
        life.step(&mut random);
        life.check();
    }
}

#[test]
fn a_random_life_follows_the_model_with_seed_1() {
    check(1);
}

#[test]
fn a_random_life_follows_the_model_with_seed_2() {
    check(0x9E37_79B9_7F4A_7C15);
}

#[test]
fn a_random_life_follows_the_model_with_seed_3() {
    check(20_261_115);
}
