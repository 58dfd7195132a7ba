use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use domain::Backoff;
use tokio::time::sleep;
use tracing::warn;

use crate::{Store, StoreError, access};

/// One step of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// Its place in the order, from 1.
    pub version: i32,
    /// What it is called: its file name.
    pub name: &'static str,
    sql: &'static str,
}

/// Reads the files into the binary. A migration's version is the number that its name begins with.
macro_rules! migrations {
    ($($name:literal),+ $(,)?) => {
        [$(Migration {
            version: leading_number($name),
            name: $name,
            sql: include_str!(concat!("../../../migrations/", $name, ".sql")),
        }),+]
    };
}

/// Every migration, oldest first.
const MIGRATIONS: &[Migration] = &migrations![
    "0001_foundation",
    "0002_webhook_health",
    "0003_gates",
    "0004_audit_progress",
    "0005_sealed_secrets",
    "0006_subscriptions",
    "0007_sessions",
    "0008_webhook_settings",
    "0009_payload_filters",
    "0010_previous_secrets",
    "0011_outbox",
    "0012_resend",
    "0013_api_keys",
    "0014_audit_log",
    "0015_publishing",
    "0016_exchanges",
    "0017_traces",
    "0018_row_security",
    "0019_recoveries",
    "0020_signing_keys",
    "0021_event_feed",
    "0022_scheduling_and_erasure",
    "0023_key_rates",
    "0024_no_truncation",
    "0025_event_feed_index",
];

/// The version of the schema that this build needs.
pub const SCHEMA_VERSION: i32 = MIGRATIONS[MIGRATIONS.len() - 1].version;

/// A number that another schema than this build's does not have, as a rule.
pub fn schema_fingerprint() -> u64 {
    let mut hasher = DefaultHasher::new();
    for migration in MIGRATIONS {
        migration.sql.hash(&mut hasher);
    }
    access::GRANTS.hash(&mut hasher);
    hasher.finish()
}

const fn leading_number(name: &str) -> i32 {
    let name = name.as_bytes();
    let (mut number, mut index) = (0, 0);
    while name[index].is_ascii_digit() {
        number = 10 * number + (name[index] - b'0') as i32;
        index += 1;
    }
    number
}

/// Any number that nothing else in the database uses as an advisory lock.
const MIGRATION_LOCK: i64 = 0x706f_7374_7269_6465;

/// Why the schema is not what this version needs.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// Migrations wait to be applied.
    #[error(
        "the database schema is {pending} migration(s) behind this version; run `postrider migrate` first"
    )]
    Pending {
        /// How many.
        pending: usize,
    },
    /// One failed; nothing of it was applied.
    #[error("migration {name} failed and was rolled back: {reason}")]
    Step {
        /// Its name.
        name: &'static str,
        /// What the database says.
        reason: StoreError,
    },
    /// The database could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Applies what is missing, each migration in a transaction of its own, and calls `applied` after each. Then sees to it
    /// that the services' roles may do what they need and no more. Several processes may do so at once: an advisory lock
    /// lets one through at a time.
    pub async fn migrate(&self, mut applied: impl FnMut(&Migration)) -> Result<usize, MigrationError> {
        let mut client = self.patient_connection().await?;
        client.batch_execute("SET statement_timeout = 0").await.map_err(StoreError::from)?;
        client.execute("SELECT pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await.map_err(StoreError::from)?;
        // The session ends with the client, and with it the lock and the setting.
        let count = apply_missing(&mut client, &mut applied).await?;
        access::apply(&client).await?;
        Ok(count)
    }

    /// Like [`Store::check_schema`], but waits while the database cannot be reached: that is no reason to fail.
    pub async fn wait_for_schema(&self) -> Result<(), MigrationError> {
        let mut backoff = Backoff::default();
        loop {
            match self.check_schema().await {
                Err(MigrationError::Store(StoreError::Unavailable(reason))) => {
                    let wait = backoff.next(0.5);
                    warn!(reason, wait_ms = wait.as_millis(), "waiting for the database");
                    sleep(wait).await;
                }
                checked => return checked,
            }
        }
    }

    /// Refuses a schema that lacks a migration this version needs. A newer schema is fine: migrations only add, so that
    /// the previous version runs on beside the next.
    pub async fn check_schema(&self) -> Result<(), MigrationError> {
        let client = self.connection().await?;
        match missing(&client).await?.len() {
            0 => Ok(()),
            pending => Err(MigrationError::Pending { pending }),
        }
    }
}

async fn apply_missing(
    client: &mut tokio_postgres::Client,
    applied: &mut impl FnMut(&Migration),
) -> Result<usize, MigrationError> {
    let missing = missing(client).await?;
    for migration in &missing {
        apply(client, migration)
            .await
            .map_err(|reason| MigrationError::Step { name: migration.name, reason })?;
        applied(migration);
    }
    Ok(missing.len())
}

async fn apply(client: &mut tokio_postgres::Client, migration: &Migration) -> Result<(), StoreError> {
    let transaction = client.transaction().await?;
    transaction
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations (
                 version integer PRIMARY KEY,
                 name text NOT NULL,
                 applied_at timestamptz NOT NULL DEFAULT now()
             )",
        )
        .await?;
    transaction.batch_execute(migration.sql).await?;
    transaction
        .execute(
            "INSERT INTO schema_migrations (version, name) VALUES ($1, $2)",
            &[&migration.version, &migration.name],
        )
        .await?;
    transaction.commit().await?;
    Ok(())
}

async fn missing(client: &tokio_postgres::Client) -> Result<Vec<Migration>, StoreError> {
    let table = client.query_one("SELECT to_regclass('schema_migrations') IS NOT NULL", &[]).await?;
    let applied: BTreeSet<i32> = if table.get(0) {
        let rows = client.query("SELECT version FROM schema_migrations", &[]).await?;
        rows.iter().map(|row| row.get(0)).collect()
    } else {
        BTreeSet::new()
    };
    Ok(MIGRATIONS.iter().copied().filter(|migration| !applied.contains(&migration.version)).collect())
}
