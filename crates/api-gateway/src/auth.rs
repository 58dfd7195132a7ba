//! Who is calling: a verified bearer token.

use std::future::{Future, Ready, ready};
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::http::header::AUTHORIZATION;
use actix_web::{FromRequest, HttpRequest, web};
use domain::{Scope, TenantId};
use service::access_token::Caller;

use crate::error::{ApiError, Code};
use crate::state::State;

/// A caller whose token was verified, and whose request its tenant's plan lets through. What it may do is still to be
/// asked: [`Authenticated::may`].
pub(crate) struct Authenticated(Caller);

impl Authenticated {
    /// Gives the tenant when the caller has the scope.
    pub(crate) fn may(&self, scope: Scope) -> Result<TenantId, ApiError> {
        if self.0.scopes.contains(scope) { Ok(self.0.tenant_id) } else { Err(ApiError::missing_scope(scope)) }
    }
}

impl FromRequest for Authenticated {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let caller = authenticate(request);
        let is_change = !request.method().is_safe();
        Box::pin(async move {
            let (caller, state) = caller?;
            // Who manages the installation must not be locked out of it.
            if !caller.scopes.contains(Scope::Admin) {
                state.tenants.admit_request(caller.tenant_id, is_change).await?;
            }
            Ok(Self(caller))
        })
    }
}

/// A caller whose token was verified and who publishes: the handler counts the events, and not the request.
pub(crate) struct Publisher(Caller);

impl Publisher {
    /// Gives the tenant when the caller has the scope.
    pub(crate) fn may_publish(&self) -> Result<TenantId, ApiError> {
        let scope = Scope::EventsPublish;
        if self.0.scopes.contains(scope) { Ok(self.0.tenant_id) } else { Err(ApiError::missing_scope(scope)) }
    }
}

impl FromRequest for Publisher {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(authenticate(request).map(|(caller, _)| Self(caller)))
    }
}

fn authenticate(request: &HttpRequest) -> Result<(Caller, web::Data<State>), ApiError> {
    let state =
        request.app_data::<web::Data<State>>().ok_or_else(|| unauthorized("The server is not set up"))?;
    let caller = verify(request, state).map_err(unauthorized)?;
    Ok((caller, state.clone()))
}

fn unauthorized(message: impl Into<String>) -> ApiError {
    ApiError::new(Code::Unauthorized, message)
}

fn verify(request: &HttpRequest, state: &State) -> Result<Caller, String> {
    let mut headers = request.headers().get_all(AUTHORIZATION);
    let header = headers.next().ok_or("Send an access token: Authorization: Bearer {accessToken}")?;
    if headers.next().is_some() {
        return Err("Send one Authorization header only".to_owned());
    }
    let header = header.to_str().map_err(|_| "The Authorization header is not ASCII")?;
    let (scheme, token) = header.split_once(' ').unwrap_or((header, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err("The Authorization header must be: Bearer {accessToken}".to_owned());
    }
    state.verifier.verify(token.trim()).map_err(|error| capitalised(&error.to_string()))
}

fn capitalised(sentence: &str) -> String {
    let mut characters = sentence.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
