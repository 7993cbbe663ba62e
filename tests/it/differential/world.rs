//! Random models and their tables: facts, their details, dimensions of dimensions; joins that split and meet again.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};

use super::model::{
    Agg, Cube, Dimension, Entry, Extent, Form, Granularity, Join, Kind, Measure, Model, Reach, Relationship, Special,
    View, Window,
};
use super::random::Random;
use crate::tables::{DAY, SECOND, micros, money, timestamps, write_table};

pub(crate) const ZONES: [&str; 4] = ["UTC", "America/Los_Angeles", "Europe/Berlin", "Asia/Kolkata"];
pub(crate) const TEXTS: [&str; 10] =
    ["O'Brien", "say \"hi\"", "back\\slash", "100%", "under_score", "Zürich", "東京", "", "null", "😀 x' OR '1'='1"];
pub(crate) const WORDS: [&str; 4] = ["new", "it's late", "NEW", "paid"];
/// Local days on which clocks change somewhere, and ends of months and years.
pub(crate) const EDGES: [&str; 8] =
    ["2024-03-10", "2024-03-31", "2024-10-27", "2024-11-03", "2024-01-01", "2024-02-29", "2024-03-01", "2023-12-31"];
/// The first day of the data, and how many follow.
pub(crate) const FIRST: &str = "2023-10-01";
pub(crate) const DAYS: i64 = 500;

/// Names of cubes by level: details of facts, facts, dimensions, dimensions of these.
const LEVELS: [&[&str]; 4] = [&["items"], &["sales", "visits"], &["shops", "users", "goods"], &["towns", "firms"]];

/// A model and how many rows its tables have.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) model: Model,
    rows: Vec<i64>,
    /// Columns that hold keys of other tables: of which table, to which, and whether each key comes up once at most.
    links: Vec<(usize, usize, bool)>,
}

impl World {
    pub(crate) fn new(random: &mut Random) -> Self {
        let mut world = Self { model: Model::default(), rows: Vec::new(), links: Vec::new() };
        let mut levels = Vec::new();
        for (level, names) in LEVELS.iter().enumerate() {
            let least = usize::from(level == 1 || level == 2);
            for name in random.some(names, least, 3) {
                let rows = match level {
                    0 => random.between(60, 120),
                    1 => random.between(40, 90),
                    2 => random.between(8, 20),
                    _ => random.between(3, 8),
                };
                world.add_cube(random, name, rows);
                levels.push(level);
            }
        }
        for from in 0..levels.len() {
            for to in 0..levels.len() {
                let percent = match levels[to].checked_sub(levels[from]) {
                    Some(1) => 75,
                    Some(2) => 25,
                    _ => 0,
                };
                if random.chance(percent) {
                    world.link(random, from, to);
                }
            }
        }
        for cube in &mut world.model.cubes {
            cube.joins = random.shuffled(std::mem::take(&mut cube.joins));
        }
        for cube in 0..levels.len() {
            world.add_foreign(random, cube);
            world.add_sub_queries(random, cube);
        }
        for _ in 0..random.between(0, 3) {
            world.add_view(random);
        }
        world
    }

    /// Measures of the cubes whose rows hold keys of a cube, as its dimensions.
    fn add_sub_queries(&mut self, random: &mut Random, cube: usize) {
        let holders: Vec<usize> = self.links.iter().filter(|link| link.1 == cube).map(|link| link.0).collect();
        for holder in random.some(&holders, 0, 2) {
            let name = self.model.cubes[holder].name.clone();
            let inner = random.pick(&["count", "total", "least", "kinds", "most"]);
            let form = Form::SubQuery(format!("{{{name}.{inner}}}"), random.chance(40));
            let own = &mut self.model.cubes[cube];
            own.dimensions.push(dimension(&format!("of_{name}"), Kind::Number, form));
            own.measures.push(measure(&format!("mean_of_{name}"), Agg::Avg, Some(&format!("{{of_{name}}}"))));
            own.measures.push(measure(&format!("most_of_{name}"), Agg::Max, Some(&format!("{{of_{name}}} * 2"))));
            own.segments.push((format!("with_{name}"), format!("{{CUBE.of_{name}}} > 3")));
        }
    }

    /// A cube with some of those that it reaches, each by one path.
    fn add_view(&mut self, random: &mut Random) {
        let all: Vec<usize> = (0..self.model.cubes.len()).collect();
        let root = random.pick(&all);
        let everything = random.chance(30);
        let members = |random: &mut Random, cube: &Cube| {
            let names: Vec<String> = cube.member_names().map(str::to_owned).collect();
            random.some(&names, 4, names.len())
        };
        let mut entries = vec![Entry {
            path: vec![root],
            prefix: false,
            members: (!everything).then(|| members(random, &self.model.cubes[root])),
        }];
        let mut at = 0;
        while at < entries.len() && entries.len() < 4 {
            let path = entries[at].path.clone();
            at += 1;
            for join in random.shuffled(self.model.cubes[*path.last().expect("a cube")].joins.clone()) {
                if entries.iter().all(|entry| entry.path.last() != Some(&join.to)) {
                    let path = path.iter().copied().chain([join.to]).collect();
                    let members = Some(members(random, &self.model.cubes[join.to]));
                    entries.push(Entry { path, prefix: true, members });
                }
            }
        }
        let name = format!("view{}", self.model.views.len());
        self.model.views.push(View { name, entries });
    }

    fn add_cube(&mut self, random: &mut Random, name: &str, rows: i64) {
        let keys: &[&str] = if random.chance(25) { &["k1", "k2"] } else { &["id"] };
        let mut cube = Cube { name: name.to_owned(), ..Cube::default() };
        cube.keys = keys.iter().map(|key| (*key).to_owned()).collect();
        let sql = |name: &str, kind, sql: &str| dimension(name, kind, Form::Sql(sql.to_owned()));
        for key in keys {
            cube.dimensions.push(sql(key, if *key == "k2" { Kind::Text } else { Kind::Number }, key));
        }
        let made_at = Dimension { granularities: granularities(random), ..sql("made_at", Kind::Time, "made_at") };
        let case = vec![
            ("{CUBE}.n >= 10".to_owned(), "bulk".to_owned()),
            ("{CUBE}.n >= 0 AND {kind} IS NOT NULL".to_owned(), "it's small".to_owned()),
        ];
        cube.dimensions.extend([
            sql("name", Kind::Text, "name"),
            sql("kind", Kind::Text, "{CUBE}.kind"),
            sql("n", Kind::Number, "n"),
            sql("price", Kind::Number, "price"),
            sql("flag", Kind::Boolean, "flag"),
            made_at,
            sql("more", Kind::Number, "{CUBE}.n + 1"),
            sql("twice", Kind::Number, "{more} * 2"),
            dimension("size", Kind::Text, Form::Case(case, random.chance(50).then(|| "rest".to_owned()))),
        ]);
        cube.measures = measures();
        cube.measures.extend(specials(random));
        cube.segments = vec![
            ("dear".to_owned(), "{CUBE}.price > 100".to_owned()),
            ("odd".to_owned(), "{kind} = 'it''s late' OR {CUBE}.flag".to_owned()),
        ];
        self.model.cubes.push(cube);
        self.rows.push(rows);
    }

    /// Rows of `from` hold keys of `to`; one of the two declares the join.
    fn link(&mut self, random: &mut Random, from: usize, to: usize) {
        let single = random.chance(12);
        self.links.push((from, to, single));
        let cubes = &mut self.model.cubes;
        let target = cubes[to].name.clone();
        let columns: Vec<(String, String)> =
            cubes[to].keys.iter().map(|key| (format!("{target}_{key}"), key.clone())).collect();
        let turned = random.chance(20);
        let (owner, other) = if turned { (to, from) } else { (from, to) };
        let relationship = match (single, turned) {
            (true, _) => Relationship::OneToOne,
            (false, true) => Relationship::OneToMany,
            (false, false) => Relationship::ManyToOne,
        };
        let name = cubes[other].name.clone();
        let by_member = random.chance(50);
        let equal = columns.iter().map(|(column, key)| match (turned, by_member) {
            (true, true) => format!("{{CUBE.{key}}} = {{{name}}}.{column}"),
            (true, false) => format!("{{CUBE}}.{key} = {{{name}}}.{column}"),
            (false, true) => format!("{{CUBE}}.{column} = {{{name}.{key}}}"),
            (false, false) => format!("{{CUBE}}.{column} = {{{name}}}.{key}"),
        });
        let sql = equal.collect::<Vec<_>>().join(" AND ");
        cubes[owner].joins.push(Join { to: other, relationship, sql });
    }

    /// Members that name other cubes.
    fn add_foreign(&mut self, random: &mut Random, cube: usize) {
        let joins = self.model.cubes[cube].joins.clone();
        let Some(join) = (!joins.is_empty()).then(|| random.pick(&joins)) else { return };
        let other = self.model.cubes[join.to].name.clone();
        let further = self.model.cubes[join.to].joins.first().map(|next| self.model.cubes[next.to].name.clone());
        let own = &mut self.model.cubes[cube];
        own.dimensions.push(dimension("beside", Kind::Text, Form::Sql(format!("{{{other}.kind}}"))));
        if let Some(further) = further.filter(|name| *name != own.name) {
            let sql = format!("{{{other}.{further}.name}}");
            own.dimensions.push(dimension("beyond", Kind::Text, Form::Sql(sql)));
        }
        let number = |name: &str, sql: String| measure(name, Agg::Number, Some(&sql));
        own.measures.extend([
            number("per_other", format!("CAST({{total}} AS DOUBLE) / NULLIF({{{other}.count}}, 0)")),
            number("both", format!("CAST({{count}} AS DOUBLE) - CAST({{{other}.amount}} AS DOUBLE) * 2")),
        ]);
        if join.relationship != Relationship::OneToMany {
            own.measures.push(measure("weighed", Agg::Sum, Some(&format!("{{CUBE}}.price * {{{other}.n}}"))));
        }
    }

    /// Writes the tables.
    pub(crate) fn write(&self, project: &Path, random: &mut Random) {
        let cubes = self.model.cubes.iter();
        let keys: Vec<Vec<(i64, String)>> =
            self.rows.iter().zip(cubes).map(|(rows, cube)| keys(*rows, cube.keys.len() > 1)).collect();
        for (at, cube) in self.model.cubes.iter().enumerate() {
            let rows = self.rows[at];
            let mut columns: Vec<(String, ArrayRef)> = Vec::new();
            for (name, values) in key_columns("", &cube.keys, &keys[at].iter().map(Some).collect::<Vec<_>>()) {
                columns.push((name, values));
            }
            for (_, to, single) in self.links.iter().filter(|link| link.0 == at) {
                let target = &self.model.cubes[*to];
                let missing = (9_999, "nowhere".to_owned());
                let mut left = random.shuffled(keys[*to].clone());
                let chosen: Vec<Option<(i64, String)>> = (0..rows)
                    .map(|_| match random.between(0, 100) {
                        0..8 => None,
                        8..12 => Some(missing.clone()),
                        _ if *single => left.pop(),
                        _ => Some(random.pick(&keys[*to])),
                    })
                    .collect();
                let chosen: Vec<_> = chosen.iter().map(Option::as_ref).collect();
                columns.extend(key_columns(&format!("{}_", target.name), &target.keys, &chosen));
            }
            columns.extend(values(random, rows));
            let columns = columns.iter().map(|(name, values)| (name.as_str(), Arc::clone(values))).collect();
            write_table(project, &cube.name, columns);
        }
    }
}

fn dimension(name: &str, kind: Kind, form: Form) -> Dimension {
    Dimension { name: name.to_owned(), kind, form, granularities: Vec::new() }
}

fn granularities(random: &mut Random) -> Vec<Granularity> {
    let from = |name, count, unit, origin: &str| Granularity {
        name,
        count,
        unit,
        origin: Some(origin.to_owned()),
        offset: None,
    };
    let moved = |name, count, unit, offset| Granularity { name, count, unit, origin: None, offset };
    let all = [
        moved("quarter_hour", 15, "minute", None),
        moved("sunday_week", 1, "week", Some((-1, "day"))),
        moved("half_year", 6, "month", None),
        moved("night", 1, "day", Some((6, "hour"))),
        moved("watch", 6, "hour", Some((1, "hour"))),
        moved("two_years", 2, "year", None),
        moved("two_quarters", 2, "quarter", None),
        moved("tax_month", 1, "month", Some((5, "day"))),
        from("fiscal_year", 1, "year", "2024-04-01"),
        from("ten_days", 10, "day", "2024-01-05"),
        from("five_weeks", 5, "week", "2024-01-03"),
        from("wednesday_week", 1, "week", "2024-01-03"),
        from("two_months", 2, "month", "2024-01-15"),
        from("five_months", 5, "month", "2023-02-01"),
        from("forty_minutes", 40, "minute", "2024-01-01T00:10:00"),
    ];
    random.some(&all, 2, 5)
}

fn measure(name: &str, agg: Agg, sql: Option<&str>) -> Measure {
    Measure { name: name.to_owned(), agg, sql: sql.map(str::to_owned), filters: Vec::new(), special: Special::No }
}

fn measures() -> Vec<Measure> {
    let filtered = |name, agg, sql, filters: &[&str]| Measure {
        filters: filters.iter().map(|filter| (*filter).to_owned()).collect(),
        ..measure(name, agg, sql)
    };
    vec![
        measure("count", Agg::Count, None),
        measure("count_n", Agg::Count, Some("n")),
        measure("kinds", Agg::CountDistinct, Some("kind")),
        measure("total", Agg::Sum, Some("price")),
        measure("amount", Agg::Sum, Some("{CUBE}.n")),
        measure("weight", Agg::Sum, Some("{CUBE}.weight * 2")),
        measure("mean", Agg::Avg, Some("price")),
        measure("mean_n", Agg::Avg, Some("{n}")),
        measure("least", Agg::Min, Some("price")),
        measure("most", Agg::Max, Some("{CUBE}.n")),
        filtered("late", Agg::Count, None, &["{CUBE}.kind = 'it''s late'"]),
        filtered("paid", Agg::Sum, Some("price"), &["{kind} = 'paid'", "{CUBE}.n > 3 OR {CUBE}.flag"]),
        filtered("flagged", Agg::CountDistinct, Some("n"), &["{flag}"]),
        measure("ratio", Agg::Number, Some("CAST({total} AS DOUBLE) / NULLIF({count}, 0)")),
        measure("rest", Agg::Number, Some("{count} - {late}")),
        measure("share", Agg::Number, Some("100.0 * {rest} / NULLIF(CAST({count} AS DOUBLE), 0)")),
    ]
}

/// Windows and moved times.
fn specials(random: &mut Random) -> Vec<Measure> {
    let rolling = |name: &str, agg, sql: Option<&str>, window| Measure {
        special: Special::Rolling(window),
        ..measure(name, agg, sql)
    };
    let fixed = |trailing: Extent, leading: Extent, from_start| Window::Fixed { trailing, leading, from_start };
    let units = |count, unit| Some(Reach::Units(count, unit));
    let unbounded = Some(Reach::Unbounded);
    let shift = |name: &str, sql: &str, count, unit| Measure {
        special: Special::Shift(count, unit),
        ..measure(name, Agg::Number, Some(sql))
    };
    let (total, price) = (Agg::Sum, Some("price"));
    let mut late = rolling("late_so_far", Agg::Count, None, fixed(unbounded, None, false));
    late.filters.push("{CUBE}.kind = 'it''s late'".to_owned());
    let windows = [
        rolling("week_total", total, price, fixed(units(7, "day"), None, false)),
        rolling("month_total", total, price, fixed(units(1, "month"), None, false)),
        rolling("two_month_count", Agg::Count, None, fixed(units(2, "month"), None, false)),
        rolling("so_far", total, price, fixed(unbounded, None, false)),
        rolling("ahead", Agg::Max, Some("n"), fixed(None, units(3, "day"), true)),
        rolling("around", Agg::Count, Some("n"), fixed(units(2, "week"), units(1, "week"), false)),
        rolling("until_start", Agg::Min, price, fixed(units(1, "quarter"), None, true)),
        rolling("year_so_far", total, Some("{n}"), Window::ToDate("year")),
        rolling("month_so_far", Agg::Count, None, Window::ToDate("month")),
        rolling("recent_kinds", Agg::CountDistinct, Some("kind"), fixed(units(1, "month"), None, false)),
        rolling("known_kinds", Agg::CountDistinct, Some("{kind}"), fixed(unbounded, None, false)),
        rolling("recent_mean", Agg::Avg, price, fixed(units(10, "day"), None, false)),
        late,
    ];
    let moved = [
        shift("last_year", "{total}", 1, "year"),
        shift("last_month", "{count}", 1, "month"),
        shift("next_week", "{amount}", -1, "week"),
        shift("last_days", "{kinds}", 10, "day"),
    ];
    let mut found = random.some(&windows, 2, 4);
    let moved = random.some(&moved, 1, 2);
    let growth = format!("CAST({{total}} AS DOUBLE) - CAST({{{}}} AS DOUBLE)", moved[0].name);
    found.push(measure("growth", Agg::Number, Some(&growth)));
    found.extend(moved);
    found
}

/// Keys of a number and a text; composite ones are unique only together, and look alike when glued.
fn keys(rows: i64, composite: bool) -> Vec<(i64, String)> {
    let key = |row: i64| match composite {
        true => (row / 3 * 10 % 101, ["1", "11", "ä'b"][usize::try_from(row % 3).expect("small")].to_owned()),
        false => (row * 7 % 1009 + 1, String::new()),
    };
    (0..rows).map(key).collect()
}

fn key_columns(prefix: &str, keys: &[String], values: &[Option<&(i64, String)>]) -> Vec<(String, ArrayRef)> {
    let text = |key: &String| key == "k2";
    let column = |key: &String| -> ArrayRef {
        if text(key) {
            Arc::new(values.iter().map(|value| value.map(|(_, text)| text.clone())).collect::<StringArray>())
        } else {
            Arc::new(values.iter().map(|value| value.map(|(number, _)| *number)).collect::<Int64Array>())
        }
    };
    keys.iter().map(|key| (format!("{prefix}{key}"), column(key))).collect()
}

fn values(random: &mut Random, rows: i64) -> Vec<(String, ArrayRef)> {
    let mut columns: Vec<(&str, ArrayRef)> = Vec::new();
    let all = || 0..rows;
    let names: Vec<Option<&str>> = all().map(|_| random.maybe(8, |random| random.pick(&TEXTS))).collect();
    columns.push(("name", Arc::new(StringArray::from(names))));
    let kinds: Vec<Option<&str>> = all().map(|_| random.maybe(12, |random| random.pick(&WORDS))).collect();
    columns.push(("kind", Arc::new(StringArray::from(kinds))));
    let numbers: Vec<Option<i64>> = all().map(|_| random.maybe(10, |random| random.between(-5, 20))).collect();
    columns.push(("n", Arc::new(Int64Array::from(numbers))));
    columns.push(("price", money(all().map(|_| random.maybe(10, |r| r.between(-9_000, 40_000))).collect())));
    let eighths = |random: &mut Random| f64::from(i32::try_from(random.between(-900, 900)).expect("small")) / 8.0;
    let weights: Vec<Option<f64>> = all().map(|_| random.maybe(10, eighths)).collect();
    columns.push(("weight", Arc::new(Float64Array::from(weights))));
    let flags: Vec<Option<bool>> = all().map(|_| random.maybe(15, |random| random.chance(50))).collect();
    columns.push(("flag", Arc::new(BooleanArray::from(flags))));
    let times: Vec<Option<i64>> = all().map(|_| random.maybe(6, time)).collect();
    columns.push(("made_at", timestamps(times)));
    columns.into_iter().map(|(name, values)| (name.to_owned(), values)).collect()
}

/// UTC microseconds, whole milliseconds: often near a local midnight on an edge day.
fn time(random: &mut Random) -> i64 {
    if random.chance(45) {
        let zone = random.pick(&ZONES).parse().expect("a zone");
        let around = [0, 1_000, -1_000, SECOND, 1800 * SECOND, -1800 * SECOND, 3 * 3600 * SECOND, 5400 * SECOND];
        quarry::time::local_to_utc(micros(random.pick(&EDGES)), zone) + random.pick(&around)
    } else {
        micros(FIRST) + random.between(0, DAYS * DAY / SECOND) * SECOND
    }
}
