//! The kinds of pre-aggregations beside plain rollups: rows of a cube, lambdas, joins (`pre-aggregations.md` §11–13).
//! Whatever answers, it answers as the source does.

mod join;
mod lambda;
mod original;
mod random;

use serde_json::{Value, json};

use crate::server::{ALL_SCOPES, Project, Server};

/// Rows of `orders`: some without user, status, amount or time; several a day in January to March 2024.
pub(crate) fn orders(rows: usize, factor: usize) -> String {
    let mut text = String::from("id,user_id,status,amount,at\n");
    for row in 0..rows {
        let user = if row % 7 == 0 { String::new() } else { (row % 5 + 1).to_string() };
        let status = ["paid", "new", "", "it's"][row % 4];
        let amount = if row % 11 == 0 { String::new() } else { (row % 13 * factor).to_string() };
        let (month, day) = (row % 3 + 1, row * 5 % 28 + 1);
        text.push_str(&format!("{row},{user},{status},{amount},2024-0{month}-{day:02}T{:02}:30:00\n", row % 24));
    }
    text
}

/// Users 1 to 6; the last one has no orders, the fourth no city.
pub(crate) const USERS: &str = "id,city,credit
1,Oslo,10
2,Rome,20
3,Oslo,30
4,,40
5,Bern,50
6,Rome,60
";

/// Both cubes; what is given is put under them.
pub(crate) fn model(orders_more: &str, users_more: &str) -> String {
    format!(
        r#"
cubes:
  - name: orders
    sql: "SELECT * FROM orders WHERE {{FILTER_PARAMS.orders.at.filter('at')}}"
    joins:
      - {{name: users, relationship: many_to_one, sql: "{{CUBE.user_id}} = {{users.id}}"}}
    dimensions:
      - {{name: id, sql: id, type: number, primary_key: true, public: true}}
      - {{name: user_id, sql: user_id, type: number}}
      - {{name: status, sql: status, type: string}}
      - {{name: at, sql: at, type: time}}
    measures:
      - {{name: count, type: count}}
      - {{name: revenue, sql: amount, type: sum}}
      - {{name: most, sql: amount, type: max}}
      - {{name: mean, sql: amount, type: avg}}
      - {{name: per_order, sql: "1.0 * {{revenue}} / NULLIF({{count}}, 0)", type: number}}
      - {{name: buyers, sql: user_id, type: count_distinct}}
    segments:
      - {{name: paid, sql: "{{CUBE}}.status = 'paid'"}}
{orders_more}
  - name: users
    sql_table: users
    dimensions:
      - {{name: id, sql: id, type: number, primary_key: true, public: true}}
      - {{name: city, sql: city, type: string}}
    measures:
      - {{name: count, type: count}}
      - {{name: credit, sql: credit, type: sum}}
{users_more}
"#
    )
}

pub(crate) fn project(orders_more: &str, users_more: &str) -> Project {
    let project = Project::empty();
    project.write("model/shop.yml", &model(orders_more, users_more));
    project.write("data/orders.csv", &orders(200, 1));
    project.write("data/users.csv", USERS);
    project
}

pub(crate) fn start(project: &Project, more: &[(&str, &str)]) -> Server {
    let mut settings = vec![("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES)];
    settings.extend_from_slice(more);
    Server::start_with(project, &settings)
}

/// A job's selector in UTC.
pub(crate) fn select(preaggs: &[&str], more: &Value) -> Value {
    let mut selector = json!({"preAggregations": preaggs, "timezones": ["UTC"], "contexts": [{"securityContext": {}}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        selector[key] = value.clone();
    }
    selector
}

/// The rows of an answer as sorted texts.
#[track_caller]
pub(crate) fn rows(server: &Server, query: &Value) -> Vec<String> {
    let mut rows: Vec<String> = server.rows(query).iter().map(Value::to_string).collect();
    rows.sort();
    rows
}

/// Ids and types of what an answer used, sorted.
#[track_caller]
pub(crate) fn used(server: &Server, query: &Value) -> Vec<String> {
    let answer = server.load(query);
    let entries = answer["usedPreAggregations"].as_object().into_iter().flatten();
    let mut used: Vec<String> =
        entries.map(|(_, entry)| format!("{} {}", entry["preAggregationId"], entry["type"]).replace('"', "")).collect();
    used.sort();
    used
}

/// Queries over both cubes, grouped and not, with and without a range of whole days.
pub(crate) fn queries() -> Vec<Value> {
    let measures = ["orders.count", "orders.revenue", "orders.most", "orders.mean", "orders.per_order"];
    let february = json!(["2024-02-01", "2024-02-29"]);
    let across = json!(["2024-01-20", "2024-03-10"]);
    let mut queries = vec![
        json!({"measures": measures}),
        json!({"measures": measures, "dimensions": ["orders.status"]}),
        json!({"measures": measures, "dimensions": ["users.city"]}),
        json!({"measures": measures, "segments": ["orders.paid"]}),
        json!({"measures": measures, "filters": [
            {"member": "orders.status", "operator": "equals", "values": ["paid", null]}]}),
        json!({"measures": measures, "dimensions": ["users.city"], "filters": [
            {"member": "users.city", "operator": "notEquals", "values": ["Oslo"]}]}),
        json!({"measures": ["orders.revenue"], "dimensions": ["orders.status"], "filters": [
            {"member": "orders.revenue", "operator": "gt", "values": ["100"]}]}),
    ];
    for range in [&february, &across] {
        for granularity in ["day", "month"] {
            let times = json!([{"dimension": "orders.at", "granularity": granularity, "dateRange": range}]);
            queries.push(json!({"measures": measures, "timeDimensions": times}));
            queries.push(json!({"measures": measures, "dimensions": ["users.city"], "timeDimensions": times}));
        }
        let times = json!([{"dimension": "orders.at", "dateRange": range}]);
        queries.push(json!({"measures": measures, "timeDimensions": times, "segments": ["orders.paid"]}));
    }
    queries
}
