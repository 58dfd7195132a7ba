//! The spans of a gateway: one for each request of a trace that is kept, and one for each message that it publishes.

use std::pin::Pin;

use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::HeaderMap;
use broker::PublishError;
use chrono::Utc;
use domain::{Event, TraceContext};
use traces::{Kind, Open, Span, Tracer};
use tracing::Instrument as _;

tokio::task_local! {
    /// The place of the request that is being answered.
    static CURRENT: TraceContext;
}

/// The span of a request, if its trace is kept. Health, documents and what is none of ours is not traced.
pub(crate) fn begin(tracer: &Tracer, request: &ServiceRequest) -> Option<Open> {
    if !tracer.is_on() || !request.path().starts_with("/api/") {
        return None;
    }
    tracer.begin(parent(request.headers()).as_ref(), Utc::now())
}

/// Answers a request of this method as part of its trace.
pub(crate) async fn trace(
    tracer: &Tracer,
    open: Open,
    method: String,
    answering: Pin<Box<impl Future<Output = Result<ServiceResponse, actix_web::Error>>>>,
) -> Result<ServiceResponse, actix_web::Error> {
    let log_span = open.log_span();
    let answering = CURRENT.scope(open.context.clone(), answering);
    let response = answering.instrument(log_span).await;
    let answered = response
        .as_ref()
        .map(|response| (response.request().match_pattern().unwrap_or_default(), response.status().as_u16()));
    let (route, status) =
        answered.unwrap_or_else(|error| (String::new(), error.as_response_error().status_code().as_u16()));
    tracer.record(span(open, method, route, status));
    response
}

fn parent(headers: &HeaderMap) -> Option<TraceContext> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    TraceContext::parse(text("traceparent")?, text("tracestate"))
}

fn span(open: Open, method: String, route: String, status: u16) -> Span {
    let span = open
        .end(Kind::Server, format!("{method} {route}").trim_end().to_owned(), Utc::now())
        .with("http.request.method", method)
        .with("http.response.status_code", status);
    let span = if route.is_empty() { span } else { span.with("http.route", route) };
    if status >= 500 { span.failed(status.to_string()) } else { span }
}

/// Begins the span of a message with events, if the request that publishes them is part of a trace that is kept.
pub(crate) fn begin_message(tracer: &Tracer) -> Option<Open> {
    if !tracer.is_on() {
        return None;
    }
    let current = CURRENT.try_with(TraceContext::clone).ok()?;
    tracer.begin(Some(&current), Utc::now())
}

/// What a message was.
pub(crate) struct Sent<'a> {
    pub(crate) exchange: String,
    /// Its only event, or the first.
    pub(crate) event: &'a Event,
    pub(crate) events: usize,
    pub(crate) result: Result<(), PublishError>,
}

/// The broker has answered for a message.
pub(crate) fn end_message(tracer: &Tracer, open: Open, sent: Sent<'_>) {
    let exchange = sent.exchange;
    let span = open
        .end(Kind::Producer, format!("send {exchange}"), Utc::now())
        .with("messaging.system", "rabbitmq")
        .with("messaging.operation.type", "send")
        .with("messaging.operation.name", "publish")
        .with("messaging.destination.name", exchange)
        .with("postrider.tenant.id", sent.event.tenant_id.to_string());
    let span = if sent.events == 1 {
        span.with("messaging.message.id", sent.event.id.to_string())
            .with("postrider.event.type", sent.event.event_type.to_string())
    } else {
        span.with("messaging.batch.message_count", u32::try_from(sent.events).unwrap_or(u32::MAX))
    };
    tracer.record(match sent.result {
        Ok(()) => span,
        Err(error) => span.failed(error.code()),
    });
}
