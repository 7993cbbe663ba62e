//! The state of an approximate percentile: how often which values occur.
//!
//! Up to [`EXACT`] different values are kept as they are, and percentiles over them are exact. Beyond that values fall
//! into buckets whose borders grow by a constant factor (as in DDSketch, Masson et al. 2019), so that a value is told
//! to [`ERROR`] of itself. Both forms depend on the values alone, not on their order nor on how they came together.
//! A percentile lies between two values as `percentile_cont` says; each of these two is off by at most [`ERROR`].

use std::collections::BTreeMap;

use arrow::datatypes::Float64Type;

use super::State;
use super::bytes::{Corrupt, Reader, put_varint};
use super::values::{Kind, Value};

/// Most different values that are kept as they are.
const EXACT: usize = 256;
/// How far a value may be off, as a share of itself.
const ERROR: f64 = 0.005;
/// Borders of buckets grow by this.
const GROWTH: f64 = (1.0 + ERROR) / (1.0 - ERROR);
/// Added to the number of a bucket, so that those of positive values are positive: the least float is in bucket
/// -74,443 before that.
const SHIFT: i32 = 100_000;
/// Buckets of what no factor leads to.
const INFINITY: i32 = 1_000_000;
const NOT_A_NUMBER: i32 = INFINITY + 1;

const AS_VALUES: u8 = 0;
const AS_BUCKETS: u8 = 1;

/// The values, counted.
#[derive(Debug)]
pub(super) enum Quantiles {
    /// By the value's place in the order of floats.
    Values(BTreeMap<i64, u64>),
    Buckets(Buckets),
}

#[derive(Debug)]
pub(super) struct Buckets {
    /// As places in the order of floats.
    least: i64,
    greatest: i64,
    counts: BTreeMap<i32, u64>,
}

impl Default for Quantiles {
    fn default() -> Self {
        Self::Values(BTreeMap::new())
    }
}

/// The place of a float in their order: all that are no numbers are one, the greatest; zero has no sign.
fn place(number: f64) -> i64 {
    let number = if number.is_nan() { f64::NAN.abs() } else { number + 0.0 };
    let bits = number.to_bits().cast_signed();
    bits ^ (bits >> 63 & i64::MAX)
}

fn number_at(place: i64) -> f64 {
    f64::from_bits((place ^ (place >> 63 & i64::MAX)).cast_unsigned())
}

/// The bucket of a float.
fn bucket(number: f64) -> i32 {
    if number.is_nan() {
        return NOT_A_NUMBER;
    }
    let size = number.abs();
    let position = if size == 0.0 {
        0
    } else if size.is_infinite() {
        INFINITY
    } else {
        #[expect(clippy::cast_possible_truncation, reason = "between -74,443 and 70,979")]
        let step = (size.ln() / GROWTH.ln()).ceil() as i32;
        step + SHIFT
    };
    if number < 0.0 { -position } else { position }
}

/// The value that stands for all of a bucket.
fn middle(bucket: i32) -> f64 {
    match bucket.abs() {
        0 => 0.0,
        NOT_A_NUMBER => f64::NAN,
        INFINITY => f64::INFINITY.copysign(bucket.into()),
        position => (GROWTH.powi(position - SHIFT) * 2.0 / (1.0 + GROWTH)).copysign(bucket.into()),
    }
}

impl Buckets {
    fn add(&mut self, place: i64, count: u64) {
        self.least = self.least.min(place);
        self.greatest = self.greatest.max(place);
        let known = self.counts.entry(bucket(number_at(place))).or_default();
        *known = known.saturating_add(count);
    }
}

impl Quantiles {
    fn put(&mut self, place: i64, count: u64) {
        match self {
            Self::Values(values) => {
                let known = values.entry(place).or_default();
                *known = known.saturating_add(count);
                if values.len() > EXACT {
                    self.buckets();
                }
            }
            Self::Buckets(buckets) => buckets.add(place, count),
        }
    }

    /// Turns values into buckets.
    fn buckets(&mut self) -> &mut Buckets {
        if let Self::Values(values) = self {
            let mut buckets = Buckets { least: i64::MAX, greatest: i64::MIN, counts: BTreeMap::new() };
            std::mem::take(values).into_iter().for_each(|(place, count)| buckets.add(place, count));
            *self = Self::Buckets(buckets);
        }
        match self {
            Self::Buckets(buckets) => buckets,
            Self::Values(_) => unreachable!("values have become buckets"),
        }
    }

    fn counts(&self) -> Box<dyn Iterator<Item = (f64, u64)> + '_> {
        match self {
            Self::Values(values) => Box::new(values.iter().map(|(place, count)| (number_at(*place), *count))),
            Self::Buckets(Buckets { least, greatest, counts }) => {
                let (least, greatest) = (number_at(*least), number_at(*greatest));
                Box::new(counts.iter().map(move |(bucket, count)| {
                    let value = middle(*bucket);
                    // No value lies beyond the ends.
                    let value = if value < least {
                        least
                    } else if value > greatest {
                        greatest
                    } else {
                        value
                    };
                    (value, *count)
                }))
            }
        }
    }

    /// The value at a rank, counted from zero.
    fn at_rank(&self, rank: u64) -> Option<f64> {
        let mut passed = 0_u64;
        let mut last = None;
        for (value, count) in self.counts() {
            passed = passed.saturating_add(count);
            last = Some(value);
            if passed > rank {
                break;
            }
        }
        last
    }
}

impl State for Quantiles {
    type Output = Float64Type;
    const NAME: &'static str = "quantiles";
    const PARAMETER: u8 = 1;

    /// What is stored depends on the values alone.
    fn is_same(one: &[u8], other: &[u8]) -> Result<bool, Corrupt> {
        Ok(one == other)
    }

    /// Takes numbers only, as floats.
    fn add(&mut self, value: Value<'_>) {
        match value {
            #[expect(clippy::cast_precision_loss, reason = "it was a float before")]
            Value::Word(Kind::Integer, word) => self.put(place(word.cast_signed() as f64), 1),
            Value::Word(Kind::Float, word) => self.put(place(f64::from_bits(word)), 1),
            Value::Word(..) | Value::Bytes(..) => {}
        }
    }

    fn merge(&mut self, content: &[u8]) -> Result<(), Corrupt> {
        let mut reader = Reader::new(content);
        let form = reader.byte()?;
        if form == AS_VALUES {
            while !reader.is_empty() {
                let place = reader.word()?.cast_signed();
                self.put(place, reader.varint()?);
            }
            return Ok(());
        }
        if form != AS_BUCKETS {
            return Err(Corrupt(format!("unknown form {form} of counted values")));
        }
        let buckets = self.buckets();
        buckets.least = buckets.least.min(reader.word()?.cast_signed());
        buckets.greatest = buckets.greatest.max(reader.word()?.cast_signed());
        let mut bucket = -NOT_A_NUMBER;
        while !reader.is_empty() {
            let step = i32::try_from(reader.varint()?).ok();
            let next = step.and_then(|step| bucket.checked_add(step)).filter(|next| *next <= NOT_A_NUMBER);
            bucket = next.ok_or_else(|| Corrupt("it has a bucket that no value falls into".to_owned()))?;
            let known = buckets.counts.entry(bucket).or_default();
            *known = known.saturating_add(reader.varint()?);
        }
        Ok(())
    }

    fn encode(self) -> Vec<u8> {
        match self {
            Self::Values(values) => {
                let mut out = vec![AS_VALUES];
                for (place, count) in values {
                    out.extend_from_slice(&place.to_le_bytes());
                    put_varint(&mut out, count);
                }
                out
            }
            Self::Buckets(Buckets { least, greatest, counts }) => {
                let mut out = vec![AS_BUCKETS];
                out.extend_from_slice(&least.to_le_bytes());
                out.extend_from_slice(&greatest.to_le_bytes());
                let mut last = -NOT_A_NUMBER;
                for (bucket, count) in counts {
                    put_varint(&mut out, u64::from((bucket - last).unsigned_abs()));
                    put_varint(&mut out, count);
                    last = bucket;
                }
                out
            }
        }
    }

    /// The value at the share `at` of the way through all, as `percentile_cont`; none of no values.
    fn finish(&self, at: f64) -> Option<f64> {
        let total = self.counts().fold(0_u64, |total, (_, count)| total.saturating_add(count));
        #[expect(clippy::cast_precision_loss, reason = "a place among many values")]
        let position = at.clamp(0.0, 1.0) * total.checked_sub(1)? as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least zero, less than a count")]
        let below = position.floor() as u64;
        let low = self.at_rank(below)?;
        let rest = position.fract();
        if rest == 0.0 {
            return Some(low);
        }
        let high = self.at_rank(below + 1)?;
        // Equal ends first: the difference of infinities is no number.
        Some(if low == high { low } else { low + (high - low) * rest })
    }

    fn heap_bytes(&self) -> usize {
        // About what a tree costs an entry.
        match self {
            Self::Values(values) => values.len() * 24,
            Self::Buckets(buckets) => buckets.counts.len() * 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn of(values: &[f64]) -> Quantiles {
        let mut state = Quantiles::default();
        values.iter().for_each(|value| state.put(place(*value), 1));
        state
    }

    fn merged(parts: &[&[f64]]) -> Quantiles {
        let mut state = Quantiles::default();
        parts.iter().for_each(|part| state.merge(&of(part).encode()).unwrap());
        state
    }

    /// `percentile_cont` over all values, and the two values that it lies between.
    fn exact(sorted: &[f64], at: f64) -> (f64, f64, f64) {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "small"
        )]
        let (position, below) = (at * (sorted.len() - 1) as f64, (at * (sorted.len() - 1) as f64).floor() as usize);
        let (low, high) = (sorted[below], sorted[(below + 1).min(sorted.len() - 1)]);
        (low + (high - low) * position.fract(), low, high)
    }

    #[test]
    fn few_values_give_exact_percentiles() {
        let state = of(&[4.0, 1.0, 3.0, 2.0, 2.0]);
        for (at, expected) in [(0.0, 1.0), (0.25, 2.0), (0.5, 2.0), (0.625, 2.5), (0.75, 3.0), (1.0, 4.0)] {
            assert_eq!(state.finish(at), Some(expected), "{at}");
        }
        assert_eq!(of(&[7.0]).finish(0.9), Some(7.0));
        assert_eq!(of(&[]).finish(0.5), None);
        assert_eq!(merged(&[&[], &[]]).finish(0.5), None);
        assert_eq!(of(&[f64::NEG_INFINITY, -0.0, 0.0, f64::INFINITY]).finish(0.5), Some(0.0));
        assert!(of(&[f64::NAN, 1.0]).finish(1.0).unwrap().is_nan());
    }

    #[test]
    fn percentiles_err_as_stated_and_do_not_depend_on_order() {
        let mut random = ChaCha8Rng::seed_from_u64(10);
        for case in 0..40 {
            let size = random.random_range(1..4_000);
            let scale = 10_f64.powi(random.random_range(-9..12));
            let mut values: Vec<f64> = (0..size)
                .map(|_| {
                    let value: f64 = random.random_range(-1.0..3.0);
                    value.powi(1 + case % 5) * scale
                })
                .collect();
            let (head, tail) = values.split_at(random.random_range(0..=size));
            let (left, right) = (merged(&[head, tail]), merged(&[tail, head]));
            let whole = of(&values);
            values.sort_by(f64::total_cmp);
            for at in [0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 1.0] {
                let found = whole.finish(at).unwrap();
                assert_eq!((left.finish(at), right.finish(at)), (Some(found), Some(found)));
                let (expected, low, high) = exact(&values, at);
                let allowed = ERROR * low.abs().max(high.abs()) * 1.000_001;
                assert!((found - expected).abs() <= allowed, "{found} for {expected} at {at} of {size}");
            }
            let whole = whole.encode();
            assert_eq!((left.encode(), right.encode()), (whole.clone(), whole));
        }
    }

    #[test]
    fn a_million_values_stay_small_and_damage_is_told() {
        let mut random = ChaCha8Rng::seed_from_u64(12);
        let mut state = Quantiles::default();
        (0..1_000_000).for_each(|_| state.put(place(random.random_range(0.01_f64..1e6)), 1));
        let content = state.encode();
        assert!(content.len() < 8_000, "{} bytes", content.len());
        for at in 0..content.len().min(200) {
            let mut cut = Quantiles::default();
            // A cut between two counts is for the seal to see.
            drop(cut.merge(&content[..at]));
        }
        assert!(Quantiles::default().merge(&[9]).is_err());
        assert!(Quantiles::default().merge(&[AS_BUCKETS, 1, 2]).is_err());
        let mut beyond = vec![AS_BUCKETS];
        beyond.extend_from_slice(&[0; 16]);
        put_varint(&mut beyond, u64::from(u32::MAX));
        put_varint(&mut beyond, 1);
        assert!(Quantiles::default().merge(&beyond).is_err());
    }
}
