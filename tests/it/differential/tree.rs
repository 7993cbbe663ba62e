//! Which cubes a query joins, in what order: the rules of the data model (§7.2, §7.3), written down a second time.

use std::collections::{BTreeSet, VecDeque};

use super::model::{Form, Model, Relationship};

/// A cube, or cubes along which to join.
pub(crate) type Hint = Vec<usize>;

/// A root and the joins in order: declaring cube and position among its joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) root: usize,
    pub(crate) edges: Vec<(usize, usize)>,
}

/// Why a query has no answer that could be derived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No cube reaches all others: the server must refuse.
    NoPath,
    /// The rules leave more than one answer open, or this derivation does not cover the query.
    Open(String),
}

/// What stands between braces in a fragment of SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Text(&'a str),
    /// A cube's alias.
    Alias(usize),
    /// A member of a cube, reached by the cubes before the last one when there are several.
    Member(Vec<usize>, &'a str),
}

impl Model {
    /// A fragment that belongs to `owner`, taken apart.
    pub(crate) fn pieces<'a>(&self, owner: usize, sql: &'a str) -> Vec<Piece<'a>> {
        let mut found = Vec::new();
        let mut rest = sql;
        while let Some((text, after)) = rest.split_once('{') {
            let (reference, after) = after.split_once('}').expect("braces of generated SQL are closed");
            rest = after;
            found.push(Piece::Text(text));
            let words: Vec<&str> = reference.split('.').collect();
            let cube = |word: &str| if word == "CUBE" { Some(owner) } else { self.cube(word) };
            found.push(match (words.as_slice(), cube(words[0])) {
                ([_], Some(cube)) => Piece::Alias(cube),
                ([name], None) => Piece::Member(vec![owner], name),
                ([path @ .., name], _) => {
                    let path = path.iter().map(|word| cube(word).unwrap_or_else(|| panic!("no cube {word}")));
                    Piece::Member(path.collect(), name)
                }
                ([], _) => panic!("an empty reference in {sql}"),
            });
        }
        found.push(Piece::Text(rest));
        found
    }

    /// The fragments of a member's SQL; those of a sub-query dimension belong to a query of its own.
    pub(crate) fn fragments(&self, cube: usize, name: &str) -> Vec<&str> {
        let cube = &self.cubes[cube];
        if let Some(dimension) = cube.dimension(name) {
            return match &dimension.form {
                Form::Sql(sql) => vec![sql],
                Form::Case(branches, _) => branches.iter().map(|(condition, _)| condition.as_str()).collect(),
                Form::SubQuery(..) => Vec::new(),
            };
        }
        if let Some(measure) = cube.measure(name) {
            return measure.sql.iter().chain(&measure.filters).map(String::as_str).collect();
        }
        cube.segment(name).into_iter().collect()
    }

    /// Adds what a member needs joined.
    pub(crate) fn hints_of(&self, path: &[usize], name: &str, hints: &mut Vec<Hint>) {
        if !hints.contains(&path.to_vec()) {
            hints.push(path.to_vec());
        }
        let cube = *path.last().expect("paths are not empty");
        for sql in self.fragments(cube, name) {
            for piece in self.pieces(cube, sql) {
                match piece {
                    Piece::Text(_) => {}
                    Piece::Alias(other) if other == cube => {}
                    Piece::Alias(other) => hints.push(vec![other]),
                    Piece::Member(path, name) => self.hints_of(&path, name, hints),
                }
            }
        }
    }

    /// The tree of some hints.
    pub(crate) fn tree(&self, hints: &[Hint]) -> Result<Tree, Refusal> {
        let mut distinct: Vec<&Hint> = Vec::new();
        for hint in hints {
            if !distinct.contains(&hint) {
                distinct.push(hint);
            }
        }
        let candidates = (0..distinct.len()).filter_map(|root| {
            let mut rest = distinct.clone();
            let first = rest.remove(root);
            let mut walks = vec![&first[1..]];
            walks.extend(rest.iter().map(|hint| hint.as_slice()));
            self.tree_from(first[0], &walks)
        });
        let tree = candidates.min_by_key(|tree| tree.edges.len()).ok_or(Refusal::NoPath)?;
        let mut seen = BTreeSet::from([tree.root]);
        if tree.edges.iter().all(|(from, join)| seen.insert(self.cubes[*from].joins[*join].to)) {
            Ok(tree)
        } else {
            Err(Refusal::Open("a cube is reached by two ways".to_owned()))
        }
    }

    fn tree_from(&self, root: usize, walks: &[&[usize]]) -> Option<Tree> {
        let mut edges = Vec::new();
        let mut joined = BTreeSet::new();
        for walk in walks {
            let mut at = root;
            for cube in walk.iter().copied() {
                if cube == at {
                    continue;
                }
                if joined.insert(cube) {
                    for edge in self.shortest(at, cube)? {
                        if !edges.contains(&edge) {
                            edges.push(edge);
                        }
                    }
                }
                at = cube;
            }
        }
        Some(Tree { root, edges })
    }

    /// Whether rows of a cube may repeat in the rows of a tree (§7.4).
    pub(crate) fn multiplies(&self, tree: &Tree, cube: usize) -> bool {
        let mut open = vec![cube];
        let mut visited = BTreeSet::new();
        while let Some(at) = open.pop() {
            visited.insert(at);
            for (from, join) in &tree.edges {
                let join = &self.cubes[*from].joins[*join];
                let (other, fans_out) = match at {
                    at if at == *from => (join.to, join.relationship == Relationship::OneToMany),
                    at if at == join.to => (*from, join.relationship == Relationship::ManyToOne),
                    _ => continue,
                };
                if visited.contains(&other) {
                    continue;
                }
                if fans_out {
                    return true;
                }
                open.push(other);
            }
        }
        false
    }

    /// Of equally short ways the one whose joins are declared first.
    fn shortest(&self, from: usize, to: usize) -> Option<Vec<(usize, usize)>> {
        let mut ways: Vec<Option<Vec<(usize, usize)>>> = vec![None; self.cubes.len()];
        ways[from] = Some(Vec::new());
        let mut open = VecDeque::from([from]);
        while let Some(cube) = open.pop_front() {
            for (position, join) in self.cubes[cube].joins.iter().enumerate() {
                if ways[join.to].is_none() {
                    let mut way = ways[cube].clone().expect("what is open has a way");
                    way.push((cube, position));
                    ways[join.to] = Some(way);
                    open.push_back(join.to);
                }
            }
        }
        ways[to].take()
    }
}
