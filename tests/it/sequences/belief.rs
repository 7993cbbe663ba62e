//! What each stored table should hold: which state each of its partitions was built from, and what range it claims.

use std::collections::BTreeMap;

use quarry::time::{Granularity, from_micros, local_to_utc, to_micros, utc_to_local};

use super::oracle::{Question, Seen, bucket, zone};
use super::world::{Rollup, State, World};

/// Key of the one partition of a table without partitions.
const WHOLE: i64 = i64::MIN;
/// A job's range meets a partition up to its last millisecond.
const MILLISECOND: i64 = 1_000;

/// A rollup in a zone, by its position in the world.
pub(super) type TableKey = (usize, &'static str);

/// A published partition.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// Versions it may hold; more than one until an answer has told.
    pub(super) versions: Vec<usize>,
    /// UTC microseconds between which it was published.
    pub(super) built: (i64, i64),
    /// What it held before, where that is known; a store keeps one version of it.
    pub(super) before: Option<Box<Part>>,
    /// Whether it was gone back to: the scheduler leaves it alone.
    pub(super) held: bool,
}

impl Part {
    /// Published in the place of another.
    pub(super) fn over(versions: Vec<usize>, built: (i64, i64), old: Option<&Self>) -> Self {
        // Of what was gone back to there are two versions, and which of them is older nobody needs to know here.
        let before = old.filter(|old| !old.held).map(|old| Box::new(Self { before: None, ..old.clone() }));
        Self { versions, built, before, held: false }
    }
}

/// A stored table.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    /// Whole buckets of wall-clock time that it is meant to hold.
    pub(super) range: Option<(i64, i64)>,
    /// Whether the source had nothing outside of it.
    complete: bool,
    /// By the start of the bucket.
    pub(super) parts: BTreeMap<i64, Part>,
}

/// What a look at the source tells about a table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Look {
    range: (i64, i64),
    complete: bool,
}

/// All tables.
#[derive(Debug, Clone, Default)]
pub(super) struct Belief {
    pub(super) tables: BTreeMap<TableKey, Table>,
}

/// A partition that a job builds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Built {
    pub(super) table: TableKey,
    pub(super) start: i64,
}

/// Start of the bucket after this one.
fn next(granularity: Granularity, start: i64) -> i64 {
    to_micros(granularity.next(from_micros(start)))
}

/// The starts of the buckets of a range.
fn starts(granularity: Granularity, range: (i64, i64)) -> Vec<i64> {
    let following = |start: &i64| Some(next(granularity, *start));
    std::iter::successors(Some(range.0), following).take_while(|start| *start < range.1).collect()
}

impl Rollup {
    /// What a look sees; none for a rollup without partitions.
    pub(super) fn look(&self, state: &State, zone_name: &str) -> Option<Look> {
        let granularity = self.partition?;
        let zone = zone(zone_name);
        let times: Vec<Option<i64>> = state.seen().map(|seen| seen.local(zone)).collect();
        let first = times.iter().flatten().min().expect("every state has a time");
        let last = times.iter().flatten().max().expect("every state has a time");
        let range = (bucket(granularity, *first), next(granularity, bucket(granularity, *last)));
        Some(Look { range, complete: times.iter().all(Option::is_some) })
    }

    /// The rows of a partition in a state.
    pub(super) fn rows_of<'a>(&self, start: i64, zone_name: &str, state: &'a State) -> Vec<Seen<'a>> {
        match self.partition {
            None => state.seen().collect(),
            Some(granularity) => state.within((start, next(granularity, start)), zone(zone_name)).collect(),
        }
    }
}

impl Table {
    /// Replaces what is claimed. What was published of times that the source has lost since is denied by that, and
    /// must not come back before it is built again.
    fn claim(&mut self, look: Look) {
        self.range = Some(look.range);
        self.complete = look.complete;
        self.parts.retain(|start, _| look.range.0 <= *start && *start < look.range.1);
    }

    /// The partitions that hold all of a range, none when they do not: some are missing, or the source may have rows
    /// that lie outside.
    pub(super) fn covering(&self, rollup: &Rollup, wanted: Option<(i64, i64)>) -> Option<Vec<i64>> {
        let Some(granularity) = rollup.partition else {
            return self.parts.contains_key(&WHOLE).then(|| vec![WHOLE]);
        };
        let range = self.range?;
        let (start, end) = wanted.unwrap_or((i64::MIN, i64::MAX));
        // A lambda looks at rows without a time by themselves: they are in no range.
        let outside = start < range.0 || range.1 < end;
        if !self.complete && outside && (wanted.is_none() || !rollup.lambda) {
            return None;
        }
        let (start, end) = (start.max(range.0), end.min(range.1));
        if start >= end {
            // Nothing is read, but of a table that has nothing at all nobody knows the columns.
            return (!self.parts.is_empty()).then(Vec::new);
        }
        let needed = starts(granularity, (bucket(granularity, start), end));
        needed.iter().all(|start| self.parts.contains_key(start)).then_some(needed)
    }

    /// Stretches of published buckets within the range, as ranges.
    pub(super) fn stretches(&self, rollup: &Rollup) -> Vec<(i64, i64)> {
        let (Some(granularity), Some(range)) = (rollup.partition, self.range) else { return Vec::new() };
        let mut found: Vec<(i64, i64)> = Vec::new();
        for start in starts(granularity, range).into_iter().filter(|start| self.parts.contains_key(start)) {
            match found.last_mut() {
                Some(last) if last.1 == start => last.1 = next(granularity, start),
                _ => found.push((start, next(granularity, start))),
            }
        }
        found
    }
}

impl Belief {
    /// What a job request builds, in the order of its tokens; what it says about the tables is believed.
    pub(super) fn post(
        &mut self,
        world: &World,
        state: &State,
        chosen: &[usize],
        zones: &[&'static str],
        range: Option<(i64, i64)>,
    ) -> Vec<Built> {
        let mut jobs = Vec::new();
        for zone in zones {
            for index in chosen {
                let rollup = &world.rollups[*index];
                // Without stored time there is one table for all zones.
                let zone = if rollup.time.is_none() { "UTC" } else { zone };
                let table = self.tables.entry((*index, zone)).or_default();
                let starts = match rollup.partition.zip(rollup.look(state, zone)) {
                    None => vec![WHOLE],
                    Some((granularity, look)) => table.choose(granularity, look, range),
                };
                jobs.extend(starts.into_iter().map(|start| Built { table: (*index, zone), start }));
            }
        }
        jobs
    }

    /// What the scheduler does: claims of what it looks at; missing partitions are built, old ones where they are due.
    /// An empty result does not replace rows unasked.
    pub(super) fn tick(&mut self, world: &World, states: &[State], version: usize, built: (i64, i64)) {
        let state = &states[version];
        for (index, rollup) in world.rollups.iter().enumerate().filter(|(_, rollup)| rollup.scheduled) {
            let table = self.tables.entry((index, "UTC")).or_default();
            let wanted = match rollup.partition.zip(rollup.look(state, "UTC")) {
                None => vec![WHOLE],
                Some((granularity, look)) => {
                    table.claim(look);
                    starts(granularity, look.range)
                }
            };
            for start in wanted {
                let rows = |version: usize| rollup.rows_of(start, "UTC", &states[version]).len();
                let keeps = table.parts.get(&start).is_some_and(|part| {
                    part.held
                        || !world.hasty
                        || rows(version) == 0 && part.versions.iter().all(|version| rows(*version) > 0)
                });
                if !keeps {
                    // How often the scheduler builds is not known.
                    table.parts.insert(start, Part { versions: vec![version], built, before: None, held: false });
                }
            }
        }
    }

    /// From here on nobody knows what partitions held before.
    pub(super) fn forget_before(&mut self) {
        self.tables.values_mut().flat_map(|table| table.parts.values_mut()).for_each(|part| part.before = None);
    }

    /// The partitions that a table has for a question, when it may answer it. A table of UTC may answer in another
    /// zone.
    pub(super) fn covering(&self, world: &World, table: TableKey, question: &Question) -> Option<Vec<i64>> {
        let (rollup, found) = (&world.rollups[table.0], self.tables.get(&table)?);
        let stored = |local: i64| utc_to_local(local_to_utc(local, zone(question.zone)), zone(table.1));
        let same_zone = table.1 == question.zone;
        let wanted = question.range.map(|(start, end)| match same_zone {
            true => (start, end),
            false => (stored(start), stored(end)),
        });
        // Without stored time a range cannot be answered.
        if rollup.time.is_none() && wanted.is_some() {
            return None;
        }
        found.covering(rollup, wanted)
    }
}

impl Table {
    /// What a job request with a date range builds of a table with partitions, and what is claimed from then on.
    fn choose(&mut self, granularity: Granularity, look: Look, range: Option<(i64, i64)>) -> Vec<i64> {
        let Some((from, to)) = range else {
            self.claim(look);
            return starts(granularity, look.range);
        };
        let mut chosen = starts(granularity, look.range);
        chosen.extend(self.range.into_iter().flat_map(|range| starts(granularity, range)));
        chosen.sort_unstable();
        chosen.dedup();
        chosen.retain(|start| from <= to && from <= next(granularity, *start) - MILLISECOND && *start <= to);
        let Some(mut claimed) = self.range else {
            // Nothing was known: all that was seen is claimed, though only a part of it is built.
            if !chosen.is_empty() {
                self.claim(look);
            }
            return chosen;
        };
        if chosen.is_empty() {
            return chosen;
        }
        // New buckets are claimed where they adjoin: they are built now.
        for start in &chosen {
            if *start == claimed.1 {
                claimed.1 = next(granularity, *start);
            }
        }
        for start in chosen.iter().rev() {
            if next(granularity, *start) == claimed.0 {
                claimed.0 = *start;
            }
        }
        let holds_all = claimed.0 <= look.range.0 && look.range.1 <= claimed.1;
        let complete = self.complete || look.complete && holds_all;
        if (self.range, self.complete) != (Some(claimed), complete) {
            self.claim(Look { range: claimed, complete });
        }
        chosen
    }
}
