//! Raw access policies → policies: names looked up in their cube or view (`data-model.md` §10.1).

use super::cube::{Cube, MemberId};
use super::fields::{Place, Report, Text};
use super::policy::{MemberSet, Policy, RowFilter};
use super::raw_policy::{RawMembers, RawPolicy, RawRowFilter};
use crate::names::nearest;

/// Resolves the policies of a cube or view.
pub(super) fn resolve(cube: &Cube, raw: &[RawPolicy], place: &Place, report: &mut Report) -> Vec<Policy> {
    let mut resolver = Resolver { cube, place, report };
    raw.iter().map(|policy| resolver.policy(policy)).collect()
}

struct Resolver<'a> {
    cube: &'a Cube,
    place: &'a Place,
    report: &'a mut Report,
}

impl Resolver<'_> {
    fn policy(&mut self, raw: &RawPolicy) -> Policy {
        Policy {
            groups: raw.groups.clone(),
            conditions: raw.conditions.clone(),
            members: raw.members.as_ref().map(|members| self.members(members)),
            masked: raw.masked.as_ref().map(|members| self.members(members)),
            rows: raw.rows.as_ref().map(|filters| filters.iter().filter_map(|filter| self.filter(filter)).collect()),
        }
    }

    fn members(&mut self, raw: &RawMembers) -> MemberSet {
        let includes = raw.includes.as_ref();
        MemberSet {
            includes: includes
                .map(|texts| texts.iter().filter_map(|text| self.member(text, "an includes member")).collect()),
            excludes: raw.excludes.iter().filter_map(|text| self.member(text, "an excludes member")).collect(),
        }
    }

    fn filter(&mut self, raw: &RawRowFilter) -> Option<RowFilter> {
        Some(match raw {
            RawRowFilter::And(filters) => RowFilter::And(filters.iter().filter_map(|f| self.filter(f)).collect()),
            RawRowFilter::Or(filters) => RowFilter::Or(filters.iter().filter_map(|f| self.filter(f)).collect()),
            RawRowFilter::Leaf { member, operator, values } => RowFilter::Leaf {
                member: self.member(member, "a filter member reference")?,
                operator: operator.clone(),
                values: values.clone(),
            },
        })
    }

    fn member(&mut self, text: &Text, kind: &str) -> Option<MemberId> {
        let bare = text.text.trim();
        let bare = bare.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(bare).trim();
        let own = format!("{}.", self.cube.name);
        let name = bare.strip_prefix("CUBE.").or_else(|| bare.strip_prefix(own.as_str())).unwrap_or(bare);
        if name.contains('.') {
            let message = format!(
                "Paths aren't allowed in the accessPolicy policy but '{bare}' provided as {kind} for {}",
                self.cube.name
            );
            self.report.error(self.place, text.mark, message);
            return None;
        }
        let found = self.cube.find_member(name);
        if found.is_none() && !(self.report.doubt_all || self.report.doubtful.contains(name)) {
            let measures = self.cube.measures.iter().map(|m| m.name.as_str());
            let dimensions = self.cube.dimensions.iter().map(|d| d.name.as_str());
            let hint = nearest(name, measures.chain(dimensions)).map(|near| format!("did you mean '{near}'?"));
            let message = format!("{}.{name} cannot be resolved. There's no such member or cube.", self.cube.name);
            self.report.error(self.place, text.mark, message).hint = hint;
        }
        found
    }
}
