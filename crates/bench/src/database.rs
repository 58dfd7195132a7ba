//! Postgres, as an outsider: sizes, and rows in numbers that no API call would make in reasonable time.

use std::time::Duration;

use anyhow::Context as _;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::output::progress;
use crate::payload::{DATA_BYTES, EVENT_TYPE};

/// Attempts inserted by one statement.
const ATTEMPTS_AT_A_TIME: i32 = 1_000_000;

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

// The stamp of such an event is all zeros but for its number. They are in batches of 500, as hand-overs make them.
const INSERT_EVENTS: &str = "WITH batches AS MATERIALIZED (
    SELECT n, nextval('open_batches_id_seq') AS id FROM generate_series(0, ($6::bigint - $5::bigint) / 500) AS n
)
INSERT INTO events (batch_id, occurred_at, accepted_at, day, tenant_id, id, type, body)
SELECT batches.id, now(), now(), (now() AT TIME ZONE 'UTC')::date, $1, $2::text || g.n, $3::text, convert_to(
    '{\"id\":\"' || $2::text || g.n || '\",\"type\":\"' || $3::text || '\",\"timestamp\":\"2026-01-01T00:00:00.000Z\",\"data\":{\"at\":\"'
    || repeat('0', 16) || '\",\"seq\":\"' || lpad(g.n::text, 10, '0') || '\",\"pad\":\"' || repeat('x', $4::integer) || '\"}}', 'UTF8')
FROM generate_series($5::bigint, $6::bigint) AS g (n) JOIN batches ON batches.n = (g.n - $5) / 500";

const INSERT_DELIVERIES: &str = "INSERT INTO deliveries (accepted_at, due_at, event_day, attempts, tenant_id, webhook_id, event_id)
SELECT now(), now() + make_interval(secs => $5::double precision + $7::double precision * (n - $4) / ($6 - $4 + 1)),
    (now() AT TIME ZONE 'UTC')::date, 1, $1, $2, $3::text || n
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
    /// When the first is due, from now.
    pub(crate) due_in_seconds: f64,
    /// Over how long the others follow; 0: all at once.
    pub(crate) due_over_seconds: f64,
}

const INSERT_TENANTS: &str = "INSERT INTO tenants (id, webhooks_version) SELECT unnest($1::uuid[]), 1";

const INSERT_WEBHOOKS: &str = "INSERT INTO webhooks
    (id, tenant_id, url, events, secret, is_active, duplicate_key, created_at, updated_at)
SELECT gen_random_uuid(), tenant_id, url, ARRAY[$3::text], decode(repeat('5a', 32), 'hex'), true, md5(url), now(), now()
FROM unnest($1::uuid[], $2::text[]) AS w (tenant_id, url)";

const CREATE_PARTITIONS: &str = "SELECT create_partition('delivery_attempts', ($1::date - n))
FROM generate_series(0, $2::integer) AS n";

// The history of each webhook is spread over all days; of 20 attempts one failed.
const INSERT_ATTEMPTS: &str =
    "INSERT INTO delivery_attempts (started_at, next_attempt_at, duration_ms, attempt, event_day,
    status_code, tenant_id, webhook_id, event_id, event_type, error)
SELECT at, NULL, 12, 1, at::date, CASE WHEN n % 20 = 0 THEN 500 ELSE 204 END, $1, ($2::uuid[])[n % $3 + 1],
    'history-' || n, $4::text, CASE WHEN n % 20 = 0 THEN 'status' END
FROM (SELECT n, now() - make_interval(secs => $5::double precision * n / ($7::integer)::double precision) AS at
    FROM generate_series($6::integer, $8::integer) AS n) AS numbered";

impl Database {
    pub(crate) async fn connect(url: &str) -> anyhow::Result<Self> {
        let (client, connection) =
            tokio_postgres::connect(url, NoTls).await.context("cannot connect to Postgres")?;
        tokio::spawn(connection);
        Ok(Self(client))
    }

    /// No plan holds anybody back.
    pub(crate) async fn lift_limits(&self) -> anyhow::Result<()> {
        let lift = "UPDATE plans SET events_per_minute = NULL, requests_per_minute = NULL";
        Ok(self.0.batch_execute(lift).await?)
    }

    /// Makes a tenant known, on a plan that lets so many events through.
    pub(crate) async fn insert_limited(&self, tenant: Uuid, events_per_minute: i32) -> anyhow::Result<()> {
        let plan = format!("limited-{events_per_minute}");
        let insert = "INSERT INTO plans (name, max_webhooks, events_per_minute) VALUES ($1, 1000, $2)
            ON CONFLICT DO NOTHING";
        self.0.execute(insert, &[&plan, &events_per_minute]).await?;
        self.0.execute("INSERT INTO tenants (id, plan) VALUES ($1, $2)", &[&tenant, &plan]).await?;
        Ok(())
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
                &[
                    &rows.tenant,
                    &rows.webhook,
                    &rows.prefix,
                    &first,
                    &rows.due_in_seconds,
                    &last,
                    &rows.due_over_seconds,
                ],
            )
            .await?;
        Ok(transaction.commit().await?)
    }

    /// Makes tenants, and a webhook for each of the URLs, the tenants in turn.
    pub(crate) async fn insert_tenants(&self, tenants: &[Uuid], urls: &[String]) -> anyhow::Result<()> {
        self.0.execute(INSERT_TENANTS, &[&tenants]).await?;
        let owners: Vec<Uuid> = tenants.iter().cycle().take(urls.len()).copied().collect();
        self.0.execute(INSERT_WEBHOOKS, &[&owners, &urls, &EVENT_TYPE]).await?;
        Ok(())
    }

    /// Makes a history: `count` attempts of these webhooks, evenly over the last `days`.
    pub(crate) async fn insert_history(
        &self,
        tenant: Uuid,
        webhooks: &[Uuid],
        count: i32,
        days: i32,
    ) -> anyhow::Result<()> {
        let today = chrono::Utc::now().date_naive();
        self.0.execute(CREATE_PARTITIONS, &[&today, &(days + 1)]).await?;
        let seconds = f64::from(days) * 86_400.0;
        let webhook_count = i32::try_from(webhooks.len())?;
        // In parts, each a transaction, so that there is progress to see.
        let mut first = 1;
        while first <= count {
            let last = count.min(first + ATTEMPTS_AT_A_TIME - 1);
            self.0
                .execute(
                    INSERT_ATTEMPTS,
                    &[&tenant, &webhooks, &webhook_count, &EVENT_TYPE, &seconds, &first, &count, &last],
                )
                .await?;
            progress(&format!("{last} of {count} attempts inserted"));
            first = last + 1;
        }
        Ok(())
    }

    /// Makes Postgres log how long each statement takes, or not any more. Needs a superuser.
    pub(crate) async fn log_durations(&self, on: bool) -> anyhow::Result<()> {
        let value = if on { "0" } else { "-1" };
        self.0.batch_execute(&format!("ALTER SYSTEM SET log_min_duration_statement = {value}")).await?;
        Ok(self.0.batch_execute("SELECT pg_reload_conf()").await?)
    }

    /// For a superuser's connection.
    pub(crate) async fn checkpoint(&self) -> anyhow::Result<()> {
        Ok(self.0.batch_execute("CHECKPOINT").await?)
    }

    /// Whether the dispatchers' audit has seen all events of this far back.
    pub(crate) async fn is_audited(&self, back: Duration) -> anyhow::Result<bool> {
        let ask = "SELECT coalesce(max(audited_until) >= now() - make_interval(secs => $1), false) FROM audit_progress";
        Ok(self.0.query_one(ask, &[&back.as_secs_f64()]).await?.get(0))
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
