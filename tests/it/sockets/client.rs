//! The other side of a socket.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Message, WebSocket, client::client_with_config};

use crate::server::{Server, valid_token};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A socket.
#[derive(Debug)]
pub(crate) struct Socket(WebSocket<TcpStream>);

impl Socket {
    /// Opens one at a path; nobody is there yet.
    #[track_caller]
    pub(crate) fn open(server: &Server, path: &str) -> Self {
        Self::try_open(server, path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// As [`Socket::open`]; the text is the server's refusal.
    pub(crate) fn try_open(server: &Server, path: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(("127.0.0.1", server.port())).expect("the server listens");
        stream.set_nodelay(true).expect("a socket");
        // Small buffers: some tests open thousands.
        let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(4096);
        let uri = format!("ws://127.0.0.1:{}{path}", server.port());
        let (socket, _) = client_with_config(uri, stream, Some(config)).map_err(|error| error.to_string())?;
        Ok(Self(socket))
    }

    /// Opens one and says who is there.
    #[track_caller]
    pub(crate) fn authorized(server: &Server) -> Self {
        let mut socket = Self::open(server, "/");
        socket.send(&json!({"authorization": valid_token()}));
        assert_eq!(socket.next(), json!({"handshake": true}));
        socket
    }

    /// Sends a message.
    #[track_caller]
    pub(crate) fn send(&mut self, message: &Value) {
        self.send_text(&message.to_string());
    }

    /// Sends any text.
    #[track_caller]
    pub(crate) fn send_text(&mut self, text: &str) {
        self.0.send(Message::text(text)).expect("the socket is open");
    }

    /// Sends a question.
    #[track_caller]
    pub(crate) fn ask(&mut self, id: u64, method: &str, params: &Value) {
        self.send(&json!({"messageId": id, "requestId": "r", "method": method, "params": params}));
    }

    /// What comes next; fails when nothing does.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Value {
        self.within(PATIENCE).unwrap_or_else(|| panic!("nothing came within {PATIENCE:?}"))
    }

    /// What comes next, if it comes in time.
    #[track_caller]
    pub(crate) fn within(&mut self, patience: Duration) -> Option<Value> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.0.get_ref().set_read_timeout(Some(left)).expect("a socket");
            match self.0.read() {
                Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).expect("messages are JSON")),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(other) => panic!("unexpected: {other:?}"),
                Err(tungstenite::Error::Io(error))
                    if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
                {
                    if Instant::now() >= until {
                        return None;
                    }
                }
                Err(error) => panic!("the socket broke: {error}"),
            }
        }
    }

    /// The next message that answers a question, if it comes in time; others are signs of life.
    #[track_caller]
    pub(crate) fn answer_within(&mut self, patience: Duration) -> Option<Value> {
        let until = Instant::now() + patience;
        loop {
            let message = self.within(until.saturating_duration_since(Instant::now()))?;
            // A busy machine may not be ready in time; the answer comes by itself then.
            if message.get("messageProcessedId").is_none() && message["message"]["error"] != "Continue wait" {
                return Some(message);
            }
        }
    }

    /// The next message that answers a question.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Value {
        self.answer_within(PATIENCE).unwrap_or_else(|| panic!("no answer within {PATIENCE:?}"))
    }

    /// The code with which the other side closes; what comes before it is dropped.
    #[track_caller]
    pub(crate) fn closed(&mut self) -> u16 {
        self.0.get_ref().set_read_timeout(Some(PATIENCE)).expect("a socket");
        loop {
            match self.0.read() {
                Ok(Message::Close(Some(CloseFrame { code, .. }))) => return code.into(),
                Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("not closed in order: {other:?}"),
            }
        }
    }
}
