//! How large the head of a request may be. What is larger than the HTTP library takes, it refuses by itself.

use actix_web::dev::ServiceRequest;

use crate::error::{ApiError, Code};

/// Longest path and query, in bytes.
const MAX_TARGET_BYTES: usize = 8 * 1024;
/// Names and values of all headers together, in bytes: room for the longest token, and as much again for proxies.
const MAX_HEADER_BYTES: usize = 32 * 1024;

pub(crate) fn check(request: &ServiceRequest) -> Result<(), ApiError> {
    let target = request.uri().path().len() + request.query_string().len();
    if target > MAX_TARGET_BYTES {
        let message = format!("Path and query must be at most {} KiB", MAX_TARGET_BYTES / 1024);
        return Err(ApiError::new(Code::UriTooLong, message));
    }
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    if headers.sum::<usize>() > MAX_HEADER_BYTES {
        let message = format!("The headers must be at most {} KiB together", MAX_HEADER_BYTES / 1024);
        return Err(ApiError::new(Code::HeadersTooLarge, message));
    }
    Ok(())
}
