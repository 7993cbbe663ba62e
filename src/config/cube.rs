//! Options of `cube.js` that stand for no setting of the environment.

use std::time::Duration;

use serde_json::Value as Json;

use super::reader::Reader;
use crate::api::{CorsOptions, CorsOrigin};
use crate::hooks::CubeJs;

impl Reader {
    /// `http.cors`, over what the environment says, key by key.
    pub(super) fn cors_of(&mut self, cube: Option<&CubeJs>, mut cors: CorsOptions) -> CorsOptions {
        let Some(options) = cube.map(CubeJs::options) else { return cors };
        let get = |key: &str| options.get(&format!("http.cors.{key}"));
        if let Some(value) = get("origin") {
            match origin_of(value) {
                Some(origin) => cors.origin = origin,
                None => self.faults.push(format!(
                    "cube.js: \"http.cors.origin\" must be a string, a boolean or an array of strings, not {value}: list the \
                     origins that a pattern or a function would let in"
                )),
            }
        }
        let mut words = |key: &str| {
            let found = words_of(get(key)?);
            if found.is_none() {
                self.faults.push(format!("cube.js: \"http.cors.{key}\" must be a string or an array of strings"));
            }
            found
        };
        if let Some(methods) = words("methods") {
            cors.methods = methods;
        }
        if let Some(headers) = words("allowedHeaders") {
            cors.allowed_headers = Some(headers);
        }
        if let Some(headers) = words("exposedHeaders") {
            cors.exposed_headers = headers;
        }
        if let Some(seconds) = options.number("http.cors.maxAge") {
            cors.max_age = Some(Duration::from_secs(seconds));
        }
        if let Some(status) = options.number("http.cors.optionsSuccessStatus") {
            cors.preflight_status = u16::try_from(status).unwrap_or_default();
        }
        cors.credentials = options.flag("http.cors.credentials").unwrap_or(cors.credentials);
        cors.preflight_continue = options.flag("http.cors.preflightContinue").unwrap_or(cors.preflight_continue);
        cors
    }
}

/// As Express `cors` has it; none for patterns and functions.
fn origin_of(value: &Json) -> Option<CorsOrigin> {
    match value {
        Json::String(text) if text == "*" => Some(CorsOrigin::Any),
        Json::String(text) if text.is_empty() => Some(CorsOrigin::Off),
        Json::String(text) => Some(CorsOrigin::One(text.clone())),
        Json::Bool(true) => Some(CorsOrigin::Mirrored),
        Json::Bool(false) => Some(CorsOrigin::Off),
        Json::Array(_) => words_of(value).map(CorsOrigin::Among),
        Json::Null | Json::Number(_) | Json::Object(_) => None,
    }
}

/// An array of texts, or one text with commas.
fn words_of(value: &Json) -> Option<Vec<String>> {
    match value {
        Json::String(text) => {
            Some(text.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect())
        }
        Json::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn origins_are_those_of_express() {
        let shown = |value: Json| origin_of(&value).map(|origin| format!("{origin:?}"));
        assert_eq!(shown(json!("*")).as_deref(), Some("Any"));
        assert_eq!(shown(json!("https://a")).as_deref(), Some("One(\"https://a\")"));
        assert_eq!(shown(json!(["https://a", "https://b"])).as_deref(), Some("Among([\"https://a\", \"https://b\"])"));
        assert_eq!(shown(json!(true)).as_deref(), Some("Mirrored"));
        assert_eq!(shown(json!("")).as_deref(), Some("Off"));
        for odd in
            [json!({"$pattern": "x", "$flags": ""}), json!({"$function": true}), json!([{"$pattern": "x"}]), json!(1)]
        {
            assert_eq!(shown(odd.clone()), None, "{odd}");
        }
    }

    #[test]
    fn words_are_a_list_or_have_commas() {
        let expected = Some(vec!["GET".to_owned(), "POST".to_owned()]);
        assert_eq!((words_of(&json!("GET, POST")), words_of(&json!(["GET", "POST"]))), (expected.clone(), expected));
        assert_eq!(words_of(&json!(5)), None);
    }
}
