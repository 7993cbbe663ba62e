//! What operators do in a history: cancel jobs and retry them, go back to a version that was published before.

use std::time::Duration;

use quarry::time::{format_local, to_micros};
use serde_json::json;

use super::belief::{Built, Part, TableKey};
use super::play::{Player, now};
use super::world::ZONES;
use crate::differential::random::Random;
use crate::server::pause;

const CANCELLED: &str = "failure: the job was cancelled";

impl Player<'_> {
    /// Cancels jobs while they wait or run: each was done before, or changes nothing. Retried ones are done in the end.
    pub(super) fn cancel_after(
        &mut self,
        jobs: &[Built],
        tokens: &[String],
        after_us: u64,
        retry: bool,
        begun: i64,
    ) -> Result<(), String> {
        pause(Duration::from_micros(after_us));
        for token in tokens {
            let reply = self.server().post(&format!("/quarry/v1/jobs/{token}/cancel"), &json!({}));
            // 409: it had come to its end before.
            if ![200, 409].contains(&reply.status) {
                return Err(format!("cancelling {token}: {} {}", reply.status, reply.body));
            }
        }
        let statuses = self.server().wait_jobs(tokens);
        let (version, built) = (self.version(), (begun, now()));
        let (mut done, mut left) = (Vec::new(), Vec::new());
        for ((job, status), token) in jobs.iter().zip(&statuses).zip(tokens) {
            match status.as_str() {
                "done" => done.push((*job, vec![version])),
                CANCELLED => left.push((*job, token)),
                other => return Err(format!("{job:?} was cancelled and is {other}")),
            }
        }
        self.tally.cancelled += left.len();
        let known = self.publish_all(&done, built)?;
        // A build that was cancelled may have had rows built before, or not.
        if !known || left.iter().any(|(job, _)| !self.belief.lacks(self.world, job).is_empty()) {
            return self.build_again();
        }
        self.check_tables()?;
        if !retry || left.is_empty() {
            return Ok(());
        }
        let begun = now();
        let mut again = Vec::with_capacity(left.len());
        for (_, token) in &left {
            let reply = self.server().post(&format!("/quarry/v1/jobs/{token}/retry"), &json!({}));
            let new = reply.value()["token"].as_str().map(str::to_owned);
            again.push(new.ok_or_else(|| format!("retrying {token}: {} {}", reply.status, reply.body))?);
        }
        let jobs: Vec<Built> = left.iter().map(|(job, _)| *job).collect();
        self.settle(&jobs, &again, &|_| vec![version], begun)
    }

    /// A partition of a table of UTC goes back to what it held before, if that is known; else to something or nothing.
    pub(super) fn roll_back(&mut self, seed: u64) -> Result<(), String> {
        let of_table = |(key, table): (&TableKey, &super::belief::Table)| {
            table
                .parts
                .iter()
                .filter(|(_, part)| part.before.is_some())
                .map(|(start, _)| (*key, *start))
                .collect::<Vec<_>>()
        };
        let known: Vec<(TableKey, i64)> =
            self.belief.tables.iter().filter(|(key, _)| key.1 == ZONES[0]).flat_map(of_table).collect();
        if known.is_empty() {
            return Ok(());
        }
        let (key, start) = Random::new(seed).pick(&known);
        let prefix = format!("{}@UTC-", self.world.rollups[key.0].path());
        let folders = std::fs::read_dir(self.project.path().join(".quarry/partitions")).map_err(|e| e.to_string())?;
        let names = folders.flatten().map(|folder| folder.file_name().to_string_lossy().into_owned());
        let is_it = |name: &String| name.strip_prefix(&prefix).is_some_and(|digest| !digest.contains('.'));
        let table = names.into_iter().find(is_it).ok_or("no folder of the table")?;
        let partition = if start == i64::MIN { "all".to_owned() } else { format_local(start)[..10].to_owned() };
        let reply = self.server().post("/quarry/v1/rollback", &json!({"table": table, "partition": partition}));
        let told = format!("{partition} of {table} goes back: {} {}", reply.status, reply.body);
        if reply.status != 200 {
            return Err(told);
        }
        let body = reply.value();
        let rolled_back = body["partitions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let [one] = rolled_back else { return Err(told) };
        let parts = &mut self.belief.tables.get_mut(&key).expect("it has partitions").parts;
        let before = parts.get(&start).and_then(|part| part.before.clone()).expect("it was looked for");
        let built_at = one["builtAt"].as_str().and_then(instant).ok_or_else(|| told.clone())?;
        if !(before.built.0 - 1_000..=before.built.1).contains(&built_at) {
            let (since, until) = (format_local(before.built.0), format_local(before.built.1));
            return Err(format!("{told}, not to what was built from {since} to {until}"));
        }
        parts.insert(start, Part { held: true, ..*before });
        self.tally.rolled_back += 1;
        self.check_tables()
    }
}

/// UTC microseconds of `2024-01-31T00:00:00.000Z`.
fn instant(text: &str) -> Option<i64> {
    text.trim_end_matches('Z').parse().ok().map(to_micros)
}
