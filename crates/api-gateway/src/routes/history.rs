use actix_web::{HttpResponse, web};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{Invalid, Scope, parse_occurred_at};
use serde::{Deserialize, Serialize};
use store::{Attempt, AttemptFilter};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Authenticated;
use crate::body::{FieldErrors, Query};
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
    /// What made it: `first`, `retry`, or `resend` for the first attempt of a delivery that was asked for again.
    #[schema(example = "first")]
    trigger: String,
    /// How long it took, in milliseconds.
    duration_ms: i32,
    /// What became of the delivery with it: `delivered`; `retrying`: it failed and is tried again; `failed` for good; or
    /// `cancelled` without a request, because the webhook was deleted or switched off.
    #[schema(example = "delivered")]
    outcome: &'static str,
    /// Why it failed: `status`, `gone`, `timeout`, `dns`, `address_refused`, `connect`, `tls`, `protocol` or
    /// `cancelled`. Null when it did not.
    error: Option<String>,
    /// When it is tried again; null when it is not.
    #[schema(format = DateTime)]
    next_attempt_at: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct HistoryQuery {
    /// Most entries to return, 1 to 100; 50 when absent.
    #[param(value_type = Option<usize>, minimum = 1, maximum = 100, example = 50)]
    limit: Option<String>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// Only attempts with this outcome: `delivered`, `retrying`, `failed` or `cancelled`.
    #[param(example = "failed")]
    status: Option<String>,
    /// Only answers of this class, `1xx` to `5xx`, or `none` for attempts without a complete answer.
    #[param(example = "5xx")]
    code_class: Option<String>,
    /// Only events of this type.
    #[param(example = "message.received")]
    event_type: Option<String>,
    /// Only this event.
    event_id: Option<String>,
    /// Only attempts begun at this time or later (RFC 3339).
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<String>,
    /// Only attempts begun before this time (RFC 3339).
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<String>,
}

/// Delivery history
///
/// View delivery attempts and HTTP response codes, newest first. A page looks at no more than 20,000 attempts, so one whose
/// filter matches few may not be full, or even empty, while a `nextCursor` says that older ones follow. Scope `webhooks:read`.
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
    let mut errors = FieldErrors::default();
    let limit = errors.keep("limit", parse_limit(query.limit.as_deref()));
    let after = errors.keep("cursor", query.cursor.as_deref().map(cursor::decode).transpose());
    let filter = parse_filter(&mut errors, &query);
    let (Some(limit), Some(after), true) = (limit, after, errors.is_empty()) else {
        return Err(errors.into_error());
    };
    if state.store.webhook(tenant, id).await?.is_none() {
        return Err(ApiError::webhook_not_found());
    }
    let found = state.store.attempts(tenant, id, &filter, limit, after.as_ref()).await?;
    let next_cursor = found.next.as_ref().map(cursor::encode);
    Ok(page(found.attempts.into_iter().map(HistoryEntry::from).collect(), next_cursor))
}

fn parse_limit(text: Option<&str>) -> Result<usize, Invalid> {
    let Some(text) = text else { return Ok(DEFAULT_LIMIT) };
    match text.parse() {
        Ok(limit @ 1..=MAX_LIMIT) => Ok(limit),
        _ => Err(Invalid::new(format!("limit must be a whole number from 1 to {MAX_LIMIT}"))),
    }
}

fn parse_filter(errors: &mut FieldErrors, query: &HistoryQuery) -> AttemptFilter {
    AttemptFilter {
        outcome: parse(errors, "status", query.status.as_deref(), str::parse),
        code_class: parse(errors, "codeClass", query.code_class.as_deref(), parse_code_class),
        event_type: parse(errors, "eventType", query.event_type.as_deref(), str::parse),
        event_id: parse(errors, "eventId", query.event_id.as_deref(), str::parse),
        from: parse(errors, "from", query.from.as_deref(), |text| parse_time("from", text)),
        to: parse(errors, "to", query.to.as_deref(), |text| parse_time("to", text)),
    }
}

fn parse<T>(
    errors: &mut FieldErrors,
    field: &str,
    text: Option<&str>,
    parse: impl FnOnce(&str) -> Result<T, Invalid>,
) -> Option<T> {
    text.and_then(|text| errors.keep(field, parse(text)))
}

fn parse_code_class(text: &str) -> Result<i16, Invalid> {
    match text {
        "none" => Ok(0),
        "1xx" => Ok(1),
        "2xx" => Ok(2),
        "3xx" => Ok(3),
        "4xx" => Ok(4),
        "5xx" => Ok(5),
        _ => Err(Invalid::new("codeClass must be 1xx, 2xx, 3xx, 4xx, 5xx or none")),
    }
}

fn parse_time(field: &str, text: &str) -> Result<DateTime<Utc>, Invalid> {
    parse_occurred_at(text)
        .map_err(|_| Invalid::new(format!("{field} must be an RFC 3339 time, like 2026-05-30T10:00:00Z")))
}

impl From<Attempt> for HistoryEntry {
    fn from(attempt: Attempt) -> Self {
        let ended_at = attempt.started_at + TimeDelta::milliseconds(attempt.duration_ms.into());
        Self {
            event: attempt.event_type,
            status_code: attempt.status_code,
            delivered_at: timestamp(ended_at),
            event_id: attempt.event_id.to_string(),
            attempt: attempt.attempt,
            trigger: attempt.trigger,
            duration_ms: attempt.duration_ms,
            outcome: attempt.outcome.code(),
            error: attempt.error,
            next_attempt_at: attempt.next_attempt_at.map(timestamp),
        }
    }
}
