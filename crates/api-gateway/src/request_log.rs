//! A request id for every request, its place in the metrics, and one log line for each that failed because of us.

use actix_web::HttpMessage as _;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderName, HeaderValue};
use tokio::time::Instant;
use tracing::{Level, debug, enabled, error};
use uuid::Uuid;

use crate::error::ApiError;
use crate::http::client::Proxies;
use crate::metrics::Metrics;
use crate::request_origin::Arrived;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id taken over from a client, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// A request that is being answered.
pub(crate) struct Logged {
    began: Instant,
    request_id: HeaderValue,
}

impl Logged {
    pub(crate) fn begin(request: &ServiceRequest, proxies: &Proxies) -> Self {
        let logged = Self { began: Instant::now(), request_id: request_id(request) };
        let address = request.peer_addr().map(|peer| proxies.client(peer.ip(), request.headers()));
        let request_id = logged.request_id.clone();
        request.extensions_mut().insert(Arrived { request_id, address });
        logged
    }

    /// It was given up, with this error.
    pub(crate) fn give_up(self, error: &ApiError, metrics: &Metrics) {
        metrics.answered(error.status(), self.began.elapsed());
    }

    pub(crate) fn end(self, response: &mut ServiceResponse, metrics: &Metrics) {
        let (status, duration) = (response.status().as_u16(), self.began.elapsed());
        metrics.answered(status, duration);
        let is_failure = status >= 500;
        if is_failure || enabled!(Level::DEBUG) {
            let request_id = self.request_id.to_str().unwrap_or_default();
            let method = response.request().method();
            let path = response.request().match_pattern().unwrap_or_default();
            let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            if is_failure {
                let failure = response.response().error();
                let cause = failure.and_then(|failure| failure.as_error::<ApiError>()?.cause());
                let cause = cause.unwrap_or("no cause is known");
                error!(request_id, %method, path, status, duration_ms, cause, "a request failed");
            } else {
                debug!(request_id, %method, path, status, duration_ms, "request");
            }
        }
        response.headers_mut().insert(REQUEST_ID, self.request_id);
    }
}

/// The client's own, if it is printable and short, so that both sides can find the request; else a new one.
fn request_id(request: &ServiceRequest) -> HeaderValue {
    let given = request.headers().get(&REQUEST_ID).filter(|id| {
        !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES && id.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    given.cloned().unwrap_or_else(|| {
        let mut text = Uuid::encode_buffer();
        let text = Uuid::now_v7().hyphenated().encode_lower(&mut text);
        HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown"))
    })
}
