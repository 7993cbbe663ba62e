//! Raw cubes → cubes: references resolved, what each kind of definition may reference checked.
//! Measures and dimensions are built in [`super::build_member`].

use super::cube::{Cube, CubeId, CubeSource, DimensionId, Hierarchy, MeasureId, MemberId, Segment, SegmentId};
use super::fields::{Place, Report, Text};
use super::join::Join;
use super::raw::{RawCube, RawJoin, RawSource};
use super::raw_member::{RawHierarchy, RawSegment};
use super::references::{Resolved, member_of};
use super::settings::Granularities;
use super::symbols::{Reference, Symbols, Target, Unresolved, report_unresolved};
use super::template::{Part, Template};
use super::title::titleize;

/// Builds the cubes of a project.
#[derive(Debug)]
pub(super) struct Builder<'r> {
    pub(super) raw: &'r [RawCube],
    pub(super) symbols: &'r Symbols<'r>,
    pub(super) granularities: &'r Granularities,
}

/// The name of a parent as it is referenced; none for one that has no name of its own.
pub(super) fn parent_name(text: &Text) -> Option<String> {
    let bare = text.text.trim().trim_start_matches('{').trim_end_matches('}').trim();
    crate::names::is_identifier(bare).then(|| bare.to_owned())
}

/// The kind of definition a fragment stands in; it decides what the fragment may reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Dimension,
    Aggregate,
    Calculated,
    Filter,
    Segment,
    Join,
    /// The table or query of a cube.
    Source,
    /// An expression over results: sub-query dimensions, multi-stage measures.
    Stage,
}

/// What a fragment belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site<'p> {
    pub(super) owner: CubeId,
    pub(super) role: Role,
    pub(super) place: &'p Place,
}

impl Builder<'_> {
    /// Builds one cube without its rollups and policies.
    pub(super) fn cube(&self, id: CubeId, report: &mut Report) -> Cube {
        let raw = &self.raw[id.index()];
        let about = &raw.about;
        Cube {
            id,
            name: about.name.clone(),
            sql_alias: raw.sql_alias.clone(),
            title: about.title.clone().unwrap_or_else(|| titleize(&about.name)),
            description: about.description.clone(),
            public: about.public.unwrap_or(true),
            meta: about.meta.clone(),
            data_source: raw.data_source.clone().unwrap_or_else(|| "default".to_owned()),
            extends: raw.extends.as_ref().and_then(parent_name),
            refresh_key: raw.refresh.resolve(id, self.symbols, &about.place, report),
            source: self.source(id, raw, report),
            calendar: raw.calendar.unwrap_or(false),
            joins: self.joins(id, raw, report),
            measures: numbered(&raw.measures, |m, index| self.measure(MeasureId { cube: id, index }, m, report)),
            dimensions: numbered(&raw.dimensions, |d, index| {
                self.dimension(DimensionId { cube: id, index }, d, report)
            }),
            segments: numbered(&raw.segments, |s, index| self.segment(SegmentId { cube: id, index }, s, report)),
            hierarchies: raw.hierarchies.iter().map(|h| self.hierarchy(id, h, report)).collect(),
            preaggs: Vec::new(),
            policies: Vec::new(),
            location: about.place.location(about.mark),
        }
    }

    fn source(&self, owner: CubeId, raw: &RawCube, report: &mut Report) -> CubeSource {
        let site = Site { owner, role: Role::Source, place: &raw.about.place };
        let mut trimmed = |text: &Text| {
            let trimmed = Text { text: text.text.trim().to_owned(), ..text.clone() };
            self.resolve(&trimmed, site, report).into_template()
        };
        match &raw.source {
            Some(RawSource::Table(table)) => CubeSource::Table(trimmed(table)),
            Some(RawSource::Query(sql)) => CubeSource::Query(trimmed(sql)),
            None => CubeSource::Table(Template::default()),
        }
    }

    /// Whether all joins of all cubes are known, so that a missing path is the author's fault.
    pub(super) fn joins_are_known(&self) -> bool {
        self.raw.iter().all(|cube| {
            !cube.joins_broken
                && !cube.parent_unknown
                && cube.joins.iter().all(|join| self.symbols.find_cube(&join.to.text).is_some())
        })
    }

    fn joins(&self, owner: CubeId, raw: &RawCube, report: &mut Report) -> Vec<Join> {
        let place = &raw.about.place;
        let mut joins: Vec<Join> = Vec::with_capacity(raw.joins.len());
        for join in &raw.joins {
            let Some(to) = self.symbols.find_cube(&join.to.text) else {
                report_unresolved(self.symbols.missing_cube(&join.to.text), place, join.to.mark, report);
                continue;
            };
            if to == owner {
                report.warn(place, join.mark, "a join of a cube to itself has no effect");
                continue;
            }
            // Cube keys joins by their two ends, so the later one wins.
            if let Some(earlier) = joins.iter().position(|j| j.to == to) {
                if raw.extends.is_none() {
                    let message = format!("the cube '{}' is joined twice; this join is the one used", join.to.text);
                    report.warn(place, join.mark, message);
                }
                joins.remove(earlier);
            }
            joins.push(self.join(owner, to, join, place, report));
        }
        joins
    }

    fn join(&self, owner: CubeId, to: CubeId, raw: &RawJoin, place: &Place, report: &mut Report) -> Join {
        let site = Site { owner, role: Role::Join, place };
        let resolved = raw.sql.as_ref().map(|sql| self.resolve(sql, site, report)).unwrap_or_default();
        let location = place.location(raw.mark);
        Join { to, relationship: raw.relationship, sql: resolved.into_template(), location }
    }

    fn segment(&self, id: SegmentId, raw: &RawSegment, report: &mut Report) -> Segment {
        let about = &raw.about;
        let site = Site { owner: id.cube, role: Role::Segment, place: &about.place };
        let sql = raw.sql.as_ref().map(|sql| self.resolve(sql, site, report)).unwrap_or_default();
        Segment {
            id,
            name: about.name.clone(),
            short_title: about.title.clone().unwrap_or_else(|| titleize(&about.name)),
            description: about.description.clone(),
            meta: about.meta.clone(),
            public: about.public.unwrap_or(true),
            sql: sql.into_template(),
            location: about.place.location(about.mark),
        }
    }

    fn hierarchy(&self, owner: CubeId, raw: &RawHierarchy, report: &mut Report) -> Hierarchy {
        let about = &raw.about;
        Hierarchy {
            name: about.name.clone(),
            title: about.title.clone(),
            public: about.public.unwrap_or(true),
            levels: self.dimensions(owner, &raw.levels, &about.place, report),
        }
    }

    /// Dimensions that a list names.
    pub(super) fn dimensions(
        &self,
        owner: CubeId,
        texts: &[Text],
        place: &Place,
        report: &mut Report,
    ) -> Vec<DimensionId> {
        let mut found = Vec::with_capacity(texts.len());
        for text in texts {
            match self.member(owner, text, place, report) {
                Some(MemberId::Dimension(dimension)) => found.push(dimension),
                Some(MemberId::Measure(_) | MemberId::Segment(_)) => {
                    report.error(place, text.mark, format!("'{}' is not a dimension", text.text));
                }
                None => {}
            }
        }
        found
    }

    /// The member that a text names.
    pub(super) fn member(&self, owner: CubeId, text: &Text, place: &Place, report: &mut Report) -> Option<MemberId> {
        match self.member_reference(owner, &text.text) {
            Ok(Reference { target, .. }) => {
                let member = member_of(target);
                if member.is_none() {
                    report.error(place, text.mark, format!("'{}' is a cube, not a member", text.text));
                }
                member
            }
            Err(why) => {
                report_unresolved(why, place, text.mark, report);
                None
            }
        }
    }

    /// A join path before the member (`orders.users.city`) that is no path says nothing that the metadata shows.
    fn member_reference(&self, owner: CubeId, text: &str) -> Result<Reference, Option<Unresolved>> {
        let found = self.symbols.reference(text, owner);
        let mut dots = text.rmatch_indices('.').map(|(at, _)| at);
        match (found, dots.nth(1)) {
            (Err(why), Some(dot)) => self.symbols.reference(&text[dot + 1..], owner).or(Err(why)),
            (found, _) => found,
        }
    }

    pub(super) fn template(&self, text: &Text, site: Site<'_>, report: &mut Report) -> Template {
        self.resolve(text, site, report).into_template()
    }

    fn resolve(&self, text: &Text, site: Site<'_>, report: &mut Report) -> Resolved {
        let resolved = self.symbols.template(text, site.owner, site.place, report);
        self.check_cubes(&resolved, site, report);
        self.check_measures(&resolved, site, report);
        resolved
    }

    /// A member may use the alias of its own cube only, a cube's source none (`data-model.md` §2.4).
    fn check_cubes(&self, resolved: &Resolved, site: Site<'_>, report: &mut Report) {
        if site.role == Role::Join {
            return;
        }
        let mut foreign: Vec<&str> = Vec::new();
        let mut first = None;
        for (part, mark) in &resolved.parts {
            if let Part::Cube(cube) = part
                && (*cube != site.owner || site.role == Role::Source)
            {
                let name = self.raw[cube.index()].about.name.as_str();
                first.get_or_insert(*mark);
                if !foreign.contains(&name) {
                    foreign.push(name);
                }
            }
        }
        let Some(mark) = first else { return };
        let names = foreign.join(", ");
        if site.role == Role::Source {
            let message = format!("the SQL of a cube cannot use the alias of a cube: {names}");
            report.error(site.place, mark, message).hint =
                Some(format!("write '{{{}.sql()}}' to read that cube's rows", foreign[0]));
            return;
        }
        let message = format!(
            "Member '{}' references foreign cubes: {names}. Please split and move this definition to corresponding \
             cubes.",
            site.place.owner()
        );
        report.error(site.place, mark, message).hint =
            Some(format!("reference members, like '{{{}.member}}'", foreign[0]));
    }

    fn check_measures(&self, resolved: &Resolved, site: Site<'_>, report: &mut Report) {
        let (what, hint) = match site.role {
            Role::Calculated | Role::Stage => return,
            Role::Dimension => ("a dimension", Some("'sub_query: true' makes it a query of its own")),
            Role::Aggregate => ("an aggregate", Some("use 'type: number' to compute with measures")),
            Role::Filter => ("a measure's filter", None),
            Role::Segment => ("a segment", None),
            Role::Join => ("a join", None),
            Role::Source => ("the SQL of a cube", None),
        };
        for (part, mark) in &resolved.parts {
            match part {
                Part::Member(MemberId::Measure(id)) => {
                    let name = self.measure_name(*id);
                    report.error(site.place, *mark, format!("{what} cannot reference the measure '{name}'")).hint =
                        hint.map(str::to_owned);
                }
                Part::Member(_) | Part::Time(..) if site.role == Role::Source => {
                    report.error(site.place, *mark, "the SQL of a cube cannot reference members");
                }
                _ => {}
            }
        }
    }

    fn measure_name(&self, id: MeasureId) -> String {
        let cube = &self.raw[id.cube.index()];
        format!("{}.{}", cube.about.name, cube.measures[id.index as usize].about.name)
    }

    /// The dimension that a reference names, with its granularity when it names one.
    pub(super) fn target(&self, owner: CubeId, text: &Text, place: &Place, report: &mut Report) -> Option<Target> {
        match self.symbols.reference(&text.text, owner) {
            Ok(reference) => Some(reference.target),
            Err(why) => {
                report_unresolved(why, place, text.mark, report);
                None
            }
        }
    }
}

fn numbered<R, T>(raw: &[R], mut build: impl FnMut(&R, u32) -> T) -> Vec<T> {
    raw.iter().zip(0..).map(|(raw, index)| build(raw, index)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::cube::{CaseLabel, DimensionKind, MeasureKind};
    use super::super::testing::{check_one, model, shop};
    use super::super::{Model, Part};
    use super::*;

    /// References as `‹cube›`, `‹cube.member›` and `‹cube.member.granularity›`.
    fn show(model: &Model, template: &Template) -> String {
        let show = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Cube(cube) => format!("‹{}›", model.cube(*cube).name),
            Part::Member(member) => format!("‹{}›", model.path_of(*member)),
            Part::Time(dimension, granularity) => {
                let name = model.dimension(*dimension).grain_name(*granularity);
                format!("‹{}.{name}›", model.path_of(MemberId::Dimension(*dimension)))
            }
            Part::Path(path) => {
                let names: Vec<&str> = path.iter().map(|cube| model.cube(*cube).name.as_str()).collect();
                format!("«{}»", names.join("."))
            }
            other => format!("{other:?}"),
        };
        template.parts.iter().map(show).collect()
    }

    /// The fragment of a calculated measure of `orders`.
    #[track_caller]
    fn check(sql: &str, expected: &str) {
        let source = shop(&format!("- {{name: x, type: number, sql: \"{sql}\"}}"), "", "");
        let model = model(&source);
        let measure = &model.find_cube("orders").expect("orders").measures[2];
        let MeasureKind::Calculated { sql, .. } = &measure.kind else { panic!("not calculated") };
        assert_eq!(show(&model, sql), expected);
    }

    #[test]
    fn references_resolve_in_the_order_of_the_language() {
        check("SUM({CUBE}.a + {TABLE}.b)", "SUM(‹orders›.a + ‹orders›.b)");
        check("{total} / {CUBE.count}", "‹orders.total› / ‹orders.count›");
        check("{orders.total} / {users.user_count}", "‹orders.total› / ‹users.user_count›");
        check("MAX({users.city} || {status})", "MAX(‹users.city› || ‹orders.status›)");
        check("MAX({created_at.month})", "MAX(‹orders.created_at.month›)");
        check(
            "MAX({CUBE.created_at.day} - {orders.created_at.year})",
            "MAX(‹orders.created_at.day› - ‹orders.created_at.year›)",
        );
        check("COUNT(*) FILTER (WHERE {paid})", "COUNT(*) FILTER (WHERE ‹orders.paid›)");
        check("MAX({orders.users.city})", "MAX(«orders.users»‹users.city›)");
        check("MAX({CUBE.users.city})", "MAX(«orders.users»‹users.city›)");
        check("{ total } || '\\\\{x\\\\}'", "‹orders.total› || '{x}'");
    }

    #[test]
    fn a_cube_hides_a_member_of_its_name() {
        let source =
            shop("", "- {name: users, sql: users, type: string}\n- {name: own, sql: '{CUBE.users}', type: string}", "");
        let model = model(&source);
        let DimensionKind::Sql(sql) = &model.find_cube("orders").expect("orders").dimensions[4].kind else { panic!() };
        assert_eq!(show(&model, sql), "‹orders.users›");
        check_one(
            &shop("", "- {name: users, sql: '{users}.x', type: string}", ""),
            "error: orders.users: Member 'orders.users' references foreign cubes: users. Please split and move this \
             definition to corresponding cubes. | reference members, like '{users.member}'",
        );
    }

    #[track_caller]
    fn check_fault(sql: &str, expected: &str) {
        check_one(&shop(&format!("- {{name: x, type: number, sql: \"{sql}\"}}"), "", ""), expected);
    }

    #[test]
    fn references_that_mean_nothing_are_faults_with_hints() {
        let escape = "write \\{ and \\} for braces that are meant as text";
        check_fault("{totl}", "error: orders.x: totl is not defined | did you mean 'total'?");
        check_fault("{usrs.city}", "error: orders.x: usrs is not defined | did you mean 'users'?");
        check_fault("{users.town}", "error: orders.x: users.town cannot be resolved. There's no such member or cube.");
        check_fault(
            "{users.citi}",
            "error: orders.x: users.citi cannot be resolved. There's no such member or cube. | did you mean 'users.city'?",
        );
        check_fault(
            "{created_at.moth}",
            "error: orders.x: orders.created_at.moth cannot be resolved. There's no such member or cube. | \
             did you mean 'month'?",
        );
        check_fault(
            "{status.day}",
            "error: orders.x: orders.status.day cannot be resolved. There's no such member or cube. | \
             'orders.status' is not a time dimension",
        );
        let python = "Can't parse python expression. Most likely this type of syntax isn't supported yet:";
        check_fault("{a + b}", &format!("error: orders.x: {python} '+' in 'a + b' | {escape}"));
        check_fault(
            "{FILTER_PARAMS.orders.x}",
            "error: orders.x: FILTER_PARAMS needs a call | write '{FILTER_PARAMS.cube.member.filter('column')}'",
        );
        check_fault(
            "{FILTER_PARAMS.orders.stats.filter('y')}",
            "error: orders.x: orders.stats cannot be resolved. There's no such member or cube. | \
             did you mean 'orders.status'?",
        );
        check_fault(
            "{SECURITY_CONTEXT.a.has('b')}",
            "error: orders.x: SECURITY_CONTEXT has no method 'has' with 1 arguments | \
             there are filter(column), requiredFilter(column) and unsafeValue()",
        );
        check_fault("{FILTER_GROUP('a')}", "error: orders.x: FILTER_GROUP expects FILTER_PARAMS args to be passed.");
        check_fault(
            "{USER_CONTEXT.a}",
            "error: orders.x: Support for USER_CONTEXT was removed, please migrate to \
             SECURITY_CONTEXT.",
        );
        check_fault("{}", &format!("error: orders.x: a reference is missing between the braces | {escape}"));
        check_fault("{total", &format!("error: orders.x: '{{' without '}}' | {escape}"));
        check_fault("total}", &format!("error: orders.x: '}}' without '{{' | {escape}"));
    }

    #[test]
    fn each_kind_of_definition_has_its_own_rules() {
        check_one(
            &shop("", "- {name: d, sql: '{total}', type: number}", ""),
            "error: orders.d: a dimension cannot reference the measure 'orders.total' | \
             'sub_query: true' makes it a query of its own",
        );
        check_one(
            &shop("- {name: m, type: sum, sql: '{total}'}", "", ""),
            "error: orders.m: an aggregate cannot reference the measure 'orders.total' | \
             use 'type: number' to compute with measures",
        );
        check_one(
            &shop("- {name: m, type: count, filters: [{sql: '{users.user_count} > 1'}]}", "", ""),
            "error: orders.m: a measure's filter cannot reference the measure 'users.user_count'",
        );
        check_one(
            &shop("- {name: m, type: number, sql: '{total}', filters: [{sql: x}]}", "", ""),
            "error: orders.m: filters are not possible on a measure whose expression is aggregated already | \
             put the filters on the measures that it references",
        );
        check_one(
            &shop("", "- {name: d, sql: '{users}.a || {users}.b', type: string}", ""),
            "error: orders.d: Member 'orders.d' references foreign cubes: users. Please split and move this definition \
             to corresponding cubes. | reference members, like '{users.member}'",
        );
    }

    #[test]
    fn required_properties_are_asked_for() {
        check_one(&shop("- {name: m, type: sum}", "", ""), "error: orders.m: (measures.m.sql) is required");
        check_one(
            &shop("- {name: m, sql: x}", "", ""),
            "error: orders.m: (measures.m.type) is required | for example 'type: count'",
        );
        check_one(&shop("", "- {name: d, type: string}", ""), "error: orders.d: (dimensions.d.sql) is required");
        check_one(
            &shop("", "- {name: d, sql: x}", ""),
            "error: orders.d: (dimensions.d.type) is required | one of string, number, boolean, time",
        );
        check_one(
            &shop("", "- {name: d, sql: x, type: string, case: {when: [{sql: y, label: z}]}}", ""),
            "error: orders.d: 'sql' and 'case' exclude each other",
        );
        let by_case = |rules: &str| {
            let case = "case: {switch: '{CUBE.status}', when: [{value: a, sql: '{count}'}], else: {sql: '{count}'}}";
            shop(&format!("- {{name: m, type: number, multi_stage: true, {rules} {case}}}"), "", "")
        };
        check_one(
            &by_case("time_shift: [{interval: 1 year, type: prior}],"),
            "error: orders.m: 'time_shift' and 'case' exclude each other in this version | put 'time_shift' on a measure \
             over this one: {multi_stage: true, sql: \"{m}\"}",
        );
        check_one(
            &shop("", "- {name: d, type: string, case: {else: {label: z}}}", ""),
            "error: orders.d: (case.when) is required | a list of entries with 'sql' and 'label'",
        );
        check_one(
            &shop("- {name: m, type: count, filters: [{slq: x}]}", "", "").replace("slq", "sqll"),
            "error: orders.m: (filters.sql) is required\n\
             error: orders.m: unknown key 'sqll' | did you mean 'sql'?",
        );
    }

    #[test]
    fn cases_keep_conditions_and_labels() {
        let source = shop(
            "",
            "- {name: d, type: string, case: {when: [{sql: '{CUBE}.a > 1', label: big}, {sql: b, label: {sql: '{status}'}}], \
             else: {label: 7}}}",
            "",
        );
        let model = model(&source);
        let DimensionKind::Case(case) = &model.find_cube("orders").expect("orders").dimensions[3].kind else {
            panic!()
        };
        let label = |label: &CaseLabel| match label {
            CaseLabel::Text(text) => format!("'{text}'"),
            CaseLabel::Sql(sql) => show(&model, sql),
        };
        let branches: Vec<_> = case.when.iter().map(|b| (show(&model, &b.condition), label(&b.label))).collect();
        assert_eq!(
            branches,
            [("‹orders›.a > 1".to_owned(), "'big'".to_owned()), ("b".to_owned(), "‹orders.status›".to_owned())]
        );
        assert_eq!(case.otherwise.as_ref().map(label), Some("'7'".to_owned()));
    }

    #[test]
    fn drill_members_resolve_with_and_without_paths() {
        let model = model(&shop(
            "- {name: m, type: count, drill_members: [status, '{total}', users.city, orders.users.city, CUBE.created_at]}",
            "",
            "",
        ));
        let measure = &model.find_cube("orders").expect("orders").measures[2];
        let paths: Vec<_> = measure.drill_members.iter().map(|member| model.path_of(*member)).collect();
        assert_eq!(paths, ["orders.status", "orders.total", "users.city", "users.city", "orders.created_at"]);
        check_one(
            &shop("- {name: m, type: count, drill_members: [stauts, users]}", "", ""),
            "error: orders.m: stauts is not defined | did you mean 'status'?\n\
             error: orders.m: 'users' is a cube, not a member",
        );
    }

    #[test]
    fn joins_have_rules_of_their_own() {
        let join = |join: &str| {
            format!(
                "{}  - name: items\n    sql_table: items\n    joins:\n      - {join}\n    dimensions:\n      \
                 - {{name: id, sql: id, type: number, primary_key: true}}\n",
                shop("", "", "")
            )
        };
        check_one(&join("{name: orders, relationship: belongsTo, sql: '{CUBE}.a = {orders.id}'}"), "");
        // A predicate may read a third cube: it is joined too.
        check_one(&join("{name: orders, relationship: belongsTo, sql: '{users}.a = {orders}.a'}"), "");
        check_one(
            &join("{name: ordres, relationship: belongsTo, sql: x}"),
            "error: items: Cube ordres doesn't exist | did you mean 'orders'?",
        );
        check_one(
            &join("{name: orders, relationship: belongsTo, sql: '{CUBE}.a = {orders.total}'}"),
            "error: items: a join cannot reference the measure 'orders.total'",
        );
        check_one(
            &join("{name: items, relationship: belongsTo, sql: x}"),
            "warning: items: a join of a cube to itself has no effect",
        );
        check_one(
            &join("{name: orders, sql: x}\n      - {name: orders, relationship: one_to_one, sql: y}"),
            "error: items: (joins[0].relationship) is required | one of one_to_one, one_to_many, many_to_one\n\
             warning: items: the cube 'orders' is joined twice; this join is the one used",
        );
        check_one(
            &join("{relationship: belongsTo, sql: x}"),
            "error: items: name isn't defined for join: {\"relationship\":\"belongsTo\",\"sql\":\"x\"}",
        );
    }
}
