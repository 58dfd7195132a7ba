//! What the audit log is told of webhooks.

use domain::{AttemptTimeout, RetrySchedule, Webhook};
use serde_json::{Value, json};

use super::WebhookChange;
use crate::audit_log::Changes;

/// A new webhook.
pub(super) fn created(webhook: &Webhook) -> Changes {
    let changes = Changes::between(&Value::Null, &state(webhook)).and_secret("secret");
    let has_headers = webhook.delivery.headers.as_ref().is_ok_and(|headers| headers.iter().next().is_some());
    if has_headers { changes.and_secret("headers") } else { changes }
}

/// What was changed of one.
pub(super) fn changed(before: &Webhook, after: &Webhook, change: &WebhookChange) -> Changes {
    let mut changes = Changes::between(&state(before), &state(after));
    if change.secret.is_some() {
        changes = changes.and_secret("secret");
    }
    if change.delivery.headers.is_some() {
        changes = changes.and_secret("headers");
    }
    changes
}

/// A webhook that is no more.
pub(super) fn deleted(webhook: &Webhook) -> Changes {
    Changes::between(&state(webhook), &Value::Null)
}

/// All of a webhook that is no secret, as the API calls it.
fn state(webhook: &Webhook) -> Value {
    let seconds = |schedule: &RetrySchedule| -> Vec<u64> {
        schedule.delays().iter().map(std::time::Duration::as_secs).collect()
    };
    let texts =
        |texts: &[domain::SessionId]| -> Vec<String> { texts.iter().map(ToString::to_string).collect() };
    json!({
        "url": webhook.url.as_str(),
        "events": webhook.events.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "sessionIds": webhook.session_ids.as_deref().map(texts),
        "filter": webhook.filter.as_ref().map(|filter| filter.as_str()),
        "isActive": webhook.is_active,
        "rateLimit": webhook.gate.rate_limit,
        "concurrency": webhook.gate.concurrency,
        "drainRate": webhook.gate.drain_rate,
        "ordered": webhook.gate.is_ordered,
        "description": webhook.description.as_ref().map(|text| text.as_str()),
        "metadata": webhook.metadata.entries(),
        "timeoutMs": webhook.delivery.timeout.map(AttemptTimeout::as_ms),
        "retrySchedule": webhook.delivery.retry_schedule.as_ref().map(seconds),
        "thin": webhook.delivery.is_thin,
        "payloadVersion": webhook.delivery.payload_version.number(),
        "signatureScheme": webhook.delivery.signature_scheme.code(),
    })
}
