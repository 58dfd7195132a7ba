use std::collections::HashMap;

use chrono::{DateTime, Duration, DurationRound as _, TimeDelta, Utc};
use domain::{TenantId, WebhookId};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{Store, StoreError};

/// How far back attempts are counted.
const WINDOW: TimeDelta = TimeDelta::hours(24);
/// Attempts that are looked at in all; of one webhook among many, its share.
const MAX_ATTEMPTS: usize = 10_000;
/// The least share of one webhook.
const MIN_ATTEMPTS_PER_WEBHOOK: usize = 100;
/// Unfinished deliveries of one webhook that are counted.
const MAX_WAITING: i64 = 10_000;

/// What has become of a webhook's deliveries lately.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Activity {
    /// When the last attempt that succeeded began, however long ago.
    pub last_success_at: Option<DateTime<Utc>>,
    /// Deliveries that succeeded since `since`.
    pub delivered: i64,
    /// Deliveries that finally failed since then.
    pub failed: i64,
    /// Unfinished deliveries: those that wait and those to be tried again. No more than 10,000 are counted.
    pub waiting: i64,
    /// From when attempts are counted: a full hour a day ago, or later where there were more than are looked at.
    pub since: Option<DateTime<Utc>>,
}

// Bounded for each webhook, by the index that the history is read by. The last success is where that index finds it first;
// behind it are only the failures since, of which a closed gate lets few happen.
const ACTIVITY_OF: &str = "-- activity_of
SELECT g.id, recent.delivered, recent.failed, CASE WHEN recent.attempts = $4 THEN recent.oldest ELSE $3 END AS since,
    unfinished.waiting, success.started_at AS last_success_at
FROM unnest($2::uuid[]) AS g (id)
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE error IS NULL AND NOT is_test) AS delivered,
        count(*) FILTER (WHERE error <> 'cancelled' AND next_attempt_at IS NULL AND NOT is_test) AS failed,
        count(*) AS attempts, min(started_at) AS oldest
    FROM (
        SELECT error, next_attempt_at, started_at, trigger IS NOT DISTINCT FROM 'test' AS is_test FROM delivery_attempts
        WHERE tenant_id = $1 AND webhook_id = g.id AND started_at >= $3 ORDER BY started_at DESC LIMIT $4
    ) newest
) recent
CROSS JOIN LATERAL (
    SELECT count(*) AS waiting
    FROM (SELECT FROM deliveries WHERE tenant_id = $1 AND webhook_id = g.id LIMIT $5) counted
) unfinished
LEFT JOIN LATERAL (
    SELECT started_at FROM delivery_attempts
    WHERE tenant_id = $1 AND webhook_id = g.id AND error IS NULL AND trigger IS DISTINCT FROM 'test' ORDER BY started_at DESC LIMIT 1
) success ON true";

impl Store {
    /// What has become of these webhooks' deliveries lately.
    pub async fn activity_of(
        &self,
        tenant: TenantId,
        webhooks: &[WebhookId],
        now: DateTime<Utc>,
    ) -> Result<HashMap<WebhookId, Activity>, StoreError> {
        if webhooks.is_empty() {
            return Ok(HashMap::new());
        }
        let ids: Vec<Uuid> = webhooks.iter().map(|webhook| webhook.0).collect();
        let since = (now - WINDOW).duration_trunc(Duration::hours(1)).unwrap_or(now - WINDOW);
        let share = (MAX_ATTEMPTS / webhooks.len()).max(MIN_ATTEMPTS_PER_WEBHOOK);
        let share = i64::try_from(share).unwrap_or(i64::MAX);
        let client = self.of_tenant(tenant).await?;
        let rows = client.query(ACTIVITY_OF, &[&tenant.0, &ids, &since, &share, &MAX_WAITING]).await?;
        let read = |row: &Row| {
            let activity = Activity {
                last_success_at: row.get("last_success_at"),
                delivered: row.get("delivered"),
                failed: row.get("failed"),
                waiting: row.get("waiting"),
                since: row.get("since"),
            };
            (WebhookId(row.get("id")), activity)
        };
        Ok(rows.iter().map(read).collect())
    }
}
