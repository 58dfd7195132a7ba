//! A request id for every request, its place in the metrics, and one log line for each that failed because of us.

use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{HttpMessage as _, ResponseError as _, web};
use tokio::time::{Instant, timeout};
use tracing::{debug, error};
use uuid::Uuid;

use crate::error::ApiError;
use crate::http::client::Proxies;
use crate::metrics::Metrics;
use crate::request_origin::{ClientAddress, RequestId};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How long a request may take in all. Nothing takes nearly as long, unless a server of ours answers no more without
/// breaking its connections.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest request id taken over from a client, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;

pub(crate) async fn log_request(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let began = Instant::now();
    let request_id = request_id(&request);
    let id = request_id.to_str().unwrap_or_default().to_owned();
    request.extensions_mut().insert(RequestId(id.clone()));
    if let (Some(proxies), Some(peer)) = (request.app_data::<web::Data<Proxies>>(), request.peer_addr()) {
        let address = ClientAddress(proxies.client(peer.ip(), request.headers()));
        request.extensions_mut().insert(address);
    }
    let metrics = request.app_data::<web::Data<Metrics>>().cloned();
    let mut response = match timeout(REQUEST_TIMEOUT, next.call(request)).await {
        Ok(response) => response?,
        Err(_) => {
            let error = ApiError::timed_out();
            if let Some(metrics) = metrics {
                metrics.answered(error.status_code().as_u16(), began.elapsed());
            }
            return Err(error.into());
        }
    };
    let path = response.request().match_pattern().unwrap_or_default();
    let method = response.request().method();
    let status = response.status().as_u16();
    let duration = began.elapsed();
    if let Some(metrics) = metrics {
        metrics.answered(status, duration);
    }
    let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if status >= 500 {
        let failure = response.response().error();
        let cause = failure.and_then(|failure| failure.as_error::<ApiError>()).and_then(ApiError::cause);
        let cause = cause.unwrap_or("no cause is known");
        error!(request_id = id, %method, path, status, duration_ms, cause, "a request failed");
    } else {
        debug!(request_id = id, %method, path, status, duration_ms, "request");
    }
    response.headers_mut().insert(REQUEST_ID, request_id);
    Ok(response)
}

/// The client's own, if it is printable and short, so that both sides can find the request; else a new one.
fn request_id(request: &ServiceRequest) -> HeaderValue {
    let given = request.headers().get(&REQUEST_ID).filter(|id| {
        !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES && id.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    given.cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&Uuid::now_v7().to_string()).unwrap_or(HeaderValue::from_static("unknown"))
    })
}
