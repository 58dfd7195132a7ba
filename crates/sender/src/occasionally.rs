use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Bounds how often something is done that many tasks find reason for.
pub(crate) struct Occasionally {
    every: Duration,
    last: Mutex<Option<Instant>>,
}

impl Occasionally {
    pub(crate) fn new(every: Duration) -> Self {
        Self { every, last: Mutex::default() }
    }

    /// Whether it is time; then it is not again until so much later.
    pub(crate) fn is_due(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_due = last.is_none_or(|last| now - last >= self.every);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}
