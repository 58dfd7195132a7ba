//! What a gateway tells Prometheus.

use std::time::Duration;

use broker::PublishError;
use instruments::{Histogram, LATENCY_SECONDS, Label, Labelled, Labels};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::{Registry, Unit};

/// Cheap to clone; all clones count together.
#[derive(Clone)]
pub(crate) struct Metrics {
    accepted: Counter,
    refused: Labelled<PublishError, Counter>,
    confirm: Histogram,
    requests: Labelled<StatusClass, Counter>,
    request: Histogram,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StatusClass {
    Success,
    Redirect,
    ClientError,
    ServerError,
}

impl Label for StatusClass {
    const ALL: &'static [(Self, Labels)] = &[
        (Self::Success, &[("class", "2xx")]),
        (Self::Redirect, &[("class", "3xx")]),
        (Self::ClientError, &[("class", "4xx")]),
        (Self::ServerError, &[("class", "5xx")]),
    ];
}

impl StatusClass {
    fn of(status: u16) -> Self {
        match status {
            0..=299 => Self::Success,
            300..=399 => Self::Redirect,
            400..=499 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            accepted: Counter::default(),
            refused: Labelled::default(),
            confirm: Histogram::new(LATENCY_SECONDS),
            requests: Labelled::default(),
            request: Histogram::new(LATENCY_SECONDS),
        };
        registry.register(
            "accepted_events",
            "Events that the broker confirmed and the API answered with 202",
            metrics.accepted.clone(),
        );
        registry.register(
            "refused_events",
            "Events that the API answered with 503, by what kept the broker from confirming them",
            metrics.refused.clone(),
        );
        registry.register_with_unit(
            "confirm_duration",
            "From when an event, or events of a batch, are ready to be published until the broker has confirmed them",
            Unit::Seconds,
            metrics.confirm.clone(),
        );
        registry.register(
            "http_requests",
            "Requests to the API, by the class of the answer's status",
            metrics.requests.clone(),
        );
        registry.register_with_unit(
            "http_request_duration",
            "From a request's headers to the answer's",
            Unit::Seconds,
            metrics.request.clone(),
        );
        metrics
    }

    /// Events that were published together, and what became of them.
    pub(crate) fn published(&self, result: Result<(), PublishError>, events: usize, time: Duration) {
        let events = events as u64;
        match result {
            Ok(()) => {
                self.accepted.inc_by(events);
                self.confirm.observe_time(time);
            }
            Err(error) => _ = self.refused.of(error).inc_by(events),
        }
    }

    pub(crate) fn answered(&self, status: u16, time: Duration) {
        self.requests.of(StatusClass::of(status)).inc();
        self.request.observe_time(time);
    }
}
