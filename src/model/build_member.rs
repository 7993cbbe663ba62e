//! Raw measures and dimensions → built ones.

use super::build::{Builder, Role, Site};
use super::cube::{
    AggKind, Case, CaseBranch, CaseLabel, DataType, Dimension, DimensionId, DimensionKind, Measure, MeasureId,
    MeasureKind, MemberId, Shown, SubQuery, SwitchMeasure,
};
use super::fields::{Report, Text};
use super::granularity::{CustomGranularity, GranularityKind};
use super::policy::Mask;
use super::raw_dimension::{RawCase, RawDimension, RawLabel};
use super::raw_granularity::{RawBuckets, RawGranularity};
use super::raw_measure::{RawMeasure, RawMeasureKind, RawShift, RawStage, RawSwitch};
use super::raw_member::{RawMask, RawShown};
use super::stage::{FilterRule, GrainMember, GrainRule, MultiStage, RankOrder, TimeShift};
use super::symbols::Target;
use super::template::Template;
use super::title::titleize;

impl Builder<'_> {
    pub(super) fn measure(&self, id: MeasureId, raw: &RawMeasure, report: &mut Report) -> Measure {
        let about = &raw.about;
        let role = match raw.kind {
            _ if raw.stage.is_some() => Role::Stage,
            Some(RawMeasureKind::Aggregate(_)) => Role::Aggregate,
            None | Some(RawMeasureKind::Calculated(_) | RawMeasureKind::Rank) => Role::Calculated,
        };
        let site = Site { owner: id.cube, role, place: &about.place };
        if let (Role::Calculated | Role::Stage, Some(filter)) = (role, raw.filters.first()) {
            let message = "filters are not possible on a measure whose expression is aggregated already";
            report.error(&about.place, filter.mark, message).hint =
                Some("put the filters on the measures that it references".to_owned());
        }
        let filter_site = Site { role: Role::Filter, ..site };
        Measure {
            id,
            name: about.name.clone(),
            short_title: about.title.clone().unwrap_or_else(|| titleize(&about.name)),
            description: about.description.clone(),
            format: raw.format.clone(),
            meta: about.meta.clone(),
            public: about.public.unwrap_or(true),
            kind: self.measure_kind(raw, site, report),
            filters: raw.filters.iter().map(|text| self.template(text, filter_site, report)).collect(),
            drill_filters: raw.drill_filters.iter().map(|text| self.template(text, filter_site, report)).collect(),
            drill_members: self.drill_members(id, raw, report),
            cumulative: raw.cumulative,
            rolling: raw.rolling,
            stage: raw.stage.as_ref().map(|stage| Box::new(self.stage(stage, site, report))),
            mask: raw.mask.as_ref().map(|mask| self.mask(mask, Site { role: Role::Calculated, ..site }, report)),
            shown: self.shown(&raw.shown, site, report),
            location: about.place.location(about.mark),
        }
    }

    fn measure_kind(&self, raw: &RawMeasure, site: Site<'_>, report: &mut Report) -> MeasureKind {
        let (agg, data_type) = match raw.kind {
            Some(RawMeasureKind::Aggregate(agg)) => (Some(agg), DataType::Number),
            Some(RawMeasureKind::Calculated(data_type)) => (None, data_type),
            Some(RawMeasureKind::Rank) => {
                let keys = raw.order_by.iter().map(|(sql, descending)| RankOrder {
                    sql: self.template(sql, site, report),
                    descending: *descending,
                });
                return MeasureKind::Rank(keys.collect());
            }
            None => (None, DataType::Number),
        };
        if let Some(case) = &raw.case {
            return match self.switch(case, agg, data_type, site, report) {
                Some(switch) => MeasureKind::Switch(switch),
                None => MeasureKind::Calculated { data_type, sql: Template::default() },
            };
        }
        let sql = raw.sql.as_ref().map(|sql| self.template(sql, site, report));
        match agg {
            Some(agg) => MeasureKind::Aggregate { agg, sql },
            None => MeasureKind::Calculated { data_type, sql: sql.unwrap_or_default() },
        }
    }

    fn switch(
        &self,
        raw: &RawSwitch,
        agg: Option<AggKind>,
        data_type: DataType,
        site: Site<'_>,
        report: &mut Report,
    ) -> Option<SwitchMeasure> {
        let switch = match self.member(site.owner, &raw.switch, site.place, report)? {
            MemberId::Dimension(dimension) => dimension,
            MemberId::Measure(_) | MemberId::Segment(_) => {
                report.error(site.place, raw.switch.mark, format!("'{}' is not a dimension", raw.switch.text));
                return None;
            }
        };
        // A dimension of another type has whatever values its rows have.
        let values = self.raw[switch.cube.index()].dimensions[switch.index as usize].values.as_deref();
        let mut when = Vec::with_capacity(raw.when.len());
        for (value, sql) in &raw.when {
            if let Some(values) = values.filter(|values| !values.contains(value)) {
                let hint = crate::names::nearest(value, values.iter().map(String::as_str));
                let message = format!("'{value}' is not among the values of '{}'", raw.switch.text);
                report.error(site.place, sql.mark, message).hint = hint.map(|near| format!("did you mean '{near}'?"));
            }
            when.push((value.clone(), self.template(sql, site, report)));
        }
        let otherwise = raw.otherwise.as_ref().map(|sql| self.template(sql, site, report));
        Some(SwitchMeasure { agg, data_type, switch, when, otherwise })
    }

    fn drill_members(&self, id: MeasureId, raw: &RawMeasure, report: &mut Report) -> Vec<MemberId> {
        let members = raw.drill_members.iter();
        members.filter_map(|text| self.member(id.cube, text, &raw.about.place, report)).collect()
    }

    fn stage(&self, raw: &RawStage, site: Site<'_>, report: &mut Report) -> MultiStage {
        let grain = GrainRule {
            keep_only: raw.keep_only.as_ref().map(|texts| self.grain_members(texts, site, report)),
            exclude: self.grain_members(&raw.exclude, site, report),
            include: self.grain_members(&raw.include, site, report),
            fixed: raw.fixed,
        };
        let mut members = |texts: &[Text]| -> Vec<MemberId> {
            texts.iter().filter_map(|text| self.member(site.owner, text, site.place, report)).collect()
        };
        let filter = raw.filter.as_ref().map(|rule| FilterRule {
            exclude: members(&rule.exclude),
            keep_only: rule.keep_only.as_ref().map(|texts| members(texts)),
            include: rule.include.iter().map(|filter| self.qualified(filter.clone(), site)).collect(),
            fixed: rule.fixed,
        });
        MultiStage { grain, shifts: self.shifts(&raw.shifts, site, report), filter }
    }

    /// A condition with its members' cubes written out.
    fn qualified(&self, mut filter: serde_json::Value, site: Site<'_>) -> serde_json::Value {
        for group in ["and", "or"] {
            if let Some(parts) = filter.get_mut(group).and_then(serde_json::Value::as_array_mut) {
                for part in parts {
                    *part = self.qualified(part.take(), site);
                }
                return filter;
            }
        }
        let cube = &self.raw[site.owner.index()].about.name;
        if let Some(member) = filter.get("member").and_then(serde_json::Value::as_str) {
            let bare = member.trim().trim_start_matches('{').trim_end_matches('}').trim();
            let bare = bare.strip_prefix("CUBE.").unwrap_or(bare);
            let full = if bare.contains('.') { bare.to_owned() } else { format!("{cube}.{bare}") };
            filter["member"] = full.into();
        }
        filter
    }

    fn grain_members(&self, texts: &[Text], site: Site<'_>, report: &mut Report) -> Vec<GrainMember> {
        let mut members = Vec::with_capacity(texts.len());
        for text in texts {
            match self.target(site.owner, text, site.place, report) {
                Some(Target::Time(dimension, grain)) => members.push((dimension, Some(grain))),
                Some(Target::Member(MemberId::Dimension(dimension))) => members.push((dimension, None)),
                Some(Target::Member(_) | Target::Cube(_)) => {
                    report.error(site.place, text.mark, format!("'{}' is not a dimension", text.text));
                }
                None => {}
            }
        }
        members
    }

    fn shifts(&self, raw: &[RawShift], site: Site<'_>, report: &mut Report) -> Vec<TimeShift> {
        let mut shifts = Vec::with_capacity(raw.len());
        for shift in raw {
            let dimension = match &shift.time_dimension {
                None => None,
                Some(text) => match self.member(site.owner, text, site.place, report) {
                    Some(MemberId::Dimension(dimension)) => Some(dimension),
                    Some(_) => {
                        report.error(site.place, text.mark, format!("'{}' is not a time dimension", text.text));
                        continue;
                    }
                    None => continue,
                },
            };
            shifts.push(TimeShift {
                dimension,
                name: shift.name.clone(),
                interval: shift.interval,
                sql: shift.sql.as_ref().map(|sql| self.template(sql, Site { role: Role::Dimension, ..site }, report)),
            });
        }
        shifts
    }

    fn mask(&self, raw: &RawMask, site: Site<'_>, report: &mut Report) -> Mask {
        match raw {
            RawMask::Literal(mask) => mask.clone(),
            RawMask::Sql(sql) => Mask::Sql(self.template(sql, site, report)),
        }
    }

    fn shown(&self, raw: &RawShown, site: Site<'_>, report: &mut Report) -> Shown {
        Shown {
            currency: raw.currency.clone(),
            order: raw.order.clone(),
            key: raw.key.as_ref().and_then(|key| self.key(key, site, report)),
            aliases: raw.aliases.clone(),
            links: raw.links.clone(),
            synthetic: raw.synthetic,
        }
    }

    /// The dimension that sorts this one: of the same cube, and without such a key itself.
    fn key(&self, text: &Text, site: Site<'_>, report: &mut Report) -> Option<String> {
        let own = &self.raw[site.owner.index()];
        let name = site.place.owner().rsplit('.').next().unwrap_or_default();
        let bare = text.text.trim().trim_start_matches('{').trim_end_matches('}').trim();
        let (cube, key) = bare.rsplit_once('.').unwrap_or(("CUBE", bare));
        let message = if cube != "CUBE" && cube != own.about.name {
            format!(
                "Dimension '{name}' has a key that references dimension '{key}' from a different cube. Key must \
                 reference a dimension within the same cube."
            )
        } else {
            match own.dimensions.iter().find(|dimension| dimension.about.name == key) {
                None => format!(
                    "Dimension '{name}' references key dimension '{key}' which does not exist in cube '{}'.",
                    own.about.name
                ),
                Some(dimension) if dimension.shown.key.is_some() => format!(
                    "Dimension '{name}' references '{key}' as its key, but '{key}' already defines its own key. Nested \
                     keys are not allowed."
                ),
                Some(_) => return Some(key.to_owned()),
            }
        };
        report.error(site.place, text.mark, message);
        None
    }

    pub(super) fn dimension(&self, id: DimensionId, raw: &RawDimension, report: &mut Report) -> Dimension {
        let about = &raw.about;
        let role = if raw.sub_query.is_some() { Role::Stage } else { Role::Dimension };
        let site = Site { owner: id.cube, role, place: &about.place };
        let kind = self.dimension_kind(raw, site, report);
        let plain = Site { role: Role::Dimension, ..site };
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
            granularities: self.dimension_granularities(raw, plain, report),
            offered: self.granularities.offered(raw.offered.as_deref()),
            mask: raw.mask.as_ref().map(|mask| self.mask(mask, plain, report)),
            shown: self.shown(&raw.shown, plain, report),
            shifts: self.shifts(&raw.shifts, plain, report),
            location: about.place.location(about.mark),
        }
    }

    /// Its own granularities, then those of the settings that it does not define itself.
    fn dimension_granularities(
        &self,
        raw: &RawDimension,
        site: Site<'_>,
        report: &mut Report,
    ) -> Vec<CustomGranularity> {
        let own = |name: &str| raw.granularities.iter().any(|granularity| granularity.name == name);
        let common = self.granularities.custom.iter().filter(|granularity| !own(&granularity.name));
        let common = common.filter(|_| raw.data_type == Some(DataType::Time));
        raw.granularities.iter().chain(common).map(|g| self.granularity(g, site, report)).collect()
    }

    fn dimension_kind(&self, raw: &RawDimension, site: Site<'_>, report: &mut Report) -> DimensionKind {
        if let Some((latitude, longitude)) = &raw.point {
            return DimensionKind::Geo {
                latitude: self.template(latitude, site, report),
                longitude: self.template(longitude, site, report),
            };
        }
        if let Some(values) = &raw.values {
            return DimensionKind::Switch(values.clone());
        }
        let sql = raw.sql.as_ref().map(|sql| self.template(sql, site, report));
        match (sql, &raw.case, &raw.sub_query) {
            // Over dimensions alone there is nothing to evaluate for groups.
            (Some(sql), _, Some(sub_query)) if sub_query.staged && !mentions_measure(&sql) => DimensionKind::Sql(sql),
            (Some(sql), _, Some(sub_query)) => {
                let mut by = self.grain_members(&sub_query.by, site, report);
                if sub_query.staged {
                    // Dimensions that it mentions itself are of each group.
                    let mentioned = sql.members().filter_map(|member| match member {
                        MemberId::Dimension(id) => Some((id, None)),
                        MemberId::Measure(_) | MemberId::Segment(_) => None,
                    });
                    by.extend(mentioned);
                }
                DimensionKind::SubQuery(SubQuery {
                    sql,
                    propagate_filters: sub_query.propagate_filters,
                    staged: sub_query.staged,
                    by,
                })
            }
            (None, Some(case), _) => DimensionKind::Case(self.case(case, site, report)),
            (sql, _, _) => DimensionKind::Sql(sql.unwrap_or_default()),
        }
    }

    fn granularity(&self, raw: &RawGranularity, site: Site<'_>, report: &mut Report) -> CustomGranularity {
        CustomGranularity {
            name: raw.name.clone(),
            title: raw.title.clone().unwrap_or_else(|| titleize(&raw.name)),
            format: raw.format.clone(),
            kind: match &raw.kind {
                RawBuckets::Known(kind) => kind.clone(),
                RawBuckets::Sql(sql) => GranularityKind::Sql(self.template(sql, site, report)),
            },
            written: raw.written.clone(),
        }
    }

    fn case(&self, raw: &RawCase, site: Site<'_>, report: &mut Report) -> Case {
        let mut when = Vec::with_capacity(raw.when.len());
        for (condition, label) in &raw.when {
            let condition = self.template(condition, site, report);
            when.push(CaseBranch { condition, label: self.label(label, site, report) });
        }
        let otherwise = raw.otherwise.as_ref().map(|label| self.label(label, site, report));
        Case { when, otherwise }
    }

    fn label(&self, raw: &RawLabel, site: Site<'_>, report: &mut Report) -> CaseLabel {
        match raw {
            RawLabel::Text(text) => CaseLabel::Text(text.clone()),
            RawLabel::Sql(sql) => CaseLabel::Sql(self.template(sql, site, report)),
        }
    }
}

fn mentions_measure(sql: &Template) -> bool {
    sql.members().any(|member| matches!(member, MemberId::Measure(_)))
}
