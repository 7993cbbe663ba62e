//! Starts and stops background tasks: the only place that calls `tokio::spawn`.
//!
//! A part of the program owns one group, a [`Tasks`]. Every task has a name for the log, sees one stop signal
//! and is waited for at shutdown; a panic costs a task's current step, not the process.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Pause before a task that panicked starts again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// A group of tasks that stop together. Clones share one group.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    /// Fires when the patience of [`Tasks::drain`] is over.
    abort: CancellationToken,
}

/// Why a task has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskFailure {
    /// It panicked; with the panic's message.
    Panicked(String),
    /// The group was drained and the task did not end in time.
    Aborted,
}

impl fmt::Display for TaskFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(message) => write!(f, "internal error: {message}"),
            Self::Aborted => f.write_str("the server was stopped"),
        }
    }
}

impl std::error::Error for TaskFailure {}

impl Tasks {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// The signal that tells tasks to end: they finish what they do and return.
    pub fn stop_signal(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task that lives until the group stops. `body` makes its future; when that panics, the
    /// panic is logged and the task starts anew after a second. Must be called within a tokio runtime.
    pub fn spawn<F, Fut>(&self, name: &'static str, mut body: F)
    where
        F: FnMut() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (stop, abort) = (self.stop.clone(), self.abort.clone());
        let supervised = async move {
            while let Err(panic) = AssertUnwindSafe(body()).catch_unwind().await {
                tracing::error!(task = name, panic = panic_message(panic.as_ref()), "task panicked");
                // Losing the pause is harmless: the group is stopping.
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(RESTART_PAUSE) => {}
                }
            }
        };
        // Losing `supervised` is what `drain` promises to tasks that outlast its patience.
        self.tracker.spawn(async move {
            tokio::select! {
                () = supervised => {}
                () = abort.cancelled() => tracing::warn!(task = name, "task did not stop in time"),
            }
        });
    }

    /// Runs one piece of work as a task of the group and waits for it. The work goes on when the
    /// waiting future is dropped.
    ///
    /// # Errors
    /// The work panicked, or was aborted by [`Tasks::drain`].
    pub async fn run<T, Fut>(&self, work: Fut) -> Result<T, TaskFailure>
    where
        T: Send + 'static,
        Fut: Future<Output = T> + Send + 'static,
    {
        let abort = self.abort.clone();
        let task = self.tracker.spawn(async move {
            // Losing `work` is what `drain` promises to tasks that outlast its patience.
            tokio::select! {
                done = work => Some(done),
                () = abort.cancelled() => None,
            }
        });
        match task.await {
            Ok(Some(done)) => Ok(done),
            Ok(None) => Err(TaskFailure::Aborted),
            Err(failure) => match failure.try_into_panic() {
                Ok(panic) => Err(TaskFailure::Panicked(panic_message(panic.as_ref()).to_owned())),
                Err(_) => Err(TaskFailure::Aborted),
            },
        }
    }

    /// Starts one piece of work that nobody waits for; it ends by itself. A panic in it is logged. Must be called within
    /// a tokio runtime.
    pub fn start<Fut>(&self, name: &'static str, work: Fut)
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        let abort = self.abort.clone();
        self.tracker.spawn(async move {
            // Losing the work is what `drain` promises to tasks that outlast its patience.
            tokio::select! {
                done = AssertUnwindSafe(work).catch_unwind() => if let Err(panic) = done {
                    tracing::error!(task = name, panic = panic_message(panic.as_ref()), "task panicked");
                },
                () = abort.cancelled() => {}
            }
        });
    }

    /// Tells all tasks to stop.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Stops the group and waits until its tasks have ended; those that have not after `patience` are
    /// aborted at their next `await`. Gives whether all ended by themselves.
    pub async fn drain(&self, patience: Duration) -> bool {
        self.stop();
        self.tracker.close();
        if tokio::time::timeout(patience, self.tracker.wait()).await.is_ok() {
            return true;
        }
        self.abort.cancel();
        self.tracker.wait().await;
        false
    }
}

/// Runs blocking work (the catalog, local files) on the blocking pool. Once begun it runs to its end,
/// even when the waiting future is dropped. A panic in it goes on in the caller.
pub async fn blocking<T, F>(work: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failure) => match failure.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down and never began the work; it will not poll us again either.
            Err(_) => std::future::pending().await,
        },
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without message")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_starts_again() {
        let tasks = Tasks::new();
        let starts = Arc::new(AtomicUsize::new(0));
        let (done, ended) = tokio::sync::mpsc::channel(1);
        let seen = Arc::clone(&starts);
        tasks.spawn("flaky", move || {
            let (seen, done) = (Arc::clone(&seen), done.clone());
            async move {
                assert!(seen.fetch_add(1, Ordering::SeqCst) > 0, "the first start fails");
                done.send(()).await.expect("the test waits");
            }
        });
        let mut ended = ended;
        ended.recv().await.expect("the second start ends");
        assert_eq!(starts.load(Ordering::SeqCst), 2);
        assert!(tasks.drain(Duration::from_secs(60)).await);
    }

    #[tokio::test]
    async fn work_that_panics_says_why() {
        let tasks = Tasks::new();
        let failed = tasks.run(async { panic!("boom {}", 1) }).await;
        assert_eq!(failed, Err::<(), _>(TaskFailure::Panicked("boom 1".to_owned())));
        assert_eq!(tasks.run(async { 7 }).await, Ok(7));
    }

    #[tokio::test]
    async fn draining_waits_for_work_and_aborts_what_lasts_too_long() {
        let tasks = Tasks::new();
        let stop = tasks.stop_signal();
        tasks.spawn("polite", move || {
            let stop = stop.clone();
            async move {
                stop.cancelled().await;
                blocking(|| ()).await;
            }
        });
        assert!(tasks.drain(Duration::from_secs(60)).await, "ends within the patience");

        let stubborn = Tasks::new();
        stubborn.spawn("stubborn", std::future::pending);
        assert!(!stubborn.drain(Duration::ZERO).await, "never ends by itself");
    }

    #[tokio::test]
    async fn blocking_work_hands_back_its_result() {
        assert_eq!(blocking(|| 6 * 7).await, 42);
    }
}
