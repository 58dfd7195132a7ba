//! What a dispatcher tells Prometheus.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use broker::Reason;
use chrono::{DateTime, TimeDelta, Utc};
use domain::{Cause, Next, Outcome};
use instruments::{BATCH_SIZES, Histogram, LATENCY_SECONDS, Label, Labelled, Labels, Reading, WAIT_SECONDS};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::TypedMetric as _;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};
use store::{AuditProgress, Backlog};

use crate::engine::Engine;

/// Cheap to clone; all clones count together.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<All>);

struct All {
    handed_over: Labelled<HandedOver, Counter>,
    hand_over_time: Histogram,
    hand_over_events: Histogram,
    queue_lag: Histogram,
    dead_letters: Labelled<Reason, Counter>,
    taken_over: Counter,
    attempts: Labelled<Fate, Counter>,
    failures: Labelled<Failure, Counter>,
    attempt_time: Histogram,
    first_attempt_delay: Labelled<Held, Histogram>,
    end_to_end: Histogram,
    parked: Labelled<ParkedFor, Counter>,
    record_time: Histogram,
    disabled: Counter,
    oldest_due_age: Reading,
    backlog: Labelled<BacklogState, Reading>,
    partitions_ahead: Reading,
    audit_events: Gauge,
    audit_lost: Gauge,
    audit_repaired: Gauge,
    audited_until: Gauge,
}

/// What became of an event at hand-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandedOver {
    Stored,
    Repeated,
    Rejected,
}

/// What follows from an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Delivered,
    Retrying,
    Failed,
}

/// Why an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Redirect,
    ClientError,
    ServerError,
    OtherStatus,
    Timeout,
    Dns,
    AddressRefused,
    Connect,
    Tls,
    Protocol,
}

/// Whether a delivery waited for its webhook's gate before its first attempt: a pause, a limit, an outage of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    No,
    Yes,
}

/// Why a delivery got a row to come back by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParkedFor {
    /// Its webhook's gate, or its lane, had no room.
    Gate,
    /// It waited in memory for too long.
    Wait,
    /// Its request takes long.
    Stuck,
    /// It failed, and is tried again.
    Retry,
    /// A fault or the end of this dispatcher.
    Fault,
    /// Its event says when.
    Scheduled,
}

/// What the deliveries that have a row wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BacklogState {
    Due,
    Waiting,
    Later,
}

impl Label for HandedOver {
    const ALL: &'static [(Self, Labels)] = &[
        (Self::Stored, &[("result", "stored")]),
        (Self::Repeated, &[("result", "repeated")]),
        (Self::Rejected, &[("result", "rejected")]),
    ];
}

impl Label for Fate {
    const ALL: &'static [(Self, Labels)] = &[
        (Self::Delivered, &[("outcome", "delivered")]),
        (Self::Retrying, &[("outcome", "retrying")]),
        (Self::Failed, &[("outcome", "failed")]),
    ];
}

impl Label for Failure {
    const ALL: &'static [(Self, Labels)] = &[
        (Self::Redirect, &[("cause", "status_3xx")]),
        (Self::ClientError, &[("cause", "status_4xx")]),
        (Self::ServerError, &[("cause", "status_5xx")]),
        (Self::OtherStatus, &[("cause", "status_other")]),
        (Self::Timeout, &[("cause", "timeout")]),
        (Self::Dns, &[("cause", "dns")]),
        (Self::AddressRefused, &[("cause", "address_refused")]),
        (Self::Connect, &[("cause", "connect")]),
        (Self::Tls, &[("cause", "tls")]),
        (Self::Protocol, &[("cause", "protocol")]),
    ];
}

impl Label for Held {
    const ALL: &'static [(Self, Labels)] = &[(Self::No, &[("held", "no")]), (Self::Yes, &[("held", "yes")])];
}

impl Label for ParkedFor {
    const ALL: &'static [(Self, Labels)] = &[
        (Self::Gate, &[("reason", "gate")]),
        (Self::Wait, &[("reason", "wait")]),
        (Self::Stuck, &[("reason", "stuck")]),
        (Self::Retry, &[("reason", "retry")]),
        (Self::Fault, &[("reason", "fault")]),
        (Self::Scheduled, &[("reason", "scheduled")]),
    ];
}

impl Label for BacklogState {
    const ALL: &'static [(Self, Labels)] = &[
        (Self::Due, &[("state", "due")]),
        (Self::Waiting, &[("state", "waiting")]),
        (Self::Later, &[("state", "later")]),
    ];
}

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Status(300..=399) => Self::Redirect,
            Cause::Status(400..=499) | Cause::Gone => Self::ClientError,
            Cause::Status(500..=599) => Self::ServerError,
            Cause::Status(_) => Self::OtherStatus,
            Cause::Timeout => Self::Timeout,
            Cause::Dns => Self::Dns,
            Cause::AddressRefused => Self::AddressRefused,
            Cause::Connect => Self::Connect,
            Cause::Tls => Self::Tls,
            Cause::Protocol => Self::Protocol,
        }
    }
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let all = All {
            handed_over: Labelled::default(),
            hand_over_time: Histogram::new(LATENCY_SECONDS),
            hand_over_events: Histogram::new(BATCH_SIZES),
            queue_lag: Histogram::new(WAIT_SECONDS),
            dead_letters: Labelled::default(),
            taken_over: Counter::default(),
            attempts: Labelled::default(),
            failures: Labelled::default(),
            attempt_time: Histogram::new(LATENCY_SECONDS),
            first_attempt_delay: Labelled::new(|| Histogram::new(WAIT_SECONDS)),
            end_to_end: Histogram::new(WAIT_SECONDS),
            parked: Labelled::default(),
            record_time: Histogram::new(LATENCY_SECONDS),
            disabled: Counter::default(),
            oldest_due_age: Reading::default(),
            backlog: Labelled::default(),
            partitions_ahead: Reading::default(),
            audit_events: Gauge::default(),
            audit_lost: Gauge::default(),
            audit_repaired: Gauge::default(),
            audited_until: Gauge::default(),
        };
        all.register_intake(registry);
        all.register_delivery(registry);
        all.register_database(registry);
        all.register_audit(registry);
        Self(Arc::new(all))
    }

    /// A batch was handed over: so many events, in this time.
    pub(crate) fn handed_over_batch(&self, events: usize, time: Duration) {
        self.0.hand_over_events.observe(f64::from(u32::try_from(events).unwrap_or(u32::MAX)));
        self.0.hand_over_time.observe_time(time);
    }

    /// One event of it.
    pub(crate) fn handed_over(&self, result: HandedOver) {
        self.0.handed_over.of(result).inc();
    }

    /// A message that was published then is handed over now.
    pub(crate) fn queue_lag(&self, published_at: DateTime<Utc>, now: DateTime<Utc>) {
        self.0.queue_lag.observe(seconds(now - published_at));
    }

    /// Something goes to the dead letters.
    pub(crate) fn dead_letter(&self, reason: Reason) {
        self.0.dead_letters.of(reason).inc();
    }

    /// A batch was taken over from a dispatcher that went silent.
    pub(crate) fn taken_over(&self) {
        self.0.taken_over.inc();
    }

    /// An attempt has ended.
    pub(crate) fn attempted(&self, outcome: Outcome, next: Next, time: Duration) {
        let fate = match next {
            Next::Done => Fate::Delivered,
            Next::RetryAt(_) => Fate::Retrying,
            Next::GiveUp => Fate::Failed,
        };
        self.0.attempts.of(fate).inc();
        if let Some(cause) = outcome.cause() {
            self.0.failures.of(cause.into()).inc();
        }
        self.0.attempt_time.observe_time(time);
    }

    /// The first attempt of a delivery began so long after its event was accepted.
    pub(crate) fn first_attempt(&self, delay: TimeDelta, held: Held) {
        self.0.first_attempt_delay.of(held).observe(seconds(delay));
    }

    /// A delivery arrived so long after its event was accepted.
    pub(crate) fn delivered(&self, time: TimeDelta) {
        self.0.end_to_end.observe(seconds(time));
    }

    /// A delivery got a row to come back by.
    pub(crate) fn parked(&self, reason: ParkedFor) {
        self.0.parked.of(reason).inc();
    }

    /// Results were written down in this time.
    pub(crate) fn recorded(&self, time: Duration) {
        self.0.record_time.observe_time(time);
    }

    /// A webhook was switched off.
    pub(crate) fn disabled(&self) {
        self.0.disabled.inc();
    }

    /// What waits in the database; `None` while it does not say.
    pub(crate) fn set_backlog(&self, backlog: Option<&Backlog>, now: DateTime<Utc>) {
        let show = |reading: &Reading, value: Option<f64>| match value {
            Some(value) => reading.set(value),
            None => reading.forget(),
        };
        let age = |backlog: &Backlog| backlog.oldest_due_at.map_or(0.0, |since| seconds(now - since));
        show(&self.0.oldest_due_age, backlog.map(age));
        for (state, count) in [
            (BacklogState::Due, backlog.map(|backlog| backlog.due)),
            (BacklogState::Waiting, backlog.map(|backlog| backlog.waiting)),
            (BacklogState::Later, backlog.map(|backlog| backlog.later)),
        ] {
            show(self.0.backlog.of(state), count.map(number));
        }
    }

    /// For how many days there are partitions; `None` while the database does not say.
    pub(crate) fn set_partitions_ahead(&self, days: Option<i64>) {
        days.map_or_else(
            || self.0.partitions_ahead.forget(),
            |days| self.0.partitions_ahead.set(number(days)),
        );
    }

    pub(crate) fn set_audit(&self, progress: &AuditProgress) {
        self.0.audit_events.set(progress.events);
        self.0.audit_lost.set(progress.lost);
        self.0.audit_repaired.set(progress.repaired);
        self.0.audited_until.set(progress.audited_until.timestamp());
    }
}

impl All {
    fn register_intake(&self, registry: &mut Registry) {
        registry.register(
            "handed_over_events",
            "Events taken over from the broker: stored, dropped as repeats, or refused and dead-lettered",
            self.handed_over.clone(),
        );
        registry.register(
            "hand_over_batch_events",
            "Events stored by one statement",
            self.hand_over_events.clone(),
        );
        registry.register_with_unit(
            "hand_over_duration",
            "How long storing a batch of events takes, waits for the database included",
            Unit::Seconds,
            self.hand_over_time.clone(),
        );
        registry.register_with_unit(
            "queue_lag",
            "Age of messages at hand-over, of those whose publisher says when it published them",
            Unit::Seconds,
            self.queue_lag.clone(),
        );
        registry.register(
            "dead_lettered_events",
            "Messages and events that were put into the dead-letter queue, by reason",
            self.dead_letters.clone(),
        );
        registry.register(
            "taken_over_batches",
            "Batches taken over from dispatchers that went silent",
            self.taken_over.clone(),
        );
    }

    fn register_delivery(&self, registry: &mut Registry) {
        registry.register("attempts", "Attempts that have ended, by what follows", self.attempts.clone());
        registry.register("attempt_failures", "Attempts that failed, by cause", self.failures.clone());
        registry.register_with_unit(
            "attempt_duration",
            "How long attempts take, from connecting to the end of the answer",
            Unit::Seconds,
            self.attempt_time.clone(),
        );
        registry.register_with_unit(
            "first_attempt_delay",
            "From when an event is accepted until its first attempt begins; held: whether its webhook's gate held it back",
            Unit::Seconds,
            self.first_attempt_delay.clone(),
        );
        registry.register_with_unit(
            "delivery_duration",
            "From when an event is accepted until a receiver has answered 2xx, retries included",
            Unit::Seconds,
            self.end_to_end.clone(),
        );
        registry.register(
            "parked_deliveries",
            "Times that a delivery got a row in the database to come back by, by reason",
            self.parked.clone(),
        );
        registry.register(
            "disabled_webhooks",
            "Webhooks switched off, because they are gone or failed for too long",
            self.disabled.clone(),
        );
    }

    fn register_database(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "record_duration",
            "How long writing results down takes, waits for the database included",
            Unit::Seconds,
            self.record_time.clone(),
        );
        let same = "the same in every dispatcher";
        registry.register_with_unit(
            "oldest_due_age",
            format!("For how long the longest due delivery is due; {same}"),
            Unit::Seconds,
            self.oldest_due_age.clone(),
        );
        registry.register(
            "backlog_deliveries",
            format!(
                "Deliveries that have a row, by what they wait for, at most {}; {same}",
                store::MOST_COUNTED
            ),
            self.backlog.clone(),
        );
        registry.register(
            "partitions_ahead",
            format!("Daily partitions that there are after today's, -1 when today has none; {same}"),
            self.partitions_ahead.clone(),
        );
    }

    fn register_audit(&self, registry: &mut Registry) {
        let all = "since the installation began; the same in every dispatcher";
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| {
            registry.register(name, format!("{help}, {all}"), gauge.clone());
        };
        gauge("audit_events", "Events audited", &self.audit_events);
        gauge("audit_lost_deliveries", "Deliveries that the audit found lost", &self.audit_lost);
        gauge("audit_repaired_deliveries", "Lost deliveries that were scheduled again", &self.audit_repaired);
        registry.register_with_unit(
            "audited_until_timestamp",
            "Events handed over before this time are audited",
            Unit::Seconds,
            self.audited_until.clone(),
        );
    }
}

/// What the engine holds at the moment it is asked. It must not keep the engine alive, whose end the recorder waits for.
pub(crate) struct Memory(pub(crate) Weak<Engine>);

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

impl Collector for Memory {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(engine) = self.0.upgrade() else { return Ok(()) };
        let (in_flight, waiting) = engine.in_memory();
        for (name, help, count) in [
            ("attempts_in_flight", "Requests under way", in_flight),
            ("waiting_deliveries", "Deliveries that wait in memory for a moment", waiting),
            (
                "open_gates",
                "Webhooks that are not sent to because they fail, as this dispatcher knows",
                engine.gates.open(engine.clock.now()),
            ),
        ] {
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, ConstGauge::<i64>::TYPE)?)?;
        }
        Ok(())
    }
}

/// Clocks differ: what came before it was sent came at once.
fn seconds(time: TimeDelta) -> f64 {
    time.to_std().unwrap_or_default().as_secs_f64()
}

fn number(count: i64) -> f64 {
    i32::try_from(count).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    fn shown(registry: &Registry) -> String {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        text
    }

    #[test]
    fn the_audit_is_shown() {
        let mut registry = Registry::with_prefix("postrider");
        let metrics = Metrics::register(&mut registry);
        let audited_until = "2026-05-30T10:00:00Z".parse().unwrap();
        metrics.set_audit(&AuditProgress { audited_until, events: 10, lost: 2, repaired: 1 });
        let text = shown(&registry);
        for line in [
            "postrider_audit_events 10",
            "postrider_audit_lost_deliveries 2",
            "postrider_audit_repaired_deliveries 1",
            "postrider_audited_until_timestamp_seconds 1780135200",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} in {text}");
        }
    }

    #[test]
    fn every_failure_counts_under_its_cause_and_every_attempt_under_what_follows() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let causes = [
            (Cause::Status(302), "status_3xx"),
            (Cause::Status(404), "status_4xx"),
            (Cause::Status(503), "status_5xx"),
            (Cause::Status(799), "status_other"),
            (Cause::Timeout, "timeout"),
            (Cause::Dns, "dns"),
            (Cause::AddressRefused, "address_refused"),
            (Cause::Connect, "connect"),
            (Cause::Tls, "tls"),
            (Cause::Protocol, "protocol"),
        ];
        let time = Duration::from_millis(3);
        for (cause, _) in causes {
            metrics.attempted(Outcome::Retryable(cause), Next::RetryAt(Utc::now()), time);
        }
        metrics.attempted(Outcome::Permanent(Cause::Gone), Next::GiveUp, time);
        metrics.attempted(Outcome::Delivered, Next::Done, time);
        let text = shown(&registry);
        for (_, cause) in causes {
            let count = if cause == "status_4xx" { 2 } else { 1 };
            assert!(
                text.contains(&format!("attempt_failures_total{{cause=\"{cause}\"}} {count}\n")),
                "{text}"
            );
        }
        for (outcome, count) in [("delivered", 1), ("retrying", 10), ("failed", 1)] {
            assert!(text.contains(&format!("attempts_total{{outcome=\"{outcome}\"}} {count}\n")), "{text}");
        }
    }

    #[test]
    fn what_the_database_does_not_say_is_not_shown() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let now = Utc::now();
        assert!(!shown(&registry).contains("oldest_due_age"));
        let backlog =
            Backlog { oldest_due_at: Some(now - TimeDelta::seconds(90)), due: 3, waiting: 2, later: 1 };
        metrics.set_backlog(Some(&backlog), now);
        metrics.set_partitions_ahead(Some(7));
        let text = shown(&registry);
        assert!(text.contains("oldest_due_age_seconds 90.0\n"), "{text}");
        assert!(text.contains("backlog_deliveries{state=\"waiting\"} 2.0\n"), "{text}");
        assert!(text.contains("partitions_ahead 7.0\n"), "{text}");
        metrics.set_backlog(None, now);
        assert!(!shown(&registry).contains("backlog_deliveries"));
    }
}
