//! What names mean: look-ups over all raw cubes, and the resolution of references (`data-model.md` §2.1).

use std::collections::{HashMap, HashSet};

use super::cube::{CubeId, DataType, DimensionId, MeasureId, MemberId, SegmentId};
use super::diagnostic::Diagnostic;
use super::fields::{ESCAPE_HINT, Place, Report, Text};
use super::raw::{About, RawCube, RawDimension, RawView};
use super::template::{Braced, Part, Piece, Template, pieces};
use super::yaml::Mark;
use crate::names::{is_identifier, nearest};
use crate::time::Granularity;

/// Names with a meaning of their own that is not supported here.
const CONTEXT_NAMES: [&str; 8] = [
    "SECURITY_CONTEXT",
    "securityContext",
    "security_context",
    "FILTER_PARAMS",
    "FILTER_GROUP",
    "SQL_UTILS",
    "COMPILE_CONTEXT",
    "USER_CONTEXT",
];

/// All names of a project.
#[derive(Debug)]
pub(super) struct Symbols<'r> {
    raw: &'r [RawCube],
    cubes: HashMap<&'r str, CubeId>,
    views: HashSet<&'r str>,
    members: Vec<HashMap<&'r str, Symbol>>,
    /// Words of what could not be read: names that may well exist.
    doubtful: HashSet<String>,
    /// A file could not be read at all: any name may exist.
    doubt_all: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Symbol {
    Member(MemberId),
    Rollup,
}

/// What a reference stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Cube(CubeId),
    Member(MemberId),
    Time(DimensionId, Granularity),
    /// A granularity that the model defines and this version does not compute.
    CustomTime(DimensionId),
}

/// Why a reference stands for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unresolved {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// A resolved fragment with the place of each part, and what stands in the way of computing it.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    pub(super) parts: Vec<(Part, Mark)>,
    pub(super) unsupported: Option<&'static str>,
}

impl Resolved {
    pub(super) fn into_template(self) -> Template {
        Template { parts: self.parts.into_iter().map(|(part, _)| part).collect() }
    }
}

impl<'r> Symbols<'r> {
    /// Collects the names; names given twice are faults, and the first one stands.
    pub(super) fn collect(raw: &'r [RawCube], views: &'r [RawView], report: &mut Report) -> Self {
        let mut cubes: HashMap<&str, CubeId> = HashMap::with_capacity(raw.len());
        for (index, cube) in raw.iter().enumerate().filter(|(_, cube)| !cube.about.name.is_empty()) {
            if let Some(first) = cubes.get(cube.about.name.as_str()) {
                let message = format!("Found duplicate cube name '{}'.", cube.about.name);
                let first = &raw[first.index()].about;
                report.error(&cube.about.place, cube.about.mark, message).hint = Some(also_at(first));
            } else {
                cubes.insert(&cube.about.name, CubeId(id(index)));
            }
        }
        let mut names: HashSet<&str> = HashSet::with_capacity(views.len());
        for view in views {
            if cubes.contains_key(view.name.as_str()) {
                let message = format!("Found conflicting cube and view name '{}'.", view.name);
                report.error(&view.place, view.mark, message);
            } else if !names.insert(&view.name) {
                report.error(&view.place, view.mark, format!("Found duplicate view name '{}'.", view.name));
            }
        }
        let members =
            raw.iter().enumerate().map(|(index, cube)| collect_members(CubeId(id(index)), cube, report)).collect();
        Self {
            raw,
            cubes,
            views: names,
            members,
            doubtful: std::mem::take(&mut report.doubtful),
            doubt_all: report.doubt_all,
        }
    }

    pub(super) fn find_cube(&self, name: &str) -> Option<CubeId> {
        self.cubes.get(name).copied()
    }

    fn is_doubtful(&self, name: &str) -> bool {
        self.doubt_all || self.doubtful.contains(name)
    }

    /// Why there is no cube of that name; none when it may be in a file that could not be read.
    pub(super) fn missing_cube(&self, name: &str) -> Option<Unresolved> {
        if self.is_doubtful(name) {
            return None;
        }
        if self.views.contains(name) {
            return Some(self.unusable_view(name));
        }
        let near = nearest(name, self.cubes.keys().copied());
        Some(Unresolved { message: format!("Cube {name} doesn't exist"), hint: near.map(did_you_mean) })
    }

    /// Resolves a fragment of `owner`. What does not resolve is reported and left out.
    pub(super) fn template(&self, text: &Text, owner: CubeId, place: &Place, report: &mut Report) -> Resolved {
        let mut resolved = Resolved::default();
        let pieces = pieces(&text.text).unwrap_or_else(|fault| {
            report.error(place, text.brace(fault.brace()), fault.message()).hint = Some(ESCAPE_HINT.to_owned());
            Vec::new()
        });
        for piece in pieces {
            let mark = text.mark;
            let braced = match piece {
                Piece::Text(text) => {
                    resolved.parts.push((Part::Text(text), mark));
                    continue;
                }
                Piece::Braced(braced) => braced,
            };
            let part = match self.braced(&braced, owner) {
                Ok(Target::Cube(cube)) => Part::Cube(cube),
                Ok(Target::Member(member)) => Part::Member(member),
                Ok(Target::Time(dimension, granularity)) => Part::Time(dimension, granularity),
                Ok(Target::CustomTime(dimension)) => {
                    resolved.unsupported = Some("granularities");
                    Part::Member(MemberId::Dimension(dimension))
                }
                Err(None) => continue,
                Err(Some(why)) => {
                    report.error(place, text.brace(braced.brace), why.message).hint = why.hint;
                    continue;
                }
            };
            resolved.parts.push((part, text.brace(braced.brace)));
        }
        resolved
    }

    /// Resolves a position that takes a bare reference, with or without one pair of braces. `Err(None)` when it
    /// may be defined in a file that could not be read.
    pub(super) fn reference(&self, text: &str, owner: CubeId) -> Result<Target, Option<Unresolved>> {
        let bare = text.trim();
        let bare = bare.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(bare).trim();
        self.braced(&Braced { content: bare.to_owned(), brace: 0 }, owner)
    }

    fn braced(&self, braced: &Braced, owner: CubeId) -> Result<Target, Option<Unresolved>> {
        let content = braced.content.as_str();
        let head = content.split(['.', '(', ' ']).next().unwrap_or_default();
        if CONTEXT_NAMES.contains(&head) {
            let message = match head {
                "USER_CONTEXT" => {
                    "Support for USER_CONTEXT was removed, please migrate to SECURITY_CONTEXT.".to_owned()
                }
                _ => format!("{head} is not supported by this version"),
            };
            return Err(Some(Unresolved { message, hint: None }));
        }
        let path: Vec<&str> = content.split('.').map(str::trim).collect();
        if path.iter().all(|name| is_identifier(name)) {
            return self.resolve(&path, owner);
        }
        let message = if content.is_empty() {
            "a reference is missing between the braces".to_owned()
        } else if content.contains('(') {
            format!("the call '{content}' is not supported by this version")
        } else {
            format!("'{content}' is not a reference")
        };
        Err(Some(Unresolved { message, hint: Some(ESCAPE_HINT.to_owned()) }))
    }

    fn resolve(&self, path: &[&str], owner: CubeId) -> Result<Target, Option<Unresolved>> {
        let (head, rest) = path.split_first().ok_or(None)?;
        let cube = match *head {
            "CUBE" | "TABLE" => Some(owner),
            name => self.find_cube(name),
        };
        match (cube, rest) {
            (Some(cube), []) => Ok(Target::Cube(cube)),
            (Some(cube), [member, rest @ ..]) => match self.members[cube.index()].get(member) {
                Some(symbol) => self.finish(cube, member, *symbol, rest),
                None => Err(self.missing_member(cube, member)),
            },
            (None, _) if self.views.contains(head) => Err(Some(self.unusable_view(head))),
            (None, rest) => match self.members[owner.index()].get(head) {
                Some(symbol) => self.finish(owner, head, *symbol, rest),
                None => Err(self.missing_name(head, owner)),
            },
        }
    }

    /// A member that was found, and what follows its name.
    fn finish(&self, cube: CubeId, name: &str, symbol: Symbol, rest: &[&str]) -> Result<Target, Option<Unresolved>> {
        let path = format!("{}.{name}", self.raw[cube.index()].about.name);
        let member = match symbol {
            Symbol::Member(member) => member,
            Symbol::Rollup => {
                let message = format!("'{path}' is a pre-aggregation and cannot be referenced here");
                return Err(Some(Unresolved { message, hint: None }));
            }
        };
        match (member, rest) {
            (_, []) => Ok(Target::Member(member)),
            (MemberId::Dimension(id), [word]) => match self.granularity(id, word) {
                Some(Ok(granularity)) => Ok(Target::Time(id, granularity)),
                Some(Err(())) => Ok(Target::CustomTime(id)),
                None => Err(self.missing_granularity(id, &path, word)),
            },
            (_, rest) => {
                let message = format!("{path}.{} cannot be resolved. There's no such member or cube.", rest.join("."));
                Err(Some(Unresolved { message, hint: None }))
            }
        }
    }

    /// A built-in granularity, or `Err` for one that the dimension defines.
    fn granularity(&self, id: DimensionId, word: &str) -> Option<Result<Granularity, ()>> {
        let dimension = self.raw_dimension(id);
        if dimension.custom_granularities.iter().any(|name| name == word) {
            return Some(Err(()));
        }
        let built_in = Granularity::ALL.into_iter().find(|g| g.as_str() == word)?;
        (dimension.data_type == Some(DataType::Time)).then_some(Ok(built_in))
    }

    fn missing_granularity(&self, id: DimensionId, path: &str, word: &str) -> Option<Unresolved> {
        let dimension = self.raw_dimension(id);
        let hint = match dimension.data_type {
            None => return None,
            Some(DataType::Time) => {
                let custom = dimension.custom_granularities.iter().map(String::as_str);
                nearest(word, Granularity::ALL.map(Granularity::as_str).into_iter().chain(custom)).map(did_you_mean)
            }
            Some(_) => Some(format!("'{path}' is not a time dimension")),
        };
        let message = format!("{path}.{word} cannot be resolved. There's no such member or cube.");
        Some(Unresolved { message, hint })
    }

    pub(super) fn raw_dimension(&self, id: DimensionId) -> &'r RawDimension {
        &self.raw[id.cube.index()].dimensions[id.index as usize]
    }

    fn missing_member(&self, cube: CubeId, name: &str) -> Option<Unresolved> {
        let raw = &self.raw[cube.index()];
        if raw.extends || self.is_doubtful(name) {
            return None;
        }
        if self.cubes.contains_key(name) {
            let message = format!("the join path '{}.{name}' is not supported by this version", raw.about.name);
            let hint = Some(format!("begin with '{name}'; cubes are joined along the shortest path"));
            return Some(Unresolved { message, hint });
        }
        let message = format!("{}.{name} cannot be resolved. There's no such member or cube.", raw.about.name);
        let near = nearest(name, self.members[cube.index()].keys().copied());
        let hint = near.map(|near| did_you_mean(&format!("{}.{near}", raw.about.name)));
        Some(Unresolved { message, hint })
    }

    fn missing_name(&self, name: &str, owner: CubeId) -> Option<Unresolved> {
        if self.raw[owner.index()].extends || self.is_doubtful(name) {
            return None;
        }
        let names = self.members[owner.index()].keys().chain(self.cubes.keys()).copied().chain(["CUBE"]);
        Some(Unresolved { message: format!("{name} is not defined"), hint: nearest(name, names).map(did_you_mean) })
    }

    fn unusable_view(&self, name: &str) -> Unresolved {
        let message = format!("'{name}' is a view; views cannot be referenced");
        Unresolved { message, hint: Some("name the cube that defines the member".to_owned()) }
    }
}

/// The members of one cube; complains of names given twice (`data-model.md` §1.1, §1.2).
fn collect_members<'r>(cube: CubeId, raw: &'r RawCube, report: &mut Report) -> HashMap<&'r str, Symbol> {
    let measure = |index| Symbol::Member(MemberId::Measure(MeasureId { cube, index }));
    let dimension = |index| Symbol::Member(MemberId::Dimension(DimensionId { cube, index }));
    let segment = |index| Symbol::Member(MemberId::Segment(SegmentId { cube, index }));
    let measures = raw.measures.iter().enumerate().map(|(i, m)| ("measure", &m.about, measure(id(i))));
    let dimensions = raw.dimensions.iter().enumerate().map(|(i, d)| ("dimension", &d.about, dimension(id(i))));
    let segments = raw.segments.iter().enumerate().map(|(i, s)| ("segment", &s.about, segment(id(i))));
    let rollups = raw.rollups.iter().map(|r| ("preAggregation", &r.about, Symbol::Rollup));
    let mut symbols: HashMap<&str, Symbol> = HashMap::new();
    let mut firsts: HashMap<&str, (&str, &About)> = HashMap::new();
    let named = measures.chain(dimensions).chain(segments).chain(rollups).filter(|(_, a, _)| !a.name.is_empty());
    for (kind, about, symbol) in named {
        let Some((first_kind, first)) = firsts.get(about.name.as_str()) else {
            firsts.insert(&about.name, (kind, about));
            symbols.insert(&about.name, symbol);
            continue;
        };
        let message = if *first_kind == kind {
            let (member, cube) = (&about.name, &raw.about.name);
            format!("Member names must be unique within a cube. Found duplicate {kind} '{member}' in cube '{cube}'.")
        } else {
            format!("{} cube: {} defined more than once", raw.about.name, about.name)
        };
        report.error(&about.place, about.mark, message).hint = Some(also_at(first));
    }
    symbols
}

fn also_at(first: &About) -> String {
    let location = first.place.location(first.mark);
    format!("it is defined at {}:{} already", location.file.display(), location.line)
}

pub(super) fn did_you_mean(name: &str) -> String {
    format!("did you mean '{name}'?")
}

/// Positions fit: a file holds at most a million values.
fn id(index: usize) -> u32 {
    u32::try_from(index).expect("fewer than 2^32 definitions")
}

/// Adds `why` at a place; nothing when there is nothing to say.
pub(super) fn report_unresolved<'p>(
    why: Option<Unresolved>,
    place: &Place,
    mark: Mark,
    report: &'p mut Report,
) -> Option<&'p mut Diagnostic> {
    let why = why?;
    let diagnostic = report.error(place, mark, why.message);
    diagnostic.hint = why.hint;
    Some(diagnostic)
}
