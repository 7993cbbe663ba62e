//! Cubes and views as tables of a catalog.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::relation::{Column, JOIN_FIELD, USER};
use crate::model::{Cube, CubeId, MemberId, Model};
use crate::query::policy::{Asker, may_select};

/// A cube or view as a table. It is planned with, never scanned.
#[derive(Debug)]
pub(super) struct CubeTable {
    pub(super) cube: CubeId,
    /// One a field.
    pub(super) columns: Vec<Column>,
    schema: SchemaRef,
}

impl CubeTable {
    /// The table that an asker sees; none when nothing of the cube may be seen. `all` shows hidden members too.
    pub(super) fn of(model: &Model, cube: &Cube, asker: &Asker, all: bool) -> Option<Self> {
        let members = visible_members(model, cube, asker, all);
        if members.is_empty() {
            return None;
        }
        let mut fields = Vec::with_capacity(members.len() + 2);
        let mut columns = Vec::with_capacity(members.len() + 2);
        for (name, column) in members {
            fields.push(Field::new(name, column.arrow_type(model), true));
            columns.push(column);
        }
        for (name, column) in [(USER, Column::User), (JOIN_FIELD, Column::JoinField(cube.id))] {
            fields.push(Field::new(name, column.arrow_type(model), true));
            columns.push(column);
        }
        Some(Self { cube: cube.id, columns, schema: Arc::new(Schema::new(fields)) })
    }
}

/// The members of a cube that an asker may select, with their names: measures, dimensions, segments.
pub(super) fn visible_members<'m>(
    model: &'m Model,
    cube: &'m Cube,
    asker: &Asker,
    all: bool,
) -> Vec<(&'m str, Column)> {
    let measures = cube.measures.iter().map(|m| (m.name.as_str(), m.public, MemberId::Measure(m.id)));
    let dimensions = cube.dimensions.iter().map(|d| (d.name.as_str(), d.public, MemberId::Dimension(d.id)));
    let segments = cube.segments.iter().map(|s| (s.name.as_str(), s.public, MemberId::Segment(s.id)));
    measures
        .chain(dimensions)
        .chain(segments)
        .filter(|(_, public, member)| all || cube.public && *public && may_select(model, asker, *member))
        .map(|(name, _, member)| (name, Column::of(member)))
        .collect()
}

#[async_trait]
impl TableProvider for CubeTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Err(DataFusionError::Internal("a cube was not rewritten".to_owned()))
    }
}
