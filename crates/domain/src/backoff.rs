use std::time::Duration;

/// How long to wait before trying again to reach something of our own: a broker, a database. Doubles from 100 ms to
/// 10 s, and is spread at random so that processes that lost the same thing do not return at once.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(10);

    /// The wait after one more failure. `random` is from 0 up to 1.
    pub fn next(&mut self, random: f64) -> Duration {
        let doubled = Self::FIRST.saturating_mul(1 << self.failures.min(16)).min(Self::LONGEST);
        self.failures = self.failures.saturating_add(1);
        doubled.mul_f64(0.5 + random / 2.0)
    }

    /// Begins anew after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_ten_seconds_and_begin_anew() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..9).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(backoff.next(0.0).as_millis(), 5000);
        backoff.reset();
        assert_eq!(backoff.next(0.0).as_millis(), 50);
    }
}
