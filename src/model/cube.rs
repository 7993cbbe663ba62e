//! Cubes and their members, as compiled: references resolved, kinds known, titles generated.

use std::path::PathBuf;

use super::join::Join;
use super::preagg::Preagg;
use super::template::Template;

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
    /// Its name: also its alias in SQL.
    pub name: String,
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
    /// What stands after FROM.
    pub source: CubeSource,
    /// Declared joins, in order.
    pub joins: Vec<Join>,
    /// Measures, in order; `measures[i].id.index == i`.
    pub measures: Vec<Measure>,
    /// Dimensions, in order.
    pub dimensions: Vec<Dimension>,
    /// Segments, in order.
    pub segments: Vec<Segment>,
    /// Rollup definitions, in order.
    pub preaggs: Vec<Preagg>,
    /// Where it is defined.
    pub location: Location,
}

impl Cube {
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

/// What stands after FROM (`data-model.md` §3.1).
#[derive(Debug)]
pub enum CubeSource {
    /// `sql_table`, or `sql` of the form `SELECT * FROM t`: written as it is.
    Table(String),
    /// `sql`: written in parentheses.
    Query(String),
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
    /// Names of custom granularities that the model defines and this version does not compute.
    pub custom_granularities: Vec<String>,
    /// Set when this version cannot compute it: the model key in the way.
    pub unsupported: Option<&'static str>,
    /// Where it is defined.
    pub location: Location,
}

/// How a dimension is computed.
#[derive(Debug)]
pub enum DimensionKind {
    /// An SQL expression.
    Sql(Template),
    /// A `case`.
    Case(Case),
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
    /// Members to show when a person drills down, in order.
    pub drill_members: Vec<MemberId>,
    /// Declares a rolling window (`cumulative` in the metadata).
    pub cumulative: bool,
    /// Set when this version cannot compute it: the model key in the way.
    pub unsupported: Option<&'static str>,
    /// Where it is defined.
    pub location: Location,
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
}

impl MeasureKind {
    /// Type of the values on the wire.
    pub fn data_type(&self) -> DataType {
        match self {
            Self::Aggregate { .. } => DataType::Number,
            Self::Calculated { data_type, .. } => *data_type,
        }
    }

    /// `aggType` of the metadata: `count`, `countDistinct`, `number`…
    pub fn agg_type(&self) -> &'static str {
        match self {
            Self::Aggregate { agg, .. } => agg.as_str(),
            Self::Calculated { data_type, .. } => data_type.as_str(),
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
