use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    Event, EventId, EventType, Invalid, OrderingKey, SessionId, TenantId, check_data, check_deliver_at,
    parse_deliver_at, parse_occurred_at, parse_tags,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::auth::Publisher;
use crate::body::{FieldErrors, MAX_BODY_BYTES, RawBody, parse, present};
use crate::catalogue::Types;
use crate::envelope::{Failure, Success, success};
use crate::error::ApiError;
use crate::idempotency::EventIds;
use crate::intake::Intakes;
use crate::schema::{SchemaProblem, SchemaValidation};
use crate::state::State;

/// An event to publish.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(example = json!({"type": "message.received", "data": {"from": "+15550100", "text": "hi"}}))]
pub(crate) struct PublishEvent<'a> {
    /// One of the event types.
    #[serde(rename = "type")]
    #[schema(required = true, value_type = String)]
    event_type: Option<String>,
    /// Any JSON, delivered byte for byte as given: at most 256 KiB, nested at most 64 deep.
    #[serde(borrow, default, deserialize_with = "present")]
    #[schema(required = true, value_type = serde_json::Value)]
    data: Option<&'a RawValue>,
    /// Unique within the tenant: a repeat is delivered once. At most 128 bytes, no dot. Made up when absent.
    #[schema(example = "order-1042-paid")]
    id: Option<String>,
    /// When it happened; now when absent.
    #[schema(value_type = Option<String>, format = DateTime)]
    occurred_at: Option<String>,
    /// The session it came from, for webhooks that want certain sessions only.
    session_id: Option<String>,
    /// Events that share it reach webhooks with `ordered` one after another, in the order of their 202s. At most 128 bytes;
    /// the session when absent.
    ordering_key: Option<String>,
    /// When it is to be delivered: within 30 days, and 5 days less than events are kept. What has passed is now. Which webhooks get
    /// it is decided now: one that comes later does not, and one that is deleted or off by then does not either. Such an event
    /// has no place in an order.
    #[schema(value_type = Option<String>, format = DateTime)]
    deliver_at: Option<String>,
    /// What it can be found by, to be erased: at most 10, each of at most 128 bytes.
    #[serde(default)]
    #[schema(max_items = 10, example = json!(["customer-77"]))]
    tags: Vec<String>,
}

/// An accepted event.
#[derive(Serialize, ToSchema)]
pub(crate) struct AcceptedEvent {
    /// Names the event: receivers see it as `webhook-id`.
    #[schema(example = "evt_0190c0ffee7a7b1c8d2e4f5061728394")]
    id: String,
    /// Where `data` is not as the type's schema says, on installations that warn of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<SchemaProblem>,
}

/// Publish event
///
/// 202 means that the broker has the event on disk, and that it will be delivered to every webhook that wants it. After
/// any other answer, publish again with the same id: a repeat is delivered once. Where the event has none, an `Idempotency-Key`
/// does the same: the same body under it has the same id. For a day, another body under it is 409 (unless the database
/// does not answer just then: then it is another event). Scope `events:publish`.
#[utoipa::path(
    post,
    path = "/api/events",
    tag = "Events",
    security(("bearer" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 characters of visible ASCII, of your choice",
        min_length = 1, max_length = 255, example = "order-1042-paid")),
    request_body = PublishEvent<'static>,
    responses(
        (status = 202, description = "The event is accepted", body = Success<AcceptedEvent>),
        (status = 400, description = "`VALIDATION_ERROR`; `errors` names places in `data` as `data/items/0`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`, `SUBSCRIPTION_INACTIVE`, or `LIMIT_EXCEEDED` when the plan allows no \
            more events today", body = Failure),
        (status = 409, description = "`CONFLICT`: the `Idempotency-Key` was used with another request", body = Failure),
        (status = 413, description = "`PAYLOAD_TOO_LARGE`", body = Failure),
        (status = 429, description = "`RATE_LIMITED`: the plan allows no more events this minute, or the API key no more \
            requests, see `Retry-After`",
            body = Failure),
        (status = 503, description = "`SERVICE_UNAVAILABLE`: not confirmed in time, see `Retry-After`", body = Failure),
    ),
)]
pub(crate) async fn publish(
    caller: Publisher,
    state: web::Data<State>,
    intakes: web::Data<Intakes>,
    http: HttpRequest,
    RawBody(body): RawBody<MAX_BODY_BYTES>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may_publish()?;
    drop(caller);
    let publishable = {
        let types = state.catalogue.known().await;
        let request = parse(&body)?;
        let ids = EventIds::of(&http, &state, tenant, &body).await?;
        Reader::new(&state, tenant, types.as_deref()).read(request, || ids.at(0))?
    };
    state.tenants.admit_events(tenant, 1).await?;
    if let Err(error) = intakes.publish(&publishable.event, publishable.data).await {
        state.tenants.take_back_events(tenant, 1);
        return Err(error.into());
    }
    let id = publishable.event.id.to_string();
    Ok(success(StatusCode::ACCEPTED, AcceptedEvent { id, warnings: publishable.warnings }))
}

/// An event that can be published.
pub(crate) struct Publishable<'a> {
    pub(crate) event: Event,
    pub(crate) data: &'a RawValue,
    /// Where its data is not as its type's schema says.
    pub(crate) warnings: Vec<SchemaProblem>,
}

/// Reads events of a tenant.
pub(super) struct Reader<'a> {
    pub(super) tenant: TenantId,
    /// What is known of event types, if anything is.
    pub(super) types: Option<&'a Types>,
    pub(super) validation: SchemaValidation,
    /// How long events are kept.
    pub(super) retention: TimeDelta,
}

impl<'a> Reader<'a> {
    pub(super) fn new(state: &State, tenant: TenantId, types: Option<&'a Types>) -> Self {
        // At most ten years.
        let retention = TimeDelta::from_std(state.retention).unwrap_or_default();
        Self { tenant, types, validation: state.schema_validation, retention }
    }

    /// Reads an event, which gets an id from `new_id` if it has none.
    pub(super) fn read<'b>(
        &self,
        request: PublishEvent<'b>,
        new_id: impl FnOnce() -> EventId,
    ) -> Result<Publishable<'b>, ApiError> {
        let mut errors = FieldErrors::default();
        let event_type = errors.require("type", request.event_type, |text| text.parse::<EventType>());
        if let Some(event_type) = &event_type {
            self.check_type(event_type, &mut errors);
        }
        let data = errors.require("data", request.data, |data| check_data(data).map(|()| data));
        let warnings = match (&event_type, &data) {
            (Some(event_type), Some(data)) => self.check_schema(event_type, data, &mut errors),
            _ => Vec::new(),
        };
        let id = errors.keep("id", request.id.map_or_else(|| Ok(new_id()), |id| id.parse()));
        let occurred_at = errors.keep(
            "occurredAt",
            request.occurred_at.as_deref().map_or_else(|| Ok(Utc::now()), parse_occurred_at),
        );
        let session = request.session_id.map(|session| session.parse::<SessionId>()).transpose();
        let session_id = errors.keep("sessionId", session);
        let key = request.ordering_key.map(|key| key.parse::<OrderingKey>()).transpose();
        let ordering_key = errors.keep("orderingKey", key);
        let deliver_at = request.deliver_at.and_then(|at| errors.keep("deliverAt", self.deliver_at(&at)));
        let tags = errors.keep("tags", parse_tags(&request.tags)).unwrap_or_default();
        match (event_type, data, id, occurred_at, session_id, ordering_key) {
            (
                Some(event_type),
                Some(data),
                Some(id),
                Some(occurred_at),
                Some(session_id),
                Some(ordering_key),
            ) if errors.is_empty() => {
                let event = Event {
                    tenant_id: self.tenant,
                    id,
                    event_type,
                    occurred_at,
                    session_id,
                    ordering_key,
                    deliver_at: deliver_at.flatten(),
                    tags,
                    trace: None,        // the intake knows it
                    body: Bytes::new(), // the dispatcher renders it
                };
                Ok(Publishable { event, data, warnings })
            }
            _ => Err(errors.into_error()),
        }
    }

    /// Nothing where it has passed.
    fn deliver_at(&self, text: &str) -> Result<Option<DateTime<Utc>>, Invalid> {
        let (at, now) = (parse_deliver_at(text)?, Utc::now());
        check_deliver_at(at, now, self.retention)?;
        Ok((at > now).then_some(at))
    }

    fn check_type(&self, event_type: &EventType, errors: &mut FieldErrors) {
        if event_type.is_reserved() {
            errors.add("type", format!("{event_type} is reserved: Postrider itself publishes it"));
        } else if self.types.is_some_and(|types| types.get(event_type.as_str()).is_none()) {
            errors.add("type", format!("{event_type} is not an event type; see GET /api/webhooks/events"));
        }
    }

    fn check_schema(
        &self,
        event_type: &EventType,
        data: &RawValue,
        errors: &mut FieldErrors,
    ) -> Vec<SchemaProblem> {
        if self.validation == SchemaValidation::Off {
            return Vec::new();
        }
        let known = self.types.and_then(|types| types.get(event_type.as_str()));
        let problems = known.and_then(|known| known.schema()).map(|schema| schema.problems(data));
        let problems = problems.unwrap_or_default();
        if self.validation == SchemaValidation::Reject {
            for problem in &problems {
                errors.add(&format!("data{}", problem.pointer), &problem.problem);
            }
        }
        problems
    }
}
