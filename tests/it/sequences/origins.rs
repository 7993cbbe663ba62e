//! Where an answer may come from, by what is stored: a rollup, a lambda, a join, the rows of the cubes, the source.
//!
//! Which of those that fit is taken is the server's choice; what it says that it used, and how much of it, must be one
//! of these, and its rows must be the rows of it.

use std::collections::BTreeSet;

use quarry::time::format_local;

use super::belief::{Belief, Table, TableKey, WHOLE};
use super::oracle::{Question, zone};
use super::slices::{Content, Slice, Within};
use super::world::{Kind, Lambda, Rollup, World, ZONES};

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    Rollup,
    Lambda,
    Join,
    /// The cubes' own SQL, and stored rows in its place.
    Source,
}

/// One way to answer a question.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) reader: Reader,
    /// Zone of the tables.
    zone: &'static str,
    /// The rollups that are named, by position.
    pub(super) used: BTreeSet<usize>,
    pub(super) parts: Vec<(TableKey, i64)>,
    /// The times that the source adds.
    pub(super) gaps: Vec<(i64, i64)>,
    /// Whether the fact is read at the source.
    pub(super) reads_fact: bool,
    /// All rows.
    pub(super) slices: Content,
}

/// The tables of a lambda, in their order, as far as there are any.
type Layers<'b> = Vec<(&'b Rollup, TableKey, &'b Table)>;

impl Belief {
    /// All ways to answer a question while the source is of version `now`.
    pub(super) fn origins(&self, world: &World, now: usize, question: &Question) -> Vec<Origin> {
        let mut found = Vec::new();
        let other = (question.zone != ZONES[0]).then_some(ZONES[0]);
        for zone in std::iter::once(question.zone).chain(other) {
            let groups =
                (0..world.rollups.len()).filter(|index| matches!(world.rollups[*index].kind, Kind::Groups { .. }));
            found.extend(groups.filter_map(|index| self.of_rollup(world, index, zone, question)));
            found
                .extend(world.lambdas.iter().filter_map(|lambda| self.of_lambda(world, lambda, (zone, now), question)));
            found.extend(world.joins.iter().filter_map(|index| self.of_join(world, *index, zone, question)));
        }
        found.push(self.of_source(world, now, question));
        found
    }

    fn of_rollup(&self, world: &World, index: usize, zone: &'static str, question: &Question) -> Option<Origin> {
        let key = world.table_of(index, zone);
        let starts = self.covering(world, key, question)?;
        let parts: Vec<(TableKey, i64)> = starts.into_iter().map(|start| (key, start)).collect();
        let slices = self.rows_in(&parts);
        let used = BTreeSet::from([index]);
        Some(Origin { reader: Reader::Rollup, zone, used, parts, gaps: Vec::new(), reads_fact: false, slices })
    }

    /// Whole buckets of each table: the earlier ones win, the source has what none of them holds.
    fn of_lambda(
        &self,
        world: &World,
        lambda: &Lambda,
        (zone_name, now): (&'static str, usize),
        question: &Question,
    ) -> Option<Origin> {
        let layers: Layers<'_> = lambda
            .layers
            .iter()
            .filter_map(|index| {
                let key = world.table_of(*index, zone_name);
                Some((&world.rollups[*index], key, self.tables.get(&key)?))
            })
            .collect();
        let first = &world.rollups[lambda.layers[0]];
        if first.time.is_none() && question.range.is_some() {
            return None;
        }
        let range = question.range_in(zone_name);
        let wanted = range.unwrap_or((i64::MIN, i64::MAX));
        let overlaps = |a: (i64, i64), b: (i64, i64)| a.0 < b.1 && b.0 < a.1;
        let (mut covered, mut parts) = (Vec::new(), Vec::new());
        for (rollup, key, table) in &layers {
            let before: Vec<(i64, i64)> = covered.clone();
            for start in table.claimed(rollup) {
                let extent = rollup.extent(start);
                if overlaps(extent, wanted) && !before.iter().any(|known| overlaps(extent, *known)) {
                    covered.push(extent);
                    parts.push((*key, start));
                }
            }
        }
        let news = lambda.union && first.partition.is_some();
        covered.extend(outside(&layers, news));
        let gaps = gaps(wanted, covered);
        // Partitions hold no rows without time.
        let untimed = first.partition.is_some()
            && range.is_none()
            && (news || !layers.iter().any(|(_, _, table)| table.complete));
        let reads_fact = !gaps.is_empty() || untimed;
        if reads_fact && (!news || parts.is_empty()) {
            return None;
        }
        let mut used: BTreeSet<usize> = parts.iter().map(|(key, _)| key.0).collect();
        if used.is_empty() {
            // Nothing is read, but the columns must be known.
            used.insert(layers.iter().find(|(_, _, table)| !table.parts.is_empty())?.1.0);
        }
        let mut slices = self.rows_in(&parts);
        slices.extend(gaps.iter().map(|gap| Slice::of(now, Within::local(*gap, zone(zone_name)))));
        slices.extend(untimed.then(|| Slice::of(now, Within { from: 0, until: 0, untimed: true })));
        Some(Origin { reader: Reader::Lambda, zone: zone_name, used, parts, gaps, reads_fact, slices })
    }

    /// The fact's groups as they were built, with the places as those were.
    fn of_join(&self, world: &World, fact: usize, zone: &'static str, question: &Question) -> Option<Origin> {
        let places = world.find(Kind::Places)?;
        let side = (world.table_of(places, zone), WHOLE);
        self.tables.get(&side.0)?.parts.get(&WHOLE)?;
        let Origin { mut used, mut parts, mut slices, .. } = self.of_rollup(world, fact, zone, question)?;
        used.insert(places);
        let version = self.version_of_places(&side);
        slices.iter_mut().for_each(|slice| slice.places = version);
        parts.push(side);
        Some(Origin { reader: Reader::Join, zone, used, parts, gaps: Vec::new(), reads_fact: false, slices })
    }

    /// Stored rows stand for a cube as a whole.
    fn of_source(&self, world: &World, now: usize, question: &Question) -> Origin {
        let rows = self.fact_rows(world, None);
        let places = question.reads_places().then(|| self.place_rows(world)).flatten();
        let mut slices = match &rows {
            Some(parts) => self.rows_in(parts),
            None => vec![Slice::of(now, Within::ALL)],
        };
        let version = places.as_ref().map_or(now, |part| self.version_of_places(part));
        slices.iter_mut().for_each(|slice| slice.places = version);
        let reads_fact = rows.is_none();
        let parts: Vec<(TableKey, i64)> = rows.into_iter().flatten().chain(places).collect();
        let used = parts.iter().map(|(key, _)| key.0).collect();
        Origin { reader: Reader::Source, zone: ZONES[0], used, parts, gaps: Vec::new(), reads_fact, slices }
    }

    fn rows_in(&self, parts: &[(TableKey, i64)]) -> Content {
        parts.iter().flat_map(|part| self.content(part).clone()).collect()
    }
}

impl Origin {
    /// Whether it is the tables of a zone that answer, and a table is one of them.
    pub(super) fn is_of(&self, (index, zone): TableKey, world: &World) -> bool {
        let layers =
            || world.lambda_of(index).is_some_and(|lambda| self.used.iter().any(|used| lambda.layers.contains(used)));
        self.zone == zone
            && match self.reader {
                Reader::Rollup | Reader::Source => self.used.contains(&index),
                Reader::Lambda => layers(),
                Reader::Join => false,
            }
    }

    /// The times that the source adds, as they are told.
    pub(super) fn told_gaps(&self) -> Vec<String> {
        let text = |(start, end): &(i64, i64)| match (*start == i64::MIN, *end == i64::MAX) {
            (false, false) => format!("from {} to {}", format_local(*start), format_local(*end)),
            (false, true) => format!("from {} on", format_local(*start)),
            (true, false) => format!("before {}", format_local(*end)),
            (true, true) => "of all rows".to_owned(),
        };
        self.gaps.iter().map(text).collect()
    }
}

impl World {
    /// The table of a rollup that serves a zone.
    pub(super) fn table_of(&self, index: usize, zone: &'static str) -> TableKey {
        (index, if self.rollups[index].is_zoneless() { ZONES[0] } else { zone })
    }
}

/// What lies outside of all tables, as far as the outermost of them know that the source has nothing there: the source
/// is asked for what comes after where that is wanted, whatever was known.
fn outside(layers: &Layers<'_>, news: bool) -> Vec<(i64, i64)> {
    let ranges = || layers.iter().filter_map(|(rollup, _, table)| Some((rollup, table, table.range?)));
    let first = ranges().min_by_key(|(_, _, range)| range.0);
    let last = ranges().max_by_key(|(_, _, range)| range.1);
    let before = first.filter(|(rollup, table, _)| table.complete || rollup.bounds.0.is_none());
    let after = last.filter(|(rollup, table, _)| !news && (table.complete || rollup.bounds.1.is_none()));
    let before = before.map(|(_, _, range)| (i64::MIN, range.0));
    before.into_iter().chain(after.map(|(_, _, range)| (range.1, i64::MAX))).collect()
}

/// The parts of a range that are not covered.
fn gaps(wanted: (i64, i64), mut covered: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
    covered.sort_unstable();
    let (mut found, mut at) = (Vec::new(), wanted.0);
    for (from, until) in covered {
        if at < from.min(wanted.1) {
            found.push((at, from.min(wanted.1)));
        }
        at = at.max(until);
    }
    if at < wanted.1 {
        found.push((at, wanted.1));
    }
    found
}
