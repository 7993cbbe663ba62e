//! Columns as codes: each distinct value of a column has a number, given in the order in which values were met.

use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayData, ArrayRef, AsArray as _, DictionaryArray, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Date32Type, Int32Type, Int64Type};
use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;
use hashbrown::HashMap;

/// No code yet.
pub(super) const NONE: u32 = u32::MAX;

/// Values between the least and the greatest that are looked up by their distance from the least.
const WINDOW: u64 = 1 << 17;

/// A column whose values are met again and again.
pub(super) enum Coder {
    /// Dates.
    Integers(Integers),
    /// Texts that the file holds as dictionaries.
    Texts(Texts),
}

impl Coder {
    /// For a column as it is read.
    pub(super) fn new(read: &DataType) -> Self {
        match read {
            DataType::Dictionary(..) => Self::Texts(Texts::default()),
            _ => Self::Integers(Integers::default()),
        }
    }

    /// The codes of a column's values, one a row.
    ///
    /// # Errors
    /// The column is not of the type that the coder is for.
    pub(super) fn encode(&mut self, column: &ArrayRef) -> Result<Vec<u32>> {
        match self {
            Self::Integers(integers) => integers.encode(column),
            Self::Texts(texts) => texts.encode(column),
        }
    }

    /// How many codes there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Integers(integers) => integers.values.len(),
            Self::Texts(texts) => texts.values.len(),
        }
    }

    /// The values of some codes, as a column of type `plain`.
    ///
    /// # Errors
    /// The type has no such values.
    pub(super) fn values(&self, codes: &[u32], plain: &DataType) -> Result<ArrayRef> {
        match self {
            Self::Integers(integers) => integers.values(codes, plain),
            Self::Texts(texts) => {
                let values = codes.iter().map(|code| texts.values[*code as usize].as_deref());
                Ok(cast(&values.collect::<StringArray>(), plain)?)
            }
        }
    }

    /// Bytes in memory, about.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Integers(integers) => integers.size(),
            Self::Texts(texts) => texts.size_bytes,
        }
    }
}

/// Whole numbers, and what is stored as such: dates, times, truth.
#[derive(Default)]
pub(super) struct Integers {
    codes: IntegerCodes,
    null: Option<u32>,
    values: Vec<Option<i64>>,
}

enum IntegerCodes {
    /// By the distance from a least value; [`NONE`] where none was met.
    Near {
        least: i64,
        codes: Vec<u32>,
    },
    Far(HashMap<i64, u32>),
}

impl Default for IntegerCodes {
    fn default() -> Self {
        Self::Near { least: 0, codes: Vec::new() }
    }
}

impl Integers {
    /// Whether values of a type can be told apart as whole numbers, and be made from them again.
    pub(super) fn hold(data_type: &DataType) -> bool {
        use DataType::{Boolean, Date32, Int8, Int16, Int32, Int64, Timestamp, UInt8, UInt16, UInt32};
        matches!(data_type, Boolean | Date32 | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | Timestamp(..))
    }

    /// As [`Coder::encode`].
    pub(super) fn encode(&mut self, column: &ArrayRef) -> Result<Vec<u32>> {
        if column.null_count() == 0
            && let Some(dates) = column.as_primitive_opt::<Date32Type>()
        {
            return Ok(self.encode_all(dates.values()));
        }
        let column = cast(column, &DataType::Int64)?;
        let column = column.as_primitive::<Int64Type>();
        if column.null_count() == 0 {
            return Ok(self.encode_all(column.values()));
        }
        let code = |value: Option<i64>| match value {
            Some(value) => self.code_of(value),
            None => self.code_of_null(),
        };
        Ok(column.iter().map(code).collect())
    }

    /// How many codes there are.
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// As [`Coder::values`].
    pub(super) fn values(&self, codes: &[u32], plain: &DataType) -> Result<ArrayRef> {
        let values: Int64Array = codes.iter().map(|code| self.values[*code as usize]).collect();
        Ok(cast(&values, plain)?)
    }

    /// Bytes in memory, about.
    pub(super) fn size(&self) -> usize {
        let codes = match &self.codes {
            IntegerCodes::Near { codes, .. } => codes.capacity() * size_of::<u32>(),
            IntegerCodes::Far(codes) => codes.allocation_size(),
        };
        codes + self.values.capacity() * size_of::<Option<i64>>()
    }

    fn encode_all<T: Copy + Into<i64>>(&mut self, values: &[T]) -> Vec<u32> {
        let IntegerCodes::Near { least, codes } = &self.codes else {
            return values.iter().map(|value| self.code_of((*value).into())).collect();
        };
        // Nearly always all are known: those that are not come after.
        let (least, known) = (*least, codes.as_slice());
        let code = |value: &T| {
            let distance = Into::<i64>::into(*value).wrapping_sub(least).cast_unsigned();
            usize::try_from(distance).ok().and_then(|at| known.get(at)).copied().unwrap_or(NONE)
        };
        let mut codes: Vec<u32> = values.iter().map(code).collect();
        if codes.contains(&NONE) {
            let unknown = codes.iter_mut().zip(values).filter(|(code, _)| **code == NONE);
            unknown.for_each(|(code, value)| *code = self.code_of((*value).into()));
        }
        codes
    }

    #[inline]
    fn code_of(&mut self, value: i64) -> u32 {
        let known = match &self.codes {
            IntegerCodes::Near { least, codes } => {
                let at = usize::try_from(value.wrapping_sub(*least).cast_unsigned()).unwrap_or(usize::MAX);
                codes.get(at).copied().filter(|code| *code != NONE)
            }
            IntegerCodes::Far(codes) => codes.get(&value).copied(),
        };
        known.unwrap_or_else(|| self.add(value))
    }

    fn code_of_null(&mut self) -> u32 {
        *self.null.get_or_insert_with(|| {
            self.values.push(None);
            last_of(&self.values)
        })
    }

    #[cold]
    fn add(&mut self, value: i64) -> u32 {
        self.values.push(Some(value));
        let code = last_of(&self.values);
        self.make_room(value);
        match &mut self.codes {
            IntegerCodes::Near { least, codes } => {
                if let Some(slot) = usize::try_from(value.abs_diff(*least)).ok().and_then(|at| codes.get_mut(at)) {
                    *slot = code;
                }
            }
            IntegerCodes::Far(codes) => {
                codes.insert(value, code);
            }
        }
        code
    }

    /// Moves the window so that it holds `value` too, or gives it up.
    fn make_room(&mut self, value: i64) {
        let IntegerCodes::Near { least, codes } = &mut self.codes else { return };
        let mut first = if codes.is_empty() { value } else { value.min(*least) };
        let end = i128::from(value).max(i128::from(*least) + codes.len() as i128 - 1);
        let width = if codes.is_empty() { 1 } else { u64::try_from(end - i128::from(first) + 1).unwrap_or(u64::MAX) };
        if width > WINDOW {
            let known = self.values.iter().zip(0_u32..).filter_map(|(value, code)| Some(((*value)?, code)));
            self.codes = IntegerCodes::Far(known.collect());
            return;
        }
        // Room for as many again on the side where values come from, so that a column in order does not move it each time.
        let before = usize::try_from(least.abs_diff(first)).unwrap_or(0);
        if before > 0 && !codes.is_empty() {
            let spare = Some(codes.len()).filter(|spare| width + *spare as u64 <= WINDOW).unwrap_or(0);
            let spare = first.checked_sub_unsigned(spare as u64).map_or(0, |lower| {
                first = lower;
                spare
            });
            codes.splice(0..0, std::iter::repeat_n(NONE, before + spare));
        }
        *least = first;
        let width = usize::try_from(width).unwrap_or(codes.len());
        if width > codes.len() {
            codes.resize(width.next_power_of_two(), NONE);
        }
    }
}

/// Texts, read as dictionaries.
#[derive(Default)]
pub(super) struct Texts {
    codes: HashMap<Arc<str>, u32>,
    null: Option<u32>,
    values: Vec<Option<Arc<str>>>,
    size_bytes: usize,
    /// The dictionary that was met last, and the codes of its entries.
    last: Option<(ArrayData, Vec<u32>)>,
}

impl Texts {
    fn encode(&mut self, column: &ArrayRef) -> Result<Vec<u32>> {
        let column = column
            .as_dictionary_opt::<Int32Type>()
            .ok_or_else(|| exec_datafusion_err!("a column was not read as a dictionary: {}", column.data_type()))?;
        let entries = self.entries(column);
        let null = if column.null_count() > 0 { self.code_of_null() } else { NONE };
        let (keys, known) = (column.keys(), entries.as_slice());
        let code = move |key: &i32| usize::try_from(*key).ok().and_then(|key| known.get(key)).copied().unwrap_or(null);
        let codes = if keys.null_count() == 0 {
            keys.values().iter().map(code).collect()
        } else {
            keys.iter().map(|key| key.as_ref().map_or(null, code)).collect()
        };
        self.last = Some((column.values().to_data(), entries));
        Ok(codes)
    }

    /// The codes of a dictionary's entries. Batches of one row group share a dictionary.
    fn entries(&mut self, column: &DictionaryArray<Int32Type>) -> Vec<u32> {
        let data = column.values().to_data();
        if let Some((last, entries)) = self.last.take()
            && last.ptr_eq(&data)
        {
            return entries;
        }
        let texts = column.values().as_string::<i32>();
        let code = |text: Option<&str>| match text {
            Some(text) => self.code_of(text),
            None => self.code_of_null(),
        };
        texts.iter().map(code).collect()
    }

    fn code_of(&mut self, text: &str) -> u32 {
        if let Some(code) = self.codes.get(text) {
            return *code;
        }
        let text: Arc<str> = text.into();
        self.values.push(Some(Arc::clone(&text)));
        self.size_bytes += text.len() + 2 * size_of::<(Arc<str>, u32)>();
        let code = last_of(&self.values);
        self.codes.insert(text, code);
        code
    }

    fn code_of_null(&mut self) -> u32 {
        *self.null.get_or_insert_with(|| {
            self.values.push(None);
            last_of(&self.values)
        })
    }
}

/// The code of the value that was added last. A state is given up long before codes run out: [`NONE`] is none.
fn last_of<T>(values: &[T]) -> u32 {
    u32::try_from(values.len() - 1).unwrap_or(NONE)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, StringViewArray, TimestampMicrosecondArray};
    use arrow::datatypes::TimeUnit;

    use super::*;

    /// Codes of several columns in turn, and what they stand for.
    #[track_caller]
    fn check(coder: &mut Coder, columns: &[ArrayRef], plain: &DataType, codes: &[&[u32]]) {
        for (column, codes) in columns.iter().zip(codes) {
            let found = coder.encode(column).expect("a column of the type");
            assert_eq!(&found, codes);
            let values = coder.values(&found, plain).expect("values");
            assert_eq!(&values, &cast(column, plain).expect("the plain type"));
        }
    }

    #[test]
    fn dates_have_codes_in_the_order_of_their_coming() {
        let dates = |days: &[Option<i32>]| Arc::new(Date32Array::from(days.to_vec())) as ArrayRef;
        check(
            &mut Coder::new(&DataType::Date32),
            &[
                dates(&[Some(9000), Some(9002), Some(9000)]),
                dates(&[None, Some(8999), Some(9001)]),
                dates(&[Some(i32::MAX), Some(i32::MIN), Some(9002), None, Some(8999)]),
            ],
            &DataType::Date32,
            &[&[0, 1, 0], &[2, 3, 4], &[5, 6, 1, 2, 3]],
        );
    }

    #[test]
    fn a_window_grows_to_both_sides_and_is_given_up() {
        let mut integers = Integers::default();
        let mut expected: HashMap<i64, u32> = HashMap::new();
        let mut value = 5_i64;
        for step in 0..40_000_i64 {
            // Near ones on both sides, then far ones.
            value =
                if step < 30_000 { (value * 31 + step) % 60_000 - 30_000 } else { value.wrapping_mul(6_364_136_223) };
            let next = u32::try_from(expected.len()).expect("few");
            let code = *expected.entry(value).or_insert(next);
            assert_eq!(integers.code_of(value), code, "{value}");
        }
        assert!(matches!(integers.codes, IntegerCodes::Far(_)), "no far value was met");
        for (value, code) in expected {
            assert_eq!(integers.code_of(value), code, "{value}");
        }
        assert_ne!(integers.code_of(i64::MIN), integers.code_of(i64::MAX));
    }

    #[test]
    fn a_falling_column_does_not_move_the_window_each_time() {
        let mut integers = Integers::default();
        for (value, code) in (i64::MIN..i64::MIN + 100_000).rev().zip(0..) {
            assert_eq!(integers.code_of(value), code);
        }
        let IntegerCodes::Near { codes, .. } = &integers.codes else { panic!("far apart") };
        assert!(codes.len() <= 1 << 17);
        assert_eq!(integers.code_of(i64::MIN), 99_999);
    }

    #[test]
    fn times_are_whole_numbers() {
        let times = TimestampMicrosecondArray::from(vec![Some(7), None, Some(-3), Some(7)]);
        let times: ArrayRef = Arc::new(times.with_timezone("+00:00"));
        let data_type = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
        check(&mut Coder::new(&data_type), &[times], &data_type, &[&[0, 1, 2, 0]]);
    }

    #[test]
    fn texts_of_several_dictionaries_share_codes() {
        let column = |texts: &[Option<&str>]| {
            let column: DictionaryArray<Int32Type> = texts.iter().copied().collect();
            Arc::new(column) as ArrayRef
        };
        let first = column(&[Some("AIR"), Some("RAIL"), Some("AIR")]);
        let slice = first.slice(1, 2);
        check(
            &mut Coder::new(first.data_type()),
            &[first, column(&[Some("RAIL"), None, Some("")]), slice],
            &DataType::Utf8View,
            &[&[0, 1, 0], &[1, 3, 2], &[1, 0]],
        );
        let views: ArrayRef = Arc::new(StringViewArray::from(vec!["a"]));
        assert!(Coder::Texts(Texts::default()).encode(&views).is_err());
    }
}
