//! `quarry demo`: the main job, start to end, on a project of its own making.
//!
//! Writes a retail project and two years of data ([`generate`]), starts the real server, builds the rollups
//! through the jobs endpoint, asks questions over HTTP, corrects the prices of two months in the source,
//! rebuilds just these two partitions and compares. Every answer is checked against sums that the generator
//! kept, to the cent; the demo fails when one is off.

mod catalogue;
mod client;
mod generate;
mod project;
mod report;
mod server;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use client::{Answer, Client};
use generate::{Generator, MONTHS, MonthTotals, first_day};
use report::{Report, format_cents, group_digits, parse_cents};
use server::Running;

/// The months whose prices are corrected: March and April of the second year.
const CORRECTED: [u32; 2] = [14, 15];
/// Corrected prices, in percent of what they were.
const CORRECTED_PERCENT: i64 = 90;
/// How long a printed token is good for, in seconds.
const TOKEN_SECONDS: i64 = 24 * 3600;

/// Flags of `quarry demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Folder to write the sample project into; without it a temporary one that goes away at the end
    pub dir: Option<PathBuf>,
    /// Keep the server running until Ctrl-C
    #[arg(long)]
    pub serve: bool,
    /// Port to listen on with --serve
    #[arg(long, default_value_t = 4000)]
    pub port: u16,
    /// Order lines to generate
    #[arg(long, value_name = "N", default_value_t = 1_000_000,
          value_parser = clap::value_parser!(u64).range(1_000_000..=200_000_000))]
    pub rows: u64,
    /// Seed of the data: equal seeds give equal data
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
}

/// Runs the demo; with `--serve`, until Ctrl-C.
///
/// # Errors
/// A step failed, or an answer was wrong. The text says which.
pub async fn run(args: DemoArgs) -> anyhow::Result<()> {
    let folder = Folder::open(args.dir.as_deref())?;
    // Ctrl-C ends the demo here rather than the process, so that a temporary folder goes away. Losing the
    // signal's arm is harmless; losing the steps' is what the signal asks for.
    let running = tokio::select! {
        running = Box::pin(steps(&args, &folder.path)) => running?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            bail!("interrupted")
        }
    };
    if args.serve { running.until_interrupted().await } else { running.stop().await }
}

/// Everything but the end of the server.
async fn steps(args: &DemoArgs, folder: &Path) -> anyhow::Result<Running> {
    let started = Instant::now();
    let mut demo = Demo {
        report: Report::new(std::io::stdout()),
        project: folder.to_owned(),
        generator: Arc::new(Generator::new(args.rows, args.seed)),
        totals: Vec::new(),
    };
    demo.write_project(args).await?;

    let running = server::start(folder, if args.serve { args.port } else { 0 }).await?;
    let token = make_token(&running.secret)?;
    let client = Client::new(&running.origin, token.clone());
    demo.build(&client).await?;
    demo.ask(&client).await?;
    demo.rebuild_two_months(&client).await?;

    demo.report.section("Done")?;
    demo.report.line(&format!("Everything above took {} and every answer was right.", seconds(started.elapsed())))?;
    demo.next_steps(args, &running.origin, &token)?;
    Ok(running)
}

/// The project's folder; a temporary one is removed when dropped.
struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    fn open(dir: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(dir) = dir {
            project::check_folder(dir)?;
            return Ok(Self { path: dir.to_owned(), temporary: false });
        }
        let name = format!("quarry-demo-{}", uuid::Uuid::new_v4().simple());
        Ok(Self { path: std::env::temp_dir().join(name), temporary: true })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary && self.path.exists() {
            // Nothing to do about a failure here, and nothing depends on it.
            drop(std::fs::remove_dir_all(&self.path));
        }
    }
}

struct Demo<W> {
    report: Report<W>,
    project: PathBuf,
    generator: Arc<Generator>,
    /// What each month's source rows add up to now.
    totals: Vec<MonthTotals>,
}

/// A question, and how to show and check its answer.
struct Question {
    text: &'static str,
    query: Value,
    /// Member and heading of each column shown.
    columns: &'static [(&'static str, &'static str)],
    rollup: &'static str,
    check: Check,
}

/// What the rows must add up to.
enum Check {
    /// The sum of a column of money, in cents.
    Cents(&'static str, i128),
    /// The sum of a column of counts.
    Count(&'static str, u64),
    /// Exactly so many rows.
    Rows(usize),
}

impl<W: Write> Demo<W> {
    async fn write_project(&mut self, args: &DemoArgs) -> anyhow::Result<()> {
        self.report.section("1. A project and its data")?;
        self.report.line(&format!("Project folder: {}", self.project.display()))?;
        let started = Instant::now();
        project::write(&self.project)?;
        let bar = progress_bar(args.rows, "order lines");
        let (generator, project, told) = (Arc::clone(&self.generator), self.project.clone(), bar.clone());
        let write = move || generator.write_all(&project, &|rows| told.inc(rows));
        self.totals = tokio::task::spawn_blocking(write).await??;
        bar.finish_and_clear();
        let (bytes, files) = folder_size(&self.project.join("data"))?;
        let orders: u64 = self.totals.iter().map(|t| t.orders).sum();
        let line = format!(
            "Wrote {} order lines of {} orders in {MONTHS} months (seed {}): {files} Parquet files, {} MB, in {}.",
            group_digits(&args.rows.to_string()),
            group_digits(&orders.to_string()),
            args.seed,
            bytes / 1_000_000,
            seconds(started.elapsed())
        );
        Ok(self.report.line(&line)?)
    }

    async fn build(&mut self, client: &Client) -> anyhow::Result<()> {
        self.report.section("2. Rollups, built through POST /cubejs-api/v1/pre-aggregations/jobs")?;
        let selector = json!({ "contexts": [{ "securityContext": {} }], "timezones": ["UTC"] });
        let started = Instant::now();
        let tokens = client.post_jobs(&selector).await?;
        wait(client, &tokens).await?;
        let rollups = [project::SALES_DAILY, project::BY_STATUS, project::STORE_MONTHS].join(", ");
        let line = format!("Built {} partitions of {rollups} in {}.", tokens.len(), seconds(started.elapsed()));
        self.report.line(&line)?;
        // A month, a quarter, and the one that is not partitioned.
        let expected = (MONTHS + MONTHS / 3 + 1) as usize;
        ensure!(tokens.len() == expected, "expected {expected} partitions, got {}", tokens.len());
        Ok(())
    }

    async fn ask(&mut self, client: &Client) -> anyhow::Result<()> {
        self.report.section("3. Three questions over HTTP")?;
        for question in self.questions() {
            let answer = client.load(&question.query).await?;
            self.report.line(&format!("\n{}\n  {}", question.text, question.query))?;
            let mut rows = Vec::new();
            for row in &answer.rows {
                let cells = question.columns.iter().map(|column| Ok(show(&Answer::text(row, column.0)?)));
                rows.push(cells.collect::<anyhow::Result<Vec<_>>>()?);
            }
            let header: Vec<&str> = question.columns.iter().map(|column| column.1).collect();
            self.report.table(&header, &rows)?;
            let (used, took) = (answer.rollups.join(", "), millis(answer.took));
            self.report.line(&format!("  {} rows from rollup {used} in {took}", rows.len()))?;
            ensure!(answer.rollups == [question.rollup], "expected the rollup {}, got '{used}'", question.rollup);
            question.check.verify(&answer)?;
        }
        Ok(())
    }

    fn questions(&self) -> [Question; 3] {
        let second_year: i128 = self.totals.iter().skip(12).map(|t| t.amount_cents).sum();
        let orders: u64 = self.totals.iter().map(|t| t.orders).sum();
        let revenue = ("order_lines.revenue", "revenue");
        [
            Question {
                text: "What did each region earn in 2025?",
                query: json!({
                    "measures": ["order_lines.revenue", "order_lines.units"],
                    "dimensions": ["stores.region"],
                    "timeDimensions": [{
                        "dimension": "order_lines.ordered_at", "dateRange": ["2025-01-01", "2025-12-31"]
                    }],
                    "order": { "order_lines.revenue": "desc" }
                }),
                columns: &[
                    ("stores.region", "region"),
                    ("order_lines.revenue", "revenue"),
                    ("order_lines.units", "units"),
                ],
                rollup: project::SALES_DAILY,
                check: Check::Cents(revenue.0, second_year),
            },
            Question {
                text: "Which five categories sold best online before Christmas, and at what average price?",
                query: json!({
                    "measures": ["order_lines.revenue", "order_lines.average_price"],
                    "dimensions": ["products.category"],
                    "timeDimensions": [{
                        "dimension": "order_lines.ordered_at", "dateRange": ["2025-11-01", "2025-12-24"]
                    }],
                    "filters": [{ "member": "orders.channel", "operator": "equals", "values": ["web", "app"] }],
                    "order": { "order_lines.revenue": "desc" },
                    "limit": 5
                }),
                columns: &[
                    ("products.category", "category"),
                    ("order_lines.revenue", "revenue"),
                    ("order_lines.average_price", "average price"),
                ],
                rollup: project::SALES_DAILY,
                check: Check::Rows(5),
            },
            Question {
                text: "How did the orders of all time end?",
                query: json!({
                    "measures": ["orders.count"],
                    "dimensions": ["orders.status"],
                    "order": { "orders.count": "desc" }
                }),
                columns: &[("orders.status", "status"), ("orders.count", "orders")],
                rollup: project::BY_STATUS,
                check: Check::Count("orders.count", orders),
            },
        ]
    }

    async fn rebuild_two_months(&mut self, client: &Client) -> anyhow::Result<()> {
        self.report.section("4. Two months corrected in the source, and only their partitions rebuilt")?;
        let before = self.months(client).await?;
        check_months(&before, &self.totals)?;

        let mut corrected = self.totals.clone();
        for month in CORRECTED {
            let (generator, project) = (Arc::clone(&self.generator), self.project.clone());
            let write = move || generator.write_month(&project, month, CORRECTED_PERCENT, &|_| {});
            corrected[month as usize] = tokio::task::spawn_blocking(write).await??;
            self.report.line(&format!(
                "Rewrote data/order_lines/{}.parquet: all prices at {CORRECTED_PERCENT} %.",
                first_day(month).format("%Y-%m")
            ))?;
        }
        // The rollup still answers, with the state that it was built from.
        check_months(&self.months(client).await?, &self.totals)?;

        let selector = json!({
            "contexts": [{ "securityContext": {} }],
            "timezones": ["UTC"],
            "preAggregations": [project::SALES_DAILY],
            "dateRange": ["2025-03-01", "2025-04-30"]
        });
        self.report
            .line(&format!("POST …/pre-aggregations/jobs {}", json!({ "action": "post", "selector": selector })))?;
        let started = Instant::now();
        let tokens = client.post_jobs(&selector).await?;
        wait(client, &tokens).await?;
        self.report.line(&format!("Tokens {} done in {}.", tokens.join(", "), millis(started.elapsed())))?;
        ensure!(tokens.len() == CORRECTED.len(), "expected {} partitions, got {}", CORRECTED.len(), tokens.len());

        let after = self.months(client).await?;
        let around = CORRECTED[0] as usize - 1..=CORRECTED[1] as usize + 1;
        let rows = around.map(|month| {
            let (old, new) = (&before[month], &after[month]);
            let verdict = if old == new { "unchanged" } else { "rebuilt" };
            let name = first_day(u32::try_from(month)?).format("%Y-%m").to_string();
            Ok(vec![name, format_cents(old.1), format_cents(new.1), verdict.to_owned()])
        });
        let rows = rows.collect::<anyhow::Result<Vec<_>>>()?;
        self.report.table(&["month", "revenue before", "revenue after", ""], &rows)?;
        check_months(&after, &corrected)?;
        for (month, (old, new)) in (0..).zip(before.iter().zip(&after)) {
            let name = first_day(month).format("%Y-%m");
            ensure!((old != new) == CORRECTED.contains(&month), "the answer of {name} went from {old:?} to {new:?}");
        }
        self.totals = corrected;
        self.report
            .line(&format!("All {MONTHS} months are right: 2 new, {} as before.", MONTHS as usize - CORRECTED.len()))?;
        Ok(())
    }

    /// Lines and cents of each month, as the server answers.
    async fn months(&self, client: &Client) -> anyhow::Result<Vec<(u64, i128)>> {
        let query = json!({
            "measures": ["order_lines.count", "order_lines.revenue"],
            "timeDimensions": [{
                "dimension": "order_lines.ordered_at",
                "granularity": "month",
                "dateRange": ["2024-01-01", "2025-12-31"]
            }]
        });
        let answer = client.load(&query).await?;
        ensure!(answer.rollups == [project::SALES_DAILY], "expected a rollup, got {:?}", answer.rollups);
        ensure!(answer.rows.len() == MONTHS as usize, "expected {MONTHS} months, got {}", answer.rows.len());
        let mut months = Vec::new();
        for (month, row) in (0..).zip(&answer.rows) {
            let time = Answer::text(row, "order_lines.ordered_at.month")?;
            let expected = first_day(month).format("%Y-%m-%dT00:00:00.000").to_string();
            ensure!(time == expected, "expected the month {expected}, got {time}");
            months.push((
                Answer::text(row, "order_lines.count")?.parse().context("read a count")?,
                cents_of(row, "order_lines.revenue")?,
            ));
        }
        Ok(months)
    }

    fn next_steps(&mut self, args: &DemoArgs, origin: &str, token: &str) -> anyhow::Result<()> {
        if !args.serve {
            let folder = args.dir.as_deref().map_or("shop".into(), |dir| dir.display().to_string());
            let next = match args.dir {
                Some(_) => format!("quarry serve --project {folder}      # serves what was just built"),
                None => format!("quarry demo {folder} --serve      # keeps the project and the server"),
            };
            self.report.line(&format!("Next: {next}"))?;
            return Ok(self.report.line("and try the curl lines that it prints, or those of README.md.")?);
        }
        self.report
            .line(&format!("Serving {} at {origin} until Ctrl-C. In another terminal:\n", self.project.display()))?;
        self.report.line(&try_lines(origin, token))?;
        Ok(())
    }
}

impl Check {
    fn verify(&self, answer: &Answer) -> anyhow::Result<()> {
        match self {
            Self::Cents(member, expected) => {
                let mut sum = 0;
                for row in &answer.rows {
                    sum += cents_of(row, member)?;
                }
                let (sum_text, expected_text) = (format_cents(sum), format_cents(*expected));
                ensure!(sum == *expected, "{member} adds up to {sum_text}; the source holds {expected_text}");
            }
            Self::Count(member, expected) => {
                let mut sum = 0;
                for row in &answer.rows {
                    sum += Answer::text(row, member)?.parse::<u64>().with_context(|| format!("read {member}"))?;
                }
                ensure!(sum == *expected, "{member} adds up to {sum}; the source holds {expected}");
            }
            Self::Rows(expected) => {
                let rows = answer.rows.len();
                ensure!(rows == *expected, "expected {expected} rows, got {rows}");
            }
        }
        Ok(())
    }
}

/// Compares answers with what the generator knows of the source.
fn check_months(answers: &[(u64, i128)], totals: &[MonthTotals]) -> anyhow::Result<()> {
    for (month, (answer, total)) in (0..).zip(answers.iter().zip(totals)) {
        let expected = (total.lines, total.amount_cents);
        let name = first_day(month).format("%Y-%m");
        ensure!(*answer == expected, "{name}: the answer is {answer:?} (lines, cents), the source holds {expected:?}");
    }
    Ok(())
}

fn cents_of(row: &serde_json::Map<String, Value>, member: &str) -> anyhow::Result<i128> {
    let text = Answer::text(row, member)?;
    parse_cents(&text).with_context(|| format!("{member} is no amount of money: '{text}'"))
}

async fn wait(client: &Client, tokens: &[String]) -> anyhow::Result<()> {
    let bar = progress_bar(tokens.len() as u64, "partitions");
    let result = client.wait_for_jobs(tokens, |done| bar.set_position(done)).await;
    bar.finish_and_clear();
    result
}

/// A bar on the terminal, nothing elsewhere.
fn progress_bar(length: u64, unit: &str) -> ProgressBar {
    let template = format!("{{bar:40}} {{human_pos}}/{{human_len}} {unit} ({{elapsed}})");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style)
}

/// A value for the eye: numbers grouped, with at most two digits after the point.
fn show(text: &str) -> String {
    if text.is_empty() {
        return "∅".to_owned();
    }
    match text.parse::<f64>() {
        Ok(number) if parse_cents(text).is_none() => group_digits(&format!("{number:.2}")),
        Ok(_) => group_digits(text),
        Err(_) => text.to_owned(),
    }
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}

fn millis(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1e3)
}

/// Bytes and number of the files below a folder.
fn folder_size(folder: &Path) -> anyhow::Result<(u64, u64)> {
    let (mut bytes, mut files) = (0, 0);
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let (more_bytes, more_files) =
            if metadata.is_dir() { folder_size(&entry.path())? } else { (metadata.len(), 1) };
        bytes += more_bytes;
        files += more_files;
    }
    Ok((bytes, files))
}

/// A token for a day, signed with the project's secret.
fn make_token(secret: &str) -> anyhow::Result<String> {
    let now = crate::time::Clock::System.now() / 1_000_000;
    let claims = json!({ "iat": now, "exp": now + TOKEN_SECONDS });
    Ok(crate::auth::jwt::sign(&claims, secret)?)
}

/// The curl lines of README.md, with the address and a fresh token.
fn try_lines(origin: &str, token: &str) -> String {
    let load = json!({ "query": {
        "measures": ["order_lines.revenue"],
        "dimensions": ["products.category"],
        "timeDimensions": [{
            "dimension": "order_lines.ordered_at", "granularity": "month", "dateRange": ["2025-01-01", "2025-03-31"]
        }]
    }});
    let post = json!({ "action": "post", "selector": {
        "contexts": [{ "securityContext": {} }],
        "timezones": ["UTC"],
        "preAggregations": [project::SALES_DAILY],
        "dateRange": ["2025-03-01", "2025-04-30"]
    }});
    let curl = "curl -s -H \"Authorization: $TOKEN\"";
    let json = "-H 'Content-Type: application/json'";
    let jobs = format!("{curl} {json} {origin}/cubejs-api/v1/pre-aggregations/jobs");
    format!(
        "TOKEN={token}\n\
         {curl} {origin}/cubejs-api/v1/meta\n\
         {curl} {json} {origin}/cubejs-api/v1/load \\\n  -d '{load}'\n\
         JOBS=$({jobs} \\\n  -d '{post}')\n\
         {jobs} \\\n  -d '{{\"action\":\"get\",\"tokens\":'\"$JOBS\"'}}'"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_show(text: &str, expected: &str) {
        assert_eq!(show(text), expected);
    }

    #[test]
    fn values_are_shown_short() {
        check_show("", "∅");
        check_show("1234567", "1,234,567");
        check_show("1234.5", "1,234.5");
        check_show("1234.56789", "1,234.57");
        check_show("Élodie", "Élodie");
    }

    #[test]
    fn a_wrong_sum_is_told() {
        let row = json!({ "m": "1.50" });
        let rows = vec![row.as_object().cloned().unwrap_or_default(); 2];
        let answer = Answer { rows, rollups: Vec::new(), took: Duration::ZERO };
        assert!(Check::Cents("m", 300).verify(&answer).is_ok());
        let error = Check::Cents("m", 301).verify(&answer).unwrap_err().to_string();
        assert_eq!(error, "m adds up to 3.00; the source holds 3.01");
        assert!(Check::Cents("n", 300).verify(&answer).is_err());
        assert!(Check::Rows(3).verify(&answer).is_err());
    }

    #[test]
    fn a_wrong_month_is_told() {
        let total = MonthTotals { orders: 1, lines: 2, amount_cents: 300 };
        assert!(check_months(&[(2, 300)], std::slice::from_ref(&total)).is_ok());
        assert!(check_months(&[(2, 301)], std::slice::from_ref(&total)).is_err());
        assert!(check_months(&[(3, 300)], &[total]).is_err());
    }

    #[test]
    fn the_lines_to_try_stand_in_the_readme() {
        let readme = include_str!("../../README.md");
        let lines = try_lines("http://localhost:4000", "T");
        for line in lines.lines().skip(1) {
            assert!(readme.lines().any(|l| l == line), "README.md lacks {line}");
        }
    }

    #[test]
    fn a_temporary_folder_goes_away() {
        let folder = Folder::open(None).unwrap();
        let path = folder.path.clone();
        project::write(&path).unwrap();
        assert!(path.exists());
        drop(folder);
        assert!(!path.exists());
    }
}
