use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use domain::{Description, EventType, Scope};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use store::{EventTypeDeletion, EventTypePut, EventTypeRow};
use utoipa::ToSchema;

use crate::auth::Authenticated;
use crate::body::{FieldErrors, JsonBody, Query};
use crate::catalogue::Include;
use crate::envelope::{Failure, Success, success};
use crate::error::{ApiError, Code};
use crate::schema::{MAX_SCHEMA_BYTES, Schema};
use crate::state::State;

/// Most types of the catalogue.
const MAX_EVENT_TYPES: i64 = 1000;

/// What to list. Other parameters are ignored: the list was always public and without any.
#[derive(Deserialize)]
pub(crate) struct ListEventTypes {
    include: Option<String>,
}

/// An event type.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EventType)]
pub(crate) struct EventTypeView {
    #[serde(rename = "type")]
    #[schema(example = "message.received")]
    event_type: String,
    /// What it means.
    #[schema(example = "A message arrived in one of the tenant's sessions.")]
    description: String,
    /// A JSON Schema that the `data` of such events has; null: any.
    #[schema(value_type = Option<Object>, example = json!({"type": "object", "required": ["from"]}))]
    schema: Option<Box<RawValue>>,
    /// The `data` of such an event.
    #[schema(value_type = Option<serde_json::Value>, example = json!({"from": "+15550100", "text": "hi"}))]
    example: Option<Box<RawValue>>,
    /// Whether only Postrider publishes such events.
    reserved: bool,
}

/// What an event type is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"description": "An order was paid.", "schema": {"type": "object", "required": ["orderId"],
    "properties": {"orderId": {"type": "string"}}}, "example": {"orderId": "1042"}}))]
pub(crate) struct PutEventType {
    /// What it means: 1 to 512 characters.
    #[schema(required = true, value_type = String)]
    description: Option<String>,
    /// A JSON Schema for `data`, at most 64 KiB; it can refer only to itself. Absent or null: any data.
    #[schema(value_type = Option<Object>)]
    schema: Option<Box<RawValue>>,
    /// The `data` of such an event, at most 64 KiB, as the schema has it.
    #[schema(value_type = Option<serde_json::Value>)]
    example: Option<Box<RawValue>>,
}

/// The event type that was deleted.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeletedEventType {
    #[serde(rename = "type")]
    event_type: String,
    /// Always true.
    deleted: bool,
}

/// List event types
///
/// Public list of webhook event types you can subscribe to. Postrider itself publishes a few more, about webhooks and their
/// deliveries: `include=domain` lists these too. They have to be asked for by name, `webhook.*` or `delivery.*`: `*` is not
/// about webhooks themselves.
#[utoipa::path(
    get,
    path = "/api/webhooks/events",
    tag = "Webhooks",
    params(
        ("include" = Option<String>, Query, description = "`domain`: also `webhook.created`, `delivery.exhausted` and the like",
            pattern = "^domain$", example = "domain"),
    ),
    responses(
        (status = 200, description = "The event types", body = Success<Vec<String>>,
            example = json!({"success": true, "data": ["message.received", "message.sent", "session.connected",
                "session.disconnected", "campaign.completed"]})),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 503, description = "`SERVICE_UNAVAILABLE`", body = Failure),
    ),
)]
pub(crate) async fn list(
    state: web::Data<State>,
    Query(query): Query<ListEventTypes>,
) -> Result<HttpResponse, ApiError> {
    let include = match query.include.as_deref() {
        None => Include::Ordinary,
        Some("domain") => Include::Domain,
        Some(_) => return Err(ApiError::field("include", "include must be domain, or absent")),
    };
    let types = state.catalogue.event_types().await?;
    Ok(success(StatusCode::OK, types.names(include)))
}

/// Get event type
///
/// What events of a type are about, a JSON Schema of their `data`, and an example. Public, as the list is.
#[utoipa::path(
    get,
    path = "/api/webhooks/events/{type}",
    tag = "Webhooks",
    params(("type" = String, Path, description = "The event type", example = "message.received")),
    responses(
        (status = 200, description = "The event type", body = Success<EventTypeView>),
        (status = 404, description = "`NOT_FOUND`", body = Failure),
        (status = 503, description = "`SERVICE_UNAVAILABLE`", body = Failure),
    ),
)]
pub(crate) async fn get(
    state: web::Data<State>,
    event_type: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let types = state.catalogue.event_types().await?;
    let known = types.get(&event_type).ok_or_else(not_found)?;
    Ok(success(StatusCode::OK, view(known.row.clone())))
}

/// Create or change event type
///
/// All of it is replaced. A gateway knows of it after a second, dispatchers at once. Events are checked against the schema
/// where the installation says so (`POSTRIDER_SCHEMA_VALIDATION`), and always by `POST /api/events/preview`. Scope `admin`.
#[utoipa::path(
    put,
    path = "/api/webhooks/events/{type}",
    tag = "Administration",
    security(("bearer" = [])),
    params(("type" = String, Path, description = "Names of letters, digits, _ and -, with dots between; not below `webhook` or \
        `delivery`", example = "order.paid")),
    request_body = PutEventType,
    responses(
        (status = 200, description = "The event type, changed", body = Success<EventTypeView>),
        (status = 201, description = "The event type, created", body = Success<EventTypeView>),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 409, description = "`CONFLICT`: there are 1000 types already", body = Failure),
    ),
)]
pub(crate) async fn put(
    caller: Authenticated,
    state: web::Data<State>,
    event_type: web::Path<String>,
    JsonBody(request): JsonBody<PutEventType>,
) -> Result<HttpResponse, ApiError> {
    caller.may(Scope::Admin)?;
    let row = parse_put(&event_type, request)?;
    let status = match caller.store(&state).put_event_type(&row, MAX_EVENT_TYPES).await? {
        EventTypePut::Created => StatusCode::CREATED,
        EventTypePut::Changed => StatusCode::OK,
        EventTypePut::Full => {
            let message = format!("There are {MAX_EVENT_TYPES} event types already");
            return Err(ApiError::new(Code::Conflict, message));
        }
    };
    state.catalogue.expire();
    Ok(success(status, view(row)))
}

/// Delete event type
///
/// Only one that no webhook names; wildcards do not count. Events of it that no dispatcher has taken over yet go to the dead
/// letters. Scope `admin`.
#[utoipa::path(
    delete,
    path = "/api/webhooks/events/{type}",
    tag = "Administration",
    security(("bearer" = [])),
    params(("type" = String, Path, description = "The event type", example = "order.paid")),
    responses(
        (status = 200, description = "The event type is deleted", body = Success<DeletedEventType>),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`", body = Failure),
        (status = 409, description = "`CONFLICT`: webhooks name it, or only Postrider publishes it", body = Failure),
    ),
)]
pub(crate) async fn delete(
    caller: Authenticated,
    state: web::Data<State>,
    event_type: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    caller.may(Scope::Admin)?;
    let event_type: EventType = event_type.parse().map_err(|_| not_found())?;
    if event_type.is_reserved() {
        return Err(ApiError::new(Code::Conflict, "Postrider itself publishes events of this type"));
    }
    match caller.store(&state).delete_event_type(event_type.as_str()).await? {
        EventTypeDeletion::Deleted => {
            state.catalogue.expire();
            let deleted = DeletedEventType { event_type: event_type.to_string(), deleted: true };
            Ok(success(StatusCode::OK, deleted))
        }
        EventTypeDeletion::Unknown => Err(not_found()),
        EventTypeDeletion::InUse => {
            Err(ApiError::new(Code::Conflict, "Webhooks are subscribed to this type by its name"))
        }
    }
}

fn not_found() -> ApiError {
    ApiError::new(Code::NotFound, "Event type not found")
}

fn parse_put(name: &str, request: PutEventType) -> Result<EventTypeRow, ApiError> {
    let mut errors = FieldErrors::default();
    let event_type = errors.keep("type", name.parse::<EventType>());
    if event_type.as_ref().is_some_and(EventType::is_reserved) {
        errors.add("type", format!("{name} is reserved: Postrider itself publishes it"));
    }
    let description = errors.require("description", request.description, |text| Description::new(&text));
    for (field, json) in [("schema", &request.schema), ("example", &request.example)] {
        if json.as_ref().is_some_and(|json| json.get().len() > MAX_SCHEMA_BYTES) {
            errors.add(field, format!("{field} must be at most {} KiB", MAX_SCHEMA_BYTES / 1024));
        }
    }
    if errors.is_empty()
        && let Some(schema) = &request.schema
    {
        let compiled = errors.keep("schema", Schema::compile(schema.get()));
        let problems =
            compiled.zip(request.example.as_ref()).map(|(schema, example)| schema.problems(example));
        for problem in problems.unwrap_or_default() {
            errors.add(&format!("example{}", problem.pointer), problem.problem);
        }
    }
    let text = |json: Option<Box<RawValue>>| json.map(|json| json.get().to_owned());
    match (event_type, description) {
        (Some(event_type), Some(description)) if errors.is_empty() => Ok(EventTypeRow {
            name: event_type.to_string(),
            description: description.as_str().to_owned(),
            schema: text(request.schema),
            example: text(request.example),
        }),
        _ => Err(errors.into_error()),
    }
}

fn view(row: EventTypeRow) -> EventTypeView {
    let json = |text: Option<String>| text.and_then(|text| RawValue::from_string(text).ok());
    EventTypeView {
        reserved: row.name.parse().is_ok_and(|name: EventType| name.is_reserved()),
        event_type: row.name,
        description: row.description,
        schema: json(row.schema),
        example: json(row.example),
    }
}
