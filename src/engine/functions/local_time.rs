//! `local_time(x, 'Zone/Name')`: any time value as wall clock of an IANA zone.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, TimestampMicrosecondArray};
use arrow::datatypes::{
    DataType, Field, FieldRef, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use chrono::{DateTime, Offset as _, TimeZone as _};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, internal_err, plan_err};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::utc_time::{map_value, utc_array, utc_type};
use crate::time::Zone;

const MICROS_PER_SECOND: i64 = 1_000_000;

/// The scalar function.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct LocalTime {
    signature: Signature,
}

impl LocalTime {
    pub(super) fn new() -> Self {
        Self { signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for LocalTime {
    fn name(&self) -> &'static str {
        "local_time"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        internal_err!("local_time derives its type from its arguments")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let ([time, _], [_, zone]) = (args.arg_fields, args.scalar_arguments) else {
            return plan_err!("local_time takes two arguments, {} were given", args.arg_fields.len());
        };
        utc_type(time.data_type())?;
        zone_of(*zone)?;
        Ok(Arc::new(Field::new(self.name(), DataType::Timestamp(TimeUnit::Microsecond, None), true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [time, ColumnarValue::Scalar(zone)] = args.args.as_slice() else {
            return plan_err!("the zone of local_time is not a literal");
        };
        let zone = zone_of(Some(zone))?;
        map_value(time, |times| {
            let instants = microseconds(&utc_array(times)?)?;
            Ok(if is_utc(zone) { Arc::new(instants) } else { Arc::new(ZoneOffsets::of(zone).localize(&instants)) })
        })
    }

    /// In UTC the call vanishes from a column that already holds microseconds without zone.
    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        if let [time, Expr::Literal(zone, _)] = args.as_slice()
            && is_utc(zone_of(Some(zone))?)
            && info.get_data_type(time)? == DataType::Timestamp(TimeUnit::Microsecond, None)
        {
            return Ok(ExprSimplifyResult::Simplified(time.clone()));
        }
        Ok(ExprSimplifyResult::Original(args))
    }
}

fn zone_of(argument: Option<&ScalarValue>) -> Result<Zone> {
    let Some(Some(Some(name))) = argument.map(ScalarValue::try_as_str) else {
        return plan_err!("the zone of local_time is not a literal");
    };
    match Zone::from_str_insensitive(name) {
        Ok(zone) => Ok(zone),
        Err(_) => plan_err!("time zone \"{name}\" not recognized"),
    }
}

fn is_utc(zone: Zone) -> bool {
    use chrono_tz::Etc;
    matches!(
        zone,
        Zone::UTC | Zone::UCT | Zone::Zulu | Zone::Universal | Etc::UTC | Etc::UCT | Etc::Zulu | Etc::Universal
    )
}

/// Timestamps of any unit as microseconds, rounded down.
fn microseconds(array: &ArrayRef) -> Result<TimestampMicrosecondArray> {
    let scale = |factor: i64| {
        move |value: i64| value.checked_mul(factor).ok_or_else(|| exec_datafusion_err!("timestamp out of range"))
    };
    match array.data_type() {
        DataType::Timestamp(TimeUnit::Second, None) => {
            array.as_primitive::<TimestampSecondType>().try_unary(scale(MICROS_PER_SECOND))
        }
        DataType::Timestamp(TimeUnit::Millisecond, None) => {
            array.as_primitive::<TimestampMillisecondType>().try_unary(scale(1_000))
        }
        DataType::Timestamp(TimeUnit::Microsecond, None) => {
            Ok(array.as_primitive::<TimestampMicrosecondType>().clone())
        }
        DataType::Timestamp(TimeUnit::Nanosecond, None) => {
            Ok(array.as_primitive::<TimestampNanosecondType>().unary(|value| value.div_euclid(1_000)))
        }
        other => internal_err!("expected a timestamp without zone, got {other}"),
    }
}

/// A stretch of time with one offset from UTC; all three in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: i64,
    end: i64,
    offset: i64,
}

/// The offsets of a zone from [`ZoneOffsets::FIRST`] to [`ZoneOffsets::LAST`]; instants outside are looked up
/// one by one.
#[derive(Debug)]
struct ZoneOffsets {
    zone: Zone,
    spans: Vec<Span>,
}

impl ZoneOffsets {
    /// 1970-01-01, in seconds.
    const FIRST: i64 = 0;
    /// 2100-01-01, in seconds. Here the time zone database ends.
    const LAST: i64 = 4_102_444_800;
    /// Two days. Offsets at both ends of a step tell whether one changes inside, because no zone changes
    /// twice in less than four days (the least in the time zone database, Freetown in 1939).
    const STEP: i64 = 2 * 86_400;

    /// The table of a zone, made once a process.
    fn of(zone: Zone) -> Arc<Self> {
        static TABLES: LazyLock<Mutex<HashMap<Zone, Arc<ZoneOffsets>>>> = LazyLock::new(Mutex::default);
        // At most one small table a zone name, of which there are 600. A second thread that wants a new zone
        // waits for the table instead of making it again.
        let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(tables.entry(zone).or_insert_with(|| Arc::new(Self::new(zone))))
    }

    fn new(zone: Zone) -> Self {
        let offset_at = |second: i64| offset_micros(zone, second.saturating_mul(MICROS_PER_SECOND));
        let mut spans = Vec::new();
        let (mut start, mut offset) = (Self::FIRST, offset_at(Self::FIRST));
        let mut close = |start: i64, end: i64, offset: i64| {
            spans.push(Span { start: start * MICROS_PER_SECOND, end: end * MICROS_PER_SECOND, offset });
        };
        let mut second = Self::FIRST;
        while second < Self::LAST {
            let next = (second + Self::STEP).min(Self::LAST);
            let next_offset = offset_at(next);
            if next_offset != offset {
                let (mut before, mut after) = (second, next);
                while after - before > 1 {
                    let middle = before + (after - before) / 2;
                    if offset_at(middle) == offset { before = middle } else { after = middle }
                }
                close(start, after, offset);
                (start, offset) = (after, next_offset);
            }
            second = next;
        }
        close(start, Self::LAST, offset);
        Self { zone, spans }
    }

    fn find(&self, instant: i64) -> Span {
        let index = self.spans.partition_point(|span| span.end <= instant);
        match self.spans.get(index) {
            Some(span) if span.start <= instant => *span,
            _ => Span { start: instant, end: instant.saturating_add(1), offset: offset_micros(self.zone, instant) },
        }
    }

    /// Wall clock of instants. Neighbouring rows mostly share a span, so the last one is tried first.
    fn localize(&self, instants: &TimestampMicrosecondArray) -> TimestampMicrosecondArray {
        let mut last = Span { start: i64::MAX, end: i64::MIN, offset: 0 };
        let mut locals = Vec::with_capacity(instants.len());
        locals.extend(instants.values().iter().map(|instant| {
            if !(last.start <= *instant && *instant < last.end) {
                last = self.find(*instant);
            }
            instant.saturating_add(last.offset)
        }));
        TimestampMicrosecondArray::new(locals.into(), instants.nulls().cloned())
    }
}

/// Offset of local time from UTC at an instant; zero beyond the years that can be represented.
fn offset_micros(zone: Zone, instant: i64) -> i64 {
    DateTime::from_timestamp_micros(instant).map_or(0, |time| {
        i64::from(zone.offset_from_utc_datetime(&time.naive_utc()).fix().local_minus_utc()) * MICROS_PER_SECOND
    })
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDateTime;

    use super::*;
    use crate::engine::testing::{engine, rows};

    fn run(sql: &str) -> Result<Vec<String>, String> {
        let catalog = Arc::new(datafusion::catalog::memory::MemoryCatalogProvider::new());
        let found = tokio::runtime::Runtime::new().unwrap().block_on(rows(&engine(), sql, catalog));
        found.map_err(|error| error.to_string())
    }

    #[track_caller]
    fn check(time: &str, zone: &str, expected: &str) {
        let found = run(&format!("SELECT local_time({time}, '{zone}')"));
        assert_eq!(found, Ok(vec![expected.to_owned()]), "{time} in {zone}");
    }

    #[test]
    fn wall_clock_follows_the_rules_of_the_zone() {
        check("TIMESTAMP '2024-03-31 00:59:59'", "Europe/Berlin", "2024-03-31T01:59:59");
        check("TIMESTAMP '2024-03-31 01:00:00'", "Europe/Berlin", "2024-03-31T03:00:00");
        check("TIMESTAMP '2024-10-27 00:30:00'", "Europe/Berlin", "2024-10-27T02:30:00");
        check("TIMESTAMP '2024-10-27 01:30:00'", "Europe/Berlin", "2024-10-27T02:30:00");
        check("TIMESTAMP '1900-01-01 00:00:00'", "Europe/Berlin", "1900-01-01T01:00:00");
        check("TIMESTAMP '1969-12-31 23:59:59.999999'", "America/Los_Angeles", "1969-12-31T15:59:59.999999");
        check("TIMESTAMP '2024-01-01 00:00:00'", "Asia/Kolkata", "2024-01-01T05:30:00");
        check("TIMESTAMP '2150-07-01 00:00:00'", "Asia/Tokyo", "2150-07-01T09:00:00");
        check("'2024-01-01T00:00:00+03:00'", "UTC", "2023-12-31T21:00:00");
        check("'2024-01-01T00:00:00+03:00'::timestamptz", "asia/tokyo", "2024-01-01T06:00:00");
        check("DATE '2024-01-01'", "America/New_York", "2023-12-31T19:00:00");
        check("'1969-12-31T23:59:59.999999999'::timestamp(9)", "UTC", "1969-12-31T23:59:59.999999");
        check("NULL", "Asia/Tokyo", "NULL");
        check("NULL::timestamp", "UTC", "NULL");
    }

    #[test]
    fn zones_are_checked_when_planning() {
        assert_eq!(run("SELECT local_time(now(), 'Nowhere')"), Err("time zone \"Nowhere\" not recognized".into()));
        let error = run("SELECT local_time(now(), z) FROM (VALUES ('UTC')) AS v(z)");
        assert_eq!(error, Err("the zone of local_time is not a literal".into()));
        assert_eq!(run("SELECT local_time(1, 'UTC')"), Err("a value of type Int64 is not a time".into()));
    }

    #[test]
    fn the_table_agrees_with_the_rules_around_every_change() {
        for zone in ["Europe/Berlin", "America/Sao_Paulo", "Africa/Casablanca", "Pacific/Apia", "Asia/Gaza", "UTC"] {
            let zone: Zone = zone.parse().unwrap();
            let table = ZoneOffsets::new(zone);
            assert_eq!(table.spans[0].start, ZoneOffsets::FIRST * MICROS_PER_SECOND);
            assert_eq!(table.spans.last().unwrap().end, ZoneOffsets::LAST * MICROS_PER_SECOND);
            for pair in table.spans.windows(2) {
                assert_eq!(pair[0].end, pair[1].start);
                assert_ne!(pair[0].offset, pair[1].offset);
                for instant in [pair[1].start - 1, pair[1].start, pair[1].start + 1] {
                    assert_eq!(table.find(instant).offset, offset_micros(zone, instant), "{zone} {instant}");
                }
            }
        }
    }

    #[test]
    fn arrays_in_any_order_equal_rows_one_by_one() {
        let zone: Zone = "America/New_York".parse().unwrap();
        let instants: Vec<Option<i64>> = (0..500_i64)
            .map(|n| {
                (n % 7 != 0).then(|| n * 7_919 * 1_000_003 * 1_000 % 6_000_000_000_000_000 - 1_000_000_000_000_000)
            })
            .collect();
        let array = TimestampMicrosecondArray::from(instants.clone());
        let locals = ZoneOffsets::of(zone).localize(&array);
        let expected = instants.iter().map(|instant| {
            let utc: NaiveDateTime = DateTime::from_timestamp_micros((*instant)?)?.naive_utc();
            Some(zone.from_utc_datetime(&utc).naive_local().and_utc().timestamp_micros())
        });
        assert_eq!(locals.iter().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        let extreme = TimestampMicrosecondArray::from(vec![i64::MAX, i64::MIN]);
        assert_eq!(ZoneOffsets::of(zone).localize(&extreme).len(), 2);
    }
}
