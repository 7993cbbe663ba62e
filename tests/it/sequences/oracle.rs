//! Questions, and their answers computed from rows.

use std::collections::{BTreeMap, BTreeSet};

use quarry::time::{Granularity, Zone, format_local, from_micros, to_micros};
use serde_json::{Value, json};

use super::slices::Seen;
use super::state::{DAYS, KINDS, day};
use super::world::{MEASURES, Rollup, WIDTH, World, ZONES};
use crate::answers::{Numbers, same_cell};
use crate::differential::random::Random;
use crate::tables::DAY;

/// A condition of a question.
#[derive(Debug, Clone)]
pub(super) enum Condition {
    Kind(usize),
    NotKind(usize),
    HasKind,
    Place(String),
    Large,
}

/// What is asked.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) measures: Vec<String>,
    pub(super) dimensions: Vec<&'static str>,
    pub(super) granularity: Option<Granularity>,
    /// Wall-clock microseconds of the zone: whole days, the end is not inside.
    pub(super) range: Option<(i64, i64)>,
    pub(super) conditions: Vec<Condition>,
    pub(super) zone: &'static str,
}

/// The cells of the groups by what they are grouped by.
pub(super) type Groups = BTreeMap<Vec<Option<String>>, Vec<Value>>;

/// The zone of a name.
pub(super) fn zone(name: &str) -> Zone {
    name.parse().expect("a zone")
}

/// Start of the bucket that holds a moment.
pub(super) fn bucket(granularity: Granularity, local: i64) -> i64 {
    to_micros(granularity.truncate(from_micros(local)))
}

/// `2024-01-31` of the day that begins then.
pub(super) fn date(start: i64) -> String {
    format_local(start)[..10].to_owned()
}

impl Question {
    pub(super) fn new(measures: &[String], granularity: Option<Granularity>, zone: &'static str) -> Self {
        Self {
            measures: measures.to_vec(),
            dimensions: Vec::new(),
            granularity,
            range: None,
            conditions: Vec::new(),
            zone,
        }
    }

    pub(super) fn random(random: &mut Random, world: &World, places: &[String]) -> Self {
        use Granularity::{Day, Hour, Month, Quarter, Week};
        let mut measures: Vec<String> = random.some(&MEASURES, 1, 4).into_iter().map(str::to_owned).collect();
        if random.chance(20) {
            let marked: Vec<&Rollup> = world.rollups.iter().filter(|rollup| !rollup.marks[0].is_empty()).collect();
            measures.extend(random.pick(&marked).marks.clone());
        }
        let range = random.maybe(35, |random| {
            let start = random.between(-20, DAYS + 10);
            let end = start + 1 + random.between(0, 60);
            if random.chance(40) {
                (bucket(Month, day(start)), to_micros(Month.next(from_micros(day(end)))))
            } else {
                (day(start), day(end))
            }
        });
        let mut conditions = Vec::new();
        if random.chance(35) {
            conditions.push(match random.between(0, 6) {
                0 | 1 => Condition::Kind(random.pick(&[0, 1, 2, 3])),
                2 => Condition::NotKind(random.pick(&[0, 1, 2, 3])),
                3 => Condition::HasKind,
                4 => Condition::Place(random.pick(places)),
                _ => Condition::Large,
            });
        }
        let mut dimensions = random.some(&["kind", "places.name"], 0, 2);
        dimensions.extend(random.chance(5).then_some("place"));
        if !world.joins.is_empty() && random.chance(40) {
            // Rarely does chance alone ask for what a join has.
            let rollup = &world.rollups[random.pick(&world.joins)];
            if !rollup.measures.is_empty() {
                measures = random.some(&rollup.measures, 1, 3).into_iter().map(str::to_owned).collect();
            }
            dimensions.retain(|name| *name == "kind" && rollup.dimensions.contains(name));
            dimensions.push("places.name");
        }
        Self {
            measures,
            dimensions,
            granularity: random.maybe(40, |random| random.pick(&[Hour, Day, Day, Week, Month, Month, Quarter])),
            range,
            conditions,
            zone: if random.chance(75) { ZONES[0] } else { ZONES[1] },
        }
    }

    /// All that a rollup stores, but for its segment.
    pub(super) fn about_all(rollup: &Rollup, zone: &'static str) -> Self {
        let mut measures = rollup.marks.to_vec();
        measures.extend(rollup.measures.iter().map(|name| (*name).to_owned()));
        Self { dimensions: rollup.dimensions.clone(), ..Self::new(&measures, rollup.time, zone) }
    }

    /// Whether it needs the places.
    pub(super) fn reads_places(&self) -> bool {
        self.dimensions.contains(&"places.name")
            || self.measures.iter().any(|name| name == WIDTH)
            || self.conditions.iter().any(|condition| matches!(condition, Condition::Place(_)))
    }

    /// As a client asks it.
    pub(super) fn json(&self) -> Value {
        let measures: Vec<String> = self.measures.iter().map(|name| format!("sales.{name}")).collect();
        let mut query = json!({"measures": measures, "dimensions": self.dimension_paths(), "timezone": self.zone});
        if self.granularity.is_some() || self.range.is_some() {
            let mut time = json!({"dimension": "sales.at"});
            if let Some(granularity) = self.granularity {
                time["granularity"] = json!(granularity.as_str());
            }
            if let Some((start, end)) = self.range {
                time["dateRange"] = json!([date(start), date(end - DAY)]);
            }
            query["timeDimensions"] = json!([time]);
        }
        let filter = |member: &str, operator: &str, values: &[&str]| match values {
            [] => json!({"member": member, "operator": operator}),
            values => json!({"member": member, "operator": operator, "values": values}),
        };
        let filters = self.conditions.iter().filter_map(|condition| match condition {
            Condition::Kind(kind) => Some(filter("sales.kind", "equals", &[KINDS[*kind]])),
            Condition::NotKind(kind) => Some(filter("sales.kind", "notEquals", &[KINDS[*kind]])),
            Condition::HasKind => Some(filter("sales.kind", "set", &[])),
            Condition::Place(name) => Some(filter("places.name", "equals", &[name])),
            Condition::Large => None,
        });
        query["filters"] = filters.collect();
        if self.conditions.iter().any(|condition| matches!(condition, Condition::Large)) {
            query["segments"] = json!(["sales.large"]);
        }
        query
    }

    fn dimension_paths(&self) -> Vec<String> {
        let path = |name: &&str| if name.contains('.') { (*name).to_owned() } else { format!("sales.{name}") };
        self.dimensions.iter().map(path).collect()
    }

    /// The answer over some rows.
    pub(super) fn answer<'a>(&self, rows: impl Iterator<Item = Seen<'a>>) -> Groups {
        let zone = zone(self.zone);
        let mut groups: BTreeMap<Vec<Option<String>>, Vec<Seen<'a>>> = BTreeMap::new();
        if self.dimensions.is_empty() && self.granularity.is_none() {
            groups.insert(Vec::new(), Vec::new());
        }
        for seen in rows {
            let local = seen.local(zone);
            let inside = self.range.is_none_or(|(start, end)| local.is_some_and(|at| start <= at && at < end));
            if !inside || !self.conditions.iter().all(|condition| condition.holds(&seen)) {
                continue;
            }
            let mut key: Vec<Option<String>> = self.dimensions.iter().map(|name| seen.dimension(name)).collect();
            if let Some(granularity) = self.granularity {
                key.push(local.map(|at| format_local(bucket(granularity, at))));
            }
            groups.entry(key).or_default().push(seen);
        }
        let cells = |rows: Vec<Seen<'a>>| self.measures.iter().map(|name| measure(name, &rows)).collect();
        groups.into_iter().map(|(key, rows)| (key, cells(rows))).collect()
    }

    /// The groups of rows that a server sent.
    pub(super) fn read(&self, rows: &[Value]) -> Result<Groups, String> {
        let mut columns = self.dimension_paths();
        columns.extend(self.granularity.map(|granularity| format!("sales.at.{granularity}")));
        let mut groups = Groups::new();
        for row in rows {
            let key = columns.iter().map(|name| text_of(&row[name.as_str()])).collect();
            let cells = self.measures.iter().map(|name| row[format!("sales.{name}").as_str()].clone()).collect();
            if groups.insert(key, cells).is_some() {
                return Err(format!("a group comes twice: {row}"));
            }
        }
        Ok(groups)
    }

    /// What differs, if anything.
    pub(super) fn compare(&self, expected: &Groups, given: &Groups) -> Result<(), String> {
        for (key, cells) in expected {
            let found = given.get(key).ok_or_else(|| format!("no group {key:?}, expected {cells:?}"))?;
            for ((name, expected), given) in self.measures.iter().zip(cells).zip(found) {
                let numbers = if name == "mean" || name == "middle" { Numbers::Close } else { Numbers::Exact };
                if !same_cell(expected, given, numbers) {
                    return Err(format!("{name} of {key:?}: {expected} expected, {given} given"));
                }
            }
        }
        match given.keys().find(|key| !expected.contains_key(*key)) {
            Some(key) => Err(format!("group {key:?} was not expected")),
            None => Ok(()),
        }
    }
}

/// A cell that groups are told apart by; numbers may come as such.
fn text_of(cell: &Value) -> Option<String> {
    match cell {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

impl Condition {
    fn holds(&self, seen: &Seen<'_>) -> bool {
        match self {
            Self::Kind(kind) => seen.row.kind == Some(*kind),
            Self::NotKind(kind) => seen.row.kind != Some(*kind),
            Self::HasKind => seen.row.kind.is_some(),
            Self::Place(name) => seen.place == Some(name),
            Self::Large => seen.row.n.is_some_and(|n| n > 10),
        }
    }
}

impl Seen<'_> {
    fn dimension(&self, name: &str) -> Option<String> {
        match name {
            "kind" => self.row.kind.map(|kind| KINDS[kind].to_owned()),
            "place" => Some(self.row.place.to_string()),
            _ => self.place.map(str::to_owned),
        }
    }
}

/// Between the two numbers in the middle.
fn middle(mut numbers: Vec<i64>) -> Option<f64> {
    numbers.sort_unstable();
    let last = numbers.len().checked_sub(1)?;
    let (low, high) = (numbers[last / 2], numbers[last.div_ceil(2)]);
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    Some((low + high) as f64 / 2.0)
}

fn measure(name: &str, rows: &[Seen<'_>]) -> Value {
    let number = |value: Option<i64>| value.map_or(Value::Null, |value| json!(value.to_string()));
    let n = || rows.iter().filter_map(|seen| seen.row.n);
    let versions = || rows.iter().map(|seen| i64::try_from(seen.version).expect("small"));
    let sum = |values: &mut dyn Iterator<Item = i64>| values.reduce(|sum, value| sum + value);
    match name {
        "count" => json!(rows.len().to_string()),
        "total" => match sum(&mut rows.iter().filter_map(|seen| seen.row.amount)) {
            Some(sum) => {
                let sign = if sum < 0 { "-" } else { "" };
                json!(format!("{sign}{}.{:02}", sum.abs() / 100, sum.abs() % 100))
            }
            None => Value::Null,
        },
        "units" => number(sum(&mut n())),
        "least" => number(n().min()),
        "most" => number(n().max()),
        "mean" => match (sum(&mut n()), n().count()) {
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            (Some(sum), count) => json!((sum as f64 / count as f64).to_string()),
            (None, _) => Value::Null,
        },
        "kinds" => {
            let kinds: BTreeSet<_> = rows.iter().filter_map(|seen| seen.row.kind).collect();
            json!(kinds.len().to_string())
        }
        "spots" => json!(rows.iter().map(|seen| seen.row.place).collect::<BTreeSet<_>>().len().to_string()),
        WIDTH => {
            let width = |seen: &Seen<'_>| seen.place.map(|name| i64::try_from(name.chars().count()).expect("short"));
            number(sum(&mut rows.iter().filter_map(width)))
        }
        // So few different numbers are counted exactly in a sketch, and kept as they are for a percentile.
        "about" => json!(n().collect::<BTreeSet<_>>().len().to_string()),
        "middle" => middle(n().collect()).map_or(Value::Null, |middle| json!(middle.to_string())),
        name if name.starts_with("first") => number(versions().min()),
        name if name.starts_with("last") => number(versions().max()),
        other => unreachable!("no measure {other}"),
    }
}

#[test]
fn days_count_from_the_first() {
    assert_eq!(date(day(0)), super::state::FIRST);
    assert_eq!(date(day(31)), "2024-02-10");
}
