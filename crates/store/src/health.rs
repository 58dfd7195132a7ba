use chrono::{DateTime, Utc};
use domain::{DomainEvent, Health, TenantId, WebhookId};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::{Store, StoreError, outbox};

/// How a webhook is doing, where that is news.
#[derive(Debug, Clone)]
pub struct HealthNews {
    /// The webhook.
    pub webhook_id: WebhookId,
    /// How it is doing now.
    pub health: Health,
    /// Whether its tenant is to be told of the failures, once.
    pub is_told: bool,
}

// A webhook that was deleted meanwhile has no health any more. When a gate closes, what has waited begins to drain. The rows
// as they were are locked first, so that one dispatcher alone finds that the tenant was not told yet.
const SAVE_HEALTH: &str = "-- save_health
WITH before AS MATERIALIZED (
    SELECT webhook_id, failing_since, is_announced FROM webhook_health WHERE webhook_id = ANY($1)
    ORDER BY webhook_id FOR UPDATE
), saved AS (
    INSERT INTO webhook_health AS h
        (webhook_id, failing_since, open_until, consecutive_failures, times_opened, is_announced, updated_at)
    SELECT g.*, $6 FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::integer[], $5::integer[], $7::boolean[])
        AS g (webhook_id, failing_since, open_until, consecutive_failures, times_opened, is_told)
    LEFT JOIN before b ON b.webhook_id = g.webhook_id
    WHERE EXISTS (SELECT FROM webhooks w WHERE w.id = g.webhook_id)
    ORDER BY g.webhook_id
    ON CONFLICT (webhook_id) DO UPDATE SET failing_since = excluded.failing_since, open_until = excluded.open_until,
        consecutive_failures = excluded.consecutive_failures, times_opened = excluded.times_opened,
        is_draining = h.is_draining OR (h.open_until IS NOT NULL AND excluded.open_until IS NULL),
        is_announced = excluded.failing_since IS NOT NULL AND (h.is_announced OR excluded.is_announced),
        updated_at = excluded.updated_at
    RETURNING webhook_id, is_announced
)
SELECT s.webhook_id, w.tenant_id, w.url, b.failing_since
FROM saved s JOIN webhooks w ON w.id = s.webhook_id LEFT JOIN before b ON b.webhook_id = s.webhook_id
WHERE s.is_announced <> coalesce(b.is_announced, false)";

const HEALTH_SINCE: &str = "-- health_since
SELECT webhook_id, failing_since, open_until, consecutive_failures, times_opened, is_draining
FROM webhook_health WHERE updated_at >= $1";

const HEALTH_OF: &str = "-- health_of
SELECT webhook_id, failing_since, open_until, consecutive_failures, times_opened, is_draining
FROM webhook_health WHERE webhook_id = ANY (ARRAY(SELECT id FROM webhooks WHERE tenant_id = $2 AND id = ANY($1)))";

const FORGET_HEALTHY: &str = "-- forget_healthy
DELETE FROM webhook_health WHERE failing_since IS NULL AND open_until IS NULL AND NOT is_draining AND updated_at < $1 AND next_at < $1";

impl Store {
    /// Tells the other dispatchers how webhooks are doing, and the tenants where their webhooks begin to fail or recover. At
    /// most one for each webhook.
    pub async fn save_health(&self, news: &[HealthNews], now: DateTime<Utc>) -> Result<(), StoreError> {
        let integer = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        let ids: Vec<Uuid> = news.iter().map(|news| news.webhook_id.0).collect();
        let since: Vec<_> = news.iter().map(|news| news.health.failing_since).collect();
        let until: Vec<_> = news.iter().map(|news| news.health.open_until).collect();
        let failures: Vec<i32> = news.iter().map(|news| integer(news.health.consecutive_failures)).collect();
        let opened: Vec<i32> = news.iter().map(|news| integer(news.health.times_opened)).collect();
        let told: Vec<bool> = news.iter().map(|news| news.is_told).collect();
        let mut client = self.connection().await?;
        let transaction = client.transaction().await?;
        let statement = transaction.prepare_cached(SAVE_HEALTH).await?;
        let parameters: [&(dyn ToSql + Sync); 7] = [&ids, &since, &until, &failures, &opened, &now, &told];
        let turned = transaction.query(&statement, &parameters).await?;
        if !turned.is_empty() {
            let told = |row: &Row| {
                let webhook = WebhookId(row.get("webhook_id"));
                let (tenant, url) = (TenantId(row.get("tenant_id")), row.get("url"));
                let health = &news.iter().find(|news| news.webhook_id == webhook)?.health;
                Some(match health.failing_since {
                    Some(_) => DomainEvent::failing(tenant, webhook, url, health, now),
                    None => DomainEvent::recovered(tenant, webhook, url, row.get("failing_since"), now),
                })
            };
            outbox::announce(&transaction, &turned.iter().filter_map(told).collect::<Vec<_>>()).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// What was said of webhooks since a moment.
    pub async fn health_since(&self, since: DateTime<Utc>) -> Result<Vec<(WebhookId, Health)>, StoreError> {
        let client = self.connection().await?;
        let rows = client.query(&client.prepare_cached(HEALTH_SINCE).await?, &[&since]).await?;
        Ok(rows.iter().map(read_health).collect())
    }

    /// How these webhooks of a tenant's are doing; those that are not in the answer are healthy.
    pub async fn health_of(
        &self,
        tenant: TenantId,
        webhooks: &[WebhookId],
    ) -> Result<Vec<(WebhookId, Health)>, StoreError> {
        let ids: Vec<Uuid> = webhooks.iter().map(|id| id.0).collect();
        let rows = self.of_tenant(tenant).await?.query(HEALTH_OF, &[&ids, &tenant.0]).await?;
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
