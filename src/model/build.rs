//! Raw cubes → cubes: references resolved, what each kind of definition may reference checked.

use super::cube::{
    Case, CaseBranch, CaseLabel, Cube, CubeId, CubeSource, DataType, Dimension, DimensionId, DimensionKind, Measure,
    MeasureId, MeasureKind, MemberId, Segment, SegmentId,
};
use super::fields::{Place, Report, Text};
use super::join::Join;
use super::raw::{RawCase, RawCube, RawDimension, RawJoin, RawLabel, RawMeasure, RawMeasureKind, RawSegment};
use super::symbols::{Resolved, Symbols, Target, report_unresolved};
use super::template::{Part, Template};
use super::title::titleize;

/// Builds the cubes of a project.
#[derive(Debug)]
pub(super) struct Builder<'r> {
    pub(super) raw: &'r [RawCube],
    pub(super) symbols: &'r Symbols<'r>,
}

/// The kind of definition a fragment stands in; it decides what the fragment may reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Dimension,
    Aggregate,
    Calculated,
    Filter,
    Segment,
    Join {
        to: CubeId,
    },
    /// This version does not compute the member, so its rules are not known.
    Unsupported,
}

/// What a fragment belongs to.
#[derive(Debug, Clone, Copy)]
struct Site<'p> {
    owner: CubeId,
    role: Role,
    place: &'p Place,
}

impl Builder<'_> {
    /// Builds one cube without its rollups.
    pub(super) fn cube(&self, id: CubeId, report: &mut Report) -> Cube {
        let raw = &self.raw[id.index()];
        let about = &raw.about;
        let source = match &raw.source {
            CubeSource::Table(table) => CubeSource::Table(table.clone()),
            CubeSource::Query(sql) => CubeSource::Query(sql.clone()),
        };
        Cube {
            id,
            name: about.name.clone(),
            title: about.title.clone().unwrap_or_else(|| titleize(&about.name)),
            description: about.description.clone(),
            public: about.public.unwrap_or(true),
            meta: about.meta.clone(),
            data_source: raw.data_source.clone(),
            source,
            joins: self.joins(id, raw, report),
            measures: numbered(&raw.measures, |m, index| self.measure(MeasureId { cube: id, index }, m, report)),
            dimensions: numbered(&raw.dimensions, |d, index| {
                self.dimension(DimensionId { cube: id, index }, d, report)
            }),
            segments: numbered(&raw.segments, |s, index| self.segment(SegmentId { cube: id, index }, s, report)),
            preaggs: Vec::new(),
            location: about.place.location(about.mark),
        }
    }

    /// Whether all joins of all cubes are known, so that a missing path is the author's fault.
    pub(super) fn joins_are_known(&self) -> bool {
        self.raw.iter().all(|cube| {
            !cube.joins_broken
                && !cube.extends
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
                let message = format!("the cube '{}' is joined twice; this join is the one used", join.to.text);
                report.warn(place, join.mark, message);
                joins.remove(earlier);
            }
            joins.push(self.join(owner, to, join, place, report));
        }
        joins
    }

    fn join(&self, owner: CubeId, to: CubeId, raw: &RawJoin, place: &Place, report: &mut Report) -> Join {
        let site = Site { owner, role: Role::Join { to }, place };
        let resolved = raw.sql.as_ref().map(|sql| self.resolve(sql, site, report)).unwrap_or_default();
        if let Some(key) = resolved.unsupported {
            report.error(place, raw.mark, format!("a join cannot use '{key}' in this version"));
        }
        let location = place.location(raw.mark);
        Join { to, relationship: raw.relationship, sql: resolved.into_template(), location }
    }

    fn measure(&self, id: MeasureId, raw: &RawMeasure, report: &mut Report) -> Measure {
        let about = &raw.about;
        let mut unsupported = raw.unsupported;
        let role = match raw.kind {
            _ if unsupported.is_some() => Role::Unsupported,
            None => Role::Unsupported,
            Some(RawMeasureKind::Aggregate(_)) => Role::Aggregate,
            Some(RawMeasureKind::Calculated(_)) => Role::Calculated,
        };
        let site = Site { owner: id.cube, role, place: &about.place };
        let sql = raw.sql.as_ref().map(|sql| self.template(sql, site, &mut unsupported, report));
        let kind = match raw.kind {
            Some(RawMeasureKind::Aggregate(agg)) => MeasureKind::Aggregate { agg, sql },
            Some(RawMeasureKind::Calculated(data_type)) => {
                MeasureKind::Calculated { data_type, sql: sql.unwrap_or_default() }
            }
            None => MeasureKind::Calculated { data_type: DataType::Number, sql: sql.unwrap_or_default() },
        };
        if let (Role::Calculated, Some(filter)) = (role, raw.filters.first()) {
            let message = "filters are not possible on a measure whose expression is aggregated already";
            report.error(&about.place, filter.mark, message).hint =
                Some("put the filters on the measures that it references".to_owned());
        }
        let filter_role = if role == Role::Unsupported { role } else { Role::Filter };
        let filter_site = Site { role: filter_role, ..site };
        let filters =
            raw.filters.iter().map(|text| self.template(text, filter_site, &mut unsupported, report)).collect();
        Measure {
            id,
            name: about.name.clone(),
            short_title: about.title.clone().unwrap_or_else(|| titleize(&about.name)),
            description: about.description.clone(),
            format: raw.format.clone(),
            meta: about.meta.clone(),
            public: about.public.unwrap_or(true),
            kind,
            filters,
            drill_members: self.drill_members(id.cube, raw, report),
            cumulative: raw.cumulative,
            unsupported,
            location: about.place.location(about.mark),
        }
    }

    fn drill_members(&self, owner: CubeId, raw: &RawMeasure, report: &mut Report) -> Vec<MemberId> {
        let mut members = Vec::with_capacity(raw.drill_members.len());
        for text in &raw.drill_members {
            let place = &raw.about.place;
            match self.drill_member(owner, &text.text) {
                Ok(Target::Member(member)) => members.push(member),
                Ok(Target::Time(dimension, _) | Target::CustomTime(dimension)) => {
                    members.push(MemberId::Dimension(dimension));
                }
                Ok(Target::Cube(_)) => {
                    report.error(place, text.mark, format!("'{}' is a cube, not a member", text.text));
                }
                Err(why) => {
                    report_unresolved(why, place, text.mark, report);
                }
            }
        }
        members
    }

    /// A join path before the member (`orders.users.city`) says nothing that the metadata shows.
    fn drill_member(&self, owner: CubeId, text: &str) -> Result<Target, Option<super::symbols::Unresolved>> {
        let found = self.symbols.reference(text, owner);
        let mut dots = text.rmatch_indices('.').map(|(at, _)| at);
        match (found, dots.nth(1)) {
            (Err(why), Some(dot)) => self.symbols.reference(&text[dot + 1..], owner).or(Err(why)),
            (found, _) => found,
        }
    }

    fn dimension(&self, id: DimensionId, raw: &RawDimension, report: &mut Report) -> Dimension {
        let about = &raw.about;
        let mut unsupported = raw.unsupported;
        let role = if unsupported.is_some() { Role::Unsupported } else { Role::Dimension };
        let site = Site { owner: id.cube, role, place: &about.place };
        let kind = match (&raw.sql, &raw.case) {
            (None, Some(case)) => DimensionKind::Case(self.case(case, site, &mut unsupported, report)),
            (Some(sql), _) => DimensionKind::Sql(self.template(sql, site, &mut unsupported, report)),
            (None, None) => DimensionKind::Sql(Template::default()),
        };
        Dimension {
            id,
            name: about.name.clone(),
            short_title: about.title.clone().unwrap_or_else(|| titleize(&about.name)),
            description: about.description.clone(),
            format: raw.format.clone(),
            meta: about.meta.clone(),
            public: about.public.unwrap_or(!raw.primary_key),
            primary_key: raw.primary_key,
            suggest_filter_values: raw.suggest_filter_values,
            data_type: raw.data_type.unwrap_or(DataType::String),
            kind,
            custom_granularities: raw.custom_granularities.clone(),
            unsupported,
            location: about.place.location(about.mark),
        }
    }

    fn case(&self, raw: &RawCase, site: Site<'_>, unsupported: &mut Option<&'static str>, report: &mut Report) -> Case {
        let mut when = Vec::with_capacity(raw.when.len());
        for (condition, label) in &raw.when {
            let condition = self.template(condition, site, unsupported, report);
            when.push(CaseBranch { condition, label: self.label(label, site, unsupported, report) });
        }
        let otherwise = raw.otherwise.as_ref().map(|label| self.label(label, site, unsupported, report));
        Case { when, otherwise }
    }

    fn label(
        &self,
        raw: &RawLabel,
        site: Site<'_>,
        unsupported: &mut Option<&'static str>,
        report: &mut Report,
    ) -> CaseLabel {
        match raw {
            RawLabel::Text(text) => CaseLabel::Text(text.clone()),
            RawLabel::Sql(sql) => CaseLabel::Sql(self.template(sql, site, unsupported, report)),
        }
    }

    fn segment(&self, id: SegmentId, raw: &RawSegment, report: &mut Report) -> Segment {
        let about = &raw.about;
        let site = Site { owner: id.cube, role: Role::Segment, place: &about.place };
        let resolved = raw.sql.as_ref().map(|sql| self.resolve(sql, site, report)).unwrap_or_default();
        if let Some(key) = resolved.unsupported {
            report.error(&about.place, about.mark, format!("a segment cannot use '{key}' in this version"));
        }
        Segment {
            id,
            name: about.name.clone(),
            short_title: about.title.clone().unwrap_or_else(|| titleize(&about.name)),
            description: about.description.clone(),
            meta: about.meta.clone(),
            public: about.public.unwrap_or(true),
            sql: resolved.into_template(),
            location: about.place.location(about.mark),
        }
    }

    /// Resolves a fragment of a member; marks the member when the fragment uses what is not computed here.
    fn template(
        &self,
        text: &Text,
        site: Site<'_>,
        unsupported: &mut Option<&'static str>,
        report: &mut Report,
    ) -> Template {
        let resolved = self.resolve(text, site, report);
        if let (None, Some(key)) = (&unsupported, resolved.unsupported) {
            let message = format!("'{key}' is not computed by this version; queries that ask for this member fail");
            report.warn(site.place, text.mark, message);
            *unsupported = Some(key);
        }
        resolved.into_template()
    }

    fn resolve(&self, text: &Text, site: Site<'_>, report: &mut Report) -> Resolved {
        let resolved = self.symbols.template(text, site.owner, site.place, report);
        self.check_cubes(&resolved, site, report);
        self.check_measures(&resolved, site, report);
        resolved
    }

    /// A member may use the alias of its own cube only, a join those of its two ends (`data-model.md` §2.4).
    fn check_cubes(&self, resolved: &Resolved, site: Site<'_>, report: &mut Report) {
        let mut foreign: Vec<&str> = Vec::new();
        let mut first = None;
        for (part, mark) in &resolved.parts {
            if let Part::Cube(cube) = part
                && *cube != site.owner
                && site.role != (Role::Join { to: *cube })
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
        if matches!(site.role, Role::Join { .. }) {
            report.error(site.place, mark, format!("a join cannot reference a third cube in this version: {names}"));
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
            Role::Calculated | Role::Unsupported => return,
            Role::Dimension => ("a dimension", Some("sub-query dimensions are not supported by this version")),
            Role::Aggregate => ("an aggregate", Some("use 'type: number' to compute with measures")),
            Role::Filter => ("a measure's filter", None),
            Role::Segment => ("a segment", None),
            Role::Join { .. } => ("a join", None),
        };
        for (part, mark) in &resolved.parts {
            if let Part::Member(MemberId::Measure(id)) = part {
                let cube = &self.raw[id.cube.index()];
                let name = format!("{}.{}", cube.about.name, cube.measures[id.index as usize].about.name);
                report.error(site.place, *mark, format!("{what} cannot reference the measure '{name}'")).hint =
                    hint.map(str::to_owned);
            }
        }
    }
}

fn numbered<R, T>(raw: &[R], mut build: impl FnMut(&R, u32) -> T) -> Vec<T> {
    raw.iter().zip(0..).map(|(raw, index)| build(raw, index)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_one, diagnostics, model, shop};
    use super::super::{Model, Part};
    use super::*;

    /// References as `‹cube›`, `‹cube.member›` and `‹cube.member.granularity›`.
    fn show(model: &Model, template: &Template) -> String {
        let show = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Cube(cube) => format!("‹{}›", model.cube(*cube).name),
            Part::Member(member) => format!("‹{}›", model.path_of(*member)),
            Part::Time(dimension, granularity) => {
                format!("‹{}.{granularity}›", model.path_of(MemberId::Dimension(*dimension)))
            }
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
        check_fault(
            "{orders.users.city}",
            "error: orders.x: the join path 'orders.users' is not supported by this version | \
             begin with 'users'; cubes are joined along the shortest path",
        );
        check_fault(
            "{FILTER_PARAMS.orders.x.filter('y')}",
            "error: orders.x: FILTER_PARAMS is not supported by this version",
        );
        check_fault("{SECURITY_CONTEXT.a}", "error: orders.x: SECURITY_CONTEXT is not supported by this version");
        check_fault("{SQL_UTILS.convertTz(x)}", "error: orders.x: SQL_UTILS is not supported by this version");
        check_fault("{FILTER_GROUP({a}, {b})}", "error: orders.x: FILTER_GROUP is not supported by this version");
        check_fault(
            "{users.sql()}",
            &format!("error: orders.x: the call 'users.sql()' is not supported by this version | {escape}"),
        );
        check_fault("{a + b}", &format!("error: orders.x: 'a + b' is not a reference | {escape}"));
        check_fault("{}", &format!("error: orders.x: a reference is missing between the braces | {escape}"));
        check_fault("{total", &format!("error: orders.x: '{{' without '}}' | {escape}"));
        check_fault("total}", &format!("error: orders.x: '}}' without '{{' | {escape}"));
    }

    #[test]
    fn each_kind_of_definition_has_its_own_rules() {
        check_one(
            &shop("", "- {name: d, sql: '{total}', type: number}", ""),
            "error: orders.d: a dimension cannot reference the measure 'orders.total' | \
             sub-query dimensions are not supported by this version",
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
    fn members_that_are_not_computed_are_kept_and_warned_of() {
        let measures = "- {name: run, type: sum, sql: x, rolling_window: {trailing: unbounded}}\n\
                        - {name: approx, type: count_distinct_approx, sql: x}\n\
                        - {name: share, type: number, sql: '{run} / {total}'}\n\
                        - {name: fine, type: sum, sql: x, multi_stage: false, mask: '0'}";
        let dimensions = "- {name: place, type: geo, latitude: {sql: a}, longitude: {sql: b}}\n\
                          - {name: spent, type: number, sql: '{users.user_count}', sub_query: true}\n\
                          - {name: at, type: time, sql: t, granularities: [{name: fiscal, interval: 1 year}]}\n\
                          - {name: fiscal_at, type: time, sql: '{at.fiscal}'}";
        let source = shop(measures, dimensions, "");
        let fails = "is not computed by this version; queries that ask for this";
        let found = diagnostics(&source);
        assert_eq!(
            found,
            [
                format!("18:40: warning: orders.run: 'rolling_window' {fails} member fail"),
                format!("19:30: warning: orders.approx: type 'count_distinct_approx' {fails} member fail"),
                "20:9: warning: orders.share: it references 'orders.run', which this version does not compute; \
                 queries that ask for this member fail"
                    .to_owned(),
                "21:61: warning: orders.fine: 'mask' has no effect in this version".to_owned(),
                format!("26:29: warning: orders.place: type 'geo' {fails} member fail"),
                format!("27:64: warning: orders.spent: 'sub_query' {fails} member fail"),
                "28:40: warning: orders.at: custom granularities are not computed by this version: fiscal".to_owned(),
                format!("29:44: warning: orders.fiscal_at: 'granularities' {fails} member fail"),
            ]
        );
        let model = model(&source);
        let orders = model.find_cube("orders").expect("orders");
        let measures: Vec<_> = orders.measures[2..].iter().map(|m| (m.unsupported, m.cumulative)).collect();
        assert_eq!(
            measures,
            [
                (Some("rolling_window"), true),
                (Some("count_distinct_approx"), false),
                (Some("rolling_window"), false),
                (None, false)
            ]
        );
        let dimensions: Vec<_> = orders.dimensions[3..].iter().map(|d| d.unsupported).collect();
        assert_eq!(dimensions, [Some("geo"), Some("sub_query"), None, Some("granularities")]);
        assert_eq!(orders.dimensions[5].custom_granularities, ["fiscal"]);
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
        check_one(
            &join("{name: ordres, relationship: belongsTo, sql: x}"),
            "error: items: Cube ordres doesn't exist | did you mean 'orders'?",
        );
        check_one(
            &join("{name: orders, relationship: belongsTo, sql: '{users}.a = {orders}.a'}"),
            "error: items: a join cannot reference a third cube in this version: users",
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
