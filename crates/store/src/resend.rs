use chrono::{DateTime, Utc};
use domain::{EventId, TenantId, WebhookId};
use serde_json::{Value, json};

use crate::audit_log::Changes;
use crate::{Store, StoreError};

/// What became of a delivery that was to be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resend {
    /// It is due.
    Scheduled,
    /// It is not finished: it waits, is tried again later, or is under way.
    Unfinished,
    /// The data of the event was erased.
    Erased,
    /// The tenant has no such event, or it has left with its day.
    UnknownEvent,
}

// A delivery of an open batch may be on its first attempt, which leaves nothing in the database before it has ended.
const RESEND: &str = "-- resend
WITH event AS MATERIALIZED (
    SELECT accepted_at, day, tenant_id, id, batch_id, erased_at FROM events
    WHERE tenant_id = $1 AND id = $3 ORDER BY day DESC LIMIT 1
), placed AS (
    INSERT INTO deliveries (accepted_at, due_at, event_day, attempts, tenant_id, webhook_id, event_id, is_resend)
    SELECT e.accepted_at, $4, e.day, 0, e.tenant_id, $2, e.id, true FROM event e
    WHERE e.erased_at IS NULL AND (NOT EXISTS (SELECT FROM open_batches b WHERE b.id = e.batch_id)
        OR EXISTS (SELECT FROM delivery_attempts a
            WHERE a.webhook_id = $2 AND a.event_id = e.id AND a.started_at >= e.accepted_at - interval '1 hour'))
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT EXISTS (SELECT FROM event), EXISTS (SELECT FROM placed), EXISTS (SELECT FROM event WHERE erased_at IS NOT NULL)";

impl Store {
    /// Makes the delivery of an event to a webhook of the same tenant due, as if it had never been attempted.
    pub async fn resend(
        &self,
        tenant: TenantId,
        webhook: WebhookId,
        event: &EventId,
        now: DateTime<Utc>,
    ) -> Result<Resend, StoreError> {
        let mut client = self.of_tenant(tenant).await?;
        let transaction = client.transaction().await?;
        let statement = transaction.prepare_cached(RESEND).await?;
        let row = transaction.query_one(&statement, &[&tenant.0, &webhook.0, &event.as_str(), &now]).await?;
        if row.get(1) {
            let changes = Changes::between(&Value::Null, &json!({"webhookId": webhook.to_string()}));
            self.log(&transaction, "delivery.resent", event.as_str(), changes).await?;
        }
        transaction.commit().await?;
        Ok(match (row.get(0), row.get(1), row.get(2)) {
            (true, _, true) => Resend::Erased,
            (true, true, false) => Resend::Scheduled,
            (true, false, false) => Resend::Unfinished,
            (false, _, _) => Resend::UnknownEvent,
        })
    }
}
