//! Where data come from: one variant a kind of source. Today the embedded one, files under `data/`.

mod columns;
pub mod files;
mod folder;

use std::path::PathBuf;
use std::sync::Arc;

use crate::engine::{BatchStream, Batches, Engine, EngineError};

/// A source of rows that understands SQL.
#[derive(Debug, Clone)]
pub enum Source {
    /// Files of the project folder, through the embedded engine.
    Files(Arc<files::FileCatalog>, Engine),
}

impl Source {
    /// The embedded source over `project/data`.
    pub fn files(project: PathBuf, engine: Engine) -> Self {
        Self::Files(Arc::new(files::FileCatalog::new(project)), engine)
    }

    /// The same tables, read by another engine: with memory of its own.
    pub fn on(&self, engine: Engine) -> Self {
        match self {
            Self::Files(catalog, _) => Self::Files(Arc::clone(catalog), engine),
        }
    }

    /// The word for `dbType` in answers.
    pub fn db_type(&self) -> &'static str {
        match self {
            Self::Files(..) => "datafusion",
        }
    }

    /// Runs a statement to its end.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn collect(&self, sql: String) -> Result<Batches, EngineError> {
        match self {
            Self::Files(catalog, engine) => engine.collect(sql, catalog.provider()).await,
        }
    }

    /// Starts a statement.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn stream(&self, sql: String) -> Result<BatchStream, EngineError> {
        match self {
            Self::Files(catalog, engine) => engine.stream(sql, catalog.provider()).await,
        }
    }
}
