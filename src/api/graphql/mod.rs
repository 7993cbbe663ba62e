//! GraphQL (`http-api.md` §11): a schema of what the caller sees of the model; what is selected under `cube` becomes
//! one query, which is answered as every query is.
//!
//! A document is bounded ([`guard`]), then executed twice: once to learn the queries ([`selection`], [`filters`]), and,
//! when these are answered, once to give the rows the form that was selected ([`schema`], [`values`]).

mod filters;
mod guard;
mod names;
mod schema;
mod selection;
mod values;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_graphql::dynamic::Schema;
use async_graphql::parser::parse_query;
use async_graphql::parser::types::ExecutableDocument;
use async_graphql::{Pos, Request, Response as Executed, ServerError, Value as Literal, Variables};
use axum::body::Body;
use axum::http::{Response, StatusCode};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Map, Value, json};

use self::names::{Names, visible};
use self::schema::{Collected, Purpose, Rows};
use super::error::{ApiError, json_response};
use super::{ApiParts, Call, load};
use crate::model::{MemberId, Model};
use crate::time::Zone;

/// Schemas that are remembered: of so many models and kinds of callers.
const MOST_SCHEMAS: usize = 64;
/// Queries of one document that are answered at the same time.
const PARALLEL_QUERIES: usize = 4;
/// Answers with more rows than this are put in form on a thread that may block.
const MANY_ROWS: usize = 1000;

/// Schemas, made once a model and set of members that a caller sees.
#[derive(Debug, Default)]
pub struct Schemas(Mutex<Vec<Remembered>>);

#[derive(Debug)]
struct Remembered {
    model: Weak<Model>,
    members: Vec<MemberId>,
    schema: Schema,
}

impl Schemas {
    /// The schema of these members of a model.
    fn of(&self, model: &Arc<Model>, members: Vec<MemberId>) -> Result<Schema, ApiError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|entry| entry.model.strong_count() > 0);
        let is_it = |entry: &Remembered| Weak::as_ptr(&entry.model) == Arc::as_ptr(model) && entry.members == members;
        if let Some(at) = known.iter().position(is_it) {
            let found = known.remove(at);
            let schema = found.schema.clone();
            known.push(found);
            return Ok(schema);
        }
        let names = Arc::new(Names::of(model, &members));
        if names.cubes.is_empty() {
            return Err(ApiError::Invalid("There is nothing to ask for: no member of any cube is visible".to_owned()));
        }
        let schema = schema::build(&names).map_err(|error| ApiError::Internal(format!("the schema: {error}")))?;
        if known.len() >= MOST_SCHEMAS {
            known.remove(0);
        }
        known.push(Remembered { model: Arc::downgrade(model), members, schema: schema.clone() });
        Ok(schema)
    }
}

/// A document with what it is asked with.
struct Asked {
    schema: Schema,
    text: String,
    document: ExecutableDocument,
    operation: Option<String>,
    variables: Variables,
}

/// Answers a document.
pub(super) async fn graphql(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let asked = match Asked::read(parts, call) {
        Ok(asked) => asked,
        Err(Unread::Refused(refused)) => return Ok(refusal(&refused)),
        Err(Unread::Failed(error)) => return Err(error),
    };
    let collecting = Arc::new(Purpose::Collect(Mutex::default()));
    let learned = asked.execute(Arc::clone(&collecting)).await;
    let queries = collecting.collected();
    if !learned.errors.is_empty() || queries.is_empty() {
        return Ok(finished(&learned, Map::new()));
    }
    if queries.len() > parts.options.max_queries {
        let (given, most) = (queries.len(), parts.options.max_queries);
        let text = format!("Too many queries: {given} given, at most {most} are answered in one request");
        return Ok(refusal(&ServerError::new(text, None)));
    }
    let answering = queries.into_iter().map(|Collected { key, place, selected }| async move {
        match selected {
            Err(text) => Ok((key, place, Err(text))),
            Ok(selected) => Ok((key, place, answer(parts, call, selected.into_query()).await?)),
        }
    });
    let answering: Vec<_> = answering.map(Box::pin).collect();
    let answered: Vec<(String, Pos, Result<Value, String>)> =
        futures::stream::iter(answering).buffered(PARALLEL_QUERIES).try_collect().await.map_err(|e: ApiError| e)?;

    let (mut extensions, mut rows, mut many) = (Map::new(), HashMap::new(), 0);
    let mut unanswered = Vec::new();
    for (key, place, result) in answered {
        match result {
            Ok(mut answer) => {
                extend(&mut extensions, &mut answer);
                let zone = answer["query"]["timezone"].as_str().and_then(|name| Zone::from_str_insensitive(name).ok());
                let Value::Array(found) = answer["data"].take() else { continue };
                many += found.len();
                rows.insert(key, Arc::new(Rows { rows: found, zone: zone.unwrap_or(Zone::UTC) }));
            }
            Err(message) => unanswered.push(json!({"message": message, "path": [key],
                "locations": [{"line": place.line, "column": place.column}]})),
        }
    }
    if !unanswered.is_empty() {
        // `cube` may not be null, so that the whole is.
        let body = json!({"errors": unanswered, "data": null});
        return Ok(json_response(StatusCode::INTERNAL_SERVER_ERROR, body.to_string()));
    }
    let filling = Arc::new(Purpose::Fill(rows));
    let executed = if many > MANY_ROWS {
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || runtime.block_on(asked.execute(filling)))
            .await
            .map_err(|error| ApiError::Internal(error.to_string()))?
    } else {
        asked.execute(filling).await
    };
    Ok(finished(&executed, extensions))
}

/// Answers one query as `/v1/load` does; a refusal is a text. What is not the asker's fault ends all.
async fn answer(parts: &ApiParts, call: &Call, query: Value) -> Result<Result<Value, String>, ApiError> {
    let mut arguments = Map::new();
    arguments.insert("query".to_owned(), query);
    let call = Call { id: call.id.clone(), caller: call.caller.clone(), arguments, ..Call::default() };
    match load::answer(parts, &call).await {
        Ok(loaded) => {
            let answer = serde_json::from_slice(&loaded.body).map_err(|error| ApiError::Internal(error.to_string()))?;
            Ok(Ok(answer))
        }
        Err(error) => error.public_text().map(Err),
    }
}

/// `POST /v1/graphql-to-json`: the query of a document, or null where it has none (§11.8).
pub(super) async fn to_json(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let query = match Asked::read(parts, call) {
        Ok(asked) => {
            let collecting = Arc::new(Purpose::Collect(Mutex::default()));
            let learned = asked.execute(Arc::clone(&collecting)).await;
            let first = collecting.collected().into_iter().next().and_then(|cube| cube.selected.ok());
            first.filter(|_| learned.errors.is_empty()).map(selection::Selected::into_query)
        }
        Err(Unread::Refused(_)) => None,
        Err(Unread::Failed(error)) => return Err(error),
    };
    Ok(json_response(StatusCode::OK, json!({ "jsonQuery": query }).to_string()))
}

/// Why a document is not executed.
enum Unread {
    /// It is not taken; the asker is told so in GraphQL's way.
    Refused(ServerError),
    Failed(ApiError),
}

impl Asked {
    fn read(parts: &ApiParts, call: &Call) -> Result<Self, Unread> {
        let refuse = |text: String| Unread::Refused(ServerError::new(text, None));
        let text = call.arguments.get("query").and_then(Value::as_str).filter(|text| !text.trim().is_empty());
        let text = text.ok_or_else(|| refuse("Must provide query string.".to_owned()))?;
        guard::check_text(text).map_err(refuse)?;
        let document = parse_query(text).map_err(|error| Unread::Refused(ServerError::from(error)))?;
        guard::check_document(&document).map_err(refuse)?;
        let variables = variables_of(call.arguments.get("variables")).map_err(refuse)?;
        let operation = call.arguments.get("operationName").and_then(Value::as_str).filter(|name| !name.is_empty());
        check_variables(&document, operation, &variables).map_err(refuse)?;
        let current = call.model(parts);
        let model = current.rollups.model();
        let members = visible(model, &call.asker(parts));
        let schema = parts.graphql.of(model, members).map_err(Unread::Failed)?;
        Ok(Self { schema, text: text.to_owned(), document, operation: operation.map(str::to_owned), variables })
    }

    async fn execute(&self, purpose: Arc<Purpose>) -> Executed {
        let mut request = Request::new(self.text.as_str()).variables(self.variables.clone()).data(purpose);
        request.operation_name.clone_from(&self.operation);
        request.set_parsed_query(self.document.clone());
        self.schema.execute(request).await
    }
}

/// An object, or its text in a URL.
fn variables_of(argument: Option<&Value>) -> Result<Variables, String> {
    let parsed = match argument {
        None | Some(Value::Null) => return Ok(Variables::default()),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(Variables::default()),
        Some(Value::String(text)) => serde_json::from_str(text).map_err(|_error| "Variables are invalid JSON.")?,
        Some(other) => other.clone(),
    };
    if parsed.is_object() { Ok(Variables::from_json(parsed)) } else { Err("Variables must be an object.".to_owned()) }
}

/// Whether the variables are there that the operation cannot do without.
fn check_variables(document: &ExecutableDocument, name: Option<&str>, given: &Variables) -> Result<(), String> {
    let mut operations = document.operations.iter();
    let asked = operations.find(|(known, _)| name.is_none() || known.map(|known| known.as_str()) == name);
    for variable in asked.into_iter().flat_map(|(_, operation)| &operation.node.variable_definitions) {
        let (name, kind) = (&variable.node.name.node, &variable.node.var_type.node);
        let is_given = given.get(name).is_some_and(|value| *value != Literal::Null);
        if !kind.nullable && variable.node.default_value.is_none() && !is_given {
            return Err(format!("Variable \"${name}\" of required type \"{kind}\" was not provided."));
        }
    }
    Ok(())
}

/// What an answer tells beside its rows; of several answers the sections are put together.
fn extend(extensions: &mut Map<String, Value>, answer: &mut Value) {
    let annotation = answer["annotation"].take();
    let sections = extensions.entry("annotation").or_insert_with(|| json!({}));
    for (section, members) in annotation.as_object().into_iter().flatten() {
        if !sections[section].is_object() {
            sections[section] = json!({});
        }
        for (member, shown) in members.as_object().into_iter().flatten() {
            sections[section][member] = shown.clone();
        }
    }
    let refreshed = answer["lastRefreshTime"].take();
    let oldest = extensions.entry("lastRefreshTime").or_insert_with(|| refreshed.clone());
    // Texts of one form, in UTC.
    if refreshed.as_str() < oldest.as_str() {
        *oldest = refreshed;
    }
}

/// The answer of an execution, or 400 when the document broke the rules (§11.7).
fn finished(executed: &Executed, extensions: Map<String, Value>) -> Response<Body> {
    if executed.errors.is_empty() {
        let mut body = json!({ "data": data_of(&executed.data) });
        if !extensions.is_empty() {
            body["extensions"] = Value::Object(extensions);
        }
        return json_response(StatusCode::OK, body.to_string());
    }
    let errors: Vec<Value> = executed.errors.iter().map(error_of).collect();
    json_response(StatusCode::BAD_REQUEST, json!({ "errors": errors }).to_string())
}

fn refusal(error: &ServerError) -> Response<Body> {
    json_response(StatusCode::BAD_REQUEST, json!({ "errors": [error_of(error)] }).to_string())
}

fn error_of(error: &ServerError) -> Value {
    let mut shown = json!({ "message": error.message });
    if !error.locations.is_empty() {
        let places = error.locations.iter().map(|at| json!({"line": at.line, "column": at.column}));
        shown["locations"] = places.collect();
    }
    if !error.path.is_empty() {
        shown["path"] = json!(error.path);
    }
    shown
}

/// Rows as JSON. Keys come in the order in which they were selected.
fn data_of(value: &Literal) -> Value {
    filters::to_json(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_objects_or_their_texts() {
        for (argument, expected) in [
            (None, Ok("{}")),
            (Some(json!(null)), Ok("{}")),
            (Some(json!("")), Ok("{}")),
            (Some(json!(r#"{"a": 1}"#)), Ok(r#"{"a":1}"#)),
            (Some(json!({"a": [1]})), Ok(r#"{"a":[1]}"#)),
            (Some(json!("{")), Err("Variables are invalid JSON.")),
            (Some(json!([1])), Err("Variables must be an object.")),
        ] {
            let read = variables_of(argument.as_ref()).map(|found| json!(found).to_string());
            assert_eq!(read.as_deref().map_err(String::as_str), expected, "{argument:?}");
        }
    }

    #[test]
    fn several_answers_are_told_of_together() {
        let mut extensions = Map::new();
        let answer = |member: &str, at: &str| json!({"annotation": {"measures": {member: {"type": "number"}}, "dimensions": {}}, "lastRefreshTime": at});
        extend(&mut extensions, &mut answer("a.n", "2024-05-02T00:00:00.000Z"));
        extend(&mut extensions, &mut answer("b.n", "2024-05-01T00:00:00.000Z"));
        let expected = json!({"lastRefreshTime": "2024-05-01T00:00:00.000Z", "annotation": {"dimensions": {},
            "measures": {"a.n": {"type": "number"}, "b.n": {"type": "number"}}}});
        assert_eq!(Value::Object(extensions), expected);
    }
}
