use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use domain::{Event, EventData, EventId, Scope, Webhook};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Authenticated;
use crate::body::{MAX_BODY_BYTES, RawBody, parse};
use crate::envelope::{Failure, Success, success};
use crate::error::ApiError;
use crate::routes::events::{PublishEvent, Publishable, Reader};
use crate::schema::{SchemaProblem, SchemaValidation};
use crate::state::State;

/// What would become of an event.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventPreview {
    /// Whether `POST /api/events` would take it. It does not say whether the plan has room.
    accepted: bool,
    /// Webhooks that would receive it.
    receivers: usize,
    /// Where its data is not as the type's schema says; checked here whatever the installation does about it.
    schema_problems: Vec<SchemaProblem>,
    /// Every webhook of the tenant, oldest first.
    webhooks: Vec<WebhookPreview>,
}

/// What a webhook would have of an event.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EventPreviewWebhook)]
pub(crate) struct WebhookPreview {
    /// The webhook.
    #[schema(format = Uuid)]
    id: String,
    url: String,
    /// Whether it would receive the event, now or later.
    receives: bool,
    /// Why it would not: everything that stands against it.
    reasons: Vec<Reason>,
    /// Why its delivery would wait, if it would.
    waits: Vec<Wait>,
}

/// Why a webhook does not receive an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Reason {
    /// It is switched off.
    Inactive,
    /// None of its `events` is the type.
    Type,
    /// It wants certain sessions, and this is none of them.
    Session,
    /// Its `filter` does not want the data.
    Filter,
}

/// Why a delivery waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Wait {
    /// The webhook is paused.
    Paused,
    /// What would sign it cannot be read: a key of the installation is missing, or the secret is to be set anew.
    Secret,
}

/// Preview event
///
/// Says which webhooks would receive an event, and why the others would not. Takes what `POST /api/events` takes, and refuses
/// what that refuses, but for the schema; nothing is published. Scope `webhooks:read`.
#[utoipa::path(
    post,
    path = "/api/events/preview",
    tag = "Events",
    security(("bearer" = [])),
    request_body = PublishEvent<'static>,
    responses(
        (status = 200, description = "What would become of it", body = Success<EventPreview>,
            example = json!({"success": true, "data": {"accepted": true, "receivers": 1, "schemaProblems": [], "webhooks": [
                {"id": "0190c0ff-ee7a-7b1c-8d2e-4f5061728394", "url": "https://api.yourapp.com/webhooks", "receives": true,
                    "reasons": [], "waits": ["paused"]},
                {"id": "0190c0ff-ee7a-7b1c-8d2e-4f5061728395", "url": "https://api.yourapp.com/other", "receives": false,
                    "reasons": ["session", "filter"], "waits": []}]}})),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 413, description = "`PAYLOAD_TOO_LARGE`", body = Failure),
    ),
)]
pub(crate) async fn preview(
    caller: Authenticated,
    state: web::Data<State>,
    RawBody(body): RawBody<MAX_BODY_BYTES>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksRead)?;
    let request = parse(&body)?;
    let types = state.catalogue.event_types().await?;
    let reader = Reader { validation: SchemaValidation::Warn, ..Reader::new(&state, tenant, Some(&types)) };
    let Publishable { event, data, warnings } = reader.read(request, EventId::generate)?;
    let data = EventData::published(data);
    let webhooks = state.store.webhooks(tenant).await?;
    let webhooks: Vec<WebhookPreview> =
        webhooks.iter().map(|webhook| WebhookPreview::new(webhook, &event, &data)).collect();
    let preview = EventPreview {
        accepted: warnings.is_empty() || state.schema_validation != SchemaValidation::Reject,
        receivers: webhooks.iter().filter(|webhook| webhook.receives).count(),
        schema_problems: warnings,
        webhooks,
    };
    Ok(success(StatusCode::OK, preview))
}

impl WebhookPreview {
    fn new(webhook: &Webhook, event: &Event, data: &EventData<'_>) -> Self {
        let against = [
            (Reason::Inactive, !webhook.is_active),
            (Reason::Type, !webhook.wants_type(event)),
            (Reason::Session, !webhook.wants_session(event)),
            (Reason::Filter, !webhook.wants_data(data)),
        ];
        let wait = [
            (Wait::Paused, webhook.paused_at.is_some()),
            (Wait::Secret, webhook.secret.is_err() || webhook.previous_secrets.is_err()),
        ];
        let reasons: Vec<Reason> =
            against.into_iter().filter_map(|(reason, holds)| holds.then_some(reason)).collect();
        let receives = reasons.is_empty();
        let waits =
            wait.into_iter().filter_map(|(wait, holds)| (receives && holds).then_some(wait)).collect();
        Self { id: webhook.id.to_string(), url: webhook.url.as_str().to_owned(), receives, reasons, waits }
    }
}
