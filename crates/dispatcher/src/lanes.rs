//! Which delivery starts next. Each webhook has a lane of its own, and each tenant a share, so that one whose receivers hang
//! holds up nobody else.
//!
//! Pure: it starts nothing and reads no clock.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use domain::{TenantId, WebhookId};
use tokio::time::Instant;

/// A tenant of whose requests one has ended within this time gets through with what it has.
const MOVING: Duration = Duration::from_millis(20);

/// How much may be under way, and how much may wait in memory for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Requests under way that are not slow (yet). One tenant can have three quarters of them.
    pub(crate) fast: usize,
    /// Requests under way and deliveries that wait, in all. One tenant can have a quarter of them.
    pub(crate) total: usize,
    /// Deliveries of one tenant that wait.
    pub(crate) waiting_per_tenant: usize,
    /// How long a delivery waits in a lane before it is parked instead.
    pub(crate) max_wait: Duration,
}

impl Limits {
    fn fast_per_tenant(self) -> usize {
        (self.fast * 3).div_ceil(4)
    }
}

/// The lanes of all webhooks that have something under way or waiting.
pub(crate) struct Lanes<T> {
    limits: Limits,
    lanes: HashMap<WebhookId, Lane<T>>,
    tenants: HashMap<TenantId, Share>,
    /// Lanes that have both a waiting delivery and room for it, each once, in turn.
    ready: VecDeque<WebhookId>,
    fast: usize,
    slow: usize,
    waiting: usize,
}

/// How long a request has been under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// It has just begun.
    Fast,
    /// It waits for its receiver: it no longer counts against the fast ones.
    Slow,
    /// So long that a lane full of such has no room soon.
    Stuck,
}

struct Lane<T> {
    tenant: TenantId,
    /// Most requests under way.
    limit: usize,
    fast: usize,
    slow: usize,
    /// Of the slow ones.
    stuck: usize,
    queue: VecDeque<(Instant, T)>,
    /// Whether it is in a list of those that are ready.
    is_ready: bool,
}

/// What all webhooks of one tenant have together.
#[derive(Default)]
struct Share {
    fast: usize,
    /// Under way or waiting.
    total: usize,
    waiting: usize,
    /// When one of its requests ended last.
    finished_at: Option<Instant>,
    /// Lanes that are ready while the tenant has all the fast requests it can have.
    held: VecDeque<WebhookId>,
}

impl<T> Lane<T> {
    fn new(tenant: TenantId, limit: usize) -> Self {
        Self { tenant, limit, fast: 0, slow: 0, stuck: 0, queue: VecDeque::new(), is_ready: false }
    }

    fn under_way(&self) -> usize {
        self.fast + self.slow
    }
}

impl<T> Lanes<T> {
    pub(crate) fn new(limits: Limits) -> Self {
        let (lanes, tenants, ready) = (HashMap::new(), HashMap::new(), VecDeque::new());
        Self { limits, lanes, tenants, ready, fast: 0, slow: 0, waiting: 0 }
    }

    /// Puts a delivery in its lane, of which at most `limit` are under way at a time, or gives it back when the lane takes no
    /// more: then it is to be parked.
    pub(crate) fn submit(
        &mut self,
        (tenant, webhook): (TenantId, WebhookId),
        delivery: T,
        limit: usize,
        now: Instant,
    ) -> Result<(), T> {
        if self.fast + self.slow + self.waiting >= self.limits.total {
            return Err(delivery);
        }
        let share = self.tenants.entry(tenant).or_default();
        let lane = self.lanes.entry(webhook).or_insert_with(|| Lane::new(tenant, limit));
        lane.limit = limit;
        // Waiting would only hold memory and its batch.
        let is_stalled = lane.stuck > 0 && lane.under_way() >= limit;
        let is_full =
            share.waiting >= self.limits.waiting_per_tenant || share.total >= self.limits.total.div_ceil(4);
        if is_stalled || is_full {
            self.forget_if_idle(webhook);
            self.give_back(tenant, 0);
            return Err(delivery);
        }
        share.total += 1;
        share.waiting += 1;
        lane.queue.push_back((now, delivery));
        self.waiting += 1;
        self.mark_ready(webhook);
        Ok(())
    }

    /// The next delivery to start, if one may. It counts as under way from now on.
    pub(crate) fn next(&mut self) -> Option<T> {
        while self.fast < self.limits.fast {
            let webhook = self.ready.pop_front()?;
            let Some(lane) = self.lanes.get_mut(&webhook) else { continue };
            let Some(share) = self.tenants.get_mut(&lane.tenant) else { continue };
            if share.fast >= self.limits.fast_per_tenant() {
                share.held.push_back(webhook);
                continue;
            }
            lane.is_ready = false;
            if lane.under_way() >= lane.limit {
                continue; // it was lowered meanwhile
            }
            let Some((_, delivery)) = lane.queue.pop_front() else { continue };
            lane.fast += 1;
            share.fast += 1;
            share.waiting -= 1;
            self.fast += 1;
            self.waiting -= 1;
            self.mark_ready(webhook);
            return Some(delivery);
        }
        None
    }

    /// A fast request has become slow.
    pub(crate) fn became_slow(&mut self, webhook: WebhookId) {
        let Some(lane) = self.lanes.get_mut(&webhook) else { return };
        lane.fast -= 1;
        lane.slow += 1;
        self.fast -= 1;
        self.slow += 1;
        let tenant = lane.tenant;
        self.leave_fast(tenant);
    }

    /// A slow request is stuck.
    pub(crate) fn became_stuck(&mut self, webhook: WebhookId) {
        if let Some(lane) = self.lanes.get_mut(&webhook) {
            lane.stuck += 1;
        }
    }

    /// A request has ended.
    pub(crate) fn finished(&mut self, webhook: WebhookId, pace: Pace, now: Instant) {
        let Some(lane) = self.lanes.get_mut(&webhook) else { return };
        let tenant = lane.tenant;
        if pace == Pace::Fast {
            lane.fast -= 1;
            self.fast -= 1;
            self.leave_fast(tenant);
        } else {
            lane.slow -= 1;
            lane.stuck -= usize::from(pace == Pace::Stuck);
            self.slow -= 1;
        }
        if let Some(share) = self.tenants.get_mut(&tenant) {
            share.finished_at = Some(now);
        }
        self.give_back(tenant, 1);
        self.mark_ready(webhook);
        self.forget_if_idle(webhook);
    }

    /// Changes how many requests of a webhook may be under way.
    pub(crate) fn set_limit(&mut self, webhook: WebhookId, limit: usize) {
        if let Some(lane) = self.lanes.get_mut(&webhook) {
            lane.limit = limit;
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

    /// Whether so many deliveries of a tenant's find no room now, but soon: its requests are ending.
    pub(crate) fn has_room_soon(&self, tenant: TenantId, deliveries: usize, now: Instant) -> bool {
        self.tenants.get(&tenant).is_some_and(|share| {
            let is_moving = share.finished_at.is_some_and(|at| now.duration_since(at) < MOVING);
            is_moving && share.waiting + deliveries > self.limits.waiting_per_tenant
        })
    }

    /// Deliveries that wait in memory.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Requests under way.
    pub(crate) fn under_way(&self) -> usize {
        self.fast + self.slow
    }

    /// How many more deliveries a webhook's lane would start at once, of `limit`.
    pub(crate) fn room(&self, webhook: WebhookId, limit: usize) -> usize {
        let used = self.lanes.get(&webhook).map_or(0, |lane| lane.under_way() + lane.queue.len());
        limit.saturating_sub(used)
    }

    fn take_waiting(&mut self, is_taken: impl Fn(Instant) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        let mut touched = Vec::new();
        for (webhook, lane) in &mut self.lanes {
            let before = taken.len();
            // In a lane, the longest waiting is at the front.
            while let Some((_, delivery)) = lane.queue.pop_front_if(|(since, _)| is_taken(*since)) {
                taken.push(delivery);
            }
            if taken.len() > before {
                touched.push((*webhook, lane.tenant, taken.len() - before));
            }
        }
        self.waiting -= taken.len();
        for (webhook, tenant, count) in touched {
            if let Some(share) = self.tenants.get_mut(&tenant) {
                share.waiting -= count;
            }
            self.give_back(tenant, count);
            self.forget_if_idle(webhook);
        }
        taken
    }

    /// One of the tenant's requests counts no more against the fast ones: another may begin.
    fn leave_fast(&mut self, tenant: TenantId) {
        let Some(share) = self.tenants.get_mut(&tenant) else { return };
        share.fast -= 1;
        self.ready.extend(share.held.pop_front());
    }

    fn give_back(&mut self, tenant: TenantId, count: usize) {
        if let Entry::Occupied(mut share) = self.tenants.entry(tenant) {
            share.get_mut().total -= count;
            if share.get().total == 0 {
                // What it held back is empty lanes by now.
                share.remove();
            }
        }
    }

    fn forget_if_idle(&mut self, webhook: WebhookId) {
        if let Entry::Occupied(lane) = self.lanes.entry(webhook)
            && lane.get().under_way() + lane.get().queue.len() == 0
        {
            lane.remove();
        }
    }

    fn mark_ready(&mut self, webhook: WebhookId) {
        if let Some(lane) = self.lanes.get_mut(&webhook) {
            let has_room = lane.under_way() < lane.limit;
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

    /// Each a tenant of its own, unless a test says otherwise.
    fn lane(number: u8) -> (TenantId, WebhookId) {
        (TenantId(Uuid::from_u128(number.into())), webhook(number))
    }

    fn lanes(fast: usize) -> Lanes<(u8, u32)> {
        Lanes::new(Limits { fast, total: 1000, waiting_per_tenant: 10, max_wait: Duration::from_secs(1) })
    }

    fn started(lanes: &mut Lanes<(u8, u32)>) -> Vec<(u8, u32)> {
        std::iter::from_fn(|| lanes.next()).collect()
    }

    #[test]
    fn webhooks_take_turns_and_none_exceeds_its_share() {
        let now = Instant::now();
        let mut lanes = lanes(100);
        for number in 0..4 {
            lanes.submit(lane(1), (1, number), 2, now).unwrap();
        }
        lanes.submit(lane(2), (2, 0), 2, now).unwrap();
        assert_eq!(started(&mut lanes), [(1, 0), (2, 0), (1, 1)]);
        lanes.finished(webhook(1), Pace::Fast, now);
        assert_eq!(started(&mut lanes), [(1, 2)]);
    }

    #[test]
    fn a_slow_request_frees_its_place_among_the_fast_but_not_in_its_lane() {
        let now = Instant::now();
        let mut lanes = lanes(2);
        for number in 1..=3 {
            lanes.submit(lane(number), (number, 0), 1, now).unwrap();
        }
        assert_eq!(started(&mut lanes), [(1, 0), (2, 0)]);
        lanes.became_slow(webhook(1));
        assert_eq!(started(&mut lanes), [(3, 0)]);
        lanes.became_stuck(webhook(1));
        assert_eq!(lanes.submit(lane(1), (1, 1), 1, now), Err((1, 1)), "a stalled lane takes no more");
    }

    #[test]
    fn what_waits_too_long_comes_back() {
        let now = Instant::now();
        let mut lanes = lanes(10);
        for number in 0..3 {
            let at = now + Duration::from_millis(400) * number;
            lanes.submit(lane(1), (1, number), 1, at).unwrap();
        }
        assert_eq!(started(&mut lanes), [(1, 0)]);
        assert_eq!(lanes.overdue(now + Duration::from_millis(1500)), [(1, 1)]);
        assert_eq!(lanes.take_all(), [(1, 2)]);
        assert_eq!((lanes.waiting(), lanes.under_way()), (0, 1));
    }

    #[test]
    fn one_tenant_has_at_most_three_quarters_of_the_fast_requests() {
        let now = Instant::now();
        let mut lanes = lanes(4);
        let tenant = lane(1).0;
        for number in 1..=6 {
            lanes.submit((tenant, webhook(number)), (number, 0), 1, now).unwrap();
        }
        assert_eq!(started(&mut lanes), [(1, 0), (2, 0), (3, 0)]);
        lanes.submit(lane(7), (7, 0), 1, now).unwrap();
        assert_eq!(started(&mut lanes), [(7, 0)], "another tenant's starts at once");
        lanes.became_slow(webhook(1));
        lanes.finished(webhook(2), Pace::Fast, now);
        assert_eq!(started(&mut lanes), [(4, 0), (5, 0)]);
        lanes.finished(webhook(3), Pace::Fast, now);
        assert_eq!(started(&mut lanes), [(6, 0)]);
    }

    #[test]
    fn one_tenant_has_at_most_a_quarter_of_the_places() {
        let now = Instant::now();
        let limits = Limits { fast: 2, total: 8, waiting_per_tenant: 10, max_wait: Duration::from_secs(1) };
        let mut lanes = Lanes::new(limits);
        assert_eq!([0, 1, 2].map(|n| lanes.submit(lane(1), n, 1, now)), [Ok(()), Ok(()), Err(2)]);
        assert_eq!(lanes.submit(lane(2), 3, 1, now), Ok(()));
    }

    #[test]
    fn a_limit_that_changes_holds_from_then_on() {
        let now = Instant::now();
        let mut lanes = lanes(100);
        for number in 0..5 {
            lanes.submit(lane(1), (1, number), 3, now).unwrap();
        }
        assert_eq!(started(&mut lanes).len(), 3);
        lanes.set_limit(webhook(1), 1);
        lanes.finished(webhook(1), Pace::Fast, now);
        lanes.finished(webhook(1), Pace::Fast, now);
        assert_eq!(started(&mut lanes).len(), 0);
        lanes.finished(webhook(1), Pace::Fast, now);
        assert_eq!(started(&mut lanes).len(), 1);
        lanes.set_limit(webhook(1), 2);
        assert_eq!(started(&mut lanes).len(), 1);
    }

    proptest! {
        #[test]
        fn counts_hold_and_nothing_is_lost_whatever_happens(steps in proptest::collection::vec((0_u8..5, 0_u8..4), 1..200)) {
            let mut now = Instant::now();
            let mut lanes = lanes(5);
            let mut under_way: Vec<(u8, Pace)> = Vec::new();
            let (mut submitted, mut given_back, mut began) = (0_usize, 0, 0);
            for (step, number) in steps {
                match step {
                    0 | 1 => {
                        submitted += 1;
                        // Two tenants share the four webhooks.
                        let lane = (lane(number % 2).0, webhook(number));
                        given_back += usize::from(lanes.submit(lane, (number, 0), 3, now).is_err());
                    }
                    2 => if !under_way.is_empty() {
                        let (number, pace) = under_way.remove(usize::from(number) % under_way.len());
                        lanes.finished(webhook(number), pace, now);
                    },
                    3 => if let Some((number, pace)) = under_way.iter_mut().find(|(_, pace)| *pace != Pace::Stuck) {
                        if *pace == Pace::Fast {
                            *pace = Pace::Slow;
                            lanes.became_slow(webhook(*number));
                        } else {
                            *pace = Pace::Stuck;
                            lanes.became_stuck(webhook(*number));
                        }
                    },
                    _ => {
                        now += Duration::from_millis(300);
                        given_back += lanes.overdue(now).len();
                    }
                }
                let new = started(&mut lanes);
                began += new.len();
                under_way.extend(new.into_iter().map(|(number, _)| (number, Pace::Fast)));
                prop_assert_eq!(lanes.under_way(), under_way.len());
                prop_assert_eq!(submitted, given_back + began + lanes.waiting());
                let is_fast = |pace: Pace| pace == Pace::Fast;
                prop_assert!(under_way.iter().filter(|(_, pace)| is_fast(*pace)).count() <= 5);
                for tenant in 0..2 {
                    let of_tenant = under_way.iter().filter(|(number, _)| number % 2 == tenant);
                    let fast = of_tenant.filter(|(_, pace)| is_fast(*pace)).count();
                    prop_assert!(fast <= 4);
                }
                for number in 0..4 {
                    prop_assert!(under_way.iter().filter(|(n, _)| *n == number).count() <= 3);
                }
            }
            // Whatever waits starts in the end.
            while let Some((number, pace)) = under_way.pop() {
                lanes.finished(webhook(number), pace, now);
                let new = started(&mut lanes);
                began += new.len();
                under_way.extend(new.into_iter().map(|(number, _)| (number, Pace::Fast)));
            }
            prop_assert_eq!(submitted, given_back + began);
            prop_assert!(lanes.lanes.is_empty() && lanes.tenants.is_empty());
        }
    }
}
