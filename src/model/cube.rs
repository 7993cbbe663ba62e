//! Cubes and their members, as compiled: references resolved, kinds known, titles generated.

use std::path::PathBuf;

use super::granularity::{CustomGranularity, GranularityKind};
use super::join::Join;
use super::policy::{Mask, Policy};
use super::preagg::Preagg;
use super::refresh_key::RefreshKey;
use super::stage::{GrainMember, MultiStage, RankOrder, RollingWindow, TimeShift};
use super::template::Template;
use super::view::View;
use crate::time::{Granularity, Interval};

/// Names a cube of one [`super::Model`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CubeId(pub(crate) u32);

impl CubeId {
    /// Position in [`super::Model::cubes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

macro_rules! member_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name {
            /// The cube that defines it.
            pub cube: CubeId,
            /// Position in the cube's list of such members.
            pub index: u32,
        }
    };
}
member_id!(
    /// Names a measure of one [`super::Model`].
    MeasureId
);
member_id!(
    /// Names a dimension of one [`super::Model`].
    DimensionId
);
member_id!(
    /// Names a segment of one [`super::Model`].
    SegmentId
);

/// A member of any kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MemberId {
    /// A measure.
    Measure(MeasureId),
    /// A dimension.
    Dimension(DimensionId),
    /// A segment.
    Segment(SegmentId),
}

impl MemberId {
    /// The cube that defines it.
    pub fn cube(self) -> CubeId {
        match self {
            Self::Measure(id) => id.cube,
            Self::Dimension(id) => id.cube,
            Self::Segment(id) => id.cube,
        }
    }
}

/// Where something stands in the model files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// Path as shown to people: relative to the project folder.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// A cube.
#[derive(Debug)]
pub struct Cube {
    /// Its id in the model.
    pub id: CubeId,
    /// Its name.
    pub name: String,
    /// Stands for the name in aliases and names of stored tables (`sql_alias`).
    pub sql_alias: Option<String>,
    /// Given or generated title.
    pub title: String,
    /// Given description.
    pub description: Option<String>,
    /// False hides the cube and all its members.
    pub public: bool,
    /// Free data of the author's.
    pub meta: Option<serde_json::Value>,
    /// Name of the source its SQL runs on.
    pub data_source: String,
    /// The cube or view that it inherits from, where that has a name; metadata only.
    pub extends: Option<String>,
    /// What tells that its data have changed.
    pub refresh_key: Option<RefreshKey>,
    /// What stands after FROM, or what a view imports.
    pub source: CubeSource,
    /// Whether it describes a calendar: its time dimensions may define granularities and shifts by SQL.
    pub calendar: bool,
    /// Declared joins, in order.
    pub joins: Vec<Join>,
    /// Measures, in order; `measures[i].id.index == i`.
    pub measures: Vec<Measure>,
    /// Dimensions, in order.
    pub dimensions: Vec<Dimension>,
    /// Segments, in order.
    pub segments: Vec<Segment>,
    /// Levels to drill through, in order.
    pub hierarchies: Vec<Hierarchy>,
    /// Rollup definitions, in order.
    pub preaggs: Vec<Preagg>,
    /// Who may see what; nothing restricts when it is empty.
    pub policies: Vec<Policy>,
    /// Where it is defined.
    pub location: Location,
}

/// Dimensions to drill through, coarsest first; metadata only (`data-model.md` §6).
#[derive(Debug, Clone)]
pub struct Hierarchy {
    /// Name within the cube.
    pub name: String,
    /// Given title.
    pub title: Option<String>,
    /// Whether the metadata shows it.
    pub public: bool,
    /// The levels, maybe of joined cubes.
    pub levels: Vec<DimensionId>,
}

impl Cube {
    /// The view's own description when it is one.
    pub fn view(&self) -> Option<&View> {
        match &self.source {
            CubeSource::View(view) => Some(view),
            CubeSource::Table(_) | CubeSource::Query(_) => None,
        }
    }

    /// The primary key's dimensions, in order of declaration; empty when it has none.
    pub fn primary_key(&self) -> impl Iterator<Item = &Dimension> {
        self.dimensions.iter().filter(|d| d.primary_key)
    }

    /// A member of that name: measure, dimension, then segment.
    pub fn find_member(&self, name: &str) -> Option<MemberId> {
        let measure = self.measures.iter().find(|m| m.name == name).map(|m| MemberId::Measure(m.id));
        let dimension = || self.dimensions.iter().find(|d| d.name == name).map(|d| MemberId::Dimension(d.id));
        let segment = || self.segments.iter().find(|s| s.name == name).map(|s| MemberId::Segment(s.id));
        measure.or_else(dimension).or_else(segment)
    }
}

/// What a cube's rows are (`data-model.md` §3.1, §8).
#[derive(Debug)]
pub enum CubeSource {
    /// `sql_table`, or `sql` of the form `SELECT * FROM t`: written as it is.
    Table(Template),
    /// `sql`: written in parentheses.
    Query(Template),
    /// No rows of its own: a view of members of cubes.
    View(View),
}

/// The type a member's values have on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataType {
    /// Text.
    String,
    /// Any number, written as a JSON string.
    Number,
    /// True or false.
    Boolean,
    /// A timestamp.
    Time,
}

impl DataType {
    /// The word of model files and `/v1/meta`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Time => "time",
        }
    }
}

/// The size of a time bucket: a standard granularity, or one that the dimension defines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Grain {
    /// A standard granularity.
    Standard(Granularity),
    /// Position in the dimension's list of custom ones.
    Custom(u32),
}

impl Grain {
    /// The standard granularity, if it is one.
    pub fn standard(self) -> Option<Granularity> {
        match self {
            Self::Standard(granularity) => Some(granularity),
            Self::Custom(_) => None,
        }
    }
}

/// A dimension.
#[derive(Debug)]
pub struct Dimension {
    /// Its id in the model.
    pub id: DimensionId,
    /// Name within the cube.
    pub name: String,
    /// Title without the cube's: given or generated.
    pub short_title: String,
    /// Given description.
    pub description: Option<String>,
    /// Given display format, as the metadata shows it.
    pub format: Option<serde_json::Value>,
    /// Free data of the author's.
    pub meta: Option<serde_json::Value>,
    /// Whether it may be selected; primary keys are hidden unless made public.
    pub public: bool,
    /// Part of the cube's primary key.
    pub primary_key: bool,
    /// Whether front ends should offer values for filters.
    pub suggest_filter_values: bool,
    /// Type of its values.
    pub data_type: DataType,
    /// How it is computed.
    pub kind: DimensionKind,
    /// Granularities that it defines; empty unless it is a time.
    pub granularities: Vec<CustomGranularity>,
    /// Which standard granularities it offers; all when none.
    pub offered: Option<Vec<Granularity>>,
    /// What those who may not see it get instead; NULL when not given.
    pub mask: Option<Mask>,
    /// What only the metadata shows.
    pub shown: Shown,
    /// Named or replaced time shifts (calendar cubes).
    pub shifts: Vec<TimeShift>,
    /// Where it is defined.
    pub location: Location,
}

/// Properties of members that only the metadata shows.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// ISO 4217 code.
    pub currency: Option<String>,
    /// `asc` or `desc`.
    pub order: Option<String>,
    /// The dimension that sorts and groups this one, within the cube.
    pub key: Option<String>,
    /// Other names.
    pub aliases: Vec<String>,
    /// Links to show with a value, as they are written.
    pub links: Option<serde_json::Value>,
    /// Whether a link of another dimension has made it.
    pub synthetic: bool,
}

/// How a dimension is computed.
#[derive(Debug)]
pub enum DimensionKind {
    /// An SQL expression.
    Sql(Template),
    /// A `case`.
    Case(Case),
    /// A point: latitude and longitude joined by a comma.
    Geo {
        /// Degrees north.
        latitude: Template,
        /// Degrees east.
        longitude: Template,
    },
    /// A list of values without column: a query that selects it is crossed with the list (`data-model.md` §4.2).
    Switch(Vec<String>),
    /// A measure expression evaluated for each row of the cube: grouped by its primary key (`data-model.md` §18),
    /// or by other dimensions (a multi-stage dimension, §20.6).
    SubQuery(SubQuery),
}

/// See [`DimensionKind::SubQuery`].
#[derive(Debug)]
pub struct SubQuery {
    /// The expression over measures.
    pub sql: Template,
    /// Whether conditions of the outer query apply inside.
    pub propagate_filters: bool,
    /// Whether it is a multi-stage dimension: evaluated for each group of the query that uses it.
    pub staged: bool,
    /// What it is grouped by besides, when it is multi-stage, and else instead of the primary key when there is any.
    pub by: Vec<GrainMember>,
}

/// `CASE WHEN … THEN … ELSE … END` (`data-model.md` §4.1).
#[derive(Debug)]
pub struct Case {
    /// Branches in order.
    pub when: Vec<CaseBranch>,
    /// Label of rows that no branch takes; NULL when absent.
    pub otherwise: Option<CaseLabel>,
}

/// One branch of a `case`.
#[derive(Debug)]
pub struct CaseBranch {
    /// The condition.
    pub condition: Template,
    /// The value of rows it holds for.
    pub label: CaseLabel,
}

/// The value of a `case` branch.
#[derive(Debug)]
pub enum CaseLabel {
    /// A text.
    Text(String),
    /// An SQL expression.
    Sql(Template),
}

/// A measure.
#[derive(Debug)]
pub struct Measure {
    /// Its id in the model.
    pub id: MeasureId,
    /// Name within the cube.
    pub name: String,
    /// Title without the cube's: given or generated.
    pub short_title: String,
    /// Given description.
    pub description: Option<String>,
    /// Given display format, as the metadata shows it.
    pub format: Option<serde_json::Value>,
    /// Free data of the author's.
    pub meta: Option<serde_json::Value>,
    /// Whether it may be selected.
    pub public: bool,
    /// How it is computed.
    pub kind: MeasureKind,
    /// Conditions on the rows it takes in; all must hold.
    pub filters: Vec<Template>,
    /// Conditions on the rows that a person drills down to; all must hold. Its value does not depend on them.
    pub drill_filters: Vec<Template>,
    /// Members to show when a person drills down, in order.
    pub drill_members: Vec<MemberId>,
    /// Shown as `cumulative`; set by a rolling window too.
    pub cumulative: bool,
    /// The moving window of time that its aggregate takes in.
    pub rolling: Option<RollingWindow>,
    /// Set when it is computed over results of other measures.
    pub stage: Option<Box<MultiStage>>,
    /// What those who may not see it get instead; NULL when not given.
    pub mask: Option<Mask>,
    /// What only the metadata shows.
    pub shown: Shown,
    /// Where it is defined.
    pub location: Location,
}

impl Measure {
    /// All fragments that its value is computed from; masks are none of them.
    pub fn templates(&self) -> Vec<&Template> {
        let mut found: Vec<&Template> = match &self.kind {
            MeasureKind::Aggregate { sql, .. } => sql.iter().collect(),
            MeasureKind::Calculated { sql, .. } => vec![sql],
            MeasureKind::Rank(keys) => keys.iter().map(|key| &key.sql).collect(),
            MeasureKind::Switch(switch) => switch.when.iter().map(|(_, sql)| sql).chain(&switch.otherwise).collect(),
        };
        found.extend(&self.filters);
        found
    }
}

impl Dimension {
    /// All fragments that its value is computed from; masks are none of them.
    pub fn templates(&self) -> Vec<&Template> {
        match &self.kind {
            DimensionKind::Sql(sql) | DimensionKind::SubQuery(SubQuery { sql, .. }) => vec![sql],
            DimensionKind::Geo { latitude, longitude } => vec![latitude, longitude],
            DimensionKind::Switch(_) => Vec::new(),
            DimensionKind::Case(case) => {
                let labels = case.when.iter().map(|branch| &branch.label).chain(&case.otherwise);
                let labels = labels.filter_map(|label| match label {
                    CaseLabel::Sql(sql) => Some(sql),
                    CaseLabel::Text(_) => None,
                });
                case.when.iter().map(|branch| &branch.condition).chain(labels).collect()
            }
        }
    }

    /// The granularity's name.
    pub fn grain_name(&self, grain: Grain) -> &str {
        match grain {
            Grain::Standard(granularity) => granularity.as_str(),
            Grain::Custom(index) => self.granularities.get(index as usize).map_or("", |custom| custom.name.as_str()),
        }
    }

    /// About how long its buckets are, in microseconds, to compare granularities.
    pub fn grain_length(&self, grain: Grain) -> i64 {
        let standard = |granularity| Interval::of(granularity).approximate_micros();
        let custom = match grain {
            Grain::Standard(granularity) => return standard(granularity),
            Grain::Custom(index) => self.granularities.get(index as usize),
        };
        match custom.map(|custom| &custom.kind) {
            Some(GranularityKind::Moved { unit, .. }) => standard(*unit),
            Some(GranularityKind::Bins { bins, .. }) => bins.step.approximate_micros(),
            // One that replaces a standard one is about as long.
            Some(GranularityKind::Sql(_)) | None => {
                custom.and_then(|custom| Granularity::parse(&custom.name)).map_or(i64::MAX, standard)
            }
        }
    }

    /// The granularity of a name. Buckets by SQL, as calendars have them, replace the standard ones of their name;
    /// other custom ones never do.
    pub fn find_grain(&self, name: &str) -> Option<Grain> {
        let standard = Granularity::parse(name);
        let name = standard.map_or(name, |standard| standard.as_str());
        let own = self.granularities.iter().position(|custom| {
            custom.name == name && (standard.is_none() || matches!(custom.kind, GranularityKind::Sql(_)))
        });
        let own = own.and_then(|index| u32::try_from(index).ok());
        own.map(Grain::Custom).or(standard.map(Grain::Standard))
    }
}

/// How a measure is computed.
#[derive(Debug)]
pub enum MeasureKind {
    /// An aggregate of an expression over rows. Only [`AggKind::Count`] may go without expression.
    Aggregate {
        /// The function.
        agg: AggKind,
        /// Its argument.
        sql: Option<Template>,
    },
    /// An expression that is aggregated already: types `number`, `string`, `time`, `boolean`.
    Calculated {
        /// Type of its values.
        data_type: DataType,
        /// The expression; references to measures stand for their aggregates.
        sql: Template,
    },
    /// The place of a group among others: `rank() OVER (…)` (`data-model.md` §20.3).
    Rank(Vec<RankOrder>),
    /// A formula a value of a switch dimension (`data-model.md` §5.7).
    Switch(SwitchMeasure),
}

/// See [`MeasureKind::Switch`].
#[derive(Debug)]
pub struct SwitchMeasure {
    /// Aggregate around the chosen formula; none when it is aggregated already.
    pub agg: Option<AggKind>,
    /// Type of its values.
    pub data_type: DataType,
    /// The switch dimension.
    pub switch: DimensionId,
    /// Value and formula, in order.
    pub when: Vec<(String, Template)>,
    /// The formula of all other values.
    pub otherwise: Option<Template>,
}

impl MeasureKind {
    /// Type of the values on the wire.
    pub fn data_type(&self) -> DataType {
        match self {
            Self::Aggregate { .. } | Self::Rank(_) => DataType::Number,
            Self::Calculated { data_type, .. } => *data_type,
            Self::Switch(switch) => switch.data_type,
        }
    }

    /// `aggType` of the metadata: `count`, `countDistinct`, `number`…
    pub fn agg_type(&self) -> &'static str {
        match self {
            Self::Aggregate { agg, .. } => agg.as_str(),
            Self::Calculated { data_type, .. } => data_type.as_str(),
            Self::Rank(_) => "rank",
            Self::Switch(SwitchMeasure { agg: Some(agg), .. }) => agg.as_str(),
            Self::Switch(switch) => switch.data_type.as_str(),
        }
    }
}

/// Aggregate functions of measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AggKind {
    /// Rows, or non-null values.
    Count,
    /// Different non-null values.
    CountDistinct,
    /// Different non-null values, about.
    CountDistinctApprox,
    /// Sum.
    Sum,
    /// Arithmetic mean of the non-null values.
    Avg,
    /// Least value.
    Min,
    /// Greatest value.
    Max,
}

impl AggKind {
    /// The canonical word (`countDistinct`…).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::CountDistinct => "countDistinct",
            Self::CountDistinctApprox => "countDistinctApprox",
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Min => "min",
            Self::Max => "max",
        }
    }
}

/// A segment: a named predicate.
#[derive(Debug)]
pub struct Segment {
    /// Its id in the model.
    pub id: SegmentId,
    /// Name within the cube.
    pub name: String,
    /// Title without the cube's: given or generated.
    pub short_title: String,
    /// Given description.
    pub description: Option<String>,
    /// Free data of the author's.
    pub meta: Option<serde_json::Value>,
    /// Whether it may be selected.
    pub public: bool,
    /// The predicate.
    pub sql: Template,
    /// Where it is defined.
    pub location: Location,
}
