//! The fault suite: breaks what Postrider depends on, against real servers and real processes, and counts what arrives.
//! Started by `scripts/faults`, which says where everything is.

mod cases;
mod load;
mod name_server;
mod oracle;
mod process;
mod receiver;
mod report;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Parser;
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::cases::{Case, Outcome};
use crate::report::{Ended, Verdict};
use crate::world::Lab;

/// How long a case may take; one that takes longer hangs.
const CASE_LIMIT: Duration = Duration::from_secs(480);
/// How much longer when faults last as long as they do in the list.
const LONG_CASE_LIMIT: Duration = Duration::from_secs(1200);

/// Breaks what Postrider depends on, and counts what arrives
#[derive(Parser)]
struct Cli {
    /// Cases, by number (8, 8a) or by part of the name; all when there is none
    cases: Vec<String>,
    /// Only the cases that ./scripts/test runs, and those shorter
    #[arg(long)]
    quick: bool,
    /// Let faults last as long as in the list of faults: the database is away for ten minutes
    #[arg(long)]
    long: bool,
    /// Say which cases there are
    #[arg(long)]
    list: bool,
    /// Write the table into this document
    #[arg(long)]
    write: Option<PathBuf>,
    /// `scripts/services`
    #[arg(long)]
    services: Option<PathBuf>,
    /// The directory of the private servers
    #[arg(long)]
    servers: Option<PathBuf>,
    /// Where logs are left
    #[arg(long)]
    logs: Option<PathBuf>,
    /// Where the programs of the previous version are
    #[arg(long)]
    previous: Option<PathBuf>,
    /// Why there is no previous version
    #[arg(long, default_value = "scripts/faults was not asked to build the previous version")]
    no_previous: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    service::install_crypto();
    let cli = Cli::parse();
    let chosen = cases::chosen(&cli.cases, cli.quick);
    if cli.list {
        report::list(&chosen);
        return ExitCode::SUCCESS;
    }
    match run(cli, chosen).await {
        Ok(all) if all.iter().any(|ended| ended.verdict.has_failed()) => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => service::refuse_to_start(&format!("{error:#}"), 2),
    }
}

async fn run(cli: Cli, chosen: Vec<Case>) -> anyhow::Result<Vec<Ended>> {
    let write = cli.write.clone();
    let lab = Arc::new(lab(cli)?);
    ensure!(!chosen.is_empty(), "no case has such a number or name; see --list");
    let began = Instant::now();
    let mut all = Vec::new();
    for case in chosen {
        report::begins(&case);
        let ended = run_case(case, &lab).await;
        report::ends(&ended);
        all.push(ended);
    }
    report::summary(&all);
    if let Some(file) = write {
        report::write(&file, &lab, &all, began.elapsed())?;
    }
    Ok(all)
}

/// In a task of its own: a panic is a failure of the case, and its processes end with it.
async fn run_case(case: Case, lab: &Arc<Lab>) -> Ended {
    let began = Instant::now();
    let limit = if lab.long { LONG_CASE_LIMIT } else { CASE_LIMIT };
    let local = LocalSet::new();
    let running = local.spawn_local(timeout(limit, (case.run)(Arc::clone(lab))));
    let verdict = match local.run_until(running).await {
        Ok(Ok(Ok(Outcome::Ran(findings)))) => Verdict::Ran(findings),
        Ok(Ok(Ok(Outcome::NotRun(reason)))) => Verdict::NotRun(reason),
        Ok(Ok(Err(error))) => Verdict::Broke(format!("{error:#}")),
        Ok(Err(_)) => Verdict::Broke(format!("it hangs: no end after {} s", limit.as_secs())),
        Err(error) => Verdict::Broke(format!("the case itself is broken: {error}")),
    };
    Ended { case, verdict, took: began.elapsed() }
}

fn lab(cli: Cli) -> anyhow::Result<Lab> {
    let variable =
        |name: &str| std::env::var(name).with_context(|| format!("{name} is not set: run scripts/faults"));
    let run_by = "run scripts/faults, which says where everything is";
    let binaries = std::env::current_exe()?.parent().context("this program has no directory")?.to_owned();
    Ok(Lab {
        services: cli.services.context(run_by)?,
        servers: cli.servers.context(run_by)?,
        logs: cli.logs.context(run_by)?,
        binaries,
        previous: cli.previous.ok_or(cli.no_previous),
        database_url: variable("POSTRIDER_TEST_DATABASE_URL")?,
        amqp_url: variable("POSTRIDER_TEST_AMQP_URL")?,
        long: cli.long,
        quick: cli.quick,
    })
}
