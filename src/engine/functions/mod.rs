//! Our SQL functions and the two planners that give the SQL of models PostgreSQL's meaning.
//!
//! | Name | Meaning |
//! |---|---|
//! | `exact_sum(x)` | sum that never rounds and never wraps |
//! | `exact_div(a, b)` | division of decimals to at least 16 digits after the point; the operator `/` of decimals |
//! | `exact_mul(a, b)` | product of decimals of long scales, rounded; the operator `*` where digits would not fit |
//! | `distinct_set(x)` … `hll_count(s)` | states of distinct counts and percentiles: see [`states`] |
//! | `url_part(x)` | a text as it stands in the query of an address |
//! | `utc_time(x)` | any time value as a UTC timestamp without zone |
//! | `local_time(x, zone)` | any time value as wall clock of an IANA zone, microseconds without zone |
//! | `time_bucket(t, months, micros, origin)` | the start of the bucket of that length that holds a time |
//! | `time_bucket_end(t, months, micros, origin)` | the last millisecond of that bucket |
//! | `time_series(first, last, months, micros, origin)` | the starts of all buckets between two times, as a list |

mod buckets;
mod decimal;
mod exact_sum;
mod local_time;
mod planners;
pub mod states;
mod url_part;
mod utc_time;

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

pub use planners::{DecimalPlanner, MicrosecondPlanner};

/// Every scalar function of ours.
pub fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    vec![
        decimal::exact_div(),
        decimal::exact_mul(),
        url_part::url_part(),
        Arc::new(ScalarUDF::new_from_impl(utc_time::UtcTime::new())),
        Arc::new(ScalarUDF::new_from_impl(local_time::LocalTime::new())),
        Arc::new(ScalarUDF::new_from_impl(buckets::TimeBucket::start())),
        Arc::new(ScalarUDF::new_from_impl(buckets::TimeBucket::end())),
        Arc::new(ScalarUDF::new_from_impl(buckets::TimeSeries::new())),
    ]
}

/// Every aggregate function of ours.
pub fn aggregate_functions() -> Vec<Arc<AggregateUDF>> {
    let mut all = states::functions();
    all.push(Arc::new(AggregateUDF::new_from_impl(exact_sum::ExactSum::new())));
    all
}
