//! Jobs that make deliveries again.

mod view;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{EventType, Scope, TenantId, Webhook, check_rate};
use serde::Deserialize;
use store::{Recovery, RecoveryError, RecoveryKind, RecoveryPlan};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::auth::Authenticated;
use crate::body::{FieldErrors, JsonBody, Query};
use crate::cursor;
use crate::envelope::{Failure, Page, Success, page, success};
use crate::error::{ApiError, Code};
use crate::routes::paging::{parse_limit, parse_time};
use crate::routes::webhooks::parse_id;
use crate::state::State;
use view::{EstimateView, RecoveryView};

/// Deliveries a second, unless the request or the webhook's `drainRate` says otherwise.
const DEFAULT_RATE: u32 = 100;

/// What is to be made again.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(example = json!({"kind": "failed", "from": "2026-05-30T08:00:00Z", "rate": 50}))]
pub(crate) struct CreateRecovery {
    /// `failed`: deliveries that have failed for good and have not succeeded since; `missing`: events that the webhook wants as
    /// it is now, and that were never delivered to it or tried to the end, because it came later, did not want them then, or was
    /// switched off.
    #[schema(required = true, value_type = String, example = "failed")]
    kind: Option<String>,
    /// Last attempts begun (`failed`) or events accepted (`missing`) at this time or later (RFC 3339), within the time for
    /// which events are kept.
    #[schema(required = true, value_type = String, format = DateTime)]
    from: Option<String>,
    /// And before this time; now when absent.
    #[schema(value_type = Option<String>, format = DateTime)]
    to: Option<String>,
    /// Only events of this type.
    #[schema(example = "message.received")]
    event_type: Option<String>,
    /// Deliveries a second, 1 to 10,000; the webhook's `drainRate` when absent, or 100.
    #[schema(example = 50)]
    rate: Option<i64>,
    /// With `true` nothing is begun: the answer is 200 with the estimate.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct RecoveriesQuery {
    /// Most entries to return, 1 to 100; 50 when absent.
    #[param(value_type = Option<usize>, minimum = 1, maximum = 100, example = 50)]
    limit: Option<String>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// Recover deliveries
///
/// Makes deliveries again, at a rate, as a job that goes on whatever is restarted: those that failed since a time, or those that
/// were never made. With `dryRun` it says how many there are. Each is made with all of the webhook's retries; the history shows
/// the first attempt with the trigger `resend`. What is not finished is left alone. While 5,000 deliveries of the webhook are
/// unfinished the job waits. One of a webhook at a time, five of a tenant. Scope `webhooks:write`.
#[utoipa::path(
    post,
    path = "/api/webhooks/{id}/recoveries",
    tag = "Recoveries",
    security(("bearer" = [])),
    params(("id" = String, Path, format = Uuid, description = "Webhook UUID")),
    request_body = CreateRecovery,
    responses(
        (status = 200, description = "With `dryRun`: how many deliveries there are", body = Success<EstimateView>),
        (status = 202, description = "It is begun", body = Success<RecoveryView>),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`, `SUBSCRIPTION_INACTIVE`, or `LIMIT_EXCEEDED`: five are running",
            body = Failure),
        (status = 404, description = "`NOT_FOUND`", body = Failure),
        (status = 409, description = "`CONFLICT`: one of the webhook is running, or it is switched off", body = Failure),
    ),
)]
pub(crate) async fn create(
    caller: Authenticated,
    state: web::Data<State>,
    id: web::Path<String>,
    JsonBody(request): JsonBody<CreateRecovery>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksWrite)?;
    let id = parse_id(&id)?;
    let webhook = state.store.webhook(tenant, id).await?.ok_or_else(ApiError::webhook_not_found)?;
    let now = Utc::now();
    let plan = parse_plan(&request, &state, tenant, &webhook, now)?;
    if !webhook.is_active {
        return Err(ApiError::new(Code::Conflict, "The webhook is switched off; set isActive first"));
    }
    let estimate = state.store.estimate_recovery(&plan, &webhook).await?;
    if request.dry_run {
        return Ok(success(StatusCode::OK, EstimateView::from(estimate)));
    }
    let begun = caller.store(&state).begin_recovery(&plan, estimate, now).await?;
    Ok(success(StatusCode::ACCEPTED, RecoveryView::from(begun)))
}

fn parse_plan(
    request: &CreateRecovery,
    state: &State,
    tenant: TenantId,
    webhook: &Webhook,
    now: DateTime<Utc>,
) -> Result<RecoveryPlan, ApiError> {
    let mut errors = FieldErrors::default();
    let kind = errors.require("kind", request.kind.as_deref(), str::parse::<RecoveryKind>);
    let from = errors.require("from", request.from.as_deref(), |text| parse_time("from", text));
    let to = request.to.as_deref().map(|text| parse_time("to", text)).transpose();
    let to = errors.keep("to", to).map(|to| to.unwrap_or(now));
    let event_type = request.event_type.as_deref().map(str::parse::<EventType>).transpose();
    let event_type = errors.keep("eventType", event_type);
    let rate = request.rate.map(|rate| check_rate("rate", rate)).transpose();
    let rate = errors.keep("rate", rate).map(|rate| rate.or(webhook.gate.drain_rate).unwrap_or(DEFAULT_RATE));
    if let (Some(from), Some(to)) = (from, to) {
        check_range(&mut errors, from, to, state, now);
    }
    let (Some(kind), Some(from), Some(to), Some(event_type), Some(rate), true) =
        (kind, from, to, event_type, rate, errors.is_empty())
    else {
        return Err(errors.into_error());
    };
    Ok(RecoveryPlan { webhook_id: webhook.id, tenant_id: tenant, kind, from, to, event_type, rate })
}

fn check_range(
    errors: &mut FieldErrors,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    state: &State,
    now: DateTime<Utc>,
) {
    let kept = TimeDelta::from_std(state.retention).unwrap_or(TimeDelta::MAX);
    if to > now {
        errors.add("to", "to must not be in the future");
    }
    if from >= to {
        errors.add("from", "from must be before to");
    } else if now - from > kept {
        errors.add(
            "from",
            format!("from must be within the {} days for which events are kept", kept.num_days()),
        );
    }
}

/// List recoveries
///
/// The recoveries of a webhook, newest first, for as long as events are kept. Scope `webhooks:read`.
#[utoipa::path(
    get,
    path = "/api/webhooks/{id}/recoveries",
    tag = "Recoveries",
    security(("bearer" = [])),
    params(("id" = String, Path, format = Uuid, description = "Webhook UUID"), RecoveriesQuery),
    responses(
        (status = 200, description = "The recoveries", body = Page<RecoveryView>),
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
    Query(query): Query<RecoveriesQuery>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksRead)?;
    let id = parse_id(&id)?;
    let is_known = state.store.webhook(tenant, id).await?.is_some()
        || !state.store.recoveries(tenant, id, None, 1).await?.is_empty();
    if !is_known {
        return Err(ApiError::webhook_not_found());
    }
    let mut errors = FieldErrors::default();
    let limit = errors.keep("limit", parse_limit(query.limit.as_deref()));
    let before = errors.keep("cursor", query.cursor.as_deref().map(cursor::decode_id).transpose());
    let (Some(limit), Some(before)) = (limit, before) else {
        return Err(errors.into_error());
    };
    // One more than asked for tells whether anything follows.
    let mut found = state.store.recoveries(tenant, id, before, limit + 1).await?;
    let has_more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| has_more).map(|last| cursor::encode_id(last.id));
    Ok(page(found.into_iter().map(RecoveryView::from).collect(), next))
}

/// Get recovery
///
/// How far a recovery is; also of a webhook that was deleted. Scope `webhooks:read`.
#[utoipa::path(
    get,
    path = "/api/webhooks/{id}/recoveries/{recoveryId}",
    tag = "Recoveries",
    security(("bearer" = [])),
    params(
        ("id" = String, Path, format = Uuid, description = "Webhook UUID"),
        ("recoveryId" = String, Path, format = Uuid, description = "Recovery UUID"),
    ),
    responses(
        (status = 200, description = "The recovery", body = Success<RecoveryView>),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`", body = Failure),
    ),
)]
pub(crate) async fn get(
    caller: Authenticated,
    state: web::Data<State>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksRead)?;
    Ok(success(StatusCode::OK, RecoveryView::from(find(&state, tenant, &path).await?)))
}

/// Cancel recovery
///
/// Ends a recovery. What it has scheduled is delivered all the same. Scope `webhooks:write`.
#[utoipa::path(
    post,
    path = "/api/webhooks/{id}/recoveries/{recoveryId}/cancel",
    tag = "Recoveries",
    security(("bearer" = [])),
    params(
        ("id" = String, Path, format = Uuid, description = "Webhook UUID"),
        ("recoveryId" = String, Path, format = Uuid, description = "Recovery UUID"),
    ),
    responses(
        (status = 200, description = "It is cancelled", body = Success<RecoveryView>),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`, or `SUBSCRIPTION_INACTIVE`", body = Failure),
        (status = 404, description = "`NOT_FOUND`", body = Failure),
        (status = 409, description = "`CONFLICT`: it has ended already", body = Failure),
    ),
)]
pub(crate) async fn cancel(
    caller: Authenticated,
    state: web::Data<State>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksWrite)?;
    let found = find(&state, tenant, &path).await?;
    let store = caller.store(&state);
    if !store.cancel_recovery(tenant, found.plan.webhook_id, found.id, Utc::now()).await? {
        return Err(ApiError::new(Code::Conflict, "The recovery has ended already"));
    }
    Ok(success(StatusCode::OK, RecoveryView::from(find(&state, tenant, &path).await?)))
}

async fn find(state: &State, tenant: TenantId, path: &(String, String)) -> Result<Recovery, ApiError> {
    let not_found = || ApiError::new(Code::NotFound, "Recovery not found");
    let (webhook, id) = (parse_id(&path.0)?, Uuid::try_parse(&path.1).map_err(|_| not_found())?);
    state.store.recovery(tenant, webhook, id).await?.ok_or_else(not_found)
}

impl From<RecoveryError> for ApiError {
    fn from(error: RecoveryError) -> Self {
        match error {
            RecoveryError::OneIsRunning => Self::new(
                Code::Conflict,
                "A recovery of the webhook is running; wait for its end, or cancel it",
            ),
            RecoveryError::TooMany => {
                let most = store::MAX_RECOVERIES_PER_TENANT;
                Self::new(
                    Code::LimitExceeded,
                    format!("{most} recoveries are running, and no more can at a time"),
                )
            }
            RecoveryError::Store(error) => error.into(),
        }
    }
}
