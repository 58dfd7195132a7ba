use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::TimeDelta;
use domain::{Invalid, Scope, TenantId, WebhookId};
use serde::{Deserialize, Serialize};
use store::{Attempt, AttemptFilter};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Authenticated;
use crate::body::{FieldErrors, Query};
use crate::cursor;
use crate::envelope::{Failure, Page, Success, page, success};
use crate::error::{ApiError, Code};
use crate::routes::paging::{parse_limit, parse_time};
use crate::routes::webhooks::exchange::{HeaderView, ResponseView, views};
use crate::routes::webhooks::{parse_id, timestamp};
use crate::state::State;

/// A delivery attempt.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HistoryEntry {
    /// Names the attempt: `GET …/history/{attemptId}` shows what was said.
    #[schema(example = "MTc4MDEzNTIwMDAwMDAwMC5ldnRfMDE5MGMwZmZlZQ")]
    id: String,
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
    /// What made it: `first`; `retry`; `resend` for the first attempt of a delivery that was asked for again, by itself or by a
    /// recovery; `test`; or `cancel` where the delivery was cancelled by request.
    #[schema(example = "first")]
    trigger: String,
    /// How long it took, in milliseconds.
    duration_ms: i32,
    /// What became of the delivery with it: `delivered`; `retrying`: it failed and is tried again; `failed` for good; or
    /// `cancelled` without a request, because that was asked for, or the webhook was deleted or switched off.
    #[schema(example = "delivered")]
    outcome: &'static str,
    /// Why it failed: `status`, `gone`, `timeout`, `dns`, `address_refused`, `connect`, `tls`, `protocol` or
    /// `cancelled`. Null when it did not.
    error: Option<String>,
    /// When it is tried again; null when it is not.
    #[schema(format = DateTime)]
    next_attempt_at: Option<String>,
}

/// A delivery attempt, and what was said.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HistoryDetail {
    #[serde(flatten)]
    entry: HistoryEntry,
    /// Null where it is not kept: it is of attempts that failed, and of tests. The body is that of the event.
    request: Option<SentRequest>,
    /// Null too when not even the head of an answer came. Of its body, at most 4 KiB are kept.
    response: Option<ResponseView>,
    /// Why no complete answer came, for people.
    #[schema(example = "connection refused")]
    explanation: Option<String>,
}

/// The request of an attempt.
#[derive(Serialize, ToSchema)]
struct SentRequest {
    /// As they were sent; the values of the webhook's own headers are not kept.
    headers: Vec<HeaderView>,
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
/// View delivery attempts and HTTP response codes, newest first; also of a webhook that was deleted, for as long as they are kept.
/// Tests are among them. A page looks at no more than 20,000 attempts, so one whose
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
    let found = state.store.attempts(tenant, id, &filter, limit, after.as_ref()).await?;
    if found.attempts.is_empty() {
        check_is_known(&state, tenant, id).await?;
    }
    let next_cursor = found.next.as_ref().map(cursor::encode);
    Ok(page(found.attempts.into_iter().map(HistoryEntry::from).collect(), next_cursor))
}

/// Get attempt
///
/// One attempt of the history with the headers that were sent and, as far as it came and is kept, the answer. These are kept of
/// attempts that fail and of tests; while many failures wait to be written down, some are without. Scope `webhooks:read`.
#[utoipa::path(
    get,
    path = "/api/webhooks/{id}/history/{attemptId}",
    tag = "Webhooks",
    security(("bearer" = [])),
    params(
        ("id" = String, Path, format = Uuid, description = "Webhook UUID"),
        ("attemptId" = String, Path, description = "The attempt: an `id` of the history"),
    ),
    responses(
        (status = 200, description = "The attempt", body = Success<HistoryDetail>),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`: no such attempt (any more)", body = Failure),
    ),
)]
pub(crate) async fn get(
    caller: Authenticated,
    state: web::Data<State>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksRead)?;
    let (id, attempt_id) = path.into_inner();
    let id = parse_id(&id)?;
    let not_found = || ApiError::new(Code::NotFound, "Attempt not found");
    let place = cursor::decode(&attempt_id).map_err(|_| not_found())?;
    let attempt = state.store.attempt(tenant, id, &place).await?.ok_or_else(not_found)?;
    let exchange = state.store.exchange(tenant, id, &place).await?;
    let (request, response, explanation) = match exchange {
        Some(kept) => {
            let request = SentRequest { headers: views(kept.request_headers) };
            (Some(request), kept.response.map(ResponseView::new), kept.explanation)
        }
        None => (None, None, None),
    };
    let entry = HistoryEntry::from(attempt);
    Ok(success(StatusCode::OK, HistoryDetail { entry, request, response, explanation }))
}

/// A webhook that is gone is known by its history.
async fn check_is_known(state: &State, tenant: TenantId, id: WebhookId) -> Result<(), ApiError> {
    let is_known =
        state.store.webhook(tenant, id).await?.is_some() || state.store.has_attempts(tenant, id).await?;
    if is_known { Ok(()) } else { Err(ApiError::webhook_not_found()) }
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

impl From<Attempt> for HistoryEntry {
    fn from(attempt: Attempt) -> Self {
        let ended_at = attempt.started_at + TimeDelta::milliseconds(attempt.duration_ms.into());
        Self {
            id: cursor::encode(&attempt.cursor()),
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
