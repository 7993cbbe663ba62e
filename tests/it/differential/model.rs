//! Random models as the tests see them: what stands in the YAML files, and nothing derived from it.

use std::fmt::Write as _;

/// A model over tables of the same names as its cubes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) cubes: Vec<Cube>,
    pub(crate) views: Vec<View>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Cube {
    pub(crate) name: String,
    /// Columns of the primary key; these are dimensions too.
    pub(crate) keys: Vec<String>,
    pub(crate) joins: Vec<Join>,
    pub(crate) dimensions: Vec<Dimension>,
    pub(crate) measures: Vec<Measure>,
    /// Names and predicates.
    pub(crate) segments: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relationship {
    ManyToOne,
    OneToMany,
    OneToOne,
}

#[derive(Debug, Clone)]
pub(crate) struct Join {
    pub(crate) to: usize,
    pub(crate) relationship: Relationship,
    pub(crate) sql: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Number,
    Boolean,
    Time,
}

#[derive(Debug, Clone)]
pub(crate) struct Dimension {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) form: Form,
    pub(crate) granularities: Vec<Granularity>,
}

#[derive(Debug, Clone)]
pub(crate) enum Form {
    Sql(String),
    /// Conditions and labels, and the label of the rest.
    Case(Vec<(String, String)>, Option<String>),
    /// A measure of another cube, and whether filters are propagated.
    SubQuery(String, bool),
}

/// `interval` from `origin`, or moved by `offset`.
#[derive(Debug, Clone)]
pub(crate) struct Granularity {
    pub(crate) name: &'static str,
    pub(crate) count: i64,
    pub(crate) unit: &'static str,
    pub(crate) origin: Option<String>,
    /// A number of units of the second text.
    pub(crate) offset: Option<(i64, &'static str)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agg {
    Count,
    CountDistinct,
    Sum,
    Avg,
    Min,
    Max,
    /// Calculated from other measures.
    Number,
}

#[derive(Debug, Clone)]
pub(crate) struct Measure {
    pub(crate) name: String,
    pub(crate) agg: Agg,
    pub(crate) sql: Option<String>,
    pub(crate) filters: Vec<String>,
    pub(crate) special: Special,
}

/// What makes a measure more than an aggregate of a group's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Special {
    No,
    Rolling(Window),
    /// Multi-stage, with the time moved by a number of units; negative for `next`.
    Shift(i64, &'static str),
}

/// An extent of a window; none is no extent.
pub(crate) type Extent = Option<Reach>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    Unbounded,
    Units(i64, &'static str),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Window {
    Fixed { trailing: Extent, leading: Extent, from_start: bool },
    ToDate(&'static str),
}

#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) name: String,
    pub(crate) entries: Vec<Entry>,
}

/// Members of the last cube of a path, under names of the view.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) path: Vec<usize>,
    pub(crate) prefix: bool,
    /// Names in the cube; none for `*`.
    pub(crate) members: Option<Vec<String>>,
}

impl Cube {
    pub(crate) fn dimension(&self, name: &str) -> Option<&Dimension> {
        self.dimensions.iter().find(|dimension| dimension.name == name)
    }

    pub(crate) fn measure(&self, name: &str) -> Option<&Measure> {
        self.measures.iter().find(|measure| measure.name == name)
    }

    pub(crate) fn segment(&self, name: &str) -> Option<&str> {
        self.segments.iter().find(|segment| segment.0 == name).map(|(_, sql)| sql.as_str())
    }

    pub(crate) fn member_names(&self) -> impl Iterator<Item = &str> {
        let dimensions = self.dimensions.iter().map(|dimension| dimension.name.as_str());
        let measures = self.measures.iter().map(|measure| measure.name.as_str());
        dimensions.chain(measures).chain(self.segments.iter().map(|segment| segment.0.as_str()))
    }
}

impl Model {
    pub(crate) fn cube(&self, name: &str) -> Option<usize> {
        self.cubes.iter().position(|cube| cube.name == name)
    }

    /// The members of a view: exposed name, path, name in the cube.
    pub(crate) fn exposed<'a>(&'a self, view: &'a View) -> Vec<(String, &'a [usize], String)> {
        let mut found = Vec::new();
        for entry in &view.entries {
            let cube = &self.cubes[*entry.path.last().expect("paths are not empty")];
            for name in cube.member_names() {
                if entry.members.as_ref().is_none_or(|members| members.iter().any(|member| member == name)) {
                    let exposed = if entry.prefix { format!("{}_{name}", cube.name) } else { name.to_owned() };
                    found.push((exposed, entry.path.as_slice(), name.to_owned()));
                }
            }
        }
        found
    }

    /// The model file.
    pub(crate) fn yaml(&self) -> String {
        let mut out = String::from("cubes:\n");
        for (position, cube) in self.cubes.iter().enumerate() {
            let _ = writeln!(out, "  - name: {}\n    sql_table: {}", cube.name, cube.name);
            // Of every second cube the rows are stored, and stand for its table.
            if position % 2 == 0 {
                out.push_str("    pre_aggregations:\n      - { name: stored_rows, type: original_sql }\n");
            }
            self.write_joins(&mut out, cube);
            write_dimensions(&mut out, cube);
            write_measures(&mut out, cube);
            out.push_str("    segments:\n");
            for (name, sql) in &cube.segments {
                let _ = writeln!(out, "      - {{ name: {name}, sql: {} }}", quoted(sql));
            }
        }
        if !self.views.is_empty() {
            out.push_str("views:\n");
        }
        for view in &self.views {
            let _ = writeln!(out, "  - name: {}\n    cubes:", view.name);
            for entry in &view.entries {
                let path: Vec<&str> = entry.path.iter().map(|cube| self.cubes[*cube].name.as_str()).collect();
                let _ = writeln!(out, "      - join_path: {}\n        prefix: {}", path.join("."), entry.prefix);
                let _ = match &entry.members {
                    None => writeln!(out, "        includes: \"*\""),
                    Some(members) => writeln!(out, "        includes: [{}]", members.join(", ")),
                };
            }
        }
        out
    }

    fn write_joins(&self, out: &mut String, cube: &Cube) {
        if !cube.joins.is_empty() {
            out.push_str("    joins:\n");
        }
        for join in &cube.joins {
            let relationship = match join.relationship {
                Relationship::ManyToOne => "many_to_one",
                Relationship::OneToMany => "one_to_many",
                Relationship::OneToOne => "one_to_one",
            };
            let (name, sql) = (&self.cubes[join.to].name, quoted(&join.sql));
            let _ = writeln!(out, "      - {{ name: {name}, relationship: {relationship}, sql: {sql} }}");
        }
    }
}

/// A YAML text in double quotes.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn write_dimensions(out: &mut String, cube: &Cube) {
    out.push_str("    dimensions:\n");
    for dimension in &cube.dimensions {
        let kind = match dimension.kind {
            Kind::Text => "string",
            Kind::Number => "number",
            Kind::Boolean => "boolean",
            Kind::Time => "time",
        };
        let _ = writeln!(out, "      - name: {}\n        type: {kind}", dimension.name);
        if cube.keys.contains(&dimension.name) {
            out.push_str("        primary_key: true\n        public: true\n");
        }
        match &dimension.form {
            Form::Sql(sql) => drop(writeln!(out, "        sql: {}", quoted(sql))),
            Form::SubQuery(measure, propagated) => {
                let _ = writeln!(out, "        sql: {}\n        sub_query: true", quoted(measure));
                let _ = writeln!(out, "        propagate_filters_to_sub_query: {propagated}");
            }
            Form::Case(branches, otherwise) => {
                out.push_str("        case:\n          when:\n");
                for (condition, label) in branches {
                    let _ = writeln!(out, "            - {{ sql: {}, label: {} }}", quoted(condition), quoted(label));
                }
                if let Some(label) = otherwise {
                    let _ = writeln!(out, "          else: {{ label: {} }}", quoted(label));
                }
            }
        }
        if !dimension.granularities.is_empty() {
            out.push_str("        granularities:\n");
        }
        for granularity in &dimension.granularities {
            let Granularity { name, count, unit, .. } = granularity;
            let _ = write!(out, "          - {{ name: {name}, interval: {count} {unit}");
            if let Some(origin) = &granularity.origin {
                let _ = write!(out, ", origin: \"{origin}\"");
            }
            if let Some((count, unit)) = granularity.offset {
                let _ = write!(out, ", offset: {count} {unit}");
            }
            out.push_str(" }\n");
        }
    }
}

fn write_measures(out: &mut String, cube: &Cube) {
    out.push_str("    measures:\n");
    for measure in &cube.measures {
        let agg = match measure.agg {
            Agg::Count => "count",
            Agg::CountDistinct => "count_distinct",
            Agg::Sum => "sum",
            Agg::Avg => "avg",
            Agg::Min => "min",
            Agg::Max => "max",
            Agg::Number => "number",
        };
        let _ = writeln!(out, "      - name: {}\n        type: {agg}", measure.name);
        if let Some(sql) = &measure.sql {
            let _ = writeln!(out, "        sql: {}", quoted(sql));
        }
        if !measure.filters.is_empty() {
            let filters: Vec<String> =
                measure.filters.iter().map(|sql| format!("{{ sql: {} }}", quoted(sql))).collect();
            let _ = writeln!(out, "        filters: [{}]", filters.join(", "));
        }
        match &measure.special {
            Special::No => {}
            Special::Shift(count, unit) => {
                let kind = if *count < 0 { "next" } else { "prior" };
                let _ = writeln!(out, "        multi_stage: true\n        time_shift:");
                let _ = writeln!(out, "          - {{ interval: {} {unit}, type: {kind} }}", count.abs());
            }
            Special::Rolling(Window::ToDate(unit)) => {
                let _ = writeln!(out, "        rolling_window: {{ type: to_date, granularity: {unit} }}");
            }
            Special::Rolling(Window::Fixed { trailing, leading, from_start }) => {
                let mut parts = vec![format!("offset: {}", if *from_start { "start" } else { "end" })];
                for (name, extent) in [("trailing", trailing), ("leading", leading)] {
                    match extent {
                        None => {}
                        Some(Reach::Unbounded) => parts.push(format!("{name}: unbounded")),
                        Some(Reach::Units(count, unit)) => parts.push(format!("{name}: {count} {unit}")),
                    }
                }
                let _ = writeln!(out, "        rolling_window: {{ {} }}", parts.join(", "));
            }
        }
    }
}
