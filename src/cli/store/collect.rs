//! `quarry gc`: deletes replaced files that nobody needs.

use std::io::Write as _;
use std::process::ExitCode;

use quarry_storage::{Fate, GcFile, Inspection};
use serde_json::json;

use super::{ask_server, bucket_of, moment, open, settings, size};
use crate::time::Clock;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A server does this by itself every half minute. A replaced file goes once no request reads it, its \
                  grace is\nover (QUARRY_GC_GRACE, 60s) and it is not kept for a rollback (QUARRY_KEEP_VERSIONS, 1; \
                  QUARRY_ROLLBACK_WINDOW, 24h).\nWith a running server, that one is asked to do it.\n\nExamples:\n  \
                  quarry gc --dry-run      which files would go, which stay, and why"
)]
pub(in crate::cli) struct GcArgs {
    #[command(flatten)]
    project: crate::cli::ProjectArgs,
    /// Only say what would be done; a server may be running
    #[arg(long)]
    dry_run: bool,
}

pub(in crate::cli) fn run(args: &GcArgs) -> anyhow::Result<ExitCode> {
    let config = settings(&args.project)?;
    let now = Clock::System.now();
    let mut out = std::io::stdout().lock();
    if args.dry_run {
        let files = Inspection::open(&config.store_dir)?.plan_garbage(&config.store_options(), now);
        for file in &files {
            writeln!(out, "{}", tell(file))?;
        }
        let gone = files.iter().filter(|file| file.fate.is_deleted());
        let (count, bytes) = gone.fold((0, 0), |(count, bytes), file| (count + 1, bytes + file.size_bytes));
        writeln!(out, "would delete {count} file(s), {}; {} stay", size(bytes), files.len() - count)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (files, bytes, kept) = match open(&config)? {
        Some(store) => {
            let report = store.collect_garbage(now)?;
            (report.files as u64, report.size_bytes, report.kept as u64)
        }
        None => {
            let answer = ask_server(&config, "/quarry/v1/gc", &json!({}))?;
            let number = |name: &str| answer[name].as_u64().unwrap_or_default();
            (number("files"), number("bytes"), number("kept"))
        }
    };
    writeln!(out, "deleted {files} file(s), {}; {kept} stay", size(bytes))?;
    Ok(ExitCode::SUCCESS)
}

fn tell(file: &GcFile) -> String {
    let since = file.since.map_or_else(|| "found without a record".to_owned(), |at| format!("replaced {}", moment(at)));
    let fate = match file.fate {
        Fate::Superseded => format!("delete  {since}, a newer version is live"),
        Fate::Dropped => format!("delete  {since}, its table is not defined any more"),
        Fate::InGrace { until } => format!("keep    {since}, in grace until {}", moment(until)),
        Fate::Read => format!("keep    {since}, still read"),
        Fate::Version { until } => format!("keep    {since}, for a rollback until {}", moment(until)),
    };
    let (table, bucket) = (&file.partition.table, bucket_of(&file.partition));
    format!("{fate}  {}  {table} {bucket}  {}", size(file.size_bytes), file.path.display())
}
