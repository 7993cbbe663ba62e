//! `quarry token`: a token signed with the project's secret.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::ProjectArgs;
use crate::auth::jwt;
use crate::config::{Config, Overrides, parse_duration};
use crate::time::Clock;

#[derive(Debug, clap::Args)]
pub(super) struct TokenArgs {
    #[command(flatten)]
    project: ProjectArgs,
    /// How long it is valid, such as 30m, 12h or 7d
    #[arg(long, default_value = "24h")]
    expires: String,
    /// Further claims: the security context, as a JSON object
    #[arg(long, value_name = "JSON", default_value = "{}")]
    payload: String,
}

pub(super) fn run(args: &TokenArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.project.project, &Overrides::default())?;
    let Some(secret) = config.secrets.first() else { bail!("the project has no CUBEJS_API_SECRET to sign with") };
    let expires =
        parse_duration(&args.expires).with_context(|| format!("--expires '{}' is not a duration", args.expires))?;
    let mut claims: Value = serde_json::from_str(&args.payload).context("--payload is not JSON")?;
    let Some(object) = claims.as_object_mut() else { bail!("--payload must be a JSON object") };
    let now = Clock::System.now() / 1_000_000;
    object.insert("iat".to_owned(), json!(now));
    object.insert("exp".to_owned(), json!(now.saturating_add_unsigned(expires.as_secs())));
    writeln!(std::io::stdout().lock(), "{}", jwt::sign(&claims, secret)?)?;
    Ok(ExitCode::SUCCESS)
}
