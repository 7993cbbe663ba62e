//! Sessions: what every statement shares, and the way from SQL text to a running plan.

use std::sync::Arc;

use datafusion::catalog::{CatalogProvider, CatalogProviderList, TableProvider};
use datafusion::common::config::Dialect;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::listing::ListingTable;
use datafusion::datasource::source_as_provider;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::context::SQLOptions;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;

use super::EngineOptions;
use super::coded::with_codes;
use super::error::{EngineError, Phase, reading_failed};
use super::functions::{DecimalPlanner, MicrosecondPlanner, aggregate_functions, scalar_functions};
use super::indexed::IndexedTable;
use super::memory::SharedMemory;
use super::partition_table::{PARALLEL_ROWS, PartitionTable};
use super::pinned_files::pinned;
use super::resident::ResidentTable;
use super::short;

/// The catalog and the schema that unqualified names are looked up in.
const CATALOG: &str = "quarry";
pub(super) const SCHEMA: &str = "public";

/// Bytes of Parquet footers kept in memory.
const METADATA_CACHE_BYTES: usize = 256 * 1024 * 1024;

/// Smallest file that several threads share.
const SPLIT_FILE_BYTES: usize = 4 * 1024 * 1024;

/// Rows of a source from which on it pays to look how its files are encoded.
const CODED_ROWS: u64 = 1_000;

/// Nesting of parentheses and operators that the parser follows; generated filters nest deeper than its
/// default of 50.
const PARSER_DEPTH: usize = 256;

/// What statements start from.
pub(super) struct Bases {
    /// Any statement.
    pub(super) whole: SessionState,
    /// Plain ones over few rows in memory.
    short: SessionState,
}

impl Bases {
    /// # Errors
    /// The spill folder cannot be set up.
    pub(super) fn new(options: &EngineOptions) -> Result<Self> {
        let whole = base_state(options)?;
        let short = short::state(&whole);
        Ok(Self { whole, short })
    }
}

/// The state that statements start from: functions, rules, settings, memory and caches.
///
/// # Errors
/// The spill folder cannot be set up.
pub(super) fn base_state(options: &EngineOptions) -> Result<SessionState> {
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(SharedMemory::new(options.memory_bytes)))
        .with_metadata_cache_limit(METADATA_CACHE_BYTES)
        // A kept listing would hide files that changed.
        .with_object_list_cache_limit(0)
        .build_arc()?;
    let mut builder = SessionStateBuilder::new_with_default_features()
        .with_config(session_config(options)?)
        .with_runtime_env(runtime)
        .with_physical_optimizer_rules(physical_rules())
        .with_type_planner(Arc::new(MicrosecondPlanner));
    builder.expr_planners().get_or_insert_default().insert(0, Arc::new(DecimalPlanner));
    builder.scalar_functions().get_or_insert_default().extend(scalar_functions());
    builder.aggregate_functions().get_or_insert_default().extend(aggregate_functions());
    Ok(builder.build())
}

/// The engine's own rules, but for the second time that it pushes projections down. Then filters have projections of
/// their own, and columns are taken for others that have their names: with keys of several tables that are all called
/// `id`, planning fails, or worse.
fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    let is_push = |name: &str| name == "ProjectionPushdown";
    let first = rules.iter().position(|rule| is_push(rule.name()));
    let last = rules.iter().rposition(|rule| is_push(rule.name()));
    if let Some(last) = last.filter(|last| first != Some(*last)) {
        rules.remove(last);
    }
    rules
}

fn session_config(options: &EngineOptions) -> Result<SessionConfig> {
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(false)
        .with_target_partitions(options.cores.max(1))
        .with_repartition_file_min_size(SPLIT_FILE_BYTES)
        .with_collect_statistics(true);
    let settings = config.options_mut();
    // With equally named columns on both sides it can drop rows (datafusion issues 25262 and 25263).
    settings.optimizer.enable_join_dynamic_filter_pushdown = false;
    settings.execution.time_zone = Some("+00:00".to_owned());
    settings.sql_parser.dialect = Dialect::PostgreSQL;
    settings.sql_parser.parse_float_as_decimal = true;
    settings.sql_parser.recursion_limit = datafusion::common::config::ConfigNonZeroUsize::try_new(PARSER_DEPTH)?;
    Ok(config)
}

/// A statement that runs.
pub(super) struct Running {
    /// Its rows.
    pub(super) stream: SendableRecordBatchStream,
    /// The partition tables it reads.
    tables: Vec<Arc<dyn TableProvider>>,
}

impl Running {
    /// Puts what ended the rows into words; looks for the file when reading one failed.
    pub(super) fn error(&self, error: &DataFusionError) -> EngineError {
        explain(error, &self.tables)
    }
}

fn explain(error: &DataFusionError, tables: &[Arc<dyn TableProvider>]) -> EngineError {
    if reading_failed(error) {
        let broken = tables.iter().find_map(|table| match table.downcast_ref::<PartitionTable>() {
            Some(files) => files.find_broken_file(),
            None => table.downcast_ref::<IndexedTable>()?.find_broken_file(),
        });
        if let Some(broken) = broken {
            return EngineError::Execution(broken.to_string());
        }
    }
    EngineError::from_datafusion(error, Phase::Running)
}

/// Starts a plan over tables in memory on the current runtime.
///
/// # Errors
/// See [`EngineError`].
pub(super) async fn start_plan(state: &SessionState, plan: &LogicalPlan) -> Result<Running, EngineError> {
    let planning = |error: DataFusionError| EngineError::from_datafusion(&error, Phase::Planning);
    let plan = state.create_physical_plan(plan).await.map_err(planning)?;
    let stream = execute_stream(plan, state.task_ctx()).map_err(|error| explain(&error, &[]))?;
    Ok(Running { stream, tables: Vec::new() })
}

/// Plans one statement over `catalog` and starts it on the current runtime.
///
/// # Errors
/// See [`EngineError`].
pub(super) async fn start(bases: &Bases, sql: &str, catalog: Arc<dyn CatalogProvider>) -> Result<Running, EngineError> {
    let planning = |error: DataFusionError| EngineError::from_datafusion(&error, Phase::Planning);
    let mut state = bases.whole.clone();
    state.register_catalog_list(Arc::new(OneCatalog(catalog)));
    state.mark_start_execution();

    let statement = state.sql_to_statement(sql, &Dialect::PostgreSQL).map_err(planning)?;
    if !is_query(&statement) {
        return Err(EngineError::Plan("only queries are allowed: SELECT, WITH or VALUES".to_owned()));
    }
    let plan = state.statement_to_plan(statement).await.map_err(planning)?;
    let only_queries = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    only_queries.verify_plan(&plan).map_err(planning)?;
    let tables = tables_of(&plan).map_err(planning)?;
    if read_few_rows(&tables) {
        // What lies in files is read by what filters leave of it, and that is for the other rules.
        let in_memory = tables.iter().all(|table| table.downcast_ref::<ResidentTable>().is_some());
        if in_memory && let Some((plan, context)) = short::plan(&bases.short, &plan).await.map_err(planning)? {
            let stream = execute_stream(plan, context).map_err(|error| explain(&error, &tables))?;
            return Ok(Running { stream, tables });
        }
        state.config_mut().options_mut().execution.target_partitions = 1;
    }
    // Files of partitions never change; those of sources may, under the statement that reads them.
    let of_source = tables.iter().any(|table| table.downcast_ref::<ListingTable>().is_some());
    if of_source {
        state = pinned(state).map_err(planning)?;
    }
    let mut plan = state.create_physical_plan(&plan).await.map_err(planning)?;
    if of_source {
        plan = with_codes(plan, &state, CODED_ROWS).await.map_err(planning)?;
    }
    let stream = execute_stream(plan, state.task_ctx()).map_err(|error| explain(&error, &tables))?;
    Ok(Running { stream, tables })
}

fn is_query(statement: &Statement) -> bool {
    match statement {
        Statement::Statement(statement) => matches!(statement.as_ref(), SqlStatement::Query(_)),
        Statement::Explain(explain) => is_query(&explain.statement),
        Statement::CreateExternalTable(_) | Statement::CopyTo(_) | Statement::Reset(_) => false,
    }
}

/// The tables that a plan scans.
fn tables_of(plan: &LogicalPlan) -> Result<Vec<Arc<dyn TableProvider>>> {
    let mut tables = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            tables.push(source_as_provider(&scan.source)?);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(tables)
}

/// Whether all tables are partitions with few rows: waking threads would cost more than the work.
fn read_few_rows(tables: &[Arc<dyn TableProvider>]) -> bool {
    let rows = tables.iter().map(|table| {
        let in_files = table.downcast_ref::<PartitionTable>().map(PartitionTable::rows);
        in_files.or_else(|| table.downcast_ref::<ResidentTable>().map(ResidentTable::rows))
    });
    rows.sum::<Option<u64>>().is_some_and(|rows| rows < PARALLEL_ROWS)
}

/// The list with one catalog, that of the statement.
#[derive(Debug)]
struct OneCatalog(Arc<dyn CatalogProvider>);

impl CatalogProviderList for OneCatalog {
    fn register_catalog(&self, _name: String, _catalog: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![CATALOG.to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == CATALOG).then(|| Arc::clone(&self.0))
    }
}
