//! gzip for answers that are worth it.

use std::io::Write as _;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceResponse;
use actix_web::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, VARY,
};
use actix_web::web::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

/// Smallest body that is compressed, in bytes: below, it fits a packet anyway.
const MIN_BYTES: u64 = 1024;
/// What an entity tag of a compressed answer ends with: the bytes are others.
const TAG_SUFFIX: &str = "-gzip\"";

/// Compresses the answer if it is worth it, for a client that takes gzip.
pub(crate) fn end(mut response: ServiceResponse, takes_gzip: bool) -> ServiceResponse {
    let is_worth_it = matches!(response.response().body().size(), BodySize::Sized(MIN_BYTES..))
        && may_be_compressed(response.headers());
    if !is_worth_it {
        return response;
    }
    response.headers_mut().append(VARY, HeaderValue::from_static("accept-encoding"));
    if !takes_gzip {
        return response;
    }
    let mut is_compressed = false;
    let mut response = response.map_body(|_, body| match body.try_into_bytes() {
        Ok(plain) => {
            let compressed = gzip(&plain);
            is_compressed = compressed.is_some();
            BoxBody::new(compressed.unwrap_or(plain))
        }
        Err(stream) => stream,
    });
    if is_compressed {
        let headers = response.headers_mut();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let tag = headers.get(ETAG).and_then(|tag| tag.to_str().ok()?.strip_suffix('"'));
        if let Some(tag) = tag.and_then(|tag| HeaderValue::from_str(&format!("{tag}{TAG_SUFFIX}")).ok()) {
            headers.insert(ETAG, tag);
        }
    }
    response
}

/// The tag of the same answer when it is not compressed.
pub(crate) fn uncompressed_tag(tag: &str) -> String {
    tag.strip_suffix(TAG_SUFFIX).map_or_else(|| tag.to_owned(), |rest| format!("{rest}\""))
}

fn gzip(plain: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 3), Compression::fast());
    encoder.write_all(plain).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

/// Text that is not compressed yet. What is not to be stored is secret, and its length must tell nothing of it.
fn may_be_compressed(headers: &HeaderMap) -> bool {
    let is_text = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).is_some_and(|kind| {
        kind.starts_with("text/")
            || kind.contains("json")
            || kind.contains("javascript")
            || kind.contains("svg")
    });
    is_text
        && !headers.contains_key(CONTENT_ENCODING)
        && headers.get(CACHE_CONTROL).is_none_or(|control| control.as_bytes() != b"no-store")
}

/// Whether gzip is among what the client takes, and not worth less to it than the answer as it is.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for value in headers.get_all(ACCEPT_ENCODING).filter_map(|value| value.to_str().ok()) {
        for choice in value.split(',') {
            let mut parts = choice.split(';').map(str::trim);
            let coding = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), parse_quality);
            match coding.as_str() {
                "gzip" | "x-gzip" => gzip = quality,
                "identity" => identity = quality,
                "*" => any = quality,
                _ => {}
            }
        }
    }
    let gzip = gzip.or(any).unwrap_or(0.0);
    gzip > 0.0 && gzip >= identity.unwrap_or(0.0)
}

/// What is malformed counts for nothing.
fn parse_quality(text: &str) -> Option<f32> {
    text.parse().ok().filter(|quality| (0.0..=1.0).contains(quality))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_to_who_takes_it() {
        for (header, is_accepted) in [
            ("gzip", true),
            ("GZIP;q=0.5, br", true),
            ("br, *;q=0.1", true),
            ("deflate, gzip;q=1.0, identity; q=0.5", true),
            ("", false),
            ("br", false),
            ("gzip;q=0", false),
            ("*;q=1, gzip;q=0", false),
            ("identity, gzip;q=0.5", false),
            ("gzip;q=high", false),
            ("gzip;q=7", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(header));
            assert_eq!(accepts_gzip(&headers), is_accepted, "{header}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn a_tag_is_known_again_without_its_suffix() {
        assert_eq!(uncompressed_tag("\"1-ab-gzip\""), "\"1-ab\"");
        assert_eq!(uncompressed_tag("\"1-ab\""), "\"1-ab\"");
    }
}
