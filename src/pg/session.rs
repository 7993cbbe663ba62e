//! Statements of a connection: settings, transactions that change nothing, queries.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::DataType;
use async_trait::async_trait;
use futures::stream::StreamExt as _;
use futures::{Sink, Stream};
use pgwire::api::portal::{Format, Portal};
use pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use pgwire::api::results::{FieldInfo, QueryResponse, Response, Tag};
use pgwire::api::stmt::QueryParser;
use pgwire::api::store::PortalStore;
use pgwire::api::{ClientInfo, ClientPortalStore, METADATA_DATABASE, Type};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::data::DataRow;
use pgwire::messages::response::TransactionStatus;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::encode::{described, rows, type_of};
use super::fault::{fatal, fault};
use super::parameters::constant;
use super::{Login, PgParts};
use crate::sql::{Bound, Command, OutputField, Prepared, SERVER_VERSION, Session, commands};
use crate::time::{Zone, spoken_duration};

/// Settings that are told, and their values where a session has not set them.
const SETTINGS: [(&str, &str); 16] = [
    ("application_name", ""),
    ("bytea_output", "hex"),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_isolation", "read committed"),
    ("extra_float_digits", "1"),
    ("integer_datetimes", "on"),
    ("intervalstyle", "postgres"),
    ("max_identifier_length", "63"),
    ("search_path", "public"),
    ("server_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "on"),
];

/// What a session has set.
#[derive(Debug, Default)]
struct Set(Mutex<BTreeMap<String, String>>);

impl Set {
    fn of<C: ClientInfo>(client: &C) -> Arc<Self> {
        client.session_extensions().get_or_insert_with(Self::default)
    }

    fn get(&self, name: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn put(&self, name: String, value: Option<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match value {
            Some(value) => all.insert(name, value),
            None => all.remove(&name),
        };
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A statement of the extended protocol.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    command: Command,
    /// Of queries.
    prepared: Option<Prepared>,
}

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
        if client.transaction_status() == TransactionStatus::Error && !matches!(command, Command::End(_)) {
            let text = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(fault("25P02", text));
        }
        Ok(self.running.token())
    }

    /// Who asks on a connection, and how.
    async fn session<C: ClientInfo + Sync>(parts: &PgParts, client: &C) -> PgWireResult<Session> {
        let login = client.session_extensions().get::<Login>();
        let login = login.ok_or_else(|| fatal("28000", "the connection was not let in"))?;
        let session = (parts.sessions)(Login::clone(&login)).await?;
        let database = client.metadata().get(METADATA_DATABASE).cloned();
        Ok(Session {
            database: database.filter(|name| !name.is_empty()).unwrap_or_else(|| "db".to_owned()),
            zone: Set::of(client).get("timezone").and_then(|name| zone(&name)),
            ..session
        })
    }

    /// Within the time that a statement has.
    async fn timed<T>(&self, work: impl Future<Output = PgWireResult<T>> + Send) -> PgWireResult<T> {
        let limit = self.parts.query_timeout;
        let timed = tokio::time::timeout(limit, work).await;
        timed.unwrap_or_else(|_elapsed| {
            Err(fault(
                "57014",
                format!("canceling statement due to statement timeout after {}", spoken_duration(limit)),
            ))
        })
    }

    /// Runs a query to its first rows.
    async fn query(&self, bound: Bound, format: &Format, token: TaskTrackerToken) -> PgWireResult<Response> {
        let fields = Arc::new(described(&bound.fields, format));
        let started = self.timed(async {
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
    fn command<C: ClientInfo>(client: &C, command: &Command, format: &Format) -> PgWireResult<Response> {
        let set = Set::of(client);
        Ok(match command {
            Command::Begin => Response::TransactionStart(Tag::new("BEGIN")),
            Command::End(word) => Response::TransactionEnd(Tag::new(word)),
            Command::Idle(word) => {
                if *word == "DISCARD ALL" || *word == "RESET" {
                    set.clear();
                }
                Response::Execution(Tag::new(word))
            }
            Command::Set(name, value) => {
                if name == "timezone"
                    && let Some(value) = value
                    && zone(value).is_none()
                {
                    return Err(fault("22023", format!("invalid value for parameter \"TimeZone\": \"{value}\"")));
                }
                set.put(name.clone(), value.clone());
                Response::Execution(Tag::new("SET"))
            }
            Command::Show(name) => {
                let value = shown(&set, name)?;
                let fields = Arc::new(described(&[shown_field(name)], format));
                let values: arrow::array::ArrayRef = Arc::new(StringArray::from(vec![value]));
                let batch = RecordBatch::try_from_iter([(name.as_str(), values)]);
                let made = batch.and_then(|batch| rows(&batch, &fields));
                let made = made.map_err(|error| fault("XX000", error.to_string()))?;
                let mut response = QueryResponse::new(fields, futures::stream::iter(made.into_iter().map(Ok)));
                response.set_command_tag("SHOW");
                Response::Query(response)
            }
            Command::Query(_) => return Err(fault("XX000", "a query is no command")),
        })
    }

    async fn simple<C: ClientInfo + Send + Sync>(&self, client: &C, command: &Command) -> PgWireResult<Response> {
        let token = self.begin(client, command)?;
        let Command::Query(parsed) = command else { return Self::command(client, command, &Format::UnifiedText) };
        let session = Self::session(&self.parts, client).await?;
        let bound = self.timed(async {
            let prepared = self.parts.sql.prepare_parsed(&session, parsed.as_ref().clone()).await?;
            Ok(self.parts.sql.bind(&session, &prepared, Vec::new()).await?)
        });
        let bound = bound.await?;
        self.query(bound, &Format::UnifiedText, token).await
    }
}

fn zone(name: &str) -> Option<Zone> {
    Zone::from_str_insensitive(name).ok()
}

fn shown(set: &Set, name: &str) -> PgWireResult<String> {
    let preset = || match name {
        "server_version" => Some(SERVER_VERSION.to_owned()),
        "server_version_num" => Some("140002".to_owned()),
        "timezone" => Some("UTC".to_owned()),
        _ => SETTINGS.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()),
    };
    let value = set.get(name).or_else(preset);
    value.ok_or_else(|| fault("42704", format!("unrecognized configuration parameter \"{name}\"")))
}

fn shown_field(name: &str) -> OutputField {
    OutputField { name: name.to_owned(), data_type: DataType::Utf8, member: None }
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
            Command::Query(parsed) => {
                let session = SessionHandler::session(&self.0, client).await?;
                Some(self.0.sql.prepare_parsed(&session, parsed.as_ref().clone()).await?)
            }
            _ => None,
        };
        Ok(Some(Arc::new(Stored { command, prepared })))
    }

    fn get_parameter_types(&self, stored: &Arc<Stored>) -> PgWireResult<Vec<Type>> {
        let Some(prepared) = &stored.prepared else { return Ok(Vec::new()) };
        let types = prepared.parameters()?;
        Ok(types.into_iter().map(|known| known.map_or(Type::TEXT, |known| type_of(&known))).collect())
    }

    fn get_result_schema(&self, stored: &Arc<Stored>, format: Option<&Format>) -> PgWireResult<Vec<FieldInfo>> {
        let format = format.unwrap_or(&Format::UnifiedText);
        Ok(match (&stored.prepared, &stored.command) {
            (Some(prepared), _) => described(&prepared.fields(), format),
            (None, Command::Show(name)) => described(&[shown_field(name)], format),
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
        let Some(prepared) = &stored.prepared else {
            return Self::command(client, &stored.command, &portal.result_column_format);
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
            let given = given.unwrap_or_else(|| inferred.map_or(Type::TEXT, type_of));
            constant(bytes.as_deref(), portal.parameter_format.is_binary(at), &given, inferred)
        });
        let values = values.collect::<PgWireResult<Vec<_>>>()?;
        let session = Self::session(&self.parts, client).await?;
        let bound = self.timed(async { Ok(self.parts.sql.bind(&session, prepared, values).await?) }).await?;
        self.query(bound, &portal.result_column_format, token).await
    }
}
