//! Starts attempts, follows them to their end, and says what is to be written down.

use std::mem::ManuallyDrop;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{Cause, Clock, DisabledReason, Health, Next, Outcome, RetrySchedule};
use futures_util::FutureExt as _;
use sender::{Attempted, Capture, Fault, Sender};
use store::{AttemptRecord, HealthNews, Parked, Trigger};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, SetOnce, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use traces::{Open, Tracer};
use tracing::{Instrument as _, debug, error};
use uuid::Uuid;

use crate::delivery::{Delivery, Origin};
use crate::exchanges::ExchangeRoom;
use crate::gates::{Gates, Learned};
use crate::lanes::{Lanes, Limits, Pace};
use crate::metrics::{Held, Metrics, ParkedFor};
use crate::recorder::{Note, State};
use crate::spans;

/// Requests under way at a time that are not slow. Most receivers near by have answered before the next is sent then, and what
/// a request needs is still in the processor's caches when its answer comes.
const MAX_FAST: usize = 32;
/// After so long a request is slow: its place among the fast ones is free for another. So however long receivers take, some
/// 12,000 requests start in a second, and 9,000 of one tenant.
const SLOW_AFTER: Duration = Duration::from_millis(2);
/// After so long it is stuck: its delivery is parked under a lease, and its batch need not wait for it.
const STUCK_AFTER: Duration = Duration::from_secs(1);
/// How long a delivery waits in memory for its webhook's lane before it is parked.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// Deliveries that wait in memory before no more events are taken over. One tenant can have half of them.
const HIGH_WATER: usize = 2_000;
/// How long a delivery rests after a defect or fault of ours kept it from being attempted; moved by up to 10 % either way.
const AFTER_FAULT: Duration = Duration::from_secs(30);

/// The longest timeout that a webhook can set for itself.
const LONGEST_TIMEOUT: Duration = Duration::from_millis(domain::AttemptTimeout::MAX_MS as u64);

/// The part of a dispatcher that delivers.
pub(crate) struct Engine {
    pub(crate) dispatcher_id: Uuid,
    pub(crate) clock: Arc<dyn Clock>,
    sender: Sender,
    schedule: RetrySchedule,
    /// How long a delivery under way is leased: longer than an attempt to a webhook without a timeout of its own.
    lease: Duration,
    /// Requests under way to one webhook, unless it has a cap of its own.
    webhook_concurrency: usize,
    lanes: Mutex<Lanes<Delivery>>,
    pub(crate) gates: Gates,
    /// Set when the gates know how all webhooks are doing.
    pub(crate) health_known: SetOnce<()>,
    disable_after: Duration,
    metrics: Metrics,
    exchanges: ExchangeRoom,
    tracer: Tracer,
    notes: mpsc::Sender<Note>,
    awaited: Arc<Notify>,
    /// Told when something has ended: there is room.
    pub(crate) room: Notify,
    /// Ends every request at once.
    abandon: CancellationToken,
}

/// What an engine needs.
pub(crate) struct EngineConfig {
    pub(crate) dispatcher_id: Uuid,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) sender: Sender,
    pub(crate) schedule: RetrySchedule,
    pub(crate) lease: Duration,
    pub(crate) webhook_concurrency: usize,
    pub(crate) max_in_flight: usize,
    pub(crate) disable_after: Duration,
    pub(crate) metrics: Metrics,
    pub(crate) tracer: Tracer,
    pub(crate) notes: mpsc::Sender<Note>,
    /// Told of results that others wait for.
    pub(crate) awaited: Arc<Notify>,
}

impl Engine {
    pub(crate) fn new(config: EngineConfig) -> Arc<Self> {
        let limits = Limits {
            fast: MAX_FAST,
            total: config.max_in_flight,
            waiting_per_tenant: HIGH_WATER / 2,
            max_wait: MAX_WAIT,
        };
        Arc::new(Self {
            dispatcher_id: config.dispatcher_id,
            clock: config.clock,
            gates: Gates::new(config.sender.deadline().max(LONGEST_TIMEOUT)),
            health_known: SetOnce::new(),
            disable_after: config.disable_after,
            sender: config.sender,
            schedule: config.schedule,
            lease: config.lease,
            webhook_concurrency: config.webhook_concurrency,
            lanes: Mutex::new(Lanes::new(limits)),
            metrics: config.metrics,
            exchanges: ExchangeRoom::default(),
            tracer: config.tracer,
            notes: config.notes,
            awaited: config.awaited,
            room: Notify::new(),
            abandon: CancellationToken::new(),
        })
    }

    /// Starts deliveries, or keeps them in memory for a moment, or parks them.
    pub(crate) async fn submit(self: &Arc<Self>, deliveries: Vec<Delivery>) {
        let mut refused = Vec::new();
        {
            let mut lanes = self.lanes();
            let (now, today) = (Instant::now(), self.clock.now());
            for delivery in deliveries {
                let webhook = &delivery.target.webhook;
                let limit = self.gates.limit(webhook.id, self.usual_limit(webhook.gate.concurrency), today);
                // What holds for all dispatchers together is decided where all see the same.
                let must_wait = webhook.is_metered() && delivery.batch().is_some();
                if limit == 0 || must_wait {
                    refused.push(delivery);
                } else {
                    let lane = (webhook.tenant_id, webhook.id);
                    refused.extend(lanes.submit(lane, delivery, limit, now).err());
                }
            }
            self.start_next(&mut lanes);
        }
        self.park_for_gate(refused, ParkedFor::Gate).await;
    }

    /// Whether more events should be taken over now.
    pub(crate) fn has_room(&self) -> bool {
        self.lanes().waiting() < HIGH_WATER
    }

    /// Whether so many deliveries of a tenant's find no room now, but soon.
    pub(crate) fn has_room_soon(&self, tenant: domain::TenantId, deliveries: usize) -> bool {
        self.lanes().has_room_soon(tenant, deliveries, Instant::now())
    }

    /// How many deliveries of a webhook's could start at once. `concurrency` is its own cap.
    pub(crate) fn room_for(&self, webhook: domain::WebhookId, concurrency: Option<u32>) -> usize {
        let limit = self.gates.limit(webhook, self.usual_limit(concurrency), self.clock.now());
        self.lanes().room(webhook, limit)
    }

    fn usual_limit(&self, concurrency: Option<u32>) -> usize {
        concurrency.and_then(|cap| usize::try_from(cap).ok()).unwrap_or(self.webhook_concurrency)
    }

    /// How long a delivery of this webhook's is leased: longer than an attempt to it.
    pub(crate) fn lease_for(&self, webhook: &domain::Webhook) -> Duration {
        self.lease + self.sender.deadline_for(webhook).saturating_sub(self.sender.deadline())
    }

    /// Requests under way.
    pub(crate) fn under_way(&self) -> usize {
        self.lanes().under_way()
    }

    /// Requests under way, and deliveries that wait in memory.
    pub(crate) fn in_memory(&self) -> (usize, usize) {
        let lanes = self.lanes();
        (lanes.under_way(), lanes.waiting())
    }

    /// Ends every request that is under way. Nothing is recorded of it: its delivery is for another dispatcher.
    pub(crate) fn abandon_requests(&self) {
        self.abandon.cancel();
    }

    /// Parks what has waited in memory for too long.
    pub(crate) async fn park_overdue(self: &Arc<Self>) {
        let overdue = self.lanes().overdue(Instant::now());
        self.park_for_gate(overdue, ParkedFor::Wait).await;
    }

    /// Parks all that waits in memory, due at once, for the other dispatchers.
    pub(crate) async fn park_all(self: &Arc<Self>) {
        let waiting = self.lanes().take_all();
        let now = self.clock.now();
        for delivery in waiting {
            self.park(&delivery, Some(now), ParkedFor::Fault).await;
        }
    }

    /// Ends a delivery whose webhook is gone or off.
    pub(crate) async fn cancel(&self, claimed: &store::ClaimedDelivery) {
        let event = &claimed.event.event;
        let key = claimed.key();
        let attempt = AttemptRecord {
            key: key.clone(),
            tenant_id: claimed.tenant_id,
            event_type: event.event_type.clone(),
            attempt: claimed.attempts,
            started_at: self.clock.now(),
            duration_ms: 0,
            status_code: None,
            error: Some("cancelled"),
            next_attempt_at: None,
            trigger: None,
            exchange: None,
        };
        self.note(Note { attempt: Some(attempt), ..Note::of_state(State::Finished(key), None) }).await;
        self.awaited.notify_one(); // perhaps by the next of its order
    }

    /// Schedules a delivery whose event says when.
    pub(crate) async fn put_off(&self, delivery: &Delivery, until: DateTime<Utc>) {
        self.park(delivery, Some(until), ParkedFor::Scheduled).await;
    }

    /// Tells the recorder, at once if it has room. What has to wait does so behind a pointer: an attempt under way would else
    /// have place for it all the time.
    pub(crate) fn note(&self, note: Note) -> impl Future<Output = ()> + Send {
        // The recorder outlives the engine, so it is gone only when the process is ending the hard way.
        let waiting = match self.notes.try_send(note) {
            Ok(()) | Err(TrySendError::Closed(_)) => None,
            Err(TrySendError::Full(note)) => Some(Box::pin(self.notes.send(note))),
        };
        async move {
            if let Some(waiting) = waiting {
                let _ = waiting.await;
            }
        }
    }

    /// The same, of a delivery. The limits and the order of a metered webhook hold by its rows, and a backlog is taken on as
    /// the rows of it go, so others wait for these.
    fn note_of(&self, delivery: &Delivery, note: Note) -> impl Future<Output = ()> + Send {
        let noted = self.note(note);
        if delivery.target.webhook.is_metered() || matches!(delivery.held(), Held::Yes) {
            self.awaited.notify_one();
        }
        noted
    }

    async fn park_for_gate(&self, deliveries: Vec<Delivery>, reason: ParkedFor) {
        for delivery in deliveries {
            self.park(&delivery, None, reason).await;
        }
    }

    async fn park(&self, delivery: &Delivery, due_at: Option<DateTime<Utc>>, reason: ParkedFor) {
        self.metrics.parked(reason);
        self.note_of(delivery, put_off(delivery, due_at, delivery.batch())).await;
    }

    fn start_next(self: &Arc<Self>, lanes: &mut Lanes<Delivery>) {
        while let Some(delivery) = lanes.next() {
            tokio::spawn(Arc::clone(self).deliver_in_turn(delivery));
        }
    }

    /// Delivers this one, and then what may start in the place that has become free, one after another: a task for each would be
    /// allocated, and moved into it.
    async fn deliver_in_turn(self: Arc<Self>, mut delivery: Delivery) {
        loop {
            let mut place = Place { engine: &self, webhook: delivery.target.webhook.id, pace: Pace::Fast };
            self.deliver(&delivery, &mut place).await;
            let Some(next) = place.leave() else { return };
            delivery = next;
        }
    }

    async fn deliver(&self, delivery: &Delivery, place: &mut Place<'_>) {
        let now = self.clock.now();
        if let Origin::Row { leased_until, .. } = delivery.origin
            && leased_until < now + self.sender.deadline_for(&delivery.target.webhook)
        {
            // It has waited here for so long that another dispatcher may take it before the attempt ends.
            debug!("a lease is too old to start an attempt under");
            return self.park(delivery, Some(now), ParkedFor::Wait).await;
        }
        if !self.gates.admit(place.webhook, now) {
            // The gate opened, or another probes it, since this was put in its lane.
            return self.park(delivery, None, ParkedFor::Gate).await;
        }
        let attempt = AssertUnwindSafe(self.attempt(delivery, now, place)).catch_unwind();
        let followed = tokio::select! {
            followed = attempt => followed,
            () = self.abandon.cancelled() => return,
        };
        if followed.is_err() {
            error!("an attempt met a defect; the delivery is tried again later");
            self.metrics.parked(ParkedFor::Fault);
            // A stuck one has settled its batch before.
            let batch = delivery.batch().filter(|_| place.pace != Pace::Stuck);
            self.note_of(delivery, put_off(delivery, Some(self.after_fault()), batch)).await;
        }
    }

    async fn attempt(&self, delivery: &Delivery, now: DateTime<Utc>, place: &mut Place<'_>) {
        match spans::begin_attempt(&self.tracer, delivery, now) {
            None => self.attempt_in(None, delivery, now, place).await,
            Some(open) => {
                let attempt = self.attempt_in(Some(&open), delivery, now, place);
                Box::pin(attempt.instrument(open.log_span())).await;
            }
        }
    }

    async fn attempt_in(
        &self,
        span: Option<&Open>,
        delivery: &Delivery,
        now: DateTime<Utc>,
        place: &mut Place<'_>,
    ) {
        let (target, event) = (&delivery.target, &delivery.accepted.event);
        let trace = span.map(|open| &open.context);
        let request = self.sender.send_in_trace(target, event, now, Capture::Failures, trace);
        tokio::pin!(request);
        let mut batch = delivery.batch();
        let mut attempted = timeout(SLOW_AFTER, &mut request).await.ok();
        if attempted.is_none() {
            place.became_slow();
            attempted = timeout(STUCK_AFTER - SLOW_AFTER, &mut request).await.ok();
        }
        let attempted = match attempted {
            Some(attempted) => attempted,
            None => {
                place.became_stuck();
                if let Some(batch) = batch.take() {
                    self.metrics.parked(ParkedFor::Stuck);
                    let leased_until = now + self.lease_for(&delivery.target.webhook);
                    let (attempts, holder) = (delivery.attempts, Some(self.dispatcher_id));
                    let parked = parked(delivery, Some(batch), attempts, Some(leased_until), holder);
                    self.note_of(delivery, Note::of_state(State::Parked(parked), Some(batch))).await;
                }
                request.await
            }
        };
        let note = match attempted {
            Ok(attempted) => {
                if let Some(open) = span {
                    spans::end_attempt(&self.tracer, open.clone(), delivery, &attempted);
                }
                self.conclude(delivery, attempted, now, batch)
            }
            Err(fault) => {
                debug!(event = %delivery.accepted.event.id, ?fault, "not attempted, for a fault of ours");
                self.metrics.parked(ParkedFor::Fault);
                let due_at = self.after_fault();
                match fault {
                    Fault::NameServers => {}
                    // All others of this webhook would end the same way.
                    Fault::Secret => self.gates.rest(place.webhook, due_at),
                }
                put_off(delivery, Some(due_at), batch)
            }
        };
        self.note_of(delivery, note).await;
    }

    fn after_fault(&self) -> DateTime<Utc> {
        self.clock.now() + AFTER_FAULT.mul_f64(0.9 + 0.2 * rand::random::<f64>())
    }

    fn conclude(
        &self,
        delivery: &Delivery,
        attempted: Attempted,
        started_at: DateTime<Utc>,
        batch: Option<store::BatchId>,
    ) -> Note {
        let attempt = delivery.attempts + 1;
        let outcome = attempted.outcome;
        let ended_at = started_at + attempted.duration;
        let own_schedule = delivery.target.webhook.delivery.retry_schedule.as_ref();
        let schedule = own_schedule.unwrap_or(&self.schedule);
        let next = schedule.next(attempt, outcome, ended_at, attempted.retry_after, rand::random());
        self.count(delivery, &attempted, next, started_at);
        let key = delivery.key();
        let tenant_id = delivery.target.webhook.tenant_id;
        debug!(webhook = %key.webhook_id, event = %key.event_id, attempt, ?outcome, ?next, "attempted");
        let (exchange, place) =
            attempted.exchange.and_then(|exchange| self.exchanges.keep(*exchange)).unzip();
        let record = AttemptRecord {
            key: key.clone(),
            tenant_id,
            event_type: delivery.accepted.event.event_type.clone(),
            attempt,
            started_at,
            duration_ms: u32::try_from(attempted.duration.as_millis()).unwrap_or(u32::MAX),
            status_code: attempted.status_code,
            error: outcome.cause().map(Cause::code),
            next_attempt_at: match next {
                Next::RetryAt(at) => Some(at),
                Next::Done | Next::GiveUp => None,
            },
            trigger: trigger(delivery),
            exchange,
        };
        let webhook = key.webhook_id;
        let usual = self.usual_limit(delivery.target.webhook.gate.concurrency);
        let Learned { news, limit } =
            self.gates.record(webhook, outcome, attempted.retry_after, usual, ended_at);
        if let Some(limit) = limit {
            self.lanes().set_limit(webhook, limit);
        }
        let disable = match outcome {
            Outcome::Permanent(Cause::Gone) => Some((tenant_id, webhook, DisabledReason::Gone)),
            Outcome::Permanent(_) | Outcome::Retryable(_) if self.is_hopeless(webhook, ended_at) => {
                Some((tenant_id, webhook, DisabledReason::Failing))
            }
            Outcome::Permanent(_) | Outcome::Retryable(_) | Outcome::Delivered => None,
        };
        let state = match next {
            Next::RetryAt(at) => State::Parked(parked(delivery, batch, attempt, Some(at), None)),
            // Only a delivery that settles its batch right here has no row.
            Next::Done | Next::GiveUp if batch.is_none() => State::Finished(key),
            Next::Done | Next::GiveUp => State::Done,
        };
        let is_told = |health: &Health| {
            health.is_worth_telling() && !delivery.accepted.event.event_type.is_about_deliveries()
        };
        let health = news.map(|health| HealthNews { webhook_id: webhook, is_told: is_told(&health), health });
        Note { attempt: Some(record), place, state, batch, health, disable }
    }

    fn count(&self, delivery: &Delivery, attempted: &Attempted, next: Next, started_at: DateTime<Utc>) {
        let accepted_at = delivery.accepted.published_at;
        self.metrics.attempted(attempted.outcome, next, attempted.duration);
        if delivery.attempts == 0 {
            self.metrics.first_attempt(started_at - accepted_at, delivery.held());
        }
        match next {
            Next::Done => self.metrics.delivered(started_at + attempted.duration - accepted_at),
            Next::RetryAt(_) => self.metrics.parked(ParkedFor::Retry),
            Next::GiveUp => {}
        }
    }

    fn is_hopeless(&self, webhook: domain::WebhookId, now: DateTime<Utc>) -> bool {
        self.gates.health(webhook).is_hopeless(now, self.disable_after)
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes<Delivery>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What makes the next attempt of a delivery, where its number does not tell.
fn trigger(delivery: &Delivery) -> Option<Trigger> {
    match delivery.origin {
        _ if delivery.attempts > 0 => None,
        Origin::Row { .. } if delivery.is_resend => Some(Trigger::Resend),
        Origin::Row { .. } => Some(Trigger::First),
        Origin::Batch(_) => None,
    }
}

/// A delivery that is not attempted now goes on later: that uses up no attempt, and says nothing about the webhook.
fn put_off(delivery: &Delivery, due_at: Option<DateTime<Utc>>, batch: Option<store::BatchId>) -> Note {
    Note::of_state(State::Parked(parked(delivery, batch, delivery.attempts, due_at, None)), batch)
}

/// `batch` is the one that waits for it, if it has no row yet.
fn parked(
    delivery: &Delivery,
    batch: Option<store::BatchId>,
    attempts: u32,
    due_at: Option<DateTime<Utc>>,
    leased_by: Option<Uuid>,
) -> Parked {
    Parked {
        key: delivery.key(),
        tenant_id: delivery.target.webhook.tenant_id,
        accepted_at: delivery.accepted.at,
        attempts,
        due_at,
        leased_by,
        batch,
    }
}

/// The place of a request in its webhook's lane. Dropping it, as a panic does, frees the place and starts the next.
struct Place<'a> {
    engine: &'a Arc<Engine>,
    webhook: domain::WebhookId,
    pace: Pace,
}

impl Place<'_> {
    fn became_slow(&mut self) {
        self.pace = Pace::Slow;
        let mut lanes = self.engine.lanes();
        lanes.became_slow(self.webhook);
        self.engine.start_next(&mut lanes);
    }

    fn became_stuck(&mut self) {
        self.pace = Pace::Stuck;
        self.engine.lanes().became_stuck(self.webhook);
    }

    /// Frees the place, and gives the delivery that is to start in it.
    fn leave(self) -> Option<Delivery> {
        ManuallyDrop::new(self).free()
    }

    fn free(&mut self) -> Option<Delivery> {
        let mut lanes = self.engine.lanes();
        lanes.finished(self.webhook, self.pace, Instant::now());
        let next = lanes.next();
        self.engine.start_next(&mut lanes);
        drop(lanes);
        self.engine.room.notify_waiters();
        next
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(next) = self.free() {
            tokio::spawn(Arc::clone(self.engine).deliver_in_turn(next));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How large what a function returns is, without calling it.
    const fn size_of_returned<A, B, R>(_: &impl Fn(A, B) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn ten_thousand_attempts_under_way_need_little_memory() {
        let bytes = size_of_returned(&Engine::deliver_in_turn);
        assert!((100..=1_800).contains(&bytes), "each has {bytes} bytes of its own");
    }
}
