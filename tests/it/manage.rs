//! `/quarry/v1/jobs`: lists, progress, waiting, cancelling, retrying.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::events::{events_project, selector};
use crate::orchestrators::TROUBLES;
use crate::server::{ALL_SCOPES, Project, Server, wait_until};

const MONTHS: [&str; 3] = ["2024-01", "2024-02", "2024-03"];
const OURS: &str = "/quarry/v1/jobs";

fn project() -> Project {
    let project = events_project(&MONTHS, 90);
    project.write("model/troubles.yml", TROUBLES);
    project
}

/// A server with one worker, and the token of an endless build that it is at.
fn at_work(project: &Project) -> (Server, String) {
    let settings = [("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES), ("CUBEJS_REFRESH_WORKER_CONCURRENCY", "1")];
    let server = Server::start_with(project, &settings);
    let token = server.post_jobs(&selector(&json!({"cubes": ["endless"]}))).remove(0);
    wait_until("the build to run", Duration::from_secs(60), || {
        (job(&server, &token)["quarry"]["phase"] == "querying").then_some(())
    });
    (server, token)
}

fn job(server: &Server, token: &str) -> Value {
    server.get(&format!("{OURS}/{token}")).value()
}

#[test]
fn jobs_are_listed_newest_first_filtered_and_in_pages() {
    let server = Server::start_with_jobs(&project());
    server.build(&selector(&json!({"preAggregations": ["events.monthly"]})));
    let failed = server.post_jobs(&selector(&json!({"cubes": ["broken"]})));
    server.wait_jobs(&failed);
    let page = |query: &str| server.get(&format!("{OURS}?{query}")).value();
    let all = page("");
    assert_eq!((&all["total"], &all["offset"], &all["limit"]), (&json!(4), &json!(0), &json!(100)));
    let newest = &all["jobs"][0];
    assert_eq!((&newest["token"], &newest["status"]), (&json!(failed[0]), &json!("failure: division by zero")));
    let ours = &newest["quarry"];
    assert_eq!((&ours["state"], &ours["cause"]), (&json!("failed"), &json!("division by zero")));
    let done = &all["jobs"][1]["quarry"];
    assert_eq!((&done["state"], &done["rows"]), (&json!("done"), &json!(60)), "{done}");
    assert!(done["sizeBytes"].as_u64() > Some(0) && done["partition"]["start"].is_string(), "{done}");
    for (query, total, shown) in [
        ("state=done", 3, 3),
        ("state=failed,done", 4, 4),
        ("state=running", 0, 0),
        ("cube=events", 3, 3),
        ("preAggregation=broken.whole", 1, 1),
        ("timezone=UTC&state=failed", 1, 1),
        ("timezone=Asia/Tokyo", 0, 0),
        ("limit=2", 4, 2),
        ("limit=2&offset=3", 4, 1),
        ("offset=9", 4, 0),
        ("limit=0", 4, 0),
    ] {
        let found = page(query);
        let count = found["jobs"].as_array().map(Vec::len);
        assert_eq!((found["total"].as_u64(), count), (Some(total), Some(shown)), "{query}: {found}");
    }
    for (query, expected) in [
        ("state=lost", "'lost' is no state of a job; there are queued, running, done, failed, cancelled"),
        ("limit=many", "'limit' must be a whole number from 0 to 10000, not 'many'"),
        ("limit=10001", "'limit' must be a whole number from 0 to 10000, not '10001'"),
        ("colour=red", "Unknown parameter 'colour'"),
    ] {
        let reply = server.get(&format!("{OURS}?{query}"));
        assert_eq!(reply.status, 400, "{}", reply.body);
        assert!(reply.error().contains(expected), "{}", reply.body);
    }
}

#[test]
fn a_running_job_tells_its_progress_and_stops_when_it_is_cancelled() {
    let project = project();
    let (server, token) = at_work(&project);
    let running = job(&server, &token);
    assert_eq!((&running["status"], &running["quarry"]["state"]), (&json!("processing"), &json!("running")));
    assert!(running["quarry"]["progressAt"].is_string() && running["quarry"]["rows"] == 0, "{running}");
    // The only worker is busy: these wait.
    let waiting = server.post_jobs(&selector(&json!({"preAggregations": ["events.monthly"]})));
    assert_eq!(job(&server, &waiting[0])["quarry"]["state"], "queued");
    let begun = Instant::now();
    let cancelled = server.call("DELETE", &format!("{OURS}/{token}")).token(&crate::server::valid_token()).send();
    assert_eq!(cancelled.status, 200, "{}", cancelled.body);
    let entry = cancelled.value();
    assert_eq!((&entry["quarry"]["state"], &entry["quarry"]["phase"]), (&json!("cancelled"), &json!(null)));
    // Cube's clients know no such word: a failure ends their wait, with the truth as its text.
    assert_eq!(server.job_entries(std::slice::from_ref(&token))[0]["status"], "failure: the job was cancelled");
    assert_eq!(server.wait_jobs(&waiting), ["done"; 3], "the worker is free again");
    assert!(begun.elapsed() < Duration::from_secs(60), "the build was stopped, not waited out");

    let cancel = |token: &str| server.post(&format!("{OURS}/{token}/cancel"), &json!({}));
    assert_eq!(cancel(&token).status, 200, "once more is no fault");
    let late = cancel(&waiting[0]);
    assert_eq!(late.status, 409, "{}", late.body);
    assert_eq!(late.error(), format!("Job '{}' has ended already: done", waiting[0]));
}

#[test]
fn a_waiting_job_that_is_cancelled_is_never_built() {
    let project = project();
    let (server, endless) = at_work(&project);
    let waiting = server.post_jobs(&selector(&json!({"preAggregations": ["events.monthly"]})));
    let cancel = |token: &str| server.post(&format!("{OURS}/{token}/cancel"), &json!({})).status;
    assert_eq!(cancel(&waiting[1]), 200);
    assert_eq!(cancel(&endless), 200);
    assert_eq!(server.wait_jobs(&waiting), ["done", "failure: the job was cancelled", "done"]);
    assert_eq!(job(&server, &waiting[1])["quarry"]["attempt"], 0);
    assert_eq!(project.stored_files().len(), 2);
}

#[test]
fn what_failed_can_be_retried_under_a_new_token() {
    let project = project();
    let server = Server::start_with_jobs(&project);
    let failed = server.post_jobs(&selector(&json!({"cubes": ["broken"]}))).remove(0);
    server.wait_jobs(std::slice::from_ref(&failed));
    let retry = |token: &str| server.post(&format!("{OURS}/{token}/retry"), &json!({}));
    let reply = retry(&failed);
    assert_eq!(reply.status, 200, "{}", reply.body);
    let new = reply.value()["token"].as_str().expect("a token").to_owned();
    assert_ne!(new, failed);
    let statuses = server.wait_jobs(&[failed, new]);
    assert_eq!(statuses, ["failure: division by zero"; 2], "the old one stays as it ended");
    let done = server.post_jobs(&selector(&json!({"preAggregations": ["events.by_kind"]}))).remove(0);
    server.wait_jobs(std::slice::from_ref(&done));
    let refused = retry(&done);
    assert_eq!(refused.status, 409, "{}", refused.body);
    assert_eq!(refused.error(), format!("Job '{done}' is done: only failed and cancelled jobs are retried"));
}

#[test]
fn a_wait_ends_with_the_job_or_in_time() {
    let project = project();
    let (server, endless) = at_work(&project);
    let begun = Instant::now();
    let still = server.get(&format!("{OURS}/{endless}/wait?timeout=0.3")).value();
    assert_eq!(still["quarry"]["state"], "running");
    assert!(begun.elapsed() >= Duration::from_millis(300), "it was waited for");
    let cancelled = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.get(&format!("{OURS}/{endless}/wait?timeout=120")).value());
        assert_eq!(server.post(&format!("{OURS}/{endless}/cancel"), &json!({})).status, 200);
        waiting.join().expect("an answer")
    });
    assert_eq!(cancelled["quarry"]["state"], "cancelled");
    let bad = server.get(&format!("{OURS}/{endless}/wait?timeout=soon"));
    assert_eq!(bad.status, 400, "{}", bad.body);
    assert!(bad.error().contains("\"timeout\" must be a number of seconds from 0 to 3600"), "{}", bad.body);
}

#[test]
fn unknown_tokens_missing_scopes_and_other_methods_are_refused() {
    let server = Server::start_with_jobs(&project());
    for (method, path) in [
        ("GET", "/quarry/v1/jobs/nobody"),
        ("GET", "/quarry/v1/jobs/nobody/wait"),
        ("DELETE", "/quarry/v1/jobs/nobody"),
        ("POST", "/quarry/v1/jobs/nobody/cancel"),
        ("POST", "/quarry/v1/jobs/nobody/retry"),
    ] {
        let reply = server.call(method, path).token(&crate::server::valid_token()).send();
        assert_eq!((reply.status, reply.error().as_str()), (404, "Job 'nobody' not found"), "{method} {path}");
        assert_eq!(server.call(method, path).send().status, 403, "{method} {path} without token");
    }
    assert_eq!(server.post("/quarry/v1/jobs/nobody", &json!({})).status, 404);
    let started = server.post(OURS, &json!({"selector": selector(&json!({"preAggregations": ["events.by_kind"]}))}));
    assert_eq!((started.status, started.value().as_array().map(Vec::len)), (200, Some(1)), "{}", started.body);
    assert_eq!(server.post(OURS, &json!({})).error(), "No job description provided");
    let closed = Server::start(&events_project(&MONTHS, 9));
    assert_eq!(closed.get(OURS).error(), "API scope is missing: jobs");
    server.assert_alive();
}
