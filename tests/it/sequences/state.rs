//! The states that the source goes through: rows of a fact, names of its dimension.
//!
//! Every state has a version, and every row of a state carries it: an answer tells which states it is made of.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};

use crate::differential::random::Random;
use crate::tables::{DAY, SECOND, micros, money, timestamps, write_table};

/// The first day that rows may have.
pub(super) const FIRST: &str = "2024-01-10";
/// So many days may have rows; clocks change in the middle of them.
pub(super) const DAYS: i64 = 100;
/// Values of `sales.kind`.
pub(super) const KINDS: [&str; 4] = ["web", "it's", "shop", "东"];
/// First names of places. The fact knows all of them, the dimension some.
const PLACES: [&str; 7] = ["Oslo", "Rome", "Bern", "Lima", "Zürich", "Kyiv", "Quito"];
/// Places of the first state.
const KNOWN_PLACES: usize = 5;
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

impl State {
    /// The first one.
    pub(super) fn new(random: &mut Random) -> Self {
        let places: Vec<String> = PLACES[..KNOWN_PLACES].iter().map(|name| (*name).to_owned()).collect();
        let mut state = Self { version: 0, rows: Vec::new(), places };
        state.insert(random, ROWS);
        state
    }

    /// The next one: rows inserted, changed or deleted, places renamed, found and closed, times lost and found.
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
                70..82 => next.delete_days(random),
                82..93 if !keep_places => next.change_places(random),
                _ => next.lose_times(random),
            }
        }
        // A source without any time has no range of its own: what is built then depends on the day of the run.
        if next.rows.iter().all(|row| row.at.is_none()) {
            next.insert(random, 5);
        }
        next
    }

    /// Puts a state in the place of the one before.
    pub(super) fn write(&self, project: &Path, folder: bool) {
        let names: Vec<&str> = self.places.iter().map(String::as_str).collect();
        let ids = (0_i64..).take(names.len()).collect::<Vec<_>>();
        let places: Vec<(&str, ArrayRef)> =
            vec![("id", Arc::new(Int64Array::from(ids))), ("name", Arc::new(StringArray::from(names)))];
        write_table(project, "places", places);
        if !folder {
            write_table(project, "sales", columns(self.version, &self.rows));
            return;
        }
        let files_dir = project.join("data").join("sales");
        fs::remove_dir_all(&files_dir).ok();
        fs::create_dir_all(&files_dir).expect("the folder can be created");
        let files = 1 + self.version % 3;
        for file in 0..files {
            let rows: Vec<Row> = self.rows.iter().skip(file).step_by(files).cloned().collect();
            write_table(project, "part", columns(self.version, &rows));
            fs::rename(project.join("data/part.parquet"), files_dir.join(format!("{file}.parquet"))).expect("one disk");
        }
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

    /// One place has another name; or there is one more, or one less.
    fn change_places(&mut self, random: &mut Random) {
        let count = self.places.len();
        match random.between(0, 4) {
            0 if count < PLACES.len() => self.places.push(format!("{} {}", PLACES[count], self.version)),
            1 if count > 1 => drop(self.places.pop()),
            _ => {
                let positions: Vec<usize> = (0..count).collect();
                let position = random.pick(&positions);
                self.places[position] = format!("{} {}", PLACES[position], self.version);
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

/// Makes the fact unreadable.
pub(super) fn spoil(project: &Path, folder: bool) {
    let path = if folder { "data/sales/0.parquet" } else { "data/sales.parquet" };
    fs::write(project.join(path), "this is no Parquet file").expect("the file can be written");
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
