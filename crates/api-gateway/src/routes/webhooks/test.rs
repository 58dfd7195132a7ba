use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use domain::{
    Cause, Event, EventData, EventId, EventType, Scope, SessionId, SessionState, TenantId, Webhook,
    check_data, render_body,
};
use sender::{Attempted, Capture, Fault, Target};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use store::{AttemptRecord, DeliveryKey, Trigger};
use tracing::{error, warn};
use utoipa::ToSchema;

use super::exchange::{RequestView, ResponseView};
use super::{parse_id, timestamp};
use crate::auth::Authenticated;
use crate::body::{FieldErrors, OptionalJsonBody, present};
use crate::envelope::{Failure, Success, success};
use crate::error::{ApiError, Code};
use crate::state::State;
use crate::test_runs::TestRun;

/// What to test with. Everything can be left out.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(example = json!({"eventType": "message.received"}))]
pub(crate) struct TestWebhook {
    /// One of the event types; when absent, the first that the webhook wants.
    event_type: Option<String>,
    /// The event's data, at most 256 KiB; a sample when absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<serde_json::Value>)]
    data: Option<Box<RawValue>>,
    /// Makes it a live test, bound to this session: 502 when its last known state is disconnected. A session that no event has
    /// told of counts as connected.
    session_id: Option<String>,
}

/// What a test came to.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TestResult {
    /// Whether the receiver answered 2xx, completely and in time.
    delivered: bool,
    event: TestEvent,
    #[schema(format = DateTime)]
    started_at: String,
    /// From looking the name up to the end of the answer.
    #[schema(example = 48)]
    duration_ms: u64,
    /// As it was sent.
    request: RequestView,
    /// Null when not even the head of an answer came.
    response: Option<ResponseView>,
    /// Why it was not delivered; null when it was.
    error: Option<TestError>,
}

/// The event that was made up for a test.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TestEvent {
    /// Names the event: the receiver sees it as `webhook-id`.
    #[schema(example = "evt_0190c0ffee7a7b1c8d2e4f5061728394")]
    id: String,
    /// Its type.
    #[serde(rename = "type")]
    #[schema(example = "message.received")]
    event_type: String,
    /// Whether the webhook would be sent such an event if it were published: by its `events`, `sessionIds`, `filter` and
    /// `isActive`.
    wanted: bool,
}

/// Why a test was not delivered.
#[derive(Serialize, ToSchema)]
struct TestError {
    /// The error class, as in the history: `status`, `gone`, `timeout`, `dns`, `address_refused`, `connect`, `tls` or
    /// `protocol`.
    #[schema(example = "status")]
    class: &'static str,
    #[schema(example = "the receiver answered 500; only 2xx counts as delivered")]
    explanation: String,
}

/// Test webhook
///
/// Sends the webhook one event that is made up, under the rules of every delivery (address guard, deadline, headers,
/// signature), and shows what was said on both sides. Also where the webhook is off or paused. Tried once; it counts neither
/// for the webhook's health nor as an event, and is in the history with the trigger `test`. At most one test of a webhook at a time, and ten a minute of a tenant through each
/// gateway. With `sessionId` it is a live test through that session: Postrider learns the state of sessions from the events
/// `session.connected` and `session.disconnected`, of which the one that occurred last counts. Scope `webhooks:write`.
#[utoipa::path(
    post,
    path = "/api/webhooks/{id}/test",
    tag = "Webhooks",
    security(("bearer" = [])),
    params(("id" = String, Path, format = Uuid, description = "Webhook UUID")),
    request_body(content = Option<TestWebhook>, description = "May be absent"),
    responses(
        (status = 200, description = "The request was made, or would have been but for the receiver: see `delivered`",
            body = Success<TestResult>),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`", body = Failure),
        (status = 429, description = "`RATE_LIMITED`: see `Retry-After`", body = Failure),
        (status = 502, description = "`WHATSAPP_UNAVAILABLE`: the session is disconnected", body = Failure),
        (status = 503, description = "`SERVICE_UNAVAILABLE`: no name server answers, or the secret cannot be read",
            body = Failure),
    ),
)]
pub(crate) async fn test(
    caller: Authenticated,
    state: web::Data<State>,
    id: web::Path<String>,
    OptionalJsonBody(request): OptionalJsonBody<TestWebhook>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksWrite)?;
    let id = parse_id(&id)?;
    let webhook = state.store.webhook(tenant, id).await?.ok_or_else(ApiError::webhook_not_found)?;
    let now = Utc::now();
    let event = parse_test(request.unwrap_or_default(), &webhook, &state, now).await?;
    if let Some(session) = &event.session_id {
        check_session(&state, tenant, session).await?;
    }
    let run = TestRun::begin(state.clone(), tenant, id)?;
    caller.store(&state).log_use("webhook.tested", &id.to_string()).await?;
    // Once begun it goes on to its end, also where the caller hangs up: the receiver may have seen it.
    let result = tokio::spawn(async move {
        let _run = run;
        make(&state, webhook, &event, now).await
    });
    let result = result.await.map_err(|defect| {
        error!(%defect, "a test met a defect");
        ApiError::new(Code::InternalError, "Internal error")
    });
    Ok(success(StatusCode::OK, result??))
}

async fn make(
    state: &State,
    webhook: Webhook,
    event: &Event,
    now: DateTime<Utc>,
) -> Result<TestResult, ApiError> {
    let target = Target::new(webhook);
    let attempted = state.sender.send(&target, event, now, Capture::All).await.map_err(|fault| {
        let message = match fault {
            Fault::NameServers => "No name server answers; try again shortly",
            Fault::Secret => "The webhook's secret cannot be read, so nothing can be signed",
        };
        ApiError::new(Code::ServiceUnavailable, message)
    })?;
    if let Err(error) = state.store.record_test(&record(&target.webhook, event, &attempted, now)).await {
        // It was made, and its caller sees what it came to.
        warn!(%error, "a test is not in the history");
    }
    let body = state.sender.body(&target, event);
    Ok(TestResult::new(&target.webhook, event, &body, attempted, now))
}

/// The test as the history has it.
fn record(
    webhook: &Webhook,
    event: &Event,
    attempted: &Attempted,
    started_at: DateTime<Utc>,
) -> AttemptRecord {
    AttemptRecord {
        key: DeliveryKey {
            webhook_id: webhook.id,
            event_id: event.id.clone(),
            event_day: started_at.date_naive(),
        },
        tenant_id: webhook.tenant_id,
        event_type: event.event_type.clone(),
        attempt: 1,
        started_at,
        duration_ms: u32::try_from(attempted.duration.as_millis()).unwrap_or(u32::MAX),
        status_code: attempted.status_code,
        error: attempted.outcome.cause().map(Cause::code),
        next_attempt_at: None,
        trigger: Some(Trigger::Test),
        exchange: attempted.exchange.clone().map(|exchange| Box::new(exchange.for_history())),
    }
}

async fn parse_test(
    request: TestWebhook,
    webhook: &Webhook,
    state: &State,
    now: DateTime<Utc>,
) -> Result<Event, ApiError> {
    let types = state.catalogue.event_types().await?;
    let mut errors = FieldErrors::default();
    let session_id =
        errors.keep("sessionId", request.session_id.map(|id| id.parse::<SessionId>()).transpose()).flatten();
    let event_type = match request.event_type {
        Some(text) => text.parse::<EventType>().map_err(|error| error.to_string()).and_then(|event_type| {
            let is_known = types.get(event_type.as_str()).is_some();
            let unknown = || format!("{event_type} is not an event type; see GET /api/webhooks/events");
            if is_known { Ok(event_type) } else { Err(unknown()) }
        }),
        None => types
            .first_wanted(&webhook.events)
            .ok_or_else(|| "eventType is required: the webhook wants none that is known".to_owned()),
    };
    let event_type = errors.keep("eventType", event_type);
    if let Some(data) = &request.data {
        errors.keep("data", check_data(data));
    }
    let (Some(event_type), true) = (event_type, errors.is_empty()) else {
        return Err(errors.into_error());
    };
    let id = EventId::generate();
    let example = types.get(event_type.as_str()).and_then(|known| known.row.example.as_deref());
    let data = request.data.map_or_else(|| sample(example, session_id.as_ref()), Ok);
    let data = data.map_err(|error| ApiError::field("data", error.to_string()))?;
    let body: Bytes = render_body(&id, &event_type, now, &data);
    let tenant_id = webhook.tenant_id;
    Ok(Event {
        tenant_id,
        id,
        event_type,
        occurred_at: now,
        session_id,
        ordering_key: None,
        deliver_at: None,
        tags: Vec::new(),
        trace: None,
        body,
    })
}

/// What an event of a type may look like: the example of the catalogue, in the session if one is named.
fn sample(example: Option<&str>, session: Option<&SessionId>) -> serde_json::Result<Box<RawValue>> {
    let Some(example) = example else { return to_raw_value(&json!({"test": true})) };
    let Some(session) = session else { return serde_json::from_str(example) };
    let mut data: Value = serde_json::from_str(example)?;
    if let Some(of) = data.get_mut("sessionId") {
        *of = session.as_str().into();
    }
    to_raw_value(&data)
}

async fn check_session(state: &State, tenant: TenantId, session: &SessionId) -> Result<(), ApiError> {
    match state.store.session_state(tenant, session).await? {
        Some((SessionState::Disconnected, since)) => {
            let message = format!("The session {session} is disconnected since {}", timestamp(since));
            Err(ApiError::new(Code::WhatsappUnavailable, message))
        }
        Some((SessionState::Connected, _)) | None => Ok(()),
    }
}

impl TestResult {
    fn new(
        webhook: &Webhook,
        event: &Event,
        body: &[u8],
        attempted: Attempted,
        started_at: DateTime<Utc>,
    ) -> Self {
        let exchange = attempted.exchange.map(|exchange| *exchange);
        let (headers, response, explanation) = match exchange {
            Some(exchange) => (exchange.request_headers, exchange.response, exchange.explanation),
            None => (Vec::new(), None, None),
        };
        let error = attempted.outcome.cause().map(|cause| TestError {
            class: cause.code(),
            explanation: explanation.unwrap_or_else(|| explain(cause)),
        });
        Self {
            delivered: error.is_none(),
            event: TestEvent {
                id: event.id.to_string(),
                event_type: event.event_type.to_string(),
                wanted: webhook.matches(event, &EventData::of_body(&event.body)),
            },
            started_at: timestamp(started_at),
            duration_ms: u64::try_from(attempted.duration.as_millis()).unwrap_or(u64::MAX),
            request: RequestView::new(webhook.url.as_str(), headers, body),
            response: response.map(ResponseView::new),
            error,
        }
    }
}

/// A failure with a complete answer.
fn explain(cause: Cause) -> String {
    match cause {
        Cause::Status(status @ 300..=399) => {
            format!("the receiver answered {status}; redirects are not followed")
        }
        Cause::Status(status) => format!("the receiver answered {status}; only 2xx counts as delivered"),
        Cause::Gone => "the receiver answered 410, which switches a webhook off; a test does not".to_owned(),
        Cause::Timeout
        | Cause::Dns
        | Cause::AddressRefused
        | Cause::Connect
        | Cause::Tls
        | Cause::Protocol => "no complete answer came".to_owned(),
    }
}
