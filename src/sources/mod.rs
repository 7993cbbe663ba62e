//! Where data come from: one variant a kind of source. Today the embedded one, files under `data/`.

mod columns;
pub mod files;
mod folder;

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::catalog::{CatalogProvider, TableProvider};

use crate::engine::partition_table::with_schema;
use crate::engine::{BatchStream, Batches, Engine, EngineError};
use crate::tasks::blocking;

/// Schema of the tables that a statement brings along.
pub const BROUGHT_SCHEMA: &str = "quarry_stored";

/// Tables that a statement brings along, by their names in [`BROUGHT_SCHEMA`].
pub type Brought = Vec<(String, Arc<dyn TableProvider>)>;

/// A source of rows that understands SQL.
#[derive(Debug, Clone)]
pub enum Source {
    /// Files of the project folder, through the embedded engine.
    Files(Arc<files::FileCatalog>, Engine),
}

impl Source {
    /// The embedded source over `project/data`.
    pub fn files(project: PathBuf, engine: Engine) -> Self {
        Self::files_of(project, "data", engine)
    }

    /// The embedded source over another folder of the project.
    pub fn files_of(project: PathBuf, folder: &str, engine: Engine) -> Self {
        Self::Files(Arc::new(files::FileCatalog::new(project, folder)), engine)
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

    /// Whether it answers at all.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn probe(&self) -> Result<(), EngineError> {
        self.collect("VALUES (1)".to_owned()).await.map(drop)
    }

    /// Whether to read a table once for several partitions is cheaper than to ask for each of them: files are read
    /// whole where they are not sorted by time, databases have indexes.
    pub fn is_scanned(&self) -> bool {
        match self {
            Self::Files(..) => true,
        }
    }

    /// What changes when the source is seen to change.
    pub async fn state(&self) -> u64 {
        match self {
            Self::Files(catalog, _) => {
                let catalog = Arc::clone(catalog);
                blocking(move || catalog.digest()).await
            }
        }
    }

    /// Runs a statement to its end.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn collect(&self, sql: String) -> Result<Batches, EngineError> {
        self.collect_over(sql, Vec::new()).await
    }

    /// As [`Source::collect`], with more tables.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn collect_over(&self, sql: String, tables: Brought) -> Result<Batches, EngineError> {
        match self {
            Self::Files(catalog, engine) => engine.collect(sql, over(catalog, tables)).await,
        }
    }

    /// Starts a statement, with more tables.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn stream_over(&self, sql: String, tables: Brought) -> Result<BatchStream, EngineError> {
        match self {
            Self::Files(catalog, engine) => engine.stream(sql, over(catalog, tables)).await,
        }
    }
}

fn over(catalog: &Arc<files::FileCatalog>, tables: Brought) -> Arc<dyn CatalogProvider> {
    if tables.is_empty() { catalog.provider() } else { with_schema(catalog.provider(), BROUGHT_SCHEMA, tables) }
}
