use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use domain::{EventId, EventType, Invalid, TenantId, WebhookId};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::exchanges::ExchangeColumns;
use crate::{AttemptRecord, Store, StoreError, Trigger};

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
    /// What became of the delivery with it.
    pub outcome: AttemptOutcome,
    /// What made it: `retry`, or one of [`Trigger`]'s names.
    ///
    /// [`Trigger`]: crate::Trigger
    pub trigger: String,
}

/// A place in a history: what comes after it is older.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptCursor {
    /// When the attempt at this place was begun.
    pub started_at: DateTime<Utc>,
    /// Its event.
    pub event_id: EventId,
}

/// Which attempts of a webhook are wanted. Nothing set wants all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttemptFilter {
    /// What became of the delivery.
    pub outcome: Option<AttemptOutcome>,
    /// The first digit of the answer's status; 0: no answer.
    pub code_class: Option<i16>,
    /// The type of the event.
    pub event_type: Option<EventType>,
    /// The event.
    pub event_id: Option<EventId>,
    /// Begun at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Begun before this time.
    pub to: Option<DateTime<Utc>>,
}

/// What became of a delivery with an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The receiver answered 2xx.
    Delivered,
    /// It failed and is tried again.
    Retrying,
    /// It failed for good.
    Failed,
    /// It ended without a request: the webhook was deleted or switched off.
    Cancelled,
}

impl AttemptOutcome {
    /// Every outcome.
    pub const ALL: [Self; 4] = [Self::Delivered, Self::Retrying, Self::Failed, Self::Cancelled];

    /// The name the API shows.
    pub fn code(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retrying => "retrying",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl FromStr for AttemptOutcome {
    type Err = Invalid;

    fn from_str(code: &str) -> Result<Self, Invalid> {
        let found = Self::ALL.into_iter().find(|outcome| outcome.code() == code);
        found.ok_or_else(|| Invalid::new("status must be delivered, retrying, failed or cancelled"))
    }
}

/// Some of a webhook's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptPage {
    /// The attempts, newest first.
    pub attempts: Vec<Attempt>,
    /// Where older ones follow, if there may be any.
    pub next: Option<AttemptCursor>,
}

/// Later than any attempt.
const LATEST: DateTime<Utc> = match NaiveDate::from_ymd_opt(9999, 12, 31) {
    Some(day) => day.and_time(NaiveTime::MIN).and_utc(),
    None => DateTime::UNIX_EPOCH,
};
/// Most attempts that are looked at for one page. A filter that matches few gives pages that are not full.
const LOOKS_AT: i64 = 20_000;

/// What [`read_attempt`] reads.
macro_rules! attempt_columns {
    () => {
        "event_id, event_type, attempt, started_at, duration_ms, status_code, error, next_attempt_at,
        CASE WHEN error IS NULL THEN 'delivered' WHEN error = 'cancelled' THEN 'cancelled'
            WHEN next_attempt_at IS NOT NULL THEN 'retrying' ELSE 'failed' END AS outcome,
        coalesce(trigger, CASE WHEN attempt > 1 THEN 'retry' ELSE 'first' END) AS trigger"
    };
}

// The rows come out of the index in order, and no more of them than the page needs.
const LIST_ATTEMPTS: &str = concat!(
    "-- list_attempts
SELECT * FROM (
    SELECT ",
    attempt_columns!(),
    "
    FROM delivery_attempts
    WHERE tenant_id = $1 AND webhook_id = $2
        AND started_at >= $4 AND started_at <= $5 AND (started_at, event_id) < ($5, $6)
    ORDER BY started_at DESC, event_id DESC LIMIT $7
) looked_at
WHERE ($8::text IS NULL OR outcome = $8) AND ($9::smallint IS NULL OR coalesce(status_code / 100, 0) = $9)
    AND ($10::text IS NULL OR event_type = $10) AND ($11::text IS NULL OR event_id = $11)
LIMIT $3"
);

const GET_ATTEMPT: &str = concat!(
    "-- get_attempt
SELECT ",
    attempt_columns!(),
    "
FROM delivery_attempts WHERE tenant_id = $1 AND webhook_id = $2 AND started_at = $3 AND event_id = $4"
);

const RECORD_TEST: &str = "-- record_test
WITH exchange AS (
    INSERT INTO attempt_exchanges (tenant_id, webhook_id, event_id, started_at, request_headers, response_status,
        response_headers, response_body, headers_cut, body_cut, explanation)
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::text[], $6::smallint[],
        $7::text[], $8::bytea[], $9::boolean[], $10::boolean[], $11::text[])
    ON CONFLICT DO NOTHING
)
INSERT INTO delivery_attempts (tenant_id, webhook_id, event_id, event_day, event_type, attempt, started_at, duration_ms,
    status_code, error, trigger)
VALUES ($12, $13, $14, $15, $16, 1, $17, $18, $19, $20, $21)";

const HAS_ATTEMPTS: &str = "-- has_attempts
SELECT EXISTS (SELECT FROM delivery_attempts WHERE tenant_id = $1 AND webhook_id = $2)";

const LAST_LOOKED_AT: &str = "-- last_attempt_looked_at
SELECT started_at, event_id FROM delivery_attempts
WHERE tenant_id = $1 AND webhook_id = $2 AND started_at >= $3 AND started_at <= $4 AND (started_at, event_id) < ($4, $5)
ORDER BY started_at DESC, event_id DESC OFFSET $6::bigint - 1 LIMIT 1";

impl Store {
    /// At most `limit` attempts of a webhook, newest first, from the one after `after`.
    pub async fn attempts(
        &self,
        tenant: TenantId,
        webhook: WebhookId,
        filter: &AttemptFilter,
        limit: usize,
        after: Option<&AttemptCursor>,
    ) -> Result<AttemptPage, StoreError> {
        // One more than asked for tells whether anything follows.
        let one_more = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
        let from = filter.from.unwrap_or(DateTime::UNIX_EPOCH);
        // Nothing is begun in the year 9999; an event id is never empty, so the place before all of a time is this one.
        let newest = filter.to.unwrap_or(LATEST);
        let (until, before) = match after {
            Some(cursor) if cursor.started_at < newest => (cursor.started_at, cursor.event_id.as_str()),
            Some(_) | None => (newest, ""),
        };
        let client = self.of_tenant(tenant).await?;
        let outcome = filter.outcome.map(AttemptOutcome::code);
        let event_type = filter.event_type.as_ref().map(EventType::as_str);
        let event_id = filter.event_id.as_ref().map(EventId::as_str);
        let parameters: [&(dyn ToSql + Sync); 11] = [
            &tenant.0,
            &webhook.0,
            &one_more,
            &from,
            &until,
            &before,
            &LOOKS_AT,
            &outcome,
            &filter.code_class,
            &event_type,
            &event_id,
        ];
        let rows = client.query(LIST_ATTEMPTS, &parameters).await?;
        let mut attempts = rows.iter().map(read_attempt).collect::<Result<Vec<_>, _>>()?;
        let has_more = attempts.len() > limit;
        attempts.truncate(limit);
        if has_more {
            let next = attempts.last().map(Attempt::cursor);
            return Ok(AttemptPage { attempts, next });
        }
        let last = client
            .query_opt(LAST_LOOKED_AT, &[&tenant.0, &webhook.0, &from, &until, &before, &LOOKS_AT])
            .await?;
        let next = last.as_ref().map(read_cursor).transpose()?;
        Ok(AttemptPage { attempts, next })
    }

    /// Whether there is a history of a webhook: that of one that is gone is kept like any other.
    pub async fn has_attempts(&self, tenant: TenantId, webhook: WebhookId) -> Result<bool, StoreError> {
        let client = self.of_tenant(tenant).await?;
        let row = client.query_opt(HAS_ATTEMPTS, &[&tenant.0, &webhook.0]).await?;
        Ok(row.is_some_and(|row| row.get(0)))
    }

    /// Writes a test down. It is of no delivery, so nothing follows from it.
    pub async fn record_test(&self, test: &AttemptRecord) -> Result<(), StoreError> {
        let exchanges = ExchangeColumns::of(std::slice::from_ref(test));
        let status_code = test.status_code.and_then(|status| i16::try_from(status).ok());
        let duration_ms = i32::try_from(test.duration_ms).unwrap_or(i32::MAX);
        let attempt: [&(dyn ToSql + Sync); 10] = [
            &test.tenant_id.0,
            &test.key.webhook_id.0,
            &test.key.event_id.as_str(),
            &test.key.event_day,
            &test.event_type.as_str(),
            &test.started_at,
            &duration_ms,
            &status_code,
            &test.error,
            &Trigger::Test.code(),
        ];
        let parameters = [&exchanges.parameters()[..], &attempt].concat();
        self.of_tenant(test.tenant_id).await?.query(RECORD_TEST, &parameters).await?;
        Ok(())
    }

    /// One attempt of a webhook.
    pub async fn attempt(
        &self,
        tenant: TenantId,
        webhook: WebhookId,
        attempt: &AttemptCursor,
    ) -> Result<Option<Attempt>, StoreError> {
        let client = self.of_tenant(tenant).await?;
        let parameters: [&(dyn ToSql + Sync); 4] =
            [&tenant.0, &webhook.0, &attempt.started_at, &attempt.event_id.as_str()];
        client.query_opt(GET_ATTEMPT, &parameters).await?.as_ref().map(read_attempt).transpose()
    }
}

impl Attempt {
    /// Its place in the history, which names it.
    pub fn cursor(&self) -> AttemptCursor {
        AttemptCursor { started_at: self.started_at, event_id: self.event_id.clone() }
    }
}

fn read_cursor(row: &Row) -> Result<AttemptCursor, StoreError> {
    let event_id: &str = row.get("event_id");
    let event_id = event_id.parse().map_err(StoreError::unreadable("delivery_attempts"))?;
    Ok(AttemptCursor { started_at: row.get("started_at"), event_id })
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
        trigger: row.get("trigger"),
        outcome: row
            .get::<_, &str>("outcome")
            .parse()
            .map_err(StoreError::unreadable("delivery_attempts"))?,
    })
}
