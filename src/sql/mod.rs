//! SQL over cubes and views: text in, rows out.
//!
//! Each cube is a table whose columns are its members ([`tables`]). The engine parses and plans a statement over these;
//! [`rewrite`] finds the parts of the plan that ask one question each and makes [`relation`]s of them; [`ask`] turns
//! these into requests, which go the way of all requests, policies and rollups included; [`run`] puts their rows in
//! place and leaves the rest to the engine. A plan that is one question as a whole never meets the engine's rows.

mod account;
mod aggregate;
mod ask;
mod catalog;
mod command;
mod filter;
mod functions;
mod leaf;
mod lists;
mod names;
mod relation;
mod rewrite;
mod run;
mod scope;
mod session_functions;
mod system;
mod tables;
mod time_format;
mod users;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use arrow::datatypes::DataType as ArrowType;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::scalar::ScalarValue;
use futures::future::BoxFuture;
use quarry_storage::{Snapshot, Store};
use tokio::time::Instant;

use self::relation::Relation;
use self::rewrite::{Leaf, Outcome, Rewriter};
use crate::engine::{EngineError, planning_error};
use crate::model::{MemberId, Model};
use crate::query::QueryError;
use crate::query::execute::QueryService;
use crate::query::normalize::Limits;
use crate::query::policy::Asker;
use crate::query::request::{CacheMode, Request};
use crate::query::rollups::{CurrentModel, Rollups};
use crate::time::{Clock, Zone, utc_to_local};

pub use self::command::{Command, Parsed, commands};
pub use self::lists::items;
pub use self::run::{Preview, SqlAnswer};
pub(crate) use self::system::SERVER_VERSION;

/// Why a statement is not answered. The texts are for clients.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The statement does not parse, plan or run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The text does not parse.
    #[error("{0}")]
    Syntax(String),
    /// A question to cubes cannot be answered.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// An answer would be wrong or too long; the text says what to write instead.
    #[error("{0}")]
    Refused(String),
}

impl From<DataFusionError> for SqlError {
    fn from(error: DataFusionError) -> Self {
        Self::Engine(planning_error(&error))
    }
}

/// Settings of the SQL front end.
#[derive(Debug, Clone, Copy, Default)]
pub struct SqlOptions {
    /// `CUBESQL_STREAM_MODE`: answers have no greatest number of rows.
    pub unbounded: bool,
}

/// Answers SQL.
#[derive(Debug, Clone)]
pub struct SqlService {
    /// The model as it is now.
    pub model: Arc<ArcSwap<CurrentModel>>,
    /// The store, for snapshots.
    pub store: Store,
    /// Answers questions.
    pub queries: QueryService,
    /// The clock.
    pub clock: Clock,
    /// Defaults and bounds of questions.
    pub limits: Limits,
    /// Settings.
    pub options: SqlOptions,
}

/// What may change every question before it is asked (`queryRewrite`): a filled-in request in, a request out.
#[derive(Clone)]
pub struct Rewriting(pub Arc<dyn Fn(Request) -> BoxFuture<'static, Result<Request, SqlError>> + Send + Sync>);

impl std::fmt::Debug for Rewriting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rewriting")
    }
}

/// Who asks, and how.
#[derive(Debug, Clone, Default)]
pub struct Session {
    /// Who asks.
    pub asker: Asker,
    /// Their name, where they have one.
    pub user: Option<String>,
    /// The database that they believe to be connected to.
    pub database: String,
    /// The zone of times; the default where none.
    pub zone: Option<Zone>,
    /// How fresh answers must be.
    pub cache: Option<CacheMode>,
    /// Changes every question before it is asked.
    pub rewriting: Option<Rewriting>,
    /// How long sources are waited for; as long as it takes where none.
    pub patience: Option<Duration>,
    /// Id of the request.
    pub request_id: String,
    /// The model that they see; the one of all where none.
    pub model: Option<Arc<CurrentModel>>,
}

/// A planned statement, with one model and one state of the store: it may be bound several times.
#[derive(Debug, Clone)]
pub struct Prepared {
    current: Arc<Rollups>,
    snapshot: Arc<Snapshot>,
    state: Arc<SessionState>,
    plan: LogicalPlan,
}

/// A column of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputField {
    /// Its name.
    pub name: String,
    /// The type that clients are told.
    pub data_type: ArrowType,
    /// The member that it is, unchanged.
    pub member: Option<MemberId>,
}

/// A statement that can be run.
#[derive(Debug, Clone)]
pub struct Bound {
    current: Arc<Rollups>,
    snapshot: Arc<Snapshot>,
    state: Arc<SessionState>,
    asker: Asker,
    user: Option<String>,
    zone: Zone,
    cache: Option<CacheMode>,
    rewriting: Option<Rewriting>,
    until: Option<Instant>,
    request_id: String,
    /// The columns.
    pub fields: Vec<OutputField>,
    work: Work,
}

#[derive(Debug, Clone)]
enum Work {
    /// One question.
    Question(Box<Relation>),
    /// Work on the answers of several.
    Above(Box<LogicalPlan>, Vec<Leaf>),
}

impl SqlService {
    /// Parses and plans one statement.
    ///
    /// # Errors
    /// It is no query, or names what is not there.
    pub async fn prepare(&self, session: &Session, sql: String) -> Result<Prepared, SqlError> {
        let parsed = self.queries.engine.on_threads(async move { one_query(&sql) }).await??;
        self.prepare_parsed(session, parsed).await
    }

    /// Plans one statement.
    ///
    /// # Errors
    /// It is no query, or names what is not there.
    pub async fn prepare_parsed(&self, session: &Session, parsed: Parsed) -> Result<Prepared, SqlError> {
        let current = session.model.clone().unwrap_or_else(|| self.model.load_full());
        let current = Arc::clone(&current.rollups);
        let snapshot = self.store.snapshot();
        let mut state = self.queries.engine.state();
        let model = Arc::clone(current.model());
        let catalog = catalog::Catalog::new(model, session.clone(), self.limits.allow_hidden);
        catalog::register(&mut state, Arc::new(catalog))?;
        let names = spelled_names(current.model());
        let state = Arc::new(state);
        let planning = Arc::clone(&state);
        let plan =
            self.queries.engine.on_threads(async move { plan_parsed(&planning, parsed, &names).await }).await??;
        Ok(Prepared { current, snapshot, state, plan })
    }

    /// Gives values to the parameters of a statement, and finds the questions in it.
    ///
    /// # Errors
    /// It aggregates in a way that would give wrong numbers; a value is missing or of a wrong type.
    pub async fn bind(
        &self,
        session: &Session,
        prepared: &Prepared,
        values: Vec<ScalarValue>,
    ) -> Result<Bound, SqlError> {
        let zone = session.zone.unwrap_or(self.limits.timezone);
        // Times of requests are exact to the millisecond.
        let now = utc_to_local(self.clock.now(), zone).div_euclid(1000) * 1000;
        let Prepared { current, snapshot, state, plan } = prepared.clone();
        let (model, planning) = (Arc::clone(current.model()), Arc::clone(&state));
        let (work, fields) = self
            .queries
            .engine
            .on_threads(async move { find_questions(&model, &planning, zone, now, plan, values) })
            .await??;
        let Session { asker, user, cache, rewriting, patience, request_id, .. } = session.clone();
        let until = patience.map(|patience| Instant::now() + patience);
        Ok(Bound { current, snapshot, state, asker, user, zone, cache, rewriting, until, request_id, fields, work })
    }
}

impl Prepared {
    /// The types of the parameters, `$1` first; none where the statement does not tell.
    ///
    /// # Errors
    /// The statement uses one parameter with two types.
    pub fn parameters(&self) -> Result<Vec<Option<ArrowType>>, SqlError> {
        let mut types: HashMap<String, Option<ArrowType>> = self.plan.get_parameter_types()?;
        types.extend(lists::array_parameters(&self.plan)?.into_iter().map(|(name, array)| (name, Some(array))));
        let number = |name: &String| name.trim_start_matches('$').parse::<usize>().ok();
        let most = types.keys().filter_map(number).max().unwrap_or(0).min(u16::MAX.into());
        let mut found = vec![None; most];
        for (name, data_type) in types {
            if let Some(place) = number(&name).and_then(|at| found.get_mut(at.checked_sub(1)?)) {
                *place = data_type;
            }
        }
        Ok(found)
    }

    /// The columns as planned.
    pub fn fields(&self) -> Vec<OutputField> {
        let fields = self.plan.schema().fields().iter();
        let field = |field: &Arc<arrow::datatypes::Field>| OutputField {
            name: names::given_name(field.name()).to_owned(),
            data_type: field.data_type().clone(),
            member: None,
        };
        fields.map(field).collect()
    }
}

impl Bound {
    /// The request that the whole statement is, if it is one.
    pub fn request(&self) -> Option<Request> {
        match &self.work {
            Work::Question(relation) => {
                Some(ask::request(self.current.model(), relation, &relation.columns, self.zone, self.cache))
            }
            Work::Above(..) => None,
        }
    }
}

/// The one query of a text.
fn one_query(sql: &str) -> Result<Parsed, SqlError> {
    let only = || SqlError::Refused("one statement is taken at a time, and it must be a query".to_owned());
    let mut commands = commands(sql)?;
    match (commands.pop(), commands.is_empty()) {
        (Some(Command::Query(parsed)), true) => Ok(*parsed),
        _ => Err(only()),
    }
}

async fn plan_parsed(state: &SessionState, parsed: Parsed, names: &HashSet<String>) -> Result<LogicalPlan, SqlError> {
    let Parsed(mut statement) = parsed;
    if !command::is_query(&statement) {
        return Err(SqlError::Refused("only queries are allowed: SELECT, WITH or VALUES".to_owned()));
    }
    names::rewrite(&mut statement, names);
    let plan = state.statement_to_plan(statement).await?;
    let only_queries = datafusion::execution::context::SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false);
    only_queries.verify_plan(&plan)?;
    Ok(plan)
}

fn find_questions(
    model: &Model,
    state: &SessionState,
    zone: Zone,
    local_now: i64,
    plan: LogicalPlan,
    values: Vec<ScalarValue>,
) -> Result<(Work, Vec<OutputField>), SqlError> {
    let plan = if values.is_empty() { plan } else { plan.with_param_values(values)? };
    let plan = lists::spread(plan)?;
    let plan = functions::set_clock(plan, local_now)?;
    let named =
        |field: &Arc<arrow::datatypes::Field>| (names::given_name(field.name()).to_owned(), field.data_type().clone());
    let names: Vec<(String, ArrowType)> = plan.schema().fields().iter().map(named).collect();
    let fields = |members: Vec<Option<MemberId>>| {
        let field = |((name, data_type), member)| OutputField { name, data_type, member };
        names.into_iter().zip(members).map(field).collect()
    };
    let mut rewriter = Rewriter { model, state, zone, leaves: Vec::new() };
    match rewriter.rewrite(plan)? {
        Outcome::Open(open) if open.residual.is_empty() && is_asked(&open.relation) => {
            let members = open.relation.columns.iter().map(|column| column.member()).collect();
            Ok((Work::Question(Box::new(open.relation)), fields(members)))
        }
        outcome => {
            let plan = match outcome {
                Outcome::Open(open) => rewriter.close(*open)?.0,
                Outcome::Closed(plan, _) => plan,
            };
            let members = vec![None; plan.schema().fields().len()];
            Ok((Work::Above(Box::new(plan), rewriter.leaves), fields(members)))
        }
    }
}

/// Whether a relation asks for any member.
fn is_asked(relation: &Relation) -> bool {
    relation.columns.iter().chain(relation.groups.iter().flatten()).any(|column| column.output().is_some())
}

/// Names of the model that have capitals.
fn spelled_names(model: &Model) -> HashSet<String> {
    let capital = |name: &str| name.chars().any(char::is_uppercase);
    let mut names: HashSet<String> = HashSet::from([relation::JOIN_FIELD.to_owned()]);
    for cube in model.cubes() {
        let members = cube.measures.iter().map(|m| &m.name);
        let members =
            members.chain(cube.dimensions.iter().map(|d| &d.name)).chain(cube.segments.iter().map(|s| &s.name));
        names.extend(members.chain([&cube.name]).filter(|name| capital(name)).cloned());
    }
    names
}
