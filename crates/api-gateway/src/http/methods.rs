//! `HEAD` and `OPTIONS`, which every path answers, whatever else it does.

use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::ALLOW;
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpResponse, ResponseError as _};

use crate::error::ApiError;

/// Where the resources are. All that is served beside them, health and documentation, is read only.
const API: &str = "/api/";

/// Makes `GET` of `HEAD`, whose body is left out on the way, and answers what no handler need be asked for.
pub(crate) fn begin(request: &mut ServiceRequest) -> Option<HttpResponse> {
    let is_options = request.method() == Method::OPTIONS;
    if is_options && request.path() == "*" {
        // Asks about the server as a whole.
        return Some(HttpResponse::NoContent().finish());
    }
    if request.method() == Method::HEAD {
        request.head_mut().method = Method::GET;
    }
    let is_read = request.method() == Method::GET;
    let is_elsewhere = !is_read && !request.path().starts_with(API) && request.match_pattern().is_some();
    is_elsewhere.then(|| answer(is_options, "GET, HEAD"))
}

/// `OPTIONS` comes to the handlers as a method that none has, and each of them says which it has.
pub(crate) fn end(response: ServiceResponse) -> ServiceResponse {
    if response.status() != StatusCode::METHOD_NOT_ALLOWED {
        return response;
    }
    let Some(allowed) = response.headers().get(ALLOW).and_then(|allow| allow.to_str().ok()) else {
        return response;
    };
    let answer = answer(response.request().method() == Method::OPTIONS, allowed);
    response.into_response(answer)
}

fn answer(is_options: bool, allowed: &str) -> HttpResponse {
    let allowed = format!("{allowed}, OPTIONS");
    if is_options {
        HttpResponse::NoContent().insert_header((ALLOW, allowed)).finish()
    } else {
        ApiError::method_not_allowed(&allowed).error_response()
    }
}
