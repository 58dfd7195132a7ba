use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Deserialize;

use crate::body::Query;
use crate::catalogue::{Catalogue, Include};
use crate::envelope::{Failure, Success, success};
use crate::error::ApiError;
use crate::state::State;

/// What to list. Other parameters are ignored: the list was always public and without any.
#[derive(Deserialize)]
pub(crate) struct ListEventTypes {
    include: Option<String>,
}

/// List event types
///
/// Public list of webhook event types you can subscribe to. Postrider itself publishes a few more, about webhooks and their
/// deliveries: `include=domain` lists these too. They have to be asked for by name, `webhook.*` or `delivery.*`: `*` is not
/// about webhooks themselves.
#[utoipa::path(
    get,
    path = "/api/webhooks/events",
    tag = "Webhooks",
    params(
        ("include" = Option<String>, Query, description = "`domain`: also `webhook.created`, `delivery.exhausted` and the like",
            example = "domain"),
    ),
    responses(
        (status = 200, description = "The event types", body = Success<Vec<String>>,
            example = json!({"success": true, "data": ["message.received", "message.sent", "session.connected",
                "session.disconnected", "campaign.completed"]})),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 503, description = "`SERVICE_UNAVAILABLE`", body = Failure),
    ),
)]
pub(crate) async fn list(
    state: web::Data<State>,
    Query(query): Query<ListEventTypes>,
) -> Result<HttpResponse, ApiError> {
    let include = match query.include.as_deref() {
        None => Include::Ordinary,
        Some("domain") => Include::Domain,
        Some(_) => return Err(ApiError::field("include", "include must be domain, or absent")),
    };
    let types = state.catalogue.event_types().await?;
    Ok(success(StatusCode::OK, Catalogue::names(&types, include)))
}
