use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};

use crate::envelope::{Failure, Success, success};
use crate::error::ApiError;
use crate::state::State;

/// List event types
///
/// Public list of webhook event types you can subscribe to.
#[utoipa::path(
    get,
    path = "/api/webhooks/events",
    tag = "Webhooks",
    responses(
        (status = 200, description = "The event types", body = Success<Vec<String>>,
            example = json!({"success": true, "data": ["message.received", "message.sent", "session.connected",
                "session.disconnected", "campaign.completed"]})),
        (status = 503, description = "`SERVICE_UNAVAILABLE`", body = Failure),
    ),
)]
pub(crate) async fn list(state: web::Data<State>) -> Result<HttpResponse, ApiError> {
    let types = state.catalogue.event_types().await?;
    let names: Vec<&str> = types.iter().map(|event_type| event_type.name.as_str()).collect();
    Ok(success(StatusCode::OK, names))
}
