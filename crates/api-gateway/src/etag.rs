//! Entity tags: what a client has seen of a webhook, for caching and for changes that must not overwrite another's.
//!
//! A tag is `"{revision}-{digest}"`. The digest is of the whole representation, and tells whether there is anything new to
//! read. Changes are bound to the revision alone: that a receiver began to fail meanwhile is no reason to refuse one.

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{ETAG, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use actix_web::{FromRequest, HttpRequest, HttpResponse};
use domain::{Expected, Revision, Webhook};
use ring::digest::{SHA256, digest};
use serde::Serialize;

use crate::error::ApiError;
use crate::http::compression::uncompressed_tag;

/// Most tags in one header.
const MAX_TAGS: usize = 32;
/// Bytes of the digest in a tag.
const DIGEST_BYTES: usize = 8;

/// The tag of what is shown of a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntityTag(String);

impl EntityTag {
    pub(crate) fn new(webhook: &Webhook, shown: &impl Serialize) -> Self {
        let shown = serde_json::to_vec(shown).unwrap_or_default();
        let digest = digest(&SHA256, &shown);
        let hex: String = digest.as_ref()[..DIGEST_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
        Self(format!("\"{}-{hex}\"", webhook.revision()))
    }

    /// Adds it to an answer.
    pub(crate) fn put(self, mut response: HttpResponse) -> HttpResponse {
        if let Ok(value) = HeaderValue::from_str(&self.0) {
            response.headers_mut().insert(ETAG, value);
        }
        response
    }
}

/// `If-Match`: which state a webhook must be in to be changed.
pub(crate) struct IfMatch(pub(crate) Expected);

/// `If-None-Match`: what the client has already.
pub(crate) struct IfNoneMatch(Tags);

enum Tags {
    Absent,
    Any,
    Listed(Vec<String>),
}

impl IfNoneMatch {
    /// 304 where the client has what would be shown.
    pub(crate) fn not_modified(&self, tag: &EntityTag) -> Option<HttpResponse> {
        let had = match &self.0 {
            Tags::Absent => None,
            Tags::Any => Some(tag.clone()),
            Tags::Listed(tags) => {
                let mut strong = tags.iter().map(|had| had.strip_prefix("W/").unwrap_or(had));
                // The client may have it compressed, under the tag of that.
                strong.find(|had| uncompressed_tag(had) == tag.0).map(|had| EntityTag(had.to_owned()))
            }
        };
        had.map(|had| had.put(HttpResponse::build(StatusCode::NOT_MODIFIED).finish()))
    }
}

impl FromRequest for IfMatch {
    type Error = ApiError;
    type Future = std::future::Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let expected = |tags| match tags {
            Tags::Absent | Tags::Any => Expected::Any,
            // A weak tag matches nothing here: its part before the hyphen is no revision.
            Tags::Listed(tags) => Expected::OneOf(tags.iter().map(|tag| revision(tag)).collect()),
        };
        std::future::ready(read(request, &IF_MATCH).map(|tags| Self(expected(tags))))
    }
}

impl FromRequest for IfNoneMatch {
    type Error = ApiError;
    type Future = std::future::Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        std::future::ready(read(request, &IF_NONE_MATCH).map(Self))
    }
}

fn revision(tag: &str) -> Revision {
    Revision::from_text(tag.trim_start_matches('"').split('-').next().unwrap_or_default())
}

fn read(request: &HttpRequest, name: &HeaderName) -> Result<Tags, ApiError> {
    let malformed = || {
        let field = if *name == IF_MATCH { "If-Match" } else { "If-None-Match" };
        let form =
            format!("{field} must be * or at most {MAX_TAGS} entity tags in quotes, separated by commas");
        ApiError::field(field, form)
    };
    let mut tags = Vec::new();
    let mut is_any = false;
    for value in request.headers().get_all(name) {
        for tag in value.to_str().map_err(|_| malformed())?.split(',').map(str::trim) {
            let opaque = tag.strip_prefix("W/").unwrap_or(tag);
            match opaque.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
                Some(inner) if !inner.contains('"') => tags.push(tag.to_owned()),
                None if tag == "*" => is_any = true,
                Some(_) | None => return Err(malformed()),
            }
        }
    }
    match (is_any, tags.len()) {
        (true, 0) => Ok(Tags::Any),
        (false, 0) => Ok(Tags::Absent),
        (false, 1..=MAX_TAGS) => Ok(Tags::Listed(tags)),
        (true | false, _) => Err(malformed()),
    }
}
