//! The join graph: path choice and fan-out detection (`data-model.md` §7).

use std::collections::{BTreeSet, HashMap};

use super::Model;
use super::cube::{Cube, CubeId, Location};
use super::template::Template;

/// How many rows of the target match one row of the declaring cube, and the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relationship {
    /// One each.
    OneToOne,
    /// One here, many there.
    OneToMany,
    /// Many here, one there.
    ManyToOne,
}

/// A declared join.
#[derive(Debug)]
pub struct Join {
    /// The cube joined.
    pub to: CubeId,
    /// Feeds fan-out analysis; the join is always a LEFT JOIN.
    pub relationship: Relationship,
    /// The predicate.
    pub sql: Template,
    /// Where it is declared.
    pub location: Location,
}

/// A join of a tree: `LEFT JOIN to ON from.joins[join].sql`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct JoinEdge {
    /// The declaring cube.
    pub from: CubeId,
    /// The cube joined.
    pub to: CubeId,
    /// Position in `from`'s list of joins.
    pub join: usize,
    /// As declared.
    pub relationship: Relationship,
}

/// How the cubes of a query hang together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinTree {
    /// The cube after FROM.
    pub root: CubeId,
    /// Joins in order; every `from` is the root or an earlier `to`.
    pub edges: Vec<JoinEdge>,
}

/// The cubes cannot be joined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Can't find join path to join {}", cubes.iter().map(|c| format!("'{c}'")).collect::<Vec<_>>().join(", "))]
pub struct JoinError {
    /// The cubes asked for, in order.
    pub cubes: Vec<String>,
}

impl JoinTree {
    /// All cubes of the tree, root first.
    pub fn cubes(&self) -> impl Iterator<Item = CubeId> {
        std::iter::once(self.root).chain(self.edges.iter().map(|edge| edge.to))
    }

    /// Whether a row of `cube` may appear several times in the joined rows: walking outward from it
    /// some hop goes from a "one" side to a "many" side (`data-model.md` §7.4).
    pub fn multiplies(&self, cube: CubeId) -> bool {
        self.multiplies_from(cube, &mut BTreeSet::new())
    }

    fn multiplies_from(&self, cube: CubeId, visited: &mut BTreeSet<CubeId>) -> bool {
        if !visited.insert(cube) {
            return false;
        }
        let touching: Vec<_> = self.edges.iter().filter(|e| e.from == cube || e.to == cube).collect();
        let fans_out = touching.iter().any(|e| {
            let other = if e.from == cube { e.to } else { e.from };
            !visited.contains(&other)
                && ((e.from == cube && e.relationship == Relationship::OneToMany)
                    || (e.to == cube && e.relationship == Relationship::ManyToOne))
        });
        fans_out || touching.iter().any(|e| self.multiplies_from(if e.from == cube { e.to } else { e.from }, visited))
    }
}

/// What a query says of the cubes that it needs: one cube, or several along which to join.
pub type Hint = Vec<CubeId>;

/// Every hint is tried as root; the tree of fewest joins wins, ties go to the earliest hint
/// (`data-model.md` §7.3).
pub(super) fn build_tree(model: &Model, hints: &[Hint]) -> Result<JoinTree, JoinError> {
    let mut distinct: Vec<&Hint> = Vec::new();
    for hint in hints.iter().filter(|hint| !hint.is_empty()) {
        if !distinct.contains(&hint) {
            distinct.push(hint);
        }
    }
    let name = |hint: &&Hint| hint.iter().map(|id| model.cube(*id).name.as_str()).collect::<Vec<_>>().join(",");
    (0..distinct.len())
        .filter_map(|root| {
            let rest = distinct.iter().enumerate().filter(|(at, _)| *at != root).map(|(_, hint)| hint.as_slice());
            tree_for_root(model, distinct[root], rest)
        })
        .min_by_key(|tree| tree.edges.len())
        .ok_or_else(|| JoinError { cubes: distinct.iter().map(name).collect() })
}

fn tree_for_root<'h>(model: &Model, root: &'h [CubeId], rest: impl Iterator<Item = &'h [CubeId]>) -> Option<JoinTree> {
    let (root, path) = root.split_first()?;
    let mut edges: Vec<JoinEdge> = Vec::new();
    let mut joined: Vec<CubeId> = Vec::new();
    for hint in std::iter::once(path).chain(rest) {
        let mut from = *root;
        for target in hint.iter().copied() {
            if target == from {
                continue;
            }
            // A path that leads back to the root needs a tree with another root.
            if target == *root {
                return None;
            }
            if !joined.contains(&target) {
                for edge in shortest_path(model, from, target)? {
                    if !edges.iter().any(|e| e.to == edge.to) {
                        edges.push(edge);
                    }
                }
                joined.push(target);
            }
            from = target;
        }
    }
    Some(JoinTree { root: *root, edges })
}

/// Breadth first, so with unit weights the shortest; among equals the first declared.
fn shortest_path(model: &Model, from: CubeId, to: CubeId) -> Option<Vec<JoinEdge>> {
    let mut came_by: HashMap<CubeId, JoinEdge> = HashMap::new();
    let mut queue = std::collections::VecDeque::from([from]);
    while let Some(cube) = queue.pop_front() {
        if cube == to {
            let mut path = Vec::new();
            let mut at = to;
            while at != from {
                let edge = came_by[&at];
                path.push(edge);
                at = edge.from;
            }
            path.reverse();
            return Some(path);
        }
        for (join, declared) in model.cube(cube).joins.iter().enumerate() {
            if declared.to != from && !came_by.contains_key(&declared.to) {
                let edge = JoinEdge { from: cube, to: declared.to, join, relationship: declared.relationship };
                came_by.insert(declared.to, edge);
                queue.push_back(declared.to);
            }
        }
    }
    None
}

/// Labels the parts of the undirected join graph from 1; cubes without any join get none.
pub(super) fn connected_components(cubes: &[Cube]) -> Vec<Option<u32>> {
    let mut neighbours: Vec<Vec<usize>> = vec![Vec::new(); cubes.len()];
    for cube in cubes {
        for join in &cube.joins {
            neighbours[cube.id.index()].push(join.to.index());
            neighbours[join.to.index()].push(cube.id.index());
        }
    }
    let mut labels = vec![None; cubes.len()];
    let mut next = 1;
    for start in 0..cubes.len() {
        if labels[start].is_some() || neighbours[start].is_empty() {
            continue;
        }
        let mut stack = vec![start];
        while let Some(at) = stack.pop() {
            if labels[at].is_none() {
                labels[at] = Some(next);
                stack.extend(&neighbours[at]);
            }
        }
        next += 1;
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::super::testing::model;
    use super::*;

    /// Cubes `a`, `b`… of joins like `a>b` (many to one), `a<b` (one to many) and `a=b` (one to one), in that order.
    fn graph(joins: &str) -> Model {
        let mut cubes: Vec<(char, Vec<String>)> = Vec::new();
        for join in joins.split(' ') {
            let chars: Vec<char> = join.chars().collect();
            let [from, kind, to] = chars[..] else { panic!("{join}") };
            let relationship = match kind {
                '>' => "many_to_one",
                '<' => "one_to_many",
                _ => "one_to_one",
            };
            for cube in [from, to] {
                if !cubes.iter().any(|(name, _)| *name == cube) {
                    cubes.push((cube, Vec::new()));
                }
            }
            let declaring = cubes.iter_mut().find(|(name, _)| *name == from).expect("just added");
            declaring.1.push(format!("{{name: {to}, relationship: {relationship}, sql: x}}"));
        }
        let cube = |(name, joins): &(char, Vec<String>)| {
            format!("  - {{name: {name}, sql_table: t, joins: [{}]}}\n", joins.join(", "))
        };
        model(&format!("cubes:\n{}", cubes.iter().map(cube).collect::<String>()))
    }

    /// Hints like `a` and paths like `a.b`.
    fn hints_of(model: &Model, names: &str) -> Vec<Hint> {
        let id = |name: &str| model.find_cube(name).expect("a cube").id;
        names.split(' ').map(|hint| hint.split('.').map(id).collect()).collect()
    }

    #[track_caller]
    fn check(joins: &str, hints: &str, expected: Result<&str, &str>) {
        let model = graph(joins);
        let name = |id: CubeId| model.cube(id).name.as_str();
        let tree = model.join_tree(&hints_of(&model, hints));
        let shown = tree.map(|tree| {
            let edges = tree.edges.iter().map(|edge| format!(" {}-{}", name(edge.from), name(edge.to)));
            format!("{}:{}", name(tree.root), edges.collect::<String>())
        });
        assert_eq!(shown.as_deref().map_err(ToString::to_string), expected.map_err(str::to_owned));
    }

    #[test]
    fn trees_follow_the_arrows_from_the_best_root() {
        check("a>b b>c", "a", Ok("a:"));
        check("a>b b>c", "a c", Ok("a: a-b b-c"));
        check("a>b b>c", "c a", Ok("a: a-b b-c"));
        check("a>b b>c", "c a b", Ok("a: a-b b-c"));
        check("a>b a>c b>d", "d c a", Ok("a: a-b b-d a-c"));
        check("a>b b>a", "b a", Ok("b: b-a"));
        check("a>b b>a", "a b a", Ok("a: a-b"));
    }

    #[test]
    fn the_shortest_path_wins_and_ties_go_to_the_first_declared() {
        check("a>b b>c c>d a>d", "a d", Ok("a: a-d"));
        check("a>b a>c b>d c>d", "a d", Ok("a: a-b b-d"));
        check("a>c a>b b>d c>d", "a d", Ok("a: a-c c-d"));
        check("a>b b>a a>c b>c", "b a c", Ok("b: b-a b-c"));
    }

    #[test]
    fn paths_are_walked_hop_by_hop() {
        check("a>b a>c b>d c>d", "a a.c.d", Ok("a: a-c c-d"));
        check("a>b a>c b>d c>d", "a.c.d", Ok("a: a-c c-d"));
        check("a>b a>c b>d c>d", "a d", Ok("a: a-b b-d"));
        check("a>b b>c a>c", "a.b.c", Ok("a: a-b b-c"));
        check("a>b b>c", "b a.b", Ok("a: a-b"));
        check("a>b", "a.b a", Ok("a: a-b"));
        // In a circle a path is not cut short where the root lies on it.
        check("a<b b>c c>a", "a b c.a", Ok("b: b-c c-a"));
        check("a>b c>d", "a c.d", Err("Can't find join path to join 'a', 'c,d'"));
    }

    #[test]
    fn a_cube_is_joined_once() {
        // `d` hangs on `b`; the detour over `c` must not join it again.
        check("a>b a>c b>d c>d", "a c d", Ok("a: a-c a-b b-d"));
    }

    #[test]
    fn cubes_without_a_common_root_cannot_be_joined() {
        check("a>c b>c", "a b", Err("Can't find join path to join 'a', 'b'"));
        check("a>c b>c", "b a c a", Err("Can't find join path to join 'b', 'a', 'c'"));
        check("a>b c>d", "a d", Err("Can't find join path to join 'a', 'd'"));
    }

    #[track_caller]
    fn check_multiplied(joins: &str, hints: &str, expected: &str) {
        let model = graph(joins);
        let tree = model.join_tree(&hints_of(&model, hints)).expect("a tree");
        let multiplied = tree.cubes().filter(|cube| tree.multiplies(*cube)).map(|cube| model.cube(cube).name.as_str());
        let mut multiplied: Vec<_> = multiplied.collect();
        multiplied.sort_unstable();
        assert_eq!(multiplied.join(" "), expected, "{joins}");
    }

    #[test]
    fn cubes_on_a_one_side_are_multiplied() {
        // Line items belong to orders, which belong to users (`data-model.md` §7.4).
        check_multiplied("l>o o>u", "l o u", "o u");
        check_multiplied("l>o o>u", "l", "");
        check_multiplied("o<l", "o l", "o");
        check_multiplied("a=b b=c", "a b c", "");
        // Two fact tables under one hub multiply each other.
        check_multiplied("h<a h<b", "h a b", "a b h");
        // The hop that multiplies may lie behind others.
        check_multiplied("a=b b<c", "a b c", "a b");
        check_multiplied("a>b b=c", "a b c", "b c");
        // Only joins of the tree count.
        check_multiplied("a>b a<c", "a b", "b");
    }

    #[test]
    fn components_ignore_the_arrows() {
        let model = graph("a>b c>b d>e");
        let of = |name: &str| model.connected_component(model.find_cube(name).expect("a cube").id);
        assert_eq!(of("a"), of("b"));
        assert_eq!(of("a"), of("c"));
        assert_eq!(of("d"), of("e"));
        assert_ne!(of("a"), of("d"));
        assert!(of("a").is_some() && of("d").is_some());
        let lone = super::super::testing::model("cubes: [{name: a, sql_table: t}]");
        assert_eq!(lone.connected_component(CubeId(0)), None);
    }
}
