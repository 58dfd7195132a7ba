use crate::Invalid;

/// What a tenant sets of a webhook's gate. It holds for all dispatchers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GateSettings {
    /// Most deliveries a second; `None`: no limit.
    pub rate_limit: Option<u32>,
    /// Most requests under way at a time; `None`: each dispatcher's default.
    pub concurrency: Option<u32>,
    /// Most deliveries a second of a backlog, after a pause or an outage; `None`: the dispatchers' default.
    pub drain_rate: Option<u32>,
    /// Whether events of one ordering key are delivered one after another, in the order they were accepted.
    pub is_ordered: bool,
}

/// What a tenant changes of a webhook's gate; `None` leaves a setting as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GateChange {
    /// See [`GateSettings::rate_limit`].
    pub rate_limit: Option<Option<u32>>,
    /// See [`GateSettings::concurrency`].
    pub concurrency: Option<Option<u32>>,
    /// See [`GateSettings::drain_rate`].
    pub drain_rate: Option<Option<u32>>,
    /// See [`GateSettings::is_ordered`].
    pub is_ordered: Option<bool>,
}

impl GateChange {
    /// The settings after the change.
    pub fn apply(self, before: GateSettings) -> GateSettings {
        GateSettings {
            rate_limit: self.rate_limit.unwrap_or(before.rate_limit),
            concurrency: self.concurrency.unwrap_or(before.concurrency),
            drain_rate: self.drain_rate.unwrap_or(before.drain_rate),
            is_ordered: self.is_ordered.unwrap_or(before.is_ordered),
        }
    }
}

/// Highest rate that can be set, in deliveries a second.
const MAX_RATE: u32 = 10_000;
/// Highest concurrency that can be set, in requests.
const MAX_CONCURRENCY: u32 = 1_000;

/// Checks a rate, in deliveries a second.
pub fn check_rate(field: &str, rate: i64) -> Result<u32, Invalid> {
    within(rate, MAX_RATE).ok_or_else(|| {
        Invalid::new(format!("{field} must be from 1 to {MAX_RATE} deliveries a second, or null"))
    })
}

/// Checks a concurrency cap, in requests.
pub fn check_concurrency(concurrency: i64) -> Result<u32, Invalid> {
    within(concurrency, MAX_CONCURRENCY).ok_or_else(|| {
        Invalid::new(format!("concurrency must be from 1 to {MAX_CONCURRENCY} requests at a time, or null"))
    })
}

fn within(value: i64, max: u32) -> Option<u32> {
    u32::try_from(value).ok().filter(|value| (1..=max).contains(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_and_a_concurrency_have_bounds() {
        assert_eq!(check_rate("rateLimit", 1), Ok(1));
        assert_eq!(check_rate("rateLimit", 10_000), Ok(10_000));
        assert_eq!(check_concurrency(1_000), Ok(1_000));
        for bad in [0, -1, 10_001, i64::MAX, i64::MIN] {
            assert!(check_rate("rateLimit", bad).is_err() && check_concurrency(bad).is_err(), "{bad}");
        }
    }
}
