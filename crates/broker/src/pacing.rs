//! Larger messages while there is much to publish, at no cost in latency else.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// From so many events in a message on there is much to publish, unless it is full: then the next one is, too.
const BUSY: usize = 8;
/// So many requests are enough for a message, whoever else is expected.
const ENOUGH: usize = 56;
/// How long the next message waits at most for the requests that are expected then.
const PAUSE: Duration = Duration::from_millis(2);
/// Messages whose confirm is awaited at one time. While they are, events gather for the next message.
const OUTSTANDING: usize = 2;
/// The same while there is much to publish. Two would halve the messages.
const OUTSTANDING_WHILE_BUSY: usize = 1;

/// When the next message may go. Each costs the broker about as much as 30 events in it.
#[derive(Default)]
pub(crate) struct Pacing {
    is_busy: bool,
    /// Requests in the last message.
    requests: usize,
    pause: Option<Pause>,
}

struct Pause {
    until: Instant,
    enough: usize,
}

impl Pacing {
    /// A message went with the events of so many requests, which had room for more or not.
    pub(crate) fn sent(&mut self, requests: usize, events: usize, is_full: bool) {
        *self = Self { is_busy: events >= BUSY && !is_full, requests, pause: None };
    }

    /// The message was confirmed while so many requests waited. Who waits for each answer before the next request is soon
    /// back: until most are, the next message waits for them.
    pub(crate) fn confirmed(&mut self, waiting: usize) {
        let expected = self.requests + waiting;
        let enough = (expected - expected / 8).min(ENOUGH);
        if self.is_busy && waiting < enough {
            self.pause = Some(Pause { until: Instant::now() + PAUSE, enough });
        }
    }

    /// Whether the next message may go, with so many outstanding.
    pub(crate) fn is_open(&self, outstanding: usize) -> bool {
        let most = if self.is_busy { OUTSTANDING_WHILE_BUSY } else { OUTSTANDING };
        !self.is_pausing() && outstanding < most
    }

    /// Whether the next message has to wait, however few are outstanding.
    pub(crate) fn is_pausing(&self) -> bool {
        self.pause.is_some()
    }

    /// With so many requests it has not.
    pub(crate) fn enough(&self) -> usize {
        self.pause.as_ref().map_or(usize::MAX, |pause| pause.enough)
    }

    /// So many wait for the next message.
    pub(crate) fn there_wait(&mut self, requests: usize) {
        if requests >= self.enough() {
            self.pause = None;
        }
    }

    /// Waits until the pause is over.
    pub(crate) async fn pause(&mut self) {
        if let Some(pause) = &self.pause {
            sleep_until(pause.until).await;
            self.pause = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_for(pacing: &Pacing) -> usize {
        (0..10).take_while(|outstanding| pacing.is_open(*outstanding)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_message_waits_only_after_many_events_that_left_room_for_more() {
        let (mut pacing, began) = (Pacing::default(), Instant::now());
        assert_eq!(open_for(&pacing), OUTSTANDING);
        for (events, is_full) in [(BUSY - 1, false), (BUSY, true), (1, true)] {
            pacing.sent(events, events, is_full);
            pacing.confirmed(0);
            assert!(!pacing.is_pausing(), "{events} {is_full}");
            assert_eq!(open_for(&pacing), OUTSTANDING);
        }
        pacing.sent(BUSY, BUSY, false);
        assert_eq!(open_for(&pacing), OUTSTANDING_WHILE_BUSY);
        pacing.confirmed(0);
        assert!(pacing.is_pausing());
        assert_eq!(open_for(&pacing), 0);
        pacing.pause().await;
        assert!(!pacing.is_pausing() && began.elapsed() >= PAUSE);
        assert_eq!(open_for(&pacing), OUTSTANDING_WHILE_BUSY);
        pacing.pause().await;
        assert!(began.elapsed() < PAUSE * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_until_those_who_were_answered_are_back() {
        let mut pacing = Pacing::default();
        assert_eq!(pacing.enough(), usize::MAX);
        pacing.sent(24, 24, false);
        pacing.confirmed(8);
        assert_eq!(pacing.enough(), 28);
        pacing.there_wait(27);
        assert!(pacing.is_pausing());
        pacing.there_wait(28);
        assert!(!pacing.is_pausing());
        assert_eq!(pacing.enough(), usize::MAX);
        // A request with many events is one request, and where enough wait there is no pause.
        pacing.sent(1, 40, false);
        pacing.confirmed(0);
        assert_eq!(pacing.enough(), 1);
        pacing.sent(40, 40, false);
        pacing.confirmed(40);
        assert_eq!(pacing.enough(), ENOUGH);
        pacing.sent(40, 40, false);
        pacing.confirmed(ENOUGH);
        assert!(!pacing.is_pausing());
    }
}
