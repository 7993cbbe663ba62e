//! `quarry partitions`: what is published.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use quarry_storage::{Inspection, PartitionKey, TableId};
use serde_json::{Value, json};

use super::{bucket_of, columns, matching, moment, print_table, rollup_of, settings, size};
use crate::preagg::indexes::{copied_table, is_of};

#[derive(Debug, clap::Args)]
#[command(after_help = "Reads the store as it is on disk; a server may be running.\n\nExamples:\n  \
                  quarry partitions                              every partition of every rollup\n  \
                  quarry partitions orders.daily --versions      what can be gone back to\n  \
                  quarry partitions orders.daily --columns       what takes the space, sets and sketches by name\n  \
                  quarry partitions --json | jq '.[].rows'       for scripts")]
pub(in crate::cli) struct PartitionsArgs {
    #[command(flatten)]
    project: crate::cli::ProjectArgs,
    /// Only this rollup, as cube.rollup, or this table
    rollup: Option<String>,
    /// Also the previous versions that `quarry rollback` can go back to
    #[arg(long)]
    versions: bool,
    /// The bytes of each column over all live partitions, and how it is stored
    #[arg(long, conflicts_with = "versions")]
    columns: bool,
    /// Print JSON: an array with one object a partition, or a column
    #[arg(long)]
    json: bool,
}

/// One line.
struct Line {
    key: PartitionKey,
    file: String,
    rows: u64,
    size_bytes: u64,
    built_at: i64,
    state: &'static str,
}

pub(in crate::cli) fn run(args: &PartitionsArgs) -> anyhow::Result<ExitCode> {
    let config = settings(&args.project)?;
    let store = Inspection::open(&config.store_dir)?;
    let tables: Vec<TableId> = match &args.rollup {
        None => store.snapshot().tables().map(|(id, _)| id.clone()).collect(),
        Some(name) => matching(store.snapshot().tables().map(|(id, _)| id), name),
    };
    if let (Some(name), true) = (&args.rollup, tables.is_empty()) {
        let mut known: Vec<&str> = store.snapshot().tables().map(|(id, _)| rollup_of(id)).collect();
        known.dedup();
        bail!("nothing of '{name}' is stored; there is: {}", known.join(", "));
    }
    if args.columns {
        columns::print(&store, &tables, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut lines = Vec::new();
    for table in &tables {
        let copied = copied_table(table);
        for live in store.snapshot().table(table).into_iter().flat_map(|table| table.partitions.values()) {
            let of = copied.as_ref().map(|table| PartitionKey { table: table.clone(), bucket: live.bucket });
            let is_current = |key: &PartitionKey| store.snapshot().find(key).is_some_and(|of| is_of(live, of));
            let state = match (live.path.is_file(), &of) {
                (false, _) => "missing",
                (true, Some(of)) if is_current(of) => "copy",
                (true, Some(_)) => "old copy",
                (true, None) if live.held => "held",
                (true, None) => "live",
            };
            lines.push(Line {
                key: PartitionKey { table: table.clone(), bucket: live.bucket },
                file: live.file.to_string(),
                rows: live.rows,
                size_bytes: live.size_bytes,
                built_at: live.built_at,
                state,
            });
        }
    }
    if args.versions {
        let previous = store.versions().into_iter().filter(|version| tables.contains(&version.partition.table));
        lines.extend(previous.map(|version| Line {
            key: version.partition,
            file: version.file.to_string(),
            rows: version.rows,
            size_bytes: version.size_bytes,
            built_at: version.built_at,
            state: "previous",
        }));
        // Stable: the live one stays before its previous versions.
        lines.sort_by(|a, b| a.key.cmp(&b.key));
    }
    print(&lines, args.json)?;
    Ok(ExitCode::SUCCESS)
}

fn print(lines: &[Line], as_json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if as_json {
        let all: Vec<Value> = lines.iter().map(to_json).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(());
    }
    let head = ["TABLE", "PARTITION", "STATE", "ROWS", "SIZE", "BUILT", "VERSION"].map(str::to_owned);
    let rows = lines.iter().map(|line| {
        [
            line.key.table.to_string(),
            bucket_of(&line.key),
            line.state.to_owned(),
            line.rows.to_string(),
            size(line.size_bytes),
            moment(line.built_at),
            line.file.trim_start_matches('0').to_owned(),
        ]
    });
    print_table(&mut out, &std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

fn to_json(line: &Line) -> Value {
    json!({
        "table": line.key.table.as_str(),
        "rollup": rollup_of(&line.key.table),
        "partition": bucket_of(&line.key),
        "state": line.state,
        "rows": line.rows,
        "bytes": line.size_bytes,
        "builtAt": moment(line.built_at),
        "version": line.file,
    })
}
