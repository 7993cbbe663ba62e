//! Checks over how members reference each other: circles, size, which cubes a member reads, and the keys that joins
//! need.

use std::collections::BTreeSet;

use super::cube::{AggKind, Cube, CubeId, DataType, DimensionKind, MeasureKind, MemberId, SegmentId};
use super::fields::{Place, Report};
use super::raw::{About, RawCube};
use super::template::{Part, Template};
use super::yaml::Mark;

/// Deepest chain of references.
const MAX_DEPTH: usize = 64;
/// Longest SQL that a member may grow to when its references are replaced by what they stand for.
const MAX_SQL_BYTES: usize = 1_000_000;

/// Members as numbers, and for each what it references.
#[derive(Debug)]
pub(super) struct Graph<'r> {
    raw: &'r [RawCube],
    members: Vec<MemberId>,
    /// For each cube the numbers of its first measure, dimension and segment.
    firsts: Vec<[usize; 3]>,
    references: Vec<Vec<usize>>,
    /// Size of the member's own text.
    own_bytes: Vec<usize>,
    /// Whether it is computed by a query of its own, which joins for itself.
    own_query: Vec<bool>,
    /// Members after those they reference; references that close a circle are left out of account.
    order: Vec<usize>,
    /// The cubes a member reads, its own included; filled by [`Graph::check`].
    cubes: Vec<BTreeSet<CubeId>>,
}

impl<'r> Graph<'r> {
    pub(super) fn new(raw: &'r [RawCube], cubes: &[Cube]) -> Self {
        let mut members = Vec::new();
        let mut firsts = Vec::with_capacity(cubes.len());
        for cube in cubes {
            let first_measure = members.len();
            members.extend(cube.measures.iter().map(|m| MemberId::Measure(m.id)));
            let first_dimension = members.len();
            members.extend(cube.dimensions.iter().map(|d| MemberId::Dimension(d.id)));
            firsts.push([first_measure, first_dimension, members.len()]);
            members.extend(cube.segments.iter().map(|s| MemberId::Segment(s.id)));
        }
        let mut graph = Self {
            raw,
            firsts,
            references: Vec::with_capacity(members.len()),
            own_bytes: Vec::with_capacity(members.len()),
            own_query: Vec::with_capacity(members.len()),
            order: Vec::with_capacity(members.len()),
            cubes: members.iter().map(|member| BTreeSet::from([member.cube()])).collect(),
            members,
        };
        for member in &graph.members {
            let templates = templates(cubes, *member);
            graph.own_bytes.push(templates.iter().flat_map(|t| &t.parts).map(part_bytes).sum());
            let targets = templates.iter().flat_map(|t| t.members());
            graph.references.push(targets.map(|target| graph.number(target)).collect());
            graph.own_query.push(is_own_query(cubes, *member));
        }
        graph
    }

    fn number(&self, member: MemberId) -> usize {
        let [measures, dimensions, segments] = self.firsts[member.cube().index()];
        match member {
            MemberId::Measure(id) => measures + id.index as usize,
            MemberId::Dimension(id) => dimensions + id.index as usize,
            MemberId::Segment(id) => segments + id.index as usize,
        }
    }

    fn about(&self, member: MemberId) -> &'r About {
        let cube = &self.raw[member.cube().index()];
        match member {
            MemberId::Measure(id) => &cube.measures[id.index as usize].about,
            MemberId::Dimension(id) => &cube.dimensions[id.index as usize].about,
            MemberId::Segment(id) => &cube.segments[id.index as usize].about,
        }
    }

    fn path(&self, number: usize) -> String {
        let member = self.members[number];
        format!("{}.{}", self.raw[member.cube().index()].about.name, self.about(member).name)
    }

    fn report_at(&self, number: usize) -> (&'r Place, Mark) {
        let about = self.about(self.members[number]);
        (&about.place, about.mark)
    }

    /// Reports circles and members that grow too large, and finds the cubes that members read.
    pub(super) fn check(&mut self, report: &mut Report) {
        self.find_circles(report);
        let mut depths = vec![0_usize; self.members.len()];
        let mut bytes = vec![0_usize; self.members.len()];
        for number in self.order.clone() {
            let references = std::mem::take(&mut self.references[number]);
            let mut read = std::mem::take(&mut self.cubes[number]);
            for &target in &references {
                if !self.own_query[number] {
                    read.extend(&self.cubes[target]);
                }
                depths[number] = depths[number].max(depths[target] + 1);
                bytes[number] = bytes[number].saturating_add(bytes[target]);
            }
            bytes[number] = bytes[number].saturating_add(self.own_bytes[number]);
            let fault = if depths[number] > MAX_DEPTH {
                depths[number] = 0;
                Some(format!("references nest deeper than {MAX_DEPTH} levels"))
            } else if bytes[number] > MAX_SQL_BYTES {
                bytes[number] = 0;
                Some(format!("its SQL grows beyond {MAX_SQL_BYTES} bytes with its references"))
            } else {
                None
            };
            if let Some(message) = fault {
                let (place, mark) = self.report_at(number);
                report.error(place, mark, message);
            }
            self.references[number] = references;
            self.cubes[number] = read;
        }
    }

    /// Walks depth first without recursion, so that a long chain cannot exhaust the stack.
    fn find_circles(&mut self, report: &mut Report) {
        const NEW: u8 = 0;
        const OPEN: u8 = 1;
        const DONE: u8 = 2;
        let mut states = vec![NEW; self.members.len()];
        let mut in_reported_circle = vec![false; self.members.len()];
        for start in 0..self.members.len() {
            if states[start] != NEW {
                continue;
            }
            states[start] = OPEN;
            let mut stack = vec![(start, 0_usize)];
            while let Some((number, next)) = stack.last_mut() {
                let number = *number;
                let Some(&target) = self.references[number].get(*next) else {
                    states[number] = DONE;
                    self.order.push(number);
                    stack.pop();
                    continue;
                };
                *next += 1;
                if states[target] == NEW {
                    states[target] = OPEN;
                    stack.push((target, 0));
                } else if states[target] == OPEN {
                    let from = stack.iter().position(|(n, _)| *n == target).unwrap_or(0);
                    let circle: Vec<usize> = stack[from..].iter().map(|(n, _)| *n).collect();
                    if !circle.iter().all(|n| in_reported_circle[*n]) {
                        self.report_circle(&circle, report);
                    }
                    circle.iter().for_each(|n| in_reported_circle[*n] = true);
                }
            }
        }
    }

    fn report_circle(&self, circle: &[usize], report: &mut Report) {
        let closed = circle.iter().chain(circle.first());
        let path: Vec<String> = closed.map(|number| self.path(*number)).collect();
        let (place, mark) = self.report_at(circle[0]);
        report.error(place, mark, format!("circular reference: {}", path.join(" → "))).hint =
            Some("write '{CUBE}.column' to mean a column of the table".to_owned());
    }

    /// Cubes that a member reads, itself and through what it references.
    pub(super) fn cubes_read(&self, member: MemberId) -> &BTreeSet<CubeId> {
        &self.cubes[self.number(member)]
    }

    /// Joins need keys where aggregates do (`data-model.md` §7.5).
    pub(super) fn check_joins(&self, cubes: &[Cube], report: &mut Report) {
        let ends = cubes.iter().flat_map(|cube| cube.joins.iter().flat_map(|join| [cube.id, join.to]));
        let keyless: BTreeSet<CubeId> = ends.filter(|end| needs_key(&cubes[end.index()])).collect();
        for id in keyless {
            let About { place, mark, name, .. } = &self.raw[id.index()].about;
            let message = format!(
                "primary key for '{name}' is required when join is defined in order to make aggregates work properly"
            );
            report.error(place, *mark, message).hint =
                Some(format!("add 'primary_key: true' to the dimension that identifies a row of '{name}'"));
        }
    }
}

/// Whether it has measures that fan-out would falsify, and no key to undo it (`data-model.md` §5.6).
fn needs_key(cube: &Cube) -> bool {
    let sensitive = |kind: &MeasureKind| match kind {
        MeasureKind::Aggregate { agg, .. } => matches!(agg, AggKind::Count | AggKind::Sum | AggKind::Avg),
        MeasureKind::Calculated { data_type, sql } => {
            *data_type == DataType::Number
                || sql.as_text().is_some_and(|text| text.trim().eq_ignore_ascii_case("count(*)"))
        }
        MeasureKind::Rank(_) => false,
        MeasureKind::Switch(switch) => switch.agg.is_none_or(|agg| matches!(agg, AggKind::Sum | AggKind::Avg)),
    };
    cube.primary_key().next().is_none()
        && cube.measures.iter().any(|measure| measure.stage.is_none() && sensitive(&measure.kind))
}

fn is_own_query(cubes: &[Cube], member: MemberId) -> bool {
    match member {
        MemberId::Dimension(id) => {
            let kind = &cubes[id.cube.index()].dimensions[id.index as usize].kind;
            matches!(kind, DimensionKind::SubQuery(_))
        }
        MemberId::Measure(_) | MemberId::Segment(_) => false,
    }
}

/// All fragments of a member.
fn templates(cubes: &[Cube], member: MemberId) -> Vec<&Template> {
    let cube = &cubes[member.cube().index()];
    match member {
        MemberId::Measure(id) => cube.measures[id.index as usize].templates(),
        MemberId::Dimension(id) => cube.dimensions[id.index as usize].templates(),
        MemberId::Segment(SegmentId { index, .. }) => vec![&cube.segments[index as usize].sql],
    }
}

fn part_bytes(part: &Part) -> usize {
    match part {
        Part::Text(text) => text.len(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_one, diagnostics, shop};

    #[test]
    fn circles_are_named_once_with_their_members() {
        let hint = "write '{CUBE}.column' to mean a column of the table";
        check_one(
            &shop(
                "",
                "- {name: a, sql: '{b}', type: string}\n- {name: b, sql: '{c}', type: string}\n- {name: c, sql: '{a} || {b}', type: string}",
                "",
            ),
            &format!("error: orders.a: circular reference: orders.a → orders.b → orders.c → orders.a | {hint}"),
        );
        check_one(
            &shop("- {name: m, type: number, sql: '{m} + 1'}", "", ""),
            &format!("error: orders.m: circular reference: orders.m → orders.m | {hint}"),
        );
    }

    #[test]
    fn deep_and_growing_references_are_refused() {
        let chain = |count: usize, sql: fn(usize) -> String| {
            let member = |i: usize| format!("- {{name: d{i}, type: string, sql: \"{}\"}}", sql(i));
            let members: Vec<_> = (1..=count).map(member).collect();
            shop("", &format!("- {{name: d0, type: string, sql: x}}\n{}", members.join("\n")), "")
        };
        assert_eq!(diagnostics(&chain(64, |i| format!("{{d{}}}", i - 1))), [""; 0]);
        let deep = diagnostics(&chain(65, |i| format!("{{d{}}}", i - 1)));
        assert_eq!(deep.len(), 1, "{deep:?}");
        assert!(deep[0].ends_with("orders.d65: references nest deeper than 64 levels"), "{deep:?}");
        let wide = diagnostics(&chain(25, |i| format!("{{d{0}}} || {{d{0}}}", i - 1)));
        assert!(wide[0].ends_with("its SQL grows beyond 1000000 bytes with its references"), "{wide:?}");
        // A long chain must not exhaust the stack.
        assert!(!diagnostics(&chain(5_000, |i| format!("{{d{}}}", (i + 1) % 5_000))).is_empty());
    }

    #[test]
    fn joins_need_keys_where_aggregates_would_be_multiplied() {
        let source = |measure: &str, key: &str| {
            format!(
                "cubes:\n  - name: a\n    sql_table: a\n    joins: [{{name: b, relationship: one_to_many, sql: x}}]\n    \
                 measures: [{measure}]\n    dimensions: [{{name: id, sql: id, type: number, primary_key: {key}}}]\n  \
                 - {{name: b, sql_table: b}}\n"
            )
        };
        let missing = "error: a: primary key for 'a' is required when join is defined in order to make aggregates work \
                       properly | add 'primary_key: true' to the dimension that identifies a row of 'a'";
        for sensitive in [
            "{name: m, type: count}",
            "{name: m, type: sum, sql: x}",
            "{name: m, type: avg, sql: x}",
            "{name: m, type: number, sql: MAX(x)}",
            "{name: m, type: string, sql: COUNT(*)}",
        ] {
            check_one(&source(sensitive, "false"), missing);
            check_one(&source(sensitive, "true"), "");
        }
        for safe in ["", "{name: m, type: max, sql: x}", "{name: m, type: count_distinct, sql: x}"] {
            check_one(&source(safe, "false"), "");
        }
    }
}
