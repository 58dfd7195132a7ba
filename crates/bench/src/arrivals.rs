//! What the receiver saw, and what follows from it.

use std::collections::{BTreeMap, HashSet};

use anyhow::ensure;
use hdrhistogram::Histogram;

/// Longest latency told apart, in microseconds.
const MAX_LATENCY_MICROS: u64 = 3_600_000_000;

/// One request at the receiver. Times are in microseconds since 1970, by the one clock of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// The number in the path: which webhook.
    pub(crate) hook: u32,
    /// The number of the event; no two events of a run share one.
    pub(crate) sequence: u32,
    /// When the event was, or should have been, sent to be published.
    pub(crate) sent_at: u64,
    pub(crate) arrived_at: u64,
}

impl Arrival {
    /// Size of one on its way from the receiver, in bytes.
    pub(crate) const BYTES: usize = 24;

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.hook.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.sent_at.to_le_bytes());
        out.extend_from_slice(&self.arrived_at.to_le_bytes());
    }

    pub(crate) fn decode(bytes: &[u8]) -> anyhow::Result<Self> {
        ensure!(bytes.len() == Self::BYTES, "an arrival has {} bytes, not {}", Self::BYTES, bytes.len());
        let (numbers, times) = bytes.split_at(8);
        Ok(Self {
            hook: u32::from_le_bytes(numbers[..4].try_into()?),
            sequence: u32::from_le_bytes(numbers[4..].try_into()?),
            sent_at: u64::from_le_bytes(times[..8].try_into()?),
            arrived_at: u64::from_le_bytes(times[8..].try_into()?),
        })
    }

    pub(crate) fn latency_micros(&self) -> u64 {
        self.arrived_at.saturating_sub(self.sent_at)
    }
}

/// The first arrival of each event at each webhook, and how many came again.
pub(crate) fn without_repeats(arrivals: &[Arrival]) -> (Vec<Arrival>, usize) {
    let mut seen = HashSet::with_capacity(arrivals.len());
    let first: Vec<Arrival> =
        arrivals.iter().filter(|arrival| seen.insert((arrival.hook, arrival.sequence))).copied().collect();
    let repeats = arrivals.len() - first.len();
    (first, repeats)
}

/// Percentiles, in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

/// The percentiles of some latencies; zeros when there are none.
pub(crate) fn percentiles(latencies_micros: impl IntoIterator<Item = u64>) -> anyhow::Result<Percentiles> {
    let mut histogram = Histogram::<u64>::new_with_bounds(1, MAX_LATENCY_MICROS, 3)?;
    for latency in latencies_micros {
        histogram.saturating_record(latency.max(1));
    }
    let at = |quantile| milliseconds(histogram.value_at_quantile(quantile));
    Ok(Percentiles { p50: at(0.5), p99: at(0.99), p999: at(0.999) })
}

/// The latencies of each second, by when the event was sent: second since `from`, and percentiles.
pub(crate) fn over_time(arrivals: &[Arrival], from: u64) -> anyhow::Result<Vec<(u64, Percentiles)>> {
    let mut seconds: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for arrival in arrivals {
        let second = arrival.sent_at.saturating_sub(from) / 1_000_000;
        seconds.entry(second).or_default().push(arrival.latency_micros());
    }
    seconds.into_iter().map(|(second, latencies)| Ok((second, percentiles(latencies)?))).collect()
}

pub(crate) fn milliseconds(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

/// The middle one; of an even number the mean of the two in the middle. Zero when there is none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(hook: u32, sequence: u32, latency: u64) -> Arrival {
        Arrival { hook, sequence, sent_at: 1_000_000, arrived_at: 1_000_000 + latency }
    }

    #[test]
    fn an_arrival_survives_its_encoding() {
        let mut bytes = Vec::new();
        arrival(7, 9, 250).encode(&mut bytes);
        assert_eq!(Arrival::decode(&bytes).unwrap(), arrival(7, 9, 250));
        assert!(Arrival::decode(&bytes[1..]).is_err());
    }

    #[test]
    fn a_repeat_is_the_same_event_at_the_same_webhook() {
        let (first, repeats) = without_repeats(&[arrival(1, 1, 5), arrival(2, 1, 6), arrival(1, 1, 900)]);
        assert_eq!((first, repeats), (vec![arrival(1, 1, 5), arrival(2, 1, 6)], 1));
    }

    #[test]
    fn percentiles_are_of_the_right_size() {
        let found = percentiles(1..=1000).unwrap();
        assert!((found.p50 - 0.5).abs() < 0.01 && (found.p99 - 0.99).abs() < 0.01, "{found:?}");
        assert!((median(&[3.0, 1.0]) - 2.0).abs() < 1e-9 && (median(&[5.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
    }
}
