//! Which webhooks may be sent to now, as this dispatcher knows it: its own results at once, those of others within a
//! second, through the database.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{Gate, Health, WebhookId};

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

    /// The most requests that may be begun now.
    pub(crate) fn limit(&self, webhook: WebhookId, now: DateTime<Utc>) -> usize {
        if self.is_resting(webhook, now) {
            return 0;
        }
        let webhooks = self.lock();
        let Some(known) = webhooks.get(&webhook) else { return usize::MAX };
        match known.health.gate(now) {
            Gate::Closed => usize::MAX,
            Gate::Open => 0,
            Gate::HalfOpen => usize::from(!self.is_probed(known, now)),
        }
    }

    /// No request can be made to this webhook until then, through no fault of its own: what waits for it need not be
    /// taken on and put off again and again.
    pub(crate) fn rest(&self, webhook: WebhookId, until: DateTime<Utc>) {
        self.lock_resting().insert(webhook, until);
    }

    /// Takes a result in. Gives the new health where the other dispatchers need to know it.
    pub(crate) fn record(&self, webhook: WebhookId, succeeded: bool, now: DateTime<Utc>) -> Option<Health> {
        let mut webhooks = self.lock();
        if succeeded {
            // Most webhooks are healthy and stay so, which is no news and costs nothing.
            return webhooks.remove(&webhook).map(|_| Health::default());
        }
        let known = webhooks.entry(webhook).or_default();
        let next = known.health.after_failure(now);
        let is_news = known.health.is_news(&next);
        known.health = next;
        known.probe_sent = None;
        is_news.then(|| known.health.clone())
    }

    /// Takes in what other dispatchers said.
    pub(crate) fn learn(&self, changes: Vec<(WebhookId, Health)>) {
        let mut webhooks = self.lock();
        for (webhook, health) in changes {
            if health == Health::default() {
                webhooks.remove(&webhook);
                continue;
            }
            let known = webhooks.entry(webhook).or_default();
            if known.health.is_news(&health) {
                known.health = health;
                known.probe_sent = None;
            }
        }
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
    use super::*;

    #[test]
    fn an_open_gate_admits_nothing_a_half_open_one_a_single_probe() {
        let gates = Gates::new(Duration::from_secs(15));
        let webhook = WebhookId::generate();
        let now = Utc::now();
        assert!(gates.admit(webhook, now));
        let news: Vec<Health> = (0..20).filter_map(|_| gates.record(webhook, false, now)).collect();
        assert_eq!(news.len(), 2, "the first failure and the opening are news");
        assert!(!gates.admit(webhook, now) && gates.limit(webhook, now) == 0);
        let later = now + Duration::from_secs(10);
        assert_eq!(gates.limit(webhook, later), 1);
        assert!(gates.admit(webhook, later) && !gates.admit(webhook, later));
        assert!(gates.admit(webhook, later + Duration::from_secs(15)), "a probe that was lost is sent again");
        assert_eq!(gates.record(webhook, true, later), Some(Health::default()));
        assert!(gates.admit(webhook, later) && gates.limit(webhook, later) == usize::MAX);
        assert_eq!(gates.record(webhook, true, later), None, "healthy as before");
    }

    #[test]
    fn a_webhook_that_rests_admits_nothing_until_it_has_rested() {
        let gates = Gates::new(Duration::from_secs(15));
        let webhook = WebhookId::generate();
        let now = Utc::now();
        let later = now + Duration::from_secs(30);
        gates.rest(webhook, later);
        assert!(!gates.admit(webhook, now) && gates.limit(webhook, now) == 0);
        assert!(gates.admit(WebhookId::generate(), now), "others go on");
        assert!(gates.admit(webhook, later) && gates.limit(webhook, later) > 0);
        assert_eq!(gates.health(webhook), Health::default());
    }

    #[test]
    fn what_others_say_counts() {
        let (ours, theirs) = (Gates::new(Duration::from_secs(15)), Gates::new(Duration::from_secs(15)));
        let webhook = WebhookId::generate();
        let now = Utc::now();
        for _ in 0..20 {
            let news = theirs.record(webhook, false, now);
            ours.learn(news.map(|health| (webhook, health)).into_iter().collect());
        }
        assert!(!ours.admit(webhook, now));
        ours.learn(vec![(webhook, Health::default())]);
        assert!(ours.admit(webhook, now));
    }
}
