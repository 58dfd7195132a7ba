use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use domain::{EventId, Scope};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use store::{StoreError, StoredEvent};
use utoipa::ToSchema;

use crate::auth::Authenticated;
use crate::envelope::{Failure, Success, success};
use crate::error::{ApiError, Code};
use crate::routes::webhooks::timestamp;
use crate::state::State;

/// An event as it was accepted.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Event)]
pub(crate) struct EventView {
    /// The `webhook-id` that receivers see.
    id: String,
    #[serde(rename = "type")]
    #[schema(example = "message.received")]
    event_type: String,
    /// When it happened: the `timestamp` that receivers see.
    #[schema(format = DateTime)]
    occurred_at: String,
    /// When it was taken over for delivery.
    #[schema(format = DateTime)]
    accepted_at: String,
    session_id: Option<String>,
    /// What its deliveries to webhooks with `ordered` are kept in order by; null where that is the session.
    ordering_key: Option<String>,
    /// When it is, or was, to be delivered; null: at once.
    #[schema(format = DateTime)]
    deliver_at: Option<String>,
    tags: Vec<String>,
    /// When its data, session, ordering key and tags were erased; null: they are there.
    #[schema(format = DateTime)]
    erased_at: Option<String>,
    /// As published, byte for byte; null where it was erased.
    #[schema(value_type = serde_json::Value)]
    data: Box<RawValue>,
}

/// Get event
///
/// One event of the tenant, for as long as events are kept. Scope `webhooks:read`.
#[utoipa::path(
    get,
    path = "/api/events/{id}",
    tag = "Events",
    security(("bearer" = [])),
    params(("id" = String, Path, description = "The event's id: the `webhook-id` that receivers see")),
    responses(
        (status = 200, description = "The event", body = Success<EventView>),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`: no such event (any more), or not taken over yet", body = Failure),
    ),
)]
pub(crate) async fn get(
    caller: Authenticated,
    state: web::Data<State>,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksRead)?;
    let not_found = || ApiError::new(Code::NotFound, "Event not found");
    let id: EventId = id.parse().map_err(|_| not_found())?;
    let stored = state.store.event(tenant, &id).await?.ok_or_else(not_found)?;
    Ok(success(StatusCode::OK, view(stored)?))
}

pub(super) fn view(stored: StoredEvent) -> Result<EventView, ApiError> {
    #[derive(Deserialize)]
    struct Body {
        data: Box<RawValue>,
    }
    let event = stored.event;
    let body: Body = serde_json::from_slice(&event.body).map_err(|error| {
        StoreError::Failed(format!("the body of an event is not as it was written: {error}"))
    })?;
    Ok(EventView {
        id: event.id.to_string(),
        event_type: event.event_type.to_string(),
        occurred_at: timestamp(event.occurred_at),
        accepted_at: timestamp(stored.accepted_at),
        session_id: event.session_id.map(|id| id.to_string()),
        ordering_key: event.ordering_key.map(|key| key.as_str().to_owned()),
        deliver_at: event.deliver_at.map(timestamp),
        tags: event.tags.iter().map(|tag| tag.as_str().to_owned()).collect(),
        erased_at: stored.erased_at.map(timestamp),
        data: body.data,
    })
}
