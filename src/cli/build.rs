//! `quarry build`: builds rollups of a project and waits for them.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{PATIENCE, ProjectArgs, start_for_command};
use crate::app::App;
use crate::refresh::{Atomic, Freshness, Preview, Selection};
use crate::time::{Zone, format_local, to_micros};

#[derive(Debug, clap::Args)]
pub(super) struct BuildArgs {
    #[command(flatten)]
    project: ProjectArgs,
    /// Rollups to build, as cube.rollup; all when none is named
    rollups: Vec<String>,
    /// Build only partitions that reach this day or time, or later
    #[arg(long, value_name = "DATE", requires = "to")]
    from: Option<String>,
    /// Build only partitions that begin on this day or time, or earlier
    #[arg(long, value_name = "DATE", requires = "from")]
    to: Option<String>,
    /// Time zones to build for [default: CUBEJS_SCHEDULED_REFRESH_TIMEZONES, or UTC]
    #[arg(long, value_name = "ZONE")]
    timezone: Vec<String>,
    /// Build only partitions that are missing or older than their refresh key allows
    #[arg(long)]
    if_stale: bool,
    /// Publish in one step: what is built of each rollup in each time zone, or all of it
    #[arg(long, value_name = "SCOPE", value_enum)]
    atomic: Option<AtomicScope>,
    /// Print what would be built, with rows and cost of the last builds, and build nothing
    #[arg(long)]
    dry_run: bool,
}

/// The words of the API, for [`Atomic`].
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum AtomicScope {
    PerPreaggregation,
    All,
}

pub(super) async fn run(args: BuildArgs) -> anyhow::Result<ExitCode> {
    let held = "A running server holds it. Ask that one (and follow it with quarry jobs):\n  curl -H \"Authorization: $(quarry token)\" -H 'Content-Type: application/json' \\\n    \
                -d '{\"action\":\"post\",\"selector\":{\"contexts\":[{\"securityContext\":{}}],\"timezones\":[\"UTC\"]}}' \\\n    \
                http://localhost:4000/cubejs-api/v1/pre-aggregations/jobs";
    let (_, app) = start_for_command(&args.project.project, held)?;
    check_rollup_names(&app, &args.rollups)?;
    let selection = Selection {
        contexts: vec![json!({})],
        zones: parse_zones(&args.timezone)?,
        preaggs: args.rollups,
        range: parse_range(args.from.as_deref(), args.to.as_deref())?,
        if_stale: args.if_stale,
        atomic: args.atomic.map(|scope| match scope {
            AtomicScope::PerPreaggregation => Atomic::PerPreaggregation,
            AtomicScope::All => Atomic::All,
        }),
        ..Selection::default()
    };
    if args.dry_run {
        let previews = app.refresher().preview(&selection).await?;
        app.stop(PATIENCE).await;
        print_previews(&previews)?;
        return Ok(ExitCode::SUCCESS);
    }
    let tokens = app.refresher().post(selection).await?;
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} partitions {elapsed}")?;
    let bar = ProgressBar::new(tokens.len() as u64).with_style(style);
    let mut failures = Vec::new();
    for token in &tokens {
        for job in app.refresher().wait(std::slice::from_ref(token)).await? {
            if job.status != "done" {
                failures.push(format!("{}: {}", job.preagg, job.status));
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if app.refresher().keeps_index_copies() {
        let waiting = ProgressBar::new_spinner().with_message("copies for indexes");
        waiting.enable_steady_tick(Duration::from_millis(100));
        app.refresher().wait_for_index_copies().await;
        waiting.finish_and_clear();
    }
    app.stop(PATIENCE).await;
    let built = tokens.len() - failures.len();
    writeln!(std::io::stdout().lock(), "{built} of {} partition(s) built", tokens.len())?;
    failures.dedup();
    if failures.is_empty() { Ok(ExitCode::SUCCESS) } else { bail!("{}", failures.join("\n")) }
}

/// A line a partition: what it needs, and what the last build of it gave and cost.
fn print_previews(previews: &[Preview]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let (mut rows, mut cost_ms) = (0, 0);
    for preview in previews {
        let part = preview.bucket.map_or_else(|| "whole".to_owned(), |bucket| format_local(bucket.start));
        let state = match preview.freshness {
            Freshness::Missing => "missing",
            Freshness::Stale => "stale",
            Freshness::Fresh => "fresh",
        };
        write!(out, "{}  {part}  {}  {state}", preview.preagg, preview.timezone)?;
        if let Some(published) = &preview.published {
            rows += published.rows;
            cost_ms += published.build_ms;
            write!(
                out,
                "  {} rows in {} ms, built {}Z",
                published.rows,
                published.build_ms,
                format_local(published.built_at)
            )?;
        }
        writeln!(out)?;
    }
    writeln!(out, "{} partition(s) would be built; the last builds gave {rows} rows in {cost_ms} ms", previews.len())?;
    Ok(())
}

/// The zones of `--timezone`; none means those of the settings.
pub(super) fn parse_zones(names: &[String]) -> anyhow::Result<Vec<Zone>> {
    let zone = |name: &String| {
        let unknown = |fault| anyhow::anyhow!("'{name}' is not an IANA time zone: {fault}");
        Zone::from_str_insensitive(name).map_err(unknown)
    };
    names.iter().map(zone).collect()
}

/// `--from` and `--to`, which come together.
pub(super) fn parse_range(from: Option<&str>, to: Option<&str>) -> anyhow::Result<Option<(i64, i64)>> {
    from.zip(to).map(|(from, to)| Ok((parse_date(from)?, parse_date(to)?))).transpose()
}

pub(super) fn check_rollup_names(app: &App, names: &[String]) -> anyhow::Result<()> {
    let rollups = app.rollups();
    let model = rollups.model();
    let known: Vec<String> =
        rollups.all().map(|id| format!("{}.{}", model.cube(id.cube).name, model.preagg(id).name)).collect();
    for name in names {
        if !known.contains(name) {
            let near = crate::names::nearest(name, known.iter().map(String::as_str));
            let hint = near.map_or_else(
                || format!("the model has: {}", known.join(", ")),
                |near| format!("did you mean '{near}'?"),
            );
            bail!("there is no rollup '{name}'; {hint}");
        }
    }
    Ok(())
}

/// `YYYY-MM-DD` (its midnight) or a timestamp, as local microseconds.
pub(super) fn parse_date(text: &str) -> anyhow::Result<i64> {
    let midnight = || text.parse::<chrono::NaiveDate>().map(|date| date.and_time(chrono::NaiveTime::MIN));
    let time = text.parse::<chrono::NaiveDateTime>().or_else(|_| midnight());
    Ok(to_micros(time.with_context(|| format!("'{text}' is not a date such as 2024-03-01"))?))
}
