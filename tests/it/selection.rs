//! What a job request selects: date ranges by the table of `pre-aggregations.md` §17.3, and what goes beyond Cube.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::events::{Month, events_project, seen_months, selector, write_events};
use crate::server::{ALL_SCOPES, JOBS, Project, Server, wait_until};

const MONTHS: [&str; 3] = ["2024-01", "2024-02", "2024-03"];

/// An hourly partitioned rollup beside the daily one: its first partition is that of 2024-01-01T12:00.
const HOURLY: &str = "
cubes:
  - name: hours
    sql_table: visits
    dimensions: [{name: at, sql: at, type: time}]
    measures: [{name: count, type: count}]
    pre_aggregations:
      - {name: hourly, measures: [count], time_dimension: at, granularity: hour, partition_granularity: hour}
";

fn post(server: &Server, more: &Value, body: &Value) -> crate::server::Reply {
    let mut request = json!({"action": "post", "selector": selector(more)});
    for (key, value) in body.as_object().into_iter().flatten() {
        request[key.as_str()] = value.clone();
    }
    server.post(JOBS, &request)
}

/// Where the partitions begin that a selection would build, as their digits stand in table names; none for one without.
#[track_caller]
fn selected(server: &Server, more: &Value) -> Vec<String> {
    let reply = post(server, more, &json!({"dry_run": true}));
    if reply.status == 400 {
        assert!(reply.error().contains("doesn't match any"), "{more}: {}", reply.body);
        return Vec::new();
    }
    assert_eq!(reply.status, 200, "{more}: {}", reply.body);
    let start = |job: &Value| job["partition"]["start"].as_str().unwrap_or("whole").replace(":00:00.000", "");
    reply.value()["jobs"].as_array().expect("jobs").iter().map(start).collect()
}

#[test]
fn date_ranges_select_as_the_table_of_17_3_says() {
    let project = events_project(&MONTHS, 90);
    project.write("model/hours.yml", HOURLY);
    let server = Server::start_with_jobs(&project);
    let (jan, feb, mar) = ("2024-01-01T00", "2024-02-01T00", "2024-03-01T00");
    let monthly: [(&str, [&str; 2], &[&str]); 10] = [
        ("the end touches the next bucket", ["2024-01-01", "2024-02-01"], &[jan, feb]),
        ("a whole month", ["2024-01-01", "2024-01-31"], &[jan]),
        ("the start is not clipped to the data", ["2024-01-01", "2024-01-03"], &[jan]),
        ("nor is the end, where Cube clips it", ["2024-03-28", "2024-03-31"], &[mar]),
        ("beyond both ends", ["2020-01-01", "2030-01-01"], &[jan, feb, mar]),
        ("before the data", ["2020-01-01", "2023-12-31T23:59:59.999"], &[]),
        ("after the data", ["2024-04-01", "2024-04-02"], &[]),
        ("start after end", ["2024-02-01", "2024-01-01"], &[]),
        ("an offset is converted to UTC", ["2024-02-01T02:00:00+05:30", "2024-02-01T03:00:00+05:30"], &[jan]),
        ("one instant, inclusive", ["2024-03-01T00:00:00.000Z", "2024-03-01T00:00:00.000Z"], &[mar]),
    ];
    for (what, range, expected) in monthly {
        let more = json!({"preAggregations": ["events.monthly"], "dateRange": range});
        assert_eq!(selected(&server, &more), expected, "{what}");
    }
    let days = |range: [&str; 2]| selected(&server, &json!({"cubes": ["visits"], "dateRange": range}));
    assert_eq!(days(["2024-01-03T06:00", "2024-01-03T18:00"]), ["2024-01-03T00"]);
    assert_eq!(days(["2024-01-01", "2024-01-03"]), ["2024-01-01T00", "2024-01-02T00", "2024-01-03T00"]);
    let hours = |range: [&str; 2]| selected(&server, &json!({"cubes": ["hours"], "dateRange": range})).len();
    assert_eq!(hours(["2024-01-01T00:00:00.000", "2024-01-01T23:59:59.999"]), 12, "from the first hour with data");
    assert_eq!(hours(["2024-01-01T13:00", "2024-01-01T13:30"]), 1);
    // An unpartitioned rollup is selected by every range.
    let whole = json!({"preAggregations": ["events.by_kind"], "dateRange": ["1999-01-01", "1999-01-02"]});
    assert_eq!(selected(&server, &whole), ["whole"]);
}

#[test]
fn date_ranges_are_wall_clock_of_each_zone() {
    let server = Server::start_with_jobs(&events_project(&MONTHS, 90));
    let selector = json!({
        "preAggregations": ["events.monthly"], "timezones": ["Asia/Tokyo", "UTC", "America/New_York"],
        "dateRange": ["2024-01-31T23:00", "2024-01-31T23:30"],
    });
    assert_eq!(selected(&server, &selector), ["2024-01-01T00"; 3], "no zone shifts the range");
}

/// `pre-aggregations.md` §24, 29: contexts × zones × partitions.
#[test]
fn conformance_29_two_contexts_two_zones_three_months_are_twelve_tokens() {
    let server = Server::start_with_jobs(&events_project(&MONTHS, 90));
    let contexts = json!([{"securityContext": {"tenant": 1}}, {"securityContext": {"tenant": 2}}]);
    let zones = json!(["UTC", "Asia/Tokyo"]);
    let more = json!({"contexts": contexts, "timezones": zones, "preAggregations": ["events.monthly"]});
    let tokens = server.post_jobs(&selector(&more));
    assert_eq!(tokens.len(), 12);
    assert_eq!(server.wait_jobs(&tokens), ["done"; 12]);
}

#[test]
fn partitions_can_be_named() {
    let server = Server::start_with_jobs(&events_project(&MONTHS, 90));
    let named = |names: Value| selected(&server, &json!({"cubes": ["events"], "partitions": names}));
    assert_eq!(named(json!(["20240201"])), ["2024-02-01T00"], "the unpartitioned rollup has none of that name");
    assert_eq!(named(json!(["2024-03-01", "2024-01-01"])), ["2024-01-01T00", "2024-03-01T00"]);
    assert_eq!(named(json!([])).len(), 4, "an empty list restricts nothing");
    let both = json!({
        "preAggregations": ["events.monthly"], "partitions": ["2024-02-01"], "dateRange": ["2024-01-01", "2024-02-05"],
    });
    assert_eq!(selected(&server, &both), ["2024-02-01T00"]);
    for (name, expected) in [
        ("2024-02-02", "No selected pre-aggregation has a partition that begins at 2024-02-02T00:00:00.000"),
        ("soon", "\"selector.partitions[0]\" must be the time a partition begins at, got \"soon\""),
    ] {
        let reply = post(&server, &json!({"partitions": [name]}), &json!({}));
        assert_eq!(reply.status, 400, "{}", reply.body);
        assert!(reply.error().contains(expected), "{}", reply.body);
    }
    let tokens = server.post_jobs(&selector(&json!({"cubes": ["events"], "partitions": ["20240201"]})));
    assert_eq!(server.wait_jobs(&tokens), ["done"]);
}

#[test]
fn if_stale_builds_only_what_is_missing_or_too_old() {
    let project = events_project(&MONTHS, 90);
    let server = Server::start_with_jobs(&project);
    let more = json!({"preAggregations": ["events.monthly"]});
    let stale = json!({"if_stale": true, "wait": true});
    let built = |server: &Server| post(server, &more, &stale).value().as_array().expect("a list").len();
    assert_eq!(built(&server), 3, "all are missing");
    assert_eq!(built(&server), 0, "all are fresh, and that is no fault");
    let months = ["2024-01", "2024-02", "2024-03", "2024-04"];
    write_events(&project, &months.map(|name| Month { name, rows: 90, generation: 2 }));
    assert_eq!(built(&server), 1, "the new month");
    let generations: Vec<i64> = seen_months(&server, "2024-04-30").iter().map(|month| month.generation()).collect();
    assert_eq!(generations, [1, 1, 1, 2]);
}

#[test]
fn a_dry_run_tells_what_would_be_built_and_builds_nothing() {
    let project = events_project(&MONTHS, 90);
    let server = Server::start_with_jobs(&project);
    let more = json!({"preAggregations": ["events.monthly"]});
    let dry = |body: &Value| post(&server, &more, body);
    let before = dry(&json!({"dry_run": true})).value();
    let nothing = json!({"jobs": 3, "neverBuilt": 3, "rows": 0, "sizeBytes": 0, "lastBuildMs": 0});
    assert_eq!((&before["dryRun"], &before["total"]), (&json!(true), &nothing));
    let first = &before["jobs"][0];
    assert_eq!(first["partition"], json!({"start": "2024-01-01T00:00:00.000", "end": "2024-02-01T00:00:00.000"}));
    assert_eq!((&first["freshness"], &first["rows"]), (&json!("missing"), &json!(null)), "{first}");
    assert!(project.stored_files().is_empty(), "nothing was built");
    assert_eq!(server.get("/quarry/v1/jobs").value()["total"], 0, "nothing was enqueued");

    server.build(&selector(&more));
    let after = dry(&json!({"dry_run": true})).value();
    let second = &after["jobs"][1];
    assert_eq!(second["freshness"], "fresh", "{second}");
    // 90 rows on 20 days, of three kinds: a row a day and kind.
    assert_eq!((second["rows"].as_u64(), after["total"]["rows"].as_u64()), (Some(60), Some(180)), "{after}");
    assert!(second["lastBuildMs"].is_u64() && second["builtAt"].is_string(), "{second}");
    assert_eq!(dry(&json!({"dry_run": true, "if_stale": true})).value()["jobs"], json!([]));
    let reply = dry(&json!({"dry_run": true, "wait": true}));
    assert_eq!((reply.status, reply.error().contains("\"dry_run\"")), (400, true), "{}", reply.body);
}

#[test]
fn a_request_that_waits_is_answered_with_the_ended_jobs() {
    let server = Server::start_with_jobs(&events_project(&MONTHS, 90));
    let reply = post(&server, &json!({"preAggregations": ["events.monthly"]}), &json!({"wait": 120}));
    let entries = reply.value();
    let statuses: Vec<&str> =
        entries.as_array().expect("entries").iter().filter_map(|e| e["status"].as_str()).collect();
    assert_eq!(statuses, ["done"; 3], "{entries}");
    assert_eq!(entries[0]["quarry"]["rows"], 60, "{entries}");
    assert!(entries[0]["token"].is_string(), "{entries}");
}

#[test]
fn without_force_an_empty_result_replaces_nothing() {
    let project = events_project(&MONTHS, 90);
    let server = Server::start_with_jobs(&project);
    let more = json!({"preAggregations": ["events.monthly"], "partitions": ["2024-02-01"]});
    server.build(&selector(&json!({"preAggregations": ["events.monthly"]})));
    write_events(&project, &["2024-01", "2024-03"].map(|name| Month { name, rows: 90, generation: 2 }));
    let build = |body: &Value| post(&server, &more, body).value()[0]["status"].as_str().expect("a status").to_owned();
    let refused = build(&json!({"force": false, "wait": true}));
    assert!(refused.starts_with("failure: ") && refused.contains("60"), "{refused}");
    assert_eq!(seen_months(&server, "2024-03-31").len(), 3, "the old rows stay");
    assert_eq!(build(&json!({"wait": true})), "done", "a request of Cube's own keys forces");
    assert_eq!(seen_months(&server, "2024-03-31").len(), 2);
}

/// Takes calls on a free port; answers each with the next status, and the last one for ever.
struct Receiver {
    url: String,
    calls: std::sync::mpsc::Receiver<Value>,
}

impl Receiver {
    fn start(statuses: &'static [u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/ended", listener.local_addr().expect("an address"));
        let (heard, calls) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let status = statuses[number.min(statuses.len() - 1)];
                let call = stream.and_then(|stream| answer(stream, status)).expect("a whole request");
                if heard.send(call).is_err() {
                    return;
                }
            }
        });
        Self { url, calls }
    }

    #[track_caller]
    fn next(&self) -> Value {
        self.calls.recv_timeout(Duration::from_secs(120)).expect("a call")
    }
}

fn answer(stream: TcpStream, status: u16) -> std::io::Result<Value> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line)? > 2 {
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().expect("a length");
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    Ok(serde_json::from_slice(&body).expect("JSON"))
}

#[test]
fn a_webhook_is_told_of_the_end_once_and_again_while_it_fails() {
    let project = events_project(&MONTHS, 90);
    project.write("model/troubles.yml", crate::orchestrators::TROUBLES);
    let server = Server::start_with_jobs(&project);
    let receiver = Receiver::start(&[503, 200]);
    let hook = json!({"webhook": receiver.url});
    let tokens = post(&server, &json!({"preAggregations": ["events.monthly"]}), &hook).value();
    let (first, second) = (receiver.next(), receiver.next());
    assert_eq!(first, second, "a call that failed is made again");
    assert_eq!((&first["event"], &first["status"]), (&json!("jobs.ended"), &json!("done")));
    let told: Vec<Value> = first["jobs"].as_array().expect("jobs").iter().map(|job| job["token"].clone()).collect();
    assert_eq!(json!(told), tokens, "all jobs of the request in one call");

    post(&server, &json!({"cubes": ["broken"]}), &hook);
    let third = receiver.next();
    assert_eq!(
        (&third["status"], &third["jobs"][0]["status"]),
        (&json!("failure"), &json!("failure: division by zero"))
    );
    assert!(receiver.calls.try_recv().is_err(), "a call that was taken is not repeated");
}

#[test]
fn a_webhook_outlives_the_server() {
    let project = Project::copy("events");
    write_events(&project, &MONTHS.map(|name| Month { name, rows: 90, generation: 1 }));
    crate::events::write_visits(&project, 300, 100);
    let settings = [("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES), ("CUBEJS_REFRESH_WORKER_CONCURRENCY", "1")];
    let server = Server::start_with(&project, &settings);
    let receiver = Receiver::start(&[200]);
    let tokens = post(&server, &json!({"cubes": ["visits"]}), &json!({"webhook": receiver.url})).value();
    wait_until("a build that is done, others not", Duration::from_secs(60), || {
        let page = server.get("/quarry/v1/jobs?state=done&limit=1").value();
        (page["total"].as_u64() > Some(0)).then_some(())
    });
    server.kill();
    assert!(receiver.calls.try_recv().is_err(), "not all had ended");
    let _server = Server::start_with(&project, &settings);
    let call = receiver.next();
    assert_eq!((&call["status"], call["jobs"].as_array().map(Vec::len)), (&json!("done"), Some(300)));
    assert_eq!(tokens.as_array().map(Vec::len), Some(300));
}
