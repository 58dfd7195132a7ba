//! `HEAD` and `OPTIONS`, which every path answers, whatever else it does.

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::ALLOW;
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{HttpResponse, ResponseError as _};

use crate::error::ApiError;

/// Where the resources are. All that is served beside them, health and documentation, is read only.
const API: &str = "/api/";

/// Answers `HEAD` as `GET`, whose body is left out on the way, and `OPTIONS` with the methods that there are.
pub(crate) async fn answer_head_and_options(
    mut request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<EitherBody<impl MessageBody>>, actix_web::Error> {
    let is_options = request.method() == Method::OPTIONS;
    if is_options && request.path() == "*" {
        // Asks about the server as a whole.
        return Ok(request.into_response(HttpResponse::NoContent()).map_into_right_body());
    }
    if request.method() == Method::HEAD {
        request.head_mut().method = Method::GET;
    }
    let is_read = request.method() == Method::GET;
    if !is_read && !request.path().starts_with(API) && request.match_pattern().is_some() {
        return Ok(request.into_response(answer(is_options, "GET, HEAD")).map_into_right_body());
    }
    let response = next.call(request).await?;
    let allowed = response.headers().get(ALLOW).and_then(|allow| allow.to_str().ok()).map(str::to_owned);
    match allowed {
        Some(allowed) if response.status() == StatusCode::METHOD_NOT_ALLOWED => {
            Ok(response.into_response(answer(is_options, &allowed)).map_into_right_body())
        }
        Some(_) | None => Ok(response.map_into_left_body()),
    }
}

fn answer(is_options: bool, allowed: &str) -> HttpResponse {
    let allowed = format!("{allowed}, OPTIONS");
    if is_options {
        HttpResponse::NoContent().insert_header((ALLOW, allowed)).finish()
    } else {
        ApiError::method_not_allowed(&allowed).error_response()
    }
}
