use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use bytes::Bytes;
use chrono::Utc;
use domain::{Event, EventId, EventType, OrderingKey, SessionId, TenantId, check_data, parse_occurred_at};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use store::EventTypeRow;
use utoipa::ToSchema;

use crate::auth::Publisher;
use crate::body::{FieldErrors, JsonBody, present};
use crate::envelope::{Failure, Success, success};
use crate::error::ApiError;
use crate::state::State;

/// An event to publish.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(example = json!({"type": "message.received", "data": {"from": "+15550100", "text": "hi"}}))]
pub(crate) struct PublishEvent {
    /// One of the event types.
    #[serde(rename = "type")]
    #[schema(required = true, value_type = String)]
    event_type: Option<String>,
    /// Any JSON, delivered byte for byte as given: at most 256 KiB, nested at most 64 deep.
    #[serde(default, deserialize_with = "present")]
    #[schema(required = true, value_type = serde_json::Value)]
    data: Option<Box<RawValue>>,
    /// Unique within the tenant: a repeat is delivered once. At most 128 bytes, no dot. Made up when absent.
    #[schema(example = "order-1042-paid")]
    id: Option<String>,
    /// When it happened; now when absent.
    #[schema(value_type = Option<String>, format = DateTime)]
    occurred_at: Option<String>,
    /// The session it came from, for webhooks that want certain sessions only.
    session_id: Option<String>,
    /// Events that share it reach webhooks with `ordered` one after another, in the order of their 202s. At most 128 bytes;
    /// the session when absent.
    ordering_key: Option<String>,
}

/// An accepted event.
#[derive(Serialize, ToSchema)]
pub(crate) struct AcceptedEvent {
    /// Names the event: receivers see it as `webhook-id`.
    #[schema(example = "evt_0190c0ffee7a7b1c8d2e4f5061728394")]
    id: String,
}

/// Publish event
///
/// 202 means that the broker has the event on disk, and that it will be delivered to every webhook that wants it. After
/// any other answer, publish again with the same id: a repeat is delivered once. Scope `events:publish`.
#[utoipa::path(
    post,
    path = "/api/events",
    tag = "Events",
    security(("bearer" = [])),
    request_body = PublishEvent,
    responses(
        (status = 202, description = "The event is accepted", body = Success<AcceptedEvent>),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`, `SUBSCRIPTION_INACTIVE`, or `LIMIT_EXCEEDED` when the plan allows no \
            more events today", body = Failure),
        (status = 413, description = "`PAYLOAD_TOO_LARGE`", body = Failure),
        (status = 429, description = "`RATE_LIMITED`: the plan allows no more events this minute, see `Retry-After`",
            body = Failure),
        (status = 503, description = "`SERVICE_UNAVAILABLE`: not confirmed in time, see `Retry-After`", body = Failure),
    ),
)]
pub(crate) async fn publish(
    caller: Publisher,
    state: web::Data<State>,
    JsonBody(request): JsonBody<PublishEvent>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may_publish()?;
    let (event, data) = parse_event(request, tenant, state.catalogue.known().await.as_deref())?;
    state.tenants.admit_events(tenant, 1).await?;
    if let Err(error) = state.intakes.publish(&event, &data).await {
        state.tenants.take_back_events(tenant, 1);
        return Err(error.into());
    }
    Ok(success(StatusCode::ACCEPTED, AcceptedEvent { id: event.id.to_string() }))
}

/// Reads an event. `types` is what is known of event types, if anything is.
pub(super) fn parse_event(
    request: PublishEvent,
    tenant_id: TenantId,
    types: Option<&[EventTypeRow]>,
) -> Result<(Event, Box<RawValue>), ApiError> {
    let mut errors = FieldErrors::default();
    let event_type = errors.require("type", request.event_type, |text| text.parse::<EventType>());
    if let Some(event_type) = &event_type
        && event_type.is_reserved()
    {
        errors.add("type", format!("{event_type} is reserved: Postrider itself publishes it"));
    } else if let Some(event_type) = &event_type
        && types.is_some_and(|types| types.iter().all(|known| known.name != event_type.as_str()))
    {
        errors.add("type", format!("{event_type} is not an event type; see GET /api/webhooks/events"));
    }
    let data = errors.require("data", request.data, |data| check_data(&data).map(|()| data));
    let id = errors.keep("id", request.id.map_or_else(|| Ok(EventId::generate()), |id| id.parse()));
    let occurred_at = errors
        .keep("occurredAt", request.occurred_at.as_deref().map_or_else(|| Ok(Utc::now()), parse_occurred_at));
    let session = request.session_id.map(|session| session.parse::<SessionId>()).transpose();
    let session_id = errors.keep("sessionId", session);
    let key = request.ordering_key.map(|key| key.parse::<OrderingKey>()).transpose();
    let ordering_key = errors.keep("orderingKey", key);
    match (event_type, data, id, occurred_at, session_id, ordering_key) {
        (Some(event_type), Some(data), Some(id), Some(occurred_at), Some(session_id), Some(ordering_key))
            if errors.is_empty() =>
        {
            // The dispatcher renders the body.
            let body = Bytes::new();
            Ok((Event { tenant_id, id, event_type, occurred_at, session_id, ordering_key, body }, data))
        }
        _ => Err(errors.into_error()),
    }
}
