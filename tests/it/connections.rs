//! Two thousand clients at once (`http-api.md` §1.1): no error, and memory that stays what it is.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::events::events_project;
use crate::server::{LOAD, Server, valid_token};

/// Connections that are open at the same time.
const CLIENTS: usize = 2_000;
/// Requests of each, one after the other.
const REQUESTS: usize = 4;
/// Most that the process may grow by for the connections alone, in bytes: 50 kB each.
const MOST_GROWTH: u64 = 100 << 20;

/// One answer: its status and body.
async fn ask(stream: &mut BufReader<TcpStream>, request: &str) -> std::io::Result<(u16, String)> {
    stream.get_mut().write_all(request.as_bytes()).await?;
    let (mut status, mut length, mut line) = (0, 0, String::new());
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let lower = line.trim().to_ascii_lowercase();
        if lower.starts_with("http/1.1 ") {
            status = lower[9..12].parse().unwrap_or(0);
        }
        if let Some(text) = lower.strip_prefix("content-length: ") {
            length = text.parse().unwrap_or(0);
        }
        if lower.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[test]
fn two_thousand_connections_are_served_and_cost_little() {
    let project = events_project(&["2024-01"], 3_000);
    let server = Server::start(&project);
    let body = json!({"query": {"measures": ["events.count"], "dimensions": ["events.kind"]}}).to_string();
    let request = format!(
        "POST {LOAD} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        valid_token(),
        body.len()
    );
    let probe = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let (before, begun) = (server.greatest_memory(), Instant::now());
    let held = runtime.block_on(async {
        let mut held = 0;
        let mut clients = Vec::with_capacity(CLIENTS);
        for _ in 0..CLIENTS {
            clients.push(BufReader::new(TcpStream::connect(("127.0.0.1", server.port())).await.expect("a connection")));
        }
        for round in 0..REQUESTS {
            let mut asking = tokio::task::JoinSet::new();
            for (number, mut client) in clients.drain(..).enumerate() {
                // At first all only keep their connection; then every tenth asks for rows.
                let asks = round > 0 && (number + round) % 10 == 0;
                let request = if asks { request.clone() } else { probe.to_owned() };
                asking.spawn(async move {
                    let answer = tokio::time::timeout(Duration::from_secs(120), ask(&mut client, &request)).await;
                    (client, answer.expect("an answer in time"))
                });
            }
            while let Some(asked) = asking.join_next().await {
                let (client, answer) = asked.expect("no panic");
                let (status, body) = answer.expect("a connection that stays");
                assert_eq!(status, 200, "{body}");
                clients.push(client);
            }
            assert_eq!(clients.len(), CLIENTS, "all are still there");
            if round == 0 {
                held = server.greatest_memory();
            }
        }
        held
    });
    let peak = server.greatest_memory();
    let growth = held.saturating_sub(before);
    eprintln!(
        "{CLIENTS} connections, {} requests in {:?}; resident at most {} MB before, {} MB with all, {} MB after",
        CLIENTS * REQUESTS,
        begun.elapsed(),
        before >> 20,
        held >> 20,
        peak >> 20
    );
    assert!(growth < MOST_GROWTH, "the process grew by {} MB", growth >> 20);
    server.assert_alive();
}
