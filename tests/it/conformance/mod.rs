//! The conformance cases of the data model (`data-model.md` §27), over a few rows whose answers are derived by hand.
//!
//! [`shop`] holds the model that the cases are about; each area adds what it needs beside it.

mod areas;
mod deep;
mod grains;
mod joins;
mod links;
mod more;
mod observed;
mod plain;
mod policies;
mod settings;
mod stages;
mod stored;
mod times;
mod views;

use serde_json::{Map, Value, json};

use crate::server::{LOAD, Project, Reply, SECRET, Server, sign, wait_until};

const SQL: &str = "/cubejs-api/v1/sql";

/// Users 4 (no city) and 5 (no orders); order 4 without status, 5 without amount, 6 without user, 7 of the year before,
/// 8 of the year after; order 3 with three items, two of one product; item 7 without product, 8 without order.
const DATA: &[(&str, &str)] = &[
    (
        "users",
        "id,city,balance,created_at
1,Oslo,100,2023-01-05T00:00:00
2,Oslo,200,2023-02-10T00:00:00
3,Rome,50,2023-03-15T00:00:00
4,,70,2023-04-20T00:00:00
5,Rome,500,2023-05-01T00:00:00
",
    ),
    (
        "orders",
        "id,user_id,status,amount,created_at
1,1,paid,100,2024-01-07T10:00:00
2,1,new,200,2024-01-08T09:00:00
3,2,paid,1500,2024-01-31T23:30:00
4,2,,300,2024-02-01T05:00:00
5,3,paid,,2024-04-10T12:00:00
6,,new,40,2024-04-11T12:00:00
7,4,paid,60,2023-01-20T00:00:00
8,1,new,1100,2025-03-31T12:00:00
",
    ),
    (
        "line_items",
        "id,order_id,product_id,qty
1,1,1,1
2,1,2,2
3,2,1,3
4,3,1,1
5,3,1,1
6,3,2,5
7,4,,2
8,,2,4
9,5,1,1
",
    ),
    ("products", "id,name\n1,pen\n2,ink\n3,Nib 50%_ off\n4,nib 50x- off\n"),
];

const MODEL: &str = r#"
cubes:
  - name: users
    sql_table: users
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true, public: true}
      - {name: city, sql: city, type: string}
      - {name: balance, sql: balance, type: number}
      - {name: created_at, sql: created_at, type: time}
    measures:
      - {name: count, type: count}
      - {name: total_balance, sql: balance, type: sum}
  - name: orders
    sql_table: orders
    joins:
      - {name: users, relationship: many_to_one, sql: "{CUBE}.user_id = {users.id}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true, public: true}
      - {name: user_id, sql: user_id, type: number}
      - {name: status, sql: status, type: string}
      - {name: amount, sql: amount, type: number}
      - name: created_at
        sql: created_at
        type: time
        granularities:
          - {name: sunday_week, interval: 1 week, offset: -1 day}
          - {name: fiscal_year, interval: 1 year, origin: "2024-04-01"}
    measures:
      - {name: count, type: count}
      - {name: revenue, sql: amount, type: sum}
      - {name: avg_amount, sql: amount, type: avg}
      - {name: buyers, sql: user_id, type: count_distinct}
      - {name: paid_count, type: count, filters: [{sql: "{CUBE}.status = 'paid'"}]}
    segments:
      - {name: big, sql: "{CUBE}.amount > 1000"}
  - name: line_items
    sql_table: line_items
    joins:
      - {name: orders, relationship: many_to_one, sql: "{CUBE}.order_id = {orders.id}"}
      - {name: products, relationship: many_to_one, sql: "{CUBE}.product_id = {products.id}"}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: qty, sql: qty, type: number}
    measures:
      - {name: count, type: count}
      - {name: qty_sum, sql: qty, type: sum}
  - name: products
    sql_table: products
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: name, sql: name, type: string}
"#;

/// The project of the cases, with more models and tables.
fn shop_with(models: &[&str], tables: &[(&str, &str)]) -> Project {
    let project = Project::empty();
    project.write("model/shop.yml", MODEL);
    for (number, model) in models.iter().enumerate() {
        project.write(&format!("model/more_{number}.yml"), model);
    }
    for (table, rows) in DATA.iter().chain(tables) {
        project.write(&format!("data/{table}.csv"), rows);
    }
    project
}

/// A server of the project of the cases.
fn shop() -> Server {
    Server::start(&shop_with(&[], &[]))
}

/// A server of the project of the cases and more.
fn shop_and(model: &str, tables: &[(&str, &str)]) -> Server {
    Server::start(&shop_with(&[model], tables))
}

/// Names of an answer's columns: dimensions, time dimensions with granularity, measures.
fn columns(query: &Value) -> Vec<String> {
    let texts = |key: &str| -> Vec<String> {
        query[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut columns = texts("dimensions");
    for time in query["timeDimensions"].as_array().into_iter().flatten() {
        if let (Some(member), Some(granularity)) = (time["dimension"].as_str(), time["granularity"].as_str()) {
            columns.push(format!("{member}.{granularity}"));
        }
    }
    columns.extend(texts("measures"));
    columns
}

/// A cell as the tests write it: texts and times as they are, numbers without zeros that say nothing.
fn cell(value: &Value) -> Value {
    let Some(text) = value.as_str() else { return value.clone() };
    match text.parse::<f64>() {
        Ok(_) if text.contains('.') => json!(text.trim_end_matches('0').trim_end_matches('.')),
        _ => json!(text),
    }
}

fn table(query: &Value, rows: &[Value]) -> Value {
    let columns = columns(query);
    let row = |row: &Value| -> Value {
        columns.iter().map(|name| row.get(name).map_or(json!("no such column"), cell)).collect()
    };
    rows.iter().map(row).collect()
}

/// Checks the rows of a query, in order; cells stand in the order of [`columns`].
#[track_caller]
fn check(server: &Server, query: &Value, expected: &Value) {
    let rows = server.rows(query);
    assert_eq!(&table(query, &rows), expected, "{query}\n{}", sql(server, query));
}

/// Checks the rows of a query whose order nothing decides.
#[track_caller]
fn check_set(server: &Server, query: &Value, expected: &Value) {
    let sorted = |rows: &Value| {
        let mut rows: Vec<String> = rows.as_array().into_iter().flatten().map(Value::to_string).collect();
        rows.sort();
        rows
    };
    let rows = server.rows(query);
    assert_eq!(sorted(&table(query, &rows)), sorted(expected), "{query}\n{}", sql(server, query));
}

/// Checks that a query fails with a text in its error.
#[track_caller]
fn check_error(server: &Server, query: &Value, expected: &str) {
    let reply = server.ask(query);
    assert!(reply.status >= 400, "{query} was answered {}", reply.body);
    assert!(reply.error().contains(expected), "{expected}\nis not in\n{}", reply.body);
}

/// The statement of a query and its parameters.
#[track_caller]
fn sql_and_parameters(server: &Server, query: &Value) -> (String, Vec<String>) {
    let reply = server.post(SQL, &json!({"query": query}));
    assert_eq!(reply.status, 200, "{query}: {}", reply.body);
    let answer = reply.value();
    let parameters = answer["sql"]["sql"][1].as_array().into_iter().flatten();
    let parameters = parameters.map(|value| value.as_str().map_or(value.to_string(), str::to_owned)).collect();
    (answer["sql"]["sql"][0].as_str().expect("a statement is a text").to_owned(), parameters)
}

#[track_caller]
fn sql(server: &Server, query: &Value) -> String {
    sql_and_parameters(server, query).0
}

/// Checks what a statement holds; a part that starts with `!` must be missing. Case plays no part.
#[track_caller]
fn check_sql(server: &Server, query: &Value, parts: &[&str]) {
    let text = sql(server, query);
    let lower = text.to_lowercase();
    for part in parts {
        match part.strip_prefix('!') {
            Some(absent) => assert!(!lower.contains(&absent.to_lowercase()), "{absent} is in {text}"),
            None => assert!(lower.contains(&part.to_lowercase()), "{part} is not in {text}"),
        }
    }
}

/// Copies a query with more keys.
fn with(query: &Value, more: &Value) -> Value {
    let mut query: Map<String, Value> = query.as_object().cloned().unwrap_or_default();
    query.extend(more.as_object().cloned().unwrap_or_default());
    Value::Object(query)
}

/// Measures by dimensions.
fn by(measures: &[&str], dimensions: &[&str]) -> Value {
    json!({"measures": measures, "dimensions": dimensions})
}

/// Measures by buckets of a time dimension in a range.
fn over(measures: &[&str], time: &str, granularity: &str, range: [&str; 2]) -> Value {
    json!({"measures": measures,
        "timeDimensions": [{"dimension": time, "granularity": granularity, "dateRange": range}]})
}

/// Sends a query with the claims of who asks; waits while the server says so.
fn ask_as(server: &Server, claims: &Value, path: &str, body: &Value) -> Reply {
    let token = sign(claims, SECRET);
    wait_until("an answer", std::time::Duration::from_secs(120), || {
        let reply = server.call("POST", path).token(&token).json(body).send();
        (!reply.body.contains("Continue wait")).then_some(reply)
    })
}

/// The rows of a query with the claims of who asks.
#[track_caller]
fn rows_as(server: &Server, claims: &Value, query: &Value) -> Value {
    let reply = ask_as(server, claims, LOAD, &json!({"query": query}));
    assert_eq!(reply.status, 200, "{claims} {query}: {}", reply.body);
    table(query, reply.value()["data"].as_array().expect("rows"))
}
