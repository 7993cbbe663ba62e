//! Acceptance 4: jobs rebuild exactly the partitions that their range meets, and say the truth about it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::events::{Month, events_project, seen_months, selector, uses_rollup, write_events, write_visits};
use crate::server::{ALL_SCOPES, JOBS, Project, SECRET, Server, is_live, sign, wait_until};

const MONTHS: [&str; 3] = ["2024-01", "2024-02", "2024-03"];
const LAST_DAY: &str = "2024-03-31";

fn generations(server: &Server) -> Vec<(String, i64)> {
    seen_months(server, LAST_DAY).iter().map(|month| (month.name.clone(), month.generation())).collect()
}

fn monthly(range: &[&str]) -> Value {
    match range {
        [] => selector(&json!({"preAggregations": ["events.monthly"]})),
        range => selector(&json!({"preAggregations": ["events.monthly"], "dateRange": range})),
    }
}

#[test]
fn of_two_changed_months_only_the_one_asked_for_is_rebuilt() {
    let project = events_project(&MONTHS, 600);
    let server = Server::start_with_jobs(&project);
    assert_eq!(server.build(&monthly(&[])), 3);
    let month = |name, generation| Month { name, rows: 600 + 60 * generation, generation };
    write_events(&project, &[Month { generation: 1, ..month("2024-01", 0) }, month("2024-02", 2), month("2024-03", 2)]);

    let files = project.stored_files();
    assert_eq!(server.build(&monthly(&["2024-02-01", "2024-02-29"])), 1);
    let expected = [("2024-01".to_owned(), 1), ("2024-02".to_owned(), 2), ("2024-03".to_owned(), 1)];
    assert_eq!(generations(&server), expected);
    let counts: Vec<_> = seen_months(&server, LAST_DAY).iter().map(|month| month.count).collect();
    assert_eq!(counts, [600, 720, 600], "new rows in the new month only");
    let created = project.stored_files().iter().filter(|file| !files.contains(file)).count();
    assert_eq!(created, 1, "one partition, one new file");

    // What was built outlives the process.
    server.kill();
    let server = Server::start_with_jobs(&project);
    assert_eq!(generations(&server), expected);
    assert_eq!(server.build(&monthly(&["2024-03-05", "2024-03-05"])), 1);
    assert_eq!(generations(&server)[2], ("2024-03".to_owned(), 2));
}

#[test]
fn tokens_are_given_for_the_partitions_that_a_range_meets() {
    let project = events_project(&MONTHS, 90);
    let server = Server::start_with_jobs(&project);
    let count = |range: &[&str]| server.build(&monthly(range));
    assert_eq!(count(&["2024-02-10", "2024-02-11"]), 1);
    assert_eq!(count(&["2024-01-31", "2024-02-01"]), 2, "both ends count");
    assert_eq!(count(&["2024-01-31T23:59:59.999", "2024-02-01T00:00:00.000"]), 2);
    assert_eq!(count(&["2024-02-01T00:00:00Z", "2024-02-29T23:59:59.999Z"]), 1);
    assert_eq!(count(&["2023-01-01", "2025-01-01"]), 3);
    let reply = server.post(JOBS, &json!({"action": "post", "selector": monthly(&["2030-01-01", "2030-02-01"])}));
    assert_eq!(reply.status, 400, "{}", reply.body);
    assert!(reply.error().contains("doesn't match any"), "{}", reply.body);
    // A partition without range is always selected.
    let both = json!({"cubes": ["events"], "dateRange": ["2024-02-10", "2024-02-11"]});
    assert_eq!(server.build(&selector(&both)), 2);
}

#[test]
fn selections_restrict_together() {
    let project = events_project(&MONTHS, 90);
    let server = Server::start_with_jobs(&project);
    let cases = [
        (json!({}), 3 + 1 + 10),
        (json!({"cubes": []}), 3 + 1 + 10),
        (json!({"cubes": ["events"]}), 4),
        (json!({"cubes": ["visits"]}), 10),
        (json!({"cubes": ["events", "visits", "nope"]}), 14),
        (json!({"preAggregations": ["events.by_kind"]}), 1),
        (json!({"preAggregations": ["events.by_kind", "visits.daily"]}), 11),
        (json!({"dataSources": ["default"]}), 14),
        (json!({"cubes": ["events"], "preAggregations": ["events.monthly"], "dataSources": ["default"]}), 3),
        (json!({"cubes": ["visits"], "dateRange": ["2024-01-03", "2024-01-04"]}), 2),
        (json!({"cubes": ["visits"], "preAggregations": ["events.monthly"]}), 0),
        (json!({"dataSources": ["other"]}), 0),
        (json!({"cubes": ["nope"]}), 0),
        (json!({"preAggregations": ["events.nope"]}), 0),
    ];
    for (more, expected) in cases {
        let reply = server.post(JOBS, &json!({"action": "post", "selector": selector(&more)}));
        if expected == 0 {
            assert_eq!(reply.status, 400, "{more}: {}", reply.body);
            assert_eq!(
                reply.error(),
                "A user's selector doesn't match any of the pre-aggregations defined in the data model.",
                "{more}"
            );
        } else {
            let count = reply.value().as_array().map_or(0, Vec::len);
            assert_eq!((reply.status, count), (200, expected), "{more}: {}", reply.body);
        }
    }
}

#[test]
fn entries_tell_what_a_token_stands_for() {
    let project = events_project(&MONTHS, 90);
    let server = Server::start_with_jobs(&project);
    let selector = json!({
        "contexts": [{"securityContext": {"tenant_id": 7}}],
        "timezones": ["UTC", "America/Los_Angeles"],
        "preAggregations": ["events.monthly"],
        "dateRange": ["2024-01-01", "2024-02-29"],
    });
    let tokens = server.post_jobs(&selector);
    assert_eq!(tokens.len(), 4, "two zones, two months");
    let mut asked = tokens.clone();
    asked.insert(1, "deadbeef".to_owned());
    let early = server.job_entries(&asked);
    for (token, entry) in asked.iter().zip(&early) {
        assert_eq!(entry["token"], *token, "entries come in the order of the tokens");
    }
    assert_eq!(early[1], json!({"token": "deadbeef", "status": "not_found"}));
    for entry in [&early[0], &early[4]] {
        let status = entry["status"].as_str().expect("a status");
        assert!(["scheduled", "processing", "done"].contains(&status), "{entry}");
    }
    assert_eq!(server.wait_jobs(&tokens), ["done"; 4]);

    let entries = server.job_entries(&tokens);
    for (entry, zone) in entries.iter().zip(["UTC", "UTC", "America/Los_Angeles", "America/Los_Angeles"]) {
        let expected = json!({
            "cubes": ["events"],
            "preAggregations": ["events.monthly"],
            "contexts": [{"securityContext": {"tenant_id": 7}}],
            "timezones": [zone],
            "dataSources": ["default"],
        });
        assert_eq!(entry["selector"], expected);
    }
    let tables: Vec<_> = entries.iter().map(|entry| entry["table"].as_str().expect("a table").to_owned()).collect();
    for (table, digits) in tables.iter().zip(["20240101", "20240201", "20240101", "20240201"]) {
        assert!(table.starts_with(&format!("prod_pre_aggregations.events_monthly{digits}")), "{table}");
    }

    let reply = server.post(JOBS, &json!({"action": "get", "tokens": asked, "resType": "object"}));
    let object = reply.value();
    assert_eq!(object.as_object().map(serde_json::Map::len), Some(5), "{object}");
    assert_eq!(object["deadbeef"], json!({"status": "not_found"}));
    assert_eq!(object[tokens[0].as_str()]["status"], "done");
    assert_eq!(object[tokens[0].as_str()].get("token"), None, "the token is the key");
    assert_eq!(object[tokens[0].as_str()]["table"], tables[0]);

    // Tokens are durable.
    server.kill();
    let server = Server::start_with_jobs(&project);
    assert_eq!(server.wait_jobs(&tokens), ["done"; 4]);
}

#[test]
fn zones_have_rollups_of_their_own() {
    let project = events_project(&MONTHS, 90);
    let server = Server::start_with_jobs(&project);
    let zones = json!({"timezones": ["Asia/Kolkata"], "preAggregations": ["events.monthly"]});
    assert_eq!(server.build(&selector(&zones)), 3);
    let ask = |zone: &str| {
        server.load(&json!({
            "measures": ["events.count"], "timezone": zone,
            "timeDimensions": [{"dimension": "events.at", "granularity": "day", "dateRange": ["2024-01-01", "2024-03-31"]}],
        }))
    };
    assert!(uses_rollup(&ask("Asia/Kolkata"), "events.monthly"));
    let utc = ask("UTC");
    assert!(!uses_rollup(&utc, "events.monthly"), "no daily rollup of another zone fits: {utc}");
    assert!(!utc["data"].as_array().expect("rows").is_empty());
}

#[test]
fn equal_requests_share_their_live_jobs() {
    let project = Project::copy("events");
    write_events(&project, &[Month { name: "2024-01", rows: 10, generation: 1 }]);
    write_visits(&project, 200, 200);
    let settings = [("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES), ("CUBEJS_REFRESH_WORKER_CONCURRENCY", "1")];
    let server = Server::start_with(&project, &settings);
    let visits = selector(&json!({"cubes": ["visits"]}));
    wait_until("a second request that finds the first one's jobs alive", Duration::from_secs(120), || {
        let first = server.post_jobs(&visits);
        let second = server.post_jobs(&visits);
        let entries = server.job_entries(&first);
        assert_eq!((first.len(), second.len()), (200, 200));
        let mut shared = 0;
        for ((one, other), entry) in first.iter().zip(&second).zip(&entries) {
            // Alive after the second request means alive during it.
            if is_live(entry["status"].as_str().expect("a status")) {
                assert_eq!(one, other, "a live job is joined: {entry}");
                shared += 1;
            }
        }
        server.wait_jobs(&first);
        server.wait_jobs(&second);
        (shared > 0).then_some(())
    });
    let first = server.post_jobs(&visits);
    server.wait_jobs(&first);
    let later = server.post_jobs(&visits);
    assert!(first.iter().all(|token| !later.contains(token)), "an ended job is not joined");
    server.wait_jobs(&later);
}

#[test]
fn a_build_that_fails_says_why() {
    let project = events_project(&MONTHS, 90);
    let server = Server::start_with_jobs(&project);
    assert_eq!(server.build(&monthly(&[])), 3);
    project.write("data/events.parquet", "this is no Parquet file");
    let reply = server.post(JOBS, &json!({"action": "post", "selector": monthly(&["2024-02-01", "2024-02-02"])}));
    if reply.status == 200 {
        let tokens: Vec<String> = serde_json::from_value(reply.value()).expect("tokens");
        let statuses = server.wait_jobs(&tokens);
        assert!(statuses.iter().all(|status| status.starts_with("failure: ")), "{statuses:?}");
    } else {
        assert_eq!(reply.status, 400, "{}", reply.body);
        assert!(!reply.error().is_empty());
    }
    assert_eq!(generations(&server).len(), 3, "what was published stays");
    server.assert_alive();
}

#[test]
fn jobs_are_closed_by_default() {
    let server = Server::start(&events_project(&MONTHS, 9));
    let reply = server.post(JOBS, &json!({"action": "post", "selector": monthly(&[])}));
    assert_eq!((reply.status, reply.error().as_str()), (403, "API scope is missing: jobs"));
    let reply = server.call("POST", JOBS).json(&json!({"action": "get", "tokens": ["x"]})).send();
    assert_eq!((reply.status, reply.error().as_str()), (403, "Authorization header isn't set"));
}

#[test]
fn bad_job_requests_are_told_what_is_wrong() {
    let server = Server::start_with_jobs(&events_project(&MONTHS, 9));
    let good = selector(&json!({}));
    let with = |key: &str, value: Value| {
        let mut changed = good.clone();
        changed[key] = value;
        json!({"action": "post", "selector": changed})
    };
    let without = |key: &str| {
        let mut changed = good.clone();
        changed.as_object_mut().expect("an object").remove(key);
        json!({"action": "post", "selector": changed})
    };
    let cases = [
        (json!({}), "No job description provided"),
        (json!({"action": "zap"}), r#"Invalid Job query format: "action" must be one of [post, get]"#),
        (json!({"action": "post"}), "selector"),
        (without("timezones"), r#""selector.timezones" is required"#),
        (without("contexts"), r#""selector.contexts" is required"#),
        (with("timezones", json!([])), r#""selector.timezones" must contain at least 1 items"#),
        (with("contexts", json!([])), r#""selector.contexts" must contain at least 1 items"#),
        (with("datasources", json!(["default"])), r#""selector.datasources" is not allowed"#),
        (with("timezones", json!(["Mars/Base"])), "Mars/Base"),
        (with("dateRange", json!(["x", "y"])), "Cannot parse selector date range x,y"),
        (with("dateRange", json!(["2024-01-01"])), "selector.dateRange"),
        (with("cubes", json!("events")), "selector.cubes"),
        (json!({"action": "get", "tokens": []}), r#""tokens" must contain at least 1 items"#),
        (json!({"action": "get"}), r#""tokens" is required"#),
        (json!({"action": "get", "tokens": [1]}), "tokens[0]"),
        (json!({"action": "get", "tokens": ["a"], "resType": "array"}), "resType"),
    ];
    for (body, expected) in cases {
        let reply = server.post(JOBS, &body);
        assert_eq!(reply.status, 400, "{body}: {}", reply.body);
        assert!(reply.error().contains(expected), "{body}: {}", reply.body);
    }
    let reply = server.call("POST", JOBS).token(&sign(&json!({}), SECRET)).send();
    assert_eq!((reply.status, reply.error().as_str()), (400, "No job description provided"));
    server.assert_alive();
}
