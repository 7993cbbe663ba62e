//! What of a plan is one question about cubes: a relation whose columns are members.

use std::sync::Arc;

use arrow::datatypes::{DataType as ArrowType, Field, Schema, SchemaRef, TimeUnit};

use crate::model::{AggKind, CubeId, DataType, DimensionId, Grain, MeasureId, MeasureKind, MemberId, Model, SegmentId};
use crate::query::OutputColumn;
use crate::query::request::FilterNode;

/// The column that names who asks.
pub(super) const USER: &str = "__user";
/// The column that stands for the joins of the data model.
pub(super) const JOIN_FIELD: &str = "__cubeJoinField";

/// A column of a relation over cubes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Column {
    Dimension(DimensionId),
    /// Buckets of a time dimension.
    Time(DimensionId, Grain),
    /// Whether a row is in a segment.
    Segment(SegmentId),
    Measure(MeasureId),
    /// [`USER`]
    User,
    /// [`JOIN_FIELD`]
    JoinField(CubeId),
}

impl Column {
    pub(super) fn of(member: MemberId) -> Self {
        match member {
            MemberId::Dimension(id) => Self::Dimension(id),
            MemberId::Segment(id) => Self::Segment(id),
            MemberId::Measure(id) => Self::Measure(id),
        }
    }

    /// The name that requests give it: `cube.member`, `cube.member.granularity`.
    pub(super) fn key(self, model: &Model) -> String {
        match self {
            Self::Dimension(id) => model.path_of(MemberId::Dimension(id)),
            Self::Segment(id) => model.path_of(MemberId::Segment(id)),
            Self::Measure(id) => model.path_of(MemberId::Measure(id)),
            Self::Time(id, grain) => {
                format!("{}.{}", model.path_of(MemberId::Dimension(id)), model.dimension(id).grain_name(grain))
            }
            Self::User => USER.to_owned(),
            Self::JoinField(cube) => format!("{}.{JOIN_FIELD}", model.cube(cube).name),
        }
    }

    pub(super) fn output(self) -> Option<OutputColumn> {
        match self {
            Self::Dimension(id) => Some(OutputColumn::Dimension(id)),
            Self::Time(id, grain) => Some(OutputColumn::Time(id, grain)),
            Self::Segment(id) => Some(OutputColumn::Segment(id)),
            Self::Measure(id) => Some(OutputColumn::Measure(id)),
            Self::User | Self::JoinField(_) => None,
        }
    }

    /// Whether rows can be grouped by it.
    pub(super) fn is_group(self) -> bool {
        matches!(self, Self::Dimension(_) | Self::Time(..) | Self::Segment(_))
    }

    /// The member, if it is one.
    pub(super) fn member(self) -> Option<MemberId> {
        match self {
            Self::Dimension(id) | Self::Time(id, _) => Some(MemberId::Dimension(id)),
            Self::Segment(id) => Some(MemberId::Segment(id)),
            Self::Measure(id) => Some(MemberId::Measure(id)),
            Self::User | Self::JoinField(_) => None,
        }
    }

    /// The type of its values as clients are told before there are any.
    pub(super) fn arrow_type(self, model: &Model) -> ArrowType {
        match self {
            Self::Dimension(id) => arrow_type(model.dimension(id).data_type),
            Self::Time(..) => arrow_type(DataType::Time),
            Self::Segment(_) => ArrowType::Boolean,
            Self::User | Self::JoinField(_) => ArrowType::Utf8,
            Self::Measure(id) if counts(model, id) => ArrowType::Int64,
            Self::Measure(id) => arrow_type(model.measure(id).kind.data_type()),
        }
    }
}

/// Whether a measure is a number of things, by itself or by what it refers to.
fn counts(model: &Model, id: MeasureId) -> bool {
    match &model.measure(id).kind {
        MeasureKind::Aggregate { agg, .. } => {
            matches!(agg, AggKind::Count | AggKind::CountDistinct | AggKind::CountDistinctApprox)
        }
        MeasureKind::Calculated { sql, .. } => match sql.as_member() {
            Some(MemberId::Measure(inner)) => counts(model, inner),
            _ => false,
        },
        MeasureKind::Rank(_) => true,
        MeasureKind::Switch(_) => false,
    }
}

fn arrow_type(data_type: DataType) -> ArrowType {
    match data_type {
        DataType::String => ArrowType::Utf8,
        DataType::Number => ArrowType::Float64,
        DataType::Boolean => ArrowType::Boolean,
        DataType::Time => ArrowType::Timestamp(TimeUnit::Microsecond, None),
    }
}

/// Columns as a schema, by their keys.
pub(super) fn schema_of(model: &Model, columns: &[Column]) -> SchemaRef {
    let field = |column: &Column| Field::new(column.key(model), column.arrow_type(model), true);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

/// Rows of joined cubes, or groups of them: what one request can ask for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Relation {
    /// The cubes and views that it is over.
    pub(super) cubes: Vec<CubeId>,
    /// Its columns.
    pub(super) columns: Vec<Column>,
    /// What its rows are grouped by; none for the rows themselves.
    pub(super) groups: Option<Vec<Column>>,
    /// Conditions; all must hold.
    pub(super) conditions: Vec<FilterNode>,
    /// Sort keys, strongest first; greatest first where true.
    pub(super) order: Vec<(Column, bool)>,
    /// Rows to skip.
    pub(super) offset: u64,
    /// Most rows.
    pub(super) limit: Option<u64>,
}

impl Relation {
    /// All rows of a cube.
    pub(super) fn of_cube(cube: CubeId, columns: Vec<Column>) -> Self {
        Self {
            cubes: vec![cube],
            columns,
            groups: None,
            conditions: Vec::new(),
            order: Vec::new(),
            offset: 0,
            limit: None,
        }
    }

    /// Whether it has a limit or an offset: conditions and groups over it are no longer its own.
    pub(super) fn is_cut(&self) -> bool {
        self.limit.is_some() || self.offset > 0
    }
}
