//! Buckets of any calendar length: `time_bucket` truncates, `time_series` lists.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListBuilder, TimestampMicrosecondArray, TimestampMicrosecondBuilder};
use arrow::datatypes::{DataType, Field, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::utc_time::map_value;
use crate::time::{Bins, Interval, from_micros, to_micros};

/// Buckets that one series may have.
const MAX_BUCKETS: usize = 1_000_000;

const MICROSECONDS: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

/// `time_bucket(t, months, micros, origin)`: the start of the bucket that holds `t`, a timestamp without zone. Length
/// and origin are whole numbers: months and microseconds, and microseconds since 1970. `time_bucket_end` is the
/// bucket's last millisecond.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct TimeBucket {
    signature: Signature,
    end: bool,
}

impl TimeBucket {
    pub(super) fn start() -> Self {
        Self::new(false)
    }

    pub(super) fn end() -> Self {
        Self::new(true)
    }

    fn new(end: bool) -> Self {
        let arguments = vec![MICROSECONDS, DataType::Int64, DataType::Int64, DataType::Int64];
        Self { signature: Signature::exact(arguments, Volatility::Immutable), end }
    }
}

impl ScalarUDFImpl for TimeBucket {
    fn name(&self) -> &'static str {
        if self.end { "time_bucket_end" } else { "time_bucket" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(MICROSECONDS)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [time, length @ ..] = args.args.as_slice() else { return plan_err!("time_bucket takes four arguments") };
        let bins = bins_of(length)?;
        map_value(time, |times| Ok(Arc::new(bucket(times.as_primitive(), bins, self.end)) as ArrayRef))
    }
}

/// Neighbouring rows mostly share a bucket, so the last one is tried first.
fn bucket(times: &TimestampMicrosecondArray, bins: Bins, last: bool) -> TimestampMicrosecondArray {
    let (mut start, mut end) = (i64::MAX, i64::MIN);
    let mut buckets = Vec::with_capacity(times.len());
    buckets.extend(times.values().iter().map(|time| {
        if !(start <= *time && *time < end) {
            let local = from_micros(*time);
            (start, end) = (to_micros(bins.truncate(local)), to_micros(bins.next(local)));
        }
        if last { end - 1000 } else { start }
    }));
    TimestampMicrosecondArray::new(buckets.into(), times.nulls().cloned())
}

/// The last three arguments, which must be literals.
fn bins_of(arguments: &[ColumnarValue]) -> Result<Bins> {
    let literal = |argument: &ColumnarValue| match argument {
        ColumnarValue::Scalar(ScalarValue::Int64(Some(value))) => Some(*value),
        _ => None,
    };
    let literals: Option<Vec<i64>> = arguments.iter().map(literal).collect();
    match literals.as_deref() {
        Some(&[months, micros, origin]) if Interval { months, micros }.approximate_micros() > 0 => {
            Ok(Bins { step: Interval { months, micros }, origin })
        }
        _ => plan_err!("a bucket's length and origin must be whole numbers, the length greater than nothing"),
    }
}

/// `time_series(first, last, months, micros, origin)`: the starts of all buckets from the one that holds `first` to
/// the one that holds `last`, as a list; empty when either is null or `last` comes first.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct TimeSeries {
    signature: Signature,
}

impl TimeSeries {
    pub(super) fn new() -> Self {
        let arguments = vec![MICROSECONDS, MICROSECONDS, DataType::Int64, DataType::Int64, DataType::Int64];
        Self { signature: Signature::exact(arguments, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for TimeSeries {
    fn name(&self) -> &'static str {
        "time_series"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(Arc::new(Field::new_list_field(MICROSECONDS, true))))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [first, last, length @ ..] = args.args.as_slice() else {
            return plan_err!("time_series takes five arguments");
        };
        let bins = bins_of(length)?;
        let (first, last) = (first.to_array(args.number_rows)?, last.to_array(args.number_rows)?);
        let (first, last) =
            (first.as_primitive::<TimestampMicrosecondType>(), last.as_primitive::<TimestampMicrosecondType>());
        let mut lists = ListBuilder::new(TimestampMicrosecondBuilder::new());
        for row in 0..args.number_rows {
            if first.is_valid(row) && last.is_valid(row) {
                append_series(lists.values(), first.value(row), last.value(row), bins)?;
            }
            lists.append(true);
        }
        Ok(ColumnarValue::Array(Arc::new(lists.finish())))
    }
}

fn append_series(series: &mut TimestampMicrosecondBuilder, first: i64, last: i64, bins: Bins) -> Result<()> {
    let mut at = bins.truncate(from_micros(first));
    let mut count = 0;
    while to_micros(at) <= last && first <= last {
        count += 1;
        if count > MAX_BUCKETS {
            return exec_err!("the date range has more than {MAX_BUCKETS} buckets; ask for a shorter range");
        }
        series.append_value(to_micros(at));
        let next = bins.next(at);
        if next <= at {
            break;
        }
        at = next;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{engine, rows};

    #[track_caller]
    fn check(expression: &str, expected: &[&str]) {
        let catalog = Arc::new(datafusion::catalog::memory::MemoryCatalogProvider::new());
        let sql = format!("SELECT {expression}");
        let found = tokio::runtime::Runtime::new().unwrap().block_on(rows(&engine(), &sql, catalog));
        assert_eq!(found, Ok(expected.iter().map(|row| (*row).to_owned()).collect()), "{expression}");
    }

    #[test]
    fn times_fall_into_buckets() {
        check("time_bucket(TIMESTAMP '2025-03-31 12:00:00', 12, 0, 1711929600000000)", &["2024-04-01T00:00:00"]);
        check("time_bucket(TIMESTAMP '2024-01-01 00:44:59', 0, 900000000, 0)", &["2024-01-01T00:30:00"]);
        check("time_bucket(NULL, 1, 0, 0)", &["NULL"]);
        check(
            "time_bucket(t, 0, 604800000000, 345600000000) FROM (VALUES (TIMESTAMP '2024-01-07'), \
             (TIMESTAMP '2024-01-08'), (CAST(NULL AS TIMESTAMP))) AS v(t)",
            &["2024-01-01T00:00:00", "2024-01-08T00:00:00", "NULL"],
        );
    }

    #[test]
    fn buckets_end_with_their_last_millisecond() {
        check("time_bucket_end(TIMESTAMP '2024-02-10', 1, 0, 0)", &["2024-02-29T23:59:59.999"]);
    }

    #[test]
    fn series_list_every_bucket() {
        let unnest = |first: &str, last: &str| {
            format!("unnest(time_series(TIMESTAMP '{first}', TIMESTAMP '{last}', 1, 0, 0)) AS s ORDER BY s")
        };
        check(
            &unnest("2023-12-05", "2024-02-01"),
            &["2023-12-01T00:00:00", "2024-01-01T00:00:00", "2024-02-01T00:00:00"],
        );
        check(&unnest("2024-02-29", "2024-02-01"), &[]);
        check("cardinality(time_series(NULL, TIMESTAMP '2024-01-01', 1, 0, 0))", &["0"]);
    }
}
