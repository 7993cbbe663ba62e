//! How long does a rollup query take to plan: names to ids, route, plan, statement?

mod project;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use quarry::engine::resident::Resident;
use quarry::engine::{Engine, EngineOptions};
use quarry::model::CompileContext;
use quarry::model::compile::compile_project;
use quarry::query::execute::{QueryService, Schemas, SqlPreview};
use quarry::query::normalize::{Limits, normalize};
use quarry::query::policy::Asker;
use quarry::query::request::{DateRange, FilterLeaf, FilterNode, Operator, Request, TimeDimensionRequest};
use quarry::query::rollups::Rollups;
use quarry::query::serve::{SourceAnswers, SourceOptions};
use quarry::sources::Source;
use quarry::tasks::Tasks;
use quarry::time::{Clock, Zone};
use quarry_storage::{Snapshot, Store, StoreOptions};
use tempfile::TempDir;

/// Everything that planning needs.
struct Bench {
    rollups: Rollups,
    snapshot: Arc<Snapshot>,
    service: QueryService,
    limits: Limits,
    request: Request,
    now: i64,
    _store: Store,
    _dir: TempDir,
}

/// The query of `load.rs`, in parts.
fn request() -> Request {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    Request {
        measures: Some(names(&["orders.revenue", "orders.count"])),
        dimensions: names(&["orders.city"]),
        time_dimensions: vec![TimeDimensionRequest {
            dimension: "orders.created_at".to_owned(),
            granularity: Some("month".to_owned()),
            date_range: Some(DateRange::Bounds(names(&["2024-03-01", "2024-08-31"]))),
            compare_date_range: None,
        }],
        filters: vec![FilterNode::Leaf(FilterLeaf {
            member: "orders.status".to_owned(),
            operator: Operator::Equals,
            values: Some(vec![Some("shipped".to_owned())]),
        })],
        ..Request::default()
    }
}

impl Bench {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        project::write(dir.path());
        project::build(dir.path());
        let compiled = compile_project(dir.path(), &dir.path().join("model"), &CompileContext::default());
        let compiled = compiled.unwrap_or_else(|faults| panic!("{faults:?}"));
        let options = StoreOptions::new(dir.path().join(".quarry"));
        let store = Store::open(options).expect("the store that was built");
        let engine = Engine::new(EngineOptions { memory_bytes: 1 << 30, cores: 2 }).expect("an engine");
        let source = Source::files(dir.path().to_owned(), engine.clone());
        // Nothing is asked of a source here.
        let unused = SourceOptions {
            concurrency: [].into(),
            timeout: Duration::ZERO,
            orphaned: Duration::ZERO,
            greatest_pause: Duration::ZERO,
            background_renew: false,
            result_bytes: 0,
            clock: Clock::System,
        };
        Self {
            rollups: Rollups::new(Arc::new(compiled.model)),
            snapshot: store.snapshot(),
            service: QueryService {
                engine,
                sources: Arc::new([("default".to_owned(), source)].into()),
                rest_bytes: 64 << 20,
                rollup_only: false,
                schemas: Schemas::default(),
                resident: Resident::new(1 << 28),
                answers: SourceAnswers::new(&unused, Tasks::new()),
            },
            limits: Limits {
                default_rows: 10_000,
                max_rows: 50_000,
                timezone: Zone::UTC,
                allow_hidden: false,
                ungrouped_without_key: true,
            },
            request: request(),
            now: Clock::System.now(),
            _store: store,
            _dir: dir,
        }
    }

    fn plan(&self) -> SqlPreview {
        let normalized =
            normalize(black_box(&self.request), self.rollups.model(), &self.limits, &Asker::default(), self.now);
        let query = normalized.expect("a good query").query;
        self.service.preview(&self.rollups, &self.snapshot, &query).expect("a plan")
    }
}

fn main() {
    let bench = Bench::start();
    assert_eq!(bench.plan().used.len(), 1, "the rollup is used");
    let mut criterion = Criterion::default().configure_from_args();
    criterion.bench_function("plan/rollup query", |b| b.iter(|| bench.plan()));
    criterion.bench_function("plan/normalize alone", |b| {
        b.iter(|| {
            normalize(black_box(&bench.request), bench.rollups.model(), &bench.limits, &Asker::default(), bench.now)
        });
    });
    criterion.final_summary();
    if !project::only_a_test() {
        let plan = project::median(2000, || drop(bench.plan()));
        eprintln!("median time to plan a rollup query: {plan:?}");
    }
}
