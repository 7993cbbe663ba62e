//! The JSON texts of a socket, both ways (`http-api.md` §10.2, §10.3).

use serde_json::{Map, Value, json};

/// Most characters of a message's id.
const MAX_ID_CHARS: usize = 16;
/// Most characters of a request's id.
const MAX_REQUEST_ID_CHARS: usize = 64;
/// What the arguments of a method may be called beside its own: options that clients let slip through.
const STRAY_PARAMS: &[&str] = &["baseRequestId", "fetchTimeout", "method", "signal"];

/// What a client calls one of its messages: an integer or a short text, kept as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct MessageId(String);

impl MessageId {
    fn parse(value: &Value) -> Option<Self> {
        let fits = match value {
            Value::String(text) => text.chars().count() <= MAX_ID_CHARS,
            Value::Number(number) => number.is_i64() || number.is_u64(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
        };
        fits.then(|| Self(value.to_string()))
    }

    /// As a part of a request's id.
    pub(super) fn as_word(&self) -> &str {
        self.0.trim_matches('"')
    }
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Load,
    Subscribe,
    Sql,
    DryRun,
    Meta,
}

impl Method {
    const ALL: [Self; 5] = [Self::Load, Self::Subscribe, Self::Sql, Self::DryRun, Self::Meta];

    fn as_str(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Subscribe => "subscribe",
            Self::Sql => "sql",
            Self::DryRun => "dry-run",
            Self::Meta => "meta",
        }
    }

    /// The endpoint that answers it over HTTP.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Load => "/cubejs-api/v1/load",
            Self::Subscribe => "/cubejs-api/v1/subscribe",
            Self::Sql => "/cubejs-api/v1/sql",
            Self::DryRun => "/cubejs-api/v1/dry-run",
            Self::Meta => "/cubejs-api/v1/meta",
        }
    }

    fn params(self) -> &'static [&'static str] {
        match self {
            Self::Load | Self::Subscribe => &["query", "queryType", "cache"],
            Self::Sql | Self::DryRun => &["query"],
            Self::Meta => &["onlyViews", "extended"],
        }
    }
}

/// What a client says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Incoming {
    /// The token of the connection.
    Authorize(String),
    /// The message of that id is no longer of interest.
    Unsubscribe(MessageId),
    /// A question.
    Ask(Ask),
}

/// A question.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ask {
    pub(super) id: MessageId,
    pub(super) request_id: Option<String>,
    pub(super) method: Method,
    /// As the endpoint takes them.
    pub(super) arguments: Map<String, Value>,
}

/// A text that is no message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed {
    /// Whose fault it is, when that can be read.
    pub(super) id: Option<MessageId>,
    pub(super) text: String,
}

/// Reads a text from a client.
///
/// # Errors
/// It is not JSON, or no message.
pub(super) fn parse(text: &str) -> Result<Incoming, Malformed> {
    let nameless = |text: String| Malformed { id: None, text };
    let value: Value = serde_json::from_str(text).map_err(|error| nameless(error.to_string()))?;
    let Value::Object(mut message) = value else { return Err(nameless("a message must be a JSON object".to_owned())) };
    if let Some(token) = message.get("authorization") {
        return match (token, message.len()) {
            (Value::String(token), 1) => Ok(Incoming::Authorize(token.clone())),
            (Value::String(_), _) => Err(nameless(stray(&message, &["authorization"]))),
            _ => Err(nameless("authorization: must be a text".to_owned())),
        };
    }
    if let Some(id) = message.get("unsubscribe") {
        return match (MessageId::parse(id), message.len()) {
            (Some(id), 1) => Ok(Incoming::Unsubscribe(id)),
            (Some(_), _) => Err(nameless(stray(&message, &["unsubscribe"]))),
            (None, _) => Err(nameless(format!("unsubscribe: {ID_RULE}"))),
        };
    }
    ask(&mut message)
}

const ID_RULE: &str = "must be an integer or a text of at most 16 characters";

fn ask(message: &mut Map<String, Value>) -> Result<Incoming, Malformed> {
    let mut faults = Vec::new();
    let id = message.get("messageId").and_then(MessageId::parse);
    match message.get("messageId") {
        None | Some(Value::Null) => faults.push("messageId is required".to_owned()),
        Some(_) if id.is_none() => faults.push(format!("messageId: {ID_RULE}")),
        Some(_) => {}
    }
    let method = message.get("method").cloned();
    let ends = method.as_ref().is_some_and(|method| *method == "unsubscribe");
    let method = match &method {
        None | Some(Value::Null) => {
            faults.push("Method is required".to_owned());
            None
        }
        Some(Value::String(word)) => {
            let found = Method::ALL.into_iter().find(|method| method.as_str() == word);
            if found.is_none() && !ends {
                faults.push(format!("Unsupported method: {word}"));
            }
            found
        }
        Some(_) => {
            faults.push("method: must be a text".to_owned());
            None
        }
    };
    let request_id = match message.get("requestId") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if text.chars().count() <= MAX_REQUEST_ID_CHARS => Some(text.clone()),
        Some(_) => {
            faults.push(format!("requestId: must be a text of at most {MAX_REQUEST_ID_CHARS} characters"));
            None
        }
    };
    let params = match message.remove("params") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => {
            faults.push("params: must be an object".to_owned());
            Map::new()
        }
    };
    let known = ["messageId", "requestId", "method"];
    if message.keys().any(|key| !known.contains(&key.as_str())) {
        faults.push(stray(message, &known));
    }
    let arguments = method.map(|method| (method, arguments(method, params, &mut faults)));
    match (id, arguments) {
        (Some(id), Some((method, arguments))) if faults.is_empty() => {
            Ok(Incoming::Ask(Ask { id, request_id, method, arguments }))
        }
        (Some(id), None) if faults.is_empty() => Ok(Incoming::Unsubscribe(id)),
        (id, _) => Err(Malformed { id, text: faults.join(", ") }),
    }
}

/// The arguments of an endpoint: what a URL would spell out in words is JSON here.
fn arguments(method: Method, params: Map<String, Value>, faults: &mut Vec<String>) -> Map<String, Value> {
    let allowed: Vec<&str> = method.params().iter().chain(STRAY_PARAMS).copied().collect();
    if params.keys().any(|key| !allowed.contains(&key.as_str())) {
        faults.push(format!("params: {}", stray(&params, &allowed)));
    }
    let own = params.into_iter().filter(|(key, _)| method.params().contains(&key.as_str()));
    let own = own.filter(|(_, value)| method != Method::Meta || !matches!(value, Value::Null | Value::Bool(false)));
    own.map(|(key, value)| match value {
        Value::Bool(flag) if method == Method::Meta => (key, Value::String(flag.to_string())),
        value => (key, value),
    })
    .collect()
}

fn stray(map: &Map<String, Value>, known: &[&str]) -> String {
    let keys = map.keys().filter(|key| !known.contains(&key.as_str()));
    keys.map(|key| format!("\"{key}\" is not allowed")).collect::<Vec<_>>().join(", ")
}

/// The answer to a message; `body` is JSON.
pub(super) fn answer(id: Option<&MessageId>, body: &str, status: u16) -> String {
    match id {
        Some(MessageId(id)) => format!(r#"{{"messageId":{id},"message":{body},"status":{status}}}"#),
        None => format!(r#"{{"message":{body},"status":{status}}}"#),
    }
}

/// A refusal that no endpoint gave.
pub(super) fn refusal(id: Option<&MessageId>, text: &str, status: u16) -> String {
    answer(id, &json!({ "error": text }).to_string(), status)
}

/// A token was accepted.
pub(super) const HANDSHAKE: &str = r#"{"handshake":true}"#;

/// The message of that id was looked at.
pub(super) fn processed(id: &MessageId) -> String {
    format!(r#"{{"messageProcessedId":{}}}"#, id.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(value: &Value) -> MessageId {
        MessageId::parse(value).expect("an id")
    }

    #[track_caller]
    fn check(text: &Value, expected: &Incoming) {
        assert_eq!(parse(&text.to_string()).as_ref(), Ok(expected), "{text}");
    }

    #[track_caller]
    fn check_fails(text: &Value, of: Option<&Value>, expected: &str) {
        let failure = Malformed { id: of.map(id), text: expected.to_owned() };
        assert_eq!(parse(&text.to_string()), Err(failure), "{text}");
    }

    #[test]
    fn messages_are_told_apart_by_their_keys() {
        check(&json!({"authorization": "t"}), &Incoming::Authorize("t".to_owned()));
        check(&json!({"authorization": ""}), &Incoming::Authorize(String::new()));
        check(&json!({"unsubscribe": 7}), &Incoming::Unsubscribe(id(&json!(7))));
        check(&json!({"messageId": "a", "method": "unsubscribe"}), &Incoming::Unsubscribe(id(&json!("a"))));
        let params = json!({"query": {"measures": []}, "queryType": "multi", "cache": "no-cache"});
        let ask = Ask {
            id: id(&json!(1)),
            request_id: Some("r".to_owned()),
            method: Method::Subscribe,
            arguments: params.as_object().cloned().expect("an object"),
        };
        let text = json!({"messageId": 1, "requestId": "r", "method": "subscribe", "params": params});
        check(&text, &Incoming::Ask(ask));
    }

    #[test]
    fn flags_of_metadata_become_what_a_url_says() {
        let run = |params: Value| match parse(&json!({"messageId": 1, "method": "meta", "params": params}).to_string())
        {
            Ok(Incoming::Ask(ask)) => Value::Object(ask.arguments),
            other => panic!("{other:?}"),
        };
        assert_eq!(run(json!({})), json!({}));
        assert_eq!(run(json!({"onlyViews": true})), json!({"onlyViews": "true"}));
        assert_eq!(run(json!({"onlyViews": false, "extended": false})), json!({}));
        assert_eq!(run(json!({"signal": {}})), json!({}), "what clients let slip is dropped");
    }

    #[test]
    fn ids_are_integers_or_short_texts_and_come_back_as_they_were() {
        for value in [json!(1), json!(-3), json!(u64::MAX), json!(""), json!("0123456789abcdef"), json!("ü\"")] {
            let text = json!({"messageId": value, "message": {}, "status": 200});
            assert_eq!(answer(Some(&id(&value)), "{}", 200), text.to_string());
            assert_eq!(processed(&id(&value)), json!({ "messageProcessedId": value }).to_string());
        }
        for value in [json!("0123456789abcdefg"), json!(1.5), json!(true), json!([]), json!({})] {
            let message = json!({"messageId": value, "method": "meta"});
            check_fails(&message, None, "messageId: must be an integer or a text of at most 16 characters");
            let message = json!({ "unsubscribe": value });
            check_fails(&message, None, "unsubscribe: must be an integer or a text of at most 16 characters");
        }
        assert_ne!(id(&json!(1)), id(&json!("1")));
    }

    #[test]
    fn what_is_wrong_is_told_at_once() {
        check_fails(&json!([]), None, "a message must be a JSON object");
        check_fails(&json!({}), None, "messageId is required, Method is required");
        check_fails(&json!({"messageId": 1, "method": "nope"}), Some(&json!(1)), "Unsupported method: nope");
        check_fails(&json!({"messageId": 1, "method": 1}), Some(&json!(1)), "method: must be a text");
        let long = "x".repeat(65);
        let message = json!({"messageId": 1, "method": "meta", "requestId": long, "foo": 1, "params": {"query": 1}});
        let text = "requestId: must be a text of at most 64 characters, \"foo\" is not allowed, params: \"query\" is not allowed";
        check_fails(&message, Some(&json!(1)), text);
        check_fails(
            &json!({"messageId": 1, "method": "sql", "params": 1}),
            Some(&json!(1)),
            "params: must be an object",
        );
        check_fails(&json!({"authorization": null}), None, "authorization: must be a text");
        check_fails(&json!({"authorization": "a", "x": 1}), None, "\"x\" is not allowed");
        check_fails(&json!({"unsubscribe": 1, "messageId": 1}), None, "\"messageId\" is not allowed");
        assert_eq!(parse("{").expect_err("no JSON").id, None);
    }
}
