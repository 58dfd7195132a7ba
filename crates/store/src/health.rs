use chrono::{DateTime, Utc};
use domain::{Health, WebhookId};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{Store, StoreError};

// A webhook that was deleted meanwhile has no health any more. When a gate closes, what has waited begins to drain.
const SAVE_HEALTH: &str = "-- save_health
INSERT INTO webhook_health AS h (webhook_id, failing_since, open_until, consecutive_failures, times_opened, updated_at)
SELECT g.*, $6 FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::integer[], $5::integer[])
    AS g (webhook_id, failing_since, open_until, consecutive_failures, times_opened)
WHERE EXISTS (SELECT FROM webhooks w WHERE w.id = g.webhook_id)
ON CONFLICT (webhook_id) DO UPDATE SET failing_since = excluded.failing_since, open_until = excluded.open_until,
    consecutive_failures = excluded.consecutive_failures, times_opened = excluded.times_opened,
    is_draining = h.is_draining OR (h.open_until IS NOT NULL AND excluded.open_until IS NULL),
    updated_at = excluded.updated_at";

const HEALTH_SINCE: &str = "-- health_since
SELECT webhook_id, failing_since, open_until, consecutive_failures, times_opened, is_draining
FROM webhook_health WHERE updated_at >= $1";

const HEALTH_OF: &str = "-- health_of
SELECT webhook_id, failing_since, open_until, consecutive_failures, times_opened, is_draining
FROM webhook_health WHERE webhook_id = ANY($1)";

const FORGET_HEALTHY: &str = "-- forget_healthy
DELETE FROM webhook_health WHERE failing_since IS NULL AND open_until IS NULL AND NOT is_draining AND updated_at < $1 AND next_at < $1";

impl Store {
    /// Tells the others how webhooks are doing.
    pub async fn save_health(
        &self,
        changes: &[(WebhookId, Health)],
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let integer = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        let ids: Vec<Uuid> = changes.iter().map(|(id, _)| id.0).collect();
        let since: Vec<_> = changes.iter().map(|(_, health)| health.failing_since).collect();
        let until: Vec<_> = changes.iter().map(|(_, health)| health.open_until).collect();
        let failures: Vec<i32> =
            changes.iter().map(|(_, health)| integer(health.consecutive_failures)).collect();
        let opened: Vec<i32> = changes.iter().map(|(_, health)| integer(health.times_opened)).collect();
        let client = self.connection().await?;
        let statement = client.prepare_cached(SAVE_HEALTH).await?;
        client.execute(&statement, &[&ids, &since, &until, &failures, &opened, &now]).await?;
        Ok(())
    }

    /// What was said of webhooks since a moment.
    pub async fn health_since(&self, since: DateTime<Utc>) -> Result<Vec<(WebhookId, Health)>, StoreError> {
        let client = self.connection().await?;
        let rows = client.query(&client.prepare_cached(HEALTH_SINCE).await?, &[&since]).await?;
        Ok(rows.iter().map(read_health).collect())
    }

    /// How these webhooks are doing; those that are not in the answer are healthy.
    pub async fn health_of(&self, webhooks: &[WebhookId]) -> Result<Vec<(WebhookId, Health)>, StoreError> {
        let ids: Vec<Uuid> = webhooks.iter().map(|id| id.0).collect();
        let client = self.connection().await?;
        let rows = client.query(&client.prepare_cached(HEALTH_OF).await?, &[&ids]).await?;
        Ok(rows.iter().map(read_health).collect())
    }

    /// Drops what says only that a webhook recovered before a moment.
    pub async fn forget_healthy(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let client = self.connection().await?;
        Ok(client.execute(&client.prepare_cached(FORGET_HEALTHY).await?, &[&before]).await?)
    }
}

fn read_health(row: &Row) -> (WebhookId, Health) {
    let count = |column: &str| u32::try_from(row.get::<_, i32>(column)).unwrap_or_default();
    let health = Health {
        consecutive_failures: count("consecutive_failures"),
        failing_since: row.get("failing_since"),
        open_until: row.get("open_until"),
        times_opened: count("times_opened"),
        is_draining: row.get("is_draining"),
    };
    (WebhookId(row.get("webhook_id")), health)
}
