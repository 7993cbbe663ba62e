//! Request → id, token, arguments (`http-api.md` §1.2, §1.6, §5.1).

use std::time::Duration;

use axum::body::Body;
use axum::extract::Query;
use axum::http::{HeaderMap, Method, Uri, header};
use futures::StreamExt as _;
use serde_json::{Map, Value};

use super::error::ApiError;

/// A body that is longer than allowed is read on, to this many bytes, so that the client gets to see
/// the answer before the connection closes.
const MAX_DRAINED_BYTES: usize = 64 * 1024 * 1024;
/// As much of a refused request's body is read on.
const MAX_DISCARDED_BYTES: usize = 1024 * 1024;
/// For as long.
const DISCARDING: Duration = Duration::from_secs(1);
/// Most characters of a request id that are kept.
const MAX_REQUEST_ID_CHARS: usize = 256;

/// The request's id: `x-request-id`, else `traceparent`, else a new one. Of repeated values the first.
pub(super) fn request_id(headers: &HeaderMap) -> String {
    let given = ["x-request-id", "traceparent"].into_iter().find_map(|name| headers.get(name));
    let text = given.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default();
    let first = text.split(',').next().unwrap_or_default().trim();
    if first.is_empty() {
        return format!("{}-span-1", uuid::Uuid::new_v4());
    }
    first.chars().filter(|c| !c.is_control()).take(MAX_REQUEST_ID_CHARS).collect()
}

/// The text of a header; none when it is absent or no text.
pub(super) fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Reads the arguments: the URL's query on GET, the JSON body's keys otherwise. A body of another
/// content type counts as empty. `limits` are the body's: bytes and time.
///
/// # Errors
/// The body is too long, too slow, or no JSON.
pub(super) async fn arguments(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
    limits: (usize, Duration),
) -> Result<Map<String, Value>, ApiError> {
    if method == Method::GET || method == Method::HEAD {
        return Ok(url_arguments(uri));
    }
    let (max_bytes, patience) = limits;
    let read = tokio::time::timeout(patience, read_body(headers, body, max_bytes)).await;
    let bytes = read.map_err(|_elapsed| ApiError::Slow)??;
    let content_type = header_text(headers, header::CONTENT_TYPE.as_str()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") || bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(&bytes).map_err(|error| ApiError::Syntax(error.to_string()))? {
        Value::Object(map) => Ok(map),
        Value::Array(_) => Ok(Map::new()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            Err(ApiError::Syntax("the body must be a JSON object".to_owned()))
        }
    }
}

/// The URL's query.
pub(super) fn url_arguments(uri: &Uri) -> Map<String, Value> {
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri).map(|Query(pairs)| pairs).unwrap_or_default();
    pairs.into_iter().map(|(name, value)| (name, Value::String(value))).collect()
}

/// Reads on what a refused request has still to say, within bounds: a connection that is closed under a client's
/// body loses the answer.
pub(super) async fn discard(body: Body) {
    let mut stream = body.into_data_stream();
    let drain = async {
        let mut seen = 0;
        while let Some(Ok(chunk)) = stream.next().await {
            seen += chunk.len();
            if seen > MAX_DISCARDED_BYTES {
                return;
            }
        }
    };
    // Who is slower than that gets the answer with the end of the connection.
    drop(tokio::time::timeout(DISCARDING, drain).await);
}

/// A part of a path, percent-decoded.
pub(super) fn decoded(part: &str) -> String {
    // In a URL's query a plus would be a blank.
    let as_query = format!("/?part={}", part.replace('+', "%2B").replace('&', "%26"));
    let uri = as_query.parse::<Uri>().ok();
    let text = uri.and_then(|uri| url_arguments(&uri).get("part")?.as_str().map(str::to_owned));
    text.unwrap_or_else(|| part.to_owned())
}

async fn read_body(headers: &HeaderMap, body: Body, max_bytes: usize) -> Result<Vec<u8>, ApiError> {
    let announced = header_text(headers, header::CONTENT_LENGTH.as_str()).and_then(|text| text.parse::<usize>().ok());
    let mut bytes = Vec::with_capacity(announced.unwrap_or(0).min(max_bytes).min(1 << 20));
    let mut seen = 0_usize;
    let mut stream = body.into_data_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_ended| ApiError::Aborted)?;
        seen = seen.saturating_add(chunk.len());
        if seen > max_bytes {
            bytes = Vec::new();
            if seen > MAX_DRAINED_BYTES {
                break;
            }
        } else {
            bytes.extend_from_slice(&chunk);
        }
    }
    if seen > max_bytes { Err(ApiError::TooLarge) } else { Ok(bytes) }
}

/// The `query` argument: JSON, or a text that holds JSON.
///
/// # Errors
/// It is missing or no JSON.
pub(super) fn query_argument(arguments: &Map<String, Value>) -> Result<Value, ApiError> {
    let required = || ApiError::Invalid("Query param is required".to_owned());
    let parsed = match arguments.get("query") {
        None | Some(Value::Null) => return Err(required()),
        Some(Value::String(text)) if text.trim().is_empty() || text == "undefined" => return Err(required()),
        Some(Value::String(text)) => serde_json::from_str(text)
            .map_err(|error| ApiError::Invalid(format!("Unable to decode query param as JSON, error: {error}")))?,
        Some(value) => value.clone(),
    };
    if parsed == Value::Null { Err(required()) } else { Ok(parsed) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check_id(headers: &[(&'static str, &'static str)], expected: &str) {
        let headers =
            headers.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")));
        assert_eq!(request_id(&headers.collect()), expected);
    }

    #[test]
    fn request_ids_come_from_headers() {
        check_id(&[("x-request-id", "a-span-2"), ("traceparent", "t")], "a-span-2");
        check_id(&[("traceparent", "t")], "t");
        check_id(&[("x-request-id", "first, second")], "first");
        assert!(request_id(&HeaderMap::new()).ends_with("-span-1"));
    }

    async fn read(content_type: &'static str, body: &'static str, max: usize) -> Result<Map<String, Value>, ApiError> {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, content_type.parse().expect("a value"))]);
        arguments(&Method::POST, &Uri::from_static("/x"), &headers, Body::from(body), (max, Duration::from_secs(1)))
            .await
    }

    #[tokio::test]
    async fn bodies_count_only_as_json() {
        let json_body = r#"{"query":{}}"#;
        assert_eq!(read("application/json; charset=utf-8", json_body, 100).await.expect("json").len(), 1);
        assert!(read("text/plain", json_body, 100).await.expect("ignored").is_empty());
        assert!(read("application/json", "", 100).await.expect("empty").is_empty());
        assert!(matches!(read("application/json", "{\"query\": {", 100).await, Err(ApiError::Syntax(_))));
        assert!(matches!(read("application/json", "7", 100).await, Err(ApiError::Syntax(_))));
        assert!(matches!(read("application/json", json_body, 11).await, Err(ApiError::TooLarge)));
        assert!(read("application/json", json_body, 12).await.is_ok());
    }

    #[tokio::test]
    async fn urls_are_decoded() {
        let uri = Uri::from_static("/x?query=%7B%22a%22%3A1%7D&extended&queryType=multi");
        let limits = (0, Duration::ZERO);
        let arguments =
            arguments(&Method::GET, &uri, &HeaderMap::new(), Body::empty(), limits).await.expect("arguments");
        assert_eq!(Value::Object(arguments), json!({"query": "{\"a\":1}", "extended": "", "queryType": "multi"}));
    }

    #[test]
    fn parts_of_paths_are_decoded() {
        for (part, expected) in [("a-span-1", "a-span-1"), ("a%20b%2Fc", "a b/c"), ("a+b&c", "a+b&c"), ("%zz", "%zz")] {
            assert_eq!(decoded(part), expected);
        }
    }

    #[test]
    fn the_query_is_json_or_text_of_json() {
        let run = |query: Value| match query_argument(json!({ "query": query }).as_object().expect("an object")) {
            Ok(value) => value.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(run(json!({"limit": 1})), r#"{"limit":1}"#);
        assert_eq!(run(json!(r#"{"limit":1}"#)), r#"{"limit":1}"#);
        for absent in [json!(null), json!(""), json!("undefined"), json!("null")] {
            assert_eq!(run(absent), "Query param is required");
        }
        assert!(run(json!("{")).starts_with("Unable to decode query param as JSON, error: "));
    }
}
