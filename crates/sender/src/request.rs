//! What is sent to a receiver: headers, signature, body.

use chrono::{DateTime, Utc};
use domain::{Event, Webhook};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Client, RequestBuilder};
use signing::Secret;

/// The request that an attempt at `now` makes.
pub(crate) fn build(
    client: &Client,
    webhook: &Webhook,
    secret: &Secret,
    event: &Event,
    now: DateTime<Utc>,
) -> RequestBuilder {
    let id = event.id.to_header();
    let timestamp = now.timestamp();
    let signature = signing::sign([secret], &id, timestamp, &event.body);
    client
        .post(webhook.url.url().clone())
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .header(signing::ID_HEADER, id)
        .header(signing::TIMESTAMP_HEADER, timestamp)
        .header(signing::SIGNATURE_HEADER, signature)
        .body(event.body.clone())
}
