use actix_web::{HttpResponse, web};
use chrono::Utc;
use domain::{EventData, EventId, Scope, TenantId, WebhookId};
use serde::{Deserialize, Serialize};
use store::{DeliveryState, DeliveryStatus, StoredEvent};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Authenticated;
use crate::body::{FieldErrors, Query};
use crate::cursor;
use crate::envelope::{Failure, Page, page};
use crate::error::{ApiError, Code};
use crate::routes::paging::parse_limit;
use crate::routes::webhooks::timestamp;
use crate::state::State;

/// One event for one webhook, as it stands.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Delivery)]
pub(crate) struct DeliveryView {
    #[schema(format = Uuid)]
    webhook_id: String,
    /// The `webhook-id` that the receiver sees.
    event_id: String,
    /// The type of the event.
    #[schema(example = "message.received")]
    event: String,
    /// `delivered`; `failed` for good; `cancelled`; `scheduled`: attempted at `nextAttemptAt`; `waiting` for its webhook's rate,
    /// its order or its receiver to recover; `paused` with its webhook; `under_way`: a dispatcher is at it; or `none`: the webhook
    /// did not want the event, or came later.
    #[schema(example = "scheduled")]
    state: &'static str,
    /// Attempts made so far; of a delivery that was asked for again, since then.
    attempts: i32,
    /// The receiver's status at the last attempt; null when no answer came.
    #[schema(example = 503)]
    last_status_code: Option<i16>,
    /// Why the last attempt failed, as in the history; null when it did not.
    #[schema(example = "status")]
    last_error: Option<String>,
    #[schema(format = DateTime)]
    last_attempt_at: Option<String>,
    /// When it is attempted, or as soon after as there is room; null where no time is set.
    #[schema(format = DateTime)]
    next_attempt_at: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct DeliveriesQuery {
    /// Most entries to return, 1 to 100; 50 when absent.
    #[param(value_type = Option<usize>, minimum = 1, maximum = 100, example = 50)]
    limit: Option<String>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// List deliveries of event
///
/// What has become of an event at each of the tenant's webhooks, in the order of the webhooks' creation. A webhook that was
/// deleted is among them where its delivery did not succeed at once. Scope `webhooks:read`.
#[utoipa::path(
    get,
    path = "/api/events/{id}/deliveries",
    tag = "Events",
    security(("bearer" = [])),
    params(
        ("id" = String, Path, description = "The event's id: the `webhook-id` that receivers see"),
        DeliveriesQuery
    ),
    responses(
        (status = 200, description = "The deliveries", body = Page<DeliveryView>),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`: no such event (any more), or not taken over yet", body = Failure),
    ),
)]
pub(crate) async fn list(
    caller: Authenticated,
    state: web::Data<State>,
    id: web::Path<String>,
    Query(query): Query<DeliveriesQuery>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksRead)?;
    let not_found = || ApiError::new(Code::NotFound, "Event not found");
    let id: EventId = id.parse().map_err(|_| not_found())?;
    let event = state.store.event(tenant, &id).await?.ok_or_else(not_found)?;
    let mut errors = FieldErrors::default();
    let limit = errors.keep("limit", parse_limit(query.limit.as_deref()));
    let after = errors.keep("cursor", query.cursor.as_deref().map(cursor::decode_id).transpose());
    let (Some(limit), Some(after)) = (limit, after) else {
        return Err(errors.into_error());
    };
    let after = after.map(WebhookId);
    // One more than asked for tells whether anything follows.
    let mut found = state.store.event_deliveries(tenant, &id, after, limit + 1, Utc::now()).await?;
    let has_more = found.len() > limit;
    found.truncate(limit);
    settle_handed_over(&state, tenant, &event, &mut found).await?;
    let next = found.last().filter(|_| has_more).map(|last| cursor::encode_id(last.webhook_id.0));
    Ok(page(found.into_iter().map(DeliveryView::from).collect(), next))
}

/// While a dispatcher is at the event, its deliveries are known by what the webhooks want.
async fn settle_handed_over(
    state: &State,
    tenant: TenantId,
    event: &StoredEvent,
    found: &mut [DeliveryStatus],
) -> Result<(), ApiError> {
    if found.iter().all(|status| status.state != DeliveryState::HandedOver) {
        return Ok(());
    }
    let data = EventData::of_body(&event.event.body);
    let webhooks = state.store.webhooks(tenant).await?;
    for status in found.iter_mut().filter(|status| status.state == DeliveryState::HandedOver) {
        let webhook = webhooks.iter().find(|webhook| webhook.id == status.webhook_id);
        let is_wanted = webhook.is_some_and(|webhook| webhook.matches(&event.event, &data));
        status.state = if is_wanted { DeliveryState::UnderWay } else { DeliveryState::None };
    }
    Ok(())
}

impl From<DeliveryStatus> for DeliveryView {
    fn from(status: DeliveryStatus) -> Self {
        let (state, next_attempt_at) = match status.state {
            DeliveryState::None => ("none", None),
            DeliveryState::Scheduled(at) => ("scheduled", Some(timestamp(at))),
            DeliveryState::Paused => ("paused", None),
            DeliveryState::Waiting => ("waiting", None),
            DeliveryState::UnderWay | DeliveryState::HandedOver => ("under_way", None),
            DeliveryState::Ended(outcome) => (outcome.code(), None),
        };
        let last = status.last_attempt;
        Self {
            webhook_id: status.webhook_id.to_string(),
            event_id: status.event_id.to_string(),
            event: status.event_type,
            state,
            attempts: status.attempts,
            last_status_code: last.as_ref().and_then(|last| last.status_code),
            last_attempt_at: last.as_ref().map(|last| timestamp(last.started_at)),
            last_error: last.and_then(|last| last.error),
            next_attempt_at,
        }
    }
}
