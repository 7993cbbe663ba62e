//! States of measures that cannot be merged as numbers: built from values, stored in rollups, merged, and read.
//!
//! | State | Build | Merge | Read | All at once |
//! |---|---|---|---|---|
//! | set of distinct values ([`distinct`]) | `distinct_set(x)` | `distinct_union(s)` | `distinct_count(s)` | `count(DISTINCT x)` |
//! | sketch of a distinct count ([`approx`]) | `hll_sketch(x)` | `hll_union(s)` | `hll_count(s)` | `approx_count_distinct(x)` |
//! | counted values ([`quantiles`]) | `quantile_sketch(x)` | `quantile_union(s)` | `quantile_value(s, q)` | `approx_quantile(x, q)` |
//!
//! A state is a binary value, sealed with its kind, its parameter and a checksum ([`bytes`]). A group without values
//! has none: null. The field of a column of states says under [`STATE_KEY`] what they are; files keep it.

mod approx;
mod bytes;
mod distinct;
mod groups;
mod quantiles;
mod values;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field, FieldRef, Schema};
use datafusion::common::{Result, ScalarValue, not_impl_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, GroupsAccumulator, ReversedUDAF, Signature, Volatility,
};

use self::approx::Sketch;
use self::bytes::Corrupt;
use self::distinct::DistinctSet;
use self::groups::{Groups, One};
use self::quantiles::Quantiles;
use self::values::Value;

/// Key of the metadata of a field that holds states; its value is kind and parameter, as `hll/14`.
pub const STATE_KEY: &str = "quarry.state";

/// Something that values are put into, and that merges with its like: in any order, in any number of steps, with
/// the same result.
trait State: Default + Debug + Send + Sync + 'static {
    /// Type of what is read from it.
    type Output: ArrowPrimitiveType;
    /// Its name in the metadata.
    const NAME: &'static str;
    /// Version or precision: states of another do not merge.
    const PARAMETER: u8;

    /// Puts a value in.
    fn add(&mut self, value: Value<'_>);

    /// Puts in what an encoded state holds.
    fn merge(&mut self, content: &[u8]) -> Result<(), Corrupt>;

    /// The content of the stored form.
    fn encode(self) -> Vec<u8>;

    /// What is read, of a percentile that at the share `at` of all values; none for no value.
    fn finish(&self, at: f64) -> Option<<Self::Output as ArrowPrimitiveType>::Native>;

    /// As [`State::finish`], of an encoded state.
    fn finish_stored(content: &[u8], at: f64) -> Result<Option<<Self::Output as ArrowPrimitiveType>::Native>, Corrupt> {
        let mut state = Self::default();
        state.merge(content)?;
        Ok(state.finish(at))
    }

    /// Whether two encoded states hold the same: then neither knows anything that the other does not.
    fn is_same(one: &[u8], other: &[u8]) -> Result<bool, Corrupt> {
        let read = |contents: &[&[u8]]| {
            let mut state = Self::default();
            contents.iter().try_for_each(|content| state.merge(content))?;
            Ok::<_, Corrupt>(state.finish(0.5))
        };
        let both = read(&[one, other])?;
        Ok(read(&[one])? == both && read(&[other])? == both)
    }

    /// Memory beside its own, about.
    fn heap_bytes(&self) -> usize;
}

/// Which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Distinct = 1,
    Approx = 2,
    Quantiles = 3,
}

/// What goes in: values or states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Input {
    Values,
    States,
}

/// What comes out: a state or what is read from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Output {
    State,
    Number,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Distinct => DistinctSet::NAME,
            Self::Approx => Sketch::NAME,
            Self::Quantiles => Quantiles::NAME,
        }
    }

    fn parameter(self) -> u8 {
        match self {
            Self::Distinct => DistinctSet::PARAMETER,
            Self::Approx => Sketch::PARAMETER,
            Self::Quantiles => Quantiles::PARAMETER,
        }
    }

    fn output(self) -> DataType {
        match self {
            Self::Distinct => <DistinctSet as State>::Output::DATA_TYPE,
            Self::Approx => <Sketch as State>::Output::DATA_TYPE,
            Self::Quantiles => <Quantiles as State>::Output::DATA_TYPE,
        }
    }

    /// The value of [`STATE_KEY`].
    fn metadata(self) -> String {
        format!("{}/{}", self.name(), self.parameter())
    }
}

/// How two stored states differ, as people read it; none when they hold the same, in whatever form. A difference of
/// sets of one size is told by a word more.
///
/// # Errors
/// One of them is damaged, or is no state.
pub fn state_difference(one: &[u8], other: &[u8]) -> std::result::Result<Option<[String; 2]>, String> {
    let compared = match one.first() {
        Some(kind) if *kind == Kind::Distinct as u8 => difference::<DistinctSet>(Kind::Distinct, one, other),
        Some(kind) if *kind == Kind::Approx as u8 => difference::<Sketch>(Kind::Approx, one, other),
        Some(kind) if *kind == Kind::Quantiles as u8 => difference::<Quantiles>(Kind::Quantiles, one, other),
        Some(_) | None => Err(Corrupt("it is of no known kind".to_owned())),
    };
    compared.map_err(|corrupt| corrupt.to_string())
}

fn difference<S: State>(kind: Kind, one: &[u8], other: &[u8]) -> std::result::Result<Option<[String; 2]>, Corrupt> {
    let contents = [bytes::open(kind as u8, S::PARAMETER, one)?, bytes::open(kind as u8, S::PARAMETER, other)?];
    if contents[0] == contents[1] || S::is_same(contents[0], contents[1])? {
        return Ok(None);
    }
    let told = |content: &[u8]| {
        let read = S::finish_stored(content, 0.5)?.map_or("none".to_owned(), |read| format!("{read:?}"));
        Ok::<_, Corrupt>(match kind {
            Kind::Distinct => format!("{read} different values"),
            Kind::Approx => format!("about {read} different values"),
            Kind::Quantiles => format!("values around {read}"),
        })
    };
    let [one, mut other] = [told(contents[0])?, told(contents[1])?];
    if one == other {
        other.push_str(", other ones");
    }
    Ok(Some([one, other]))
}

/// Every function of states.
pub(super) fn functions() -> Vec<Arc<AggregateUDF>> {
    let all = [
        StateFunction::new("distinct_set", Kind::Distinct, Input::Values, Output::State),
        StateFunction::new("distinct_union", Kind::Distinct, Input::States, Output::State),
        StateFunction::new("distinct_count", Kind::Distinct, Input::States, Output::Number),
        StateFunction::new("hll_sketch", Kind::Approx, Input::Values, Output::State),
        StateFunction::new("hll_union", Kind::Approx, Input::States, Output::State),
        StateFunction::new("hll_count", Kind::Approx, Input::States, Output::Number),
        StateFunction::new("approx_count_distinct", Kind::Approx, Input::Values, Output::Number),
        StateFunction::new("quantile_sketch", Kind::Quantiles, Input::Values, Output::State),
        StateFunction::new("quantile_union", Kind::Quantiles, Input::States, Output::State),
        StateFunction::new("quantile_value", Kind::Quantiles, Input::States, Output::Number),
        StateFunction::new("approx_quantile", Kind::Quantiles, Input::Values, Output::Number),
    ];
    all.into_iter().map(|function| Arc::new(AggregateUDF::new_from_impl(function))).collect()
}

/// An aggregate function that builds, merges or reads states.
#[derive(Debug, PartialEq, Eq, Hash)]
struct StateFunction {
    name: &'static str,
    kind: Kind,
    input: Input,
    output: Output,
    signature: Signature,
}

impl StateFunction {
    fn new(name: &'static str, kind: Kind, input: Input, output: Output) -> Self {
        Self { name, kind, input, output, signature: Signature::user_defined(Volatility::Immutable) }
    }

    /// Whether it takes a share of the way through all values beside these.
    fn takes_share(&self) -> bool {
        self.kind == Kind::Quantiles && self.output == Output::Number
    }

    fn groups<S: State>(&self, args: &AccumulatorArgs) -> Result<Groups<S>> {
        let mut at = 0.0;
        if self.takes_share() {
            let nothing = RecordBatch::new_empty(Arc::new(Schema::empty()));
            match args.exprs.get(1).map(|share| share.evaluate(&nothing)) {
                Some(Ok(ColumnarValue::Scalar(ScalarValue::Float64(Some(share))))) if (0.0..=1.0).contains(&share) => {
                    at = share;
                }
                _ => return plan_err!("{} takes a constant from 0 to 1 as its second argument", self.name),
            }
        }
        Ok(Groups::new(self.kind as u8, self.input, self.output, at))
    }
}

impl AggregateUDFImpl for StateFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let arg = match arg_types {
            [arg] if !self.takes_share() => arg,
            [arg, _] if self.takes_share() => arg,
            _ => {
                let count = if self.takes_share() { "two arguments" } else { "one argument" };
                return plan_err!("{} takes {count}, {} were given", self.name, arg_types.len());
            }
        };
        let arg = match (self.input, arg) {
            (Input::Values, DataType::Null) => DataType::Null,
            (Input::Values, arg) if self.kind == Kind::Quantiles && arg.is_numeric() => DataType::Float64,
            (Input::Values, arg) if self.kind == Kind::Quantiles => {
                return plan_err!("{} takes numbers, not values of type {arg}", self.name);
            }
            (Input::Values, arg) => arg.clone(),
            (Input::States, DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::Null) => {
                DataType::BinaryView
            }
            (Input::States, other) => {
                return plan_err!("{} takes stored states, not values of type {other}", self.name);
            }
        };
        Ok(std::iter::once(arg).chain(self.takes_share().then_some(DataType::Float64)).collect())
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(match self.output {
            Output::State => DataType::BinaryView,
            Output::Number => self.kind.output(),
        })
    }

    fn return_field(&self, arg_fields: &[FieldRef]) -> Result<FieldRef> {
        let expected = self.kind.metadata();
        let given = arg_fields.first().and_then(|field| field.metadata().get(STATE_KEY));
        if let Some(given) = given.filter(|given| self.input == Input::States && **given != expected) {
            return plan_err!("{} takes states {expected}, not {given}: rebuild the partition", self.name);
        }
        let field = Field::new(self.name, self.return_type(&[])?, true);
        Ok(Arc::new(match self.output {
            Output::State => field.with_metadata(HashMap::from([(STATE_KEY.to_owned(), expected)])),
            Output::Number => field,
        }))
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return not_impl_err!("{}(DISTINCT …) is not supported", self.name);
        }
        Ok(match self.kind {
            Kind::Distinct => Box::new(One(self.groups::<DistinctSet>(&args)?)),
            Kind::Approx => Box::new(One(self.groups::<Sketch>(&args)?)),
            Kind::Quantiles => Box::new(One(self.groups::<Quantiles>(&args)?)),
        })
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format_state_name(args.name, "state"), DataType::BinaryView, true))])
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        !args.is_distinct
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(match self.kind {
            Kind::Distinct => Box::new(self.groups::<DistinctSet>(&args)?),
            Kind::Approx => Box::new(self.groups::<Sketch>(&args)?),
            Kind::Quantiles => Box::new(self.groups::<Quantiles>(&args)?),
        })
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        match (self.output, data_type) {
            (Output::Number, DataType::Int64) => Ok(ScalarValue::Int64(Some(0))),
            _ => ScalarValue::try_from(data_type),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}
