//! Larger messages while there is much to publish, at no cost in latency else.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// From so many events in a message on there is much to publish, unless it is full: then the next one is, too.
const BUSY: usize = 8;
/// How long the next message waits for more then. The clock that wakes it ticks in milliseconds, so it is two as a rule.
const PAUSE: Duration = Duration::from_millis(1);
/// So many requests are enough for a message: they do not wait for more.
pub(crate) const ENOUGH: usize = 28;
/// Messages whose confirm is awaited at one time. While they are, events gather for the next message.
const OUTSTANDING: usize = 2;
/// The same where the pause makes them gather.
const OUTSTANDING_WITH_PAUSES: usize = 3;

/// When the next message may go. Each costs the broker about as much as 30 events in it.
#[derive(Default)]
pub(crate) struct Pacing {
    is_busy: bool,
    next_at: Option<Instant>,
}

impl Pacing {
    /// A message with so many events went, which had room for more or not.
    pub(crate) fn sent(&mut self, events: usize, is_full: bool) {
        self.is_busy = events >= BUSY && !is_full;
        self.next_at = self.is_busy.then(|| Instant::now() + PAUSE);
    }

    /// Whether the next message may go, with so many outstanding.
    pub(crate) fn is_open(&self, outstanding: usize) -> bool {
        let most = if self.is_busy { OUTSTANDING_WITH_PAUSES } else { OUTSTANDING };
        !self.is_pausing() && outstanding < most
    }

    /// Whether the next message has to wait, however few are outstanding.
    pub(crate) fn is_pausing(&self) -> bool {
        self.next_at.is_some()
    }

    /// So many wait for the next message.
    pub(crate) fn there_wait(&mut self, requests: usize) {
        if requests >= ENOUGH {
            self.next_at = None;
        }
    }

    /// Waits until it has not.
    pub(crate) async fn pause(&mut self) {
        if let Some(next_at) = self.next_at {
            sleep_until(next_at).await;
            self.next_at = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_next_message_waits_only_after_many_events_that_left_room_for_more() {
        let (mut pacing, began) = (Pacing::default(), Instant::now());
        let open_for =
            |pacing: &Pacing| (0..10).take_while(|outstanding| pacing.is_open(*outstanding)).count();
        assert_eq!(open_for(&pacing), OUTSTANDING);
        for (events, is_full) in [(BUSY - 1, false), (BUSY, true), (1, true)] {
            pacing.sent(events, is_full);
            assert!(!pacing.is_pausing(), "{events} {is_full}");
            assert_eq!(open_for(&pacing), OUTSTANDING);
        }
        pacing.sent(BUSY, false);
        assert!(pacing.is_pausing());
        assert_eq!(open_for(&pacing), 0);
        pacing.pause().await;
        assert!(!pacing.is_pausing() && began.elapsed() >= PAUSE);
        assert_eq!(open_for(&pacing), OUTSTANDING_WITH_PAUSES);
        pacing.pause().await;
        assert!(began.elapsed() < PAUSE * 2);
        pacing.sent(BUSY, false);
        pacing.there_wait(ENOUGH - 1);
        assert!(pacing.is_pausing());
        pacing.there_wait(ENOUGH);
        assert!(!pacing.is_pausing());
        assert_eq!(open_for(&pacing), OUTSTANDING_WITH_PAUSES);
    }
}
