//! The rollups of a model as tables: their statements, columns and stored names.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use quarry_storage::{Bounds, TableId};

use super::lineage::Lineage;
use super::lower::{
    CubeTables, Output, SourceSelect, Statement, key_statement, range_statement, rows_statement, source_statement,
};
use super::members::{collect_hints, cubes_of, leaves, resolve_alias, templates, visit_members};
use super::plan::{Shape, members_of, shape};
use super::route::FromSource;
use super::scan::Rest;
use super::{Column, Filter, OutputColumn, Query, QueryError, Test, TimeDimension};
use crate::model::refresh_key::applied_keys;
use crate::model::rollup_join::{self, RollupJoin};
use crate::model::{
    AppliedKey, CubeId, CubeSource, DataType, Diagnostic, DimensionId, MemberId, Model, Part, Preagg, PreaggId,
    PreaggKind, Template,
};
use crate::preagg::indexes::{IndexCopy, copies};
use crate::preagg::layout;
use crate::time::{TimeRange, Zone};

/// The model as it is now. A request takes one and keeps it.
#[derive(Debug, Clone)]
pub struct CurrentModel {
    /// The rollups, and through them the model.
    pub rollups: Arc<Rollups>,
    /// Warnings of the files it came from; in development mode also the faults of newer files.
    pub diagnostics: Vec<Diagnostic>,
    /// Prefix of table names shown to clients, where it is not that of the settings.
    pub preagg_schema: Option<String>,
}

/// A join of rollups as one.
#[derive(Debug)]
pub struct Joined {
    /// The definition, with the measures that its own are computed from.
    pub whole: Preagg,
    /// How it is put together.
    pub plan: RollupJoin,
    /// The joins of its rows.
    pub shape: Shape,
}

/// A model's rollups, made once a model.
#[derive(Debug)]
pub struct Rollups {
    model: Arc<Model>,
    /// Tells these from all others of this process.
    instance: u64,
    any_reads_claims: bool,
    plans: BTreeMap<PreaggId, Result<RollupPlan, String>>,
    joins: BTreeMap<PreaggId, Joined>,
    from_source: FromSource,
    /// Further copies of stored rows, where they are kept.
    copies: BTreeMap<PreaggId, Vec<IndexCopy>>,
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
    /// Whether the bounds of a partition are written into SQL of the model.
    reads_filters: bool,
    /// Whether the stored content is the same in every time zone.
    zoneless: bool,
    /// What tells that the content has changed.
    keys: Vec<AppliedKey>,
}

/// Rollups that were made so far.
static INSTANCES: AtomicU64 = AtomicU64::new(0);

/// The columns of [`Rollups::range_sql`]'s single row, in order.
pub const RANGE_COLUMNS: [&str; 3] = ["first", "last", "rows_without_time"];

impl Rollups {
    /// Prepares all rollups of a model. One that cannot be planned spoils only itself.
    pub fn new(model: Arc<Model>) -> Self {
        let preaggs = model.cubes().iter().flat_map(|cube| &cube.preaggs);
        let plans = preaggs.map(|preagg| (preagg.id, prepare(&model, preagg).map_err(|e| e.to_string()))).collect();
        let joins = model.cubes().iter().flat_map(|cube| &cube.preaggs).filter_map(|preagg| join_of(&model, preagg));
        let joins = joins.collect();
        let instance = INSTANCES.fetch_add(1, Ordering::Relaxed);
        let any_reads_claims = any_reads_claims(&model);
        Self {
            model,
            instance,
            any_reads_claims,
            plans,
            joins,
            from_source: FromSource::default(),
            copies: BTreeMap::new(),
            lineage: OnceLock::new(),
        }
    }

    /// The same, with what the source may add to rollups.
    pub fn with_source(self, from_source: FromSource) -> Self {
        Self { from_source, ..self }
    }

    /// The same, with the copies that further indexes of its rollups ask for.
    pub fn with_index_copies(mut self) -> Self {
        let preaggs = self.model.cubes().iter().flat_map(|cube| &cube.preaggs);
        let copies = preaggs.map(|preagg| (preagg.id, copies(&self.model, preagg.id)));
        self.copies = copies.filter(|(_, copies)| !copies.is_empty()).collect();
        self
    }

    /// The copies that are kept of a definition's rows.
    pub fn copies(&self, preagg: PreaggId) -> &[IndexCopy] {
        self.copies.get(&preagg).map_or(&[], Vec::as_slice)
    }

    /// A number that no other rollups of this process have, be their model the same: what is remembered of one model is
    /// never taken for another's.
    pub fn instance(&self) -> u64 {
        self.instance
    }

    /// Whether any SQL of the model depends on who asks, beside access policies.
    pub fn any_reads_claims(&self) -> bool {
        self.any_reads_claims
    }

    /// What the source may add to rollups.
    pub fn from_source(&self) -> FromSource {
        self.from_source
    }

    /// The rollups of a join as one; none for other kinds, and where they cannot be joined.
    pub fn joined(&self, preagg: PreaggId) -> Option<&Joined> {
        self.joins.get(&preagg)
    }

    /// What a definition is to its readers: a join also holds what its measures are computed from.
    pub fn definition(&self, preagg: PreaggId) -> &Preagg {
        self.joined(preagg).map_or_else(|| self.model.preagg(preagg), |joined| &joined.whole)
    }

    /// The statement, for the rollup's source, that gives the rows which no partition holds: the definition's columns,
    /// as [`Rollups::build_sql`]. Conditions of `asked` on stored dimensions are put to it too.
    ///
    /// # Errors
    /// As [`Rollups::table`].
    pub fn rest_statement(
        &self,
        preagg: PreaggId,
        zone: Zone,
        rest: &Rest,
        asked: &Query,
    ) -> Result<Statement, QueryError> {
        let plan = self.plan(preagg)?;
        let definition = self.model.preagg(preagg);
        let mut query = query_of(definition, zone, None);
        if let Some(time) = definition.time {
            let leaf = |test: Test| Filter::Leaf { member: Column::Raw(time.dimension), test };
            let ranges = rest.ranges.iter().map(|range| leaf(Test::InRange { start: range.start, end: range.end }));
            query.filters.push(Filter::Or(ranges.chain(rest.untimed.then(|| leaf(Test::NotSet))).collect()));
        }
        let model = &self.model;
        let stored = |id: DimensionId| {
            definition.dimensions.iter().any(|d| resolve_alias(model, *d) == resolve_alias(model, id))
        };
        let pushed = asked.filters.iter().filter(|filter| {
            members_of(filter).into_iter().all(|column| match column {
                Column::Dimension(id) | Column::Raw(id) => {
                    stored(id) && model.dimension(id).data_type != DataType::Time
                }
                Column::Segment(_) | Column::FiltersOf(_) => false,
            })
        });
        query.filters.extend(pushed.cloned());
        let select =
            SourceSelect { model: &self.model, query: &query, shape: &plan.shape, outputs: &plan.outputs, tail: false };
        Ok(source_statement(select, &CubeTables::new()))
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
    /// The definition cannot be planned (its cubes do not join…), or has no table of its own.
    pub fn table(&self, preagg: PreaggId, zone: Zone) -> Result<TableId, QueryError> {
        let plan = self.plan(preagg)?;
        if !self.model.preagg(preagg).is_stored() {
            return Err(QueryError::Model("it has no partitions of its own".to_owned()));
        }
        Ok(layout::table_id(&self.model, preagg, self.stored_zone(preagg, zone), &plan.definition))
    }

    /// The zone that a rollup is stored for when it is built for `zone`: what is the same in every zone is one table.
    pub fn stored_zone(&self, preagg: PreaggId, zone: Zone) -> Zone {
        if self.plan(preagg).is_ok_and(|plan| plan.zoneless) { Zone::UTC } else { zone }
    }

    /// The stored rows of cubes that a rollup is to be built from (`use_original_sql_pre_aggregations`).
    pub fn originals_of(&self, preagg: PreaggId) -> Vec<PreaggId> {
        match self.plan(preagg) {
            Ok(plan) if self.model.preagg(preagg).use_original_sql => {
                plan.shape.tree.cubes().filter_map(|cube| original_of(&self.model, cube)).collect()
            }
            Ok(_) | Err(_) => Vec::new(),
        }
    }

    /// The joins of the rollup's rows.
    ///
    /// # Errors
    /// As [`Rollups::table`].
    pub fn shape(&self, preagg: PreaggId) -> Result<&Shape, QueryError> {
        match self.joined(preagg) {
            Some(joined) => Ok(&joined.shape),
            None => Ok(&self.plan(preagg)?.shape),
        }
    }

    /// The statement, for the rollup's source, that gives the rows of a partition (of the whole rollup
    /// when `bucket` is none). Time columns come out as TIMESTAMP without zone, in local time. `cubes` stand for
    /// cubes' own SQL.
    ///
    /// # Errors
    /// As [`Rollups::table`].
    pub fn build_sql(
        &self,
        preagg: PreaggId,
        zone: Zone,
        bucket: Option<Bounds>,
        cubes: &CubeTables,
    ) -> Result<String, QueryError> {
        let plan = self.plan(preagg)?;
        let definition = self.model.preagg(preagg);
        let query = query_of(definition, self.stored_zone(preagg, zone), bucket);
        if definition.kind == PreaggKind::OriginalSql {
            return Ok(rows_statement(&self.model, preagg.cube, &query).inlined());
        }
        let select =
            SourceSelect { model: &self.model, query: &query, shape: &plan.shape, outputs: &plan.outputs, tail: false };
        Ok(source_statement(select, cubes).inlined())
    }

    /// Whether the rows of several partitions can come from one statement: each stored row belongs to one partition,
    /// which its time tells, and is the same whatever else the statement gives.
    pub fn builds_together(&self, preagg: PreaggId) -> bool {
        let definition = self.model.preagg(preagg);
        definition.kind == PreaggKind::Rollup
            && definition.time.and(definition.partition_granularity).is_some()
            && !definition.straddles()
            && !definition.use_original_sql
            // What a sub-query gives may depend on the bounds of the partition.
            && self.plan(preagg).is_ok_and(|plan| !plan.reads_filters && plan.shape.sub_queries.is_empty())
    }

    /// As [`Rollups::build_sql`], the rows of several partitions at once, those of the latest time first. Only for what
    /// [`Rollups::builds_together`].
    ///
    /// # Errors
    /// As [`Rollups::table`].
    pub fn build_sql_of_several(&self, preagg: PreaggId, zone: Zone, buckets: &[Bounds]) -> Result<String, QueryError> {
        let plan = self.plan(preagg)?;
        let definition = self.model.preagg(preagg);
        let Some(time) = definition.time else {
            return Err(QueryError::Model("the rollup has no partitions".to_owned()));
        };
        let mut query = query_of(definition, self.stored_zone(preagg, zone), None);
        let within = |range: &Bounds| Filter::Leaf {
            member: Column::Raw(time.dimension),
            test: Test::InRange { start: Some(range.start), end: Some(range.end) },
        };
        query.filters.push(Filter::Or(adjoined(buckets).iter().map(within).collect()));
        let select =
            SourceSelect { model: &self.model, query: &query, shape: &plan.shape, outputs: &plan.outputs, tail: false };
        let column = layout::stored_time_column(&self.model, time);
        Ok(source_statement(select, &CubeTables::new()).latest_first(&column).inlined())
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
        let zone = self.stored_zone(preagg, zone);
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
        let query = query_of(self.model.preagg(preagg), self.stored_zone(preagg, zone), bounds);
        Ok(key_statement(&self.model, owner, sql, &query).checked()?.inlined())
    }

    /// Name of the stored column of buckets that partitions are cut by, if any.
    pub fn time_column(&self, preagg: PreaggId) -> Option<String> {
        let preagg = self.model.preagg(preagg);
        let time = preagg.time.filter(|_| preagg.kind != PreaggKind::OriginalSql)?;
        Some(layout::stored_time_column(&self.model, time))
    }

    /// Whether the rollup's SQL depends on the security context, so that it can answer no one.
    pub fn reads_claims(&self, preagg: PreaggId) -> bool {
        let own = |id: PreaggId| self.plan(id).is_ok_and(|plan| plan.reads_claims);
        own(preagg)
            || match &self.model.preagg(preagg).kind {
                PreaggKind::Join { rollups } | PreaggKind::Lambda { rollups, .. } => rollups.iter().any(|id| own(*id)),
                PreaggKind::Rollup | PreaggKind::OriginalSql => false,
            }
    }

    fn plan(&self, preagg: PreaggId) -> Result<&RollupPlan, QueryError> {
        match self.plans.get(&preagg) {
            Some(Ok(plan)) => Ok(plan),
            Some(Err(fault)) => Err(QueryError::Model(fault.clone())),
            None => Err(QueryError::Model("the rollup is not in the data model".to_owned())),
        }
    }
}

/// Any zone whose clock is not that of UTC.
const SOME_ZONE: Zone = Zone::Asia__Kathmandu;

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
    let statement = match preagg.kind {
        PreaggKind::OriginalSql => rows_statement(model, preagg.id.cube, &query),
        PreaggKind::Rollup | PreaggKind::Join { .. } | PreaggKind::Lambda { .. } => {
            source_statement(select, &CubeTables::new())
        }
    };
    let elsewhere = query_of(preagg, SOME_ZONE, None);
    // Rows of a cube are not touched; rollups are the same where their statements are.
    let zoneless = preagg.kind == PreaggKind::OriginalSql
        || source_statement(SourceSelect { query: &elsewhere, ..select }, &CubeTables::new()).inlined()
            == statement.inlined();
    let definition = format!("{partitioned}\n{}", statement.inlined());
    let reads_claims = reads(model, &query, &shape, &Template::reads_claims);
    let reads_filters = reads(model, &query, &shape, &Template::reads_filters);
    let cubes: Vec<CubeId> = shape.tree.cubes().collect();
    let keys = applied_keys(model, preagg, &cubes, &mut |_| {});
    Ok(RollupPlan { shape, outputs, definition, reads_claims, reads_filters, zoneless, keys })
}

/// A join of rollups as one; none for other kinds, and for one that cannot be planned.
fn join_of(model: &Model, preagg: &Preagg) -> Option<(PreaggId, Joined)> {
    let plan = rollup_join::plan(model, preagg).ok()?;
    let mut whole = preagg.clone();
    for leaf in preagg.measures.iter().flat_map(|id| leaves(model, *id)) {
        let stored = |step: &rollup_join::JoinStep| model.preagg(step.rollup).measures.contains(&leaf);
        if !whole.measures.contains(&leaf) && plan.steps.iter().any(stored) {
            whole.measures.push(leaf);
        }
    }
    // What no rollup stores is computed, or not there.
    whole.measures.retain(|id| plan.steps.iter().any(|step| model.preagg(step.rollup).measures.contains(id)));
    let shape = Shape { tree: plan.tree.clone(), ..shape_of(model, &whole).ok()? };
    Some((preagg.id, Joined { whole, plan, shape }))
}

/// The joins of the rows of a rollup that need not be one of the model.
///
/// # Errors
/// Its cubes do not join.
pub(super) fn shape_of(model: &Model, preagg: &Preagg) -> Result<Shape, QueryError> {
    shape(model, &query_of(preagg, Zone::UTC, None))
}

/// The stored rows of a cube's own SQL; of several the first.
pub fn original_of(model: &Model, cube: CubeId) -> Option<PreaggId> {
    let mut preaggs = model.cube(cube).preaggs.iter();
    preaggs.find(|preagg| preagg.kind == PreaggKind::OriginalSql).map(|preagg| preagg.id)
}

fn any_reads_claims(model: &Model) -> bool {
    model.cubes().iter().any(|cube| {
        let source = match &cube.source {
            CubeSource::Table(sql) | CubeSource::Query(sql) => sql.reads_claims(),
            CubeSource::View(_) => false,
        };
        let dimensions = cube.dimensions.iter().map(|dimension| MemberId::Dimension(dimension.id));
        let measures = cube.measures.iter().map(|measure| MemberId::Measure(measure.id));
        let segments = cube.segments.iter().map(|segment| MemberId::Segment(segment.id));
        let mut members = dimensions.chain(measures).chain(segments);
        source
            || cube.joins.iter().any(|join| join.sql.reads_claims())
            || members.any(|member| templates(model, member).iter().any(|template| template.reads_claims()))
    })
}

/// Whether some SQL that a query runs is of that kind.
fn reads(model: &Model, query: &Query, shape: &Shape, is_such: &dyn Fn(&Template) -> bool) -> bool {
    let of_source = |cube: CubeId| match &model.cube(cube).source {
        CubeSource::Table(sql) | CubeSource::Query(sql) => reads_through(model, sql, is_such, 0),
        CubeSource::View(_) => false,
    };
    let sources = shape.tree.cubes().any(of_source);
    let joins = shape.tree.edges.iter().any(|edge| is_such(&model.cube(edge.from).joins[edge.join].sql));
    let mut members = query.columns().into_iter().map(|column| match column {
        OutputColumn::Dimension(id) | OutputColumn::Time(id, _) => MemberId::Dimension(id),
        OutputColumn::Segment(id) => MemberId::Segment(id),
        OutputColumn::Measure(id) => MemberId::Measure(id),
    });
    let of_members = members.any(|member| {
        let mut found = false;
        visit_members(model, member, &mut |inner| {
            found |= templates(model, inner).iter().any(|template| is_such(template));
        });
        found
    });
    let of_sub_queries = shape.sub_queries.iter().flat_map(|sub_query| sub_query.plan.leaves());
    sources
        || joins
        || of_members
        || of_sub_queries.into_iter().any(|leaf| reads(model, &leaf.query, &leaf.shape, is_such))
}

/// Deepest chain of cubes that read each other's SQL.
const MAX_SOURCES: usize = 16;

fn reads_through(model: &Model, sql: &Template, is_such: &dyn Fn(&Template) -> bool, depth: usize) -> bool {
    let inner = |part: &Part| match part {
        Part::Source(cube) if depth < MAX_SOURCES => match &model.cube(*cube).source {
            CubeSource::Table(sql) | CubeSource::Query(sql) => reads_through(model, sql, is_such, depth + 1),
            CubeSource::View(_) => false,
        },
        _ => false,
    };
    is_such(sql) || sql.parts.iter().any(inner)
}

/// The times of ranges, ascending, with as few ranges as possible.
fn adjoined(ranges: &[Bounds]) -> Vec<Bounds> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut found: Vec<Bounds> = Vec::new();
    for range in sorted {
        match found.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => found.push(range),
        }
    }
    found
}

/// The rollup's rows as a query.
fn query_of(preagg: &Preagg, zone: Zone, bucket: Option<Bounds>) -> Query {
    let rows = preagg.kind == PreaggKind::OriginalSql;
    let mut range = bucket.map(|Bounds { start, end }| TimeRange { start, end });
    let time_dimensions = preagg.times().map(|time| TimeDimension {
        dimension: time.dimension,
        granularity: (!rows).then_some(time.grain),
        // Of the first one alone.
        range: range.take(),
    });
    Query {
        measures: preagg.measures.clone(),
        dimensions: preagg.dimensions.clone(),
        segment_columns: preagg.segments.clone(),
        time_dimensions: time_dimensions.collect(),
        timezone: zone,
        join_hints: if rows { vec![vec![preagg.id.cube]] } else { preagg.paths.clone() },
        ..Query::default()
    }
}
