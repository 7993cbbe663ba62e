//! Measures stored as states (`pre-aggregations.md` §4.7, G1, G2): rollups answer every coarser question as the source
//! does, for every type of value, over partitions that were built apart.

use std::fs::File;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray};
use arrow::datatypes::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::events::selector;
use crate::server::{Project, Server};
use crate::tables::{DAY, SECOND, micros, timestamps, write_table};

const ROWS: usize = 60_000;

/// One `count_distinct` a type of column, and what the truth table asks of them (its rollup B).
const MODEL: &str = r#"
cubes:
  - name: visits
    sql_table: visits
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: status, sql: status, type: string}
      - {name: city, sql: city, type: string}
      - {name: at, sql: at, type: time}
    measures:
      - {name: count, type: count}
      - {name: buyers, sql: user_id, type: count_distinct}
      - {name: about, sql: user_id, type: count_distinct_approx}
      - {name: names, sql: name, type: count_distinct}
      - {name: names_about, sql: name, type: count_distinct_approx}
      - {name: prices, sql: price, type: count_distinct}
      - {name: weights, sql: weight, type: count_distinct}
      - {name: days, sql: day, type: count_distinct}
      - {name: moments, sql: at, type: count_distinct}
      - {name: flags, sql: flag, type: count_distinct}
      - {name: nothing, sql: nothing, type: count_distinct}
      - {name: paid_buyers, sql: user_id, type: count_distinct, filters: [{sql: "{CUBE}.status = 'paid'"}]}
      - {name: paid_about, sql: user_id, type: count_distinct_approx, filters: [{sql: "{CUBE}.status = 'paid'"}]}
      - {name: avg_amt, sql: price, type: avg}
      - {name: per_buyer, sql: "{count} * 1.0 / NULLIF({buyers}, 0)", type: number}
      - {name: above_mean, sql: "{avg_amt} * 2 - {paid_buyers}", type: number}
      - {name: p90, sql: "percentile_cont(0.9) WITHIN GROUP (ORDER BY {CUBE}.weight)", type: number}
      - {name: about_p90, sql: "approx_percentile_cont({CUBE}.weight, 0.9)", type: number}
      - {name: about_median, sql: "approx_median(price)", type: number_agg}
      - {name: about_p10, sql: "approx_percentile_cont(0.1) WITHIN GROUP (ORDER BY price)", type: number}
      - {name: buyers_of_week, sql: user_id, type: count_distinct, rolling_window: {trailing: 1 week}}
      - {name: about_of_week, sql: user_id, type: count_distinct_approx, rolling_window: {trailing: 1 week}}
      - {name: mean_of_week, sql: price, type: avg, rolling_window: {trailing: 1 week}}
    pre_aggregations:
      - name: b
        measures:
          [count, buyers, about, names, names_about, prices, weights, days, moments, flags, nothing, paid_buyers,
           paid_about, avg_amt, p90, about_p90, about_median, about_p10, buyers_of_week, about_of_week, mean_of_week]
        dimensions: [status, city]
        time_dimension: at
        granularity: day
        partition_granularity: month
views:
  - name: shown
    cubes:
      - {join_path: visits, includes: [buyers, about, avg_amt, per_buyer, status, at]}
"#;

const EXACT: [&str; 10] =
    ["buyers", "names", "prices", "weights", "days", "moments", "flags", "nothing", "paid_buyers", "avg_amt"];

fn write_visits(project: &Project) {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let mut column = |nulls: f64, most: i64| -> Vec<Option<i64>> {
        (0..ROWS).map(|_| (!random.random_bool(nulls)).then(|| random.random_range(0..most))).collect()
    };
    let words = |numbers: Vec<Option<i64>>, word: &dyn Fn(i64) -> String| -> ArrayRef {
        Arc::new(numbers.into_iter().map(|n| n.map(word)).collect::<StringArray>())
    };
    let start = micros("2024-01-01");
    let times = column(0.0, 366 * DAY / SECOND).into_iter().map(|n| n.map(|n| start + n * SECOND)).collect();
    let price: Decimal128Array = column(0.05, 3_000).into_iter().map(|n| n.map(|n| i128::from(n) - 500)).collect();
    #[expect(clippy::cast_precision_loss, reason = "small numbers of a test")]
    let weights: Float64Array = column(0.05, 900).into_iter().map(|n| n.map(|n| (n - 300) as f64 / 16.0)).collect();
    let days: Date32Array =
        column(0.05, 700).into_iter().map(|n| n.map(|n| i32::try_from(n).expect("a few days") - 100)).collect();
    let flags: BooleanArray = column(0.3, 2).into_iter().map(|n| n.map(|n| n == 1)).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new((0..i64::try_from(ROWS).expect("few rows")).collect::<Int64Array>())),
        (
            "status",
            words(column(0.1, 3), &|n| ["paid", "new", "lost"][usize::try_from(n).expect("0, 1, 2")].to_owned()),
        ),
        ("city", words(column(0.1, 5), &|n| format!("city {n}"))),
        ("at", timestamps(times)),
        ("user_id", Arc::new(Int64Array::from(column(0.05, 40_000)))),
        ("name", words(column(0.05, 20_000), &|n| format!("Ünal {}", n * 7919 % 20_011))),
        ("price", Arc::new(price.with_precision_and_scale(12, 2).expect("12 digits are enough"))),
        ("weight", Arc::new(weights)),
        ("day", Arc::new(days)),
        ("flag", Arc::new(flags)),
        ("nothing", Arc::new(StringArray::from(vec![None::<&str>; ROWS]))),
    ];
    write_table(project.path(), "visits", columns);
}

/// A question by granularity (if any), dimensions and more.
fn question(measures: &[&str], granularity: Option<&str>, dimensions: &[&str], more: &Value) -> Value {
    let all = |names: &[&str]| names.iter().map(|name| json!(format!("visits.{name}"))).collect::<Vec<_>>();
    let mut query = json!({"measures": all(measures), "dimensions": all(dimensions)});
    if let Some(granularity) = granularity {
        query["timeDimensions"] = json!([{"dimension": "visits.at", "granularity": granularity}]);
    }
    for (key, value) in more.as_object().into_iter().flatten() {
        query[key] = value.clone();
    }
    query
}

fn filter(member: &str, values: &[&str]) -> Value {
    json!({"filters": [{"member": format!("visits.{member}"), "operator": "equals", "values": values}]})
}

/// Questions that the rollup answers.
fn served() -> Vec<Value> {
    let none = json!({});
    let year = json!({"timeDimensions": [{"dimension": "visits.at", "dateRange": ["2024-01-01", "2024-12-31"]}]});
    let half = json!({"timeDimensions": [{"dimension": "visits.at", "dateRange": ["2024-02-10", "2024-07-03"]}]});
    let weeks = json!({"timeDimensions": [
        {"dimension": "visits.at", "granularity": "day", "dateRange": ["2024-02-20", "2024-03-10"]}]});
    let above = json!({"filters": [{"member": "visits.buyers", "operator": "gt", "values": ["2500"]}]});
    let distinct: Vec<&str> = EXACT.into_iter().chain(["about", "names_about", "paid_about", "per_buyer"]).collect();
    vec![
        // Rows 20 to 26 of the truth table, and 6.
        question(&["buyers"], Some("day"), &["status", "city"], &none),
        question(&["buyers", "avg_amt"], Some("day"), &[], &none),
        question(&["buyers"], Some("month"), &["status"], &none),
        question(&["buyers"], Some("day"), &["city"], &filter("status", &["paid"])),
        question(&["buyers"], Some("day"), &[], &filter("status", &["paid", "new"])),
        question(&["buyers"], Some("day"), &["status", "city"], &filter("status", &["paid", "new"])),
        question(&["buyers"], None, &["status"], &year),
        question(&["about"], Some("month"), &[], &none),
        // Every type, at every coarser grouping.
        question(&distinct, None, &[], &none),
        question(&distinct, None, &["status"], &half),
        question(&distinct, Some("week"), &[], &none),
        question(&distinct, Some("quarter"), &["city"], &none),
        question(&distinct, Some("year"), &[], &filter("city", &["city 1", "city 4"])),
        question(&["buyers", "about"], None, &[], &filter("city", &["nowhere"])),
        question(&["count"], Some("month"), &[], &above),
        question(&["per_buyer", "above_mean"], Some("month"), &["status"], &none),
        question(&["p90"], Some("day"), &["status", "city"], &none),
        question(&["about_p90", "about_median", "about_p10"], None, &[], &none),
        question(&["about_p90", "about_median"], Some("week"), &["status"], &half),
        question(&["about_p10"], None, &["city"], &filter("status", &["nowhere"])),
        question(&["buyers_of_week", "about_of_week", "mean_of_week"], None, &["status"], &weeks),
        question(&["buyers_of_week", "buyers"], None, &[], &weeks),
        json!({"measures": ["shown.buyers", "shown.about", "shown.avg_amt", "shown.per_buyer"],
            "dimensions": ["shown.status"], "timeDimensions": [{"dimension": "shown.at", "granularity": "month"}]}),
    ]
}

fn sorted(answer: &Value) -> Vec<String> {
    let mut rows: Vec<String> = answer["data"].as_array().expect("rows").iter().map(Value::to_string).collect();
    rows.sort();
    rows
}

#[test]
fn states_answer_every_coarser_question_as_the_source_does() {
    let project = Project::empty();
    project.write("model/visits.yml", MODEL);
    write_visits(&project);
    let server = Server::start_with_jobs(&project);
    let questions = served();
    let before: Vec<Value> = questions.iter().map(|query| server.load(query)).collect();
    assert_eq!(server.build(&selector(&json!({"timezones": ["UTC"]}))), 12);
    for (query, source) in questions.iter().zip(&before) {
        assert!(source.get("usedPreAggregations").is_none(), "{query}");
        let stored = server.load(query);
        assert!(stored.get("usedPreAggregations").is_some(), "not from the rollup: {query}");
        assert_eq!(sorted(&stored), sorted(source), "{query}");
    }
    assert_close(&server);
    let shown = server.load(&question(&["buyers", "about", "about_p90"], None, &[], &json!({})));
    assert_eq!(shown["quarry"]["approximate"], json!(["visits.about", "visits.about_p90"]), "estimates are called so");
    // An exact percentile has no state: it is read where every group is one stored row, and nowhere else (row 45).
    let p90 = server.load(&question(&["p90"], None, &[], &json!({})));
    assert!(p90.get("usedPreAggregations").is_none(), "{p90}");
    let about = server.load(&question(&["about_p90"], None, &[], &json!({})));
    let (exact, about) = (number(&p90, "p90"), number(&about, "about_p90"));
    assert!((about - exact).abs() <= exact.abs() * 0.005_1, "{about} for {exact}");
    assert_columns(&project);
    server.assert_alive();
}

fn number(answer: &Value, name: &str) -> f64 {
    answer["data"][0][format!("visits.{name}")].as_str().and_then(|text| text.parse().ok()).expect("a number")
}

/// Conformance case 15: sketches of twelve months against the exact count.
fn assert_close(server: &Server) {
    let answer = server.load(&question(&["buyers", "about", "names", "names_about"], None, &[], &json!({})));
    let number = |name: &str| number(&answer, name);
    for (exact, about) in [("buyers", "about"), ("names", "names_about")] {
        let error = (number(about) - number(exact)).abs() / number(exact);
        assert!(number(exact) > 15_000.0 && error < 0.02, "{answer}");
    }
}

/// States are binary columns that say what they hold.
fn assert_columns(project: &Project) {
    let files = project.stored_files();
    assert_eq!(files.len(), 12);
    for file in files {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&file).expect("a file")).expect("Parquet");
        let field = |name: &str| reader.schema().field_with_name(name).expect("a stored column").clone();
        for (name, kind) in
            [("visits__names", "distinct/1"), ("visits__about", "hll/14"), ("visits__about_p90", "quantiles/1")]
        {
            let field = field(name);
            assert_eq!(field.data_type(), &DataType::Binary);
            assert_eq!(field.metadata().get("quarry.state").map(String::as_str), Some(kind));
        }
        assert!(field("visits__count").metadata().is_empty());
    }
}
