//! `quarry query`: answers one query on the terminal.

use std::io::Write as _;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::ask::{AskedArgs, ask};

#[derive(Debug, clap::Args)]
pub(super) struct QueryArgs {
    #[command(flatten)]
    asked: AskedArgs,
    /// Print the whole answer and not only its rows
    #[arg(long)]
    full: bool,
}

pub(super) async fn run(args: QueryArgs) -> anyhow::Result<ExitCode> {
    let answer = ask(args.asked, "/cubejs-api/v1/load", json!({"queryType": "multi"})).await?;
    writeln!(std::io::stdout().lock(), "{}", serde_json::to_string_pretty(&shown(answer, args.full))?)?;
    Ok(ExitCode::SUCCESS)
}

/// What is printed: of one query its result, of several all of them; without `full` only the rows.
fn shown(mut answer: Value, full: bool) -> Value {
    let several = answer["queryType"] != "regularQuery";
    if several && full {
        return answer;
    }
    let Some(Value::Array(mut results)) = answer.get_mut("results").map(Value::take) else {
        return answer["data"].take();
    };
    if !full {
        results.iter_mut().for_each(|result| *result = result["data"].take());
    }
    if several { Value::Array(results) } else { results.pop().unwrap_or_default() }
}
