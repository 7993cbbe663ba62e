//! Acceptance 3 of the engine, as clients see it: damaged files of partitions and of sources. An answer is right or it is
//! an error that names the file and the cure; the rest goes on; a rebuild mends it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};

use crate::answers::number;
use crate::events::{events_project, selector, uses_rollup};
use crate::server::{ALL_SCOPES, LOAD, Project, Reply, SECRET, Server, pause, printed, run};
use crate::tables::{DAY, micros, timestamps};

const MONTHS: [&str; 3] = ["2024-01", "2024-02", "2024-03"];
/// Rows of a month where partitions stay in memory.
const FEW: i64 = 300;

/// What is done to a partition's file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Damage {
    /// One bit of the byte at this share of the file, in hundredths.
    Flip(u64),
    Truncate,
    Empty,
    Delete,
    /// The file of another partition under its name: whole, but wrong.
    Swap,
    /// A folder in its place.
    Folder,
}

const DAMAGES: [Damage; 8] = [
    Damage::Flip(10),
    Damage::Flip(50),
    Damage::Flip(99),
    Damage::Truncate,
    Damage::Empty,
    Damage::Delete,
    Damage::Swap,
    Damage::Folder,
];

impl Damage {
    fn apply(self, file: &Path, other: &Path) {
        let bytes = fs::read(file).expect("a readable file");
        let write = |bytes: &[u8]| fs::write(file, bytes).expect("a writable file");
        match self {
            Self::Flip(hundredths) => {
                let mut bytes = bytes;
                let at = bytes.len() * usize::try_from(hundredths).expect("small") / 100;
                bytes[at] ^= 0x10;
                write(&bytes);
            }
            Self::Truncate => write(&bytes[..bytes.len() / 2]),
            Self::Empty => write(&[]),
            Self::Delete => fs::remove_file(file).expect("a file"),
            Self::Swap => {
                fs::remove_file(file).expect("a file");
                fs::copy(other, file).expect("a second file");
            }
            Self::Folder => {
                fs::remove_file(file).expect("a file");
                fs::create_dir(file).expect("a free name");
            }
        }
    }
}

/// The file of a month's partition, the newest one.
fn file_of(project: &Project, month: &str) -> PathBuf {
    let prefix = format!("{}01-", month.replace('-', ""));
    let is_it = |path: &PathBuf| {
        let text = path.to_string_lossy();
        let name = path.file_name().expect("a name").to_string_lossy();
        text.contains("events.monthly") && name.starts_with(&prefix)
    };
    project.stored_files().into_iter().rfind(is_it).expect("the partition's file")
}

fn month_query(month: &str) -> Value {
    json!({
        "measures": ["events.count", "events.generations"], "dimensions": ["events.kind"],
        "timeDimensions": [{"dimension": "events.at", "dateRange": [format!("{month}-01"), format!("{month}-28")]}],
    })
}

fn by_kind() -> Value {
    json!({"measures": ["events.count"], "dimensions": ["events.kind"]})
}

/// The rows of an answer, sorted.
fn rows(answer: &Value) -> Vec<String> {
    let mut rows: Vec<String> = answer["data"].as_array().expect("rows").iter().map(Value::to_string).collect();
    rows.sort();
    rows
}

/// The expected rows of every month.
fn right_answers(server: &Server) -> Vec<Vec<String>> {
    MONTHS.iter().map(|month| rows(&server.load(&month_query(month)))).collect()
}

/// Fails unless the reply holds the right rows, or names the file and what to do. Gives whether it holds rows.
#[track_caller]
fn assert_right_or_told(what: &str, reply: &Reply, right: &[String], file: &Path) -> bool {
    if reply.status == 200 {
        assert_eq!(rows(&reply.value()), right, "{what}: wrong rows");
        return true;
    }
    let text = reply.error();
    let name = file.file_name().expect("a name").to_string_lossy();
    assert!(text.contains(&*name), "{what}: the error does not name {name}: {text}");
    assert!(text.contains("rebuild the partition"), "{what}: the error does not tell what to do: {text}");
    assert!(!text.contains('/'), "{what}: the error shows folders of the server: {text}");
    false
}

/// Other partitions and rollups are as before; after a rebuild the damaged one is too.
fn assert_contained_and_mended(what: &str, server: &Server, right: &[Vec<String>]) {
    for month in [0, 2] {
        let answer = server.load(&month_query(MONTHS[month]));
        assert!(uses_rollup(&answer, "events.monthly"), "{what}: {answer}");
        assert_eq!(rows(&answer), right[month], "{what}: {}", MONTHS[month]);
    }
    let other = server.load(&by_kind());
    assert!(uses_rollup(&other, "events.by_kind"), "{what}: {other}");
    let february = json!({"preAggregations": ["events.monthly"], "dateRange": ["2024-02-01", "2024-02-28"]});
    assert_eq!(server.build(&selector(&february)), 1);
    let answer = server.load(&month_query(MONTHS[1]));
    assert!(uses_rollup(&answer, "events.monthly"), "{what}: not mended: {answer}");
    assert_eq!(rows(&answer), right[1], "{what}: after the rebuild");
    server.assert_alive();
}

fn start(project: &Project, memory: &str) -> Server {
    Server::start_with(project, &[("CUBEJS_DEFAULT_API_SCOPES", ALL_SCOPES), ("QUARRY_MEMORY", memory)])
}

#[test]
fn a_damaged_partition_under_a_running_server_is_told_and_contained() {
    let project = events_project(&MONTHS, FEW);
    let server = start(&project, "1gb");
    server.build(&selector(&json!({})));
    let right = right_answers(&server);
    drop(server);
    for damage in DAMAGES {
        let what = format!("{damage:?}");
        let server = start(&project, "1gb");
        let file = file_of(&project, MONTHS[1]);
        damage.apply(&file, &file_of(&project, MONTHS[0]));
        assert_right_or_told(&what, &server.ask(&month_query(MONTHS[1])), &right[1], &file);
        assert_contained_and_mended(&what, &server, &right);
        // What is in memory by now needs its file no more.
        let file = file_of(&project, MONTHS[1]);
        damage.apply(&file, &file_of(&project, MONTHS[0]));
        let is_right = assert_right_or_told(&what, &server.ask(&month_query(MONTHS[1])), &right[1], &file);
        assert!(is_right, "{what}: decoded before");
        server.build(&selector(&json!({})));
    }
}

#[test]
fn a_partition_damaged_while_the_server_is_down_is_dropped_or_told() {
    let project = events_project(&MONTHS, FEW);
    let mut server = start(&project, "1gb");
    server.build(&selector(&json!({})));
    let right = right_answers(&server);
    for damage in DAMAGES {
        let what = format!("{damage:?} while down");
        server.kill();
        drop(server);
        let file = file_of(&project, MONTHS[1]);
        damage.apply(&file, &file_of(&project, MONTHS[0]));
        server = start(&project, "1gb");
        let is_right = assert_right_or_told(&what, &server.ask(&month_query(MONTHS[1])), &right[1], &file);
        if matches!(damage, Damage::Truncate | Damage::Empty | Damage::Delete | Damage::Folder) {
            assert!(is_right, "{what}: the source answers for a partition that is known to be lost");
            let log = server.log();
            let name = file.file_name().expect("a name").to_string_lossy();
            assert!(log.contains(&*name) && log.contains("quarry build"), "{what}: the log does not tell:\n{log}");
        }
        assert_contained_and_mended(&what, &server, &right);
    }
}

/// Events of so many kinds that their partitions are too large for the memory given.
fn wide_events(project: &Project, rows_a_month: i64) {
    let (mut times, mut kinds) = (Vec::new(), Vec::new());
    for month in MONTHS {
        let start = micros(&format!("{month}-05"));
        times.extend((0..rows_a_month).map(|row| Some(start + row % 20 * DAY)));
        kinds.extend((0..rows_a_month).map(|row| Some(format!("kind {}", row * 2_654_435_761 % 4_294_967_291))));
    }
    let count = i64::try_from(times.len()).expect("few");
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new((0..count).collect::<Int64Array>())),
        ("at", timestamps(times)),
        ("generation", Arc::new((0..count).map(|row| Some(row * 7919 % 100_003)).collect::<Int64Array>())),
        ("kind", Arc::new(kinds.into_iter().collect::<StringArray>())),
    ];
    crate::tables::write_table(project.path(), "events", columns);
}

#[test]
fn a_flipped_bit_in_a_partition_that_is_too_large_for_the_memory_is_told() {
    let project = events_project(&MONTHS, FEW);
    wide_events(&project, 40_000);
    let mut server = start(&project, "64mb");
    server.build(&selector(&json!({"preAggregations": ["events.monthly"]})));
    let query = json!({
        "measures": ["events.count", "events.oldest", "events.newest", "events.generations"],
        "timeDimensions": [{"dimension": "events.at", "granularity": "day", "dateRange": ["2024-02-01", "2024-02-29"]}],
    });
    let answer = server.load(&query);
    assert!(uses_rollup(&answer, "events.monthly"), "{answer}");
    let right = rows(&answer);
    let file = file_of(&project, MONTHS[1]);
    let whole = fs::read(&file).expect("a readable file");
    assert!(whole.len() > (1 << 20) / 2, "the file is too small to be read from disk: {}", whole.len());
    let (mut told, mut flips) = (0, 0);
    for share in (1..100).step_by(7) {
        server.kill();
        drop(server);
        Damage::Flip(share).apply(&file, &file);
        server = start(&project, "64mb");
        let reply = server.ask(&query);
        let is_right = assert_right_or_told(&format!("bit at {share} %"), &reply, &right, &file);
        (told, flips) = (told + usize::from(!is_right), flips + 1);
        fs::write(&file, &whole).expect("a writable file");
    }
    eprintln!("{told} of {flips} flipped bits were told, the others left the rows as they are");
    assert!(told > 0);
}

#[test]
fn a_store_that_another_process_holds_is_named_with_the_cure() {
    let project = events_project(&MONTHS, FEW);
    let server = start(&project, "1gb");
    for command in ["serve", "build", "verify"] {
        let output = run(project.path(), &[("CUBEJS_API_SECRET", SECRET), ("PORT", "0")], &[command]);
        let said = printed(&output);
        assert_eq!(output.status.code(), Some(1), "{command}: {said}");
        for part in ["another process holds the store", ".quarry", "stop "] {
            assert!(said.contains(part), "{command} does not say '{part}': {said}");
        }
    }
    assert_eq!(server.build(&selector(&json!({"preAggregations": ["events.monthly"]}))), 3, "the first goes on");
}

#[test]
fn a_folder_that_cannot_be_written_fails_the_job_and_is_told() {
    let project = events_project(&MONTHS, FEW);
    let tokyo = selector(&json!({"preAggregations": ["events.monthly"], "timezones": ["Asia/Tokyo"]}));
    let server = start(&project, "1gb");
    server.build(&tokyo);
    let folder = file_of(&project, MONTHS[0]).parent().expect("a folder").to_owned();
    drop(server);
    fs::remove_dir_all(project.path().join(".quarry")).expect("a folder");
    let server = start(&project, "1gb");
    server.build(&selector(&json!({"preAggregations": ["events.monthly"]})));
    let right = right_answers(&server);
    // A file stands where the folder of the table should be.
    fs::write(&folder, "").expect("a free name");
    let tokens = server.post_jobs(&tokyo);
    let failure = "failure: the partition could not be stored; the server's log says why";
    assert_eq!(server.wait_jobs(&tokens), [failure; 3]);
    let (log, name) = (server.log(), folder.file_name().expect("a name").to_string_lossy());
    assert!(log.contains(&*name) && log.contains("look after the disk"), "the log does not tell:\n{log}");
    assert_eq!(right_answers(&server), right);
    fs::remove_file(&folder).expect("a file");
    assert_eq!(server.build(&tokyo), 3, "once the trouble is over the same process goes on");
    server.assert_alive();
}

/// No file of the process may grow beyond 256 KiB: what a full disk is to the largest of them.
#[test]
#[cfg(unix)]
fn a_disk_that_takes_no_more_fails_the_build_and_nothing_else() {
    let project = events_project(&MONTHS, FEW);
    let quarry = |args: &[&str]| run(project.path(), &[("CUBEJS_API_SECRET", SECRET)], args);
    assert!(quarry(&["build", "events.monthly"]).status.success());
    let before = project.stored_files();
    wide_events(&project, 40_000);
    let output = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 512; exec \"$0\" build events.monthly", env!("CARGO_BIN_EXE_quarry")])
        .current_dir(project.path())
        .env("CUBEJS_API_SECRET", SECRET)
        .output()
        .expect("a shell");
    let said = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["could not be stored", "events.monthly@UTC-", ".parquet", "look after the disk"] {
        assert!(said.contains(part), "it does not say '{part}': {said}");
    }
    assert_eq!(project.stored_files(), before, "no half file is left, and what was published stays");
    let fsck = quarry(&["fsck"]);
    assert!(fsck.status.success(), "{}", printed(&fsck));
    assert!(quarry(&["build", "events.monthly"]).status.success(), "with room it goes on");
}

/// Writes a generation of the table `events` beside the data; many row groups, so that a scan reads in many portions.
fn prepare_events(project: &Project, rows: i64, generation: i64) -> PathBuf {
    let start = micros("2024-01-05");
    let all = || 0..rows;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(all().map(Some).collect::<Int64Array>())),
        ("at", timestamps(all().map(|row| Some(start + row % 80 * DAY)).collect())),
        // Not the same in all rows: then statistics would tell it without a look at the rows.
        ("generation", Arc::new(all().map(|row| Some(generation * 10 + row % 2)).collect::<Int64Array>())),
        ("kind", Arc::new(all().map(|row| Some(if row % 2 == 0 { "click" } else { "view" })).collect::<StringArray>())),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let path = project.path().join(format!("events.{generation}"));
    let file = File::create(&path).expect("the file can be created");
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(200)).build();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("a plain schema");
    writer.write(&batch).expect("the rows can be written");
    writer.close().expect("the file can be finished");
    path
}

/// Puts a prepared file in the place of `data/events.parquet`, in one go.
fn put_events(project: &Project, prepared: &Path) {
    let next = project.path().join("events.next");
    fs::hard_link(prepared, &next).expect("one file system");
    fs::rename(&next, project.path().join("data/events.parquet")).expect("one file system");
}

/// Fails unless the rows are of one generation.
#[track_caller]
fn assert_of_one_generation(answer: &Value, rows: Option<i64>) {
    let row = &answer["data"][0];
    #[expect(clippy::cast_possible_truncation, reason = "small whole numbers")]
    let cell = |name: &str| number(&row[format!("events.{name}").as_str()]) as i64;
    let (oldest, newest, count) = (cell("oldest"), cell("newest"), cell("count"));
    assert_eq!(oldest + 1, newest, "old and new rows in one answer: {answer}");
    let Some(rows) = rows else { return };
    assert_eq!((count, cell("generations")), (rows, rows * oldest + rows / 2), "{answer}");
}

#[test]
fn a_source_file_that_is_replaced_while_it_is_read_is_seen_in_one_state() {
    const ROWS: i64 = 20_000;
    const GENERATIONS: i64 = 50;
    const TIME: Duration = Duration::from_secs(8);
    let project = events_project(&MONTHS, FEW);
    let prepare = |generation| {
        // Files of one length and one moment would look the same.
        pause(Duration::from_millis(10));
        prepare_events(&project, ROWS, generation)
    };
    let prepared: Vec<PathBuf> = (1..=GENERATIONS).map(prepare).collect();
    put_events(&project, &prepared[0]);
    let server = Server::start_with_jobs(&project);
    let (ended, replaced) = (AtomicBool::new(false), AtomicUsize::new(1));
    // Conditions, so that rows are read and not statistics alone.
    let source = json!({
        "measures": ["events.count", "events.oldest", "events.newest", "events.generations"],
        "filters": [{"member": "events.id", "operator": "gte", "values": ["0"]}],
    });
    let stored = json!({
        "measures": ["events.count", "events.oldest", "events.newest", "events.generations"],
        "timeDimensions": [{"dimension": "events.at", "dateRange": ["2024-01-01", "2024-03-31"]}],
    });
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                put_events(&project, &prepared[replaced.fetch_add(1, Ordering::Relaxed) % prepared.len()]);
                pause(Duration::from_millis(3));
            }
        });
        let begun = Instant::now();
        let mut answers = 0;
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while begun.elapsed() < TIME {
                let reply = server.post(LOAD, &json!({"query": source}));
                assert_eq!(reply.status, 200, "{}", reply.body);
                assert_of_one_generation(&reply.value(), Some(ROWS));
                let february =
                    json!({"preAggregations": ["events.monthly"], "dateRange": ["2024-02-01", "2024-02-28"]});
                server.build(&selector(&february));
                answers += 1;
            }
            answers
        }));
        ended.store(true, Ordering::Relaxed);
        match outcome {
            Ok(answers) => eprintln!("{answers} answers and builds, {replaced:?} files"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    // February was built again and again: it is of one generation, and nothing else was.
    let february = json!({
        "measures": ["events.count", "events.oldest", "events.newest", "events.generations"],
        "timeDimensions": [{"dimension": "events.at", "dateRange": ["2024-02-01", "2024-02-29"]}],
    });
    let answer = server.load(&february);
    assert!(uses_rollup(&answer, "events.monthly"), "{answer}");
    assert_of_one_generation(&answer, None);
    server.build(&selector(&json!({"preAggregations": ["events.monthly"]})));
    let answer = server.load(&stored);
    assert!(uses_rollup(&answer, "events.monthly"), "{answer}");
    assert_of_one_generation(&answer, Some(ROWS));
    server.assert_alive();
}
