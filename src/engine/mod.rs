//! The query engine: an Apache DataFusion session on a CPU runtime of its own.
//!
//! Knows SQL, Arrow and Parquet; knows nothing of cubes, rollups or HTTP. Its face is not generic:
//! callers hand over SQL text and a catalog of tables and get record batches.
//!
//! Start with [`Engine`]; `session` has the settings and the way from text to plan.

mod coded;
pub(crate) mod error;
pub mod functions;
pub mod indexed;
mod memory;
pub mod partition_table;
pub(crate) mod pinned_files;
mod plans;
pub mod resident;
mod session;
mod short;

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::catalog::CatalogProvider;
use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use self::session::Bases;

pub use error::EngineError;
pub use plans::planning_error;

/// Batches that may wait between the engine and a reader of a stream.
const STREAM_BATCHES: usize = 2;

/// Threads a core that wait for file reads.
const FILE_THREADS: usize = 8;

/// Stack of a CPU thread in bytes: planning recurses as deep as expressions nest.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// Bounds of the engine.
#[derive(Debug, Clone, Copy)]
pub struct EngineOptions {
    /// Memory that running queries may hold together, in bytes; beyond it they spill or fail.
    pub memory_bytes: usize,
    /// Threads of the CPU runtime, and partitions of a plan.
    pub cores: usize,
}

/// Rows of a running statement. Dropping it cancels the statement.
pub struct BatchStream {
    /// The columns.
    pub schema: SchemaRef,
    /// The batches.
    pub batches: BoxStream<'static, Result<RecordBatch, EngineError>>,
}

impl fmt::Debug for BatchStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchStream").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// A finished statement's rows.
#[derive(Debug, Clone)]
pub struct Batches {
    /// The columns.
    pub schema: SchemaRef,
    /// The batches, maybe none.
    pub batches: Vec<RecordBatch>,
}

/// A handle; clones share one engine.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    threads: Arc<Threads>,
    cores: usize,
    /// What every statement starts from.
    base: Arc<Bases>,
}

/// The CPU runtime.
struct Threads {
    /// Taken when dropped.
    runtime: Option<Runtime>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting for the threads would panic when the last handle goes inside a task.
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts the CPU runtime.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub fn new(options: EngineOptions) -> Result<Self, EngineError> {
        let cannot_start = |cause: String| EngineError::Execution(format!("the query engine cannot start: {cause}"));
        let base = Bases::new(&options).map_err(|error| cannot_start(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.cores.max(1))
            .max_blocking_threads(options.cores.max(1) * FILE_THREADS)
            .thread_name("quarry-cpu")
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map_err(|error| cannot_start(error.to_string()))?;
        let threads = Arc::new(Threads { runtime: Some(runtime) });
        Ok(Self { inner: Arc::new(Inner { threads, cores: options.cores, base: Arc::new(base) }) })
    }

    /// An engine on the same threads with memory of its own, so that what runs on the one cannot starve the other.
    ///
    /// # Errors
    /// The spill folder cannot be set up.
    pub fn with_memory(&self, memory_bytes: usize) -> Result<Self, EngineError> {
        let options = EngineOptions { memory_bytes, cores: self.inner.cores };
        let base = Bases::new(&options)
            .map_err(|error| EngineError::Execution(format!("the query engine cannot start: {error}")))?;
        let threads = Arc::clone(&self.inner.threads);
        Ok(Self { inner: Arc::new(Inner { threads, cores: options.cores, base: Arc::new(base) }) })
    }

    /// Runs one SQL statement over the tables of `catalog` (default schema `public`) to its end. Dropping the
    /// future cancels the statement.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn collect(&self, sql: String, catalog: Arc<dyn CatalogProvider>) -> Result<Batches, EngineError> {
        let base = Arc::clone(&self.inner.base);
        let task = self.spawn(async move {
            let mut statement = session::start(&base, &sql, catalog).await?;
            let schema = statement.stream.schema();
            let batches = statement.stream.by_ref().try_collect().await;
            let batches = batches.map_err(|error| statement.error(&error))?;
            Ok(Batches { schema, batches })
        });
        task.await.map_err(stopped)?
    }

    /// Starts one SQL statement; its batches are made as they are asked for.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn stream(&self, sql: String, catalog: Arc<dyn CatalogProvider>) -> Result<BatchStream, EngineError> {
        let base = Arc::clone(&self.inner.base);
        self.streamed(async move { session::start(&base, &sql, catalog).await }).await
    }

    /// The rows of what `start` starts.
    async fn streamed(
        &self,
        start: impl Future<Output = plans::Started> + Send + 'static,
    ) -> Result<BatchStream, EngineError> {
        let (schema_sender, schema) = oneshot::channel();
        let (sender, receiver) = mpsc::channel(STREAM_BATCHES);
        let task = self.spawn(async move {
            let mut statement = start.await?;
            // A send fails when the reader is gone; so is this task, then.
            let _gone = schema_sender.send(statement.stream.schema());
            while let Some(batch) = statement.stream.next().await {
                let batch = batch.map_err(|error| statement.error(&error))?;
                if sender.send(batch).await.is_err() {
                    break;
                }
            }
            Ok(())
        });
        let Ok(schema) = schema.await else {
            return Err(end_of(task)
                .await
                .unwrap_or_else(|| EngineError::Execution("the statement stopped".to_owned())));
        };
        // The engine lives at least as long as its streams.
        let reader = Reader { receiver, task: Some(task), _engine: self.clone() };
        let batches = futures::stream::unfold(reader, |mut reader| async move {
            let next = reader.next().await?;
            Some((next, reader))
        });
        Ok(BatchStream { schema, batches: batches.boxed() })
    }

    fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> AbortOnDropHandle<T> {
        let runtime =
            self.inner.threads.runtime.as_ref().expect("the runtime is taken only when the engine is dropped");
        AbortOnDropHandle::new(runtime.spawn(future))
    }
}

/// The reading end of a stream.
struct Reader {
    receiver: mpsc::Receiver<RecordBatch>,
    /// None once its end was seen.
    task: Option<AbortOnDropHandle<Result<(), EngineError>>>,
    _engine: Engine,
}

impl Reader {
    /// The next batch; the error that ended the task comes last. A task that just vanished is an error too:
    /// rows would be missing.
    async fn next(&mut self) -> Option<Result<RecordBatch, EngineError>> {
        if let Some(batch) = self.receiver.recv().await {
            return Some(Ok(batch));
        }
        end_of(self.task.take()?).await.map(Err)
    }
}

/// The error that a statement ended with.
async fn end_of(task: AbortOnDropHandle<Result<(), EngineError>>) -> Option<EngineError> {
    task.await.map_err(stopped).and_then(|result| result).err()
}

/// A task that did not end by itself.
fn stopped(error: JoinError) -> EngineError {
    match error.try_into_panic() {
        Ok(panic) => {
            let text = panic_text(panic.as_ref());
            tracing::error!(panic = text, "a statement panicked");
            EngineError::Execution(format!("the query engine failed: {text}"))
        }
        Err(_cancelled) => EngineError::Execution("the statement was cancelled".to_owned()),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown cause")
}

/// What tests of several rooms share.
#[cfg(test)]
pub(crate) mod testing {
    use arrow::util::display::{ArrayFormatter, FormatOptions};

    use super::*;

    /// A small engine.
    pub(crate) fn engine() -> Engine {
        Engine::new(EngineOptions { memory_bytes: 256 * 1024 * 1024, cores: 2 }).unwrap()
    }

    /// The rows of a statement, values joined by `|`.
    pub(crate) async fn rows(
        engine: &Engine,
        sql: &str,
        catalog: Arc<dyn CatalogProvider>,
    ) -> Result<Vec<String>, EngineError> {
        Ok(texts(&engine.collect(sql.to_owned(), catalog).await?.batches))
    }

    pub(crate) fn texts(batches: &[RecordBatch]) -> Vec<String> {
        let options = FormatOptions::default().with_null("NULL");
        let mut rows = Vec::new();
        for batch in batches {
            let columns: Vec<_> =
                batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
            rows.extend(
                (0..batch.num_rows()).map(|row| {
                    columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join("|")
                }),
            );
        }
        rows
    }
}

#[cfg(test)]
mod statements;
