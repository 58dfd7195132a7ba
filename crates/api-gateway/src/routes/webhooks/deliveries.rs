use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::Utc;
use domain::{Invalid, Scope};
use serde::{Deserialize, Serialize};
use store::{Cancellation, Unfinished};
use utoipa::{IntoParams, ToSchema};

use super::parse_id;
use crate::auth::Authenticated;
use crate::body::{FieldErrors, Query};
use crate::cursor;
use crate::envelope::{Failure, Page, Success, page, success};
use crate::error::{ApiError, Code};
use crate::routes::event_deliveries::DeliveryView;
use crate::routes::paging::parse_limit;
use crate::state::State;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct UnfinishedQuery {
    /// Most entries to return, 1 to 100; 50 when absent.
    #[param(value_type = Option<usize>, minimum = 1, maximum = 100, example = 50)]
    limit: Option<String>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// `pending` for all that are not finished, as when absent; or only those that are `scheduled`, `waiting` (or paused), or
    /// `under_way`.
    #[param(example = "pending")]
    status: Option<String>,
}

/// List unfinished deliveries
///
/// What is not finished of a webhook's deliveries: to be tried again, waiting, or under way. Those of events that a dispatcher is
/// at for the first time are not among them yet. In the order of the events' ids. A page looks at no more than 10,000, so one
/// whose `status` matches few may not be full while a `nextCursor` says that others follow. Scope `webhooks:read`.
#[utoipa::path(
    get,
    path = "/api/webhooks/{id}/deliveries",
    tag = "Webhooks",
    security(("bearer" = [])),
    params(("id" = String, Path, format = Uuid, description = "Webhook UUID"), UnfinishedQuery),
    responses(
        (status = 200, description = "The deliveries", body = Page<DeliveryView>),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`", body = Failure),
    ),
)]
pub(crate) async fn list(
    caller: Authenticated,
    state: web::Data<State>,
    id: web::Path<String>,
    Query(query): Query<UnfinishedQuery>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksRead)?;
    let id = parse_id(&id)?;
    state.store.webhook(tenant, id).await?.ok_or_else(ApiError::webhook_not_found)?;
    let mut errors = FieldErrors::default();
    let limit = errors.keep("limit", parse_limit(query.limit.as_deref()));
    let after = errors.keep("cursor", query.cursor.as_deref().map(cursor::decode).transpose());
    let wanted = errors.keep("status", parse_status(query.status.as_deref()));
    let (Some(limit), Some(after), Some(wanted)) = (limit, after, wanted) else {
        return Err(errors.into_error());
    };
    let (found, next) =
        state.store.unfinished_deliveries(tenant, id, wanted, limit, after.as_ref(), Utc::now()).await?;
    Ok(page(found.into_iter().map(DeliveryView::from).collect(), next.as_ref().map(cursor::encode)))
}

fn parse_status(text: Option<&str>) -> Result<Unfinished, Invalid> {
    match text {
        None | Some("pending") => Ok(Unfinished::Any),
        Some("scheduled") => Ok(Unfinished::Scheduled),
        Some("waiting") => Ok(Unfinished::Waiting),
        Some("under_way") => Ok(Unfinished::UnderWay),
        Some(_) => Err(Invalid::new("status must be pending, scheduled, waiting or under_way")),
    }
}

/// A delivery that was cancelled.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CancelledDelivery {
    #[schema(format = Uuid)]
    webhook_id: String,
    event_id: String,
    /// Always `cancelled`.
    #[schema(example = "cancelled")]
    state: &'static str,
}

/// Cancel delivery
///
/// Ends a delivery that is not finished: nothing more is attempted. The history shows it as `cancelled`, with the trigger
/// `cancel`. It can be sent again later. Scope `webhooks:write`.
#[utoipa::path(
    post,
    path = "/api/webhooks/{id}/deliveries/{eventId}/cancel",
    tag = "Webhooks",
    security(("bearer" = [])),
    params(
        ("id" = String, Path, format = Uuid, description = "Webhook UUID"),
        ("eventId" = String, Path, description = "The event: the `webhook-id` the receiver sees"),
    ),
    responses(
        (status = 200, description = "It is cancelled", body = Success<CancelledDelivery>),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`, or `SUBSCRIPTION_INACTIVE`", body = Failure),
        (status = 404, description = "`NOT_FOUND`: no such webhook, or no unfinished delivery of this event to it",
            body = Failure),
        (status = 409, description = "`CONFLICT`: a dispatcher is at it at this moment", body = Failure),
    ),
)]
pub(crate) async fn cancel(
    caller: Authenticated,
    state: web::Data<State>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksWrite)?;
    let (id, event_id) = path.into_inner();
    let id = parse_id(&id)?;
    state.store.webhook(tenant, id).await?.ok_or_else(ApiError::webhook_not_found)?;
    let none = || ApiError::new(Code::NotFound, "No unfinished delivery of this event to the webhook");
    let event_id = event_id.parse().map_err(|_| none())?;
    match caller.store(&state).cancel_delivery(tenant, id, &event_id, Utc::now()).await? {
        Cancellation::Cancelled => {
            let (webhook_id, event_id) = (id.to_string(), event_id.to_string());
            Ok(success(StatusCode::OK, CancelledDelivery { webhook_id, event_id, state: "cancelled" }))
        }
        Cancellation::UnderWay => {
            Err(ApiError::new(Code::Conflict, "The delivery is under way; try again shortly"))
        }
        Cancellation::NotFound => Err(none()),
    }
}
