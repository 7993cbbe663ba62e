//! Where the model's members come from: tables, columns and other members, read from its SQL. For the metadata only.
//!
//! Pure and total: SQL that does not parse has no lineage. [`sql`] alone parses.

mod sql;

use self::sql::{PLACEHOLDER, Relation, Rows, add_new, read_expression, read_query};
use crate::model::template::{ClaimUse, FilterColumn};
use crate::model::{
    Cube, CubeId, CubeSource, Dimension, DimensionKind, Measure, MeasureKind, MemberId, Model, Part, Template,
};

/// A table of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRef {
    /// The first part of a name of three.
    pub database: Option<String>,
    /// The part before the table's name.
    pub schema: Option<String>,
    /// The table's name.
    pub table: String,
}

impl TableRef {
    /// From the parts of a name; none for no part or more than three.
    fn of(parts: &[String]) -> Option<Self> {
        let (database, schema, table) = match parts {
            [table] => (None, None, table),
            [schema, table] => (None, Some(schema.clone()), table),
            [database, schema, table] => (Some(database.clone()), Some(schema.clone()), table),
            _ => return None,
        };
        Some(Self { database, schema, table: table.clone() })
    }
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnRef {
    /// The table.
    pub table: TableRef,
    /// The column's name.
    pub column: String,
}

/// Where a member comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberLineage {
    /// Members that its definition names, in order.
    pub members: Vec<MemberId>,
    /// Columns that its own SQL names, in order; not those of the members.
    pub columns: Vec<ColumnRef>,
}

/// Where a cube or view comes from.
#[derive(Debug, Default)]
pub struct CubeLineage {
    /// Tables that its rows are read from, in order; none for a view.
    pub tables: Vec<TableRef>,
    /// Other cubes that its definition names: joined, imported, referenced.
    pub cubes: Vec<CubeId>,
    /// One a measure.
    pub measures: Vec<MemberLineage>,
    /// One a dimension.
    pub dimensions: Vec<MemberLineage>,
    /// One a segment.
    pub segments: Vec<MemberLineage>,
    /// The columns that its joins compare, one list a join.
    pub joins: Vec<Vec<ColumnRef>>,
}

/// Where everything in a model comes from.
#[derive(Debug)]
pub struct Lineage {
    cubes: Vec<CubeLineage>,
}

impl Lineage {
    /// Reads all SQL of a model.
    pub fn of(model: &Model) -> Self {
        let mut sources = Sources { model, read: model.cubes().iter().map(|_| Progress::Unread).collect() };
        for cube in model.cubes() {
            sources.read(cube.id);
        }
        let sources: Vec<Source> = sources.read.into_iter().map(Progress::finished).collect();
        let cubes = model.cubes().iter().map(|cube| Tracer { model, sources: &sources, cube }.trace());
        Self { cubes: cubes.collect() }
    }

    /// The lineage of a cube of the same model.
    pub fn cube(&self, id: CubeId) -> &CubeLineage {
        &self.cubes[id.index()]
    }
}

/// What a cube's rows are.
#[derive(Debug, Clone)]
struct Source {
    rows: Rows,
    tables: Vec<TableRef>,
}

enum Progress {
    Unread,
    /// A cube that reads itself has no lineage.
    Reading,
    Read(Source),
}

impl Progress {
    fn finished(self) -> Source {
        match self {
            Self::Read(source) => source,
            Self::Unread | Self::Reading => Source { rows: Rows::Unknown, tables: Vec::new() },
        }
    }
}

/// Reads the tables and queries of cubes, those first that others are made of.
struct Sources<'m> {
    model: &'m Model,
    read: Vec<Progress>,
}

impl Sources<'_> {
    fn read(&mut self, id: CubeId) {
        if !matches!(self.read[id.index()], Progress::Unread) {
            return;
        }
        self.read[id.index()] = Progress::Reading;
        let text = match &self.model.cube(id).source {
            CubeSource::Table(table) => format!("SELECT * FROM {}", text_of(table)),
            CubeSource::Query(query) => text_of(query),
            CubeSource::View(_) => String::new(),
        };
        let inner = sources_of(self.model, id);
        for cube in &inner {
            self.read(*cube);
        }
        let known = |name: &str| match &self.read[placeholder_of(name)?.index()] {
            Progress::Read(source) => Some(source.rows.clone()),
            Progress::Unread | Progress::Reading => Some(Rows::Unknown),
        };
        let mut source = match read_query(&text, &known) {
            Some(query) => Source { rows: query.rows, tables: query.tables },
            None => Source { rows: Rows::Unknown, tables: Vec::new() },
        };
        for cube in inner {
            if let Progress::Read(inner) = &self.read[cube.index()] {
                add_new(&mut source.tables, inner.tables.iter().cloned());
            }
        }
        self.read[id.index()] = Progress::Read(source);
    }
}

/// The cubes whose SQL stands in a cube's own.
fn sources_of(model: &Model, id: CubeId) -> Vec<CubeId> {
    let (CubeSource::Table(sql) | CubeSource::Query(sql)) = &model.cube(id).source else { return Vec::new() };
    let mut cubes = Vec::new();
    for part in &sql.parts {
        if let Part::Source(cube) = part {
            add_new(&mut cubes, [*cube]);
        }
    }
    cubes
}

/// Follows the members of one cube.
struct Tracer<'a> {
    model: &'a Model,
    sources: &'a [Source],
    cube: &'a Cube,
}

impl Tracer<'_> {
    fn trace(&self) -> CubeLineage {
        let cube = self.cube;
        let measures: Vec<_> = cube.measures.iter().map(|measure| self.measure(measure)).collect();
        let dimensions: Vec<_> = cube.dimensions.iter().map(|dimension| self.dimension(dimension)).collect();
        let segments: Vec<_> = cube.segments.iter().map(|segment| self.member(&[&segment.sql], &[])).collect();
        let mut cubes = sources_of(self.model, cube.id);
        add_new(&mut cubes, cube.joins.iter().map(|join| join.to));
        add_new(&mut cubes, cube.view().into_iter().flat_map(|view| view.roots.iter().copied()));
        let of_measures = cube.measures.iter().flat_map(Measure::templates);
        let of_dimensions = cube.dimensions.iter().flat_map(Dimension::templates);
        for template in of_measures.chain(of_dimensions).chain(cube.segments.iter().map(|segment| &segment.sql)) {
            for part in &template.parts {
                if let Part::Path(path) = part {
                    add_new(&mut cubes, path.iter().copied());
                }
            }
        }
        let all = measures.iter().chain(&dimensions).chain(&segments);
        add_new(&mut cubes, all.flat_map(|member| member.members.iter().map(|member| member.cube())));
        cubes.retain(|other| *other != cube.id);
        CubeLineage {
            tables: self.sources[cube.id.index()].tables.clone(),
            cubes,
            measures,
            dimensions,
            segments,
            joins: cube.joins.iter().map(|join| self.columns(&join.sql)).collect(),
        }
    }

    fn measure(&self, measure: &Measure) -> MemberLineage {
        let mut named = match &measure.kind {
            MeasureKind::Switch(switch) => vec![MemberId::Dimension(switch.switch)],
            MeasureKind::Aggregate { .. } | MeasureKind::Calculated { .. } | MeasureKind::Rank(_) => Vec::new(),
        };
        if let Some(stage) = &measure.stage {
            let grain = stage.grain.keep_only.iter().flatten().chain(&stage.grain.exclude).chain(&stage.grain.include);
            let shifted = stage.shifts.iter().filter_map(|shift| shift.dimension);
            named.extend(grain.map(|(id, _)| *id).chain(shifted).map(MemberId::Dimension));
        }
        self.member(&measure.templates(), &named)
    }

    fn dimension(&self, dimension: &Dimension) -> MemberLineage {
        let named: Vec<MemberId> = match &dimension.kind {
            DimensionKind::SubQuery(sub_query) => sub_query.by.iter().map(|(by, _)| MemberId::Dimension(*by)).collect(),
            DimensionKind::Sql(_) | DimensionKind::Case(_) | DimensionKind::Geo { .. } | DimensionKind::Switch(_) => {
                Vec::new()
            }
        };
        self.member(&dimension.templates(), &named)
    }

    fn member(&self, templates: &[&Template], named: &[MemberId]) -> MemberLineage {
        let mut lineage = MemberLineage::default();
        for template in templates {
            add_new(&mut lineage.members, template.members());
            add_new(&mut lineage.columns, self.columns(template));
        }
        add_new(&mut lineage.members, named.iter().copied());
        lineage
    }

    /// The columns that a fragment names.
    fn columns(&self, template: &Template) -> Vec<ColumnRef> {
        // A reference and nothing else, as all members of views are.
        if template.as_member().is_some() {
            return Vec::new();
        }
        let own = &self.sources[self.cube.id.index()].rows;
        let relation = |name: String, rows: &Rows, bare| Relation { name: vec![name], rows: rows.clone(), bare };
        let mut relations =
            vec![relation(placeholder(self.cube.id), own, true), relation(self.cube.name.clone(), own, false)];
        for part in &template.parts {
            if let Part::Cube(other) = part
                && *other != self.cube.id
            {
                relations.push(relation(placeholder(*other), &self.sources[other.index()].rows, false));
            }
        }
        read_expression(&text_of(template), relations).unwrap_or_default()
    }
}

fn placeholder(cube: CubeId) -> String {
    format!("{PLACEHOLDER}{}", cube.index())
}

fn placeholder_of(name: &str) -> Option<CubeId> {
    name.strip_prefix(PLACEHOLDER)?.parse().ok().map(CubeId)
}

/// A fragment with its references replaced by something that parses.
fn text_of(template: &Template) -> String {
    let mut text = String::new();
    for part in &template.parts {
        match part {
            Part::Text(sql) => text.push_str(sql),
            Part::Cube(cube) => text.push_str(&placeholder(*cube)),
            Part::Member(_) | Part::Time(..) => text.push_str(&format!("{PLACEHOLDER}member")),
            Part::Source(cube) => text.push_str(&format!("(SELECT * FROM {})", placeholder(*cube))),
            Part::Local(inner) => text.push_str(&format!("({}\n)", text_of(inner))),
            Part::Filters(params) => {
                let columns = params.iter().map(|param| column_text(&param.column));
                text.push_str(&format!("({})", columns.collect::<Vec<_>>().join(" AND ")));
            }
            Part::Claim(claim) => match &claim.usage {
                ClaimUse::Value => text.push_str("NULL"),
                ClaimUse::Unsafe => text.push_str(&format!("{PLACEHOLDER}claim")),
                ClaimUse::Filter { column, .. } => text.push_str(&column_text(column)),
            },
            Part::Parameter(_) => text.push_str("NULL"),
            Part::Path(_) => {}
        }
    }
    text
}

/// The condition on a column that a filter puts in.
fn column_text(column: &FilterColumn) -> String {
    match column {
        FilterColumn::Column(sql) => format!("({sql}\n IS NULL)"),
        FilterColumn::Function(_, body) => format!("({}\n)", text_of(body)),
    }
}

#[cfg(test)]
mod tests;
