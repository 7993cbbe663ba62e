//! The model of the truth table (`pre-aggregations.md` §5) and its rows.

use serde_json::{Value, json};

use crate::server::{ALL_SCOPES, Project, Server};

/// Everything but the rollups, which go to the end: they are those of `orders`.
const MODEL: &str = r#"
views:
  - name: ov
    cubes:
      - {join_path: orders, includes: "*"}
      - {join_path: orders.users, includes: [country]}
cubes:
  - name: users
    sql_table: users
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: country, sql: country, type: string}
    measures:
      - {name: count, type: count}
  - name: stores
    sql_table: stores
    joins:
      - {name: users, relationship: many_to_one, sql: "{CUBE}.owner_id = {users.id}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: town, sql: town, type: string}
  - name: items
    sql_table: items
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true, public: true}
      - {name: sku, sql: sku, type: string}
    measures:
      - {name: pieces, sql: pieces, type: sum}
  - name: orders
    sql_table: orders
    joins:
      - {name: users, relationship: many_to_one, sql: "{CUBE}.user_id = {users.id}"}
      - {name: stores, relationship: many_to_one, sql: "{CUBE}.store_id = {stores.id}"}
      - {name: items, relationship: one_to_many, sql: "{CUBE}.id = {items}.order_id"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true, public: true}
      - {name: status, sql: status, type: string}
      - {name: city, sql: city, type: string}
      - name: created_at
        sql: created_at
        type: time
        granularities:
          - {name: fiscal_month, interval: 1 month, offset: 14 days}
          - {name: quarter_hour, interval: 15 minutes}
          - {name: half_year, interval: 6 months, origin: "2024-01-01"}
          - {name: sunday_week, interval: 1 week, offset: -1 day}
      - {name: closed_at, sql: closed_at, type: time}
      - {name: label, sql: "{status} || '-' || {city}", type: string}
      - {name: month_name, sql: "CAST({created_at.month} AS VARCHAR)", type: string}
    measures:
      - {name: count, type: count}
      - {name: revenue, sql: amount, type: sum}
      - {name: lo, sql: amount, type: min}
      - {name: hi, sql: amount, type: max}
      - {name: avg_amt, sql: amount, type: avg}
      - {name: buyers, sql: user_id, type: count_distinct}
      - {name: buyers_hll, sql: user_id, type: count_distinct_approx}
      - {name: aov, sql: "1.0 * {revenue} / NULLIF({count}, 0)", type: number}
      - {name: per_buyer, sql: "1.0 * {revenue} / NULLIF({buyers}, 0)", type: number}
      - {name: p90, sql: "percentile_cont(0.9) WITHIN GROUP (ORDER BY {CUBE}.amount)", type: number}
      - {name: about_p90, sql: "approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY {CUBE}.amount)", type: number}
      - {name: roll7, sql: amount, type: sum, rolling_window: {trailing: 7 day}}
      - name: last_year
        multi_stage: true
        type: number
        sql: "{revenue}"
        time_shift: [{time_dimension: created_at, interval: 1 year, type: prior}]
    segments:
      - {name: done, sql: "{status} = 'done'"}
      - {name: raw_done, sql: "{CUBE}.status = 'done'"}
"#;

/// The project with these rollups of `orders`: YAML entries, one a line.
pub(super) fn project(rollups: &[&str]) -> Project {
    let project = Project::empty();
    let mut model = MODEL.to_owned();
    if !rollups.is_empty() {
        model.push_str("    pre_aggregations:\n");
        rollups.iter().for_each(|rollup| model.push_str(&format!("      - {rollup}\n")));
    }
    project.write("model/orders.yml", &model);
    for (table, rows) in tables() {
        project.write(&format!("data/{table}.csv"), &rows);
    }
    project
}

/// A server of the project that takes jobs, with more settings.
pub(super) fn serve_with(rollups: &[&str], settings: &[(&str, &str)]) -> Server {
    let mut all = vec![("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES)];
    all.extend_from_slice(settings);
    Server::start_with(&project(rollups), &all)
}

pub(super) fn serve(rollups: &[&str]) -> Server {
    serve_with(rollups, &[])
}

/// Builds all rollups for these zones.
pub(super) fn build(server: &Server, zones: &[&str]) {
    server.build(&json!({"contexts": [{"securityContext": {}}], "timezones": zones}));
}

/// The rows of an answer as sorted texts, numbers without zeros that say nothing, and the rollups it used.
pub(super) fn answer(server: &Server, query: &Value) -> (Vec<String>, Vec<String>) {
    let answer = server.load(query);
    let rows = answer["data"].as_array().unwrap_or_else(|| panic!("no rows in {answer}"));
    let mut rows: Vec<String> = rows
        .iter()
        .map(|row| {
            let cells = row.as_object().into_iter().flatten();
            cells.map(|(name, value)| format!("{name}={} ", plain(value))).collect()
        })
        .collect();
    rows.sort();
    let used = answer["usedPreAggregations"].as_object().into_iter().flatten();
    let used = used.filter_map(|(_, entry)| entry["preAggregationId"].as_str().map(str::to_owned)).collect();
    (rows, used)
}

fn plain(value: &Value) -> String {
    match value.as_str() {
        Some(text) if text.contains('.') && text.parse::<f64>().is_ok() => {
            // Quotients may differ in digits that no one reads.
            format!("{:.9}", text.parse::<f64>().unwrap_or_default())
        }
        Some(text) => text.to_owned(),
        None => value.to_string(),
    }
}

/// What `/quarry/v1/explain` says of a query.
pub(super) fn explain(server: &Server, query: &Value) -> Value {
    let reply = server.post("/quarry/v1/explain", &json!({"query": query}));
    assert_eq!(reply.status, 200, "{query}: {}", reply.body);
    reply.value()["results"][0].clone()
}

/// Rows of two years, every few hours, with empty cells everywhere they may be.
fn tables() -> Vec<(&'static str, String)> {
    let mut random = 20_240_101_u64;
    let mut draw = move |n: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % n
    };
    let mut orders = "id,user_id,store_id,status,city,amount,created_at,closed_at\n".to_owned();
    let mut items = "id,order_id,sku,pieces\n".to_owned();
    let (statuses, cities) = (["done", "new", "paid", ""], ["NY", "Rome", "Oslo", ""]);
    let start = chrono::NaiveDate::from_ymd_opt(2023, 1, 1).expect("a date").and_time(chrono::NaiveTime::MIN);
    let mut item = 0;
    for id in 1..=420_u64 {
        // Half of them in the first months of each year.
        let year = if id % 3 == 0 { 0 } else { 365 };
        let minutes = i64::try_from(draw(75 * 24 * 60)).expect("a small number") + year * 24 * 60;
        let created = start + chrono::Duration::minutes(minutes);
        let closed = created + chrono::Duration::hours(i64::try_from(draw(900)).expect("a small number"));
        let optional = |some: bool, text: String| if some { text } else { String::new() };
        let amount = draw(200) + 1;
        let amount = optional(draw(9) > 0, amount.to_string());
        let user = draw(30) + 1;
        let user = optional(draw(12) > 0, user.to_string());
        let closed = optional(draw(7) > 0, closed.format("%Y-%m-%dT%H:%M:%S").to_string());
        let place = |drawn: u64| usize::try_from(drawn).expect("a small number");
        let (store, status, city) = (draw(4) + 1, statuses[place(draw(4))], cities[place(draw(4))]);
        let created = created.format("%Y-%m-%dT%H:%M:%S");
        orders.push_str(&format!("{id},{user},{store},{status},{city},{amount},{created},{closed}\n"));
        for _ in 0..draw(3) {
            item += 1;
            items.push_str(&format!("{item},{id},sku{},{}\n", draw(3), draw(5)));
        }
    }
    // Two instants that clocks of New York show alike, and the hour that they leave out.
    for (id, at) in [(501, "2023-11-05T05:30:00"), (502, "2023-11-05T06:30:00"), (503, "2024-03-10T07:10:00")] {
        orders.push_str(&format!("{id},1,1,done,NY,7,{at},{at}\n"));
    }
    let mut users = "id,country\n".to_owned();
    for id in 1..=28 {
        users.push_str(&format!("{id},{}\n", ["US", "IT", "NO", ""][id % 4]));
    }
    let stores = "id,owner_id,town\n1,3,Turin\n2,4,Milan\n3,5,Como\n4,6,Pisa\n".to_owned();
    vec![("orders", orders), ("items", items), ("users", users), ("stores", stores)]
}
