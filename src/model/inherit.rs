//! `extends`: what a cube or view takes over from its parent (`data-model.md` §9).

use std::collections::{HashMap, HashSet};

use super::fields::{Report, Text};
use super::raw::{About, RawCube};
use super::raw_refresh::RawRefresh;
use super::raw_view::RawView;
use crate::names::nearest;

/// Something that may have a parent.
trait Heir: Clone {
    fn about(&self) -> &About;
    fn parent(&self) -> Option<&Text>;
    fn doubt_parent(&mut self);
    /// Takes over from a parent that has itself taken over from its own.
    fn take_over(&mut self, parent: &Self);
}

/// Lets every cube take over from its parent; `anonymous` ones can be parents only.
pub(super) fn resolve_cubes(cubes: &mut Vec<RawCube>, anonymous: &[RawCube], report: &mut Report) {
    let first = cubes.len();
    cubes.extend_from_slice(anonymous);
    resolve(cubes, report);
    cubes.truncate(first);
    for cube in cubes.iter().filter(|cube| cube.source.is_none() && !cube.parent_unknown) {
        let message = "(value = [object Object]) must contain at least one of [sql, sqlTable]";
        report.error(&cube.about.place, cube.about.mark, message).hint =
            Some("add 'sql_table: a_table' or 'sql: SELECT …'".to_owned());
    }
}

/// Lets every view take over from its parent, and makes the views that `split` asks for.
pub(super) fn resolve_views(views: &mut Vec<RawView>, report: &mut Report) {
    resolve(views, report);
    let mut split = Vec::new();
    for view in views.iter_mut() {
        let (apart, kept) = std::mem::take(&mut view.cubes).into_iter().partition(|import| import.split);
        view.cubes = kept;
        for import in apart {
            let cube = import.join_path.text.rsplit('.').next().unwrap_or_default();
            let alias = import.alias.as_deref().unwrap_or(cube).trim();
            let name = format!("{}_{alias}", view.about.name);
            let about = About { name, title: None, ..view.about.clone() };
            split.push(RawView { about, cubes: vec![import], folders: Vec::new(), ..view.clone() });
        }
    }
    views.extend(split);
}

fn resolve<T: Heir>(heirs: &mut [T], report: &mut Report) {
    let mut by_name: HashMap<String, usize> = HashMap::with_capacity(heirs.len());
    for (index, heir) in heirs.iter().enumerate() {
        by_name.entry(heir.about().name.clone()).or_insert(index);
    }
    let mut done: HashSet<usize> = HashSet::with_capacity(heirs.len());
    for start in 0..heirs.len() {
        // From the heir up to the first ancestor that is finished, then down again.
        let mut chain = vec![start];
        while let Some(&last) = chain.last() {
            if done.contains(&last) {
                break;
            }
            let Some(parent) = parent_of(heirs, last, &by_name, report) else { break };
            if chain.contains(&parent) {
                let names: Vec<&str> = chain.iter().map(|at| heirs[*at].about().name.as_str()).collect();
                let message = format!("circular extends: {} → {}", names.join(" → "), heirs[parent].about().name);
                let About { place, mark, .. } = heirs[last].about();
                report.error(place, *mark, message);
                done.extend(&chain);
                chain.iter().for_each(|at| heirs[*at].doubt_parent());
                break;
            }
            chain.push(parent);
        }
        for pair in chain.windows(2).rev() {
            let [child, parent] = [pair[0], pair[1]];
            if done.insert(child) {
                let parent = heirs[parent].clone();
                heirs[child].take_over(&parent);
            }
        }
        done.extend(chain);
    }
}

/// The parent's position; a fault when it is named and not there.
fn parent_of<T: Heir>(
    heirs: &mut [T],
    child: usize,
    by_name: &HashMap<String, usize>,
    report: &mut Report,
) -> Option<usize> {
    let text = heirs[child].parent()?.clone();
    let bare = text.text.trim();
    let bare = bare.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(bare).trim();
    if let Some(parent) = by_name.get(bare) {
        return Some(*parent);
    }
    if !(report.doubt_all || report.doubtful.contains(bare)) {
        let hint = nearest(bare, by_name.keys().map(String::as_str).filter(|name| !name.contains(' ')));
        let hint = hint.map(|near| format!("did you mean '{near}'?"));
        report.error(&heirs[child].about().place, text.mark, format!("{bare} is not defined")).hint = hint;
    }
    heirs[child].doubt_parent();
    None
}

impl Heir for RawCube {
    fn about(&self) -> &About {
        &self.about
    }

    fn parent(&self) -> Option<&Text> {
        self.extends.as_ref()
    }

    fn doubt_parent(&mut self) {
        self.parent_unknown = true;
        self.extends = None;
    }

    fn take_over(&mut self, parent: &Self) {
        inherit_about(&mut self.about, &parent.about);
        inherit(&mut self.sql_alias, &parent.sql_alias);
        inherit(&mut self.data_source, &parent.data_source);
        inherit(&mut self.source, &parent.source);
        inherit(&mut self.calendar, &parent.calendar);
        if matches!(self.refresh, RawRefresh::Absent) {
            self.refresh = parent.refresh.clone();
        }
        self.parent_unknown |= parent.parent_unknown;
        self.joins_broken |= parent.joins_broken;
        self.joins = parent.joins.iter().chain(&self.joins).cloned().collect();
        union(&mut self.measures, &parent.measures, |member| &member.about);
        union(&mut self.dimensions, &parent.dimensions, |member| &member.about);
        union(&mut self.segments, &parent.segments, |member| &member.about);
        union(&mut self.hierarchies, &parent.hierarchies, |member| &member.about);
        let own: Vec<String> = self.rollups.iter().map(|rollup| rollup.about.name.clone()).collect();
        self.rollups.extend(parent.rollups.iter().filter(|rollup| !own.contains(&rollup.about.name)).cloned());
        self.policies = parent.policies.iter().chain(&self.policies).cloned().collect();
    }
}

impl Heir for RawView {
    fn about(&self) -> &About {
        &self.about
    }

    fn parent(&self) -> Option<&Text> {
        self.extends.as_ref()
    }

    fn doubt_parent(&mut self) {
        self.parent_unknown = true;
        self.extends = None;
    }

    fn take_over(&mut self, parent: &Self) {
        inherit_about(&mut self.about, &parent.about);
        inherit(&mut self.sql_alias, &parent.sql_alias);
        self.parent_unknown |= parent.parent_unknown;
        self.cubes = parent.cubes.iter().chain(&self.cubes).cloned().collect();
        self.folders = parent.folders.iter().chain(&self.folders).cloned().collect();
        self.default_filters = parent.default_filters.iter().chain(&self.default_filters).cloned().collect();
        self.policies = parent.policies.iter().chain(&self.policies).cloned().collect();
        let own = std::mem::take(&mut self.groups);
        self.groups = parent.groups.iter().cloned().chain(own).collect();
        let mut seen = HashSet::new();
        self.groups.retain(|group| seen.insert(group.clone()));
    }
}

fn inherit<T: Clone>(own: &mut Option<T>, parent: &Option<T>) {
    if own.is_none() {
        own.clone_from(parent);
    }
}

fn inherit_about(own: &mut About, parent: &About) {
    inherit(&mut own.title, &parent.title);
    inherit(&mut own.description, &parent.description);
    inherit(&mut own.meta, &parent.meta);
    inherit(&mut own.public, &parent.public);
}

/// The parent's members in order, each replaced by the child's of its name; then the child's other ones.
fn union<T: Clone>(own: &mut Vec<T>, parent: &[T], about: fn(&T) -> &About) {
    let mut children: Vec<Option<T>> = std::mem::take(own).into_iter().map(Some).collect();
    for member in parent {
        let name = &about(member).name;
        let at = children.iter().position(|child| child.as_ref().is_some_and(|child| about(child).name == *name));
        own.push(at.and_then(|at| children[at].take()).unwrap_or_else(|| member.clone()));
    }
    own.extend(children.into_iter().flatten());
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_one, model};

    const PARENT: &str = "
  - name: events
    sql_table: events
    title: All events
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: at, sql: '{CUBE}.at', type: time}
    measures:
      - {name: count, type: count, drill_members: [id]}
      - {name: total, type: sum, sql: amount}
    segments: [{name: big, sql: '{CUBE}.amount > 9'}]
";

    #[test]
    fn members_are_taken_over_and_replaced_whole() {
        let child = "  - name: clicks
    extends: events
    sql: SELECT * FROM x WHERE y
    dimensions: [{name: page, sql: page, type: string}]
    measures: [{name: count, type: sum, sql: n}]
";
        let model = model(&format!("cubes:{PARENT}{child}"));
        let clicks = model.find_cube("clicks").expect("clicks");
        let names: Vec<&str> = clicks.dimensions.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["id", "at", "page"]);
        assert_eq!(clicks.title, "All events");
        assert_eq!(clicks.measures[0].kind.agg_type(), "sum");
        assert!(clicks.measures[0].drill_members.is_empty(), "an entry is replaced whole");
        assert_eq!(clicks.segments.len(), 1);
        assert!(matches!(clicks.source, crate::model::CubeSource::Query(_)));
        // What is inherited belongs to the child.
        assert!(clicks.measures.iter().all(|m| m.id.cube == clicks.id));
    }

    #[test]
    fn chains_in_any_order_work_and_circles_are_told() {
        let chain = "
  - {name: c, extends: b}
  - {name: b, extends: '{a}', sql_alias: bb}
  - {name: a, sql_table: t, dimensions: [{name: x, sql: x, type: string}]}
";
        let model = model(&format!("cubes:{chain}"));
        let c = model.find_cube("c").expect("c");
        assert_eq!((c.dimensions.len(), c.sql_alias.as_deref()), (1, Some("bb")));
        check_one("cubes: [{name: a, extends: b}, {name: b, extends: a}]", "error: b: circular extends: a → b → a");
        check_one(
            &format!("cubes:{PARENT}  - {{name: d, extends: event}}\n"),
            "error: d: event is not defined | did you mean 'events'?",
        );
    }
}
