//! The API over a socket, with subscriptions (`http-api.md` §10): what endpoints answer over HTTP, without asking
//! again for it.
//!
//! A socket ([`socket`]) reads and writes messages ([`message`]); what they ask goes the way of every call. Questions
//! that are subscribed to are topics ([`topic`]): equal ones share one answer ([`outcome`]), which is made anew only
//! when what it rests on ([`footprint`]) may have changed ([`changes`]).

mod changes;
mod footprint;
mod message;
mod outcome;
mod socket;
mod topic;

use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts as _, Request};
use axum::http::{HeaderMap, Response, header};

pub(super) use self::footprint::Footprint;
pub(super) use self::topic::Topics;
use super::access::Caller;
use super::error::ApiError;
use super::{ApiState, Call, extract};

/// Bytes that an idle socket keeps for reading, and for writing; longer messages get more while they last.
const BUFFER_BYTES: usize = 4096;

/// Begins to look for what subscribers are told of.
pub(super) fn start(state: &ApiState) {
    changes::Changes::watch(state);
}

/// Whether a request wants to become a socket.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    extract::header_text(headers, header::UPGRADE.as_str()).is_some_and(|word| word.eq_ignore_ascii_case("websocket"))
}

/// What an endpoint answers to somebody who was let in a while ago, as their model and their groups are now; and the
/// caller that was answered, where that is known.
async fn ask(state: &ApiState, path: &str, call: Call) -> (Response<Body>, Option<Caller>) {
    let parts = &state.0.parts;
    match call.caller.renewed(parts).await {
        Ok(caller) => (state.perform(path, Call { caller: caller.clone(), ..call }).await, Some(caller)),
        Err(error) => (error.into_response(&call.id, call.caller.sees_inside(parts)), None),
    }
}

/// Makes it one; who is there is said in the first message.
///
/// # Errors
/// The request is not what the protocol says.
pub(super) async fn upgrade(state: ApiState, request: Request) -> Result<Response<Body>, ApiError> {
    let (mut head, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut head, &())
        .await
        .map_err(|rejection| ApiError::Invalid(rejection.body_text()))?;
    let max_bytes = state.0.parts.options.max_request_bytes;
    let upgrade = upgrade
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_message_size(max_bytes)
        .max_frame_size(max_bytes)
        .on_failed_upgrade(|error| tracing::debug!(%error, "a socket was not opened"));
    let sockets = state.0.sockets.clone();
    Ok(upgrade.on_upgrade(move |socket| sockets.track_future(socket::serve(socket, state, head))))
}
