use chrono::{DateTime, Utc};
use domain::{Tag, TenantId};
use serde_json::{Value, json};

use crate::audit_log::Changes;
use crate::{Store, StoreError};

/// Events erased by one transaction.
const ERASED_AT_ONCE: i64 = 500;

/// What was erased.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Erasure {
    /// Events whose data is gone.
    pub events: u64,
    /// Unfinished deliveries of theirs, which are cancelled.
    pub deliveries: u64,
}

// The event itself stays, so that a repeat is still known by its id, and what was delivered is still accounted for.
const ERASE: &str = "-- erase_by_tag
WITH found AS MATERIALIZED (
    SELECT event_day, event_id FROM event_tags WHERE tenant_id = $1 AND tag = $2 LIMIT $4
), erased AS (
    UPDATE events e SET body = convert_to('{\"data\":null}', 'UTF8'), session_id = NULL, ordering_key = NULL, tags = NULL, trace = NULL,
        erased_at = coalesce(e.erased_at, $3)
    FROM found f WHERE e.tenant_id = $1 AND e.id = f.event_id AND e.day = f.event_day
    RETURNING e.id
), cancelled AS (
    DELETE FROM deliveries d USING found f, webhooks w
    WHERE w.tenant_id = $1 AND d.webhook_id = w.id AND d.event_id = f.event_id AND d.event_day = f.event_day
    RETURNING d.event_id
), answers AS (
    -- Receivers may have answered with something about the same person.
    DELETE FROM attempt_exchanges x USING found f, delivery_attempts a
    WHERE a.tenant_id = $1 AND a.event_id = f.event_id
        AND (a.error IS NOT NULL OR a.attempt > 1 OR a.trigger IS NOT NULL)
        AND x.webhook_id = a.webhook_id AND x.started_at = a.started_at AND x.event_id = a.event_id
), untagged AS (
    DELETE FROM event_tags t USING found f, events e
    WHERE e.tenant_id = $1 AND e.id = f.event_id AND e.day = f.event_day
        AND t.tenant_id = $1 AND t.tag = ANY (e.tags) AND t.event_day = f.event_day AND t.event_id = f.event_id
), gone AS (
    DELETE FROM event_tags t USING found f
    WHERE t.tenant_id = $1 AND t.tag = $2 AND t.event_day = f.event_day AND t.event_id = f.event_id
        AND NOT EXISTS (SELECT FROM events e WHERE e.tenant_id = $1 AND e.id = f.event_id AND e.day = f.event_day
            AND $2 = ANY (e.tags))
)
SELECT (SELECT count(*) FROM found) AS found, (SELECT count(*) FROM erased) AS erased,
    (SELECT count(*) FROM cancelled) AS cancelled";

const FORGET_TAGS: &str = "-- forget_event_tags
DELETE FROM event_tags WHERE event_day < $1";

impl Store {
    /// Erases the data of a tenant's events that have a tag, in steps that each hold for good, and cancels their unfinished
    /// deliveries.
    pub async fn erase_by_tag(
        &self,
        tenant: TenantId,
        tag: &Tag,
        digest: &str,
        now: DateTime<Utc>,
    ) -> Result<Erasure, StoreError> {
        let mut total = Erasure::default();
        let mut client = self.of_tenant(tenant).await?;
        loop {
            let transaction = client.transaction().await?;
            let statement = transaction.prepare_cached(ERASE).await?;
            let row =
                transaction.query_one(&statement, &[&tenant.0, &tag.as_str(), &now, &ERASED_AT_ONCE]).await?;
            let count = |column: &str| u64::try_from(row.get::<_, i64>(column)).unwrap_or_default();
            total.events += count("erased");
            total.deliveries += count("cancelled");
            let is_last = row.get::<_, i64>("found") < ERASED_AT_ONCE;
            if is_last {
                let counts = json!({"events": total.events, "deliveries": total.deliveries});
                let changes = Changes::between(&Value::Null, &counts);
                self.log(&transaction, "events.erased", digest, changes).await?;
            }
            transaction.commit().await?;
            if is_last {
                return Ok(total);
            }
        }
    }

    /// Drops the tags of events that have left with their partition.
    pub(crate) async fn forget_event_tags(&self, first_day: chrono::NaiveDate) -> Result<(), StoreError> {
        let client = self.connection().await?;
        client.execute(&client.prepare_cached(FORGET_TAGS).await?, &[&first_day]).await?;
        Ok(())
    }
}
