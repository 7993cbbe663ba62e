//! A query of a request, taken apart by the tests' own rules.

use serde_json::Value;

use super::model::{Agg, Form, Kind, Model, Special};
use super::tree::{Hint, Piece, Refusal};

/// A member: the path that leads to its cube, and its name there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) path: Vec<usize>,
    pub(crate) name: String,
    /// The paths of the measures that it is a part of.
    pub(crate) under: Vec<Hint>,
}

impl Member {
    pub(crate) fn new(path: Vec<usize>, name: &str) -> Self {
        Self { path, name: name.to_owned(), under: Vec::new() }
    }

    pub(crate) fn cube(&self) -> usize {
        *self.path.last().expect("paths are not empty")
    }
}

/// A time dimension of a query.
#[derive(Debug, Clone)]
pub(crate) struct Time {
    pub(crate) member: Member,
    pub(crate) granularity: Option<String>,
    /// First and last local millisecond.
    pub(crate) range: Option<(String, String)>,
}

/// A column that rows are grouped by.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    /// As the answer calls it.
    pub(crate) column: String,
    pub(crate) member: Member,
    pub(crate) granularity: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Ask {
    pub(crate) first_hints: Vec<Hint>,
    pub(crate) measures: Vec<(String, Member)>,
    pub(crate) groups: Vec<Group>,
    pub(crate) times: Vec<Time>,
    pub(crate) segments: Vec<Member>,
    pub(crate) filters: Vec<Filter>,
    pub(crate) measure_filters: Vec<Filter>,
    pub(crate) zone: String,
}

#[derive(Debug, Clone)]
pub(crate) enum Filter {
    All(Vec<Filter>),
    Any(Vec<Filter>),
    Leaf { member: Member, operator: String, values: Vec<Option<String>> },
}

impl Filter {
    pub(crate) fn members(&self) -> Vec<&Member> {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().flat_map(Self::members).collect(),
            Self::Leaf { member, .. } => vec![member],
        }
    }
}

impl Model {
    /// The member that a query calls `name`.
    pub(crate) fn member(&self, name: &str) -> Result<Member, Refusal> {
        let unknown = || Refusal::Open(format!("no member {name}"));
        let (owner, member) = name.split_once('.').ok_or_else(unknown)?;
        if let Some(cube) = self.cube(owner) {
            return Ok(Member::new(vec![cube], member));
        }
        let view = self.views.iter().find(|view| view.name == owner).ok_or_else(unknown)?;
        let exposed = self.exposed(view).into_iter().find(|(exposed, ..)| exposed == member);
        let (_, path, name) = exposed.ok_or_else(unknown)?;
        Ok(Member::new(path.to_vec(), &name))
    }

    pub(crate) fn kind(&self, member: &Member) -> Kind {
        self.cubes[member.cube()].dimension(&member.name).map_or(Kind::Number, |dimension| dimension.kind)
    }

    /// Reads a request.
    pub(crate) fn ask(&self, query: &Value) -> Result<Ask, Refusal> {
        let list = |key: &str| crate::answers::texts(&query[key]);
        let mut ask = Ask { zone: query["timezone"].as_str().unwrap_or("UTC").to_owned(), ..Ask::default() };
        for name in list("measures") {
            ask.measures.push((name.clone(), self.member(&name)?));
        }
        for name in list("dimensions") {
            ask.groups.push(Group { member: self.member(&name)?, column: name, granularity: None });
        }
        for time in query["timeDimensions"].as_array().into_iter().flatten() {
            let name = time["dimension"].as_str().unwrap_or_default();
            let member = self.member(name)?;
            let granularity = time["granularity"].as_str().map(str::to_owned);
            if let Some(granularity) = granularity.clone() {
                let column = format!("{name}.{granularity}");
                ask.groups.push(Group { column, member: member.clone(), granularity: Some(granularity) });
            }
            let range = crate::answers::texts(&time["dateRange"]);
            let range = range.first().zip(range.last()).map(|(from, to)| (start_of(from), end_of(to)));
            ask.times.push(Time { member, granularity, range });
        }
        for name in list("segments") {
            ask.segments.push(self.member(&name)?);
        }
        for filter in query["filters"].as_array().into_iter().flatten() {
            let filter = self.filter(filter)?;
            let over_measures = filter.members().iter().any(|m| self.cubes[m.cube()].measure(&m.name).is_some());
            if over_measures { ask.measure_filters.push(filter) } else { ask.filters.push(filter) }
        }
        if ask.measures.is_empty() && ask.groups.is_empty() {
            return Err(Refusal::Open("nothing is asked".to_owned()));
        }
        Ok(ask)
    }

    fn filter(&self, filter: &Value) -> Result<Filter, Refusal> {
        let all = |list: &Value| -> Result<Vec<Filter>, Refusal> {
            list.as_array().into_iter().flatten().map(|part| self.filter(part)).collect()
        };
        for (key, group) in [("and", Filter::All as fn(Vec<Filter>) -> Filter), ("or", Filter::Any)] {
            if filter[key].is_array() {
                let mut parts = all(&filter[key])?;
                // A group of one is no group.
                return Ok(if parts.len() == 1 { parts.remove(0) } else { group(parts) });
            }
        }
        let text = |key: &str| filter[key].as_str().unwrap_or_default().to_owned();
        let values = filter["values"].as_array().into_iter().flatten().map(|v| v.as_str().map(str::to_owned));
        Ok(Filter::Leaf { member: self.member(&text("member"))?, operator: text("operator"), values: values.collect() })
    }

    /// The measures under a measure that are not calculated from others.
    pub(crate) fn units(&self, member: &Member, found: &mut Vec<Member>) {
        let measure = self.measure(member);
        if measure.agg != Agg::Number || measure.special != Special::No {
            if !found.iter().any(|known| known.cube() == member.cube() && known.name == member.name) {
                found.push(member.clone());
            }
            return;
        }
        for inner in self.references(member) {
            self.units(&inner, found);
        }
    }

    pub(crate) fn measure(&self, member: &Member) -> &super::model::Measure {
        self.cubes[member.cube()].measure(&member.name).unwrap_or_else(|| panic!("{member:?} is no measure"))
    }

    /// The members that a member's SQL names.
    pub(crate) fn references(&self, member: &Member) -> Vec<Member> {
        let mut found = Vec::new();
        for sql in self.fragments(member.cube(), &member.name) {
            for piece in self.pieces(member.cube(), sql) {
                if let Piece::Member(path, name) = piece {
                    let under = member.under.iter().chain([&member.path]).cloned().collect();
                    found.push(Member { under, ..Member::new(path, name) });
                }
            }
        }
        found
    }

    /// The sub-query dimensions under a member.
    pub(crate) fn sub_queries(&self, member: &Member, found: &mut Vec<Member>) {
        let dimension = self.cubes[member.cube()].dimension(&member.name);
        if matches!(dimension.map(|dimension| &dimension.form), Some(Form::SubQuery(..))) {
            let plain = Member::new(vec![member.cube()], &member.name);
            if !found.contains(&plain) {
                found.push(plain);
            }
        }
        for inner in self.references(member) {
            self.sub_queries(&inner, found);
        }
    }
}

/// The first millisecond of a date or a time.
pub(crate) fn start_of(text: &str) -> String {
    if text.len() == 10 { format!("{text}T00:00:00.000") } else { text.to_owned() }
}

/// The last millisecond of a date, or the time.
pub(crate) fn end_of(text: &str) -> String {
    if text.len() == 10 { format!("{text}T23:59:59.999") } else { text.to_owned() }
}
