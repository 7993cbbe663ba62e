//! `rollup_join`: rollups joined when they are asked answer as the source's joins do (`pre-aggregations.md` §12,
//! conformance 37).

use serde_json::{Value, json};

use super::{USERS, model, orders, project, queries, rows, select, start, used};
use crate::server::{Project, Server};

const STORED: &str =
    "      - {name: daily, measures: [count, revenue, most, mean, buyers], dimensions: [user_id, status],
         time_dimension: at, granularity: day, partition_granularity: month}
";
const JOINED: &str = "    pre_aggregations:
      - {name: with_users, type: rollup_join, measures: [count, revenue, most, mean, per_order, buyers, users.credit],
         dimensions: [status, users.city], time_dimension: at, granularity: day,
         rollups: [CUBE.daily, users.people]}
";
const PEOPLE: &str = "    pre_aggregations:
      - {name: people, measures: [count, credit], dimensions: [id, city]}
";

fn all_rows(server: &Server, queries: &[Value]) -> Vec<Vec<String>> {
    queries.iter().map(|query| rows(server, query)).collect()
}

fn joining() -> Vec<Value> {
    queries().into_iter().filter(|query| query.to_string().contains("users.city")).collect()
}

#[test]
fn joined_rollups_answer_as_the_joined_source() {
    let project = project(&format!("{JOINED}{STORED}"), PEOPLE);
    let server = start(&project, &[]);
    let queries = joining();
    assert!(queries.len() > 4);
    let from_source = all_rows(&server, &queries);
    server.build(&select(&["orders.daily", "users.people"], &json!({})));
    for (query, expected) in queries.iter().zip(&from_source) {
        // Orders without a user, users without a city, and users without orders among them.
        assert_eq!(used(&server, query), ["orders.daily rollup", "users.people rollup"], "{query}");
        assert_eq!(&rows(&server, query), expected, "{query}");
    }
    let reply = server.post("/cubejs-api/v1/sql", &json!({"query": queries[0]}));
    let sql = reply.value()["sql"]["sql"][0].as_str().expect("a statement").to_owned();
    assert!(sql.contains("LEFT JOIN") && sql.contains("users__id"), "{sql}");
    // One side missing: the source.
    server.kill();
    project.write("data/users.csv", USERS);
    let server = start(&project, &[]);
    assert_eq!(used(&server, &queries[0]), ["orders.daily rollup", "users.people rollup"]);
    server.assert_alive();
}

#[test]
fn measures_that_the_join_would_repeat_are_the_sources() {
    let project = project(&format!("{JOINED}{STORED}"), PEOPLE);
    let server = start(&project, &[]);
    let credit = json!({"measures": ["users.credit"], "dimensions": ["orders.status"]});
    let from_source = rows(&server, &credit);
    server.build(&select(&["orders.daily", "users.people"], &json!({})));
    assert!(used(&server, &credit).is_empty());
    assert_eq!(rows(&server, &credit), from_source);
    // A user's own measures need no orders, and are not those of users with orders.
    let own = json!({"measures": ["users.credit"], "dimensions": ["users.city"]});
    assert_eq!(used(&server, &own), ["users.people rollup"]);
    let reply = server.post("/cubejs-api/v1/load", &json!({"query": credit, "explain": true}));
    let levels = &reply.value()["quarry"]["explain"]["levels"];
    let said =
        levels[0]["candidates"].as_array().into_iter().flatten().find(|c| c["preAggregationId"] == "orders.with_users");
    assert_eq!(said.map(|c| c["rule"].clone()), Some(json!("MULTIPLIED")), "{levels}");
}

/// Orders and users in two data sources, and a third cube behind the users.
fn far_project() -> Project {
    let project = Project::empty();
    let chained = "    pre_aggregations:
      - {name: far, type: rollup_join, measures: [count, revenue], dimensions: [status, users.city, regions.name],
         time_dimension: at, granularity: day, rollups: [daily, users.people, regions.all]}
";
    let people = "    pre_aggregations:
      - {name: people, dimensions: [id, city]}
    data_source: far
    joins:
      - {name: regions, relationship: many_to_one, sql: \"{CUBE.city} = {regions.city}\"}
";
    let regions = "  - name: regions
    sql_table: regions
    data_source: farther
    dimensions:
      - {name: city, sql: city, type: string, primary_key: true}
      - {name: name, sql: name, type: string}
    measures:
      - {name: count, type: count}
    pre_aggregations:
      - {name: all, dimensions: [city, name]}
";
    project.write("model/shop.yml", &(model(&format!("{chained}{STORED}"), people) + regions));
    project.write("data/orders.csv", &orders(200, 1));
    project.write("data/users.csv", USERS);
    project.write("data/regions.csv", "city,name\nOslo,North\nRome,South\nParis,West\n");
    project
}

#[test]
fn conformance_37_rollups_of_several_data_sources_are_joined_along_a_chain() {
    let project = far_project();
    let server = start(&project, &[]);
    let query = json!({"measures": ["orders.count", "orders.revenue"], "dimensions": ["regions.name"]});
    let reply = server.ask(&query);
    assert_eq!(reply.status, 400, "{}", reply.body);
    assert!(reply.error().contains("To join across data sources use rollupJoin"), "{}", reply.body);
    server.build(&select(&["orders.daily", "users.people", "regions.all"], &json!({})));
    let ranges = [json!(null), json!(["2024-01-15", "2024-02-15"])];
    let chain = ["orders.daily rollup", "regions.all rollup", "users.people rollup"];
    for range in ranges {
        let mut query = query.clone();
        if !range.is_null() {
            query["timeDimensions"] = json!([{"dimension": "orders.at", "granularity": "month", "dateRange": range}]);
        }
        assert_eq!(used(&server, &query), chain, "{query}");
        let joined = rows(&server, &query);
        // The same in one source.
        let near = Project::empty();
        let text = std::fs::read_to_string(project.path().join("model/shop.yml")).expect("the model");
        near.write(
            "model/shop.yml",
            &text
                .replace("data_source: farther", "data_source: default")
                .replace("data_source: far", "data_source: default"),
        );
        for table in ["orders", "users", "regions"] {
            let rows = std::fs::read_to_string(project.path().join(format!("data/{table}.csv"))).expect("a table");
            near.write(&format!("data/{table}.csv"), &rows);
        }
        let source = start(&near, &[]);
        assert_eq!(joined, rows(&source, &query), "{query}");
        assert!(used(&source, &query).is_empty());
    }
    server.assert_alive();
}
