//! An identity provider on loopback: serves a document of keys, counts who asks, and fails in every way.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::server::root;

/// What the provider does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Mode {
    /// Gives the document with this `Cache-Control`.
    Answer(Value, &'static str),
    /// Gives a status without a document.
    Status(u16),
    /// Takes the request and says nothing.
    Silent,
}

#[derive(Debug)]
pub(crate) struct KeyServer {
    pub(crate) url: String,
    mode: Arc<Mutex<Mode>>,
    asked: Arc<AtomicUsize>,
}

impl KeyServer {
    /// On a free port; its thread ends with the test run.
    pub(crate) fn start(mode: Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/keys.json", listener.local_addr().expect("an address"));
        let server = Self { url, mode: Arc::new(Mutex::new(mode)), asked: Arc::default() };
        let (mode, asked) = (Arc::clone(&server.mode), Arc::clone(&server.asked));
        std::thread::spawn(move || {
            let mut silenced: Vec<TcpStream> = Vec::new();
            for stream in listener.incoming() {
                asked.fetch_add(1, Ordering::SeqCst);
                let mode = mode.lock().expect("no test panics while it holds the lock").clone();
                let stream = stream.expect("a connection");
                match mode {
                    Mode::Silent => silenced.push(stream),
                    // Who hangs up early has no need of the answer.
                    Mode::Status(status) => drop(answer(&stream, status, "", "")),
                    Mode::Answer(document, cache) => drop(answer(&stream, 200, cache, &document.to_string())),
                }
            }
        });
        server
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.mode.lock().expect("no test panics while it holds the lock") = mode;
    }

    /// How often it was asked so far.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn answer(stream: &TcpStream, status: u16, cache: &str, body: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nCache-Control: {cache}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// A file of `fixtures/keys`.
pub(crate) fn pem(name: &str) -> String {
    std::fs::read_to_string(root().join(Path::new("fixtures/keys")).join(name)).expect("a key of the fixtures")
}

/// The private key of that name in `fixtures/keys`.
pub(crate) fn private_key(name: &str, algorithm: Algorithm) -> EncodingKey {
    let text = pem(&format!("{name}.pem"));
    let read = match algorithm {
        Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(text.as_bytes()),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(text.as_bytes()),
        _ => EncodingKey::from_rsa_pem(text.as_bytes()),
    };
    read.expect("a private key")
}

/// A token signed with a key of the fixtures.
pub(crate) fn sign_as(name: &str, algorithm: Algorithm, kid: Option<&str>, claims: &Value) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, claims, &private_key(name, algorithm)).expect("claims can be signed")
}

/// The public part of a key of the fixtures, as a key set has it: without `alg`, so that it fits all of its family.
pub(crate) fn public_part(name: &str, algorithm: Algorithm, kid: &str) -> Value {
    let jwk = Jwk::from_encoding_key(&private_key(name, algorithm), algorithm).expect("a public key");
    let mut jwk = serde_json::to_value(jwk).expect("JSON");
    let object = jwk.as_object_mut().expect("an object");
    object.remove("alg");
    object.insert("kid".to_owned(), json!(kid));
    object.insert("use".to_owned(), json!("sig"));
    jwk
}
