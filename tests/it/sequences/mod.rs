//! Random rollups, random histories: source changes, partial rebuilds, refresh ticks, crashes, reopenings, jobs cancelled
//! and retried, rollbacks, questions.
//! Every answer equals the source at the state that the used partitions were built from.
//!
//! [`world`] makes models and [`state`] what their source goes through, [`history`] what happens to them; [`belief`] and
//! [`builds`] say what each partition should hold, as [`slices`] of states; [`origins`] where an answer may come from,
//! [`oracle`] what it is; [`play`], [`operate`] and [`ask`] compare. `QUARRY_SEED` and `QUARRY_SEQUENCES` make
//! longer runs, `QUARRY_SEQUENCE` plays one again.

mod ask;
mod belief;
mod builds;
mod history;
mod operate;
mod oracle;
mod origins;
mod play;
mod slices;
mod state;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use self::history::{Step, history};
use self::play::{Player, Tally};
use self::world::World;
use crate::differential::random::Random;
use crate::server::environment;

const SEED: u64 = 42;
/// What is not optimised takes about ten times as long.
const SEQUENCES: u64 = if cfg!(debug_assertions) { 60 } else { 1_000 };
/// Sequences played at the same time.
const PLAYERS: usize = 2;
/// Tries to make a failing history shorter.
const SHRINKS: usize = 40;

/// A sequence that shows a fault.
#[derive(Debug)]
struct Fault {
    sequence: u64,
    /// Position of the step that shows it.
    at: usize,
    text: String,
}

/// One sequence, made of its seed.
struct Sequence {
    world: World,
    steps: Vec<Step>,
    seed: u64,
}

impl Sequence {
    fn new(seed: u64, number: u64) -> Self {
        let seed = seed.wrapping_mul(1_000_003).wrapping_add(number);
        let mut random = Random::new(seed);
        let world = World::new(&mut random);
        let steps = history(&mut random, &world);
        Self { world, steps, seed }
    }

    /// Plays some steps in a project of their own. A panic is a fault of the last step.
    fn play(&self, steps: &[Step]) -> Result<Tally, (usize, String)> {
        let played = catch_unwind(AssertUnwindSafe(|| {
            let mut player = Player::new(&self.world, self.seed);
            player.play(steps).map(|()| player.tally)
        }));
        played.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err((steps.len().saturating_sub(1), text.unwrap_or_else(|| "a panic".to_owned())))
        })
    }

    /// The fewest steps found that still show a fault.
    fn shrink(&self, at: usize, fault: &str) -> (Vec<Step>, String) {
        let (mut steps, mut fault) = (self.steps[..=at].to_vec(), fault.to_owned());
        let (mut position, mut tries) = (0, 0);
        while position < steps.len() && tries < SHRINKS {
            let mut fewer = steps.clone();
            fewer.remove(position);
            tries += 1;
            match self.play(&fewer) {
                Err((at, text)) => {
                    fewer.truncate(at + 1);
                    (steps, fault) = (fewer, text);
                }
                Ok(_) => position += 1,
            }
        }
        (steps, fault)
    }
}

fn setting(name: &str) -> Option<u64> {
    environment(name).and_then(|text| text.parse().ok())
}

impl Tally {
    fn add(&mut self, other: Self) {
        let Self { by_rollup, by_lambda, completed, by_join, by_rows, by_source, .. } = other;
        self.by_rollup += by_rollup;
        self.by_lambda += by_lambda;
        self.completed += completed;
        self.by_join += by_join;
        self.by_rows += by_rows;
        self.by_source += by_source;
        let Self { built, kills, interrupted, ticks, cancelled, rolled_back, copied, atomic, .. } = other;
        self.copied += copied;
        self.atomic += atomic;
        self.built += built;
        self.kills += kills;
        self.interrupted += interrupted;
        self.ticks += ticks;
        self.cancelled += cancelled;
        self.rolled_back += rolled_back;
    }
}

/// Plays the sequences of some numbers; the first fault ends it.
fn play_all(seed: u64, numbers: std::ops::Range<u64>) -> Result<Tally, Fault> {
    let (next, failed) = (AtomicU64::new(numbers.start), AtomicBool::new(false));
    let (tally, fault) = (Mutex::new(Tally::default()), Mutex::new(None));
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= numbers.end {
                return;
            }
            let sequence = Sequence::new(seed, number);
            match sequence.play(&sequence.steps) {
                Ok(seen) => tally.lock().expect("no panic").add(seen),
                Err((at, text)) => {
                    failed.store(true, Ordering::Relaxed);
                    fault.lock().expect("no panic").get_or_insert(Fault { sequence: number, at, text });
                }
            }
        }
    };
    std::thread::scope(|scope| (0..PLAYERS).for_each(|_| drop(scope.spawn(work))));
    match fault.into_inner().expect("no panic") {
        None => Ok(tally.into_inner().expect("no panic")),
        Some(fault) => Err(fault),
    }
}

#[test]
fn every_answer_is_the_source_as_its_partitions_were_built_from_it() {
    let seed = setting("QUARRY_SEED").unwrap_or(SEED);
    let numbers = match setting("QUARRY_SEQUENCE") {
        Some(number) => number..number + 1,
        None => 0..setting("QUARRY_SEQUENCES").unwrap_or(SEQUENCES),
    };
    let count = numbers.end - numbers.start;
    eprintln!("sequences seed {seed} (QUARRY_SEED), {count} sequences (QUARRY_SEQUENCES)");
    match play_all(seed, numbers) {
        Ok(tally) => {
            eprintln!("{tally:?}");
            if count >= 50 {
                let Tally { by_rollup, by_lambda, completed, by_join, by_rows, by_source, .. } = tally;
                let stored = by_rollup + by_lambda + by_join + by_rows;
                let answers = stored + by_source;
                assert!(stored * 2 > answers, "only {stored} of {answers} answers by what is stored");
                assert!(by_source * 20 > answers, "only {by_source} of {answers} answers by the source");
                for (what, times) in [
                    ("lambdas", by_lambda),
                    ("lambdas and the source", completed),
                    ("joins", by_join),
                    ("rows", by_rows),
                ] {
                    assert!(times > 0, "no answer by {what}");
                }
                assert!(tally.interrupted > 0 && tally.ticks > 0, "nothing was interrupted, or never a tick");
                assert!(tally.copied > 0, "no copy for an index was ever at hand");
                assert!(tally.atomic > 0, "nothing was published in one step");
                assert!(tally.cancelled > 0 && tally.rolled_back > 0, "nothing was cancelled, or nothing went back");
            }
        }
        Err(fault) => {
            let Fault { sequence: number, at, text } = fault;
            let sequence = Sequence::new(seed, number);
            let (steps, shrunk) = sequence.shrink(at, &text);
            let steps: Vec<String> = steps.iter().map(|step| format!("  {step:?}")).collect();
            panic!(
                "seed {seed}, sequence {number} (QUARRY_SEQUENCE) fails at step {at}: {text}\n\
                 --- shortened to\n{}\n--- which gives\n{shrunk}\n--- with {:?}\n{}",
                steps.join("\n"),
                sequence.world,
                sequence.world.yaml()
            );
        }
    }
}
