//! Random models over one fact and one dimension: rollups, the stored rows of both cubes, lambdas and joins.

use quarry::time::{Granularity, utc_to_local};

use super::oracle::{date, zone};
use super::state::{DAYS, day};
use crate::differential::random::Random;

/// Zones of queries and jobs.
pub(super) const ZONES: [&str; 2] = ["UTC", "America/Los_Angeles"];
/// Measures that rollups and queries choose from.
pub(super) const MEASURES: [&str; 13] =
    ["count", "total", "units", "least", "most", "mean", "kinds", "spots", "about", "middle", "first", "last", "width"];
/// The measure that reads the dimension.
pub(super) const WIDTH: &str = "width";
/// Partitions of rollups and of rows.
const PARTITIONS: [Granularity; 4] = [Granularity::Month, Granularity::Month, Granularity::Quarter, Granularity::Week];

/// What a stored table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Groups of the fact, built from stored rows where there are some and it is set.
    Groups { from_rows: bool },
    /// The rows of the fact.
    Rows,
    /// Ids and names of the places.
    Places,
    /// The rows of the places.
    PlaceRows,
}

/// One stored pre-aggregation of the model.
#[derive(Debug, Clone)]
pub(super) struct Rollup {
    pub(super) kind: Kind,
    pub(super) name: String,
    /// Measures that only it stores, and those that stand in one lambda with it: the least and the greatest version.
    pub(super) marks: [String; 2],
    pub(super) measures: Vec<&'static str>,
    pub(super) dimensions: Vec<&'static str>,
    segment: bool,
    pub(super) time: Option<Granularity>,
    pub(super) partition: Option<Granularity>,
    /// Days at which its build range starts and ends, where that is given.
    pub(super) bounds: (Option<i64>, Option<i64>),
    pub(super) scheduled: bool,
    /// Columns of its indexes, and whether they are of type aggregate.
    indexes: Vec<(Vec<&'static str>, bool)>,
}

/// Rollups put one after the other in time; they are named where it answers.
#[derive(Debug, Clone)]
pub(super) struct Lambda {
    /// Positions in the world.
    pub(super) layers: Vec<usize>,
    /// Whether the source adds what came after them.
    pub(super) union: bool,
}

/// When partitions are stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    Never,
    /// After a second.
    Second,
    /// When the source has another version.
    Version,
}

/// The model, and how the source's files lie.
#[derive(Debug, Clone)]
pub(super) struct World {
    /// Those of the fact come before those of the places.
    pub(super) rollups: Vec<Rollup>,
    pub(super) lambdas: Vec<Lambda>,
    /// Rollups that are joined with that of the places.
    pub(super) joins: Vec<usize>,
    pub(super) pace: Pace,
    /// Whether the fact is a folder of several files.
    pub(super) folder: bool,
}

impl World {
    pub(super) fn new(random: &mut Random) -> Self {
        let count = random.between(1, 4);
        let has_rows = random.chance(35);
        let mut rollups = Vec::new();
        if has_rows {
            rollups.push(Rollup::rows(random));
        }
        rollups.extend((0..count).map(|index| Rollup::groups(random, index, has_rows)));
        let (mut lambdas, mut joins) = (Vec::new(), Vec::new());
        for index in usize::from(has_rows)..rollups.len() {
            if random.chance(30) {
                rollups[index].join_with_places();
                joins.push(index);
            }
            lambdas.extend(Lambda::random(random, &mut rollups, index));
        }
        if !joins.is_empty() {
            rollups.push(Rollup::places(random, Kind::Places, "names"));
        }
        if has_rows && random.chance(30) {
            rollups.push(Rollup::places(random, Kind::PlaceRows, "rows"));
        }
        let pace = match random.between(0, 100) {
            0..8 => Pace::Second,
            8..40 => Pace::Version,
            _ => Pace::Never,
        };
        Self { rollups, lambdas, joins, pace, folder: random.chance(35) }
    }

    /// Whether some rollup is kept in several orders.
    pub(super) fn has_copies(&self) -> bool {
        self.rollups.iter().any(|rollup| !rollup.indexes.is_empty())
    }

    /// The position of the one table of that kind.
    pub(super) fn find(&self, kind: Kind) -> Option<usize> {
        self.rollups.iter().position(|rollup| rollup.kind == kind)
    }

    /// The lambda that stands in front of a rollup.
    pub(super) fn lambda_of(&self, index: usize) -> Option<&Lambda> {
        self.lambdas.iter().find(|lambda| lambda.layers.contains(&index))
    }

    /// The model file.
    pub(super) fn yaml(&self) -> String {
        let mut marks: Vec<&[String; 2]> = Vec::new();
        for rollup in self.rollups.iter().filter(|rollup| rollup.cube() == "sales") {
            if !marks.contains(&&rollup.marks) {
                marks.push(&rollup.marks);
            }
        }
        let marks = marks.into_iter().map(|[first, last]| {
            format!(
                "      - {{name: {first}, type: min, sql: version}}\n      - {{name: {last}, type: max, sql: version}}\n"
            )
        });
        let marks: String = marks.collect();
        let (sales, places) = (self.definitions("sales"), self.definitions("places"));
        format!(
            "cubes:
  - name: sales
    sql_table: sales
    joins:
      - {{name: places, relationship: many_to_one, sql: \"{{CUBE.place}} = {{places.id}}\"}}
    dimensions:
      - {{name: id, sql: id, type: number, primary_key: true}}
      - {{name: kind, sql: kind, type: string}}
      - {{name: place, sql: place, type: number}}
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
      - {{name: width, type: sum, sql: \"CHARACTER_LENGTH({{places.name}})\"}}
{marks}    pre_aggregations:
{sales}  - name: places
    sql_table: places
    dimensions:
      - {{name: id, sql: id, type: number, primary_key: true, public: true}}
      - {{name: name, sql: name, type: string}}
    measures:
      - {{name: count, type: count}}
      - {{name: letters, type: sum, sql: CHARACTER_LENGTH(name)}}
{places}"
        )
    }

    /// The pre-aggregations of a cube.
    fn definitions(&self, cube: &str) -> String {
        let mut text = String::new();
        if cube == "sales" {
            for (number, lambda) in self.lambdas.iter().enumerate() {
                let layers: Vec<String> =
                    lambda.layers.iter().map(|index| format!("CUBE.{}", self.rollups[*index].name)).collect();
                let (layers, union) = (layers.join(", "), lambda.union);
                text.push_str(&format!(
                    "      - {{name: lambda_{number}, type: rollup_lambda, rollups: [{layers}], union_with_source_data: \
                     {union}}}\n"
                ));
            }
            self.joins.iter().for_each(|index| text.push_str(&self.rollups[*index].joined()));
        }
        let own = self.rollups.iter().filter(|rollup| rollup.cube() == cube);
        text.extend(own.map(|rollup| rollup.yaml(self.pace)));
        match (cube, text.is_empty()) {
            ("places", false) => format!("    pre_aggregations:\n{text}"),
            _ => text,
        }
    }
}

impl Rollup {
    fn groups(random: &mut Random, index: i64, has_rows: bool) -> Self {
        let mut measures = random.some(&MEASURES, 0, 5);
        measures.extend(["first", "last"]);
        measures.sort_unstable();
        measures.dedup();
        let time = random.maybe(15, |random| random.pick(&[Granularity::Hour, Granularity::Day, Granularity::Day]));
        let partition = time.and_then(|_| random.maybe(15, |random| random.pick(&PARTITIONS)));
        let mut dimensions = random.some(&["kind", "places.name"], 0, 2);
        dimensions.extend(random.chance(10).then_some("place"));
        let from_rows = has_rows && random.chance(60);
        // What is built from rows has their range.
        let has_bounds = partition.is_some() && !from_rows && random.chance(10);
        Self {
            kind: Kind::Groups { from_rows },
            name: format!("rollup_{index}"),
            marks: [format!("first_{index}"), format!("last_{index}")],
            measures,
            dimensions,
            segment: random.chance(20),
            time,
            partition,
            bounds: if has_bounds { bounds(random, 50, 50) } else { (None, None) },
            scheduled: random.chance(85),
            indexes: Vec::new(),
        }
        .with_indexes(random)
    }

    /// Maybe with indexes, of columns that it has.
    fn with_indexes(mut self, random: &mut Random) -> Self {
        let time = self.time.map(|time| if time == Granularity::Hour { "sales__at_hour" } else { "sales__at_day" });
        let columns: Vec<&'static str> = self.dimensions.iter().copied().chain(time).collect();
        if !columns.is_empty() && random.chance(40) {
            let count = random.between(1, 4);
            self.indexes = (0..count).map(|_| (random.some(&columns, 1, 3), random.chance(60))).collect();
        }
        self
    }

    fn rows(random: &mut Random) -> Self {
        let partition = random.maybe(20, |random| random.pick(&PARTITIONS));
        let orders = random.maybe(70, |random| random.between(1, 3)).unwrap_or(0);
        let indexes = (0..orders).map(|_| (random.some(&["kind", "place", "n"], 1, 2), false)).collect();
        Self {
            kind: Kind::Rows,
            name: "rows".to_owned(),
            marks: ["first_row".to_owned(), "last_row".to_owned()],
            measures: Vec::new(),
            dimensions: Vec::new(),
            segment: false,
            time: Some(Granularity::Day),
            partition,
            bounds: (None, None),
            scheduled: random.chance(70),
            indexes,
        }
    }

    fn places(random: &mut Random, kind: Kind, name: &str) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            marks: [String::new(), String::new()],
            measures: Vec::new(),
            dimensions: Vec::new(),
            segment: false,
            time: None,
            partition: None,
            bounds: (None, None),
            scheduled: random.chance(85),
            indexes: Vec::new(),
        }
    }

    /// Leaves the places to the other side of a join.
    fn join_with_places(&mut self) {
        self.measures.retain(|name| *name != WIDTH);
        self.dimensions.retain(|name| *name == "kind");
        self.dimensions.push("place");
        for (columns, _) in &mut self.indexes {
            columns.retain(|name| *name != "places.name");
        }
        self.indexes.retain(|(columns, _)| !columns.is_empty());
    }

    fn cube(&self) -> &'static str {
        match self.kind {
            Kind::Groups { .. } | Kind::Rows => "sales",
            Kind::Places | Kind::PlaceRows => "places",
        }
    }

    /// `cube.rollup`.
    pub(super) fn path(&self) -> String {
        format!("{}.{}", self.cube(), self.name)
    }

    /// Whether there is one table for all zones.
    pub(super) fn is_zoneless(&self) -> bool {
        self.time.is_none() || self.kind == Kind::Rows
    }

    pub(super) fn is_from_rows(&self) -> bool {
        self.kind == Kind::Groups { from_rows: true }
    }

    /// Whether its groups need the places.
    pub(super) fn reads_places(&self) -> bool {
        self.dimensions.contains(&"places.name") || self.measures.contains(&WIDTH)
    }

    /// The ends of its build range that are given, on the wall clock of a zone.
    pub(super) fn given(&self, zone_name: &str) -> (Option<i64>, Option<i64>) {
        let local = |number: i64| utc_to_local(day(number), zone(zone_name));
        (self.bounds.0.map(local), self.bounds.1.map(local))
    }

    /// The join of it with the places.
    fn joined(&self) -> String {
        let dimensions: Vec<&str> = self.dimensions.iter().copied().filter(|name| *name != "place").collect();
        let dimensions = [&dimensions[..], &["places.name"]].concat().join(", ");
        let segments = if self.segment { ", segments: [large]" } else { "" };
        let time = self.time.map(|time| format!(", time_dimension: at, granularity: {time}")).unwrap_or_default();
        format!(
            "      - {{name: {}_with_places, type: rollup_join, measures: [{}], dimensions: [{dimensions}]{segments}{time}, \
             rollups: [CUBE.{}, places.names]}}\n",
            self.name,
            self.measures.join(", "),
            self.name
        )
    }

    fn yaml(&self, pace: Pace) -> String {
        let mut text = format!("      - name: {}\n", self.name);
        let mut line = |key: &str, value: &str| text.push_str(&format!("        {key}: {value}\n"));
        match self.kind {
            Kind::Rows | Kind::PlaceRows => line("type", "original_sql"),
            Kind::Places => {
                line("measures", "[count]");
                line("dimensions", "[id, name]");
            }
            Kind::Groups { from_rows } => {
                line("measures", &format!("[{}, {}]", self.measures.join(", "), self.marks.join(", ")));
                line("dimensions", &format!("[{}]", self.dimensions.join(", ")));
                line("use_original_sql_pre_aggregations", &from_rows.to_string());
                if let Some(time) = self.time {
                    line("granularity", time.as_str());
                }
            }
        }
        if self.segment {
            line("segments", "[large]");
        }
        if self.time.is_some() {
            line("time_dimension", "at");
        }
        if let Some(partition) = self.partition {
            line("partition_granularity", partition.as_str());
        }
        for (key, bound) in [("build_range_start", self.bounds.0), ("build_range_end", self.bounds.1)] {
            if let Some(number) = bound {
                line(key, &format!("{{sql: \"SELECT '{}'\"}}", date(day(number))));
            }
        }
        if !self.scheduled {
            line("scheduled_refresh", "false");
        }
        if !self.indexes.is_empty() {
            let indexes = self.indexes.iter().enumerate().map(|(number, (columns, aggregate))| {
                let kind = if *aggregate { "aggregate" } else { "regular" };
                format!("{{name: i{number}, columns: [{}], type: {kind}}}", columns.join(", "))
            });
            line("indexes", &format!("[{}]", indexes.collect::<Vec<_>>().join(", ")));
        }
        line(
            "refresh_key",
            match pace {
                // Keys change at fixed times, this one in no run of these tests.
                Pace::Never => "{every: 5000 days}",
                Pace::Second => "{every: 1 second}",
                Pace::Version => "{sql: SELECT MAX(version) FROM sales}",
            },
        );
        text
    }
}

impl Lambda {
    /// Maybe one in front of a rollup; maybe the rollup has a twin that goes on after it, of finer partitions.
    fn random(random: &mut Random, rollups: &mut Vec<Rollup>, index: usize) -> Option<Self> {
        let first = rollups[index].clone();
        let Some(partition) = first.partition else {
            return random.chance(15).then(|| Self { layers: vec![index], union: random.chance(50) });
        };
        match random.between(0, 100) {
            0..10 => Some(Self { layers: vec![index], union: false }),
            10..20 => Some(Self { layers: vec![index], union: true }),
            20..38 => {
                let finer: &[Granularity] = match partition {
                    Granularity::Quarter => &[Granularity::Quarter, Granularity::Month],
                    _ if random.chance(8) => &[Granularity::Day],
                    _ => &[partition],
                };
                let cuts = !first.is_from_rows();
                let mut cut = |start, end| if cuts { bounds(random, start, end) } else { (None, None) };
                rollups[index].bounds = cut(0, 60);
                let later = cut(25, 30);
                rollups.push(Rollup {
                    name: format!("{}_on", first.name),
                    partition: Some(random.pick(finer)),
                    bounds: later,
                    scheduled: random.chance(85),
                    ..first
                });
                Some(Self { layers: vec![index, rollups.len() - 1], union: random.chance(60) })
            }
            _ => None,
        }
    }
}

/// Days at which a build range starts and ends, each given with that chance.
fn bounds(random: &mut Random, start: u32, end: u32) -> (Option<i64>, Option<i64>) {
    (
        random.maybe(100 - start, |random| random.between(0, 50)),
        random.maybe(100 - end, |random| random.between(40, DAYS)),
    )
}
