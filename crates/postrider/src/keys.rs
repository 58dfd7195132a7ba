use anyhow::{Context as _, bail};
use chrono::Utc;
use clap::Subcommand;
use store::{Keyring, Store};

use crate::style;

/// Make and rotate the keys that webhook secrets are encrypted with (operators)
///
/// POSTRIDER_ENCRYPTION_KEYS of gateways and dispatchers holds them, separated by commas: the first one encrypts, all of
/// them decrypt.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Subcommand)]
enum KeysCommand {
    /// Print a new key, and nothing else
    Generate,
    /// Encrypt every secret with the first key
    ///
    /// In small steps, while everything runs; may be broken off and begun again. Fails if there is a secret that none of
    /// the keys opens, and leaves that one as it is. Afterwards the other keys are no longer needed.
    Rotate(RotateArgs),
}

#[derive(clap::Args)]
struct RotateArgs {
    #[arg(long, env = "POSTRIDER_DATABASE_URL", hide_env_values = true)]
    database_url: String,
    // Parsed later: clap would repeat a value that it cannot read, and this one is secret.
    /// The keys, as gateways and dispatchers have them
    #[arg(long, env = "POSTRIDER_ENCRYPTION_KEYS", hide_env_values = true)]
    encryption_keys: String,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        KeysCommand::Generate => {
            generate();
            Ok(())
        }
        KeysCommand::Rotate(args) => rotate(args).await,
    }
}

#[expect(clippy::print_stdout, reason = "the command's output")]
fn generate() {
    println!("{}", Keyring::generate_key(Utc::now().date_naive()));
}

#[expect(clippy::print_stdout, reason = "the command's output")]
async fn rotate(args: &RotateArgs) -> anyhow::Result<()> {
    let keys: Keyring = args.encryption_keys.parse().context("POSTRIDER_ENCRYPTION_KEYS")?;
    let first_id = keys.first_id().unwrap_or_default().to_owned();
    let store = Store::new(&args.database_url, 1)?.with_keys(keys);
    store.check_schema().await?;
    let (mut sealed, mut unreadable, mut after) = (0, 0, None);
    loop {
        let step = store
            .rotate_secrets(after)
            .await
            .with_context(|| format!("broken off after {sealed} secret(s); run it again to go on"))?;
        sealed += step.sealed;
        unreadable += step.unreadable.len();
        for (webhook, reason) in step.unreadable {
            println!("{} webhook {webhook}: {reason}", style::red("unreadable:"));
        }
        after = step.next;
        if after.is_none() {
            break;
        }
        println!("{sealed} secret(s) encrypted so far");
    }
    println!("{sealed} secret(s) encrypted with key {first_id}");
    if unreadable > 0 {
        bail!("{unreadable} secret(s) cannot be read; add the keys they need, or set new secrets");
    }
    println!(
        "{}",
        style::green("every secret is encrypted with the first key; the others are no longer needed")
    );
    Ok(())
}
