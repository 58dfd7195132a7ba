use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::{DateTime, NaiveDate, Utc};
use domain::{Invalid, PlanName, Scope, TenantId, TenantStatus};
use serde::{Deserialize, Serialize};
use store::{Tenant, Usage};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Authenticated;
use crate::body::{FieldErrors, JsonBody, Query};
use crate::envelope::{Failure, Page, Success, page, success};
use crate::error::{ApiError, Code};
use crate::routes::paging::PageSize;
use crate::routes::plans::LimitsView;
use crate::routes::webhooks::timestamp;
use crate::state::State;

/// A tenant's subscription, and what it has used.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Tenant)]
pub(crate) struct TenantView {
    /// Names the tenant.
    #[schema(format = Uuid)]
    id: String,
    /// The plan it is on.
    #[schema(example = "trial")]
    plan: String,
    /// `trial`, `active` or `suspended`. A suspended tenant, and one whose trial has ended, can read but neither publish nor
    /// change anything; what was accepted before is still delivered.
    #[schema(example = "active")]
    status: &'static str,
    /// When its trial ends; null when it is in none, or in one without end.
    #[schema(format = DateTime)]
    trial_ends_at: Option<String>,
    /// What the plan allows.
    limits: LimitsView,
    /// What was used today (UTC), of all gateways together; up to two seconds old.
    used_today: UsageView,
    #[schema(format = DateTime)]
    created_at: String,
}

/// What was used of a plan in a day.
#[derive(Serialize, ToSchema)]
#[schema(as = Usage)]
pub(crate) struct UsageView {
    /// The day, UTC.
    day: NaiveDate,
    /// Events accepted over REST.
    events: i64,
    /// Requests to the API that published nothing.
    requests: i64,
}

/// A tenant's subscription, as it is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(example = json!({"plan": "trial", "status": "trial", "trialEndsAt": "2027-01-01T00:00:00Z"}))]
pub(crate) struct PutTenant {
    /// The plan's name.
    #[schema(required = true, value_type = String)]
    plan: Option<String>,
    /// `trial`, `active` (the default) or `suspended`.
    status: Option<String>,
    /// When the trial ends; none or null: when somebody ends it. Only with the status `trial`.
    #[schema(value_type = Option<String>, format = DateTime)]
    trial_ends_at: Option<String>,
}

/// Which tenants to list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TenantQuery {
    /// From where the page before ended: its `nextCursor`.
    cursor: Option<String>,
    /// Most tenants in the answer: 1 to 1,000; 100 when absent.
    #[param(value_type = Option<usize>, minimum = 1, maximum = 1_000)]
    limit: Option<String>,
}

/// Get usage
///
/// The tenant's own plan, what it allows, and what was used today. Scope `webhooks:read`.
#[utoipa::path(
    get,
    path = "/api/usage",
    tag = "Usage",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "The subscription and what was used of it", body = Success<TenantView>),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`: the tenant has done nothing yet", body = Failure),
    ),
)]
pub(crate) async fn usage(caller: Authenticated, state: web::Data<State>) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksRead)?;
    Ok(success(StatusCode::OK, view(&state, tenant).await?))
}

/// List tenants
///
/// Every tenant, by id. Scope `admin`.
#[utoipa::path(
    get,
    path = "/api/tenants",
    tag = "Administration",
    security(("bearer" = [])),
    params(TenantQuery),
    responses(
        (status = 200, description = "The tenants", body = Page<TenantView>),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
    ),
)]
pub(crate) async fn list(
    caller: Authenticated,
    state: web::Data<State>,
    Query(query): Query<TenantQuery>,
) -> Result<HttpResponse, ApiError> {
    caller.may(Scope::Admin)?;
    let mut errors = FieldErrors::default();
    let after = errors.keep("cursor", query.cursor.map(|cursor| parse_cursor(&cursor)).transpose());
    let limit = errors.keep("limit", PageSize::OF_INVENTORY.parse(query.limit.as_deref()));
    let (Some(after), Some(limit)) = (after, limit) else { return Err(errors.into_error()) };
    let day = Utc::now().date_naive();
    let tenants = state.store.list_tenants(after, day, limit).await?;
    let is_full = tenants.len() == limit;
    let next = tenants.last().filter(|_| is_full).map(|tenant| tenant.id.to_string());
    Ok(page(tenants.into_iter().map(|tenant| TenantView::new(tenant, day)).collect(), next))
}

/// Get tenant
///
/// Scope `admin`.
#[utoipa::path(
    get,
    path = "/api/tenants/{id}",
    tag = "Administration",
    security(("bearer" = [])),
    params(("id" = String, Path, format = Uuid, description = "Tenant UUID")),
    responses(
        (status = 200, description = "The tenant", body = Success<TenantView>),
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
    caller.may(Scope::Admin)?;
    let tenant = id.parse().map(TenantId).map_err(|_| not_found())?;
    Ok(success(StatusCode::OK, view(&state, tenant).await?))
}

/// Create or change tenant
///
/// Makes a tenant known, or changes its plan and status. Holds within two seconds. Scope `admin`.
#[utoipa::path(
    put,
    path = "/api/tenants/{id}",
    tag = "Administration",
    security(("bearer" = [])),
    params(("id" = String, Path, format = Uuid, description = "Tenant UUID")),
    request_body = PutTenant,
    responses(
        (status = 200, description = "The tenant as it is now", body = Success<TenantView>),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`: the id is not a UUID", body = Failure),
    ),
)]
pub(crate) async fn put(
    caller: Authenticated,
    state: web::Data<State>,
    id: web::Path<String>,
    JsonBody(request): JsonBody<PutTenant>,
) -> Result<HttpResponse, ApiError> {
    caller.may(Scope::Admin)?;
    let tenant = id.parse().map(TenantId).map_err(|_| not_found())?;
    let mut errors = FieldErrors::default();
    let plan = errors.require("plan", request.plan, |name| name.parse::<PlanName>());
    let status = errors.keep("status", request.status.as_deref().unwrap_or("active").parse::<TenantStatus>());
    let trial_ends_at = errors.keep("trialEndsAt", parse_end(request.trial_ends_at.as_deref(), status));
    let (Some(plan), Some(status), Some(trial_ends_at)) = (plan, status, trial_ends_at) else {
        return Err(errors.into_error());
    };
    if !caller.store(&state).put_tenant(tenant, &plan, status, trial_ends_at).await? {
        return Err(ApiError::field("plan", format!("there is no plan {plan}; see GET /api/plans")));
    }
    Ok(success(StatusCode::OK, view(&state, tenant).await?))
}

async fn view(state: &State, tenant: TenantId) -> Result<TenantView, ApiError> {
    let day = Utc::now().date_naive();
    let found = state.store.tenants(&[tenant], day).await?.pop().ok_or_else(not_found)?;
    Ok(TenantView::new(found, day))
}

fn not_found() -> ApiError {
    ApiError::new(Code::NotFound, "Tenant not found")
}

fn parse_cursor(text: &str) -> Result<TenantId, Invalid> {
    text.parse().map(TenantId).map_err(|_| Invalid::new("cursor must be the nextCursor of an answer before"))
}

fn parse_end(text: Option<&str>, status: Option<TenantStatus>) -> Result<Option<DateTime<Utc>>, Invalid> {
    let Some(text) = text else { return Ok(None) };
    if status != Some(TenantStatus::Trial) {
        return Err(Invalid::new("trialEndsAt is for the status trial only"));
    }
    domain::parse_occurred_at(text)
        .map(Some)
        .map_err(|_| Invalid::new("trialEndsAt must be a time like 2027-01-01T00:00:00Z"))
}

impl TenantView {
    fn new(tenant: Tenant, day: NaiveDate) -> Self {
        let Tenant { id, subscription, usage: Usage { events, requests }, created_at } = tenant;
        Self {
            id: id.to_string(),
            plan: subscription.plan.to_string(),
            status: subscription.status.code(),
            trial_ends_at: subscription.trial_ends_at.map(timestamp),
            limits: subscription.limits.into(),
            used_today: UsageView { day, events, requests },
            created_at: timestamp(created_at),
        }
    }
}
