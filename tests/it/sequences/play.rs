//! Plays a history against the real binary and holds every answer against what should be stored.

use std::collections::BTreeSet;
use std::time::Duration;

use quarry::time::{Clock, format_local, to_micros};
use serde_json::{Value, json};

use super::belief::{Belief, Built, Part, TableKey};
use super::history::{Step, Then};
use super::oracle::{Groups, Question, date};
use super::world::{State, World, ZONES, day};
use crate::differential::random::Random;
use crate::events::selector;
use crate::server::{ALL_SCOPES, JOBS, Project, Server, pause, valid_token, wait_until};

/// How long the scheduler may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Times on the wire are whole milliseconds.
const MILLISECOND: i64 = 1_000;

/// What came up.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tally {
    pub(super) by_rollup: usize,
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
}

/// A project with its server, and what is known of both.
pub(super) struct Player<'w> {
    pub(super) world: &'w World,
    pub(super) project: Project,
    server: Option<Server>,
    /// All states of the source so far; the last one is in its files.
    states: Vec<State>,
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
        world.write(project.path(), &state);
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
                self.world.spoil(self.project.path());
                self.spoiled = true;
                Ok(())
            }
            Step::Post { rollups, days, both_zones, then } => self.post(rollups, *days, *both_zones, then),
            Step::Restart { kill } => {
                self.stop(*kill);
                self.start(false);
                self.check_tables()
            }
            Step::Tick { kill } => self.tick(*kill),
            Step::RollBack(seed) => self.roll_back(*seed),
            Step::Ask(seed) => {
                let mut random = Random::new(*seed);
                for _ in 0..3 {
                    let places = &self.states[self.version()].places;
                    let question = Question::random(&mut random, self.world, places);
                    self.ask(&question, None)?;
                }
                Ok(())
            }
        }
    }

    pub(super) fn server(&self) -> &Server {
        self.server.as_ref().expect("between two steps a server runs")
    }

    pub(super) fn version(&self) -> usize {
        self.states.len() - 1
    }

    fn start(&mut self, scheduler: bool) {
        let settings = [
            ("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES),
            ("CUBEJS_REFRESH_WORKER", if scheduler { "true" } else { "false" }),
            ("CUBEJS_REFRESH_WORKER_CONCURRENCY", "2"),
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
        self.world.write(self.project.path(), &next);
        self.states.push(next);
        self.spoiled = false;
    }

    fn post(
        &mut self,
        rollups: &[usize],
        days: Option<(i64, i64)>,
        both_zones: bool,
        then: &Then,
    ) -> Result<(), String> {
        if let (Then::KillWithin { after_us }, false) = (then, self.spoiled) {
            return self.kill_within(*after_us);
        }
        let all: Vec<usize> = (0..self.world.rollups.len()).collect();
        let chosen = if rollups.is_empty() { &all[..] } else { rollups };
        let zones = if both_zones { &ZONES[..] } else { &ZONES[..1] };
        let range = days.map(|(start, end)| (day(start), day(end)));
        let mut more = json!({"timezones": zones});
        if !rollups.is_empty() {
            let paths = chosen.iter().map(|index| self.world.rollups[*index].path());
            more["preAggregations"] = paths.collect();
        }
        if let Some((start, end)) = range {
            more["dateRange"] = json!([date(start), date(end)]);
        }
        let begun = now();
        let reply = self.server().post(JOBS, &json!({"action": "post", "selector": selector(&more)}));
        if self.spoiled {
            return self.check_failed(reply.status, &reply.body);
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
            Then::Kill { after_us, change } => self.kill_after(&jobs, &tokens, *after_us, *change, begun),
        }
    }

    /// With an unreadable source nothing is built, and everything says so.
    fn check_failed(&self, status: u16, body: &str) -> Result<(), String> {
        if status != 200 {
            return Ok(());
        }
        let tokens: Vec<String> = serde_json::from_str(body).map_err(|error| format!("{error}: {body}"))?;
        let statuses = self.server().wait_jobs(&tokens);
        match statuses.iter().all(|status| status.starts_with("failure: ")) {
            true => Ok(()),
            false => Err(format!("built from an unreadable source: {statuses:?}")),
        }
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
        let built = (begun, now());
        for (position, (job, status)) in jobs.iter().zip(&statuses).enumerate() {
            if status != "done" {
                return Err(format!("{job:?} ended with {status}"));
            }
            let table = self.belief.tables.entry(job.table).or_default();
            let part = Part::over(versions(position), built, table.parts.get(&job.start));
            table.parts.insert(job.start, part);
            self.tally.built += 1;
        }
        self.check_tables()
    }

    /// Kills the server while it builds; nothing that it told may be lost.
    fn kill_after(
        &mut self,
        jobs: &[Built],
        tokens: &[String],
        after_us: u64,
        change: Option<u64>,
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
        self.check_early(jobs, &versions, &done, begun)?;
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
        let tables: BTreeSet<TableKey> = jobs.iter().map(|job| job.table).collect();
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
                let mut either: Vec<usize> = kept.map(|part| part.versions.clone()).unwrap_or_default();
                either.extend(&versions[position]);
                let since = kept.map_or(begun, |part| part.built.0);
                table.parts.insert(job.start, Part::over(either, (since, i64::MAX), None));
            }
            // One question: a second one may come after the next publish.
            let mut question = Question::new(&rollup.marks, rollup.partition, key.1);
            question.range = table.range.filter(|_| rollup.partition.is_some());
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
        let rebuilt = self.post(&[], None, false, &Then::Wait);
        self.belief.forget_before();
        rebuilt
    }

    fn tick(&mut self, kill: bool) -> Result<(), String> {
        self.stop(kill);
        if self.spoiled {
            self.start(false);
            return self.check_tables();
        }
        if self.world.hasty {
            // Until everything is stale.
            pause(Duration::from_millis(1_050));
        }
        let begun = now();
        self.belief.tick(self.world, &self.states, self.version(), (begun, i64::MAX));
        self.tally.ticks += 1;
        self.start(true);
        let mut fault = String::new();
        let begun_waiting = std::time::Instant::now();
        wait_until("the scheduler to build what is missing", PATIENCE * 2, || {
            match self.check_tables() {
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
        if self.world.hasty {
            // Takes along what the scheduler left in the queue, which nobody could tell.
            let rebuilt = self.post(&[], None, false, &Then::Wait);
            self.belief.forget_before();
            return rebuilt;
        }
        self.check_tables()
    }

    /// Every table answers for what it should hold, and only for that.
    pub(super) fn check_tables(&mut self) -> Result<(), String> {
        for zone in ZONES {
            for index in 0..self.world.rollups.len() {
                let key = (index, zone);
                if zone == ZONES[0] || self.belief.tables.contains_key(&key) {
                    self.check_table(key)?;
                }
            }
        }
        Ok(())
    }

    fn check_table(&mut self, key: TableKey) -> Result<(), String> {
        let rollup = &self.world.rollups[key.0];
        let mut question = Question::new(&rollup.marks, rollup.partition, key.1);
        let stretches = self.belief.tables.get(&key).map(|table| table.stretches(rollup)).unwrap_or_default();
        for range in stretches.into_iter().map(Some).chain([None]) {
            question.range = range;
            self.ask(&question, Some(key)).map_err(|fault| format!("{fault}\nwhile looking at {key:?}"))?;
        }
        Ok(())
    }

    /// Asks; the answer must be that of the source as the used partitions were built from it. `only` is the table
    /// that must answer when it holds what is asked for: nothing else can.
    fn ask(&mut self, question: &Question, only: Option<TableKey>) -> Result<(), String> {
        let query = question.json();
        let reply = self.server().ask(&query);
        let context = |fault: String| format!("{fault}\nquery: {query}\nanswer: {}", reply.body);
        let must = only.is_some_and(|key| self.belief.covering(self.world, key, question).is_some());
        if reply.status != 200 {
            let expected = self.spoiled && !must;
            return if expected { Ok(()) } else { Err(context(format!("status {}", reply.status))) };
        }
        let answer = reply.value();
        let used: Vec<&str> = answer["usedPreAggregations"]
            .as_object()
            .into_iter()
            .flat_map(|used| used.values())
            .filter_map(|entry| entry["preAggregationId"].as_str())
            .collect();
        let given = answer["data"].as_array().ok_or_else(|| context("no rows".to_owned()))?;
        let given = question.read(given).map_err(&context)?;
        let index = match used.as_slice() {
            [] if must => return Err(context("not from the rollup that holds it".to_owned())),
            [] if self.spoiled => return Err(context("rows of an unreadable source".to_owned())),
            [] => {
                self.tally.by_source += 1;
                let expected = question.answer(self.states[self.version()].seen());
                return question.compare(&expected, &given).map_err(|fault| context(format!("source: {fault}")));
            }
            [id] => self.world.rollups.iter().position(|rollup| rollup.path() == *id),
            several => return Err(context(format!("used {several:?}"))),
        };
        let index = index.ok_or_else(|| context(format!("used {used:?}")))?;
        let mut faults = Vec::new();
        for key in [(index, question.zone), (index, ZONES[0])] {
            let Some(starts) = self.belief.covering(self.world, key, question) else { continue };
            let checked = self
                .tell_versions(key, &starts, question, &given, only.is_some())
                .and_then(|()| self.check_rows(key, &starts, question, &given))
                .and_then(|()| self.check_facts(key, &starts, &answer));
            match checked {
                Ok(()) => {
                    self.tally.by_rollup += 1;
                    return Ok(());
                }
                Err(fault) => faults.push(format!("{key:?}: {fault}")),
            }
        }
        if faults.is_empty() {
            faults.push(format!("{used:?} does not hold what is asked for"));
        }
        Err(context(faults.join("\n")))
    }

    fn check_rows(&self, key: TableKey, starts: &[i64], question: &Question, given: &Groups) -> Result<(), String> {
        let (rollup, table) = (&self.world.rollups[key.0], &self.belief.tables[&key]);
        let rows = starts.iter().flat_map(|start| {
            let version = table.parts[start].versions[0];
            rollup.rows_of(*start, key.1, &self.states[version])
        });
        question.compare(&question.answer(rows), given)
    }

    /// What an answer by partition tells of partitions that may be of several versions.
    fn tell_versions(
        &mut self,
        key: TableKey,
        starts: &[i64],
        question: &Question,
        given: &Groups,
        is_probe: bool,
    ) -> Result<(), String> {
        if !is_probe || question.zone != key.1 {
            return Ok(());
        }
        let rollup = &self.world.rollups[key.0];
        let table = self.belief.tables.get_mut(&key).expect("it covers the question");
        for start in starts {
            let part = table.parts.get_mut(start).expect("it covers the question");
            let group: Vec<Option<String>> = rollup.partition.map(|_| Some(format_local(*start))).into_iter().collect();
            let told = given.get(&group).and_then(|cells| cells[0].as_str()?.parse::<usize>().ok());
            let fits = |version: &usize| match told {
                Some(told) => *version == told,
                None => rollup.rows_of(*start, key.1, &self.states[*version]).is_empty(),
            };
            let fitting: Vec<usize> = part.versions.iter().copied().filter(fits).collect();
            if fitting.is_empty() {
                let (known, since) = (&part.versions, format_local(part.built.0));
                let start = format_local(*start);
                return Err(format!("partition {start} is of {told:?}, not of {known:?}, built from {since} on"));
            }
            part.versions = fitting;
        }
        Ok(())
    }

    /// Age and coverage, as told.
    fn check_facts(&self, key: TableKey, starts: &[i64], answer: &Value) -> Result<(), String> {
        let parts = &self.belief.tables[&key].parts;
        let windows: Vec<(i64, i64)> = starts.iter().map(|start| parts[start].built).collect();
        let told = answer["quarry"]["partitions"].as_u64().ok_or("no number of partitions")?;
        if told > starts.len() as u64 {
            return Err(format!("{told} partitions read, {} hold the range", starts.len()));
        }
        let (Some(since), Some(until)) =
            (windows.iter().map(|window| window.0).min(), windows.iter().map(|window| window.1).min())
        else {
            return Ok(());
        };
        let text = answer["lastRefreshTime"].as_str().ok_or("no lastRefreshTime")?;
        let at = text.trim_end_matches('Z').parse().map_err(|error| format!("lastRefreshTime {text}: {error}"))?;
        let at = to_micros(at);
        if told == starts.len() as u64 && !(since - MILLISECOND..=until).contains(&at) {
            let (since, until) = (format_local(since), format_local(until));
            return Err(format!("the oldest build is of {since} to {until}, not of {text}"));
        }
        Ok(())
    }
}
