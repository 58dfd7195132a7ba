use instruments::{Label, Labelled, Labels, Reading};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What is counted of the broker. Cheap to clone; all clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) connections: Labelled<Connecting, Counter>,
    pub(crate) blocked: Gauge,
    pub(crate) published: Counter,
    pub(crate) messages: Labelled<Queue, Reading>,
    pub(crate) consumers: Labelled<Queue, Reading>,
}

/// What came of connecting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connecting {
    Connected,
    Failed,
}

impl Label for Connecting {
    const ALL: &'static [(Self, Labels)] =
        &[(Self::Connected, &[("result", "connected")]), (Self::Failed, &[("result", "failed")])];
}

/// The queues by what they are for; their names begin differently in each installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    Dispatch,
    DispatchOrdered,
    Dead,
}

impl Label for Queue {
    const ALL: &'static [(Self, Labels)] = &[
        (Self::Dispatch, &[("queue", "dispatch")]),
        (Self::DispatchOrdered, &[("queue", "dispatch_ordered")]),
        (Self::Dead, &[("queue", "dead")]),
    ];
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "broker_connections_opened",
            "Times that a connection to the broker was asked for, by what came of it; after the start, reconnects",
            self.connections.clone(),
        );
        registry.register(
            "broker_blocked_connections",
            "Connections that the broker takes no messages from, because it is short of memory or disk",
            self.blocked.clone(),
        );
        registry.register(
            "published_messages",
            "Messages sent to the broker, each with one or more events",
            self.published.clone(),
        );
        registry.register(
            "queue_messages",
            "Messages in a queue that are ready for a consumer",
            self.messages.clone(),
        );
        registry.register("queue_consumers", "Consumers of a queue", self.consumers.clone());
    }

    /// Nobody says any more how the queues are.
    pub(crate) fn forget_queues(&self) {
        for (queue, _) in Queue::ALL {
            self.messages.of(*queue).forget();
            self.consumers.of(*queue).forget();
        }
    }
}

/// Counts one more in a gauge while it is set and there.
pub(crate) struct Counted {
    gauge: Gauge,
    is_set: bool,
}

impl Counted {
    /// One that is not set.
    pub(crate) fn new(gauge: &Gauge) -> Self {
        Self { gauge: gauge.clone(), is_set: false }
    }

    pub(crate) fn set(&mut self, is_set: bool) {
        if is_set != self.is_set {
            self.gauge.inc_by(if is_set { 1 } else { -1 });
            self.is_set = is_set;
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counts_only_while_it_is_set_and_there() {
        let metrics = Metrics::default();
        let (mut one, mut other) = (Counted::new(&metrics.blocked), Counted::new(&metrics.blocked));
        one.set(true);
        one.set(true);
        other.set(true);
        assert_eq!(metrics.blocked.get(), 2);
        other.set(false);
        assert_eq!(metrics.blocked.get(), 1);
        drop(other);
        assert_eq!(metrics.blocked.get(), 1);
        drop(one);
        assert_eq!(metrics.blocked.get(), 0);
    }
}
