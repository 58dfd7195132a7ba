use std::fmt;

use deadpool_postgres::Pool;
use instruments::{Label, Labelled, Labels};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::TypedMetric as _;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::Store;

/// What is counted of the database. Cheap to clone; all clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) connections: Labelled<Connecting, Counter>,
}

/// What came of asking for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connecting {
    /// A new one was opened.
    Connected,
    /// None was to be had in time.
    Failed,
}

impl Label for Connecting {
    const ALL: &'static [(Self, Labels)] =
        &[(Self::Connected, &[("result", "connected")]), (Self::Failed, &[("result", "failed")])];
}

impl Store {
    /// Adds how the pool is used, and how often connecting went well or not.
    pub fn register_metrics(&self, registry: &mut Registry) {
        registry.register(
            "database_connections_opened",
            "Connections to Postgres that were opened, and times that none was to be had; after the start, reconnects",
            self.metrics.connections.clone(),
        );
        registry.register_collector(Box::new(PoolUse(self.pool.clone())));
    }
}

/// Looks at the pool when it is asked.
struct PoolUse(Pool);

impl fmt::Debug for PoolUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolUse").finish_non_exhaustive()
    }
}

impl Collector for PoolUse {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = self.0.status();
        let gauge = |count: usize| ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
        for (name, help, count) in [
            ("database_pool_max_connections", "Most connections to Postgres", status.max_size),
            (
                "database_pool_used_connections",
                "Connections to Postgres that are in use",
                status.size.saturating_sub(status.available),
            ),
            ("database_pool_waiting_tasks", "Tasks that wait for a connection to Postgres", status.waiting),
        ] {
            let descriptor = encoder.encode_descriptor(name, help, None, ConstGauge::<i64>::TYPE)?;
            gauge(count).encode(descriptor)?;
        }
        Ok(())
    }
}
