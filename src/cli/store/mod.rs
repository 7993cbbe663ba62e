//! The commands of who runs a store. What only reads (`partitions`, `fsck`, `gc --dry-run`, `backup`) looks at the
//! folder and works beside a server; what changes the store (`rollback`, `gc`) does it here when nobody serves, and
//! asks the server when one does.

mod backup;
mod collect;
mod columns;
mod fsck;
mod partitions;
mod rollback;

use std::time::Duration;

use anyhow::{Context as _, bail};
use quarry_storage::{ErrorKind, PartitionKey, Store, TableId};
use serde_json::{Value, json};

pub(super) use self::backup::{BackupArgs, RestoreArgs};
pub(super) use self::collect::GcArgs;
pub(super) use self::fsck::FsckArgs;
pub(super) use self::partitions::PartitionsArgs;
pub(super) use self::rollback::RollbackArgs;
pub(super) use self::{
    backup::run as backup, backup::run_restore as restore, collect::run as gc, fsck::run as fsck,
    partitions::run as partitions, rollback::run as rollback,
};
use crate::auth::jwt;
use crate::config::{Config, Overrides};
use crate::preagg::partition::bucket_text;
use crate::time::from_micros;

/// How long a server may take to do what it is asked.
const PATIENCE: Duration = Duration::from_secs(600);

/// The settings of a project, as far as its store needs them: no secret, no model.
fn settings(project: &super::ProjectArgs) -> anyhow::Result<Config> {
    let config = Config::load(&project.project, &Overrides { dev_mode: Some(true), ..Overrides::default() })?;
    super::start_log("warn");
    Ok(config)
}

/// The project's store, to be changed; none when a server holds it.
fn open(config: &Config) -> anyhow::Result<Option<Store>> {
    match Store::open(config.store_options()) {
        Ok(store) => Ok(Some(store)),
        Err(error) if error.kind() == ErrorKind::Locked => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Asks the project's server to do it, as the process that holds the store.
fn ask_server(config: &Config, path: &str, arguments: &Value) -> anyhow::Result<Value> {
    let token = match config.secrets.first() {
        Some(secret) => jwt::sign(&json!({}), secret)?,
        None => String::new(),
    };
    let origin = format!("http://localhost:{}", config.port);
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().into();
    let sent = agent.post(format!("{origin}{path}")).header("Authorization", &token).send_json(arguments);
    let mut response = sent.with_context(|| {
        format!(
            "another process holds the store {}, and no server answers at {origin}: set PORT to its port, or stop it",
            config.store_dir.display()
        )
    })?;
    let status = response.status().as_u16();
    let text = response.body_mut().read_to_string()?;
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    if status == 200 {
        return Ok(body);
    }
    let error = body["error"].as_str().unwrap_or(&text);
    let hint = match status {
        403 => "\nIts token needs the scope jobs: CUBEJS_DEFAULT_API_SCOPES=meta,data,graphql,sql,jobs",
        _ => "",
    };
    bail!("{origin} answered {status}: {error}{hint}")
}

/// The tables that a name means: a table as it is stored, or all of a rollup, `cube.rollup`.
fn matching<'a>(tables: impl Iterator<Item = &'a TableId>, name: &str) -> Vec<TableId> {
    tables.filter(|table| table.as_str() == name || rollup_of(table) == name).cloned().collect()
}

/// `cube.rollup` of `cube.rollup@zone-digest`.
fn rollup_of(table: &TableId) -> &str {
    table.as_str().split('@').next().unwrap_or_default()
}

/// A partition as people see it: the start of its bucket, or `all`.
fn bucket_of(key: &PartitionKey) -> String {
    bucket_text(key.bucket)
}

/// A moment in UTC.
fn moment(micros: i64) -> String {
    format!("{}Z", from_micros(micros).format("%Y-%m-%dT%H:%M:%S"))
}

/// `1.5 MB`.
fn size(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}

/// Rows of cells, as wide as the widest of their column.
fn print_table<const N: usize>(out: &mut impl std::io::Write, rows: &[[String; N]]) -> anyhow::Result<()> {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or_default());
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}
