//! Takes events over: stored once each, in an open batch that is leased.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Datelike, NaiveDate, TimeDelta, Utc};
use deadpool_postgres::GenericClient;
use domain::{Event, Tag};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::error::is_duplicate;
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

// One statement is one transaction and one round trip. Tenants and types are looked up once each, however many events have them;
// arrays of numbers and of booleans are read at a place at once. A repeat within the day meets the primary key; one across midnight is
// looked for in the partition of the day before, and in that of the day after if a clock that is ahead has put anything there.
// Columns are unnested beside one another where rows are selected: in FROM each is copied whole first, five times the work.
macro_rules! hand_over {
    ($name:literal, $repeats:literal, $more:literal) => {
        concat!(
            "-- ",
            $name,
            "
WITH known AS MATERIALIZED (
    SELECT ARRAY(SELECT coalesce(t.webhooks_version, -1) FROM unnest($1::uuid[]) WITH ORDINALITY AS g (id, place)
            LEFT JOIN tenants t ON t.id = g.id ORDER BY g.place) AS versions,
        ARRAY(SELECT y.name IS NOT NULL FROM unnest($2::text[]) WITH ORDINALITY AS g (name, place)
            LEFT JOIN event_types y ON y.name = g.name ORDER BY g.place) AS types,
        (SELECT true FROM events e WHERE e.day = $14::date + 1 LIMIT 1) AS has_next_day
), batch AS (
    INSERT INTO open_batches (day, leased_by, leased_until, is_unplaced) VALUES ($14, $15, $16, $17) RETURNING id
), stored AS (
    INSERT INTO events (batch_id, occurred_at, accepted_at, day, tenant_id, id, type, session_id, body, ordering_key,
        position, deliver_at, tags, trace)
    SELECT batch.id, g.occurred_at, $13, $14, ($1::uuid[])[g.tenant], g.id, ($2::text[])[g.type], g.session_id, g.body,
        g.ordering_key, g.place, g.deliver_at, string_to_array(g.tags, E'\\x1f'), g.trace
    FROM (SELECT unnest($3::integer[]) AS tenant, unnest($4::integer[]) AS type, unnest($5::text[]) AS id,
            unnest($6::text[]) AS session_id, unnest($7::timestamptz[]) AS occurred_at, unnest($8::bytea[]) AS body,
            unnest($9::text[]) AS ordering_key, unnest($10::timestamptz[]) AS deliver_at, unnest($11::text[]) AS tags,
            unnest($12::bytea[]) AS trace, generate_subscripts($3::integer[], 1) AS place) AS g
    CROSS JOIN batch CROSS JOIN known
    WHERE known.versions[g.tenant] >= 0 AND known.types[g.type]
        AND (SELECT true FROM events e
            WHERE e.tenant_id = ($1::uuid[])[g.tenant] AND e.id = g.id AND e.day = $14 - 1) IS NULL
        AND (known.has_next_day IS NULL OR (SELECT true FROM events e
            WHERE e.tenant_id = ($1::uuid[])[g.tenant] AND e.id = g.id AND e.day = $14 + 1) IS NULL)",
            $repeats,
            "
    RETURNING position
)",
            $more,
            "
SELECT batch.id, known.versions, known.types, ARRAY(SELECT position FROM stored) FROM batch CROSS JOIN known"
        )
    };
}

/// For events that are new, as nearly all are: looking first whether one is there costs a fifth of the whole. A repeat within the day
/// fails it.
const HAND_OVER: &str = hand_over!("hand_over", "", "");

/// For any events, repeats and those with tags among them.
const HAND_OVER_ANY: &str = hand_over!(
    "hand_over_any",
    "
    ON CONFLICT DO NOTHING",
    ", tagged AS (
    INSERT INTO event_tags (tenant_id, tag, event_day, event_id)
    SELECT ($1::uuid[])[g.tenant], t.tag, $14, g.id
    FROM unnest($3::integer[], $5::text[], $11::text[]) WITH ORDINALITY AS g (tenant, id, tags, place)
    CROSS JOIN LATERAL unnest(string_to_array(g.tags, E'\\x1f')) AS t (tag)
    WHERE g.place::integer IN (SELECT position FROM stored)
    ON CONFLICT DO NOTHING
)"
);

/// Repeats come together: after a dispatcher was killed, or from a service that publishes everything twice. For so long after
/// one, others are expected.
const REPEATS_EXPECTED: TimeDelta = TimeDelta::minutes(1);

/// When a hand-over last met a repeat, in milliseconds since 1970.
#[derive(Debug, Default)]
pub(crate) struct LastRepeat(AtomicI64);

impl LastRepeat {
    fn is_recent(&self, now: DateTime<Utc>) -> bool {
        let since = now.timestamp_millis() - self.0.load(Ordering::Relaxed);
        (0..REPEATS_EXPECTED.num_milliseconds()).contains(&since)
    }

    fn met(&self, now: DateTime<Utc>) {
        self.0.store(now.timestamp_millis(), Ordering::Relaxed);
    }
}

/// Between tags: no tag has it.
const TAG_SEPARATOR: &str = "\u{1f}";

/// Serialises hand-overs around midnight, where two partitions could each take the same event.
const MIDNIGHT_LOCK: &str = "-- midnight_lock
SELECT pg_advisory_xact_lock(7235419183)";

/// How far dispatchers' clocks may be apart for the lock above to be taken by both.
const MIDNIGHT_WINDOW: TimeDelta = TimeDelta::minutes(5);

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
        self.note_sessions(events, now).await?;
        let columns = Columns::of(events);
        let mut client = self.connection().await?;
        let is_near_midnight = is_near_midnight(now);
        if !columns.has_tags && !is_near_midnight && !self.last_repeat.is_recent(now) {
            let row = query_hand_over(&client, HAND_OVER, &columns, now, lease, in_order).await;
            if !row.as_ref().is_err_and(is_duplicate) {
                return Ok(columns.read(&row?, now));
            }
        }
        let row = if is_near_midnight {
            let transaction = client.transaction().await?;
            transaction.execute(&transaction.prepare_cached(MIDNIGHT_LOCK).await?, &[]).await?;
            let row = query_hand_over(&transaction, HAND_OVER_ANY, &columns, now, lease, in_order).await?;
            transaction.commit().await?;
            row
        } else {
            query_hand_over(&client, HAND_OVER_ANY, &columns, now, lease, in_order).await?
        };
        let handed = columns.read(&row, now);
        if handed.events.contains(&Handed::Repeated) {
            self.last_repeat.met(now);
        }
        Ok(handed)
    }
}

/// Events as the statement takes them: column by column, and of tenants and types the places among those there are.
struct Columns<'a> {
    tenants: Distinct<Uuid>,
    types: Distinct<&'a str>,
    ids: Vec<&'a str>,
    session_ids: Vec<Option<&'a str>>,
    occurred_at: Vec<DateTime<Utc>>,
    bodies: Vec<&'a [u8]>,
    ordering_keys: Vec<Option<&'a str>>,
    deliver_at: Vec<Option<DateTime<Utc>>>,
    tags: Vec<Option<String>>,
    has_tags: bool,
    traces: Vec<Option<Vec<u8>>>,
}

impl<'a> Columns<'a> {
    fn of(events: &[&'a Event]) -> Self {
        let tags: Vec<Option<String>> = events.iter().map(|event| join_tags(&event.tags)).collect();
        Self {
            tenants: events.iter().map(|event| event.tenant_id.0).collect(),
            types: events.iter().map(|event| event.event_type.as_str()).collect(),
            ids: events.iter().map(|event| event.id.as_str()).collect(),
            session_ids: events
                .iter()
                .map(|event| event.session_id.as_ref().map(domain::SessionId::as_str))
                .collect(),
            occurred_at: events.iter().map(|event| event.occurred_at).collect(),
            bodies: events.iter().map(|event| &event.body[..]).collect(),
            ordering_keys: events
                .iter()
                .map(|event| event.ordering_key.as_ref().map(domain::OrderingKey::as_str))
                .collect(),
            deliver_at: events.iter().map(|event| event.deliver_at).collect(),
            has_tags: tags.iter().any(Option::is_some),
            tags,
            traces: events.iter().map(|event| stored_trace(event)).collect(),
        }
    }

    fn read(&self, row: &Row, now: DateTime<Utc>) -> HandedOver {
        let (batch, versions, types, positions): (_, Vec<i64>, Vec<bool>, Vec<i32>) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let mut is_stored = vec![false; self.ids.len()];
        for place in positions.into_iter().filter_map(index) {
            is_stored[place] = true;
        }
        let tenants = self.tenants.places.iter().copied().filter_map(index);
        let types_of = self.types.places.iter().copied().filter_map(index);
        let handed = |((tenant, type_), is_stored)| match (versions[tenant], types[type_], is_stored) {
            (..0, _, _) => Handed::UnknownTenant,
            (_, false, _) => Handed::UnknownType,
            (webhooks_version, true, true) => Handed::Stored { webhooks_version },
            (_, true, false) => Handed::Repeated,
        };
        HandedOver {
            batch,
            day: now.date_naive(),
            events: tenants.zip(types_of).zip(is_stored).map(handed).collect(),
        }
    }
}

/// Values, each once, and where in these each of many is to be found, as Postgres counts: from 1.
struct Distinct<T> {
    values: Vec<T>,
    places: Vec<i32>,
}

impl<T: Copy + Eq + Hash> FromIterator<T> for Distinct<T> {
    fn from_iter<I: IntoIterator<Item = T>>(all: I) -> Self {
        let mut known: HashMap<T, i32> = HashMap::new();
        let mut values = Vec::new();
        let place = |value| {
            *known.entry(value).or_insert_with(|| {
                values.push(value);
                i32::try_from(values.len()).unwrap_or(i32::MAX)
            })
        };
        let places = all.into_iter().map(place).collect();
        Self { values, places }
    }
}

/// Where that is, as Rust counts.
fn index(place: i32) -> Option<usize> {
    usize::try_from(place).ok()?.checked_sub(1)
}

async fn query_hand_over(
    client: &impl GenericClient,
    statement: &str,
    columns: &Columns<'_>,
    now: DateTime<Utc>,
    lease: Lease,
    in_order: bool,
) -> Result<Row, tokio_postgres::Error> {
    client
        .query_one(
            &client.prepare_cached(statement).await?,
            &[
                &columns.tenants.values,
                &columns.types.values,
                &columns.tenants.places,
                &columns.types.places,
                &columns.ids,
                &columns.session_ids,
                &columns.occurred_at,
                &columns.bodies,
                &columns.ordering_keys,
                &columns.deliver_at,
                &columns.tags,
                &columns.traces,
                &now,
                &now.date_naive(),
                &lease.holder,
                &lease.until,
                &in_order,
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
