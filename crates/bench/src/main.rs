//! The benchmark. `scripts/bench` builds everything, starts private servers, and runs this.

mod arrivals;
mod bench;
mod broker;
mod database;
mod disk;
mod floor;
mod http;
mod load;
mod output;
mod payload;
mod plot;
mod product;
mod receiver;
mod report;
mod results;
mod scenarios;
mod usage;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::bench::{Bench, Scale};
use crate::product::Places;
use crate::results::Results;
use crate::scenarios::Scenario;

/// Measures Postrider: how much, how fast, at what cost, and whether one tenant can hurt another.
#[derive(Parser)]
#[command(name = "bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run scenarios
    Run(RunArgs),
    /// The process with the receivers, which a run starts
    Receiver,
}

#[derive(clap::Args)]
struct RunArgs {
    /// Where the product's programs are
    #[arg(long)]
    binaries: PathBuf,
    /// Where logs and records of processes go
    #[arg(long)]
    directory: PathBuf,
    /// How large the large scenarios are
    #[arg(long, value_enum, default_value_t = Scale::Full)]
    scale: Scale,
    /// Print the results as one line of JSON, last
    #[arg(long)]
    json: bool,
    /// Write pictures into this directory
    #[arg(long)]
    plot: Option<PathBuf>,
    /// Write the results into this file
    #[arg(long)]
    write: Option<PathBuf>,
    /// Which scenarios; all when none is named
    scenarios: Vec<Scenario>,
}

// One thread, and so no time spent on waking others: the load must not be what is measured.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Receiver => receiver::run().await,
        Command::Run(args) => run_until_told_to_stop(args).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::heading(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Whatever ends it, the processes that were started end with it.
async fn run_until_told_to_stop(args: RunArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        done = Box::pin(run(args)) => done,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminate.recv() => bail!("told to stop"),
        _ = hang_up.recv() => bail!("told to stop"),
    }
}

async fn run(args: RunArgs) -> anyhow::Result<()> {
    let places = Places { binaries: args.binaries, directory: args.directory };
    let mut bench = Bench::start(places, args.scale).await?;
    let mut results = Results::begin(&bench).await?;
    for scenario in scenarios::in_order(&args.scenarios) {
        scenarios::run(scenario, &mut bench, &mut results).await?;
    }
    bench.stop().await?;
    output::result(&results.table());
    if let Some(directory) = args.plot {
        results.plot(&directory)?;
    }
    if let Some(file) = args.write {
        results.write(&file)?;
    }
    if args.json {
        output::result(&results.json()?);
    }
    Ok(())
}
