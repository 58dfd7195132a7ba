//! Where a request comes from, and what it is called: for the log, for limits and for the audit log.

use std::net::IpAddr;

use actix_web::http::header::{HeaderName, HeaderValue, USER_AGENT};
use actix_web::{HttpMessage as _, HttpRequest};
use chrono::Utc;
use service::access_token::Caller;
use store::{Actor, Origin};

/// Longest part of a `User-Agent` that is kept, in characters.
const MAX_USER_AGENT: usize = 256;
/// Carries an API key.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// What the subject of a caller with an API key begins with.
const API_KEY_SUBJECT: &str = "api-key:";

/// What is known of a request before anything is decided. One of its extensions.
#[derive(Debug)]
pub(crate) struct Arrived {
    /// Finds the request in the logs of both sides.
    pub(crate) request_id: HeaderValue,
    /// The client's address, behind proxies that are trusted.
    pub(crate) address: Option<IpAddr>,
}

/// Whose request this is, for the audit log.
pub(crate) fn origin(request: &HttpRequest, caller: &Caller) -> Origin {
    let extensions = request.extensions();
    let arrived = extensions.get::<Arrived>();
    let request_id = arrived.and_then(|arrived| arrived.request_id.to_str().ok()).unwrap_or_default();
    let user_agent = request.headers().get(USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()));
    // Not by the subject alone, which a token can have as it likes.
    let actor = match caller.subject.strip_prefix(API_KEY_SUBJECT) {
        Some(id) if request.headers().contains_key(&API_KEY) => Actor::ApiKey(id.to_owned()),
        Some(_) | None => Actor::Token(caller.subject.clone()),
    };
    Origin {
        tenant: caller.tenant_id,
        actor,
        address: arrived.and_then(|arrived| arrived.address),
        user_agent: user_agent.map(|agent| agent.chars().take(MAX_USER_AGENT).collect()),
        request_id: request_id.to_owned(),
        at: Utc::now(),
    }
}
