//! `view_groups`: names for several views, for front ends (`data-model.md` §8.4, `http-api.md` §7.3).

use super::cube::{Cube, CubeId};
use super::fields::{Fields, Place, Report, Text, scalar};
use super::view::{ViewGroup, ViewGroupItem};
use super::yaml::{Mark, Node, Value};
use crate::names::nearest;

/// Deepest nesting of groups.
const MAX_DEPTH: usize = 32;
const KEYS: [&str; 5] = ["name", "title", "description", "views", "includes"];

/// A group as it is written.
#[derive(Debug, Clone)]
pub(super) struct RawViewGroup {
    name: String,
    title: Option<String>,
    description: Option<String>,
    items: Vec<RawItem>,
    place: Place,
    mark: Mark,
}

#[derive(Debug, Clone)]
enum RawItem {
    View(Text),
    Group(RawViewGroup),
}

pub(super) fn read_view_group(node: Node, depth: usize, place: &Place, report: &mut Report) -> Option<RawViewGroup> {
    let mut fields = Fields::open(node, "a view group", place, report)?;
    let mark = fields.mark;
    fields.check_keys(&KEYS, place, report);
    let Some(name) = fields.plain("name", place, report) else {
        report.error(place, mark, "name isn't defined for a view group");
        return None;
    };
    let place = place.within(&name);
    if depth > MAX_DEPTH {
        report.error(&place, mark, format!("view groups nest deeper than {MAX_DEPTH} levels"));
        return None;
    }
    let title = fields.plain("title", &place, report);
    let description = fields.plain("description", &place, report);
    if let (Some(mark), Some(_)) = (fields.mark_of("views"), fields.mark_of("includes")) {
        report.error(&place, mark, "'views' and 'includes' exclude each other").hint =
            Some("'views' is the old name".to_owned());
    }
    let mut nodes = fields.list("views", &place, report);
    nodes.extend(fields.list("includes", &place, report));
    let items = nodes.into_iter().filter_map(|node| {
        if matches!(node.value, Value::Map(_)) {
            read_view_group(node, depth + 1, &place, report).map(RawItem::Group)
        } else {
            scalar(node, "an entry of includes", &place, report).map(RawItem::View)
        }
    });
    let items = items.collect();
    Some(RawViewGroup { name, title, description, items, place, mark })
}

/// Looks up the views of groups, and puts views into the groups that they name themselves; a group that only views
/// name comes after those that are defined.
pub(super) fn resolve(raw: &[RawViewGroup], cubes: &[Cube], report: &mut Report) -> Vec<ViewGroup> {
    let mut resolver = Resolver { cubes, names: Vec::new(), report };
    let mut groups: Vec<ViewGroup> = raw.iter().filter_map(|group| resolver.group(group)).collect();
    for cube in cubes {
        for name in cube.view().into_iter().flat_map(|view| &view.groups) {
            let at = groups.iter().position(|group| group.name == *name).unwrap_or_else(|| {
                groups.push(ViewGroup { name: name.clone(), title: None, description: None, items: Vec::new() });
                groups.len() - 1
            });
            let group = &mut groups[at];
            if !group.views().any(|view| view == cube.id) {
                group.items.push(ViewGroupItem::View(cube.id));
            }
        }
    }
    groups
}

struct Resolver<'a> {
    cubes: &'a [Cube],
    /// Names of the groups so far: one name, one group, at any depth.
    names: Vec<String>,
    report: &'a mut Report,
}

impl Resolver<'_> {
    fn group(&mut self, raw: &RawViewGroup) -> Option<ViewGroup> {
        if self.names.contains(&raw.name) {
            self.report.error(&raw.place, raw.mark, format!("View group \"{}\" already exists!", raw.name));
            return None;
        }
        self.names.push(raw.name.clone());
        let mut items = Vec::with_capacity(raw.items.len());
        for item in &raw.items {
            match item {
                RawItem::View(text) => items.extend(self.view(raw, text).map(ViewGroupItem::View)),
                RawItem::Group(group) => items.extend(self.group(group).map(ViewGroupItem::Group)),
            }
        }
        let (name, title, description) = (raw.name.clone(), raw.title.clone(), raw.description.clone());
        Some(ViewGroup { name, title, description, items })
    }

    fn view(&mut self, group: &RawViewGroup, text: &Text) -> Option<CubeId> {
        let name = text.text.trim().trim_start_matches('{').trim_end_matches('}').trim();
        let views = || self.cubes.iter().filter(|cube| cube.view().is_some());
        if let Some(view) = views().find(|view| view.name == name) {
            return Some(view.id);
        }
        if !self.report.doubt_all && !self.report.doubtful.contains(name) {
            let near =
                nearest(name, views().map(|view| view.name.as_str())).map(|near| format!("did you mean '{near}'?"));
            let message = format!("View group \"{}\" includes \"{name}\" which is not a defined view.", group.name);
            self.report.error(&group.place, text.mark, message).hint = near;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{compile_files, diagnostics, model};
    use super::*;

    const VIEWS: &str = "cubes:\n  - {name: a, sql_table: a, measures: [{name: n, type: count}]}\nviews:\n  \
                         - {name: v, cubes: [{join_path: a, includes: '*'}], view_group: g, view_groups: [h, g]}\n  \
                         - {name: w, cubes: [{join_path: a, includes: '*'}]}\n";

    #[test]
    fn groups_hold_views_and_groups() {
        let groups = "view_groups:\n  - name: g\n    title: G\n    description: D\n    includes:\n      - w\n      \
                      - {name: inner, includes: [v, w]}\n";
        let model = model(&format!("{VIEWS}{groups}"));
        let [g, h] = model.view_groups() else { panic!("two groups: {:?}", model.view_groups()) };
        assert_eq!((g.title.as_deref(), g.description.as_deref()), (Some("G"), Some("D")));
        let names = |group: &ViewGroup| group.views().map(|id| model.cube(id).name.clone()).collect::<Vec<_>>();
        assert_eq!(names(g), ["w", "v"]);
        assert_eq!((h.name.as_str(), names(h)), ("h", vec!["v".to_owned()]));
        let v = model.find_cube("v").expect("v").id;
        assert_eq!(g.names_of(v), ["g", "inner"]);
    }

    #[test]
    fn scripts_define_groups_too() {
        let script = "cube('a', { sql_table: 'a', measures: { n: { type: 'count' } } });\n\
                      view('v', { cubes: [{ join_path: a, includes: '*' }] });\n\
                      view_group('g', { title: 'G', includes: [v, { name: 'inner', includes: [v] }] });\n";
        let model = compile_files(&[("m.js", script)]).expect("a sound model").model;
        let v = model.find_cube("v").expect("v").id;
        assert_eq!(model.view_groups()[0].names_of(v), ["g", "inner"]);
    }

    #[test]
    fn faults_name_the_group() {
        let groups = "view_groups:\n  - {name: g, views: [vv, a]}\n  - {name: x, includes: [{name: g, includes: []}]}\n  \
                      - {title: T}\n  - {name: y, views: [], includes: []}\n";
        let found = diagnostics(&format!("{VIEWS}{groups}"));
        let expected = [
            "7:23: error: g: View group \"g\" includes \"vv\" which is not a defined view.",
            "7:27: error: g: View group \"g\" includes \"a\" which is not a defined view.",
            "8:26: error: x.g: View group \"g\" already exists!",
            "9:5: error: name isn't defined for a view group",
            "10:15: error: y: 'views' and 'includes' exclude each other",
        ];
        assert_eq!(found, expected);
    }
}
