use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use domain::{NotInForce, Rate, Subscription, TenantId, Throttle};
use store::{Tenant, Usage};

/// What a gateway knows of one tenant.
#[derive(Default)]
pub(super) struct Account {
    /// Not read yet while the database is away, or where the tenant is not known: then nothing is limited.
    subscription: Option<Subscription>,
    events: Throttle,
    requests: Throttle,
    /// What was used on `day`.
    day: NaiveDate,
    /// At all gateways, when it was last read.
    total: Option<Usage>,
    /// Here, since; part of it may be on its way into the database.
    since: Usage,
    /// Here, and not on its way into the database yet.
    undrained: Usage,
    /// The same of a day that is over.
    left_over: Vec<(NaiveDate, Usage)>,
    is_active: bool,
}

/// Why a tenant's request is not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    NotInForce(NotInForce),
    DayUsedUp { limit: u64 },
    TooFast { what: &'static str, rate: Rate, wait: Duration },
}

impl Account {
    pub(super) fn is_known(&self) -> bool {
        self.subscription.is_some()
    }

    /// Whether forgetting it would lose something.
    pub(super) fn is_needed(&self) -> bool {
        self.is_active || self.undrained != Usage::default() || !self.left_over.is_empty()
    }

    pub(super) fn check_subscription(&mut self, now: DateTime<Utc>) -> Result<(), Refusal> {
        self.is_active = true;
        let checked = self.subscription.as_ref().map_or(Ok(()), |subscription| subscription.check(now));
        checked.map_err(Refusal::NotInForce)
    }

    pub(super) fn take_request(&mut self, day: NaiveDate, now: Duration) -> Result<(), Refusal> {
        self.is_active = true;
        self.turn_to(day);
        if let Some(rate) = self.subscription.as_ref().and_then(|known| known.limits.requests_per_minute) {
            let taken = self.requests.take(1, rate, now);
            taken.map_err(|late| Refusal::TooFast { what: "requests", rate, wait: late.wait })?;
        }
        self.count(Usage { requests: 1, events: 0 });
        Ok(())
    }

    pub(super) fn take_events(&mut self, events: u32, day: NaiveDate, now: Duration) -> Result<(), Refusal> {
        self.is_active = true;
        self.turn_to(day);
        if let Some(limits) = self.subscription.as_ref().map(|known| known.limits) {
            let used = self.total.unwrap_or_default().events + self.since.events;
            if let Some(limit) = limits.events_per_day
                && u64::try_from(used + i64::from(events)).is_ok_and(|used| used > limit)
            {
                return Err(Refusal::DayUsedUp { limit });
            }
            if let Some(rate) = limits.events_per_minute {
                let taken = self.events.take(events, rate, now);
                taken.map_err(|late| Refusal::TooFast { what: "events", rate, wait: late.wait })?;
            }
        }
        self.count(Usage { events: events.into(), requests: 0 });
        Ok(())
    }

    /// Takes events back that were counted and not accepted.
    pub(super) fn take_back(&mut self, events: u32, day: NaiveDate) {
        self.turn_to(day);
        self.count(Usage { events: -i64::from(events), requests: 0 });
    }

    /// What is to be written down.
    pub(super) fn drain(&mut self, tenant: TenantId) -> Vec<(TenantId, NaiveDate, Usage)> {
        let today = (self.day, std::mem::take(&mut self.undrained));
        let all = self.left_over.drain(..).chain([today]);
        all.filter(|(_, usage)| *usage != Usage::default()).map(|(day, usage)| (tenant, day, usage)).collect()
    }

    /// It is written down: the database's total contains it from now on.
    pub(super) fn written(&mut self, day: NaiveDate, usage: Usage) {
        if day == self.day {
            self.since.events -= usage.events;
            self.since.requests -= usage.requests;
            if let Some(total) = &mut self.total {
                total.events += usage.events;
                total.requests += usage.requests;
            }
        }
    }

    /// Whether it was active since this was last asked.
    pub(super) fn was_active(&mut self) -> bool {
        std::mem::take(&mut self.is_active)
    }

    /// Takes in what the database says. What others have used since last time counts here too.
    pub(super) fn learn(&mut self, tenant: Tenant, day: NaiveDate, now: Duration) {
        self.turn_to(day);
        if day != self.day {
            return; // read just before midnight
        }
        if let Some(before) = self.total {
            let elsewhere =
                |read: i64, before: i64| u32::try_from((read - before).max(0)).unwrap_or(u32::MAX);
            let limits = tenant.subscription.limits;
            if let Some(rate) = limits.events_per_minute {
                self.events.charge(elsewhere(tenant.usage.events, before.events), rate, now);
            }
            if let Some(rate) = limits.requests_per_minute {
                self.requests.charge(elsewhere(tenant.usage.requests, before.requests), rate, now);
            }
        }
        self.total = Some(tenant.usage);
        self.subscription = Some(tenant.subscription);
    }

    fn count(&mut self, usage: Usage) {
        for count in [&mut self.since, &mut self.undrained] {
            count.events += usage.events;
            count.requests += usage.requests;
        }
    }

    fn turn_to(&mut self, day: NaiveDate) {
        if self.day < day {
            if self.undrained != Usage::default() {
                self.left_over.push((self.day, std::mem::take(&mut self.undrained)));
            }
            (self.day, self.total, self.since) = (day, None, Usage::default());
        }
    }
}
