//! Postgres, as an outsider: sizes, and rows in numbers that no API call would make in reasonable time.

use anyhow::Context as _;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::payload::{DATA_BYTES, EVENT_TYPE};

/// A connection.
pub(crate) struct Database(Client);

/// How much the database holds, and how much it has written ahead, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Volume {
    pub(crate) stored: i64,
    pub(crate) logged: i64,
}

const VOLUME: &str = "SELECT pg_database_size(current_database()),
    pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint";

const UNFINISHED: &str = "SELECT (SELECT count(*) FROM open_batches) + (SELECT count(*) FROM deliveries)";

// The stamp of such an event is all zeros but for its number.
const INSERT_EVENTS: &str = "INSERT INTO events (batch_id, occurred_at, accepted_at, day, tenant_id, id, type, body)
SELECT 0, now(), now(), (now() AT TIME ZONE 'UTC')::date, $1, $2::text || n, $3::text, convert_to(
    '{\"id\":\"' || $2::text || n || '\",\"type\":\"' || $3::text || '\",\"timestamp\":\"2026-01-01T00:00:00.000Z\",\"data\":{\"at\":\"'
    || repeat('0', 16) || '\",\"seq\":\"' || lpad(n::text, 10, '0') || '\",\"pad\":\"' || repeat('x', $4::integer) || '\"}}', 'UTF8')
FROM generate_series($5::bigint, $6::bigint) AS n";

const INSERT_DELIVERIES: &str = "INSERT INTO deliveries (accepted_at, due_at, event_day, attempts, tenant_id, webhook_id, event_id)
SELECT now(), now() + make_interval(secs => $5::double precision), (now() AT TIME ZONE 'UTC')::date, 1, $1, $2, $3::text || n
FROM generate_series($4::bigint, $6::bigint) AS n";

/// Events with a delivery each, inserted as if an attempt had failed before.
pub(crate) struct Unfinished<'a> {
    pub(crate) tenant: Uuid,
    pub(crate) webhook: Uuid,
    /// What the events' ids begin with.
    pub(crate) prefix: &'a str,
    /// The numbers of the events.
    pub(crate) first: u32,
    pub(crate) count: u32,
    /// When they are due, from now.
    pub(crate) due_in_seconds: f64,
}

impl Database {
    pub(crate) async fn connect(url: &str) -> anyhow::Result<Self> {
        let (client, connection) =
            tokio_postgres::connect(url, NoTls).await.context("cannot connect to Postgres")?;
        tokio::spawn(connection);
        Ok(Self(client))
    }

    pub(crate) async fn volume(&self) -> anyhow::Result<Volume> {
        let row = self.0.query_one(VOLUME, &[]).await?;
        Ok(Volume { stored: row.get(0), logged: row.get(1) })
    }

    /// Open batches and unfinished deliveries.
    pub(crate) async fn unfinished(&self) -> anyhow::Result<i64> {
        Ok(self.0.query_one(UNFINISHED, &[]).await?.get(0))
    }

    /// All at once: they become visible with the commit.
    pub(crate) async fn insert_unfinished(&mut self, rows: &Unfinished<'_>) -> anyhow::Result<()> {
        let (first, last) = (i64::from(rows.first), i64::from(rows.first) + i64::from(rows.count) - 1);
        let padding = i32::try_from(DATA_BYTES - 70)?;
        let transaction = self.0.transaction().await?;
        transaction
            .execute(INSERT_EVENTS, &[&rows.tenant, &rows.prefix, &EVENT_TYPE, &padding, &first, &last])
            .await?;
        transaction
            .execute(
                INSERT_DELIVERIES,
                &[&rows.tenant, &rows.webhook, &rows.prefix, &first, &rows.due_in_seconds, &last],
            )
            .await?;
        Ok(transaction.commit().await?)
    }

    /// Ends all that is unfinished of a tenant. Says how many deliveries that were.
    pub(crate) async fn forget_deliveries(&self, tenant: Uuid) -> anyhow::Result<u64> {
        Ok(self.0.execute("DELETE FROM deliveries WHERE tenant_id = $1", &[&tenant]).await?)
    }

    /// Brings the statistics up to date, as the running system does by itself after a while.
    pub(crate) async fn analyze(&self) -> anyhow::Result<()> {
        Ok(self.0.batch_execute("VACUUM ANALYZE events, deliveries, delivery_attempts, webhooks").await?)
    }

    pub(crate) async fn version(&self) -> anyhow::Result<String> {
        Ok(self.0.query_one("SHOW server_version", &[]).await?.get(0))
    }
}
