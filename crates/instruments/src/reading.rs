use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// A gauge of something that another system says. While that says nothing it is not shown: an old number would deceive.
#[derive(Debug, Clone)]
pub struct Reading(Arc<AtomicU64>);

/// Stands for "unknown". Nothing that is read is not a number.
const UNKNOWN: f64 = f64::NAN;

impl Default for Reading {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(UNKNOWN.to_bits())))
    }
}

impl Reading {
    /// Shows this from now on.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// Shows nothing from now on.
    pub fn forget(&self) {
        self.set(UNKNOWN);
    }

    /// What is shown.
    pub fn get(&self) -> Option<f64> {
        Some(f64::from_bits(self.0.load(Ordering::Relaxed))).filter(|value| !value.is_nan())
    }
}

impl TypedMetric for Reading {
    const TYPE: MetricType = MetricType::Gauge;
}

impl EncodeMetric for Reading {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.get().map_or(Ok(()), |value| encoder.encode_gauge(&value))
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }

    fn is_empty(&self) -> bool {
        self.get().is_none()
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn what_is_not_known_is_not_shown() {
        let reading = Reading::default();
        let mut registry = Registry::default();
        registry.register("depth", "Depth", reading.clone());
        let shown = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text
        };
        assert_eq!(shown(), "# EOF\n");
        reading.set(3.5);
        assert!(shown().contains("depth 3.5\n"));
        reading.forget();
        assert_eq!(shown(), "# EOF\n");
    }
}
