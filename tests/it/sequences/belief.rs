//! What each stored table should hold: which states each of its partitions was built from, and what range it claims.

use std::collections::BTreeMap;

use quarry::time::{Granularity, from_micros, local_to_utc, to_micros, utc_to_local};

use super::oracle::{Question, bucket, zone};
use super::slices::{Content, Within};
use super::state::State;
use super::world::{Kind, Rollup, World};

/// Key of the one partition of a table without partitions.
pub(super) const WHOLE: i64 = i64::MIN;
/// A job's range meets a partition up to its last millisecond.
const MILLISECOND: i64 = 1_000;

/// What refresh keys say that could not be asked.
pub(super) const UNKNOWN_KEY: (usize, usize) = (usize::MAX, usize::MAX);

/// A rollup in a zone, by its position in the world.
pub(super) type TableKey = (usize, &'static str);

/// A published partition.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// What it may hold; more than one until an answer has told.
    pub(super) contents: Vec<Content>,
    /// The least and the greatest version that its refresh keys may be of.
    pub(super) key: (usize, usize),
    /// UTC microseconds between which it was published.
    pub(super) built: (i64, i64),
    /// What it held before, where that is known; a store keeps one version of it.
    pub(super) before: Option<Box<Part>>,
    /// Whether it was gone back to: the scheduler leaves it alone.
    pub(super) held: bool,
}

impl Part {
    /// Built from one of these versions of the source.
    pub(super) fn new(contents: Vec<Content>, versions: &[usize], built: (i64, i64)) -> Self {
        let least = versions.iter().min().expect("it is of some version");
        let greatest = versions.iter().max().expect("it is of some version");
        Self { contents, key: (*least, *greatest), built, before: None, held: false }
    }

    /// Published in the place of another.
    pub(super) fn over(self, old: Option<&Self>) -> Self {
        // Of what was gone back to there are two versions, and which of them is older nobody needs to know here.
        let before = old.filter(|old| !old.held).map(|old| Box::new(Self { before: None, ..old.clone() }));
        Self { before, ..self }
    }
}

/// A stored table.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    /// Whole buckets of wall-clock time that it is meant to hold.
    pub(super) range: Option<(i64, i64)>,
    /// Whether the source had nothing outside of it.
    pub(super) complete: bool,
    /// By the start of the bucket.
    pub(super) parts: BTreeMap<i64, Part>,
}

/// What a look at the source tells about a table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Look {
    /// None where the build range ends before it starts.
    range: Option<(i64, i64)>,
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
        let times = || state.rows.iter().filter_map(|row| row.at).map(|at| utc_to_local(at, zone));
        let first = times().min().expect("every state has a time");
        let last = times().max().expect("every state has a time");
        let given = self.given(zone_name);
        let (start, end) = (given.0.unwrap_or(first), given.1.unwrap_or(last));
        if start > end {
            return Some(Look { range: None, complete: false });
        }
        let range = (bucket(granularity, start), next(granularity, bucket(granularity, end)));
        let complete = times().count() == state.rows.len() && range.0 <= first && last < range.1;
        Some(Look { range: Some(range), complete })
    }

    /// The wall-clock time of a partition.
    pub(super) fn extent(&self, start: i64) -> (i64, i64) {
        self.partition.map_or((i64::MIN, i64::MAX), |granularity| (start, next(granularity, start)))
    }

    /// What a partition holds of the source.
    pub(super) fn within(&self, start: i64, zone_name: &str) -> Within {
        self.partition.map_or(Within::ALL, |_| Within::local(self.extent(start), zone(zone_name)))
    }
}

impl Table {
    /// Replaces what is claimed. What was published of times that the source has lost since is denied by that, and
    /// must not come back before it is built again.
    pub(super) fn claim(&mut self, look: Look) {
        self.range = look.range;
        self.complete = look.complete;
        self.parts.retain(|start, _| look.range.is_some_and(|range| range.0 <= *start && *start < range.1));
    }

    /// The partitions that it is meant to have.
    pub(super) fn wanted(&self, rollup: &Rollup) -> Vec<i64> {
        match (rollup.partition, self.range) {
            (None, _) => vec![WHOLE],
            (Some(granularity), Some(range)) => starts(granularity, range),
            (Some(_), None) => Vec::new(),
        }
    }

    /// The partitions that hold all of a range, none when they do not: some are missing, or the source may have rows
    /// that lie outside.
    pub(super) fn covering(&self, rollup: &Rollup, wanted: Option<(i64, i64)>) -> Option<Vec<i64>> {
        let Some(granularity) = rollup.partition else {
            return self.parts.contains_key(&WHOLE).then(|| vec![WHOLE]);
        };
        let range = self.range?;
        let (start, end) = wanted.unwrap_or((i64::MIN, i64::MAX));
        if !self.complete && (start < range.0 || range.1 < end) {
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

    /// The published partitions within the range: what a job built outside of it does not count.
    pub(super) fn claimed(&self, rollup: &Rollup) -> impl Iterator<Item = i64> {
        let all = rollup.partition.is_none();
        let is_within = move |start: &i64| all || self.range.is_some_and(|range| range.0 <= *start && *start < range.1);
        self.parts.keys().copied().filter(is_within)
    }

    /// Stretches of published buckets within the range, as ranges.
    pub(super) fn stretches(&self, rollup: &Rollup) -> Vec<(i64, i64)> {
        let mut found: Vec<(i64, i64)> = Vec::new();
        if rollup.partition.is_none() {
            return found;
        }
        for extent in self.claimed(rollup).map(|start| rollup.extent(start)) {
            match found.last_mut() {
                Some(last) if last.1 == extent.0 => last.1 = extent.1,
                _ => found.push(extent),
            }
        }
        found
    }

    /// What a job request with a date range builds of a table with partitions, and what is claimed from then on.
    fn choose(&mut self, granularity: Granularity, look: Look, range: Option<(i64, i64)>) -> Vec<i64> {
        let seen = look.range.map(|range| starts(granularity, range)).unwrap_or_default();
        let Some((from, to)) = range else {
            if look.range.is_some() {
                self.claim(look);
            }
            return seen;
        };
        let mut chosen = seen;
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
        let holds_all = look.range.is_some_and(|seen| claimed.0 <= seen.0 && seen.1 <= claimed.1);
        let complete = self.complete || look.complete && holds_all;
        if (self.range, self.complete) != (Some(claimed), complete) {
            self.claim(Look { range: Some(claimed), complete });
        }
        chosen
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
        let mut known = Vec::new();
        for zone in zones {
            // Rows come before what is built from them, and once for all that is.
            for index in chosen.iter().flat_map(|index| world.rows_of(*index).into_iter().chain([*index])) {
                let rollup = &world.rollups[index];
                let shared = matches!(rollup.kind, Kind::Rows | Kind::PlaceRows);
                if shared && known.contains(&index) {
                    continue;
                }
                known.push(index);
                // Without stored time there is one table for all zones.
                let zone = if rollup.is_zoneless() { "UTC" } else { zone };
                let table = self.tables.entry((index, zone)).or_default();
                let starts = match rollup.partition.zip(rollup.look(state, zone)) {
                    None => vec![WHOLE],
                    Some((granularity, look)) => table.choose(granularity, look, range),
                };
                jobs.extend(starts.into_iter().map(|start| Built { table: (index, zone), start }));
            }
        }
        jobs
    }

    /// From here on nobody knows what partitions held before.
    pub(super) fn forget_before(&mut self) {
        self.tables.values_mut().flat_map(|table| table.parts.values_mut()).for_each(|part| part.before = None);
    }

    /// The partitions that a table has for a question, when it may answer it. A table of UTC may answer in another
    /// zone.
    pub(super) fn covering(&self, world: &World, table: TableKey, question: &Question) -> Option<Vec<i64>> {
        let (rollup, found) = (&world.rollups[table.0], self.tables.get(&table)?);
        // Without stored time a range cannot be answered.
        if rollup.time.is_none() && question.range.is_some() {
            return None;
        }
        found.covering(rollup, question.range_in(table.1))
    }
}

impl Question {
    /// Its range on the wall clock of the zone of a table.
    pub(super) fn range_in(&self, table_zone: &str) -> Option<(i64, i64)> {
        let stored = |local: i64| utc_to_local(local_to_utc(local, zone(self.zone)), zone(table_zone));
        self.range.map(|(start, end)| if table_zone == self.zone { (start, end) } else { (stored(start), stored(end)) })
    }
}
