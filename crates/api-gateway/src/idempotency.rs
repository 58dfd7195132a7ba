//! `Idempotency-Key`: a request that is repeated under its key has the same events, and none of another body has the key.
//!
//! The ids of the events come from tenant, key and body. So a repeat is dropped where events are taken over, exactly, whatever
//! becomes of the database. That the key was used with another body is known from a row that only such requests write; where
//! the database does not answer in time, the request is accepted without having asked.

use std::time::Duration;

use actix_web::HttpRequest;
use chrono::Utc;
use domain::{EventId, IDEMPOTENCY_KEYS_KEPT, TenantId};
use ring::digest::{Context, Digest, SHA256};
use tokio::time::timeout;
use tracing::warn;

use crate::error::{ApiError, Code};
use crate::state::State;

const HEADER: &str = "idempotency-key";
/// Longest key, in bytes.
const MAX_KEY_BYTES: usize = 255;
/// How long a request waits for the database.
const PATIENCE: Duration = Duration::from_millis(500);
/// Bytes of a digest that make an event's id.
const ID_BYTES: usize = 16;

/// Makes the ids of the events of one request.
pub(crate) struct EventIds(Option<Digest>);

impl EventIds {
    /// Those of a request with this body, which are the same each time where it has a key. Fails when its key was used with
    /// another body.
    pub(crate) async fn of(
        request: &HttpRequest,
        state: &State,
        tenant: TenantId,
        body: &[u8],
    ) -> Result<Self, ApiError> {
        let Some(key) = key(request)? else { return Ok(Self(None)) };
        let digest = digest([request.path().as_bytes(), body]);
        let now = Utc::now();
        let used =
            state.store.use_idempotency_key(tenant, key, digest.as_ref(), now, now - IDEMPOTENCY_KEYS_KEPT);
        // Boxed: requests without a key are not to be as large.
        match Box::pin(timeout(PATIENCE, used)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => {
                let message = "This Idempotency-Key was used with another request";
                return Err(ApiError::new(Code::Conflict, message));
            }
            Ok(Err(error)) => warn!(%error, "whether an idempotency key was used otherwise is not known"),
            Err(_) => warn!("whether an idempotency key was used otherwise is not known in time"),
        }
        Ok(Self(Some(digest_of(tenant, key, &digest))))
    }

    /// The id of the event at a place in the request.
    pub(crate) fn at(&self, place: usize) -> EventId {
        let Some(request) = &self.0 else { return EventId::generate() };
        let digest = digest([request.as_ref(), &place.to_be_bytes()]);
        let hex: String = digest.as_ref()[..ID_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("evt_{hex}").parse().unwrap_or_else(|_| EventId::generate())
    }
}

fn key(request: &HttpRequest) -> Result<Option<&str>, ApiError> {
    let problem = |problem: &str| ApiError::field("Idempotency-Key", problem);
    let mut headers = request.headers().get_all(HEADER);
    let Some(header) = headers.next() else { return Ok(None) };
    if headers.next().is_some() {
        return Err(problem("send one Idempotency-Key only"));
    }
    let key =
        header.to_str().ok().filter(|key| key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '));
    let key = key.ok_or_else(|| problem("Idempotency-Key must be visible ASCII"))?.trim();
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(problem(&format!("Idempotency-Key must be 1 to {MAX_KEY_BYTES} characters")));
    }
    Ok(Some(key))
}

fn digest_of(tenant: TenantId, key: &str, body: &Digest) -> Digest {
    digest([tenant.0.as_bytes(), body.as_ref(), key.as_bytes()])
}

/// Of parts that cannot run into each other.
fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Digest {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    context.finish()
}
