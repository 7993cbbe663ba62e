//! What the kinds of pre-aggregations ask of each other: the rollups of lambdas and joins looked up and held against
//! their rules, index columns resolved, and those that can never be used told of (`pre-aggregations.md` §2, §11.1).

use super::Model;
use super::cube::{Cube, CubeId, MemberId};
use super::fields::{Report, Text};
use super::preagg::{Preagg, PreaggId, PreaggIndex, PreaggKind};
use super::raw::{About, RawCube};
use super::raw_preagg::{RawIndex, RawKind};
use super::raw_rollup::RawRollup;
use super::rollup_join;
use super::symbols::did_you_mean;
use crate::names::{alias, nearest};

/// Fills in what needs all definitions of a project.
pub(super) fn resolve(raw: &[RawCube], cubes: &[Cube], preaggs: &mut [Vec<Preagg>], report: &mut Report) {
    let ids: Vec<PreaggId> = preaggs.iter().flatten().map(|preagg| preagg.id).collect();
    for id in ids {
        let Some(definition) = definition_of(raw, preaggs, id) else { continue };
        let Some(body) = &definition.body else { continue };
        let (about, all) = (&definition.about, All { cubes, preaggs });
        let kind = match &body.kind {
            RawKind::Rollup | RawKind::OriginalSql => None,
            RawKind::Join(names) => Some(PreaggKind::Join { rollups: all.find_rollups(id, names, about, report) }),
            RawKind::Lambda { rollups: names, union_with_source } => {
                let rollups = all.find_rollups(id, names, about, report);
                Some(PreaggKind::Lambda { rollups, union_with_source: *union_with_source })
            }
        };
        let mut found = all.get(id).clone();
        found.kind = kind.unwrap_or(found.kind);
        inherit_members(&all, &mut found);
        match &found.kind {
            PreaggKind::Lambda { rollups, union_with_source } => {
                let lambda = Lambda { all: &all, own: &found, about };
                let union_with_source = lambda.check(rollups, *union_with_source, report);
                found.kind = PreaggKind::Lambda { rollups: rollups.clone(), union_with_source };
            }
            PreaggKind::Join { rollups } if rollups.is_empty() && !has_names(&body.kind) => {
                let message = format!("rollupJoin '{}' should reference at least two rollups", about.place.owner());
                report.error(&about.place, about.mark, message);
            }
            PreaggKind::Join { .. } | PreaggKind::Rollup | PreaggKind::OriginalSql => {}
        }
        found.indexes = indexes(cubes, &found, &body.options.indexes, about, report);
        preaggs[id.cube.index()][id.index as usize] = found;
    }
}

fn has_names(kind: &RawKind) -> bool {
    match kind {
        RawKind::Join(names) | RawKind::Lambda { rollups: names, .. } => !names.is_empty(),
        RawKind::Rollup | RawKind::OriginalSql => false,
    }
}

fn definition_of<'r>(raw: &'r [RawCube], preaggs: &[Vec<Preagg>], id: PreaggId) -> Option<&'r RawRollup> {
    let name = &preaggs[id.cube.index()][id.index as usize].name;
    raw.get(id.cube.index())?.rollups.iter().find(|rollup| rollup.about.name == *name)
}

fn about_of<'r>(raw: &'r [RawCube], preagg: &Preagg) -> Option<&'r About> {
    let rollups = &raw.get(preagg.id.cube.index())?.rollups;
    rollups.iter().map(|rollup| &rollup.about).find(|about| about.name == preagg.name)
}

/// A lambda that lists no members has those of its first rollup, and its strictness either way.
fn inherit_members(all: &All<'_>, lambda: &mut Preagg) {
    let PreaggKind::Lambda { rollups, .. } = &lambda.kind else { return };
    let Some(first) = rollups.first().map(|id| all.get(*id)) else { return };
    lambda.strict = first.strict;
    if lambda.members().next().is_none() {
        let Preagg { paths, measures, dimensions, segments, time, more_times, .. } = first.clone();
        *lambda = Preagg { paths, measures, dimensions, segments, time, more_times, ..lambda.clone() };
    }
    lambda.partition_granularity = None;
}

/// All definitions of a project.
struct All<'a> {
    cubes: &'a [Cube],
    preaggs: &'a [Vec<Preagg>],
}

impl All<'_> {
    fn get(&self, id: PreaggId) -> &Preagg {
        &self.preaggs[id.cube.index()][id.index as usize]
    }

    fn path(&self, id: PreaggId) -> String {
        format!("{}.{}", self.cubes[id.cube.index()].name, self.get(id).name)
    }

    /// The rollups that a definition names. Names that mean none are faults.
    fn find_rollups(&self, own: PreaggId, names: &[Text], about: &About, report: &mut Report) -> Vec<PreaggId> {
        let mut found = Vec::with_capacity(names.len());
        for text in names {
            let bare = text.text.trim();
            let bare = bare.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(bare).trim();
            let words: Vec<&str> = bare.split('.').map(str::trim).collect();
            let cube = match words.as_slice() {
                [_] | ["CUBE", _] => Some(own.cube),
                [.., cube, _] => self.cubes.iter().find(|c| c.name == *cube).map(|c| c.id),
                [] => None,
            };
            let name = words.last().copied().unwrap_or_default();
            let among = cube.map_or(&[][..], |cube| self.preaggs[cube.index()].as_slice());
            let Some(rollup) = among.iter().find(|preagg| preagg.name == name) else {
                let known: Vec<String> = self.preaggs.iter().flatten().map(|preagg| self.path(preagg.id)).collect();
                let wanted = cube.map_or(bare.to_owned(), |cube| format!("{}.{name}", self.cubes[cube.index()].name));
                let near = nearest(&wanted, known.iter().map(String::as_str));
                report.error(&about.place, text.mark, format!("'{bare}' is not a pre-aggregation")).hint =
                    near.map(did_you_mean);
                continue;
            };
            let fault = match rollup.kind {
                PreaggKind::Rollup if found.contains(&rollup.id) => Some(format!("'{bare}' is listed twice")),
                PreaggKind::Rollup => None,
                PreaggKind::Lambda { .. } | PreaggKind::Join { .. } => match self.get(own).kind {
                    PreaggKind::Lambda { .. } => Some("Rollup lambda can't be nested".to_owned()),
                    _ => Some(format!("'{bare}' has no rows of its own to join")),
                },
                PreaggKind::OriginalSql => Some(format!("'{bare}' is of type original_sql, not a rollup")),
            };
            match fault {
                Some(message) => {
                    report.error(&about.place, text.mark, message);
                }
                None => found.push(rollup.id),
            }
        }
        found
    }
}

/// A lambda held against its rollups.
struct Lambda<'a> {
    all: &'a All<'a>,
    own: &'a Preagg,
    about: &'a About,
}

impl Lambda<'_> {
    /// Also gives whether the source adds anything: not to a table without partitions, of which nothing says up to when
    /// it has the rows.
    fn check(&self, rollups: &[PreaggId], union_with_source: bool, report: &mut Report) -> bool {
        let (place, mark) = (&self.about.place, self.about.mark);
        let Some(last) = rollups.last() else {
            // Names that mean nothing have been told of.
            if !report.diagnostics.iter().any(|d| d.member.as_deref() == Some(place.owner())) {
                let message = format!("rollupLambda '{}' should reference at least one rollup", place.owner());
                report.error(place, mark, message);
            }
            return false;
        };
        let mut faults: Vec<String> = rollups.iter().filter_map(|id| self.mismatch(*id)).collect();
        let whole: Vec<PreaggId> =
            rollups.iter().copied().filter(|id| self.all.get(*id).partition_granularity.is_none()).collect();
        if rollups.len() > 1 {
            faults.extend(whole.iter().map(|id| {
                format!(
                    "'{}' referenced by '{}' rollupLambda doesn't have partition granularity. Partition granularity is \
                     required if multiple rollups are provided.",
                    self.all.path(*id),
                    place.owner()
                )
            }));
        } else if union_with_source && !whole.is_empty() {
            let rollup = self.all.path(*last);
            let message = format!("'union_with_source_data' has no effect: '{rollup}' is one table without partitions");
            report.warn(place, mark, message).hint = Some(format!(
                "give '{rollup}' a partition_granularity, so that it is known what the source has to add"
            ));
        }
        for pair in rollups.windows(2) {
            if let [a, b] = pair
                && let (Some(coarse), Some(fine)) =
                    (self.all.get(*a).partition_granularity, self.all.get(*b).partition_granularity)
                && !fine.serves(coarse)
            {
                faults.push(format!(
                    "'{}' and '{}' referenced by '{}' rollupLambda have incompatible partition granularities. \
                     '{coarse}' can't be padded by '{fine}'",
                    self.all.path(*a),
                    self.all.path(*b),
                    place.owner()
                ));
            }
        }
        if union_with_source && last.cube != self.own.id.cube {
            faults.push(format!(
                "unionWithSourceData can be enabled only for pre-aggregation within '{}' cube but '{}' pre-aggregation is \
                 defined within '{}' cube",
                self.all.cubes[self.own.id.cube.index()].name,
                self.all.get(*last).name,
                self.all.cubes[last.cube.index()].name
            ));
        }
        for message in faults {
            report.error(place, mark, message);
        }
        union_with_source && whole.is_empty()
    }

    /// Why the columns of a rollup are not the lambda's.
    fn mismatch(&self, id: PreaggId) -> Option<String> {
        let rollup = self.all.get(id);
        let lists = [("measures", 0), ("dimensions", 1), ("segments", 2), ("timeDimensions", 3)];
        for (word, list) in lists {
            let (own, other) = (self.names(self.own, list), self.names(rollup, list));
            if own != other {
                let json = |names: Vec<String>| serde_json::Value::from(names).to_string();
                return Some(format!(
                    "Names for {word} doesn't match between '{}' and '{}': {} does not equal to {}",
                    self.about.place.owner(),
                    self.all.path(id),
                    json(own),
                    json(other)
                ));
            }
        }
        let differs = self.own.measures.iter().zip(&rollup.measures).find(|(a, b)| {
            let kind = |id: &super::cube::MeasureId| {
                self.all.cubes[id.cube.index()].measures[id.index as usize].kind.agg_type()
            };
            kind(a) != kind(b)
        });
        differs.map(|(a, b)| {
            let path = |member| member_path(self.all.cubes, member);
            let (a, b) = (path(MemberId::Measure(*a)), path(MemberId::Measure(*b)));
            format!("'{a}' and '{b}' are put into one column, and aggregate in different ways")
        })
    }

    /// Short names of a list of members.
    fn names(&self, preagg: &Preagg, list: usize) -> Vec<String> {
        let cubes = self.all.cubes;
        match list {
            0 => preagg.measures.iter().map(|id| short(cubes, MemberId::Measure(*id))).collect(),
            1 => preagg.dimensions.iter().map(|id| short(cubes, MemberId::Dimension(*id))).collect(),
            2 => preagg.segments.iter().map(|id| short(cubes, MemberId::Segment(*id))).collect(),
            _ => {
                let times = preagg.time.iter().chain(&preagg.more_times);
                let name = |time: &super::preagg::PreaggTime| {
                    let dimension = &cubes[time.dimension.cube.index()].dimensions[time.dimension.index as usize];
                    format!("{}.{}", dimension.name, dimension.grain_name(time.grain))
                };
                times.map(name).collect()
            }
        }
    }
}

fn short(cubes: &[Cube], member: MemberId) -> String {
    let cube = &cubes[member.cube().index()];
    match member {
        MemberId::Measure(id) => cube.measures[id.index as usize].name.clone(),
        MemberId::Dimension(id) => cube.dimensions[id.index as usize].name.clone(),
        MemberId::Segment(id) => cube.segments[id.index as usize].name.clone(),
    }
}

fn member_path(cubes: &[Cube], member: MemberId) -> String {
    format!("{}.{}", cubes[member.cube().index()].name, short(cubes, member))
}

/// The stored column of a member.
fn column(cubes: &[Cube], member: MemberId) -> String {
    let cube = &cubes[member.cube().index()];
    alias(&format!("{}.{}", cube.sql_alias.as_deref().unwrap_or(&cube.name), short(cubes, member)))
}

/// The indexes with the columns that they mean. Rows of a cube's own SQL have columns that are not known here.
fn indexes(cubes: &[Cube], preagg: &Preagg, raw: &[RawIndex], about: &About, report: &mut Report) -> Vec<PreaggIndex> {
    let stored = stored_columns(cubes, preagg);
    let any = matches!(preagg.kind, PreaggKind::OriginalSql);
    let mut indexes = Vec::with_capacity(raw.len());
    for index in raw {
        let mut columns = Vec::with_capacity(index.columns.len());
        for text in &index.columns {
            let bare = text.text.trim();
            let bare = bare.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(bare).trim();
            let own = &cubes[preagg.id.cube.index()];
            let wanted = match bare.rsplit_once('.') {
                None => alias(&format!("{}.{bare}", own.sql_alias.as_deref().unwrap_or(&own.name))),
                Some((way, name)) => {
                    let cube = way.rsplit('.').next().unwrap_or(way);
                    let cube = cubes.iter().find(|c| c.name == cube).unwrap_or(own);
                    alias(&format!("{}.{name}", cube.sql_alias.as_deref().unwrap_or(&cube.name)))
                }
            };
            let found = stored.iter().find(|column| **column == bare || **column == wanted);
            match found {
                Some(column) => columns.push(column.clone()),
                None if any => columns.push(bare.to_owned()),
                None => {
                    let near = nearest(bare, stored.iter().map(String::as_str)).map(did_you_mean);
                    let hint = near.unwrap_or_else(|| format!("stored columns: {}", stored.join(", ")));
                    let message = format!("the index '{}' lists '{bare}', which is not stored", index.name);
                    report.error(&about.place, text.mark, message).hint = Some(hint);
                }
            }
        }
        indexes.push(PreaggIndex { name: index.name.clone(), columns, aggregate: index.aggregate });
    }
    indexes
}

/// Names of the stored columns: groups, then measures.
fn stored_columns(cubes: &[Cube], preagg: &Preagg) -> Vec<String> {
    let mut columns: Vec<String> = Vec::new();
    columns.extend(preagg.dimensions.iter().map(|id| column(cubes, MemberId::Dimension(*id))));
    columns.extend(preagg.segments.iter().map(|id| column(cubes, MemberId::Segment(*id))));
    for time in preagg.time.iter().chain(&preagg.more_times) {
        let dimension = &cubes[time.dimension.cube.index()].dimensions[time.dimension.index as usize];
        let name = column(cubes, MemberId::Dimension(time.dimension));
        columns.push(format!("{name}_{}", dimension.grain_name(time.grain)));
    }
    columns.extend(preagg.measures.iter().map(|id| column(cubes, MemberId::Measure(*id))));
    columns
}

/// Joins of rollups that cannot be put together.
pub(super) fn check_joined(model: &Model, raw: &[RawCube], report: &mut Report) {
    for preagg in model.cubes().iter().flat_map(|cube| &cube.preaggs) {
        let PreaggKind::Join { rollups } = &preagg.kind else { continue };
        let Some(about) = about_of(raw, preagg).filter(|_| !rollups.is_empty()) else { continue };
        if let Err(fault) = rollup_join::plan(model, preagg) {
            report.error(&about.place, about.mark, fault.0).hint = fault.1;
        }
    }
}

/// Definitions that no query can use. They are kept: a job may build them.
pub(super) fn warn_unused(model: &Model, raw: &[RawCube], report: &mut Report) {
    for cube in model.cubes() {
        for (position, preagg) in cube.preaggs.iter().enumerate() {
            let Some(about) = about_of(raw, preagg) else { continue };
            if let Some(why) = unused(cube, preagg, &cube.preaggs[..position]) {
                let message = format!("unused pre-aggregation: {why}; a job can still build it");
                report.warn(&about.place, about.mark, message);
            }
        }
    }
}

fn unused(cube: &Cube, preagg: &Preagg, earlier: &[Preagg]) -> Option<String> {
    if preagg.kind == PreaggKind::OriginalSql {
        let first = earlier.iter().find(|other| other.kind == PreaggKind::OriginalSql);
        return first.map(|first| format!("of several of type original_sql the first is used, '{}'", first.name));
    }
    let own = |cube: CubeId| cube == preagg.id.cube;
    let rooted = preagg.paths.iter().any(|path| path.first().is_some_and(|first| own(*first)));
    if !rooted && preagg.members().next().is_some() && !preagg.members().any(|member| own(member.cube())) {
        return Some(format!("it has no member of '{}', the cube that defines it", cube.name));
    }
    let same = |other: &&Preagg| {
        other.kind == preagg.kind
            && other.paths == preagg.paths
            && other.members().eq(preagg.members())
            && other.time == preagg.time
            && other.more_times == preagg.more_times
            && other.partition_granularity == preagg.partition_granularity
            && other.build_range_start == preagg.build_range_start
            && other.build_range_end == preagg.build_range_end
            && other.strict == preagg.strict
    };
    earlier.iter().find(same).map(|other| format!("it holds the same as '{}', which comes first", other.name))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_one, model, shop};
    use super::*;

    /// A shop whose `orders` has these pre-aggregations; `users` joins by members and has a rollup of its own.
    fn project(entries: &str) -> String {
        let more = format!(
            "pre_aggregations:\n  - {{name: days, measures: [count], dimensions: [status, user_id], time_dimension: \
             created_at, granularity: day, partition_granularity: day}}\n  - {{name: months, measures: [count], \
             dimensions: [status, user_id], time_dimension: created_at, granularity: day, partition_granularity: \
             month, build_range_end: {{sql: SELECT NOW()}}}}\n{entries}"
        );
        let source = shop("", "- {name: user_id, sql: user_id, type: number}", &more);
        source.replace("{CUBE}.user_id = {users.id}", "{CUBE.user_id} = {users.id}").replace(
            "      - {name: user_count, type: count}\n",
            "      - {name: user_count, type: count}\n    pre_aggregations:\n      - {name: people, measures: \
             [user_count], dimensions: [id, city]}\n",
        )
    }

    #[track_caller]
    fn check(entry: &str, expected: &str) {
        check_one(&project(&format!("  - {{name: x, {entry}}}\n")), expected);
    }

    #[test]
    fn lambdas_are_held_against_their_rollups() {
        check("type: rollup_lambda, rollups: [months, CUBE.days]", "");
        check("type: rollupLambda, rollups: [orders.months, days], unionWithSourceData: true", "");
        let lambda = |more: &str| format!("type: rollup_lambda, {more}");
        check(
            &lambda("measures: [count]"),
            "error: orders.x: rollupLambda 'orders.x' should reference at least one rollup",
        );
        check(
            &lambda("rollups: [mnths]"),
            "error: orders.x: 'mnths' is not a pre-aggregation | did you mean 'orders.months'?",
        );
        check(&lambda("rollups: [x]"), "error: orders.x: Rollup lambda can't be nested");
        check(
            &lambda("rollups: [days, months]"),
            "error: orders.x: 'orders.days' and 'orders.months' referenced by 'orders.x' rollupLambda have incompatible \
             partition granularities. 'day' can't be padded by 'month'",
        );
        check(
            &lambda(
                "rollups: [months, users.people], measures: [count], dimensions: [status, user_id], time_dimension: created_at, granularity: day",
            ),
            "error: orders.x: Names for measures doesn't match between 'orders.x' and 'users.people': [\"count\"] does not \
             equal to [\"user_count\"]\n\
             error: orders.x: 'users.people' referenced by 'orders.x' rollupLambda doesn't have partition granularity. \
             Partition granularity is required if multiple rollups are provided.",
        );
        check(
            &lambda("rollups: [months], measures: [count], dimensions: [user_id, status]"),
            "error: orders.x: Names for dimensions doesn't match between 'orders.x' and 'orders.months': \
             [\"user_id\",\"status\"] does not equal to [\"status\",\"user_id\"]",
        );
        check(
            &lambda(
                "rollups: [months], measures: [count], dimensions: [status, user_id], time_dimension: created_at, granularity: month",
            ),
            "error: orders.x: Names for timeDimensions doesn't match between 'orders.x' and 'orders.months': \
             [\"created_at.month\"] does not equal to [\"created_at.day\"]",
        );
        check(
            &lambda("rollups: [users.people], union_with_source_data: true"),
            "error: orders.x: unionWithSourceData can be enabled only for pre-aggregation within 'orders' cube but \
             'people' pre-aggregation is defined within 'users' cube\n\
             warning: orders.x: 'union_with_source_data' has no effect: 'users.people' is one table without partitions | \
             give 'users.people' a partition_granularity, so that it is known what the source has to add\n\
             warning: orders.x: unused pre-aggregation: it has no member of 'orders', the cube that defines it; a job \
             can still build it",
        );
        check(
            &lambda("rollups: [months], allow_non_strict_date_range_match: true"),
            "error: orders.x: (preAggregations.x.allowNonStrictDateRangeMatch = true) is not allowed",
        );
        check(
            &lambda("rollups: [months], scheduled_refresh: true"),
            "error: orders.x: Scheduled refresh is unsupported for rollupLambda of orders.x | its rollups are refreshed \
             by themselves",
        );
        check(
            &lambda("rollups: [months], partition_granularity: day"),
            "warning: orders.x: 'partition_granularity' has no effect in a pre-aggregation of type rollup_lambda: it has \
             no partitions of its own",
        );
    }

    #[test]
    fn a_lambda_without_members_has_those_of_its_first_rollup() {
        let model = model(&project("  - {name: x, type: rollup_lambda, rollups: [months, days]}\n"));
        let orders = model.find_cube("orders").expect("orders");
        let (months, lambda) = (&orders.preaggs[1], &orders.preaggs[2]);
        assert!(lambda.members().eq(months.members()) && lambda.time == months.time);
        assert_eq!((lambda.partition_granularity, lambda.scheduled_refresh), (None, false));
        let rollups = vec![months.id, orders.preaggs[0].id];
        assert_eq!(lambda.kind, PreaggKind::Lambda { rollups, union_with_source: false });
    }

    const JOIN: &str = "type: rollup_join, measures: [count], dimensions: [users.city], rollups: [days, users.people]";

    #[test]
    fn joins_are_held_against_their_rollups() {
        check(JOIN, "");
        check(&JOIN.replace("users.city]", "CUBE.users.city]"), "");
        check(&format!("{JOIN}, scheduled_refresh: false"), "");
        check(
            &format!("{JOIN}, scheduled_refresh: true"),
            "error: orders.x: Scheduled refresh is unsupported for rollupJoin of orders.x | its rollups are refreshed by \
             themselves",
        );
        check(
            &JOIN.replace(", rollups: [days, users.people]", ""),
            "error: orders.x: rollupJoin 'orders.x' should reference at least two rollups",
        );
        check(
            &JOIN.replace("days, users.people", "days, months"),
            "error: orders.x: Multiple rollups found that can be used for rollup join orders.user_id: orders.days, \
             orders.months",
        );
        check(
            &JOIN.replace("days, users.people", "days"),
            "error: orders.x: No rollups found that can be used for rollup join: users.id | add the key to the dimensions \
             of one of its rollups",
        );
        check(
            &JOIN.replace("users.city", "id"),
            "error: orders.x: dimension 'orders.id' is stored in none of its rollups: orders.days, users.people",
        );
        let joined = "  - {name: both, measures: [count], dimensions: [users.city]}\n  - {name: x, type: rollup_join, \
                      measures: [count], dimensions: [users.city], rollups: [both]}\n";
        check_one(
            &project(joined),
            "error: orders.x: Nothing to join in rollup join. Target joins [orders->users] are included in existing rollup \
             joins [orders.both]",
        );
        let columns = project(&format!("  - {{name: x, {JOIN}}}\n"))
            .replace("{CUBE.user_id} = {users.id}", "{CUBE}.user_id = {users.id}");
        check_one(
            &columns,
            "error: orders.x: From members are not found in [] for join orders->users. Please make sure join fields are \
             referencing dimensions instead of columns. | write '{orders.dimension}' in the join's sql",
        );
    }

    #[test]
    fn joins_know_where_rows_repeat() {
        let steps = |people: &str| {
            let source = project(&format!("  - {{name: x, {JOIN}}}\n")).replace("dimensions: [id, city]}", people);
            let model = model(&source);
            let join = &model.find_cube("orders").expect("orders").preaggs[2];
            rollup_join::plan(&model, join).expect("a plan").steps.iter().map(|s| s.multiplied).collect::<Vec<_>>()
        };
        // Users repeat with their orders; with the primary key there is one row of users an order.
        assert_eq!(steps("dimensions: [id, city]}"), [false, true]);
    }

    #[test]
    fn definitions_that_no_query_can_use_are_told_of() {
        let unused = |why: &str| format!("warning: orders.x: unused pre-aggregation: {why}; a job can still build it");
        check("dimensions: [users.city]", &unused("it has no member of 'orders', the cube that defines it"));
        check(
            "measures: [count], dimensions: [status, user_id], time_dimension: created_at, granularity: day, \
             partition_granularity: day",
            &unused("it holds the same as 'days', which comes first"),
        );
        check_one(
            &project("  - {name: raw, type: original_sql}\n  - {name: x, type: original_sql}\n"),
            &unused("of several of type original_sql the first is used, 'raw'"),
        );
    }

    #[test]
    fn rows_of_a_cube_are_cut_by_a_time_of_its_own() {
        let model = model(&project(
            "  - {name: x, type: original_sql, time_dimension: created_at, partition_granularity: month, indexes: [{name: \
             i, columns: [status]}]}\n",
        ));
        let raw = &model.find_cube("orders").expect("orders").preaggs[2];
        assert_eq!(raw.kind, PreaggKind::OriginalSql);
        assert!(raw.time.is_some() && !raw.straddles() && !raw.external);
        assert_eq!(raw.indexes[0].columns, ["status"]);
        let joined = project("  - {name: x, type: original_sql, time_dimension: joined, partition_granularity: month}\n")
            .replace(
                "      - {name: user_id, sql: user_id, type: number}\n",
                "      - {name: user_id, sql: user_id, type: number}\n      - {name: joined, sql: '{users.city}', type: time}\n",
            );
        check_one(
            &joined,
            "error: orders.x: the rows of 'orders' cannot be cut by a time that is computed from other cubes",
        );
    }
}
