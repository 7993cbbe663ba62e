//! `cube.js` of a project, run as it is (`http-api.md` §14): every test writes a real file and asks a real server.

mod entry;
mod faults;
mod options;
mod rewrite;
mod tenants;

use serde_json::{Value, json};

use crate::server::{LOAD, Project, Reply, SECRET, Server, sign};

/// Orders of two tenants.
const ORDERS: &str = "id,tenant,status,amount,at\n\
    1,acme,new,10,2024-01-01T10:00:00\n\
    2,acme,paid,20,2024-01-02T10:00:00\n\
    3,acme,paid,30,2024-02-01T10:00:00\n\
    4,bond,new,100,2024-01-01T11:00:00\n\
    5,bond,paid,200,2024-02-02T11:00:00\n";

const MODEL: &str = "
cubes:
  - name: orders
    sql_table: orders
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: tenant, sql: tenant, type: string}
      - {name: status, sql: status, type: string}
      - {name: at, sql: at, type: time}
    measures:
      - {name: count, type: count}
      - {name: total, sql: amount, type: sum}
";

/// A project with orders of two tenants and a `cube.js`.
fn project(cube_js: &str) -> Project {
    let project = Project::empty();
    project.write("data/orders.csv", ORDERS);
    project.write("model/orders.yml", MODEL);
    project.write("cube.js", cube_js);
    project
}

fn token(claims: &Value) -> String {
    sign(claims, SECRET)
}

/// Asks a query as somebody.
fn ask(server: &Server, claims: &Value, query: &Value) -> Reply {
    server.call("POST", LOAD).token(&token(claims)).json(&json!({ "query": query })).send()
}

/// The number of orders that somebody sees, or the error.
fn count(server: &Server, claims: &Value) -> String {
    counted(&ask(server, claims, &json!({"measures": ["orders.count"]})))
}

fn counted(reply: &Reply) -> String {
    match reply.status {
        200 => reply.value()["data"][0]["orders.count"].as_str().unwrap_or_default().to_owned(),
        status => format!("{status} {}", reply.error()),
    }
}
