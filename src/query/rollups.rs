//! The rollups of a model as tables: their statements, columns and stored names.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use quarry_storage::{Bounds, TableId};

use super::lineage::Lineage;
use super::lower::{Output, SourceSelect, key_statement, range_statement, source_statement};
use super::members::{collect_hints, cubes_of, templates, visit_members};
use super::plan::{Shape, shape};
use super::{OutputColumn, Query, QueryError, TimeDimension};
use crate::model::refresh_key::applied_keys;
use crate::model::{AppliedKey, CubeId, CubeSource, Diagnostic, MemberId, Model, Part, Preagg, PreaggId, Template};
use crate::preagg::layout;
use crate::time::{TimeRange, Zone};

/// The model as it is now. A request takes one and keeps it.
#[derive(Debug, Clone)]
pub struct CurrentModel {
    /// The rollups, and through them the model.
    pub rollups: Arc<Rollups>,
    /// Warnings of the files it came from; in development mode also the faults of newer files.
    pub diagnostics: Vec<Diagnostic>,
}

/// A model's rollups, made once a model.
#[derive(Debug)]
pub struct Rollups {
    model: Arc<Model>,
    plans: BTreeMap<PreaggId, Result<RollupPlan, String>>,
    /// Read when it is first asked for.
    lineage: OnceLock<Lineage>,
}

/// What is the same for all zones and partitions of a rollup.
#[derive(Debug)]
struct RollupPlan {
    shape: Shape,
    outputs: Vec<Output>,
    /// The build statement in UTC without bounds, and the partitioning: what decides the stored content.
    definition: String,
    /// Whether the stored content would depend on who asks.
    reads_claims: bool,
    /// What tells that the content has changed.
    keys: Vec<AppliedKey>,
}

/// The columns of [`Rollups::range_sql`]'s single row, in order.
pub const RANGE_COLUMNS: [&str; 3] = ["first", "last", "rows_without_time"];

impl Rollups {
    /// Prepares all rollups of a model. One that cannot be planned spoils only itself.
    pub fn new(model: Arc<Model>) -> Self {
        let preaggs = model.cubes().iter().flat_map(|cube| &cube.preaggs);
        let plans = preaggs.map(|preagg| (preagg.id, prepare(&model, preagg).map_err(|e| e.to_string()))).collect();
        Self { model, plans, lineage: OnceLock::new() }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Where the model's members come from. The first call reads all SQL of the model.
    pub fn lineage(&self) -> &Lineage {
        self.lineage.get_or_init(|| Lineage::of(&self.model))
    }

    /// All rollups, in the order of the model.
    pub fn all(&self) -> impl Iterator<Item = PreaggId> {
        self.plans.keys().copied()
    }

    /// The stored table of a rollup in a zone.
    ///
    /// # Errors
    /// The definition cannot be planned (its cubes do not join…).
    pub fn table(&self, preagg: PreaggId, zone: Zone) -> Result<TableId, QueryError> {
        Ok(layout::table_id(&self.model, preagg, zone, &self.plan(preagg)?.definition))
    }

    /// The joins of the rollup's rows.
    ///
    /// # Errors
    /// As [`Rollups::table`].
    pub fn shape(&self, preagg: PreaggId) -> Result<&Shape, QueryError> {
        Ok(&self.plan(preagg)?.shape)
    }

    /// The statement, for the rollup's source, that gives the rows of a partition (of the whole rollup
    /// when `bucket` is none). Time columns come out as TIMESTAMP without zone, in local time.
    ///
    /// # Errors
    /// As [`Rollups::table`].
    pub fn build_sql(&self, preagg: PreaggId, zone: Zone, bucket: Option<Bounds>) -> Result<String, QueryError> {
        let plan = self.plan(preagg)?;
        let query = query_of(self.model.preagg(preagg), zone, bucket);
        let select =
            SourceSelect { model: &self.model, query: &query, shape: &plan.shape, outputs: &plan.outputs, tail: false };
        Ok(source_statement(select).inlined())
    }

    /// The statement that looks at the source's time range: one row of [`RANGE_COLUMNS`]: least and
    /// greatest local time (TIMESTAMP, null when there are no rows) and the number of rows without time.
    /// None for a rollup without time dimension.
    ///
    /// # Errors
    /// As [`Rollups::table`].
    pub fn range_sql(&self, preagg: PreaggId, zone: Zone) -> Result<Option<String>, QueryError> {
        let plan = self.plan(preagg)?;
        let Some(time) = self.model.preagg(preagg).time else { return Ok(None) };
        // The time of a joined cube is looked at over the rollup's own rows; rows without a match have none.
        let mut hints = Vec::new();
        collect_hints(&self.model, MemberId::Dimension(time.dimension), &mut hints);
        let root = plan.shape.tree.root;
        let own = cubes_of(&hints).iter().all(|cube| *cube == root);
        let tree = if own { self.model.join_tree(&[vec![root]])? } else { plan.shape.tree.clone() };
        Ok(Some(range_statement(&self.model, &tree, time.dimension, zone).inlined()))
    }

    /// What tells that the rollup's data have changed: its own key, or those of the cubes that it reads; none when
    /// they never change.
    ///
    /// # Errors
    /// As [`Rollups::table`].
    pub fn keys(&self, preagg: PreaggId) -> Result<&[AppliedKey], QueryError> {
        Ok(&self.plan(preagg)?.keys)
    }

    /// The statement of a refresh key of the rollup that is SQL, for its source. Conditions on the rollup's time are
    /// put on `bounds`.
    ///
    /// # Errors
    /// The statement needs to know who asks.
    pub fn key_sql(
        &self,
        preagg: PreaggId,
        (owner, sql): (CubeId, &Template),
        zone: Zone,
        bounds: Option<Bounds>,
    ) -> Result<String, QueryError> {
        let query = query_of(self.model.preagg(preagg), zone, bounds);
        Ok(key_statement(&self.model, owner, sql, &query).checked()?.inlined())
    }

    /// Name of the stored time column, if any.
    pub fn time_column(&self, preagg: PreaggId) -> Option<String> {
        let time = self.model.preagg(preagg).time?;
        Some(layout::stored_time_column(&self.model, time))
    }

    /// Whether the rollup's SQL depends on the security context, so that it can answer no one.
    pub fn reads_claims(&self, preagg: PreaggId) -> bool {
        self.plan(preagg).is_ok_and(|plan| plan.reads_claims)
    }

    fn plan(&self, preagg: PreaggId) -> Result<&RollupPlan, QueryError> {
        match self.plans.get(&preagg) {
            Some(Ok(plan)) => Ok(plan),
            Some(Err(fault)) => Err(QueryError::Model(fault.clone())),
            None => Err(QueryError::Model("the rollup is not in the data model".to_owned())),
        }
    }
}

fn prepare(model: &Model, preagg: &Preagg) -> Result<RollupPlan, QueryError> {
    let query = query_of(preagg, Zone::UTC, None);
    let shape = shape(model, &query)?;
    let states = preagg
        .measures
        .iter()
        .flat_map(|id| layout::states(&model.measure(*id).kind).iter().map(move |state| Output::State(*id, *state)));
    let outputs: Vec<Output> = states.collect();
    let select = SourceSelect { model, query: &query, shape: &shape, outputs: &outputs, tail: false };
    let partitioned = preagg.time.and(preagg.partition_granularity).map_or("", |granularity| granularity.as_str());
    let definition = format!("{partitioned}\n{}", source_statement(select).inlined());
    let reads_claims = reads_claims(model, &query, &shape);
    let cubes: Vec<CubeId> = shape.tree.cubes().collect();
    let keys = applied_keys(model, preagg, &cubes, &mut |_| {});
    Ok(RollupPlan { shape, outputs, definition, reads_claims, keys })
}

/// The joins of the rows of a rollup that need not be one of the model.
///
/// # Errors
/// Its cubes do not join.
pub(super) fn shape_of(model: &Model, preagg: &Preagg) -> Result<Shape, QueryError> {
    shape(model, &query_of(preagg, Zone::UTC, None))
}

/// Whether some SQL that a query runs depends on the security context.
fn reads_claims(model: &Model, query: &Query, shape: &Shape) -> bool {
    let of_source = |cube: CubeId| match &model.cube(cube).source {
        CubeSource::Table(sql) | CubeSource::Query(sql) => reads_claims_through(model, sql, 0),
        CubeSource::View(_) => false,
    };
    let sources = shape.tree.cubes().any(of_source);
    let joins = shape.tree.edges.iter().any(|edge| model.cube(edge.from).joins[edge.join].sql.reads_claims());
    let mut members = query.columns().into_iter().map(|column| match column {
        OutputColumn::Dimension(id) | OutputColumn::Time(id, _) => MemberId::Dimension(id),
        OutputColumn::Segment(id) => MemberId::Segment(id),
        OutputColumn::Measure(id) => MemberId::Measure(id),
    });
    let of_members = members.any(|member| {
        let mut reads = false;
        visit_members(model, member, &mut |inner| {
            reads |= templates(model, inner).iter().any(|template| template.reads_claims());
        });
        reads
    });
    let of_sub_queries = shape.sub_queries.iter().flat_map(|sub_query| sub_query.plan.leaves());
    sources
        || joins
        || of_members
        || of_sub_queries.into_iter().any(|leaf| reads_claims(model, &leaf.query, &leaf.shape))
}

/// Deepest chain of cubes that read each other's SQL.
const MAX_SOURCES: usize = 16;

fn reads_claims_through(model: &Model, sql: &Template, depth: usize) -> bool {
    let inner = |part: &Part| match part {
        Part::Source(cube) if depth < MAX_SOURCES => match &model.cube(*cube).source {
            CubeSource::Table(sql) | CubeSource::Query(sql) => reads_claims_through(model, sql, depth + 1),
            CubeSource::View(_) => false,
        },
        _ => false,
    };
    sql.reads_claims() || sql.parts.iter().any(inner)
}

/// The rollup's rows as a query.
fn query_of(preagg: &Preagg, zone: Zone, bucket: Option<Bounds>) -> Query {
    let mut range = bucket.map(|Bounds { start, end }| TimeRange { start, end });
    let time_dimensions = preagg.times().map(|time| TimeDimension {
        dimension: time.dimension,
        granularity: Some(time.grain),
        // Of the first one alone.
        range: range.take(),
    });
    Query {
        measures: preagg.measures.clone(),
        dimensions: preagg.dimensions.clone(),
        segment_columns: preagg.segments.clone(),
        time_dimensions: time_dimensions.collect(),
        timezone: zone,
        join_hints: preagg.paths.clone(),
        ..Query::default()
    }
}
