//! Up to where events can be read without passing one by that is still being written.

use std::time::Duration;

use store::{BatchId, Store};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::error::ApiError;

/// How long an answer of the database's is used. Its price is then the same however many ask.
const FRESH_FOR: Duration = Duration::from_millis(100);
/// How long hand-overs that are under way are waited for. They take milliseconds, unless the database is in trouble.
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) struct Settled {
    store: Store,
    last: Mutex<Option<(Instant, BatchId)>>,
}

impl Settled {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, last: Mutex::default() }
    }

    /// The newest batch up to which all events are there. An older one where a hand-over takes long.
    pub(crate) async fn batch(&self) -> Result<BatchId, ApiError> {
        // One asks, the others wait for what it hears.
        let mut last = self.last.lock().await;
        if let Some((read_at, batch)) = *last
            && read_at.elapsed() < FRESH_FOR
        {
            return Ok(batch);
        }
        let batch = match (self.store.settled_batch(PATIENCE).await?, *last) {
            (Some(batch), _) | (None, Some((_, batch))) => batch,
            (None, None) => return Err(ApiError::timed_out()),
        };
        *last = Some((Instant::now(), batch));
        Ok(batch)
    }
}
