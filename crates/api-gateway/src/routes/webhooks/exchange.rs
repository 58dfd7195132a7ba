//! What was said on both sides of an attempt, as the API shows it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::{CapturedResponse, Headers};
use serde::Serialize;
use utoipa::ToSchema;

/// The request of an attempt.
#[derive(Serialize, ToSchema)]
pub(crate) struct RequestView {
    #[schema(example = "POST")]
    method: &'static str,
    #[schema(example = "https://api.yourapp.com/webhooks/actiwapi")]
    url: String,
    headers: Vec<HeaderView>,
    /// The exact text that is signed.
    body: String,
}

/// The answer of a receiver, within limits.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ResponseView {
    #[schema(example = 200)]
    status_code: u16,
    /// At most 64, of 8 KiB in all.
    headers: Vec<HeaderView>,
    /// Whether there were more.
    headers_truncated: bool,
    /// At most 16 KiB of a test, 4 KiB in the history.
    body: String,
    body_encoding: BodyEncoding,
    /// Whether there was more, or the answer broke off.
    body_truncated: bool,
}

/// A header of a request or an answer.
#[derive(Serialize, ToSchema)]
pub(crate) struct HeaderView {
    #[schema(example = "content-type")]
    name: String,
    #[schema(example = "application/json")]
    value: String,
}

/// How bytes are shown as text.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum BodyEncoding {
    /// As they are.
    Utf8,
    /// They are not UTF-8.
    Base64,
}

impl RequestView {
    pub(crate) fn new(url: &str, headers: Headers, body: &[u8]) -> Self {
        let body = String::from_utf8_lossy(body).into_owned();
        Self { method: "POST", url: url.to_owned(), headers: views(headers), body }
    }
}

impl ResponseView {
    pub(crate) fn new(response: CapturedResponse) -> Self {
        let (body, body_encoding) = body_text(&response.body, response.body_cut);
        Self {
            status_code: response.status,
            headers: views(response.headers),
            headers_truncated: response.headers_cut,
            body,
            body_encoding,
            body_truncated: response.body_cut,
        }
    }
}

pub(crate) fn views(headers: Headers) -> Vec<HeaderView> {
    headers.into_iter().map(|(name, value)| HeaderView { name, value }).collect()
}

/// A character that was cut in two at the end is left out.
fn body_text(body: &[u8], is_cut: bool) -> (String, BodyEncoding) {
    match std::str::from_utf8(body) {
        Ok(text) => (text.to_owned(), BodyEncoding::Utf8),
        Err(error) if is_cut && error.error_len().is_none() => {
            (String::from_utf8_lossy(&body[..error.valid_up_to()]).into_owned(), BodyEncoding::Utf8)
        }
        Err(_) => (STANDARD.encode(body), BodyEncoding::Base64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_text_where_it_can_be() {
        let text = |body: &[u8], is_cut| {
            let (text, encoding) = body_text(body, is_cut);
            (text, matches!(encoding, BodyEncoding::Utf8))
        };
        assert_eq!(text("né".as_bytes(), false), ("né".to_owned(), true));
        assert_eq!(text(&"né".as_bytes()[..2], true), ("n".to_owned(), true));
        assert_eq!(text(&"né".as_bytes()[..2], false), ("bsM=".to_owned(), false));
        assert_eq!(text(&[0xff, 0x00], true), ("/wA=".to_owned(), false));
    }
}
