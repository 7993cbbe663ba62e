//! The house rules as a test: floors, sizes, who may read the environment, what the documents promise.
//!
//! The tables below are the rules; a change of one is a design change and edits `ARCHITECTURE.md` in the same
//! commit. Only std is used, so that this compiles in no time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms that build everything; they may use each other, nothing else may use them.
const ROOF: u8 = u8::MAX;

/// A room uses only rooms of lower floors: never its own floor, never above.
const FLOORS: &[(&str, u8)] = &[
    ("names", 0),
    ("time", 0),
    ("tasks", 0),
    ("script", 0),
    ("telemetry", 0),
    ("model", 1),
    ("auth", 1),
    ("hooks", 1),
    ("engine", 1),
    ("preagg", 2),
    ("sources", 2),
    ("cache", 2),
    ("query", 3),
    ("refresh", 4),
    ("sql", 4),
    ("api", 5),
    ("pg", 5),
    ("app", ROOF),
    ("config", ROOF),
    ("cli", ROOF),
    ("demo", ROOF),
    ("main", ROOF),
];

/// Longest file, in lines, its tests included.
const MOST_LINES: usize = 800;
/// Longer files, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Crates that the storage crate must never know.
const STRANGERS_TO_STORAGE: &[&str] = &["datafusion", "serde_json", "axum", "quarry"];

/// Where JSON, YAML or tokens become types. A trailing `/` is a whole room.
const DESERIALIZES: &[&str] = &["src/api/", "src/config/mod.rs", "src/auth/jwt.rs", "src/model/raw.rs"];

/// Where the environment is read.
const READS_ENVIRONMENT: &[&str] = &["src/config/mod.rs"];
const ENVIRONMENT_CALLS: &[&str] = &["env::var", "dotenvy::", "from_default_env", "from_env("];

/// Where SQL text is made. The demo's is the text of a model; that of `lineage` is parsed and never run.
const WRITES_SQL: &[&str] =
    &["src/query/lower.rs", "src/query/lower/", "src/sources/dialect.rs", "src/demo/project.rs", "src/query/lineage/"];
/// Where SQL text is parsed; the engine's own work apart.
const PARSES_SQL: &[&str] = &["src/query/lineage/", "src/engine/", "src/sql/"];
const SQL_WORDS: &[&str] = &["\"SELECT ", "(SELECT ", " GROUP BY ", " ORDER BY ", "INSERT INTO ", "UNION ALL "];

/// Crates of which there is one version.
const SINGLE_VERSIONS: &[&str] = &["arrow", "parquet", "datafusion", "object_store"];

/// The conformance cases of pre-aggregations and the tests that hold each of them. The rows of the truth table are case 5.
const CASES: &[(&[u32], &str, &str)] = &[
    (&[1, 3, 42], "tests/it/stored_cases.rs", "conformance_1_3_and_42_partitions_hold_whole_buckets"),
    (&[2, 43], "tests/it/stored_cases.rs", "conformance_2_and_43_an_empty_source_counts_zero"),
    (&[4], "tests/it/stored_cases.rs", "conformance_4_too_many_partitions_are_refused"),
    (&[20], "tests/it/stored_cases.rs", "conformance_20_a_window_reads_the_rows_before_its_range_and_no_more"),
    (&[32], "tests/it/stored_cases.rs", "conformance_32_what_is_not_scheduled_is_built_by_jobs_and_kept"),
    (&[41], "tests/it/stored_cases.rs", "conformance_41_zones_on_both_sides_have_whole_edges"),
    (&[45, 46], "tests/it/stored_cases.rs", "conformance_45_and_46_one_table_for_all_zones_and_builds_within_a_second"),
    (&[5, 10, 16, 19], "tests/it/matching/truth.rs", "rows_1_to_19_and_47_and_48_of_rollup_a"),
    (&[5, 12], "tests/it/matching/truth.rs", "rows_20_to_26_of_rollup_b"),
    (&[5], "tests/it/matching/truth.rs", "rows_27_to_29_of_rollup_c"),
    (&[5, 11], "tests/it/matching/truth.rs", "rows_30_to_32_of_rollup_d"),
    (&[5], "tests/it/matching/truth.rs", "row_33_of_rollup_e"),
    (&[5, 18], "tests/it/matching/truth.rs", "rows_34_and_35_of_rollup_f"),
    (&[5, 17], "tests/it/matching/truth.rs", "rows_36_and_37_of_rollup_g"),
    (&[5, 14], "tests/it/matching/truth.rs", "rows_38_and_39_of_rollup_h"),
    (&[5], "tests/it/matching/truth.rs", "rows_40_and_41_of_rollup_i"),
    (&[5], "tests/it/matching/truth.rs", "row_42_of_rollup_j"),
    (&[5], "tests/it/matching/truth.rs", "row_43_of_rollup_k"),
    (&[5], "tests/it/matching/truth.rs", "row_44_of_rollup_l"),
    (&[5], "tests/it/matching/truth.rs", "row_45_of_rollup_m"),
    (&[5], "tests/it/matching/truth.rs", "row_46_of_rollup_n"),
    (&[6], "tests/it/matching/times.rs", "the_rollup_with_the_fewest_rows_wins_and_ties_go_to_the_first"),
    (&[7], "tests/it/matching/times.rs", "what_has_no_buckets_serves_every_zone"),
    (&[8, 9], "tests/it/matching/times.rs", "one_table_of_utc_serves_every_zone_that_its_buckets_divide"),
    (&[21], "tests/it/matching/times.rs", "moved_times_come_from_rollups_whose_buckets_move_as_a_whole"),
    (&[44], "tests/it/matching/times.rs", "each_of_several_times_is_read_by_its_own_granularity"),
    (&[25], "tests/it/matching/explain.rs", "a_missing_partition_and_a_faulty_request_are_named"),
    (&[13, 15], "tests/it/states.rs", "states_answer_every_coarser_question_as_the_source_does"),
    (&[22], "tests/it/refresh.rs", "a_changed_row_has_its_own_partition_rebuilt"),
    (&[22], "tests/it/refresh.rs", "a_key_without_filters_has_all_partitions_rebuilt"),
    (&[23], "tests/it/refresh.rs", "closed_partitions_stay_as_they_are"),
    (&[24], "tests/it/refresh.rs", "development_shows_what_the_keys_said"),
    (&[33], "tests/it/refresh.rs", "a_failing_key_leaves_what_is_published_and_says_so"),
    (&[27], "tests/it/atomic.rs", "conformance_27_readers_see_all_partitions_of_an_atomic_job_replaced_or_none"),
    (&[26], "tests/it/crash.rs", "kill_nine_during_builds_loses_and_mixes_nothing"),
    (&[28], "tests/it/jobs.rs", "equal_requests_share_their_live_jobs"),
    (&[31], "tests/it/jobs.rs", "jobs_are_closed_by_default"),
    (&[33], "tests/it/jobs.rs", "a_build_that_fails_says_why"),
    (&[29], "tests/it/selection.rs", "conformance_29_two_contexts_two_zones_three_months_are_twelve_tokens"),
    (&[30], "tests/it/selection.rs", "date_ranges_select_as_the_table_of_17_3_says"),
    (&[34], "tests/it/manage.rs", "a_running_job_tells_its_progress_and_stops_when_it_is_cancelled"),
    (&[31, 39], "tests/it/kinds/lambda.rs", "conformance_31_and_39_lambdas_have_no_partitions_and_are_never_named"),
    (&[35], "tests/it/kinds/lambda.rs", "conformance_35_earlier_rollups_win_and_later_ones_go_on_at_the_next_bucket"),
    (&[36], "tests/it/kinds/lambda.rs", "conformance_36_the_source_adds_what_came_after_the_last_bucket_once"),
    (&[37], "tests/it/kinds/join.rs", "conformance_37_rollups_of_several_data_sources_are_joined_along_a_chain"),
    (&[38], "tests/it/waiting.rs", "conformance_38_what_was_kept_stands_in_for_a_slow_answer"),
    (&[38], "tests/it/waiting.rs", "modes_say_how_fresh_an_answer_must_be"),
    (&[38], "tests/it/kept.rs", "a_rebuilt_rollup_answers_anew"),
    (&[40], "tests/it/hooks/tenants.rs", "conformance_40_tenants_keep_tables_of_their_own"),
    (&[39], "tests/it/sequences/mod.rs", "every_answer_is_the_source_as_its_partitions_were_built_from_it"),
];
const LAST_CASE: u32 = 46;

#[test]
fn every_conformance_case_has_a_test() {
    for case in 1..=LAST_CASE {
        let tests = CASES.iter().filter(|(cases, ..)| cases.contains(&case)).count();
        assert!(tests > 0, "case {case} has no test");
    }
    for (cases, file, name) in CASES {
        let found = read(file).contains(&format!("#[test]\nfn {name}() {{\n"));
        assert!(found, "{file} has no test {name} of case {cases:?}");
    }
}

#[test]
fn modules_use_only_lower_floors() {
    let mut faults = Vec::new();
    for file in sources("src") {
        let room = file.room();
        if room == "lib" {
            continue;
        }
        let Some(own) = floor(&room) else {
            faults.push(format!("{}: the room '{room}' has no floor", file.path));
            continue;
        };
        for used in file.rooms_used() {
            let fault = match floor(&used) {
                _ if used == room || own == ROOF => continue,
                Some(other) if other < own => continue,
                Some(ROOF) => "the roof".to_owned(),
                Some(other) if other == own => format!("{used}, on its own floor"),
                Some(_) => format!("{used}, above it"),
                None => continue,
            };
            faults.push(format!("{}: uses {fault}", file.path));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn files_are_short() {
    let mut faults = Vec::new();
    for folder in ["src", "storage", "tests", "benches"] {
        for file in sources(folder) {
            let exempt = LONG_FILES.iter().any(|(path, _)| *path == file.path);
            if file.lines > MOST_LINES && !exempt {
                faults.push(format!("{}: {} lines, at most {MOST_LINES}", file.path, file.lines));
            }
            if file.lines <= MOST_LINES && exempt {
                faults.push(format!("{}: needs no exemption any more", file.path));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn storage_knows_no_engine_no_json_and_no_http() {
    let manifest = read("storage/Cargo.toml");
    let code: Vec<Source> = sources("storage");
    assert!(!code.is_empty());
    for stranger in STRANGERS_TO_STORAGE {
        let names = manifest.lines().map(|line| line.split(['=', '.', ' ']).next().unwrap_or_default());
        assert!(!names.into_iter().any(|name| name == *stranger), "storage/Cargo.toml names {stranger}");
        for file in &code {
            assert!(!file.code.contains(&format!(" {stranger}::")), "{} uses {stranger}", file.path);
        }
    }
}

#[test]
fn only_the_edges_deserialize() {
    check_only(DESERIALIZES, |file| file.code.contains("Deserialize").then(|| "derives Deserialize".to_owned()));
}

#[test]
fn only_the_configuration_reads_the_environment() {
    check_only(READS_ENVIRONMENT, |file| {
        let found = ENVIRONMENT_CALLS.iter().find(|call| file.code.contains(**call));
        found.map(|call| format!("reads the environment ({call})"))
    });
}

#[test]
fn only_the_lowering_writes_sql() {
    check_only(WRITES_SQL, |file| {
        let found = SQL_WORDS.iter().find(|word| file.strings.contains(**word));
        found.map(|word| format!("writes SQL ('{}')", word.trim_matches(['"', '(', ' '])))
    });
}

#[test]
fn only_the_lineage_parses_sql() {
    check_only(PARSES_SQL, |file| file.code.contains("sqlparser::").then(|| "parses SQL".to_owned()));
}

#[test]
fn no_test_is_switched_off() {
    for folder in ["src", "storage", "tests"] {
        for file in sources(folder) {
            for attribute in ["#[ignore", "#[should_panic"] {
                assert!(!file.whole_code.contains(attribute), "{}: {attribute}", file.path);
            }
        }
    }
}

/// A test in a file that no module names is a test that never runs.
#[test]
fn every_file_is_part_of_a_crate() {
    for folder in ["src", "storage/src", "storage/tests/it", "tests/it"] {
        let files = sources(folder);
        for file in &files {
            let (parent, name) = file.path.rsplit_once('/').expect("it lies in a folder");
            let (parent, name) = match name.trim_end_matches(".rs") {
                "main" | "lib" => continue,
                "mod" => parent.rsplit_once('/').expect("a room lies in a folder"),
                name => (parent, name),
            };
            let declarers = [
                format!("{parent}/mod.rs"),
                format!("{parent}/lib.rs"),
                format!("{parent}/main.rs"),
                format!("{parent}.rs"),
            ];
            let declares =
                |other: &&Source| declarers.contains(&other.path) && other.whole_code.contains(&format!("mod {name};"));
            assert!(files.iter().any(|other| declares(&other)), "{}: no module names it", file.path);
        }
    }
}

#[test]
fn paths_in_the_architecture_exist() {
    let text = read("ARCHITECTURE.md");
    let paths: BTreeSet<&str> = text.split('`').skip(1).step_by(2).filter(|word| is_path(word)).collect();
    assert!(paths.len() > 20, "ARCHITECTURE.md names its files in backticks");
    let missing: Vec<&&str> = paths
        .iter()
        .filter(|path| !["", "src", "storage/src"].iter().any(|base| root().join(base).join(path).exists()))
        .collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names what does not exist: {missing:?}");
}

#[test]
fn the_changelog_has_the_current_version() {
    let manifest = read("Cargo.toml");
    let line = manifest.lines().find(|line| line.starts_with("version = ")).expect("a version in Cargo.toml");
    let version = line.trim_start_matches("version = ").trim_matches('"');
    let heading = format!("## {version}");
    assert!(read("CHANGELOG.md").lines().any(|line| line.starts_with(&heading)), "CHANGELOG.md lacks {heading}");
}

#[test]
fn the_engine_crates_have_one_version_each() {
    let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
    let lock = read("Cargo.lock");
    for name in lock.lines().filter_map(|line| line.strip_prefix("name = ")) {
        *versions.entry(name.trim_matches('"')).or_default() += 1;
    }
    for name in SINGLE_VERSIONS {
        assert_eq!(versions.get(name), Some(&1), "versions of {name} in Cargo.lock");
    }
}

/// A Rust file, taken apart.
struct Source {
    /// From the root of the checkout, with `/`.
    path: String,
    lines: usize,
    /// Without comments and texts, up to the tests at its foot: the rules are about what ships.
    code: String,
    /// The texts of string literals, up to the tests at its foot.
    strings: String,
    /// As `code`, with the tests.
    whole_code: String,
}

impl Source {
    fn new(path: String, text: &str) -> Self {
        let foot = text.find("\n#[cfg(test)]\nmod tests");
        let shipped = foot.map_or(text, |foot| &text[..foot]);
        let (code, strings) = take_apart(shipped);
        Self { lines: text.lines().count(), code, strings, whole_code: take_apart(text).0, path }
    }

    /// The room of a file below `src`: its folder or, at the top, its name.
    fn room(&self) -> String {
        let below = self.path.trim_start_matches("src/");
        below.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned()
    }

    /// First names of `crate::…` paths, and of `super::super::…` paths of files one folder down.
    fn rooms_used(&self) -> BTreeSet<String> {
        let mut used = BTreeSet::new();
        for start in ["crate::", "super::super::"] {
            for (at, _) in self.code.match_indices(start) {
                let before = self.code[..at].chars().next_back();
                if before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '$' && c != ':') {
                    used.extend(first_names(&self.code[at + start.len()..]));
                }
            }
        }
        used
    }
}

/// `a` of `a::b`; `a` and `c` of `{a::{b}, c}`.
fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut depth, mut names, mut start) = (0, Vec::new(), 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(name(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
        if c == '}' && depth == 0 && start == at + 1 {
            break;
        }
    }
    names
}

/// Splits Rust text into its code and its string literals; comments are dropped.
fn take_apart(text: &str) -> (String, String) {
    let (mut code, mut strings) = (String::new(), String::new());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let taken = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = literal(rest, code.chars().next_back()) {
            strings.push_str(&rest[..length]);
            strings.push('\n');
            code.push_str("\"\"");
            length
        } else if let Some(length) = char_literal(rest) {
            length
        } else {
            code.push(c);
            c.len_utf8()
        };
        rest = &rest[taken..];
    }
    (code, strings)
}

/// Length of the string literal that `text` starts with.
fn literal(text: &str, before: Option<char>) -> Option<usize> {
    if before.is_none_or(|c| !c.is_alphanumeric() && c != '_') {
        let raw = text.strip_prefix("br").or_else(|| text.strip_prefix('r'));
        if let Some(raw) = raw {
            let hashes = raw.chars().take_while(|c| *c == '#').count();
            if raw[hashes..].starts_with('"') {
                let end = format!("\"{}", "#".repeat(hashes));
                let body = hashes + 1;
                let length = raw[body..].find(&end).map_or(raw.len(), |at| body + at + end.len());
                return Some(text.len() - raw.len() + length);
            }
        }
    }
    let mut escaped = false;
    for (at, c) in text.strip_prefix('"')?.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at + 2),
            _ => {}
        }
    }
    Some(text.len())
}

/// Length of the character literal that `text` starts with; a lifetime is none.
fn char_literal(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    if let Some(escape) = body.strip_prefix('\\') {
        let first = escape.chars().next()?.len_utf8();
        return Some(2 + first + escape[first..].find('\'')? + 1);
    }
    let first = body.chars().next()?.len_utf8();
    body[first..].starts_with('\'').then_some(first + 2)
}

#[track_caller]
fn check_only(allowed: &[&str], fault_of: impl Fn(&Source) -> Option<String>) {
    let mut faults = Vec::new();
    for file in sources("src") {
        let may =
            allowed.iter().any(|place| file.path == *place || place.ends_with('/') && file.path.starts_with(place));
        if let Some(fault) = fault_of(&file).filter(|_| !may) {
            faults.push(format!("{}: {fault}; only {allowed:?} may", file.path));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn floor(room: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor)
}

/// A file or folder of the checkout, and not a path of a URL, a store or somebody's project.
fn is_path(word: &str) -> bool {
    let plain = !word.starts_with(['/', '.']) && !word.contains(['*', '{', ' ', '<', ':', '…']);
    plain && (word.ends_with('/') || [".rs", ".md", ".toml", ".sh"].iter().any(|end| word.ends_with(end)))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All Rust files below a folder; none when there is no such folder.
fn sources(folder: &str) -> Vec<Source> {
    let (mut folders, mut files): (Vec<PathBuf>, Vec<PathBuf>) = (vec![root().join(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    let texts: Vec<String> = files.iter().map(|path| fs::read_to_string(path).expect("UTF-8")).collect();
    let test_files: BTreeSet<PathBuf> =
        files.iter().zip(&texts).flat_map(|(path, text)| test_modules(path, text)).collect();
    let load = |(path, text): (&PathBuf, &String)| {
        let below = path.strip_prefix(root()).expect("below the root").components();
        let name: Vec<_> = below.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        let mut source = Source::new(name.join("/"), text);
        if test_files.contains(path) {
            (source.code, source.strings) = (String::new(), String::new());
        }
        source
    };
    files.iter().zip(&texts).map(load).collect()
}

/// Files of the modules that a file declares for tests only.
fn test_modules(path: &Path, text: &str) -> Vec<PathBuf> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let holds_its_folder = ["mod", "lib", "main"].contains(&stem.as_ref());
    let folder = if holds_its_folder { path.with_file_name("") } else { path.with_extension("") };
    let declared = text.split("#[cfg(test)]\n").skip(1).filter_map(|rest| {
        let line = rest.lines().next()?.trim().strip_suffix(';')?;
        line.split_once("mod ").map(|(_, name)| name.to_owned())
    });
    declared.map(|name| folder.join(name).with_extension("rs")).collect()
}

#[test]
fn the_checks_see_what_they_must() {
    let text = r##"
        use crate::{query::{self, plan}, names::nearest, time};
        // use crate::comment;
        /// [`crate::doc`]
        fn f<'a>(x: &'a str) -> char { let _ = "crate::text \" SELECT "; let _ = r#"crate::raw " ORDER BY "#; '"' }
        fn g() { crate::engine::run(); my_crate::other(); super::super::api::h(); }
"##;
    let foot = "\n#[cfg(test)]\nmod tests { use crate::refresh; }\n";
    let source = Source::new("src/model/cube.rs".to_owned(), &format!("{text}{foot}"));
    let used: Vec<String> = source.rooms_used().into_iter().collect();
    assert_eq!(used, ["api", "engine", "names", "query", "time"]);
    assert!(source.strings.contains("SELECT ") && source.strings.contains(" ORDER BY "));
    assert!(!source.code.contains("SELECT") && !source.code.contains("comment"));
    assert_eq!(source.room(), "model");
    assert_eq!(Source::new("src/names.rs".to_owned(), "").room(), "names");
    assert!(is_path("query/plan.rs") && is_path("storage/") && !is_path("/v1/load") && !is_path(".quarry/"));
}
