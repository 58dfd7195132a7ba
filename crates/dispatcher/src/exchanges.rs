//! What is kept of failed attempts on its way to the database, within limits.

use std::sync::Arc;

use domain::Exchange;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::debug;

/// Bytes of exchanges that wait to be written. More are not kept: the history then shows the attempt without them.
const MAX_WAITING_BYTES: usize = 16 * 1024 * 1024;

/// The room that exchanges have in memory.
pub(crate) struct ExchangeRoom(Arc<Semaphore>);

/// The place of one exchange. Dropping it frees it.
pub(crate) type ExchangePlace = OwnedSemaphorePermit;

impl Default for ExchangeRoom {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_WAITING_BYTES)))
    }
}

impl ExchangeRoom {
    /// A place for what is kept of an exchange, if there is room.
    pub(crate) fn keep(&self, exchange: Exchange) -> Option<(Box<Exchange>, ExchangePlace)> {
        let exchange = Box::new(exchange.for_history());
        let bytes = u32::try_from(exchange.bytes()).unwrap_or(u32::MAX);
        let place = Arc::clone(&self.0).try_acquire_many_owned(bytes).ok();
        if place.is_none() {
            debug!("an attempt is recorded without what was said: too much waits to be written");
        }
        Some((exchange, place?))
    }
}

#[cfg(test)]
mod tests {
    use domain::CapturedResponse;

    use super::*;

    #[test]
    fn what_waits_is_bounded_and_makes_room_when_it_is_written() {
        let room = ExchangeRoom::default();
        let response = CapturedResponse {
            status: 500,
            headers: vec![("x".to_owned(), "y".repeat(8 * 1024))],
            headers_cut: true,
            body: vec![b'x'; 16 * 1024].into(),
            body_cut: false,
        };
        let exchange = Exchange { request_headers: Vec::new(), response: Some(response), explanation: None };
        let mut kept = Vec::new();
        while let Some(one) = room.keep(exchange.clone()) {
            kept.push(one);
        }
        let bytes: usize = kept.iter().map(|(exchange, _)| exchange.bytes()).sum();
        assert!((MAX_WAITING_BYTES - 16 * 1024..=MAX_WAITING_BYTES).contains(&bytes), "{bytes}");
        kept.pop();
        assert!(room.keep(exchange).is_some());
    }
}
