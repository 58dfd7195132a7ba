use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::Utc;
use domain::Scope;
use serde::Serialize;
use store::Resend;
use utoipa::ToSchema;

use super::parse_id;
use crate::auth::Authenticated;
use crate::envelope::{Failure, Success, success};
use crate::error::{ApiError, Code};
use crate::state::State;

/// A delivery that is made again.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ResentDelivery {
    #[schema(format = Uuid)]
    webhook_id: String,
    /// The receiver sees the same `webhook-id` as before.
    event_id: String,
    /// Always `scheduled`.
    #[schema(example = "scheduled")]
    state: &'static str,
}

/// Resend delivery
///
/// Delivers one event to a webhook again, whether it was delivered, has failed for good or was never attempted, with all of
/// the webhook's retries. The history shows the attempt with the trigger `resend`. Scope `webhooks:write`.
#[utoipa::path(
    post,
    path = "/api/webhooks/{id}/deliveries/{eventId}/resend",
    tag = "Webhooks",
    security(("bearer" = [])),
    params(
        ("id" = String, Path, format = Uuid, description = "Webhook UUID"),
        ("eventId" = String, Path, description = "The event: the `webhook-id` the receiver saw"),
    ),
    responses(
        (status = 202, description = "The delivery is scheduled", body = Success<ResentDelivery>),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`, or `SUBSCRIPTION_INACTIVE`", body = Failure),
        (status = 404, description = "`NOT_FOUND`: no such webhook, or no such event (any more)", body = Failure),
        (status = 409, description = "`CONFLICT`: the delivery is not finished, or the webhook is switched off",
            body = Failure),
    ),
)]
pub(crate) async fn resend(
    caller: Authenticated,
    state: web::Data<State>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksWrite)?;
    let (id, event_id) = path.into_inner();
    let webhook =
        state.store.webhook(tenant, parse_id(&id)?).await?.ok_or_else(ApiError::webhook_not_found)?;
    let no_event = || ApiError::new(Code::NotFound, "Event not found");
    let event_id = event_id.parse().map_err(|_| no_event())?;
    if !webhook.is_active {
        return Err(ApiError::new(Code::Conflict, "The webhook is switched off; set isActive first"));
    }
    match caller.store(&state).resend(tenant, webhook.id, &event_id, Utc::now()).await? {
        Resend::Scheduled => {
            let (webhook_id, event_id) = (webhook.id.to_string(), event_id.to_string());
            Ok(success(StatusCode::ACCEPTED, ResentDelivery { webhook_id, event_id, state: "scheduled" }))
        }
        Resend::Unfinished => {
            Err(ApiError::new(Code::Conflict, "The delivery is not finished yet; see the webhook's history"))
        }
        Resend::Erased => Err(ApiError::new(Code::Conflict, "The data of the event was erased")),
        Resend::UnknownEvent => Err(no_event()),
    }
}
