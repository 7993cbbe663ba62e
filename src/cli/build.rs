//! `quarry build`: builds rollups of a project and waits for them.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{PATIENCE, ProjectArgs, start_for_command};
use crate::app::App;
use crate::refresh::Selection;
use crate::time::{Zone, to_micros};

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
}

pub(super) async fn run(args: BuildArgs) -> anyhow::Result<ExitCode> {
    let held = "A running server holds it. Ask that one:\n  curl -H \"Authorization: $(quarry token)\" -H 'Content-Type: application/json' \\\n    \
                -d '{\"action\":\"post\",\"selector\":{\"contexts\":[{\"securityContext\":{}}],\"timezones\":[\"UTC\"]}}' \\\n    \
                http://localhost:4000/cubejs-api/v1/pre-aggregations/jobs";
    let (config, app) = start_for_command(&args.project.project, held)?;
    let mut zones = Vec::new();
    for name in &args.timezone {
        zones.push(
            Zone::from_str_insensitive(name)
                .map_err(|fault| anyhow::anyhow!("'{name}' is not an IANA time zone: {fault}"))?,
        );
    }
    check_rollup_names(&app, &args.rollups)?;
    let range = match (&args.from, &args.to) {
        (Some(from), Some(to)) => Some((parse_date(from)?, parse_date(to)?)),
        _ => None,
    };
    let selection = Selection {
        contexts: vec![json!({})],
        zones: if zones.is_empty() { config.refresh_zones } else { zones },
        preaggs: args.rollups,
        range,
        ..Selection::default()
    };
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
    app.stop(PATIENCE).await;
    let built = tokens.len() - failures.len();
    writeln!(std::io::stdout().lock(), "{built} of {} partition(s) built", tokens.len())?;
    failures.dedup();
    if failures.is_empty() { Ok(ExitCode::SUCCESS) } else { bail!("{}", failures.join("\n")) }
}

fn check_rollup_names(app: &App, names: &[String]) -> anyhow::Result<()> {
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
fn parse_date(text: &str) -> anyhow::Result<i64> {
    let midnight = || text.parse::<chrono::NaiveDate>().map(|date| date.and_time(chrono::NaiveTime::MIN));
    let time = text.parse::<chrono::NaiveDateTime>().or_else(|_| midnight());
    Ok(to_micros(time.with_context(|| format!("'{text}' is not a date such as 2024-03-01"))?))
}
