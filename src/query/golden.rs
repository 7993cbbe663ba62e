//! The SQL that questions become, and the reasons why rollups do not answer them.

use std::path::PathBuf;
use std::sync::Arc;

use quarry_storage::Snapshot;

use super::lower::{CubeTables, LeafSource, Origins, plan_statement};
use super::normalize::{Limits, normalize};
use super::plan::{Leaf, Plan, shape};
use super::policy::Asker;
use super::request::{DateRange, FilterLeaf, FilterNode, Operator, Request, TimeDimensionRequest};
use super::rollups::Rollups;
use super::route::{Route, route};
use super::{Query, QueryError};
use crate::model::CompileContext;
use crate::model::compile::compile_sources;
use crate::time::Zone;

const MODEL: &str = r#"
cubes:
  - name: orders
    sql_table: public.orders
    joins:
      - name: users
        sql: "{CUBE}.user_id = {users.id}"
        relationship: many_to_one
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: status, sql: status, type: string}
      - {name: loud, sql: "upper({CUBE.status})", type: string}
      - {name: note, sql: "{CUBE}.note || '!'", type: string}
      - {name: at, sql: created_at, type: time}
    measures:
      - {name: count, type: count}
      - {name: paid, type: count, filters: [{sql: "{CUBE}.status = 'paid'"}]}
      - {name: total, sql: amount, type: sum}
      - {name: mean, sql: amount, type: avg}
      - {name: buyers, sql: user_id, type: count_distinct}
      - {name: about, sql: user_id, type: count_distinct_approx}
      - {name: median, sql: "median({CUBE}.amount)", type: number}
      - {name: share, sql: "{paid} * 100.0 / NULLIF({count}, 0)", type: number}
    segments:
      - {name: big, sql: "{CUBE}.amount > 100"}
    pre_aggregations:
      - name: daily
        measures: [count, paid, total, mean, buyers, about, median]
        dimensions: [status, users.city]
        time_dimension: at
        granularity: day
        partition_granularity: month
  - name: users
    sql: "SELECT * FROM people WHERE NOT deleted -- the living"
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: city, sql: city, type: string}
    measures:
      - {name: count, type: count}
      - {name: balance, sql: balance, type: sum}
"#;

fn rollups() -> Rollups {
    let compiled = compile_sources(&[(PathBuf::from("model/shop.yml"), MODEL.to_owned())], &CompileContext::default());
    Rollups::new(Arc::new(compiled.unwrap_or_else(|faults| panic!("{faults:?}")).model))
}

fn request(measures: &[&str], dimensions: &[&str]) -> Request {
    let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    Request { measures: Some(texts(measures)), dimensions: texts(dimensions), ..Request::default() }
}

fn filtered(mut request: Request, member: &str, operator: Operator, values: &[&str]) -> Request {
    let values = Some(values.iter().map(|value| Some((*value).to_owned())).collect());
    request.filters.push(FilterNode::Leaf(FilterLeaf { member: member.to_owned(), operator, values }));
    request
}

fn timed(mut request: Request, granularity: Option<&str>, range: [&str; 2]) -> Request {
    request.time_dimensions.push(TimeDimensionRequest {
        dimension: "orders.at".to_owned(),
        granularity: granularity.map(str::to_owned),
        date_range: Some(DateRange::Bounds(range.map(str::to_owned).to_vec())),
        compare_date_range: None,
    });
    request
}

fn query(rollups: &Rollups, request: &Request) -> Result<Query, QueryError> {
    let limits = Limits {
        default_rows: 100,
        max_rows: 100,
        timezone: Zone::UTC,
        allow_hidden: false,
        ungrouped_without_key: true,
    };
    Ok(normalize(request, rollups.model(), &limits, &Asker::default(), 0)?.query)
}

#[track_caller]
fn check_source(request: &Request, expected: &str) {
    let rollups = rollups();
    let model = rollups.model();
    let query = query(&rollups, request).expect("a valid request");
    let plan = super::plan::plan(model, &query).expect("cubes that join");
    assert_eq!(plan_statement(model, &plan, &Origins::default(), true).bound().0, expected);
}

#[track_caller]
fn check_rollup(request: &Request, zone: Zone, expected: &str) {
    let rollups = rollups();
    let model = rollups.model();
    let query = query(&rollups, request).expect("a valid request");
    let preagg = model.find_cube("orders").expect("orders").preaggs[0].id;
    let shape = shape(model, &query).expect("cubes that join");
    let plan = Plan::Leaf(Box::new(Leaf { query, shape, merged: false, arguments: false }));
    let source = LeafSource::Rollup { preagg: model.preagg(preagg), zone, exact: false, table: "rollup".to_owned() };
    assert_eq!(
        plan_statement(model, &plan, &Origins { leaves: vec![source], ..Origins::default() }, true).bound().0,
        expected
    );
}

#[track_caller]
fn check_reason(request: &Request, expected: &str) {
    let rollups = rollups();
    let query = query(&rollups, request).expect("a valid request");
    let shape = shape(rollups.model(), &query).expect("cubes that join");
    match route(&rollups, &Snapshot::default(), &query, &shape).expect("a plannable query") {
        Route::Source(reasons) => {
            let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            assert_eq!(reasons, [expected]);
        }
        Route::Rollup(found) => panic!("matched {found:?}"),
    }
}

#[test]
fn a_plain_question_is_one_select() {
    check_source(
        &request(&["orders.count", "orders.share"], &["orders.status"]),
        "SELECT \"orders\".status AS \"orders__status\", count(\"orders\".id) AS \"orders__count\", \
         count(CASE WHEN (\"orders\".status = 'paid') THEN \"orders\".id END) * 100.0 / NULLIF(count(\"orders\".id), 0) \
         AS \"orders__share\" FROM public.orders AS \"orders\" GROUP BY 1 ORDER BY 2 DESC NULLS FIRST LIMIT 100",
    );
}

#[test]
fn ranges_are_converted_and_columns_are_not() {
    let asked = timed(request(&["orders.mean"], &[]), Some("day"), ["2024-03-10", "2024-03-10"]);
    check_source(
        &Request { timezone: Some(Zone::America__Los_Angeles), ..asked },
        "SELECT date_trunc('day', local_time(\"orders\".created_at, 'America/Los_Angeles')) AS \"orders__at_day\", \
         exact_div(exact_sum(\"orders\".amount), NULLIF(count(\"orders\".amount), 0)) AS \"orders__mean\" \
         FROM public.orders AS \"orders\" \
         WHERE (utc_time(\"orders\".created_at) >= $1 AND utc_time(\"orders\".created_at) < $2) \
         GROUP BY 1 ORDER BY 1 ASC NULLS LAST LIMIT 100",
    );
}

#[test]
fn multiplied_measures_are_aggregated_over_distinct_keys() {
    let users = "(SELECT * FROM people WHERE NOT deleted -- the living\n) AS \"users\"";
    check_source(
        &filtered(request(&["users.balance"], &["orders.status"]), "users.balance", Operator::Gt, &["5"]),
        &format!(
            "SELECT \"q_0\".\"orders__status\" AS \"orders__status\", \"q_0\".\"users__balance\" AS \"users__balance\" FROM \
             (SELECT \"keys\".\"orders__status\" AS \"orders__status\", exact_sum(\"users\".balance) AS \"users__balance\" \
             FROM (SELECT DISTINCT \"orders\".status AS \"orders__status\", \"users\".id AS \"key_0\" \
             FROM public.orders AS \"orders\" LEFT JOIN {users} ON \"orders\".user_id = \"users\".id) AS \"keys\" \
             LEFT JOIN {users} ON \"keys\".\"key_0\" = \"users\".id GROUP BY 1) AS \"q_0\" \
             WHERE (\"q_0\".\"users__balance\" > $1) ORDER BY 2 DESC NULLS FIRST LIMIT 100"
        ),
    );
}

#[test]
fn a_multiplied_count_counts_keys_in_place() {
    check_source(
        &Request { order: Some(Vec::new()), ..request(&["users.count"], &["orders.status"]) },
        "SELECT \"orders\".status AS \"orders__status\", count(DISTINCT \"users\".id) AS \"users__count\" \
         FROM public.orders AS \"orders\" LEFT JOIN (SELECT * FROM people WHERE NOT deleted -- the living\n) AS \"users\" \
         ON \"orders\".user_id = \"users\".id GROUP BY 1 LIMIT 100",
    );
}

#[test]
fn a_rollup_merges_states_and_then_evaluates() {
    let asked =
        timed(request(&["orders.mean", "orders.share"], &["orders.loud"]), Some("month"), ["2024-01-01", "2024-01-31"]);
    check_rollup(
        &asked,
        Zone::UTC,
        "SELECT upper(\"orders__status\") AS \"orders__loud\", date_trunc('month', \"orders__at_day\") AS \"orders__at_month\", \
         exact_div(exact_sum(\"orders__mean__sum\"), NULLIF(CAST(COALESCE(exact_sum(\"orders__mean__count\"), 0) AS BIGINT), 0)) \
         AS \"orders__mean\", CAST(COALESCE(exact_sum(\"orders__paid\"), 0) AS BIGINT) * 100.0 / \
         NULLIF(CAST(COALESCE(exact_sum(\"orders__count\"), 0) AS BIGINT), 0) AS \"orders__share\" FROM rollup \
         WHERE (\"orders__at_day\" >= $1 AND \"orders__at_day\" < $2) GROUP BY 1, 2 ORDER BY 2 ASC NULLS LAST LIMIT 100",
    );
}

#[test]
fn distinct_counts_are_read_from_states() {
    check_rollup(
        &request(&["orders.buyers", "orders.about"], &["orders.status"]),
        Zone::UTC,
        "SELECT \"orders__status\" AS \"orders__status\", distinct_count(\"orders__buyers\") AS \"orders__buyers\", \
         hll_count(\"orders__about\") AS \"orders__about\" FROM rollup GROUP BY 1 \
         ORDER BY 2 DESC NULLS FIRST LIMIT 100",
    );
    let rollups = rollups();
    let daily = rollups.model().find_cube("orders").expect("orders").preaggs[0].id;
    let built = rollups.build_sql(daily, Zone::UTC, None, &CubeTables::new()).expect("a plannable rollup");
    for state in ["distinct_set(\"orders\".user_id)", "hll_sketch(\"orders\".user_id)"] {
        assert!(built.contains(state), "{built}");
    }
}

#[test]
fn the_first_broken_rule_is_told() {
    let day = ["2024-01-01", "2024-01-31"];
    check_reason(&request(&["orders.total"], &["orders.note"]), "orders.daily: dimension orders.note is not stored");
    check_reason(
        &Request { segments: Some(vec!["orders.big".to_owned()]), ..request(&["orders.total"], &[]) },
        "orders.daily: segment orders.big is not stored",
    );
    check_reason(
        &timed(request(&["orders.total"], &[]), Some("hour"), day),
        "orders.daily: time dimension orders.at by hour cannot be made from what is stored",
    );
    check_reason(
        &timed(request(&["orders.total"], &[]), None, ["2024-01-01T06:00:00", "2024-01-31"]),
        "orders.daily: the range of orders.at is not made of whole buckets of a day",
    );
    check_reason(
        &request(&["orders.median"], &["orders.status"]),
        "orders.daily: measure orders.median cannot be merged, and the query is coarser than the rollup",
    );
    check_reason(
        &request(&["orders.total", "users.balance"], &[]),
        "orders.daily: measure users.balance is not stored",
    );
    check_reason(&request(&["orders.total"], &["orders.loud"]), "orders.daily: it has not been built yet");
}
