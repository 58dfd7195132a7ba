use chrono::{DateTime, Utc};
use domain::{TenantId, Webhook, WebhookId, WebhookNews};
use serde_json::json;
use tokio_postgres::types::ToSql;

use super::change::GET_WEBHOOK_FOR_UPDATE;
use super::row::{integer, webhook_columns};
use super::{BUMP_VERSION, tell};
use crate::audit_log::Changes;
use crate::{Store, StoreError};

// Neither changes what the webhook wants, so `updated_at` stays.
const PAUSE_WEBHOOK: &str = concat!(
    "-- pause_webhook
UPDATE webhooks SET paused_at = coalesce(paused_at, $3) WHERE tenant_id = $1 AND id = $2
RETURNING paused_at <> $3 AS was_paused, ",
    webhook_columns!()
);

const RESUME_WEBHOOK: &str = concat!(
    "-- resume_webhook
UPDATE webhooks SET paused_at = NULL, drain_rate = coalesce($3, drain_rate) WHERE tenant_id = $1 AND id = $2
RETURNING ",
    webhook_columns!()
);

const START_DRAINING: &str = "-- start_draining
INSERT INTO webhook_health AS h (webhook_id, updated_at, consecutive_failures, times_opened, is_draining)
SELECT id, $3, 0, 0, true FROM webhooks WHERE tenant_id = $1 AND id = $2 AND paused_at IS NOT NULL
ON CONFLICT (webhook_id) DO UPDATE SET is_draining = true, updated_at = excluded.updated_at";

impl Store {
    /// Holds a webhook's deliveries back; they wait. `None` when the tenant has no such webhook.
    pub async fn pause_webhook(
        &self,
        tenant: TenantId,
        id: WebhookId,
        now: DateTime<Utc>,
    ) -> Result<Option<Webhook>, StoreError> {
        let mut client = self.of_tenant(tenant).await?;
        let transaction = client.transaction().await?;
        let statement = transaction.prepare_cached(PAUSE_WEBHOOK).await?;
        let Some(row) = transaction.query_opt(&statement, &[&tenant.0, &id.0, &now]).await? else {
            return Ok(None);
        };
        transaction.execute(&transaction.prepare_cached(BUMP_VERSION).await?, &[&tenant.0]).await?;
        let webhook = self.read_webhook(&row)?;
        if !row.get::<_, bool>("was_paused") {
            tell(&transaction, &[WebhookNews::Paused], &webhook, now).await?;
            self.log(&transaction, "webhook.paused", id, Changes::default()).await?;
        }
        transaction.commit().await?;
        Ok(Some(webhook))
    }

    /// Lets a webhook's deliveries go on; what has waited leaves at the drain rate, which can be set anew. `None` when the
    /// tenant has no such webhook.
    pub async fn resume_webhook(
        &self,
        tenant: TenantId,
        id: WebhookId,
        drain_rate: Option<u32>,
        now: DateTime<Utc>,
    ) -> Result<Option<Webhook>, StoreError> {
        let mut client = self.of_tenant(tenant).await?;
        let transaction = client.transaction().await?;
        let lock = transaction.prepare_cached(GET_WEBHOOK_FOR_UPDATE).await?;
        let before = transaction.query_opt(&lock, &[&tenant.0, &id.0]).await?;
        let was_paused =
            before.as_ref().is_some_and(|row| row.get::<_, Option<DateTime<Utc>>>("paused_at").is_some());
        let rate_before = before.and_then(|row| row.get::<_, Option<i32>>("drain_rate"));
        let statement = transaction.prepare_cached(START_DRAINING).await?;
        transaction.execute(&statement, &[&tenant.0, &id.0, &now]).await?;
        let statement = transaction.prepare_cached(RESUME_WEBHOOK).await?;
        let parameters: [&(dyn ToSql + Sync); 3] = [&tenant.0, &id.0, &integer(drain_rate)];
        let Some(row) = transaction.query_opt(&statement, &parameters).await? else {
            return Ok(None);
        };
        transaction.execute(&transaction.prepare_cached(BUMP_VERSION).await?, &[&tenant.0]).await?;
        let webhook = self.read_webhook(&row)?;
        if was_paused {
            tell(&transaction, &[WebhookNews::Resumed], &webhook, now).await?;
        }
        if was_paused || drain_rate.is_some() {
            let (before, after) =
                (json!({"drainRate": rate_before}), json!({"drainRate": webhook.gate.drain_rate}));
            self.log(&transaction, "webhook.resumed", id, Changes::between(&before, &after)).await?;
        }
        transaction.commit().await?;
        Ok(Some(webhook))
    }
}
