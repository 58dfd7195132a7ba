//! Writes results down, many in one transaction.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use domain::{Backoff, Clock, DisabledReason, TenantId, WebhookId};
use futures_util::future::BoxFuture;
use store::{AttemptRecord, Batch, BatchId, DeliveryKey, HealthNews, Parked, Store, StoreError};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::exchanges::ExchangePlace;
use crate::gathering::Gathering;
use crate::metrics::Metrics;

/// Most results in one transaction.
const MAX_RESULTS: usize = 500;
/// Bytes of exchanges after which no more results are taken into a transaction.
const MAX_EXCHANGE_BYTES: usize = 1024 * 1024;

/// Something to write down about one delivery.
#[derive(Debug)]
pub(crate) struct Note {
    /// A row for the history, if an attempt was made.
    pub(crate) attempt: Option<AttemptRecord>,
    /// That of the attempt's exchange in memory.
    pub(crate) place: Option<ExchangePlace>,
    /// What becomes of the delivery.
    pub(crate) state: State,
    /// The batch that waits for this, unless it does not any more.
    pub(crate) batch: Option<BatchId>,
    /// How the webhook is doing, where the other dispatchers need to know.
    pub(crate) health: Option<HealthNews>,
    /// The webhook to switch off, if this is the end of it.
    pub(crate) disable: Option<(TenantId, WebhookId, DisabledReason)>,
}

impl Note {
    /// A delivery moves on without an attempt.
    pub(crate) fn of_state(state: State, batch: Option<BatchId>) -> Self {
        Self { attempt: None, place: None, state, batch, health: None, disable: None }
    }
}

/// What becomes of a delivery.
#[derive(Debug)]
pub(crate) enum State {
    /// It goes on later.
    Parked(Parked),
    /// It is over, and has a row to be removed.
    Finished(DeliveryKey),
    /// It is over, and never had a row.
    Done,
}

/// How many deliveries of each open batch are not settled yet.
#[derive(Default)]
pub(crate) struct OpenBatches(Mutex<HashMap<BatchId, OpenBatch>>);

struct OpenBatch {
    unsettled: usize,
    since: Instant,
}

impl OpenBatches {
    /// Begins to count.
    pub(crate) fn open(&self, batch: BatchId, unsettled: usize) {
        self.lock().insert(batch, OpenBatch { unsettled, since: Instant::now() });
    }

    /// One delivery fewer. Says whether it was the last one.
    fn settle(&self, batch: BatchId) -> bool {
        let mut batches = self.lock();
        let Some(open) = batches.get_mut(&batch) else { return false };
        open.unsettled -= 1;
        open.unsettled == 0
    }

    /// It is written down what became of them. Until then they are ours, however long the database is away.
    fn close(&self, settled: &[BatchId]) {
        let mut batches = self.lock();
        for batch in settled {
            batches.remove(batch);
        }
    }

    /// Batches that have been open since before `since`.
    pub(crate) fn older_than(&self, since: Instant) -> Vec<BatchId> {
        let batches = self.lock();
        batches.iter().filter(|(_, open)| open.since < since).map(|(id, _)| *id).collect()
    }

    /// All of them.
    pub(crate) fn ids(&self) -> Vec<BatchId> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<BatchId, OpenBatch>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What follows from some notes.
struct Collected {
    batch: Batch,
    /// Those of the exchanges in the batch.
    places: Vec<ExchangePlace>,
    health: Vec<HealthNews>,
    disable: Vec<(TenantId, WebhookId, DisabledReason)>,
}

/// The task that writes.
pub(crate) struct Recorder {
    pub(crate) store: Store,
    pub(crate) dispatcher_id: Uuid,
    /// Told when something may have come to wait for its webhook's gate, or the next of its order may go.
    pub(crate) waiting: Arc<Notify>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) open_batches: Arc<OpenBatches>,
    pub(crate) metrics: Metrics,
    pub(crate) notes: mpsc::Receiver<Note>,
    /// Told of results that others wait for.
    pub(crate) awaited: Arc<Notify>,
}

impl Recorder {
    /// Writes until nobody can send a note any more. While the database is away it waits, and so does everybody who has
    /// something to write: what is in memory stays bounded.
    pub(crate) async fn run(mut self) {
        let mut notes = Vec::with_capacity(MAX_RESULTS);
        let mut gathering = Gathering::default();
        while self.notes.recv_many(&mut notes, MAX_RESULTS).await > 0 {
            gathering.wait_unless(&self.awaited, notes.len(), MAX_RESULTS).await;
            while notes.len() < MAX_RESULTS
                && let Ok(note) = self.notes.try_recv()
            {
                notes.push(note);
            }
            gathering.gathered(notes.len());
            while !notes.is_empty() {
                let count = fitting(&notes);
                let collected = self.collect(notes.drain(..count));
                self.write_down(collected).await;
            }
        }
    }

    async fn write_down(&self, collected: Collected) {
        let batch = &collected.batch;
        let may_go = !batch.finished.is_empty() || batch.parked.iter().any(|parked| parked.due_at.is_none());
        let settled = collected.batch.settled.clone();
        let began = Instant::now();
        self.write(collected.batch).await;
        drop(collected.places);
        self.metrics.recorded(began.elapsed());
        self.open_batches.close(&settled);
        if may_go {
            self.waiting.notify_one();
        }
        self.save_health(collected.health).await;
        for (tenant, webhook, reason) in collected.disable {
            self.disable(tenant, webhook, reason).await;
        }
    }

    fn collect(&self, notes: impl Iterator<Item = Note>) -> Collected {
        let mut batch = Batch::default();
        let (mut places, mut disable) = (Vec::new(), Vec::new());
        let mut health: HashMap<WebhookId, HealthNews> = HashMap::new();
        // A delivery may be parked and finished within one batch; only its last state is written.
        let mut states: HashMap<DeliveryKey, Option<Parked>> = HashMap::new();
        for note in notes {
            batch.attempts.extend(note.attempt);
            places.extend(note.place);
            if let Some(mut news) = note.health {
                let before = health.get(&news.webhook_id);
                news.is_told |= before.is_some_and(|before| before.is_told) && news.health.is_worth_telling();
                health.insert(news.webhook_id, news);
            }
            disable.extend(note.disable);
            match note.state {
                State::Parked(mut parked) => {
                    // What parked it first is not written, so this has to make the row.
                    let first = states.get(&parked.key).and_then(Option::as_ref);
                    parked.batch = parked.batch.or(first.and_then(|first| first.batch));
                    states.insert(parked.key.clone(), Some(parked));
                }
                State::Finished(key) => {
                    states.insert(key, None);
                }
                State::Done => {}
            }
            batch.settled.extend(note.batch.filter(|id| self.open_batches.settle(*id)));
        }
        for (key, state) in states {
            match state {
                Some(parked) => batch.parked.push(parked),
                None => batch.finished.push(key),
            }
        }
        Collected { batch, places, health: health.into_values().collect(), disable }
    }

    /// Says whether everything is written. A value that the database refuses must not take the others along: halved until it
    /// is alone, and dropped. The batches that were to settle then stay open until their leases run out, and whoever takes
    /// them over makes what has no result.
    fn write(&self, mut batch: Batch) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let mut backoff = Backoff::default();
            loop {
                match self.store.record(&batch, self.dispatcher_id).await {
                    Ok(()) => return true,
                    Err(StoreError::Refused(reason)) if batch.len() <= 1 && has_exchange(&batch) => {
                        warn!(reason, "an attempt is recorded without what was said");
                        batch.attempts[0].exchange = None;
                    }
                    Err(StoreError::Refused(reason)) if batch.len() <= 1 => {
                        error!(reason, ?batch, "a result could not be written and is dropped");
                        return false;
                    }
                    Err(StoreError::Refused(_)) => {
                        let settled = std::mem::take(&mut batch.settled);
                        let (first, second) = batch.halve();
                        let (first, second) = (self.write(first).await, self.write(second).await);
                        if !(first && second) {
                            return false;
                        }
                        batch = Batch { settled, ..Batch::default() };
                    }
                    Err(error) => {
                        let wait = backoff.next(rand::random());
                        warn!(%error, wait_ms = wait.as_millis(), "results wait to be written");
                        sleep(wait).await;
                    }
                }
            }
        })
    }

    async fn save_health(&self, health: Vec<HealthNews>) {
        if !health.is_empty()
            && let Err(error) = self.store.save_health(&health, self.clock.now()).await
        {
            // The next change tells them, or their own failures do.
            warn!(%error, "the other dispatchers were not told how webhooks are doing");
        }
    }

    async fn disable(&self, tenant: TenantId, webhook: WebhookId, reason: DisabledReason) {
        match self.store.disable_webhook(tenant, webhook, reason, self.clock.now()).await {
            Ok(true) => {
                self.metrics.disabled();
                info!(%webhook, reason = reason.code(), "a webhook is switched off");
            }
            Ok(false) => {}
            // The next delivery meets the same answer and tries again.
            Err(error) => warn!(%error, %webhook, "a webhook could not be switched off"),
        }
    }
}

/// How many of these notes, at least one, go into one transaction.
fn fitting(notes: &[Note]) -> usize {
    let mut bytes = 0;
    let full = notes.iter().position(|note| {
        let exchange = note.attempt.as_ref().and_then(|attempt| attempt.exchange.as_ref());
        bytes += exchange.map_or(0, |exchange| exchange.bytes());
        bytes >= MAX_EXCHANGE_BYTES
    });
    full.map_or(notes.len(), |last| last + 1)
}

fn has_exchange(batch: &Batch) -> bool {
    batch.attempts.iter().any(|attempt| attempt.exchange.is_some())
}
