//! `quarry fsck`: is every file as it was written, and is everything on record?

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use quarry_storage::{ErrorKind, FindingSeverity, Inspection, repair};

use super::{bucket_of, settings, size};
use crate::time::Clock;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reads every partition file to its last byte; a server may be running. Exit code 1 when a live \
                  partition is\ndamaged or missing, or the catalog cannot be read.\n\nWith --repair, which needs the \
                  server stopped: a catalog that is damaged or gone is made anew from what the\nfiles say of \
                  themselves, published files that it does not know are taken in, and damaged ones are moved to\n\
                  set-aside/. Nothing is deleted. Jobs are lost with a catalog.\n\nExamples:\n  \
                  quarry fsck\n  quarry fsck --repair && quarry build      mend, then build what could not be saved"
)]
pub(in crate::cli) struct FsckArgs {
    #[command(flatten)]
    project: crate::cli::ProjectArgs,
    /// Mend what can be mended; no server may be running
    #[arg(long)]
    repair: bool,
}

pub(in crate::cli) fn run(args: &FsckArgs) -> anyhow::Result<ExitCode> {
    let config = settings(&args.project)?;
    let mut out = std::io::stdout().lock();
    if args.repair {
        let report = match repair(&config.store_dir, Clock::System.now()) {
            Err(error) if error.kind() == ErrorKind::Locked => bail!("{error}\nA repair needs the server stopped."),
            report => report?,
        };
        if let Some(old) = &report.old_catalog {
            writeln!(out, "the damaged catalog is now {}", old.display())?;
        }
        for key in &report.adopted {
            writeln!(out, "taken in: {} {}", key.table, bucket_of(key))?;
        }
        for (key, why) in &report.dropped {
            writeln!(out, "lost: {} {} ({why}); rebuild it with `quarry build`", key.table, bucket_of(key))?;
        }
        for (path, why) in &report.set_aside {
            writeln!(out, "set aside: {} ({why})", path.display())?;
        }
        let how = if report.is_rebuilt { "made anew" } else { "mended" };
        let (live, versions) = (report.partitions, report.versions);
        writeln!(out, "the catalog is {how}: {live} partition(s) live, {versions} previous version(s)")?;
    }
    let report = Inspection::open(&config.store_dir)?.check()?;
    for finding in &report.findings {
        let word = match finding.severity {
            FindingSeverity::Fault => "fault",
            FindingSeverity::Note => "note",
        };
        let partition = finding.partition.as_ref();
        let partition = partition.map_or_else(String::new, |key| format!(" of {} {}", key.table, bucket_of(key)));
        writeln!(out, "{word}: {}{partition}: {}", finding.path.display(), finding.fault)?;
    }
    let faults = report.faults();
    writeln!(out, "{} file(s) read, {}; {faults} fault(s)", report.files, size(report.size_bytes))?;
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
