//! Every error the API answers with: one table of codes, one envelope.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use broker::PublishError;
use domain::{Rate, Scope};
use serde::Serialize;
use store::{CreateError, StoreError};
use utoipa::ToSchema;

/// What went wrong, for programs. The first ten are the contract's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// 400: request body or query failed validation; `errors` names the fields.
    ValidationError,
    /// 401: missing or invalid JWT / API key.
    Unauthorized,
    /// 403: authenticated but lacking permission.
    Forbidden,
    /// 403: trial expired or subscription not active.
    SubscriptionInactive,
    /// 403: plan limit reached.
    LimitExceeded,
    /// 404: the resource does not exist or is not in your tenant.
    NotFound,
    /// 409: duplicate resource or invalid state transition.
    Conflict,
    /// 429: too many requests; retry after backoff.
    RateLimited,
    /// 500: unexpected server error.
    InternalError,
    /// 502: WhatsApp session disconnected or provider error.
    WhatsappUnavailable,
    /// 405: the path exists, the method does not.
    MethodNotAllowed,
    /// 408: the request body did not arrive in time.
    RequestTimeout,
    /// 412: the resource is not in the state that `If-Match` names; read it again.
    PreconditionFailed,
    /// 413: the request body is too large.
    PayloadTooLarge,
    /// 414: path and query are too long.
    UriTooLong,
    /// 415: the request body is not JSON.
    UnsupportedMediaType,
    /// 431: the headers are too large.
    HeadersTooLarge,
    /// 503: the broker or the database is away; retry after the time in `Retry-After`.
    ServiceUnavailable,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 18] = [
        Self::ValidationError,
        Self::Unauthorized,
        Self::Forbidden,
        Self::SubscriptionInactive,
        Self::LimitExceeded,
        Self::NotFound,
        Self::Conflict,
        Self::RateLimited,
        Self::InternalError,
        Self::WhatsappUnavailable,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::PreconditionFailed,
        Self::PayloadTooLarge,
        Self::UriTooLong,
        Self::UnsupportedMediaType,
        Self::HeadersTooLarge,
        Self::ServiceUnavailable,
    ];

    /// The HTTP status it comes with.
    pub fn status(self) -> u16 {
        match self {
            Self::ValidationError => 400,
            Self::Unauthorized => 401,
            Self::Forbidden | Self::SubscriptionInactive | Self::LimitExceeded => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::Conflict => 409,
            Self::PreconditionFailed => 412,
            Self::PayloadTooLarge => 413,
            Self::UriTooLong => 414,
            Self::UnsupportedMediaType => 415,
            Self::HeadersTooLarge => 431,
            Self::RateLimited => 429,
            Self::InternalError => 500,
            Self::WhatsappUnavailable => 502,
            Self::ServiceUnavailable => 503,
        }
    }
}

/// Seconds after which a client should try again when something of ours is away.
const RETRY_AFTER_SECONDS: u32 = 2;

/// An error on its way to the client.
#[derive(Debug)]
pub(crate) struct ApiError {
    code: Code,
    message: String,
    errors: BTreeMap<String, String>,
    /// For the log alone.
    cause: Option<String>,
    /// For 405 alone.
    allow: String,
    /// For 429 alone.
    rate_limit: Option<Box<RateLimit>>,
}

/// A limit that was met.
#[derive(Debug, Clone, Copy)]
struct RateLimit {
    /// What is limited.
    what: &'static str,
    rate: Rate,
    /// Seconds until there is room again.
    wait: u64,
}

impl ApiError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            errors: BTreeMap::new(),
            cause: None,
            allow: String::new(),
            rate_limit: None,
        }
    }

    pub(crate) fn validation(errors: BTreeMap<String, String>) -> Self {
        Self { errors, ..Self::new(Code::ValidationError, "Validation failed") }
    }

    pub(crate) fn field(name: &str, problem: impl Into<String>) -> Self {
        Self::validation(BTreeMap::from([(name.to_owned(), problem.into())]))
    }

    pub(crate) fn webhook_not_found() -> Self {
        Self::new(Code::NotFound, "Webhook not found")
    }

    pub(crate) fn missing_scope(scope: Scope) -> Self {
        Self::new(Code::Forbidden, format!("The access token or API key lacks the scope {scope}"))
    }

    pub(crate) fn method_not_allowed(allow: &str) -> Self {
        let message = format!("This path supports {allow}");
        Self { allow: allow.to_owned(), ..Self::new(Code::MethodNotAllowed, message) }
    }

    /// There is room again after `wait`.
    pub(crate) fn rate_limited(
        message: impl Into<String>,
        what: &'static str,
        rate: Rate,
        wait: Duration,
    ) -> Self {
        let wait = wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX).max(1);
        let rate_limit = Some(Box::new(RateLimit { what, rate, wait }));
        Self { rate_limit, ..Self::new(Code::RateLimited, message) }
    }

    pub(crate) fn timed_out() -> Self {
        let cause = Some("the request took too long".to_owned());
        Self { cause, ..Self::new(Code::ServiceUnavailable, "The service is busy; try again shortly") }
    }

    /// One error for several items of a request, none of which was accepted: of the first that can be tried again, else of the
    /// first. Its fields are those of all items, by the name of the list and the place in it.
    pub(crate) fn of_all(list: &str, items: Vec<Self>) -> Self {
        let is_ours = |error: &Self| error.code == Code::ServiceUnavailable;
        let worst = items.iter().find(|error| is_ours(error)).or(items.first());
        let (code, message, cause) = worst.map_or_else(
            || (Code::ValidationError, String::new(), None),
            |error| (error.code, error.message.clone(), error.cause.clone()),
        );
        let mut errors = BTreeMap::new();
        for (index, item) in items.into_iter().enumerate() {
            if item.errors.is_empty() {
                errors.insert(format!("{list}[{index}]"), item.message);
                continue;
            }
            for (field, problem) in item.errors {
                let name = if field == "body" {
                    format!("{list}[{index}]")
                } else {
                    format!("{list}[{index}].{field}")
                };
                errors.insert(name, problem);
            }
        }
        Self { errors, cause, ..Self::new(code, message) }
    }

    /// The status it comes with.
    pub(crate) fn status(&self) -> u16 {
        self.code.status()
    }

    /// As the body of an answer has it.
    pub(crate) fn envelope(&self) -> Envelope<'_> {
        let (message, code, errors) = (self.message.as_str(), self.code, &self.errors);
        Envelope { success: false, message, code, errors }
    }

    /// The cause of a failure of ours, to be logged.
    pub(crate) fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }
}

impl RateLimit {
    /// As the IETF's draft on rate limit headers has them: the quota of a window in seconds, what remains of it, and when
    /// there is more.
    fn headers(&self) -> [(HeaderName, String); 3] {
        let Self { what, rate, wait } = self;
        let quota = rate.calls_per_minute();
        [
            (RETRY_AFTER, wait.to_string()),
            (HeaderName::from_static("ratelimit-policy"), format!("\"{what}\";q={quota};w=60")),
            (HeaderName::from_static("ratelimit"), format!("\"{what}\";r=0;t={wait}")),
        ]
    }
}

/// How an error is written.
#[derive(Serialize)]
pub(crate) struct Envelope<'a> {
    success: bool,
    message: &'a str,
    code: Code,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    errors: &'a BTreeMap<String, String>,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        match self.code {
            Code::Unauthorized => {
                response.insert_header((WWW_AUTHENTICATE, "Bearer"));
            }
            Code::ServiceUnavailable => {
                response.insert_header((RETRY_AFTER, RETRY_AFTER_SECONDS));
            }
            Code::RateLimited => {
                for (name, value) in self.rate_limit.iter().flat_map(|limit| limit.headers()) {
                    response.insert_header((name, value));
                }
            }
            Code::MethodNotAllowed => {
                response.insert_header((ALLOW, self.allow.as_str()));
            }
            Code::ValidationError
            | Code::Forbidden
            | Code::SubscriptionInactive
            | Code::LimitExceeded
            | Code::NotFound
            | Code::Conflict
            | Code::InternalError
            | Code::WhatsappUnavailable
            | Code::RequestTimeout
            | Code::PreconditionFailed
            | Code::PayloadTooLarge
            | Code::UriTooLong
            | Code::UnsupportedMediaType
            | Code::HeadersTooLarge => {}
        }
        response.json(self.envelope())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let api = match error {
            StoreError::Unavailable(_) | StoreError::Contended(_) => {
                Self::new(Code::ServiceUnavailable, "The service is busy; try again shortly")
            }
            StoreError::Sealed(_) => {
                let message =
                    "What is secret of the webhook cannot be read at the moment; it can be set anew";
                Self::new(Code::ServiceUnavailable, message)
            }
            StoreError::Failed(_)
            | StoreError::Refused(_)
            | StoreError::Unreadable { .. }
            | StoreError::NoKey => Self::new(Code::InternalError, "Internal error"),
        };
        Self { cause: Some(error.to_string()), ..api }
    }
}

impl From<CreateError> for ApiError {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::Duplicate => {
                Self::new(Code::Conflict, "A webhook with this URL and these events exists already")
            }
            CreateError::LimitReached { max } => {
                Self::new(Code::LimitExceeded, format!("Your plan allows {max} webhooks"))
            }
            CreateError::Invalid { field, problem } => Self::field(field, problem.to_string()),
            CreateError::Stale => {
                let message = "The webhook has changed meanwhile; read it again, and change what it is now";
                Self::new(Code::PreconditionFailed, message)
            }
            CreateError::TooManySecrets => {
                let most = domain::MAX_LIVE_SECRETS;
                let message = format!(
                    "{most} secrets sign for the webhook already; wait until one ends, or set overlapSeconds to 0"
                );
                Self::new(Code::Conflict, message)
            }
            CreateError::UnknownTenant => Self::new(Code::Forbidden, "The tenant is not known"),
            CreateError::Store(error) => error.into(),
        }
    }
}

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> Self {
        let message = "The event was not confirmed; publish it again with the same id";
        Self { cause: Some(error.to_string()), ..Self::new(Code::ServiceUnavailable, message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_of_the_contract_with_their_statuses() {
        let name = |code: &Code| serde_json::to_value(code).unwrap().as_str().unwrap().to_owned();
        let table: Vec<(u16, String)> = Code::ALL.iter().take(10).map(|c| (c.status(), name(c))).collect();
        let contract = [
            (400, "VALIDATION_ERROR"),
            (401, "UNAUTHORIZED"),
            (403, "FORBIDDEN"),
            (403, "SUBSCRIPTION_INACTIVE"),
            (403, "LIMIT_EXCEEDED"),
            (404, "NOT_FOUND"),
            (409, "CONFLICT"),
            (429, "RATE_LIMITED"),
            (500, "INTERNAL_ERROR"),
            (502, "WHATSAPP_UNAVAILABLE"),
        ];
        assert_eq!(table, contract.map(|(status, code)| (status, code.to_owned())));
    }
}
