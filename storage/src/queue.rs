//! Durable job records.
//!
//! A job is queued → running → done, failed or cancelled. The catalog is written first, memory after it, both
//! under the store's lock. [`Store::publish`] ends a job as done, in the same batch that publishes its partition.
//! Who runs a job holds a [`Lease`]: once somebody else has ended the job, that worker can do nothing to it.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use crate::catalog::Batch;
use crate::store::State;
use crate::{FileId, JobId, Lease, PartitionKey, StorageError, Store, TableId};

/// Most jobs that may be queued or running.
const MAX_LIVE_JOBS: usize = 100_000;

/// A job to enqueue.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// What to build.
    pub partition: PartitionKey,
    /// The caller's JSON: kept, not read.
    pub details: String,
    /// The caller's digest of who asked; equal live jobs are one.
    pub context: String,
    /// The group that it is of, if any: all jobs of a group are enqueued at once, published in one step by
    /// [`Store::publish_all`], and fail or are cancelled together.
    pub group: Option<String>,
}

/// A job as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRecord {
    /// Its token.
    pub id: JobId,
    /// What it builds.
    pub partition: PartitionKey,
    /// The caller's JSON.
    pub details: String,
    /// The caller's digest of who asked.
    pub context: String,
    /// Where it stands.
    pub state: JobState,
    /// How often it was started.
    pub attempt: u32,
    /// UTC microseconds.
    pub created_at: i64,
    /// UTC microseconds of the last start.
    pub started_at: Option<i64>,
    /// UTC microseconds.
    pub ended_at: Option<i64>,
    /// The group that it is of, if any: its jobs end together, in the same way.
    pub group: Option<String>,
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    /// Waits for a worker.
    Queued,
    /// A worker builds it.
    Running,
    /// Its partition is published.
    Done {
        /// The file published.
        file: FileId,
        /// How large it is; none for a job that was done under format 1 of the store.
        output: Option<JobOutput>,
    },
    /// The build failed.
    Failed {
        /// Why.
        cause: String,
    },
    /// Somebody did not want it any more; what was published before stays.
    Cancelled,
}

impl JobState {
    /// Whether the job has come to its end, which it never leaves.
    pub fn has_ended(&self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Done { .. } | Self::Failed { .. } | Self::Cancelled => true,
        }
    }
}

/// What a done job has published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobOutput {
    /// Rows of the partition.
    pub rows: u64,
    /// Bytes of its file.
    pub size_bytes: u64,
}

/// What became of the wish to cancel a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CancelOutcome {
    /// It waited, and will not be built. The record as it is now.
    WasQueued(JobRecord),
    /// It ran, and cannot publish any more; its build ends soon. The record as it is now.
    WasRunning(JobRecord),
    /// It had come to its end before: nothing has changed.
    HadEnded(JobRecord),
    /// No such job.
    Unknown,
}

impl Store {
    /// Enqueues; a live job of the same partition and context is joined and its token given.
    /// The tokens are in the order of `jobs`.
    ///
    /// # Errors
    /// The catalog cannot be written, or too many jobs are waiting already (`Transient`); no job was added then.
    pub fn enqueue(&self, jobs: &[NewJob], now: i64) -> Result<Vec<JobId>, StorageError> {
        let mut state = self.lock()?;
        let mut batch = Batch::default();
        let mut added: Vec<JobRecord> = Vec::new();
        let mut added_ids: HashMap<(&PartitionKey, &str), JobId> = HashMap::new();
        let mut ids = Vec::with_capacity(jobs.len());
        for job in jobs {
            let request = (&job.partition, job.context.as_str());
            let known = state.jobs.find_equal(request.0, request.1).map(|job| &job.id).or(added_ids.get(&request));
            if let Some(id) = known {
                ids.push(id.clone());
                continue;
            }
            let record = JobRecord {
                id: JobId(Arc::from(uuid::Uuid::new_v4().simple().to_string())),
                partition: job.partition.clone(),
                details: job.details.clone(),
                context: job.context.clone(),
                state: JobState::Queued,
                attempt: 0,
                created_at: now,
                started_at: None,
                ended_at: None,
                group: job.group.clone(),
            };
            batch.put_job(&record);
            added_ids.insert(request, record.id.clone());
            ids.push(record.id.clone());
            added.push(record);
        }
        if state.jobs.len() + added.len() > MAX_LIVE_JOBS {
            return Err(StorageError::TooManyJobs { limit: MAX_LIVE_JOBS });
        }
        self.inner.catalog.commit(batch)?;
        added.into_iter().for_each(|job| state.jobs.put(job));
        Ok(ids)
    }

    /// Takes all queued jobs of one partition that nobody builds; none when there is nothing to do. Jobs of different
    /// groups are taken one group at a time, the oldest first.
    ///
    /// The partition of the oldest job comes first, at equal age that of the newest bucket. The jobs run from now
    /// on: the caller holds their leases, says how it goes with [`Store::report`], and ends them with
    /// [`Store::publish`] or [`Store::fail`].
    ///
    /// # Errors
    /// The catalog cannot be written; nothing was taken then.
    pub fn claim(&self, now: i64) -> Result<Option<Vec<JobRecord>>, StorageError> {
        self.claim_if(now, &|_| true)
    }

    /// As [`Store::claim`], of the partitions whose oldest job is admitted.
    ///
    /// # Errors
    /// The catalog cannot be written; nothing was taken then.
    pub fn claim_if(
        &self,
        now: i64,
        admits: &dyn Fn(&JobRecord) -> bool,
    ) -> Result<Option<Vec<JobRecord>>, StorageError> {
        let mut state = self.lock()?;
        let claimed: Vec<JobRecord> = state.jobs.next(admits).into_iter().map(|job| started(job, now)).collect();
        if claimed.is_empty() {
            return Ok(None);
        }
        self.start_jobs(&mut state, &claimed, now)?;
        Ok(Some(claimed))
    }

    /// Takes the queued jobs of further partitions of a table as [`Store::claim`] does, by partition, for who builds
    /// several in one go. Asks `takes` about each partition in order, until it says no.
    ///
    /// # Errors
    /// The catalog cannot be written; nothing was taken then.
    pub fn claim_more(
        &self,
        table: &TableId,
        now: i64,
        takes: &mut dyn FnMut(&PartitionKey) -> bool,
    ) -> Result<Vec<Vec<JobRecord>>, StorageError> {
        let mut state = self.lock()?;
        let ready = state.jobs.ready_of(table).into_iter();
        let taken = ready.take_while(|jobs| jobs.first().is_some_and(|job| takes(&job.partition)));
        let claimed: Vec<Vec<JobRecord>> =
            taken.map(|jobs| jobs.into_iter().map(|job| started(job, now)).collect()).collect();
        self.start_jobs(&mut state, &claimed.concat(), now)?;
        Ok(claimed)
    }

    /// Writes jobs that run from now on.
    fn start_jobs(&self, state: &mut State, started: &[JobRecord], now: i64) -> Result<(), StorageError> {
        if started.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        started.iter().for_each(|job| batch.put_job(job));
        self.inner.catalog.commit(batch)?;
        self.inner.leases.grant(started, now);
        started.iter().for_each(|job| state.jobs.put(job.clone()));
        Ok(())
    }

    /// Ends running jobs as failed, and with them what is of their groups. Jobs whose lease is not held (any more) stay
    /// as they are.
    ///
    /// # Errors
    /// The catalog cannot be written; no job has ended then.
    pub fn fail(&self, leases: &[Lease], cause: &str, now: i64) -> Result<(), StorageError> {
        let mut state = self.lock()?;
        let running: Vec<&JobRecord> = leases.iter().filter_map(|lease| state.jobs.find_leased(lease)).collect();
        let end = |job: &JobRecord, cause: &str| {
            let state = JobState::Failed { cause: cause.to_owned() };
            JobRecord { state, ended_at: Some(now), ..job.clone() }
        };
        let companions = state.jobs.companions(&running);
        let other = format!("a partition that was to be published with it was not built: {cause}");
        let failed: Vec<JobRecord> = running
            .iter()
            .map(|job| end(job, cause))
            .chain(companions.into_iter().map(|job| end(job, &other)))
            .collect();
        self.end_jobs(&mut state, &failed)
    }

    /// Cancels jobs, all at once. One that waits is never built. One that runs loses its lease: its build can
    /// publish nothing from here on, and its worker learns of that from [`Store::report`]. A build that several
    /// jobs share goes on for the others. What is of the group of a cancelled job is cancelled too. The outcomes are in
    /// the order of `jobs`.
    ///
    /// # Errors
    /// The catalog cannot be read or written; no job was cancelled then.
    pub fn cancel(&self, jobs: &[JobId], now: i64) -> Result<Vec<CancelOutcome>, StorageError> {
        let mut state = self.lock()?;
        let mut outcomes = Vec::with_capacity(jobs.len());
        let mut cancelled: Vec<JobRecord> = Vec::new();
        for id in jobs {
            let known = cancelled.iter().find(|job| job.id == *id);
            let outcome = match (known, state.jobs.find(id)) {
                // Named twice.
                (Some(job), _) => CancelOutcome::HadEnded(job.clone()),
                (None, Some(live)) => {
                    let end = |job: &JobRecord| cancelled_at(job, now);
                    let job = end(live);
                    cancelled.push(job.clone());
                    cancelled.extend(state.jobs.companions(&[live]).into_iter().map(end));
                    match live.state {
                        JobState::Running => CancelOutcome::WasRunning(job),
                        _ => CancelOutcome::WasQueued(job),
                    }
                }
                (None, None) => {
                    let ended = self.inner.catalog.find_job(id)?;
                    ended.map_or(CancelOutcome::Unknown, CancelOutcome::HadEnded)
                }
            };
            outcomes.push(outcome);
        }
        self.end_jobs(&mut state, &cancelled)?;
        Ok(outcomes)
    }

    /// Whether these leases are those of all jobs of a group: what is to be published in one step is there. False once
    /// one of them is lost.
    ///
    /// # Errors
    /// An earlier panic left the store in doubt.
    pub fn completes_group(&self, group: &str, leases: &[Lease]) -> Result<bool, StorageError> {
        let state = self.lock()?;
        let is_of_it = |lease| state.jobs.find_leased(lease).is_some_and(|job| job.group.as_deref() == Some(group));
        // Asked with every partition of a large group: the number alone mostly says no.
        Ok(state.jobs.group_size(group) == leases.len() && leases.iter().all(is_of_it))
    }

    /// Writes jobs that have ended, then forgets them as live ones.
    fn end_jobs(&self, state: &mut State, ended: &[JobRecord]) -> Result<(), StorageError> {
        let mut batch = Batch::default();
        ended.iter().for_each(|job| batch.put_job(job));
        self.inner.catalog.commit(batch)?;
        ended.iter().for_each(|job| state.jobs.remove(&job.id));
        self.inner.leases.end(ended.iter().map(|job| &job.id));
        Ok(())
    }

    /// The job of a token. The snapshot from here on has what a job that is done has published.
    ///
    /// # Errors
    /// The catalog cannot be read, or an earlier panic left the store in doubt.
    pub fn find_job(&self, id: &JobId) -> Result<Option<JobRecord>, StorageError> {
        let job = self.inner.catalog.find_job(id)?;
        self.wait_for_publish()?;
        Ok(job)
    }

    /// All jobs, newest first; at equal age by partition. The snapshot from here on has what those that are done
    /// have published.
    ///
    /// # Errors
    /// The catalog cannot be read, or an earlier panic left the store in doubt.
    pub fn jobs(&self) -> Result<Vec<JobRecord>, StorageError> {
        let mut jobs = self.inner.catalog.jobs()?;
        self.wait_for_publish()?;
        jobs.sort_by(|a, b| {
            (Reverse(a.created_at), &a.partition, &a.id).cmp(&(Reverse(b.created_at), &b.partition, &b.id))
        });
        Ok(jobs)
    }

    /// The catalog has the end of a job a moment before the snapshot has its partition, both under the lock. Who has
    /// read the one waits here for the other.
    fn wait_for_publish(&self) -> Result<(), StorageError> {
        self.lock().map(drop)
    }

    /// Forgets ended jobs that ended before `ended_before`; gives their number.
    ///
    /// # Errors
    /// The catalog cannot be written; none is forgotten then.
    pub fn forget_jobs(&self, ended_before: i64) -> Result<usize, StorageError> {
        let _state = self.lock()?;
        let mut batch = Batch::default();
        let mut forgotten = 0;
        for job in self.inner.catalog.jobs()? {
            // Only ended jobs have an end, and they never change again.
            if job.ended_at.is_some_and(|ended_at| ended_at < ended_before) {
                batch.delete_job(&job.id);
                forgotten += 1;
            }
        }
        self.inner.catalog.commit(batch)?;
        Ok(forgotten)
    }
}

/// The record of a job that is cancelled.
pub(crate) fn cancelled_at(job: &JobRecord, now: i64) -> JobRecord {
    JobRecord { state: JobState::Cancelled, ended_at: Some(now), ..job.clone() }
}

fn started(job: &JobRecord, now: i64) -> JobRecord {
    JobRecord { state: JobState::Running, attempt: job.attempt.saturating_add(1), started_at: Some(now), ..job.clone() }
}
