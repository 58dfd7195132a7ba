use std::time::Duration;

use chrono::{DateTime, Utc};

/// Failures in a row that open the gate.
const FAILURES_TO_OPEN: u32 = 20;
/// Failures in a row that the tenant is told of. One or two are the weather.
const FAILURES_TO_ANNOUNCE: u32 = 3;
/// How long the gate stays open at first; each failed probe doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// How long it stays open at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// How a webhook's receiver has been doing: a circuit breaker, shared by all dispatchers through the database.
///
/// Closed, requests flow. After 20 failures in a row it opens: deliveries wait, and no attempt is used up. After a pause
/// it is half open: one request probes the receiver. A success closes it, a failure opens it for twice as long. An
/// overloaded receiver that asks for time opens it for that time, up to five minutes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Failures since the last success.
    pub consecutive_failures: u32,
    /// When the first of them was.
    pub failing_since: Option<DateTime<Utc>>,
    /// Until when no request is made, or when the last pause ended.
    pub open_until: Option<DateTime<Utc>>,
    /// How often failures have opened the gate since the last success.
    pub times_opened: u32,
    /// Whether a backlog leaves at the drain rate, after a pause or an outage.
    pub is_draining: bool,
}

/// Whether requests to a webhook may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// They may.
    Closed,
    /// One may, to see how the receiver is.
    HalfOpen,
    /// None may.
    Open,
}

impl Health {
    /// Whether requests may be made now.
    pub fn gate(&self, now: DateTime<Utc>) -> Gate {
        match self.open_until {
            None => Gate::Closed,
            Some(until) if now < until => Gate::Open,
            Some(_) => Gate::HalfOpen,
        }
    }

    /// The health after a failed attempt, with the time that an overloaded receiver `asked` for. A failure while the gate is
    /// open, of a request begun before, opens no further.
    pub fn after_failure(&self, now: DateTime<Utc>, asked: Option<Duration>) -> Self {
        let mut next = self.clone();
        next.consecutive_failures = self.consecutive_failures.saturating_add(1);
        next.failing_since.get_or_insert(now);
        let opens = match self.gate(now) {
            Gate::Closed => next.consecutive_failures >= FAILURES_TO_OPEN,
            Gate::HalfOpen => true,
            Gate::Open => false,
        };
        let asked = asked.filter(|asked| !asked.is_zero()).map(|asked| asked.min(LONGEST_PAUSE));
        if opens {
            let pause = FIRST_PAUSE.saturating_mul(1 << self.times_opened.min(16)).min(LONGEST_PAUSE);
            next.open_until = Some(now + pause.max(asked.unwrap_or_default()));
            next.times_opened = self.times_opened.saturating_add(1);
        } else if let Some(asked) = asked {
            next.open_until = self.open_until.max(Some(now + asked));
        }
        next
    }

    /// Whether the last attempt succeeded, or none was made.
    pub fn is_good(&self) -> bool {
        self.failing_since.is_none() && self.open_until.is_none()
    }

    /// Whether others need to know that this became `next`. Mere counts are everybody's own.
    pub fn is_news(&self, next: &Self) -> bool {
        (self.failing_since, self.open_until) != (next.failing_since, next.open_until)
            || self.is_worth_telling() != next.is_worth_telling()
    }

    /// Whether so many attempts have failed in a row that the tenant is to be told.
    pub fn is_worth_telling(&self) -> bool {
        self.consecutive_failures >= FAILURES_TO_ANNOUNCE
    }

    /// Whether every attempt has failed for so long that the webhook is to be switched off.
    pub fn is_hopeless(&self, now: DateTime<Utc>, disable_after: Duration) -> bool {
        self.failing_since.is_some_and(|since| (now - since).to_std().is_ok_and(|time| time >= disable_after))
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-05-30T10:00:00Z".parse().unwrap()
    }

    fn after_failures(count: u32) -> Health {
        (0..count).fold(Health::default(), |health, _| health.after_failure(now(), None))
    }

    #[test]
    fn the_twentieth_failure_in_a_row_opens_the_gate_for_ten_seconds() {
        assert_eq!(after_failures(19).gate(now()), Gate::Closed);
        let opened = after_failures(20);
        assert_eq!(opened.gate(now() + TimeDelta::milliseconds(9_999)), Gate::Open);
        assert_eq!(opened.gate(now() + TimeDelta::seconds(10)), Gate::HalfOpen);
    }

    #[test]
    fn a_failed_probe_doubles_the_pause_up_to_five_minutes() {
        let mut health = after_failures(20);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let probe = health.open_until.unwrap();
            health = health.after_failure(probe, None);
            pauses.push((health.open_until.unwrap() - probe).num_seconds());
        }
        assert_eq!(pauses, [20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn failures_of_requests_begun_before_it_opened_do_not_lengthen_the_pause() {
        let (opened, later) = (after_failures(20), after_failures(60));
        assert_eq!((opened.open_until, opened.times_opened), (later.open_until, later.times_opened));
        assert!(!opened.is_news(&later), "only the count differs");
    }

    #[test]
    fn a_receiver_that_asks_for_time_gets_it_up_to_five_minutes() {
        let minute = Duration::from_secs(60);
        let asked = after_failures(1).after_failure(now(), Some(minute));
        assert_eq!(asked.gate(now() + TimeDelta::seconds(59)), Gate::Open);
        assert_eq!(asked.gate(now() + TimeDelta::seconds(60)), Gate::HalfOpen);
        assert_eq!(asked.times_opened, 0, "that is no outage");
        let shorter = asked.after_failure(now(), Some(minute / 2));
        assert_eq!(shorter.open_until, asked.open_until, "the longest wish counts");
        let day = after_failures(1).after_failure(now(), Some(minute * 1440));
        assert_eq!(day.gate(now() + TimeDelta::minutes(5)), Gate::HalfOpen);
        assert_eq!(after_failures(1).after_failure(now(), Some(Duration::ZERO)).gate(now()), Gate::Closed);
    }

    #[test]
    fn five_days_of_failures_are_hopeless() {
        let five_days = Duration::from_secs(5 * 86_400);
        let health = after_failures(1);
        assert!(!health.is_hopeless(now() + TimeDelta::days(5) - TimeDelta::seconds(1), five_days));
        assert!(health.is_hopeless(now() + TimeDelta::days(5), five_days));
        assert!(!Health::default().is_hopeless(now(), five_days));
    }

    proptest! {
        #[test]
        fn whatever_happens_the_gate_lets_a_probe_through_within_five_minutes(gaps in proptest::collection::vec((0_i64..600, proptest::option::of(0_u64..100_000)), 1..200)) {
            let mut at = now();
            let mut health = Health::default();
            for (gap, asked) in gaps {
                at += TimeDelta::seconds(gap);
                let next = health.after_failure(at, asked.map(Duration::from_secs));
                prop_assert_eq!(next.failing_since, Some(health.failing_since.unwrap_or(at)));
                prop_assert!(next.gate(at + LONGEST_PAUSE) != Gate::Open);
                prop_assert!(next.consecutive_failures < 20 || next.gate(at) != Gate::Closed);
                health = next;
            }
        }
    }
}
