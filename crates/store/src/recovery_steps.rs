//! How recoveries get on: step by step, each in one transaction with how far it came. So none is lost and none is made twice,
//! whoever makes the next one.

use chrono::{DateTime, NaiveDate, Utc};
use domain::{EventData, EventType, Webhook};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::audit::{BATCH_SLACK, BODIES_PER_STEP, EVENT_BODIES};
use crate::event_deliveries::by_event;
use crate::events::{StoredEvent, read_event};
use crate::recoveries::Position;
use crate::{
    BatchId, Recovery, RecoveryEnd, RecoveryEstimate, RecoveryKind, RecoveryPlan, Store, StoreError,
};

/// Most deliveries made due by one step.
const MAX_STEP: usize = 1_000;
/// Rows that are looked at for one step. Larger than a hand-over, which is read whole.
const LOOKS_AT: i64 = 5_000;
/// Unfinished deliveries of a webhook behind which its recovery waits.
const MAX_AHEAD: i64 = 5_000;
/// Steps of an estimate.
const ESTIMATE_STEPS: usize = 20;

// A test is no delivery. What was cancelled has not failed.
const FAILED_DELIVERIES: &str = "-- failed_deliveries
SELECT started_at, event_id, event_day FROM (
    SELECT started_at, event_id, event_day, event_type, error, next_attempt_at, trigger FROM delivery_attempts
    WHERE tenant_id = $1 AND webhook_id = $2 AND started_at >= $3 AND started_at < $4 AND (started_at, event_id) > ($3, $5)
    ORDER BY started_at, event_id LIMIT $6
) looked_at
WHERE error <> 'cancelled' AND next_attempt_at IS NULL AND trigger IS DISTINCT FROM 'test'
    AND ($7::text IS NULL OR event_type = $7)
ORDER BY started_at, event_id LIMIT $8";

const LAST_FAILED_LOOKED_AT: &str = "-- last_failed_looked_at
SELECT started_at, event_id FROM delivery_attempts
WHERE tenant_id = $1 AND webhook_id = $2 AND started_at >= $3 AND started_at < $4 AND (started_at, event_id) > ($3, $5)
ORDER BY started_at, event_id OFFSET $6::bigint - 1 LIMIT 1";

// Hand-overs are read whole: where the last one may be cut off, the next step begins with it. Bodies are large, and read only
// for filters.
const MISSING_EVENTS: &str = "-- missing_events
WITH looked_at AS MATERIALIZED (
    SELECT batch_id, position, tenant_id, id, type, session_id, ordering_key, occurred_at, accepted_at, day, deliver_at,
        erased_at FROM events
    WHERE day BETWEEN $1 AND $2 AND batch_id >= $3 AND batch_id < $4 ORDER BY batch_id LIMIT $5
)
SELECT n.looked_at, n.last_batch, e.*, NULL::text[] AS tags, ''::bytea AS body, NULL::bytea AS trace
FROM (SELECT count(*) AS looked_at, max(batch_id) AS last_batch FROM looked_at) n
LEFT JOIN looked_at e ON e.tenant_id = $6 AND e.accepted_at >= $7 AND e.accepted_at < $8
    AND (e.batch_id, e.position) > ($3, $9) AND ($10::text IS NULL OR e.type = $10) AND e.erased_at IS NULL
ORDER BY e.batch_id, e.position";

// $3 and $4 are the events, $5 when each has failed, or NULL. One is left out if it is on its first way to the webhook, has ended
// otherwise since, or, where it never failed, was ever made; and where its data was erased.
macro_rules! recoverable {
    () => {
        concat!(
            "FROM unnest($3::text[], $4::date[], $5::timestamptz[]) AS g (id, day, failed_at)
CROSS JOIN LATERAL (
    SELECT * FROM events e WHERE e.tenant_id = $1 AND e.id = g.id AND e.day = g.day LIMIT 1
) e
WHERE e.erased_at IS NULL AND (SELECT true FROM open_batches b WHERE b.id = e.batch_id) IS NULL
    AND (SELECT true FROM delivery_attempts a
        WHERE a.tenant_id = $1 AND a.event_id = e.id AND a.webhook_id = $2 AND a.event_day = e.day AND ",
            by_event!(),
            "
            AND a.started_at > coalesce(g.failed_at, '-infinity')
            AND (a.error IS NULL OR (a.next_attempt_at IS NULL AND (a.error <> 'cancelled' OR a.trigger = 'cancel')))
        LIMIT 1) IS NULL
    AND (g.failed_at IS NOT NULL OR (SELECT true FROM delivery_attempts a
        WHERE a.tenant_id = $1 AND a.webhook_id = $2 AND a.event_id = e.id AND a.error IS NULL
            AND a.started_at >= e.accepted_at - interval '5 seconds'
            AND a.started_at < e.accepted_at + interval '1 minute'
        LIMIT 1) IS NULL)"
        )
    };
}

const COUNT_RECOVERABLE: &str = concat!(
    "-- count_recoverable
SELECT count(*) ",
    recoverable!(),
    "
    AND (SELECT true FROM deliveries d WHERE d.webhook_id = $2 AND d.event_id = e.id AND d.event_day = e.day) IS NULL"
);

// They wait for their webhook's gate, like anything that is not new: new events do not wait for them.
const SCHEDULE_RECOVERED: &str = concat!(
    "-- schedule_recovered
INSERT INTO deliveries
    (accepted_at, event_day, attempts, tenant_id, webhook_id, event_id, is_resend, sequence, ordering_key)
SELECT e.accepted_at, e.day, 0, $1::uuid, $2::uuid, e.id, true, CASE WHEN $6 THEN (e.batch_id << 20) | e.position END,
    CASE WHEN $6 THEN coalesce(e.ordering_key, e.session_id, e.id) END
",
    recoverable!(),
    "
ON CONFLICT DO NOTHING"
);

// One that is cancelled, or was taken on by another dispatcher meanwhile, is not the holder's any more.
const HOLD_RECOVERY: &str = "-- hold_recovery
SELECT id FROM recoveries WHERE id = $1 AND leased_by = $2 AND state = 'running'
    AND position_at = $3 AND position_event = $4 AND position_batch = $5 AND position_in_batch = $6
FOR UPDATE";

const MOVE_RECOVERY_ON: &str = "-- move_recovery_on
UPDATE recoveries SET leased_until = 'epoch', scheduled = scheduled + $2::bigint, skipped = skipped + $3,
    next_at = greatest(next_at, $4::timestamptz - interval '1 second') + make_interval(secs => $2::bigint::float8 / rate),
    position_at = $5, position_event = $6, position_batch = $7, position_in_batch = $8,
    state = CASE WHEN $9 THEN 'done' ELSE state END, ended_at = CASE WHEN $9 THEN $4::timestamptz END
WHERE id = $1";

const END_RECOVERY: &str = "-- end_recovery
UPDATE recoveries SET state = 'failed', reason = $3, ended_at = $4
WHERE id = $1 AND leased_by = $2 AND state = 'running'";

const POSTPONE_RECOVERY: &str = "-- postpone_recovery
UPDATE recoveries SET next_at = $3::timestamptz + interval '1 second', leased_until = 'epoch'
WHERE id = $1 AND leased_by = $2 AND state = 'running'";

// As `domain::Subscription` has it.
const IS_IN_FORCE: &str = "-- is_in_force
SELECT EXISTS (SELECT FROM tenants WHERE id = $1 AND status <> 'suspended'
    AND (status <> 'trial' OR trial_ends_at IS NULL OR trial_ends_at > $2))";

const COUNT_AHEAD: &str = "-- count_ahead_of_recovery
SELECT count(*) FROM (SELECT FROM deliveries WHERE webhook_id = $1 LIMIT $2) ahead";

/// What a step finds.
#[derive(Default)]
struct Found {
    events: Vec<String>,
    days: Vec<NaiveDate>,
    failed_at: Vec<Option<DateTime<Utc>>>,
    /// Where the next step goes on; `None` at the end.
    next: Option<Position>,
}

impl Store {
    /// Makes the next step of a recovery that `holder` has taken on, or ends it. Changes nothing when it is not the holder's any
    /// more.
    pub async fn advance_recovery(
        &self,
        recovery: &Recovery,
        holder: Uuid,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let plan = &recovery.plan;
        let webhook = match self.recoverable_webhook(plan, now).await? {
            Ok(webhook) => webhook,
            Err(end) => return self.end_recovery(recovery, holder, end, now).await,
        };
        let client = self.connection().await?;
        let ahead = client.query_one(COUNT_AHEAD, &[&plan.webhook_id.0, &MAX_AHEAD]).await?;
        if ahead.get::<_, i64>(0) == MAX_AHEAD {
            client.execute(POSTPONE_RECOVERY, &[&recovery.id, &holder, &now]).await?;
            return Ok(());
        }
        drop(client);
        let step = usize::try_from(plan.rate).unwrap_or(MAX_STEP).min(MAX_STEP);
        let batches = self.batches_between(plan.from, plan.to, BATCH_SLACK).await?;
        let found = self.find(plan, &webhook, batches, &recovery.position, step).await?;
        self.schedule(recovery, &webhook, &found, holder, now).await
    }

    /// How many deliveries a recovery would make; of a long range, of its beginning.
    pub async fn estimate_recovery(
        &self,
        plan: &RecoveryPlan,
        webhook: &Webhook,
    ) -> Result<RecoveryEstimate, StoreError> {
        let mut estimate = RecoveryEstimate::default();
        let mut position = Position::start(plan);
        for _ in 0..ESTIMATE_STEPS {
            // Where the batches of a time are is for those to find who see all of them.
            let found = self.find(plan, webhook, [0, BatchId::MAX], &position, MAX_STEP).await?;
            let client = self.of_tenant(plan.tenant_id).await?;
            let parameters: [&(dyn ToSql + Sync); 5] =
                [&plan.tenant_id.0, &plan.webhook_id.0, &found.events, &found.days, &found.failed_at];
            let count = client.query_opt(COUNT_RECOVERABLE, &parameters).await?;
            let count = count.map_or(0, |row| row.get::<_, i64>(0));
            estimate.deliveries += u64::try_from(count).unwrap_or_default();
            match found.next {
                Some(next) => position = next,
                None => return Ok(RecoveryEstimate { is_exact: true, ..estimate }),
            }
        }
        Ok(estimate)
    }

    /// The webhook, if there is still something to be recovered for it.
    async fn recoverable_webhook(
        &self,
        plan: &RecoveryPlan,
        now: DateTime<Utc>,
    ) -> Result<Result<Webhook, RecoveryEnd>, StoreError> {
        let Some(webhook) = self.webhook(plan.tenant_id, plan.webhook_id).await? else {
            return Ok(Err(RecoveryEnd::WebhookDeleted));
        };
        let client = self.of_tenant(plan.tenant_id).await?;
        let row = client.query_opt(IS_IN_FORCE, &[&plan.tenant_id.0, &now]).await?;
        let in_force = row.is_some_and(|row| row.get(0));
        Ok(match (webhook.is_active, in_force) {
            (true, true) => Ok(webhook),
            (false, _) => Err(RecoveryEnd::WebhookDisabled),
            (true, false) => Err(RecoveryEnd::SubscriptionInactive),
        })
    }

    async fn end_recovery(
        &self,
        recovery: &Recovery,
        holder: Uuid,
        end: RecoveryEnd,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let client = self.connection().await?;
        client.execute(END_RECOVERY, &[&recovery.id, &holder, &end.code(), &now]).await?;
        Ok(())
    }

    /// At most `limit` deliveries that may have to be made, after a position.
    async fn find(
        &self,
        plan: &RecoveryPlan,
        webhook: &Webhook,
        batches: [BatchId; 2],
        after: &Position,
        limit: usize,
    ) -> Result<Found, StoreError> {
        match plan.kind {
            RecoveryKind::Failed => self.find_failed(plan, after, limit).await,
            RecoveryKind::Missing => self.find_missing(plan, webhook, batches, after, limit).await,
        }
    }

    async fn find_failed(
        &self,
        plan: &RecoveryPlan,
        after: &Position,
        limit: usize,
    ) -> Result<Found, StoreError> {
        let client = self.of_tenant(plan.tenant_id).await?;
        let (tenant, webhook) = (plan.tenant_id.0, plan.webhook_id.0);
        let event_type = plan.event_type.as_ref().map(EventType::as_str);
        let count = i64::try_from(limit).unwrap_or(i64::MAX);
        let parameters: [&(dyn ToSql + Sync); 8] =
            [&tenant, &webhook, &after.at, &plan.to, &after.event, &LOOKS_AT, &event_type, &count];
        let rows = client.query(FAILED_DELIVERIES, &parameters).await?;
        let last = if rows.len() == limit {
            rows.last().map(|row| (row.get("started_at"), row.get("event_id")))
        } else {
            let row = client.query_opt(LAST_FAILED_LOOKED_AT, &parameters[..6]).await?;
            row.map(|row| (row.get("started_at"), row.get("event_id")))
        };
        let next = last.map(|(at, event)| Position { at, event, ..after.clone() });
        let mut found = Found { next, ..Found::default() };
        for row in &rows {
            found.add(row.get("event_id"), row.get("event_day"), Some(row.get("started_at")));
        }
        Ok(found)
    }

    async fn find_missing(
        &self,
        plan: &RecoveryPlan,
        webhook: &Webhook,
        [first, end]: [BatchId; 2],
        after: &Position,
        limit: usize,
    ) -> Result<Found, StoreError> {
        let (batch, in_batch) = if after.batch < first { (first, -1) } else { (after.batch, after.in_batch) };
        let client = self.of_tenant(plan.tenant_id).await?;
        let (first_day, last_day) = (plan.from.date_naive(), plan.to.date_naive());
        let parameters: [&(dyn ToSql + Sync); 10] = [
            &first_day,
            &last_day,
            &batch,
            &end,
            &LOOKS_AT,
            &plan.tenant_id.0,
            &plan.from,
            &plan.to,
            &in_batch,
            &plan.event_type.as_ref().map(EventType::as_str),
        ];
        let rows = client.query(MISSING_EVENTS, &parameters).await?;
        drop(client);
        let looked_at: i64 = rows.first().map_or(0, |row| row.get("looked_at"));
        // The last batch may be cut off, unless all of the range was read.
        let cut_off: Option<i64> =
            rows.first().filter(|_| looked_at == LOOKS_AT).and_then(|row| row.get("last_batch"));
        let events = rows.iter().filter(|row| row.get::<_, Option<i64>>("batch_id").is_some());
        let events = events.map(read_event).collect::<Result<Vec<_>, _>>()?;
        let whole =
            events.into_iter().filter(|stored| cut_off.is_none_or(|cut_off| stored.place.0 < cut_off));
        let mut wanted = self.wanted(webhook, whole.collect()).await?;
        let next = if wanted.len() > limit {
            wanted.truncate(limit);
            wanted.last().map(|stored| stored.place)
        } else {
            cut_off.map(|batch| (batch, -1))
        };
        let mut found = Found {
            next: next.map(|(batch, in_batch)| Position { batch, in_batch, ..after.clone() }),
            ..Found::default()
        };
        for stored in wanted {
            found.add(stored.event.id.to_string(), stored.day, None);
        }
        Ok(found)
    }

    /// Those events that the webhook wants, as it is now.
    async fn wanted(
        &self,
        webhook: &Webhook,
        events: Vec<StoredEvent>,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let mut wanted: Vec<StoredEvent> =
            events.into_iter().filter(|stored| webhook.subscribes_to(&stored.event)).collect();
        if webhook.filter.is_some() {
            let mut matching = Vec::new();
            for some in wanted.chunks(BODIES_PER_STEP) {
                let bodies = self.bodies(webhook, some).await?;
                for (stored, body) in some.iter().zip(bodies) {
                    // One without a body was dropped with its partition meanwhile.
                    if body.is_some_and(|body| webhook.matches(&stored.event, &EventData::of_body(&body))) {
                        matching.push(stored.clone());
                    }
                }
            }
            wanted = matching;
        }
        Ok(wanted)
    }

    async fn bodies(
        &self,
        webhook: &Webhook,
        events: &[StoredEvent],
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let tenants = vec![webhook.tenant_id.0; events.len()];
        let ids: Vec<&str> = events.iter().map(|stored| stored.event.id.as_str()).collect();
        let days: Vec<NaiveDate> = events.iter().map(|stored| stored.day).collect();
        let client = self.of_tenant(webhook.tenant_id).await?;
        let rows = client.query(EVENT_BODIES, &[&tenants, &ids, &days]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Makes the deliveries due and moves the recovery on, both or neither.
    async fn schedule(
        &self,
        recovery: &Recovery,
        webhook: &Webhook,
        found: &Found,
        holder: Uuid,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let mut client = self.connection().await?;
        let transaction = client.transaction().await?;
        let at = &recovery.position;
        let hold: [&(dyn ToSql + Sync); 6] =
            [&recovery.id, &holder, &at.at, &at.event, &at.batch, &at.in_batch];
        if transaction.query_opt(HOLD_RECOVERY, &hold).await?.is_none() {
            return Ok(());
        }
        let plan = &recovery.plan;
        let mut scheduled = 0;
        if !found.events.is_empty() {
            let statement = transaction.prepare_cached(SCHEDULE_RECOVERED).await?;
            let parameters: [&(dyn ToSql + Sync); 6] = [
                &plan.tenant_id.0,
                &plan.webhook_id.0,
                &found.events,
                &found.days,
                &found.failed_at,
                &webhook.gate.is_ordered,
            ];
            scheduled =
                i64::try_from(transaction.execute(&statement, &parameters).await?).unwrap_or(i64::MAX);
        }
        let skipped = i64::try_from(found.events.len()).unwrap_or(i64::MAX) - scheduled;
        let next = found.next.as_ref().unwrap_or(at);
        let is_last = found.next.is_none();
        let parameters: [&(dyn ToSql + Sync); 9] = [
            &recovery.id,
            &scheduled,
            &skipped,
            &now,
            &next.at,
            &next.event,
            &next.batch,
            &next.in_batch,
            &is_last,
        ];
        transaction.execute(MOVE_RECOVERY_ON, &parameters).await?;
        transaction.commit().await?;
        Ok(())
    }
}

impl Found {
    fn add(&mut self, event: String, day: NaiveDate, failed_at: Option<DateTime<Utc>>) {
        self.events.push(event);
        self.days.push(day);
        self.failed_at.push(failed_at);
    }
}
