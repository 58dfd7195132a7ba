use actix_web::{HttpResponse, web};
use chrono::TimeDelta;
use domain::Scope;
use serde::{Deserialize, Serialize};
use store::Attempt;
use utoipa::{IntoParams, ToSchema};

use crate::auth::Authenticated;
use crate::body::Query;
use crate::cursor;
use crate::envelope::{Failure, Page, page};
use crate::error::ApiError;
use crate::routes::webhooks::{parse_id, timestamp};
use crate::state::State;

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 100;

/// A delivery attempt.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HistoryEntry {
    /// The type of the event.
    #[schema(example = "message.received")]
    event: String,
    /// The receiver's status; null when no complete answer came.
    #[schema(example = 200)]
    status_code: Option<i16>,
    /// When the attempt ended.
    #[schema(format = DateTime, example = "2026-05-30T10:00:00.000Z")]
    delivered_at: String,
    /// The event: the `webhook-id` the receiver saw.
    event_id: String,
    /// 1 is the first attempt.
    attempt: i32,
    /// How long it took, in milliseconds.
    duration_ms: i32,
    /// What became of the delivery with it.
    outcome: AttemptOutcome,
    /// Why it failed: `status`, `gone`, `timeout`, `dns`, `address_refused`, `connect`, `tls`, `protocol` or
    /// `cancelled`. Null when it did not.
    error: Option<String>,
    /// When it is tried again; null when it is not.
    #[schema(format = DateTime)]
    next_attempt_at: Option<String>,
}

/// What became of a delivery with an attempt.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AttemptOutcome {
    /// The receiver answered 2xx.
    Delivered,
    /// It failed and is tried again.
    Retrying,
    /// It failed for good.
    Failed,
    /// It ended without a request: the webhook was deleted or switched off.
    Cancelled,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct HistoryQuery {
    /// Most entries to return, 1 to 100; 50 when absent.
    #[param(value_type = Option<usize>, minimum = 1, maximum = 100, example = 50)]
    limit: Option<String>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// Delivery history
///
/// View delivery attempts and HTTP response codes, newest first. Scope `webhooks:read`.
#[utoipa::path(
    get,
    path = "/api/webhooks/{id}/history",
    tag = "Webhooks",
    security(("bearer" = [])),
    params(("id" = String, Path, format = Uuid, description = "Webhook UUID"), HistoryQuery),
    responses(
        (status = 200, description = "The attempts", body = Page<HistoryEntry>),
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
    Query(query): Query<HistoryQuery>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksRead)?;
    let id = parse_id(&id)?;
    let limit = parse_limit(query.limit.as_deref())?;
    let after = query
        .cursor
        .as_deref()
        .map(cursor::decode)
        .transpose()
        .map_err(|problem| ApiError::field("cursor", problem.to_string()))?;
    if state.store.webhook(tenant, id).await?.is_none() {
        return Err(ApiError::webhook_not_found());
    }
    // One more than asked for tells whether anything follows.
    let mut attempts = state.store.attempts(tenant, id, limit + 1, after.as_ref()).await?;
    let has_more = attempts.len() > limit;
    attempts.truncate(limit);
    let next_cursor = attempts.last().filter(|_| has_more).map(cursor::encode);
    Ok(page(attempts.into_iter().map(HistoryEntry::from).collect(), next_cursor))
}

fn parse_limit(text: Option<&str>) -> Result<usize, ApiError> {
    let Some(text) = text else { return Ok(DEFAULT_LIMIT) };
    match text.parse() {
        Ok(limit @ 1..=MAX_LIMIT) => Ok(limit),
        _ => Err(ApiError::field("limit", format!("limit must be a whole number from 1 to {MAX_LIMIT}"))),
    }
}

impl From<Attempt> for HistoryEntry {
    fn from(attempt: Attempt) -> Self {
        let ended_at = attempt.started_at + TimeDelta::milliseconds(attempt.duration_ms.into());
        let outcome = match (attempt.error.as_deref(), attempt.next_attempt_at) {
            (None, _) => AttemptOutcome::Delivered,
            (Some("cancelled"), _) => AttemptOutcome::Cancelled,
            (Some(_), Some(_)) => AttemptOutcome::Retrying,
            (Some(_), None) => AttemptOutcome::Failed,
        };
        Self {
            event: attempt.event_type,
            status_code: attempt.status_code,
            delivered_at: timestamp(ended_at),
            event_id: attempt.event_id.to_string(),
            attempt: attempt.attempt,
            duration_ms: attempt.duration_ms,
            outcome,
            error: attempt.error,
            next_attempt_at: attempt.next_attempt_at.map(timestamp),
        }
    }
}
