//! Which delivery starts next. Each webhook has a lane of its own, so that one whose receiver hangs holds up nobody else.
//!
//! Pure: it starts nothing and reads no clock.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use domain::WebhookId;
use tokio::time::Instant;

/// How much may be under way, and how much may wait in memory for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Requests under way to one webhook.
    pub(crate) per_webhook: usize,
    /// Requests under way that are not slow (yet).
    pub(crate) fast: usize,
    /// Requests under way in all.
    pub(crate) total: usize,
    /// Deliveries that wait in one lane.
    pub(crate) queue_per_webhook: usize,
    /// How long a delivery waits in a lane before it is parked instead.
    pub(crate) max_wait: Duration,
}

/// The lanes of all webhooks that have something under way or waiting.
pub(crate) struct Lanes<T> {
    limits: Limits,
    lanes: HashMap<WebhookId, Lane<T>>,
    /// Lanes that have both a waiting delivery and room for it, each once, in turn.
    ready: VecDeque<WebhookId>,
    fast: usize,
    slow: usize,
    waiting: usize,
}

struct Lane<T> {
    fast: usize,
    slow: usize,
    queue: VecDeque<(Instant, T)>,
    is_ready: bool,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { fast: 0, slow: 0, queue: VecDeque::new(), is_ready: false }
    }
}

impl<T> Lanes<T> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, lanes: HashMap::new(), ready: VecDeque::new(), fast: 0, slow: 0, waiting: 0 }
    }

    /// Puts a delivery in its lane, or gives it back when the lane takes no more: then it is to be parked.
    pub(crate) fn submit(&mut self, webhook: WebhookId, delivery: T, now: Instant) -> Result<(), T> {
        if self.fast + self.slow + self.waiting >= self.limits.total {
            return Err(delivery);
        }
        let lane = self.lanes.entry(webhook).or_default();
        // A lane full of slow requests will have no room soon; waiting would only hold memory and its batch.
        let stalled = lane.slow > 0 && lane.fast + lane.slow >= self.limits.per_webhook;
        if stalled || lane.queue.len() >= self.limits.queue_per_webhook {
            return Err(delivery);
        }
        lane.queue.push_back((now, delivery));
        self.waiting += 1;
        self.mark_ready(webhook);
        Ok(())
    }

    /// The next delivery to start, if one may. It counts as under way from now on.
    pub(crate) fn next(&mut self) -> Option<T> {
        if self.fast >= self.limits.fast {
            return None;
        }
        let webhook = self.ready.pop_front()?;
        let lane = self.lanes.get_mut(&webhook)?;
        lane.is_ready = false;
        let (_, delivery) = lane.queue.pop_front()?;
        lane.fast += 1;
        self.fast += 1;
        self.waiting -= 1;
        self.mark_ready(webhook);
        Some(delivery)
    }

    /// A request has been under way for so long that it no longer counts against the fast ones.
    pub(crate) fn became_slow(&mut self, webhook: WebhookId) {
        if let Some(lane) = self.lanes.get_mut(&webhook) {
            lane.fast -= 1;
            lane.slow += 1;
            self.fast -= 1;
            self.slow += 1;
        }
    }

    /// A request has ended.
    pub(crate) fn finished(&mut self, webhook: WebhookId, was_slow: bool) {
        let Entry::Occupied(mut lane) = self.lanes.entry(webhook) else { return };
        if was_slow {
            lane.get_mut().slow -= 1;
            self.slow -= 1;
        } else {
            lane.get_mut().fast -= 1;
            self.fast -= 1;
        }
        let Lane { fast: 0, slow: 0, queue, .. } = lane.get() else { return self.mark_ready(webhook) };
        if queue.is_empty() {
            lane.remove();
        } else {
            self.mark_ready(webhook);
        }
    }

    /// Takes out what has waited too long, to be parked.
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<T> {
        let max_wait = self.limits.max_wait;
        self.take_waiting(|since| now.duration_since(since) >= max_wait)
    }

    /// Takes out all that waits.
    pub(crate) fn take_all(&mut self) -> Vec<T> {
        self.take_waiting(|_| true)
    }

    /// Deliveries that wait in memory.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Requests under way.
    pub(crate) fn under_way(&self) -> usize {
        self.fast + self.slow
    }

    /// How many more deliveries a webhook's lane would start at once.
    pub(crate) fn room(&self, webhook: WebhookId) -> usize {
        let used = self.lanes.get(&webhook).map_or(0, |lane| lane.fast + lane.slow + lane.queue.len());
        self.limits.per_webhook.saturating_sub(used)
    }

    fn take_waiting(&mut self, is_taken: impl Fn(Instant) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for lane in self.lanes.values_mut() {
            // In a lane, the longest waiting is at the front.
            while let Some((_, delivery)) = lane.queue.pop_front_if(|(since, _)| is_taken(*since)) {
                taken.push(delivery);
            }
        }
        self.waiting -= taken.len();
        let lanes = &mut self.lanes;
        self.ready.retain(|webhook| {
            let lane = lanes.get_mut(webhook).filter(|lane| lane.queue.is_empty());
            lane.is_none_or(|lane| {
                lane.is_ready = false;
                false
            })
        });
        lanes.retain(|_, lane| lane.fast + lane.slow + lane.queue.len() > 0);
        taken
    }

    fn mark_ready(&mut self, webhook: WebhookId) {
        if let Some(lane) = self.lanes.get_mut(&webhook) {
            let has_room = lane.fast + lane.slow < self.limits.per_webhook;
            if has_room && !lane.queue.is_empty() && !lane.is_ready {
                lane.is_ready = true;
                self.ready.push_back(webhook);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn webhook(number: u8) -> WebhookId {
        WebhookId(Uuid::from_u128(number.into()))
    }

    fn lanes(per_webhook: usize, fast: usize) -> Lanes<(u8, u32)> {
        Lanes::new(Limits {
            per_webhook,
            fast,
            total: 1000,
            queue_per_webhook: 10,
            max_wait: Duration::from_secs(1),
        })
    }

    fn started(lanes: &mut Lanes<(u8, u32)>) -> Vec<(u8, u32)> {
        std::iter::from_fn(|| lanes.next()).collect()
    }

    #[test]
    fn webhooks_take_turns_and_none_exceeds_its_share() {
        let now = Instant::now();
        let mut lanes = lanes(2, 100);
        for number in 0..4 {
            lanes.submit(webhook(1), (1, number), now).unwrap();
        }
        lanes.submit(webhook(2), (2, 0), now).unwrap();
        assert_eq!(started(&mut lanes), [(1, 0), (2, 0), (1, 1)]);
        lanes.finished(webhook(1), false);
        assert_eq!(started(&mut lanes), [(1, 2)]);
    }

    #[test]
    fn a_slow_request_frees_its_place_among_the_fast_but_not_in_its_lane() {
        let now = Instant::now();
        let mut lanes = lanes(1, 1);
        lanes.submit(webhook(1), (1, 0), now).unwrap();
        assert_eq!(started(&mut lanes).len(), 1);
        lanes.submit(webhook(2), (2, 0), now).unwrap();
        assert_eq!(started(&mut lanes), []);
        lanes.became_slow(webhook(1));
        assert_eq!(started(&mut lanes), [(2, 0)]);
        assert_eq!(lanes.submit(webhook(1), (1, 1), now), Err((1, 1)), "a stalled lane takes no more");
    }

    #[test]
    fn what_waits_too_long_comes_back() {
        let now = Instant::now();
        let mut lanes = lanes(1, 10);
        for number in 0..3 {
            let at = now + Duration::from_millis(400) * number;
            lanes.submit(webhook(1), (1, number), at).unwrap();
        }
        assert_eq!(started(&mut lanes), [(1, 0)]);
        assert_eq!(lanes.overdue(now + Duration::from_millis(1500)), [(1, 1)]);
        assert_eq!(lanes.take_all(), [(1, 2)]);
        assert_eq!((lanes.waiting(), lanes.under_way()), (0, 1));
    }

    proptest! {
        #[test]
        fn counts_hold_and_nothing_is_lost_whatever_happens(steps in proptest::collection::vec((0_u8..5, 0_u8..4), 1..200)) {
            let mut now = Instant::now();
            let mut lanes = lanes(3, 5);
            let mut under_way: Vec<(u8, bool)> = Vec::new();
            let (mut submitted, mut given_back, mut began) = (0_usize, 0, 0);
            for (step, number) in steps {
                match step {
                    0 | 1 => {
                        submitted += 1;
                        given_back += usize::from(lanes.submit(webhook(number), (number, 0), now).is_err());
                    }
                    2 => if !under_way.is_empty() {
                        let (number, slow) = under_way.remove(usize::from(number) % under_way.len());
                        lanes.finished(webhook(number), slow);
                    },
                    3 => if let Some(fast) = under_way.iter_mut().find(|(_, slow)| !slow) {
                        fast.1 = true;
                        lanes.became_slow(webhook(fast.0));
                    },
                    _ => {
                        now += Duration::from_millis(300);
                        given_back += lanes.overdue(now).len();
                    }
                }
                let new = started(&mut lanes);
                began += new.len();
                under_way.extend(new.into_iter().map(|(number, _)| (number, false)));
                prop_assert_eq!(lanes.under_way(), under_way.len());
                prop_assert_eq!(submitted, given_back + began + lanes.waiting());
                prop_assert!(under_way.iter().filter(|(_, slow)| !slow).count() <= 5);
                for number in 0..4 {
                    prop_assert!(under_way.iter().filter(|(n, _)| *n == number).count() <= 3);
                }
            }
        }
    }
}
