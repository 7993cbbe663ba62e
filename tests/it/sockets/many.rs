//! Thousands of idle subscriptions cost little, and one publish reaches all of them.

use std::time::{Duration, Instant};

use serde_json::json;

use super::client::Socket;
use super::{built, monthly, months};
use crate::events::{Month, write_events};

const SUBSCRIPTIONS: usize = 5000;
/// Questions that differ.
const QUESTIONS: usize = 50;
/// Files that a process may have open, when nobody says.
const FEW_FILES: usize = 1024;

/// Sockets that one process can open; with fewer, each has more subscriptions.
fn most_sockets() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    let files = line.split_whitespace().nth(3).and_then(|word| word.parse().ok()).unwrap_or(FEW_FILES);
    files.saturating_sub(FEW_FILES / 4).min(SUBSCRIPTIONS)
}

#[test]
fn five_thousand_idle_subscriptions_cost_little() {
    let (project, server) = built();
    let before = server.held_bytes();
    let sockets = most_sockets();
    let each = SUBSCRIPTIONS.div_ceil(sockets);
    let began = Instant::now();
    let mut sockets: Vec<Socket> = (0..sockets).map(|_| Socket::authorized(&server)).collect();
    for (number, socket) in sockets.iter_mut().enumerate() {
        let mut question = months();
        question["query"]["limit"] = json!(1000 + number % QUESTIONS);
        (1..=each).for_each(|id| socket.ask(id as u64, "subscribe", &question));
    }
    for socket in &mut sockets {
        (0..each).for_each(|_| assert_eq!(socket.answer()["status"], json!(200)));
    }
    let subscribed = began.elapsed();
    let held = server.held_bytes().saturating_sub(before);

    let months = [("2024-01", 2), ("2024-02", 1), ("2024-03", 1)];
    write_events(&project, &months.map(|(name, generation)| Month { name, rows: 90, generation }));
    let mut january = monthly();
    january["dateRange"] = json!(["2024-01-01", "2024-01-31"]);
    let tokens = server.post_jobs(&january);
    assert!(server.wait_jobs(&tokens).iter().all(|status| status == "done"));
    let published = Instant::now();
    for socket in &mut sockets {
        (0..each).for_each(|_| assert_eq!(socket.answer()["status"], json!(200)));
    }
    let pushed = published.elapsed();
    eprintln!(
        "{} sockets with {each} subscriptions each: open after {subscribed:?}, {} KB each, pushed within {pushed:?}",
        sockets.len(),
        held / sockets.len() / 1024,
    );
    assert!(held < 300 << 20, "{} MB are held", held >> 20);
    let patience = Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 10 });
    assert!(pushed < patience, "the last was told after {pushed:?}");
    server.assert_alive();
}
