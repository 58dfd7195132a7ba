use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::Utc;
use domain::{
    CustomHeaders, DeliverySettings, GateSettings, Health, Metadata, Scope, SecretBytes, WebhookUrl,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use signing::Secret;
use store::{Activity, NewWebhook};
use utoipa::ToSchema;

use super::settings::{
    Pairs, key_for, parse_concurrency, parse_description, parse_events, parse_filter, parse_rate,
    parse_schedule, parse_scheme, parse_sessions, parse_timeout, parse_version,
};
use super::view::{SignatureSchemeName, WebhookView, WebhookWithSecret};
use crate::auth::Authenticated;
use crate::body::{FieldErrors, JsonBody};
use crate::catalogue::Types;
use crate::envelope::{Failure, Success, success};
use crate::error::ApiError;
use crate::etag::EntityTag;
use crate::state::State;

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
    /// Only events whose `data` matches; absent or null wants all. `{"amount": {"$gte": 100}, "customer.country": "DE"}` wants
    /// both. A field is a path with dots, where a number picks from an array; it is compared with a value, or by `$eq`, `$ne`,
    /// `$in`, `$gt`, `$gte`, `$lt`, `$lte`, `$prefix`, `$exists`. `$and`, `$or` (lists) and `$not` combine filters. At most
    /// 8 KiB, 64 conditions and combinations, nested 8 deep. Try it with `POST /api/webhooks/filter/test`.
    #[schema(value_type = Option<Object>, example = json!({"amount": {"$gte": 100}}))]
    filter: Option<Box<RawValue>>,
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
    /// What it is for, for people: 1 to 512 characters.
    #[schema(example = "Production CRM")]
    description: Option<String>,
    /// Whatever your programs keep with it: at most 50 keys of 64 characters, values of at most 512 bytes.
    #[schema(value_type = Option<HashMap<String, String>>, example = json!({"team": "crm"}))]
    metadata: Option<Pairs<String>>,
    /// Headers added to each request: at most 20, and 4 KiB in all. Names that Postrider or HTTP needs (`Host`, `Content-*`,
    /// `Connection`, `User-Agent`, `Webhook-*` and the like) are refused. Values are kept encrypted and never shown again.
    #[schema(value_type = Option<HashMap<String, String>>, example = json!({"Authorization": "Bearer receiver-token"}))]
    headers: Option<Pairs<String>>,
    /// The deadline of an attempt, in milliseconds: 1,000 to 30,000; the installation's default when absent or null.
    #[schema(minimum = 1_000, maximum = 30_000)]
    timeout_ms: Option<i64>,
    /// The delays between attempts, in seconds: at most 20, each from 1 second to 7 days, together within the time that events
    /// are kept. `[]` makes one attempt only. The installation's default when absent or null.
    #[schema(example = json!([5, 300, 1800]), max_items = 20)]
    retry_schedule: Option<Vec<i64>>,
    /// Whether bodies are `{"id","type","timestamp","url"}`, with a link to the event in place of its data; false when absent.
    thin: Option<bool>,
    /// The version of the layout of bodies. There is one so far: 1, which is used when absent or null.
    #[schema(minimum = 1, maximum = 1)]
    payload_version: Option<i64>,
    /// How deliveries are signed: `hmac-sha256` with the secret, which is used when absent or null, or `ed25519` with a private key
    /// that Postrider makes and keeps. Its public key is in `publicKeys`, and at `GET …/jwks.json`.
    #[schema(value_type = Option<SignatureSchemeName>)]
    signature_scheme: Option<String>,
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
        (status = 201, description = "The webhook, with its secret", body = Success<WebhookWithSecret>,
            headers(("ETag" = String, description = "Names what is shown"))),
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
    let (new, secret) = parse(request, &state, &types)?;
    state.tenants.admit(tenant).await?;
    let webhook = caller.store(&state).create_webhook(tenant, &new, Utc::now()).await?;
    let view = WebhookView::new(&webhook, &Health::default(), Activity::default());
    let tag = EntityTag::new(&webhook, &view);
    let created = WebhookWithSecret { webhook: view, secret: Some(secret.reveal()) };
    Ok(tag.put(success(StatusCode::CREATED, created)))
}

fn parse(request: CreateWebhook, state: &State, types: &Types) -> Result<(NewWebhook, Secret), ApiError> {
    let mut errors = FieldErrors::default();
    let url = errors.require("url", request.url, |url| WebhookUrl::parse(&url, &state.url_policy));
    let events = errors.require("events", request.events, |events| parse_events(&events, types));
    let secret = request.secret.map_or_else(|| Ok(Secret::generate()), |secret| secret.parse::<Secret>());
    let secret = errors.keep("secret", secret);
    let sessions = errors.keep("sessionIds", request.session_ids.as_deref().map(parse_sessions).transpose());
    let filter = parse_filter(&mut errors, request.filter.as_deref());
    let gate = GateSettings {
        rate_limit: parse_rate(&mut errors, "rateLimit", request.rate_limit),
        concurrency: parse_concurrency(&mut errors, request.concurrency),
        drain_rate: parse_rate(&mut errors, "drainRate", request.drain_rate),
        is_ordered: request.ordered.unwrap_or(false),
    };
    let headers =
        request.headers.map_or_else(|| Ok(CustomHeaders::default()), |headers| CustomHeaders::new(headers.0));
    let delivery = DeliverySettings {
        headers: Ok(errors.keep("headers", headers).unwrap_or_default()),
        timeout: parse_timeout(&mut errors, request.timeout_ms),
        retry_schedule: parse_schedule(&mut errors, request.retry_schedule.as_deref(), state.retention),
        is_thin: request.thin.unwrap_or(false),
        payload_version: parse_version(&mut errors, request.payload_version),
        signature_scheme: request
            .signature_scheme
            .map(|name| parse_scheme(&mut errors, &name))
            .unwrap_or_default(),
    };
    let description = parse_description(&mut errors, request.description.as_deref());
    let metadata =
        request.metadata.map_or_else(|| Ok(Metadata::default()), |entries| Metadata::new(entries.unique()?));
    let metadata = errors.keep("metadata", metadata).unwrap_or_default();
    let (Some(url), Some(events), Some(secret), Some(session_ids), true) =
        (url, events, secret, sessions, errors.is_empty())
    else {
        return Err(errors.into_error());
    };
    let new = NewWebhook {
        session_ids,
        filter,
        is_active: request.is_active.unwrap_or(true),
        signing_key: key_for(Some(delivery.signature_scheme)),
        gate,
        delivery,
        description,
        metadata,
        ..NewWebhook::new(url, events, SecretBytes::new(secret.expose_bytes()))
    };
    Ok((new, secret))
}
