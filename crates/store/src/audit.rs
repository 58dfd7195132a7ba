use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use domain::{EventData, EventId, TenantId, Webhook, WebhookId};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::deliveries::DeliveryKey;
use crate::events::{StoredEvent, read_event};
use crate::{BatchId, Pace, Store, StoreError};

/// Events that are read one after the other before their deliveries are looked at: so many, or fewer if they came in over a longer
/// time than [`STEP_TIME`] or are of more than [`TENANTS_PER_STEP`], whose webhooks are in memory meanwhile.
const EVENTS_PER_STEP: usize = 10_000;
const TENANTS_PER_STEP: usize = 1_000;
/// Several times [`AT_ONCE`], so that few attempts are read besides those of the events.
const STEP_TIME: TimeDelta = TimeDelta::seconds(5);
/// Events read by one statement: few enough that others hardly wait behind it.
const EVENTS_PER_STATEMENT: i64 = 1_000;
/// Deliveries looked at together, if an event alone does not have more: some 10 MiB.
const DELIVERIES_PER_PORTION: usize = 30_000;
/// Deliveries that one statement looks closely at.
const DELIVERIES_PER_STATEMENT: usize = 2_000;
/// Bodies read by one query: some 32 MiB at most.
pub(crate) const BODIES_PER_STEP: usize = 128;
/// Most findings that a report names; more are only counted.
const MAX_FINDINGS: usize = 1_000;
/// How far the clocks of a gateway and a dispatcher may be apart: a webhook created or changed so close to an event
/// cannot be judged by it.
const CLOCK_SLACK: TimeDelta = TimeDelta::seconds(5);

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditFinding {
    /// The delivery concerned.
    pub key: DeliveryKey,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// When its event was handed over.
    pub accepted_at: DateTime<Utc>,
    /// What is wrong.
    pub problem: AuditProblem,
    /// Its place in its order and its ordering key, if its webhook wants order.
    pub order: Option<(i64, String)>,
}

/// How a delivery can be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuditProblem {
    /// The webhook wanted the event; no attempt was made, and none is to come.
    NeverAttempted,
    /// An attempt failed and is to be followed by another, but none is to come.
    RetryMissing,
}

impl AuditProblem {
    /// A sentence for operators.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::NeverAttempted => "matched, but never attempted and not scheduled",
            Self::RetryMissing => "failed with a retry to come, but none is scheduled",
        }
    }
}

/// What became of the events of a time range.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditReport {
    /// Events handed over in the range.
    pub events: u64,
    /// Deliveries that were delivered.
    pub delivered: u64,
    /// Deliveries that finally failed or were cancelled.
    pub failed: u64,
    /// Deliveries that are to be attempted, again or at all.
    pub scheduled: u64,
    /// Deliveries that a dispatcher is at, in an open batch.
    pub under_way: u64,
    /// Deliveries that were never attempted and may not be due either: their webhook was changed after the event.
    pub unjudged: u64,
    /// Deliveries that are none of these.
    pub lost: u64,
    /// The first of those.
    pub findings: Vec<AuditFinding>,
}

/// How soon after its event nearly every delivery is made.
const AT_ONCE: TimeDelta = TimeDelta::seconds(1);
/// How long after their events the attempts are made that are looked at for what was not delivered at once: most begin in the
/// first of these, those of a backlog in the next. Each look reads all attempts of its time, so one at all of them is the last
/// resort.
const SOON: [TimeDelta; 5] = [
    TimeDelta::seconds(2),
    TimeDelta::seconds(8),
    TimeDelta::seconds(32),
    TimeDelta::minutes(2),
    TimeDelta::minutes(10),
];
/// No attempt begins later: the retention of events is at most ten years.
const ALL_ATTEMPTS: TimeDelta = TimeDelta::days(3_700);

// The time is looked at after the limit: the batches may begin long before it, and all of those read in one statement would
// keep a core busy. The last event read is given in any case, to go on from.
const AUDIT_EVENTS: &str = "-- audit_events
SELECT * FROM (
    SELECT batch_id, position, tenant_id, id, type, session_id, ordering_key, occurred_at, accepted_at, day, deliver_at,
        NULL::text[] AS tags, erased_at, ''::bytea AS body, NULL::bytea AS trace,
        accepted_at >= $3 AND accepted_at < $4 AS is_in_range,
        lead(true) OVER (ORDER BY batch_id, tenant_id, id) IS NULL AS is_last
    FROM (
        SELECT * FROM events
        WHERE day BETWEEN $1 AND $2 AND batch_id >= $5 AND batch_id < $9 AND (batch_id, tenant_id, id) > ($5, $6, $7)
        ORDER BY batch_id, tenant_id, id LIMIT $8
    ) page
) e WHERE is_in_range OR is_last
ORDER BY batch_id, tenant_id, id";

const BATCHES_OF_DAYS: &str = "-- batches_of_days
SELECT (SELECT batch_id FROM events WHERE day BETWEEN $1 AND $2 ORDER BY batch_id LIMIT 1),
    (SELECT batch_id FROM events WHERE day BETWEEN $1 AND $2 ORDER BY batch_id DESC LIMIT 1)";

const TIME_OF_BATCH: &str = "-- time_of_batch
SELECT batch_id, accepted_at FROM events WHERE day BETWEEN $1 AND $2 AND batch_id >= $3 ORDER BY batch_id LIMIT 1";

/// Batches are numbered in the order of their times, give or take this.
pub(crate) const BATCH_SLACK: TimeDelta = TimeDelta::minutes(2);
/// The same for audits, which are made all the time, and read the events of twice this besides their own: dispatchers' clocks
/// differ by 5 s, and a hand-over waits 5 s for a connection and 20 s for its statement.
const AUDIT_SLACK: TimeDelta = TimeDelta::seconds(30);

// Only of events whose webhook has a filter: bodies are large.
pub(crate) const EVENT_BODIES: &str = "-- event_bodies
SELECT e.body
FROM unnest($1::uuid[], $2::text[], $3::date[]) WITH ORDINALITY AS g (tenant_id, id, day, place)
LEFT JOIN events e ON e.tenant_id = g.tenant_id AND e.id = g.id AND e.day = g.day
ORDER BY g.place";

// A delivery that was made stays made: this may be read at another moment than all else.
const AUDIT_NOT_DELIVERED: &str = "-- audit_not_delivered
WITH delivered AS MATERIALIZED (
    SELECT webhook_id, event_id, event_day FROM delivery_attempts
    WHERE webhook_id = ANY($4) AND started_at >= $5 AND started_at < $6 AND error IS NULL
)
SELECT g.place
FROM unnest($1::uuid[], $2::text[], $3::date[]) WITH ORDINALITY AS g (webhook_id, event_id, event_day, place)
WHERE NOT EXISTS (SELECT FROM delivered d
    WHERE d.webhook_id = g.webhook_id AND d.event_id = g.event_id AND d.event_day = g.event_day)";

// One statement sees one moment: a delivery that moves on meanwhile is seen either before or after, never in between.
// Grouped rather than joined: Postgres takes the arrays for short, and would compare each delivery with each attempt.
const AUDIT_DELIVERIES: &str = "-- audit_deliveries
SELECT g.delivered, g.final,
    EXISTS (SELECT FROM deliveries d
        WHERE d.webhook_id = g.webhook_id AND d.event_id = g.event_id AND d.event_day = g.event_day),
    EXISTS (SELECT FROM open_batches b WHERE b.id = g.batch_id)
FROM (
    SELECT webhook_id, event_id, event_day, max(batch_id) AS batch_id, max(place) AS place,
        bool_or(delivered) AS delivered, bool_or(final) AS final
    FROM (
        SELECT webhook_id, event_id, event_day, batch_id, place, NULL::boolean AS delivered, NULL::boolean AS final
        FROM unnest($1::uuid[], $2::text[], $3::date[], $4::bigint[])
            WITH ORDINALITY AS expected (webhook_id, event_id, event_day, batch_id, place)
        UNION ALL
        SELECT webhook_id, event_id, event_day, NULL, NULL, error IS NULL, next_attempt_at IS NULL
        FROM delivery_attempts
        WHERE webhook_id = ANY($5) AND started_at >= $6 AND started_at < $7
    ) e
    GROUP BY webhook_id, event_id, event_day
    HAVING max(place) IS NOT NULL
) g
ORDER BY g.place";

const REPAIR: &str = "-- repair_deliveries
INSERT INTO deliveries
    (accepted_at, due_at, event_day, attempts, tenant_id, webhook_id, event_id, sequence, ordering_key)
SELECT g.accepted_at,
    greatest($8, (SELECT e.deliver_at FROM events e WHERE e.tenant_id = g.tenant_id AND e.id = g.event_id AND e.day = g.event_day)),
    g.event_day,
    coalesce((SELECT max(a.attempt) FROM delivery_attempts a
        WHERE a.webhook_id = g.webhook_id AND a.event_id = g.event_id AND a.event_day = g.event_day), 0),
    g.tenant_id, g.webhook_id, g.event_id, g.sequence, g.ordering_key
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::date[], $5::timestamptz[], $6::bigint[], $7::text[])
    AS g (tenant_id, webhook_id, event_id, event_day, accepted_at, sequence, ordering_key)
ON CONFLICT DO NOTHING";

/// A delivery that there should be.
struct Expected {
    key: DeliveryKey,
    tenant_id: TenantId,
    accepted_at: DateTime<Utc>,
    batch: BatchId,
    order: Option<(i64, String)>,
    /// Whether the webhook wanted it then as it does now.
    is_certain: bool,
}

impl Expected {
    fn new(webhook: &Webhook, stored: &StoredEvent) -> Self {
        let order = || (stored.sequence(), stored.event.order().to_owned());
        Self {
            order: (webhook.gate.is_ordered && stored.put_off_until().is_none()).then(order),
            is_certain: webhook.updated_at <= stored.accepted_at - CLOCK_SLACK,
            key: key(webhook.id, &stored.event.id, stored.day),
            tenant_id: stored.event.tenant_id,
            accepted_at: stored.accepted_at,
            batch: stored.place.0,
        }
    }
}

/// What is known of it.
#[derive(Clone)]
struct Found {
    delivered: Option<bool>,
    is_final: Option<bool>,
    scheduled: bool,
    batch_open: bool,
}

impl Found {
    const DELIVERED: Self =
        Self { delivered: Some(true), is_final: Some(true), scheduled: false, batch_open: false };

    /// Whether later attempts would say nothing new of what became of it.
    fn is_accounted_for(&self) -> bool {
        self.delivered == Some(true) || self.is_final == Some(true) || self.scheduled || self.batch_open
    }
}

impl Store {
    /// Looks at every event handed over from `from` up to `to`, and at every webhook that wanted it: each such delivery
    /// must be delivered, finally failed, scheduled, or under way.
    pub async fn audit(
        &self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        pace: Pace,
    ) -> Result<AuditReport, StoreError> {
        let mut report = AuditReport::default();
        let [first, end] = self.batches_between(from, to, AUDIT_SLACK).await?;
        let mut after: (BatchId, Uuid, String) = (first, Uuid::nil(), String::new());
        loop {
            let step = self.audit_step(from, to, &mut after, end, pace).await?;
            if step.is_empty() {
                return Ok(report);
            }
            report.events += step.len() as u64;
            let webhooks = pace.keep(self.webhooks_of_tenants(&tenants_of(&step))).await?;
            let mut rest = &step[..];
            while !rest.is_empty() {
                let portion;
                (portion, rest) = rest.split_at(first_portion(rest, &webhooks));
                let expected = pace.keep(self.expected_deliveries(portion, &webhooks)).await?;
                let found = self.audit_deliveries(&expected, pace).await?;
                for (expected, found) in expected.into_iter().zip(found) {
                    report.count(expected, &found);
                }
            }
        }
    }

    /// Schedules the deliveries of findings at once. Says how many were not scheduled before.
    pub async fn repair(&self, findings: &[AuditFinding], now: DateTime<Utc>) -> Result<u64, StoreError> {
        let tenants: Vec<Uuid> = findings.iter().map(|finding| finding.tenant_id.0).collect();
        let webhooks: Vec<Uuid> = findings.iter().map(|finding| finding.key.webhook_id.0).collect();
        let events: Vec<&str> = findings.iter().map(|finding| finding.key.event_id.as_str()).collect();
        let days: Vec<NaiveDate> = findings.iter().map(|finding| finding.key.event_day).collect();
        let accepted_at: Vec<DateTime<Utc>> = findings.iter().map(|finding| finding.accepted_at).collect();
        let order = |finding: &AuditFinding| finding.order.clone().unzip();
        let (sequences, keys): (Vec<Option<i64>>, Vec<Option<String>>) = findings.iter().map(order).unzip();
        let client = self.connection().await?;
        let statement = client.prepare_cached(REPAIR).await?;
        let parameters: [&(dyn ToSql + Sync); 8] =
            [&tenants, &webhooks, &events, &days, &accepted_at, &sequences, &keys, &now];
        Ok(client.execute(&statement, &parameters).await?)
    }

    /// Between which batches the events of a range are, so that not all of its days are read. Found by halving.
    pub(crate) async fn batches_between(
        &self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        slack: TimeDelta,
    ) -> Result<[BatchId; 2], StoreError> {
        let (first_day, last_day) = (from.date_naive(), to.date_naive());
        let client = self.connection().await?;
        let statement = client.prepare_cached(BATCHES_OF_DAYS).await?;
        let row = client.query_one(&statement, &[&first_day, &last_day]).await?;
        let (Some(oldest), Some(newest)) =
            (row.get::<_, Option<BatchId>>(0), row.get::<_, Option<BatchId>>(1))
        else {
            return Ok([0, 0]);
        };
        let statement = client.prepare_cached(TIME_OF_BATCH).await?;
        let mut bounds = [from - slack, to + slack].map(|at| (at, oldest));
        for (at, low) in &mut bounds {
            let mut high = newest + 1;
            while *low < high {
                let middle = *low + (high - *low) / 2;
                let row = client.query_opt(&statement, &[&first_day, &last_day, &middle]).await?;
                match row.map(|row| (row.get::<_, BatchId>(0), row.get::<_, DateTime<Utc>>(1))) {
                    Some((batch, accepted_at)) if accepted_at < *at => *low = batch + 1,
                    Some(_) | None => high = middle,
                }
            }
        }
        Ok(bounds.map(|(_, batch)| batch))
    }

    /// The events after `after`, which it moves to the last of them; none when there are no more.
    async fn audit_step(
        &self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        after: &mut (BatchId, Uuid, String),
        end: BatchId,
        pace: Pace,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let mut step: Vec<StoredEvent> = Vec::new();
        while !is_full(&step) {
            let rows = pace.keep(self.audit_events(from, to, after, end)).await?;
            let Some(last) = rows.last() else { break };
            *after = (last.get("batch_id"), last.get("tenant_id"), last.get("id"));
            for row in rows.iter().filter(|row| row.get("is_in_range")) {
                step.push(read_event(row)?);
            }
        }
        Ok(step)
    }

    async fn audit_events(
        &self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        after: &(BatchId, Uuid, String),
        end: BatchId,
    ) -> Result<Vec<Row>, StoreError> {
        let client = self.connection().await?;
        let statement = client.prepare_cached(AUDIT_EVENTS).await?;
        let (first_day, last_day) = (from.date_naive(), to.date_naive());
        let (batch, tenant, id) = after;
        let parameters: [&(dyn ToSql + Sync); 9] =
            [&first_day, &last_day, &from, &to, batch, tenant, id, &EVENTS_PER_STATEMENT, &end];
        Ok(client.query(&statement, &parameters).await?)
    }

    async fn expected_deliveries(
        &self,
        events: &[StoredEvent],
        webhooks: &HashMap<TenantId, Vec<Webhook>>,
    ) -> Result<Vec<Expected>, StoreError> {
        let mut expected = Vec::new();
        let mut filtered = Vec::new();
        for stored in events.iter().filter(|stored| stored.erased_at.is_none()) {
            for webhook in webhooks.get(&stored.event.tenant_id).into_iter().flatten() {
                if webhook.created_at > stored.accepted_at - CLOCK_SLACK {
                    continue; // newer than the event
                }
                match webhook.filter {
                    _ if !webhook.subscribes_to(&stored.event) => {}
                    None => expected.push(Expected::new(webhook, stored)),
                    Some(_) => filtered.push((webhook, stored)),
                }
            }
        }
        for some in filtered.chunks(BODIES_PER_STEP) {
            let bodies = self.event_bodies(some.iter().map(|(_, stored)| *stored)).await?;
            for ((webhook, stored), body) in some.iter().zip(bodies) {
                // One without a body was dropped with its partition meanwhile.
                let matches = |body: Vec<u8>| webhook.matches(&stored.event, &EventData::of_body(&body));
                if body.is_some_and(matches) {
                    expected.push(Expected::new(webhook, stored));
                }
            }
        }
        Ok(expected)
    }

    async fn event_bodies(
        &self,
        events: impl Iterator<Item = &StoredEvent>,
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let (mut tenants, mut ids, mut days): (Vec<Uuid>, Vec<&str>, Vec<NaiveDate>) = Default::default();
        for stored in events {
            tenants.push(stored.event.tenant_id.0);
            ids.push(stored.event.id.as_str());
            days.push(stored.day);
        }
        let client = self.connection().await?;
        let statement = client.prepare_cached(EVENT_BODIES).await?;
        let rows = client.query(&statement, &[&tenants, &ids, &days]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Looks at what was delivered at once in the first place, and closely only at the rest.
    async fn audit_deliveries(&self, expected: &[Expected], pace: Pace) -> Result<Vec<Found>, StoreError> {
        let mut found = vec![Found::DELIVERED; expected.len()];
        let rest = pace.keep(self.not_delivered_at_once(expected)).await?;
        for places in rest.chunks(DELIVERIES_PER_STATEMENT) {
            let some: Vec<&Expected> = places.iter().map(|place| &expected[*place]).collect();
            for (place, closely) in places.iter().zip(self.look_closely(&some, pace).await?) {
                found[*place] = closely;
            }
        }
        Ok(found)
    }

    /// The places of those that were not delivered, or later than at once.
    async fn not_delivered_at_once(&self, expected: &[Expected]) -> Result<Vec<usize>, StoreError> {
        let times = expected.iter().map(|expected| expected.accepted_at);
        let (Some(earliest), Some(latest)) = (times.clone().min(), times.max()) else {
            return Ok(Vec::new());
        };
        let keys = Keys::new(expected.iter());
        let client = self.connection().await?;
        let statement = client.prepare_cached(AUDIT_NOT_DELIVERED).await?;
        let parameters: [&(dyn ToSql + Sync); 6] = [
            &keys.webhooks,
            &keys.events,
            &keys.days,
            &keys.distinct_webhooks,
            &earliest,
            &(latest + AT_ONCE),
        ];
        let rows = client.query(&statement, &parameters).await?;
        let place = |row: &Row| usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or_default();
        Ok(rows.iter().map(place).collect())
    }

    /// Looks at attempts made soon after the events at first, and at later ones only for what those do not account for.
    async fn look_closely(&self, expected: &[&Expected], pace: Pace) -> Result<Vec<Found>, StoreError> {
        let Some(latest) = expected.iter().map(|expected| expected.accepted_at).max() else {
            return Ok(Vec::new());
        };
        let mut found = pace.keep(self.audit_attempts(expected, latest + SOON[0])).await?;
        for after in SOON[1..].iter().chain([&ALL_ATTEMPTS]) {
            let open: Vec<usize> =
                (0..found.len()).filter(|place| !found[*place].is_accounted_for()).collect();
            if open.is_empty() {
                break;
            }
            let unaccounted: Vec<&Expected> = open.iter().map(|place| expected[*place]).collect();
            // From the beginning again: only one statement sees one moment.
            let later = pace.keep(self.audit_attempts(&unaccounted, latest + *after)).await?;
            for (place, later) in open.into_iter().zip(later) {
                found[place] = later;
            }
        }
        Ok(found)
    }

    async fn audit_attempts(
        &self,
        expected: &[&Expected],
        until: DateTime<Utc>,
    ) -> Result<Vec<Found>, StoreError> {
        let Some(earliest) = expected.iter().map(|expected| expected.accepted_at).min() else {
            return Ok(Vec::new());
        };
        let keys = Keys::new(expected.iter().copied());
        let batches: Vec<BatchId> = expected.iter().map(|expected| expected.batch).collect();
        let since = earliest - CLOCK_SLACK;
        let client = self.connection().await?;
        let statement = client.prepare_cached(AUDIT_DELIVERIES).await?;
        let parameters: [&(dyn ToSql + Sync); 7] =
            [&keys.webhooks, &keys.events, &keys.days, &batches, &keys.distinct_webhooks, &since, &until];
        let rows = client.query(&statement, &parameters).await?;
        let found = rows.iter().map(|row| Found {
            delivered: row.get(0),
            is_final: row.get(1),
            scheduled: row.get(2),
            batch_open: row.get(3),
        });
        Ok(found.collect())
    }
}

/// Whether these events are enough for a step.
fn is_full(step: &[StoredEvent]) -> bool {
    let is_long = match step {
        [first, .., last] => last.accepted_at - first.accepted_at > STEP_TIME,
        [] | [_] => false,
    };
    is_long || step.len() >= EVENTS_PER_STEP || tenants_of(step).len() >= TENANTS_PER_STEP
}

fn tenants_of(events: &[StoredEvent]) -> Vec<TenantId> {
    let mut tenants: Vec<TenantId> = events.iter().map(|stored| stored.event.tenant_id).collect();
    tenants.sort_unstable();
    tenants.dedup();
    tenants
}

/// How many of the first of these events, at least one, have no more deliveries than are looked at together.
fn first_portion(events: &[StoredEvent], webhooks: &HashMap<TenantId, Vec<Webhook>>) -> usize {
    let mut deliveries = 0;
    let fitting = events.iter().take_while(|stored| {
        deliveries += webhooks.get(&stored.event.tenant_id).map_or(0, Vec::len);
        deliveries <= DELIVERIES_PER_PORTION
    });
    fitting.count().max(1)
}

/// The keys of deliveries, as statements are given them.
struct Keys<'a> {
    webhooks: Vec<Uuid>,
    events: Vec<&'a str>,
    days: Vec<NaiveDate>,
    distinct_webhooks: Vec<Uuid>,
}

impl<'a> Keys<'a> {
    fn new(expected: impl Iterator<Item = &'a Expected> + Clone) -> Self {
        let keys = expected.map(|expected| &expected.key);
        let webhooks: Vec<Uuid> = keys.clone().map(|key| key.webhook_id.0).collect();
        let mut distinct_webhooks = webhooks.clone();
        distinct_webhooks.sort_unstable();
        distinct_webhooks.dedup();
        Self {
            webhooks,
            events: keys.clone().map(|key| key.event_id.as_str()).collect(),
            days: keys.map(|key| key.event_day).collect(),
            distinct_webhooks,
        }
    }
}

fn key(webhook_id: WebhookId, event_id: &EventId, event_day: NaiveDate) -> DeliveryKey {
    DeliveryKey { webhook_id, event_id: event_id.clone(), event_day }
}

impl AuditReport {
    fn count(&mut self, expected: Expected, found: &Found) {
        let problem = match found {
            Found { delivered: Some(true), .. } => return self.delivered += 1,
            Found { is_final: Some(true), scheduled: false, .. } => return self.failed += 1,
            Found { scheduled: true, .. } => return self.scheduled += 1,
            Found { batch_open: true, .. } => return self.under_way += 1,
            Found { delivered: None, .. } if !expected.is_certain => return self.unjudged += 1,
            Found { delivered: None, .. } => AuditProblem::NeverAttempted,
            Found { delivered: Some(false), .. } => AuditProblem::RetryMissing,
        };
        self.lost += 1;
        if self.findings.len() < MAX_FINDINGS {
            let Expected { key, tenant_id, accepted_at, order, .. } = expected;
            self.findings.push(AuditFinding { key, tenant_id, accepted_at, problem, order });
        }
    }
}
