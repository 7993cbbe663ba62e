//! `quarry explain`: tells which pre-aggregation answers a query, and why the others do not.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use serde_json::{Value, json};

use super::ask::{AskedArgs, ask};

#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    asked: AskedArgs,
    /// Print JSON and not text
    #[arg(long = "json")]
    as_json: bool,
}

pub(super) async fn run(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    let format = if args.as_json { "json" } else { "text" };
    let mut answer = ask(args.asked, "/quarry/v1/explain", json!({"format": format})).await?;
    let Value::Array(mut results) = answer["results"].take() else { bail!("the server gave no explanation") };
    let mut out = std::io::stdout().lock();
    if args.as_json {
        let shown = if results.len() == 1 { results.pop().unwrap_or_default() } else { Value::Array(results) };
        writeln!(out, "{}", serde_json::to_string_pretty(&shown)?)?;
    } else {
        let texts: Vec<&str> = results.iter().filter_map(|result| result["text"].as_str()).collect();
        write!(out, "{}", texts.join("\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
