//! The spans of a dispatcher: one for each event that it takes over and one for each attempt, of traces that are kept.
//!
//! All attempts of a delivery belong to the trace of its event, days later too, because its place is stored with the event. A
//! retry also has a link to the first attempt, whose id is worked out rather than stored.

use std::num::NonZeroU64;

use broker::Message;
use chrono::{DateTime, Utc};
use domain::{Event, TraceContext};
use sender::Attempted;
use traces::{Kind, Open, Tracer};

use crate::delivery::Delivery;

/// Begins the span of each event, and makes it the place that the event's attempts belong to. What is not kept is forgotten,
/// so that nobody asks again.
pub(crate) fn begin_hand_over(
    tracer: &Tracer,
    events: &mut [Event],
    at: DateTime<Utc>,
    from_gateway: impl Fn(usize) -> bool,
) -> Vec<(usize, Open)> {
    let mut begun = Vec::new();
    for (place, event) in events.iter_mut().enumerate() {
        let parent = event.trace.take();
        // A gateway has decided already, for all that comes from it.
        if !tracer.is_on() || (parent.is_none() && from_gateway(place)) {
            continue;
        }
        if let Some(open) = tracer.begin(parent.as_deref(), at) {
            event.trace = Some(Box::new(open.context.clone()));
            begun.push((place, open));
        }
    }
    begun
}

/// An event is taken over, or `refused` for a reason.
pub(crate) fn end_hand_over(
    tracer: &Tracer,
    open: Open,
    event: &Event,
    message: &Message,
    at: DateTime<Utc>,
    refused: Option<&'static str>,
) {
    let span = open
        .end(Kind::Consumer, format!("process {}", message.exchange), at)
        .with("messaging.system", "rabbitmq")
        .with("messaging.operation.type", "process")
        .with("messaging.operation.name", "process")
        .with("messaging.destination.name", message.exchange.clone())
        .with("messaging.rabbitmq.destination.routing_key", message.routing_key.clone())
        .with("messaging.message.id", event.id.to_string())
        .with("postrider.tenant.id", event.tenant_id.to_string())
        .with("postrider.event.type", event.event_type.to_string());
    tracer.record(match refused {
        None => span,
        Some(reason) => span.failed(reason),
    });
}

/// Begins the span of an attempt, if the trace of its event is kept.
pub(crate) fn begin_attempt(tracer: &Tracer, delivery: &Delivery, at: DateTime<Utc>) -> Option<Open> {
    let event = delivery.accepted.event.trace.as_deref()?;
    let open = tracer.begin(Some(event), at)?;
    Some(if is_first(delivery) { open.with_id(first_attempt(event, delivery)) } else { open })
}

/// An attempt has ended.
pub(crate) fn end_attempt(tracer: &Tracer, open: Open, delivery: &Delivery, attempted: &Attempted) {
    let url = delivery.target.webhook.url.url();
    let ended_at = open.began_at + attempted.duration;
    let event = &delivery.accepted.event;
    let mut span = open
        .end(Kind::Client, "POST", ended_at)
        .with("http.request.method", "POST")
        .with("server.address", url.host_str().unwrap_or_default().to_owned())
        .with("server.port", url.port_or_known_default().unwrap_or_default())
        // Paths and queries of webhooks often hold what only their owners should know.
        .with("url.full", format!("{}/REDACTED", url.origin().ascii_serialization()))
        .with("postrider.tenant.id", event.tenant_id.to_string())
        .with("postrider.webhook.id", delivery.target.webhook.id.to_string())
        .with("postrider.event.id", event.id.to_string())
        .with("postrider.event.type", event.event_type.to_string());
    if delivery.attempts > 0 {
        span = span.with("http.request.resend_count", delivery.attempts);
    }
    if let Some(status) = attempted.status_code {
        span = span.with("http.response.status_code", status);
    }
    if let Some(cause) = attempted.outcome.cause() {
        let status = attempted.status_code.filter(|status| *status >= 300);
        span = match status {
            Some(status) => span.failed(status.to_string()),
            None => span.failed(cause.code()),
        };
    }
    if let Some(trace) = event.trace.as_deref().filter(|_| !is_first(delivery)) {
        span = span.linked_to(trace.child(first_attempt(trace, delivery)));
    }
    tracer.record(span);
}

fn is_first(delivery: &Delivery) -> bool {
    delivery.attempts == 0 && !delivery.is_resend
}

/// The id of the span of a delivery's first attempt: the same for whoever asks (FNV-1a).
fn first_attempt(trace: &TraceContext, delivery: &Delivery) -> NonZeroU64 {
    let webhook = delivery.target.webhook.id.0;
    let bytes = webhook.as_bytes().iter().chain(delivery.accepted.event.id.as_str().as_bytes());
    let seed = 0xcbf2_9ce4_8422_2325 ^ trace.span_id.get();
    let id = bytes.fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    NonZeroU64::new(id).unwrap_or(NonZeroU64::MIN)
}
