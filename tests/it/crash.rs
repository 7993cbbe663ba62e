//! Acceptance 5: `kill -9` during builds. Answers stay whole, no token is stuck, no file is orphaned.

use std::time::{Duration, Instant};

use quarry_storage::{Store, StoreOptions};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::events::{Month, SeenMonth, seen_months, selector, write_events, write_visits};
use crate::server::{Project, Server, environment, pause, wait_until};

const KILLS: i64 = 20;
const ROWS_A_MONTH: i64 = 30_000;
const MONTHS: [&str; 6] = ["2024-01", "2024-02", "2024-03", "2024-04", "2024-05", "2024-06"];
const LAST_DAY: &str = "2024-06-30";

fn write_generation(project: &Project, generation: i64) {
    let months: Vec<_> =
        MONTHS.iter().map(|name| Month { name, rows: ROWS_A_MONTH + generation, generation }).collect();
    write_events(project, &months);
}

/// Fails unless every month is there, whole, and of one generation that its row count fits.
fn assert_whole(months: &[SeenMonth]) {
    let names: Vec<_> = months.iter().map(|month| month.name.as_str()).collect();
    assert_eq!(names, MONTHS, "every month once");
    for month in months {
        assert_eq!(month.count, ROWS_A_MONTH + month.generation(), "rows are missing or doubled: {month:?}");
    }
}

/// Starts a server; gives the time until it is ready.
fn restart(project: &Project) -> (Server, Duration) {
    let begun = Instant::now();
    let server = Server::start_with_jobs(project);
    wait_until("readiness", Duration::from_secs(30), || {
        (server.call("GET", "/readyz").send().status == 200).then_some(())
    });
    (server, begun.elapsed())
}

#[test]
fn kill_nine_during_builds_loses_and_mixes_nothing() {
    let seed = environment("QUARRY_SEED").and_then(|text| text.parse().ok()).unwrap_or(20_240_229);
    eprintln!("crash seed {seed} (QUARRY_SEED)");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let project = Project::copy("events");
    write_visits(&project, 1, 1);
    write_generation(&project, 1);
    let everything = selector(&json!({"preAggregations": ["events.monthly"]}));
    let (mut server, _) = restart(&project);
    let begun = Instant::now();
    assert_eq!(server.build(&everything), MONTHS.len());
    let build = begun.elapsed();
    let mut known = seen_months(&server, LAST_DAY);
    assert_whole(&known);

    let mut restarts = Vec::new();
    let mut interrupted = 0;
    for generation in 2..2 + KILLS {
        write_generation(&project, generation);
        let tokens = server.post_jobs(&everything);
        pause(build.mul_f64(random.random_range(0.0..1.0)));
        interrupted += i64::from(server.job_entries(&tokens).iter().any(|entry| entry["status"] != "done"));
        server.kill();
        drop(server);

        let (restarted, time) = restart(&project);
        server = restarted;
        restarts.push(time);
        let seen = seen_months(&server, LAST_DAY);
        assert_whole(&seen);
        let statuses = server.wait_jobs(&tokens);
        let settled = seen_months(&server, LAST_DAY);
        assert_whole(&settled);
        for (((before, now), after), status) in known.iter().zip(&seen).zip(&settled).zip(&statuses) {
            assert!(before.generation() <= now.generation() && now.generation() <= generation, "{before:?} {now:?}");
            assert!(now.generation() <= after.generation(), "a published month went back: {now:?} {after:?}");
            match status.as_str() {
                "done" => assert_eq!(after.generation(), generation, "done means published: {after:?}"),
                text => assert!(text.starts_with("failure"), "the token is stuck at {text:?}"),
            }
        }
        known = settled;
    }
    report(restarts, interrupted);
    assert_no_orphans(&project, server, &everything);
}

fn report(mut restarts: Vec<Duration>, interrupted: i64) {
    restarts.sort();
    let (median, worst) = (restarts[restarts.len() / 2], restarts[restarts.len() - 1]);
    eprintln!("{KILLS} kills, {interrupted} of them before all was published; ready after {median:?}, worst {worst:?}");
    assert!(interrupted >= 3, "the kills came too late to interrupt anything");
    assert!(median <= Duration::from_secs(1), "half of the restarts took more than {median:?}");
    // A busy machine's disk may stall one of them; that is not ours to fail for.
    assert!(worst <= Duration::from_secs(15), "a restart took {worst:?}");
}

/// After one more start everything can still be built, and then the disk holds the live files and those that the
/// store knows as garbage, nothing else.
fn assert_no_orphans(project: &Project, server: Server, everything: &serde_json::Value) {
    server.kill();
    drop(server);
    let (server, _) = restart(project);
    assert_eq!(server.build(everything), MONTHS.len());
    assert_whole(&seen_months(&server, LAST_DAY));
    server.assert_alive();
    server.kill();
    let options = StoreOptions { dir: project.path().join(".quarry"), gc_grace: Duration::ZERO };
    let store = Store::open(options).expect("the store opens, its owner has ended");
    let hour = 3_600_000_000;
    store.collect_garbage(quarry::time::Clock::System.now() + hour).expect("garbage can be collected");
    assert_eq!(project.stored_files().len(), MONTHS.len(), "{:?}", project.stored_files());
}
