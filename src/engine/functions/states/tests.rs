//! Laws of states: order and steps do not matter, nothing is lost, damage is an error.

use std::collections::BTreeSet;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array,
    RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::Int64Type;
use datafusion::datasource::MemTable;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::engine::EngineError;
use crate::engine::partition_table::single_table_catalog;
use crate::engine::testing::{engine, rows};

fn state_of<S: State>(values: ArrayRef) -> S {
    let mut state = S::default();
    values::visit(&values, &mut |_, value| {
        state.add(value);
        Ok(())
    })
    .unwrap();
    state
}

fn encoded<S: State>(values: ArrayRef) -> Vec<u8> {
    state_of::<S>(values).encode()
}

fn merged<S: State>(parts: &[&[u8]]) -> S {
    let mut state = S::default();
    parts.iter().for_each(|part| state.merge(part).unwrap());
    state
}

fn count<S: State<Output = Int64Type>>(state: &S) -> i64 {
    state.finish(0.0).unwrap()
}

/// Columns of every type of value, with repetitions and nulls.
fn column(random: &mut ChaCha8Rng, rows: usize) -> ArrayRef {
    let spread = [3, 40, 5_000, i64::MAX][random.random_range(0..4)];
    let mut number = || (!random.random_bool(0.1)).then(|| random.random_range(-spread..=spread));
    let numbers: Vec<Option<i64>> = (0..rows).map(|_| number()).collect();
    let each = |number: &dyn Fn(i64) -> String| numbers.iter().map(|n| n.map(number)).collect::<StringArray>();
    match random.random_range(0..8) {
        0 | 1 => Arc::new(Int64Array::from(numbers)),
        2 => Arc::new(each(&|n| format!("user {n}"))),
        3 => Arc::new(each(&|n| if n % 7 == 0 { String::new() } else { format!("ü{}", n % 100) })),
        4 => {
            let digits: Decimal128Array = numbers.iter().map(|n| n.map(i128::from)).collect();
            Arc::new(digits.with_precision_and_scale(38, 2).unwrap())
        }
        5 => Arc::new(TimestampMicrosecondArray::from(numbers)),
        6 => Arc::new(numbers.iter().map(|n| n.map(|n| n % 2 == 0)).collect::<BooleanArray>()),
        #[expect(clippy::cast_precision_loss, reason = "any floats will do")]
        _ => Arc::new(numbers.iter().map(|n| n.map(|n| n as f64 / 8.0)).collect::<Float64Array>()),
    }
}

fn check_laws<S: State<Output = Int64Type>>(random: &mut ChaCha8Rng, same_bytes: bool) {
    let rows = random.random_range(0..600);
    let whole = column(random, rows);
    let (first, second) = (random.random_range(0..=rows), random.random_range(0..=rows));
    let (first, second) = (first.min(second), first.max(second));
    let [a, b, c] = [(0, first), (first, second), (second, rows)].map(|(from, to)| whole.slice(from, to - from));
    let [a, b, c]: [Vec<u8>; 3] = [a, b, c].map(encoded::<S>);
    let whole = state_of::<S>(whole);
    let expected = count(&whole);
    let left = merged::<S>(&[&a, &b]).encode();
    let right = merged::<S>(&[&b, &c]).encode();
    let ways: [S; 4] =
        [merged(&[&left, &c]), merged(&[&a, &right]), merged(&[&c, &b, &a]), merged(&[&c, &c, &b, &a, &b])];
    let whole = whole.encode();
    assert_eq!(S::finish_stored(&whole, 0.0), Ok(Some(expected)));
    for way in ways {
        assert_eq!(count(&way), expected);
        let way = way.encode();
        assert!(!same_bytes || way == whole, "equal sets have equal bytes");
    }
}

#[test]
fn states_merge_in_any_order_and_in_any_steps() {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    for _ in 0..300 {
        check_laws::<DistinctSet>(&mut random, true);
        check_laws::<Sketch>(&mut random, false);
    }
}

#[test]
fn nothing_and_nulls_count_nothing() {
    let nulls: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>; 3]));
    for values in [nulls, Arc::new(Int64Array::from(Vec::<i64>::new()))] {
        assert_eq!(count(&state_of::<DistinctSet>(Arc::clone(&values))), 0);
        assert_eq!(count(&state_of::<Sketch>(Arc::clone(&values))), 0);
        assert_eq!(count(&merged::<DistinctSet>(&[&encoded::<DistinctSet>(Arc::clone(&values))])), 0);
        assert_eq!(count(&merged::<Sketch>(&[&encoded::<Sketch>(values)])), 0);
    }
}

#[test]
fn sets_of_a_million_are_exact_and_small() {
    let ids: ArrayRef = Arc::new((0..1_000_000_i64).collect::<Int64Array>());
    let set = encoded::<DistinctSet>(ids);
    assert!(set.len() < 1_000, "{} bytes for a run", set.len());
    let mut random = ChaCha8Rng::seed_from_u64(6);
    let odd: Vec<i64> = (0..1_000_000).map(|_| random.random_range(0..4_000_000)).collect();
    let expected: BTreeSet<i64> = odd.iter().copied().collect();
    let parts: Vec<Vec<u8>> =
        odd.chunks(90_000).map(|part| encoded::<DistinctSet>(Arc::new(Int64Array::from(part.to_vec())))).collect();
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    let union = merged::<DistinctSet>(&parts);
    assert_eq!(count(&union), i64::try_from(expected.len()).unwrap());
    let bytes = union.encode().len();
    assert!(bytes < 600_000, "{bytes} bytes for {} of four million ids", expected.len());
    let names: ArrayRef = Arc::new((0..1_000_000).map(|n| Some(format!("user-{n:07}"))).collect::<StringArray>());
    let (head, tail) = (names.slice(0, 600_000), names.slice(400_000, 600_000));
    let union = merged::<DistinctSet>(&[&encoded::<DistinctSet>(head), &encoded::<DistinctSet>(tail)]);
    assert_eq!(count(&union), 1_000_000);
    let bytes = union.encode().len();
    assert!(bytes < 4_000_000, "{bytes} bytes for a million names of twelve letters");
}

#[test]
fn small_sets_take_few_bytes() {
    let size = |values: ArrayRef| encoded::<DistinctSet>(values).len();
    assert_eq!(size(Arc::new(Int64Array::from(vec![1000]))), 6);
    assert_eq!(size(Arc::new(Int64Array::from((1000..1032).collect::<Vec<i64>>()))), 37);
    assert_eq!(size(Arc::new(StringArray::from(vec!["Oslo", "Osaka", "Oslo"]))), 14);
    assert!(encoded::<Sketch>(Arc::new(Int64Array::from(vec![1, 2, 3]))).len() <= 20);
    let dense = encoded::<Sketch>(Arc::new((0..1_000_000_i64).collect::<Int64Array>())).len();
    assert!(dense < 8_600, "{dense} bytes of a full sketch");
}

/// The error stated in [`approx`], over many sets of many sizes.
#[test]
fn sketches_err_as_stated() {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let (mut trials, mut beyond_two, mut beyond_three, mut squares) = (0, 0, 0, 0.0);
    let standard = 1.04 / f64::from(1_u32 << 14).sqrt();
    for size in [100, 1_000, 10_000, 30_000, 50_000, 100_000, 300_000] {
        for _ in 0..12 {
            let start: i64 = random.random_range(0..i64::MAX / 2);
            let sketch = state_of::<Sketch>(Arc::new((start..start + size).collect::<Int64Array>()));
            #[expect(clippy::cast_precision_loss, reason = "counts of a test")]
            let error = (count(&sketch) - size) as f64 / size as f64;
            trials += 1;
            beyond_two += usize::from(error.abs() > 2.0 * standard);
            beyond_three += usize::from(error.abs() > 3.5 * standard);
            squares += error * error;
        }
    }
    assert_eq!(beyond_three, 0);
    assert!(beyond_two * 10 <= trials, "{beyond_two} of {trials} beyond two standard errors");
    let seen = (squares / f64::from(u32::try_from(trials).unwrap())).sqrt();
    assert!(seen < standard * 1.1, "root mean square {seen}, stated {standard}");
}

#[test]
fn counts_below_a_thousand_are_nearly_exact_in_a_sketch() {
    for size in [0_i64, 1, 2, 7, 8, 9, 100, 500, 1_000] {
        let sketch =
            state_of::<Sketch>(Arc::new((0..size).map(|n| Some(format!("value {n}"))).collect::<StringArray>()));
        assert!((count(&sketch) - size).abs() <= size / 500, "{size}: {}", count(&sketch));
    }
}

fn check_damage<S: State>(values: ArrayRef) {
    let content = encoded::<S>(values);
    let sealed = bytes::seal(1, S::PARAMETER, &content);
    let mut random = ChaCha8Rng::seed_from_u64(8);
    for _ in 0..400 {
        let mut broken = sealed.clone();
        let at = random.random_range(0..broken.len());
        broken[at] ^= 1 << random.random_range(0..8);
        assert!(bytes::open(1, S::PARAMETER, &broken).is_err());
    }
    assert!(bytes::open(2, S::PARAMETER, &sealed).is_err());
}

#[track_caller]
fn check_difference<S: State>(kind: Kind, one: Vec<i64>, other: Vec<i64>, expected: Option<[&str; 2]>) {
    let sealed =
        |numbers: Vec<i64>| bytes::seal(kind as u8, S::PARAMETER, &encoded::<S>(Arc::new(Int64Array::from(numbers))));
    let expected = Ok(expected.map(|told| told.map(str::to_owned)));
    assert_eq!(state_difference(&sealed(one), &sealed(other)), expected);
}

#[test]
fn states_are_compared_by_what_they_hold() {
    let shuffled = |count: i64| (0..count).map(|n| n * 7919 % 100_003).rev().collect::<Vec<_>>();
    let ordered = |count: i64| (0..count).map(|n| n * 7919 % 100_003).collect::<Vec<_>>();
    for count in [0, 1, 5, 40, 3_000, 60_000] {
        check_difference::<DistinctSet>(Kind::Distinct, shuffled(count), ordered(count), None);
        check_difference::<Sketch>(Kind::Approx, shuffled(count), ordered(count), None);
        check_difference::<Quantiles>(Kind::Quantiles, shuffled(count), ordered(count), None);
    }
    let told = Some(["2 different values", "3 different values"]);
    check_difference::<DistinctSet>(Kind::Distinct, vec![1, 2], vec![1, 2, 3], told);
    let told = Some(["2 different values", "2 different values, other ones"]);
    check_difference::<DistinctSet>(Kind::Distinct, vec![1, 2], vec![1, 3], told);
    let told = Some(["about 2 different values", "about 2 different values, other ones"]);
    check_difference::<Sketch>(Kind::Approx, vec![1, 2], vec![1, 3], told);
    check_difference::<Quantiles>(
        Kind::Quantiles,
        vec![1, 2, 3],
        vec![1, 3, 3],
        Some(["values around 2.0", "values around 3.0"]),
    );
    // How often a value occurs counts there.
    let told = Some(["values around 2.0", "values around 2.0, other ones"]);
    check_difference::<Quantiles>(Kind::Quantiles, vec![2], vec![2, 2], told);
    check_difference::<DistinctSet>(Kind::Distinct, vec![2], vec![2, 2], None);
    for nonsense in [&[][..], &[9, 9, 9, 9, 9, 9], &[1, 1, 0, 0, 0, 0, 5]] {
        assert!(state_difference(nonsense, nonsense).is_err());
    }
}

#[test]
fn damage_is_an_error() {
    check_damage::<DistinctSet>(Arc::new((0..5_000_i64).map(|n| n * n).collect::<Int64Array>()));
    check_damage::<DistinctSet>(Arc::new(StringArray::from(vec!["a", "b"])));
    check_damage::<Sketch>(Arc::new((0..5_000_i64).collect::<Int64Array>()));
}

/// Whoever gets past the checksum meets decoders that check all the same.
#[test]
fn decoders_of_sets_refuse_what_was_never_written() {
    let mut random = ChaCha8Rng::seed_from_u64(9);
    let good = [
        encoded::<DistinctSet>(Arc::new(StringArray::from(vec!["Oslo", "Osaka", "Rome"]))),
        encoded::<DistinctSet>(Arc::new((0..5_000_i64).map(|n| n * n).collect::<Int64Array>())),
        encoded::<DistinctSet>(Arc::new(Int64Array::from(vec![1, -5, 70_000]))),
    ];
    let mut refused = 0;
    for _ in 0..3_000 {
        let mut content = good[random.random_range(0..good.len())].clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..content.len());
            content[at] = random.random_range(0..=255);
        }
        content.truncate(random.random_range(0..=content.len()));
        refused += usize::from(DistinctSet::default().merge(&content).is_err());
    }
    assert!(refused > 2_000, "{refused}");
}

/// `SELECT …` over `g` and `x` in two partitions.
fn ask(sql: &str, x: &ArrayRef) -> Result<Vec<String>, EngineError> {
    let groups: ArrayRef = Arc::new((0..x.len()).map(|row| i64::try_from(row % 3).unwrap()).collect::<Int64Array>());
    let batch = RecordBatch::try_from_iter(vec![("g", groups), ("x", Arc::clone(x))]).unwrap();
    let middle = x.len() / 2;
    let halves = vec![vec![batch.slice(0, middle)], vec![batch.slice(middle, x.len() - middle)]];
    let catalog = single_table_catalog("t", Arc::new(MemTable::try_new(batch.schema(), halves).unwrap()));
    tokio::runtime::Runtime::new().unwrap().block_on(rows(&engine(), sql, catalog))
}

#[test]
fn counts_over_states_are_those_over_rows_for_every_type() {
    let decimals = Decimal128Array::from(vec![Some(100), Some(150), Some(100), None, Some(-1), Some(150), Some(7)]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![Some(1), Some(i64::MIN), Some(1), None, Some(-1), Some(2), Some(i64::MAX)])),
        Arc::new(StringArray::from(vec![Some("a"), Some(""), Some("a"), None, Some("ä"), Some("b"), Some("A")])),
        Arc::new(decimals.with_precision_and_scale(10, 2).unwrap()),
        Arc::new(TimestampMicrosecondArray::from(vec![Some(5), Some(0), Some(5), None, Some(-7), Some(0), Some(1)])),
        Arc::new(Date32Array::from(vec![Some(5), Some(0), Some(5), None, Some(-7), Some(0), Some(1)])),
        Arc::new(BooleanArray::from(vec![Some(true), None, Some(true), None, Some(false), Some(true), None])),
        Arc::new(Float64Array::from(vec![Some(0.5), Some(2.0), Some(0.5), None, Some(-2.0), Some(2.0), Some(1e99)])),
        Arc::new(BinaryArray::from(vec![Some(b"a".as_slice()), None, Some(b"b"), None, Some(b"a"), None, None])),
    ];
    for x in &columns {
        let found = |sql: &str| ask(sql, x).unwrap();
        let states = "(SELECT g, distinct_set(x) AS s, hll_sketch(x) AS h FROM t GROUP BY g) AS q";
        let whole = found("SELECT count(DISTINCT x) FROM t");
        assert_eq!(found(&format!("SELECT distinct_count(s) FROM {states}")), whole, "{}", x.data_type());
        assert_eq!(found(&format!("SELECT hll_count(h) FROM {states}")), whole, "{}", x.data_type());
        assert_eq!(found("SELECT approx_count_distinct(x) FROM t"), whole);
        let grouped = found("SELECT g, count(DISTINCT x) AS a, count(DISTINCT x) AS b FROM t GROUP BY g ORDER BY g");
        let read = format!("SELECT g, distinct_count(s), hll_count(h) FROM {states} GROUP BY g ORDER BY g");
        assert_eq!(found(&read), grouped);
        let twice = format!("SELECT distinct_union(s) AS s FROM {states} GROUP BY g > 0");
        assert_eq!(found(&format!("SELECT distinct_count(s) FROM ({twice}) AS r")), whole);
        assert_eq!(found(&format!("SELECT distinct_count(s) FROM {states} WHERE g > 7")), ["0"]);
        let some = "SELECT count(DISTINCT x) FILTER (WHERE g <> 1) FROM t";
        assert_eq!(found(&format!("SELECT distinct_count(s) FILTER (WHERE g <> 1) FROM {states}")), found(some));
    }
}

#[test]
fn percentiles_over_states_are_those_over_rows() {
    let decimals =
        Decimal128Array::from((0..999).map(|n| (n % 7 > 0).then_some(i128::from(n * n))).collect::<Vec<_>>());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![Some(4), Some(1), None, Some(3), Some(2)])),
        Arc::new(decimals.with_precision_and_scale(20, 3).unwrap()),
        Arc::new(Float64Array::from(vec![None, None, Some(0.5)])),
    ];
    for x in &columns {
        let found = |sql: &str| ask(sql, x).unwrap();
        let states = "(SELECT g, quantile_sketch(x) AS s FROM t GROUP BY g) AS q";
        for at in ["0.5", "0.9", "1"] {
            let whole = found(&format!("SELECT approx_quantile(x, {at}) FROM t"));
            assert_eq!(found(&format!("SELECT quantile_value(s, {at}) FROM {states}")), whole);
            let twice = format!("SELECT quantile_union(s) AS s FROM {states} GROUP BY g > 0");
            assert_eq!(found(&format!("SELECT quantile_value(s, {at}) FROM ({twice}) AS r")), whole);
            let grouped = found(&format!("SELECT g, approx_quantile(x, {at}) FROM t GROUP BY g ORDER BY g"));
            assert_eq!(
                found(&format!("SELECT g, quantile_value(s, {at}) FROM {states} GROUP BY g ORDER BY g")),
                grouped
            );
        }
    }
    // Few values: as an exact percentile.
    let exact = "SELECT percentile_cont(0.9) WITHIN GROUP (ORDER BY CAST(x AS DOUBLE)) FROM t";
    assert_eq!(ask("SELECT approx_quantile(x, 0.9) FROM t", &columns[0]), ask(exact, &columns[0]));
    let text = |sql: &str| ask(sql, &columns[0]).unwrap_err().to_string();
    assert!(text("SELECT approx_quantile(x, g) FROM t").contains("a constant from 0 to 1"));
    assert!(text("SELECT approx_quantile(x, 2) FROM t").contains("a constant from 0 to 1"));
    assert!(text("SELECT approx_quantile(x) FROM t").contains("takes two arguments"));
    assert!(text("SELECT quantile_sketch(CAST(x AS TEXT)) FROM t").contains("takes numbers, not values of type"));
}

#[test]
fn what_is_no_state_is_refused() {
    let x: ArrayRef = Arc::new(BinaryArray::from(vec![Some(b"a".as_slice()), Some(b"not a state")]));
    let text = |sql: &str, x: &ArrayRef| ask(sql, x).unwrap_err().to_string();
    assert!(text("SELECT distinct_count(x) FROM t", &x).contains("rebuild the partition"));
    assert!(text("SELECT hll_count(x) FROM t GROUP BY g", &x).contains("a stored state is damaged"));
    let crossed = "SELECT distinct_count(s) FROM (SELECT hll_sketch(x) AS s FROM t) AS q";
    assert!(text(crossed, &x).contains("distinct_count takes states distinct/1, not hll/14"), "{}", text(crossed, &x));
    let x: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    assert!(text("SELECT hll_union(x) FROM t", &x).contains("takes stored states, not values of type Int64"));
    assert!(text("SELECT hll_sketch(x, g) FROM t", &x).contains("takes one argument"));
}

#[test]
fn groups_are_emitted_in_parts_and_converted_with_filters() {
    let mut groups = Groups::<DistinctSet>::new(Kind::Distinct as u8, Input::Values, Output::Number, 0.0);
    let values: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3), Some(4)]));
    let filter = BooleanArray::from(vec![Some(true), Some(true), None, Some(true)]);
    groups.update_batch(&[Arc::clone(&values)], &[0, 1, 2, 0], Some(&filter), 3).unwrap();
    let counts = |array: ArrayRef| array.as_primitive::<Int64Type>().values().to_vec();
    assert_eq!(counts(groups.evaluate(datafusion::logical_expr::EmitTo::First(2)).unwrap()), [2, 0]);
    groups.update_batch(&[Arc::clone(&values)], &[0, 0, 1, 1], None, 2).unwrap();
    assert!(groups.size() > 0);
    let states = groups.state(datafusion::logical_expr::EmitTo::All).unwrap();
    groups.merge_batch(&states, &[0, 0], 1).unwrap();
    assert_eq!(counts(groups.evaluate(datafusion::logical_expr::EmitTo::All).unwrap()), [3]);
    let single = groups.convert_to_state(&[values], Some(&filter)).unwrap();
    assert_eq!(single[0].logical_nulls().unwrap().iter().collect::<Vec<_>>(), [true, false, false, true]);
}
