//! Webhooks: what a subscription is made of, and what can be done with it. One file for each behaviour.

pub(crate) mod change;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod deliveries;
pub(crate) mod exchange;
pub(crate) mod filter_test;
pub(crate) mod pause;
pub(crate) mod public_keys;
pub(crate) mod read;
pub(crate) mod resend;
pub(crate) mod retry_schedule;
pub(crate) mod secret;
mod settings;
pub(crate) mod statistics;
pub(crate) mod test;
pub(crate) mod url;
mod view;

use chrono::{DateTime, SecondsFormat, Utc};
use domain::WebhookId;

use crate::error::ApiError;

/// An id that is not a UUID names nothing, which is all there is to say of it.
pub(crate) fn parse_id(text: &str) -> Result<WebhookId, ApiError> {
    text.parse().map_err(|_| ApiError::webhook_not_found())
}

/// Times in the API: RFC 3339, UTC, milliseconds.
pub(crate) fn timestamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
