use std::time::Duration;

/// A rate: so many calls a minute, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    per_minute: u32,
}

impl Rate {
    /// A tenant that has been quiet can use up what this many seconds allow at once.
    const BURST_SECONDS: u32 = 5;
    /// The least that it can use at once, unless a whole minute allows less.
    const MIN_BURST: u32 = 10;

    /// At least one call a minute.
    pub fn per_minute(calls: u32) -> Self {
        Self { per_minute: calls.max(1) }
    }

    /// Calls that are let through at once after a quiet time.
    pub fn burst(self) -> u32 {
        (self.per_minute / 60 * Self::BURST_SECONDS).max(Self::MIN_BURST).min(self.per_minute)
    }

    /// Calls a minute.
    pub fn calls_per_minute(self) -> u32 {
        self.per_minute
    }

    fn time_for(self, calls: u32) -> Duration {
        Duration::from_secs(60) * calls / self.per_minute
    }
}

/// Lets calls through at a rate: the generic cell rate algorithm, in one number. Times count from any fixed moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttle {
    /// When all that was let through is paid for.
    paid_at: Duration,
}

/// Why a call is not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttled {
    /// How long until one is.
    pub wait: Duration,
}

impl Throttle {
    /// The most that is owed, in time. Bounds what calls elsewhere can cost.
    const MAX_DEBT: Duration = Duration::from_secs(60);

    /// Lets `calls` through if there is room for one: a batch larger than the burst passes too, and is paid for afterwards.
    pub fn take(&mut self, calls: u32, rate: Rate, now: Duration) -> Result<(), Throttled> {
        let room_from = self.paid_at.saturating_sub(rate.time_for(rate.burst() - 1));
        if now < room_from {
            return Err(Throttled { wait: room_from - now });
        }
        self.paid_at = self.paid_at.max(now) + rate.time_for(calls);
        Ok(())
    }

    /// Counts calls that were let through elsewhere.
    pub fn charge(&mut self, calls: u32, rate: Rate, now: Duration) {
        let owed = self.paid_at.max(now).saturating_add(rate.time_for(calls));
        self.paid_at = self.paid_at.max(owed.min(now + rate.time_for(rate.burst()) + Self::MAX_DEBT));
    }

    /// How many calls would be let through now.
    pub fn remaining(&self, rate: Rate, now: Duration) -> u32 {
        let owed = self.paid_at.saturating_sub(now).as_secs_f64();
        let used = (owed * f64::from(rate.per_minute) / 60.0).ceil();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, and is not negative"
        )]
        let used = used as u32;
        rate.burst().saturating_sub(used)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn after_a_quiet_time_a_burst_passes_and_then_the_rate() {
        let rate = Rate::per_minute(600);
        let mut throttle = Throttle::default();
        let start = 100 * SECOND;
        assert_eq!(throttle.remaining(rate, start), 50);
        for _ in 0..50 {
            assert_eq!(throttle.take(1, rate, start), Ok(()));
        }
        assert_eq!(throttle.remaining(rate, start), 0);
        let wait = SECOND / 10;
        assert_eq!(throttle.take(1, rate, start), Err(Throttled { wait }));
        assert_eq!(throttle.take(1, rate, start + wait), Ok(()));
    }

    #[test]
    fn a_batch_larger_than_the_burst_passes_and_is_paid_for() {
        let rate = Rate::per_minute(60);
        let mut throttle = Throttle::default();
        assert_eq!(throttle.take(500, rate, SECOND), Ok(()));
        let Err(Throttled { wait }) = throttle.take(1, rate, SECOND) else { panic!() };
        assert_eq!(wait, 491 * SECOND);
    }

    #[test]
    fn a_small_rate_allows_ten_at_once_or_a_minutes_worth() {
        assert_eq!(Rate::per_minute(60).burst(), 10);
        assert_eq!(Rate::per_minute(3).burst(), 3);
        assert_eq!(Rate::per_minute(0).calls_per_minute(), 1);
        assert_eq!(Rate::per_minute(60_000).burst(), 5_000);
    }

    #[test]
    fn what_passed_elsewhere_counts_but_debt_is_bounded() {
        let rate = Rate::per_minute(60);
        let mut throttle = Throttle::default();
        throttle.charge(10, rate, SECOND);
        assert_eq!(throttle.take(1, rate, SECOND), Err(Throttled { wait: SECOND }));
        throttle.charge(1_000_000, rate, SECOND);
        let Err(Throttled { wait }) = throttle.take(1, rate, SECOND) else { panic!() };
        assert!(wait <= 62 * SECOND, "{wait:?}");
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_the_rate_pass(
            per_minute in 1_u32..100_000,
            steps in prop::collection::vec((1_u32..5, 0_u64..5_000), 1..200),
        ) {
            let rate = Rate::per_minute(per_minute);
            let mut throttle = Throttle::default();
            let (mut now, mut passed, mut largest) = (Duration::ZERO, 0_u64, 0);
            for (calls, milliseconds) in steps {
                now += Duration::from_millis(milliseconds);
                match throttle.take(calls, rate, now) {
                    Ok(()) => passed += u64::from(calls),
                    Err(Throttled { wait }) => {
                        prop_assert!(wait > Duration::ZERO);
                        prop_assert_eq!(throttle.clone().take(1, rate, now + wait), Ok(()), "the wait is enough");
                    }
                }
                largest = largest.max(u64::from(calls));
                let allowed = now.as_secs_f64() * f64::from(per_minute) / 60.0 + f64::from(rate.burst());
                prop_assert!(passed as f64 <= allowed + largest as f64, "{} of {}", passed, allowed);
            }
        }
    }
}
