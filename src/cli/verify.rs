//! `quarry verify`: compares published partitions with what the source says now.

use std::io::Write as _;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};

use super::build::{check_rollup_names, parse_range, parse_zones};
use super::{PATIENCE, ProjectArgs, start_for_command};
use crate::refresh::{Difference, RefreshError, Selection, Stored, Verification};
use crate::time::format_local;

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    project: ProjectArgs,
    /// Rollups to verify, as cube.rollup; all when none is named
    rollups: Vec<String>,
    /// Verify only partitions that reach this day or time, or later
    #[arg(long, value_name = "DATE", requires = "to")]
    from: Option<String>,
    /// Verify only partitions that begin on this day or time, or earlier
    #[arg(long, value_name = "DATE", requires = "from")]
    to: Option<String>,
    /// Verify at most so many partitions of each rollup, evenly spread, the newest among them [default: all]
    #[arg(long, value_name = "PARTITIONS", value_parser = clap::value_parser!(u32).range(1..))]
    sample: Option<u32>,
    /// Time zones to verify [default: CUBEJS_SCHEDULED_REFRESH_TIMEZONES, or UTC]
    #[arg(long, value_name = "ZONE")]
    timezone: Vec<String>,
}

pub(super) async fn run(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let held = "A running server holds it: stop that one first, or verify a copy of the project";
    let (_, app) = start_for_command(&args.project.project, held)?;
    check_rollup_names(&app, &args.rollups)?;
    let selection = Selection {
        zones: parse_zones(&args.timezone)?,
        preaggs: args.rollups,
        range: parse_range(args.from.as_deref(), args.to.as_deref())?,
        ..Selection::default()
    };
    let sample = args.sample.map(|sample| sample as usize);
    let partitions = app
        .refresher()
        .published(&selection, sample)
        .map_err(|error| anyhow::anyhow!("{error}\nOnly partitions that were built can be verified: quarry build"))?;
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} partitions {elapsed}")?;
    let bar = ProgressBar::new(partitions.len() as u64).with_style(style);
    let (mut rows, mut differing) = (0, 0);
    for stored in &partitions {
        match app.refresher().verify(stored).await {
            Ok(found) => {
                rows += found.rows;
                differing += usize::from(found.differing > 0);
                bar.suspend(|| tell(stored, &found))?;
            }
            // The others may still be right.
            Err(RefreshError::Storage(error)) => {
                differing += 1;
                bar.suspend(|| writeln!(std::io::stdout().lock(), "{}: {error}", name_of(stored)))?;
            }
            Err(error) => return Err(error.into()),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    app.stop(PATIENCE).await;
    let mut out = std::io::stdout().lock();
    let count = partitions.len();
    writeln!(out, "{} of {count} partition(s) equal their source, {rows} row(s) compared", count - differing)?;
    Ok(if differing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A partition in what is told.
fn name_of(stored: &Stored) -> String {
    let part = stored.bucket().map_or_else(|| "whole".to_owned(), |bucket| format_local(bucket.start));
    format!("{} {part} {}", stored.preagg(), stored.timezone())
}

/// What differs in a partition; nothing is printed for one that does not.
fn tell(stored: &Stored, found: &Verification) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if found.differing == 0 {
        return Ok(());
    }
    writeln!(out, "{}: {} difference(s)", name_of(stored), found.differing)?;
    for Difference { group, measure, stored, source } in &found.differences {
        let none = || "nothing".to_owned();
        let (stored, source) = (stored.clone().unwrap_or_else(none), source.clone().unwrap_or_else(none));
        match measure {
            Some(measure) => writeln!(out, "  {group}: {measure} is {stored}, the source says {source}")?,
            None => writeln!(out, "  {group}: the rollup has {stored}, the source {source}")?,
        }
    }
    if found.differing > found.differences.len() {
        writeln!(out, "  and {} more", found.differing - found.differences.len())?;
    }
    Ok(())
}
