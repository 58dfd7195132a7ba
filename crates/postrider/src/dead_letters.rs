use anyhow::{Context as _, bail};
use broker::{BrokerConfig, DeadLetter, DeadLetterQueue, ReadLetters, Topology};
use clap::Subcommand;

use crate::style;

/// Look at the dead letters, put them back, throw them away (operators)
///
/// Dispatchers put into this queue what they cannot take over, with the reason. Nobody is sent it until an operator decides:
/// mend the cause, such as an event type that the catalogue lacks, and replay; or drop.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    broker: Broker,
    #[command(subcommand)]
    command: DeadLettersCommand,
}

/// Where the queue is.
#[derive(clap::Args)]
pub(crate) struct Broker {
    /// RabbitMQ: amqp://user:password@host:port/%2f
    #[arg(long, env = "POSTRIDER_AMQP_URL", hide_env_values = true)]
    amqp_url: String,
    /// What the names of exchanges and queues begin with
    #[arg(long, env = "POSTRIDER_AMQP_PREFIX", default_value = "postrider")]
    amqp_prefix: String,
}

impl Broker {
    pub(crate) fn config(&self) -> anyhow::Result<BrokerConfig> {
        Ok(BrokerConfig::new(
            &self.amqp_url,
            Topology::new(self.amqp_prefix.clone()),
            "postrider command line",
        )?)
    }
}

#[derive(Subcommand)]
enum DeadLettersCommand {
    /// List them, the oldest first
    List {
        /// Most to list
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Only those with this reason, such as `unknown_type`
        #[arg(long)]
        reason: Option<String>,
    },
    /// Print what was published, byte for byte, and on standard error why it is here
    Show {
        /// Its id, as listed
        id: String,
    },
    /// Publish them again where they came from
    ///
    /// An event that was taken over before, under the same id, is known as a repeat and is not delivered twice.
    Replay(Chosen),
    /// Throw them away for good
    Drop(Chosen),
}

/// Which dead letters are meant.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Chosen {
    /// Their ids, as listed
    ids: Vec<String>,
    /// Every one with this reason
    #[arg(long)]
    reason: Option<String>,
    /// Every one
    #[arg(long)]
    all: bool,
}

impl Chosen {
    fn has(&self, letter: &DeadLetter) -> bool {
        self.all || self.ids.contains(&letter.id) || self.reason.as_ref() == Some(&letter.reason)
    }
}

#[derive(Clone, Copy)]
enum Fate {
    Replay,
    Drop,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let queue = DeadLetterQueue::open(&args.broker.config()?).await?;
    match &args.command {
        DeadLettersCommand::List { limit, reason } => list(queue, *limit, reason.as_deref()).await,
        DeadLettersCommand::Show { id } => show(queue, id).await,
        DeadLettersCommand::Replay(chosen) => settle(queue, chosen, Fate::Replay).await,
        DeadLettersCommand::Drop(chosen) => settle(queue, chosen, Fate::Drop).await,
    }
}

#[expect(clippy::print_stdout, reason = "the command's output")]
async fn list(queue: DeadLetterQueue, limit: usize, reason: Option<&str>) -> anyhow::Result<()> {
    let ReadLetters { letters, more } = queue.read().await?;
    let meant = || letters.iter().filter(|letter| reason.is_none_or(|reason| letter.reason == reason));
    let header =
        format!("{:<12}  {:<20}  {:>8}  {:<32}  {}", "ID", "REASON", "BYTES", "ROUTING KEY", "DETAIL");
    println!("{}", style::bold(&header));
    for letter in meant().take(limit) {
        println!(
            "{:<12}  {:<20}  {:>8}  {:<32}  {}",
            letter.id,
            letter.reason,
            letter.body.len(),
            printable(&letter.routing_key),
            printable(&letter.detail)
        );
    }
    let count = meant().count();
    let shown = if count > limit { format!("{limit} of {count}") } else { count.to_string() };
    let note = format!("{shown} dead letter(s){}", besides(more));
    println!("{}", style::dim(&note));
    Ok(queue.close(&letters).await?)
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the command's output, and what it is about")]
async fn show(queue: DeadLetterQueue, id: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let ReadLetters { letters, .. } = queue.read().await?;
    let found = letters.iter().find(|letter| letter.id == id);
    if let Some(letter) = found {
        for (name, value) in [
            ("reason", &letter.reason),
            ("detail", &letter.detail),
            ("exchange", &letter.exchange),
            ("routing key", &letter.routing_key),
        ] {
            eprintln!("{name}: {}", printable(value));
        }
        std::io::stdout().write_all(&letter.body)?;
        println!();
    }
    let is_found = found.is_some();
    queue.close(&letters).await?;
    if is_found { Ok(()) } else { bail!("there is no dead letter {id}") }
}

#[expect(clippy::print_stdout, reason = "the command's output")]
async fn settle(queue: DeadLetterQueue, chosen: &Chosen, fate: Fate) -> anyhow::Result<()> {
    let ReadLetters { letters, more } = queue.read().await?;
    let (meant, mut left): (Vec<_>, Vec<_>) = letters.into_iter().partition(|letter| chosen.has(letter));
    let unknown = chosen.ids.iter().find(|id| meant.iter().all(|letter| letter.id != **id));
    if let Some(unknown) = unknown {
        left.extend(meant);
        queue.close(&left).await?;
        bail!("there is no dead letter {unknown}; nothing was changed");
    }
    let mut done = 0;
    for letter in &meant {
        let settled = match fate {
            Fate::Replay => queue.replay(letter).await,
            Fate::Drop => queue.drop(letter).await,
        };
        settled.with_context(|| format!("dead letter {}, after {done} others", letter.id))?;
        done += 1;
    }
    queue.close(&left).await?;
    let fate = match fate {
        Fate::Replay => "published again",
        Fate::Drop => "dropped",
    };
    println!("{done} dead letter(s) {fate}{}", besides(more));
    Ok(())
}

/// Tells of those that there was no room for.
fn besides(more: u32) -> String {
    if more == 0 { String::new() } else { format!("; {more} more were not looked at: deal with these first") }
}

/// What others wrote must not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
