//! Who is calling: a verified bearer token.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::header::AUTHORIZATION;
use actix_web::{FromRequest, HttpRequest, web};
use domain::{Scope, TenantId};
use service::access_token::Caller;

use crate::error::{ApiError, Code};
use crate::state::State;

/// A caller whose token was verified. What it may do is still to be asked: [`Authenticated::may`].
pub(crate) struct Authenticated(Caller);

impl Authenticated {
    /// Gives the tenant when the caller has the scope.
    pub(crate) fn may(&self, scope: Scope) -> Result<TenantId, ApiError> {
        if self.0.scopes.contains(scope) { Ok(self.0.tenant_id) } else { Err(ApiError::missing_scope(scope)) }
    }
}

impl FromRequest for Authenticated {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(authenticate(request).map_err(|message| ApiError::new(Code::Unauthorized, message)))
    }
}

fn authenticate(request: &HttpRequest) -> Result<Authenticated, String> {
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
    let state = request.app_data::<web::Data<State>>().ok_or("The server is not set up")?;
    let caller = state.verifier.verify(token.trim()).map_err(|error| capitalised(&error.to_string()))?;
    Ok(Authenticated(caller))
}

fn capitalised(sentence: &str) -> String {
    let mut characters = sentence.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
