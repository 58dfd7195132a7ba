use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, Utc};
use domain::{EventType, SessionId, Tag, TenantId};
use tokio::time::{Instant, sleep};
use tokio_postgres::types::ToSql;

use crate::events::{StoredEvent, event_columns, read_event};
use crate::{BatchId, Store, StoreError};

/// Events looked at by one query, where not all of them are wanted.
const LOOKS_AT: i64 = 5_000;
/// From so many bytes of bodies on a page is full.
const FULL_FROM_BYTES: i64 = 4 * 1024 * 1024;
/// How often it is looked again whether hand-overs have ended.
const POLL: Duration = Duration::from_millis(3);

/// A place in the order in which a tenant's events were accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventCursor {
    /// The partition of the event that is there.
    pub day: NaiveDate,
    /// Its hand-over, and its place there.
    pub place: (BatchId, i32),
}

/// Which events are wanted; `None` means any.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Of this type.
    pub event_type: Option<EventType>,
    /// Of this session.
    pub session_id: Option<SessionId>,
    /// With this tag.
    pub tag: Option<Tag>,
    /// Handed over at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Handed over before this time.
    pub to: Option<DateTime<Utc>>,
}

/// Events in the order of their acceptance.
#[derive(Debug, Clone)]
pub struct EventPage {
    /// The events.
    pub events: Vec<StoredEvent>,
    /// Where the next page begins; where there was nothing to look at, where this one began.
    pub next: Option<EventCursor>,
    /// Whether there may be more at this moment.
    pub has_more: bool,
}

const NEWEST_BATCH: &str = "-- newest_batch
SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM open_batches_id_seq";

/// A hand-over holds this lock from before its batch has a number until its events are visible.
macro_rules! batch_writers {
    () => {
        "FROM pg_locks
WHERE locktype = 'relation' AND relation = 'open_batches'::regclass AND mode = 'RowExclusiveLock'
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    };
}

const BATCH_WRITERS: &str =
    concat!("-- batch_writers\nSELECT coalesce(array_agg(virtualtransaction), '{}') ", batch_writers!());

const STILL_WRITING: &str = concat!(
    "-- batch_writers_left\nSELECT EXISTS (SELECT ",
    batch_writers!(),
    " AND virtualtransaction = ANY ($1::text[]))"
);

/// The planner is told not to sort, or it reads all events of the tenant instead of following the index from day to day: 230 ms
/// instead of 3, with 10,000 events in 30 days.
const READ_IN_ORDER: &str = "-- read_in_order
SET LOCAL enable_sort = off";

// Batches are compared together with their tenant, so that only the index of the tenant's batches fits; and it is used only where
// its condition is said (`migrations/0025_event_feed_index.sql`).
const EVENTS_AFTER: &str = concat!(
    "-- events_after
WITH looked_at AS MATERIALIZED (
    SELECT ",
    event_columns!(),
    ",
        ($7::text IS NULL OR e.type = $7) AND ($8::text IS NULL OR e.session_id = $8)
            AND ($13::text IS NULL OR $13 = ANY (e.tags))
            AND ($9::timestamptz IS NULL OR e.accepted_at >= $9) AND ($10::timestamptz IS NULL OR e.accepted_at < $10)
            AS is_wanted
    FROM events e
    WHERE e.tenant_id = $1 AND e.day >= $2 AND (e.tenant_id, e.batch_id, e.position) > ($1, $3, $4)
        AND (e.tenant_id, e.batch_id) <= ($1, $5) AND e.position >= 0
    ORDER BY e.batch_id, e.position LIMIT $6
), wanted AS (
    SELECT *, sum(octet_length(body)) OVER (ORDER BY batch_id, position) - octet_length(body) AS bytes_before
    FROM looked_at WHERE is_wanted
), page AS (
    SELECT * FROM wanted WHERE bytes_before < $11 ORDER BY batch_id, position LIMIT $12
), last AS (
    SELECT day, batch_id, position FROM looked_at ORDER BY batch_id DESC, position DESC LIMIT 1
)
SELECT (SELECT count(*) FROM looked_at) AS looked_at, (SELECT count(*) FROM wanted) AS wanted,
    l.day AS last_day, l.batch_id AS last_batch, l.position AS last_position, p.*
FROM last l LEFT JOIN page p ON true ORDER BY p.batch_id, p.position"
);

impl Store {
    /// A batch up to which all hand-overs have ended, and so every event is there to be read: the newest at this moment.
    ///
    /// Batches are numbered when they begin, and end in another order. So this waits for the hand-overs that are under way, at
    /// most for `patience`: `None` when one of them took longer.
    pub async fn settled_batch(&self, patience: Duration) -> Result<Option<BatchId>, StoreError> {
        let began = Instant::now();
        let client = self.connection().await?;
        let newest: BatchId =
            client.query_one(&client.prepare_cached(NEWEST_BATCH).await?, &[]).await?.get(0);
        let row = client.query_one(&client.prepare_cached(BATCH_WRITERS).await?, &[]).await?;
        let writers: Vec<String> = row.get(0);
        if writers.is_empty() {
            return Ok(Some(newest));
        }
        let statement = client.prepare_cached(STILL_WRITING).await?;
        while client.query_one(&statement, &[&writers]).await?.get(0) {
            if began.elapsed() >= patience {
                return Ok(None);
            }
            sleep(POLL).await;
        }
        Ok(Some(newest))
    }

    /// A tenant's events after a place, up to a batch, at most `limit` of them.
    pub async fn events_after(
        &self,
        tenant: TenantId,
        after: Option<EventCursor>,
        up_to: BatchId,
        filter: &EventFilter,
        limit: i64,
    ) -> Result<EventPage, StoreError> {
        let EventFilter { event_type, session_id, tag, from, to } = filter;
        let is_filtered =
            event_type.is_some() || session_id.is_some() || tag.is_some() || from.is_some() || to.is_some();
        let looks_at = if is_filtered { LOOKS_AT } else { limit + 1 };
        let (batch, position) = after.map_or((0, 0), |cursor| cursor.place);
        let first_day = first_day(after, *from);
        let event_type = event_type.as_ref().map(EventType::as_str);
        let session_id = session_id.as_ref().map(SessionId::as_str);
        let tag = tag.as_ref().map(Tag::as_str);
        let mut client = self.of_tenant(tenant).await?;
        let transaction = client.transaction().await?;
        transaction.batch_execute(READ_IN_ORDER).await?;
        let statement = transaction.prepare_cached(EVENTS_AFTER).await?;
        let parameters: [&(dyn ToSql + Sync); 13] = [
            &tenant.0,
            &first_day,
            &batch,
            &position,
            &up_to,
            &looks_at,
            &event_type,
            &session_id,
            from,
            to,
            &FULL_FROM_BYTES,
            &limit,
            &tag,
        ];
        let rows = transaction.query(&statement, &parameters).await?;
        transaction.commit().await?;
        let Some(first) = rows.first() else {
            return Ok(EventPage { events: Vec::new(), next: after, has_more: false });
        };
        let is_event = |row: &&tokio_postgres::Row| row.get::<_, Option<BatchId>>("batch_id").is_some();
        let events: Vec<StoredEvent> =
            rows.iter().filter(is_event).map(read_event).collect::<Result<_, _>>()?;
        let count = |events: usize| i64::try_from(events).unwrap_or(i64::MAX);
        let is_cut = first.get::<_, i64>("wanted") > count(events.len());
        let next = match events.last().filter(|_| is_cut) {
            Some(last) => EventCursor { day: last.day, place: last.place },
            None => EventCursor {
                day: first.get("last_day"),
                place: (first.get("last_batch"), first.get("last_position")),
            },
        };
        let has_more = is_cut || first.get::<_, i64>("looked_at") == looks_at;
        Ok(EventPage { events, next: Some(next), has_more })
    }
}

/// The partition where events after a place begin. Around midnight a later batch can be of the day before.
fn first_day(after: Option<EventCursor>, from: Option<DateTime<Utc>>) -> NaiveDate {
    let of_cursor = after.and_then(|cursor| cursor.day.checked_sub_days(Days::new(1)));
    let of_time = from.map(|from| from.date_naive());
    of_cursor.max(of_time).unwrap_or_default()
}
