//! Queries that run: how long a request waits for them, and cancelling them (`http-api.md` §6, §7.7).

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};

use super::error::json_response;
use super::{ApiParts, Call, extract};
use crate::cache::queue::Stage;
use crate::query::serve::CancelledQuery;

/// The longest that a client may have a request wait (§6.2).
pub(super) const MOST_WAIT: Duration = Duration::from_secs(90);

/// Cancels what the request of an id asked sources for.
pub(super) fn cancel(parts: &ApiParts, call: &Call) -> Response<Body> {
    let id = extract::decoded(call.name.as_deref().unwrap_or_default());
    let cancelled: Vec<Value> = parts.queries.cancel(&id).iter().map(|query| entry(&id, query)).collect();
    json_response(StatusCode::OK, json!({ "result": cancelled }).to_string())
}

fn entry(id: &str, cancelled: &CancelledQuery) -> Value {
    let mut entry = json!({
        "queryKey": format!("{:032x}", cancelled.query.key),
        "requestId": id,
        "dataSource": cancelled.data_source,
    });
    match cancelled.query.stage {
        Stage::InLine(place) => entry["stage"] = json!(format!("#{place} in queue")),
        Stage::Running(elapsed) => {
            entry["stage"] = json!("Executing query");
            entry["timeElapsed"] = json!(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        }
    }
    entry
}

/// How long a client would like to wait (`Prefer: wait=10`, RFC 7240), as far as it may.
pub(super) fn preferred_wait(headers: &HeaderMap) -> Option<Duration> {
    let wishes = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut wishes = wishes.flat_map(|text| text.split(','));
    let seconds = wishes.find_map(|wish| {
        let (name, value) = wish.split(';').next().unwrap_or_default().split_once('=')?;
        let is_wait = name.trim().eq_ignore_ascii_case("wait");
        is_wait.then(|| value.trim().trim_matches('"').parse::<u64>().ok())?
    })?;
    Some(Duration::from_secs(seconds).min(MOST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(prefer: &[&'static str], seconds: Option<u64>) {
        let headers =
            prefer.iter().map(|text| ("prefer".parse().expect("a name"), text.parse().expect("a value"))).collect();
        assert_eq!(preferred_wait(&headers), seconds.map(Duration::from_secs), "{prefer:?}");
    }

    #[test]
    fn clients_may_say_how_long_they_wait() {
        check(&[], None);
        check(&["wait=10"], Some(10));
        check(&["respond-async, Wait = \"7\""], Some(7));
        check(&["handling=lenient", "wait=20; x=1"], Some(20));
        check(&["wait=3, wait=4"], Some(3));
        check(&["wait=100000"], Some(90));
        check(&["wait=-1"], None);
        check(&["wait=soon"], None);
        check(&["wait"], None);
    }
}
