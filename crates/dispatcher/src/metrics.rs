//! What a dispatcher tells Prometheus.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use store::AuditProgress;

/// Cheap to clone; all clones count together.
#[derive(Clone, Default)]
pub(crate) struct Metrics {
    audit_events: Gauge,
    audit_lost: Gauge,
    audit_repaired: Gauge,
    audited_until: Gauge,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let all = "since the installation began; the same in every dispatcher";
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| {
            registry.register(name, format!("{help}, {all}"), gauge.clone());
        };
        gauge("audit_events", "Events audited", &metrics.audit_events);
        gauge("audit_lost_deliveries", "Deliveries that the audit found lost", &metrics.audit_lost);
        gauge(
            "audit_repaired_deliveries",
            "Lost deliveries that were scheduled again",
            &metrics.audit_repaired,
        );
        registry.register_with_unit(
            "audited_until_timestamp",
            "Events handed over before this time are audited",
            Unit::Seconds,
            metrics.audited_until.clone(),
        );
        metrics
    }

    pub(crate) fn set_audit(&self, progress: &AuditProgress) {
        self.audit_events.set(progress.events);
        self.audit_lost.set(progress.lost);
        self.audit_repaired.set(progress.repaired);
        self.audited_until.set(progress.audited_until.timestamp());
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn the_audit_is_shown() {
        let mut registry = Registry::with_prefix("postrider");
        let metrics = Metrics::register(&mut registry);
        let audited_until = "2026-05-30T10:00:00Z".parse().unwrap();
        metrics.set_audit(&AuditProgress { audited_until, events: 10, lost: 2, repaired: 1 });
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "postrider_audit_events 10",
            "postrider_audit_lost_deliveries 2",
            "postrider_audit_repaired_deliveries 1",
            "postrider_audited_until_timestamp_seconds 1780135200",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} in {text}");
        }
    }
}
