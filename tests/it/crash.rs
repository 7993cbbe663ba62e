//! Acceptance 4 of the engine: `kill -9` at random moments of a rebuild under query load. Nothing acknowledged is lost,
//! answers stay whole, every token resolves, no file is orphaned.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quarry_storage::{Store, StoreOptions};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::events::{Month, SeenMonth, months_of, months_query, seen_months, selector, write_events, write_visits};
use crate::server::{LOAD, Project, Server, environment, pause, valid_token, wait_until};

/// What is not optimised takes about ten times as long.
const KILLS: usize = if cfg!(debug_assertions) { 40 } else { 200 };
const ROWS_A_MONTH: i64 = 400;
#[rustfmt::skip]
const MONTHS: [&str; 24] = [
    "2024-01", "2024-02", "2024-03", "2024-04", "2024-05", "2024-06",
    "2024-07", "2024-08", "2024-09", "2024-10", "2024-11", "2024-12",
    "2025-01", "2025-02", "2025-03", "2025-04", "2025-05", "2025-06",
    "2025-07", "2025-08", "2025-09", "2025-10", "2025-11", "2025-12",
];
const LAST_DAY: &str = "2025-12-31";
const READERS: usize = 2;
/// Tokens asked for in one request.
const TOKENS: usize = 200;

/// A generation for every month.
type Generations = [i64; MONTHS.len()];

fn write_generation(project: &Project, generation: i64) {
    let months: Vec<_> =
        MONTHS.iter().map(|name| Month { name, rows: ROWS_A_MONTH + generation, generation }).collect();
    write_events(project, &months);
}

/// The generations; fails unless every month is there, whole, and of one generation that its row count fits.
#[track_caller]
fn whole(months: &[SeenMonth]) -> Generations {
    let names: Vec<_> = months.iter().map(|month| month.name.as_str()).collect();
    assert_eq!(names, MONTHS, "every month once");
    std::array::from_fn(|at| {
        let month = &months[at];
        assert_eq!(month.count, ROWS_A_MONTH + month.generation(), "rows are missing or doubled: {month:?}");
        month.generation()
    })
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

/// Asks until the server is killed; gives what it saw last and the number of answers. Months never go back.
fn read(server: &Server, killed: &AtomicBool, floor: Generations) -> (Generations, usize) {
    let (mut known, mut answers) = (floor, 0);
    let query = json!({"query": months_query(LAST_DAY)});
    loop {
        let reply = match server.call("POST", LOAD).token(&valid_token()).json(&query).try_send() {
            Ok(reply) => reply,
            Err(_) if killed.load(Ordering::SeqCst) => return (known, answers),
            Err(error) => panic!("no answer of a living server: {error}"),
        };
        assert_eq!(reply.status, 200, "{}", reply.body);
        let seen = whole(&months_of(&reply.value()));
        assert!(known.iter().zip(&seen).all(|(before, now)| before <= now), "a month went back: {known:?} {seen:?}");
        (known, answers) = (seen, answers + 1);
    }
}

/// What comes up in all rounds.
#[derive(Default)]
struct Seen {
    restarts: Vec<Duration>,
    interrupted: usize,
    answers: usize,
    tokens: Vec<String>,
}

/// One rebuild of some months that is killed.
struct Round<'a> {
    project: &'a Project,
    /// First and last month that are rebuilt.
    months: (usize, usize),
    /// The kill comes so much after the request.
    after: Duration,
    /// The source's generation when the request comes, and when the server is back.
    generations: (i64, i64),
}

impl Round<'_> {
    fn is_selected(&self, month: usize) -> bool {
        self.months.0 <= month && month <= self.months.1
    }

    /// Gives the next server and what all months are of at last.
    fn play(&self, server: Server, known: Generations, seen: &mut Seen) -> (Server, Generations) {
        write_generation(self.project, self.generations.0);
        let range = json!([format!("{}-05", MONTHS[self.months.0]), format!("{}-05", MONTHS[self.months.1])]);
        let selector = selector(&json!({"preAggregations": ["events.monthly"], "dateRange": range}));
        let killed = AtomicBool::new(false);
        let (tokens, done, read_last) = std::thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(|| read(&server, &killed, known))).collect();
            let tokens = server.post_jobs(&selector);
            pause(self.after);
            let done: Vec<bool> = server.job_entries(&tokens).iter().map(|entry| entry["status"] == "done").collect();
            killed.store(true, Ordering::SeqCst);
            server.kill();
            let read = readers.into_iter().map(|reader| reader.join().expect("readers see no fault"));
            (tokens, done, read.collect::<Vec<_>>())
        });
        drop(server);
        assert_eq!(tokens.len(), self.months.1 - self.months.0 + 1);
        seen.interrupted += usize::from(done.contains(&false));
        if self.generations.1 != self.generations.0 {
            write_generation(self.project, self.generations.1);
        }

        let (server, time) = restart(self.project);
        seen.restarts.push(time);
        let early = whole(&seen_months(&server, LAST_DAY));
        for (last, answers) in read_last {
            seen.answers += answers;
            assert!(last.iter().zip(&early).all(|(last, now)| last <= now), "lost what was read: {last:?} {early:?}");
        }
        assert_eq!(server.wait_jobs(&tokens), vec!["done"; tokens.len()]);
        seen.tokens.extend(tokens);
        let settled = whole(&seen_months(&server, LAST_DAY));
        for month in 0..MONTHS.len() {
            let (name, now) = (MONTHS[month], settled[month]);
            assert!(known[month] <= early[month] && early[month] <= now, "{name} went back: {known:?} {early:?}");
            if !self.is_selected(month) {
                assert_eq!(known[month], now, "{name} was not asked for");
                continue;
            }
            let is_acknowledged = done[month - self.months.0];
            let allowed = if is_acknowledged { self.generations.0 } else { self.generations.1 };
            assert!(self.generations.0 <= now && now <= allowed, "{name} is of {now}, acknowledged: {is_acknowledged}");
        }
        (server, settled)
    }
}

#[test]
fn kill_nine_during_builds_loses_and_mixes_nothing() {
    let seed = environment("QUARRY_SEED").and_then(|text| text.parse().ok()).unwrap_or(20_240_229);
    let kills = environment("QUARRY_KILLS").and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    eprintln!("crash seed {seed} (QUARRY_SEED), {kills} kills (QUARRY_KILLS)");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let project = Project::copy("events");
    write_visits(&project, 1, 1);
    write_generation(&project, 1);
    let everything = selector(&json!({"preAggregations": ["events.monthly"]}));
    let (mut server, _) = restart(&project);
    let begun = Instant::now();
    assert_eq!(server.build(&everything), MONTHS.len());
    let build = begun.elapsed();
    let mut known = whole(&seen_months(&server, LAST_DAY));

    let mut seen = Seen::default();
    let mut generation = 1;
    for _ in 0..kills {
        let first = if random.random_bool(0.5) { 0 } else { random.random_range(0..MONTHS.len()) };
        let last = if first == 0 { MONTHS.len() - 1 } else { random.random_range(first..MONTHS.len()) };
        let next = generation + 1 + i64::from(random.random_bool(0.3));
        let share = random.random_range(0.0..1.2) * (last - first + 1) as f64 / MONTHS.len() as f64;
        let round = Round {
            project: &project,
            months: (first, last),
            after: build.mul_f64(share),
            generations: (generation + 1, next),
        };
        generation = next;
        (server, known) = round.play(server, known, &mut seen);
    }
    for tokens in seen.tokens.chunks(TOKENS) {
        let statuses: Vec<Value> = server.job_entries(tokens).iter().map(|entry| entry["status"].clone()).collect();
        assert_eq!(statuses, vec!["done"; tokens.len()], "a token was lost");
    }
    report(kills, seen);
    assert_no_orphans(&project, server, &everything);
}

fn report(kills: usize, seen: Seen) {
    let Seen { mut restarts, interrupted, answers, tokens } = seen;
    restarts.sort();
    let (median, worst) = (restarts[restarts.len() / 2], restarts[restarts.len() - 1]);
    eprintln!(
        "{kills} kills, {interrupted} of them before all was published; {} tokens; {answers} answers meanwhile; \
         ready after {median:?}, worst {worst:?}",
        tokens.len()
    );
    assert!(interrupted * 5 >= kills, "the kills came too late to interrupt anything");
    assert!(answers >= kills, "hardly anything was asked meanwhile");
    assert!(median <= Duration::from_secs(1), "half of the restarts took more than {median:?}");
    // A busy machine's disk may stall one of them; that is not ours to fail for.
    assert!(worst <= Duration::from_secs(15), "a restart took {worst:?}");
}

/// After one more start everything can still be built, and then the disk holds the live files and those that the
/// store knows as garbage, nothing else.
fn assert_no_orphans(project: &Project, server: Server, everything: &Value) {
    server.kill();
    drop(server);
    let (server, _) = restart(project);
    assert_eq!(server.build(everything), MONTHS.len());
    whole(&seen_months(&server, LAST_DAY));
    server.assert_alive();
    server.kill();
    let options = StoreOptions {
        gc_grace: Duration::ZERO,
        keep_versions: 0,
        ..StoreOptions::new(project.path().join(".quarry"))
    };
    let store = Store::open(options).expect("the store opens, its owner has ended");
    let hour = 3_600_000_000;
    store.collect_garbage(quarry::time::Clock::System.now() + hour).expect("garbage can be collected");
    assert_eq!(project.stored_files().len(), MONTHS.len(), "{:?}", project.stored_files());
}
