//! Gives the deliveries of a batch to the engine: few of a tenant's at once, many in portions as it gets through with them.
//! What it has no room for is parked, which costs several times what waiting for a moment does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::delivery::Delivery;
use crate::engine::Engine;

/// Most deliveries given to the engine at once.
const PORTION: usize = 256;
/// Most deliveries that wait here in all. What does not fit is parked at once.
const MAX_WAITING: u32 = 100_000;
/// How long the deliveries of one batch wait here. Until then their batch stays open.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often room is looked for while there is none.
const ROOM_CHECK: Duration = Duration::from_millis(50);

/// Feeds the engine, beside whoever takes over the next batches.
pub(crate) struct Feeding {
    engine: Arc<Engine>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Feeding {
    /// After `stop` nothing waits here any more.
    pub(crate) fn new(engine: Arc<Engine>, stop: CancellationToken) -> Self {
        Self { engine, places: Arc::new(Semaphore::new(MAX_WAITING as usize)), stop }
    }

    /// Takes the deliveries of a batch. One tenant's many do not hold up another's few.
    pub(crate) async fn submit(&self, deliveries: Vec<Delivery>) {
        if deliveries.len() <= PORTION {
            return self.engine.submit(deliveries).await;
        }
        let mut by_tenant: HashMap<TenantId, Vec<Delivery>> = HashMap::new();
        for delivery in deliveries {
            by_tenant.entry(delivery.target.webhook.tenant_id).or_default().push(delivery);
        }
        for (tenant, deliveries) in by_tenant {
            let places = u32::try_from(deliveries.len()).unwrap_or(u32::MAX);
            let places = self.places.clone().try_acquire_many_owned(places);
            match places {
                Ok(places) if deliveries.len() > PORTION => {
                    let (engine, stop) = (Arc::clone(&self.engine), self.stop.clone());
                    tokio::spawn(feed(engine, tenant, deliveries, places, stop));
                }
                Ok(_) | Err(_) => self.engine.submit(deliveries).await,
            }
        }
    }

    /// Returns when nothing waits here any more; after `stop`, that is at once.
    pub(crate) async fn finish(&self) {
        let _ = self.places.acquire_many(MAX_WAITING).await;
    }
}

async fn feed(
    engine: Arc<Engine>,
    tenant: TenantId,
    deliveries: Vec<Delivery>,
    mut places: OwnedSemaphorePermit,
    stop: CancellationToken,
) {
    let patience = Instant::now() + PATIENCE;
    let mut left = deliveries.into_iter();
    while left.len() > 0 {
        let portion: Vec<Delivery> = left.by_ref().take(PORTION).collect();
        while engine.has_room_soon(tenant, PORTION) && Instant::now() < patience && !stop.is_cancelled() {
            tokio::select! {
                () = engine.room.notified() => {}
                () = sleep(ROOM_CHECK) => {}
                () = stop.cancelled() => {}
            }
        }
        let given = places.split(portion.len());
        engine.submit(portion).await;
        drop(given);
    }
}
