use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use domain::{Invalid, Limits, PlanName, Rate, Scope};
use serde::{Deserialize, Serialize};
use store::{Plan, PlanDeletion};
use utoipa::ToSchema;

use crate::auth::Authenticated;
use crate::body::{FieldErrors, JsonBody};
use crate::envelope::{Failure, Success, success};
use crate::error::{ApiError, Code};
use crate::state::State;

/// Most webhooks a plan can allow.
const MAX_WEBHOOKS: i64 = 100_000;
/// Highest rate a plan can have, a minute.
const MAX_RATE: i64 = 10_000_000;
/// Most events a day a plan can limit to.
const MAX_PER_DAY: i64 = 1_000_000_000_000;

/// What a plan allows each of its tenants.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PlanLimits)]
pub(crate) struct LimitsView {
    /// Webhooks there can be.
    max_webhooks: u32,
    /// Events published over REST, a minute, at all gateways together; null: no limit.
    events_per_minute: Option<u32>,
    /// Events published over REST, a day (UTC), at all gateways together; null: no limit.
    events_per_day: Option<u64>,
    /// Requests to the API that publish nothing, a minute; null: no limit.
    requests_per_minute: Option<u32>,
}

/// A plan, and what it allows each of its tenants.
#[derive(Serialize, ToSchema)]
#[schema(as = Plan)]
pub(crate) struct PlanView {
    /// Names the plan.
    #[schema(example = "trial")]
    name: String,
    #[serde(flatten)]
    limits: LimitsView,
    /// Tenants that are on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenants: Option<i64>,
}

/// What a plan is to allow.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(example = json!({"maxWebhooks": 100, "eventsPerMinute": 6000, "eventsPerDay": 1_000_000, "requestsPerMinute": 600}))]
pub(crate) struct PutPlan {
    /// Webhooks there can be.
    #[schema(required = true, value_type = i64, minimum = 0, maximum = 100_000)]
    max_webhooks: Option<i64>,
    /// No limit when absent or null.
    #[schema(minimum = 1, maximum = 10_000_000)]
    events_per_minute: Option<i64>,
    /// No limit when absent or null.
    #[schema(minimum = 1, maximum = 1_000_000_000_000_i64)]
    events_per_day: Option<i64>,
    /// No limit when absent or null.
    #[schema(minimum = 1, maximum = 10_000_000)]
    requests_per_minute: Option<i64>,
}

/// The plan that was deleted.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeletedPlan {
    name: String,
    /// Always true.
    deleted: bool,
}

/// List plans
///
/// Every plan, by name. Scope `admin`.
#[utoipa::path(
    get,
    path = "/api/plans",
    tag = "Administration",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "The plans", body = Success<Vec<PlanView>>),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
    ),
)]
pub(crate) async fn list(caller: Authenticated, state: web::Data<State>) -> Result<HttpResponse, ApiError> {
    caller.may(Scope::Admin)?;
    let plans = state.store.plans().await?;
    Ok(success(StatusCode::OK, plans.into_iter().map(PlanView::from).collect::<Vec<_>>()))
}

/// Create or change plan
///
/// Holds for the tenants that are on it within two seconds. Tenants that make themselves known by their first token are on
/// the plan `trial`. Scope `admin`.
#[utoipa::path(
    put,
    path = "/api/plans/{name}",
    tag = "Administration",
    security(("bearer" = [])),
    params(("name" = String, Path, description = "1 to 64 of a-z, 0-9, - and _", example = "team", min_length = 1,
        max_length = 64, pattern = "^[a-z0-9_-]+$")),
    request_body = PutPlan,
    responses(
        (status = 200, description = "The plan, changed", body = Success<PlanView>),
        (status = 201, description = "The plan, created", body = Success<PlanView>),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
    ),
)]
pub(crate) async fn put(
    caller: Authenticated,
    state: web::Data<State>,
    name: web::Path<String>,
    JsonBody(request): JsonBody<PutPlan>,
) -> Result<HttpResponse, ApiError> {
    caller.may(Scope::Admin)?;
    let mut errors = FieldErrors::default();
    let name = errors.keep("name", name.parse::<PlanName>());
    let webhooks = errors
        .require("maxWebhooks", request.max_webhooks, |count| within("maxWebhooks", count, 0, MAX_WEBHOOKS));
    let limits = Limits {
        webhooks: webhooks.and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
        events_per_minute: parse_rate(&mut errors, "eventsPerMinute", request.events_per_minute),
        events_per_day: request
            .events_per_day
            .and_then(|count| errors.keep("eventsPerDay", within("eventsPerDay", count, 1, MAX_PER_DAY))),
        requests_per_minute: parse_rate(&mut errors, "requestsPerMinute", request.requests_per_minute),
    };
    let (Some(name), true) = (name, errors.is_empty()) else { return Err(errors.into_error()) };
    let is_new = caller.store(&state).put_plan(&name, &limits).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let limits = LimitsView::from(limits);
    Ok(success(status, PlanView { name: name.to_string(), limits, tenants: None }))
}

/// Delete plan
///
/// Only one that no tenant is on. Scope `admin`.
#[utoipa::path(
    delete,
    path = "/api/plans/{name}",
    tag = "Administration",
    security(("bearer" = [])),
    params(("name" = String, Path, description = "The plan's name", example = "team")),
    responses(
        (status = 200, description = "The plan is deleted", body = Success<DeletedPlan>),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`", body = Failure),
        (status = 409, description = "`CONFLICT`: tenants are on it", body = Failure),
    ),
)]
pub(crate) async fn delete(
    caller: Authenticated,
    state: web::Data<State>,
    name: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    caller.may(Scope::Admin)?;
    let not_found = || ApiError::new(Code::NotFound, "Plan not found");
    let name: PlanName = name.parse().map_err(|_| not_found())?;
    if name.as_str() == PlanName::OF_NEW_TENANTS {
        return Err(ApiError::new(Code::Conflict, "New tenants are put on this plan"));
    }
    match caller.store(&state).delete_plan(&name).await? {
        PlanDeletion::Deleted => {
            Ok(success(StatusCode::OK, DeletedPlan { name: name.to_string(), deleted: true }))
        }
        PlanDeletion::Unknown => Err(not_found()),
        PlanDeletion::InUse => {
            Err(ApiError::new(Code::Conflict, "Tenants are on this plan; move them first"))
        }
    }
}

fn parse_rate(errors: &mut FieldErrors, field: &str, per_minute: Option<i64>) -> Option<Rate> {
    let rate = errors.keep(field, within(field, per_minute?, 1, MAX_RATE))?;
    u32::try_from(rate).ok().map(Rate::per_minute)
}

fn within(field: &str, value: i64, min: i64, max: i64) -> Result<u64, Invalid> {
    let found = u64::try_from(value).ok().filter(|_| (min..=max).contains(&value));
    found.ok_or_else(|| Invalid::new(format!("{field} must be from {min} to {max}")))
}

impl From<Limits> for LimitsView {
    fn from(limits: Limits) -> Self {
        Self {
            max_webhooks: limits.webhooks,
            events_per_minute: limits.events_per_minute.map(Rate::calls_per_minute),
            events_per_day: limits.events_per_day,
            requests_per_minute: limits.requests_per_minute.map(Rate::calls_per_minute),
        }
    }
}

impl From<Plan> for PlanView {
    fn from(plan: Plan) -> Self {
        Self { name: plan.name.to_string(), limits: plan.limits.into(), tenants: Some(plan.tenants) }
    }
}
