//! Single values of settings, and what is wrong with them.

use std::collections::BTreeMap;
use std::time::Duration;

use quarry_storage::RowBand;

use crate::time::Zone;

/// Reads values and collects faults.
pub(super) struct Reader {
    pub(super) values: BTreeMap<String, String>,
    pub(super) faults: Vec<String>,
}

impl Reader {
    /// A value that is set and not blank.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.values.get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    pub(super) fn list(&self, name: &str) -> Option<Vec<String>> {
        let text = self.text(name)?;
        Some(text.split(',').map(|entry| entry.trim().to_owned()).filter(|entry| !entry.is_empty()).collect())
    }

    pub(super) fn fault(&mut self, name: &str, value: &str, expected: &str) {
        self.faults.push(format!("{name} is '{value}', but {expected} is expected"));
    }

    pub(super) fn boolean(&mut self, name: &str, default: bool) -> bool {
        match self.text(name).as_deref().map(str::to_ascii_lowercase).as_deref() {
            None => default,
            Some("true" | "1" | "yes") => true,
            Some("false" | "0" | "no") => false,
            Some(other) => {
                self.fault(name, other, "true or false");
                default
            }
        }
    }

    pub(super) fn number<T>(&mut self, name: &str, default: T, allowed: std::ops::RangeInclusive<T>) -> T
    where
        T: std::str::FromStr + PartialOrd + std::fmt::Display + Copy,
    {
        let Some(text) = self.text(name) else { return default };
        match text.parse::<T>() {
            Ok(number) if allowed.contains(&number) => number,
            _ => {
                let expected = format!("a number from {} to {}", allowed.start(), allowed.end());
                self.fault(name, &text, &expected);
                default
            }
        }
    }

    /// `50mb`, `512k`, `2gib` or plain bytes.
    pub(super) fn bytes(&mut self, name: &str, default: usize, allowed: std::ops::RangeInclusive<usize>) -> usize {
        let Some(text) = self.text(name) else { return default };
        match parse_bytes(&text) {
            Some(bytes) if allowed.contains(&bytes) => bytes,
            _ => {
                self.fault(name, &text, "a size such as 512kb, 50mb or 2gb within the allowed range");
                default
            }
        }
    }

    /// Seconds, or `10s`, `5m`, `1h`.
    pub(super) fn duration(&mut self, name: &str, default: Duration) -> Duration {
        let Some(text) = self.text(name) else { return default };
        parse_duration(&text).unwrap_or_else(|| {
            self.fault(name, &text, "seconds, or a duration such as 10s, 5m or 1h");
            default
        })
    }

    /// `0.5..2`, `0.5..` or `..2`.
    pub(super) fn row_band(&mut self, name: &str) -> Option<RowBand> {
        let text = self.text(name)?;
        let band = parse_row_band(&text);
        if band.is_none() {
            self.fault(name, &text, "a range of factors such as 0.5..2, 0.5.. or ..2");
        }
        band
    }

    pub(super) fn zone(&mut self, name: &str) -> Zone {
        let Some(text) = self.text(name) else { return Zone::UTC };
        Zone::from_str_insensitive(&text).unwrap_or_else(|_| {
            self.fault(name, &text, "an IANA time zone such as Europe/Berlin");
            Zone::UTC
        })
    }

    pub(super) fn zones(&mut self, name: &str) -> Vec<Zone> {
        let Some(names) = self.list(name) else { return vec![Zone::UTC] };
        let mut zones = Vec::new();
        for text in names {
            match Zone::from_str_insensitive(&text) {
                Ok(zone) if !zones.contains(&zone) => zones.push(zone),
                Ok(_) => {}
                Err(_) => self.fault(name, &text, "a list of IANA time zones such as UTC,Europe/Berlin"),
            }
        }
        zones
    }
}

fn parse_bytes(text: &str) -> Option<usize> {
    let text = text.to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(1 << shift)
}

fn parse_row_band(text: &str) -> Option<RowBand> {
    let (least, most) = text.split_once("..")?;
    let factor = |text: &str, default: f64| match text.trim() {
        "" => Some(default),
        text => text.parse::<f64>().ok().filter(|factor| factor.is_finite() && *factor >= 0.0),
    };
    let band = RowBand { least: factor(least, 0.0)?, most: factor(most, f64::INFINITY)? };
    (band.least <= band.most).then_some(band)
}

/// Seconds, or a number with `ms`, `s`, `m`, `h` or `d`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit.trim() {
        "ms" => return number.parse().ok().map(Duration::from_millis),
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_have_units() {
        assert_eq!(parse_bytes("50mb"), Some(50 << 20));
        assert_eq!(parse_bytes("512"), Some(512));
        assert_eq!(parse_bytes("5 stones"), None);
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("10m"), Some(Duration::from_secs(600)));
        assert_eq!(parse_duration("7"), Some(Duration::from_secs(7)));
        assert_eq!(parse_duration("1w"), None);
    }

    #[test]
    fn row_bands_are_ranges_of_factors() {
        let band = |least, most| Some(RowBand { least, most });
        for (text, expected) in [
            ("0.5..2", band(0.5, 2.0)),
            ("0.5..", band(0.5, f64::INFINITY)),
            ("..2", band(0.0, 2.0)),
            ("2..1", None),
            ("-1..2", None),
            ("0.5", None),
            ("a..b", None),
            ("NaN..2", None),
        ] {
            assert_eq!(parse_row_band(text), expected, "{text}");
        }
    }
}
