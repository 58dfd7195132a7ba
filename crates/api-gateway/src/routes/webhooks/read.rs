use std::collections::HashMap;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use domain::{Health, Scope, Webhook, WebhookId};

use super::parse_id;
use super::view::{WebhookView, view_with_health};
use crate::auth::Authenticated;
use crate::envelope::{Failure, Success, success};
use crate::error::ApiError;
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
    let health: HashMap<WebhookId, Health> = state.store.health_of(&ids).await?.into_iter().collect();
    let healthy = Health::default();
    let view = |webhook: &Webhook| WebhookView::new(webhook, health.get(&webhook.id).unwrap_or(&healthy));
    Ok(success(StatusCode::OK, webhooks.iter().map(view).collect::<Vec<_>>()))
}

/// Get webhook
///
/// One webhook of the tenant. Scope `webhooks:read`.
#[utoipa::path(
    get,
    path = "/api/webhooks/{id}",
    tag = "Webhooks",
    security(("bearer" = [])),
    params(("id" = String, Path, format = Uuid, description = "Webhook UUID")),
    responses(
        (status = 200, description = "The webhook", body = Success<WebhookView>),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`", body = Failure),
    ),
)]
pub(crate) async fn get(
    caller: Authenticated,
    state: web::Data<State>,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksRead)?;
    let id = parse_id(&id)?;
    let webhook = state.store.webhook(tenant, id).await?.ok_or_else(ApiError::webhook_not_found)?;
    Ok(success(StatusCode::OK, view_with_health(&state, &webhook).await?))
}
