//! One state a group: what DataFusion drives.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewBuilder, BooleanArray, PrimitiveArray};
use datafusion::common::{Result, ScalarValue, resources_datafusion_err};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};

use super::bytes::{Corrupt, open, seal};
use super::{Input, Output, State, values};

/// Most bytes of one state: what an offset of a stored column can tell.
const MOST_BYTES: usize = i32::MAX as usize;

impl From<Corrupt> for DataFusionError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Execution(corrupt.to_string())
    }
}

/// The states of all groups.
#[derive(Debug)]
pub(super) struct Groups<S> {
    kind: u8,
    input: Input,
    output: Output,
    /// See [`State::finish`].
    at: f64,
    slots: Vec<Slot<S>>,
    heap_bytes: usize,
}

/// The state of a group.
#[derive(Debug, Default)]
enum Slot<S> {
    #[default]
    Empty,
    /// The only one so far, as it was stored: most groups of fine questions get no second, and need no decoding.
    Stored(Box<[u8]>),
    Open(S),
}

impl<S: State> Slot<S> {
    fn heap_bytes(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Stored(sealed) => sealed.len(),
            Self::Open(state) => state.heap_bytes(),
        }
    }

    fn open(&mut self, kind: u8) -> Result<&mut S, Corrupt> {
        if !matches!(self, Self::Open(_)) {
            let mut state = S::default();
            if let Self::Stored(sealed) = self {
                state.merge(open(kind, S::PARAMETER, sealed)?)?;
            }
            *self = Self::Open(state);
        }
        match self {
            Self::Open(state) => Ok(state),
            Self::Empty | Self::Stored(_) => Err(Corrupt("it was not opened".to_owned())),
        }
    }

    fn merge(&mut self, kind: u8, sealed: &[u8]) -> Result<(), Corrupt> {
        let content = open(kind, S::PARAMETER, sealed)?;
        match self {
            Self::Empty => *self = Self::Stored(sealed.into()),
            Self::Stored(_) | Self::Open(_) => self.open(kind)?.merge(content)?,
        }
        Ok(())
    }
}

impl<S: State> Groups<S> {
    pub(super) fn new(kind: u8, input: Input, output: Output, at: f64) -> Self {
        Self { kind, input, output, at, slots: Vec::new(), heap_bytes: 0 }
    }

    fn add(
        &mut self,
        values: &ArrayRef,
        groups: &dyn Fn(usize) -> usize,
        filter: Option<&BooleanArray>,
        count: usize,
    ) -> Result<()> {
        self.slots.resize_with(count.max(self.slots.len()), Slot::default);
        let (kind, slots, heap_bytes) = (self.kind, &mut self.slots, &mut self.heap_bytes);
        let passes = |row: usize| filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
        values::visit(values, &mut |row, value| {
            if passes(row) {
                let slot = &mut slots[groups(row)];
                let before = slot.heap_bytes();
                slot.open(kind)?.add(value);
                *heap_bytes = (*heap_bytes + slot.heap_bytes()).saturating_sub(before);
            }
            Ok(())
        })
    }

    fn merge(
        &mut self,
        states: &ArrayRef,
        groups: &dyn Fn(usize) -> usize,
        filter: Option<&BooleanArray>,
        count: usize,
    ) -> Result<()> {
        self.slots.resize_with(count.max(self.slots.len()), Slot::default);
        let passes = |row: usize| filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
        for (row, sealed) in states.as_binary_view().iter().enumerate() {
            if let Some(sealed) = sealed.filter(|_| passes(row)) {
                let slot = &mut self.slots[groups(row)];
                let before = slot.heap_bytes();
                slot.merge(self.kind, sealed)?;
                self.heap_bytes = (self.heap_bytes + slot.heap_bytes()).saturating_sub(before);
            }
        }
        Ok(())
    }

    fn update(
        &mut self,
        input: &ArrayRef,
        groups: &dyn Fn(usize) -> usize,
        filter: Option<&BooleanArray>,
        count: usize,
    ) -> Result<()> {
        match self.input {
            Input::Values => self.add(input, groups, filter, count),
            Input::States => self.merge(input, groups, filter, count),
        }
    }

    fn take(&mut self, emit_to: EmitTo) -> Vec<Slot<S>> {
        let taken = emit_to.take_needed(&mut self.slots);
        let freed: usize = taken.iter().map(Slot::heap_bytes).sum();
        self.heap_bytes = self.heap_bytes.saturating_sub(freed);
        taken
    }

    fn sealed(&self, slots: Vec<Slot<S>>) -> Result<ArrayRef> {
        let mut out = BinaryViewBuilder::with_capacity(slots.len());
        for slot in slots {
            match slot {
                Slot::Empty => out.append_null(),
                Slot::Stored(sealed) => out.append_value(sealed),
                Slot::Open(state) => {
                    let sealed = seal(self.kind, S::PARAMETER, &state.encode());
                    if sealed.len() > MOST_BYTES {
                        return Err(resources_datafusion_err!(
                            "the state of one group has {} bytes, at most {MOST_BYTES} can be stored",
                            sealed.len()
                        ));
                    }
                    out.append_value(sealed);
                }
            }
        }
        Ok(Arc::new(out.finish()))
    }

    fn finished(&self, slots: &[Slot<S>]) -> Result<ArrayRef> {
        let finish = |slot: &Slot<S>| match slot {
            Slot::Empty => Ok(S::default().finish(self.at)),
            Slot::Stored(sealed) => S::finish_stored(open(self.kind, S::PARAMETER, sealed)?, self.at),
            Slot::Open(state) => Ok(state.finish(self.at)),
        };
        let numbers = slots.iter().map(finish).collect::<Result<PrimitiveArray<S::Output>, Corrupt>>()?;
        Ok(Arc::new(numbers))
    }
}

impl<S: State> GroupsAccumulator for Groups<S> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.update(&values[0], &|row| group_indices[row], opt_filter, total_num_groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let slots = self.take(emit_to);
        match self.output {
            Output::State => self.sealed(slots),
            Output::Number => self.finished(&slots),
        }
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let slots = self.take(emit_to);
        Ok(vec![self.sealed(slots)?])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.merge(&values[0], &|row| group_indices[row], None, total_num_groups)
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = values[0].len();
        let mut each = Self::new(self.kind, self.input, self.output, self.at);
        each.update(&values[0], &|row| row, opt_filter, rows)?;
        each.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        self.slots.capacity() * size_of::<Slot<S>>() + self.heap_bytes
    }
}

/// The state of the one group of an aggregate without `GROUP BY`.
#[derive(Debug)]
pub(super) struct One<S>(pub(super) Groups<S>);

impl<S: State> One<S> {
    fn sealed(&mut self) -> Result<ScalarValue> {
        self.0.slots.resize_with(1, Slot::default);
        let slots = self.0.take(EmitTo::All);
        ScalarValue::try_from_array(&self.0.sealed(slots)?, 0)
    }
}

impl<S: State> Accumulator for One<S> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.update(&values[0], &|_| 0, None, 1)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        match self.0.output {
            Output::State => self.sealed(),
            Output::Number => {
                self.0.slots.resize_with(1, Slot::default);
                ScalarValue::try_from_array(&self.0.finished(&self.0.slots)?, 0)
            }
        }
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.0.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.sealed()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0.merge(&states[0], &|_| 0, None, 1)
    }
}
