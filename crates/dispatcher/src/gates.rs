//! Which webhooks may be sent to now, and how much at a time, as this dispatcher knows it: its own results at once, those
//! of others within a second, through the database.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{Gate, Health, Outcome, WebhookId};

/// Only webhooks that are failing, or were a moment ago.
pub(crate) struct Gates {
    webhooks: Mutex<HashMap<WebhookId, Webhook>>,
    /// Webhooks that rest for a fault of ours, which concerns nobody else, and until when.
    resting: Mutex<HashMap<WebhookId, DateTime<Utc>>>,
    /// How long a probe may be on its way before another is sent.
    probe_time: Duration,
}

#[derive(Default)]
struct Webhook {
    health: Health,
    probe_sent: Option<DateTime<Utc>>,
    /// Most requests under way while the receiver is overloaded, or recovers; `None`: as many as its lane allows.
    window: Option<usize>,
}

/// What follows from a result.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Learned {
    /// The new health, where the other dispatchers need to know it.
    pub(crate) news: Option<Health>,
    /// How many requests may be under way from now on, where that changed.
    pub(crate) limit: Option<usize>,
}

impl Gates {
    pub(crate) fn new(probe_time: Duration) -> Self {
        Self { webhooks: Mutex::default(), resting: Mutex::default(), probe_time }
    }

    /// Whether a request may be made. One that probes a half-open gate counts as on its way from now on.
    pub(crate) fn admit(&self, webhook: WebhookId, now: DateTime<Utc>) -> bool {
        if self.is_resting(webhook, now) {
            return false;
        }
        let mut webhooks = self.lock();
        let Some(known) = webhooks.get_mut(&webhook) else { return true };
        match known.health.gate(now) {
            Gate::Closed => true,
            Gate::Open => false,
            Gate::HalfOpen if self.is_probed(known, now) => false,
            Gate::HalfOpen => {
                known.probe_sent = Some(now);
                true
            }
        }
    }

    /// The most requests that may be under way, of the `usual` number.
    pub(crate) fn limit(&self, webhook: WebhookId, usual: usize, now: DateTime<Utc>) -> usize {
        if self.is_resting(webhook, now) {
            return 0;
        }
        let webhooks = self.lock();
        let Some(known) = webhooks.get(&webhook) else { return usual };
        match known.health.gate(now) {
            Gate::Closed => known.window.unwrap_or(usual).min(usual),
            Gate::Open => 0,
            Gate::HalfOpen => usize::from(!self.is_probed(known, now)),
        }
    }

    /// No request can be made to this webhook until then, through no fault of its own: what waits for it need not be
    /// taken on and put off again and again.
    pub(crate) fn rest(&self, webhook: WebhookId, until: DateTime<Utc>) {
        self.lock_resting().insert(webhook, until);
    }

    /// Takes a result in. An overloaded receiver gets half as many requests at a time; one that recovers, one, and with each
    /// success one more, up to the `usual` number.
    pub(crate) fn record(
        &self,
        webhook: WebhookId,
        outcome: Outcome,
        retry_after: Option<Duration>,
        usual: usize,
        now: DateTime<Utc>,
    ) -> Learned {
        let mut webhooks = self.lock();
        if outcome == Outcome::Delivered {
            // Most webhooks are healthy and stay so, which is no news and costs nothing.
            let Some(known) = webhooks.get_mut(&webhook) else { return Learned::default() };
            let was_open = known.health.open_until.is_some();
            let news = (!known.health.is_good()).then(Health::default);
            known.health = Health::default();
            known.probe_sent = None;
            known.window = if was_open { Some(1) } else { known.window.map(|window| window + 1) };
            let limit = known.window.unwrap_or(usual).min(usual);
            if limit == usual {
                webhooks.remove(&webhook);
            }
            return Learned { news, limit: Some(limit) };
        }
        let known = webhooks.entry(webhook).or_default();
        let next = known.health.after_failure(now, retry_after.filter(|_| outcome.is_overload()));
        let is_news = known.health.is_news(&next);
        known.health = next;
        known.probe_sent = None;
        if outcome.is_overload() {
            known.window = Some((known.window.unwrap_or(usual) / 2).max(1));
        }
        Learned {
            news: is_news.then(|| known.health.clone()),
            limit: known.window.map(|window| window.min(usual)),
        }
    }

    /// Takes in what other dispatchers said. It may be older than what is known here, which then stays.
    pub(crate) fn learn(&self, changes: Vec<(WebhookId, Health)>) {
        let mut webhooks = self.lock();
        for (webhook, health) in changes {
            if health.is_good() {
                if let Some(known) = webhooks.get_mut(&webhook)
                    && !known.health.is_good()
                {
                    known.window = known.health.open_until.map(|_| 1).or(known.window);
                    known.health = Health::default();
                    known.probe_sent = None;
                }
                continue;
            }
            let known = webhooks.entry(webhook).or_default();
            if known.health.is_good() || health.open_until > known.health.open_until {
                known.health = health;
                known.probe_sent = None;
            }
        }
        webhooks.retain(|_, known| !known.health.is_good() || known.window.is_some());
    }

    /// How many webhooks are not sent to, but for a probe, because they fail.
    pub(crate) fn open(&self, now: DateTime<Utc>) -> usize {
        self.lock().values().filter(|known| known.health.gate(now) != Gate::Closed).count()
    }

    /// How a webhook is doing.
    pub(crate) fn health(&self, webhook: WebhookId) -> Health {
        self.lock().get(&webhook).map(|known| known.health.clone()).unwrap_or_default()
    }

    fn is_resting(&self, webhook: WebhookId, now: DateTime<Utc>) -> bool {
        let mut resting = self.lock_resting();
        let is_resting = resting.get(&webhook).is_some_and(|until| now < *until);
        if !is_resting {
            resting.remove(&webhook);
        }
        is_resting
    }

    fn lock_resting(&self) -> MutexGuard<'_, HashMap<WebhookId, DateTime<Utc>>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_probed(&self, known: &Webhook, now: DateTime<Utc>) -> bool {
        known.probe_sent.is_some_and(|at| now < at + self.probe_time)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<WebhookId, Webhook>> {
        self.webhooks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use domain::Cause;

    use super::*;

    const FAILED: Outcome = Outcome::Retryable(Cause::Status(500));
    const OVERLOADED: Outcome = Outcome::Retryable(Cause::Status(503));

    fn gates() -> Gates {
        Gates::new(Duration::from_secs(15))
    }

    #[test]
    fn an_open_gate_admits_nothing_a_half_open_one_a_single_probe() {
        let gates = gates();
        let webhook = WebhookId::generate();
        let now = Utc::now();
        assert!(gates.admit(webhook, now));
        let fail = || gates.record(webhook, FAILED, None, 64, now).news;
        let news: Vec<Health> = (0..20).filter_map(|_| fail()).collect();
        assert_eq!(news.len(), 3, "the first failure, the third and the opening are news");
        assert!(!gates.admit(webhook, now) && gates.limit(webhook, 64, now) == 0);
        let later = now + Duration::from_secs(10);
        assert_eq!(gates.limit(webhook, 64, later), 1);
        assert!(gates.admit(webhook, later) && !gates.admit(webhook, later));
        assert!(gates.admit(webhook, later + Duration::from_secs(15)), "a probe that was lost is sent again");
        let closed = gates.record(webhook, Outcome::Delivered, None, 64, later);
        assert_eq!(closed, Learned { news: Some(Health::default()), limit: Some(1) });
        assert!(gates.admit(webhook, later));
        for limit in 2..=64 {
            let better = gates.record(webhook, Outcome::Delivered, None, 64, later);
            assert_eq!(better, Learned { news: None, limit: Some(limit) }, "one more with each success");
        }
        let healthy = gates.record(webhook, Outcome::Delivered, None, 64, later);
        assert_eq!(healthy, Learned::default(), "healthy as before");
    }

    #[test]
    fn an_overloaded_receiver_gets_half_as_many_requests_and_the_time_it_asks_for() {
        let gates = gates();
        let webhook = WebhookId::generate();
        let now = Utc::now();
        let overload = || gates.record(webhook, OVERLOADED, None, 64, now).limit;
        let limits: Vec<_> = (0..8).filter_map(|_| overload()).collect();
        assert_eq!(limits, [32, 16, 8, 4, 2, 1, 1, 1]);
        let asked = Some(Duration::from_secs(60));
        gates.record(webhook, FAILED, asked, 64, now);
        assert_eq!(gates.limit(webhook, 64, now), 1, "only an overloaded receiver's wish opens the gate");
        gates.record(webhook, OVERLOADED, asked, 64, now);
        assert_eq!(gates.limit(webhook, 64, now + Duration::from_secs(59)), 0);
        assert_eq!(gates.limit(webhook, 64, now + Duration::from_secs(60)), 1);
    }

    #[test]
    fn a_webhook_that_rests_admits_nothing_until_it_has_rested() {
        let gates = gates();
        let webhook = WebhookId::generate();
        let now = Utc::now();
        let later = now + Duration::from_secs(30);
        gates.rest(webhook, later);
        assert!(!gates.admit(webhook, now) && gates.limit(webhook, 64, now) == 0);
        assert!(gates.admit(WebhookId::generate(), now), "others go on");
        assert!(gates.admit(webhook, later) && gates.limit(webhook, 64, later) > 0);
        assert_eq!(gates.health(webhook), Health::default());
    }

    #[test]
    fn what_others_say_counts() {
        let (ours, theirs) = (gates(), gates());
        let webhook = WebhookId::generate();
        let now = Utc::now();
        for _ in 0..20 {
            let news = theirs.record(webhook, FAILED, None, 64, now).news;
            ours.learn(news.map(|health| (webhook, health)).into_iter().collect());
        }
        assert!(!ours.admit(webhook, now));
        let stale = Health::default().after_failure(now, None);
        ours.learn(vec![(webhook, stale)]);
        assert!(!ours.admit(webhook, now), "an older word does not close the gate");
        ours.learn(vec![(webhook, Health::default())]);
        assert!(ours.admit(webhook, now));
        assert_eq!(ours.limit(webhook, 64, now), 1, "it begins with one");
    }
}
