//! TPC-H at scale 0.01 as a project, in YAML and again in JavaScript: its 22 queries as requests are answered as
//! another SQL engine answers their SQL, from the source and from rollups.
//!
//! `fixtures/tpch/queries/qNN.json` holds the requests (one or several ways to ask) and `qNN.sql` the SQL;
//! `fixtures/tpch/README.md` says what they are made of.

mod generate;
mod policies;
mod words;

use std::fs;

use serde_json::{Map, Value, json};

use crate::answers::{Numbers, RowOrder, compare_rows, texts};
use crate::duckdb::second_opinion;
use crate::events::selector;
use crate::server::{Project, Reply, Server, root};

/// A TPC-H query: its SQL and the ways to ask it.
struct Question {
    /// `q01`.
    name: String,
    sql: String,
    /// Columns of the SQL that are equal up to rounding.
    close: Vec<String>,
    ways: Vec<Way>,
}

/// One request that says what the SQL says.
struct Way {
    name: String,
    query: Value,
    /// Column of the SQL → key of a row of the answer.
    members: Map<String, Value>,
    /// The rollup that answers it once it is built.
    rollup: Option<String>,
    /// Whether the source may answer all the same: planners differ in what they do for multi-stage measures.
    rollup_optional: bool,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text")).to_owned()
}

fn questions(prefix: &str) -> Vec<Question> {
    let folder = root().join("fixtures/tpch/queries");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .expect("the queries")
        .map(|entry| entry.expect("a readable folder").file_name().to_string_lossy().into_owned())
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    let question = |name: String| {
        let read = |suffix: &str| {
            let path = folder.join(format!("{name}.{suffix}"));
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let file: Value = serde_json::from_str(&read("json")).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(file["ordered"], json!(true), "{name}: the order of rows is compared, so it must be total");
        let ways = file["ways"].as_array().expect("ways").iter().map(way).collect();
        Question { sql: read("sql"), close: texts(&file["close"]), ways, name }
    };
    names.into_iter().map(question).collect()
}

fn way(file: &Value) -> Way {
    Way {
        name: text(&file["way"]),
        query: file["query"].clone(),
        members: file["members"].as_object().expect("columns and members").clone(),
        rollup: file["rollup"].as_str().map(str::to_owned),
        rollup_optional: file["rollup_optional"] == json!(true),
    }
}

/// The project of a fixture with its data.
fn project(fixture: &str) -> Project {
    let project = Project::copy(fixture);
    generate::write_tables(project.path());
    project
}

/// Rows of the other engine as objects, under the names of its columns.
fn opinion_rows(opinion: &Value) -> Vec<Value> {
    let columns = texts(&opinion["columns"]);
    let row = |cells: &Value| -> Value {
        let cells = cells.as_array().expect("a row is a list");
        columns.iter().cloned().zip(cells.iter().cloned()).collect::<Map<_, _>>().into()
    };
    opinion["rows"].as_array().expect("rows").iter().map(row).collect()
}

impl Way {
    /// Rows of an answer under the names of the SQL's columns.
    fn rows(&self, answer: &Value) -> Vec<Value> {
        let row = |given: &Value| -> Value {
            let cell = |(column, member): (&String, &Value)| {
                let cell = member.as_str().and_then(|member| given.get(member));
                (column.clone(), cell.cloned().unwrap_or_else(|| json!({"missing": member})))
            };
            self.members.iter().map(cell).collect::<Map<_, _>>().into()
        };
        answer["data"].as_array().into_iter().flatten().map(row).collect()
    }

    /// The request without one of its conditions, for each of them.
    fn weakened(&self) -> Vec<(String, Value)> {
        let mut found = Vec::new();
        for key in ["filters", "segments", "timeDimensions"] {
            for index in 0..self.query[key].as_array().map_or(0, Vec::len) {
                let mut query = self.query.clone();
                let list = query[key].as_array_mut().expect("a list, as just seen");
                let dropped = if key == "timeDimensions" {
                    let range = list[index].as_object_mut().and_then(|time| time.remove("dateRange"));
                    if list[index].get("granularity").is_none() {
                        list.remove(index);
                    }
                    range
                } else {
                    Some(list.remove(index))
                };
                if let Some(dropped) = dropped {
                    found.push((format!("{key}: {dropped}"), query));
                }
            }
        }
        found
    }
}

/// The first rollup that an answer names.
fn rollup_of(answer: &Value) -> Option<String> {
    let used = answer.get("usedPreAggregations")?.as_object()?;
    used.values().next().map(|entry| text(&entry["preAggregationId"]))
}

impl Question {
    fn compare(&self, way: &Way, answer: &Value, expected: &[Value]) -> Result<(), String> {
        let order = RowOrder { keys: Vec::new(), total: true, cut_before: false, limit: usize::MAX };
        let numbers = |column: &str| {
            if self.close.iter().any(|close| close == column) { Numbers::Close } else { Numbers::Exact }
        };
        compare_rows(expected, &way.rows(answer), &order, &numbers)
    }

    /// What differs in the reply to one way, if anything.
    fn check(&self, way: &Way, reply: &Reply, expected: &[Value], rollup: Option<&str>) -> Result<(), String> {
        let fault = |text: String| Err(format!("{} by {}: {text}\n    query: {}", self.name, way.name, way.query));
        if reply.status != 200 {
            return fault(format!("refused with {}: {}", reply.status, reply.body));
        }
        let answer = reply.value();
        if let Err(text) = self.compare(way, &answer, expected) {
            return fault(text);
        }
        let used = rollup_of(&answer);
        if used.as_deref() != rollup && !(way.rollup_optional && used.is_none()) {
            return fault(format!("rollup {rollup:?} expected, {used:?} used"));
        }
        Ok(())
    }
}

/// The rows of the other engine, a question each.
fn expected_rows(questions: &[Question], project: &Project) -> Vec<Vec<Value>> {
    let case = |question: &Question| json!({"name": question.name, "project": "tpch", "sql": question.sql});
    let cases: Vec<Value> = questions.iter().map(case).collect();
    let opinions = second_opinion(&json!({"projects": {"tpch": project.path()}, "cases": cases}));
    questions.iter().map(|question| opinion_rows(&opinions[&question.name])).collect()
}

#[track_caller]
fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Asks every question of a fixture, first from the source, then with its rollups built.
#[track_caller]
fn check_project(fixture: &str) {
    let questions = questions("");
    let project = project(fixture);
    let expected = expected_rows(&questions, &project);
    let server = Server::start_with_jobs(&project);
    let ask_all = |with_rollups: bool| -> Vec<String> {
        let mut wrong = Vec::new();
        for (question, expected) in questions.iter().zip(&expected) {
            for way in &question.ways {
                let rollup = way.rollup.as_deref().filter(|_| with_rollups);
                wrong.extend(question.check(way, &server.ask(&way.query), expected, rollup).err());
            }
        }
        wrong
    };
    assert_none(&ask_all(false));
    server.build(&selector(&json!({})));
    assert_none(&ask_all(true));
    server.assert_alive();
}

#[test]
fn the_project_in_yaml_answers_as_sql_does() {
    check_project("tpch");
}

#[test]
fn the_project_in_javascript_answers_as_sql_does() {
    check_project("tpch-js");
}

#[test]
fn all_queries_are_there_and_find_rows_without_nulls() {
    let questions = questions("q");
    let names: Vec<&str> = questions.iter().map(|question| question.name.as_str()).collect();
    let all: Vec<String> = (1..=22).map(|number| format!("q{number:02}")).collect();
    assert_eq!(names, all);
    let project = project("tpch");
    for (question, rows) in questions.iter().zip(expected_rows(&questions, &project)) {
        assert!(!rows.is_empty(), "{} finds nothing", question.name);
        for row in &rows {
            let columns: Vec<&String> = row.as_object().expect("a row").keys().collect();
            assert!(!row.as_object().expect("a row").values().any(Value::is_null), "{}: {row}", question.name);
            for way in &question.ways {
                let mapped: Vec<&String> = way.members.keys().collect();
                assert_eq!(mapped, columns, "{} by {}: columns of the SQL, in order", question.name, way.name);
            }
        }
    }
}

/// Data that cannot tell a right answer from a wrong one would prove nothing.
#[test]
fn no_condition_of_a_query_can_be_left_out() {
    let questions = questions("q");
    let project = project("tpch");
    let expected = expected_rows(&questions, &project);
    let server = Server::start(&project);
    let mut idle = Vec::new();
    for (question, expected) in questions.iter().zip(&expected) {
        for way in &question.ways {
            for (dropped, query) in way.weakened() {
                // Without it the cubes may not even join.
                let reply = server.post("/cubejs-api/v1/load", &json!({ "query": query }));
                if reply.status == 200 && question.compare(way, &reply.value(), expected).is_ok() {
                    idle.push(format!("{} by {}: {dropped}", question.name, way.name));
                }
            }
        }
    }
    assert!(idle.is_empty(), "without these the answer is the same:\n{}", idle.join("\n"));
}

#[test]
fn equal_seeds_make_equal_tables() {
    let projects = [Project::empty(), Project::empty()];
    for project in &projects {
        generate::write_tables(project.path());
    }
    let [left, right] = projects.each_ref().map(|project| project.path().join("data"));
    let mut names = Vec::new();
    for entry in fs::read_dir(&left).expect("the tables") {
        let name = entry.expect("a readable folder").file_name();
        let read = |folder: &std::path::Path| fs::read(folder.join(&name)).expect("a table");
        assert_eq!(read(&left), read(&right), "{}", name.display());
        names.push(name.to_string_lossy().into_owned());
    }
    names.sort();
    let tables = ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"];
    assert_eq!(names, tables.map(|table| format!("{table}.parquet")));
}
