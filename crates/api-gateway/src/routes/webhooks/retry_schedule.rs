use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::Utc;
use domain::{PlannedAttempt, Scope};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::settings::parse_schedule;
use super::timestamp;
use crate::auth::Authenticated;
use crate::body::{FieldErrors, OptionalJsonBody};
use crate::envelope::{Failure, Success, success};
use crate::error::ApiError;
use crate::state::State;

/// A retry schedule to look at.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(example = json!({"retrySchedule": [5, 300, 1800]}))]
pub(crate) struct PreviewSchedule {
    /// The delays between attempts, in seconds, as a webhook takes them; the installation's default when absent or null.
    #[schema(max_items = 20)]
    retry_schedule: Option<Vec<i64>>,
}

/// What a retry schedule comes to.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SchedulePreview {
    /// The delays between attempts, in seconds.
    #[schema(example = json!([5, 300, 1800]))]
    retry_schedule: Vec<u64>,
    /// Every attempt at a delivery that begins now and fails each time at once. A receiver that answers with `Retry-After`
    /// can move them later.
    attempts: Vec<AttemptPreview>,
}

/// When an attempt would be made.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PlannedAttempt)]
pub(crate) struct AttemptPreview {
    /// 1 is the first attempt.
    attempt: usize,
    /// Seconds since the first.
    after_seconds: i64,
    #[schema(format = DateTime)]
    at: String,
    /// The earliest that the jitter can make it.
    #[schema(format = DateTime)]
    earliest: String,
    /// The latest.
    #[schema(format = DateTime)]
    latest: String,
}

/// Preview retry schedule
///
/// Shows when the attempts of a delivery would be made, before a webhook is given a schedule. Nothing is changed. Scope
/// `webhooks:read`.
#[utoipa::path(
    post,
    path = "/api/webhooks/retry-schedule/preview",
    tag = "Webhooks",
    security(("bearer" = [])),
    request_body(content = Option<PreviewSchedule>, description = "May be absent"),
    responses(
        (status = 200, description = "The attempts", body = Success<SchedulePreview>),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
    ),
)]
pub(crate) async fn preview(
    caller: Authenticated,
    state: web::Data<State>,
    OptionalJsonBody(request): OptionalJsonBody<PreviewSchedule>,
) -> Result<HttpResponse, ApiError> {
    caller.may(Scope::WebhooksRead)?;
    let mut errors = FieldErrors::default();
    let delays = request.unwrap_or_default().retry_schedule;
    let schedule = parse_schedule(&mut errors, delays.as_deref(), state.retention);
    if !errors.is_empty() {
        return Err(errors.into_error());
    }
    let schedule = schedule.as_ref().unwrap_or(&state.retry_schedule);
    let first = Utc::now();
    let attempt = |(attempt, planned): (usize, PlannedAttempt)| AttemptPreview {
        attempt,
        after_seconds: (planned.at - first).num_seconds(),
        at: timestamp(planned.at),
        earliest: timestamp(planned.earliest),
        latest: timestamp(planned.latest),
    };
    let preview = SchedulePreview {
        retry_schedule: schedule.delays().iter().map(std::time::Duration::as_secs).collect(),
        attempts: (1..).zip(schedule.plan(first)).map(attempt).collect(),
    };
    Ok(success(StatusCode::OK, preview))
}
