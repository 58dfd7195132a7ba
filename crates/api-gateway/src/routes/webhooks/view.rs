//! How a webhook is shown.

use std::collections::BTreeMap;

use chrono::Utc;
use domain::{AttemptTimeout, CustomHeaders, Gate, Health, REDACTED, RetrySchedule, Webhook};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::timestamp;
use crate::error::ApiError;
use crate::state::State;

/// A webhook subscription.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Webhook)]
pub(crate) struct WebhookView {
    /// Names the webhook.
    #[schema(format = Uuid)]
    id: String,
    /// Where deliveries go.
    #[schema(example = "https://api.yourapp.com/webhooks/actiwapi")]
    url: String,
    /// Wanted event types.
    #[schema(example = json!(["message.received"]))]
    events: Vec<String>,
    /// Whether events are delivered.
    is_active: bool,
    /// Wanted sessions; null wants all.
    session_ids: Option<Vec<String>>,
    /// What it wants of an event's `data`; null wants all.
    #[schema(value_type = Option<Object>, example = json!({"amount": {"$gte": 100}}))]
    filter: Option<Box<RawValue>>,
    /// Most deliveries a second, of all dispatchers together; null: no limit.
    rate_limit: Option<u32>,
    /// Most requests under way at a time, of all dispatchers together; null: each dispatcher's default.
    concurrency: Option<u32>,
    /// Deliveries a second of a backlog, after a pause or an outage; null: the installation's default.
    drain_rate: Option<u32>,
    /// Whether events of one ordering key (their `orderingKey`, else their `sessionId`) arrive one after another, in the order
    /// in which they were accepted. One that fails holds up its key until it succeeds or has finally failed.
    ordered: bool,
    /// What it is for, for people.
    description: Option<String>,
    /// What your programs keep with it.
    #[schema(example = json!({"team": "crm"}))]
    metadata: BTreeMap<String, String>,
    /// The headers added to each request. Their values are never shown: each is `********`. Null while they cannot be read,
    /// because an encryption key is missing.
    #[schema(example = json!({"Authorization": "********"}))]
    headers: Option<BTreeMap<String, &'static str>>,
    /// The deadline of an attempt, in milliseconds; null: the installation's default.
    timeout_ms: Option<u32>,
    /// The delays between attempts, in seconds, each moved by up to 10 % either way; null: the installation's default.
    retry_schedule: Option<Vec<u64>>,
    /// Whether bodies have a link to the event in place of its data.
    thin: bool,
    /// The version of the layout of bodies, which receivers see as `webhook-payload-version`.
    #[schema(example = 1)]
    payload_version: i16,
    /// Since when deliveries are held back; null when they are not.
    #[schema(format = DateTime)]
    paused_at: Option<String>,
    /// How the receiver is doing.
    health: HealthView,
    /// Why Postrider switched the webhook off: `gone` when the receiver answered 410, `failing` when every attempt failed
    /// for days. Null otherwise.
    disabled_reason: Option<&'static str>,
    /// When Postrider switched the webhook off.
    #[schema(format = DateTime)]
    disabled_at: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
}

/// How a webhook's receiver is doing.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = WebhookHealth)]
pub(crate) struct HealthView {
    status: HealthStatus,
    /// When the first of the failures since the last success was.
    #[schema(format = DateTime)]
    failing_since: Option<String>,
    /// Until when deliveries wait without being attempted.
    #[schema(format = DateTime)]
    open_until: Option<String>,
    /// Whether a backlog is leaving at the drain rate, after a pause or an outage.
    draining: bool,
}

/// The state of a webhook's circuit breaker.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum HealthStatus {
    /// The last attempt succeeded, or none was made yet.
    Healthy,
    /// The last attempts failed.
    Failing,
    /// So many failed in a row that deliveries wait.
    Open,
    /// The wait is over; one request finds out how the receiver is.
    HalfOpen,
}

/// A webhook, with its secret where that is new.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WebhookWithSecret {
    #[serde(flatten)]
    pub(super) webhook: WebhookView,
    /// Verifies deliveries, with any Standard Webhooks library. It is shown this once, after it was set.
    #[schema(example = "whsec_eW91ci1zaWduaW5nLXNlY3JldA==")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<String>,
}

pub(super) async fn view_with_health(state: &State, webhook: &Webhook) -> Result<WebhookView, ApiError> {
    let health = state.store.health_of(&[webhook.id]).await?.pop().map(|(_, health)| health);
    Ok(WebhookView::new(webhook, &health.unwrap_or_default()))
}

impl WebhookView {
    pub(super) fn new(webhook: &Webhook, health: &Health) -> Self {
        let status = match health.gate(Utc::now()) {
            Gate::Open => HealthStatus::Open,
            Gate::HalfOpen => HealthStatus::HalfOpen,
            Gate::Closed if health.failing_since.is_some() => HealthStatus::Failing,
            Gate::Closed => HealthStatus::Healthy,
        };
        let health = HealthView {
            status,
            failing_since: health.failing_since.map(timestamp),
            open_until: health.open_until.map(timestamp),
            draining: health.is_draining,
        };
        Self {
            health,
            id: webhook.id.to_string(),
            url: webhook.url.as_str().to_owned(),
            events: webhook.events.iter().map(ToString::to_string).collect(),
            is_active: webhook.is_active,
            session_ids: webhook
                .session_ids
                .as_ref()
                .map(|sessions| sessions.iter().map(ToString::to_string).collect()),
            filter: webhook
                .filter
                .as_ref()
                .and_then(|filter| RawValue::from_string(filter.as_str().to_owned()).ok()),
            rate_limit: webhook.gate.rate_limit,
            concurrency: webhook.gate.concurrency,
            drain_rate: webhook.gate.drain_rate,
            ordered: webhook.gate.is_ordered,
            description: webhook.description.as_ref().map(|text| text.as_str().to_owned()),
            metadata: webhook.metadata.entries().clone(),
            headers: webhook.delivery.headers.as_ref().ok().map(masked),
            timeout_ms: webhook.delivery.timeout.map(AttemptTimeout::as_ms),
            retry_schedule: webhook.delivery.retry_schedule.as_ref().map(seconds),
            thin: webhook.delivery.is_thin,
            payload_version: webhook.delivery.payload_version.number(),
            paused_at: webhook.paused_at.map(timestamp),
            disabled_reason: webhook.disabled.map(|(reason, _)| reason.code()),
            disabled_at: webhook.disabled.map(|(_, at)| timestamp(at)),
            created_at: timestamp(webhook.created_at),
            updated_at: timestamp(webhook.updated_at),
        }
    }
}

fn masked(headers: &CustomHeaders) -> BTreeMap<String, &'static str> {
    headers.iter().map(|(name, _)| (name.to_owned(), REDACTED)).collect()
}

fn seconds(schedule: &RetrySchedule) -> Vec<u64> {
    schedule.delays().iter().map(std::time::Duration::as_secs).collect()
}
