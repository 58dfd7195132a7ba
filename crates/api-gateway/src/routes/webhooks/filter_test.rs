use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use domain::{EventData, Filter, JudgedCondition, Scope, check_data};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::auth::Authenticated;
use crate::body::{FieldErrors, JsonBody, present};
use crate::envelope::{Failure, Success, success};
use crate::error::ApiError;

/// Longest text that is shown of what was found, in characters.
const MAX_SHOWN_CHARS: usize = 256;

/// A filter to try, and data to try it on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(example = json!({"filter": {"amount": {"$gte": 100}, "$or": [{"country": "DE"}, {"vip": true}]},
    "data": {"amount": 250, "country": "FR", "vip": true}}))]
pub(crate) struct TestFilter {
    /// As a webhook takes it.
    #[serde(default, deserialize_with = "present")]
    #[schema(required = true, value_type = Object)]
    filter: Option<Box<RawValue>>,
    /// The `data` of an event: any JSON, at most 256 KiB.
    #[serde(default, deserialize_with = "present")]
    #[schema(required = true, value_type = Value)]
    data: Option<Box<RawValue>>,
}

/// What a filter makes of some data.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FilterResult {
    /// Whether a webhook with this filter gets an event with this data.
    matches: bool,
    /// Whether the data could be judged. Data with numbers or texts that no program can hold, such as `1e400`, cannot, and is
    /// delivered.
    judged: bool,
    /// Every condition of the filter, in its order.
    conditions: Vec<ConditionResult>,
}

/// What one condition comes to.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConditionResult {
    #[schema(example = "amount")]
    field: String,
    #[schema(example = "$gte")]
    operator: &'static str,
    /// What the field is compared with.
    #[schema(example = 100)]
    operand: Value,
    /// What kind of value the field has.
    found_type: FoundType,
    /// The value, unless it has parts; long texts are cut.
    #[schema(example = 250)]
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<Value>,
    /// Whether the condition holds.
    holds: bool,
    /// Whether the result rests upon it: without the others it would be the same.
    decisive: bool,
}

/// What kind of value a field has.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum FoundType {
    /// There is no such field.
    Missing,
    Null,
    Boolean,
    Number,
    String,
    Array,
    Object,
}

/// Test filter
///
/// Says whether a filter wants some data, and which conditions decide that. Nothing is changed or sent. Scope
/// `webhooks:read`.
#[utoipa::path(
    post,
    path = "/api/webhooks/filter/test",
    tag = "Webhooks",
    security(("bearer" = [])),
    request_body = TestFilter,
    responses(
        (status = 200, description = "What the filter makes of the data", body = Success<FilterResult>),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 413, description = "`PAYLOAD_TOO_LARGE`", body = Failure),
    ),
)]
pub(crate) async fn test(
    caller: Authenticated,
    JsonBody(request): JsonBody<TestFilter>,
) -> Result<HttpResponse, ApiError> {
    caller.may(Scope::WebhooksRead)?;
    let mut errors = FieldErrors::default();
    let filter = errors.require("filter", request.filter, |filter| filter.get().parse::<Filter>());
    let data = errors.require("data", request.data, |data| check_data(&data).map(|()| data));
    let (Some(filter), Some(data)) = (filter, data) else { return Err(errors.into_error()) };
    let data = EventData::published(&data);
    let result = match data.value() {
        None => FilterResult { matches: true, judged: false, conditions: Vec::new() },
        Some(value) => {
            let explanation = filter.explain(value);
            let conditions = explanation.conditions.into_iter().map(ConditionResult::from).collect();
            FilterResult { matches: explanation.matches, judged: true, conditions }
        }
    };
    Ok(success(StatusCode::OK, result))
}

impl From<JudgedCondition<'_>> for ConditionResult {
    fn from(condition: JudgedCondition<'_>) -> Self {
        let (found_type, found) = match condition.found {
            None => (FoundType::Missing, None),
            Some(Value::Null) => (FoundType::Null, Some(Value::Null)),
            Some(value @ Value::Bool(_)) => (FoundType::Boolean, Some(value.clone())),
            Some(value @ Value::Number(_)) => (FoundType::Number, Some(value.clone())),
            Some(Value::String(text)) => {
                (FoundType::String, Some(text.chars().take(MAX_SHOWN_CHARS).collect::<String>().into()))
            }
            Some(Value::Array(_)) => (FoundType::Array, None),
            Some(Value::Object(_)) => (FoundType::Object, None),
        };
        Self {
            field: condition.field.to_owned(),
            operator: condition.operator,
            operand: condition.operand,
            found_type,
            found,
            holds: condition.holds,
            decisive: condition.is_decisive,
        }
    }
}
