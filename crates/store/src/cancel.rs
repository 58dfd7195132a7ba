use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use domain::{EventId, TenantId, WebhookId};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tracing::warn;

use crate::audit_log::Changes;
use crate::{Pace, Store, StoreError};

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

// A part of what waits for a webhook that is deleted or off. Rows that somebody else holds at the moment are passed over:
// waiting for them could go round in a circle, and who holds them sees that the webhook is gone, now or when they are due.
// What was accepted since may be for a webhook that is on again.
//
// The types are looked up one by one: of a join the planner can think that it had best read all events of the tenant.
const CANCEL_DELIVERIES: &str = "-- cancel_deliveries
WITH chosen AS MATERIALIZED (
    SELECT ctid, event_id, event_day FROM deliveries
    WHERE tenant_id = $1 AND webhook_id = $2 AND (event_id, event_day) > ($4, $5) AND accepted_at <= $3
    ORDER BY event_id, event_day LIMIT $6 FOR UPDATE SKIP LOCKED
), cancelled AS (
    DELETE FROM deliveries WHERE ctid = ANY (ARRAY(SELECT ctid FROM chosen))
    RETURNING event_id, event_day, attempts
), noted AS (
    INSERT INTO delivery_attempts
        (started_at, duration_ms, attempt, event_day, tenant_id, webhook_id, event_id, event_type, error)
    SELECT $3, 0, c.attempts, c.event_day, $1, $2, c.event_id, c.type, 'cancelled'
    FROM (
        SELECT c.*, (SELECT e.type FROM events e WHERE e.tenant_id = $1 AND e.id = c.event_id AND e.day = c.event_day) AS type
        FROM cancelled c
    ) c
    WHERE c.type IS NOT NULL
    ON CONFLICT DO NOTHING
)
SELECT event_id, event_day FROM chosen ORDER BY event_id DESC, event_day DESC LIMIT 1";

/// Deliveries cancelled by one statement, which is one transaction: everybody's p99 rises to the length of the longest.
const CANCELLED_AT_ONCE: i64 = 64;

/// How long is waited for a large backlog to be cancelled. The rest of it is cancelled nevertheless.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

impl Store {
    /// Ends what waits for a webhook that is deleted or off since a moment ago, and says so in the history. If this is cut
    /// short, the dispatchers end the rest as they take it on.
    pub(crate) async fn cancel_all(&self, tenant: TenantId, webhook: WebhookId, now: DateTime<Utc>) {
        let store = self.clone();
        let cancelling = tokio::spawn(async move {
            if let Err(error) = store.try_to_cancel_all(tenant, webhook, now).await {
                warn!(%webhook, %error, "not all that waits for a webhook is cancelled yet: dispatchers will end the rest");
            }
        });
        let _ = timeout(LONGEST_WAIT, cancelling).await;
    }

    async fn try_to_cancel_all(
        &self,
        tenant: TenantId,
        webhook: WebhookId,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let mut after = (String::new(), NaiveDate::default());
        loop {
            let parameters: [&(dyn ToSql + Sync); 6] =
                [&tenant.0, &webhook.0, &now, &after.0, &after.1, &CANCELLED_AT_ONCE];
            // A connection each time: others may need it while this rests.
            let some =
                async { Ok(self.of_tenant(tenant).await?.query_opt(CANCEL_DELIVERIES, &parameters).await?) };
            let cancelled: Result<_, StoreError> = Pace::Gentle.keep(some).await;
            let Some(last) = cancelled? else { return Ok(()) };
            after = (last.get(0), last.get(1));
        }
    }

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
