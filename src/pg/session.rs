//! Statements of a connection: settings, transactions that change nothing, queries.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use async_trait::async_trait;
use futures::stream::StreamExt as _;
use futures::{Sink, Stream};
use pgwire::api::portal::{Format, Portal};
use pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use pgwire::api::results::{FieldInfo, QueryResponse, Response, Tag};
use pgwire::api::stmt::QueryParser;
use pgwire::api::store::{Entry, PortalStore};
use pgwire::api::{ClientInfo, ClientPortalStore, DEFAULT_NAME, METADATA_DATABASE, Type};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::data::DataRow;
use pgwire::messages::extendedquery::Execute;
use pgwire::messages::response::TransactionStatus;
use pgwire::messages::simplequery::Query;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::PgParts;
use super::encode::{described, rows, type_of_parameter};
use super::fault::{fatal, fault};
use super::parameters::constant;
use super::settings::Settings;
use super::switch::{act_as, act_as_oneself, asker};
use crate::sql::{Bound, Command, OutputField, Parsed, Prepared, Session, commands};
use crate::time::spoken_duration;

/// A statement of the extended protocol.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    command: Command,
    /// Of queries, and of those that are to be explained.
    prepared: Option<Prepared>,
}

/// Settings that are the user of a session.
const USERS: [&str; 3] = ["user", "current_user", "session_authorization"];
/// The column of an explanation.
const QUERY_PLAN: &str = "QUERY PLAN";

/// Answers the statements of all connections.
pub(super) struct SessionHandler {
    parts: PgParts,
    running: TaskTracker,
}

impl SessionHandler {
    pub(super) fn new(parts: PgParts) -> Self {
        Self { parts, running: TaskTracker::new() }
    }

    /// Takes no more statements.
    pub(super) fn close(&self) {
        self.running.close();
    }

    /// Ends when no statement runs.
    pub(super) async fn idle(&self) {
        self.running.wait().await;
    }

    /// A place among the running statements.
    fn begin<C: ClientInfo>(&self, client: &C, command: &Command) -> PgWireResult<TaskTrackerToken> {
        if self.running.is_closed() {
            return Err(fatal("57P01", "terminating connection due to administrator command"));
        }
        let ends = matches!(command, Command::Commit | Command::Rollback | Command::RollBackTo);
        if client.transaction_status() == TransactionStatus::Error && !ends {
            let text = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(fault("25P02", text));
        }
        Ok(self.running.token())
    }

    /// Who asks a statement on a connection, and how.
    async fn session<C: ClientInfo + Sync>(parts: &PgParts, client: &C, parsed: &Parsed) -> PgWireResult<Session> {
        let login = asker(parts, client, parsed.user()?).await?;
        let session = (parts.sessions)(login).await?;
        let database = client.metadata().get(METADATA_DATABASE).cloned();
        Ok(Session {
            database: database.filter(|name| !name.is_empty()).unwrap_or_else(|| "db".to_owned()),
            zone: Settings::of(client).zone(),
            ..session
        })
    }

    /// Within the time that a statement of a client has.
    async fn timed<C: ClientInfo + Sync, T>(
        &self,
        client: &C,
        work: impl Future<Output = PgWireResult<T>> + Send,
    ) -> PgWireResult<T> {
        let own = Settings::of(client).statement_timeout();
        let limit = own.map_or(self.parts.query_timeout, |own| own.min(self.parts.query_timeout));
        let timed = tokio::time::timeout(limit, work).await;
        timed.unwrap_or_else(|_elapsed| {
            Err(fault(
                "57014",
                format!("canceling statement due to statement timeout after {}", spoken_duration(limit)),
            ))
        })
    }

    /// Runs a query to its first rows, or explains it.
    async fn query<C: ClientInfo + Sync>(
        &self,
        client: &C,
        command: &Command,
        bound: Bound,
        format: &Format,
        token: TaskTrackerToken,
    ) -> PgWireResult<Response> {
        if matches!(command, Command::Explain(_)) {
            let lines = self.timed(client, async { Ok(self.parts.sql.account(&bound).await?) }).await?;
            let lines: Vec<Vec<String>> = lines.into_iter().map(|line| vec![line]).collect();
            return texts(&[QUERY_PLAN], &lines, format, "EXPLAIN");
        }
        let fields = Arc::new(described(&bound.fields, format));
        let started = self.timed(client, async {
            let mut batches = self.parts.sql.run(&bound).await?.batches.fuse();
            // Until then a statement can be cancelled, and its faults end it.
            let first = batches.next().await.transpose()?;
            Ok((first, batches))
        });
        let (first, batches) = started.await?;
        let first = futures::stream::iter(first.map(Ok));
        let stream = encoded(first.chain(batches), Arc::clone(&fields), token);
        Ok(Response::Query(QueryResponse::new(fields, stream)))
    }

    /// Runs a command that is no query.
    async fn command<C: ClientInfo + Sync>(
        &self,
        client: &C,
        command: &Command,
        format: &Format,
    ) -> PgWireResult<Response> {
        match command {
            Command::Set(name, user) if USERS.contains(&name.as_str()) => {
                match user {
                    Some(user) => act_as(&self.parts, client, user).await?,
                    None => act_as_oneself(client),
                }
                return Ok(Response::Execution(Tag::new("SET")));
            }
            Command::Reset(name) if name.as_ref().is_none_or(|name| USERS.contains(&name.as_str())) => {
                act_as_oneself(client);
            }
            Command::Discard => act_as_oneself(client),
            _ => {}
        }
        Self::settle(client, command, format)
    }

    /// Runs a command about settings or transactions.
    fn settle<C: ClientInfo>(client: &C, command: &Command, format: &Format) -> PgWireResult<Response> {
        let settings = Settings::of(client);
        let failed = client.transaction_status() == TransactionStatus::Error;
        let done = |word: &str| Response::Execution(Tag::new(word));
        Ok(match command {
            Command::Begin => Response::TransactionStart(Tag::new("BEGIN")),
            // What has failed is not committed, and says so.
            Command::Commit if !failed => Response::TransactionEnd(Tag::new("COMMIT")),
            Command::Commit | Command::Rollback => Response::TransactionEnd(Tag::new("ROLLBACK")),
            // One that has failed was taken up again before.
            Command::RollBackTo if client.transaction_status() != TransactionStatus::Idle => {
                Response::TransactionStart(Tag::new("ROLLBACK"))
            }
            Command::RollBackTo => {
                return Err(fault("25P01", "ROLLBACK TO SAVEPOINT can only be used in transaction blocks"));
            }
            Command::Discard => {
                settings.reset();
                done("DISCARD ALL")
            }
            Command::Idle(word) => done(word),
            Command::Set(name, value) => {
                settings.put(name, value.as_deref())?;
                done("SET")
            }
            Command::Reset(name) => {
                match name {
                    Some(name) => settings.put(name, None)?,
                    None => settings.reset(),
                }
                done("RESET")
            }
            Command::Show(name) if name == "all" => {
                let row = |(name, value)| vec![name, value, String::new()];
                texts(&SHOWN_OF_ALL, &settings.all().into_iter().map(row).collect::<Vec<_>>(), format, "SHOW")?
            }
            Command::Show(name) => texts(&[name], &[vec![settings.shown(name)?]], format, "SHOW")?,
            Command::Query(_) | Command::Explain(_) => return Err(fault("XX000", "a query is no command")),
        })
    }

    async fn simple<C: ClientInfo + Send + Sync>(&self, client: &C, command: &Command) -> PgWireResult<Response> {
        let token = self.begin(client, command)?;
        let (Command::Query(parsed) | Command::Explain(parsed)) = command else {
            return self.command(client, command, &Format::UnifiedText).await;
        };
        let session = Self::session(&self.parts, client, parsed).await?;
        let bound = self.timed(client, async {
            let prepared = self.parts.sql.prepare_parsed(&session, parsed.as_ref().clone()).await?;
            Ok(self.parts.sql.bind(&session, &prepared, Vec::new()).await?)
        });
        let bound = bound.await?;
        self.query(client, command, bound, &Format::UnifiedText, token).await
    }
}

/// The columns of `SHOW ALL`.
const SHOWN_OF_ALL: [&str; 3] = ["name", "setting", "description"];

/// Columns of texts.
fn text_fields(names: &[&str], format: &Format) -> Vec<FieldInfo> {
    let field = |name: &&str| OutputField { name: (*name).to_owned(), data_type: DataType::Utf8, member: None };
    described(&names.iter().map(field).collect::<Vec<_>>(), format)
}

/// Rows of texts.
fn texts(names: &[&str], found: &[Vec<String>], format: &Format, tag: &str) -> PgWireResult<Response> {
    let fields = Arc::new(text_fields(names, format));
    let column = |(at, name): (usize, &&str)| {
        let values: StringArray = found.iter().map(|row| row.get(at).map(String::as_str)).collect();
        ((*name).to_owned(), Arc::new(values) as ArrayRef)
    };
    let batch = RecordBatch::try_from_iter(names.iter().enumerate().map(column));
    let made = batch.and_then(|batch| rows(&batch, &fields)).map_err(|error| fault("XX000", error.to_string()))?;
    let mut response = QueryResponse::new(fields, futures::stream::iter(made.into_iter().map(Ok)));
    response.set_command_tag(tag);
    Ok(Response::Query(response))
}

/// Rows of batches.
fn encoded(
    batches: impl Stream<Item = Result<RecordBatch, crate::sql::SqlError>> + Send + 'static,
    fields: Arc<Vec<FieldInfo>>,
    token: TaskTrackerToken,
) -> impl Stream<Item = PgWireResult<DataRow>> + Send + 'static {
    batches.flat_map(move |batch| {
        let _running = &token;
        let made = batch
            .map_err(PgWireError::from)
            .and_then(|batch| rows(&batch, &fields).map_err(|error| fault("22003", error.to_string())));
        futures::stream::iter(match made {
            Ok(rows) => rows.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        })
    })
}

#[async_trait]
impl SimpleQueryHandler for SessionHandler {
    async fn on_query<C>(&self, client: &mut C, query: Query) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if client.transaction_status() == TransactionStatus::Error
            && commands(&query.query).is_ok_and(|commands| matches!(commands.first(), Some(Command::RollBackTo)))
        {
            client.set_transaction_status(TransactionStatus::Transaction);
        }
        self._on_query(client, query).await
    }

    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let commands = commands(query)?;
        let mut responses = Vec::with_capacity(commands.len());
        for command in &commands {
            match self.simple(&*client, command).await {
                Ok(response) => responses.push(response),
                Err(error) if responses.is_empty() || error.is_fatal() => return Err(error),
                Err(error) => {
                    responses.push(Response::Error(Box::new(error.into())));
                    break;
                }
            }
        }
        Ok(responses)
    }
}

/// Plans statements of the extended protocol.
pub(super) struct Planner(PgParts);

#[async_trait]
impl QueryParser for Planner {
    type Statement = Arc<Stored>;

    async fn parse_sql<C>(&self, client: &C, sql: &str, _types: &[Option<Type>]) -> PgWireResult<Option<Arc<Stored>>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let mut commands = commands(sql)?;
        let Some(command) = commands.pop() else { return Ok(None) };
        if !commands.is_empty() {
            return Err(fault("42601", "cannot insert multiple commands into a prepared statement"));
        }
        let prepared = match &command {
            Command::Query(parsed) | Command::Explain(parsed) => {
                let session = SessionHandler::session(&self.0, client, parsed).await?;
                Some(self.0.sql.prepare_parsed(&session, parsed.as_ref().clone()).await?)
            }
            _ => None,
        };
        Ok(Some(Arc::new(Stored { command, prepared })))
    }

    fn get_parameter_types(&self, stored: &Arc<Stored>) -> PgWireResult<Vec<Type>> {
        let Some(prepared) = &stored.prepared else { return Ok(Vec::new()) };
        let types = prepared.parameters()?;
        Ok(types.into_iter().map(|known| known.map_or(Type::TEXT, |known| type_of_parameter(&known))).collect())
    }

    fn get_result_schema(&self, stored: &Arc<Stored>, format: Option<&Format>) -> PgWireResult<Vec<FieldInfo>> {
        let format = format.unwrap_or(&Format::UnifiedText);
        Ok(match (&stored.prepared, &stored.command) {
            (_, Command::Explain(_)) => text_fields(&[QUERY_PLAN], format),
            (Some(prepared), _) => described(&prepared.fields(), format),
            (None, Command::Show(name)) if name == "all" => text_fields(&SHOWN_OF_ALL, format),
            (None, Command::Show(name)) => text_fields(&[name], format),
            (None, _) => Vec::new(),
        })
    }
}

#[async_trait]
impl ExtendedQueryHandler for SessionHandler {
    type Statement = Arc<Stored>;
    type QueryParser = Planner;

    fn query_parser(&self) -> Arc<Planner> {
        Arc::new(Planner(self.parts.clone()))
    }

    async fn on_execute<C>(&self, client: &mut C, message: Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Arc<Stored>>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let portal = client.portal_store().get_portal(message.name.as_deref().unwrap_or(DEFAULT_NAME));
        if client.transaction_status() == TransactionStatus::Error
            && let Some(Entry::Value(portal)) = portal
            && matches!(portal.statement.statement.command, Command::RollBackTo)
        {
            client.set_transaction_status(TransactionStatus::Transaction);
        }
        self._on_execute(client, message).await
    }

    async fn do_query<C>(&self, client: &mut C, portal: &Portal<Arc<Stored>>, _rows: usize) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Arc<Stored>>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let client = &*client;
        let stored = &portal.statement.statement;
        let token = self.begin(client, &stored.command)?;
        let (Some(prepared), Command::Query(parsed) | Command::Explain(parsed)) = (&stored.prepared, &stored.command)
        else {
            return self.command(client, &stored.command, &portal.result_column_format).await;
        };
        let known = prepared.parameters()?;
        if known.len() > portal.parameters.len() {
            return Err(fault(
                "08P01",
                format!(
                    "bind message supplies {} parameters, but the prepared statement requires {}",
                    portal.parameters.len(),
                    known.len()
                ),
            ));
        }
        let types = &portal.statement.parameter_types;
        let values = portal.parameters.iter().enumerate().take(known.len()).map(|(at, bytes)| {
            let inferred = known.get(at).and_then(Option::as_ref);
            let given = types.get(at).cloned().flatten().filter(|given| *given != Type::UNKNOWN);
            let given = given.unwrap_or_else(|| inferred.map_or(Type::TEXT, type_of_parameter));
            constant(bytes.as_deref(), portal.parameter_format.is_binary(at), &given, inferred)
        });
        let values = values.collect::<PgWireResult<Vec<_>>>()?;
        let session = Self::session(&self.parts, client, parsed).await?;
        let bound = self.timed(client, async { Ok(self.parts.sql.bind(&session, prepared, values).await?) }).await?;
        self.query(client, &stored.command, bound, &portal.result_column_format, token).await
    }
}
