//! What happens: source changes, partial rebuilds, refresh ticks, crashes, questions.

use super::state::DAYS;
use super::world::World;
use crate::differential::random::Random;

/// One thing that happens. Every step can follow every other one, so that a history can be shortened.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// The source goes to its next state.
    Change(u64),
    /// The fact cannot be read until the next change.
    Spoil,
    /// A job request.
    Post(Post),
    /// The server stops and starts.
    Restart { kill: bool },
    /// The scheduler looks once.
    Tick { kill: bool },
    /// A partition goes back to what it held before.
    RollBack(u64),
    /// Some questions.
    Ask(u64),
}

/// What a job request asks for.
#[derive(Debug, Clone)]
pub(super) struct Post {
    /// None for all.
    pub(super) rollups: Vec<usize>,
    /// Days from the first.
    pub(super) days: Option<(i64, i64)>,
    /// Whether also for the second zone.
    pub(super) both_zones: bool,
    /// What of it is published in one step.
    pub(super) atomic: Option<&'static str>,
    pub(super) then: Then,
}

impl Post {
    /// Everything, to its end.
    pub(super) fn all(both_zones: bool) -> Self {
        Self { rollups: Vec::new(), days: None, both_zones, atomic: None, then: Then::Wait }
    }
}

/// What happens after a job request.
#[derive(Debug, Clone)]
pub(super) enum Then {
    /// All jobs come to their end.
    Wait,
    /// As before, but the source changes meanwhile.
    Change(u64),
    /// The process is killed so many microseconds later; maybe the source changes before it is back.
    Kill { after_us: u64, change: Option<u64> },
    /// The process is killed while it takes the request.
    KillWithin { after_us: u64 },
    /// The jobs are cancelled so many microseconds later; maybe those that were are retried.
    Cancel { after_us: u64, retry: bool },
}

/// A history of some steps.
pub(super) fn history(random: &mut Random, world: &World) -> Vec<Step> {
    let mut steps = Vec::new();
    if random.chance(70) {
        steps.push(Step::Post(Post::all(random.chance(25))));
    }
    for _ in 0..random.between(4, 10) {
        let step = match random.between(0, 100) {
            0..24 => Step::Change(random.seed()),
            24..26 => Step::Spoil,
            26..56 => Step::Post(post(random, world)),
            56..62 => Step::Restart { kill: random.chance(70) },
            62..69 => Step::Tick { kill: random.chance(50) },
            69..75 => Step::RollBack(random.seed()),
            _ => Step::Ask(random.seed()),
        };
        // A rebuild without a change shows little.
        if matches!(step, Step::Post(_) | Step::Tick { .. }) && random.chance(60) {
            steps.push(Step::Change(random.seed()));
        }
        steps.push(step);
    }
    steps.push(Step::Ask(random.seed()));
    steps
}

fn post(random: &mut Random, world: &World) -> Post {
    let all: Vec<usize> = (0..world.rollups.len()).collect();
    let mut rollups = if random.chance(50) { Vec::new() } else { random.some(&all, 1, 2) };
    rollups.sort_unstable();
    let days = random.maybe(35, |random| {
        let start = random.between(-5, DAYS);
        (start, start + random.between(0, 40))
    });
    let after_us = random.seed() % 60_000;
    let then = match random.between(0, 100) {
        0..60 => Then::Wait,
        60..70 => Then::Change(random.seed()),
        70..78 => Then::Cancel { after_us: after_us % 30_000, retry: random.chance(50) },
        78..94 => Then::Kill { after_us, change: random.maybe(60, Random::seed) },
        _ => Then::KillWithin { after_us: after_us % 20_000 },
    };
    // With a job of a group all of it are cancelled and retried, which other tests look at.
    let is_plain = matches!(then, Then::Cancel { .. } | Then::KillWithin { .. }) || random.chance(75);
    let atomic = if is_plain { None } else { Some(random.pick(&["per-preaggregation", "all"])) };
    Post { rollups, days, both_zones: random.chance(20), atomic, then }
}
