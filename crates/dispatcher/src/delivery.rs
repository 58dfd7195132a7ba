//! A delivery on its way through a dispatcher.

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use domain::Event;
use sender::Target;
use store::{BatchId, DeliveryKey};
use tokio::sync::OwnedSemaphorePermit;

use crate::metrics::Held;

/// An event as it was handed over.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) event: Event,
    /// When it was handed over.
    pub(crate) at: DateTime<Utc>,
    /// When it was accepted, as its publisher says; if it does not, when it was handed over.
    pub(crate) published_at: DateTime<Utc>,
    pub(crate) day: NaiveDate,
    /// Its batch, and its place there.
    pub(crate) place: (BatchId, i32),
}

/// One event for one webhook.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) target: Arc<Target>,
    pub(crate) accepted: Arc<Accepted>,
    /// Attempts made before.
    pub(crate) attempts: u32,
    /// Whether it was asked for again.
    pub(crate) is_resend: bool,
    pub(crate) origin: Origin,
}

/// Where a delivery comes from, which decides what is owed when it settles.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A hand-over. The delivery has no row yet, and its batch waits for it.
    Batch(BatchId),
    /// A row in `deliveries`, held under a lease. The permit bounds how many there are in memory.
    Row { leased_until: DateTime<Utc>, held: Held, _permit: OwnedSemaphorePermit },
}

impl Delivery {
    pub(crate) fn key(&self) -> DeliveryKey {
        DeliveryKey {
            webhook_id: self.target.webhook.id,
            event_id: self.accepted.event.id.clone(),
            event_day: self.accepted.day,
        }
    }

    /// Whether its webhook's gate held it back.
    pub(crate) fn held(&self) -> Held {
        match self.origin {
            Origin::Batch(_) => Held::No,
            Origin::Row { held, .. } => held,
        }
    }

    pub(crate) fn batch(&self) -> Option<BatchId> {
        match self.origin {
            Origin::Batch(batch) => Some(batch),
            Origin::Row { .. } => None,
        }
    }
}
