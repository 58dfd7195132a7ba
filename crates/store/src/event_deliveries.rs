//! What has become of one event at each webhook, and what is not finished at one webhook.

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use domain::{EventId, TenantId, WebhookId};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::{AttemptCursor, AttemptOutcome, Store, StoreError};

/// A delivery as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryStatus {
    /// The webhook.
    pub webhook_id: WebhookId,
    /// The event.
    pub event_id: EventId,
    /// Its partition.
    pub event_day: NaiveDate,
    /// Its type.
    pub event_type: String,
    /// When it was handed over.
    pub accepted_at: DateTime<Utc>,
    /// Attempts made so far; of a delivery that was asked for again, since then.
    pub attempts: i32,
    /// Where it stands.
    pub state: DeliveryState,
    /// When the last attempt began, what it came to, and its answer's status.
    pub last_attempt: Option<LastAttempt>,
}

/// The newest entry of a delivery's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastAttempt {
    /// When it was begun.
    pub started_at: DateTime<Utc>,
    /// The answer's status, if an answer came.
    pub status_code: Option<i16>,
    /// Why it failed; `None` means delivered.
    pub error: Option<String>,
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// There is none: the webhook did not want the event, or came later.
    None,
    /// There is none in the database yet: a dispatcher is at the event, and may be at this delivery.
    HandedOver,
    /// It is attempted at this time, or as soon as there is room if that has passed.
    Scheduled(DateTime<Utc>),
    /// It waits until its webhook is resumed.
    Paused,
    /// It waits for its webhook's gate: its rate, its order, or its receiver to recover.
    Waiting,
    /// A dispatcher is at it.
    UnderWay,
    /// It ended so.
    Ended(AttemptOutcome),
}

/// Which unfinished deliveries are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfinished {
    /// Every one.
    Any,
    /// Those that have a time.
    Scheduled,
    /// Those that wait for their webhook's gate.
    Waiting,
    /// Those that a dispatcher is at.
    UnderWay,
}

impl Unfinished {
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Any => None,
            Self::Scheduled => Some("scheduled"),
            Self::Waiting => Some("waiting"),
            Self::UnderWay => Some("under_way"),
        }
    }
}

/// Says that an attempt `a` is in the index of attempts by event, so that it is used.
macro_rules! by_event {
    () => {
        "(a.error IS NOT NULL OR a.attempt > 1 OR a.trigger IS NOT NULL)"
    };
}
pub(crate) use by_event;
/// Unfinished deliveries looked at for one page.
const LOOKS_AT: i64 = 10_000;

// An attempt that is not in the index of attempts by event succeeded at once, straight from the hand-over: it began soon after.
const EVENT_DELIVERIES: &str = concat!(
    "-- event_deliveries
WITH event AS MATERIALIZED (
    SELECT e.accepted_at, e.day, e.type, (SELECT true FROM open_batches b WHERE b.id = e.batch_id) AS is_open
    FROM events e WHERE e.tenant_id = $1 AND e.id = $2 ORDER BY e.day DESC LIMIT 1
), page AS MATERIALIZED (
    SELECT id FROM (
        SELECT id FROM webhooks WHERE tenant_id = $1 AND id > $3
        UNION
        SELECT a.webhook_id FROM delivery_attempts a
        WHERE a.tenant_id = $1 AND a.event_id = $2 AND a.webhook_id > $3 AND ",
    by_event!(),
    "
    ) known ORDER BY id LIMIT $4
)
SELECT p.id AS webhook_id, $2::text AS event_id, e.day AS event_day, e.type AS event_type, e.accepted_at,
    d.attempts, d.due_at, d.leased_by IS NOT NULL AND d.due_at > $5 AS is_held, d.webhook_id IS NOT NULL AS is_unfinished,
    w.paused_at IS NOT NULL AS is_paused, e.is_open IS NOT NULL AS is_open,
    l.started_at, l.attempt, l.status_code, l.error, l.next_attempt_at
FROM event e CROSS JOIN page p
LEFT JOIN webhooks w ON w.id = p.id
LEFT JOIN deliveries d ON d.webhook_id = p.id AND d.event_id = $2 AND d.event_day = e.day
LEFT JOIN LATERAL (
    SELECT * FROM (
        (SELECT a.started_at, a.attempt, a.status_code, a.error, a.next_attempt_at FROM delivery_attempts a
        WHERE a.tenant_id = $1 AND a.event_id = $2 AND a.webhook_id = p.id AND a.event_day = e.day AND ",
    by_event!(),
    "
        ORDER BY a.started_at DESC LIMIT 1)
        UNION ALL
        (SELECT a.started_at, a.attempt, a.status_code, a.error, a.next_attempt_at FROM delivery_attempts a
        WHERE a.webhook_id = p.id AND a.event_id = $2 AND a.tenant_id = $1
            AND a.started_at >= e.accepted_at - interval '5 seconds'
            AND a.started_at < e.accepted_at + interval '1 minute' LIMIT 1)
    ) found ORDER BY started_at DESC LIMIT 1
) l ON true
ORDER BY p.id"
);

const UNFINISHED_DELIVERIES: &str = concat!(
    "-- unfinished_deliveries
SELECT d.webhook_id, d.event_id, d.event_day,
    coalesce((SELECT e.type FROM events e WHERE e.tenant_id = $1 AND e.id = d.event_id AND e.day = d.event_day), '')
        AS event_type,
    d.accepted_at, d.attempts, d.due_at,
    d.state = 'under_way' AS is_held, true AS is_unfinished, w.paused_at IS NOT NULL AS is_paused, false AS is_open,
    l.started_at, l.attempt, l.status_code, l.error, l.next_attempt_at
FROM (
    SELECT * FROM (
        SELECT *, CASE WHEN due_at IS NULL THEN 'waiting' WHEN leased_by IS NOT NULL AND due_at > $5 THEN 'under_way'
            ELSE 'scheduled' END AS state
        FROM deliveries WHERE webhook_id = $2 AND tenant_id = $1 AND (event_id, event_day) > ($3, $4)
        ORDER BY event_id, event_day LIMIT $8
    ) looked_at
    WHERE $6::text IS NULL OR state = $6 LIMIT $7
) d
LEFT JOIN webhooks w ON w.id = d.webhook_id
LEFT JOIN LATERAL (
    SELECT a.started_at, a.attempt, a.status_code, a.error, a.next_attempt_at FROM delivery_attempts a
    WHERE a.tenant_id = $1 AND a.event_id = d.event_id AND a.webhook_id = d.webhook_id AND a.event_day = d.event_day AND ",
    by_event!(),
    "
    ORDER BY a.started_at DESC LIMIT 1
) l ON true
ORDER BY d.event_id, d.event_day"
);

const LAST_UNFINISHED_LOOKED_AT: &str = "-- last_unfinished_looked_at
SELECT event_id, event_day FROM deliveries WHERE webhook_id = $2 AND tenant_id = $1 AND (event_id, event_day) > ($3, $4)
ORDER BY event_id, event_day OFFSET $5::bigint - 1 LIMIT 1";

impl Store {
    /// What has become of an event at the tenant's webhooks, in the order of their ids: at most `limit`, after `after`. `None`
    /// when the tenant has no such event. A webhook that is gone is among them if an attempt for it is in the history that did
    /// not succeed at once.
    pub async fn event_deliveries(
        &self,
        tenant: TenantId,
        event: &EventId,
        after: Option<WebhookId>,
        limit: usize,
        now: DateTime<Utc>,
    ) -> Result<Vec<DeliveryStatus>, StoreError> {
        let after = after.map_or(Uuid::nil(), |id| id.0);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let client = self.of_tenant(tenant).await?;
        let rows =
            client.query(EVENT_DELIVERIES, &[&tenant.0, &event.as_str(), &after, &limit, &now]).await?;
        rows.iter().map(read_status).collect()
    }

    /// Unfinished deliveries of a webhook, in the order of their events' ids: at most `limit`, after `after`; and where to go on.
    pub async fn unfinished_deliveries(
        &self,
        tenant: TenantId,
        webhook: WebhookId,
        wanted: Unfinished,
        limit: usize,
        after: Option<&AttemptCursor>,
        now: DateTime<Utc>,
    ) -> Result<(Vec<DeliveryStatus>, Option<AttemptCursor>), StoreError> {
        let one_more = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
        let (after, day) = after.map_or(("", NaiveDate::default()), |cursor| {
            (cursor.event_id.as_str(), cursor.started_at.date_naive())
        });
        let client = self.of_tenant(tenant).await?;
        let parameters: [&(dyn ToSql + Sync); 8] =
            [&tenant.0, &webhook.0, &after, &day, &now, &wanted.code(), &one_more, &LOOKS_AT];
        let rows = client.query(UNFINISHED_DELIVERIES, &parameters).await?;
        let mut found = rows.iter().map(read_status).collect::<Result<Vec<_>, _>>()?;
        if found.len() > limit {
            found.truncate(limit);
            let next = found.last().map(|last| place(&last.event_id, last.event_day));
            return Ok((found, next));
        }
        let parameters: [&(dyn ToSql + Sync); 5] = [&tenant.0, &webhook.0, &after, &day, &LOOKS_AT];
        let last = client.query_opt(LAST_UNFINISHED_LOOKED_AT, &parameters).await?;
        let next = last.as_ref().map(|row| Ok::<_, StoreError>(place(&event_id(row)?, row.get("event_day"))));
        Ok((found, next.transpose()?))
    }
}

/// A delivery's place among those of its webhook.
fn place(event_id: &EventId, day: NaiveDate) -> AttemptCursor {
    AttemptCursor { started_at: day.and_time(NaiveTime::MIN).and_utc(), event_id: event_id.clone() }
}

fn event_id(row: &Row) -> Result<EventId, StoreError> {
    row.get::<_, &str>("event_id").parse().map_err(StoreError::unreadable("deliveries"))
}

fn read_status(row: &Row) -> Result<DeliveryStatus, StoreError> {
    let made: Option<i32> = row.get("attempts");
    let recorded: Option<i32> = row.get("attempt");
    Ok(DeliveryStatus {
        webhook_id: WebhookId(row.get("webhook_id")),
        event_id: event_id(row)?,
        event_day: row.get("event_day"),
        event_type: row.get("event_type"),
        accepted_at: row.get("accepted_at"),
        attempts: made.or(recorded).unwrap_or_default(),
        state: read_state(row),
        last_attempt: row.get::<_, Option<DateTime<Utc>>>("started_at").map(|started_at| LastAttempt {
            started_at,
            status_code: row.get("status_code"),
            error: row.get("error"),
        }),
    })
}

fn read_state(row: &Row) -> DeliveryState {
    let flag = |name: &str| row.get::<_, Option<bool>>(name).unwrap_or_default();
    let due_at: Option<DateTime<Utc>> = row.get("due_at");
    if flag("is_unfinished") {
        return match due_at {
            Some(_) if flag("is_held") => DeliveryState::UnderWay,
            Some(due_at) => DeliveryState::Scheduled(due_at),
            None if flag("is_paused") => DeliveryState::Paused,
            None => DeliveryState::Waiting,
        };
    }
    let is_attempted = row.get::<_, Option<DateTime<Utc>>>("started_at").is_some();
    let next_attempt_at: Option<DateTime<Utc>> = row.get("next_attempt_at");
    match (is_attempted, row.get::<_, Option<&str>>("error"), next_attempt_at) {
        (false, _, _) if flag("is_open") => DeliveryState::HandedOver,
        (false, _, _) => DeliveryState::None,
        (true, None, _) => DeliveryState::Ended(AttemptOutcome::Delivered),
        (true, Some("cancelled"), _) => DeliveryState::Ended(AttemptOutcome::Cancelled),
        (true, Some(_), Some(at)) => DeliveryState::Scheduled(at),
        (true, Some(_), None) => DeliveryState::Ended(AttemptOutcome::Failed),
    }
}
