//! Acceptance 3, first half: generated queries get the same answer with rollups and without.

use serde_json::{Value, json};

use crate::answers::{Numbers, RowOrder, compare_rows};
use crate::events::selector;
use crate::generate::{Generator, ZONES, simpler};
use crate::server::{Project, Server, environment};

const CASES: usize = 400;
const SEED: u64 = 42;
/// Measures that divide: equal up to rounding.
const DIVIDED: [&str; 5] =
    ["orders.mean", "orders.returned_share", "orders.count_per_buyer", "line_items.mean_price", "products.mean_weight"];
/// Measures of which rollups store states.
const STATES: [&str; 11] = [
    "orders.buyers",
    "orders.buyers_about",
    "orders.amounts",
    "orders.moments",
    "orders.names_of_returned",
    "line_items.products_sold",
    "line_items.weights",
    "line_items.statuses_about",
    "customers.cities",
    "orders.about_median",
    "line_items.about_price",
];

/// The project with data of a seed.
pub(crate) fn property_project(seed: u64) -> Project {
    let project = Project::copy("property");
    Generator::new(seed).write_data(&project);
    project
}

/// One server with rollups, one that has never heard of them, over equal data.
struct Pair {
    with: Server,
    without: Server,
    _projects: [Project; 2],
}

/// What one case showed.
struct Seen {
    succeeded: bool,
    used: bool,
}

impl Pair {
    fn start(seed: u64) -> Self {
        let projects = [property_project(seed), property_project(seed)];
        projects[1].drop_rollups();
        let with = Server::start_with_jobs(&projects[0]);
        let jobs = with.build(&selector(&json!({"timezones": ZONES})));
        eprintln!("{jobs} partitions built");
        Self { with, without: Server::start(&projects[1]), _projects: projects }
    }

    /// Asks both; the text says what differs.
    fn ask(&self, query: &Value) -> Result<Seen, String> {
        let (left, right) = (self.without.ask(query), self.with.ask(query));
        if left.status != right.status {
            return Err(format!("statuses {} and {}\n{}\n{}", left.status, right.status, left.body, right.body));
        }
        let (left, right) = (left.value(), right.value());
        let rows = |answer: &Value| answer["data"].as_array().cloned();
        let answers = || format!("\nsource: {left}\nrollup: {right}");
        let (Some(expected), Some(given)) = (rows(&left), rows(&right)) else {
            let same = left["error"] == right["error"];
            return if same { Ok(Seen { succeeded: false, used: false }) } else { Err(answers()) };
        };
        let numbers = |column: &str| if DIVIDED.contains(&column) { Numbers::Close } else { Numbers::Exact };
        compare_rows(&expected, &given, &RowOrder::of(query), &numbers).map_err(|text| text + &answers())?;
        for key in ["total", "query", "annotation"] {
            if left[key] != right[key] {
                return Err(format!("{key} differs{}", answers()));
            }
        }
        if left.get("usedPreAggregations").is_some() {
            return Err(format!("a rollup out of nowhere{}", answers()));
        }
        Ok(Seen { succeeded: true, used: right.get("usedPreAggregations").is_some() })
    }

    /// A simpler query that still differs, and how.
    fn shrink(&self, query: &Value, difference: String) -> (Value, String) {
        let (mut query, mut difference) = (query.clone(), difference);
        for _ in 0..30 {
            let smaller = simpler(&query).into_iter().find_map(|candidate| {
                let text = self.ask(&candidate).err()?;
                Some((candidate, text))
            });
            match smaller {
                Some(found) => (query, difference) = found,
                None => break,
            }
        }
        (query, difference)
    }
}

#[test]
fn answers_are_the_same_with_rollups_and_without() {
    let seed = environment("QUARRY_SEED").and_then(|text| text.parse().ok()).unwrap_or(SEED);
    let cases = environment("QUARRY_CASES").and_then(|text| text.parse().ok()).unwrap_or(CASES);
    eprintln!("property seed {seed} (QUARRY_SEED), {cases} cases (QUARRY_CASES)");
    let pair = Pair::start(seed);
    let mut generator = Generator::new(seed ^ 0x5eed);
    let (mut used, mut failed) = (0, 0);
    let mut used_in_zone = [0; ZONES.len()];
    let mut used_for = [0; STATES.len()];
    for case in 0..cases {
        let query = generator.query();
        match pair.ask(&query) {
            Ok(seen) => {
                failed += usize::from(!seen.succeeded);
                used += usize::from(seen.used);
                let zone = ZONES.iter().position(|zone| query["timezone"] == *zone);
                zone.filter(|_| seen.used).into_iter().for_each(|zone| used_in_zone[zone] += 1);
                let asked =
                    |measure: &str| query["measures"].as_array().is_some_and(|all| all.contains(&json!(measure)));
                let states = STATES.iter().zip(&mut used_for).filter(|(measure, _)| seen.used && asked(measure));
                states.for_each(|(_, used)| *used += 1);
            }
            Err(difference) => {
                let (smaller, difference) = pair.shrink(&query, difference);
                panic!("seed {seed}, case {case}\nquery: {query}\nshrunk: {smaller}\n{difference}");
            }
        }
    }
    pair.with.assert_alive();
    pair.without.assert_alive();
    eprintln!("{used} of {cases} answered from rollups, {used_in_zone:?} by zone; {failed} refused alike");
    assert!(used * 4 >= cases, "only {used} of {cases} cases used a rollup");
    assert!(used_in_zone.iter().all(|used| *used > 0), "a zone was never served: {used_in_zone:?}");
    eprintln!("states read: {:?}", STATES.iter().zip(used_for).collect::<Vec<_>>());
    assert!(used_for.iter().all(|used| *used > 0 || cases < CASES), "states that were never read: {used_for:?}");
    assert!(failed * 20 <= cases, "{failed} of {cases} cases were refused");
}
