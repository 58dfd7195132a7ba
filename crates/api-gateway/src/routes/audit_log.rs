use actix_web::{HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::{Invalid, Scope};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use store::{AuditEntry, AuditLogCursor, AuditLogFilter};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Authenticated;
use crate::body::{FieldErrors, Query};
use crate::cursor;
use crate::envelope::{Failure, Page, page};
use crate::error::ApiError;
use crate::routes::paging::{parse_limit, parse_time};
use crate::routes::webhooks::timestamp;
use crate::state::State;

/// Longest filter, in bytes: longer than anything that is written down.
const MAX_FILTER_BYTES: usize = 512;

/// Something that was done.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AuditLogEntry)]
pub(crate) struct AuditLogEntryView {
    /// When.
    #[schema(format = DateTime, example = "2026-05-30T10:00:00.000Z")]
    at: String,
    /// What: the kind of the resource, a dot, and what became of it.
    #[schema(example = "webhook.updated")]
    action: String,
    /// The kind of the resource.
    #[schema(example = "webhook")]
    resource: String,
    /// Which one.
    #[schema(example = "0190c0ff-ee7a-7b1c-8d2e-4f5061728394")]
    resource_id: String,
    /// Of each changed field, what it was and what it is. Secrets are `********`; what is longer than 2 KiB is left out.
    #[schema(value_type = Object, example = json!({"isActive": {"from": true, "to": false}}))]
    changes: Box<RawValue>,
    /// Who did it.
    actor: ActorView,
    /// The client's address, behind the proxies that the installation trusts.
    #[schema(example = "203.0.113.7")]
    address: Option<String>,
    /// What the client says that it is.
    #[schema(example = "curl/8.5.0")]
    user_agent: Option<String>,
    /// The request's `X-Request-Id`.
    request_id: String,
}

/// Who did something.
#[derive(Serialize, ToSchema)]
#[schema(as = Actor)]
pub(crate) struct ActorView {
    /// `token` or `api_key`.
    #[schema(example = "token")]
    kind: String,
    /// The subject of the access token, or the id of the API key.
    #[schema(example = "alice@example.com")]
    id: String,
}

/// Which entries to list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditLogQuery {
    /// Most entries to return, 1 to 100; 50 when absent.
    #[param(value_type = Option<usize>, minimum = 1, maximum = 100, example = 50)]
    limit: Option<String>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// Only this action.
    #[param(example = "webhook.updated", min_length = 1, max_length = 512)]
    action: Option<String>,
    /// Only resources of this kind.
    #[param(example = "webhook", min_length = 1, max_length = 512)]
    resource: Option<String>,
    /// Only this resource.
    #[param(min_length = 1, max_length = 512)]
    resource_id: Option<String>,
    /// Only what was done by this subject of a token, or API key.
    #[param(min_length = 1, max_length = 512)]
    actor: Option<String>,
    /// Only what was done at this time or later (RFC 3339).
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<String>,
    /// Only what was done before this time (RFC 3339).
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<String>,
}

/// Audit log
///
/// Who did what, when and from where, newest first: every change that callers of your tenant have made through the API, and
/// every look at a secret. What is done with the scope `admin` is in the log of the tenant whose caller did it. A page looks at
/// no more than 20,000 entries, so one whose filter matches few may not be full, or even empty, while a `nextCursor` says that
/// older ones follow. Scope `audit:read`.
#[utoipa::path(
    get,
    path = "/api/audit-log",
    tag = "Audit log",
    security(("bearer" = [])),
    params(AuditLogQuery),
    responses(
        (status = 200, description = "The entries", body = Page<AuditLogEntryView>),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
    ),
)]
pub(crate) async fn list(
    caller: Authenticated,
    state: web::Data<State>,
    Query(query): Query<AuditLogQuery>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::AuditRead)?;
    let mut errors = FieldErrors::default();
    let limit = errors.keep("limit", parse_limit(query.limit.as_deref()));
    let after = errors.keep("cursor", query.cursor.as_deref().map(decode).transpose());
    let mut text =
        |name: &str, text: Option<String>| text.and_then(|text| errors.keep(name, check_text(name, text)));
    let filter = AuditLogFilter {
        action: text("action", query.action),
        resource: text("resource", query.resource),
        resource_id: text("resourceId", query.resource_id),
        actor: text("actor", query.actor),
        from: errors
            .keep("from", query.from.as_deref().map(|at| parse_time("from", at)).transpose())
            .flatten(),
        to: errors.keep("to", query.to.as_deref().map(|at| parse_time("to", at)).transpose()).flatten(),
    };
    let (Some(limit), Some(after), true) = (limit, after, errors.is_empty()) else {
        return Err(errors.into_error());
    };
    let found = state.store.audit_log(tenant, &filter, limit, after).await?;
    let entries = found.entries.into_iter().map(AuditLogEntryView::from).collect();
    Ok(page(entries, found.next.map(encode)))
}

fn check_text(name: &str, text: String) -> Result<String, Invalid> {
    if (1..=MAX_FILTER_BYTES).contains(&text.len()) && !text.contains('\0') {
        return Ok(text);
    }
    Err(Invalid::new(format!("{name} must be 1 to {MAX_FILTER_BYTES} bytes long, without NUL")))
}

fn encode(place: AuditLogCursor) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}.{}", place.at.timestamp_micros(), place.sequence))
}

fn decode(text: &str) -> Result<AuditLogCursor, Invalid> {
    let parse = || {
        let plain = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (micros, sequence) = plain.split_once('.')?;
        Some(AuditLogCursor { at: cursor::time(micros)?, sequence: sequence.parse().ok()? })
    };
    parse().ok_or_else(|| Invalid::new("cursor must be a nextCursor of this log"))
}

impl From<AuditEntry> for AuditLogEntryView {
    fn from(entry: AuditEntry) -> Self {
        let resource = entry.action.split('.').next().unwrap_or_default().to_owned();
        Self {
            at: timestamp(entry.place.at),
            action: entry.action,
            resource,
            resource_id: entry.resource_id,
            changes: entry.changes,
            actor: ActorView { kind: entry.origin.actor_kind, id: entry.origin.actor },
            address: entry.origin.address,
            user_agent: entry.origin.user_agent,
            request_id: entry.origin.request_id,
        }
    }
}
