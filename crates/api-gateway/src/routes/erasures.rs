use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::Utc;
use domain::{Scope, Tag};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auth::Authenticated;
use crate::body::{FieldErrors, JsonBody};
use crate::envelope::{Failure, Success, success};
use crate::error::ApiError;
use crate::state::State;

/// Bytes of the digest that stands for a tag in the audit log.
const DIGEST_BYTES: usize = 16;

/// Which events to erase.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"tag": "customer-77"}))]
pub(crate) struct EraseEvents {
    /// The tag of the events.
    #[schema(required = true, value_type = String)]
    tag: Option<String>,
}

/// What was erased.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Erasure)]
pub(crate) struct ErasureView {
    /// Events whose data is gone.
    events: u64,
    /// Unfinished deliveries of theirs, which are cancelled.
    cancelled_deliveries: u64,
    /// What the audit log calls the tag: the first half of its SHA-256, as the tag itself may name somebody.
    #[schema(example = "5e884898da28047151d0e56f8dc62927")]
    tag_digest: String,
}

/// Erase events
///
/// Erases for good the data, session, ordering key and tags of the tenant's events that have a tag, with what receivers have
/// answered to them, and cancels what is left of their deliveries. The events' ids, types, times and history stay. Requests that are under way end; what receivers have got
/// is theirs to erase. Events that no dispatcher has taken over yet are not found, so ask again once they are, which is within
/// seconds as a rule. It is written down in the audit log. Scope `events:erase`.
#[utoipa::path(
    post,
    path = "/api/events/erasures",
    tag = "Events",
    security(("bearer" = [])),
    request_body = EraseEvents,
    responses(
        (status = 200, description = "They are erased", body = Success<ErasureView>),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 503, description = "`SERVICE_UNAVAILABLE`: ask again; what was erased is", body = Failure),
    ),
)]
pub(crate) async fn erase(
    caller: Authenticated,
    state: web::Data<State>,
    JsonBody(request): JsonBody<EraseEvents>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::EventsErase)?;
    let mut errors = FieldErrors::default();
    let tag = errors.require("tag", request.tag, |tag| tag.parse::<Tag>());
    let Some(tag) = tag else { return Err(errors.into_error()) };
    let digest = digest(&SHA256, tag.as_str().as_bytes());
    let tag_digest: String =
        digest.as_ref()[..DIGEST_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
    let erased = caller.store(&state).erase_by_tag(tenant, &tag, &tag_digest, Utc::now()).await?;
    let (events, cancelled_deliveries) = (erased.events, erased.deliveries);
    Ok(success(StatusCode::OK, ErasureView { events, cancelled_deliveries, tag_digest }))
}
