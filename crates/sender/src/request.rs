//! What is sent to a receiver: headers, signature, body.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use domain::{CustomHeaders, Event, EventLinks, PayloadVersion, TraceContext, render_thin_body};
use http::header::{
    ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue,
    USER_AGENT,
};
use http::{Method, Request};
use http_body_util::Full;

use crate::client::Destination;
use crate::target::{Opened, Target};

const ID: HeaderName = HeaderName::from_static(signing::ID_HEADER);
const TIMESTAMP: HeaderName = HeaderName::from_static(signing::TIMESTAMP_HEADER);
const SIGNATURE: HeaderName = HeaderName::from_static(signing::SIGNATURE_HEADER);
/// The header that says how the body is laid out.
const PAYLOAD_VERSION: HeaderName = HeaderName::from_static("webhook-payload-version");

/// How the receiver can go on with the trace, if it is kept.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The request that an attempt at `now` makes: always the same for the same time.
pub(crate) fn build(
    target: &Target,
    destination: &Destination,
    opened: &Opened,
    links: &EventLinks,
    event: &Event,
    now: DateTime<Utc>,
    trace: Option<&TraceContext>,
) -> Result<Request<Full<Bytes>>, InvalidHeaderValue> {
    let body = body(target, links, event);
    let id = event.id.to_header();
    let timestamp = now.timestamp();
    let signature = opened.sign(&id, now, &body);
    let mut headers = opened.headers.clone();
    headers.insert(CONTENT_LENGTH, body.len().into());
    headers.insert(ID, HeaderValue::try_from(id)?);
    headers.insert(TIMESTAMP, HeaderValue::from(timestamp));
    headers.insert(SIGNATURE, HeaderValue::try_from(signature)?);
    // Not what tracing systems of ours have added (`tracestate`), which is nobody else's business.
    if let Some(trace) = trace {
        headers.entry(TRACEPARENT).or_insert(HeaderValue::try_from(trace.traceparent())?);
    }
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = destination.path.clone();
    *request.headers_mut() = headers;
    Ok(request)
}

/// The headers that all requests of a webhook have, with room for those that differ. Those of its owner's are marked as
/// sensitive: they can be credentials. `None` when one of them cannot be sent.
pub(crate) fn usual_headers(
    host: Option<&HeaderValue>,
    custom: &CustomHeaders,
    version: PayloadVersion,
) -> Option<HeaderMap> {
    let custom = custom.iter().map(|(name, value)| {
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
    });
    let mut headers: HeaderMap = custom.collect::<Option<_>>()?;
    let agent = HeaderValue::from_static(concat!("Postrider/", env!("CARGO_PKG_VERSION")));
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    headers.entry(USER_AGENT).or_insert(agent);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(PAYLOAD_VERSION, HeaderValue::from_static(version.as_str()));
    headers.extend(host.map(|host| (HOST, host.clone())));
    for own in [CONTENT_LENGTH, ID, TIMESTAMP, SIGNATURE] {
        headers.insert(own, HeaderValue::from_static(""));
    }
    Some(headers)
}

/// The bytes that are signed and sent.
pub(crate) fn body(target: &Target, links: &EventLinks, event: &Event) -> Bytes {
    if target.webhook.delivery.is_thin { render_thin_body(event, links) } else { event.body.clone() }
}
