use chrono::{DateTime, NaiveDate, Utc};
use domain::{EventId, TenantId, Webhook, WebhookId};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use tracing::error;
use uuid::Uuid;

use crate::events::{StoredEvent, event_columns, read_event};
use crate::{BatchId, Lease, Store, StoreError};

/// Names a delivery: one event for one webhook.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeliveryKey {
    /// The webhook.
    pub webhook_id: WebhookId,
    /// The event, within the webhook's tenant.
    pub event_id: EventId,
    /// The partition of the event.
    pub event_day: NaiveDate,
}

/// A delivery that a dispatcher has taken on, under a lease.
#[derive(Debug, Clone)]
pub struct ClaimedDelivery {
    /// The webhook.
    pub webhook_id: WebhookId,
    /// The tenant of both.
    pub tenant_id: TenantId,
    /// The event.
    pub event: StoredEvent,
    /// Attempts made before.
    pub attempts: u32,
    /// Whether it was asked for again.
    pub is_resend: bool,
}

impl ClaimedDelivery {
    /// Its name.
    pub fn key(&self) -> DeliveryKey {
        DeliveryKey {
            webhook_id: self.webhook_id,
            event_id: self.event.event.id.clone(),
            event_day: self.event.day,
        }
    }
}

/// What a claim of due deliveries came to.
#[derive(Debug, Clone, Default)]
pub struct ClaimedDue {
    /// Those taken on.
    pub deliveries: Vec<ClaimedDelivery>,
    /// Whether more may be due.
    pub more: bool,
    /// Whether others were set to wait for their webhook's gate.
    pub set_waiting: bool,
}

/// A webhook with deliveries that wait for its gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingWebhook {
    /// The webhook.
    pub id: WebhookId,
    /// Its own concurrency cap.
    pub concurrency: Option<u32>,
    /// Whether they are held back.
    pub is_paused: bool,
    /// Whether they are taken on by [`Store::claim_metered`].
    pub is_metered: bool,
    /// Whether they leave at a rate, so that time alone lets the next one go.
    pub is_paced: bool,
}

/// Due rows that one claim looks at: few enough that others hardly wait behind it, on few cores. It takes a millisecond.
macro_rules! claim_looks_at {
    () => {
        64
    };
}

// Looks at more rows than it takes: of one webhook a few are taken, and the rest are set to wait for its gate, so that a
// backlog of one webhook is out of everybody else's way at once. Retries drain there; what a dispatcher that went silent left
// behind does not have to. Those of metered webhooks, and of those that drain, all wait for the gate: what holds for all
// dispatchers together is decided there.
//
// Rows are updated by their `ctid`, because the planner knows this table badly: it is empty as a rule, and a plan made for one
// row took half a minute for 100,000. How many are looked at is no parameter, so that the planner knows how few: else it takes a
// tenth of the table for them, and read all of 100,000 webhooks at every claim. These are looked up one by one too.
const CLAIM_DUE: &str = concat!(
    "-- claim_due
WITH head AS MATERIALIZED (
    SELECT ctid, webhook_id, due_at, attempts FROM deliveries
    WHERE due_at <= $1 ORDER BY due_at LIMIT ",
    claim_looks_at!(),
    " FOR UPDATE SKIP LOCKED
), ranked AS MATERIALIZED (
    SELECT d.*, row_number() OVER (PARTITION BY d.webhook_id ORDER BY d.due_at) AS place,
        coalesce((SELECT w.is_metered FROM webhooks w WHERE w.id = d.webhook_id), false)
            OR coalesce((SELECT h.is_draining FROM webhook_health h WHERE h.webhook_id = d.webhook_id), false) AS is_metered
    FROM head d
), chosen AS MATERIALIZED (
    SELECT ctid FROM ranked
    WHERE place <= $5 AND NOT is_metered ORDER BY place, due_at LIMIT $2
), set_waiting AS (
    UPDATE deliveries SET due_at = NULL, leased_by = NULL
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM ranked WHERE place > $5 OR is_metered))
    RETURNING 1
), draining AS (
    INSERT INTO webhook_health AS h (webhook_id, updated_at, consecutive_failures, times_opened, is_draining)
    SELECT DISTINCT r.webhook_id, $1::timestamptz, 0, 0, true
    FROM ranked r
    WHERE r.place > $5 AND r.attempts > 0 AND (SELECT true FROM webhooks w WHERE w.id = r.webhook_id) ORDER BY 1
    ON CONFLICT (webhook_id) DO UPDATE SET is_draining = true, updated_at = excluded.updated_at WHERE NOT h.is_draining
), claimed AS (
    UPDATE deliveries SET due_at = $4, leased_by = $3 WHERE ctid = ANY (ARRAY(SELECT ctid FROM chosen))
    RETURNING webhook_id, attempts, is_resend, tenant_id, event_id, event_day
)
SELECT n.looked_at, n.set_waiting, c.webhook_id, c.attempts, c.is_resend, ",
    event_columns!(),
    "
FROM (SELECT (SELECT count(*) FROM head) AS looked_at, (SELECT count(*) FROM set_waiting) AS set_waiting) n
LEFT JOIN (claimed c JOIN events e ON e.tenant_id = c.tenant_id AND e.id = c.event_id AND e.day = c.event_day) ON true
ORDER BY e.accepted_at"
);

const CLAIM_LOOKS_AT: i64 = claim_looks_at!();

/// Due rows that are set to wait at one time. It takes a third to half of a millisecond.
macro_rules! set_waiting_looks_at {
    () => {
        32
    };
}

// The part of CLAIM_DUE that a backlog needs, without what costs most there: to make ready for reading the events of what is
// claimed, in every partition, and to wait for the disk. Rows that a crash makes due again are set to wait again. What has to
// begin to drain is left to CLAIM_DUE, with all that follows it.
const SET_WAITING: &str = concat!(
    "-- set_waiting
WITH head AS MATERIALIZED (
    SELECT ctid, webhook_id, attempts FROM deliveries
    WHERE due_at <= $1 ORDER BY due_at LIMIT ",
    set_waiting_looks_at!(),
    " FOR UPDATE SKIP LOCKED
), set_waiting AS (
    UPDATE deliveries SET due_at = NULL, leased_by = NULL
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM head
        WHERE (SELECT h.is_draining FROM webhook_health h WHERE h.webhook_id = head.webhook_id)
            OR attempts = 0 AND (SELECT w.is_metered FROM webhooks w WHERE w.id = head.webhook_id)
    ))
    RETURNING 1
)
SELECT (SELECT count(*) FROM set_waiting), set_config('synchronous_commit', 'off', true)"
);

const SET_WAITING_LOOKS_AT: i64 = set_waiting_looks_at!();

const CLAIM_WAITING: &str = concat!(
    "-- claim_waiting
WITH chosen AS MATERIALIZED (
    SELECT d.ctid
    FROM unnest($1::uuid[], $2::bigint[]) AS w (webhook_id, room)
    CROSS JOIN LATERAL (
        SELECT ctid FROM deliveries
        WHERE webhook_id = w.webhook_id AND due_at IS NULL
        ORDER BY accepted_at LIMIT w.room FOR UPDATE SKIP LOCKED
    ) d
), claimed AS (
    UPDATE deliveries SET due_at = $4, leased_by = $3 WHERE ctid = ANY (ARRAY(SELECT ctid FROM chosen))
    RETURNING webhook_id, attempts, is_resend, tenant_id, event_id, event_day
)
SELECT c.webhook_id, c.attempts, c.is_resend, ",
    event_columns!(),
    "
FROM claimed c JOIN events e ON e.tenant_id = c.tenant_id AND e.id = c.event_id AND e.day = c.event_day
ORDER BY e.accepted_at"
);

// Steps from webhook to webhook through the index instead of reading every row of each.
const WAITING_WEBHOOKS: &str = "-- waiting_webhooks
WITH RECURSIVE step AS (
    (SELECT webhook_id FROM deliveries WHERE due_at IS NULL AND webhook_id > $1 ORDER BY webhook_id LIMIT 1)
    UNION ALL
    SELECT (SELECT d.webhook_id FROM deliveries d WHERE d.due_at IS NULL AND d.webhook_id > step.webhook_id
            ORDER BY d.webhook_id LIMIT 1)
    FROM step WHERE step.webhook_id IS NOT NULL
)
SELECT s.webhook_id, w.concurrency, w.paused_at IS NOT NULL,
    coalesce(w.is_metered OR h.is_draining, w.is_metered, false),
    coalesce(w.rate_limit IS NOT NULL OR h.is_draining, w.rate_limit IS NOT NULL)
FROM (SELECT webhook_id FROM step WHERE webhook_id IS NOT NULL LIMIT $2) s
LEFT JOIN webhooks w ON w.id = s.webhook_id LEFT JOIN webhook_health h ON h.webhook_id = s.webhook_id
ORDER BY s.webhook_id";

// A delivery whose event has left with its partition can never be made.
const DROP_ORPHANS: &str = "-- drop_orphaned_deliveries
DELETE FROM deliveries d WHERE d.event_day < $1";

const RESUME_UNSETTLED: &str = "-- resume_unsettled
INSERT INTO deliveries
    (accepted_at, due_at, event_day, attempts, tenant_id, webhook_id, event_id, sequence, ordering_key)
SELECT g.accepted_at, g.due_at, g.event_day, 0, g.tenant_id, g.webhook_id, g.event_id, g.sequence, g.ordering_key
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::date[], $5::timestamptz[], $6::bigint[], $7::text[],
    $8::timestamptz[]) AS g (tenant_id, webhook_id, event_id, event_day, accepted_at, sequence, ordering_key, due_at)
WHERE NOT EXISTS (
    SELECT FROM delivery_attempts a
    WHERE a.webhook_id = g.webhook_id AND a.event_id = g.event_id
        AND a.started_at >= g.accepted_at - interval '1 hour'
)
ON CONFLICT DO NOTHING";

const CLOSE_BATCH: &str = "-- close_batch
DELETE FROM open_batches WHERE id = $1 AND leased_by = $2";

const EXTEND_LEASES: &str = "-- extend_leases
UPDATE deliveries d SET due_at = g.until
FROM unnest($1::uuid[], $2::text[], $3::date[], $4::timestamptz[]) AS g (webhook_id, event_id, event_day, until)
WHERE d.webhook_id = g.webhook_id AND d.event_id = g.event_id AND d.event_day = g.event_day AND d.leased_by = $5";

const RELEASE_DELIVERIES: &str = "-- release_deliveries
UPDATE deliveries SET due_at = $2, leased_by = NULL WHERE leased_by = $1 AND due_at IS NOT NULL";

impl Store {
    /// Takes on due deliveries, including those whose holder went silent: at most `limit`, and of one webhook at most
    /// `per_webhook`, the longest due first.
    pub async fn claim_due(
        &self,
        now: DateTime<Utc>,
        limit: usize,
        per_webhook: usize,
        lease: Lease,
    ) -> Result<ClaimedDue, StoreError> {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let client = self.connection().await?;
        let statement = client.prepare_cached(CLAIM_DUE).await?;
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&now, &count(limit), &lease.holder, &lease.until, &count(per_webhook)];
        let rows = client.query(&statement, &parameters).await?;
        let total = |column: &str| rows.first().map_or(0, |row| row.get::<_, i64>(column));
        let claimed = rows.iter().filter(|row| row.get::<_, Option<Uuid>>("webhook_id").is_some());
        Ok(ClaimedDue {
            deliveries: read_all_claimed(claimed),
            more: total("looked_at") == CLAIM_LOOKS_AT,
            set_waiting: total("set_waiting") > 0,
        })
    }

    /// Sets due deliveries of a backlog to wait for their webhook's gate, a few of the longest due. There may be more of it
    /// unless it came upon anything else, which is for [`Store::claim_due`].
    pub async fn set_waiting(&self, now: DateTime<Utc>) -> Result<ClaimedDue, StoreError> {
        let client = self.connection().await?;
        let row = client.query_one(&client.prepare_cached(SET_WAITING).await?, &[&now]).await?;
        let count: i64 = row.get(0);
        Ok(ClaimedDue { deliveries: Vec::new(), more: count == SET_WAITING_LOOKS_AT, set_waiting: count > 0 })
    }

    /// Takes on deliveries that wait for their webhook's gate, the oldest first, up to a number for each webhook.
    pub async fn claim_waiting(
        &self,
        rooms: &[(WebhookId, usize)],
        lease: Lease,
    ) -> Result<Vec<ClaimedDelivery>, StoreError> {
        let ids: Vec<Uuid> = rooms.iter().map(|(id, _)| id.0).collect();
        let counts: Vec<i64> =
            rooms.iter().map(|(_, room)| i64::try_from(*room).unwrap_or(i64::MAX)).collect();
        let client = self.connection().await?;
        let statement = client.prepare_cached(CLAIM_WAITING).await?;
        let rows = client.query(&statement, &[&ids, &counts, &lease.holder, &lease.until]).await?;
        Ok(read_all_claimed(&rows))
    }

    /// Webhooks that have deliveries waiting for their gate, in the order of their ids, after `after`.
    pub async fn waiting_webhooks(
        &self,
        after: Option<WebhookId>,
        limit: usize,
    ) -> Result<Vec<WaitingWebhook>, StoreError> {
        let after = after.map_or(Uuid::nil(), |id| id.0);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let client = self.connection().await?;
        let rows = client.query(&client.prepare_cached(WAITING_WEBHOOKS).await?, &[&after, &limit]).await?;
        let read = |row: &Row| WaitingWebhook {
            id: WebhookId(row.get(0)),
            concurrency: row.get::<_, Option<i32>>(1).and_then(|count| u32::try_from(count).ok()),
            is_paused: row.get(2),
            is_metered: row.get(3),
            is_paced: row.get(4),
        };
        Ok(rows.iter().map(read).collect())
    }

    /// Makes every delivery of a batch that was taken over due, at once or when its event says, except those that have an attempt on record or
    /// are parked already, and closes the batch: one transaction.
    pub async fn resume_batch(
        &self,
        batch: BatchId,
        holder: Uuid,
        deliveries: &[(&Webhook, &StoredEvent)],
        now: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        let tenant_ids: Vec<Uuid> = deliveries.iter().map(|(_, stored)| stored.event.tenant_id.0).collect();
        let webhook_ids: Vec<Uuid> = deliveries.iter().map(|(webhook, _)| webhook.id.0).collect();
        let event_ids: Vec<&str> = deliveries.iter().map(|(_, stored)| stored.event.id.as_str()).collect();
        let days: Vec<NaiveDate> = deliveries.iter().map(|(_, stored)| stored.day).collect();
        let accepted_at: Vec<DateTime<Utc>> =
            deliveries.iter().map(|(_, stored)| stored.accepted_at).collect();
        let order = |(webhook, stored): &(&Webhook, &StoredEvent)| {
            let has_place = webhook.gate.is_ordered && stored.put_off_until().is_none();
            has_place.then(|| (stored.sequence(), stored.event.order().to_owned())).unzip()
        };
        let (sequences, keys): (Vec<Option<i64>>, Vec<Option<String>>) = deliveries.iter().map(order).unzip();
        let due_at: Vec<DateTime<Utc>> =
            deliveries.iter().map(|(_, stored)| stored.put_off_until().unwrap_or(now).max(now)).collect();
        let mut client = self.connection().await?;
        let transaction = client.transaction().await?;
        let statement = transaction.prepare_cached(CLOSE_BATCH).await?;
        if transaction.execute(&statement, &[&batch, &holder]).await? == 0 {
            return Ok(0); // somebody else has taken it meanwhile
        }
        let statement = transaction.prepare_cached(RESUME_UNSETTLED).await?;
        let resumed = transaction
            .execute(
                &statement,
                &[&tenant_ids, &webhook_ids, &event_ids, &days, &accepted_at, &sequences, &keys, &due_at],
            )
            .await?;
        transaction.commit().await?;
        Ok(resumed)
    }

    /// Keeps deliveries that `holder` has just taken on leased until later.
    pub async fn extend_leases(
        &self,
        deliveries: &[(DeliveryKey, DateTime<Utc>)],
        holder: Uuid,
    ) -> Result<(), StoreError> {
        let webhooks: Vec<Uuid> = deliveries.iter().map(|(key, _)| key.webhook_id.0).collect();
        let events: Vec<&str> = deliveries.iter().map(|(key, _)| key.event_id.as_str()).collect();
        let days: Vec<NaiveDate> = deliveries.iter().map(|(key, _)| key.event_day).collect();
        let until: Vec<DateTime<Utc>> = deliveries.iter().map(|(_, until)| *until).collect();
        let client = self.connection().await?;
        let statement = client.prepare_cached(EXTEND_LEASES).await?;
        client.execute(&statement, &[&webhooks, &events, &days, &until, &holder]).await?;
        Ok(())
    }

    /// Lets go of every delivery of a dispatcher that is leaving.
    pub async fn release_deliveries(&self, holder: Uuid, now: DateTime<Utc>) -> Result<u64, StoreError> {
        let client = self.connection().await?;
        let statement = client.prepare_cached(RELEASE_DELIVERIES).await?;
        Ok(client.execute(&statement, &[&holder, &now]).await?)
    }

    /// Drops deliveries of events older than `first_day`, which are about to leave with their partition.
    pub async fn drop_orphaned_deliveries(&self, first_day: NaiveDate) -> Result<u64, StoreError> {
        let client = self.connection().await?;
        Ok(client.execute(&client.prepare_cached(DROP_ORPHANS).await?, &[&first_day]).await?)
    }
}

/// One that only a later version can read must not hold up the others; it comes back when its lease runs out.
pub(crate) fn read_all_claimed<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Vec<ClaimedDelivery> {
    let pass_over = |error: &StoreError| error!(%error, "a delivery is passed over");
    rows.into_iter().filter_map(|row| read_claimed(row).inspect_err(pass_over).ok()).collect()
}

fn read_claimed(row: &Row) -> Result<ClaimedDelivery, StoreError> {
    let attempts: i32 = row.get("attempts");
    Ok(ClaimedDelivery {
        webhook_id: WebhookId(row.get("webhook_id")),
        tenant_id: TenantId(row.get("tenant_id")),
        event: read_event(row)?,
        attempts: u32::try_from(attempts).unwrap_or_default(),
        is_resend: row.get("is_resend"),
    })
}
