//! Takes events over from the broker: stored and leased in one transaction, then acknowledged, then routed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use broker::{Consumer, DeadLetters, Message, Reason, Rejection};
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use domain::{Backoff, Event, TenantId, Webhook, check_deliver_at};
use futures_util::future::BoxFuture;
use store::{BatchId, DeliveryKey, Handed, Lease, OrderedDelivery, Store, StoreError};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use traces::Tracer;
use tracing::{debug, warn};

use crate::delivery::{Accepted, Delivery, Origin};
use crate::engine::Engine;
use crate::feeding::Feeding;
use crate::gathering::Gathering;
use crate::metrics::{HandedOver, Metrics};
use crate::recorder::{Note, OpenBatches, State};
use crate::routing::Routing;
use crate::spans;

/// Most events in one transaction, unless a single message holds more.
const MAX_EVENTS: usize = 500;
/// Most bytes of events in one transaction, unless a single message holds more.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// How often room is looked for while there is none.
const ROOM_CHECK: Duration = Duration::from_millis(50);

/// The task that takes events over.
pub(crate) struct HandOver {
    pub(crate) store: Store,
    pub(crate) consumer: Consumer,
    pub(crate) dead_letters: Arc<DeadLetters>,
    pub(crate) routing: Arc<Routing>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) feeding: Arc<Feeding>,
    pub(crate) open_batches: Arc<OpenBatches>,
    pub(crate) metrics: Metrics,
    pub(crate) tracer: Tracer,
    pub(crate) lease: Duration,
    /// How long events are kept.
    pub(crate) retention: TimeDelta,
    /// Whether the events come in the order in which they were accepted, and only through this one dispatcher.
    pub(crate) in_order: bool,
    /// Told when something has come to wait for its turn.
    pub(crate) waiting: Arc<Notify>,
    pub(crate) stop: CancellationToken,
}

/// What is known of one event after the hand-over.
#[derive(Debug, Clone)]
enum Verdict {
    Stored { place: (BatchId, i32), day: NaiveDate, at: DateTime<Utc>, webhooks_version: i64 },
    Repeated,
    Rejected(Reason, String),
}

impl Verdict {
    /// Why it is not taken over, unless it is, or was before.
    fn refusal(&self) -> Option<&'static str> {
        match self {
            Self::Rejected(reason, _) => Some(reason.code()),
            Self::Stored { .. } | Self::Repeated => None,
        }
    }
}

impl HandOver {
    /// Works until told to stop. Messages that are not taken over by then go back to the broker.
    pub(crate) async fn run(mut self) {
        let mut gathering = Gathering::default();
        while let Some(messages) = self.next_messages(&mut gathering).await {
            self.take_over(messages).await;
        }
        self.feeding.finish().await;
    }

    /// Waits for room and for a message, then takes what else is there at this moment, or a little later if that is much.
    async fn next_messages(&mut self, gathering: &mut Gathering) -> Option<Vec<Message>> {
        while !self.engine.has_room() {
            tokio::select! {
                () = self.engine.room.notified() => {}
                () = sleep(ROOM_CHECK) => {}
                () = self.stop.cancelled() => return None,
            }
        }
        let first = tokio::select! {
            message = self.consumer.receive() => message?,
            () = self.stop.cancelled() => return None,
        };
        let (mut events, mut bytes) = (first.events.len(), body_bytes(&first));
        let mut messages = vec![first];
        self.take_waiting(&mut messages, &mut events, &mut bytes);
        gathering.wait(events, MAX_EVENTS).await;
        self.take_waiting(&mut messages, &mut events, &mut bytes);
        gathering.gathered(events);
        Some(messages)
    }

    fn take_waiting(&mut self, messages: &mut Vec<Message>, events: &mut usize, bytes: &mut usize) {
        while *events < MAX_EVENTS && *bytes < MAX_BYTES {
            let Some(message) = self.consumer.try_receive() else { break };
            *events += message.events.len();
            *bytes += body_bytes(&message);
            messages.push(message);
        }
    }

    async fn take_over(&self, mut messages: Vec<Message>) {
        let mut events = Vec::new();
        let mut message_of = Vec::new();
        for (index, message) in messages.iter_mut().enumerate() {
            self.reject_too_late(message);
            message_of.extend(std::iter::repeat_n(index, message.events.len()));
            events.append(&mut message.events);
        }
        debug!(messages = messages.len(), events = events.len(), "taking over");
        let from_gateway = |place: usize| messages[message_of[place]].from_gateway;
        let now = self.engine.clock.now();
        let begun = spans::begin_hand_over(&self.tracer, &mut events, now, from_gateway);
        let began = Instant::now();
        let Some((verdicts, batches)) = self.store_events(&events, from_gateway).await else {
            return; // nothing is acknowledged: the broker delivers the messages again
        };
        self.count(&messages, &verdicts, began.elapsed());
        for (place, open) in begun {
            let (event, message, ended_at) =
                (&events[place], &messages[message_of[place]], now + began.elapsed());
            spans::end_hand_over(&self.tracer, open, event, message, ended_at, verdicts[place].refusal());
        }

        let mut accepted: HashMap<BatchId, Vec<(Accepted, i64)>> =
            batches.into_iter().map(|batch| (batch, Vec::new())).collect();
        for ((event, verdict), message) in events.into_iter().zip(verdicts).zip(message_of) {
            match verdict {
                Verdict::Stored { place, day, at, webhooks_version } => {
                    let published_at = messages[message].published_at.unwrap_or(at);
                    let event = Accepted { event, at, published_at, day, place };
                    accepted.entry(place.0).or_default().push((event, webhooks_version));
                }
                Verdict::Repeated => debug!(event = %event.id, "a repeated event is dropped"),
                Verdict::Rejected(reason, detail) => {
                    messages[message].rejections.push(Rejection::of_event(reason, detail, &event));
                }
            }
        }
        for message in messages {
            self.acknowledge(message);
        }
        for (batch, events) in accepted {
            self.route(batch, events).await;
        }
    }

    /// Takes out what is to be delivered so late that it would not be kept until then.
    fn reject_too_late(&self, message: &mut Message) {
        if message.events.iter().all(|event| event.deliver_at.is_none()) {
            return;
        }
        let now = self.engine.clock.now();
        for event in std::mem::take(&mut message.events) {
            match event.deliver_at.map_or(Ok(()), |at| check_deliver_at(at, now, self.retention)) {
                Ok(()) => message.events.push(event),
                Err(late) => {
                    message.rejections.push(Rejection::of_event(Reason::BadEvent, late.to_string(), &event));
                }
            }
        }
    }

    fn count(&self, messages: &[Message], verdicts: &[Verdict], time: Duration) {
        let now = self.engine.clock.now();
        for published_at in messages.iter().filter_map(|message| message.published_at) {
            self.metrics.queue_lag(published_at, now);
        }
        if !verdicts.is_empty() {
            self.metrics.handed_over_batch(verdicts.len(), time);
        }
        for verdict in verdicts {
            self.metrics.handed_over(match verdict {
                Verdict::Stored { .. } => HandedOver::Stored,
                Verdict::Repeated => HandedOver::Repeated,
                Verdict::Rejected(..) => HandedOver::Rejected,
            });
        }
    }

    /// Stores events, however long the database is away, and gives a verdict on each and the batches that were opened.
    /// `None` when the process is to stop before that.
    async fn store_events(
        &self,
        events: &[Event],
        from_gateway: impl Fn(usize) -> bool,
    ) -> Option<(Vec<Verdict>, Vec<BatchId>)> {
        let all: Vec<&Event> = events.iter().collect();
        let mut batches = Vec::new();
        let mut verdicts = self.store_some(&all, &mut batches).await?;
        // The gateway has verified its callers, and makes their tenants known unless the database is away just then.
        let new: Vec<usize> = (0..events.len())
            .filter(|place| matches!(verdicts[*place], Verdict::Rejected(Reason::UnknownTenant, _)))
            .filter(|place| from_gateway(*place))
            .collect();
        if !new.is_empty() {
            let tenants: Vec<TenantId> = new.iter().map(|place| events[*place].tenant_id).collect();
            match persist(&self.stop, "tenants", || self.store.ensure_tenants(&tenants)).await {
                Ok(()) | Err(NotPersisted::Refused(_)) => {}
                Err(NotPersisted::Stopping) => return None,
            }
            let again: Vec<&Event> = new.iter().map(|place| &events[*place]).collect();
            for (place, verdict) in new.into_iter().zip(self.store_some(&again, &mut batches).await?) {
                verdicts[place] = verdict;
            }
        }
        Some((verdicts, batches))
    }

    fn store_some<'a>(
        &'a self,
        events: &'a [&'a Event],
        batches: &'a mut Vec<BatchId>,
    ) -> BoxFuture<'a, Option<Vec<Verdict>>> {
        Box::pin(async move {
            if events.is_empty() {
                return Some(Vec::new());
            }
            let mut at = self.engine.clock.now();
            let hand_over = || {
                at = self.engine.clock.now();
                let lease = Lease { holder: self.engine.dispatcher_id, until: at + self.lease };
                self.store.hand_over(events, at, lease, self.in_order)
            };
            match persist(&self.stop, "events", hand_over).await {
                Ok(handed) => {
                    batches.push(handed.batch);
                    let places = (1..).map(|position| (handed.batch, position));
                    let judged = events.iter().zip(handed.events).zip(places);
                    let verdict = |((event, result), place): ((&&Event, _), _)| {
                        judge(event, result, place, handed.day, at)
                    };
                    Some(judged.map(verdict).collect())
                }
                Err(NotPersisted::Stopping) => None,
                // One value that the database refuses must not hold up the others: halve until it is alone.
                Err(NotPersisted::Refused(_)) if events.len() > 1 => {
                    let (left, right) = events.split_at(events.len() / 2);
                    let mut verdicts = self.store_some(left, batches).await?;
                    verdicts.extend(self.store_some(right, batches).await?);
                    Some(verdicts)
                }
                Err(NotPersisted::Refused(reason)) => Some(vec![Verdict::Rejected(Reason::BadEvent, reason)]),
            }
        })
    }

    /// Acknowledges a message, after what is wrong with it has reached the dead letters.
    fn acknowledge(&self, mut message: Message) {
        if message.rejections.is_empty() {
            return message.ack();
        }
        let (dead_letters, metrics) = (Arc::clone(&self.dead_letters), self.metrics.clone());
        let stop = self.stop.clone();
        tokio::spawn(async move {
            for rejection in std::mem::take(&mut message.rejections) {
                warn!(
                    reason = rejection.reason.code(),
                    detail = rejection.detail,
                    "an event is dead-lettered"
                );
                tokio::select! {
                    () = dead_letters.put(&rejection, &message.exchange, &message.routing_key) => {
                        metrics.dead_letter(rejection.reason);
                    }
                    () = gave_up(&stop) => return, // the broker delivers the message again
                }
            }
            message.ack();
        });
    }

    async fn route(&self, batch: BatchId, events: Vec<(Accepted, i64)>) {
        let mut versions: HashMap<TenantId, i64> = HashMap::new();
        for (accepted, version) in &events {
            let newest = versions.entry(accepted.event.tenant_id).or_insert(*version);
            *newest = (*newest).max(*version);
        }
        if persist(&self.stop, "webhooks", || self.routing.refresh(&versions)).await.is_err() {
            return; // the batch comes back when its lease runs out
        }
        let mut deliveries = Vec::with_capacity(events.len());
        let (mut ordered, mut put_off) = (Vec::new(), Vec::new());
        for (accepted, _) in events {
            let accepted = Arc::new(accepted);
            let until = accepted.event.put_off_until(accepted.at);
            for target in self.routing.matching(&accepted.event) {
                if target.webhook.gate.is_ordered && until.is_none() {
                    ordered.push(ordered_delivery(&target.webhook, &accepted));
                    continue;
                }
                let accepted = Arc::clone(&accepted);
                let origin = Origin::Batch(batch);
                let delivery = Delivery { target, accepted, attempts: 0, is_resend: false, origin };
                match until {
                    None => deliveries.push(delivery),
                    Some(until) => put_off.push((delivery, until)),
                }
            }
        }
        debug!(batch, deliveries = deliveries.len(), ordered = ordered.len(), "a batch is routed");
        if self.in_order || !ordered.is_empty() {
            let holder = self.engine.dispatcher_id;
            let place = || self.store.place_in_order(batch, holder, &ordered);
            match persist(&self.stop, "ordered deliveries", place).await {
                Ok(true) => self.waiting.notify_one(),
                // Another dispatcher has taken the batch over, or will when its lease runs out.
                Ok(false) | Err(_) => return,
            }
        }
        self.open_batches.open(batch, (deliveries.len() + put_off.len()).max(1));
        if deliveries.is_empty() && put_off.is_empty() {
            self.engine.note(Note::of_state(State::Done, Some(batch))).await;
        }
        for (delivery, until) in put_off {
            self.engine.put_off(&delivery, until).await;
        }
        self.feeding.submit(deliveries).await;
    }
}

fn ordered_delivery(webhook: &Webhook, accepted: &Accepted) -> OrderedDelivery {
    OrderedDelivery {
        key: DeliveryKey {
            webhook_id: webhook.id,
            event_id: accepted.event.id.clone(),
            event_day: accepted.day,
        },
        tenant_id: webhook.tenant_id,
        accepted_at: accepted.at,
        sequence: store::sequence(accepted.place),
        ordering_key: accepted.event.order().to_owned(),
    }
}

fn judge(event: &Event, handed: Handed, place: (BatchId, i32), day: NaiveDate, at: DateTime<Utc>) -> Verdict {
    match handed {
        Handed::Stored { webhooks_version } => Verdict::Stored { place, day, at, webhooks_version },
        Handed::Repeated => Verdict::Repeated,
        Handed::UnknownTenant => {
            Verdict::Rejected(Reason::UnknownTenant, format!("tenant {} is not known", event.tenant_id))
        }
        Handed::UnknownType => {
            let detail = format!("event type {} is not in the catalogue", event.event_type);
            Verdict::Rejected(Reason::UnknownType, detail)
        }
    }
}

/// Why something was not written down.
enum NotPersisted {
    /// The database refuses a value, for this reason.
    Refused(String),
    /// The process is to stop, and the database stays away.
    Stopping,
}

/// Asks the database again until it answers.
async fn persist<T, F>(
    stop: &CancellationToken,
    what: &str,
    mut ask: impl FnMut() -> F,
) -> Result<T, NotPersisted>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut backoff = Backoff::default();
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(StoreError::Refused(reason)) => return Err(NotPersisted::Refused(reason)),
            Err(error) => {
                let wait = backoff.next(rand::random());
                warn!(%error, wait_ms = wait.as_millis(), "{what} wait for the database");
                tokio::select! {
                    () = sleep(wait) => {}
                    () = gave_up(stop) => return Err(NotPersisted::Stopping),
                }
            }
        }
    }
}

/// Ends a little after `stop`, so that a last try has its chance.
async fn gave_up(stop: &CancellationToken) {
    stop.cancelled().await;
    sleep(Duration::from_secs(3)).await;
}

fn body_bytes(message: &Message) -> usize {
    message.events.iter().map(|event| event.body.len()).sum()
}
