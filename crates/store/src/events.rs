use bytes::Bytes;
use chrono::{DateTime, Datelike, NaiveDate, TimeDelta, Utc};
use deadpool_postgres::GenericClient;
use domain::{Event, EventId, Tag, TenantId, TraceContext, parse_tags};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{BatchId, Lease, Store, StoreError};

/// What became of one event of a hand-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handed {
    /// It is stored; the webhooks of its tenant are at this version.
    Stored {
        /// See [`Store::webhooks_versions`].
        webhooks_version: i64,
    },
    /// The tenant has an event of this id already.
    Repeated,
    /// Nobody knows the tenant.
    UnknownTenant,
    /// The catalogue has no such type.
    UnknownType,
}

/// The result of a hand-over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandedOver {
    /// Its open batch.
    pub batch: BatchId,
    /// The partition of its events.
    pub day: NaiveDate,
    /// What became of each event, in the order they were given.
    pub events: Vec<Handed>,
}

/// What [`read_event`] reads, of `events e`.
macro_rules! event_columns {
    () => {
        "e.tenant_id, e.id, e.type, e.session_id, e.ordering_key, e.occurred_at, e.accepted_at, e.day, e.batch_id, \
         e.position, e.deliver_at, e.tags, e.erased_at, e.body, e.trace"
    };
}
pub(crate) use event_columns;

/// An event as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// The event.
    pub event: Event,
    /// When it was handed over.
    pub accepted_at: DateTime<Utc>,
    /// Its partition.
    pub day: NaiveDate,
    /// When its data was erased, if it was.
    pub erased_at: Option<DateTime<Utc>>,
    /// The hand-over it came in, and its place there.
    pub place: (BatchId, i32),
}

impl StoredEvent {
    /// When it is to be delivered, if that is later than when it was handed over.
    pub fn put_off_until(&self) -> Option<DateTime<Utc>> {
        self.event.put_off_until(self.accepted_at)
    }

    /// Its place in the order of acceptance: by batch, and within a batch by position.
    pub fn sequence(&self) -> i64 {
        sequence(self.place)
    }
}

/// A batch has far fewer events than this leaves room for.
const POSITION_BITS: u32 = 20;

/// See [`StoredEvent::sequence`].
pub fn sequence((batch, position): (BatchId, i32)) -> i64 {
    (batch << POSITION_BITS) | i64::from(position)
}

// One statement is one transaction and one round trip. A repeat within the day meets the primary key; one across
// midnight is looked for in the neighbouring partitions.
macro_rules! hand_over {
    ($name:literal, $more:literal) => {
        concat!(
            "-- ",
            $name,
            "
WITH given AS MATERIALIZED (
    SELECT g.*, t.id IS NOT NULL AS tenant_known, y.name IS NOT NULL AS type_known, t.webhooks_version
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::bytea[], $11::text[],
        $13::timestamptz[], $14::text[], $15::bytea[]) WITH ORDINALITY
        AS g (tenant_id, id, type, session_id, occurred_at, body, ordering_key, deliver_at, tags, trace, place)
    LEFT JOIN tenants t ON t.id = g.tenant_id
    LEFT JOIN event_types y ON y.name = g.type
), batch AS (
    INSERT INTO open_batches (day, leased_by, leased_until, is_unplaced) VALUES ($7, $8, $9, $12) RETURNING id
), stored AS (
    INSERT INTO events (batch_id, occurred_at, accepted_at, day, tenant_id, id, type, session_id, body, ordering_key,
        position, deliver_at, tags, trace)
    SELECT batch.id, g.occurred_at, $10, $7, g.tenant_id, g.id, g.type, g.session_id, g.body, g.ordering_key, g.place,
        g.deliver_at, string_to_array(g.tags, E'\\x1f'), g.trace
    FROM given g CROSS JOIN batch
    WHERE g.tenant_known AND g.type_known
        AND NOT EXISTS (SELECT FROM events e WHERE e.tenant_id = g.tenant_id AND e.id = g.id AND e.day = $7 - 1)
        AND NOT EXISTS (SELECT FROM events e WHERE e.tenant_id = g.tenant_id AND e.id = g.id AND e.day = $7 + 1)
    ON CONFLICT DO NOTHING
    RETURNING position
)",
            $more,
            "
SELECT batch.id, g.tenant_known, g.type_known, g.webhooks_version, g.place::integer IN (SELECT position FROM stored)
FROM given g CROSS JOIN batch
ORDER BY g.place"
        )
    };
}

const HAND_OVER: &str = hand_over!("hand_over", "");

/// Where an event has tags. Others need not pay for it.
const HAND_OVER_TAGGED: &str = hand_over!(
    "hand_over_tagged",
    ", tagged AS (
    INSERT INTO event_tags (tenant_id, tag, event_day, event_id)
    SELECT g.tenant_id, t.tag, $7, g.id
    FROM given g CROSS JOIN LATERAL unnest(string_to_array(g.tags, E'\\x1f')) AS t (tag)
    WHERE g.place::integer IN (SELECT position FROM stored)
    ON CONFLICT DO NOTHING
)"
);

/// Between tags: no tag has it.
const TAG_SEPARATOR: &str = "\u{1f}";

/// Serialises hand-overs around midnight, where two partitions could each take the same event.
const MIDNIGHT_LOCK: &str = "-- midnight_lock
SELECT pg_advisory_xact_lock(7235419183)";

/// How far dispatchers' clocks may be apart for the lock above to be taken by both.
const MIDNIGHT_WINDOW: TimeDelta = TimeDelta::minutes(5);

const GET_EVENT: &str = concat!(
    "-- get_event
SELECT ",
    event_columns!(),
    " FROM events e WHERE e.tenant_id = $1 AND e.id = $2 ORDER BY e.day DESC LIMIT 1"
);

impl Store {
    /// Stores events, once each, and opens a batch for them, in one transaction. `now` decides their partition.
    ///
    /// `in_order` says that what is accepted after them waits until [`Store::place_in_order`] was called for the batch.
    pub async fn hand_over(
        &self,
        events: &[&Event],
        now: DateTime<Utc>,
        lease: Lease,
        in_order: bool,
    ) -> Result<HandedOver, StoreError> {
        let day = now.date_naive();
        self.note_sessions(events, now).await?;
        let mut client = self.connection().await?;
        let rows = if is_near_midnight(now) {
            let transaction = client.transaction().await?;
            transaction.execute(&transaction.prepare_cached(MIDNIGHT_LOCK).await?, &[]).await?;
            let rows = query_hand_over(&transaction, events, now, lease, in_order).await?;
            transaction.commit().await?;
            rows
        } else {
            query_hand_over(&client, events, now, lease, in_order).await?
        };
        let batch = rows.first().map(|row| row.get(0)).unwrap_or_default();
        Ok(HandedOver { batch, day, events: rows.iter().map(read_handed).collect() })
    }

    /// One event, if it was handed over and is still kept.
    pub async fn event(&self, tenant: TenantId, id: &EventId) -> Result<Option<StoredEvent>, StoreError> {
        let client = self.of_tenant(tenant).await?;
        let row = client.query_opt(GET_EVENT, &[&tenant.0, &id.as_str()]).await?;
        row.as_ref().map(read_event).transpose()
    }
}

async fn query_hand_over(
    client: &impl GenericClient,
    events: &[&Event],
    now: DateTime<Utc>,
    lease: Lease,
    in_order: bool,
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let tenant_ids: Vec<Uuid> = events.iter().map(|event| event.tenant_id.0).collect();
    let ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
    let types: Vec<&str> = events.iter().map(|event| event.event_type.as_str()).collect();
    let session_ids: Vec<Option<&str>> =
        events.iter().map(|event| event.session_id.as_ref().map(domain::SessionId::as_str)).collect();
    let occurred_at: Vec<DateTime<Utc>> = events.iter().map(|event| event.occurred_at).collect();
    let ordering_keys: Vec<Option<&str>> =
        events.iter().map(|event| event.ordering_key.as_ref().map(domain::OrderingKey::as_str)).collect();
    let deliver_at: Vec<Option<DateTime<Utc>>> = events.iter().map(|event| event.deliver_at).collect();
    let has_tags = events.iter().any(|event| !event.tags.is_empty());
    let tags: Vec<Option<String>> = events.iter().map(|event| join_tags(&event.tags)).collect();
    let traces: Vec<Option<Vec<u8>>> = events.iter().map(|event| stored_trace(event)).collect();
    let bodies: Vec<&[u8]> = events.iter().map(|event| &event.body[..]).collect();
    client
        .query(
            &client.prepare_cached(if has_tags { HAND_OVER_TAGGED } else { HAND_OVER }).await?,
            &[
                &tenant_ids,
                &ids,
                &types,
                &session_ids,
                &occurred_at,
                &bodies,
                &now.date_naive(),
                &lease.holder,
                &lease.until,
                &now,
                &ordering_keys,
                &in_order,
                &deliver_at,
                &tags,
                &traces,
            ],
        )
        .await
}

/// Only where it will be needed: for retries of events whose trace is kept.
fn stored_trace(event: &Event) -> Option<Vec<u8>> {
    event.trace.as_ref().filter(|trace| trace.is_sampled).map(|trace| trace.to_bytes())
}

fn join_tags(tags: &[Tag]) -> Option<String> {
    let tags: Vec<&str> = tags.iter().map(Tag::as_str).collect();
    (!tags.is_empty()).then(|| tags.join(TAG_SEPARATOR))
}

fn is_near_midnight(now: DateTime<Utc>) -> bool {
    (now - MIDNIGHT_WINDOW).day() != (now + MIDNIGHT_WINDOW).day()
}

fn read_handed(row: &Row) -> Handed {
    let (tenant_known, type_known, stored): (bool, bool, bool) = (row.get(1), row.get(2), row.get(4));
    match (tenant_known, type_known, stored) {
        (false, _, _) => Handed::UnknownTenant,
        (true, false, _) => Handed::UnknownType,
        (true, true, true) => Handed::Stored { webhooks_version: row.get(3) },
        (true, true, false) => Handed::Repeated,
    }
}

/// Reads a row with the columns above.
pub(crate) fn read_event(row: &Row) -> Result<StoredEvent, StoreError> {
    let parse = || {
        let session_id: Option<&str> = row.get("session_id");
        let ordering_key: Option<&str> = row.get("ordering_key");
        let trace: Option<&[u8]> = row.get("trace");
        let tags: Option<Vec<String>> = row.get("tags");
        Ok(Event {
            tenant_id: TenantId(row.get("tenant_id")),
            id: row.get::<_, &str>("id").parse()?,
            event_type: row.get::<_, &str>("type").parse()?,
            occurred_at: row.get("occurred_at"),
            session_id: session_id.map(str::parse).transpose()?,
            ordering_key: ordering_key.map(str::parse).transpose()?,
            trace: trace.and_then(TraceContext::from_bytes).map(Box::new),
            deliver_at: row.get("deliver_at"),
            tags: parse_tags(&tags.unwrap_or_default())?,
            body: Bytes::from(row.get::<_, Vec<u8>>("body")),
        })
    };
    let event = parse().map_err(StoreError::unreadable("events"))?;
    let place = (row.get("batch_id"), row.get("position"));
    let (accepted_at, erased_at) = (row.get("accepted_at"), row.get("erased_at"));
    Ok(StoredEvent { event, accepted_at, day: row.get("day"), erased_at, place })
}
