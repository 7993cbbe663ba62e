//! Random models and queries are answered as another SQL engine answers SQL that is derived from the definitions of
//! the data model alone.
//!
//! [`world`] makes models with their tables, [`queries`] asks of them. [`tree`], [`derive`] and [`special`] say what
//! the answer is; they share nothing with the planner. `QUARRY_SEED` and `QUARRY_CASES` make longer runs.

mod ask;
mod derive;
mod expression;
mod model;
mod queries;
pub(crate) mod random;
mod special;
mod tree;
mod world;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use self::derive::derive;
use self::random::Random;
use self::tree::Refusal;
use self::world::World;
use crate::duckdb::{check, second_opinion};
use crate::generate::simpler;
use crate::server::{Project, Server, environment};

const CASES: usize = 2_000;
const SEED: u64 = 42;
/// Queries over one model.
const A_MODEL: usize = 80;
/// A fault of the other engine's own optimiser, in about one case of a thousand.
const ENGINE_FAULT: &str = "BindBuiltinScalarFunction did not return";
/// Differences that are shrunk and shown.
const SHOWN: usize = 5;

/// What is expected of a query.
#[derive(Debug, Clone)]
enum Expected {
    /// The answer of this SQL.
    Sql { sql: String, close: Vec<String> },
    /// No answer, since the cubes do not join.
    NoPath,
}

#[derive(Debug, Clone)]
struct Case {
    model: usize,
    query: Value,
    expected: Expected,
}

/// A model with its server.
struct Place {
    world: World,
    project: Project,
    server: Server,
}

fn setting(name: &str) -> Option<u64> {
    environment(name).and_then(|text| text.parse().ok())
}

impl Case {
    /// None when the data model does not decide the answer.
    fn new(model: usize, place: &World, query: Value) -> Option<Self> {
        let expected = match derive(&place.model, &query) {
            Ok(derived) => Expected::Sql { sql: derived.sql, close: derived.close },
            Err(Refusal::NoPath) => Expected::NoPath,
            Err(Refusal::Open(_)) => return None,
        };
        Some(Self { model, query, expected })
    }
}

/// What the other engine says to each case.
fn opinions(places: &[Place], cases: &[Case]) -> Vec<Value> {
    let projects: BTreeMap<String, &std::path::Path> =
        places.iter().enumerate().map(|(at, place)| (at.to_string(), place.project.path())).collect();
    let asked: Vec<Value> = cases
        .iter()
        .enumerate()
        .filter_map(|(at, case)| match &case.expected {
            Expected::Sql { sql, .. } => {
                Some(json!({"name": at.to_string(), "project": case.model.to_string(), "sql": sql}))
            }
            Expected::NoPath => None,
        })
        .collect();
    let answers = second_opinion(&json!({"projects": projects, "cases": asked}));
    (0..cases.len()).map(|at| answers[at.to_string()].clone()).collect()
}

/// What differs.
fn compare(places: &[Place], case: &Case, opinion: &Value) -> Result<(), String> {
    let server = &places[case.model].server;
    match &case.expected {
        Expected::Sql { sql, close } => {
            let error = opinion["error"].as_str();
            if let Some(error) = error.filter(|error| !error.contains(ENGINE_FAULT)) {
                return Err(format!("the derived SQL does not run: {error}\nsql: {sql}"));
            }
            if error.is_some() {
                return Ok(());
            }
            let given = json!({"query": case.query, "close": close});
            check(server, &given, opinion).map_err(|text| format!("{text}\nsql: {sql}\nanswer: {opinion}"))
        }
        Expected::NoPath => {
            let reply = server.ask(&case.query);
            let refused = reply.status == 400 && reply.body.contains("Can't find join path");
            if refused { Ok(()) } else { Err(format!("cubes do not join, but: {} {}", reply.status, reply.body)) }
        }
    }
}

/// [`compare`] for every case, on two threads.
fn compare_all(places: &[Place], cases: &[Case], opinions: &[Value]) -> Vec<Result<(), String>> {
    let half = cases.len() / 2;
    let each = |range: std::ops::Range<usize>| -> Vec<Result<(), String>> {
        range.map(|at| compare(places, &cases[at], &opinions[at])).collect()
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| each(0..half));
        let second = each(half..cases.len());
        let mut all = first.join().expect("comparisons do not panic");
        all.extend(second);
        all
    })
}

/// A simpler case that still differs, and how.
fn shrink(places: &[Place], case: &Case, difference: String) -> (Case, String) {
    let (mut case, mut difference) = (case.clone(), difference);
    for _ in 0..25 {
        let world = &places[case.model].world;
        let candidates: Vec<Case> = simpler(&case.query)
            .into_iter()
            .filter_map(|query| Case::new(case.model, world, query))
            .filter(|candidate| matches!(candidate.expected, Expected::Sql { .. }))
            .collect();
        let opinions = opinions(places, &candidates);
        let smaller = candidates
            .iter()
            .zip(&opinions)
            .find_map(|(candidate, opinion)| Some((candidate.clone(), compare(places, candidate, opinion).err()?)));
        match smaller {
            Some(found) => (case, difference) = found,
            None => break,
        }
    }
    (case, difference)
}

/// Models, and cases over them.
fn prepare(seed: u64, count: usize) -> (Vec<Place>, Vec<Case>) {
    let (mut places, mut cases) = (Vec::new(), Vec::new());
    while cases.len() < count {
        let model = places.len();
        let mut random = Random::new(seed.wrapping_mul(1_000_003).wrapping_add(model as u64));
        let world = World::new(&mut random);
        let project = Project::empty();
        project.write("model/all.yml", &world.model.yaml());
        world.write(project.path(), &mut random);
        for _ in 0..A_MODEL {
            cases.extend(Case::new(model, &world, queries::query(&world.model, &mut random)));
        }
        let server = Server::start_with_jobs(&project);
        server.build(&json!({"contexts": [{"securityContext": {}}], "timezones": ["UTC"]}));
        places.push(Place { world, project, server });
    }
    cases.truncate(count);
    (places, cases)
}

/// Prints some differences, made small, and the models that they are about.
fn report(places: &[Place], wrong: &[(&Case, String)]) {
    let shown = &wrong[..wrong.len().min(SHOWN)];
    for (case, difference) in shown {
        let (small, text) = shrink(places, case, difference.clone());
        eprintln!("--- model {}\nquery: {}\nshrunk: {}\n{text}", case.model, case.query, small.query);
        let server = &places[case.model].server;
        eprintln!("given: {}", server.ask(&small.query).body);
        let sql = server.post("/cubejs-api/v1/sql", &json!({"query": small.query}));
        eprintln!("by: {}\n", sql.value()["sql"]["sql"]);
    }
    let models: std::collections::BTreeSet<usize> = shown.iter().map(|(case, _)| case.model).collect();
    for model in models {
        eprintln!("--- file of model {model}\n{}", places[model].world.model.yaml());
    }
}

/// Every kind of question comes up.
fn assert_coverage(cases: &[Case]) {
    let kinds = [
        ("joins", " LEFT JOIN \"", 5),
        ("windows by buckets", "series AS", 30),
        ("several facts, windows or moved times", "p1 AS", 30),
        ("sub-query dimensions", "\"sub ", 30),
        ("views", "AS \"view", 30),
        ("buckets of one's own", "SELECT max(s) FROM", 100),
        ("composite keys", "k0_1", 30),
    ];
    for (name, mark, share) in kinds {
        let has = |case: &&Case| matches!(&case.expected, Expected::Sql { sql, .. } if sql.contains(mark));
        let found = cases.iter().filter(has).count();
        eprintln!("{name}: {found}");
        assert!(found * share >= cases.len(), "only {found} of {} cases have {name}", cases.len());
    }
}

#[test]
fn random_models_are_answered_as_another_engine_answers_their_definitions() {
    let seed = setting("QUARRY_SEED").unwrap_or(SEED);
    let count = setting("QUARRY_CASES").and_then(|count| usize::try_from(count).ok()).unwrap_or(CASES);
    eprintln!("differential seed {seed} (QUARRY_SEED), {count} cases (QUARRY_CASES)");
    let (places, cases) = prepare(seed, count);
    let opinions = opinions(&places, &cases);
    let mut wrong = Vec::new();
    let (mut refused, mut rows) = (0, 0);
    for ((case, opinion), difference) in cases.iter().zip(&opinions).zip(compare_all(&places, &cases, &opinions)) {
        refused += usize::from(matches!(case.expected, Expected::NoPath));
        rows += usize::from(opinion["rows"].as_array().is_some_and(|rows| !rows.is_empty()));
        if let Err(difference) = difference {
            wrong.push((case, difference));
        }
    }
    let undecided = opinions.iter().filter(|opinion| opinion["error"].is_string()).count();
    eprintln!(
        "{} models, {rows} cases with rows, {refused} refused alike, {undecided} undecided, {} differ",
        places.len(),
        wrong.len()
    );
    report(&places, &wrong);
    places.iter().for_each(|place| place.server.assert_alive());
    assert_coverage(&cases);
    assert!(wrong.is_empty(), "seed {seed}: {} of {count} cases differ", wrong.len());
    assert!(undecided * 100 <= count, "{undecided} of {count} cases are not answered by the other engine");
    assert!(rows * 2 > count, "only {rows} of {count} cases have rows");
    assert!(refused * 5 < count, "{refused} of {count} cases are refused");
}
