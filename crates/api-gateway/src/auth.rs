//! Who is calling: a verified bearer token, or an API key.

use std::future::Future;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::http::header::{AUTHORIZATION, HeaderName};
use actix_web::{FromRequest, HttpRequest, web};
use domain::{Scope, TenantId};
use service::access_token::Caller;
use store::{Origin, Store};

use crate::api_keys::KeyRefusal;
use crate::error::{ApiError, Code};
use crate::request_origin::origin;
use crate::state::State;

/// The header with an API key.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A caller who was verified, and whose request its tenant's plan lets through. What it may do is still to be asked:
/// [`Authenticated::may`].
pub(crate) struct Authenticated {
    caller: Caller,
    origin: Origin,
}

impl Authenticated {
    /// Gives the tenant when the caller has the scope.
    pub(crate) fn may(&self, scope: Scope) -> Result<TenantId, ApiError> {
        may(&self.caller, scope)
    }

    /// Who it is.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The store, for changes: they are written to the audit log as this caller's.
    pub(crate) fn store(&self, state: &State) -> Store {
        state.store.on_behalf_of(self.origin.clone())
    }
}

impl FromRequest for Authenticated {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let (caller, state) = authenticate(&request).await?;
            // Who manages the installation must not be locked out of it.
            if !caller.scopes.contains(Scope::Admin) {
                let is_change = !request.method().is_safe();
                state.tenants.admit_request(caller.tenant_id, is_change).await?;
            }
            let origin = origin(&request, &caller);
            Ok(Self { caller, origin })
        })
    }
}

/// A caller who was verified and who publishes: the handler counts the events, and not the request.
pub(crate) struct Publisher(Caller);

impl Publisher {
    /// Gives the tenant when the caller has the scope.
    pub(crate) fn may_publish(&self) -> Result<TenantId, ApiError> {
        may(&self.0, Scope::EventsPublish)
    }
}

impl FromRequest for Publisher {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { authenticate(&request).await.map(|(caller, _)| Self(caller)) })
    }
}

fn may(caller: &Caller, scope: Scope) -> Result<TenantId, ApiError> {
    if caller.scopes.contains(scope) { Ok(caller.tenant_id) } else { Err(ApiError::missing_scope(scope)) }
}

async fn authenticate(request: &HttpRequest) -> Result<(Caller, web::Data<State>), ApiError> {
    let state =
        request.app_data::<web::Data<State>>().ok_or_else(|| unauthorized("The server is not set up"))?;
    let caller = match credential(request).map_err(unauthorized)? {
        Credential::Token(token) => state.token_keys.verify(token).await?,
        // Boxed: it asks the database, which would make every request as large as a question to it.
        Credential::ApiKey(key) => Box::pin(verify_key(state, key)).await?,
    };
    Ok((caller, state.clone()))
}

async fn verify_key(state: &State, key: &str) -> Result<Caller, ApiError> {
    let verified = state.api_keys.verify(key).await;
    if let Err(KeyRefusal::TooFast { wait, .. }) = &verified {
        state.tenants.hold_back(*wait).await;
    }
    Ok(verified?)
}

enum Credential<'a> {
    Token(&'a str),
    ApiKey(&'a str),
}

/// The one credential of a request. Two could be of different tenants, so neither is believed.
fn credential(request: &HttpRequest) -> Result<Credential<'_>, &'static str> {
    match (header(request, &AUTHORIZATION)?, header(request, &API_KEY)?) {
        (None, None) => Err(
            "Send an access token, Authorization: Bearer {accessToken}, or an API key, X-API-Key: {apiKey}",
        ),
        (Some(_), Some(_)) => {
            Err("Send either an access token (Authorization) or an API key (X-API-Key), not both")
        }
        (None, Some(key)) => Ok(Credential::ApiKey(key.trim())),
        (Some(header), None) => {
            let (scheme, token) = header.split_once(' ').unwrap_or((header, ""));
            if !scheme.eq_ignore_ascii_case("bearer") {
                return Err(
                    "The Authorization header must be: Bearer {accessToken}. An API key is sent as X-API-Key",
                );
            }
            Ok(Credential::Token(token.trim()))
        }
    }
}

fn header<'a>(request: &'a HttpRequest, name: &HeaderName) -> Result<Option<&'a str>, &'static str> {
    let mut headers = request.headers().get_all(name);
    let Some(header) = headers.next() else { return Ok(None) };
    if headers.next().is_some() {
        return Err("Send one Authorization or X-API-Key header only");
    }
    header.to_str().map(Some).map_err(|_| "The Authorization or X-API-Key header is not ASCII")
}

fn unauthorized(message: impl Into<String>) -> ApiError {
    ApiError::new(Code::Unauthorized, message)
}

impl From<KeyRefusal> for ApiError {
    fn from(refusal: KeyRefusal) -> Self {
        match refusal {
            KeyRefusal::Invalid(message) => unauthorized(message),
            KeyRefusal::Unknown(error) => error.into(),
            KeyRefusal::TooFast { rate, wait } => {
                let message = format!("This API key may make {} requests a minute", rate.calls_per_minute());
                Self::rate_limited(message, "key", rate, wait)
            }
        }
    }
}
