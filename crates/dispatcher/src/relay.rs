//! Brings what happens to webhooks and deliveries themselves from the database to the broker. One dispatcher at a time does it.

use std::sync::Arc;
use std::time::Duration;

use broker::DomainEvents;
use domain::{Backoff, Clock};
use store::{Lease, Store, StoreError};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::upkeep::rest;

/// How often it is looked whether there is something.
const INTERVAL: Duration = Duration::from_millis(500);
/// Most events that are published before the first of them is confirmed.
const BATCH: u32 = 256;

/// The task that publishes them.
pub(crate) struct Relay {
    pub(crate) store: Store,
    pub(crate) domain_events: DomainEvents,
    pub(crate) dispatcher_id: Uuid,
    pub(crate) clock: Arc<dyn Clock>,
    /// For how long nobody else publishes: longer than a batch takes.
    pub(crate) lease: Duration,
    pub(crate) stop: CancellationToken,
}

impl Relay {
    /// Works until told to stop.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::default();
        while !self.stop.is_cancelled() {
            match self.relay().await {
                Ok(()) => {
                    backoff = Backoff::default();
                    rest(INTERVAL, &self.stop).await;
                }
                Err(reason) => {
                    let wait = backoff.next(rand::random());
                    warn!(reason, wait_ms = wait.as_millis(), "domain events wait to be published");
                    rest(wait, &self.stop).await;
                }
            }
        }
    }

    /// Publishes all there is, unless another dispatcher is at it.
    async fn relay(&mut self) -> Result<(), String> {
        let text = |error: StoreError| error.to_string();
        if !self.store.has_outbox().await.map_err(text)? {
            return Ok(());
        }
        while !self.stop.is_cancelled() {
            let now = self.clock.now();
            let lease = Lease { holder: self.dispatcher_id, until: now + self.lease };
            if !self.store.lease_outbox(lease, now).await.map_err(text)? {
                return Ok(());
            }
            let outgoing = self.store.read_outbox(BATCH).await.map_err(text)?;
            if outgoing.is_empty() {
                break;
            }
            let events: Vec<_> =
                outgoing.iter().map(|outgoing| (&outgoing.event, outgoing.is_wanted)).collect();
            let (confirmed, published) = self.domain_events.publish(&events).await;
            // What is published and not cleared is published again, under the same id.
            let told: Vec<i64> = outgoing[..confirmed].iter().map(|outgoing| outgoing.sequence).collect();
            self.store.clear_outbox(&told).await.map_err(text)?;
            published?;
        }
        self.store.release_outbox(self.dispatcher_id).await.map_err(text)
    }
}
