use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::Utc;
use domain::{
    DeliveryChange, Expected, GateChange, HeadersChange, Invalid, MetadataChange, Scope, SecretBytes,
    WebhookUrl,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use signing::Secret;
use store::WebhookChange;
use utoipa::ToSchema;

use super::parse_id;
use super::settings::{
    Pairs, key_for, parse_concurrency, parse_description, parse_events, parse_filter, parse_rate,
    parse_schedule, parse_scheme, parse_sessions, parse_timeout, parse_version,
};
use super::view::{SignatureSchemeName, WebhookWithSecret, view_now};
use crate::auth::Authenticated;
use crate::body::{FieldErrors, JsonBody, present};
use crate::catalogue::Types;
use crate::envelope::{Failure, Success, success};
use crate::error::ApiError;
use crate::etag::{EntityTag, IfMatch};
use crate::state::State;

/// What to change of a webhook. A field that is absent stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(example = json!({"isActive": false}))]
pub(crate) struct ChangeWebhook {
    /// As at creation.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = String)]
    url: Option<String>,
    /// As at creation.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Vec<String>)]
    events: Option<Vec<String>>,
    /// Signs the deliveries from now on, alone; `POST …/secret/rotate` lets the old one sign beside it for a while.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = String)]
    secret: Option<String>,
    /// Null wants all sessions again.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Vec<String>>)]
    session_ids: Option<Option<Vec<String>>>,
    /// Null wants everything again.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Object>)]
    filter: Option<Option<Box<RawValue>>>,
    /// False cancels what waits to be delivered; true also ends a switch-off by Postrider.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = bool)]
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
    #[schema(value_type = bool)]
    ordered: Option<bool>,
    /// Null takes it away.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    description: Option<Option<String>>,
    /// Sets the keys that are given; a key that is null is taken away, and the others stay. Null takes all away.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<HashMap<String, Option<String>>>, example = json!({"team": "crm", "old": null}))]
    metadata: Option<Option<Pairs<Option<String>>>>,
    /// Sets the headers that are given; one that is null is taken away, and the others stay. Null takes all away.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<HashMap<String, Option<String>>>, example = json!({"Authorization": "Bearer new-token"}))]
    headers: Option<Option<Pairs<Option<String>>>>,
    /// Null: the installation's default.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i64>, minimum = 1_000, maximum = 30_000)]
    timeout_ms: Option<Option<i64>>,
    /// Null: the installation's default. A delivery that waits for its next attempt waits as long as it was told, and follows
    /// the new schedule after that.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Vec<i64>>, max_items = 20)]
    retry_schedule: Option<Option<Vec<i64>>>,
    /// As at creation.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = bool)]
    thin: Option<bool>,
    /// As at creation.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = i64, minimum = 1, maximum = 1)]
    payload_version: Option<i64>,
    /// As at creation. Deliveries are signed so from then on, without an overlap: let the receiver know both ways before.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<SignatureSchemeName>)]
    signature_scheme: Option<String>,
}

/// Change webhook
///
/// Changes the fields that are given. With `If-Match`, only if nobody has changed the webhook since; that its receiver does
/// better or worse meanwhile makes no difference. Scope `webhooks:write`.
#[utoipa::path(
    patch,
    path = "/api/webhooks/{id}",
    tag = "Webhooks",
    security(("bearer" = [])),
    params(
        ("id" = String, Path, format = Uuid, description = "Webhook UUID"),
        ("If-Match" = Option<String>, Header, description = "Entity tags of what you have seen"),
    ),
    request_body = ChangeWebhook,
    responses(
        (status = 200, description = "The webhook after the change", body = Success<WebhookWithSecret>,
            headers(("ETag" = String, description = "Names what is shown"))),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`", body = Failure),
        (status = 412, description = "`PRECONDITION_FAILED`: it has changed meanwhile", body = Failure),
        (status = 409, description = "`CONFLICT`: another with this URL and these events exists", body = Failure),
    ),
)]
pub(crate) async fn change(
    caller: Authenticated,
    state: web::Data<State>,
    id: web::Path<String>,
    IfMatch(expected): IfMatch,
    JsonBody(request): JsonBody<ChangeWebhook>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksWrite)?;
    let id = parse_id(&id)?;
    let types = state.catalogue.event_types().await?;
    let change = WebhookChange { expected, ..parse_change(request, &state, &types)? };
    let changed = caller.store(&state).change_webhook(tenant, id, &change, Utc::now()).await?;
    let webhook = changed.ok_or_else(ApiError::webhook_not_found)?;
    let new_secret = change.secret.and_then(|secret| Secret::from_bytes(secret.expose()).ok());
    let view = view_now(&state, &webhook).await?;
    let tag = EntityTag::new(&webhook, &view);
    let secret = new_secret.map(|secret| secret.reveal());
    Ok(tag.put(success(StatusCode::OK, WebhookWithSecret { webhook: view, secret })))
}

fn parse_change(request: ChangeWebhook, state: &State, types: &Types) -> Result<WebhookChange, ApiError> {
    let mut errors = FieldErrors::default();
    let url = request.url.map(|url| WebhookUrl::parse(&url, &state.url_policy)).transpose();
    let events = request.events.map(|events| parse_events(&events, types)).transpose();
    let secret = request.secret.map(|secret| secret.parse::<Secret>()).transpose();
    let session_ids =
        request.session_ids.map(|sessions| sessions.as_deref().map(parse_sessions).transpose()).transpose();
    let signature_scheme = request.signature_scheme.map(|name| parse_scheme(&mut errors, &name));
    let change = WebhookChange {
        signing_key: key_for(signature_scheme),
        url: errors.keep("url", url).flatten(),
        events: errors.keep("events", events).flatten(),
        session_ids: errors.keep("sessionIds", session_ids).flatten(),
        secret: errors.keep("secret", secret).flatten().map(|secret| SecretBytes::new(secret.expose_bytes())),
        filter: request.filter.map(|filter| parse_filter(&mut errors, filter.as_deref())),
        is_active: request.is_active,
        gate: GateChange {
            rate_limit: request.rate_limit.map(|rate| parse_rate(&mut errors, "rateLimit", rate)),
            concurrency: request.concurrency.map(|cap| parse_concurrency(&mut errors, cap)),
            drain_rate: request.drain_rate.map(|rate| parse_rate(&mut errors, "drainRate", rate)),
            is_ordered: request.ordered,
        },
        delivery: DeliveryChange {
            headers: errors.keep("headers", request.headers.map(parse_headers).transpose()).flatten(),
            timeout: request.timeout_ms.map(|ms| parse_timeout(&mut errors, ms)),
            retry_schedule: request
                .retry_schedule
                .map(|delays| parse_schedule(&mut errors, delays.as_deref(), state.retention)),
            is_thin: request.thin,
            payload_version: request.payload_version.map(|number| parse_version(&mut errors, Some(number))),
            signature_scheme,
        },
        description: request.description.map(|text| parse_description(&mut errors, text.as_deref())),
        metadata: errors.keep("metadata", request.metadata.map(parse_metadata).transpose()).flatten(),
        expected: Expected::Any,
    };
    if errors.is_empty() { Ok(change) } else { Err(errors.into_error()) }
}

fn parse_headers(headers: Option<Pairs<Option<String>>>) -> Result<HeadersChange, Invalid> {
    headers.map_or(Ok(HeadersChange::Clear), |headers| HeadersChange::merge(headers.0))
}

fn parse_metadata(metadata: Option<Pairs<Option<String>>>) -> Result<MetadataChange, Invalid> {
    metadata.map_or(Ok(MetadataChange::Clear), |entries| MetadataChange::merge(entries.unique()?))
}
