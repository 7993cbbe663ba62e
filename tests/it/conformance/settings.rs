//! Settings that change what a model means (`data-model.md` §4.3, §10.4).

use serde_json::json;

use super::{by, check_error};
use crate::server::{Project, Server};

const MODEL: &str = r#"
cubes:
  - name: deals
    sql_table: deals
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true, public: true}
      - {name: email, sql: email, type: string}
      - {name: size, sql: size, type: number}
      - {name: own, sql: size, type: number, mask: -1}
      - {name: is_big, sql: "{CUBE}.size > 15", type: boolean}
      - {name: at, sql: at, type: time}
    measures:
      - {name: count, type: count}
      - {name: total, sql: size, type: sum}
    access_policy:
      - group: "*"
        member_level: {includes: [id, count, at]}
        member_masking: {includes: "*", excludes: [at]}
  - name: open
    sql_table: deals
    dimensions:
      - {name: at, sql: at, type: time}
      - {name: seen, sql: at, type: time}
      - name: own
        sql: at
        type: time
        granularities: {includes: [day, year], custom: [{name: fiscal, interval: 1 year, origin: "2024-07-01"}]}
    measures:
      - {name: count, type: count}
    access_policy:
      - group: "*"
        member_level: {includes: [at, own, count]}
        member_masking: {includes: [seen]}
"#;

const DATA: &str = "id,email,size,at\n1,a@x,10,2024-02-10T10:00:00\n2,b@x,20,2024-05-10T10:00:00\n";

fn start(settings: &[(&str, &str)]) -> Server {
    let project = Project::empty();
    project.write("model/all.yml", MODEL);
    project.write("data/deals.csv", DATA);
    Server::start_with(&project, settings)
}

#[test]
fn masked_values_are_those_of_the_settings() {
    let server = start(&[
        ("CUBEJS_ACCESS_POLICY_MASK_STRING", "it's hidden"),
        ("CUBEJS_ACCESS_POLICY_MASK_NUMBER", "-7"),
        ("CUBEJS_ACCESS_POLICY_MASK_BOOLEAN", "false"),
        ("CUBEJS_ACCESS_POLICY_MASK_TIME", "1970-01-01"),
    ]);
    let row = &server.rows(&by(&["deals.count", "deals.total"], &["deals.email", "deals.size", "deals.is_big"]))[0];
    assert_eq!(row["deals.email"], json!("it's hidden"));
    assert_eq!((&row["deals.size"], &row["deals.total"]), (&json!("-7"), &json!("-7")));
    assert_eq!((&row["deals.is_big"], &row["deals.count"]), (&json!(false), &json!("2")));
    assert_eq!(server.rows(&by(&[], &["deals.own"])), [json!({"deals.own": "-1"})], "a mask of its own wins");
    assert_eq!(server.rows(&by(&[], &["open.seen"])), [json!({"open.seen": "1970-01-01T00:00:00.000"})]);
    let plain = start(&[]);
    let row = &plain.rows(&by(&["deals.total"], &["deals.email", "deals.size", "deals.is_big"]))[0];
    assert!(row.as_object().expect("a row").values().all(serde_json::Value::is_null), "{row}");
}

#[test]
fn granularities_are_those_of_the_settings() {
    let server = start(&[
        ("CUBEJS_GRANULARITIES", "year,month,fiscal"),
        ("CUBEJS_GRANULARITIES_FISCAL_INTERVAL", "1 year"),
        ("CUBEJS_GRANULARITIES_FISCAL_ORIGIN", "2024-04-01"),
        ("CUBEJS_GRANULARITIES_FISCAL_TITLE", "FY"),
    ]);
    let buckets = |member: &str, granularity: &str| {
        let time = json!([{"dimension": member, "granularity": granularity}]);
        let rows = server.rows(&json!({"measures": ["open.count"], "timeDimensions": time}));
        rows.iter().map(|row| row[format!("{member}.{granularity}")].clone()).collect::<Vec<_>>()
    };
    assert_eq!(buckets("open.at", "month"), ["2024-02-01T00:00:00.000", "2024-05-01T00:00:00.000"]);
    assert_eq!(buckets("open.at", "fiscal"), ["2023-04-01T00:00:00.000", "2024-04-01T00:00:00.000"]);
    assert_eq!(buckets("open.own", "fiscal"), ["2023-07-01T00:00:00.000"], "one of its own wins");
    assert_eq!(buckets("open.own", "year"), ["2024-01-01T00:00:00.000"]);
    for member in ["open.at", "open.own"] {
        let query =
            json!({"measures": ["open.count"], "timeDimensions": [{"dimension": member, "granularity": "day"}]});
        check_error(&server, &query, &format!("Granularity \"day\" does not exist in dimension {member}"));
    }
    let meta = server.get("/cubejs-api/v1/meta").value();
    let at = &meta["cubes"][1]["dimensions"][0];
    assert_eq!(at["name"], json!("open.at"));
    let fiscal = &at["granularities"][0];
    assert_eq!((&fiscal["title"], &fiscal["interval"]), (&json!("FY"), &json!("1 year")));
}
