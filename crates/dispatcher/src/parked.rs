//! Takes on deliveries that have a row: those that are due, those that wait for their webhook's gate, and those of
//! dispatchers that went silent.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{Backoff, WebhookId};
use store::{ClaimedDelivery, Lease, Store, StoreError, WaitingWebhook};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::delivery::{Accepted, Delivery, Origin};
use crate::engine::Engine;
use crate::metrics::{Held, Metrics};
use crate::recorder::OpenBatches;
use crate::routing::Routing;
use crate::upkeep::rest;

/// Due deliveries in memory at a time. Their own, so that neither new events nor waiting deliveries starve them.
const MAX_DUE: usize = 512;
/// Deliveries in memory at a time that waited for their webhook's gate.
const MAX_WAITING: usize = 512;
/// Most deliveries taken on by one query.
const MAX_CLAIM: usize = 256;
/// Most due deliveries of one webhook taken on by one query; the rest wait for its gate.
const MAX_CLAIM_PER_WEBHOOK: usize = 16;
/// Webhooks looked at in one round of the gates.
const WEBHOOKS_PER_ROUND: usize = 500;
/// How soon gates are looked at again, at the soonest.
const WAITING_PAUSE: Duration = Duration::from_millis(5);
/// How soon again while nothing may go, or nothing more: less than the time for which an unused rate is kept.
const HELD_PAUSE: Duration = Duration::from_millis(25);
/// Batches taken over in one round.
const BATCHES_PER_ROUND: usize = 20;

/// What is due after a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// Nothing more, or there is no room for it.
    None,
    /// More may be.
    More,
    /// More of webhooks whose deliveries were just set to wait. Setting so many rows to wait keeps the database busy, so half
    /// of its time is left to others.
    Backlog,
}

/// What a round of the gates came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    /// Nothing waits for a gate that could let it through soon.
    Idle,
    /// Something waits for others: for a request to end, or for its turn.
    Blocked,
    /// What waits, or is left, waits for its rate.
    Held,
    /// Something was taken on: likely more can be.
    TookOn,
}

impl Round {
    fn pause(self) -> Duration {
        match self {
            Self::TookOn => WAITING_PAUSE,
            Self::Idle | Self::Blocked | Self::Held => HELD_PAUSE,
        }
    }
}

/// What the three tasks share.
#[derive(Clone)]
pub(crate) struct ParkedDeliveries {
    pub(crate) store: Store,
    pub(crate) routing: Arc<Routing>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) open_batches: Arc<OpenBatches>,
    pub(crate) metrics: Metrics,
    /// How long a delivery is leased.
    pub(crate) lease: Duration,
    /// How long a batch is leased.
    pub(crate) batch_lease: Duration,
    pub(crate) poll_interval: Duration,
    /// Deliveries a second of a backlog, unless its webhook says otherwise.
    pub(crate) drain_rate: u32,
    /// Told when something may have come to wait for its webhook's gate.
    pub(crate) waiting: Arc<Notify>,
    pub(crate) stop: CancellationToken,
}

impl ParkedDeliveries {
    /// Takes on what is due, until told to stop.
    pub(crate) async fn run_due(self) {
        let permits = Arc::new(Semaphore::new(MAX_DUE));
        let mut backoff = Backoff::default();
        let mut due = Due::None;
        while !self.stop.is_cancelled() {
            let began = Instant::now();
            let room = permits.available_permits().min(MAX_CLAIM);
            match self.claim_due(room, due, &permits).await {
                Ok(found) => {
                    due = found;
                    backoff.reset();
                    let pause = match due {
                        Due::None => self.poll_interval,
                        Due::More => Duration::ZERO,
                        Due::Backlog => began.elapsed(),
                    };
                    rest(pause, &self.stop).await;
                }
                Err(error) => {
                    due = Due::None;
                    self.rest_after(&error, "due deliveries", &mut backoff).await;
                }
            }
        }
    }

    /// Takes on what waits for gates that have room, until told to stop.
    pub(crate) async fn run_waiting(self) {
        let permits = Arc::new(Semaphore::new(MAX_WAITING));
        let mut backoff = Backoff::default();
        let mut after = None;
        while !self.stop.is_cancelled() {
            match self.claim_waiting(after, &permits).await {
                Ok((next, round)) => {
                    backoff.reset();
                    after = next;
                    // Never look again at once, or what the lanes give back would go round and round.
                    rest(round.pause(), &self.stop).await;
                    if matches!(round, Round::Idle | Round::Blocked) {
                        tokio::select! {
                            () = self.waiting.notified() => {}
                            () = rest(self.poll_interval, &self.stop) => {}
                        }
                    }
                }
                Err(error) => self.rest_after(&error, "waiting deliveries", &mut backoff).await,
            }
        }
    }

    /// Takes over batches whose dispatcher went silent, until told to stop.
    pub(crate) async fn run_take_over(self) {
        let mut backoff = Backoff::default();
        while !self.stop.is_cancelled() {
            match self.take_over_batches().await {
                Ok(()) => {
                    backoff.reset();
                    rest(self.batch_lease / 10, &self.stop).await;
                }
                Err(error) => self.rest_after(&error, "open batches", &mut backoff).await,
            }
        }
    }

    /// A backlog is set to wait even while there is no room to take any of it on: others are due behind it.
    async fn claim_due(&self, room: usize, last: Due, permits: &Arc<Semaphore>) -> Result<Due, StoreError> {
        if room == 0 && last != Due::Backlog {
            return Ok(Due::None);
        }
        let now = self.engine.clock.now();
        if last == Due::Backlog {
            let due = self.store.set_waiting(now).await?;
            if due.set_waiting {
                self.waiting.notify_one();
            }
            if due.more {
                return Ok(Due::Backlog);
            }
        }
        let lease = self.lease_from(now);
        let due = self.store.claim_due(now, room, MAX_CLAIM_PER_WEBHOOK, lease).await?;
        if due.set_waiting {
            self.waiting.notify_one();
        }
        let claimed = self.take_on(due.deliveries, lease, Held::No, permits).await?;
        Ok(match (due.more, due.set_waiting) {
            (true, true) => Due::Backlog,
            (true, false) if room > 0 => Due::More,
            (false, _) if room > 0 && claimed == room => Due::More,
            (_, _) => Due::None,
        })
    }

    async fn claim_waiting(
        &self,
        after: Option<WebhookId>,
        permits: &Arc<Semaphore>,
    ) -> Result<(Option<WebhookId>, Round), StoreError> {
        let webhooks = self.store.waiting_webhooks(after, WEBHOOKS_PER_ROUND).await?;
        let next = webhooks.last().map(|last| last.id).filter(|_| webhooks.len() == WEBHOOKS_PER_ROUND);
        let webhooks: Vec<WaitingWebhook> =
            webhooks.into_iter().filter(|webhook| !webhook.is_paused).collect();
        // Shared out evenly, so that one webhook's backlog does not take all there is.
        let share = permits.available_permits().min(MAX_CLAIM).div_ceil(webhooks.len().max(1));
        let mut left = permits.available_permits().min(MAX_CLAIM);
        let (mut plain, mut metered) = (Vec::new(), Vec::new());
        let mut is_paced = false;
        let waiting = webhooks.len();
        for webhook in webhooks {
            let room = self.engine.room_for(webhook.id, webhook.concurrency).min(share).min(left);
            if room > 0 {
                left -= room;
                is_paced |= webhook.is_paced;
                if webhook.is_metered { &mut metered } else { &mut plain }.push((webhook.id, room));
            }
        }
        let now = self.engine.clock.now();
        let lease = self.lease_from(now);
        let (mut taken_on, mut is_held) = (0, false);
        if !plain.is_empty() {
            let claimed = self.store.claim_waiting(&plain, lease).await?;
            taken_on += self.take_on(claimed, lease, Held::Yes, permits).await?;
        }
        if !metered.is_empty() {
            let claimed = self.store.claim_metered(&metered, self.drain_rate, now, lease).await?;
            // Those that were not asked for, here or in another round, are looked at soon: room comes sooner than a rate does.
            is_held = claimed.is_held_by_rate && metered.len() == waiting && next.is_none();
            taken_on += self.take_on(claimed.deliveries, lease, Held::Yes, permits).await?;
        }
        let round = match taken_on {
            0 if metered.is_empty() => Round::Idle,
            0 if is_paced => Round::Held,
            0 => Round::Blocked,
            _ if is_held => Round::Held,
            _ => Round::TookOn,
        };
        Ok((next, round))
    }

    async fn take_on(
        &self,
        claimed: Vec<ClaimedDelivery>,
        lease: Lease,
        held: Held,
        permits: &Arc<Semaphore>,
    ) -> Result<usize, StoreError> {
        let tenants: HashSet<_> = claimed.iter().map(|delivery| delivery.tenant_id).collect();
        self.routing.refresh_now(tenants).await?;
        let count = claimed.len();
        let until = self.extend_leases(&claimed, lease).await?;
        let mut deliveries = Vec::with_capacity(count);
        for claimed in claimed {
            let target = self.routing.active(claimed.tenant_id, claimed.webhook_id);
            // One whose event was erased while it was under way has come back.
            let Some(target) = target.filter(|_| claimed.event.erased_at.is_none()) else {
                self.engine.cancel(&claimed).await;
                continue;
            };
            // There is one for each: no more was claimed than there were permits, and nobody else takes any.
            let Ok(permit) = Arc::clone(permits).acquire_owned().await else { break };
            let event = claimed.event;
            let leased_until = until.get(&claimed.webhook_id).copied().unwrap_or(lease.until);
            deliveries.push(Delivery {
                target,
                accepted: Arc::new(Accepted {
                    event: event.event,
                    at: event.accepted_at,
                    published_at: event.accepted_at,
                    day: event.day,
                    place: event.place,
                }),
                attempts: claimed.attempts,
                is_resend: claimed.is_resend,
                origin: Origin::Row { leased_until, held, _permit: permit },
            });
        }
        self.engine.submit(deliveries).await;
        Ok(count)
    }

    /// Holds deliveries of webhooks that wait longer for an answer than others for longer, and says which and until when.
    async fn extend_leases(
        &self,
        claimed: &[ClaimedDelivery],
        lease: Lease,
    ) -> Result<HashMap<WebhookId, DateTime<Utc>>, StoreError> {
        let mut extended: HashMap<WebhookId, DateTime<Utc>> = HashMap::new();
        let mut keys = Vec::new();
        for claimed in claimed {
            let target = self.routing.active(claimed.tenant_id, claimed.webhook_id);
            let needed = target.map(|target| self.engine.lease_for(&target.webhook)).unwrap_or_default();
            if needed > self.lease {
                let until = lease.until + (needed - self.lease);
                extended.insert(claimed.webhook_id, until);
                keys.push((claimed.key(), until));
            }
        }
        if !keys.is_empty() {
            self.store.extend_leases(&keys, lease.holder).await?;
        }
        Ok(extended)
    }

    async fn take_over_batches(&self) -> Result<(), StoreError> {
        for _ in 0..BATCHES_PER_ROUND {
            let now = self.engine.clock.now();
            let lease = Lease { holder: self.engine.dispatcher_id, until: now + self.batch_lease };
            let Some(batch) = self.store.take_over_batch(now, lease, &self.open_batches.ids()).await? else {
                return Ok(());
            };
            let tenants = batch.events.iter().map(|stored| stored.event.tenant_id).collect();
            self.routing.refresh_now(tenants).await?;
            let mut deliveries = Vec::new();
            for stored in batch.events.iter().filter(|stored| stored.erased_at.is_none()) {
                let matching = self.routing.matching(&stored.event);
                deliveries.extend(matching.into_iter().map(|target| (target, stored)));
            }
            let deliveries: Vec<_> =
                deliveries.iter().map(|(target, stored)| (&target.webhook, *stored)).collect();
            let resumed = self.store.resume_batch(batch.id, lease.holder, &deliveries, now).await?;
            self.metrics.taken_over();
            info!(
                batch = batch.id,
                events = batch.events.len(),
                deliveries = resumed,
                "a batch was taken over from a dispatcher that went silent"
            );
        }
        Ok(())
    }

    fn lease_from(&self, now: DateTime<Utc>) -> Lease {
        Lease { holder: self.engine.dispatcher_id, until: now + self.lease }
    }

    async fn rest_after(&self, error: &StoreError, what: &str, backoff: &mut Backoff) {
        let wait = backoff.next(rand::random());
        warn!(%error, wait_ms = wait.as_millis(), "{what} wait for the database");
        rest(wait, &self.stop).await;
    }
}
