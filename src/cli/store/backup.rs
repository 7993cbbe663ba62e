//! `quarry backup` and `quarry restore`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use quarry_storage::{BackupReport, Copying};

use super::{settings, size};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Takes the live partitions and the catalog at one moment; a server may be running, and goes on \
                  undisturbed.\nEvery file is read back and compared with the catalog. On the same file system the \
                  files are hard links, which\ncost no space; copy the folder elsewhere, or use --copy, to be safe \
                  from a failing disk.\n\nExamples:\n  \
                  quarry backup /backups/$(date +%F)\n  quarry restore /backups/2024-03-09"
)]
pub(in crate::cli) struct BackupArgs {
    #[command(flatten)]
    project: crate::cli::ProjectArgs,
    /// Where to: a folder that is empty or does not exist yet
    dir: PathBuf,
    /// Copy the bytes also where a hard link would do
    #[arg(long)]
    copy: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The project's store (.quarry, or QUARRY_DATA_DIR) must be empty or not exist: move an old one away \
                  first.\nEvery file is compared with the backup's catalog; nothing is left behind when that fails."
)]
pub(in crate::cli) struct RestoreArgs {
    #[command(flatten)]
    project: crate::cli::ProjectArgs,
    /// The backup
    dir: PathBuf,
}

pub(in crate::cli) fn run(args: &BackupArgs) -> anyhow::Result<ExitCode> {
    let config = settings(&args.project)?;
    let copying = if args.copy { Copying::Copy } else { Copying::LinkOrCopy };
    let report = quarry_storage::backup(&config.store_dir, &args.dir, copying)?;
    let linked = if report.linked > 0 { format!(", {} of them hard links", report.linked) } else { String::new() };
    tell("saved", &report, &linked)
}

pub(in crate::cli) fn run_restore(args: &RestoreArgs) -> anyhow::Result<ExitCode> {
    let config = settings(&args.project)?;
    let report = quarry_storage::restore(&args.dir, &config.store_dir)?;
    tell("restored", &report, "")
}

fn tell(done: &str, report: &BackupReport, more: &str) -> anyhow::Result<ExitCode> {
    let BackupReport { files, size_bytes, snapshot, .. } = report;
    writeln!(
        std::io::stdout().lock(),
        "{done} snapshot {snapshot}: {files} file(s), {}{more}, all verified",
        size(*size_bytes)
    )?;
    Ok(ExitCode::SUCCESS)
}
