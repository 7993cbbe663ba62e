//! Random queries over a model.

use serde_json::{Map, Value, json};

use super::model::{Agg, Kind, Model, Special};
use super::random::Random;
use super::world::{DAYS, EDGES, FIRST, TEXTS, WORDS, ZONES};
use crate::tables::{DAY, micros};

/// What a query may name.
#[derive(Debug, Default)]
struct Names {
    measures: Vec<String>,
    /// Those of the measures that are windows, moved times, or computed from such.
    special: Vec<String>,
    dimensions: Vec<(String, Kind)>,
    times: Vec<(String, Vec<String>)>,
    segments: Vec<String>,
    windows: bool,
}

/// A query.
pub(crate) fn query(model: &Model, random: &mut Random) -> Value {
    let mut names = names(model, random);
    if !names.times.is_empty() && random.chance(30) {
        look_at_windows(&mut names, random);
    }
    let mut query = Map::new();
    let least = usize::from(random.chance(90));
    let mut measures: Vec<String> = Vec::new();
    for measure in random.some(&names.measures, least, 4) {
        if !measures.contains(&measure) {
            measures.push(measure);
        }
    }
    let dimensions: Vec<String> = random.some(&names.dimensions, 0, 3).into_iter().map(|(name, _)| name).collect();
    let times = times(&names, random);
    if measures.is_empty() && dimensions.is_empty() {
        measures = random.some(&names.measures, 1, 1);
    }
    let filters = filters(&names, random);
    let segments = if random.chance(15) { random.some(&names.segments, 0, 2) } else { Vec::new() };
    for (key, list) in [("measures", json!(measures)), ("dimensions", json!(dimensions)), ("segments", json!(segments))]
    {
        if list != json!([]) {
            query.insert(key.to_owned(), list);
        }
    }
    if !times.is_empty() {
        query.insert("timeDimensions".to_owned(), json!(times));
    }
    if !filters.is_empty() {
        query.insert("filters".to_owned(), json!(filters));
    }
    query.insert("timezone".to_owned(), json!(random.pick(&ZONES)));
    let mut query = Value::Object(query);
    order(&mut query, &measures, random);
    query
}

/// Leaves what queries over windows can be made of: special measures beside a few others, one time dimension.
fn look_at_windows(names: &mut Names, random: &mut Random) {
    let beside = random.some(&names.measures, 0, 2);
    names.measures = random.some(&names.special, 1, 3);
    names.measures.extend(beside);
    names.times = random.some(&names.times, 1, 1);
    names.dimensions.retain(|(_, kind)| *kind != Kind::Time);
    names.dimensions = random.some(&names.dimensions, 2, 3);
    names.windows = true;
}

/// Members of a cube and of those that it reaches, mostly; else of any cubes. Or of a view.
fn names(model: &Model, random: &mut Random) -> Names {
    let mut names = Names::default();
    if !model.views.is_empty() && random.chance(20) {
        let view = random.pick(&model.views);
        for (exposed, path, name) in model.exposed(&view) {
            let cube = *path.last().expect("paths are not empty");
            names.add(model, cube, &name, format!("{}.{exposed}", view.name));
        }
        return names;
    }
    let all: Vec<usize> = (0..model.cubes.len()).collect();
    let mut cubes = if random.chance(12) { random.some(&all, 2, 3) } else { vec![random.pick(&all)] };
    if cubes.len() == 1 {
        // What a cube reaches, few of it.
        let mut reached = cubes.clone();
        let mut at = 0;
        while at < reached.len() {
            for join in &model.cubes[reached[at]].joins {
                if !reached.contains(&join.to) {
                    reached.push(join.to);
                }
            }
            at += 1;
        }
        cubes.extend(random.some(&reached[1..], 0, 3));
    }
    for cube in cubes {
        let owner = &model.cubes[cube];
        let members = owner.dimensions.iter().map(|d| &d.name).chain(owner.measures.iter().map(|m| &m.name));
        for name in members.chain(owner.segments.iter().map(|s| &s.0)) {
            names.add(model, cube, name, format!("{}.{name}", owner.name));
        }
    }
    names
}

impl Names {
    fn add(&mut self, model: &Model, cube: usize, name: &str, called: String) {
        let cube = &model.cubes[cube];
        if let Some(dimension) = cube.dimension(name) {
            if dimension.kind == Kind::Time {
                let custom = dimension.granularities.iter().map(|granularity| granularity.name.to_owned());
                self.times.push((called.clone(), custom.collect()));
            }
            self.dimensions.push((called, dimension.kind));
        } else if let Some(measure) = cube.measure(name) {
            self.measures.push(called.clone());
            if measure.special != Special::No || measure.name == "growth" {
                self.special.push(called.clone());
            }
            // Some come up more often.
            if matches!(measure.agg, Agg::Sum | Agg::Count) {
                self.measures.push(called);
            }
        } else {
            self.segments.push(called);
        }
    }
}

fn times(names: &Names, random: &mut Random) -> Vec<Value> {
    const STANDARD: [&str; 8] = ["second", "minute", "hour", "day", "week", "month", "quarter", "year"];
    let mut times = Vec::new();
    let standard = if names.windows { &STANDARD[3..] } else { &STANDARD[..] };
    for (name, custom) in random.some(&names.times, usize::from(names.windows), 2) {
        let mut time = json!({"dimension": name});
        if names.windows && random.chance(75) || random.chance(65) {
            let own = !custom.is_empty() && random.chance(50);
            let granularity = if own { random.pick(&custom) } else { random.pick(standard).to_owned() };
            time["granularity"] = json!(granularity);
        }
        if time.get("granularity").is_none() || random.chance(60) {
            time["dateRange"] = range(random);
        }
        times.push(time);
    }
    times
}

fn day(random: &mut Random) -> String {
    if random.chance(40) {
        return random.pick(&EDGES).to_owned();
    }
    quarry::time::format_local(micros(FIRST) + random.between(0, DAYS) * DAY)[..10].to_owned()
}

fn two_days(random: &mut Random) -> (String, String) {
    let (one, other) = (day(random), day(random));
    (one.clone().min(other.clone()), one.max(other))
}

fn range(random: &mut Random) -> Value {
    let (from, to) = two_days(random);
    match random.between(0, 10) {
        0..6 => json!([from, to]),
        6..8 => json!([format!("{}-01", &from[..7]), format!("{}-28", &to[..7])]),
        // No times that clocks skip or repeat.
        8 => json!([format!("{from}T10:17:00"), format!("{to}T23:10:30.500")]),
        _ => json!([from]),
    }
}

fn filters(names: &Names, random: &mut Random) -> Vec<Value> {
    let mut filters: Vec<Value> = Vec::new();
    for _ in 0..random.pick(&[0, 0, 0, 1, 1, 2]) {
        // A view may have measures alone.
        if !names.dimensions.is_empty() {
            filters.push(tree(names, random, 2));
        }
    }
    if random.chance(10) {
        let measure = random.pick(&names.measures);
        filters.push(leaf(&measure, Kind::Number, random));
    }
    filters
}

fn tree(names: &Names, random: &mut Random, depth: u32) -> Value {
    if depth == 0 || random.chance(70) {
        let (name, kind) = random.pick(&names.dimensions);
        return leaf(&name, kind, random);
    }
    let parts: Vec<Value> = (0..random.between(1, 4)).map(|_| tree(names, random, depth - 1)).collect();
    json!({random.pick(&["and", "or"]): parts})
}

fn leaf(name: &str, kind: Kind, random: &mut Random) -> Value {
    if random.chance(10) {
        return json!({"member": name, "operator": random.pick(&["set", "notSet"])});
    }
    let equal = ["equals", "notEquals"];
    let (operator, mut values): (&str, Vec<Value>) = match kind {
        Kind::Text => {
            let likes = ["contains", "notContains", "startsWith", "notStartsWith", "endsWith", "notEndsWith"];
            if random.chance(60) {
                (random.pick(&equal), vec![json!(word(random)), json!(word(random))])
            } else {
                let part: String = word(random).chars().skip(1).take(2).collect();
                (random.pick(&likes), vec![json!(part), json!(word(random))])
            }
        }
        Kind::Number => {
            let numbers = ["0", "-5", "100", "99.99", "3", "17", "-12.5", "1"];
            let operator = random.pick(&["equals", "notEquals", "gt", "gte", "lt", "lte"]);
            (operator, vec![json!(random.pick(&numbers)), json!(random.pick(&numbers))])
        }
        Kind::Boolean => (random.pick(&equal), vec![json!(random.pick(&["true", "false"]))]),
        Kind::Time => {
            let (from, to) = two_days(random);
            let one = ["beforeDate", "beforeOrOnDate", "afterDate", "afterOrOnDate", "onTheDate"];
            if random.chance(60) {
                (random.pick(&one), vec![json!(from)])
            } else {
                (random.pick(&["inDateRange", "notInDateRange"]), vec![json!(from), json!(to)])
            }
        }
    };
    if kind != Kind::Time && random.chance(60) {
        values.truncate(1);
    }
    if kind != Kind::Time && !operator.starts_with(['g', 'l']) && random.chance(10) {
        values.push(Value::Null);
    }
    json!({"member": name, "operator": operator, "values": values})
}

fn word(random: &mut Random) -> &'static str {
    if random.chance(60) { random.pick(&WORDS) } else { random.pick(&TEXTS) }
}

/// An order, or none; with a limit always one that no rows tie in.
fn order(query: &mut Value, measures: &[String], random: &mut Random) {
    let mut keys = random.shuffled(crate::answers::group_columns(query));
    let limited = random.chance(20);
    if limited || random.chance(30) {
        if !measures.is_empty() && random.chance(50) {
            keys.insert(0, random.pick(measures));
        }
        let pairs: Vec<(String, &str)> = keys.into_iter().map(|key| (key, random.pick(&["asc", "desc"]))).collect();
        query["order"] = json!(pairs);
    }
    if limited {
        query["limit"] = json!(random.between(0, 20));
        query["offset"] = json!(random.between(0, 6));
    }
}
