//! Writes results down, many in one transaction.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use domain::{Backoff, Clock, DisabledReason, TenantId, WebhookId};
use store::{AttemptRecord, Batch, BatchId, DeliveryKey, Parked, Store, StoreError};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

/// Most results in one transaction.
const MAX_RESULTS: usize = 500;

/// Something to write down about one delivery.
#[derive(Debug)]
pub(crate) struct Note {
    /// A row for the history, if an attempt was made.
    pub(crate) attempt: Option<AttemptRecord>,
    /// What becomes of the delivery.
    pub(crate) state: State,
    /// The batch that waits for this, unless it does not any more.
    pub(crate) batch: Option<BatchId>,
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
    /// It is over, removes its row, and switches its webhook off.
    Gone(DeliveryKey, TenantId),
}

/// How many deliveries of each open batch are not settled yet.
#[derive(Default)]
pub(crate) struct OpenBatches(Mutex<HashMap<BatchId, OpenBatch>>);

struct OpenBatch {
    unsettled: usize,
    since: Instant,
}

impl OpenBatches {
    /// Begins to count. Says whether there is anything to wait for.
    pub(crate) fn open(&self, batch: BatchId, deliveries: usize) -> bool {
        if deliveries > 0 {
            let open = OpenBatch { unsettled: deliveries, since: Instant::now() };
            self.lock().insert(batch, open);
        }
        deliveries > 0
    }

    /// One delivery fewer. Says whether it was the last one.
    fn settle(&self, batch: BatchId) -> bool {
        let mut batches = self.lock();
        let Some(open) = batches.get_mut(&batch) else { return false };
        open.unsettled -= 1;
        let was_last = open.unsettled == 0;
        if was_last {
            batches.remove(&batch);
        }
        was_last
    }

    /// Batches that have been open since before `since`.
    pub(crate) fn older_than(&self, since: Instant) -> Vec<BatchId> {
        let batches = self.lock();
        batches.iter().filter(|(_, open)| open.since < since).map(|(id, _)| *id).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<BatchId, OpenBatch>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The task that writes.
pub(crate) struct Recorder {
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) open_batches: Arc<OpenBatches>,
    pub(crate) notes: mpsc::Receiver<Note>,
}

impl Recorder {
    /// Writes until nobody can send a note any more. While the database is away it waits, and so does everybody who has
    /// something to write: what is in memory stays bounded.
    pub(crate) async fn run(mut self) {
        let mut notes = Vec::with_capacity(MAX_RESULTS);
        while self.notes.recv_many(&mut notes, MAX_RESULTS).await > 0 {
            let (batch, gone) = self.collect(notes.drain(..));
            self.write(batch).await;
            for (tenant, webhook) in gone {
                self.disable(tenant, webhook).await;
            }
        }
    }

    fn collect(&self, notes: impl Iterator<Item = Note>) -> (Batch, Vec<(TenantId, WebhookId)>) {
        let mut batch = Batch::default();
        let mut gone = Vec::new();
        // A delivery may be parked and finished within one batch; only its last state is written.
        let mut states: HashMap<DeliveryKey, Option<Parked>> = HashMap::new();
        for note in notes {
            batch.attempts.extend(note.attempt);
            match note.state {
                State::Parked(parked) => {
                    states.insert(parked.key.clone(), Some(parked));
                }
                State::Finished(key) => {
                    states.insert(key, None);
                }
                State::Gone(key, tenant) => {
                    gone.push((tenant, key.webhook_id));
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
        (batch, gone)
    }

    async fn write(&self, batch: Batch) {
        let mut backoff = Backoff::default();
        loop {
            match self.store.record(&batch).await {
                Ok(()) => return,
                Err(StoreError::Refused(reason)) => {
                    // Nothing else in the batch may suffer for it. Its deliveries come back when their leases run out.
                    error!(
                        reason,
                        attempts = batch.attempts.len(),
                        "results could not be written and are dropped"
                    );
                    return;
                }
                Err(error) => {
                    let wait = backoff.next(rand::random());
                    warn!(%error, wait_ms = wait.as_millis(), "results wait to be written");
                    sleep(wait).await;
                }
            }
        }
    }

    async fn disable(&self, tenant: TenantId, webhook: WebhookId) {
        match self.store.disable_webhook(tenant, webhook, DisabledReason::Gone, self.clock.now()).await {
            Ok(true) => info!(%webhook, "webhook disabled: its receiver answered 410 Gone"),
            Ok(false) => {}
            // The next delivery meets the same answer and tries again.
            Err(error) => warn!(%error, %webhook, "a webhook whose receiver is gone could not be disabled"),
        }
    }
}
