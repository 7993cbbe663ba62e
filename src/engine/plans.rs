//! Plans that others make: what statements start from, for planning and rewriting elsewhere, and running the result.

use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;

use super::error::Phase;
use super::session::{self, Running};
use super::{BatchStream, Engine, EngineError, stopped};

impl Engine {
    /// A copy of what every statement starts from: functions, rules and settings, and no tables.
    pub fn state(&self) -> SessionState {
        let mut state = self.inner.base.whole.clone();
        state.mark_start_execution();
        state
    }

    /// Runs work of the processor (parsing, planning) on the engine's threads, whose stacks are deep enough for it.
    ///
    /// # Errors
    /// It panicked.
    pub async fn on_threads<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, EngineError> {
        self.spawn(work).await.map_err(stopped)
    }

    /// Starts a plan; its batches are made as they are asked for.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn stream_plan(&self, state: Arc<SessionState>, plan: LogicalPlan) -> Result<BatchStream, EngineError> {
        self.streamed(async move { session::start_plan(&state, &plan).await }).await
    }
}

/// What cannot be planned, in words for clients.
pub fn planning_error(error: &DataFusionError) -> EngineError {
    EngineError::from_datafusion(error, Phase::Planning)
}

/// See [`Engine::stream_plan`].
pub(super) type Started = Result<Running, EngineError>;
