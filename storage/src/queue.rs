//! Durable job records.
//!
//! A job is queued → running → done or failed. The catalog is written first, memory after it, both under the
//! store's lock. [`Store::publish`] ends a job as done, in the same batch that publishes its partition.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use crate::catalog::Batch;
use crate::{FileId, JobId, PartitionKey, StorageError, Store};

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
    },
    /// The build failed.
    Failed {
        /// Why.
        cause: String,
    },
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

    /// Takes all queued jobs of one partition that nobody builds; none when there is nothing to do.
    ///
    /// The partition of the oldest job comes first, at equal age that of the newest bucket. The jobs run from now
    /// on: the caller ends them with [`Store::publish`] or [`Store::fail`].
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
        let start = |job: &JobRecord| JobRecord {
            state: JobState::Running,
            attempt: job.attempt.saturating_add(1),
            started_at: Some(now),
            ..job.clone()
        };
        let claimed: Vec<JobRecord> = state.jobs.next(admits).into_iter().map(start).collect();
        if claimed.is_empty() {
            return Ok(None);
        }
        let mut batch = Batch::default();
        claimed.iter().for_each(|job| batch.put_job(job));
        self.inner.catalog.commit(batch)?;
        claimed.iter().for_each(|job| state.jobs.put(job.clone()));
        Ok(Some(claimed))
    }

    /// Ends running jobs as failed. Jobs that do not run (any more) stay as they are.
    ///
    /// # Errors
    /// The catalog cannot be written; no job has ended then.
    pub fn fail(&self, jobs: &[JobId], cause: &str, now: i64) -> Result<(), StorageError> {
        let mut state = self.lock()?;
        let running = jobs.iter().filter_map(|id| state.jobs.find(id)).filter(|job| job.state == JobState::Running);
        let failed: Vec<JobRecord> = running
            .map(|job| JobRecord {
                state: JobState::Failed { cause: cause.to_owned() },
                ended_at: Some(now),
                ..job.clone()
            })
            .collect();
        let mut batch = Batch::default();
        failed.iter().for_each(|job| batch.put_job(job));
        self.inner.catalog.commit(batch)?;
        failed.iter().for_each(|job| state.jobs.remove(&job.id));
        Ok(())
    }

    /// The job of a token.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub fn find_job(&self, id: &JobId) -> Result<Option<JobRecord>, StorageError> {
        self.inner.catalog.find_job(id)
    }

    /// All jobs, newest first; at equal age by partition.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub fn jobs(&self) -> Result<Vec<JobRecord>, StorageError> {
        let mut jobs = self.inner.catalog.jobs()?;
        jobs.sort_by(|a, b| {
            (Reverse(a.created_at), &a.partition, &a.id).cmp(&(Reverse(b.created_at), &b.partition, &b.id))
        });
        Ok(jobs)
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
