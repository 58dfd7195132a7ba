use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use broker::PublishError;
use domain::TenantId;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::auth::Publisher;
use crate::body::{RawBody, parse};
use crate::envelope::{Failure, Success, success};
use crate::error::ApiError;
use crate::idempotency::EventIds;
use crate::intake::Intakes;
use crate::routes::events::{PublishEvent, Publishable, Reader};
use crate::schema::SchemaProblem;
use crate::state::State;

/// Most events of a batch.
pub(crate) const MAX_BATCH_EVENTS: usize = 500;
/// Largest batch, in bytes.
pub(crate) const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Events to publish.
#[derive(ToSchema)]
#[schema(as = PublishBatch, example = json!({"events": [
    {"type": "message.received", "id": "order-1042", "data": {"from": "+15550100", "text": "hi"}},
    {"type": "message.sent", "data": {"to": "+15550100", "text": "hello"}}
]}))]
#[expect(dead_code, reason = "describes what `Batch` reads, for the OpenAPI document")]
pub(crate) struct PublishBatch {
    /// 1 to 500 events, each as `POST /api/events` takes it.
    #[schema(min_items = 1, max_items = 500)]
    events: Vec<PublishEvent<'static>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch<'a> {
    // Each is read by itself, so that a mistake in one is not the others'.
    #[serde(borrow, default)]
    events: Option<Vec<&'a RawValue>>,
}

/// What became of one event of a batch: its `id` where it was accepted, else its `error`.
#[derive(Serialize, ToSchema)]
pub(crate) struct BatchItem {
    /// Its place in the batch, from 0.
    index: usize,
    /// The status that it would have been answered with alone.
    #[schema(example = 202)]
    status: u16,
    /// Names the event: receivers see it as `webhook-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "order-1042")]
    id: Option<String>,
    /// Where `data` is not as the type's schema says, on installations that warn of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<SchemaProblem>,
    /// As an answer with an error has it.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_envelope")]
    #[schema(value_type = Option<Failure>)]
    error: Option<ApiError>,
}

/// Publish events
///
/// Publishes up to 500 events, each as if alone: one that is not valid keeps none of the others back. Much cheaper than a
/// request for each. 202 means that all of them are accepted; 207 that some are, see `status` of each in `data`. Where none is,
/// the answer is an error, whose `errors` name the fields as `events[3].type`. After an error of ours publish what was not
/// accepted again, with the same ids. A batch counts as its valid events on the plan, which lets all of them through or none.
/// At most 4 MiB. An `Idempotency-Key` is that of the whole batch: repeated as it was, its events have the ids they had. Scope
/// `events:publish`.
#[utoipa::path(
    post,
    path = "/api/events/batch",
    tag = "Events",
    security(("bearer" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 characters of visible ASCII, of your choice",
        min_length = 1, max_length = 255, example = "orders-of-monday")),
    request_body = PublishBatch,
    responses(
        (status = 202, description = "All events are accepted", body = Success<Vec<BatchItem>>,
            example = json!({"success": true, "data": [{"index": 0, "status": 202, "id": "order-1042"}]})),
        (status = 207, description = "Some events are accepted, some are not", body = Success<Vec<BatchItem>>,
            example = json!({"success": true, "data": [{"index": 0, "status": 202, "id": "order-1042"}, {"index": 1, "status": 400,
                "error": {"success": false, "message": "Validation failed", "code": "VALIDATION_ERROR",
                    "errors": {"data": "data is required"}}}]})),
        (status = 400, description = "`VALIDATION_ERROR`: no event is accepted", body = Failure,
            example = json!({"success": false, "message": "Validation failed", "code": "VALIDATION_ERROR",
                "errors": {"events[0].data": "data is required"}})),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`, `SUBSCRIPTION_INACTIVE`, or `LIMIT_EXCEEDED` when the plan does not allow so \
            many events today", body = Failure),
        (status = 409, description = "`CONFLICT`: the `Idempotency-Key` was used with another request", body = Failure),
        (status = 413, description = "`PAYLOAD_TOO_LARGE`", body = Failure),
        (status = 429, description = "`RATE_LIMITED`: the plan allows no more events this minute, or the API key no more \
            requests, see `Retry-After`",
            body = Failure),
        (status = 503, description = "`SERVICE_UNAVAILABLE`: none was confirmed in time, see `Retry-After`", body = Failure),
    ),
)]
pub(crate) async fn publish(
    caller: Publisher,
    state: web::Data<State>,
    intakes: web::Data<Intakes>,
    http: HttpRequest,
    RawBody(body): RawBody<MAX_BATCH_BYTES>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may_publish()?;
    let items = split(&body)?;
    let ids = EventIds::of(&http, &state, tenant, &body).await?;
    let types = state.catalogue.known().await;
    let reader = Reader::new(&state, tenant, types.as_deref());
    let mut valid: Vec<Publishable<'_>> = Vec::with_capacity(items.len());
    let mut read = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let event = parse(item.get().as_bytes()).and_then(|request| reader.read(request, || ids.at(index)));
        // A valid one by its place among the valid ones.
        read.push(event.map(|event| {
            valid.push(event);
            valid.len() - 1
        }));
    }
    let published = publish_valid(&state, &intakes, tenant, &valid).await?;
    let items = read.into_iter().enumerate().map(|(index, read)| {
        let result = read.and_then(|place| published[place].map(|()| &valid[place]).map_err(ApiError::from));
        BatchItem::new(index, result)
    });
    answer(items.collect())
}

async fn publish_valid(
    state: &State,
    intakes: &Intakes,
    tenant: TenantId,
    valid: &[Publishable<'_>],
) -> Result<Vec<Result<(), PublishError>>, ApiError> {
    if valid.is_empty() {
        return Ok(Vec::new());
    }
    let count = |events: usize| u32::try_from(events).unwrap_or(u32::MAX);
    state.tenants.admit_events(tenant, count(valid.len())).await?;
    let published = intakes.publish_all(valid).await;
    let unconfirmed = published.iter().filter(|result| result.is_err()).count();
    if unconfirmed > 0 {
        state.tenants.take_back_events(tenant, count(unconfirmed));
    }
    Ok(published)
}

fn split(body: &[u8]) -> Result<Vec<&RawValue>, ApiError> {
    let problem = |problem: String| ApiError::field("events", problem);
    let items = parse::<Batch<'_>>(body)?.events.ok_or_else(|| problem("events is required".to_owned()))?;
    if items.is_empty() || items.len() > MAX_BATCH_EVENTS {
        let found = items.len();
        return Err(problem(format!("events must be 1 to {MAX_BATCH_EVENTS} events, not {found}")));
    }
    Ok(items)
}

fn answer(items: Vec<BatchItem>) -> Result<HttpResponse, ApiError> {
    let accepted = items.iter().filter(|item| item.error.is_none()).count();
    if accepted == 0 {
        return Err(ApiError::of_all("events", items.into_iter().filter_map(|item| item.error).collect()));
    }
    let status = if accepted == items.len() { StatusCode::ACCEPTED } else { StatusCode::MULTI_STATUS };
    Ok(success(status, items))
}

impl BatchItem {
    fn new(index: usize, result: Result<&Publishable<'_>, ApiError>) -> Self {
        match result {
            Ok(Publishable { event, warnings, .. }) => {
                let status = StatusCode::ACCEPTED.as_u16();
                Self {
                    index,
                    status,
                    id: Some(event.id.to_string()),
                    warnings: warnings.clone(),
                    error: None,
                }
            }
            Err(error) => {
                let status = error.status();
                Self { index, status, id: None, warnings: Vec::new(), error: Some(error) }
            }
        }
    }
}

fn as_envelope<S: Serializer>(error: &Option<ApiError>, serializer: S) -> Result<S::Ok, S::Error> {
    error.as_ref().map(ApiError::envelope).serialize(serializer)
}
