//! How a webhook is shown.

use std::collections::BTreeMap;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use chrono::{DateTime, Utc};
use domain::{AttemptTimeout, CustomHeaders, Gate, Health, REDACTED, RetrySchedule, SigningKeys, Webhook};
use serde::Serialize;
use serde_json::value::RawValue;
use signing::{SigningKey, VerifyingKey};
use store::Activity;
use utoipa::ToSchema;

use super::timestamp;
use crate::envelope::success;
use crate::error::ApiError;
use crate::etag::EntityTag;
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
    /// How deliveries are signed.
    #[schema(value_type = SignatureSchemeName)]
    signature_scheme: &'static str,
    /// What verifies deliveries that are signed with `ed25519`, the newest first: also those that were replaced and sign yet.
    /// Empty when the webhook never was. Null while they cannot be read, because an encryption key is missing.
    public_keys: Option<Vec<PublicKeyView>>,
    /// Since when deliveries are held back; null when they are not.
    #[schema(format = DateTime)]
    paused_at: Option<String>,
    /// How the receiver is doing.
    health: HealthView,
    /// What has become of its deliveries.
    activity: ActivityView,
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

/// How deliveries are signed.
#[derive(ToSchema)]
#[expect(dead_code, reason = "names what `SignatureScheme` reads and writes, for the OpenAPI document")]
pub(crate) enum SignatureSchemeName {
    /// `v1`: with the secret, which the receiver has too.
    #[schema(rename = "hmac-sha256")]
    HmacSha256,
    /// `v1a`: with a private key, whose public half the receiver has.
    #[schema(rename = "ed25519")]
    Ed25519,
}

/// A key that verifies deliveries and cannot sign any.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PublicKey)]
pub(crate) struct PublicKeyView {
    /// The key's name, as in the key set: its JWK thumbprint.
    #[schema(example = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k")]
    kid: String,
    /// As Standard Webhooks libraries take it.
    #[schema(example = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=")]
    key: String,
    /// When it ends, where it was replaced; null: it is the one that signs.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
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

/// What has become of a webhook's deliveries.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = WebhookActivity)]
pub(crate) struct ActivityView {
    /// When the last successful attempt was made, within the retention of the history; null when there was none.
    #[schema(format = DateTime)]
    last_success_at: Option<String>,
    /// Deliveries that succeeded since `since`.
    delivered: i64,
    /// Deliveries that finally failed since then.
    failed: i64,
    /// Deliveries that wait to be attempted, for the first time or again. No more than 10,000 are counted.
    waiting: i64,
    /// From when is counted: a full hour a day ago. Later where there were so many attempts that only the newest are counted,
    /// 10,000 of a webhook read by itself, and in a list its share of them, at least 100. Null when it was just created.
    #[schema(format = DateTime)]
    since: Option<String>,
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
    /// Verifies deliveries, with any Standard Webhooks library. Shown after it was set, and by `GET …/secret`.
    #[schema(example = "whsec_eW91ci1zaWduaW5nLXNlY3JldA==")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<String>,
}

/// A webhook as it is now.
pub(super) async fn view_now(state: &State, webhook: &Webhook) -> Result<WebhookView, ApiError> {
    let health =
        state.store.health_of(webhook.tenant_id, &[webhook.id]).await?.pop().map(|(_, health)| health);
    let mut activity = state.store.activity_of(webhook.tenant_id, &[webhook.id], Utc::now()).await?;
    let activity = activity.remove(&webhook.id).unwrap_or_default();
    Ok(WebhookView::new(webhook, &health.unwrap_or_default(), activity))
}

/// A webhook as it is now, in an answer with its entity tag.
pub(super) async fn tagged(state: &State, webhook: &Webhook) -> Result<HttpResponse, ApiError> {
    let view = view_now(state, webhook).await?;
    Ok(EntityTag::new(webhook, &view).put(success(StatusCode::OK, view)))
}

impl WebhookView {
    pub(super) fn new(webhook: &Webhook, health: &Health, activity: Activity) -> Self {
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
            activity: ActivityView {
                last_success_at: activity.last_success_at.map(timestamp),
                delivered: activity.delivered,
                failed: activity.failed,
                waiting: activity.waiting,
                since: activity.since.map(timestamp),
            },
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
            signature_scheme: webhook.delivery.signature_scheme.code(),
            public_keys: webhook.signing_keys.as_ref().ok().map(|keys| public_keys(keys.as_ref())),
            paused_at: webhook.paused_at.map(timestamp),
            disabled_reason: webhook.disabled.map(|(reason, _)| reason.code()),
            disabled_at: webhook.disabled.map(|(_, at)| timestamp(at)),
            created_at: timestamp(webhook.created_at),
            updated_at: timestamp(webhook.updated_at),
        }
    }
}

/// The public keys of a webhook, the newest first, and when each ends.
pub(crate) fn verifying_keys(
    keys: Option<&SigningKeys>,
    now: DateTime<Utc>,
) -> impl Iterator<Item = (VerifyingKey, Option<DateTime<Utc>>)> {
    keys.into_iter().flat_map(move |keys| keys.live(now)).filter_map(|(seed, expires_at)| {
        Some((SigningKey::from_seed(seed.expose()).ok()?.verifying_key(), expires_at))
    })
}

pub(super) fn public_keys(keys: Option<&SigningKeys>) -> Vec<PublicKeyView> {
    let view = |(key, expires_at): (VerifyingKey, Option<DateTime<Utc>>)| PublicKeyView {
        kid: key.id(),
        key: key.to_string(),
        expires_at: expires_at.map(timestamp),
    };
    verifying_keys(keys, Utc::now()).map(view).collect()
}

fn masked(headers: &CustomHeaders) -> BTreeMap<String, &'static str> {
    headers.iter().map(|(name, _)| (name.to_owned(), REDACTED)).collect()
}

fn seconds(schedule: &RetrySchedule) -> Vec<u64> {
    schedule.delays().iter().map(std::time::Duration::as_secs).collect()
}
