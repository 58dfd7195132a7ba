use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use crate::{EventId, EventType, Health, Invalid, TenantId, Webhook, WebhookId};

/// Something that happened to one of a tenant's webhooks, or to a delivery: published by Postrider itself, for the services
/// around it and for webhooks that want it.
#[derive(Debug, Clone)]
pub struct DomainEvent {
    /// Whose webhook it is.
    pub tenant_id: TenantId,
    /// The same however often it is published.
    pub id: EventId,
    /// What happened.
    pub event_type: EventType,
    /// When.
    pub occurred_at: DateTime<Utc>,
    /// What there is to say of it. Never a secret.
    pub data: Box<RawValue>,
}

/// What happened to a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookNews {
    /// It is there.
    Created,
    /// Its owner changed something other than the secret.
    Updated,
    /// It is gone.
    Deleted,
    /// Its deliveries are held back.
    Paused,
    /// They go on.
    Resumed,
    /// Postrider switched it off.
    Disabled,
    /// It has a new secret.
    SecretRotated,
}

/// A delivery whose last attempt has failed.
#[derive(Debug, Clone)]
pub struct FailedDelivery<'a> {
    /// The webhook.
    pub webhook_id: WebhookId,
    /// The event that was to be delivered.
    pub event_id: &'a EventId,
    /// Its type.
    pub event_type: &'a EventType,
    /// Attempts made.
    pub attempts: u32,
    /// The answer to the last one, if one came.
    pub status_code: Option<u16>,
    /// The error class of the last one.
    pub error: &'a str,
}

impl WebhookNews {
    /// What there is to tell of a change by the owner.
    pub fn of_change(before: &Webhook, after: &Webhook) -> Vec<Self> {
        let had_key = !matches!(before.signing_keys, Ok(None));
        let is_new_secret =
            before.secret != after.secret || had_key && before.signing_keys != after.signing_keys;
        let but_for_secret = Webhook {
            secret: before.secret.clone(),
            previous_secrets: before.previous_secrets.clone(),
            signing_keys: before.signing_keys.clone(),
            updated_at: before.updated_at,
            ..after.clone()
        };
        let updated = (but_for_secret != *before).then_some(Self::Updated);
        updated.into_iter().chain(is_new_secret.then_some(Self::SecretRotated)).collect()
    }
}

impl DomainEvent {
    /// What happened to a webhook, with the webhook as it is now.
    pub fn of_webhook(news: WebhookNews, webhook: &Webhook, now: DateTime<Utc>) -> Self {
        let name = match news {
            WebhookNews::Created => "webhook.created",
            WebhookNews::Updated => "webhook.updated",
            WebhookNews::Deleted => "webhook.deleted",
            WebhookNews::Paused => "webhook.paused",
            WebhookNews::Resumed => "webhook.resumed",
            WebhookNews::Disabled => "webhook.disabled",
            WebhookNews::SecretRotated => "webhook.secret_rotated",
        };
        let data = json!({
            "webhookId": webhook.id.to_string(),
            "url": webhook.url.as_str(),
            "events": webhook.events.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "isActive": webhook.is_active,
            "pausedAt": webhook.paused_at.map(timestamp),
            "disabledReason": webhook.disabled.map(|(reason, _)| reason.code()),
        });
        Self::new(name, webhook.tenant_id, EventId::generate(), now, &data)
    }

    /// Attempts to deliver to a webhook fail, one after the other.
    pub fn failing(
        tenant: TenantId,
        webhook: WebhookId,
        url: &str,
        health: &Health,
        now: DateTime<Utc>,
    ) -> Self {
        let data = json!({
            "webhookId": webhook.to_string(),
            "url": url,
            "failingSince": health.failing_since.map(timestamp),
            "consecutiveFailures": health.consecutive_failures,
        });
        Self::new("delivery.failing", tenant, EventId::generate(), now, &data)
    }

    /// After [`DomainEvent::failing`] was told, an attempt has succeeded.
    pub fn recovered(
        tenant: TenantId,
        webhook: WebhookId,
        url: &str,
        failing_since: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Self {
        let failing_since = failing_since.map(timestamp);
        let data = json!({"webhookId": webhook.to_string(), "url": url, "failingSince": failing_since});
        Self::new("delivery.recovered", tenant, EventId::generate(), now, &data)
    }

    /// A delivery has finally failed. `id` is the same each time that its last attempt is written down.
    pub fn exhausted(
        tenant: TenantId,
        id: EventId,
        delivery: &FailedDelivery<'_>,
        now: DateTime<Utc>,
    ) -> Self {
        let data = json!({
            "webhookId": delivery.webhook_id.to_string(),
            "eventId": delivery.event_id.as_str(),
            "eventType": delivery.event_type.as_str(),
            "attempts": delivery.attempts,
            "statusCode": delivery.status_code,
            "error": delivery.error,
        });
        Self::new("delivery.exhausted", tenant, id, now, &data)
    }

    /// Reads data that was written down.
    pub fn parse_data(json: String) -> Result<Box<RawValue>, Invalid> {
        RawValue::from_string(json).map_err(|error| Invalid::new(error.to_string()))
    }

    fn new(name: &str, tenant_id: TenantId, id: EventId, occurred_at: DateTime<Utc>, data: &Value) -> Self {
        let event_type = name.parse().expect("each name above is an event type");
        let data = to_raw_value(data).expect("a JSON value is JSON");
        Self { tenant_id, id, event_type, occurred_at, data }
    }
}

fn timestamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
