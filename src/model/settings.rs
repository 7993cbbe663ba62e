//! What a project's settings say about every model: the granularities that there are, and what stands for masked values.

use std::collections::BTreeMap;
use std::path::Path;

use chrono::{NaiveDate, NaiveDateTime};

use super::cube::DataType;
use super::fields::{Place, Report};
use super::policy::Mask;
use super::raw_granularity::{NamedParts, RawGranularity};
use super::yaml::Mark;
use crate::names::is_identifier;
use crate::time::{Granularity, to_micros};

/// Settings that change what a model means.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModelSettings {
    /// `CUBEJS_GRANULARITIES`; every standard granularity when none.
    pub granularities: Option<Vec<NamedGranularity>>,
    /// `CUBEJS_ACCESS_POLICY_MASK_STRING`, `_NUMBER`, `_BOOLEAN`, `_TIME`.
    pub masks: DefaultMasks,
}

impl ModelSettings {
    /// Takes its part out of all settings; what is wrong goes to `faults`.
    pub fn read(values: &BTreeMap<String, String>, faults: &mut Vec<String>) -> Self {
        let text = |name: &str| values.get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let named = |name: &str| {
            let part = |part: &str| text(&format!("CUBEJS_GRANULARITIES_{}_{part}", name.to_uppercase()));
            let (interval, title, offset, origin) = (part("INTERVAL"), part("TITLE"), part("OFFSET"), part("ORIGIN"));
            NamedGranularity { name: name.to_owned(), interval, title, offset, origin }
        };
        let names = text("CUBEJS_GRANULARITIES");
        let granularities =
            names.map(|list| list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(named).collect());
        let mask = |kind: &str| text(&format!("CUBEJS_ACCESS_POLICY_MASK_{kind}"));
        let mut wrong = |kind: &str, value: &str, wanted: &str| {
            faults.push(format!("CUBEJS_ACCESS_POLICY_MASK_{kind} is '{value}', but {wanted} is expected"));
        };
        let number = mask("NUMBER").filter(|value| {
            let digits = value.strip_prefix('-').unwrap_or(value);
            let plain = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            let valid = plain && digits.bytes().any(|b| b.is_ascii_digit()) && digits.matches('.').count() < 2;
            if !valid {
                wrong("NUMBER", value, "a number");
            }
            valid
        });
        let boolean = mask("BOOLEAN").and_then(|value| {
            let truth = value.to_lowercase().parse().ok();
            if truth.is_none() {
                wrong("BOOLEAN", &value, "true or false");
            }
            truth
        });
        let time = mask("TIME").and_then(|value| {
            let form = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
            let at = form.iter().find_map(|form| NaiveDateTime::parse_from_str(value.trim_end_matches('Z'), form).ok());
            let day = || NaiveDate::parse_from_str(&value, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
            let at = at.or_else(day).map(to_micros);
            if at.is_none() {
                wrong("TIME", &value, "a time such as 1970-01-01T00:00:00");
            }
            at
        });
        Self { granularities, masks: DefaultMasks { string: mask("STRING"), number, boolean, time } }
    }
}

/// An entry of `CUBEJS_GRANULARITIES`: a standard granularity, or one that is defined beside it for every time
/// dimension.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamedGranularity {
    /// Its name.
    pub name: String,
    /// `CUBEJS_GRANULARITIES_NAME_INTERVAL`.
    pub interval: Option<String>,
    /// `…_TITLE`.
    pub title: Option<String>,
    /// `…_OFFSET`.
    pub offset: Option<String>,
    /// `…_ORIGIN`.
    pub origin: Option<String>,
}

/// What stands for masked values of members that have no mask of their own; NULL when none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DefaultMasks {
    /// For texts.
    pub string: Option<String>,
    /// For numbers, as it is written.
    pub number: Option<String>,
    /// For truth values.
    pub boolean: Option<bool>,
    /// For times: microseconds, UTC.
    pub time: Option<i64>,
}

impl DefaultMasks {
    /// The mask for members of a type; none for a time, which is no mask that a model can write.
    pub fn of(&self, data_type: DataType) -> Option<Mask> {
        match data_type {
            DataType::String => self.string.clone().map(Mask::Text),
            DataType::Number => self.number.clone().map(Mask::Number),
            DataType::Boolean => self.boolean.map(Mask::Boolean),
            DataType::Time => None,
        }
    }
}

/// The granularities of every time dimension.
#[derive(Debug, Clone, Default)]
pub(super) struct Granularities {
    /// Standard ones that are offered; all when none.
    offered: Option<Vec<Granularity>>,
    /// Those that the settings define.
    pub(super) custom: Vec<RawGranularity>,
}

impl Granularities {
    /// Reads the settings; what is wrong with them is told of the file `.env`.
    pub(super) fn read(settings: &ModelSettings, report: &mut Report) -> Self {
        let Some(named) = &settings.granularities else { return Self::default() };
        let place = Place::of_file(Path::new(".env"));
        let (mut offered, mut custom) = (Vec::new(), Vec::new());
        for entry in named {
            let NamedGranularity { name, interval, title, offset, origin } = entry;
            let setting = format!("CUBEJS_GRANULARITIES_{}_INTERVAL", name.to_uppercase());
            match (Granularity::parse(name), interval) {
                (Some(granularity), None) => offered.push(granularity),
                (Some(granularity), Some(_)) => {
                    offered.push(granularity);
                    let message = format!("{setting} has no effect: '{name}' is a standard granularity");
                    report.warn(&place, Mark::START, message);
                }
                (None, None) => {
                    let message = format!("CUBEJS_GRANULARITIES names '{name}', which is no standard granularity");
                    report.error(&place, Mark::START, message).hint =
                        Some(format!("give its length, for example {setting}='6 months'"));
                }
                (None, Some(_)) if !is_identifier(name) => {
                    let message =
                        format!("(name = {name}) with value \"{name}\" fails to match the identifier pattern");
                    report.error(&place, Mark::START, message);
                }
                (None, Some(interval)) => {
                    let parts = NamedParts { name, title: title.as_deref(), interval, offset, origin };
                    custom.extend(parts.granularity(&place, report));
                }
            }
        }
        Self { offered: Some(offered), custom }
    }

    /// The standard granularities of a dimension that offers these; none for all.
    pub(super) fn offered(&self, own: Option<&[Granularity]>) -> Option<Vec<Granularity>> {
        match (&self.offered, own) {
            (None, own) => own.map(<[Granularity]>::to_vec),
            (Some(offered), None) => Some(offered.clone()),
            (Some(offered), Some(own)) => Some(own.iter().copied().filter(|one| offered.contains(one)).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::model::compile::compile_sources;
    use crate::model::{CompileContext, Grain};

    const MODEL: &str = "cubes:
  - name: a
    sql_table: a
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: at, sql: at, type: time}
      - {name: own, sql: at, type: time, granularities: {includes: [day, year], custom: [{name: half, interval: 1 year}]}}
";

    fn read(values: &[(&str, &str)]) -> (ModelSettings, Vec<String>) {
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut faults = Vec::new();
        (ModelSettings::read(&values, &mut faults), faults)
    }

    fn compile(values: &[(&str, &str)]) -> Result<crate::model::Model, Vec<String>> {
        let (settings, faults) = read(values);
        assert_eq!(faults, Vec::<String>::new());
        let context = CompileContext { settings, ..CompileContext::default() };
        let compiled = compile_sources(&[(PathBuf::from("m.yml"), MODEL.to_owned())], &context);
        compiled.map(|compiled| compiled.model).map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn granularities_are_narrowed_and_defined_for_all() {
        let half = ("CUBEJS_GRANULARITIES_HALF_INTERVAL", "6 months");
        let model = compile(&[("CUBEJS_GRANULARITIES", "year, month,half"), half]).expect("a sound model");
        let [_, at, own] = model.cubes()[0].dimensions.as_slice() else { panic!("three dimensions") };
        assert_eq!(at.offered, Some(vec![Granularity::Year, Granularity::Month]));
        assert_eq!(own.offered, Some(vec![Granularity::Year]), "what both offer");
        let written = |dimension: &crate::model::Dimension| {
            dimension.granularities.iter().map(|g| (g.title.clone(), g.written.interval.clone())).collect::<Vec<_>>()
        };
        assert_eq!(at.find_grain("half"), Some(Grain::Custom(0)));
        assert_eq!(written(at), [("Half".to_owned(), Some("6 months".to_owned()))]);
        assert_eq!(written(own), [("Half".to_owned(), Some("1 year".to_owned()))], "its own wins");
        assert!(model.cubes()[0].dimensions[0].granularities.is_empty(), "no time");
        let all = compile(&[]).expect("a sound model");
        assert_eq!(all.cubes()[0].dimensions[1].offered, None);
    }

    #[test]
    fn faulty_granularities_are_told() {
        let faults = compile(&[("CUBEJS_GRANULARITIES", "day,half")]).expect_err("no interval");
        assert!(faults[0].contains("names 'half'") && faults[0].contains(".env"), "{faults:?}");
        let odd = ("CUBEJS_GRANULARITIES_ODD_INTERVAL", "5 months");
        let faults = compile(&[("CUBEJS_GRANULARITIES", "odd"), odd]).expect_err("no origin");
        assert!(faults[0].contains("Arbitrary intervals cannot be used without origin"), "{faults:?}");
    }

    #[test]
    fn masks_are_typed() {
        let name = |kind: &str| format!("CUBEJS_ACCESS_POLICY_MASK_{kind}");
        let given = [("STRING", "***"), ("NUMBER", "-1.5"), ("BOOLEAN", "False"), ("TIME", "1970-01-02")];
        let names: Vec<(String, &str)> = given.iter().map(|(kind, value)| (name(kind), *value)).collect();
        let (settings, faults) = read(&names.iter().map(|(name, value)| (name.as_str(), *value)).collect::<Vec<_>>());
        assert_eq!(faults, Vec::<String>::new());
        let masks = DefaultMasks {
            string: Some("***".to_owned()),
            number: Some("-1.5".to_owned()),
            boolean: Some(false),
            time: Some(86_400_000_000),
        };
        assert_eq!(settings.masks, masks);
        for (kind, value) in [("NUMBER", "1 OR 1"), ("NUMBER", "1.2.3"), ("BOOLEAN", "maybe"), ("TIME", "x")] {
            let (_, faults) = read(&[(&name(kind), value)]);
            assert!(faults.len() == 1 && faults[0].contains(value), "{kind} {value}: {faults:?}");
        }
    }
}
