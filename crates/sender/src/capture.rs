//! What was said on both sides of an attempt, within limits, for those who want to see it afterwards.

use bytes::Bytes;
use domain::{CapturedResponse, Exchange, Headers, REDACTED};
use http::Request;
use http::header::{HeaderMap, HeaderValue};
use http_body_util::Full;

/// Most headers of an answer that are kept.
pub const MAX_KEPT_HEADERS: usize = 64;
/// Most bytes of an answer's headers that are kept: names and values.
pub const MAX_KEPT_HEADER_BYTES: usize = 8 * 1024;
/// Most bytes of an answer's body that are kept for who waits to see it; of one that nobody waits for it is
/// [`Exchange::MAX_BODY_BYTES`].
pub const MAX_KEPT_BODY_BYTES: usize = 16 * 1024;

/// Which attempts are shown afterwards. An attempt that is not costs nothing for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    /// Those that fail.
    Failures,
    /// Every one, and more of it.
    All,
}

impl Capture {
    /// Most bytes of an answer's body that are kept.
    fn max_body_bytes(self) -> usize {
        match self {
            Self::Failures => Exchange::MAX_BODY_BYTES,
            Self::All => MAX_KEPT_BODY_BYTES,
        }
    }
}

/// An answer while it arrives. What arrives is held, not copied, so that it costs next to nothing where nobody will ask.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    first_chunk: Bytes,
    /// What followed the first chunk, within the limit.
    more: Vec<u8>,
    bytes: usize,
    max_bytes: usize,
    is_complete: bool,
}

impl Heard {
    pub(crate) fn of_head(status: u16, headers: HeaderMap, capture: Capture) -> Self {
        let (first_chunk, max_bytes) = (Bytes::new(), capture.max_body_bytes());
        Self { status, headers, first_chunk, more: Vec::new(), bytes: 0, max_bytes, is_complete: false }
    }

    /// Takes more of the body in, and says how long it is by now.
    pub(crate) fn push(&mut self, chunk: Bytes) -> usize {
        let room = self.max_bytes.saturating_sub(self.bytes);
        if self.bytes == 0 {
            self.first_chunk = chunk.slice(..chunk.len().min(room));
        } else {
            self.more.extend_from_slice(&chunk[..chunk.len().min(room)]);
        }
        self.bytes += chunk.len();
        self.bytes
    }

    /// The whole body has arrived.
    pub(crate) fn complete(&mut self) {
        self.is_complete = true;
    }

    pub(crate) fn capture(self) -> CapturedResponse {
        let (headers, headers_cut) = first_headers(&self.headers);
        // A copy: the chunk may be a small part of a large buffer.
        let body: Bytes = [&self.first_chunk[..], &self.more].concat().into();
        CapturedResponse {
            status: self.status,
            headers,
            headers_cut,
            body_cut: !self.is_complete || body.len() < self.bytes,
            body,
        }
    }
}

/// Those that fit, and whether there were more.
fn first_headers(all: &HeaderMap) -> (Headers, bool) {
    let mut kept = Headers::new();
    let mut bytes = 0;
    for (name, value) in all {
        bytes += name.as_str().len() + value.len();
        if kept.len() == MAX_KEPT_HEADERS || bytes > MAX_KEPT_HEADER_BYTES {
            return (kept, true);
        }
        kept.push((name.as_str().to_owned(), text(value)));
    }
    (kept, false)
}

/// The headers of a request.
pub(crate) fn headers_as_sent(request: &Request<Full<Bytes>>) -> Headers {
    request.headers().iter().map(|(name, value)| (name.to_string(), shown(value))).collect()
}

/// What the webhook's owner added can be a credential, which nobody is to find in the history.
fn shown(value: &HeaderValue) -> String {
    if value.is_sensitive() { REDACTED.to_owned() } else { text(value) }
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_beginning_of_a_body_is_kept_however_it_arrives(
            sizes in proptest::collection::vec(1_usize..6_000, 0..12),
        ) {
            let body: Vec<u8> = (0_u8..=255).cycle().take(sizes.iter().sum()).collect();
            let mut heard = Heard::of_head(200, HeaderMap::new(), Capture::All);
            let mut rest = Bytes::from(body.clone());
            for size in sizes {
                heard.push(rest.split_to(size));
            }
            heard.complete();
            let captured = heard.capture();
            prop_assert_eq!(&captured.body[..], &body[..body.len().min(MAX_KEPT_BODY_BYTES)]);
            prop_assert_eq!(captured.body_cut, body.len() > MAX_KEPT_BODY_BYTES);
        }

        #[test]
        fn headers_are_kept_within_their_limits(count in 0_usize..200, length in 0_usize..500) {
            let mut headers = HeaderMap::new();
            for _ in 0..count {
                headers.append("x-filler", HeaderValue::from_str(&"v".repeat(length)).unwrap());
            }
            let (kept, cut) = first_headers(&headers);
            let bytes: usize = kept.iter().map(|(name, value)| name.len() + value.len()).sum();
            prop_assert!(kept.len() <= MAX_KEPT_HEADERS && bytes <= MAX_KEPT_HEADER_BYTES);
            prop_assert_eq!(cut, kept.len() < count);
        }
    }
}
