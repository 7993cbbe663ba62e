//! What builds put into partitions: states of the source, or the rows that are stored of it.

use quarry::time::format_local;

use super::belief::{Belief, Built, Look, Part, Table, TableKey, WHOLE};
use super::slices::{Content, Slice, Within, rows_of};
use super::state::State;
use super::world::{Kind, Pace, World};

/// The table of rows that are the same in every zone.
fn in_utc(index: usize) -> TableKey {
    (index, "UTC")
}

impl World {
    /// The stored rows that a rollup is built from.
    pub(super) fn rows_of(&self, index: usize) -> Vec<usize> {
        let rollup = &self.rollups[index];
        if !rollup.is_from_rows() {
            return Vec::new();
        }
        let places = rollup.reads_places().then(|| self.find(Kind::PlaceRows)).flatten();
        self.find(Kind::Rows).into_iter().chain(places).collect()
    }
}

impl Belief {
    /// The partitions of the fact's stored rows that hold all of a time, if they do.
    pub(super) fn fact_rows(&self, world: &World, wanted: Option<(i64, i64)>) -> Option<Vec<(TableKey, i64)>> {
        let index = world.find(Kind::Rows)?;
        let starts = self.tables.get(&in_utc(index))?.covering(&world.rollups[index], wanted)?;
        Some(starts.into_iter().map(|start| (in_utc(index), start)).collect())
    }

    /// The stored rows of the places, if they are built.
    pub(super) fn place_rows(&self, world: &World) -> Option<(TableKey, i64)> {
        let key = in_utc(world.find(Kind::PlaceRows)?);
        self.tables.get(&key)?.parts.contains_key(&WHOLE).then_some((key, WHOLE))
    }

    /// What is known of a partition, as far as it has been told.
    pub(super) fn content(&self, (key, start): &(TableKey, i64)) -> &Content {
        &self.tables[key].parts[start].contents[0]
    }

    /// Which places a table of places holds.
    pub(super) fn version_of_places(&self, part: &(TableKey, i64)) -> usize {
        self.content(part)[0].places
    }

    /// Whether it is not known what some of the stored rows are.
    pub(super) fn doubts_rows(&self, world: &World) -> bool {
        let tables =
            [Kind::Rows, Kind::PlaceRows].into_iter().filter_map(|kind| self.tables.get(&in_utc(world.find(kind)?)));
        tables.flat_map(|table| table.parts.values()).any(|part| part.contents.len() > 1)
    }

    /// The time that the build of a partition needs stored rows of: all where it is not cut by time.
    fn wanted_rows(world: &World, job: &Built) -> Option<(i64, i64)> {
        let rollup = &world.rollups[job.table.0];
        let Within { from, until, .. } = rollup.within(job.start, job.table.1);
        rollup.partition.map(|_| (from, until))
    }

    /// The kinds of stored rows that are wanted for a build and not there.
    pub(super) fn lacks(&self, world: &World, job: &Built) -> Vec<Kind> {
        let kinds = world.rows_of(job.table.0).into_iter().map(|index| world.rollups[index].kind);
        let is_there = |kind: &Kind| match kind {
            Kind::PlaceRows => self.place_rows(world).is_some(),
            _ => self.fact_rows(world, Self::wanted_rows(world, job)).is_some(),
        };
        kinds.filter(|kind| !is_there(kind)).collect()
    }

    /// What a build may give, from one of some versions of the source and the rows that are stored now.
    pub(super) fn contents(&self, world: &World, job: &Built, versions: &[usize]) -> Vec<Content> {
        let rollup = &world.rollups[job.table.0];
        let within = rollup.within(job.start, job.table.1);
        let kinds: Vec<Kind> = world.rows_of(job.table.0).into_iter().map(|index| world.rollups[index].kind).collect();
        let uses = |kind: Kind| kinds.contains(&kind);
        let rows = uses(Kind::Rows).then(|| self.fact_rows(world, Self::wanted_rows(world, job))).flatten();
        let places = uses(Kind::PlaceRows).then(|| self.place_rows(world)).flatten();
        let mut found: Vec<Content> = Vec::new();
        for version in versions {
            let mut content: Content = match &rows {
                Some(parts) => parts.iter().flat_map(|part| self.content(part).clone()).collect(),
                None => vec![Slice::of(*version, Within::ALL)],
            };
            for slice in &mut content {
                slice.within = slice.within.and(within);
                slice.places = places.as_ref().map_or(*version, |part| self.version_of_places(part));
            }
            if !found.contains(&content) {
                found.push(content);
            }
        }
        found
    }

    /// What builds from stored rows may give. One that finds some missing builds them first: the others may come before
    /// that or after it.
    pub(super) fn contents_from_rows(
        &mut self,
        world: &World,
        states: &[State],
        jobs: &[Built],
        (versions, built): (&[usize], (i64, i64)),
    ) -> Vec<Vec<Content>> {
        let early: Vec<Vec<Content>> = jobs
            .iter()
            .map(|job| if self.lacks(world, job).is_empty() { self.contents(world, job, versions) } else { Vec::new() })
            .collect();
        let version = *versions.last().expect("builds are of some version");
        for job in jobs {
            for kind in self.lacks(world, job) {
                self.build_missing(world, &states[version], kind, built);
            }
        }
        let late = jobs.iter().map(|job| self.contents(world, job, versions));
        late.zip(early)
            .map(|(mut contents, early)| {
                contents.extend(early);
                contents.dedup();
                contents
            })
            .collect()
    }

    /// All stored rows of a kind that are not published are built.
    fn build_missing(&mut self, world: &World, state: &State, kind: Kind, built: (i64, i64)) {
        let Some(index) = world.find(kind) else { return };
        let rollup = &world.rollups[index];
        let mut table = self.tables.remove(&in_utc(index)).unwrap_or_default();
        if let Some(look) = rollup.look(state, "UTC") {
            table.claim(look);
        }
        for start in table.wanted(rollup) {
            let slice = Slice::of(state.version, rollup.within(start, "UTC"));
            table.parts.entry(start).or_insert_with(|| Part::new(vec![vec![slice]], &[state.version], built));
        }
        self.tables.insert(in_utc(index), table);
    }

    /// What the scheduler does: claims of what it looks at; missing partitions are built, old ones where they are due.
    /// An empty result does not replace rows unasked.
    pub(super) fn tick(&mut self, world: &World, states: &[State], version: usize, built: (i64, i64)) {
        let scheduled = || (0..world.rollups.len()).filter(|index| world.rollups[*index].scheduled);
        // What is built from rows comes after all rows.
        let (late, early): (Vec<usize>, Vec<usize>) =
            scheduled().partition(|index| world.rollups[*index].is_from_rows());
        let mut refused = Vec::new();
        for index in early {
            for job in self.due(world, &states[version], index) {
                let contents = self.contents(world, &job, &[version]);
                if !self.publish_unasked(states, job, contents, version, built) {
                    refused.push((job.table, job.start));
                }
            }
        }
        let jobs = late.into_iter().flat_map(|index| self.due(world, &states[version], index)).collect::<Vec<_>>();
        // What would be built from rows that stay as they were is left, too.
        let is_of_old_rows = |job: &Built| {
            let rows = self.fact_rows(world, Self::wanted_rows(world, job)).unwrap_or_default();
            world.rows_of(job.table.0).iter().any(|index| world.rollups[*index].kind == Kind::Rows)
                && rows.iter().any(|part| refused.contains(part))
        };
        let jobs: Vec<Built> = jobs.into_iter().filter(|job| !is_of_old_rows(job)).collect();
        let all = self.contents_from_rows(world, states, &jobs, (&[version], built));
        for (job, contents) in jobs.into_iter().zip(all) {
            self.publish_unasked(states, job, contents, version, built);
        }
    }

    /// The partitions of a table that the scheduler builds.
    fn due(&mut self, world: &World, state: &State, index: usize) -> Vec<Built> {
        let rollup = &world.rollups[index];
        let table = self.tables.entry(in_utc(index)).or_default();
        let look: Option<Look> = rollup.look(state, "UTC");
        look.into_iter().for_each(|look| table.claim(look));
        let is_due = |start: &i64| match (table.parts.get(start), world.pace) {
            (None, _) => true,
            (Some(part), _) if part.held => false,
            (Some(_), Pace::Second) => true,
            (Some(part), Pace::Version) => part.key.0 != state.version,
            (Some(_), Pace::Never) => false,
        };
        table.wanted(rollup).into_iter().filter(is_due).map(|start| Built { table: in_utc(index), start }).collect()
    }

    /// Says whether it is published.
    fn publish_unasked(
        &mut self,
        states: &[State],
        job: Built,
        contents: Vec<Content>,
        version: usize,
        built: (i64, i64),
    ) -> bool {
        let parts = &mut self.tables.entry(job.table).or_default().parts;
        let is_empty = |content: &Content| rows_of(content, states).next().is_none();
        let had_rows = parts.get(&job.start).is_some_and(|old| !old.contents.iter().any(is_empty));
        let is_refused = had_rows && contents.iter().all(is_empty);
        if !is_refused {
            // How often the scheduler builds is not known.
            parts.insert(job.start, Part::new(contents, &[version], built));
        }
        !is_refused
    }

    /// Whether it is not known what the refresh keys of some partitions said.
    pub(super) fn doubts_keys(&self) -> bool {
        self.tables.values().flat_map(|table| table.parts.values()).any(|part| part.key.0 != part.key.1)
    }

    /// Names and starts of the partitions that the scheduler leaves as they are though they are stale.
    pub(super) fn left(&self, world: &World, version: usize) -> Vec<(String, String)> {
        let of_table = |(key, table): (&TableKey, &Table)| {
            let rollup = &world.rollups[key.0];
            let looked_after = rollup.scheduled && key.1 == "UTC" && world.pace == Pace::Version;
            let stale = table.claimed(rollup).filter(|start| looked_after && table.parts[start].key.0 != version);
            let start = |start: i64| if start == WHOLE { "all".to_owned() } else { format_local(start) };
            stale.map(|at| (rollup.path(), start(at))).collect::<Vec<_>>()
        };
        let mut left: Vec<(String, String)> = self.tables.iter().flat_map(of_table).collect();
        left.sort();
        left
    }
}
