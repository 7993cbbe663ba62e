//! A small model for unit tests, made by hand: `orders` (with a hidden key, a segment, a rolling
//! measure) and `users`, which is not public.

use std::path::PathBuf;

use crate::model::cube::Shown;
use crate::model::granularity::{CustomGranularity, GranularityKind, Written};
use crate::model::refresh_key::{Every, Schedule, TimeKey};
use crate::model::stage::{Extent, RollingWindow, WindowOffset};
use crate::model::{
    AggKind, Cube, CubeId, CubeSource, DataType, Dimension, DimensionId, DimensionKind, Location, Measure, MeasureId,
    MeasureKind, MemberId, Model, Part, Preagg, PreaggId, PreaggKind, PreaggTime, RefreshKey, Segment, SegmentId,
    Template,
};
use crate::time::{Granularity, Interval};

fn location() -> Location {
    Location { file: PathBuf::from("model/cubes/orders.yml"), line: 1, column: 1 }
}

fn sql(text: &str) -> Template {
    Template { parts: vec![Part::Text(text.to_owned())] }
}

fn dimension(cube: CubeId, index: u32, name: &str, title: &str, data_type: DataType) -> Dimension {
    Dimension {
        id: DimensionId { cube, index },
        name: name.to_owned(),
        short_title: title.to_owned(),
        description: None,
        format: None,
        meta: None,
        public: true,
        primary_key: false,
        suggest_filter_values: true,
        data_type,
        kind: DimensionKind::Sql(sql(name)),
        granularities: Vec::new(),
        offered: None,
        mask: None,
        shown: Shown::default(),
        shifts: Vec::new(),
        location: location(),
    }
}

fn measure(cube: CubeId, index: u32, name: &str, title: &str, kind: MeasureKind) -> Measure {
    Measure {
        id: MeasureId { cube, index },
        name: name.to_owned(),
        short_title: title.to_owned(),
        description: None,
        format: None,
        meta: None,
        public: true,
        kind,
        filters: Vec::new(),
        drill_filters: Vec::new(),
        drill_members: Vec::new(),
        cumulative: false,
        rolling: None,
        stage: None,
        mask: None,
        shown: Shown::default(),
        location: location(),
    }
}

fn cube(id: CubeId, name: &str, title: &str) -> Cube {
    Cube {
        id,
        name: name.to_owned(),
        sql_alias: None,
        title: title.to_owned(),
        description: None,
        public: true,
        meta: None,
        data_source: "default".to_owned(),
        extends: None,
        refresh_key: None,
        source: CubeSource::Table(sql(name)),
        calendar: false,
        joins: Vec::new(),
        measures: Vec::new(),
        dimensions: Vec::new(),
        segments: Vec::new(),
        hierarchies: Vec::new(),
        preaggs: Vec::new(),
        policies: Vec::new(),
        location: location(),
    }
}

/// The model.
pub(crate) fn model() -> Model {
    Model::new(7, vec![orders(), users()])
}

fn orders() -> Cube {
    let id = CubeId(0);
    let mut orders = cube(id, "orders", "Orders");
    let mut key = dimension(id, 0, "id", "ID", DataType::Number);
    key.primary_key = true;
    key.public = false;
    let mut created = dimension(id, 2, "created_at", "Created at", DataType::Time);
    created.granularities = vec![CustomGranularity {
        name: "fiscal_year".to_owned(),
        title: "Fiscal year".to_owned(),
        format: None,
        kind: GranularityKind::Moved { unit: Granularity::Year, offset: Interval { months: 1, micros: 0 } },
        written: Written { interval: Some("1 year".to_owned()), offset: Some("1 month".to_owned()), origin: None },
    }];
    let mut amount = dimension(id, 3, "amount", "Amount", DataType::Number);
    amount.format = Some(serde_json::json!("currency"));
    orders.dimensions = vec![
        key,
        dimension(id, 1, "status", "Status", DataType::String),
        created,
        amount,
        dimension(id, 4, "paid", "Paid", DataType::Boolean),
    ];
    let mut count = measure(id, 0, "count", "Count", MeasureKind::Aggregate { agg: AggKind::Count, sql: None });
    count.drill_members = vec![MemberId::Dimension(DimensionId { cube: id, index: 1 })];
    let sum = MeasureKind::Aggregate { agg: AggKind::Sum, sql: Some(sql("amount")) };
    let last = MeasureKind::Calculated { data_type: DataType::Time, sql: sql("MAX(created_at)") };
    let mut running = measure(id, 3, "running", "Running", MeasureKind::Aggregate { agg: AggKind::Count, sql: None });
    running.cumulative = true;
    running.rolling =
        Some(RollingWindow::Fixed { trailing: Extent::Unbounded, leading: Extent::NONE, offset: WindowOffset::End });
    orders.measures = vec![count, measure(id, 1, "total", "Total", sum), measure(id, 2, "last", "Last", last), running];
    orders.segments = vec![Segment {
        id: SegmentId { cube: id, index: 0 },
        name: "open".to_owned(),
        short_title: "Open".to_owned(),
        description: None,
        meta: None,
        public: true,
        sql: Template { parts: vec![Part::Cube(id), Part::Text(".status = 'open'".to_owned())] },
        location: location(),
    }];
    orders.preaggs = vec![rollup(id)];
    orders
}

fn rollup(cube: CubeId) -> Preagg {
    Preagg {
        id: PreaggId { cube, index: 0 },
        name: "main".to_owned(),
        kind: PreaggKind::Rollup,
        measures: vec![MeasureId { cube, index: 0 }],
        dimensions: vec![DimensionId { cube, index: 1 }],
        segments: Vec::new(),
        paths: Vec::new(),
        time: Some(PreaggTime::standard(DimensionId { cube, index: 2 }, Granularity::Day)),
        more_times: Vec::new(),
        partition_granularity: Some(Granularity::Month),
        build_range_start: None,
        build_range_end: None,
        refresh_key: Some(RefreshKey::Time(TimeKey {
            schedule: Schedule::Interval(Every { text: "1 hour".to_owned(), seconds: 3_600 }),
            incremental: false,
            update_window: None,
        })),
        scheduled_refresh: true,
        strict: false,
        use_original_sql: false,
        indexes: Vec::new(),
        sql_alias: None,
        external: true,
        location: location(),
    }
}

fn users() -> Cube {
    let id = CubeId(1);
    let mut users = cube(id, "users", "Users");
    users.public = false;
    users.dimensions = vec![dimension(id, 0, "city", "City", DataType::String)];
    users
}
