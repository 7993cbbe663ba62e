//! The state of an approximate distinct count: a HyperLogLog sketch of Apache DataSketches with 2^14 registers.
//!
//! Its standard error is 1.04 / √(2^14) = 0.81 %: 95 of 100 counts are within 1.6 %, 99 within 2.1 %; counts below
//! about 1500 are nearly exact. The estimate depends on the set of values alone, not on their order nor on how they
//! came together: the same for a source, for a rollup and for partitions in any number.

use arrow::datatypes::Int64Type;
use datasketches::hash::value::raw_bytes;
use datasketches::hll::{HllSketch, HllType, HllUnion};

use super::State;
use super::bytes::Corrupt;
use super::values::Value;

/// Registers, as a power of two (`pre-aggregations.md` §10.2).
const PRECISION: u8 = 14;

/// The sketch; none before the first value.
#[derive(Debug, Default)]
pub(super) struct Sketch(Option<Box<HllUnion>>);

impl Sketch {
    fn union(&mut self) -> &mut HllUnion {
        self.0.get_or_insert_with(|| Box::new(HllUnion::new(PRECISION).expect("a precision within the limits")))
    }
}

impl State for Sketch {
    type Output = Int64Type;
    const NAME: &'static str = "hll";
    const PARAMETER: u8 = PRECISION;

    /// Hashed as DataSketches hashes in every language: 64 bits least byte first, or the bytes of a text.
    fn add(&mut self, value: Value<'_>) {
        match value {
            Value::Word(_, word) => self.union().update_value(raw_bytes::from_slice(&word.to_le_bytes())),
            Value::Bytes(_, bytes) => self.union().update_value(raw_bytes::from_slice(bytes)),
        }
    }

    fn merge(&mut self, content: &[u8]) -> Result<(), Corrupt> {
        let sketch = HllSketch::deserialize(content).map_err(|error| Corrupt(error.to_string()))?;
        if sketch.lg_config_k() != PRECISION {
            return Err(Corrupt(format!("it has 2^{} registers, not 2^{PRECISION}", sketch.lg_config_k())));
        }
        self.union().update(&sketch);
        Ok(())
    }

    fn encode(mut self) -> Vec<u8> {
        // Four bits a register where there are many: the smallest of the forms.
        self.union().to_sketch(HllType::Hll4).serialize()
    }

    fn finish(&self, _at: f64) -> Option<i64> {
        let estimate = self.0.as_ref().map_or(0.0, |union| union.composite_estimate());
        #[expect(clippy::cast_possible_truncation, reason = "a count of values, far below 2^63")]
        Some(estimate.round() as i64)
    }

    fn heap_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |union| size_of::<HllUnion>() + union.estimated_size())
    }
}
