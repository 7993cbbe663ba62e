//! Plays a history against the real binary and holds every answer against what should be stored.

use std::collections::BTreeSet;
use std::time::Duration;

use quarry::time::Clock;
use serde_json::{Value, json};

use super::belief::{Belief, Built, Part, TableKey, UNKNOWN_KEY};
use super::history::{Post, Step, Then};
use super::oracle::{Question, date};
use super::state::{State, day, spoil};
use super::world::{Kind, Pace, World, ZONES};
use crate::differential::random::Random;
use crate::events::selector;
use crate::server::{ALL_SCOPES, JOBS, Project, Server, pause, valid_token, wait_until};

/// How long the scheduler may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// In that time copies of small partitions are made.
const COPYING: Duration = Duration::from_millis(250);

/// What came up.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tally {
    /// Answers by one rollup.
    pub(super) by_rollup: usize,
    /// By the rollups of a lambda, maybe with the source.
    pub(super) by_lambda: usize,
    /// Those with the source.
    pub(super) completed: usize,
    /// By joined rollups.
    pub(super) by_join: usize,
    /// By the stored rows of cubes.
    pub(super) by_rows: usize,
    pub(super) by_source: usize,
    pub(super) built: usize,
    pub(super) kills: usize,
    /// Kills before all jobs had ended.
    pub(super) interrupted: usize,
    pub(super) ticks: usize,
    /// Jobs that were cancelled before they were done.
    pub(super) cancelled: usize,
    /// Partitions that went back.
    pub(super) rolled_back: usize,
    /// Questions that a copy with rows put together was at hand for.
    pub(super) copied: usize,
    /// Job requests that were to be published in one step.
    pub(super) atomic: usize,
}

/// A project with its server, and what is known of both.
pub(super) struct Player<'w> {
    pub(super) world: &'w World,
    pub(super) project: Project,
    server: Option<Server>,
    /// All states of the source so far; the last one is in its files.
    pub(super) states: Vec<State>,
    /// Whether the fact cannot be read.
    spoiled: bool,
    pub(super) belief: Belief,
    pub(super) tally: Tally,
}

pub(super) fn now() -> i64 {
    Clock::System.now()
}

impl<'w> Player<'w> {
    /// The project with its first state, and a server.
    pub(super) fn new(world: &'w World, seed: u64) -> Self {
        let project = Project::empty();
        project.write("model/sales.yml", &world.yaml());
        let state = State::new(&mut Random::new(seed));
        state.write(project.path(), world.folder);
        let mut player = Self {
            world,
            project,
            server: None,
            states: vec![state],
            spoiled: false,
            belief: Belief::default(),
            tally: Tally::default(),
        };
        player.start(false);
        player
    }

    /// Plays all steps; the position of the first one that shows a fault, and the fault.
    pub(super) fn play(&mut self, steps: &[Step]) -> Result<(), (usize, String)> {
        for (at, step) in steps.iter().enumerate() {
            self.step(step).map_err(|fault| (at, fault))?;
        }
        self.server().assert_alive();
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Change(seed) => {
                self.change(*seed, false);
                Ok(())
            }
            Step::Spoil => {
                spoil(self.project.path(), self.world.folder);
                self.spoiled = true;
                Ok(())
            }
            Step::Post(post) => self.post(post),
            Step::Restart { kill } => {
                self.stop(*kill);
                self.start(false);
                self.check_tables()
            }
            Step::Tick { kill } => self.tick(*kill),
            Step::RollBack(seed) => self.roll_back(*seed),
            Step::Ask(seed) => {
                let mut random = Random::new(*seed);
                if self.world.has_copies() && random.chance(25) {
                    pause(COPYING);
                }
                for _ in 0..3 {
                    let places = &self.states[self.version()].places;
                    let question = Question::random(&mut random, self.world, places);
                    self.ask(&question, None)?;
                    self.count_copies(&question);
                }
                Ok(())
            }
        }
    }

    pub(super) fn server(&self) -> &Server {
        self.server.as_ref().expect("between two steps a server runs")
    }

    pub(super) fn is_spoiled(&self) -> bool {
        self.spoiled
    }

    pub(super) fn version(&self) -> usize {
        self.states.len() - 1
    }

    fn start(&mut self, scheduler: bool) {
        let settings = [
            ("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES),
            ("CUBEJS_REFRESH_WORKER", if scheduler { "true" } else { "false" }),
            ("CUBEJS_REFRESH_WORKER_CONCURRENCY", "2"),
            ("QUARRY_INDEX_COPIES", "true"),
        ];
        self.server = Some(Server::start_with(&self.project, &settings));
    }

    fn stop(&mut self, kill: bool) {
        let server = self.server.take().expect("a server runs");
        if kill {
            self.tally.kills += 1;
            server.kill();
        } else {
            let status = server.stop();
            assert!(status.success(), "the server ended with {status}:\n{}", server.log());
        }
    }

    fn change(&mut self, seed: u64, keep_places: bool) {
        let next = self.states[self.version()].next(&mut Random::new(seed), keep_places);
        next.write(self.project.path(), self.world.folder);
        self.states.push(next);
        self.spoiled = false;
    }

    fn post(&mut self, post: &Post) -> Result<(), String> {
        let Post { rollups, days, both_zones, atomic, then } = post;
        if let (Then::KillWithin { after_us }, false) = (then, self.spoiled) {
            return self.kill_within(*after_us);
        }
        let all: Vec<usize> = (0..self.world.rollups.len()).collect();
        let chosen = if rollups.is_empty() { &all[..] } else { rollups };
        let zones = if *both_zones { &ZONES[..] } else { &ZONES[..1] };
        let range = days.map(|(start, end)| (day(start), day(end)));
        let mut more = json!({"timezones": zones});
        if !rollups.is_empty() {
            let paths = chosen.iter().map(|index| self.world.rollups[*index].path());
            more["preAggregations"] = paths.collect();
        }
        if let Some((start, end)) = range {
            more["dateRange"] = json!([date(start), date(end)]);
        }
        let mut body = json!({"action": "post", "selector": selector(&more)});
        // Where some jobs of a group fail, all do.
        if let Some(scope) = atomic.filter(|_| !self.spoiled) {
            body["atomic"] = json!(scope);
            self.tally.atomic += 1;
        }
        let begun = now();
        let reply = self.server().post(JOBS, &body);
        if self.spoiled && reply.status != 200 {
            return Ok(());
        }
        let version = self.version();
        let jobs = self.belief.post(self.world, &self.states[version], chosen, zones, range);
        if jobs.is_empty() {
            return if reply.status == 400 { Ok(()) } else { Err(format!("nothing is selected, but: {}", reply.body)) };
        }
        let tokens: Vec<String> =
            serde_json::from_str(&reply.body).map_err(|error| format!("{error}: {}", reply.body))?;
        if tokens.len() != jobs.len() {
            return Err(format!("{} tokens for {} partitions: {jobs:?}", tokens.len(), jobs.len()));
        }
        // What is one table in both zones is one job, named twice.
        let mut seen = BTreeSet::new();
        let pairs = jobs.into_iter().zip(tokens).filter(|(_, token)| seen.insert(token.clone()));
        let (jobs, tokens): (Vec<Built>, Vec<String>) = pairs.unzip();
        if self.spoiled {
            return self.check_failed(&jobs, &tokens, begun);
        }
        match then {
            Then::Wait | Then::KillWithin { .. } => self.settle(&jobs, &tokens, &|_| vec![version], begun),
            Then::Change(seed) => {
                // Files of a folder are not replaced in one go, so a build could rightly see some of each.
                if self.world.folder {
                    self.settle(&jobs, &tokens, &|_| vec![version], begun)?;
                    self.change(*seed, false);
                    return Ok(());
                }
                self.change(*seed, true);
                self.settle(&jobs, &tokens, &|_| vec![version, version + 1], begun)
            }
            Then::Cancel { after_us, retry } => self.cancel_after(&jobs, &tokens, *after_us, *retry, begun),
            Then::Kill { after_us, change } => {
                self.kill_after((&jobs, &tokens), (*after_us, *change), atomic.is_some(), begun)
            }
        }
    }

    /// With an unreadable fact only the places are built, and everything else says so.
    fn check_failed(&mut self, jobs: &[Built], tokens: &[String], begun: i64) -> Result<(), String> {
        let statuses = self.server().wait_jobs(tokens);
        let is_place = |job: &Built| matches!(self.world.rollups[job.table.0].kind, Kind::Places | Kind::PlaceRows);
        let expected = |job: &Built, status: &String| match is_place(job) {
            true => status == "done",
            false => status.starts_with("failure: "),
        };
        if !jobs.iter().zip(&statuses).all(|(job, status)| expected(job, status)) {
            return Err(format!("built from an unreadable source: {statuses:?}"));
        }
        let version = self.version();
        for (job, _) in jobs.iter().zip(&statuses).filter(|(_, status)| *status == "done") {
            let contents = self.belief.contents(self.world, job, &[version]);
            // Their refresh keys could not be asked: they are stale.
            self.put(*job, Part { key: UNKNOWN_KEY, ..Part::new(contents, &[version], (begun, now())) });
        }
        self.check_tables()
    }

    /// A partition that is built from the source is published.
    fn publish(&mut self, job: Built, versions: &[usize], built: (i64, i64)) {
        let contents = self.belief.contents(self.world, &job, versions);
        self.put(job, Part::new(contents, versions, built));
    }

    fn put(&mut self, job: Built, part: Part) {
        let parts = &mut self.belief.tables.entry(job.table).or_default().parts;
        let part = part.over(parts.get(&job.start));
        parts.insert(job.start, part);
        self.tally.built += 1;
    }

    /// Waits for the jobs; each must have published one of the versions given.
    pub(super) fn settle(
        &mut self,
        jobs: &[Built],
        tokens: &[String],
        versions: &dyn Fn(usize) -> Vec<usize>,
        begun: i64,
    ) -> Result<(), String> {
        let statuses = self.server().wait_jobs(tokens);
        if let Some((job, status)) = jobs.iter().zip(&statuses).find(|(_, status)| *status != "done") {
            return Err(format!("{job:?} ended with {status}"));
        }
        let done: Vec<(Built, Vec<usize>)> =
            jobs.iter().enumerate().map(|(position, job)| (*job, versions(position))).collect();
        if self.publish_all(&done, (begun, now()))? {
            return self.check_tables();
        }
        self.build_again()
    }

    /// All of these partitions are published, rows before what is built from them. Says whether it is known then what
    /// they hold.
    pub(super) fn publish_all(&mut self, done: &[(Built, Vec<usize>)], built: (i64, i64)) -> Result<bool, String> {
        let is_late = |job: &Built| self.world.rollups[job.table.0].is_from_rows();
        let (late, early): (Vec<_>, Vec<_>) = done.iter().cloned().partition(|(job, _)| is_late(job));
        for (job, versions) in &early {
            self.publish(*job, versions, built);
        }
        if late.is_empty() {
            return Ok(true);
        }
        let jobs: Vec<Built> = late.iter().map(|(job, _)| *job).collect();
        let mut versions: Vec<usize> = late.iter().flat_map(|(_, versions)| versions.clone()).collect();
        versions.sort_unstable();
        versions.dedup();
        let lacks = jobs.iter().any(|job| !self.belief.lacks(self.world, job).is_empty());
        // Which builds had rows built first, and of which version, nobody can tell.
        if lacks && (versions.len() > 1 || self.belief.doubts_rows(self.world)) {
            return Ok(false);
        }
        for index in [Kind::Rows, Kind::PlaceRows].into_iter().filter_map(|kind| self.world.find(kind)) {
            if self.belief.doubts_rows(self.world) {
                self.check_table((index, ZONES[0]))?;
            }
        }
        if self.belief.doubts_rows(self.world) {
            return Ok(false);
        }
        let all = self.belief.contents_from_rows(self.world, &self.states, &jobs, (&versions, built));
        for ((job, versions), contents) in late.into_iter().zip(all) {
            self.put(job, Part::new(contents, &versions, built));
        }
        Ok(true)
    }

    /// Builds everything once more, where it is not known what became of it.
    pub(super) fn build_again(&mut self) -> Result<(), String> {
        let both_zones = self.belief.tables.keys().any(|key| key.1 != ZONES[0]);
        let built = self.post(&Post::all(both_zones));
        self.belief.forget_before();
        built
    }

    /// Kills the server while it builds; nothing that it told may be lost.
    fn kill_after(
        &mut self,
        (jobs, tokens): (&[Built], &[String]),
        (after_us, change): (u64, Option<u64>),
        is_atomic: bool,
        begun: i64,
    ) -> Result<(), String> {
        pause(Duration::from_micros(after_us));
        let version = self.version();
        let done: Vec<bool> = self.server().job_entries(tokens).iter().map(|entry| entry["status"] == "done").collect();
        self.tally.interrupted += usize::from(done.contains(&false));
        self.stop(true);
        if let Some(seed) = change {
            self.change(seed, false);
        }
        self.start(false);
        let versions =
            |position: usize| if done[position] { vec![version] } else { (version..=self.states.len() - 1).collect() };
        let versions: Vec<Vec<usize>> = (0..jobs.len()).map(versions).collect();
        // What a group claims comes with its last partition.
        if !is_atomic {
            self.check_early(jobs, &versions, &done, begun)?;
        }
        self.settle(jobs, tokens, &|position| versions[position].clone(), begun)
    }

    /// While jobs go on after a crash, each partition is the old one or the new one; those that were done are new.
    fn check_early(
        &mut self,
        jobs: &[Built],
        versions: &[Vec<usize>],
        done: &[bool],
        begun: i64,
    ) -> Result<(), String> {
        // What else is built from rows, or stands behind a lambda, may change meanwhile.
        let is_alone = |key: &TableKey| {
            self.world.rollups[key.0].kind == Kind::Groups { from_rows: false } && self.world.lambda_of(key.0).is_none()
        };
        let tables: BTreeSet<TableKey> = jobs.iter().map(|job| job.table).filter(is_alone).collect();
        for key in tables {
            let before = self.belief.clone();
            let mut known = true;
            let rollup = &self.world.rollups[key.0];
            let table = self.belief.tables.entry(key).or_default();
            for (position, job) in jobs.iter().enumerate().filter(|(_, job)| job.table == key) {
                let old = table.parts.get(&job.start);
                // A partition that was not there may be there or not.
                known &= old.is_some() || done[position];
                let kept = old.filter(|_| !done[position]);
                let mut either = kept.map(|part| part.contents.clone()).unwrap_or_default();
                either.extend(before.contents(self.world, job, &versions[position]));
                let since = kept.map_or(begun, |part| part.built.0);
                table.parts.insert(job.start, Part::new(either, &versions[position], (since, i64::MAX)));
            }
            // One question: a second one may come after the next publish.
            let range = table.range.filter(|_| rollup.partition.is_some());
            let question = Question { range, ..self.probe(key) };
            // Else the table of another zone may answer, whose versions are not known yet either.
            known &= self.belief.covering(self.world, key, &question).is_some();
            let checked = if known { self.ask(&question, Some(key)) } else { Ok(()) };
            self.belief = before;
            checked.map_err(|fault| format!("right after a crash: {fault}"))?;
        }
        Ok(())
    }

    /// Kills the server while it takes a request. What it took is not known, so that everything is built once more.
    fn kill_within(&mut self, after_us: u64) -> Result<(), String> {
        let body = json!({"action": "post", "selector": selector(&json!({}))});
        let server = self.server();
        std::thread::scope(|scope| {
            // It may end with an answer or without one.
            scope.spawn(|| server.call("POST", JOBS).token(&valid_token()).json(&body).try_send().is_ok());
            pause(Duration::from_micros(after_us));
            server.kill();
        });
        self.stop(true);
        self.start(false);
        self.build_again()
    }

    fn tick(&mut self, kill: bool) -> Result<(), String> {
        self.stop(kill);
        if self.spoiled {
            self.start(false);
            return self.check_tables();
        }
        if self.world.pace == Pace::Second {
            // Until everything is stale.
            pause(Duration::from_millis(1_050));
        }
        if self.world.pace == Pace::Version && self.belief.doubts_keys() {
            self.start(false);
            self.build_again()?;
            self.stop(kill);
        }
        let begun = now();
        self.belief.tick(self.world, &self.states, self.version(), (begun, i64::MAX));
        self.tally.ticks += 1;
        self.start(true);
        let mut fault = String::new();
        let begun_waiting = std::time::Instant::now();
        wait_until("the scheduler to build what is missing", PATIENCE * 2, || {
            // What is told while it builds may be told by what it is about to replace.
            let before = self.belief.clone();
            let checked = self.check_tables().and_then(|()| self.check_rest());
            self.belief = before;
            match checked {
                Ok(()) => fault.clear(),
                Err(text) if begun_waiting.elapsed() < PATIENCE => {
                    fault = text;
                    return None;
                }
                Err(text) => fault = format!("after a tick of the scheduler: {text}"),
            }
            Some(())
        });
        if !fault.is_empty() {
            return Err(fault);
        }
        let ended = now();
        for part in self.belief.tables.values_mut().flat_map(|table| table.parts.values_mut()) {
            part.built.1 = part.built.1.min(ended);
        }
        self.stop(kill);
        self.start(false);
        if self.world.pace == Pace::Second {
            // Takes along what the scheduler left in the queue, which nobody could tell.
            return self.build_again();
        }
        self.check_tables()
    }

    /// The scheduler has nothing left to do: of what it looks after nothing is missing, and stale is what it leaves.
    fn check_rest(&self) -> Result<(), String> {
        let left =
            [&self.server().get("/quarry/v1/jobs?state=queued"), &self.server().get("/quarry/v1/jobs?state=running")]
                .map(|reply| reply.value()["total"].as_u64());
        if self.world.pace != Pace::Second && left != [Some(0), Some(0)] {
            return Err(format!("jobs are left: {left:?}"));
        }
        let body = json!({"action": "post", "selector": selector(&json!({})), "dry_run": true, "if_stale": true});
        let reply = self.server().post(JOBS, &body).value();
        let due = |entry: &&Value| entry["freshness"] == "missing" || self.world.pace == Pace::Version;
        let mut told: Vec<(String, String)> = Vec::new();
        for entry in reply["jobs"].as_array().into_iter().flatten().filter(due) {
            let name = entry["preAggregation"].as_str().unwrap_or_default();
            let start = entry["partition"]["start"].as_str().unwrap_or("all");
            told.push((name.to_owned(), start.to_owned()));
        }
        let left = self.belief.left(self.world, self.version());
        told.retain(|(name, _)| self.world.rollups.iter().any(|rollup| rollup.scheduled && rollup.path() == *name));
        told.sort();
        if told == left { Ok(()) } else { Err(format!("the scheduler leaves {told:?}, not {left:?}")) }
    }
}
