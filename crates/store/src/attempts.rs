use chrono::{DateTime, Utc};
use domain::{EventId, TenantId, WebhookId};
use tokio_postgres::Row;

use crate::{Store, StoreError};

/// An entry of a webhook's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The event.
    pub event_id: EventId,
    /// Its type.
    pub event_type: String,
    /// 1 is the first.
    pub attempt: i32,
    /// When the request was begun.
    pub started_at: DateTime<Utc>,
    /// How long it took, in milliseconds.
    pub duration_ms: i32,
    /// The answer's status, if an answer came.
    pub status_code: Option<i16>,
    /// Why it failed; `None` means delivered.
    pub error: Option<String>,
    /// When it is tried again; `None` after the last attempt.
    pub next_attempt_at: Option<DateTime<Utc>>,
}

/// A place in a history: what comes after it is older.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptCursor {
    /// When the attempt at this place was begun.
    pub started_at: DateTime<Utc>,
    /// Its event.
    pub event_id: EventId,
}

const LIST_ATTEMPTS: &str = "-- list_attempts
SELECT event_id, event_type, attempt, started_at, duration_ms, status_code, error, next_attempt_at
FROM delivery_attempts
WHERE tenant_id = $1 AND webhook_id = $2
ORDER BY started_at DESC, event_id DESC LIMIT $3";

const LIST_ATTEMPTS_AFTER: &str = "-- list_attempts_after
SELECT event_id, event_type, attempt, started_at, duration_ms, status_code, error, next_attempt_at
FROM delivery_attempts
WHERE tenant_id = $1 AND webhook_id = $2 AND started_at <= $4 AND (started_at, event_id) < ($4, $5)
ORDER BY started_at DESC, event_id DESC LIMIT $3";

impl Store {
    /// The history of a webhook, newest first.
    pub async fn attempts(
        &self,
        tenant: TenantId,
        webhook: WebhookId,
        limit: usize,
        after: Option<&AttemptCursor>,
    ) -> Result<Vec<Attempt>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let client = self.connection().await?;
        let rows = match after {
            None => {
                let statement = client.prepare_cached(LIST_ATTEMPTS).await?;
                client.query(&statement, &[&tenant.0, &webhook.0, &limit]).await?
            }
            Some(cursor) => {
                let statement = client.prepare_cached(LIST_ATTEMPTS_AFTER).await?;
                let event_id = cursor.event_id.as_str();
                client
                    .query(&statement, &[&tenant.0, &webhook.0, &limit, &cursor.started_at, &event_id])
                    .await?
            }
        };
        rows.iter().map(read_attempt).collect()
    }
}

fn read_attempt(row: &Row) -> Result<Attempt, StoreError> {
    Ok(Attempt {
        event_id: row
            .get::<_, &str>("event_id")
            .parse()
            .map_err(StoreError::unreadable("delivery_attempts"))?,
        event_type: row.get("event_type"),
        attempt: row.get("attempt"),
        started_at: row.get("started_at"),
        duration_ms: row.get("duration_ms"),
        status_code: row.get("status_code"),
        error: row.get("error"),
        next_attempt_at: row.get("next_attempt_at"),
    })
}
