//! Makes the steps of recoveries: jobs that make deliveries again. Each step is one dispatcher's, under a lease; what one that went
//! silent did not finish, another does.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use domain::Backoff;
use store::{Lease, Store, StoreError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::engine::Engine;
use crate::upkeep::rest;

/// For how long nobody else makes the next step of a recovery.
const LEASE: TimeDelta = TimeDelta::seconds(30);
/// Between two steps, so that recoveries do not keep the database busy.
const PAUSE: Duration = Duration::from_millis(20);

/// The task that makes them.
pub(crate) struct Recoveries {
    pub(crate) store: Store,
    pub(crate) engine: Arc<Engine>,
    pub(crate) poll_interval: Duration,
    /// Told when something has come to wait for its webhook's gate.
    pub(crate) waiting: Arc<Notify>,
    pub(crate) stop: CancellationToken,
}

impl Recoveries {
    /// Works until told to stop.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::default();
        while !self.stop.is_cancelled() {
            match self.step().await {
                Ok(true) => {
                    backoff.reset();
                    self.waiting.notify_one();
                    rest(PAUSE, &self.stop).await;
                }
                Ok(false) => {
                    backoff.reset();
                    rest(self.poll_interval, &self.stop).await;
                }
                Err(error) => {
                    let wait = backoff.next(rand::random());
                    warn!(%error, wait_ms = wait.as_millis(), "recoveries wait for the database");
                    rest(wait, &self.stop).await;
                }
            }
        }
    }

    /// Says whether there was a step to be made.
    async fn step(&self) -> Result<bool, StoreError> {
        let now = self.engine.clock.now();
        let lease = Lease { holder: self.engine.dispatcher_id, until: now + LEASE };
        let Some(recovery) = self.store.claim_recovery(now, lease).await? else { return Ok(false) };
        debug!(recovery = %recovery.id, scheduled = recovery.scheduled, "a recovery goes on");
        self.store.advance_recovery(&recovery, lease.holder, now).await?;
        Ok(true)
    }
}
