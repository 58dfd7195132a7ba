use bytes::Bytes;
use chrono::{DateTime, NaiveDate, Utc};
use domain::{Event, EventId, TenantId, TraceContext, parse_tags};
use tokio_postgres::Row;

use crate::{BatchId, Store, StoreError};

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

const GET_EVENT: &str = concat!(
    "-- get_event
SELECT ",
    event_columns!(),
    " FROM events e WHERE e.tenant_id = $1 AND e.id = $2 ORDER BY e.day DESC LIMIT 1"
);

impl Store {
    /// One event, if it was handed over and is still kept.
    pub async fn event(&self, tenant: TenantId, id: &EventId) -> Result<Option<StoredEvent>, StoreError> {
        let client = self.of_tenant(tenant).await?;
        let row = client.query_opt(GET_EVENT, &[&tenant.0, &id.as_str()]).await?;
        row.as_ref().map(read_event).transpose()
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
