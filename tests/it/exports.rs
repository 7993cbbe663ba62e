//! `/v1/load` by `Accept`: the formats, their scope, no limit of rows, and what a slow or broken reading does.

use std::io::{Cursor, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::{Decimal128Type, Int64Type, TimestampMicrosecondType};
use arrow::ipc::reader::StreamReader;
use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::server::{LOAD, Project, Reply, Server, valid_token, wait_until};
use crate::tables::{micros, money, timestamps, write_table};

const SCOPES: &str = "meta,data,graphql,sql,jobs,export";
const LINES: &str = "application/x-ndjson";
const CSV: &str = "text/csv";
const ARROW: &str = "application/vnd.apache.arrow.stream";
const PARQUET: &str = "application/vnd.apache.parquet";
/// More than any limit of JSON answers.
const MANY: u64 = 70_000;

fn project() -> Project {
    let project = Project::empty();
    project.write(
        "model/cubes.yml",
        &format!(
            "cubes:
  - name: sales
    sql_table: sales
    measures: [{{name: total, type: sum, sql: amount}}, {{name: count, type: count}}]
    dimensions: [{{name: at, sql: at, type: time}}]
    pre_aggregations:
      - {{name: daily, measures: [total, count], time_dimension: at, granularity: day}}
  - name: many
    sql: SELECT value AS n FROM generate_series(1, {MANY}) AS s(value)
    measures: [{{name: count, type: count}}]
    dimensions: [{{name: n, sql: n, type: number, primary_key: true, public: true}}]
  - name: endless
    sql: SELECT value AS n FROM generate_series(1, 9000000000000) AS s(value)
    dimensions: [{{name: text, sql: \"'a text of some length, so that rows weigh something ' || {{CUBE}}.n\", type: string}}]
  - name: broken
    sql: SELECT value AS n FROM generate_series(1, 400000) AS s(value)
    dimensions: [{{name: ratio, sql: \"'row ' || (1000 / (350000 - {{CUBE}}.n)) || ' end'\", type: string}}]
"
        ),
    );
    let at = ["2024-01-01T10:00:00", "2024-01-01T11:00:00", "2024-01-02T10:00:00"];
    let at = timestamps(at.iter().map(|text| Some(micros(text))).collect());
    write_table(project.path(), "sales", vec![("at", at), ("amount", money(vec![Some(150), Some(-25), None]))]);
    project
}

fn start(scopes: &str) -> Server {
    Server::start_with(&project(), &[("CUBEJS_DEFAULT_API_SCOPES", scopes)])
}

fn export(server: &Server, accept: &str, query: &Value) -> (Reply, Vec<u8>) {
    let call = server.call("POST", LOAD).token(&valid_token()).header("accept", accept);
    call.json(&json!({"query": query})).send_for_bytes()
}

fn daily() -> Value {
    json!({"measures": ["sales.total", "sales.count"],
        "timeDimensions": [{"dimension": "sales.at", "granularity": "day"}], "order": {"sales.at": "asc"}})
}

fn batches_of(format: &str, bytes: Vec<u8>) -> Vec<RecordBatch> {
    if format == ARROW {
        let reader = StreamReader::try_new(Cursor::new(bytes), None).expect("a stream");
        return reader.map(|batch| batch.expect("a batch")).collect();
    }
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).expect("a file");
    reader.build().expect("a reader").map(|batch| batch.expect("a batch")).collect()
}

/// The four formats from the source and from a rollup: names, types and values as documented.
#[test]
fn rows_come_in_every_format() {
    let server = start(SCOPES);
    for built in [false, true] {
        if built {
            server.build(&json!({"contexts": [{"securityContext": {}}], "timezones": ["UTC"]}));
        }
        let day = "2024-01-01T00:00:00.000";
        let rows = server.rows(&daily());
        let (reply, _) = export(&server, LINES, &daily());
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(LINES)));
        let lines: Vec<Value> = reply.body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines, rows, "lines are the rows of JSON answers");
        assert_eq!(lines[0]["sales.at.day"], day);
        let (reply, _) = export(&server, CSV, &daily());
        assert!(reply.header("content-type").is_some_and(|kind| kind.starts_with("text/csv; charset=utf-8")));
        let first = format!("sales.at.day,sales.total,sales.count,sales.at\r\n{day},1.25,2,{day}\r\n");
        assert!(reply.body.starts_with(&first), "{}", reply.body);
        assert!(reply.body.ends_with("2024-01-02T00:00:00.000,,1,2024-01-02T00:00:00.000\r\n"), "{}", reply.body);
        for format in [ARROW, PARQUET] {
            let (reply, bytes) = export(&server, format, &daily());
            assert_eq!((reply.status, reply.header("content-type")), (200, Some(format)));
            let batches = batches_of(format, bytes);
            let batch = arrow::compute::concat_batches(&batches[0].schema(), &batches).expect("one schema");
            let schema = batch.schema();
            let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            assert_eq!(names, ["sales.at.day", "sales.total", "sales.count", "sales.at"]);
            let days = batch.column(0).as_primitive::<TimestampMicrosecondType>();
            assert_eq!((days.value(0), days.len()), (micros("2024-01-01"), 2));
            let totals = batch.column(1).as_primitive::<Decimal128Type>();
            assert_eq!((totals.value_as_string(0).as_str(), totals.is_null(1)), ("1.25", true));
            assert_eq!(batch.column(2).as_primitive::<Int64Type>().values().as_ref(), [2, 1]);
        }
    }
}

/// q-values are respected; what cannot be had is 406; JSON stays what it is.
#[test]
fn clients_say_what_they_take() {
    let server = start(SCOPES);
    let kind = |accept: &str| {
        let (reply, _) = export(&server, accept, &daily());
        (
            reply.status,
            reply.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default().to_owned(),
        )
    };
    let json_kind = "application/json";
    for (accept, expected) in [
        ("*/*", json_kind),
        ("application/json, text/plain, */*", json_kind),
        ("text/csv;q=0.5, application/json;q=0.4", CSV),
        ("application/json;q=0.5, application/vnd.apache.parquet", PARQUET),
        ("text/html, application/vnd.apache.arrow.stream;q=0.2", ARROW),
    ] {
        assert_eq!(kind(accept), (200, expected.to_owned()), "{accept}");
    }
    let (reply, _) = export(&server, "text/html", &daily());
    assert_eq!(reply.status, 406);
    assert!(reply.error().contains("application/vnd.apache.arrow.stream"), "{}", reply.body);
}

/// The scope is closed by default; JSON does not need it.
#[test]
fn exports_have_a_scope_of_their_own() {
    let server = start("meta,data");
    for format in [LINES, CSV, ARROW, PARQUET] {
        let (reply, _) = export(&server, format, &daily());
        assert_eq!((reply.status, reply.error().as_str()), (403, "API scope is missing: export"), "{format}");
    }
    assert_eq!(export(&server, "application/json", &daily()).0.status, 200);
    let without_data = start("meta,export");
    assert_eq!(export(&without_data, CSV, &daily()).0.error(), "API scope is missing: data");
}

/// No limit of rows by default, and beyond the greatest of JSON answers; a limit that is given counts.
#[test]
fn exports_have_no_limit() {
    let server = start(SCOPES);
    let query = |limit: Option<u64>| {
        let mut query = json!({"dimensions": ["many.n"]});
        query.as_object_mut().expect("an object").extend(limit.map(|limit| ("limit".to_owned(), json!(limit))));
        query
    };
    for (limit, expected) in [(None, MANY), (Some(60_000), 60_000), (Some(0), 0)] {
        let (reply, _) = export(&server, LINES, &query(limit));
        assert_eq!(reply.body.lines().count() as u64, expected, "{limit:?}");
        for format in [ARROW, PARQUET] {
            let (_, bytes) = export(&server, format, &query(limit));
            let rows: usize = batches_of(format, bytes).iter().map(RecordBatch::num_rows).sum();
            assert_eq!(rows as u64, expected, "{format} {limit:?}");
        }
    }
    let (reply, _) = export(&server, CSV, &query(Some(0)));
    assert_eq!(reply.body, "many.n\r\n");
    assert_eq!(server.load(&query(None))["quarry"]["truncated"], true, "JSON answers have theirs");
}

/// What an export cannot hold is refused, and a query that fails at once has its status.
#[test]
fn exports_are_the_rows_of_one_query() {
    let server = start(SCOPES);
    let refused = |query: Value, more: Value| {
        let mut body = json!({"query": query});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let reply = server.call("POST", LOAD).token(&valid_token()).header("accept", CSV).json(&body).send();
        (reply.status, reply.error())
    };
    let with = |key: &str, value: Value| {
        let mut query = daily();
        query[key] = value;
        query
    };
    for (query, more, what) in [
        (with("total", json!(true)), json!({}), "'total'"),
        (with("responseFormat", json!("compact")), json!({}), "'responseFormat'"),
        (json!([daily(), daily()]), json!({"queryType": "multi"}), "several queries"),
        (daily(), json!({"explain": true}), "an explanation"),
    ] {
        let (status, error) = refused(query, more);
        assert_eq!((status, error.starts_with(what)), (400, true), "{error}");
    }
    assert_eq!(refused(json!({"measures": ["no.such"]}), json!({})).0, 400);
    assert!(
        refused(with("filters", json!([{"member": "sales.total", "operator": "gt", "values": ["x"]}])), json!({})).0
            == 400
    );
}

/// Reads as much as there is, to the end of the connection.
fn raw(server: &Server, accept: &str, query: &Value) -> TcpStream {
    let body = json!({"query": query}).to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a socket");
    let head = format!(
        "POST {LOAD} HTTP/1.1\r\nhost: localhost\r\nauthorization: {}\r\naccept: {accept}\r\n\
         content-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        valid_token(),
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    stream
}

/// An error in the middle ends the body without its end: nobody takes it for a whole answer.
#[test]
fn a_broken_export_does_not_look_whole() {
    let server = start(SCOPES);
    let query = json!({"dimensions": ["broken.ratio"], "ungrouped": true, "order": []});
    for format in [LINES, CSV, ARROW, PARQUET] {
        let mut bytes = Vec::new();
        // A reset connection is an abnormal end, too.
        let ended = raw(&server, format, &query).read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        if text.starts_with("HTTP/1.1 400") {
            // Nothing had been sent when it failed.
            assert!(text.contains("division by zero"), "{format}: {text}");
            continue;
        }
        assert!(text.starts_with("HTTP/1.1 200"), "{format}: {}", text.chars().take(300).collect::<String>());
        assert!(ended.is_err() || !bytes.ends_with(b"0\r\n\r\n"), "{format} looks whole");
    }
    let mut bytes = Vec::new();
    raw(&server, LINES, &json!({"dimensions": ["many.n"]})).read_to_end(&mut bytes).expect("a whole body");
    assert!(bytes.ends_with(b"}\n\r\n0\r\n\r\n"), "a whole one ends with its last chunk");
    server.assert_alive();
}

/// Resident memory of the server, in bytes.
fn memory(server: &Server) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", server.id())).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
}

/// A reader that stops to read holds some pieces and no more; one that goes away ends the query.
#[test]
fn slow_readers_hold_little_memory() {
    let server = start(SCOPES);
    let query = json!({"dimensions": ["endless.text"], "ungrouped": true, "order": []});
    let mut readers: Vec<TcpStream> = (0..4).map(|_| raw(&server, LINES, &query)).collect();
    for reader in &mut readers {
        let mut begun = [0; 4096];
        reader.read_exact(&mut begun).expect("the first rows");
        assert!(begun.starts_with(b"HTTP/1.1 200"));
    }
    let before = memory(&server);
    crate::server::pause(Duration::from_secs(3));
    let grown = memory(&server).saturating_sub(before);
    assert!(grown < 128 << 20, "four readers that do not read hold {grown} bytes more after three seconds");
    // They go on where they stopped.
    for reader in &mut readers {
        let mut more = vec![0; 8 << 20];
        reader.read_exact(&mut more).expect("more rows");
    }
    drop(readers);
    // The places are free again: as many can be had at once.
    wait_until("exports after those", Duration::from_secs(60), || {
        let (reply, _) = export(&server, CSV, &json!({"dimensions": ["many.n"], "limit": 1}));
        (reply.body == "many.n\r\n1\r\n").then_some(())
    });
    server.assert_alive();
}
