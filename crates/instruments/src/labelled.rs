use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// The labels of one series, each a name and a value.
pub type Labels = &'static [(&'static str, &'static str)];

/// What tells the series of a metric apart. There are few of them, and all are known: never a tenant, a URL or a webhook.
pub trait Label: Copy + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// Each one, with its labels.
    const ALL: &'static [(Self, Labels)];
}

/// Several series of one metric, all there from the start.
#[derive(Debug)]
pub struct Labelled<L, M> {
    series: Arc<[M]>,
    label: PhantomData<L>,
}

impl<L, M> Clone for Labelled<L, M> {
    fn clone(&self) -> Self {
        Self { series: Arc::clone(&self.series), label: PhantomData }
    }
}

impl<L: Label, M: Default> Default for Labelled<L, M> {
    fn default() -> Self {
        Self::new(M::default)
    }
}

impl<L: Label, M> Labelled<L, M> {
    /// Makes every series.
    pub fn new(make: impl Fn() -> M) -> Self {
        Self { series: L::ALL.iter().map(|_| make()).collect(), label: PhantomData }
    }

    /// The series with this label. One that `ALL` forgets would be counted as the first; a test of each label's forbids it.
    pub fn of(&self, label: L) -> &M {
        let place = L::ALL.iter().position(|(known, _)| *known == label);
        &self.series[place.unwrap_or_default()]
    }
}

impl<L: Label, M: TypedMetric> TypedMetric for Labelled<L, M> {
    const TYPE: MetricType = M::TYPE;
}

impl<L: Label, M: EncodeMetric + TypedMetric> EncodeMetric for Labelled<L, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for ((_, labels), metric) in L::ALL.iter().zip(self.series.iter()) {
            if !metric.is_empty() {
                metric.encode(encoder.encode_family(labels)?)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }

    fn is_empty(&self) -> bool {
        self.series.iter().all(EncodeMetric::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::registry::Registry;

    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Colour {
        Red,
        Blue,
    }

    impl Label for Colour {
        const ALL: &'static [(Self, Labels)] =
            &[(Self::Red, &[("colour", "red")]), (Self::Blue, &[("colour", "blue")])];
    }

    #[test]
    fn every_series_is_there_from_the_start() {
        let counters = Labelled::<Colour, Counter>::default();
        let mut registry = Registry::default();
        registry.register("cars", "Cars", counters.clone());
        counters.of(Colour::Blue).inc();
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains("cars_total{colour=\"red\"} 0\n"), "{text}");
        assert!(text.contains("cars_total{colour=\"blue\"} 1\n"), "{text}");
    }
}
