//! Raw views → cubes without rows whose members are references to members of cubes (`data-model.md` §8).

use std::collections::HashMap;

use super::build::parent_name;
use super::cube::{
    Cube, CubeId, CubeSource, Dimension, DimensionId, DimensionKind, Hierarchy, Measure, MeasureId, MeasureKind,
    MemberId, Segment, SegmentId, Shown,
};
use super::fields::{Place, Report, Text};
use super::format::FormatOf;
use super::raw::About;
use super::raw_view::{RawDefaultFilter, RawFolder, RawFolderItem, RawImport, RawInclude, RawView};
use super::symbols::Symbols;
use super::template::{Part, Template};
use super::title::titleize;
use super::view::{DefaultFilter, Folder, FolderItem, View};
use crate::names::nearest;

/// Builds the views of a project, once its cubes are there.
pub(super) struct ViewBuilder<'r> {
    pub(super) symbols: &'r Symbols<'r>,
    pub(super) cubes: &'r [Cube],
}

/// A view under construction.
struct Draft<'r> {
    raw: &'r RawView,
    place: &'r Place,
    cube: Cube,
    view: View,
    /// Exposed name → member of the view, its source and the join path it came by.
    members: HashMap<String, (MemberId, String)>,
    /// Source member → member of the view.
    by_source: HashMap<MemberId, MemberId>,
    /// Keys of dimensions, to be looked up when all are there.
    keys: Vec<(DimensionId, DimensionId, String)>,
    /// Drill members of measures, likewise.
    drills: Vec<(MeasureId, MeasureId)>,
    /// Hierarchies to import when all dimensions are there.
    hierarchies: Vec<(CubeId, usize, String)>,
    /// Paths by root and cube.
    paths: HashMap<(CubeId, CubeId), String>,
}

/// One import, its path resolved.
struct Import<'r> {
    raw: &'r RawImport,
    path: Vec<CubeId>,
    path_text: String,
    prefix: String,
}

impl ViewBuilder<'_> {
    /// Builds one view.
    pub(super) fn view(&self, id: CubeId, raw: &RawView, report: &mut Report) -> Cube {
        let about = &raw.about;
        let mut draft = Draft {
            raw,
            place: &about.place,
            cube: empty(id, raw),
            view: View { groups: raw.groups.clone(), ..View::default() },
            members: HashMap::new(),
            by_source: HashMap::new(),
            keys: Vec::new(),
            drills: Vec::new(),
            hierarchies: Vec::new(),
            paths: HashMap::new(),
        };
        for import in &raw.cubes {
            if let Some(import) = self.import(&mut draft, import, report) {
                self.include(&mut draft, &import, report);
            }
        }
        self.finish_members(&mut draft, report);
        for folder in &raw.folders {
            let folder = draft.folder(folder, report);
            draft.view.folders.push(folder);
        }
        for filter in &raw.default_filters {
            let filter = draft.default_filter(filter, report);
            draft.view.default_filters.extend(filter);
        }
        if let Some(root) = draft.view.roots.first() {
            draft.cube.data_source.clone_from(&self.cubes[root.index()].data_source);
        }
        Cube { source: CubeSource::View(draft.view), ..draft.cube }
    }

    fn import<'r>(&self, draft: &mut Draft<'r>, raw: &'r RawImport, report: &mut Report) -> Option<Import<'r>> {
        let text = raw.join_path.text.trim();
        let mut path = Vec::new();
        for name in text.split('.').map(str::trim) {
            match self.symbols.find_cube(name) {
                Some(cube) => path.push(cube),
                None => {
                    let near = nearest(name, self.cubes.iter().map(|cube| cube.name.as_str()));
                    if !self.symbols.is_doubtful(name) {
                        let message = format!("{name} is not defined");
                        report.error(draft.place, raw.join_path.mark, message).hint =
                            near.map(|near| format!("did you mean '{near}'?"));
                    }
                    return None;
                }
            }
        }
        let (root, cube) = (*path.first()?, *path.last()?);
        if !draft.view.roots.contains(&root) {
            draft.view.roots.push(root);
        }
        if let Some(earlier) = draft.paths.get(&(root, cube)) {
            if earlier != text {
                let message = format!(
                    "Views can't define multiple join paths to the same cube. View '{}' has multiple paths to '{}' \
                     within root '{}': '{earlier}', '{text}'. Use extends to create a child cube and reference it instead",
                    draft.raw.about.name,
                    self.cubes[cube.index()].name,
                    self.cubes[root.index()].name
                );
                report.error(draft.place, raw.mark, message);
                return None;
            }
        } else {
            draft.paths.insert((root, cube), text.to_owned());
        }
        let alias = raw.alias.as_deref().unwrap_or(&self.cubes[cube.index()].name);
        let prefix = if raw.prefix { format!("{alias}_") } else { String::new() };
        Some(Import { raw, path, path_text: text.to_owned(), prefix })
    }

    fn include(&self, draft: &mut Draft<'_>, import: &Import<'_>, report: &mut Report) {
        let Some(cube) = import.path.last().map(|id| &self.cubes[id.index()]) else { return };
        let excluded = |name: &str| import.raw.excludes.iter().any(|text| text.text == name);
        let Some(includes) = &import.raw.includes else {
            for member in all_members(cube) {
                let name = self.name(member);
                if !excluded(name) {
                    draft.add(self.cubes, import, member, &RawInclude::plain(name, import.raw), report);
                }
            }
            for (index, hierarchy) in cube.hierarchies.iter().enumerate().filter(|(_, h)| !excluded(&h.name)) {
                draft.hierarchies.push((cube.id, index, format!("{}{}", import.prefix, hierarchy.name)));
            }
            return;
        };
        for include in includes.iter().filter(|include| !excluded(&include.name.text)) {
            let name = include.name.text.as_str();
            if let Some(member) = cube.find_member(name) {
                draft.add(self.cubes, import, member, include, report);
            } else if let Some(index) = cube.hierarchies.iter().position(|h| h.name == name) {
                let exposed = format!("{}{}", import.prefix, include.alias.as_deref().unwrap_or(name));
                draft.hierarchies.push((cube.id, index, exposed));
                self.include_levels(draft, import, &cube.hierarchies[index], report);
            } else if !self.symbols.is_doubtful(name) {
                let view = &draft.raw.about.name;
                let message = format!("Member '{name}' is included in '{view}' but not defined in any cube");
                let members = all_members(cube).into_iter().map(|member| self.name(member));
                report.error(draft.place, include.name.mark, message).hint =
                    nearest(name, members).map(|near| format!("did you mean '{near}'?"));
            }
        }
    }

    /// The levels of a listed hierarchy come with it when they belong to the same cube.
    fn include_levels(&self, draft: &mut Draft<'_>, import: &Import<'_>, hierarchy: &Hierarchy, report: &mut Report) {
        let cube = import.path.last().copied();
        for level in hierarchy.levels.iter().filter(|level| Some(level.cube) == cube) {
            let member = MemberId::Dimension(*level);
            let name = self.name(member);
            let listed = import.raw.includes.iter().flatten().any(|include| include.name.text == name);
            let excluded = import.raw.excludes.iter().any(|text| text.text == name);
            if !listed && !excluded && !draft.by_source.contains_key(&member) {
                draft.add(self.cubes, import, member, &RawInclude::plain(name, import.raw), report);
            }
        }
    }

    fn name(&self, member: MemberId) -> &str {
        let cube = &self.cubes[member.cube().index()];
        match member {
            MemberId::Measure(id) => &cube.measures[id.index as usize].name,
            MemberId::Dimension(id) => &cube.dimensions[id.index as usize].name,
            MemberId::Segment(id) => &cube.segments[id.index as usize].name,
        }
    }

    /// What refers to other members of the view, once all are known.
    fn finish_members(&self, draft: &mut Draft<'_>, report: &mut Report) {
        for (own, source) in std::mem::take(&mut draft.drills) {
            let drill = &self.cubes[source.cube.index()].measures[source.index as usize].drill_members;
            let kept = drill.iter().filter_map(|member| draft.by_source.get(member).copied());
            draft.cube.measures[own.index as usize].drill_members = kept.collect();
        }
        for (own, source, key) in std::mem::take(&mut draft.keys) {
            let siblings = &self.cubes[source.cube.index()].dimensions;
            let key_id = siblings.iter().find(|dimension| dimension.name == key).map(|d| MemberId::Dimension(d.id));
            let found = key_id.and_then(|key| draft.by_source.get(&key).copied());
            if let Some(MemberId::Dimension(id)) = found {
                let name = draft.cube.dimensions[id.index as usize].name.clone();
                draft.cube.dimensions[own.index as usize].shown.key = Some(name);
            } else {
                let name = &draft.cube.dimensions[own.index as usize].name;
                let message = format!(
                    "Dimension '{name}' has key '{key}' but the key dimension is not included in view '{}'",
                    draft.raw.about.name
                );
                report.error(draft.place, draft.raw.about.mark, message);
            }
        }
        for (cube, index, name) in std::mem::take(&mut draft.hierarchies) {
            let hierarchy = &self.cubes[cube.index()].hierarchies[index];
            let levels =
                hierarchy.levels.iter().filter_map(|level| match draft.by_source.get(&MemberId::Dimension(*level)) {
                    Some(MemberId::Dimension(own)) => Some(*own),
                    _ => None,
                });
            let levels: Vec<DimensionId> = levels.collect();
            if !levels.is_empty() {
                draft.cube.hierarchies.push(Hierarchy { name, levels, ..hierarchy.clone() });
            }
        }
    }
}

impl RawInclude {
    fn plain(name: &str, import: &RawImport) -> Self {
        let name = Text { text: name.to_owned(), mark: import.mark, braces: Vec::new() };
        Self { name, alias: None, title: None, description: None, format: None, meta: None }
    }
}

impl Draft<'_> {
    fn add(
        &mut self,
        cubes: &[Cube],
        import: &Import<'_>,
        source: MemberId,
        include: &RawInclude,
        report: &mut Report,
    ) {
        let name = format!("{}{}", import.prefix, include.alias.as_deref().unwrap_or(&include.name.text));
        let came_along = |id: DimensionId| cubes[id.cube.index()].dimensions[id.index as usize].shown.synthetic;
        if matches!(source, MemberId::Dimension(id) if came_along(id)) && self.by_source.contains_key(&source) {
            return;
        }
        if self.members.contains_key(&name) {
            let message = format!(
                "Included member '{name}' conflicts with existing member of '{}'. Please consider excluding this \
                 member or assigning it an alias.",
                self.raw.about.name
            );
            report.error(self.place, include.name.mark, message);
            return;
        }
        let cube = &cubes[source.cube().index()];
        let of = match source {
            MemberId::Measure(id) => Some(FormatOf::Measure(cube.measures[id.index as usize].kind.data_type())),
            MemberId::Dimension(id) => Some(FormatOf::Dimension(cube.dimensions[id.index as usize].data_type)),
            MemberId::Segment(_) => None,
        };
        if let Some(fault) = of.zip(include.format.as_ref()).and_then(|(of, format)| of.fault(format)) {
            report.error(self.place, include.name.mark, fault);
        }
        let sql = Template { parts: vec![Part::Path(import.path.clone()), Part::Member(source)] };
        let member = match source {
            MemberId::Measure(id) => self.add_measure(&name, sql, &cube.measures[id.index as usize], include),
            MemberId::Dimension(id) => self.add_dimension(&name, sql, &cube.dimensions[id.index as usize], include),
            MemberId::Segment(id) => self.add_segment(&name, sql, &cube.segments[id.index as usize], include),
        };
        self.members.insert(name, (member, import.path_text.clone()));
        self.by_source.entry(source).or_insert(member);
        if let MemberId::Dimension(id) = source {
            self.add_links(cubes, import, id, include, report);
        }
    }

    /// The dimensions of a dimension's links come with it, named after it.
    fn add_links(
        &mut self,
        cubes: &[Cube],
        import: &Import<'_>,
        source: DimensionId,
        include: &RawInclude,
        report: &mut Report,
    ) {
        let siblings = &cubes[source.cube.index()].dimensions;
        let own = &siblings[source.index as usize];
        // They stand right behind it.
        let links = siblings[source.index as usize + 1..].iter().take_while(|_| own.shown.links.is_some());
        for link in links.take_while(|link| link.shown.synthetic) {
            let Some(ending) = link.name.strip_prefix(own.name.as_str()) else { continue };
            let alias = include.alias.as_ref().map(|alias| format!("{alias}{ending}"));
            let include = RawInclude { alias, ..RawInclude::plain(&link.name, import.raw) };
            self.add(cubes, import, MemberId::Dimension(link.id), &include, report);
        }
    }

    fn add_measure(&mut self, name: &str, sql: Template, source: &Measure, include: &RawInclude) -> MemberId {
        let id = MeasureId { cube: self.cube.id, index: count(self.cube.measures.len()) };
        self.drills.push((id, source.id));
        self.cube.measures.push(Measure {
            id,
            name: name.to_owned(),
            short_title: include.title.clone().unwrap_or_else(|| title_of(name, &source.name, &source.short_title)),
            description: include.description.clone().or_else(|| source.description.clone()),
            format: include.format.clone().or_else(|| source.format.clone()),
            meta: include.meta.clone().or_else(|| source.meta.clone()),
            public: true,
            kind: MeasureKind::Calculated { data_type: source.kind.data_type(), sql },
            filters: Vec::new(),
            drill_filters: Vec::new(),
            drill_members: Vec::new(),
            cumulative: source.cumulative,
            rolling: None,
            stage: None,
            mask: source.mask.clone(),
            shown: source.shown.clone(),
            location: source.location.clone(),
        });
        MemberId::Measure(id)
    }

    fn add_dimension(&mut self, name: &str, sql: Template, source: &Dimension, include: &RawInclude) -> MemberId {
        let id = DimensionId { cube: self.cube.id, index: count(self.cube.dimensions.len()) };
        if let Some(key) = &source.shown.key {
            self.keys.push((id, source.id, key.clone()));
        }
        self.cube.dimensions.push(Dimension {
            id,
            name: name.to_owned(),
            short_title: include.title.clone().unwrap_or_else(|| title_of(name, &source.name, &source.short_title)),
            description: include.description.clone().or_else(|| source.description.clone()),
            format: include.format.clone().or_else(|| source.format.clone()),
            meta: include.meta.clone().or_else(|| source.meta.clone()),
            public: true,
            primary_key: false,
            suggest_filter_values: source.suggest_filter_values,
            data_type: source.data_type,
            kind: DimensionKind::Sql(sql),
            granularities: source.granularities.clone(),
            offered: source.offered.clone(),
            mask: source.mask.clone(),
            shown: Shown { key: None, ..source.shown.clone() },
            shifts: Vec::new(),
            location: source.location.clone(),
        });
        MemberId::Dimension(id)
    }

    fn add_segment(&mut self, name: &str, sql: Template, source: &Segment, include: &RawInclude) -> MemberId {
        let id = SegmentId { cube: self.cube.id, index: count(self.cube.segments.len()) };
        self.cube.segments.push(Segment {
            id,
            name: name.to_owned(),
            short_title: include.title.clone().unwrap_or_else(|| title_of(name, &source.name, &source.short_title)),
            description: include.description.clone().or_else(|| source.description.clone()),
            meta: include.meta.clone().or_else(|| source.meta.clone()),
            public: true,
            sql,
            location: source.location.clone(),
        });
        MemberId::Segment(id)
    }

    fn folder(&self, raw: &RawFolder, report: &mut Report) -> Folder {
        let items = match &raw.includes {
            None => self.in_order().into_iter().map(FolderItem::Member).collect(),
            Some(items) => items.iter().flat_map(|item| self.folder_item(raw, item, report)).collect(),
        };
        Folder { name: raw.name.clone(), items }
    }

    fn folder_item(&self, folder: &RawFolder, item: &RawFolderItem, report: &mut Report) -> Vec<FolderItem> {
        match item {
            RawFolderItem::Folder(folder) => vec![FolderItem::Folder(self.folder(folder, report))],
            RawFolderItem::JoinPath(path) => {
                let wanted = path.text.trim();
                let members = self.in_order().into_iter();
                let from_path =
                    |member: &MemberId| self.members.values().any(|(own, by)| own == member && by == wanted);
                let found: Vec<FolderItem> = members.filter(from_path).map(FolderItem::Member).collect();
                if found.is_empty() {
                    let message = format!("Member '{wanted}' included in folder '{}' not found", folder.name);
                    report.error(self.place, path.mark, message);
                }
                found
            }
            RawFolderItem::Member(text) if text.text.contains('.') => {
                let message = format!(
                    "Paths aren't allowed in the 'folders' but '{}' has been provided for {}",
                    text.text, self.raw.about.name
                );
                report.error(self.place, text.mark, message);
                Vec::new()
            }
            RawFolderItem::Member(text) => match self.members.get(&text.text) {
                Some((member, _)) => vec![FolderItem::Member(*member)],
                None => {
                    let message = format!("Member '{}' included in folder '{}' not found", text.text, folder.name);
                    let near = nearest(&text.text, self.members.keys().map(String::as_str));
                    report.error(self.place, text.mark, message).hint =
                        near.map(|near| format!("did you mean '{near}'?"));
                    Vec::new()
                }
            },
        }
    }

    /// All members: measures, dimensions, segments.
    fn in_order(&self) -> Vec<MemberId> {
        all_members(&self.cube)
    }

    fn default_filter(&self, raw: &RawDefaultFilter, report: &mut Report) -> Option<DefaultFilter> {
        let mut filter = raw.filter.clone();
        let mut missing = Vec::new();
        qualify(&mut filter, &self.raw.about.name, &|name| self.members.contains_key(name), &mut missing);
        let mut unless = Vec::with_capacity(raw.unless.len());
        for text in &raw.unless {
            match self.members.get(text.text.as_str()) {
                Some((member, _)) => unless.push(*member),
                None => missing.push(text.text.clone()),
            }
        }
        for name in &missing {
            let near = nearest(name, self.members.keys().map(String::as_str));
            let message = format!("'{name}' in default_filters is not a member of view '{}'", self.raw.about.name);
            report.error(self.place, raw.mark, message).hint = near.map(|near| format!("did you mean '{near}'?"));
        }
        missing.is_empty().then_some(DefaultFilter { filter, unless })
    }
}

/// Puts the view's name before the members of a filter, all through its groups.
fn qualify(filter: &mut serde_json::Value, view: &str, known: &dyn Fn(&str) -> bool, missing: &mut Vec<String>) {
    for group in ["and", "or"] {
        if let Some(inner) = filter.get_mut(group).and_then(serde_json::Value::as_array_mut) {
            for filter in inner {
                qualify(filter, view, known, missing);
            }
            return;
        }
    }
    match filter.get("member").and_then(serde_json::Value::as_str).map(str::to_owned) {
        Some(name) if known(&name) => filter["member"] = format!("{view}.{name}").into(),
        Some(name) => missing.push(name),
        None => missing.push(String::new()),
    }
}

fn empty(id: CubeId, raw: &RawView) -> Cube {
    let About { place, mark, name, title, description, meta, public } = &raw.about;
    Cube {
        id,
        name: name.clone(),
        sql_alias: raw.sql_alias.clone(),
        title: title.clone().unwrap_or_else(|| titleize(name)),
        description: description.clone(),
        public: public.unwrap_or(true),
        meta: meta.clone(),
        data_source: "default".to_owned(),
        extends: raw.extends.as_ref().and_then(parent_name),
        refresh_key: None,
        source: CubeSource::View(View::default()),
        calendar: false,
        joins: Vec::new(),
        measures: Vec::new(),
        dimensions: Vec::new(),
        segments: Vec::new(),
        hierarchies: Vec::new(),
        preaggs: Vec::new(),
        policies: Vec::new(),
        location: place.location(*mark),
    }
}

fn all_members(cube: &Cube) -> Vec<MemberId> {
    let measures = cube.measures.iter().map(|m| MemberId::Measure(m.id));
    let dimensions = cube.dimensions.iter().filter(|d| !d.shown.synthetic).map(|d| MemberId::Dimension(d.id));
    let segments = cube.segments.iter().map(|s| MemberId::Segment(s.id));
    measures.chain(dimensions).chain(segments).collect()
}

/// Titles of a view's members are made from their names there, unless the source gives one of its own.
fn title_of(name: &str, source_name: &str, source_title: &str) -> String {
    if source_title == titleize(source_name) { titleize(name) } else { source_title.to_owned() }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).expect("fewer than 2^32 members")
}
