use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::Utc;
use domain::Scope;
use serde::Serialize;
use utoipa::ToSchema;

use super::parse_id;
use crate::auth::Authenticated;
use crate::envelope::{Failure, Success, success};
use crate::error::ApiError;
use crate::etag::IfMatch;
use crate::state::State;

/// What was deleted.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeletedWebhook {
    #[schema(format = Uuid)]
    id: String,
    /// Always true.
    deleted: bool,
}

/// Delete webhook
///
/// Deletes the webhook and cancels what waits to be delivered to it: of a large backlog the rest in the background, some
/// 15,000 deliveries a second. With `If-Match`, only if nobody has changed it since. Scope `webhooks:write`.
#[utoipa::path(
    delete,
    path = "/api/webhooks/{id}",
    tag = "Webhooks",
    security(("bearer" = [])),
    params(
        ("id" = String, Path, format = Uuid, description = "Webhook UUID"),
        ("If-Match" = Option<String>, Header, description = "Entity tags of what you have seen"),
    ),
    responses(
        (status = 200, description = "The webhook is deleted", body = Success<DeletedWebhook>),
        (status = 400, description = "`VALIDATION_ERROR`: the header is malformed", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`", body = Failure),
        (status = 412, description = "`PRECONDITION_FAILED`: it has changed meanwhile", body = Failure),
    ),
)]
pub(crate) async fn delete(
    caller: Authenticated,
    state: web::Data<State>,
    id: web::Path<String>,
    IfMatch(expected): IfMatch,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksWrite)?;
    let id = parse_id(&id)?;
    if !caller.store(&state).delete_webhook(tenant, id, &expected, Utc::now()).await? {
        return Err(ApiError::webhook_not_found());
    }
    Ok(success(StatusCode::OK, DeletedWebhook { id: id.to_string(), deleted: true }))
}
