//! Jobs that are published in one step (`pre-aggregations.md` §21.4): readers see all of a request or nothing of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::events::{Month, events_project, seen_months, selector, uses_rollup, write_events};
use crate::kinds;
use crate::server::{JOBS, Project, Server, pause, printed, run};

const MONTHS: [&str; 3] = ["2024-01", "2024-02", "2024-03"];

/// More than a thousand partitions, one an hour from the first row to the last, most of them without rows.
const HOURLY: &str = "
cubes:
  - name: hours
    sql_table: events
    dimensions: [{name: at, sql: at, type: time}]
    measures:
      - {name: count, type: count}
      - {name: generations, sql: generation, type: sum}
    pre_aggregations:
      - {name: hourly, measures: [count, generations], time_dimension: at, granularity: hour,
         partition_granularity: hour}
";

fn write_generation(project: &Project, months: &[&'static str], generation: i64) {
    let months: Vec<_> = months.iter().map(|name| Month { name, rows: 90, generation }).collect();
    write_events(project, &months);
}

/// The tokens of an atomic request.
#[track_caller]
fn post(server: &Server, scope: &str, more: &Value) -> Vec<String> {
    let reply = server.post(JOBS, &json!({"action": "post", "selector": selector(more), "atomic": scope}));
    assert_eq!(reply.status, 200, "{}", reply.body);
    serde_json::from_str(&reply.body).expect("tokens")
}

/// Asks until told to stop; gives the different answers in the order in which they were seen.
fn watch(server: &Server, is_over: &AtomicBool, query: &Value, rollup: &str) -> Vec<Vec<Value>> {
    let mut seen: Vec<Vec<Value>> = Vec::new();
    while !is_over.load(Ordering::SeqCst) {
        let answer = server.load(query);
        assert!(uses_rollup(&answer, rollup), "not from the rollup: {answer}");
        let rows = answer["data"].as_array().expect("rows").clone();
        if seen.last() != Some(&rows) {
            seen.push(rows);
        }
    }
    seen
}

/// `pre-aggregations.md` §24, 27.
#[test]
fn conformance_27_readers_see_all_partitions_of_an_atomic_job_replaced_or_none() {
    let months = ["2024-01", "2024-02"];
    let project = events_project(&months, 90);
    project.write("model/hours.yml", HOURLY);
    let server = Server::start_with_jobs(&project);
    let hours = json!({"cubes": ["hours"]});
    let built = server.build(&selector(&hours));
    assert!(built > 1_000, "{built} partitions");
    let query = json!({"measures": ["hours.count", "hours.generations"]});
    let generation = 2;
    write_generation(&project, &months, generation);
    let is_over = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let readers: Vec<_> =
            (0..2).map(|_| scope.spawn(|| watch(&server, &is_over, &query, "hours.hourly"))).collect();
        let tokens = post(&server, "per-preaggregation", &hours);
        assert_eq!(tokens.len(), built);
        assert_eq!(server.wait_jobs(&tokens), vec!["done"; built]);
        is_over.store(true, Ordering::SeqCst);
        readers.into_iter().map(|reader| reader.join().expect("readers see no fault")).collect::<Vec<_>>()
    });
    let sums = |generation: i64| {
        let sum = (180 * generation).to_string();
        vec![json!({"hours.count": "180", "hours.generations": sum})]
    };
    for seen in seen {
        assert!(seen.iter().all(|rows| [sums(generation - 1), sums(generation)].contains(rows)), "{seen:?}");
        assert!(seen.len() <= 2, "it goes back: {seen:?}");
    }
    assert_eq!(server.rows(&query), sums(generation));
    server.assert_alive();
}

/// The source has lost its first month and has a new one: what the rollup is meant to hold changes with its partitions.
#[test]
fn readers_see_a_range_that_moves_in_one_step() {
    let project = events_project(&["2024-01", "2024-02"], 90);
    project.write("model/hours.yml", HOURLY);
    let server = Server::start_with_jobs(&project);
    let hours = json!({"cubes": ["hours"]});
    server.build(&selector(&hours));
    let query = json!({"measures": ["hours.count", "hours.generations"]});
    let sums = |count: i64, generation: i64| {
        vec![json!({"hours.count": count.to_string(), "hours.generations": (count * generation).to_string()})]
    };
    assert_eq!(server.rows(&query), sums(180, 1));
    write_generation(&project, &["2024-02", "2024-03"], 2);
    let is_over = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| watch(&server, &is_over, &query, "hours.hourly"));
        let tokens = post(&server, "per-preaggregation", &hours);
        assert_eq!(server.wait_jobs(&tokens), vec!["done"; tokens.len()]);
        is_over.store(true, Ordering::SeqCst);
        reader.join().expect("readers see no fault")
    });
    assert!([vec![sums(180, 1)], vec![sums(180, 1), sums(180, 2)]].contains(&seen), "{seen:?}");
    assert_eq!(server.rows(&query), sums(180, 2));

    // What is cancelled changes nothing.
    write_generation(&project, &["2024-03"], 3);
    let tokens = post(&server, "all", &hours);
    let reply = server.post(&format!("/quarry/v1/jobs/{}/cancel", tokens[0]), &json!({}));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let answer = server.load(&query);
    assert!(uses_rollup(&answer, "hours.hourly"), "{answer}");
    assert_eq!(answer["data"], json!(sums(180, 2)));
    server.assert_alive();
}

#[test]
fn one_partition_that_fails_keeps_all_from_being_published_and_a_retry_is_of_all() {
    let project = events_project(&MONTHS, 90);
    // The source refuses to divide as soon as a row of February is of generation 0.
    let model = project.path().join("model/events.yml");
    let text = std::fs::read_to_string(&model).expect("the model");
    let text = text.replace("sql: generation\n", "sql: \"generation * (1 / generation) * generation\"\n");
    std::fs::write(&model, text).expect("the model is written");
    let server = Server::start_with_jobs(&project);
    let monthly = json!({"preAggregations": ["events.monthly"]});
    server.build(&selector(&monthly));
    let before = server.rows(&json!({"measures": ["events.count"]}));

    let months = |february: i64| {
        let month = |(name, generation)| Month { name, rows: 50, generation };
        MONTHS.into_iter().zip([1, february, 1]).map(month).collect::<Vec<_>>()
    };
    write_events(&project, &months(0));
    let tokens = post(&server, "all", &monthly);
    let statuses = server.wait_jobs(&tokens);
    assert_eq!(statuses.len(), 3);
    assert!(statuses.iter().all(|status| status.starts_with("failure: ")), "{statuses:?}");
    let others = statuses.iter().filter(|status| status.contains("a partition that was to be published with it"));
    assert_eq!(others.count(), 2, "{statuses:?}");
    assert_eq!(server.rows(&json!({"measures": ["events.count"]})), before, "all three are as they were");
    let entries = server.job_entries(&tokens);
    let group = entries[0]["quarry"]["group"].as_str().expect("a group").to_owned();
    assert!(entries.iter().all(|entry| entry["quarry"]["group"] == json!(group)), "{entries:?}");

    write_events(&project, &months(1));
    let reply = server.post(&format!("/quarry/v1/jobs/{}/retry", tokens[1]), &json!({}));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let retried = reply.value();
    assert_eq!(retried["quarry"]["partition"], entries[1]["quarry"]["partition"]);
    let group = retried["quarry"]["group"].as_str().expect("a group of its own").to_owned();
    let listed = server.get(&format!("/quarry/v1/jobs?group={group}")).value();
    assert_eq!(listed["total"], 3, "{listed}");
    let tokens: Vec<String> = listed["jobs"]
        .as_array()
        .expect("jobs")
        .iter()
        .map(|job| job["token"].as_str().expect("a token").to_owned())
        .collect();
    assert_eq!(server.wait_jobs(&tokens), ["done"; 3]);
    assert_eq!(server.rows(&json!({"measures": ["events.count"]}))[0]["events.count"], "150");
}

#[test]
fn who_cancels_one_job_of_a_group_cancels_all_and_others_go_on() {
    let project = events_project(&MONTHS, 90);
    let server = Server::start_with_jobs(&project);
    let monthly = json!({"preAggregations": ["events.monthly"]});
    // With builds of other partitions before it, so that some of it is still queued.
    let others = server.post_jobs(&selector(&json!({"cubes": ["visits"]})));
    let tokens = post(&server, "all", &monthly);
    let reply = server.post(&format!("/quarry/v1/jobs/{}/cancel", tokens[2]), &json!({}));
    let statuses = server.wait_jobs(&tokens);
    match reply.status {
        200 => assert_eq!(statuses, ["failure: the job was cancelled"; 3]),
        // It was too late.
        _ => assert_eq!((reply.status, statuses), (409, vec!["done".to_owned(); 3])),
    }
    assert_eq!(server.wait_jobs(&others), vec!["done"; others.len()]);
    let tokens = post(&server, "all", &monthly);
    assert_eq!(server.wait_jobs(&tokens), ["done"; 3], "what was cancelled is in nobody's way");
    assert!(seen_months(&server, "2024-03-31").iter().all(|month| month.generation() == 1));
}

#[test]
fn rows_that_rollups_are_built_from_come_before_the_step() {
    let project = kinds::project(
        "    pre_aggregations:
      - {name: daily, measures: [count, revenue], dimensions: [status], time_dimension: at,
         granularity: day, partition_granularity: month, use_original_sql_pre_aggregations: true}
      - {name: raw, type: original_sql, time_dimension: at, partition_granularity: month}
",
        "",
    );
    let server = kinds::start(&project, &[]);
    for scope in ["per-preaggregation", "all"] {
        let tokens = post(&server, scope, &json!({"preAggregations": ["orders.daily"]}));
        assert_eq!(server.wait_jobs(&tokens), ["done"; 6], "{scope}");
        let has_group = |entry: &Value| {
            let name = entry["selector"]["preAggregations"][0].as_str().expect("a name").to_owned();
            (name, entry["quarry"]["group"].is_string())
        };
        let found: Vec<_> = server.job_entries(&tokens).iter().map(has_group).collect();
        let raw = ("orders.raw".to_owned(), false);
        assert_eq!((&found[0], &found[3]), (&raw, &("orders.daily".to_owned(), true)), "{scope}");
    }
}

#[test]
fn kill_nine_leaves_all_of_an_atomic_job_or_nothing() {
    const ROUNDS: i64 = 12;
    let project = events_project(&MONTHS, 90);
    let mut server = Server::start_with_jobs(&project);
    server.build(&selector(&json!({"preAggregations": ["events.monthly"]})));
    let mut random = ChaCha8Rng::seed_from_u64(27);
    let seen = |server: &Server| -> Vec<i64> {
        seen_months(server, "2024-03-31").iter().map(|month| month.generation()).collect()
    };
    for generation in 2..2 + ROUNDS {
        write_generation(&project, &MONTHS, generation);
        let tokens = post(&server, "all", &json!({"preAggregations": ["events.monthly"]}));
        pause(Duration::from_millis(random.random_range(0..120)));
        server.kill();
        drop(server);
        server = Server::start_with_jobs(&project);
        let early = seen(&server);
        assert!(early == [generation - 1; 3] || early == [generation; 3], "a mix: {early:?}");
        assert_eq!(server.wait_jobs(&tokens), ["done"; 3], "the whole job goes on");
        assert_eq!(seen(&server), [generation; 3]);
    }
}

#[test]
fn the_command_line_publishes_in_one_step_too() {
    let project = events_project(&MONTHS, 90);
    for scope in ["per-preaggregation", "all"] {
        let output = run(project.path(), &[], &["build", "events.monthly", "--atomic", scope]);
        let text = printed(&output);
        assert!(output.status.success() && text.contains("3 of 3 partition(s) built"), "{text}");
    }
    let text = printed(&run(project.path(), &[], &["build", "--atomic", "some"]));
    assert!(text.contains("[possible values: per-preaggregation, all]"), "{text}");
}
