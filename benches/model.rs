//! How do the times to compile a model and to plan a question grow with the number of members?

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use quarry::model::compile::compile_sources;
use quarry::model::{CompileContext, Model};
use quarry::query::normalize::{Limits, normalize};
use quarry::query::plan::plan;
use quarry::query::policy::Asker;
use quarry::query::request::Request;
use quarry::time::Zone;

/// Members of a cube: 12 dimensions, 12 measures and a segment.
const MEMBERS: usize = 25;
/// The sizes measured, in cubes.
const SIZES: [usize; 4] = [25, 50, 100, 200];

/// One file a cube, in tens that join to a chain, and a view over each ten.
fn files(cubes: usize) -> Vec<(PathBuf, String)> {
    let mut files = Vec::with_capacity(cubes);
    for cube in 0..cubes {
        let mut text = format!("cubes:\n  - name: c{cube}\n    sql_table: t{cube}\n");
        if cube % 10 > 0 {
            let to = cube - 1;
            let _ = writeln!(
                text,
                "    joins:\n      - {{name: c{to}, relationship: many_to_one, sql: \"{{CUBE}}.parent = {{c{to}.id}}\"}}"
            );
        }
        text.push_str("    dimensions:\n      - {name: id, sql: id, type: number, primary_key: true}\n");
        text.push_str("      - {name: at, sql: at, type: time}\n");
        for n in 2..12 {
            let _ =
                writeln!(text, "      - {{name: d{n}, sql: \"upper({{CUBE}}.d{n})\", type: string, title: Name {n}}}");
        }
        text.push_str("    measures:\n      - {name: count, type: count}\n");
        for n in 1..11 {
            let _ = writeln!(
                text,
                "      - {{name: m{n}, sql: \"{{CUBE}}.m{n}\", type: sum, filters: [{{sql: \"{{d3}} = 'x'\"}}]}}"
            );
        }
        text.push_str("      - {name: ratio, sql: \"{m1} * 1.0 / NULLIF({m2}, 0)\", type: number}\n");
        text.push_str("    segments:\n      - {name: big, sql: \"{CUBE}.m1 > 10\"}\n");
        if cube % 10 == 9 {
            let path: Vec<String> = (cube - 9..=cube).rev().map(|n| format!("c{n}")).collect();
            let _ = writeln!(text, "views:\n  - name: v{cube}\n    cubes:");
            for depth in [1, 10] {
                let path = path[..depth].join(".");
                let _ = writeln!(text, "      - {{join_path: {path}, includes: '*', prefix: true}}");
            }
        }
        files.push((PathBuf::from(format!("model/c{cube}.yml")), text));
    }
    files
}

fn compile(files: &[(PathBuf, String)]) -> Model {
    let compiled = compile_sources(black_box(files), &CompileContext::default());
    compiled.unwrap_or_else(|faults| panic!("{}", faults[0])).model
}

/// A question over all ten cubes of the last chain.
fn request(cubes: usize) -> Request {
    let last = cubes - cubes % 10 - 1;
    let texts = |names: &[String]| names.to_vec();
    Request {
        measures: Some(texts(&[format!("c{last}.ratio"), format!("c{}.m1", last - 5)])),
        dimensions: texts(&[format!("c{}.d3", last - 9)]),
        ..Request::default()
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let only_a_test = std::env::args().any(|argument| argument == "--test");
    let limits = Limits {
        default_rows: 100,
        max_rows: 100,
        timezone: Zone::UTC,
        allow_hidden: false,
        ungrouped_without_key: true,
    };
    let mut lines = Vec::new();
    for cubes in SIZES {
        let (files, request) = (files(cubes), request(cubes));
        let model = Arc::new(compile(&files));
        let ask = || {
            let normalized = normalize(black_box(&request), &model, &limits, &Asker::default(), 0);
            plan(&model, &normalized.expect("a good query").query).expect("a plan")
        };
        criterion.bench_with_input(BenchmarkId::new("compile", cubes * MEMBERS), &files, |b, files| {
            b.iter(|| compile(files));
        });
        criterion.bench_function(&format!("plan/{}", cubes * MEMBERS), |b| b.iter(ask));
        if !only_a_test {
            let (compiled, planned) = (median(20, || drop(compile(&files))), median(500, || drop(ask())));
            let per_member = compiled / u32::try_from(cubes * MEMBERS).unwrap_or(1);
            lines.push(format!(
                "{cubes} cubes, {} members: compiled in {compiled:?} ({per_member:?} a member), planned in {planned:?}",
                cubes * MEMBERS
            ));
        }
    }
    criterion.final_summary();
    for line in lines {
        eprintln!("{line}");
    }
}

fn median(runs: usize, mut run: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..runs)
        .map(|_| {
            let started = Instant::now();
            run();
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[runs / 2]
}
