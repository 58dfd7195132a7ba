use std::collections::HashMap;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::Utc;
use domain::{Health, Scope, Webhook, WebhookId};

use super::parse_id;
use super::view::{WebhookView, view_now};
use crate::auth::Authenticated;
use crate::envelope::{Failure, Success, success};
use crate::error::ApiError;
use crate::etag::{EntityTag, IfNoneMatch};
use crate::state::State;

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
    let health: HashMap<WebhookId, Health> = state.store.health_of(tenant, &ids).await?.into_iter().collect();
    let activity = state.store.activity_of(tenant, &ids, Utc::now()).await?;
    let healthy = Health::default();
    let view = |webhook: &Webhook| {
        let activity = activity.get(&webhook.id).copied().unwrap_or_default();
        WebhookView::new(webhook, health.get(&webhook.id).unwrap_or(&healthy), activity)
    };
    Ok(success(StatusCode::OK, webhooks.iter().map(view).collect::<Vec<_>>()))
}

/// Get webhook
///
/// One webhook of the tenant. `ETag` names what is shown: give it in `If-None-Match` to hear only of news, and in `If-Match` to
/// change only what you have seen. Scope `webhooks:read`.
#[utoipa::path(
    get,
    path = "/api/webhooks/{id}",
    tag = "Webhooks",
    security(("bearer" = [])),
    params(
        ("id" = String, Path, format = Uuid, description = "Webhook UUID"),
        ("If-None-Match" = Option<String>, Header, description = "Entity tags of what you have"),
    ),
    responses(
        (status = 200, description = "The webhook", body = Success<WebhookView>,
            headers(("ETag" = String, description = "Names what is shown"))),
        (status = 304, description = "You have it already"),
        (status = 400, description = "`VALIDATION_ERROR`: the header is malformed", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`", body = Failure),
    ),
)]
pub(crate) async fn get(
    caller: Authenticated,
    state: web::Data<State>,
    id: web::Path<String>,
    if_none_match: IfNoneMatch,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksRead)?;
    let id = parse_id(&id)?;
    let webhook = state.store.webhook(tenant, id).await?.ok_or_else(ApiError::webhook_not_found)?;
    let view = view_now(&state, &webhook).await?;
    let tag = EntityTag::new(&webhook, &view);
    let not_modified = if_none_match.not_modified(&tag);
    Ok(not_modified.unwrap_or_else(|| tag.put(success(StatusCode::OK, view))))
}
