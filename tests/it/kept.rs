//! Answers of rollups that are kept ready to be sent: the same as made anew, and gone with what they were made of.

use std::io::Read as _;

use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use serde_json::{Value, json};

use crate::server::{ALL_SCOPES, LOAD, Project, SECRET, Server, sign, valid_token};

const CITIES: u32 = 200;

/// A cube with a rollup that answers everything, and what a test adds to it.
fn start(policy: &str) -> (Project, Server) {
    let project = Project::empty();
    project.write(
        "model/sales.yml",
        &format!(
            "cubes:
  - name: sales
    sql_table: sales
    measures:
      - {{name: total, type: sum, sql: amount}}
      - {{name: scaled, type: number, sql: \"{{total}} * {{SECURITY_CONTEXT.factor}}\"}}
    dimensions: [{{name: city, sql: city, type: string}}]
{policy}
    pre_aggregations:
      - {{name: by_city, measures: [total], dimensions: [city]}}
"
        ),
    );
    write_sales(&project, 1);
    let server = Server::start_with(&project, &[("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES)]);
    build(&server);
    (project, server)
}

fn write_sales(project: &Project, amount: u32) {
    let rows: String = (0..CITIES).map(|n| format!("city {n:03},{}\n", amount * n)).collect();
    project.write("data/sales.csv", &format!("city,amount\n{rows}"));
}

fn build(server: &Server) {
    server.build(&json!({"contexts": [{"securityContext": {}}], "timezones": ["UTC"]}));
}

fn by_city() -> Value {
    json!({"query": {"measures": ["sales.total"], "dimensions": ["sales.city"], "order": {"sales.city": "asc"}}})
}

fn ask(server: &Server, token: &str, body: &Value, encoding: Option<&str>) -> (Option<String>, Vec<u8>) {
    let mut call = server.call("POST", LOAD).token(token);
    if let Some(encoding) = encoding {
        call = call.header("accept-encoding", encoding);
    }
    let (reply, bytes) = call.json(body).send_for_bytes();
    assert_eq!(reply.status, 200, "{}", reply.body);
    if encoding.is_some() {
        assert!(reply.header("vary").is_some_and(|vary| vary.to_ascii_lowercase().contains("accept-encoding")));
    }
    (reply.header("content-encoding").map(str::to_owned), bytes)
}

#[test]
fn compressed_answers_are_kept_beside_the_plain_ones() {
    let (_project, server) = start("");
    let token = valid_token();
    let (encoding, plain) = ask(&server, &token, &by_city(), None);
    assert_eq!(encoding, None);
    let rows: Value = serde_json::from_slice(&plain).expect("JSON");
    assert_eq!(rows["data"].as_array().map(Vec::len), usize::try_from(CITIES).ok());
    for (name, format) in [("zstd", FileCompressionType::ZSTD), ("gzip", FileCompressionType::GZIP)] {
        // Made on the way, then kept, then sent as it was kept.
        for _ in 0..3 {
            let (encoding, packed) = ask(&server, &token, &by_city(), Some(name));
            assert_eq!(encoding.as_deref(), Some(name));
            assert!(packed.len() < plain.len() / 2, "{} of {}", packed.len(), plain.len());
            let mut unpacked = Vec::new();
            let mut reader = format.convert_read(std::io::Cursor::new(packed)).expect("a known format");
            reader.read_to_end(&mut unpacked).expect("a whole body");
            assert!(unpacked == plain, "{name} holds another answer");
        }
    }
    assert_eq!(ask(&server, &token, &by_city(), Some("identity")), (None, plain.clone()));
    assert_eq!(ask(&server, &token, &by_city(), None), (None, plain));
}

/// An answer never outlives the partitions that it was made of; its other forms are answers of their own.
#[test]
fn a_rebuilt_rollup_answers_anew() {
    let (project, server) = start("");
    let (token, query) = (valid_token(), json!({"query": {"measures": ["sales.total"]}}));
    let sum = |body: &Value| {
        let (_, bytes) = ask(&server, &token, body, None);
        serde_json::from_slice::<Value>(&bytes).expect("JSON")
    };
    for factor in 1..4_u32 {
        write_sales(&project, factor);
        build(&server);
        let expected = json!((0..CITIES).map(|n| factor * n).sum::<u32>().to_string());
        let first = sum(&query);
        assert_eq!(first["data"][0]["sales.total"], expected);
        assert_eq!(sum(&query), first);
        let wrapped = sum(&json!({"query": query["query"], "queryType": "multi"}));
        assert_eq!(wrapped["results"][0]["data"], first["data"]);
        let renewed = sum(&json!({"query": query["query"], "cache": "no-cache"}));
        assert_eq!(renewed["data"], first["data"]);
        let explained = sum(&json!({"query": query["query"], "explain": true}));
        assert!(explained["quarry"]["explain"].is_object(), "{explained}");
        assert!(sum(&query)["quarry"].get("explain").is_none());
    }
}

/// A policy's rows, and SQL that reads the claims, are never those of somebody else.
#[test]
fn kept_answers_are_their_askers() {
    let (_project, server) = start(
        "    access_policy:
      - group: '*'
        row_level: {filters: [{member: city, operator: equals, values: ['{securityContext.city}']}]}",
    );
    for _ in 0..3 {
        for (city, factor) in [("city 003", 10), ("city 007", 10), ("city 007", 100)] {
            let token = sign(&json!({"city": city, "factor": factor}), SECRET);
            let (_, bytes) =
                ask(&server, &token, &json!({"query": {"measures": ["sales.total", "sales.scaled"]}}), None);
            let answer: Value = serde_json::from_slice(&bytes).expect("JSON");
            let total: i64 = city[5..].parse().expect("a number");
            assert_eq!(answer["data"][0]["sales.total"], total.to_string(), "{answer}");
            assert_eq!(answer["data"][0]["sales.scaled"], (total * factor).to_string(), "{answer}");
        }
    }
}
