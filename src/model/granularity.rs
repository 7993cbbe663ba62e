//! Granularities that a time dimension defines (`data-model.md` §4.3, §16.4).

use super::template::Template;
use crate::time::{Bins, DAY_MICROS, Granularity, Interval};

/// A custom granularity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomGranularity {
    /// Name within the dimension.
    pub name: String,
    /// Given or generated title.
    pub title: String,
    /// Display format, as it is written.
    pub format: Option<String>,
    /// How times fall into its buckets.
    pub kind: GranularityKind,
    /// `interval`, `offset` and `origin` as they are written, for the metadata.
    pub written: Written,
}

/// The words of a custom granularity.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Written {
    /// `interval`.
    pub interval: Option<String>,
    /// `offset`.
    pub offset: Option<String>,
    /// `origin`.
    pub origin: Option<String>,
}

/// How times fall into buckets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GranularityKind {
    /// One standard bucket, moved by a length: `trunc(unit, t - offset) + offset`.
    Moved {
        /// The standard granularity.
        unit: Granularity,
        /// By how much its borders are moved.
        offset: Interval,
    },
    /// Equal buckets from an origin.
    Bins {
        /// Local time of the query's zone.
        bins: Bins,
        /// The coarsest standard granularity whose buckets make up these.
        made_of: Granularity,
    },
    /// An expression of a calendar cube that gives the bucket itself.
    Sql(Template),
}

impl GranularityKind {
    /// The coarsest standard granularity whose buckets make up these buckets; none when an expression decides.
    pub fn made_of(&self) -> Option<Granularity> {
        match self {
            // A moved week begins on another day; a moved month on a day, an hour… as the offset says.
            Self::Moved { unit, offset } => Some(aligned(*unit, *offset)),
            Self::Bins { made_of, .. } => Some(*made_of),
            Self::Sql(_) => None,
        }
    }

    /// The finest standard granularity whose buckets are made of these buckets; none when they lie across.
    pub fn fills(&self) -> Option<Granularity> {
        match self {
            Self::Moved { unit, offset } => (*offset == Interval::ZERO).then_some(*unit),
            Self::Bins { bins, .. } => filled_by(*bins),
            Self::Sql(_) => None,
        }
    }

    /// The buckets, and by how much their borders are moved; none when an expression decides.
    pub fn bins(&self) -> Option<(Bins, Interval)> {
        match self {
            Self::Moved { unit, offset } => Some((Bins::of(*unit), *offset)),
            Self::Bins { bins, .. } => Some((*bins, Interval::ZERO)),
            Self::Sql(_) => None,
        }
    }
}

/// The finest standard granularity whose buckets are made of these; none when these lie across those of every one.
pub(super) fn filled_by(bins: Bins) -> Option<Granularity> {
    let fits = |granularity: &Granularity| {
        let unit = Interval::of(*granularity);
        let divides = if bins.step.months == 0 {
            // What divides a day divides all that is made of days.
            let whole = if unit.months == 0 { unit.micros } else { DAY_MICROS };
            whole % bins.step.micros == 0
        } else {
            bins.step.micros == 0 && unit.months > 0 && unit.months % bins.step.months == 0
        };
        // Beyond a day from the origin buckets repeat, so that one border tells of all.
        let border = granularity.truncate(crate::time::from_micros(bins.origin));
        divides && bins.truncate(border) == border
    };
    Granularity::ALL.into_iter().find(fits)
}

/// The coarsest granularity whose borders stay borders when `unit` is moved by `offset`.
fn aligned(unit: Granularity, offset: Interval) -> Granularity {
    let fits = |granularity: &Granularity| {
        let step = Interval::of(*granularity);
        let whole = match (step.months, granularity) {
            (0, Granularity::Week) => offset.months == 0 && offset.micros % step.micros == 0,
            (0, _) => offset.micros % step.micros == 0,
            (months, _) => offset.micros == 0 && offset.months % months == 0,
        };
        whole && granularity.serves(unit)
    };
    Granularity::ALL.into_iter().rev().find(fits).unwrap_or(Granularity::Second)
}

/// The coarsest granularity whose buckets make up buckets of `step` counted from `origin` (local microseconds).
pub(super) fn parts_of(step: Interval, origin: i64) -> Granularity {
    let start = crate::time::from_micros(origin);
    let fits = |granularity: &Granularity| {
        let unit = Interval::of(*granularity);
        let divides = match (unit.months, granularity) {
            (0, Granularity::Week) => step.months == 0 && step.micros % unit.micros == 0,
            (0, _) => step.micros % unit.micros == 0,
            (months, _) => step.micros == 0 && step.months % months == 0,
        };
        divides && granularity.truncate(start) == start
    };
    Granularity::ALL.into_iter().rev().find(fits).unwrap_or(Granularity::Second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::to_micros;

    #[test]
    fn moved_buckets_are_made_of_what_keeps_their_borders() {
        let day = |n: i64| Interval { months: 0, micros: n * DAY_MICROS };
        assert_eq!(aligned(Granularity::Week, day(-1)), Granularity::Day);
        assert_eq!(aligned(Granularity::Week, Interval::ZERO), Granularity::Week);
        assert_eq!(aligned(Granularity::Year, Interval { months: 3, micros: 0 }), Granularity::Quarter);
        assert_eq!(aligned(Granularity::Year, Interval { months: 1, micros: 0 }), Granularity::Month);
        assert_eq!(aligned(Granularity::Month, day(14)), Granularity::Day);
        assert_eq!(aligned(Granularity::Day, Interval { months: 0, micros: 21_600_000_000 }), Granularity::Hour);
    }

    #[test]
    fn bins_fill_what_they_divide() {
        let at = |text: &str| to_micros(text.parse().expect("a timestamp"));
        let fills = |interval: &str, origin: &str| {
            let step = Interval::parse(interval).expect("an interval").0;
            filled_by(Bins { step, origin: at(&format!("{origin}T00:00:00")) })
        };
        assert_eq!(fills("15 minutes", "2024-01-01"), Some(Granularity::Hour));
        assert_eq!(fills("90 minutes", "2024-01-01"), Some(Granularity::Day));
        assert_eq!(fills("7 minutes", "2024-01-01"), Some(Granularity::Week));
        assert_eq!(fills("11 minutes", "2024-01-01"), None);
        assert_eq!(fills("6 hours", "2024-02-03"), Some(Granularity::Day));
        assert_eq!(fills("1 week", "2024-01-01"), Some(Granularity::Week));
        assert_eq!(fills("1 week", "2024-01-07"), None);
        assert_eq!(fills("2 weeks", "2024-01-01"), None);
        assert_eq!(fills("1 month", "2024-02-01"), Some(Granularity::Month));
        assert_eq!(fills("1 month", "2024-02-15"), None);
        assert_eq!(fills("6 months", "2024-01-01"), Some(Granularity::Year));
        assert_eq!(fills("6 months", "2024-04-01"), None);
        assert_eq!(fills("2 months", "2024-03-01"), Some(Granularity::Year));
    }

    #[test]
    fn bins_are_made_of_what_divides_them() {
        let at = |text: &str| to_micros(text.parse().expect("a timestamp"));
        let parts = |interval: &str, origin: &str| {
            parts_of(Interval::parse(interval).expect("an interval").0, at(&format!("{origin}T00:00:00")))
        };
        assert_eq!(parts("1 year", "2024-04-01"), Granularity::Quarter);
        assert_eq!(parts("1 year", "2024-02-01"), Granularity::Month);
        assert_eq!(parts("1 year", "2024-02-02"), Granularity::Day);
        assert_eq!(parts("2 weeks", "2024-01-01"), Granularity::Week);
        assert_eq!(parts("2 weeks", "2024-01-02"), Granularity::Day);
        assert_eq!(parts("15 minutes", "1970-01-01"), Granularity::Minute);
        assert_eq!(parts("10 days", "1970-01-01"), Granularity::Day);
    }
}
