//! What `data-model.md` §4, §5, §15, §20–22, §26 and §29 add to the cases: facts, switches, filters, order, traps.

use serde_json::{Value, json};

use super::{by, check, check_error, check_set, check_sql, over, shop, shop_and, with};

const FACTS: &str = r#"
cubes:
  - name: refunds
    sql_table: refunds
    joins:
      - {name: users, relationship: many_to_one, sql: "{CUBE}.user_id = {users.id}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: reason, sql: reason, type: string}
      - {name: at, sql: at, type: time}
    measures:
      - {name: count, type: count}
      - {name: total, sql: amount, type: sum}
  - name: hub
    sql_table: users
    joins:
      - {name: orders, relationship: one_to_many, sql: "{CUBE}.id = {orders}.user_id"}
      - {name: refunds, relationship: one_to_many, sql: "{CUBE}.id = {refunds}.user_id"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: town, sql: city, type: string}
    measures:
      - {name: per_order, sql: "1.0 * {refunds.total} / NULLIF({orders.revenue}, 0)", type: number}
views:
  - name: money
    cubes:
      - {join_path: orders, includes: [revenue, {name: count, alias: orders}]}
      - {join_path: refunds, includes: [total, {name: count, alias: refunds}, reason]}
      - {join_path: users, includes: [city]}
"#;

/// User 1 of Oslo twice, user 5 of Rome, one without user.
const FACTS_DATA: &[(&str, &str)] = &[(
    "refunds",
    "id,user_id,reason,amount,at
1,1,late,10,2024-01-02T00:00:00
2,1,broken,20,2024-01-03T00:00:00
3,5,late,5,2024-02-02T00:00:00
4,,late,1,2024-05-02T00:00:00
",
)];

#[test]
fn facts_that_do_not_join_meet_on_shared_dimensions() {
    let server = shop_and(FACTS, FACTS_DATA);
    let order = json!({"order": {"users.city": "asc"}});
    let query = with(&by(&["orders.count", "refunds.count"], &["users.city"]), &order);
    check(&server, &query, &json!([["Oslo", "5", "2"], ["Rome", "1", "1"], [null, "2", "1"]]));
    check_sql(&server, &query, &["full join", "is not distinct from"]);
    check(&server, &by(&["orders.count", "refunds.count"], &[]), &json!([["8", "4"]]));
    // A filter on one fact leaves the other alone; one on what both reach restricts both.
    let late = json!({"filters": [{"member": "refunds.reason", "operator": "equals", "values": ["broken"]}]});
    check(&server, &with(&query, &late), &json!([["Oslo", "5", "1"], ["Rome", "1", null], [null, "2", null]]));
    let oslo = json!({"filters": [{"member": "users.city", "operator": "equals", "values": ["Oslo"]}]});
    check(&server, &with(&query, &oslo), &json!([["Oslo", "5", "2"]]));
    // A condition on a measure acts on the combined row.
    let many = json!({"filters": [{"member": "refunds.count", "operator": "gt", "values": ["1"]}]});
    check(&server, &with(&query, &many), &json!([["Oslo", "5", "2"]]));
    let total = with(&query, &json!({"total": true, "limit": 1}));
    assert_eq!(server.load(&total)["total"], json!(3));
    check_error(
        &server,
        &by(&["orders.count"], &["refunds.reason"]),
        "Can't find join path to join 'orders', 'refunds'",
    );
}

#[test]
fn a_hub_is_the_root_of_its_facts() {
    let server = shop_and(FACTS, FACTS_DATA);
    let order = json!({"order": {"hub.town": "asc"}});
    let counts = with(&by(&["orders.count", "refunds.count"], &["hub.town"]), &order);
    check(&server, &counts, &json!([["Oslo", "5", "2"], ["Rome", "1", "1"], [null, "1", "0"]]));
    check_sql(&server, &counts, &["count(distinct \"orders\".id)", "count(distinct \"refunds\".id)", "!\"keys\""]);
    let sums = with(&by(&["orders.revenue", "refunds.total", "hub.per_order"], &["hub.town"]), &order);
    let rows = server.rows(&sums);
    let given: Vec<Value> =
        rows.iter().map(|row| json!([row["hub.town"], row["orders.revenue"], row["refunds.total"]])).collect();
    assert_eq!(given, [json!(["Oslo", "3200", "30"]), json!(["Rome", null, "5"]), json!([null, "60", null])]);
    let share: f64 = rows[0]["hub.per_order"].as_str().expect("a text").parse().expect("a number");
    assert!((share - 30.0 / 3200.0).abs() < 1e-9, "{rows:?}");
}

#[test]
fn a_view_of_several_facts_joins_each_by_itself() {
    let server = shop_and(FACTS, FACTS_DATA);
    let query = with(&by(&["money.revenue", "money.total"], &["money.city"]), &json!({"order": {"money.city": "asc"}}));
    let reply = server.ask(&query);
    // The city's path starts at users, which reaches no fact: each fact joins it by its own way.
    assert_eq!(reply.status, 200, "{}", reply.body);
    check(&server, &query, &json!([["Oslo", "3200", "30"], ["Rome", null, "5"], [null, "100", "1"]]));
}

const SWITCH: &str = r#"
cubes:
  - name: prices
    sql_table: prices
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: item, sql: item, type: string}
      - {name: currency, type: switch, values: [USD, EUR, GBP]}
    measures:
      - {name: usd, sql: usd, type: sum}
      - {name: eur, sql: eur, type: sum}
      - name: price
        multi_stage: true
        type: number
        case:
          switch: "{CUBE.currency}"
          when:
            - {value: USD, sql: "{CUBE.usd}"}
            - {value: EUR, sql: "{CUBE.eur}"}
          else: {sql: "{CUBE.usd} * 0"}
views:
  - name: shop_prices
    cubes:
      - {join_path: prices, includes: "*"}
    default_filters:
      - {member: currency, operator: equals, values: [EUR], unless: [currency]}
"#;

const SWITCH_DATA: &[(&str, &str)] = &[("prices", "id,item,usd,eur\n1,pen,10,9\n2,pen,20,18\n3,ink,5,4\n")];

#[test]
fn a_switch_picks_the_formula() {
    let server = shop_and(SWITCH, SWITCH_DATA);
    let order = json!({"order": {"prices.currency": "asc"}});
    let all = with(&by(&["prices.price"], &["prices.currency"]), &order);
    check(&server, &all, &json!([["EUR", "31"], ["GBP", "0"], ["USD", "35"]]));
    let eur = json!({"filters": [{"member": "prices.currency", "operator": "equals", "values": ["EUR"]}]});
    check(&server, &with(&by(&["prices.price"], &[]), &eur), &json!([["31"]]));
    check(&server, &with(&all, &eur), &json!([["EUR", "31"]]));
    check(&server, &by(&[], &["prices.currency"]), &json!([["EUR"], ["GBP"], ["USD"]]));
    let items = with(&by(&["prices.price"], &["prices.item"]), &with(&eur, &json!({"order": {"prices.item": "asc"}})));
    check(&server, &items, &json!([["ink", "4"], ["pen", "27"]]));
    let view = with(&by(&["shop_prices.price"], &["shop_prices.item"]), &json!({"order": {"shop_prices.item": "asc"}}));
    check(&server, &view, &json!([["ink", "4"], ["pen", "27"]]));
    let usd = json!({"filters": [{"member": "shop_prices.currency", "operator": "equals", "values": ["USD"]}]});
    check(&server, &with(&view, &usd), &json!([["ink", "5"], ["pen", "30"]]));
}

const TRAPS: &str = r#"
cubes:
  - name: traps
    sql_table: orders
    joins:
      - {name: users, relationship: many_to_one, sql: "{CUBE}.user_id = {users.id}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: status, sql: status, type: string}
      - {name: amount, sql: amount, type: number}
      - {name: users, sql: "{CUBE}.status", type: string}
      - {name: shadow, sql: "{CUBE.users} || '?'", type: string}
      - {name: is_big, sql: "{CUBE}.amount > 1000", type: boolean}
      - name: size
        type: string
        case:
          when:
            - {sql: "{CUBE}.amount >= 1000", label: "it's big"}
            - {sql: "{CUBE}.amount >= 100", label: {sql: "upper('mid')"}}
          else: {label: small}
      - {name: place, type: geo, latitude: {sql: "{CUBE}.id"}, longitude: {sql: "{CUBE}.user_id"}}
      - {name: sum_ab, sql: "{CUBE}.amount + {CUBE}.id", type: number}
      - {name: double, sql: "{sum_ab} * 2", type: number}
      - {name: at, sql: created_at, type: time}
    measures:
      - {name: count, type: count}
      - {name: amounts, sql: amount, type: count}
      - {name: big_paid, type: count, filters: [{sql: "{CUBE}.status = 'paid'"}, {sql: "{CUBE}.amount > 90"}],
         drill_filters: [{sql: "{CUBE}.amount < 1000"}]}
      - {name: drilled, type: count, drill_filters: [{sql: "{CUBE}.amount < 1000"}]}
      - {name: rows, sql: "count(*)", type: number}
      - {name: total, sql: amount, type: sum}
      - {name: ratio, sql: "{total} / NULLIF({count}, 0)", type: number}
      - {name: hundredfold, sql: "{ratio} * 100", type: number}
      - {name: statuses, sql: "string_agg(DISTINCT {CUBE}.status, ',' ORDER BY {CUBE}.status)", type: string}
      - {name: any_big, sql: "bool_or({CUBE}.amount > 1000)", type: boolean}
      - {name: greatest, sql: amount, type: max}
    segments:
      - {name: either, sql: "{CUBE}.status = 'new' OR {CUBE}.status IS NULL"}
"#;

fn traps(more: &Value) -> Value {
    with(&by(&["traps.count"], &[]), more)
}

#[test]
fn members_of_every_kind_are_written_right() {
    let server = shop_and(TRAPS, &[]);
    let ordered = |member: &str| with(&by(&["traps.count"], &[member]), &json!({"order": {member: "asc"}}));
    check(&server, &ordered("traps.size"), &json!([["MID", "3"], ["it's big", "2"], ["small", "3"]]));
    check(&server, &ordered("traps.shadow"), &json!([["new?", "3"], ["paid?", "4"], [null, "1"]]));
    check_set(&server, &by(&["traps.count"], &["traps.is_big"]), &json!([[true, "2"], [false, "5"], [null, "1"]]));
    let first = json!({"limit": 1, "order": {"traps.place": "asc"}});
    check(&server, &with(&by(&[], &["traps.place"]), &first), &json!([["1,1"]]));
    let one = json!({"filters": [{"member": "traps.amount", "operator": "equals", "values": ["1500"]}]});
    check(&server, &with(&by(&[], &["traps.double"]), &one), &json!([["3006"]]));
    check_sql(&server, &by(&[], &["traps.double"]), &["(\"traps\".amount + \"traps\".id) * 2"]);
    check(&server, &by(&["traps.amounts", "traps.rows", "traps.any_big"], &[]), &json!([["7", "8", true]]));
    check(&server, &by(&["traps.statuses"], &[]), &json!([["new,paid"]]));
    check_sql(&server, &by(&["traps.hundredfold"], &[]), &[") * 100"]);
    // A segment among the dimensions is a column.
    check_set(&server, &by(&["traps.count"], &["traps.either"]), &json!([[true, "4"], [false, "4"]]));
}

#[test]
fn filters_treat_nulls_groups_and_types_as_stated() {
    let server = shop_and(TRAPS, &[]);
    let counted = |filter: Value, count: &str| check(&server, &traps(&json!({"filters": [filter]})), &json!([[count]]));
    let on =
        |member: &str, operator: &str, values: Value| json!({"member": member, "operator": operator, "values": values});
    let status = |operator: &str, values: Value| on("traps.status", operator, values);
    counted(status("equals", json!(["paid"])), "4");
    counted(status("equals", json!([null])), "1");
    counted(status("in", json!([null])), "1");
    counted(status("notEquals", json!([null])), "7");
    counted(status("notEquals", json!(["paid", null])), "3");
    counted(status("notIn", json!(["paid", "x"])), "4");
    counted(status("contains", json!(["AI"])), "4");
    counted(status("contains", json!([null])), "1");
    counted(status("notContains", json!(["ai"])), "4");
    counted(status("notContains", json!(["ai", null])), "3");
    counted(status("notContains", json!([null])), "7");
    counted(status("startsWith", json!(["n", "p"])), "7");
    counted(status("notStartsWith", json!(["n"])), "5");
    counted(status("endsWith", json!(["D"])), "4");
    counted(status("set", json!([])), "7");
    counted(status("notSet", json!([])), "1");
    counted(on("traps.amount", "gt", json!(["100"])), "4");
    counted(on("traps.amount", "lte", json!(["100"])), "3");
    counted(on("traps.amount", "equals", json!(["100.0"])), "1");
    counted(on("traps.is_big", "equals", json!(["true"])), "2");
    counted(on("traps.is_big", "notEquals", json!(["true"])), "6");
    counted(on("traps.at", "inDateRange", json!(["2024-01-01", "2024-12-31"])), "6");
    counted(on("traps.at", "notInDateRange", json!(["2024-01-01", "2024-12-31"])), "2");
    counted(
        json!({"and": [status("equals", json!(["paid"])), {"or": [
        on("traps.amount", "gt", json!(["1000"])), on("traps.amount", "notSet", json!([]))]}]}),
        "2",
    );
    counted(json!({"or": [{"and": []}, status("equals", json!(["paid"]))]}), "4");
    // The predicate of a segment keeps together, whatever stands beside it.
    let paid = json!({"segments": ["traps.either"], "filters": [status("equals", json!(["paid"]))]});
    check(&server, &traps(&paid), &json!([["0"]]));
    // The filters of a measure as a condition on rows.
    counted(on("traps.big_paid", "measureFilter", json!([])), "1");
    counted(on("traps.drilled", "measureFilter", json!([])), "5");
    counted(on("traps.total", "measureFilter", json!([])), "8");
    let ors = json!({"filters": [{"or": [
        {"member": "traps.total", "operator": "gt", "values": ["1650"]},
        {"member": "traps.count", "operator": "equals", "values": ["1"]}]}],
        "order": {"traps.status": "asc"}});
    check(&server, &with(&by(&[], &["traps.status"]), &ors), &json!([["paid"], [null]]));
}

#[test]
fn order_limit_and_offset_are_the_outermost() {
    let server = shop();
    let query = by(&["users.total_balance", "orders.revenue"], &["orders.status"]);
    check(&server, &with(&query, &json!({"limit": 1, "offset": 1})), &json!([[null, "200", "300"]]));
    let ascending = json!({"order": {"orders.status": "asc"}});
    check(&server, &with(&by(&[], &["orders.status"]), &ascending), &json!([["new"], ["paid"], [null]]));
    let descending = json!({"order": {"orders.status": "desc"}});
    check(&server, &with(&by(&[], &["orders.status"]), &descending), &json!([[null], ["paid"], ["new"]]));
    // Keys that are not selected say nothing.
    check_sql(
        &server,
        &with(&by(&["orders.count"], &["orders.status"]), &json!({"order": {"users.city": "asc"}})),
        &["!order by"],
    );
    let by_time = with(
        &over(&["orders.count"], "orders.created_at", "year", ["2023-01-01", "2025-12-31"]),
        &json!({"dimensions": ["orders.status"], "order": [["orders.created_at.year", "desc"], ["orders.status", "asc"]]}),
    );
    let rows = json!([
        ["new", "2025-01-01T00:00:00.000", "1"],
        ["new", "2024-01-01T00:00:00.000", "2"],
        ["paid", "2024-01-01T00:00:00.000", "3"],
        [null, "2024-01-01T00:00:00.000", "1"],
        ["paid", "2023-01-01T00:00:00.000", "1"]
    ]);
    check(&server, &by_time, &rows);
}

#[test]
fn fan_out_keeps_filters_inside_and_measure_filters_outside() {
    let server = shop();
    let oslo = json!({"filters": [{"member": "users.city", "operator": "equals", "values": ["Oslo"]}]});
    let query = with(&by(&["users.total_balance", "orders.revenue"], &["orders.status"]), &oslo);
    // Oslo: paid orders 1 and 3 of users 1 and 2; new 2 and 8 of user 1; order 4 of user 2.
    check(&server, &query, &json!([["paid", "300", "1600"], [null, "200", "300"], ["new", "100", "1300"]]));
    let rich = json!({"filters": [{"member": "users.total_balance", "operator": "gt", "values": ["150"]}],
        "order": {"orders.status": "asc"}});
    check(
        &server,
        &with(&by(&["orders.revenue"], &["orders.status"]), &rich),
        &json!([["paid", "1660"], [null, "300"]]),
    );
    // Ungrouped: a row of the joined tables each.
    let rows = with(
        &by(&["line_items.qty_sum"], &["orders.id", "users.city"]),
        &json!({"ungrouped": true, "order": [["orders.id", "asc"], ["line_items.qty_sum", "asc"]], "limit": 3}),
    );
    check(&server, &rows, &json!([["1", "Oslo", "1"], ["1", "Oslo", "2"], ["2", "Oslo", "3"]]));
}
