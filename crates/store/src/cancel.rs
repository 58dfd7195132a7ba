use chrono::{DateTime, Utc};
use domain::{EventId, TenantId, WebhookId};
use serde_json::{Value, json};

use crate::audit_log::Changes;
use crate::{Store, StoreError};

/// What became of a delivery that was to be cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancellation {
    /// It is over, and the history says so.
    Cancelled,
    /// A dispatcher is at it: the receiver may be getting it at this moment.
    UnderWay,
    /// There is no unfinished delivery.
    NotFound,
}

// A dispatcher that takes it on at the same moment holds its row: then it is not cancelled.
const CANCEL_DELIVERY: &str = "-- cancel_delivery
WITH cancelled AS (
    DELETE FROM deliveries
    WHERE tenant_id = $1 AND webhook_id = $2 AND event_id = $3 AND (leased_by IS NULL OR due_at IS NULL OR due_at <= $4)
    RETURNING event_day, attempts
), noted AS (
    INSERT INTO delivery_attempts
        (started_at, duration_ms, attempt, event_day, tenant_id, webhook_id, event_id, event_type, error, trigger)
    SELECT $4, 0, c.attempts, c.event_day, $1, $2, $3, e.type, 'cancelled', 'cancel'
    FROM cancelled c JOIN events e ON e.tenant_id = $1 AND e.id = $3 AND e.day = c.event_day
    ON CONFLICT DO NOTHING
)
SELECT EXISTS (SELECT FROM cancelled),
    EXISTS (SELECT FROM deliveries WHERE tenant_id = $1 AND webhook_id = $2 AND event_id = $3)
        OR EXISTS (SELECT FROM events e JOIN open_batches b ON b.id = e.batch_id WHERE e.tenant_id = $1 AND e.id = $3)";

impl Store {
    /// Ends an unfinished delivery, unless a dispatcher is at it.
    pub async fn cancel_delivery(
        &self,
        tenant: TenantId,
        webhook: WebhookId,
        event: &EventId,
        now: DateTime<Utc>,
    ) -> Result<Cancellation, StoreError> {
        let mut client = self.of_tenant(tenant).await?;
        let transaction = client.transaction().await?;
        let statement = transaction.prepare_cached(CANCEL_DELIVERY).await?;
        let row = transaction.query_one(&statement, &[&tenant.0, &webhook.0, &event.as_str(), &now]).await?;
        if row.get(0) {
            let changes = Changes::between(&Value::Null, &json!({"webhookId": webhook.to_string()}));
            self.log(&transaction, "delivery.cancelled", event.as_str(), changes).await?;
        }
        transaction.commit().await?;
        Ok(match (row.get(0), row.get(1)) {
            (true, _) => Cancellation::Cancelled,
            (false, true) => Cancellation::UnderWay,
            (false, false) => Cancellation::NotFound,
        })
    }
}
