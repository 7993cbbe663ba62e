//! SQL over cubes, over HTTP (`http-api.md` §7.1, §7.4, §7.5): rows, their form, faults, and what maps to one question.

mod node_postgres;
mod pg;
mod random;

use serde_json::{Value, json};

use crate::server::{Project, Reply, Server};

const CUBESQL: &str = "/cubejs-api/v1/cubesql";

/// Orders of two months, and their customers.
pub(crate) fn sql_project() -> Project {
    let project = Project::copy("sql");
    let orders = "id,customer_id,status,amount,paid,created_at,note\n\
                  1,1,open,10.5,true,2024-01-05T10:00:00,a\n\
                  2,1,Open,20.25,false,2024-01-20T23:30:00,b\n\
                  3,2,done,70,true,2024-02-01T00:00:00,c\n\
                  4,3,done,90.1,true,2024-02-14T12:00:00,d\n\
                  5,3,,5,,2024-02-29T08:00:00,e\n";
    project.write("data/orders.csv", orders);
    project.write("data/customers.csv", "id,city,credit\n1,Rome,100\n2,Oslo,200\n3,Rome,300\n");
    project
}

fn ask(server: &Server, sql: &str) -> Reply {
    server.post(CUBESQL, &json!({ "query": sql }))
}

/// The lines of an answer.
fn lines(reply: &Reply) -> Vec<Value> {
    assert!(reply.body.ends_with('\n'), "each line is ended: {}", reply.body);
    reply.body.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("a line {line}"))).collect()
}

/// The rows of a statement that must succeed, cells joined by `|`.
#[track_caller]
fn rows(server: &Server, sql: &str) -> Vec<String> {
    let reply = ask(server, sql);
    assert_eq!(reply.status, 200, "{sql}: {}", reply.body);
    let lines = lines(&reply);
    let data =
        lines[1..].iter().flat_map(|line| line["data"].as_array().unwrap_or_else(|| panic!("{sql}: {line}")).clone());
    let cell = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
    data.map(|row| row.as_array().expect("a row").iter().map(cell).collect::<Vec<_>>().join("|")).collect()
}

#[track_caller]
fn check(server: &Server, sql: &str, expected: &[&str]) {
    assert_eq!(rows(server, sql), expected, "{sql}");
}

/// The error of a statement.
#[track_caller]
fn error(server: &Server, sql: &str) -> String {
    let reply = ask(server, sql);
    assert_eq!(reply.status, 200, "faults of SQL are lines: {sql}: {}", reply.body);
    let lines = lines(&reply);
    let last = lines.last().expect("a line");
    assert!(last["requestId"].is_string(), "{sql}: {last}");
    last["error"].as_str().unwrap_or_else(|| panic!("{sql}: {last}")).to_owned()
}

#[track_caller]
fn check_error(server: &Server, sql: &str, part: &str) {
    let text = error(server, sql);
    assert!(text.contains(part), "{sql}: '{text}' lacks '{part}'");
}

/// `regular` or `post_processing`.
fn kind(server: &Server, sql: &str) -> String {
    let reply = server.post("/cubejs-api/v1/sql", &json!({"query": sql, "format": "sql"}));
    assert_eq!(reply.status, 200, "{sql}: {}", reply.body);
    reply.value()["sql"]["query_type"].as_str().expect("a type").to_owned()
}

/// Statements that are one question each, and their rows.
const QUESTIONS: &[(&str, &[&str])] = &[
    (
        "SELECT MEASURE(count), SUM(total), COUNT(DISTINCT buyers), MIN(least), MAX(greatest) FROM orders",
        &["5|195.85|3|5|90.1"],
    ),
    ("SELECT COUNT(*) FROM orders", &["5"]),
    ("SELECT count(count) AS n, AVG(mean) FROM orders WHERE status = 'done'", &["2|80.05"]),
    ("SELECT status, COUNT(*) FROM orders GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 2", &["done|2", "Open|1"]),
    ("SELECT status FROM orders GROUP BY status ORDER BY status DESC", &["null", "open", "done", "Open"]),
    (
        "SELECT status AS a, status AS b, COUNT(*) FROM orders WHERE paid GROUP BY 1, 2 ORDER BY 1",
        &["done|done|2", "open|open|1"],
    ),
    (
        "SELECT status, STATUS, orders.status, COUNT(*) FROM orders WHERE paid GROUP BY 1, 2, 3 ORDER BY status",
        &["done|done|done|2", "open|open|open|1"],
    ),
    ("SELECT paid AS a, status AS a FROM orders WHERE id = 3", &["true|done"]),
    ("SELECT DISTINCT paid FROM orders ORDER BY paid", &["false", "true", "null"]),
    (
        "SELECT status, MEASURE(total) t FROM orders GROUP BY 1 HAVING MEASURE(total) > 20 ORDER BY t",
        &["Open|20.25", "done|160.1"],
    ),
    ("SELECT status FROM orders GROUP BY 1 HAVING SUM(total) < 15 ORDER BY 1", &["open", "null"]),
    (
        "SELECT DATE_TRUNC('month', createdAt) m, COUNT(*) FROM orders GROUP BY 1 ORDER BY 1",
        &["2024-01-01T00:00:00.000|2", "2024-02-01T00:00:00.000|3"],
    ),
    ("SELECT COUNT(*) FROM orders WHERE createdAt >= '2024-01-20' AND createdAt < '2024-02-14T12:00:00'", &["2"]),
    ("SELECT COUNT(*) FROM orders WHERE createdAt > '2024-02-01' AND createdAt <= '2024-02-14T12:00:00'", &["1"]),
    ("SELECT COUNT(*) FROM orders WHERE createdAt BETWEEN '2024-02-01' AND '2024-02-14T12:00:00'", &["2"]),
    ("SELECT COUNT(*) FROM orders WHERE date_trunc('month', createdAt) = '2024-02-01'", &["3"]),
    ("SELECT COUNT(*) FROM orders WHERE CAST(createdAt AS DATE) <= DATE '2024-01-20'", &["2"]),
    ("SELECT COUNT(*) FROM orders WHERE createdAt < now() - interval '1 day'", &["5"]),
    ("SELECT COUNT(*) FROM orders WHERE createdAt >= CURRENT_DATE + 1", &["0"]),
    ("SELECT COUNT(*) FROM orders WHERE status <> 'done'", &["2"]),
    ("SELECT COUNT(*) FROM orders WHERE NOT (status = 'done' OR amount > 20)", &["1"]),
    ("SELECT COUNT(*) FROM orders WHERE status IN ('open', 'done') AND NOT paid", &["0"]),
    ("SELECT COUNT(*) FROM orders WHERE status NOT IN ('open', 'done')", &["1"]),
    ("SELECT COUNT(*) FROM orders WHERE status IS NULL OR paid IS NOT TRUE", &["2"]),
    ("SELECT COUNT(*) FROM orders WHERE status ILIKE '%PEN'", &["2"]),
    ("SELECT COUNT(*) FROM orders WHERE status NOT ILIKE 'o%'", &["2"]),
    ("SELECT COUNT(*) FROM orders WHERE large", &["2"]),
    ("SELECT COUNT(*) FROM orders WHERE NOT large AND amount >= 10.5", &["2"]),
    ("SELECT large, COUNT(*) FROM orders GROUP BY 1 ORDER BY 1", &["false|3", "true|2"]),
    ("SELECT id, amount, paid FROM orders WHERE id <= 2 ORDER BY id", &["1|10.5|true", "2|20.25|false"]),
    ("SELECT id FROM orders ORDER BY id DESC LIMIT 2 OFFSET 1", &["4", "3"]),
    ("SELECT id, total FROM orders WHERE id = 3", &["3|70"]),
    ("SELECT id FROM (SELECT id, status FROM orders WHERE id > 1) q WHERE status = 'done' ORDER BY 1", &["3", "4"]),
    ("SELECT city, MEASURE(total) FROM sales GROUP BY city ORDER BY city", &["Oslo|70", "Rome|125.85"]),
];

/// Statements whose questions leave work, and their rows.
const WORK: &[(&str, &[&str])] = &[
    ("SELECT COUNT(*) FROM orders WHERE status LIKE '%pen'", &["2"]),
    ("SELECT COUNT(*), SUM(total) FROM orders WHERE status LIKE 'o%'", &["1|10.5"]),
    (
        "SELECT lower(status) s, COUNT(*), SUM(total) FROM orders GROUP BY 1 ORDER BY 1",
        &["done|2|160.1", "open|2|30.75", "null|1|5"],
    ),
    (
        "SELECT upper(status), MEASURE(mean) FROM orders WHERE length(status) = 4 AND status = 'done' GROUP BY status",
        &["DONE|80.05"],
    ),
    ("SELECT extract(month FROM createdAt) m, MEASURE(count) FROM orders GROUP BY 1 ORDER BY 1", &["1|2", "2|3"]),
    ("SELECT SUM(amount * 2) FROM orders", &["391.7"]),
    ("SELECT MIN(createdAt), COUNT(*) FROM orders", &["2024-01-05T10:00:00.000|5"]),
    ("SELECT MEASURE(total) / MEASURE(count) FROM orders", &["39.17"]),
    ("SELECT MEASURE(total) * 2 + 1 AS x FROM orders", &["392.7"]),
    ("SELECT avg(t) FROM (SELECT status, MEASURE(total) t FROM orders GROUP BY 1) q", &["48.9625"]),
    (
        "WITH m AS (SELECT DATE_TRUNC('month', createdAt) m, SUM(total) t FROM orders GROUP BY 1) \
         SELECT m, t, SUM(t) OVER (ORDER BY m) FROM m ORDER BY m",
        &["2024-01-01T00:00:00.000|30.75|30.75", "2024-02-01T00:00:00.000|165.1|195.85"],
    ),
    ("SELECT id FROM orders WHERE amount > (SELECT AVG(mean) FROM orders) ORDER BY id", &["3", "4"]),
    (
        "SELECT c.city, o.id FROM (SELECT id, status FROM orders) o JOIN (SELECT city, count(*) n FROM customers GROUP BY 1) c \
         ON c.n = o.id ORDER BY 1",
        &["Oslo|1", "Rome|2"],
    ),
    (
        "SELECT status FROM orders WHERE id = 1 UNION ALL SELECT city FROM customers WHERE city = 'Oslo' ORDER BY 1 DESC",
        &["open", "Oslo"],
    ),
    ("SELECT 'x' AS a, MEASURE(buyers) FROM orders GROUP BY 1", &["x|3"]),
    ("SELECT COUNT(*) FROM (SELECT status FROM orders LIMIT 3) q", &["3"]),
    ("SELECT 1 + 1 AS two", &["2"]),
    ("SELECT 1, 1, NULL, NULL::text", &["1|1|null|null"]),
    (
        "SELECT id FROM orders o WHERE amount = (SELECT max(amount) FROM orders i WHERE i.status = o.status) ORDER BY id",
        &["1", "2", "4"],
    ),
];

#[test]
fn statements_give_the_rows_that_sql_says() {
    let server = Server::start(&sql_project());
    for (statements, expected) in [(QUESTIONS, "regular"), (WORK, "post_processing")] {
        for (sql, expected_rows) in statements {
            check(&server, sql, expected_rows);
            assert_eq!(kind(&server, sql), expected, "{sql}");
        }
    }
    for join in ["CROSS JOIN customers c", "LEFT JOIN customers c ON o.__cubeJoinField = c.__cubeJoinField"] {
        let sql = format!("SELECT c.city, SUM(o.total) FROM orders o {join} GROUP BY 1 ORDER BY 1");
        check(&server, &sql, &["Oslo|70", "Rome|125.85"]);
        assert_eq!(kind(&server, &sql), "regular", "{sql}");
    }
    server.assert_alive();
}

#[test]
fn measures_are_never_aggregated_wrongly() {
    let server = Server::start(&sql_project());
    for (sql, part) in [
        (
            "SELECT SUM(count) FROM orders",
            "Measure aggregation type doesn't match. The aggregation type for 'count' is 'COUNT()' but 'SUM()' was provided",
        ),
        ("SELECT COUNT(buyers) FROM orders", "is 'COUNT(DISTINCT)' but 'COUNT()' was provided"),
        ("SELECT MEASURE(status) FROM orders", "MEASURE() takes a measure"),
        ("SELECT COUNT(*) FROM orders WHERE total > 5", "use HAVING"),
        ("SELECT lower(status), MEASURE(buyers) FROM orders GROUP BY 1", "cannot be put together from smaller groups"),
        ("SELECT MEASURE(mean) FROM orders WHERE length(status) = 4", "cannot be put together from smaller groups"),
        ("SELECT MEASURE(count), SUM(amount) FROM orders", "take them from two sub-queries"),
        ("SELECT SUM(total * 2) FROM orders", "is aggregated already"),
        ("SELECT SUM(t) FROM (SELECT total AS t FROM orders LIMIT 3) q", "cannot be aggregated after"),
        ("SELECT status FROM orders GROUP BY status, total", "cannot stand in GROUP BY"),
        ("SELECT MEASURE(count) FILTER (WHERE paid) FROM orders", "FILTER cannot be applied"),
        (
            "SELECT lower(c.city), SUM(c.credit) FROM orders o CROSS JOIN customers c GROUP BY lower(c.city), lower(o.status)",
            "cannot be put together from smaller groups",
        ),
        (
            "SELECT o.id FROM orders o JOIN customers c ON o.__cubeJoinField = c.__cubeJoinField AND c.city = 'Rome'",
            "with no other condition",
        ),
        ("SELECT a.id FROM orders a CROSS JOIN orders b", "cannot be joined to itself"),
        ("SELECT nope FROM orders", "nope"),
        ("SELECT secret FROM orders", "secret"),
        ("SELECT * FROM nowhere", "nowhere"),
        ("SELEC 1", "syntax error"),
        ("DROP TABLE orders", "only queries"),
        ("INSERT INTO orders VALUES (1)", ""),
        ("SELECT id FROM orders LIMIT 50001", "The query limit has been exceeded."),
        ("SELECT * FROM 'data/orders.csv'", ""),
        ("SELECT \"id", ""),
    ] {
        check_error(&server, sql, part);
    }
    server.assert_alive();
}

#[test]
fn results_are_never_cut_in_silence() {
    let settings = [("CUBEJS_DB_QUERY_LIMIT", "3")];
    let project = sql_project();
    let server = Server::start_with(&project, &settings);
    check_error(&server, "SELECT id FROM orders", "the result has more than 3 rows");
    check_error(&server, "SELECT lower(status) || 'x', id + 1 FROM orders", "the result has more than 3 rows");
    check_error(&server, "SELECT id FROM orders LIMIT 4", "The query limit has been exceeded.");
    check(&server, "SELECT id FROM orders ORDER BY 1 LIMIT 3", &["1", "2", "3"]);
    // What is worked on is not what is given.
    check(&server, "SELECT SUM(amount) FROM orders", &["195.85"]);
    check(&server, "SELECT MAX(x) FROM (SELECT id + 1 AS x FROM orders) q", &["6"]);
    drop(server);
    let server = Server::start_with(&project, &[settings[0], ("CUBESQL_STREAM_MODE", "true")]);
    assert_eq!(rows(&server, "SELECT id FROM orders").len(), 5);
    assert_eq!(rows(&server, "SELECT id FROM orders LIMIT 4").len(), 4);
}

#[test]
fn answers_are_lines_as_the_contract_says() {
    let server = Server::start(&sql_project());
    let reply = ask(
        &server,
        "SELECT status AS s, MEASURE(count) AS n, MEASURE(total) AS t, paid, MAX(last) AS l FROM orders \
                              WHERE id = 1 GROUP BY 1, 4",
    );
    let answer = lines(&reply);
    assert_eq!(
        answer[0]["schema"],
        json!([
            {"name": "s", "column_type": "String"},
            {"name": "n", "column_type": "Int64"},
            {"name": "t", "column_type": "Double", "format": "currency"},
            {"name": "paid", "column_type": "Boolean"},
            {"name": "l", "column_type": "Timestamp"},
        ])
    );
    assert!(answer[0]["lastRefreshTime"].is_string());
    assert!(answer[0].get("external").is_none());
    assert_eq!(answer[1], json!({"data": [["open", "1", "10.5", true, "2024-01-05T10:00:00.000"]]}));
    assert_eq!(answer.len(), 2);
    // Trap 33: an empty result has exactly one line of data.
    for sql in [
        "SELECT id FROM orders WHERE id = 99",
        "SELECT id + 1 FROM orders WHERE id = 99",
        "SELECT id FROM orders LIMIT 0",
    ] {
        let answer = lines(&ask(&server, sql));
        assert_eq!(answer[1..], [json!({"data": []})], "{sql}");
    }
    let reply = ask(&server, "SELECT id, createdAt FROM orders WHERE id = 2");
    assert_eq!(lines(&reply)[1], json!({"data": [["2", "2024-01-20T23:30:00.000"]]}));
    // The zone moves days.
    let in_berlin = server.post(
        CUBESQL,
        &json!({"query": "SELECT DATE_TRUNC('day', createdAt) d FROM orders WHERE id = 2 GROUP BY 1", "timezone": "Europe/Berlin",
                "method": "leaked", "throwContinueWait": true, "cache": "must-revalidate"}),
    );
    assert_eq!(lines(&in_berlin)[1], json!({"data": [["2024-01-21T00:00:00.000"]]}));
    for (body, text) in [
        (json!({}), "Invalid query format: \"query\" is required"),
        (json!({"query": 5}), "Invalid query format: \"query\" must be a string"),
        (
            json!({"query": "SELECT 1", "timezone": "Nowhere/Land"}),
            "Invalid query format: \"timezone\" is no IANA time zone",
        ),
        (
            json!({"query": "SELECT 1", "throwContinueWait": 5}),
            "Invalid query format: \"throwContinueWait\" must be a boolean",
        ),
    ] {
        let reply = server.post(CUBESQL, &body);
        assert_eq!((reply.status, reply.value()["error"].as_str()), (400, Some(text)), "{body}");
    }
    let reply = server.post(CUBESQL, &json!({"query": "SELECT 1", "cache": "x"}));
    assert_eq!(reply.status, 400);
}

#[test]
fn scopes_guard_every_way_to_sql() {
    let server = Server::start_with(&sql_project(), &[("CUBEJS_DEFAULT_API_SCOPES", "meta")]);
    for (path, scope) in [(CUBESQL, "data"), ("/cubejs-api/v1/sql", "sql"), ("/cubejs-api/v1/convert-query", "sql")] {
        let reply = server.post(path, &json!({"query": "SELECT 1", "format": "sql", "input": "sql", "output": "rest"}));
        assert_eq!(reply.status, 403, "{path}");
        assert_eq!(reply.value()["error"], json!(format!("API scope is missing: {scope}")));
        let reply = server.call("POST", path).json(&json!({"query": "SELECT 1"})).send();
        assert_eq!(reply.status, 403, "{path}");
    }
}

#[test]
fn policies_hold_in_sql_too() {
    let server = Server::start(&sql_project());
    check(&server, "SELECT COUNT(*) FROM guarded", &["1"]);
    check(&server, "SELECT lower(status), COUNT(*) FROM guarded GROUP BY 1", &["open|1"]);
    check(&server, "SELECT COUNT(*) FROM (SELECT status FROM guarded) a", &["1"]);
    check(&server, "SELECT COUNT(*) FROM guarded WHERE status = 'done' OR 1 = 1", &["1"]);
    check(&server, "SELECT status FROM guarded UNION SELECT status FROM guarded WHERE status = 'done'", &["open"]);
    check_error(&server, "SELECT note FROM guarded", "note");
}

#[test]
fn rollups_answer_sql() {
    let server = Server::start_with_jobs(&sql_project());
    server.build(&crate::events::selector(&json!({"timezones": ["UTC"]})));
    let used = |sql: &str| {
        let answer = lines(&ask(&server, sql));
        assert!(answer[0]["schema"].is_array(), "{sql}: {answer:?}");
        answer[0].get("usedPreAggregations").is_some()
    };
    for sql in [
        "SELECT status, SUM(total) FROM orders GROUP BY 1",
        "SELECT DATE_TRUNC('month', createdAt), COUNT(*) FROM orders GROUP BY 1",
        "SELECT COUNT(*) FROM orders WHERE createdAt >= '2024-02-01' AND createdAt < '2024-03-01'",
        "SELECT COUNT(*) FROM orders WHERE createdAt BETWEEN '2024-02-01' AND '2024-02-29T23:59:59.999'",
        "SELECT lower(status), COUNT(*) * 2 FROM orders GROUP BY 1",
        "SELECT avg(n) FROM (SELECT status, COUNT(*) n FROM orders GROUP BY 1) q",
    ] {
        assert!(used(sql), "{sql}");
    }
    assert!(!used("SELECT COUNT(DISTINCT buyers) FROM orders"));
    check(&server, "SELECT COUNT(*) FROM orders WHERE createdAt >= '2024-02-01' AND createdAt < '2024-03-01'", &["3"]);
    let reply = server.post(
        "/cubejs-api/v1/sql",
        &json!({"query": "SELECT status, COUNT(*) FROM orders WHERE status = 'x' GROUP BY 1", "format": "sql"}),
    );
    let body = reply.value();
    assert_eq!(body["sql"]["status"], "ok");
    assert_eq!(body["sql"]["sql"][1], json!(["x"]), "{body}");
    let reply = server.get("/cubejs-api/v1/sql?format=sql&query=SELECT%20lower(status)%20FROM%20orders");
    let text = "Provided query can not be executed without post-processing.";
    assert_eq!(reply.value(), json!({"sql": {"status": "error", "error": text, "query_type": "post_processing"}}));
    let reply = server.post("/cubejs-api/v1/sql", &json!({"query": "SELECT nope FROM orders", "format": "sql"}));
    assert_eq!(reply.status, 400);
    assert!(reply.value()["error"].as_str().expect("a text").starts_with("Error: "));
}

#[test]
fn statements_convert_to_query_objects() {
    let server = Server::start(&sql_project());
    let convert = |sql: &str| {
        let reply =
            server.post("/cubejs-api/v1/convert-query", &json!({"input": "sql", "output": "rest", "query": sql}));
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.value()
    };
    let filters = json!([{"member": "orders.status", "operator": "equals", "values": ["new"]}]);
    assert_eq!(
        convert("SELECT SUM(total) FROM orders WHERE status = 'new'"),
        json!({"status": "ok", "query": {"measures": ["orders.total"], "dimensions": [], "segments": [], "filters": filters,
               "order": []}})
    );
    let whole = convert(
        "SELECT status, DATE_TRUNC('day', createdAt) d, COUNT(*) FROM orders WHERE large AND createdAt >= '2024-01-01' AND \
         createdAt < '2024-02-01' GROUP BY 1, 2 HAVING COUNT(*) > 1 ORDER BY 3 DESC LIMIT 7 OFFSET 2",
    );
    let query = whole["query"].clone();
    assert_eq!(
        query,
        json!({"measures": ["orders.count"], "dimensions": ["orders.status"], "segments": ["orders.large"],
               "timeDimensions": [{"dimension": "orders.createdAt",
                                   "dateRange": ["2024-01-01T00:00:00.000", "2024-01-31T23:59:59.999"], "granularity": "day"}],
               "filters": [{"member": "orders.count", "operator": "gt", "values": ["1"]}],
               "order": [["orders.count", "desc"]], "limit": 7, "offset": 2})
    );
    // The object asks the same.
    assert_eq!(server.rows(&query).len(), 0);
    let text = "Provided sql query can not be converted to rest query.";
    assert_eq!(convert("SELECT lower(status) FROM orders"), json!({"status": "error", "error": text}));
    for (body, text) in [
        (json!({"input": "x", "output": "rest", "query": "SELECT 1"}), "Error: Unexpected input parameter value 'x'"),
        (json!({"input": "sql", "output": "y", "query": "SELECT 1"}), "Error: Unexpected output parameter value 'y'"),
        (json!({"input": "sql", "output": "rest", "query": ""}), "Error: query parameter must be a non-empty string"),
    ] {
        let reply = server.post("/cubejs-api/v1/convert-query", &body);
        assert_eq!((reply.status, reply.value()["error"].as_str()), (400, Some(text)), "{body}");
    }
}
