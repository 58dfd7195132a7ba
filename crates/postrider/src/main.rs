//! The command line of operators and developers.

mod api;
mod audit;
mod dead_letters;
mod doctor;
mod history;
mod keys;
mod listen;
mod migrate;
mod publish;
mod style;
mod token;
mod values;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Postrider: webhooks that never get lost.
///
/// `migrate`, `audit`, `keys`, `dead-letters` and `doctor` are for operators. The others are for developers who integrate: mint
/// a token, listen for deliveries on this machine, publish an event, see what became of it. Each command explains itself with
/// --help.
#[derive(Parser)]
#[command(name = "postrider", version = service::version(), arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Migrate(migrate::Args),
    Token(token::Args),
    Publish(publish::Args),
    Listen(listen::Args),
    History(history::Args),
    Audit(audit::Args),
    Keys(keys::Args),
    DeadLetters(dead_letters::Args),
    Doctor(doctor::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    service::install_crypto();
    end_quietly_without_reader();
    let result = match Cli::parse().command {
        Command::Migrate(args) => migrate::run(&args).await,
        Command::Token(args) => token::run(&args),
        Command::Publish(args) => publish::run(&args).await,
        Command::Listen(args) => listen::run(args).await,
        Command::History(args) => history::run(&args).await,
        Command::Audit(args) => audit::run(&args).await,
        Command::Keys(args) => keys::run(&args).await,
        Command::DeadLetters(args) => dead_letters::run(&args).await,
        Command::Doctor(args) => doctor::run(&args).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => service::refuse_to_start(&format!("{} {error:#}", style::red("error:")), 1),
    }
}

/// Printing to a pipe whose reader has left, as `| head` does, is no defect to report.
fn end_quietly_without_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.to_string().contains("Broken pipe") {
            std::process::exit(0);
        }
        usual(panic);
    }));
}
