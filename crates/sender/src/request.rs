//! What is sent to a receiver: headers, signature, body.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use domain::{Event, EventLinks, render_thin_body};
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder};

use crate::target::{Opened, Target};

/// The header that says how the body is laid out.
const PAYLOAD_VERSION: HeaderName = HeaderName::from_static("webhook-payload-version");

/// The request that an attempt at `now` makes.
pub(crate) fn build(
    client: &Client,
    target: &Target,
    opened: &Opened,
    links: &EventLinks,
    event: &Event,
    now: DateTime<Utc>,
) -> RequestBuilder {
    let body = body(target, links, event);
    let id = event.id.to_header();
    let timestamp = now.timestamp();
    let signature = signing::sign(opened.secrets(now), &id, timestamp, &body);
    let mut request = client
        .post(target.webhook.url.url().clone())
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .header(signing::ID_HEADER, id)
        .header(signing::TIMESTAMP_HEADER, timestamp)
        .header(signing::SIGNATURE_HEADER, signature)
        .header(PAYLOAD_VERSION, HeaderValue::from_static(target.webhook.delivery.payload_version.as_str()));
    // None of these is one of those above: their names are reserved.
    for (name, value) in &opened.headers {
        request = request.header(name, value);
    }
    request.body(body)
}

/// The bytes that are signed and sent.
pub(crate) fn body(target: &Target, links: &EventLinks, event: &Event) -> Bytes {
    if target.webhook.delivery.is_thin { render_thin_body(event, links) } else { event.body.clone() }
}
