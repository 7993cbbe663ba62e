//! `quarry rollback`: back to what was published before.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use quarry_storage::{FileId, Inspection, PartitionKey, Scope, TableId, VersionChoice};
use serde_json::{Value, json};

use super::{ask_server, bucket_of, matching, open, settings};
use crate::api::describe_rollback;
use crate::preagg::indexes::copied_table;
use crate::time::{Clock, from_micros};

#[derive(Debug, clap::Args)]
#[command(after_help = "Every rebuilt partition keeps its previous version for a day (QUARRY_KEEP_VERSIONS, \
                  QUARRY_ROLLBACK_WINDOW).\nA partition that was rolled back is held: the scheduler leaves it alone \
                  until somebody builds it, with\n`quarry build` or over the jobs endpoint. Its jobs that wait or run \
                  are cancelled. With a running server, that\none is asked to do it.\n\nExamples:\n  \
                  quarry rollback orders.daily --partition 2024-03-01     one partition to its previous version\n  \
                  quarry rollback orders.daily --before 2024-03-09       all as they were built before that\n  \
                  quarry rollback orders.daily --partition all --to 2f    to a version of `quarry partitions --versions`")]
pub(in crate::cli) struct RollbackArgs {
    #[command(flatten)]
    project: crate::cli::ProjectArgs,
    /// The rollup, as cube.rollup, or a table of `quarry partitions`
    rollup: String,
    /// Only this partition: the start of its bucket, or all for a rollup without partitions
    #[arg(long, value_name = "START")]
    partition: Option<String>,
    /// To this version
    #[arg(long, value_name = "VERSION", requires = "partition", conflicts_with = "before")]
    to: Option<String>,
    /// To the newest versions that were built before this moment (UTC)
    #[arg(long, value_name = "TIME")]
    before: Option<String>,
}

pub(in crate::cli) fn run(args: &RollbackArgs) -> anyhow::Result<ExitCode> {
    let config = settings(&args.project)?;
    let (scope, choice) = resolve(args, &Inspection::open(&config.store_dir)?)?;
    let mut out = std::io::stdout().lock();
    let lines: Vec<String> = match open(&config)? {
        Some(store) => {
            let rolled_back = store.rollback(&scope, choice, Clock::System.now())?;
            rolled_back.iter().map(|partition| tell(&describe_rollback(partition))).collect()
        }
        None => {
            let answer = ask_server(&config, "/quarry/v1/rollback", &to_request(&scope, choice))?;
            answer["partitions"].as_array().into_iter().flatten().map(tell).collect()
        }
    };
    if lines.is_empty() {
        writeln!(out, "nothing to do: what is live was built before that")?;
    }
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What the arguments mean in this store.
fn resolve(args: &RollbackArgs, store: &Inspection) -> anyhow::Result<(Scope, VersionChoice)> {
    // Copies follow what they are copies of.
    let tables = store.snapshot().tables().map(|(id, _)| id).filter(|id| copied_table(id).is_none());
    let tables = matching(tables, &args.rollup);
    let table = match &tables[..] {
        [table] => table.clone(),
        [] => bail!("nothing of '{}' is stored: `quarry partitions` lists what is", args.rollup),
        several => {
            let names: Vec<&str> = several.iter().map(TableId::as_str).collect();
            bail!("'{}' is stored in several zones or definitions; name one of: {}", args.rollup, names.join(", "))
        }
    };
    let choice = match (&args.to, &args.before) {
        (Some(version), _) => VersionChoice::File(
            FileId::parse(version).with_context(|| format!("'{version}' is not a version of `quarry partitions`"))?,
        ),
        (None, Some(time)) => VersionChoice::BuiltBefore(crate::cli::build::parse_date(time)?),
        (None, None) => VersionChoice::Previous,
    };
    let Some(wanted) = &args.partition else { return Ok((Scope::Table(table), choice)) };
    let live = store.snapshot().table(&table).into_iter().flat_map(|live| live.partitions.values());
    let live = live.map(|partition| PartitionKey { table: table.clone(), bucket: partition.bucket });
    let previous = store.versions().into_iter().map(|version| version.partition);
    let found = live.chain(previous.filter(|key| key.table == table)).find(|key| bucket_of(key) == *wanted);
    let key = found.with_context(|| format!("{table} has no partition '{wanted}': `quarry partitions` lists them"))?;
    Ok((Scope::Partition(key), choice))
}

/// What the server's endpoint takes.
fn to_request(scope: &Scope, choice: VersionChoice) -> Value {
    let (table, partition) = match scope {
        Scope::Table(table) => (table, None),
        Scope::Partition(key) => (&key.table, Some(bucket_of(key))),
    };
    let mut request = json!({"table": table.as_str()});
    if let Some(partition) = partition {
        request["partition"] = json!(partition);
    }
    match choice {
        VersionChoice::Previous => {}
        VersionChoice::File(file) => request["version"] = json!(file.to_string()),
        VersionChoice::BuiltBefore(time) => {
            request["before"] = json!(from_micros(time).format("%Y-%m-%dT%H:%M:%S%.6f").to_string())
        }
    }
    request
}

fn tell(partition: &Value) -> String {
    let text = |name: &str| partition[name].as_str().unwrap_or_default().to_owned();
    let cancelled = partition["cancelledJobs"].as_array().map_or(0, Vec::len);
    let before = partition["rowsBefore"].as_u64().map_or_else(String::new, |rows| format!(" (was {rows})"));
    let jobs = if cancelled > 0 { format!("; {cancelled} job(s) cancelled") } else { String::new() };
    format!(
        "{} {}: {} rows{before}, built {}; held until it is built again{jobs}",
        text("table"),
        text("partition"),
        partition["rows"],
        text("builtAt")
    )
}
