use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, HeaderValue};
use actix_web::{HttpResponse, web};
use chrono::{DateTime, Utc};
use domain::{ApiKeyId, ApiKeyName, Invalid, Rate, Scope, Scopes};
use serde::{Deserialize, Serialize};
use service::access_token::Caller;
use service::api_key::ApiKey;
use store::{ApiKeyError, ApiKeyRow, NewApiKey};
use utoipa::{IntoParams, ToSchema};

use super::webhooks::timestamp;
use crate::auth::Authenticated;
use crate::body::{FieldErrors, JsonBody, Query};
use crate::envelope::{Failure, Page, Success, page, success};
use crate::error::{ApiError, Code};
use crate::routes::paging::PageSize;
use crate::state::State;

/// Most scopes that a request can name.
const MAX_SCOPES: usize = 32;
/// Most requests a minute that a key's own limit can allow.
const MAX_RATE: u32 = 1_000_000;

/// An API key, without what opens anything.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ApiKey)]
pub(crate) struct ApiKeyView {
    /// Names the key.
    #[schema(format = Uuid)]
    id: String,
    /// What it is called, for people.
    #[schema(example = "CRM in production")]
    name: String,
    /// How it begins.
    #[schema(example = "pr_live_3f9a1c")]
    prefix: String,
    /// What it allows.
    #[schema(example = json!(["events:publish"]))]
    scopes: Vec<&'static str>,
    /// Requests that it may make a minute, at each gateway; null: as many as the plan allows.
    #[schema(example = 600)]
    requests_per_minute: Option<u32>,
    /// When it ends; null: when it is revoked.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// When it was last used, to a minute or so; null: never.
    #[schema(format = DateTime)]
    last_used_at: Option<String>,
    /// When it was revoked; null: not.
    #[schema(format = DateTime)]
    revoked_at: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
    /// Who made it: the `sub` of an access token, or `api-key:` and the id of another key.
    #[schema(example = "user-7")]
    created_by: String,
}

/// A key that has just been made.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreatedApiKey {
    #[serde(flatten)]
    api_key: ApiKeyView,
    /// The key itself: `pr_live_` and 72 hexadecimal digits. Shown this once; Postrider keeps only a hash.
    #[schema(example = "pr_live_3f9a1c…", pattern = "^pr_live_[0-9a-f]{72}$")]
    key: String,
}

/// A key to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(example = json!({"name": "CRM in production", "scopes": ["events:publish"], "requestsPerMinute": 600, "expiresAt": "2099-01-01T00:00:00Z"}))]
pub(crate) struct CreateApiKey {
    /// What it is called, for people: 1 to 100 characters.
    #[schema(required = true, value_type = String, min_length = 1, max_length = 100)]
    name: Option<String>,
    /// What it allows, at least one thing: `webhooks:read`, `webhooks:write`, `events:publish`, `events:erase`, `keys:manage`, `admin`. Only
    /// what you may do yourself.
    #[schema(required = true, value_type = Vec<String>, min_items = 1)]
    scopes: Option<Vec<String>>,
    /// Requests that it may make a minute, 5 seconds' worth of them at once; a batch of events is one. Counted at each gateway,
    /// and beside what the plan allows. No limit of its own when absent or null.
    #[schema(minimum = 1, maximum = 1_000_000)]
    requests_per_minute: Option<i64>,
    /// When it ends; never when absent or null.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

/// Which keys to list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ApiKeyQuery {
    /// From where the page before ended: its `nextCursor`.
    cursor: Option<String>,
    /// Most keys in the answer: 1 to 1,000; 100 when absent.
    #[param(value_type = Option<usize>, minimum = 1, maximum = 1_000)]
    limit: Option<String>,
}

/// List API keys
///
/// The tenant's keys, the newest first, without what opens anything. Those that have ended are listed for 90 days. Scope
/// `keys:manage`.
#[utoipa::path(
    get,
    path = "/api/api-keys",
    tag = "API keys",
    security(("bearer" = [])),
    params(ApiKeyQuery),
    responses(
        (status = 200, description = "The keys", body = Page<ApiKeyView>),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
    ),
)]
pub(crate) async fn list(
    caller: Authenticated,
    state: web::Data<State>,
    Query(query): Query<ApiKeyQuery>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::KeysManage)?;
    let mut errors = FieldErrors::default();
    let before = errors.keep("cursor", query.cursor.map(|cursor| parse_cursor(&cursor)).transpose());
    let limit = errors.keep("limit", PageSize::OF_INVENTORY.parse(query.limit.as_deref()));
    let (Some(before), Some(limit)) = (before, limit) else { return Err(errors.into_error()) };
    let keys = state.store.api_keys(tenant, before, limit).await?;
    let is_full = keys.len() == limit;
    let next = keys.last().filter(|_| is_full).map(|key| key.id.to_string());
    Ok(page(keys.into_iter().map(ApiKeyView::from).collect(), next))
}

/// Create API key
///
/// A key for a program, sent as `X-API-Key` in place of an access token. It is shown in this answer and never again. A tenant
/// can have 100 keys that work. Scope `keys:manage`.
#[utoipa::path(
    post,
    path = "/api/api-keys",
    tag = "API keys",
    security(("bearer" = [])),
    request_body = CreateApiKey,
    responses(
        (status = 201, description = "The key", body = Success<CreatedApiKey>),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`: also for a scope that you lack yourself; `LIMIT_EXCEEDED`", body = Failure),
    ),
)]
pub(crate) async fn create(
    caller: Authenticated,
    state: web::Data<State>,
    JsonBody(request): JsonBody<CreateApiKey>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::KeysManage)?;
    let now = Utc::now();
    let key = ApiKey::generate();
    let new = parse(request, &key, caller.caller(), now)?;
    if let Some(lacking) = new.scopes.iter().find(|scope| !caller.caller().scopes.contains(*scope)) {
        let message = format!("You lack the scope {lacking} yourself, so a key of yours cannot have it");
        return Err(ApiError::new(Code::Forbidden, message));
    }
    state.tenants.admit(tenant).await?;
    let row = caller.store(&state).create_api_key(tenant, &new, now).await?;
    state.api_keys.learn(new.hash, row.clone());
    let created = CreatedApiKey { api_key: row.into(), key: key.reveal().to_owned() };
    let mut response = success(StatusCode::CREATED, created);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Revoke API key
///
/// The key opens nothing any more: here at once, at every gateway within five seconds, or as soon as it reaches the database
/// again. One that is revoked already stays as it is. Scope `keys:manage`.
#[utoipa::path(
    delete,
    path = "/api/api-keys/{id}",
    tag = "API keys",
    security(("bearer" = [])),
    params(("id" = String, Path, format = Uuid, description = "The key's UUID")),
    responses(
        (status = 200, description = "The key, revoked", body = Success<ApiKeyView>),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`", body = Failure),
    ),
)]
pub(crate) async fn revoke(
    caller: Authenticated,
    state: web::Data<State>,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::KeysManage)?;
    let not_found = || ApiError::new(Code::NotFound, "API key not found");
    let id: ApiKeyId = id.parse().map_err(|_| not_found())?;
    let row = caller.store(&state).revoke_api_key(tenant, id, Utc::now()).await?.ok_or_else(not_found)?;
    state.api_keys.learn_end(&row);
    Ok(success(StatusCode::OK, ApiKeyView::from(row)))
}

fn parse(
    request: CreateApiKey,
    key: &ApiKey,
    caller: &Caller,
    now: DateTime<Utc>,
) -> Result<NewApiKey, ApiError> {
    let mut errors = FieldErrors::default();
    let name = errors.require("name", request.name, |name| name.parse::<ApiKeyName>());
    let scopes = errors.require("scopes", request.scopes, |scopes| parse_scopes(&scopes));
    let rate = errors.keep("requestsPerMinute", request.requests_per_minute.map(parse_rate).transpose());
    let expires_at = request.expires_at.map(|end| parse_end(&end, now)).transpose();
    let expires_at = errors.keep("expiresAt", expires_at);
    let (Some(name), Some(scopes), Some(rate), Some(expires_at)) = (name, scopes, rate, expires_at) else {
        return Err(errors.into_error());
    };
    Ok(NewApiKey {
        name,
        prefix: key.prefix().to_owned(),
        hash: key.hash(),
        scopes,
        rate,
        expires_at,
        created_by: caller.subject.clone(),
    })
}

fn parse_scopes(names: &[String]) -> Result<Scopes, Invalid> {
    if names.is_empty() || names.len() > MAX_SCOPES {
        return Err(Invalid::new(format!("scopes must name 1 to {MAX_SCOPES} scopes")));
    }
    // A name with a space in it would be two.
    let is_blank = |name: &String| name.is_empty() || name.contains(char::is_whitespace);
    if names.iter().any(is_blank) {
        return Err(Invalid::new("each of scopes must be one scope"));
    }
    names.join(" ").parse()
}

fn parse_rate(per_minute: i64) -> Result<Rate, Invalid> {
    let rate = u32::try_from(per_minute).ok().filter(|rate| (1..=MAX_RATE).contains(rate));
    rate.map(Rate::per_minute)
        .ok_or_else(|| Invalid::new(format!("requestsPerMinute must be from 1 to {MAX_RATE}")))
}

fn parse_end(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, Invalid> {
    let end = domain::parse_occurred_at(text)
        .map_err(|_| Invalid::new("expiresAt must be a time like 2099-01-01T00:00:00Z"))?;
    if end > now { Ok(end) } else { Err(Invalid::new("expiresAt must be in the future")) }
}

fn parse_cursor(text: &str) -> Result<ApiKeyId, Invalid> {
    text.parse().map_err(|_| Invalid::new("cursor must be the nextCursor of an answer before"))
}

impl From<ApiKeyRow> for ApiKeyView {
    fn from(row: ApiKeyRow) -> Self {
        Self {
            id: row.id.to_string(),
            name: row.name.as_str().to_owned(),
            prefix: row.prefix,
            scopes: row.scopes.iter().map(Scope::as_str).collect(),
            requests_per_minute: row.rate.map(Rate::calls_per_minute),
            expires_at: row.expires_at.map(timestamp),
            last_used_at: row.last_used_at.map(timestamp),
            revoked_at: row.revoked_at.map(timestamp),
            created_at: timestamp(row.created_at),
            created_by: row.created_by,
        }
    }
}

impl From<ApiKeyError> for ApiError {
    fn from(error: ApiKeyError) -> Self {
        match error {
            ApiKeyError::LimitReached { max, are_live: true } => {
                let message = format!("A tenant can have {max} API keys that work; revoke one");
                Self::new(Code::LimitExceeded, message)
            }
            ApiKeyError::LimitReached { max, are_live: false } => {
                let message =
                    format!("A tenant can have {max} API keys, with those that ended within 90 days");
                Self::new(Code::LimitExceeded, message)
            }
            ApiKeyError::UnknownTenant => Self::new(Code::Forbidden, "The tenant is not known"),
            ApiKeyError::Store(error) => error.into(),
        }
    }
}
