use std::collections::HashSet;

use chrono::{DateTime, NaiveDate, Utc};
use domain::{TenantId, WebhookId};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::deliveries::{ClaimedDelivery, DeliveryKey, read_all_claimed};
use crate::events::event_columns;
use crate::{BatchId, Lease, Store, StoreError};

/// A delivery that has a place in an order.
#[derive(Debug, Clone)]
pub struct OrderedDelivery {
    /// The delivery.
    pub key: DeliveryKey,
    /// The tenant of webhook and event.
    pub tenant_id: TenantId,
    /// When the event was handed over.
    pub accepted_at: DateTime<Utc>,
    /// Its place among those of its ordering key.
    pub sequence: i64,
    /// What it is kept in order by.
    pub ordering_key: String,
}

/// What a claim at gates that hold for all dispatchers together came to.
#[derive(Debug, Clone, Default)]
pub struct ClaimedMetered {
    /// Those taken on.
    pub deliveries: Vec<ClaimedDelivery>,
    /// Whether every webhook that was decided for has let through as many as its rate allows now: only time lets more go.
    pub is_held_by_rate: bool,
}

// The batch may have been taken over meanwhile: then its deliveries are placed, perhaps even made.
const PLACE_IN_ORDER: &str = "-- place_in_order
WITH held AS (
    UPDATE open_batches SET is_unplaced = false WHERE id = $1 AND leased_by = $2 RETURNING id
), placed AS (
    INSERT INTO deliveries
        (attempts, tenant_id, webhook_id, event_id, event_day, accepted_at, sequence, ordering_key)
    SELECT 0, g.* FROM held CROSS JOIN unnest($3::uuid[], $4::uuid[], $5::text[], $6::date[], $7::timestamptz[],
        $8::bigint[], $9::text[]) AS g
    ON CONFLICT DO NOTHING
)
SELECT id FROM held";

const MAKE_GATES: &str = "-- make_gates
INSERT INTO webhook_health (webhook_id, updated_at, consecutive_failures, times_opened)
SELECT id, $2, 0, 0 FROM webhooks WHERE id = ANY($1) ORDER BY id
ON CONFLICT DO NOTHING";

// One dispatcher at a time decides for a webhook. The decision is a statement of its own, which sees what the one before it
// committed.
const LOCK_GATES: &str = "-- lock_gates
SELECT webhook_id FROM webhook_health WHERE webhook_id = ANY($1) ORDER BY webhook_id FOR UPDATE SKIP LOCKED";

// A rate is kept as the moment from which the next delivery is allowed; what was not used is forgotten after 100 ms, so a
// burst is at most what 100 ms allow, and one. In an order, only the first delivery of each ordering key may be taken, and
// none that was accepted after events whose deliveries may still be missing here.
const CLAIM_METERED: &str = concat!(
    "-- claim_metered
WITH RECURSIVE gate AS MATERIALIZED (
    SELECT g.webhook_id, g.room, w.tenant_id, w.concurrency, w.is_ordered, h.is_draining, h.key_after,
        greatest(h.next_at, $3::timestamptz - interval '100 milliseconds') AS from_at,
        least(w.rate_limit, CASE WHEN h.is_draining AND (w.drain_rate IS NOT NULL OR w.rate_limit IS NULL)
            THEN coalesce(w.drain_rate, $4::integer) END)::float8 AS rate
    FROM unnest($1::uuid[], $2::bigint[]) AS g (webhook_id, room)
    JOIN webhooks w ON w.id = g.webhook_id
    JOIN webhook_health h ON h.webhook_id = g.webhook_id
    WHERE w.paused_at IS NULL
), rated AS (
    SELECT gate.*, CASE WHEN rate IS NULL THEN NULL WHEN from_at > $3::timestamptz THEN 0
        ELSE floor(extract(epoch FROM $3::timestamptz - from_at) * rate)::bigint + 1 END AS allowed_by_rate
    FROM gate
), allowed AS MATERIALIZED (
    SELECT rated.*, greatest(0, least(
        room,
        CASE WHEN concurrency IS NOT NULL THEN concurrency - (
            SELECT count(*) FROM deliveries d
            WHERE d.webhook_id = rated.webhook_id AND d.leased_by IS NOT NULL AND d.due_at > $3::timestamptz) END,
        allowed_by_rate
    )) AS places,
    CASE WHEN is_ordered THEN (
        SELECT min(b.id) FROM open_batches b
        WHERE b.is_unplaced AND EXISTS (
            SELECT FROM events e WHERE e.day = b.day AND e.batch_id = b.id AND e.tenant_id = rated.tenant_id)
    ) END AS unplaced
    FROM rated
), head AS (
    SELECT a.webhook_id, 1 AS seen, a.unplaced, f.*
    FROM allowed a CROSS JOIN LATERAL (
        SELECT d.ordering_key, d.sequence, d.ctid, d.due_at FROM deliveries d
        WHERE d.webhook_id = a.webhook_id AND d.ordering_key > coalesce(a.key_after, '')
        ORDER BY d.ordering_key, d.sequence LIMIT 1
    ) f
    WHERE a.is_ordered AND a.places > 0
    UNION ALL
    SELECT head.webhook_id, head.seen + 1, head.unplaced, f.*
    FROM head CROSS JOIN LATERAL (
        SELECT d.ordering_key, d.sequence, d.ctid, d.due_at FROM deliveries d
        WHERE d.webhook_id = head.webhook_id AND d.ordering_key > head.ordering_key
        ORDER BY d.ordering_key, d.sequence LIMIT 1
    ) f
    WHERE head.seen < $7::integer
), candidate AS (
    SELECT a.webhook_id, d.ctid, row_number() OVER () AS place
    FROM allowed a CROSS JOIN LATERAL (
        SELECT ctid FROM deliveries
        WHERE webhook_id = a.webhook_id AND due_at IS NULL ORDER BY accepted_at LIMIT a.places
    ) d
    WHERE NOT a.is_ordered AND a.places > 0
    UNION ALL
    SELECT webhook_id, ctid, row_number() OVER (PARTITION BY webhook_id ORDER BY sequence)
    FROM head WHERE due_at IS NULL AND sequence >> 20 < coalesce(unplaced, 1::bigint << 43)
    UNION ALL
    -- What was parked before the webhook was told to keep order.
    SELECT a.webhook_id, d.ctid, 0
    FROM allowed a CROSS JOIN LATERAL (
        SELECT ctid FROM deliveries
        WHERE webhook_id = a.webhook_id AND due_at IS NULL AND ordering_key IS NULL ORDER BY accepted_at LIMIT a.places
    ) d
    WHERE a.is_ordered AND a.places > 0
), chosen AS MATERIALIZED (
    SELECT c.webhook_id, c.ctid FROM (
        SELECT *, row_number() OVER (PARTITION BY webhook_id ORDER BY place) AS turn FROM candidate
    ) c JOIN allowed a USING (webhook_id)
    WHERE c.turn <= a.places
), claimed AS (
    UPDATE deliveries SET due_at = $6, leased_by = $5
    -- A plain IS NULL would be looked up in the index of what waits, and the whole backlog read.
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM chosen)) AND coalesce(due_at, 'infinity') = 'infinity'
    RETURNING webhook_id, attempts, is_resend, tenant_id, event_id, event_day
), result AS (
    SELECT a.webhook_id, a.rate, a.allowed_by_rate, a.from_at, a.is_draining, a.key_after,
        (SELECT count(*) FROM chosen c WHERE c.webhook_id = a.webhook_id) AS taken,
        (SELECT max(ordering_key) FROM head WHERE head.webhook_id = a.webhook_id AND head.seen = $7::integer) AS next_key,
        a.is_draining AND a.places > 0 AND NOT EXISTS (
            SELECT FROM deliveries d WHERE d.webhook_id = a.webhook_id AND d.due_at IS NULL
                AND d.ctid NOT IN (SELECT c.ctid FROM chosen c WHERE c.webhook_id = a.webhook_id)
        ) AS is_drained
    FROM allowed a
), kept AS (
    UPDATE webhook_health h SET
        next_at = CASE WHEN r.rate IS NULL OR r.taken = 0 THEN h.next_at
            ELSE r.from_at + make_interval(secs => r.taken / r.rate) END,
        key_after = r.next_key,
        is_draining = h.is_draining AND NOT r.is_drained,
        updated_at = CASE WHEN r.is_drained THEN $3::timestamptz ELSE h.updated_at END
    FROM result r
    WHERE h.webhook_id = r.webhook_id
        AND ((r.rate IS NOT NULL AND r.taken > 0) OR r.is_drained OR r.next_key IS DISTINCT FROM r.key_after)
)
SELECT (SELECT bool_and(coalesce(taken = allowed_by_rate, false)) FROM result) AS is_held_by_rate,
    c.webhook_id, c.attempts, c.is_resend, ",
    event_columns!(),
    "
FROM claimed c JOIN events e ON e.tenant_id = c.tenant_id AND e.id = c.event_id AND e.day = c.event_day
ORDER BY e.batch_id, e.position"
);

/// Ordering keys of one webhook looked at by one claim; the next one goes on from there.
const KEYS_LOOKED_AT: i32 = 2_000;

impl Store {
    /// Puts the deliveries of a batch that must keep their order where they wait for their turn. Those of later batches wait
    /// for this. Says whether the batch was still the holder's; if not, another dispatcher has taken care of all of it.
    pub async fn place_in_order(
        &self,
        batch: BatchId,
        holder: Uuid,
        deliveries: &[OrderedDelivery],
    ) -> Result<bool, StoreError> {
        let tenants: Vec<Uuid> = deliveries.iter().map(|d| d.tenant_id.0).collect();
        let webhooks: Vec<Uuid> = deliveries.iter().map(|d| d.key.webhook_id.0).collect();
        let events: Vec<&str> = deliveries.iter().map(|d| d.key.event_id.as_str()).collect();
        let days: Vec<NaiveDate> = deliveries.iter().map(|d| d.key.event_day).collect();
        let accepted_at: Vec<DateTime<Utc>> = deliveries.iter().map(|d| d.accepted_at).collect();
        let sequences: Vec<i64> = deliveries.iter().map(|d| d.sequence).collect();
        let keys: Vec<&str> = deliveries.iter().map(|d| d.ordering_key.as_str()).collect();
        let client = self.connection().await?;
        let statement = client.prepare_cached(PLACE_IN_ORDER).await?;
        let parameters: [&(dyn ToSql + Sync); 9] =
            [&batch, &holder, &tenants, &webhooks, &events, &days, &accepted_at, &sequences, &keys];
        Ok(client.query_opt(&statement, &parameters).await?.is_some())
    }

    /// Takes on deliveries that wait for gates which hold for all dispatchers together: up to a number for each webhook, as
    /// many as its rate, its concurrency and its order allow now, the oldest first. A webhook that another dispatcher is
    /// deciding for at this moment is left to it.
    pub async fn claim_metered(
        &self,
        rooms: &[(WebhookId, usize)],
        drain_rate: u32,
        now: DateTime<Utc>,
        lease: Lease,
    ) -> Result<ClaimedMetered, StoreError> {
        let ids: Vec<Uuid> = rooms.iter().map(|(id, _)| id.0).collect();
        let mut client = self.connection().await?;
        let transaction = client.transaction().await?;
        transaction.execute(&transaction.prepare_cached(MAKE_GATES).await?, &[&ids, &now]).await?;
        let locked = transaction.query(&transaction.prepare_cached(LOCK_GATES).await?, &[&ids]).await?;
        let locked: HashSet<Uuid> = locked.iter().map(|row| row.get(0)).collect();
        if locked.is_empty() {
            return Ok(ClaimedMetered::default());
        }
        let (ids, rooms): (Vec<Uuid>, Vec<i64>) = rooms
            .iter()
            .filter(|(id, _)| locked.contains(&id.0))
            .map(|(id, room)| (id.0, i64::try_from(*room).unwrap_or(i64::MAX)))
            .unzip();
        let drain_rate = i32::try_from(drain_rate).unwrap_or(i32::MAX);
        let statement = transaction.prepare_cached(CLAIM_METERED).await?;
        let parameters: [&(dyn ToSql + Sync); 7] =
            [&ids, &rooms, &now, &drain_rate, &lease.holder, &lease.until, &KEYS_LOOKED_AT];
        let rows = transaction.query(&statement, &parameters).await?;
        transaction.commit().await?;
        Ok(ClaimedMetered {
            is_held_by_rate: rows.first().is_some_and(|row| row.get("is_held_by_rate")),
            deliveries: read_all_claimed(&rows),
        })
    }
}
