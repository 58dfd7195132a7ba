use actix_web::{HttpResponse, web};
use chrono::Utc;
use domain::Scope;
use serde::Deserialize;
use utoipa::ToSchema;

use super::parse_id;
use super::settings::parse_rate;
use super::view::{WebhookView, tagged};
use crate::auth::Authenticated;
use crate::body::{FieldErrors, OptionalJsonBody};
use crate::envelope::{Failure, Success};
use crate::error::ApiError;
use crate::state::State;

/// How to go on after a pause.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(example = json!({"drainRate": 50}))]
pub(crate) struct ResumeWebhook {
    /// Deliveries a second of what has waited: 1 to 10,000. Becomes the webhook's drain rate; as set before when absent.
    #[schema(minimum = 1, maximum = 10_000)]
    drain_rate: Option<i64>,
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
    let paused = caller.store(&state).pause_webhook(tenant, parse_id(&id)?, Utc::now()).await?;
    let webhook = paused.ok_or_else(ApiError::webhook_not_found)?;
    tagged(&state, &webhook).await
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
    let resumed = caller.store(&state).resume_webhook(tenant, parse_id(&id)?, drain_rate, Utc::now()).await?;
    let webhook = resumed.ok_or_else(ApiError::webhook_not_found)?;
    tagged(&state, &webhook).await
}
