use std::time::Instant;

use anyhow::Context as _;
use chrono::Utc;
use store::Store;

/// Bring the database schema up to date (operators)
///
/// Applies the migrations that are missing, each in a transaction of its own, and makes the partitions of the coming days.
/// Then sees to it that each service's role may do what it needs and no more. Safe to run again, and by several at once. The other binaries do not start before it is done.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Postgres: postgres://user:password@host:port/database
    #[arg(long, env = "POSTRIDER_DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// Days that events and history are kept: partitions older than that are dropped
    #[arg(long, env = "POSTRIDER_RETENTION_DAYS", default_value_t = 30)]
    retention_days: u32,
}

const DAYS_AHEAD: u32 = 7;

#[expect(clippy::print_stdout, reason = "the command's output")]
pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let store = Store::new(&args.database_url, 2)?;
    let began = Instant::now();
    let applied = store.migrate(|migration| println!("applied {}", migration.name)).await?;
    if applied == 0 {
        println!("the schema is up to date");
    }
    let missing = store.missing_roles().await?;
    if !missing.is_empty() {
        println!(
            "the server has no role {}: services can only run as the owner, without row-level security. A superuser makes \
             the roles with deploy/roles.sql; then migrate again",
            missing.join(", ")
        );
    }
    let today = Utc::now().date_naive();
    let partitions = store
        .maintain_partitions(today, DAYS_AHEAD, args.retention_days)
        .await
        .context("the partitions could not be made")?;
    println!("{} partition(s) made, {} ms", partitions.created, began.elapsed().as_millis());
    Ok(())
}
