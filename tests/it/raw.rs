//! HTTP by hand: for requests that no client library makes.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::server::Server;

/// Longest time for one answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection.
#[derive(Debug)]
pub(crate) struct Raw(TcpStream);

/// What came back, taken apart.
#[derive(Debug)]
pub(crate) struct RawReply {
    pub(crate) status: u16,
    /// As it came, names in lower case.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl RawReply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.split_once(": ").filter(|(key, _)| *key == name).map(|(_, value)| value))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Raw {
    pub(crate) fn connect(server: &Server) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", server.port())).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self(stream)
    }

    /// Sends bytes; a server that has hung up is noticed when reading.
    pub(crate) fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).ok();
    }

    /// Sends a GET without body.
    pub(crate) fn get(&mut self, path: &str, headers: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
    }

    /// Reads one answer to its end; none when the connection ends before one.
    pub(crate) fn answer(&mut self) -> Option<RawReply> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            self.read_more(&mut bytes)?;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let mut reply = RawReply { status, head, body: bytes.split_off(end + 4) };
        match reply.header("content-length").map(|length| length.parse::<usize>().expect("a length")) {
            Some(length) => while reply.body.len() < length && self.read_more(&mut reply.body).is_some() {},
            None if reply.header("transfer-encoding").is_some() => {
                while !reply.body.ends_with(b"0\r\n\r\n") && self.read_more(&mut reply.body).is_some() {}
                reply.body = unchunk(&reply.body);
            }
            None => {}
        }
        Some(reply)
    }

    fn read_more(&mut self, into: &mut Vec<u8>) -> Option<()> {
        let mut buffer = vec![0; 64 * 1024];
        match self.0.read(&mut buffer) {
            Ok(0) => None,
            Ok(read) => {
                into.extend_from_slice(&buffer[..read]);
                Some(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => None,
            Err(error) => panic!("no answer within {PATIENCE:?}: {error}"),
        }
    }

    /// Waits until the server ends the connection without a word; gives how long that took.
    #[track_caller]
    pub(crate) fn wait_for_end(&mut self) -> Duration {
        let begun = Instant::now();
        let mut more = Vec::new();
        assert!(self.read_more(&mut more).is_none(), "the server says {:?}", String::from_utf8_lossy(&more));
        begun.elapsed()
    }
}

/// The data of a body in chunks.
fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(at) = bytes.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..at]).unwrap_or_default().trim(), 16).unwrap_or(0);
        if size == 0 || bytes.len() < at + 2 + size {
            break;
        }
        whole.extend_from_slice(&bytes[at + 2..at + 2 + size]);
        bytes = &bytes[(at + 4 + size).min(bytes.len())..];
    }
    whole
}
