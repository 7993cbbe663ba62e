//! Random rollups over one fact and one dimension, and the states that their source goes through.
//!
//! Every state has a version, and every row of a state carries it: an answer tells which states it is made of.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use quarry::time::Granularity;

use crate::differential::random::Random;
use crate::tables::{DAY, SECOND, micros, money, timestamps, write_table};

/// The first day that rows may have.
pub(super) const FIRST: &str = "2024-01-10";
/// So many days may have rows; clocks change in the middle of them.
pub(super) const DAYS: i64 = 100;
/// Zones of queries and jobs.
pub(super) const ZONES: [&str; 2] = ["UTC", "America/Los_Angeles"];
/// Values of `sales.kind`.
pub(super) const KINDS: [&str; 4] = ["web", "it's", "shop", "东"];
/// First names of places.
const PLACES: [&str; 5] = ["Oslo", "Rome", "Bern", "Lima", "Zürich"];
/// Measures that rollups and queries choose from.
pub(super) const MEASURES: [&str; 12] =
    ["count", "total", "units", "least", "most", "mean", "kinds", "spots", "about", "middle", "first", "last"];
/// Rows of the first state.
const ROWS: i64 = 120;

/// A row of `sales`.
#[derive(Debug, Clone)]
pub(super) struct Row {
    id: i64,
    /// UTC microseconds.
    pub(super) at: Option<i64>,
    /// Index into [`KINDS`].
    pub(super) kind: Option<usize>,
    /// Position in the places, or beyond them.
    pub(super) place: usize,
    pub(super) n: Option<i64>,
    /// Hundredths.
    pub(super) amount: Option<i64>,
}

/// What the source holds at one time.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) version: usize,
    pub(super) rows: Vec<Row>,
    /// Names by position.
    pub(super) places: Vec<String>,
}

/// One rollup of the model.
#[derive(Debug, Clone)]
pub(super) struct Rollup {
    pub(super) name: String,
    /// Its own measures, which no other rollup stores: the least and the greatest version.
    pub(super) marks: [String; 2],
    measures: Vec<&'static str>,
    dimensions: Vec<&'static str>,
    segment: bool,
    /// Whether a lambda stands in front of it; its rollup is named all the same.
    pub(super) lambda: bool,
    pub(super) time: Option<Granularity>,
    pub(super) partition: Option<Granularity>,
    pub(super) scheduled: bool,
}

/// The rollups, and how the source's files lie.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) rollups: Vec<Rollup>,
    /// Whether partitions are stale after a second; else never.
    pub(super) hasty: bool,
    /// Whether the fact is a folder of several files.
    pub(super) folder: bool,
}

impl World {
    pub(super) fn new(random: &mut Random) -> Self {
        let count = random.between(1, 4);
        let rollups = (0..count).map(|index| Rollup::new(random, index)).collect();
        Self { rollups, hasty: random.chance(8), folder: random.chance(35) }
    }

    /// The model file.
    pub(super) fn yaml(&self) -> String {
        let marks = self.rollups.iter().flat_map(|rollup| {
            let [first, last] = &rollup.marks;
            [
                format!("{{name: {first}, type: min, sql: version}}"),
                format!("{{name: {last}, type: max, sql: version}}"),
            ]
        });
        let marks: String = marks.map(|mark| format!("      - {mark}\n")).collect();
        let rollups: String = self.rollups.iter().map(|rollup| rollup.yaml(self.hasty)).collect();
        format!(
            "cubes:
  - name: sales
    sql_table: sales
    joins:
      - {{name: places, relationship: many_to_one, sql: \"{{CUBE}}.place = {{places.id}}\"}}
    dimensions:
      - {{name: id, sql: id, type: number, primary_key: true}}
      - {{name: kind, sql: kind, type: string}}
      - {{name: at, sql: at, type: time}}
    segments:
      - {{name: large, sql: \"{{CUBE}}.n > 10\"}}
    measures:
      - {{name: count, type: count}}
      - {{name: total, type: sum, sql: amount}}
      - {{name: units, type: sum, sql: n}}
      - {{name: least, type: min, sql: n}}
      - {{name: most, type: max, sql: n}}
      - {{name: mean, type: avg, sql: n}}
      - {{name: kinds, type: count_distinct, sql: kind}}
      - {{name: spots, type: count_distinct, sql: place}}
      - {{name: about, type: count_distinct_approx, sql: n}}
      - {{name: middle, type: number, sql: \"approx_percentile_cont({{CUBE}}.n, 0.5)\"}}
      - {{name: first, type: min, sql: version}}
      - {{name: last, type: max, sql: version}}
{marks}    pre_aggregations:
{rollups}  - name: places
    sql_table: places
    dimensions:
      - {{name: id, sql: id, type: number, primary_key: true}}
      - {{name: name, sql: name, type: string}}
"
        )
    }

    /// Puts a state in the place of the one before.
    pub(super) fn write(&self, project: &Path, state: &State) {
        let names: Vec<&str> = state.places.iter().map(String::as_str).collect();
        let ids = (0_i64..).take(names.len()).collect::<Vec<_>>();
        let places: Vec<(&str, ArrayRef)> =
            vec![("id", Arc::new(Int64Array::from(ids))), ("name", Arc::new(StringArray::from(names)))];
        write_table(project, "places", places);
        if !self.folder {
            write_table(project, "sales", columns(state.version, &state.rows));
            return;
        }
        let folder = project.join("data").join("sales");
        fs::remove_dir_all(&folder).ok();
        fs::create_dir_all(&folder).expect("the folder can be created");
        let files = 1 + state.version % 3;
        for file in 0..files {
            let rows: Vec<Row> = state.rows.iter().skip(file).step_by(files).cloned().collect();
            write_table(project, "part", columns(state.version, &rows));
            fs::rename(project.join("data/part.parquet"), folder.join(format!("{file}.parquet"))).expect("one disk");
        }
    }

    /// Makes the fact unreadable.
    pub(super) fn spoil(&self, project: &Path) {
        let path = if self.folder { "data/sales/0.parquet" } else { "data/sales.parquet" };
        fs::write(project.join(path), "this is no Parquet file").expect("the file can be written");
    }
}

impl Rollup {
    fn new(random: &mut Random, index: i64) -> Self {
        let mut measures = random.some(&MEASURES, 0, 5);
        measures.extend(["first", "last"]);
        measures.sort_unstable();
        measures.dedup();
        let time = random.maybe(15, |random| random.pick(&[Granularity::Hour, Granularity::Day, Granularity::Day]));
        let months = [Granularity::Month, Granularity::Month, Granularity::Quarter, Granularity::Week];
        let partition = time.and_then(|_| random.maybe(15, |random| random.pick(&months)));
        Self {
            name: format!("rollup_{index}"),
            marks: [format!("first_{index}"), format!("last_{index}")],
            lambda: random.chance(15),
            measures,
            dimensions: random.some(&["kind", "places.name"], 0, 2),
            segment: random.chance(20),
            time,
            partition,
            scheduled: random.chance(85),
        }
    }

    fn yaml(&self, hasty: bool) -> String {
        let measures = [self.measures.join(", "), self.marks.join(", ")].join(", ");
        let mut text = String::new();
        if self.lambda {
            text =
                format!("      - {{name: {}_only, type: rollup_lambda, rollups: [CUBE.{}]}}\n", self.name, self.name);
        }
        text.push_str(&format!("      - name: {}\n        measures: [{measures}]\n", self.name));
        let mut line = |key: &str, value: &str| text.push_str(&format!("        {key}: {value}\n"));
        if !self.dimensions.is_empty() {
            line("dimensions", &format!("[{}]", self.dimensions.join(", ")));
        }
        if self.segment {
            line("segments", "[large]");
        }
        if let Some(time) = self.time {
            line("time_dimension", "at");
            line("granularity", time.as_str());
        }
        if let Some(partition) = self.partition {
            line("partition_granularity", partition.as_str());
        }
        if !self.scheduled {
            line("scheduled_refresh", "false");
        }
        // Keys change at fixed times, the second one in no run of these tests.
        line("refresh_key", if hasty { "{every: 1 second}" } else { "{every: 5000 days}" });
        text
    }

    /// `cube.rollup`.
    pub(super) fn path(&self) -> String {
        format!("sales.{}", self.name)
    }
}

impl State {
    /// The first one.
    pub(super) fn new(random: &mut Random) -> Self {
        let places: Vec<String> = PLACES.iter().map(|name| (*name).to_owned()).collect();
        let mut state = Self { version: 0, rows: Vec::new(), places };
        state.insert(random, ROWS);
        state
    }

    /// The next one: rows inserted, changed or deleted, places renamed, times lost and found.
    pub(super) fn next(&self, random: &mut Random, keep_places: bool) -> Self {
        let mut next = Self { version: self.version + 1, ..self.clone() };
        for _ in 0..random.between(1, 4) {
            match random.between(0, 100) {
                0..30 => {
                    let count = random.between(1, 40);
                    next.insert(random, count);
                }
                30..55 => next.change(random),
                55..70 => next.rows.retain(|_| !random.chance(30)),
                70..85 => next.delete_days(random),
                85..92 if !keep_places => {
                    let position = usize::try_from(random.between(0, 5)).expect("small");
                    next.places[position] = format!("{} {}", PLACES[position], next.version);
                }
                _ => next.lose_times(random),
            }
        }
        // A source without any time has no range of its own: what is built then depends on the day of the run.
        if next.rows.iter().all(|row| row.at.is_none()) {
            next.insert(random, 5);
        }
        next
    }

    fn insert(&mut self, random: &mut Random, count: i64) {
        // Often a part of the days, so that the range grows and shrinks.
        let (start, end) = if random.chance(50) { (25, 60) } else { (0, DAYS) };
        let known = self.rows.iter().map(|row| row.id).max().unwrap_or(0);
        for id in known + 1..=known + count {
            self.rows.push(Row {
                id,
                at: Some(moment(random, start, end)),
                kind: random.maybe(10, |random| random.pick(&[0, 1, 2, 3])),
                place: usize::try_from(random.between(0, 7)).expect("small"),
                n: random.maybe(10, |random| random.between(-5, 30)),
                amount: random.maybe(10, |random| random.between(-9_000, 90_000)),
            });
        }
    }

    fn change(&mut self, random: &mut Random) {
        for row in &mut self.rows {
            if random.chance(25) {
                row.n = random.maybe(10, |random| random.between(-5, 30));
                row.amount = random.maybe(10, |random| random.between(-9_000, 90_000));
                row.kind = random.maybe(10, |random| random.pick(&[0, 1, 2, 3]));
            } else if random.chance(10) && row.at.is_some() {
                row.at = Some(moment(random, 0, DAYS));
            }
        }
    }

    /// A stretch of days loses its rows: the first, the last or some in the middle.
    fn delete_days(&mut self, random: &mut Random) {
        let length = random.between(10, 40);
        let middle = random.between(0, DAYS - length);
        let start = random.pick(&[0, DAYS - length, middle]);
        let (from, to) = (day(start), day(start + length));
        self.rows.retain(|row| row.at.is_none_or(|at| at < from || to <= at));
    }

    fn lose_times(&mut self, random: &mut Random) {
        if self.rows.iter().any(|row| row.at.is_none()) {
            self.rows.retain(|row| row.at.is_some());
        } else {
            for row in &mut self.rows {
                row.at = row.at.filter(|_| !random.chance(5));
            }
        }
    }
}

/// UTC microseconds at which a day begins, counted from [`FIRST`].
pub(super) fn day(number: i64) -> i64 {
    micros(FIRST) + number * DAY
}

/// A moment of some days, often near a midnight of one of the zones.
fn moment(random: &mut Random, start: i64, end: i64) -> i64 {
    let within = match random.between(0, 4) {
        0 => random.pick(&[0, 1_000, DAY - 1_000, 8 * 3600 * SECOND, 8 * 3600 * SECOND - 1_000, 7 * 3600 * SECOND]),
        _ => random.between(0, DAY / 1_000) * 1_000,
    };
    day(random.between(start, end)) + within
}

fn columns(version: usize, rows: &[Row]) -> Vec<(&'static str, ArrayRef)> {
    let version = i64::try_from(version).expect("a small number");
    let place = |row: &Row| i64::try_from(row.place).expect("a small number");
    vec![
        ("id", Arc::new(rows.iter().map(|row| Some(row.id)).collect::<Int64Array>())),
        ("at", timestamps(rows.iter().map(|row| row.at).collect())),
        ("kind", Arc::new(rows.iter().map(|row| row.kind.map(|kind| KINDS[kind])).collect::<StringArray>())),
        ("place", Arc::new(rows.iter().map(|row| Some(place(row))).collect::<Int64Array>())),
        ("n", Arc::new(rows.iter().map(|row| row.n).collect::<Int64Array>())),
        ("amount", money(rows.iter().map(|row| row.amount).collect())),
        ("version", Arc::new(rows.iter().map(|_| Some(version)).collect::<Int64Array>())),
    ]
}
