//! The envelope of every success: `{"success": true, "data": …}`.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

/// `{"success": true, "data": …}`
#[derive(Serialize, ToSchema)]
pub(crate) struct Success<T> {
    /// Always true.
    success: bool,
    data: T,
}

/// Like [`Success`], with a cursor to what follows.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Page<T> {
    /// Always true.
    success: bool,
    data: Vec<T>,
    /// Give it as `cursor` to get what follows; null at the end.
    next_cursor: Option<String>,
}

/// The envelope of every error.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `ApiError` writes, for the OpenAPI document")]
pub(crate) struct Failure {
    /// Always false.
    success: bool,
    /// What went wrong, for people.
    #[schema(example = "Validation failed")]
    message: String,
    /// What went wrong, for programs.
    code: crate::Code,
    /// What is wrong with each field, where fields are at fault.
    #[schema(example = json!({"url": "url must use https"}))]
    errors: Option<std::collections::BTreeMap<String, String>>,
}

pub(crate) fn success<T: Serialize>(status: StatusCode, data: T) -> HttpResponse {
    HttpResponse::build(status).json(Success { success: true, data })
}

pub(crate) fn page<T: Serialize>(data: Vec<T>, next_cursor: Option<String>) -> HttpResponse {
    HttpResponse::Ok().json(Page { success: true, data, next_cursor })
}
