//! Request bodies and queries: strict, bounded, and with an error for each field.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use actix_web::{FromRequest, HttpRequest, web};
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, StreamExt as _, TryFutureExt as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use tokio::time::timeout;

use crate::config::ClientLimits;
use crate::error::{ApiError, Code};
use crate::hints;

/// Largest request body, in bytes: the largest `data` and room for the rest of an event.
pub(crate) const MAX_BODY_BYTES: usize = domain::MAX_DATA_BYTES + 16 * 1024;

/// A JSON body of the given shape.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned + 'static> FromRequest for JsonBody<T> {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = read(request, payload, MAX_BODY_BYTES);
        Box::pin(body.map(|body| parse(&body?).map(Self)))
    }
}

/// Like [`JsonBody`], for a request that may come without one.
pub(crate) struct OptionalJsonBody<T>(pub(crate) Option<T>);

impl<T: DeserializeOwned + 'static> FromRequest for OptionalJsonBody<T> {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = read(request, payload, MAX_BODY_BYTES);
        Box::pin(body.map(|body| {
            let body = body?;
            if body.is_empty() { Ok(Self(None)) } else { parse(&body).map(|parsed| Self(Some(parsed))) }
        }))
    }
}

/// A body as it came, of at most so many bytes, for a handler that reads it with [`parse`].
pub(crate) struct RawBody<const MAX_BYTES: usize>(pub(crate) web::Bytes);

impl<const MAX_BYTES: usize> FromRequest for RawBody<MAX_BYTES> {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        Box::pin(read(request, payload, MAX_BYTES).map_ok(Self))
    }
}

fn read(
    request: &HttpRequest,
    payload: &mut Payload,
    max_bytes: usize,
) -> impl Future<Output = Result<Bytes, ApiError>> + use<> {
    let headers = check_content_type(request).and_then(|()| check_length(request, max_bytes));
    let payload = web::Payload::from_request(request, payload).into_inner();
    let deadline =
        request.app_data::<web::Data<ClientLimits>>().map_or_else(ClientLimits::default, |limits| ***limits);
    let deadline = deadline.body_timeout;
    async move {
        headers?;
        let payload = payload.map_err(|_| unreadable())?;
        timeout(deadline, collect(payload, max_bytes)).await.map_err(|_| too_slow(deadline))?
    }
}

/// The whole body. One that arrives in one piece, as most do, is not copied.
async fn collect(mut payload: web::Payload, max_bytes: usize) -> Result<Bytes, ApiError> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| unreadable())?;
        if first.len().max(all.len()) + chunk.len() > max_bytes {
            return Err(too_large(max_bytes));
        }
        if first.is_empty() {
            first = chunk;
            continue;
        }
        if all.is_empty() {
            all.extend_from_slice(&first);
        }
        all.extend_from_slice(&chunk);
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

fn too_large(max_bytes: usize) -> ApiError {
    let kib = max_bytes / 1024;
    ApiError::new(Code::PayloadTooLarge, format!("The request body must be at most {kib} KiB"))
}

fn too_slow(deadline: Duration) -> ApiError {
    let seconds = deadline.as_secs();
    ApiError::new(Code::RequestTimeout, format!("The request body must arrive within {seconds} s"))
}

/// A length that is announced need not be waited for.
fn check_length(request: &HttpRequest, max_bytes: usize) -> Result<(), ApiError> {
    let announced =
        request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > max_bytes as u64) { Err(too_large(max_bytes)) } else { Ok(()) }
}

fn unreadable() -> ApiError {
    ApiError::field("body", "the request body could not be read")
}

fn check_content_type(request: &HttpRequest) -> Result<(), ApiError> {
    let Some(value) = request.headers().get(CONTENT_TYPE) else { return Ok(()) };
    let media_type = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let message = "Send the request body as JSON, with Content-Type: application/json";
    Err(ApiError::new(Code::UnsupportedMediaType, message))
}

/// Reads a JSON object of the given shape.
pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    // serde would read an array as the fields in their order.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(ApiError::field("body", "the request body must be a JSON object, not an array"));
    }
    // To follow the path costs something for each field, so it is done only where there is something to say of it.
    serde_json::from_slice(body).or_else(|_| parse_explaining(body))
}

fn parse_explaining<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let said = error.into_inner().to_string();
        if let Some((name, hint)) = hints::of_serde(&said, "field") {
            return ApiError::field(&named(&path, &name), hint);
        }
        let field = if path == "." || path == "?" { "body".to_owned() } else { path };
        ApiError::field(&field, said)
    })?;
    json.end().map_err(|error| ApiError::field("body", error.to_string()))?;
    Ok(value)
}

/// The path of a field that is not known: within what it was found in.
fn named(path: &str, name: &str) -> String {
    match path.rsplit_once('.') {
        Some((parent, _)) if !parent.is_empty() => format!("{parent}.{name}"),
        Some(_) | None => name.to_owned(),
    }
}

/// Tells a field that is null from one that is absent: with `#[serde(default, deserialize_with = "present")]`, absent is
/// `None` and null is `Some`.
pub(crate) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A query string of the given shape.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest for Query<T> {
    type Error = ApiError;
    type Future = std::future::Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let query = web::Query::<T>::from_query(request.query_string());
        std::future::ready(
            query
                .map(|query| Self(query.into_inner()))
                .map_err(|error| ApiError::field("query", error.to_string())),
        )
    }
}

/// Gathers what is wrong with the fields of one request.
#[derive(Default)]
pub(crate) struct FieldErrors(BTreeMap<String, String>);

impl FieldErrors {
    /// Keeps the value, or the problem.
    pub(crate) fn keep<T>(&mut self, field: &str, parsed: Result<T, impl fmt::Display>) -> Option<T> {
        parsed.map_err(|problem| self.add(field, problem)).ok()
    }

    /// Like [`FieldErrors::keep`] for a field that must be there.
    pub(crate) fn require<V, T, E: fmt::Display>(
        &mut self,
        field: &str,
        value: Option<V>,
        parse: impl FnOnce(V) -> Result<T, E>,
    ) -> Option<T> {
        match value {
            Some(value) => self.keep(field, parse(value)),
            None => {
                self.add(field, format!("{field} is required"));
                None
            }
        }
    }

    pub(crate) fn add(&mut self, field: &str, problem: impl fmt::Display) {
        self.0.entry(field.to_owned()).or_insert_with(|| problem.to_string());
    }

    /// The error that names all the fields at fault.
    pub(crate) fn into_error(self) -> ApiError {
        ApiError::validation(self.0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
