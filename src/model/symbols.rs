//! What names mean: look-ups over all raw cubes (`data-model.md` §2.1).

use std::collections::{HashMap, HashSet};

use super::cube::{CubeId, DataType, DimensionId, Grain, MeasureId, MemberId, SegmentId};
use super::diagnostic::Diagnostic;
use super::fields::{Place, Report};
use super::raw::{About, RawCube};
use super::raw_dimension::RawDimension;
use super::raw_view::RawView;
use super::yaml::Mark;
use crate::names::{is_identifier, nearest};
use crate::time::Granularity;

/// All names of a project.
#[derive(Debug)]
pub(super) struct Symbols<'r> {
    raw: &'r [RawCube],
    /// The security context that the model is compiled for.
    pub(super) context: serde_json::Value,
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
    Hierarchy,
}

/// What a reference stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Cube(CubeId),
    Member(MemberId),
    Time(DimensionId, Grain),
}

/// What a reference stands for, and the cubes along which it is reached when it says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    /// Two cubes or more; empty when the shortest path will do.
    pub(super) path: Vec<CubeId>,
    pub(super) target: Target,
}

/// Why a reference stands for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unresolved {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Unresolved {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }
}

impl<'r> Symbols<'r> {
    /// Collects the names; names given twice are faults, and the first one stands.
    pub(super) fn collect(
        raw: &'r [RawCube],
        views: &'r [RawView],
        context: serde_json::Value,
        report: &mut Report,
    ) -> Self {
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
        for About { place, mark, name, .. } in views.iter().map(|view| &view.about).filter(|a| !a.name.is_empty()) {
            if cubes.contains_key(name.as_str()) {
                report.error(place, *mark, format!("Found conflicting cube and view name '{name}'."));
            } else if !names.insert(name) {
                report.error(place, *mark, format!("Found duplicate view name '{name}'."));
            }
        }
        let members =
            raw.iter().enumerate().map(|(index, cube)| collect_members(CubeId(id(index)), cube, report)).collect();
        Self {
            raw,
            context,
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

    pub(super) fn is_doubtful(&self, name: &str) -> bool {
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

    /// Resolves a position that takes a bare reference, with or without one pair of braces. `Err(None)` when it
    /// may be defined in a file that could not be read.
    pub(super) fn reference(&self, text: &str, owner: CubeId) -> Result<Reference, Option<Unresolved>> {
        let bare = text.trim();
        let bare = bare.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(bare).trim();
        let path: Vec<&str> = bare.split('.').map(str::trim).collect();
        if path.iter().all(|name| is_identifier(name)) {
            return self.resolve(&path, owner);
        }
        Err(Some(Unresolved::new(format!("'{bare}' is not a reference"))))
    }

    /// Resolves names joined by dots.
    pub(super) fn resolve(&self, path: &[&str], owner: CubeId) -> Result<Reference, Option<Unresolved>> {
        let (head, rest) = path.split_first().ok_or(None)?;
        let cube = match *head {
            "CUBE" | "TABLE" => Some(owner),
            name => self.find_cube(name),
        };
        match cube {
            Some(cube) => self.walk(vec![cube], rest),
            None if self.views.contains(head) => Err(Some(self.unusable_view(head))),
            None => match self.members[owner.index()].get(head) {
                Some(symbol) => self.finish(vec![owner], head, *symbol, rest),
                None => Err(self.missing_name(head, owner)),
            },
        }
    }

    /// Follows names from the last cube of `cubes`: a member of it ends the walk, a cube goes on.
    fn walk(&self, mut cubes: Vec<CubeId>, names: &[&str]) -> Result<Reference, Option<Unresolved>> {
        let mut names = names;
        while let (Some(&cube), Some((name, rest))) = (cubes.last(), names.split_first()) {
            let symbol = self.members[cube.index()].get(name);
            let next = self.find_cube(name);
            match (symbol, next) {
                (Some(symbol), next) if next.is_none() || rest.is_empty() => {
                    return self.finish(cubes, name, *symbol, rest);
                }
                (Some(symbol), _) if self.is_grain_of(*symbol, rest) => return self.finish(cubes, name, *symbol, rest),
                (_, Some(next)) => {
                    cubes.push(next);
                    names = rest;
                }
                (_, None) => return Err(self.missing_member(cube, name)),
            }
        }
        let target = cubes.last().copied().ok_or(None)?;
        Ok(Reference { path: if cubes.len() > 1 { cubes } else { Vec::new() }, target: Target::Cube(target) })
    }

    fn is_grain_of(&self, symbol: Symbol, rest: &[&str]) -> bool {
        matches!((symbol, rest), (Symbol::Member(MemberId::Dimension(id)), [word]) if self.grain(id, word).is_some())
    }

    /// A member that was found, and what follows its name.
    fn finish(
        &self,
        cubes: Vec<CubeId>,
        name: &str,
        symbol: Symbol,
        rest: &[&str],
    ) -> Result<Reference, Option<Unresolved>> {
        let cube = cubes.last().copied().ok_or(None)?;
        let path = format!("{}.{name}", self.raw[cube.index()].about.name);
        let member = match symbol {
            Symbol::Member(member) => member,
            Symbol::Rollup | Symbol::Hierarchy => {
                let what = if symbol == Symbol::Rollup { "a pre-aggregation" } else { "a hierarchy" };
                let message = format!("'{path}' is {what} and cannot be referenced here");
                return Err(Some(Unresolved::new(message)));
            }
        };
        let target = match (member, rest) {
            (_, []) => Target::Member(member),
            (MemberId::Dimension(id), [word]) => match self.grain(id, word) {
                Some(grain) => Target::Time(id, grain),
                None => return Err(self.missing_granularity(id, &path, word)),
            },
            (_, rest) => {
                let message = format!("{path}.{} cannot be resolved. There's no such member or cube.", rest.join("."));
                return Err(Some(Unresolved::new(message)));
            }
        };
        Ok(Reference { path: if cubes.len() > 1 { cubes } else { Vec::new() }, target })
    }

    /// A granularity of a time dimension by its name; a standard one is never hidden by a custom one (§16.4).
    pub(super) fn grain(&self, id: DimensionId, word: &str) -> Option<Grain> {
        let dimension = self.raw_dimension(id);
        if dimension.data_type != Some(DataType::Time) {
            return None;
        }
        if let Some(granularity) = Granularity::ALL.into_iter().find(|g| g.as_str() == word) {
            return Some(Grain::Standard(granularity));
        }
        let custom = dimension.granularities.iter().position(|g| g.name == word)?;
        u32::try_from(custom).ok().map(Grain::Custom)
    }

    fn missing_granularity(&self, id: DimensionId, path: &str, word: &str) -> Option<Unresolved> {
        let dimension = self.raw_dimension(id);
        let hint = match dimension.data_type {
            None => return None,
            Some(DataType::Time) => {
                let custom = dimension.granularities.iter().map(|g| g.name.as_str());
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
        if raw.parent_unknown || self.is_doubtful(name) {
            return None;
        }
        let message = format!("{}.{name} cannot be resolved. There's no such member or cube.", raw.about.name);
        let near = nearest(name, self.members[cube.index()].keys().copied());
        let hint = near.map(|near| did_you_mean(&format!("{}.{near}", raw.about.name)));
        Some(Unresolved { message, hint })
    }

    fn missing_name(&self, name: &str, owner: CubeId) -> Option<Unresolved> {
        if self.raw[owner.index()].parent_unknown || self.is_doubtful(name) {
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
    let hierarchies = raw.hierarchies.iter().map(|h| ("hierarchy", &h.about, Symbol::Hierarchy));
    let mut symbols: HashMap<&str, Symbol> = HashMap::new();
    let mut firsts: HashMap<&str, (&str, &About)> = HashMap::new();
    let named = measures.chain(dimensions).chain(segments).chain(rollups).chain(hierarchies);
    let named = named.filter(|(_, a, _)| !a.name.is_empty());
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
