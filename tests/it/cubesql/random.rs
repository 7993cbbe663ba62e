//! Random SQL over cubes gives what the engine computes of the same SQL over a table of the joined rows, or is refused
//! in words.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use quarry::engine::partition_table::tables_catalog;
use quarry::engine::{Engine, EngineOptions};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::server::{Project, Server, environment};

const CASES: usize = 300;
const SEED: u64 = 7;
const ROWS: usize = 160;
/// What is added up from groups that are too small is refused so.
const REFUSAL: &str = "cannot be put together from smaller groups";
/// Of joined cubes no measure counts the rows.
const COUNTS: &str = "COUNT(*) beside measures is for one cube";

/// A project, and its joined rows.
fn data(random: &mut ChaCha8Rng) -> (Project, RecordBatch) {
    let project = Project::copy("sql");
    let cities = ["Rome", "Oslo", "Rome", "Lima", "oslo"];
    let customers: String = cities
        .iter()
        .enumerate()
        .fold("id,city,credit\n".to_owned(), |text, (id, city)| format!("{text}{},{city},{}\n", id + 1, id * 10));
    project.write("data/customers.csv", &customers);
    let mut csv = "id,customer_id,status,amount,paid,created_at,note\n".to_owned();
    let (mut ids, mut buyers, mut states, mut amounts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut paids, mut times, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for id in 1..=ROWS {
        let buyer = random.random_range(1..=cities.len());
        let state = [Some("open"), Some("Open"), Some("done"), Some("a%b"), None][random.random_range(0..5)];
        let amount = f64::from(random.random_range(-40..400)) * 0.25;
        let paid = [Some(true), Some(false), None][random.random_range(0..3)];
        let minutes: i64 = random.random_range(0..366 * 24 * 60);
        let micros = 1_704_067_200_000_000 + minutes * 60_000_000;
        let time = quarry::time::format_local(micros);
        let written = paid.map(|paid| paid.to_string()).unwrap_or_default();
        writeln!(csv, "{id},{buyer},{},{amount},{written},{time},x", state.unwrap_or_default()).expect("a text");
        ids.push(i64::try_from(id).expect("a small number"));
        buyers.push(i64::try_from(buyer).expect("a small number"));
        states.push(state);
        amounts.push(amount);
        paids.push(paid);
        times.push(micros);
        places.push(cities[buyer - 1]);
    }
    project.write("data/orders.csv", &csv);
    let large: BooleanArray = amounts.iter().map(|amount| Some(*amount >= 50.0)).collect();
    let columns: [(&str, ArrayRef); 8] = [
        ("id", Arc::new(Int64Array::from(ids))),
        ("customer_id", Arc::new(Int64Array::from(buyers))),
        ("status", Arc::new(StringArray::from(states))),
        ("amount", Arc::new(Float64Array::from(amounts))),
        ("paid", Arc::new(BooleanArray::from(paids))),
        ("createdAt", Arc::new(TimestampMicrosecondArray::from(times))),
        ("city", Arc::new(StringArray::from(places))),
        ("large", Arc::new(large)),
    ];
    (project, RecordBatch::try_from_iter(columns).expect("columns of one length"))
}

/// A text for cubes, and the same for joined rows.
#[derive(Debug, Clone)]
struct Pair(String, String);

impl Pair {
    fn same(text: &str) -> Self {
        Self(text.to_owned(), text.to_owned())
    }
}

fn pick<'t>(random: &mut ChaCha8Rng, texts: &[&'t str]) -> &'t str {
    texts[random.random_range(0..texts.len())]
}

fn group(random: &mut ChaCha8Rng, joined: bool) -> Pair {
    if joined && random.random_ratio(1, 3) {
        return Pair("c.city".to_owned(), "o.city".to_owned());
    }
    Pair::same(pick(
        random,
        &[
            "o.status",
            "o.paid",
            "o.large",
            "date_trunc('month', o.\"createdAt\")",
            "date_trunc('week', o.\"createdAt\")",
            "lower(o.status)",
            "extract(month FROM o.\"createdAt\")",
            "CASE WHEN o.paid THEN 'paid' ELSE o.status END",
            "'x'",
        ],
    ))
}

fn measure(random: &mut ChaCha8Rng) -> Pair {
    let pairs = [
        ("MEASURE(o.count)", "COUNT(*)"),
        ("COUNT(*)", "COUNT(*)"),
        ("SUM(o.total)", "SUM(o.amount)"),
        ("MEASURE(o.mean)", "AVG(o.amount)"),
        ("MIN(o.least)", "MIN(o.amount)"),
        ("MAX(o.greatest)", "MAX(o.amount)"),
        ("COUNT(DISTINCT o.buyers)", "COUNT(DISTINCT o.customer_id)"),
        ("MEASURE(o.total) / MEASURE(o.count)", "SUM(o.amount) / COUNT(*)"),
    ];
    let (cube, plain) = pairs[random.random_range(0..pairs.len())];
    Pair(cube.to_owned(), plain.to_owned())
}

fn condition(random: &mut ChaCha8Rng, joined: bool, depth: usize) -> Pair {
    if depth > 0 && random.random_ratio(1, 3) {
        let (left, right) = (condition(random, joined, depth - 1), condition(random, joined, depth - 1));
        let word = pick(random, &["AND", "OR"]);
        return Pair(format!("({} {word} {})", left.0, right.0), format!("({} {word} {})", left.1, right.1));
    }
    if depth > 0 && random.random_ratio(1, 5) {
        let inner = condition(random, joined, depth - 1);
        return Pair(format!("NOT ({})", inner.0), format!("NOT ({})", inner.1));
    }
    if joined && random.random_ratio(1, 4) {
        return Pair("c.city = 'Rome'".to_owned(), "o.city = 'Rome'".to_owned());
    }
    Pair::same(pick(
        random,
        &[
            "o.status = 'open'",
            "o.status <> 'open'",
            "o.status IN ('done', 'a%b')",
            "o.status NOT IN ('done', 'x')",
            "o.status IS NULL",
            "o.status ILIKE '%OPE%'",
            "o.status LIKE '%pen'",
            "o.status LIKE '%a\\%b%'",
            "o.status NOT ILIKE 'o%'",
            "o.status > 'd'",
            "o.amount > 20.5",
            "o.amount BETWEEN 0 AND 50",
            "o.amount NOT BETWEEN 0 AND 50",
            "30 >= o.amount",
            "o.paid",
            "NOT o.paid",
            "o.paid IS NOT TRUE",
            "o.paid IS NULL",
            "o.large",
            "o.\"createdAt\" >= '2024-03-01'",
            "o.\"createdAt\" < '2024-09-15T12:30:00'",
            "o.\"createdAt\" > '2024-02-01' AND o.\"createdAt\" <= '2024-10-01'",
            "o.\"createdAt\" BETWEEN '2024-02-01' AND '2024-05-01'",
            "date_trunc('month', o.\"createdAt\") = '2024-04-01'",
            "date_trunc('quarter', o.\"createdAt\") > '2024-02-10'",
            "CAST(o.\"createdAt\" AS DATE) <= DATE '2024-06-30'",
            "extract(month FROM o.\"createdAt\") = 3",
            "length(o.status) = 4",
            "o.status = lower(o.status)",
        ],
    ))
}

/// A statement whose order is that of all its columns.
fn statement(random: &mut ChaCha8Rng) -> Pair {
    let joined = random.random_ratio(1, 4);
    let from = match (joined, random.random::<bool>()) {
        (false, _) => "orders o",
        (true, false) => "orders o CROSS JOIN customers c",
        (true, true) => "orders o LEFT JOIN customers c ON o.__cubeJoinField = c.__cubeJoinField",
    };
    let filter = random.random_ratio(2, 3).then(|| condition(random, joined, 2));
    let filter =
        filter.map_or(Pair::same(""), |Pair(cube, plain)| Pair(format!(" WHERE {cube}"), format!(" WHERE {plain}")));
    if random.random_ratio(1, 5) {
        // Rows and aggregates of rows.
        let what = pick(
            random,
            &[
                "o.id, o.status, o.amount",
                "SUM(o.amount), COUNT(o.paid), MAX(o.\"createdAt\")",
                "DISTINCT o.status, o.paid",
                "COUNT(DISTINCT o.status), MIN(o.amount)",
                "o.id, SUM(o.amount) OVER (PARTITION BY o.status ORDER BY o.id)",
            ],
        );
        let order = if what.starts_with("SUM") || what.starts_with("COUNT") { "" } else { " ORDER BY 1, 2" };
        return Pair(
            format!("SELECT {what} FROM {from}{}{order}", filter.0),
            format!("SELECT {what} FROM j o{}{order}", filter.1),
        );
    }
    let groups: Vec<Pair> = (0..random.random_range(0..3)).map(|_| group(random, joined)).collect();
    let mut items: Vec<Pair> = groups.clone();
    items.extend((0..random.random_range(1..3)).map(|_| measure(random)));
    let names = |cube: bool| {
        let named = items.iter().enumerate();
        let text = named.map(|(at, item)| format!("{} AS x{at}", if cube { &item.0 } else { &item.1 }));
        text.collect::<Vec<_>>().join(", ")
    };
    let keys: Vec<String> = (1..=groups.len()).map(|at| at.to_string()).collect();
    let by = if keys.is_empty() { String::new() } else { format!(" GROUP BY {}", keys.join(", ")) };
    let having = random.random_ratio(1, 4).then(|| measure(random));
    let having = having.map_or(Pair::same(""), |Pair(cube, plain)| {
        Pair(format!(" HAVING {cube} > 3"), format!(" HAVING {plain} > 3"))
    });
    let order: Vec<String> = (1..=items.len()).map(|at| format!("{at}{}", pick(random, &["", " DESC"]))).collect();
    let cut = if random.random_ratio(1, 4) { " LIMIT 3 OFFSET 1" } else { "" };
    let tail = format!(" ORDER BY {}{cut}", order.join(", "));
    let cube = format!("SELECT {} FROM {from}{}{by}{}{tail}", names(true), filter.0, having.0);
    let plain = format!("SELECT {} FROM j o{}{by}{}{tail}", names(false), filter.1, having.1);
    if random.random_ratio(1, 5) {
        let last = items.len() - 1;
        let outer = |inner: &str| format!("SELECT COUNT(*), SUM(x{last}), MIN(x{last}) FROM ({inner}) q");
        return Pair(outer(&cube), outer(&plain));
    }
    Pair(cube, plain)
}

/// Cells as texts.
fn expected(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("null").with_timestamp_format(Some("%Y-%m-%dT%H:%M:%S%.3f"));
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).expect("a text")).collect();
        rows.extend(
            (0..batch.num_rows()).map(|row| columns.iter().map(|column| column.value(row).to_string()).collect()),
        );
    }
    rows
}

/// Rows of an answer, or its error.
fn given(server: &Server, sql: &str) -> Result<Vec<Vec<String>>, String> {
    let reply = server.post("/cubejs-api/v1/cubesql", &json!({ "query": sql }));
    let mut rows = Vec::new();
    for line in reply.body.lines() {
        let line: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        if let Some(error) = line["error"].as_str() {
            return Err(error.to_owned());
        }
        for row in line["data"].as_array().into_iter().flatten() {
            let cell = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
            rows.push(row.as_array().into_iter().flatten().map(cell).collect());
        }
    }
    Ok(rows)
}

fn equal(left: &str, right: &str) -> bool {
    match (left.parse::<f64>(), right.parse::<f64>()) {
        (Ok(left), Ok(right)) => (left - right).abs() <= 1e-9 * left.abs().max(right.abs()).max(1.0),
        _ => left == right,
    }
}

#[test]
fn random_statements_are_answered_as_over_joined_rows() {
    let seed = environment("QUARRY_SEED").and_then(|text| text.parse().ok()).unwrap_or(SEED);
    let cases = environment("QUARRY_CASES").and_then(|text| text.parse().ok()).unwrap_or(CASES);
    eprintln!("SQL seed {seed} (QUARRY_SEED), {cases} cases (QUARRY_CASES)");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (project, joined) = data(&mut random);
    let server = Server::start(&project);
    let engine = Engine::new(EngineOptions { memory_bytes: 256 << 20, cores: 2 }).expect("an engine");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut refused = 0;
    for case in 0..cases {
        let Pair(cube, plain) = statement(&mut random);
        let table = MemTable::try_new(joined.schema(), vec![vec![joined.clone()]]).expect("a table");
        let catalog = tables_catalog(vec![("j".to_owned(), Arc::new(table) as _)]);
        let wanted = runtime.block_on(engine.collect(plain.clone(), catalog));
        let wanted = wanted.unwrap_or_else(|error| panic!("seed {seed}, case {case}: {plain}: {error}"));
        let wanted = expected(&wanted.batches);
        match given(&server, &cube) {
            Err(text) if text.contains(REFUSAL) => refused += 1,
            Err(text) if text.contains(COUNTS) && cube.contains(" JOIN ") => refused += 1,
            Err(text) => panic!("seed {seed}, case {case}\n{cube}\n{text}"),
            Ok(rows) => {
                let same = rows.len() == wanted.len()
                    && rows.iter().zip(&wanted).all(|(left, right)| {
                        left.len() == right.len() && left.iter().zip(right).all(|(left, right)| equal(left, right))
                    });
                assert!(same, "seed {seed}, case {case}\n{cube}\n{plain}\ngiven:  {rows:?}\nwanted: {wanted:?}");
            }
        }
    }
    eprintln!("{refused} of {cases} refused");
    assert!(refused * 4 <= cases, "{refused} of {cases} were refused");
    server.assert_alive();
}
