//! Aggregates whose states are whole numbers: sums, counts, the least and the greatest. They take a number for each row
//! as it was read, in 64 bits, and the group of each row; all other aggregates are DataFusion's.

use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, Decimal64Array, Decimal128Array, Int64Array};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::{cast, prep_null_mask_filter};
use arrow::datatypes::{DataType, Decimal64Type, Int64Type};
use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_plan::PhysicalExpr;

/// Digits that a decimal of 64 bits holds whatever they are.
const NARROW_DIGITS: u8 = 18;

/// An aggregate that is computed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    Sum,
    /// Of rows.
    Count,
    Least,
    Greatest,
}

impl Whole {
    /// What a function is, if it is one of these over arguments of the right type.
    pub(super) fn of(function: &AggregateFunctionExpr) -> Option<Self> {
        if function.is_distinct() {
            return None;
        }
        match function.fun().name() {
            "exact_sum" => Some(Self::Sum),
            "min" => Some(Self::Least),
            "max" => Some(Self::Greatest),
            "count" => Some(Self::Count),
            _ => None,
        }
    }

    /// Whether it can take arguments of these types.
    fn takes(self, arguments: &[Arc<dyn PhysicalExpr>], types: &[DataType]) -> bool {
        if self == Self::Count {
            let is_value = |argument: &Arc<dyn PhysicalExpr>| {
                argument.downcast_ref::<Literal>().is_some_and(|literal| !literal.value().is_null())
            };
            return arguments.iter().all(is_value);
        }
        matches!(types, [DataType::Int64 | DataType::Decimal64(..)])
    }
}

/// The type that a column can be read as when nothing but [`Whole`] aggregates takes it.
pub(super) fn narrow_type(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Decimal128(precision, scale) if *precision <= NARROW_DIGITS => {
            Some(DataType::Decimal64(*precision, *scale))
        }
        _ => None,
    }
}

/// The states of an aggregate, one a group.
pub(super) enum Fold {
    Sum { sums: Vec<i128>, met: Met },
    Count(Vec<i64>),
    Extreme { values: Vec<i64>, met: Met, is_greatest: bool, of: DataType },
    Other(Box<dyn GroupsAccumulator>),
}

impl Fold {
    /// Of no groups. `types` are those of the arguments as they are read.
    ///
    /// # Errors
    /// DataFusion's, on a function that it does not know.
    pub(super) fn new(
        function: &AggregateFunctionExpr,
        arguments: &[Arc<dyn PhysicalExpr>],
        types: &[DataType],
    ) -> Result<Self> {
        let whole = Whole::of(function).filter(|whole| whole.takes(arguments, types));
        let of = types.first().cloned().unwrap_or(DataType::Int64);
        Ok(match whole {
            None => Self::Other(function.create_groups_accumulator()?),
            Some(Whole::Sum) => Self::Sum { sums: Vec::new(), met: Met::default() },
            Some(Whole::Count) => Self::Count(Vec::new()),
            Some(Whole::Least) => Self::Extreme { values: Vec::new(), met: Met::default(), is_greatest: false, of },
            Some(Whole::Greatest) => Self::Extreme { values: Vec::new(), met: Met::default(), is_greatest: true, of },
        })
    }

    /// Whether the arguments are needed.
    pub(super) fn takes_values(&self) -> bool {
        !matches!(self, Self::Count(_))
    }

    /// Takes rows: the arguments and the groups of each, of `count` groups by now. Only rows for which the filter is
    /// true count.
    ///
    /// # Errors
    /// The aggregate's, such as a sum of too many digits.
    pub(super) fn update(
        &mut self,
        arguments: &[ArrayRef],
        groups: &RowGroups,
        filter: Option<&BooleanArray>,
        count: usize,
    ) -> Result<()> {
        match self {
            Self::Other(accumulator) => accumulator.update_batch(arguments, groups.wide(), filter, count),
            Self::Count(counts) => {
                counts.resize(count, 0);
                match filter.map(passing) {
                    None => groups.narrow.iter().for_each(|group| counts[*group as usize] += 1),
                    Some(kept) => {
                        kept.set_indices().for_each(|row| counts[groups.narrow[row] as usize] += 1);
                    }
                }
                Ok(())
            }
            Self::Sum { sums, met } => {
                sums.resize(count, 0);
                fold(numbers(arguments)?, &groups.narrow, filter, (met, count), |group, value| {
                    // So many rows that it could overflow do not exist.
                    sums[group] = sums[group].wrapping_add(i128::from(value));
                });
                Ok(())
            }
            Self::Extreme { values, met, is_greatest, .. } => {
                values.resize(count, if *is_greatest { i64::MIN } else { i64::MAX });
                let numbers = numbers(arguments)?;
                if *is_greatest {
                    fold(numbers, &groups.narrow, filter, (met, count), |group, value| {
                        values[group] = values[group].max(value);
                    });
                } else {
                    fold(numbers, &groups.narrow, filter, (met, count), |group, value| {
                        values[group] = values[group].min(value);
                    });
                }
                Ok(())
            }
        }
    }

    /// The states of all groups, as columns; `next` is the type of the first one.
    ///
    /// # Errors
    /// The aggregate's.
    pub(super) fn finish(self, next: &DataType) -> Result<Vec<ArrayRef>> {
        Ok(match self {
            Self::Other(mut accumulator) => accumulator.state(EmitTo::All)?,
            Self::Count(counts) => vec![Arc::new(Int64Array::from(counts))],
            Self::Sum { sums, met } => {
                vec![Arc::new(Decimal128Array::new(sums.into(), met.nulls()).with_data_type(next.clone()))]
            }
            Self::Extreme { values, met, of, .. } => {
                let values: ArrayRef = match of {
                    DataType::Decimal64(..) => {
                        Arc::new(Decimal64Array::new(values.into(), met.nulls()).with_data_type(of))
                    }
                    _ => Arc::new(Int64Array::new(values.into(), met.nulls())),
                };
                vec![cast(&values, next)?]
            }
        })
    }

    /// Bytes in memory, about.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Other(accumulator) => accumulator.size(),
            Self::Count(counts) => counts.capacity() * size_of::<i64>(),
            Self::Sum { sums, met } => sums.capacity() * size_of::<i128>() + met.size(),
            Self::Extreme { values, met, .. } => values.capacity() * size_of::<i64>() + met.size(),
        }
    }
}

/// The group of each row.
pub(super) struct RowGroups {
    narrow: Vec<u32>,
    /// As DataFusion's aggregates want them; made when the first one asks.
    wide: std::cell::OnceCell<Vec<usize>>,
}

impl RowGroups {
    pub(super) fn new(groups: Vec<u32>) -> Self {
        Self { narrow: groups, wide: std::cell::OnceCell::new() }
    }

    fn wide(&self) -> &[usize] {
        self.wide.get_or_init(|| self.narrow.iter().map(|group| *group as usize).collect())
    }
}

/// Which groups have met a value.
#[derive(Default)]
pub(super) struct Met {
    /// None while all have.
    some: Option<Vec<bool>>,
    /// How many groups there are.
    count: usize,
}

impl Met {
    /// All rows of the groups have a value, `count` groups by now.
    fn all(&mut self, groups: &[u32], count: usize) {
        // A group is made by a row.
        if let Some(some) = &mut self.some {
            some.resize(count, false);
            groups.iter().for_each(|group| some[*group as usize] = true);
        }
        self.count = count;
    }

    /// Not all rows have. Those that do are to be marked.
    fn some(&mut self, count: usize) -> &mut [bool] {
        let known = self.count;
        self.count = count;
        let some = self.some.get_or_insert_with(|| vec![true; known]);
        some.resize(count, false);
        some
    }

    fn nulls(self) -> Option<NullBuffer> {
        self.some.map(NullBuffer::from).filter(|nulls| nulls.null_count() > 0)
    }

    fn size(&self) -> usize {
        self.some.as_ref().map_or(0, Vec::capacity)
    }
}

/// Numbers, and which of them there are.
type Numbers<'a> = (&'a [i64], Option<&'a NullBuffer>);

fn numbers(arguments: &[ArrayRef]) -> Result<Numbers<'_>> {
    let column = arguments.first();
    let decimals = column.and_then(|column| column.as_primitive_opt::<Decimal64Type>());
    let decimals = decimals.map(|decimals| (decimals.values().as_ref(), decimals.nulls()));
    let numbers = || {
        let numbers = column?.as_primitive_opt::<Int64Type>()?;
        Some((numbers.values().as_ref(), numbers.nulls()))
    };
    decimals.or_else(numbers).ok_or_else(|| exec_datafusion_err!("an aggregate's values are not whole numbers"))
}

/// Calls `add` with the group and the number of each row that has one.
fn fold(
    (values, nulls): Numbers<'_>,
    groups: &[u32],
    filter: Option<&BooleanArray>,
    (met, count): (&mut Met, usize),
    mut add: impl FnMut(usize, i64),
) {
    let nulls = nulls.filter(|nulls| nulls.null_count() > 0).map(NullBuffer::inner);
    let kept = match (nulls, filter.map(passing)) {
        (None, kept) => kept,
        (Some(nulls), None) => Some(nulls.clone()),
        (Some(nulls), Some(kept)) => Some(nulls & &kept),
    };
    let Some(kept) = kept else {
        met.all(groups, count);
        groups.iter().zip(values).for_each(|(group, value)| add(*group as usize, *value));
        return;
    };
    let met = met.some(count);
    for row in kept.set_indices() {
        let group = groups[row] as usize;
        met[group] = true;
        add(group, values[row]);
    }
}

/// The rows for which a filter is true.
fn passing(filter: &BooleanArray) -> BooleanBuffer {
    if filter.null_count() > 0 { prep_null_mask_filter(filter).values().clone() } else { filter.values().clone() }
}
