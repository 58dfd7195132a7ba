use std::collections::HashMap;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::{DateTime, SecondsFormat, Utc};
use domain::{
    EventPattern, Gate, GateChange, GateSettings, Health, Invalid, MAX_EVENTS_PER_WEBHOOK,
    MAX_SESSIONS_PER_WEBHOOK, Scope, SecretBytes, SessionId, Webhook, WebhookId, WebhookUrl,
    check_concurrency, check_rate,
};
use serde::{Deserialize, Serialize};
use signing::Secret;
use store::{EventTypeRow, NewWebhook, WebhookChange};
use utoipa::ToSchema;

use crate::auth::Authenticated;
use crate::body::{FieldErrors, JsonBody, OptionalJsonBody, present};
use crate::catalogue::Catalogue;
use crate::envelope::{Failure, Success, success};
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
    /// Most deliveries a second, of all dispatchers together; null: no limit.
    rate_limit: Option<u32>,
    /// Most requests under way at a time, of all dispatchers together; null: each dispatcher's default.
    concurrency: Option<u32>,
    /// Deliveries a second of a backlog, after a pause or an outage; null: the installation's default.
    drain_rate: Option<u32>,
    /// Whether events of one ordering key (their `orderingKey`, else their `sessionId`) arrive one after another, in the order
    /// in which they were accepted. One that fails holds up its key until it succeeds or has finally failed.
    ordered: bool,
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
    webhook: WebhookView,
    /// Verifies deliveries, with any Standard Webhooks library. It is shown this once, after it was set.
    #[schema(example = "whsec_eW91ci1zaWduaW5nLXNlY3JldA==")]
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// What was deleted.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeletedWebhook {
    #[schema(format = Uuid)]
    id: String,
    /// Always true.
    deleted: bool,
}

/// A webhook to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(example = json!({"url": "https://api.yourapp.com/webhooks/actiwapi",
    "events": ["message.received", "session.disconnected"], "secret": "your-signing-secret"}))]
pub(crate) struct CreateWebhook {
    /// An `https` URL of at most 2048 bytes, of a public host, without user name and password.
    #[schema(required = true, value_type = String)]
    url: Option<String>,
    /// 1 to 100 event types, each one of the list, or `message.*`, or `*`.
    #[schema(required = true, value_type = Vec<String>)]
    events: Option<Vec<String>>,
    /// Signs the deliveries: plain text, or `whsec_` and base64, of 8 to 256 bytes. Made up when absent.
    secret: Option<String>,
    /// Only events of these sessions (at most 1000); absent or null wants all.
    session_ids: Option<Vec<String>>,
    /// Whether events are delivered from the start; true when absent.
    is_active: Option<bool>,
    /// Most deliveries a second, of all dispatchers together: 1 to 10,000; no limit when absent or null.
    #[schema(minimum = 1, maximum = 10_000)]
    rate_limit: Option<i64>,
    /// Most requests under way at a time, of all dispatchers together: 1 to 1,000; each dispatcher's default when absent or
    /// null.
    #[schema(minimum = 1, maximum = 1_000)]
    concurrency: Option<i64>,
    /// Deliveries a second of a backlog, after a pause or an outage: 1 to 10,000; the installation's default when absent or
    /// null.
    #[schema(minimum = 1, maximum = 10_000)]
    drain_rate: Option<i64>,
    /// Whether events of one ordering key (their `orderingKey`, else their `sessionId`) arrive one after another, in the order
    /// in which they were accepted; false when absent.
    ordered: Option<bool>,
}

/// What to change of a webhook. A field that is absent stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(example = json!({"isActive": false}))]
pub(crate) struct ChangeWebhook {
    /// As at creation.
    #[serde(default, deserialize_with = "present")]
    url: Option<String>,
    /// As at creation.
    #[serde(default, deserialize_with = "present")]
    events: Option<Vec<String>>,
    /// Signs the deliveries from now on.
    #[serde(default, deserialize_with = "present")]
    secret: Option<String>,
    /// Null wants all sessions again.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Vec<String>>)]
    session_ids: Option<Option<Vec<String>>>,
    /// False cancels what waits to be delivered; true also ends a switch-off by Postrider.
    #[serde(default, deserialize_with = "present")]
    is_active: Option<bool>,
    /// Null: no limit.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 10_000)]
    rate_limit: Option<Option<i64>>,
    /// Null: each dispatcher's default.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 1_000)]
    concurrency: Option<Option<i64>>,
    /// Null: the installation's default.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 10_000)]
    drain_rate: Option<Option<i64>>,
    /// True keeps the order of events accepted from about two seconds later.
    #[serde(default, deserialize_with = "present")]
    ordered: Option<bool>,
}

/// How to go on after a pause.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(example = json!({"drainRate": 50}))]
pub(crate) struct ResumeWebhook {
    /// Deliveries a second of what has waited: 1 to 10,000. Becomes the webhook's drain rate; as set before when absent.
    #[schema(minimum = 1, maximum = 10_000)]
    drain_rate: Option<i64>,
}

/// List webhooks
///
/// All webhooks of the tenant, oldest first. Scope `webhooks:read`.
#[utoipa::path(
    get,
    path = "/api/webhooks",
    tag = "Webhooks",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "The webhooks", body = Success<Vec<WebhookView>>),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
    ),
)]
pub(crate) async fn list(caller: Authenticated, state: web::Data<State>) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksRead)?;
    let webhooks = state.store.webhooks(tenant).await?;
    let ids: Vec<WebhookId> = webhooks.iter().map(|webhook| webhook.id).collect();
    let health: HashMap<WebhookId, Health> = state.store.health_of(&ids).await?.into_iter().collect();
    let healthy = Health::default();
    let view = |webhook: &Webhook| WebhookView::new(webhook, health.get(&webhook.id).unwrap_or(&healthy));
    Ok(success(StatusCode::OK, webhooks.iter().map(view).collect::<Vec<_>>()))
}

/// Create webhook
///
/// Register a new webhook subscription. Every event accepted from then on reaches it. Scope `webhooks:write`.
#[utoipa::path(
    post,
    path = "/api/webhooks",
    tag = "Webhooks",
    security(("bearer" = [])),
    request_body = CreateWebhook,
    responses(
        (status = 201, description = "The webhook, with its secret", body = Success<WebhookWithSecret>),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`, or `LIMIT_EXCEEDED` when the plan allows no more", body = Failure),
        (status = 409, description = "`CONFLICT`: one with this URL and these events exists", body = Failure),
    ),
)]
pub(crate) async fn create(
    caller: Authenticated,
    state: web::Data<State>,
    JsonBody(request): JsonBody<CreateWebhook>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksWrite)?;
    let types = state.catalogue.event_types().await?;
    let mut errors = FieldErrors::default();
    let url = errors.require("url", request.url, |url| WebhookUrl::parse(&url, &state.url_policy));
    let events = errors.require("events", request.events, |events| parse_events(&events, &types));
    let secret = request.secret.map_or_else(|| Ok(Secret::generate()), |secret| secret.parse::<Secret>());
    let secret = errors.keep("secret", secret);
    let sessions = errors.keep("sessionIds", request.session_ids.as_deref().map(parse_sessions).transpose());
    let gate = GateSettings {
        rate_limit: parse_rate(&mut errors, "rateLimit", request.rate_limit),
        concurrency: parse_concurrency(&mut errors, request.concurrency),
        drain_rate: parse_rate(&mut errors, "drainRate", request.drain_rate),
        is_ordered: request.ordered.unwrap_or(false),
    };
    let (Some(url), Some(events), Some(secret), Some(session_ids), true) =
        (url, events, secret, sessions, errors.is_empty())
    else {
        return Err(errors.into_error());
    };
    state.tenants.admit(tenant).await?;
    let new = NewWebhook {
        url,
        events,
        session_ids,
        secret: SecretBytes::new(secret.expose_bytes()),
        is_active: request.is_active.unwrap_or(true),
        gate,
    };
    let webhook = state.store.create_webhook(tenant, &new, Utc::now()).await?;
    let webhook = WebhookView::new(&webhook, &Health::default());
    let created = WebhookWithSecret { webhook, secret: Some(secret.reveal()) };
    Ok(success(StatusCode::CREATED, created))
}

/// Get webhook
///
/// One webhook of the tenant. Scope `webhooks:read`.
#[utoipa::path(
    get,
    path = "/api/webhooks/{id}",
    tag = "Webhooks",
    security(("bearer" = [])),
    params(("id" = String, Path, format = Uuid, description = "Webhook UUID")),
    responses(
        (status = 200, description = "The webhook", body = Success<WebhookView>),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`", body = Failure),
    ),
)]
pub(crate) async fn get(
    caller: Authenticated,
    state: web::Data<State>,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksRead)?;
    let id = parse_id(&id)?;
    let webhook = state.store.webhook(tenant, id).await?.ok_or_else(ApiError::webhook_not_found)?;
    Ok(success(StatusCode::OK, view_with_health(&state, &webhook).await?))
}

/// Change webhook
///
/// Changes the fields that are given. Scope `webhooks:write`.
#[utoipa::path(
    patch,
    path = "/api/webhooks/{id}",
    tag = "Webhooks",
    security(("bearer" = [])),
    params(("id" = String, Path, format = Uuid, description = "Webhook UUID")),
    request_body = ChangeWebhook,
    responses(
        (status = 200, description = "The webhook after the change", body = Success<WebhookWithSecret>),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`", body = Failure),
        (status = 409, description = "`CONFLICT`: another with this URL and these events exists", body = Failure),
    ),
)]
pub(crate) async fn change(
    caller: Authenticated,
    state: web::Data<State>,
    id: web::Path<String>,
    JsonBody(request): JsonBody<ChangeWebhook>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksWrite)?;
    let id = parse_id(&id)?;
    let types = state.catalogue.event_types().await?;
    let change = parse_change(request, &state, &types)?;
    let changed = state.store.change_webhook(tenant, id, &change, Utc::now()).await?;
    let webhook = changed.ok_or_else(ApiError::webhook_not_found)?;
    let new_secret = change.secret.and_then(|secret| Secret::from_bytes(secret.expose()).ok());
    let webhook = view_with_health(&state, &webhook).await?;
    let secret = new_secret.map(|secret| secret.reveal());
    Ok(success(StatusCode::OK, WebhookWithSecret { webhook, secret }))
}

/// Delete webhook
///
/// Deletes the webhook and cancels what waits to be delivered to it. Scope `webhooks:write`.
#[utoipa::path(
    delete,
    path = "/api/webhooks/{id}",
    tag = "Webhooks",
    security(("bearer" = [])),
    params(("id" = String, Path, format = Uuid, description = "Webhook UUID")),
    responses(
        (status = 200, description = "The webhook is deleted", body = Success<DeletedWebhook>),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`", body = Failure),
    ),
)]
pub(crate) async fn delete(
    caller: Authenticated,
    state: web::Data<State>,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksWrite)?;
    let id = parse_id(&id)?;
    if !state.store.delete_webhook(tenant, id, Utc::now()).await? {
        return Err(ApiError::webhook_not_found());
    }
    Ok(success(StatusCode::OK, DeletedWebhook { id: id.to_string(), deleted: true }))
}

/// Pause webhook
///
/// Holds the webhook's deliveries back. Events go on being accepted for it, and wait until it is resumed; requests under way
/// end. Does nothing to one that is paused. Scope `webhooks:write`.
#[utoipa::path(
    post,
    path = "/api/webhooks/{id}/pause",
    tag = "Webhooks",
    security(("bearer" = [])),
    params(("id" = String, Path, format = Uuid, description = "Webhook UUID")),
    responses(
        (status = 200, description = "The webhook, paused", body = Success<WebhookView>),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`", body = Failure),
    ),
)]
pub(crate) async fn pause(
    caller: Authenticated,
    state: web::Data<State>,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksWrite)?;
    let paused = state.store.pause_webhook(tenant, parse_id(&id)?, Utc::now()).await?;
    let webhook = paused.ok_or_else(ApiError::webhook_not_found)?;
    Ok(success(StatusCode::OK, view_with_health(&state, &webhook).await?))
}

/// Resume webhook
///
/// Lets a paused webhook's deliveries go on. What has waited leaves at the drain rate, the oldest first; new events do not
/// wait for it, unless the webhook is `ordered` or has a `rateLimit`. Scope `webhooks:write`.
#[utoipa::path(
    post,
    path = "/api/webhooks/{id}/resume",
    tag = "Webhooks",
    security(("bearer" = [])),
    params(("id" = String, Path, format = Uuid, description = "Webhook UUID")),
    request_body(content = Option<ResumeWebhook>, description = "May be absent"),
    responses(
        (status = 200, description = "The webhook, resumed", body = Success<WebhookView>),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`", body = Failure),
    ),
)]
pub(crate) async fn resume(
    caller: Authenticated,
    state: web::Data<State>,
    id: web::Path<String>,
    OptionalJsonBody(request): OptionalJsonBody<ResumeWebhook>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksWrite)?;
    let mut errors = FieldErrors::default();
    let drain_rate = parse_rate(&mut errors, "drainRate", request.unwrap_or_default().drain_rate);
    if !errors.is_empty() {
        return Err(errors.into_error());
    }
    let resumed = state.store.resume_webhook(tenant, parse_id(&id)?, drain_rate, Utc::now()).await?;
    let webhook = resumed.ok_or_else(ApiError::webhook_not_found)?;
    Ok(success(StatusCode::OK, view_with_health(&state, &webhook).await?))
}

async fn view_with_health(state: &State, webhook: &Webhook) -> Result<WebhookView, ApiError> {
    let health = state.store.health_of(&[webhook.id]).await?.pop().map(|(_, health)| health);
    Ok(WebhookView::new(webhook, &health.unwrap_or_default()))
}

/// An id that is not a UUID names nothing, which is all there is to say of it.
pub(crate) fn parse_id(text: &str) -> Result<WebhookId, ApiError> {
    text.parse().map_err(|_| ApiError::webhook_not_found())
}

fn parse_change(
    request: ChangeWebhook,
    state: &State,
    types: &[EventTypeRow],
) -> Result<WebhookChange, ApiError> {
    let mut errors = FieldErrors::default();
    let url = request.url.map(|url| WebhookUrl::parse(&url, &state.url_policy)).transpose();
    let events = request.events.map(|events| parse_events(&events, types)).transpose();
    let secret = request.secret.map(|secret| secret.parse::<Secret>()).transpose();
    let session_ids =
        request.session_ids.map(|sessions| sessions.as_deref().map(parse_sessions).transpose()).transpose();
    let change = WebhookChange {
        url: errors.keep("url", url).flatten(),
        events: errors.keep("events", events).flatten(),
        session_ids: errors.keep("sessionIds", session_ids).flatten(),
        secret: errors.keep("secret", secret).flatten().map(|secret| SecretBytes::new(secret.expose_bytes())),
        is_active: request.is_active,
        gate: GateChange {
            rate_limit: request.rate_limit.map(|rate| parse_rate(&mut errors, "rateLimit", rate)),
            concurrency: request.concurrency.map(|cap| parse_concurrency(&mut errors, cap)),
            drain_rate: request.drain_rate.map(|rate| parse_rate(&mut errors, "drainRate", rate)),
            is_ordered: request.ordered,
        },
    };
    if errors.is_empty() { Ok(change) } else { Err(errors.into_error()) }
}

fn parse_rate(errors: &mut FieldErrors, field: &str, rate: Option<i64>) -> Option<u32> {
    rate.and_then(|rate| errors.keep(field, check_rate(field, rate)))
}

fn parse_concurrency(errors: &mut FieldErrors, concurrency: Option<i64>) -> Option<u32> {
    concurrency.and_then(|cap| errors.keep("concurrency", check_concurrency(cap)))
}

fn parse_events(events: &[String], types: &[EventTypeRow]) -> Result<Vec<EventPattern>, Invalid> {
    if events.is_empty() || events.len() > MAX_EVENTS_PER_WEBHOOK {
        return Err(Invalid::new(format!("events must name 1 to {MAX_EVENTS_PER_WEBHOOK} event types")));
    }
    let mut patterns = Vec::with_capacity(events.len());
    for event in events {
        let pattern: EventPattern = event.parse()?;
        if !Catalogue::covers(types, &pattern) {
            let names: Vec<&str> = types.iter().map(|known| known.name.as_str()).collect();
            return Err(Invalid::new(format!(
                "{event} is not an event type; choose from {}",
                names.join(", ")
            )));
        }
        if !patterns.contains(&pattern) {
            patterns.push(pattern);
        }
    }
    Ok(patterns)
}

fn parse_sessions<S: AsRef<str>>(sessions: &[S]) -> Result<Vec<SessionId>, Invalid> {
    if sessions.is_empty() || sessions.len() > MAX_SESSIONS_PER_WEBHOOK {
        let limit = MAX_SESSIONS_PER_WEBHOOK;
        return Err(Invalid::new(format!("sessionIds must name 1 to {limit} sessions, or be null for all")));
    }
    sessions.iter().map(|session| session.as_ref().parse()).collect()
}

impl WebhookView {
    fn new(webhook: &Webhook, health: &Health) -> Self {
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
            rate_limit: webhook.gate.rate_limit,
            concurrency: webhook.gate.concurrency,
            drain_rate: webhook.gate.drain_rate,
            ordered: webhook.gate.is_ordered,
            paused_at: webhook.paused_at.map(timestamp),
            disabled_reason: webhook.disabled.map(|(reason, _)| reason.code()),
            disabled_at: webhook.disabled.map(|(_, at)| timestamp(at)),
            created_at: timestamp(webhook.created_at),
            updated_at: timestamp(webhook.updated_at),
        }
    }
}

/// Times in the API: RFC 3339, UTC, milliseconds.
pub(crate) fn timestamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
