//! How far running jobs have come, and whether they may go on.
//!
//! Kept in memory only: after a restart every unfinished job begins anew, so that an old progress would be
//! a lie. It has a lock of its own, which is never held during a write: reporting costs a look-up.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{JobId, JobRecord, Store};

/// The right to end one attempt of a job: [`Store::claim`] gives it, and the end of the job takes it away,
/// whoever ends it. An attempt whose lease is gone can neither publish nor fail the job.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The job.
    pub job: JobId,
    /// Which of its attempts.
    pub attempt: u32,
}

impl JobRecord {
    /// The lease of the attempt that the record is in.
    pub fn lease(&self) -> Lease {
        Lease { job: self.id.clone(), attempt: self.attempt }
    }
}

/// What a running job is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JobPhase {
    /// Claimed; finds out what to ask the source.
    #[default]
    Planning,
    /// Waits for the first rows of the source.
    Querying,
    /// Rows arrive and are written.
    Writing,
    /// The file is complete; it is published with those of its group, once all are.
    Waiting,
    /// The file is complete; it is checked and published.
    Publishing,
}

/// How far a running job has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// What it is at.
    pub phase: JobPhase,
    /// Rows received from the source so far.
    pub rows: u64,
    /// Bytes written so far; trails behind the rows, which are sorted before they are written.
    pub size_bytes: u64,
    /// When that was said, in UTC microseconds.
    pub updated_at: i64,
}

/// The leases that are held, with what their holders said last.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<HashMap<JobId, (u32, Progress)>>);

impl Leases {
    pub(crate) fn grant(&self, jobs: &[JobRecord], now: i64) {
        let progress = Progress { updated_at: now, ..Progress::default() };
        self.lock().extend(jobs.iter().map(|job| (job.id.clone(), (job.attempt, progress))));
    }

    pub(crate) fn end<'a>(&self, jobs: impl IntoIterator<Item = &'a JobId>) {
        let mut held = self.lock();
        for job in jobs {
            held.remove(job);
        }
    }

    /// A map is whole after every statement here, also in a thread that panicked.
    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, (u32, Progress)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Notes how far the build of these leases has come. Gives whether any of them is still held: if not, all
    /// jobs were cancelled or ended by somebody else, and the build should stop. Never waits for the disk.
    pub fn report(&self, leases: &[Lease], progress: Progress) -> bool {
        let mut held = self.inner.leases.lock();
        let mut any = false;
        for lease in leases {
            if let Some((attempt, known)) = held.get_mut(&lease.job)
                && *attempt == lease.attempt
            {
                *known = progress;
                any = true;
            }
        }
        any
    }

    /// Whether any of the leases is still held. Never waits for the disk.
    pub fn holds_any(&self, leases: &[Lease]) -> bool {
        let held = self.inner.leases.lock();
        leases.iter().any(|lease| held.get(&lease.job).is_some_and(|(attempt, _)| *attempt == lease.attempt))
    }

    /// How far a running job has come; none when it does not run.
    pub fn progress(&self, job: &JobId) -> Option<Progress> {
        self.inner.leases.lock().get(job).map(|(_, progress)| *progress)
    }
}
